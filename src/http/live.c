
/*
 * Limits as they are now, for GET limits and usage pages: nobody knows that
 * but who counts.
 *
 * SQL says whose limits are asked for, live_look.c looks at them, SQL makes
 * the answer of both.  Everything lives in the request's pool.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/live.h"


static ngx_int_t ngx_http_apikey_live_start(ngx_http_apikey_admin_t *a);
static void ngx_http_apikey_live_resume(ngx_http_apikey_live_t *live);
static ngx_int_t ngx_http_apikey_live_answer(ngx_http_apikey_live_t *live);
static void ngx_http_apikey_live_detach(ngx_http_apikey_admin_t *a);


ngx_int_t
ngx_http_apikey_live(ngx_http_apikey_admin_t *a)
{
    ngx_int_t                rc;
    ngx_http_apikey_live_t  *live;

    live = a->job;

    if (live == NULL) {
        return ngx_http_apikey_live_start(a);
    }

    if (live->state == NGX_HTTP_APIKEY_LIVE_ANSWER) {
        return ngx_http_apikey_admin_call_finish(a);
    }

    if (live->state == NGX_HTTP_APIKEY_LIVE_HOLDERS) {

        if (a->failed || a->status != NGX_HTTP_OK) {
            return ngx_http_apikey_admin_call_finish(a);
        }

        live->state = NGX_HTTP_APIKEY_LIVE_LOOK;

        rc = ngx_http_apikey_live_begin(live, &a->answer);

    } else {
        rc = ngx_http_apikey_live_run(live);
    }

    if (rc == NGX_AGAIN) {
        ngx_http_apikey_admin_wait(a);
        return NGX_AGAIN;
    }

    if (rc != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_apikey_live_answer(live);
}


static ngx_int_t
ngx_http_apikey_live_start(ngx_http_apikey_admin_t *a)
{
    ngx_http_apikey_live_t  *live;

    live = ngx_palloc(a->pool, sizeof(ngx_http_apikey_live_t));

    if (live == NULL
        || ngx_http_apikey_live_init(live, a->amcf, a->pool) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    live->handler = ngx_http_apikey_live_resume;
    live->data = a;
    live->usage = (ngx_strcmp(a->route->function, "limits") != 0);

    a->job = live;
    a->detach = ngx_http_apikey_live_detach;
    a->function = live->usage ? "usage_holders" : "limit_holders";

    return ngx_http_apikey_admin_call_start(a);
}


static void
ngx_http_apikey_live_resume(ngx_http_apikey_live_t *live)
{
    ngx_http_apikey_admin_resume(live->data);
}


/* A usage page does without what nobody can tell now. */

static ngx_int_t
ngx_http_apikey_live_answer(ngx_http_apikey_live_t *live)
{
    ngx_http_apikey_admin_t  *a;

    a = live->data;

    if (live->down && !live->usage) {
        return ngx_http_apikey_admin_problem(a,
                                     NGX_HTTP_APIKEY_PROBLEM_UNAVAILABLE,
                                     "Redis did not answer.", NULL);
    }

    if (!live->down && ngx_http_apikey_live_end(live, &a->live) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    live->state = NGX_HTTP_APIKEY_LIVE_ANSWER;
    a->function = NULL;

    return ngx_http_apikey_admin_call_start(a);
}


static void
ngx_http_apikey_live_detach(ngx_http_apikey_admin_t *a)
{
    ngx_http_apikey_live_cancel(a->job);
}
