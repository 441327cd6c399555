
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


#ifdef __SSE2__

/* Behind 64 bytes without a quote only the backslashes at their end matter. */

static uint8_t
apikey_jp_string_open(const char *p, uint8_t phase)
{
    unsigned  i;

    for (i = 64; i && p[i - 1] == '\\'; i--) { /* void */ }

    return i ? (64 - i) & 1 : phase;
}


/*
 * Behind the opening quote, 64 bytes at a time while there are as many: the
 * closing quote, or behind what was seen; phase is 1 where the next byte is
 * escaped.
 */

static const char *
apikey_jp_string_wide(apikey_jsonpick_t *j, const char *p, const char *end)
{
    uint64_t  quote, slash, bit, next;

    for ( /* void */ ; end - p >= 64; p += 64) {

        if (!apikey_bytes_any64(p, '"')) {
            j->phase = apikey_jp_string_open(p, j->phase);
            continue;
        }

        quote = apikey_bytes_mask64(p, '"');
        slash = apikey_bytes_mask64(p, '\\');

        if (j->phase) {
            j->phase = 0;
            quote &= ~(uint64_t) 1;
            slash &= ~(uint64_t) 1;
        }

        /* what is behind the closing quote does not matter any more */

        while (slash) {
            bit = slash & -slash;
            next = bit << 1;
            quote &= ~next;
            slash &= ~(bit | next);
            j->phase = (next == 0);
        }

        if (quote) {
            j->phase = 0;
            return p + __builtin_ctzll(quote);
        }
    }

    return p;
}

#endif


/* To the closing quote, or to end. */

static const char *
apikey_jp_string_end(apikey_jsonpick_t *j, const char *p, const char *end)
{
#ifdef __SSE2__

    const char  *q;

    /* most strings are short */

    if (end - p >= 64 && !j->phase) {
        q = apikey_bytes_either(p, p + APIKEY_BYTES, '"', '\\');

        if (q < p + APIKEY_BYTES && *q == '"') {
            return q;
        }

        p = apikey_jp_string_wide(j, q, end);

        if (p < end && *p == '"' && !j->phase) {
            return p;
        }
    }

#endif

    if (j->phase && p < end) {
        j->phase = 0;
        p++;
    }

    for ( ;; ) {
        p = apikey_bytes_either(p, end, '"', '\\');

        if (p == end || *p == '"') {
            return p;
        }

        if (++p == end) {
            j->phase = 1;
            return p;
        }

        p++;
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


const char *
apikey_jp_skip(apikey_jsonpick_t *j, const char *p, const char *end)
{
    uint64_t  depth;

    depth = j->depth;

    while (p < end) {
        p = apikey_bytes_bracket(p, end);

        if (p == end) {
            break;
        }

        switch (*p++) {

        case '"':
            j->phase = 0;
            p = apikey_jp_string_end(j, p, end);

            if (p == end) {
                j->depth = depth;
                j->state = APIKEY_JP_SKIP_STRING;
                return p;
            }

            p++;
            break;

        case '{':
        case '[':
            depth++;
            break;

        default:
            if (--depth == 0) {
                apikey_jp_done(j, p, APIKEY_PICK_OTHER);
                return p;
            }
        }
    }

    j->depth = depth;

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


const char *
apikey_jp_number(apikey_jsonpick_t *j, const char *p, const char *end)
{
    unsigned  next;

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
