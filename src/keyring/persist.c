
/*
 * The saved copy: the file "keyring" in the journal directory, the arena's
 * blocks as they are behind a header, from which a node starts in moments
 * and with Postgres down.
 *
 * Saving walks the blocks in pieces, so the mutex is never held for long; a
 * block freed meanwhile waits until the end, so the file holds each row as it
 * was at the start or later, and the position of the start: reading the
 * changes since then makes it whole.  save() runs in a thread of the elected
 * worker (or at its exit), load() in the master.
 */


#include "keyring/store.h"

#include <sys/file.h>

#include "base/clock.h"
#include "base/crc.h"


#define NGX_HTTP_APIKEY_COPY_MAGIC   0x676e697279656b61ULL
#define NGX_HTTP_APIKEY_COPY_LAYOUT  3
#define NGX_HTTP_APIKEY_COPY_PIECE   (32 * 1024)
#define NGX_HTTP_APIKEY_COPY_BUFFER                                           \
    (NGX_HTTP_APIKEY_COPY_PIECE + NGX_HTTP_APIKEY_BLOCK_MAX)


typedef struct {
    uint64_t                    magic;
    uint32_t                    layout;
    uint32_t                    sizes;       /* of the records, packed */
    uint64_t                    units;       /* of blocks in the file */
    uint64_t                    keys;
    int64_t                     current;
    int64_t                     version;
    ngx_http_apikey_position_t  position;
    uint32_t                    body_crc;
    uint32_t                    crc;         /* of all before it */
} ngx_http_apikey_copy_t;


#define ngx_http_apikey_copy_sizes()                                          \
    ((uint32_t) (sizeof(ngx_http_apikey_key_rec_t)                            \
                 | sizeof(ngx_http_apikey_secret_rec_t) << 8                  \
                 | sizeof(ngx_http_apikey_body_rec_t) << 16                   \
                 | (sizeof(apikey_limit_t) & 0xff) << 24))


static int ngx_http_apikey_save_lock(const char *directory);
static void ngx_http_apikey_save_close(int fd);
static uint32_t ngx_http_apikey_save_begin(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, ngx_http_apikey_copy_t *copy);
static ngx_int_t ngx_http_apikey_save_head(ngx_http_apikey_copy_t *copy,
    int fd);
static ngx_int_t ngx_http_apikey_save_blocks(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, uint32_t save, ngx_http_apikey_copy_t *copy,
    int fd);
static ngx_int_t ngx_http_apikey_save_write(int fd, const u_char *p,
    size_t size, off_t offset);
static const char *ngx_http_apikey_load_file(ngx_http_apikey_keyring_sh_t *sh,
    u_char *data, size_t size);
static ngx_int_t ngx_http_apikey_load_blocks(ngx_http_apikey_keyring_sh_t *sh);
static ngx_int_t ngx_http_apikey_load_block(ngx_http_apikey_keyring_sh_t *sh,
    ngx_http_apikey_block_t *b);
static ngx_uint_t ngx_http_apikey_load_limits(const u_char *p, size_t size,
    ngx_uint_t n);


/* NGX_DECLINED: nothing to save, or another worker saves. */

ngx_int_t
ngx_http_apikey_keyring_save(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, const char *directory, ngx_log_t *log)
{
    int                     fd, lock, err;
    char                    name[NGX_MAX_PATH], temp[NGX_MAX_PATH];
    uint32_t                save;
    ngx_int_t               rc;
    ngx_http_apikey_copy_t  copy;

    (void) ngx_snprintf((u_char *) name, NGX_MAX_PATH, "%s/keyring%Z",
                        directory);
    (void) ngx_snprintf((u_char *) temp, NGX_MAX_PATH, "%s/keyring.tmp%Z",
                        directory);

    ngx_memzero(&copy, sizeof(ngx_http_apikey_copy_t));

    lock = ngx_http_apikey_save_lock(directory);
    save = (lock == -1) ? 0 : ngx_http_apikey_save_begin(sh, shpool, &copy);

    if (save == 0) {
        ngx_http_apikey_save_close(lock);
        return NGX_DECLINED;
    }

    (void) unlink(temp);

    fd = open(temp, O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0600);

    rc = (fd == -1) ? NGX_ERROR
                    : ngx_http_apikey_save_blocks(sh, shpool, save, &copy, fd);
    err = ngx_errno;

    ngx_shmtx_lock(&shpool->mutex);

    if (sh->saving == save) {
        ngx_http_apikey_store_release(sh);

    } else if (rc == NGX_OK) {
        rc = NGX_DECLINED;
    }

    ngx_shmtx_unlock(&shpool->mutex);

    if (rc == NGX_OK && rename(temp, name) == -1) {
        err = ngx_errno;
        rc = NGX_ERROR;
    }

    if (rc == NGX_ERROR) {
        ngx_log_error(NGX_LOG_ERR, log, err,
                      "apikey: cannot save the keyring to \"%s\"", temp);
    }

    ngx_http_apikey_save_close(fd);
    ngx_http_apikey_save_close(lock);

    return rc;
}


