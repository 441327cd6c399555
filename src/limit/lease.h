
/*
 * A node's side of one account: the tokens it has leased and what became of
 * them, and the decision over several accounts.
 *
 * A lease lives in shared memory, all workers of a node spend from it; its
 * tally lives in the tmpfs file that outlives every process.  Both are the
 * caller's, as is the lock held around every call here (the zone's mutex).
 * Plain C, no allocation, no clock: now is CLOCK_BOOTTIME in microseconds,
 * read by the caller just before, and not a cached one.
 */


#ifndef APIKEY_LEASE_H_INCLUDED
#define APIKEY_LEASE_H_INCLUDED


#include <stdbool.h>
#include <stdint.h>

#include "limit/account.h"


#define APIKEY_LEASE_DRIFT  20           /* permille: what the rates of two
                                            clocks may differ by */
#define APIKEY_LEASE_LOOKS  10


typedef struct {
    uint64_t  burst;         /* tokens: the least capacity of the limits */
    uint64_t  time;          /* us: of a lease */
    uint64_t  trip;          /* us: to Redis and back */
    uint64_t  horizon;       /* us: Redis forgets sums that old */
    uint64_t  few;           /* tokens in one lease time for which none is
                                worth it */
    bool      direct;        /* no leases, whatever the demand */
    bool      slots;         /* of concurrent: never direct */
    bool      quota;         /* some limit never refills: no leases where
                                little of it is left */
    double    rate;          /* tokens a second: of what refills least; 0:
                                nothing does */
} apikey_lease_conf_t;


/* Zeroed memory is a lease that holds nothing. */

typedef struct {
    uint64_t  left;
    uint64_t  back;          /* to be returned: what was left when limits
                                changed */
    uint64_t  held;          /* by requests that wait for their TAKE */
    uint64_t  spent;         /* since the last ask() */
    uint64_t  busy;          /* slots that requests run in */
    int64_t   deadline;
    uint64_t  born;          /* Redis' names of this lease; 0: none */
    uint64_t  generation;
    uint64_t  era;
    uint64_t  epoch;         /* our name of it: what is held of another one
                                does not come back */
    uint64_t  call;          /* in flight; 0: none */
    uint64_t  calls;
    int64_t   asked;         /* when the last call was sent */
    int64_t   hold;          /* nothing is to be had until then */
    unsigned  holds;         /* one after the other */
    uint64_t  active;        /* nodes, as last told */
    uint64_t  room;          /* of its quotas, slow buckets or slots, as last
                                told, beside what is out */
    uint64_t  then;          /* room, at room_at */
    int64_t   room_at;
    double    pace;          /* tokens a second, by which it sank */
    double    demand;        /* tokens a second, of half a second or so */
    int64_t   demand_at;
    int64_t   since;         /* there was none for long before */
    uint64_t  cost;          /* the last one */
    uint64_t  recent;        /* demand since recent_at */
    int64_t   recent_at;
    int64_t   fell;          /* when demand last fell by much; 0: never */
    int64_t   full;          /* a limit may be full from then on; 0: always */
} apikey_lease_t;


/*
 * Settlements since this tmpfs file was made, which is what node names: a
 * new file is a new node.  sum > 0: less was used than was reserved.
 */

typedef struct {
    uint64_t  node;
    uint64_t  number;        /* of the last call that took the sums along */
    uint64_t  acked_number;
    int64_t   sum;
    int64_t   acked;
    int64_t   sent;          /* the sum of the last call */
    uint64_t  era;
    int64_t   part;          /* of sum, since era */
    int64_t   part_acked;
    int64_t   part_sent;
    int64_t   waiting;       /* since when a sum is not acknowledged; 0: all
                                are */
    int64_t   last;          /* when the last call was sent */
    uint64_t  doubt;         /* the last call that said what was not
                                acknowledged then */
} apikey_tally_t;


