
/*
 * Members picked out of JSON, whole and in pieces: what is told, in its order.
 */


#include <stdlib.h>

#include "base/jsonpick.h"

#include "unit.h"


enum { TEST_TEXT = 1, TEST_NUMBER, TEST_IN, TEST_DEEP, TEST_LEAF };


static const apikey_pick_t  test_deep[] = {
    APIKEY_PICK("n", TEST_LEAF, SCALAR),
};

static const apikey_pick_t  test_in[] = {
    APIKEY_PICK("n", TEST_NUMBER, SCALAR),
    APIKEY_PICK_OBJECT("deep", TEST_DEEP, test_deep),
};

static const apikey_pick_t  test_root[] = {
    APIKEY_PICK("t", TEST_TEXT, TEXT),
    APIKEY_PICK("n", TEST_NUMBER, SCALAR),
    APIKEY_PICK_OBJECT("in", TEST_IN, test_in),
};

static const apikey_pick_t  test_picks = APIKEY_PICK_OBJECT("", 0, test_root);


typedef struct {
    apikey_jsonpick_t  json;
    char               text[16];
    char               told[256];
    size_t             len;
} test_pick_t;


/* {=n}: an object with what is in it; n= a count, n+ n- n0 true, false,
   null, n? */

static void
test_found(apikey_jsonpick_t *j, unsigned id, apikey_pick_e what)
{
    int           n;
    char         *p;
    size_t        room;
    test_pick_t  *t;

    static const char  names[] = " tnidl";

    t = (test_pick_t *) j;
    p = t->told + t->len;
    room = sizeof(t->told) - t->len;

    switch (what) {

    case APIKEY_PICK_OPEN:
        n = snprintf(p, room, "%c{", names[id]);
        break;

    case APIKEY_PICK_CLOSE:
        n = snprintf(p, room, "}%s", j->empty ? "0" : "");
        break;

    case APIKEY_PICK_COUNT:
        n = snprintf(p, room, "%c=%" PRIu64 " ", names[id], j->number);
        break;

    case APIKEY_PICK_TEXT:
        n = snprintf(p, room, "%c=<%.*s> ", names[id], (int) j->len, j->text);
        break;

    default:
        n = snprintf(p, room, "%c%c ", names[id],
                     what == APIKEY_PICK_TRUE
                     ? '+' : what == APIKEY_PICK_FALSE
                     ? '-' : what == APIKEY_PICK_NULL ? '0' : '?');
    }

    t->len += (size_t) n;

    if (t->len >= sizeof(t->told)) {
        t->len = sizeof(t->told) - 1;
    }
}


/* In pieces of its own memory each, so that a read beyond one is noticed. */

static void
test_piece(test_pick_t *t, const char *json, size_t len)
{
    char  *piece;

    piece = malloc(len + !len);

    if (piece) {
        memcpy(piece, json, len);
        apikey_jsonpick_feed(&t->json, piece, len);
        free(piece);
    }
}


static void
test_begin(test_pick_t *t)
{
    memset(t, 0, sizeof(test_pick_t));
    apikey_jsonpick_init(&t->json, &test_picks, test_found, t->text,
                         sizeof(t->text));
}


static bool
test_is(test_pick_t *t, const char *want)
{
    bool  whole;

    whole = apikey_jsonpick_whole(&t->json);
    t->told[t->len] = '\0';

    return whole == (*want != '!') && strcmp(t->told, want + !whole) == 0;
}


/* With so many blanks behind it that no member ends its piece. */

static bool
test_wide(const char *json, size_t len, const char *want)
{
    char         *wide;
    bool          same;
    size_t        i;
    test_pick_t   t;

    wide = malloc(len + 64);

    if (wide == NULL) {
        return false;
    }

    memcpy(wide, json, len);
    memset(wide + len, ' ', 64);

    same = true;

    for (i = 0; i <= len && same; i++) {
        test_begin(&t);
        test_piece(&t, wide, i);
        test_piece(&t, wide + i, len + 64 - i);
        same = test_is(&t, want);
    }

    if (!same) {
        printf("# with blanks behind it, split at %zu: %s\n", i - 1, t.told);
    }

    free(wide);

    return same;
}


static void
test_all(const char *json, const char *want)
{
    size_t       i, k, len;
    test_pick_t  t;

    len = strlen(json);

    test_begin(&t);
    test_piece(&t, json, len);

    if (!test_is(&t, want)) {
        ok(false, json);
        printf("# got %s, want %s\n", t.told, want);
        return;
    }

    for (i = 0; i <= len; i++) {
        for (k = i; k <= len; k += 1 + len / 40) {
            test_begin(&t);
            test_piece(&t, json, i);
            test_piece(&t, json + i, k - i);
            test_piece(&t, json + k, len - k);

            if (!test_is(&t, want)) {
                ok(false, json);
                printf("# split at %zu and %zu: %s\n", i, k, t.told);
                return;
            }
        }
    }

    if (*want != '!' && !test_wide(json, len, want)) {
        ok(false, json);
        return;
    }

    test_begin(&t);

    for (i = 0; i < len; i++) {
        test_piece(&t, json + i, 1);
    }

    ok(test_is(&t, want), json);
}


