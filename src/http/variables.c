
/*
 * The variables $apikey_...: uncacheable, since most are empty before the
 * access phase.  They speak of the client request, also in subrequests.
 *
 * Where there is nothing to say a variable is not found: "-" in a log, and a
 * proxy_set_header without the header.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/jsonscan.h"
#include "base/money.h"
#include "http/http.h"
#include "http/limits.h"


static ngx_int_t ngx_http_apikey_variable_id(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_apikey_variable_key(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_apikey_variable_metadata(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_apikey_variable_verdict(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_apikey_variable_limit_name(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_apikey_variable_limit(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_apikey_variable_retry_after(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_apikey_variable_request_id(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_apikey_variable_asked(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_apikey_variable_metered(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_apikey_variable_mode(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_apikey_variable_decided_at(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_apikey_variable_date(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);


typedef enum {
    NGX_HTTP_APIKEY_VAR_LIMIT = 0,
    NGX_HTTP_APIKEY_VAR_REMAINING,
    NGX_HTTP_APIKEY_VAR_RESET
} ngx_http_apikey_variable_limit_e;


typedef enum {
    NGX_HTTP_APIKEY_VAR_MODEL = 0,
    NGX_HTTP_APIKEY_VAR_MAX_TOKENS,
    NGX_HTTP_APIKEY_VAR_STREAM
} ngx_http_apikey_variable_asked_e;


typedef enum {
    NGX_HTTP_APIKEY_VAR_INPUT = 0,
    NGX_HTTP_APIKEY_VAR_OUTPUT,
    NGX_HTTP_APIKEY_VAR_COST
} ngx_http_apikey_variable_metered_e;


#define ngx_http_apikey_variable_member(name)                                 \
    offsetof(ngx_http_apikey_key_t, name)


static ngx_http_variable_t  ngx_http_apikey_variables[] = {

    { ngx_string("apikey_id"), NULL, ngx_http_apikey_variable_id,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_name"), NULL, ngx_http_apikey_variable_key,
      ngx_http_apikey_variable_member(name), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_owner"), NULL, ngx_http_apikey_variable_key,
      ngx_http_apikey_variable_member(owner), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_customer"), NULL, ngx_http_apikey_variable_key,
      ngx_http_apikey_variable_member(customer), NGX_HTTP_VAR_NOCACHEABLE,
      0 },

    { ngx_string("apikey_plan"), NULL, ngx_http_apikey_variable_key,
      ngx_http_apikey_variable_member(plan), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_scopes"), NULL, ngx_http_apikey_variable_key,
      ngx_http_apikey_variable_member(scopes), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_metadata_"), NULL, ngx_http_apikey_variable_metadata,
      0, NGX_HTTP_VAR_NOCACHEABLE|NGX_HTTP_VAR_PREFIX, 0 },

    { ngx_string("apikey_verdict"), NULL, ngx_http_apikey_variable_verdict,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_limit_name"), NULL,
      ngx_http_apikey_variable_limit_name,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_limit"), NULL, ngx_http_apikey_variable_limit,
      NGX_HTTP_APIKEY_VAR_LIMIT, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_remaining"), NULL, ngx_http_apikey_variable_limit,
      NGX_HTTP_APIKEY_VAR_REMAINING, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_reset"), NULL, ngx_http_apikey_variable_limit,
      NGX_HTTP_APIKEY_VAR_RESET, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_retry_after"), NULL,
      ngx_http_apikey_variable_retry_after,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_request_id"), NULL,
      ngx_http_apikey_variable_request_id,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_request_model"), NULL,
      ngx_http_apikey_variable_asked,
      NGX_HTTP_APIKEY_VAR_MODEL, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_request_max_tokens"), NULL,
      ngx_http_apikey_variable_asked,
      NGX_HTTP_APIKEY_VAR_MAX_TOKENS, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_request_stream"), NULL,
      ngx_http_apikey_variable_asked,
      NGX_HTTP_APIKEY_VAR_STREAM, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_tokens_input"), NULL,
      ngx_http_apikey_variable_metered,
      NGX_HTTP_APIKEY_VAR_INPUT, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_tokens_output"), NULL,
      ngx_http_apikey_variable_metered,
      NGX_HTTP_APIKEY_VAR_OUTPUT, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_cost"), NULL, ngx_http_apikey_variable_metered,
      NGX_HTTP_APIKEY_VAR_COST, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_decision_mode"), NULL, ngx_http_apikey_variable_mode,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_decided_at"), NULL,
      ngx_http_apikey_variable_decided_at,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("apikey_date"), NULL, ngx_http_apikey_variable_date,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


ngx_int_t
ngx_http_apikey_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_apikey_variables; v->name.len; v++) {

        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_variable_set(ngx_http_variable_value_t *v, u_char *data,
    size_t len)
{
    if (len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->data = data;
    v->len = len;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_variable_uint(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uint64_t n)
{
    u_char  *p;

    p = ngx_pnalloc(r->pool, NGX_INT64_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    return ngx_http_apikey_variable_set(v, p, ngx_sprintf(p, "%uL", n) - p);
}


/* Cost is money. */

