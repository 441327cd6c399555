
/*
 * The value of an account: what settlements and charges change, each counted
 * once by a cumulative counter for whoever tells it.  limit/account.h says
 * what a counter is.
 */


#include "limit/account_private.h"


static void apikey_account_charge(apikey_account_t *v,
    const apikey_account_call_t *call, int64_t tokens);
static bool apikey_account_before_loss(const apikey_account_t *v,
    const apikey_account_call_t *call, const apikey_account_level_t *level);
static bool apikey_account_owes(const apikey_account_t *v,
    const apikey_account_call_t *call, const apikey_account_level_t *level,
    bool charge);
static const apikey_account_limit_t *apikey_account_charged(
    const apikey_account_call_t *call, uint64_t now);
static apikey_account_counter_t *apikey_account_entry(apikey_account_t *v,
    const apikey_account_call_t *call);
static bool apikey_account_before(const apikey_account_counter_t *one,
    const apikey_account_counter_t *other);


void
apikey_account_counter(apikey_account_t *v, const apikey_account_call_t *call)
{
    int64_t                        all, part, n;
    unsigned                       i;
    apikey_account_level_t        *level;
    const apikey_account_sums_t   *sums;
    apikey_account_counter_t      *e;

    sums = &call->sums;

    if (sums->number == 0) {
        return;
    }

    for (i = 0; i < v->ncounters; i++) {

        if (v->counters[i].at + call->horizon < v->at) {
            v->counters[i--] = v->counters[--v->ncounters];
        }
    }

    e = apikey_account_entry(v, call);

    if (e == NULL || e->number >= sums->number) {
        return;
    }

    all = sums->sum - e->sum;
    part = sums->part - (e->era == sums->era ? e->part : 0);
    part = sums->era == v->era ? part : 0;

    if (apikey_account_charges(call)) {
        apikey_account_charge(v, call, sums->sum - e->sum);
    }

    for (i = 0; !apikey_account_charges(call) && i < v->nlevels; i++) {
        level = &v->levels[i];

        if (level->born != APIKEY_ACCOUNT_MAX
            && !apikey_account_rolls(level->tick))
        {
            n = apikey_account_before_loss(v, call, level) ? 0 : all;

            apikey_account_credit(v, level,
                                  apikey_account_owes(v, call, level,
                                                      n < part) ? n : part);
        }
    }

    e->number = sums->number;
    e->sum = sums->sum;
    e->era = sums->era;
    e->part = sums->part;
    e->at = v->at;

    v->dirty = true;
}


/*
 * tokens < 0: admitted without Redis and not charged yet.  Of what was lost
 * since it is not known how much of that went with it: a bucket is no emptier
 * than empty, and a quota was missed().
 */

static void
apikey_account_charge(apikey_account_t *v, const apikey_account_call_t *call,
    int64_t tokens)
{
    int64_t                        left;
    apikey_account_level_t        *level;
    const apikey_account_limit_t  *limit;

    limit = apikey_account_charged(call, v->at);
    level = limit ? apikey_account_find(v, limit->id) : NULL;

    if (level == NULL) {
        return;
    }

    if (call->sums.era < v->lost) {
        left = limit->quota ? 0 : (int64_t) apikey_account_avail(v, limit);
        tokens = tokens > 0 ? 0 : tokens < -left ? -left : tokens;
    }

    apikey_account_credit(v, level, tokens);
}


/*
 * Its node has not heard of the loss, and what it has admitted since may have
 * come to Postgres after the answer that the level began with.  What comes
 * before that answer is in it: until two generations after the loss none
 * counts, and then it has to be of all nodes.  Or it is in doubt: it may have
 * been here, and its entry be forgotten.
 */

bool
apikey_account_missed(apikey_account_t *v, const apikey_account_call_t *call,
    uint64_t now)
{
    bool                           doubt;
    int64_t                        sum;
    uint64_t                       then;
    unsigned                       i;
    apikey_account_level_t        *level;
    const apikey_account_sums_t   *sums;
    const apikey_account_limit_t  *limit;

    sums = &call->sums;

    if (v->state != APIKEY_ACCOUNT_PRESENT || sums->number == 0
        || !apikey_account_charges(call))
    {
        return false;
    }

    sum = sums->acked;
    doubt = sums->doubt;
    then = v->at > now ? v->at : now;

    for (i = 0; i < v->ncounters; i++) {

        if (v->counters[i].id == sums->node) {
            sum = v->counters[i].number < sums->number ? v->counters[i].sum
                                                       : sums->sum;
            doubt = doubt && v->counters[i].at + call->horizon < then;
        }
    }

    limit = apikey_account_charged(call, now);

    if (limit == NULL || !limit->quota || (sums->sum == sum && !doubt)) {
        return false;
    }

    level = apikey_account_find(v, limit->id);

    if (level == NULL) {
        return false;
    }

    return level->used == APIKEY_ACCOUNT_MAX
           ? v->lost && now / v->lease >= v->lost / v->lease + 2
           : doubt || sums->era < v->lost;
}


