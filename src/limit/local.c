
/*
 * A decision from the table alone.
 *
 * A share of one in n nodes needs no bucket of its own: where each token
 * costs n, the same level, rate and burst are worth a n-th.  So the last
 * level seen counts at once, and n may change at any time.
 *
 * All gauges are looked at first, then all are paid: nothing is to be undone.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "limit/local.h"


static ngx_int_t ngx_http_apikey_local_open(ngx_http_apikey_table_t *table,
    ngx_http_apikey_decision_t *d, ngx_uint_t alone, int64_t now);
static ngx_uint_t ngx_http_apikey_local_nothing(
    const ngx_http_apikey_account_t *account);
static ngx_int_t ngx_http_apikey_local_check(
    ngx_http_apikey_account_t *account, ngx_uint_t nodes);
static uint64_t ngx_http_apikey_local_rest(ngx_http_apikey_account_t *account,
    ngx_uint_t nodes);
static uint64_t ngx_http_apikey_local_tokens(uint64_t cost, ngx_uint_t nodes);
static void ngx_http_apikey_local_pay(ngx_http_apikey_account_t *account,
    ngx_uint_t nodes);
static void ngx_http_apikey_local_out(ngx_http_apikey_decision_t *d,
    ngx_http_apikey_account_t *account, ngx_uint_t nodes, int64_t now);


ngx_int_t
ngx_http_apikey_local_take(ngx_http_apikey_table_t *table,
    ngx_http_apikey_decision_t *d, ngx_uint_t nodes, int64_t now)
{
    ngx_int_t   rc;
    ngx_uint_t  i, n;

    rc = ngx_http_apikey_local_open(table, d, nodes == 0, now);

    if (rc != NGX_OK) {
        return rc;
    }

    n = ngx_max(nodes, 1);

    for (i = 0; i < d->naccounts; i++) {
        if (ngx_http_apikey_local_check(&d->accounts[i], n) != NGX_OK) {
            rc = NGX_DECLINED;
        }
    }

    for (i = 0; i < d->naccounts; i++) {
        if (rc == NGX_OK) {
            ngx_http_apikey_local_pay(&d->accounts[i], n);
        }

        ngx_http_apikey_local_out(d, &d->accounts[i], n, now);
    }

    return rc;
}


/* It passes whatever is left, and nobody has to know. */

static ngx_uint_t
ngx_http_apikey_local_nothing(const ngx_http_apikey_account_t *account)
{
    return account->unit == APIKEY_UNIT_REQUESTS && account->cost == 0;
}


static ngx_int_t
ngx_http_apikey_local_open(ngx_http_apikey_table_t *table,
    ngx_http_apikey_decision_t *d, ngx_uint_t alone, int64_t now)
{
    ngx_int_t                   rc;
    ngx_uint_t                  i, k, ask, never;
    ngx_http_apikey_bucket_t   *b;
    ngx_http_apikey_account_t  *account;

    ngx_http_apikey_table_begin(table);

    /* who has waited for Redis waits for nobody else */

    ask = !d->anyway && (alone || !d->waiting);

    rc = NGX_OK;
    d->unknown = 0;

    for (i = 0; i < d->naccounts; i++) {
        account = &d->accounts[i];

        for (k = 0; k < account->nbuckets; k++) {
            b = &account->buckets[k];
            never = b->limit->mode == APIKEY_OBSERVE
                    || ngx_http_apikey_local_nothing(account);

            b->refused = 0;
            b->unknown = 0;
            b->paid_in = 0;

            if (!alone && !never
                && (account->unit == APIKEY_UNIT_COST
                    || b->limit->kind == APIKEY_KIND_TOTAL
                    || b->limit->kind == APIKEY_KIND_CREDITS))
            {
                d->unknown = 0;
                return NGX_ERROR;
            }

            b->gauge = ngx_http_apikey_table_get(table, account, b, now);

            if (b->gauge == NULL) {
                d->unknown = 0;
                return NGX_ABORT;
            }

            if (b->gauge->bucket.used == APIKEY_GAUGE_UNKNOWN) {
                b->unknown = 1;

                if (never && (d->anyway || !alone)) {
                    continue;
                }

                d->unknown = ask;
                rc = NGX_ERROR;
            }
        }
    }

    return rc;
}


