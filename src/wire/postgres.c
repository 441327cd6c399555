
/*
 * The queue of operations of one libpq connection, its deadlines and losses.
 *
 * One statement is in flight at a time; what waits is sent in order.  When
 * the connection breaks, all that is in flight or waits fails: operations
 * that belong to one transaction must never be spread over two sessions.
 * Everything lives in the worker's pool; operations are their callers'.
 */


#include "wire/postgres_conn.h"


#define NGX_HTTP_APIKEY_PG_CONNECT      3000
#define NGX_HTTP_APIKEY_PG_BACKOFF_MAX  1000


static void ngx_http_apikey_pg_wake(ngx_event_t *ev);
static void ngx_http_apikey_pg_run_failed(ngx_http_apikey_pg_t *pg);
static void ngx_http_apikey_pg_timeout(ngx_event_t *ev);
static void ngx_http_apikey_pg_retry(ngx_event_t *ev);
static void ngx_http_apikey_pg_fail_op(ngx_http_apikey_pg_t *pg,
    ngx_http_apikey_pg_op_t *op, const char *error);
static void ngx_http_apikey_pg_log_down(ngx_http_apikey_pg_t *pg);


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
    pg->read_only = conf->read_only;
    pg->fixed = conf->statement_timeout;
    pg->bound = conf->statement_timeout;
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
    return PQputCopyData(conn, (const char *) data, (int) len) == 1
           ? NGX_OK : NGX_ERROR;
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
ngx_http_apikey_pg_drop(ngx_http_apikey_pg_t *pg)
{
    if (pg->conn == NULL) {
        return;
    }

    ngx_http_apikey_pg_finish(pg, pg->busy);

    pg->state = NGX_HTTP_APIKEY_PG_DOWN;
    pg->error = "not connected";
    pg->retry_at = ngx_current_msec;
    pg->current = NULL;
    pg->busy = 0;
    pg->was_up = 0;

    if (pg->timer.timer_set) {
        ngx_del_timer(&pg->timer);
    }
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

        /* the deadline of what has failed would hold up a worker's end */

        if (pg->timer.timer_set) {
            ngx_del_timer(&pg->timer);
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

    level = (pg->outage || ngx_exiting) ? NGX_LOG_INFO : NGX_LOG_ERR;

    if (pg->was_up && !pg->busy && !pg->listening) {
        level = NGX_LOG_INFO;

    } else {
        pg->outage = 1;
    }

    ngx_log_error(level, pg->log, 0, "%s: Postgres: %s%s%V",
                  pg->name, pg->error, len ? ": " : "", &why);
}
