
/*
 * apikey_redis: its parameters, and TLS.  A password never reaches a log or
 * "nginx -T" when it stands in a password_file.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"
#include "http/conf_redis.h"


typedef struct {
    ngx_str_t   name;
    char     *(*set)(ngx_http_apikey_redis_ctx_t *ctx, ngx_str_t *value);
    size_t      offset;                          /* of a file in ctx */
} ngx_http_apikey_redis_param_t;


static char *ngx_http_apikey_redis_arg(ngx_http_apikey_redis_ctx_t *ctx,
    ngx_str_t *value);
static char *ngx_http_apikey_redis_timeout(ngx_http_apikey_redis_ctx_t *ctx,
    ngx_str_t *value);
static char *ngx_http_apikey_redis_prefix(ngx_http_apikey_redis_ctx_t *ctx,
    ngx_str_t *value);
static char *ngx_http_apikey_redis_password(ngx_http_apikey_redis_ctx_t *ctx,
    ngx_str_t *value);
static char *ngx_http_apikey_redis_sentinel(ngx_http_apikey_redis_ctx_t *ctx,
    ngx_str_t *value);
static char *ngx_http_apikey_redis_verify(ngx_http_apikey_redis_ctx_t *ctx,
    ngx_str_t *value);
static char *ngx_http_apikey_redis_file(ngx_http_apikey_redis_ctx_t *ctx,
    ngx_str_t *value, ngx_str_t *name, ngx_str_t *file);
static char *ngx_http_apikey_redis_tls(ngx_http_apikey_redis_ctx_t *ctx);


static ngx_http_apikey_redis_param_t  ngx_http_apikey_redis_params[] = {
    { ngx_string("timeout"), ngx_http_apikey_redis_timeout, 0 },
    { ngx_string("prefix"), ngx_http_apikey_redis_prefix, 0 },
    { ngx_string("password_file"), ngx_http_apikey_redis_password, 0 },
    { ngx_string("sentinel"), ngx_http_apikey_redis_sentinel, 0 },
    { ngx_string("verify"), ngx_http_apikey_redis_verify, 0 },
    { ngx_string("ca"), NULL, offsetof(ngx_http_apikey_redis_ctx_t, ca) },
    { ngx_string("cert"), NULL, offsetof(ngx_http_apikey_redis_ctx_t, cert) },
    { ngx_string("cert_key"), NULL,
      offsetof(ngx_http_apikey_redis_ctx_t, key) },
    { ngx_null_string, NULL, 0 }
};


