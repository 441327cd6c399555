
/*
 * Scheduled exports: one worker of a node asks Postgres every second
 * whether one is due, and writes it (due_write.c).  Which and when is SQL's
 * (schema/0065_schedules.sql).
 *
 * A job is one attempt, in a pool of its own; a node runs one at a time.
 * While there is one the timer keeps a worker that quits, as long as it takes
 * to leave the turn to another one.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/due.h"
#include "http/rooms.h"


#define NGX_HTTP_APIKEY_DUE_EVERY  1000          /* ms */
#define NGX_HTTP_APIKEY_DUE_RENEW  15000


static ngx_http_apikey_pg_t *ngx_http_apikey_due_connection(
    ngx_cycle_t *cycle, ngx_http_apikey_main_conf_t *amcf, const char *name,
    ngx_msec_t statement);
static void ngx_http_apikey_due_timer(ngx_event_t *ev);
static void ngx_http_apikey_due_claimed(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static ngx_int_t ngx_http_apikey_due_start_job(ngx_http_apikey_due_t *due,
    PGresult *res);
static const char *ngx_http_apikey_due_copy(ngx_pool_t *pool, PGresult *res,
    int column);
static void ngx_http_apikey_due_renew(ngx_http_apikey_due_job_t *job);
static void ngx_http_apikey_due_renewed(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_due_busy(ngx_http_apikey_due_t *due);


ngx_http_apikey_due_t *
ngx_http_apikey_due_start(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf)
{
    ngx_http_apikey_due_t  *due;

    due = ngx_pcalloc(cycle->pool, sizeof(ngx_http_apikey_due_t));
    if (due == NULL) {
        return NULL;
    }

    due->pg = ngx_http_apikey_due_connection(cycle, amcf, "apikey schedule",
                                             0);
    due->cursor = ngx_http_apikey_due_connection(cycle, amcf,
                                            "apikey scheduled export",
                                            NGX_HTTP_APIKEY_EXPORT_STATEMENT);

    if (due->pg == NULL || due->cursor == NULL) {
        return NULL;
    }

    due->amcf = amcf;
    due->log = cycle->log;

    apikey_uuid_format(due->node, amcf->usage.node);

    due->timer.handler = ngx_http_apikey_due_timer;
    due->timer.data = due;
    due->timer.log = cycle->log;
    due->timer.cancelable = 1;

    ngx_add_timer(&due->timer, NGX_HTTP_APIKEY_DUE_EVERY);

    return due;
}


/* To the primary: a replica may not have all of a range yet. */

static ngx_http_apikey_pg_t *
ngx_http_apikey_due_connection(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf, const char *name, ngx_msec_t statement)
{
    ngx_http_apikey_pg_conf_t  conf;

    ngx_memzero(&conf, sizeof(ngx_http_apikey_pg_conf_t));

    conf.conninfo = amcf->conninfo;
    conf.connect_timeout = 2000;
    conf.statement_timeout = statement;
    conf.name = name;

    return ngx_http_apikey_pg_create(cycle->pool, &conf, NULL, cycle->log);
}


/* No thread runs any more: worker.c has waited for them. */

void
ngx_http_apikey_due_stop(ngx_http_apikey_due_t *due)
{
    if (due->timer.timer_set) {
        ngx_del_timer(&due->timer);
    }

    ngx_http_apikey_pg_close(due->pg);
    ngx_http_apikey_pg_close(due->cursor);

    if (due->job) {
        ngx_http_apikey_save_free(&due->job->save);
        due->job->renewing = 0;
        ngx_http_apikey_due_free(due->job);
    }
}


static void
ngx_http_apikey_due_timer(ngx_event_t *ev)
{
    ngx_http_apikey_due_t      *due;
    ngx_http_apikey_due_job_t  *job;

    due = ev->data;
    job = due->job;

    if (job == NULL) {

        if (!ngx_exiting
            && ngx_http_apikey_usage_elected(due->amcf->worker_usage)
            && apikey_stats_get(&due->amcf->sh->stats.schema_ok))
        {
            ngx_http_apikey_due_claim(due);
        }

    } else if (ngx_exiting) {
        ngx_http_apikey_due_end(job, NGX_HTTP_APIKEY_DUE_QUIT, "");

    } else if (ngx_current_msec - job->renewed
               >= NGX_HTTP_APIKEY_DUE_RENEW)
    {
        ngx_http_apikey_due_renew(job);
    }

    if (!ngx_exiting || due->job || due->claiming) {
        ngx_add_timer(ev, NGX_HTTP_APIKEY_DUE_EVERY);
    }
}


void
ngx_http_apikey_due_claim(ngx_http_apikey_due_t *due)
{
    if (due->claiming) {
        return;
    }

    due->values[0] = due->node;

    ngx_memzero(&due->op, sizeof(ngx_http_apikey_pg_op_t));

    due->op.sql = "SELECT * FROM apikey.schedule_claim($1)";
    due->op.nparams = 1;
    due->op.values = due->values;
    due->op.timeout = NGX_HTTP_APIKEY_DUE_TIMEOUT;
    due->op.handler = ngx_http_apikey_due_claimed;
    due->op.data = due;

    if (ngx_http_apikey_pg_query(due->pg, &due->op) == NGX_OK) {
        due->claiming = 1;
        ngx_http_apikey_due_busy(due);
    }
}


/* What cannot be begun for lack of memory is due when its claim ends. */

static void
ngx_http_apikey_due_claimed(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_http_apikey_due_t  *due;

    due = op->data;
    due->claiming = 0;

    if (PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == 1
        && ngx_http_apikey_due_start_job(due, res) == NGX_OK)
    {
        ngx_http_apikey_due_write(due->job);
    }

    ngx_http_apikey_due_busy(due);
}


static ngx_int_t
ngx_http_apikey_due_start_job(ngx_http_apikey_due_t *due, PGresult *res)
{
    ngx_pool_t                 *pool;
    ngx_http_apikey_due_job_t  *job;

    pool = ngx_create_pool(4096, due->log);
    if (pool == NULL) {
        return NGX_ERROR;
    }

    job = ngx_pcalloc(pool, sizeof(ngx_http_apikey_due_job_t));

    if (job == NULL
        || ngx_http_apikey_save_init(&job->save, pool) != NGX_OK)
    {
        ngx_destroy_pool(pool);
        return NGX_ERROR;
    }

    job->due = due;
    job->pool = pool;
    job->renewed = ngx_current_msec;

    job->values[0] = ngx_http_apikey_due_copy(pool, res, 0);
    job->values[1] = ngx_http_apikey_due_copy(pool, res, 1);
    job->save.directory = ngx_http_apikey_due_copy(pool, res, 2);
    job->save.name = ngx_http_apikey_due_copy(pool, res, 3);
    job->save.temp = ngx_http_apikey_due_copy(pool, res, 4);
    job->save.stale = ngx_http_apikey_due_copy(pool, res, 5);

    if (job->values[0] == NULL || job->values[1] == NULL
        || job->save.directory == NULL || job->save.name == NULL
        || job->save.temp == NULL || job->save.stale == NULL)
    {
        ngx_destroy_pool(pool);
        return NGX_ERROR;
    }

    due->job = job;

    return NGX_OK;
}


static const char *
ngx_http_apikey_due_copy(ngx_pool_t *pool, PGresult *res, int column)
{
    ngx_str_t  text;

    text.data = (u_char *) PQgetvalue(res, 0, column);
    text.len = PQgetlength(res, 0, column) + 1;

    return (const char *) ngx_pstrdup(pool, &text);
}


static void
ngx_http_apikey_due_renew(ngx_http_apikey_due_job_t *job)
{
    if (job->renewing || job->telling) {
        return;
    }

    ngx_memzero(&job->renew, sizeof(ngx_http_apikey_pg_op_t));

    job->renew.sql = "SELECT apikey.schedule_renew($1, $2)";
    job->renew.nparams = 2;
    job->renew.values = job->values;
    job->renew.timeout = NGX_HTTP_APIKEY_DUE_TIMEOUT;
    job->renew.handler = ngx_http_apikey_due_renewed;
    job->renew.data = job;

    if (ngx_http_apikey_pg_query(job->due->pg, &job->renew) == NGX_OK) {
        job->renewing = 1;
    }
}


static void
ngx_http_apikey_due_renewed(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_http_apikey_due_job_t  *job;

    job = op->data;
    job->renewing = 0;

    if (PQresultStatus(res) != PGRES_TUPLES_OK) {
        return;
    }

    if (PQgetvalue(res, 0, 0)[0] == 't') {
        job->renewed = ngx_current_msec;
        return;
    }

    ngx_http_apikey_due_end(job, NGX_HTTP_APIKEY_DUE_LOST, "");
}


void
ngx_http_apikey_due_free(ngx_http_apikey_due_job_t *job)
{
    ngx_http_apikey_due_t  *due;

    due = job->due;

    if (job->renewing) {
        ngx_http_apikey_pg_abandon(due->pg, &job->renew);
    }

    ngx_http_apikey_lines_free(&job->lines);

    due->job = NULL;
    ngx_destroy_pool(job->pool);

    ngx_http_apikey_due_busy(due);
}


static void
ngx_http_apikey_due_busy(ngx_http_apikey_due_t *due)
{
    due->timer.cancelable = (due->job == NULL && !due->claiming);
}
