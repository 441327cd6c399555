
/*
 * A limit in words and in JSON: what it allows, what is left of it, when it
 * opens.
 *
 * Text goes into the caller's buffer and is cut where that ends.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/money.h"
#include "http/http.h"
#include "http/limits.h"


static u_char *ngx_http_apikey_detail_amount(u_char *p, u_char *last,
    uint64_t n, ngx_uint_t unit);
static u_char *ngx_http_apikey_detail_window(u_char *p, u_char *last,
    const apikey_limit_t *limit);
static u_char *ngx_http_apikey_detail_length(u_char *p, u_char *last,
    uint64_t us);


size_t
ngx_http_apikey_detail(ngx_http_apikey_ctx_t *ctx,
    ngx_http_apikey_bucket_t *b, ngx_uint_t level, u_char *buf, size_t size)
{
    u_char     *p, *last;
    uint64_t    seconds;
    ngx_str_t   name;

    p = buf;
    last = buf + size;

    name.data = (u_char *) apikey_limit_name(b->limit);
    name.len = b->limit->name_len;

    if (b->limit->kind == APIKEY_KIND_CREDITS) {
        p = ngx_slprintf(p, last, "The credits of the %s are used up",
                         level == APIKEY_LEVEL_OWNER ? "owner" : "key");

    } else {
        p = ngx_slprintf(p, last, "Limit \"%s%V\" allows ",
                         level == APIKEY_LEVEL_OWNER ? "owner:" : "", &name);
        p = ngx_http_apikey_detail_amount(p, last, b->limit->limit,
                                          b->limit->unit);
        p = ngx_http_apikey_detail_window(p, last, b->limit);
    }

    seconds = ngx_http_apikey_retry_after(ctx);

    if (seconds) {
        p = ngx_slprintf(p, last, ". Try again in %uL second%s.", seconds,
                         seconds == 1 ? "" : "s");

    } else if (b->limit->kind == APIKEY_KIND_BUCKET
               && b->limit->unit == APIKEY_UNIT_REQUESTS && b->limit->limit
               && b->limit->burst < ctx->weight)
    {
        p = ngx_slprintf(p, last, " and holds %uL. This request costs %uL.",
                         b->limit->burst, ctx->weight);

    } else {
        p = ngx_slprintf(p, last, ".");
    }

    return p - buf;
}


static u_char *
ngx_http_apikey_detail_amount(u_char *p, u_char *last, uint64_t n,
    ngx_uint_t unit)
{
    char         text[APIKEY_MONEY_TEXT_LEN];
    const char  *many;

    many = (n == 1) ? "" : "s";

    switch (unit) {

    case APIKEY_UNIT_COST:
        return ngx_slprintf(p, last, "%*s",
                            (size_t) (apikey_money_format(text, n) - text),
                            text);

    case APIKEY_UNIT_TOKENS:
        return ngx_slprintf(p, last, "%uL token%s", n, many);

    case APIKEY_UNIT_CONCURRENT:
        return ngx_slprintf(p, last, "%uL request%s at once", n, many);

    default: /* APIKEY_UNIT_REQUESTS */
        return ngx_slprintf(p, last, "%uL request%s", n, many);
    }
}


static u_char *
ngx_http_apikey_detail_window(u_char *p, u_char *last,
    const apikey_limit_t *limit)
{
    static const char *const  periods[APIKEY_PERIODS] = {
        "", "day", "week", "month"
    };

    switch (limit->kind) {

    case APIKEY_KIND_CALENDAR:
        return ngx_slprintf(p, last, " per %s", periods[limit->period]);

    case APIKEY_KIND_TOTAL:
        return ngx_slprintf(p, last, " in all");

    case APIKEY_KIND_CONCURRENT:
    case APIKEY_KIND_CREDITS:
        return p;

    case APIKEY_KIND_ROLLING:
        p = ngx_slprintf(p, last, " in any ");
        return ngx_http_apikey_detail_length(p, last, limit->window);

    default: /* APIKEY_KIND_BUCKET */
        p = ngx_slprintf(p, last, " per ");
        return ngx_http_apikey_detail_length(p, last, limit->window);
    }
}


/* The largest unit that gives a whole number: 1h, not 60m or 3600s. */

static u_char *
ngx_http_apikey_detail_length(u_char *p, u_char *last, uint64_t us)
{
    ngx_uint_t  i;

    static const struct {
        uint64_t     us;
        const char  *name;
    } units[] = {
        { 86400000000ULL, "d" },
        { 3600000000ULL, "h" },
        { 60000000ULL, "m" },
        { 1000000ULL, "s" },
        { 1000ULL, "ms" },
        { 1ULL, "us" }
    };

    for (i = 0; us % units[i].us; i++) { /* void */ }

    return ngx_slprintf(p, last, "%uL%s", us / units[i].us, units[i].name);
}


void
ngx_http_apikey_json_amount(apikey_json_t *j, uint64_t n, ngx_uint_t unit)
{
    char  text[APIKEY_MONEY_TEXT_LEN];

    if (unit != APIKEY_UNIT_COST) {
        apikey_json_uint(j, n);
        return;
    }

    apikey_json_string(j, text, apikey_money_format(text, n) - text);
}


/* 0: Postgres has not been asked yet. */

ngx_uint_t
ngx_http_apikey_currency(ngx_http_request_t *r, char currency[4])
{
    uint64_t                      n;
    ngx_uint_t                    i;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    n = apikey_stats_get(&amcf->sh->stats.currency);

    for (i = 0; i < 3; i++) {
        currency[i] = (char) (n >> (8 * i));
    }

    currency[3] = '\0';

    return n != 0;
}
