
/*
 * Counters of one nginx master, in the zone: written by any worker without
 * a lock, read by metrics and health.  They only grow, except gauges.
 * Those that each request adds to are a worker's own, by its place in the
 * master's table, and summed up by who reads them; workers with places beyond
 * share the last ones.
 *
 * Plain C on the compiler's atomics; zeroed memory is a valid start.
 */


#ifndef APIKEY_STATS_H_INCLUDED
#define APIKEY_STATS_H_INCLUDED


#include <stdint.h>

#include "base/verdict.h"


#define APIKEY_STATS_BUCKETS  12    /* upper bounds in apikey_stats_bounds */
#define APIKEY_STATS_WORKERS  1024  /* NGX_MAX_PROCESSES */
#define APIKEY_STATS_OWNERS   63    /* workers with counters of their own */

/* which of these: one per mode, one per verdict; a request that passes adds to
   two of the first eight, a cache line */
#define APIKEY_STATS_DECISIONS(mode)    (mode)
#define APIKEY_STATS_REQUESTS(verdict)  (APIKEY_MODES + (verdict))
#define APIKEY_STATS_OWN                (APIKEY_MODES + APIKEY_VERDICTS)


typedef struct {
    uint64_t  bucket[APIKEY_STATS_BUCKETS + 1];   /* each alone, not summed
                                                     up; the last: +Inf */
    uint64_t  count;
    uint64_t  sum;                                /* microseconds */
} apikey_histogram_t;


/* why a credential was refused: apikey_credential_failures_total{reason} */

typedef enum {
    APIKEY_FAIL_MISSING = 0,
    APIKEY_FAIL_DUPLICATE,
    APIKEY_FAIL_LENGTH,
    APIKEY_FAIL_PREFIX,          /* apikey_accept */
    APIKEY_FAIL_CHECKSUM,
    APIKEY_FAIL_MAC,
    APIKEY_FAIL_UNKNOWN,
    APIKEY_FAIL_REVOKED,
    APIKEY_FAIL_EXPIRED,
    APIKEY_FAIL_DISABLED,
    APIKEY_FAIL_OPERATOR,        /* admin API: no such token */
    APIKEY_FAILS
} apikey_fail_e;


/* apikey_limited_total{what} */

typedef enum {
    APIKEY_LIMITED_CALLER = 0,   /* admin API: the caller's rate */
    APIKEY_LIMITED_FAILURE,      /* admin API: wrong credentials */
    APIKEY_LIMITED_LOOKUP,       /* guesses that would ask Postgres */
    APIKEY_LIMITEDS
} apikey_limited_e;


/* no cache line is written by two workers */

typedef struct {
    uint64_t            n[APIKEY_STATS_OWN];
} __attribute__((aligned(64))) apikey_stats_own_t;


typedef struct {
    apikey_stats_own_t  own[APIKEY_STATS_OWNERS + 1];
    uint64_t            failures[APIKEY_FAILS];
    uint64_t            limited[APIKEY_LIMITEDS];
    uint64_t            leases;          /* asked for in Redis */
    uint64_t            waits;           /* of requests for Redis */
    apikey_histogram_t  redis;           /* apikey_redis_seconds */
    apikey_histogram_t  postgres;        /* apikey_postgres_seconds */

    /* gauges */
    uint64_t            redis_up;        /* 0 or 1; written by limit */
    uint64_t            postgres_up;     /* written by keyring sync */
    uint64_t            waiting[APIKEY_STATS_WORKERS];   /* requests suspended
                                            now, by the worker's place in the
                                            master's table: who takes a dead
                                            one's place begins at 0 */
    uint64_t            nodes;           /* seen in the last hour; >= 1 */
    uint64_t            currency;        /* three letters, the first one
                                            lowest; 0 unknown */
    uint64_t            client_prefix;   /* bits that are recorded of IPv4, of
                                            IPv6 << 8; 0 unknown */
    uint64_t            schema;          /* version found; 0 unknown */
    uint64_t            schema_ok;       /* 1 when new enough */
    uint64_t            journal_bytes;   /* spool on disk, not yet shipped */
    uint64_t            journal_oldest;  /* us since the epoch of the oldest
                                            unshipped event, 0 none */
    uint64_t            dropped;         /* usage records lost to a full
                                            journal */
    uint64_t            drift;           /* nano-units between a budget and
                                            Postgres, the largest found */
} apikey_stats_t;


#define APIKEY_CLIENT_PREFIX(v4, v6)                                          \
    ((uint64_t) (v4) | (uint64_t) (v6) << 8 | (uint64_t) 1 << 16)

#define apikey_stats_add(p, n)                                                \
    (void) __atomic_fetch_add(p, n, __ATOMIC_RELAXED)
#define apikey_stats_set(p, n)   __atomic_store_n(p, n, __ATOMIC_RELAXED)
#define apikey_stats_get(p)      __atomic_load_n(p, __ATOMIC_RELAXED)


/* One more of the worker at this place, who alone writes there. */

static inline void
apikey_stats_count(apikey_stats_t *stats, uint64_t place, unsigned what)
{
    uint64_t  *n;

    if (place >= APIKEY_STATS_OWNERS) {
        apikey_stats_add(&stats->own[APIKEY_STATS_OWNERS].n[what], 1);
        return;
    }

    n = &stats->own[place].n[what];
    apikey_stats_set(n, apikey_stats_get(n) + 1);
}


extern const uint64_t  apikey_stats_bounds[APIKEY_STATS_BUCKETS];  /* us */

/* Of all workers. */
uint64_t apikey_stats_sum(apikey_stats_t *stats, unsigned what);

void apikey_histogram_add(apikey_histogram_t *h, uint64_t us);
const char *apikey_fail_name(apikey_fail_e reason);
const char *apikey_limited_name(apikey_limited_e what);


#endif /* APIKEY_STATS_H_INCLUDED */
