
/*
 * The roll-ups of a batch: a row for what many events have in common, and
 * when each secret was used last.
 *
 * With many keys each event touches memory that nothing has touched for long.
 * So events are decoded before their turn comes, and what they will touch is
 * asked for: a slot of the table, then the row it names, then the row's texts.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "base/crc.h"
#include "base/fetch.h"
#include "usage/ship.h"


#define NGX_HTTP_APIKEY_QUARTER  900000000LL

/* events from one of these steps to the next */
#define NGX_HTTP_APIKEY_STAGE    2


static void ngx_http_apikey_batch_slot_ahead(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_ahead_t *a);
static void ngx_http_apikey_batch_row_ahead(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_ahead_t *a);
static void ngx_http_apikey_batch_text_ahead(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_ahead_t *a);
static void ngx_http_apikey_batch_add(ngx_http_apikey_row_t *row,
    apikey_event_t *event);
static int64_t ngx_http_apikey_batch_quarter(apikey_event_t *event);
static uint32_t *ngx_http_apikey_batch_slot(ngx_http_apikey_batch_t *batch,
    uint32_t i);
static uint32_t *ngx_http_apikey_batch_used_slot(
    ngx_http_apikey_batch_t *batch, uint32_t i);
static ngx_http_apikey_row_t *ngx_http_apikey_batch_row(
    ngx_http_apikey_batch_t *batch, ngx_http_apikey_batch_ahead_t *a);
static size_t ngx_http_apikey_batch_texts(const u_char *len);
static uint32_t ngx_http_apikey_batch_hash(apikey_event_t *event,
    int64_t start);
static ngx_uint_t ngx_http_apikey_batch_same(ngx_http_apikey_row_t *row,
    apikey_event_t *event, int64_t start);
static void ngx_http_apikey_batch_used(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_ahead_t *a);


ngx_http_apikey_batch_ahead_t *
ngx_http_apikey_batch_next(ngx_http_apikey_batch_t *batch, ngx_uint_t n)
{
    ngx_http_apikey_batch_ahead_t  *a;

    while (batch->decoded - n < NGX_HTTP_APIKEY_EVENTS_AHEAD) {
        a = &batch->ahead[batch->decoded % NGX_HTTP_APIKEY_EVENTS_AHEAD];

        if (apikey_frame_next(&batch->decoder, &a->event) != 1) {
            batch->decoder.left = 0;     /* nothing behind nonsense */
            break;
        }

        a->number = batch->decoder.number;
        ngx_http_apikey_batch_slot_ahead(batch, a);

        batch->decoded++;
    }

    if (n + 2 * NGX_HTTP_APIKEY_STAGE < batch->decoded) {
        ngx_http_apikey_batch_row_ahead(batch,
                           &batch->ahead[(n + 2 * NGX_HTTP_APIKEY_STAGE)
                                         % NGX_HTTP_APIKEY_EVENTS_AHEAD]);
    }

    if (n + NGX_HTTP_APIKEY_STAGE < batch->decoded) {
        ngx_http_apikey_batch_text_ahead(batch,
                           &batch->ahead[(n + NGX_HTTP_APIKEY_STAGE)
                                         % NGX_HTTP_APIKEY_EVENTS_AHEAD]);
    }

    return n < batch->decoded
           ? &batch->ahead[n % NGX_HTTP_APIKEY_EVENTS_AHEAD] : NULL;
}


/* Its row where that is known, else where to look for it. */

static void
ngx_http_apikey_batch_slot_ahead(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_ahead_t *a)
{
    apikey_event_t           *event;
    ngx_http_apikey_row_t    *rows;
    ngx_http_apikey_used_t   *used;
    ngx_http_apikey_entry_t  *entry;

    event = &a->event;
    a->fresh = 0;

    if (event->shape.kind != APIKEY_RECORD_EVENT) {
        return;
    }

    if (event->entry < batch->entries && batch->entry[event->entry].row) {
        entry = &batch->entry[event->entry];
        rows = (ngx_http_apikey_row_t *) batch->rows.data;
        apikey_fetch(&rows[entry->row - 1]);

        if (entry->used) {
            used = (ngx_http_apikey_used_t *) batch->used.data;
            apikey_fetch(&used[entry->used - 1]);
        }

        return;
    }

    a->fresh = 1;

    a->hash = ngx_http_apikey_batch_hash(event,
                                         ngx_http_apikey_batch_quarter(event));
    apikey_fetch(ngx_http_apikey_batch_slot(batch, a->hash));

    a->used = apikey_crc32c(0, event->shape.secret, 16);
    apikey_fetch(ngx_http_apikey_batch_used_slot(batch, a->used));
}


