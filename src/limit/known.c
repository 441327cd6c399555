
/*
 * Counts that a node has lost and Postgres knows: telling the table.
 *
 * Called by http with what it has asked for.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "limit/limiter.h"


uint64_t
ngx_http_apikey_limiter_born(ngx_http_apikey_limiter_t *l)
{
    uint64_t  born;

    born = ngx_http_apikey_table_born(l->conf.sh->table);

    /* what passed without Redis is not known there either */

    if (l->redis) {
        born = ngx_max(born, l->conf.tallies->file->owed.alone);
    }

    return born;
}


void
ngx_http_apikey_limiter_known(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_account_t *account, const apikey_limit_t *limit,
    uint64_t used)
{
    apikey_gauge_t   *g;
    ngx_slab_pool_t  *shpool;

    shpool = l->conf.shpool;

    ngx_shmtx_lock(&shpool->mutex);

    g = ngx_http_apikey_table_find(l->conf.sh->table, account, limit);

    if (g && g->bucket.used == APIKEY_GAUGE_UNKNOWN) {
        g->bucket.used = ngx_min(used, APIKEY_BUCKET_MAX);
    }

    ngx_shmtx_unlock(&shpool->mutex);
}


void
ngx_http_apikey_limiter_mode(ngx_http_apikey_limiter_t *l)
{
    ngx_slab_pool_t             *shpool;
    ngx_http_apikey_limit_sh_t  *sh;

    sh = l->conf.sh;
    shpool = l->conf.shpool;

    ngx_shmtx_lock(&shpool->mutex);

    if (l->conf.mode == NGX_HTTP_APIKEY_LIMIT_LOCAL
        && sh->mode != NGX_HTTP_APIKEY_LIMIT_LOCAL)
    {
        ngx_http_apikey_table_forget(sh->table);
    }

    sh->mode = l->conf.mode;

    ngx_shmtx_unlock(&shpool->mutex);
}
