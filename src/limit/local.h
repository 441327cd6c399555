
/*
 * A decision from the table alone: the whole of local mode, and what a node
 * that cannot reach Redis does under "apikey_redis_down local".
 *
 * Called by limit/decide.c only.
 */


#ifndef NGX_HTTP_APIKEY_LOCAL_H_INCLUDED
#define NGX_HTTP_APIKEY_LOCAL_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>

#include "limit/decide.h"
#include "limit/table.h"


/*
 * Takes from all buckets or from none, with the zone's mutex held by the
 * caller.  nodes is the share: one of that many nodes decides.  NGX_OK,
 * NGX_DECLINED, or NGX_ERROR: the table is full.  Fills the buckets' out
 * members.
 */
ngx_int_t ngx_http_apikey_local_take(ngx_http_apikey_table_t *table,
    ngx_http_apikey_decision_t *d, ngx_uint_t nodes, int64_t now);


#endif /* NGX_HTTP_APIKEY_LOCAL_H_INCLUDED */
