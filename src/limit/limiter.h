
/*
 * What the files of a worker's limiter share: decide.c (who decides), claims.c
 * (the leases of a request), take.c (TAKE), ask.c (LEASE), wait.c (who waits
 * for it), renew.c (leases in time), limiter.c (the connection, the breaker).
 * Nobody else includes this.
 */


#ifndef NGX_HTTP_APIKEY_LIMITER_H_INCLUDED
#define NGX_HTTP_APIKEY_LIMITER_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/clock.h"
#include "limit/breaker.h"
#include "limit/decide.h"
#include "limit/holds.h"
#include "limit/leases.h"
#include "limit/level.h"
#include "limit/table.h"
#include "wire/redis_codec.h"


#define NGX_HTTP_APIKEY_LIMITER_WAITS  256
#define NGX_HTTP_APIKEY_LIMITER_KEY    256    /* no key is longer */


struct ngx_http_apikey_limit_sh_s {
    ngx_http_apikey_breaker_t      breaker;
    ngx_http_apikey_table_t       *table;
    ngx_http_apikey_leases_t      *leases;
    ngx_http_apikey_holds_t       *holds;
    ngx_uint_t                     mode;         /* of the last worker that
                                                    has started */
};


/* What a decision keeps of one of its accounts beside the claim. */

struct ngx_http_apikey_part_s {
    ngx_http_apikey_decision_t    *decision;
    ngx_queue_t                    queue;        /* of those who wait for the
                                                    entry's LEASE */
    uint64_t                       call;         /* its number */
    uint32_t                       entry;
    uint32_t                       hold;
    apikey_account_sums_t          sums;         /* as TAKE took them along */
    apikey_lease_conf_t            conf;         /* where it is not entry's */
    unsigned                       waits:1;
    unsigned                       ahead:1;      /* to be refilled */
    unsigned                       foreign:1;    /* another worker has asked */
    unsigned                       none:1;       /* there was no entry */
    unsigned                       taken:1;      /* TAKE was asked about it */
    unsigned                       refused:1;    /* ... and refused for it */
    unsigned                       yields:1;     /* its lease goes back */
};


typedef struct ngx_http_apikey_ask_s  ngx_http_apikey_ask_t;


struct ngx_http_apikey_limiter_s {
    ngx_http_apikey_limit_conf_t   conf;
    ngx_http_apikey_redis_t       *redis;        /* NULL in local mode */
    u_char                         sha[40];

    u_char                        *scratch;
    size_t                         scratch_size;

    ngx_queue_t                    queue;        /* decisions that wait for
                                                    the connection */
    ngx_uint_t                     queued;
    ngx_event_t                    timer;        /* of the queue */

    ngx_event_t                    watch;        /* of an open breaker */
    ngx_http_apikey_redis_call_t   probe;

    ngx_http_apikey_lease_entry_t  none;         /* of accounts for which the
                                                    zone has no room */
    ngx_int_t                      seat;         /* NGX_ERROR: none */
    uint64_t                       id;           /* of this worker, unlike
                                                    any other's */
    ngx_http_apikey_ask_t         *asks;         /* free ones */
    ngx_queue_t                    waits[NGX_HTTP_APIKEY_LIMITER_WAITS];
    ngx_queue_t                    waiting;      /* decisions, by deadline */
    ngx_event_t                    poll;         /* of those */
    ngx_event_t                    tick;         /* of the wheel */
    ngx_msec_t                     ordered;      /* seats were looked at */

    time_t                         complained;
    uint64_t                       missed;       /* owed, and complained of */

    unsigned                       hope:1;       /* no attempt to connect has
                                                    failed yet */
    unsigned                       up:1;
    unsigned                       ticks:1;      /* something is queued */
};


/* limiter.c */

/* Waits for the connection; NGX_DECLINED: there is nothing to wait for. */
ngx_int_t ngx_http_apikey_limiter_wait(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d);

/* A call failed, or an attempt to connect. */
void ngx_http_apikey_limiter_failed(ngx_http_apikey_limiter_t *l);

/* The breaker is open: this worker looks after its probes, too. */
void ngx_http_apikey_limiter_watch(ngx_http_apikey_limiter_t *l);

/* Logs once in a while. */
void ngx_http_apikey_limiter_complain(ngx_http_apikey_limiter_t *l,
    ngx_uint_t level, char *what, ngx_str_t *text);

