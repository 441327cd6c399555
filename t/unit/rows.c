
/*
 * Splitting a body into rows: what is a row, and that it does not matter
 * where the body is cut.
 */


#include "base/rows.h"

#include "unit.h"


typedef struct {
    apikey_rows_form_e  form;
    const char         *body;
    const char         *want;        /* rows, each in <>; '!' wrong */
} test_rows_t;


/* All rows of a body that comes in pieces of so many bytes. */

static void
test_split(char *out, apikey_rows_form_e form, const char *body, size_t piece)
{
    size_t          len, left;
    const char     *p, *end, *part;
    apikey_rows_e   rc;
    apikey_rows_t   rows;

    apikey_rows_init(&rows, form);

    *out++ = '<';
    p = body;
    left = strlen(body);
    rc = APIKEY_ROWS_MORE;

    while (left && rc != APIKEY_ROWS_WRONG) {
        len = left < piece ? left : piece;
        end = p + len;
        left -= len;

        do {
            rc = apikey_rows_next(&rows, &p, end, &part, &len);

            memcpy(out, part, len);
            out += len;

            if (rc == APIKEY_ROWS_ROW) {
                *out++ = '>';
                *out++ = '<';
            }

        } while (rc == APIKEY_ROWS_ROW);
    }

    if (rc != APIKEY_ROWS_WRONG) {
        rc = apikey_rows_end(&rows);
    }

    if (rc == APIKEY_ROWS_ROW) {
        *out++ = '>';
        *out++ = '<';
    }

    if (rc == APIKEY_ROWS_WRONG) {
        *out++ = '!';

    } else {
        out--;
    }

    *out = '\0';
}


static void
test_cut(void)
{
    char    out[512];
    size_t  i, piece;

    static const test_rows_t  tests[] = {
        { APIKEY_ROWS_ARRAY, "[]", "" },
        { APIKEY_ROWS_ARRAY, " [ ] \n", "" },
        { APIKEY_ROWS_ARRAY, "\xef\xbb\xbf[{}]", "<{}>" },
        { APIKEY_ROWS_ARRAY, "[{\"a\":[1,{}]} , {\"b\":2}]",
          "<{\"a\":[1,{}]}><{\"b\":2}>" },
        { APIKEY_ROWS_ARRAY, "[{\"a\":\"]}\\\",{[\\\\\"},{}]",
          "<{\"a\":\"]}\\\",{[\\\\\"}><{}>" },
        { APIKEY_ROWS_ARRAY, "[1,\"x,]\",null ,[2],true]",
          "<1><\"x,]\"><null><[2]><true>" },
        { APIKEY_ROWS_ARRAY, "[{},]", "<{}><!" },
        { APIKEY_ROWS_ARRAY, "[{} {}]", "<{}><!" },
        { APIKEY_ROWS_ARRAY, "[{}]x", "<{}><!" },
        { APIKEY_ROWS_ARRAY, "[,{}]", "<!" },
        { APIKEY_ROWS_ARRAY, "[{}", "<{}><!" },
        { APIKEY_ROWS_ARRAY, "{}", "<!" },
        { APIKEY_ROWS_ARRAY, "", "<!" },

        { APIKEY_ROWS_DATA, "[{},1]", "<{}><1>" },
        { APIKEY_ROWS_DATA, " {\"data\" : [ {} ,{}] } \n", "<{}><{}>" },
        { APIKEY_ROWS_DATA, "{\"a\":\"\\\"data\",\"b\":{\"data\":[1]},"
          "\"data\":[2]}", "<2>" },
        { APIKEY_ROWS_DATA, "{\"data\":[]}", "" },
        { APIKEY_ROWS_DATA, "{\"data\":[1]", "<1><!" },
        { APIKEY_ROWS_DATA, "{\"data\":[1],\"n\":1}", "<1><!" },
        { APIKEY_ROWS_DATA, "{\"data\":[1]}}", "<1><!" },
        { APIKEY_ROWS_DATA, "{\"data\":1,\"x\":[2]}", "<!" },
        { APIKEY_ROWS_DATA, "{\"datas\":[2],\"dat\":[2]}", "<!" },
        { APIKEY_ROWS_DATA, "[1]}", "<1><!" },

        { APIKEY_ROWS_LINES, "", "" },
        { APIKEY_ROWS_LINES, "{\"a\":1}\n{}\n", "<{\"a\":1}><{}>" },
        { APIKEY_ROWS_LINES, "\n\r\n  {\"a\":1}\r\n\n \t\n{}", "<{\"a\":1}\r>"
          "<{}>" },
        { APIKEY_ROWS_LINES, "x\n[", "<x><[>" },

        { APIKEY_ROWS_CSV, "a,b\n1,2\n", "<a,b><1,2>" },
        { APIKEY_ROWS_CSV, "\xef\xbb\xbf" "a\r\n\r\n b\r\n", "<a\r>< b\r>" },
        { APIKEY_ROWS_CSV, "\"a\nb\",\"\"\"\n\"\nc", "<\"a\nb\",\"\"\"\n\">"
          "<c>" },
        { APIKEY_ROWS_CSV, "a\"b\nc", "<a\"b><c>" },
        { APIKEY_ROWS_CSV, "\"a\"x\nb", "<\"a\"x><b>" },
        { APIKEY_ROWS_CSV, "\"a\nb", "<\"a\nb!" },
    };

    for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        for (piece = 1; piece < 64; piece += piece < 8 ? 1 : 14) {
            test_split(out, tests[i].form, tests[i].body, piece);

            if (strcmp(out, tests[i].want) != 0) {
                break;
            }
        }

        is_text(out, strlen(out), tests[i].want, "rows, however cut");
    }
}


static void
test_why(void)
{
    char            out[64];
    size_t          len;
    const char     *p, *part;
    apikey_rows_t   rows;

    apikey_rows_init(&rows, APIKEY_ROWS_ARRAY);
    p = "{}";

    is_uint(apikey_rows_next(&rows, &p, p + 2, &part, &len),
            APIKEY_ROWS_WRONG, "no array");
    snprintf(out, sizeof(out), "%s", rows.why);
    is_text(out, strlen(out), "a JSON array is needed", "says why");
    is_uint(apikey_rows_next(&rows, &p, p + 2, &part, &len),
            APIKEY_ROWS_WRONG, "and stays so");
    is_uint(apikey_rows_end(&rows), APIKEY_ROWS_WRONG, "to the end");
}


int
main(void)
{
    test_cut();
    test_why();

    return unit_done();
}
