
/*
 * The value of an account: limits that were edited.  What is used stays used;
 * limit/account.h says how.
 */


#include "limit/account_private.h"


static bool apikey_account_edit_rolling(const apikey_account_t *v,
    apikey_account_level_t *level, const apikey_account_limit_t *limit);
static void apikey_account_bucket(const apikey_account_t *v,
    const apikey_account_level_t *level, apikey_rate_t *rate,
    apikey_bucket_t *b);


void
apikey_account_edit(apikey_account_t *v, apikey_account_level_t *level,
    const apikey_account_limit_t *limit)
{
    uint64_t         end, tick;
    apikey_rate_t    old, rate;
    apikey_bucket_t  b;

    if (apikey_account_rolls(limit->rate.tick)) {
        v->dirty |= apikey_account_edit_rolling(v, level, limit);
        return;
    }

    rate = limit->rate;
    tick = limit->end ? 0 : rate.tick;

    if (level->token != rate.token || level->tick != tick
        || (tick && level->refill != rate.refill))
    {
        apikey_account_bucket(v, level, &old, &b);

        if (b.used == APIKEY_ACCOUNT_MAX) {
            b.used = limit->quota ? APIKEY_ACCOUNT_MAX : rate.capacity;

        } else {
            apikey_bucket_rescale(&b, &old, &rate, v->at);
        }

        level->used = b.used;
        level->token = rate.token;
        v->dirty = true;

        if (tick) {
            level->at = b.at;
            level->refill = rate.refill;

        } else if (level->tick) {
            level->at = apikey_account_end(v, limit);
            level->refill = apikey_account_out(v) ? v->generation : 0;
        }

        level->tick = tick;
    }

    if (tick == 0 && level->at > v->at) {
        end = apikey_account_end(v, limit);

        /* not back over an end that has been: it would restore twice */

        if (end != level->at && end > v->at && end > v->era) {
            level->at = end;
            level->refill = apikey_account_out(v) ? v->generation : 0;
            v->dirty = true;
        }
    }
}


static bool
apikey_account_edit_rolling(const apikey_account_t *v,
    apikey_account_level_t *level, const apikey_account_limit_t *limit)
{
    uint64_t         width, used, out;
    apikey_rate_t    old, rate;
    apikey_bucket_t  b;

    rate = limit->rate;
    width = apikey_rolling_width(rate.refill, rate.capacity);

    if (apikey_account_rolls(level->tick)) {

        if (level->refill == rate.refill && level->at == width) {
            return false;
        }

        level->refill = rate.refill;
        level->at = width;

        return true;
    }

    apikey_account_bucket(v, level, &old, &b);

    rate.refill = 0;
    rate.tick = 1;

    if (b.used == APIKEY_ACCOUNT_MAX) {
        b.used = rate.capacity;

    } else {
        apikey_bucket_rescale(&b, &old, &rate, v->at);
    }

    out = apikey_account_out(v);
    used = b.used > out ? b.used - out : 0;

    level->token = 1;
    level->tick = APIKEY_ACCOUNT_ROLLING;
    level->refill = limit->rate.refill;
    level->at = width;

    apikey_account_roll_set(v, level, v->at, used);

    return true;
}


/* A level as a bucket; of what is none, one that does not refill. */

static void
apikey_account_bucket(const apikey_account_t *v,
    const apikey_account_level_t *level, apikey_rate_t *rate,
    apikey_bucket_t *b)
{
    bool  refills;

    refills = level->tick && !apikey_account_rolls(level->tick);

    rate->token = level->token;
    rate->refill = refills ? level->refill : 0;
    rate->tick = refills ? level->tick : 1;
    rate->capacity = 0;

    b->used = level->used;
    b->at = refills ? level->at : v->at;
}


/* A limit that has gone makes room, if coming back it would be the same. */

bool
apikey_account_room(apikey_account_t *v)
{
    bool                     empty;
    unsigned                 i, n;
    apikey_account_level_t  *level;

    if (v->nlevels < APIKEY_ACCOUNT_LEVELS) {
        return true;
    }

    for (i = 0, n = 0; i < v->nlevels; i++) {
        level = &v->levels[i];

        if (level->tick == 0) {
            empty = level->at <= v->at;

        } else if (apikey_account_rolls(level->tick)) {
            empty = level->log.n == 0;

        } else {
            empty = level->used <= apikey_account_floor(v, level);
        }

        if (!empty || level->born != APIKEY_ACCOUNT_MAX) {
            v->levels[n++] = *level;
        }
    }

    v->nlevels = n;

    return n < APIKEY_ACCOUNT_LEVELS;
}
