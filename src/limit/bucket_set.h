
/*
 * A fixed number of buckets under 16-byte names, for what must never grow:
 * callers of the admin API, addresses that guess.
 *
 * A name has eight places; when all are in use it takes the one that would be
 * full first.  Where "inherit" is set it goes on with what that one has used,
 * so that many names together get no more than the places do; else it starts
 * full.
 *
 * Plain C over memory of the caller's, shared or not; the caller owns the
 * lock around it.  A worker that dies at any line leaves a bucket that is
 * wrong once, and no broken structure.
 */


#ifndef APIKEY_BUCKET_SET_H_INCLUDED
#define APIKEY_BUCKET_SET_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "limit/bucket.h"


#define APIKEY_BUCKET_SET_NAME  16
#define APIKEY_BUCKET_SET_WAYS  8


typedef struct {
    uint8_t          name[APIKEY_BUCKET_SET_NAME];
    apikey_rate_t    rate;               /* token 0: never used */
    apikey_bucket_t  bucket;
} apikey_bucket_slot_t;


typedef struct {
    uint64_t              seed;
    uint64_t              rows;          /* of WAYS slots */
    bool                  inherit;
    apikey_bucket_slot_t  slots[];
} apikey_bucket_set_t;


/* As many rows as fit in size zeroed bytes; NULL: not even one. */
apikey_bucket_set_t *apikey_bucket_set_init(void *memory, size_t size,
    uint64_t seed, bool inherit);

/* Refilled to now, with this rate; good until the lock is released. */
apikey_bucket_t *apikey_bucket_set_get(apikey_bucket_set_t *set,
    const uint8_t name[APIKEY_BUCKET_SET_NAME], const apikey_rate_t *rate,
    uint64_t now);


#endif /* APIKEY_BUCKET_SET_H_INCLUDED */
