
/*
 * The value of one account as Redis keeps it, and the operations on it.
 *
 * An account is one number that several limits are paid by.  Nodes lease
 * tokens from it and spend them on their own; "out" counts what is leased,
 * so that no level is refilled over what nodes could still spend (the
 * capacity rule).  docs/leases.md has the protocol and its proof.
 *
 * Plain C, no allocation; the caller owns every struct.  In the product the
 * Lua of limit/account_lua.h repeats this, word for word;
 * t/unit/account_script.c holds both to each other, t/sim runs this text.
 */


#ifndef APIKEY_ACCOUNT_H_INCLUDED
#define APIKEY_ACCOUNT_H_INCLUDED


#include <stdbool.h>
#include <stdint.h>

#include "base/rate.h"
#include "limit/bucket.h"
#include "limit/rolling.h"


/*
 * The arithmetic
 *
 * All values are integers in [-MAX, MAX], MAX = 2^53 - 1; sums and products
 * that would leave it stop at MAX.  A level counts what is used, as a bucket
 * does.  O = out[0] + out[1]; the floor of a level is O * token.
 *
 * refill(level, now)
 *     as a bucket, but used ends at the floor; a level below its floor stays
 * advance(now): events in the order of their time, in (at, now]
 *     a generation ends, O > 0:  refill all to it; out = 0, out[0]
 *     a period ends:             refill all to it; O = 0 and born is new,
 *                                unless grants older than the period's entry
 *                                may live (mark); era = its end
 *     then refill all to now; generation = now div lease
 *     now more than 1 s before at: O is all out[0] of the generation of now
 * lost(from): another primary (and not moved), or a value that cannot be read
 *     used = max(used, capacity), quotas unknown, O = out[0] = the ceiling,
 *     all as of from; other entries but counters are dropped
 * open(now): lost (also if absent, and a quota is touched; or if that quota
 *     is unknown, no level is older, and it was not lost before), advance, a
 *     new lease time (if O == 0); if a quota is missed (charged by who has
 *     heard nothing since it is known again, or when it may be any moment, or
 *     in doubt, with no entry, or one that is to be dropped): the quotas are
 *     unknown, lost = born = era = now; then each limit:
 *     new:     a bucket at its floor, or as lost() if older than the epoch;
 *              a quota is unknown; with others there, a new era
 *     edited:  as a bucket; what is used stays used
 *     gone:    not among the limits of this call; back: a new era
 *     over:    a period that ended: used = min(used, capacity - fill), at
 *              least the floor; its end is the one that holds now
 *     known:   an unknown quota that Postgres knows: known + O, if that is
 *              complete to two generations after all that was lost; if it was
 *              lost that is over now: lost = era = now
 *     made anew (absent, no limit older than the epoch): where all values are
 *              gone since less than two leases quotas are lost as of now
 * settle(spent, returned, kept) of (born, generation), after open
 *     void unless born is the value's and the generation this or the last
 *     out[its] -= spent + returned + kept, out[0] += kept,
 *     used -= returned, down to the floor
 *     void: out[0] += busy, O to MAX, for slots that requests still run in
 * counter(node, number, sum, acked, era, part, part_acked)
 *     number not above the stored one: nothing; without an entry, nor doubt,
 *     what is all acknowledged makes none
 *     used -= sum - (the stored sum, or acked without one), down to the
 *     floor, or up; what was born less than a horizon ago takes the part of
 *     this era only: it has not paid for what was admitted before; but all
 *     of it if that is less, no period, and the limit is older: then only
 *     the value is young; a limit that is gone takes nothing
 *     era < lost: the node does not know of the loss; no quota takes it, nor
 *     what was lost, too, but for a charge of what refills or rolls, until it
 *     is empty
 *     a node of CHARGE: what was admitted without Redis of one limit alone,
 *     the part-th of the call; era is when its node last had an answer of
 *     Redis, part_acked the end of its period, or -1. A level takes it unless
 *     that is over. A lease with such sums is told what is spent, and given
 *     nothing; who sends it is no other node
 * grant(want, least)
 *     a = nodes seen in this or the last generation, at least 1
 *     b = max(1, min(refill in 50 ms / a, capacity / 4a)) over the levels
 *     avail = min((capacity - used) div token, ceiling - O)
 *     avail >= min(b, want) and avail >= least:
 *                 min(want, avail, max(b, least, avail div 2a));  else 0
 *     less than want, and less than a round n = min(max(b, least), want) * a
 *     left: hold for the time of its refill, at most 4 leases, 1 without
 * ceiling: half of the least capacity in tokens; slots: all of it
 * fits(cost): 0 always; strict: cost <= (capacity - used) div token; trim:
 *     1 is left; observe: always.  whole: the least that is left of strict
 *     ones, or 0 without one; 1 at least of each strict and trim
 * pay(cost): used += cost, at most MAX - 1; unknown stays so
 * expire: 2 leases and the time to full; the horizon with counters; a period
 *     and PERIOD more; never with a level that has neither
 *
 * A rolling level (tick ROLLING) is a log as in rolling.h instead, with
 * used = min(its sum + O, MAX - 1): what is out may be spent at any moment
 * until it is written off, so it counts now, and is in the log as of the
 * moment when it is known to be spent, or could have been.
 *     refill:  pass
 *     spent (settle), written off (advance):  add, then O is lowered
 *     returned:  O alone
 *     pay:     add
 *     counter: nothing; back and more of the limit are given and added, in
 *              open(): once at most, and once at least, so that what is lost
 *              on the way is not admitted.  Back is nothing when the oldest
 *              of what it is about has left the window
 *     lost, older than the epoch:  all that is there, or the limit, is as of
 *              then; edited to another kind or back: what is used as of now
 *     wait:    apikey_account_when()
 */


