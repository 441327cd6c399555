
/*
 * What a key's look-up and decision will touch, asked for by where it was the
 * last time.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "base/fetch.h"
#include "base/key.h"
#include "http/ahead.h"


#define NGX_HTTP_APIKEY_AHEAD_BITS    10     /* of the sets: 64 KB, for a table
                                                of many pages is itself slow */
#define NGX_HTTP_APIKEY_AHEAD_ROWS    4      /* of a set: a cache line */
#define NGX_HTTP_APIKEY_AHEAD_RECORD  384    /* bytes: with a limit */
#define NGX_HTTP_APIKEY_AHEAD_TURNS   16     /* of a row: in one of them what
                                                it names is looked for anew */


static uint64_t ngx_http_apikey_ahead_hash(const ngx_str_t *key);
static ngx_http_apikey_ahead_t *ngx_http_apikey_ahead_row(
    ngx_http_apikey_ahead_t *rows, uint16_t tag);
static void ngx_http_apikey_ahead_lines(const void *zone, uint32_t line,
    size_t size);


static ngx_http_apikey_ahead_t
    ngx_http_apikey_ahead_rows[1 << NGX_HTTP_APIKEY_AHEAD_BITS]
                              [NGX_HTTP_APIKEY_AHEAD_ROWS]
    __attribute__((aligned(APIKEY_FETCH_LINE)));


ngx_http_apikey_ahead_t *
ngx_http_apikey_ahead(const ngx_str_t *key)
{
    ngx_http_apikey_ahead_t  *rows;

    rows = ngx_http_apikey_ahead_rows[ngx_http_apikey_ahead_hash(key)
                                      >> (64 - NGX_HTTP_APIKEY_AHEAD_BITS)];
    apikey_fetch(rows);

    return rows;
}


static uint64_t
ngx_http_apikey_ahead_hash(const ngx_str_t *key)
{
    uint64_t  last;

    ngx_memcpy(&last, key->data + key->len - sizeof(last), sizeof(last));

    return last * 0x9e3779b97f4a7c15ULL;
}


ngx_http_apikey_ahead_t *
ngx_http_apikey_ahead_fetch(ngx_http_apikey_ahead_t *rows,
    const ngx_str_t *key, const void *zone, size_t entry,
    ngx_uint_t *foreseen)
{
    uint16_t                  tag;
    ngx_http_apikey_ahead_t  *ahead;

    /* no more bits: as little of a key as will do is kept */

    tag = (uint16_t) (ngx_http_apikey_ahead_hash(key)
                      >> (48 - NGX_HTTP_APIKEY_AHEAD_BITS));

    ahead = ngx_http_apikey_ahead_row(rows, tag);

    ngx_http_apikey_ahead_lines(zone, ahead->record,
                                NGX_HTTP_APIKEY_AHEAD_RECORD);
    ngx_http_apikey_ahead_lines(zone, ahead->link, 1);
    ngx_http_apikey_ahead_lines(zone, ahead->entry,
                                entry + APIKEY_FETCH_LINE - 1);

    *foreseen = ahead->record
                && ++ahead->turn % NGX_HTTP_APIKEY_AHEAD_TURNS != 0;

    return ahead;
}


/* This key's; else an empty one, or anybody's, which is this key's now. */

static ngx_http_apikey_ahead_t *
ngx_http_apikey_ahead_row(ngx_http_apikey_ahead_t *rows, uint16_t tag)
{
    ngx_uint_t                i;
    ngx_http_apikey_ahead_t  *row;
    static ngx_uint_t         next;

    row = NULL;

    for (i = 0; i < NGX_HTTP_APIKEY_AHEAD_ROWS; i++) {

        if (rows[i].record == 0) {
            row = &rows[i];

        } else if (rows[i].tag == tag) {
            return &rows[i];
        }
    }

    if (row == NULL) {
        row = &rows[next++ % NGX_HTTP_APIKEY_AHEAD_ROWS];
    }

    ngx_memzero(row, sizeof(ngx_http_apikey_ahead_t));
    row->tag = tag;

    return row;
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
    *line = p ? (uint32_t) (((const u_char *) p - (const u_char *) zone)
                            / APIKEY_FETCH_LINE)
              : 0;
}
