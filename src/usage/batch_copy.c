
/*
 * The raw events of a batch, as COPY wants them in binary.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "base/verdict.h"
#include "usage/ship.h"


#define NGX_HTTP_APIKEY_EPOCH_2000  946684800000000LL
#define NGX_HTTP_APIKEY_COLUMNS     34


static void ngx_http_apikey_copy_int(ngx_http_apikey_text_t *t, int64_t n,
    size_t size);
static void ngx_http_apikey_copy_null(ngx_http_apikey_text_t *t);
static void ngx_http_apikey_copy_bytes(ngx_http_apikey_text_t *t,
    const void *p, size_t len);
static void ngx_http_apikey_copy_text(ngx_http_apikey_text_t *t,
    const char *s, size_t len);
static void ngx_http_apikey_copy_uuid(ngx_http_apikey_text_t *t,
    const u_char *uuid);
static void ngx_http_apikey_copy_client(ngx_http_apikey_text_t *t,
    const u_char *client);
static void ngx_http_apikey_copy_who(ngx_http_apikey_text_t *t,
    apikey_event_t *event);
static void ngx_http_apikey_copy_what(ngx_http_apikey_text_t *t,
    apikey_event_t *event);
static void ngx_http_apikey_copy_counts(ngx_http_apikey_text_t *t,
    apikey_event_t *event);
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
    ngx_http_apikey_text_t  *t;
    static const u_char      header[19] = "PGCOPY\n\377\r\n\0";

    t = &batch->copy;

    if (t->len == 0) {
        u_char  *p;

        p = ngx_http_apikey_text_add(t, sizeof(header));
        if (p) {
            ngx_memcpy(p, header, sizeof(header));
        }
    }

    ngx_http_apikey_copy_int(t, NGX_HTTP_APIKEY_COLUMNS, 2);

    ngx_http_apikey_copy_int(t, 8, 4);
    ngx_http_apikey_copy_int(t, (int64_t) ((uint64_t) event->count.time
                                       - NGX_HTTP_APIKEY_EPOCH_2000), 8);
    ngx_http_apikey_copy_bytes(t, event->count.event, 16);
    ngx_http_apikey_copy_bytes(t, node, 16);

    ngx_http_apikey_copy_who(t, event);
    ngx_http_apikey_copy_what(t, event);
    ngx_http_apikey_copy_counts(t, event);
}


static void
ngx_http_apikey_copy_who(ngx_http_apikey_text_t *t, apikey_event_t *event)
{
    apikey_shape_t  *shape;

    shape = &event->shape;

    ngx_http_apikey_copy_uuid(t, shape->key);
    ngx_http_apikey_copy_uuid(t, shape->secret);
    ngx_http_apikey_copy_text(t, event->text[APIKEY_TEXT_OWNER],
                              shape->len[APIKEY_TEXT_OWNER]);
    ngx_http_apikey_copy_text(t, event->text[APIKEY_TEXT_CUSTOMER],
                              shape->len[APIKEY_TEXT_CUSTOMER]);
    ngx_http_apikey_copy_client(t, event->count.client);
    ngx_http_apikey_copy_text(t, event->text[APIKEY_TEXT_SESSION],
                              shape->len[APIKEY_TEXT_SESSION]);
}


static void
ngx_http_apikey_copy_what(ngx_http_apikey_text_t *t, apikey_event_t *event)
{
    const char      *s;
    ngx_uint_t       i;
    apikey_shape_t  *shape;

    shape = &event->shape;

    for (i = APIKEY_TEXT_SERVICE; i <= APIKEY_TEXT_ENDPOINT; i++) {
        if (shape->len[i]) {
            ngx_http_apikey_copy_text(t, event->text[i], shape->len[i]);

        } else {
            ngx_http_apikey_copy_bytes(t, "", 0);
        }
    }

    s = ngx_http_apikey_method(shape->method);
    ngx_http_apikey_copy_bytes(t, s, ngx_strlen(s));

    ngx_http_apikey_copy_int(t, 4, 4);
    ngx_http_apikey_copy_int(t, shape->status, 4);

    s = ngx_http_apikey_outcomes[ngx_http_apikey_outcome(shape)];
    ngx_http_apikey_copy_bytes(t, s, ngx_strlen(s));
    s = apikey_verdict_name(shape->verdict);
    ngx_http_apikey_copy_bytes(t, s, ngx_strlen(s));
    s = apikey_mode_name(shape->mode);
    ngx_http_apikey_copy_bytes(t, s, ngx_strlen(s));

    ngx_http_apikey_copy_text(t, event->text[APIKEY_TEXT_LIMIT],
                              shape->len[APIKEY_TEXT_LIMIT]);

    if (shape->len[APIKEY_TEXT_LIMIT]) {
        ngx_http_apikey_copy_int(t, 8, 4);
        ngx_http_apikey_copy_int(t, (int64_t) (shape->limit & INT64_MAX), 8);
        ngx_http_apikey_copy_int(t, 8, 4);
        ngx_http_apikey_copy_int(t, (int64_t) (event->count.remaining
                                               & INT64_MAX), 8);
        ngx_http_apikey_copy_int(t, 4, 4);
        ngx_http_apikey_copy_int(t, shape->retry_after & 0x7fffffff, 4);

    } else {
        ngx_http_apikey_copy_null(t);
        ngx_http_apikey_copy_null(t);
        ngx_http_apikey_copy_null(t);
    }

    ngx_http_apikey_copy_text(t, event->text[APIKEY_TEXT_MODEL],
                              shape->len[APIKEY_TEXT_MODEL]);
}


static void
ngx_http_apikey_copy_counts(ngx_http_apikey_text_t *t, apikey_event_t *event)
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
            s = ngx_http_apikey_sources[event->shape.source & 3];
            ngx_http_apikey_copy_bytes(t, s, ngx_strlen(s));

            if (c->cost < 0) {
                ngx_http_apikey_copy_null(t);

            } else {
                ngx_http_apikey_copy_int(t, 8, 4);
                ngx_http_apikey_copy_int(t, c->cost, 8);
            }

            ngx_http_apikey_copy_null(t);        /* price_version */
        }

        ngx_http_apikey_copy_int(t, 8, 4);
        ngx_http_apikey_copy_int(t, n[i] > INT64_MAX ? INT64_MAX
                                                     : (int64_t) n[i], 8);
    }

    s = apikey_end_name(event->shape.end);
    ngx_http_apikey_copy_text(t, s, ngx_strlen(s));
}