/* Two zones may have one directory, see sync.c.  -1: another worker saves. */

static int
ngx_http_apikey_save_lock(const char *directory)
{
    int  fd;

    fd = open(directory, O_RDONLY|O_DIRECTORY|O_CLOEXEC);

    if (fd != -1 && flock(fd, LOCK_EX|LOCK_NB) == -1) {
        (void) close(fd);
        return -1;
    }

    return fd;
}


static void
ngx_http_apikey_save_close(int fd)
{
    if (fd != -1) {
        (void) close(fd);
    }
}


/* The number of this save; 0: not now. */

static uint32_t
ngx_http_apikey_save_begin(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, ngx_http_apikey_copy_t *copy)
{
    uint32_t  save;

    save = 0;

    ngx_shmtx_lock(&shpool->mutex);

    if (sh->complete && !sh->saving && !sh->writing) {

        if (++sh->saves == 0) {
            sh->saves = 1;
        }

        save = sh->saves;
        sh->saving = save;

        copy->units = sh->used - 1;
        copy->keys = sh->keys;
        copy->current = sh->current;
        copy->version = sh->version;
        copy->position = sh->position;
    }

    ngx_shmtx_unlock(&shpool->mutex);

    return save;
}


static ngx_int_t
ngx_http_apikey_save_blocks(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, uint32_t save, ngx_http_apikey_copy_t *copy,
    int fd)
{
    off_t      offset;
    u_char    *buf;
    size_t     size;
    uint32_t   from, to, end;

    buf = malloc(NGX_HTTP_APIKEY_COPY_BUFFER);
    if (buf == NULL) {
        return NGX_ERROR;
    }

    from = 1;
    end = copy->units + 1;
    offset = sizeof(ngx_http_apikey_copy_t);

    while (from < end) {
        ngx_shmtx_lock(&shpool->mutex);

        if (sh->saving != save || sh->writing) {
            ngx_shmtx_unlock(&shpool->mutex);
            free(buf);
            return NGX_DECLINED;
        }

        for (to = from;
             to < end && (size_t) (to - from) * NGX_HTTP_APIKEY_UNIT
                         < NGX_HTTP_APIKEY_COPY_PIECE;
             to += ngx_http_apikey_block(sh, to)->units)
        {
            /* void */
        }

        size = (size_t) (to - from) * NGX_HTTP_APIKEY_UNIT;
        ngx_memcpy(buf, ngx_http_apikey_block(sh, from), size);

        ngx_shmtx_unlock(&shpool->mutex);

        copy->body_crc = apikey_crc32c(copy->body_crc, buf, size);

        if (ngx_http_apikey_save_write(fd, buf, size, offset) != NGX_OK) {
            free(buf);
            return NGX_ERROR;
        }

        offset += size;
        from = to;
    }

    free(buf);

    return ngx_http_apikey_save_head(copy, fd);
}


