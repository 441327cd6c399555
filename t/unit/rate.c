
/*
 * Rates: the vectors that the schema's tests share, and what has no exact
 * form.
 */


#include "base/rate.h"

#include "unit.h"


#define SECOND  UINT64_C(1000000)
#define HOUR    (3600 * SECOND)
#define DAY     (24 * HOUR)
#define MAX     UINT64_C(9007199254740991)     /* 2^53 - 1 */


typedef struct {
    const char     *name;
    uint64_t        tokens;
    uint64_t        period;
    uint64_t        burst;
    apikey_rate_t   rate;           /* token, refill, capacity, tick */
} test_rate_t;


static const test_rate_t  exact[] = {
    { "50 a second, burst 100", 50, SECOND, 100, { 20000, 1, 2000000, 1 } },
    { "1000 an hour", 1000, HOUR, 1000, { 3600000, 1, 3600000000, 1 } },
    { "none", 0, HOUR, 0, { 1, 0, 0, 1 } },
    { "one in 31 days", 1, 31 * DAY, 1,
      { 2678400000000, 1, 2678400000000, 1 } },
    { "a million in 31 days", 1000000, 31 * DAY, 1000000,
      { 2678400, 1, 2678400000000, 1 } },
    { "a prime a second", 999983, SECOND, 999983,
      { 1000000, 999983, 999983000000, 1 } },
    { "a prime an hour, in ms", 9999991, HOUR, 9999991,
      { 3600000, 9999991, 35999967600000, 1000 } },
    { "a prime in 31 days, in ms", 999983, 31 * DAY, 999983,
      { 2678400000, 999983, 2678354467200000, 1000 } },
    { "a prime in 31 days, in s", 9999991, 31 * DAY, 9999991,
      { 2678400, 9999991, 26783975894400, 1000000 } },
    { "a million a microsecond", 1000000000000, SECOND, 1000000000000,
      { 1, 1000000, 1000000000000, 1 } },
    { "the largest capacity", 1, 1, MAX, { 1, 1, MAX, 1 } },
    { "the largest burst a second", 1, SECOND, MAX, { 1, 1, MAX, 1000000 } },
    { "burst 0", 10, SECOND, 0, { 100000, 1, 0, 1 } },
};


static const test_rate_t  inexact[] = {
    { "no period", 1, 0, 1, { 0, 0, 0, 0 } },
    { "capacity 2^53", 1, 1, MAX + 1, { 0, 0, 0, 0 } },
    { "refill 2^53", MAX + 1, 1, 1, { 0, 0, 0, 0 } },
    { "a large prime in 31 days", 9999999967, 31 * DAY, 9999999967,
      { 0, 0, 0, 0 } },
    { "the largest numbers", UINT64_MAX, UINT64_MAX - 1, UINT64_MAX,
      { 0, 0, 0, 0 } },
    { "a period that no larger tick divides", 1, SECOND + 1, 10000000000,
      { 0, 0, 0, 0 } },
};


int
main(void)
{
    size_t              i;
    apikey_rate_t       rate;
    const test_rate_t  *t;

    for (i = 0; i < sizeof(exact) / sizeof(exact[0]); i++) {
        t = &exact[i];

        ok(apikey_rate_init(&rate, t->tokens, t->period, t->burst), t->name);

        is_uint(rate.token, t->rate.token, "... token");
        is_uint(rate.refill, t->rate.refill, "... refill");
        is_uint(rate.capacity, t->rate.capacity, "... capacity");
        is_uint(rate.tick, t->rate.tick, "... tick");

        ok(apikey_rate_check(&t->rate, t->tokens, t->period, t->burst),
           "... passes the check");

        rate.refill++;
        ok(!apikey_rate_check(&rate, t->tokens, t->period, t->burst),
           "... with another refill it does not");
    }

    for (i = 0; i < sizeof(inexact) / sizeof(inexact[0]); i++) {
        t = &inexact[i];

        ok(!apikey_rate_init(&rate, t->tokens, t->period, t->burst), t->name);
        ok(!apikey_rate_check(&t->rate, t->tokens, t->period, t->burst),
           "... nothing passes the check");
    }

    /* the same rate in a larger tick is exact, and not the one */

    rate = (apikey_rate_t) { 3600000, 1000, 3600000000, 1000 };
    ok(!apikey_rate_check(&rate, 1000, HOUR, 1000), "units not reduced");

    rate = (apikey_rate_t) { 3600, 1, 3600000, 1000 };
    ok(!apikey_rate_check(&rate, 1000, HOUR, 1000), "a tick too large");

    return unit_done();
}
