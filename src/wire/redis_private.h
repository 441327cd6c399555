
/*
 * What the files of wire/redis share: the store of a worker, and its links,
 * each of them one connection to one server.  Nobody else includes this.
 *
 *     redis.c            the store: which link has a command, its callers
 *     redis_link.c       a link: commands and replies
 *     redis_write.c      ... and what is to be written
 *     redis_connect.c    a link: making and losing the connection
 *     redis_log.c        ... and what the log has of it
 *     redis_ssl.c        ... with TLS
 *     redis_resolve.c    names that servers have, in a thread
 *     redis_identity.c   which primary this is, and whether it is one
 *     redis_sentinel.c   where Sentinels say that the primary is
 *     redis_cluster.c    the links of a Cluster
 *     redis_map.c        ... and which of them has a slot
 *     redis_redirect.c   what a Cluster wants sent again, and who waits
 */


#ifndef NGX_HTTP_APIKEY_REDIS_PRIVATE_H_INCLUDED
#define NGX_HTTP_APIKEY_REDIS_PRIVATE_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_event_connect.h>
#include <ngx_thread_pool.h>

#include "base/slot.h"
#include "wire/redis.h"
#include "wire/redis_codec.h"


#define NGX_HTTP_APIKEY_LINK_SLOTS      8192         /* a power of two */
#define NGX_HTTP_APIKEY_LINK_BUFFER     16384
#define NGX_HTTP_APIKEY_LINK_BACKOFF    50           /* ms, the first pause */
#define NGX_HTTP_APIKEY_LINK_WHY        256
#define NGX_HTTP_APIKEY_LINK_MARKER     128
#define NGX_HTTP_APIKEY_REDIS_HOST      256
#define NGX_HTTP_APIKEY_REDIS_SCRIPTS   4

#define NGX_HTTP_APIKEY_REDIS_ADDRS     8            /* of a name */

#define ngx_http_apikey_link_slot(link, n)                                    \
    (&(link)->slots[(n) & ((link)->nslots - 1)])


typedef struct ngx_http_apikey_link_s  ngx_http_apikey_link_t;
typedef struct ngx_http_apikey_cluster_s  ngx_http_apikey_cluster_t;
typedef struct ngx_http_apikey_sentinel_s  ngx_http_apikey_sentinel_t;


typedef enum {
    NGX_HTTP_APIKEY_LINK_DOWN = 0,
    NGX_HTTP_APIKEY_LINK_LOCATING,       /* nobody knows yet where to */
    NGX_HTTP_APIKEY_LINK_CONNECTING,
    NGX_HTTP_APIKEY_LINK_TLS,
    NGX_HTTP_APIKEY_LINK_HANDSHAKE,
    NGX_HTTP_APIKEY_LINK_READY
} ngx_http_apikey_link_state_e;


typedef enum {
    NGX_HTTP_APIKEY_LINK_AUTH = 0,
    NGX_HTTP_APIKEY_LINK_SELECT,
    NGX_HTTP_APIKEY_LINK_PING,
    NGX_HTTP_APIKEY_LINK_IDENTITY,
    NGX_HTTP_APIKEY_LINK_STEPS
} ngx_http_apikey_link_step_e;


typedef struct {
    ngx_http_apikey_redis_call_t   *call;        /* NULL: nobody waits */
    ngx_msec_t                      sent;
    int64_t                         start;       /* us, for the histogram */
} ngx_http_apikey_link_slot_t;


/* Where a link goes to; a copy, for what servers say does not last. */

typedef struct {
    ngx_sockaddr_t                  sockaddr;
    socklen_t                       socklen;
    ngx_str_t                       name;        /* as in logs */
    ngx_str_t                       host;        /* NUL-terminated */
    u_char                          text[NGX_SOCKADDR_STRLEN];
    u_char                          address[NGX_SOCKADDR_STRLEN];
} ngx_http_apikey_target_t;


/* A name, and what it was resolved to. */

typedef struct {
    u_char                          host[NGX_HTTP_APIKEY_REDIS_HOST];
    in_port_t                       port;
    ngx_uint_t                      naddrs;
    ngx_sockaddr_t                  addrs[NGX_HTTP_APIKEY_REDIS_ADDRS];
    socklen_t                       socklen[NGX_HTTP_APIKEY_REDIS_ADDRS];
} ngx_http_apikey_name_t;


