
/*
 * Packed frames back into events.  What it reads may be damaged: nothing is
 * trusted but what the frame's checksum was checked for, and not that much.
 *
 * Plain C, no allocation; texts point into the dictionary.
 */


#include <string.h>

#include "base/serial.h"
#include "base/uuid.h"
#include "base/varint.h"
#include "usage/unpack_entry.h"
#include "usage/record_flags.h"


static const apikey_unpack_entry_t *apikey_unpack_find(
    const apikey_unpacker_t *u, uint64_t number, uint32_t kind);
static void apikey_unpack_shape(apikey_unpacker_t *u,
    const apikey_unpack_entry_t *shape, apikey_event_t *event);
static bool apikey_unpack_client(const apikey_unpacker_t *u, uint64_t number,
    uint8_t address[16]);
static bool apikey_unpack_session(const apikey_unpacker_t *u, uint64_t number,
    apikey_event_t *event);
static bool apikey_unpack_id(apikey_unpacker_t *u, apikey_count_t *count,
    uint64_t flags);
static bool apikey_unpack_counts(apikey_unpacker_t *u, apikey_count_t *c,
    const apikey_unpack_entry_t *shape, uint64_t flags);
static bool apikey_unpack_rest(apikey_unpacker_t *u, apikey_count_t *c,
    const apikey_unpack_entry_t *shape, uint64_t flags);


uint64_t
apikey_unpack_number(const apikey_unpacker_t *u)
{
    return u->number;
}


apikey_unpack_e
apikey_unpack_open(apikey_unpacker_t *u, const uint8_t *frame)
{
    uint64_t         n;
    apikey_unpack_e  rc;

    memcpy(&u->frame, frame, sizeof(apikey_frame_t));

    u->pos = frame + sizeof(apikey_frame_t);
    u->end = u->pos + u->frame.size;
    u->time = u->frame.time;
    u->serial = 0;
    u->number = u->frame.first - 1;
    u->left = 0;

    if (!apikey_varint_get(&u->pos, u->end, &n)) {
        return APIKEY_UNPACK_BAD;
    }

    for (/* void */; n; n--) {
        rc = apikey_unpack_entry(u);

        if (rc != APIKEY_UNPACK_OK) {
            return rc;
        }
    }

    if (u->end - u->pos < (ptrdiff_t) sizeof(uint64_t)) {
        return APIKEY_UNPACK_BAD;
    }

    memcpy(&u->ids, u->pos, sizeof(uint64_t));
    u->pos += sizeof(uint64_t);
    u->left = u->frame.count;

    return APIKEY_UNPACK_OK;
}


int
apikey_unpack_next(apikey_unpacker_t *u, apikey_event_t *event)
{
    int64_t                       delta;
    uint64_t                      flags, number, client, session;
    apikey_count_t               *count;
    const apikey_unpack_entry_t  *shape;

    if (u->left == 0) {
        return 0;
    }

    u->left--;
    u->number++;
    count = &event->count;

    if (!apikey_varint_get(&u->pos, u->end, &flags)
        || !apikey_unpack_reference(u, &number))
    {
        return -1;
    }

    shape = apikey_unpack_find(u, number, APIKEY_PACK_SHAPE);
    client = shape ? shape->client : APIKEY_PACK_NONE;
    session = APIKEY_PACK_NONE;

    if (((flags & APIKEY_PACK_OTHER) && !apikey_unpack_reference(u, &client))
        || !apikey_varint_get_signed(&u->pos, u->end, &delta))
    {
        return -1;
    }

    u->time = (int64_t) ((uint64_t) u->time + (uint64_t) delta);
    count->time = u->time;

    if (!apikey_unpack_id(u, count, flags)
        || !apikey_unpack_counts(u, count, shape, flags)
        || ((flags & APIKEY_PACK_TALK)
            && !apikey_unpack_reference(u, &session)))
    {
        return -1;
    }

    if (shape == NULL || !apikey_unpack_client(u, client, count->client)) {
        return 2;
    }

    event->entry = (unsigned) number;
    apikey_unpack_shape(u, shape, event);

    return !(flags & APIKEY_PACK_TALK)
           || apikey_unpack_session(u, session, event) ? 1 : 2;
}


static const apikey_unpack_entry_t *
apikey_unpack_find(const apikey_unpacker_t *u, uint64_t number, uint32_t kind)
{
    return number < u->n && u->entry[number].kind == kind ? &u->entry[number]
                                                          : NULL;
}


static void
apikey_unpack_shape(apikey_unpacker_t *u, const apikey_unpack_entry_t *shape,
    apikey_event_t *event)
{
    unsigned        i;
    const uint8_t  *p;

    p = u->text + shape->offset;
    memcpy(&event->shape, p, sizeof(apikey_shape_t));
    p += sizeof(apikey_shape_t);

    for (i = 0; i < APIKEY_TEXTS; i++) {
        event->text[i] = (const char *) p;
        p += event->shape.len[i];
    }
}


