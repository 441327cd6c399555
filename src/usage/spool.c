
/*
 * Writing, finding again and deleting segments of the spool.
 *
 * Plain C; blocks.  Memory: the list of segments, a buffer.
 */


#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc.h"
#include "usage/spool_file.h"


static apikey_spool_e apikey_spool_list(apikey_spool_t *spool);
static bool apikey_spool_write(apikey_spool_t *spool, const uint8_t *data,
    size_t len, uint64_t offset);
static apikey_spool_e apikey_spool_drop(apikey_spool_t *spool,
    const char *what);
static bool apikey_spool_begin(apikey_spool_t *spool, int fd,
    const apikey_segment_t *segment);
static int apikey_spool_compare(const void *one, const void *two);
static apikey_segment_t *apikey_spool_add(apikey_spool_t *spool,
    uint64_t seq);
static void apikey_spool_remove(apikey_spool_t *spool, unsigned i);
static apikey_spool_e apikey_spool_new(apikey_spool_t *spool, int64_t now);
static bool apikey_spool_room(apikey_spool_t *spool,
    const apikey_marks_t *shipped);
static apikey_spool_e apikey_spool_finish(apikey_spool_t *spool);


apikey_spool_e
apikey_spool_open(apikey_spool_t *spool, const char *dir,
    const uint8_t node[16], uint64_t limit)
{
    unsigned        i;
    apikey_spool_e  rc;

    memset(spool, 0, sizeof(apikey_spool_t));
    spool->fd = -1;
    spool->limit = limit < APIKEY_SPOOL_MIN ? APIKEY_SPOOL_MIN : limit;
    spool->segment_size = spool->limit / 8;
    memcpy(spool->node, node, 16);

    if (spool->segment_size < 1024 * 1024) {
        spool->segment_size = 1024 * 1024;

    } else if (spool->segment_size > 16 * 1024 * 1024) {
        spool->segment_size = 16 * 1024 * 1024;
    }

    if (snprintf(spool->dir, sizeof(spool->dir), "%s", dir)
        > (int) sizeof(spool->dir) - 32)
    {
        errno = ENAMETOOLONG;
        return apikey_spool_fail(spool, "snprintf()");
    }

    if (apikey_spool_list(spool) != APIKEY_SPOOL_OK) {
        return APIKEY_SPOOL_FAILED;
    }

    spool->buf = malloc(APIKEY_SPOOL_CHUNK);
    if (spool->buf == NULL) {
        return apikey_spool_fail(spool, "malloc()");
    }

    rc = APIKEY_SPOOL_OK;

    for (i = spool->n; i-- > 0; /* void */) {
        if (apikey_spool_scan(spool, &spool->segment[i])
            != APIKEY_SPOOL_OK)
        {
            rc = APIKEY_SPOOL_FAILED;    /* the others may be sound */
        }

        if (spool->segment[i].marks.n == 0 && !spool->segment[i].unread) {
            apikey_spool_remove(spool, i);
        }
    }

    return rc;
}


static apikey_spool_e
apikey_spool_list(apikey_spool_t *spool)
{
    DIR            *d;
    char           *end;
    uint64_t        seq;
    struct dirent  *entry;

    d = opendir(spool->dir);
    if (d == NULL) {
        return apikey_spool_fail(spool, "opendir()");
    }

    while ((entry = readdir(d)) != NULL) {
        if (strncmp(entry->d_name, "spool.", 6) != 0
            || strlen(entry->d_name) != 22)
        {
            continue;
        }

        seq = strtoull(entry->d_name + 6, &end, 16);

        if (*end == '\0' && apikey_spool_add(spool, seq) == NULL) {
            (void) closedir(d);
            return apikey_spool_fail(spool, "malloc()");
        }

        if (seq > spool->seq) {
            spool->seq = seq;
        }
    }

    (void) closedir(d);

    if (spool->n) {
        qsort(spool->segment, spool->n, sizeof(apikey_segment_t),
              apikey_spool_compare);
    }

    return APIKEY_SPOOL_OK;
}


void
apikey_spool_close(apikey_spool_t *spool)
{
    unsigned  i;

    (void) apikey_spool_finish(spool);

    for (i = 0; i < spool->n; i++) {
        apikey_marks_free(&spool->segment[i].marks);
    }

    free(spool->segment);
    spool->segment = NULL;
    spool->n = 0;
    spool->size = 0;

    apikey_packer_free(spool->packer);
    spool->packer = NULL;
    apikey_spool_unpack_end(spool);
    free(spool->buf);
    spool->buf = NULL;
}