typedef struct {
    ngx_http_apikey_name_t         *names;       /* the thread's while it
                                                    runs */
    ngx_uint_t                      nnames;
    ngx_thread_task_t              *task;
    ngx_msec_t                      last;
    void                          (*handler)(void *data);
    void                           *data;
} ngx_http_apikey_resolve_t;


struct ngx_http_apikey_link_s {
    ngx_http_apikey_redis_t        *redis;
    ngx_http_apikey_redis_conf_t   *conf;
    ngx_connection_t               *connection;
    struct redisReader             *reader;
    ngx_log_t                      *log;
    ngx_log_t                       quiet;
    u_char                          why[NGX_HTTP_APIKEY_LINK_WHY];

    /* NGX_OK: target is set; NGX_AGAIN: open() will be called; NGX_ERROR */
    ngx_int_t                     (*locate)(ngx_http_apikey_link_t *link);
    void                          (*state_handler)(
                                        ngx_http_apikey_link_t *link,
                                        ngx_uint_t up);

    ngx_peer_connection_t           peer;
    ngx_http_apikey_target_t        target;
    ngx_uint_t                      server;      /* of the configured ones */
    void                           *session;     /* of TLS */

    ngx_uint_t                      state;
    ngx_uint_t                      attempt;     /* another one after each
                                                    disconnect() */
    u_char                          steps[NGX_HTTP_APIKEY_LINK_STEPS];
    ngx_uint_t                      step;
    ngx_uint_t                      nsteps;

    u_char                         *out;
    size_t                          out_size;
    size_t                          out_pos;
    size_t                          out_last;

    ngx_http_apikey_link_slot_t    *slots;
    ngx_uint_t                      nslots;
    ngx_uint_t                      head;        /* the next reply is for it */
    ngx_uint_t                      tail;
    ngx_uint_t                      live;        /* slots somebody waits for */
    ngx_uint_t                      elements;    /* of an array, still to come
                                                    for the head */

    ngx_event_t                     write;       /* posted: once a turn */
    ngx_event_t                     timer;       /* deadlines of commands */
    ngx_event_t                     retry;       /* connecting, reconnecting */

    ngx_http_apikey_redis_epoch_t   epoch;       /* id 0: not known yet */
    u_char                          identified[128];
                                                 /* ... as it was told */
    size_t                          nidentified;
    u_char                          marker[NGX_HTTP_APIKEY_LINK_MARKER];
                                                 /* the key that says it */
    size_t                          nmarker;
    ngx_http_apikey_redis_call_t    identity;
    ngx_event_t                     check;       /* of it, once a second */

    int64_t                         now;         /* us, at the last read */
    ngx_msec_t                      progress;    /* the last reply */
    ngx_msec_t                      ready_at;
    ngx_msec_t                      backoff;

    /* of a Cluster */
    ngx_queue_t                     queue;
    ngx_int_t                       tag;         /* a slot of its own; -1 */
    ngx_int_t                       asking;      /* ... as it is asked about */
    ngx_int_t                       asked;       /* ... as it was, last */
    ngx_msec_t                      used;

    unsigned                        control:1;   /* no values here */
    unsigned                        hope:1;      /* no attempt has failed
                                                    since it was ready */
    unsigned                        owner:1;     /* has slots in the map */
    unsigned                        deferred:1;
    unsigned                        complained:2;
    char                           *reason;      /* the last that was logged */
};


struct ngx_http_apikey_cluster_s {
    ngx_queue_t                     links;
    ngx_uint_t                      nlinks;
    ngx_http_apikey_redis_call_t    call;
    ngx_event_t                     refresh;
    unsigned                        loaded:1;
    unsigned                        soon:1;
    unsigned                        covered:1;   /* every slot has a link */
    ngx_http_apikey_link_t         *map[APIKEY_SLOTS];
};


struct ngx_http_apikey_redis_s {
    ngx_http_apikey_redis_conf_t   *conf;
    ngx_pool_t                     *pool;
    apikey_stats_t                 *stats;
    ngx_log_t                      *log;
    u_char                         *in;          /* what is read, any link */

    ngx_http_apikey_name_t         *servers;     /* the URLs, as resolved */
    ngx_http_apikey_resolve_t       resolve;     /* ... again */

    void                          (*state_handler)(void *data, ngx_uint_t up);
    void                           *state_data;

    ngx_http_apikey_link_t         *link;        /* not in a Cluster */
    ngx_http_apikey_link_t         *control;     /* to a Sentinel, or for the
                                                    map of a Cluster */
    ngx_http_apikey_sentinel_t     *sentinel;
    ngx_http_apikey_cluster_t      *cluster;