#define MANY  "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,"


static void
test_shapes(void)
{
    size_t  i;

    /* ! in front: it is not whole */

    static const char *const  tests[][2] = {
        { "{}", " {}0" },
        { " \t\r\n{ } \n", " {}0" },
        { "\xef\xbb\xbf{\"n\":1}", " {n=1 }" },
        { "\xef\xbb{\"n\":1}", "!" },
        { "[{\"n\":1}]", "!" },
        { "5", "!" },
        { "\"n\"", "!" },
        { "", "!" },
        { "<html>{\"n\":1}</html>", "!" },
        { "{\"n\":1}", " {n=1 }" },
        { "{\"x\":1,\"n\":2,\"y\":[3],\"n\":4}", " {n=2 n=4 }" },
        { "{\"n\" : 1 ,\n\"in\" : { \"n\" : 2 } }", " {n=1 i{n=2 }}" },
        { "{\n  \"x\": \"a\",\n  \"\": -1.5e3,\n  \"n\": 0,\n  \"y\": true\n}",
          " {n=0 }" },
        { "{\"a name of more bytes than are looked at\":1,\"\\u006e\":2,"
          "\"x\":\"a value of more bytes than are looked at \\\\\","
          "\"t\":\"\\\"\",\"n\":01}", "! {n=2 t=<\"> n=0 " },
        { "{\"n\":1,}", "! {n=1 " },
        { "{\"x\":1,,\"n\":1}", "! {" },
        { "{\"x\" 1,\"n\":1}", "! {" },
        { "{\"x\":,\"n\":1}", "! {" },
        { "{\"n\":1.5,\"n\":12345678901234567,\"n\":1e3,\"n\":{}}",
          " {n? n? n=1000 n? }" },
        { "{\"in\":{\"deep\":{\"n\":3,\"in\":{\"n\":9}},\"t\":\"x\"}}",
          " {i{d{l=3 }}}" },
        { "{\"in\":{},\"in\":null,\"in\":[{\"n\":1}],\"in\":\"{\"}",
          " {i{}0i0 i? i? }" },
        { "{\"x\":{\"in\":{\"n\":1}},\"y\":[{\"n\":1}],\"n\":0}", " {n=0 }" },
        { "{\"x\":\"\\\"n\\\":1,\\\\\",\"n\":2}", " {n=2 }" },
        { "{\"x\":\"},\\\"n\\\":1\"}", " {}" },
        { "{\"x\":[\"]\",\"\\\\\",\"\\\"]\",{\"a\":\"}\"}],\"n\":2}",
          " {n=2 }" },

        /* where many bytes are looked at together */
        { "{\"x\":[" MANY "[[\"]]]]\",[{\"a\":\"\\\\\"}]]]," MANY
          "\"" MANY "\","
          MANY MANY "[]],\"n\":2}", " {n=2 }" },
        { "{\"x\":{\"a\":\"" MANY "\\\"}\",\"b\":\"\\\\\\\"" MANY "]\\\\\"},"
          "\"n\":2}", " {n=2 }" },
        { "{\"x\":[" MANY "\\\"]" MANY "\"]," MANY "\"n\":2}",
          "! {" },
        { "{\"x\":[" MANY "\\\"]" MANY "\"],\"n\":2}", " {n=2 }" },

        { "{\"\\u006e\":1,\"\\u0069\\u006E\":{\"n\":2}}", " {n=1 i{n=2 }}" },
        { "{\"\\n\":1,\"n\\u0000\":1,\"\\ud83d\\ude00n\":1,\"\":1}", " {}" },
        { "{\"nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn\\u006e\":1}", " {}" },
        { "{\"n\":true,\"n\":false,\"n\":null,\"n\":\"5\",\"n\":{},\"n\":[]}",
          " {n+ n- n0 n? n? n? }" },

        { "{\"n\":1", "! {" },
        { "{\"n\":1 ", "! {n=1 " },
        { "{\"n\":1}}", "! {n=1 }" },
        { "{\"n\":1,}", "! {n=1 " },
        { "{\"n\":1 2}", "! {n=1 " },
        { "{n:1}", "! {" },
        { "{'n':1}", "! {" },
        { "{\"n\":tru}", "! {" },
        { "{\"n\":truex}", "! {n+ " },
        { "{\"n\":NaN}", "! {" },
        { "{\"n\"1}", "! {" },
        { "{\"n\\x\":1}", "! {" },
        { "{\"n\\u00g0\":1}", "! {" },
        { "{\"x\":12x,\"n\":1}", " {n=1 }" },
        { "{\"x\":12\"n\":1}", "! {" },
    };

    for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        test_all(tests[i][0], tests[i][1]);
    }
}


