
/*
 * A block of memory that is kept for the next requests is lent to each one's
 * pool.  It stands in the pool's chain like one of its own, so nginx finds
 * room there, too: the first block is nearly full when the access phase comes,
 * and each one behind it would be a malloc() and a free() for every request.
 *
 * It is taken out by the last of the pool's cleanup handlers, unless enough
 * are kept; then it goes with the pool.  ngx_destroy_pool() still reads what
 * stands in it, but nobody else's code runs, and so nobody gets it, before
 * that is over.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"
#include "http/access.h"


/* the context, a key, its limits, and what proxying a request takes */
#define NGX_HTTP_APIKEY_LEND_SIZE  8192
#define NGX_HTTP_APIKEY_LEND_KEEP  512

/* a sanitizer is to see the end of each: there none is lent again */

#if defined(__SANITIZE_ADDRESS__)
#define NGX_HTTP_APIKEY_LEND_ASAN  1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define NGX_HTTP_APIKEY_LEND_ASAN  1
#endif
#endif

#define NGX_HTTP_APIKEY_LEND_HEAD                                             \
    ngx_align(sizeof(ngx_pool_data_t), NGX_CPU_CACHE_LINE)


static ngx_pool_t  *ngx_http_apikey_lend_blocks[NGX_HTTP_APIKEY_LEND_KEEP];
static ngx_uint_t   ngx_http_apikey_lend_n;


void *
ngx_http_apikey_lend(ngx_pool_t *pool, size_t size)
{
    u_char      *p;
    ngx_pool_t  *block, *last;

    if (size > NGX_HTTP_APIKEY_LEND_SIZE - NGX_HTTP_APIKEY_LEND_HEAD) {
        return NULL;
    }

#if (NGX_HTTP_APIKEY_LEND_ASAN)
    while (ngx_http_apikey_lend_n) {
        ngx_free(ngx_http_apikey_lend_blocks[--ngx_http_apikey_lend_n]);
    }
#endif

    if (ngx_http_apikey_lend_n) {
        block = ngx_http_apikey_lend_blocks[--ngx_http_apikey_lend_n];

    } else {
        block = ngx_memalign(NGX_CPU_CACHE_LINE, NGX_HTTP_APIKEY_LEND_SIZE,
                             pool->log);
        if (block == NULL) {
            return NULL;
        }

        block->d.end = (u_char *) block + NGX_HTTP_APIKEY_LEND_SIZE;
    }

    p = (u_char *) block + NGX_HTTP_APIKEY_LEND_HEAD;

    block->d.last = p + ngx_align(size, NGX_ALIGNMENT);
    block->d.next = NULL;
    block->d.failed = 0;

    for (last = pool; last->d.next; last = last->d.next) { /* void */ }

    last->d.next = block;

    return p;
}


void
ngx_http_apikey_lend_end(ngx_pool_t *pool, void *p)
{
    ngx_pool_t  *block, *before;

    if (ngx_http_apikey_lend_n == NGX_HTTP_APIKEY_LEND_KEEP) {
        return;                          /* it goes with the pool */
    }

    block = (ngx_pool_t *) ((u_char *) p - NGX_HTTP_APIKEY_LEND_HEAD);

    for (before = pool; before->d.next != block; before = before->d.next) {
        /* void */
    }

    before->d.next = block->d.next;

    ngx_http_apikey_lend_blocks[ngx_http_apikey_lend_n++] = block;
}
