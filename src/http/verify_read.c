
/*
 * The body of POST api-keys/verify.  It is read here and not in SQL: it holds
 * a key, and without an Idempotency-Key nothing of it needs Postgres.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include <openssl/crypto.h>

#include "base/jsonscan.h"
#include "http/verify.h"


#define NGX_HTTP_APIKEY_VERIFY_TEXT    255
#define NGX_HTTP_APIKEY_VERIFY_SCOPES  1000


typedef struct {
    ngx_http_apikey_verify_t  *verify;
    ngx_array_t               *errors;   /* ngx_http_apikey_admin_error_t */
    ngx_pool_t                *pool;
    ngx_uint_t                 seen;     /* a bit for each member */
} ngx_http_apikey_verify_body_t;


typedef ngx_int_t (*ngx_http_apikey_verify_pt)(
    ngx_http_apikey_verify_body_t *b, apikey_json_walk_t *w);


static ngx_int_t ngx_http_apikey_verify_outside(
    ngx_http_apikey_verify_body_t *b);
static ngx_int_t ngx_http_apikey_verify_header(
    ngx_http_apikey_verify_body_t *b);
static ngx_int_t ngx_http_apikey_verify_members(
    ngx_http_apikey_verify_body_t *b);
static ngx_int_t ngx_http_apikey_verify_unknown(
    ngx_http_apikey_verify_body_t *b, apikey_json_walk_t *w);
static ngx_int_t ngx_http_apikey_verify_key(
    ngx_http_apikey_verify_body_t *b, apikey_json_walk_t *w);
static ngx_int_t ngx_http_apikey_verify_digests(ngx_http_apikey_verify_t *v,
    u_char *key, size_t len);
static ngx_int_t ngx_http_apikey_verify_scopes(
    ngx_http_apikey_verify_body_t *b, apikey_json_walk_t *w);
static ngx_int_t ngx_http_apikey_verify_scope(
    ngx_http_apikey_verify_body_t *b, apikey_json_walk_t *w, ngx_uint_t n);
static ngx_int_t ngx_http_apikey_verify_model(
    ngx_http_apikey_verify_body_t *b, apikey_json_walk_t *w);
static ngx_int_t ngx_http_apikey_verify_service(
    ngx_http_apikey_verify_body_t *b, apikey_json_walk_t *w);
static ngx_int_t ngx_http_apikey_verify_text(
    ngx_http_apikey_verify_body_t *b, apikey_json_walk_t *w, char *location,
    ngx_str_t *text);
static ngx_int_t ngx_http_apikey_verify_weight(
    ngx_http_apikey_verify_body_t *b, apikey_json_walk_t *w);
static ngx_int_t ngx_http_apikey_verify_error(
    ngx_http_apikey_verify_body_t *b, char *location, const char *code,
    const char *message);
static ngx_int_t ngx_http_apikey_verify_error_at(
    ngx_http_apikey_verify_body_t *b, ngx_str_t *location, const char *code,
    const char *message);


static const struct {
    const char                 *name;
    ngx_http_apikey_verify_pt   read;
} ngx_http_apikey_verify_known[] = {
    { "key", ngx_http_apikey_verify_key },
    { "scopes", ngx_http_apikey_verify_scopes },
    { "model", ngx_http_apikey_verify_model },
    { "weight", ngx_http_apikey_verify_weight },
    { "service", ngx_http_apikey_verify_service },
    { NULL, NULL }
};


