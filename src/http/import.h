
/*
 * What import.c (batches and answers) and import_read.c (rows) share: one
 * POST api-keys/import.
 *
 * Its buffers are malloc'd, of bounded size, and wiped when they go: rows
 * hold plaintext keys until import_read.c has put their digests in their
 * place.
 */


#ifndef NGX_HTTP_APIKEY_IMPORT_H_INCLUDED
#define NGX_HTTP_APIKEY_IMPORT_H_INCLUDED


#include "base/import.h"
#include "base/rows.h"
#include "http/admin.h"


#define NGX_HTTP_APIKEY_IMPORT_ROWS   10000
#define NGX_HTTP_APIKEY_IMPORT_BATCH  25         /* rows of one call */
#define NGX_HTTP_APIKEY_IMPORT_USAGE  1000       /* of usage */
#define NGX_HTTP_APIKEY_IMPORT_FAILS  (1024 * 1024)  /* bytes of them told */
#define NGX_HTTP_APIKEY_IMPORT_BYTES  (192 * 1024)
#define NGX_HTTP_APIKEY_IMPORT_LARGE  (1024 * 1024)  /* of usage */
#define NGX_HTTP_APIKEY_IMPORT_ROW    (512 * 1024)


typedef struct {
    u_char                   *data;
    size_t                    len;
    size_t                    size;
} ngx_http_apikey_import_buf_t;


typedef enum {
    NGX_HTTP_APIKEY_IMPORT_READ = 0,
    NGX_HTTP_APIKEY_IMPORT_CALL,         /* Postgres has a batch */
    NGX_HTTP_APIKEY_IMPORT_APPLY         /* the keyring learns its keys */
} ngx_http_apikey_import_state_e;


typedef struct {
    ngx_http_apikey_admin_t       *admin;
    ngx_uint_t                     state;

    apikey_rows_t                  rows;
    apikey_rows_form_e             form;
    apikey_import_header_t         header;       /* of CSV */
    off_t                          max;
    off_t                          received;

    ngx_http_apikey_import_buf_t   names;        /* of header */
    ngx_http_apikey_import_buf_t   row;
    ngx_http_apikey_import_buf_t   object;       /* a record as JSON */
    ngx_http_apikey_import_buf_t   scratch;
    ngx_http_apikey_import_buf_t   batch;
    ngx_http_apikey_import_buf_t   results;

    ngx_str_t                      headers;      /* of the first batch */
    apikey_json_t                  json;         /* writes batch */
    ngx_uint_t                     nbatch;       /* rows in it */
    ngx_uint_t                     nrows;        /* rows put into batches */
    ngx_uint_t                     ndone;        /* rows answered */
    ngx_uint_t                     created;
    ngx_uint_t                     unchanged;
    ngx_uint_t                     failed;

    const char                    *code;         /* the body is wrong: as in */
    const char                    *why;          /* errors[] */

    unsigned                       has_header:1;
    unsigned                       too_long:1;   /* the row */
    unsigned                       ready:1;      /* the row is complete */
    unsigned                       over:1;       /* no more rows */
    unsigned                       dry_run:1;
    unsigned                       once:1;       /* has Idempotency-Key */
    unsigned                       sealed:1;     /* the call without rows */
    unsigned                       usage:1;      /* rows are of usage */
} ngx_http_apikey_import_t;


/* import_read.c: NGX_OK, or the end of the request. */
ngx_int_t ngx_http_apikey_import_open(ngx_http_apikey_import_t *im);

/*
 * Fills the batch.  NGX_OK: it is full, or im->over is set; NGX_AGAIN:
 * suspended; NGX_DECLINED: the body is wrong, see im->why; else the end.
 */
ngx_int_t ngx_http_apikey_import_read(ngx_http_apikey_import_t *im);

/* Keeps what it holds. */
ngx_int_t ngx_http_apikey_import_room(ngx_http_apikey_import_buf_t *buf,
    size_t size, ngx_log_t *log);
void ngx_http_apikey_import_wipe(ngx_http_apikey_import_buf_t *buf);


#endif /* NGX_HTTP_APIKEY_IMPORT_H_INCLUDED */
