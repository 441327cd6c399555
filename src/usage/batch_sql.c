
/*
 * One batch as text: a few statements in one simple query, which Postgres
 * runs as one transaction and which cannot be torn apart over two
 * connections; and the rows of its COPY in binary.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "base/uuid.h"
#include "base/verdict.h"
#include "usage/ship.h"


#define NGX_HTTP_APIKEY_EPOCH_2000  946684800000000LL
#define NGX_HTTP_APIKEY_COLUMNS     34


static void ngx_http_apikey_text_put(ngx_http_apikey_text_t *t,
    const char *s);
static void ngx_http_apikey_text_int(ngx_http_apikey_text_t *t, int64_t n);
static void ngx_http_apikey_text_uuid(ngx_http_apikey_text_t *t,
    const u_char *uuid);
static void ngx_http_apikey_text_quoted(ngx_http_apikey_text_t *t,
    const char *s, size_t len, ngx_uint_t element);
static void ngx_http_apikey_sql_streams(ngx_http_apikey_batch_t *batch);
static void ngx_http_apikey_sql_rows(ngx_http_apikey_batch_t *batch);
static void ngx_http_apikey_sql_used(ngx_http_apikey_batch_t *batch);
static int64_t ngx_http_apikey_row_number(ngx_http_apikey_row_t *row,
    ngx_uint_t column);
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
static size_t ngx_http_apikey_utf8(const char *s, size_t len);


static const char  *ngx_http_apikey_outcomes[] = {
    "success", "error", "aborted", "refused"
};

static const char  *ngx_http_apikey_sources[] = {
    "none", "provider", "header", "estimate"
};


void *
ngx_http_apikey_text_add(ngx_http_apikey_text_t *t, size_t len)
{
    size_t   size;
    u_char  *data;

    if (t->failed) {
        return NULL;
    }

    if (t->size - t->len < len) {
        size = t->size ? t->size * 2 : 65536;

        while (size - t->len < len) {
            size *= 2;
        }

        data = realloc(t->data, size);
        if (data == NULL) {
            t->failed = 1;
            return NULL;
        }

        t->data = data;
        t->size = size;
    }

    data = t->data + t->len;
    t->len += len;

    return data;
}


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
ngx_http_apikey_batch_sql(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_conf_t *conf)
{
    ngx_http_apikey_text_t  *t;

    t = &batch->sql;

    /* of poison the INSERT stands there already */

    ngx_http_apikey_text_put(t, "SELECT set_config('apikey.caller', 'node',"
                                " true); SELECT apikey.usage_apply('");
    ngx_http_apikey_text_uuid(t, conf->node);
    ngx_http_apikey_text_put(t, "',");
    ngx_http_apikey_text_quoted(t, (char *) conf->name->data,
                                conf->name->len, 0);
    ngx_http_apikey_text_put(t, ",");
    ngx_http_apikey_text_int(t, batch->more ? conf->before : conf->as_of);

    ngx_http_apikey_sql_streams(batch);
    ngx_http_apikey_sql_rows(batch);
    ngx_http_apikey_sql_used(batch);

    ngx_http_apikey_text_put(t, ");");

    if (batch->raw) {
        ngx_http_apikey_text_put(t, "COPY apikey.usage_event FROM STDIN"
                                    " (FORMAT binary)");
        ngx_http_apikey_copy_int(&batch->copy, -1, 2);
    }

    *(u_char *) (ngx_http_apikey_text_add(t, 1) ?: t->data) = '\0';
}


