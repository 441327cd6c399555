
/*
 * What credential.c (finds) and hide.c (takes out) share: the same eyes, so
 * that nothing is found that cannot be taken out.
 */


#ifndef NGX_HTTP_APIKEY_CREDENTIAL_H_INCLUDED
#define NGX_HTTP_APIKEY_CREDENTIAL_H_INCLUDED


#include "http/http.h"


#define ngx_http_apikey_is_cookie(h)                                          \
    ((h)->key.len == 6 && ngx_memcmp((h)->lowcase_key, "cookie", 6) == 0)


/* What almost all headers end with, without a call. */

#define ngx_http_apikey_header_may_be(h, source)                              \
    ((h)->key.len == (source)->name.len)

ngx_int_t ngx_http_apikey_header_is(ngx_table_elt_t *h,
    ngx_http_apikey_source_t *source, ngx_str_t *value);

u_char *ngx_http_apikey_query_next(u_char *p, u_char *last, ngx_str_t *name,
    ngx_str_t *value);
ngx_int_t ngx_http_apikey_query_is(ngx_str_t *found, ngx_str_t *name);

u_char *ngx_http_apikey_cookie_next(u_char *p, u_char *last, ngx_str_t *pair,
    ngx_str_t *name, ngx_str_t *value);


#endif /* NGX_HTTP_APIKEY_CREDENTIAL_H_INCLUDED */
