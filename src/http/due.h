
/*
 * What due.c (claims, jobs) and due_write.c (one attempt, step by step) share.
 * Nobody else includes this.
 */


#ifndef NGX_HTTP_APIKEY_DUE_H_INCLUDED
#define NGX_HTTP_APIKEY_DUE_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"
#include "http/lines.h"
#include "http/reports.h"
#include "wire/save.h"


#define NGX_HTTP_APIKEY_DUE_TIMEOUT  10000       /* ms */


typedef enum {
    NGX_HTTP_APIKEY_DUE_GO = 0,
    NGX_HTTP_APIKEY_DUE_FAILED,                  /* error says why */
    NGX_HTTP_APIKEY_DUE_QUIT,                    /* the worker ends */
    NGX_HTTP_APIKEY_DUE_LOST                     /* it is another one's */
} ngx_http_apikey_due_end_e;


typedef struct {
    ngx_http_apikey_due_t        *due;
    ngx_pool_t                   *pool;
    ngx_http_apikey_save_t        save;
    ngx_http_apikey_lines_t       lines;

    ngx_http_apikey_pg_op_t       begin;
    ngx_http_apikey_pg_op_t       op;            /* of the cursor */
    ngx_http_apikey_pg_op_t       tell;
    ngx_http_apikey_pg_op_t       renew;
    const char                   *values[5];     /* schedule, claim first */
    ngx_msec_t                    renewed;

    uint64_t                      rows;
    char                          rows_text[NGX_INT64_LEN + 1];
    char                          bytes_text[NGX_INT64_LEN + 1];
    char                          error[NGX_HTTP_APIKEY_SAVE_ERROR];

    ngx_uint_t                    end;
    unsigned                      saving:1;
    unsigned                      beginning:1;
    unsigned                      reading:1;
    unsigned                      renewing:1;
    unsigned                      telling:1;
} ngx_http_apikey_due_job_t;


struct ngx_http_apikey_due_s {
    ngx_http_apikey_main_conf_t  *amcf;
    ngx_log_t                    *log;
    ngx_http_apikey_pg_t         *pg;            /* claims */
    ngx_http_apikey_pg_t         *cursor;
    ngx_event_t                   timer;
    ngx_http_apikey_pg_op_t       op;            /* the claim */
    const char                   *values[1];
    char                          node[APIKEY_UUID_TEXT_LEN + 1];
    ngx_http_apikey_due_job_t    *job;
    unsigned                      claiming:1;
};


/* due.c */
void ngx_http_apikey_due_claim(ngx_http_apikey_due_t *due);
void ngx_http_apikey_due_free(ngx_http_apikey_due_job_t *job);

/* due_write.c: the job frees itself */
void ngx_http_apikey_due_write(ngx_http_apikey_due_job_t *job);
void ngx_http_apikey_due_end(ngx_http_apikey_due_job_t *job, ngx_uint_t end,
    const char *error);


#endif /* NGX_HTTP_APIKEY_DUE_H_INCLUDED */
