
/*
 * GET export/...: lines out of a cursor of Postgres, as fast as the client
 * takes them.
 *
 *     BEGIN; apikey.api('export_...') checks all and opens the cursor;
 *     FETCH, send, FETCH, ... over a connection of the export's own
 *
 * A batch of lines is fetched when the one before it has left nginx, into the
 * same buffer: memory does not grow with the export, and a client that is
 * slow holds back Postgres.  What fails after the first byte cuts the
 * connection, so that nobody takes half an export for a whole one.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/admin.h"
#include "http/lines.h"
#include "http/reports.h"


#define NGX_HTTP_APIKEY_EXPORT_TIMEOUT  (NGX_HTTP_APIKEY_EXPORT_STATEMENT     \
                                         + 5000)
#define NGX_HTTP_APIKEY_EXPORT_LONGEST  (60 * 60 * 1000)  /* ms, all of it */


typedef enum {
    NGX_HTTP_APIKEY_EXPORT_OPEN = 0,
    NGX_HTTP_APIKEY_EXPORT_SEND,         /* nginx has lines */
    NGX_HTTP_APIKEY_EXPORT_FETCHED       /* or that failed */
} ngx_http_apikey_export_state_e;


typedef struct {
    ngx_http_apikey_admin_t       *admin;
    ngx_uint_t                     state;

    ngx_http_apikey_pg_op_t        begin;
    ngx_msec_t                     started;

    ngx_http_apikey_lines_t        lines;

    ngx_buf_t                      buf;
    ngx_chain_t                    out;

    unsigned                       beginning:1;  /* begin is in use */
    unsigned                       failed:1;
    unsigned                       waiting:1;    /* for a schema, on another
                                                    connection */
} ngx_http_apikey_export_t;


