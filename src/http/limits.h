
/*
 * The limits of a request: its accounts, the decision on them, and what is
 * said of it.  For the files of http/; accounts and buckets live in the
 * request's pool.
 */


#ifndef NGX_HTTP_APIKEY_HTTP_LIMITS_H_INCLUDED
#define NGX_HTTP_APIKEY_HTTP_LIMITS_H_INCLUDED


#include "http/http.h"


/*
 * limits.c: NGX_OK accounts are set (perhaps none), NGX_DECLINED a limit
 * that cannot be counted here, NGX_ERROR no memory.  Of ctx->start service
 * and model must be set.
 */
ngx_int_t ngx_http_apikey_limits_build(ngx_http_apikey_main_conf_t *amcf,
    ngx_http_apikey_ctx_t *ctx);

/* Once the key is known: its limits will be asked about, and what that takes
   is not foreseen. */
void ngx_http_apikey_limits_ahead(ngx_http_apikey_main_conf_t *amcf,
    ngx_http_apikey_ctx_t *ctx);

/* known.c: decides ctx->decision, as ngx_http_apikey_decide() does */
ngx_int_t ngx_http_apikey_known_decide(ngx_http_apikey_main_conf_t *amcf,
    ngx_http_apikey_ctx_t *ctx);
void ngx_http_apikey_known_cancel(ngx_http_apikey_ctx_t *ctx);

/* known_request.c; NULL: no memory. */
const char *ngx_http_apikey_known_request(ngx_http_apikey_known_t *known);

/*
 * All nodes must have shipped what they had until then: Redis believes no
 * answer that is complete for less than both, whichever is later.  One that
 * lies ahead yet cannot be asked for, but what is answered tells at least of
 * use; 0: nothing was ever lost.
 */
uint64_t ngx_http_apikey_known_after(const ngx_http_apikey_decision_t *d,
    int64_t us);

/* It is decided by this node's own table. */
ngx_uint_t ngx_http_apikey_known_alone(const ngx_http_apikey_decision_t *d);

void ngx_http_apikey_limits_result(ngx_http_apikey_ctx_t *ctx);
apikey_verdict_e ngx_http_apikey_limits_verdict(ngx_http_apikey_ctx_t *ctx);
uint64_t ngx_http_apikey_limit_window(ngx_http_apikey_bucket_t *b);
ngx_int_t ngx_http_apikey_limit_full_name(ngx_pool_t *pool,
    ngx_http_apikey_bucket_t *b, ngx_uint_t level, ngx_str_t *name);

/* Whole seconds, rounded up. */
#define ngx_http_apikey_seconds(us)  ((us) / 1000000 + ((us) % 1000000 != 0))

/* The limit to speak of, or NULL: the one that refused, else the tightest. */
ngx_http_apikey_bucket_t *ngx_http_apikey_limit_named(
    ngx_http_apikey_ctx_t *ctx, ngx_uint_t *level);

/* Seconds, rounded up; 0: never, or not refused by what opens again. */
uint64_t ngx_http_apikey_retry_after(ngx_http_apikey_ctx_t *ctx);

/* detail.c: a limit in words; bytes written */
size_t ngx_http_apikey_detail(ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_bucket_t *b, ngx_uint_t level, u_char *buf, size_t size);
void ngx_http_apikey_json_amount(apikey_json_t *j, uint64_t n,
    ngx_uint_t unit);
ngx_uint_t ngx_http_apikey_currency(ngx_http_request_t *r, char currency[4]);

#define ngx_http_apikey_verdict_limited(verdict)                              \
    ((verdict) >= APIKEY_RATE_LIMITED && (verdict) <= APIKEY_BUDGET_EXCEEDED)


#endif /* NGX_HTTP_APIKEY_HTTP_LIMITS_H_INCLUDED */
