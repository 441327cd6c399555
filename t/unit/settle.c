
/*
 * Settlements of leased and direct requests on their way to Redis: what no
 * random run would come upon often enough.
 */


#include "limit/lease.h"

#include "unit.h"


#define SECOND   UINT64_C(1000000)
#define HORIZON  (600 * SECOND)
#define NOW      (UINT64_C(1000000) * SECOND)


static bool
says(apikey_lease_t *lease, const apikey_tally_t *tally)
{
    apikey_lease_conf_t  conf;

    memset(&conf, 0, sizeof(conf));
    conf.time = 1000000;

    return apikey_lease_due(lease, tally, &conf, 10) != APIKEY_LEASE_NEVER;
}


/* 60 a minute, up to 60 at once. */

static apikey_account_limit_t  limit;
static apikey_account_call_t   call;


static void
setup(void)
{
    limit.id = 1;
    apikey_rate_init(&limit.rate, 60, 60 * SECOND, 60);
    limit.known = APIKEY_ACCOUNT_UNKNOWN;

    call.limits = &limit;
    call.nlimits = 1;
    call.lease = SECOND;
    call.horizon = HORIZON;
}


static uint64_t
used(const apikey_account_t *v)
{
    return apikey_account_level(v, 1)->used / limit.rate.token;
}


static void
take(apikey_account_t *v, uint64_t cost, uint64_t now)
{
    if (apikey_account_fits(v, &call, &cost, now)) {
        apikey_account_pay(v, &call, cost);
    }
}


static void
test_back(void)
{
    apikey_tally_t         tally;
    apikey_lease_t         lease;
    apikey_account_sums_t  one, two, three;

    memset(&tally, 0, sizeof(tally));
    memset(&lease, 0, sizeof(lease));

    apikey_tally_send(&tally, HORIZON, 1, &one);
    apikey_tally_acked(&tally, &one, 7);
    ok(!says(&lease, &tally), "nothing to say");

    apikey_tally_add(&tally, 9, 7, 0, HORIZON);
    apikey_tally_send(&tally, HORIZON, 2, &two);
    apikey_tally_add(&tally, -9, 7, 0, HORIZON);
    ok(says(&lease, &tally),
       "a sum that is what it was is said again after another one");

    apikey_tally_send(&tally, HORIZON, 3, &three);
    ok(says(&lease, &tally), "... until somebody has heard it");

    apikey_tally_acked(&tally, &two, 7);
    ok(says(&lease, &tally), "... that very sum");

    apikey_tally_acked(&tally, &three, 7);
    ok(!says(&lease, &tally), "then there is nothing to say");
}


/* A node stands still for longer than Redis keeps its entry. */

static void
test_still(void)
{
    apikey_tally_t         tally;
    apikey_account_sums_t  one, two, three;

    memset(&tally, 0, sizeof(tally));

    apikey_tally_add(&tally, 3, 7, 0, HORIZON);
    apikey_tally_send(&tally, HORIZON, 1, &one);
    apikey_tally_add(&tally, 9, 7, 0, HORIZON);
    apikey_tally_send(&tally, HORIZON, 2, &two);
    apikey_tally_acked(&tally, &one, 7);
    is_uint(tally.acked, 3, "the first of two calls is acknowledged");

    apikey_tally_send(&tally, HORIZON, 3 + HORIZON, &three);
    is_uint(three.acked, 12, "the other one is not said twice, if forgotten");
}


/* The answer outlives the value of its account, which was full and went. */

