
/*
 * The JSON writer: nesting, escapes, bad UTF-8, buffers too small.
 */


#include "base/json.h"

#include "unit.h"


static void
test_document(apikey_json_t *j)
{
    static const uint8_t  uuid[16] = {
        0x01, 0xa1, 0xfd, 0x9a, 0x9a, 0x4b, 0x7a, 0x52,
        0x9d, 0x3b, 0x5a, 0x0c, 0x4e, 0x1f, 0x2b, 0x60
    };

    apikey_json_object(j);
    apikey_json_name(j, "id");
    apikey_json_uuid(j, uuid);
    apikey_json_name(j, "empty");
    apikey_json_array(j);
    apikey_json_array_end(j);
    apikey_json_name(j, "list");
    apikey_json_array(j);
    apikey_json_uint(j, UINT64_MAX);
    apikey_json_int(j, INT64_MIN);
    apikey_json_uint(j, 0);
    apikey_json_object(j);
    apikey_json_object_end(j);
    apikey_json_object(j);
    apikey_json_name(j, "a");
    apikey_json_null(j);
    apikey_json_object_end(j);
    apikey_json_array_end(j);
    apikey_json_name(j, "at");
    apikey_json_time(j, 1795256130123000);
    apikey_json_name(j, "yes");
    apikey_json_bool(j, true);
    apikey_json_name(j, "raw");
    apikey_json_raw(j, "{\"x\":1}", 7);
    apikey_json_name(j, "no");
    apikey_json_bool(j, false);
    apikey_json_object_end(j);
}


static const char  document[] =
    "{\"id\":\"01a1fd9a-9a4b-7a52-9d3b-5a0c4e1f2b60\",\"empty\":[],"
    "\"list\":[18446744073709551615,-9223372036854775808,0,{},{\"a\":null}],"
    "\"at\":\"2026-11-21T10:15:30.123Z\",\"yes\":true,\"raw\":{\"x\":1},"
    "\"no\":false}";


static void
test_nesting(void)
{
    char           buf[sizeof(document)];
    size_t         i, caught;
    apikey_json_t  j;

    apikey_json_init(&j, buf, sizeof(document) - 1);
    test_document(&j);

    ok(!j.overflow, "it fits");
    is_text(buf, apikey_json_len(&j), document, "all kinds of values");

    caught = 0;

    for (i = 0; i < sizeof(document) - 1; i++) {
        memset(buf, '#', sizeof(buf));
        apikey_json_init(&j, buf, i);
        test_document(&j);

        caught += j.overflow && apikey_json_len(&j) <= i && buf[i] == '#'
                  && memcmp(buf, document, apikey_json_len(&j)) == 0;
    }

    is_uint(caught, sizeof(document) - 1, "every smaller buffer overflows");
}


static void
test_depth(void)
{
    char           buf[100];
    unsigned       i;
    apikey_json_t  j;

    apikey_json_init(&j, buf, sizeof(buf));

    for (i = 0; i < APIKEY_JSON_DEPTH - 1; i++) {
        apikey_json_array(&j);
    }

    ok(!j.overflow, "the deepest");

    apikey_json_array(&j);
    ok(j.overflow, "one deeper");

    for (i = 0; i < 2 * APIKEY_JSON_DEPTH; i++) {
        apikey_json_array_end(&j);
    }

    ok(j.overflow, "it stays so");
}


static void
test_escape(void)
{
    char    out[200];
    size_t  i, len;

    static const struct {
        const char  *name;
        const char  *text;
        size_t       len;
        const char  *want;
    } texts[] = {
        { "quotes", "a\"b\\c/d", 7, "a\\\"b\\\\c/d" },
        { "letters", "\b\f\n\r\t", 5, "\\b\\f\\n\\r\\t" },
        { "control", "\0\x01\x1f\x7f", 4,
          "\\u0000\\u0001\\u001f\\u007f" },
        { "two bytes", "\xc2\x80\xdf\xbf", 4, "\xc2\x80\xdf\xbf" },
        { "three", "\xe0\xa0\x80\xe2\x82\xac", 6,
          "\xe0\xa0\x80\xe2\x82\xac" },
        { "four", "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", 8,
          "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf" },
        { "alone", "\x80", 1, "\xef\xbf\xbd" },
        { "overlong", "\xc0\xaf", 2, "\xef\xbf\xbd\xef\xbf\xbd" },
        { "overlong three", "\xe0\x9f\xbf", 3,
          "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
        { "surrogate", "\xed\xa0\x80", 3,
          "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
        { "above U+10FFFF", "\xf4\x90\x80\x80", 4,
          "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
        { "0xff", "\xff" "a", 2, "\xef\xbf\xbd" "a" },
        { "cut short", "a\xe2\x82", 3, "a\xef\xbf\xbd" },
        { "cut by a letter", "\xf0\x9f\x94" "a", 4, "\xef\xbf\xbd" "a" },
        { "cut by a quote", "\xe2\"", 2, "\xef\xbf\xbd\\\"" },
    };

    for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        len = apikey_json_escape(out, sizeof(out), texts[i].text,
                                 texts[i].len);
        is_text(out, len, texts[i].want, texts[i].name);
    }

    memset(out, '#', sizeof(out));
    len = apikey_json_escape(out, 7, "abc\"\x01" "d", 6);

    is_uint(len, 12, "what it needs");
    is_text(out, 7, "abc\\\"##", "whole characters, and none behind a gap");

    is_uint(apikey_json_escape(NULL, 0, "\n\n", 2), 4, "only counted");
}


static void
test_check(void)
{
    ok(apikey_json_check("", 0), "nothing is UTF-8");
    ok(apikey_json_check("a\n\x7f\xc3\xa4\xf0\x9f\x94\x91", 9), "text is");
    ok(!apikey_json_check("a\0b", 3), "a NUL is refused");
    ok(!apikey_json_check("\xe2\x82", 2), "half a character is not");
    ok(!apikey_json_check("a\xff", 2), "0xff is not");
}


int
main(void)
{
    test_nesting();
    test_depth();
    test_escape();
    test_check();

    return unit_done();
}
