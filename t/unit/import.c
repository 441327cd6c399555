
/*
 * Rows of an import: records of CSV, and that a plaintext key becomes its
 * digest wherever it stands.
 */


#include "base/csv.h"
#include "base/digest.h"
#include "base/import.h"
#include "base/jsonscan.h"

#include "unit.h"


static void
test_csv(void)
{
    char          out[128], *p;
    size_t        i, n;
    apikey_csv_t  csv;

    static const struct {
        const char  *record;
        const char  *want;       /* fields, each in <>; '!' wrong */
    } tests[] = {
        { "", "<>" },
        { "a", "<a>" },
        { "a,b\r", "<a><b>" },
        { ",", "<><>" },
        { "a,,", "<a><><>" },
        { "\"a,b\",\"c\"\"d\",\"\"", "<a,b><c\"d><>" },
        { " a , b ", "< a >< b >" },
        { "\"a\nb\"", "<a\nb>" },
        { "a\"b", "!" },
        { "\"a\"b", "!" },
        { "\"a", "!" },
        { "x,\"", "<x>!" },
    };

    for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        apikey_csv_init(&csv, tests[i].record, strlen(tests[i].record));
        p = out;

        for ( ;; ) {
            *p = '<';

            if (!apikey_csv_next(&csv, p + 1, &n)) {
                break;
            }

            p += n + 1;
            *p++ = '>';
        }

        if (csv.wrong) {
            *p++ = '!';
        }

        is_text(out, (size_t) (p - out), tests[i].want, tests[i].record);
    }
}


static const char *
test_object(char *out, size_t size, const char *header, const char *record)
{
    char                     names[256], scratch[256];
    const char              *why;
    apikey_json_t            j;
    apikey_import_header_t   h;

    why = apikey_import_header(&h, header, strlen(header), names);

    if (why == NULL) {
        apikey_json_init(&j, out, size - 1);
        why = apikey_import_csv(&h, record, strlen(record), scratch, &j);
        out[apikey_json_len(&j)] = '\0';
    }

    return why;
}


static void
test_records(void)
{
    char         out[512];
    const char  *why;

    why = test_object(out, sizeof(out), " Name ,scopes,enabled,usage_count,"
                      "metadata,Owner",
                      "\"a, b\",x:read  y:* ,true,42,\"{\"\"a\"\":1}\",");
    ok(why == NULL, "a record");
    is_text(out, strlen(out), "{\"name\":\"a, b\",\"scopes\":[\"x:read\","
            "\"y:*\"],\"enabled\":true,\"usage_count\":42,"
            "\"metadata\":{\"a\":1}}", "its object");

    why = test_object(out, sizeof(out), "enabled,usage_count,limits,key",
                      "yes,01,[1,1");
    ok(why == NULL, "what is not JSON stays text");
    is_text(out, strlen(out), "{\"enabled\":\"yes\",\"usage_count\":\"01\","
            "\"limits\":\"[1\",\"key\":\"1\"}", "for SQL to refuse");

    ok(test_object(out, sizeof(out), "a,b", "1") != NULL, "too few fields");
    ok(test_object(out, sizeof(out), "a,b", "1,2,3") != NULL,
       "too many fields");
    ok(test_object(out, sizeof(out), "a,b", "1,\"2") != NULL, "no CSV");
    ok(test_object(out, sizeof(out), "a,A", "1,2") != NULL,
       "a column twice");
    ok(test_object(out, sizeof(out), "a,", "1,2") != NULL,
       "a column without name");
    ok(test_object(out, sizeof(out), "a,\"b", "1,2") != NULL, "no header");
    ok(test_object(out, sizeof(out), "a,\xff", "1,2") != NULL, "no UTF-8");
}


static bool
test_row(char *out, size_t size, const char *row)
{
    bool           good;
    char           scratch[2048];
    apikey_json_t  j;

    apikey_json_init(&j, out, size - 1);
    good = apikey_import_row(&j, 7, row, strlen(row), scratch);
    out[apikey_json_len(&j)] = '\0';

    return good;
}


