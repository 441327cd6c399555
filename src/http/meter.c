
/*
 * What a request costs in tokens and money: its worst case before it, what
 * the upstream reports, and what it comes to in the end.
 *
 * Nothing is ever guessed to be free: an answer that does not say what it
 * has cost has cost its reserve, and where that is not known either, nobody
 * knows.  An error that says nothing has cost nothing.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/money.h"
#include "base/number.h"
#include "http/http.h"


typedef enum {
    NGX_HTTP_APIKEY_METER_INPUT = 0,
    NGX_HTTP_APIKEY_METER_OUTPUT,
    NGX_HTTP_APIKEY_METER_COST,
    NGX_HTTP_APIKEY_METERS
} ngx_http_apikey_meter_e;


static ngx_uint_t ngx_http_apikey_meter_price(apikey_price_t *price,
    ngx_http_apikey_worst_t *worst);
static ngx_uint_t ngx_http_apikey_meter_asked(ngx_http_apikey_asked_t *asked,
    ngx_http_apikey_worst_t *worst);
static ngx_uint_t ngx_http_apikey_meter_worst(ngx_http_request_t *r,
    ngx_http_complex_value_t *complex, ngx_uint_t money, uint64_t *worst);
static ngx_list_t *ngx_http_apikey_meter_answer(ngx_http_request_t *r);
static ngx_uint_t ngx_http_apikey_meter_find(ngx_list_t *headers,
    ngx_uint_t hide, ngx_str_t *values);
static ngx_uint_t ngx_http_apikey_meter_name(ngx_str_t *name);
static void ngx_http_apikey_meter_parse(ngx_http_request_t *r,
    ngx_http_apikey_reported_t *reported, ngx_str_t *values);
static void ngx_http_apikey_meter_complain(ngx_http_request_t *r,
    ngx_uint_t name, ngx_str_t *value);


static ngx_str_t  ngx_http_apikey_meters[NGX_HTTP_APIKEY_METERS] = {
    ngx_string("X-Usage-Input-Tokens"),
    ngx_string("X-Usage-Output-Tokens"),
    ngx_string("X-Usage-Cost")
};


/* A header that came twice: whatever it says, it is not to be believed. */

static u_char  ngx_http_apikey_meter_twice[] = "two of them";


void
ngx_http_apikey_meter_reserve(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_http_apikey_worst_t     *worst;
    ngx_http_apikey_reserve_t   *reserve;
    ngx_http_apikey_loc_conf_t  *alcf;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    reserve = alcf->reserve;
    worst = &ctx->reserve;

    ngx_memzero(worst, sizeof(ngx_http_apikey_worst_t));

    /* what nobody is to report costs what the directive says, or nothing */

    if (reserve && reserve->tokens) {
        worst->tokens_unknown = ngx_http_apikey_meter_worst(r,
                                        reserve->tokens, 0, &worst->tokens);

    } else if (alcf->usage != NGX_HTTP_APIKEY_USAGE_OFF) {
        worst->tokens_unknown = !ctx->asked
                    || ngx_http_apikey_meter_asked(ctx->asked, worst);
    }

    ctx->priced = ngx_http_apikey_price_find(r, ctx, &ctx->price);

    if (reserve && reserve->cost) {
        worst->cost_unknown = ngx_http_apikey_meter_worst(r, reserve->cost, 1,
                                                          &worst->cost);

    } else if (ctx->priced && !worst->tokens_unknown) {
        worst->priced = 1;
        worst->exact = (alcf->usage == NGX_HTTP_APIKEY_USAGE_OFF
                        || (worst->split && worst->tokens == 0));
        worst->cost_unknown = ngx_http_apikey_meter_price(&ctx->price, worst);

    } else {
        worst->cost_unknown = (alcf->usage != NGX_HTTP_APIKEY_USAGE_OFF);
    }
}


/* 1: it is not known.  Tokens of either kind are taken for the dearer one. */

static ngx_uint_t
ngx_http_apikey_meter_price(apikey_price_t *price,
    ngx_http_apikey_worst_t *worst)
{
    uint64_t    input, nano;

    input = worst->split ? worst->input : 0;

    if (!apikey_price_cost(price, input, 0, worst->tokens - input,
                           &worst->cost))
    {
        worst->cost = 0;
        return 1;
    }

    if (worst->split) {
        return 0;
    }

    if (!apikey_price_cost(price, worst->tokens, 0, 0, &nano)) {
        worst->cost = 0;
        return 1;
    }

    worst->cost = ngx_max(worst->cost, nano);

    return 0;
}


