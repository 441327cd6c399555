
/*
 * What a request for a model asks for, and how a stream is made to tell its
 * usage.
 */


#include <stdlib.h>

#include "usage/extract_request.h"

#include "unit.h"


static bool
test_split(apikey_request_t *r, apikey_api_e api, const char *body, size_t len,
    size_t at)
{
    char  *piece;

    apikey_request_init(r, api);

    piece = malloc(len + 1);

    if (piece) {
        memcpy(piece, body, at);
        apikey_request_feed(r, piece, at);
        memcpy(piece, body + at, len - at);
        apikey_request_feed(r, piece, len - at);
        free(piece);
    }

    return apikey_request_end(r);
}


/* "model max stream choices", - where unknown; none: no JSON object */

static void
test_told(apikey_api_e api, const char *body, const char *want)
{
    char              got[400], max[32];
    bool              whole;
    size_t            i, len;
    uint64_t          n;
    apikey_request_t  r;

    len = strlen(body);

    for (i = 0; i <= len; i++) {
        whole = test_split(&r, api, body, len, i);

        snprintf(max, sizeof(max), "-");

        if (apikey_request_max_tokens(&r, &n)) {
            snprintf(max, sizeof(max), "%" PRIu64, n);
        }

        snprintf(got, sizeof(got), "%.*s %s %s %" PRIu64 "%s",
                 (int) (r.model_len ? r.model_len : 1),
                 r.model_len ? r.model : "-", max,
                 apikey_request_stream(&r) ? "yes" : "no",
                 apikey_request_choices(&r), whole ? "" : " none");

        if (strcmp(got, want) != 0) {
            ok(false, body);
            printf("# split at %zu: got %s, want %s\n", i, got, want);
            return;
        }
    }

    ok(true, body);
}


static void
test_openai(void)
{
    size_t  i;

    static const char *const  tests[][2] = {
        { "{\"model\":\"gpt-4o-mini\",\"messages\":[{\"role\":\"user\","
          "\"content\":\"max_tokens\\\": 5\"}],\"max_tokens\":100,"
          "\"stream\":true}", "gpt-4o-mini 100 yes 1" },
        { "{\"max_completion_tokens\":7,\"max_tokens\":5,\"n\":3,\"stream\":"
          "false,\"model\":\"o1\"}", "o1 7 no 3" },
        { "{\"model\":\"gpt-5\",\"input\":\"x\",\"max_output_tokens\":64,"
          "\"stream\":null}", "gpt-5 64 no 1" },
        { "{\"model\":\"meta-llama\\/Llama-3\",\"prompt\":\"text\",\"n\":1,"
          "\"best_of\":4,\"max_tokens\":0}", "meta-llama/Llama-3 0 no 4" },
        { "{}", "- - no 1" },
        { "{\"model\":null,\"max_tokens\":null,\"stream\":\"true\"}",
          "- - no 1" },
        { "{\"model\":\"a\",\"model\":\"b\",\"max_tokens\":1,\"max_tokens\":"
          "2,\"stream\":true,\"stream\":false}", "b 2 no 1" },
        { "{\"model\":\"a\",\"model\":5,\"max_tokens\":1,\"max_tokens\":-2}",
          "- - no 1" },
        { "{\"\\u006dodel\":\"m\",\"x\":{\"model\":\"y\"},\"messages\":"
          "\"a string\",\"max_tokens\":1e2}", "m 100 no 1" },
        { "{\"model\":\"gpt\",\"max_tokens\":5", "- - no 1 none" },
        { "{\"model\":\"gpt\"}{\"model\":\"x\"}", "- - no 1 none" },
        { "[{\"model\":\"gpt\"}]", "- - no 1 none" },
        { "model=gpt&max_tokens=5", "- - no 1 none" },
        { "", "- - no 1 none" },
    };

    for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        test_told(APIKEY_API_OPENAI, tests[i][0], tests[i][1]);
    }

    test_told(APIKEY_API_ANTHROPIC, "{\"model\":\"claude\",\"max_tokens\":"
              "1024,\"max_completion_tokens\":9999,\"n\":9,\"stream\":true}",
              "claude 1024 yes 1");
}


