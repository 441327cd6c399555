
/*
 * The keyring: a complete copy of the keys in shared memory.
 *
 * store.c keeps it (flat index, records in a preallocated area), sync.c fills
 * it from Postgres and asks Postgres on a miss while it is not complete,
 * persist.c saves it to the journal directory and loads it at start.  This
 * header is all that other rooms see.
 *
 * Everything shared changes under the zone's mutex, and look-up copies out
 * under it; what a look-up returns lives in the caller's pool.
 */


#ifndef NGX_HTTP_APIKEY_KEYRING_H_INCLUDED
#define NGX_HTTP_APIKEY_KEYRING_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/limit.h"
#include "base/stats.h"
#include "wire/postgres.h"


#define NGX_HTTP_APIKEY_NEVER        0x7fffffffffffffffLL
#define NGX_HTTP_APIKEY_KEYRING_IDS  500     /* refreshed at once */


typedef struct ngx_http_apikey_keyring_sh_s  ngx_http_apikey_keyring_sh_t;
typedef struct ngx_http_apikey_keyring_s     ngx_http_apikey_keyring_t;


/* One key as a request sees it: key, the secret it showed, its owner. */

typedef struct {
    u_char                 id[16];
    u_char                 secret[16];
    u_char                 owner_uuid[16];      /* zero: no owner */
    u_char                 calendar[16];        /* what its periods are of */

    int64_t                fresh;               /* us since the epoch: it was
                                                   so in Postgres then */
    int64_t                expires;             /* us; NEVER */
    int64_t                secret_expires;      /* us: end of a grace; NEVER */

    ngx_str_t              name;
    ngx_str_t              prefix;
    ngx_str_t              owner;               /* the user's own id */
    ngx_str_t              customer;
    ngx_str_t              plan;
    ngx_str_t              scopes;              /* blank separated */
    ngx_str_t              models;              /* patterns, a line feed behind
                                                   each; empty: any */
    ngx_str_t              ips;                 /* packed, see below */
    ngx_str_t              metadata;            /* JSON text of an object */

    const apikey_limit_t  *key_limits;          /* packed, one after another */
    const apikey_limit_t  *owner_limits;
    ngx_uint_t             nkey_limits;
    ngx_uint_t             nowner_limits;

    unsigned               enabled:1;
    unsigned               owner_enabled:1;     /* 1 without owner */
    unsigned               revoked:1;           /* key revoked or this secret
                                                   ended */
    unsigned               any_ip:1;            /* allowed_ips null */
    unsigned               broken:1;            /* a limit could not be read:
                                                   unavailable */
} ngx_http_apikey_key_t;


/*
 * ips: 18 bytes an entry: family (4 or 6), prefix length, 16 bytes address
 * (v4 in the first 4), network bits only.
 */


typedef struct {
    ngx_uint_t  keys;
    ngx_uint_t  complete;
    int64_t     current;         /* us since the epoch when it was last known
                                    to be equal to Postgres; 0 never */
    int64_t     fresh;           /* the same of what it holds */
    size_t      free;            /* bytes */
} ngx_http_apikey_keyring_info_t;


/* init_zone: carves the keyring out of the zone; size is all it may use. */
ngx_http_apikey_keyring_sh_t *ngx_http_apikey_keyring_init_zone(
    ngx_slab_pool_t *shpool, size_t size, ngx_log_t *log);

/*
 * Master, before the workers: fills a fresh zone from the saved copy in the
 * journal directory, if it is sound.  A missing or unsound copy is not an
 * error (logged); the keyring is then loading.
 */
void ngx_http_apikey_keyring_load(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, ngx_str_t *directory, ngx_log_t *log);


/*
 * Hints before lookup(), with some time between each: what it will touch comes
 * into the cache, first the slot of the index, then the record.  Without the
 * mutex: nothing read is believed.  The latter says where that is; NULL:
 * nowhere.
 */
void ngx_http_apikey_keyring_ahead(ngx_http_apikey_keyring_sh_t *sh,
    const u_char digest[32]);
const void *ngx_http_apikey_keyring_ahead_record(
    ngx_http_apikey_keyring_sh_t *sh, const u_char digest[32]);

/*
 * NGX_OK: found.  NGX_DECLINED: no such key, final; only key->fresh is set.
 * NGX_AGAIN: the copy is not complete; ask with find().  NGX_ERROR: no memory
 * in pool.
 */
ngx_int_t ngx_http_apikey_keyring_lookup(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, const u_char digest[32], ngx_pool_t *pool,
    ngx_http_apikey_key_t *key);

