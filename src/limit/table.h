
/*
 * Gauges in shared memory: the limiter itself in local mode, and in direct
 * mode the levels last seen in Redis, from which a node that cannot reach
 * Redis goes on.
 *
 * One entry a limit, preallocated; entries of which nothing is used any more
 * are taken by others.  Slots of an account are one entry, whatever limits
 * them.  Times are CLOCK_BOOTTIME.  Every function wants the
 * zone's mutex held by the caller; a pointer is good until it is released.
 */


#ifndef NGX_HTTP_APIKEY_TABLE_H_INCLUDED
#define NGX_HTTP_APIKEY_TABLE_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>

#include "limit/decide.h"


typedef struct ngx_http_apikey_table_s  ngx_http_apikey_table_t;


/* As many entries as fit in size bytes; NULL: not even one, or no memory. */
ngx_http_apikey_table_t *ngx_http_apikey_table_init(ngx_slab_pool_t *shpool,
    size_t size);

/*
 * The gauge of this limit, carried to now, to its period and to the limit as
 * it is; of one that was never seen nothing is used, but of a quota that may
 * be older than this table its use is unknown.  NULL: every entry that could
 * be taken is in use.
 */
apikey_gauge_t *ngx_http_apikey_table_get(ngx_http_apikey_table_t *table,
    ngx_http_apikey_account_t *account, ngx_http_apikey_bucket_t *bucket,
    int64_t now);

/*
 * What get() will touch comes into the cache.  Without the mutex: nothing read
 * is believed.
 */
void ngx_http_apikey_table_ahead(ngx_http_apikey_table_t *table,
    const ngx_http_apikey_account_t *account, const apikey_limit_t *limit,
    ngx_http_apikey_limit_at_t *at);
size_t ngx_http_apikey_table_entry_size(void);

/* As it stands, not carried anywhere; NULL: it is not there. */
apikey_gauge_t *ngx_http_apikey_table_find(ngx_http_apikey_table_t *table,
    ngx_http_apikey_account_t *account, const apikey_limit_t *limit);

/*
 * The next entries in use to so many percent, from *pos on, of a piece of the
 * table; *pos is 0 again behind its end.
 */
ngx_uint_t ngx_http_apikey_table_used(ngx_http_apikey_table_t *table,
    ngx_uint_t percent, uint32_t *pos, ngx_http_apikey_limit_used_t *used,
    ngx_uint_t n);

/* All quotas have been counted elsewhere meanwhile: nobody knows their use. */
void ngx_http_apikey_table_forget(ngx_http_apikey_table_t *table);

/* us since the epoch: what is older may have been counted elsewhere. */
uint64_t ngx_http_apikey_table_born(ngx_http_apikey_table_t *table);

/* Before the get()s of one decision: they do not take each other's entries. */
void ngx_http_apikey_table_begin(ngx_http_apikey_table_t *table);


#endif /* NGX_HTTP_APIKEY_TABLE_H_INCLUDED */
