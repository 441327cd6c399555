
/*
 * Directives of http, server and location about what a request costs.
 *
 * Everything lives in the configuration's pool.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/money.h"
#include "base/number.h"
#include "http/http.h"


static char *ngx_http_apikey_reserve_value(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_str_t *value, ngx_http_complex_value_t **set);


char *
ngx_http_apikey_conf_reserve(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_apikey_loc_conf_t *alcf = conf;

    char        *rv;
    uint64_t     n;
    ngx_str_t   *value, text;
    ngx_uint_t   i;

    if (alcf->reserve != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    alcf->reserve = ngx_pcalloc(cf->pool, sizeof(ngx_http_apikey_reserve_t));
    if (alcf->reserve == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_http_apikey_conf_param(&value[i], "tokens", &text)) {
            rv = ngx_http_apikey_reserve_value(cf, cmd, &text,
                                               &alcf->reserve->tokens);

            if (rv == NGX_CONF_OK && alcf->reserve->tokens->lengths == NULL
                && !apikey_uint_parse(&n, (char *) text.data, text.len,
                                      NGX_HTTP_APIKEY_WEIGHT_MAX))
            {
                return ngx_http_apikey_conf_refuse(cf, cmd,
                                        "a whole number is needed, not",
                                        &value[i]);
            }

        } else if (ngx_http_apikey_conf_param(&value[i], "cost", &text)) {
            rv = ngx_http_apikey_reserve_value(cf, cmd, &text,
                                               &alcf->reserve->cost);

            if (rv == NGX_CONF_OK && alcf->reserve->cost->lengths == NULL
                && !apikey_money_parse(&n, (char *) text.data, text.len))
            {
                return ngx_http_apikey_conf_refuse(cf, cmd,
                                        "an amount is needed, not",
                                        &value[i]);
            }

        } else {
            return ngx_http_apikey_conf_refuse(cf, cmd, "unknown parameter",
                                               &value[i]);
        }

        if (rv != NGX_CONF_OK) {
            return rv == NGX_CONF_ERROR
                   ? rv
                   : ngx_http_apikey_conf_refuse(cf, cmd, rv, &value[i]);
        }
    }

    return NGX_CONF_OK;
}


/* NGX_CONF_ERROR is logged; else what is wrong. */

static char *
ngx_http_apikey_reserve_value(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_str_t *value, ngx_http_complex_value_t **set)
{
    ngx_http_compile_complex_value_t  ccv;

    if (*set) {
        return "duplicate parameter";
    }

    *set = ngx_palloc(cf->pool, sizeof(ngx_http_complex_value_t));
    if (*set == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = value;
    ccv.complex_value = *set;

    return ngx_http_compile_complex_value(&ccv) == NGX_OK ? NGX_CONF_OK
                                                          : NGX_CONF_ERROR;
}


char *
ngx_http_apikey_conf_usage(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_apikey_loc_conf_t *alcf = conf;

    ngx_str_t  *value;

    if (alcf->usage != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        alcf->usage = NGX_HTTP_APIKEY_USAGE_OFF;

    } else if (ngx_strcmp(value[1].data, "headers") == 0) {
        alcf->usage = NGX_HTTP_APIKEY_USAGE_HEADERS;

    } else {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                                           "off or headers is needed, not",
                                           &value[1]);
    }

    if (cf->args->nelts > 2) {
        return ngx_http_apikey_conf_refuse(cf, cmd, "unknown parameter",
                                           &value[2]);
    }

    return NGX_CONF_OK;
}


void
ngx_http_apikey_conf_meter_merge(ngx_http_apikey_loc_conf_t *conf,
    ngx_http_apikey_loc_conf_t *prev)
{
    ngx_conf_merge_ptr_value(conf->reserve, prev->reserve, NULL);
    ngx_conf_merge_uint_value(conf->usage, prev->usage,
                              NGX_HTTP_APIKEY_USAGE_OFF);

    if (conf->weight == NULL) {
        conf->weight = prev->weight;
    }
}
