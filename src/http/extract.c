
/*
 * Tokens out of an answer as it passes (apikey_usage openai, anthropic): the
 * body filter looks, and neither changes nor holds back a byte.
 *
 * What is read is kept in the context until the log phase.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"
#include "usage/extract.h"


static ngx_int_t ngx_http_apikey_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in);
static ngx_int_t ngx_http_apikey_extract_type(ngx_str_t *type,
    ngx_uint_t *stream);
static ngx_uint_t ngx_http_apikey_extract_is(ngx_str_t *text,
    const char *name);
static void ngx_http_apikey_extract_complain(ngx_http_request_t *r);


static ngx_http_output_body_filter_pt  ngx_http_next_body_filter;


ngx_int_t
ngx_http_apikey_extract_init(ngx_conf_t *cf)
{
    ngx_http_next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = ngx_http_apikey_body_filter;

    return NGX_OK;
}


/*
 * An answer is asked for as it is, for nothing here can read a compressed
 * one; nginx still may compress it for the client, who has asked for that.
 */

ngx_int_t
ngx_http_apikey_extract_ask(ngx_http_request_t *r)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h, *copy;

    for (part = &r->headers_in.headers.part; part; part = part->next) {

        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (h[i].key.len != sizeof("Accept-Encoding") - 1
                || ngx_strncasecmp(h[i].key.data, (u_char *) "Accept-Encoding",
                                   h[i].key.len)
                   != 0)
            {
                continue;
            }

#if (NGX_HTTP_GZIP)
            if (r->headers_in.accept_encoding == &h[i]) {
                copy = ngx_palloc(r->pool, sizeof(ngx_table_elt_t));
                if (copy == NULL) {
                    return NGX_ERROR;
                }

                *copy = h[i];
                r->headers_in.accept_encoding = copy;
            }
#endif

            ngx_str_set(&h[i].value, "identity");
        }
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_apikey_extract_begin(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_uint_t        stream;
    ngx_table_elt_t  *encoding;

    if (ctx->refused || !ctx->admitted || r->header_only) {
        return NGX_OK;
    }

    stream = 0;

    /* without a body its type says nothing */

    if (r->headers_out.status != NGX_HTTP_NO_CONTENT
        && ngx_http_apikey_extract_type(&r->headers_out.content_type, &stream)
           != NGX_OK)
    {
        return NGX_OK;
    }

    encoding = r->headers_out.content_encoding;

    if (encoding && encoding->hash && encoding->value.len) {
        ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                      "apikey_usage: the upstream sends \"Content-Encoding: "
                      "%V\" though not asked to, no tokens can be read out "
                      "of that", &encoding->value);
        return NGX_OK;
    }

    if (ctx->extract == NULL || (stream && !ctx->extract->stream)) {
        ctx->extract = ngx_palloc(ctx->pool, apikey_extract_size(stream));
        if (ctx->extract == NULL) {
            return NGX_ERROR;
        }
    }

    apikey_extract_init(ctx->extract,
                        ctx->api == NGX_HTTP_APIKEY_USAGE_ANTHROPIC
                        ? APIKEY_API_ANTHROPIC : APIKEY_API_OPENAI, stream);

    r->filter_need_in_memory = 1;

    return NGX_OK;
}


/* NGX_DECLINED: nothing that has tokens. */

static ngx_int_t
ngx_http_apikey_extract_type(ngx_str_t *type, ngx_uint_t *stream)
{
    size_t     len;
    ngx_str_t  text;

    *stream = 0;

    for (len = 0; len < type->len; len++) {
        if (type->data[len] == ';' || type->data[len] == ' ') {
            break;
        }
    }

    text.data = type->data;
    text.len = len;

    if (ngx_http_apikey_extract_is(&text, "application/json")) {
        return NGX_OK;
    }

    if (ngx_http_apikey_extract_is(&text, "text/event-stream")) {
        *stream = 1;
        return NGX_OK;
    }

    if (len > 5) {
        text.data += len - 5;
        text.len = 5;

        if (ngx_http_apikey_extract_is(&text, "+json")) {
            return NGX_OK;
        }
    }

    return NGX_DECLINED;
}


/* As nearly all write it first. */

static ngx_uint_t
ngx_http_apikey_extract_is(ngx_str_t *text, const char *name)
{
    return text->len == ngx_strlen(name)
           && (ngx_memcmp(text->data, name, text->len) == 0
               || ngx_strncasecmp(text->data, (u_char *) name, text->len)
                  == 0);
}


static ngx_int_t
ngx_http_apikey_body_filter(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_buf_t              *b;
    ngx_chain_t            *cl;
    ngx_http_apikey_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_apikey_module);

    if (ctx && ctx->extract && r == r->main) {

        for (cl = in; cl; cl = cl->next) {
            b = cl->buf;

            if (ngx_buf_in_memory(b)) {
                apikey_extract_feed(ctx->extract, (char *) b->pos,
                                    (size_t) (b->last - b->pos));
            }
        }
    }

    return ngx_http_next_body_filter(r, in);
}


ngx_uint_t
ngx_http_apikey_extract_end(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_uint_t guess, apikey_tokens_t *t)
{
    off_t             len;
    uint64_t          output;
    apikey_extract_e  is;

    if (ctx->extract == NULL) {
        return NGX_HTTP_APIKEY_USAGE_NONE;
    }

    is = apikey_extract_tokens(ctx->extract, t);

    if (is == APIKEY_EXTRACT_WHOLE) {
        return NGX_HTTP_APIKEY_USAGE_PROVIDER;
    }

    if (is == APIKEY_EXTRACT_WRONG || is == APIKEY_EXTRACT_DOUBT) {
        ngx_http_apikey_extract_complain(r);
    }

    if (is == APIKEY_EXTRACT_DOUBT
        || (is == APIKEY_EXTRACT_OUTPUT && !guess))
    {
        return NGX_HTTP_APIKEY_USAGE_ESTIMATE;
    }

    if (!guess) {
        return NGX_HTTP_APIKEY_USAGE_NONE;
    }

    if (is <= APIKEY_EXTRACT_WRONG) {
        ngx_memzero(t, sizeof(apikey_tokens_t));
    }

    if (is != APIKEY_EXTRACT_BEGUN) {
        len = ctx->asked ? ctx->asked->len : r->headers_in.content_length_n;
        t->input = (uint64_t) ngx_max(len, 0) / 4;
    }

    if (is != APIKEY_EXTRACT_OUTPUT) {
        output = apikey_extract_estimate(ctx->extract);
        t->output = ngx_max(t->output, output);
    }

    return NGX_HTTP_APIKEY_USAGE_ESTIMATE;
}


/* Once a second: it is what every answer of that upstream says. */

static void
ngx_http_apikey_extract_complain(ngx_http_request_t *r)
{
    static time_t  last;

    if (last == ngx_time()) {
        return;
    }

    last = ngx_time();

    ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                  "apikey_usage: the usage in an answer of the upstream makes "
                  "no sense, its tokens are estimated");
}
