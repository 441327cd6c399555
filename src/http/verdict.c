
/*
 * The verdicts of the access phase: the checks of a key, and what admitting
 * and refusing a request means for its record and its answer.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"
#include "http/limits.h"
#include "http/access.h"


static ngx_uint_t ngx_http_apikey_check_scopes(ngx_http_request_t *r,
    ngx_array_t *scopes, ngx_str_t *held);
static ngx_int_t ngx_http_apikey_refuse_dry(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_describe_refusal(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_describe_labels(ngx_http_request_t *r,
    ngx_http_apikey_loc_conf_t *alcf, ngx_http_apikey_usage_start_t *start);
static ngx_int_t ngx_http_apikey_weight(ngx_http_request_t *r,
    ngx_http_apikey_loc_conf_t *alcf, uint64_t *weight);
static ngx_uint_t ngx_http_apikey_weight_digits(ngx_str_t *value);
static ngx_int_t ngx_http_apikey_admit_holds(ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_slot(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);


ngx_int_t
ngx_http_apikey_fail(ngx_http_request_t *r, ngx_http_apikey_ctx_t *ctx,
    apikey_verdict_e verdict, apikey_fail_e reason)
{
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    apikey_stats_add(&amcf->sh->stats.failures[reason], 1);

    ctx->verdict = verdict;

    return NGX_DECLINED;
}


apikey_verdict_e
ngx_http_apikey_check_key(ngx_http_request_t *r, ngx_http_apikey_ctx_t *ctx)
{
    ngx_http_apikey_key_t  *key;

    key = &ctx->key;

    if (key->revoked) {
        (void) ngx_http_apikey_fail(r, ctx, APIKEY_REVOKED_KEY,
                                    APIKEY_FAIL_REVOKED);
        return APIKEY_REVOKED_KEY;
    }

    if (!key->enabled || !key->owner_enabled) {
        (void) ngx_http_apikey_fail(r, ctx, APIKEY_DISABLED_KEY,
                                    APIKEY_FAIL_DISABLED);
        return APIKEY_DISABLED_KEY;
    }

    if (key->expires <= ctx->now || key->secret_expires <= ctx->now) {
        (void) ngx_http_apikey_fail(r, ctx, APIKEY_EXPIRED_KEY,
                                    APIKEY_FAIL_EXPIRED);
        return APIKEY_EXPIRED_KEY;
    }

    return APIKEY_OK;
}


apikey_verdict_e
ngx_http_apikey_check_location(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    u_char                       address[16];
    ngx_http_apikey_loc_conf_t  *alcf;

    if (!ctx->key.any_ip) {
        ngx_http_apikey_client_address(r, address);

        if (!ngx_http_apikey_ip_allowed(&ctx->key, address)) {
            return APIKEY_IP_DENIED;
        }
    }

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    if (alcf->scopes
        && !ngx_http_apikey_check_scopes(r, alcf->scopes, &ctx->key.scopes))
    {
        return APIKEY_SCOPE_DENIED;
    }

    return APIKEY_OK;
}


apikey_verdict_e
ngx_http_apikey_check_body(ngx_http_request_t *r, ngx_http_apikey_ctx_t *ctx)
{
    ngx_int_t  rc;
    ngx_str_t  model;

    if (ctx->found && ctx->key.models.len) {
        rc = ngx_http_apikey_request_model(r, ctx, &model);

        if (rc != NGX_DECLINED
            && (rc != NGX_OK
                || !ngx_http_apikey_model_allowed(&ctx->key.models, &model)))
        {
            return APIKEY_MODEL_DENIED;
        }
    }

    return ngx_http_apikey_request_tells(r, ctx) ? APIKEY_OK
                                                 : APIKEY_INVALID_REQUEST;
}


static ngx_uint_t
ngx_http_apikey_check_scopes(ngx_http_request_t *r, ngx_array_t *scopes,
    ngx_str_t *held)
{
    ngx_str_t                 wanted;
    ngx_uint_t                i, covered;
    ngx_http_apikey_scope_t  *scope;

    scope = scopes->elts;
    covered = 0;

    for (i = 0; i < scopes->nelts; i++) {

        /* no memory, or a variable that is empty: nothing can cover it */

        if (!covered
            && ngx_http_complex_value(r, &scope[i].value, &wanted) == NGX_OK
            && ngx_http_apikey_scope_held(held, &wanted, scope[i].list))
        {
            covered = 1;
        }

        if (scope[i].next) {
            continue;
        }

        if (!covered) {
            return 0;
        }

        covered = 0;
    }

    return 1;
}


