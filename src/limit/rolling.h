
/*
 * A rolling window: never more than so many tokens in any window of its
 * length, out of a log of a fixed size.
 *
 * The log keeps what was admitted when.  Where it cannot keep each instant it
 * puts neighbours together, at the later one: what was admitted counts for its
 * window and at most a 63rd of it more, and never for less.
 *
 * Plain C, no allocation; the caller owns every struct and the lock around
 * it.  Zeroed memory is an empty log.  Called by limit/ only;
 * limit/account_lua_time.h repeats this arithmetic.
 */


#ifndef APIKEY_ROLLING_H_INCLUDED
#define APIKEY_ROLLING_H_INCLUDED


#include <stdint.h>

#include "limit/bucket.h"


/*
 * The arithmetic
 *
 * A window of length P is half open: what was admitted at t counts before
 * t + P, and no longer at t + P.  All values are integers in [0, MAX].
 *
 * width(P, limit)
 *     limit <= 64:    1, each instant has a place
 *     otherwise:      ceil(P / 63): a window meets 64 such pieces at most
 * pass(now)           places with at + P <= now are dropped
 * add(n, now), after pass(now)
 *     at = max(now, the last at)
 *     the last place is at the same time, or in the same piece (at div
 *     width), or there are 64: it takes n, and is at "at" from now on
 *     otherwise a new place
 * give(n, since)      off the oldest places with at >= since first.  What
 *     comes back was admitted at since or later, so at places not before
 *     these: whatever window is looked at, no more has come back in it than
 *     was admitted in it.  Not for what has left the window (the caller)
 * free(room)          the end of the place with which sum <= room
 *
 * Nothing is over-admitted: a place is at the time of the last of what it
 * stands for, so the sum at now is that of (now - P, now] or more, and what
 * passes leaves it <= limit.
 */


#define APIKEY_ROLLING_PLACES  64


typedef struct {
    uint64_t                at;
    uint64_t                count;
} apikey_rolling_place_t;


typedef struct {
    uint64_t                sum;
    uint64_t                n;
    apikey_rolling_place_t  places[APIKEY_ROLLING_PLACES];
} apikey_rolling_t;


uint64_t apikey_rolling_width(uint64_t window, uint64_t limit);

void apikey_rolling_pass(apikey_rolling_t *r, uint64_t window, uint64_t now);

void apikey_rolling_add(apikey_rolling_t *r, uint64_t width, uint64_t now,
    uint64_t count);

/* All that counts was admitted now, so much of it. */
void apikey_rolling_set(apikey_rolling_t *r, uint64_t now, uint64_t count);

void apikey_rolling_give(apikey_rolling_t *r, uint64_t since, uint64_t count);

/* The clock went back to now: nothing was admitted later. */
void apikey_rolling_back(apikey_rolling_t *r, uint64_t now);

/* When no more than room counts, if nothing is added; 0: already. */
uint64_t apikey_rolling_free(const apikey_rolling_t *r, uint64_t window,
    uint64_t room);


#endif /* APIKEY_ROLLING_H_INCLUDED */
