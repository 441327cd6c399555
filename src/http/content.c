
/*
 * What apikey_admin, apikey_metrics and apikey_health have in common as
 * content handlers: they imply "apikey off", one stands in a location, and
 * small answers that nobody may cache.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/admin.h"


static ngx_int_t ngx_http_apikey_content_method(ngx_http_request_t *r);


/* A directive that makes handler this location's. */

char *
ngx_http_apikey_content_set(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_http_apikey_loc_conf_t *alcf, ngx_http_handler_pt handler)
{
    ngx_http_core_loc_conf_t  *clcf;

    if (alcf->content) {
        return alcf->content == handler
               ? "is duplicate"
               : "cannot share a location with another apikey_admin, "
                 "apikey_metrics or apikey_health";
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    alcf->content = handler;
    clcf->handler = handler;

    ngx_http_apikey_conf_use(cf, (char *) cmd->name.data);

    return NGX_CONF_OK;
}


char *
ngx_http_apikey_content_merge(ngx_conf_t *cf,
    ngx_http_apikey_loc_conf_t *prev, ngx_http_apikey_loc_conf_t *conf)
{
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (clcf->noname && conf->content == NULL && clcf->handler == NULL
        && prev->content)
    {
        conf->admin = prev->admin;
        conf->admin_conf = prev->admin_conf;
        conf->admin_base = prev->admin_base;
        conf->content = prev->content;

        /* an "if" keeps the handler that its location has set */

        if (clcf->lmt_excpt) {
            clcf->handler = prev->content;
        }
    }

    ngx_conf_merge_value(conf->admin, NGX_CONF_UNSET, 0);

    if (conf->content == NULL) {
        return NGX_CONF_OK;
    }

    if (conf->mode != NGX_CONF_UNSET_UINT
        && conf->mode != NGX_HTTP_APIKEY_OFF)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"apikey\" must be off in location \"%V\": "
                           "apikey_admin, apikey_metrics and apikey_health "
                           "imply it", &clcf->name);
        return NGX_CONF_ERROR;
    }

    conf->mode = NGX_HTTP_APIKEY_OFF;

    if (conf->admin) {

        /* nginx would answer 413 in HTML; admin_body.c keeps the same limit */

        conf->admin_max_body = NGX_HTTP_APIKEY_ADMIN_MAX_BODY;

        if (clcf->client_max_body_size > 0
            && clcf->client_max_body_size < conf->admin_max_body)
        {
            conf->admin_max_body = clcf->client_max_body_size;
        }

        clcf->client_max_body_size = 0;
    }

    return NGX_CONF_OK;
}


/* body must live as long as the request */

ngx_int_t
ngx_http_apikey_content_send(ngx_http_request_t *r, ngx_uint_t status,
    const char *type, ngx_str_t *body)
{
    ngx_int_t     rc;
    ngx_str_t     value;
    ngx_buf_t    *b;
    ngx_chain_t   out;

    rc = ngx_http_apikey_content_method(r);

    if (rc != NGX_OK) {
        return rc;
    }

    ngx_str_set(&value, "no-store");

    b = ngx_calloc_buf(r->pool);

    if (b == NULL
        || ngx_http_apikey_admin_add_header(r, "Cache-Control", &value)
           != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->headers_out.status = status;
    r->headers_out.content_length_n = body->len;
    r->headers_out.content_type.data = (u_char *) type;
    r->headers_out.content_type.len = ngx_strlen(type);
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    b->pos = body->data;
    b->last = body->data + body->len;
    b->memory = 1;
    b->last_buf = (r == r->main) ? 1 : 0;
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}


/* NGX_OK, or what to finalize the request with: only GET and HEAD. */

static ngx_int_t
ngx_http_apikey_content_method(ngx_http_request_t *r)
{
    ngx_str_t  value;

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        ngx_str_set(&value, "GET, HEAD");

        if (ngx_http_apikey_admin_add_header(r, "Allow", &value) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        return NGX_HTTP_NOT_ALLOWED;
    }

    return ngx_http_discard_request_body(r);
}
