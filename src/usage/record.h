
/*
 * A usage record as it stands in a ring and in memory, and frames: many
 * records of one stream, about 24 bytes an event and 90 a key.
 *
 * A frame decodes alone: it brings its own dictionary, so strings of any
 * number of values cost nothing that would have to be kept or cleaned up.
 * Numbers are little endian, as on every platform that is supported.
 *
 * Plain C, no allocation; the caller owns every buffer.
 */


#ifndef APIKEY_RECORD_H_INCLUDED
#define APIKEY_RECORD_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>


typedef enum {
    APIKEY_RECORD_EVENT = 0,     /* an admitted request */
    APIKEY_RECORD_DETAIL,        /* a refused one, kept as detail; its count
                                    stands in a SUM */
    APIKEY_RECORD_SUM,           /* refusals of a quarter of an hour */
    APIKEY_RECORDS
} apikey_record_e;


typedef enum {
    APIKEY_TEXT_OWNER = 0,
    APIKEY_TEXT_CUSTOMER,
    APIKEY_TEXT_SERVICE,
    APIKEY_TEXT_ENDPOINT,
    APIKEY_TEXT_MODEL,
    APIKEY_TEXT_LIMIT,
    APIKEY_TEXT_SESSION,         /* the last one: not part of the shape */
    APIKEY_TEXTS
} apikey_text_e;

#define APIKEY_TEXT_MAX      255     /* characters cut behind it */
#define APIKEY_RECORD_LARGE  2048    /* bytes; holds seven full texts */


/* What many records have in common: one entry of a frame's dictionary. */

typedef struct {
    uint8_t    kind;             /* apikey_record_e */
    uint8_t    verdict;
    uint8_t    mode;
    uint8_t    end;
    uint8_t    source;
    uint8_t    len[APIKEY_TEXTS];        /* session's is 0 in dictionaries */
    uint16_t   status;
    uint16_t   reserved;
    uint32_t   method;           /* nginx's bit; 0 other */
    uint32_t   retry_after;
    uint64_t   weight;
    uint64_t   limit;
    uint8_t    key[16];
    uint8_t    secret[16];
} apikey_shape_t;


typedef struct {
    uint8_t    event[16];
    uint8_t    client[16];       /* shortened; v4-mapped */
    int64_t    time;             /* us; SUM: start of the quarter */
    uint64_t   count;            /* SUM: refusals; else 1 */
    uint64_t   remaining;
    uint64_t   bytes_in;
    uint64_t   bytes_out;
    uint64_t   duration;         /* us */
    uint64_t   upstream;         /* us */
    uint64_t   tokens[4];        /* input, output, cached, reasoning */
    int64_t    cost;             /* nano-units; < 0 unknown price */
    uint64_t   price;            /* version of its price; 0: none */
} apikey_count_t;


typedef struct {
    apikey_count_t  count;
    apikey_shape_t  shape;
    char            text[];      /* one after another */
} apikey_record_t;


/*
 * Something that a request holds as long as it runs, of a limit's holder; not
 * part of its record, but kept beside it for the case that nobody is left to
 * give it back.
 */

typedef struct {
    uint8_t    holder[16];
    uint64_t   scope;
    uint32_t   count;
    uint8_t    level;            /* apikey_level_e */
    uint8_t    reserved[3];
} apikey_hold_t;

#define APIKEY_HOLDS         8       /* of one request, at most */


/*
 * What nobody knows of a request that runs: of its reserves it has all that is
 * left.  An older module says nothing: what stands there is less than SAID.
 */

#define APIKEY_OPEN_SAID    0x80000000u
#define APIKEY_OPEN_TOKENS  1u   /* how many it may take */
#define APIKEY_OPEN_MODEL   2u   /* which it is for: it may be any */


/*
 * A decoded record; text points into the frame.  Out of a frame that is not
 * packed all texts but the session's stand one after another.
 */

typedef struct {
    apikey_count_t  count;
    apikey_shape_t  shape;
    const char     *text[APIKEY_TEXTS];
    unsigned        entry;       /* of the frame's dictionary: equal shapes
                                    have equal numbers */
} apikey_event_t;


