
/*
 * Tokens out of responses: what OpenAI's and Anthropic's APIs send, whole and
 * split at every byte, and what only looks like it.
 */


#include <stdlib.h>

#include "usage/extract.h"

#include "unit.h"


#define OPENAI     APIKEY_API_OPENAI, false
#define OPENAI_S   APIKEY_API_OPENAI, true
#define ANTHRO     APIKEY_API_ANTHROPIC, false
#define ANTHRO_S   APIKEY_API_ANTHROPIC, true


/* an event, and the beginning of another one */

#define LONG       "data: {\"id\":\"chatcmpl-9lMgfRSWPHcw51s6wxKT1YEO2CKpd" \
                   "\",\"object\":\"chat.completion.chunk\",\"x\":1}\n\n" \
                   "event: a.name.that.is.about.as.long.as.it.gets\n" \
                   "id: 0123456789abcdef0123456789abcdef\ndata: "


typedef struct {
    apikey_api_e   api;
    bool           stream;
    const char    *text;
    const char    *want;     /* "input output cached reasoning", or what it is
                                but whole before that */
} test_extract_t;


/* In memory of its own, so that a read beyond it is noticed. */

static void
test_piece(apikey_extract_t *x, const char *text, size_t len)
{
    char  *piece;

    piece = malloc(len + !len);

    if (piece) {
        memcpy(piece, text, len);
        apikey_extract_feed(x, piece, len);
        free(piece);
    }
}


static void
test_read(const apikey_extract_t *x, char *out, size_t size)
{
    apikey_tokens_t   t;
    apikey_extract_e  is;

    static const char *const  names[] = { "none", "wrong", "begun ",
                                          "output ", "doubt ", "" };

    memset(&t, 0xff, sizeof(t));

    is = apikey_extract_tokens(x, &t);

    if (is <= APIKEY_EXTRACT_WRONG) {
        snprintf(out, size, "%s", names[is]);
        return;
    }

    snprintf(out, size, "%s%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64,
             names[is], t.input, t.output, t.cached, t.reasoning);
}


/* Whole, in two pieces split anywhere, in three, byte by byte. */

static void
test_text(const test_extract_t *test, const char *text, size_t len,
    const char *want)
{
    char              got[128];
    size_t            i, k, step;
    uint64_t          estimate;
    apikey_extract_t  x;

    apikey_extract_init(&x, test->api, test->stream);
    test_piece(&x, text, len);
    test_read(&x, got, sizeof(got));

    estimate = apikey_extract_estimate(&x);

    if (strcmp(got, want) != 0) {
        ok(false, text);
        printf("# got %s, want %s\n", got, want);
        return;
    }

    step = 1 + len / 8;

    for (i = 0; i <= len; i++) {
        for (k = i; k <= len; k += step) {
            apikey_extract_init(&x, test->api, test->stream);
            test_piece(&x, text, i);
            test_piece(&x, text + i, k - i);
            test_piece(&x, text + k, len - k);
            test_read(&x, got, sizeof(got));

            if (strcmp(got, want) != 0
                || apikey_extract_estimate(&x) != estimate)
            {
                ok(false, text);
                printf("# split at %zu and %zu: %s\n", i, k, got);
                return;
            }
        }
    }

    apikey_extract_init(&x, test->api, test->stream);

    for (i = 0; i < len; i++) {
        test_piece(&x, text + i, 1);
    }

    test_read(&x, got, sizeof(got));
    is_text(got, strlen(got), want, "byte by byte");
}


/* A stream with LF, and so with CRLF and CR. */

static void
test_one(const test_extract_t *test)
{
    char    *text;
    size_t   i, n, len;

    len = strlen(test->text);

    test_text(test, test->text, len, test->want);

    if (!test->stream || strchr(test->text, '\r')) {
        return;
    }

    text = malloc(2 * len + 1);

    if (text == NULL) {
        return;
    }

    for (i = 0, n = 0; i < len; i++) {
        if (test->text[i] == '\n') {
            text[n++] = '\r';
        }

        text[n++] = test->text[i];
    }

    text[n] = '\0';
    test_text(test, text, n, test->want);

    for (i = 0; i <= len; i++) {
        text[i] = test->text[i] == '\n' ? '\r' : test->text[i];
    }

    test_text(test, text, len, test->want);

    free(text);
}


