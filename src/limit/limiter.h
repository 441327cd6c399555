
/*
 * What decide.c (a decision) and limiter.c (the worker's limiter, its
 * connection and the breaker) share.  Nobody else includes this.
 */


#ifndef NGX_HTTP_APIKEY_LIMITER_H_INCLUDED
#define NGX_HTTP_APIKEY_LIMITER_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/clock.h"
#include "limit/breaker.h"
#include "limit/decide.h"
#include "limit/table.h"
#include "wire/redis_codec.h"


struct ngx_http_apikey_limit_sh_s {
    ngx_http_apikey_breaker_t      breaker;
    ngx_http_apikey_table_t       *table;
};


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

    time_t                         complained;

    unsigned                       hope:1;       /* no attempt to connect has
                                                    failed yet */
    unsigned                       up:1;
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

/* decide.c */

/* The connection is there, or will not be: the handler will run. */
void ngx_http_apikey_decide_resume(ngx_http_apikey_decision_t *d);


#endif /* NGX_HTTP_APIKEY_LIMITER_H_INCLUDED */
