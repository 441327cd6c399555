
/*
 * What Redis told of a limit, carried to now.
 */


#include "limit/level.h"


uint64_t
apikey_level_used(const apikey_bucket_t *b, const apikey_rate_t *rate,
    uint64_t now)
{
    apikey_bucket_t  copy;

    if (rate->tick == APIKEY_RATE_ROLLING) {
        return b->at + rate->refill <= now ? 0 : b->used;
    }

    copy = *b;
    apikey_bucket_refill(&copy, rate, now);

    return copy.used;
}


uint64_t
apikey_level_wait(const apikey_bucket_t *b, const apikey_rate_t *rate,
    uint64_t tokens, uint64_t now)
{
    apikey_bucket_t  copy;

    if (rate->tick != APIKEY_RATE_ROLLING) {
        copy = *b;
        apikey_bucket_refill(&copy, rate, now);

        return apikey_bucket_wait(&copy, rate, tokens, now);
    }

    if (tokens > rate->capacity) {
        return APIKEY_BUCKET_NEVER;
    }

    if (tokens == 0 || b->used <= rate->capacity - tokens || b->at <= now) {
        return 0;
    }

    return b->at - now;
}


uint64_t
apikey_level_reset(const apikey_bucket_t *b, const apikey_rate_t *rate,
    uint64_t now)
{
    if (rate->tick != APIKEY_RATE_ROLLING) {
        return apikey_bucket_reset(b, rate, now);
    }

    return b->used == 0 || b->at <= now ? 0 : b->at - now;
}
