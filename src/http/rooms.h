
/*
 * What one worker of a node does besides its requests, each in a file of its
 * own: started by worker.c in init_process, stopped in exit_process.  What
 * start() makes lives in the cycle's pool; it is NULL without memory.
 */


#ifndef NGX_HTTP_APIKEY_ROOMS_H_INCLUDED
#define NGX_HTTP_APIKEY_ROOMS_H_INCLUDED


#include "http/http.h"


/* drift.c: apikey_budget_drift */
ngx_http_apikey_drift_t *ngx_http_apikey_drift_start(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf);
void ngx_http_apikey_drift_stop(ngx_http_apikey_drift_t *drift);

/* webhook.c: the outbox */
ngx_http_apikey_webhook_t *ngx_http_apikey_webhook_start(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf);
void ngx_http_apikey_webhook_stop(ngx_http_apikey_webhook_t *wh);

/* alert.c: alerts are looked at */
ngx_http_apikey_alert_t *ngx_http_apikey_alert_start(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf);
void ngx_http_apikey_alert_stop(ngx_http_apikey_alert_t *alert);

/* due.c: scheduled exports */
ngx_http_apikey_due_t *ngx_http_apikey_due_start(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf);
void ngx_http_apikey_due_stop(ngx_http_apikey_due_t *due);


#endif /* NGX_HTTP_APIKEY_ROOMS_H_INCLUDED */
