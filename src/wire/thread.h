
/*
 * Threads for what may block: the disk, names that are looked up, webhooks.
 *
 * Each task has a thread of its own that ends with it, and not one of nginx's
 * pools: while a process has a second thread the kernel counts who uses its
 * table of files, in every call of every request.  So nothing waits behind
 * a receiver that hangs, either.  How many there are at once is up to those
 * who post: each has one task, webhooks as many as they send at once.
 *
 * A task is nginx's: its handler is called in the thread, then the handler of
 * its event on the event loop, and in between event.active is set.  It and its
 * ctx are the caller's, and live until then.
 */


#ifndef NGX_HTTP_APIKEY_THREAD_H_INCLUDED
#define NGX_HTTP_APIKEY_THREAD_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_thread_pool.h>


/* init_process, after fork */
ngx_int_t ngx_http_apikey_threads_start(ngx_cycle_t *cycle);

/*
 * exit_process, before all that posts: waits for what is under way, of which
 * no event is told any more.  Nothing can be posted afterwards.
 */
void ngx_http_apikey_threads_stop(void);

/* NGX_ERROR: it is active, or there is no thread for it; nothing was done. */
ngx_int_t ngx_http_apikey_thread_post(ngx_thread_task_t *task);


#endif /* NGX_HTTP_APIKEY_THREAD_H_INCLUDED */
