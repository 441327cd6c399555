
/*
 * Token bucket in exact integers, on a rate of base/rate.h.
 *
 * A bucket counts what is used, not what is left: 0 is full, capacity is
 * empty, more is a debt (a limit was lowered below its use).  So what is
 * used stays used whatever becomes of the limit, and zeroed memory is full.
 *
 * Plain C, no allocation; the caller owns every struct and the lock around
 * it.  Called by limit/ only.  script.lua repeats this arithmetic; "The
 * arithmetic" below is what both must do, t/unit/bucket.c holds the vectors.
 */


#ifndef APIKEY_BUCKET_H_INCLUDED
#define APIKEY_BUCKET_H_INCLUDED


#include <stdbool.h>
#include <stdint.h>

#include "base/rate.h"


/*
 * The arithmetic
 *
 * All values are integers in [0, MAX], MAX = 2^53 - 1, at every step; so a
 * double holds them exactly.  a div b below is the integer quotient; with
 * doubles it is (a - math.fmod(a, b)) / b: fmod and the division of a
 * multiple are exact, math.floor(a / b) and a % b round near 2^53.
 *
 * refill(now)
 *     now <= at:      nothing, at stays (the clock went back)
 *     otherwise:      t = now div tick - at div tick     (whole ticks)
 *                     t == 0 or refill == 0:     used stays
 *                     t > used div refill:       used = 0
 *                     otherwise:                 used = used - t * refill
 *                     at = now
 *     Ticks are those of the clock, not counted from at: refilling often or
 *     once gives the same.
 *
 * take(n), after refill(now)
 *     n == 0:                            taken, also from a debt
 *     n > capacity div token:            not taken, ever
 *     used > capacity - n * token:       not taken
 *     otherwise:                         used = used + n * token
 *
 * wait(n, now), after refill(now)
 *     n == 0:                            0
 *     n > capacity div token:            never
 *     room = capacity - n * token
 *     used <= room:                      0
 *     otherwise:                         until(used - room)
 * reset(now)
 *     used == 0:                         0
 *     otherwise:                         until(used)
 * until(d), d >= 1 units refilled
 *     refill == 0:                       never
 *     t = (d - 1) div refill + 1
 *     s = at div tick
 *     t > MAX div tick - s:              end = MAX
 *     otherwise:                         end = (s + t) * tick
 *     max(end - now, 0); at may be after now, the wait is then longer
 *
 * remaining()
 *     used >= capacity: 0;  otherwise (capacity - used) div token
 *
 * rescale(old, new, now): the limit was edited
 *     refill(now) with the old rate
 *     token differs:  used = min(MAX, ceil(used * new.token / old.token)),
 *                     without the product: q = used div old.token,
 *                     r = used - q * old.token,
 *                     q > MAX div new.token:   used = MAX
 *                     otherwise:  a = q * new.token,
 *                                 b = ceil(r * new.token / old.token)
 *                     a > MAX - b:             used = MAX
 *                     otherwise:               used = a + b
 *                     (b by binary long multiplication, share() in bucket.c,
 *                     or directly where r * new.token <= MAX)
 *     token, refill or tick differs: at is rounded up to a multiple of
 *                     new.tick, or the tick running now would be paid twice
 *     capacity alone differs: nothing changes, the edit is in force already
 *     Refill reads neither capacity: only token, refill and tick of the old
 *     rate have to be kept beside used and at.
 */


#define APIKEY_BUCKET_MAX    0x1fffffffffffffULL
#define APIKEY_BUCKET_NEVER  UINT64_MAX


typedef struct {
    uint64_t  used;         /* units */
    uint64_t  at;           /* us since the epoch, the last refill */
} apikey_bucket_t;


/* Full.  An empty one: used = rate->capacity. */
void apikey_bucket_init(apikey_bucket_t *b, uint64_t now);

void apikey_bucket_refill(apikey_bucket_t *b, const apikey_rate_t *rate,
    uint64_t now);

/* All or nothing; false leaves the bucket as it was. */
bool apikey_bucket_take(apikey_bucket_t *b, const apikey_rate_t *rate,
    uint64_t tokens);

/*
 * What take() took, given back: used = max(0, used - n * token).  In shared
 * memory only; the script gives nothing back.
 */
void apikey_bucket_give(apikey_bucket_t *b, const apikey_rate_t *rate,
    uint64_t tokens);

/* Microseconds until take() succeeds if nobody else takes, or NEVER. */
uint64_t apikey_bucket_wait(const apikey_bucket_t *b,
    const apikey_rate_t *rate, uint64_t tokens, uint64_t now);

/* Microseconds until the bucket is full, or NEVER. */
uint64_t apikey_bucket_reset(const apikey_bucket_t *b,
    const apikey_rate_t *rate, uint64_t now);

/* Whole tokens left. */
uint64_t apikey_bucket_remaining(const apikey_bucket_t *b,
    const apikey_rate_t *rate);

/* Refills as old, goes on as rate. */
void apikey_bucket_rescale(apikey_bucket_t *b, const apikey_rate_t *old,
    const apikey_rate_t *rate, uint64_t now);


#endif /* APIKEY_BUCKET_H_INCLUDED */
