
/*
 * The limits of one holder as a decision that only looks, and what is said of
 * them to SQL.
 *
 * An account is named with all its limits, as every caller of Redis names it.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/json.h"
#include "http/live.h"


static ngx_int_t ngx_http_apikey_live_account(ngx_http_apikey_live_t *live,
    ngx_http_apikey_live_holder_t *h, ngx_http_apikey_key_t *key,
    const apikey_limit_t *first, ngx_http_apikey_bucket_t **next);
static ngx_int_t ngx_http_apikey_live_limit(ngx_http_apikey_live_t *live,
    ngx_http_apikey_account_t *account, ngx_http_apikey_bucket_t *b);
static void ngx_http_apikey_live_counts(apikey_json_t *j,
    ngx_http_apikey_bucket_t *b);


ngx_int_t
ngx_http_apikey_live_build(ngx_http_apikey_live_t *live,
    ngx_http_apikey_live_holder_t *h)
{
    ngx_int_t                     rc;
    ngx_uint_t                    i, k;
    const apikey_limit_t         *limit;
    ngx_http_apikey_key_t         key;
    ngx_http_apikey_bucket_t     *next;
    ngx_http_apikey_decision_t   *d;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = live->amcf;
    d = &live->decision;

    ngx_memzero(d, sizeof(ngx_http_apikey_decision_t));
    ngx_memzero(&key, sizeof(ngx_http_apikey_key_t));

    rc = ngx_http_apikey_keyring_limits(amcf->sh->keyring, amcf->shpool,
                                        h->holder, h->level, live->pool,
                                        &key);
    if (rc != NGX_OK) {
        return rc;
    }

    d->look = 1;
    d->pool = live->pool;
    d->decided_at = live->now;
    d->accounts = ngx_pcalloc(live->pool,
                              key.nkey_limits
                              * (sizeof(ngx_http_apikey_account_t)
                                 + sizeof(ngx_http_apikey_bucket_t)));
    if (d->accounts == NULL) {
        return NGX_ERROR;
    }

    next = (ngx_http_apikey_bucket_t *) &d->accounts[key.nkey_limits];
    limit = key.key_limits;

    for (i = 0; i < key.nkey_limits; i++, limit = apikey_limit_next(limit)) {

        for (k = 0; k < d->naccounts; k++) {
            if (d->accounts[k].unit == limit->unit
                && d->accounts[k].scope == limit->scope)
            {
                break;
            }
        }

        if (k == d->naccounts
            && ngx_http_apikey_live_account(live, h, &key, limit, &next)
               != NGX_OK)
        {
            return NGX_DECLINED;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_live_account(ngx_http_apikey_live_t *live,
    ngx_http_apikey_live_holder_t *h, ngx_http_apikey_key_t *key,
    const apikey_limit_t *first, ngx_http_apikey_bucket_t **next)
{
    ngx_uint_t                    i;
    const apikey_limit_t         *limit;
    ngx_http_apikey_bucket_t     *b;
    ngx_http_apikey_account_t    *account;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = live->amcf;
    account = &live->decision.accounts[live->decision.naccounts++];

    ngx_memcpy(account->root, h->root, 16);
    ngx_memcpy(account->holder, h->holder, 16);

    account->level = h->level;
    account->unit = first->unit;
    account->scope = first->scope;
    account->buckets = *next;

    limit = key->key_limits;

    for (i = 0; i < key->nkey_limits; i++, limit = apikey_limit_next(limit)) {

        if (limit->unit != first->unit || limit->scope != first->scope) {
            continue;
        }

        b = (*next)++;
        b->limit = limit;
        account->nbuckets++;

        if (limit->period != APIKEY_PERIOD_NONE
            && ngx_http_apikey_keyring_period(amcf->sh->keyring, amcf->shpool,
                                              key->calendar, limit->period,
                                              live->now, &b->period)
               != NGX_OK)
        {
            return NGX_DECLINED;
        }
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_apikey_live_tell(ngx_http_apikey_live_t *live)
{
    ngx_uint_t                  i, k;
    ngx_http_apikey_bucket_t   *b;
    ngx_http_apikey_account_t  *account;

    for (i = 0; i < live->decision.naccounts; i++) {
        account = &live->decision.accounts[i];

        for (k = 0; k < account->nbuckets; k++) {
            b = &account->buckets[k];

            if (b->limit->kind != APIKEY_KIND_CREDITS
                && ngx_http_apikey_live_limit(live, account, b) != NGX_OK)
            {
                return NGX_ERROR;
            }
        }
    }

    return NGX_OK;
}


/* Of what is unknown here Postgres may know the use, if it is a quota. */

