
/*
 * POST api-keys/verify: the decision of the data plane for code that is not
 * behind this nginx.  Charges, records and counts as a request would; only
 * the client's address is not judged, nobody here knows it.
 *
 * It has a context like a request's, which nothing else sees: the limiter
 * holds parts of it while it waits, until detach().
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/clock.h"
#include "http/access.h"
#include "http/verify.h"
#include "http/limits.h"


static ngx_int_t ngx_http_apikey_verify_start(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_verify_forbidden(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_verify_find(ngx_http_apikey_verify_t *v);
static void ngx_http_apikey_verify_asked(
    ngx_http_apikey_keyring_wait_t *wait, ngx_int_t rc);
static ngx_int_t ngx_http_apikey_verify_found(ngx_http_apikey_verify_t *v);
static ngx_uint_t ngx_http_apikey_verify_foreign(ngx_http_apikey_verify_t *v);
static apikey_verdict_e ngx_http_apikey_verify_check(
    ngx_http_apikey_verify_t *v);
static ngx_int_t ngx_http_apikey_verify_limits(ngx_http_apikey_verify_t *v);
static void ngx_http_apikey_verify_called(ngx_http_apikey_decision_t *d);
static void ngx_http_apikey_verify_detach(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_verify_decided(ngx_http_apikey_verify_t *v);


ngx_int_t
ngx_http_apikey_verify(ngx_http_apikey_admin_t *a)
{
    ngx_int_t                  rc;
    ngx_http_apikey_verify_t  *v;

    v = a->job;

    if (v == NULL) {
        return ngx_http_apikey_verify_start(a);
    }

    if (v->keeping) {
        return ngx_http_apikey_verify_kept(v);
    }

    v->ctx->now = apikey_clock_real();

    if (v->claiming) {
        v->claiming = 0;
        rc = ngx_http_apikey_verify_claimed(v);

        return (rc == NGX_OK) ? ngx_http_apikey_verify_find(v) : rc;
    }

    if (v->finding) {
        v->finding = 0;
        return ngx_http_apikey_verify_found(v);
    }

    return ngx_http_apikey_verify_decided(v);
}


static ngx_int_t
ngx_http_apikey_verify_start(ngx_http_apikey_admin_t *a)
{
    ngx_int_t                  rc;
    ngx_http_apikey_ctx_t     *ctx;
    ngx_http_apikey_verify_t  *v;

    v = ngx_pcalloc(a->request->pool, sizeof(ngx_http_apikey_verify_t));
    ctx = ngx_pcalloc(a->request->pool, sizeof(ngx_http_apikey_ctx_t));

    if (v == NULL || ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    a->job = v;
    v->admin = a;
    v->ctx = ctx;

    ctx->request = a->request;
    ctx->pool = a->request->pool;
    ctx->time = apikey_clock_real();
    ctx->now = ctx->time;
    ctx->weight = 1;
    ctx->momentary = 1;
    ngx_memcpy(ctx->event, a->id, 16);

    rc = ngx_http_apikey_verify_forbidden(a);

    if (rc == NGX_OK) {
        rc = ngx_http_apikey_verify_read(v);
    }

    if (rc == NGX_OK && v->once) {
        return ngx_http_apikey_verify_claim(v);
    }

    return (rc == NGX_OK) ? ngx_http_apikey_verify_find(v) : rc;
}


static ngx_int_t
ngx_http_apikey_verify_forbidden(ngx_http_apikey_admin_t *a)
{
    if (a->caller == NGX_HTTP_APIKEY_CALLER_OPERATOR && a->read_only) {
        return ngx_http_apikey_admin_problem(a,
                                     NGX_HTTP_APIKEY_PROBLEM_FORBIDDEN,
                                     "A token with role=read may only GET.",
                                     NULL);
    }

    if (a->caller == NGX_HTTP_APIKEY_CALLER_KEY) {
        return ngx_http_apikey_admin_problem(a,
                                     NGX_HTTP_APIKEY_PROBLEM_FORBIDDEN,
                                     "Only an operator or an owner may do "
                                     "this.", NULL);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_verify_find(ngx_http_apikey_verify_t *v)
{
    ngx_http_apikey_ctx_t    *ctx;
    ngx_http_apikey_admin_t  *a;

    a = v->admin;
    ctx = v->ctx;

    v->find_rc = ngx_http_apikey_lookup(a->amcf, ctx->digest,
                                        ctx->has_last ? ctx->last : NULL,
                                        ctx->pool, &ctx->key);

    if (v->find_rc == NGX_AGAIN && v->impossible) {
        v->find_rc = NGX_DECLINED;

    } else if (v->find_rc != NGX_AGAIN
               && ngx_http_apikey_stale(a->amcf, ctx->key.fresh, ctx->now))
    {
        v->find_rc = NGX_ERROR;
    }

    if (v->find_rc != NGX_AGAIN) {
        return ngx_http_apikey_verify_found(v);
    }

    a->wait.handler = ngx_http_apikey_verify_asked;
    a->wait.data = a;

    if (ngx_http_apikey_keyring_find(a->amcf->keyring, ctx->digest,
                                     ctx->has_last ? ctx->last : NULL,
                                     &a->wait)
        != NGX_OK)
    {
        return ngx_http_apikey_verify_found(v);
    }

    a->finding = 1;
    v->finding = 1;
    ngx_http_apikey_admin_wait(a);

    return NGX_AGAIN;
}


static void
ngx_http_apikey_verify_asked(ngx_http_apikey_keyring_wait_t *wait,
    ngx_int_t rc)
{
    ngx_http_apikey_ctx_t     *ctx;
    ngx_http_apikey_admin_t   *a = wait->data;
    ngx_http_apikey_verify_t  *v;

    v = a->job;
    ctx = v->ctx;

    a->finding = 0;

    if (rc == NGX_OK) {
        rc = ngx_http_apikey_lookup(a->amcf, ctx->digest,
                                    ctx->has_last ? ctx->last : NULL,
                                    ctx->pool, &ctx->key);
    }

    v->find_rc = rc;

    ngx_http_apikey_admin_resume(a);
}


static ngx_int_t
ngx_http_apikey_verify_found(ngx_http_apikey_verify_t *v)
{
    apikey_verdict_e        verdict;
    ngx_http_apikey_ctx_t  *ctx;

    ctx = v->ctx;

    if (v->find_rc == NGX_DECLINED
        || (v->find_rc == NGX_OK && ngx_http_apikey_verify_foreign(v)))
    {
        v->hidden = 1;

        (void) ngx_http_apikey_fail(v->admin->request, ctx,
                                    APIKEY_INVALID_KEY, APIKEY_FAIL_UNKNOWN);

        return ngx_http_apikey_verify_end(v, APIKEY_INVALID_KEY);
    }

    if (v->find_rc != NGX_OK) {
        return ngx_http_apikey_verify_end(v, APIKEY_UNAVAILABLE);
    }

    ctx->found = 1;

    verdict = ngx_http_apikey_verify_check(v);

    return (verdict == APIKEY_OK) ? ngx_http_apikey_verify_limits(v)
                                  : ngx_http_apikey_verify_end(v, verdict);
}


/* An owner sees no keys but its own. */

