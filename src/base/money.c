
/*
 * Decimal text to nano-units and back: the digits are counted, not computed,
 * up to the last one that matters.
 */


#include <string.h>

#include "base/money.h"
#include "base/number.h"


#define APIKEY_MONEY_SCALE     9             /* decimals of a nano-unit */
#define APIKEY_MONEY_ONE       1000000000
#define APIKEY_MONEY_EXPONENT  1000000       /* beyond all that is counted */


typedef struct {
    const char  *whole;
    size_t       nwhole;
    const char  *fraction;
    size_t       nfraction;
    int64_t      exponent;
} apikey_decimal_t;


static bool apikey_decimal_read(apikey_decimal_t *d, const char *text,
    size_t len);
static const char *apikey_decimal_exponent(apikey_decimal_t *d,
    const char *p, const char *end);
static const char *apikey_decimal_digits(const char *p, const char *end);
static unsigned apikey_decimal_digit(const apikey_decimal_t *d, int64_t i);


bool
apikey_money_parse(uint64_t *nano, const char *text, size_t len)
{
    int64_t           i, n, point;
    uint64_t          value;
    unsigned          digit;
    apikey_decimal_t  d;

    if (!apikey_decimal_read(&d, text, len)) {
        return false;
    }

    n = (int64_t) (d.nwhole + d.nfraction);
    point = (int64_t) d.nwhole + d.exponent + APIKEY_MONEY_SCALE;

    value = 0;

    for (i = 0; i < point; i++) {

        if (i >= n && value == 0) {
            break;
        }

        digit = apikey_decimal_digit(&d, i);

        if (value > (APIKEY_MONEY_MAX - digit) / 10) {
            return false;
        }

        value = value * 10 + digit;
    }

    if (apikey_decimal_digit(&d, point) >= 5) {
        value++;
    }

    *nano = value;

    return value <= APIKEY_MONEY_MAX;
}


char *
apikey_money_format(char *out, uint64_t nano)
{
    char  *p, digits[APIKEY_UINT_TEXT_LEN];
    char  *end;

    out = apikey_uint_format(out, nano / APIKEY_MONEY_ONE);
    *out++ = '.';

    /* the 1 in front keeps the zeros behind the point */

    end = apikey_uint_format(digits,
                             APIKEY_MONEY_ONE + nano % APIKEY_MONEY_ONE);
    p = digits + 1;

    while (end - p > 2 && end[-1] == '0') {
        end--;
    }

    memcpy(out, p, (size_t) (end - p));

    return out + (end - p);
}


static bool
apikey_decimal_read(apikey_decimal_t *d, const char *text, size_t len)
{
    const char  *p, *end;

    end = text + len;

    p = apikey_decimal_digits(text, end);

    d->whole = text;
    d->nwhole = (size_t) (p - text);
    d->fraction = p;
    d->nfraction = 0;
    d->exponent = 0;

    if (d->nwhole == 0) {
        return false;
    }

    if (p < end && *p == '.') {
        d->fraction = p + 1;
        p = apikey_decimal_digits(p + 1, end);
        d->nfraction = (size_t) (p - d->fraction);

        if (d->nfraction == 0) {
            return false;
        }
    }

    if (p < end && (*p == 'e' || *p == 'E')) {
        p = apikey_decimal_exponent(d, p + 1, end);
    }

    return p == end;
}


/* NULL: there is none. */

static const char *
apikey_decimal_exponent(apikey_decimal_t *d, const char *p, const char *end)
{
    bool         minus;
    const char  *start;

    minus = false;

    if (p < end && (*p == '-' || *p == '+')) {
        minus = (*p == '-');
        p++;
    }

    start = p;

    for (p = start; p < end && *p >= '0' && *p <= '9'; p++) {

        if (d->exponent < APIKEY_MONEY_EXPONENT) {
            d->exponent = d->exponent * 10 + (*p - '0');
        }
    }

    if (p == start) {
        return NULL;
    }

    if (minus) {
        d->exponent = -d->exponent;
    }

    return p;
}


static const char *
apikey_decimal_digits(const char *p, const char *end)
{
    while (p < end && *p >= '0' && *p <= '9') {
        p++;
    }

    return p;
}


/* Zeros without end stand in front and behind. */

static unsigned
apikey_decimal_digit(const apikey_decimal_t *d, int64_t i)
{
    if (i < 0 || i >= (int64_t) (d->nwhole + d->nfraction)) {
        return 0;
    }

    if (i < (int64_t) d->nwhole) {
        return (unsigned) (d->whole[i] - '0');
    }

    return (unsigned) (d->fraction[i - (int64_t) d->nwhole] - '0');
}
