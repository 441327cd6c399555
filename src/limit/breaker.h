
/*
 * The breaker of Redis, one for all workers of a master: opens after three
 * failures in a row, or when half of a second's calls failed; while it is
 * open nobody asks Redis but one probe a quarter of a second.
 *
 * Lives in the zone.  result() and probe() want the zone's mutex held by the
 * caller; open() may be read without it.
 */


#ifndef NGX_HTTP_APIKEY_BREAKER_H_INCLUDED
#define NGX_HTTP_APIKEY_BREAKER_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>


#define NGX_HTTP_APIKEY_BREAKER_PROBE  250       /* ms between two probes */


typedef struct {
    ngx_atomic_t   open;
    uint64_t       row;              /* failures without a success between */
    int64_t        second;           /* us, the start of the counted second */
    uint64_t       calls;            /* in it */
    uint64_t       failures;
    int64_t        probe;            /* us, not before this */
} ngx_http_apikey_breaker_t;


#define ngx_http_apikey_breaker_is_open(b)  ((b)->open)


/*
 * Times are CLOCK_BOOTTIME.  1: this result opened it.  A success counts
 * while it is closed only: an open one is closed by its probe.
 */
ngx_uint_t ngx_http_apikey_breaker_result(ngx_http_apikey_breaker_t *b,
    int64_t now, ngx_uint_t ok);

/* 1: the caller is to probe now. */
ngx_uint_t ngx_http_apikey_breaker_probe(ngx_http_apikey_breaker_t *b,
    int64_t now);

void ngx_http_apikey_breaker_close(ngx_http_apikey_breaker_t *b);


#endif /* NGX_HTTP_APIKEY_BREAKER_H_INCLUDED */
