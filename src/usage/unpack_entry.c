
/*
 * The dictionary of the segment whose packed frames are read.
 *
 * Memory: texts grow with it; places for entries are taken at once.
 */


#include <stdlib.h>
#include <string.h>

#include "base/varint.h"
#include "usage/unpack_entry.h"


static apikey_unpack_e apikey_unpack_keep(apikey_unpacker_t *u,
    uint32_t number, apikey_unpack_entry_t *entry, const uint8_t *bytes);
static size_t apikey_unpack_bytes(uint8_t *to, uint32_t kind,
    const uint8_t *from, size_t len);
static size_t apikey_unpack_shape_bytes(uint8_t *to, const uint8_t *from,
    size_t len);
static apikey_unpack_e apikey_unpack_room(apikey_unpacker_t *u,
    uint32_t number, size_t len);


apikey_unpacker_t *
apikey_unpacker_create(void)
{
    return calloc(1, sizeof(apikey_unpacker_t));
}


void
apikey_unpacker_free(apikey_unpacker_t *u)
{
    if (u) {
        apikey_unpacker_reset(u);
        free(u);
    }
}


void
apikey_unpacker_reset(apikey_unpacker_t *u)
{
    free(u->text);
    free(u->entry);
    memset(u, 0, sizeof(apikey_unpacker_t));
}


apikey_unpack_e
apikey_unpack_entry(apikey_unpacker_t *u)
{
    uint64_t                number, len, client;
    const uint8_t          *bytes;
    apikey_unpack_entry_t   entry;

    memset(&entry, 0, sizeof(entry));

    if (!apikey_unpack_reference(u, &number) || u->pos == u->end) {
        return APIKEY_UNPACK_BAD;
    }

    entry.kind = *u->pos++;

    if (!apikey_varint_get(&u->pos, u->end, &len)
        || len > (uint64_t) (u->end - u->pos))
    {
        return APIKEY_UNPACK_BAD;
    }

    bytes = u->pos;
    entry.len = (uint32_t) len;
    u->pos += len;

    if (entry.kind == APIKEY_PACK_SHAPE) {
        if (!apikey_unpack_reference(u, &client)
            || !apikey_varint_get(&u->pos, u->end, &entry.in)
            || !apikey_varint_get(&u->pos, u->end, &entry.out)
            || !apikey_varint_get(&u->pos, u->end, &entry.price))
        {
            return APIKEY_UNPACK_BAD;
        }

        entry.client = (uint32_t) client;
    }

    return apikey_unpack_keep(u, (uint32_t) number, &entry, bytes);
}


/* Whatever comes a second time is the same, or it is nonsense. */

static apikey_unpack_e
apikey_unpack_keep(apikey_unpacker_t *u, uint32_t number,
    apikey_unpack_entry_t *entry, const uint8_t *bytes)
{
    size_t                  len;
    apikey_unpack_e         rc;
    apikey_unpack_entry_t  *known;

    rc = apikey_unpack_room(u, number, entry->len);
    if (rc != APIKEY_UNPACK_OK) {
        return rc;
    }

    len = apikey_unpack_bytes(u->text + u->len, entry->kind, bytes,
                              entry->len);
    if (len > APIKEY_RECORD_LARGE) {
        return APIKEY_UNPACK_BAD;
    }

    entry->len = (uint32_t) len;
    entry->offset = (uint32_t) u->len;
    known = &u->entry[number];

    if (known->kind) {
        entry->offset = known->offset;

        return memcmp(known, entry, sizeof(apikey_unpack_entry_t)) == 0
               && memcmp(u->text + known->offset, u->text + u->len, len) == 0
               ? APIKEY_UNPACK_OK : APIKEY_UNPACK_BAD;
    }

    *known = *entry;
    u->len += len;

    if (number >= u->n) {
        u->n = number + 1;
    }

    return APIKEY_UNPACK_OK;
}


/* As events have it; more than RECORD_LARGE: nonsense. */

