
/*
 * The body of a request for a model (apikey_request): read before the
 * decision, as ngx_http_mirror_module does, so that its model and its most
 * tokens are known.
 *
 * What is longer than "max" is not looked into, and what is no JSON object
 * says nothing: such a request may be for any model and any number of tokens.
 * A body that asks a stream for its usage gets new buffers.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"
#include "usage/extract_request.h"


#define NGX_HTTP_APIKEY_REQUEST_PIECE  8192


static void ngx_http_apikey_request_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_apikey_request_parse(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);
static ngx_int_t ngx_http_apikey_request_feed(ngx_http_request_t *r,
    apikey_request_t *body, off_t max, off_t *len);
static ngx_int_t ngx_http_apikey_request_file(ngx_http_request_t *r,
    apikey_request_t *body, ngx_buf_t *b);
static ngx_int_t ngx_http_apikey_request_add(ngx_http_request_t *r,
    apikey_request_edit_t *edit);
static ngx_chain_t **ngx_http_apikey_request_split(ngx_http_request_t *r,
    ngx_chain_t **link, off_t at);
static ngx_chain_t *ngx_http_apikey_request_text(ngx_http_request_t *r,
    apikey_request_edit_t *edit);
static ngx_int_t ngx_http_apikey_request_length(ngx_http_request_t *r,
    off_t change);


ngx_int_t
ngx_http_apikey_request_read(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    off_t                        len;
    ngx_int_t                    rc;
    ngx_http_apikey_loc_conf_t  *alcf;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    if (alcf->request == NGX_HTTP_APIKEY_API_OFF || r != r->main) {
        return NGX_OK;
    }

    if (ctx->asked) {
        return NGX_OK;
    }

    ctx->asked = ngx_pcalloc(ctx->pool, sizeof(ngx_http_apikey_asked_t));
    if (ctx->asked == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    len = r->headers_in.content_length_n;

    if ((len <= 0 && !r->headers_in.chunked) || len > alcf->request_max) {
        ctx->asked->len = ngx_max(len, 0);
        return NGX_OK;
    }

    /* until it is read: a body that fails has asked for nobody knows what */

    ctx->asked->len = len;

    rc = ngx_http_read_client_request_body(r, ngx_http_apikey_request_handler);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    /* from here on r and ctx may be gone */

    ngx_http_finalize_request(r, NGX_DONE);

    return NGX_DONE;
}


static void
ngx_http_apikey_request_handler(ngx_http_request_t *r)
{
    ngx_http_apikey_ctx_t  *ctx;

    ctx = ngx_http_apikey_get_ctx(r);

    if (ngx_http_apikey_request_parse(r, ctx) != NGX_OK) {
        ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR);
        return;
    }

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_core_run_phases;

    ngx_http_core_run_phases(r);
}


static ngx_int_t
ngx_http_apikey_request_parse(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_int_t                    rc;
    apikey_request_t             body;
    apikey_request_edit_t        edit;
    ngx_http_apikey_asked_t     *asked;
    ngx_http_apikey_loc_conf_t  *alcf;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    asked = ctx->asked;

    apikey_request_init(&body, alcf->request == NGX_HTTP_APIKEY_API_ANTHROPIC
                               ? APIKEY_API_ANTHROPIC : APIKEY_API_OPENAI);

    rc = ngx_http_apikey_request_feed(r, &body, alcf->request_max,
                                      &asked->len);

    if (rc != NGX_OK || !apikey_request_end(&body)) {
        return rc == NGX_ERROR ? NGX_ERROR : NGX_OK;
    }

    asked->read = 1;
    asked->stream = apikey_request_stream(&body);
    asked->has_max = apikey_request_max_tokens(&body, &asked->max_tokens);
    asked->choices = apikey_request_choices(&body);

    if (body.model_len) {
        asked->model.data = ngx_pnalloc(ctx->pool, body.model_len);
        if (asked->model.data == NULL) {
            return NGX_ERROR;
        }

        ngx_memcpy(asked->model.data, body.model, body.model_len);
        asked->model.len = body.model_len;
    }

    if (!apikey_request_silent(&body, &edit)) {
        return NGX_OK;
    }

    asked->silent = 1;

    if (alcf->usage == NGX_HTTP_APIKEY_USAGE_OPENAI
        && alcf->usage_stream == NGX_HTTP_APIKEY_STREAM_ADD)
    {
        return ngx_http_apikey_request_add(r, &edit);
    }

    return NGX_OK;
}


/* NGX_DECLINED: it is longer than max. */

