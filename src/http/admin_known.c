
/*
 * The caller of the admin API once it is known: at what rate it may ask, and
 * how apikey.api() gets to know it.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/digest.h"
#include "http/admin.h"


static ngx_int_t ngx_http_apikey_admin_caller_id(ngx_http_apikey_admin_t *a,
    u_char id[16]);
static ngx_int_t ngx_http_apikey_admin_caller_json(
    ngx_http_apikey_admin_t *a);
static void ngx_http_apikey_admin_key_json(apikey_json_t *j,
    ngx_http_apikey_admin_t *a);


ngx_int_t
ngx_http_apikey_admin_known(ngx_http_apikey_admin_t *a)
{
    u_char  id[16];

    if (ngx_http_apikey_admin_caller_id(a, id) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ngx_http_apikey_throttle_caller(a->request, id,
                                        &a->alcf->admin_conf->rate,
                                        &a->retry_after)
        != NGX_OK)
    {
        return ngx_http_apikey_admin_problem(a,
                             NGX_HTTP_APIKEY_PROBLEM_RATE_LIMITED,
                             "This caller asks too often. Retry-After says "
                             "when to go on.", NULL);
    }

    return ngx_http_apikey_admin_caller_json(a);
}


/* 16 bytes that stand for the caller in shared memory. */

static ngx_int_t
ngx_http_apikey_admin_caller_id(ngx_http_apikey_admin_t *a, u_char id[16])
{
    u_char  *text, digest[APIKEY_DIGEST_LEN];

    if (!a->named && a->caller != NGX_HTTP_APIKEY_CALLER_OPERATOR) {
        ngx_memcpy(id, a->key.id, 16);
        return NGX_OK;
    }

    text = ngx_pnalloc(a->request->pool, a->name.len + 1);
    if (text == NULL) {
        return NGX_ERROR;
    }

    text[0] = (a->caller == NGX_HTTP_APIKEY_CALLER_OPERATOR) ? 'o' : 'i';
    ngx_memcpy(text + 1, a->name.data, a->name.len);

    if (!apikey_sha256(text, a->name.len + 1, digest)) {
        return NGX_ERROR;
    }

    ngx_memcpy(id, digest, 16);

    return NGX_OK;
}


/* values[1]: the caller for apikey.api(). */

static ngx_int_t
ngx_http_apikey_admin_caller_json(ngx_http_apikey_admin_t *a)
{
    char           *buf;
    size_t          size;
    ngx_str_t      *address;
    apikey_json_t   j;

    address = &a->request->connection->addr_text;

    size = 512 + 6 * (address->len + a->key.scopes.len + a->key.name.len
                      + a->key.owner.len + 2 * a->name.len);

    buf = ngx_pnalloc(a->request->pool, size + 1);
    if (buf == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    apikey_json_init(&j, buf, size);
    apikey_json_object(&j);

    apikey_json_name(&j, "kind");

    if (a->caller == NGX_HTTP_APIKEY_CALLER_OPERATOR) {
        apikey_json_text(&j, "operator");
        apikey_json_name(&j, "name");
        apikey_json_string(&j, (char *) a->name.data, a->name.len);
        apikey_json_name(&j, "role");
        apikey_json_text(&j, a->read_only ? "read" : "admin");

    } else if (a->named) {
        apikey_json_text(&j, "owner");
        apikey_json_name(&j, "external");
        apikey_json_string(&j, (char *) a->name.data, a->name.len);
        apikey_json_name(&j, "name");
        apikey_json_string(&j, (char *) a->name.data, a->name.len);

    } else {
        ngx_http_apikey_admin_key_json(&j, a);
    }

    apikey_json_name(&j, "address");
    apikey_json_string(&j, (char *) address->data, address->len);

    apikey_json_object_end(&j);

    buf[apikey_json_len(&j)] = '\0';
    a->values[1] = buf;

    return NGX_DECLINED;
}


static void
ngx_http_apikey_admin_key_json(apikey_json_t *j, ngx_http_apikey_admin_t *a)
{
    ngx_http_apikey_key_t  *key;

    key = &a->key;

    apikey_json_text(j, a->caller == NGX_HTTP_APIKEY_CALLER_OWNER ? "owner"
                                                                  : "key");
    apikey_json_name(j, "key");
    apikey_json_uuid(j, key->id);
    apikey_json_name(j, "secret");
    apikey_json_uuid(j, key->secret);
    apikey_json_name(j, "owner");

    if (key->owner.len) {
        apikey_json_uuid(j, key->owner_uuid);
        apikey_json_name(j, "external");
        apikey_json_string(j, (char *) key->owner.data, key->owner.len);

    } else {
        apikey_json_null(j);
    }

    apikey_json_name(j, "scopes");
    apikey_json_string(j, (char *) key->scopes.data, key->scopes.len);
    apikey_json_name(j, "name");
    apikey_json_string(j, (char *) key->name.data, key->name.len);
}
