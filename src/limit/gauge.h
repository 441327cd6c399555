
/*
 * What one limit has used, whatever its kind, as a process counts it in
 * memory: buckets by limit/bucket.h, rolling windows by limit/rolling.h,
 * quotas by the period they are in, concurrent by what runs.
 *
 * A gauge counts what is used, as a bucket does, and remembers the form of the
 * limit it was last seen with: what is used stays used whatever becomes of
 * the limit, also where it becomes another kind.
 *
 * Plain C, no allocation; the caller owns every struct and the lock around
 * it.  Two clocks: buckets go by one that never steps (now), periods by the
 * time of the day, which the caller has looked up in a calendar.
 */


#ifndef APIKEY_GAUGE_H_INCLUDED
#define APIKEY_GAUGE_H_INCLUDED


#include <stdbool.h>
#include <stdint.h>

#include "base/limit.h"
#include "limit/bucket.h"
#include "limit/rolling.h"


#define APIKEY_GAUGE_UNKNOWN  UINT64_MAX


typedef struct {
    apikey_bucket_t    bucket;   /* used; at: of a period its end, else the
                                    last refill */
    uint64_t           start;    /* since when used counts: a period's start */
    uint64_t           token;
    uint64_t           refill;   /* of what is no bucket: its kind; rolling:
                                    the window */
    uint64_t           tick;     /* 0: it is no bucket; RATE_ROLLING */
    uint64_t           capacity; /* as last seen, for apikey_gauge_over() */
    apikey_rolling_t  *log;      /* the caller's, of what rolls: before init()
                                    and open() */
} apikey_gauge_t;


/* Nothing is used.  As absent: its use is APIKEY_GAUGE_UNKNOWN. */
void apikey_gauge_init(apikey_gauge_t *g, const apikey_limit_t *limit,
    const apikey_period_t *period, uint64_t now);

/*
 * Carries it to now, to the period and to the limit as it is.  A use that is
 * unknown stays so, until a period has begun that starts with nothing.
 */
void apikey_gauge_open(apikey_gauge_t *g, const apikey_limit_t *limit,
    const apikey_period_t *period, uint64_t now);

/* Nothing is used, or no longer: what it says is what absent says. */
bool apikey_gauge_idle(apikey_gauge_t *g, uint64_t now, uint64_t real);

/* Whether so many percent of it or more were used when it was last opened. */
bool apikey_gauge_over(const apikey_gauge_t *g, unsigned percent);

/* After open(), where the use is known: */

/* Whether this cost passes, by the limit's mode; 0 passes. */
bool apikey_gauge_fits(const apikey_gauge_t *g, const apikey_limit_t *limit,
    uint64_t cost);

/* Paid, whether it fits or not; tokens < 0: given back. */
void apikey_gauge_add(apikey_gauge_t *g, int64_t tokens);

/* By since so much was used by others; after open(), too. */
void apikey_gauge_raise(apikey_gauge_t *g, uint64_t used, uint64_t since,
    uint64_t now);

/*
 * The period that what is paid now is paid in, for settle(): 0 for what has
 * no period, of what rolls the time.  What was paid in a period that is over,
 * or has left the window, is no longer its use.
 */
uint64_t apikey_gauge_period(const apikey_gauge_t *g);
void apikey_gauge_settle(apikey_gauge_t *g, int64_t tokens,
    uint64_t paid_in);

/* Microseconds until this cost fits, or APIKEY_BUCKET_NEVER; real: the time
   of the day. */
uint64_t apikey_gauge_wait(const apikey_gauge_t *g,
    const apikey_limit_t *limit, const apikey_period_t *period, uint64_t cost,
    uint64_t now, uint64_t real);

/* Microseconds until nothing is used, or APIKEY_BUCKET_NEVER. */
uint64_t apikey_gauge_reset(const apikey_gauge_t *g,
    const apikey_limit_t *limit, const apikey_period_t *period, uint64_t now,
    uint64_t real);

/* Whole tokens left. */
uint64_t apikey_gauge_remaining(const apikey_gauge_t *g,
    const apikey_limit_t *limit);


#endif /* APIKEY_GAUGE_H_INCLUDED */
