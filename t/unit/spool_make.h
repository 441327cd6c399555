
/*
 * A spool in a directory of its own, and events to write to it and to count.
 * Included by one unit.
 */


#ifndef UNIT_SPOOL_MAKE_H_INCLUDED
#define UNIT_SPOOL_MAKE_H_INCLUDED


#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "usage/spool_file.h"

#include "unit.h"


static char              test_dir[] = "/tmp/apikey-spool-XXXXXX";
static uint8_t           test_node[16] = { 1, 2, 3 };
static apikey_encoder_t  test_encoder;
static apikey_decoder_t  test_decoder;
static uint8_t           test_buf[APIKEY_SPOOL_CHUNK];
static uint8_t           test_frame[65536];
static apikey_marks_t    test_none;
static uint32_t          test_stream = 1;
static uint16_t          test_status;
static off_t             test_half;         /* where the sixth frame begins */

/* the files' own times, which an opened spool goes by, are of today */
static int64_t           test_now;


/* A frame of n events of a stream from number first on. */

static size_t
test_make(uint64_t first, unsigned n)
{
    apikey_record_t  record;

    memset(&record, 0, sizeof(record));
    record.count.count = 1;
    record.shape.status = test_status;
    record.count.client[0] = test_status & 0xff;
    apikey_frame_begin(&test_encoder, test_frame, sizeof(test_frame),
                       test_stream, 5, first);

    while (n-- > 0) {
        record.count.time = test_now + (int64_t) n;
        record.count.event[0] = (uint8_t) n;
        (void) apikey_frame_add(&test_encoder, &record);
    }

    return apikey_frame_end(&test_encoder);
}


static bool
test_append(apikey_spool_t *spool, uint64_t first, unsigned n)
{
    size_t  len;

    len = test_make(first, n);

    return apikey_spool_append(spool, test_frame, len, test_now, &test_none)
           == APIKEY_SPOOL_OK;
}


/* Events found, from the marks on; numbers must rise. */

static uint64_t
test_count(apikey_spool_t *spool, const apikey_marks_t *marks, bool *rising)
{
    size_t           len, pos;
    uint64_t         n, last;
    apikey_event_t   event;
    apikey_cursor_t  cursor;

    n = 0;
    last = 0;
    *rising = true;

    apikey_spool_seek(spool, &cursor, marks);

    for ( ;; ) {
        if (apikey_spool_read(spool, &cursor, test_buf, sizeof(test_buf),
                              &len)
            != APIKEY_SPOOL_OK || len == 0)
        {
            return n;
        }

        for (pos = 0; pos < len;
             pos += sizeof(apikey_frame_t) + test_decoder.frame.size)
        {
            apikey_frame_open(&test_decoder, test_buf + pos);

            while (apikey_frame_next(&test_decoder, &event) == 1) {
                *rising = *rising && test_decoder.number > last;
                last = test_decoder.number;
                n++;
            }
        }
    }
}


static int
test_file(uint64_t seq)
{
    char  name[128];

    snprintf(name, sizeof(name), "%s/spool.%016llx", test_dir,
             (unsigned long long) seq);

    return open(name, O_RDWR);
}


/* 1000 events in 10 frames; where they end in the first segment's file. */

static uint64_t
test_write(void)
{
    bool            rising;
    unsigned        i;
    uint64_t        end;
    apikey_spool_t  spool;

    ok(apikey_spool_open(&spool, test_dir, test_node, 16 << 20)
       == APIKEY_SPOOL_OK, "an empty directory opens");

    for (i = 0; i < 10; i++) {
        if (!test_append(&spool, 1 + i * 100, 100)) {
            ok(false, "a frame is written");
        }

        if (i == 4) {
            test_half = (off_t) spool.segment[0].end;
        }
    }

    is_uint(test_count(&spool, &test_none, &rising), 1000,
            "what was written is read");
    ok(rising, "in order");
    is_uint(apikey_spool_last(&spool, 1, 5), 1000, "the last one is known");

    /* killed: not closed, the preallocated rest still there */

    end = spool.segment[0].end;
    (void) close(spool.fd);
    spool.fd = -1;
    apikey_spool_close(&spool);

    (void) apikey_spool_open(&spool, test_dir, test_node, 16 << 20);
    is_uint(test_count(&spool, &test_none, &rising), 1000,
            "all of it is there after a kill");
    is_uint(spool.segment[0].bad, 0, "and the end is clean");
    apikey_spool_close(&spool);

    return end;
}


#endif /* UNIT_SPOOL_MAKE_H_INCLUDED */
