
/*
 * The decision over all limits of a request: all or nothing.
 *
 * The caller describes the accounts of the request; decide() answers at once
 * (tokens are at hand, local mode, breaker open, nothing to decide) or
 * suspends until Redis has answered.  Accounts, buckets and their strings live
 * in the request's pool until the log phase has settled them.
 *
 * An account is (holder, unit, scope); all its limits are paid by the same
 * cost.  Nothing here knows keys or requests.
 */


#ifndef NGX_HTTP_APIKEY_DECIDE_H_INCLUDED
#define NGX_HTTP_APIKEY_DECIDE_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/limit.h"
#include "base/stats.h"
#include "limit/gauge.h"
#include "limit/lease.h"
#include "limit/tallies.h"
#include "wire/redis.h"


typedef struct ngx_http_apikey_limit_sh_s  ngx_http_apikey_limit_sh_t;
typedef struct ngx_http_apikey_limiter_s   ngx_http_apikey_limiter_t;
typedef struct ngx_http_apikey_decision_s  ngx_http_apikey_decision_t;
typedef struct ngx_http_apikey_part_s      ngx_http_apikey_part_t;


/* Where in the zone something of an account stands; NULL: nowhere. */

typedef struct {
    const void  *link;
    const void  *entry;
} ngx_http_apikey_limit_at_t;


/* One limit, whatever its kind. */

typedef struct {
    const apikey_limit_t  *limit;
    apikey_period_t        period;       /* that holds now; zeros: none */
    uint64_t               known;        /* tokens used by Postgres, where it
                                            was asked */
    unsigned               asked:1;

    /* out */
    uint64_t               used;         /* tokens, also beyond the limit */
    uint64_t               remaining;    /* tokens, after this request */
    uint64_t               reset;        /* us until full again; UINT64_MAX
                                            never */
    uint64_t               wait;         /* us until this cost would fit;
                                            UINT64_MAX never */
    uint64_t               paid_in;      /* end of the period it was paid in;
                                            0: it has none */
    uint64_t               back;         /* private: of settlements, what TAKE
                                            takes along */
    uint64_t               since;
    uint64_t               more;
    unsigned               refused:1;
    unsigned               unknown:1;    /* its use is nowhere but in Postgres:
                                            ngx_http_apikey_limiter_known() */
    unsigned               touched:1;    /* private: of a quota this node has
                                            seen some use */
    apikey_gauge_t        *gauge;        /* private, under the mutex */
} ngx_http_apikey_bucket_t;


typedef struct {
    u_char                     root[16];     /* hash tag: the owner's UUID, or
                                                the key's without owner */
    u_char                     holder[16];
    uint8_t                    level;        /* apikey_level_e */
    uint8_t                    unit;
    uint64_t                   scope;
    uint64_t                   cost;         /* tokens; 0 only looks.  Out:
                                                what was taken */
    uint64_t                   actual;       /* in, of settle(): what it really
                                                was */
    uint64_t                   out;          /* out, of a look: tokens that
                                                are leased */
    unsigned                   whole:1;      /* unknown: all that is left */
    unsigned                   unseen:1;     /* out: nothing is known of it */
    ngx_uint_t                 nbuckets;
    ngx_http_apikey_bucket_t  *buckets;
} ngx_http_apikey_account_t;


struct ngx_http_apikey_decision_s {
    ngx_http_apikey_account_t  *accounts;
    ngx_uint_t                  naccounts;
    ngx_pool_t                 *pool;        /* of the request */

    void                      (*handler)(ngx_http_apikey_decision_t *d);
    void                       *data;

    unsigned                    look:1;      /* nothing is to be paid, all
                                                costs are 0: what Redis says,
                                                and nobody else */
    int64_t                     decided_at;  /* us since the epoch.  In: now;
                                                out: when it was decided, in
                                                leased and direct mode by
                                                Redis' time */

