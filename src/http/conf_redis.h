
/*
 * What conf_redis.c (parameters of apikey_redis) and conf_redis_url.c (its
 * URLs) share.  Nobody else includes this.
 */


#ifndef NGX_HTTP_APIKEY_CONF_REDIS_H_INCLUDED
#define NGX_HTTP_APIKEY_CONF_REDIS_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"


typedef struct {
    ngx_conf_t                    *cf;
    ngx_command_t                 *cmd;
    ngx_http_apikey_redis_conf_t  *redis;
    ngx_array_t                    urls;         /* ngx_str_t */
    ngx_str_t                      ca;
    ngx_str_t                      cert;
    ngx_str_t                      key;
    ngx_int_t                      verify;
    ngx_int_t                      tls;          /* of the URLs; UNSET */
    ngx_int_t                      database;
    unsigned                       from_file:1;  /* the password */
} ngx_http_apikey_redis_ctx_t;


ngx_uint_t ngx_http_apikey_conf_redis_is_url(ngx_str_t *value);

/* When all parameters are known: servers, user, database, name. */
char *ngx_http_apikey_conf_redis_urls(ngx_http_apikey_redis_ctx_t *ctx);


#endif /* NGX_HTTP_APIKEY_CONF_REDIS_H_INCLUDED */