/* The limit that a charge is of; NULL: none of the call, or it is over. */

static const apikey_account_limit_t *
apikey_account_charged(const apikey_account_call_t *call, uint64_t now)
{
    const apikey_account_sums_t  *sums = &call->sums;

    if ((uint64_t) sums->part >= call->nlimits
        || (sums->part_acked >= 0 && (uint64_t) sums->part_acked <= now))
    {
        return NULL;
    }

    return &call->limits[sums->part];
}


/* It has lost what is settled, and who settles does not know. */

static bool
apikey_account_before_loss(const apikey_account_t *v,
    const apikey_account_call_t *call, const apikey_account_level_t *level)
{
    const apikey_account_limit_t  *limit;

    if (call->sums.era >= v->lost) {
        return false;
    }

    limit = apikey_account_mine(call, level->id);

    return level->born >= v->lost || limit == NULL || limit->quota;
}


/*
 * A level that paid for all that is settled; or whose limit would have, and
 * the value it was in went away full: it takes charges, and gives nothing.
 */

static bool
apikey_account_owes(const apikey_account_t *v,
    const apikey_account_call_t *call, const apikey_account_level_t *level,
    bool charge)
{
    const apikey_account_limit_t  *limit;

    if (level->born + call->horizon < v->at) {
        return true;
    }

    limit = apikey_account_mine(call, level->id);

    return charge && level->tick && limit
           && limit->made + call->horizon < v->at;
}


/* NULL: there is none, and what it would say is acknowledged. */

static apikey_account_counter_t *
apikey_account_entry(apikey_account_t *v, const apikey_account_call_t *call)
{
    unsigned                      i;
    apikey_account_counter_t     *e;
    const apikey_account_sums_t  *sums;

    sums = &call->sums;

    for (i = 0; i < v->ncounters; i++) {

        if (v->counters[i].id == sums->node) {
            return &v->counters[i];
        }
    }

    /* in doubt its number has to be there before an older call comes */

    if (!sums->doubt && sums->sum == sums->acked
        && sums->part == sums->part_acked)
    {
        return NULL;
    }

    e = apikey_account_place(v);

    e->id = sums->node;
    e->number = 0;
    e->sum = sums->acked;
    e->era = sums->era;
    e->part = sums->part_acked;

    return e;
}


apikey_account_counter_t *
apikey_account_place(apikey_account_t *v)
{
    unsigned  i, last;

    if (v->ncounters < APIKEY_ACCOUNT_COUNTERS) {
        return &v->counters[v->ncounters++];
    }

    for (i = 1, last = 0; i < v->ncounters; i++) {

        if (apikey_account_before(&v->counters[i], &v->counters[last])) {
            last = i;
        }
    }

    return &v->counters[last];
}


/*
 * Which one has to go for another: one of a charge, which is charged twice at
 * worst, before one of a settlement, which would give twice; then the older.
 */

static bool
apikey_account_before(const apikey_account_counter_t *one,
    const apikey_account_counter_t *other)
{
    bool  charge;

    charge = (one->id & APIKEY_ACCOUNT_CHARGE) != 0;

    if (charge != ((other->id & APIKEY_ACCOUNT_CHARGE) != 0)) {
        return charge;
    }

    return one->at < other->at;
}


void
apikey_account_credit(apikey_account_t *v, apikey_account_level_t *level,
    int64_t tokens)
{
    uint64_t  units, floor;

    if (tokens == 0 || level->used == APIKEY_ACCOUNT_MAX) {
        return;
    }

    if (apikey_account_rolls(level->tick)) {

        if (tokens < 0) {
            apikey_rolling_add(&level->log, level->at, v->at, -tokens);
            apikey_account_roll(v, level);
        }

        return;
    }

    if (tokens < 0) {
        units = apikey_account_times(-tokens, level->token);
        level->used = units < APIKEY_ACCOUNT_MAX - level->used
                      ? level->used + units : APIKEY_ACCOUNT_MAX - 1;
        return;
    }

    /*
     * Of what refills a part may have refilled that is out.  What does not
     * was charged with all of it: it comes back though its node has not told
     * yet that it is spent.
     */

    floor = level->tick && level->refill ? apikey_account_floor(v, level) : 0;

    if (level->used <= floor) {
        return;
    }

    units = apikey_account_times(tokens, level->token);

    level->used = units < level->used - floor ? level->used - units : floor;
}
