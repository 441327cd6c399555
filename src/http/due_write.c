
/*
 * One attempt at a scheduled export: a batch of a cursor, a step of a thread,
 * the next batch.  Either a statement of the cursor or a step of the file is
 * under way, never both; memory does not grow with the export.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/due.h"


#define NGX_HTTP_APIKEY_DUE_FETCH                                             \
    (NGX_HTTP_APIKEY_EXPORT_STATEMENT + 5000)


static void ngx_http_apikey_due_step(ngx_http_apikey_due_job_t *job,
    ngx_uint_t step);
static void ngx_http_apikey_due_saved(ngx_http_apikey_save_t *save);
static void ngx_http_apikey_due_open(ngx_http_apikey_due_job_t *job);
static void ngx_http_apikey_due_begun(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_due_fetch(ngx_http_apikey_due_job_t *job);
static void ngx_http_apikey_due_read(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_due_release(ngx_http_apikey_due_job_t *job);
static void ngx_http_apikey_due_tell(ngx_http_apikey_due_job_t *job);
static void ngx_http_apikey_due_told(ngx_http_apikey_pg_op_t *op,
    PGresult *res);


void
ngx_http_apikey_due_write(ngx_http_apikey_due_job_t *job)
{
    job->save.handler = ngx_http_apikey_due_saved;
    job->save.handler_data = job;

    ngx_http_apikey_due_step(job, NGX_HTTP_APIKEY_SAVE_OPEN);
}


static void
ngx_http_apikey_due_step(ngx_http_apikey_due_job_t *job, ngx_uint_t step)
{
    if (ngx_http_apikey_save_step(&job->save, step) == NGX_OK) {
        job->saving = 1;
        return;
    }

    /* no thread can be made: this one step is done here */

    ngx_http_apikey_save_free(&job->save);

    if (job->end == NGX_HTTP_APIKEY_DUE_GO) {
        job->end = NGX_HTTP_APIKEY_DUE_FAILED;
        ngx_cpystrn((u_char *) job->error,
                    (u_char *) "no thread can be made",
                    NGX_HTTP_APIKEY_SAVE_ERROR);
    }

    ngx_http_apikey_due_release(job);
    ngx_http_apikey_due_tell(job);
}


static void
ngx_http_apikey_due_saved(ngx_http_apikey_save_t *save)
{
    ngx_http_apikey_due_job_t  *job;

    job = save->handler_data;
    job->saving = 0;

    if (save->step == NGX_HTTP_APIKEY_SAVE_DROP) {
        ngx_http_apikey_due_tell(job);
        return;
    }

    if (save->error[0]) {
        ngx_http_apikey_due_end(job, NGX_HTTP_APIKEY_DUE_FAILED, save->error);
        return;
    }

    if (save->step == NGX_HTTP_APIKEY_SAVE_CLOSE) {
        job->end = NGX_HTTP_APIKEY_DUE_GO;       /* it stands: tell that */
        ngx_http_apikey_due_release(job);
        ngx_http_apikey_due_tell(job);
        return;
    }

    if (job->end != NGX_HTTP_APIKEY_DUE_GO) {
        ngx_http_apikey_due_end(job, job->end, job->error);

    } else if (save->step == NGX_HTTP_APIKEY_SAVE_OPEN) {
        ngx_http_apikey_due_open(job);

    } else if (job->lines.over) {
        ngx_http_apikey_due_step(job, NGX_HTTP_APIKEY_SAVE_CLOSE);

    } else {
        ngx_http_apikey_due_fetch(job);
    }
}


static void
ngx_http_apikey_due_open(ngx_http_apikey_due_job_t *job)
{
    job->begin.sql = "BEGIN";
    job->begin.simple = 1;
    job->begin.handler = ngx_http_apikey_due_begun;
    job->begin.data = job;

    job->op.sql = "SELECT apikey.schedule_open($1, $2)";
    job->op.nparams = 2;
    job->op.values = job->values;
    job->op.timeout = NGX_HTTP_APIKEY_DUE_FETCH;
    job->op.handler = ngx_http_apikey_due_read;
    job->op.data = job;

    if (ngx_http_apikey_pg_query(job->due->cursor, &job->begin) == NGX_OK) {
        job->beginning = 1;

        if (ngx_http_apikey_pg_query(job->due->cursor, &job->op) == NGX_OK) {
            job->reading = 1;
            return;
        }
    }

    ngx_http_apikey_due_end(job, NGX_HTTP_APIKEY_DUE_FAILED, "no memory");
}


/* The call behind it fails where this does. */

static void
ngx_http_apikey_due_begun(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_http_apikey_due_job_t  *job;

    job = op->data;
    job->beginning = 0;
}


static void
ngx_http_apikey_due_fetch(ngx_http_apikey_due_job_t *job)
{
    ngx_memzero(&job->op, sizeof(ngx_http_apikey_pg_op_t));

    job->op.sql = NGX_HTTP_APIKEY_LINES_FETCH;
    job->op.timeout = NGX_HTTP_APIKEY_DUE_FETCH;
    job->op.handler = ngx_http_apikey_due_read;
    job->op.data = job;

    if (ngx_http_apikey_pg_query(job->due->cursor, &job->op) != NGX_OK) {
        ngx_http_apikey_due_end(job, NGX_HTTP_APIKEY_DUE_FAILED, "no memory");
        return;
    }

    job->reading = 1;
}