apikey_spool_e
apikey_spool_append(apikey_spool_t *spool, const uint8_t *data, size_t len,
    int64_t now, const apikey_marks_t *shipped)
{
    size_t             size;
    apikey_spool_e     rc;
    apikey_segment_t  *segment;

    spool->wrote = 0;

    if (spool->fd != -1) {
        segment = &spool->segment[spool->n - 1];

        if (segment->end + len > segment->bytes
            || (spool->packer && apikey_packer_full(spool->packer))
            || now - segment->created > APIKEY_SPOOL_AGE)
        {
            rc = apikey_spool_finish(spool);
            if (rc != APIKEY_SPOOL_OK) {
                return rc;
            }
        }
    }

    if (spool->fd == -1) {
        if (!apikey_spool_room(spool, shipped)) {
            return APIKEY_SPOOL_FULL;
        }

        rc = apikey_spool_new(spool, now);
        if (rc != APIKEY_SPOOL_OK) {
            return rc;
        }
    }

    segment = &spool->segment[spool->n - 1];

    spool->dirty = true;
    size = apikey_spool_pack(spool, data, len);

    if (!apikey_spool_write(spool, spool->buf, size, segment->end)) {
        return apikey_spool_drop(spool, "pwrite()");
    }

    if (!apikey_spool_count(segment, data, len)) {
        return apikey_spool_drop(spool, "malloc()");
    }

    segment->end += size;
    segment->written = now;
    spool->wrote = size;

    return APIKEY_SPOOL_OK;
}


apikey_spool_e
apikey_spool_sync(apikey_spool_t *spool)
{
    apikey_segment_t  *segment;

    if (spool->dirty && fdatasync(spool->fd) == -1) {
        return apikey_spool_drop(spool, "fdatasync()");
    }

    if (spool->dirty) {
        segment = &spool->segment[spool->n - 1];
        segment->synced = segment->end;
    }

    spool->dirty = false;

    return APIKEY_SPOOL_OK;
}


/*
 * A failed sync may have dropped pages that look clean ever after: the file
 * is cut where it is known to be good, takes nothing more and keeps no room.
 * The caller writes what was lost into another one.
 */

static apikey_spool_e
apikey_spool_drop(apikey_spool_t *spool, const char *what)
{
    apikey_segment_t  *segment;

    (void) apikey_spool_fail(spool, what);

    segment = &spool->segment[spool->n - 1];
    segment->end = segment->synced;

    if (ftruncate(spool->fd, (off_t) segment->end) == 0) {
        segment->bytes = segment->end;
    }

    (void) close(spool->fd);
    spool->fd = -1;
    spool->dirty = false;

    if (segment->end == APIKEY_SPOOL_HEADER) {
        apikey_spool_remove(spool, spool->n - 1);
    }

    return APIKEY_SPOOL_FAILED;
}


static bool
apikey_spool_write(apikey_spool_t *spool, const uint8_t *data, size_t len,
    uint64_t offset)
{
    ssize_t  n;

    while (len) {
        n = pwrite(spool->fd, data, len, (off_t) offset);

        if (n == -1 && errno == EINTR) {
            continue;
        }

        if (n <= 0) {
            return false;
        }

        data += n;
        offset += (uint64_t) n;
        len -= (size_t) n;
    }

    return true;
}


void
apikey_spool_prune(apikey_spool_t *spool, int64_t now,
    const apikey_marks_t *shipped)
{
    while (spool->n > (spool->fd != -1)
           && now - spool->segment[0].written > APIKEY_SPOOL_KEEP
           && apikey_spool_shipped(&spool->segment[0], shipped))
    {
        apikey_spool_remove(spool, 0);
    }
}


apikey_spool_e
apikey_spool_fail(apikey_spool_t *spool, const char *what)
{
    spool->err = errno;
    spool->what = what;

    return APIKEY_SPOOL_FAILED;
}


int
apikey_spool_file(apikey_spool_t *spool, uint64_t seq, int flags)
{
    char  name[sizeof(spool->dir) + 32];

    snprintf(name, sizeof(name), "%s/spool.%016llx", spool->dir,
             (unsigned long long) seq);

    return open(name, flags|O_CLOEXEC|O_NOFOLLOW, 0600);
}


static int
apikey_spool_compare(const void *one, const void *two)
{
    const apikey_segment_t  *a, *b;

    a = one;
    b = two;

    return a->seq < b->seq ? -1 : a->seq > b->seq;
}


static apikey_segment_t *
apikey_spool_add(apikey_spool_t *spool, uint64_t seq)
{
    unsigned           size;
    apikey_segment_t  *segment;

    if (spool->n == spool->size) {
        size = spool->size ? spool->size * 2 : 16;

        segment = realloc(spool->segment, size * sizeof(apikey_segment_t));
        if (segment == NULL) {
            return NULL;
        }

        spool->segment = segment;
        spool->size = size;
    }

    segment = &spool->segment[spool->n++];
    memset(segment, 0, sizeof(apikey_segment_t));
    segment->seq = seq;
    segment->end = APIKEY_SPOOL_HEADER;
    segment->synced = APIKEY_SPOOL_HEADER;

    return segment;
}


