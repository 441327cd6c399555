
/*
 * The access phase: who is calling, may they, and is there room for it.
 *
 * One context a client request, in the request's pool; it outlives internal
 * redirects in the pool's cleanup chain, so that a request is authenticated
 * and charged once, in whatever locations it ends.  Every room that may call
 * back later holds a part of the context; detach() takes it away from them.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"
#include "http/access.h"


static ngx_http_apikey_ctx_t *ngx_http_apikey_ctx_create(
    ngx_http_request_t *r);
static void ngx_http_apikey_ctx_marker(void *data);
static ngx_int_t ngx_http_apikey_access_start(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_access_identify(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_access_lookup(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_str_t *key);
static ngx_int_t ngx_http_apikey_access_found(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_access_limits(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_access_decided(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_access_again(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_access_suspend(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, char *action);
static void ngx_http_apikey_access_looked_up(
    ngx_http_apikey_keyring_wait_t *wait, ngx_int_t rc);
static void ngx_http_apikey_access_answered(ngx_http_apikey_decision_t *d);
static void ngx_http_apikey_access_resume(ngx_event_t *ev);
static void ngx_http_apikey_access_detach(void *data);


ngx_int_t
ngx_http_apikey_access_handler(ngx_http_request_t *r)
{
    ngx_http_apikey_ctx_t       *ctx;
    ngx_http_apikey_loc_conf_t  *alcf;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    if (alcf->mode == NGX_HTTP_APIKEY_OFF) {
        return NGX_DECLINED;
    }

    ctx = ngx_http_apikey_get_ctx(r);

    if (ctx == NULL) {
        ctx = ngx_http_apikey_ctx_create(r);
        if (ctx == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    if (ctx->waiting) {
        return NGX_AGAIN;
    }

    switch (ctx->state) {

    case NGX_HTTP_APIKEY_ST_LOOKUP:
        return ngx_http_apikey_access_lookup(r, ctx, NULL);

    case NGX_HTTP_APIKEY_ST_LIMITS:
        return ngx_http_apikey_access_decided(r, ctx);

    case NGX_HTTP_APIKEY_ST_DONE:
        return ngx_http_apikey_access_again(r, ctx);

    default: /* NGX_HTTP_APIKEY_ST_START */
        return ngx_http_apikey_access_start(r, ctx);
    }
}


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

        if (cln->handler == ngx_http_apikey_ctx_marker) {
            ctx = cln->data;
            ngx_http_set_ctx(r, ctx, ngx_http_apikey_module);
            break;
        }
    }

    return ctx;
}


static ngx_http_apikey_ctx_t *
ngx_http_apikey_ctx_create(ngx_http_request_t *r)
{
    ngx_http_cleanup_t     *detach;
    ngx_pool_cleanup_t     *cln;
    ngx_http_apikey_ctx_t  *ctx;

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_apikey_ctx_t));
    if (cln == NULL) {
        return NULL;
    }

    ctx = cln->data;
    ngx_memzero(ctx, sizeof(ngx_http_apikey_ctx_t));

    /* runs on an abort, before the log phase and while count is above 1 */

    detach = ngx_http_cleanup_add(r, 0);
    if (detach == NULL) {
        return NULL;
    }

    detach->handler = ngx_http_apikey_access_detach;
    detach->data = ctx;

    ctx->request = r;
    ctx->time = apikey_clock_real();

    ctx->resume.handler = ngx_http_apikey_access_resume;
    ctx->resume.data = ctx;
    ctx->resume.log = r->connection->log;

    if (!apikey_uuid_make(ctx->event, ctx->time)) {
        return NULL;
    }

    apikey_uuid_format((char *) ctx->id, ctx->event);

    cln->handler = ngx_http_apikey_ctx_marker;

    ngx_http_set_ctx(r, ctx, ngx_http_apikey_module);

    return ctx;
}


static void
ngx_http_apikey_ctx_marker(void *data)
{
    /* by this address the context is found again */
}