/* 1: it is not known.  Who sends no body asks for no tokens. */

static ngx_uint_t
ngx_http_apikey_meter_asked(ngx_http_apikey_asked_t *asked,
    ngx_http_apikey_worst_t *worst)
{
    worst->split = 1;

    if (asked->len == 0) {
        return 0;
    }

    if (!asked->has_max) {
        return 1;
    }

    if (asked->max_tokens > APIKEY_TOKENS_MAX
        || asked->choices > APIKEY_TOKENS_MAX
                            / ngx_max(asked->max_tokens, 1))
    {
        worst->tokens = APIKEY_TOKENS_MAX;
        return 0;
    }

    worst->input = (uint64_t) (asked->len + 1) / 2;
    worst->tokens = worst->input + asked->max_tokens * asked->choices;

    return 0;
}


/* 1: it is not known. */

static ngx_uint_t
ngx_http_apikey_meter_worst(ngx_http_request_t *r,
    ngx_http_complex_value_t *complex, ngx_uint_t money, uint64_t *worst)
{
    ngx_str_t  value;

    if (ngx_http_complex_value(r, complex, &value) != NGX_OK
        || value.len == 0)
    {
        return 1;
    }

    if (money ? apikey_money_parse(worst, (char *) value.data, value.len)
              : apikey_uint_parse(worst, (char *) value.data, value.len,
                                  NGX_HTTP_APIKEY_WEIGHT_MAX))
    {
        return 0;
    }

    ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                  "apikey_reserve: %s=\"%V\" is not %s, nobody knows what "
                  "this request may cost",
                  money ? "cost" : "tokens", &value,
                  money ? "an amount" : "a whole number");

    *worst = 0;

    return 1;
}


void
ngx_http_apikey_meter_read(ngx_http_request_t *r, ngx_http_apikey_ctx_t *ctx)
{
    ngx_str_t    values[NGX_HTTP_APIKEY_METERS];
    ngx_uint_t   found;
    ngx_list_t  *answer;

    answer = ngx_http_apikey_meter_answer(r);

    ngx_memzero(values, sizeof(values));

    found = ngx_http_apikey_meter_find(&r->headers_out.headers, 1, values);

    if (answer) {
        ngx_memzero(values, sizeof(values));
        found = ngx_http_apikey_meter_find(answer, 0, values);
    }

    /* a filter may put an error page in place of an answer that was read */

    if (found) {
        ngx_http_apikey_meter_parse(r, &ctx->reported, values);
    }
}


/*
 * As the upstream has sent it: what goes to the client may be an error page,
 * a file that X-Accel-Redirect names, or be without what proxy_hide_header
 * has taken out.
 */

static ngx_list_t *
ngx_http_apikey_meter_answer(ngx_http_request_t *r)
{
    ngx_http_upstream_t  *u;

    u = r->upstream;

    return (u && u->headers_in.status_n) ? &u->headers_in.headers : NULL;
}


/* How many there are. */

static ngx_uint_t
ngx_http_apikey_meter_find(ngx_list_t *headers, ngx_uint_t hide,
    ngx_str_t *values)
{
    ngx_uint_t        i, n, found;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    found = 0;

    for (part = &headers->part; part; part = part->next) {

        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (h[i].hash == 0) {
                continue;
            }

            n = ngx_http_apikey_meter_name(&h[i].key);

            if (n == NGX_HTTP_APIKEY_METERS) {
                continue;
            }

            found++;

            if (values[n].data) {
                values[n].data = ngx_http_apikey_meter_twice;
                values[n].len = sizeof(ngx_http_apikey_meter_twice) - 1;

            } else {
                values[n] = h[i].value;
            }

            if (hide) {
                h[i].hash = 0;
            }
        }
    }

    return found;
}


static ngx_uint_t
ngx_http_apikey_meter_name(ngx_str_t *name)
{
    ngx_uint_t  i;

    if (name->len < sizeof("X-Usage-Cost") - 1
        || (name->data[0] | 0x20) != 'x' || name->data[1] != '-')
    {
        return NGX_HTTP_APIKEY_METERS;
    }

    for (i = 0; i < NGX_HTTP_APIKEY_METERS; i++) {

        if (name->len == ngx_http_apikey_meters[i].len
            && ngx_strncasecmp(name->data, ngx_http_apikey_meters[i].data,
                               name->len)
               == 0)
        {
            break;
        }
    }

    return i;
}


/* One number of tokens that makes no sense leaves no sense in the other. */

