
/*
 * Frames packed for the spool: their events.
 *
 * Plain C, no allocation but the dictionary's.
 */


#include <string.h>

#include "base/crc.h"
#include "base/serial.h"
#include "base/uuid.h"
#include "base/varint.h"
#include "usage/pack_entry.h"
#include "usage/record_flags.h"


/* events from one step of asking for what is touched to the next */
#define APIKEY_PACK_STAGE  2


static const apikey_pack_ahead_t *apikey_pack_next(apikey_packer_t *p,
    uint32_t n);
static size_t apikey_pack_end(apikey_packer_t *p, uint8_t *out);
static bool apikey_pack_event(apikey_packer_t *p,
    const apikey_pack_ahead_t *a);
static unsigned apikey_pack_flags(const apikey_event_t *event,
    const apikey_pack_entry_t *shape);
static unsigned apikey_pack_id_flags(const apikey_event_t *event);
static void apikey_pack_id(apikey_packer_t *p, const apikey_count_t *count,
    unsigned flags);
static void apikey_pack_counts(apikey_packer_t *p,
    const apikey_count_t *count, const apikey_pack_entry_t *shape,
    unsigned flags);


size_t
apikey_pack(apikey_packer_t *p, const uint8_t *frame, uint64_t ids,
    uint8_t *out)
{
    size_t                      size;
    uint32_t                    n;
    const apikey_pack_ahead_t  *a;

    if (p->full) {
        return 0;                /* its last entries may not be whole */
    }

    p->frame++;
    p->known = 0;
    p->ntouched = 0;
    p->pos = p->events;
    p->add = p->entries;
    p->ids = ids;
    p->serial = 0;
    p->rc = 1;
    p->decoded = 0;

    apikey_frame_open(&p->decoder, frame);
    p->time = p->decoder.frame.time;

    memcpy(p->pos, &ids, sizeof(uint64_t));
    p->pos += sizeof(uint64_t);

    for (n = 0; (a = apikey_pack_next(p, n)) != NULL; n++) {
        if (!apikey_pack_event(p, a)) {
            break;
        }
    }

    size = a == NULL && p->rc == 0 ? apikey_pack_end(p, out) : 0;

    if (size == 0) {
        apikey_pack_undo(p);
    }

    p->written += size;

    return size;
}


/*
 * The n-th event of the frame; NULL: there is none, rc says why.  Those behind
 * it are decoded already, and their entries on their way to the cache: with
 * many keys they were last touched a frame or more ago.
 */

static const apikey_pack_ahead_t *
apikey_pack_next(apikey_packer_t *p, uint32_t n)
{
    apikey_pack_ahead_t  *next;

    while (p->rc == 1 && p->decoded - n < APIKEY_PACK_AHEAD) {
        next = &p->ahead[p->decoded % APIKEY_PACK_AHEAD];
        p->rc = apikey_frame_next(&p->decoder, &next->event);

        if (p->rc == 1) {
            apikey_pack_slot_ahead(p, next);
            p->decoded++;
        }
    }

    if (n == p->decoded) {
        return NULL;
    }

    if (n + 2 * APIKEY_PACK_STAGE < p->decoded) {
        apikey_pack_entry_ahead(p, &p->ahead[(n + 2 * APIKEY_PACK_STAGE)
                                             % APIKEY_PACK_AHEAD]);
    }

    if (n + APIKEY_PACK_STAGE < p->decoded) {
        apikey_pack_bytes_ahead(p, &p->ahead[(n + APIKEY_PACK_STAGE)
                                             % APIKEY_PACK_AHEAD]);
    }

    return &p->ahead[n % APIKEY_PACK_AHEAD];
}


