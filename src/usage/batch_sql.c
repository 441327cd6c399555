
/*
 * One batch as text: a few statements in one simple query, which Postgres
 * runs as one transaction and which cannot be torn apart over two
 * connections.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "base/verdict.h"
#include "base/version.h"
#include "usage/ship.h"


#define NGX_HTTP_APIKEY_ROW_COLUMNS  24
#define NGX_HTTP_APIKEY_ROW_COST     18
#define NGX_HTTP_APIKEY_ROW_UNITS    24      /* behind all others */

/*
 * Between two files of a schema that is applied any event may be refused: who
 * is refused alone has held the lock of "apikeyctl schema apply".  Where that
 * is taken, this fails with 55P03, which is nobody's fault.
 */
#define NGX_HTTP_APIKEY_SQL_ALONE                                             \
    "SELECT set_config('lock_timeout', '20ms', true);"                        \
    "SELECT pg_advisory_xact_lock_shared(" APIKEY_SCHEMA_LOCK ");"            \
    "SELECT set_config('lock_timeout', '0', true);"


static void ngx_http_apikey_sql_end(ngx_http_apikey_text_t *t,
    ngx_http_apikey_batch_conf_t *conf);
static void ngx_http_apikey_sql_ran(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_conf_t *conf);
static void ngx_http_apikey_sql_streams(ngx_http_apikey_batch_t *batch);
static void ngx_http_apikey_sql_column(ngx_http_apikey_batch_t *batch,
    ngx_uint_t column);
static const char *ngx_http_apikey_row_type(ngx_http_apikey_row_t *row,
    ngx_uint_t column);
static void ngx_http_apikey_sql_used(ngx_http_apikey_batch_t *batch);
static ngx_uint_t ngx_http_apikey_rows_equal(ngx_http_apikey_row_t *rows,
    ngx_uint_t n, ngx_uint_t column);
static void ngx_http_apikey_row_value(ngx_http_apikey_text_t *t,
    ngx_http_apikey_row_t *row, ngx_uint_t column, ngx_uint_t element);
static const char *ngx_http_apikey_row_text(ngx_http_apikey_row_t *row,
    ngx_uint_t column, size_t *len);
static __int128 ngx_http_apikey_row_number(ngx_http_apikey_row_t *row,
    ngx_uint_t column);


const char *const  ngx_http_apikey_outcomes[] = {
    "success", "error", "aborted", "refused"
};


void
ngx_http_apikey_batch_sql(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_conf_t *conf)
{
    u_char                  *p;
    ngx_uint_t               column;
    ngx_http_apikey_text_t  *t;

    t = &batch->sql;

    /*
     * Of poison the INSERT stands there already.  What is committed need not
     * be on the disk here, so a commit has to be on one there.
     */

    ngx_http_apikey_text_put(t, "SELECT set_config('apikey.caller', 'node',"
        " true), set_config('synchronous_commit',"
        " replace(current_setting('synchronous_commit'), 'off', 'local'),"
        " true);");

    if (conf->max == 1) {
        ngx_http_apikey_text_put(t, NGX_HTTP_APIKEY_SQL_ALONE);
    }

    ngx_http_apikey_sql_ran(batch, conf);

    ngx_http_apikey_text_put(t, "SELECT apikey.usage_apply('");
    ngx_http_apikey_text_uuid(t, conf->node);
    ngx_http_apikey_text_put(t, "',");
    ngx_http_apikey_text_quoted(t, (char *) conf->name->data,
                                conf->name->len, 0);
    ngx_http_apikey_text_put(t, ",");
    ngx_http_apikey_text_int(t, batch->more ? conf->before : conf->as_of);

    ngx_http_apikey_sql_streams(batch);

    for (column = 0; column < NGX_HTTP_APIKEY_ROW_COLUMNS; column++) {
        ngx_http_apikey_sql_column(batch, column);
    }

    ngx_http_apikey_sql_used(batch);
    ngx_http_apikey_sql_column(batch, NGX_HTTP_APIKEY_ROW_UNITS);

    ngx_http_apikey_text_put(t, ");");

    if (batch->raw) {
        ngx_http_apikey_text_put(t, "COPY apikey.usage_event (");
        ngx_http_apikey_text_put(t, ngx_http_apikey_batch_columns(batch));
        ngx_http_apikey_text_put(t, ") FROM STDIN (FORMAT binary);");

        /* the end of binary data */

        p = ngx_http_apikey_text_add(&batch->copy, 2);
        if (p) {
            ngx_memset(p, 0xff, 2);
        }
    }

    ngx_http_apikey_sql_end(t, conf);
}