static void
test_table(const test_extract_t *tests, size_t n)
{
    size_t  i;

    for (i = 0; i < n; i++) {
        test_one(&tests[i]);
    }
}


#define test_tests(tests)                                                     \
    test_table(tests, sizeof(tests) / sizeof(tests[0]))


static void
test_openai(void)
{
    static const test_extract_t  tests[] = {
        { OPENAI, "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\","
                  "\"choices\":[{\"index\":0,\"message\":{\"role\":"
                  "\"assistant\",\"content\":\"Hi \\\"there\\\"\"}}],"
                  "\"usage\":{\"prompt_tokens\":6074,\"completion_tokens\":"
                  "285,\"total_tokens\":6359,\"prompt_tokens_details\":"
                  "{\"cached_tokens\":3456,\"audio_tokens\":0},"
                  "\"completion_tokens_details\":{\"reasoning_tokens\":64}},"
                  "\"system_fingerprint\":null}", "6074 285 3456 64" },
        { OPENAI, "{\"object\":\"response\",\"usage\":{\"input_tokens\":36,"
                  "\"input_tokens_details\":{\"cached_tokens\":4},"
                  "\"output_tokens\":87,\"output_tokens_details\":"
                  "{\"reasoning_tokens\":3},\"total_tokens\":123}}",
                  "36 87 4 3" },
        { OPENAI, "{\"object\":\"list\",\"data\":[{\"embedding\":[0.1,-2e-3]"
                  "}],\"usage\":{\"prompt_tokens\":8,\"total_tokens\":8}}",
                  "8 0 0 0" },
        { OPENAI, "{\"usage\":{\"total_tokens\":12}}", "12 0 0 0" },
        { OPENAI, "{\"usage\":{\"completion_tokens\":2,\"total_tokens\":12}}",
                  "10 2 0 0" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12,"
                  "\"total_tokens\":21,\"input_tokens\":0,\"output_tokens\":0"
                  ",\"prompt_tokens_details\":{\"cached_tokens\":5},"
                  "\"input_tokens_details\":null}}", "9 12 5 0" },

        /* zero is zero, absent is absent */
        { OPENAI, "{\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0}}",
                  "0 0 0 0" },
        { OPENAI, "{\"usage\":{}}", "none" },
        { OPENAI, "{\"usage\":null}", "none" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":null}}", "none" },
        { OPENAI, "{\"usage\":{\"cost\":5}}", "none" },
        { OPENAI, "{}", "none" },
        { OPENAI, "", "none" },
        { OPENAI, "<html>\"usage\":{\"prompt_tokens\":5}</html>", "none" },

        /* numbers */
        { OPENAI, "{\"usage\":{\"prompt_tokens\":1e3,\"completion_tokens\":"
                  "2.0}}", "1000 2 0 0" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":-5,\"completion_tokens\":2}}",
                  "wrong" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":99999999999999999999,"
                  "\"completion_tokens\":\"7\"}}", "wrong" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":1,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":9}}}",
                  "doubt 5 1 5 0" },

        /* what cannot be never becomes 0, unless nobody needs it */
        { OPENAI, "{\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":"
                  "1.5}}", "wrong" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":{},\"total_tokens\":3}}",
                  "wrong" },
        { OPENAI, "{\"usage\":{\"total_tokens\":-1}}", "wrong" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":5,\"total_tokens\":-1}}",
                  "wrong" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":5,\"total_tokens\":4}}",
                  "wrong" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":1,"
                  "\"total_tokens\":\"x\"}}", "5 1 0 0" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":1000000000001,"
                  "\"completion_tokens\":1}}", "wrong" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":1,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":-4}}}",
                  "doubt 5 1 0 0" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":1,"
                  "\"prompt_tokens_details\":3,"
                  "\"completion_tokens_details\":null}}", "doubt 5 1 0 0" },
        { OPENAI, "{\"usage\":{\"completion_tokens\":7}}",
                  "output 0 7 0 0" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":null,"
                  "\"completion_tokens\":7}}", "output 0 7 0 0" },

        /* duplicates: the last one */
        { OPENAI, "{\"usage\":{\"prompt_tokens\":1},\"usage\":"
                  "{\"prompt_tokens\":2,\"prompt_tokens\":3}}", "3 0 0 0" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":1},\"usage\":null}", "none" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":1,\"prompt_tokens\":[2]}}",
                  "wrong" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":[1],\"prompt_tokens\":2}}",
                  "2 0 0 0" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":7,\"prompt_tokens_details\":"
                  "{\"cached_tokens\":2},\"prompt_tokens_details\":{}}}",
                  "7 0 0 0" },

        /* what looks like it */
        { OPENAI, "{\"c\":\"\\\"usage\\\":{\\\"prompt_tokens\\\":5}\"}",
                  "none" },
        { OPENAI, "{\"c\":\"\\\\\",\"usage\":{\"prompt_tokens\":5},\"d\":"
                  "\"\\\\\\\"\"}", "5 0 0 0" },
        { OPENAI, "{\"choices\":[{\"usage\":{\"prompt_tokens\":5}}]}",
                  "none" },
        { OPENAI, "{\"metadata\":{\"usage\":{\"prompt_tokens\":5}}}", "none" },
        { OPENAI, "[{\"usage\":{\"prompt_tokens\":5}}]", "none" },
        { OPENAI, "{\"Usage\":{\"prompt_tokens\":5},\"usage \":"
                  "{\"prompt_tokens\":5}}", "none" },
        { OPENAI, "{\"\\u0075s\\u0061ge\":{\"prompt\\u005ftokens\":5}}",
                  "5 0 0 0" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":5", "none" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":5}", "5 0 0 0" },
        { OPENAI, "{\"usage\":{\"prompt_tokens\":5}}trailing", "5 0 0 0" },
        { OPENAI, "{\"message\":{\"usage\":{\"input_tokens\":5}}}", "none" },
    };

    test_tests(tests);
}