static size_t
apikey_pack_end(apikey_packer_t *p, uint8_t *out)
{
    size_t          entries, events, size;
    uint8_t         n[APIKEY_VARINT_LEN];
    apikey_frame_t  head;

    size = (size_t) (apikey_varint_put(n, p->ntouched) - n);
    entries = (size_t) (p->add - p->entries);
    events = (size_t) (p->pos - p->events);

    head = p->decoder.frame;

    if (size + entries + events >= head.size) {
        return 0;
    }

    out += sizeof(apikey_frame_t);

    memcpy(out, n, size);
    memcpy(out + size, p->entries, entries);
    memcpy(out + size + entries, p->events, events);

    size += entries + events;
    out -= sizeof(apikey_frame_t);

    head.magic = APIKEY_FRAME_PACKED;
    head.size = (uint32_t) size;
    head.crc = 0;
    size += sizeof(apikey_frame_t);

    memcpy(out, &head, sizeof(apikey_frame_t));
    head.crc = apikey_crc32c(0, out + offsetof(apikey_frame_t, size),
                             size - offsetof(apikey_frame_t, size));
    memcpy(out, &head, sizeof(apikey_frame_t));

    return size;
}


static bool
apikey_pack_event(apikey_packer_t *p, const apikey_pack_ahead_t *a)
{
    unsigned                flags;
    uint32_t                number, client, session;
    apikey_pack_entry_t    *shape;
    const apikey_count_t   *count;
    const apikey_event_t   *event;

    if (p->pos + APIKEY_PACK_BOUND > p->events + APIKEY_PACK_SCRATCH) {
        return false;
    }

    event = &a->event;
    count = &event->count;

    number = apikey_pack_shape(p, a);
    if (number == APIKEY_PACK_NONE) {
        return false;
    }

    shape = &p->entry[number];
    flags = apikey_pack_flags(event, shape);
    client = shape->client;
    session = 0;

    if (flags & APIKEY_PACK_OTHER) {
        client = apikey_pack_client(p, count->client);
    }

    if (flags & APIKEY_PACK_TALK) {
        session = apikey_pack_find(p, APIKEY_PACK_SESSION,
                               event->text[APIKEY_TEXT_SESSION],
                               event->shape.len[APIKEY_TEXT_SESSION]);
    }

    if (client == APIKEY_PACK_NONE || session == APIKEY_PACK_NONE
        || !apikey_pack_touch(p, number) || !apikey_pack_touch(p, client)
        || ((flags & APIKEY_PACK_TALK) && !apikey_pack_touch(p, session)))
    {
        return false;
    }

    p->pos = apikey_varint_put(p->pos, flags);
    p->pos = apikey_varint_put(p->pos, number);

    if (flags & APIKEY_PACK_OTHER) {
        p->pos = apikey_varint_put(p->pos, client);
    }

    p->pos = apikey_varint_put_signed(p->pos, (int64_t)
                               ((uint64_t) count->time - (uint64_t) p->time));
    p->time = count->time;

    apikey_pack_id(p, count, flags);
    apikey_pack_counts(p, count, &p->entry[number], flags);

    if (flags & APIKEY_PACK_TALK) {
        p->pos = apikey_varint_put(p->pos, session);
    }

    return true;
}


static unsigned
apikey_pack_flags(const apikey_event_t *event,
    const apikey_pack_entry_t *shape)
{
    unsigned               flags;
    const apikey_count_t  *c;

    c = &event->count;
    flags = apikey_pack_id_flags(event);

    flags |= c->bytes_in != shape->in ? APIKEY_PACK_IN : 0;
    flags |= c->bytes_out != shape->out ? APIKEY_PACK_OUT : 0;
    flags |= memcmp(c->client, shape->address, 16) != 0 ? APIKEY_PACK_OTHER
                                                        : 0;
    flags |= c->upstream != c->duration ? APIKEY_PACK_UPSTREAM : 0;
    flags |= c->duration % 1000 || c->upstream % 1000 ? APIKEY_PACK_FINE : 0;
    flags |= c->tokens[0] | c->tokens[1] | c->tokens[2] | c->tokens[3]
             ? APIKEY_PACK_TOKENS : 0;
    flags |= c->cost ? APIKEY_PACK_COST : 0;
    flags |= event->shape.len[APIKEY_TEXT_SESSION] ? APIKEY_PACK_TALK : 0;
    flags |= c->count != 1 ? APIKEY_PACK_COUNT : 0;
    flags |= c->remaining ? APIKEY_PACK_REMAIN : 0;
    flags |= c->price != shape->price ? APIKEY_PACK_PRICE : 0;

    return flags;
}


