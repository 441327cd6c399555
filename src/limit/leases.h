
/*
 * Leases in shared memory: one entry an account, from which all workers of
 * a node spend, and the wheel that says which of them is to be renewed when.
 *
 * Entries are preallocated; one that nobody has used for a while and that
 * holds nothing is taken by another account.  Times are CLOCK_BOOTTIME but
 * where Redis' is said.  Every function wants the zone's mutex held by the
 * caller; a pointer is good until it is released, and beyond only together
 * with what lease.h says of epochs and numbers of calls, which go on when an
 * entry changes hands.
 */


#ifndef NGX_HTTP_APIKEY_LEASES_H_INCLUDED
#define NGX_HTTP_APIKEY_LEASES_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>

#include "limit/decide.h"
#include "limit/heads.h"
#include "limit/lease.h"


#define NGX_HTTP_APIKEY_LEASES_TICK   50000          /* us, of the wheel */
#define NGX_HTTP_APIKEY_LEASES_WHEEL  256
#define NGX_HTTP_APIKEY_LEASES_TRIP   500            /* us, the first guess */
#define NGX_HTTP_APIKEY_LEASES_OWES   250000         /* us, of who owes */

#define NGX_HTTP_APIKEY_LEASES_HORIZON  UINT64_C(3600000000)


typedef struct {
    apikey_account_limit_t  terms;
    apikey_bucket_t         seen;        /* in Redis, by its clock */
    uint64_t                back;        /* of what rolls: given back since
                                            the last call */
    uint64_t                since;       /* ... not admitted before, by
                                            Redis' clock */
    uint64_t                more;        /* ... and charged */
    uint32_t                next;        /* index + 1; 0: none */
} ngx_http_apikey_lease_limit_t;


typedef struct {
    apikey_lease_t          lease;
    apikey_lease_conf_t     conf;

    u_char                  root[16];
    u_char                  holder[16];
    uint64_t                scope;

    int64_t                 asked;       /* the call in flight */
    uint64_t                asker;       /* its worker */
    int64_t                 seen;        /* when levels were; 0: never */
    int64_t                 quiet;       /* TAKE would refuse until then ... */
    uint64_t                quiet_cost;  /* ... who wants so much */
    uint64_t                quiet_left;  /* ... but for so many tokens */
    int64_t                 refused;     /* when TAKE last did, or would */
    int64_t                 blind;       /* nobody asks Postgres until then
                                            what refuses nothing */
    uint64_t                lost;        /* us: era of an answer that did not
                                            know what is used; 0: it did */
    uint64_t                out;         /* tokens that all nodes have leased,
                                            as last told */

    uint32_t                next;        /* of its hash chain */
    uint32_t                wheel;       /* of its place in the wheel */
    uint32_t                limits;
    uint32_t                turn;
    uint16_t                nlimits;
    uint8_t                 level;
    uint8_t                 unit;
    uint8_t                 linked;
    uint8_t                 queued;      /* in the wheel: of this number */
    uint8_t                 owes;        /* perhaps: limit/alone.h */
} ngx_http_apikey_lease_entry_t;


typedef struct {
    uint32_t                        n;
    uint32_t                        fresh;       /* entries never used begin
                                                    here */
    uint32_t                        hand;
    uint32_t                        turn;
    uint32_t                        nlimits;
    uint32_t                        fresh_limit;
    uint32_t                        free_limit;
    uint32_t                        queued;      /* about: how many wait in
                                                    the wheel */
    ngx_uint_t                      direct;      /* no leases at all */
    uint64_t                        workers;     /* there have been */
    int64_t                         rest;        /* us: an entry is left alone
                                                    so long */
    uint64_t                        trip;        /* us, to Redis and back */
    int64_t                         offset;      /* Redis' clock - ours, at
                                                    most */
    int64_t                         offset_at;   /* 0: not known */

    int64_t                         adopted;     /* what others have left was
                                                    looked for */

    uint32_t                        wheels;      /* there have been */
    uint32_t                        walk;        /* entries from here on are
                                                    still to be looked at */
    ngx_uint_t                      walking;
    ngx_uint_t                      owe;         /* ... and may owe */
    int64_t                         wheel_at;
    uint32_t                        wheel[NGX_HTTP_APIKEY_LEASES_WHEEL];

    ngx_http_apikey_lease_entry_t  *entries;
    ngx_http_apikey_lease_limit_t  *limits;
    ngx_http_apikey_heads_t         heads;       /* n at most */
} ngx_http_apikey_leases_t;


#define ngx_http_apikey_leases_index(leases, entry)                           \
    ((uint32_t) ((entry) - (leases)->entries))


/* NULL: not even one entry, or no memory. */
ngx_http_apikey_leases_t *ngx_http_apikey_leases_init(ngx_slab_pool_t *shpool,
    size_t size);

