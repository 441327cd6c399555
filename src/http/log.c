
/*
 * The log phase: every client request that we have decided about is counted
 * once; an admitted one closes its record.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"


static ngx_uint_t ngx_http_apikey_log_passed(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static void ngx_http_apikey_log_settle(ngx_http_apikey_main_conf_t *amcf,
    ngx_http_apikey_ctx_t *ctx, const ngx_http_apikey_metered_t *metered,
    ngx_uint_t passed);
static uint64_t ngx_http_apikey_log_actual(
    const ngx_http_apikey_account_t *account,
    const ngx_http_apikey_metered_t *metered);
static void ngx_http_apikey_log_close(ngx_http_request_t *r,
    ngx_http_apikey_main_conf_t *amcf, ngx_http_apikey_ctx_t *ctx,
    const ngx_http_apikey_metered_t *metered);
static apikey_end_e ngx_http_apikey_log_end(ngx_http_request_t *r,
    ngx_uint_t status);
static uint64_t ngx_http_apikey_log_duration(ngx_http_request_t *r);
static uint64_t ngx_http_apikey_log_upstream(ngx_http_request_t *r);


ngx_int_t
ngx_http_apikey_log_handler(ngx_http_request_t *r)
{
    ngx_uint_t                    passed;
    ngx_http_apikey_ctx_t        *ctx;
    ngx_http_apikey_metered_t     metered;
    ngx_http_apikey_main_conf_t  *amcf;

    /* with log_subrequest it also runs for subrequests */

    if (r != r->main) {
        return NGX_OK;
    }

    ctx = ngx_http_apikey_get_ctx(r);

    if (ctx == NULL || ctx->logged) {
        return NGX_OK;
    }

    ctx->logged = 1;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    passed = ngx_http_apikey_log_passed(r, ctx);

    if (ctx->taken || ctx->slot) {
        (void) ngx_http_apikey_meter_end(r, ctx, &metered);
    }

    if (ctx->taken) {
        ngx_http_apikey_log_settle(amcf, ctx, &metered, passed);
    }

    if (ctx->refused && !passed) {

        if (ctx->slot) {
            ngx_http_apikey_usage_drop(amcf->worker_usage, ctx->slot);
            ctx->slot = NULL;
        }

        ngx_http_apikey_usage_refused(amcf->worker_usage, &ctx->start);

    } else if (!passed) {

        /* the client went away before there was a decision */

        return NGX_OK;
    }

    apikey_stats_count(&amcf->sh->stats, ngx_process_slot,
                       APIKEY_STATS_REQUESTS(ctx->verdict));

    if (ctx->slot) {
        ngx_http_apikey_log_close(r, amcf, ctx, &metered);
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_apikey_log_passed(ngx_http_request_t *r, ngx_http_apikey_ctx_t *ctx)
{
    if (!ctx->admitted) {
        return 0;
    }

    if (!ctx->refused) {
        return 1;
    }

    /* in another location, and after an upstream had seen it */

    return ctx->slot && r->upstream_states;
}


/* What did not pass has cost nothing. */

static void
ngx_http_apikey_log_settle(ngx_http_apikey_main_conf_t *amcf,
    ngx_http_apikey_ctx_t *ctx, const ngx_http_apikey_metered_t *metered,
    ngx_uint_t passed)
{
    ngx_uint_t                  i;
    ngx_http_apikey_account_t  *account;

    for (i = 0; i < ctx->decision.naccounts; i++) {
        account = &ctx->decision.accounts[i];
        account->actual = passed ? ngx_http_apikey_log_actual(account, metered)
                                 : 0;
    }

    if (ctx->slot) {
        ngx_http_apikey_usage_release(ctx->slot);
    }

    ngx_http_apikey_settle(amcf->limiter, &ctx->decision);
}


/* Where nobody knows what a request has cost, what it has paid is kept. */

static uint64_t
ngx_http_apikey_log_actual(const ngx_http_apikey_account_t *account,
    const ngx_http_apikey_metered_t *metered)
{
    switch (account->unit) {

    case APIKEY_UNIT_CONCURRENT:
        return 0;

    case APIKEY_UNIT_TOKENS:
        return metered->tokens_unknown ? account->cost
                                       : metered->input + metered->output;

    case APIKEY_UNIT_COST:
        return metered->cost < 0 ? account->cost : (uint64_t) metered->cost;

    default: /* APIKEY_UNIT_REQUESTS */
        return account->cost;
    }
}


static void
ngx_http_apikey_log_close(ngx_http_request_t *r,
    ngx_http_apikey_main_conf_t *amcf, ngx_http_apikey_ctx_t *ctx,
    const ngx_http_apikey_metered_t *metered)
{
    ngx_uint_t                   status;
    ngx_http_apikey_usage_end_t  end;

    ngx_memzero(&end, sizeof(ngx_http_apikey_usage_end_t));

    status = ngx_http_apikey_status(r);

    end.status = (uint16_t) status;
    end.end = ngx_http_apikey_log_end(r, status);
    end.source = metered->source;
    end.tokens_input = metered->input;
    end.tokens_output = metered->output;
    end.tokens_cached = metered->cached;
    end.tokens_reasoning = metered->reasoning;
    end.cost = metered->cost;
    end.price = metered->price;
    end.bytes_in = r->request_length;
    end.bytes_out = r->connection->sent;
    end.duration = ngx_http_apikey_log_duration(r);

    /* by another clock of nginx's, which may tick earlier */

    end.upstream = ngx_min(ngx_http_apikey_log_upstream(r), end.duration);

    ngx_http_apikey_usage_close(amcf->worker_usage, ctx->slot, &end);

    ctx->slot = NULL;
}


ngx_uint_t
ngx_http_apikey_status(ngx_http_request_t *r)
{
    if (r->err_status) {
        return r->err_status;
    }

    return r->headers_out.status;
}


static apikey_end_e
ngx_http_apikey_log_end(ngx_http_request_t *r, ngx_uint_t status)
{
    ngx_event_pipe_t     *p;
    ngx_http_upstream_t  *u;

    u = r->upstream;
    p = u ? u->pipe : NULL;

    /* status_n is what the upstream itself has said, if it has */

    if (r->connection->timedout || status == NGX_HTTP_REQUEST_TIME_OUT
        || (u && status == NGX_HTTP_GATEWAY_TIME_OUT
            && u->headers_in.status_n != NGX_HTTP_GATEWAY_TIME_OUT))
    {
        return APIKEY_END_TIMEOUT;
    }

    if (r->connection->error || status == NGX_HTTP_CLIENT_CLOSED_REQUEST
        || (p && p->downstream_error))
    {
        return APIKEY_END_CLIENT;
    }

    if (u == NULL || u->upgrade) {
        return APIKEY_END_NORMAL;
    }

    if (status == NGX_HTTP_BAD_GATEWAY
        && u->headers_in.status_n != NGX_HTTP_BAD_GATEWAY)
    {
        return APIKEY_END_UPSTREAM;
    }

    if (!u->header_sent) {
        return APIKEY_END_NORMAL;
    }

    /* the body is shorter than it was announced */

    if (u->buffering && p) {
        return (!p->upstream_done && p->length != -1
                && (p->upstream_eof || p->upstream_error))
               ? APIKEY_END_UPSTREAM : APIKEY_END_NORMAL;
    }

    return (u->length > 0) ? APIKEY_END_UPSTREAM : APIKEY_END_NORMAL;
}


/* As $request_time has it: nginx's cached clock, no syscall. */

static uint64_t
ngx_http_apikey_log_duration(ngx_http_request_t *r)
{
    ngx_time_t      *tp;
    ngx_msec_int_t   ms;

    tp = ngx_timeofday();

    ms = (ngx_msec_int_t) ((tp->sec - r->start_sec) * 1000
                           + (tp->msec - r->start_msec));

    return (uint64_t) ngx_max(ms, 0) * 1000;
}


static uint64_t
ngx_http_apikey_log_upstream(ngx_http_request_t *r)
{
    uint64_t                    ms;
    ngx_uint_t                  i;
    ngx_http_upstream_state_t  *state;

    if (r->upstream_states == NULL) {
        return 0;
    }

    ms = 0;
    state = r->upstream_states->elts;

    for (i = 0; i < r->upstream_states->nelts; i++) {

        /* unset where the upstream was never reached */

        if (state[i].response_time != (ngx_msec_t) -1) {
            ms += state[i].response_time;
        }
    }

    return ms * 1000;
}
