
/*
 * The reader behind jsonpick.h: what is skipped, numbers and words.
 */


#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "base/jsonpick.h"
#include "base/jsonpick_private.h"


/* Of a number: where its text may end are ZERO, WHOLE, PART, POWER. */

typedef enum {
    APIKEY_JP_N_BEGIN = 0,
    APIKEY_JP_N_MINUS,
    APIKEY_JP_N_ZERO,
    APIKEY_JP_N_WHOLE,
    APIKEY_JP_N_POINT,
    APIKEY_JP_N_PART,
    APIKEY_JP_N_E,
    APIKEY_JP_N_SIGN,
    APIKEY_JP_N_POWER
} apikey_jp_number_e;


#define APIKEY_JP_FAR  100000000000000000LL  /* zeros no text has */


bool
apikey_jp_scalar_begin(apikey_jsonpick_t *j, char ch)
{
    j->phase = 0;

    if (ch == '-' || (ch >= '0' && ch <= '9')) {
        j->mantissa = 0;
        j->zeros = 0;
        j->fraction = 0;
        j->exponent = 0;
        j->minus = false;
        j->low = false;
        j->big = false;

        j->state = j->pick ? APIKEY_JP_NUMBER : APIKEY_JP_SCALAR;
        return true;
    }

    if (ch == 't' || ch == 'f' || ch == 'n') {
        j->back = (uint8_t) ch;
        j->state = j->pick ? APIKEY_JP_WORD : APIKEY_JP_SCALAR;
        return true;
    }

    return false;
}


/* Is what follows p escaped?  Nothing in front of start matters. */

static bool
apikey_jp_slashed(const char *p, const char *start)
{
    const char  *q;

    for (q = p; q > start && q[-1] == '\\'; q--) { /* void */ }

    return (p - q) & 1;
}


/*
 * To the closing quote, or to end.  phase is 1 where the first byte, or that
 * behind end, is escaped.
 */

static const char *
apikey_jp_string_end(apikey_jsonpick_t *j, const char *p, const char *end)
{
    const char  *q;

    if (p == end) {
        return p;
    }

    p += j->phase;
    j->phase = 0;

    /* most strings are short */

    if (end - p >= APIKEY_BYTES) {
        q = apikey_bytes_either(p, p + APIKEY_BYTES, '"', '\\');

        if (q < p + APIKEY_BYTES && *q == '"') {
            return q;
        }

        p = q;
    }

    for ( ;; ) {
        q = memchr(p, '"', (size_t) (end - p));

        if (q == NULL) {
            j->phase = apikey_jp_slashed(end, p);
            return end;
        }

        if (!apikey_jp_slashed(q, p)) {
            return q;
        }

        p = q + 1;
    }
}


const char *
apikey_jp_string(apikey_jsonpick_t *j, const char *p, const char *end)
{
    p = apikey_jp_string_end(j, p, end);

    if (p == end) {
        return p;
    }

    if (j->state == APIKEY_JP_SKIP_STRING) {
        j->state = APIKEY_JP_SKIP;

    } else {
        apikey_jp_done(j, p + 1, APIKEY_PICK_OTHER);
    }

    return p + 1;
}


#ifdef __SSE2__

/* Bits of the bytes between quotes, with the opening ones. */

static uint64_t
apikey_jp_quoted(uint64_t quotes)
{
    unsigned  i;

    for (i = 1; i < 64; i *= 2) {
        quotes ^= quotes << i;
    }

    return quotes;
}


/*
 * 64 bytes, or as many as stand in front of a backslash: that is for whoever
 * reads strings.
 */