static void
test_openai_stream(void)
{
    static const test_extract_t  tests[] = {
        { OPENAI_S, "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],"
                    "\"usage\":null}\n\n"
                    "data: {\"choices\":[{\"delta\":{\"content\":\"usage\"}}]"
                    ",\"usage\": null}\n\n"
                    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":17,"
                    "\"completion_tokens\":2,\"total_tokens\":19}}\n\n"
                    "data: [DONE]\n\n", "17 2 0 0" },
        { OPENAI_S, ": a comment\n\nevent: response.created\n"
                    "data: {\"type\":\"response.created\",\"response\":"
                    "{\"id\":\"r\",\"usage\":null}}\n\n"
                    "event: response.output_text.delta\n"
                    "data: {\"delta\":\"Hi, \\u4e2d\\n\"}\n\n"
                    "event: response.completed\n"
                    "data: {\"type\":\"response.completed\",\"response\":{"
                    "\"usage\":{\"input_tokens\":37,\"input_tokens_details\":"
                    "{\"cached_tokens\":1},\"output_tokens\":11,"
                    "\"output_tokens_details\":{\"reasoning_tokens\":2},"
                    "\"total_tokens\":48}}}\n\n", "37 11 1 2" },

        /* the last one counts, also where each event has one */
        { OPENAI_S, "data: {\"usage\":{\"prompt_tokens\":5,"
                    "\"completion_tokens\":1}}\n\n"
                    "data: {\"usage\":{\"prompt_tokens\":5,"
                    "\"completion_tokens\":2}}\n\n"
                    "data: {\"usage\":null}\n\ndata: {\"x\":1}\n\n",
                    "5 2 0 0" },
        { OPENAI_S, "data: {\"x\":1}\n\ndata: {\"usage\":{\"prompt_tokens\":"
                    "5,\"completion_tokens\":1}}\n\ndata: {\"usage\":"
                    "{\"completion_tokens\":0,\"prompt_tokens\":0}}\n\n",
                    "0 0 0 0" },
        { OPENAI_S, "data: {\"usage\":{\"prompt_tokens\":5,"
                    "\"completion_tokens\":1}}\n\ndata: {\"usage\":"
                    "{\"completion_tokens\":-1,\"prompt_tokens\":5}}\n\n",
                    "wrong" },

        /* forms of lines */
        { OPENAI_S, "data:{\"x\":1}\n\ndata\ndata:{\"usage\":\ndata:  "
                    "{\"prompt_tokens\":\ndata: 5}}\nid: 7\nretry: 3\n\n",
                    "5 0 0 0" },
        { OPENAI_S, "\xef\xbb\xbf" "data: {\"usage\":{\"prompt_tokens\":5}}"
                    "\n\n", "5 0 0 0" },
        { OPENAI_S, "data: {\"x\":1}\n\ndata: {\"usage\":{\"prompt_tokens\":"
                    "5}}", "5 0 0 0" },
        { OPENAI_S, "data: {\"x\":1}\n\ndata: {\"usage\":{\"prompt_tokens\":"
                    "5}", "5 0 0 0" },
        { OPENAI_S, "data: {\"x\":1}\n\ndata: {\"usage\":{\"prompt_tokens\":"
                    "5", "none" },
        { OPENAI_S, "data: {\"x\":1}\r\n\ndata: {\"y\":1}\n\r\n\r"
                    "data: {\"usage\":{\"prompt_tokens\":6}}\r\rdata: x\n\n",
                    "6 0 0 0" },
        { OPENAI_S, "\n\n\ndata: {\"x\":1}\n\n\n\ndata: {\"\\u0075sage\":"
                    "{\"prompt_tokens\":6}}\n\n\n", "6 0 0 0" },

        { OPENAI_S, "data: {\"x\":1}\n\ndata: {\"u\\u0073a\\u0067e\":"
                    "{\"prompt_tokens\":6}}\n\ndata: {\"x\":\"gr\\u00fcn "
                    "\\u0041\"}\n\n", "6 0 0 0" },
        { OPENAI_S, "data: {\"x\":1}\n\ndata: {\"us\\u0061g\\u0065\":"
                    "{\"prompt_tokens\":6}}\n\n", "6 0 0 0" },

        /* where many bytes are looked at together */
        { OPENAI_S, LONG "{\"\\u0075\\u0073\\u0061\\u0067\\u0065\":"
                    "{\"prompt_tokens\":6}}\n\n" LONG "1\n\n", "6 0 0 0" },
        { OPENAI_S, LONG "{\"usage\"\ndata: :{\"prompt_tokens\":6}}\n\n"
                    LONG "{\"usage\" : null, \"a\":\"usage\"}\n\n",
                    "6 0 0 0" },
        { OPENAI_S, LONG "{\"usage\":\ndata: {\"prompt_tokens\":6}}\n\n"
                    LONG "{\"my_usage\":{\"prompt_tokens\":5},"
                    "\"us\\u0061g\":1,\"gr\\u0075n\":2}\n\n", "6 0 0 0" },
        { OPENAI_S, LONG "{\"u\":\"usage\",\"usage\":null,\"response\":"
                    "{\"usag\\u0065\" : {\"prompt_tokens\":6}}}\n\n",
                    "6 0 0 0" },

        /* what looks like it */
        { OPENAI_S, "data: {\"x\":1}\n\nevent: {\"usage\":{\"prompt_tokens\":"
                    "5}}\n\ndata2: {\"usage\":{\"prompt_tokens\":5}}\n\n"
                    "dat: {\"usage\":{\"prompt_tokens\":5}}\n\n"
                    " data: {\"usage\":{\"prompt_tokens\":5}}\n\n", "none" },
        { OPENAI_S, "data: {\"x\":1}\n\ndata: {\"c\":\"\\\"usage\\\":"
                    "{\\\"prompt_tokens\\\":5}\"}\n\n", "none" },
        { OPENAI_S, "data: {\"x\":1}\n\ndata: {\"x\":\"\ndata: \",\"usage\":"
                    "{\"prompt_tokens\":5},\"y\":\"\ndata: \"}\n\n",
                    "5 0 0 0" },
        { OPENAI_S, "data: {\"x\":1}\n\ndata: {\"x\":\"\\\n"
                    "data: \\\",\\\"usage\\\":{\\\"prompt_tokens\\\":5}\"}"
                    "\n\n", "none" },
        { OPENAI_S, "data: {\"x\":1}\n\ndata: {\"broken\":\n\n"
                    "data: {\"usage\":{\"prompt_tokens\":5}}\n\n",
                    "5 0 0 0" },
        { OPENAI_S, "{\"usage\":{\"prompt_tokens\":5}}", "none" },
    };

    test_tests(tests);
}