    ngx_queue_t                     waiting;     /* calls, redirect.c's */
    ngx_event_t                     later;
    ngx_http_apikey_redis_call_t   *again;       /* its handler runs now and
                                                    may send it */

    ngx_str_t                      *scripts[NGX_HTTP_APIKEY_REDIS_SCRIPTS];
    ngx_uint_t                      nscripts;

    ngx_uint_t                      known;       /* this node has been here */
};


/* redis.c */
void ngx_http_apikey_redis_state(ngx_http_apikey_redis_t *redis,
    ngx_uint_t up);

/* target of the n'th address of the URLs; NGX_ERROR: there is none. */
ngx_int_t ngx_http_apikey_redis_server(ngx_http_apikey_redis_t *redis,
    ngx_uint_t n, ngx_http_apikey_target_t *target);

/*
 * ... and of an address that a server told; NGX_DECLINED: that is a name,
 * NGX_ERROR: too long to be anything.
 */
ngx_int_t ngx_http_apikey_redis_target(ngx_http_apikey_target_t *target,
    ngx_str_t *host, ngx_uint_t port);

/* A copy: its texts may stand in itself. */
void ngx_http_apikey_redis_retarget(ngx_http_apikey_target_t *to,
    ngx_http_apikey_target_t *from);


/* redis_link.c */
ngx_http_apikey_link_t *ngx_http_apikey_link_create(
    ngx_http_apikey_redis_t *redis, ngx_uint_t nslots);
ngx_int_t ngx_http_apikey_link_send(ngx_http_apikey_link_t *link,
    ngx_http_apikey_redis_call_t *call, ngx_uint_t argc, ngx_str_t *argv);
void ngx_http_apikey_link_abandon(ngx_http_apikey_redis_call_t *call);

/* A command whose reply nobody waits for. */
ngx_int_t ngx_http_apikey_link_note(ngx_http_apikey_link_t *link,
    ngx_uint_t argc, ngx_str_t *argv);

void ngx_http_apikey_link_read_handler(ngx_event_t *rev);

/* No handler runs. */
void ngx_http_apikey_link_close(ngx_http_apikey_link_t *link);

/* Closed, and what it holds is freed, the link itself, too. */
void ngx_http_apikey_link_destroy(ngx_http_apikey_link_t *link);


/* redis_write.c */
ngx_int_t ngx_http_apikey_link_append(ngx_http_apikey_link_t *link,
    ngx_uint_t argc, ngx_str_t *argv);
void ngx_http_apikey_link_flush(ngx_http_apikey_link_t *link);
void ngx_http_apikey_link_posted_handler(ngx_event_t *ev);
void ngx_http_apikey_link_write_handler(ngx_event_t *wev);


/* redis_connect.c */
void ngx_http_apikey_link_connect(ngx_http_apikey_link_t *link);

/* The target is set. */
ngx_int_t ngx_http_apikey_link_open(ngx_http_apikey_link_t *link);

void ngx_http_apikey_link_retry_handler(ngx_event_t *ev);
void ngx_http_apikey_link_connected(ngx_http_apikey_link_t *link);
ngx_int_t ngx_http_apikey_link_handshake(ngx_http_apikey_link_t *link);
void ngx_http_apikey_link_handshake_reply(ngx_http_apikey_link_t *link,
    struct redisReply *reply);
void ngx_http_apikey_link_ready(ngx_http_apikey_link_t *link);

/*
 * The connection broke or could not be made.  One that had worked is made
 * anew at once; everyone who waits learns it, nothing is sent again.
 */
void ngx_http_apikey_link_lost(ngx_http_apikey_link_t *link, char *why,
    ngx_str_t *text);

/* ... by the other side. */
void ngx_http_apikey_link_closed(ngx_http_apikey_link_t *link);

void ngx_http_apikey_link_disconnect(ngx_http_apikey_link_t *link);


/* redis_log.c */
void ngx_http_apikey_link_quiet(ngx_http_apikey_link_t *link);
void ngx_http_apikey_link_complain(ngx_http_apikey_link_t *link, char *why,
    ngx_str_t *text);
void ngx_http_apikey_link_good(ngx_http_apikey_link_t *link);


