
/*
 * Files of rings: making, mapping, and telling a copy of one from itself.
 *
 * Plain C.  The mapping belongs to the apikey_ring_t.
 */


#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/uuid.h"
#include "usage/ring.h"


#define APIKEY_RING_HEADER  4096


static apikey_ring_e apikey_ring_make(apikey_ring_t *ring, const char *temp,
    uint32_t stream, const uint8_t node[16], uint64_t epoch, int uid,
    int gid);
static apikey_ring_e apikey_ring_fail(apikey_ring_t *ring, const char *what);
static apikey_ring_e apikey_ring_fill(apikey_ring_t *ring, uint32_t stream,
    const uint8_t node[16], uint64_t epoch);
static apikey_ring_e apikey_ring_map(apikey_ring_t *ring);
static void apikey_ring_boot(uint8_t boot[16]);


size_t
apikey_ring_size(void)
{
    return APIKEY_RING_HEADER + APIKEY_RING_INDEX * sizeof(uint32_t)
           + (size_t) APIKEY_RING_SMALL * APIKEY_RING_SMALL_SIZE
           + (size_t) APIKEY_RING_LARGE * APIKEY_RING_LARGE_SIZE;
}


apikey_ring_e
apikey_ring_create(apikey_ring_t *ring, const char *dir, uint32_t stream,
    const uint8_t node[16], uint64_t epoch, int uid, int gid)
{
    char           name[1024], temp[1088];
    apikey_ring_e  rc;

    memset(ring, 0, sizeof(apikey_ring_t));
    ring->fd = -1;

    if (snprintf(name, sizeof(name), "%s/ring.%u", dir, (unsigned) stream)
        >= (int) sizeof(name))
    {
        errno = ENAMETOOLONG;
        return apikey_ring_fail(ring, "snprintf()");
    }

    if (access(name, F_OK) == 0) {
        return APIKEY_RING_OK;
    }

    snprintf(temp, sizeof(temp), "%s.new.%ld", name, (long) getpid());

    rc = apikey_ring_make(ring, temp, stream, node, epoch, uid, gid);

    /* link() and not rename(): another process may have made it meanwhile */

    if (rc == APIKEY_RING_OK && link(temp, name) == -1 && errno != EEXIST) {
        rc = apikey_ring_fail(ring, "link()");
    }

    (void) unlink(temp);
    apikey_ring_close(ring);

    return rc;
}


/*
 * Under the lock, so that nobody claims it: a name that is open elsewhere
 * still means the copy, and who looks at the lock alone must find it taken.
 */

apikey_ring_e
apikey_ring_renew(apikey_ring_t *ring, const char *dir, uint64_t epoch)
{
    char           name[1024], temp[1088];
    apikey_ring_t  other;
    apikey_ring_e  rc;

    if (flock(ring->fd, LOCK_EX|LOCK_NB) == -1) {
        return APIKEY_RING_BUSY;
    }

    if (ring->file->dirty
        || apikey_ring_head(ring) != apikey_ring_tail(ring)
        || snprintf(name, sizeof(name), "%s/ring.%u", dir,
                    (unsigned) ring->file->stream) >= (int) sizeof(name))
    {
        (void) flock(ring->fd, LOCK_UN);
        return APIKEY_RING_BUSY;
    }

    snprintf(temp, sizeof(temp), "%s.new.%ld", name, (long) getpid());
    memset(&other, 0, sizeof(apikey_ring_t));
    other.fd = -1;

    rc = apikey_ring_make(&other, temp, ring->file->stream, ring->file->node,
                          epoch, -1, -1);

    if (rc == APIKEY_RING_OK && rename(temp, name) == -1) {
        rc = apikey_ring_fail(&other, "rename()");
    }

    if (rc != APIKEY_RING_OK) {
        (void) unlink(temp);
        ring->err = other.err;
        ring->what = other.what;
    }

    apikey_ring_close(&other);
    (void) flock(ring->fd, LOCK_UN);

    return rc;
}


static apikey_ring_e
apikey_ring_make(apikey_ring_t *ring, const char *temp, uint32_t stream,
    const uint8_t node[16], uint64_t epoch, int uid, int gid)
{
    (void) unlink(temp);

    ring->fd = open(temp, O_RDWR|O_CREAT|O_EXCL|O_CLOEXEC|O_NOFOLLOW, 0600);

    if (ring->fd == -1) {
        return apikey_ring_fail(ring, "open()");
    }

    if (uid != -1 && fchown(ring->fd, (uid_t) uid, (gid_t) gid) == -1) {
        return apikey_ring_fail(ring, "fchown()");
    }

    return apikey_ring_fill(ring, stream, node, epoch);
}


