
/*
 * Limits as lines: what is packed, and that nothing wrong is read.
 */


#include "base/limit.h"

#include "unit.h"


#define HOURLY  "hourly\trequests\t1000\t3600000000\t1000\t3600000\t1\t1\t\t\n"
#define BURST                                                                 \
    "burst & co \xc3\xa4\trequests\t50\t1000000\t100\t20000\t1\t1"            \
    "\tchat\tgpt-*\n"
#define NONE    "none\trequests\t0\t3600000000\t5\t1\t0\t1\t\t\n"


static size_t
test_parse(const char *text, size_t size, unsigned *count)
{
    static _Alignas(8) char  buf[4096];

    return apikey_limit_parse(text, strlen(text), buf, size, count);
}


static void
test_good(void)
{
    size_t                 used;
    unsigned               count;
    const apikey_limit_t  *l;
    static _Alignas(8) char  buf[4096];

    used = apikey_limit_parse(HOURLY BURST, strlen(HOURLY BURST), buf,
                              sizeof(buf), &count);
    is_uint(count, 2, "two lines, two limits");

    l = (const apikey_limit_t *) buf;

    is_text(apikey_limit_name(l), l->name_len, "hourly", "its name");
    is_uint(l->limit, 1000, "its limit");
    is_uint(l->window, 3600000000, "its window");
    is_uint(l->burst, 1000, "its burst");
    is_uint(l->rate.capacity, 3600000000, "its capacity");
    is_uint(l->unit, APIKEY_UNIT_REQUESTS, "its unit");
    is_uint(l->scope, 0, "no scope");
    is_uint(l->size % 8, 0, "a multiple of 8");

    l = apikey_limit_next(l);

    is_text(apikey_limit_name(l), l->name_len, "burst & co \xc3\xa4",
            "the second's name");
    is_text(apikey_limit_service(l), l->service_len, "chat", "its service");
    is_text(apikey_limit_model(l), l->model_len, "gpt-*", "its model");
    is_uint(l->scope, apikey_limit_scope("chat", 4, "gpt-*", 5), "its scope");

    is_uint((const char *) apikey_limit_next(l) - buf, used, "both are used");

    ok(test_parse(HOURLY BURST, used, &count) == used, "it fits exactly");
    ok(test_parse(HOURLY BURST, used - 1, &count) == (size_t) -1,
       "... and not in one byte less");

    is_uint(test_parse("", 4096, &count), 0, "no lines");
    is_uint(count, 0, "no limits");

    ok(test_parse("none\trequests\t0\t3600000000\t0\t1\t0\t1\t\t\n", 4096,
                  &count) > 0 && count == 1, "limit 0");

    (void) apikey_limit_parse(NONE, strlen(NONE), buf, sizeof(buf), &count);
    l = (const apikey_limit_t *) buf;

    is_uint(count, 1, "limit 0 with a burst");
    is_uint(l->burst, 0, "... has none");
    is_uint(l->rate.capacity, 0, "... and holds nothing");
}


static void
test_wrong(void)
{
    size_t    i;
    unsigned  count;

    static const char *const  wrong[] = {
        "\n",
        HOURLY "\n",
        HOURLY HOURLY,
        "hourly",
        "hourly\trequests\t1000\t3600000000\t1000\t3600000\t1\t1\t\t",
        "hourly\trequests\t1000\t3600000000\t1000\t3600000\t1\t1\t\n",
        "hourly\trequests\t1000\t3600000000\t1000\t3600000\t1\t1\t\t\t\n",
        "\trequests\t1000\t3600000000\t1000\t3600000\t1\t1\t\t\n",
        "ho\x01urly\trequests\t1000\t3600000000\t1000\t3600000\t1\t1\t\t\n",
        "hourly\trequest\t1000\t3600000000\t1000\t3600000\t1\t1\t\t\n",
        "hourly\ttokens\t1000\t3600000000\t1000\t3600000\t1\t1\t\t\n",
        "hourly\tcost\t1000\t3600000000\t1000\t3600000\t1\t1\t\t\n",
        "hourly\tconcurrent\t1000\t3600000000\t1000\t3600000\t1\t1\t\t\n",
        "hourly\trequests\t\t3600000000\t1000\t3600000\t1\t1\t\t\n",
        "hourly\trequests\t-1000\t3600000000\t1000\t3600000\t1\t1\t\t\n",
        "hourly\trequests\t1e3\t3600000000\t1000\t3600000\t1\t1\t\t\n",
        "hourly\trequests\t1000.0\t3600000000\t1000\t3600000\t1\t1\t\t\n",
        "hourly\trequests\t 1000\t3600000000\t1000\t3600000\t1\t1\t\t\n",
        "hourly\trequests\t1000000000000000000000000000000\t3600000000\t1000"
            "\t3600000\t1\t1\t\t\n",
        "hourly\trequests\t18446744073709551616\t3600000000\t1000\t3600000\t1"
            "\t1\t\t\n",
        "hourly\trequests\t1000\t0\t1000\t3600000\t1\t1\t\t\n",
        "hourly\trequests\t1000\t3600000000\t1000\t3600001\t1\t1\t\t\n",
        "hourly\trequests\t1000\t3600000000\t1000\t3600000\t2\t1\t\t\n",
        "hourly\trequests\t1000\t3600000000\t1000\t3600\t1\t1000\t\t\n",
        "hourly\trequests\t1000\t3600000000\t1000\t3600000\t1\t0\t\t\n",
        "hourly\trequests\t1000\t3600000000\t18446744073709551615\t3600000\t1"
            "\t1\t\t\n",
        "01234567890123456789012345678901234567890123456789012345678901234"
            "\trequests\t1000\t3600000000\t1000\t3600000\t1\t1\t\t\n",
    };

    for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        if (!ok(test_parse(wrong[i], 4096, &count) == (size_t) -1,
                "nothing is read"))
        {
            printf("# %s", wrong[i]);
        }
    }
}


static void
test_name(void)
{
    char      line[512];
    int       i, len;
    unsigned  count;

    len = 0;

    for (i = 0; i < 64; i++) {
        len += sprintf(line + len, "\xf0\x9f\x94\x91");
    }

    strcpy(line + len, &HOURLY[strlen("hourly")]);

    ok(test_parse(line, 4096, &count) != (size_t) -1,
       "64 characters of four bytes are a name");
}


static void
test_scope(void)
{
    uint64_t  scope;

    is_uint(apikey_limit_scope("", 0, "", 0), 0, "neither: 0");
    is_uint(apikey_limit_scope(NULL, 0, NULL, 0), 0, "NULL is empty");

    /* FNV-1a, 64 bits, of "a\0" */
    is_uint(apikey_limit_scope("a", 1, "", 0), UINT64_C(0x089be207b544f1e4),
            "a service alone");

    scope = apikey_limit_scope("a", 1, "b", 1);

    ok(scope != apikey_limit_scope("ab", 2, "", 0)
       && scope != apikey_limit_scope("", 0, "ab", 2)
       && scope != apikey_limit_scope("b", 1, "a", 1),
       "service and model are apart");
}


int
main(void)
{
    test_good();
    test_wrong();
    test_name();
    test_scope();

    return unit_done();
}
