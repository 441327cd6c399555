
/*
 * Reading a journal: the spool's segments as they lie on disk.
 *
 * A segment is read whole (16 MB at most) and gone over like the module does:
 * what is damaged is passed over at the next sound frame.
 */


#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/uuid.h"
#include "usage/spool_file.h"

#include "journal.h"


#define APIKEY_JOURNAL_RINGS  256


static bool apikey_journal_node(apikey_journal_t *j);
static void apikey_journal_name(apikey_journal_t *j);
static bool apikey_journal_list(apikey_journal_t *j);
static int apikey_journal_compare(const void *one, const void *two);
static int apikey_journal_compare_range(const void *one, const void *two);
static bool apikey_journal_segment(apikey_journal_t *j,
    apikey_journal_segment_t *segment);
static uint8_t *apikey_journal_load(apikey_journal_t *j,
    apikey_journal_segment_t *segment);
static bool apikey_journal_walk(apikey_journal_t *j,
    apikey_journal_segment_t *segment, const uint8_t *buf);
static size_t apikey_journal_next(const uint8_t *buf, size_t pos, size_t len);
static bool apikey_journal_frame(apikey_journal_t *j,
    apikey_journal_segment_t *segment, const uint8_t *buf);
static bool apikey_journal_packed(apikey_journal_t *j,
    apikey_journal_segment_t *segment, const apikey_frame_t *frame,
    const uint8_t *buf);
static bool apikey_journal_add(apikey_journal_t *j, uint32_t number,
    uint64_t epoch, uint64_t first, uint64_t last);


bool
apikey_journal_open(apikey_journal_t *j, const apikey_ctl_args_t *args)
{
    const char  *base;
    char         text[64];

    memset(j, 0, sizeof(apikey_journal_t));

    snprintf(text, sizeof(text), "/dev/shm/apikey-%d", (int) getuid());

    base = args->ring ? args->ring : getuid() == 0 ? "/run/apikey" : text;

    if (snprintf(j->dir, sizeof(j->dir), "%s", args->operand[0])
        >= (int) sizeof(j->dir) - 32)
    {
        apikey_ctl_error("the name of the directory is too long");
        return false;
    }

    j->unpacker = apikey_unpacker_create();

    if (j->unpacker == NULL) {
        apikey_ctl_error("out of memory");
        return false;
    }

    if (!apikey_journal_node(j)) {
        return false;
    }

    if (snprintf(j->rings, sizeof(j->rings), "%s/%s", base, j->id)
        >= (int) sizeof(j->rings))
    {
        apikey_ctl_error("the name of the ring's directory is too long");
        return false;
    }

    return apikey_journal_list(j);
}


void
apikey_journal_close(apikey_journal_t *j)
{
    size_t  i;

    for (i = 0; i < j->nstreams; i++) {
        free(j->stream[i].range);
    }

    free(j->stream);
    free(j->segment);
    apikey_unpacker_free(j->unpacker);
}


static bool
apikey_journal_node(apikey_journal_t *j)
{
    char    name[sizeof(j->dir) + 32];
    FILE   *f;
    size_t  n;

    snprintf(name, sizeof(name), "%s/node", j->dir);

    f = fopen(name, "r");
    n = f ? fread(j->id, 1, APIKEY_UUID_TEXT_LEN, f) : 0;

    if (f == NULL) {
        apikey_ctl_error("cannot read \"%s\": %s", name, strerror(errno));
        return false;
    }

    fclose(f);

    if (n != APIKEY_UUID_TEXT_LEN
        || !apikey_uuid_parse(j->node, j->id, APIKEY_UUID_TEXT_LEN))
    {
        apikey_ctl_error("\"%s\" holds no UUID", name);
        return false;
    }

    apikey_journal_name(j);

    return true;
}


/* Journals of older versions have none. */

static void
apikey_journal_name(apikey_journal_t *j)
{
    char    name[sizeof(j->dir) + 32];
    FILE   *f;
    size_t  n;

    snprintf(name, sizeof(name), "%s/name", j->dir);

    f = fopen(name, "r");
    n = f ? fread(j->name, 1, sizeof(j->name) - 1, f) : 0;

    if (f) {
        fclose(f);
    }

    j->name[n] = '\0';
    j->name[strcspn(j->name, "\n")] = '\0';

    if (j->name[0] == '\0') {
        memcpy(j->name, j->id, sizeof(j->id));
    }
}


