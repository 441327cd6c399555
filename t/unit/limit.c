
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
test_pack(const char *text, const char *terms, char *buf, size_t size,
    unsigned *count)
{
    apikey_limit_text_t  limits, more;

    limits.text = text;
    limits.len = strlen(text);
    more.text = terms;
    more.len = strlen(terms);

    return apikey_limit_parse(&limits, &more, buf, size, count);
}


static size_t
test_parse(const char *text, size_t size, unsigned *count)
{
    static _Alignas(8) char  buf[4096];

    return test_pack(text, "", buf, size, count);
}


static void
test_good(void)
{
    size_t                 used;
    unsigned               count;
    const apikey_limit_t  *l;
    static _Alignas(8) char  buf[4096];

    used = test_pack(HOURLY BURST, "", buf, sizeof(buf), &count);
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

    (void) test_pack(NONE, "", buf, sizeof(buf), &count);
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


/* What is no length, or no request, has its terms in a second text. */

#define PLAIN(name, unit, n)   name "\t" unit "\t" n "\t\t\t\t\t\t\t\n"
#define BASE                   "2251799813685248"

static void
test_kinds(void)
{
    size_t                 i;
    unsigned               count;
    const apikey_limit_t  *l;
    static _Alignas(8) char  buf[4096];

    static const struct {
        const char  *line;
        const char  *terms;
        uint64_t     limit;
        uint64_t     window;
        uint64_t     fill;
        uint64_t     base;
        uint8_t      unit;
        uint8_t      kind;
        uint8_t      mode;
        uint8_t      period;
    } kinds[] = {
        { HOURLY, "bucket\t\t\t17\t\t\n", 1000, 3600000000, 0, 0,
          APIKEY_UNIT_REQUESTS, APIKEY_KIND_BUCKET, APIKEY_STRICT,
          APIKEY_PERIOD_NONE },
        { "tpm\ttokens\t60\t60000000\t60\t1000000\t1\t1\t\tgpt-*\n",
          "bucket\ttrim\t\t17\t\t\n", 60, 60000000, 0, 0,
          APIKEY_UNIT_TOKENS, APIKEY_KIND_BUCKET, APIKEY_TRIM,
          APIKEY_PERIOD_NONE },
        { "hourly\trequests\t1000\t3600000000\t\t\t\t\t\t\n",
          "rolling\t\t\t17\t\t\n", 1000, 3600000000, 0, 0,
          APIKEY_UNIT_REQUESTS, APIKEY_KIND_ROLLING, APIKEY_STRICT,
          APIKEY_PERIOD_NONE },
        { PLAIN("monthly", "requests", "1000"),
          "calendar\t\tmonth\t17\t\t\n", 1000, 0, 1000, 0,
          APIKEY_UNIT_REQUESTS, APIKEY_KIND_CALENDAR, APIKEY_STRICT,
          APIKEY_PERIOD_MONTH },
        { PLAIN("budget", "cost", "9000000000000000"),
          "calendar\tstrict\tday\t17\t\t\n", 9000000000000000, 0,
          9000000000000000, 0, APIKEY_UNIT_COST, APIKEY_KIND_CALENDAR,
          APIKEY_STRICT, APIKEY_PERIOD_DAY },
        { PLAIN("all", "tokens", "5"), "total\tobserve\t\t17\t\t\n", 5, 0, 0,
          0, APIKEY_UNIT_TOKENS, APIKEY_KIND_TOTAL, APIKEY_OBSERVE,
          APIKEY_PERIOD_NONE },
        { PLAIN("jobs", "concurrent", "8"), "concurrent\t\t\t17\t\t\n", 8, 0,
          0, 0, APIKEY_UNIT_CONCURRENT, APIKEY_KIND_CONCURRENT,
          APIKEY_STRICT, APIKEY_PERIOD_NONE },
        { PLAIN("credits", "requests", "2251799813685255"),
          "credits\t\t\t17\t\t" BASE "\n", 2251799813685255, 0, 0,
          2251799813685248, APIKEY_UNIT_REQUESTS, APIKEY_KIND_CREDITS,
          APIKEY_STRICT, APIKEY_PERIOD_NONE },
        { PLAIN("credits", "cost", BASE),
          "credits\t\tweek\t17\t10\t" BASE "\n", 2251799813685248, 0, 10,
          2251799813685248, APIKEY_UNIT_COST, APIKEY_KIND_CREDITS,
          APIKEY_STRICT, APIKEY_PERIOD_WEEK },
    };

    for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {

        (void) test_pack(kinds[i].line, kinds[i].terms, buf, sizeof(buf),
                         &count);
        l = (const apikey_limit_t *) buf;

        if (!ok(count == 1, "one of its kind")) {
            continue;
        }

        is_uint(l->limit, kinds[i].limit, "... its limit");
        is_uint(l->window, kinds[i].window, "... its window");
        is_uint(l->fill, kinds[i].fill, "... its fill");
        is_uint(l->base, kinds[i].base, "... its base");
        is_uint(l->made, 17, "... since when");
        is_uint(l->unit, kinds[i].unit, "... its unit");
        is_uint(l->kind, kinds[i].kind, "... its kind");
        is_uint(l->mode, kinds[i].mode, "... its mode");
        is_uint(l->period, kinds[i].period, "... its period");
        is_uint(l->rate.capacity, kinds[i].limit * l->rate.token,
                "... its capacity");

        ok(test_parse(kinds[i].line, 4096, &count) == (size_t) -1
           || l->kind == APIKEY_KIND_BUCKET,
           "... is nothing without its terms");
    }

    (void) test_pack(PLAIN("credits", "cost", "1") PLAIN("credits", "cost",
                     BASE), "total\t\t\t0\t\t\ncredits\t\t\t0\t\t" BASE "\n",
                     buf, sizeof(buf), &count);
    is_uint(count, 2, "credits besides a limit of that name");
}


static void
test_wrong_kinds(void)
{
    size_t    i;
    unsigned  count;
    static _Alignas(8) char  buf[4096];

    static const char *const  wrong[][2] = {
        { HOURLY, "\n" },
        { HOURLY, "bucket\t\t\t0\t\n" },
        { HOURLY, "bucket\t\t\t0\t\t\t\n" },
        { HOURLY, "bucket\t\t\t0\t\t" },
        { HOURLY, "bucket\t\t\t\t\t\n" },
        { HOURLY, "leaky\t\t\t0\t\t\n" },
        { HOURLY, "bucket\t\tmonth\t0\t\t\n" },
        { HOURLY, "bucket\ttrim\t\t0\t\t\n" },
        { HOURLY, "bucket\t\t\t0\t1\t\n" },
        { HOURLY, "bucket\t\t\t0\t\t1\n" },
        { HOURLY, "bucket\t\t\t0\t\t\nbucket\t\t\t0\t\t\n" },
        { HOURLY BURST, "bucket\t\t\t0\t\t\n" },
        { HOURLY, "calendar\t\tmonth\t0\t\t\n" },
        { PLAIN("m", "requests", "7"), "calendar\t\t\t0\t\t\n" },
        { PLAIN("m", "requests", "7"), "calendar\t\tyear\t0\t\t\n" },
        { PLAIN("m", "requests", "7"), "calendar\tobserve\tday\t0\t\t\n" },
        { PLAIN("m", "requests", "7"), "bucket\t\t\t0\t\t\n" },
        { PLAIN("m", "requests", "7"), "rolling\t\t\t0\t\t\n" },
        { PLAIN("m", "requests", "9007199254740992"), "total\t\t\t0\t\t\n" },
        { PLAIN("m", "requests", "7"), "concurrent\t\t\t0\t\t\n" },
        { PLAIN("m", "concurrent", "7"), "total\t\t\t0\t\t\n" },
        { PLAIN("m", "dollars", "7"), "total\t\t\t0\t\t\n" },
        { PLAIN("m", "cost", "7.5"), "total\t\t\t0\t\t\n" },
        { PLAIN("m", "cost", "7"), "total\tlax\t\t0\t\t\n" },
        { PLAIN("m", "cost", "7"), "credits\t\tday\t0\t\t7\n" },
        { PLAIN("m", "cost", "7"), "credits\t\t\t0\t7\t7\n" },
        { PLAIN("m", "cost", "7"), "credits\t\tday\t0\t8\t7\n" },
        { PLAIN("m", "cost", "7"), "credits\t\tday\t0\t8\t8\n" },
    };

    for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        if (!ok(test_pack(wrong[i][0], wrong[i][1], buf, sizeof(buf), &count)
                == (size_t) -1, "nothing is read"))
        {
            printf("# %s# %s", wrong[i][0], wrong[i][1]);
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
    test_kinds();
    test_wrong_kinds();
    test_name();
    test_scope();

    return unit_done();
}