static void
test_anthropic(void)
{
    static const test_extract_t  tests[] = {
        { ANTHRO, "{\"type\":\"message\",\"content\":[{\"type\":\"text\","
                  "\"text\":\"Hi\"}],\"usage\":{\"input_tokens\":2095,"
                  "\"cache_creation_input_tokens\":100,"
                  "\"cache_read_input_tokens\":2000,\"cache_creation\":"
                  "{\"ephemeral_5m_input_tokens\":100},\"output_tokens\":503,"
                  "\"service_tier\":\"standard\"}}", "4195 503 2000 0" },
        { ANTHRO, "{\"usage\":{\"input_tokens\":5,\"output_tokens\":0,"
                  "\"cache_read_input_tokens\":null}}", "5 0 0 0" },
        { ANTHRO, "{\"usage\":{\"input_tokens\":9007199254740991,"
                  "\"cache_read_input_tokens\":1}}", "wrong" },
        { ANTHRO, "{\"usage\":{\"input_tokens\":1000000000000,"
                  "\"cache_read_input_tokens\":1}}", "wrong" },
        { ANTHRO, "{\"usage\":{\"input_tokens\":5,\"output_tokens\":2,"
                  "\"cache_read_input_tokens\":-1}}", "wrong" },
        { ANTHRO, "{\"usage\":{\"output_tokens\":2}}", "output 0 2 0 0" },
        { ANTHRO, "{\"usage\":{\"prompt_tokens\":5}}", "none" },
        { ANTHRO_S, "event: message_start\n"
                    "data: {\"type\":\"message_start\",\"message\":{\"id\":"
                    "\"m\",\"content\":[],\"usage\":{\"input_tokens\":25,"
                    "\"cache_read_input_tokens\":4,\"output_tokens\":1}}}\n\n"
                    "event: content_block_start\n"
                    "data: {\"type\":\"content_block_start\",\"index\":0}\n\n"
                    "event: ping\ndata: {\"type\": \"ping\"}\n\n"
                    "event: content_block_delta\n"
                    "data: {\"type\":\"content_block_delta\",\"delta\":"
                    "{\"type\":\"text_delta\",\"text\":\"usage\"}}\n\n"
                    "event: message_delta\n"
                    "data: {\"type\":\"message_delta\",\"delta\":"
                    "{\"stop_reason\":\"end_turn\"},\"usage\":"
                    "{\"output_tokens\":15,\"input_tokens\":null}}\n\n"
                    "event: message_stop\n"
                    "data: {\"type\":\"message_stop\"}\n\n", "29 15 4 0" },
        { ANTHRO_S, "data: {\"type\":\"message_start\",\"message\":{"
                    "\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n"
                    "event: content_block_delta\ndata: {\"x\":1}\n\n",
                    "begun 25 1 0 0" },
        { ANTHRO_S, "data: {\"message\":{\"usage\":{\"input_tokens\":25,"
                    "\"output_tokens\":1}}}\n\ndata: {\"usage\":{"
                    "\"input_tokens\":30,\"output_tokens\":7}}\n\n"
                    "data: {\"usage\":{\"output_tokens\":9}}\n\n",
                    "30 9 0 0" },
        { ANTHRO_S, "data: {\"message\":{\"usage\":{\"input_tokens\":25,"
                    "\"output_tokens\":1}}}\n\ndata: {\"usage\":{"
                    "\"output_tokens\":\"9\"}}\n\n", "wrong" },
        { ANTHRO_S, "data: {\"message\":{\"usage\":{\"input_tokens\":\"x\","
                    "\"output_tokens\":1}}}\n\ndata: {\"usage\":{"
                    "\"input_tokens\":3,\"output_tokens\":9}}\n\n",
                    "3 9 0 0" },
    };

    test_tests(tests);
}


/* Where nothing says what it was. */

static void
test_estimate(void)
{
    size_t            i, len;
    char              event[256];
    apikey_extract_t  x;

    apikey_extract_init(&x, APIKEY_API_OPENAI, true);

    for (i = 0; i < 100; i++) {
        len = (size_t) snprintf(event, sizeof(event), "data: {\"id\":\"c\","
                                "\"choices\":[{\"delta\":{\"content\":\"%s\""
                                "}}]}\n\n", i ? " word" : "");
        apikey_extract_feed(&x, event, len);
    }

    is_uint(apikey_extract_estimate(&x), 123, "100 events of five letters");

    apikey_extract_init(&x, APIKEY_API_OPENAI, false);
    apikey_extract_feed(&x, "{\"message\":\"Hello, World\"}", 26);
    is_uint(apikey_extract_estimate(&x), 6, "26 bytes of JSON");

    apikey_extract_init(&x, APIKEY_API_ANTHROPIC, true);
    is_uint(apikey_extract_estimate(&x), 0, "nothing at all");
}


int
main(void)
{
    test_openai();
    test_openai_stream();
    test_anthropic();
    test_estimate();

    return unit_done();
}