static ngx_int_t
ngx_http_apikey_save_head(ngx_http_apikey_copy_t *copy, int fd)
{
    copy->magic = NGX_HTTP_APIKEY_COPY_MAGIC;
    copy->layout = NGX_HTTP_APIKEY_COPY_LAYOUT;
    copy->sizes = ngx_http_apikey_copy_sizes();
    copy->crc = apikey_crc32c(0, copy, offsetof(ngx_http_apikey_copy_t, crc));

    if (ngx_http_apikey_save_write(fd, (u_char *) copy,
                                   sizeof(ngx_http_apikey_copy_t), 0)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    return (fdatasync(fd) == 0) ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_http_apikey_save_write(int fd, const u_char *p, size_t size, off_t offset)
{
    ssize_t  n;

    while (size) {
        n = pwrite(fd, p, size, offset);

        if (n == -1 && errno == EINTR) {
            continue;
        }

        if (n <= 0) {
            return NGX_ERROR;
        }

        p += n;
        size -= n;
        offset += n;
    }

    return NGX_OK;
}


void
ngx_http_apikey_keyring_load(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, ngx_str_t *directory, ngx_log_t *log)
{
    int           fd;
    char          name[NGX_MAX_PATH];
    u_char       *data;
    int64_t       start;
    ngx_uint_t    level;
    const char   *error;
    struct stat   st;

    (void) ngx_snprintf((u_char *) name, NGX_MAX_PATH, "%V/keyring%Z",
                        directory);

    if (sh->used > 1) {
        return;                  /* not a fresh zone */
    }

    fd = open(name, O_RDONLY|O_CLOEXEC);

    if (fd == -1) {
        level = (ngx_errno == NGX_ENOENT) ? NGX_LOG_INFO : NGX_LOG_WARN;

        ngx_log_error(level, log, ngx_errno,
                      "apikey: no saved keyring \"%s\"", name);
        return;
    }

    start = apikey_clock_boot();
    data = MAP_FAILED;
    error = "too short";

    if (fstat(fd, &st) == 0
        && (size_t) st.st_size >= sizeof(ngx_http_apikey_copy_t))
    {
        data = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE|MAP_POPULATE, fd,
                    0);
        error = "cannot be mapped";
    }

    if (data != MAP_FAILED) {
        ngx_shmtx_lock(&shpool->mutex);
        error = ngx_http_apikey_load_file(sh, data, st.st_size);
        ngx_shmtx_unlock(&shpool->mutex);

        (void) munmap(data, st.st_size);
    }

    (void) close(fd);

    if (error) {
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "apikey: the saved keyring \"%s\" is not used: %s",
                      name, error);
        return;
    }

    ngx_log_error(NGX_LOG_NOTICE, log, 0,
                  "apikey: %uL keys from the saved keyring \"%s\" in %L ms%s",
                  sh->keys, name, (apikey_clock_boot() - start) / 1000,
                  sh->complete ? "" : ", not all fit");
}


/* NULL: loaded; else why not, and the zone is as it was. */

static const char *
ngx_http_apikey_load_file(ngx_http_apikey_keyring_sh_t *sh, u_char *data,
    size_t size)
{
    u_char                  *body;
    uint64_t                 units;
    ngx_http_apikey_copy_t  *copy;

    copy = (ngx_http_apikey_copy_t *) data;
    body = data + sizeof(ngx_http_apikey_copy_t);
    size -= sizeof(ngx_http_apikey_copy_t);

    if (copy->magic != NGX_HTTP_APIKEY_COPY_MAGIC) {
        return "it is not one";
    }

    if (copy->layout != NGX_HTTP_APIKEY_COPY_LAYOUT
        || copy->sizes != ngx_http_apikey_copy_sizes())
    {
        return "it has another layout";
    }

    if (copy->crc != apikey_crc32c(0, copy,
                                   offsetof(ngx_http_apikey_copy_t, crc))
        || size % NGX_HTTP_APIKEY_UNIT
        || copy->units != size / NGX_HTTP_APIKEY_UNIT
        || copy->body_crc != apikey_crc32c(0, body, size))
    {
        return "its checksum is wrong";
    }

    units = ngx_min(copy->units, sh->size - 1);

    ngx_memcpy(ngx_http_apikey_block(sh, 1), body,
               units * NGX_HTTP_APIKEY_UNIT);
    sh->used = units + 1;

    if (ngx_http_apikey_load_blocks(sh) != NGX_OK) {
        sh->used = 1;
        return "its records are damaged";
    }

    sh->full = (units < copy->units);
    sh->complete = !sh->full;
    sh->current = copy->current;
    sh->fresh = copy->current;
    sh->version = copy->version;
    sh->position = copy->position;

    ngx_http_apikey_store_rebuild(sh, 1);

    return NULL;
}