static void
ngx_http_apikey_copy_int(ngx_http_apikey_text_t *t, int64_t n, size_t size)
{
    u_char  *p;

    p = ngx_http_apikey_text_add(t, size);

    if (p) {
        while (size-- > 0) {
            p[size] = (u_char) n;
            n >>= 8;
        }
    }
}


static void
ngx_http_apikey_copy_null(ngx_http_apikey_text_t *t)
{
    ngx_http_apikey_copy_int(t, -1, 4);
}


static void
ngx_http_apikey_copy_bytes(ngx_http_apikey_text_t *t, const void *s,
    size_t len)
{
    u_char  *p;

    ngx_http_apikey_copy_int(t, (int64_t) len, 4);

    p = ngx_http_apikey_text_add(t, len);

    if (p) {
        ngx_memcpy(p, s, len);
    }
}


/* Null when empty; bytes that are not UTF-8 become '?'. */

static void
ngx_http_apikey_copy_text(ngx_http_apikey_text_t *t, const char *s,
    size_t len)
{
    size_t   n, i;
    u_char  *p;

    if (len == 0) {
        ngx_http_apikey_copy_null(t);
        return;
    }

    ngx_http_apikey_copy_int(t, (int64_t) len, 4);

    p = ngx_http_apikey_text_add(t, len);

    for (i = 0; p && i < len; i += n ? n : 1) {
        n = ngx_http_apikey_utf8(s + i, len - i);

        if (n) {
            p = ngx_cpymem(p, s + i, n);

        } else {
            *p++ = '?';
        }
    }
}


static void
ngx_http_apikey_copy_uuid(ngx_http_apikey_text_t *t, const u_char *uuid)
{
    static const u_char  none[16];

    if (ngx_memcmp(uuid, none, 16) == 0) {
        ngx_http_apikey_copy_null(t);
        return;
    }

    ngx_http_apikey_copy_bytes(t, uuid, 16);
}


/* inet: family, bits, is it cidr, length, address. */

static void
ngx_http_apikey_copy_client(ngx_http_apikey_text_t *t, const u_char *client)
{
    u_char               inet[20];
    size_t               n;
    static const u_char  none[16];
    static const u_char  mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                        0xff, 0xff };

    if (ngx_memcmp(client, none, 16) == 0) {
        ngx_http_apikey_copy_null(t);
        return;
    }

    n = ngx_memcmp(client, mapped, 12) == 0 ? 4 : 16;

    inet[0] = n == 4 ? 2 : 3;
    inet[1] = n == 4 ? 24 : 48;
    inet[2] = 0;
    inet[3] = (u_char) n;
    ngx_memcpy(inet + 4, client + 16 - n, n);

    ngx_http_apikey_copy_bytes(t, inet, 4 + n);
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
