
/*
 * The value of an account: what is told of it, and how long it is kept.
 */


#include "limit/account_private.h"


uint64_t
apikey_account_expire(const apikey_account_t *v, uint64_t horizon,
    uint64_t now)
{
    uint64_t                       us, least;
    unsigned                       i;
    apikey_rate_t                  rate;
    apikey_bucket_t                b;
    const apikey_account_level_t  *level;

    least = 0;

    for (i = 0; i < v->nlevels; i++) {
        level = &v->levels[i];

        if (level->tick == 0) {
            us = (level->at > now ? level->at - now : 0)
                 + APIKEY_ACCOUNT_PERIOD;

        } else if (apikey_account_rolls(level->tick)) {
            us = apikey_rolling_free(&level->log, level->refill, 0);
            us = us > now ? us - now : 0;

        } else {
            rate.token = level->token;
            rate.refill = level->refill;
            rate.tick = level->tick;

            b.used = level->used;
            b.at = level->at;

            us = apikey_bucket_reset(&b, &rate, now);

            if (us == APIKEY_BUCKET_NEVER
                || us >= APIKEY_ACCOUNT_MAX - now - 2 * v->lease)
            {
                return APIKEY_BUCKET_NEVER;
            }
        }

        least = us > least ? us : least;
    }

    least += 2 * v->lease;

    return v->ncounters && least < horizon ? horizon : least;
}


const apikey_account_level_t *
apikey_account_level(const apikey_account_t *v, uint64_t id)
{
    return apikey_account_find((apikey_account_t *) v, id);
}


uint64_t
apikey_account_when(const apikey_account_t *v,
    const apikey_account_level_t *level, const apikey_account_limit_t *limit,
    uint64_t cost)
{
    uint64_t  out, room, end, least;

    if (!apikey_account_rolls(level->tick)) {
        return level->at;
    }

    if (limit->mode == APIKEY_ACCOUNT_OBSERVE) {
        cost = 0;

    } else if (limit->mode == APIKEY_ACCOUNT_TRIM && cost) {
        cost = 1;
    }

    room = 0;
    least = v->at;

    if (cost && cost <= limit->rate.capacity
        && level->used > limit->rate.capacity - cost)
    {
        room = limit->rate.capacity - cost;
        out = apikey_account_out(v);
        least = room < out ? v->at + v->lease : v->at + 1;
        room = room > out ? room - out : 0;
    }

    end = apikey_rolling_free(&level->log, level->refill, room);

    return end > least ? end : least;
}
