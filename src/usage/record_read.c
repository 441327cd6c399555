
/*
 * Frames back into usage records.  What it reads may be damaged: nothing is
 * trusted but what the frame's checksum was checked for, and not that much.
 *
 * Plain C, no allocation; texts point into the frame.
 */


#include <string.h>

#include "base/crc.h"
#include "base/uuid.h"
#include "base/varint.h"
#include "usage/record.h"
#include "usage/record_flags.h"


static bool apikey_get(apikey_decoder_t *d, uint64_t *n);
static bool apikey_get_signed(apikey_decoder_t *d, int64_t *n);
static bool apikey_get_bytes(apikey_decoder_t *d, void *p, size_t len);
static bool apikey_get_entry(apikey_decoder_t *d, unsigned *number);
static bool apikey_get_shape(apikey_decoder_t *d, apikey_event_t *event);
static bool apikey_get_id(apikey_decoder_t *d, apikey_count_t *count,
    unsigned flags);
static bool apikey_get_counts(apikey_decoder_t *d, apikey_event_t *event,
    unsigned flags);


apikey_frame_e
apikey_frame_check(const uint8_t *buf, size_t len, apikey_frame_t *frame,
    bool whole)
{
    if (len < sizeof(apikey_frame_t)) {
        return APIKEY_FRAME_NONE;
    }

    memcpy(frame, buf, sizeof(apikey_frame_t));

    if (frame->magic == 0) {
        return APIKEY_FRAME_NONE;
    }

    if ((frame->magic != APIKEY_FRAME_MAGIC
         && frame->magic != APIKEY_FRAME_PACKED)
        || frame->count == 0
        || frame->count > APIKEY_FRAME_EVENTS
        || frame->size > APIKEY_FRAME_MAX || frame->first == 0)
    {
        return APIKEY_FRAME_BAD;
    }

    if (!whole) {
        return APIKEY_FRAME_OK;
    }

    if (len - sizeof(apikey_frame_t) < frame->size) {
        return APIKEY_FRAME_SHORT;
    }

    if (apikey_crc32c(0, buf + offsetof(apikey_frame_t, size),
                      sizeof(apikey_frame_t) + frame->size
                      - offsetof(apikey_frame_t, size))
        != frame->crc)
    {
        return APIKEY_FRAME_BAD;
    }

    return APIKEY_FRAME_OK;
}


void
apikey_frame_open(apikey_decoder_t *d, const uint8_t *buf)
{
    memcpy(&d->frame, buf, sizeof(apikey_frame_t));

    d->payload = buf + sizeof(apikey_frame_t);
    d->pos = d->payload;
    d->end = d->payload + d->frame.size;
    d->last = d->frame.time;
    d->left = d->frame.count;
    d->entries = 0;
    d->number = d->frame.first - 1;
}


int
apikey_frame_next(apikey_decoder_t *d, apikey_event_t *event)
{
    int64_t          delta;
    unsigned         client, session;
    uint8_t          flags;
    apikey_count_t  *count;

    if (d->left == 0) {
        return 0;
    }

    d->left--;
    d->number++;
    count = &event->count;

    if (!apikey_get_bytes(d, &flags, 1)
        || !apikey_get_shape(d, event)
        || !apikey_get_entry(d, &client)
        || d->len[client] != 16)
    {
        return -1;
    }

    memcpy(count->client, d->payload + d->offset[client], 16);

    if (flags & APIKEY_FLAG_SESSION) {
        if (!apikey_get_entry(d, &session)
            || d->len[session] > APIKEY_TEXT_MAX)
        {
            return -1;
        }

        event->text[APIKEY_TEXT_SESSION] = (const char *) d->payload
                                           + d->offset[session];
        event->shape.len[APIKEY_TEXT_SESSION] = (uint8_t) d->len[session];
    }

    if (!apikey_get_signed(d, &delta)) {
        return -1;
    }

    count->time = (int64_t) ((uint64_t) d->last + (uint64_t) delta);
    d->last = count->time;

    if (!apikey_get_id(d, count, flags)
        || !apikey_get_counts(d, event, flags))
    {
        return -1;
    }

    return 1;
}


