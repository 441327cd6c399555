
/*
 * A node's journal as apikeyctl reads it: the frames of its spool and the
 * records of its rings.
 *
 * Only reads: an nginx may be at work in the same directories.
 */


#ifndef APIKEY_CTL_JOURNAL_H_INCLUDED
#define APIKEY_CTL_JOURNAL_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "usage/record.h"
#include "usage/spool.h"

#include "ctl.h"


typedef struct {
    uint64_t               first;
    uint64_t               last;
} apikey_journal_range_t;


/* What is there of one stream, in the order it was found. */

typedef struct {
    uint32_t                 number;
    uint64_t                 epoch;
    uint64_t                 mark;       /* Postgres has all up to it */
    bool                     known;      /* mark is */
    uint64_t                 head;       /* of its ring */
    uint64_t                 tail;
    uint32_t                 pid;        /* that uses the ring; 0: nobody */
    bool                     ring;       /* there is one */
    apikey_journal_range_t  *range;
    size_t                   n;
    size_t                   size;
} apikey_journal_stream_t;


typedef struct {
    uint64_t                 seq;
    uint64_t                 bytes;
    uint64_t                 used;       /* up to the last sound frame */
    int64_t                  created;    /* us */
    uint64_t                 frames;
    uint64_t                 events;
    uint64_t                 bad;        /* bytes between sound frames */
    uint64_t                 tail;       /* bytes of a frame cut off */
    uint64_t                 nonsense;   /* sound frames nobody can read */
    uint64_t                 missing;    /* events that damage took along */
    bool                     foreign;    /* not of this node or layout */
    bool                     unreadable;
} apikey_journal_segment_t;


typedef struct apikey_journal_s  apikey_journal_t;

struct apikey_journal_s {
    char                       dir[1024];
    char                       rings[1024];
    uint8_t                    node[16];
    char                       id[37];
    char                       name[256];    /* apikey_node, or id */

    apikey_journal_segment_t  *segment;
    size_t                     nsegments;
    apikey_journal_stream_t   *stream;
    size_t                     nstreams;

    /* each record; false: no more of them */
    bool                     (*event)(apikey_journal_t *j,
                                      const apikey_frame_t *frame,
                                      const apikey_event_t *event,
                                      uint64_t number);
    bool                       usage;    /* event's own */
    uint64_t                   left_out;

    apikey_decoder_t           decoder;
    apikey_unpacker_t         *unpacker;     /* of the segment */
};


/* journal_read.c: false after the reason was printed */
bool apikey_journal_open(apikey_journal_t *j, const apikey_ctl_args_t *args);
void apikey_journal_close(apikey_journal_t *j);

/* All segments, oldest first, then all rings. */
bool apikey_journal_read(apikey_journal_t *j);

/* journal_ring.c: after the segments */
bool apikey_journal_ring(apikey_journal_t *j, uint32_t number);

/* NULL: out of memory */
apikey_journal_stream_t *apikey_journal_stream(apikey_journal_t *j,
    uint32_t number, uint64_t epoch);

/* Sorts the ranges and joins what touches. */
void apikey_journal_join(apikey_journal_stream_t *stream);

/* event.c: one event as JSON, all of it, or as a row of export/usage */
size_t apikey_event_json(char *buf, size_t size, const apikey_event_t *event,
    const char *node, bool usage);


#endif /* APIKEY_CTL_JOURNAL_H_INCLUDED */