/* What ngx_http_apikey_ship_told() reads. */

static void
ngx_http_apikey_sql_end(ngx_http_apikey_text_t *t,
    ngx_http_apikey_batch_conf_t *conf)
{
    u_char  *p;

    ngx_http_apikey_text_put(t, "SELECT (" NGX_HTTP_APIKEY_RAW_SQL "),"
                                NGX_HTTP_APIKEY_WANT_SQL "'");
    ngx_http_apikey_text_uuid(t, conf->node);
    ngx_http_apikey_text_put(t, "')");

    p = ngx_http_apikey_text_add(t, 1);

    if (p) {
        *p = '\0';
    }
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
                       d->frame.stream, d->frame.epoch, batch->number);
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
    ngx_http_apikey_text_int(t, (int64_t) batch->number);
    ngx_http_apikey_text_put(t, ",'");
    ngx_http_apikey_text_put(t, conf->poison);
    ngx_http_apikey_text_put(t, "',");
    ngx_http_apikey_text_quoted(t, conf->reason, ngx_strlen(conf->reason), 0);
    ngx_http_apikey_text_put(t, ",'\\x");

    p = ngx_http_apikey_text_add(t, 2 * size);

    if (p) {
        end = ngx_hex_dump(p, frame, size);
        ngx_http_apikey_text_put(t, "');");
        (void) end;
    }
}


/* Who is recorded now is not said to run any more. */

