
/*
 * From the limits of a key and its owner to the accounts of a decision, and
 * back: which limit to speak of.
 *
 * Accounts and buckets live in the context's pool.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/pattern.h"
#include "http/http.h"


typedef struct {
    const apikey_limit_t       *limits;
    ngx_uint_t                  nlimits;
    ngx_uint_t                  level;
    const u_char               *holder;
} ngx_http_apikey_holder_t;


static ngx_int_t ngx_http_apikey_limits_holder(ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_holder_t *holder, ngx_str_t *service,
    ngx_http_apikey_bucket_t **bucket);
static void ngx_http_apikey_limits_account(ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_holder_t *holder, ngx_str_t *service, uint64_t scope,
    ngx_http_apikey_bucket_t **bucket);
static ngx_int_t ngx_http_apikey_limit_applies(const apikey_limit_t *limit,
    ngx_str_t *service);
static ngx_int_t ngx_http_apikey_tighter(ngx_http_apikey_bucket_t *a,
    ngx_http_apikey_bucket_t *b);


ngx_int_t
ngx_http_apikey_limits_build(ngx_http_apikey_ctx_t *ctx, ngx_str_t *service)
{
    ngx_int_t                  rc;
    ngx_uint_t                 n;
    ngx_http_apikey_bucket_t  *bucket;
    ngx_http_apikey_holder_t   holder;

    ctx->decision.naccounts = 0;

    n = ctx->key.nkey_limits + ctx->key.nowner_limits;

    if (n == 0) {
        return NGX_OK;
    }

    ctx->decision.accounts = ngx_pcalloc(ctx->pool,
                                 n * (sizeof(ngx_http_apikey_account_t)
                                      + sizeof(ngx_http_apikey_bucket_t)));
    if (ctx->decision.accounts == NULL) {
        return NGX_ERROR;
    }

    bucket = (ngx_http_apikey_bucket_t *) &ctx->decision.accounts[n];

    holder.limits = ctx->key.key_limits;
    holder.nlimits = ctx->key.nkey_limits;
    holder.level = APIKEY_LEVEL_KEY;
    holder.holder = ctx->key.id;

    rc = ngx_http_apikey_limits_holder(ctx, &holder, service, &bucket);

    if (rc != NGX_OK) {
        return rc;
    }

    holder.limits = ctx->key.owner_limits;
    holder.nlimits = ctx->key.nowner_limits;
    holder.level = APIKEY_LEVEL_OWNER;
    holder.holder = ctx->key.owner_uuid;

    return ngx_http_apikey_limits_holder(ctx, &holder, service, &bucket);
}


static ngx_int_t
ngx_http_apikey_limits_holder(ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_holder_t *holder, ngx_str_t *service,
    ngx_http_apikey_bucket_t **bucket)
{
    ngx_uint_t                  i, k;
    const apikey_limit_t       *limit;
    ngx_http_apikey_account_t  *account;

    limit = holder->limits;

    for (i = 0; i < holder->nlimits; i++, limit = apikey_limit_next(limit)) {

        /* what this version cannot count must not pass as unlimited */

        if (limit->unit != APIKEY_UNIT_REQUESTS || limit->model_len) {
            return NGX_DECLINED;
        }

        if (!ngx_http_apikey_limit_applies(limit, service)) {
            continue;
        }

        account = ctx->decision.accounts;

        for (k = 0; k < ctx->decision.naccounts; k++) {
            if (account[k].level == holder->level
                && account[k].scope == limit->scope)
            {
                break;
            }
        }

        if (k == ctx->decision.naccounts) {
            ngx_http_apikey_limits_account(ctx, holder, service,
                                           limit->scope, bucket);
        }
    }

    return NGX_OK;
}


/* All limits of one scope are paid together: their buckets are neighbours. */

static void
ngx_http_apikey_limits_account(ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_holder_t *holder, ngx_str_t *service, uint64_t scope,
    ngx_http_apikey_bucket_t **bucket)
{
    ngx_uint_t                  i;
    const u_char               *root;
    const apikey_limit_t       *limit;
    ngx_http_apikey_account_t  *account;

    static const u_char  zero[16];

    account = &ctx->decision.accounts[ctx->decision.naccounts++];

    root = ctx->key.owner_uuid;

    if (ngx_memcmp(root, zero, 16) == 0) {
        root = ctx->key.id;
    }

    ngx_memcpy(account->root, root, 16);
    ngx_memcpy(account->holder, holder->holder, 16);

    account->level = holder->level;
    account->unit = APIKEY_UNIT_REQUESTS;
    account->scope = scope;
    account->cost = ctx->weight;
    account->buckets = *bucket;

    limit = holder->limits;

    for (i = 0; i < holder->nlimits; i++, limit = apikey_limit_next(limit)) {

        if (limit->scope == scope
            && ngx_http_apikey_limit_applies(limit, service))
        {
            (*bucket)->limit = limit;
            (*bucket)++;
            account->nbuckets++;
        }
    }
}


