
/*
 * What drift.c (a look at budgets, from its first question to its last) and
 * drift_rows.c (what Postgres says of them) share.  Nobody else includes
 * this.
 */


#ifndef NGX_HTTP_APIKEY_DRIFT_H_INCLUDED
#define NGX_HTTP_APIKEY_DRIFT_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"


#define NGX_HTTP_APIKEY_DRIFT_NONE  UINT64_MAX


typedef enum {
    NGX_HTTP_APIKEY_DRIFT_LEVEL = 0,             /* of budgets_used() */
    NGX_HTTP_APIKEY_DRIFT_HOLDER,
    NGX_HTTP_APIKEY_DRIFT_ROOT,
    NGX_HTTP_APIKEY_DRIFT_CALENDAR,
    NGX_HTTP_APIKEY_DRIFT_TEXT,
    NGX_HTTP_APIKEY_DRIFT_TERMS,
    NGX_HTTP_APIKEY_DRIFT_USED,
    NGX_HTTP_APIKEY_DRIFT_AS_OF
} ngx_http_apikey_drift_column_e;


/* One budget of a holder. */

typedef struct {
    ngx_http_apikey_account_t   *account;
    ngx_http_apikey_bucket_t    *bucket;
    ngx_uint_t                   line;           /* of the holder's limits */
    uint64_t                     used;           /* Postgres, before */
    uint64_t                     level;
} ngx_http_apikey_drift_budget_t;


typedef struct {
    u_char                       holder[16];
    u_char                       root[16];
    u_char                       calendar[16];
    ngx_uint_t                   level;
    ngx_http_apikey_decision_t   decision;
    ngx_http_apikey_drift_budget_t
                                *budgets;
    ngx_uint_t                   nbudgets;
} ngx_http_apikey_drift_item_t;


struct ngx_http_apikey_drift_s {
    ngx_http_apikey_main_conf_t *amcf;
    ngx_log_t                   *log;
    ngx_pool_t                  *pool;           /* of a look; NULL: none */
    ngx_event_t                  timer;
    ngx_http_apikey_pg_op_t      op;
    const char                  *values[1];
    ngx_http_apikey_drift_item_t
                                *items;
    ngx_uint_t                   nitems;
    ngx_uint_t                   next;
    ngx_uint_t                   tries;
    int64_t                      looked;         /* us, at the last level */
    unsigned                     asking:1;
    unsigned                     deciding:1;
};


/* NGX_DECLINED: nothing to be looked at, or not to be understood. */
ngx_int_t ngx_http_apikey_drift_item(ngx_http_apikey_drift_t *drift,
    PGresult *res, int row, ngx_http_apikey_drift_item_t *item);

/* Of the holder in that row, the largest drift in nano-units. */
uint64_t ngx_http_apikey_drift_compare(ngx_http_apikey_drift_t *drift,
    PGresult *res, int row);


#endif /* NGX_HTTP_APIKEY_DRIFT_H_INCLUDED */
