
/*
 * Frames packed for the spool: the dictionary of a segment.
 *
 * Memory: texts and entries grow with it; the rest stands in the packer.
 */


#include <stdlib.h>
#include <string.h>

#include "base/crc.h"
#include "base/fetch.h"
#include "base/varint.h"
#include "usage/pack_entry.h"


static size_t apikey_pack_shape_bytes(uint8_t *buf,
    const apikey_event_t *event);
static uint32_t apikey_pack_hash(apikey_pack_kind_e kind, const void *bytes,
    size_t len);
static uint32_t apikey_pack_number(apikey_packer_t *p,
    apikey_pack_kind_e kind, uint32_t hash, const void *bytes, size_t len);
static uint32_t *apikey_pack_slot(apikey_packer_t *p, uint32_t hash);
static bool apikey_pack_new(apikey_packer_t *p, size_t len);
static void apikey_pack_spread(apikey_packer_t *p);


apikey_packer_t *
apikey_packer_create(void)
{
    apikey_packer_t  *p;

    p = calloc(1, sizeof(apikey_packer_t));
    if (p) {
        p->nslots = APIKEY_PACK_FEW;
    }

    return p;
}


void
apikey_packer_free(apikey_packer_t *p)
{
    if (p) {
        free(p->text);
        free(p->entry);
        free(p);
    }
}


void
apikey_packer_reset(apikey_packer_t *p)
{
    free(p->text);
    free(p->entry);

    p->text = NULL;
    p->len = 0;
    p->size = 0;
    p->entry = NULL;
    p->n = 0;
    p->room = 0;
    p->full = false;
    p->frame = 0;
    p->written = 0;

    memset(p->slot, 0, p->nslots * sizeof(uint32_t));
    p->nslots = APIKEY_PACK_FEW;
}


bool
apikey_packer_full(const apikey_packer_t *p)
{
    return p->full;
}


/* The frame has not used its entry yet: with many keys few frames have. */

void
apikey_pack_slot_ahead(apikey_packer_t *p, apikey_pack_ahead_t *a)
{
    const apikey_event_t  *event;

    event = &a->event;

    if (event->entry < p->known && p->map[event->entry] != APIKEY_PACK_NONE) {
        a->len = 0;
        return;
    }

    a->len = (uint32_t) apikey_pack_shape_bytes(a->shape, event);
    a->hash = apikey_pack_hash(APIKEY_PACK_SHAPE, a->shape, a->len);

    apikey_fetch(&p->slot[a->hash % p->nslots]);
}


void
apikey_pack_entry_ahead(const apikey_packer_t *p,
    const apikey_pack_ahead_t *a)
{
    uint32_t  n;

    n = a->len ? p->slot[a->hash % p->nslots] : 0;

    if (n) {
        apikey_fetch(&p->entry[n - 1]);
        apikey_fetch(&p->entry[n - 1].times);
    }
}


void
apikey_pack_bytes_ahead(const apikey_packer_t *p,
    const apikey_pack_ahead_t *a)
{
    uint32_t                    n, i;
    const apikey_pack_entry_t  *entry;

    n = a->len ? p->slot[a->hash % p->nslots] : 0;

    if (n) {
        entry = &p->entry[n - 1];

        for (i = 0; i < entry->len; i += 64) {
            apikey_fetch(p->text + entry->offset + i);
        }
    }
}


/* Once for each entry of the frame that comes. */

uint32_t
apikey_pack_shape(apikey_packer_t *p, const apikey_pack_ahead_t *a)
{
    uint32_t               n, number, client;
    apikey_pack_entry_t   *entry;
    const apikey_event_t  *event;

    event = &a->event;

    while (p->known <= event->entry) {
        p->map[p->known++] = APIKEY_PACK_NONE;
    }

    if (p->map[event->entry] != APIKEY_PACK_NONE) {
        return p->map[event->entry];
    }

    n = p->n;

    number = apikey_pack_number(p, APIKEY_PACK_SHAPE, a->hash, a->shape,
                                a->len);
    if (number == APIKEY_PACK_NONE) {
        return APIKEY_PACK_NONE;
    }

    if (number == n) {
        client = apikey_pack_client(p, event->count.client);
        if (client == APIKEY_PACK_NONE) {
            return APIKEY_PACK_NONE;
        }

        entry = &p->entry[number];
        entry->client = client;
        memcpy(entry->address, event->count.client, 16);
        entry->in = event->count.bytes_in;
        entry->out = event->count.bytes_out;
        entry->price = event->count.price;
    }

    p->map[event->entry] = number;

    return number;
}


static size_t
apikey_pack_shape_bytes(uint8_t *buf, const apikey_event_t *event)
{
    uint8_t               *p;
    unsigned               i;
    const apikey_shape_t  *s;

    s = &event->shape;
    p = buf;

    *p++ = s->kind;
    *p++ = s->verdict;
    *p++ = s->mode;
    *p++ = s->end;
    *p++ = s->source;

    memcpy(p, s->key, 16);
    memcpy(p + 16, s->secret, 16);
    p += 32;

    p = apikey_varint_put(p, s->status);
    p = apikey_varint_put(p, s->reserved);
    p = apikey_varint_put(p, s->method);
    p = apikey_varint_put(p, s->retry_after);
    p = apikey_varint_put(p, s->weight);
    p = apikey_varint_put(p, s->limit);

    for (i = 0; i < APIKEY_TEXT_SESSION; i++) {
        *p++ = s->len[i];
    }

    for (i = 0; i < APIKEY_TEXT_SESSION; i++) {
        memcpy(p, event->text[i], s->len[i]);
        p += s->len[i];
    }

    return (size_t) (p - buf);
}


