
/*
 * The body of an import: rows as they arrive, into the batch that
 * goes to Postgres next.  What is not read stays in the kernel, so a client
 * is no faster than Postgres.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include <openssl/crypto.h>

#include "http/import.h"


static ngx_int_t ngx_http_apikey_import_form(ngx_http_apikey_import_t *im);
static ngx_int_t ngx_http_apikey_import_take(ngx_http_apikey_import_t *im);
static ngx_int_t ngx_http_apikey_import_buffer(ngx_http_apikey_import_t *im,
    ngx_buf_t *b);
static ngx_int_t ngx_http_apikey_import_end(ngx_http_apikey_import_t *im);
static ngx_int_t ngx_http_apikey_import_part(ngx_http_apikey_import_t *im,
    const char *part, size_t len);
static ngx_int_t ngx_http_apikey_import_put(ngx_http_apikey_import_t *im);
static ngx_int_t ngx_http_apikey_import_record(ngx_http_apikey_import_t *im,
    ngx_http_apikey_import_buf_t **row, const char **why);
static ngx_int_t ngx_http_apikey_import_columns(ngx_http_apikey_import_t *im);
static ngx_int_t ngx_http_apikey_import_item(ngx_http_apikey_import_t *im,
    ngx_http_apikey_import_buf_t *row, const char *why);
static size_t ngx_http_apikey_import_size(ngx_http_apikey_import_buf_t *row);
static ngx_int_t ngx_http_apikey_import_stop(ngx_http_apikey_import_t *im,
    const char *code, const char *why);


static const struct {
    const char          *type;
    apikey_rows_form_e   form;
} ngx_http_apikey_import_types[] = {
    { "application/json", APIKEY_ROWS_ARRAY },
    { "application/x-ndjson", APIKEY_ROWS_LINES },
    { "application/ndjson", APIKEY_ROWS_LINES },
    { "text/csv", APIKEY_ROWS_CSV },
    { NULL, 0 }
};


ngx_int_t
ngx_http_apikey_import_open(ngx_http_apikey_import_t *im)
{
    ngx_int_t                 rc;
    ngx_http_request_t       *r;
    ngx_http_apikey_admin_t  *a;

    a = im->admin;
    r = a->request;

    rc = ngx_http_apikey_import_form(im);

    if (rc != NGX_OK) {
        return rc;
    }

    apikey_rows_init(&im->rows, im->form);

    if (r->headers_in.content_length_n <= 0 && !r->headers_in.chunked) {
        im->over = 1;
        return NGX_OK;
    }

    /* client_max_body_size holds here, too, where it is less than usual */

    im->max = NGX_HTTP_APIKEY_ADMIN_MAX_IMPORT;

    if (a->alcf->admin_max_body < NGX_HTTP_APIKEY_ADMIN_MAX_BODY) {
        im->max = a->alcf->admin_max_body;
    }

    return ngx_http_apikey_admin_body_start(a, im->max);
}


static ngx_int_t
ngx_http_apikey_import_form(ngx_http_apikey_import_t *im)
{
    size_t                    len;
    ngx_str_t                 type, encoding;
    ngx_uint_t                i;
    ngx_http_apikey_admin_t  *a;

    a = im->admin;

    (void) ngx_http_apikey_admin_header(a->request, "content-type", &type);
    (void) ngx_http_apikey_admin_header(a->request, "content-encoding",
                                        &encoding);

    for (i = 0; ngx_http_apikey_import_types[i].type; i++) {
        len = ngx_strlen(ngx_http_apikey_import_types[i].type);

        if (type.len >= len
            && ngx_strncasecmp(type.data,
                               (u_char *) ngx_http_apikey_import_types[i].type,
                               len)
               == 0
            && (type.len == len || type.data[len] == ';'
                || type.data[len] == ' ')
            && encoding.len == 0)
        {
            im->form = ngx_http_apikey_import_types[i].form;

            if (im->usage && im->form == APIKEY_ROWS_ARRAY) {
                im->form = APIKEY_ROWS_DATA;
            }

            return NGX_OK;
        }
    }

    return ngx_http_apikey_admin_problem(a, NGX_HTTP_APIKEY_PROBLEM_MEDIA_TYPE,
                                     "Send the rows as application/json, "
                                     "application/x-ndjson or text/csv, "
                                     "without Content-Encoding.", NULL);
}


ngx_int_t
ngx_http_apikey_import_read(ngx_http_apikey_import_t *im)
{
    ngx_int_t  rc;

    for ( ;; ) {

        if (im->ready) {
            rc = ngx_http_apikey_import_put(im);

            if (rc != NGX_AGAIN) {
                return rc;
            }
        }

        if (im->over
            || im->nbatch == (im->usage ? NGX_HTTP_APIKEY_IMPORT_USAGE
                                        : NGX_HTTP_APIKEY_IMPORT_BATCH))
        {
            return NGX_OK;
        }

        if (im->admin->request->request_body == NULL) {
            return ngx_http_apikey_import_end(im);
        }

        rc = ngx_http_apikey_admin_body_next(im->admin);

        if (rc == NGX_OK) {
            rc = ngx_http_apikey_import_take(im);

        } else if (rc == NGX_DONE) {
            rc = ngx_http_apikey_import_end(im);
        }

        if (rc != NGX_OK) {
            return rc;
        }
    }
}