ngx_int_t
ngx_http_apikey_describe(ngx_http_request_t *r, ngx_http_apikey_ctx_t *ctx)
{
    ngx_int_t                       rc;
    ngx_http_apikey_loc_conf_t     *alcf;
    ngx_http_apikey_usage_start_t  *start;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    start = &ctx->start;

    ngx_memcpy(start->event, ctx->event, 16);
    ngx_http_apikey_client_address(r, start->client);

    start->time = ctx->now;
    start->method = r->method;

    if (ctx->found) {
        ngx_memcpy(start->key, ctx->key.id, 16);
        ngx_memcpy(start->secret, ctx->key.secret, 16);
        start->owner = ctx->key.owner;
        start->customer = ctx->key.customer;
    }

    rc = ngx_http_apikey_request_model(r, ctx, &start->model);

    if (rc == NGX_ERROR
        || ngx_http_apikey_describe_labels(r, alcf, start) != NGX_OK)
    {
        return NGX_ERROR;
    }

    /* who sends nothing asks for no model */

    ctx->any_model = (rc == NGX_OK && start->model.len == 0
                      && (ctx->asked == NULL || ctx->asked->len != 0));

    if (ngx_http_apikey_weight(r, alcf, &ctx->weight) != NGX_OK) {
        return NGX_ERROR;
    }

    start->weight = ctx->weight;

    ngx_http_apikey_meter_reserve(r, ctx);

    start->unknown = (ctx->reserve.tokens_unknown ? APIKEY_OPEN_TOKENS : 0)
                     | (ctx->any_model ? APIKEY_OPEN_MODEL : 0);
    start->tokens = ctx->reserve.tokens;
    start->cost = ctx->reserve.cost_unknown ? -1 : (int64_t) ctx->reserve.cost;
    start->price = ctx->reserve.priced ? ctx->price.version : 0;

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_describe_labels(ngx_http_request_t *r,
    ngx_http_apikey_loc_conf_t *alcf, ngx_http_apikey_usage_start_t *start)
{
    ngx_http_core_loc_conf_t  *clcf;
    ngx_http_core_srv_conf_t  *cscf;

    if (alcf->service == NULL) {
        cscf = ngx_http_get_module_srv_conf(r, ngx_http_core_module);
        start->service = cscf->server_name;

    } else if (ngx_http_complex_value(r, alcf->service, &start->service)
               != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (alcf->endpoint == NULL) {
        clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);
        start->endpoint = clcf->name;

    } else if (ngx_http_complex_value(r, alcf->endpoint, &start->endpoint)
               != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (alcf->session
        && ngx_http_complex_value(r, alcf->session, &start->session)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_weight(ngx_http_request_t *r,
    ngx_http_apikey_loc_conf_t *alcf, uint64_t *weight)
{
    off_t      n;
    ngx_str_t  value;

    *weight = 1;

    if (alcf->weight == NULL) {
        return NGX_OK;
    }

    if (ngx_http_complex_value(r, alcf->weight, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    if (value.len == 0) {
        return NGX_OK;
    }

    n = ngx_atoof(value.data, value.len);

    if (n == NGX_ERROR || n > NGX_HTTP_APIKEY_WEIGHT_MAX) {

        /* a number beyond all counting must not cost as little as one */

        if (ngx_http_apikey_weight_digits(&value)) {
            *weight = NGX_HTTP_APIKEY_WEIGHT_MAX;
            return NGX_OK;
        }

        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "apikey_weight \"%V\" is not a whole number, 1 is "
                      "taken", &value);
        return NGX_OK;
    }

    *weight = n;

    return NGX_OK;
}


static ngx_uint_t
ngx_http_apikey_weight_digits(ngx_str_t *value)
{
    size_t  i;

    for (i = 0; i < value->len; i++) {
        if (value->data[i] < '0' || value->data[i] > '9') {
            return 0;
        }
    }

    return 1;
}


ngx_int_t
ngx_http_apikey_admit(ngx_http_request_t *r, ngx_http_apikey_ctx_t *ctx)
{
    ctx->start.verdict = APIKEY_OK;
    ctx->start.mode = ctx->decision.mode;
    ctx->start.time = ctx->now;

    if (ngx_http_apikey_admit_holds(ctx) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ngx_http_apikey_slot(r, ctx) != NGX_OK) {
        return ngx_http_apikey_refuse(r, ctx, APIKEY_UNAVAILABLE);
    }

    ctx->verdict = APIKEY_OK;
    ctx->state = NGX_HTTP_APIKEY_ST_DONE;

    return NGX_OK;
}


/* Slots that are counted in the zone: a worker that dies frees none. */

static ngx_int_t
ngx_http_apikey_admit_holds(ngx_http_apikey_ctx_t *ctx)
{
    ngx_uint_t                   i;
    apikey_hold_t               *hold;
    ngx_http_apikey_account_t   *account;
    ngx_http_apikey_decision_t  *d;

    d = &ctx->decision;

    if (d->mode != APIKEY_MODE_LOCAL && d->mode != APIKEY_MODE_DOWN_LOCAL) {
        return NGX_OK;
    }

    for (i = 0; i < d->naccounts; i++) {
        account = &d->accounts[i];

        if (account->unit != APIKEY_UNIT_CONCURRENT || account->cost == 0
            || ctx->start.nholds == APIKEY_HOLDS)
        {
            continue;
        }

        if (ctx->start.holds == NULL) {
            ctx->start.holds = ngx_pcalloc(ctx->pool,
                                           APIKEY_HOLDS
                                           * sizeof(apikey_hold_t));
            if (ctx->start.holds == NULL) {
                return NGX_ERROR;
            }
        }

        hold = &ctx->start.holds[ctx->start.nholds++];

        ngx_memcpy(hold->holder, account->holder, 16);
        hold->scope = account->scope;
        hold->level = account->level;
        hold->count = account->cost * d->share;
    }

    return NGX_OK;
}


/*
 * No key, and none is needed: no opinion of ours, so that "satisfy any" is
 * not met by it.
 */

ngx_int_t
ngx_http_apikey_admit_anonymous(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_int_t                  rc;
    apikey_verdict_e           verdict;
    ngx_http_core_loc_conf_t  *clcf;

    if (ctx->admitted) {
        return NGX_DECLINED;
    }

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (clcf->satisfy == NGX_HTTP_SATISFY_ANY && r->access_code) {

        /* all others have refused: nginx will */

        return NGX_DECLINED;
    }

    rc = ngx_http_apikey_request_read(r, ctx);

    if (rc != NGX_OK) {
        return rc;
    }

    verdict = ngx_http_apikey_check_body(r, ctx);

    if (verdict != APIKEY_OK) {
        return ngx_http_apikey_refuse(r, ctx, verdict);
    }

    if (ngx_http_apikey_describe(r, ctx) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->start.verdict = APIKEY_ANONYMOUS;
    ctx->start.mode = APIKEY_MODE_NONE;

    if (ngx_http_apikey_slot(r, ctx) != NGX_OK) {
        return ngx_http_apikey_refuse(r, ctx, APIKEY_UNAVAILABLE);
    }

    /* still ST_START: the next location may find a key, or need one */

    ctx->verdict = APIKEY_ANONYMOUS;

    return NGX_DECLINED;
}


/* The record is there before the request may leave for the upstream. */

static ngx_int_t
ngx_http_apikey_slot(ngx_http_request_t *r, ngx_http_apikey_ctx_t *ctx)
{
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    if (ctx->slot) {
        ngx_http_apikey_usage_drop(amcf->worker_usage, ctx->slot);
    }

    ctx->slot = ngx_http_apikey_usage_open(amcf->worker_usage, &ctx->start);

    if (ctx->slot == NULL && amcf->usage.refuse) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "apikey_journal is full");
        return NGX_DECLINED;
    }

    ctx->admitted = 1;

    return NGX_OK;
}


ngx_int_t
ngx_http_apikey_refuse(ngx_http_request_t *r, ngx_http_apikey_ctx_t *ctx,
    apikey_verdict_e verdict)
{
    ngx_http_apikey_loc_conf_t  *alcf;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    ctx->verdict = verdict;
    ctx->refused = !alcf->dry_run;
    ctx->dry = alcf->dry_run;
    ctx->state = NGX_HTTP_APIKEY_ST_DONE;

    if (ngx_http_apikey_describe_refusal(r, ctx) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ctx->dry ? ngx_http_apikey_refuse_dry(r, ctx)
                    : ngx_http_apikey_problem(r, ctx);
}


/*
 * It passes with a record that says why it should not.  A key that is not
 * good, or none, is no opinion of ours, so that "satisfy any" is not met by
 * it.
 */

static ngx_int_t
ngx_http_apikey_refuse_dry(ngx_http_request_t *r, ngx_http_apikey_ctx_t *ctx)
{
    ngx_log_error(NGX_LOG_NOTICE, r->connection->log, 0,
                  "apikey_dry_run: would be refused: %s",
                  apikey_verdict_name(ctx->verdict));

    ctx->start.time = ctx->now;
    ctx->start.status = 0;

    (void) ngx_http_apikey_slot(r, ctx);

    ctx->admitted = 1;

    return ngx_http_apikey_passes_dry(ctx) ? NGX_OK : NGX_DECLINED;
}


static ngx_int_t
ngx_http_apikey_describe_refusal(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_uint_t                      level;
    ngx_http_apikey_bucket_t       *b;
    ngx_http_apikey_loc_conf_t     *alcf;
    ngx_http_apikey_usage_start_t  *start;

    if (ngx_http_apikey_describe(r, ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    start = &ctx->start;

    start->verdict = ctx->verdict;
    start->mode = ctx->decision.mode;
    start->status = alcf->statuses
                    ? alcf->statuses[ctx->verdict]
                    : ngx_http_apikey_verdict_status(ctx->verdict);
    start->retry_after = ngx_min(ngx_http_apikey_retry_after(ctx),
                                 UINT32_MAX);

    b = ngx_http_apikey_limit_named(ctx, &level);

    if (!ngx_http_apikey_verdict_limited(ctx->verdict) || b == NULL) {
        return NGX_OK;
    }

    start->limit = apikey_limit_shown(b->limit);
    start->remaining = b->remaining;

    return ngx_http_apikey_limit_full_name(r->pool, b, level,
                                           &start->limit_name);
}
