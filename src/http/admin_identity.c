
/*
 * Callers of the admin API whom nginx itself has authenticated: the variables
 * of operator= and identity=.
 *
 * A variable counts only where what the client claims has been proven: a user
 * name by auth_basic, a certificate by its chain.  And since a browser sends
 * both by itself, a change needs a sign that no other site has made it do so.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/admin.h"


#define NGX_HTTP_APIKEY_ADMIN_NAME_MAX  255      /* characters */


static ngx_int_t ngx_http_apikey_admin_named(ngx_http_apikey_admin_t *a,
    ngx_http_apikey_admin_variable_t *variable);
static ngx_uint_t ngx_http_apikey_admin_proven(ngx_http_apikey_admin_t *a,
    ngx_http_apikey_admin_variable_t *variable);
static ngx_uint_t ngx_http_apikey_admin_basic(ngx_http_apikey_admin_t *a);
static void ngx_http_apikey_admin_verified(ngx_http_request_t *r,
    ngx_uint_t *success, ngx_uint_t *failed);
static ngx_uint_t ngx_http_apikey_admin_name_good(ngx_str_t *name);
static ngx_uint_t ngx_http_apikey_admin_same_site(ngx_http_request_t *r);
static ngx_uint_t ngx_http_apikey_admin_header_is(ngx_http_request_t *r,
    const char *name, const char *wanted);
static ngx_uint_t ngx_http_apikey_admin_same_origin(ngx_http_request_t *r);
static void ngx_http_apikey_admin_cut(ngx_str_t *text, const char *tail);


/* NGX_OK: a->caller is set; NGX_DECLINED: nobody is named. */

ngx_int_t
ngx_http_apikey_admin_identity(ngx_http_apikey_admin_t *a)
{
    ngx_int_t                      rc;
    ngx_http_apikey_caller_e       caller;
    ngx_http_apikey_admin_conf_t  *conf;

    conf = a->alcf->admin_conf;

    caller = NGX_HTTP_APIKEY_CALLER_OPERATOR;
    rc = ngx_http_apikey_admin_named(a, conf->operator);

    if (rc == NGX_DECLINED) {
        caller = NGX_HTTP_APIKEY_CALLER_OWNER;
        rc = ngx_http_apikey_admin_named(a, conf->identity);
    }

    if (rc != NGX_OK) {
        return rc;
    }

    if (!ngx_http_apikey_admin_same_site(a->request)) {
        return ngx_http_apikey_admin_problem(a,
                             NGX_HTTP_APIKEY_PROBLEM_FORBIDDEN,
                             "Send \"X-Apikey-Csrf: 1\" with a change: what "
                             "says who you are is sent by browsers for any "
                             "site.", NULL);
    }

    a->caller = caller;
    a->named = 1;

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_admin_named(ngx_http_apikey_admin_t *a,
    ngx_http_apikey_admin_variable_t *variable)
{
    ngx_http_variable_value_t  *value;

    if (variable == NULL) {
        return NGX_DECLINED;
    }

    value = ngx_http_get_flushed_variable(a->request, variable->index);
    if (value == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (value->not_found || value->len == 0
        || !ngx_http_apikey_admin_proven(a, variable))
    {
        return NGX_DECLINED;
    }

    a->name.len = value->len;
    a->name.data = value->data;

    if (!ngx_http_apikey_admin_name_good(&a->name)) {
        return ngx_http_apikey_admin_problem(a,
                             NGX_HTTP_APIKEY_PROBLEM_FORBIDDEN,
                             "The name of the caller is not 1 to 255 "
                             "characters of UTF-8 without control characters.",
                             NULL);
    }

    return NGX_OK;
}


/*
 * Any other variable may be made of the user name or the certificate, by a map
 * or a script.  So it does not count either where nobody vouches for one that
 * was read from this request.
 */

static ngx_uint_t
ngx_http_apikey_admin_proven(ngx_http_apikey_admin_t *a,
    ngx_http_apikey_admin_variable_t *variable)
{
    ngx_uint_t           user, cert, success, failed;
    ngx_http_request_t  *r;

    r = a->request;

    ngx_http_apikey_admin_verified(r, &success, &failed);

    switch (variable->proof) {

    case NGX_HTTP_APIKEY_PROOF_BASIC:
        user = 1;
        cert = 0;
        break;

    case NGX_HTTP_APIKEY_PROOF_CERT:
        user = 0;
        cert = !success;
        break;

    default:
        user = (r->headers_in.user.len != 0);
        cert = failed;
    }

    if (user && !ngx_http_apikey_admin_basic(a)) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "apikey_admin: \"$%V\" does not count without "
                      "auth_basic and \"satisfy all\"", &variable->name);
        return 0;
    }

    if (cert) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "apikey_admin: \"$%V\" does not count: the client's "
                      "certificate is not verified", &variable->name);
        return 0;
    }

    return 1;
}


