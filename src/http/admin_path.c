
/*
 * The path of an admin request, below its location, as decoded segments.
 *
 * r->uri has lost which slashes were written as %2F, and an owner's id may
 * hold some.  So the path is taken from what the client sent, if that is the
 * same path by nginx's rules; one that nginx made itself, by a rewrite or out
 * of dots, is taken from r->uri.  Locations that stand before ours hold in
 * both cases.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/admin.h"


static ngx_int_t ngx_http_apikey_admin_raw_path(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_admin_own_path(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_admin_segment(ngx_http_apikey_admin_t *a,
    u_char *start, u_char *end);
static ngx_uint_t ngx_http_apikey_admin_below(ngx_http_apikey_admin_t *a,
    u_char *uri, size_t len);
static ngx_int_t ngx_http_apikey_admin_digit(u_char c);


/* NGX_OK also where no route can match: then there are no segments. */

ngx_int_t
ngx_http_apikey_admin_path(ngx_http_apikey_admin_t *a)
{
    ngx_int_t   rc;
    ngx_str_t  *segment;
    ngx_uint_t  i;

    rc = a->request->valid_unparsed_uri ? ngx_http_apikey_admin_raw_path(a)
                                        : NGX_DECLINED;

    if (rc == NGX_DECLINED) {
        a->nsegments = 0;
        rc = ngx_http_apikey_admin_own_path(a);
    }

    if (rc == NGX_HTTP_INTERNAL_SERVER_ERROR) {
        return rc;
    }

    if (rc != NGX_OK) {
        a->nsegments = 0;
    }

    for (i = 0; i < a->nsegments; i++) {
        segment = &a->segments[i];

        if (!apikey_json_check((char *) segment->data, segment->len)) {
            return ngx_http_apikey_admin_problem(a,
                                     NGX_HTTP_APIKEY_PROBLEM_INVALID_REQUEST,
                                     "The path is not UTF-8 text.", NULL);
        }
    }

    return NGX_OK;
}


/* NGX_DECLINED: not the path that r->uri says. */

static ngx_int_t
ngx_http_apikey_admin_raw_path(ngx_http_apikey_admin_t *a)
{
    u_char                     c, *p, *last, *uri, *end, *start, *seg;
    ngx_int_t                  escaped;
    ngx_uint_t                 merge;
    ngx_http_request_t        *r;
    ngx_http_core_srv_conf_t  *cscf;

    r = a->request;
    cscf = ngx_http_get_module_srv_conf(r, ngx_http_core_module);
    merge = cscf->merge_slashes;

    /* first the path by nginx's rules, behind it the segments */

    uri = ngx_pnalloc(r->pool, 2 * r->unparsed_uri.len);
    if (uri == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    end = uri;
    seg = uri + r->unparsed_uri.len;
    start = seg;

    p = r->unparsed_uri.data;
    last = p + r->unparsed_uri.len;

    while (p < last && *p != '?' && *p != '#') {

        escaped = ngx_http_apikey_admin_unescape(&p, last, &c);

        if (end - uri < (ssize_t) a->alcf->admin_base.len) {
            start = seg;

        } else if (c != '/' || escaped) {
            *seg++ = c;

        } else if (seg != start || !merge) {

            if (ngx_http_apikey_admin_segment(a, start, seg) != NGX_OK) {
                return NGX_ERROR;
            }

            start = seg;
        }

        if (c != '/' || !merge || end == uri || end[-1] != '/') {
            *end++ = c;
        }
    }

    if (end - uri != (ssize_t) r->uri.len
        || ngx_memcmp(uri, r->uri.data, r->uri.len) != 0
        || !ngx_http_apikey_admin_below(a, uri, end - uri))
    {
        return NGX_DECLINED;
    }

    return ngx_http_apikey_admin_segment(a, start, seg);
}


static ngx_int_t
ngx_http_apikey_admin_own_path(ngx_http_apikey_admin_t *a)
{
    u_char     *p, *next, *last;
    ngx_str_t  *uri;

    uri = &a->request->uri;

    if (!ngx_http_apikey_admin_below(a, uri->data, uri->len)) {
        return NGX_ERROR;
    }

    p = uri->data + a->alcf->admin_base.len;
    last = uri->data + uri->len;

    for ( ;; ) {
        next = ngx_strlchr(p, last, '/');

        if (next == NULL) {
            return ngx_http_apikey_admin_segment(a, p, last);
        }

        if (ngx_http_apikey_admin_segment(a, p, next) != NGX_OK) {
            return NGX_ERROR;
        }

        p = next + 1;
    }
}


static ngx_int_t
ngx_http_apikey_admin_segment(ngx_http_apikey_admin_t *a, u_char *start,
    u_char *end)
{
    if (a->nsegments == NGX_HTTP_APIKEY_ADMIN_SEGMENTS) {
        return NGX_ERROR;
    }

    a->segments[a->nsegments].data = start;
    a->segments[a->nsegments++].len = end - start;

    return NGX_OK;
}


static ngx_uint_t
ngx_http_apikey_admin_below(ngx_http_apikey_admin_t *a, u_char *uri,
    size_t len)
{
    ngx_str_t  *base;

    base = &a->alcf->admin_base;

    return len >= base->len && ngx_memcmp(uri, base->data, base->len) == 0;
}


/* Reads one byte; 1: it was written as %XX. */

ngx_int_t
ngx_http_apikey_admin_unescape(u_char **p, u_char *last, u_char *c)
{
    ngx_int_t  high, low;

    *c = *(*p)++;

    if (*c != '%' || last - *p < 2) {
        return 0;
    }

    high = ngx_http_apikey_admin_digit((*p)[0]);
    low = ngx_http_apikey_admin_digit((*p)[1]);

    if (high < 0 || low < 0) {
        return 0;
    }

    *c = (u_char) (high << 4 | low);
    *p += 2;

    return 1;
}


static ngx_int_t
ngx_http_apikey_admin_digit(u_char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }

    c |= 0x20;

    return (c >= 'a' && c <= 'f') ? c - 'a' + 10 : -1;
}