static apikey_ring_e
apikey_ring_fill(apikey_ring_t *ring, uint32_t stream, const uint8_t node[16],
    uint64_t epoch)
{
    int                  err;
    apikey_ring_file_t  *file;

    err = posix_fallocate(ring->fd, 0, (off_t) apikey_ring_size());

    if (err) {
        errno = err;
        return apikey_ring_fail(ring, "posix_fallocate()");
    }

    if (apikey_ring_map(ring) != APIKEY_RING_OK) {
        return APIKEY_RING_FAILED;
    }

    file = ring->file;
    file->layout = APIKEY_RING_LAYOUT;
    file->stream = stream;
    file->epoch = epoch;
    file->size = apikey_ring_size();
    memcpy(file->node, node, 16);
    apikey_ring_sign(ring);
    file->magic = APIKEY_RING_MAGIC;

    return APIKEY_RING_OK;
}


apikey_ring_e
apikey_ring_open(apikey_ring_t *ring, const char *dir, uint32_t stream,
    const uint8_t node[16])
{
    char                 name[1024];
    uint8_t              boot[16];
    struct stat          st;
    apikey_ring_file_t  *file;

    memset(ring, 0, sizeof(apikey_ring_t));
    ring->fd = -1;

    if (snprintf(name, sizeof(name), "%s/ring.%u", dir, (unsigned) stream)
        >= (int) sizeof(name))
    {
        errno = ENAMETOOLONG;
        return apikey_ring_fail(ring, "snprintf()");
    }

    ring->fd = open(name, O_RDWR|O_CLOEXEC|O_NOFOLLOW);

    if (ring->fd == -1) {
        return apikey_ring_fail(ring, "open()");
    }

    if (fstat(ring->fd, &st) == -1) {
        (void) apikey_ring_fail(ring, "fstat()");
        apikey_ring_close(ring);
        return APIKEY_RING_FAILED;
    }

    if ((uint64_t) st.st_size != apikey_ring_size()) {
        apikey_ring_close(ring);
        return APIKEY_RING_FOREIGN;
    }

    if (apikey_ring_map(ring) != APIKEY_RING_OK) {
        apikey_ring_close(ring);
        return APIKEY_RING_FAILED;
    }

    file = ring->file;

    if (file->magic != APIKEY_RING_MAGIC
        || file->layout != APIKEY_RING_LAYOUT
        || file->size != apikey_ring_size() || file->stream != stream
        || memcmp(file->node, node, 16) != 0
        || file->tail > file->head
        || file->head - file->tail > APIKEY_RING_INDEX)
    {
        apikey_ring_close(ring);
        return APIKEY_RING_FOREIGN;
    }

    ring->read = apikey_ring_tail(ring);

    apikey_ring_boot(boot);

    ring->copied = file->inode != 0
                   && (file->inode != (uint64_t) st.st_ino
                       || file->device != (uint64_t) st.st_dev
                       || memcmp(file->boot, boot, 16) != 0);

    return APIKEY_RING_OK;
}


static apikey_ring_e
apikey_ring_map(apikey_ring_t *ring)
{
    uint8_t  *p;

    p = mmap(NULL, apikey_ring_size(), PROT_READ|PROT_WRITE, MAP_SHARED,
             ring->fd, 0);

    if (p == MAP_FAILED) {
        return apikey_ring_fail(ring, "mmap()");
    }

    ring->file = (apikey_ring_file_t *) p;
    p += APIKEY_RING_HEADER;
    ring->index = (uint32_t *) p;
    p += APIKEY_RING_INDEX * sizeof(uint32_t);
    ring->small = p;
    ring->large = p + (size_t) APIKEY_RING_SMALL * APIKEY_RING_SMALL_SIZE;

    return APIKEY_RING_OK;
}


void
apikey_ring_close(apikey_ring_t *ring)
{
    if (ring->file) {
        (void) munmap(ring->file, apikey_ring_size());
        ring->file = NULL;
    }

    if (ring->fd != -1) {
        (void) close(ring->fd);
        ring->fd = -1;
    }
}


static apikey_ring_e
apikey_ring_fail(apikey_ring_t *ring, const char *what)
{
    ring->err = errno;
    ring->what = what;

    return APIKEY_RING_FAILED;
}


/*
 * The number of a file is its own as long as the machine runs; a disk that
 * was copied whole has the same one, but not the machine that starts from it.
 */

void
apikey_ring_sign(apikey_ring_t *ring)
{
    struct stat          st;
    apikey_ring_file_t  *file;

    file = ring->file;

    if (file->inode != 0 || fstat(ring->fd, &st) == -1) {
        return;
    }

    apikey_ring_boot(file->boot);
    file->device = (uint64_t) st.st_dev;
    __atomic_store_n(&file->inode, (uint64_t) st.st_ino, __ATOMIC_RELEASE);
}


/* Zeros where the system does not tell. */

static void
apikey_ring_boot(uint8_t boot[16])
{
    int   fd;
    char  text[APIKEY_UUID_TEXT_LEN];

    memset(boot, 0, 16);

    fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY|O_CLOEXEC);

    if (fd == -1) {
        return;
    }

    if (read(fd, text, sizeof(text)) == (ssize_t) sizeof(text)) {
        (void) apikey_uuid_parse(boot, text, sizeof(text));
    }

    (void) close(fd);
}
