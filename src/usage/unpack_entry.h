
/*
 * What unpack.c and unpack_entry.c share.  Nobody else includes this.
 */


#ifndef APIKEY_UNPACK_ENTRY_H_INCLUDED
#define APIKEY_UNPACK_ENTRY_H_INCLUDED


#include "usage/pack_entry.h"


/* shapes take more here than packed */
#define APIKEY_UNPACK_TEXT  (APIKEY_PACK_TEXT + APIKEY_PACK_ENTRIES * 128)


typedef struct {
    uint32_t              offset;
    uint32_t              len;       /* kind 0: it has not come */
    uint32_t              kind;
    uint32_t              client;
    uint64_t              in;
    uint64_t              out;
    uint64_t              price;
} apikey_unpack_entry_t;


struct apikey_unpacker_s {
    uint8_t                *text;
    size_t                  len;
    size_t                  size;
    apikey_unpack_entry_t  *entry;
    uint32_t                n;       /* numbers below it may have come */

    apikey_frame_t          frame;
    const uint8_t          *pos;
    const uint8_t          *end;
    int64_t                 time;
    uint64_t                ids;
    uint64_t                serial;
    uint64_t                number;
    uint32_t                left;
};


/* Takes the entry at u->pos. */
apikey_unpack_e apikey_unpack_entry(apikey_unpacker_t *u);

/* The number of an entry; false: there can be no such. */
bool apikey_unpack_reference(apikey_unpacker_t *u, uint64_t *n);


#endif /* APIKEY_UNPACK_ENTRY_H_INCLUDED */