/* The first answer is what stands before the lines. */

static void
ngx_http_apikey_due_read(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_int_t                   rc;
    ngx_log_t                  *log;
    ngx_http_apikey_due_job_t  *job;

    job = op->data;
    job->reading = 0;
    log = job->due->log;

    if (PQresultStatus(res) != PGRES_TUPLES_OK) {
        ngx_log_error(NGX_LOG_ERR, log, 0,
                      "apikey: a scheduled export was cut off: %s",
                      res ? PQresultErrorMessage(res)
                          : op->error ? op->error : "connection lost");
        ngx_http_apikey_due_end(job, NGX_HTTP_APIKEY_DUE_FAILED,
                                "Postgres could not be read to the end");
        return;
    }

    if (op->nparams) {
        rc = ngx_http_apikey_lines_head(&job->lines,
                                        (u_char *) PQgetvalue(res, 0, 0),
                                        PQgetlength(res, 0, 0), log);

    } else {
        rc = ngx_http_apikey_lines_batch(&job->lines, res, log);
        job->rows += PQntuples(res);
    }

    if (rc != NGX_OK) {
        ngx_http_apikey_due_end(job, NGX_HTTP_APIKEY_DUE_FAILED, "no memory");
        return;
    }

    job->save.data = job->lines.data;
    job->save.len = job->lines.len;

    ngx_http_apikey_due_step(job, NGX_HTTP_APIKEY_SAVE_WRITE);
}


/* While a thread has the file its end waits for that one step. */

void
ngx_http_apikey_due_end(ngx_http_apikey_due_job_t *job, ngx_uint_t end,
    const char *error)
{
    if (job->telling) {
        return;
    }

    if (job->end == NGX_HTTP_APIKEY_DUE_GO) {
        job->end = end;
        ngx_cpystrn((u_char *) job->error, (u_char *) error,
                    NGX_HTTP_APIKEY_SAVE_ERROR);
    }

    if (!job->saving) {
        ngx_http_apikey_due_release(job);
        ngx_http_apikey_due_step(job, NGX_HTTP_APIKEY_SAVE_DROP);
    }
}


/* The transaction has changed nothing, and nobody reads on. */

static void
ngx_http_apikey_due_release(ngx_http_apikey_due_job_t *job)
{
    if (job->beginning) {
        job->beginning = 0;
        ngx_http_apikey_pg_abandon(job->due->cursor, &job->begin);
    }

    if (job->reading) {
        job->reading = 0;
        ngx_http_apikey_pg_abandon(job->due->cursor, &job->op);
    }

    ngx_http_apikey_pg_drop(job->due->cursor);
}


static void
ngx_http_apikey_due_tell(ngx_http_apikey_due_job_t *job)
{
    job->tell.values = job->values;
    job->tell.timeout = NGX_HTTP_APIKEY_DUE_TIMEOUT;
    job->tell.handler = ngx_http_apikey_due_told;
    job->tell.data = job;

    switch (job->end) {

    case NGX_HTTP_APIKEY_DUE_GO:
        ngx_sprintf((u_char *) job->rows_text, "%uL%Z", job->rows);
        ngx_sprintf((u_char *) job->bytes_text, "%uL%Z", job->save.bytes);

        job->values[2] = job->rows_text;
        job->values[3] = job->bytes_text;
        job->values[4] = job->save.sha256;

        job->tell.sql = "SELECT apikey.schedule_done($1, $2, $3, $4, $5)";
        job->tell.nparams = 5;
        break;

    case NGX_HTTP_APIKEY_DUE_FAILED:
        ngx_log_error(NGX_LOG_ERR, job->due->log, 0,
                      "apikey: scheduled export \"%s\" was not written: %s",
                      job->save.name, job->error);

        job->values[2] = job->error;

        job->tell.sql = "SELECT apikey.schedule_failed($1, $2, $3)";
        job->tell.nparams = 3;
        break;

    default: /* QUIT, LOST */
        job->tell.sql = "SELECT apikey.schedule_release($1, $2)";
        job->tell.nparams = 2;
    }

    if (ngx_http_apikey_pg_query(job->due->pg, &job->tell) != NGX_OK) {
        ngx_http_apikey_due_free(job);
        return;
    }

    job->telling = 1;
}


/* What Postgres did not hear is due again when the claim ends. */

static void
ngx_http_apikey_due_told(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_http_apikey_due_t      *due;
    ngx_http_apikey_due_job_t  *job;

    job = op->data;
    due = job->due;
    job->telling = 0;

    ngx_http_apikey_due_free(job);

    if (PQresultStatus(res) == PGRES_TUPLES_OK && !ngx_exiting) {
        ngx_http_apikey_due_claim(due);
    }
}
