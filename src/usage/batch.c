
/*
 * Frames into one transaction for Postgres: which events are not applied
 * yet, their raw rows.
 *
 * Memory: buffers that are kept for the next batch.  The frames
 * belong to the caller and must stay until the SQL is built.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "usage/ship.h"


static ngx_int_t ngx_http_apikey_batch_fill(ngx_http_apikey_batch_t *batch,
    const u_char *frames, size_t len, ngx_http_apikey_batch_conf_t *conf);
static void ngx_http_apikey_batch_release(ngx_http_apikey_batch_t *batch);
static void ngx_http_apikey_batch_clear(ngx_http_apikey_batch_t *batch);
static ngx_int_t ngx_http_apikey_batch_frame(ngx_http_apikey_batch_t *batch,
    const u_char *frame, ngx_http_apikey_batch_conf_t *conf);
static ngx_uint_t ngx_http_apikey_batch_full(
    const ngx_http_apikey_batch_t *batch);
static ngx_http_apikey_batch_stream_t *ngx_http_apikey_batch_stream(
    ngx_http_apikey_batch_t *batch, const apikey_frame_t *frame,
    ngx_http_apikey_batch_conf_t *conf);
static ngx_int_t ngx_http_apikey_batch_event(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_ahead_t *a, ngx_http_apikey_batch_conf_t *conf);


ngx_http_apikey_batch_t *
ngx_http_apikey_batch_create(void)
{
    ngx_http_apikey_batch_t  *batch;

    batch = calloc(1, sizeof(ngx_http_apikey_batch_t));
    if (batch == NULL) {
        return NULL;
    }

    batch->table = malloc(2 * NGX_HTTP_APIKEY_SLOTS * sizeof(uint32_t));
    if (batch->table == NULL) {
        free(batch);
        return NULL;
    }

    return batch;
}


void
ngx_http_apikey_batch_destroy(ngx_http_apikey_batch_t *batch)
{
    ngx_http_apikey_batch_release(batch);
    free(batch->table);
    free(batch);
}


static void
ngx_http_apikey_batch_release(ngx_http_apikey_batch_t *batch)
{
    ngx_http_apikey_text_free(&batch->sql);
    ngx_http_apikey_text_free(&batch->copy);
    ngx_http_apikey_text_free(&batch->rows);
    ngx_http_apikey_text_free(&batch->used);
    ngx_http_apikey_text_free(&batch->ran);
}


void
ngx_http_apikey_batch_start(ngx_http_apikey_batch_t *batch, ngx_uint_t events)
{
    if (batch->wide) {
        batch->wide--;
    }

    batch->slots = 64;

    while (batch->slots < 2 * events && batch->slots < NGX_HTTP_APIKEY_SLOTS) {
        batch->slots *= 2;
    }

    /* of a backlog */

    if (batch->copy.size > NGX_HTTP_APIKEY_FRAMES && events < 1024) {
        ngx_http_apikey_batch_release(batch);
    }

    ngx_http_apikey_batch_clear(batch);
}


/* Only as much of the table is used, and cleared, as the events need. */

static void
ngx_http_apikey_batch_clear(ngx_http_apikey_batch_t *batch)
{
    batch->sql.len = 0;
    batch->copy.len = 0;
    batch->rows.len = 0;
    batch->used.len = 0;
    batch->ran.len = 0;
    batch->sql.failed = 0;
    batch->copy.failed = 0;
    batch->rows.failed = 0;
    batch->used.failed = 0;
    batch->ran.failed = 0;
    batch->taken = 0;
    batch->nstreams = 0;
    batch->count = 0;
    batch->lost = 0;
    batch->raw = 0;
    batch->more = 0;

    ngx_memzero(batch->table, 2 * batch->slots * sizeof(uint32_t));
}


ngx_int_t
ngx_http_apikey_batch_take(ngx_http_apikey_batch_t *batch,
    const u_char *frames, size_t len, ngx_http_apikey_batch_conf_t *conf)
{
    ngx_int_t  rc;

    rc = ngx_http_apikey_batch_fill(batch, frames, len, conf);

    if (rc == NGX_DECLINED) {
        batch->wide = 1;
        ngx_http_apikey_batch_clear(batch);

        rc = ngx_http_apikey_batch_fill(batch, frames, len, conf);
    }

    return rc == NGX_OK ? NGX_OK : NGX_ERROR;
}


/* NGX_DECLINED: an event needs wide rows. */

static ngx_int_t
ngx_http_apikey_batch_fill(ngx_http_apikey_batch_t *batch,
    const u_char *frames, size_t len, ngx_http_apikey_batch_conf_t *conf)
{
    size_t          pos;
    ngx_int_t       rc;
    apikey_frame_t  frame;

    for (pos = batch->taken; pos < len && !batch->more;
         pos += sizeof(apikey_frame_t) + frame.size)
    {
        ngx_memcpy(&frame, frames + pos, sizeof(apikey_frame_t));

        rc = ngx_http_apikey_batch_frame(batch, frames + pos, conf);

        if (rc == NGX_DONE) {
            batch->more = 1;

        } else if (rc != NGX_OK) {
            return rc;
        }
    }

    batch->taken = len;

    return NGX_OK;
}


