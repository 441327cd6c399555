
/*
 * The body of an admin request: in memory, never on disk, at most
 * admin_max_body long, text.
 *
 * It is read unbuffered, so that what is too long is refused as the API
 * refuses, with a problem, and is not read to its end.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include <openssl/crypto.h>

#include "http/admin.h"


static void ngx_http_apikey_admin_body_ready(ngx_http_request_t *r);
static void ngx_http_apikey_admin_body_event(ngx_http_request_t *r);
static ngx_int_t ngx_http_apikey_admin_body_read(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_admin_body_on_disk(
    ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_admin_body_take(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_admin_body_add(ngx_http_apikey_admin_t *a,
    u_char *data, size_t len);
static ngx_int_t ngx_http_apikey_admin_body_check(
    ngx_http_apikey_admin_t *a);
static ngx_uint_t ngx_http_apikey_admin_body_json(ngx_http_request_t *r);


ngx_int_t
ngx_http_apikey_admin_body(ngx_http_apikey_admin_t *a)
{
    ngx_int_t            rc;
    ngx_http_request_t  *r;

    r = a->request;

    if (a->route->body == NGX_HTTP_APIKEY_BODY_STREAM) {
        return NGX_DECLINED;
    }

    if (!a->reading) {

        if (r->headers_in.content_length_n <= 0 && !r->headers_in.chunked) {
            return NGX_DECLINED;
        }

        rc = ngx_http_apikey_admin_body_start(a, a->alcf->admin_max_body);

        if (rc != NGX_OK) {
            return rc;
        }
    }

    rc = ngx_http_apikey_admin_body_read(a);

    if (rc == NGX_OK) {
        return ngx_http_apikey_admin_body_check(a);
    }

    return rc;
}


ngx_int_t
ngx_http_apikey_admin_body_start(ngx_http_apikey_admin_t *a, off_t max)
{
    ngx_int_t            rc;
    ngx_http_request_t  *r;

    r = a->request;

    if (!a->route->body) {
        return ngx_http_apikey_admin_wrong(a, "This request takes no body.",
                                           "", "unknown",
                                           "there is no body here");
    }

    if (r->headers_in.content_length_n > max) {
        return ngx_http_apikey_admin_too_large(a);
    }

    a->reading = 1;
    r->request_body_no_buffering = 1;
    r->request_body_in_file_only = 0;

    rc = ngx_http_read_client_request_body(r,
                                           ngx_http_apikey_admin_body_ready);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    /* the stages hold a reference of their own */

    r->main->count--;

    return NGX_OK;
}


static void
ngx_http_apikey_admin_body_ready(ngx_http_request_t *r)
{
    /* called before ngx_http_read_client_request_body() returns */
}


static void
ngx_http_apikey_admin_body_event(ngx_http_request_t *r)
{
    ngx_http_apikey_admin_t  *a;

    a = ngx_http_apikey_admin_get(r);

    if (a) {
        ngx_http_apikey_admin_run(a);
    }
}


/* NGX_OK: all of it is there. */

static ngx_int_t
ngx_http_apikey_admin_body_read(ngx_http_apikey_admin_t *a)
{
    ngx_int_t  rc;

    for ( ;; ) {
        rc = ngx_http_apikey_admin_body_next(a);

        if (rc == NGX_DONE) {
            return NGX_OK;
        }

        if (rc != NGX_OK) {
            return rc;
        }

        rc = ngx_http_apikey_admin_body_take(a);

        if (rc != NGX_OK) {
            return rc;
        }
    }
}


ngx_int_t
ngx_http_apikey_admin_body_next(ngx_http_apikey_admin_t *a)
{
    ngx_int_t            rc;
    ngx_http_request_t  *r;

    r = a->request;

    for ( ;; ) {

        /* who has read it before us had other ideas */

        if (r->request_body->temp_file) {
            return ngx_http_apikey_admin_body_on_disk(a);
        }

        if (r->request_body->bufs) {
            return NGX_OK;
        }

        if (!r->reading_body) {
            return NGX_DONE;
        }

        rc = ngx_http_read_unbuffered_request_body(r);

        if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
            return rc;
        }

        if (rc == NGX_AGAIN && r->request_body->bufs == NULL) {
            r->read_event_handler = ngx_http_apikey_admin_body_event;
            return NGX_AGAIN;
        }
    }
}


