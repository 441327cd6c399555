
/*
 * The value of an account: what LEASE and TAKE do with it once its levels
 * are those of now.  limit/account.h says what each step does.
 */


#include "limit/account_private.h"


static void apikey_account_busy(apikey_account_t *v, uint64_t busy);
static bool apikey_account_settle(apikey_account_t *v,
    const apikey_account_call_t *call, const apikey_account_ask_t *ask);
static uint64_t apikey_account_whole(apikey_account_t *v,
    const apikey_account_call_t *call);
static bool apikey_account_passes(apikey_account_t *v,
    const apikey_account_limit_t *limit, uint64_t cost);
static void apikey_account_seen(apikey_account_t *v, uint64_t node);
static void apikey_account_grant(apikey_account_t *v,
    const apikey_account_call_t *call, const apikey_account_ask_t *ask,
    apikey_account_grant_t *grant);
static uint64_t apikey_account_share(const apikey_account_call_t *call,
    uint64_t active);
static uint64_t apikey_account_round(apikey_account_t *v,
    const apikey_account_call_t *call, uint64_t left, uint64_t need);
static uint64_t apikey_account_life(const apikey_account_t *v);


void
apikey_account_lease(apikey_account_t *v, const apikey_account_call_t *call,
    const apikey_account_ask_t *ask, uint64_t now,
    apikey_account_grant_t *grant)
{
    unsigned                 i;
    apikey_account_level_t  *level;

    apikey_account_open(v, call, now);

    grant->kept = apikey_account_settle(v, call, ask);

    apikey_account_counter(v, call);

    if (!apikey_account_charges(call)) {
        apikey_account_seen(v, ask->node);
    }

    apikey_account_slots(v, call);
    apikey_account_grant(v, call, ask, grant);

    for (i = 0; grant->granted && i < call->nlimits; i++) {
        level = apikey_account_find(v, call->limits[i].id);
        level->used += grant->granted * level->token;
    }

    v->out[0] += grant->granted;

    apikey_account_slots(v, call);

    grant->generation = v->generation;
    grant->born = v->born;
    grant->era = v->era;
    grant->life = apikey_account_life(v);
}


bool
apikey_account_fits(apikey_account_t *v, const apikey_account_call_t *call,
    uint64_t *cost, uint64_t now)
{
    uint64_t  least;
    unsigned  i;

    apikey_account_open(v, call, now);
    apikey_account_counter(v, call);

    if (*cost == 0) {
        return true;
    }

    least = *cost;

    if (least == APIKEY_ACCOUNT_WHOLE) {
        *cost = apikey_account_whole(v, call);
        least = *cost ? *cost : 1;
    }

    for (i = 0; i < call->nlimits; i++) {

        if (!apikey_account_passes(v, &call->limits[i], least)) {
            return false;
        }
    }

    return true;
}


/* What all strict limits have left. */

static uint64_t
apikey_account_whole(apikey_account_t *v, const apikey_account_call_t *call)
{
    uint64_t  left, least;
    unsigned  i;

    least = APIKEY_ACCOUNT_WHOLE;

    for (i = 0; i < call->nlimits; i++) {

        if (call->limits[i].mode == APIKEY_ACCOUNT_STRICT) {
            left = apikey_account_avail(v, &call->limits[i]);
            least = left < least ? left : least;
        }
    }

    return least == APIKEY_ACCOUNT_WHOLE ? 0 : least;
}


static bool
apikey_account_passes(apikey_account_t *v,
    const apikey_account_limit_t *limit, uint64_t cost)
{
    if (limit->mode == APIKEY_ACCOUNT_OBSERVE) {
        return true;
    }

    return apikey_account_avail(v, limit)
           >= (limit->mode == APIKEY_ACCOUNT_TRIM ? 1 : cost);
}


void
apikey_account_pay(apikey_account_t *v, const apikey_account_call_t *call,
    uint64_t cost)
{
    unsigned                 i;
    apikey_account_level_t  *level;

    for (i = 0; cost && i < call->nlimits; i++) {
        level = apikey_account_find(v, call->limits[i].id);

        if (level) {
            apikey_account_credit(v, level, -(int64_t) cost);
        }
    }
}


uint64_t
apikey_account_ceiling(const apikey_account_call_t *call)
{
    uint64_t  tokens, least;
    unsigned  i;

    least = APIKEY_ACCOUNT_MAX;

    for (i = 0; i < call->nlimits; i++) {
        tokens = call->limits[i].rate.capacity / call->limits[i].rate.token;
        least = tokens < least ? tokens : least;
    }

    return call->slots ? least : least / 2;
}


void
apikey_account_slots(apikey_account_t *v, const apikey_account_call_t *call)
{
    unsigned  i;

    for (i = 0; i < v->nlevels; i++) {

        if (call->slots) {
            v->levels[i].used = apikey_account_floor(v, &v->levels[i]);

        } else if (apikey_account_rolls(v->levels[i].tick)) {
            apikey_account_roll(v, &v->levels[i]);
        }
    }
}


/* Nothing above MAX can be written, and none needs to be: it is all. */

static void
apikey_account_busy(apikey_account_t *v, uint64_t busy)
{
    uint64_t  out, room;

    out = apikey_account_out(v);
    room = out < APIKEY_ACCOUNT_MAX ? APIKEY_ACCOUNT_MAX - out : 0;

    v->out[0] += busy < room ? busy : room;
}


