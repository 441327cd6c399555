
/*
 * The directive apikey_admin: where it may stand, and its arguments.  Who a
 * variable may name is decided here as far as a name can tell; what has to
 * vouch for it while requests come, in admin_identity.c.
 *
 * Everything lives in the configuration's pool.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/admin.h"


/*
 * Where no rate is given, a caller has this one, and an hour's worth at once:
 * scripts may run and a loop gone wild is stopped.
 */

#define NGX_HTTP_APIKEY_ADMIN_RATE       20
#define NGX_HTTP_APIKEY_ADMIN_RATE_BURST (20 * 3600)
#define NGX_HTTP_APIKEY_ADMIN_RATE_MAX   1000000


static char *ngx_http_apikey_admin_argument(ngx_conf_t *cf,
    ngx_command_t *cmd, ngx_http_apikey_admin_conf_t *conf, ngx_str_t *value);
static char *ngx_http_apikey_admin_conf_rate(ngx_conf_t *cf,
    ngx_command_t *cmd, ngx_http_apikey_admin_conf_t *conf, ngx_str_t *value,
    ngx_str_t *text);
static char *ngx_http_apikey_admin_variable(ngx_conf_t *cf,
    ngx_command_t *cmd, ngx_http_apikey_admin_conf_t *conf, ngx_str_t *value,
    ngx_str_t *text, ngx_http_apikey_admin_variable_t **variable);
static ngx_int_t ngx_http_apikey_admin_variable_name(ngx_conf_t *cf,
    ngx_str_t *text, ngx_str_t *name);
static ngx_uint_t ngx_http_apikey_admin_claimed(ngx_str_t *name);
static void ngx_http_apikey_admin_find_basic(ngx_conf_t *cf,
    ngx_http_apikey_admin_conf_t *conf);
static char *ngx_http_apikey_admin_base(ngx_conf_t *cf,
    ngx_http_core_loc_conf_t *clcf, ngx_str_t *base);


/* what a client writes as it likes; a '_' at the end: all that begin so */

static ngx_str_t  ngx_http_apikey_admin_claims[] = {
    ngx_string("arg_"),
    ngx_string("args"),
    ngx_string("content_type"),
    ngx_string("cookie_"),
    ngx_string("document_uri"),
    ngx_string("host"),
    ngx_string("http_"),
    ngx_string("query_string"),
    ngx_string("request"),
    ngx_string("request_body"),
    ngx_string("request_filename"),
    ngx_string("request_uri"),
    ngx_string("ssl_server_name"),
    ngx_string("uri"),
    ngx_null_string
};


