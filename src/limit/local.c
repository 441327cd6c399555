
/*
 * A decision from the table alone.
 *
 * A share of one in n nodes needs no bucket of its own: where each token
 * costs n, the same level, rate and burst are worth a n-th.  So the last
 * level seen counts at once, and n may change at any time.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "limit/local.h"


static uint64_t ngx_http_apikey_local_tokens(uint64_t cost, ngx_uint_t nodes);
static void ngx_http_apikey_local_undo(ngx_http_apikey_table_t *table,
    ngx_http_apikey_decision_t *d, ngx_uint_t nodes, ngx_uint_t taken,
    int64_t now);
static void ngx_http_apikey_local_out(ngx_http_apikey_bucket_t *out,
    apikey_bucket_t *b, uint64_t tokens, ngx_uint_t nodes, int64_t now);


ngx_int_t
ngx_http_apikey_local_take(ngx_http_apikey_table_t *table,
    ngx_http_apikey_decision_t *d, ngx_uint_t nodes, int64_t now)
{
    uint64_t                    tokens;
    ngx_int_t                   rc;
    ngx_uint_t                  i, k, taken;
    apikey_bucket_t            *b;
    ngx_http_apikey_bucket_t   *out;
    ngx_http_apikey_account_t  *account;

    ngx_http_apikey_table_begin(table);

    rc = NGX_OK;
    taken = 0;

    for (i = 0; i < d->naccounts; i++) {
        account = &d->accounts[i];
        tokens = ngx_http_apikey_local_tokens(account->cost, nodes);

        for (k = 0; k < account->nbuckets; k++) {
            out = &account->buckets[k];

            b = ngx_http_apikey_table_get(table, account, out->limit, now);

            if (b == NULL) {
                ngx_http_apikey_local_undo(table, d, nodes, taken, now);
                return NGX_ERROR;
            }

            taken++;
            out->refused = 0;

            if (!apikey_bucket_take(b, &out->limit->rate, tokens)) {
                out->refused = 1;
                rc = NGX_DECLINED;
            }

            ngx_http_apikey_local_out(out, b, tokens, nodes, now);
        }
    }

    if (rc == NGX_DECLINED) {
        ngx_http_apikey_local_undo(table, d, nodes, taken, now);
    }

    return rc;
}


/* The first buckets, as many as taken, but those that refused. */

static void
ngx_http_apikey_local_undo(ngx_http_apikey_table_t *table,
    ngx_http_apikey_decision_t *d, ngx_uint_t nodes, ngx_uint_t taken,
    int64_t now)
{
    uint64_t                    tokens;
    ngx_uint_t                  i, k;
    apikey_bucket_t            *b;
    ngx_http_apikey_bucket_t   *out;
    ngx_http_apikey_account_t  *account;

    for (i = 0; i < d->naccounts; i++) {
        account = &d->accounts[i];
        tokens = ngx_http_apikey_local_tokens(account->cost, nodes);

        for (k = 0; k < account->nbuckets; k++) {

            if (taken-- == 0) {
                return;
            }

            out = &account->buckets[k];

            if (out->refused) {
                continue;
            }

            b = ngx_http_apikey_table_get(table, account, out->limit, now);

            if (b == NULL) {
                continue;
            }

            b->used -= tokens * out->limit->rate.token;

            ngx_http_apikey_local_out(out, b, tokens, nodes, now);
        }
    }
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
ngx_http_apikey_local_out(ngx_http_apikey_bucket_t *out, apikey_bucket_t *b,
    uint64_t tokens, ngx_uint_t nodes, int64_t now)
{
    const apikey_rate_t  *rate;

    rate = &out->limit->rate;

    out->remaining = apikey_bucket_remaining(b, rate) / nodes;
    out->reset = apikey_bucket_reset(b, rate, now);
    out->wait = apikey_bucket_wait(b, rate, tokens, now);
}
