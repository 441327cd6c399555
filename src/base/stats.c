
/*
 * Histograms and label values of base/stats.h.
 *
 * No state here: the counters are the caller's, in the zone.
 */


#include "base/stats.h"


/* from a Redis answer on loopback to the longest deadline one would set */

const uint64_t  apikey_stats_bounds[APIKEY_STATS_BUCKETS] = {
    100,
    250,
    500,
    1000,
    2500,
    5000,
    10000,
    25000,
    50000,
    100000,
    1000000,
    5000000
};


static const char *const  apikey_fail_names[APIKEY_FAILS] = {
    "missing",
    "duplicate",
    "length",
    "prefix",
    "checksum",
    "mac",
    "unknown",
    "revoked",
    "expired",
    "disabled",
    "operator"
};


static const char *const  apikey_limited_names[APIKEY_LIMITEDS] = {
    "caller",
    "failure",
    "lookup"
};


uint64_t
apikey_stats_sum(apikey_stats_t *stats, unsigned what)
{
    uint64_t  sum;
    unsigned  i;

    sum = 0;

    for (i = 0; i <= APIKEY_STATS_OWNERS; i++) {
        sum += apikey_stats_get(&stats->own[i].n[what]);
    }

    return sum;
}


void
apikey_histogram_add(apikey_histogram_t *h, uint64_t us)
{
    unsigned  i;

    for (i = 0; i < APIKEY_STATS_BUCKETS; i++) {
        if (us <= apikey_stats_bounds[i]) {
            break;
        }
    }

    apikey_stats_add(&h->bucket[i], 1);
    apikey_stats_add(&h->sum, us);
    apikey_stats_add(&h->count, 1);
}


const char *
apikey_fail_name(apikey_fail_e reason)
{
    return (unsigned) reason < APIKEY_FAILS ? apikey_fail_names[reason]
                                            : "other";
}


const char *
apikey_limited_name(apikey_limited_e what)
{
    return (unsigned) what < APIKEY_LIMITEDS ? apikey_limited_names[what]
                                             : "other";
}