static ngx_int_t
ngx_http_apikey_request_feed(ngx_http_request_t *r, apikey_request_t *body,
    off_t max, off_t *len)
{
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    *len = 0;

    if (r->request_body == NULL) {
        return NGX_OK;
    }

    for (cl = r->request_body->bufs; cl; cl = cl->next) {
        *len += ngx_buf_size(cl->buf);
    }

    if (*len > max) {
        return NGX_DECLINED;
    }

    for (cl = r->request_body->bufs; cl; cl = cl->next) {
        b = cl->buf;

        if (ngx_buf_in_memory(b)) {
            apikey_request_feed(body, (char *) b->pos,
                                (size_t) (b->last - b->pos));

        } else if (b->in_file
                   && ngx_http_apikey_request_file(r, body, b) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_request_file(ngx_http_request_t *r, apikey_request_t *body,
    ngx_buf_t *b)
{
    off_t    at;
    size_t   size;
    u_char   piece[NGX_HTTP_APIKEY_REQUEST_PIECE];
    ssize_t  n;

    for (at = b->file_pos; at < b->file_last; at += n) {
        size = (size_t) ngx_min(b->file_last - at, (off_t) sizeof(piece));

        n = ngx_read_file(b->file, piece, size, at);

        if (n <= 0) {
            ngx_log_error(NGX_LOG_CRIT, r->connection->log, 0,
                          "apikey_request: \"%V\" cannot be read",
                          &b->file->name);
            return NGX_ERROR;
        }

        apikey_request_feed(body, (char *) piece, (size_t) n);
    }

    return NGX_OK;
}


/* Puts the text of an edit into the body that goes to the upstream. */

static ngx_int_t
ngx_http_apikey_request_add(ngx_http_request_t *r,
    apikey_request_edit_t *edit)
{
    ngx_chain_t   *text, *rest, **link;

    text = ngx_http_apikey_request_text(r, edit);
    if (text == NULL) {
        return NGX_ERROR;
    }

    link = ngx_http_apikey_request_split(r, &r->request_body->bufs,
                                         (off_t) edit->at);
    if (link == NULL) {
        return NGX_ERROR;
    }

    rest = *link;
    *link = text;
    text->next = rest;

    if (edit->cut) {
        link = ngx_http_apikey_request_split(r, &text->next,
                                             (off_t) edit->cut);
        if (link == NULL) {
            return NGX_ERROR;
        }

        text->next = *link;
    }

    return ngx_http_apikey_request_length(r, ngx_buf_size(text->buf)
                                             - (off_t) edit->cut);
}


/*
 * The link to the buffer that begins so many bytes behind this one; a buffer
 * that goes on over there becomes two.  NULL: no memory.
 */

static ngx_chain_t **
ngx_http_apikey_request_split(ngx_http_request_t *r, ngx_chain_t **link,
    off_t at)
{
    off_t         size;
    ngx_buf_t    *b;
    ngx_chain_t  *cl, *second;

    for (cl = *link; cl && at > 0; cl = cl->next) {
        b = cl->buf;
        size = ngx_buf_size(b);

        if (at < size) {
            second = ngx_alloc_chain_link(r->pool);
            if (second == NULL) {
                return NULL;
            }

            second->buf = ngx_palloc(r->pool, sizeof(ngx_buf_t));
            if (second->buf == NULL) {
                return NULL;
            }

            /* neither half is the other's memory to free */

            *second->buf = *b;
            second->next = cl->next;

            cl->buf = ngx_palloc(r->pool, sizeof(ngx_buf_t));
            if (cl->buf == NULL) {
                return NULL;
            }

            *cl->buf = *b;
            cl->buf->last_buf = 0;
            cl->next = second;

            if (ngx_buf_in_memory(b)) {
                cl->buf->last = b->pos + at;
                second->buf->pos = b->pos + at;
            }

            if (b->in_file) {
                cl->buf->file_last = b->file_pos + at;
                second->buf->file_pos = b->file_pos + at;
            }

            size = at;
        }

        at -= size;
        link = &cl->next;
    }

    return link;
}


static ngx_chain_t *
ngx_http_apikey_request_text(ngx_http_request_t *r,
    apikey_request_edit_t *edit)
{
    size_t        len[2];
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    len[0] = ngx_strlen(edit->put[0]);
    len[1] = ngx_strlen(edit->put[1]);

    cl = ngx_alloc_chain_link(r->pool);
    b = ngx_create_temp_buf(r->pool, len[0] + len[1]);

    if (cl == NULL || b == NULL) {
        return NULL;
    }

    b->last = ngx_cpymem(b->last, edit->put[0], len[0]);
    b->last = ngx_cpymem(b->last, edit->put[1], len[1]);

    cl->buf = b;
    cl->next = NULL;

    return cl;
}


static ngx_int_t
ngx_http_apikey_request_length(ngx_http_request_t *r, off_t change)
{
    u_char           *p;
    ngx_table_elt_t  *h;

    h = r->headers_in.content_length;

    if (r->headers_in.content_length_n < 0) {
        return NGX_OK;
    }

    r->headers_in.content_length_n += change;

    if (h == NULL) {
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, NGX_OFF_T_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    h->value.data = p;
    h->value.len = ngx_sprintf(p, "%O", r->headers_in.content_length_n) - p;

    return NGX_OK;
}


/* stream=require: a stream says its usage, or is asked to. */

ngx_uint_t
ngx_http_apikey_request_tells(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_http_apikey_loc_conf_t  *alcf;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    return alcf->request == NGX_HTTP_APIKEY_API_OFF
           || alcf->usage != NGX_HTTP_APIKEY_USAGE_OPENAI
           || alcf->usage_stream != NGX_HTTP_APIKEY_STREAM_REQUIRE
           || r != r->main || ctx->asked == NULL || !ctx->asked->silent;
}


ngx_int_t
ngx_http_apikey_request_model(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_str_t *model)
{
    ngx_http_apikey_loc_conf_t  *alcf;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    ngx_str_null(model);

    if (alcf->model) {
        return ngx_http_complex_value(r, alcf->model, model);
    }

    if (alcf->request == NGX_HTTP_APIKEY_API_OFF) {
        return NGX_DECLINED;
    }

    if (ctx->asked) {
        *model = ctx->asked->model;
    }

    return NGX_OK;
}
