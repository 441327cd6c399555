
/*
 * Answers of the admin API: what apikey.api() said, or a problem of our own
 * (RFC 9457).  Nothing here is ever cached by anybody.
 *
 * The plaintext of a new key is sent from where it was made and stands in no
 * other buffer of ours.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/admin.h"
#include "http/limits.h"


static ngx_int_t ngx_http_apikey_admin_answer_headers(
    ngx_http_apikey_admin_t *a);
static void ngx_http_apikey_admin_type(ngx_http_request_t *r,
    ngx_str_t *type);
static void ngx_http_apikey_admin_errors(apikey_json_t *j,
    ngx_http_apikey_admin_error_t *error, ngx_uint_t n);
static ngx_int_t ngx_http_apikey_admin_own_headers(
    ngx_http_apikey_admin_t *a, ngx_uint_t status);
static ngx_chain_t *ngx_http_apikey_admin_chain(ngx_http_apikey_admin_t *a,
    ngx_str_t *body, off_t *len);
static ngx_chain_t *ngx_http_apikey_admin_link(ngx_pool_t *pool,
    ngx_chain_t ***last, u_char *start, u_char *end);


/* no text of a client's can look like this member in an answer */

#define NGX_HTTP_APIKEY_ADMIN_MEMBER  "\"key\":\""
#define NGX_HTTP_APIKEY_ADMIN_MARK    "@SECRET@"


static const struct {
    ngx_uint_t   status;
    const char  *code;
    const char  *title;
} ngx_http_apikey_admin_titles[] = {
    { 400, "invalid_request", "Invalid request" },
    { 401, "missing_credential", "Missing credential" },
    { 401, "invalid_credential", "Invalid credential" },
    { 403, "forbidden", "Forbidden" },
    { 404, "not_found", "Not found" },
    { 405, "method_not_allowed", "Method not allowed" },
    { 413, "too_large", "Too large" },
    { 415, "unsupported_media_type", "Unsupported media type" },
    { 429, "rate_limited", "Rate limit reached" },
    { 500, "internal", "Internal error" },
    { 503, "unavailable", "Unavailable" },
    { 503, "schema_outdated", "Schema outdated" }
};


