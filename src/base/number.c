
/*
 * Numbers as text: two digits a step, out of tables; of hexadecimal ones 32
 * at once, where the machine has vectors.
 */


#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "base/number.h"


#define APIKEY_TENS(d)                                                        \
    d "0" d "1" d "2" d "3" d "4" d "5" d "6" d "7" d "8" d "9"
#define APIKEY_SIXTEENS(d)                                                    \
    APIKEY_TENS(d) d "a" d "b" d "c" d "d" d "e" d "f"


static const char  apikey_decimal_pairs[] =
    APIKEY_TENS("0") APIKEY_TENS("1") APIKEY_TENS("2") APIKEY_TENS("3")
    APIKEY_TENS("4") APIKEY_TENS("5") APIKEY_TENS("6") APIKEY_TENS("7")
    APIKEY_TENS("8") APIKEY_TENS("9");

static const char  apikey_hex_pairs[] =
    APIKEY_SIXTEENS("0") APIKEY_SIXTEENS("1") APIKEY_SIXTEENS("2")
    APIKEY_SIXTEENS("3") APIKEY_SIXTEENS("4") APIKEY_SIXTEENS("5")
    APIKEY_SIXTEENS("6") APIKEY_SIXTEENS("7") APIKEY_SIXTEENS("8")
    APIKEY_SIXTEENS("9") APIKEY_SIXTEENS("a") APIKEY_SIXTEENS("b")
    APIKEY_SIXTEENS("c") APIKEY_SIXTEENS("d") APIKEY_SIXTEENS("e")
    APIKEY_SIXTEENS("f");


char *
apikey_uint_format(char *out, uint64_t n)
{
    char      *p, *end;
    uint64_t   rest;

    /* first how many digits there are, so that none is moved */

    end = out + 1;

    for (rest = n; rest >= 10000; rest /= 10000) {
        end += 4;
    }

    end += (rest >= 10) + (rest >= 100) + (rest >= 1000);

    for (p = end; n >= 100; n /= 100) {
        p -= 2;
        memcpy(p, apikey_decimal_pairs + n % 100 * 2, 2);
    }

    if (n >= 10) {
        memcpy(out, apikey_decimal_pairs + n * 2, 2);

    } else {
        *out = (char) ('0' + n);
    }

    return end;
}


bool
apikey_uint_parse(uint64_t *n, const char *text, size_t len, uint64_t max)
{
    size_t    i;
    uint64_t  value, digit;

    value = 0;

    for (i = 0; i < len; i++) {

        if (text[i] < '0' || text[i] > '9') {
            return false;
        }

        digit = (uint64_t) (text[i] - '0');

        if (digit > max || value > (max - digit) / 10) {
            return false;
        }

        value = value * 10 + digit;
    }

    *n = value;

    return len != 0;
}


#ifdef __SSE2__

/* The digits of sixteen bytes below sixteen. */

static inline __m128i
apikey_hex_digits(__m128i n)
{
    __m128i  letters;

    letters = _mm_cmpgt_epi8(n, _mm_set1_epi8(9));

    return _mm_add_epi8(_mm_add_epi8(n, _mm_set1_epi8('0')),
                        _mm_and_si128(letters,
                                      _mm_set1_epi8('a' - '0' - 10)));
}


static char *
apikey_hex_format_sixteen(char *out, const uint8_t *bytes)
{
    __m128i  v, high, low;

    v = _mm_loadu_si128((const __m128i *) bytes);
    low = _mm_set1_epi8(0x0f);
    high = apikey_hex_digits(_mm_and_si128(_mm_srli_epi16(v, 4), low));
    low = apikey_hex_digits(_mm_and_si128(v, low));

    _mm_storeu_si128((__m128i *) out, _mm_unpacklo_epi8(high, low));
    _mm_storeu_si128((__m128i *) (out + 16), _mm_unpackhi_epi8(high, low));

    return out + 32;
}

#endif


char *
apikey_hex_format(char *out, const uint8_t *bytes, size_t len)
{
    size_t  i;

#ifdef __SSE2__

    for ( /* void */ ; len >= 16; len -= 16) {
        out = apikey_hex_format_sixteen(out, bytes);
        bytes += 16;
    }

#endif

    for (i = 0; i < len; i++) {
        memcpy(out, apikey_hex_pairs + bytes[i] * 2, 2);
        out += 2;
    }

    return out;
}
