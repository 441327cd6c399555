
/*
 * TAKE: the Redis script that takes from all buckets of a request or from
 * none, with the packing of its arguments and of its reply.
 *
 * A call is argc = 3 + 2 n for n accounts: EVALSHA sha n KEY... ARG... (or
 * EVAL with the text).  KEY is
 *
 *     <prefix>:{<root>}:<k|o>:<holder>:<r|t|c|n>:<scope, 16 hex digits>
 *
 * Values, arguments and the reply are packed doubles, little-endian, of
 * integers below 2^53; script.c shows them field by field.
 *
 * Buffers are the caller's.  Called by limit/decide.c only.
 */


#ifndef NGX_HTTP_APIKEY_SCRIPT_H_INCLUDED
#define NGX_HTTP_APIKEY_SCRIPT_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>

#include "limit/bucket.h"
#include "limit/decide.h"


extern ngx_str_t  ngx_http_apikey_script;        /* the Lua text */


/* Hex of the text's SHA-1. */
void ngx_http_apikey_script_sha(u_char sha[40]);

/* Bytes that key() and arg() write at most. */
size_t ngx_http_apikey_script_size(ngx_str_t *prefix,
    ngx_http_apikey_account_t *account);

u_char *ngx_http_apikey_script_key(u_char *p, ngx_str_t *prefix,
    ngx_http_apikey_account_t *account);
u_char *ngx_http_apikey_script_arg(u_char *p,
    ngx_http_apikey_account_t *account);


typedef struct {
    ngx_uint_t   taken;
    int64_t      now;            /* Redis time, us */
    u_char      *pos;            /* private */
} ngx_http_apikey_script_reply_t;


/* NGX_ERROR: this is no reply to a call with nbuckets buckets. */
ngx_int_t ngx_http_apikey_script_reply(ngx_http_apikey_script_reply_t *reply,
    ngx_str_t *text, ngx_uint_t nbuckets);

/* The buckets in the order of the call; NGX_ERROR: out of range. */
ngx_int_t ngx_http_apikey_script_next(ngx_http_apikey_script_reply_t *reply,
    apikey_bucket_t *bucket);


#endif /* NGX_HTTP_APIKEY_SCRIPT_H_INCLUDED */
