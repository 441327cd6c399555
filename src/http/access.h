
/*
 * What access.c (the order of things), identify.c (who is calling), verdict.c
 * (what each of them does) and suspend.c (waiting) share.
 */


#ifndef NGX_HTTP_APIKEY_ACCESS_H_INCLUDED
#define NGX_HTTP_APIKEY_ACCESS_H_INCLUDED


#include "http/http.h"


/*
 * lend.c: memory at the beginning of a block that is lent to the pool; NULL:
 * none.  The last cleanup handler of the pool may end it, and then the block
 * is kept; else it goes with the pool.
 */
void *ngx_http_apikey_lend(ngx_pool_t *pool, size_t size);
void ngx_http_apikey_lend_end(ngx_pool_t *pool, void *p);

/* context.c; NULL: no memory. */
ngx_http_apikey_ctx_t *ngx_http_apikey_ctx_create(ngx_http_request_t *r);

/* Its id: that of the request upstream, of the answer, and of its record. */
void ngx_http_apikey_ctx_name(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);

/*
 * identify.c, in three steps, so that what a look-up needs of the zone is on
 * its way to the cache while other things are done.
 *
 * identify(): NGX_OK: there is a key, to be looked up, and it stands in copy,
 * for the request's may be hidden meanwhile; NGX_DONE: there is none and there
 * need not be; NGX_DECLINED: refused, verdict is set.
 * identify_known(): NGX_OK: it is found; NGX_AGAIN: it is looked up in
 * Postgres; NGX_DECLINED.
 */
ngx_int_t ngx_http_apikey_identify(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, u_char copy[APIKEY_KEY_MAX], ngx_str_t *key);
void ngx_http_apikey_identify_ahead(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
ngx_int_t ngx_http_apikey_identify_known(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_str_t *key);

/* Postgres has answered: NGX_OK, or NGX_DECLINED. */
ngx_int_t ngx_http_apikey_identify_end(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);

/* Notes verdict and the reason for the metrics; always NGX_DECLINED. */
ngx_int_t ngx_http_apikey_fail(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, apikey_verdict_e verdict,
    apikey_fail_e reason);

/* Of a key that is found: revoked, enabled, expiry. */
apikey_verdict_e ngx_http_apikey_check_key(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);

/* In every location a request enters: address, scope. */
apikey_verdict_e ngx_http_apikey_check_location(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);

/* There, too, once the body is read: model, stream=require. */
apikey_verdict_e ngx_http_apikey_check_body(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);

/* Where a dry run does not refuse: may that count as "may pass"? */
#define ngx_http_apikey_passes_dry(ctx)                                       \
    ((ctx)->found && !ngx_http_apikey_verdict_final((ctx)->verdict))

/* Fills start and weight from key, request and configuration. */
ngx_int_t ngx_http_apikey_describe(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);

/* NGX_AGAIN: asked, now suspend(); NGX_ERROR: cannot be asked. */
ngx_int_t ngx_http_apikey_suspend_lookup(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);

/* NGX_AGAIN: asked, now suspend(); else the decision is there. */
ngx_int_t ngx_http_apikey_suspend_decide(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);

/* Returns what the access phase is to return. */
ngx_int_t ngx_http_apikey_suspend(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, char *action);

/* A cleanup handler: nobody may call back any more.  Safe at any time. */
void ngx_http_apikey_detach(void *data);

/* These return what the access phase is to return, too. */
ngx_int_t ngx_http_apikey_admit(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
ngx_int_t ngx_http_apikey_admit_anonymous(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
ngx_int_t ngx_http_apikey_refuse(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, apikey_verdict_e verdict);


#endif /* NGX_HTTP_APIKEY_ACCESS_H_INCLUDED */
