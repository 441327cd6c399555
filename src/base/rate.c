
/*
 * Rates in exact integers.
 *
 * The smallest tick that keeps the capacity below 2^53 wins: it is the one
 * rule that SQL and this file must share, so nothing else decides here.
 */


#include "base/rate.h"


#define APIKEY_RATE_MAX  0x1fffffffffffffULL    /* 2^53 - 1 */


static bool apikey_rate_tick(apikey_rate_t *rate, uint64_t tokens,
    uint64_t period_us, uint64_t burst, uint64_t tick);
static uint64_t apikey_rate_gcd(uint64_t a, uint64_t b);


static const uint64_t  apikey_rate_ticks[] = { 1, 1000, 1000000 };


bool
apikey_rate_init(apikey_rate_t *rate, uint64_t tokens, uint64_t period_us,
    uint64_t burst)
{
    unsigned  i;

    if (period_us == 0) {
        return false;
    }

    for (i = 0; i < sizeof(apikey_rate_ticks) / sizeof(uint64_t); i++) {
        if (apikey_rate_tick(rate, tokens, period_us, burst,
                             apikey_rate_ticks[i]))
        {
            return true;
        }
    }

    return false;
}


bool
apikey_rate_check(const apikey_rate_t *rate, uint64_t tokens,
    uint64_t period_us, uint64_t burst)
{
    apikey_rate_t  right;

    return apikey_rate_init(&right, tokens, period_us, burst)
           && rate->token == right.token
           && rate->refill == right.refill
           && rate->capacity == right.capacity
           && rate->tick == right.tick;
}


static bool
apikey_rate_tick(apikey_rate_t *rate, uint64_t tokens, uint64_t period_us,
    uint64_t burst, uint64_t tick)
{
    uint64_t  period, gcd, token, refill;

    if (period_us % tick) {
        return false;
    }

    period = period_us / tick;
    gcd = apikey_rate_gcd(tokens, period);

    token = tokens ? period / gcd : 1;
    refill = tokens / gcd;

    if (burst > APIKEY_RATE_MAX / token || refill > APIKEY_RATE_MAX) {
        return false;
    }

    rate->token = token;
    rate->refill = refill;
    rate->capacity = burst * token;
    rate->tick = tick;

    return true;
}


static uint64_t
apikey_rate_gcd(uint64_t a, uint64_t b)
{
    uint64_t  rest;

    while (b) {
        rest = a % b;
        a = b;
        b = rest;
    }

    return a;
}
