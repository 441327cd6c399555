
/*
 * Reading the spool from a cursor on, whatever has happened to its segments.
 *
 * Plain C; blocks.  Memory: the spool's buffer.
 */


#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "usage/spool_file.h"


static apikey_spool_e apikey_spool_part(apikey_spool_t *spool,
    apikey_segment_t *segment, apikey_cursor_t *cursor, uint8_t *buf,
    size_t size, size_t *len);
static apikey_spool_e apikey_spool_fetch(apikey_spool_t *spool,
    const apikey_segment_t *segment, const apikey_cursor_t *cursor,
    size_t *len);
static bool apikey_spool_header_sound(const apikey_spool_header_t *header,
    const uint8_t node[16]);


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
    unsigned           i;
    apikey_spool_e     rc;
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
            cursor->events = 0;
        }

        while (cursor->offset < segment->end) {
            rc = apikey_spool_part(spool, segment, cursor, buf, size, len);

            if (*len) {
                return APIKEY_SPOOL_OK;
            }

            if (rc != APIKEY_SPOOL_OK) {
                return rc;
            }
        }
    }

    return APIKEY_SPOOL_OK;
}


/* As much of a segment as there is room for on either side. */

static apikey_spool_e
apikey_spool_part(apikey_spool_t *spool, apikey_segment_t *segment,
    apikey_cursor_t *cursor, uint8_t *buf, size_t size, size_t *len)
{
    bool            last;
    size_t          pos, next, n;
    apikey_frame_t  frame;
    apikey_spool_e  rc;

    rc = apikey_spool_fetch(spool, segment, cursor, &n);
    if (rc != APIKEY_SPOOL_OK) {
        return rc;
    }

    if (n == 0) {
        cursor->offset = segment->end;
        cursor->events = 0;
        return APIKEY_SPOOL_OK;
    }

    last = cursor->offset + n >= segment->end;
    pos = 0;
    next = 0;

    while (apikey_spool_find(NULL, spool->buf, n, last, &pos, &frame)) {
        segment->damaged |= pos > next;
        cursor->events = pos ? 0 : cursor->events;

        rc = apikey_spool_unpack(spool, cursor, spool->buf + pos, buf, size,
                                 len);
        if (rc != APIKEY_SPOOL_OK) {
            break;
        }

        pos += sizeof(apikey_frame_t) + frame.size;
        next = pos;
    }

    if (rc == APIKEY_SPOOL_OK) {

        if (pos == 0) {
            errno = EIO;
            return apikey_spool_fail(spool, "pread()");
        }

        cursor->events = 0;
        segment->damaged |= pos > next;
    }

    cursor->offset += pos;
    spool->reader.offset = cursor->offset;
    segment->damaged |= spool->reader.missing;
    spool->reader.missing = false;

    if (segment->damaged && cursor->offset >= segment->end
        && rc == APIKEY_SPOOL_OK)
    {
        rc = apikey_spool_recount(spool, segment);
    }

    return rc == APIKEY_SPOOL_FAILED ? rc : APIKEY_SPOOL_OK;
}


/* What comes at the cursor, into spool->buf. */

static apikey_spool_e
apikey_spool_fetch(apikey_spool_t *spool, const apikey_segment_t *segment,
    const apikey_cursor_t *cursor, size_t *len)
{
    int             fd;
    size_t          want;
    ssize_t         n;
    apikey_spool_e  rc;

    *len = 0;

    fd = apikey_spool_file(spool, segment->seq, O_RDONLY);

    if (fd == -1) {

        /* somebody has deleted it: the gap in the numbers tells */

        return errno == ENOENT ? APIKEY_SPOOL_OK
                               : apikey_spool_fail(spool, "open()");
    }

    rc = apikey_spool_follow(spool, fd, cursor);

    if (rc == APIKEY_SPOOL_OK) {
        want = segment->end - cursor->offset;
        if (want > APIKEY_SPOOL_CHUNK) {
            want = APIKEY_SPOOL_CHUNK;
        }

        n = pread(fd, spool->buf, want, (off_t) cursor->offset);
        *len = (size_t) n;

        if (n == -1) {
            rc = apikey_spool_fail(spool, "pread()");
        }
    }

    (void) close(fd);

    return rc;
}


void
apikey_spool_seek(const apikey_spool_t *spool, apikey_cursor_t *cursor,
    const apikey_marks_t *shipped)
{
    unsigned  i;

    cursor->seq = 0;
    cursor->offset = APIKEY_SPOOL_HEADER;
    cursor->events = 0;

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


bool
apikey_spool_find(apikey_segment_t *segment, const uint8_t *buf, size_t len,
    bool last, size_t *pos, apikey_frame_t *frame)
{
    size_t           size;
    apikey_frame_e   rc;
    const uint8_t   *next;

    while (*pos < len) {
        rc = apikey_frame_check(buf + *pos, len - *pos, frame, true);

        if (rc == APIKEY_FRAME_OK) {
            return true;
        }

        if ((rc == APIKEY_FRAME_NONE && segment)
            || (len - *pos < sizeof(apikey_frame_t) && !last)
            || (rc == APIKEY_FRAME_SHORT && !last))
        {
            return false;
        }

        /* the first byte of the magic, wherever the next frame may begin */

        next = memchr(buf + *pos + 1, APIKEY_FRAME_MAGIC & 0xff,
                      len - *pos - 1);
        size = next ? (size_t) (next - buf) - *pos : len - *pos;

        if (segment) {
            segment->bad += size;
        }

        *pos += size;
    }

    return false;
}


bool
apikey_spool_shipped(const apikey_segment_t *segment,
    const apikey_marks_t *shipped)
{
    unsigned        i;
    apikey_mark_t  *mark;

    if (segment->unread) {
        return false;
    }

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


bool
apikey_spool_header_ours(const apikey_spool_header_t *header,
    const uint8_t node[16])
{
    return header->layout >= 1 && header->layout <= APIKEY_SPOOL_LAYOUT
           && apikey_spool_header_sound(header, node);
}


bool
apikey_spool_header_newer(const apikey_spool_header_t *header,
    const uint8_t node[16])
{
    return header->layout > APIKEY_SPOOL_LAYOUT
           && apikey_spool_header_sound(header, node);
}


static bool
apikey_spool_header_sound(const apikey_spool_header_t *header,
    const uint8_t node[16])
{
    return header->magic == APIKEY_SPOOL_MAGIC
           && header->crc == apikey_spool_header_crc(*header)
           && memcmp(header->node, node, 16) == 0;
}
