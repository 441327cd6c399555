
/*
 * Who calls the admin API: an operator's token or a key, out of
 * "Authorization: Bearer" or "X-API-Key".
 *
 * A key must be one that the data plane would let in, but for its scopes and
 * limits.  The credential is compared and hashed where it stands and goes
 * nowhere else.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include <openssl/crypto.h>

#include "base/clock.h"
#include "http/admin.h"


static ngx_int_t ngx_http_apikey_admin_explicit(ngx_http_apikey_admin_t *a,
    ngx_str_t *value);
static ngx_int_t ngx_http_apikey_admin_credential(ngx_http_apikey_admin_t *a,
    ngx_str_t *value);
static ngx_uint_t ngx_http_apikey_admin_credentials(ngx_http_request_t *r,
    ngx_str_t *value);
static ngx_uint_t ngx_http_apikey_admin_bearer(ngx_str_t *value);
static void ngx_http_apikey_admin_token(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_admin_key(ngx_http_apikey_admin_t *a,
    ngx_str_t *value);
static ngx_int_t ngx_http_apikey_admin_find(ngx_http_apikey_admin_t *a,
    ngx_str_t *value);
static void ngx_http_apikey_admin_found(ngx_http_apikey_keyring_wait_t *wait,
    ngx_int_t rc);
static void ngx_http_apikey_admin_uncharge(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_admin_key_state(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_admin_too_many(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_admin_unauthorized(
    ngx_http_apikey_admin_t *a, ngx_http_apikey_problem_e problem,
    const char *detail);


ngx_int_t
ngx_http_apikey_admin_caller(ngx_http_apikey_admin_t *a)
{
    ngx_int_t  rc;
    ngx_str_t  value;

    rc = ngx_http_apikey_admin_credential(a, &value);

    if (rc == NGX_OK) {
        rc = ngx_http_apikey_admin_explicit(a, &value);

    } else if (rc == NGX_DECLINED) {
        rc = ngx_http_apikey_admin_identity(a);
    }

    if (rc == NGX_DECLINED && a->route->open) {
        return NGX_DECLINED;
    }

    if (rc == NGX_DECLINED) {
        apikey_stats_add(&a->amcf->sh->stats.failures[APIKEY_FAIL_MISSING],
                         1);

        return ngx_http_apikey_admin_unauthorized(a,
                             NGX_HTTP_APIKEY_PROBLEM_MISSING_CREDENTIAL,
                             "Send an operator token or a key as "
                             "\"Authorization: Bearer\", or a key as "
                             "\"X-API-Key\".");
    }

    if (rc != NGX_OK) {
        return rc;
    }

    return ngx_http_apikey_admin_known(a);
}


/*
 * One that was sent decides alone: a variable may name somebody else.  NGX_OK:
 * a->caller is set, or the end of the request.
 */

static ngx_int_t
ngx_http_apikey_admin_explicit(ngx_http_apikey_admin_t *a, ngx_str_t *value)
{
    if (!apikey_sha256(value->data, value->len, a->digest)) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_http_apikey_admin_token(a);

    if (a->caller == NGX_HTTP_APIKEY_CALLER_OPERATOR) {
        return NGX_OK;
    }

    return ngx_http_apikey_admin_key(a, value);
}


/* NGX_OK, NGX_DECLINED none, or the end of the request. */

static ngx_int_t
ngx_http_apikey_admin_credential(ngx_http_apikey_admin_t *a, ngx_str_t *value)
{
    ngx_uint_t                      n;
    ngx_http_apikey_admin_error_t   error;

    n = ngx_http_apikey_admin_credentials(a->request, value);

    if (n == 0) {
        return NGX_DECLINED;
    }

    if (n == 1) {
        return NGX_OK;
    }

    apikey_stats_add(&a->amcf->sh->stats.failures[APIKEY_FAIL_DUPLICATE], 1);

    ngx_str_set(&error.location, "header:X-API-Key");
    error.code = "duplicate";
    error.message = "send one credential only";

    return ngx_http_apikey_admin_problem(a,
                                     NGX_HTTP_APIKEY_PROBLEM_INVALID_REQUEST,
                                     "The request holds more than one "
                                     "credential.", &error);
}


/* How many there are; value is the last one, empty without any. */

ngx_uint_t
ngx_http_apikey_admin_header(ngx_http_request_t *r, const char *name,
    ngx_str_t *value)
{
    size_t            len;
    ngx_uint_t        i, n;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    n = 0;
    len = ngx_strlen(name);
    ngx_str_null(value);

    part = &r->headers_in.headers.part;
    h = part->elts;

    for (i = 0; /* void */ ; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                return n;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (h[i].hash && h[i].key.len == len
            && ngx_strncasecmp(h[i].key.data, (u_char *) name, len) == 0)
        {
            *value = h[i].value;
            n++;
        }
    }
}


/* As above, of both headers; an empty one is none. */