/*
 * The limits of a key or an owner by its UUID, in pool, and the calendar it
 * goes by.  NGX_DECLINED: it is not held.
 */
ngx_int_t ngx_http_apikey_keyring_limits(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, const u_char holder[16], ngx_uint_t level,
    ngx_pool_t *pool, ngx_http_apikey_key_t *key);

/*
 * The period that holds now (us since the epoch), by the calendar of a key.
 * NGX_DECLINED: it is not known here.
 */
ngx_int_t ngx_http_apikey_keyring_period(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, const u_char calendar[16], ngx_uint_t unit,
    int64_t now, apikey_period_t *period);

/*
 * A table that Postgres keeps, as text.  NGX_OK: text is a copy for
 * ngx_free(), and *version is another one than it was; NGX_DECLINED: it is
 * the same, or there is none and *version is 0; NGX_ERROR: no memory.
 */
ngx_int_t ngx_http_apikey_keyring_table(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, const u_char id[16], int64_t *version,
    ngx_str_t *text, ngx_log_t *log);

/* Changes with whatever a table could change with; without a lock. */
uint64_t ngx_http_apikey_keyring_changes(ngx_http_apikey_keyring_sh_t *sh);

void ngx_http_apikey_keyring_info(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, ngx_http_apikey_keyring_info_t *info);


/* Per worker. */

typedef struct {
    ngx_http_apikey_keyring_sh_t  *sh;
    ngx_slab_pool_t               *shpool;
    apikey_stats_t                *stats;
    ngx_str_t                      directory;    /* journal: sync.lock, copy */
    ngx_str_t                      conninfo;
    ngx_str_t                      read_conninfo;   /* empty: conninfo */
    ngx_msec_t                     poll;
    u_char                         node[16];     /* UUID of this node */
    ngx_str_t                      node_name;
    const char                    *version;      /* of the module; or NULL */
    ngx_uint_t                     schema;       /* the oldest that serves */
    unsigned                       shared_limits:1; /* apikey_redis is set */
    ngx_log_t                     *log;
} ngx_http_apikey_keyring_conf_t;

ngx_http_apikey_keyring_t *ngx_http_apikey_keyring_start(ngx_pool_t *pool,
    ngx_http_apikey_keyring_conf_t *conf);
void ngx_http_apikey_keyring_stop(ngx_http_apikey_keyring_t *kr);


/*
 * A miss while the copy is incomplete.  The handler runs once, from an event
 * (never inside find()); rc: NGX_OK look it up again, NGX_DECLINED no such
 * key, NGX_ERROR Postgres cannot be asked (-> unavailable).  Many waiters for
 * one digest share one query; "no such key" is remembered for a moment.
 *
 * other: asked for where Postgres knows no such digest; NULL: none.
 */
typedef struct ngx_http_apikey_keyring_wait_s  ngx_http_apikey_keyring_wait_t;

struct ngx_http_apikey_keyring_wait_s {
    void        (*handler)(ngx_http_apikey_keyring_wait_t *wait, ngx_int_t rc);
    void         *data;
    ngx_queue_t   queue;         /* private from here */
    void         *query;
    unsigned      waiting:1;
};

ngx_int_t ngx_http_apikey_keyring_find(ngx_http_apikey_keyring_t *kr,
    const u_char digest[32], const u_char other[32],
    ngx_http_apikey_keyring_wait_t *wait);

/* find() asks nothing for this one: it is asked for, or known not to be. */
ngx_uint_t ngx_http_apikey_keyring_asked(ngx_http_apikey_keyring_t *kr,
    const u_char digest[32]);

void ngx_http_apikey_keyring_abandon(ngx_http_apikey_keyring_wait_t *wait);


/*
 * After a change made here: fetches these rows and applies them to the copy,
 * then calls the handler, so that an answer is not sent before its change is
 * in force on this node.  ids: text, "key UUID" or "owner UUID" a line, at
 * most NGX_HTTP_APIKEY_KEYRING_IDS of them.
 */
ngx_int_t ngx_http_apikey_keyring_refresh(ngx_http_apikey_keyring_t *kr,
    ngx_str_t *ids, ngx_http_apikey_keyring_wait_t *wait);


/* A connection of the worker's for the admin API, not the look-ups'. */
ngx_http_apikey_pg_t *ngx_http_apikey_keyring_pg(
    ngx_http_apikey_keyring_t *kr);

/* Another one, for many rows at once, that holds up nobody. */
ngx_http_apikey_pg_t *ngx_http_apikey_keyring_bulk(
    ngx_http_apikey_keyring_t *kr);


#endif /* NGX_HTTP_APIKEY_KEYRING_H_INCLUDED */
