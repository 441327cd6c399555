
/*
 * The raw events of a batch, as COPY wants them in binary.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "base/verdict.h"
#include "usage/ship.h"


#define NGX_HTTP_APIKEY_EPOCH_2000  946684800000000LL
#define NGX_HTTP_APIKEY_COLUMNS     34

/* what a row takes at most, but for its texts */
#define NGX_HTTP_APIKEY_COPY_ROW    1024


static u_char *ngx_http_apikey_copy_int(u_char *p, int64_t n);
static u_char *ngx_http_apikey_copy_int4(u_char *p, int32_t n);
static u_char *ngx_http_apikey_copy_null(u_char *p);
static u_char *ngx_http_apikey_copy_bytes(u_char *p, const void *s,
    size_t len);
static u_char *ngx_http_apikey_copy_name(u_char *p, const char *s);
static u_char *ngx_http_apikey_copy_text(u_char *p, const char *s,
    size_t len);
static u_char *ngx_http_apikey_copy_uuid(u_char *p, const u_char *uuid);
static u_char *ngx_http_apikey_copy_client(u_char *p, const u_char *client);
static u_char *ngx_http_apikey_copy_who(u_char *p, apikey_event_t *event);
static u_char *ngx_http_apikey_copy_what(u_char *p, apikey_event_t *event);
static u_char *ngx_http_apikey_copy_counts(u_char *p, apikey_event_t *event);
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


void
ngx_http_apikey_batch_copy(ngx_http_apikey_batch_t *batch,
    apikey_event_t *event, const u_char *node)
{
    u_char                  *p, *start;
    size_t                   size;
    ngx_uint_t               i;
    ngx_http_apikey_text_t  *t;
    static const u_char      header[19] = "PGCOPY\n\377\r\n\0";

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
        return;
    }

    p = start;
    *p++ = 0;
    *p++ = NGX_HTTP_APIKEY_COLUMNS;

    p = ngx_http_apikey_copy_int(p, (int64_t) ((uint64_t) event->count.time
                                        - NGX_HTTP_APIKEY_EPOCH_2000));
    p = ngx_http_apikey_copy_bytes(p, event->count.event, 16);
    p = ngx_http_apikey_copy_bytes(p, node, 16);

    p = ngx_http_apikey_copy_who(p, event);
    p = ngx_http_apikey_copy_what(p, event);
    p = ngx_http_apikey_copy_counts(p, event);

    t->len -= (size_t) (start + size - p);
}


static u_char *
ngx_http_apikey_copy_who(u_char *p, apikey_event_t *event)
{
    apikey_shape_t  *shape;

    shape = &event->shape;

    p = ngx_http_apikey_copy_uuid(p, shape->key);
    p = ngx_http_apikey_copy_uuid(p, shape->secret);
    p = ngx_http_apikey_copy_text(p, event->text[APIKEY_TEXT_OWNER],
                                  shape->len[APIKEY_TEXT_OWNER]);
    p = ngx_http_apikey_copy_text(p, event->text[APIKEY_TEXT_CUSTOMER],
                                  shape->len[APIKEY_TEXT_CUSTOMER]);
    p = ngx_http_apikey_copy_client(p, event->count.client);

    return ngx_http_apikey_copy_text(p, event->text[APIKEY_TEXT_SESSION],
                                     shape->len[APIKEY_TEXT_SESSION]);
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
    p = ngx_http_apikey_copy_name(p, apikey_mode_name(shape->mode));

    p = ngx_http_apikey_copy_text(p, event->text[APIKEY_TEXT_LIMIT],
                                  shape->len[APIKEY_TEXT_LIMIT]);

    if (shape->len[APIKEY_TEXT_LIMIT]) {
        p = ngx_http_apikey_copy_int(p, (int64_t) (shape->limit & INT64_MAX));
        p = ngx_http_apikey_copy_int(p, (int64_t) (event->count.remaining
                                                   & INT64_MAX));
        p = ngx_http_apikey_copy_int4(p, shape->retry_after & 0x7fffffff);

    } else {
        p = ngx_http_apikey_copy_null(p);
        p = ngx_http_apikey_copy_null(p);
        p = ngx_http_apikey_copy_null(p);
    }

    return ngx_http_apikey_copy_text(p, event->text[APIKEY_TEXT_MODEL],
                                     shape->len[APIKEY_TEXT_MODEL]);
}


static u_char *
ngx_http_apikey_copy_counts(u_char *p, apikey_event_t *event)
{
    uint64_t         n[9];
    const char      *s;
    ngx_uint_t       i;
    apikey_count_t  *c;

    c = &event->count;

    n[0] = event->shape.weight;
    ngx_memcpy(&n[1], c->tokens, sizeof(c->tokens));
    n[5] = c->bytes_in;
    n[6] = c->bytes_out;
    n[7] = c->duration;
    n[8] = c->upstream;

    for (i = 0; i < 9; i++) {
        if (i == 5) {
            p = ngx_http_apikey_copy_name(p,
                         ngx_http_apikey_sources[event->shape.source & 3]);

            p = c->cost < 0 ? ngx_http_apikey_copy_null(p)
                            : ngx_http_apikey_copy_int(p, c->cost);

            p = ngx_http_apikey_copy_null(p);            /* price_version */
        }

        p = ngx_http_apikey_copy_int(p, n[i] > INT64_MAX ? INT64_MAX
                                                         : (int64_t) n[i]);
    }

    s = apikey_end_name(event->shape.end);

    return ngx_http_apikey_copy_text(p, s, ngx_strlen(s));
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

    if (len == 0) {
        return ngx_http_apikey_copy_null(p);
    }

    big = htonl((uint32_t) len);
    p = ngx_cpymem(p, &big, 4);

    for (i = 0; i < len; i += n ? n : 1) {
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


/* inet: family, bits, is it cidr, length, address. */

static u_char *
ngx_http_apikey_copy_client(u_char *p, const u_char *client)
{
    u_char               inet[20];
    size_t               n;
    static const u_char  none[16];
    static const u_char  mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                        0xff, 0xff };

    if (ngx_memcmp(client, none, 16) == 0) {
        return ngx_http_apikey_copy_null(p);
    }

    n = ngx_memcmp(client, mapped, 12) == 0 ? 4 : 16;

    inet[0] = n == 4 ? 2 : 3;
    inet[1] = n == 4 ? 24 : 48;
    inet[2] = 0;
    inet[3] = (u_char) n;
    ngx_memcpy(inet + 4, client + 16 - n, n);

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