void
ngx_http_apikey_batch_poison(ngx_http_apikey_batch_t *batch,
    apikey_event_t *event, ngx_http_apikey_batch_conf_t *conf)
{
    u_char                  *p, *end;
    size_t                   size, texts;
    ngx_uint_t               i;
    apikey_decoder_t        *d;
    ngx_http_apikey_text_t  *t;
    static u_char            frame[8192];
    union {
        apikey_record_t      record;
        u_char               bytes[APIKEY_RECORD_LARGE];
    } copy;

    copy.record.count = event->count;
    copy.record.shape = event->shape;
    texts = 0;

    for (i = 0; i < APIKEY_TEXTS; i++) {
        ngx_memcpy(copy.record.text + texts, event->text[i],
                   event->shape.len[i]);
        texts += event->shape.len[i];
    }

    d = &batch->decoder;

    apikey_frame_begin(&batch->encoder, frame, sizeof(frame),
                       d->frame.stream, d->frame.epoch, d->number);
    (void) apikey_frame_add(&batch->encoder, &copy.record);
    size = apikey_frame_end(&batch->encoder);

    t = &batch->sql;

    ngx_http_apikey_text_put(t, "INSERT INTO apikey.usage_quarantine (node,"
        " stream, epoch, number, state, reason, record) VALUES ('");
    ngx_http_apikey_text_uuid(t, conf->node);
    ngx_http_apikey_text_put(t, "',");
    ngx_http_apikey_text_int(t, d->frame.stream);
    ngx_http_apikey_text_put(t, ",");
    ngx_http_apikey_text_int(t, (int64_t) d->frame.epoch);
    ngx_http_apikey_text_put(t, ",");
    ngx_http_apikey_text_int(t, (int64_t) d->number);
    ngx_http_apikey_text_put(t, ",'");
    ngx_http_apikey_text_put(t, conf->poison);
    ngx_http_apikey_text_put(t, "','refused by Postgres','\\x");

    p = ngx_http_apikey_text_add(t, 2 * size);

    if (p) {
        end = ngx_hex_dump(p, frame, size);
        ngx_http_apikey_text_put(t, "');");
        (void) end;
    }
}


static void
ngx_http_apikey_sql_streams(ngx_http_apikey_batch_t *batch)
{
    uint64_t                         n;
    ngx_uint_t                       i, column;
    ngx_http_apikey_batch_stream_t  *s;

    for (column = 0; column < 5; column++) {
        ngx_http_apikey_text_put(&batch->sql, ",'{");

        for (i = 0; i < batch->nstreams; i++) {
            s = &batch->stream[i];

            if (s->first == 0) {
                continue;                /* nothing of it is in */
            }

            n = column == 0 ? s->stream : column == 1 ? s->epoch
                : column == 2 ? s->mark : column == 3 ? s->first : s->last;
            ngx_http_apikey_text_int(&batch->sql, (int64_t) n);
            ngx_http_apikey_text_put(&batch->sql, ",");
        }

        batch->sql.len -= batch->sql.len
                          && batch->sql.data[batch->sql.len - 1] == ',';
        ngx_http_apikey_text_put(&batch->sql, "}'");
    }
}


/* Column by column, as usage_apply() wants its arrays. */

static void
ngx_http_apikey_sql_rows(ngx_http_apikey_batch_t *batch)
{
    const char              *s;
    ngx_uint_t               i, n, column;
    ngx_http_apikey_row_t   *row, *rows;
    ngx_http_apikey_text_t  *t;

    t = &batch->sql;
    rows = (ngx_http_apikey_row_t *) batch->rows.data;
    n = batch->rows.len / sizeof(ngx_http_apikey_row_t);

    for (column = 0; column < 24; column++) {
        ngx_http_apikey_text_put(t, ",'{");

        for (i = 0; i < n; i++) {
            row = &rows[i];

            if (i) {
                ngx_http_apikey_text_put(t, ",");
            }

            switch (column) {

            case 1:
                ngx_http_apikey_text_uuid(t, row->shape.key);
                break;

            case 2: case 3: case 4: case 5: case 6:
                ngx_http_apikey_text_quoted(t, row->text[column - 2],
                                            row->shape.len[column - 2], 1);
                break;

            case 7:
                ngx_http_apikey_text_put(t,
                                     ngx_http_apikey_outcomes[row->outcome]);
                break;

            case 9:
                s = apikey_verdict_name(row->shape.verdict);
                ngx_http_apikey_text_put(t, s);
                break;

            case 10:
                ngx_http_apikey_text_quoted(t, row->text[APIKEY_TEXT_LIMIT],
                                     row->shape.len[APIKEY_TEXT_LIMIT], 1);
                break;

            default:
                ngx_http_apikey_text_int(t,
                                  ngx_http_apikey_row_number(row, column));
            }
        }

        ngx_http_apikey_text_put(t, "}'");
    }
}


