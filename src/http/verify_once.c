
/*
 * The Idempotency-Key of POST api-keys/verify: claimed in Postgres before the
 * decision, its answer kept there before it is sent.  The schema's
 * 0041_idempotency.sql says what a claim is.
 *
 * A client that leaves stops nothing once the claim is asked for: it will ask
 * again, and is told then.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/verify.h"


/* The claim is good for 30 s; the answer may take 20 to be kept. */

#define NGX_HTTP_APIKEY_VERIFY_LATE  10000


static ngx_int_t ngx_http_apikey_verify_call(ngx_http_apikey_verify_t *v,
    const char *function, apikey_json_t *j);
static void ngx_http_apikey_verify_forget(ngx_http_apikey_admin_t *a);


ngx_int_t
ngx_http_apikey_verify_claim(ngx_http_apikey_verify_t *v)
{
    size_t          size;
    u_char          hex[2 * APIKEY_DIGEST_LEN];
    ngx_int_t       rc;
    ngx_str_t      *scope;
    ngx_uint_t      i, n;
    apikey_json_t   j;

    scope = v->scopes ? v->scopes->elts : NULL;
    n = v->scopes ? v->scopes->nelts : 0;

    size = 512 + 6 * (v->model.len + v->service.len);

    for (i = 0; i < n; i++) {
        size += 8 + 6 * scope[i].len;
    }

    v->admin->body.data = ngx_pnalloc(v->ctx->pool, size);
    if (v->admin->body.data == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    (void) ngx_hex_dump(hex, v->digest, APIKEY_DIGEST_LEN);

    apikey_json_init(&j, (char *) v->admin->body.data, size);
    apikey_json_object(&j);
    apikey_json_name(&j, "digest");
    apikey_json_string(&j, (char *) hex, 2 * APIKEY_DIGEST_LEN);
    apikey_json_name(&j, "model");
    apikey_json_string(&j, (char *) v->model.data, v->model.len);
    apikey_json_name(&j, "service");
    apikey_json_string(&j, (char *) v->service.data, v->service.len);
    apikey_json_name(&j, "weight");
    apikey_json_uint(&j, v->ctx->weight);
    apikey_json_name(&j, "scopes");
    apikey_json_array(&j);

    for (i = 0; i < n; i++) {
        apikey_json_string(&j, (char *) scope[i].data, scope[i].len);
    }

    apikey_json_array_end(&j);
    apikey_json_object_end(&j);

    v->admin->stay = 1;
    v->claiming = 1;
    v->claimed = ngx_current_msec;

    rc = ngx_http_apikey_verify_call(v, "verify_claim", &j);

    return (rc == NGX_DECLINED) ? ngx_http_apikey_verify_claimed(v) : rc;
}


ngx_int_t
ngx_http_apikey_verify_claimed(ngx_http_apikey_verify_t *v)
{
    ngx_http_apikey_admin_t  *a;

    a = v->admin;
    v->claiming = 0;

    if (a->failed && a->problem == NGX_HTTP_APIKEY_PROBLEM_UNAVAILABLE) {
        return ngx_http_apikey_admin_problem(a, a->problem,
                                     "Postgres, which knows the "
                                     "Idempotency-Keys, did not answer. "
                                     "Nothing was charged.", NULL);
    }

    if (a->failed || a->status != NGX_HTTP_ACCEPTED) {
        return ngx_http_apikey_admin_call_finish(a);
    }

    ngx_http_apikey_verify_forget(a);

    return NGX_OK;
}


/* Somebody else may decide it soon. */

ngx_uint_t
ngx_http_apikey_verify_late(ngx_http_apikey_verify_t *v)
{
    return v->once
           && ngx_current_msec - v->claimed > NGX_HTTP_APIKEY_VERIFY_LATE;
}


/* What charged nothing is decided anew when it is asked again. */

ngx_int_t
ngx_http_apikey_verify_keep(ngx_http_apikey_verify_t *v, ngx_str_t *answer)
{
    size_t          size;
    ngx_int_t       rc;
    apikey_json_t   j;

    v->answer = *answer;
    v->keeping = 1;

    size = 64 + apikey_json_escape(NULL, 0, (char *) answer->data,
                                   answer->len);

    v->admin->body.data = ngx_pnalloc(v->ctx->pool, size);
    if (v->admin->body.data == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    apikey_json_init(&j, (char *) v->admin->body.data, size);
    apikey_json_object(&j);
    apikey_json_name(&j, "answer");

    if (v->ctx->refused) {
        apikey_json_null(&j);

    } else {
        apikey_json_string(&j, (char *) answer->data, answer->len);
    }

    apikey_json_object_end(&j);

    rc = ngx_http_apikey_verify_call(v, "verify_keep", &j);

    return (rc == NGX_DECLINED) ? ngx_http_apikey_verify_kept(v) : rc;
}


/* The charge is made, so its answer is told even where nobody keeps it. */

ngx_int_t
ngx_http_apikey_verify_kept(ngx_http_apikey_verify_t *v)
{
    ngx_http_apikey_admin_t  *a;

    a = v->admin;

    if (a->failed || a->status != NGX_HTTP_NO_CONTENT) {
        ngx_log_error(NGX_LOG_WARN, a->request->connection->log, 0,
                      "the answer of a verify with an Idempotency-Key could "
                      "not be kept");
    }

    ngx_http_apikey_verify_forget(a);

    return ngx_http_apikey_admin_send(a, NGX_HTTP_OK, "application/json",
                                      &v->answer);
}


/* As admin_call_try(). */

static ngx_int_t
ngx_http_apikey_verify_call(ngx_http_apikey_verify_t *v,
    const char *function, apikey_json_t *j)
{
    ngx_http_apikey_admin_t  *a;

    a = v->admin;

    if (j->overflow) {
        ngx_log_error(NGX_LOG_ALERT, a->request->connection->log, 0,
                      "apikey_admin verify does not fit its buffer");
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    a->body.len = apikey_json_len(j);
    a->function = function;

    return ngx_http_apikey_admin_call_try(a);
}


/* What apikey.api() said to us is no answer to the client. */

static void
ngx_http_apikey_verify_forget(ngx_http_apikey_admin_t *a)
{
    a->status = 0;
    ngx_str_null(&a->headers);
    ngx_str_null(&a->answer);
    ngx_str_null(&a->refresh);
}
