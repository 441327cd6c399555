
/*
 * One libpq connection inside nginx's event loop, with a queue of operations.
 *
 * Never blocks: names are resolved before connecting, every operation has its
 * own deadline, results are consumed as they arrive.  Connects on the first
 * operation (or at once with listen), reconnects with jittered back-off while
 * operations or a listen wait.  An operation whose connection is lost fails;
 * nothing is ever sent twice.
 *
 * A connection belongs to one worker and is made in init_process.  The caller
 * owns every operation until its handler ran; the handler may free it and may
 * queue others.  Handlers run from this connection's events, never from
 * inside ngx_http_apikey_pg_query().
 */


#ifndef NGX_HTTP_APIKEY_POSTGRES_H_INCLUDED
#define NGX_HTTP_APIKEY_POSTGRES_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include <libpq-fe.h>

#include "base/stats.h"


typedef struct ngx_http_apikey_pg_s     ngx_http_apikey_pg_t;
typedef struct ngx_http_apikey_pg_op_s  ngx_http_apikey_pg_op_t;


/*
 * res: a result of any status, owned by the callee's caller (cleared after
 * the handler returns); NULL: the connection was lost, refused or timed out,
 * and op->error says why.  Whether a lost statement took effect is unknown.
 */
typedef void (*ngx_http_apikey_pg_handler_pt)(ngx_http_apikey_pg_op_t *op,
    PGresult *res);


struct ngx_http_apikey_pg_op_s {
    ngx_queue_t                     queue;

    const char                     *sql;         /* extended protocol */
    int                             nparams;
    const char *const              *values;      /* alive until handler ran */
    const int                      *lengths;     /* NULL: all are text */
    const int                      *formats;     /* NULL: all are text */
    int                             binary;      /* result format */

    ngx_msec_t                      timeout;     /* from being queued; 0:
                                                    10 s */
    ngx_http_apikey_pg_handler_pt   handler;

    /*
     * Optional, single-row mode: called for each row with a result of one
     * tuple; handler then gets the last, empty result.
     */
    ngx_http_apikey_pg_handler_pt   row;

    /*
     * Optional, COPY ... FROM STDIN: called when the server is ready for
     * data and whenever it has taken what there was; it puts a part by
     * ngx_http_apikey_pg_copy() and returns NGX_AGAIN, NGX_OK at the end of
     * the data, NGX_ERROR to make it fail.
     */
    ngx_int_t                     (*copy)(ngx_http_apikey_pg_op_t *op,
                                        PGconn *conn);

    void                           *data;
    const char                     *error;       /* static text, when NULL */

    unsigned                        simple:1;    /* simple protocol: several
                                                    statements, no parameters;
                                                    the handler gets the last
                                                    result or first error */

    /* private to the connection */
    ngx_msec_t                      deadline;
    unsigned                        sent:1;
    unsigned                        failed:1;
};


typedef struct {
    ngx_str_t    conninfo;       /* NUL-terminated */
    ngx_msec_t   connect_timeout;
    ngx_msec_t   statement_timeout;      /* in Postgres; 0: as long as the
                                            longest operation so far */
    unsigned     read_only:1;    /* nothing it calls is to write or lock */
    const char  *name;           /* in logs and application_name:
                                    "apikey lookup", "apikey ship" */
} ngx_http_apikey_pg_conf_t;


/*
 * While a configuration is read, when no thread may read the environment: puts
 * where a "service" is into the string.  libpq reads its file only while
 * connecting, when it is too late to resolve names.
 */
ngx_int_t ngx_http_apikey_pg_service(ngx_str_t *conninfo, ngx_pool_t *pool);

ngx_http_apikey_pg_t *ngx_http_apikey_pg_create(ngx_pool_t *pool,
    ngx_http_apikey_pg_conf_t *conf, apikey_stats_t *stats, ngx_log_t *log);

/* NGX_OK: queued, the handler will run.  NGX_ERROR: it will not. */
ngx_int_t ngx_http_apikey_pg_query(ngx_http_apikey_pg_t *pg,
    ngx_http_apikey_pg_op_t *op);

/*
 * The caller goes away: the handler will not run.  The statement may already
 * be on its way; op and its parameters may be freed at once.
 */
void ngx_http_apikey_pg_abandon(ngx_http_apikey_pg_t *pg,
    ngx_http_apikey_pg_op_t *op);

/*
 * Keeps the connection up, LISTENs on channel, and calls notify for each
 * notice; connected runs after every (re)connect and LISTEN, before any
 * notice of that connection, so that the caller can catch up on what it
 * missed; lost runs when it breaks.
 */
typedef struct {
    const char  *channel;
    void       (*connected)(void *data);
    void       (*notify)(void *data, const char *payload);
    void       (*lost)(void *data);
    void        *data;
} ngx_http_apikey_pg_listen_t;

ngx_int_t ngx_http_apikey_pg_listen(ngx_http_apikey_pg_t *pg,
    ngx_http_apikey_pg_listen_t *listen);

/* From inside op->copy only; the less, the less memory it takes. */
ngx_int_t ngx_http_apikey_pg_copy(PGconn *conn, const u_char *data,
    size_t len);

/* Cuts the connection (e.g. before a retry on a stuck transaction). */
void ngx_http_apikey_pg_reset(ngx_http_apikey_pg_t *pg);

/*
 * Ends the session, in mid-statement where need be: nobody wants it any more.
 * No operation may wait or be under way that was not abandoned.
 */
void ngx_http_apikey_pg_drop(ngx_http_apikey_pg_t *pg);

/* exit_process: closes; handlers of queued operations do not run. */
void ngx_http_apikey_pg_close(ngx_http_apikey_pg_t *pg);


#endif /* NGX_HTTP_APIKEY_POSTGRES_H_INCLUDED */
