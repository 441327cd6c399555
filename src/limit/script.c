
/*
 * TAKE: keys, arguments and replies, packed and unpacked.
 *
 * Doubles are written and read byte by byte, so that any machine may share
 * a Redis with any other.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_sha1.h>

#include "base/number.h"
#include "base/uuid.h"
#include "limit/script.h"
#include "limit/script_lua.h"


#define NGX_HTTP_APIKEY_SCRIPT_COST    8         /* bytes */
#define NGX_HTTP_APIKEY_SCRIPT_BUCKET  40
#define NGX_HTTP_APIKEY_SCRIPT_HEAD    16
#define NGX_HTTP_APIKEY_SCRIPT_LEVEL   16


static u_char *ngx_http_apikey_script_put(u_char *p, uint64_t n);
static u_char *ngx_http_apikey_script_put_double(u_char *p, uint64_t n);
static u_char *ngx_http_apikey_script_get_double(u_char *p, uint64_t *n);


ngx_str_t  ngx_http_apikey_script = {
    sizeof(ngx_http_apikey_script_lua) - 1,
    (u_char *) ngx_http_apikey_script_lua
};


void
ngx_http_apikey_script_sha(u_char sha[40])
{
    u_char      digest[20];
    ngx_sha1_t  ctx;

    ngx_sha1_init(&ctx);
    ngx_sha1_update(&ctx, ngx_http_apikey_script.data,
                    ngx_http_apikey_script.len);
    ngx_sha1_final(digest, &ctx);

    ngx_hex_dump(sha, digest, sizeof(digest));
}


size_t
ngx_http_apikey_script_size(ngx_str_t *prefix,
    ngx_http_apikey_account_t *account)
{
    return prefix->len + sizeof(":{}:k::r:") - 1 + 2 * APIKEY_UUID_TEXT_LEN
           + 16 + NGX_HTTP_APIKEY_SCRIPT_COST
           + account->nbuckets * NGX_HTTP_APIKEY_SCRIPT_BUCKET;
}


u_char *
ngx_http_apikey_script_key(u_char *p, ngx_str_t *prefix,
    ngx_http_apikey_account_t *account)
{
    u_char      scope[8];
    ngx_uint_t  i;

    static const char  levels[APIKEY_LEVELS] = { 'k', 'o' };
    static const char  units[APIKEY_UNITS] = { 'r', 't', 'c', 'n' };

    p = ngx_cpymem(p, prefix->data, prefix->len);
    *p++ = ':';
    *p++ = '{';
    apikey_uuid_format((char *) p, account->root);
    p += APIKEY_UUID_TEXT_LEN;
    *p++ = '}';
    *p++ = ':';
    *p++ = levels[account->level];
    *p++ = ':';
    apikey_uuid_format((char *) p, account->holder);
    p += APIKEY_UUID_TEXT_LEN;
    *p++ = ':';
    *p++ = units[account->unit];
    *p++ = ':';

    for (i = 0; i < 8; i++) {
        scope[i] = (u_char) (account->scope >> (56 - 8 * i));
    }

    return (u_char *) apikey_hex_format((char *) p, scope, 8);
}


/* cost, then a bucket: id, token, refill, capacity, tick */

u_char *
ngx_http_apikey_script_arg(u_char *p, ngx_http_apikey_account_t *account)
{
    uint64_t               cost;
    ngx_uint_t             i;
    const apikey_limit_t  *limit;

    /* 2^53 is over every capacity and still exact */

    cost = ngx_min(account->cost, APIKEY_BUCKET_MAX + 1);

    p = ngx_http_apikey_script_put_double(p, cost);

    for (i = 0; i < account->nbuckets; i++) {
        limit = account->buckets[i].limit;

        p = ngx_http_apikey_script_put(p, limit->id);
        p = ngx_http_apikey_script_put_double(p, limit->rate.token);
        p = ngx_http_apikey_script_put_double(p, limit->rate.refill);
        p = ngx_http_apikey_script_put_double(p, limit->rate.capacity);
        p = ngx_http_apikey_script_put_double(p, limit->rate.tick);
    }

    return p;
}


/* taken, now, then a bucket: used, at */

ngx_int_t
ngx_http_apikey_script_reply(ngx_http_apikey_script_reply_t *reply,
    ngx_str_t *text, ngx_uint_t nbuckets)
{
    u_char    *p;
    uint64_t   taken, now;

    if (text->len != NGX_HTTP_APIKEY_SCRIPT_HEAD
                     + nbuckets * NGX_HTTP_APIKEY_SCRIPT_LEVEL)
    {
        return NGX_ERROR;
    }

    p = ngx_http_apikey_script_get_double(text->data, &taken);
    p = ngx_http_apikey_script_get_double(p, &now);

    if (taken > 1 || now > APIKEY_BUCKET_MAX) {
        return NGX_ERROR;
    }

    reply->taken = taken;
    reply->now = now;
    reply->pos = p;

    return NGX_OK;
}


ngx_int_t
ngx_http_apikey_script_next(ngx_http_apikey_script_reply_t *reply,
    apikey_bucket_t *bucket)
{
    u_char  *p;

    p = ngx_http_apikey_script_get_double(reply->pos, &bucket->used);
    p = ngx_http_apikey_script_get_double(p, &bucket->at);

    reply->pos = p;

    return (bucket->used > APIKEY_BUCKET_MAX || bucket->at > APIKEY_BUCKET_MAX)
           ? NGX_ERROR : NGX_OK;
}


/* Written out, a compiler makes one store of it, or one load below. */

static u_char *
ngx_http_apikey_script_put(u_char *p, uint64_t n)
{
    p[0] = (u_char) n;
    p[1] = (u_char) (n >> 8);
    p[2] = (u_char) (n >> 16);
    p[3] = (u_char) (n >> 24);
    p[4] = (u_char) (n >> 32);
    p[5] = (u_char) (n >> 40);
    p[6] = (u_char) (n >> 48);
    p[7] = (u_char) (n >> 56);

    return p + 8;
}


static u_char *
ngx_http_apikey_script_put_double(u_char *p, uint64_t n)
{
    double    d;
    uint64_t  bits;

    d = (double) n;
    ngx_memcpy(&bits, &d, 8);

    return ngx_http_apikey_script_put(p, bits);
}


/* What is no integer in [0, 2^53) is read as UINT64_MAX. */

static u_char *
ngx_http_apikey_script_get_double(u_char *p, uint64_t *n)
{
    double    d;
    uint64_t  bits;

    bits = (uint64_t) p[0] | (uint64_t) p[1] << 8 | (uint64_t) p[2] << 16
           | (uint64_t) p[3] << 24 | (uint64_t) p[4] << 32
           | (uint64_t) p[5] << 40 | (uint64_t) p[6] << 48
           | (uint64_t) p[7] << 56;

    ngx_memcpy(&d, &bits, 8);

    *n = UINT64_MAX;

    if (d >= 0 && d <= (double) APIKEY_BUCKET_MAX
        && d == (double) (uint64_t) d)
    {
        *n = (uint64_t) d;
    }

    return p + 8;
}