/* Room for what is sent; NGX_ERROR: no memory. */
ngx_int_t ngx_http_apikey_limiter_scratch(ngx_http_apikey_limiter_t *l,
    size_t size);

/*
 * Sends the script; argv[3] is the first key, argv[0], argv[1] and the head
 * behind the keys are filled here, the head at p, and one behind the last.
 * text: with its text.
 */
ngx_int_t ngx_http_apikey_limiter_send(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_redis_call_t *call, u_char *p, ngx_uint_t op,
    uint64_t complete, ngx_uint_t text, ngx_uint_t argc, ngx_str_t *argv);

/* Redis may be asked now. */
ngx_uint_t ngx_http_apikey_limiter_ready(ngx_http_apikey_limiter_t *l);

/* decide.c */

/* What it waited for is there, or will not be: the handler will run. */
void ngx_http_apikey_decide_resume(ngx_http_apikey_decision_t *d);
void ngx_http_apikey_decide_failed(ngx_http_apikey_decision_t *d);

/* What of the account's cost this limit must have left to let it pass. */
uint64_t ngx_http_apikey_decide_need(const apikey_limit_t *limit,
    const ngx_http_apikey_account_t *account);

/* Of a limit, out members by the level that Redis had at now. */
void ngx_http_apikey_decide_level(ngx_http_apikey_bucket_t *out,
    const ngx_http_apikey_account_t *account, const apikey_bucket_t *level,
    uint64_t now);

/* Of a limit with a period: reset and wait go by that. */
void ngx_http_apikey_decide_period(ngx_http_apikey_bucket_t *out,
    const ngx_http_apikey_account_t *account, uint64_t now);

/* TAKE has decided. */
void ngx_http_apikey_decide_taken(ngx_http_apikey_decision_t *d,
    ngx_int_t rc);

/*
 * known.c: a worker has started; who goes on alone after Redis knows no more
 * what is used of a quota.
 */
void ngx_http_apikey_limiter_mode(ngx_http_apikey_limiter_t *l);

/* claims.c: with the zone's mutex held by the caller */

/* From all leases or from none; *now is read and read again. */
apikey_lease_decision_e ngx_http_apikey_claims_decide(
    ngx_http_apikey_limiter_t *l, ngx_http_apikey_decision_t *d,
    ngx_uint_t first);

/* Puts back what is held. */
void ngx_http_apikey_claims_release(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d);

/* TAKE has answered: nothing is held any more, but slots of what runs. */
void ngx_http_apikey_claims_settled(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, ngx_uint_t admitted);

/* Of one account: buckets' out members, from what is known here. */
void ngx_http_apikey_claims_seen(ngx_http_apikey_decision_t *d, ngx_uint_t i,
    const ngx_http_apikey_lease_entry_t *entry);
void ngx_http_apikey_claims_out(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_account_t *account, ngx_http_apikey_lease_entry_t *entry,
    int64_t now);

ngx_http_apikey_lease_entry_t *ngx_http_apikey_claims_entry(
    ngx_http_apikey_limiter_t *l, ngx_http_apikey_part_t *part);

/* from: an account, or its entry. */
#define ngx_http_apikey_claims_tally(l, from, now)                            \
    ngx_http_apikey_claims_tally_get(l, (from)->root, (from)->holder,         \
                                     (from)->level, (from)->unit,             \
                                     (from)->scope, now)

apikey_tally_t *ngx_http_apikey_claims_tally_get(ngx_http_apikey_limiter_t *l,
    const u_char root[16], const u_char holder[16], ngx_uint_t level,
    ngx_uint_t unit, uint64_t scope, int64_t now);

/*
 * seed.c: what a node that goes on alone starts from, the levels it has seen;
 * with the zone's mutex held.
 */
void ngx_http_apikey_seed(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, int64_t now);

/*
 * known.c, with the zone's mutex held: a quota that refuses nothing would be
 * unknown for ever, and who pays nothing would never be told what is left.
 * Whoever comes first, and once a second, asks what is used of it: 1,
 * d->blind.  unpaid(): a TAKE that paid nothing has just said that this is so.
 * told(): there was an answer, which Redis should hear.
 */
ngx_uint_t ngx_http_apikey_known_blind(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, int64_t now);
ngx_uint_t ngx_http_apikey_known_unpaid(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, int64_t now);
ngx_uint_t ngx_http_apikey_known_told(
    const ngx_http_apikey_account_t *account);

