
/*
 * Where a key stands in a request: headers, bearer, query, cookies.  Finds
 * it, changes nothing (hide.c does).
 *
 * What is found points into the request's header buffer, or, where hiding
 * rewrites that buffer (query, cookie), to a copy in the request's pool.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"
#include "http/credential.h"


static ngx_int_t ngx_http_apikey_credential_header(ngx_http_request_t *r,
    ngx_http_apikey_source_t *source, ngx_str_t *value);
static ngx_int_t ngx_http_apikey_credential_query(ngx_http_request_t *r,
    ngx_str_t *name, ngx_str_t *value);
static ngx_int_t ngx_http_apikey_credential_cookie(ngx_http_request_t *r,
    ngx_str_t *name, ngx_str_t *value);


/* The first place that holds a value decides. */

ngx_int_t
ngx_http_apikey_credential(ngx_http_request_t *r, ngx_array_t *sources,
    ngx_str_t *value)
{
    ngx_int_t                  rc;
    ngx_uint_t                 i;
    ngx_http_apikey_source_t  *source;

    source = sources->elts;

    for (i = 0; i < sources->nelts; i++) {

        switch (source[i].type) {

        case NGX_HTTP_APIKEY_SOURCE_QUERY:
            rc = ngx_http_apikey_credential_query(r, &source[i].name, value);
            break;

        case NGX_HTTP_APIKEY_SOURCE_COOKIE:
            rc = ngx_http_apikey_credential_cookie(r, &source[i].name, value);
            break;

        default:
            rc = ngx_http_apikey_credential_header(r, &source[i], value);
        }

        if (rc != NGX_DECLINED) {
            return rc;
        }
    }

    return NGX_DECLINED;
}


/* NGX_OK: the header is this source's, value is what it holds, or empty. */

ngx_int_t
ngx_http_apikey_header_is(ngx_table_elt_t *h,
    ngx_http_apikey_source_t *source, ngx_str_t *value)
{
    u_char  *p, *last;

    if (h->key.len != source->name.len
        || ngx_memcmp(h->lowcase_key, source->name.data, h->key.len) != 0)
    {
        return NGX_DECLINED;
    }

    if (source->type == NGX_HTTP_APIKEY_SOURCE_HEADER) {
        *value = h->value;

        return NGX_OK;
    }

    p = h->value.data;
    last = p + h->value.len;

    if (h->value.len < sizeof("bearer") - 1
        || ngx_strncasecmp(p, (u_char *) "bearer", sizeof("bearer") - 1) != 0)
    {
        return NGX_DECLINED;
    }

    p += sizeof("bearer") - 1;

    if (p < last && *p != ' ') {
        return NGX_DECLINED;
    }

    while (p < last && *p == ' ') {
        p++;
    }

    value->data = p;
    value->len = last - p;

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_credential_header(ngx_http_request_t *r,
    ngx_http_apikey_source_t *source, ngx_str_t *value)
{
    ngx_str_t         found;
    ngx_int_t         rc;
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    rc = NGX_DECLINED;

    for (part = &r->headers_in.headers.part; part; part = part->next) {

        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (!ngx_http_apikey_header_may_be(&h[i], source)
                || ngx_http_apikey_header_is(&h[i], source, &found) != NGX_OK
                || found.len == 0)
            {
                continue;
            }

            if (rc == NGX_OK) {
                return NGX_ABORT;
            }

            *value = found;
            rc = NGX_OK;
        }
    }

    return rc;
}


/*
 * One argument of a query: name and value as they stand, without decoding.
 * Returns where the next one starts, NULL at the end.
 */

u_char *
ngx_http_apikey_query_next(u_char *p, u_char *last, ngx_str_t *name,
    ngx_str_t *value)
{
    u_char  *end, *eq;

    end = ngx_strlchr(p, last, '&');

    if (end == NULL) {
        end = last;
    }

    eq = ngx_strlchr(p, end, '=');

    name->data = p;
    name->len = (eq ? eq : end) - p;

    value->data = eq ? eq + 1 : end;
    value->len = end - value->data;

    return (end < last) ? end + 1 : NULL;
}


/* What is no escape stands for itself.  dst may be src. */