static const char *
apikey_jp_skip_wide(apikey_jsonpick_t *j, const char *p, bool *in)
{
    uint64_t  quote, slash, open, close, bits;

    quote = apikey_bytes_mask64(p, '"', 0);
    slash = apikey_bytes_mask64(p, '\\', 0);
    open = apikey_bytes_mask64(p, '{', 0x20);
    close = apikey_bytes_mask64(p, '}', 0x20);

    bits = slash ? (slash & -slash) - 1 : ~(uint64_t) 0;
    quote = apikey_jp_quoted(quote & bits);

    *in = quote >> 63;

    for (bits &= (open | close) & ~quote; bits; bits &= bits - 1) {

        if (open & bits & -bits) {
            j->depth++;

        } else if (--j->depth == 0) {
            *in = false;
            return p + __builtin_ctzll(bits) + 1;
        }
    }

    return slash ? p + __builtin_ctzll(slash) + !*in : p + 64;
}

#endif


/* To a quote or bracket, and behind it. */

static const char *
apikey_jp_skip_one(apikey_jsonpick_t *j, const char *p, const char *end,
    bool *in)
{
    *in = false;

    p = apikey_bytes_bracket(p, end);

    if (p == end) {
        return p;
    }

    switch (*p++) {

    case '"':
        *in = true;
        break;

    case '{':
    case '[':
        j->depth++;
        break;

    default:
        j->depth--;
    }

    return p;
}


const char *
apikey_jp_skip(apikey_jsonpick_t *j, const char *p, const char *end)
{
    bool  in;

    while (p < end) {

#ifdef __SSE2__

        if (end - p >= 64) {
            p = apikey_jp_skip_wide(j, p, &in);

        } else

#endif

        {
            p = apikey_jp_skip_one(j, p, end, &in);
        }

        if (j->depth == 0) {
            apikey_jp_done(j, p, APIKEY_PICK_OTHER);
            break;
        }

        if (!in) {
            continue;
        }

        j->phase = 0;
        p = apikey_jp_string_end(j, p, end);

        if (p == end) {
            j->state = APIKEY_JP_SKIP_STRING;
            break;
        }

        p++;
    }

    return p;
}


/* A digit of mantissa times ten to the power of zeros. */

static void
apikey_jp_digit(apikey_jsonpick_t *j, unsigned digit)
{
    if (digit == 0) {
        j->zeros += (j->mantissa != 0);
        return;
    }

    for ( /* void */ ; j->mantissa && j->zeros >= 0; j->zeros--) {
        if (j->mantissa > APIKEY_PICK_MAX) {
            j->big = true;
            break;
        }

        j->mantissa *= 10;
    }

    j->zeros = 0;
    j->mantissa += digit;
}


static apikey_pick_e
apikey_jp_count(apikey_jsonpick_t *j)
{
    int64_t   scale;
    uint64_t  n;

    n = j->mantissa;

    if (n) {
        scale = j->zeros - j->fraction
                + (j->low ? -j->exponent : j->exponent);

        if (j->minus || j->big || scale < 0 || scale > 16) {
            return APIKEY_PICK_OTHER;
        }

        while (scale-- > 0 && n <= APIKEY_PICK_MAX) {
            n *= 10;
        }
    }

    if (n > APIKEY_PICK_MAX) {
        return APIKEY_PICK_OTHER;
    }

    j->number = n;

    return APIKEY_PICK_COUNT;
}


/* The phase behind ch; BEGIN: no number goes on so. */

static unsigned
apikey_jp_number_next(const apikey_jsonpick_t *j, char ch)
{
    bool  digit;

    digit = (ch >= '0' && ch <= '9');

    switch (j->phase) {

    case APIKEY_JP_N_BEGIN:
        if (ch == '-') {
            return APIKEY_JP_N_MINUS;
        }

        /* fall through */

    case APIKEY_JP_N_MINUS:
        return !digit ? APIKEY_JP_N_BEGIN
                      : ch == '0' ? APIKEY_JP_N_ZERO : APIKEY_JP_N_WHOLE;

    case APIKEY_JP_N_WHOLE:
        if (digit) {
            return APIKEY_JP_N_WHOLE;
        }

        /* fall through */

    case APIKEY_JP_N_ZERO:
        if (ch == '.') {
            return APIKEY_JP_N_POINT;
        }

        break;

    case APIKEY_JP_N_POINT:
        return digit ? APIKEY_JP_N_PART : APIKEY_JP_N_BEGIN;

    case APIKEY_JP_N_PART:
        if (digit) {
            return APIKEY_JP_N_PART;
        }

        break;

    case APIKEY_JP_N_E:
        if (ch == '+' || ch == '-') {
            return APIKEY_JP_N_SIGN;
        }

        /* fall through */

    default:
        return digit ? APIKEY_JP_N_POWER : APIKEY_JP_N_BEGIN;
    }

    return ch == 'e' || ch == 'E' ? APIKEY_JP_N_E : APIKEY_JP_N_BEGIN;
}


