
/*
 * From the limits of a key and its owner to the accounts of a decision, and
 * back: which limit to speak of.
 *
 * Accounts and buckets live in the request's pool.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/pattern.h"
#include "http/http.h"
#include "http/limits.h"


typedef struct {
    const apikey_limit_t       *limits;
    ngx_uint_t                  nlimits;
    ngx_uint_t                  level;
    const u_char               *holder;
} ngx_http_apikey_holder_t;


/* What the limits of a request are judged by. */

typedef struct {
    ngx_http_apikey_main_conf_t  *amcf;
    ngx_http_apikey_bucket_t     *bucket;        /* the next one */
    apikey_period_t               periods[APIKEY_PERIODS];
} ngx_http_apikey_build_t;


static void ngx_http_apikey_limits_ahead_holder(
    ngx_http_apikey_main_conf_t *amcf, ngx_http_apikey_holder_t *holder,
    ngx_http_apikey_ahead_t *ahead);
static void ngx_http_apikey_limits_key(ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_holder_t *holder);
static void ngx_http_apikey_limits_owner(ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_holder_t *holder);
static ngx_int_t ngx_http_apikey_limits_holder(ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_holder_t *holder, ngx_http_apikey_build_t *build);
static ngx_int_t ngx_http_apikey_limits_period(ngx_http_apikey_ctx_t *ctx,
    const apikey_limit_t *limit, ngx_http_apikey_build_t *build);
static ngx_int_t ngx_http_apikey_limits_account(ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_holder_t *holder, ngx_uint_t first,
    const apikey_limit_t *limit, ngx_http_apikey_build_t *build);
static void ngx_http_apikey_limits_cost(ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_account_t *account);
static ngx_int_t ngx_http_apikey_limit_applies(ngx_http_apikey_ctx_t *ctx,
    const apikey_limit_t *limit);
static ngx_int_t ngx_http_apikey_tighter(ngx_http_apikey_bucket_t *a,
    ngx_http_apikey_bucket_t *b);


void
ngx_http_apikey_limits_ahead(ngx_http_apikey_main_conf_t *amcf,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_uint_t                limits;
    ngx_http_apikey_holder_t  holder;

    limits = ctx->key.nkey_limits + ctx->key.nowner_limits;

    if (ctx->foreseen
        && (limits == 0 || (limits == 1 && ctx->ahead->entry)))
    {
        return;
    }

    ngx_http_apikey_limits_key(ctx, &holder);
    ngx_http_apikey_limits_ahead_holder(amcf, &holder, ctx->ahead);

    ngx_http_apikey_limits_owner(ctx, &holder);
    ngx_http_apikey_limits_ahead_holder(amcf, &holder,
                                        ctx->key.nkey_limits ? NULL
                                                             : ctx->ahead);
}


/* Whether each applies is not known yet: a hint too many is no harm. */

static void
ngx_http_apikey_limits_ahead_holder(ngx_http_apikey_main_conf_t *amcf,
    ngx_http_apikey_holder_t *holder, ngx_http_apikey_ahead_t *ahead)
{
    ngx_uint_t                  i;
    const apikey_limit_t       *limit;
    ngx_http_apikey_account_t   account;
    ngx_http_apikey_limit_at_t  at;

    limit = holder->limits;

    for (i = 0; i < holder->nlimits; i++, limit = apikey_limit_next(limit)) {

        ngx_memcpy(account.holder, holder->holder, 16);
        account.level = holder->level;
        account.unit = limit->unit;
        account.scope = limit->scope;

        ngx_http_apikey_decide_ahead(amcf->limiter, &account, limit, &at);

        if (i == 0 && ahead) {
            ngx_http_apikey_ahead_note(&ahead->link, amcf->shpool, at.link);
            ngx_http_apikey_ahead_note(&ahead->entry, amcf->shpool, at.entry);
        }
    }
}


static void
ngx_http_apikey_limits_key(ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_holder_t *holder)
{
    holder->limits = ctx->key.key_limits;
    holder->nlimits = ctx->key.nkey_limits;
    holder->level = APIKEY_LEVEL_KEY;
    holder->holder = ctx->key.id;
}


static void
ngx_http_apikey_limits_owner(ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_holder_t *holder)
{
    holder->limits = ctx->key.owner_limits;
    holder->nlimits = ctx->key.nowner_limits;
    holder->level = APIKEY_LEVEL_OWNER;
    holder->holder = ctx->key.owner_uuid;
}


