
/*
 * Threads that end with their task.
 *
 * A task that is done goes through a pipe, as its address and its thread's
 * name: nothing needs a lock.  Who reads that joins the thread, which has a
 * few instructions left, so that none is still in the module's code when the
 * process ends, or in libraries that are done.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "wire/thread.h"


#define NGX_HTTP_APIKEY_THREADS_READ  64


/* Written and read whole: less than PIPE_BUF. */

typedef struct {
    ngx_thread_task_t  *task;
    pthread_t           tid;
} ngx_http_apikey_thread_end_t;


static ngx_int_t ngx_http_apikey_threads_watch(ngx_fd_t fd, ngx_log_t *log);
static void *ngx_http_apikey_thread_main(void *data);
static void ngx_http_apikey_threads_handler(ngx_event_t *ev);


static ngx_connection_t  *ngx_http_apikey_threads;       /* the pipe's end */
static ngx_fd_t           ngx_http_apikey_threads_fd;    /* the threads' end */
static ngx_uint_t         ngx_http_apikey_threads_active;


ngx_int_t
ngx_http_apikey_threads_start(ngx_cycle_t *cycle)
{
    ngx_fd_t  fd[2];

    if (pipe(fd) == -1) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, ngx_errno, "pipe() failed");
        return NGX_ERROR;
    }

    if (ngx_nonblocking(fd[0]) == -1
        || fcntl(fd[0], F_SETFD, FD_CLOEXEC) == -1
        || fcntl(fd[1], F_SETFD, FD_CLOEXEC) == -1)
    {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, ngx_errno,
                      "fcntl() of a pipe failed");
        goto failed;
    }

    if (ngx_http_apikey_threads_watch(fd[0], cycle->log) != NGX_OK) {
        goto failed;
    }

    ngx_http_apikey_threads_fd = fd[1];
    ngx_http_apikey_threads_active = 0;

    return NGX_OK;

failed:

    (void) ngx_close_file(fd[0]);
    (void) ngx_close_file(fd[1]);

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_apikey_threads_watch(ngx_fd_t fd, ngx_log_t *log)
{
    ngx_connection_t  *c;

    c = ngx_get_connection(fd, log);
    if (c == NULL) {
        return NGX_ERROR;
    }

    c->log = log;
    c->read->log = log;
    c->write->log = log;
    c->read->handler = ngx_http_apikey_threads_handler;

    if (ngx_add_event(c->read, NGX_READ_EVENT, NGX_LEVEL_EVENT) != NGX_OK) {
        ngx_free_connection(c);
        c->fd = (ngx_socket_t) -1;
        return NGX_ERROR;
    }

    ngx_http_apikey_threads = c;

    return NGX_OK;
}


void
ngx_http_apikey_threads_stop(void)
{
    ssize_t                        n;
    ngx_connection_t              *c;
    ngx_http_apikey_thread_end_t   end;

    c = ngx_http_apikey_threads;

    if (c == NULL) {
        return;
    }

    if (ngx_blocking(c->fd) == -1) {
        ngx_log_error(NGX_LOG_ALERT, c->log, ngx_errno,
                      ngx_blocking_n " failed");
    }

    while (ngx_http_apikey_threads_active) {
        n = read(c->fd, &end, sizeof(ngx_http_apikey_thread_end_t));

        if (n == sizeof(ngx_http_apikey_thread_end_t)) {
            (void) pthread_join(end.tid, NULL);
            ngx_http_apikey_threads_active--;

        } else if (n != -1 || ngx_errno != NGX_EINTR) {
            ngx_log_error(NGX_LOG_ALERT, c->log, ngx_errno,
                          "read() from a pipe of threads failed");
            break;
        }
    }

    ngx_close_connection(c);
    (void) ngx_close_file(ngx_http_apikey_threads_fd);

    ngx_http_apikey_threads = NULL;
}


ngx_int_t
ngx_http_apikey_thread_post(ngx_thread_task_t *task)
{
    int                err;
    sigset_t           all, before;
    pthread_t          tid;
    ngx_uint_t         level;
    static ngx_uint_t  failed;

    if (ngx_http_apikey_threads == NULL || task->event.active) {
        return NGX_ERROR;
    }

    task->event.active = 1;

    /* signals are the event loop's, but for those of a thread's own faults */

    (void) sigfillset(&all);
    (void) sigdelset(&all, SIGILL);
    (void) sigdelset(&all, SIGFPE);
    (void) sigdelset(&all, SIGSEGV);
    (void) sigdelset(&all, SIGBUS);
    (void) pthread_sigmask(SIG_BLOCK, &all, &before);

    err = pthread_create(&tid, NULL, ngx_http_apikey_thread_main, task);

    (void) pthread_sigmask(SIG_SETMASK, &before, NULL);

    if (err) {
        task->event.active = 0;
        level = failed ? NGX_LOG_INFO : NGX_LOG_ALERT;
        ngx_log_error(level, ngx_cycle->log, err, "pthread_create() failed");
        failed = 1;
        return NGX_ERROR;
    }

    failed = 0;
    ngx_http_apikey_threads_active++;

    return NGX_OK;
}


/* The pipe holds far more than there are tasks: it never fills. */

static void *
ngx_http_apikey_thread_main(void *data)
{
    ngx_thread_task_t *task = data;

    ssize_t                       n;
    ngx_http_apikey_thread_end_t  end;

    task->handler(task->ctx, ngx_cycle->log);

    end.task = task;
    end.tid = pthread_self();

    do {
        n = write(ngx_http_apikey_threads_fd, &end,
                  sizeof(ngx_http_apikey_thread_end_t));
    } while (n == -1 && ngx_errno == NGX_EINTR);

    if (n != sizeof(ngx_http_apikey_thread_end_t)) {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, ngx_errno,
                      "write() to a pipe of threads failed");
    }

    return NULL;
}


static void
ngx_http_apikey_threads_handler(ngx_event_t *ev)
{
    ssize_t                        n;
    ngx_uint_t                     i;
    ngx_event_t                   *done;
    ngx_connection_t              *c;
    ngx_http_apikey_thread_end_t   end[NGX_HTTP_APIKEY_THREADS_READ];

    c = ev->data;

    n = read(c->fd, end, sizeof(end));

    if (n == -1) {
        if (ngx_errno != NGX_EAGAIN && ngx_errno != NGX_EINTR) {
            ngx_log_error(NGX_LOG_ALERT, ev->log, ngx_errno,
                          "read() from a pipe of threads failed");
        }

        return;
    }

    for (i = 0; i < n / sizeof(ngx_http_apikey_thread_end_t); i++) {
        (void) pthread_join(end[i].tid, NULL);
        ngx_http_apikey_threads_active--;

        done = &end[i].task->event;

        done->complete = 1;
        done->active = 0;
        done->handler(done);
    }
}
