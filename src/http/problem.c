
/*
 * The answer to a refused request: problem+json (RFC 9457), a trailers-only
 * answer for gRPC, or just a status where an error_page is configured.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/json.h"
#include "http/http.h"
#include "http/limits.h"


#define NGX_HTTP_APIKEY_PROBLEM_MAX  2048


typedef struct {
    uint16_t     status;
    uint8_t      grpc;
    const char  *title;
    const char  *detail;
} ngx_http_apikey_problem_t;


static ngx_int_t ngx_http_apikey_problem_headers(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_challenge(ngx_http_request_t *r,
    const char *scheme, ngx_str_t *realm);
static ngx_uint_t ngx_http_apikey_problem_leave(ngx_http_request_t *r,
    ngx_uint_t status);
static ngx_uint_t ngx_http_apikey_problem_is_grpc(ngx_http_request_t *r);
static ngx_int_t ngx_http_apikey_problem_grpc(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_uint_t ngx_http_apikey_problem_code(ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_problem_json(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_str_t *text);
static ngx_int_t ngx_http_apikey_problem_limit(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, apikey_json_t *j);
static void ngx_http_apikey_problem_amounts(ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_bucket_t *b, apikey_json_t *j);
static size_t ngx_http_apikey_problem_detail(ngx_http_apikey_ctx_t *ctx,
    u_char *buf, size_t size);


static const ngx_http_apikey_problem_t  ngx_http_apikey_problems[] = {

    { 200, 0, "", "" },                                        /* ok */
    { 200, 0, "", "" },                                        /* anonymous */
    { 401, 16, "API key missing", "This API needs a key." },
    { 401, 16, "Several API keys",
      "The request holds more than one key in the same place." },
    { 401, 16, "Invalid API key", "The key is not known." },
    { 401, 16, "Invalid API key", "The key is not known." },   /* revoked */
    { 401, 16, "API key expired", "The key has expired." },
    { 401, 16, "API key disabled", "The key is disabled." },
    { 403, 7, "Scope missing",
      "The key does not hold a scope that this needs." },
    { 403, 7, "Model not allowed", "The key may not use this model." },
    { 403, 7, "Address not allowed",
      "The key may not be used from this address." },
    { 429, 8, "Rate limit reached", "A limit is reached." },
    { 429, 8, "Quota used up", "A quota is used up." },
    { 402, 8, "Credits used up", "The credits are used up." },
    { 402, 8, "Budget used up", "The budget is used up." },
    { 503, 14, "Temporarily unavailable",
      "The request cannot be checked now. Try again in 1 second." },
    { 400, 3, "Invalid request",
      "A stream has to tell its usage here: set stream_options.include_usage "
      "to true." }
};


/* what is wrong with an invalid request */

static const char  ngx_http_apikey_problem_errors[] =
    "[{\"location\":\"/stream_options/include_usage\","
    "\"code\":\"required\",\"message\":\"set it to true\"}]";


ngx_uint_t
ngx_http_apikey_verdict_status(apikey_verdict_e verdict)
{
    return ngx_http_apikey_problems[verdict].status;
}