/* All offsets are checked here, so that nobody else has to. */

static ngx_int_t
ngx_http_apikey_load_blocks(ngx_http_apikey_keyring_sh_t *sh)
{
    uint32_t                  off;
    ngx_int_t                 rc;
    ngx_http_apikey_block_t  *b;

    for (off = 1; off < sh->used; off += b->units) {
        b = ngx_http_apikey_block(sh, off);

        if (b->units == 0) {
            return NGX_ERROR;
        }

        if (b->units > sh->used - off) {
            sh->used = off;      /* the zone is smaller than the copy */
            break;
        }
    }

    for (off = 1; off < sh->used; off += b->units) {
        b = ngx_http_apikey_block(sh, off);

        if (b->state == NGX_HTTP_APIKEY_BLOCK_FREE) {
            continue;
        }

        rc = ngx_http_apikey_load_block(sh, b);

        if (rc == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (rc == NGX_DECLINED) {
            b->state = NGX_HTTP_APIKEY_BLOCK_FREE;
            b->dead = 0;
        }
    }

    return NGX_OK;
}


/*
 * NGX_DECLINED: points at what is not in the copy, because it was made while
 * the copy was being saved; the changes since then bring it again.
 */

static ngx_int_t
ngx_http_apikey_load_block(ngx_http_apikey_keyring_sh_t *sh,
    ngx_http_apikey_block_t *b)
{
    size_t                       size, room, len;
    u_char                      *limits;
    uint32_t                     anchor;
    ngx_uint_t                   n;
    ngx_http_apikey_key_rec_t   *key;
    ngx_http_apikey_body_rec_t  *body;

    room = (size_t) b->units * NGX_HTTP_APIKEY_UNIT;
    b->next = sh->epoch;

    switch (b->state) {

    case NGX_HTTP_APIKEY_BLOCK_ANCHOR:
        return (room < sizeof(ngx_http_apikey_anchor_rec_t)) ? NGX_ERROR
                                                             : NGX_OK;

    case NGX_HTTP_APIKEY_BLOCK_KEY:
        key = (ngx_http_apikey_key_rec_t *) b;
        anchor = key->owner;
        size = sizeof(ngx_http_apikey_key_rec_t) + key->limits_size
               + key->nsecrets * sizeof(ngx_http_apikey_secret_rec_t)
               + key->name_len + key->prefix_len + key->customer_len
               + key->plan_len + key->scopes_len + key->models_len
               + key->ips_len + key->metadata_len;
        limits = ngx_http_apikey_rec_limits(key);
        len = key->limits_size;
        n = key->nlimits;
        break;

    case NGX_HTTP_APIKEY_BLOCK_BODY:
        body = (ngx_http_apikey_body_rec_t *) b;
        anchor = body->anchor ? body->anchor : sh->used;
        size = sizeof(ngx_http_apikey_body_rec_t) + body->limits_size
               + body->external_len + body->plan_len;
        limits = ngx_http_apikey_rec_limits(body);
        len = body->limits_size;
        n = body->nlimits;
        break;

    default:
        return NGX_ERROR;
    }

    if (size > room || !ngx_http_apikey_load_limits(limits, len, n)) {
        return NGX_ERROR;
    }

    if (anchor >= sh->used
        || (anchor
            && ngx_http_apikey_block(sh, anchor)->state
               != NGX_HTTP_APIKEY_BLOCK_ANCHOR))
    {
        return NGX_DECLINED;
    }

    return NGX_OK;
}


/* Requests go from one to the next, and none looks where they end. */

static ngx_uint_t
ngx_http_apikey_load_limits(const u_char *p, size_t size, ngx_uint_t n)
{
    apikey_limit_t  limit;

    for ( /* void */ ; n; n--) {

        if (size < sizeof(apikey_limit_t)) {
            return 0;
        }

        ngx_memcpy(&limit, p, sizeof(apikey_limit_t));

        if (limit.size > size || limit.size < sizeof(apikey_limit_t)
            || limit.size % 8
            || offsetof(apikey_limit_t, text) + limit.name_len
               + limit.service_len + limit.model_len > limit.size)
        {
            return 0;
        }

        p += limit.size;
        size -= limit.size;
    }

    return size == 0;
}