static void
test_numbers(void)
{
    char    json[128], want[64];
    size_t  i;

    static const char *const  tests[][2] = {
        { "0", "=0" }, { "-0", "=0" }, { "0.0", "=0" }, { "-0.0e5", "=0" },
        { "0e99999999999999999999", "=0" }, { "7", "=7" },
        { "999999999999999", "=999999999999999" },
        { "1000000000000000", "=1000000000000000" },
        { "1e3", "=1000" }, { "1E+3", "=1000" }, { "1000e-3", "=1" },
        { "1.50e2", "=150" }, { "12.0", "=12" }, { "12.000000", "=12" },
        { "0.001e3", "=1" }, { "100000000000000000000e-20", "=1" },
        { "9007199254740991", "=9007199254740991" },
        { "9007199254740992", "?" }, { "9007199254740991.0e0",
                                       "=9007199254740991" },
        { "90071992547409910e-1", "=9007199254740991" },
        { "99999999999999999999999999999999999999", "?" },
        { "1e16", "?" }, { "1e15", "=1000000000000000" }, { "1e400", "?" },
        { "1e99999999999999999999", "?" }, { "1e-99999999999999999999", "?" },
        { "0.5", "?" }, { "1.5", "?" }, { "15e-1", "?" }, { "-1", "?" },
        { "-1e3", "?" }, { "18446744073709551616", "?" },
        { "18446744073709551617e-1", "?" },
        { "01", "!" }, { "+1", "!" }, { ".5", "!" }, { "1.", "!" },
        { "1e", "!" }, { "1e+", "!" }, { "-", "!" }, { "--1", "!" },
        { "1.e3", "!" }, { "0x10", "!" }, { "1_000", "!" },
    };

    for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        snprintf(json, sizeof(json), "{\"n\":%s}", tests[i][0]);
        snprintf(want, sizeof(want), " {n%s }", tests[i][1]);

        if (tests[i][1][0] != '!') {
            test_all(json, want);
            continue;
        }

        /* it may be told up to where it is wrong, but it is not whole */

        test_pick_t  t;

        test_begin(&t);
        test_piece(&t, json, strlen(json));
        ok(!apikey_jsonpick_whole(&t.json), json);
    }
}


static void
test_texts(void)
{
    test_all("{\"t\":\"\",\"t\":\"a b\"}", " {t=<> t=<a b> }");
    test_all("{\"t\":\"a\\/b\\\"\\\\\\u0041\\n\"}", " {t=<a/b\"\\A\n> }");
    test_all("{\"t\":\"\\u00e4\\u20ac\\ud83d\\udd11\"}",
             " {t=<\xc3\xa4\xe2\x82\xac\xf0\x9f\x94\x91> }");
    test_all("{\"t\":\"\\ud83dx\\udd11\\ud83d\"}",
             " {t=<\xef\xbf\xbdx\xef\xbf\xbd\xef\xbf\xbd> }");
    test_all("{\"t\":\"0123456789abcdef\"}", " {t=<0123456789abcdef> }");
    test_all("{\"t\":\"0123456789abcdefg\"}", " {t? }");
    test_all("{\"t\":\"0123456789abcde\\u00e4\",\"n\":1}", " {t? n=1 }");
    test_all("{\"t\":5,\"t\":null,\"t\":{\"n\":1}}", " {t=5 t0 t? }");
}


/* Offsets of a value, and depth and length without end. */

static void
test_large(void)
{
    char         *json;
    size_t        i, n;
    test_pick_t   t;

    test_begin(&t);
    test_piece(&t, "{\"x\":1, ", 8);
    test_piece(&t, "\"n\" : 12", 8);
    test_piece(&t, "3 }", 3);

    is_uint(t.json.number, 123, "a number in two pieces");

    n = 1 << 20;
    json = malloc(2 * n + 64);

    if (json == NULL) {
        return;
    }

    memcpy(json, "{\"x\":", 5);

    for (i = 0; i < n; i++) {
        json[5 + i] = i % 2 ? '[' : '{';
        json[5 + 2 * n - 1 - i] = i % 2 ? ']' : '}';
    }

    memcpy(json + 5 + 2 * n, ",\"n\":7}", 8);

    test_begin(&t);
    test_piece(&t, json, 5 + 2 * n + 7);
    ok(test_is(&t, " {n=7 }"), "a million brackets deep");

    json[5] = '"';
    memset(json + 6, 'x', 2 * n - 2);
    json[5 + 2 * n - 1] = '"';

    test_begin(&t);
    test_piece(&t, json, 5 + 2 * n + 7);
    ok(test_is(&t, " {n=7 }"), "a string of two million bytes");

    test_begin(&t);
    json[1] = '"';
    memset(json + 2, 'k', 2 * n);
    test_piece(&t, json, 2 * n + 2);
    test_piece(&t, "\":1,\"n\":2}", 10);
    ok(test_is(&t, " {n=2 }"), "a name of two million bytes");

    free(json);
}


int
main(void)
{
    test_shapes();
    test_numbers();
    test_texts();
    test_large();

    return unit_done();
}
