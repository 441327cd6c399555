
/*
 * Numbers of seven bits a byte, the lowest first, the top bit of all but the
 * last byte set; signed ones with their sign in the lowest bit.
 *
 * Plain C, no state; the caller sees to the room, ten bytes at most.
 */


#ifndef APIKEY_VARINT_H_INCLUDED
#define APIKEY_VARINT_H_INCLUDED


#include <stdbool.h>
#include <stdint.h>


#define APIKEY_VARINT_LEN  10


static inline uint8_t *
apikey_varint_put(uint8_t *p, uint64_t n)
{
    while (n >= 0x80) {
        *p++ = (uint8_t) (n | 0x80);
        n >>= 7;
    }

    *p++ = (uint8_t) n;

    return p;
}


static inline uint8_t *
apikey_varint_put_signed(uint8_t *p, int64_t n)
{
    return apikey_varint_put(p, (uint64_t) n << 1 ^ (n < 0 ? UINT64_MAX : 0));
}


/* False: it does not end before `end`, or is too long. */

static inline bool
apikey_varint_get(const uint8_t **pos, const uint8_t *end, uint64_t *n)
{
    uint8_t   byte;
    unsigned  shift;

    *n = 0;

    for (shift = 0; shift < 64; shift += 7) {
        if (*pos == end) {
            return false;
        }

        byte = *(*pos)++;
        *n |= (uint64_t) (byte & 0x7f) << shift;

        if (byte < 0x80) {
            return true;
        }
    }

    return false;
}


static inline bool
apikey_varint_get_signed(const uint8_t **pos, const uint8_t *end, int64_t *n)
{
    uint64_t  u;

    if (!apikey_varint_get(pos, end, &u)) {
        return false;
    }

    *n = (int64_t) (u >> 1 ^ (u & 1 ? UINT64_MAX : 0));

    return true;
}


#endif /* APIKEY_VARINT_H_INCLUDED */
