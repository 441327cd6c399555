
/*
 * What Redis told of a limit: its two numbers (used, at), whatever its kind.
 *
 * Of a bucket they are one.  A rolling window is known by its sum alone: at is
 * when the cost that was asked about fits, if it did not, else when nothing is
 * used any more (limit/account.h).
 *
 * Plain C, no allocation.  Called by limit/ only.
 */


#ifndef APIKEY_LEVEL_H_INCLUDED
#define APIKEY_LEVEL_H_INCLUDED


#include "base/rate.h"
#include "limit/bucket.h"


/* Units that are used at now, at most; it was told at b->at by that clock. */
uint64_t apikey_level_used(const apikey_bucket_t *b,
    const apikey_rate_t *rate, uint64_t now);

/* As of a bucket; at and now are of Redis' clock. */
uint64_t apikey_level_wait(const apikey_bucket_t *b,
    const apikey_rate_t *rate, uint64_t tokens, uint64_t now);
uint64_t apikey_level_reset(const apikey_bucket_t *b,
    const apikey_rate_t *rate, uint64_t now);


#endif /* APIKEY_LEVEL_H_INCLUDED */
