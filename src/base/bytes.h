
/*
 * The first of a few bytes in text, sixteen at a time: where a scanner of
 * JSON or of lines has nothing to do in between.
 *
 * Reads nothing at or behind end.  Vectors of the compiler, with SSE2's mask
 * where there is one; no state, for any plain core.
 */


#ifndef APIKEY_BYTES_H_INCLUDED
#define APIKEY_BYTES_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif


#define APIKEY_BYTES  16


typedef uint8_t  apikey_bytes_t __attribute__((vector_size(APIKEY_BYTES)));


static inline apikey_bytes_t
apikey_bytes_load(const char *p)
{
    apikey_bytes_t  v;

    memcpy(&v, p, sizeof(v));

    return v;
}


/* A lane that matches is 0xff, any other 0: the number of the first. */

static inline unsigned
apikey_bytes_first(apikey_bytes_t match)
{
#ifdef __SSE2__

    unsigned  mask;

    mask = (unsigned) _mm_movemask_epi8((__m128i) match);

    return mask ? (unsigned) __builtin_ctz(mask) : APIKEY_BYTES;

#else

    uint64_t  half[2];

    memcpy(half, &match, sizeof(half));

    if (half[0]) {
        return (unsigned) __builtin_ctzll(half[0]) / 8;
    }

    return half[1] ? 8 + (unsigned) __builtin_ctzll(half[1]) / 8
                   : APIKEY_BYTES;

#endif
}


#ifdef __SSE2__

/* A bit for each of 64 bytes that is ch, when it has the bits of fold. */

static inline uint64_t
apikey_bytes_mask64(const char *p, char ch, uint8_t fold)
{
    unsigned  i;
    uint64_t  mask;

    mask = 0;

    for (i = 0; i < 4; i++) {
        mask |= (uint64_t) (unsigned) _mm_movemask_epi8((__m128i)
                    ((apikey_bytes_load(p + 16 * i) | fold) == (uint8_t) ch))
                << (16 * i);
    }

    return mask;
}

#endif


/* One of two bytes, or end. */

static inline const char *
apikey_bytes_either(const char *p, const char *end, char a, char b)
{
    unsigned        i;
    apikey_bytes_t  v;

    while (end - p >= APIKEY_BYTES) {
        v = apikey_bytes_load(p);
        i = apikey_bytes_first((apikey_bytes_t) ((v == (uint8_t) a)
                                                 | (v == (uint8_t) b)));
        p += i;

        if (i < APIKEY_BYTES) {
            return p;
        }
    }

    while (p < end && *p != a && *p != b) {
        p++;
    }

    return p;
}


/* The same of 32 bytes, all there: the number of the first one, or 32. */

static inline unsigned
apikey_bytes_either32(const char *p, char a, char b)
{
    unsigned        i;
    apikey_bytes_t  v, w;

    v = apikey_bytes_load(p);
    w = apikey_bytes_load(p + APIKEY_BYTES);
    v = (apikey_bytes_t) ((v == (uint8_t) a) | (v == (uint8_t) b));
    w = (apikey_bytes_t) ((w == (uint8_t) a) | (w == (uint8_t) b));

#ifdef __SSE2__

    i = (unsigned) _mm_movemask_epi8((__m128i) v)
        | (unsigned) _mm_movemask_epi8((__m128i) w) << APIKEY_BYTES;

    return i ? (unsigned) __builtin_ctz(i) : 2 * APIKEY_BYTES;

#else

    i = apikey_bytes_first(v);

    return i < APIKEY_BYTES ? i : i + apikey_bytes_first(w);

#endif
}


/* A quote, or a bracket or brace of either side, or end. */

static inline const char *
apikey_bytes_bracket(const char *p, const char *end)
{
    unsigned        i;
    apikey_bytes_t  v, low;

    while (end - p >= APIKEY_BYTES) {
        v = apikey_bytes_load(p);
        low = v | 0x20;
        i = apikey_bytes_first((apikey_bytes_t) ((v == '"') | (low == '{')
                                                 | (low == '}')));
        p += i;

        if (i < APIKEY_BYTES) {
            return p;
        }
    }

    while (p < end && *p != '"' && (*p | 0x20) != '{' && (*p | 0x20) != '}') {
        p++;
    }

    return p;
}


static inline size_t
apikey_bytes_count(const char *p, const char *end, char ch)
{
    size_t          n;
    unsigned        i, k;
    uint8_t         lane[APIKEY_BYTES];
    apikey_bytes_t  sum;

    n = 0;

    while (end - p >= APIKEY_BYTES) {
        sum = (apikey_bytes_t) { 0 };

        for (i = 0; i < 255 && end - p >= APIKEY_BYTES; i++) {
            sum -= (apikey_bytes_t) (apikey_bytes_load(p) == (uint8_t) ch);
            p += APIKEY_BYTES;
        }

        memcpy(lane, &sum, sizeof(lane));

        for (k = 0; k < APIKEY_BYTES; k++) {
            n += lane[k];
        }
    }

    for ( /* void */ ; p < end; p++) {
        n += (*p == ch);
    }

    return n;
}


/* Behind the last such byte, or p. */

static inline const char *
apikey_bytes_behind(const char *p, const char *end, char ch)
{
    while (end - p >= APIKEY_BYTES
           && apikey_bytes_first((apikey_bytes_t)
                                 (apikey_bytes_load(end - APIKEY_BYTES)
                                  == (uint8_t) ch)) == APIKEY_BYTES)
    {
        end -= APIKEY_BYTES;
    }

    while (end > p && end[-1] != ch) {
        end--;
    }

    return end;
}


#endif /* APIKEY_BYTES_H_INCLUDED */
