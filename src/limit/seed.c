
/*
 * What a node that goes on alone, without Redis or in local mode after it,
 * starts from: the levels that it has seen there, in the table of local mode.
 *
 * Runs under the zone's mutex, as claims.c does.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "limit/limiter.h"


static void ngx_http_apikey_seed_limit(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_account_t *account, ngx_http_apikey_bucket_t *bucket,
    int64_t at, const apikey_bucket_t *level, int64_t now);


void
ngx_http_apikey_seed(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, int64_t now)
{
    ngx_uint_t                      i, k;
    ngx_http_apikey_leases_t       *leases;
    ngx_http_apikey_account_t      *account;
    ngx_http_apikey_lease_entry_t  *entry;
    ngx_http_apikey_lease_limit_t  *limit;

    leases = l->conf.sh->leases;

    ngx_http_apikey_table_begin(l->conf.sh->table);

    /* an nginx that never had Redis */

    if (leases->fresh == 0) {
        return;
    }

    for (i = 0; i < d->naccounts; i++) {
        account = &d->accounts[i];
        entry = ngx_http_apikey_leases_find(leases, account);

        if (entry == NULL || entry->seen == 0) {
            continue;
        }

        limit = ngx_http_apikey_leases_limit(leases, entry->limits);

        for (k = 0; limit && k < account->nbuckets; k++) {

            if (limit->terms.id == account->buckets[k].limit->id) {
                ngx_http_apikey_seed_limit(l, account, &account->buckets[k],
                                            entry->seen, &limit->seen, now);
            }

            limit = ngx_http_apikey_leases_limit(leases, limit->next);
        }
    }
}


/* What was spent alone while Redis was down is not forgotten. */

static void
ngx_http_apikey_seed_limit(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_account_t *account, ngx_http_apikey_bucket_t *bucket,
    int64_t at, const apikey_bucket_t *level, int64_t now)
{
    int64_t           redis;
    apikey_gauge_t   *g;
    apikey_bucket_t   seen;

    g = ngx_http_apikey_table_get(l->conf.sh->table, account, bucket, now);

    if (g == NULL) {
        return;
    }

    seen.used = level->used;
    seen.at = at;

    if (apikey_limit_quota(bucket->limit)) {

        /* in local mode Postgres says it, of all nodes */

        if (seen.used == APIKEY_ACCOUNT_MAX
            || l->conf.mode == NGX_HTTP_APIKEY_LIMIT_LOCAL)
        {
            return;
        }

        /* a period that has begun since */

        redis = ngx_http_apikey_leases_time(l->conf.sh->leases, now);

        if (bucket->period.end > level->at && (int64_t) level->at <= redis) {
            seen.used = 0;
        }

        if (g->bucket.used == APIKEY_GAUGE_UNKNOWN
            || g->bucket.used < seen.used)
        {
            g->bucket.used = seen.used;
        }

        return;
    }

    apikey_gauge_raise(g, apikey_level_used(&seen, &bucket->limit->rate, now),
                       at, now);
}
