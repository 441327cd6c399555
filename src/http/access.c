
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


static ngx_int_t ngx_http_apikey_access_start(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_access_identify(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_access_lookup(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_str_t *key);
static ngx_int_t ngx_http_apikey_access_known(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_str_t *key);
static ngx_uint_t ngx_http_apikey_access_stale(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_access_ask(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_str_t *key);
static void ngx_http_apikey_access_uncharge(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_access_asked(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_access_found(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_access_asks(ngx_http_request_t *r,
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

    if (alcf->usage == NGX_HTTP_APIKEY_USAGE_HEADERS) {
        ctx->metered = 1;

    } else if (alcf->usage != NGX_HTTP_APIKEY_USAGE_OFF && r == r->main) {

        if (ctx->api == NGX_HTTP_APIKEY_USAGE_OFF
            && ngx_http_apikey_extract_ask(r) != NGX_OK)
        {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        ctx->api = alcf->usage;
    }

    if (ctx->waiting) {
        return NGX_AGAIN;
    }

    switch (ctx->state) {

    case NGX_HTTP_APIKEY_ST_LOOKUP:
        return ngx_http_apikey_access_asked(r, ctx);

    case NGX_HTTP_APIKEY_ST_BODY:
        return ngx_http_apikey_access_asks(r, ctx);

    case NGX_HTTP_APIKEY_ST_LIMITS:
        return ngx_http_apikey_access_decided(r, ctx);

    case NGX_HTTP_APIKEY_ST_DONE:
        return ngx_http_apikey_access_again(r, ctx);

    default: /* NGX_HTTP_APIKEY_ST_START */
        return ngx_http_apikey_access_start(r, ctx);
    }
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

    return ngx_http_apikey_access_known(r, ctx, &key);
}


static ngx_int_t
ngx_http_apikey_access_known(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_str_t *key)
{
    ngx_int_t  rc;

    rc = ngx_http_apikey_access_lookup(r, ctx, key);

    if (rc == NGX_AGAIN) {
        return ngx_http_apikey_access_ask(r, ctx, key);
    }

    if (rc != NGX_ERROR && ngx_http_apikey_access_stale(r, ctx)) {
        return NGX_DECLINED;
    }

    if (rc == NGX_DECLINED) {
        return ngx_http_apikey_fail(r, ctx, APIKEY_INVALID_KEY,
                                    APIKEY_FAIL_UNKNOWN);
    }

    return rc;
}


/* What the copy says of this key is too old: the verdict is set. */

static ngx_uint_t
ngx_http_apikey_access_stale(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    if (!ngx_http_apikey_stale(amcf, ctx->key.fresh, ctx->now)) {
        return 0;
    }

    ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                  "apikey: the keyring is older than \"apikey_max_stale\"");

    ctx->verdict = APIKEY_UNAVAILABLE;

    return 1;
}


/* Once more, after Postgres was asked: without key. */

static ngx_int_t
ngx_http_apikey_access_lookup(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_str_t *key)
{
    ngx_int_t                     rc;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    rc = ngx_http_apikey_lookup(amcf, ctx->digest,
                                ctx->has_last ? ctx->last : NULL, ctx->pool,
                                &ctx->key);

    if (key == NULL || (rc != NGX_DECLINED && rc != NGX_AGAIN)
        || !apikey_key_last_digest((char *) key->data, key->len, ctx->last))
    {
        return rc;
    }

    ctx->has_last = 1;

    return ngx_http_apikey_lookup(amcf, ctx->digest, ctx->last, ctx->pool,
                                  &ctx->key);
}


/* The copy is not complete: Postgres may know more.  Codes of identify(). */

static ngx_int_t
ngx_http_apikey_access_ask(ngx_http_request_t *r, ngx_http_apikey_ctx_t *ctx,
    ngx_str_t *key)
{
    uint64_t                      wait;
    ngx_int_t                     rc;
    apikey_key_e                  form;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    /* a key that cannot be is not asked for */

    form = apikey_key_check((const char *) key->data, key->len, amcf->macs,
                            ctx->time);

    switch (form) {

    case APIKEY_KEY_BAD_CRC:
        return ngx_http_apikey_fail(r, ctx, APIKEY_INVALID_KEY,
                                    APIKEY_FAIL_CHECKSUM);

    case APIKEY_KEY_BAD_MAC:
        return ngx_http_apikey_fail(r, ctx, APIKEY_INVALID_KEY,
                                    APIKEY_FAIL_MAC);

    default:
        break;
    }

    rc = ngx_http_apikey_throttle_lookup(r, key, form, ctx->digest, &wait);

    if (rc != NGX_DECLINED) {
        ctx->charged = (rc == NGX_OK);

        if (ngx_http_apikey_suspend_lookup(r, ctx) == NGX_AGAIN) {
            return NGX_AGAIN;
        }

        ngx_http_apikey_access_uncharge(r, ctx);
    }

    ctx->verdict = APIKEY_UNAVAILABLE;

    return NGX_DECLINED;
}


/* The look-up was no guess, or has not been made. */

static void
ngx_http_apikey_access_uncharge(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    if (ctx->charged) {
        ctx->charged = 0;
        ngx_http_apikey_throttle_found(r);
    }
}


/* Postgres has answered, and what it knows stands in the copy now. */

static ngx_int_t
ngx_http_apikey_access_asked(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_int_t  rc;

    rc = ctx->wait_rc;

    if (rc != NGX_DECLINED) {
        ngx_http_apikey_access_uncharge(r, ctx);
    }

    if (rc == NGX_OK) {
        rc = ngx_http_apikey_access_lookup(r, ctx, NULL);
    }

    switch (rc) {

    case NGX_OK:
        return ngx_http_apikey_access_found(r, ctx);

    case NGX_DECLINED:
        (void) ngx_http_apikey_fail(r, ctx, APIKEY_INVALID_KEY,
                                    APIKEY_FAIL_UNKNOWN);
        return ngx_http_apikey_refuse(r, ctx, APIKEY_INVALID_KEY);

    default: /* NGX_AGAIN: no room for it in the zone, NGX_ERROR */
        return ngx_http_apikey_refuse(r, ctx, APIKEY_UNAVAILABLE);
    }
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

    ctx->state = NGX_HTTP_APIKEY_ST_BODY;

    return ngx_http_apikey_access_asks(r, ctx);
}


/* What it asks for is known once its body is read. */

static ngx_int_t
ngx_http_apikey_access_asks(ngx_http_request_t *r, ngx_http_apikey_ctx_t *ctx)
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
        apikey_stats_add(&amcf->sh->stats.decisions[APIKEY_MODE_NONE], 1);

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