static bool
apikey_get_shape(apikey_decoder_t *d, apikey_event_t *event)
{
    size_t       left;
    unsigned     i;
    const char  *p;

    if (!apikey_get_entry(d, &event->entry)
        || d->len[event->entry] < sizeof(apikey_shape_t))
    {
        return false;
    }

    p = (const char *) d->payload + d->offset[event->entry];
    left = d->len[event->entry] - sizeof(apikey_shape_t);

    memcpy(&event->shape, p, sizeof(apikey_shape_t));
    p += sizeof(apikey_shape_t);

    event->shape.len[APIKEY_TEXT_SESSION] = 0;

    for (i = 0; i < APIKEY_TEXTS; i++) {
        if (event->shape.len[i] > left) {
            return false;
        }

        event->text[i] = p;
        p += event->shape.len[i];
        left -= event->shape.len[i];
    }

    return event->shape.kind < APIKEY_RECORDS;
}


static bool
apikey_get_id(apikey_decoder_t *d, apikey_count_t *count, unsigned flags)
{
    int64_t   delta;
    uint64_t  stamp;

    memset(count->event, 0, 16);

    if (flags & APIKEY_FLAG_RAW_ID) {
        return apikey_get_bytes(d, count->event, 16);
    }

    if (!(flags & APIKEY_FLAG_ID)) {
        return true;
    }

    if (!apikey_get_signed(d, &delta)) {
        return false;
    }

    stamp = apikey_record_stamp(count->time) + (uint64_t) delta;

    apikey_uuid_stamp_put(count->event, stamp);

    return apikey_get_bytes(d, count->event + 8, 8);
}


static bool
apikey_get_counts(apikey_decoder_t *d, apikey_event_t *event, unsigned flags)
{
    int64_t          overhead;
    apikey_count_t  *c;

    c = &event->count;

    if (!apikey_get(d, &c->bytes_in) || !apikey_get(d, &c->bytes_out)
        || !apikey_get(d, &c->duration) || !apikey_get_signed(d, &overhead))
    {
        return false;
    }

    c->upstream = c->duration - (uint64_t) overhead;
    memset(c->tokens, 0, sizeof(c->tokens));
    c->cost = 0;
    c->count = 1;
    c->remaining = 0;
    c->price = 0;

    if ((flags & APIKEY_FLAG_TOKENS)
        && !(apikey_get(d, &c->tokens[0]) && apikey_get(d, &c->tokens[1])
             && apikey_get(d, &c->tokens[2]) && apikey_get(d, &c->tokens[3])))
    {
        return false;
    }

    return (!(flags & APIKEY_FLAG_COST) || apikey_get_signed(d, &c->cost))
           && (!(flags & APIKEY_FLAG_COUNT) || apikey_get(d, &c->count))
           && (!(flags & APIKEY_FLAG_REMAIN) || apikey_get(d, &c->remaining))
           && (!(flags & APIKEY_FLAG_PRICE) || apikey_get(d, &c->price));
}


static bool
apikey_get(apikey_decoder_t *d, uint64_t *n)
{
    return apikey_varint_get(&d->pos, d->end, n);
}


static bool
apikey_get_signed(apikey_decoder_t *d, int64_t *n)
{
    return apikey_varint_get_signed(&d->pos, d->end, n);
}


static bool
apikey_get_bytes(apikey_decoder_t *d, void *p, size_t len)
{
    if ((size_t) (d->end - d->pos) < len) {
        return false;
    }

    memcpy(p, d->pos, len);
    d->pos += len;

    return true;
}


static bool
apikey_get_entry(apikey_decoder_t *d, unsigned *number)
{
    uint64_t  n, len;

    if (!apikey_get(d, &n) || n > d->entries) {
        return false;
    }

    *number = (unsigned) n;

    if (n < d->entries) {
        return true;
    }

    if (d->entries == APIKEY_FRAME_TABLE || !apikey_get(d, &len)
        || len > (uint64_t) (d->end - d->pos))
    {
        return false;
    }

    d->offset[n] = (uint32_t) (d->pos - d->payload);
    d->len[n] = (uint32_t) len;
    d->pos += len;
    d->entries++;

    return true;
}
