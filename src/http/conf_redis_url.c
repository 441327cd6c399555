
/*
 * apikey_redis: its URLs.  Names are resolved here, in the master process;
 * all URLs have the same user, password, database, and TLS or none.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/conf_redis.h"
#include "http/http.h"


static char *ngx_http_apikey_redis_url(ngx_http_apikey_redis_ctx_t *ctx,
    ngx_str_t value, ngx_http_apikey_redis_server_t *server);
static char *ngx_http_apikey_redis_credential(
    ngx_http_apikey_redis_ctx_t *ctx, ngx_str_t *url);
static ngx_int_t ngx_http_apikey_redis_plain(ngx_conf_t *cf, ngx_str_t *out,
    u_char *p, u_char *last);
static ngx_uint_t ngx_http_apikey_redis_differ(ngx_str_t *a, ngx_str_t *b);
static char *ngx_http_apikey_redis_database(ngx_http_apikey_redis_ctx_t *ctx,
    ngx_str_t *url, ngx_uint_t unix_path);
static char *ngx_http_apikey_redis_resolve(ngx_http_apikey_redis_ctx_t *ctx,
    ngx_str_t *url, ngx_http_apikey_redis_server_t *server);
static ngx_int_t ngx_http_apikey_redis_host(ngx_conf_t *cf, ngx_url_t *u,
    ngx_http_apikey_redis_server_t *server);
static char *ngx_http_apikey_redis_name(ngx_http_apikey_redis_ctx_t *ctx);


char *
ngx_http_apikey_conf_redis_urls(ngx_http_apikey_redis_ctx_t *ctx)
{
    char                          *rv;
    ngx_str_t                     *url;
    ngx_uint_t                     i;
    ngx_http_apikey_redis_conf_t  *redis;

    redis = ctx->redis;
    url = ctx->urls.elts;

    redis->nservers = ctx->urls.nelts;
    redis->servers = ngx_pcalloc(ctx->cf->pool, redis->nservers
                                 * sizeof(ngx_http_apikey_redis_server_t));

    if (redis->servers == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 0; i < redis->nservers; i++) {
        rv = ngx_http_apikey_redis_url(ctx, url[i], &redis->servers[i]);

        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    if (redis->user.len && redis->password.len == 0) {
        return "has a user, but no password";
    }

    redis->database = ngx_max(ctx->database, 0);

    if (redis->database
        && redis->topology == NGX_HTTP_APIKEY_REDIS_CLUSTER)
    {
        return "has a database, which a cluster has not";
    }

    return ngx_http_apikey_redis_name(ctx);
}


static char *
ngx_http_apikey_redis_url(ngx_http_apikey_redis_ctx_t *ctx, ngx_str_t value,
    ngx_http_apikey_redis_server_t *server)
{
    char       *rv;
    ngx_int_t   tls;

    tls = (ngx_strncmp(value.data, "rediss://", 9) == 0);

    if (ctx->tls != NGX_CONF_UNSET && ctx->tls != tls) {
        return "has URLs with TLS and without";
    }

    ctx->tls = tls;

    if (value.data[0] == 'u') {

        if (ctx->redis->topology != NGX_HTTP_APIKEY_REDIS_SERVERS) {
            return "has a \"unix:\" URL, which \"cluster\" and \"sentinel\" "
                   "cannot use";
        }

        rv = ngx_http_apikey_redis_database(ctx, &value, 1);

    } else {
        value.data += tls ? 9 : 8;
        value.len -= tls ? 9 : 8;

        rv = ngx_http_apikey_redis_credential(ctx, &value);

        if (rv == NGX_CONF_OK) {
            rv = ngx_http_apikey_redis_database(ctx, &value, 0);
        }
    }

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    return ngx_http_apikey_redis_resolve(ctx, &value, server);
}


ngx_uint_t
ngx_http_apikey_conf_redis_is_url(ngx_str_t *value)
{
    return ngx_strncmp(value->data, "redis://", 8) == 0
           || ngx_strncmp(value->data, "rediss://", 9) == 0
           || ngx_strncmp(value->data, "unix:", 5) == 0;
}


/* [user][:password]@, percent-encoded; the same in each URL that has it */

