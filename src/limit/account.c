
/*
 * The value of an account: its levels carried on in time, over the ends of
 * generations and periods, and through edits; account_loss.c knows what may
 * be lost of it.  limit/account.h says what each step does, and
 * limit/account_lease.c spends.
 */


#include <string.h>

#include "limit/account_private.h"


#define APIKEY_ACCOUNT_SKEW  1000000      /* us */


static void apikey_account_back(apikey_account_t *v, uint64_t now);
static uint64_t apikey_account_event(const apikey_account_t *v, uint64_t now);
static bool apikey_account_young(const apikey_account_t *v,
    const apikey_account_level_t *level);
static void apikey_account_refill(apikey_account_t *v,
    apikey_account_level_t *level, uint64_t now);
static void apikey_account_time(apikey_account_t *v,
    const apikey_account_call_t *call);
static bool apikey_account_limit(apikey_account_t *v,
    const apikey_account_call_t *call, const apikey_account_limit_t *limit);
static void apikey_account_over(apikey_account_t *v,
    apikey_account_level_t *level, const apikey_account_limit_t *limit);


void
apikey_account_open(apikey_account_t *v, const apikey_account_call_t *call,
    uint64_t now)
{
    bool      known, missed;
    unsigned  i;

    missed = apikey_account_missed(v, call, now);

    if (apikey_account_touched(v, call)) {
        v->state = APIKEY_ACCOUNT_UNREADABLE;
    }

    if (v->state == APIKEY_ACCOUNT_ABSENT && !apikey_account_older(call)) {
        apikey_account_begin(v, call, now);

    } else if (v->state != APIKEY_ACCOUNT_PRESENT
               || (v->epoch != call->epoch
                   && (call->moved == 0 || v->at <= call->moved)))
    {
        apikey_account_lost(v, call, now);
    }

    v->epoch = call->epoch;

    apikey_account_advance(v, now);
    apikey_account_time(v, call);

    for (i = 0; i < v->nlevels; i++) {

        if (!apikey_account_mine(call, v->levels[i].id)) {
            v->levels[i].born = APIKEY_ACCOUNT_MAX;
        }
    }

    if (missed) {
        apikey_account_forget(v, call);
    }

    for (i = 0, known = false; i < call->nlimits; i++) {
        known |= apikey_account_limit(v, call, &call->limits[i]);
    }

    /* what was charged before is in the answer, or comes too late for it */

    if (known) {
        v->lost = v->at;
        v->era = v->at > v->era ? v->at : v->era + 1;
    }

    apikey_account_slots(v, call);
}


void
apikey_account_advance(apikey_account_t *v, uint64_t now)
{
    bool      young;
    uint64_t  then;
    unsigned  i;

    if (now <= v->at) {
        apikey_account_back(v, now);
        return;
    }

    while ((then = apikey_account_event(v, now)) <= now) {
        young = false;

        for (i = 0; i < v->nlevels; i++) {
            apikey_account_refill(v, &v->levels[i], then);
            young |= apikey_account_young(v, &v->levels[i])
                     && v->levels[i].at == then;
        }

        if (then == (v->generation + 1) * v->lease) {
            apikey_account_spent(v, v->out[1], then);

            v->out[1] = v->out[0];
            v->out[0] = 0;
            v->generation++;
        }

        for (i = 0; i < v->nlevels; i++) {

            if (v->levels[i].tick == 0 && v->levels[i].at == then
                && v->at < then)
            {
                v->era = then;

                if (!young) {
                    apikey_account_spent(v, apikey_account_out(v), then);

                    v->out[0] = 0;
                    v->out[1] = 0;
                    v->born = then;
                }
            }
        }

        v->at = then;
    }

    for (i = 0; i < v->nlevels; i++) {
        apikey_account_refill(v, &v->levels[i], now);
    }

    v->at = now;
    v->generation = now / v->lease;
}