static int64_t
ngx_http_apikey_row_number(ngx_http_apikey_row_t *row, ngx_uint_t column)
{
    uint64_t  n;

    switch (column) {
    case 0:
        return row->start;
    case 8:
        return row->shape.status;
    case 11:
        n = row->requests;
        break;
    case 12:
        n = row->refused;
        break;
    case 13:
        n = row->errors;
        break;
    case 14: case 15: case 16: case 17:
        n = row->tokens[column - 14];
        break;
    case 18:
        return row->cost;
    case 19:
        n = row->unpriced;
        break;
    case 20:
        n = row->in;
        break;
    case 21:
        n = row->out;
        break;
    case 22:
        n = row->duration;
        break;
    default:
        return row->last;
    }

    return n > INT64_MAX ? INT64_MAX : (int64_t) n;
}


static void
ngx_http_apikey_sql_used(ngx_http_apikey_batch_t *batch)
{
    ngx_uint_t               i, n;
    ngx_http_apikey_used_t  *used;
    ngx_http_apikey_text_t  *t;

    t = &batch->sql;
    used = (ngx_http_apikey_used_t *) batch->used.data;
    n = batch->used.len / sizeof(ngx_http_apikey_used_t);

    ngx_http_apikey_text_put(t, ",'{");

    for (i = 0; i < n; i++) {
        ngx_http_apikey_text_put(t, i ? "," : "");
        ngx_http_apikey_text_uuid(t, used[i].secret);
    }

    ngx_http_apikey_text_put(t, "}','{");

    for (i = 0; i < n; i++) {
        ngx_http_apikey_text_put(t, i ? "," : "");
        ngx_http_apikey_text_int(t, used[i].last);
    }

    ngx_http_apikey_text_put(t, "}'");
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


static void
ngx_http_apikey_text_put(ngx_http_apikey_text_t *t, const char *s)
{
    size_t   len;
    u_char  *p;

    len = ngx_strlen(s);
    p = ngx_http_apikey_text_add(t, len);

    if (p) {
        ngx_memcpy(p, s, len);
    }
}


static void
ngx_http_apikey_text_int(ngx_http_apikey_text_t *t, int64_t n)
{
    u_char  buf[NGX_INT64_LEN + 1];

    *ngx_sprintf(buf, "%L", n) = '\0';
    ngx_http_apikey_text_put(t, (char *) buf);
}


static void
ngx_http_apikey_text_uuid(ngx_http_apikey_text_t *t, const u_char *uuid)
{
    u_char  *p;

    p = ngx_http_apikey_text_add(t, APIKEY_UUID_TEXT_LEN);

    if (p) {
        apikey_uuid_format((char *) p, uuid);
    }
}


/* An SQL literal, or an element of an array inside of one. */

static void
ngx_http_apikey_text_quoted(ngx_http_apikey_text_t *t, const char *s,
    size_t len, ngx_uint_t element)
{
    size_t   n, i;
    u_char  *p, *start;

    start = ngx_http_apikey_text_add(t, 2 * len + 2);
    if (start == NULL) {
        return;
    }

    p = start;
    *p++ = element ? '"' : '\'';

    for (i = 0; i < len; i += n ? n : 1) {
        n = ngx_http_apikey_utf8(s + i, len - i);

        if (n == 0) {
            *p++ = '?';
            continue;
        }

        if (s[i] == '\'' || (element && (s[i] == '"' || s[i] == '\\'))) {
            *p++ = s[i] == '\'' ? '\'' : '\\';
        }

        p = ngx_cpymem(p, s + i, n);
    }

    *p++ = element ? '"' : '\'';
    t->len -= start + 2 * len + 2 - p;
}


/* Bytes of the character at s; 0: not UTF-8, or NUL. */

static size_t
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