static ngx_uint_t
ngx_http_apikey_admin_credentials(ngx_http_request_t *r, ngx_str_t *value)
{
    ngx_str_t         text;
    ngx_uint_t        i, n;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    n = 0;
    ngx_str_null(value);

    for (part = &r->headers_in.headers.part; part; part = part->next) {

        h = part->elts;

        for (i = 0; i < part->nelts; i++) {
            text = h[i].value;

            if (h[i].key.len == sizeof("x-api-key") - 1
                && ngx_strncasecmp(h[i].key.data, (u_char *) "x-api-key",
                                   h[i].key.len)
                   == 0)
            {
                if (text.len == 0) {
                    continue;
                }

            } else if (h[i].key.len != sizeof("authorization") - 1
                       || ngx_strncasecmp(h[i].key.data,
                                          (u_char *) "authorization",
                                          h[i].key.len)
                          != 0
                       || !ngx_http_apikey_admin_bearer(&text))
            {
                continue;
            }

            *value = text;
            n++;
        }
    }

    return n;
}


/* Other schemes are auth_basic's. */

static ngx_uint_t
ngx_http_apikey_admin_bearer(ngx_str_t *value)
{
    size_t  len;

    len = sizeof("Bearer ") - 1;

    if (value->len < len
        || ngx_strncasecmp(value->data, (u_char *) "Bearer ", len) != 0)
    {
        return 0;
    }

    value->data += len;
    value->len -= len;

    while (value->len && *value->data == ' ') {
        value->data++;
        value->len--;
    }

    return value->len != 0;
}


/* Every line is compared to its end, so that time tells nothing. */

static void
ngx_http_apikey_admin_token(ngx_http_apikey_admin_t *a)
{
    int64_t          now;
    ngx_uint_t       i;
    apikey_token_t  *token, *found;

    if (a->amcf->tokens == NULL) {
        return;
    }

    found = NULL;
    now = apikey_clock_real();
    token = a->amcf->tokens->elts;

    for (i = 0; i < a->amcf->tokens->nelts; i++) {
        if (CRYPTO_memcmp(token[i].digest, a->digest, APIKEY_DIGEST_LEN) == 0
            && token[i].until > now)
        {
            found = &token[i];
        }
    }

    if (found) {
        a->caller = NGX_HTTP_APIKEY_CALLER_OPERATOR;
        a->name.data = (u_char *) found->name;
        a->name.len = found->name_len;
        a->read_only = found->read_only;
    }
}


/* NGX_OK: a->key and a->caller are set. */

static ngx_int_t
ngx_http_apikey_admin_key(ngx_http_apikey_admin_t *a, ngx_str_t *value)
{
    ngx_int_t  rc;

    if (value->len < APIKEY_KEY_MIN || value->len > APIKEY_KEY_MAX) {
        return ngx_http_apikey_admin_refuse(a, APIKEY_FAIL_LENGTH);
    }

    rc = ngx_http_apikey_lookup(a->amcf, a->digest, NULL, a->request->pool,
                                &a->key);

    if ((rc == NGX_DECLINED || rc == NGX_AGAIN)
        && apikey_key_last_digest((char *) value->data, value->len, a->last))
    {
        a->has_last = 1;
        rc = ngx_http_apikey_lookup(a->amcf, a->digest, a->last,
                                    a->request->pool, &a->key);
    }

    if (rc == NGX_OK) {
        return ngx_http_apikey_admin_key_state(a);
    }

    if (rc == NGX_AGAIN) {
        return ngx_http_apikey_admin_find(a, value);
    }

    if (rc == NGX_DECLINED) {
        return ngx_http_apikey_admin_refuse(a, APIKEY_FAIL_OPERATOR);
    }

    return NGX_HTTP_INTERNAL_SERVER_ERROR;
}


/* The copy is not complete: Postgres is asked, once. */

static ngx_int_t
ngx_http_apikey_admin_find(ngx_http_apikey_admin_t *a, ngx_str_t *value)
{
    ngx_int_t     rc;
    apikey_key_e  form;

    if (!a->found) {
        form = apikey_key_check((char *) value->data, value->len,
                                a->amcf->macs, apikey_clock_real());

        if (form == APIKEY_KEY_BAD_CRC) {
            return ngx_http_apikey_admin_refuse(a, APIKEY_FAIL_CHECKSUM);
        }

        if (form == APIKEY_KEY_BAD_MAC) {
            return ngx_http_apikey_admin_refuse(a, APIKEY_FAIL_MAC);
        }

        rc = ngx_http_apikey_throttle_lookup(a->request, value, form,
                                             a->digest, &a->retry_after);
        if (rc == NGX_DECLINED) {
            return ngx_http_apikey_admin_too_many(a);
        }

        a->charged = (rc == NGX_OK);

        a->wait.handler = ngx_http_apikey_admin_found;
        a->wait.data = a;

        if (ngx_http_apikey_keyring_find(a->amcf->keyring, a->digest,
                                         a->has_last ? a->last : NULL,
                                         &a->wait)
            == NGX_OK)
        {
            a->finding = 1;
            ngx_http_apikey_admin_wait(a);
            return NGX_AGAIN;
        }

        a->find_rc = NGX_ERROR;
        ngx_http_apikey_admin_uncharge(a);
    }

    if (a->find_rc == NGX_DECLINED) {
        return ngx_http_apikey_admin_refuse(a, APIKEY_FAIL_OPERATOR);
    }

    return ngx_http_apikey_admin_problem(a,
                                     NGX_HTTP_APIKEY_PROBLEM_UNAVAILABLE,
                                     "The key cannot be checked: Postgres "
                                     "does not answer.", NULL);
}