#define APIKEY_FRAME_MAGIC   0x31464b41u         /* AKF1 */
#define APIKEY_FRAME_PACKED  0x32464b41u         /* AKF2, of pack.h */
#define APIKEY_FRAME_EVENTS  5000
#define APIKEY_FRAME_MAX     (512 * 1024)
#define APIKEY_FRAME_SLOTS   16384               /* of the encoder's table */
#define APIKEY_FRAME_TABLE   8192                /* entries at most */


typedef struct {
    uint32_t   magic;
    uint32_t   crc;              /* CRC-32C from size to the payload's end */
    uint32_t   size;             /* of the payload */
    uint32_t   count;
    uint64_t   epoch;            /* of the stream */
    uint64_t   first;            /* number of the first event, from 1 */
    int64_t    time;             /* us, the base of the times inside */
    uint32_t   stream;
    uint32_t   reserved;
} apikey_frame_t;


typedef struct {
    uint32_t   offset;           /* in the frame's payload */
    uint32_t   len;
    uint32_t   number;
    uint32_t   used;             /* equal to encoder's generation */
} apikey_encoder_slot_t;


/* Of what a record has in the dictionary. */

typedef struct {
    uint32_t                shape;
    uint32_t                client;
    uint32_t                session;
} apikey_record_hash_t;


typedef struct {
    uint8_t                *start;       /* of the frame's header */
    uint8_t                *pos;
    uint8_t                *end;
    apikey_frame_t          frame;
    int64_t                 last;        /* time of the record before */
    uint32_t                entries;
    uint32_t                generation;
    apikey_encoder_slot_t   slot[APIKEY_FRAME_SLOTS];
} apikey_encoder_t;


typedef struct {
    apikey_frame_t          frame;
    const uint8_t          *payload;
    const uint8_t          *pos;
    const uint8_t          *end;
    int64_t                 last;
    uint32_t                left;
    uint32_t                entries;
    uint64_t                number;      /* of the record next() gave */
    uint32_t                offset[APIKEY_FRAME_TABLE];
    uint32_t                len[APIKEY_FRAME_TABLE];
} apikey_decoder_t;


size_t apikey_record_size(const apikey_shape_t *shape);

/* Cuts at a character's border; returns bytes to copy, <= max. */
size_t apikey_text_cut(const char *text, size_t len, size_t max);

/* /24 of IPv4 (mapped), /48 of IPv6. */
/* Returns how many bits of its own kind are left. */
unsigned apikey_client_shorten(uint8_t client[16], unsigned v4, unsigned v6);


/* An encoder may be used again and again: zeroed at first, then begin(). */
void apikey_frame_begin(apikey_encoder_t *e, uint8_t *buf, size_t size,
    uint32_t stream, uint64_t epoch, uint64_t first);

/* False: full; the record belongs to the next frame. */
bool apikey_frame_add(apikey_encoder_t *e, const apikey_record_t *record);

/*
 * add() in two steps, for who has many records: what the first one looks for
 * in the dictionary comes into the cache while others are put.  Both are of
 * the same record; a frame may end and begin between them.
 */
void apikey_frame_ahead(const apikey_encoder_t *e,
    const apikey_record_t *record, apikey_record_hash_t *hash);
bool apikey_frame_put(apikey_encoder_t *e, const apikey_record_t *record,
    const apikey_record_hash_t *hash);

/* Bytes of the frame, header and all; 0: it has no record. */
size_t apikey_frame_end(apikey_encoder_t *e);


typedef enum {
    APIKEY_FRAME_OK = 0,
    APIKEY_FRAME_NONE,           /* zeros or nothing: the clean end */
    APIKEY_FRAME_SHORT,          /* a header whose payload is not all here */
    APIKEY_FRAME_BAD
} apikey_frame_e;

/* Looks at a frame, packed or not: header only or with its checksum. */
apikey_frame_e apikey_frame_check(const uint8_t *buf, size_t len,
    apikey_frame_t *frame, bool whole);

/* buf holds one checked frame, not a packed one. */
void apikey_frame_open(apikey_decoder_t *d, const uint8_t *buf);

/* 1: a record; 0: no more; -1: nonsense inside a sound checksum. */
int apikey_frame_next(apikey_decoder_t *d, apikey_event_t *event);


#endif /* APIKEY_RECORD_H_INCLUDED */
