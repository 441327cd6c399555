
/*
 * The links of a hash of accounts in shared memory: few while there are few
 * accounts, so that these share lines of the cache, then more, in two steps.
 * A step links all entries anew, so the last one comes before that is long.
 *
 * All under the mutex of the zone.  A worker may die within a step; torn tells
 * the next one, which does it again.
 */


#ifndef NGX_HTTP_APIKEY_HEADS_H_INCLUDED
#define NGX_HTTP_APIKEY_HEADS_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>


#define NGX_HTTP_APIKEY_HEADS_FEW   4096
#define NGX_HTTP_APIKEY_HEADS_SOME  16384


typedef struct {
    uint32_t  *links;            /* number of an entry, from 1; 0: none */
    uint32_t   n;                /* in use */
    uint32_t   max;
    uint32_t   torn;
} ngx_http_apikey_heads_t;


static ngx_inline void
ngx_http_apikey_heads_init(ngx_http_apikey_heads_t *heads, uint32_t *links,
    uint32_t max)
{
    heads->links = links;
    heads->n = ngx_min(max, NGX_HTTP_APIKEY_HEADS_FEW);
    heads->max = max;
    heads->torn = 0;

    ngx_memzero(links, heads->n * sizeof(uint32_t));
}


static ngx_inline uint32_t *
ngx_http_apikey_heads_at(const ngx_http_apikey_heads_t *heads, uint64_t hash)
{
    return &heads->links[(hash >> 32) * heads->n >> 32];
}


/* There will be more entries than links. */

static ngx_inline ngx_uint_t
ngx_http_apikey_heads_few(const ngx_http_apikey_heads_t *heads,
    uint32_t entries)
{
    return entries >= heads->n && heads->n < heads->max;
}


/* From here on to the end all entries are to be linked anew. */

static ngx_inline void
ngx_http_apikey_heads_begin(ngx_http_apikey_heads_t *heads, uint32_t entries)
{
    heads->torn = 1;

    ngx_memory_barrier();

    if (entries >= NGX_HTTP_APIKEY_HEADS_SOME) {
        heads->n = heads->max;

    } else if (entries >= NGX_HTTP_APIKEY_HEADS_FEW) {
        heads->n = ngx_min(heads->max, NGX_HTTP_APIKEY_HEADS_SOME);
    }

    ngx_memzero(heads->links, heads->n * sizeof(uint32_t));
}


static ngx_inline void
ngx_http_apikey_heads_end(ngx_http_apikey_heads_t *heads)
{
    ngx_memory_barrier();

    heads->torn = 0;
}


#endif /* NGX_HTTP_APIKEY_HEADS_H_INCLUDED */
