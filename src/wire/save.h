
/*
 * A file that is there whole or not at all, written by threads: open, write as
 * often as need be, close; or drop, whatever came before.  One step at a time,
 * each ends with a call of the handler in the event loop.
 *
 * Strings and data are the caller's, and stay as they are while a step runs.
 */


#ifndef NGX_HTTP_APIKEY_SAVE_H_INCLUDED
#define NGX_HTTP_APIKEY_SAVE_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_thread_pool.h>

#include <openssl/evp.h>


#define NGX_HTTP_APIKEY_SAVE_ERROR   256
#define NGX_HTTP_APIKEY_SAVE_SHA256  64


typedef struct ngx_http_apikey_save_s  ngx_http_apikey_save_t;


typedef enum {
    NGX_HTTP_APIKEY_SAVE_OPEN = 0,
    NGX_HTTP_APIKEY_SAVE_WRITE,                  /* data, len */
    NGX_HTTP_APIKEY_SAVE_CLOSE,                  /* under its name */
    NGX_HTTP_APIKEY_SAVE_DROP
} ngx_http_apikey_save_step_e;


struct ngx_http_apikey_save_s {
    const char                    *directory;
    const char                    *name;         /* no path */
    const char                    *temp;         /* until it is whole */
    const char                    *stale;        /* removed; "": none */

    const u_char                  *data;
    size_t                         len;

    void                         (*handler)(ngx_http_apikey_save_t *save);
    void                          *handler_data;

    uint64_t                       bytes;
    char                           sha256[NGX_HTTP_APIKEY_SAVE_SHA256 + 1];
    char                           error[NGX_HTTP_APIKEY_SAVE_ERROR];
                                                 /* "": the step is done */
    ngx_uint_t                     step;

    /* private */
    ngx_thread_task_t             *task;
    EVP_MD_CTX                    *md;
    ngx_fd_t                       dir;
    ngx_fd_t                       fd;
    unsigned                       made:1;       /* temp is there */
};


ngx_int_t ngx_http_apikey_save_init(ngx_http_apikey_save_t *save,
    ngx_pool_t *pool);

/* NGX_ERROR: the handler will not run. */
ngx_int_t ngx_http_apikey_save_step(ngx_http_apikey_save_t *save,
    ngx_uint_t step);

/* No step runs: what there is goes away, here and now. */
void ngx_http_apikey_save_free(ngx_http_apikey_save_t *save);


#endif /* NGX_HTTP_APIKEY_SAVE_H_INCLUDED */
