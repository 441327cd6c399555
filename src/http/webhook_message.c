
/*
 * A delivery as the Standard Webhooks specification has it: id, time of the
 * attempt, and a signature by each secret of the webhook.  All of it lives in
 * the job's pool.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/digest.h"
#include "http/webhook.h"


#define NGX_HTTP_APIKEY_WHSEC          "whsec_"
#define NGX_HTTP_APIKEY_WHSEC_MAX      128       /* its text */
#define NGX_HTTP_APIKEY_WEBHOOK_AGENT                                         \
    "apikey-webhook/" NGX_HTTP_APIKEY_VERSION
#define NGX_HTTP_APIKEY_SIGNATURE_LEN                                         \
    (sizeof(" v1,") - 1 + ngx_base64_encoded_length(APIKEY_DIGEST_LEN))


static const char *ngx_http_apikey_webhook_copy(ngx_pool_t *pool,
    PGresult *res, int row, int column);
static ngx_int_t ngx_http_apikey_webhook_headers(ngx_http_apikey_job_t *job,
    const char *event, const char *secrets, time_t now);
static const char *ngx_http_apikey_webhook_signatures(ngx_pool_t *pool,
    const char *secrets, ngx_str_t *text);
static u_char *ngx_http_apikey_webhook_sign(u_char *p, const char *secret,
    size_t len, ngx_str_t *text);


ngx_int_t
ngx_http_apikey_webhook_message(ngx_http_apikey_job_t *job, PGresult *res,
    int row, time_t now)
{
    int          i;
    const char  *value[NGX_HTTP_APIKEY_CLAIM_COLUMNS];

    for (i = 0; i < NGX_HTTP_APIKEY_CLAIM_COLUMNS; i++) {
        value[i] = ngx_http_apikey_webhook_copy(job->pool, res, row, i);

        if (value[i] == NULL) {
            return NGX_ERROR;
        }
    }

    job->delivery = value[NGX_HTTP_APIKEY_CLAIM_DELIVERY];
    job->attempt = value[NGX_HTTP_APIKEY_CLAIM_ATTEMPT];

    job->post.url = value[NGX_HTTP_APIKEY_CLAIM_URL];
    job->post.body = value[NGX_HTTP_APIKEY_CLAIM_BODY];
    job->post.len = PQgetlength(res, row, NGX_HTTP_APIKEY_CLAIM_BODY);
    job->post.allowed = value[NGX_HTTP_APIKEY_CLAIM_ALLOWED];

    return ngx_http_apikey_webhook_headers(job,
                                       value[NGX_HTTP_APIKEY_CLAIM_EVENT],
                                       value[NGX_HTTP_APIKEY_CLAIM_SECRETS],
                                       now);
}


static const char *
ngx_http_apikey_webhook_copy(ngx_pool_t *pool, PGresult *res, int row,
    int column)
{
    char    *p;
    size_t   len;

    len = PQgetlength(res, row, column);

    p = ngx_pnalloc(pool, len + 1);
    if (p == NULL) {
        return NULL;
    }

    ngx_memcpy(p, PQgetvalue(res, row, column), len);
    p[len] = '\0';

    return p;
}


static ngx_int_t
ngx_http_apikey_webhook_headers(ngx_http_apikey_job_t *job,
    const char *event, const char *secrets, time_t now)
{
    u_char      *p, *id;
    ngx_str_t    text;
    ngx_uint_t   n;

    text.data = ngx_pnalloc(job->pool, ngx_strlen(event) + NGX_TIME_T_LEN + 2
                                       + job->post.len);
    id = ngx_pnalloc(job->pool, sizeof("webhook-timestamp: ")
                                + NGX_TIME_T_LEN + sizeof("webhook-id: ")
                                + ngx_strlen(event));

    if (text.data == NULL || id == NULL) {
        return NGX_ERROR;
    }

    p = ngx_sprintf(text.data, "%s.%T.", event, now);
    p = ngx_cpymem(p, job->post.body, job->post.len);
    text.len = p - text.data;

    n = 0;

    job->post.headers[n++] = "Content-Type: application/json";
    job->post.headers[n++] = "User-Agent: " NGX_HTTP_APIKEY_WEBHOOK_AGENT;
    job->post.headers[n++] = "Expect:";          /* no pause before the body */

    job->post.headers[n++] = (char *) id;
    p = ngx_sprintf(id, "webhook-id: %s%Z", event);
    job->post.headers[n++] = (char *) p;
    ngx_sprintf(p, "webhook-timestamp: %T%Z", now);

    job->post.headers[n] = ngx_http_apikey_webhook_signatures(job->pool,
                                                              secrets, &text);

    return job->post.headers[n] ? NGX_OK : NGX_ERROR;
}


static const char *
ngx_http_apikey_webhook_signatures(ngx_pool_t *pool, const char *secrets,
    ngx_str_t *text)
{
    u_char      *p, *header;
    size_t       len;
    ngx_uint_t   n;
    const char  *next;

    for (n = 1, next = secrets; *next; next++) {
        n += (*next == ' ');
    }

    header = ngx_pnalloc(pool, sizeof("webhook-signature:")
                               + n * NGX_HTTP_APIKEY_SIGNATURE_LEN);
    if (header == NULL) {
        return NULL;
    }

    p = ngx_cpymem(header, "webhook-signature:",
                   sizeof("webhook-signature:") - 1);

    while (*secrets) {
        len = strcspn(secrets, " ");

        p = ngx_http_apikey_webhook_sign(p, secrets, len, text);

        if (p == NULL) {
            return NULL;
        }

        secrets += len;
        secrets += strspn(secrets, " ");
    }

    *p = '\0';

    return (char *) header;
}


/* " v1,BASE64"; nothing for what is no secret */

static u_char *
ngx_http_apikey_webhook_sign(u_char *p, const char *secret, size_t len,
    ngx_str_t *text)
{
    u_char     buf[ngx_base64_decoded_length(NGX_HTTP_APIKEY_WHSEC_MAX)];
    u_char     mac[APIKEY_DIGEST_LEN];
    ngx_str_t  in, out;

    if (len <= sizeof(NGX_HTTP_APIKEY_WHSEC) - 1
        || len > NGX_HTTP_APIKEY_WHSEC_MAX)
    {
        return p;
    }

    in.data = (u_char *) secret + sizeof(NGX_HTTP_APIKEY_WHSEC) - 1;
    in.len = len - (sizeof(NGX_HTTP_APIKEY_WHSEC) - 1);
    out.data = buf;

    if (ngx_decode_base64(&out, &in) != NGX_OK) {
        return p;
    }

    if (!apikey_hmac_sha256(out.data, out.len, text->data, text->len, mac)) {
        return NULL;
    }

    p = ngx_cpymem(p, " v1,", sizeof(" v1,") - 1);

    in.data = mac;
    in.len = sizeof(mac);
    out.data = p;

    ngx_encode_base64(&out, &in);

    return p + out.len;
}