static bool
apikey_journal_list(apikey_journal_t *j)
{
    DIR                       *d;
    char                      *end;
    size_t                     size;
    uint64_t                   seq;
    struct dirent             *entry;
    apikey_journal_segment_t  *segment;

    d = opendir(j->dir);
    if (d == NULL) {
        apikey_ctl_error("cannot read \"%s\": %s", j->dir, strerror(errno));
        return false;
    }

    size = 0;

    while ((entry = readdir(d)) != NULL) {
        if (strncmp(entry->d_name, "spool.", 6) != 0
            || strlen(entry->d_name) != 22)
        {
            continue;
        }

        seq = strtoull(entry->d_name + 6, &end, 16);
        if (*end != '\0') {
            continue;
        }

        if (j->nsegments == size) {
            size = size ? size * 2 : 16;

            segment = realloc(j->segment, size * sizeof(*segment));
            if (segment == NULL) {
                apikey_ctl_error("out of memory");
                closedir(d);
                return false;
            }

            j->segment = segment;
        }

        segment = &j->segment[j->nsegments++];
        memset(segment, 0, sizeof(*segment));
        segment->seq = seq;
    }

    closedir(d);

    if (j->nsegments) {
        qsort(j->segment, j->nsegments, sizeof(*j->segment),
              apikey_journal_compare);
    }

    return true;
}


static int
apikey_journal_compare(const void *one, const void *two)
{
    const apikey_journal_segment_t  *a, *b;

    a = one;
    b = two;

    return a->seq < b->seq ? -1 : a->seq > b->seq;
}


bool
apikey_journal_read(apikey_journal_t *j)
{
    size_t    i;
    uint32_t  n;

    for (i = 0; i < j->nsegments; i++) {
        if (!apikey_journal_segment(j, &j->segment[i])) {
            return false;
        }
    }

    for (n = 0; n < APIKEY_JOURNAL_RINGS; n++) {
        if (!apikey_journal_ring(j, n)) {
            return false;
        }
    }

    return true;
}


static bool
apikey_journal_segment(apikey_journal_t *j, apikey_journal_segment_t *segment)
{
    bool      ok;
    uint8_t  *buf;

    buf = apikey_journal_load(j, segment);

    /* one that was deleted meanwhile had been shipped */

    if (buf == NULL) {
        return true;
    }

    apikey_unpacker_reset(j->unpacker);

    ok = segment->foreign ? true : apikey_journal_walk(j, segment, buf);

    free(buf);

    return ok;
}


static uint8_t *
apikey_journal_load(apikey_journal_t *j, apikey_journal_segment_t *segment)
{
    int                    fd;
    char                   name[sizeof(j->dir) + 32];
    ssize_t                n;
    uint8_t               *buf;
    struct stat            st;
    apikey_spool_header_t  header;

    snprintf(name, sizeof(name), "%s/spool.%016llx", j->dir,
             (unsigned long long) segment->seq);

    fd = open(name, O_RDONLY|O_CLOEXEC|O_NOFOLLOW);

    if (fd == -1 || fstat(fd, &st) == -1
        || (buf = calloc(1, (size_t) st.st_size + sizeof(header))) == NULL)
    {
        segment->unreadable = (errno != ENOENT);
        if (segment->unreadable) {
            apikey_ctl_error("cannot read \"%s\": %s", name, strerror(errno));
        }
        if (fd != -1) {
            close(fd);
        }
        return NULL;
    }

    n = pread(fd, buf, (size_t) st.st_size, 0);
    close(fd);

    segment->bytes = n > 0 ? (uint64_t) n : 0;
    memcpy(&header, buf, sizeof(header));

    /* no header: set aside, and nothing written yet */

    segment->foreign = header.magic != 0
                       && !apikey_spool_header_ours(&header, j->node);
    segment->created = segment->foreign ? 0 : header.created;

    return buf;
}


static bool
apikey_journal_walk(apikey_journal_t *j, apikey_journal_segment_t *segment,
    const uint8_t *buf)
{
    size_t          pos, next, len;
    apikey_frame_t  frame;

    len = segment->bytes;
    pos = sizeof(apikey_spool_header_t);
    segment->used = pos;

    while (pos < len) {
        if (apikey_frame_check(buf + pos, len - pos, &frame, true)
            == APIKEY_FRAME_OK)
        {
            if (!apikey_journal_frame(j, segment, buf + pos)) {
                return false;
            }

            pos += sizeof(apikey_frame_t) + frame.size;
            segment->used = pos;
            continue;
        }

        next = apikey_journal_next(buf, pos, len);

        if (next < len) {
            segment->bad += next - pos;
            pos = next;
            continue;
        }

        /* zeros are room; what else stands there is a frame cut off */

        while (len > pos && buf[len - 1] == 0) {
            len--;
        }

        segment->tail = len - pos;
        break;
    }

    return true;
}


/* Where the next sound frame begins; len: nowhere. */