static void
ngx_http_apikey_sql_ran(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_conf_t *conf)
{
    u_char                  *p;
    size_t                   len;
    ngx_http_apikey_text_t  *t;

    if (batch->ran.len == 0) {
        return;
    }

    t = &batch->sql;
    len = batch->ran.len - 1;            /* the last comma */

    ngx_http_apikey_text_put(t, "DELETE FROM apikey.usage_running"
                                " WHERE node = '");
    ngx_http_apikey_text_uuid(t, conf->node);
    ngx_http_apikey_text_put(t, "' AND event = ANY ('{");

    p = ngx_http_apikey_text_add(t, len);

    if (p) {
        ngx_memcpy(p, batch->ran.data, len);
    }

    ngx_http_apikey_text_put(t, "}');");
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


/*
 * Column by column, as usage_apply() wants its arrays.  Most columns have one
 * value in all rows: it is said once.
 */

static void
ngx_http_apikey_sql_column(ngx_http_apikey_batch_t *batch, ngx_uint_t column)
{
    ngx_uint_t               i, n;
    ngx_http_apikey_row_t   *rows;
    ngx_http_apikey_text_t  *t;

    t = &batch->sql;
    rows = (ngx_http_apikey_row_t *) batch->rows.data;
    n = batch->rows.len / sizeof(ngx_http_apikey_row_t);

    if (n > 1 && ngx_http_apikey_rows_equal(rows, n, column)) {
        ngx_http_apikey_text_put(t, ",array_fill(");
        ngx_http_apikey_row_value(t, rows, column, 0);
        ngx_http_apikey_text_put(t, ngx_http_apikey_row_type(rows, column));
        ngx_http_apikey_text_int(t, (int64_t) n);
        ngx_http_apikey_text_put(t, "}')");
        return;
    }

    ngx_http_apikey_text_put(t, ",'{");

    for (i = 0; i < n; i++) {
        if (i) {
            ngx_http_apikey_text_put(t, ",");
        }

        ngx_http_apikey_row_value(t, &rows[i], column, 1);
    }

    ngx_http_apikey_text_put(t, "}'");
}


static const char *
ngx_http_apikey_row_type(ngx_http_apikey_row_t *row, ngx_uint_t column)
{
    switch (column) {

    case 1:
        return "::uuid,'{";

    case 8:
        return "::int,'{";

    case NGX_HTTP_APIKEY_ROW_COST: case NGX_HTTP_APIKEY_ROW_UNITS:
        return "::numeric,'{";

    default:
        return ngx_http_apikey_row_text(row, column, NULL) ? "::text,'{"
                                                           : "::bigint,'{";
    }
}


static ngx_uint_t
ngx_http_apikey_rows_equal(ngx_http_apikey_row_t *rows, ngx_uint_t n,
    ngx_uint_t column)
{
    size_t       len, len0;
    __int128     number;
    ngx_uint_t   i;
    const char  *s, *s0;

    if (column == 1) {
        for (i = 1; i < n; i++) {
            if (ngx_memcmp(rows[i].key, rows[0].key, 16) != 0) {
                return 0;
            }
        }

        return 1;
    }

    s0 = ngx_http_apikey_row_text(&rows[0], column, &len0);

    if (s0) {
        for (i = 1; i < n; i++) {
            s = ngx_http_apikey_row_text(&rows[i], column, &len);

            if (len != len0 || ngx_memcmp(s, s0, len) != 0) {
                return 0;
            }
        }

        return 1;
    }

    number = ngx_http_apikey_row_number(&rows[0], column);

    for (i = 1; i < n; i++) {
        if (ngx_http_apikey_row_number(&rows[i], column) != number) {
            return 0;
        }
    }

    return 1;
}


static void
ngx_http_apikey_row_value(ngx_http_apikey_text_t *t,
    ngx_http_apikey_row_t *row, ngx_uint_t column, ngx_uint_t element)
{
    size_t       len;
    const char  *s;

    if (column == 1) {
        ngx_http_apikey_text_put(t, element ? "" : "'");
        ngx_http_apikey_text_uuid(t, row->key);
        ngx_http_apikey_text_put(t, element ? "" : "'");
        return;
    }

    s = ngx_http_apikey_row_text(row, column, &len);

    if (s) {
        ngx_http_apikey_text_quoted(t, s, len, element);
        return;
    }

    ngx_http_apikey_text_number(t, ngx_http_apikey_row_number(row, column));
}


/* NULL: the column is no text */

static const char *
ngx_http_apikey_row_text(ngx_http_apikey_row_t *row, ngx_uint_t column,
    size_t *len)
{
    size_t       size;
    ngx_uint_t   i, n;
    const char  *s;

    switch (column) {

    case 2: case 3: case 4: case 5: case 6: case 10:
        n = column == 10 ? APIKEY_TEXT_LIMIT : column - 2;
        s = row->text;
        size = row->len[n];

        for (i = 0; i < n; i++) {
            s += row->len[i];
        }

        break;

    case 7:
        s = ngx_http_apikey_outcomes[row->outcome];
        size = ngx_strlen(s);
        break;

    case 9:
        s = apikey_verdict_name(row->verdict);
        size = ngx_strlen(s);
        break;

    default:
        return NULL;
    }

    if (len) {
        *len = size;
    }

    return s;
}


static __int128
ngx_http_apikey_row_number(ngx_http_apikey_row_t *row, ngx_uint_t column)
{
    uint64_t  n;

    switch (column) {
    case 0:
        return row->start;
    case 8:
        return row->status;
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
    case NGX_HTTP_APIKEY_ROW_COST:
        return (__int128) row->cost;
    case NGX_HTTP_APIKEY_ROW_UNITS:
        return (__int128) row->units;
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