/* A clock that went back by little waits; by more, all starts from there. */

static void
apikey_account_back(apikey_account_t *v, uint64_t now)
{
    unsigned                 i;
    apikey_account_level_t  *level;

    if (v->at <= now + APIKEY_ACCOUNT_SKEW) {
        return;
    }

    v->out[0] = apikey_account_out(v);
    v->out[1] = 0;
    v->at = now;
    v->generation = now / v->lease;
    v->born++;
    v->lost = v->lost > now ? now : v->lost;
    v->dirty = true;

    for (i = 0; i < v->nlevels; i++) {
        level = &v->levels[i];

        if (level->tick == 0) {
            level->refill = v->generation;

        } else if (apikey_account_rolls(level->tick)) {
            apikey_rolling_back(&level->log, now);

        } else if (level->at > now + APIKEY_ACCOUNT_SKEW) {
            level->at = now;
        }
    }
}


/* The next end of a generation or a period; NEVER: none until now. */

static uint64_t
apikey_account_event(const apikey_account_t *v, uint64_t now)
{
    uint64_t                       then;
    unsigned                       i;
    const apikey_account_level_t  *level;

    then = APIKEY_BUCKET_NEVER;

    if (apikey_account_out(v)) {
        then = (v->generation + 1) * v->lease;
    }

    for (i = 0; i < v->nlevels; i++) {
        level = &v->levels[i];

        if (level->tick == 0 && level->at > v->at && level->at < then) {
            then = level->at;
        }
    }

    return then <= now ? then : APIKEY_BUCKET_NEVER;
}


/* Tokens may live that were granted when this period did not cut leases. */

static bool
apikey_account_young(const apikey_account_t *v,
    const apikey_account_level_t *level)
{
    return level->tick == 0 && level->refill + 2 > v->generation
           && apikey_account_out(v);
}


static void
apikey_account_refill(apikey_account_t *v, apikey_account_level_t *level,
    uint64_t now)
{
    uint64_t         floor;
    apikey_rate_t    rate;
    apikey_bucket_t  b;

    if (level->tick == 0) {
        return;
    }

    if (apikey_account_rolls(level->tick)) {
        apikey_rolling_pass(&level->log, level->refill, now);
        apikey_account_roll(v, level);
        return;
    }

    rate.token = level->token;
    rate.refill = level->refill;
    rate.tick = level->tick;
    rate.capacity = 0;

    b.used = level->used;
    b.at = level->at;

    apikey_bucket_refill(&b, &rate, now);

    floor = apikey_account_floor(v, level);

    level->used = b.used >= floor ? b.used
                  : level->used < floor ? level->used : floor;
    level->at = b.at;
}


/* Another lease time, when no lease is left that counts by the old one. */

static void
apikey_account_time(apikey_account_t *v, const apikey_account_call_t *call)
{
    unsigned  i;

    if (v->lease == call->lease || apikey_account_out(v)) {
        return;
    }

    v->lease = call->lease;
    v->generation = v->at / v->lease;
    v->nnodes = 0;
    v->born++;

    for (i = 0; i < v->nlevels; i++) {

        if (v->levels[i].tick == 0) {
            v->levels[i].refill = 0;
        }
    }
}


/* true: a quota is known again. */

