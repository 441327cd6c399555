
/*
 * Looking through segments, when the spool is opened and after damage: how far
 * each stream comes, and where the sound frames end.
 *
 * Nothing is deleted or cut off for what could not be read: the segment is
 * kept, and looked through again at the next start.
 *
 * Plain C; blocks.  Memory: the spool's buffer.
 */


#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "usage/spool_file.h"


static apikey_spool_e apikey_spool_walk(apikey_spool_t *spool,
    apikey_segment_t *segment, int fd, uint64_t size);
static bool apikey_spool_walk_chunk(apikey_spool_t *spool,
    apikey_segment_t *segment, size_t got, uint64_t offset, uint64_t size,
    size_t *len);
static bool apikey_spool_zeros(apikey_spool_t *spool, size_t got, int fd,
    uint64_t *offset);
static bool apikey_spool_reach(apikey_spool_t *spool,
    apikey_segment_t *segment, const uint8_t *data,
    const apikey_frame_t *frame);


apikey_spool_e
apikey_spool_scan(apikey_spool_t *spool, apikey_segment_t *segment)
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

    if (header.magic != 0 && !apikey_spool_header_ours(&header, spool->node)) {
        spool->foreign++;
        spool->newer += apikey_spool_header_newer(&header, spool->node);
        (void) close(fd);
        return APIKEY_SPOOL_OK;
    }

    size = (uint64_t) st.st_size;
    segment->bytes = size ? size : 1;
    segment->created = header.created;
    segment->written = (int64_t) st.st_mtime * 1000000;

    if (apikey_spool_walk(spool, segment, fd, size) != APIKEY_SPOOL_OK
        || (segment->bad
            && apikey_spool_recount(spool, segment) != APIKEY_SPOOL_OK))
    {
        (void) close(fd);
        return APIKEY_SPOOL_FAILED;
    }

    /* its writer may have been killed before it synced */

    if (segment->seq == spool->seq && fdatasync(fd) == -1) {
        (void) close(fd);
        return apikey_spool_fail(spool, "fdatasync()");
    }

    /* room that was only set aside */

    if (segment->bad == 0 && !segment->unread && segment->marks.n
        && segment->end < size
        && ftruncate(fd, (off_t) segment->end) == 0)
    {
        segment->bytes = segment->end;
    }

    (void) close(fd);

    return APIKEY_SPOOL_OK;
}


apikey_spool_e
apikey_spool_recount(apikey_spool_t *spool, apikey_segment_t *segment)
{
    int              fd;
    uint64_t         bad, end;
    apikey_marks_t   marks, other;
    apikey_spool_e   rc;
    apikey_cursor_t  start;

    fd = apikey_spool_file(spool, segment->seq, O_RDONLY);
    if (fd == -1) {
        return apikey_spool_fail(spool, "open()");
    }

    start.seq = segment->seq;
    start.offset = APIKEY_SPOOL_HEADER;
    start.events = 0;

    if (apikey_spool_follow(spool, fd, &start) != APIKEY_SPOOL_OK) {
        (void) close(fd);
        return APIKEY_SPOOL_FAILED;
    }

    bad = segment->bad;
    end = segment->end;
    segment->damaged = true;
    marks = segment->marks;
    memset(&segment->marks, 0, sizeof(apikey_marks_t));

    rc = apikey_spool_walk(spool, segment, fd, segment->end);

    if (rc != APIKEY_SPOOL_OK) {
        other = marks;
        marks = segment->marks;
        segment->marks = other;
    }

    apikey_marks_free(&marks);
    segment->damaged = rc != APIKEY_SPOOL_OK;
    segment->bad = bad;
    segment->end = end;
    spool->reader.seq = 0;
    spool->reader.missing = false;
    (void) close(fd);

    return rc;
}


static apikey_spool_e
apikey_spool_walk(apikey_spool_t *spool, apikey_segment_t *segment, int fd,
    uint64_t size)
{
    size_t    len;
    ssize_t   got;
    uint64_t  offset, next;

    offset = APIKEY_SPOOL_HEADER;

    while (offset < size) {
        got = pread(fd, spool->buf, APIKEY_SPOOL_CHUNK, (off_t) offset);

        if (got == 0) {
            break;
        }

        if (got == -1) {
            segment->unread = true;
            break;
        }

        if (!apikey_spool_walk_chunk(spool, segment, (size_t) got, offset,
                                     size, &len))
        {
            segment->unread = true;
            errno = ENOMEM;
            return apikey_spool_fail(spool, "malloc()");
        }

        offset += len;

        if (len) {
            continue;
        }

        next = offset;

        if (!apikey_spool_zeros(spool, (size_t) got, fd, &next)) {
            segment->unread = true;
            break;
        }

        if (next == offset) {

            /* the rest of the frame that begins here is not to be had */

            if (offset + (uint64_t) got < size) {
                segment->unread = true;
                break;
            }

            segment->bad += size - offset;
            break;
        }

        if (next < size) {
            segment->bad += next - offset;
        }

        offset = next;
    }

    return APIKEY_SPOOL_OK;
}


/* len: what was looked at; 0: there is no more to find in this chunk. */

static bool
apikey_spool_walk_chunk(apikey_spool_t *spool, apikey_segment_t *segment,
    size_t got, uint64_t offset, uint64_t size, size_t *len)
{
    apikey_frame_t  frame;

    *len = 0;

    while (apikey_spool_find(segment, spool->buf, got, offset + got >= size,
                             len, &frame))
    {
        if (!apikey_spool_reach(spool, segment, spool->buf + *len, &frame)) {
            return false;
        }

        *len += sizeof(apikey_frame_t) + frame.size;
        segment->end = offset + *len;
    }

    return true;
}


/*
 * Where the zeros end that begin in spool->buf, at *offset of the file: a
 * clean end has nothing behind it.
 */

static bool
apikey_spool_zeros(apikey_spool_t *spool, size_t got, int fd,
    uint64_t *offset)
{
    size_t   i;
    ssize_t  n;

    n = (ssize_t) got;

    while (n > 0) {
        for (i = 0; i < (size_t) n; i++) {
            if (spool->buf[i]) {
                *offset += i;
                return true;
            }
        }

        *offset += (uint64_t) n;
        n = pread(fd, spool->buf, APIKEY_SPOOL_CHUNK, (off_t) *offset);
    }

    return n == 0;
}


/* Of a damaged segment only what can be read counts. */

static bool
apikey_spool_reach(apikey_spool_t *spool, apikey_segment_t *segment,
    const uint8_t *data, const apikey_frame_t *frame)
{
    uint64_t  last;

    last = frame->first + frame->count - 1;

    if (segment->damaged && frame->magic == APIKEY_FRAME_PACKED
        && !apikey_spool_readable(spool, data, &last))
    {
        return false;
    }

    return last == 0
           || apikey_marks_raise(&segment->marks, frame->stream, frame->epoch,
                                 last);
}
