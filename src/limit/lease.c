
/*
 * Leases of a node: spending, holding, asking for more, giving back.
 *
 * Debit first, credit last: a worker that dies between two lines loses tokens
 * and makes none.
 */


#include "limit/lease.h"


#define APIKEY_LEASE_SHORT  4            /* holds: quarters, then halves */
#define APIKEY_LEASE_SLOW   10           /* requests a second: refilled */
#define APIKEY_LEASE_FREED  100          /* ... of all nodes: each returns its
                                            slot */


static uint64_t apikey_lease_goal(const apikey_lease_t *lease,
    const apikey_lease_conf_t *conf, bool back, int64_t now);
static bool apikey_lease_direct(const apikey_claim_t *claim);
static bool apikey_lease_scarce(const apikey_lease_t *lease,
    const apikey_lease_conf_t *conf, double demand);
static int64_t apikey_lease_wait(apikey_lease_t *lease, uint64_t hold,
    uint64_t jitter, int64_t now);
static void apikey_lease_take(apikey_claim_t *claim, apikey_claim_e state);
static void apikey_lease_spend(apikey_claim_t *claim);
static bool apikey_lease_good(const apikey_claim_t *claim, int64_t now);
static void apikey_lease_drop(apikey_lease_t *lease);


apikey_lease_decision_e
apikey_lease_decide(apikey_claim_t *claims, unsigned n, int64_t now)
{
    unsigned         i, missing, direct;
    apikey_claim_t  *c;

    missing = 0;
    direct = 0;

    for (i = 0; i < n; i++) {
        c = &claims[i];

        if (c->cost == 0) {
            c->state = APIKEY_CLAIM_NONE;

        } else if (c->lease->left >= c->cost && now < c->lease->deadline) {
            c->state = APIKEY_CLAIM_LEASED;

        } else if (apikey_lease_direct(c)) {
            c->state = APIKEY_CLAIM_DIRECT;
            direct++;

        } else if (now < c->lease->hold) {
            return APIKEY_LEASE_REFUSED;

        } else {
            c->state = APIKEY_CLAIM_MISSING;
            missing++;
        }
    }

    if (missing) {
        return APIKEY_LEASE_WAIT;
    }

    for (i = 0; i < n; i++) {

        if (claims[i].state == APIKEY_CLAIM_LEASED) {
            apikey_lease_take(&claims[i], direct ? APIKEY_CLAIM_HELD
                                                 : APIKEY_CLAIM_LEASED);
        }
    }

    return direct ? APIKEY_LEASE_TAKE : APIKEY_LEASE_ADMITTED;
}


bool
apikey_lease_confirm(apikey_claim_t *claims, unsigned n, int64_t now)
{
    unsigned         i;
    apikey_claim_t  *c;

    for (i = 0; i < n; i++) {

        if (claims[i].state == APIKEY_CLAIM_LEASED
            && now >= claims[i].deadline)
        {
            break;
        }
    }

    if (i == n) {
        return true;
    }

    for (i = 0; i < n; i++) {
        c = &claims[i];

        if (c->state != APIKEY_CLAIM_LEASED) {
            continue;
        }

        c->state = APIKEY_CLAIM_NONE;

        if (c->conf->slots) {
            c->lease->busy -= c->cost;

        } else {
            c->lease->spent -= c->cost;
        }

        c->lease->left += c->cost;
    }

    return false;
}


apikey_lease_decision_e
apikey_lease_taken(apikey_claim_t *claims, unsigned n, int64_t now, bool yes)
{
    bool      good;
    unsigned  i;

    good = true;

    for (i = 0; i < n; i++) {
        good = good && apikey_lease_good(&claims[i], now);
    }

    if (!yes || !good) {
        apikey_lease_release(claims, n);
        return yes ? APIKEY_LEASE_UNAVAILABLE : APIKEY_LEASE_REFUSED;
    }

    for (i = 0; i < n; i++) {

        if (claims[i].state == APIKEY_CLAIM_HELD) {
            apikey_lease_spend(&claims[i]);
        }
    }

    return APIKEY_LEASE_ADMITTED;
}


void
apikey_lease_release(apikey_claim_t *claims, unsigned n)
{
    unsigned         i;
    apikey_claim_t  *c;

    for (i = 0; i < n; i++) {
        c = &claims[i];

        if (c->state == APIKEY_CLAIM_HELD && c->epoch == c->lease->epoch) {
            c->lease->held -= c->cost;
            c->lease->left += c->cost;
        }

        c->state = APIKEY_CLAIM_NONE;
    }
}


void
apikey_lease_reclaim(apikey_claim_t *claims, unsigned n)
{
    unsigned  i;

    for (i = 0; i < n; i++) {

        if (claims[i].state == APIKEY_CLAIM_HELD && !claims[i].conf->slots) {
            apikey_lease_spend(&claims[i]);
        }
    }

    /* nothing runs in the slots it held */

    apikey_lease_release(claims, n);
}


