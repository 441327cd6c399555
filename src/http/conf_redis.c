
/*
 * apikey_redis: a URL and its parameters.  Names are resolved here, in the
 * master; a password never reaches a log or "nginx -T" when it stands in a
 * password_file.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"


static char *ngx_http_apikey_redis_param(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_http_apikey_redis_conf_t *redis, ngx_str_t *value);
static char *ngx_http_apikey_redis_url(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_http_apikey_redis_conf_t *redis, ngx_str_t *value);
static char *ngx_http_apikey_redis_credential(ngx_conf_t *cf,
    ngx_http_apikey_redis_conf_t *redis, ngx_str_t *url);
static char *ngx_http_apikey_redis_database(
    ngx_http_apikey_redis_conf_t *redis, ngx_str_t *url, ngx_uint_t unix_path);
static char *ngx_http_apikey_redis_resolve(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_http_apikey_redis_conf_t *redis, ngx_str_t *url);
static char *ngx_http_apikey_redis_password(ngx_conf_t *cf,
    ngx_command_t *cmd, ngx_http_apikey_redis_conf_t *redis, ngx_str_t *path);
static char *ngx_http_apikey_redis_prefix(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_http_apikey_redis_conf_t *redis, ngx_str_t *prefix);
static ngx_int_t ngx_http_apikey_redis_is_url(ngx_str_t *value);


char *
ngx_http_apikey_conf_redis(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_apikey_main_conf_t *amcf = conf;

    char                          *rv;
    ngx_str_t                     *value;
    ngx_uint_t                     i;
    ngx_http_apikey_redis_conf_t  *redis;

    if (amcf->redis) {
        return "is duplicate";
    }

    redis = ngx_pcalloc(cf->pool, sizeof(ngx_http_apikey_redis_conf_t));
    if (redis == NULL) {
        return NGX_CONF_ERROR;
    }

    amcf->redis = redis;
    redis->timeout = NGX_CONF_UNSET_MSEC;

    value = cf->args->elts;

    rv = ngx_http_apikey_redis_url(cf, cmd, redis, &value[1]);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_http_apikey_redis_is_url(&value[i])) {
            return "takes one URL";
        }

        rv = ngx_http_apikey_redis_param(cf, cmd, redis, &value[i]);
        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    ngx_conf_init_msec_value(redis->timeout, 50);

    if (redis->prefix.len == 0) {
        ngx_str_set(&redis->prefix, "apikey");
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_apikey_redis_param(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_http_apikey_redis_conf_t *redis, ngx_str_t *value)
{
    ngx_str_t  rest;

    if (ngx_http_apikey_conf_param(value, "timeout", &rest)) {

        if (redis->timeout != NGX_CONF_UNSET_MSEC) {
            return "has a duplicate \"timeout\"";
        }

        redis->timeout = ngx_parse_time(&rest, 0);

        if (redis->timeout == (ngx_msec_t) NGX_ERROR || redis->timeout == 0) {
            return ngx_http_apikey_conf_refuse(cf, cmd, "invalid time", &rest);
        }

        return NGX_CONF_OK;
    }

    if (ngx_http_apikey_conf_param(value, "prefix", &rest)) {
        return ngx_http_apikey_redis_prefix(cf, cmd, redis, &rest);
    }

    if (ngx_http_apikey_conf_param(value, "password_file", &rest)) {
        return ngx_http_apikey_redis_password(cf, cmd, redis, &rest);
    }

    return ngx_http_apikey_conf_refuse(cf, cmd, "unknown parameter", value);
}


static char *
ngx_http_apikey_redis_url(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_http_apikey_redis_conf_t *redis, ngx_str_t *value)
{
    char       *rv;
    ngx_str_t   url;

    if (ngx_strncmp(value->data, "rediss://", 9) == 0) {
        return "cannot speak TLS yet: write \"redis://\" or \"unix:\", or "
               "put a TLS tunnel in between";
    }

    if (!ngx_http_apikey_redis_is_url(value)) {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                              "a \"redis://\" or \"unix:\" URL is needed, not",
                              value);
    }

    url = *value;

    if (url.data[0] == 'u') {
        rv = ngx_http_apikey_redis_database(redis, &url, 1);

    } else {
        url.data += sizeof("redis://") - 1;
        url.len -= sizeof("redis://") - 1;

        rv = ngx_http_apikey_redis_credential(cf, redis, &url);

        if (rv == NGX_CONF_OK) {
            rv = ngx_http_apikey_redis_database(redis, &url, 0);
        }
    }

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    return ngx_http_apikey_redis_resolve(cf, cmd, redis, &url);
}


static ngx_int_t
ngx_http_apikey_redis_is_url(ngx_str_t *value)
{
    return ngx_strncmp(value->data, "redis://", 8) == 0
           || ngx_strncmp(value->data, "rediss://", 9) == 0
           || ngx_strncmp(value->data, "unix:", 5) == 0;
}


/* [user][:password]@, percent-encoded */

