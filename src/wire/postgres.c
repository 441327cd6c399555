
/*
 * The queue of operations of one libpq connection and what comes back.
 *
 * One statement is in flight at a time; what waits is sent in order.  When
 * the connection breaks, all that is in flight or waits fails: operations
 * that belong to one transaction must never be spread over two sessions.
 * Everything lives in the worker's pool; operations are their callers'.
 */


#include "wire/postgres_conn.h"

#include <openssl/ssl.h>

#include "base/clock.h"


#define NGX_HTTP_APIKEY_PG_TIMEOUT      10000
#define NGX_HTTP_APIKEY_PG_CONNECT      3000
#define NGX_HTTP_APIKEY_PG_BACKOFF      100
#define NGX_HTTP_APIKEY_PG_BACKOFF_MAX  1000


static void ngx_http_apikey_pg_wake(ngx_event_t *ev);
static void ngx_http_apikey_pg_run_failed(ngx_http_apikey_pg_t *pg);
static void ngx_http_apikey_pg_timeout(ngx_event_t *ev);
static void ngx_http_apikey_pg_retry(ngx_event_t *ev);
static void ngx_http_apikey_pg_fail_op(ngx_http_apikey_pg_t *pg,
    ngx_http_apikey_pg_op_t *op, const char *error);
