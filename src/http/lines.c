
/*
 * The lines of an export as they are sent or written: each ends its line, or
 * they are the members of an array.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "http/lines.h"


static ngx_int_t ngx_http_apikey_lines_room(ngx_http_apikey_lines_t *lines,
    size_t size, ngx_log_t *log);


ngx_int_t
ngx_http_apikey_lines_head(ngx_http_apikey_lines_t *lines, const u_char *head,
    size_t len, ngx_log_t *log)
{
    if (ngx_http_apikey_lines_room(lines, len + 1, log) != NGX_OK) {
        return NGX_ERROR;
    }

    if (len) {
        ngx_memcpy(lines->data, head, len);
    }

    lines->len = len;
    lines->array = (len && lines->data[len - 1] == '[');
    lines->rest = (len && lines->data[len - 1] == ',');

    return NGX_OK;
}


ngx_int_t
ngx_http_apikey_lines_batch(ngx_http_apikey_lines_t *lines, PGresult *res,
    ngx_log_t *log)
{
    int      i, n, len;
    size_t   size;
    u_char  *p;

    n = PQntuples(res);
    size = sizeof("\n]}\n");

    for (i = 0; i < n; i++) {
        size += PQgetlength(res, i, 0) + 2;
    }

    if (ngx_http_apikey_lines_room(lines, size, log) != NGX_OK) {
        return NGX_ERROR;
    }

    p = lines->data;

    for (i = 0; i < n; i++) {

        if (lines->rest) {
            len = PQgetlength(res, i, 0);
            p = ngx_cpymem(p, PQgetvalue(res, i, 0), len);

            lines->rest = 0;
            lines->array = 1;

            continue;
        }

        if (lines->array) {
            if (lines->some) {
                *p++ = ',';
            }

            *p++ = '\n';
        }

        len = PQgetlength(res, i, 0);
        p = ngx_cpymem(p, PQgetvalue(res, i, 0), len);

        if (!lines->array) {
            *p++ = '\n';
        }

        lines->some = 1;
    }

    lines->over = (n < NGX_HTTP_APIKEY_LINES_BATCH);

    if (lines->over && lines->array) {
        if (lines->some) {
            *p++ = '\n';
        }

        p = ngx_cpymem(p, "]}\n", sizeof("]}\n") - 1);
    }

    lines->len = p - lines->data;

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_lines_room(ngx_http_apikey_lines_t *lines, size_t size,
    ngx_log_t *log)
{
    u_char  *data;

    if (size <= lines->size) {
        return NGX_OK;
    }

    size = ngx_align(size + size / 4, ngx_pagesize);

    data = ngx_alloc(size, log);
    if (data == NULL) {
        return NGX_ERROR;
    }

    ngx_http_apikey_lines_free(lines);

    lines->data = data;
    lines->size = size;

    return NGX_OK;
}


void
ngx_http_apikey_lines_free(ngx_http_apikey_lines_t *lines)
{
    if (lines->data) {
        ngx_free(lines->data);
        lines->data = NULL;
        lines->size = 0;
    }
}