ngx_int_t
ngx_http_apikey_limits_build(ngx_http_apikey_main_conf_t *amcf,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_int_t                 rc;
    ngx_uint_t                n;
    ngx_http_apikey_build_t   build;
    ngx_http_apikey_holder_t  holder;

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

    ngx_memzero(&build, sizeof(ngx_http_apikey_build_t));

    build.amcf = amcf;
    build.bucket = (ngx_http_apikey_bucket_t *) &ctx->decision.accounts[n];

    ngx_http_apikey_limits_key(ctx, &holder);

    rc = ngx_http_apikey_limits_holder(ctx, &holder, &build);

    if (rc != NGX_OK) {
        return rc;
    }

    ngx_http_apikey_limits_owner(ctx, &holder);

    return ngx_http_apikey_limits_holder(ctx, &holder, &build);
}


static ngx_int_t
ngx_http_apikey_limits_holder(ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_holder_t *holder, ngx_http_apikey_build_t *build)
{
    ngx_uint_t                  i, k;
    const apikey_limit_t       *limit;
    ngx_http_apikey_account_t  *account;

    limit = holder->limits;

    for (i = 0; i < holder->nlimits; i++, limit = apikey_limit_next(limit)) {

        if (!ngx_http_apikey_limit_applies(ctx, limit)) {
            continue;
        }

        account = ctx->decision.accounts;

        for (k = 0; k < ctx->decision.naccounts; k++) {
            if (account[k].level == holder->level
                && account[k].unit == limit->unit
                && account[k].scope == limit->scope)
            {
                break;
            }
        }

        if (k == ctx->decision.naccounts
            && ngx_http_apikey_limits_account(ctx, holder, i, limit, build)
               != NGX_OK)
        {
            return NGX_DECLINED;
        }
    }

    return NGX_OK;
}


/*
 * All limits of one unit and scope are paid together: their buckets are
 * neighbours.  limit: the first of them, of so many.
 */

static ngx_int_t
ngx_http_apikey_limits_account(ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_holder_t *holder, ngx_uint_t first,
    const apikey_limit_t *limit, ngx_http_apikey_build_t *build)
{
    ngx_uint_t                  i;
    const u_char               *root;
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
    account->unit = limit->unit;
    account->scope = limit->scope;
    account->buckets = build->bucket;

    ngx_http_apikey_limits_cost(ctx, account);

    for (i = first; i < holder->nlimits; i++) {

        if (limit->scope == account->scope && limit->unit == account->unit
            && ngx_http_apikey_limit_applies(ctx, limit))
        {
            if (ngx_http_apikey_limits_period(ctx, limit, build) != NGX_OK) {
                return NGX_DECLINED;
            }

            build->bucket->limit = limit;
            build->bucket->period = build->periods[limit->period];
            build->bucket++;
            account->nbuckets++;
        }

        limit = apikey_limit_next(limit);
    }

    return NGX_OK;
}


/* NGX_DECLINED: it cannot be counted here, and must not pass as unlimited. */

static ngx_int_t
ngx_http_apikey_limits_period(ngx_http_apikey_ctx_t *ctx,
    const apikey_limit_t *limit, ngx_http_apikey_build_t *build)
{
    apikey_period_t  *period;

    period = &build->periods[limit->period];

    if (limit->period == APIKEY_PERIOD_NONE || period->end) {
        return NGX_OK;
    }

    return ngx_http_apikey_keyring_period(build->amcf->sh->keyring,
                                          build->amcf->shpool,
                                          ctx->key.calendar, limit->period,
                                          ctx->now, period);
}


static void
ngx_http_apikey_limits_cost(ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_account_t *account)
{
    switch (account->unit) {

    case APIKEY_UNIT_TOKENS:
        account->cost = ctx->reserve.tokens;
        account->whole = ctx->reserve.tokens_unknown;
        break;

    case APIKEY_UNIT_COST:
        account->cost = ctx->reserve.cost;
        account->whole = ctx->reserve.cost_unknown;
        break;

    case APIKEY_UNIT_CONCURRENT:
        account->cost = !ctx->momentary;
        break;

    default: /* APIKEY_UNIT_REQUESTS */
        account->cost = ctx->weight;
    }
}