static ngx_int_t
ngx_http_apikey_variable_amount(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uint64_t n, ngx_uint_t unit)
{
    u_char  *p;

    if (unit != APIKEY_UNIT_COST) {
        return ngx_http_apikey_variable_uint(r, v, n);
    }

    p = ngx_pnalloc(r->pool, APIKEY_MONEY_TEXT_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    return ngx_http_apikey_variable_set(v, p,
                      (u_char *) apikey_money_format((char *) p, n) - p);
}


/* The context, if its key is known. */

static ngx_http_apikey_ctx_t *
ngx_http_apikey_variable_found(ngx_http_request_t *r)
{
    ngx_http_apikey_ctx_t  *ctx;

    ctx = ngx_http_apikey_get_ctx(r);

    return (ctx && ctx->found) ? ctx : NULL;
}


static ngx_int_t
ngx_http_apikey_variable_id(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    u_char                 *p;
    ngx_http_apikey_ctx_t  *ctx;

    ctx = ngx_http_apikey_variable_found(r);

    if (ctx == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, APIKEY_UUID_TEXT_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    apikey_uuid_format((char *) p, ctx->key.id);

    return ngx_http_apikey_variable_set(v, p, APIKEY_UUID_TEXT_LEN);
}


static ngx_int_t
ngx_http_apikey_variable_key(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t              *member;
    ngx_http_apikey_ctx_t  *ctx;

    ctx = ngx_http_apikey_variable_found(r);

    if (ctx == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    member = (ngx_str_t *) ((u_char *) &ctx->key + data);

    return ngx_http_apikey_variable_set(v, member->data, member->len);
}


static ngx_int_t
ngx_http_apikey_variable_metadata(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t *name = (ngx_str_t *) data;

    char                   *p;
    size_t                  len;
    ngx_http_apikey_ctx_t  *ctx;

    static const size_t  prefix = sizeof("apikey_metadata_") - 1;

    ctx = ngx_http_apikey_variable_found(r);

    if (ctx == NULL || ctx->key.metadata.len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, ctx->key.metadata.len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    len = apikey_json_member((char *) ctx->key.metadata.data,
                             ctx->key.metadata.len,
                             (char *) name->data + prefix, name->len - prefix,
                             p);

    if (len == APIKEY_JSON_NONE) {
        len = 0;
    }

    return ngx_http_apikey_variable_set(v, (u_char *) p, len);
}


static ngx_int_t
ngx_http_apikey_variable_verdict(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    const char             *name;
    ngx_http_apikey_ctx_t  *ctx;

    ctx = ngx_http_apikey_get_ctx(r);

    if (ctx == NULL || !(ctx->admitted || ctx->refused)) {
        v->not_found = 1;
        return NGX_OK;
    }

    name = apikey_verdict_name(ctx->verdict);

    return ngx_http_apikey_variable_set(v, (u_char *) name,
                                        ngx_strlen(name));
}


static ngx_int_t
ngx_http_apikey_variable_limit_name(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t                  name;
    ngx_uint_t                 level;
    ngx_http_apikey_ctx_t     *ctx;
    ngx_http_apikey_bucket_t  *b;

    level = 0;
    ctx = ngx_http_apikey_variable_found(r);
    b = ctx ? ngx_http_apikey_limit_named(ctx, &level) : NULL;

    if (b == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    if (ngx_http_apikey_limit_full_name(r->pool, b, level, &name) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_http_apikey_variable_set(v, name.data, name.len);
}


static ngx_int_t
ngx_http_apikey_variable_limit(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_uint_t                 level;
    ngx_http_apikey_ctx_t     *ctx;
    ngx_http_apikey_bucket_t  *b;

    ctx = ngx_http_apikey_variable_found(r);
    b = ctx ? ngx_http_apikey_limit_named(ctx, &level) : NULL;

    if (b == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    switch (data) {

    case NGX_HTTP_APIKEY_VAR_LIMIT:
        return ngx_http_apikey_variable_amount(r, v,
                                               apikey_limit_shown(b->limit),
                                               b->limit->unit);

    case NGX_HTTP_APIKEY_VAR_REMAINING:
        return ngx_http_apikey_variable_amount(r, v, b->remaining,
                                               b->limit->unit);

    default: /* NGX_HTTP_APIKEY_VAR_RESET */

        if (b->reset == UINT64_MAX) {
            v->not_found = 1;
            return NGX_OK;
        }

        return ngx_http_apikey_variable_uint(r, v,
                                          ngx_http_apikey_seconds(b->reset));
    }
}


static ngx_int_t
ngx_http_apikey_variable_retry_after(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    uint64_t                seconds;
    ngx_http_apikey_ctx_t  *ctx;

    ctx = ngx_http_apikey_get_ctx(r);
    seconds = ctx ? ngx_http_apikey_retry_after(ctx) : 0;

    if (seconds == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    return ngx_http_apikey_variable_uint(r, v, seconds);
}


static ngx_int_t
ngx_http_apikey_variable_request_id(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_apikey_ctx_t  *ctx;

    ctx = ngx_http_apikey_get_ctx(r);

    if (ctx == NULL || !ctx->named) {
        v->not_found = 1;
        return NGX_OK;
    }

    return ngx_http_apikey_variable_set(v, ctx->id, APIKEY_UUID_TEXT_LEN);
}


/* Out of a body that is JSON. */

static ngx_int_t
ngx_http_apikey_variable_asked(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_apikey_ctx_t    *ctx;
    ngx_http_apikey_asked_t  *asked;

    ctx = ngx_http_apikey_get_ctx(r);

    if (ctx == NULL || ctx->asked == NULL || !ctx->asked->read) {
        v->not_found = 1;
        return NGX_OK;
    }

    asked = ctx->asked;

    switch (data) {

    case NGX_HTTP_APIKEY_VAR_MODEL:
        return ngx_http_apikey_variable_set(v, asked->model.data,
                                            asked->model.len);

    case NGX_HTTP_APIKEY_VAR_MAX_TOKENS:

        if (!asked->has_max) {
            v->not_found = 1;
            return NGX_OK;
        }

        return ngx_http_apikey_variable_uint(r, v, asked->max_tokens);

    default: /* NGX_HTTP_APIKEY_VAR_STREAM */
        return ngx_http_apikey_variable_set(v,
                               (u_char *) (asked->stream ? "1" : "0"), 1);
    }
}


/* As the record will have it; of what nobody knows there is nothing. */

static ngx_int_t
ngx_http_apikey_variable_metered(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    u_char                     *p, *last;
    ngx_http_apikey_ctx_t      *ctx;
    ngx_http_apikey_metered_t   m;

    ctx = ngx_http_apikey_get_ctx(r);

    if (ctx == NULL || !ctx->admitted
        || !ngx_http_apikey_meter_end(r, ctx, &m)
        || (data == NGX_HTTP_APIKEY_VAR_COST ? m.cost < 0
                                             : m.tokens_unknown))
    {
        v->not_found = 1;
        return NGX_OK;
    }

    if (data != NGX_HTTP_APIKEY_VAR_COST) {
        return ngx_http_apikey_variable_uint(r, v,
                                       data == NGX_HTTP_APIKEY_VAR_INPUT
                                       ? m.input : m.output);
    }

    p = ngx_pnalloc(r->pool, APIKEY_MONEY_TEXT_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    last = (u_char *) apikey_money_format((char *) p, (uint64_t) m.cost);

    return ngx_http_apikey_variable_set(v, p, last - p);
}


static ngx_int_t
ngx_http_apikey_variable_mode(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    const char             *name;
    ngx_http_apikey_ctx_t  *ctx;

    ctx = ngx_http_apikey_get_ctx(r);

    if (ctx == NULL || !(ctx->admitted || ctx->refused)) {
        v->not_found = 1;
        return NGX_OK;
    }

    name = apikey_mode_name(ctx->decision.mode);

    return ngx_http_apikey_variable_set(v, (u_char *) name,
                                        ngx_strlen(name));
}


/* Unix seconds with six decimals. */

static ngx_int_t
ngx_http_apikey_variable_decided_at(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    u_char                 *p;
    int64_t                 us;
    ngx_http_apikey_ctx_t  *ctx;

    ctx = ngx_http_apikey_get_ctx(r);

    if (ctx == NULL || !(ctx->admitted || ctx->refused)) {
        v->not_found = 1;
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, NGX_INT64_LEN + sizeof(".000000") - 1);
    if (p == NULL) {
        return NGX_ERROR;
    }

    us = ctx->decision.decided_at ? ctx->decision.decided_at : ctx->time;

    return ngx_http_apikey_variable_set(v, p,
                     ngx_sprintf(p, "%L.%06L", us / 1000000, us % 1000000)
                     - p);
}


static ngx_int_t
ngx_http_apikey_variable_date(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    u_char                 *p;
    ngx_http_apikey_ctx_t  *ctx;

    p = ngx_pnalloc(r->pool, sizeof("YYYY-MM-DD") - 1);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ctx = ngx_http_apikey_get_ctx(r);

    apikey_date_format((char *) p,
                       ctx ? ctx->time : (int64_t) ngx_time() * 1000000);

    return ngx_http_apikey_variable_set(v, p, sizeof("YYYY-MM-DD") - 1);
}
