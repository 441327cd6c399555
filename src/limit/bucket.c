
/*
 * Token bucket: the arithmetic that bucket.h describes, line by line.
 *
 * No value here reaches 2^53, so that script.lua can repeat each step in
 * doubles; a change must be made in both.
 */


#include "limit/bucket.h"


static uint64_t apikey_bucket_until(const apikey_bucket_t *b,
    const apikey_rate_t *rate, uint64_t units, uint64_t now);
static uint64_t apikey_bucket_share(uint64_t part, uint64_t whole,
    uint64_t times);


void
apikey_bucket_init(apikey_bucket_t *b, uint64_t now)
{
    b->used = 0;
    b->at = now;
}


void
apikey_bucket_refill(apikey_bucket_t *b, const apikey_rate_t *rate,
    uint64_t now)
{
    uint64_t  ticks;

    if (now <= b->at) {
        return;
    }

    ticks = now / rate->tick - b->at / rate->tick;

    b->at = now;

    if (ticks == 0 || rate->refill == 0) {
        return;
    }

    if (ticks > b->used / rate->refill) {
        b->used = 0;
        return;
    }

    b->used -= ticks * rate->refill;
}


bool
apikey_bucket_take(apikey_bucket_t *b, const apikey_rate_t *rate,
    uint64_t tokens)
{
    uint64_t  units;

    if (tokens == 0) {
        return true;
    }

    if (tokens > rate->capacity / rate->token) {
        return false;
    }

    units = tokens * rate->token;

    if (b->used > rate->capacity - units) {
        return false;
    }

    b->used += units;

    return true;
}


void
apikey_bucket_give(apikey_bucket_t *b, const apikey_rate_t *rate,
    uint64_t tokens)
{
    if (tokens > b->used / rate->token) {
        b->used = 0;
        return;
    }

    b->used -= tokens * rate->token;
}


uint64_t
apikey_bucket_wait(const apikey_bucket_t *b, const apikey_rate_t *rate,
    uint64_t tokens, uint64_t now)
{
    uint64_t  room;

    if (tokens == 0) {
        return 0;
    }

    if (tokens > rate->capacity / rate->token) {
        return APIKEY_BUCKET_NEVER;
    }

    room = rate->capacity - tokens * rate->token;

    if (b->used <= room) {
        return 0;
    }

    return apikey_bucket_until(b, rate, b->used - room, now);
}


uint64_t
apikey_bucket_reset(const apikey_bucket_t *b, const apikey_rate_t *rate,
    uint64_t now)
{
    if (b->used == 0) {
        return 0;
    }

    return apikey_bucket_until(b, rate, b->used, now);
}


uint64_t
apikey_bucket_remaining(const apikey_bucket_t *b, const apikey_rate_t *rate)
{
    if (b->used >= rate->capacity) {
        return 0;
    }

    return (rate->capacity - b->used) / rate->token;
}


void
apikey_bucket_rescale(apikey_bucket_t *b, const apikey_rate_t *old,
    const apikey_rate_t *rate, uint64_t now)
{
    uint64_t  whole, part, rest;

    apikey_bucket_refill(b, old, now);

    if (rate->token == old->token && rate->refill == old->refill
        && rate->tick == old->tick)
    {
        return;
    }

    /* the tick running now is paid by neither rate */

    rest = b->at % rate->tick;

    if (rest) {
        b->at += rate->tick - rest;
    }

    if (rate->token == old->token) {
        return;
    }

    whole = b->used / old->token;
    part = apikey_bucket_share(b->used % old->token, old->token, rate->token);

    if (whole > APIKEY_BUCKET_MAX / rate->token
        || whole * rate->token > APIKEY_BUCKET_MAX - part)
    {
        b->used = APIKEY_BUCKET_MAX;
        return;
    }

    b->used = whole * rate->token + part;
}


static uint64_t
apikey_bucket_until(const apikey_bucket_t *b, const apikey_rate_t *rate,
    uint64_t units, uint64_t now)
{
    uint64_t  ticks, start, end;

    if (rate->refill == 0) {
        return APIKEY_BUCKET_NEVER;
    }

    ticks = (units - 1) / rate->refill + 1;
    start = b->at / rate->tick;

    if (ticks > APIKEY_BUCKET_MAX / rate->tick - start) {
        end = APIKEY_BUCKET_MAX;

    } else {
        end = (start + ticks) * rate->tick;
    }

    return end > now ? end - now : 0;
}


/*
 * ceil(part * times / whole) for part < whole: quotient and rest are carried
 * along the bits of times, highest first, so that the product is never formed.
 */

static uint64_t
apikey_bucket_share(uint64_t part, uint64_t whole, uint64_t times)
{
    int       i;
    uint64_t  quotient, rest;

    quotient = 0;
    rest = 0;

    for (i = 52; i >= 0; i--) {
        quotient *= 2;

        if (rest >= whole - rest) {
            rest -= whole - rest;
            quotient++;

        } else {
            rest += rest;
        }

        if ((times >> i & 1) == 0) {
            continue;
        }

        if (rest >= whole - part) {
            rest -= whole - part;
            quotient++;

        } else {
            rest += part;
        }
    }

    return rest ? quotient + 1 : quotient;
}
