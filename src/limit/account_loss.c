
/*
 * The value of an account: what may have been lost of it, and what is known
 * of it again.  limit/account.h says what a loss is; limit/account.c calls.
 */


#include <string.h>

#include "limit/account_private.h"


static void apikey_account_lose(apikey_account_t *v,
    const apikey_account_call_t *call, const apikey_account_limit_t *limit,
    uint64_t now);
static void apikey_account_keep(apikey_account_t *v,
    apikey_account_level_t *level);
static apikey_account_counter_t *apikey_account_kept_in(apikey_account_t *v,
    const apikey_account_level_t *level);


bool
apikey_account_older(const apikey_account_call_t *call)
{
    unsigned  i;

    for (i = 0; i < call->nlimits; i++) {

        if (call->limits[i].made < call->since) {
            return true;
        }
    }

    return false;
}


bool
apikey_account_touched(const apikey_account_t *v,
    const apikey_account_call_t *call)
{
    unsigned                       i, k;
    const apikey_account_level_t  *level;

    for (i = 0; i < call->nlimits; i++) {

        if (!call->limits[i].touched) {
            continue;
        }

        if (v->state != APIKEY_ACCOUNT_PRESENT) {
            return true;
        }

        level = apikey_account_level(v, call->limits[i].id);

        for (k = 0; level && k < v->nlevels; k++) {

            if (v->levels[k].born < level->born) {
                level = NULL;
            }
        }

        if (level && level->used == APIKEY_ACCOUNT_MAX && v->lost == 0) {
            return true;
        }
    }

    return false;
}


void
apikey_account_begin(apikey_account_t *v, const apikey_account_call_t *call,
    uint64_t now)
{
    bool      gone;
    unsigned  i;

    memset(v, 0, sizeof(apikey_account_t));

    v->state = APIKEY_ACCOUNT_PRESENT;
    v->at = now;
    v->lease = call->lease;
    v->generation = now / call->lease;
    v->born = now;
    v->era = now;
    v->epoch = call->epoch;

    for (i = 0, gone = false; i < call->nlimits; i++) {
        (void) apikey_account_add(v, call, &call->limits[i]);

        gone |= call->limits[i].quota && call->limits[i].made < call->gone;
    }

    if (gone && now <= call->gone + 2 * call->lease) {
        v->lost = now;
    }
}


void
apikey_account_forget(apikey_account_t *v, const apikey_account_call_t *call)
{
    unsigned                 i;
    apikey_account_level_t  *level;

    v->born = v->born < v->at ? v->at : v->born + 1;
    v->born = v->born > v->era ? v->born : v->era + 1;
    v->era = v->born;
    v->lost = v->at;
    v->dirty = true;

    for (i = 0; i < call->nlimits; i++) {
        level = apikey_account_find(v, call->limits[i].id);

        if (level && call->limits[i].quota) {
            apikey_account_keep(v, level);
            level->born = v->born;
        }
    }
}


void
apikey_account_lost(apikey_account_t *v, const apikey_account_call_t *call,
    uint64_t now)
{
    bool      absent;
    uint64_t  from, out;
    unsigned  i, n;

    absent = (v->state == APIKEY_ACCOUNT_ABSENT);
    from = v->state == APIKEY_ACCOUNT_UNREADABLE || call->since > now
           ? now : call->since;

    if (v->state != APIKEY_ACCOUNT_PRESENT) {
        memset(v, 0, sizeof(apikey_account_t));

        v->state = APIKEY_ACCOUNT_PRESENT;
        v->lease = call->lease;

    } else if (from < v->at) {
        from = v->at;
    }

    for (i = 0, n = 0; i < v->nlevels; i++) {

        if (apikey_account_mine(call, v->levels[i].id)) {
            v->levels[n++] = v->levels[i];
        }
    }

    out = apikey_account_ceiling(call);

    v->nlevels = n;
    v->nnodes = 0;
    v->at = from;
    v->lease = v->lease > call->lease ? v->lease : call->lease;
    v->generation = from / v->lease;
    v->out[0] = apikey_account_out(v) > out ? apikey_account_out(v) : out;
    v->out[1] = 0;
    v->born = v->born < now ? now : v->born + 1;
    v->era = v->born;
    v->epoch = call->epoch;
    v->lost = from;
    v->dirty = true;

    for (i = 0; i < call->nlimits; i++) {
        apikey_account_lose(v, call, &call->limits[i], now);
    }

    /* it may have gone long after from: whoever knows of use will say so */

    if (absent) {
        from = from > call->gone ? from : call->gone;
        v->lost = from + 2 * v->lease < now ? 0 : now;
    }
}


