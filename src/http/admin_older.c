
/*
 * What apikey_admin compat needs besides SQL: the older clients' paths, below
 * "keys/", answer problems in their own shape, and their bodies bring an
 * e-mail address and a password along, which nobody reads.
 *
 * Everything lives in the request's pool.  Called by the stages in admin_*.c.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include <openssl/crypto.h>

#include "base/jsonscan.h"
#include "http/admin.h"


ngx_uint_t
ngx_http_apikey_admin_older(ngx_http_apikey_admin_t *a)
{
    return a->alcf->admin_conf->compat
           && a->nsegments > 1
           && a->segments[0].len == sizeof("keys") - 1
           && ngx_memcmp(a->segments[0].data, "keys", sizeof("keys") - 1)
              == 0;
}


/*
 * The values are overwritten before anything of the body goes to Postgres,
 * which may log what it is asked.  What is no object is worth nothing.
 */

void
ngx_http_apikey_admin_older_forget(ngx_http_apikey_admin_t *a)
{
    ngx_str_t           *body;
    apikey_json_walk_t   w;

    body = &a->body;

    if (body->len == 0) {
        return;
    }

    if (!apikey_json_walk(&w, (char *) body->data, body->len)
        || w.end[-1] != '}')
    {
        OPENSSL_cleanse(body->data, body->len);
        body->data[0] = '?';
        body->len = 1;
        return;
    }

    while (apikey_json_walk_next(&w)) {

        if (apikey_json_walk_named(&w, "email")
            || apikey_json_walk_named(&w, "password"))
        {
            ngx_memset((char *) w.value, ' ', w.value_len);
            *(char *) w.value = '0';
        }
    }
}


ngx_int_t
ngx_http_apikey_admin_older_problem(ngx_http_apikey_admin_t *a,
    ngx_uint_t status, const char *code, const char *detail)
{
    size_t         size;
    ngx_str_t      body;
    apikey_json_t  j;

    size = 256 + 6 * ngx_strlen(detail);

    body.data = ngx_pnalloc(a->request->pool, size);
    if (body.data == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    apikey_json_init(&j, (char *) body.data, size);
    apikey_json_object(&j);

    apikey_json_name(&j, "success");
    apikey_json_bool(&j, 0);

    apikey_json_name(&j, "error");
    apikey_json_object(&j);
    apikey_json_name(&j, "code");
    apikey_json_text(&j, code);
    apikey_json_name(&j, "message");
    apikey_json_text(&j, detail);
    apikey_json_object_end(&j);

    apikey_json_object_end(&j);

    body.len = apikey_json_len(&j);

    return ngx_http_apikey_admin_send(a, status, "application/json", &body);
}
