
/*
 * Whose key a request carries: read from where the location says, and looked
 * up in the copy, or in Postgres where the copy is not complete.
 *
 * Called by access.c alone; what is found stands in the context, which owns
 * it.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"
#include "http/access.h"


static ngx_int_t ngx_http_apikey_identify_begin(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_str_t *key);
static ngx_uint_t ngx_http_apikey_identify_stale(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_identify_lookup(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_str_t *key);
static ngx_int_t ngx_http_apikey_identify_ask(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_str_t *key);
static void ngx_http_apikey_identify_uncharge(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);


ngx_int_t
ngx_http_apikey_identify(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, u_char copy[APIKEY_KEY_MAX], ngx_str_t *key)
{
    ngx_int_t                    rc;
    ngx_http_apikey_loc_conf_t  *alcf;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    rc = ngx_http_apikey_credential(r, alcf->sources, key);

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

    if (key->len < APIKEY_KEY_MIN || key->len > APIKEY_KEY_MAX) {
        return ngx_http_apikey_fail(r, ctx, APIKEY_INVALID_KEY,
                                    APIKEY_FAIL_LENGTH);
    }

    if (alcf->accept && !ngx_http_apikey_accepted(alcf->accept, key)) {
        return ngx_http_apikey_fail(r, ctx, APIKEY_INVALID_KEY,
                                    APIKEY_FAIL_PREFIX);
    }

    if (ngx_http_apikey_identify_begin(r, ctx, key) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_memcpy(copy, key->data, key->len);
    key->data = copy;

    return NGX_OK;
}


/* The digest, and a word to the memory that will be looked at. */

static ngx_int_t
ngx_http_apikey_identify_begin(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_str_t *key)
{
    ngx_uint_t                    foreseen;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    ctx->ahead = ngx_http_apikey_ahead(key);

    if (!apikey_sha256(key->data, key->len, ctx->digest)) {
        return NGX_ERROR;
    }

    ngx_http_apikey_keyring_ahead(amcf->sh->keyring, ctx->digest);

    ctx->ahead = ngx_http_apikey_ahead_fetch(ctx->ahead, key, amcf->shpool,
                          ngx_http_apikey_decide_ahead_size(amcf->limiter),
                          &foreseen);
    ctx->foreseen = (foreseen != 0);

    return NGX_OK;
}


void
ngx_http_apikey_identify_ahead(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    const void                   *rec;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    rec = ngx_http_apikey_keyring_ahead_record(amcf->sh->keyring, ctx->digest);
    ngx_http_apikey_ahead_note(&ctx->ahead->record, amcf->shpool, rec);
}


ngx_int_t
ngx_http_apikey_identify_known(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_str_t *key)
{
    ngx_int_t  rc;

    rc = ngx_http_apikey_identify_lookup(r, ctx, key);

    if (rc == NGX_AGAIN) {
        return ngx_http_apikey_identify_ask(r, ctx, key);
    }

    if (rc != NGX_ERROR && ngx_http_apikey_identify_stale(r, ctx)) {
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
ngx_http_apikey_identify_stale(ngx_http_request_t *r,
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
ngx_http_apikey_identify_lookup(ngx_http_request_t *r,
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
ngx_http_apikey_identify_ask(ngx_http_request_t *r, ngx_http_apikey_ctx_t *ctx,
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

        ngx_http_apikey_identify_uncharge(r, ctx);
    }

    ctx->verdict = APIKEY_UNAVAILABLE;

    return NGX_DECLINED;
}


/* The look-up was no guess, or has not been made. */

static void
ngx_http_apikey_identify_uncharge(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    if (ctx->charged) {
        ctx->charged = 0;
        ngx_http_apikey_throttle_found(r);
    }
}


ngx_int_t
ngx_http_apikey_identify_end(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_int_t  rc;

    rc = ctx->wait_rc;

    if (rc != NGX_DECLINED) {
        ngx_http_apikey_identify_uncharge(r, ctx);
    }

    if (rc == NGX_OK) {
        rc = ngx_http_apikey_identify_lookup(r, ctx, NULL);
    }

    switch (rc) {

    case NGX_OK:
        return NGX_OK;

    case NGX_DECLINED:
        return ngx_http_apikey_fail(r, ctx, APIKEY_INVALID_KEY,
                                    APIKEY_FAIL_UNKNOWN);

    default: /* NGX_AGAIN: no room for it in the zone, NGX_ERROR */
        ctx->verdict = APIKEY_UNAVAILABLE;
        return NGX_DECLINED;
    }
}
