
/*
 * The access phase: who is calling, may they, and is there room for it.
 *
 * A client request has one context (context.c), whatever internal redirects
 * it takes: it is authenticated and charged once, in whatever locations it
 * ends.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"
#include "http/limits.h"
#include "http/access.h"


static ngx_int_t ngx_http_apikey_access_meter(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_http_apikey_loc_conf_t *alcf);
static ngx_int_t ngx_http_apikey_access_enter(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_access_start(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_access_identified(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_int_t rc);
static ngx_int_t ngx_http_apikey_access_found(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_access_body(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_access_limits(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_access_decided(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_access_again(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_access_dry(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_http_apikey_loc_conf_t *alcf);


ngx_int_t
ngx_http_apikey_access_handler(ngx_http_request_t *r)
{
    ngx_int_t                    rc;
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

    if (ngx_http_apikey_access_meter(r, ctx, alcf) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ctx->waiting) {
        return NGX_AGAIN;
    }

    /* each way into another location counts it down */

    if (ctx->changes != r->uri_changes) {
        ctx->changes = r->uri_changes;

        rc = ngx_http_apikey_access_enter(r, ctx);

        if (rc != NGX_OK) {
            return rc;
        }
    }

    switch (ctx->state) {

    case NGX_HTTP_APIKEY_ST_LOOKUP:
        return ngx_http_apikey_access_identified(r, ctx,
                                     ngx_http_apikey_identify_end(r, ctx));

    case NGX_HTTP_APIKEY_ST_BODY:
        return ngx_http_apikey_access_body(r, ctx);

    case NGX_HTTP_APIKEY_ST_LIMITS:
        return ngx_http_apikey_access_decided(r, ctx);

    case NGX_HTTP_APIKEY_ST_DONE:
        return ngx_http_apikey_access_again(r, ctx);

    default: /* NGX_HTTP_APIKEY_ST_START */
        return ngx_http_apikey_access_start(r, ctx);
    }
}


/* Who is to say what the answer has cost. */

static ngx_int_t
ngx_http_apikey_access_meter(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_http_apikey_loc_conf_t *alcf)
{
    if (alcf->usage == NGX_HTTP_APIKEY_USAGE_OFF) {
        return NGX_OK;
    }

    if (alcf->usage == NGX_HTTP_APIKEY_USAGE_HEADERS) {
        ctx->metered = 1;
        return NGX_OK;
    }

    if (ctx->api == NGX_HTTP_APIKEY_USAGE_OFF
        && ngx_http_apikey_extract_ask(r) != NGX_OK)
    {
        return NGX_ERROR;
    }

    ctx->api = alcf->usage;

    return NGX_OK;
}


/*
 * An error_page may lead here from the midst of another location, where its
 * body could not be read or there was no memory: what this one asks of a
 * request is looked at, too.
 */

static ngx_int_t
ngx_http_apikey_access_enter(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    apikey_verdict_e             verdict;
    ngx_http_apikey_loc_conf_t  *alcf;

    if (ctx->state == NGX_HTTP_APIKEY_ST_START
        || ctx->state == NGX_HTTP_APIKEY_ST_DONE)
    {
        /* they look at all of it themselves */
        return NGX_OK;
    }

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    if (alcf->hide
        && ngx_http_apikey_credential_hide(r, alcf->sources) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ctx->state == NGX_HTTP_APIKEY_ST_LOOKUP) {
        return NGX_OK;
    }

    verdict = ngx_http_apikey_check_location(r, ctx);

    return (verdict == APIKEY_OK) ? NGX_OK
                                  : ngx_http_apikey_refuse(r, ctx, verdict);
}


static ngx_int_t
ngx_http_apikey_access_start(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    u_char                       copy[APIKEY_KEY_MAX];
    ngx_int_t                    rc;
    ngx_str_t                    id, key;
    ngx_uint_t                   named;
    ngx_http_apikey_loc_conf_t  *alcf;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    rc = ngx_http_apikey_identify(r, ctx, copy, &key);

    /* there is other work while memory of the zone comes */

    named = ctx->named;

    if (!named) {
        ngx_http_apikey_ctx_name(r, ctx);
    }

    if (rc == NGX_OK && !ctx->foreseen) {
        ngx_http_apikey_identify_ahead(r, ctx);
    }

    /* whatever the answer is, the key goes no further */

    if (alcf->hide
        && ngx_http_apikey_credential_hide(r, alcf->sources) != NGX_OK)
    {
        rc = NGX_ERROR;
    }

    if (!named) {
        id.data = ctx->id;
        id.len = APIKEY_UUID_TEXT_LEN;

        if (ngx_http_apikey_request_id_set(r, &id) != NGX_OK) {
            rc = NGX_ERROR;
        }
    }

    if (rc == NGX_OK) {
        rc = ngx_http_apikey_identify_known(r, ctx, &key);
    }

    return ngx_http_apikey_access_identified(r, ctx, rc);
}


