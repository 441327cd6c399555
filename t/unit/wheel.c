
/*
 * The wheel of leases against a list of them: each is due once, not before its
 * time and soon after it; what a worker that died has torn is made anew.  And
 * Redis' clock, which is never believed to be later than it is.
 */


#include <stdlib.h>

#include "limit/wheel.c"

#include "unit.h"


#define ENTRIES  400
#define MANY     5000
#define SECOND   INT64_C(1000000)
#define TICK     NGX_HTTP_APIKEY_LEASES_TICK


static ngx_http_apikey_leases_t       leases;
static ngx_http_apikey_lease_entry_t  entries[ENTRIES];
static ngx_http_apikey_lease_entry_t  many[MANY];
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
    unsigned  i, n, at, most, total[ENTRIES], wrong;

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

    ngx_http_apikey_leases_rebuild(&leases);
    is_uint(due(), 0, "torn: a wheel with nothing in it");

    queue(7, now + SECOND / 5);
    queue(7, now);
    is_uint(leases.queued, 1, "into which one goes once");

    ok(!ngx_http_apikey_leases_walk(&leases, now), "and then all others");
    is_uint(leases.queued, ENTRIES - 1, "but what is free");

    memset(total, 0, sizeof(total));
    most = 0;

    for (n = 0; n < 100; n++) {
        now += TICK;
        at = due();
        most = ngx_max(most, at);

        for (i = 0; i < ENTRIES; i++) {
            total[i] += seen[i];
        }
    }

    ok(most < ENTRIES / 4, "they are not all due in one moment");

    wrong = 0;

    for (i = 0; i < ENTRIES; i++) {
        wrong += total[i] != (i != 9);
    }

    is_uint(wrong, 0, "each once, and not the one that is free");
}


/* Of very many some at a time, whatever comes in between. */

static void
test_walk(void)
{
    unsigned  i, n, owes;

    clean();
    now = SECOND;

    leases.entries = many;
    leases.n = MANY;
    leases.fresh = MANY;

    for (i = 0; i < MANY; i++) {
        many[i].linked = 1;
        many[i].conf.time = 3 * SECOND;
        many[i].owes = 0;
        many[i].queued = 0;
    }

    ok(!ngx_http_apikey_leases_walk(&leases, now), "nothing is to be done");
    is_uint(leases.queued, 0, "and nothing was");

    ngx_http_apikey_leases_owe(&leases);
    ok(ngx_http_apikey_leases_walk(&leases, now), "some of many");
    ok(leases.queued > 0 && leases.queued < MANY / 3, "not all of them");

    ngx_http_apikey_leases_rebuild(&leases);
    ngx_http_apikey_leases_queue(&leases, &many[MANY - 1], now, now);

    for (n = 1; ngx_http_apikey_leases_walk(&leases, now); n++) { /* void */ }

    ok(n > 3, "many times some");
    is_uint(leases.queued, MANY, "all are in the new wheel");

    for (i = 0, owes = 0; i < MANY; i++) {
        owes += many[i].owes;
    }

    is_uint(owes, MANY, "and nothing asked for before was forgotten");

    now += 2 * SECOND;

    for (n = 0; n <= MANY && ngx_http_apikey_leases_due(&leases, now); n++) {
        /* void */
    }

    is_uint(n, MANY, "each is due once");
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
    test_walk();
    test_clock();

    return unit_done();
}