static ngx_uint_t
ngx_http_apikey_verify_foreign(ngx_http_apikey_verify_t *v)
{
    ngx_str_t                *mine, *owner;
    ngx_http_apikey_admin_t  *a;

    a = v->admin;

    if (a->caller == NGX_HTTP_APIKEY_CALLER_OPERATOR) {
        return 0;
    }

    mine = a->named ? &a->name : &a->key.owner;
    owner = &v->ctx->key.owner;

    return owner->len == 0 || owner->len != mine->len
           || ngx_memcmp(owner->data, mine->data, mine->len) != 0;
}


static apikey_verdict_e
ngx_http_apikey_verify_check(ngx_http_apikey_verify_t *v)
{
    ngx_str_t         *scope;
    ngx_uint_t         i;
    apikey_verdict_e   verdict;

    verdict = ngx_http_apikey_check_key(v->admin->request, v->ctx);

    if (verdict != APIKEY_OK) {
        return verdict;
    }

    scope = v->scopes ? v->scopes->elts : NULL;

    for (i = 0; scope && i < v->scopes->nelts; i++) {
        if (!ngx_http_apikey_scope_held(&v->ctx->key.scopes, &scope[i], 1)) {
            return APIKEY_SCOPE_DENIED;
        }
    }

    /* who names no model asks about none */

    if (v->model.len && v->ctx->key.models.len
        && !ngx_http_apikey_model_allowed(&v->ctx->key.models, &v->model))
    {
        return APIKEY_MODEL_DENIED;
    }

    return APIKEY_OK;
}


