
/*
 * What any request asks for: however it is split it is the same, it is what a
 * reader of whole texts (jsonscan.h) finds, and once a stream is made to tell
 * its usage, it is JSON as before and tells it.
 *
 * Input: bit 0 Anthropic; the length of pieces; the body.
 */


#include "base/jsonscan.h"
#include "usage/extract_request.h"

#include "fuzz.h"


static bool
fuzz_request_read(uint8_t how, size_t piece, const char *body, size_t len,
    apikey_request_t *r)
{
    char    *part;
    size_t   n;

    apikey_request_init(r, how & 1 ? APIKEY_API_ANTHROPIC
                                   : APIKEY_API_OPENAI);

    for ( /* void */ ; len; body += n, len -= n) {
        n = piece && piece < len ? piece : len;
        part = malloc(n);

        if (part == NULL) {
            return false;
        }

        memcpy(part, body, n);
        apikey_request_feed(r, part, n);
        free(part);
    }

    return apikey_request_end(r);
}


static void
fuzz_request_model(const apikey_request_t *r, const char *body, size_t len)
{
    char    *out;
    size_t   n;

    out = malloc(len);

    if (out == NULL) {
        return;
    }

    n = apikey_json_member(body, len, "model", 5, out);

    if (n == APIKEY_JSON_NONE || n > APIKEY_REQUEST_MODEL) {
        fuzz_must(r->model_len == 0 || n != APIKEY_JSON_NONE
                  || memchr(body, '\\', len));

    } else if (!memchr(body, '\\', len) && r->model_len) {
        fuzz_must(r->model_len == n && memcmp(r->model, out, n) == 0);
    }

    free(out);
}


static void
fuzz_request_edit(const apikey_request_edit_t *e, const char *body, size_t len)
{
    char                   *out;
    size_t                  n;
    apikey_request_t        r;
    apikey_request_edit_t   again;

    fuzz_must(e->at + e->cut <= len);

    n = strlen(e->put[0]) + strlen(e->put[1]);
    out = malloc(len + n);

    if (out == NULL) {
        return;
    }

    memcpy(out, body, e->at);
    memcpy(out + e->at, e->put[0], strlen(e->put[0]));
    memcpy(out + e->at + strlen(e->put[0]), e->put[1], strlen(e->put[1]));
    memcpy(out + e->at + n, body + e->at + e->cut, len - e->at - e->cut);

    len += n - e->cut;

    fuzz_must(apikey_json_valid(out, len));
    fuzz_must(fuzz_request_read(0, 0, out, len, &r));
    fuzz_must(!apikey_request_silent(&r, &again));

    free(out);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool                    whole;
    size_t                  len;
    uint64_t                a, b;
    const char             *body;
    apikey_request_t        r, s;
    apikey_request_edit_t   e;

    if (size < 2) {
        return 0;
    }

    body = (const char *) data + 2;
    len = size - 2;

    whole = fuzz_request_read(data[0], 0, body, len, &r);

    fuzz_must(fuzz_request_read(data[0], 1 + data[1] % 97, body, len, &s)
              == whole);
    fuzz_must(r.model_len == s.model_len
              && memcmp(r.model, s.model, r.model_len) == 0);
    fuzz_must(apikey_request_max_tokens(&r, &a)
              == apikey_request_max_tokens(&s, &b) && a == b);
    fuzz_must(apikey_request_choices(&r) == apikey_request_choices(&s));
    fuzz_must(apikey_request_stream(&r) == apikey_request_stream(&s));

    if (apikey_json_valid(body, len)) {
        fuzz_must(whole == (body[strspn(body, " \t\r\n")] == '{'));
        fuzz_request_model(&r, body, len);

        if (apikey_request_silent(&r, &e)) {
            fuzz_request_edit(&e, body, len);
        }
    }

    return 0;
}
