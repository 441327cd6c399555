
/*
 * What redis.c (commands and replies) and redis_connect.c (making and losing
 * the connection) share.  Nobody else includes this.
 */


#ifndef NGX_HTTP_APIKEY_REDIS_PRIVATE_H_INCLUDED
#define NGX_HTTP_APIKEY_REDIS_PRIVATE_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_event_connect.h>

#include "wire/redis.h"
#include "wire/redis_codec.h"


#define NGX_HTTP_APIKEY_REDIS_SLOTS     8192         /* a power of two */
#define NGX_HTTP_APIKEY_REDIS_BUFFER    16384
#define NGX_HTTP_APIKEY_REDIS_BACKOFF   50           /* ms, the first pause */

#define ngx_http_apikey_redis_slot(r, n)                                      \
    (&(r)->slots[(n) & (NGX_HTTP_APIKEY_REDIS_SLOTS - 1)])


typedef enum {
    NGX_HTTP_APIKEY_REDIS_DOWN = 0,
    NGX_HTTP_APIKEY_REDIS_CONNECTING,
    NGX_HTTP_APIKEY_REDIS_HANDSHAKE,
    NGX_HTTP_APIKEY_REDIS_READY
} ngx_http_apikey_redis_state_e;


typedef struct {
    ngx_http_apikey_redis_call_t   *call;        /* NULL: nobody waits */
    ngx_msec_t                      sent;
    int64_t                         start;       /* us, for the histogram */
} ngx_http_apikey_redis_slot_t;


struct ngx_http_apikey_redis_s {
    ngx_http_apikey_redis_conf_t   *conf;
    ngx_connection_t               *connection;
    struct redisReader             *reader;
    apikey_stats_t                 *stats;
    ngx_log_t                      *log;
    ngx_log_t                       quiet;

    void                          (*state_handler)(void *data, ngx_uint_t up);
    void                           *state_data;

    ngx_peer_connection_t           peer;
    ngx_uint_t                      addr;
    ngx_uint_t                      state;
    ngx_uint_t                      step;        /* of the handshake */

    u_char                         *out;
    size_t                          out_size;
    size_t                          out_pos;
    size_t                          out_last;
    u_char                         *in;

    ngx_http_apikey_redis_slot_t   *slots;
    ngx_uint_t                      head;        /* the next reply is for it */
    ngx_uint_t                      tail;
    ngx_uint_t                      live;        /* slots somebody waits for */

    ngx_event_t                     write;       /* posted: once a turn */
    ngx_event_t                     timer;       /* deadlines of commands */
    ngx_event_t                     retry;       /* connecting, reconnecting */

    int64_t                         now;         /* us, at the last read */
    ngx_msec_t                      progress;    /* the last reply */
    ngx_msec_t                      ready_at;
    ngx_msec_t                      backoff;

    unsigned                        deferred:1;
    unsigned                        complained:1;
};


/* redis.c */
void ngx_http_apikey_redis_read_handler(ngx_event_t *rev);
void ngx_http_apikey_redis_write_handler(ngx_event_t *wev);
ngx_int_t ngx_http_apikey_redis_append(ngx_http_apikey_redis_t *redis,
    ngx_uint_t argc, ngx_str_t *argv);

/* redis_connect.c */
void ngx_http_apikey_redis_connect(ngx_http_apikey_redis_t *redis);
void ngx_http_apikey_redis_retry_handler(ngx_event_t *ev);
void ngx_http_apikey_redis_connected(ngx_http_apikey_redis_t *redis);
void ngx_http_apikey_redis_handshake_reply(ngx_http_apikey_redis_t *redis,
    struct redisReply *reply);

/*
 * The connection broke or could not be made.  One that had worked is made
 * anew at once; everyone who waits learns it, nothing is sent again.
 */
void ngx_http_apikey_redis_lost(ngx_http_apikey_redis_t *redis, char *why);

void ngx_http_apikey_redis_disconnect(ngx_http_apikey_redis_t *redis);


#endif /* NGX_HTTP_APIKEY_REDIS_PRIVATE_H_INCLUDED */
