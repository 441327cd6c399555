
/*
 * Reading a journal: the rings, where what was not synced yet stands.
 *
 * Their owners and the shipper may be at work; nothing in them is changed.
 */


#include <signal.h>
#include <stdlib.h>

#include "usage/ring.h"

#include "journal.h"


static bool apikey_journal_records(apikey_journal_t *j,
    const apikey_ring_t *ring, uint64_t number, uint64_t head);
static bool apikey_journal_has(apikey_journal_t *j,
    const apikey_ring_t *ring, uint64_t number);


bool
apikey_journal_ring(apikey_journal_t *j, uint32_t number)
{
    bool                      ok;
    apikey_ring_t             ring;
    apikey_journal_stream_t  *stream;

    if (apikey_ring_open(&ring, j->rings, number, j->node)
        != APIKEY_RING_OK)
    {
        return true;
    }

    stream = apikey_journal_stream(j, number, ring.file->epoch);

    if (stream == NULL) {
        apikey_ring_close(&ring);
        return false;
    }

    stream->ring = true;
    stream->head = apikey_ring_head(&ring);
    stream->tail = apikey_ring_tail(&ring);
    stream->pid = ring.file->dirty && kill((pid_t) ring.file->pid, 0) == 0
                  ? ring.file->pid : 0;

    ok = apikey_journal_records(j, &ring, stream->tail + 1, stream->head);

    apikey_ring_close(&ring);

    return ok;
}


/*
 * Through a frame of one, as the shipper reads them: its slot may be taken
 * again while it is copied, and then the frame is no use.
 */

static bool
apikey_journal_records(apikey_journal_t *j, const apikey_ring_t *ring,
    uint64_t number, uint64_t head)
{
    bool                    more;
    uint8_t                 buf[2 * APIKEY_RECORD_LARGE];
    apikey_event_t          event;
    apikey_encoder_t       *encoder;
    const apikey_record_t  *record;

    encoder = calloc(1, sizeof(apikey_encoder_t));

    if (encoder == NULL) {
        apikey_ctl_error("out of memory");
        return false;
    }

    for (more = true; more && j->event && number <= head; number++) {
        record = apikey_ring_record(ring, number);

        apikey_frame_begin(encoder, buf, sizeof(buf), ring->file->stream,
                           ring->file->epoch, number);

        if (apikey_journal_has(j, ring, number) || record == NULL
            || !apikey_frame_add(encoder, record)
            || apikey_frame_end(encoder) == 0
            || apikey_ring_tail(ring) >= number)
        {
            continue;
        }

        apikey_frame_open(&j->decoder, buf);

        if (apikey_frame_next(&j->decoder, &event) == 1) {
            more = j->event(j, &j->decoder.frame, &event, number);
        }
    }

    free(encoder);

    return more;
}


/* What was not synced may be in the spool, too, or not any more. */

static bool
apikey_journal_has(apikey_journal_t *j, const apikey_ring_t *ring,
    uint64_t number)
{
    size_t                    i;
    apikey_journal_stream_t  *stream;

    stream = apikey_journal_stream(j, ring->file->stream, ring->file->epoch);

    for (i = 0; stream && i < stream->n; i++) {
        if (stream->range[i].first <= number
            && number <= stream->range[i].last)
        {
            return true;
        }
    }

    return false;
}
