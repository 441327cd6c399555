
/*
 * Money: decimal text outside, whole nano-units (10^-9 of the currency)
 * inside.  No floating point anywhere: the sum of what is read is exact.
 *
 * Plain C, no state.
 */


#ifndef APIKEY_MONEY_H_INCLUDED
#define APIKEY_MONEY_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>


#define APIKEY_MONEY_MAX       0x1fffffffffffffULL     /* nano-units, 2^53 - 1:
                                                          9,007,199.25... */
#define APIKEY_MONEY_TEXT_LEN  17                      /* of that */


/*
 * Digits, a fraction, an exponent: "12", "0.000001", "1e-06"; as long as it
 * likes.  Rounded half up, once.  False: it is none of these, or too much.
 */
bool apikey_money_parse(uint64_t *nano, const char *text, size_t len);

/* At least two decimals; returns behind the last one, no NUL. */
char *apikey_money_format(char *out, uint64_t nano);


#endif /* APIKEY_MONEY_H_INCLUDED */
