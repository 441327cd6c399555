
/*
 * Calls that meet a schema which is being applied: between two of its files
 * functions may not fit together.  The call had no effect; it is made again
 * when the lock of "apikeyctl schema apply" is free.  Nobody waits for that
 * lock: others use the same connection.  A replica does not know of it, and
 * the primary is called then.
 *
 * Everything belongs to the request, whose cleanup ends what is under way.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/version.h"
#include "http/admin.h"
#include "http/reports.h"


#define NGX_HTTP_APIKEY_ADMIN_PAUSE    200      /* ms */
#define NGX_HTTP_APIKEY_ADMIN_PAUSES   20000


static void ngx_http_apikey_admin_schema_done(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_admin_schema_again(ngx_event_t *ev);


ngx_int_t
ngx_http_apikey_admin_schema(ngx_http_apikey_admin_t *a, const char *state)
{
    /* what does not fit, a plan that changed, an object that went meanwhile */

    if (ngx_strncmp(state, "42", 2) != 0 && ngx_strncmp(state, "0A", 2) != 0
        && ngx_strncmp(state, "XX", 2) != 0)
    {
        return NGX_DECLINED;
    }

    if (a->until == 0) {
        a->until = ngx_current_msec + NGX_HTTP_APIKEY_ADMIN_PAUSES;

    } else if ((ngx_msec_int_t) (a->until - ngx_current_msec) <= 0) {
        return NGX_DECLINED;
    }

    if (a->within) {
        a->again = 1;
        return NGX_OK;
    }

    if (a->route->report
        && ngx_http_apikey_reports_lost(a->amcf->reports, a->pg))
    {
        a->pg = NULL;

        return ngx_http_apikey_admin_call_send(a);
    }

    return ngx_http_apikey_admin_schema_wait(a);
}


ngx_int_t
ngx_http_apikey_admin_schema_wait(ngx_http_apikey_admin_t *a)
{
    ngx_memzero(&a->op, sizeof(ngx_http_apikey_pg_op_t));

    a->op.sql = "SELECT pg_try_advisory_xact_lock_shared("
                APIKEY_SCHEMA_LOCK ")";
    a->op.handler = ngx_http_apikey_admin_schema_done;
    a->op.data = a;

    if (ngx_http_apikey_pg_query(a->pg, &a->op) != NGX_OK) {
        return NGX_DECLINED;
    }

    a->calling = 1;

    return NGX_OK;
}


static void
ngx_http_apikey_admin_schema_done(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_http_apikey_admin_t *a = op->data;

    a->calling = 0;

    a->pause.handler = ngx_http_apikey_admin_schema_again;
    a->pause.data = a;
    a->pause.log = a->request->connection->log;

    if (res && PQresultStatus(res) == PGRES_TUPLES_OK
        && PQgetvalue(res, 0, 0)[0] == 'f')
    {
        ngx_add_timer(&a->pause, NGX_HTTP_APIKEY_ADMIN_PAUSE);
        return;
    }

    /* none runs: it may have ended just now, so once more and no further */

    a->until = ngx_current_msec;
    ngx_http_apikey_admin_schema_again(&a->pause);
}


static void
ngx_http_apikey_admin_schema_again(ngx_event_t *ev)
{
    ngx_http_apikey_admin_t *a = ev->data;

    if (a->within) {
        a->again = 1;
        ngx_http_apikey_admin_call_done(a);
        return;
    }

    if (ngx_http_apikey_admin_call_send(a) != NGX_OK) {
        a->failed = 1;
        a->problem = NGX_HTTP_APIKEY_PROBLEM_UNAVAILABLE;
        ngx_http_apikey_admin_call_done(a);
    }
}
