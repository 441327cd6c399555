
/*
 * What is admitted without Redis: counted, and on its way there.
 *
 * Everything here wants the zone's mutex held by the caller, and does nothing
 * in an nginx that has no file of tallies, which is one without apikey_redis.
 */


#ifndef NGX_HTTP_APIKEY_ALONE_H_INCLUDED
#define NGX_HTTP_APIKEY_ALONE_H_INCLUDED


#include "limit/limiter.h"


/* apikey_redis_down allow: whatever the limits say it is paid here. */
void ngx_http_apikey_alone_allow(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, int64_t now);

/* A decision has taken from the table; its request has ended. */
void ngx_http_apikey_alone_paid(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, int64_t now);
void ngx_http_apikey_alone_settled(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, int64_t now);

/* Something of this account is still to be told, before more is taken. */
ngx_uint_t ngx_http_apikey_alone_owes(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_lease_entry_t *entry);

/* The next of it, for a LEASE about these limits; 0: there is nothing. */
ngx_uint_t ngx_http_apikey_alone_sums(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_lease_entry_t *entry, const apikey_account_limit_t *limits,
    ngx_uint_t n, apikey_account_sums_t *sums);

/* That LEASE has been answered. */
void ngx_http_apikey_alone_acked(ngx_http_apikey_limiter_t *l,
    const ngx_http_apikey_account_t *account,
    const apikey_account_limit_t *limits, const apikey_account_sums_t *sums);


#endif /* NGX_HTTP_APIKEY_ALONE_H_INCLUDED */