static void
ngx_http_apikey_batch_row_ahead(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_ahead_t *a)
{
    uint32_t                 n;
    ngx_http_apikey_row_t   *rows;
    ngx_http_apikey_used_t  *used;

    if (!a->fresh) {
        return;
    }

    n = *ngx_http_apikey_batch_slot(batch, a->hash);

    if (n) {
        rows = (ngx_http_apikey_row_t *) batch->rows.data;
        apikey_fetch(&rows[n - 1]);
        apikey_fetch(rows[n - 1].key);
    }

    n = *ngx_http_apikey_batch_used_slot(batch, a->used);

    if (n) {
        used = (ngx_http_apikey_used_t *) batch->used.data;
        apikey_fetch(&used[n - 1]);
    }
}


static void
ngx_http_apikey_batch_text_ahead(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_ahead_t *a)
{
    uint32_t                n;
    ngx_http_apikey_row_t  *rows;

    if (!a->fresh) {
        return;
    }

    n = *ngx_http_apikey_batch_slot(batch, a->hash);

    if (n) {
        rows = (ngx_http_apikey_row_t *) batch->rows.data;
        apikey_fetch(rows[n - 1].text);
    }
}


ngx_int_t
ngx_http_apikey_batch_roll(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_ahead_t *a)
{
    apikey_event_t         *event;
    ngx_http_apikey_row_t  *row;

    event = &a->event;

    while (batch->entries <= event->entry) {
        ngx_memzero(&batch->entry[batch->entries++],
                    sizeof(ngx_http_apikey_entry_t));
    }

    row = ngx_http_apikey_batch_row(batch, a);
    if (row == NULL) {
        return NGX_ERROR;
    }

    if (event->shape.kind == APIKEY_RECORD_SUM) {
        row->refused += event->count.count;
        return NGX_OK;
    }

    ngx_http_apikey_batch_add(row, event);
    ngx_http_apikey_batch_used(batch, a);

    return NGX_OK;
}


/* A line of the row's that need not be touched is not. */

static void
ngx_http_apikey_batch_add(ngx_http_apikey_row_t *row, apikey_event_t *event)
{
    ngx_uint_t       i;
    apikey_count_t  *c;

    c = &event->count;

    row->requests++;
    row->units += event->shape.weight;

    if (event->shape.status >= 400) {
        row->errors++;
    }

    for (i = 0; i < 4; i++) {
        if (c->tokens[i]) {
            row->tokens[i] += c->tokens[i];
        }
    }

    if (c->cost < 0) {
        row->unpriced++;

    } else if (c->cost > 0) {
        row->cost += (uint64_t) c->cost;
    }

    row->in += c->bytes_in;
    row->out += c->bytes_out;
    row->duration += c->duration;

    if (c->time > row->last) {
        row->last = c->time;
    }
}


static int64_t
ngx_http_apikey_batch_quarter(apikey_event_t *event)
{
    return event->count.time - event->count.time % NGX_HTTP_APIKEY_QUARTER;
}


static uint32_t *
ngx_http_apikey_batch_slot(ngx_http_apikey_batch_t *batch, uint32_t i)
{
    return &batch->table[i & (batch->slots - 1)];
}


static uint32_t *
ngx_http_apikey_batch_used_slot(ngx_http_apikey_batch_t *batch, uint32_t i)
{
    return &batch->table[batch->slots + (i & (batch->slots - 1))];
}