static void
test_outlived(void)
{
    uint64_t          era;
    apikey_account_t  v;

    memset(&v, 0, sizeof(v));

    take(&v, 10, NOW);
    era = v.era;
    ok(apikey_account_expire(&v, HORIZON, NOW) < 20 * SECOND,
       "a value goes when it is full");

    memset(&v, 0, sizeof(v));
    call.sums = (apikey_account_sums_t) { 5, 1, -100, 0, era, -100, 0, 0 };
    take(&v, 0, NOW + 60 * SECOND);
    is_uint(used(&v), 100, "what it cost more is owed by the next one");

    take(&v, 0, NOW + 60 * SECOND);
    is_uint(used(&v), 100, "... once");

    memset(&v, 0, sizeof(v));
    call.sums = (apikey_account_sums_t) { 5, 1, 8, 0, era, 8, 0, 0 };
    take(&v, 20, NOW + 60 * SECOND);
    is_uint(used(&v), 20, "what it cost less the next one was never paid");

    memset(&v, 0, sizeof(v));
    limit.made = NOW + 59 * SECOND;
    call.sums = (apikey_account_sums_t) { 5, 1, -100, 0, era, -100, 0, 0 };
    take(&v, 0, NOW + 60 * SECOND);
    is_uint(used(&v), 0, "a limit made since then owes nothing");
    limit.made = 0;
}


/* Less, then as much as was reserved; the calls arrive in the other order. */

static void
test_overtaken(void)
{
    apikey_tally_t         tally;
    apikey_account_t       v;
    apikey_account_sums_t  one, two, three;

    memset(&v, 0, sizeof(v));
    memset(&tally, 0, sizeof(tally));
    memset(&call.sums, 0, sizeof(call.sums));

    take(&v, 20, NOW);

    tally.node = 5;
    apikey_tally_send(&tally, HORIZON, 1, &one);
    apikey_tally_acked(&tally, &one, v.era);

    apikey_tally_add(&tally, 9, v.era, 0, HORIZON);
    apikey_tally_send(&tally, HORIZON, 2, &two);
    apikey_tally_add(&tally, -9, v.era, 0, HORIZON);
    apikey_tally_send(&tally, HORIZON, 3, &three);

    call.sums = three;
    take(&v, 0, NOW);
    call.sums = two;
    take(&v, 0, NOW);

    is_uint(used(&v), 20, "what was taken back is not given when it comes");
}


/* What was admitted without Redis: of one limit, whatever else there is. */

static void
test_alone(void)
{
    static apikey_account_t  v;

    apikey_account_ask_t     ask;
    apikey_account_grant_t   grant;
    apikey_account_limit_t   limits[2];

    limits[0] = limit;
    limits[1] = limit;
    limits[1].id = 2;
    limits[1].quota = true;
    limits[1].known = 0;
    limits[1].end = limits[1].fill = 0;
    limits[1].rate.refill = 0;

    memset(&v, 0, sizeof(v));
    memset(&call.sums, 0, sizeof(call.sums));
    call.limits = limits;
    call.nlimits = 2;

    take(&v, 10, NOW);

    call.sums.node = APIKEY_ACCOUNT_CHARGE | 5;
    call.sums.number = 1;
    call.sums.sum = -30;
    call.sums.era = NOW;
    call.sums.part = 1;
    call.sums.part_acked = -1;

    memset(&ask, 0, sizeof(ask));
    ask.want = 5;
    ask.least = 1;

    apikey_account_lease(&v, &call, &ask, NOW, &grant);
    is_uint(v.levels[1].used / limit.rate.token, 40, "a quota is charged");
    is_uint(used(&v), 10, "and no other limit");
    is_uint(grant.granted, 0, "nothing is granted");
    is_uint(v.nnodes, 0, "to nobody");

    apikey_account_lease(&v, &call, &ask, NOW, &grant);
    is_uint(v.levels[1].used / limit.rate.token, 40, "once");

    call.sums.number = 2;
    call.sums.sum = -25;
    take(&v, 0, NOW);
    is_uint(v.levels[1].used / limit.rate.token, 35, "less was used of it");

    call.sums.number = 3;
    call.sums.sum = -45;
    call.sums.part_acked = (int64_t) NOW;
    take(&v, 0, NOW);
    is_uint(v.levels[1].used / limit.rate.token, 35,
            "in a period that is over");

    call.sums.number = 4;
    call.sums.part = 2;
    call.sums.sum = -55;
    call.sums.part_acked = -1;
    take(&v, 0, NOW);
    is_uint(v.levels[1].used / limit.rate.token, 35, "of no limit there is");

    call.sums.number = 5;
    call.sums.part = 1;
    call.sums.sum = -65;
    v.lost = NOW + 1;
    take(&v, 0, NOW);
    ok(v.levels[1].used == APIKEY_ACCOUNT_MAX,
       "before the value was lost: Postgres is asked again");
}


