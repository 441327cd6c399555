
/*
 * The price of a request, out of the list in the keyring.
 *
 * A worker keeps a copy of the list and reads it anew when the keyring has
 * changed: otherwise finding a price takes no lock.  The copy lives as long
 * as the process.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/price.h"
#include "http/http.h"


static void ngx_http_apikey_price_refresh(ngx_http_apikey_main_conf_t *amcf,
    ngx_log_t *log);
static void ngx_http_apikey_price_read(ngx_str_t *text, ngx_log_t *log);


/* price_list.id of schema 0001 */

static const u_char  ngx_http_apikey_price_id[16] = {
    0, 0, 0, 0, 0, 0, 0x80, 0, 0x80, 0, 'p', 'r', 'i', 'c', 'e', 's'
};


static struct {
    ngx_http_apikey_keyring_sh_t  *sh;
    uint64_t                       changes;
    int64_t                        version;
    u_char                        *text;
    apikey_price_row_t            *rows;
    size_t                         n;
} ngx_http_apikey_prices;


ngx_uint_t
ngx_http_apikey_price_find(ngx_http_request_t *r, ngx_http_apikey_ctx_t *ctx,
    apikey_price_t *price)
{
    apikey_price_row_t            who;
    const apikey_price_row_t     *row;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    ngx_http_apikey_price_refresh(amcf, r->connection->log);

    if (ngx_http_apikey_prices.n == 0) {
        return 0;
    }

    ngx_memzero(&who, sizeof(apikey_price_row_t));

    who.service.text = (char *) ctx->start.service.data;
    who.service.len = ctx->start.service.len;
    who.model.text = (char *) ctx->start.model.data;
    who.model.len = ctx->start.model.len;

    if (ctx->found) {
        who.plan.text = (char *) ctx->key.plan.data;
        who.plan.len = ctx->key.plan.len;
    }

    row = apikey_price_find(ngx_http_apikey_prices.rows,
                            ngx_http_apikey_prices.n, &who, ctx->now);

    if (row == NULL) {
        return 0;
    }

    *price = row->price;

    return 1;
}


static void
ngx_http_apikey_price_refresh(ngx_http_apikey_main_conf_t *amcf,
    ngx_log_t *log)
{
    uint64_t                       changes;
    ngx_int_t                      rc;
    ngx_str_t                      text;
    ngx_http_apikey_keyring_sh_t  *sh;

    sh = amcf->sh->keyring;
    changes = ngx_http_apikey_keyring_changes(sh);

    if (sh == ngx_http_apikey_prices.sh
        && changes == ngx_http_apikey_prices.changes)
    {
        return;
    }

    rc = ngx_http_apikey_keyring_table(sh, amcf->shpool,
                                       ngx_http_apikey_price_id,
                                       &ngx_http_apikey_prices.version, &text,
                                       log);

    if (rc == NGX_ERROR) {
        return;
    }

    ngx_http_apikey_prices.sh = sh;
    ngx_http_apikey_prices.changes = changes;

    if (rc == NGX_OK) {
        ngx_http_apikey_price_read(&text, log);

    } else if (ngx_http_apikey_prices.version == 0) {
        ngx_http_apikey_prices.n = 0;
    }
}


/* Takes text over. */

static void
ngx_http_apikey_price_read(ngx_str_t *text, ngx_log_t *log)
{
    size_t  i, lines;

    if (ngx_http_apikey_prices.text) {
        ngx_free(ngx_http_apikey_prices.text);
        ngx_free(ngx_http_apikey_prices.rows);
        ngx_http_apikey_prices.rows = NULL;
    }

    ngx_http_apikey_prices.text = text->data;
    ngx_http_apikey_prices.n = 0;

    lines = 0;

    for (i = 0; i < text->len; i++) {
        lines += (text->data[i] == '\n');
    }

    ngx_http_apikey_prices.rows = ngx_alloc((lines + 1)
                                            * sizeof(apikey_price_row_t), log);

    if (ngx_http_apikey_prices.rows == NULL) {
        return;
    }

    ngx_http_apikey_prices.n = apikey_price_parse((char *) text->data,
                                     text->len, ngx_http_apikey_prices.rows,
                                     lines);

    if (ngx_http_apikey_prices.n == APIKEY_PRICE_BAD) {
        ngx_http_apikey_prices.n = 0;

        ngx_log_error(NGX_LOG_ERR, log, 0,
                      "apikey: the prices cannot be read, so that no request "
                      "has one");
    }
}