#define APIKEY_ACCOUNT_LEVELS    128
#define APIKEY_ACCOUNT_NODES     64
#define APIKEY_ACCOUNT_COUNTERS  64

#define APIKEY_ACCOUNT_MAX       APIKEY_BUCKET_MAX
#define APIKEY_ACCOUNT_UNKNOWN   UINT64_MAX
#define APIKEY_ACCOUNT_WHOLE     UINT64_MAX                   /* a cost */
#define APIKEY_ACCOUNT_PERIOD    UINT64_C(2764800000000)      /* 32 days */
#define APIKEY_ACCOUNT_ROUND     50000                        /* us */
#define APIKEY_ACCOUNT_CHARGE    (UINT64_C(1) << 63)          /* in a name */
#define APIKEY_ACCOUNT_ROLLING   APIKEY_RATE_ROLLING          /* a tick */


/* What a TAKE may do to a limit; as in base/limit.h. */

#define APIKEY_ACCOUNT_STRICT    0           /* all of its cost fits */
#define APIKEY_ACCOUNT_TRIM      1           /* something is left */
#define APIKEY_ACCOUNT_OBSERVE   2           /* anything */


/*
 * One limit, as the node that calls knows it.  Of a rolling one: rate.token 1,
 * rate.tick ROLLING, rate.refill the window (us); what fill, next and known
 * are there is said last.
 */

typedef struct {
    uint64_t       id;
    apikey_rate_t  rate;         /* of a quota: refill 0 */
    uint64_t       end;          /* us: of the period; 0: it has none */
    uint64_t       next;         /* ... and of the one after it; rolling:
                                    not before it was admitted what is given
                                    back */
    uint64_t       fill;         /* units restored when a period ends: the
                                    capacity, or credits to be refilled;
                                    rolling: tokens given back */
    uint64_t       made;         /* us: the limit exists since */
    uint64_t       known;        /* tokens of a quota used, by Postgres, or
                                    UNKNOWN; rolling: tokens more */
    bool           quota;        /* absent is unknown, not full */
    bool           touched;      /* a quota of which Postgres has any usage */
    uint8_t        mode;         /* of TAKE: leases are of strict limits */
} apikey_account_limit_t;


typedef struct {
    uint64_t          id;
    uint64_t          used;      /* units; MAX in a quota: unknown */
    uint64_t          at;        /* us: last refill; the end of a period;
                                    rolling: the width of a place */
    uint64_t          token;
    uint64_t          refill;    /* mark of a period: the generation from
                                    which on grants end with it; rolling: the
                                    window */
    uint64_t          tick;      /* 0: a period */
    uint64_t          born;      /* us: has counted all since; MAX: is gone */
    apikey_rolling_t  log;       /* of a rolling one */
} apikey_account_level_t;


typedef struct {
    uint64_t       id;
    uint64_t       seen;         /* generation */
} apikey_account_node_t;


typedef struct {
    uint64_t       id;
    uint64_t       number;
    int64_t        sum;          /* tokens; > 0: settled below the reserve */
    uint64_t       era;
    int64_t        part;         /* of sum, in this era */
    uint64_t       at;
} apikey_account_counter_t;


typedef enum {
    APIKEY_ACCOUNT_ABSENT = 0,
    APIKEY_ACCOUNT_UNREADABLE,
    APIKEY_ACCOUNT_PRESENT
} apikey_account_state_e;


