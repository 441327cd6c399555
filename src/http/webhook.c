
/*
 * The outbox: one worker of a node takes from Postgres what webhooks are to be
 * told, sends it, and says what came of it.  Which and when is SQL's
 * (schema/0060_webhooks.sql).
 *
 * A job is one delivery from its claim to its end, in a pool of its own.
 * While there are any the timer keeps a worker that quits.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/rooms.h"
#include "http/webhook.h"


#define NGX_HTTP_APIKEY_WEBHOOK_EVERY    1000     /* ms */
#define NGX_HTTP_APIKEY_WEBHOOK_AT_ONCE  8        /* threads */
#define NGX_HTTP_APIKEY_WEBHOOK_TIMEOUT  10000


static void ngx_http_apikey_webhook_timer(ngx_event_t *ev);
static void ngx_http_apikey_webhook_claim(ngx_http_apikey_webhook_t *wh);
static void ngx_http_apikey_webhook_claimed(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_webhook_start_job(ngx_http_apikey_webhook_t *wh,
    PGresult *res, int row);
static void ngx_http_apikey_webhook_posted(ngx_http_apikey_post_t *post);
static void ngx_http_apikey_webhook_told(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_webhook_end_job(ngx_http_apikey_job_t *job);
static void ngx_http_apikey_webhook_busy(ngx_http_apikey_webhook_t *wh);


static const char  ngx_http_apikey_webhook_claim_sql[] =
    "SELECT * FROM apikey.webhook_claim($1, $2)";

static const char  ngx_http_apikey_webhook_done_sql[] =
    "SELECT apikey.webhook_done($1, $2, $3, $4, $5)";


ngx_http_apikey_webhook_t *
ngx_http_apikey_webhook_start(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf)
{
    ngx_http_apikey_pg_conf_t   conf;
    ngx_http_apikey_webhook_t  *wh;

    wh = ngx_pcalloc(cycle->pool, sizeof(ngx_http_apikey_webhook_t));
    if (wh == NULL) {
        return NULL;
    }

    ngx_memzero(&conf, sizeof(ngx_http_apikey_pg_conf_t));

    conf.conninfo = amcf->conninfo;
    conf.connect_timeout = 2000;
    conf.name = "apikey webhook";

    wh->pg = ngx_http_apikey_pg_create(cycle->pool, &conf, &amcf->sh->stats,
                                       cycle->log);
    if (wh->pg == NULL) {
        return NULL;
    }

    wh->amcf = amcf;
    wh->log = cycle->log;

    apikey_uuid_format(wh->node, amcf->usage.node);
    ngx_queue_init(&wh->jobs);

    wh->timer.handler = ngx_http_apikey_webhook_timer;
    wh->timer.data = wh;
    wh->timer.log = cycle->log;
    wh->timer.cancelable = 1;

    ngx_add_timer(&wh->timer, NGX_HTTP_APIKEY_WEBHOOK_EVERY);

    return wh;
}


/* No thread runs any more: worker.c has waited for them. */

void
ngx_http_apikey_webhook_stop(ngx_http_apikey_webhook_t *wh)
{
    ngx_queue_t            *q;
    ngx_http_apikey_job_t  *job;

    if (wh->timer.timer_set) {
        ngx_del_timer(&wh->timer);
    }

    ngx_http_apikey_pg_close(wh->pg);

    while (!ngx_queue_empty(&wh->jobs)) {
        q = ngx_queue_head(&wh->jobs);
        job = ngx_queue_data(q, ngx_http_apikey_job_t, queue);

        ngx_queue_remove(q);
        ngx_destroy_pool(job->pool);
    }

    ngx_http_apikey_post_free();
}


static void
ngx_http_apikey_webhook_timer(ngx_event_t *ev)
{
    ngx_http_apikey_webhook_t  *wh;

    wh = ev->data;

    if (!ngx_exiting
        && ngx_http_apikey_usage_elected(wh->amcf->worker_usage)
        && apikey_stats_get(&wh->amcf->sh->stats.schema_ok))
    {
        ngx_http_apikey_webhook_claim(wh);
    }

    if (!ngx_exiting || wh->njobs || wh->claiming) {
        ngx_add_timer(ev, NGX_HTTP_APIKEY_WEBHOOK_EVERY);
    }
}


static void
ngx_http_apikey_webhook_claim(ngx_http_apikey_webhook_t *wh)
{
    if (wh->claiming || wh->njobs == NGX_HTTP_APIKEY_WEBHOOK_AT_ONCE) {
        return;
    }

    *ngx_sprintf((u_char *) wh->most, "%ui",
                 NGX_HTTP_APIKEY_WEBHOOK_AT_ONCE - wh->njobs) = '\0';

    wh->values[0] = wh->node;
    wh->values[1] = wh->most;

    ngx_memzero(&wh->op, sizeof(ngx_http_apikey_pg_op_t));

    wh->op.sql = ngx_http_apikey_webhook_claim_sql;
    wh->op.nparams = 2;
    wh->op.values = wh->values;
    wh->op.timeout = NGX_HTTP_APIKEY_WEBHOOK_TIMEOUT;
    wh->op.handler = ngx_http_apikey_webhook_claimed;
    wh->op.data = wh;

    if (ngx_http_apikey_pg_query(wh->pg, &wh->op) == NGX_OK) {
        wh->claiming = 1;
        ngx_http_apikey_webhook_busy(wh);
    }
}


static void
ngx_http_apikey_webhook_claimed(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    int                         i, n;
    ngx_http_apikey_webhook_t  *wh;

    wh = op->data;
    wh->claiming = 0;

    n = (PQresultStatus(res) == PGRES_TUPLES_OK) ? PQntuples(res) : 0;

    for (i = 0; i < n; i++) {
        ngx_http_apikey_webhook_start_job(wh, res, i);
    }

    ngx_http_apikey_webhook_busy(wh);
}


/* What lacks memory or a thread now is due again when its claim ends. */

static void
ngx_http_apikey_webhook_start_job(ngx_http_apikey_webhook_t *wh,
    PGresult *res, int row)
{
    ngx_pool_t             *pool;
    ngx_http_apikey_job_t  *job;

    pool = ngx_create_pool(4096, wh->log);
    if (pool == NULL) {
        return;
    }

    job = ngx_pcalloc(pool, sizeof(ngx_http_apikey_job_t));

    if (job == NULL) {
        ngx_destroy_pool(pool);
        return;
    }

    job->pool = pool;
    job->webhook = wh;
    job->post.handler = ngx_http_apikey_webhook_posted;
    job->post.data = job;

    if (ngx_http_apikey_webhook_message(job, res, row, ngx_time()) != NGX_OK
        || ngx_http_apikey_post_send(&job->post, pool) != NGX_OK)
    {
        ngx_destroy_pool(pool);
        return;
    }

    ngx_queue_insert_tail(&wh->jobs, &job->queue);
    wh->njobs++;
}


static void
ngx_http_apikey_webhook_posted(ngx_http_apikey_post_t *post)
{
    ngx_http_apikey_job_t  *job;

    job = post->data;

    ngx_sprintf((u_char *) job->status, "%ui%Z", post->status);
    ngx_sprintf((u_char *) job->duration, "%M%Z", post->duration);

    job->values[0] = job->delivery;
    job->values[1] = job->attempt;
    job->values[2] = post->status ? job->status : NULL;
    job->values[3] = post->error[0] ? post->error : NULL;
    job->values[4] = job->duration;

    job->op.sql = ngx_http_apikey_webhook_done_sql;
    job->op.nparams = 5;
    job->op.values = job->values;
    job->op.timeout = NGX_HTTP_APIKEY_WEBHOOK_TIMEOUT;
    job->op.handler = ngx_http_apikey_webhook_told;
    job->op.data = job;

    if (ngx_http_apikey_pg_query(job->webhook->pg, &job->op) != NGX_OK) {
        ngx_http_apikey_webhook_end_job(job);
    }
}


/* There may be more for that webhook: it need not wait for the timer. */

static void
ngx_http_apikey_webhook_told(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_uint_t                  more;
    ngx_http_apikey_job_t      *job;
    ngx_http_apikey_webhook_t  *wh;

    job = op->data;
    wh = job->webhook;

    more = (PQresultStatus(res) == PGRES_TUPLES_OK
            && PQgetvalue(res, 0, 0)[0] == 't');

    ngx_http_apikey_webhook_end_job(job);

    if (more && !ngx_exiting) {
        ngx_http_apikey_webhook_claim(wh);
    }
}


static void
ngx_http_apikey_webhook_end_job(ngx_http_apikey_job_t *job)
{
    ngx_http_apikey_webhook_t  *wh;

    wh = job->webhook;

    ngx_queue_remove(&job->queue);
    ngx_destroy_pool(job->pool);

    wh->njobs--;
    ngx_http_apikey_webhook_busy(wh);
}


static void
ngx_http_apikey_webhook_busy(ngx_http_apikey_webhook_t *wh)
{
    wh->timer.cancelable = (wh->njobs == 0 && !wh->claiming);
}
