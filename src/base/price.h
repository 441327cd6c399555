
/*
 * Prices of requests and tokens: the list as Postgres orders it, which of
 * them holds, and what that makes of a request's tokens.
 *
 * The list is text, a line each, the most specific first (schema 0050):
 *
 *     version TAB valid_from TAB service TAB model TAB plan TAB
 *     input TAB output TAB cached TAB request LF
 *
 * Patterns and plans may be empty: any.  Money is nano-units, for a million
 * tokens or for a request; empty: unknown.  valid_from is us since the epoch.
 *
 * Plain C, no allocation; rows point into the text.
 */


#ifndef APIKEY_PRICE_H_INCLUDED
#define APIKEY_PRICE_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>


#define APIKEY_PRICE_UNKNOWN  UINT64_MAX
#define APIKEY_PRICE_BAD      ((size_t) -1)


typedef struct {
    uint64_t           version;
    uint64_t           input;
    uint64_t           output;
    uint64_t           cached;       /* UNKNOWN: as any other input */
    uint64_t           request;
} apikey_price_t;


typedef struct {
    const char        *text;
    size_t             len;
} apikey_price_text_t;


typedef struct {
    apikey_price_t       price;
    int64_t              from;
    apikey_price_text_t  service;
    apikey_price_text_t  model;
    apikey_price_text_t  plan;
} apikey_price_row_t;


/* How many rows there are; BAD: it is no list of this form. */
size_t apikey_price_parse(const char *text, size_t len,
    apikey_price_row_t *rows, size_t max);

/* NULL: there is no price.  who: its service, model and plan. */
const apikey_price_row_t *apikey_price_find(const apikey_price_row_t *rows,
    size_t n, const apikey_price_row_t *who, int64_t now);

/*
 * Nano-units, rounded half up once; false: something that was used has no
 * known price, or it is more than money can be.  cached is a part of input.
 */
bool apikey_price_cost(const apikey_price_t *price, uint64_t input,
    uint64_t cached, uint64_t output, uint64_t *nano);


#endif /* APIKEY_PRICE_H_INCLUDED */