bool
apikey_lease_leave(apikey_lease_t *lease, const apikey_lease_conf_t *conf,
    uint64_t slots, uint64_t epoch, int64_t now)
{
    lease->busy -= slots;

    /*
     * Slots of a lease that is void may have been granted again: Redis has
     * them back when their generation ends.
     */

    if (epoch != lease->epoch) {
        return false;
    }

    lease->left += slots;

    return apikey_lease_freed(lease, conf, now);
}


bool
apikey_lease_freed(const apikey_lease_t *lease,
    const apikey_lease_conf_t *conf, int64_t now)
{
    double  active;

    if (!conf->slots || lease->call || lease->left == 0
        || (lease->busy && !apikey_lease_scarce(lease, conf, 0)))
    {
        return false;
    }

    /* of a key that is as busy the timer finds what is left over */

    active = lease->active ? (double) lease->active : 1;

    return apikey_lease_wanted(lease, now) * active < APIKEY_LEASE_FREED;
}


bool
apikey_lease_yield(apikey_lease_t *lease)
{
    if (lease->call || lease->left + lease->back == 0) {
        return false;
    }

    lease->back += lease->left;
    lease->left = 0;

    return true;
}


bool
apikey_lease_ahead(const apikey_claim_t *claim, int64_t now)
{
    double                 soon;
    const apikey_lease_t  *lease = claim->lease;

    if (claim->cost == 0 || lease->call || now < lease->hold
        || apikey_lease_direct(claim))
    {
        return false;
    }

    /* it would be on its way when the slot is left */

    if (claim->conf->slots && apikey_lease_scarce(lease, claim->conf, 0)) {
        return false;
    }

    soon = lease->demand * 2.5 * (double) claim->conf->trip / 1000000;

    return (double) lease->left <= soon;
}


uint64_t
apikey_lease_ask(apikey_lease_t *lease, apikey_tally_t *tally,
    const apikey_lease_conf_t *conf, uint64_t need, uint64_t least, bool back,
    int64_t now, apikey_account_ask_t *ask, apikey_account_sums_t *sums)
{
    uint64_t  enough;

    /*
     * Nobody runs any more in the slots that are left of it: until Redis
     * writes them off they may be had again, by whoever wants them.
     */

    if (now >= lease->deadline && (lease->left || lease->held)) {
        lease->back += conf->slots ? lease->left : 0;
        apikey_lease_drop(lease);
    }

    enough = apikey_lease_goal(lease, conf, back, now) + need;

    ask->returned = lease->back;
    lease->back = 0;

    if (back && lease->left > enough) {
        ask->returned += lease->left - enough;
        lease->left = enough;
    }

    /* a slot that goes back may be had by this node, too */

    if (conf->slots && ask->returned) {
        lease->hold = 0;
    }

    ask->node = tally->node;
    ask->born = lease->born;
    ask->generation = lease->generation;
    ask->spent = lease->spent;
    ask->kept = lease->left + lease->held + lease->busy;
    ask->busy = lease->busy;
    ask->want = enough > lease->left ? enough - lease->left : 0;
    ask->least = least;

    lease->spent = 0;
    lease->asked = now;
    lease->call = ++lease->calls;

    apikey_tally_send(tally, conf->horizon, now, sums);

    return lease->call;
}


/* What this node will need by itself until it asks again. */

static uint64_t
apikey_lease_goal(const apikey_lease_t *lease,
    const apikey_lease_conf_t *conf, bool back, int64_t now)
{
    double  goal, demand, young;

    demand = apikey_lease_wanted(lease, now);

    /* what goes back is not fetched again by the same call */

    if (conf->direct || (back && lease->back)
        || apikey_lease_rests(lease, conf, now)
        || apikey_lease_scarce(lease, conf, demand))
    {
        return 0;
    }

    goal = demand * (double) conf->time / 2000000;

    young = demand / apikey_lease_known(lease, conf, now);

    if (apikey_lease_ample(lease, conf, young)) {
        goal = young * (double) conf->time / 1000000;
    }

    if (goal > (double) (conf->burst / 2)) {
        return conf->burst / 2;
    }

    return (uint64_t) goal;
}


bool
apikey_lease_answer(apikey_lease_t *lease, uint64_t call,
    const apikey_account_ask_t *ask, const apikey_account_grant_t *grant,
    int64_t sent, int64_t now, uint64_t jitter)
{
    uint64_t  us;

    if (lease->call != call) {
        return false;
    }

    lease->call = 0;

    if (ask->kept && !grant->kept) {
        apikey_lease_drop(lease);
        lease->spent = 0;
    }

    lease->born = grant->born;
    lease->generation = grant->generation;
    lease->era = grant->era;
    lease->active = grant->active;

    us = grant->life / 1000 * (1000 - APIKEY_LEASE_DRIFT);
    lease->deadline = sent + (int64_t) us;

    if (grant->hold) {
        lease->hold = now + apikey_lease_wait(lease, grant->hold, jitter, now);
    }

    lease->left += grant->granted;

    return true;
}


