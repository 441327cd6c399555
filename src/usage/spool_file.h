
/*
 * What the files of the spool, and apikeyctl, share.  Nobody else includes
 * this.
 */


#ifndef APIKEY_SPOOL_FILE_H_INCLUDED
#define APIKEY_SPOOL_FILE_H_INCLUDED


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


apikey_spool_e apikey_spool_fail(apikey_spool_t *spool,
    const char *what);
int apikey_spool_file(apikey_spool_t *spool, uint64_t seq, int flags);
apikey_spool_e apikey_spool_scan(apikey_spool_t *spool,
    apikey_segment_t *segment);

/*
 * After damage: how far the streams come that can be read.  The rest comes
 * never, and must not keep what was shipped.
 */
apikey_spool_e apikey_spool_recount(apikey_spool_t *spool,
    apikey_segment_t *segment);

bool apikey_spool_shipped(const apikey_segment_t *segment,
    const apikey_marks_t *shipped);
bool apikey_spool_count(apikey_segment_t *segment, const uint8_t *data,
    size_t len);
uint32_t apikey_spool_header_crc(apikey_spool_header_t header);

/* It is one, of this node and of a layout that can be read. */
bool apikey_spool_header_ours(const apikey_spool_header_t *header,
    const uint8_t node[16]);
/* ... and of a layout that is still to come. */
bool apikey_spool_header_newer(const apikey_spool_header_t *header,
    const uint8_t node[16]);

/*
 * The next sound frame at or behind *pos; false: *pos is where reading goes
 * on, with what follows the buffer unless it is the last.  With a segment
 * zeros are the end, and bytes passed over are counted there.
 */
bool apikey_spool_find(apikey_segment_t *segment, const uint8_t *buf,
    size_t len, bool last, size_t *pos, apikey_frame_t *frame);


/* A new segment: its dictionary is empty. */
void apikey_spool_pack_begin(apikey_spool_t *spool);

/* Frames of at most CHUNK bytes into spool->buf; returns their length. */
size_t apikey_spool_pack(apikey_spool_t *spool, const uint8_t *data,
    size_t len);

/* Knows the entries of all frames of the segment before the cursor. */
apikey_spool_e apikey_spool_follow(apikey_spool_t *spool, int fd,
    const apikey_cursor_t *cursor);

/*
 * A sound frame of the segment is added to out, from event cursor->events on;
 * FULL: only some of it, and cursor->events says how much.
 */
apikey_spool_e apikey_spool_unpack(apikey_spool_t *spool,
    apikey_cursor_t *cursor, const uint8_t *frame, uint8_t *out, size_t size,
    size_t *len);

/* The last event of a packed frame that can be read, 0: none; false: out of
   memory. */
bool apikey_spool_readable(apikey_spool_t *spool, const uint8_t *frame,
    uint64_t *last);
void apikey_spool_unpack_end(apikey_spool_t *spool);


#endif /* APIKEY_SPOOL_FILE_H_INCLUDED */
