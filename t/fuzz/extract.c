
/*
 * Tokens out of any response: however it is split they are the same, and of
 * what is JSON they are what a reader of whole texts (jsonscan.h) finds.
 *
 * Input: bit 0 Anthropic, bit 1 a stream; the length of pieces; the response.
 */


#include "base/jsonscan.h"
#include "usage/extract.h"

#include "fuzz.h"


#define FUZZ_EXTRACT_MAX  9007199254740991ULL


typedef enum {
    FUZZ_ABSENT = 0,             /* or null */
    FUZZ_COUNT,
    FUZZ_WRONG
} fuzz_count_e;


typedef struct {
    apikey_tokens_t   tokens;
    apikey_extract_e  is;
    uint64_t          estimate;
} fuzz_extract_t;


/* The last member of a name; false: there is none. */

static bool
fuzz_extract_member(const char *json, size_t len, const char *name,
    const char **value, size_t *value_len)
{
    bool                found;
    apikey_json_walk_t  w;

    found = false;

    if (len == 0 || *json != '{' || !apikey_json_walk(&w, json, len)) {
        return false;
    }

    while (apikey_json_walk_next(&w)) {
        if (apikey_json_walk_named(&w, name)) {
            *value = w.value;
            *value_len = w.value_len;
            found = true;
        }
    }

    return found;
}


/* A count, by moving the point of its digits; false: it is none. */

static bool
fuzz_extract_count(const char *p, size_t len, uint64_t *count)
{
    long         exponent;
    size_t       i, n;
    uint64_t     value;
    const char  *end;
    char        *digits;

    end = p + len;
    n = 0;
    exponent = 0;
    digits = malloc(len + 1);

    if (digits == NULL || len == 0
        || (*p != '-' && (*p < '0' || *p > '9')))
    {
        free(digits);
        return false;
    }

    bool  minus = (*p == '-'), point = false;

    for (p += minus; p < end && *p != 'e' && *p != 'E'; p++) {
        if (*p == '.') {
            point = true;
            continue;
        }

        digits[n++] = *p;
        exponent -= point;
    }

    if (p < end) {
        bool  low = (p[1] == '-');
        long  power = 0;

        for (p += 1 + (p[1] == '-' || p[1] == '+'); p < end; p++) {
            power = power < 1000000 ? power * 10 + (*p - '0') : power;
        }

        exponent += low ? -power : power;
    }

    while (n && digits[n - 1] == '0') {
        n--;
        exponent++;
    }

    value = 0;

    for (i = 0; i < n && value <= FUZZ_EXTRACT_MAX; i++) {
        value = value * 10 + (uint64_t) (digits[i] - '0');
    }

    bool  all = (i == n);

    free(digits);

    while (value && exponent > 0 && value <= FUZZ_EXTRACT_MAX) {
        value *= 10;
        exponent--;
    }

    *count = value;

    return value == 0 || (all && !minus && exponent == 0
                          && value <= FUZZ_EXTRACT_MAX);
}


static fuzz_count_e
fuzz_extract_in(const char *json, size_t len, const char *name,
    uint64_t *count)
{
    size_t       n;
    const char  *value;

    *count = 0;

    if (!fuzz_extract_member(json, len, name, &value, &n) || *value == 'n') {
        return FUZZ_ABSENT;
    }

    if (fuzz_extract_count(value, n, count) && *count <= APIKEY_TOKENS_MAX) {
        return FUZZ_COUNT;
    }

    *count = 0;

    return FUZZ_WRONG;
}


/* The greater one of what two objects say; true: one of them is wrong. */

static bool
fuzz_extract_details(const char *json, size_t len, const char *const *objects,
    const char *name, uint64_t *count)
{
    bool         wrong;
    size_t       i, n;
    uint64_t     one;
    const char  *value;

    wrong = false;
    *count = 0;

    for (i = 0; i < 2; i++) {
        if (!fuzz_extract_member(json, len, objects[i], &value, &n)
            || *value == 'n')
        {
            continue;
        }

        if (*value != '{'
            || fuzz_extract_in(value, n, name, &one) == FUZZ_WRONG)
        {
            wrong = true;

        } else if (one > *count) {
            *count = one;
        }
    }

    return wrong;
}


