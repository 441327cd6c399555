
/*
 * Configuration of http, server and location: create, merge, and the
 * directives that are more than a flag.  Lists are inherited whole, and only
 * where the inner level has none, as those of proxy_set_header.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"


static const char *ngx_http_apikey_source_parse(ngx_conf_t *cf,
    ngx_str_t *value, ngx_http_apikey_source_t *source);
static const char *ngx_http_apikey_source_header(ngx_conf_t *cf,
    ngx_http_apikey_source_t *source);
static ngx_uint_t ngx_http_apikey_source_known(ngx_array_t *sources,
    ngx_http_apikey_source_t *source);
static ngx_int_t ngx_http_apikey_token(ngx_str_t *name);
static ngx_array_t *ngx_http_apikey_default_sources(ngx_conf_t *cf);


/* headers that nginx itself goes by: taking them out would break it */

static ngx_str_t  ngx_http_apikey_reserved[] = {
    ngx_string("connection"),
    ngx_string("content-length"),
    ngx_string("content-type"),
    ngx_string("cookie"),
    ngx_string("expect"),
    ngx_string("host"),
    ngx_string("te"),
    ngx_string("transfer-encoding"),
    ngx_string("upgrade"),
    ngx_string("x-request-id"),
    ngx_null_string
};


void *
ngx_http_apikey_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_apikey_loc_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_apikey_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    conf->mode = NGX_CONF_UNSET_UINT;
    conf->sources = NGX_CONF_UNSET_PTR;
    conf->accept = NGX_CONF_UNSET_PTR;
    conf->hide = NGX_CONF_UNSET;
    conf->scopes = NGX_CONF_UNSET_PTR;
    conf->reserve = NGX_CONF_UNSET_PTR;
    conf->usage = NGX_CONF_UNSET_UINT;
    conf->request = NGX_CONF_UNSET_UINT;
    conf->dry_run = NGX_CONF_UNSET;
    conf->limit_headers = NGX_CONF_UNSET;
    conf->preflight_pass = NGX_CONF_UNSET_UINT;
    conf->admin = NGX_CONF_UNSET;

    return conf;
}


char *
ngx_http_apikey_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_apikey_loc_conf_t *prev = parent;
    ngx_http_apikey_loc_conf_t *conf = child;

    ngx_uint_t                 i;
    ngx_http_apikey_source_t  *source;

    if (ngx_http_apikey_content_merge(cf, prev, conf) != NGX_CONF_OK) {
        return NGX_CONF_ERROR;
    }

    ngx_conf_merge_uint_value(conf->mode, prev->mode, NGX_HTTP_APIKEY_OFF);
    ngx_conf_merge_ptr_value(conf->sources, prev->sources, NULL);
    ngx_conf_merge_ptr_value(conf->accept, prev->accept, NULL);
    ngx_conf_merge_value(conf->hide, prev->hide, 1);
    ngx_conf_merge_str_value(conf->realm, prev->realm, "api");
    ngx_conf_merge_ptr_value(conf->scopes, prev->scopes, NULL);
    ngx_conf_merge_value(conf->dry_run, prev->dry_run, 0);
    ngx_conf_merge_value(conf->limit_headers, prev->limit_headers, 1);
    ngx_conf_merge_uint_value(conf->preflight_pass, prev->preflight_pass, 0);

    if (conf->service == NULL) {
        conf->service = prev->service;
    }

    if (conf->endpoint == NULL) {
        conf->endpoint = prev->endpoint;
    }

    if (conf->statuses == NULL) {
        conf->statuses = prev->statuses;
    }

    if (ngx_http_apikey_conf_meter_merge(cf, conf, prev) != NGX_CONF_OK) {
        return NGX_CONF_ERROR;
    }

    ngx_http_apikey_conf_value_merge(&conf->session, prev->session);

    if (conf->sources == NULL && conf->mode != NGX_HTTP_APIKEY_OFF) {

        conf->sources = ngx_http_apikey_default_sources(cf);
        if (conf->sources == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    if (conf->sources) {
        source = conf->sources->elts;

        for (i = 0; i < conf->sources->nelts; i++) {
            if (source[i].type == NGX_HTTP_APIKEY_SOURCE_BEARER) {
                conf->bearer = 1;

            } else {
                conf->other = 1;
            }
        }
    }

    return NGX_CONF_OK;
}


static ngx_array_t *
ngx_http_apikey_default_sources(ngx_conf_t *cf)
{
    ngx_array_t               *sources;
    ngx_http_apikey_source_t  *source;

    sources = ngx_array_create(cf->pool, 1, sizeof(ngx_http_apikey_source_t));
    if (sources == NULL) {
        return NULL;
    }

    source = ngx_array_push(sources);
    if (source == NULL) {
        return NULL;
    }

    source->type = NGX_HTTP_APIKEY_SOURCE_HEADER;
    ngx_str_set(&source->name, "x-api-key");

    return sources;
}


char *
ngx_http_apikey_conf_mode(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_apikey_loc_conf_t *alcf = conf;

    ngx_str_t  *value;

    if (alcf->mode != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        alcf->mode = NGX_HTTP_APIKEY_OFF;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[1].data, "required") == 0) {
        alcf->mode = NGX_HTTP_APIKEY_REQUIRED;
        ngx_http_apikey_conf_use(cf, "apikey required");
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[1].data, "optional") == 0) {
        alcf->mode = NGX_HTTP_APIKEY_OPTIONAL;
        ngx_http_apikey_conf_use(cf, "apikey optional");
        return NGX_CONF_OK;
    }

    return ngx_http_apikey_conf_refuse(cf, cmd,
                                  "off, required or optional is needed, not",
                                  &value[1]);
}


