
/*
 * The lines of an export, a batch of a cursor at a time, in one buffer that
 * each batch is written into anew.  For export.c and due.c.
 */


#ifndef NGX_HTTP_APIKEY_LINES_H_INCLUDED
#define NGX_HTTP_APIKEY_LINES_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>

#include <libpq-fe.h>


#define NGX_HTTP_APIKEY_LINES_FETCH  "FETCH 1000 FROM export"
#define NGX_HTTP_APIKEY_LINES_BATCH  1000


typedef struct {
    u_char      *data;                           /* malloc'd */
    size_t       size;
    size_t       len;
    unsigned     array:1;                        /* JSON: commas between */
    unsigned     rest:1;                         /* JSON: the first line is of
                                                    what stands before */
    unsigned     some:1;                         /* a line was written */
    unsigned     over:1;                         /* these were the last */
} ngx_http_apikey_lines_t;


/* What stands before the lines; part of it where a comma ends it. */
ngx_int_t ngx_http_apikey_lines_head(ngx_http_apikey_lines_t *lines,
    const u_char *head, size_t len, ngx_log_t *log);

/* What NGX_HTTP_APIKEY_LINES_FETCH has brought. */
ngx_int_t ngx_http_apikey_lines_batch(ngx_http_apikey_lines_t *lines,
    PGresult *res, ngx_log_t *log);

void ngx_http_apikey_lines_free(ngx_http_apikey_lines_t *lines);


#endif /* NGX_HTTP_APIKEY_LINES_H_INCLUDED */