ngx_int_t
ngx_http_apikey_verify_read(ngx_http_apikey_verify_t *v)
{
    u_char                          detail[NGX_INT_T_LEN
                                           + sizeof(" members are wrong.")];
    ngx_http_apikey_admin_t        *a;
    ngx_http_apikey_verify_body_t   b;

    a = v->admin;

    b.verify = v;
    b.pool = a->request->pool;
    b.seen = 0;

    b.errors = ngx_array_create(b.pool, 4,
                                sizeof(ngx_http_apikey_admin_error_t));

    if (b.errors == NULL
        || ngx_http_apikey_verify_outside(&b) != NGX_OK
        || ngx_http_apikey_verify_members(&b) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (a->body.data) {
        OPENSSL_cleanse(a->body.data, a->body.len);
    }

    if (b.errors->nelts) {
        ngx_sprintf(detail, b.errors->nelts == 1 ? "1 member is wrong.%Z"
                                                 : "%ui members are wrong.%Z",
                    b.errors->nelts);

        return ngx_http_apikey_admin_problems(a,
                                     NGX_HTTP_APIKEY_PROBLEM_INVALID_REQUEST,
                                     (char *) detail, b.errors->elts,
                                     b.errors->nelts);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_verify_outside(ngx_http_apikey_verify_body_t *b)
{
    ngx_str_t                 location;
    ngx_uint_t                i;
    ngx_keyval_t             *kv;
    ngx_http_apikey_admin_t  *a;

    a = b->verify->admin;
    kv = a->query->elts;

    for (i = 0; i < a->query->nelts; i++) {
        location.len = sizeof("query:") - 1 + kv[i].key.len;

        location.data = ngx_pnalloc(b->pool, location.len);
        if (location.data == NULL) {
            return NGX_ERROR;
        }

        ngx_sprintf(location.data, "query:%V", &kv[i].key);

        if (ngx_http_apikey_verify_error_at(b, &location, "unknown",
                                            "there is no such parameter")
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return ngx_http_apikey_verify_header(b);
}


/* As check_request() in the schema has it. */

static ngx_int_t
ngx_http_apikey_verify_header(ngx_http_apikey_verify_body_t *b)
{
    size_t      i, n;
    ngx_str_t   once;

    if (ngx_http_apikey_admin_header(b->verify->admin->request,
                                     "idempotency-key", &once)
        == 0)
    {
        return NGX_OK;
    }

    for (i = 0, n = 0; i < once.len; i++) {
        n += ((once.data[i] & 0xc0) != 0x80);
    }

    if (n == 0 || n > NGX_HTTP_APIKEY_VERIFY_TEXT) {
        return ngx_http_apikey_verify_error(b, "header:Idempotency-Key",
                                            "bad_length",
                                            "1 to 255 characters");
    }

    b->verify->once = 1;

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_verify_members(ngx_http_apikey_verify_body_t *b)
{
    ngx_int_t            rc;
    ngx_str_t           *body;
    ngx_uint_t           i;
    apikey_json_walk_t   w;

    body = &b->verify->admin->body;

    if (body->data == NULL) {
        return ngx_http_apikey_verify_error(b, "", "required",
                                            "the body must be a JSON object");
    }

    if (!apikey_json_walk(&w, (char *) body->data, body->len)
        || w.end[-1] != '}')
    {
        return ngx_http_apikey_verify_error(b, "", "bad_type",
                                            "the body must be a JSON object");
    }

    while (apikey_json_walk_next(&w)) {

        for (i = 0; ngx_http_apikey_verify_known[i].name; i++) {
            if (apikey_json_walk_named(&w,
                                       ngx_http_apikey_verify_known[i].name))
            {
                break;
            }
        }

        if (ngx_http_apikey_verify_known[i].name == NULL) {
            rc = ngx_http_apikey_verify_unknown(b, &w);

        } else if (b->seen & (1 << i)) {
            rc = ngx_http_apikey_verify_error(b, "", "duplicate",
                                              "a member is there twice");

        } else {
            b->seen |= 1 << i;
            rc = ngx_http_apikey_verify_known[i].read(b, &w);
        }

        if (rc != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if ((b->seen & 1) == 0) {
        return ngx_http_apikey_verify_error(b, "/key", "required",
                                            "say which key");
    }

    return NGX_OK;
}


/* The name as a JSON pointer. */

static ngx_int_t
ngx_http_apikey_verify_unknown(ngx_http_apikey_verify_body_t *b,
    apikey_json_walk_t *w)
{
    u_char     *p, *name;
    size_t      i, n;
    ngx_str_t   location;

    name = ngx_pnalloc(b->pool, 3 * (w->name_len + 2) + 1);
    if (name == NULL) {
        return NGX_ERROR;
    }

    n = apikey_json_decode(w->name - 1, w->name_len + 2, (char *) name);

    p = name + w->name_len + 2;
    location.data = p;
    *p++ = '/';

    for (i = 0; i < n; i++) {

        switch (name[i]) {

        case '~':
            *p++ = '~';
            *p++ = '0';
            break;

        case '/':
            *p++ = '~';
            *p++ = '1';
            break;

        default:
            *p++ = name[i];
        }
    }

    location.len = p - location.data;

    return ngx_http_apikey_verify_error_at(b, &location, "unknown",
                                           "there is no such member");
}


static ngx_int_t
ngx_http_apikey_verify_key(ngx_http_apikey_verify_body_t *b,
    apikey_json_walk_t *w)
{
    u_char     *key;
    size_t      len;
    ngx_int_t   rc;

    key = ngx_pnalloc(b->pool, w->value_len);
    if (key == NULL) {
        return NGX_ERROR;
    }

    len = apikey_json_decode(w->value, w->value_len, (char *) key);

    if (len == APIKEY_JSON_NONE) {
        return ngx_http_apikey_verify_error(b, "/key", "bad_type",
                                            "a text is needed");
    }

    rc = ngx_http_apikey_verify_digests(b->verify, key, len);

    OPENSSL_cleanse(key, w->value_len);

    return rc;
}


static ngx_int_t
ngx_http_apikey_verify_digests(ngx_http_apikey_verify_t *v, u_char *key,
    size_t len)
{
    apikey_key_e            form;
    ngx_http_apikey_ctx_t  *ctx;

    ctx = v->ctx;

    if (!apikey_sha256(key, len, v->digest)) {
        return NGX_ERROR;
    }

    if (len < APIKEY_KEY_MIN || len > APIKEY_KEY_MAX) {
        v->impossible = 1;
        return NGX_OK;
    }

    form = apikey_key_check((char *) key, len, v->admin->amcf->macs,
                            ctx->now);

    /* counts where a miss would ask Postgres */

    v->impossible = (form == APIKEY_KEY_BAD_CRC || form == APIKEY_KEY_BAD_MAC);

    ctx->has_last = apikey_key_last_digest((char *) key, len, ctx->last);

    ngx_memcpy(ctx->digest, v->digest, APIKEY_DIGEST_LEN);

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_verify_scopes(ngx_http_apikey_verify_body_t *b,
    apikey_json_walk_t *w)
{
    ngx_uint_t           n;
    apikey_json_walk_t   items;

    if (*w->value == 'n') {
        return NGX_OK;
    }

    if (*w->value != '['
        || !apikey_json_walk(&items, w->value, w->value_len))
    {
        return ngx_http_apikey_verify_error(b, "/scopes", "bad_type",
                                            "an array of text is needed");
    }

    b->verify->scopes = ngx_array_create(b->pool, 4, sizeof(ngx_str_t));
    if (b->verify->scopes == NULL) {
        return NGX_ERROR;
    }

    for (n = 0; apikey_json_walk_next(&items); n++) {

        if (n == NGX_HTTP_APIKEY_VERIFY_SCOPES) {
            return ngx_http_apikey_verify_error(b, "/scopes", "too_many",
                                                "at most 1000 scopes");
        }

        if (ngx_http_apikey_verify_scope(b, &items, n) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_verify_scope(ngx_http_apikey_verify_body_t *b,
    apikey_json_walk_t *w, ngx_uint_t n)
{
    char       *location;
    ngx_str_t  *scope;

    location = ngx_pcalloc(b->pool, sizeof("/scopes/") + NGX_INT_T_LEN);
    scope = ngx_array_push(b->verify->scopes);

    if (location == NULL || scope == NULL) {
        return NGX_ERROR;
    }

    ngx_sprintf((u_char *) location, "/scopes/%ui", n);
    ngx_str_null(scope);

    if (*w->value == 'n') {
        return ngx_http_apikey_verify_error(b, location, "bad_type",
                                            "a text is needed");
    }

    return ngx_http_apikey_verify_text(b, w, location, scope);
}


static ngx_int_t
ngx_http_apikey_verify_model(ngx_http_apikey_verify_body_t *b,
    apikey_json_walk_t *w)
{
    return ngx_http_apikey_verify_text(b, w, "/model", &b->verify->model);
}


static ngx_int_t
ngx_http_apikey_verify_service(ngx_http_apikey_verify_body_t *b,
    apikey_json_walk_t *w)
{
    return ngx_http_apikey_verify_text(b, w, "/service",
                                       &b->verify->service);
}


/* null leaves it empty. */

static ngx_int_t
ngx_http_apikey_verify_text(ngx_http_apikey_verify_body_t *b,
    apikey_json_walk_t *w, char *location, ngx_str_t *text)
{
    if (*w->value == 'n') {
        return NGX_OK;
    }

    text->data = ngx_pnalloc(b->pool, w->value_len);
    if (text->data == NULL) {
        return NGX_ERROR;
    }

    text->len = apikey_json_decode(w->value, w->value_len,
                                   (char *) text->data);

    if (text->len == APIKEY_JSON_NONE) {
        text->len = 0;
        return ngx_http_apikey_verify_error(b, location, "bad_type",
                                            "a text is needed");
    }

    if (text->len == 0 || text->len > NGX_HTTP_APIKEY_VERIFY_TEXT) {
        return ngx_http_apikey_verify_error(b, location, "bad_length",
                                            "1 to 255 bytes");
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_verify_weight(ngx_http_apikey_verify_body_t *b,
    apikey_json_walk_t *w)
{
    off_t   n;
    size_t  i;

    if (*w->value == 'n') {
        return NGX_OK;
    }

    if (*w->value != '-' && (*w->value < '0' || *w->value > '9')) {
        return ngx_http_apikey_verify_error(b, "/weight", "bad_type",
                                            "a number is needed");
    }

    for (i = 0; i < w->value_len; i++) {
        if (w->value[i] < '0' || w->value[i] > '9') {
            return ngx_http_apikey_verify_error(b, "/weight",
                                                *w->value == '-'
                                                    ? "out_of_range"
                                                    : "bad_value",
                                                "a whole number from 0 is "
                                                "needed");
        }
    }

    n = ngx_atoof((u_char *) w->value, w->value_len);

    if (n == NGX_ERROR || n > NGX_HTTP_APIKEY_WEIGHT_MAX) {
        return ngx_http_apikey_verify_error(b, "/weight", "out_of_range",
                                            "0 to 9007199254740991");
    }

    b->verify->ctx->weight = n;

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_verify_error(ngx_http_apikey_verify_body_t *b, char *location,
    const char *code, const char *message)
{
    ngx_str_t  at;

    at.data = (u_char *) location;
    at.len = ngx_strlen(location);

    return ngx_http_apikey_verify_error_at(b, &at, code, message);
}


static ngx_int_t
ngx_http_apikey_verify_error_at(ngx_http_apikey_verify_body_t *b,
    ngx_str_t *location, const char *code, const char *message)
{
    ngx_http_apikey_admin_error_t  *error;

    /* a body of unknown members is not answered at its own length */

    if (b->errors->nelts == 100) {
        return NGX_OK;
    }

    error = ngx_array_push(b->errors);
    if (error == NULL) {
        return NGX_ERROR;
    }

    error->location = *location;
    error->code = code;
    error->message = message;

    return NGX_OK;
}