static apikey_extract_e
fuzz_extract_openai(const char *json, size_t len, apikey_tokens_t *t)
{
    bool          in, out, doubt, wrong;
    size_t        i;
    uint64_t      n[5];
    fuzz_count_e  is[5];

    static const char *const  names[] = { "prompt_tokens", "input_tokens",
        "completion_tokens", "output_tokens", "total_tokens" };
    static const char *const  cached[] = { "prompt_tokens_details",
        "input_tokens_details" };
    static const char *const  reasoning[] = { "completion_tokens_details",
        "output_tokens_details" };

    wrong = false;

    for (i = 0; i < 5; i++) {
        is[i] = fuzz_extract_in(json, len, names[i], &n[i]);
        wrong |= (i < 4 && is[i] == FUZZ_WRONG);
    }

    if (wrong) {
        return APIKEY_EXTRACT_WRONG;
    }

    in = (is[0] == FUZZ_COUNT || is[1] == FUZZ_COUNT);
    out = (is[2] == FUZZ_COUNT || is[3] == FUZZ_COUNT);

    t->input = n[0] > n[1] ? n[0] : n[1];
    t->output = n[2] > n[3] ? n[2] : n[3];

    doubt = fuzz_extract_details(json, len, cached, "cached_tokens",
                                 &t->cached);
    doubt |= fuzz_extract_details(json, len, reasoning, "reasoning_tokens",
                                  &t->reasoning);

    if (!in && !out && is[4] != FUZZ_COUNT) {
        return doubt || is[4] == FUZZ_WRONG ? APIKEY_EXTRACT_WRONG
                                            : APIKEY_EXTRACT_NONE;
    }

    if (!(in && out) && in + out > 0 && is[4] == FUZZ_COUNT
        && n[4] < t->input + t->output)
    {
        return APIKEY_EXTRACT_WRONG;
    }

    if (!in && is[4] == FUZZ_COUNT) {
        t->input = n[4] - t->output;
        in = true;

    } else if (in && !out && is[4] == FUZZ_COUNT) {
        t->output = n[4] - t->input;

    } else if (in && !out && is[4] == FUZZ_WRONG) {
        return APIKEY_EXTRACT_WRONG;
    }

    doubt |= (t->cached > t->input || t->reasoning > t->output);
    t->cached = t->cached > t->input ? t->input : t->cached;
    t->reasoning = t->reasoning > t->output ? t->output : t->reasoning;

    return !in ? APIKEY_EXTRACT_OUTPUT : doubt ? APIKEY_EXTRACT_DOUBT
                                               : APIKEY_EXTRACT_WHOLE;
}


static apikey_extract_e
fuzz_extract_anthropic(const char *json, size_t len, apikey_tokens_t *t)
{
    bool          input, wrong;
    size_t        i;
    uint64_t      n[4];
    fuzz_count_e  is[4];

    static const char *const  names[] = { "input_tokens",
        "cache_creation_input_tokens", "cache_read_input_tokens",
        "output_tokens" };

    memset(t, 0, sizeof(*t));
    input = false;
    wrong = false;

    for (i = 0; i < 4; i++) {
        is[i] = fuzz_extract_in(json, len, names[i], &n[i]);
        wrong |= (is[i] == FUZZ_WRONG);
        input |= (i < 3 && is[i] == FUZZ_COUNT);
    }

    t->input = n[0] + n[1] + n[2];
    t->cached = n[2];
    t->output = n[3];

    if (wrong || t->input > APIKEY_TOKENS_MAX) {
        return APIKEY_EXTRACT_WRONG;
    }

    return input ? APIKEY_EXTRACT_WHOLE
           : is[3] == FUZZ_COUNT ? APIKEY_EXTRACT_OUTPUT
                                 : APIKEY_EXTRACT_NONE;
}


/*
 * Of a valid document where no more than one usage may be meant; it would
 * need the order of members else.
 */

