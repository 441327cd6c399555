
/*
 * The log phase: every client request that we have decided about is counted
 * once; an admitted one closes its record.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"


static void ngx_http_apikey_log_settle(ngx_http_request_t *r,
    ngx_http_apikey_main_conf_t *amcf, ngx_http_apikey_ctx_t *ctx,
    ngx_uint_t passed);
static void ngx_http_apikey_log_close(ngx_http_request_t *r,
    ngx_http_apikey_main_conf_t *amcf, ngx_http_apikey_ctx_t *ctx);
static apikey_end_e ngx_http_apikey_log_end(ngx_http_request_t *r,
    ngx_uint_t status);
static uint64_t ngx_http_apikey_log_duration(ngx_http_request_t *r);
static uint64_t ngx_http_apikey_log_upstream(ngx_http_request_t *r);


ngx_int_t
ngx_http_apikey_log_handler(ngx_http_request_t *r)
{
    ngx_uint_t                    passed;
    ngx_http_apikey_ctx_t        *ctx;
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

    /* refused only after an upstream has seen it: it was admitted before */

    passed = ctx->admitted
             && !(ctx->refused && !(ctx->slot && r->upstream_states));

    if (ctx->taken) {
        ngx_http_apikey_log_settle(r, amcf, ctx, passed);
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

    apikey_stats_add(&amcf->sh->stats.requests[ctx->verdict], 1);

    if (ctx->slot) {
        ngx_http_apikey_log_close(r, amcf, ctx);
    }

    return NGX_OK;
}


/*
 * What did not pass has cost nothing.  Where nobody knows what a request has
 * cost, what it has paid is kept.
 */

static void
ngx_http_apikey_log_settle(ngx_http_request_t *r,
    ngx_http_apikey_main_conf_t *amcf, ngx_http_apikey_ctx_t *ctx,
    ngx_uint_t passed)
{
    ngx_uint_t                  i;
    ngx_http_apikey_account_t  *account;
    ngx_http_apikey_metered_t   metered;

    (void) ngx_http_apikey_meter_end(r, ctx, &metered);

    for (i = 0; i < ctx->decision.naccounts; i++) {
        account = &ctx->decision.accounts[i];

        account->actual = passed ? account->cost : 0;

        if (account->unit == APIKEY_UNIT_CONCURRENT) {
            account->actual = 0;

        } else if (!passed) {
            continue;

        } else if (account->unit == APIKEY_UNIT_TOKENS) {
            if (!metered.tokens_unknown) {
                account->actual = metered.input + metered.output;
            }

        } else if (account->unit == APIKEY_UNIT_COST) {
            if (metered.cost >= 0) {
                account->actual = (uint64_t) metered.cost;
            }
        }
    }

    if (ctx->slot) {
        ngx_http_apikey_usage_release(ctx->slot);
    }

    ngx_http_apikey_settle(amcf->limiter, &ctx->decision);
}


static void
ngx_http_apikey_log_close(ngx_http_request_t *r,
    ngx_http_apikey_main_conf_t *amcf, ngx_http_apikey_ctx_t *ctx)
{
    ngx_uint_t                   status;
    ngx_http_apikey_metered_t    metered;
    ngx_http_apikey_usage_end_t  end;

    ngx_memzero(&end, sizeof(ngx_http_apikey_usage_end_t));

    status = ngx_http_apikey_status(r);
    (void) ngx_http_apikey_meter_end(r, ctx, &metered);

    end.status = (uint16_t) status;
    end.end = ngx_http_apikey_log_end(r, status);
    end.source = metered.source;
    end.tokens_input = metered.input;
    end.tokens_output = metered.output;
    end.tokens_cached = metered.cached;
    end.tokens_reasoning = metered.reasoning;
    end.cost = metered.cost;
    end.price = metered.price;
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
