
/*
 * Money: exact, rounded half up once, and nothing read that is not money.
 */


#include "base/money.h"

#include "unit.h"


static void
test_read(const char *text, uint64_t want)
{
    char      name[64];
    uint64_t  nano;

    nano = UINT64_MAX;

    snprintf(name, sizeof(name), "money: \"%s\"", text);

    ok(apikey_money_parse(&nano, text, strlen(text)), name);
    is_uint(nano, want, "in nano-units");
}


static void
test_wrong(const char *text)
{
    char      name[64];
    uint64_t  nano;

    snprintf(name, sizeof(name), "not money: \"%s\"", text);

    ok(!apikey_money_parse(&nano, text, strlen(text)), name);
}


static void
test_text(uint64_t nano, const char *want)
{
    char      text[APIKEY_MONEY_TEXT_LEN + 1], *end;
    uint64_t  again;

    memset(text, '#', sizeof(text));
    end = apikey_money_format(text, nano);

    is_text(text, end - text, want, "as text");
    ok(end <= text + APIKEY_MONEY_TEXT_LEN, "not longer than it may be");
    ok(*end == '#', "nothing behind it");

    ok(apikey_money_parse(&again, text, (size_t) (end - text))
       && again == nano, "and back");
}


static void
test_forms(void)
{
    test_read("0", 0);
    test_read("0.0", 0);
    test_read("0e999999999999999999999", 0);
    test_read("1", 1000000000);
    test_read("007", 7000000000);
    test_read("50.00", 50000000000);
    test_read("0.000001", 1000);
    test_read("0.000000001", 1);
    test_read("1e-05", 10000);
    test_read("1E-5", 10000);
    test_read("1.5e-7", 150);
    test_read("12e+3", 12000000000000);
    test_read("0.00000000025e10", 2500000000);
    test_read("9007199.254740991", APIKEY_MONEY_MAX);
    test_read("0.00000000000000000000000000000000000000000000000001", 0);
    test_read("1e-999999999999999999999", 0);

    test_wrong("");
    test_wrong(".");
    test_wrong(".5");
    test_wrong("5.");
    test_wrong("1,5");
    test_wrong("-1");
    test_wrong("+1");
    test_wrong(" 1");
    test_wrong("1 ");
    test_wrong("$1");
    test_wrong("1e");
    test_wrong("1e+");
    test_wrong("1e1.5");
    test_wrong("0x10");
    test_wrong("NaN");
    test_wrong("Infinity");
    test_wrong("1.2.3");
    test_wrong("null");
    test_wrong("9007199.254740992");
    test_wrong("1e30");
    test_wrong("1e999999999999999999999");
    test_wrong("1000000000000000000000000000000");
}


static void
test_rounding(void)
{
    test_read("0.0000000004", 0);
    test_read("0.0000000005", 1);
    test_read("0.00000000049999999999999999999999999999999999", 0);
    test_read("0.0000000014999", 1);
    test_read("0.0000000015", 2);
    test_read("0.9999999995", 1000000000);
    test_read("0.99999999949", 999999999);
    test_read("5e-10", 1);
    test_read("0.5e-9", 1);
    test_read("0.05e-9", 0);
    test_read("9007199.2547409914", APIKEY_MONEY_MAX);
    test_wrong("9007199.2547409915");
}


static void
test_sum(void)
{
    unsigned  i;
    uint64_t  nano, sum;

    sum = 0;

    for (i = 0; i < 100000; i++) {
        nano = 0;
        (void) apikey_money_parse(&nano, "0.000001", 8);
        sum += nano;
    }

    test_text(sum, "0.10");
}


static void
test_format(void)
{
    test_text(0, "0.00");
    test_text(1, "0.000000001");
    test_text(1000, "0.000001");
    test_text(1000000, "0.001");
    test_text(10000000, "0.01");
    test_text(100000000, "0.10");
    test_text(1000000000, "1.00");
    test_text(8300000000, "8.30");
    test_text(131204118000, "131.204118");
    test_text(APIKEY_MONEY_MAX, "9007199.254740991");
}


int
main(void)
{
    test_forms();
    test_rounding();
    test_sum();
    test_format();

    return unit_done();
}