static bool
apikey_account_limit(apikey_account_t *v, const apikey_account_call_t *call,
    const apikey_account_limit_t *limit)
{
    uint64_t                 used, out, kept;
    apikey_account_level_t  *level;

    level = apikey_account_find(v, limit->id);

    if (level == NULL) {
        level = apikey_account_add(v, call, limit);
        if (level == NULL) {
            return false;
        }

        /* the time that Postgres is asked about is to stand still */

        v->dirty |= limit->quota && v->lost;

    } else {
        apikey_account_edit(v, level, limit);

        if (level->born == APIKEY_ACCOUNT_MAX) {
            v->era = v->at > v->era ? v->at : v->era + 1;
            level->born = v->era;
            v->dirty |= limit->quota && v->lost;
        }
    }

    apikey_account_over(v, level, limit);

    if (apikey_account_rolls(level->tick)) {
        apikey_account_roll_settle(v, level, limit);
        return false;
    }

    if (level->used != APIKEY_ACCOUNT_MAX) {
        (void) apikey_account_kept(v, level);
        return false;
    }

    if (!limit->quota || limit->known == APIKEY_ACCOUNT_UNKNOWN
        || (v->lost && v->generation < v->lost / v->lease + 2)
        || call->complete < apikey_account_until(v, call, limit))
    {
        return false;
    }

    out = apikey_account_floor(v, level);
    used = apikey_account_times(limit->known, level->token);

    used = used < APIKEY_ACCOUNT_MAX - out ? used + out
                                           : APIKEY_ACCOUNT_MAX - 1;

    /* what runs was paid, and Postgres has it when it has ended */

    kept = apikey_account_kept(v, level);
    kept = kept < APIKEY_ACCOUNT_MAX ? kept : APIKEY_ACCOUNT_MAX - 1;

    level->used = used > kept ? used : kept;
    v->dirty = true;

    return v->lost && level->born == v->born;
}


apikey_account_level_t *
apikey_account_add(apikey_account_t *v, const apikey_account_call_t *call,
    const apikey_account_limit_t *limit)
{
    uint64_t                 from;
    apikey_account_level_t  *level;

    if (!apikey_account_room(v)) {
        return NULL;
    }

    if (v->nlevels && v->born < v->at) {
        v->era = v->at > v->era ? v->at : v->era + 1;
    }

    level = &v->levels[v->nlevels++];

    level->id = limit->id;
    level->at = v->at;
    level->token = limit->rate.token;
    level->refill = limit->rate.refill;
    level->tick = limit->rate.tick;
    level->born = v->at > v->era ? v->at : v->era;
    level->used = apikey_account_floor(v, level);
    level->log.sum = 0;
    level->log.n = 0;

    if (limit->quota) {
        level->used = APIKEY_ACCOUNT_MAX;
    }

    if (limit->end) {
        level->at = apikey_account_end(v, limit);
        level->refill = apikey_account_out(v) ? v->generation : 0;
        level->tick = 0;
        return level;
    }

    from = v->lost > call->since ? v->lost : call->since;
    from = from > v->at ? v->at : from;

    if (apikey_account_rolls(level->tick)) {
        level->at = apikey_rolling_width(limit->rate.refill,
                                         limit->rate.capacity);

        if (limit->made < from) {
            apikey_account_roll_set(v, level, from, limit->rate.capacity);
            apikey_account_refill(v, level, v->at);
        }

        return level;
    }

    if (!limit->quota && limit->made < from) {

        if (level->used < limit->rate.capacity) {
            level->used = limit->rate.capacity;
        }

        level->at = from;
        apikey_account_refill(v, level, v->at);
    }

    return level;
}


static void
apikey_account_over(apikey_account_t *v, apikey_account_level_t *level,
    const apikey_account_limit_t *limit)
{
    uint64_t  end, rest, floor;

    if (level->tick || level->at > v->at) {
        return;
    }

    end = apikey_account_end(v, limit);

    if (end <= v->at) {
        return;                     /* whose calendar ends before: it waits */
    }

    rest = limit->fill < limit->rate.capacity
           ? limit->rate.capacity - limit->fill : 0;
    floor = apikey_account_floor(v, level);

    /* what began before the loss may have been used in part */

    if (level->used != APIKEY_ACCOUNT_MAX || level->at > v->lost) {
        level->used = level->used < rest ? level->used : rest;
        level->used = level->used < floor ? floor : level->used;
        level->born = v->at;
    }

    level->at = end;
    level->refill = apikey_account_out(v) ? v->generation : 0;
}