bool
apikey_lease_timeout(apikey_lease_t *lease, uint64_t call)
{
    if (lease->call != call) {
        return false;
    }

    apikey_lease_void(lease);

    return true;
}


void
apikey_lease_void(apikey_lease_t *lease)
{
    lease->call = 0;
    lease->born = 0;
    lease->spent = 0;
    lease->back = 0;

    apikey_lease_drop(lease);
}


void
apikey_lease_retire(apikey_lease_t *lease, int64_t now)
{
    /* what a call in flight has told may be told twice */

    if (lease->call || now >= lease->deadline) {
        apikey_lease_void(lease);
        return;
    }

    /* who holds may spend it yet */

    lease->spent += lease->held;
    lease->back += lease->left;

    apikey_lease_drop(lease);
}


/* TAKE decides what leases do not pay for: small limits, large costs. */

static bool
apikey_lease_direct(const apikey_claim_t *claim)
{
    uint64_t                    active;
    const apikey_lease_t       *lease = claim->lease;
    const apikey_lease_conf_t  *conf = claim->conf;

    if (conf->slots) {
        return false;
    }

    active = lease->active ? lease->active : 1;

    return conf->direct || apikey_lease_scarce(lease, conf, lease->demand)
           || claim->cost > conf->burst / (4 * active)
           || lease->demand * (double) conf->time
              < 1e6 * (double) conf->few * (double) claim->cost;
}


/*
 * What others hold would be missed soon: until it is back, requests would be
 * refused for ever, or for long, though something is left.  All nodes
 * together, which this one is taken as typical of, or the room has shown,
 * spend it in no less than three lease times, so that no lease outlasts it.
 * Slots are scarce where three in four are out.
 */

static bool
apikey_lease_scarce(const apikey_lease_t *lease,
    const apikey_lease_conf_t *conf, double demand)
{
    double  pace;

    if (conf->slots) {
        return lease->room <= conf->burst / 4;
    }

    if (!conf->quota && !apikey_lease_slow(lease, conf->rate)) {
        return false;
    }

    pace = demand * (double) (lease->active ? lease->active : 1);
    pace = pace < lease->pace ? lease->pace : pace;

    return (double) lease->room < 3 * pace * (double) conf->time / 1000000;
}


bool
apikey_lease_slow(const apikey_lease_t *lease, double rate)
{
    double  cost;

    cost = lease->cost ? (double) lease->cost : 1;

    return rate > 0 && rate <= APIKEY_LEASE_SLOW * cost;
}


/* The first holds are short: a burst may be over sooner than a round. */

static int64_t
apikey_lease_wait(apikey_lease_t *lease, uint64_t hold, uint64_t jitter,
    int64_t now)
{
    uint64_t  us;

    us = hold / 1024 * (768 + jitter % 513);

    if (now - lease->hold > 4 * (int64_t) hold) {
        lease->holds = 0;
    }

    if (lease->holds < APIKEY_LEASE_SHORT) {
        us >>= lease->holds < APIKEY_LEASE_SHORT / 2 ? 2 : 1;
        lease->holds++;
    }

    return (int64_t) us;
}


static void
apikey_lease_take(apikey_claim_t *claim, apikey_claim_e state)
{
    apikey_lease_t  *lease = claim->lease;

    claim->state = state;
    claim->epoch = lease->epoch;
    claim->deadline = lease->deadline;
    claim->era = lease->era;

    lease->left -= claim->cost;

    if (state == APIKEY_CLAIM_HELD) {
        lease->held += claim->cost;

    } else if (claim->conf->slots) {
        lease->busy += claim->cost;

    } else {
        lease->spent += claim->cost;
    }
}


/* What was held is spent; of a lease that is void nothing is left to count. */

static void
apikey_lease_spend(apikey_claim_t *claim)
{
    apikey_lease_t  *lease = claim->lease;

    claim->state = APIKEY_CLAIM_LEASED;

    if (claim->epoch != lease->epoch) {
        return;
    }

    lease->held -= claim->cost;

    if (claim->conf->slots) {
        lease->busy += claim->cost;

    } else {
        lease->spent += claim->cost;
    }
}


/* A slot of a void lease would run on without anyone counting it. */

static bool
apikey_lease_good(const apikey_claim_t *claim, int64_t now)
{
    if (claim->state != APIKEY_CLAIM_HELD) {
        return true;
    }

    if (claim->epoch == claim->lease->epoch) {
        return now < claim->lease->deadline;
    }

    return !claim->conf->slots && now < claim->deadline;
}


/* What is busy stays: its slots are given back one by one. */

static void
apikey_lease_drop(apikey_lease_t *lease)
{
    lease->left = 0;
    lease->held = 0;
    lease->deadline = INT64_MIN;
    lease->epoch++;
}
