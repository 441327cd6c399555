
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


#define NGX_HTTP_APIKEY_REQUEST_MAX  (1024 * 1024)


static ngx_int_t ngx_http_apikey_conf_word(ngx_str_t *value,
    const char *const *words);
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

    ngx_int_t   n;
    ngx_str_t  *value, text;

    static const char *const  froms[] = {
        "off", "headers", "openai", "anthropic", NULL
    };
    static const char *const  streams[] = {
        "estimate", "require", "add", NULL
    };

    if (alcf->usage != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    n = ngx_http_apikey_conf_word(&value[1], froms);

    if (n == NGX_ERROR) {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                    "off, openai, anthropic or headers is needed, not",
                    &value[1]);
    }

    alcf->usage = n;
    alcf->usage_stream = NGX_HTTP_APIKEY_STREAM_ESTIMATE;

    if (cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    if (!ngx_http_apikey_conf_param(&value[2], "stream", &text)
        || n == NGX_HTTP_APIKEY_USAGE_OFF
        || n == NGX_HTTP_APIKEY_USAGE_HEADERS)
    {
        return ngx_http_apikey_conf_refuse(cf, cmd, "unknown parameter",
                                           &value[2]);
    }

    n = ngx_http_apikey_conf_word(&text, streams);

    if (n == NGX_ERROR) {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                           "estimate, require or add is needed, not", &text);
    }

    if (n != NGX_HTTP_APIKEY_STREAM_ESTIMATE
        && alcf->usage != NGX_HTTP_APIKEY_USAGE_OPENAI)
    {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                           "only openai has", &value[2]);
    }

    alcf->usage_stream = n;

    return NGX_CONF_OK;
}


char *
ngx_http_apikey_conf_request(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_apikey_loc_conf_t *alcf = conf;

    ngx_int_t   n;
    ngx_str_t  *value, text;

    static const char *const  apis[] = { "off", "openai", "anthropic", NULL };

    if (alcf->request != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    n = ngx_http_apikey_conf_word(&value[1], apis);

    if (n == NGX_ERROR) {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                           "off, openai or anthropic is needed, not",
                           &value[1]);
    }

    alcf->request = n;
    alcf->request_max = NGX_HTTP_APIKEY_REQUEST_MAX;

    if (cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    if (!ngx_http_apikey_conf_param(&value[2], "max", &text)
        || n == NGX_HTTP_APIKEY_API_OFF)
    {
        return ngx_http_apikey_conf_refuse(cf, cmd, "unknown parameter",
                                           &value[2]);
    }

    alcf->request_max = ngx_parse_offset(&text);

    if (alcf->request_max == NGX_ERROR || alcf->request_max == 0) {
        return ngx_http_apikey_conf_refuse(cf, cmd, "a size is needed, not",
                                           &text);
    }

    return NGX_CONF_OK;
}


/* The number of the word, or NGX_ERROR. */

static ngx_int_t
ngx_http_apikey_conf_word(ngx_str_t *value, const char *const *words)
{
    ngx_int_t  i;

    for (i = 0; words[i]; i++) {
        if (value->len == ngx_strlen(words[i])
            && ngx_memcmp(value->data, words[i], value->len) == 0)
        {
            return i;
        }
    }

    return NGX_ERROR;
}


char *
ngx_http_apikey_conf_meter_merge(ngx_conf_t *cf,
    ngx_http_apikey_loc_conf_t *conf, ngx_http_apikey_loc_conf_t *prev)
{
    ngx_conf_merge_ptr_value(conf->reserve, prev->reserve, NULL);

    if (conf->usage == NGX_CONF_UNSET_UINT) {
        conf->usage_stream = prev->usage_stream;
    }

    ngx_conf_merge_uint_value(conf->usage, prev->usage,
                              NGX_HTTP_APIKEY_USAGE_OFF);

    if (conf->request == NGX_CONF_UNSET_UINT) {
        conf->request_max = prev->request_max;
    }

    ngx_conf_merge_uint_value(conf->request, prev->request,
                              NGX_HTTP_APIKEY_API_OFF);

    ngx_http_apikey_conf_value_merge(&conf->model, prev->model);

    if (conf->weight == NULL) {
        conf->weight = prev->weight;
    }

    if (conf->usage_stream != NGX_HTTP_APIKEY_STREAM_ESTIMATE
        && conf->request != NGX_HTTP_APIKEY_API_OPENAI)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"apikey_usage\" with \"stream=%s\" needs "
                           "\"apikey_request openai\"",
                           conf->usage_stream
                           == NGX_HTTP_APIKEY_STREAM_REQUIRE ? "require"
                                                             : "add");
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}