static void
ngx_http_apikey_meter_parse(ngx_http_request_t *r,
    ngx_http_apikey_reported_t *reported, ngx_str_t *values)
{
    uint64_t     n[NGX_HTTP_APIKEY_METERS];
    ngx_uint_t   i, wrong, good[NGX_HTTP_APIKEY_METERS];
    ngx_str_t   *value;

    wrong = 0;

    for (i = 0; i < NGX_HTTP_APIKEY_METERS; i++) {
        value = &values[i];
        n[i] = 0;

        good[i] = (i == NGX_HTTP_APIKEY_METER_COST)
                  ? apikey_money_parse(&n[i], (char *) value->data,
                                       value->len)
                  : apikey_uint_parse(&n[i], (char *) value->data, value->len,
                                      APIKEY_TOKENS_MAX);

        if (value->data && !good[i]) {
            ngx_http_apikey_meter_complain(r, i, value);
            wrong |= (ngx_uint_t) 1 << i;
        }
    }

    reported->priced = good[NGX_HTTP_APIKEY_METER_COST];
    reported->cost = n[NGX_HTTP_APIKEY_METER_COST];

    reported->tokens = (good[NGX_HTTP_APIKEY_METER_INPUT]
                        || good[NGX_HTTP_APIKEY_METER_OUTPUT])
                       && !(wrong & (1 << NGX_HTTP_APIKEY_METER_INPUT
                                     | 1 << NGX_HTTP_APIKEY_METER_OUTPUT));

    if (reported->tokens) {
        reported->input = n[NGX_HTTP_APIKEY_METER_INPUT];
        reported->output = n[NGX_HTTP_APIKEY_METER_OUTPUT];
    }
}


/* Once a second: it is what every answer of that upstream says. */

static void
ngx_http_apikey_meter_complain(ngx_http_request_t *r, ngx_uint_t name,
    ngx_str_t *value)
{
    static time_t  last;

    if (last == ngx_time()) {
        return;
    }

    last = ngx_time();

    ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                  "apikey_usage: the upstream says \"%V: %V\", which is not "
                  "%s", &ngx_http_apikey_meters[name], value,
                  name == NGX_HTTP_APIKEY_METER_COST ? "an amount"
                                                     : "a number of tokens");
}


ngx_uint_t
ngx_http_apikey_meter_end(ngx_http_request_t *r, ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_metered_t *m)
{
    ngx_uint_t                   status, failed, guessed, source;
    uint64_t                     cost;
    apikey_tokens_t              tokens;
    ngx_http_apikey_worst_t     *worst;
    ngx_http_apikey_reported_t  *reported;

    status = ngx_http_apikey_status(r);

    worst = &ctx->reserve;
    reported = &ctx->reported;
    failed = (status == 0 || status >= 400);
    guessed = 0;

    ngx_memzero(m, sizeof(ngx_http_apikey_metered_t));

    source = ngx_http_apikey_extract_end(r, ctx, !failed, &tokens);

    if (source != NGX_HTTP_APIKEY_USAGE_NONE) {
        m->input = tokens.input;
        m->output = tokens.output;
        m->cached = tokens.cached;
        m->reasoning = tokens.reasoning;
        guessed |= (source == NGX_HTTP_APIKEY_USAGE_ESTIMATE);

    } else if (reported->tokens) {
        source = NGX_HTTP_APIKEY_USAGE_HEADER;
        m->input = reported->input;
        m->output = reported->output;

    } else if (!failed) {
        m->input = worst->input;
        m->output = worst->tokens - worst->input;
        m->tokens_unknown = worst->tokens_unknown;
        guessed |= (worst->tokens != 0);
    }

    if (reported->priced) {
        m->cost = reported->cost;

    } else if (ctx->priced && source != NGX_HTTP_APIKEY_USAGE_NONE) {
        m->price = ctx->price.version;
        m->cost = apikey_price_cost(&ctx->price, m->input, m->cached,
                                    m->output, &cost)
                  ? (int64_t) cost : -1;

    } else if (!failed || (m->input | m->output)) {
        m->price = worst->priced ? ctx->price.version : 0;
        m->cost = worst->cost_unknown ? -1 : (int64_t) worst->cost;
        guessed |= (worst->cost != 0 && !worst->exact);
    }

    m->source = guessed ? NGX_HTTP_APIKEY_USAGE_ESTIMATE
                : reported->priced ? NGX_HTTP_APIKEY_USAGE_HEADER : source;

    return status != 0;
}