static ngx_http_apikey_row_t *
ngx_http_apikey_batch_row(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_ahead_t *a)
{
    int64_t                   start;
    uint32_t                  hash, i, *slot;
    apikey_event_t           *event;
    ngx_http_apikey_row_t    *row;
    ngx_http_apikey_entry_t  *entry;

    event = &a->event;
    start = ngx_http_apikey_batch_quarter(event);
    entry = &batch->entry[event->entry];

    if (entry->row) {
        row = (ngx_http_apikey_row_t *) batch->rows.data + (entry->row - 1);

        if (row->start == start) {
            return row;
        }
    }

    hash = a->fresh ? a->hash : ngx_http_apikey_batch_hash(event, start);

    for (i = hash; ; i++) {
        slot = ngx_http_apikey_batch_slot(batch, i);

        if (*slot == 0) {
            break;
        }

        row = (ngx_http_apikey_row_t *) batch->rows.data + (*slot - 1);

        if (row->hash == hash
            && ngx_http_apikey_batch_same(row, event, start))
        {
            entry->row = *slot;
            return row;
        }
    }

    row = ngx_http_apikey_text_add(&batch->rows,
                                   sizeof(ngx_http_apikey_row_t));
    if (row == NULL) {
        return NULL;
    }

    *slot = (uint32_t) (batch->rows.len / sizeof(ngx_http_apikey_row_t));
    entry->row = *slot;

    ngx_memzero(row, sizeof(ngx_http_apikey_row_t));
    ngx_memcpy(row->key, event->shape.key, 16);
    ngx_memcpy(row->len, event->shape.len, sizeof(row->len));
    row->text = event->text[0];
    row->status = event->shape.status;
    row->verdict = event->shape.verdict;
    row->outcome = (u_char) ngx_http_apikey_outcome(&event->shape);
    row->start = start;
    row->hash = hash;

    return row;
}


/* Of all texts but the session's, which stand one after another. */

static size_t
ngx_http_apikey_batch_texts(const u_char *len)
{
    size_t      size;
    ngx_uint_t  i;

    size = 0;

    for (i = 0; i < APIKEY_TEXT_SESSION; i++) {
        size += len[i];
    }

    return size;
}


static uint32_t
ngx_http_apikey_batch_hash(apikey_event_t *event, int64_t start)
{
    uint32_t  hash;

    hash = apikey_crc32c((uint32_t) start, event->shape.key, 16);
    hash = apikey_crc32c(hash, event->shape.len, APIKEY_TEXT_SESSION);
    hash = apikey_crc32c(hash, event->text[0],
                         ngx_http_apikey_batch_texts(event->shape.len));

    return hash + event->shape.status * 31 + event->shape.verdict;
}


static ngx_uint_t
ngx_http_apikey_batch_same(ngx_http_apikey_row_t *row, apikey_event_t *event,
    int64_t start)
{
    apikey_shape_t  *shape;

    shape = &event->shape;

    return row->start == start && row->status == shape->status
           && row->verdict == shape->verdict
           && row->outcome == ngx_http_apikey_outcome(shape)
           && ngx_memcmp(row->key, shape->key, 16) == 0
           && ngx_memcmp(row->len, shape->len, sizeof(row->len)) == 0
           && ngx_memcmp(row->text, event->text[0],
                         ngx_http_apikey_batch_texts(row->len)) == 0;
}


static void
ngx_http_apikey_batch_used(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_ahead_t *a)
{
    uint32_t                 i, *slot, *known;
    apikey_event_t          *event;
    ngx_http_apikey_used_t  *used;
    static u_char            none[16];

    event = &a->event;

    if (ngx_memcmp(event->shape.secret, none, 16) == 0) {
        return;
    }

    known = &batch->entry[event->entry].used;

    if (*known) {
        used = (ngx_http_apikey_used_t *) batch->used.data + (*known - 1);
        used->last = ngx_max(used->last, event->count.time);
        return;
    }

    i = a->fresh ? a->used : apikey_crc32c(0, event->shape.secret, 16);

    for ( /* void */ ; ; i++) {
        slot = ngx_http_apikey_batch_used_slot(batch, i);

        if (*slot == 0) {
            break;
        }

        used = (ngx_http_apikey_used_t *) batch->used.data + (*slot - 1);

        if (ngx_memcmp(used->secret, event->shape.secret, 16) == 0) {
            used->last = ngx_max(used->last, event->count.time);
            *known = *slot;
            return;
        }
    }

    used = ngx_http_apikey_text_add(&batch->used,
                                    sizeof(ngx_http_apikey_used_t));
    if (used == NULL) {
        return;
    }

    *slot = (uint32_t) (batch->used.len / sizeof(ngx_http_apikey_used_t));
    *known = *slot;

    ngx_memcpy(used->secret, event->shape.secret, 16);
    used->last = event->count.time;
}
