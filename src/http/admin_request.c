
/*
 * What an admin request asks besides its path: the query, and all of it as
 * the JSON that apikey.api() gets.  C reads no JSON: the body travels in it
 * as one string.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/digest.h"
#include "http/admin.h"


#define NGX_HTTP_APIKEY_ADMIN_QUERY_MAX  100
#define NGX_HTTP_APIKEY_ADMIN_HEADERS    3
#define NGX_HTTP_APIKEY_ADMIN_ONCE       2       /* Idempotency-Key */


static ngx_int_t ngx_http_apikey_admin_headers_check(
    ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_admin_argument(ngx_http_apikey_admin_t *a,
    u_char *p, u_char *last);
static ngx_int_t ngx_http_apikey_admin_decode(ngx_str_t *text, u_char *p,
    u_char *last);
static size_t ngx_http_apikey_admin_size(ngx_http_apikey_admin_t *a,
    ngx_str_t *headers);
static ngx_int_t ngx_http_apikey_admin_gather(ngx_http_apikey_admin_t *a,
    ngx_str_t *headers);
static ngx_int_t ngx_http_apikey_admin_part(ngx_http_apikey_admin_t *a,
    ngx_str_t *once);
static void ngx_http_apikey_admin_write_path(apikey_json_t *j,
    ngx_http_apikey_admin_t *a);
static void ngx_http_apikey_admin_write_query(apikey_json_t *j,
    ngx_array_t *query);
static void ngx_http_apikey_admin_write_secret(apikey_json_t *j,
    ngx_http_apikey_admin_t *a);
static void ngx_http_apikey_admin_write_live(apikey_json_t *j,
    ngx_http_apikey_admin_t *a);
static void ngx_http_apikey_admin_write(apikey_json_t *j, const char *name,
    ngx_str_t *text);


static const struct {
    const char  *name;
    const char  *member;
} ngx_http_apikey_admin_headers[NGX_HTTP_APIKEY_ADMIN_HEADERS] = {
    { "Content-Type", "content_type" },
    { "If-Match", "if_match" },
    { "Idempotency-Key", "idempotency_key" }
};


ngx_int_t
ngx_http_apikey_admin_query(ngx_http_apikey_admin_t *a)
{
    u_char              *p, *next, *last;
    ngx_int_t            rc;
    ngx_http_request_t  *r;

    r = a->request;

    rc = ngx_http_apikey_admin_headers_check(a);

    if (rc != NGX_OK) {
        return rc;
    }

    a->query = ngx_array_create(r->pool, 4, sizeof(ngx_keyval_t));
    if (a->query == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    p = r->args.data;
    last = p + r->args.len;

    while (p < last) {
        next = ngx_strlchr(p, last, '&');

        if (next == NULL) {
            next = last;
        }

        if (next != p) {
            rc = ngx_http_apikey_admin_argument(a, p, next);

            if (rc != NGX_OK) {
                return rc;
            }
        }

        p = next + 1;
    }

    return NGX_DECLINED;
}


/* Two would leave open which one counts. */

static ngx_int_t
ngx_http_apikey_admin_headers_check(ngx_http_apikey_admin_t *a)
{
    ngx_str_t                       value;
    ngx_uint_t                      i, n;
    const char                     *name;
    ngx_http_apikey_admin_error_t   error;

    for (i = 0; i < NGX_HTTP_APIKEY_ADMIN_HEADERS; i++) {
        name = ngx_http_apikey_admin_headers[i].name;

        n = ngx_http_apikey_admin_header(a->request, name, &value);

        if (n <= 1 && apikey_json_check((char *) value.data, value.len)) {
            continue;
        }

        error.location.len = sizeof("header:") - 1 + ngx_strlen(name);
        error.location.data = ngx_pnalloc(a->request->pool,
                                          error.location.len + 1);
        if (error.location.data == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        ngx_sprintf(error.location.data, "header:%s", name);
        error.code = (n > 1) ? "duplicate" : "bad_value";
        error.message = (n > 1) ? "send it once" : "this is not UTF-8 text";

        return ngx_http_apikey_admin_problem(a,
                                     NGX_HTTP_APIKEY_PROBLEM_INVALID_REQUEST,
                                     "A header is wrong.", &error);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_admin_argument(ngx_http_apikey_admin_t *a, u_char *p,
    u_char *last)
{
    u_char                         *value;
    ngx_keyval_t                   *kv;
    ngx_http_apikey_admin_error_t   error;

    if (a->query->nelts == NGX_HTTP_APIKEY_ADMIN_QUERY_MAX) {
        return ngx_http_apikey_admin_wrong(a,
                                           "The query has more than 100 "
                                           "members.", "query:", "too_many",
                                           "at most 100 parameters");
    }

    kv = ngx_array_push(a->query);
    if (kv == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    value = ngx_strlchr(p, last, '=');

    if (value == NULL) {
        value = last;
    }

    /* decoding never makes it longer; both end with NUL */

    kv->key.data = ngx_pnalloc(a->request->pool, last - p + 2);
    if (kv->key.data == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    kv->value.data = kv->key.data + (value - p) + 1;

    if (ngx_http_apikey_admin_decode(&kv->key, p, value) == NGX_OK
        && ngx_http_apikey_admin_decode(&kv->value, ngx_min(value + 1, last),
                                        last)
           == NGX_OK)
    {
        return NGX_OK;
    }

    error.location.len = sizeof("query:") - 1 + (value - p);
    error.location.data = ngx_pnalloc(a->request->pool, error.location.len);
    if (error.location.data == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_sprintf(error.location.data, "query:%*s", (size_t) (value - p), p);
    error.code = "bad_value";
    error.message = "this is not UTF-8 text";

    return ngx_http_apikey_admin_problem(a,
                                     NGX_HTTP_APIKEY_PROBLEM_INVALID_REQUEST,
                                     "The query is not UTF-8 text.", &error);
}


/* As forms are encoded; a '%' that begins nothing stands for itself. */

static ngx_int_t
ngx_http_apikey_admin_decode(ngx_str_t *text, u_char *p, u_char *last)
{
    u_char     c, *d;
    ngx_int_t  escaped;

    d = text->data;

    while (p < last) {
        escaped = ngx_http_apikey_admin_unescape(&p, last, &c);
        *d++ = (c == '+' && !escaped) ? ' ' : c;
    }

    *d = '\0';
    text->len = d - text->data;

    return apikey_json_check((char *) text->data, text->len) ? NGX_OK
                                                             : NGX_DECLINED;
}


/* NGX_OK, or the end of the request. */

ngx_int_t
ngx_http_apikey_admin_no_query(ngx_http_apikey_admin_t *a)
{
    u_char                         *p;
    ngx_uint_t                      i, n;
    ngx_keyval_t                   *kv;
    ngx_http_apikey_admin_error_t  *error;

    kv = a->query->elts;
    n = a->query->nelts;

    if (n == 0) {
        return NGX_OK;
    }

    error = ngx_palloc(a->request->pool,
                       n * sizeof(ngx_http_apikey_admin_error_t));
    if (error == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    for (i = 0; i < n; i++) {
        p = ngx_pnalloc(a->request->pool, sizeof("query:") + kv[i].key.len);
        if (p == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        error[i].location.data = p;
        error[i].location.len = ngx_sprintf(p, "query:%V", &kv[i].key) - p;
        error[i].code = "unknown";
        error[i].message = "there is no such parameter";
    }

    return ngx_http_apikey_admin_problems(a,
                                     NGX_HTTP_APIKEY_PROBLEM_INVALID_REQUEST,
                                     "This path takes no query.", error, n);
}


/* values[2] as apikey.api() in the schema knows it. */

ngx_int_t
ngx_http_apikey_admin_request(ngx_http_apikey_admin_t *a)
{
    char           *buf;
    size_t          size;
    ngx_str_t       headers[NGX_HTTP_APIKEY_ADMIN_HEADERS];
    ngx_uint_t      i;
    apikey_json_t   j;

    if (ngx_http_apikey_admin_gather(a, headers) != NGX_OK) {
        return NGX_ERROR;
    }

    size = ngx_http_apikey_admin_size(a, headers);

    buf = ngx_pnalloc(a->pool, size + 1);
    if (buf == NULL) {
        return NGX_ERROR;
    }

    apikey_json_init(&j, buf, size);
    apikey_json_object(&j);

    apikey_json_name(&j, "request_id");
    apikey_json_uuid(&j, a->id);

    ngx_http_apikey_admin_write(&j, "node", &a->amcf->node_name);
    ngx_http_apikey_admin_write(&j, "base", &a->alcf->admin_base);
    ngx_http_apikey_admin_write(&j, "method", &a->request->method_name);

    ngx_http_apikey_admin_write_path(&j, a);
    ngx_http_apikey_admin_write_query(&j, a->query);
    ngx_http_apikey_admin_write(&j, "body", &a->body);

    for (i = 0; i < NGX_HTTP_APIKEY_ADMIN_HEADERS; i++) {
        ngx_http_apikey_admin_write(&j,
                                    ngx_http_apikey_admin_headers[i].member,
                                    &headers[i]);
    }

    ngx_http_apikey_admin_write(&j, "key_prefix", &a->amcf->key_prefix);

    apikey_json_name(&j, "compat");
    apikey_json_bool(&j, a->alcf->admin_conf->compat);

    ngx_http_apikey_admin_write_secret(&j, a);
    ngx_http_apikey_admin_write_live(&j, a);

    apikey_json_object_end(&j);

    if (j.overflow) {
        ngx_log_error(NGX_LOG_ALERT, a->request->connection->log, 0,
                      "apikey_admin request does not fit its buffer");
        return NGX_ERROR;
    }

    buf[apikey_json_len(&j)] = '\0';
    a->values[2] = buf;

    return NGX_OK;
}


/* Enough for all of it; what is not long already counts with its worst. */

static size_t
ngx_http_apikey_admin_size(ngx_http_apikey_admin_t *a, ngx_str_t *headers)
{
    size_t         size;
    ngx_uint_t     i;
    ngx_keyval_t  *kv;

    size = 1024 + a->live.len
           + apikey_json_escape(NULL, 0, (char *) a->body.data, a->body.len);

    size += 6 * (a->amcf->node_name.len + a->alcf->admin_base.len
                 + a->request->method_name.len + a->amcf->key_prefix.len);

    for (i = 0; i < a->nparams; i++) {
        size += 32 + 6 * a->param[i].len;
    }

    for (i = 0; i < NGX_HTTP_APIKEY_ADMIN_HEADERS; i++) {
        size += 6 * headers[i].len;
    }

    kv = a->query->elts;

    for (i = 0; i < a->query->nelts; i++) {
        size += 16 + 6 * (kv[i].key.len + kv[i].value.len);
    }

    return size;
}


static ngx_int_t
ngx_http_apikey_admin_gather(ngx_http_apikey_admin_t *a, ngx_str_t *headers)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_APIKEY_ADMIN_HEADERS; i++) {
        (void) ngx_http_apikey_admin_header(a->request,
                                        ngx_http_apikey_admin_headers[i].name,
                                        &headers[i]);
    }

    /* answers are kept for their caller: nobody has none */

    if (a->route->open) {
        ngx_str_null(&headers[NGX_HTTP_APIKEY_ADMIN_ONCE]);
    }

    if (a->part == 0) {
        return NGX_OK;
    }

    return ngx_http_apikey_admin_part(a, &headers[NGX_HTTP_APIKEY_ADMIN_ONCE]);
}


/* Each of several calls is kept under a key of its own. */

static ngx_int_t
ngx_http_apikey_admin_part(ngx_http_apikey_admin_t *a, ngx_str_t *once)
{
    u_char  *p, digest[APIKEY_DIGEST_LEN];

    /* one of a wrong length is apikey.api()'s to refuse */

    if (once->len == 0 || once->len > 255) {
        return NGX_OK;
    }

    p = ngx_pnalloc(a->pool, 2 * APIKEY_DIGEST_LEN + 1 + NGX_INT_T_LEN);

    if (p == NULL || !apikey_sha256(once->data, once->len, digest)) {
        return NGX_ERROR;
    }

    once->data = p;
    p = ngx_hex_dump(p, digest, APIKEY_DIGEST_LEN);
    once->len = ngx_sprintf(p, "#%ui", a->part) - once->data;

    return NGX_OK;
}


static void
ngx_http_apikey_admin_write_path(apikey_json_t *j, ngx_http_apikey_admin_t *a)
{
    ngx_uint_t  i;

    apikey_json_name(j, "path");
    apikey_json_object(j);

    for (i = 0; i < a->nparams; i++) {
        ngx_http_apikey_admin_write(j, a->param_name[i], &a->param[i]);
    }

    apikey_json_object_end(j);
}


/* {"name": ["first", "second"], ...} */

static void
ngx_http_apikey_admin_write_query(apikey_json_t *j, ngx_array_t *query)
{
    ngx_uint_t     i, k;
    ngx_keyval_t  *kv;

    apikey_json_name(j, "query");
    apikey_json_object(j);

    kv = query->elts;

    for (i = 0; i < query->nelts; i++) {

        for (k = 0; k < i; k++) {
            if (ngx_strcmp(kv[k].key.data, kv[i].key.data) == 0) {
                break;
            }
        }

        if (k < i) {
            continue;
        }

        apikey_json_name(j, (char *) kv[i].key.data);
        apikey_json_array(j);

        for (k = i; k < query->nelts; k++) {
            if (ngx_strcmp(kv[k].key.data, kv[i].key.data) == 0) {
                apikey_json_string(j, (char *) kv[k].value.data,
                                   kv[k].value.len);
            }
        }

        apikey_json_array_end(j);
    }

    apikey_json_object_end(j);
}


static void
ngx_http_apikey_admin_write_secret(apikey_json_t *j,
    ngx_http_apikey_admin_t *a)
{
    u_char     hex[2 * APIKEY_DIGEST_LEN];
    u_char     digest[APIKEY_DIGEST_LEN];
    ngx_str_t  text;

    apikey_json_name(j, "secret");

    if (a->secret_len == 0
        || !apikey_sha256(a->secret, a->secret_len, digest))
    {
        apikey_json_null(j);
        return;
    }

    apikey_json_object(j);

    apikey_json_name(j, "id");
    apikey_json_uuid(j, a->secret_id);

    ngx_hex_dump(hex, digest, APIKEY_DIGEST_LEN);
    text.data = hex;
    text.len = 2 * APIKEY_DIGEST_LEN;
    ngx_http_apikey_admin_write(j, "digest", &text);

    /* prefix, '_', and four more */

    text.data = a->secret;
    text.len = a->secret_len - APIKEY_KEY_TAIL + 4;
    ngx_http_apikey_admin_write(j, "start", &text);

    text.data = a->secret + a->secret_len - 4;
    text.len = 4;
    ngx_http_apikey_admin_write(j, "last4", &text);

    apikey_json_object_end(j);
}


static void
ngx_http_apikey_admin_write_live(apikey_json_t *j, ngx_http_apikey_admin_t *a)
{
    if (a->live.len) {
        apikey_json_name(j, "live");
        apikey_json_raw(j, (char *) a->live.data, a->live.len);
    }
}


static void
ngx_http_apikey_admin_write(apikey_json_t *j, const char *name,
    ngx_str_t *text)
{
    apikey_json_name(j, name);

    if (text->data == NULL) {
        apikey_json_null(j);
        return;
    }

    apikey_json_string(j, (char *) text->data, text->len);
}