ngx_int_t
ngx_http_apikey_problem(ngx_http_request_t *r, ngx_http_apikey_ctx_t *ctx)
{
    ngx_int_t                 rc;
    ngx_str_t                 text;
    ngx_uint_t                status;
    ngx_http_complex_value_t  cv;

    static ngx_str_t  type = ngx_string("application/problem+json");

    status = ctx->start.status;

    if (status == NGX_HTTP_CLOSE) {
        return NGX_HTTP_CLOSE;
    }

    if (ngx_http_apikey_problem_headers(r, ctx) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ngx_http_apikey_problem_leave(r, status)) {
        return status;
    }

    if (ngx_http_apikey_problem_is_grpc(r)) {
        rc = ngx_http_apikey_problem_grpc(r, ctx);

    } else {

        if (ngx_http_apikey_problem_json(r, ctx, &text) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        ngx_memzero(&cv, sizeof(ngx_http_complex_value_t));
        cv.value = text;

        r->headers_out.content_type_lowcase = NULL;

        rc = ngx_http_send_response(r, status, &type, &cv);
    }

    /* after this the request may be gone */

    ngx_http_finalize_request(r, rc);

    return NGX_DONE;
}


/* nginx answers: an error_page wins, so does another module's 401. */

static ngx_uint_t
ngx_http_apikey_problem_leave(ngx_http_request_t *r, ngx_uint_t status)
{
    ngx_uint_t                 i;
    ngx_http_err_page_t       *page;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (clcf->satisfy == NGX_HTTP_SATISFY_ANY
        && status == NGX_HTTP_FORBIDDEN
        && r->access_code == NGX_HTTP_UNAUTHORIZED)
    {
        return 1;
    }

    if (status == NGX_HTTP_UNAUTHORIZED && clcf->auth_delay) {
        return 1;
    }

    if (clcf->error_pages == NULL || r->error_page || r->uri_changes == 0) {
        return 0;
    }

    page = clcf->error_pages->elts;

    for (i = 0; i < clcf->error_pages->nelts; i++) {
        if ((ngx_uint_t) page[i].status == status) {
            return 1;
        }
    }

    return 0;
}


static ngx_int_t
ngx_http_apikey_problem_headers(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    u_char                      *p;
    uint64_t                     seconds;
    ngx_str_t                    value;
    ngx_http_apikey_loc_conf_t  *alcf;

    static ngx_str_t  retry = ngx_string("Retry-After");

    if (ctx->answered) {
        return NGX_OK;
    }

    ctx->answered = 1;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    if (ctx->start.status == NGX_HTTP_UNAUTHORIZED) {

        if (alcf->bearer
            && ngx_http_apikey_challenge(r, "Bearer", &alcf->realm) != NGX_OK)
        {
            return NGX_ERROR;
        }

        if (alcf->other
            && ngx_http_apikey_challenge(r, "ApiKey", &alcf->realm) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    seconds = ngx_http_apikey_retry_after(ctx);

    if (seconds == 0) {
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, NGX_INT64_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    value.data = p;
    value.len = ngx_sprintf(p, "%uL", seconds) - p;

    return ngx_http_apikey_header_add(r, &retry, &value);
}


static ngx_int_t
ngx_http_apikey_challenge(ngx_http_request_t *r, const char *scheme,
    ngx_str_t *realm)
{
    u_char           *p;
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    h->hash = 0;

    p = ngx_pnalloc(r->pool, sizeof("Bearer realm=\"\"") - 1 + realm->len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    h->hash = 1;
    ngx_http_apikey_set_next(h);
    ngx_str_set(&h->key, "WWW-Authenticate");

    h->value.data = p;
    h->value.len = ngx_sprintf(p, "%s realm=\"%V\"", scheme, realm) - p;

#if (nginx_version >= 1023000)
    if (r->headers_out.www_authenticate) {
        h->next = r->headers_out.www_authenticate;
    }
#endif

    r->headers_out.www_authenticate = h;

    return NGX_OK;
}


static ngx_uint_t
ngx_http_apikey_problem_is_grpc(ngx_http_request_t *r)
{
    ngx_str_t  *type;

    static const size_t  len = sizeof("application/grpc") - 1;

    if (r->headers_in.content_type == NULL) {
        return 0;
    }

    type = &r->headers_in.content_type->value;

    return type->len >= len
           && ngx_strncasecmp(type->data, (u_char *) "application/grpc", len)
              == 0
           && (type->len == len || type->data[len] == '+'
               || type->data[len] == ';');
}


/* A trailers-only answer: all of it is in the headers. */

static ngx_int_t
ngx_http_apikey_problem_grpc(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    u_char     *p;
    ngx_int_t   rc;
    ngx_str_t   value;

    const ngx_http_apikey_problem_t  *problem;

    static ngx_str_t  status = ngx_string("grpc-status");
    static ngx_str_t  message = ngx_string("grpc-message");

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    problem = &ngx_http_apikey_problems[ctx->verdict];

    p = ngx_pnalloc(r->pool, NGX_INT_T_LEN);
    if (p == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    value.data = p;
    value.len = ngx_sprintf(p, "%ui", ngx_http_apikey_problem_code(ctx)) - p;

    if (ngx_http_apikey_header_add(r, &status, &value) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    value.data = (u_char *) problem->title;
    value.len = ngx_strlen(problem->title);

    if (ngx_http_apikey_header_add(r, &message, &value) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->headers_out.status = NGX_HTTP_OK;

    /* HTTP/1 would announce chunks, and its client wait for the last one */

    r->headers_out.content_length_n = r->http_version < NGX_HTTP_VERSION_20
                                      ? 0 : -1;

    ngx_str_set(&r->headers_out.content_type, "application/grpc");
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;

    r->header_only = 1;

    return ngx_http_send_header(r);
}


/* Of another status than the verdict's own: as gRPC has it, if it does. */

static ngx_uint_t
ngx_http_apikey_problem_code(ngx_http_apikey_ctx_t *ctx)
{
    ngx_uint_t  i;

    for (i = APIKEY_MISSING_KEY; i < APIKEY_VERDICTS; i++) {
        if (ngx_http_apikey_problems[i].status == ctx->start.status) {
            return ngx_http_apikey_problems[i].grpc;
        }
    }

    return ngx_http_apikey_problems[ctx->verdict].grpc;
}


static ngx_int_t
ngx_http_apikey_problem_json(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_str_t *text)
{
    char                      *buf, urn[64];
    size_t                     len;
    u_char                     detail[1024];
    const char                *code;
    apikey_json_t              j;
    apikey_verdict_e           verdict;

    buf = ngx_pnalloc(r->pool, NGX_HTTP_APIKEY_PROBLEM_MAX);
    if (buf == NULL) {
        return NGX_ERROR;
    }

    verdict = ctx->verdict;

    if (verdict == APIKEY_REVOKED_KEY) {
        verdict = APIKEY_INVALID_KEY;
    }

    code = apikey_verdict_name(verdict);
    (void) ngx_snprintf((u_char *) urn, sizeof(urn), "urn:apikey:%s%Z", code);

    apikey_json_init(&j, buf, NGX_HTTP_APIKEY_PROBLEM_MAX);
    apikey_json_object(&j);

    apikey_json_name(&j, "type");
    apikey_json_text(&j, urn);
    apikey_json_name(&j, "title");
    apikey_json_text(&j, ngx_http_apikey_problems[verdict].title);
    apikey_json_name(&j, "status");
    apikey_json_uint(&j, ctx->start.status);
    apikey_json_name(&j, "code");
    apikey_json_text(&j, code);
    apikey_json_name(&j, "detail");
    len = ngx_http_apikey_problem_detail(ctx, detail, sizeof(detail));
    apikey_json_string(&j, (char *) detail, len);
    apikey_json_name(&j, "request_id");
    apikey_json_string(&j, (char *) ctx->id, APIKEY_UUID_TEXT_LEN);

    if (ngx_http_apikey_verdict_limited(verdict)
        && ngx_http_apikey_problem_limit(r, ctx, &j) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (verdict == APIKEY_INVALID_REQUEST) {
        apikey_json_name(&j, "errors");
        apikey_json_raw(&j, ngx_http_apikey_problem_errors,
                        sizeof(ngx_http_apikey_problem_errors) - 1);
    }

    apikey_json_object_end(&j);

    if (j.overflow) {
        return NGX_ERROR;
    }

    text->data = (u_char *) buf;
    text->len = apikey_json_len(&j);

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_problem_limit(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, apikey_json_t *j)
{
    uint64_t                   seconds;
    ngx_str_t                  name;
    ngx_uint_t                 level;
    ngx_http_apikey_bucket_t  *b;

    b = ngx_http_apikey_limit_named(ctx, &level);

    if (b == NULL) {
        return NGX_OK;
    }

    if (ngx_http_apikey_limit_full_name(r->pool, b, level, &name) != NGX_OK) {
        return NGX_ERROR;
    }

    apikey_json_name(j, "limit_name");
    apikey_json_string(j, (char *) name.data, name.len);
    apikey_json_name(j, "unit");
    apikey_json_text(j, apikey_unit_name(b->limit->unit));
    ngx_http_apikey_problem_amounts(ctx, b, j);
    apikey_json_name(j, "reset");

    if (b->reset != UINT64_MAX) {
        apikey_json_uint(j, ngx_http_apikey_seconds(b->reset));

    } else {
        apikey_json_null(j);
    }

    apikey_json_name(j, "retry_after");

    seconds = ngx_http_apikey_retry_after(ctx);

    if (seconds) {
        apikey_json_uint(j, seconds);

    } else {
        apikey_json_null(j);
    }

    return NGX_OK;
}


/* Money is text, with what has been used and in which currency. */

static void
ngx_http_apikey_problem_amounts(ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_bucket_t *b, apikey_json_t *j)
{
    char      currency[4];
    uint64_t  limit;

    limit = apikey_limit_shown(b->limit);

    apikey_json_name(j, "limit");
    ngx_http_apikey_json_amount(j, limit, b->limit->unit);

    if (b->limit->unit == APIKEY_UNIT_COST) {
        apikey_json_name(j, "used");
        ngx_http_apikey_json_amount(j, limit - ngx_min(b->remaining, limit),
                                    b->limit->unit);
    }

    apikey_json_name(j, "remaining");
    ngx_http_apikey_json_amount(j, b->remaining, b->limit->unit);

    if (b->limit->unit == APIKEY_UNIT_COST
        && ngx_http_apikey_currency(ctx->request, currency))
    {
        apikey_json_name(j, "currency");
        apikey_json_text(j, currency);
    }
}


static size_t
ngx_http_apikey_problem_detail(ngx_http_apikey_ctx_t *ctx, u_char *buf,
    size_t size)
{
    ngx_uint_t                 level;
    ngx_http_apikey_bucket_t  *b;

    b = ngx_http_apikey_limit_named(ctx, &level);

    if (ngx_http_apikey_verdict_limited(ctx->verdict) && b) {
        return ngx_http_apikey_detail(ctx, b, level, buf, size);
    }

    return ngx_slprintf(buf, buf + size, "%s",
                        ngx_http_apikey_problems[ctx->verdict].detail) - buf;
}
