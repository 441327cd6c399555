
/*
 * One member out of JSON: what is read, and that what is not JSON has none.
 */


#include "base/jsonscan.h"

#include "unit.h"


static void
test_found(void)
{
    char    out[256];
    size_t  i, n;

    static const struct {
        const char  *json;
        const char  *want;
    } texts[] = {
        { "{\"a\":\"x\"}", "x" },
        { " {\t\"a\" :\n\"x\"\r} ", "x" },
        { "{\"b\":{\"a\":1},\"a\":\"x\",\"c\":[{}]}", "x" },
        { "{\"a\":\"\"}", "" },
        { "{\"a\":-1.50e+2}", "-1.50e+2" },
        { "{\"a\":0}", "0" },
        { "{\"a\":true}", "true" },
        { "{\"a\":false,\"ab\":1}", "false" },
        { "{\"a\":1,\"a\":2}", "2" },
        { "{\"a\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"}", "\"\\/\b\f\n\r\t" },
        { "{\"a\":\"\\u0041\\u00e4\\u20AC\"}", "A\xc3\xa4\xe2\x82\xac" },
        { "{\"a\":\"\\ud83d\\udd11\"}", "\xf0\x9f\x94\x91" },
    };

    for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        n = apikey_json_member(texts[i].json, strlen(texts[i].json), "a", 1,
                               out);

        if (ok(n != APIKEY_JSON_NONE, "it is found")) {
            is_text(out, n, texts[i].want, texts[i].json);
        }
    }
}


static void
test_none(void)
{
    char    out[256];
    size_t  i;

    static const char *const  texts[] = {
        "", "{", "{}", "[]", "null", "\"a\"", "{\"b\":1}", "{\"a\":null}",
        "{\"a\":[]}", "{\"a\":{}}", "{\"a\":1", "{\"a\":1}}", "{\"a\":1}x",
        "{\"a\":1,}", "{,\"a\":1}", "{\"a\" 1}", "{a:1}", "{\"a\":01}",
        "{\"a\":+1}", "{\"a\":.5}", "{\"a\":1.}", "{\"a\":1e}",
        "{\"a\":tru}", "{\"a\":NaN}", "{\"a\":\"\n\"}", "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12g4\"}", "{\"a\":\"x}", "{\"a\":\"x\",\"b\":[1,]}",
        "{\"a\":\"x\",\"b\":[1}", "{\"a\":1 2}", "{'a':1}",
    };

    for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        ok(apikey_json_member(texts[i], strlen(texts[i]), "a", 1, out)
           == APIKEY_JSON_NONE, texts[i]);
    }
}


/* What a walk finds: names and values in <>, '!' not to be walked. */

static void
test_walk(void)
{
    char                out[256], *p;
    size_t              i;
    apikey_json_walk_t  w;

    static const char  *tests[][2] = {
        { "{}", "" },
        { " [ ] ", "" },
        { "{\"a\" : 1 , \"b\\\"c\":[{}, 2]\n}",
          "<a><1><b\\\"c><[{}, 2]>" },
        { "[1,\"]\",{\"a\":2}]", "<1><\"]\"><{\"a\":2}>" },
        { "[[],[]]", "<[]><[]>" },
        { "5", "!" },
        { "", "!" },
        { "[1,]", "!" },
        { "[1]]", "!" },
        { "{\"a\":1", "!" },
    };

    for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        p = out;

        if (!apikey_json_walk(&w, tests[i][0], strlen(tests[i][0]))) {
            *p++ = '!';

        } else {
            while (apikey_json_walk_next(&w)) {
                if (w.name) {
                    p += sprintf(p, "<%.*s>", (int) w.name_len, w.name);
                }

                p += sprintf(p, "<%.*s>", (int) w.value_len, w.value);
            }
        }

        is_text(out, (size_t) (p - out), tests[i][1], "what is walked over");
    }
}


static void
test_item(void)
{
    char                out[64];
    const char         *json;
    apikey_json_walk_t  w;

    json = "{\"k\\u0065y\":\"a\\nb\",\"n\":5}";

    ok(apikey_json_walk(&w, json, strlen(json)) && apikey_json_walk_next(&w),
       "an object");
    ok(apikey_json_walk_named(&w, "key"), "a name with an escape");
    ok(!apikey_json_walk_named(&w, "ke"), "not a part of it");
    is_text(out, apikey_json_decode(w.value, w.value_len, out), "a\nb",
            "a string decoded");

    ok(apikey_json_walk_next(&w) && apikey_json_walk_named(&w, "n"),
       "the next member");
    ok(apikey_json_decode(w.value, w.value_len, out) == APIKEY_JSON_NONE,
       "a number is no string");
    ok(!apikey_json_walk_next(&w), "and no other");

    ok(apikey_json_valid(" null ", 6), "null is a value");
    ok(!apikey_json_valid("1 2", 3), "two are none");
    ok(!apikey_json_valid("", 0), "none is none");
}


static void
test_deep(void)
{
    char    json[20100], out[20100];
    size_t  depth, good;

    /* {"a":1,"b":[[...]]} */

    good = 0;

    for (depth = 1; depth <= 10000; depth *= 10) {
        memcpy(json, "{\"a\":1,\"b\":", 11);
        memset(json + 11, '[', depth);
        memset(json + 11 + depth, ']', depth);
        json[11 + 2 * depth] = '}';

        good += apikey_json_member(json, 12 + 2 * depth, "a", 1, out)
                == (depth < 64 ? 1 : APIKEY_JSON_NONE);
    }

    is_uint(good, 5, "what nests too deep is refused");
}


int
main(void)
{
    test_found();
    test_none();
    test_walk();
    test_item();
    test_deep();

    return unit_done();
}
