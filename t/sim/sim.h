
/*
 * A simulator of nodes, Redis and the network between them over the limiter's
 * own C: limit/account.h is Redis, limit/lease.h are the nodes.
 *
 * One run is one configuration; all of it follows from its seed.  world.c
 * runs it, redis.c is the Redis side with the ablations, judge.c judges
 * without looking at the protocol's state, config.c makes configurations.
 * An ablation is a way to misuse the API; the product knows nothing of it.
 */


#ifndef SIM_H_INCLUDED
#define SIM_H_INCLUDED


#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "limit/account.h"
#include "limit/lease.h"


#define START     INT64_C(1000000000000)     /* us: when a run begins */
#define NODES     32
#define WORKERS   4
#define ACCOUNTS  16
#define LIMITS    4
#define VERSIONS  8
#define ITEMS     6
#define NAMES     256
#define PERIODS   1024
#define FIRST_NAME  1000000      /* of differences: one each */
#define PRIMARIES   3


typedef enum {
    AB_NONE = 0,
    AB_NOCAP,            /* no capacity rule */
    AB_EXPIRED,          /* expired tokens credited */
    AB_SETTLE_FIRST,     /* settled before the refill */
    AB_DELTA_RESEND,     /* differences instead of sums, resent if lost */
    AB_DELTA,            /* ... not resent */
    AB_TAKE_RESEND,
    AB_RELEASE_LATE,     /* a hold put back into a later lease */
    AB_HOLD_LATE,        /* a hold spent after its deadline */
    AB_HOLD_NOT_KEPT,    /* holds not told at renewal */
    AB_NO_CONFIRM,       /* no second look at the deadline */
    AB_TAKE_FULL,        /* TAKE refills to B, not to B - O */
    AB_NO_SPLIT,         /* write-off before the refill */
    AB_NO_NUMBER,        /* no number on the sums */
    AB_NO_ACK,           /* an unknown entry counts as 0 */
    AB_SAME_ID,          /* power loss keeps the node's name */
    AB_SHORT_PX,         /* expiry = time to full */
    AB_TAKE_REFUND,      /* what TAKE took is given back for a void hold */
    AB_LEAK_DEAD,        /* a dead worker's holds are not reclaimed */
    AB_EDIT_REFILLS,     /* a new limit starts full, O or not */
    AB_EDIT_KEEPS,       /* leases outlive a new limit */
    AB_STRADDLE,         /* deadlines are not cut at the end of a period */
    AB_PART,             /* settlements of the last period credit this one */
    AB_SAME_EPOCH,       /* failover not noticed */
    AB_EPOCH_FORGETS,    /* failover: O is 0 */
    AB_BUSY,             /* slots that are in use not told at renewal */
    AB_TIME,             /* another lease time while O > 0 */
    AB_TRIM,             /* trim admits where nothing is left */
    AB_ROLL_LATE,        /* given back though it has left the window */
    AB_ROLL_TWICE,       /* what is given back is said again if lost */
    AB_ROLL_OUT,         /* what is out does not count in a window */
    AB_UNTOUCHED,        /* a value made anew by who knew of no use is kept */
    AB_SCARCE,           /* quotas are leased to their end */
    AB_MOVED,            /* what another primary wrote is never lost */
    AB_UNASKED,          /* a slot moves on that nobody asked for since its
                            primary was promoted */
    AB_ROLL_FREE,        /* charges do not count in a rolling window */
    AB_MISSED,           /* a charge from before a loss is dropped */
    AB_CHARGE_NAME,      /* each call of a charge has a name of its own */
    AB_DOUBT,            /* a charge in doubt is charged as any other */
    AB_GONE,             /* a value made when all went is as good as another */
    ABLATIONS
} ablation_e;


typedef enum { BUCKET, PERIOD, TOTAL, SLOTS, ROLLING } kind_e;


typedef struct {
    kind_e           kind;
    bool             there;          /* in this version */
    uint64_t         n, p, burst;    /* tokens a p; burst: the limit of all
                                        but buckets */
    uint64_t         fill;           /* tokens, of a period */
    int64_t          length, offset; /* us, of a period */
    int64_t          made;
    uint8_t          mode;           /* of TAKE */
    apikey_rate_t    rate;
} limit_t;


typedef struct {
    int64_t          from;           /* us: edited */
    uint64_t         time;           /* of a lease */
    limit_t          limits[LIMITS];
} version_t;


