
/*
 * LEASE and TAKE: keys, arguments and replies, packed and unpacked.
 *
 * Doubles are written and read byte by byte, so that any machine may share
 * a Redis with any other.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_sha1.h>

#include "base/number.h"
#include "base/uuid.h"
#include "limit/account_lua.h"
#include "limit/script.h"


#define NGX_HTTP_APIKEY_SCRIPT_CALL   (10 * 8)   /* bytes */
#define NGX_HTTP_APIKEY_SCRIPT_ASK    (8 * 8)    /* more than a cost */
#define NGX_HTTP_APIKEY_SCRIPT_LIMIT  (11 * 8)
#define NGX_HTTP_APIKEY_SCRIPT_SKEW   1000000    /* us */


static u_char *ngx_http_apikey_script_put(u_char *p, uint64_t n);
static u_char *ngx_http_apikey_script_put_double(u_char *p, int64_t n);
static ngx_int_t ngx_http_apikey_script_get(
    ngx_http_apikey_script_reply_t *reply, uint64_t *n);


ngx_str_t  ngx_http_apikey_script = {
    sizeof(apikey_account_lua) - 1,
    (u_char *) apikey_account_lua
};


void
ngx_http_apikey_script_sha(u_char sha[NGX_HTTP_APIKEY_SCRIPT_SHA])
{
    u_char      digest[20];
    ngx_sha1_t  ctx;

    ngx_sha1_init(&ctx);
    ngx_sha1_update(&ctx, ngx_http_apikey_script.data,
                    ngx_http_apikey_script.len);
    ngx_sha1_final(digest, &ctx);

    ngx_hex_dump(sha, digest, sizeof(digest));
}


u_char *
ngx_http_apikey_script_head(u_char *p, ngx_uint_t op,
    ngx_http_apikey_redis_epoch_t *epoch, ngx_uint_t cluster,
    uint64_t complete)
{
    int64_t  moved;

    /* clocks of primaries may differ; 0 is nobody's */

    moved = cluster ? (int64_t) epoch->own + NGX_HTTP_APIKEY_SCRIPT_SKEW : 0;

    p = ngx_http_apikey_script_put_double(p, op);
    p = ngx_http_apikey_script_put_double(p, epoch->id);

    p = ngx_http_apikey_script_put_double(p, epoch->since);

    p = ngx_http_apikey_script_put_double(p, moved);
    p = ngx_http_apikey_script_put_double(p, epoch->gone);
    p = ngx_http_apikey_script_put_double(p, complete);

    return ngx_http_apikey_script_put_double(p, epoch->made);
}


size_t
ngx_http_apikey_script_size(ngx_str_t *prefix, ngx_uint_t nlimits)
{
    return prefix->len + sizeof(":{}:k::r:") - 1 + 2 * APIKEY_UUID_TEXT_LEN
           + 16 + NGX_HTTP_APIKEY_SCRIPT_CALL + NGX_HTTP_APIKEY_SCRIPT_ASK
           + nlimits * NGX_HTTP_APIKEY_SCRIPT_LIMIT;
}


u_char *
ngx_http_apikey_script_key(u_char *p, ngx_str_t *prefix,
    const ngx_http_apikey_account_t *account)
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


/* flags, lease, horizon, then the node's sums */

u_char *
ngx_http_apikey_script_call(u_char *p, const apikey_account_call_t *call)
{
    p = ngx_http_apikey_script_put_double(p, call->slots
                                             + 2 * call->sums.doubt);
    p = ngx_http_apikey_script_put_double(p, call->lease);
    p = ngx_http_apikey_script_put_double(p, call->horizon);

    p = ngx_http_apikey_script_put(p, call->sums.node);
    p = ngx_http_apikey_script_put_double(p, call->sums.number);
    p = ngx_http_apikey_script_put_double(p, call->sums.sum);
    p = ngx_http_apikey_script_put_double(p, call->sums.acked);
    p = ngx_http_apikey_script_put_double(p, call->sums.era);
    p = ngx_http_apikey_script_put_double(p, call->sums.part);

    return ngx_http_apikey_script_put_double(p, call->sums.part_acked);
}


u_char *
ngx_http_apikey_script_ask(u_char *p, const apikey_account_ask_t *ask)
{
    p = ngx_http_apikey_script_put_double(p, ask->born);
    p = ngx_http_apikey_script_put_double(p, ask->generation);
    p = ngx_http_apikey_script_put_double(p, ask->spent);
    p = ngx_http_apikey_script_put_double(p, ask->returned);
    p = ngx_http_apikey_script_put_double(p, ask->kept);
    p = ngx_http_apikey_script_put_double(p, ask->busy);
    p = ngx_http_apikey_script_put_double(p, ask->want);

    return ngx_http_apikey_script_put_double(p, ask->least);
}


