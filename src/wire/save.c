
/*
 * A file that is there whole or not at all.  Every system call is one of a
 * thread; names are looked up in the directory that was opened first, so that
 * nothing is written elsewhere, whatever becomes of its path meanwhile.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "wire/save.h"
#include "wire/thread.h"


static void ngx_http_apikey_save_thread(void *data, ngx_log_t *log);
static void ngx_http_apikey_save_open(ngx_http_apikey_save_t *save);
static void ngx_http_apikey_save_write(ngx_http_apikey_save_t *save);
static void ngx_http_apikey_save_close(ngx_http_apikey_save_t *save);
static void ngx_http_apikey_save_failed(ngx_http_apikey_save_t *save,
    const char *what, ngx_err_t err);
static void ngx_http_apikey_save_done(ngx_event_t *ev);


ngx_int_t
ngx_http_apikey_save_init(ngx_http_apikey_save_t *save, ngx_pool_t *pool)
{
    save->dir = NGX_INVALID_FILE;
    save->fd = NGX_INVALID_FILE;
    save->task = ngx_thread_task_alloc(pool,
                                       sizeof(ngx_http_apikey_save_t *));

    if (save->task == NULL) {
        return NGX_ERROR;
    }

    *(ngx_http_apikey_save_t **) save->task->ctx = save;

    save->task->handler = ngx_http_apikey_save_thread;
    save->task->event.handler = ngx_http_apikey_save_done;
    save->task->event.data = save;

    return NGX_OK;
}


ngx_int_t
ngx_http_apikey_save_step(ngx_http_apikey_save_t *save, ngx_uint_t step)
{
    save->step = step;

    return ngx_http_apikey_thread_post(save->task);
}


static void
ngx_http_apikey_save_thread(void *data, ngx_log_t *log)
{
    ngx_http_apikey_save_t  *save;

    save = *(ngx_http_apikey_save_t **) data;
    save->error[0] = '\0';

    switch (save->step) {

    case NGX_HTTP_APIKEY_SAVE_OPEN:
        ngx_http_apikey_save_open(save);
        break;

    case NGX_HTTP_APIKEY_SAVE_WRITE:
        ngx_http_apikey_save_write(save);
        break;

    case NGX_HTTP_APIKEY_SAVE_CLOSE:
        ngx_http_apikey_save_close(save);
        break;

    default: /* NGX_HTTP_APIKEY_SAVE_DROP */
        ngx_http_apikey_save_free(save);
        break;
    }
}


static void
ngx_http_apikey_save_open(ngx_http_apikey_save_t *save)
{
    if (ngx_strchr(save->name, '/') || ngx_strchr(save->temp, '/')
        || ngx_strchr(save->stale, '/'))
    {
        ngx_http_apikey_save_failed(save, "a name outside of export_dir", 0);
        return;
    }

    save->md = EVP_MD_CTX_new();

    if (save->md == NULL
        || EVP_DigestInit_ex(save->md, EVP_sha256(), NULL) != 1)
    {
        ngx_http_apikey_save_failed(save, "there is no SHA-256", 0);
        return;
    }

    save->dir = open(save->directory, O_RDONLY|O_DIRECTORY|O_CLOEXEC);

    if (save->dir == NGX_INVALID_FILE) {
        ngx_http_apikey_save_failed(save, "export_dir cannot be opened",
                                    ngx_errno);
        return;
    }

    if (save->stale[0]) {
        (void) unlinkat(save->dir, save->stale, 0);
    }

    save->fd = openat(save->dir, save->temp,
                      O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC, 0600);

    if (save->fd == NGX_INVALID_FILE) {
        ngx_http_apikey_save_failed(save, "no file can be made in export_dir",
                                    ngx_errno);
        return;
    }

    save->made = 1;
}


static void
ngx_http_apikey_save_write(ngx_http_apikey_save_t *save)
{
    size_t         left;
    ssize_t        n;
    const u_char  *p;

    p = save->data;
    left = save->len;

    while (left) {
        n = write(save->fd, p, left);

        if (n == -1) {
            if (ngx_errno == NGX_EINTR) {
                continue;
            }

            ngx_http_apikey_save_failed(save, "the file cannot be written",
                                        ngx_errno);
            return;
        }

        p += n;
        left -= n;
    }

    if (EVP_DigestUpdate(save->md, save->data, save->len) != 1) {
        ngx_http_apikey_save_failed(save, "SHA-256 failed", 0);
        return;
    }

    save->bytes += save->len;
}


static void
ngx_http_apikey_save_close(ngx_http_apikey_save_t *save)
{
    u_char        sum[NGX_HTTP_APIKEY_SAVE_SHA256 / 2];
    unsigned int  len;

    if (EVP_DigestFinal_ex(save->md, sum, &len) != 1) {
        ngx_http_apikey_save_failed(save, "SHA-256 failed", 0);
        return;
    }

    *ngx_hex_dump((u_char *) save->sha256, sum, sizeof(sum)) = '\0';

    if (fsync(save->fd) == -1) {
        ngx_http_apikey_save_failed(save, "the file cannot be written",
                                    ngx_errno);
        return;
    }

    if (renameat(save->dir, save->temp, save->dir, save->name) == -1) {
        ngx_http_apikey_save_failed(save, "the file cannot get its name",
                                    ngx_errno);
        return;
    }

    save->made = 0;

    if (fsync(save->dir) == -1) {
        ngx_http_apikey_save_failed(save, "export_dir cannot be written",
                                    ngx_errno);
        return;
    }

    ngx_http_apikey_save_free(save);
}


void
ngx_http_apikey_save_free(ngx_http_apikey_save_t *save)
{
    if (save->made) {
        (void) unlinkat(save->dir, save->temp, 0);
        save->made = 0;
    }

    if (save->fd != NGX_INVALID_FILE) {
        (void) close(save->fd);
        save->fd = NGX_INVALID_FILE;
    }

    if (save->dir != NGX_INVALID_FILE) {
        (void) close(save->dir);
        save->dir = NGX_INVALID_FILE;
    }

    EVP_MD_CTX_free(save->md);
    save->md = NULL;
}


static void
ngx_http_apikey_save_failed(ngx_http_apikey_save_t *save, const char *what,
    ngx_err_t err)
{
    u_char  *p, *last;

    last = (u_char *) save->error + NGX_HTTP_APIKEY_SAVE_ERROR - 1;
    p = ngx_slprintf((u_char *) save->error, last, "%s", what);

    if (err) {
        p = ngx_slprintf(p, last, " (%d: ", err);
        p = ngx_strerror(err, p, last - p);
        p = ngx_slprintf(p, last, ")");
    }

    *p = '\0';
}


static void
ngx_http_apikey_save_done(ngx_event_t *ev)
{
    ngx_http_apikey_save_t  *save;

    save = ev->data;

    save->handler(save);
}