    /* out, valid when decide() did not return NGX_AGAIN or handler ran */
    ngx_int_t                   rc;          /* NGX_OK admitted, NGX_DECLINED
                                                refused by a limit, NGX_ERROR
                                                unavailable */
    apikey_mode_e               mode;
    ngx_uint_t                  share;       /* a token was paid by so many:
                                                nodes, where each takes its
                                                share of what there is */
    int64_t                     paid_at;     /* boottime, where it is settled
                                                in Redis */
    uint64_t                    wait;        /* us, where it is unavailable:
                                                until Redis believes what is
                                                told; 0: not known */
    uint64_t                    after;       /* us, by Redis' time, where use
                                                is unknown: what it was until
                                                then has to be in the answer;
                                                if it is to come, Redis may
                                                have lost nothing */
    uint64_t                    least;       /* us, likewise, where after is
                                                to come */
    uint64_t                    complete;    /* us, in: what buckets' known
                                                have is all of it until then */
    unsigned                    known:1;     /* buckets' out members hold but
                                                of accounts that are unseen,
                                                of which nothing is wanted;
                                                else, where a limit refused
                                                and Redis is up, those of
                                                accounts that are not
                                                unseen */
    unsigned                    unknown:1;   /* rc NGX_ERROR: of some bucket
                                                the use has to be asked for */
    unsigned                    blind:1;     /* ... that refuses nothing */
    unsigned                    anyway:1;    /* in: nobody can be asked */
    unsigned                    waited:1;    /* in: for who was asked while
                                                Redis was away; it waits for
                                                Redis no more */

    /* private to the limiter */
    ngx_http_apikey_redis_call_t  call;
    ngx_event_t                   event;     /* posted: handler runs from it */
    ngx_queue_t                   queue;
    ngx_http_apikey_limiter_t    *limiter;
    apikey_claim_t               *claims;    /* one an account */
    ngx_http_apikey_part_t       *parts;     /* likewise */
    unsigned                      waiting:1;
    unsigned                      queued:1;  /* for the connection */
    unsigned                      asking:1;  /* for a LEASE */
    unsigned                      resent:1;  /* after NOSCRIPT */
    unsigned                      held:1;    /* in the zone, by claims */
    unsigned                      ahead:1;   /* some lease runs low */
    unsigned                      again:1;   /* it has given leases back */
    unsigned                      over:1;    /* TAKE refused what would not fit
                                                beside its own leases */
};


typedef enum {
    NGX_HTTP_APIKEY_LIMIT_LOCAL = 0,
    NGX_HTTP_APIKEY_LIMIT_DIRECT,
    NGX_HTTP_APIKEY_LIMIT_LEASED
} ngx_http_apikey_limit_mode_e;


typedef enum {
    NGX_HTTP_APIKEY_DOWN_LOCAL = 0,
    NGX_HTTP_APIKEY_DOWN_DENY,
    NGX_HTTP_APIKEY_DOWN_ALLOW
} ngx_http_apikey_down_e;


typedef struct {
    ngx_http_apikey_limit_sh_t    *sh;
    ngx_slab_pool_t               *shpool;
    apikey_stats_t                *stats;        /* stats->nodes: N of local */
    ngx_http_apikey_limit_mode_e   mode;
    ngx_http_apikey_down_e         down;
    ngx_uint_t                     nodes;        /* configured; 0: as seen */
    ngx_http_apikey_redis_conf_t  *redis;        /* NULL in local mode */
    apikey_tallies_t              *tallies;
    ngx_log_t                     *log;
} ngx_http_apikey_limit_conf_t;


/*
 * known.c: what was used of a limit, where d->unknown has said that nobody
 * knows.  It is to be decided again then.  Whatever was recorded before born
 * (us since the epoch) must be part of it, where mode has decided.
 */
uint64_t ngx_http_apikey_limiter_born(ngx_http_apikey_limiter_t *l,
    apikey_mode_e mode);
void ngx_http_apikey_limiter_known(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_account_t *account, const apikey_limit_t *limit,
    uint64_t used);

/*
 * look.c: what this node's own counts say of a limit now, into the bucket's
 * out members; it is not in use: NGX_DECLINED.  looks(): whether they are all
 * there is, which is so in local mode.
 */
ngx_uint_t ngx_http_apikey_limiter_looks(ngx_http_apikey_limiter_t *l);
ngx_int_t ngx_http_apikey_limiter_look(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_account_t *account, ngx_http_apikey_bucket_t *bucket,
    int64_t real);

/*
 * Which limits are in use to so many percent or more, not refilled to now: n
 * of them at most, from *pos on; returns how many, 0 at the end.
 */