char *
ngx_http_apikey_admin(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_apikey_loc_conf_t *alcf = conf;

    char                          *rv;
    ngx_str_t                     *value;
    ngx_uint_t                     i;
    ngx_http_core_loc_conf_t      *clcf;
    ngx_http_apikey_admin_conf_t  *acf;

    rv = ngx_http_apikey_content_set(cf, cmd, alcf,
                                     ngx_http_apikey_admin_handler);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    acf = ngx_pcalloc(cf->pool, sizeof(ngx_http_apikey_admin_conf_t));
    if (acf == NULL) {
        return NGX_CONF_ERROR;
    }

    alcf->admin = 1;
    alcf->admin_conf = acf;

    ngx_http_apikey_admin_find_basic(cf, acf);

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {
        rv = ngx_http_apikey_admin_argument(cf, cmd, acf, &value[i]);
        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    if (acf->rate.token == 0
        && !apikey_rate_init(&acf->rate, NGX_HTTP_APIKEY_ADMIN_RATE, 1000000,
                             NGX_HTTP_APIKEY_ADMIN_RATE_BURST))
    {
        return NGX_CONF_ERROR;
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    return ngx_http_apikey_admin_base(cf, clcf, &alcf->admin_base);
}


static char *
ngx_http_apikey_admin_argument(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_http_apikey_admin_conf_t *conf, ngx_str_t *value)
{
    ngx_str_t  rest;

    if (ngx_http_apikey_conf_param(value, "identity", &rest)) {
        return ngx_http_apikey_admin_variable(cf, cmd, conf, value, &rest,
                                              &conf->identity);
    }

    if (ngx_http_apikey_conf_param(value, "operator", &rest)) {
        return ngx_http_apikey_admin_variable(cf, cmd, conf, value, &rest,
                                              &conf->operator);
    }

    if (ngx_http_apikey_conf_param(value, "rate", &rest)) {
        return ngx_http_apikey_admin_conf_rate(cf, cmd, conf, value, &rest);
    }

    if (ngx_strcmp(value->data, "compat") != 0) {
        return ngx_http_apikey_conf_refuse(cf, cmd, "unknown parameter",
                                           value);
    }

    if (conf->compat) {
        return ngx_http_apikey_conf_refuse(cf, cmd, "duplicate parameter",
                                           value);
    }

    conf->compat = 1;

    return NGX_CONF_OK;
}


/* The bucket holds what one period brings. */

static char *
ngx_http_apikey_admin_conf_rate(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_http_apikey_admin_conf_t *conf, ngx_str_t *value, ngx_str_t *text)
{
    size_t     len;
    uint64_t   period;
    ngx_int_t  n;

    if (conf->rate.token) {
        return ngx_http_apikey_conf_refuse(cf, cmd, "duplicate parameter",
                                           value);
    }

    len = sizeof("r/s") - 1;
    period = 0;
    n = NGX_ERROR;

    if (text->len > len) {

        if (ngx_strcmp(text->data + text->len - len, "r/s") == 0) {
            period = 1000000;

        } else if (ngx_strcmp(text->data + text->len - len, "r/m") == 0) {
            period = 60000000;
        }

        n = ngx_atoi(text->data, text->len - len);
    }

    if (period == 0 || n < 1 || n > NGX_HTTP_APIKEY_ADMIN_RATE_MAX
        || !apikey_rate_init(&conf->rate, n, period, n))
    {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                                      "write 1r/m to 1000000r/s, not", value);
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_apikey_admin_variable(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_http_apikey_admin_conf_t *conf, ngx_str_t *value, ngx_str_t *text,
    ngx_http_apikey_admin_variable_t **variable)
{
    ngx_http_apikey_admin_variable_t  *v;

    if (*variable) {
        return ngx_http_apikey_conf_refuse(cf, cmd, "duplicate parameter",
                                           value);
    }

    v = ngx_pcalloc(cf->pool, sizeof(ngx_http_apikey_admin_variable_t));
    if (v == NULL) {
        return NGX_CONF_ERROR;
    }

    if (ngx_http_apikey_admin_variable_name(cf, text, &v->name) != NGX_OK) {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                                   "one variable is needed, and no more, in",
                                   value);
    }

    if (ngx_http_apikey_admin_claimed(&v->name)) {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                                   "any client can write this variable:",
                                   value);
    }

    if (v->name.len == sizeof("remote_user") - 1
        && ngx_strncmp(v->name.data, "remote_user", v->name.len) == 0)
    {
        if (conf->basic == NULL) {
            return ngx_http_apikey_conf_refuse(cf, cmd,
                                   "this nginx has no auth_basic to prove",
                                   value);
        }

        v->proof = NGX_HTTP_APIKEY_PROOF_BASIC;

    } else if (ngx_strncmp(v->name.data, "ssl_client_",
                           sizeof("ssl_client_") - 1)
               == 0)
    {
        v->proof = NGX_HTTP_APIKEY_PROOF_CERT;
    }

    v->index = ngx_http_get_variable_index(cf, &v->name);

    if (v->index == NGX_ERROR) {
        return NGX_CONF_ERROR;
    }

    *variable = v;

    return NGX_CONF_OK;
}


/* $name or ${name}; in lower case, as nginx takes names. */

static ngx_int_t
ngx_http_apikey_admin_variable_name(ngx_conf_t *cf, ngx_str_t *text,
    ngx_str_t *name)
{
    u_char  ch, *p, *last;

    p = text->data;
    last = p + text->len;

    if (p == last || *p++ != '$') {
        return NGX_DECLINED;
    }

    if (p < last && *p == '{' && last[-1] == '}') {
        p++;
        last--;
    }

    if (p >= last) {
        return NGX_DECLINED;
    }

    name->len = last - p;

    /* strings to compare with are NUL-terminated */

    name->data = ngx_pcalloc(cf->pool, name->len + 1);
    if (name->data == NULL) {
        return NGX_ERROR;
    }

    ngx_strlow(name->data, p, name->len);

    for (p = name->data; *p; p++) {
        ch = *p;

        if ((ch < 'a' || ch > 'z') && (ch < '0' || ch > '9') && ch != '_') {
            return NGX_DECLINED;
        }
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_apikey_admin_claimed(ngx_str_t *name)
{
    ngx_str_t  *claim;

    for (claim = ngx_http_apikey_admin_claims; claim->len; claim++) {

        if (name->len < claim->len
            || ngx_strncmp(name->data, claim->data, claim->len) != 0)
        {
            continue;
        }

        if (name->len == claim->len || claim->data[claim->len - 1] == '_') {
            return 1;
        }
    }

    return 0;
}


/* auth_basic's configuration is its own affair; its directives tell where. */

static void
ngx_http_apikey_admin_find_basic(ngx_conf_t *cf,
    ngx_http_apikey_admin_conf_t *conf)
{
    ngx_uint_t      i;
    ngx_module_t   *module;
    ngx_command_t  *cmd;

    for (i = 0; cf->cycle->modules[i]; i++) {
        module = cf->cycle->modules[i];

        if (ngx_strcmp(module->name, "ngx_http_auth_basic_module") == 0) {
            break;
        }
    }

    module = cf->cycle->modules[i];

    if (module == NULL) {
        return;
    }

    for (cmd = module->commands; cmd && cmd->name.len; cmd++) {

        if (ngx_strcmp(cmd->name.data, "auth_basic") == 0
            && cmd->set == ngx_http_set_complex_value_slot)
        {
            conf->basic = module;
            conf->realm = cmd->offset;

        } else if (ngx_strcmp(cmd->name.data, "auth_basic_user_file") == 0) {
            conf->user_file = cmd->offset;
        }
    }
}


/*
 * Paths are relative to this: the location's name with a slash behind it; for
 * an exact location the directory it is in.
 */

static char *
ngx_http_apikey_admin_base(ngx_conf_t *cf, ngx_http_core_loc_conf_t *clcf,
    ngx_str_t *base)
{
    u_char  *p;
    size_t   len;

#if (NGX_PCRE)
    if (clcf->regex) {
        return "needs a location with a prefix, not a regular expression: its "
               "paths are relative to the location";
    }
#endif

    if (clcf->named || clcf->name.len == 0 || clcf->name.data[0] != '/') {
        return "needs a location with a prefix: its paths are relative to the "
               "location";
    }

    len = clcf->name.len;

    if (clcf->exact_match) {
        while (clcf->name.data[len - 1] != '/') {
            len--;
        }
    }

    p = ngx_pnalloc(cf->pool, len + 1);
    if (p == NULL) {
        return NGX_CONF_ERROR;
    }

    base->data = p;

    p = ngx_cpymem(p, clcf->name.data, len);

    if (p[-1] != '/') {
        *p++ = '/';
    }

    base->len = p - base->data;

    return NGX_CONF_OK;
}