static void
test_rows(void)
{
    char    out[1024];
    size_t  i;

    static const char  *tests[][2] = {
        { "{\"name\":\"a\"}", "{\"row\":7,\"json\":\"{\\\"name\\\":\\\"a\\\"}"
          "\"}" },
        { " { } ", "{\"row\":7,\"json\":\"{}\"}" },
        { "{\"key\":null,\"a\":1}", "{\"row\":7,\"json\":\"{\\\"a\\\":1}\"}" },

        /* SHA-256 of "abcdefgh" */

        { "{\"a\":1,\"key\":\"abcdefgh\",\"b\":[2]}",
          "{\"row\":7,\"json\":\"{\\\"a\\\":1,\\\"b\\\":[2]}\",\"digest\":\""
          "9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab"
          "\"}" },
        { "{\"\\u006bey\":\"abcd\\u0065fgh\"}",
          "{\"row\":7,\"json\":\"{}\",\"digest\":\""
          "9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab"
          "\"}" },

        { "5", "{\"row\":7,\"error\":{\"location\":\"\",\"code\":\"bad_type\","
          "\"message\":\"the row must be a JSON object\"}}" },
        { "{\"key\":5}", "{\"row\":7,\"error\":{\"location\":\"/key\","
          "\"code\":\"bad_type\",\"message\":\"a text is needed\"}}" },
        { "{\"key\":\"abcdefg\"}", "{\"row\":7,\"error\":{\"location\":"
          "\"/key\",\"code\":\"bad_length\",\"message\":"
          "\"a key has 8 to 512 bytes\"}}" },
        { "{\"key\":\"abcdefgh\",\"key\":\"abcdefgi\"}",
          "{\"row\":7,\"error\":{\"location\":\"/key\",\"code\":\"duplicate\","
          "\"message\":\"give it once\"}}" },
        { "{\"key\":\"abcd\\ud800efgh\"}", "{\"row\":7,\"error\":{"
          "\"location\":\"/key\",\"code\":\"bad_value\",\"message\":"
          "\"NUL and U+FFFD are not of any key: its text was lost on the way"
          "\"}}" },
        { "{\"a\":\"\xff\"}", "{\"row\":7,\"error\":{\"location\":\"\","
          "\"code\":\"bad_value\",\"message\":\"this is not UTF-8 text\"}}" },
    };

    for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        ok(test_row(out, sizeof(out), tests[i][0]), "a row");
        is_text(out, strlen(out), tests[i][1], "its item");
    }

    ok(!test_row(out, sizeof(out), "{\"a\":}"), "no JSON");
    is_text(out, strlen(out), "", "nothing is written");
    ok(!test_row(out, sizeof(out), ""), "nothing at all");
}


static void
test_hints(void)
{
    size_t  i;

    static const struct {
        const char  *key;
        size_t       want;
    } tests[] = {
        { "abcdefgh", 0 },
        { "abcdefghijklmnopqrs", 0 },
        { "abcdefghijklmnopqrst", 4 },
        { "sk-0123456789abcdefghij", 4 },
        { "nk_0123456789abcdefghij", 7 },
        { "nk_0123456789abcdefghi", 7 - 3 },
        { "sk_live_0123456789abcdefghij", 12 },
        { "a_very_long_prefix_and_0123456789abcdefghij", 4 },
        { "sk_0123456789 abcdefghij", 0 },
        { "sk_0123456789\xc3\xa4" "abcdefghij", 0 },
        { "0123456789abcdefghij_", 4 },
    };

    for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        is_uint(apikey_import_hint(tests[i].key, strlen(tests[i].key)),
                tests[i].want, tests[i].key);
    }
}


int
main(void)
{
    (void) apikey_digest_init();

    test_csv();
    test_records();
    test_rows();
    test_hints();

    return unit_done();
}