ngx_int_t
ngx_http_apikey_admin_answer(ngx_http_apikey_admin_t *a)
{
    if (ngx_http_apikey_admin_answer_headers(a) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* a key that was changed after the copy let it in */

    if (a->status == NGX_HTTP_UNAUTHORIZED
        && ngx_http_apikey_admin_challenge(a) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_apikey_admin_send(a, a->status,
                                      a->status >= 400
                                      && !ngx_http_apikey_admin_older(a)
                                          ? "application/problem+json"
                                          : "application/json",
                                      &a->answer);
}


/* Lines of "Name: value". */

static ngx_int_t
ngx_http_apikey_admin_answer_headers(ngx_http_apikey_admin_t *a)
{
    u_char     *p, *next, *last, *colon;
    ngx_str_t   value;

    p = a->headers.data;
    last = p + a->headers.len;

    while (p < last) {
        next = ngx_strlchr(p, last, '\n');

        if (next == NULL) {
            next = last;
        }

        colon = ngx_strlchr(p, next, ':');

        if (colon) {
            *colon = '\0';

            for (value.data = colon + 1;
                 value.data < next && *value.data == ' ';
                 value.data++)
            {
                /* void */
            }

            value.len = next - value.data;

            if (ngx_strcmp(p, "Content-Type") == 0) {
                ngx_http_apikey_admin_type(a->request, &value);

            } else if (ngx_http_apikey_admin_add_header(a->request,
                                                        (char *) p, &value)
                       != NGX_OK)
            {
                return NGX_ERROR;
            }
        }

        p = next + 1;
    }

    return NGX_OK;
}


/* content_type_len ends before a charset: nginx adds none of its own. */

static void
ngx_http_apikey_admin_type(ngx_http_request_t *r, ngx_str_t *type)
{
    u_char  *p;

    p = ngx_strlchr(type->data, type->data + type->len, ';');

    r->headers_out.content_type = *type;
    r->headers_out.content_type_len = p ? (size_t) (p - type->data)
                                        : type->len;
    r->headers_out.content_type_lowcase = NULL;
}


/* name and value must live as long as the request. */

ngx_int_t
ngx_http_apikey_admin_add_header(ngx_http_request_t *r, const char *name,
    ngx_str_t *value)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    h->hash = 1;
    ngx_http_apikey_set_next(h);
    h->key.data = (u_char *) name;
    h->key.len = ngx_strlen(name);
    h->value = *value;

    return NGX_OK;
}


/* error NULL: none */

ngx_int_t
ngx_http_apikey_admin_problem(ngx_http_apikey_admin_t *a,
    ngx_http_apikey_problem_e problem, const char *detail,
    ngx_http_apikey_admin_error_t *error)
{
    return ngx_http_apikey_admin_problems(a, problem, detail, error,
                                          error ? 1 : 0);
}


ngx_int_t
ngx_http_apikey_admin_wrong(ngx_http_apikey_admin_t *a, const char *detail,
    const char *location, const char *code, const char *message)
{
    ngx_http_apikey_admin_error_t  error;

    error.location.data = (u_char *) location;
    error.location.len = ngx_strlen(location);
    error.code = code;
    error.message = message;

    return ngx_http_apikey_admin_problem(a,
                                     NGX_HTTP_APIKEY_PROBLEM_INVALID_REQUEST,
                                     detail, &error);
}


ngx_int_t
ngx_http_apikey_admin_problems(ngx_http_apikey_admin_t *a,
    ngx_http_apikey_problem_e problem, const char *detail,
    ngx_http_apikey_admin_error_t *error, ngx_uint_t n)
{
    size_t          size;
    u_char          type[64];
    ngx_str_t       body;
    ngx_uint_t      i, status;
    const char     *code;
    apikey_json_t   j;

    status = ngx_http_apikey_admin_titles[problem].status;
    code = ngx_http_apikey_admin_titles[problem].code;

    if (ngx_http_apikey_admin_older(a)) {
        return ngx_http_apikey_admin_older_problem(a, status, code, detail);
    }

    size = 1024;

    for (i = 0; i < n; i++) {
        size += 512 + 6 * error[i].location.len;
    }

    body.data = ngx_pnalloc(a->request->pool, size);
    if (body.data == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_sprintf(type, "urn:apikey:%s%Z", code);

    apikey_json_init(&j, (char *) body.data, size);
    apikey_json_object(&j);

    apikey_json_name(&j, "type");
    apikey_json_text(&j, (char *) type);
    apikey_json_name(&j, "title");
    apikey_json_text(&j, ngx_http_apikey_admin_titles[problem].title);
    apikey_json_name(&j, "status");
    apikey_json_uint(&j, status);
    apikey_json_name(&j, "code");
    apikey_json_text(&j, code);
    apikey_json_name(&j, "detail");
    apikey_json_text(&j, detail);
    apikey_json_name(&j, "request_id");
    apikey_json_uuid(&j, a->id);

    if (n) {
        ngx_http_apikey_admin_errors(&j, error, n);
    }

    apikey_json_object_end(&j);

    body.len = apikey_json_len(&j);

    return ngx_http_apikey_admin_send(a, status, "application/problem+json",
                                      &body);
}


static void
ngx_http_apikey_admin_errors(apikey_json_t *j,
    ngx_http_apikey_admin_error_t *error, ngx_uint_t n)
{
    ngx_uint_t  i;

    apikey_json_name(j, "errors");
    apikey_json_array(j);

    for (i = 0; i < n; i++) {
        apikey_json_object(j);

        apikey_json_name(j, "location");
        apikey_json_string(j, (char *) error[i].location.data,
                           error[i].location.len);
        apikey_json_name(j, "code");
        apikey_json_text(j, error[i].code);
        apikey_json_name(j, "message");
        apikey_json_text(j, error[i].message);

        apikey_json_object_end(j);
    }

    apikey_json_array_end(j);
}


/* body NULL: none */

ngx_int_t
ngx_http_apikey_admin_send(ngx_http_apikey_admin_t *a, ngx_uint_t status,
    const char *type, ngx_str_t *body)
{
    off_t                len;
    ngx_int_t            rc;
    ngx_chain_t         *out;
    ngx_http_request_t  *r;

    r = a->request;

    if (status == NGX_HTTP_REQUEST_ENTITY_TOO_LARGE) {
        r->expect_tested = 1;
        r->keepalive = 0;
    }

    /* what is left of an unbuffered body is nobody's to discard */

    if (r->reading_body) {
        r->keepalive = 0;
    }

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    if (ngx_http_apikey_admin_own_headers(a, status) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->headers_out.status = status;

    if (body == NULL || body->len == 0) {
        r->header_only = 1;
        r->headers_out.content_length_n = 0;
        a->rc = ngx_http_send_header(r);

        return NGX_ABORT;
    }

    out = ngx_http_apikey_admin_chain(a, body, &len);
    if (out == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->headers_out.content_length_n = len;
    r->headers_out.content_type.data = (u_char *) type;
    r->headers_out.content_type.len = ngx_strlen(type);
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;

    a->rc = ngx_http_send_header(r);

    if (a->rc != NGX_ERROR && a->rc <= NGX_OK && !r->header_only) {
        a->rc = ngx_http_output_filter(r, out);
    }

    return NGX_ABORT;
}


ngx_int_t
ngx_http_apikey_admin_head(ngx_http_apikey_admin_t *a)
{
    ngx_int_t            rc;
    ngx_http_request_t  *r;

    r = a->request;

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    if (ngx_http_apikey_admin_answer_headers(a) != NGX_OK
        || ngx_http_apikey_admin_own_headers(a, NGX_HTTP_OK) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_length_n = -1;

    a->rc = ngx_http_send_header(r);

    if (a->rc == NGX_ERROR || a->rc > NGX_OK || r->header_only) {
        return NGX_ABORT;
    }

    return NGX_OK;
}


/* What every answer has. */

static ngx_int_t
ngx_http_apikey_admin_own_headers(ngx_http_apikey_admin_t *a,
    ngx_uint_t status)
{
    ngx_str_t            value;
    ngx_http_request_t  *r;

    r = a->request;

    value.len = APIKEY_UUID_TEXT_LEN;
    value.data = ngx_pnalloc(r->pool, value.len);
    if (value.data == NULL) {
        return NGX_ERROR;
    }

    apikey_uuid_format((char *) value.data, a->id);

    if (ngx_http_apikey_admin_add_header(r, "X-Request-Id", &value)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_str_set(&value, "no-store");

    if (ngx_http_apikey_admin_add_header(r, "Cache-Control", &value)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (status == NGX_HTTP_SERVICE_UNAVAILABLE) {
        ngx_str_set(&value, "2");

    } else if (status == NGX_HTTP_TOO_MANY_REQUESTS && a->retry_after) {
        value.data = ngx_pnalloc(r->pool, NGX_INT64_LEN);
        if (value.data == NULL) {
            return NGX_ERROR;
        }

        value.len = ngx_sprintf(value.data, "%uL",
                                ngx_http_apikey_seconds(a->retry_after))
                    - value.data;

    } else {
        return NGX_OK;
    }

    return ngx_http_apikey_admin_add_header(r, "Retry-After", &value);
}


/* The body; with a new key in the place that SQL left for it. */

static ngx_chain_t *
ngx_http_apikey_admin_chain(ngx_http_apikey_admin_t *a, ngx_str_t *body,
    off_t *len)
{
    u_char       *p, *mark, *last;
    ngx_pool_t   *pool;
    ngx_chain_t  *out, *cl, **next;

    pool = a->request->pool;
    next = &out;
    out = NULL;

    p = body->data;
    last = p + body->len;
    *len = body->len;

    mark = NULL;

    if (a->secret_len && body == &a->answer) {
        mark = ngx_strlcasestrn(p, last,
                                (u_char *) NGX_HTTP_APIKEY_ADMIN_MEMBER
                                           NGX_HTTP_APIKEY_ADMIN_MARK "\"",
                                sizeof(NGX_HTTP_APIKEY_ADMIN_MEMBER
                                       NGX_HTTP_APIKEY_ADMIN_MARK "\"") - 2);
    }

    if (mark) {
        mark += sizeof(NGX_HTTP_APIKEY_ADMIN_MEMBER) - 1;

        *len += a->secret_len;
        *len -= sizeof(NGX_HTTP_APIKEY_ADMIN_MARK) - 1;

        if (ngx_http_apikey_admin_link(pool, &next, p, mark) == NULL
            || ngx_http_apikey_admin_link(pool, &next, a->secret,
                                          a->secret + a->secret_len)
               == NULL)
        {
            return NULL;
        }

        p = mark + sizeof(NGX_HTTP_APIKEY_ADMIN_MARK) - 1;
    }

    cl = ngx_http_apikey_admin_link(pool, &next, p, last);
    if (cl == NULL) {
        return NULL;
    }

    cl->buf->last_buf = 1;
    cl->buf->last_in_chain = 1;

    return out;
}


/* Adds a buffer to the end of the chain. */

static ngx_chain_t *
ngx_http_apikey_admin_link(ngx_pool_t *pool, ngx_chain_t ***last,
    u_char *start, u_char *end)
{
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    b = ngx_calloc_buf(pool);
    cl = ngx_alloc_chain_link(pool);

    if (b == NULL || cl == NULL) {
        return NULL;
    }

    b->pos = start;
    b->last = end;
    b->memory = 1;

    cl->buf = b;
    cl->next = NULL;

    **last = cl;
    *last = &cl->next;

    return cl;
}