static size_t
apikey_journal_next(const uint8_t *buf, size_t pos, size_t len)
{
    apikey_frame_t  frame;
    const uint8_t  *p;

    for (pos++; pos < len; pos++) {
        p = memchr(buf + pos, APIKEY_FRAME_MAGIC & 0xff, len - pos);

        if (p == NULL) {
            return len;
        }

        pos = (size_t) (p - buf);

        if (apikey_frame_check(p, len - pos, &frame, true)
            == APIKEY_FRAME_OK)
        {
            return pos;
        }
    }

    return len;
}


static bool
apikey_journal_frame(apikey_journal_t *j, apikey_journal_segment_t *segment,
    const uint8_t *buf)
{
    int              rc;
    apikey_event_t   event;
    apikey_frame_t   frame;

    memcpy(&frame, buf, sizeof(apikey_frame_t));
    segment->frames++;

    if (frame.magic == APIKEY_FRAME_PACKED) {
        return apikey_journal_packed(j, segment, &frame, buf);
    }

    segment->events += frame.count;
    apikey_frame_open(&j->decoder, buf);

    while ((rc = apikey_frame_next(&j->decoder, &event)) == 1) {
        if (j->event && !j->event(j, &frame, &event, j->decoder.number)) {
            return false;
        }
    }

    segment->nonsense += (rc == -1);

    return apikey_journal_add(j, frame.stream, frame.epoch, frame.first,
                              frame.first + frame.count - 1);
}


/* Some of its events may need entries of frames that are damaged. */

static bool
apikey_journal_packed(apikey_journal_t *j, apikey_journal_segment_t *segment,
    const apikey_frame_t *frame, const uint8_t *buf)
{
    int              rc;
    uint64_t         number;
    apikey_event_t   event;

    switch (apikey_unpack_open(j->unpacker, buf)) {

    case APIKEY_UNPACK_OK:
        break;

    case APIKEY_UNPACK_BAD:
        segment->nonsense++;
        return true;

    default:
        apikey_ctl_error("out of memory");
        return false;
    }

    while ((rc = apikey_unpack_next(j->unpacker, &event)) > 0) {
        if (rc == 2) {
            segment->missing++;
            continue;
        }

        number = apikey_unpack_number(j->unpacker);
        segment->events++;

        if ((j->event && !j->event(j, frame, &event, number))
            || !apikey_journal_add(j, frame->stream, frame->epoch, number,
                                   number))
        {
            return false;
        }
    }

    segment->nonsense += (rc == -1);

    return true;
}


apikey_journal_stream_t *
apikey_journal_stream(apikey_journal_t *j, uint32_t number, uint64_t epoch)
{
    size_t                    i;
    apikey_journal_stream_t  *stream;

    for (i = 0; i < j->nstreams; i++) {
        if (j->stream[i].number == number && j->stream[i].epoch == epoch) {
            return &j->stream[i];
        }
    }

    stream = realloc(j->stream, (i + 1) * sizeof(*stream));

    if (stream == NULL) {
        apikey_ctl_error("out of memory");
        return NULL;
    }

    j->stream = stream;
    j->nstreams++;

    memset(&stream[i], 0, sizeof(*stream));
    stream[i].number = number;
    stream[i].epoch = epoch;

    return &stream[i];
}


static bool
apikey_journal_add(apikey_journal_t *j, uint32_t number, uint64_t epoch,
    uint64_t first, uint64_t last)
{
    size_t                    size;
    apikey_journal_range_t   *range;
    apikey_journal_stream_t  *stream;

    stream = apikey_journal_stream(j, number, epoch);
    if (stream == NULL) {
        return false;
    }

    range = stream->n ? &stream->range[stream->n - 1] : NULL;

    if (range && first == range->last + 1) {
        range->last = last;
        return true;
    }

    if (stream->n == stream->size) {
        size = stream->size ? stream->size * 2 : 8;

        range = realloc(stream->range, size * sizeof(*range));
        if (range == NULL) {
            apikey_ctl_error("out of memory");
            return false;
        }

        stream->range = range;
        stream->size = size;
    }

    stream->range[stream->n].first = first;
    stream->range[stream->n++].last = last;

    return true;
}


void
apikey_journal_join(apikey_journal_stream_t *stream)
{
    size_t                   i, n;
    apikey_journal_range_t  *range;

    if (stream->n == 0) {
        return;
    }

    range = stream->range;
    qsort(range, stream->n, sizeof(*range), apikey_journal_compare_range);

    for (n = 0, i = 1; i < stream->n; i++) {
        if (range[i].first > range[n].last + 1) {
            range[++n] = range[i];

        } else if (range[i].last > range[n].last) {
            range[n].last = range[i].last;
        }
    }

    stream->n = n + 1;
}


static int
apikey_journal_compare_range(const void *one, const void *two)
{
    const apikey_journal_range_t  *a, *b;

    a = one;
    b = two;

    return a->first < b->first ? -1 : a->first > b->first;
}