typedef struct {
    unsigned         nversions;
    version_t        versions[VERSIONS];
    char             mode;           /* L leased, D direct, A automatic, M by
                                        node */
    uint64_t         lo, hi;         /* cost */
    bool             settle, above, slots;
    bool             whole;          /* some costs are not known */
} acct_t;


typedef struct {
    int64_t          t;
    int              node, worker, naccts;
    int              accts[ITEMS];
} arrival_t;


typedef enum {
    F_NODE_STOP, F_WORKER_STOP, F_WORKER_KILL, F_KILL, F_POWER, F_SNAPSHOT,
    F_DEAD, F_FAILOVER, F_FLUSH,
    F_MOVE,              /* of account node to primary worker */
    F_MODE,              /* leased, direct; direct, leased */
    F_ALONE              /* without Redis */
} fault_e;


typedef struct {
    int64_t          t, span;
    fault_e          kind;
    int              node, worker;       /* the primary, of those of Redis */
} fault_t;


typedef struct {
    uint64_t         seed;
    int              nodes, workers, primaries;  /* 1: no Cluster */
    int64_t          rtt, tau, drain, learn;
    double           lossq, lossr, spike, die, stop;
    bool             drift, ref, long_runs;
    bool             late;           /* what Postgres knows is told when it
                                        was missed */
    bool             exact;          /* without faults: a total is used up
                                        before anyone is refused */
    bool             alone;          /* nodes go on without Redis */
    uint64_t         horizon;
    int              naccts, narrivals, nfaults;
    acct_t           accts[ACCOUNTS];
    arrival_t       *arrivals;
    fault_t          faults[1024];
} cfg_t;


typedef struct {
    uint64_t         requests, admitted, denied, unavailable, nowait, calls;
    uint64_t         alone;
    uint64_t         takes, crashes, stops, void_holds, old_holds, held_calls;
    uint64_t         ref, epochs, moves, rolled, uncovered_runs;

    /* judges */
    uint64_t         over, over_hold, over_take, quota, slots, conserve;
    uint64_t         ledger, order, twice, late, early;
    double           debt;
    bool             quiet;
} stats_t;


typedef struct {
    int64_t          t, th, tr;      /* decision, hold, TAKE */
    uint64_t         o, oh, or;      /* order among equal times */
    uint64_t         cost;
    unsigned         version;
} admission_t;


typedef struct {
    int64_t          t;
    uint64_t         o;
    int64_t          tokens[LIMITS];
} credit_t;


/* Of a rolling window: so much comes back of the admission at (at, ao). */

typedef struct {
    int64_t          t;
    uint64_t         o;
    int64_t          at;
    uint64_t         ao;
    int64_t          tokens;
} given_t;


/* Settlements of rolling windows, on their way. */

typedef struct {
    uint64_t         back, since, more;
    uint64_t         call;               /* the charges' */
} roll_t;


/* One of them: pending, or said by a call. */

typedef struct {
    int              node;
    uint64_t         call;               /* 0: pending */
    int64_t          tokens;
    bool             heard;
} charge_t;


/* What one node has settled of one account, in this order. */

typedef struct {
    size_t           n, size, heard;     /* heard: by Redis */
    admission_t     *adm;
    int64_t         *tokens;
} settled_t;


/* What a judge keeps of one account. */

typedef struct {
    size_t           nadm, ncred, sadm, scred, ngiven, sgiven;
    size_t           ncharge, scharge, nheard, sheard;
    admission_t     *adm;
    credit_t        *cred;
    given_t         *given;
    charge_t        *charge;
    given_t         *heard;              /* charges, as Redis got them */
    int64_t          period[LIMITS];         /* the last one that was used */
    int64_t          sum[LIMITS][PERIODS];
    uint64_t         granted, returned, taken;
    uint64_t         spent, lost, tspent, tlost;
    settled_t        own[NAMES];
    int64_t          settled, credited;
    int64_t          running;
    bool             missed;         /* a quota was unknown to Redis */
    int64_t          alone[LIMITS], heard_alone[LIMITS];
    int64_t          told[LIMITS][NODES];
    int64_t          paid[LIMITS], kept[LIMITS];
    uint64_t         lost_at;        /* of paid */
} book_t;


typedef struct {
    apikey_account_t value, copy;
    int64_t          expires, copy_expires;  /* 0: never */
    int              primary;
    bool             asked;          /* since it was promoted */
} redis_t;


