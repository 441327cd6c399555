
/*
 * Frames between memory and a segment: packed on their way there, unpacked on
 * their way back.
 *
 * Plain C; blocks.  Memory: the dictionaries, an encoder.
 */


#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "usage/spool_file.h"


static bool apikey_spool_reader(apikey_spool_reader_t *r);
static apikey_spool_e apikey_spool_learn(apikey_spool_t *spool,
    const uint8_t *frame);
static bool apikey_spool_put(apikey_spool_reader_t *r,
    const apikey_frame_t *frame, const apikey_event_t *event, uint8_t *out,
    size_t size, size_t *len);
static void apikey_spool_piece_end(apikey_spool_reader_t *r, size_t *len);


void
apikey_spool_pack_begin(apikey_spool_t *spool)
{
    if (spool->packer) {
        apikey_packer_reset(spool->packer);

    } else {
        spool->packer = apikey_packer_create();
    }
}


size_t
apikey_spool_pack(apikey_spool_t *spool, const uint8_t *data, size_t len)
{
    size_t          pos, out, size, n;
    uint64_t        ids;
    apikey_frame_t  frame;

    out = 0;

    for (pos = 0; pos < len; pos += size) {
        memcpy(&frame, data + pos, sizeof(apikey_frame_t));
        size = sizeof(apikey_frame_t) + frame.size;

        ids = frame.stream < APIKEY_SPOOL_STREAMS ? spool->ids[frame.stream]
                                                  : 0;

        n = spool->packer ? apikey_pack(spool->packer, data + pos, ids,
                                        spool->buf + out)
                          : 0;
        if (n == 0) {
            n = size;
            memcpy(spool->buf + out, data + pos, n);
        }

        out += n;
    }

    return out;
}


static bool
apikey_spool_reader(apikey_spool_reader_t *r)
{
    if (r->unpacker == NULL) {
        r->unpacker = apikey_unpacker_create();
    }

    if (r->encoder == NULL) {
        r->encoder = calloc(1, sizeof(apikey_encoder_t));
    }

    return r->unpacker && r->encoder;
}


void
apikey_spool_unpack_end(apikey_spool_t *spool)
{
    apikey_unpacker_free(spool->reader.unpacker);
    free(spool->reader.encoder);
    memset(&spool->reader, 0, sizeof(apikey_spool_reader_t));
}


apikey_spool_e
apikey_spool_follow(apikey_spool_t *spool, int fd,
    const apikey_cursor_t *cursor)
{
    size_t                  want, pos;
    ssize_t                 n;
    apikey_frame_t          frame;
    apikey_spool_reader_t  *r;

    r = &spool->reader;

    if (!apikey_spool_reader(r)) {
        return apikey_spool_fail(spool, "malloc()");
    }

    if (r->seq != cursor->seq || r->offset > cursor->offset) {
        apikey_unpacker_reset(r->unpacker);
        r->seq = cursor->seq;
        r->offset = APIKEY_SPOOL_HEADER;
    }

    for (/* void */; r->offset < cursor->offset; r->offset += pos) {
        want = cursor->offset - r->offset;
        if (want > APIKEY_SPOOL_CHUNK) {
            want = APIKEY_SPOOL_CHUNK;
        }

        n = pread(fd, spool->buf, want, (off_t) r->offset);

        if (n == -1) {
            return apikey_spool_fail(spool, "pread()");
        }

        pos = 0;

        while (apikey_spool_find(NULL, spool->buf, (size_t) n,
                                 r->offset + (size_t) n >= cursor->offset,
                                 &pos, &frame))
        {
            if (frame.magic == APIKEY_FRAME_PACKED
                && apikey_spool_learn(spool, spool->buf + pos)
                   != APIKEY_SPOOL_OK)
            {
                return APIKEY_SPOOL_FAILED;
            }

            pos += sizeof(apikey_frame_t) + frame.size;
        }

        if (pos == 0) {
            pos = cursor->offset - r->offset;
        }
    }

    return APIKEY_SPOOL_OK;
}


/* Nonsense is passed over: what it brought is missing where it is used. */