/* As of table.h: what find() will touch comes into the cache. */
void ngx_http_apikey_leases_ahead(ngx_http_apikey_leases_t *leases,
    const ngx_http_apikey_account_t *account, ngx_http_apikey_limit_at_t *at);

/* Before the find()s of one decision: they do not take each other's. */
void ngx_http_apikey_leases_begin(ngx_http_apikey_leases_t *leases);

/* The entry of this account; NULL: there is none, or none is free. */
ngx_http_apikey_lease_entry_t *ngx_http_apikey_leases_find(
    ngx_http_apikey_leases_t *leases, ngx_http_apikey_account_t *account);
ngx_http_apikey_lease_entry_t *ngx_http_apikey_leases_get(
    ngx_http_apikey_leases_t *leases, ngx_http_apikey_account_t *account,
    int64_t now);

/*
 * leases_spare.c: an entry that may be taken from whoever has it, linked or
 * not; NULL: none.  Best one that nobody misses, else one that nobody has
 * asked for lately, and of which others know all: Redis, and where that has
 * gone, Postgres.
 */
ngx_http_apikey_lease_entry_t *ngx_http_apikey_leases_spare(
    ngx_http_apikey_leases_t *leases, int64_t now);

/*
 * What the limits of the account are now; if they have changed the lease is
 * void.  NGX_DECLINED: no memory for that many limits.
 */
ngx_int_t ngx_http_apikey_leases_learn(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry, ngx_http_apikey_account_t *account);

/* Levels have been seen: what they say of the quotas among them. */
void ngx_http_apikey_leases_told(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry, int64_t now);

/* This node knows that of a quota something is used by now. */
ngx_uint_t ngx_http_apikey_leases_touched(
    const ngx_http_apikey_lease_limit_t *limit, int64_t redis);

/* Its level as it was last seen; limit: NULL, or another one: never. */
apikey_bucket_t ngx_http_apikey_leases_seen(
    const ngx_http_apikey_lease_limit_t *limit,
    const ngx_http_apikey_bucket_t *out, int64_t redis);

/*
 * How long out refuses this cost, whose wait is by level: no longer than until
 * what is leased may be back, where it fits beside that.
 */
uint64_t ngx_http_apikey_leases_wait(const apikey_lease_conf_t *conf,
    const ngx_http_apikey_bucket_t *out, const apikey_bucket_t *level,
    uint64_t leased, uint64_t tokens, uint64_t now);

/* These tokens fit beside what is leased. */
ngx_uint_t ngx_http_apikey_leases_fits(const ngx_http_apikey_bucket_t *out,
    const apikey_bucket_t *level, uint64_t leased, uint64_t tokens,
    uint64_t now);

/* So many tokens of what is used do not count. */
void ngx_http_apikey_leases_less(apikey_bucket_t *b,
    const apikey_rate_t *rate, uint64_t tokens);

/* A limit in the words of limit/account.h. */
void ngx_http_apikey_leases_terms(apikey_account_limit_t *terms,
    const ngx_http_apikey_bucket_t *bucket);

/* What its leases are like, by the limits of an account. */
void ngx_http_apikey_leases_conf(apikey_lease_conf_t *conf,
    ngx_http_apikey_account_t *account);

#define ngx_http_apikey_leases_limit(leases, i)                               \
    ((i) ? &(leases)->limits[(i) - 1] : NULL)


/* To be looked at by then; does nothing when it is in the wheel already. */
void ngx_http_apikey_leases_queue(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry, int64_t now, int64_t when);

/* The next one that is due, out of the wheel; NULL: none. */
ngx_http_apikey_lease_entry_t *ngx_http_apikey_leases_due(
    ngx_http_apikey_leases_t *leases, int64_t now);

/* Any of them may owe something now: as soon as walk() comes by. */
void ngx_http_apikey_leases_owe(ngx_http_apikey_leases_t *leases);

/*
 * After a worker died, who may have held the wheel: a new one, into which
 * walk() puts what the old one had.
 */
void ngx_http_apikey_leases_rebuild(ngx_http_apikey_leases_t *leases);

/* Some entries, after one of these; 1: there are more. */
ngx_uint_t ngx_http_apikey_leases_walk(ngx_http_apikey_leases_t *leases,
    int64_t now);


/* An answer of Redis came at now and says that its clock was redis. */
void ngx_http_apikey_leases_clock(ngx_http_apikey_leases_t *leases,
    int64_t now, int64_t redis);

/* Redis' time at now, by the answers until now: never ahead of it. */
int64_t ngx_http_apikey_leases_time(ngx_http_apikey_leases_t *leases,
    int64_t now);


#endif /* NGX_HTTP_APIKEY_LEASES_H_INCLUDED */