/* nginx reads a user name from any request; auth_basic alone checks it. */

static ngx_uint_t
ngx_http_apikey_admin_basic(ngx_http_apikey_admin_t *a)
{
    u_char                         *conf;
    ngx_str_t                       realm;
    ngx_http_request_t             *r;
    ngx_http_complex_value_t       *cv;
    ngx_http_core_loc_conf_t       *clcf;
    ngx_http_apikey_admin_conf_t   *acf;

    r = a->request;
    acf = a->alcf->admin_conf;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (acf->basic == NULL || clcf->satisfy != NGX_HTTP_SATISFY_ALL) {
        return 0;
    }

    conf = r->loc_conf[acf->basic->ctx_index];

    cv = *(ngx_http_complex_value_t **) (conf + acf->realm);

    if (cv == NULL || *(void **) (conf + acf->user_file) == NULL
        || ngx_http_complex_value(r, cv, &realm) != NGX_OK)
    {
        return 0;
    }

    return realm.len != 3 || ngx_strncmp(realm.data, "off", 3) != 0;
}


static void
ngx_http_apikey_admin_verified(ngx_http_request_t *r, ngx_uint_t *success,
    ngx_uint_t *failed)
{
    ngx_uint_t                  key;
    ngx_http_variable_value_t  *value;

    static ngx_str_t  name = ngx_string("ssl_client_verify");

    key = ngx_hash_key(name.data, name.len);
    value = ngx_http_get_variable(r, &name, key);

    *success = 0;
    *failed = 0;

    if (value == NULL) {
        *failed = 1;
        return;
    }

    if (value->not_found || value->len == 0
        || (value->len == 4 && ngx_strncmp(value->data, "NONE", 4) == 0))
    {
        return;
    }

    *success = (value->len == 7
                && ngx_strncmp(value->data, "SUCCESS", 7) == 0);
    *failed = !*success;
}


/* As an owner's own id has to be. */

static ngx_uint_t
ngx_http_apikey_admin_name_good(ngx_str_t *name)
{
    size_t  i, n;

    n = 0;

    for (i = 0; i < name->len; i++) {

        if (name->data[i] < 0x20 || name->data[i] == 0x7f) {
            return 0;
        }

        n += ((name->data[i] & 0xc0) != 0x80);
    }

    return n <= NGX_HTTP_APIKEY_ADMIN_NAME_MAX
           && apikey_json_check((char *) name->data, name->len);
}


/* No page of another site can make a browser send any of these. */

static ngx_uint_t
ngx_http_apikey_admin_same_site(ngx_http_request_t *r)
{
    return (r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD)) != 0
           || ngx_http_apikey_admin_header_is(r, "sec-fetch-site",
                                              "same-origin")
           || ngx_http_apikey_admin_header_is(r, "sec-fetch-site", "none")
           || ngx_http_apikey_admin_header_is(r, "x-apikey-csrf", "1")
           || ngx_http_apikey_admin_same_origin(r);
}


static ngx_uint_t
ngx_http_apikey_admin_header_is(ngx_http_request_t *r, const char *name,
    const char *wanted)
{
    ngx_str_t  value;

    return ngx_http_apikey_admin_header(r, name, &value) == 1
           && value.len == ngx_strlen(wanted)
           && ngx_strncmp(value.data, wanted, value.len) == 0;
}


/* Origin is this scheme and Host; a default port may be written or not. */

static ngx_uint_t
ngx_http_apikey_admin_same_origin(ngx_http_request_t *r)
{
    ngx_str_t    origin, host;
    const char  *scheme, *port;

    if (r->headers_in.host == NULL
        || ngx_http_apikey_admin_header(r, "origin", &origin) != 1)
    {
        return 0;
    }

    scheme = "http://";
    port = ":80";

#if (NGX_HTTP_SSL)

    if (r->connection->ssl) {
        scheme = "https://";
        port = ":443";
    }

#endif

    if (origin.len < ngx_strlen(scheme)
        || ngx_strncasecmp(origin.data, (u_char *) scheme, ngx_strlen(scheme))
           != 0)
    {
        return 0;
    }

    origin.data += ngx_strlen(scheme);
    origin.len -= ngx_strlen(scheme);

    host = r->headers_in.host->value;

    ngx_http_apikey_admin_cut(&origin, port);
    ngx_http_apikey_admin_cut(&host, port);

    return host.len != 0 && origin.len == host.len
           && ngx_strncasecmp(origin.data, host.data, host.len) == 0;
}


/* Takes a tail away. */

static void
ngx_http_apikey_admin_cut(ngx_str_t *text, const char *tail)
{
    size_t  len;

    len = ngx_strlen(tail);

    if (text->len >= len
        && ngx_strncmp(text->data + text->len - len, tail, len) == 0)
    {
        text->len -= len;
    }
}