char *
ngx_http_apikey_conf_source(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_apikey_loc_conf_t *alcf = conf;

    ngx_str_t                 *value;
    ngx_uint_t                 i;
    const char                *why;
    ngx_http_apikey_source_t  *source;

    if (alcf->sources != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    alcf->sources = ngx_array_create(cf->pool, cf->args->nelts - 1,
                                     sizeof(ngx_http_apikey_source_t));
    if (alcf->sources == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        source = ngx_array_push(alcf->sources);
        if (source == NULL) {
            return NGX_CONF_ERROR;
        }

        why = ngx_http_apikey_source_parse(cf, &value[i], source);

        if (why == NULL
            && ngx_http_apikey_source_known(alcf->sources, source))
        {
            why = "duplicate source";
        }

        if (why) {
            return ngx_http_apikey_conf_refuse(cf, cmd, why, &value[i]);
        }
    }

    return NGX_CONF_OK;
}


/* Among those in front of it. */

static ngx_uint_t
ngx_http_apikey_source_known(ngx_array_t *sources,
    ngx_http_apikey_source_t *source)
{
    ngx_http_apikey_source_t  *other;

    for (other = sources->elts; other < source; other++) {

        if (other->type == source->type
            && other->name.len == source->name.len
            && ngx_strncmp(other->name.data, source->name.data,
                           source->name.len)
               == 0)
        {
            return 1;
        }
    }

    return 0;
}


/* NULL, or what is wrong. */

static const char *
ngx_http_apikey_source_parse(ngx_conf_t *cf, ngx_str_t *value,
    ngx_http_apikey_source_t *source)
{
    if (ngx_strcmp(value->data, "bearer") == 0) {
        source->type = NGX_HTTP_APIKEY_SOURCE_BEARER;
        ngx_str_set(&source->name, "authorization");
        return NULL;
    }

    if (ngx_strncmp(value->data, "header:", 7) == 0) {
        source->type = NGX_HTTP_APIKEY_SOURCE_HEADER;

    } else if (ngx_strncmp(value->data, "query:", 6) == 0) {
        source->type = NGX_HTTP_APIKEY_SOURCE_QUERY;

    } else if (ngx_strncmp(value->data, "cookie:", 7) == 0) {
        source->type = NGX_HTTP_APIKEY_SOURCE_COOKIE;

    } else {
        return "unknown source";
    }

    source->name.data = ngx_strlchr(value->data, value->data + value->len, ':')
                        + 1;
    source->name.len = value->data + value->len - source->name.data;

    if (ngx_http_apikey_token(&source->name) != NGX_OK) {
        return "invalid name in";
    }

    if (source->type == NGX_HTTP_APIKEY_SOURCE_HEADER) {
        return ngx_http_apikey_source_header(cf, source);
    }

    return NULL;
}


static const char *
ngx_http_apikey_source_header(ngx_conf_t *cf,
    ngx_http_apikey_source_t *source)
{
    u_char     *p;
    ngx_str_t  *reserved;

    p = ngx_pnalloc(cf->pool, source->name.len);
    if (p == NULL) {
        return "no memory for";
    }

    ngx_strlow(p, source->name.data, source->name.len);
    source->name.data = p;

    for (reserved = ngx_http_apikey_reserved; reserved->len; reserved++) {

        if (reserved->len == source->name.len
            && ngx_strncmp(reserved->data, p, reserved->len) == 0)
        {
            return "nginx needs this header itself:";
        }
    }

    return NULL;
}


/* tchar of RFC 9110: what a header or a cookie may be called */

static ngx_int_t
ngx_http_apikey_token(ngx_str_t *name)
{
    u_char  ch;
    size_t  i;

    if (name->len == 0 || name->len > 128) {
        return NGX_ERROR;
    }

    for (i = 0; i < name->len; i++) {
        ch = name->data[i];

        if ((ch >= '0' && ch <= '9')
            || ((ch | 0x20) >= 'a' && (ch | 0x20) <= 'z')
            || ngx_strlchr((u_char *) "!#$%&'*+-.^_`|~",
                           (u_char *) "!#$%&'*+-.^_`|~" + 15, ch) != NULL)
        {
            continue;
        }

        return NGX_ERROR;
    }

    return NGX_OK;
}


char *
ngx_http_apikey_conf_accept(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_apikey_loc_conf_t *alcf = conf;

    ngx_str_t   *value, *prefix;
    ngx_uint_t   i, k;

    if (alcf->accept != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    alcf->accept = ngx_array_create(cf->pool, cf->args->nelts - 1,
                                    sizeof(ngx_str_t));
    if (alcf->accept == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (!apikey_prefix_check((const char *) value[i].data, value[i].len)) {
            return ngx_http_apikey_conf_refuse(cf, cmd,
                                        "1 to 16 of [a-z0-9_] are needed, not",
                                        &value[i]);
        }

        prefix = alcf->accept->elts;

        for (k = 0; k < alcf->accept->nelts; k++) {

            if (prefix[k].len == value[i].len
                && ngx_strncmp(prefix[k].data, value[i].data, value[i].len)
                   == 0)
            {
                return ngx_http_apikey_conf_refuse(cf, cmd,
                                                   "duplicate prefix",
                                                   &value[i]);
            }
        }

        prefix = ngx_array_push(alcf->accept);
        if (prefix == NULL) {
            return NGX_CONF_ERROR;
        }

        *prefix = value[i];
    }

    return NGX_CONF_OK;
}


char *
ngx_http_apikey_conf_preflight(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_apikey_loc_conf_t *alcf = conf;

    ngx_str_t  *value;

    if (alcf->preflight_pass != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "pass") == 0) {
        alcf->preflight_pass = 1;

    } else if (ngx_strcmp(value[1].data, "check") == 0) {
        alcf->preflight_pass = 0;

    } else {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                                           "pass or check is needed, not",
                                           &value[1]);
    }

    return NGX_CONF_OK;
}


