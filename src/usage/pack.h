
/*
 * Frames as they stand in a segment of the spool: packed, with a dictionary
 * for the whole segment; about 10 bytes an event.
 *
 * A frame of record.h brings its own dictionary, which with many keys is most
 * of it.  A packed one names entries by numbers that hold in its segment, and
 * brings those that are new.  An entry comes more than once, so a frame that
 * is damaged takes no other one with it.  What does not pack well stands in
 * the segment as it came.
 *
 * Plain C.  Packer and unpacker malloc() their dictionaries; all else is the
 * caller's.
 */


#ifndef APIKEY_PACK_H_INCLUDED
#define APIKEY_PACK_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "usage/record.h"


#define APIKEY_PACK_ENTRIES   32768      /* of a segment */
#define APIKEY_PACK_TEXT      (4 * 1024 * 1024)


typedef struct apikey_packer_s    apikey_packer_t;
typedef struct apikey_unpacker_s  apikey_unpacker_t;


/* NULL: out of memory.  For a new segment: reset(). */
apikey_packer_t *apikey_packer_create(void);
void apikey_packer_free(apikey_packer_t *p);
void apikey_packer_reset(apikey_packer_t *p);

/* The dictionary takes no more: time for another segment. */
bool apikey_packer_full(const apikey_packer_t *p);

/*
 * Packs a sound frame of record.h.  ids: the key its ids are numbers under,
 * where that is known; it matters only to the size.  0: it would be no
 * smaller; out has room for as much as the frame takes.
 */
size_t apikey_pack(apikey_packer_t *p, const uint8_t *frame, uint64_t ids,
    uint8_t *out);


apikey_unpacker_t *apikey_unpacker_create(void);
void apikey_unpacker_free(apikey_unpacker_t *u);
void apikey_unpacker_reset(apikey_unpacker_t *u);

typedef enum {
    APIKEY_UNPACK_OK = 0,
    APIKEY_UNPACK_BAD,           /* nonsense inside a sound checksum */
    APIKEY_UNPACK_MEMORY
} apikey_unpack_e;

/*
 * Takes a packed frame's entries and stands before its first event.  All
 * frames of the segment before it must have been opened; once more does no
 * harm.
 */
apikey_unpack_e apikey_unpack_open(apikey_unpacker_t *u,
    const uint8_t *frame);

/*
 * 1: an event, valid until the next open(); 2: an event whose entry was in
 * frames that are damaged; 0: no more; -1: nonsense.
 */
int apikey_unpack_next(apikey_unpacker_t *u, apikey_event_t *event);

/* The number of the event that next() gave. */
uint64_t apikey_unpack_number(const apikey_unpacker_t *u);


#endif /* APIKEY_PACK_H_INCLUDED */
