
/*
 * The wheel of leases against a list of them: each is due once, not before its
 * time and soon after it; what a worker that died has torn is made anew.  And
 * Redis' clock, which is never believed to be later than it is.
 */


#include <stdlib.h>

#include "limit/wheel.c"

#include "unit.h"


#define ENTRIES  400
#define SECOND   INT64_C(1000000)
#define TICK     NGX_HTTP_APIKEY_LEASES_TICK


static ngx_http_apikey_leases_t       leases;
static ngx_http_apikey_lease_entry_t  entries[ENTRIES];
static int64_t                        want[ENTRIES];     /* 0: not queued */
static unsigned                       seen[ENTRIES];
static int64_t                        now;


static void
clean(void)
{
    unsigned  i;

    memset(&leases, 0, sizeof(leases));
    memset(entries, 0, sizeof(entries));
    memset(want, 0, sizeof(want));

    leases.entries = entries;
    leases.n = ENTRIES;
    leases.fresh = ENTRIES;

    for (i = 0; i < ENTRIES; i++) {
        entries[i].linked = 1;
        entries[i].conf.time = 3 * SECOND;
    }
}


static void
queue(unsigned i, int64_t when)
{
    ngx_http_apikey_leases_queue(&leases, &entries[i], now, when);
}


/* All that are due; how often each. */

static unsigned
due(void)
{
    unsigned                        n;
    ngx_http_apikey_lease_entry_t  *entry;

    memset(seen, 0, sizeof(seen));

    for (n = 0; n <= ENTRIES; n++) {
        entry = ngx_http_apikey_leases_due(&leases, now);

        if (entry == NULL) {
            break;
        }

        seen[entry - entries]++;
    }

    return n;
}


static void
test_times(void)
{
    unsigned  i, round, early, late, twice;

    early = 0;
    late = 0;
    twice = 0;

    clean();
    now = 12345 * SECOND;

    for (round = 0; round < 20000; round++) {
        now += rand() % 100 ? rand() % 20000 : rand() % (30 * SECOND);
        (void) due();

        for (i = 0; i < ENTRIES; i++) {

            if (seen[i] > 1 || (seen[i] && want[i] == 0)) {
                twice++;
            }

            if (seen[i] && now < want[i]) {
                early++;
            }

            if (!seen[i] && want[i] && now >= want[i] + 2 * TICK) {
                late++;
            }

            if (seen[i]) {
                want[i] = 0;
            }
        }

        for (i = rand() % ENTRIES; i < ENTRIES; i += 1 + rand() % ENTRIES) {

            /* again changes nothing */

            if (want[i] == 0) {
                want[i] = now + rand() % (2 * SECOND) - SECOND / 4;
                queue(i, want[i]);

                /* looked at once a second */

                want[i] = ngx_max(ngx_min(want[i], now + SECOND), now);

            } else {
                queue(i, now);
            }
        }
    }

    is_uint(early, 0, "none is due too early");
    is_uint(late, 0, "nor later than two ticks after its time");
    is_uint(twice, 0, "and each once");
}


static void
test_count(void)
{
    unsigned  i;

    clean();
    now = SECOND;

    for (i = 0; i < ENTRIES; i++) {
        queue(i, now + (int64_t) i * 1000);
        queue(i, now);
    }

    is_uint(leases.queued, ENTRIES, "all are in");
    now += 3600 * SECOND;
    is_uint(due(), ENTRIES, "an hour later all are due");
    is_uint(leases.queued, 0, "and none is in");
    is_uint(due(), 0, "nor due again");

    queue(7, now - 99 * SECOND);
    is_uint(due(), 0, "what should have been is due at the next tick");
    now += 2 * TICK;
    is_uint(due(), 1, "and then it is");
}


static void
test_torn(void)
{
    unsigned  i, wrong;

    clean();
    now = SECOND;

    for (i = 0; i < ENTRIES; i++) {
        queue(i, now + (int64_t) i * 1000);
    }

    /* taken out of its place, or put into none, and not said so; a loop */

    now += SECOND / 5;
    (void) ngx_http_apikey_leases_due(&leases, now);
    entries[1].queued = 0;
    entries[2].queued = 1;
    entries[3].wheel = 4;
    entries[9].linked = 0;

    ngx_http_apikey_leases_rebuild(&leases, now);
    is_uint(leases.queued, ENTRIES - 1, "torn: all that are in use are in");

    now += 4 * SECOND;
    is_uint(due(), ENTRIES - 1, "and due");

    wrong = 0;

    for (i = 0; i < ENTRIES; i++) {
        wrong += seen[i] != (i != 9);
    }

    is_uint(wrong, 0, "each once, and not the one that is free");
}


static void
test_clock(void)
{
    int64_t   redis, ahead;
    unsigned  i, late;

    clean();
    is_uint(ngx_http_apikey_leases_time(&leases, SECOND), 0, "no clock yet");

    now = 77 * SECOND;
    redis = 1795217207 * SECOND;
    late = 0;

    /* its clock is slower than ours by as much as clocks may be */

    for (i = 0; i < 100000; i++) {
        now += 1000;
        redis += 999;

        if (rand() % 20 == 0) {
            ngx_http_apikey_leases_clock(&leases, now,
                                         redis - rand() % 3000 - 100);
        }

        ahead = ngx_http_apikey_leases_time(&leases, now) - redis;

        if (leases.offset_at && ahead > 0) {
            late++;
        }
    }

    is_uint(late, 0, "never ahead of Redis");
    ok(ahead > -5000, "nor far behind");

    redis -= 3600 * SECOND;
    ngx_http_apikey_leases_clock(&leases, now, redis);
    ok(ngx_http_apikey_leases_time(&leases, now) == redis,
       "a clock that was set back is believed");
}


int
main(void)
{
    srand(4);

    test_times();
    test_count();
    test_torn();
    test_clock();

    return unit_done();
}
