
/*
 * Names of numbers, and the histogram that counts into its bounds.
 */


#include "base/stats.h"
#include "base/verdict.h"

#include "unit.h"


#define is_name(got, want)  is_text(got, strlen(got), want, want)


static void
test_names(void)
{
    unsigned     i;
    const char  *name;

    is_name(apikey_verdict_name(APIKEY_OK), "ok");
    is_name(apikey_verdict_name(APIKEY_REVOKED_KEY), "revoked_key");
    is_name(apikey_verdict_name(APIKEY_RATE_LIMITED), "rate_limited");
    is_name(apikey_verdict_name(APIKEY_UNAVAILABLE), "unavailable");
    is_name(apikey_verdict_name(APIKEY_INVALID_REQUEST), "invalid_request");
    is_name(apikey_verdict_name(APIKEY_VERDICTS), "unknown");
    is_name(apikey_verdict_name((apikey_verdict_e) -1), "unknown");

    for (i = 0; i < APIKEY_VERDICTS; i++) {
        name = apikey_verdict_name((apikey_verdict_e) i);
        is_uint(apikey_verdict_parse(name, strlen(name)), i, name);
    }

    is_uint(apikey_verdict_parse("", 0), APIKEY_VERDICTS, "no name");
    is_uint(apikey_verdict_parse("ok", 1), APIKEY_VERDICTS, "a part of one");
    is_uint(apikey_verdict_parse("okay", 4), APIKEY_VERDICTS, "more than one");
    is_uint(apikey_verdict_parse("unknown", 7), APIKEY_VERDICTS, "no verdict");

    is_name(apikey_mode_name(APIKEY_MODE_NONE), "none");
    is_name(apikey_mode_name(APIKEY_MODE_DOWN_DENY), "down_deny");
    is_name(apikey_mode_name(APIKEY_MODES), "unknown");

    is_name(apikey_end_name(APIKEY_END_NORMAL), "");
    is_name(apikey_end_name(APIKEY_END_WORKER_LOST), "worker_lost");
    is_name(apikey_end_name(APIKEY_ENDS), "unknown");

    is_name(apikey_level_name(APIKEY_LEVEL_KEY), "key");
    is_name(apikey_level_name(APIKEY_LEVEL_OWNER), "owner");
    is_name(apikey_level_name(APIKEY_LEVELS), "unknown");

    is_name(apikey_unit_name(APIKEY_UNIT_REQUESTS), "requests");
    is_name(apikey_unit_name(APIKEY_UNIT_CONCURRENT), "concurrent");
    is_name(apikey_unit_name(APIKEY_UNITS), "unknown");

    is_name(apikey_fail_name(APIKEY_FAIL_MISSING), "missing");
    is_name(apikey_fail_name(APIKEY_FAIL_OPERATOR), "operator");
    is_name(apikey_fail_name(APIKEY_FAILS), "other");

    is_name(apikey_limited_name(APIKEY_LIMITED_CALLER), "caller");
    is_name(apikey_limited_name(APIKEY_LIMITED_LOOKUP), "lookup");
    is_name(apikey_limited_name(APIKEY_LIMITEDS), "other");
}


/* The last places share, and lose nothing by it. */

static void
test_own(void)
{
    unsigned               i;
    static apikey_stats_t  stats;

    for (i = 0; i < APIKEY_STATS_WORKERS; i++) {
        apikey_stats_count(&stats, i, APIKEY_STATS_REQUESTS(APIKEY_OK));
        apikey_stats_count(&stats, i,
                           APIKEY_STATS_DECISIONS(APIKEY_MODE_DOWN_DENY));
    }

    apikey_stats_count(&stats, 7,
                       APIKEY_STATS_REQUESTS(APIKEY_INVALID_REQUEST));

    is_uint(apikey_stats_sum(&stats, APIKEY_STATS_REQUESTS(APIKEY_OK)),
            APIKEY_STATS_WORKERS, "requests of all workers");
    is_uint(apikey_stats_sum(&stats,
                             APIKEY_STATS_DECISIONS(APIKEY_MODE_DOWN_DENY)),
            APIKEY_STATS_WORKERS, "and decisions");
    is_uint(apikey_stats_sum(&stats,
                           APIKEY_STATS_REQUESTS(APIKEY_INVALID_REQUEST)),
            1, "of one");
    is_uint(apikey_stats_sum(&stats, APIKEY_STATS_DECISIONS(0)), 0,
            "each apart");
}


static void
test_histogram(void)
{
    unsigned            i;
    apikey_histogram_t  h;

    memset(&h, 0, sizeof(h));

    for (i = 0; i < APIKEY_STATS_BUCKETS; i++) {
        ok(i == 0 || apikey_stats_bounds[i - 1] < apikey_stats_bounds[i],
           "bounds rise");

        apikey_histogram_add(&h, apikey_stats_bounds[i]);
        apikey_histogram_add(&h, apikey_stats_bounds[i] + 1);
    }

    is_uint(h.bucket[0], 1, "a bound is in its bucket");

    for (i = 1; i <= APIKEY_STATS_BUCKETS; i++) {
        is_uint(h.bucket[i], i < APIKEY_STATS_BUCKETS ? 2 : 1,
                "what is above it in the next");
    }

    is_uint(h.count, 2 * APIKEY_STATS_BUCKETS, "all are counted");

    for (i = 0; i < APIKEY_STATS_BUCKETS; i++) {
        h.sum -= 2 * apikey_stats_bounds[i] + 1;
    }

    is_uint(h.sum, 0, "and summed up");
}


int
main(void)
{
    test_names();
    test_own();
    test_histogram();

    return unit_done();
}