/*
 * A pattern that everything matches, matches where there is none, too.  What
 * may be for any model is for this one: a body that cannot be read is no way
 * around a limit.
 */

static ngx_int_t
ngx_http_apikey_limit_applies(ngx_http_apikey_ctx_t *ctx,
    const apikey_limit_t *limit)
{
    ngx_str_t  *service, *model;

    service = &ctx->start.service;
    model = &ctx->start.model;

    if (limit->service_len
        && !apikey_pattern_match(apikey_limit_service(limit),
                                 limit->service_len, (char *) service->data,
                                 service->len))
    {
        return 0;
    }

    return limit->model_len == 0 || ctx->any_model
           || apikey_pattern_match(apikey_limit_model(limit),
                                   limit->model_len, (char *) model->data,
                                   model->len);
}


void
ngx_http_apikey_limits_result(ngx_http_apikey_ctx_t *ctx)
{
    ngx_uint_t                  i, k;
    ngx_http_apikey_bucket_t   *b;
    ngx_http_apikey_account_t  *account;

    ctx->tightest = NULL;
    ctx->shown = NULL;
    ctx->binding = NULL;

    account = ctx->decision.accounts;

    for (i = 0; i < ctx->decision.naccounts; i++) {

        for (k = 0; k < account[i].nbuckets; k++) {
            b = &account[i].buckets[k];

            /* nothing to say is better than a guess */

            if (account[i].unseen || b->unknown) {
                continue;
            }

            if (ctx->tightest == NULL
                || ngx_http_apikey_tighter(b, ctx->tightest))
            {
                ctx->tightest = b;
                ctx->tightest_level = account[i].level;
            }

            if (account[i].unit == APIKEY_UNIT_REQUESTS
                && (ctx->shown == NULL
                    || ngx_http_apikey_tighter(b, ctx->shown)))
            {
                ctx->shown = b;
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
    uint64_t           m, n;
    unsigned __int128  left, right;

    m = apikey_limit_shown(a->limit);
    n = apikey_limit_shown(b->limit);

    left = (unsigned __int128) a->remaining * n;
    right = (unsigned __int128) b->remaining * m;

    /* a limit of nothing is as tight as can be */

    if (m == 0 || n == 0) {
        left = m;
        right = n;
    }

    if (left != right) {
        return left < right;
    }

    return ngx_http_apikey_limit_window(a) > ngx_http_apikey_limit_window(b);
}


/* What never begins anew has the longest window, slots have none. */

uint64_t
ngx_http_apikey_limit_window(ngx_http_apikey_bucket_t *b)
{
    switch (b->limit->kind) {

    case APIKEY_KIND_CALENDAR:
        return b->period.end - b->period.start;

    case APIKEY_KIND_TOTAL:
    case APIKEY_KIND_CREDITS:
        return UINT64_MAX;

    default:
        return b->limit->window;
    }
}


apikey_verdict_e
ngx_http_apikey_limits_verdict(ngx_http_apikey_ctx_t *ctx)
{
    const apikey_limit_t  *limit;

    if (ctx->binding == NULL) {
        return APIKEY_RATE_LIMITED;
    }

    limit = ctx->binding->limit;

    if (limit->kind == APIKEY_KIND_CREDITS) {
        return APIKEY_CREDITS_EXHAUSTED;
    }

    if (limit->unit == APIKEY_UNIT_COST) {
        return APIKEY_BUDGET_EXCEEDED;
    }

    switch (limit->kind) {

    case APIKEY_KIND_CALENDAR:
        return APIKEY_QUOTA_EXCEEDED;

    case APIKEY_KIND_TOTAL:
        return APIKEY_CREDITS_EXHAUSTED;

    default:
        return APIKEY_RATE_LIMITED;
    }
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
        return ngx_max(ngx_http_apikey_seconds(ctx->decision.wait), 1);
    }

    b = ctx->binding;

    if (!ngx_http_apikey_verdict_limited(ctx->verdict) || b == NULL) {
        return 0;
    }

    if (b->wait == UINT64_MAX) {

        /* more than this node's share, but Redis may be back at any time */

        if (ctx->decision.mode == APIKEY_MODE_DOWN_LOCAL
            && b->limit->burst >= ctx->weight)
        {
            return 1;
        }

        return 0;
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
