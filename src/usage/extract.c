
/*
 * What the members of a usage mean, and which usage counts.
 */


#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "base/jsonpick.h"
#include "usage/extract.h"


/* Ids of members: counts first, each its own place and bit. */

typedef enum {
    APIKEY_X_PROMPT = 1,
    APIKEY_X_COMPLETION,
    APIKEY_X_INPUT,
    APIKEY_X_OUTPUT,
    APIKEY_X_TOTAL,
    APIKEY_X_CACHED_PROMPT,
    APIKEY_X_CACHED_INPUT,
    APIKEY_X_REASONING_COMPLETION,
    APIKEY_X_REASONING_OUTPUT,

    APIKEY_X_USAGE,
    APIKEY_X_PROMPT_DETAILS,
    APIKEY_X_COMPLETION_DETAILS,
    APIKEY_X_INPUT_DETAILS,
    APIKEY_X_OUTPUT_DETAILS,
    APIKEY_X_OUTER,              /* "response" or "message" */
    APIKEY_X_OUTER_USAGE
} apikey_extract_id_e;

/* Anthropic's, in the places of what it does not have */

#define APIKEY_X_CACHE_READ      APIKEY_X_CACHED_INPUT
#define APIKEY_X_CACHE_CREATION  APIKEY_X_CACHED_PROMPT


static const apikey_pick_t  apikey_extract_prompt_details[] = {
    APIKEY_PICK("cached_tokens", APIKEY_X_CACHED_PROMPT, SCALAR),
};

static const apikey_pick_t  apikey_extract_completion_details[] = {
    APIKEY_PICK("reasoning_tokens", APIKEY_X_REASONING_COMPLETION, SCALAR),
};

static const apikey_pick_t  apikey_extract_input_details[] = {
    APIKEY_PICK("cached_tokens", APIKEY_X_CACHED_INPUT, SCALAR),
};

static const apikey_pick_t  apikey_extract_output_details[] = {
    APIKEY_PICK("reasoning_tokens", APIKEY_X_REASONING_OUTPUT, SCALAR),
};

static const apikey_pick_t  apikey_extract_openai_usage[] = {
    APIKEY_PICK("prompt_tokens", APIKEY_X_PROMPT, SCALAR),
    APIKEY_PICK("completion_tokens", APIKEY_X_COMPLETION, SCALAR),
    APIKEY_PICK("total_tokens", APIKEY_X_TOTAL, SCALAR),
    APIKEY_PICK("input_tokens", APIKEY_X_INPUT, SCALAR),
    APIKEY_PICK("output_tokens", APIKEY_X_OUTPUT, SCALAR),
    APIKEY_PICK_OBJECT("prompt_tokens_details", APIKEY_X_PROMPT_DETAILS,
                       apikey_extract_prompt_details),
    APIKEY_PICK_OBJECT("completion_tokens_details",
                       APIKEY_X_COMPLETION_DETAILS,
                       apikey_extract_completion_details),
    APIKEY_PICK_OBJECT("input_tokens_details", APIKEY_X_INPUT_DETAILS,
                       apikey_extract_input_details),
    APIKEY_PICK_OBJECT("output_tokens_details", APIKEY_X_OUTPUT_DETAILS,
                       apikey_extract_output_details),
};

static const apikey_pick_t  apikey_extract_openai_response[] = {
    APIKEY_PICK_OBJECT("usage", APIKEY_X_OUTER_USAGE,
                       apikey_extract_openai_usage),
};

static const apikey_pick_t  apikey_extract_openai[] = {
    APIKEY_PICK_OBJECT("usage", APIKEY_X_USAGE, apikey_extract_openai_usage),
    APIKEY_PICK_OBJECT("response", APIKEY_X_OUTER,
                       apikey_extract_openai_response),
};

