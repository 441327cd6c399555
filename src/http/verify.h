
/*
 * What verify.c (the decision), verify_read.c (the request), verify_once.c
 * (its Idempotency-Key) and verify_end.c (its record and answer) share: one
 * POST api-keys/verify.
 *
 * Everything lives in the request's pool.  The key's plaintext is wiped as
 * soon as its digests are known.
 */


#ifndef NGX_HTTP_APIKEY_VERIFY_H_INCLUDED
#define NGX_HTTP_APIKEY_VERIFY_H_INCLUDED


#include "http/admin.h"


typedef struct {
    ngx_http_apikey_admin_t  *admin;
    ngx_http_apikey_ctx_t    *ctx;       /* of a request like that one; not
                                            this request's */
    ngx_array_t              *scopes;    /* ngx_str_t; NULL: none wanted */
    ngx_str_t                 model;     /* len 0: none */
    ngx_str_t                 service;   /* len 0: the default */
    ngx_int_t                 find_rc;

    u_char                    digest[APIKEY_DIGEST_LEN];  /* of any key */
    ngx_msec_t                claimed;
    ngx_str_t                 answer;    /* while it is being kept */

    unsigned                  once:1;        /* has an Idempotency-Key */
    unsigned                  claiming:1;    /* Postgres is asked for it */
    unsigned                  keeping:1;     /* Postgres is given answer */
    unsigned                  impossible:1;  /* no key: its length, or a
                                                checksum that is wrong */
    unsigned                  finding:1;     /* Postgres is asked */
    unsigned                  deciding:1;    /* the limiter will call back */
    unsigned                  hidden:1;      /* nothing is said about it */
} ngx_http_apikey_verify_t;


/* verify_read.c: NGX_OK, or the end of the request: an answer is sent. */
ngx_int_t ngx_http_apikey_verify_read(ngx_http_apikey_verify_t *v);

/*
 * verify_once.c.  claim: as a stage, comes back with v->claiming.  claimed:
 * NGX_OK: to be decided, or the end of the request.  keep: instead of sending
 * the answer; comes back with v->keeping, for kept.
 */
ngx_int_t ngx_http_apikey_verify_claim(ngx_http_apikey_verify_t *v);
ngx_int_t ngx_http_apikey_verify_claimed(ngx_http_apikey_verify_t *v);
ngx_uint_t ngx_http_apikey_verify_late(ngx_http_apikey_verify_t *v);
ngx_int_t ngx_http_apikey_verify_keep(ngx_http_apikey_verify_t *v,
    ngx_str_t *answer);
ngx_int_t ngx_http_apikey_verify_kept(ngx_http_apikey_verify_t *v);

/* verify_end.c: fills ctx->start; answers */
ngx_int_t ngx_http_apikey_verify_describe(ngx_http_apikey_verify_t *v);
ngx_int_t ngx_http_apikey_verify_end(ngx_http_apikey_verify_t *v,
    apikey_verdict_e verdict);


#endif /* NGX_HTTP_APIKEY_VERIFY_H_INCLUDED */
