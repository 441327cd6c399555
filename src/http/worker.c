
/*
 * A worker's rooms: started in init_process, stopped in exit_process.  What
 * they make lives in the cycle's pool, as long as the worker.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/reports.h"
#include "http/rooms.h"
#include "wire/thread.h"


static void ngx_http_apikey_worker_lost(void *data,
    const apikey_hold_t *hold);
static ngx_int_t ngx_http_apikey_keyring_room(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf);
static ngx_int_t ngx_http_apikey_quota_room(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf);
static ngx_int_t ngx_http_apikey_limit_room(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf);


ngx_int_t
ngx_http_apikey_worker_start(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf)
{
    if (!apikey_digest_init()) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "apikey: OpenSSL has no SHA-256");
        return NGX_ERROR;
    }

    apikey_stats_set(&amcf->sh->stats.waiting[ngx_process_slot], 0);

    if (ngx_http_apikey_threads_start(cycle) != NGX_OK
        || ngx_http_apikey_keyring_room(cycle, amcf) != NGX_OK
        || ngx_http_apikey_limit_room(cycle, amcf) != NGX_OK
        || ngx_http_apikey_quota_room(cycle, amcf) != NGX_OK)
    {
        return NGX_ERROR;
    }

    amcf->reports = ngx_http_apikey_reports_start(cycle, amcf);

    if (amcf->reports == NULL) {
        return NGX_ERROR;
    }

    amcf->usage.zone = amcf->sh->id;
    amcf->usage.lost = ngx_http_apikey_worker_lost;
    amcf->usage.lost_data = amcf->limiter;
    amcf->usage.stats = &amcf->sh->stats;
    amcf->usage.log = cycle->log;

    amcf->worker_usage = ngx_http_apikey_usage_start(cycle->pool,
                                                     &amcf->usage);

    if (amcf->worker_usage == NULL) {
        return NGX_ERROR;
    }

    amcf->drift = ngx_http_apikey_drift_start(cycle, amcf);
    amcf->webhook = ngx_http_apikey_webhook_start(cycle, amcf);
    amcf->alert = ngx_http_apikey_alert_start(cycle, amcf);
    amcf->due = ngx_http_apikey_due_start(cycle, amcf);

    return amcf->drift && amcf->webhook && amcf->alert && amcf->due
           ? NGX_OK : NGX_ERROR;
}


/* What a request of a dead worker has held. */

static void
ngx_http_apikey_worker_lost(void *data, const apikey_hold_t *hold)
{
    ngx_http_apikey_limiter_t *limiter = data;

    ngx_http_apikey_settle_lost(limiter, hold->holder, hold->level,
                                hold->scope, hold->count);
}


void
ngx_http_apikey_worker_stop(ngx_http_apikey_main_conf_t *amcf)
{
    ngx_http_apikey_threads_stop();

    if (amcf->due) {
        ngx_http_apikey_due_stop(amcf->due);
        amcf->due = NULL;
    }

    if (amcf->alert) {
        ngx_http_apikey_alert_stop(amcf->alert);
        amcf->alert = NULL;
    }

    if (amcf->webhook) {
        ngx_http_apikey_webhook_stop(amcf->webhook);
        amcf->webhook = NULL;
    }

    if (amcf->drift) {
        ngx_http_apikey_drift_stop(amcf->drift);
        amcf->drift = NULL;
    }

    if (amcf->worker_usage) {
        ngx_http_apikey_usage_stop(amcf->worker_usage);
        amcf->worker_usage = NULL;
    }

    if (amcf->reports) {
        ngx_http_apikey_reports_stop(amcf->reports);
        amcf->reports = NULL;
    }

    if (amcf->quota) {
        ngx_http_apikey_pg_close(amcf->quota);
        amcf->quota = NULL;
    }

    if (amcf->limiter) {
        ngx_http_apikey_limiter_stop(amcf->limiter);
        amcf->limiter = NULL;
    }

    if (amcf->keyring) {
        ngx_http_apikey_keyring_stop(amcf->keyring);
        amcf->keyring = NULL;
    }

    apikey_digest_free();
}


static ngx_int_t
ngx_http_apikey_keyring_room(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf)
{
    ngx_http_apikey_keyring_conf_t  conf;

    ngx_memzero(&conf, sizeof(ngx_http_apikey_keyring_conf_t));

    conf.sh = amcf->sh->keyring;
    conf.shpool = amcf->shpool;
    conf.stats = &amcf->sh->stats;
    conf.directory = amcf->usage.directory;
    conf.conninfo = amcf->conninfo;
    conf.read_conninfo = amcf->read_conninfo;
    conf.poll = amcf->poll;

    /* a node that is well must not look stale between two polls */

    if (amcf->max_stale) {
        conf.poll = ngx_min(conf.poll, amcf->max_stale / 3 + 1);
    }

    ngx_memcpy(conf.node, amcf->usage.node, 16);
    conf.node_name = amcf->node_name;
    conf.version = NGX_HTTP_APIKEY_VERSION;
    conf.schema = NGX_HTTP_APIKEY_SCHEMA;
    conf.shared_limits = (amcf->redis != NULL);
    conf.log = cycle->log;

    amcf->keyring = ngx_http_apikey_keyring_start(cycle->pool, &conf);

    return amcf->keyring ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_http_apikey_limit_room(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf)
{
    ngx_http_apikey_limit_conf_t  conf;

    ngx_memzero(&conf, sizeof(ngx_http_apikey_limit_conf_t));

    conf.sh = amcf->sh->limit;
    conf.shpool = amcf->shpool;
    conf.stats = &amcf->sh->stats;
    conf.mode = amcf->limit_mode;
    conf.down = amcf->down;
    conf.nodes = amcf->down_nodes;
    conf.redis = (amcf->limit_mode != NGX_HTTP_APIKEY_LIMIT_LOCAL)
                 ? amcf->redis : NULL;
    conf.tallies = &amcf->tallies;
    conf.log = cycle->log;

    amcf->limiter = ngx_http_apikey_limiter_start(cycle->pool, &conf);

    return amcf->limiter ? NGX_OK : NGX_ERROR;
}


/* It connects when it is used. */

static ngx_int_t
ngx_http_apikey_quota_room(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf)
{
    ngx_http_apikey_pg_conf_t  conf;

    ngx_memzero(&conf, sizeof(ngx_http_apikey_pg_conf_t));

    conf.conninfo = amcf->conninfo;
    conf.connect_timeout = 2000;
    conf.name = "apikey quota";

    amcf->quota = ngx_http_apikey_pg_create(cycle->pool, &conf,
                                            &amcf->sh->stats, cycle->log);

    return amcf->quota ? NGX_OK : NGX_ERROR;
}