static void
test_long(void)
{
    char              body[400];
    size_t            len;
    apikey_request_t  r;

    for (len = 255; len <= 256; len++) {
        memcpy(body, "{\"model\":\"", 10);
        memset(body + 10, 'm', len);
        memcpy(body + 10 + len, "\"}", 2);

        ok(test_split(&r, APIKEY_API_OPENAI, body, len + 12, 100),
           "a long name is no error");
        is_uint(r.model_len, len == 255 ? 255 : 0, "but it may be too long");
    }
}


/* The body as it is sent on, "" where it says nothing new. */

static void
test_edit(const char *body, const char *want)
{
    char                    out[512];
    size_t                  i, len, n;
    apikey_request_t        r;
    apikey_request_edit_t   e;

    len = strlen(body);

    for (i = 0; i <= len; i++) {
        n = 0;

        if (test_split(&r, APIKEY_API_OPENAI, body, len, i)
            && apikey_request_silent(&r, &e))
        {
            n = (size_t) snprintf(out, sizeof(out), "%.*s%s%s%s", (int) e.at,
                                  body, e.put[0], e.put[1],
                                  body + e.at + e.cut);
        }

        if (n != strlen(want) || memcmp(out, want, n) != 0) {
            ok(false, body);
            printf("# split at %zu: %.*s\n", i, (int) n, out);
            return;
        }
    }

    ok(true, body);

    ok(n == 0 || (test_split(&r, APIKEY_API_OPENAI, out, n, 0)
                  && !apikey_request_silent(&r, &e)),
       "then it is asked for");
}


static void
test_silent(void)
{
    test_edit("{\"messages\":[],\"stream\":true}",
              "{\"stream_options\":{\"include_usage\":true},\"messages\":[],"
              "\"stream\":true}");
    test_edit(" { \"stream\" : true , \"prompt\" : \"\" }",
              " {\"stream_options\":{\"include_usage\":true}, \"stream\" : "
              "true , \"prompt\" : \"\" }");
    test_edit("{\"messages\":[],\"stream\":true,\"stream_options\": null }",
              "{\"messages\":[],\"stream\":true,\"stream_options\": "
              "{\"include_usage\":true} }");
    test_edit("{\"messages\":[],\"stream\":true,\"stream_options\":{ }}",
              "{\"messages\":[],\"stream\":true,\"stream_options\":"
              "{\"include_usage\":true }}");
    test_edit("{\"stream_options\":{\"a\":1},\"messages\":[],\"stream\":true}",
              "{\"stream_options\":{\"include_usage\":true,\"a\":1},"
              "\"messages\":[],\"stream\":true}");
    test_edit("{\"messages\":[],\"stream\":true,\"stream_options\":"
              "{\"include_usage\":false,\"a\":1}}",
              "{\"messages\":[],\"stream\":true,\"stream_options\":"
              "{\"include_usage\":true,\"a\":1}}");
    test_edit("{\"messages\":[],\"stream\":true,\"stream_options\":"
              "{\"include_usage\":true},\"stream_options\":{\"a\":1}}",
              "{\"messages\":[],\"stream\":true,\"stream_options\":"
              "{\"include_usage\":true},\"stream_options\":"
              "{\"include_usage\":true,\"a\":1}}");

    test_edit("{\"messages\":[],\"stream\":true,\"stream_options\":"
              "{\"include_usage\":true}}", "");
    test_edit("{\"messages\":[],\"stream\":false}", "");
    test_edit("{\"messages\":[]}", "");
    test_edit("{\"input\":\"responses tell it\",\"stream\":true}", "");
}


int
main(void)
{
    test_openai();
    test_long();
    test_silent();

    return unit_done();
}