uint32_t
apikey_pack_client(apikey_packer_t *p, const uint8_t address[16])
{
    size_t                 from, len;
    static const uint8_t   mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                          0xff, 0xff };

    from = memcmp(address, mapped, sizeof(mapped)) == 0 ? 12 : 0;

    for (len = 16; len > from && address[len - 1] == 0; len--) {
        continue;
    }

    return apikey_pack_find(p, from ? APIKEY_PACK_CLIENT4
                                    : APIKEY_PACK_CLIENT,
                            address + from, len - from);
}


uint32_t
apikey_pack_find(apikey_packer_t *p, apikey_pack_kind_e kind,
    const void *bytes, size_t len)
{
    return apikey_pack_number(p, kind, apikey_pack_hash(kind, bytes, len),
                              bytes, len);
}


static uint32_t
apikey_pack_hash(apikey_pack_kind_e kind, const void *bytes, size_t len)
{
    return apikey_crc32c((uint32_t) kind, bytes, len);
}


static uint32_t
apikey_pack_number(apikey_packer_t *p, apikey_pack_kind_e kind, uint32_t hash,
    const void *bytes, size_t len)
{
    uint32_t              i, *slot;
    apikey_pack_entry_t  *entry;

    for (i = hash; ; i++) {
        slot = &p->slot[i % p->nslots];

        if (*slot == 0) {
            break;
        }

        entry = &p->entry[*slot - 1];

        if (entry->hash == hash && entry->kind == kind && entry->len == len
            && memcmp(p->text + entry->offset, bytes, len) == 0)
        {
            return *slot - 1;
        }
    }

    if (!apikey_pack_new(p, len)) {
        p->full = true;
        return APIKEY_PACK_NONE;
    }

    if (p->n == p->nslots / 2 && p->nslots < APIKEY_PACK_SLOTS) {
        apikey_pack_spread(p);
        slot = apikey_pack_slot(p, hash);
    }

    entry = &p->entry[p->n];
    memset(entry, 0, sizeof(apikey_pack_entry_t));
    entry->kind = (uint8_t) kind;
    entry->hash = hash;
    entry->offset = (uint32_t) p->len;
    entry->len = (uint32_t) len;

    if (len) {
        memcpy(p->text + p->len, bytes, len);
        p->len += len;
    }

    *slot = ++p->n;

    return p->n - 1;
}


static uint32_t *
apikey_pack_slot(apikey_packer_t *p, uint32_t hash)
{
    uint32_t  i;

    for (i = hash; p->slot[i % p->nslots]; i++) {
        continue;
    }

    return &p->slot[i % p->nslots];
}


/* Few entries stand close together: it is they that are looked for most. */

static void
apikey_pack_spread(apikey_packer_t *p)
{
    uint32_t  i;

    memset(p->slot, 0, p->nslots * sizeof(uint32_t));
    p->nslots *= 2;

    for (i = 0; i < p->n; i++) {
        *apikey_pack_slot(p, p->entry[i].hash) = i + 1;
    }
}


/* Room for another entry. */

static bool
apikey_pack_new(apikey_packer_t *p, size_t len)
{
    size_t                size;
    uint8_t              *text;
    uint32_t              room;
    apikey_pack_entry_t  *entry;

    if (p->n == APIKEY_PACK_ENTRIES || p->len + len > APIKEY_PACK_TEXT) {
        return false;
    }

    if (p->n == p->room) {
        room = p->room ? p->room * 2 : 64;

        entry = realloc(p->entry, room * sizeof(apikey_pack_entry_t));
        if (entry == NULL) {
            return false;
        }

        p->entry = entry;
        p->room = room;
    }

    if (p->text == NULL || p->len + len > p->size) {
        size = p->size ? p->size * 2 : 8192;

        text = realloc(p->text, size);
        if (text == NULL) {
            return false;
        }

        p->text = text;
        p->size = size;
    }

    return true;
}


/*
 * The first two frames that use it bring it, so that one frame that is damaged
 * takes no other with it; then one after 256 KB, 4 MB, ..., so that what a
 * damaged range takes with it has an end.
 */

bool
apikey_pack_touch(apikey_packer_t *p, uint32_t number)
{
    uint8_t              *add;
    apikey_pack_entry_t  *entry;

    entry = &p->entry[number];

    if (entry->mark == p->frame
        || (entry->times >= 2 && p->written < entry->again))
    {
        return true;
    }

    if (p->ntouched == APIKEY_FRAME_TABLE
        || p->add + APIKEY_PACK_SHAPE_MAX + entry->len
           > p->entries + APIKEY_PACK_SCRATCH)
    {
        return false;
    }

    add = p->add;

    add = apikey_varint_put(add, number);
    *add++ = entry->kind;
    add = apikey_varint_put(add, entry->len);

    if (entry->len) {
        memcpy(add, p->text + entry->offset, entry->len);
        add += entry->len;
    }

    if (entry->kind == APIKEY_PACK_SHAPE) {
        add = apikey_varint_put(add, entry->client);
        add = apikey_varint_put(add, entry->in);
        add = apikey_varint_put(add, entry->out);
        add = apikey_varint_put(add, entry->price);
    }

    p->add = add;
    p->touched[p->ntouched++] = number;
    entry->mark = p->frame;
    entry->times++;

    if (entry->times != 2) {
        entry->step = entry->times == 1 ? APIKEY_PACK_AGAIN
                                        : entry->step * APIKEY_PACK_TIMES;
        entry->again = p->written + entry->step;
    }

    return true;
}


void
apikey_pack_undo(apikey_packer_t *p)
{
    uint32_t  i;

    for (i = 0; i < p->ntouched; i++) {
        p->entry[p->touched[i]].times--;
    }
}
