
/*
 * What a key's look-up and decision will touch, asked for by where it was the
 * last time: rows of a table, one for all keys that share its hash.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "base/fetch.h"
#include "base/key.h"
#include "http/ahead.h"


#define NGX_HTTP_APIKEY_AHEAD_BITS    12     /* of the rows: 64 KB, for a table
                                                of many pages is itself slow */
#define NGX_HTTP_APIKEY_AHEAD_RECORD  384    /* bytes: with a limit */


static uint64_t ngx_http_apikey_ahead_hash(const ngx_str_t *key);
static void ngx_http_apikey_ahead_lines(const void *zone, uint32_t line,
    size_t size);


static ngx_http_apikey_ahead_t
    ngx_http_apikey_ahead_rows[1 << NGX_HTTP_APIKEY_AHEAD_BITS];


ngx_http_apikey_ahead_t *
ngx_http_apikey_ahead(const ngx_str_t *key)
{
    ngx_http_apikey_ahead_t  *ahead;

    ahead = &ngx_http_apikey_ahead_rows[ngx_http_apikey_ahead_hash(key)
                                        >> (64 - NGX_HTTP_APIKEY_AHEAD_BITS)];
    apikey_fetch(ahead);

    return ahead;
}


static uint64_t
ngx_http_apikey_ahead_hash(const ngx_str_t *key)
{
    uint64_t  last;

    ngx_memcpy(&last, key->data + key->len - sizeof(last), sizeof(last));

    return last * 0x9e3779b97f4a7c15ULL;
}


void
ngx_http_apikey_ahead_fetch(ngx_http_apikey_ahead_t *ahead,
    const ngx_str_t *key, const void *zone, size_t entry)
{
    uint32_t  tag;

    /* no more bits: as little of a key as will do is kept */

    tag = (uint32_t) (ngx_http_apikey_ahead_hash(key)
                      >> (48 - NGX_HTTP_APIKEY_AHEAD_BITS)) & 0xffff;

    if (ahead->tag != tag) {
        ngx_memzero(ahead, sizeof(ngx_http_apikey_ahead_t));
        ahead->tag = tag;
        return;
    }

    ngx_http_apikey_ahead_lines(zone, ahead->record,
                                NGX_HTTP_APIKEY_AHEAD_RECORD);
    ngx_http_apikey_ahead_lines(zone, ahead->link, 1);
    ngx_http_apikey_ahead_lines(zone, ahead->entry,
                                entry + APIKEY_FETCH_LINE - 1);
}


static void
ngx_http_apikey_ahead_lines(const void *zone, uint32_t line, size_t size)
{
    if (line) {
        apikey_fetch_all((const u_char *) zone
                         + (size_t) line * APIKEY_FETCH_LINE, size);
    }
}


void
ngx_http_apikey_ahead_note(uint32_t *line, const void *zone, const void *p)
{
    uint32_t  now;

    now = p ? (uint32_t) (((const u_char *) p - (const u_char *) zone)
                          / APIKEY_FETCH_LINE)
            : 0;

    if (*line != now) {
        *line = now;
    }
}