typedef struct {
    u_char    holder[16];
    uint64_t  scope;
    uint64_t  id;
    uint8_t   level;
    uint8_t   unit;
} ngx_http_apikey_limit_used_t;

ngx_uint_t ngx_http_apikey_limiter_used(ngx_http_apikey_limiter_t *l,
    ngx_uint_t percent, uint32_t *pos, ngx_http_apikey_limit_used_t *used,
    ngx_uint_t n);

/*
 * scan.c: every account that Redis has a value of.  limiter_scan(): NGX_OK:
 * account() runs for each, then done(), NGX_OK or NGX_ERROR; else Redis cannot
 * be asked.  What is allocated in account()'s pool is gone after some calls.
 */

#define NGX_HTTP_APIKEY_SCAN_PRIMARIES  256

typedef struct {
    uint64_t  id;
    double    used;              /* tokens, not refilled to now */
} ngx_http_apikey_scanned_level_t;

typedef struct {
    u_char                           root[16];
    u_char                           holder[16];
    uint64_t                         scope;
    uint8_t                          level;
    uint8_t                          unit;
    ngx_uint_t                       nlevels;
    ngx_http_apikey_scanned_level_t  levels[APIKEY_ACCOUNT_LEVELS];
} ngx_http_apikey_scanned_t;

typedef struct ngx_http_apikey_limit_scan_s  ngx_http_apikey_limit_scan_t;

struct ngx_http_apikey_limit_scan_s {
    void                          (*account)(
                                      ngx_http_apikey_limit_scan_t *scan,
                                      const ngx_http_apikey_scanned_t *scanned,
                                      ngx_pool_t *pool);
    void                          (*done)(ngx_http_apikey_limit_scan_t *scan,
                                      ngx_int_t rc);
    void                           *data;

    /* private */
    ngx_http_apikey_limiter_t      *limiter;
    ngx_http_apikey_redis_call_t    call;
    ngx_event_t                     event;
    ngx_int_t                       rc;
    u_char                          cursor[20];
    size_t                          ncursor;
    uint16_t                        tags[NGX_HTTP_APIKEY_SCAN_PRIMARIES];
    ngx_uint_t                      ntags;       /* 0: there is one server */
    ngx_uint_t                      tag;
};

ngx_int_t ngx_http_apikey_limiter_scan(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_limit_scan_t *scan);
void ngx_http_apikey_limiter_scan_cancel(ngx_http_apikey_limit_scan_t *scan);

ngx_http_apikey_limit_sh_t *ngx_http_apikey_limit_init_zone(
    ngx_slab_pool_t *shpool, size_t size, ngx_log_t *log);

ngx_http_apikey_limiter_t *ngx_http_apikey_limiter_start(ngx_pool_t *pool,
    ngx_http_apikey_limit_conf_t *conf);
void ngx_http_apikey_limiter_stop(ngx_http_apikey_limiter_t *l);

/*
 * ahead.c: a hint that decide() will be asked about this limit of this account
 * (its holder, level, unit, and scope), as early as that is known.  at: where
 * that is.
 */
void ngx_http_apikey_decide_ahead(ngx_http_apikey_limiter_t *l,
    const ngx_http_apikey_account_t *account, const apikey_limit_t *limit,
    ngx_http_apikey_limit_at_t *at);

/* Bytes of such an entry. */
size_t ngx_http_apikey_decide_ahead_size(ngx_http_apikey_limiter_t *l);

/*
 * NGX_OK, NGX_DECLINED, NGX_ERROR: d->rc, the handler will not run.
 * NGX_AGAIN: the handler will run, from a posted event.
 */
ngx_int_t ngx_http_apikey_decide(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d);

/*
 * The request goes away while it waits: the handler will not run.  Of what was
 * decided already, but not told, tokens, money and slots go back.
 */
void ngx_http_apikey_decide_cancel(ngx_http_apikey_decision_t *d);

/*
 * The request that was admitted has ended, and actual of every account is
 * set: in the log phase, and once.
 */
void ngx_http_apikey_settle(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d);

/* A worker has died with so many slots of this account, counted here. */
void ngx_http_apikey_settle_lost(ngx_http_apikey_limiter_t *l,
    const u_char holder[16], ngx_uint_t level, uint64_t scope,
    uint64_t slots);


#endif /* NGX_HTTP_APIKEY_DECIDE_H_INCLUDED */
