
/*
 * The header filter: X-Request-Id, RateLimit-Policy and RateLimit as
 * draft-ietf-httpapi-ratelimit-headers-10 writes them, and X-RateLimit-* of
 * the tightest limit of requests.  They replace what the upstream sent under
 * those names.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/fetch.h"
#include "base/number.h"
#include "http/http.h"
#include "http/limits.h"


/* integers of structured fields have at most 15 digits */

#define NGX_HTTP_APIKEY_SF_MAX  999999999999999ULL


/* The numbers of a bucket, where they stand in RateLimit-Policy, RateLimit. */

typedef struct {
    ngx_str_t   limit;
    ngx_str_t   window;
    ngx_str_t   remaining;
    ngx_str_t   reset;
} ngx_http_apikey_numbers_t;


static ngx_int_t ngx_http_apikey_header_filter(ngx_http_request_t *r);
static void ngx_http_apikey_headers_ahead(ngx_http_apikey_ctx_t *ctx);
static ngx_uint_t ngx_http_apikey_headers_known(ngx_http_apikey_ctx_t *ctx);
static void ngx_http_apikey_headers_clear(ngx_http_request_t *r,
    ngx_uint_t limits);
static ngx_int_t ngx_http_apikey_headers_limits(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static void ngx_http_apikey_headers_buckets(ngx_http_apikey_ctx_t *ctx,
    ngx_str_t *policy, ngx_str_t *limit, ngx_http_apikey_numbers_t *shown);
static ngx_int_t ngx_http_apikey_headers_tightest(ngx_http_request_t *r,
    ngx_http_apikey_bucket_t *b, ngx_http_apikey_numbers_t *numbers,
    u_char *p);
static size_t ngx_http_apikey_headers_size(ngx_http_apikey_ctx_t *ctx);
static void ngx_http_apikey_headers_bucket(ngx_http_apikey_bucket_t *b,
    ngx_uint_t level, u_char **policy, u_char **limit,
    ngx_http_apikey_numbers_t *numbers);
static u_char *ngx_http_apikey_headers_item(u_char *p,
    ngx_http_apikey_bucket_t *b, ngx_uint_t level);
static u_char *ngx_http_apikey_headers_parameter(u_char *p, u_char name,
    uint64_t n, ngx_str_t *number);
static ngx_int_t ngx_http_apikey_header_uint(ngx_http_request_t *r,
    ngx_str_t *name, ngx_str_t *number, u_char *p, uint64_t n);


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;


static ngx_str_t  ngx_http_apikey_policy = ngx_string("RateLimit-Policy");
static ngx_str_t  ngx_http_apikey_ratelimit = ngx_string("RateLimit");
static ngx_str_t  ngx_http_apikey_x_limit = ngx_string("X-RateLimit-Limit");
static ngx_str_t  ngx_http_apikey_x_remaining =
                                           ngx_string("X-RateLimit-Remaining");
static ngx_str_t  ngx_http_apikey_x_reset = ngx_string("X-RateLimit-Reset");
static ngx_str_t  ngx_http_apikey_x_request_id = ngx_string("X-Request-Id");


ngx_int_t
ngx_http_apikey_headers_init(ngx_conf_t *cf)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_apikey_header_filter;

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_header_filter(ngx_http_request_t *r)
{
    ngx_str_t                    id;
    ngx_uint_t                   limits;
    ngx_http_apikey_ctx_t       *ctx;
    ngx_http_apikey_loc_conf_t  *alcf;

    if (r != r->main) {
        return ngx_http_next_header_filter(r);
    }

    ctx = ngx_http_apikey_get_ctx(r);

    if (ctx == NULL) {
        return ngx_http_next_header_filter(r);
    }

    ngx_http_apikey_headers_ahead(ctx);

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    if (ctx->metered || alcf->usage == NGX_HTTP_APIKEY_USAGE_HEADERS) {
        ngx_http_apikey_meter_read(r, ctx);
    }

    if (ctx->api != NGX_HTTP_APIKEY_USAGE_OFF
        && ngx_http_apikey_extract_begin(r, ctx) != NGX_OK)
    {
        return NGX_ERROR;
    }

    limits = alcf->limit_headers && ctx->found && ctx->decision.naccounts;

    ngx_http_apikey_headers_clear(r, limits);

    id.data = ctx->id;
    id.len = APIKEY_UUID_TEXT_LEN;

    if (ctx->named
        && ngx_http_apikey_header_add(r, &ngx_http_apikey_x_request_id, &id)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    /* while the store is down there is nothing to say, but a guess */

    if (limits && ctx->decided && ngx_http_apikey_headers_known(ctx)
        && ngx_http_apikey_headers_limits(r, ctx) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_next_header_filter(r);
}


/*
 * While the upstream had the request, others had the cache: what is read here
 * and in the log phase, and the slot that is written there, come back at once.
 * A refusal has no slot, and has waited for nobody.
 */

static void
ngx_http_apikey_headers_ahead(ngx_http_apikey_ctx_t *ctx)
{
    if (ctx->slot == NULL) {
        return;
    }

    apikey_fetch_all(ctx, NGX_HTTP_APIKEY_CTX_ZEROED);
    apikey_fetch_all(ctx->slot, NGX_HTTP_APIKEY_USAGE_SLOT);

    /* behind the accounts their buckets begin */

    if (ctx->decision.naccounts) {
        apikey_fetch_all(ctx->decision.accounts,
                         ctx->decision.naccounts
                         * sizeof(ngx_http_apikey_account_t)
                         + sizeof(ngx_http_apikey_bucket_t));
    }
}


/* Of a refusal some accounts may be unseen. */

static ngx_uint_t
ngx_http_apikey_headers_known(ngx_http_apikey_ctx_t *ctx)
{
    ngx_http_apikey_decision_t  *d;

    d = &ctx->decision;

    return d->known
           || (d->rc == NGX_DECLINED && (d->mode == APIKEY_MODE_LEASED
                                         || d->mode == APIKEY_MODE_DIRECT));
}


static void
ngx_http_apikey_headers_clear(ngx_http_request_t *r, ngx_uint_t limits)
{
    u_char            ch;
    ngx_uint_t        i, k;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    static ngx_str_t  *names[] = {
        &ngx_http_apikey_x_request_id,
        &ngx_http_apikey_policy,
        &ngx_http_apikey_ratelimit,
        &ngx_http_apikey_x_limit,
        &ngx_http_apikey_x_remaining,
        &ngx_http_apikey_x_reset
    };

    for (part = &r->headers_out.headers.part; part; part = part->next) {

        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (h[i].hash == 0 || h[i].key.len < 9) {
                continue;
            }

            ch = h[i].key.data[0] | 0x20;

            if (ch != 'x' && ch != 'r') {
                continue;
            }

            for (k = 0; k < (limits ? 6 : 1); k++) {

                if (h[i].key.len == names[k]->len
                    && ngx_strncasecmp(h[i].key.data, names[k]->data,
                                       names[k]->len)
                       == 0)
                {
                    h[i].hash = 0;
                    break;
                }
            }
        }
    }
}


static ngx_int_t
ngx_http_apikey_headers_limits(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    size_t                     size;
    ngx_str_t                  policy, limit;
    ngx_http_apikey_numbers_t  shown;

    if (ctx->shown == NULL) {
        return NGX_OK;
    }

    size = ngx_http_apikey_headers_size(ctx);

    policy.data = ngx_pnalloc(ctx->pool, size * 2
                                         + 3 * APIKEY_UINT_TEXT_LEN);
    if (policy.data == NULL) {
        return NGX_ERROR;
    }

    limit.data = policy.data + size;

    ngx_http_apikey_headers_buckets(ctx, &policy, &limit, &shown);

    if (ngx_http_apikey_header_add(r, &ngx_http_apikey_policy, &policy)
        != NGX_OK
        || ngx_http_apikey_header_add(r, &ngx_http_apikey_ratelimit, &limit)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_apikey_headers_tightest(r, ctx->shown, &shown,
                                            limit.data + size);
}


/* All of them; shown: the numbers of ctx->shown. */

static void
ngx_http_apikey_headers_buckets(ngx_http_apikey_ctx_t *ctx, ngx_str_t *policy,
    ngx_str_t *limit, ngx_http_apikey_numbers_t *shown)
{
    u_char                     *p, *last;
    ngx_uint_t                  i, k;
    ngx_http_apikey_bucket_t   *b;
    ngx_http_apikey_account_t  *account;
    ngx_http_apikey_numbers_t   numbers;

    ngx_memzero(shown, sizeof(ngx_http_apikey_numbers_t));

    p = policy->data;
    last = limit->data;

    account = ctx->decision.accounts;

    for (i = 0; i < ctx->decision.naccounts; i++) {

        if (account[i].unit != APIKEY_UNIT_REQUESTS || account[i].unseen) {
            continue;
        }

        for (k = 0; k < account[i].nbuckets; k++) {
            b = &account[i].buckets[k];

            if (b->unknown) {
                continue;
            }

            if (p > policy->data) {
                p = ngx_cpymem(p, ", ", 2);
                last = ngx_cpymem(last, ", ", 2);
            }

            ngx_http_apikey_headers_bucket(b, account[i].level, &p, &last,
                                           b == ctx->shown ? shown
                                                           : &numbers);
        }
    }

    policy->len = p - policy->data;
    limit->len = last - limit->data;
}


/* What never begins anew has neither window nor reset. */

static void
ngx_http_apikey_headers_bucket(ngx_http_apikey_bucket_t *b, ngx_uint_t level,
    u_char **policy, u_char **limit, ngx_http_apikey_numbers_t *numbers)
{
    u_char    *p, *last, *item;
    uint64_t   window;

    item = *policy;
    p = ngx_http_apikey_headers_item(item, b, level);
    last = ngx_cpymem(*limit, item, p - item);

    p = ngx_http_apikey_headers_parameter(p, 'q', apikey_limit_shown(b->limit),
                                          &numbers->limit);
    window = ngx_http_apikey_limit_window(b);

    if (window != UINT64_MAX) {
        p = ngx_http_apikey_headers_parameter(p, 'w',
                                          ngx_http_apikey_seconds(window),
                                          &numbers->window);
    }

    last = ngx_http_apikey_headers_parameter(last, 'r', b->remaining,
                                             &numbers->remaining);

    if (b->reset != UINT64_MAX) {
        last = ngx_http_apikey_headers_parameter(last, 't',
                                          ngx_http_apikey_seconds(b->reset),
                                          &numbers->reset);
    }

    *policy = p;
    *limit = last;
}


/* p: room for three numbers. */

static ngx_int_t
ngx_http_apikey_headers_tightest(ngx_http_request_t *r,
    ngx_http_apikey_bucket_t *b, ngx_http_apikey_numbers_t *numbers,
    u_char *p)
{
    if (ngx_http_apikey_header_uint(r, &ngx_http_apikey_x_limit,
                                    &numbers->limit, p,
                                    apikey_limit_shown(b->limit))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    p += APIKEY_UINT_TEXT_LEN;

    if (ngx_http_apikey_header_uint(r, &ngx_http_apikey_x_remaining,
                                    &numbers->remaining, p, b->remaining)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (b->reset == UINT64_MAX) {
        return NGX_OK;
    }

    p += APIKEY_UINT_TEXT_LEN;

    return ngx_http_apikey_header_uint(r, &ngx_http_apikey_x_reset,
                                       &numbers->reset, p,
                                       ngx_http_apikey_seconds(b->reset));
}


/* What either header can take at most: a byte of a name may become three. */

static size_t
ngx_http_apikey_headers_size(ngx_http_apikey_ctx_t *ctx)
{
    size_t                      size;
    ngx_uint_t                  i, k;
    ngx_http_apikey_account_t  *account;

    size = 0;
    account = ctx->decision.accounts;

    for (i = 0; i < ctx->decision.naccounts; i++) {

        if (account[i].unit != APIKEY_UNIT_REQUESTS) {
            continue;
        }

        for (k = 0; k < account[i].nbuckets; k++) {
            size += sizeof(", \"owner:\";q=;w=") - 1
                    + 3 * account[i].buckets[k].limit->name_len
                    + 2 * NGX_INT64_LEN;
        }
    }

    return size;
}


/* A string of a structured field is ASCII: all else is percent-encoded. */

static u_char *
ngx_http_apikey_headers_item(u_char *p, ngx_http_apikey_bucket_t *b,
    ngx_uint_t level)
{
    u_char   ch;
    size_t   i;

    static const u_char  hex[] = "0123456789ABCDEF";

    *p++ = '"';

    if (level == APIKEY_LEVEL_OWNER) {
        p = ngx_cpymem(p, "owner:", sizeof("owner:") - 1);
    }

    for (i = 0; i < b->limit->name_len; i++) {
        ch = (u_char) apikey_limit_name(b->limit)[i];

        if (ch == '"' || ch == '\\') {
            *p++ = '\\';
            *p++ = ch;

        } else if (ch < 0x20 || ch > 0x7e) {
            *p++ = '%';
            *p++ = hex[ch >> 4];
            *p++ = hex[ch & 0xf];

        } else {
            *p++ = ch;
        }
    }

    *p++ = '"';

    return p;
}


/* ;name=n, and where n stands. */

static u_char *
ngx_http_apikey_headers_parameter(u_char *p, u_char name, uint64_t n,
    ngx_str_t *number)
{
    *p++ = ';';
    *p++ = name;
    *p++ = '=';

    n = ngx_min(n, NGX_HTTP_APIKEY_SF_MAX);

    number->data = p;
    p = (u_char *) apikey_uint_format((char *) p, n);
    number->len = p - number->data;

    return p;
}


/* number is n already, unless that has more digits than may stand there. */

static ngx_int_t
ngx_http_apikey_header_uint(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *number, u_char *p, uint64_t n)
{
    if (n > NGX_HTTP_APIKEY_SF_MAX) {
        number->data = p;
        number->len = (u_char *) apikey_uint_format((char *) p, n) - p;
    }

    return ngx_http_apikey_header_add(r, name, number);
}


/* name and value must live as long as the request. */

ngx_int_t
ngx_http_apikey_header_add(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    h->hash = 1;
    h->key = *name;
    h->value = *value;
    h->lowcase_key = NULL;
    ngx_http_apikey_set_next(h);

    return NGX_OK;
}