/* redis_ssl.c */
ngx_int_t ngx_http_apikey_link_ssl(ngx_http_apikey_link_t *link);
void ngx_http_apikey_link_ssl_close(ngx_connection_t *c);
void ngx_http_apikey_link_ssl_forget(ngx_http_apikey_link_t *link);


/* redis_resolve.c */

/* All of the URLs' names again, unless that was done just now. */
void ngx_http_apikey_redis_resolve(ngx_http_apikey_redis_t *redis);
ngx_int_t ngx_http_apikey_redis_servers(ngx_http_apikey_redis_t *redis);

/* NGX_OK: the handler will run; NGX_ERROR: not now. */
ngx_int_t ngx_http_apikey_resolve_start(ngx_http_apikey_resolve_t *resolve);
ngx_int_t ngx_http_apikey_resolve_create(ngx_http_apikey_redis_t *redis,
    ngx_http_apikey_resolve_t *resolve, ngx_uint_t nnames,
    void (*handler)(void *data), void *data);


/* redis_identity.c */
ngx_int_t ngx_http_apikey_link_identify(ngx_http_apikey_link_t *link);

/* NGX_DONE: the link is lost. */
ngx_int_t ngx_http_apikey_link_identified(ngx_http_apikey_link_t *link,
    struct redisReply *reply);
void ngx_http_apikey_link_check_handler(ngx_event_t *ev);
void ngx_http_apikey_link_check(ngx_http_apikey_link_t *link);


/* redis_sentinel.c */
ngx_int_t ngx_http_apikey_sentinel_create(ngx_http_apikey_redis_t *redis);
void ngx_http_apikey_sentinel_close(ngx_http_apikey_redis_t *redis);

/* The link is all but ready: is it still the primary? */
void ngx_http_apikey_sentinel_confirm(ngx_http_apikey_link_t *link);


/* redis_cluster.c */
ngx_int_t ngx_http_apikey_cluster_create(ngx_http_apikey_redis_t *redis);
void ngx_http_apikey_cluster_close(ngx_http_apikey_redis_t *redis);
ngx_uint_t ngx_http_apikey_cluster_ready(ngx_http_apikey_redis_t *redis);
ngx_uint_t ngx_http_apikey_cluster_connecting(ngx_http_apikey_redis_t *redis);

/* NULL: nobody has this slot; key NULL: any that is ready. */
ngx_http_apikey_link_t *ngx_http_apikey_cluster_link(
    ngx_http_apikey_redis_t *redis, ngx_str_t *key);

/* The link to an address that a node told; NULL: none can be made. */
ngx_http_apikey_link_t *ngx_http_apikey_cluster_find(
    ngx_http_apikey_redis_t *redis, ngx_http_apikey_link_t *from,
    ngx_str_t *host, ngx_uint_t port);

/* From now on this slot is there. */
void ngx_http_apikey_cluster_move(ngx_http_apikey_redis_t *redis,
    ngx_uint_t slot, ngx_http_apikey_link_t *link);

/* The map may be old: another one is asked for, soon. */
void ngx_http_apikey_cluster_refresh(ngx_http_apikey_redis_t *redis);


/* redis_map.c */
void ngx_http_apikey_map_handler(ngx_http_apikey_redis_call_t *call,
    struct redisReply *reply);

/*
 * A Cluster is up when every slot has an owner and all owners are ready; told
 * at every change, for some wait for the first of them only.
 */
void ngx_http_apikey_map_tell(ngx_http_apikey_redis_t *redis);


/* redis_redirect.c */

/* send() in a Cluster; key NULL: any node will do. */
ngx_int_t ngx_http_apikey_redirect_send(ngx_http_apikey_redis_t *redis,
    ngx_http_apikey_redis_call_t *call, ngx_str_t *key, ngx_uint_t argc,
    ngx_str_t *argv);

/* NGX_DONE: the call goes on elsewhere; NGX_DECLINED: it is answered. */
ngx_int_t ngx_http_apikey_redirect(ngx_http_apikey_link_t *link,
    ngx_http_apikey_redis_call_t *call, struct redisReply *reply);

void ngx_http_apikey_redirect_leave(ngx_http_apikey_redis_call_t *call);

/* Those who wait for it go on, or hear that it is in vain. */
void ngx_http_apikey_redirect_state(ngx_http_apikey_link_t *link,
    ngx_uint_t up);
void ngx_http_apikey_redirect_timer_handler(ngx_event_t *ev);


#endif /* NGX_HTTP_APIKEY_REDIS_PRIVATE_H_INCLUDED */
