
/*
 * Reading segments of the spool, whatever has happened to them.
 *
 * Plain C; blocks; no allocation.
 */


#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "usage/spool_file.h"


static bool apikey_spool_walk(apikey_segment_t *segment, int fd,
    uint8_t *buf, uint64_t size);
static size_t apikey_spool_sound(apikey_segment_t *segment, uint8_t *buf,
    size_t len, bool last, size_t *used);


bool
apikey_spool_whose(const char *dir, uint8_t node[16])
{
    DIR                    *d;
    int                     fd;
    bool                    known;
    char                    name[1024];
    uint64_t                newest;
    struct dirent          *entry;
    apikey_spool_header_t   header;

    d = opendir(dir);
    if (d == NULL) {
        return false;
    }

    known = false;
    newest = 0;

    while ((entry = readdir(d)) != NULL) {
        if (strncmp(entry->d_name, "spool.", 6) != 0
            || snprintf(name, sizeof(name), "%s/%s", dir, entry->d_name)
               >= (int) sizeof(name))
        {
            continue;
        }

        fd = open(name, O_RDONLY|O_CLOEXEC|O_NOFOLLOW);
        if (fd == -1) {
            continue;
        }

        if (pread(fd, &header, sizeof(header), 0) == (ssize_t) sizeof(header)
            && header.magic == APIKEY_SPOOL_MAGIC
            && header.crc == apikey_spool_header_crc(header)
            && header.seq >= newest)
        {
            memcpy(node, header.node, 16);
            newest = header.seq;
            known = true;
        }

        (void) close(fd);
    }

    (void) closedir(d);

    return known;
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


apikey_spool_e
apikey_spool_scan(apikey_spool_t *spool, apikey_segment_t *segment,
    uint8_t *buf)
{
    int                    fd;
    uint64_t               size;
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

    if (!apikey_spool_walk(segment, fd, buf, size)) {
        errno = ENOMEM;
        (void) close(fd);
        return apikey_spool_fail(spool, "malloc()");
    }

    /* its writer may have been killed before it synced */

    if (segment->seq == spool->seq && fdatasync(fd) == -1) {
        (void) close(fd);
        return apikey_spool_fail(spool, "fdatasync()");
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


static bool
apikey_spool_walk(apikey_segment_t *segment, int fd, uint8_t *buf,
    uint64_t size)
{
    size_t    used, n;
    ssize_t   got;
    uint64_t  offset;

    for (offset = APIKEY_SPOOL_HEADER; offset < size; offset += used) {
        got = pread(fd, buf, APIKEY_SPOOL_CHUNK, (off_t) offset);

        if (got <= 0) {
            break;
        }

        n = apikey_spool_sound(segment, buf, (size_t) got,
                               offset + (size_t) got >= size, &used);

        if (!apikey_spool_count(segment, buf, n)) {
            return false;
        }

        if (used == 0) {
            break;
        }

        if (n) {
            segment->end = offset + used;
        }
    }

    return true;
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


bool
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