static char *
ngx_http_apikey_redis_credential(ngx_conf_t *cf,
    ngx_http_apikey_redis_conf_t *redis, ngx_str_t *url)
{
    u_char  *p, *at, *colon, *dst, *src;

    at = NULL;

    for (p = url->data; p < url->data + url->len; p++) {
        if (*p == '@') {
            at = p;
        }
    }

    if (at == NULL) {
        return NGX_CONF_OK;
    }

    colon = ngx_strlchr(url->data, at, ':');

    p = ngx_pnalloc(cf->pool, at - url->data);
    if (p == NULL) {
        return NGX_CONF_ERROR;
    }

    src = url->data;
    dst = p;
    ngx_unescape_uri(&dst, &src, (colon ? colon : at) - src, 0);

    redis->user.data = p;
    redis->user.len = dst - p;

    if (colon) {
        p = dst;
        src = colon + 1;
        ngx_unescape_uri(&dst, &src, at - src, 0);

        redis->password.data = p;
        redis->password.len = dst - p;
    }

    if (redis->password.len == 0 && colon) {
        return "has an empty password";
    }

    url->len -= at + 1 - url->data;
    url->data = at + 1;

    return NGX_CONF_OK;
}


/* redis://host/DB, unix:/path?db=DB */

static char *
ngx_http_apikey_redis_database(ngx_http_apikey_redis_conf_t *redis,
    ngx_str_t *url, ngx_uint_t unix_path)
{
    u_char     *p, *last;
    ngx_int_t   n;

    last = url->data + url->len;
    p = ngx_strlchr(url->data, last, unix_path ? '?' : '/');

    if (p == NULL) {
        return NGX_CONF_OK;
    }

    url->len = p - url->data;
    p++;

    if (unix_path) {

        if (last - p < 3 || ngx_strncmp(p, "db=", 3) != 0) {
            return "has an invalid URL: unix:PATH?db=NUMBER is its form";
        }

        p += 3;

    } else if (p == last) {
        return NGX_CONF_OK;
    }

    n = ngx_atoi(p, last - p);

    if (n == NGX_ERROR) {
        return "has an invalid database number in its URL";
    }

    redis->database = n;

    return NGX_CONF_OK;
}


static char *
ngx_http_apikey_redis_resolve(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_http_apikey_redis_conf_t *redis, ngx_str_t *url)
{
    ngx_url_t  u;

    ngx_memzero(&u, sizeof(ngx_url_t));

    u.url = *url;
    u.default_port = 6379;
    u.no_resolve = 1;

    if (ngx_parse_url(cf->pool, &u) != NGX_OK || u.uri.len) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\": %s in \"%V\"",
                           &cmd->name, u.err ? u.err : "invalid URL", url);
        return NGX_CONF_ERROR;
    }

    redis->name = *url;

    if (u.naddrs == 0) {

        /* a name server that is down now must not keep nginx from starting */

        u.no_resolve = 0;
        u.err = NULL;

        if (ngx_inet_resolve_host(cf->pool, &u) != NGX_OK) {
            ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                               "\"%V\": %s in \"%V\": Redis counts as down "
                               "until nginx is reloaded", &cmd->name,
                               u.err ? u.err : "host not found", url);
            return NGX_CONF_OK;
        }
    }

    redis->addrs = u.addrs;
    redis->naddrs = u.naddrs;

    return NGX_CONF_OK;
}


static char *
ngx_http_apikey_redis_password(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_http_apikey_redis_conf_t *redis, ngx_str_t *path)
{
    ngx_str_t  text;

    if (redis->password.data) {
        return "has two passwords";
    }

    if (ngx_http_apikey_conf_read(cf, cmd, path, &text) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    while (text.len
           && (text.data[text.len - 1] == LF || text.data[text.len - 1] == CR))
    {
        text.len--;
    }

    if (text.len == 0) {
        return ngx_http_apikey_conf_refuse(cf, cmd, "no password in", path);
    }

    redis->password = text;

    return NGX_CONF_OK;
}


/* Part of every Redis key: no braces, they would move its hash tag. */

static char *
ngx_http_apikey_redis_prefix(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_http_apikey_redis_conf_t *redis, ngx_str_t *prefix)
{
    u_char  ch;
    size_t  i;

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
        return ngx_http_apikey_conf_refuse(cf, cmd, "invalid prefix", prefix);
    }

    redis->prefix = *prefix;

    return NGX_CONF_OK;
}