u_char *
ngx_http_apikey_script_cost(u_char *p, uint64_t cost)
{
    if (cost == APIKEY_ACCOUNT_WHOLE) {
        return ngx_http_apikey_script_put_double(p, -1);
    }

    /* more than any limit has, and still exact */

    cost = ngx_min(cost, APIKEY_ACCOUNT_MAX);

    return ngx_http_apikey_script_put_double(p, cost);
}


u_char *
ngx_http_apikey_script_limit(u_char *p, const apikey_account_limit_t *limit)
{
    p = ngx_http_apikey_script_put(p, limit->id);
    p = ngx_http_apikey_script_put_double(p, limit->rate.token);
    p = ngx_http_apikey_script_put_double(p, limit->rate.refill);
    p = ngx_http_apikey_script_put_double(p, limit->rate.capacity);
    p = ngx_http_apikey_script_put_double(p, limit->rate.tick);
    p = ngx_http_apikey_script_put_double(p, limit->end);
    p = ngx_http_apikey_script_put_double(p, limit->next);
    p = ngx_http_apikey_script_put_double(p, limit->fill);
    p = ngx_http_apikey_script_put_double(p, limit->made);
    p = ngx_http_apikey_script_put_double(p,
                             limit->known == APIKEY_ACCOUNT_UNKNOWN
                             ? -1 : (int64_t) limit->known);

    return ngx_http_apikey_script_put_double(p, (!limit->quota ? 0
                                                 : limit->touched ? 2 : 1)
                                                + 4 * limit->mode);
}


/* taken (LEASE: 1), now */

ngx_int_t
ngx_http_apikey_script_reply(ngx_http_apikey_script_reply_t *reply,
    ngx_str_t *text)
{
    uint64_t  taken, now;

    reply->pos = text->data;
    reply->last = text->data + text->len;

    if (ngx_http_apikey_script_get(reply, &taken) != NGX_OK
        || ngx_http_apikey_script_get(reply, &now) != NGX_OK
        || taken > 1)
    {
        return NGX_ERROR;
    }

    reply->taken = taken;
    reply->now = now;

    return NGX_OK;
}


/* granted, generation, born, era, active, hold, life, kept, out */

ngx_int_t
ngx_http_apikey_script_grant(ngx_http_apikey_script_reply_t *reply,
    apikey_account_grant_t *grant)
{
    uint64_t    n[9];
    ngx_uint_t  i;

    for (i = 0; i < 9; i++) {
        if (ngx_http_apikey_script_get(reply, &n[i]) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    grant->granted = n[0];
    grant->generation = n[1];
    grant->born = n[2];
    grant->era = n[3];
    grant->active = n[4];
    grant->hold = n[5];
    grant->life = n[6];
    grant->kept = (n[7] == 1);
    grant->out = n[8];

    return n[7] > 1 ? NGX_ERROR : NGX_OK;
}


/* era, out, cost */

ngx_int_t
ngx_http_apikey_script_account(ngx_http_apikey_script_reply_t *reply,
    uint64_t *era, uint64_t *out, uint64_t *cost)
{
    if (ngx_http_apikey_script_get(reply, era) != NGX_OK
        || ngx_http_apikey_script_get(reply, out) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_apikey_script_get(reply, cost);
}


ngx_int_t
ngx_http_apikey_script_level(ngx_http_apikey_script_reply_t *reply,
    apikey_bucket_t *level)
{
    if (ngx_http_apikey_script_get(reply, &level->used) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_http_apikey_script_get(reply, &level->at);
}


ngx_int_t
ngx_http_apikey_script_end(ngx_http_apikey_script_reply_t *reply)
{
    return reply->pos == reply->last ? NGX_OK : NGX_ERROR;
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
ngx_http_apikey_script_put_double(u_char *p, int64_t n)
{
    double    d;
    uint64_t  bits;

    d = (double) n;
    ngx_memcpy(&bits, &d, 8);

    return ngx_http_apikey_script_put(p, bits);
}


/* NGX_ERROR: nothing is left, or it is no integer in [0, 2^53). */

static ngx_int_t
ngx_http_apikey_script_get(ngx_http_apikey_script_reply_t *reply, uint64_t *n)
{
    double    d;
    u_char   *p;
    uint64_t  bits;

    p = reply->pos;

    if (reply->last - p < 8) {
        return NGX_ERROR;
    }

    bits = (uint64_t) p[0] | (uint64_t) p[1] << 8 | (uint64_t) p[2] << 16
           | (uint64_t) p[3] << 24 | (uint64_t) p[4] << 32
           | (uint64_t) p[5] << 40 | (uint64_t) p[6] << 48
           | (uint64_t) p[7] << 56;

    ngx_memcpy(&d, &bits, 8);

    if (!(d >= 0 && d <= (double) APIKEY_BUCKET_MAX
          && d == (double) (uint64_t) d))
    {
        return NGX_ERROR;
    }

    *n = (uint64_t) d;
    reply->pos = p + 8;

    return NGX_OK;
}
