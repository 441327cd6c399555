
/*
 * What postgres.c (the queue of operations) and postgres_connect.c (getting
 * and losing the connection) share.  Nobody else includes this.
 */


#ifndef NGX_HTTP_APIKEY_POSTGRES_CONN_H_INCLUDED
#define NGX_HTTP_APIKEY_POSTGRES_CONN_H_INCLUDED


#include "wire/postgres.h"

#include <ngx_thread_pool.h>


#define NGX_HTTP_APIKEY_PG_TIMEOUT  10000
#define NGX_HTTP_APIKEY_PG_BACKOFF  100
#define NGX_HTTP_APIKEY_PG_LIST     2048  /* bytes of "host,host,..." */


typedef enum {
    NGX_HTTP_APIKEY_PG_DOWN = 0,
    NGX_HTTP_APIKEY_PG_RESOLVING,
    NGX_HTTP_APIKEY_PG_CONNECTING,
    NGX_HTTP_APIKEY_PG_SETUP,
    NGX_HTTP_APIKEY_PG_READY,
    NGX_HTTP_APIKEY_PG_CLOSED
} ngx_http_apikey_pg_state_e;


/* Read and written by a thread while a resolve task is active. */

typedef struct {
    char       names[NGX_HTTP_APIKEY_PG_LIST];     /* as configured */
    char       numbers[NGX_HTTP_APIKEY_PG_LIST];   /* ports, as configured */
    char       host[NGX_HTTP_APIKEY_PG_LIST];      /* one for each address */
    char       hostaddr[NGX_HTTP_APIKEY_PG_LIST];
    char       port[NGX_HTTP_APIKEY_PG_LIST];
    unsigned   found;
} ngx_http_apikey_pg_addrs_t;


struct ngx_http_apikey_pg_s {
    ngx_log_t                     *log;
    apikey_stats_t                *stats;
    const char                    *name;
    PQconninfoOption              *options;
    ngx_msec_t                     connect_timeout;

    ngx_uint_t                     state;
    PGconn                        *conn;
    ngx_connection_t              *c;            /* nginx's view of the fd */
    ino_t                          ino;
    ngx_uint_t                     epoch;        /* +1 when conn is finished */

    ngx_queue_t                    ops;          /* not sent yet */
    ngx_queue_t                    failed;       /* handlers due */
    ngx_http_apikey_pg_op_t       *current;      /* sent; NULL: abandoned */
    PGresult                      *result;       /* of the current one */
    int64_t                        started;      /* us */

    ngx_msec_t                     deadline;     /* of connecting or current */
    ngx_msec_t                     bound;        /* statement_timeout */
    ngx_msec_t                     fixed;        /* bound; 0: see operations */
    ngx_msec_t                     retry_at;
    ngx_msec_t                     backoff;
    const char                    *error;        /* why it is down */

    ngx_event_t                    timer;        /* not cancelable while an
                                                    operation waits */
    ngx_event_t                    retry;        /* cancelable: listen */
    ngx_event_t                    wake;

    ngx_thread_task_t             *task;
    ngx_http_apikey_pg_addrs_t     addrs;

    ngx_http_apikey_pg_op_t        setup;
    char                           setup_sql[160];

    ngx_http_apikey_pg_listen_t    listen;

    unsigned                       busy:1;       /* a statement is in flight */
    unsigned                       copying:1;    /* its COPY wants more */
    unsigned                       listening:1;
    unsigned                       read_only:1;
    unsigned                       lost:1;       /* listen.lost is due */
    unsigned                       was_up:1;     /* connected was called */
    unsigned                       outage:1;     /* logged already */
};


/* postgres_resolve.c */
PQconninfoOption *ngx_http_apikey_pg_parse(ngx_str_t *conninfo,
    ngx_log_t *log);
const char *ngx_http_apikey_pg_option(PQconninfoOption *options,
    const char *name);
ngx_int_t ngx_http_apikey_pg_endpoints(ngx_http_apikey_pg_t *pg);
void ngx_http_apikey_pg_resolve(void *data, ngx_log_t *log);

/* postgres_connect.c */
void ngx_http_apikey_pg_connect(ngx_http_apikey_pg_t *pg);
void ngx_http_apikey_pg_poll(ngx_http_apikey_pg_t *pg);
void ngx_http_apikey_pg_finish(ngx_http_apikey_pg_t *pg, ngx_uint_t cut);
ngx_int_t ngx_http_apikey_pg_want(ngx_http_apikey_pg_t *pg, ngx_uint_t rd,
    ngx_uint_t wr);

/* postgres_io.c */
void ngx_http_apikey_pg_setup(ngx_http_apikey_pg_t *pg);
void ngx_http_apikey_pg_next(ngx_http_apikey_pg_t *pg);
void ngx_http_apikey_pg_read_handler(ngx_event_t *rev);
void ngx_http_apikey_pg_write_handler(ngx_event_t *wev);

/* postgres.c */
void ngx_http_apikey_pg_arm(ngx_http_apikey_pg_t *pg);
void ngx_http_apikey_pg_fail(ngx_http_apikey_pg_t *pg, const char *error);


#endif /* NGX_HTTP_APIKEY_POSTGRES_CONN_H_INCLUDED */
