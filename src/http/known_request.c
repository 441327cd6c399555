
/*
 * What Postgres is asked of the quotas of a decision whose use is nowhere in
 * memory: the argument of limits_known().
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/json.h"
#include "http/http.h"
#include "http/limits.h"


static uint64_t ngx_http_apikey_known_until(
    const ngx_http_apikey_decision_t *d);
static size_t ngx_http_apikey_known_size(const ngx_http_apikey_decision_t *d);
static void ngx_http_apikey_known_head(apikey_json_t *j,
    ngx_http_apikey_main_conf_t *amcf, const ngx_http_apikey_decision_t *d);
static void ngx_http_apikey_known_limit(apikey_json_t *j,
    ngx_http_apikey_account_t *account, ngx_http_apikey_bucket_t *b);


ngx_uint_t
ngx_http_apikey_known_alone(const ngx_http_apikey_decision_t *d)
{
    return d->mode == APIKEY_MODE_LOCAL || d->mode == APIKEY_MODE_DOWN_LOCAL;
}


uint64_t
ngx_http_apikey_known_after(const ngx_http_apikey_decision_t *d, int64_t us)
{
    uint64_t  after, now;

    if (ngx_http_apikey_known_alone(d)) {
        return 0;
    }

    now = d->decided_at + us;
    after = d->after <= now ? d->after : 0;

    return d->least <= now ? ngx_max(after, d->least) : after;
}


/*
 * A loss that this node knows of: what is asked for when that is over takes
 * other nodes a while.
 */

static uint64_t
ngx_http_apikey_known_until(const ngx_http_apikey_decision_t *d)
{
    return ngx_http_apikey_known_alone(d) ? 0 : d->least;
}


const char *
ngx_http_apikey_known_request(ngx_http_apikey_known_t *known)
{
    size_t                       size;
    ngx_uint_t                   i, k;
    apikey_json_t                j;
    ngx_http_apikey_ctx_t       *ctx;
    ngx_http_apikey_bucket_t    *b;
    ngx_http_apikey_account_t   *account;
    ngx_http_apikey_decision_t  *d;

    ctx = known->ctx;
    d = &ctx->decision;
    size = ngx_http_apikey_known_size(d);

    if (known->text == NULL) {
        known->text = ngx_pnalloc(ctx->pool, size);
        if (known->text == NULL) {
            return NULL;
        }
    }

    apikey_json_init(&j, known->text, size - 1);
    ngx_http_apikey_known_head(&j, known->amcf, d);

    for (i = 0; i < d->naccounts; i++) {
        account = &d->accounts[i];

        for (k = 0; k < account->nbuckets; k++) {
            b = &account->buckets[k];

            if (b->unknown) {
                ngx_http_apikey_known_limit(&j, account, b);
            }
        }
    }

    apikey_json_array_end(&j);
    apikey_json_object_end(&j);

    if (j.overflow) {
        return NULL;
    }

    known->text[apikey_json_len(&j)] = '\0';

    return known->text;
}


static size_t
ngx_http_apikey_known_size(const ngx_http_apikey_decision_t *d)
{
    size_t                      size;
    ngx_uint_t                  i, k;
    ngx_http_apikey_account_t  *account;

    size = 320;

    for (i = 0; i < d->naccounts; i++) {
        account = &d->accounts[i];

        for (k = 0; k < account->nbuckets; k++) {
            size += 256 + 6 * (account->buckets[k].limit->service_len
                               + account->buckets[k].limit->model_len);
        }
    }

    return size;
}


static void
ngx_http_apikey_known_head(apikey_json_t *j,
    ngx_http_apikey_main_conf_t *amcf, const ngx_http_apikey_decision_t *d)
{
    apikey_json_object(j);
    apikey_json_name(j, "node");
    apikey_json_uuid(j, amcf->usage.node);
    apikey_json_name(j, "born");
    apikey_json_uint(j, ngx_http_apikey_limiter_born(amcf->limiter,
                                                     d->mode));
    apikey_json_name(j, "after");
    apikey_json_uint(j, ngx_http_apikey_known_after(d, 0));
    apikey_json_name(j, "until");
    apikey_json_uint(j, ngx_http_apikey_known_until(d));
    apikey_json_name(j, "limits");
    apikey_json_array(j);
}


/* It has counted since its period began, or since it was made. */

static void
ngx_http_apikey_known_limit(apikey_json_t *j,
    ngx_http_apikey_account_t *account, ngx_http_apikey_bucket_t *b)
{
    uint64_t               since;
    const apikey_limit_t  *limit;

    limit = b->limit;
    since = limit->made;

    if (limit->kind == APIKEY_KIND_CALENDAR) {
        since = ngx_max(since, b->period.start);
    }

    apikey_json_object(j);
    apikey_json_name(j, "holder");
    apikey_json_uuid(j, account->holder);
    apikey_json_name(j, "level");
    apikey_json_text(j, apikey_level_name(account->level));
    apikey_json_name(j, "kind");
    apikey_json_text(j, limit->kind == APIKEY_KIND_CREDITS ? "credits" : "");
    apikey_json_name(j, "unit");
    apikey_json_text(j, apikey_unit_name(limit->unit));
    apikey_json_name(j, "service");
    apikey_json_string(j, apikey_limit_service(limit), limit->service_len);
    apikey_json_name(j, "model");
    apikey_json_string(j, apikey_limit_model(limit), limit->model_len);
    apikey_json_name(j, "since");
    apikey_json_uint(j, since);
    apikey_json_name(j, "strict");
    apikey_json_bool(j, limit->mode == APIKEY_STRICT);
    apikey_json_object_end(j);
}