typedef struct {
    uint64_t         epoch;
    int64_t          since;
    bool             dead;
} primary_t;


typedef struct {
    const cfg_t     *cfg;
    ablation_e       ab;
    stats_t          st;
    int64_t          now;
    uint64_t         order;
    uint64_t         rng;
    redis_t          redis[ACCOUNTS];
    book_t           books[ACCOUNTS];
    primary_t        primaries[PRIMARIES];
    uint64_t         epochs, charges;
    uint64_t         gone;           /* all values went */
} world_t;


/* config.c */
void config_free(cfg_t *c);
void config_random(cfg_t *c, uint64_t seed, int n, bool stress);
void config_edge(cfg_t *c, uint64_t seed);
void config_late(cfg_t *c, uint64_t seed);
void config_lost(cfg_t *c, uint64_t seed);
void config_edits(cfg_t *c, uint64_t seed, int n);
void config_quotas(cfg_t *c, uint64_t seed, int n);
void config_modes(cfg_t *c, uint64_t seed, int n);
void config_budgets(cfg_t *c, uint64_t seed, int n);
void config_periods(cfg_t *c, uint64_t seed, int n);
void config_slots(cfg_t *c, uint64_t seed, int n);
void config_failover(cfg_t *c, uint64_t seed, int n);
void config_rolling(cfg_t *c, uint64_t seed, int n);
void config_cluster(cfg_t *c, uint64_t seed, int n);
void config_alone(cfg_t *c, uint64_t seed, int n);

typedef struct {
    int       rate, naccts, nodes, n;
    int64_t   rtt, time;
    double    load;
    uint64_t  burst;
    bool      loss, pulses, other;
    double    skew;
    const char *modes;
} clean_t;

void config_clean(cfg_t *c, const clean_t *clean);

/* figures.c */
void figures(void);

/* world.c */
void world_run(world_t *w, const cfg_t *c, ablation_e ab);

/* redis.c */
void redis_start(world_t *w);
void redis_lease(world_t *w, int a, unsigned version,
    apikey_account_ask_t *ask, apikey_account_sums_t *sums,
    const roll_t *roll, apikey_account_grant_t *grant);
bool redis_take(world_t *w, int n, const int *accts, const unsigned *versions,
    uint64_t *costs, apikey_account_sums_t *sums, const roll_t *rolls,
    uint64_t *eras);
uint64_t redis_room(world_t *w, int a, unsigned version,
    const apikey_lease_t *lease, uint64_t *full);
bool redis_reach(const world_t *w, int n, const int *accts);
void redis_copy(world_t *w, int p);
void redis_failover(world_t *w, int p);
void redis_move(world_t *w, int a, int p);
void redis_flush(world_t *w);

/* judge.c */
void judge_admitted(world_t *w, int a, const admission_t *adm);
size_t judge_sent(const world_t *w, int a, uint64_t node);
void judge_heard(world_t *w, int a, uint64_t node, size_t n);
void judge_settled(world_t *w, int a, uint64_t node, const admission_t *adm,
    int64_t tokens);
void judge_charged(world_t *w, int a, int node, int64_t tokens);
void judge_said(world_t *w, int a, int node, uint64_t was, uint64_t call);
void judge_rolled(world_t *w, int a, uint64_t call);
uint64_t judge_known(world_t *w, int a, unsigned limit, int64_t now);
void judge_end(world_t *w);

/* judge_alone.c */
void judge_alone(world_t *w, int a, uint64_t cost);
void judge_told(world_t *w, int a, unsigned i, int node, int64_t sum);
void judge_taken(world_t *w, int a, uint64_t cost);
void judge_paid(world_t *w, int a);
void judge_kept(world_t *w, int a);
void judge_rest(world_t *w, int a, uint64_t left);

/* judge.c */
void judge_free(world_t *w);


static inline uint64_t
rnd(uint64_t *state, uint64_t below)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;

    return below ? (*state * 0x2545f4914f6cdd1dULL >> 11) % below : 0;
}


static inline double
unit(uint64_t *state)
{
    return (double) rnd(state, UINT64_C(1) << 40) / 1099511627776.0;
}


static inline double
between(uint64_t *state, double a, double b)
{
    return a + (b - a) * unit(state);
}


static inline bool
chance(uint64_t *state, double p)
{
    return p > 0 && unit(state) < p;
}


#endif /* SIM_H_INCLUDED */
