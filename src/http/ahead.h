
/*
 * Where in the zone stood what a key's last request needed: its record, the
 * link and the entry of its first account.  Each lies far from the cache and
 * tells where the next one is, so that to follow them is to wait for each;
 * asked for at once, with the slot of the index, all have come when the
 * request's headers are written.
 *
 * A table of the worker's own, by the last bytes of the key's text; a cache
 * line has the rows of a few keys.  Nothing in it is ever believed, nor read
 * where it points: what is wrong is a line of memory asked for in vain, and a
 * wait for the right one, in some requests until it is looked for again.
 */


#ifndef NGX_HTTP_APIKEY_AHEAD_H_INCLUDED
#define NGX_HTTP_APIKEY_AHEAD_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>


/* Lines of 64 bytes from the zone's start; 0: not known. */

typedef struct {
    uint16_t  tag;               /* whose: some bits of the key's hash */
    uint16_t  turn;
    uint32_t  record;            /* 0: nobody's row */
    uint32_t  link;
    uint32_t  entry;
} ngx_http_apikey_ahead_t;


/* The first of the rows where that of a key, of APIKEY_KEY_MIN bytes at least,
   may stand: they are asked for. */
ngx_http_apikey_ahead_t *ngx_http_apikey_ahead(const ngx_str_t *key);

/*
 * Some time later: the key's row.  All that it names is asked for, entry bytes
 * of an entry.  foreseen: the record is among that; else it should be looked
 * for early, and all of it noted, for it was not known, or not for some time.
 */
ngx_http_apikey_ahead_t *ngx_http_apikey_ahead_fetch(
    ngx_http_apikey_ahead_t *rows, const ngx_str_t *key, const void *zone,
    size_t entry, ngx_uint_t *foreseen);

/* NULL: not there. */
void ngx_http_apikey_ahead_note(uint32_t *line, const void *zone,
    const void *p);


#endif /* NGX_HTTP_APIKEY_AHEAD_H_INCLUDED */
