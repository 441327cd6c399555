
/*
 * Waiting in the access phase: a request is parked until the keyring or the
 * limiter calls back, and resumed by a posted event, never from inside their
 * parsing loops.
 *
 * The rooms hold parts of the context meanwhile; detach() takes them away
 * when the request goes.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"
#include "http/limits.h"
#include "http/access.h"


static void ngx_http_apikey_suspend_looked_up(
    ngx_http_apikey_keyring_wait_t *wait, ngx_int_t rc);
static void ngx_http_apikey_suspend_decided(ngx_http_apikey_decision_t *d);
static void ngx_http_apikey_resume(ngx_event_t *ev);


ngx_int_t
ngx_http_apikey_suspend_lookup(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_int_t                     rc;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    ctx->wait.handler = ngx_http_apikey_suspend_looked_up;
    ctx->wait.data = ctx;

    rc = ngx_http_apikey_keyring_find(amcf->keyring, ctx->digest,
                                      ctx->has_last ? ctx->last : NULL,
                                      &ctx->wait);

    if (rc != NGX_OK) {
        return NGX_ERROR;
    }

    ctx->state = NGX_HTTP_APIKEY_ST_LOOKUP;
    ctx->pending = 1;

    return NGX_AGAIN;
}


ngx_int_t
ngx_http_apikey_suspend_decide(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_int_t                     rc;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    ctx->decision.handler = ngx_http_apikey_suspend_decided;
    ctx->decision.data = ctx;

    ctx->state = NGX_HTTP_APIKEY_ST_LIMITS;

    rc = ngx_http_apikey_known_decide(amcf, ctx);

    ctx->pending = (rc == NGX_AGAIN);
    ctx->taken = (rc == NGX_OK);

    return rc;
}


ngx_int_t
ngx_http_apikey_suspend(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, char *action)
{
    ngx_event_t                  *resume;
    ngx_connection_t             *c;
    ngx_http_apikey_main_conf_t  *amcf;

    c = r->connection;

    resume = &ctx->resume;

    ngx_memzero(resume, sizeof(ngx_event_t));

    resume->handler = ngx_http_apikey_resume;
    resume->data = ctx;
    resume->log = c->log;

    /* a client that leaves while we wait must be noticed */

    r->read_event_handler = ngx_http_test_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

    if (c->read->ready) {
        ngx_post_event(c->read, &ngx_posted_events);

    } else if (ngx_handle_read_event(c->read, 0) != NGX_OK) {
        ngx_http_apikey_detach(ctx);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    apikey_stats_add(&amcf->sh->stats.waiting[ngx_process_slot], 1);

    ctx->waiting = 1;
    c->log->action = action;

    return NGX_AGAIN;
}


static void
ngx_http_apikey_suspend_looked_up(ngx_http_apikey_keyring_wait_t *wait,
    ngx_int_t rc)
{
    ngx_http_apikey_ctx_t  *ctx;

    ctx = wait->data;

    ctx->pending = 0;
    ctx->wait_rc = rc;

    ngx_post_event(&ctx->resume, &ngx_posted_events);
}


static void
ngx_http_apikey_suspend_decided(ngx_http_apikey_decision_t *d)
{
    ngx_http_apikey_ctx_t  *ctx;

    ctx = d->data;

    ctx->pending = 0;
    ctx->taken = (d->rc == NGX_OK);

    ngx_post_event(&ctx->resume, &ngx_posted_events);
}


static void
ngx_http_apikey_resume(ngx_event_t *ev)
{
    ngx_connection_t             *c;
    ngx_http_request_t           *r;
    ngx_http_apikey_ctx_t        *ctx;
    ngx_http_apikey_main_conf_t  *amcf;

    ctx = ev->data;
    r = ctx->request;
    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    apikey_stats_add(&amcf->sh->stats.waiting[ngx_process_slot], -1);

    ctx->waiting = 0;
    ctx->now = apikey_clock_real();
    c->log->action = NULL;

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_core_run_phases;

    ngx_http_core_run_phases(r);

    /* r may be gone; the connection is not */

    ngx_http_run_posted_requests(c);
}


/*
 * The request goes away, or cannot wait: nobody may call back.  In the latter
 * case an error_page may lead it to another location, and there it has no
 * decision.
 */

void
ngx_http_apikey_detach(void *data)
{
    ngx_http_apikey_ctx_t *ctx = data;

    ngx_http_apikey_main_conf_t  *amcf;

    if (ctx->pending) {
        ctx->pending = 0;

        if (ctx->state == NGX_HTTP_APIKEY_ST_LOOKUP) {
            ngx_http_apikey_keyring_abandon(&ctx->wait);
            ctx->wait_rc = NGX_ERROR;

        } else {
            ngx_http_apikey_known_cancel(ctx);
            ctx->decision.rc = NGX_ERROR;
        }
    }

    if (ctx->waiting) {
        ctx->waiting = 0;

        if (ctx->resume.posted) {
            ngx_delete_posted_event(&ctx->resume);
        }

        amcf = ngx_http_get_module_main_conf(ctx->request,
                                             ngx_http_apikey_module);

        apikey_stats_add(&amcf->sh->stats.waiting[ngx_process_slot], -1);
    }
}