typedef struct {
    apikey_account_state_e    state;
    uint64_t                  at;
    uint64_t                  lease;         /* us, 1 ... */
    uint64_t                  generation;    /* at div lease */
    uint64_t                  out[2];        /* of this and the last one */
    uint64_t                  born;          /* older leases are void */
    uint64_t                  era;           /* us: the last end of a period,
                                                new level, or loss */
    uint64_t                  epoch;         /* of the Redis primary */
    uint64_t                  lost;          /* from of the last lost(), or
                                                since it is known again */
    bool                      dirty;         /* to be written though refused;
                                                cleared by the caller */

    unsigned                  nlevels;
    unsigned                  nnodes;
    unsigned                  ncounters;
    apikey_account_level_t    levels[APIKEY_ACCOUNT_LEVELS];
    apikey_account_node_t     nodes[APIKEY_ACCOUNT_NODES];
    apikey_account_counter_t  counters[APIKEY_ACCOUNT_COUNTERS];
} apikey_account_t;


/*
 * Cumulative settlements of one node, or charges of one limit; number 0: it
 * has none.
 */

typedef struct {
    uint64_t                  node;
    uint64_t                  number;
    int64_t                   sum;
    int64_t                   acked;
    uint64_t                  era;
    int64_t                   part;
    int64_t                   part_acked;
    bool                      doubt;     /* a call that said something else
                                            may be on its way; of a charge:
                                            be there, and be forgotten */
} apikey_account_sums_t;


typedef struct {
    const apikey_account_limit_t  *limits;
    unsigned                       nlimits;
    bool                           slots;    /* of concurrent: no spending */
    uint64_t                       epoch;
    uint64_t                       since;    /* us: the epoch began */
    uint64_t                       moved;    /* us: what another primary wrote
                                                later came here with its slot
                                                of a Cluster; 0: nothing
                                                moves */
    uint64_t                       gone;     /* us: all values went then; 0:
                                                they never did */
    uint64_t                       complete; /* us: what is known has all that
                                                was used until then */
    uint64_t                       lease;
    uint64_t                       horizon;
    apikey_account_sums_t          sums;
} apikey_account_call_t;


typedef struct {
    uint64_t                       node;
    uint64_t                       born;     /* 0: nothing is held */
    uint64_t                       generation;
    uint64_t                       spent;
    uint64_t                       returned;
    uint64_t                       kept;
    uint64_t                       busy;     /* slots: part of kept */
    uint64_t                       want;
    uint64_t                       least;    /* the largest cost waiting */
} apikey_account_ask_t;


typedef struct {
    uint64_t                       granted;
    uint64_t                       generation;
    uint64_t                       born;
    uint64_t                       era;
    uint64_t                       active;   /* nodes */
    uint64_t                       hold;     /* us */
    uint64_t                       life;     /* us: what was granted or kept
                                                may be spent */
    bool                           kept;     /* the settlement was not void */
    uint64_t                       out;      /* of a reply: O */
} apikey_account_grant_t;


/* advance() alone: for tests, and for what only looks. */
void apikey_account_advance(apikey_account_t *v, uint64_t now);

/* The clock for a lease and a TAKE alike; both call it. */
void apikey_account_open(apikey_account_t *v,
    const apikey_account_call_t *call, uint64_t now);

void apikey_account_lease(apikey_account_t *v,
    const apikey_account_call_t *call, const apikey_account_ask_t *ask,
    uint64_t now, apikey_account_grant_t *grant);

/*
 * TAKE in two steps: look at all accounts, then pay all, or none.  cost: 0
 * only looks; WHOLE becomes all that the strict limits have left.
 */
bool apikey_account_fits(apikey_account_t *v,
    const apikey_account_call_t *call, uint64_t *cost, uint64_t now);
void apikey_account_pay(apikey_account_t *v,
    const apikey_account_call_t *call, uint64_t cost);

/*
 * The second number that is told of a level: at; of a rolling one when this
 * cost fits, if it does not, else when nothing is used any more.
 */
uint64_t apikey_account_when(const apikey_account_t *v,
    const apikey_account_level_t *level, const apikey_account_limit_t *limit,
    uint64_t cost);

/* Microseconds until the value may go, or BUCKET_NEVER; after a write. */
uint64_t apikey_account_expire(const apikey_account_t *v, uint64_t horizon,
    uint64_t now);

/* NULL: not seen by any call. */
const apikey_account_level_t *apikey_account_level(const apikey_account_t *v,
    uint64_t id);


#endif /* APIKEY_ACCOUNT_H_INCLUDED */