static ngx_int_t
ngx_http_apikey_verify_limits(ngx_http_apikey_verify_t *v)
{
    ngx_http_apikey_ctx_t       *ctx;
    ngx_http_apikey_admin_t     *a;
    ngx_http_apikey_decision_t  *d;

    a = v->admin;
    ctx = v->ctx;

    if (ctx->key.broken || ngx_http_apikey_verify_late(v)) {
        return ngx_http_apikey_verify_end(v, APIKEY_UNAVAILABLE);
    }

    if (ngx_http_apikey_verify_describe(v) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    switch (ngx_http_apikey_limits_build(a->amcf, ctx)) {

    case NGX_OK:
        break;

    case NGX_DECLINED:
        return ngx_http_apikey_verify_end(v, APIKEY_UNAVAILABLE);

    default: /* NGX_ERROR */
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    d = &ctx->decision;
    d->decided_at = ctx->now;
    d->pool = ctx->pool;

    if (d->naccounts == 0) {
        d->mode = APIKEY_MODE_NONE;
        apikey_stats_count(&a->amcf->sh->stats, ngx_process_slot,
                           APIKEY_STATS_DECISIONS(APIKEY_MODE_NONE));

        return ngx_http_apikey_verify_end(v, APIKEY_OK);
    }

    d->handler = ngx_http_apikey_verify_called;
    d->data = a;

    if (ngx_http_apikey_known_decide(a->amcf, ctx) != NGX_AGAIN) {
        return ngx_http_apikey_verify_decided(v);
    }

    v->deciding = 1;
    a->detach = ngx_http_apikey_verify_detach;
    ngx_http_apikey_admin_wait(a);

    return NGX_AGAIN;
}


static void
ngx_http_apikey_verify_called(ngx_http_apikey_decision_t *d)
{
    ngx_http_apikey_admin_t   *a = d->data;
    ngx_http_apikey_verify_t  *v;

    v = a->job;
    v->deciding = 0;

    ngx_http_apikey_admin_resume(a);
}


static void
ngx_http_apikey_verify_detach(ngx_http_apikey_admin_t *a)
{
    ngx_http_apikey_verify_t  *v;

    v = a->job;

    if (v->deciding) {
        v->deciding = 0;
        ngx_http_apikey_known_cancel(v->ctx);
    }
}


static ngx_int_t
ngx_http_apikey_verify_decided(ngx_http_apikey_verify_t *v)
{
    ngx_http_apikey_ctx_t  *ctx;

    ctx = v->ctx;
    ctx->decided = 1;

    if (ctx->decision.known || ctx->decision.rc == NGX_DECLINED) {
        ngx_http_apikey_limits_result(ctx);
    }

    switch (ctx->decision.rc) {

    case NGX_OK:
        return ngx_http_apikey_verify_end(v, APIKEY_OK);

    case NGX_DECLINED:
        return ngx_http_apikey_verify_end(v,
                                          ngx_http_apikey_limits_verdict(ctx));

    default: /* NGX_ERROR */
        return ngx_http_apikey_verify_end(v, APIKEY_UNAVAILABLE);
    }
}
