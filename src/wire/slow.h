
/*
 * Threads for what may take long and is waited for by few: names that are
 * looked up, webhooks that are told, files of scheduled exports.
 *
 * A pool of their own: "default" is nginx's for files, and the journal's, and
 * both would stand still behind a receiver that hangs.  Its threads are each
 * worker's; a configuration makes it by slow_add(), whoever posts to it asks
 * for it each time.
 */


#ifndef NGX_HTTP_APIKEY_SLOW_H_INCLUDED
#define NGX_HTTP_APIKEY_SLOW_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_thread_pool.h>


/* Unless the configuration has one: "thread_pool apikey threads=N". */
char *ngx_http_apikey_slow_add(ngx_conf_t *cf);

/* NULL: there is none, as in a worker that is leaving. */
ngx_thread_pool_t *ngx_http_apikey_slow_get(void);


#endif /* NGX_HTTP_APIKEY_SLOW_H_INCLUDED */
