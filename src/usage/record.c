
/*
 * Packing usage records into frames.
 *
 * A record is: flags, number of its shape, number of its client, times and
 * counts as varints, the random half of its id.  A dictionary number that
 * was not seen before is followed by the entry itself.
 *
 * Plain C, no allocation.
 */


#include <string.h>

#include "base/crc.h"
#include "base/fetch.h"
#include "base/uuid.h"
#include "base/varint.h"
#include "usage/record.h"
#include "usage/record_flags.h"


/* of a record without its dictionary entries */
#define APIKEY_RECORD_BOUND  192


/* A shape as it stands in a dictionary, where it does not in the record. */

typedef struct {
    apikey_shape_t  shape;
    char            text[APIKEY_TEXTS * APIKEY_TEXT_MAX];
} apikey_shape_copy_t;


static void apikey_put(apikey_encoder_t *e, uint64_t n);
static void apikey_put_signed(apikey_encoder_t *e, int64_t n);
static void apikey_put_bytes(apikey_encoder_t *e, const void *p, size_t len);
static const void *apikey_record_entry(const apikey_record_t *record,
    size_t texts, apikey_shape_copy_t *copy);
static const apikey_encoder_slot_t *apikey_entry_slot(
    const apikey_encoder_t *e, uint32_t hash);
static void apikey_put_entry(apikey_encoder_t *e, uint32_t hash,
    const void *p, size_t len);
static void apikey_put_id(apikey_encoder_t *e, const apikey_count_t *count,
    unsigned flags);
static void apikey_put_counts(apikey_encoder_t *e,
    const apikey_count_t *count, unsigned flags);
static unsigned apikey_record_flags(const apikey_record_t *record);


size_t
apikey_record_size(const apikey_shape_t *shape)
{
    size_t    size;
    unsigned  i;

    size = sizeof(apikey_record_t);

    for (i = 0; i < APIKEY_TEXTS; i++) {
        size += shape->len[i];
    }

    return size;
}


size_t
apikey_text_cut(const char *text, size_t len, size_t max)
{
    if (len <= max) {
        return len;
    }

    while (max && ((uint8_t) text[max] & 0xc0) == 0x80) {
        max--;
    }

    return max;
}


unsigned
apikey_client_shorten(uint8_t client[16], unsigned v4, unsigned v6)
{
    bool                  is_v4;
    size_t                at;
    unsigned              bits;
    static const uint8_t  mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                         0xff, 0xff };

    is_v4 = (memcmp(client, mapped, sizeof(mapped)) == 0);

    bits = is_v4 ? 96 + v4 : v6;
    at = bits / 8;

    if (at < 16) {
        client[at] &= (uint8_t) (0xff00 >> bits % 8);
        memset(client + at + 1, 0, 15 - at);
    }

    return is_v4 ? v4 : v6;
}


void
apikey_frame_begin(apikey_encoder_t *e, uint8_t *buf, size_t size,
    uint32_t stream, uint64_t epoch, uint64_t first)
{
    if (size > sizeof(apikey_frame_t) + APIKEY_FRAME_MAX) {
        size = sizeof(apikey_frame_t) + APIKEY_FRAME_MAX;
    }

    e->start = buf;
    e->end = buf + size;
    e->pos = buf + (size < sizeof(apikey_frame_t) ? size
                                                  : sizeof(apikey_frame_t));

    memset(&e->frame, 0, sizeof(apikey_frame_t));
    e->frame.magic = APIKEY_FRAME_MAGIC;
    e->frame.stream = stream;
    e->frame.epoch = epoch;
    e->frame.first = first;

    e->entries = 0;
    e->last = 0;

    if (++e->generation == 0) {
        memset(e->slot, 0, sizeof(e->slot));
        e->generation = 1;
    }
}


bool
apikey_frame_add(apikey_encoder_t *e, const apikey_record_t *record)
{
    apikey_record_hash_t  hash;

    apikey_frame_ahead(e, record, &hash);

    return apikey_frame_put(e, record, &hash);
}