static ngx_int_t
ngx_http_apikey_limit_applies(const apikey_limit_t *limit, ngx_str_t *service)
{
    if (limit->service_len == 0) {
        return 1;
    }

    return apikey_pattern_match(apikey_limit_service(limit),
                                limit->service_len, (char *) service->data,
                                service->len);
}


void
ngx_http_apikey_limits_result(ngx_http_apikey_ctx_t *ctx)
{
    ngx_uint_t                  i, k;
    ngx_http_apikey_bucket_t   *b;
    ngx_http_apikey_account_t  *account;

    ctx->tightest = NULL;
    ctx->binding = NULL;

    account = ctx->decision.accounts;

    for (i = 0; i < ctx->decision.naccounts; i++) {

        for (k = 0; k < account[i].nbuckets; k++) {
            b = &account[i].buckets[k];

            if (ctx->tightest == NULL
                || ngx_http_apikey_tighter(b, ctx->tightest))
            {
                ctx->tightest = b;
                ctx->tightest_level = account[i].level;
            }

            /* several refuse: the one that opens last */

            if (b->refused
                && (ctx->binding == NULL || b->wait > ctx->binding->wait))
            {
                ctx->binding = b;
                ctx->binding_level = account[i].level;
            }
        }
    }
}


/* Least remaining / limit; ties go to the longer window. */

static ngx_int_t
ngx_http_apikey_tighter(ngx_http_apikey_bucket_t *a,
    ngx_http_apikey_bucket_t *b)
{
    unsigned __int128  left, right;

    left = (unsigned __int128) a->remaining * b->limit->limit;
    right = (unsigned __int128) b->remaining * a->limit->limit;

    /* a limit of nothing is as tight as can be */

    if (a->limit->limit == 0 || b->limit->limit == 0) {
        left = a->limit->limit;
        right = b->limit->limit;
    }

    if (left != right) {
        return left < right;
    }

    return a->limit->window > b->limit->window;
}


ngx_http_apikey_bucket_t *
ngx_http_apikey_limit_named(ngx_http_apikey_ctx_t *ctx, ngx_uint_t *level)
{
    if (!ctx->decided) {
        return NULL;
    }

    if ((ctx->refused || ctx->dry) && ctx->binding) {
        *level = ctx->binding_level;
        return ctx->binding;
    }

    if (!ctx->decision.known) {
        return NULL;
    }

    *level = ctx->tightest_level;

    return ctx->tightest;
}


uint64_t
ngx_http_apikey_retry_after(ngx_http_apikey_ctx_t *ctx)
{
    ngx_http_apikey_bucket_t  *b;

    if (!ctx->refused && !ctx->dry) {
        return 0;
    }

    if (ctx->verdict == APIKEY_UNAVAILABLE) {
        return 1;
    }

    b = ctx->binding;

    if (ctx->verdict != APIKEY_RATE_LIMITED || b == NULL) {
        return 0;
    }

    if (b->wait == UINT64_MAX) {

        /* more than this node's share, but Redis may be back at any time */

        return ctx->decision.mode == APIKEY_MODE_DOWN_LOCAL
               && b->limit->burst >= ctx->weight;
    }

    return ngx_max(ngx_http_apikey_seconds(b->wait), 1);
}


/* An owner's limit is called "owner:NAME". */

ngx_int_t
ngx_http_apikey_limit_full_name(ngx_pool_t *pool, ngx_http_apikey_bucket_t *b,
    ngx_uint_t level, ngx_str_t *name)
{
    u_char  *p;

    name->data = (u_char *) apikey_limit_name(b->limit);
    name->len = b->limit->name_len;

    if (level != APIKEY_LEVEL_OWNER) {
        return NGX_OK;
    }

    p = ngx_pnalloc(pool, sizeof("owner:") - 1 + name->len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    p = ngx_cpymem(p, "owner:", sizeof("owner:") - 1);
    ngx_memcpy(p, name->data, name->len);

    name->data = p - (sizeof("owner:") - 1);
    name->len += sizeof("owner:") - 1;

    return NGX_OK;
}