/* Kept as it stands in the header: a quoted string's inside. */

char *
ngx_http_apikey_conf_realm(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_apikey_loc_conf_t *alcf = conf;

    u_char     *p;
    size_t      i;
    ngx_str_t  *value;

    if (alcf->realm.data) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (value[1].len == 0) {
        return ngx_http_apikey_conf_refuse(cf, cmd, "empty realm", &value[1]);
    }

    p = ngx_pnalloc(cf->pool, value[1].len * 2);
    if (p == NULL) {
        return NGX_CONF_ERROR;
    }

    alcf->realm.data = p;

    for (i = 0; i < value[1].len; i++) {

        if (value[1].data[i] < 0x20 || value[1].data[i] == 0x7f) {
            return ngx_http_apikey_conf_refuse(cf, cmd,
                                               "control character in",
                                               &value[1]);
        }

        if (value[1].data[i] == '"' || value[1].data[i] == '\\') {
            *p++ = '\\';
        }

        *p++ = value[1].data[i];
    }

    alcf->realm.len = p - alcf->realm.data;

    return NGX_CONF_OK;
}


char *
ngx_http_apikey_conf_weight(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_apikey_loc_conf_t *alcf = conf;

    char       *rv;
    off_t       n;
    ngx_str_t  *value;

    rv = ngx_http_set_complex_value_slot(cf, cmd, conf);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    if (alcf->weight->lengths) {
        return NGX_CONF_OK;
    }

    value = cf->args->elts;

    n = ngx_atoof(value[1].data, value[1].len);

    if (n == NGX_ERROR || n > NGX_HTTP_APIKEY_WEIGHT_MAX) {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                                           "a whole number is needed, not",
                                           &value[1]);
    }

    return NGX_CONF_OK;
}
