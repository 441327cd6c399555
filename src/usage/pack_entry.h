
/*
 * What packing and unpacking agree on.  Nobody else includes this.
 *
 * A payload: number of entries; each its number, kind, length, bytes; the key
 * of the ids, in 8 bytes; the events.  An entry of a shape has what most of
 * its events have in common, too.  An event: flags, its shape, then what the
 * flags say.  Numbers are varints.
 */


#ifndef APIKEY_PACK_ENTRY_H_INCLUDED
#define APIKEY_PACK_ENTRY_H_INCLUDED


#include "usage/pack.h"


typedef enum {
    APIKEY_PACK_SHAPE = 1,
    APIKEY_PACK_CLIENT,          /* 16 bytes, zeros at the end left out */
    APIKEY_PACK_CLIENT4,         /* the last four of a mapped one, likewise */
    APIKEY_PACK_SESSION
} apikey_pack_kind_e;


/* the usual ones are in the first byte */

#define APIKEY_PACK_IN        0x0001     /* bytes_in is not the shape's */
#define APIKEY_PACK_OUT       0x0002
#define APIKEY_PACK_OTHER     0x0004     /* another client than the shape's */
#define APIKEY_PACK_UPSTREAM  0x0008     /* upstream is not the duration */
#define APIKEY_PACK_FINE      0x0010     /* in us, not ms */
#define APIKEY_PACK_TOKENS    0x0020
#define APIKEY_PACK_COST      0x0040

#define APIKEY_PACK_STAMP     0x0080     /* id's is not that of the time */
#define APIKEY_PACK_TALK      0x0100     /* it has a session */
#define APIKEY_PACK_COUNT     0x0200
#define APIKEY_PACK_REMAIN    0x0400
#define APIKEY_PACK_PRICE     0x0800     /* price is not the shape's */
#define APIKEY_PACK_NO_ID     0x1000
#define APIKEY_PACK_RAW_ID    0x2000


/* of one event without entries */
#define APIKEY_PACK_BOUND     256

/* of a shape's entry, but for its texts */
#define APIKEY_PACK_SHAPE_MAX 128


#define APIKEY_PACK_SLOTS    (2 * APIKEY_PACK_ENTRIES)
#define APIKEY_PACK_FEW      1024      /* slots of an empty dictionary */
#define APIKEY_PACK_SCRATCH  (APIKEY_FRAME_MAX + 8192)
#define APIKEY_PACK_NONE     UINT32_MAX

/* bytes of a segment after which an entry comes again; times that for each
   further time */
#define APIKEY_PACK_AGAIN    (256 * 1024)
#define APIKEY_PACK_TIMES    16


typedef struct {
    uint32_t              offset;
    uint32_t              len;
    uint32_t              hash;
    uint32_t              mark;      /* the last frame that used it */
    uint32_t              client;    /* SHAPE: what its first event had */
    uint8_t               address[16];
    uint64_t              in;
    uint64_t              out;
    uint64_t              price;
    uint64_t              again;     /* where it comes next */
    uint64_t              step;
    uint8_t               kind;
    uint8_t               times;     /* it came in so many frames */
} apikey_pack_entry_t;


/* An event that is decoded, but whose turn it is not yet. */

#define APIKEY_PACK_AHEAD    8         /* a power of two */

typedef struct {
    apikey_event_t        event;
    uint32_t              hash;      /* of its shape */
    uint32_t              len;       /* of its shape; 0: its entry is known */
    uint8_t               shape[APIKEY_PACK_SHAPE_MAX
                                + APIKEY_TEXTS * APIKEY_TEXT_MAX];
} apikey_pack_ahead_t;


struct apikey_packer_s {
    uint8_t              *text;
    size_t                len;
    size_t                size;
    apikey_pack_entry_t  *entry;
    uint32_t              n;
    uint32_t              room;
    uint32_t              nslots;    /* in use; a power of two */
    uint32_t              slot[APIKEY_PACK_SLOTS];   /* numbers from 1 */
    uint64_t              written;   /* bytes packed */
    bool                  full;

    /* of the frame */
    uint32_t              frame;
    uint32_t              known;     /* of map[] */
    uint32_t              ntouched;
    int64_t               time;
    uint64_t              ids;
    uint64_t              serial;
    uint8_t              *pos;       /* in events */
    uint8_t              *add;       /* in entries */
    uint32_t              map[APIKEY_FRAME_TABLE];
    uint32_t              touched[APIKEY_FRAME_TABLE];
    int                   rc;        /* of the decoder */
    uint32_t              decoded;   /* events, which are ahead[] */
    apikey_pack_ahead_t   ahead[APIKEY_PACK_AHEAD];
    apikey_decoder_t      decoder;
    uint8_t               events[APIKEY_PACK_SCRATCH];
    uint8_t               entries[APIKEY_PACK_SCRATCH];
};


/*
 * What an event's shape is found by, and three steps of asking for what that
 * touches: its slot, then the entry which that names, then the entry's bytes.
 */
void apikey_pack_slot_ahead(apikey_packer_t *p, apikey_pack_ahead_t *a);
void apikey_pack_entry_ahead(const apikey_packer_t *p,
    const apikey_pack_ahead_t *a);
void apikey_pack_bytes_ahead(const apikey_packer_t *p,
    const apikey_pack_ahead_t *a);

/* NONE: there is no room for a new one. */
uint32_t apikey_pack_shape(apikey_packer_t *p, const apikey_pack_ahead_t *a);
uint32_t apikey_pack_client(apikey_packer_t *p, const uint8_t address[16]);
uint32_t apikey_pack_find(apikey_packer_t *p, apikey_pack_kind_e kind,
    const void *bytes, size_t len);

/* The frame uses it. */
bool apikey_pack_touch(apikey_packer_t *p, uint32_t number);

/* The frame is not written: what came in it has not come. */
void apikey_pack_undo(apikey_packer_t *p);


#endif /* APIKEY_PACK_ENTRY_H_INCLUDED */
