
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
 * caller.  nodes is the share: one of that many nodes decides; 0: this node
 * is alone, and counts all there is.  Fills the buckets' out members.
 *
 * NGX_OK, NGX_DECLINED; NGX_ERROR: the use of some bucket is unknown
 * (d->unknown: it can be asked for), or it is money or a total, of which there
 * are no shares; NGX_ABORT: the table is full.
 */
ngx_int_t ngx_http_apikey_local_take(ngx_http_apikey_table_t *table,
    ngx_http_apikey_decision_t *d, ngx_uint_t nodes, int64_t now);


#endif /* NGX_HTTP_APIKEY_LOCAL_H_INCLUDED */