/*
 * A quota beside it, which Redis loses at NOW with all it has; Postgres knows
 * of five.
 */

static void
quota(apikey_account_limit_t *limits, apikey_account_call_t *c)
{
    memset(limits, 0, 2 * sizeof(*limits));
    limits[0] = limit;

    limits[1].id = 2;
    apikey_rate_init(&limits[1].rate, 1, SECOND, 100);
    limits[1].rate.refill = 0;
    limits[1].quota = true;
    limits[1].known = 5;

    *c = call;
    c->limits = limits;
    c->nlimits = 2;
    c->gone = NOW;
    memset(&c->sums, 0, sizeof(c->sums));
}


static bool
unknown(const apikey_account_t *v)
{
    return apikey_account_level(v, 2)->used == APIKEY_ACCOUNT_MAX;
}


/* An answer is believed for what it is, and not for when it comes. */

static void
test_gone(void)
{
    uint64_t                cost;
    apikey_account_t        v;
    apikey_account_call_t   c;
    apikey_account_limit_t  limits[2];

    quota(limits, &c);
    memset(&v, 0, sizeof(v));

    cost = 1;
    c.gone = NOW - 3 * SECOND;
    c.complete = NOW;
    ok(apikey_account_fits(&v, &c, &cost, NOW) && !unknown(&v),
       "all went long ago, and the answer has what there was");

    memset(&v, 0, sizeof(v));
    limits[1].made = NOW + 1;
    c.gone = NOW;
    c.complete = 0;
    ok(apikey_account_fits(&v, &c, &cost, NOW + 2), "a limit made since");
    limits[1].made = 0;

    memset(&v, 0, sizeof(v));
    c.complete = NOW;
    ok(!apikey_account_fits(&v, &c, &cost, NOW + 1) && unknown(&v),
       "all has just gone");
    ok(!apikey_account_fits(&v, &c, &cost, NOW + 9 * SECOND) && unknown(&v),
       "an answer from before the leases were void comes late");

    c.complete = NOW + 2 * SECOND;
    ok(apikey_account_fits(&v, &c, &cost, NOW + 9 * SECOND) && !unknown(&v),
       "and one from after it");
    apikey_account_pay(&v, &c, cost);
    ok(apikey_account_level(&v, 2)->used / limits[1].rate.token == 6,
       "it goes on with that");
}


/* A limit that comes to what was lost once, and is known again. */

static void
test_added(void)
{
    uint64_t                cost;
    apikey_account_t        v;
    apikey_account_call_t   c;
    apikey_account_limit_t  limits[3];

    quota(limits, &c);
    memset(&v, 0, sizeof(v));

    cost = 1;
    (void) apikey_account_fits(&v, &c, &cost, NOW + 1);
    c.complete = NOW + 2 * SECOND;
    ok(apikey_account_fits(&v, &c, &cost, NOW + 9 * SECOND) && v.lost,
       "lost, and known again");
    apikey_account_pay(&v, &c, cost);

    limits[2] = limits[1];
    limits[2].id = 3;
    limits[2].known = 0;
    limits[2].made = NOW + 20 * SECOND;
    c.nlimits = 3;
    c.gone = 0;
    c.complete = 0;
    ok(apikey_account_fits(&v, &c, &cost, NOW + 21 * SECOND),
       "a quota made later had nothing to lose");

    limits[2].id = 4;
    limits[2].made = 0;
    v.dirty = false;
    ok(!apikey_account_fits(&v, &c, &cost, NOW + 22 * SECOND) && v.dirty,
       "an older one has: it is kept since when");

    c.complete = NOW + 24 * SECOND;
    ok(apikey_account_fits(&v, &c, &cost, NOW + 30 * SECOND),
       "and known with what was used before");
}


