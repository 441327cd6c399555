
/*
 * The raw events of a batch, as COPY wants them in binary.
 *
 * Half of the columns hold their defaults in most events.  Narrow rows leave
 * them out: bytes copied into the socket are what shipping costs most.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "base/fetch.h"
#include "base/verdict.h"
#include "usage/ship.h"


#define NGX_HTTP_APIKEY_EPOCH_2000  946684800000000LL
#define NGX_HTTP_APIKEY_NARROW      18       /* columns */
#define NGX_HTTP_APIKEY_WIDE        34
#define NGX_HTTP_APIKEY_WIDE_FOR    256      /* batches */

/* what a row takes at most, but for its texts */
#define NGX_HTTP_APIKEY_COPY_ROW    1024

/* lines of the cache, of the row after the next one: asked for in time */
#define NGX_HTTP_APIKEY_COPY_AHEAD  5

/* 1 in each byte of a word */
#define NGX_HTTP_APIKEY_ONES        0x0101010101010101ULL


static u_char *ngx_http_apikey_copy_count(u_char *p, uint64_t n);
static u_char *ngx_http_apikey_copy_int(u_char *p, int64_t n);
static u_char *ngx_http_apikey_copy_int4(u_char *p, int32_t n);
static u_char *ngx_http_apikey_copy_null(u_char *p);
static u_char *ngx_http_apikey_copy_bytes(u_char *p, const void *s,
    size_t len);
static u_char *ngx_http_apikey_copy_name(u_char *p, const char *s);
static u_char *ngx_http_apikey_copy_text(u_char *p, const char *s,
    size_t len);
static u_char *ngx_http_apikey_copy_uuid(u_char *p, const u_char *uuid);
static u_char *ngx_http_apikey_copy_client(u_char *p, const u_char *client,
    uint64_t prefix);
static u_char *ngx_http_apikey_copy_who(u_char *p, apikey_event_t *event,
    uint64_t prefix);
static u_char *ngx_http_apikey_copy_what(u_char *p, apikey_event_t *event);
static u_char *ngx_http_apikey_copy_counts(u_char *p, apikey_event_t *event);
static ngx_uint_t ngx_http_apikey_copy_plain(apikey_event_t *event);
static u_char *ngx_http_apikey_copy_limit(u_char *p, apikey_event_t *event);
static u_char *ngx_http_apikey_copy_rest(u_char *p, apikey_event_t *event);
static const char *ngx_http_apikey_method(uint32_t method);


static const char  *ngx_http_apikey_sources[] = {
    "none", "provider", "header", "estimate"
};


ngx_uint_t
ngx_http_apikey_outcome(const apikey_shape_t *shape)
{
    if (shape->kind != APIKEY_RECORD_EVENT) {
        return 3;
    }

    if (shape->end != APIKEY_END_NORMAL) {
        return 2;
    }

    return shape->status >= 400;
}


ngx_int_t
ngx_http_apikey_batch_copy(ngx_http_apikey_batch_t *batch,
    apikey_event_t *event, ngx_http_apikey_batch_conf_t *conf)
{
    u_char                  *p, *start;
    size_t                   size;
    ngx_uint_t               i;
    ngx_http_apikey_text_t  *t;
    static const u_char      header[19] = "PGCOPY\n\377\r\n\0";

    if (!ngx_http_apikey_copy_plain(event)) {

        if (batch->wide == 0) {
            return NGX_DECLINED;
        }

        batch->wide = NGX_HTTP_APIKEY_WIDE_FOR;
    }

    t = &batch->copy;

    if (t->len == 0) {
        p = ngx_http_apikey_text_add(t, sizeof(header));
        if (p) {
            ngx_memcpy(p, header, sizeof(header));
        }
    }

    size = NGX_HTTP_APIKEY_COPY_ROW;

    for (i = 0; i < APIKEY_TEXTS; i++) {
        size += event->shape.len[i];
    }

    start = ngx_http_apikey_text_add(t, size);
    if (start == NULL) {
        return NGX_OK;
    }

    p = start;
    *p++ = 0;
    *p++ = batch->wide ? NGX_HTTP_APIKEY_WIDE : NGX_HTTP_APIKEY_NARROW;

    p = ngx_http_apikey_copy_int(p, (int64_t) ((uint64_t) event->count.time
                                        - NGX_HTTP_APIKEY_EPOCH_2000));
    p = ngx_http_apikey_copy_bytes(p, event->count.event, 16);
    p = ngx_http_apikey_copy_bytes(p, conf->node, 16);

    p = ngx_http_apikey_copy_who(p, event, conf->client);
    p = ngx_http_apikey_copy_what(p, event);
    p = ngx_http_apikey_copy_counts(p, event);

    if (batch->wide) {
        p = ngx_http_apikey_copy_limit(p, event);
        p = ngx_http_apikey_copy_rest(p, event);
    }

    t->len -= (size_t) (start + size - p);

    for (i = 0; i < NGX_HTTP_APIKEY_COPY_AHEAD; i++) {
        apikey_fetch(p + (p - start) + i * 64);
    }

    return NGX_OK;
}