void
apikey_frame_ahead(const apikey_encoder_t *e, const apikey_record_t *record,
    apikey_record_hash_t *hash)
{
    size_t               texts, session;
    const void          *p;
    apikey_shape_copy_t  copy;

    session = record->shape.len[APIKEY_TEXT_SESSION];
    texts = apikey_record_size(&record->shape) - sizeof(apikey_record_t)
            - session;

    p = apikey_record_entry(record, texts, &copy);

    hash->shape = apikey_crc32c(0, p, sizeof(apikey_shape_t) + texts);
    apikey_fetch(apikey_entry_slot(e, hash->shape));

    hash->client = apikey_crc32c(0, record->count.client, 16);
    apikey_fetch(apikey_entry_slot(e, hash->client));

    hash->session = 0;

    if (session) {
        hash->session = apikey_crc32c(0, record->text + texts, session);
        apikey_fetch(apikey_entry_slot(e, hash->session));
    }
}


bool
apikey_frame_put(apikey_encoder_t *e, const apikey_record_t *record,
    const apikey_record_hash_t *hash)
{
    size_t                 texts, session;
    unsigned               flags;
    const void            *p;
    apikey_shape_copy_t    copy;
    const apikey_count_t  *count;

    count = &record->count;
    texts = apikey_record_size(&record->shape) - sizeof(apikey_record_t);

    if (e->frame.count == APIKEY_FRAME_EVENTS
        || e->entries + 3 > APIKEY_FRAME_TABLE
        || (size_t) (e->end - e->pos)
           < APIKEY_RECORD_BOUND + sizeof(apikey_shape_t) + texts)
    {
        return false;
    }

    if (e->frame.count++ == 0) {
        e->frame.time = count->time;
        e->last = count->time;
    }

    session = record->shape.len[APIKEY_TEXT_SESSION];
    texts -= session;

    flags = apikey_record_flags(record);

    *e->pos++ = (uint8_t) flags;

    p = apikey_record_entry(record, texts, &copy);
    apikey_put_entry(e, hash->shape, p, sizeof(apikey_shape_t) + texts);

    apikey_put_entry(e, hash->client, count->client, 16);

    if (flags & APIKEY_FLAG_SESSION) {
        apikey_put_entry(e, hash->session, record->text + texts, session);
    }

    apikey_put_signed(e, (int64_t) ((uint64_t) count->time
                                    - (uint64_t) e->last));
    e->last = count->time;

    apikey_put_id(e, count, flags);

    apikey_put_counts(e, count, flags);

    return true;
}


/* Without a session it stands in the record as a dictionary has it. */

static const void *
apikey_record_entry(const apikey_record_t *record, size_t texts,
    apikey_shape_copy_t *copy)
{
    if (record->shape.len[APIKEY_TEXT_SESSION] == 0) {
        return (const uint8_t *) record + offsetof(apikey_record_t, shape);
    }

    copy->shape = record->shape;
    copy->shape.len[APIKEY_TEXT_SESSION] = 0;
    memcpy(copy->text, record->text, texts);

    return copy;
}


static void
apikey_put_counts(apikey_encoder_t *e, const apikey_count_t *count,
    unsigned flags)
{
    apikey_put(e, count->bytes_in);
    apikey_put(e, count->bytes_out);
    apikey_put(e, count->duration);
    apikey_put_signed(e, (int64_t) (count->duration - count->upstream));

    if (flags & APIKEY_FLAG_TOKENS) {
        apikey_put(e, count->tokens[0]);
        apikey_put(e, count->tokens[1]);
        apikey_put(e, count->tokens[2]);
        apikey_put(e, count->tokens[3]);
    }

    if (flags & APIKEY_FLAG_COST) {
        apikey_put_signed(e, count->cost);
    }

    if (flags & APIKEY_FLAG_COUNT) {
        apikey_put(e, count->count);
    }

    if (flags & APIKEY_FLAG_REMAIN) {
        apikey_put(e, count->remaining);
    }

    if (flags & APIKEY_FLAG_PRICE) {
        apikey_put(e, count->price);
    }
}


