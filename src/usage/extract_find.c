
/*
 * Where an event of a stream may have a usage: most have none, and nothing
 * else is looked at in those.
 *
 * Such a place is a name "usage" with a value but null, some of its letters
 * maybe escaped.  An answer comes as fast as it can be copied, so this has the
 * widest registers there are.
 */


#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "base/bytes.h"
#include "usage/extract.h"


#define apikey_find_blank(ch)  ((ch) == ' ' || (ch) == '\t')


/* escaped, these letters are \u0061 to \u0075 */

static const char  apikey_find_name[] = "usage";


/* Behind the name: a colon, then no null; a line may end in between. */

static bool
apikey_find_value(const char *p, const char *end)
{
    while (p < end && apikey_find_blank(*p)) {
        p++;
    }

    if (p == end || *p == '\r' || *p == '\n') {
        return true;
    }

    if (*p++ != ':') {
        return false;
    }

    while (p < end && apikey_find_blank(*p)) {
        p++;
    }

    return end - p < 4 || memcmp(p, "null", 4) != 0;
}


/* The letter that stands at p, and *p moves behind it; 0: none of ours. */

static char
apikey_find_letter(const char **pp, const char *end)
{
    const char  *p;

    p = *pp;

    if (p == end || *p != '\\') {
        *pp = p + (p < end);
        return p < end ? *p : 0;
    }

    if (end - p < 6 || memcmp(p, "\\u00", 4) != 0
        || (p[4] != '6' && p[4] != '7'))
    {
        return 0;
    }

    *pp = p + 6;

    return (char) ((p[4] - '0') << 4 | (p[5] & 0x0f));
}


/* The name has an escape, the first of it at p: each letter is in it once. */

static bool
apikey_find_escaped(const char *p, const char *end)
{
    char         ch;
    const char  *name;

    ch = apikey_find_letter(&p, end);
    name = ch ? strchr(apikey_find_name, ch) : NULL;

    if (name == NULL) {
        return false;
    }

    while (*++name) {
        if (apikey_find_letter(&p, end) != *name) {
            return false;
        }
    }

    return p < end && *p == '"' && apikey_find_value(p + 1, end);
}


/* p has the first and the fourth byte of either. */

static inline bool
apikey_find_is(const char *p, const char *start, const char *end)
{
    static const char  quoted[] = "\"usage\"", null[] = ":null";

    if (*p == '\\') {
        return apikey_find_escaped(p, end);
    }

    if (p == start || end - p < 6 || memcmp(p - 1, quoted, 7) != 0) {
        return false;
    }

    p += 6;

    if (end - p >= 5 && memcmp(p, null, 5) == 0) {
        return false;
    }

    return apikey_find_value(p, end);
}


#ifdef __x86_64__

#define APIKEY_WIDE  64
#define APIKEY_STEP  (APIKEY_WIDE + 3)   /* what is looked at for them */

typedef uint8_t  apikey_find_half_t __attribute__((vector_size(32)));


__attribute__((target("avx2,popcnt")))
static inline uint64_t
apikey_find_mask(apikey_find_half_t low, apikey_find_half_t high)
{
    return (uint32_t) _mm256_movemask_epi8((__m256i) low)
           | (uint64_t) (uint32_t) _mm256_movemask_epi8((__m256i) high) << 32;
}


/* Of no less than a step; the last one looks at some bytes again. */

__attribute__((target("avx2,popcnt")))
static const char *
apikey_find_wide(const char *start, const char *end, uint64_t *lines)
{
    unsigned             i;
    uint64_t             mask, feeds, fresh;
    const char          *p, *at;
    apikey_find_half_t   v[2], fourth, match[2];

    fresh = ~(uint64_t) 0;

    for (p = start; p < end - 3; p += APIKEY_WIDE) {

        if (end - p < APIKEY_STEP) {
            fresh <<= APIKEY_STEP - (end - p);
            p = end - APIKEY_STEP;
        }

        for (i = 0; i < 2; i++) {
            memcpy(&v[i], p + 32 * i, 32);
            memcpy(&fourth, p + 32 * i + 3, 32);

            match[i] = (apikey_find_half_t)
                       (((v[i] == 'u') & (fourth == 'g'))
                        | ((v[i] == '\\') & (fourth == '0')));
        }

        feeds = fresh & apikey_find_mask(v[0] == '\n', v[1] == '\n');

        if (_mm256_movemask_epi8((__m256i) (match[0] | match[1]))) {
            mask = fresh & apikey_find_mask(match[0], match[1]);

            for ( /* void */ ; mask; mask &= mask - 1) {
                at = p + __builtin_ctzll(mask);

                if (apikey_find_is(at, start, end)) {
                    feeds &= (mask & -mask) - 1;
                    *lines += (unsigned) __builtin_popcountll(feeds);
                    return at;
                }
            }
        }

        *lines += (unsigned) __builtin_popcountll(feeds);
    }

    for ( /* void */ ; p < end; p++) {
        *lines += (*p == '\n');
    }

    return end;
}

#endif


static const char *
apikey_find_narrow(const char *start, const char *end, uint64_t *lines)
{
    unsigned         i;
    const char      *p;
    apikey_bytes_t   v, fourth;

    for (p = start; p < end; p++) {

        while (end - p >= APIKEY_BYTES + 3) {
            v = apikey_bytes_load(p);
            fourth = apikey_bytes_load(p + 3);

            i = apikey_bytes_first((apikey_bytes_t)
                                   (((v == 'u') & (fourth == 'g'))
                                    | ((v == '\\') & (fourth == '0'))));
            p += i;

            if (i < APIKEY_BYTES) {
                break;
            }
        }

        if ((*p == 'u' || *p == '\\') && apikey_find_is(p, start, end)) {
            break;
        }
    }

    *lines += apikey_bytes_count(start, p, '\n');

    return p;
}


const char *
apikey_extract_find(const char *p, const char *end, uint64_t *lines)
{
#ifdef __x86_64__

    if (end - p >= APIKEY_STEP && __builtin_cpu_supports("avx2")) {
        return apikey_find_wide(p, end, lines);
    }

#endif

    return apikey_find_narrow(p, end, lines);
}
