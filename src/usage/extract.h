
/*
 * Tokens out of a response as it passes: a JSON body or a stream of events
 * (SSE), in the shapes of OpenAI (chat and text completions, responses,
 * embeddings) and Anthropic (messages), split at any byte.
 *
 * Only the member "usage" where those APIs have it counts: in the outermost
 * object, in a "response" (OpenAI) or a "message" (Anthropic) there.  The last
 * one of a stream wins; null is none.  What was seen whole before a response
 * is cut, or turns out to be no JSON, counts.  A count that makes no sense is
 * told from one that is not there, and never becomes 0.
 *
 * Plain C, no allocation, less than 2 KB that the caller owns.
 */


#ifndef APIKEY_EXTRACT_H_INCLUDED
#define APIKEY_EXTRACT_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/jsonpick.h"


typedef enum {
    APIKEY_API_OPENAI = 0,
    APIKEY_API_ANTHROPIC
} apikey_api_e;


/* what no request has: sums of them shall stay countable */

#define APIKEY_TOKENS_MAX  1000000000000ULL


/* cached is a part of input, reasoning one of output. */

typedef struct {
    uint64_t    input;
    uint64_t    output;
    uint64_t    cached;
    uint64_t    reasoning;
} apikey_tokens_t;


typedef enum {
    APIKEY_EXTRACT_NONE = 0,
    APIKEY_EXTRACT_WRONG,        /* what it says cannot be */
    APIKEY_EXTRACT_BEGUN,        /* what an Anthropic stream begins with: its
                                    output is not what it will be */
    APIKEY_EXTRACT_OUTPUT,       /* it does not say its input */
    APIKEY_EXTRACT_DOUBT,        /* a part of it cannot be, and is left out
                                    or made to fit */
    APIKEY_EXTRACT_WHOLE
} apikey_extract_e;


#define APIKEY_EXTRACT_COUNTS  10
#define APIKEY_EXTRACT_HOLD    1024


typedef struct {
    uint64_t             count[APIKEY_EXTRACT_COUNTS];
    uint32_t             known;  /* a bit each */
    uint32_t             wrong;  /* there, but no count */
    bool                 begun;  /* of a message that begins */
} apikey_extract_usage_t;


typedef struct {
    apikey_jsonpick_t       json;    /* the first: found by its address */
    apikey_api_e            api;

    apikey_extract_usage_t  open;    /* being read */
    apikey_extract_usage_t  last;    /* of this document, or event */
    apikey_extract_usage_t  kept;    /* of the events before */

    /* a stream of events (extract_sse.c) */
    uint64_t                bytes;
    uint64_t                lines;
    uint64_t                first;   /* bytes up to the first event's end, */
    uint64_t                first_lines;     /* and lines */
    bool                    stream;
    bool                    cr;      /* the line before ended with one */
    bool                    data;    /* the event has some */
    uint8_t                 line;    /* state */
    uint8_t                 matched;
    uint16_t                held;
    char                    hold[APIKEY_EXTRACT_HOLD];   /* an event's
                                                            beginning */
} apikey_extract_t;


/* What it takes: half of it is not there where nothing is a stream. */

#define apikey_extract_size(stream)                                           \
    ((stream) ? sizeof(apikey_extract_t) : offsetof(apikey_extract_t, hold))


void apikey_extract_init(apikey_extract_t *x, apikey_api_e api, bool stream);

void apikey_extract_feed(apikey_extract_t *x, const char *p, size_t len);

/* NONE and WRONG leave t as it is. */
apikey_extract_e apikey_extract_tokens(const apikey_extract_t *x,
    apikey_tokens_t *t);

/*
 * Output tokens of what was fed, where no usage says it: the greater of
 * events and text / 4, where the text of a stream is what its events have
 * beyond what they cannot do without.
 */
uint64_t apikey_extract_estimate(const apikey_extract_t *x);


/* Private: extract.c, extract_sse.c and extract_find.c */
void apikey_extract_document(apikey_extract_t *x);
void apikey_extract_sse(apikey_extract_t *x, const char *p, size_t len);
void apikey_extract_release(apikey_extract_t *x);

/* The first place of whole events that may be a usage, or end; the line feeds
   in front of it are added to lines. */
const char *apikey_extract_find(const char *p, const char *end,
    uint64_t *lines);


#endif /* APIKEY_EXTRACT_H_INCLUDED */
