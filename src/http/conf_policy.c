
/*
 * Directives of http, server and location about what a key needs here, and
 * what the client hears when it does not have it.
 *
 * Everything lives in the configuration's pool.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"


static ngx_uint_t ngx_http_apikey_scope_valid(ngx_str_t *value);
static ngx_int_t ngx_http_apikey_scope_add(ngx_conf_t *cf,
    ngx_array_t *scopes, ngx_str_t *value);
static ngx_uint_t ngx_http_apikey_scope_variable(ngx_str_t *value);
static char *ngx_http_apikey_status_set(ngx_conf_t *cf, ngx_command_t *cmd,
    uint16_t *statuses, ngx_str_t *value);


char *
ngx_http_apikey_conf_scope(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_apikey_loc_conf_t *alcf = conf;

    ngx_str_t   *value;
    ngx_uint_t   i;

    if (alcf->scopes != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    alcf->scopes = ngx_array_create(cf->pool, cf->args->nelts - 1,
                                    sizeof(ngx_http_apikey_scope_t));
    if (alcf->scopes == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (!ngx_http_apikey_scope_valid(&value[i])) {
            return ngx_http_apikey_conf_refuse(cf, cmd, "invalid scope",
                                               &value[i]);
        }

        if (ngx_http_apikey_scope_add(cf, alcf->scopes, &value[i])
            != NGX_OK)
        {
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


static ngx_uint_t
ngx_http_apikey_scope_valid(ngx_str_t *value)
{
    size_t  i;
    u_char  before;

    before = '|';

    for (i = 0; i < value->len; i++) {

        if (value->data[i] <= ' ' || value->data[i] == 0x7f
            || (value->data[i] == '|' && before == '|'))
        {
            return 0;
        }

        before = value->data[i];
    }

    return before != '|';
}


/*
 * Alternatives are told apart here, as they are written: what a client puts
 * into a variable must not become one.
 */

static ngx_int_t
ngx_http_apikey_scope_add(ngx_conf_t *cf, ngx_array_t *scopes,
    ngx_str_t *value)
{
    u_char                            *p, *last, *bar;
    ngx_str_t                         *text;
    ngx_http_apikey_scope_t           *scope;
    ngx_http_compile_complex_value_t   ccv;

    last = value->data + value->len;

    for (p = value->data; p < last; p = bar + 1) {
        bar = ngx_strlchr(p, last, '|');

        if (bar == NULL) {
            bar = last;
        }

        scope = ngx_array_push(scopes);
        text = ngx_palloc(cf->pool, sizeof(ngx_str_t));

        if (scope == NULL || text == NULL) {
            return NGX_ERROR;
        }

        text->data = p;
        text->len = bar - p;

        scope->next = (bar < last);
        scope->list = ngx_http_apikey_scope_variable(text);

        ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

        ccv.cf = cf;
        ccv.value = text;
        ccv.complex_value = &scope->value;

        if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* "$name" or "${name}" and nothing else */

static ngx_uint_t
ngx_http_apikey_scope_variable(ngx_str_t *value)
{
    u_char  ch;
    size_t  i, last;

    if (value->len < 2 || value->data[0] != '$') {
        return 0;
    }

    i = 1;
    last = value->len;

    if (value->data[1] == '{') {
        i++;
        last--;
    }

    for ( /* void */ ; i < last; i++) {
        ch = value->data[i];

        if ((ch < '0' || ch > '9') && ch != '_'
            && ((ch | 0x20) < 'a' || (ch | 0x20) > 'z'))
        {
            return 0;
        }
    }

    return 1;
}


char *
ngx_http_apikey_conf_status(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_apikey_loc_conf_t *alcf = conf;

    char        *rv;
    ngx_str_t   *value;
    ngx_uint_t   i;

    if (alcf->statuses) {
        return "is duplicate";
    }

    alcf->statuses = ngx_pcalloc(cf->pool,
                                 APIKEY_VERDICTS * sizeof(uint16_t));
    if (alcf->statuses == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {
        rv = ngx_http_apikey_status_set(cf, cmd, alcf->statuses, &value[i]);

        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    /* nobody is told that a key was revoked */

    alcf->statuses[APIKEY_REVOKED_KEY] = alcf->statuses[APIKEY_INVALID_KEY];

    for (i = 0; i < APIKEY_VERDICTS; i++) {
        if (alcf->statuses[i] == 0) {
            alcf->statuses[i] = ngx_http_apikey_verdict_status(i);
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_apikey_status_set(ngx_conf_t *cf, ngx_command_t *cmd,
    uint16_t *statuses, ngx_str_t *value)
{
    u_char            *eq;
    ngx_int_t          code;
    apikey_verdict_e   verdict;

    eq = ngx_strlchr(value->data, value->data + value->len, '=');

    if (eq == NULL) {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                                           "write VERDICT=CODE, not", value);
    }

    verdict = apikey_verdict_parse((char *) value->data, eq - value->data);

    if (verdict == APIKEY_VERDICTS || verdict <= APIKEY_ANONYMOUS) {
        return ngx_http_apikey_conf_refuse(cf, cmd, "no verdict to refuse "
                                           "with:", value);
    }

    if (verdict == APIKEY_REVOKED_KEY) {
        return ngx_http_apikey_conf_refuse(cf, cmd, "a revoked key is "
                                           "invalid_key to the client:",
                                           value);
    }

    if (statuses[verdict]) {
        return ngx_http_apikey_conf_refuse(cf, cmd, "duplicate verdict",
                                           value);
    }

    code = ngx_atoi(eq + 1, value->data + value->len - eq - 1);

    if (code < 400 || code > 599) {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                                           "a status from 400 to 599 is "
                                           "needed, not", value);
    }

    statuses[verdict] = (uint16_t) code;

    return NGX_CONF_OK;
}


/* "" ends what would be inherited. */

void
ngx_http_apikey_conf_value_merge(ngx_http_complex_value_t **conf,
    ngx_http_complex_value_t *prev)
{
    if (*conf == NULL) {
        *conf = prev;

    } else if ((*conf)->lengths == NULL && (*conf)->value.len == 0) {
        *conf = NULL;
    }
}
