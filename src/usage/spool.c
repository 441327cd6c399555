
/*
 * Writing, finding again, reading and deleting segments of the spool.
 *
 * Plain C; blocks.  Memory: the list of segments, the buffer of open().
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
#include "usage/spool.h"


typedef struct {
    uint64_t   magic;
    uint32_t   layout;
    uint32_t   crc;              /* of the header with crc 0 */
    uint64_t   seq;
    int64_t    created;
    uint8_t    node[16];
    uint8_t    reserved[16];
} apikey_spool_header_t;


static apikey_spool_e apikey_spool_fail(apikey_spool_t *spool,
    const char *what);
static int apikey_spool_file(apikey_spool_t *spool, uint64_t seq, int flags);
static int apikey_spool_compare(const void *one, const void *two);
static apikey_segment_t *apikey_spool_add(apikey_spool_t *spool,
    uint64_t seq);
static void apikey_spool_remove(apikey_spool_t *spool, unsigned i);
static apikey_spool_e apikey_spool_scan(apikey_spool_t *spool,
    apikey_segment_t *segment, uint8_t *buf);
static apikey_spool_e apikey_spool_new(apikey_spool_t *spool, int64_t now);
static bool apikey_spool_room(apikey_spool_t *spool,
    const apikey_marks_t *shipped);
static bool apikey_spool_shipped(const apikey_segment_t *segment,
    const apikey_marks_t *shipped);
static void apikey_spool_finish(apikey_spool_t *spool);
static bool apikey_spool_count(apikey_segment_t *segment, const uint8_t *data,
    size_t len);
static size_t apikey_spool_sound(apikey_segment_t *segment, uint8_t *buf,
    size_t len, bool last, size_t *used);
static uint32_t apikey_spool_header_crc(apikey_spool_header_t header);


apikey_spool_e
apikey_spool_open(apikey_spool_t *spool, const char *dir,
    const uint8_t node[16], uint64_t limit)
{
    DIR                *d;
    char               *end;
    uint8_t            *buf;
    unsigned            i;
    uint64_t            seq;
    struct dirent      *entry;
    apikey_spool_e      rc;

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

    d = opendir(dir);
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

    buf = malloc(APIKEY_SPOOL_CHUNK);
    if (buf == NULL) {
        return apikey_spool_fail(spool, "malloc()");
    }

    rc = APIKEY_SPOOL_OK;

    for (i = spool->n; i-- > 0; /* void */) {
        if (apikey_spool_scan(spool, &spool->segment[i], buf)
            != APIKEY_SPOOL_OK)
        {
            rc = APIKEY_SPOOL_FAILED;    /* the others may be sound */
        }

        if (spool->segment[i].marks.n == 0) {
            apikey_spool_remove(spool, i);
        }
    }

    free(buf);

    return rc;
}


void
apikey_spool_close(apikey_spool_t *spool)
{
    unsigned  i;

    apikey_spool_finish(spool);

    for (i = 0; i < spool->n; i++) {
        apikey_marks_free(&spool->segment[i].marks);
    }

    free(spool->segment);
    spool->segment = NULL;
    spool->n = 0;
    spool->size = 0;
}


