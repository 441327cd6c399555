
/*
 * Takes keys out of a request: out of the headers, the query and the request
 * line, so that neither the upstream nor a log of nginx sees one; and puts
 * our request id in.
 *
 * A header's element never moves (nginx holds pointers to some): the part of
 * the list that holds it is shortened or split.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"
#include "http/credential.h"


static ngx_int_t ngx_http_apikey_hide_headers(ngx_http_request_t *r,
    ngx_http_apikey_source_t *source);
static ngx_int_t ngx_http_apikey_header_remove(ngx_http_request_t *r,
    ngx_list_part_t *prev, ngx_list_part_t *part, ngx_uint_t i);
static void ngx_http_apikey_part_unlink(ngx_list_t *list,
    ngx_list_part_t *prev, ngx_list_part_t *part);
static ngx_int_t ngx_http_apikey_hide_cookies(ngx_http_request_t *r,
    ngx_str_t *name);
static ngx_uint_t ngx_http_apikey_cookie_cut(ngx_table_elt_t *h,
    ngx_str_t *name);
static void ngx_http_apikey_cookie_forget(ngx_http_request_t *r,
    ngx_table_elt_t *h);
static ngx_int_t ngx_http_apikey_hide_query(ngx_http_request_t *r,
    ngx_str_t *name);
static ngx_int_t ngx_http_apikey_query_cut(ngx_http_request_t *r,
    ngx_str_t *query, ngx_str_t *name, size_t room);
static void ngx_http_apikey_request_line_mask(ngx_http_request_t *r,
    ngx_str_t *name);


ngx_int_t
ngx_http_apikey_credential_hide(ngx_http_request_t *r, ngx_array_t *sources)
{
    ngx_int_t                  rc;
    ngx_uint_t                 i;
    ngx_http_apikey_source_t  *source;

    source = sources->elts;

    for (i = 0; i < sources->nelts; i++) {

        switch (source[i].type) {

        case NGX_HTTP_APIKEY_SOURCE_QUERY:
            rc = ngx_http_apikey_hide_query(r, &source[i].name);
            break;

        case NGX_HTTP_APIKEY_SOURCE_COOKIE:
            rc = ngx_http_apikey_hide_cookies(r, &source[i].name);
            break;

        default:
            rc = ngx_http_apikey_hide_headers(r, &source[i]);
        }

        if (rc != NGX_OK) {
            return rc;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_hide_headers(ngx_http_request_t *r,
    ngx_http_apikey_source_t *source)
{
    ngx_str_t         value;
    ngx_uint_t        i;
    ngx_list_part_t  *part, *prev;
    ngx_table_elt_t  *h;

    prev = NULL;

    for (part = &r->headers_in.headers.part; part; part = part->next) {

        for (i = 0; i < part->nelts; /* void */ ) {

            h = (ngx_table_elt_t *) part->elts + i;

            if (!ngx_http_apikey_header_may_be(h, source)
                || ngx_http_apikey_header_is(h, source, &value) != NGX_OK)
            {
                i++;
                continue;
            }

            if (h == r->headers_in.authorization) {
                r->headers_in.authorization = NULL;
            }

            if (ngx_http_apikey_header_remove(r, prev, part, i) != NGX_OK) {
                return NGX_ERROR;
            }
        }

        if (part->nelts || prev == NULL) {
            prev = part;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_header_remove(ngx_http_request_t *r, ngx_list_part_t *prev,
    ngx_list_part_t *part, ngx_uint_t i)
{
    ngx_list_t       *list;
    ngx_list_part_t  *rest;
    ngx_table_elt_t  *h;

    list = &r->headers_in.headers;
    h = part->elts;

    if (i == part->nelts - 1) {
        part->nelts--;

        /* nginx reads the first element of every part but the first */

        if (part->nelts == 0 && prev) {
            ngx_http_apikey_part_unlink(list, prev, part);
        }

        return NGX_OK;
    }

    if (i == 0) {
        part->elts = &h[1];
        part->nelts--;

        if (part == list->last) {
            list->nalloc--;
        }

        return NGX_OK;
    }

    rest = ngx_palloc(r->pool, sizeof(ngx_list_part_t));
    if (rest == NULL) {
        return NGX_ERROR;
    }

    rest->elts = &h[i + 1];
    rest->nelts = part->nelts - i - 1;
    rest->next = part->next;

    part->nelts = i;
    part->next = rest;

    if (part == list->last) {
        list->last = rest;
        list->nalloc -= i + 1;
    }

    return NGX_OK;
}


static void
ngx_http_apikey_part_unlink(ngx_list_t *list, ngx_list_part_t *prev,
    ngx_list_part_t *part)
{
    prev->next = part->next;

    if (part != list->last) {
        return;
    }

    list->last = prev;

    /* a push must not write behind prev's own elements; 0 is no capacity */

    list->nalloc = prev->nelts ? prev->nelts : 1;
}


static ngx_int_t
ngx_http_apikey_hide_cookies(ngx_http_request_t *r, ngx_str_t *name)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part, *prev;
    ngx_table_elt_t  *h;

    prev = NULL;

    for (part = &r->headers_in.headers.part; part; part = part->next) {

        for (i = 0; i < part->nelts; /* void */ ) {

            h = (ngx_table_elt_t *) part->elts + i;

            if (!ngx_http_apikey_is_cookie(h)
                || !ngx_http_apikey_cookie_cut(h, name)
                || h->value.len)
            {
                i++;
                continue;
            }

            ngx_http_apikey_cookie_forget(r, h);

            if (ngx_http_apikey_header_remove(r, prev, part, i) != NGX_OK) {
                return NGX_ERROR;
            }
        }

        if (part->nelts || prev == NULL) {
            prev = part;
        }
    }

    return NGX_OK;
}