/* Digits alone, and what ends them, as counts are; else NULL. */

const char *
apikey_jp_number_plain(apikey_jsonpick_t *j, const char *p, const char *end)
{
    uint64_t     n;
    const char  *q;

    n = 0;

    for (q = p; q < end && q - p < 16 && *q >= '0' && *q <= '9'; q++) {
        n = n * 10 + (uint64_t) (*q - '0');
    }

    if (q == end || q == p || q - p == 16 || (*p == '0' && q - p > 1)
        || *q == '.' || *q == 'e' || *q == 'E')
    {
        return NULL;
    }

    j->number = n;
    apikey_jp_done(j, q, APIKEY_PICK_COUNT);

    return q;
}


const char *
apikey_jp_number(apikey_jsonpick_t *j, const char *p, const char *end)
{
    unsigned     next;
    const char  *q;

    if (j->phase == APIKEY_JP_N_BEGIN) {
        q = apikey_jp_number_plain(j, p, end);

        if (q) {
            return q;
        }
    }

    for ( /* void */ ; p < end; p++) {
        next = apikey_jp_number_next(j, *p);

        switch (next) {

        case APIKEY_JP_N_BEGIN:
            if (j->phase == APIKEY_JP_N_ZERO || j->phase == APIKEY_JP_N_WHOLE
                || j->phase == APIKEY_JP_N_PART
                || j->phase == APIKEY_JP_N_POWER)
            {
                apikey_jp_done(j, p, apikey_jp_count(j));

            } else {
                j->state = APIKEY_JP_BAD;
            }

            return p;

        case APIKEY_JP_N_MINUS:
            j->minus = true;
            break;

        case APIKEY_JP_N_PART:
            j->fraction++;
            /* fall through */

        case APIKEY_JP_N_ZERO:
        case APIKEY_JP_N_WHOLE:
            apikey_jp_digit(j, (unsigned) (*p - '0'));
            break;

        case APIKEY_JP_N_SIGN:
            j->low = (*p == '-');
            break;

        case APIKEY_JP_N_POWER:
            if (j->exponent < APIKEY_JP_FAR) {
                j->exponent = j->exponent * 10 + (*p - '0');
            }

            break;
        }

        j->phase = (uint8_t) next;
    }

    return p;
}


const char *
apikey_jp_word(apikey_jsonpick_t *j, const char *p, const char *end)
{
    const char     *word;
    apikey_pick_e   what;

    switch (j->back) {

    case 't':
        word = "true";
        what = APIKEY_PICK_TRUE;
        break;

    case 'f':
        word = "false";
        what = APIKEY_PICK_FALSE;
        break;

    default:
        word = "null";
        what = APIKEY_PICK_NULL;
    }

    for ( /* void */ ; p < end; p++) {

        if (*p != word[j->phase]) {
            j->state = APIKEY_JP_BAD;
            return p;
        }

        if (word[++j->phase] == '\0') {
            apikey_jp_done(j, p + 1, what);
            return p + 1;
        }
    }

    return p;
}


const char *
apikey_jp_scalar(apikey_jsonpick_t *j, const char *p, const char *end)
{
    unsigned char  low;

    for ( /* void */ ; p < end; p++) {
        low = (unsigned char) (*p | 0x20);

        if ((low < 'a' || low > 'z') && (*p < '0' || *p > '9') && *p != '-'
            && *p != '+' && *p != '.')
        {
            apikey_jp_done(j, p, APIKEY_PICK_OTHER);
            return p;
        }
    }

    return p;
}
