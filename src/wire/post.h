
/*
 * One POST to a URL that somebody else has written: libcurl's easy interface
 * in a thread, never on the event loop.
 *
 * No redirect is followed, no proxy used, no credential or cookie known; a
 * private address is refused before anything is sent to it, unless "allowed"
 * names its network; the answer's body is read over, at most
 * NGX_HTTP_APIKEY_POST_BODY of it.
 *
 * The caller owns a post and all it points to until the handler has run, which
 * it does on the event loop, for each post that was sent.
 */


#ifndef NGX_HTTP_APIKEY_POST_H_INCLUDED
#define NGX_HTTP_APIKEY_POST_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>


#define NGX_HTTP_APIKEY_POST_BODY      65536
#define NGX_HTTP_APIKEY_POST_TIMEOUT   15000     /* ms, all of it */
#define NGX_HTTP_APIKEY_POST_CONNECT   5000
#define NGX_HTTP_APIKEY_POST_ERROR     256
#define NGX_HTTP_APIKEY_POST_HEADERS   8


typedef struct ngx_http_apikey_post_s  ngx_http_apikey_post_t;

typedef void (*ngx_http_apikey_post_pt)(ngx_http_apikey_post_t *post);


struct ngx_http_apikey_post_s {
    const char                *url;
    const char                *body;
    size_t                     len;
    const char                *headers[NGX_HTTP_APIKEY_POST_HEADERS + 1];
    const char                *allowed;    /* networks: base/address.h */

    ngx_http_apikey_post_pt    handler;
    void                      *data;

    /* out */
    ngx_uint_t                 status;     /* 0: no answer */
    ngx_msec_t                 duration;
    char                       error[NGX_HTTP_APIKEY_POST_ERROR];

    /* the thread's */
    size_t                     got;
    unsigned                   full:1;     /* enough of the body */
    unsigned                   refused:1;  /* an address of the name was */
};


/* NGX_ERROR: the handler will not run.  The task is made in the pool. */
ngx_int_t ngx_http_apikey_post_send(ngx_http_apikey_post_t *post,
    ngx_pool_t *pool);

/* exit_process, when all threads have ended. */
void ngx_http_apikey_post_free(void);


#endif /* NGX_HTTP_APIKEY_POST_H_INCLUDED */
