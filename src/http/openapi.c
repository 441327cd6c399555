
/*
 * GET openapi.json: docs/openapi.json as the build has put it into a header,
 * with the version of this module and the path of the location that answers.
 *
 * Anybody may read it: it says what every copy of this module can do, and
 * nothing of this installation.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/version.h"
#include "http/admin.h"


static ngx_int_t ngx_http_apikey_openapi_base(ngx_http_apikey_admin_t *a,
    ngx_str_t *base);


/* in two parts around each of them */

#define NGX_HTTP_APIKEY_OPENAPI_VERSION  "@VERSION@"
#define NGX_HTTP_APIKEY_OPENAPI_BASE     "@BASE@"


static const char  ngx_http_apikey_openapi_text[] =
#include <apikey_openapi.h>
;


ngx_int_t
ngx_http_apikey_openapi_json(ngx_http_apikey_admin_t *a)
{
    u_char     *p;
    size_t      len;
    ngx_int_t   rc;
    ngx_str_t   base, body;
    const char *text, *version, *url;

    rc = ngx_http_apikey_admin_no_query(a);

    if (rc != NGX_OK) {
        return rc;
    }

    text = ngx_http_apikey_openapi_text;
    version = strstr(text, NGX_HTTP_APIKEY_OPENAPI_VERSION);
    url = version ? strstr(version, NGX_HTTP_APIKEY_OPENAPI_BASE) : NULL;

    if (url == NULL || ngx_http_apikey_openapi_base(a, &base) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    len = sizeof(ngx_http_apikey_openapi_text)
          + sizeof(NGX_HTTP_APIKEY_VERSION) + base.len;

    body.data = ngx_pnalloc(a->request->pool, len);
    if (body.data == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    p = ngx_cpymem(body.data, text, version - text);
    p = ngx_cpymem(p, NGX_HTTP_APIKEY_VERSION,
                   sizeof(NGX_HTTP_APIKEY_VERSION) - 1);

    text = version + sizeof(NGX_HTTP_APIKEY_OPENAPI_VERSION) - 1;

    p = ngx_cpymem(p, text, url - text);
    p = ngx_cpymem(p, base.data, base.len);

    text = url + sizeof(NGX_HTTP_APIKEY_OPENAPI_BASE) - 1;

    p = ngx_cpymem(p, text, ngx_strlen(text));

    body.len = p - body.data;

    return ngx_http_apikey_admin_send(a, NGX_HTTP_OK, "application/json",
                                      &body);
}


/* Without the slash behind it: every path of the document begins with one. */

static ngx_int_t
ngx_http_apikey_openapi_base(ngx_http_apikey_admin_t *a, ngx_str_t *base)
{
    u_char     *p;
    size_t      len;
    uintptr_t   escape;

    len = a->alcf->admin_base.len - (a->alcf->admin_base.len > 1);
    escape = 2 * ngx_escape_uri(NULL, a->alcf->admin_base.data, len,
                                NGX_ESCAPE_URI);

    p = ngx_pnalloc(a->request->pool, len + escape);
    if (p == NULL) {
        return NGX_ERROR;
    }

    (void) ngx_escape_uri(p, a->alcf->admin_base.data, len, NGX_ESCAPE_URI);
    len += escape;

    escape = ngx_escape_json(NULL, p, len);

    base->data = ngx_pnalloc(a->request->pool, len + escape);
    if (base->data == NULL) {
        return NGX_ERROR;
    }

    base->len = len + escape;
    (void) ngx_escape_json(base->data, p, len);

    return NGX_OK;
}