static ngx_int_t
ngx_http_apikey_admin_body_on_disk(ngx_http_apikey_admin_t *a)
{
    ngx_log_error(NGX_LOG_ERR, a->request->connection->log, 0,
                  "apikey_admin: another module has written the body to a "
                  "file; if it is mirror, set \"mirror_request_body off\"");

    return ngx_http_apikey_admin_problem(a, NGX_HTTP_APIKEY_PROBLEM_INTERNAL,
                                         "The error log says more.", NULL);
}


static ngx_int_t
ngx_http_apikey_admin_body_take(ngx_http_apikey_admin_t *a)
{
    ngx_buf_t            *b;
    ngx_chain_t          *cl, *next;
    ngx_http_request_t   *r;

    r = a->request;

    for (cl = r->request_body->bufs; cl; cl = next) {
        b = cl->buf;
        next = cl->next;

        if (ngx_buf_in_memory(b)) {

            if ((off_t) (a->body.len + (b->last - b->pos))
                > a->alcf->admin_max_body)
            {
                return ngx_http_apikey_admin_too_large(a);
            }

            if (ngx_http_apikey_admin_body_add(a, b->pos, b->last - b->pos)
                != NGX_OK)
            {
                return NGX_HTTP_INTERNAL_SERVER_ERROR;
            }

            if (a->route->body != NGX_HTTP_APIKEY_BODY_JSON) {
                OPENSSL_cleanse(b->pos, b->last - b->pos);
            }

            b->pos = b->last;
        }

        ngx_free_chain(r->pool, cl);
    }

    r->request_body->bufs = NULL;

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_admin_body_add(ngx_http_apikey_admin_t *a, u_char *data,
    size_t len)
{
    off_t    length;
    size_t   size;
    u_char  *p;

    if (a->body.len + len > a->body_size) {
        length = a->request->headers_in.content_length_n;

        size = ngx_max(2 * a->body_size, (size_t) ngx_pagesize);

        if (length > 0) {
            size = (size_t) length;
        }

        size = ngx_max(size, a->body.len + len);

        p = ngx_palloc(a->request->pool, size);
        if (p == NULL) {
            return NGX_ERROR;
        }

        if (a->body.len) {
            ngx_memcpy(p, a->body.data, a->body.len);
            OPENSSL_cleanse(a->body.data, a->body.len);
            ngx_pfree(a->request->pool, a->body.data);
        }

        a->body.data = p;
        a->body_size = size;
    }

    ngx_memcpy(a->body.data + a->body.len, data, len);
    a->body.len += len;

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_admin_body_check(ngx_http_apikey_admin_t *a)
{
    if (a->body.len == 0) {
        ngx_str_null(&a->body);
        return NGX_DECLINED;
    }

    if (a->route->body == NGX_HTTP_APIKEY_BODY_OLDER) {
        ngx_http_apikey_admin_older_forget(a);
    }

    if (!ngx_http_apikey_admin_body_json(a->request)) {
        return ngx_http_apikey_admin_problem(a,
                                     NGX_HTTP_APIKEY_PROBLEM_MEDIA_TYPE,
                                     "Send the body as application/json, "
                                     "without Content-Encoding.", NULL);
    }

    if (!apikey_json_check((char *) a->body.data, a->body.len)) {
        return ngx_http_apikey_admin_wrong(a, "The body is not UTF-8 text.",
                                           "", "bad_value",
                                           "this is not UTF-8 text");
    }

    return NGX_DECLINED;
}


static ngx_uint_t
ngx_http_apikey_admin_body_json(ngx_http_request_t *r)
{
    size_t     len;
    ngx_str_t  type, encoding;

    (void) ngx_http_apikey_admin_header(r, "content-type", &type);
    (void) ngx_http_apikey_admin_header(r, "content-encoding", &encoding);

    if (encoding.len
        && (encoding.len != sizeof("identity") - 1
            || ngx_strncasecmp(encoding.data, (u_char *) "identity",
                               encoding.len)
               != 0))
    {
        return 0;
    }

    len = sizeof("application/json") - 1;

    return type.len >= len
           && ngx_strncasecmp(type.data, (u_char *) "application/json", len)
              == 0
           && (type.len == len || type.data[len] == ';'
               || type.data[len] == ' ');
}


ngx_int_t
ngx_http_apikey_admin_too_large(ngx_http_apikey_admin_t *a)
{
    return ngx_http_apikey_admin_problem(a, NGX_HTTP_APIKEY_PROBLEM_TOO_LARGE,
                                     "The body is longer than this path "
                                     "takes.", NULL);
}
