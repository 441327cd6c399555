
/*
 * What a decision is going to look for comes into the cache while there is
 * other work: an account of one among thousands is far from it, and to wait
 * for its entry takes longer than all the arithmetic.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "limit/limiter.h"


void
ngx_http_apikey_decide_ahead(ngx_http_apikey_limiter_t *l,
    const ngx_http_apikey_account_t *account, const apikey_limit_t *limit,
    ngx_http_apikey_limit_at_t *at)
{
    if (l->conf.mode == NGX_HTTP_APIKEY_LIMIT_LOCAL) {
        ngx_http_apikey_table_ahead(l->conf.sh->table, account, limit, at);
        return;
    }

    ngx_http_apikey_leases_ahead(l->conf.sh->leases, account, at);
}


size_t
ngx_http_apikey_decide_ahead_size(ngx_http_apikey_limiter_t *l)
{
    if (l->conf.mode == NGX_HTTP_APIKEY_LIMIT_LOCAL) {
        return ngx_http_apikey_table_entry_size();
    }

    return sizeof(ngx_http_apikey_lease_entry_t);
}