/* From the first buffer up to the end of a row, or all of it. */

static ngx_int_t
ngx_http_apikey_import_take(ngx_http_apikey_import_t *im)
{
    ngx_int_t            rc;
    ngx_buf_t           *b;
    ngx_chain_t         *cl;
    ngx_http_request_t  *r;

    r = im->admin->request;
    cl = r->request_body->bufs;
    b = cl->buf;

    if (ngx_buf_in_memory(b) && b->pos < b->last) {
        rc = ngx_http_apikey_import_buffer(im, b);

        if (rc != NGX_OK) {
            return rc;
        }
    }

    if (!ngx_buf_in_memory(b) || b->pos == b->last) {
        r->request_body->bufs = cl->next;
        ngx_free_chain(r->pool, cl);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_import_buffer(ngx_http_apikey_import_t *im, ngx_buf_t *b)
{
    size_t                    len;
    u_char                   *start;
    ngx_int_t                 rc;
    const char               *p, *part;
    apikey_rows_e             found;
    ngx_http_apikey_admin_t  *a;

    a = im->admin;
    start = b->pos;
    p = (char *) b->pos;

    found = apikey_rows_next(&im->rows, &p, (char *) b->last, &part, &len);

    if (found == APIKEY_ROWS_WRONG) {
        return ngx_http_apikey_import_stop(im, "bad_value", im->rows.why);
    }

    rc = ngx_http_apikey_import_part(im, part, len);

    /* no key stays where it was read */

    b->pos = (u_char *) p;
    im->received += b->pos - start;
    OPENSSL_cleanse(start, b->pos - start);

    if (rc != NGX_OK) {
        return rc;
    }

    if (im->received > im->max) {
        return ngx_http_apikey_admin_too_large(a);
    }

    im->ready = (found == APIKEY_ROWS_ROW);

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_import_end(ngx_http_apikey_import_t *im)
{
    switch (apikey_rows_end(&im->rows)) {

    case APIKEY_ROWS_ROW:
        im->ready = 1;
        return NGX_OK;

    case APIKEY_ROWS_MORE:
        im->over = 1;
        return NGX_OK;

    default: /* APIKEY_ROWS_WRONG */
        return ngx_http_apikey_import_stop(im, "bad_value", im->rows.why);
    }
}


static ngx_int_t
ngx_http_apikey_import_part(ngx_http_apikey_import_t *im, const char *part,
    size_t len)
{
    ngx_log_t                     *log;
    ngx_http_apikey_import_buf_t  *row;

    row = &im->row;
    log = im->admin->request->connection->log;

    if (im->too_long || row->len + len > NGX_HTTP_APIKEY_IMPORT_ROW) {
        im->too_long = 1;
        return NGX_OK;
    }

    if (ngx_http_apikey_import_room(row, row->len + len, log) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_memcpy(row->data + row->len, part, len);
    row->len += len;

    return NGX_OK;
}


/* NGX_AGAIN: the row is in the batch; NGX_OK: it is for the next one. */

static ngx_int_t
ngx_http_apikey_import_put(ngx_http_apikey_import_t *im)
{
    ngx_int_t                      rc;
    const char                    *why;
    ngx_http_apikey_import_buf_t  *row;

    row = &im->row;
    why = NULL;

    if (im->too_long && im->form == APIKEY_ROWS_CSV && !im->has_header) {
        return ngx_http_apikey_import_stop(im, "bad_length",
                                           "a header has at most 512 KiB");
    }

    if (im->too_long) {
        why = "a row has at most 512 KiB";
        row->len = 0;

    } else if (im->form == APIKEY_ROWS_CSV) {

        if (!im->has_header) {
            return ngx_http_apikey_import_columns(im);
        }

        if (ngx_http_apikey_import_record(im, &row, &why) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    if (im->nrows == NGX_HTTP_APIKEY_IMPORT_ROWS && !im->usage) {
        return ngx_http_apikey_import_stop(im, "too_many",
                                           "a call takes at most 10000 rows");
    }

    rc = ngx_http_apikey_import_item(im, row, why);

    if (rc == NGX_AGAIN) {
        im->row.len = 0;
        im->too_long = 0;
        im->ready = 0;
        im->nrows++;
        im->nbatch++;
    }

    return rc;
}


/* The row of CSV as an object, or why it cannot be one. */

static ngx_int_t
ngx_http_apikey_import_record(ngx_http_apikey_import_t *im,
    ngx_http_apikey_import_buf_t **row, const char **why)
{
    size_t                         size;
    ngx_log_t                     *log;
    apikey_json_t                  j;
    ngx_http_apikey_import_buf_t  *record;

    record = *row;
    log = im->admin->request->connection->log;

    if (!apikey_json_check((char *) record->data, record->len)) {
        *why = "this is not UTF-8 text";
        return NGX_OK;
    }

    /* quotes, commas, brackets of an empty list; a name at most 63 bytes */

    size = 6 * record->len + im->header.n * (6 * 64 + 16) + 16;

    if (ngx_http_apikey_import_room(&im->object, size, log) != NGX_OK
        || ngx_http_apikey_import_room(&im->scratch, record->len, log)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    apikey_json_init(&j, (char *) im->object.data, im->object.size);

    *why = apikey_import_csv(&im->header, (char *) record->data, record->len,
                             (char *) im->scratch.data, &j);

    im->object.len = apikey_json_len(&j);
    *row = &im->object;

    return j.overflow ? NGX_ERROR : NGX_OK;
}


static ngx_int_t
ngx_http_apikey_import_columns(ngx_http_apikey_import_t *im)
{
    const char  *why;

    if (ngx_http_apikey_import_room(&im->names, im->row.len,
                                    im->admin->request->connection->log)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    why = apikey_import_header(&im->header, (char *) im->row.data,
                               im->row.len, (char *) im->names.data);
    if (why) {
        return ngx_http_apikey_import_stop(im, "bad_value", why);
    }

    im->has_header = 1;
    im->row.len = 0;
    im->ready = 0;

    return NGX_AGAIN;
}


static ngx_int_t
ngx_http_apikey_import_item(ngx_http_apikey_import_t *im,
    ngx_http_apikey_import_buf_t *row, const char *why)
{
    size_t      size, most;
    uint64_t    number;
    ngx_log_t  *log;

    log = im->admin->request->connection->log;
    number = im->nrows + 1;
    most = im->usage ? NGX_HTTP_APIKEY_IMPORT_LARGE
                     : NGX_HTTP_APIKEY_IMPORT_BYTES;

    size = ngx_http_apikey_import_size(row);

    if (im->nbatch && apikey_json_len(&im->json) + size > most) {
        return NGX_OK;
    }

    if (ngx_http_apikey_import_room(&im->scratch, 2 * row->len, log) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (im->nbatch == 0) {
        if (ngx_http_apikey_import_room(&im->batch, ngx_max(size, most), log)
            != NGX_OK)
        {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        apikey_json_init(&im->json, (char *) im->batch.data, im->batch.size);
        apikey_json_array(&im->json);
    }

    if (why) {
        apikey_import_wrong(&im->json, number, "",
                            im->too_long ? "bad_length" : "bad_value", why);
        return NGX_AGAIN;
    }

    if (im->usage
        ? apikey_import_plain(&im->json, number, (char *) row->data, row->len)
        : apikey_import_row(&im->json, number, (char *) row->data, row->len,
                            (char *) im->scratch.data))
    {
        return NGX_AGAIN;
    }

    /* where it ends is known for sure only where it is a line */

    if (im->form <= APIKEY_ROWS_DATA) {
        return ngx_http_apikey_import_stop(im, "bad_value",
                                           "this element is not JSON");
    }

    apikey_import_wrong(&im->json, number, "", "bad_value",
                        "the line is not JSON");

    return NGX_AGAIN;
}


/*
 * Of a row as a string of JSON, at most: of the controls only DEL stands in
 * JSON as it is.
 */

static size_t
ngx_http_apikey_import_size(ngx_http_apikey_import_buf_t *row)
{
    size_t   size;
    u_char  *p;

    size = 2 * row->len + 1024;

    for (p = row->data; p < row->data + row->len; p++) {
        size += (*p == 0x7f) ? 4 : 0;
    }

    return size;
}


static ngx_int_t
ngx_http_apikey_import_stop(ngx_http_apikey_import_t *im, const char *code,
    const char *why)
{
    im->code = code;
    im->why = why;

    return NGX_DECLINED;
}


ngx_int_t
ngx_http_apikey_import_room(ngx_http_apikey_import_buf_t *buf, size_t size,
    ngx_log_t *log)
{
    u_char  *data;

    if (size <= buf->size && buf->data) {
        return NGX_OK;
    }

    size = ngx_max(size, ngx_max(2 * buf->size, 4096));

    data = ngx_alloc(size, log);
    if (data == NULL) {
        return NGX_ERROR;
    }

    if (buf->len) {
        ngx_memcpy(data, buf->data, buf->len);
    }

    if (buf->data) {
        OPENSSL_cleanse(buf->data, buf->size);
        ngx_free(buf->data);
    }

    buf->data = data;
    buf->size = size;

    return NGX_OK;
}


void
ngx_http_apikey_import_wipe(ngx_http_apikey_import_buf_t *buf)
{
    if (buf->data) {
        OPENSSL_cleanse(buf->data, buf->size);
        ngx_free(buf->data);
        buf->data = NULL;
    }
}