static bool
apikey_account_settle(apikey_account_t *v, const apikey_account_call_t *call,
    const apikey_account_ask_t *ask)
{
    uint64_t   tokens, *out;
    unsigned   i;

    tokens = ask->spent + ask->returned + ask->kept;

    if (ask->born == 0 || ask->born != v->born
        || (ask->generation != v->generation
            && ask->generation + 1 != v->generation))
    {
        apikey_account_busy(v, ask->busy);
        return false;
    }

    out = &v->out[v->generation - ask->generation];

    if (*out < tokens) {
        apikey_account_busy(v, ask->busy);
        return false;
    }

    apikey_account_spent(v, ask->spent, v->at);

    *out -= tokens;
    v->out[0] += ask->kept;

    for (i = 0; ask->returned && i < v->nlevels; i++) {

        if (apikey_account_mine(call, v->levels[i].id)) {
            apikey_account_credit(v, &v->levels[i], ask->returned);
        }
    }

    return true;
}


static void
apikey_account_seen(apikey_account_t *v, uint64_t node)
{
    unsigned  i, n;

    for (i = 0, n = 0; i < v->nnodes; i++) {

        if (v->nodes[i].id != node
            && v->nodes[i].seen + 1 >= v->generation
            && n < APIKEY_ACCOUNT_NODES - 1)
        {
            v->nodes[n++] = v->nodes[i];
        }
    }

    v->nodes[n].id = node;
    v->nodes[n].seen = v->generation;
    v->nnodes = n + 1;
}


static void
apikey_account_grant(apikey_account_t *v, const apikey_account_call_t *call,
    const apikey_account_ask_t *ask, apikey_account_grant_t *grant)
{
    uint64_t  avail, left, some, least, tokens;
    unsigned  i;

    left = apikey_account_ceiling(call);
    avail = left > apikey_account_out(v) ? left - apikey_account_out(v) : 0;

    for (i = 0; i < call->nlimits; i++) {
        tokens = apikey_account_avail(v, &call->limits[i]);
        avail = tokens < avail ? tokens : avail;
    }

    grant->active = v->nnodes;
    grant->granted = 0;
    grant->hold = 0;

    if (ask->want == 0 || apikey_account_charges(call)) {
        return;
    }

    some = apikey_account_share(call, grant->active);
    least = ask->least > some ? ask->least : some;

    if (avail >= (some < ask->want ? some : ask->want)
        && avail >= ask->least)
    {
        tokens = avail / (2 * grant->active);
        tokens = tokens < least ? least : tokens;
        tokens = tokens < avail ? tokens : avail;
        grant->granted = tokens < ask->want ? tokens : ask->want;
    }

    tokens = least < ask->want ? least : ask->want;
    tokens = apikey_account_times(tokens, grant->active);

    if (grant->granted < ask->want && avail - grant->granted < tokens) {
        grant->hold = apikey_account_round(v, call, grant->granted, tokens);
    }
}


uint64_t
apikey_account_avail(apikey_account_t *v, const apikey_account_limit_t *limit)
{
    uint64_t                 capacity;
    apikey_account_level_t  *level;

    level = apikey_account_find(v, limit->id);
    capacity = limit->rate.capacity;

    if (level == NULL || level->used >= capacity
        || (level->tick == 0 && level->at <= v->at))
    {
        return 0;
    }

    return (capacity - level->used) / level->token;
}


/* b: what a node gets at least, or nothing. */

static uint64_t
apikey_account_share(const apikey_account_call_t *call, uint64_t active)
{
    uint64_t              some, tokens;
    unsigned              i;
    const apikey_rate_t  *rate;

    some = APIKEY_ACCOUNT_MAX;

    for (i = 0; i < call->nlimits; i++) {
        rate = &call->limits[i].rate;

        tokens = rate->capacity / rate->token / (4 * active);
        some = tokens < some ? tokens : some;

        tokens = apikey_account_rolls(rate->tick)
                 ? apikey_account_times(rate->capacity, APIKEY_ACCOUNT_ROUND)
                   / rate->refill
                 : apikey_account_times(rate->refill, APIKEY_ACCOUNT_ROUND)
                   / rate->tick / rate->token;
        tokens /= active;

        if (!call->limits[i].quota) {
            some = tokens < some ? tokens : some;
        }
    }

    return some ? some : 1;
}


static uint64_t
apikey_account_round(apikey_account_t *v, const apikey_account_call_t *call,
    uint64_t granted, uint64_t need)
{
    uint64_t              us, all, least;
    unsigned              i;
    const apikey_rate_t  *rate;

    all = 0;
    least = 4 * v->lease;

    for (i = 0; i < call->nlimits; i++) {
        rate = &call->limits[i].rate;
        us = v->lease;

        if (rate->refill && !apikey_account_rolls(rate->tick)) {
            us = apikey_account_times(need, rate->token) / rate->refill;
            us = apikey_account_times(us, rate->tick);
            us = us < 4 * v->lease ? us : 4 * v->lease;
        }

        if (apikey_account_avail(v, &call->limits[i]) < granted + need) {
            all = us > all ? us : all;
        }

        least = us < least ? us : least;
    }

    return all ? all : least;
}


static uint64_t
apikey_account_life(const apikey_account_t *v)
{
    uint64_t                       us;
    unsigned                       i;
    const apikey_account_level_t  *level;

    us = v->lease;

    for (i = 0; i < v->nlevels; i++) {
        level = &v->levels[i];

        if (level->tick == 0 && level->at > v->at && level->at - v->at < us) {
            us = level->at - v->at;
        }
    }

    return us;
}
