
/*
 * Numbers as text, against printf(), and back.
 */


#include "base/number.h"

#include "unit.h"


static void
test_uint(uint64_t n)
{
    char  text[APIKEY_UINT_TEXT_LEN + 1], want[32], *end;

    snprintf(want, sizeof(want), "%" PRIu64, n);

    memset(text, '#', sizeof(text));
    end = apikey_uint_format(text, n);

    is_text(text, end - text, want, "as printf() writes it");
    ok(*end == '#', "nothing behind it");
}


static void
test_decimal(void)
{
    uint64_t  n;

    test_uint(0);
    test_uint(UINT64_MAX);

    for (n = 1; n <= UINT64_MAX / 10; n *= 10) {
        test_uint(n);
        test_uint(n - 1);
        test_uint(n * 9 + 7);
    }
}


static void
test_hex(void)
{
    char      text[2 * 256], want[8], *end;
    bool      good;
    uint8_t   bytes[256];
    unsigned  i;

    for (i = 0; i < 256; i++) {
        bytes[i] = (uint8_t) i;
    }

    end = apikey_hex_format(text, bytes, sizeof(bytes));

    is_uint(end - text, sizeof(text), "two digits a byte");

    good = true;

    for (i = 0; i < 256; i++) {
        snprintf(want, sizeof(want), "%02x", i);
        good = good && memcmp(text + 2 * i, want, 2) == 0;
    }

    ok(good, "each byte");

    end = apikey_hex_format(text, bytes + 160, 19);

    is_text(text, end - text, "a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2",
            "any number of bytes");
    ok(apikey_hex_format(text, bytes, 0) == text, "no bytes");
}


static void
test_parse(void)
{
    uint64_t  n;

    ok(apikey_uint_parse(&n, "0", 1, 10) && n == 0, "zero");
    ok(apikey_uint_parse(&n, "00012", 5, 12) && n == 12, "zeros in front");
    ok(apikey_uint_parse(&n, "18446744073709551615", 20, UINT64_MAX)
       && n == UINT64_MAX, "the largest");
    ok(!apikey_uint_parse(&n, "18446744073709551616", 20, UINT64_MAX),
       "one more");
    ok(apikey_uint_parse(&n, "2", 1, 2) && n == 2, "as much as may be");
    ok(!apikey_uint_parse(&n, "3", 1, 2), "more than may be");
    ok(!apikey_uint_parse(&n, "10", 2, 9), "more digits than may be");
    ok(!apikey_uint_parse(&n, "", 0, 9), "nothing");
    ok(!apikey_uint_parse(&n, "-1", 2, 9), "a sign");
    ok(!apikey_uint_parse(&n, "1.0", 3, 9), "a fraction");
    ok(!apikey_uint_parse(&n, "1 ", 2, 9), "a space");
}


int
main(void)
{
    test_decimal();
    test_parse();
    test_hex();

    return unit_done();
}