static const apikey_pick_t  apikey_extract_anthropic_usage[] = {
    APIKEY_PICK("input_tokens", APIKEY_X_INPUT, SCALAR),
    APIKEY_PICK("output_tokens", APIKEY_X_OUTPUT, SCALAR),
    APIKEY_PICK("cache_read_input_tokens", APIKEY_X_CACHE_READ, SCALAR),
    APIKEY_PICK("cache_creation_input_tokens", APIKEY_X_CACHE_CREATION,
                SCALAR),
};

static const apikey_pick_t  apikey_extract_anthropic_message[] = {
    APIKEY_PICK_OBJECT("usage", APIKEY_X_OUTER_USAGE,
                       apikey_extract_anthropic_usage),
};

static const apikey_pick_t  apikey_extract_anthropic[] = {
    APIKEY_PICK_OBJECT("usage", APIKEY_X_USAGE,
                       apikey_extract_anthropic_usage),
    APIKEY_PICK_OBJECT("message", APIKEY_X_OUTER,
                       apikey_extract_anthropic_message),
};

static const apikey_pick_t  apikey_extract_roots[] = {
    [APIKEY_API_OPENAI] = APIKEY_PICK_OBJECT("", 0, apikey_extract_openai),
    [APIKEY_API_ANTHROPIC]
        = APIKEY_PICK_OBJECT("", 0, apikey_extract_anthropic),
};


/* what stands in each of the objects with details, in their order */

static const uint8_t  apikey_extract_details[] = {
    APIKEY_X_CACHED_PROMPT,
    APIKEY_X_REASONING_COMPLETION,
    APIKEY_X_CACHED_INPUT,
    APIKEY_X_REASONING_OUTPUT,
};


#define apikey_extract_bit(id)   (1u << (id))


/* bytes of an Anthropic event around its text */
#define APIKEY_EXTRACT_ANTHROPIC_EVENT  115


static void apikey_extract_found(apikey_jsonpick_t *j, unsigned id,
    apikey_pick_e what);


static void
apikey_extract_begin(apikey_extract_t *x)
{
    apikey_jsonpick_init(&x->json, &apikey_extract_roots[x->api],
                         apikey_extract_found, NULL, 0);
}


void
apikey_extract_init(apikey_extract_t *x, apikey_api_e api, bool stream)
{
    memset(x, 0, apikey_extract_size(false));

    x->api = api;
    x->stream = stream;

    apikey_extract_begin(x);
}


void
apikey_extract_feed(apikey_extract_t *x, const char *p, size_t len)
{
    if (x->stream) {
        apikey_extract_sse(x, p, len);

    } else {
        apikey_jsonpick_feed(&x->json, p, len);
    }

    x->bytes += len;
}


static void
apikey_extract_found_usage(apikey_extract_t *x, unsigned id,
    apikey_pick_e what)
{
    if (what == APIKEY_PICK_OPEN) {
        memset(&x->open, 0, sizeof(x->open));
        x->open.begun = (id == APIKEY_X_OUTER_USAGE
                         && x->api == APIKEY_API_ANTHROPIC);

    } else if (what == APIKEY_PICK_CLOSE) {
        x->last = x->open;

    } else {
        x->last.known = 0;
        x->last.wrong = 0;
    }
}


static void
apikey_extract_found(apikey_jsonpick_t *j, unsigned id, apikey_pick_e what)
{
    bool               count;
    apikey_extract_t  *x;

    x = (apikey_extract_t *) j;

    if (id == 0 || id == APIKEY_X_OUTER) {
        return;
    }

    if (id == APIKEY_X_USAGE || id == APIKEY_X_OUTER_USAGE) {
        apikey_extract_found_usage(x, id, what);
        return;
    }

    if (what == APIKEY_PICK_CLOSE) {
        return;
    }

    count = (what == APIKEY_PICK_COUNT && j->number <= APIKEY_TOKENS_MAX);

    if (id >= APIKEY_X_PROMPT_DETAILS) {
        id = apikey_extract_details[id - APIKEY_X_PROMPT_DETAILS];
        count = false;
    }

    /* a member again takes the place of the one before, whatever it is */

    x->open.known &= ~apikey_extract_bit(id);
    x->open.wrong &= ~apikey_extract_bit(id);

    if (count) {
        x->open.known |= apikey_extract_bit(id);
        x->open.count[id] = j->number;

    } else if (what != APIKEY_PICK_NULL && what != APIKEY_PICK_OPEN) {
        x->open.wrong |= apikey_extract_bit(id);
    }
}