/* In the order of the functions below. */

const char *
ngx_http_apikey_batch_columns(ngx_http_apikey_batch_t *batch)
{
#define NGX_HTTP_APIKEY_COLUMNS                                               \
    "time, event, node, key_id, secret_id, owner, client, service, endpoint," \
    " method, status_code, outcome, verdict, mode, bytes_in, bytes_out,"      \
    " duration_us, upstream_us"

    return batch->wide ? NGX_HTTP_APIKEY_COLUMNS
                         ", limit_name, \"limit\", remaining, retry_after,"
                         " customer, session, model, weight, tokens_input,"
                         " tokens_output, tokens_cached, tokens_reasoning,"
                         " usage_source, cost, price_version, aborted"
                       : NGX_HTTP_APIKEY_COLUMNS;
}


/* Are the columns that narrow rows leave out at their defaults? */

static ngx_uint_t
ngx_http_apikey_copy_plain(apikey_event_t *event)
{
    apikey_count_t  *c;
    apikey_shape_t  *shape;

    c = &event->count;
    shape = &event->shape;

    return shape->len[APIKEY_TEXT_CUSTOMER] == 0
           && shape->len[APIKEY_TEXT_MODEL] == 0
           && shape->len[APIKEY_TEXT_LIMIT] == 0
           && shape->len[APIKEY_TEXT_SESSION] == 0
           && shape->weight == 1 && shape->source == 0
           && shape->end == APIKEY_END_NORMAL
           && (c->tokens[0] | c->tokens[1] | c->tokens[2] | c->tokens[3]) == 0
           && c->cost == 0 && c->price == 0;
}


static u_char *
ngx_http_apikey_copy_who(u_char *p, apikey_event_t *event, uint64_t prefix)
{
    apikey_shape_t  *shape;

    shape = &event->shape;

    p = ngx_http_apikey_copy_uuid(p, shape->key);
    p = ngx_http_apikey_copy_uuid(p, shape->secret);
    p = ngx_http_apikey_copy_text(p, event->text[APIKEY_TEXT_OWNER],
                                  shape->len[APIKEY_TEXT_OWNER]);

    return ngx_http_apikey_copy_client(p, event->count.client, prefix);
}


static u_char *
ngx_http_apikey_copy_what(u_char *p, apikey_event_t *event)
{
    ngx_uint_t       i;
    apikey_shape_t  *shape;

    shape = &event->shape;

    for (i = APIKEY_TEXT_SERVICE; i <= APIKEY_TEXT_ENDPOINT; i++) {
        if (shape->len[i]) {
            p = ngx_http_apikey_copy_text(p, event->text[i], shape->len[i]);

        } else {
            p = ngx_http_apikey_copy_bytes(p, "", 0);
        }
    }

    p = ngx_http_apikey_copy_name(p, ngx_http_apikey_method(shape->method));
    p = ngx_http_apikey_copy_int4(p, shape->status);
    p = ngx_http_apikey_copy_name(p,
                 ngx_http_apikey_outcomes[ngx_http_apikey_outcome(shape)]);
    p = ngx_http_apikey_copy_name(p, apikey_verdict_name(shape->verdict));

    return ngx_http_apikey_copy_name(p, apikey_mode_name(shape->mode));
}


