
/*
 * The end of POST api-keys/verify: its record or its count as a refusal, and
 * the answer.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/verify.h"
#include "http/limits.h"


static apikey_verdict_e ngx_http_apikey_verify_record(
    ngx_http_apikey_verify_t *v);
static ngx_int_t ngx_http_apikey_verify_refused(ngx_http_apikey_verify_t *v);
static ngx_int_t ngx_http_apikey_verify_answer(ngx_http_apikey_verify_t *v);
static void ngx_http_apikey_verify_answer_key(apikey_json_t *j,
    ngx_http_apikey_verify_t *v);
static void ngx_http_apikey_verify_answer_limits(apikey_json_t *j,
    ngx_http_apikey_ctx_t *ctx);


/* Who only looks leaves no trace. */

ngx_int_t
ngx_http_apikey_verify_end(ngx_http_apikey_verify_t *v,
    apikey_verdict_e verdict)
{
    ngx_http_apikey_ctx_t  *ctx;

    ctx = v->ctx;

    ctx->verdict = verdict;
    ctx->refused = (verdict != APIKEY_OK);

    if (ctx->weight == 0) {
        return ngx_http_apikey_verify_answer(v);
    }

    if (ngx_http_apikey_verify_describe(v) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (!ctx->refused) {
        ctx->verdict = ngx_http_apikey_verify_record(v);
        ctx->refused = (ctx->verdict != APIKEY_OK);
    }

    if (ctx->refused && ngx_http_apikey_verify_refused(v) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    apikey_stats_count(&v->admin->amcf->sh->stats, ngx_process_slot,
                       APIKEY_STATS_REQUESTS(ctx->verdict));

    return ngx_http_apikey_verify_answer(v);
}


ngx_int_t
ngx_http_apikey_verify_describe(ngx_http_apikey_verify_t *v)
{
    ngx_http_request_t             *r;
    ngx_http_apikey_ctx_t          *ctx;
    ngx_http_core_srv_conf_t       *cscf;
    ngx_http_apikey_loc_conf_t     *alcf;
    ngx_http_apikey_usage_start_t  *start;

    ctx = v->ctx;
    r = ctx->request;
    alcf = v->admin->alcf;
    start = &ctx->start;

    ngx_memcpy(start->event, ctx->event, 16);
    ngx_http_apikey_client_address(r, start->client);

    start->time = ctx->now;
    start->method = r->method;
    start->weight = ctx->weight;
    start->model = v->model;
    ngx_str_set(&start->endpoint, "verify");

    if (ctx->found) {
        ngx_memcpy(start->key, ctx->key.id, 16);
        ngx_memcpy(start->secret, ctx->key.secret, 16);
        start->owner = ctx->key.owner;
        start->customer = ctx->key.customer;
    }

    if (v->service.len) {
        start->service = v->service;
        return NGX_OK;
    }

    if (alcf->service) {
        return ngx_http_complex_value(r, alcf->service, &start->service);
    }

    cscf = ngx_http_get_module_srv_conf(r, ngx_http_core_module);
    start->service = cscf->server_name;

    return NGX_OK;
}


/* It is charged: the record is complete before anybody is told. */

static apikey_verdict_e
ngx_http_apikey_verify_record(ngx_http_apikey_verify_t *v)
{
    ngx_http_apikey_ctx_t         *ctx;
    ngx_http_apikey_main_conf_t   *amcf;
    ngx_http_apikey_usage_end_t    end;
    ngx_http_apikey_usage_slot_t  *slot;

    ctx = v->ctx;
    amcf = v->admin->amcf;

    ctx->start.verdict = APIKEY_OK;
    ctx->start.mode = ctx->decision.mode;

    slot = ngx_http_apikey_usage_open(amcf->worker_usage, &ctx->start);

    if (slot == NULL) {
        return amcf->usage.refuse ? APIKEY_UNAVAILABLE : APIKEY_OK;
    }

    ngx_memzero(&end, sizeof(ngx_http_apikey_usage_end_t));

    end.status = NGX_HTTP_OK;
    end.end = APIKEY_END_NORMAL;
    end.source = NGX_HTTP_APIKEY_USAGE_NONE;
    end.duration = (uint64_t) ngx_max(ctx->now - ctx->time, 0);

    ngx_http_apikey_usage_close(amcf->worker_usage, slot, &end);

    return APIKEY_OK;
}


static ngx_int_t
ngx_http_apikey_verify_refused(ngx_http_apikey_verify_t *v)
{
    ngx_uint_t                      level;
    ngx_http_apikey_ctx_t          *ctx;
    ngx_http_apikey_bucket_t       *b;
    ngx_http_apikey_usage_start_t  *start;

    ctx = v->ctx;
    start = &ctx->start;

    start->verdict = ctx->verdict;
    start->mode = ctx->decision.mode;
    start->status = ngx_http_apikey_verdict_status(ctx->verdict);
    start->retry_after = ngx_min(ngx_http_apikey_retry_after(ctx),
                                 UINT32_MAX);

    b = ngx_http_apikey_limit_named(ctx, &level);

    if (ngx_http_apikey_verdict_limited(ctx->verdict) && b) {
        start->limit = apikey_limit_shown(b->limit);
        start->remaining = b->remaining;

        if (ngx_http_apikey_limit_full_name(ctx->pool, b, level,
                                            &start->limit_name)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    ngx_http_apikey_usage_refused(v->admin->amcf->worker_usage, start);

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_verify_answer(ngx_http_apikey_verify_t *v)
{
    size_t                    size;
    ngx_str_t                 body;
    ngx_uint_t                i;
    apikey_json_t             j;
    ngx_http_apikey_ctx_t    *ctx;
    ngx_http_apikey_admin_t  *a;

    a = v->admin;
    ctx = v->ctx;

    size = 1024 + 6 * ctx->key.owner.len;

    for (i = 0; i < ctx->decision.naccounts; i++) {
        size += ctx->decision.accounts[i].nbuckets * (6 * 256 + 256);
    }

    body.data = ngx_pnalloc(a->request->pool, size);
    if (body.data == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    apikey_json_init(&j, (char *) body.data, size);
    apikey_json_object(&j);

    apikey_json_name(&j, "valid");
    apikey_json_bool(&j, !ctx->refused);
    apikey_json_name(&j, "code");
    apikey_json_text(&j, v->hidden ? "not_found"
                                   : apikey_verdict_name(ctx->verdict));

    if (!v->hidden) {
        ngx_http_apikey_verify_answer_key(&j, v);
        ngx_http_apikey_verify_answer_limits(&j, ctx);
    }

    apikey_json_object_end(&j);
    body.len = apikey_json_len(&j);

    if (v->once) {
        return ngx_http_apikey_verify_keep(v, &body);
    }

    return ngx_http_apikey_admin_send(a, NGX_HTTP_OK, "application/json",
                                      &body);
}


static void
ngx_http_apikey_verify_answer_key(apikey_json_t *j,
    ngx_http_apikey_verify_t *v)
{
    uint64_t                after;
    ngx_http_apikey_ctx_t  *ctx;

    ctx = v->ctx;

    apikey_json_name(j, "id");

    if (ctx->found) {
        apikey_json_uuid(j, ctx->key.id);

    } else {
        apikey_json_null(j);
    }

    apikey_json_name(j, "owner");

    if (ctx->found && ctx->key.owner.len) {
        apikey_json_string(j, (char *) ctx->key.owner.data,
                           ctx->key.owner.len);

    } else {
        apikey_json_null(j);
    }

    apikey_json_name(j, "request_id");
    apikey_json_uuid(j, v->admin->id);

    apikey_json_name(j, "retry_after");
    after = ngx_http_apikey_retry_after(ctx);

    if (after) {
        apikey_json_uint(j, after);

    } else {
        apikey_json_null(j);
    }
}


/* What nobody knows, as while Redis is down, is null. */

static void
ngx_http_apikey_verify_answer_limits(apikey_json_t *j,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_uint_t                  i, k, known;
    const apikey_limit_t       *limit;
    ngx_http_apikey_bucket_t   *b;
    ngx_http_apikey_account_t  *account;

    apikey_json_name(j, "limits");
    apikey_json_array(j);

    account = ctx->decision.accounts;

    for (i = 0; i < ctx->decision.naccounts; i++) {

        for (k = 0; k < account[i].nbuckets; k++) {
            b = &account[i].buckets[k];
            limit = b->limit;

            apikey_json_object(j);
            apikey_json_name(j, "name");
            apikey_json_string(j, apikey_limit_name(limit), limit->name_len);
            apikey_json_name(j, "level");
            apikey_json_text(j, account[i].level == APIKEY_LEVEL_OWNER
                                ? "owner" : "key");
            apikey_json_name(j, "unit");
            apikey_json_text(j, apikey_unit_name(limit->unit));
            apikey_json_name(j, "limit");
            ngx_http_apikey_json_amount(j, apikey_limit_shown(limit),
                                        limit->unit);
            apikey_json_name(j, "remaining");

            known = ctx->decision.known && !account[i].unseen && !b->unknown;

            if (known) {
                ngx_http_apikey_json_amount(j, b->remaining, limit->unit);

            } else {
                apikey_json_null(j);
            }

            apikey_json_name(j, "reset");

            if (known && b->reset != UINT64_MAX) {
                apikey_json_uint(j, ngx_http_apikey_seconds(b->reset));

            } else {
                apikey_json_null(j);
            }

            apikey_json_object_end(j);
        }
    }

    apikey_json_array_end(j);
}