static void
ngx_http_apikey_admin_found(ngx_http_apikey_keyring_wait_t *wait,
    ngx_int_t rc)
{
    ngx_http_apikey_admin_t *a = wait->data;

    a->finding = 0;
    a->found = 1;
    a->find_rc = rc;

    if (rc != NGX_DECLINED) {
        ngx_http_apikey_admin_uncharge(a);
    }

    ngx_http_apikey_admin_resume(a);
}


/* The look-up was no guess, or has not been made. */

static void
ngx_http_apikey_admin_uncharge(ngx_http_apikey_admin_t *a)
{
    if (a->charged) {
        a->charged = 0;
        ngx_http_apikey_throttle_found(a->request);
    }
}


static ngx_int_t
ngx_http_apikey_admin_key_state(ngx_http_apikey_admin_t *a)
{
    u_char     address[16];
    int64_t    now;
    ngx_str_t  manage;

    now = apikey_clock_real();

    if (a->key.revoked) {
        return ngx_http_apikey_admin_refuse(a, APIKEY_FAIL_REVOKED);
    }

    if (!a->key.enabled || !a->key.owner_enabled) {
        return ngx_http_apikey_admin_refuse(a, APIKEY_FAIL_DISABLED);
    }

    if (a->key.expires <= now || a->key.secret_expires <= now) {
        return ngx_http_apikey_admin_refuse(a, APIKEY_FAIL_EXPIRED);
    }

    ngx_http_apikey_client_address(a->request, address);

    if (!ngx_http_apikey_ip_allowed(&a->key, address)) {
        return ngx_http_apikey_admin_problem(a,
                                     NGX_HTTP_APIKEY_PROBLEM_FORBIDDEN,
                                     "The key may not be used from this "
                                     "address.", NULL);
    }

    ngx_str_set(&manage, "apikey:manage");

    a->caller = (a->key.owner.len
                 && ngx_http_apikey_scope_held(&a->key.scopes, &manage, 0))
                ? NGX_HTTP_APIKEY_CALLER_OWNER : NGX_HTTP_APIKEY_CALLER_KEY;

    return NGX_OK;
}


/* One answer for all reasons; the metric tells them apart. */

ngx_int_t
ngx_http_apikey_admin_refuse(ngx_http_apikey_admin_t *a, apikey_fail_e reason)
{
    apikey_stats_add(&a->amcf->sh->stats.failures[reason], 1);

    if (ngx_http_apikey_throttle_failure(a->request, &a->retry_after)
        != NGX_OK)
    {
        return ngx_http_apikey_admin_too_many(a);
    }

    return ngx_http_apikey_admin_unauthorized(a,
                             NGX_HTTP_APIKEY_PROBLEM_INVALID_CREDENTIAL,
                             a->refusal
                                 ? a->refusal
                                 : "The operator token or key is not valid.");
}


static ngx_int_t
ngx_http_apikey_admin_too_many(ngx_http_apikey_admin_t *a)
{
    return ngx_http_apikey_admin_problem(a,
                             NGX_HTTP_APIKEY_PROBLEM_RATE_LIMITED,
                             "Too many wrong credentials from this address. "
                             "A right one is let in all the same.", NULL);
}


static ngx_int_t
ngx_http_apikey_admin_unauthorized(ngx_http_apikey_admin_t *a,
    ngx_http_apikey_problem_e problem, const char *detail)
{
    if (ngx_http_apikey_admin_challenge(a) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_apikey_admin_problem(a, problem, detail, NULL);
}


/* WWW-Authenticate */

ngx_int_t
ngx_http_apikey_admin_challenge(ngx_http_apikey_admin_t *a)
{
    u_char      *p;
    ngx_str_t    value, *realm;
    ngx_uint_t   i;

    static const char  *schemes[] = { "Bearer", "ApiKey" };

    realm = &a->alcf->realm;

    for (i = 0; i < 2; i++) {
        p = ngx_pnalloc(a->request->pool,
                        sizeof("Bearer realm=\"\"") + realm->len);
        if (p == NULL) {
            return NGX_ERROR;
        }

        value.data = p;
        value.len = ngx_sprintf(p, "%s realm=\"%V\"", schemes[i], realm) - p;

        if (ngx_http_apikey_admin_add_header(a->request, "WWW-Authenticate",
                                             &value)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}