/* Shortens the value where it stands; true: something was cut. */

static ngx_uint_t
ngx_http_apikey_cookie_cut(ngx_table_elt_t *h, ngx_str_t *name)
{
    u_char      *p, *last, *dst;
    ngx_str_t    pair, found, text;
    ngx_uint_t   cut, kept;

    cut = 0;
    kept = 0;
    dst = h->value.data;
    last = h->value.data + h->value.len;

    for (p = h->value.data; p; /* void */ ) {

        p = ngx_http_apikey_cookie_next(p, last, &pair, &found, &text);

        if (found.len == name->len
            && ngx_memcmp(found.data, name->data, name->len) == 0)
        {
            cut = 1;
            continue;
        }

        if (kept++) {
            *dst++ = ';';

        } else if (cut) {

            while (pair.len && *pair.data == ' ') {
                pair.data++;
                pair.len--;
            }
        }

        dst = ngx_movemem(dst, pair.data, pair.len);
    }

    if (cut) {
        h->value.len = dst - h->value.data;
        ngx_memset(dst, '\0', last - dst);
    }

    return cut;
}


/* nginx looks cookies up in a list of its own */

static void
ngx_http_apikey_cookie_forget(ngx_http_request_t *r, ngx_table_elt_t *h)
{
#if (nginx_version >= 1023000)

    ngx_table_elt_t  **p;

    for (p = &r->headers_in.cookie; *p; p = &(*p)->next) {
        if (*p == h) {
            *p = h->next;
            return;
        }
    }

#else

    ngx_uint_t         i, n;
    ngx_table_elt_t  **cookies;

    cookies = r->headers_in.cookies.elts;
    n = 0;

    for (i = 0; i < r->headers_in.cookies.nelts; i++) {
        if (cookies[i] != h) {
            cookies[n++] = cookies[i];
        }
    }

    r->headers_in.cookies.nelts = n;

#endif
}


