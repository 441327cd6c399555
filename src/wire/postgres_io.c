
/*
 * Statements out, results in: the part of a libpq connection that talks.
 *
 * Called by postgres.c and by nginx's events.  Handlers of operations run
 * from here and may cut the connection: "epoch" tells.
 */


#include "wire/postgres_conn.h"

#include <openssl/ssl.h>

#include "base/clock.h"


static void ngx_http_apikey_pg_setup_done(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_pg_send(ngx_http_apikey_pg_t *pg,
    ngx_http_apikey_pg_op_t *op);
static ngx_int_t ngx_http_apikey_pg_flush(ngx_http_apikey_pg_t *pg);
static ngx_int_t ngx_http_apikey_pg_results(ngx_http_apikey_pg_t *pg);
static ngx_int_t ngx_http_apikey_pg_result(ngx_http_apikey_pg_t *pg,
    PGresult *res);
static ngx_int_t ngx_http_apikey_pg_copy_in(ngx_http_apikey_pg_t *pg);
static void ngx_http_apikey_pg_done(ngx_http_apikey_pg_t *pg);
static ngx_uint_t ngx_http_apikey_pg_hidden(ngx_http_apikey_pg_t *pg);


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

    if (pg->read_only) {
        p = ngx_slprintf(p, last, "; SET default_transaction_read_only = on");
    }

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


void
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

    if (op->timeout > pg->bound && pg->fixed == 0) {
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

    if (ngx_http_apikey_pg_flush(pg) != NGX_ERROR) {
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

    return rc ? NGX_AGAIN : NGX_OK;
}


void
ngx_http_apikey_pg_write_handler(ngx_event_t *wev)
{
    ngx_int_t              rc;
    ngx_uint_t             epoch;
    ngx_connection_t      *c = wev->data;
    ngx_http_apikey_pg_t  *pg = c->data;

    if (pg->state == NGX_HTTP_APIKEY_PG_CONNECTING) {
        ngx_http_apikey_pg_poll(pg);
        return;
    }

    epoch = pg->epoch;
    rc = ngx_http_apikey_pg_flush(pg);

    if (rc == NGX_OK && pg->copying
        && ngx_http_apikey_pg_copy_in(pg) != NGX_OK && pg->epoch == epoch)
    {
        ngx_http_apikey_pg_fail(pg, "cannot send");
    }

    /*
     * A refusal in mid-COPY has been read already, or libpq has read while it
     * could not write: no event will tell of it.
     */

    if (rc != NGX_ERROR && pg->epoch == epoch) {
        (void) ngx_http_apikey_pg_results(pg);
    }
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

    /* what Postgres says in mid-COPY waits for its end */

    while (pg->busy && !pg->copying && !PQisBusy(pg->conn)) {
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


/* As much as the socket takes: libpq would keep the rest in its memory. */

static ngx_int_t
ngx_http_apikey_pg_copy_in(ngx_http_apikey_pg_t *pg)
{
    ngx_int_t                 rc, copied;
    ngx_http_apikey_pg_op_t  *op;

    pg->copying = 1;

    do {
        op = pg->current;
        copied = (op && op->copy) ? op->copy(op, pg->conn) : NGX_ERROR;

        if (pg->conn == NULL) {
            return NGX_ERROR;
        }

        if (copied != NGX_AGAIN
            && PQputCopyEnd(pg->conn, copied == NGX_OK ? NULL : "given up")
               != 1)
        {
            return NGX_ERROR;
        }

        rc = ngx_http_apikey_pg_flush(pg);

        if (rc == NGX_ERROR) {
            return NGX_ERROR;
        }

        pg->copying = (copied == NGX_AGAIN);

    } while (rc == NGX_OK && pg->copying);

    return NGX_OK;
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