static void
apikey_account_lose(apikey_account_t *v, const apikey_account_call_t *call,
    const apikey_account_limit_t *limit, uint64_t now)
{
    apikey_account_level_t  *level;

    level = apikey_account_find(v, limit->id);

    if (level == NULL) {
        level = apikey_account_add(v, call, limit);

        /* nobody knows that it was not used in this period */

        if (level && level->tick == 0 && limit->end <= now) {
            level->at = limit->next;
        }

        return;
    }

    if (level->tick && !apikey_account_rolls(level->tick)
        && level->at < v->at)
    {
        level->at = v->at;
    }

    apikey_account_edit(v, level, limit);

    level->born = v->era;

    if (limit->quota) {
        apikey_account_keep(v, level);

    } else if (apikey_account_rolls(level->tick)) {
        apikey_account_roll_set(v, level, v->at,
                                level->log.sum > limit->rate.capacity
                                ? level->log.sum : limit->rate.capacity);

    } else if (level->used < limit->rate.capacity) {
        level->used = limit->rate.capacity;
    }
}


/*
 * Nobody knows how much was used, but no less than this: what runs, and what
 * is leased, was paid, and Postgres does not have it yet.
 */

static void
apikey_account_keep(apikey_account_t *v, apikey_account_level_t *level)
{
    apikey_account_counter_t  *e;

    if (level->used == APIKEY_ACCOUNT_MAX) {
        return;
    }

    e = apikey_account_kept_in(v, level);

    if (e == NULL) {
        e = apikey_account_place(v);
        e->id = APIKEY_ACCOUNT_KEPT(level->id);
    }

    e->number = 1;
    e->sum = (int64_t) (level->used / level->token
                        + (level->used % level->token != 0));
    e->era = v->lost;
    e->part = level->tick ? 0 : (int64_t) level->at;
    e->at = v->at + APIKEY_ACCOUNT_PERIOD;

    level->used = APIKEY_ACCOUNT_MAX;
}


uint64_t
apikey_account_kept(apikey_account_t *v, const apikey_account_level_t *level)
{
    uint64_t                   tokens;
    apikey_account_counter_t  *e;

    e = apikey_account_kept_in(v, level);

    if (e == NULL) {
        return 0;
    }

    tokens = e->part == (level->tick ? 0 : (int64_t) level->at)
             ? (uint64_t) e->sum : 0;

    *e = v->counters[--v->ncounters];

    return apikey_account_times(tokens, level->token);
}


static apikey_account_counter_t *
apikey_account_kept_in(apikey_account_t *v,
    const apikey_account_level_t *level)
{
    unsigned  i;

    for (i = 0; i < v->ncounters; i++) {

        if (v->counters[i].id == APIKEY_ACCOUNT_KEPT(level->id)) {
            return &v->counters[i];
        }
    }

    return NULL;
}


uint64_t
apikey_account_until(const apikey_account_t *v,
    const apikey_account_call_t *call, const apikey_account_limit_t *limit)
{
    uint64_t  from;

    from = limit->made < v->lost ? v->lost : 0;

    if (limit->made < call->since && from < call->since) {
        from = call->since;
    }

    if (limit->made < call->gone && from < call->gone) {
        from = call->gone;
    }

    return from ? (from / v->lease + 2) * v->lease : 0;
}
