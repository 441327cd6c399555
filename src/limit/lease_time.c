
/*
 * What is wanted of a lease, and when it is to be told: demand as it comes
 * and goes, renewals, early returns.
 */


#include "limit/lease.h"


#define APIKEY_LEASE_DECAY   500000.0    /* us, of the demand */
#define APIKEY_LEASE_NONE    2000000     /* us without any: it is new */
#define APIKEY_LEASE_KNOWN   0.1         /* at least */
#define APIKEY_LEASE_LONG    4000000     /* us */
#define APIKEY_LEASE_LN2     0.69314718055994531
#define APIKEY_LEASE_FALL    4           /* times less is a fall */
#define APIKEY_LEASE_SURE    12          /* requests that should have come */
#define APIKEY_LEASE_MEMORY  8           /* lease times */
#define APIKEY_LEASE_SOON    20          /* reports a lease time, then */
#define APIKEY_LEASE_FEW     4           /* ... where they are a small part */
#define APIKEY_LEASE_TOLD    INT64_C(1000000)    /* us: what is settled */
#define APIKEY_LEASE_AMPLE   16          /* leases of all nodes, at least */
#define APIKEY_LEASE_REST    1000000     /* us, of a key that will be back */


static double apikey_lease_decay(double demand, double span);
static uint64_t apikey_lease_rest(const apikey_lease_conf_t *conf);
static bool apikey_lease_pulses(const apikey_lease_t *lease,
    const apikey_lease_conf_t *conf, int64_t now);
static bool apikey_lease_fell(apikey_lease_t *lease,
    const apikey_lease_conf_t *conf, int64_t now);


void
apikey_lease_demand(apikey_lease_t *lease, uint64_t cost, int64_t now)
{
    if (now - lease->demand_at > APIKEY_LEASE_NONE) {
        lease->since = now;
    }

    lease->demand = apikey_lease_wanted(lease, now)
                    + (double) cost * (1000000 / APIKEY_LEASE_DECAY);
    lease->demand_at = now;
    lease->recent += cost;

    if (cost) {
        lease->cost = cost;
    }
}


double
apikey_lease_wanted(const apikey_lease_t *lease, int64_t now)
{
    if (now <= lease->demand_at) {
        return lease->demand;
    }

    return apikey_lease_decay(lease->demand,
                              (double) (now - lease->demand_at));
}


void
apikey_lease_room(apikey_lease_t *lease, const apikey_lease_conf_t *conf,
    uint64_t room, uint64_t full, int64_t now)
{
    int64_t  span;

    lease->room = room;
    lease->full = full ? now + (int64_t) full : 0;

    span = now - lease->room_at;

    if (span < (int64_t) conf->time / APIKEY_LEASE_LOOKS) {
        return;
    }

    lease->pace = 0;

    if (room < lease->then && span < 2 * (int64_t) conf->time) {
        lease->pace = (double) (lease->then - room) * 1000000 / (double) span;
    }

    lease->then = room;
    lease->room_at = now;
}


double
apikey_lease_known(const apikey_lease_t *lease,
    const apikey_lease_conf_t *conf, int64_t now)
{
    double  known;

    if (conf->time < APIKEY_LEASE_LONG) {
        return 1;
    }

    if (now <= lease->since) {
        return APIKEY_LEASE_KNOWN;
    }

    known = 1 - apikey_lease_decay(1, (double) (now - lease->since));

    return known < APIKEY_LEASE_KNOWN ? APIKEY_LEASE_KNOWN : known;
}


/* demand * e^(-span / DECAY): halvings, and a series for what is left. */

static double
apikey_lease_decay(double demand, double span)
{
    double    x;
    uint64_t  halves;

    x = span / APIKEY_LEASE_DECAY;

    if (x >= 40) {
        return 0;
    }

    halves = (uint64_t) (x / APIKEY_LEASE_LN2);
    x -= (double) halves * APIKEY_LEASE_LN2;

    demand /= (double) (UINT64_C(1) << halves);

    return demand * (1 - x * (1 - x / 2 * (1 - x / 3 * (1 - x / 4))));
}