static ngx_int_t
ngx_http_apikey_access_start(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_int_t                    rc;
    ngx_str_t                    id;
    ngx_http_apikey_loc_conf_t  *alcf;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    rc = ngx_http_apikey_access_identify(r, ctx);

    /* whatever the answer is, the key goes no further */

    if (alcf->hide
        && ngx_http_apikey_credential_hide(r, alcf->sources) != NGX_OK)
    {
        rc = NGX_ERROR;
    }

    if (!ctx->named) {
        ctx->named = 1;

        id.data = ctx->id;
        id.len = APIKEY_UUID_TEXT_LEN;

        if (ngx_http_apikey_request_id_set(r, &id) != NGX_OK) {
            rc = NGX_ERROR;
        }
    }

    switch (rc) {

    case NGX_OK:
        return ngx_http_apikey_access_found(r, ctx);

    case NGX_AGAIN:
        return ngx_http_apikey_access_suspend(r, ctx, "looking a key up");

    case NGX_DONE:
        return ngx_http_apikey_admit_anonymous(r, ctx);

    case NGX_DECLINED:
        return ngx_http_apikey_refuse(r, ctx, ctx->verdict);

    default: /* NGX_ERROR */
        ngx_http_apikey_access_detach(ctx);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
}


/*
 * NGX_OK: the key is found; NGX_AGAIN: it is looked up; NGX_DONE: there is
 * none and there need not be; NGX_DECLINED: refused, verdict is set.
 */

static ngx_int_t
ngx_http_apikey_access_identify(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_int_t                    rc;
    ngx_str_t                    key;
    ngx_http_apikey_loc_conf_t  *alcf;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    rc = ngx_http_apikey_credential(r, alcf->sources, &key);

    switch (rc) {

    case NGX_OK:
        break;

    case NGX_DECLINED:

        if (alcf->mode == NGX_HTTP_APIKEY_OPTIONAL
            || (alcf->preflight_pass && r->method == NGX_HTTP_OPTIONS))
        {
            return NGX_DONE;
        }

        return ngx_http_apikey_fail(r, ctx, APIKEY_MISSING_KEY,
                                    APIKEY_FAIL_MISSING);

    case NGX_ABORT:
        return ngx_http_apikey_fail(r, ctx, APIKEY_DUPLICATE_KEY,
                                    APIKEY_FAIL_DUPLICATE);

    default: /* NGX_ERROR */
        return NGX_ERROR;
    }

    if (key.len < APIKEY_KEY_MIN || key.len > APIKEY_KEY_MAX) {
        return ngx_http_apikey_fail(r, ctx, APIKEY_INVALID_KEY,
                                    APIKEY_FAIL_LENGTH);
    }

    if (alcf->accept && !ngx_http_apikey_accepted(alcf->accept, &key)) {
        return ngx_http_apikey_fail(r, ctx, APIKEY_INVALID_KEY,
                                    APIKEY_FAIL_PREFIX);
    }

    if (!apikey_sha256(key.data, key.len, ctx->digest)) {
        return NGX_ERROR;
    }

    return ngx_http_apikey_access_lookup(r, ctx, &key);
}


/*
 * key is NULL after Postgres was asked; then the request goes on from here,
 * else the codes are identify()'s.
 */

static ngx_int_t
ngx_http_apikey_access_lookup(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_str_t *key)
{
    ngx_int_t                     rc;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    rc = ctx->again ? ctx->wait_rc : NGX_OK;

    if (rc == NGX_OK) {
        rc = ngx_http_apikey_keyring_lookup(amcf->sh->keyring, amcf->shpool,
                                            ctx->digest, r->pool, &ctx->key);
    }

    if (ctx->again) {

        switch (rc) {

        case NGX_OK:
            return ngx_http_apikey_access_found(r, ctx);

        case NGX_DECLINED:
            (void) ngx_http_apikey_fail(r, ctx, APIKEY_INVALID_KEY,
                                        APIKEY_FAIL_UNKNOWN);
            return ngx_http_apikey_refuse(r, ctx, ctx->verdict);

        default:
            return ngx_http_apikey_refuse(r, ctx, APIKEY_UNAVAILABLE);
        }
    }

    if (rc == NGX_DECLINED) {
        return ngx_http_apikey_fail(r, ctx, APIKEY_INVALID_KEY,
                                    APIKEY_FAIL_UNKNOWN);
    }

    if (rc != NGX_AGAIN) {
        return rc;
    }

    /* the copy is not complete: a key that cannot be is not asked for */

    switch (apikey_key_check((const char *) key->data, key->len, amcf->macs,
                             ctx->time))
    {

    case APIKEY_KEY_BAD_CRC:
        return ngx_http_apikey_fail(r, ctx, APIKEY_INVALID_KEY,
                                    APIKEY_FAIL_CHECKSUM);

    case APIKEY_KEY_BAD_MAC:
        return ngx_http_apikey_fail(r, ctx, APIKEY_INVALID_KEY,
                                    APIKEY_FAIL_MAC);

    default:
        break;
    }

    ctx->again = 1;
    ctx->wait.handler = ngx_http_apikey_access_looked_up;
    ctx->wait.data = ctx;

    rc = ngx_http_apikey_keyring_find(amcf->keyring, ctx->digest, &ctx->wait);

    if (rc == NGX_OK || rc == NGX_AGAIN) {
        ctx->state = NGX_HTTP_APIKEY_ST_LOOKUP;
        ctx->pending = 1;
        return NGX_AGAIN;
    }

    if (rc == NGX_DECLINED) {
        return ngx_http_apikey_fail(r, ctx, APIKEY_INVALID_KEY,
                                    APIKEY_FAIL_UNKNOWN);
    }

    ctx->verdict = APIKEY_UNAVAILABLE;

    return NGX_DECLINED;
}


static ngx_int_t
ngx_http_apikey_access_found(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    apikey_verdict_e  verdict;

    ctx->found = 1;

    verdict = ngx_http_apikey_check_key(r, ctx);

    if (verdict == APIKEY_OK) {
        verdict = ngx_http_apikey_check_location(r, ctx);
    }

    if (verdict != APIKEY_OK) {
        return ngx_http_apikey_refuse(r, ctx, verdict);
    }

    return ngx_http_apikey_access_limits(r, ctx);
}


static ngx_int_t
ngx_http_apikey_access_limits(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_http_apikey_decision_t   *d;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    if (ctx->key.broken) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "apikey: a limit of this key or its owner cannot be "
                      "read");
        return ngx_http_apikey_refuse(r, ctx, APIKEY_UNAVAILABLE);
    }

    if (ngx_http_apikey_describe(r, ctx) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    switch (ngx_http_apikey_limits_build(r, ctx, &ctx->start.service)) {

    case NGX_OK:
        break;

    case NGX_DECLINED:
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "apikey: a limit is of a kind that this version does "
                      "not enforce");
        return ngx_http_apikey_refuse(r, ctx, APIKEY_UNAVAILABLE);

    default: /* NGX_ERROR */
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    d = &ctx->decision;

    if (d->naccounts == 0) {
        d->mode = APIKEY_MODE_NONE;
        d->decided_at = ctx->time;
        apikey_stats_add(&amcf->sh->stats.decisions[APIKEY_MODE_NONE], 1);

        return ngx_http_apikey_admit(r, ctx);
    }

    d->handler = ngx_http_apikey_access_answered;
    d->data = ctx;

    ctx->state = NGX_HTTP_APIKEY_ST_LIMITS;

    if (ngx_http_apikey_decide(amcf->limiter, d) == NGX_AGAIN) {
        ctx->pending = 1;
        return ngx_http_apikey_access_suspend(r, ctx, "waiting for Redis");
    }

    return ngx_http_apikey_access_decided(r, ctx);
}