typedef enum {
    APIKEY_CLAIM_NONE = 0,
    APIKEY_CLAIM_LEASED,     /* spent */
    APIKEY_CLAIM_HELD,
    APIKEY_CLAIM_DIRECT,     /* TAKE has to take it */
    APIKEY_CLAIM_MISSING     /* wants a LEASE */
} apikey_claim_e;


/* What one request wants of one account; it belongs to the request. */

typedef struct {
    apikey_lease_t             *lease;
    const apikey_lease_conf_t  *conf;
    uint64_t                    cost;
    apikey_claim_e              state;
    uint64_t                    epoch;       /* of what is spent or held */
    int64_t                     deadline;
    uint64_t                    era;         /* TAKE's is set by the caller */
} apikey_claim_t;


typedef enum {
    APIKEY_LEASE_ADMITTED = 0,
    APIKEY_LEASE_REFUSED,
    APIKEY_LEASE_UNAVAILABLE,
    APIKEY_LEASE_WAIT,       /* for the MISSING, holding nothing */
    APIKEY_LEASE_TAKE        /* over the DIRECT, the others are HELD */
} apikey_lease_decision_e;


typedef enum {
    APIKEY_LEASE_NEVER = 0,  /* there is nothing that would be told */
    APIKEY_LEASE_LATER,
    APIKEY_LEASE_NOW
} apikey_lease_due_e;


/* A request comes; before decide(), whatever becomes of it. */
void apikey_lease_demand(apikey_lease_t *lease, uint64_t cost, int64_t now);

/*
 * So little refills in a second that TAKE may ask for each request of it, as
 * of a quota.
 */
bool apikey_lease_slow(const apikey_lease_t *lease, double rate);

/*
 * An answer says what is left of the scarce ones; fewest tokens.  full: us
 * until the first of those that refill can be full, 0 where none does.
 */
void apikey_lease_room(apikey_lease_t *lease, const apikey_lease_conf_t *conf,
    uint64_t room, uint64_t full, int64_t now);

/*
 * The limits are many leases of all nodes wide: what is out is missed by
 * nobody.  So a lease holds what its whole time may need, and is renewed late;
 * else half of it, and is renewed then.
 */
bool apikey_lease_ample(const apikey_lease_t *lease,
    const apikey_lease_conf_t *conf, double demand);

/*
 * What share of the demand is in wanted() when it has just begun: a lease that
 * outlives that by far is asked for by what it will be.
 */
double apikey_lease_known(const apikey_lease_t *lease,
    const apikey_lease_conf_t *conf, int64_t now);

/* Nothing is kept for a key that rests: it may be the last, or wanted. */
bool apikey_lease_rests(const apikey_lease_t *lease,
    const apikey_lease_conf_t *conf, int64_t now);

/* us: by then what is left on other nodes, and rests there, is back. */
uint64_t apikey_lease_return(const apikey_lease_conf_t *conf);

/* Tokens a second that are wanted now. */
double apikey_lease_wanted(const apikey_lease_t *lease, int64_t now);

/*
 * From all accounts or from none.  ADMITTED is not final before confirm().
 * A request that got TAKE is decided by taken() alone.
 */
apikey_lease_decision_e apikey_lease_decide(apikey_claim_t *claims,
    unsigned n, int64_t now);

/*
 * now was read after decide(): false, a deadline has passed in between (the
 * process was stopped); all is as before decide(), which is to be called
 * again.
 */
bool apikey_lease_confirm(apikey_claim_t *claims, unsigned n, int64_t now);

/*
 * TAKE's answer, yes or no.  UNAVAILABLE: yes, but what was held is void, and
 * what TAKE took is lost.
 */
apikey_lease_decision_e apikey_lease_taken(apikey_claim_t *claims,
    unsigned n, int64_t now, bool yes);

/* No answer, or the request went away: puts back what it holds. */
void apikey_lease_release(apikey_claim_t *claims, unsigned n);

