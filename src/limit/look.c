
/*
 * Looking at the counts without touching them, for the admin API.
 *
 * What is shown is a copy, carried to now; the table is passed over in pieces,
 * so that nobody waits for long.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "limit/limiter.h"


ngx_uint_t
ngx_http_apikey_limiter_looks(ngx_http_apikey_limiter_t *l)
{
    return l->conf.mode == NGX_HTTP_APIKEY_LIMIT_LOCAL;
}


ngx_int_t
ngx_http_apikey_limiter_look(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_account_t *account, ngx_http_apikey_bucket_t *bucket,
    int64_t real)
{
    int64_t           now;
    apikey_gauge_t    copy, *g;
    apikey_rolling_t  log;
    ngx_slab_pool_t  *shpool;

    shpool = l->conf.shpool;
    now = apikey_clock_boot();

    ngx_shmtx_lock(&shpool->mutex);

    g = ngx_http_apikey_table_find(l->conf.sh->table, account, bucket->limit);

    if (g) {
        copy = *g;

        if (g->log) {
            log = *g->log;
        }

        copy.log = &log;
    }

    ngx_shmtx_unlock(&shpool->mutex);

    if (g == NULL) {
        return NGX_DECLINED;
    }

    apikey_gauge_open(&copy, bucket->limit, &bucket->period, now);

    if (copy.bucket.used == APIKEY_GAUGE_UNKNOWN) {
        bucket->unknown = 1;
        return NGX_OK;
    }

    bucket->used = copy.bucket.used / bucket->limit->rate.token;
    bucket->remaining = apikey_gauge_remaining(&copy, bucket->limit);
    bucket->reset = apikey_gauge_reset(&copy, bucket->limit, &bucket->period,
                                       now, real);

    return NGX_OK;
}


ngx_uint_t
ngx_http_apikey_limiter_used(ngx_http_apikey_limiter_t *l,
    ngx_uint_t percent, uint32_t *pos, ngx_http_apikey_limit_used_t *used,
    ngx_uint_t n)
{
    ngx_slab_pool_t  *shpool;

    shpool = l->conf.shpool;

    ngx_shmtx_lock(&shpool->mutex);
    n = ngx_http_apikey_table_used(l->conf.sh->table, percent, pos, used, n);
    ngx_shmtx_unlock(&shpool->mutex);

    return n;
}
