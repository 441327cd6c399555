
/*
 * Numbers as text, where nginx's and libc's formatting would cost more than
 * the rest of a header: a request writes a dozen of them; and back.
 *
 * Plain C, no state.
 */


#ifndef APIKEY_NUMBER_H_INCLUDED
#define APIKEY_NUMBER_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>


#define APIKEY_UINT_TEXT_LEN  20     /* of the longest */


/* Decimal; returns behind the last digit, no NUL. */
char *apikey_uint_format(char *out, uint64_t n);

/* Digits and nothing else; false: it is not that, or more than max. */
bool apikey_uint_parse(uint64_t *n, const char *text, size_t len,
    uint64_t max);

/* Two lower case digits a byte; returns behind them, no NUL. */
char *apikey_hex_format(char *out, const uint8_t *bytes, size_t len);


#endif /* APIKEY_NUMBER_H_INCLUDED */
