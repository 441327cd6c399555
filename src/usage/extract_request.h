
/*
 * What a request for a model asks for, out of its JSON body: OpenAI's (chat
 * and text completions, responses, embeddings) and Anthropic's (messages).
 *
 * Of several members of one name the last one counts, as for those who will
 * answer.  A body that is not one whole JSON object says nothing.
 *
 * Plain C, no allocation, about 700 bytes that the caller owns.
 */


#ifndef APIKEY_EXTRACT_REQUEST_H_INCLUDED
#define APIKEY_EXTRACT_REQUEST_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/jsonpick.h"
#include "usage/extract.h"


#define APIKEY_REQUEST_MODEL    255
#define APIKEY_REQUEST_MEMBERS  16


typedef struct {
    uint64_t    at;      /* offset of the first byte that goes */
    uint64_t    cut;     /* how many go */
    const char *put[2];  /* what comes there: one text after the other */
} apikey_request_edit_t;


typedef struct {
    apikey_jsonpick_t  json;         /* the first: found by its address */

    uint64_t           count[APIKEY_REQUEST_MEMBERS];
    uint32_t           known;        /* a bit for each member that is */
    uint32_t           named;        /* there, or has a value of its kind */
    size_t             model_len;

    /* where "stream_options" and "include_usage" stand */
    uint64_t           options_at;
    uint64_t           options_end;
    uint64_t           include_at;
    uint64_t           include_end;
    uint64_t           root;         /* behind the first brace */
    bool               options_empty;

    char               model[APIKEY_REQUEST_MODEL];
} apikey_request_t;


void apikey_request_init(apikey_request_t *r, apikey_api_e api);
void apikey_request_feed(apikey_request_t *r, const char *p, size_t len);

/* False: it is no JSON object, and nothing of it is known. */
bool apikey_request_end(apikey_request_t *r);


/* Of one that ended well; the model is in model, 0 bytes: none. */

/* The most output tokens of one choice: the greatest of what is given. */
bool apikey_request_max_tokens(const apikey_request_t *r, uint64_t *tokens);

/* How many answers are asked for, 1 or more. */
uint64_t apikey_request_choices(const apikey_request_t *r);

bool apikey_request_stream(const apikey_request_t *r);

/*
 * A stream of OpenAI's completions tells its usage only where asked to; true:
 * this one is not, and e says what would ask.
 */
bool apikey_request_silent(const apikey_request_t *r,
    apikey_request_edit_t *e);


#endif /* APIKEY_EXTRACT_REQUEST_H_INCLUDED */