static u_char *
ngx_http_apikey_copy_counts(u_char *p, apikey_event_t *event)
{
    apikey_count_t  *c;

    c = &event->count;

    p = ngx_http_apikey_copy_count(p, c->bytes_in);
    p = ngx_http_apikey_copy_count(p, c->bytes_out);
    p = ngx_http_apikey_copy_count(p, c->duration);

    return ngx_http_apikey_copy_count(p, c->upstream);
}


static u_char *
ngx_http_apikey_copy_limit(u_char *p, apikey_event_t *event)
{
    apikey_shape_t  *shape;

    shape = &event->shape;

    p = ngx_http_apikey_copy_text(p, event->text[APIKEY_TEXT_LIMIT],
                                  shape->len[APIKEY_TEXT_LIMIT]);

    if (shape->len[APIKEY_TEXT_LIMIT] == 0) {
        p = ngx_http_apikey_copy_null(p);
        p = ngx_http_apikey_copy_null(p);
        return ngx_http_apikey_copy_null(p);
    }

    p = ngx_http_apikey_copy_int(p, (int64_t) (shape->limit & INT64_MAX));
    p = ngx_http_apikey_copy_int(p, (int64_t) (event->count.remaining
                                               & INT64_MAX));

    return ngx_http_apikey_copy_int4(p, shape->retry_after & 0x7fffffff);
}


static u_char *
ngx_http_apikey_copy_rest(u_char *p, apikey_event_t *event)
{
    ngx_uint_t           i;
    const char          *s;
    apikey_count_t      *c;
    apikey_shape_t      *shape;
    static const u_char  texts[] = { APIKEY_TEXT_CUSTOMER,
                                     APIKEY_TEXT_SESSION,
                                     APIKEY_TEXT_MODEL };

    c = &event->count;
    shape = &event->shape;

    for (i = 0; i < sizeof(texts); i++) {
        p = ngx_http_apikey_copy_text(p, event->text[texts[i]],
                                      shape->len[texts[i]]);
    }

    p = ngx_http_apikey_copy_count(p, shape->weight);

    for (i = 0; i < 4; i++) {
        p = ngx_http_apikey_copy_count(p, c->tokens[i]);
    }

    p = ngx_http_apikey_copy_name(p,
                                  ngx_http_apikey_sources[shape->source & 3]);

    p = c->cost < 0 ? ngx_http_apikey_copy_null(p)
                    : ngx_http_apikey_copy_int(p, c->cost);

    p = c->price == 0 ? ngx_http_apikey_copy_null(p)
                      : ngx_http_apikey_copy_count(p, c->price);

    s = apikey_end_name(shape->end);

    return ngx_http_apikey_copy_text(p, s, ngx_strlen(s));
}


static u_char *
ngx_http_apikey_copy_count(u_char *p, uint64_t n)
{
    return ngx_http_apikey_copy_int(p, n > INT64_MAX ? INT64_MAX
                                                     : (int64_t) n);
}


static u_char *
ngx_http_apikey_copy_int(u_char *p, int64_t n)
{
    uint32_t  big[3];

    big[0] = htonl(8);
    big[1] = htonl((uint32_t) ((uint64_t) n >> 32));
    big[2] = htonl((uint32_t) n);

    return ngx_cpymem(p, big, 12);
}


static u_char *
ngx_http_apikey_copy_int4(u_char *p, int32_t n)
{
    uint32_t  big[2];

    big[0] = htonl(4);
    big[1] = htonl((uint32_t) n);

    return ngx_cpymem(p, big, 8);
}


static u_char *
ngx_http_apikey_copy_null(u_char *p)
{
    ngx_memset(p, 0xff, 4);

    return p + 4;
}


static u_char *
ngx_http_apikey_copy_bytes(u_char *p, const void *s, size_t len)
{
    uint32_t  big;

    big = htonl((uint32_t) len);
    p = ngx_cpymem(p, &big, 4);

    return ngx_cpymem(p, s, len);
}


static u_char *
ngx_http_apikey_copy_name(u_char *p, const char *s)
{
    return ngx_http_apikey_copy_bytes(p, s, ngx_strlen(s));
}


/* Null when empty; bytes that are not UTF-8 become '?'. */

