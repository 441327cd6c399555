
/*
 * A node's lease against the value that Redis keeps: slots that are left of a
 * lease that is over are nobody's, and are told so.
 */


#include <stdlib.h>

#include "limit/lease.h"

#include "unit.h"


#define SECOND  INT64_C(1000000)
#define BEGIN   (INT64_C(1795217207) * SECOND)      /* of a generation */


static apikey_account_t        value;
static apikey_account_limit_t  limit;
static apikey_account_call_t   call;
static apikey_account_ask_t    ask;
static apikey_account_grant_t  grant;
static apikey_lease_conf_t     conf;
static apikey_lease_t          lease;
static apikey_tally_t          tally;


static void
begin(bool slots, uint64_t capacity)
{
    memset(&value, 0, sizeof(value));
    memset(&limit, 0, sizeof(limit));
    memset(&call, 0, sizeof(call));
    memset(&conf, 0, sizeof(conf));
    memset(&lease, 0, sizeof(lease));
    memset(&tally, 0, sizeof(tally));

    limit.id = 1;
    limit.rate.token = 1;
    limit.rate.capacity = capacity;
    limit.rate.tick = SECOND;
    limit.known = APIKEY_ACCOUNT_UNKNOWN;

    call.limits = &limit;
    call.nlimits = 1;
    call.slots = slots;
    call.lease = SECOND;
    call.horizon = 3600 * SECOND;

    conf.burst = capacity;
    conf.time = SECOND;
    conf.horizon = call.horizon;
    conf.slots = slots;

    tally.node = 7;
}


/* A call; its answer comes a while later. */

static void
tell(uint64_t need, int64_t now, int64_t trip)
{
    uint64_t  number;

    number = apikey_lease_ask(&lease, &tally, &conf, need, 1, false, now, &ask,
                              &call.sums);

    apikey_account_lease(&value, &call, &ask, (uint64_t) now, &grant);

    ok(apikey_lease_answer(&lease, number, &ask, &grant, now, now + trip, 0),
       "a call is answered");
}


/* All slots run, and end while nobody is there to renew them. */

static void
test_over(void)
{
    int64_t   now;
    unsigned  i;

    begin(true, 4);
    now = BEGIN;

    for (i = 0; i < 3; i++) {
        tell(4, now, 0);
    }

    is_uint(lease.left, 4, "all slots");
    ok(now + 99 * SECOND / 100 > lease.deadline, "a lease that is over");

    now += 99 * SECOND / 100;

    tell(1, now, 0);
    is_uint(ask.returned, 4, "what is left of it goes back");
    ok(grant.kept, "and counts");
    ok(lease.left > 0, "so that it is to be had again at once");
    is_uint(lease.left + (4 - value.levels[0].used), 4, "none is lost");
    is_uint(lease.back, 0, "nor told twice");
}


/* An answer that comes when what it grants is over. */

static void
test_late(void)
{
    begin(true, 1);

    tell(1, BEGIN, SECOND);
    is_uint(lease.left, 1, "a slot that comes too late");

    tell(1, BEGIN + SECOND, 0);
    is_uint(ask.returned, 1, "goes back");
    is_uint(lease.left, 1, "and comes in time");
    is_uint(value.out[0] + value.out[1], 1, "once");
}


/* Nothing is to be had, until this node gives back some of it. */

static void
test_hold(void)
{
    begin(true, 1);

    tell(1, BEGIN, 0);
    lease.left--;
    lease.busy++;

    tell(1, BEGIN + 1, 0);
    ok(lease.hold > BEGIN + 1, "who asks for more is told to wait");

    ok(apikey_lease_leave(&lease, &conf, 1, lease.epoch, BEGIN + 2),
       "a request ends, and its slot goes back");

    (void) apikey_lease_ask(&lease, &tally, &conf, 0, 1, true, BEGIN + 2,
                            &ask, &call.sums);

    is_uint(ask.returned, 1, "the slot");
    ok(lease.hold <= BEGIN + 2, "nobody waits for another one");
}


/* Two generations later Redis has it, whatever is told. */

static void
test_written_off(void)
{
    begin(true, 2);

    tell(1, BEGIN, 0);
    tell(2, BEGIN + 2 * SECOND, 0);

    is_uint(ask.returned, 1, "what was written off goes back");
    ok(!grant.kept, "and counts no more");
    is_uint(lease.left, value.levels[0].used, "there are two, as before");
    is_uint(value.out[0] + value.out[1], lease.left, "and no more");
}


/* What Postgres may know of is not told of when its time is over. */

static void
test_held(void)
{
    apikey_claim_t  claim;

    begin(false, 100);

    tell(10, BEGIN, 0);
    is_uint(lease.left, 10, "tokens");

    memset(&claim, 0, sizeof(claim));

    claim.lease = &lease;
    claim.conf = &conf;
    claim.cost = 3;
    claim.state = APIKEY_CLAIM_HELD;
    claim.epoch = lease.epoch;
    claim.deadline = lease.deadline;

    lease.left -= 3;
    lease.held += 3;

    tell(1, BEGIN + 99 * SECOND / 100, 0);
    is_uint(ask.returned, 0, "tokens do not go back");
    is_uint(lease.held, 0, "nor what is held");

    apikey_lease_release(&claim, 1);
    is_uint(lease.left, 1, "and does not come back to another lease");
}


int
main(void)
{
    test_over();
    test_late();
    test_hold();
    test_written_off();
    test_held();

    return unit_done();
}
