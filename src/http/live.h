
/*
 * A look at limits: live_look.c and live_limits.c, for live.c (the admin API)
 * and alert.c.  Nobody else includes this.
 */


#ifndef NGX_HTTP_APIKEY_LIVE_H_INCLUDED
#define NGX_HTTP_APIKEY_LIVE_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/clock.h"
#include "http/admin.h"
#include "http/limits.h"


#define NGX_HTTP_APIKEY_LIVE_MAX  10000          /* limits of an answer */


/* A key or an owner; root: what its keys in Redis begin with. */

typedef struct {
    u_char                        holder[16];
    u_char                        root[16];
    ngx_uint_t                    level;
} ngx_http_apikey_live_holder_t;


typedef enum {
    NGX_HTTP_APIKEY_LIVE_HOLDERS = 0,            /* SQL says whose */
    NGX_HTTP_APIKEY_LIVE_LOOK,
    NGX_HTTP_APIKEY_LIVE_ANSWER
} ngx_http_apikey_live_state_e;


typedef struct ngx_http_apikey_live_s  ngx_http_apikey_live_t;

typedef void (*ngx_http_apikey_live_pt)(ngx_http_apikey_live_t *live);

struct ngx_http_apikey_live_s {
    ngx_http_apikey_main_conf_t  *amcf;
    ngx_http_apikey_live_pt       handler;       /* is to call live_run() */
    void                         *data;
    ngx_array_t                  *text;          /* u_char: the JSON so far */
    ngx_array_t                  *holders;
    ngx_uint_t                    next;          /* of them */
    int64_t                       now;
    ngx_uint_t                    percent;
    ngx_uint_t                    n;             /* limits told of */

    uint32_t                      from;          /* in this node's memory: */
    uint32_t                      pos;           /* where it began, and is */
    ngx_uint_t                    most;          /* holders found there */
    ngx_event_t                   event;         /* to go on */

    ngx_http_apikey_live_state_e  state;         /* live.c's */

    ngx_pool_t                   *pool;          /* of one holder */
    ngx_http_apikey_decision_t    decision;
    ngx_http_apikey_limit_scan_t  scan;
    unsigned                      local:1;       /* counts of this node */
    unsigned                      usage:1;       /* a usage page asks */
    unsigned                      sorted:1;
    unsigned                      finding:1;     /* who has used so much */
    unsigned                      wrapped:2;     /* so often */
    unsigned                      scanning:1;
    unsigned                      deciding:1;
    unsigned                      down:1;        /* Redis does not answer */
};


/*
 * text and holders in pool; handler and data are the caller's to set, and from
 * and most, where not everyone is to be found from the beginning on.
 */
ngx_int_t ngx_http_apikey_live_init(ngx_http_apikey_live_t *live,
    ngx_http_apikey_main_conf_t *amcf, ngx_pool_t *pool);

/*
 * Lines of "key UUID ROOT" and "owner UUID ROOT", or "percent N": who has used
 * so much.  NGX_OK: looked at, or live->down; NGX_AGAIN: handler is called.
 */
ngx_int_t ngx_http_apikey_live_begin(ngx_http_apikey_live_t *live,
    ngx_str_t *lines);
ngx_int_t ngx_http_apikey_live_run(ngx_http_apikey_live_t *live);
void ngx_http_apikey_live_cancel(ngx_http_apikey_live_t *live);

/* The JSON of it, as req.live has it; a NUL follows. */
ngx_int_t ngx_http_apikey_live_end(ngx_http_apikey_live_t *live,
    ngx_str_t *text);

/* In live->pool; NGX_DECLINED: it has none that can be looked at. */
ngx_int_t ngx_http_apikey_live_build(ngx_http_apikey_live_t *live,
    ngx_http_apikey_live_holder_t *h);

/* What is known of the decision's limits; NGX_ERROR: no memory. */
ngx_int_t ngx_http_apikey_live_tell(ngx_http_apikey_live_t *live);

ngx_int_t ngx_http_apikey_live_add(ngx_http_apikey_live_t *live,
    const char *text, size_t len);

/* Whether so many percent of a limit of this account may be used. */
ngx_uint_t ngx_http_apikey_live_over(ngx_http_apikey_live_t *live,
    const ngx_http_apikey_scanned_t *scanned, ngx_pool_t *pool);


#endif /* NGX_HTTP_APIKEY_LIVE_H_INCLUDED */
