
/*
 * A ring: one tmpfs file that holds the records of one worker from admission
 * until they are synced in the spool or committed in Postgres.
 *
 * The file outlives every process.  Whoever holds its flock is its owner:
 * opens slots, closes them, and alone changes everything but the tail.  The
 * shipper maps it too, reads records between tail and head, and alone moves
 * the tail.  A closed slot's number is appended to an index, so that closing
 * publishes with one store and nothing is copied; numbers of events are
 * positions in that index and never repeat within (ring, epoch).
 *
 * Every step may be the last one of its process: an open slot of a dead
 * owner becomes a record "worker_lost", a closed one that was not published
 * is published, a sum of refusals is published as it stands.
 *
 * Plain C.  The file is allocated whole, so that writing it never fails.
 */


#ifndef APIKEY_RING_H_INCLUDED
#define APIKEY_RING_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "usage/record.h"


#define APIKEY_RING_MAGIC   0x474e52594b495041ull       /* APIKYRNG */
#define APIKEY_RING_LAYOUT  3

#define APIKEY_RING_SMALL       8192        /* slots */
#define APIKEY_RING_LARGE       256
#define APIKEY_RING_SMALL_SIZE  384         /* bytes of one */
#define APIKEY_RING_LARGE_SIZE  (APIKEY_RECORD_LARGE + 64                     \
                                 + APIKEY_HOLDS * sizeof(apikey_hold_t))
#define APIKEY_RING_SLOTS       (APIKEY_RING_SMALL + APIKEY_RING_LARGE)
#define APIKEY_RING_INDEX       16384       /* a power of two, >= slots */


typedef enum {
    APIKEY_SLOT_FREE = 0,
    APIKEY_SLOT_OPEN,            /* a request runs */
    APIKEY_SLOT_SUM,             /* a sum grows */
    APIKEY_SLOT_DONE             /* closed as event "number" */
} apikey_slot_e;


typedef struct {
    uint32_t         state;
    uint32_t         next;       /* the owner's: of FREE ones their list; of
                                    OPEN what nobody knows */
    uint64_t         number;
    uint64_t         holds;      /* so many, behind the record; of OPEN only */
    apikey_record_t  record;
} apikey_slot_t;


typedef struct {
    uint64_t         magic;
    uint32_t         layout;
    uint32_t         stream;     /* number in the file's name */
    uint64_t         epoch;
    uint64_t         size;
    uint8_t          node[16];
    uint32_t         dirty;      /* claimed and not yet given back clean */
    uint32_t         pid;        /* for people: proves nothing */
    uint64_t         zone;       /* what the owner's requests hold is there */

    uint64_t         head        /* events published */
        __attribute__((aligned(64)));
    uint64_t         ids;        /* the owner's requests' ids are numbers
                                    under this key; 0: nobody knows */

    /* the file itself, for its copies to know; inode 0: not said, as in
       files that are older than this */
    uint64_t         inode;
    uint64_t         device;
    uint8_t          boot[16];   /* the kernel's boot_id */

    uint64_t         tail        /* events that are safe elsewhere */
        __attribute__((aligned(64)));
} apikey_ring_file_t;


typedef struct apikey_ring_s  apikey_ring_t;

struct apikey_ring_s {
    apikey_ring_file_t  *file;
    uint32_t            *index;
    uint8_t             *small;
    uint8_t             *large;
    int                  fd;
    int                  err;            /* errno of the last failure */
    const char          *what;           /* what failed; static */
    bool                 copied;         /* another file may count on under
                                            its epoch */

    /* set by whoever claims it: what a dead owner's requests have held in
       this zone is told once */
    uint64_t             zone;
    void               (*lost)(void *data, const apikey_hold_t *hold);
    void                *data;

    /* the owner's */
    uint64_t             freed;          /* events whose slots are free */
    uint32_t             free_small;     /* heads of lists; SLOTS: none */
    uint32_t             free_large;
    uint32_t             open;           /* slots OPEN or SUM */

    /* the shipper's */
    uint64_t             read;           /* events taken */
};


typedef enum {
    APIKEY_RING_OK = 0,
    APIKEY_RING_BUSY,            /* somebody else owns it */
    APIKEY_RING_FOREIGN,         /* another layout or node: left alone */
    APIKEY_RING_FAILED           /* ring->what, ring->err */
} apikey_ring_e;


size_t apikey_ring_size(void);

/*
 * Makes ring number `stream` in the directory; OK too when it exists.  The
 * file appears under its name when it is complete.
 */
apikey_ring_e apikey_ring_create(apikey_ring_t *ring, const char *dir,
    uint32_t stream, const uint8_t node[16], uint64_t epoch, int uid,
    int gid);

/* Maps a ring; nothing in it changes. */
apikey_ring_e apikey_ring_open(apikey_ring_t *ring, const char *dir,
    uint32_t stream, const uint8_t node[16]);
void apikey_ring_close(apikey_ring_t *ring);     /* gives the flock back */

/* Says in an open ring which file it is, once. */
void apikey_ring_sign(apikey_ring_t *ring);

/*
 * Puts a new file with an epoch of its own in the place of a copied one, all
 * of which is safe elsewhere.  This one stays open, and is nobody's.
 */
apikey_ring_e apikey_ring_renew(apikey_ring_t *ring, const char *dir,
    uint64_t epoch);

/*
 * Takes an open ring's flock and puts its last owner's slots in order.  What
 * is in a copied one may be shipped, but nothing is added to it.
 */
apikey_ring_e apikey_ring_claim(apikey_ring_t *ring, int64_t now);

/* The owner goes: open slots become worker_lost; the flock is given back. */
void apikey_ring_release(apikey_ring_t *ring, int64_t now);


/* The owner.  NULL: no slot is free; a record of `size` bytes fits. */
apikey_slot_t *apikey_ring_get(apikey_ring_t *ring, size_t size);

/* The slot that the next get() most likely gives comes into the cache; of a
   ring that is not open none does. */
void apikey_ring_ahead(const apikey_ring_t *ring);

/* Where a slot's holds stand, and what room record and holds want. */
apikey_hold_t *apikey_ring_holds(apikey_slot_t *slot);
size_t apikey_ring_room(size_t record, unsigned holds);
void apikey_ring_opened(apikey_ring_t *ring, apikey_slot_t *slot,
    apikey_slot_e state, uint32_t unknown);
void apikey_ring_put(apikey_ring_t *ring, apikey_slot_t *slot);
void apikey_ring_publish(apikey_ring_t *ring, apikey_slot_t *slot);


/* Anybody who mapped it. */
uint64_t apikey_ring_head(const apikey_ring_t *ring);
uint64_t apikey_ring_tail(const apikey_ring_t *ring);

/* The shipper.  number: from 1, above the tail, at most the head. */
const apikey_record_t *apikey_ring_record(const apikey_ring_t *ring,
    uint64_t number);
void apikey_ring_record_ahead(const apikey_ring_t *ring, uint64_t number);
void apikey_ring_done(apikey_ring_t *ring, uint64_t number);

/*
 * A copy (of APIKEY_RECORD_LARGE bytes) of what stands in the i-th slot, if
 * that runs, or has ended as an event above that number; and what nobody knows
 * of it, but that it has ended.
 */
bool apikey_ring_runs(const apikey_ring_t *ring, uint32_t i, uint64_t number,
    apikey_record_t *copy, uint32_t *unknown);


#endif /* APIKEY_RING_H_INCLUDED */