/* Its worker died: what it held is spent. */
void apikey_lease_reclaim(apikey_claim_t *claims, unsigned n);

/*
 * An admitted request ended, in whichever worker; epoch: its claim's.  True:
 * its slot is to go back at once, others may be waiting for it.
 */
bool apikey_lease_leave(apikey_lease_t *lease,
    const apikey_lease_conf_t *conf, uint64_t slots, uint64_t epoch,
    int64_t now);

/*
 * The same of slots that are left, after an answer: they were left while its
 * call was on its way.
 */
bool apikey_lease_freed(const apikey_lease_t *lease,
    const apikey_lease_conf_t *conf, int64_t now);

/*
 * What is left goes back with the next call, which is to be sent now: TAKE
 * has refused what it would pay for.  False: there is nothing, or a call is
 * on its way that may bring it.
 */
bool apikey_lease_yield(apikey_lease_t *lease);


/* After an admission: a LEASE before the tokens run out. */
bool apikey_lease_ahead(const apikey_claim_t *claim, int64_t now);

/*
 * Now and then, after look() each time: NOW, a LEASE that renews and
 * returns, or a want of 0 for sums that are not acknowledged.  That is so at
 * half of the lease time; sooner after a fall of demand, and while such falls
 * come again as soon as the bucket is full but for what is spent and not told:
 * that keeps it from being full for the next pulse.
 */
apikey_lease_due_e apikey_lease_due(apikey_lease_t *lease,
    const apikey_tally_t *tally, const apikey_lease_conf_t *conf,
    int64_t now);

/* us: until due() is to be asked again. */
int64_t apikey_lease_look(const apikey_lease_t *lease,
    const apikey_lease_conf_t *conf, int64_t now);

/*
 * A LEASE is sent now: what it says, and its number.  need: the costs of
 * those that wait, least: the largest of them.  back: returns what is more
 * than needed.
 */
uint64_t apikey_lease_ask(apikey_lease_t *lease, apikey_tally_t *tally,
    const apikey_lease_conf_t *conf, uint64_t need, uint64_t least, bool back,
    int64_t now, apikey_account_ask_t *ask, apikey_account_sums_t *sums);

/*
 * Its answer; sent: the now of ask(), jitter: any number.  False: it comes
 * too late, what it grants is lost.
 */
bool apikey_lease_answer(apikey_lease_t *lease, uint64_t call,
    const apikey_account_ask_t *ask, const apikey_account_grant_t *grant,
    int64_t sent, int64_t now, uint64_t jitter);

/* No answer in time: all of the lease is void.  False: it was answered. */
bool apikey_lease_timeout(apikey_lease_t *lease, uint64_t call);

/*
 * Limits of the account came, went or were lowered, or the lease cannot be
 * trusted: all of it is void, as is the answer to a call in flight.  hold = 0
 * where a limit was raised.
 */
void apikey_lease_void(apikey_lease_t *lease);

/* The same, where the lease can be trusted: what is left goes back. */
void apikey_lease_retire(apikey_lease_t *lease, int64_t now);


/* A TAKE is sent: the sums that travel with it. */
void apikey_tally_send(apikey_tally_t *tally, uint64_t horizon, int64_t now,
    apikey_account_sums_t *sums);

/* Redis has all of it: no call that says anything else may be on its way. */
bool apikey_tally_clean(const apikey_tally_t *tally);

/* Any answer to a call that took these sums along, however late. */
void apikey_tally_acked(apikey_tally_t *tally,
    const apikey_account_sums_t *sums, uint64_t era);

/*
 * An answer cost less (more: < 0) than its reserve of era, which was admitted
 * age us ago.  What is over half a horizon old gives nothing back: a limit may
 * have come, or begun anew, that never was charged with it.
 */
void apikey_tally_add(apikey_tally_t *tally, int64_t tokens, uint64_t era,
    int64_t age, uint64_t horizon);


#endif /* APIKEY_LEASE_H_INCLUDED */