static size_t
apikey_unpack_bytes(uint8_t *to, uint32_t kind, const uint8_t *from,
    size_t len)
{
    switch (kind) {

    case APIKEY_PACK_SHAPE:
        return apikey_unpack_shape_bytes(to, from, len);

    case APIKEY_PACK_CLIENT:
    case APIKEY_PACK_CLIENT4:
        if (len > (kind == APIKEY_PACK_CLIENT ? 16 : 4)) {
            return SIZE_MAX;
        }

        memset(to, 0, 16);

        if (kind == APIKEY_PACK_CLIENT4) {
            memset(to + 10, 0xff, 2);
            to += 12;
        }

        memcpy(to, from, len);

        return 16;

    case APIKEY_PACK_SESSION:
        if (len == 0 || len > APIKEY_TEXT_MAX) {
            return SIZE_MAX;
        }

        break;

    default:
        return SIZE_MAX;
    }

    memcpy(to, from, len);

    return len;
}


static size_t
apikey_unpack_shape_bytes(uint8_t *to, const uint8_t *from, size_t len)
{
    size_t           texts;
    unsigned         i;
    uint64_t         n[6];
    const uint8_t   *end;
    apikey_shape_t   s;

    if (len < 37) {
        return SIZE_MAX;
    }

    memset(&s, 0, sizeof(s));
    end = from + len;

    s.kind = *from++;
    s.verdict = *from++;
    s.mode = *from++;
    s.end = *from++;
    s.source = *from++;

    memcpy(s.key, from, 16);
    memcpy(s.secret, from + 16, 16);
    from += 32;

    for (i = 0; i < 6; i++) {
        if (!apikey_varint_get(&from, end, &n[i])) {
            return SIZE_MAX;
        }
    }

    s.status = (uint16_t) n[0];
    s.reserved = (uint16_t) n[1];
    s.method = (uint32_t) n[2];
    s.retry_after = (uint32_t) n[3];
    s.weight = n[4];
    s.limit = n[5];

    if (end - from < APIKEY_TEXT_SESSION) {
        return SIZE_MAX;
    }

    texts = 0;

    for (i = 0; i < APIKEY_TEXT_SESSION; i++) {
        s.len[i] = *from++;
        texts += s.len[i];
    }

    if ((size_t) (end - from) != texts || s.kind >= APIKEY_RECORDS) {
        return SIZE_MAX;
    }

    memcpy(to, &s, sizeof(s));
    memcpy(to + sizeof(s), from, texts);

    return sizeof(s) + texts;
}


/* For an entry of this number, and of as much as it may take here. */

static apikey_unpack_e
apikey_unpack_room(apikey_unpacker_t *u, uint32_t number, size_t len)
{
    size_t    size;
    uint8_t  *text;

    if (number >= APIKEY_PACK_ENTRIES || len > APIKEY_RECORD_LARGE) {
        return APIKEY_UNPACK_BAD;
    }

    if (u->entry == NULL) {
        u->entry = calloc(APIKEY_PACK_ENTRIES, sizeof(apikey_unpack_entry_t));

        if (u->entry == NULL) {
            return APIKEY_UNPACK_MEMORY;
        }
    }

    len += sizeof(apikey_shape_t);

    if (u->len + len <= u->size) {
        return APIKEY_UNPACK_OK;
    }

    if (u->len + len > APIKEY_UNPACK_TEXT) {
        return APIKEY_UNPACK_BAD;
    }

    size = u->size ? u->size * 2 : 16384;

    text = realloc(u->text, size);
    if (text == NULL) {
        return APIKEY_UNPACK_MEMORY;
    }

    u->text = text;
    u->size = size;

    return APIKEY_UNPACK_OK;
}


bool
apikey_unpack_reference(apikey_unpacker_t *u, uint64_t *n)
{
    return apikey_varint_get(&u->pos, u->end, n) && *n < APIKEY_PACK_ENTRIES;
}