static ngx_int_t ngx_http_apikey_export_start(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_export_open(ngx_http_apikey_export_t *ex);
static void ngx_http_apikey_export_begun(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static ngx_int_t ngx_http_apikey_export_opened(ngx_http_apikey_export_t *ex);
static ngx_int_t ngx_http_apikey_export_again(ngx_http_apikey_export_t *ex);
static ngx_int_t ngx_http_apikey_export_next(ngx_http_apikey_export_t *ex);
static ngx_int_t ngx_http_apikey_export_fetch(ngx_http_apikey_export_t *ex);
static void ngx_http_apikey_export_fetched(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static ngx_int_t ngx_http_apikey_export_send(ngx_http_apikey_export_t *ex);
static ngx_int_t ngx_http_apikey_export_sent(ngx_http_apikey_export_t *ex);
static void ngx_http_apikey_export_writable(ngx_http_request_t *r);
static void ngx_http_apikey_export_release(ngx_http_apikey_admin_t *a);
static void ngx_http_apikey_export_detach(ngx_http_apikey_admin_t *a);


ngx_int_t
ngx_http_apikey_export(ngx_http_apikey_admin_t *a)
{
    ngx_int_t                  rc;
    ngx_http_apikey_export_t  *ex;

    if (a->job == NULL) {
        return ngx_http_apikey_export_start(a);
    }

    ex = a->job;

    if (ex->state == NGX_HTTP_APIKEY_EXPORT_OPEN) {
        rc = ngx_http_apikey_export_opened(ex);

    } else {
        rc = NGX_OK;
    }

    while (rc == NGX_OK) {
        rc = ngx_http_apikey_export_next(ex);
    }

    return rc;
}


static ngx_int_t
ngx_http_apikey_export_start(ngx_http_apikey_admin_t *a)
{
    ngx_http_apikey_export_t  *ex;

    ex = ngx_pcalloc(a->request->pool, sizeof(ngx_http_apikey_export_t));
    if (ex == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ex->admin = a;
    ex->started = ngx_current_msec;

    a->job = ex;
    a->detach = ngx_http_apikey_export_detach;
    a->within = 1;

    return ngx_http_apikey_export_open(ex);
}


static ngx_int_t
ngx_http_apikey_export_open(ngx_http_apikey_export_t *ex)
{
    ngx_http_apikey_admin_t  *a;

    a = ex->admin;

    if (a->amcf->reports) {
        a->pg = ngx_http_apikey_reports_take(a->amcf->reports);
    }

    if (a->pg == NULL) {
        return ngx_http_apikey_admin_problem(a,
                                     NGX_HTTP_APIKEY_PROBLEM_UNAVAILABLE,
                                     "As many exports as this node runs at "
                                     "once are under way. Try again later.",
                                     NULL);
    }

    ngx_memzero(&ex->begin, sizeof(ngx_http_apikey_pg_op_t));

    /* what stands before the rows is sent while Postgres counts them */

    ex->begin.sql = "BEGIN; SET LOCAL apikey.export_late = on";
    ex->begin.simple = 1;
    ex->begin.handler = ngx_http_apikey_export_begun;
    ex->begin.data = ex;

    if (ngx_http_apikey_pg_query(a->pg, &ex->begin) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ex->beginning = 1;

    return ngx_http_apikey_admin_call_start(a);
}


/* The call behind it fails where this does. */

static void
ngx_http_apikey_export_begun(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_http_apikey_export_t *ex = op->data;

    ex->beginning = 0;
}


static ngx_int_t
ngx_http_apikey_export_opened(ngx_http_apikey_export_t *ex)
{
    ngx_int_t                 rc;
    ngx_http_apikey_pg_t     *pg;
    ngx_http_apikey_admin_t  *a;

    a = ex->admin;

    if (a->again) {
        return ngx_http_apikey_export_again(ex);
    }

    if (a->failed || a->status != NGX_HTTP_OK) {
        pg = a->pg;
        ngx_http_apikey_export_release(a);

        if (a->failed && a->op.error
            && ngx_http_apikey_reports_lost(a->amcf->reports, pg))
        {
            return ngx_http_apikey_export_open(ex);
        }

        return ngx_http_apikey_admin_call_finish(a);
    }

    rc = ngx_http_apikey_admin_head(a);

    if (rc != NGX_OK) {
        ngx_http_apikey_export_release(a);
        return rc;
    }

    if (ngx_http_apikey_lines_head(&ex->lines, a->refresh.data,
                                   a->refresh.len, a->request->connection->log)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_str_null(&a->refresh);

    return ngx_http_apikey_export_send(ex);
}


/* A schema is being applied: the primary is asked when it is done. */

static ngx_int_t
ngx_http_apikey_export_again(ngx_http_apikey_export_t *ex)
{
    ngx_http_apikey_pg_t     *pg;
    ngx_http_apikey_admin_t  *a;

    a = ex->admin;
    a->again = 0;

    if (ex->waiting) {
        ex->waiting = 0;
        a->pg = NULL;

        return ngx_http_apikey_export_open(ex);
    }

    pg = a->pg;
    ngx_http_apikey_export_release(a);

    if (ngx_http_apikey_reports_lost(a->amcf->reports, pg)) {
        return ngx_http_apikey_export_open(ex);
    }

    a->pg = ngx_http_apikey_keyring_pg(a->amcf->keyring);

    if (ngx_http_apikey_admin_schema_wait(a) != NGX_OK) {
        a->pg = NULL;

        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ex->waiting = 1;
    ngx_http_apikey_admin_wait(a);

    return NGX_AGAIN;
}


/* NGX_OK: the next step; else as a stage. */

static ngx_int_t
ngx_http_apikey_export_next(ngx_http_apikey_export_t *ex)
{
    ngx_int_t                 rc;
    ngx_http_apikey_admin_t  *a;

    a = ex->admin;

    if (ex->state == NGX_HTTP_APIKEY_EXPORT_SEND) {
        rc = ngx_http_apikey_export_sent(ex);

        if (rc != NGX_OK) {
            return rc;
        }

        rc = ngx_http_apikey_export_fetch(ex);

    } else { /* NGX_HTTP_APIKEY_EXPORT_FETCHED */
        rc = ex->failed ? NGX_ERROR : ngx_http_apikey_export_send(ex);
    }

    if (rc == NGX_ERROR) {
        ngx_http_apikey_export_release(a);
        a->rc = NGX_ERROR;

        return NGX_ABORT;
    }

    return rc;
}


static ngx_int_t
ngx_http_apikey_export_fetch(ngx_http_apikey_export_t *ex)
{
    ngx_http_apikey_admin_t  *a;

    a = ex->admin;

    if (ngx_current_msec - ex->started > NGX_HTTP_APIKEY_EXPORT_LONGEST) {
        ngx_log_error(NGX_LOG_ERR, a->request->connection->log, 0,
                      "an export was cut off: its client is too slow");
        return NGX_ERROR;
    }

    ngx_memzero(&a->op, sizeof(ngx_http_apikey_pg_op_t));

    a->op.sql = NGX_HTTP_APIKEY_LINES_FETCH;
    a->op.timeout = NGX_HTTP_APIKEY_EXPORT_TIMEOUT;
    a->op.handler = ngx_http_apikey_export_fetched;
    a->op.data = ex;

    if (ngx_http_apikey_pg_query(a->pg, &a->op) != NGX_OK) {
        return NGX_ERROR;
    }

    ex->state = NGX_HTTP_APIKEY_EXPORT_FETCHED;
    a->calling = 1;

    ngx_http_apikey_admin_wait(a);

    return NGX_AGAIN;
}


static void
ngx_http_apikey_export_fetched(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_log_t                 *log;
    ngx_http_apikey_admin_t   *a;
    ngx_http_apikey_export_t  *ex = op->data;

    a = ex->admin;
    log = a->request->connection->log;

    a->calling = 0;

    if (res == NULL) {
        ex->failed = 1;
        ngx_log_error(NGX_LOG_ERR, log, 0, "an export was cut off: %s",
                      op->error ? op->error : "connection lost");

    } else if (PQresultStatus(res) != PGRES_TUPLES_OK) {
        ex->failed = 1;
        ngx_log_error(NGX_LOG_ERR, log, 0,
                      "an export was cut off: SQLSTATE %s",
                      PQresultErrorField(res, PG_DIAG_SQLSTATE));

    } else if (ngx_http_apikey_lines_batch(&ex->lines, res, log) != NGX_OK) {
        ex->failed = 1;
    }

    ngx_http_apikey_admin_resume(a);
}


/* Flushed: what a filter held back of it would be written over. */

static ngx_int_t
ngx_http_apikey_export_send(ngx_http_apikey_export_t *ex)
{
    ngx_buf_t                *b;
    ngx_http_apikey_admin_t  *a;

    a = ex->admin;
    b = &ex->buf;

    ngx_memzero(b, sizeof(ngx_buf_t));

    b->pos = ex->lines.data;
    b->last = ex->lines.data + ex->lines.len;
    b->start = b->pos;
    b->end = b->last;
    b->temporary = (ex->lines.len != 0);
    b->flush = !ex->lines.over;
    b->last_buf = ex->lines.over;
    b->last_in_chain = ex->lines.over;

    ex->out.buf = b;
    ex->out.next = NULL;
    ex->state = NGX_HTTP_APIKEY_EXPORT_SEND;

    a->rc = ngx_http_output_filter(a->request, &ex->out);

    if (a->rc == NGX_ERROR) {
        return NGX_ERROR;
    }

    if (ex->lines.over) {
        ngx_http_apikey_export_release(a);
        return NGX_ABORT;
    }

    return NGX_OK;
}


/* NGX_OK: all of it has left. */

static ngx_int_t
ngx_http_apikey_export_sent(ngx_http_apikey_export_t *ex)
{
    ngx_event_t               *wev;
    ngx_connection_t          *c;
    ngx_http_request_t        *r;
    ngx_http_core_loc_conf_t  *clcf;

    r = ex->admin->request;
    c = r->connection;
    wev = c->write;

    if (!r->buffered && !c->buffered && r->postponed == NULL) {

        if (wev->timer_set && !wev->delayed) {
            ngx_del_timer(wev);
        }

        return NGX_OK;
    }

    ngx_http_apikey_admin_wait(ex->admin);
    r->write_event_handler = ngx_http_apikey_export_writable;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (!wev->delayed) {
        ngx_add_timer(wev, clcf->send_timeout);
    }

    if (ngx_handle_write_event(wev, clcf->send_lowat) != NGX_OK) {
        ex->admin->rc = NGX_ERROR;
        return NGX_ABORT;
    }

    return NGX_AGAIN;
}


static void
ngx_http_apikey_export_writable(ngx_http_request_t *r)
{
    ngx_event_t              *wev;
    ngx_connection_t         *c;
    ngx_http_apikey_admin_t  *a;

    c = r->connection;
    wev = c->write;

    if (wev->timedout) {
        ngx_log_error(NGX_LOG_INFO, c->log, NGX_ETIMEDOUT,
                      "client timed out in an export");
        c->timedout = 1;
        ngx_http_finalize_request(r, NGX_HTTP_REQUEST_TIME_OUT);
        return;
    }

    a = ngx_http_apikey_admin_get(r);

    if (!wev->delayed && ngx_http_output_filter(r, NULL) == NGX_ERROR) {
        ngx_http_finalize_request(r, NGX_ERROR);
        return;
    }

    ngx_http_apikey_admin_run(a);
}


/* The transaction has changed nothing. */

static void
ngx_http_apikey_export_release(ngx_http_apikey_admin_t *a)
{
    ngx_http_apikey_export_t  *ex;

    ex = a->job;

    if (a->pg == NULL || ex->waiting) {
        return;
    }

    if (ex->beginning) {
        ex->beginning = 0;
        ngx_http_apikey_pg_abandon(a->pg, &ex->begin);
    }

    ngx_http_apikey_reports_give(a->amcf->reports, a->pg);
    a->pg = NULL;
}


static void
ngx_http_apikey_export_detach(ngx_http_apikey_admin_t *a)
{
    ngx_http_apikey_export_t  *ex;

    ex = a->job;

    ngx_http_apikey_export_release(a);

    ngx_http_apikey_lines_free(&ex->lines);
}