/* Somebody was away: what he has used of a quota says nothing of a bucket. */

static void
test_missed(void)
{
    uint64_t                cost;
    apikey_account_t        v;
    apikey_account_call_t   c;
    apikey_account_limit_t  limits[2];

    quota(limits, &c);
    memset(&v, 0, sizeof(v));

    cost = 10;
    ok(!apikey_account_fits(&v, &c, &cost, NOW + 1), "all has just gone");

    c.complete = NOW + 2 * SECOND;
    ok(apikey_account_fits(&v, &c, &cost, NOW + 9 * SECOND), "known again");
    apikey_account_pay(&v, &c, cost);
    ok(used(&v) == 10, "a bucket");

    limits[1].known = APIKEY_ACCOUNT_UNKNOWN;
    c.sums.node = APIKEY_ACCOUNT_CHARGE | 7;
    c.sums.number = 1;
    c.sums.sum = -20;
    c.sums.era = NOW;
    c.sums.part = 1;
    c.sums.part_acked = -1;

    cost = 0;
    (void) apikey_account_fits(&v, &c, &cost, NOW + 9 * SECOND);
    ok(unknown(&v), "a charge from before the loss");
    ok(used(&v) == 10, "of the quota alone");

    memset(&c.sums, 0, sizeof(c.sums));
    limits[1].known = 35;
    c.complete = NOW + 11 * SECOND;
    cost = 1;
    ok(apikey_account_fits(&v, &c, &cost, NOW + 12 * SECOND), "asked anew");
    ok(apikey_account_level(&v, 2)->used / limits[1].rate.token == 35,
       "and what was charged is in the answer");
}


/* Redis starts again with all it had, and Postgres lacks what runs. */

static void
test_kept(void)
{
    uint64_t                cost;
    apikey_account_t        v;
    apikey_account_call_t   c;
    apikey_account_limit_t  limits[2];

    quota(limits, &c);
    memset(&v, 0, sizeof(v));
    apikey_rate_init(&limits[0].rate, 1000, SECOND, 1000);

    c.gone = 0;
    c.epoch = 1;
    c.since = 0;
    limits[1].known = 0;
    cost = 60;
    ok(apikey_account_fits(&v, &c, &cost, NOW - SECOND), "it is used");
    apikey_account_pay(&v, &c, cost);

    c.epoch = 2;
    c.since = NOW;
    c.complete = NOW + 2 * SECOND;
    limits[1].known = 54;
    cost = 41;
    ok(!apikey_account_fits(&v, &c, &cost, NOW + 3 * SECOND)
       && apikey_account_level(&v, 2)->used / limits[1].rate.token == 60,
       "no less than it was");
    cost = 40;
    ok(apikey_account_fits(&v, &c, &cost, NOW + 4 * SECOND),
       "what is left of it passes");
    ok(v.ncounters == 0, "nothing stays behind");

    c.epoch = 3;
    c.since = NOW + 5 * SECOND;
    c.complete = NOW + 9 * SECOND;
    limits[1].known = 70;
    ok(!apikey_account_fits(&v, &c, &cost, NOW + 10 * SECOND)
       && apikey_account_level(&v, 2)->used / limits[1].rate.token == 70,
       "others have used more");
}


int
main(void)
{
    setup();

    test_back();
    test_still();
    test_outlived();
    test_overtaken();
    test_alone();
    test_gone();
    test_added();
    test_missed();
    test_kept();

    return unit_done();
}