static bool
apikey_unpack_client(const apikey_unpacker_t *u, uint64_t number,
    uint8_t address[16])
{
    const apikey_unpack_entry_t  *client;

    client = apikey_unpack_find(u, number, APIKEY_PACK_CLIENT);

    if (client == NULL) {
        client = apikey_unpack_find(u, number, APIKEY_PACK_CLIENT4);
    }

    if (client) {
        memcpy(address, u->text + client->offset, 16);
    }

    return client != NULL;
}


static bool
apikey_unpack_session(const apikey_unpacker_t *u, uint64_t number,
    apikey_event_t *event)
{
    const apikey_unpack_entry_t  *session;

    session = apikey_unpack_find(u, number, APIKEY_PACK_SESSION);

    if (session) {
        event->shape.len[APIKEY_TEXT_SESSION] = (uint8_t) session->len;
        event->text[APIKEY_TEXT_SESSION] = (const char *) u->text
                                           + session->offset;
    }

    return session != NULL;
}


static bool
apikey_unpack_id(apikey_unpacker_t *u, apikey_count_t *count, uint64_t flags)
{
    int64_t   delta;
    uint64_t  n, stamp;
    unsigned  i;

    memset(count->event, 0, 16);

    if (flags & APIKEY_PACK_NO_ID) {
        return true;
    }

    if (flags & APIKEY_PACK_RAW_ID) {
        if (u->end - u->pos < 16) {
            return false;
        }

        memcpy(count->event, u->pos, 16);
        u->pos += 16;

        return true;
    }

    stamp = apikey_record_stamp(count->time);

    if (flags & APIKEY_PACK_STAMP) {
        if (!apikey_varint_get_signed(&u->pos, u->end, &delta)) {
            return false;
        }

        stamp += (uint64_t) delta;
    }

    if (!apikey_varint_get_signed(&u->pos, u->end, &delta)) {
        return false;
    }

    u->serial = (u->serial + 1 + (uint64_t) delta) & APIKEY_SERIAL_MASK;
    n = apikey_serial_hide(u->ids, u->serial);

    apikey_uuid_stamp_put(count->event, stamp);

    for (i = 16; i-- > 8; n >>= 8) {
        count->event[i] = (uint8_t) n;
    }

    count->event[8] |= 0x80;

    return true;
}


static bool
apikey_unpack_counts(apikey_unpacker_t *u, apikey_count_t *c,
    const apikey_unpack_entry_t *shape, uint64_t flags)
{
    int64_t   delta;
    uint64_t  unit;

    c->bytes_in = shape ? shape->in : 0;
    c->bytes_out = shape ? shape->out : 0;
    unit = flags & APIKEY_PACK_FINE ? 1 : 1000;

    if (flags & APIKEY_PACK_IN) {
        if (!apikey_varint_get_signed(&u->pos, u->end, &delta)) {
            return false;
        }

        c->bytes_in += (uint64_t) delta;
    }

    if (((flags & APIKEY_PACK_OUT)
         && !apikey_varint_get(&u->pos, u->end, &c->bytes_out))
        || !apikey_varint_get(&u->pos, u->end, &c->duration))
    {
        return false;
    }

    c->upstream = c->duration;

    if (flags & APIKEY_PACK_UPSTREAM) {
        if (!apikey_varint_get_signed(&u->pos, u->end, &delta)) {
            return false;
        }

        c->upstream -= (uint64_t) delta;
    }

    c->duration *= unit;
    c->upstream *= unit;

    return apikey_unpack_rest(u, c, shape, flags);
}


static bool
apikey_unpack_rest(apikey_unpacker_t *u, apikey_count_t *c,
    const apikey_unpack_entry_t *shape, uint64_t flags)
{
    unsigned  i;

    memset(c->tokens, 0, sizeof(c->tokens));
    c->cost = 0;
    c->count = 1;
    c->remaining = 0;
    c->price = shape ? shape->price : 0;

    for (i = 0; (flags & APIKEY_PACK_TOKENS) && i < 4; i++) {
        if (!apikey_varint_get(&u->pos, u->end, &c->tokens[i])) {
            return false;
        }
    }

    return (!(flags & APIKEY_PACK_COST)
            || apikey_varint_get_signed(&u->pos, u->end, &c->cost))
           && (!(flags & APIKEY_PACK_COUNT)
               || apikey_varint_get(&u->pos, u->end, &c->count))
           && (!(flags & APIKEY_PACK_REMAIN)
               || apikey_varint_get(&u->pos, u->end, &c->remaining))
           && (!(flags & APIKEY_PACK_PRICE)
               || apikey_varint_get(&u->pos, u->end, &c->price));
}