static ngx_int_t
ngx_http_apikey_live_limit(ngx_http_apikey_live_t *live,
    ngx_http_apikey_account_t *account, ngx_http_apikey_bucket_t *b)
{
    char           buf[2048];
    apikey_json_t  j;

    if (b->unknown && !apikey_limit_quota(b->limit)) {
        return NGX_OK;
    }

    apikey_json_init(&j, buf, sizeof(buf));
    apikey_json_object(&j);
    apikey_json_name(&j, "holder");
    apikey_json_uuid(&j, account->holder);
    apikey_json_name(&j, "level");
    apikey_json_text(&j, apikey_level_name(account->level));
    apikey_json_name(&j, "name");
    apikey_json_string(&j, apikey_limit_name(b->limit), b->limit->name_len);

    if (!b->unknown) {
        ngx_http_apikey_live_counts(&j, b);
    }

    if (b->period.end) {
        apikey_json_name(&j, "since");
        apikey_json_uint(&j, b->period.start);
        apikey_json_name(&j, "end");
        apikey_json_uint(&j, b->period.end);
    }

    apikey_json_object_end(&j);

    if (j.overflow
        || ngx_http_apikey_live_add(live, live->n++ ? "," : "[", 1) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_apikey_live_add(live, buf, apikey_json_len(&j));
}


/* A token that has come back in part is not left; what is owed is used. */

static void
ngx_http_apikey_live_counts(apikey_json_t *j, ngx_http_apikey_bucket_t *b)
{
    uint64_t  used;

    used = b->limit->burst - ngx_min(b->remaining, b->limit->burst);

    apikey_json_name(j, "used");
    apikey_json_uint(j, ngx_max(used, b->used));
    apikey_json_name(j, "remaining");
    apikey_json_uint(j, b->remaining);
    apikey_json_name(j, "reset");

    if (b->reset == UINT64_MAX) {
        apikey_json_null(j);

    } else {
        apikey_json_uint(j, ngx_http_apikey_seconds(b->reset));
    }
}


/* By levels that are not refilled to now: more than is used, if anything. */

ngx_uint_t
ngx_http_apikey_live_over(ngx_http_apikey_live_t *live,
    const ngx_http_apikey_scanned_t *scanned, ngx_pool_t *pool)
{
    ngx_uint_t                    i, k;
    const apikey_limit_t         *limit;
    ngx_http_apikey_key_t         key;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = live->amcf;

    ngx_memzero(&key, sizeof(ngx_http_apikey_key_t));

    if (ngx_http_apikey_keyring_limits(amcf->sh->keyring, amcf->shpool,
                                       scanned->holder, scanned->level, pool,
                                       &key)
        != NGX_OK)
    {
        return 0;
    }

    limit = key.key_limits;

    for (i = 0; i < key.nkey_limits; i++, limit = apikey_limit_next(limit)) {

        for (k = 0; k < scanned->nlevels; k++) {

            /* with what the tokens of its own form are, which an edit may
               have changed since: a token is a token */

            if (limit->unit == scanned->unit && limit->scope == scanned->scope
                && limit->id == scanned->levels[k].id
                && (scanned->levels[k].used + 1) * 100
                   >= (double) limit->rate.capacity / limit->rate.token
                      * live->percent)
            {
                return 1;
            }
        }
    }

    return 0;
}


ngx_int_t
ngx_http_apikey_live_add(ngx_http_apikey_live_t *live, const char *text,
    size_t len)
{
    u_char  *p;

    p = ngx_array_push_n(live->text, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(p, text, len);

    return NGX_OK;
}
