
/*
 * What webhook.c (claims, jobs) and webhook_message.c (what is sent, and its
 * signature) share.  Nobody else includes this.
 */


#ifndef NGX_HTTP_APIKEY_WEBHOOK_H_INCLUDED
#define NGX_HTTP_APIKEY_WEBHOOK_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"
#include "wire/post.h"


typedef enum {
    NGX_HTTP_APIKEY_CLAIM_DELIVERY = 0,          /* of webhook_claim() */
    NGX_HTTP_APIKEY_CLAIM_ATTEMPT,
    NGX_HTTP_APIKEY_CLAIM_EVENT,
    NGX_HTTP_APIKEY_CLAIM_URL,
    NGX_HTTP_APIKEY_CLAIM_BODY,
    NGX_HTTP_APIKEY_CLAIM_SECRETS,
    NGX_HTTP_APIKEY_CLAIM_ALLOWED,
    NGX_HTTP_APIKEY_CLAIM_COLUMNS
} ngx_http_apikey_claim_column_e;


struct ngx_http_apikey_webhook_s {
    ngx_http_apikey_main_conf_t  *amcf;
    ngx_log_t                    *log;
    ngx_http_apikey_pg_t         *pg;
    ngx_event_t                   timer;
    ngx_http_apikey_pg_op_t       op;            /* the claim */
    const char                   *values[2];
    char                          node[APIKEY_UUID_TEXT_LEN + 1];
    char                          most[NGX_INT_T_LEN + 1];
    ngx_queue_t                   jobs;
    ngx_uint_t                    njobs;
    unsigned                      claiming:1;
};


typedef struct {
    ngx_queue_t                   queue;
    ngx_http_apikey_webhook_t    *webhook;
    ngx_pool_t                   *pool;
    ngx_http_apikey_post_t        post;
    ngx_http_apikey_pg_op_t       op;
    const char                   *values[5];
    const char                   *delivery;
    const char                   *attempt;
    char                          status[NGX_INT_T_LEN + 1];
    char                          duration[NGX_INT_T_LEN + 1];
} ngx_http_apikey_job_t;


/* Fills job->post and the ids out of a row of webhook_claim(). */
ngx_int_t ngx_http_apikey_webhook_message(ngx_http_apikey_job_t *job,
    PGresult *res, int row, time_t now);


#endif /* NGX_HTTP_APIKEY_WEBHOOK_H_INCLUDED */
