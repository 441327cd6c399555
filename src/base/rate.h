
/*
 * A rate in exact integers: N tokens per P, held up to a burst.
 *
 * With tick t (1, 1000 or 1,000,000 us) and P' = P/t, g = gcd(N, P'): one
 * token is P'/g units and each whole tick refills N/g units.  No division,
 * no rounding, no drift (docs/design.md, "Buckets").  The smallest tick is
 * taken whose capacity stays below 2^53, where Lua and Postgres are exact too.
 *
 * Plain C.  Made by SQL when a limit is written (same rule, same vectors in
 * t/unit/rate.c and the schema's tests), checked here when it is loaded.
 */


#ifndef APIKEY_RATE_H_INCLUDED
#define APIKEY_RATE_H_INCLUDED


#include <stdbool.h>
#include <stdint.h>


typedef struct {
    uint64_t  token;        /* units in one token, >= 1 */
    uint64_t  refill;       /* units refilled in one tick; 0: never */
    uint64_t  capacity;     /* units = burst * token, < 2^53 */
    uint64_t  tick;         /* us: 1, 1000 or 1,000,000; ROLLING: none,
                               refill is the window (us) and token 1 */
} apikey_rate_t;


#define APIKEY_RATE_ROLLING  2


/* False: no exact form below 2^53.  tokens 0: token 1, refill 0. */
bool apikey_rate_init(apikey_rate_t *rate, uint64_t tokens, uint64_t period_us,
    uint64_t burst);

/* True: the rate is what init() makes of these numbers. */
bool apikey_rate_check(const apikey_rate_t *rate, uint64_t tokens,
    uint64_t period_us, uint64_t burst);


#endif /* APIKEY_RATE_H_INCLUDED */