/* Foreign segments leave the list only; ours without frames the disk too. */

static void
apikey_spool_remove(apikey_spool_t *spool, unsigned i)
{
    char               name[sizeof(spool->dir) + 32];
    apikey_segment_t  *segment;

    segment = &spool->segment[i];

    if (segment->bytes) {
        snprintf(name, sizeof(name), "%s/spool.%016llx", spool->dir,
                 (unsigned long long) segment->seq);
        (void) unlink(name);
    }

    apikey_marks_free(&segment->marks);
    spool->n--;
    memmove(segment, segment + 1, (spool->n - i) * sizeof(apikey_segment_t));
}


bool
apikey_spool_count(apikey_segment_t *segment, const uint8_t *data, size_t len)
{
    size_t          pos;
    apikey_frame_t  frame;

    for (pos = 0; pos < len; pos += sizeof(apikey_frame_t) + frame.size) {
        memcpy(&frame, data + pos, sizeof(apikey_frame_t));

        if (!apikey_marks_raise(&segment->marks, frame.stream, frame.epoch,
                                frame.first + frame.count - 1))
        {
            return false;
        }
    }

    return true;
}


static apikey_spool_e
apikey_spool_new(apikey_spool_t *spool, int64_t now)
{
    int                fd, err;
    uint64_t           seq;
    apikey_segment_t  *segment;

    seq = spool->seq + 1;

    fd = apikey_spool_file(spool, seq, O_RDWR|O_CREAT|O_EXCL);
    if (fd == -1) {
        spool->seq += errno == EEXIST;
        return apikey_spool_fail(spool, "open()");
    }

    spool->seq = seq;

    segment = apikey_spool_add(spool, seq);
    if (segment == NULL) {
        (void) close(fd);
        return apikey_spool_fail(spool, "malloc()");
    }

    segment->bytes = spool->segment_size;
    segment->created = now;
    segment->written = now;

    err = posix_fallocate(fd, 0, (off_t) segment->bytes);

    if (err) {
        errno = err;
        (void) apikey_spool_fail(spool, "posix_fallocate()");
        goto failed;
    }

    if (!apikey_spool_begin(spool, fd, segment)) {
        (void) apikey_spool_fail(spool, "fsync()");
        goto failed;
    }

    spool->fd = fd;
    apikey_spool_pack_begin(spool);

    return APIKEY_SPOOL_OK;

failed:

    (void) close(fd);
    apikey_spool_remove(spool, spool->n - 1);

    return APIKEY_SPOOL_FAILED;
}


/* The header, and the file's name, on disk. */

static bool
apikey_spool_begin(apikey_spool_t *spool, int fd,
    const apikey_segment_t *segment)
{
    int                    dir;
    bool                   synced;
    apikey_spool_header_t  header;

    memset(&header, 0, sizeof(header));
    header.magic = APIKEY_SPOOL_MAGIC;
    header.layout = APIKEY_SPOOL_LAYOUT;
    header.seq = segment->seq;
    header.created = segment->created;
    memcpy(header.node, spool->node, 16);
    header.crc = apikey_spool_header_crc(header);

    if (pwrite(fd, &header, sizeof(header), 0) != (ssize_t) sizeof(header)
        || fsync(fd) == -1)
    {
        return false;
    }

    dir = open(spool->dir, O_RDONLY|O_DIRECTORY|O_CLOEXEC);
    if (dir == -1) {
        return false;
    }

    synced = fsync(dir) == 0;
    (void) close(dir);

    return synced;
}


static bool
apikey_spool_room(apikey_spool_t *spool, const apikey_marks_t *shipped)
{
    unsigned  i;
    uint64_t  bytes;

    for ( ;; ) {
        bytes = spool->segment_size;

        for (i = 0; i < spool->n; i++) {
            bytes += spool->segment[i].bytes;
        }

        if (bytes <= spool->limit) {
            return true;
        }

        if (spool->n == 0
            || !apikey_spool_shipped(&spool->segment[0], shipped))
        {
            return false;
        }

        apikey_spool_remove(spool, 0);
    }
}


static apikey_spool_e
apikey_spool_finish(apikey_spool_t *spool)
{
    apikey_segment_t  *segment;

    if (spool->fd == -1) {
        return APIKEY_SPOOL_OK;
    }

    if (apikey_spool_sync(spool) != APIKEY_SPOOL_OK) {
        return APIKEY_SPOOL_FAILED;
    }

    segment = &spool->segment[spool->n - 1];

    if (ftruncate(spool->fd, (off_t) segment->end) == 0) {
        segment->bytes = segment->end;
    }

    (void) close(spool->fd);
    spool->fd = -1;

    return APIKEY_SPOOL_OK;
}


uint32_t
apikey_spool_header_crc(apikey_spool_header_t header)
{
    header.crc = 0;

    return apikey_crc32c(0, &header, sizeof(header));
}
