
/*
 * POST leaks: a report of GitHub's secret scanning.  Its signature is its
 * credential, and is checked before anything else; the public keys come out
 * of Postgres and are kept for a moment, so that reports that nobody signed
 * cost no query each.
 *
 * The tokens become digests here.  What they are and what is done about them
 * is SQL.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include <openssl/crypto.h>

#include "base/jsonscan.h"
#include "base/leaks.h"
#include "http/admin.h"


#define NGX_HTTP_APIKEY_LEAKS_KEEP    10000      /* ms */
#define NGX_HTTP_APIKEY_LEAKS_AGAIN   1000       /* for a key not known */
#define NGX_HTTP_APIKEY_LEAKS_TOKENS  1000
#define NGX_HTTP_APIKEY_LEAKS_ASKING  4          /* at once, a worker */


typedef struct {
    ngx_str_t    id;
    ngx_str_t    signature;
    unsigned     asked:1;        /* for the public keys */
    unsigned     asking:1;       /* and no answer yet */
    unsigned     reported:1;
} ngx_http_apikey_leaks_t;


static ngx_int_t ngx_http_apikey_leaks_start(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_leaks_header(ngx_http_apikey_admin_t *a,
    const char *name, ngx_str_t *value);
static ngx_int_t ngx_http_apikey_leaks_caller(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_leaks_ask(ngx_http_apikey_admin_t *a);
static void ngx_http_apikey_leaks_answered(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_leaks_keep(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_leaks_check(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_leaks_report(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_leaks_tokens(ngx_http_apikey_admin_t *a,
    apikey_json_t *j);
static void ngx_http_apikey_leaks_token(apikey_json_t *j, const char *item,
    size_t len, char *text);
static void ngx_http_apikey_leaks_digest(apikey_json_t *j, const char *name,
    u_char digest[APIKEY_DIGEST_LEN]);
static ngx_int_t ngx_http_apikey_leaks_wrong(ngx_http_apikey_admin_t *a,
    const char *code, const char *message);


/* This worker's copy of the setting. */

static ngx_str_t   ngx_http_apikey_leaks_keys;
static ngx_msec_t  ngx_http_apikey_leaks_at;
static ngx_uint_t  ngx_http_apikey_leaks_asking;


ngx_int_t
ngx_http_apikey_leaks(ngx_http_apikey_admin_t *a)
{
    ngx_http_apikey_leaks_t  *lk;

    lk = a->job;

    if (lk == NULL) {
        return ngx_http_apikey_leaks_start(a);
    }

    ngx_http_apikey_leaks_answered(a);

    if (lk->reported) {
        return ngx_http_apikey_admin_call_finish(a);
    }

    if (a->failed || a->status != NGX_HTTP_OK) {
        return ngx_http_apikey_admin_call_finish(a);
    }

    if (ngx_http_apikey_leaks_keep(a) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_apikey_leaks_check(a);
}


static ngx_int_t
ngx_http_apikey_leaks_start(ngx_http_apikey_admin_t *a)
{
    ngx_msec_t                age;
    ngx_http_apikey_leaks_t  *lk;

    lk = ngx_pcalloc(a->request->pool, sizeof(ngx_http_apikey_leaks_t));
    if (lk == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    a->job = lk;
    a->refusal = "The report is not signed by a key of the setting leak_keys.";

    if (ngx_http_apikey_leaks_header(a, "github-public-key-identifier",
                                     &lk->id)
        != NGX_OK
        || ngx_http_apikey_leaks_header(a, "github-public-key-signature",
                                        &lk->signature)
           != NGX_OK
        || a->body.data == NULL)
    {
        return ngx_http_apikey_admin_refuse(a, APIKEY_FAIL_MISSING);
    }

    if (ngx_http_apikey_leaks_caller(a) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    age = ngx_current_msec - ngx_http_apikey_leaks_at;

    if (ngx_http_apikey_leaks_keys.data == NULL
        || age >= NGX_HTTP_APIKEY_LEAKS_KEEP)
    {
        return ngx_http_apikey_leaks_ask(a);
    }

    return ngx_http_apikey_leaks_check(a);
}


static ngx_int_t
ngx_http_apikey_leaks_header(ngx_http_apikey_admin_t *a, const char *name,
    ngx_str_t *value)
{
    return (ngx_http_apikey_admin_header(a->request, name, value) == 1
            && value->len && value->len <= 512)
           ? NGX_OK : NGX_DECLINED;
}


/* values[1]: nobody of ours; the audit calls it "leaks". */

static ngx_int_t
ngx_http_apikey_leaks_caller(ngx_http_apikey_admin_t *a)
{
    char           *buf;
    size_t          size;
    ngx_str_t      *address;
    apikey_json_t   j;

    address = &a->request->connection->addr_text;
    size = 128 + 6 * address->len;

    buf = ngx_pnalloc(a->request->pool, size + 1);
    if (buf == NULL) {
        return NGX_ERROR;
    }

    apikey_json_init(&j, buf, size);
    apikey_json_object(&j);
    apikey_json_name(&j, "kind");
    apikey_json_text(&j, "operator");
    apikey_json_name(&j, "role");
    apikey_json_text(&j, "admin");
    apikey_json_name(&j, "name");
    apikey_json_text(&j, "leaks");
    apikey_json_name(&j, "address");
    apikey_json_string(&j, (char *) address->data, address->len);
    apikey_json_object_end(&j);

    buf[apikey_json_len(&j)] = '\0';
    a->values[1] = buf;

    return NGX_OK;
}


/* Nobody has signed anything yet: others must not wait behind a flood. */

static ngx_int_t
ngx_http_apikey_leaks_ask(ngx_http_apikey_admin_t *a)
{
    ngx_int_t                 rc;
    ngx_str_t                 body;
    ngx_http_apikey_leaks_t  *lk;

    lk = a->job;
    lk->asked = 1;

    if (ngx_http_apikey_leaks_asking == NGX_HTTP_APIKEY_LEAKS_ASKING) {
        return ngx_http_apikey_admin_problem(a,
                                     NGX_HTTP_APIKEY_PROBLEM_UNAVAILABLE,
                                     "Too many reports wait for the public "
                                     "keys.", NULL);
    }

    /* the report stays here */

    body = a->body;
    ngx_str_null(&a->body);

    a->function = "leak_keys";
    rc = ngx_http_apikey_admin_call_start(a);

    a->body = body;

    if (rc == NGX_AGAIN) {
        lk->asking = 1;
        ngx_http_apikey_leaks_asking++;
        a->detach = ngx_http_apikey_leaks_answered;
    }

    return rc;
}


static void
ngx_http_apikey_leaks_answered(ngx_http_apikey_admin_t *a)
{
    ngx_http_apikey_leaks_t  *lk;

    lk = a->job;

    if (lk->asking) {
        lk->asking = 0;
        ngx_http_apikey_leaks_asking--;
    }
}


static ngx_int_t
ngx_http_apikey_leaks_keep(ngx_http_apikey_admin_t *a)
{
    u_char  *text;

    text = ngx_alloc(a->answer.len + 1, a->request->connection->log);
    if (text == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(text, a->answer.data, a->answer.len);

    if (ngx_http_apikey_leaks_keys.data) {
        ngx_free(ngx_http_apikey_leaks_keys.data);
    }

    ngx_http_apikey_leaks_keys.data = text;
    ngx_http_apikey_leaks_keys.len = a->answer.len;
    ngx_http_apikey_leaks_at = ngx_current_msec;

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_leaks_check(ngx_http_apikey_admin_t *a)
{
    char                     *pem;
    size_t                    len;
    ngx_str_t                *keys, signature;
    ngx_http_apikey_leaks_t  *lk;

    lk = a->job;
    keys = &ngx_http_apikey_leaks_keys;

    pem = ngx_pnalloc(a->request->pool, keys->len + 1);

    signature.data = ngx_pnalloc(a->request->pool,
                                 ngx_base64_decoded_length(lk->signature.len));

    if (pem == NULL || signature.data == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    len = apikey_leaks_key((char *) keys->data, keys->len,
                           (char *) lk->id.data, lk->id.len, pem);

    if (len == 0 && !lk->asked
        && ngx_current_msec - ngx_http_apikey_leaks_at
           >= NGX_HTTP_APIKEY_LEAKS_AGAIN)
    {
        return ngx_http_apikey_leaks_ask(a);
    }

    if (len == 0
        || ngx_decode_base64(&signature, &lk->signature) != NGX_OK
        || !apikey_leaks_signed(pem, len, signature.data, signature.len,
                                a->body.data, a->body.len))
    {
        return ngx_http_apikey_admin_refuse(a, APIKEY_FAIL_MAC);
    }

    return ngx_http_apikey_leaks_report(a);
}


static ngx_int_t
ngx_http_apikey_leaks_report(ngx_http_apikey_admin_t *a)
{
    char                     *buf;
    size_t                    size;
    ngx_int_t                 rc;
    apikey_json_t             j;
    ngx_http_apikey_leaks_t  *lk;

    lk = a->job;

    size = NGX_HTTP_APIKEY_LEAKS_TOKENS * 320 + 6 * a->body.len;

    buf = ngx_pnalloc(a->request->pool, size);
    if (buf == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    apikey_json_init(&j, buf, size);

    rc = ngx_http_apikey_leaks_tokens(a, &j);

    OPENSSL_cleanse(a->body.data, a->body.len);

    if (rc != NGX_OK) {
        return rc;
    }

    a->body.data = (u_char *) buf;
    a->body.len = apikey_json_len(&j);
    a->function = "leak_report";
    lk->reported = 1;

    return ngx_http_apikey_admin_call_start(a);
}


static ngx_int_t
ngx_http_apikey_leaks_tokens(ngx_http_apikey_admin_t *a, apikey_json_t *j)
{
    char                *text;
    ngx_uint_t           n;
    apikey_json_walk_t   w;

    text = ngx_pnalloc(a->request->pool, a->body.len);
    if (text == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (!apikey_json_walk(&w, (char *) a->body.data, a->body.len)
        || w.end[-1] != ']')
    {
        return ngx_http_apikey_leaks_wrong(a, "bad_type",
                                           "a JSON array is needed");
    }

    apikey_json_array(j);

    for (n = 0; apikey_json_walk_next(&w); n++) {

        if (n == NGX_HTTP_APIKEY_LEAKS_TOKENS) {
            return ngx_http_apikey_leaks_wrong(a, "too_many",
                                               "at most 1000 tokens");
        }

        ngx_http_apikey_leaks_token(j, w.value, w.value_len, text);
    }

    apikey_json_array_end(j);

    OPENSSL_cleanse(text, a->body.len);

    if (j->overflow) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return NGX_OK;
}


/* What is no text, or too long to be one of GitHub's, is left out. */

static void
ngx_http_apikey_leaks_token(apikey_json_t *j, const char *item, size_t len,
    char *text)
{
    size_t               i, n;
    u_char               digest[APIKEY_DIGEST_LEN];
    apikey_json_walk_t   w;

    static const struct {
        const char  *name;
        size_t       max;
    } members[] = {
        { "type", 255 },
        { "url", 2000 },
        { "source", 64 },
        { NULL, 0 }
    };

    apikey_json_object(j);

    if (apikey_json_walk(&w, item, len)) {

        while (apikey_json_walk_next(&w)) {
            n = apikey_json_decode(w.value, w.value_len, text);

            if (n == APIKEY_JSON_NONE) {
                continue;
            }

            if (apikey_json_walk_named(&w, "token")) {

                if (apikey_sha256(text, n, digest)) {
                    ngx_http_apikey_leaks_digest(j, "digest", digest);
                }

                if (apikey_key_last_digest(text, n, digest)) {
                    ngx_http_apikey_leaks_digest(j, "last", digest);
                }

                continue;
            }

            for (i = 0; members[i].name; i++) {
                if (n <= members[i].max
                    && apikey_json_walk_named(&w, members[i].name)
                    && apikey_json_check(text, n))
                {
                    apikey_json_name(j, members[i].name);
                    apikey_json_string(j, text, n);
                }
            }
        }
    }

    apikey_json_object_end(j);
}


static void
ngx_http_apikey_leaks_digest(apikey_json_t *j, const char *name,
    u_char digest[APIKEY_DIGEST_LEN])
{
    u_char  hex[2 * APIKEY_DIGEST_LEN];

    (void) ngx_hex_dump(hex, digest, APIKEY_DIGEST_LEN);

    apikey_json_name(j, name);
    apikey_json_string(j, (char *) hex, 2 * APIKEY_DIGEST_LEN);
}


static ngx_int_t
ngx_http_apikey_leaks_wrong(ngx_http_apikey_admin_t *a, const char *code,
    const char *message)
{
    return ngx_http_apikey_admin_wrong(a, "The report cannot be read.", "",
                                       code, message);
}