static apikey_spool_e
apikey_spool_learn(apikey_spool_t *spool, const uint8_t *frame)
{
    apikey_unpack_e  rc;

    rc = apikey_unpack_open(spool->reader.unpacker, frame);

    if (rc == APIKEY_UNPACK_MEMORY) {
        errno = ENOMEM;
        return apikey_spool_fail(spool, "malloc()");
    }

    if (rc == APIKEY_UNPACK_BAD) {
        spool->reader.missing = true;
    }

    return APIKEY_SPOOL_OK;
}


apikey_spool_e
apikey_spool_unpack(apikey_spool_t *spool, apikey_cursor_t *cursor,
    const uint8_t *frame, uint8_t *out, size_t size, size_t *len)
{
    int                     rc;
    uint32_t                n;
    apikey_frame_t          head;
    apikey_event_t          event;
    apikey_spool_reader_t  *r;

    memcpy(&head, frame, sizeof(apikey_frame_t));

    if (head.magic != APIKEY_FRAME_PACKED) {
        if (size - *len < sizeof(apikey_frame_t) + head.size) {
            return APIKEY_SPOOL_FULL;
        }

        memcpy(out + *len, frame, sizeof(apikey_frame_t) + head.size);
        *len += sizeof(apikey_frame_t) + head.size;

        return APIKEY_SPOOL_OK;
    }

    if (apikey_spool_learn(spool, frame) != APIKEY_SPOOL_OK) {
        return APIKEY_SPOOL_FAILED;
    }

    r = &spool->reader;
    r->begun = false;

    for (n = 0; (rc = apikey_unpack_next(r->unpacker, &event)) > 0; n++) {

        if (n < cursor->events) {
            continue;
        }

        /* a frame has no gaps */

        if (rc == 2) {
            r->missing = true;
            apikey_spool_piece_end(r, len);

        } else if (!apikey_spool_put(r, &head, &event, out, size, len)) {
            cursor->events = n;
            return APIKEY_SPOOL_FULL;
        }
    }

    if (rc == -1) {
        r->missing = true;
    }

    apikey_spool_piece_end(r, len);

    return APIKEY_SPOOL_OK;
}


bool
apikey_spool_readable(apikey_spool_t *spool, const uint8_t *frame,
    uint64_t *last)
{
    int                     rc;
    apikey_event_t          event;
    apikey_spool_reader_t  *r;

    *last = 0;

    if (apikey_spool_learn(spool, frame) != APIKEY_SPOOL_OK) {
        return false;
    }

    r = &spool->reader;

    while ((rc = apikey_unpack_next(r->unpacker, &event)) > 0) {
        if (rc == 1) {
            *last = apikey_unpack_number(r->unpacker);
        }
    }

    return true;
}


static bool
apikey_spool_put(apikey_spool_reader_t *r, const apikey_frame_t *frame,
    const apikey_event_t *event, uint8_t *out, size_t size, size_t *len)
{
    char                *p;
    unsigned             i;
    union {
        apikey_record_t  record;
        char             bytes[APIKEY_RECORD_LARGE];
    } copy;

    copy.record.count = event->count;
    copy.record.shape = event->shape;
    p = copy.record.text;

    for (i = 0; i < APIKEY_TEXTS; i++) {
        memcpy(p, event->text[i], event->shape.len[i]);
        p += event->shape.len[i];
    }

    for (i = 0; i < 2; i++) {

        if (!r->begun) {
            if (size - *len < sizeof(apikey_frame_t)) {
                return false;
            }

            apikey_frame_begin(r->encoder, out + *len, size - *len,
                               frame->stream, frame->epoch,
                               apikey_unpack_number(r->unpacker));
            r->begun = true;
        }

        if (apikey_frame_add(r->encoder, &copy.record)) {
            return true;
        }

        apikey_spool_piece_end(r, len);
    }

    return false;
}


static void
apikey_spool_piece_end(apikey_spool_reader_t *r, size_t *len)
{
    if (r->begun) {
        *len += apikey_frame_end(r->encoder);
        r->begun = false;
    }
}