/*
 * Of two usages the later one counts.  What an Anthropic stream ends with
 * repeats only some of what it began with.
 */

static void
apikey_extract_merge(const apikey_extract_t *x, apikey_extract_usage_t *kept)
{
    unsigned                       id;
    const apikey_extract_usage_t  *last;

    last = &x->last;

    if ((last->known | last->wrong) == 0) {
        return;
    }

    if (x->api == APIKEY_API_OPENAI || last->begun) {
        *kept = *last;
        return;
    }

    for (id = 1; id < APIKEY_EXTRACT_COUNTS; id++) {
        if (last->known & apikey_extract_bit(id)) {
            kept->count[id] = last->count[id];
        }
    }

    kept->known = (kept->known & ~last->wrong) | last->known;
    kept->wrong = (kept->wrong & ~last->known) | last->wrong;
    kept->begun = false;
}


/* The end of an event. */

void
apikey_extract_document(apikey_extract_t *x)
{
    apikey_extract_merge(x, &x->kept);
    memset(&x->last, 0, sizeof(x->last));

    apikey_extract_begin(x);
}


/* Some servers send the names of both of OpenAI's APIs, one of them zero. */

static bool
apikey_extract_greater(const apikey_extract_usage_t *u, unsigned a,
    unsigned b, uint64_t *out)
{
    *out = 0;

    if (u->known & apikey_extract_bit(a)) {
        *out = u->count[a];
    }

    if ((u->known & apikey_extract_bit(b)) && u->count[b] > *out) {
        *out = u->count[b];
    }

    return u->known & (apikey_extract_bit(a) | apikey_extract_bit(b));
}


static uint64_t
apikey_extract_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}


/* Does one of them have a value that is no count? */

static bool
apikey_extract_wrong(const apikey_extract_usage_t *u, unsigned a, unsigned b)
{
    return u->wrong & (apikey_extract_bit(a) | apikey_extract_bit(b));
}


static apikey_extract_e
apikey_extract_tokens_openai(const apikey_extract_usage_t *u,
    apikey_tokens_t *t)
{
    bool              input, output;
    uint64_t          total;
    apikey_extract_e  is;

    if (apikey_extract_wrong(u, APIKEY_X_PROMPT, APIKEY_X_INPUT)
        || apikey_extract_wrong(u, APIKEY_X_COMPLETION, APIKEY_X_OUTPUT))
    {
        return APIKEY_EXTRACT_WRONG;
    }

    is = APIKEY_EXTRACT_WHOLE;
    input = apikey_extract_greater(u, APIKEY_X_PROMPT, APIKEY_X_INPUT,
                                   &t->input);
    output = apikey_extract_greater(u, APIKEY_X_COMPLETION, APIKEY_X_OUTPUT,
                                    &t->output);

    if (u->known & apikey_extract_bit(APIKEY_X_TOTAL)) {
        total = u->count[APIKEY_X_TOTAL];

        if ((!input && total < t->output) || (!output && total < t->input)) {
            return APIKEY_EXTRACT_WRONG;
        }

        if (!input) {
            t->input = total - t->output;

        } else if (!output) {
            t->output = total - t->input;
        }

    } else if (!input) {
        is = output ? APIKEY_EXTRACT_OUTPUT
             : u->wrong ? APIKEY_EXTRACT_WRONG : APIKEY_EXTRACT_NONE;

    } else if (!output && (u->wrong & apikey_extract_bit(APIKEY_X_TOTAL))) {
        return APIKEY_EXTRACT_WRONG;
    }

    (void) apikey_extract_greater(u, APIKEY_X_CACHED_PROMPT,
                                  APIKEY_X_CACHED_INPUT, &t->cached);
    (void) apikey_extract_greater(u, APIKEY_X_REASONING_COMPLETION,
                                  APIKEY_X_REASONING_OUTPUT, &t->reasoning);

    if (is == APIKEY_EXTRACT_WHOLE
        && (apikey_extract_wrong(u, APIKEY_X_CACHED_PROMPT,
                                 APIKEY_X_CACHED_INPUT)
            || apikey_extract_wrong(u, APIKEY_X_REASONING_COMPLETION,
                                    APIKEY_X_REASONING_OUTPUT)))
    {
        is = APIKEY_EXTRACT_DOUBT;
    }

    return is;
}