ngx_int_t
ngx_http_apikey_batch_build(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_conf_t *conf)
{
    if (batch->count) {
        ngx_http_apikey_batch_sql(batch, conf);
    }

    return batch->sql.failed || batch->copy.failed || batch->rows.failed
           || batch->used.failed || batch->ran.failed ? NGX_ERROR : NGX_OK;
}


/* Events in frames */

ngx_uint_t
ngx_http_apikey_batch_events(const u_char *frames, size_t len)
{
    size_t          pos;
    ngx_uint_t      count;
    apikey_frame_t  frame;

    count = 0;

    for (pos = 0; pos < len; pos += sizeof(apikey_frame_t) + frame.size) {
        ngx_memcpy(&frame, frames + pos, sizeof(apikey_frame_t));
        count += frame.count;
    }

    return count;
}


static ngx_int_t
ngx_http_apikey_batch_frame(ngx_http_apikey_batch_t *batch,
    const u_char *frame, ngx_http_apikey_batch_conf_t *conf)
{
    ngx_int_t                        rc;
    ngx_uint_t                       n;
    apikey_decoder_t                *d;
    ngx_http_apikey_batch_ahead_t   *a;
    ngx_http_apikey_batch_stream_t  *stream;

    d = &batch->decoder;
    apikey_frame_open(d, frame);
    batch->entries = 0;
    batch->decoded = 0;

    if (d->frame.first + d->frame.count - 1
        <= apikey_marks_get(conf->marks, d->frame.stream, d->frame.epoch))
    {
        return NGX_OK;
    }

    stream = ngx_http_apikey_batch_stream(batch, &d->frame, conf);
    if (stream == NULL) {
        return NGX_DONE;
    }

    for (n = 0; (a = ngx_http_apikey_batch_next(batch, n)) != NULL; n++) {

        if (a->number <= stream->last) {
            continue;
        }

        if (batch->count == conf->max || ngx_http_apikey_batch_full(batch)) {
            return NGX_DONE;
        }

        if (a->number > stream->last + 1) {

            /* one gap a batch: the first one is what the ledger tells */

            if (conf->no_gap || stream->first) {
                return NGX_DONE;
            }

            batch->lost += a->number - stream->last - 1;
        }

        if (stream->first == 0) {
            stream->first = a->number;
        }

        stream->last = a->number;
        batch->number = a->number;
        batch->count++;

        rc = ngx_http_apikey_batch_event(batch, a, conf);

        if (rc != NGX_OK) {
            return rc;
        }
    }

    return NGX_OK;
}


/* A table that began with few events may be half full before any other end. */

static ngx_uint_t
ngx_http_apikey_batch_full(const ngx_http_apikey_batch_t *batch)
{
    size_t  rows;

    rows = ngx_min(batch->slots / 2, NGX_HTTP_APIKEY_ROWS_MAX);

    return batch->copy.len > NGX_HTTP_APIKEY_COPY_MAX
           || batch->rows.len > rows * sizeof(ngx_http_apikey_row_t)
           || batch->used.len
              > batch->slots / 2 * sizeof(ngx_http_apikey_used_t);
}


static ngx_http_apikey_batch_stream_t *
ngx_http_apikey_batch_stream(ngx_http_apikey_batch_t *batch,
    const apikey_frame_t *frame, ngx_http_apikey_batch_conf_t *conf)
{
    ngx_uint_t                       i;
    ngx_http_apikey_batch_stream_t  *stream;

    for (i = 0; i < batch->nstreams; i++) {
        stream = &batch->stream[i];

        if (stream->stream == frame->stream && stream->epoch == frame->epoch) {
            return stream;
        }
    }

    if (batch->nstreams == NGX_HTTP_APIKEY_RINGS) {
        return NULL;
    }

    stream = &batch->stream[batch->nstreams++];
    stream->stream = frame->stream;
    stream->epoch = frame->epoch;
    stream->mark = apikey_marks_get(conf->marks, frame->stream, frame->epoch);
    stream->first = 0;
    stream->last = stream->mark;

    return stream;
}


static ngx_int_t
ngx_http_apikey_batch_event(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_ahead_t *a, ngx_http_apikey_batch_conf_t *conf)
{
    apikey_event_t  *event;

    event = &a->event;

    if (event->shape.kind == APIKEY_RECORD_EVENT
        && event->count.time < conf->runs_to)
    {
        ngx_http_apikey_text_uuid(&batch->ran, event->count.event);
        ngx_http_apikey_text_put(&batch->ran, ",");
    }

    if (conf->poison) {
        ngx_http_apikey_batch_poison(batch, event, conf);
        return NGX_OK;
    }

    if (event->shape.kind != APIKEY_RECORD_SUM && !conf->no_raw) {
        if (ngx_http_apikey_batch_copy(batch, event, conf) != NGX_OK) {
            return NGX_DECLINED;
        }

        batch->raw = 1;
    }

    if (event->shape.kind == APIKEY_RECORD_DETAIL) {
        return NGX_OK;
    }

    return ngx_http_apikey_batch_roll(batch, a);
}