static void ngx_http_apikey_pg_log_down(ngx_http_apikey_pg_t *pg);
static void ngx_http_apikey_pg_setup_done(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_pg_next(ngx_http_apikey_pg_t *pg);
static void ngx_http_apikey_pg_send(ngx_http_apikey_pg_t *pg,
    ngx_http_apikey_pg_op_t *op);
static ngx_int_t ngx_http_apikey_pg_flush(ngx_http_apikey_pg_t *pg);
static ngx_int_t ngx_http_apikey_pg_results(ngx_http_apikey_pg_t *pg);
static ngx_int_t ngx_http_apikey_pg_result(ngx_http_apikey_pg_t *pg,
    PGresult *res);
static ngx_int_t ngx_http_apikey_pg_copy_in(ngx_http_apikey_pg_t *pg);
static void ngx_http_apikey_pg_done(ngx_http_apikey_pg_t *pg);
static ngx_uint_t ngx_http_apikey_pg_hidden(ngx_http_apikey_pg_t *pg);


ngx_http_apikey_pg_t *
ngx_http_apikey_pg_create(ngx_pool_t *pool, ngx_http_apikey_pg_conf_t *conf,
    apikey_stats_t *stats, ngx_log_t *log)
{
    ngx_http_apikey_pg_t  *pg;

    pg = ngx_pcalloc(pool, sizeof(ngx_http_apikey_pg_t));
    if (pg == NULL) {
        return NULL;
    }

    pg->options = ngx_http_apikey_pg_parse(&conf->conninfo, log);
    if (pg->options == NULL) {
        return NULL;
    }

    pg->task = ngx_thread_task_alloc(pool, 0);
    if (pg->task == NULL) {
        PQconninfoFree(pg->options);
        return NULL;
    }

    pg->log = log;
    pg->stats = stats;
    pg->name = conf->name;
    pg->connect_timeout = conf->connect_timeout ? conf->connect_timeout
                                                : NGX_HTTP_APIKEY_PG_CONNECT;
    pg->backoff = NGX_HTTP_APIKEY_PG_BACKOFF;
    pg->retry_at = ngx_current_msec;
    pg->error = "not connected";

    ngx_queue_init(&pg->ops);
    ngx_queue_init(&pg->failed);

    pg->timer.handler = ngx_http_apikey_pg_timeout;
    pg->timer.data = pg;
    pg->timer.log = log;

    pg->retry.handler = ngx_http_apikey_pg_retry;
    pg->retry.data = pg;
    pg->retry.log = log;
    pg->retry.cancelable = 1;

    pg->wake.handler = ngx_http_apikey_pg_wake;
    pg->wake.data = pg;
    pg->wake.log = log;

    return pg;
}


ngx_int_t
ngx_http_apikey_pg_query(ngx_http_apikey_pg_t *pg, ngx_http_apikey_pg_op_t *op)
{
    if (pg->state == NGX_HTTP_APIKEY_PG_CLOSED) {
        return NGX_ERROR;
    }

    if (op->timeout == 0) {
        op->timeout = NGX_HTTP_APIKEY_PG_TIMEOUT;
    }

    op->deadline = ngx_current_msec + op->timeout;
    op->sent = 0;
    op->failed = 0;
    op->error = NULL;

    ngx_queue_insert_tail(&pg->ops, &op->queue);

    ngx_http_apikey_pg_arm(pg);
    ngx_post_event(&pg->wake, &ngx_posted_events);

    return NGX_OK;
}


void
ngx_http_apikey_pg_abandon(ngx_http_apikey_pg_t *pg,
    ngx_http_apikey_pg_op_t *op)
{
    if (pg->current == op) {
        pg->current = NULL;      /* its results will be thrown away */

    } else {
        ngx_queue_remove(&op->queue);
    }

    pg->timer.cancelable = (pg->current == NULL
                            && ngx_queue_empty(&pg->ops));
}


ngx_int_t
ngx_http_apikey_pg_listen(ngx_http_apikey_pg_t *pg,
    ngx_http_apikey_pg_listen_t *listen)
{
    if (pg->state == NGX_HTTP_APIKEY_PG_CLOSED
        || ngx_strlen(listen->channel) > 63)
    {
        return NGX_ERROR;
    }

    pg->listen = *listen;
    pg->listening = 1;

    if (pg->state != NGX_HTTP_APIKEY_PG_DOWN) {
        ngx_http_apikey_pg_reset(pg);
        return NGX_OK;
    }

    ngx_http_apikey_pg_connect(pg);

    return NGX_OK;
}


ngx_int_t
ngx_http_apikey_pg_copy(PGconn *conn, const u_char *data, size_t len)
{
    int     n;
    size_t  part;

    while (len) {
        part = ngx_min(len, 1024 * 1024);

        n = PQputCopyData(conn, (const char *) data, (int) part);
        if (n != 1) {
            return NGX_ERROR;
        }

        data += part;
        len -= part;
    }

    return NGX_OK;
}


void
ngx_http_apikey_pg_reset(ngx_http_apikey_pg_t *pg)
{
    if (pg->conn == NULL) {
        return;
    }

    ngx_http_apikey_pg_fail(pg, "the connection was reset");

    pg->backoff = NGX_HTTP_APIKEY_PG_BACKOFF;
    pg->retry_at = ngx_current_msec;
}


void
ngx_http_apikey_pg_close(ngx_http_apikey_pg_t *pg)
{
    ngx_http_apikey_pg_finish(pg, 0);

    pg->state = NGX_HTTP_APIKEY_PG_CLOSED;
    pg->busy = 0;
    pg->current = NULL;
    ngx_queue_init(&pg->ops);
    ngx_queue_init(&pg->failed);

    if (pg->timer.timer_set) {
        ngx_del_timer(&pg->timer);
    }

    if (pg->retry.timer_set) {
        ngx_del_timer(&pg->retry);
    }

    if (pg->wake.posted) {
        ngx_delete_posted_event(&pg->wake);
    }

    if (pg->options) {
        PQconninfoFree(pg->options);
        pg->options = NULL;
    }
}


static void
ngx_http_apikey_pg_wake(ngx_event_t *ev)
{
    ngx_queue_t              *q;
    ngx_http_apikey_pg_t     *pg = ev->data;
    ngx_http_apikey_pg_op_t  *op;

    if (pg->lost) {
        pg->lost = 0;

        if (pg->listen.lost) {
            pg->listen.lost(pg->listen.data);
        }
    }

    ngx_http_apikey_pg_run_failed(pg);

    if (pg->state == NGX_HTTP_APIKEY_PG_READY) {
        ngx_http_apikey_pg_next(pg);

    } else if (pg->state == NGX_HTTP_APIKEY_PG_DOWN
               && !ngx_queue_empty(&pg->ops))
    {
        if ((ngx_msec_int_t) (pg->retry_at - ngx_current_msec) <= 0) {
            ngx_http_apikey_pg_connect(pg);
            return;
        }

        while (!ngx_queue_empty(&pg->ops)) {
            q = ngx_queue_head(&pg->ops);
            op = ngx_queue_data(q, ngx_http_apikey_pg_op_t, queue);

            ngx_queue_remove(q);
            ngx_http_apikey_pg_fail_op(pg, op, pg->error);
        }

        ngx_http_apikey_pg_run_failed(pg);
    }
}


static void
ngx_http_apikey_pg_run_failed(ngx_http_apikey_pg_t *pg)
{
    ngx_queue_t              *q;
    ngx_http_apikey_pg_op_t  *op;

    while (!ngx_queue_empty(&pg->failed)) {
        q = ngx_queue_head(&pg->failed);
        op = ngx_queue_data(q, ngx_http_apikey_pg_op_t, queue);

        ngx_queue_remove(q);
        op->handler(op, NULL);
    }
}


/* Sets the timer for the first deadline; a timer set too early only looks. */

void
ngx_http_apikey_pg_arm(ngx_http_apikey_pg_t *pg)
{
    ngx_uint_t                any;
    ngx_msec_t                first;
    ngx_queue_t              *q;
    ngx_msec_int_t            left;
    ngx_http_apikey_pg_op_t  *op;

    any = 0;
    first = 0;

    if (pg->busy || (pg->state != NGX_HTTP_APIKEY_PG_DOWN
                     && pg->state != NGX_HTTP_APIKEY_PG_READY))
    {
        any = 1;
        first = pg->deadline;
    }

    if (!ngx_queue_empty(&pg->ops)) {

        /* the last one was queued now; those before it are covered */

        q = pg->timer.timer_set ? ngx_queue_last(&pg->ops)
                                : ngx_queue_head(&pg->ops);

        for ( /* void */ ; q != ngx_queue_sentinel(&pg->ops);
             q = ngx_queue_next(q))
        {
            op = ngx_queue_data(q, ngx_http_apikey_pg_op_t, queue);

            if (!any || (ngx_msec_int_t) (op->deadline - first) < 0) {
                any = 1;
                first = op->deadline;
            }
        }
    }

    pg->timer.cancelable = (pg->current == NULL
                            && ngx_queue_empty(&pg->ops));

    if (!any) {
        return;
    }

    if (pg->timer.timer_set
        && (ngx_msec_int_t) (first - pg->timer.timer.key) >= 0)
    {
        return;
    }

    left = (ngx_msec_int_t) (first - ngx_current_msec);

    if (pg->timer.timer_set) {
        ngx_del_timer(&pg->timer);
    }

    ngx_add_timer(&pg->timer, ngx_max(left, 1));
}


static void
ngx_http_apikey_pg_timeout(ngx_event_t *ev)
{
    ngx_queue_t              *q, *next;
    ngx_http_apikey_pg_t     *pg = ev->data;
    ngx_http_apikey_pg_op_t  *op;

    if ((pg->busy || (pg->state != NGX_HTTP_APIKEY_PG_DOWN
                      && pg->state != NGX_HTTP_APIKEY_PG_READY))
        && (ngx_msec_int_t) (pg->deadline - ngx_current_msec) <= 0)
    {
        ngx_http_apikey_pg_fail(pg, "timed out");
    }

    for (q = ngx_queue_head(&pg->ops);
         q != ngx_queue_sentinel(&pg->ops);
         q = next)
    {
        next = ngx_queue_next(q);
        op = ngx_queue_data(q, ngx_http_apikey_pg_op_t, queue);

        if ((ngx_msec_int_t) (op->deadline - ngx_current_msec) <= 0) {
            ngx_queue_remove(q);
            ngx_http_apikey_pg_fail_op(pg, op, "timed out");
        }
    }

    ngx_http_apikey_pg_arm(pg);
}


static void
ngx_http_apikey_pg_retry(ngx_event_t *ev)
{
    ngx_http_apikey_pg_t *pg = ev->data;

    if (pg->state == NGX_HTTP_APIKEY_PG_DOWN && !ngx_exiting) {
        ngx_http_apikey_pg_connect(pg);
    }
}


/* Never runs a handler itself: those follow from a posted event. */

void
ngx_http_apikey_pg_fail(ngx_http_apikey_pg_t *pg, const char *error)
{
    ngx_msec_t                delay;
    ngx_queue_t              *q;
    ngx_http_apikey_pg_op_t  *op;

    op = pg->current;
    pg->error = error;

    ngx_http_apikey_pg_log_down(pg);
    ngx_http_apikey_pg_finish(pg, 1);

    pg->state = NGX_HTTP_APIKEY_PG_DOWN;
    pg->current = NULL;
    pg->busy = 0;

    if (op && op != &pg->setup) {
        ngx_http_apikey_pg_fail_op(pg, op, error);
    }

    while (!ngx_queue_empty(&pg->ops)) {
        q = ngx_queue_head(&pg->ops);
        op = ngx_queue_data(q, ngx_http_apikey_pg_op_t, queue);

        ngx_queue_remove(q);
        ngx_http_apikey_pg_fail_op(pg, op, error);
    }

    delay = pg->backoff / 2 + (ngx_msec_t) ngx_random() % pg->backoff;

    pg->retry_at = ngx_current_msec + delay;
    pg->backoff = ngx_min(pg->backoff * 2, NGX_HTTP_APIKEY_PG_BACKOFF_MAX);

    if (pg->timer.timer_set) {
        ngx_del_timer(&pg->timer);
    }

    if (pg->listening) {
        pg->lost = pg->was_up;

        if (!ngx_exiting) {
            ngx_add_timer(&pg->retry, delay);
        }
    }

    pg->was_up = 0;

    ngx_post_event(&pg->wake, &ngx_posted_events);
}


static void
ngx_http_apikey_pg_fail_op(ngx_http_apikey_pg_t *pg,
    ngx_http_apikey_pg_op_t *op, const char *error)
{
    op->failed = 1;
    op->error = error;

    ngx_queue_insert_tail(&pg->failed, &op->queue);
    ngx_post_event(&pg->wake, &ngx_posted_events);
}


static void
ngx_http_apikey_pg_log_down(ngx_http_apikey_pg_t *pg)
{
    size_t       len;
    ngx_str_t    why;
    ngx_uint_t   level;
    const char  *text;

    text = pg->conn ? PQerrorMessage(pg->conn) : "";
    len = ngx_strlen(text);

    while (len && (u_char) text[len - 1] <= ' ') {
        len--;
    }

    why.data = (u_char *) text;
    why.len = len;

    /* an outage is told once; an idle session may end without a word */

    level = (pg->outage || pg->backoff == 0 || ngx_exiting) ? NGX_LOG_INFO
                                                            : NGX_LOG_ERR;
    if (pg->was_up && !pg->busy && !pg->listening) {
        level = NGX_LOG_INFO;

    } else {
        pg->outage = 1;
    }

    ngx_log_error(level, pg->log, 0, "%s: Postgres: %s%s%V",
                  pg->name, pg->error, len ? ": " : "", &why);
}


/* The session's first statement. */

void
ngx_http_apikey_pg_setup(ngx_http_apikey_pg_t *pg)
{
    u_char  *p, *last;

    if (pg->bound == 0) {
        pg->bound = NGX_HTTP_APIKEY_PG_TIMEOUT;
    }

    p = (u_char *) pg->setup_sql;
    last = p + sizeof(pg->setup_sql) - 1;

    p = ngx_slprintf(p, last, "SET statement_timeout = %M", pg->bound);

    if (pg->listening && pg->state == NGX_HTTP_APIKEY_PG_CONNECTING) {
        p = ngx_slprintf(p, last, "; LISTEN \"%s\"", pg->listen.channel);
    }

    *p = '\0';

    if (pg->state == NGX_HTTP_APIKEY_PG_CONNECTING) {
        pg->state = NGX_HTTP_APIKEY_PG_SETUP;
    }

    pg->setup.sql = pg->setup_sql;
    pg->setup.simple = 1;
    pg->setup.handler = ngx_http_apikey_pg_setup_done;
    pg->setup.data = pg;
    pg->setup.deadline = ngx_current_msec + pg->connect_timeout;

    ngx_http_apikey_pg_send(pg, &pg->setup);
}


static void
ngx_http_apikey_pg_setup_done(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_http_apikey_pg_t *pg = op->data;

    if (PQresultStatus(res) != PGRES_COMMAND_OK) {
        ngx_http_apikey_pg_fail(pg, "cannot set up the session");
        return;
    }

    if (pg->state == NGX_HTTP_APIKEY_PG_READY) {
        return;                  /* only the bound was raised */
    }

    if (pg->outage) {
        ngx_log_error(NGX_LOG_NOTICE, pg->log, 0,
                      "%s: Postgres is back", pg->name);
    }

    pg->state = NGX_HTTP_APIKEY_PG_READY;
    pg->backoff = NGX_HTTP_APIKEY_PG_BACKOFF;
    pg->outage = 0;
    pg->was_up = 1;

    if (pg->listening && pg->listen.connected) {
        pg->listen.connected(pg->listen.data);
    }
}


static void
ngx_http_apikey_pg_next(ngx_http_apikey_pg_t *pg)
{
    ngx_queue_t              *q;
    ngx_http_apikey_pg_op_t  *op;

    if (pg->busy || pg->state != NGX_HTTP_APIKEY_PG_READY) {
        return;
    }

    if (ngx_queue_empty(&pg->ops)) {
        if (pg->timer.timer_set) {
            ngx_del_timer(&pg->timer);
        }

        return;
    }

    q = ngx_queue_head(&pg->ops);
    op = ngx_queue_data(q, ngx_http_apikey_pg_op_t, queue);

    if (op->timeout > pg->bound) {
        pg->bound = op->timeout;
        ngx_http_apikey_pg_setup(pg);
        return;
    }

    ngx_queue_remove(q);
    ngx_http_apikey_pg_send(pg, op);
}


static void
ngx_http_apikey_pg_send(ngx_http_apikey_pg_t *pg, ngx_http_apikey_pg_op_t *op)
{
    int  rc;

    op->sent = 1;

    pg->current = op;
    pg->busy = 1;
    pg->deadline = op->deadline;
    pg->started = apikey_clock_boot();

    rc = op->simple
         ? PQsendQuery(pg->conn, op->sql)
         : PQsendQueryParams(pg->conn, op->sql, op->nparams, NULL, op->values,
                             op->lengths, op->formats, op->binary);

    if (rc == 0 || (op->row && PQsetSingleRowMode(pg->conn) == 0)) {
        ngx_http_apikey_pg_fail(pg, "cannot send");
        return;
    }

    if (ngx_http_apikey_pg_flush(pg) == NGX_OK) {
        ngx_http_apikey_pg_arm(pg);
    }
}


static ngx_int_t
ngx_http_apikey_pg_flush(ngx_http_apikey_pg_t *pg)
{
    int  rc;

    rc = PQflush(pg->conn);

    if (rc < 0 || ngx_http_apikey_pg_want(pg, 1, rc) != NGX_OK) {
        ngx_http_apikey_pg_fail(pg, "the connection was lost");
        return NGX_ERROR;
    }

    return NGX_OK;
}


void
ngx_http_apikey_pg_write_handler(ngx_event_t *wev)
{
    ngx_connection_t      *c = wev->data;
    ngx_http_apikey_pg_t  *pg = c->data;

    if (pg->state == NGX_HTTP_APIKEY_PG_CONNECTING) {
        ngx_http_apikey_pg_poll(pg);
        return;
    }

    (void) ngx_http_apikey_pg_flush(pg);
}


void
ngx_http_apikey_pg_read_handler(ngx_event_t *rev)
{
    ngx_connection_t      *c = rev->data;
    ngx_http_apikey_pg_t  *pg = c->data;

    if (c->close) {
        c->close = 0;
        ngx_http_apikey_pg_fail(pg, "the worker is going");
        return;
    }

    if (pg->state == NGX_HTTP_APIKEY_PG_CONNECTING) {
        ngx_http_apikey_pg_poll(pg);
        return;
    }

    do {
        if (PQconsumeInput(pg->conn) == 0) {
            ngx_http_apikey_pg_fail(pg, "the connection was lost");
            return;
        }

        if (ngx_http_apikey_pg_results(pg) != NGX_OK) {
            return;
        }

    } while (ngx_http_apikey_pg_hidden(pg));
}


/* NGX_DONE: a handler cut the connection. */

static ngx_int_t
ngx_http_apikey_pg_results(ngx_http_apikey_pg_t *pg)
{
    PGresult    *res;
    PGnotify    *notice;
    ngx_uint_t   epoch;

    epoch = pg->epoch;

    while (pg->busy && !PQisBusy(pg->conn)) {
        res = PQgetResult(pg->conn);

        if (res == NULL) {
            ngx_http_apikey_pg_done(pg);

        } else if (ngx_http_apikey_pg_result(pg, res) != NGX_OK
                   && pg->epoch == epoch)
        {
            ngx_http_apikey_pg_fail(pg, "an unexpected answer");
        }

        if (pg->epoch != epoch) {
            return NGX_DONE;
        }
    }

    while (pg->state == NGX_HTTP_APIKEY_PG_READY
           && (notice = PQnotifies(pg->conn)) != NULL)
    {
        if (pg->listening) {
            pg->listen.notify(pg->listen.data, notice->extra);
        }

        PQfreemem(notice);

        if (pg->epoch != epoch) {
            return NGX_DONE;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_pg_result(ngx_http_apikey_pg_t *pg, PGresult *res)
{
    ExecStatusType            status;
    ngx_http_apikey_pg_op_t  *op;

    op = pg->current;
    status = PQresultStatus(res);

    switch (status) {

    case PGRES_SINGLE_TUPLE:

        if (op && op->row) {
            op->row(op, res);
        }

        PQclear(res);
        return NGX_OK;

    case PGRES_COPY_IN:

        PQclear(res);
        return ngx_http_apikey_pg_copy_in(pg);

    case PGRES_COPY_OUT:
    case PGRES_COPY_BOTH:

        PQclear(res);
        return NGX_ERROR;

    default:
        break;
    }

    /* several statements: the first error, else the last result */

    if (pg->result
        && PQresultStatus(pg->result) == PGRES_FATAL_ERROR)
    {
        PQclear(res);
        return NGX_OK;
    }

    if (pg->result) {
        PQclear(pg->result);
    }

    pg->result = res;

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_pg_copy_in(ngx_http_apikey_pg_t *pg)
{
    int                       rc;
    ngx_int_t                 copied;
    ngx_http_apikey_pg_op_t  *op;

    op = pg->current;

    copied = (op && op->copy) ? op->copy(op, pg->conn) : NGX_ERROR;

    if (pg->conn == NULL) {
        return NGX_ERROR;
    }

    rc = PQputCopyEnd(pg->conn, copied == NGX_OK ? NULL : "given up");

    if (rc != 1) {
        return NGX_ERROR;
    }

    return ngx_http_apikey_pg_flush(pg);
}


static void
ngx_http_apikey_pg_done(ngx_http_apikey_pg_t *pg)
{
    PGresult                 *res;
    ngx_uint_t                epoch;
    ngx_http_apikey_pg_op_t  *op;

    op = pg->current;
    res = pg->result;
    epoch = pg->epoch;

    pg->current = NULL;
    pg->result = NULL;
    pg->busy = 0;

    if (op && op != &pg->setup && pg->stats) {
        apikey_histogram_add(&pg->stats->postgres,
                             apikey_clock_boot() - pg->started);
    }

    if (op) {
        op->handler(op, res);
    }

    if (res) {
        PQclear(res);
    }

    if (pg->epoch == epoch) {
        ngx_http_apikey_pg_next(pg);
    }
}


/* Bytes that TLS has read from the socket and no event will tell of. */

static ngx_uint_t
ngx_http_apikey_pg_hidden(ngx_http_apikey_pg_t *pg)
{
    SSL  *ssl;

    if (pg->conn == NULL) {
        return 0;
    }

    ssl = PQsslStruct(pg->conn, "OpenSSL");

    return ssl != NULL && SSL_pending(ssl) > 0;
}