static ngx_int_t
ngx_http_apikey_local_check(ngx_http_apikey_account_t *account,
    ngx_uint_t nodes)
{
    uint64_t                   tokens;
    ngx_int_t                  rc;
    ngx_uint_t                 k, fits;
    ngx_http_apikey_bucket_t  *b;

    rc = NGX_OK;

    if (account->whole) {
        account->cost = ngx_http_apikey_local_rest(account, nodes);
    }

    tokens = ngx_http_apikey_local_tokens(account->cost, nodes);

    for (k = 0; k < account->nbuckets; k++) {
        b = &account->buckets[k];

        /* all that is left of nothing is no reserve */

        fits = apikey_gauge_fits(b->gauge, b->limit,
                                 account->whole && tokens == 0 ? nodes
                                                               : tokens);
        if (!fits) {
            b->refused = 1;
            rc = NGX_DECLINED;
        }
    }

    return rc;
}


/* What all its strict limits have left. */

static uint64_t
ngx_http_apikey_local_rest(ngx_http_apikey_account_t *account,
    ngx_uint_t nodes)
{
    uint64_t                   rest, left;
    ngx_uint_t                 k;
    ngx_http_apikey_bucket_t  *b;

    rest = APIKEY_BUCKET_NEVER;

    for (k = 0; k < account->nbuckets; k++) {
        b = &account->buckets[k];

        if (b->limit->mode != APIKEY_STRICT) {
            continue;
        }

        left = apikey_gauge_remaining(b->gauge, b->limit) / nodes;
        rest = ngx_min(rest, left);
    }

    return rest == APIKEY_BUCKET_NEVER ? 0 : rest;
}


static uint64_t
ngx_http_apikey_local_tokens(uint64_t cost, ngx_uint_t nodes)
{
    /* more than any bucket holds */

    if (cost > APIKEY_BUCKET_MAX / nodes) {
        return APIKEY_BUCKET_MAX + 1;
    }

    return cost * nodes;
}


static void
ngx_http_apikey_local_pay(ngx_http_apikey_account_t *account,
    ngx_uint_t nodes)
{
    uint64_t                   tokens;
    ngx_uint_t                 k;
    ngx_http_apikey_bucket_t  *b;

    tokens = ngx_http_apikey_local_tokens(account->cost, nodes);

    for (k = 0; k < account->nbuckets; k++) {
        b = &account->buckets[k];

        b->paid_in = apikey_gauge_period(b->gauge);

        /* limits of slots share their count, what observes may be unknown */

        if (b->unknown || (k && account->unit == APIKEY_UNIT_CONCURRENT)) {
            continue;
        }

        apikey_gauge_add(b->gauge, (int64_t) tokens);
    }
}


static void
ngx_http_apikey_local_out(ngx_http_apikey_decision_t *d,
    ngx_http_apikey_account_t *account, ngx_uint_t nodes, int64_t now)
{
    uint64_t                   tokens;
    ngx_uint_t                 k;
    ngx_http_apikey_bucket_t  *b;

    tokens = ngx_http_apikey_local_tokens(account->cost, nodes);

    if (account->whole && tokens == 0) {
        tokens = nodes;
    }

    for (k = 0; k < account->nbuckets; k++) {
        b = &account->buckets[k];

        b->used = b->gauge->bucket.used / b->limit->rate.token;
        b->remaining = apikey_gauge_remaining(b->gauge, b->limit) / nodes;
        b->reset = apikey_gauge_reset(b->gauge, b->limit, &b->period, now,
                                      d->decided_at);
        b->wait = apikey_gauge_wait(b->gauge, b->limit, &b->period, tokens,
                                    now, d->decided_at);
    }
}