/* What comes out of its cache, or goes into it, is no part of its input. */

static apikey_extract_e
apikey_extract_tokens_anthropic(const apikey_extract_usage_t *u,
    apikey_tokens_t *t)
{
    if (u->wrong) {
        return APIKEY_EXTRACT_WRONG;
    }

    t->input = 0;
    t->output = 0;
    t->cached = 0;
    t->reasoning = 0;

    if (u->known & apikey_extract_bit(APIKEY_X_INPUT)) {
        t->input = u->count[APIKEY_X_INPUT];
    }

    if (u->known & apikey_extract_bit(APIKEY_X_CACHE_CREATION)) {
        t->input += u->count[APIKEY_X_CACHE_CREATION];
    }

    if (u->known & apikey_extract_bit(APIKEY_X_CACHE_READ)) {
        t->cached = u->count[APIKEY_X_CACHE_READ];
        t->input += t->cached;
    }

    if (u->known & apikey_extract_bit(APIKEY_X_OUTPUT)) {
        t->output = u->count[APIKEY_X_OUTPUT];
    }

    if (u->known == apikey_extract_bit(APIKEY_X_OUTPUT)) {
        return APIKEY_EXTRACT_OUTPUT;
    }

    return u->known ? APIKEY_EXTRACT_WHOLE : APIKEY_EXTRACT_NONE;
}


apikey_extract_e
apikey_extract_tokens(const apikey_extract_t *x, apikey_tokens_t *t)
{
    apikey_extract_e        is;
    apikey_extract_t        whole;
    apikey_tokens_t         tokens;
    apikey_extract_usage_t  u;

    if (x->held) {
        whole = *x;
        apikey_extract_release(&whole);
        return apikey_extract_tokens(&whole, t);
    }

    u = x->kept;
    apikey_extract_merge(x, &u);

    is = x->api == APIKEY_API_ANTHROPIC
         ? apikey_extract_tokens_anthropic(&u, &tokens)
         : apikey_extract_tokens_openai(&u, &tokens);

    if (is <= APIKEY_EXTRACT_WRONG) {
        return is;
    }

    if (tokens.input > APIKEY_TOKENS_MAX) {
        return APIKEY_EXTRACT_WRONG;
    }

    if (is == APIKEY_EXTRACT_WHOLE
        && (tokens.cached > tokens.input || tokens.reasoning > tokens.output))
    {
        is = APIKEY_EXTRACT_DOUBT;
    }

    tokens.cached = apikey_extract_min(tokens.cached, tokens.input);
    tokens.reasoning = apikey_extract_min(tokens.reasoning, tokens.output);

    *t = tokens;

    return u.begun ? APIKEY_EXTRACT_BEGUN : is;
}


uint64_t
apikey_extract_estimate(const apikey_extract_t *x)
{
    uint64_t  frame, text, events, lines;

    if (!x->stream) {
        return x->bytes / 4;
    }

    frame = x->api == APIKEY_API_ANTHROPIC ? APIKEY_EXTRACT_ANTHROPIC_EVENT
                                           : x->first;

    lines = x->lines + apikey_bytes_count(x->hold, x->hold + x->held, '\n');
    events = x->first ? lines / x->first_lines : lines;

    text = x->bytes - apikey_extract_min(x->bytes, frame * events);

    return text / 4 > events ? text / 4 : events;
}
