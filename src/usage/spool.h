
/*
 * The spool: frames of usage records on disk, packed, in preallocated
 * segments.
 *
 * Only the holder of ship.lock touches it, one call at a time (its calls
 * block: they run in a thread).  What was written is never rewritten; a new
 * holder starts a new segment.  A damaged range is passed over at the next
 * sound frame, so it never stops the walk; what was lost with it shows as a
 * gap in the events' numbers.
 *
 * Plain C.  Segments' list, a buffer and dictionaries are malloc()ed and
 * belong to the spool.
 */


#ifndef APIKEY_SPOOL_H_INCLUDED
#define APIKEY_SPOOL_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "usage/pack.h"
#include "usage/record.h"


#define APIKEY_SPOOL_MAGIC    0x4c4f5053594b5041ull      /* APKYSPOL */
#define APIKEY_SPOOL_LAYOUT   2            /* 1: no packed frames */
#define APIKEY_SPOOL_HEADER   64
#define APIKEY_SPOOL_MIN      (1024 * 1024)
#define APIKEY_SPOOL_CHUNK    (768 * 1024)   /* of one append or read */
#define APIKEY_SPOOL_KEEP     3600000000ll   /* us: replay after a restore */
#define APIKEY_SPOOL_AGE      600000000ll    /* us: then a new segment */
#define APIKEY_SPOOL_STREAMS  256


/* How far a stream has come. */

typedef struct {
    uint64_t            epoch;
    uint64_t            number;
    uint32_t            stream;
    uint32_t            reserved;
} apikey_mark_t;


typedef struct {
    apikey_mark_t      *mark;
    unsigned            n;
    unsigned            size;
} apikey_marks_t;


typedef struct {
    uint64_t            seq;
    uint64_t            end;             /* of its sound frames */
    uint64_t            synced;          /* of these, on disk */
    uint64_t            bytes;           /* on disk */
    uint64_t            bad;             /* bytes passed over */
    int64_t             created;         /* us */
    int64_t             written;         /* us */
    bool                damaged;         /* its marks are not sure */
    bool                unread;          /* not to its end: it is kept */
    apikey_marks_t      marks;           /* last event of each stream */
} apikey_segment_t;


typedef struct {
    uint64_t            seq;
    uint64_t            offset;
    uint32_t            events;          /* of the frame there, read already */
} apikey_cursor_t;


/* The dictionary of the segment that is read. */

typedef struct {
    uint64_t            seq;
    uint64_t            offset;          /* all before it is in there */
    apikey_unpacker_t  *unpacker;
    apikey_encoder_t   *encoder;
    bool                begun;           /* a frame */
    bool                missing;         /* what events referred to */
} apikey_spool_reader_t;


typedef struct {
    char                dir[1024];
    uint8_t             node[16];
    uint64_t            limit;
    uint64_t            segment_size;
    apikey_segment_t   *segment;         /* oldest first */
    unsigned            n;
    unsigned            size;
    unsigned            foreign;         /* segments of another layout or
                                            node: left alone */
    unsigned            newer;           /* this node's of them, whose layout
                                            a later version can read */
    uint64_t            seq;             /* of the newest file */
    int                 fd;              /* of the last segment, or -1 */
    bool                dirty;           /* written and not yet synced */
    uint64_t            wrote;           /* bytes of the last append */
    uint8_t            *buf;             /* CHUNK */
    apikey_packer_t    *packer;          /* of the last segment; NULL: no
                                            memory for it */
    apikey_spool_reader_t
                        reader;
    uint64_t            ids[APIKEY_SPOOL_STREAMS];   /* the caller's, as
                                                        pack() wants them */
    int                 err;             /* errno of the last failure */
    const char         *what;            /* what failed; static */
} apikey_spool_t;


typedef enum {
    APIKEY_SPOOL_OK = 0,
    APIKEY_SPOOL_FULL,
    APIKEY_SPOOL_FAILED
} apikey_spool_e;


/* The number of a stream, 0: not there. */
uint64_t apikey_marks_get(const apikey_marks_t *marks, uint32_t stream,
    uint64_t epoch);

/* Never goes back; false: out of memory. */
bool apikey_marks_raise(apikey_marks_t *marks, uint32_t stream,
    uint64_t epoch, uint64_t number);
void apikey_marks_free(apikey_marks_t *marks);


apikey_spool_e apikey_spool_open(apikey_spool_t *spool, const char *dir,
    const uint8_t node[16], uint64_t limit);
void apikey_spool_close(apikey_spool_t *spool);

/* Whose segments lie there, by the newest one; false: nobody can say. */
bool apikey_spool_whose(const char *dir, uint8_t node[16]);

/*
 * Whole frames, at most CHUNK bytes.  OK: they are written, packed; on disk
 * after the next sync().  Shipped segments are deleted, oldest first, when the
 * room is needed.  FULL: what was written before is synced.  FAILED: only what
 * was synced is sure.
 */
apikey_spool_e apikey_spool_append(apikey_spool_t *spool, const uint8_t *data,
    size_t len, int64_t now, const apikey_marks_t *shipped);

/* OK: everything written is on disk.  FAILED: as above. */
apikey_spool_e apikey_spool_sync(apikey_spool_t *spool);

/* Deletes what is shipped and older than KEEP. */
void apikey_spool_prune(apikey_spool_t *spool, int64_t now,
    const apikey_marks_t *shipped);

/*
 * The next sound frames from the cursor on, unpacked, as many as fit in size
 * (at least CHUNK); *len 0: the end.
 */
apikey_spool_e apikey_spool_read(apikey_spool_t *spool,
    apikey_cursor_t *cursor, uint8_t *buf, size_t size, size_t *len);

/* Where reading must start so that nothing above the marks is missed. */
void apikey_spool_seek(const apikey_spool_t *spool, apikey_cursor_t *cursor,
    const apikey_marks_t *shipped);

/* The last event of a stream anywhere in the spool. */
uint64_t apikey_spool_last(const apikey_spool_t *spool, uint32_t stream,
    uint64_t epoch);

bool apikey_spool_at_end(const apikey_spool_t *spool,
    const apikey_cursor_t *cursor);
uint64_t apikey_spool_left(const apikey_spool_t *spool,
    const apikey_cursor_t *cursor);


#endif /* APIKEY_SPOOL_H_INCLUDED */
