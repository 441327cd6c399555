
/*
 * The members behind extract_request.h.
 */


#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/jsonpick.h"
#include "usage/extract_request.h"


typedef enum {
    APIKEY_R_MODEL = 1,
    APIKEY_R_MAX_TOKENS,
    APIKEY_R_MAX_COMPLETION,
    APIKEY_R_MAX_OUTPUT,
    APIKEY_R_N,
    APIKEY_R_BEST_OF,
    APIKEY_R_STREAM,
    APIKEY_R_OPTIONS,
    APIKEY_R_INCLUDE,
    APIKEY_R_MESSAGES,
    APIKEY_R_PROMPT
} apikey_request_id_e;


static const apikey_pick_t  apikey_request_options_in[] = {
    APIKEY_PICK("include_usage", APIKEY_R_INCLUDE, SCALAR),
};

static const apikey_pick_t  apikey_request_openai[] = {
    APIKEY_PICK("model", APIKEY_R_MODEL, TEXT),
    APIKEY_PICK("max_tokens", APIKEY_R_MAX_TOKENS, SCALAR),
    APIKEY_PICK("max_completion_tokens", APIKEY_R_MAX_COMPLETION, SCALAR),
    APIKEY_PICK("max_output_tokens", APIKEY_R_MAX_OUTPUT, SCALAR),
    APIKEY_PICK("n", APIKEY_R_N, SCALAR),
    APIKEY_PICK("best_of", APIKEY_R_BEST_OF, SCALAR),
    APIKEY_PICK("stream", APIKEY_R_STREAM, SCALAR),
    APIKEY_PICK_OBJECT("stream_options", APIKEY_R_OPTIONS,
                       apikey_request_options_in),
    APIKEY_PICK("messages", APIKEY_R_MESSAGES, SCALAR),
    APIKEY_PICK("prompt", APIKEY_R_PROMPT, SCALAR),
};

static const apikey_pick_t  apikey_request_anthropic[] = {
    APIKEY_PICK("model", APIKEY_R_MODEL, TEXT),
    APIKEY_PICK("max_tokens", APIKEY_R_MAX_TOKENS, SCALAR),
    APIKEY_PICK("stream", APIKEY_R_STREAM, SCALAR),
};

static const apikey_pick_t  apikey_request_roots[] = {
    [APIKEY_API_OPENAI] = APIKEY_PICK_OBJECT("", 0, apikey_request_openai),
    [APIKEY_API_ANTHROPIC]
        = APIKEY_PICK_OBJECT("", 0, apikey_request_anthropic),
};


#define apikey_request_bit(id)   (1u << (id))
#define apikey_request_has(bits, id)                                          \
    (((bits) & apikey_request_bit(id)) != 0)


static void apikey_request_found(apikey_jsonpick_t *j, unsigned id,
    apikey_pick_e what);


void
apikey_request_init(apikey_request_t *r, apikey_api_e api)
{
    memset(r, 0, sizeof(apikey_request_t));

    apikey_jsonpick_init(&r->json, &apikey_request_roots[api],
                         apikey_request_found, r->model, sizeof(r->model));
}


void
apikey_request_feed(apikey_request_t *r, const char *p, size_t len)
{
    apikey_jsonpick_feed(&r->json, p, len);
}


bool
apikey_request_end(apikey_request_t *r)
{
    if (apikey_jsonpick_whole(&r->json)) {
        return true;
    }

    r->known = 0;
    r->named = 0;
    r->model_len = 0;

    return false;
}


static void
apikey_request_options(apikey_request_t *r, apikey_pick_e what)
{
    switch (what) {

    case APIKEY_PICK_OPEN:
        r->named &= ~apikey_request_bit(APIKEY_R_INCLUDE);
        r->known &= ~apikey_request_bit(APIKEY_R_INCLUDE);
        r->known |= apikey_request_bit(APIKEY_R_OPTIONS);
        r->options_at = r->json.start + 1;
        break;

    case APIKEY_PICK_CLOSE:
        r->options_empty = r->json.empty;
        break;

    default:
        r->known &= ~(apikey_request_bit(APIKEY_R_OPTIONS)
                      | apikey_request_bit(APIKEY_R_INCLUDE));
        r->options_at = r->json.start;
        r->options_end = r->json.stop;
    }
}


static void
apikey_request_found(apikey_jsonpick_t *j, unsigned id, apikey_pick_e what)
{
    bool               known;
    apikey_request_t  *r;

    r = (apikey_request_t *) j;

    if (id == 0) {
        if (what == APIKEY_PICK_OPEN) {
            r->root = j->start + 1;
        }

        return;
    }

    r->named |= apikey_request_bit(id);

    switch (id) {

    case APIKEY_R_OPTIONS:
        apikey_request_options(r, what);
        return;

    case APIKEY_R_MODEL:
        known = (what == APIKEY_PICK_TEXT);
        r->model_len = known ? j->len : 0;
        break;

    case APIKEY_R_INCLUDE:
        r->include_at = j->start;
        r->include_end = j->stop;

        /* fall through */

    case APIKEY_R_STREAM:
        known = (what == APIKEY_PICK_TRUE);
        break;

    default:
        known = (what == APIKEY_PICK_COUNT);
        r->count[id] = j->number;
    }

    if (known) {
        r->known |= apikey_request_bit(id);

    } else {
        r->known &= ~apikey_request_bit(id);
    }
}


bool
apikey_request_max_tokens(const apikey_request_t *r, uint64_t *tokens)
{
    bool      known;
    unsigned  id;

    known = false;
    *tokens = 0;

    for (id = APIKEY_R_MAX_TOKENS; id <= APIKEY_R_MAX_OUTPUT; id++) {

        if (apikey_request_has(r->known, id)) {
            known = true;

            if (r->count[id] > *tokens) {
                *tokens = r->count[id];
            }
        }
    }

    return known;
}


uint64_t
apikey_request_choices(const apikey_request_t *r)
{
    unsigned  id;
    uint64_t  n;

    n = 1;

    for (id = APIKEY_R_N; id <= APIKEY_R_BEST_OF; id++) {
        if (apikey_request_has(r->known, id) && r->count[id] > n) {
            n = r->count[id];
        }
    }

    return n;
}


bool
apikey_request_stream(const apikey_request_t *r)
{
    return apikey_request_has(r->known, APIKEY_R_STREAM);
}


bool
apikey_request_silent(const apikey_request_t *r, apikey_request_edit_t *e)
{
    if (!apikey_request_stream(r)
        || apikey_request_has(r->known, APIKEY_R_INCLUDE)
        || !(r->named & (apikey_request_bit(APIKEY_R_MESSAGES)
                         | apikey_request_bit(APIKEY_R_PROMPT))))
    {
        return false;
    }

    e->cut = 0;
    e->put[1] = "";

    if (!apikey_request_has(r->named, APIKEY_R_OPTIONS)) {
        e->at = r->root;
        e->put[0] = "\"stream_options\":{\"include_usage\":true},";

    } else if (!apikey_request_has(r->known, APIKEY_R_OPTIONS)) {
        e->at = r->options_at;
        e->cut = r->options_end - r->options_at;
        e->put[0] = "{\"include_usage\":true}";

    } else if (!apikey_request_has(r->named, APIKEY_R_INCLUDE)) {
        e->at = r->options_at;
        e->put[0] = "\"include_usage\":true";
        e->put[1] = r->options_empty ? "" : ",";

    } else {
        e->at = r->include_at;
        e->cut = r->include_end - r->include_at;
        e->put[0] = "true";
    }

    return true;
}