/*
 * By when all that was leased is void if something was lost then; and the same
 * of what this limit may have gone with, into d->least.
 */
uint64_t ngx_http_apikey_known_void(uint64_t lost, uint64_t time);
void ngx_http_apikey_known_gone(ngx_http_apikey_decision_t *d,
    const ngx_http_apikey_bucket_t *b, uint64_t time);

/* take.c: NGX_ERROR: not sent. */
ngx_int_t ngx_http_apikey_take(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d);

/* quiet.c: 1: TAKE would refuse this, or somebody asks just now. */
ngx_uint_t ngx_http_apikey_quiet(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, int64_t now);

/* TAKE has answered; us: until it has room, 0: nobody knows. */
void ngx_http_apikey_quiet_told(ngx_http_apikey_lease_entry_t *entry,
    ngx_http_apikey_account_t *account, ngx_uint_t taken, uint64_t us,
    int64_t now);

/* us between two looks of a node at what is used up. */
uint64_t ngx_http_apikey_quiet_pace(const apikey_limit_t *limit);

/*
 * yield.c: with the zone's mutex held; 1: leases are to go back, by again()
 * without it.  The connection carries the LEASE before the TAKE.
 */
ngx_uint_t ngx_http_apikey_yield(ngx_http_apikey_decision_t *d);
void ngx_http_apikey_yield_again(ngx_http_apikey_decision_t *d);
/* After an answer, and who waited for it: slots that nobody has taken. */
void ngx_http_apikey_yield_freed(ngx_http_apikey_limiter_t *l,
    uint32_t index);

/* wait.c */

/* For all that is missing; NGX_ERROR: it cannot be asked for. */
ngx_int_t ngx_http_apikey_wait(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d);
void ngx_http_apikey_wait_cancel(ngx_http_apikey_decision_t *d);

/* Who waits in this worker for this entry decides again, or gives up. */
void ngx_http_apikey_wait_wake(ngx_http_apikey_limiter_t *l, uint32_t entry,
    ngx_uint_t ok);

/* What they wait for in all, and the largest of it. */
void ngx_http_apikey_wait_need(ngx_http_apikey_limiter_t *l, uint32_t entry,
    uint64_t *need, uint64_t *least);

void ngx_http_apikey_wait_start(ngx_http_apikey_limiter_t *l);
void ngx_http_apikey_wait_stop(ngx_http_apikey_limiter_t *l);

/* ask.c */

/* Refills ahead, without waiting. */
void ngx_http_apikey_ask_ahead(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d);

/*
 * back: to renew, and to return what is not needed.  NGX_OK: asked; NGX_BUSY:
 * somebody has; NGX_DECLINED: it is nobody's; NGX_ERROR: Redis cannot be.
 */
ngx_int_t ngx_http_apikey_ask(ngx_http_apikey_limiter_t *l, uint32_t index,
    ngx_uint_t back);

/* The call in flight has been so for too long: nobody waits for its answer. */
ngx_uint_t ngx_http_apikey_ask_stale(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_lease_entry_t *entry, int64_t now);

void ngx_http_apikey_ask_stop(ngx_http_apikey_limiter_t *l);

/* rolls.c: with the zone's mutex held by the caller */

/* A request has ended: what it gives back to what rolls, or owes. */
void ngx_http_apikey_rolls_settle(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry, ngx_http_apikey_decision_t *d,
    ngx_http_apikey_account_t *account, int64_t now);

/* It goes along with this LEASE, or with this TAKE. */
void ngx_http_apikey_rolls_lease(ngx_http_apikey_lease_limit_t *limit,
    apikey_account_limit_t *terms);
void ngx_http_apikey_rolls_take(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry, ngx_http_apikey_account_t *account);

/* Nobody knows whether that arrived; without terms it was the TAKE. */
void ngx_http_apikey_rolls_keep(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_account_t *account, const apikey_account_limit_t *terms,
    ngx_uint_t n);

/* renew.c */
void ngx_http_apikey_renew_start(ngx_http_apikey_limiter_t *l);
void ngx_http_apikey_renew_stop(ngx_http_apikey_limiter_t *l);

/* There may be something in the wheel. */
void ngx_http_apikey_renew_arm(ngx_http_apikey_limiter_t *l);

#endif /* NGX_HTTP_APIKEY_LIMITER_H_INCLUDED */
