
/*
 * Alerts: one worker of a node asks Postgres to look at them every few
 * seconds, and says what stands where only nodes look: in Redis, or in their
 * own memory.  What is looked at, and who of several nodes does it, is SQL's
 * (schema/0063_alert_turn.sql).  A turn's look lives in a pool of its own.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/live.h"
#include "http/rooms.h"


#define NGX_HTTP_APIKEY_ALERT_EVERY    3000      /* ms */
#define NGX_HTTP_APIKEY_ALERT_TIMEOUT  20000
#define NGX_HTTP_APIKEY_ALERT_MOST     2000      /* holders of a turn that this
                                                    node looks for itself */


struct ngx_http_apikey_alert_s {
    ngx_http_apikey_main_conf_t  *amcf;
    ngx_event_t                   timer;
    ngx_http_apikey_pg_op_t       op;
    const char                   *values[2];
    ngx_pool_t                   *pool;          /* of a look, or NULL */
    ngx_http_apikey_live_t        live;
    uint32_t                      from;          /* the next look begins */
    unsigned                      asking:1;
    unsigned                      failed:1;      /* and was logged */
};


static void ngx_http_apikey_alert_timer(ngx_event_t *ev);
static void ngx_http_apikey_alert_query(ngx_http_apikey_alert_t *alert,
    const char *sql, ngx_uint_t n, ngx_http_apikey_pg_handler_pt handler);