static char *
ngx_http_apikey_redis_credential(ngx_http_apikey_redis_ctx_t *ctx,
    ngx_str_t *url)
{
    u_char                        *p, *at, *colon;
    ngx_str_t                      user, password;
    ngx_http_apikey_redis_conf_t  *redis;

    redis = ctx->redis;
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

    if (ngx_http_apikey_redis_plain(ctx->cf, &user, url->data,
                                    colon ? colon : at)
        != NGX_OK
        || ngx_http_apikey_redis_plain(ctx->cf, &password,
                                       colon ? colon + 1 : at, at)
           != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (colon && password.len == 0) {
        return "has an empty password";
    }

    if (colon && ctx->from_file) {
        return "has two passwords";
    }

    if ((redis->user.data && ngx_http_apikey_redis_differ(&user, &redis->user))
        || (redis->password.data && colon
            && ngx_http_apikey_redis_differ(&password, &redis->password)))
    {
        return "has URLs of different users";
    }

    redis->user = user;

    if (colon) {
        redis->password = password;
    }

    url->len -= at + 1 - url->data;
    url->data = at + 1;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_apikey_redis_plain(ngx_conf_t *cf, ngx_str_t *out, u_char *p,
    u_char *last)
{
    u_char  *dst;

    out->data = ngx_pnalloc(cf->pool, last - p + 1);
    if (out->data == NULL) {
        return NGX_ERROR;
    }

    dst = out->data;
    ngx_unescape_uri(&dst, &p, last - p, 0);
    out->len = dst - out->data;

    return NGX_OK;
}


static ngx_uint_t
ngx_http_apikey_redis_differ(ngx_str_t *a, ngx_str_t *b)
{
    return a->len != b->len || ngx_memcmp(a->data, b->data, a->len) != 0;
}


static char *
ngx_http_apikey_redis_database(ngx_http_apikey_redis_ctx_t *ctx,
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

    if (ctx->database != NGX_CONF_UNSET && ctx->database != n) {
        return "has URLs of different databases";
    }

    ctx->database = n;

    return NGX_CONF_OK;
}


static char *
ngx_http_apikey_redis_resolve(ngx_http_apikey_redis_ctx_t *ctx,
    ngx_str_t *url, ngx_http_apikey_redis_server_t *server)
{
    ngx_url_t    u;
    ngx_conf_t  *cf;

    cf = ctx->cf;

    ngx_memzero(&u, sizeof(ngx_url_t));

    u.url = *url;
    u.default_port = (ctx->redis->topology == NGX_HTTP_APIKEY_REDIS_SENTINEL)
                     ? 26379 : 6379;
    u.no_resolve = 1;

    if (ngx_parse_url(cf->pool, &u) != NGX_OK || u.uri.len) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\": %s in \"%V\"",
                           &ctx->cmd->name, u.err ? u.err : "invalid URL",
                           url);
        return NGX_CONF_ERROR;
    }

    server->name = *url;

    if (ngx_http_apikey_redis_host(cf, &u, server) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (u.naddrs == 0) {
        server->port = u.port;

        /* a name server that is down now must not keep nginx from starting */

        u.no_resolve = 0;
        u.err = NULL;

        if (ngx_inet_resolve_host(cf->pool, &u) != NGX_OK) {
            ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                               "\"%V\": %s in \"%V\": this Redis is down "
                               "until its name is known", &ctx->cmd->name,
                               u.err ? u.err : "host not found", url);
            return NGX_CONF_OK;
        }
    }

    server->addrs = u.addrs;
    server->naddrs = u.naddrs;

    return NGX_CONF_OK;
}


/* For a certificate: without brackets and port */

static ngx_int_t
ngx_http_apikey_redis_host(ngx_conf_t *cf, ngx_url_t *u,
    ngx_http_apikey_redis_server_t *server)
{
    ngx_str_t  host;

    host = u->host;

    if (host.len > 2 && host.data[0] == '[') {
        host.data++;
        host.len -= 2;
    }

    server->host.data = ngx_pnalloc(cf->pool, host.len + 1);
    if (server->host.data == NULL) {
        return NGX_ERROR;
    }

    server->host.len = host.len;
    *ngx_cpymem(server->host.data, host.data, host.len) = '\0';

    return NGX_OK;
}


/* What logs call all of it */

static char *
ngx_http_apikey_redis_name(ngx_http_apikey_redis_ctx_t *ctx)
{
    size_t                         len;
    u_char                        *p;
    ngx_uint_t                     i;
    ngx_http_apikey_redis_conf_t  *redis;

    redis = ctx->redis;

    if (redis->topology == NGX_HTTP_APIKEY_REDIS_SENTINEL) {
        redis->name = redis->master;
        return NGX_CONF_OK;
    }

    if (redis->nservers == 1) {
        redis->name = redis->servers[0].name;
        return NGX_CONF_OK;
    }

    len = 0;

    for (i = 0; i < redis->nservers; i++) {
        len += redis->servers[i].name.len + 2;
    }

    p = ngx_pnalloc(ctx->cf->pool, len);
    if (p == NULL) {
        return NGX_CONF_ERROR;
    }

    redis->name.data = p;

    for (i = 0; i < redis->nservers; i++) {
        p = ngx_sprintf(p, "%s%V", i ? ", " : "", &redis->servers[i].name);
    }

    redis->name.len = p - redis->name.data;

    return NGX_CONF_OK;
}