static bool
fuzz_extract_document(bool anthropic, const char *json, size_t len,
    fuzz_extract_t *want)
{
    bool         again;
    size_t       n, outer_len;
    const char  *value, *outer;

    while (len && strchr(" \t\r\n", *json) && *json) {
        json++;
        len--;
    }

    again = fuzz_extract_member(json, len, anthropic ? "message" : "response",
                                &outer, &outer_len);

    if (again) {
        if (fuzz_extract_member(json, len, "usage", &value, &n)) {
            return false;
        }

        json = outer;
        len = outer_len;
    }

    want->is = APIKEY_EXTRACT_NONE;

    if (!fuzz_extract_member(json, len, "usage", &value, &n)
        || *value != '{')
    {
        return !again || len == 0 || *json == '{';
    }

    want->is = anthropic ? fuzz_extract_anthropic(value, n, &want->tokens)
                         : fuzz_extract_openai(value, n, &want->tokens);

    if (anthropic && again && want->is > APIKEY_EXTRACT_WRONG) {
        want->is = APIKEY_EXTRACT_BEGUN;
    }

    return true;
}


/* slow: into each event is looked, for there seems to be none before it. */

static void
fuzz_extract_read(uint8_t how, size_t piece, bool slow, const char *text,
    size_t len, fuzz_extract_t *got)
{
    char              *part;
    size_t             n;
    apikey_extract_t   x;

    apikey_extract_init(&x, how & 1 ? APIKEY_API_ANTHROPIC
                                    : APIKEY_API_OPENAI, (how & 2) != 0);

    for ( /* void */ ; len; text += n, len -= n) {
        n = piece && piece < len ? piece : len;
        part = malloc(n);

        if (part == NULL) {
            return;
        }

        memcpy(part, text, n);
        x.first = slow ? 0 : x.first;
        apikey_extract_feed(&x, part, n);
        free(part);
    }

    memset(got, 0, sizeof(*got));

    got->is = apikey_extract_tokens(&x, &got->tokens);
    got->estimate = apikey_extract_estimate(&x);
}


static bool
fuzz_extract_same(const fuzz_extract_t *a, const fuzz_extract_t *b)
{
    return a->is == b->is
           && (a->is <= APIKEY_EXTRACT_WRONG
               || memcmp(&a->tokens, &b->tokens, sizeof(a->tokens)) == 0);
}


/* Several names of one member make the order count: looked for as text. */

static bool
fuzz_extract_twice(const char *text, size_t len, const char *name)
{
    size_t  i, n;

    n = 0;

    for (i = 0; i + strlen(name) <= len; i++) {
        n += (memcmp(text + i, name, strlen(name)) == 0);
    }

    return n > 1;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool             lone;
    size_t           i, len;
    const char      *text;
    fuzz_extract_t   whole, pieces, slow, want;

    if (size < 2) {
        return 0;
    }

    text = (const char *) data + 2;
    len = size - 2;

    fuzz_extract_read(data[0], 0, false, text, len, &whole);
    fuzz_extract_read(data[0], 1 + data[1] % 97, false, text, len, &pieces);
    fuzz_extract_read(data[0], 1, true, text, len, &slow);

    fuzz_must(fuzz_extract_same(&whole, &pieces));
    fuzz_must(fuzz_extract_same(&whole, &slow));

    /* lines that a lone CR ends are not all counted */

    lone = false;

    for (i = 0; i < len; i++) {
        lone |= (text[i] == '\r' && (i + 1 == len || text[i + 1] != '\n'));
    }

    fuzz_must(lone || whole.estimate == pieces.estimate);

    if ((data[0] & 2) || !apikey_json_valid(text, len)
        || fuzz_extract_twice(text, len, "response")
        || fuzz_extract_twice(text, len, "message")
        || memchr(text, '\\', len) || len > 4096)
    {
        return 0;
    }

    memset(&want, 0, sizeof(want));

    if (fuzz_extract_document(data[0] & 1, text, len, &want)) {
        fuzz_must(fuzz_extract_same(&whole, &want));
    }

    return 0;
}
