
/*
 * LEASE and TAKE: the calls of the Redis script over the values of accounts,
 * with the packing of their arguments and of their replies.
 *
 *     EVALSHA sha n KEY... HEAD BLOCK... [MARKER]
 *
 * (or EVAL with the text) takes from all n accounts or from none, or leases
 * of one.  KEY is
 *
 *     <prefix>:{<root>}:<k|o>:<holder>:<r|t|c|n>:<scope, 16 hex digits>
 *
 * and MARKER the key that says since when its data are there (wire/redis.h).
 * docs/leases.md has head, block and replies field by field: packed doubles,
 * little-endian, of integers within 2^53, and names of eight bytes.
 *
 * Buffers are the caller's.  Called by limit/ only.
 */


#ifndef NGX_HTTP_APIKEY_SCRIPT_H_INCLUDED
#define NGX_HTTP_APIKEY_SCRIPT_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>

#include "limit/account.h"
#include "limit/bucket.h"
#include "limit/decide.h"


#define NGX_HTTP_APIKEY_SCRIPT_SHA   40
#define NGX_HTTP_APIKEY_SCRIPT_HEAD  (7 * 8)


typedef enum {
    NGX_HTTP_APIKEY_SCRIPT_TAKE = 0,
    NGX_HTTP_APIKEY_SCRIPT_LEASE
} ngx_http_apikey_script_e;


extern ngx_str_t  ngx_http_apikey_script;        /* the Lua text */


/* Hex of the text's SHA-1. */
void ngx_http_apikey_script_sha(u_char sha[NGX_HTTP_APIKEY_SCRIPT_SHA]);

/*
 * HEAD; cluster: values may have come from another primary; complete: what
 * limits are said to have used has all until then.
 */
u_char *ngx_http_apikey_script_head(u_char *p, ngx_uint_t op,
    ngx_http_apikey_redis_epoch_t *epoch, ngx_uint_t cluster,
    uint64_t complete);

/* Bytes that a key and a block take at most. */
size_t ngx_http_apikey_script_size(ngx_str_t *prefix, ngx_uint_t nlimits);

u_char *ngx_http_apikey_script_key(u_char *p, ngx_str_t *prefix,
    const ngx_http_apikey_account_t *account);

/* A block is the call, then what is asked or the cost, then the limits. */
u_char *ngx_http_apikey_script_call(u_char *p,
    const apikey_account_call_t *call);
u_char *ngx_http_apikey_script_ask(u_char *p, const apikey_account_ask_t *ask);
u_char *ngx_http_apikey_script_cost(u_char *p, uint64_t cost);
u_char *ngx_http_apikey_script_limit(u_char *p,
    const apikey_account_limit_t *limit);


typedef struct {
    int64_t      now;            /* Redis time, us */
    ngx_uint_t   taken;
    u_char      *pos;            /* private */
    u_char      *last;
} ngx_http_apikey_script_reply_t;


/* NGX_ERROR, all of them: this is no such reply. */
ngx_int_t ngx_http_apikey_script_reply(ngx_http_apikey_script_reply_t *reply,
    ngx_str_t *text);

/* What LEASE grants, before the levels. */
ngx_int_t ngx_http_apikey_script_grant(ngx_http_apikey_script_reply_t *reply,
    apikey_account_grant_t *grant);

/* The next account of TAKE, and the next limit, in the order of the call. */
ngx_int_t ngx_http_apikey_script_account(
    ngx_http_apikey_script_reply_t *reply, uint64_t *era, uint64_t *out,
    uint64_t *cost);
ngx_int_t ngx_http_apikey_script_level(ngx_http_apikey_script_reply_t *reply,
    apikey_bucket_t *level);

/* After the last one: NGX_OK if nothing is left. */
ngx_int_t ngx_http_apikey_script_end(ngx_http_apikey_script_reply_t *reply);


#endif /* NGX_HTTP_APIKEY_SCRIPT_H_INCLUDED */
