
/*
 * Redis as a worker sees it: one server, the first of several that takes
 * writes, the one that Sentinels name, or a Cluster.
 *
 * Commands are appended to one buffer a server and written once per turn of
 * the event loop; replies are matched in order.  Every command has a
 * deadline; one that passes it gets its handler with a NULL reply, its reply
 * is thrown away when it comes, and a connection that stays silent is cut.
 * Nothing is ever sent twice, except by the caller's own hand: after
 * NOSCRIPT, or when the handler is told "again".
 *
 * Made in init_process, connects at once and again with jittered back-off.
 * While it is not ready send() fails at once: nobody queues for a connection,
 * but in a Cluster for one that is just being made.
 * Handlers run inside the parsing loop: they note the outcome and post an
 * event; they never run the phases of a request.
 */


#ifndef NGX_HTTP_APIKEY_REDIS_H_INCLUDED
#define NGX_HTTP_APIKEY_REDIS_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/stats.h"


struct redisReply;

typedef struct ngx_http_apikey_redis_s  ngx_http_apikey_redis_t;
typedef struct ngx_http_apikey_redis_call_s  ngx_http_apikey_redis_call_t;


typedef enum {
    NGX_HTTP_APIKEY_REDIS_SERVERS = 0,   /* the first that takes writes */
    NGX_HTTP_APIKEY_REDIS_SENTINEL,
    NGX_HTTP_APIKEY_REDIS_CLUSTER
} ngx_http_apikey_redis_topology_e;


/* What a URL names: a server, a Sentinel, or a node to start from. */

typedef struct {
    ngx_addr_t                        *addrs;    /* as the master
                                                    resolved it */
    ngx_uint_t                         naddrs;
    ngx_str_t                          name;     /* as in logs */
    ngx_str_t                          host;     /* for its certificate,
                                                    NUL-terminated */
    in_port_t                          port;     /* of a name; 0: no name */
} ngx_http_apikey_redis_server_t;


typedef struct {
    ngx_http_apikey_redis_topology_e   topology;
    ngx_http_apikey_redis_server_t    *servers;
    ngx_uint_t                         nservers;
    ngx_str_t                          name;     /* of all, without password */
    ngx_str_t                          master;   /* as Sentinels call it */
    ngx_str_t                          user;     /* empty: none */
    ngx_str_t                          password; /* empty: none; read by the
                                                    master process */
    ngx_uint_t                         database;
    ngx_msec_t                         timeout;  /* of a command; connecting
                                                    gets twice that */
    ngx_str_t                          prefix;   /* of every Redis key,
                                                    default "apikey" */
    void                              *ssl;      /* ngx_ssl_t; NULL: no TLS */
    ngx_uint_t                         verify;   /* certificates */
} ngx_http_apikey_redis_conf_t;


/*
 * Who holds the values: another id after each restart, failover, promotion
 * of a primary, the same one on all nodes.
 */

typedef struct {
    uint64_t                           id;       /* 1 .. 2^52 */
    uint64_t                           since;    /* us, Redis' time; what
                                                    is missing then may have
                                                    been lost */
    uint64_t                           own;      /* us: what was written since
                                                    then was written here, or
                                                    by another primary that
                                                    reigns */
    uint64_t                           made;     /* us: its data are there
                                                    since, as the key says */
    uint64_t                           gone;     /* us: all that was there
                                                    before has gone; 0: there
                                                    was nothing */
    ngx_str_t                          marker;   /* ... its name; empty: it has
                                                    none now */
} ngx_http_apikey_redis_epoch_t;


/*
 * reply NULL: no answer in time or connection lost, effect unknown; or, with
 * call->again set, Redis has not run it.
 */

typedef void (*ngx_http_apikey_redis_handler_pt)(
    ngx_http_apikey_redis_call_t *call, struct redisReply *reply);


struct ngx_http_apikey_redis_call_s {
    ngx_http_apikey_redis_handler_pt   handler;
    void                              *data;
    ngx_msec_t                         deadline; /* 0: set by send(); kept
                                                    otherwise: a call that
                                                    waited before, or is sent
                                                    again, does not wait
                                                    longer */
    unsigned                           again:1;  /* in a Cluster: make it anew,
                                                    the epoch may be another
                                                    one, and send() it, from
                                                    the handler */
    unsigned                           waiting:1;

    unsigned                           queued:1; /* private from here */
    unsigned                           asking:1;
    unsigned                           hops:4;
    ngx_msec_t                         pause;    /* not before this */
    void                              *link;
    ngx_uint_t                         slot;
    ngx_queue_t                        queue;
};


/* conf->ssl, at configuration; what is wrong is logged. */
ngx_int_t ngx_http_apikey_redis_ssl_create(ngx_conf_t *cf,
    ngx_http_apikey_redis_conf_t *conf, ngx_str_t *ca, ngx_str_t *cert,
    ngx_str_t *key);

ngx_http_apikey_redis_t *ngx_http_apikey_redis_create(ngx_pool_t *pool,
    ngx_http_apikey_redis_conf_t *conf, apikey_stats_t *stats, ngx_log_t *log);

/*
 * Every server gets this script when it becomes ready.  One that forgot it
 * answers NOSCRIPT.  text is kept, not copied.
 */
ngx_int_t ngx_http_apikey_redis_script(ngx_http_apikey_redis_t *redis,
    ngx_str_t *text);

/* This node has been here before: it finds no empty one for a new one. */
void ngx_http_apikey_redis_known(ngx_http_apikey_redis_t *redis,
    ngx_uint_t known);

/*
 * Runs whenever it became ready (up 1), broke, or an attempt failed (up 0).
 * A Cluster is up when each slot has a primary that answers.
 */
void ngx_http_apikey_redis_set_state_handler(ngx_http_apikey_redis_t *redis,
    void (*handler)(void *data, ngx_uint_t up), void *data);

/* A Cluster is ready when one of its primaries is. */
ngx_uint_t ngx_http_apikey_redis_ready(ngx_http_apikey_redis_t *redis);

/* Not ready, but an attempt is under way: the state handler will run. */
ngx_uint_t ngx_http_apikey_redis_connecting(ngx_http_apikey_redis_t *redis);

/* Of who will run this call; NGX_ERROR: there is no connection for it now. */
ngx_int_t ngx_http_apikey_redis_epoch(ngx_http_apikey_redis_t *redis,
    ngx_http_apikey_redis_call_t *call, ngx_str_t *key,
    ngx_http_apikey_redis_epoch_t *epoch);

/*
 * In a Cluster a slot of each primary, of n at most: whose tags (base/slot.h)
 * lead there.  Returns how many; 0: it is none.
 */
ngx_uint_t ngx_http_apikey_redis_primaries(ngx_http_apikey_redis_t *redis,
    uint16_t *slots, ngx_uint_t n);

/*
 * argv is copied.  NGX_OK: the handler will run; NGX_ERROR: not ready or too
 * many waiting, it will not.
 */
ngx_int_t ngx_http_apikey_redis_send(ngx_http_apikey_redis_t *redis,
    ngx_http_apikey_redis_call_t *call, ngx_uint_t argc, ngx_str_t *argv);

/* The caller goes away: its handler will not run, call may be freed. */
void ngx_http_apikey_redis_abandon(ngx_http_apikey_redis_call_t *call);

void ngx_http_apikey_redis_close(ngx_http_apikey_redis_t *redis);


#endif /* NGX_HTTP_APIKEY_REDIS_H_INCLUDED */
