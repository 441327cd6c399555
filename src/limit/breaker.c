
/*
 * The breaker of Redis.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "limit/breaker.h"


#define NGX_HTTP_APIKEY_BREAKER_ROW     3
#define NGX_HTTP_APIKEY_BREAKER_CALLS   10       /* fewer prove nothing */
#define NGX_HTTP_APIKEY_BREAKER_SECOND  1000000


ngx_uint_t
ngx_http_apikey_breaker_result(ngx_http_apikey_breaker_t *b, int64_t now,
    ngx_uint_t ok)
{
    if (b->open) {
        return 0;
    }

    if (now - b->second >= NGX_HTTP_APIKEY_BREAKER_SECOND) {
        b->second = now;
        b->calls = 0;
        b->failures = 0;
    }

    b->calls++;

    if (ok) {
        b->row = 0;
        return 0;
    }

    b->row++;
    b->failures++;

    if (b->row < NGX_HTTP_APIKEY_BREAKER_ROW
        && (b->calls < NGX_HTTP_APIKEY_BREAKER_CALLS
            || b->failures * 2 < b->calls))
    {
        return 0;
    }

    b->probe = now + NGX_HTTP_APIKEY_BREAKER_PROBE * 1000;
    b->open = 1;

    return 1;
}


ngx_uint_t
ngx_http_apikey_breaker_probe(ngx_http_apikey_breaker_t *b, int64_t now)
{
    if (!b->open || now < b->probe) {
        return 0;
    }

    b->probe = now + NGX_HTTP_APIKEY_BREAKER_PROBE * 1000;

    return 1;
}


void
ngx_http_apikey_breaker_close(ngx_http_apikey_breaker_t *b)
{
    b->row = 0;
    b->second = 0;
    b->calls = 0;
    b->failures = 0;
    b->open = 0;
}
