
/*
 * Usage of requests, from the worker to Postgres, exactly once.
 *
 * inflight/ring (tmpfs, claimed by flock) -> spool (disk) -> ship (one elected
 * worker).  A request opens a slot when it is admitted, before it may leave
 * for the upstream, and closes it in the log phase.  Slots of a dead worker
 * become records "aborted: worker_lost" that cost their weight and reserves.
 *
 * open(), close() and refused() touch only memory: no lock, no allocation
 * but for a string never seen before, no syscall.
 */


#ifndef NGX_HTTP_APIKEY_USAGE_H_INCLUDED
#define NGX_HTTP_APIKEY_USAGE_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/stats.h"
#include "base/verdict.h"
#include "usage/record.h"


/* bytes of a slot that may be touched when it is closed, for who asks the
   cache for them before */
#define NGX_HTTP_APIKEY_USAGE_SLOT  256


typedef struct ngx_http_apikey_usage_s       ngx_http_apikey_usage_t;
typedef struct ngx_http_apikey_usage_slot_s  ngx_http_apikey_usage_slot_t;


typedef enum {
    NGX_HTTP_APIKEY_USAGE_NONE = 0,
    NGX_HTTP_APIKEY_USAGE_PROVIDER,
    NGX_HTTP_APIKEY_USAGE_HEADER,
    NGX_HTTP_APIKEY_USAGE_ESTIMATE
} ngx_http_apikey_usage_source_e;


/* Known at admission (open) or at refusal. */

typedef struct {
    u_char      event[16];       /* UUIDv7 */
    int64_t     time;            /* us since the epoch, when decided */
    u_char      key[16];         /* zero: anonymous or unknown */
    u_char      secret[16];
    ngx_str_t   owner;           /* empty: none */
    ngx_str_t   customer;
    ngx_str_t   service;
    ngx_str_t   endpoint;
    ngx_str_t   session;
    ngx_str_t   model;
    ngx_str_t   limit_name;      /* refusals: "owner:hourly" */
    u_char      client[16];      /* address, v4-mapped for IPv4, not yet
                                    shortened to client_prefix */
    uint64_t    limit;           /* refusals: the limit that refused */
    uint64_t    remaining;
    uint32_t    retry_after;     /* seconds */
    uint64_t    weight;          /* request units */
    uint64_t    tokens;          /* reserves: what a lost worker's cost */
    int64_t     cost;            /* nano-units; < 0 unknown */
    uint64_t    price;           /* version of what it was priced with; 0 */
    apikey_hold_t
               *holds;           /* given back if the worker dies; the first
                                    APIKEY_HOLDS of them */
    ngx_uint_t  nholds;
    uint32_t    method;          /* NGX_HTTP_GET, ...; 0 other */
    uint16_t    status;          /* refusals: what the client sees */
    uint8_t     verdict;         /* apikey_verdict_e */
    uint8_t     mode;            /* apikey_mode_e */
    uint32_t    unknown;         /* APIKEY_OPEN_TOKENS, _MODEL */
} ngx_http_apikey_usage_start_t;


/* Known in the log phase (close). */

typedef struct {
    uint16_t    status;
    uint8_t     end;             /* apikey_end_e */
    uint8_t     source;
    uint64_t    bytes_in;
    uint64_t    bytes_out;
    uint64_t    duration;        /* us */
    uint64_t    upstream;        /* us; 0 none */
    uint64_t    tokens_input;
    uint64_t    tokens_output;
    uint64_t    tokens_cached;
    uint64_t    tokens_reasoning;
    int64_t     cost;            /* nano-units; < 0 unknown price */
    uint64_t    price;           /* version of what it was priced with; 0 */
} ngx_http_apikey_usage_end_t;


typedef struct {
    ngx_str_t        directory;      /* journal: spool, node, ship.lock */
    ngx_str_t        ring;           /* tmpfs directory, empty: the default */
    off_t            size;           /* of the spool */
    ngx_msec_t       sync;
    ngx_msec_t       drain;
    ngx_flag_t       refuse;         /* full=refuse */
    ngx_str_t        conninfo;
    u_char           node[16];       /* from the file "node" */
    ngx_str_t        node_name;
    ngx_uint_t       workers;        /* ccf->worker_processes */
    uint64_t         zone;           /* where holds are held */
    void           (*lost)(void *data, const apikey_hold_t *hold);
    void            *lost_data;
    apikey_stats_t  *stats;
    ngx_log_t       *log;
} ngx_http_apikey_usage_conf_t;


/*
 * Master, at every configuration (also nginx -t: then it only checks that the
 * directories can be made): makes the directories (0700, owned by the
 * worker's user), reads or makes the node's UUID, preallocates the rings of
 * these workers.  NGX_ERROR only for a configuration that can never work.
 */
ngx_int_t ngx_http_apikey_usage_prepare(ngx_cycle_t *cycle,
    ngx_http_apikey_usage_conf_t *conf);

/* After prepare(): where files stand that outlive all processes; NULL: no
   memory. */
u_char *ngx_http_apikey_ring_dir(ngx_pool_t *pool,
    ngx_http_apikey_usage_conf_t *conf);

/* Worker: claims a ring, starts the election of a shipper. */
ngx_http_apikey_usage_t *ngx_http_apikey_usage_start(ngx_pool_t *pool,
    ngx_http_apikey_usage_conf_t *conf);

/*
 * The id of a request: a UUID of version 7 whose random half is a number of
 * this worker in disguise, which packs better than chance.
 */
void ngx_http_apikey_usage_id(ngx_http_apikey_usage_t *u, u_char id[16],
    int64_t time);

/* This worker ships, and no other one of the node. */
ngx_uint_t ngx_http_apikey_usage_elected(ngx_http_apikey_usage_t *u);

/* exit_process: nothing may be lost that is not in ring or spool already. */
void ngx_http_apikey_usage_stop(ngx_http_apikey_usage_t *u);


/*
 * NULL: the journal is full (or no ring could be claimed) and the record
 * would be lost; with full=refuse the caller answers "unavailable", with
 * full=drop it goes on without a slot (counted as dropped here).
 */
ngx_http_apikey_usage_slot_t *ngx_http_apikey_usage_open(
    ngx_http_apikey_usage_t *u, ngx_http_apikey_usage_start_t *start);

void ngx_http_apikey_usage_close(ngx_http_apikey_usage_t *u,
    ngx_http_apikey_usage_slot_t *slot, ngx_http_apikey_usage_end_t *end);

/* What it holds is about to be given back; before close() or drop(). */
void ngx_http_apikey_usage_release(ngx_http_apikey_usage_slot_t *slot);

/* A slot of a request that was refused after all: no record. */
void ngx_http_apikey_usage_drop(ngx_http_apikey_usage_t *u,
    ngx_http_apikey_usage_slot_t *slot);

/* Sums by (key, service, verdict, limit, 15 min); at most ten details a
   second a node. */
void ngx_http_apikey_usage_refused(ngx_http_apikey_usage_t *u,
    ngx_http_apikey_usage_start_t *start);


#endif /* NGX_HTTP_APIKEY_USAGE_H_INCLUDED */
