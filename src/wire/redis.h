
/*
 * One multiplexed Redis connection of a worker: an nginx connection with
 * hiredis as RESP codec only.
 *
 * Commands are appended to one buffer and written once per turn of the event
 * loop; replies are matched in order.  Every command has a deadline; one that
 * passes it gets its handler with a NULL reply, its reply is thrown away when
 * it comes, and a connection that stays silent is cut.  Nothing is ever sent
 * twice, except by the caller's own hand after NOSCRIPT.
 *
 * Made in init_process, connects at once and again with jittered back-off.
 * While it is not ready send() fails at once: nobody queues for a connection.
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


typedef struct {
    ngx_addr_t  *addrs;          /* resolved at configuration */
    ngx_uint_t   naddrs;
    ngx_str_t    name;           /* as in logs, without password */
    ngx_str_t    user;           /* empty: none */
    ngx_str_t    password;       /* empty: none; read by the master */
    ngx_uint_t   database;
    ngx_msec_t   timeout;        /* of a command; connecting gets twice that */
    ngx_str_t    prefix;         /* of every Redis key, default "apikey" */
} ngx_http_apikey_redis_conf_t;


/* reply NULL: no answer in time or connection lost; effect unknown. */
typedef void (*ngx_http_apikey_redis_handler_pt)(
    ngx_http_apikey_redis_call_t *call, struct redisReply *reply);


struct ngx_http_apikey_redis_call_s {
    ngx_http_apikey_redis_handler_pt   handler;
    void                              *data;
    ngx_msec_t                         deadline;  /* 0: set by send(); kept
                                                     otherwise: a call that
                                                     waited before, or is sent
                                                     again, does not wait
                                                     longer */
    ngx_http_apikey_redis_t           *redis;     /* private from here */
    ngx_uint_t                         slot;
    unsigned                           waiting:1;
};


ngx_http_apikey_redis_t *ngx_http_apikey_redis_create(ngx_pool_t *pool,
    ngx_http_apikey_redis_conf_t *conf, apikey_stats_t *stats, ngx_log_t *log);

/*
 * Runs whenever the connection became ready (up 1), broke, or could not be
 * made (up 0).
 */
void ngx_http_apikey_redis_set_state_handler(ngx_http_apikey_redis_t *redis,
    void (*handler)(void *data, ngx_uint_t up), void *data);

ngx_uint_t ngx_http_apikey_redis_ready(ngx_http_apikey_redis_t *redis);

/* Not ready, but an attempt is under way: the state handler will run. */
ngx_uint_t ngx_http_apikey_redis_connecting(ngx_http_apikey_redis_t *redis);

/*
 * argv is copied.  NGX_OK: the handler will run; NGX_ERROR: not ready or too
 * many waiting, it will not.
 */
ngx_int_t ngx_http_apikey_redis_send(ngx_http_apikey_redis_t *redis,
    ngx_http_apikey_redis_call_t *call, ngx_uint_t argc, ngx_str_t *argv);

/* The caller goes away: its handler will not run, call may be freed. */
void ngx_http_apikey_redis_abandon(ngx_http_apikey_redis_call_t *call);

/* Writes what is buffered now; called by a posted event otherwise. */
void ngx_http_apikey_redis_flush(ngx_http_apikey_redis_t *redis);

void ngx_http_apikey_redis_close(ngx_http_apikey_redis_t *redis);


#endif /* NGX_HTTP_APIKEY_REDIS_H_INCLUDED */