static ngx_int_t
ngx_http_apikey_hide_query(ngx_http_request_t *r, ngx_str_t *name)
{
    u_char     *p, *last;
    size_t      len;
    ngx_int_t   rc;
    ngx_str_t   query;

    ngx_http_apikey_request_line_mask(r, name);

    if (ngx_http_apikey_query_cut(r, &r->args, name, 0) == NGX_ERROR) {
        return NGX_ERROR;
    }

    /* proxy_pass without a URI sends this, and $request_uri is this */

    last = r->unparsed_uri.data + r->unparsed_uri.len;
    p = ngx_strlchr(r->unparsed_uri.data, last, '?');

    if (p == NULL) {
        return NGX_OK;
    }

    len = p - r->unparsed_uri.data;

    query.data = p + 1;
    query.len = last - query.data;

    rc = ngx_http_apikey_query_cut(r, &query, name, len + 1);

    if (rc != NGX_OK) {
        return (rc == NGX_DECLINED) ? NGX_OK : NGX_ERROR;
    }

    /* the room in front of it was asked for */

    p = ngx_cpymem(query.data - len - 1, r->unparsed_uri.data, len);
    *p = '?';

    r->unparsed_uri.data = query.data - len - 1;
    r->unparsed_uri.len = query.len ? len + 1 + query.len : len;

    return NGX_OK;
}


/*
 * query becomes a copy without these arguments, with room bytes in front of
 * it; NGX_DECLINED: there are none and it stays as it is.
 */

static ngx_int_t
ngx_http_apikey_query_cut(ngx_http_request_t *r, ngx_str_t *query,
    ngx_str_t *name, size_t room)
{
    u_char      *p, *last, *buf, *dst, *arg;
    ngx_str_t    found, value;
    ngx_uint_t   cut;

    cut = 0;
    last = query->data + query->len;

    for (p = query->data; p && !cut; /* void */ ) {
        p = ngx_http_apikey_query_next(p, last, &found, &value);
        cut = ngx_http_apikey_query_is(&found, name);
    }

    if (!cut) {
        return NGX_DECLINED;
    }

    buf = ngx_pnalloc(r->pool, room + query->len + 1);
    if (buf == NULL) {
        return NGX_ERROR;
    }

    dst = buf + room;

    for (p = query->data; p; /* void */ ) {

        arg = p;
        p = ngx_http_apikey_query_next(p, last, &found, &value);

        if (ngx_http_apikey_query_is(&found, name)) {
            continue;
        }

        dst = ngx_cpymem(dst, arg, value.data + value.len - arg);
        *dst++ = '&';
    }

    query->data = buf + room;
    query->len = (dst > query->data) ? dst - query->data - 1 : 0;

    return NGX_OK;
}


/* In HTTP/1 args and unparsed_uri lie in the same bytes. */

static void
ngx_http_apikey_request_line_mask(ngx_http_request_t *r, ngx_str_t *name)
{
    u_char     *p, *last, *end;
    ngx_str_t   found, value;

    last = r->request_line.data + r->request_line.len;
    p = ngx_strlchr(r->request_line.data, last, '?');

    if (p == NULL) {
        return;
    }

    p++;

    end = ngx_strlchr(p, last, ' ');

    if (end) {
        last = end;
    }

    while (p) {
        p = ngx_http_apikey_query_next(p, last, &found, &value);

        if (ngx_http_apikey_query_is(&found, name)) {
            ngx_memset(value.data, '*', value.len);
        }
    }
}


/* Takes the place of what the client sent under this name. */

ngx_int_t
ngx_http_apikey_request_id_set(ngx_http_request_t *r, ngx_str_t *id)
{
    ngx_list_t       *list;
    ngx_table_elt_t  *h;

    static ngx_uint_t                hash;
    static ngx_http_apikey_source_t  source = {
        NGX_HTTP_APIKEY_SOURCE_HEADER, ngx_string("x-request-id")
    };

    if (hash == 0) {
        hash = ngx_hash_key(source.name.data, source.name.len);
    }

    if (ngx_http_apikey_hide_headers(r, &source) != NGX_OK) {
        return NGX_ERROR;
    }

    list = &r->headers_in.headers;

    /* HTTP/0.9 has no headers, and no list of them */

    if (list->last == NULL
        && ngx_list_init(list, r->pool, 1, sizeof(ngx_table_elt_t)) != NGX_OK)
    {
        return NGX_ERROR;
    }

    h = ngx_list_push(list);
    if (h == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(h, sizeof(ngx_table_elt_t));

    ngx_str_set(&h->key, "X-Request-Id");
    h->lowcase_key = source.name.data;
    h->hash = hash;
    h->value = *id;

    return NGX_OK;
}