static u_char *
ngx_http_apikey_copy_text(u_char *p, const char *s, size_t len)
{
    size_t    n, i;
    uint32_t  big;
    uint64_t  word;

    if (len == 0) {
        return ngx_http_apikey_copy_null(p);
    }

    big = htonl((uint32_t) len);
    p = ngx_cpymem(p, &big, 4);

    for (i = 0; i < len; i += n ? n : 1) {

        /* most texts are plain ASCII: no byte is NUL or has its top bit */

        if (len - i >= sizeof(word)) {
            ngx_memcpy(&word, s + i, sizeof(word));

            if (((word | (word - NGX_HTTP_APIKEY_ONES))
                 & (NGX_HTTP_APIKEY_ONES << 7)) == 0)
            {
                p = ngx_cpymem(p, &word, sizeof(word));
                n = sizeof(word);
                continue;
            }
        }

        n = ngx_http_apikey_utf8(s + i, len - i);

        if (n) {
            p = ngx_cpymem(p, s + i, n);

        } else {
            *p++ = '?';
        }
    }

    return p;
}


static u_char *
ngx_http_apikey_copy_uuid(u_char *p, const u_char *uuid)
{
    static const u_char  none[16];

    if (ngx_memcmp(uuid, none, 16) == 0) {
        return ngx_http_apikey_copy_null(p);
    }

    return ngx_http_apikey_copy_bytes(p, uuid, 16);
}


/*
 * inet: family, bits, is it cidr, length, address.  What was written when
 * client_prefix was longer, or not read yet, is no more than it says now.
 */

static u_char *
ngx_http_apikey_copy_client(u_char *p, const u_char *client, uint64_t prefix)
{
    u_char               inet[20], address[16];
    size_t               n;
    unsigned             bits;
    static const u_char  none[16];
    static const u_char  mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                        0xff, 0xff };

    ngx_memcpy(address, client, 16);
    bits = apikey_client_shorten(address, prefix & 0xff, prefix >> 8 & 0xff);

    if (bits == 0 || ngx_memcmp(address, none, 16) == 0) {
        return ngx_http_apikey_copy_null(p);
    }

    n = ngx_memcmp(address, mapped, 12) == 0 ? 4 : 16;

    inet[0] = n == 4 ? 2 : 3;
    inet[1] = (u_char) bits;
    inet[2] = 0;
    inet[3] = (u_char) n;
    ngx_memcpy(inet + 4, address + 16 - n, n);

    return ngx_http_apikey_copy_bytes(p, inet, 4 + n);
}


/* By the bit that ngx_http_request.h gives a method. */

static const char *
ngx_http_apikey_method(uint32_t method)
{
    ngx_uint_t          i;
    static const char  *names[] = {
        "OTHER", "GET", "HEAD", "POST", "PUT", "DELETE", "MKCOL", "COPY",
        "MOVE", "OPTIONS", "PROPFIND", "PROPPATCH", "LOCK", "UNLOCK", "PATCH",
        "TRACE", "CONNECT"
    };

    for (i = 1; i < sizeof(names) / sizeof(names[0]); i++) {
        if (method == (uint32_t) 1 << i) {
            return names[i];
        }
    }

    return names[0];
}


/* Bytes of the character at s; 0: not UTF-8, or NUL. */

size_t
ngx_http_apikey_utf8(const char *s, size_t len)
{
    size_t         n, i;
    uint32_t       c;
    const u_char  *p;

    p = (const u_char *) s;

    if (p[0] < 0x80) {
        return p[0] != 0;
    }

    if (p[0] >= 0xc2 && p[0] <= 0xdf) {
        n = 2;
        c = p[0] & 0x1f;

    } else if ((p[0] & 0xf0) == 0xe0) {
        n = 3;
        c = p[0] & 0x0f;

    } else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
        n = 4;
        c = p[0] & 0x07;

    } else {
        return 0;
    }

    if (n > len) {
        return 0;
    }

    for (i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }

        c = c << 6 | (p[i] & 0x3f);
    }

    if ((n == 3 && (c < 0x800 || (c >= 0xd800 && c <= 0xdfff)))
        || (n == 4 && (c < 0x10000 || c > 0x10ffff)))
    {
        return 0;
    }

    return n;
}