apikey_spool_e
apikey_spool_append(apikey_spool_t *spool, const uint8_t *data, size_t len,
    int64_t now, const apikey_marks_t *shipped)
{
    size_t             done;
    ssize_t            n;
    apikey_spool_e     rc;
    apikey_segment_t  *segment;

    if (spool->fd != -1) {
        segment = &spool->segment[spool->n - 1];

        if (segment->end + len > segment->bytes
            || now - segment->created > APIKEY_SPOOL_AGE)
        {
            apikey_spool_finish(spool);
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

    for (done = 0; done < len; done += (size_t) n) {
        n = pwrite(spool->fd, data + done, len - done,
                   (off_t) (segment->end + done));

        if (n == -1 && errno == EINTR) {
            n = 0;
            continue;
        }

        if (n <= 0) {
            (void) apikey_spool_fail(spool, "pwrite()");
            goto failed;
        }
    }

    if (fdatasync(spool->fd) == -1) {
        (void) apikey_spool_fail(spool, "fdatasync()");
        goto failed;
    }

    if (!apikey_spool_count(segment, data, len)) {
        (void) apikey_spool_fail(spool, "malloc()");
        goto failed;
    }

    segment->end += len;
    segment->written = now;

    return APIKEY_SPOOL_OK;

failed:

    /* a failed sync may have dropped pages that look clean ever after */

    (void) close(spool->fd);
    spool->fd = -1;

    return APIKEY_SPOOL_FAILED;
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
apikey_spool_read(apikey_spool_t *spool, apikey_cursor_t *cursor,
    uint8_t *buf, size_t size, size_t *len)
{
    int                fd;
    size_t             used, want;
    ssize_t            n;
    unsigned           i;
    apikey_segment_t  *segment;

    *len = 0;

    for (i = 0; i < spool->n; i++) {
        segment = &spool->segment[i];

        if (segment->seq < cursor->seq) {
            continue;
        }

        if (segment->seq > cursor->seq) {
            cursor->seq = segment->seq;
            cursor->offset = APIKEY_SPOOL_HEADER;
        }

        while (cursor->offset < segment->end) {
            fd = apikey_spool_file(spool, segment->seq, O_RDONLY);
            if (fd == -1) {
                return apikey_spool_fail(spool, "open()");
            }

            want = segment->end - cursor->offset;
            if (want > size) {
                want = size;
            }

            n = pread(fd, buf, want, (off_t) cursor->offset);
            (void) close(fd);

            if (n == -1) {
                return apikey_spool_fail(spool, "pread()");
            }

            *len = apikey_spool_sound(NULL, buf, (size_t) n,
                                      cursor->offset + (size_t) n
                                      >= segment->end, &used);

            cursor->offset += n == 0 ? segment->end - cursor->offset : used;

            if (*len) {
                return APIKEY_SPOOL_OK;
            }
        }
    }

    return APIKEY_SPOOL_OK;
}


void
apikey_spool_seek(const apikey_spool_t *spool, apikey_cursor_t *cursor,
    const apikey_marks_t *shipped)
{
    unsigned  i;

    cursor->seq = 0;
    cursor->offset = APIKEY_SPOOL_HEADER;

    for (i = 0; i < spool->n; i++) {
        cursor->seq = spool->segment[i].seq;
        cursor->offset = APIKEY_SPOOL_HEADER;

        if (!apikey_spool_shipped(&spool->segment[i], shipped)) {
            return;
        }

        cursor->offset = spool->segment[i].end;
    }
}


uint64_t
apikey_spool_last(const apikey_spool_t *spool, uint32_t stream,
    uint64_t epoch)
{
    unsigned  i;
    uint64_t  n, last;

    last = 0;

    for (i = 0; i < spool->n; i++) {
        n = apikey_marks_get(&spool->segment[i].marks, stream, epoch);

        if (n > last) {
            last = n;
        }
    }

    return last;
}


bool
apikey_spool_at_end(const apikey_spool_t *spool,
    const apikey_cursor_t *cursor)
{
    return apikey_spool_left(spool, cursor) == 0;
}


uint64_t
apikey_spool_left(const apikey_spool_t *spool, const apikey_cursor_t *cursor)
{
    unsigned                 i;
    uint64_t                 left;
    const apikey_segment_t  *segment;

    left = 0;

    for (i = spool->n; i-- > 0; /* void */) {
        segment = &spool->segment[i];

        if (segment->seq < cursor->seq) {
            break;
        }

        if (segment->seq > cursor->seq) {
            left += segment->end - APIKEY_SPOOL_HEADER;

        } else if (segment->end > cursor->offset) {
            left += segment->end - cursor->offset;
        }
    }

    return left;
}


static apikey_spool_e
apikey_spool_fail(apikey_spool_t *spool, const char *what)
{
    spool->err = errno;
    spool->what = what;

    return APIKEY_SPOOL_FAILED;
}


static int
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


static apikey_spool_e
apikey_spool_scan(apikey_spool_t *spool, apikey_segment_t *segment,
    uint8_t *buf)
{
    int                    fd;
    size_t                 used, n;
    ssize_t                got;
    uint64_t               offset, size;
    struct stat            st;
    apikey_spool_header_t  header;

    fd = apikey_spool_file(spool, segment->seq, O_RDWR);
    if (fd == -1) {
        return apikey_spool_fail(spool, "open()");
    }

    memset(&header, 0, sizeof(header));

    if (fstat(fd, &st) == -1
        || pread(fd, &header, sizeof(header), 0) == -1)
    {
        (void) close(fd);
        return apikey_spool_fail(spool, "pread()");
    }

    if (header.magic != 0
        && (header.magic != APIKEY_SPOOL_MAGIC
            || header.layout != APIKEY_SPOOL_LAYOUT
            || header.crc != apikey_spool_header_crc(header)
            || memcmp(header.node, spool->node, 16) != 0))
    {
        spool->foreign++;
        (void) close(fd);
        return APIKEY_SPOOL_OK;
    }

    size = (uint64_t) st.st_size;
    segment->bytes = size ? size : 1;
    segment->created = header.created;
    segment->written = (int64_t) st.st_mtime * 1000000;

    for (offset = APIKEY_SPOOL_HEADER; offset < size; offset += used) {
        got = pread(fd, buf, APIKEY_SPOOL_CHUNK, (off_t) offset);

        if (got <= 0) {
            break;
        }

        n = apikey_spool_sound(segment, buf, (size_t) got,
                               offset + (size_t) got >= size, &used);

        if (!apikey_spool_count(segment, buf, n)) {
            errno = ENOMEM;
            (void) close(fd);
            return apikey_spool_fail(spool, "malloc()");
        }

        if (n == 0 && used == 0) {
            break;
        }

        if (n) {
            segment->end = offset + used;
        }
    }

    /* room that was only set aside */

    if (segment->bad == 0 && segment->marks.n && segment->end < size
        && ftruncate(fd, (off_t) segment->end) == 0)
    {
        segment->bytes = segment->end;
    }

    (void) close(fd);

    return APIKEY_SPOOL_OK;
}


/*
 * Moves the sound frames of buf together at its start and returns their
 * length.  *used: how far the walk came; what follows is zeros, or a frame
 * that goes on behind the buffer.
 */

static size_t
apikey_spool_sound(apikey_segment_t *segment, uint8_t *buf, size_t len,
    bool last, size_t *used)
{
    size_t           pos, out, size;
    apikey_frame_t   frame;
    apikey_frame_e   rc;
    const uint8_t   *next;

    out = 0;
    pos = 0;

    while (pos < len) {
        rc = apikey_frame_check(buf + pos, len - pos, &frame, true);

        if (rc == APIKEY_FRAME_OK) {
            size = sizeof(apikey_frame_t) + frame.size;
            memmove(buf + out, buf + pos, size);
            out += size;
            pos += size;
            continue;
        }

        if ((rc == APIKEY_FRAME_NONE && segment)
            || (len - pos < sizeof(apikey_frame_t) && !last)
            || (rc == APIKEY_FRAME_SHORT && !last))
        {
            break;
        }

        /* the first byte of the magic, wherever the next frame may begin */

        next = memchr(buf + pos + 1, APIKEY_FRAME_MAGIC & 0xff,
                      len - pos - 1);
        size = next ? (size_t) (next - buf) - pos : len - pos;

        if (segment) {
            segment->bad += size;
        }

        pos += size;
    }

    *used = pos;

    return out;
}


static bool
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
    int                    fd, err, dir;
    uint64_t               seq;
    apikey_segment_t      *segment;
    apikey_spool_header_t  header;

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

    memset(&header, 0, sizeof(header));
    header.magic = APIKEY_SPOOL_MAGIC;
    header.layout = APIKEY_SPOOL_LAYOUT;
    header.seq = seq;
    header.created = now;
    memcpy(header.node, spool->node, 16);
    header.crc = apikey_spool_header_crc(header);

    err = posix_fallocate(fd, 0, (off_t) segment->bytes);

    if (err) {
        errno = err;
        (void) apikey_spool_fail(spool, "posix_fallocate()");
        goto failed;
    }

    if (pwrite(fd, &header, sizeof(header), 0) != (ssize_t) sizeof(header)
        || fsync(fd) == -1)
    {
        (void) apikey_spool_fail(spool, "fsync()");
        goto failed;
    }

    dir = open(spool->dir, O_RDONLY|O_DIRECTORY|O_CLOEXEC);

    if (dir == -1 || fsync(dir) == -1) {
        (void) apikey_spool_fail(spool, "fsync()");

        if (dir != -1) {
            (void) close(dir);
        }

        goto failed;
    }

    (void) close(dir);
    spool->fd = fd;

    return APIKEY_SPOOL_OK;

failed:

    (void) close(fd);
    apikey_spool_remove(spool, spool->n - 1);

    return APIKEY_SPOOL_FAILED;
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


static bool
apikey_spool_shipped(const apikey_segment_t *segment,
    const apikey_marks_t *shipped)
{
    unsigned        i;
    apikey_mark_t  *mark;

    for (i = 0; i < segment->marks.n; i++) {
        mark = &segment->marks.mark[i];

        if (apikey_marks_get(shipped, mark->stream, mark->epoch)
            < mark->number)
        {
            return false;
        }
    }

    return true;
}


static void
apikey_spool_finish(apikey_spool_t *spool)
{
    apikey_segment_t  *segment;

    if (spool->fd == -1) {
        return;
    }

    segment = &spool->segment[spool->n - 1];

    if (ftruncate(spool->fd, (off_t) segment->end) == 0) {
        segment->bytes = segment->end;
    }

    (void) close(spool->fd);
    spool->fd = -1;
}


static uint32_t
apikey_spool_header_crc(apikey_spool_header_t header)
{
    header.crc = 0;

    return apikey_crc32c(0, &header, sizeof(header));
}