static ngx_int_t
ngx_http_apikey_access_decided(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    ctx->decided = 1;

    if (ctx->decision.known) {
        ngx_http_apikey_limits_result(ctx);
    }

    switch (ctx->decision.rc) {

    case NGX_OK:
        return ngx_http_apikey_admit(r, ctx);

    case NGX_DECLINED:
        return ngx_http_apikey_refuse(r, ctx, APIKEY_RATE_LIMITED);

    default: /* NGX_ERROR */
        return ngx_http_apikey_refuse(r, ctx, APIKEY_UNAVAILABLE);
    }
}


/* The request was decided in another location. */

static ngx_int_t
ngx_http_apikey_access_again(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_uint_t                   status;
    apikey_verdict_e             verdict;
    ngx_http_apikey_loc_conf_t  *alcf;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    if (alcf->hide
        && ngx_http_apikey_credential_hide(r, alcf->sources) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ctx->refused) {
        status = ngx_http_apikey_verdict_status(ctx->verdict);

        if (status == NGX_HTTP_UNAUTHORIZED || status == NGX_HTTP_FORBIDDEN) {
            return ngx_http_apikey_problem(r, ctx);
        }

        return NGX_DECLINED;
    }

    verdict = ngx_http_apikey_check_location(r, ctx);

    if (verdict != APIKEY_OK) {
        return ngx_http_apikey_refuse(r, ctx, verdict);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_access_suspend(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, char *action)
{
    ngx_connection_t             *c;
    ngx_http_apikey_main_conf_t  *amcf;

    c = r->connection;

    /* a client that leaves while we wait must be noticed */

    r->read_event_handler = ngx_http_test_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

    if (c->read->ready) {
        ngx_post_event(c->read, &ngx_posted_events);

    } else if (ngx_handle_read_event(c->read, 0) != NGX_OK) {
        ngx_http_apikey_access_detach(ctx);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    apikey_stats_add(&amcf->sh->stats.waiting, 1);

    ctx->waiting = 1;
    c->log->action = action;

    return NGX_AGAIN;
}


static void
ngx_http_apikey_access_looked_up(ngx_http_apikey_keyring_wait_t *wait,
    ngx_int_t rc)
{
    ngx_http_apikey_ctx_t  *ctx;

    ctx = wait->data;

    ctx->pending = 0;
    ctx->wait_rc = rc;

    ngx_post_event(&ctx->resume, &ngx_posted_events);
}


static void
ngx_http_apikey_access_answered(ngx_http_apikey_decision_t *d)
{
    ngx_http_apikey_ctx_t  *ctx;

    ctx = d->data;

    ctx->pending = 0;

    ngx_post_event(&ctx->resume, &ngx_posted_events);
}


static void
ngx_http_apikey_access_resume(ngx_event_t *ev)
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

    apikey_stats_add(&amcf->sh->stats.waiting, -1);

    ctx->waiting = 0;
    c->log->action = NULL;

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_core_run_phases;

    ngx_http_core_run_phases(r);

    /* r may be gone; the connection is not */

    ngx_http_run_posted_requests(c);
}


/* The request goes away: nobody may call back. */

static void
ngx_http_apikey_access_detach(void *data)
{
    ngx_http_apikey_ctx_t *ctx = data;

    ngx_http_apikey_main_conf_t  *amcf;

    if (ctx->pending) {
        ctx->pending = 0;

        if (ctx->state == NGX_HTTP_APIKEY_ST_LOOKUP) {
            ngx_http_apikey_keyring_abandon(&ctx->wait);

        } else {
            ngx_http_apikey_decide_cancel(&ctx->decision);
        }
    }

    if (ctx->resume.posted) {
        ngx_delete_posted_event(&ctx->resume);
    }

    if (ctx->waiting) {
        ctx->waiting = 0;

        amcf = ngx_http_get_module_main_conf(ctx->request,
                                             ngx_http_apikey_module);

        apikey_stats_add(&amcf->sh->stats.waiting, -1);
    }
}