static size_t
ngx_http_apikey_unescape(u_char *dst, u_char *src, size_t len)
{
    u_char     *p, *last;
    ngx_int_t   n;

    p = dst;
    last = src + len;

    while (src < last) {

        if (*src == '%' && last - src >= 3) {
            n = ngx_hextoi(src + 1, 2);

            if (n != NGX_ERROR) {
                *p++ = (u_char) n;
                src += 3;
                continue;
            }
        }

        *p++ = *src++;
    }

    return p - dst;
}


/* A name may be percent-encoded: the upstream would decode it, too. */

ngx_int_t
ngx_http_apikey_query_is(ngx_str_t *found, ngx_str_t *name)
{
    u_char  buf[128 * 3];

    if (found->len == name->len
        && ngx_memcmp(found->data, name->data, name->len) == 0)
    {
        return 1;
    }

    if (found->len <= name->len || found->len > name->len * 3
        || found->len > sizeof(buf)
        || ngx_strlchr(found->data, found->data + found->len, '%') == NULL)
    {
        return 0;
    }

    return ngx_http_apikey_unescape(buf, found->data, found->len) == name->len
           && ngx_memcmp(buf, name->data, name->len) == 0;
}


static ngx_int_t
ngx_http_apikey_credential_query(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value)
{
    u_char     *p, *last;
    ngx_int_t   rc;
    ngx_str_t   arg, text;

    if (r->args.len == 0) {
        return NGX_DECLINED;
    }

    rc = NGX_DECLINED;
    last = r->args.data + r->args.len;

    for (p = r->args.data; p; /* void */ ) {

        p = ngx_http_apikey_query_next(p, last, &arg, &text);

        if (text.len == 0 || !ngx_http_apikey_query_is(&arg, name)) {
            continue;
        }

        if (rc == NGX_OK) {
            return NGX_ABORT;
        }

        value->data = ngx_pnalloc(r->pool, text.len);
        if (value->data == NULL) {
            return NGX_ERROR;
        }

        value->len = ngx_http_apikey_unescape(value->data, text.data,
                                              text.len);
        rc = NGX_OK;
    }

    return rc;
}


/*
 * One pair of a Cookie header; pair is the whole of it, with its blanks.
 * Returns where the next one starts, NULL at the end.
 */

u_char *
ngx_http_apikey_cookie_next(u_char *p, u_char *last, ngx_str_t *pair,
    ngx_str_t *name, ngx_str_t *value)
{
    u_char  *end, *start, *eq;

    end = ngx_strlchr(p, last, ';');

    if (end == NULL) {
        end = last;
    }

    pair->data = p;
    pair->len = end - p;

    for (start = p; start < end && *start == ' '; start++) { /* void */ }

    eq = ngx_strlchr(start, end, '=');

    name->data = start;
    name->len = (eq ? eq : end) - start;

    while (name->len && name->data[name->len - 1] == ' ') {
        name->len--;
    }

    value->data = eq ? eq + 1 : end;

    while (value->data < end && *value->data == ' ') {
        value->data++;
    }

    value->len = end - value->data;

    while (value->len && value->data[value->len - 1] == ' ') {
        value->len--;
    }

    return (end < last) ? end + 1 : NULL;
}


static ngx_int_t
ngx_http_apikey_credential_cookie(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value)
{
    u_char           *p, *last;
    ngx_int_t         rc;
    ngx_str_t         pair, found, text;
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    rc = NGX_DECLINED;

    for (part = &r->headers_in.headers.part; part; part = part->next) {

        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (!ngx_http_apikey_is_cookie(&h[i])) {
                continue;
            }

            last = h[i].value.data + h[i].value.len;

            for (p = h[i].value.data; p; /* void */ ) {

                p = ngx_http_apikey_cookie_next(p, last, &pair, &found, &text);

                if (text.len == 0 || found.len != name->len
                    || ngx_memcmp(found.data, name->data, name->len) != 0)
                {
                    continue;
                }

                if (rc == NGX_OK) {
                    return NGX_ABORT;
                }

                value->data = ngx_pstrdup(r->pool, &text);
                if (value->data == NULL) {
                    return NGX_ERROR;
                }

                value->len = text.len;
                rc = NGX_OK;
            }
        }
    }

    return rc;
}
