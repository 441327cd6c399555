
/*
 * The context of a request: made once, and found again after an internal
 * redirect through the cleanup chain of the request's pool.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"
#include "http/access.h"


static void ngx_http_apikey_ctx_cleanup(void *data);


ngx_http_apikey_ctx_t *
ngx_http_apikey_get_ctx(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t     *cln;
    ngx_http_apikey_ctx_t  *ctx;

    r = r->main;

    ctx = ngx_http_get_module_ctx(r, ngx_http_apikey_module);

    if (ctx || !(r->internal || r->filter_finalize)) {
        return ctx;
    }

    /* an internal redirect has cleared all contexts */

    for (cln = r->pool->cleanup; cln; cln = cln->next) {

        if (cln->handler == ngx_http_apikey_ctx_cleanup) {
            ctx = cln->data;
            ngx_http_set_ctx(r, ctx, ngx_http_apikey_module);
            break;
        }
    }

    return ctx;
}


ngx_http_apikey_ctx_t *
ngx_http_apikey_ctx_create(ngx_http_request_t *r)
{
    ngx_http_cleanup_t     *detach;
    ngx_pool_cleanup_t     *cln, **last;
    ngx_http_apikey_ctx_t  *ctx;

    ctx = ngx_http_apikey_lend(r->pool, sizeof(ngx_http_apikey_ctx_t));
    if (ctx == NULL) {
        return NULL;
    }

    /* runs on an abort, before the log phase and while count is above 1 */

    detach = ngx_http_cleanup_add(r, 0);
    cln = ngx_palloc(r->pool, sizeof(ngx_pool_cleanup_t));

    if (detach == NULL || cln == NULL) {
        return NULL;
    }

    ngx_memzero(ctx, NGX_HTTP_APIKEY_CTX_ZEROED);

    ctx->request = r;
    ctx->pool = r->pool;
    ctx->time = apikey_clock_real();
    ctx->now = ctx->time;

    detach->handler = ngx_http_apikey_detach;
    detach->data = ctx;

    /* behind all the others, for with it the block may be another's */

    cln->handler = ngx_http_apikey_ctx_cleanup;
    cln->data = ctx;
    cln->next = NULL;

    for (last = &r->pool->cleanup; *last; last = &(*last)->next) {
        /* void */
    }

    *last = cln;

    ngx_http_set_ctx(r, ctx, ngx_http_apikey_module);

    return ctx;
}


void
ngx_http_apikey_ctx_name(ngx_http_request_t *r, ngx_http_apikey_ctx_t *ctx)
{
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    ngx_http_apikey_usage_id(amcf->worker_usage, ctx->event, ctx->time);
    apikey_uuid_format((char *) ctx->id, ctx->event);

    ctx->named = 1;
}


/* By this address the context is found again, too. */

static void
ngx_http_apikey_ctx_cleanup(void *data)
{
    ngx_http_apikey_ctx_t *ctx = data;

    ngx_http_apikey_lend_end(ctx->pool, ctx);
}
