
/*
 * Alerts: one worker of a node asks Postgres to look at them every few
 * seconds.  What is looked at, and who of several nodes does it, is SQL's
 * (schema/0063_alert_turn.sql).
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/rooms.h"


#define NGX_HTTP_APIKEY_ALERT_EVERY    3000      /* ms */
#define NGX_HTTP_APIKEY_ALERT_TIMEOUT  20000


struct ngx_http_apikey_alert_s {
    ngx_http_apikey_main_conf_t  *amcf;
    ngx_event_t                   timer;
    ngx_http_apikey_pg_op_t       op;
    const char                   *values[1];
    unsigned                      asking:1;
    unsigned                      failed:1;      /* and was logged */
};


static void ngx_http_apikey_alert_timer(ngx_event_t *ev);
static void ngx_http_apikey_alert_turned(ngx_http_apikey_pg_op_t *op,
    PGresult *res);


static const char  ngx_http_apikey_alert_sql[] =
    "SELECT apikey.alert_turn($1)";


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
        ngx_add_timer(ev, NGX_HTTP_APIKEY_ALERT_EVERY);
        return;
    }

    ngx_memzero(&alert->op, sizeof(ngx_http_apikey_pg_op_t));

    alert->values[0] = NULL;

    alert->op.sql = ngx_http_apikey_alert_sql;
    alert->op.nparams = 1;
    alert->op.values = alert->values;
    alert->op.timeout = NGX_HTTP_APIKEY_ALERT_TIMEOUT;
    alert->op.handler = ngx_http_apikey_alert_turned;
    alert->op.data = alert;

    if (ngx_http_apikey_pg_query(
                         ngx_http_apikey_keyring_bulk(alert->amcf->keyring),
                         &alert->op)
        != NGX_OK)
    {
        ngx_add_timer(ev, NGX_HTTP_APIKEY_ALERT_EVERY);
        return;
    }

    alert->asking = 1;
}


static void
ngx_http_apikey_alert_turned(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_http_apikey_alert_t  *alert;

    alert = op->data;
    alert->asking = 0;

    if (res && PQresultStatus(res) == PGRES_TUPLES_OK) {
        alert->failed = 0;

    } else if (res && !alert->failed) {
        alert->failed = 1;
        ngx_log_error(NGX_LOG_ERR, alert->timer.log, 0,
                      "apikey: alerts were not looked at: %s",
                      PQresultErrorMessage(res));
    }

    ngx_add_timer(&alert->timer, NGX_HTTP_APIKEY_ALERT_EVERY);
}
