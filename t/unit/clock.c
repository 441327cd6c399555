
/*
 * Times as text, there and back, and what is no time.
 */


#include "base/clock.h"

#include "unit.h"


static void
test_format(void)
{
    char    text[APIKEY_TIME_LEN];
    size_t  i;

    static const struct {
        int64_t      us;
        const char  *text;
    } times[] = {
        { 0, "1970-01-01T00:00:00.000Z" },
        { 1795256130123999, "2026-11-21T10:15:30.123Z" },
        { 951782399999999, "2000-02-28T23:59:59.999Z" },
        { 951782400000000, "2000-02-29T00:00:00.000Z" },
        { 951868800000000, "2000-03-01T00:00:00.000Z" },
        { 1709164800000000, "2024-02-29T00:00:00.000Z" },
        { 4107542400000000, "2100-03-01T00:00:00.000Z" },
        { -1, "1969-12-31T23:59:59.999Z" },
        { -62167219200000000, "0000-01-01T00:00:00.000Z" },
        { INT64_MIN, "0000-01-01T00:00:00.000Z" },
        { INT64_MAX, "9999-12-31T23:59:59.999Z" },
    };

    for (i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        apikey_time_format(text, times[i].us);
        is_text(text, sizeof(text), times[i].text, times[i].text);
    }

    apikey_date_format(text, 1795256130123999);
    is_text(text, 10, "2026-11-21", "a date");
}


static void
test_round(void)
{
    bool     good;
    char     text[APIKEY_TIME_LEN];
    int64_t  us, back;

    good = true;

    for (us = INT64_C(-62167219200000000); us < INT64_C(253402300799000000);
         us += INT64_C(86399999000) * 7)
    {
        apikey_time_format(text, us);

        good = good && apikey_time_parse(&back, text, sizeof(text))
               && back == us;
    }

    ok(good, "ten thousand years come back");
}


static void
test_parse(void)
{
    size_t   i;
    int64_t  us;

    static const struct {
        const char  *text;
        int64_t      us;
    } times[] = {
        { "1970-01-01", 0 },
        { "2026-11-21T10:15:30Z", 1795256130000000 },
        { "2026-11-21t10:15:30z", 1795256130000000 },
        { "2026-11-21 12:15:30+02:00", 1795256130000000 },
        { "2026-11-21T04:45:30.5-05:30", 1795256130500000 },
        { "2026-11-21T10:15:30.1234567899Z", 1795256130123456 },
        { "2016-12-31T23:59:60Z", 1483228800000000 },
    };

    static const char *const  wrong[] = {
        "", "2026-", "2026-11", "2026-11-2", "2026-13-01", "2026-00-10",
        "2026-02-29", "2100-02-29", "2026-04-31", "2026-01-00",
        "2026-11-21T", "2026-11-21T10:15Z", "2026-11-21T10:15:30",
        "2026-11-21T24:00:00Z", "2026-11-21T10:60:00Z",
        "2026-11-21T10:15:61Z", "2026-11-21T10:15:30.Z",
        "2026-11-21T10:15:30+0200", "2026-11-21T10:15:30+24:00",
        "2026-11-21T10:15:30Z ", "+026-11-21", "tomorrow",
    };

    for (i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        us = -1;

        ok(apikey_time_parse(&us, times[i].text, strlen(times[i].text)),
           times[i].text);
        is_uint(us, times[i].us, "... is that time");
    }

    ok(apikey_time_parse(&us, "2000-02-29", 10), "a leap year of 400");

    for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        ok(!apikey_time_parse(&us, wrong[i], strlen(wrong[i])), wrong[i]);
    }
}


static void
test_clocks(void)
{
    int64_t  real, boot;

    real = apikey_clock_real();
    boot = apikey_clock_boot();

    ok(real > INT64_C(1700000000000000), "the real clock counts from 1970");
    ok(boot > 0 && boot < real, "the boot clock does not");
    ok(apikey_clock_boot() >= boot, "... and goes on");
}


int
main(void)
{
    test_format();
    test_round();
    test_parse();
    test_clocks();

    return unit_done();
}