apikey_lease_due_e
apikey_lease_due(apikey_lease_t *lease, const apikey_tally_t *tally,
    const apikey_lease_conf_t *conf, int64_t now)
{
    bool     clean, fell, ample;
    int64_t  rest, time;

    clean = apikey_tally_clean(tally);
    fell = apikey_lease_fell(lease, conf, now);
    time = (int64_t) conf->time;

    if (lease->left == 0 && lease->back == 0 && lease->held == 0
        && lease->spent == 0 && lease->busy == 0 && clean)
    {
        return APIKEY_LEASE_NEVER;
    }

    if (lease->call) {
        return APIKEY_LEASE_LATER;
    }

    rest = time / 2;

    if (!clean && now - tally->last >= (rest < APIKEY_LEASE_TOLD
                                        ? rest : APIKEY_LEASE_TOLD))
    {
        return APIKEY_LEASE_NOW;
    }

    ample = apikey_lease_ample(lease, conf, apikey_lease_wanted(lease, now));

    if (ample) {
        rest = 3 * time / 4;
    }

    if (apikey_lease_pulses(lease, conf, now)) {
        rest = time / (ample ? APIKEY_LEASE_FEW : APIKEY_LEASE_SOON);
    }

    fell |= lease->left && apikey_lease_rests(lease, conf, now);

    return fell || lease->back || now - lease->asked >= rest
           ? APIKEY_LEASE_NOW : APIKEY_LEASE_LATER;
}


int64_t
apikey_lease_look(const apikey_lease_t *lease,
    const apikey_lease_conf_t *conf, int64_t now)
{
    int64_t  us;

    us = (int64_t) conf->time / APIKEY_LEASE_LOOKS;

    return apikey_lease_pulses(lease, conf, now + us)
           ? (int64_t) conf->time / APIKEY_LEASE_SOON : us;
}


bool
apikey_lease_ample(const apikey_lease_t *lease,
    const apikey_lease_conf_t *conf, double demand)
{
    double  all;

    if (conf->slots) {
        return false;
    }

    all = APIKEY_LEASE_AMPLE * demand * (double) conf->time / 1000000
          * (double) (lease->active ? lease->active : 1);

    return all <= (double) conf->burst
           && (!conf->quota || all <= (double) lease->room);
}


bool
apikey_lease_rests(const apikey_lease_t *lease,
    const apikey_lease_conf_t *conf, int64_t now)
{
    /* a slot is missed at once, by whoever wants it */

    if (conf->slots) {
        return lease->busy + lease->held == 0;
    }

    return now - lease->demand_at >= (int64_t) apikey_lease_rest(conf);
}


uint64_t
apikey_lease_return(const apikey_lease_conf_t *conf)
{
    uint64_t  late, rest;

    late = 3 * conf->time / 4;
    rest = apikey_lease_rest(conf);

    return (rest < late ? rest : late) + conf->time / APIKEY_LEASE_LOOKS
           + conf->trip;
}


static uint64_t
apikey_lease_rest(const apikey_lease_conf_t *conf)
{
    uint64_t  rest;

    rest = 2 * conf->time / APIKEY_LEASE_LOOKS;

    return conf->quota || rest > APIKEY_LEASE_REST ? rest : APIKEY_LEASE_REST;
}


/*
 * Another pulse may come, and would find the bucket full but for what is spent
 * here: before it is so, what is told early gains nothing.
 */

static bool
apikey_lease_pulses(const apikey_lease_t *lease,
    const apikey_lease_conf_t *conf, int64_t now)
{
    return lease->fell && now >= lease->full
           && now - lease->fell < APIKEY_LEASE_MEMORY * (int64_t) conf->time;
}


/* In a tenth of a lease time far less came than did before. */

static bool
apikey_lease_fell(apikey_lease_t *lease, const apikey_lease_conf_t *conf,
    int64_t now)
{
    double   usual, seen;
    int64_t  span;

    span = now - lease->recent_at;

    if (span < (int64_t) conf->time / APIKEY_LEASE_LOOKS || conf->slots) {
        return false;
    }

    usual = apikey_lease_wanted(lease, now) * (double) span / 1000000;
    seen = (double) lease->recent;

    lease->recent = 0;
    lease->recent_at = now;

    if (span > (int64_t) conf->time / 2
        || usual < (double) lease->cost * APIKEY_LEASE_SURE
        || seen * APIKEY_LEASE_FALL > usual)
    {
        return false;
    }

    lease->demand = seen * 1000000 / (double) span;
    lease->demand_at = now;
    lease->fell = now;

    return true;
}