static void ngx_http_apikey_alert_turned(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static ngx_int_t ngx_http_apikey_alert_look(ngx_http_apikey_alert_t *alert,
    char *lines);
static void ngx_http_apikey_alert_resume(ngx_http_apikey_live_t *live);
static void ngx_http_apikey_alert_looked(ngx_http_apikey_alert_t *alert,
    ngx_int_t rc);
static void ngx_http_apikey_alert_told(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static ngx_uint_t ngx_http_apikey_alert_answered(
    ngx_http_apikey_alert_t *alert, PGresult *res);
static void ngx_http_apikey_alert_done(ngx_http_apikey_alert_t *alert);
static void ngx_http_apikey_alert_free(ngx_http_apikey_alert_t *alert);


static const char  ngx_http_apikey_alert_sql[] =
    "SELECT apikey.alert_turn($1)";

static const char  ngx_http_apikey_alert_live_sql[] =
    "SELECT apikey.alert_looked($1, $2)";


ngx_http_apikey_alert_t *
ngx_http_apikey_alert_start(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf)
{
    ngx_http_apikey_alert_t  *alert;

    alert = ngx_pcalloc(cycle->pool, sizeof(ngx_http_apikey_alert_t));
    if (alert == NULL) {
        return NULL;
    }

    alert->amcf = amcf;

    alert->timer.handler = ngx_http_apikey_alert_timer;
    alert->timer.data = alert;
    alert->timer.log = cycle->log;
    alert->timer.cancelable = 1;

    ngx_add_timer(&alert->timer, NGX_HTTP_APIKEY_ALERT_EVERY);

    return alert;
}


void
ngx_http_apikey_alert_stop(ngx_http_apikey_alert_t *alert)
{
    if (alert->timer.timer_set) {
        ngx_del_timer(&alert->timer);
    }

    if (alert->asking) {
        ngx_http_apikey_pg_abandon(
                         ngx_http_apikey_keyring_bulk(alert->amcf->keyring),
                         &alert->op);
    }

    ngx_http_apikey_alert_free(alert);
}


static void
ngx_http_apikey_alert_timer(ngx_event_t *ev)
{
    ngx_http_apikey_alert_t  *alert;

    alert = ev->data;

    if (ngx_exiting) {
        return;
    }

    if (!ngx_http_apikey_usage_elected(alert->amcf->worker_usage)
        || apikey_stats_get(&alert->amcf->sh->stats.schema_ok) == 0)
    {
        ngx_http_apikey_alert_done(alert);
        return;
    }

    alert->values[0] = ngx_http_apikey_limiter_looks(alert->amcf->limiter)
                       ? "t" : "f";

    ngx_http_apikey_alert_query(alert, ngx_http_apikey_alert_sql, 1,
                                ngx_http_apikey_alert_turned);
}


static void
ngx_http_apikey_alert_query(ngx_http_apikey_alert_t *alert, const char *sql,
    ngx_uint_t n, ngx_http_apikey_pg_handler_pt handler)
{
    ngx_memzero(&alert->op, sizeof(ngx_http_apikey_pg_op_t));

    alert->op.sql = sql;
    alert->op.nparams = n;
    alert->op.values = alert->values;
    alert->op.timeout = NGX_HTTP_APIKEY_ALERT_TIMEOUT;
    alert->op.handler = handler;
    alert->op.data = alert;

    if (ngx_http_apikey_pg_query(
                         ngx_http_apikey_keyring_bulk(alert->amcf->keyring),
                         &alert->op)
        != NGX_OK)
    {
        ngx_http_apikey_alert_done(alert);
        return;
    }

    alert->asking = 1;
}


static void
ngx_http_apikey_alert_turned(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_int_t                 rc;
    ngx_http_apikey_alert_t  *alert;

    alert = op->data;
    alert->asking = 0;

    if (!ngx_http_apikey_alert_answered(alert, res)
        || PQgetisnull(res, 0, 0))
    {
        ngx_http_apikey_alert_done(alert);
        return;
    }

    rc = ngx_http_apikey_alert_look(alert, PQgetvalue(res, 0, 0));

    if (rc != NGX_AGAIN) {
        ngx_http_apikey_alert_looked(alert, rc);
    }
}


static ngx_int_t
ngx_http_apikey_alert_look(ngx_http_apikey_alert_t *alert, char *lines)
{
    ngx_str_t                text;
    ngx_http_apikey_live_t  *live;

    live = &alert->live;

    alert->pool = ngx_create_pool(4096, ngx_cycle->log);

    if (alert->pool == NULL
        || ngx_http_apikey_live_init(live, alert->amcf, alert->pool)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    live->handler = ngx_http_apikey_alert_resume;
    live->data = alert;
    live->from = alert->from;
    live->most = NGX_HTTP_APIKEY_ALERT_MOST;

    text.data = (u_char *) lines;
    text.len = ngx_strlen(lines);

    return ngx_http_apikey_live_begin(live, &text);
}


static void
ngx_http_apikey_alert_resume(ngx_http_apikey_live_t *live)
{
    ngx_int_t  rc;

    rc = ngx_http_apikey_live_run(live);

    if (rc != NGX_AGAIN) {
        ngx_http_apikey_alert_looked(live->data, rc);
    }
}


/* JSON null: what is firing can be seen by nobody now, and stays so. */

static void
ngx_http_apikey_alert_looked(ngx_http_apikey_alert_t *alert, ngx_int_t rc)
{
    ngx_str_t  text;

    if (rc != NGX_OK) {
        ngx_http_apikey_alert_done(alert);
        return;
    }

    alert->from = alert->live.pos;

    ngx_str_set(&text, "null");

    if (!alert->live.down
        && ngx_http_apikey_live_end(&alert->live, &text) != NGX_OK)
    {
        ngx_http_apikey_alert_done(alert);
        return;
    }

    alert->values[0] = (const char *) text.data;
    alert->values[1] = alert->live.local ? "t" : "f";

    ngx_http_apikey_alert_query(alert, ngx_http_apikey_alert_live_sql, 2,
                                ngx_http_apikey_alert_told);
}


static void
ngx_http_apikey_alert_told(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_http_apikey_alert_t  *alert;

    alert = op->data;
    alert->asking = 0;

    (void) ngx_http_apikey_alert_answered(alert, res);

    ngx_http_apikey_alert_done(alert);
}


static ngx_uint_t
ngx_http_apikey_alert_answered(ngx_http_apikey_alert_t *alert, PGresult *res)
{
    if (res && PQresultStatus(res) == PGRES_TUPLES_OK) {
        alert->failed = 0;
        return 1;
    }

    if (res && !alert->failed) {
        alert->failed = 1;
        ngx_log_error(NGX_LOG_ERR, alert->timer.log, 0,
                      "apikey: alerts were not looked at: %s",
                      PQresultErrorMessage(res));
    }

    return 0;
}


static void
ngx_http_apikey_alert_done(ngx_http_apikey_alert_t *alert)
{
    ngx_http_apikey_alert_free(alert);

    ngx_add_timer(&alert->timer, NGX_HTTP_APIKEY_ALERT_EVERY);
}


static void
ngx_http_apikey_alert_free(ngx_http_apikey_alert_t *alert)
{
    if (alert->pool) {
        ngx_http_apikey_live_cancel(&alert->live);
        ngx_destroy_pool(alert->pool);
        alert->pool = NULL;
    }
}