size_t
apikey_frame_end(apikey_encoder_t *e)
{
    size_t  size;

    if (e->frame.count == 0) {
        return 0;
    }

    size = (size_t) (e->pos - e->start);
    e->frame.size = (uint32_t) (size - sizeof(apikey_frame_t));

    memcpy(e->start, &e->frame, sizeof(apikey_frame_t));
    e->frame.crc = apikey_crc32c(0, e->start + offsetof(apikey_frame_t, size),
                                 size - offsetof(apikey_frame_t, size));
    memcpy(e->start, &e->frame, sizeof(apikey_frame_t));

    return size;
}


static unsigned
apikey_record_flags(const apikey_record_t *record)
{
    unsigned               flags;
    const apikey_count_t  *c;

    c = &record->count;

    if ((c->event[6] & 0xf0) == 0x70) {
        flags = APIKEY_FLAG_ID;

    } else if (record->shape.kind == APIKEY_RECORD_SUM) {
        flags = 0;

    } else {
        flags = APIKEY_FLAG_RAW_ID;
    }

    if (c->tokens[0] | c->tokens[1] | c->tokens[2] | c->tokens[3]) {
        flags |= APIKEY_FLAG_TOKENS;
    }

    if (c->cost != 0) {
        flags |= APIKEY_FLAG_COST;
    }

    if (record->shape.len[APIKEY_TEXT_SESSION]) {
        flags |= APIKEY_FLAG_SESSION;
    }

    if (c->count != 1) {
        flags |= APIKEY_FLAG_COUNT;
    }

    if (c->remaining) {
        flags |= APIKEY_FLAG_REMAIN;
    }

    if (c->price) {
        flags |= APIKEY_FLAG_PRICE;
    }

    return flags;
}


static void
apikey_put(apikey_encoder_t *e, uint64_t n)
{
    e->pos = apikey_varint_put(e->pos, n);
}


static void
apikey_put_signed(apikey_encoder_t *e, int64_t n)
{
    e->pos = apikey_varint_put_signed(e->pos, n);
}


static void
apikey_put_bytes(apikey_encoder_t *e, const void *p, size_t len)
{
    memcpy(e->pos, p, len);
    e->pos += len;
}


static const apikey_encoder_slot_t *
apikey_entry_slot(const apikey_encoder_t *e, uint32_t hash)
{
    return &e->slot[hash % APIKEY_FRAME_SLOTS];
}


static void
apikey_put_entry(apikey_encoder_t *e, uint32_t hash, const void *p,
    size_t len)
{
    uint32_t                i;
    const uint8_t          *payload;
    apikey_encoder_slot_t  *slot;

    payload = e->start + sizeof(apikey_frame_t);

    for (i = hash; ; i++) {
        slot = &e->slot[i % APIKEY_FRAME_SLOTS];

        if (slot->used != e->generation) {
            break;
        }

        if (slot->len == len && memcmp(payload + slot->offset, p, len) == 0) {
            apikey_put(e, slot->number);
            return;
        }
    }

    apikey_put(e, e->entries);
    apikey_put(e, len);

    slot->used = e->generation;
    slot->number = e->entries++;
    slot->len = (uint32_t) len;
    slot->offset = (uint32_t) (e->pos - payload);

    apikey_put_bytes(e, p, len);
}


static void
apikey_put_id(apikey_encoder_t *e, const apikey_count_t *count, unsigned flags)
{
    if (flags & APIKEY_FLAG_RAW_ID) {
        apikey_put_bytes(e, count->event, 16);

    } else if (flags & APIKEY_FLAG_ID) {
        apikey_put_signed(e, (int64_t) (apikey_uuid_stamp_get(count->event)
                                        - apikey_record_stamp(count->time)));
        apikey_put_bytes(e, count->event + 8, 8);
    }
}