static unsigned
apikey_pack_id_flags(const apikey_event_t *event)
{
    const uint8_t         *id;
    const apikey_count_t  *c;
    static const uint8_t   none[16];

    c = &event->count;
    id = c->event;

    if (memcmp(id, none, 16) == 0) {
        return APIKEY_PACK_NO_ID;
    }

    if ((id[6] & 0xf0) != 0x70 || (id[8] & 0xc0) != 0x80) {
        return APIKEY_PACK_RAW_ID;
    }

    return apikey_uuid_stamp_get(id) != apikey_record_stamp(c->time)
           ? APIKEY_PACK_STAMP : 0;
}


static void
apikey_pack_id(apikey_packer_t *p, const apikey_count_t *count,
    unsigned flags)
{
    unsigned  i;
    uint64_t  n, serial;

    if (flags & APIKEY_PACK_NO_ID) {
        return;
    }

    if (flags & APIKEY_PACK_RAW_ID) {
        memcpy(p->pos, count->event, 16);
        p->pos += 16;
        return;
    }

    if (flags & APIKEY_PACK_STAMP) {
        p->pos = apikey_varint_put_signed(p->pos, (int64_t)
                                   (apikey_uuid_stamp_get(count->event)
                                    - apikey_record_stamp(count->time)));
    }

    n = 0;

    for (i = 8; i < 16; i++) {
        n = n << 8 | count->event[i];
    }

    serial = apikey_serial_show(p->ids, n & APIKEY_SERIAL_MASK);

    /* the difference to the next one, as a number of 62 bits with a sign */

    n = (serial - p->serial - 1) << (64 - APIKEY_SERIAL_BITS);
    p->pos = apikey_varint_put_signed(p->pos, (int64_t) n
                                      / (1 << (64 - APIKEY_SERIAL_BITS)));
    p->serial = serial;
}


static void
apikey_pack_counts(apikey_packer_t *p, const apikey_count_t *count,
    const apikey_pack_entry_t *shape, unsigned flags)
{
    uint8_t   *pos;
    uint64_t   unit;

    pos = p->pos;
    unit = flags & APIKEY_PACK_FINE ? 1 : 1000;

    if (flags & APIKEY_PACK_IN) {
        pos = apikey_varint_put_signed(pos, (int64_t) (count->bytes_in
                                                       - shape->in));
    }

    if (flags & APIKEY_PACK_OUT) {
        pos = apikey_varint_put(pos, count->bytes_out);
    }

    pos = apikey_varint_put(pos, count->duration / unit);

    if (flags & APIKEY_PACK_UPSTREAM) {
        pos = apikey_varint_put_signed(pos, (int64_t)
                                       (count->duration / unit
                                        - count->upstream / unit));
    }

    if (flags & APIKEY_PACK_TOKENS) {
        pos = apikey_varint_put(pos, count->tokens[0]);
        pos = apikey_varint_put(pos, count->tokens[1]);
        pos = apikey_varint_put(pos, count->tokens[2]);
        pos = apikey_varint_put(pos, count->tokens[3]);
    }

    if (flags & APIKEY_PACK_COST) {
        pos = apikey_varint_put_signed(pos, count->cost);
    }

    if (flags & APIKEY_PACK_COUNT) {
        pos = apikey_varint_put(pos, count->count);
    }

    if (flags & APIKEY_PACK_REMAIN) {
        pos = apikey_varint_put(pos, count->remaining);
    }

    if (flags & APIKEY_PACK_PRICE) {
        pos = apikey_varint_put(pos, count->price);
    }

    p->pos = pos;
}