char *
ngx_http_apikey_conf_redis(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_apikey_main_conf_t *amcf = conf;

    char                         *rv;
    ngx_str_t                    *value;
    ngx_uint_t                    i;
    ngx_http_apikey_redis_ctx_t   ctx;

    if (amcf->redis) {
        return "is duplicate";
    }

    amcf->redis = ngx_pcalloc(cf->pool, sizeof(ngx_http_apikey_redis_conf_t));
    if (amcf->redis == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(&ctx, sizeof(ngx_http_apikey_redis_ctx_t));

    ctx.cf = cf;
    ctx.cmd = cmd;
    ctx.redis = amcf->redis;
    ctx.verify = NGX_CONF_UNSET;
    ctx.tls = NGX_CONF_UNSET;
    ctx.database = NGX_CONF_UNSET;
    ctx.redis->timeout = NGX_CONF_UNSET_MSEC;

    if (ngx_array_init(&ctx.urls, cf->pool, 4, sizeof(ngx_str_t)) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {
        rv = ngx_http_apikey_redis_arg(&ctx, &value[i]);

        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    ngx_conf_init_msec_value(ctx.redis->timeout, 50);

    if (ctx.redis->prefix.len == 0) {
        ngx_str_set(&ctx.redis->prefix, "apikey");
    }

    rv = ngx_http_apikey_conf_redis_urls(&ctx);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    return ngx_http_apikey_redis_tls(&ctx);
}


static char *
ngx_http_apikey_redis_arg(ngx_http_apikey_redis_ctx_t *ctx, ngx_str_t *value)
{
    ngx_str_t                      *url, rest;
    ngx_http_apikey_redis_param_t  *p;

    if (ngx_http_apikey_conf_redis_is_url(value)) {
        url = ngx_array_push(&ctx->urls);
        if (url == NULL) {
            return NGX_CONF_ERROR;
        }

        *url = *value;

        return NGX_CONF_OK;
    }

    if (ctx->urls.nelts == 0) {
        return ngx_http_apikey_conf_refuse(ctx->cf, ctx->cmd, "a "
                   "\"redis://\", \"rediss://\" or \"unix:\" URL is needed, "
                   "not", value);
    }

    if (value->len == sizeof("cluster") - 1
        && ngx_strcmp(value->data, "cluster") == 0)
    {
        if (ctx->redis->topology != NGX_HTTP_APIKEY_REDIS_SERVERS) {
            return "takes one of \"cluster\" and \"sentinel\", once";
        }

        ctx->redis->topology = NGX_HTTP_APIKEY_REDIS_CLUSTER;

        return NGX_CONF_OK;
    }

    for (p = ngx_http_apikey_redis_params; p->name.len; p++) {

        if (!ngx_http_apikey_conf_param(value, (char *) p->name.data, &rest)) {
            continue;
        }

        return p->set ? p->set(ctx, &rest)
                      : ngx_http_apikey_redis_file(ctx, &rest, &p->name,
                                       (ngx_str_t *) ((u_char *) ctx
                                                      + p->offset));
    }

    return ngx_http_apikey_conf_refuse(ctx->cf, ctx->cmd, "unknown parameter",
                                       value);
}


static char *
ngx_http_apikey_redis_timeout(ngx_http_apikey_redis_ctx_t *ctx,
    ngx_str_t *value)
{
    ngx_msec_t  *timeout;

    timeout = &ctx->redis->timeout;

    if (*timeout != NGX_CONF_UNSET_MSEC) {
        return "has a duplicate \"timeout\"";
    }

    *timeout = ngx_parse_time(value, 0);

    if (*timeout == (ngx_msec_t) NGX_ERROR || *timeout == 0) {
        return ngx_http_apikey_conf_refuse(ctx->cf, ctx->cmd, "invalid time",
                                           value);
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_apikey_redis_sentinel(ngx_http_apikey_redis_ctx_t *ctx,
    ngx_str_t *value)
{
    if (ctx->redis->topology != NGX_HTTP_APIKEY_REDIS_SERVERS) {
        return "takes one of \"cluster\" and \"sentinel\", once";
    }

    if (value->len == 0) {
        return ngx_http_apikey_conf_refuse(ctx->cf, ctx->cmd,
                   "\"sentinel\" is the name of a master, not", value);
    }

    ctx->redis->topology = NGX_HTTP_APIKEY_REDIS_SENTINEL;
    ctx->redis->master = *value;

    return NGX_CONF_OK;
}


static char *
ngx_http_apikey_redis_verify(ngx_http_apikey_redis_ctx_t *ctx,
    ngx_str_t *value)
{
    if (ctx->verify != NGX_CONF_UNSET) {
        return "has a duplicate \"verify\"";
    }

    if (ngx_strcmp(value->data, "on") == 0) {
        ctx->verify = 1;

    } else if (ngx_strcmp(value->data, "off") == 0) {
        ctx->verify = 0;

    } else {
        return ngx_http_apikey_conf_refuse(ctx->cf, ctx->cmd,
                               "\"verify\" is \"on\" or \"off\", not", value);
    }

    return NGX_CONF_OK;
}


/* ca, cert, cert_key: read here only to say which directive names no file */

static char *
ngx_http_apikey_redis_file(ngx_http_apikey_redis_ctx_t *ctx, ngx_str_t *value,
    ngx_str_t *name, ngx_str_t *file)
{
    ngx_str_t  text;

    if (file->data) {
        ngx_conf_log_error(NGX_LOG_EMERG, ctx->cf, 0,
                           "\"%V\": duplicate \"%V\"", &ctx->cmd->name, name);
        return NGX_CONF_ERROR;
    }

    if (ngx_http_apikey_conf_read(ctx->cf, ctx->cmd, value, &text) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    ngx_explicit_memzero(text.data, text.len);

    *file = *value;

    return NGX_CONF_OK;
}


/* redis://host/DB, unix:/path?db=DB */


static char *
ngx_http_apikey_redis_tls(ngx_http_apikey_redis_ctx_t *ctx)
{
    if (ctx->tls != 1) {

        if (ctx->ca.len || ctx->cert.len || ctx->key.len
            || ctx->verify != NGX_CONF_UNSET)
        {
            return "takes \"ca\", \"cert\", \"cert_key\" and \"verify\" with "
                   "\"rediss://\" only";
        }

        return NGX_CONF_OK;
    }

    if ((ctx->cert.len == 0) != (ctx->key.len == 0)) {
        return "needs both of \"cert\" and \"cert_key\", or none";
    }

    if (ctx->verify == 0 && ctx->ca.len) {
        return "has a \"ca\" that \"verify=off\" does not use";
    }

    ctx->redis->verify = (ctx->verify != 0);

    return ngx_http_apikey_redis_ssl_create(ctx->cf, ctx->redis, &ctx->ca,
                                            &ctx->cert, &ctx->key)
           == NGX_OK ? NGX_CONF_OK : NGX_CONF_ERROR;
}


static char *
ngx_http_apikey_redis_password(ngx_http_apikey_redis_ctx_t *ctx,
    ngx_str_t *path)
{
    ngx_str_t                      text;
    ngx_http_apikey_redis_conf_t  *redis;

    redis = ctx->redis;

    if (redis->password.data) {
        return "has two passwords";
    }

    if (ngx_http_apikey_conf_read(ctx->cf, ctx->cmd, path, &text) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    while (text.len
           && (text.data[text.len - 1] == LF || text.data[text.len - 1] == CR))
    {
        text.len--;
    }

    if (text.len == 0) {
        return ngx_http_apikey_conf_refuse(ctx->cf, ctx->cmd,
                                           "no password in", path);
    }

    redis->password = text;
    ctx->from_file = 1;

    return NGX_CONF_OK;
}


/* Part of every Redis key: no braces, they would move its hash tag. */

static char *
ngx_http_apikey_redis_prefix(ngx_http_apikey_redis_ctx_t *ctx,
    ngx_str_t *prefix)
{
    u_char                         ch;
    size_t                         i;
    ngx_http_apikey_redis_conf_t  *redis;

    redis = ctx->redis;

    if (redis->prefix.data) {
        return "has a duplicate \"prefix\"";
    }

    for (i = 0; i < prefix->len; i++) {
        ch = prefix->data[i];

        if (ch <= 0x20 || ch >= 0x7f || ch == '{' || ch == '}') {
            break;
        }
    }

    if (prefix->len == 0 || prefix->len > 64 || i < prefix->len) {
        return ngx_http_apikey_conf_refuse(ctx->cf, ctx->cmd,
                                           "invalid prefix", prefix);
    }

    redis->prefix = *prefix;

    return NGX_CONF_OK;
}