static ngx_int_t
ngx_http_apikey_access_identified(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_int_t rc)
{
    switch (rc) {

    case NGX_OK:
        return ngx_http_apikey_access_found(r, ctx);

    case NGX_AGAIN:
        return ngx_http_apikey_suspend(r, ctx, "looking a key up");

    case NGX_DONE:
        return ngx_http_apikey_admit_anonymous(r, ctx);

    case NGX_DECLINED:
        return ngx_http_apikey_refuse(r, ctx, ctx->verdict);

    default: /* NGX_ERROR */
        ngx_http_apikey_detach(ctx);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
}


static ngx_int_t
ngx_http_apikey_access_found(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    apikey_verdict_e              verdict;
    ngx_http_apikey_main_conf_t  *amcf;

    ctx->found = 1;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    ngx_http_apikey_limits_ahead(amcf, ctx);

    verdict = ngx_http_apikey_check_key(r, ctx);

    if (verdict == APIKEY_OK) {
        verdict = ngx_http_apikey_check_location(r, ctx);
    }

    if (verdict != APIKEY_OK) {
        return ngx_http_apikey_refuse(r, ctx, verdict);
    }

    ctx->state = NGX_HTTP_APIKEY_ST_BODY;

    return ngx_http_apikey_access_body(r, ctx);
}


/* What it asks for is known once its body is read. */

static ngx_int_t
ngx_http_apikey_access_body(ngx_http_request_t *r, ngx_http_apikey_ctx_t *ctx)
{
    ngx_int_t         rc;
    apikey_verdict_e  verdict;

    rc = ngx_http_apikey_request_read(r, ctx);

    if (rc != NGX_OK) {
        return rc;
    }

    verdict = ngx_http_apikey_check_body(r, ctx);

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

    switch (ngx_http_apikey_limits_build(amcf, ctx)) {

    case NGX_OK:
        break;

    case NGX_DECLINED:
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "apikey: a limit of this key or its owner cannot be "
                      "counted here");
        return ngx_http_apikey_refuse(r, ctx, APIKEY_UNAVAILABLE);

    default: /* NGX_ERROR */
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    d = &ctx->decision;
    d->decided_at = ctx->now;
    d->pool = ctx->pool;

    if (d->naccounts == 0) {
        d->mode = APIKEY_MODE_NONE;
        apikey_stats_count(&amcf->sh->stats, ngx_process_slot,
                           APIKEY_STATS_DECISIONS(APIKEY_MODE_NONE));

        return ngx_http_apikey_admit(r, ctx);
    }

    if (ngx_http_apikey_suspend_decide(r, ctx) == NGX_AGAIN) {
        return ngx_http_apikey_suspend(r, ctx, "waiting for Redis");
    }

    return ngx_http_apikey_access_decided(r, ctx);
}


static ngx_int_t
ngx_http_apikey_access_decided(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    ctx->decided = 1;

    if (ctx->decision.known || ctx->decision.rc == NGX_DECLINED) {
        ngx_http_apikey_limits_result(ctx);
    }

    switch (ctx->decision.rc) {

    case NGX_OK:
        return ngx_http_apikey_admit(r, ctx);

    case NGX_DECLINED:
        return ngx_http_apikey_refuse(r, ctx,
                                      ngx_http_apikey_limits_verdict(ctx));

    default: /* NGX_ERROR */
        return ngx_http_apikey_refuse(r, ctx, APIKEY_UNAVAILABLE);
    }
}


/* The request was decided in another location. */

static ngx_int_t
ngx_http_apikey_access_again(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_int_t                    rc;
    apikey_verdict_e             verdict;
    ngx_http_apikey_loc_conf_t  *alcf;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    if (alcf->hide
        && ngx_http_apikey_credential_hide(r, alcf->sources) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ctx->refused) {

        if (ngx_http_apikey_verdict_final(ctx->verdict)) {
            return ngx_http_apikey_problem(r, ctx);
        }

        return NGX_DECLINED;
    }

    if (ctx->dry) {
        return ngx_http_apikey_access_dry(r, ctx, alcf);
    }

    verdict = ngx_http_apikey_check_location(r, ctx);

    if (verdict == APIKEY_OK) {

        rc = ngx_http_apikey_request_read(r, ctx);

        if (rc != NGX_OK) {
            return rc;
        }

        verdict = ngx_http_apikey_check_body(r, ctx);
    }

    if (verdict != APIKEY_OK) {
        return ngx_http_apikey_refuse(r, ctx, verdict);
    }

    return NGX_OK;
}


/* Only a location of its own kind lets it pass, too. */

static ngx_int_t
ngx_http_apikey_access_dry(ngx_http_request_t *r, ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_loc_conf_t *alcf)
{
    if (!alcf->dry_run) {
        return ngx_http_apikey_refuse(r, ctx, ctx->verdict);
    }

    return ngx_http_apikey_passes_dry(ctx) ? NGX_OK : NGX_DECLINED;
}
