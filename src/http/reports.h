
/*
 * A worker's connections for what may take long: reports, and exports, each
 * of which has one to itself while it runs.  They go to the replica that
 * apikey_postgres names with read=, and to the primary while that is away.
 *
 * Made in init_process; nothing is connected before it is used.
 */


#ifndef NGX_HTTP_APIKEY_REPORTS_H_INCLUDED
#define NGX_HTTP_APIKEY_REPORTS_H_INCLUDED


#include "http/http.h"


#define NGX_HTTP_APIKEY_REPORT_STATEMENT  15000  /* ms, in Postgres */
#define NGX_HTTP_APIKEY_EXPORT_STATEMENT  60000


ngx_http_apikey_reports_t *ngx_http_apikey_reports_start(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf);
void ngx_http_apikey_reports_stop(ngx_http_apikey_reports_t *reports);

ngx_http_apikey_pg_t *ngx_http_apikey_reports_pg(
    ngx_http_apikey_reports_t *reports);

/*
 * Could not be reached.  1: it was the replica, which is left alone for a
 * while, so that a statement that changes nothing may be sent again.
 */
ngx_uint_t ngx_http_apikey_reports_lost(ngx_http_apikey_reports_t *reports,
    ngx_http_apikey_pg_t *pg);

/* NULL: all are taken.  Given back without an operation under way. */
ngx_http_apikey_pg_t *ngx_http_apikey_reports_take(
    ngx_http_apikey_reports_t *reports);
void ngx_http_apikey_reports_give(ngx_http_apikey_reports_t *reports,
    ngx_http_apikey_pg_t *pg);


#endif /* NGX_HTTP_APIKEY_REPORTS_H_INCLUDED */
