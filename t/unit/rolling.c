
/*
 * Rolling windows: what is exact, what is later, and a random run against a
 * log that forgets nothing: never more than the limit in any window, and never
 * refused what a window longer by one piece would have had room for.
 */


#include <stdlib.h>

#include "limit/rolling.h"

#include "unit.h"


#define SECOND  UINT64_C(1000000)
#define T0      UINT64_C(1795217207537822)
#define EVENTS  4000


typedef struct {
    uint64_t  at, count;
} event_t;


static event_t   events[EVENTS];
static unsigned  nevents, crowded;


/* Of a log without end: what was admitted in (now - window, now]. */

static uint64_t
exact(uint64_t window, uint64_t now)
{
    uint64_t  sum = 0;
    unsigned  i;

    for (i = nevents; i && events[i - 1].at + window > now; i--) {
        sum += events[i - 1].count;
    }

    return sum;
}


static void
test_each_instant(void)
{
    unsigned          i;
    apikey_rolling_t  r = { .n = 0 };

    for (i = 0; i < 60; i++) {
        apikey_rolling_add(&r, 1, T0 + i, 1);
    }

    is_uint(r.n, 60, "few: each instant has a place");
    is_uint(apikey_rolling_free(&r, SECOND, 60), 0, "there is room");
    is_uint(apikey_rolling_free(&r, SECOND, 59), T0 + SECOND,
            "the first leaves");
    is_uint(apikey_rolling_free(&r, SECOND, 50), T0 + 9 + SECOND,
            "ten have left");
    is_uint(apikey_rolling_free(&r, SECOND, 0), T0 + 59 + SECOND, "all");

    apikey_rolling_pass(&r, SECOND, T0 + SECOND - 1);
    is_uint(r.sum, 60, "a microsecond before the end of the window");

    apikey_rolling_pass(&r, SECOND, T0 + SECOND);
    is_uint(r.sum, 59, "at its end");

    apikey_rolling_pass(&r, SECOND, T0 + 58 + SECOND);
    is_uint(r.n, 1, "one is left");

    apikey_rolling_pass(&r, SECOND, T0 + 100 + SECOND);
    is_uint(r.sum, 0, "none is left");
}


static void
test_places(void)
{
    unsigned          i;
    uint64_t          width;
    apikey_rolling_t  r = { .n = 0 };

    is_uint(apikey_rolling_width(SECOND, 64), 1, "64 fit");
    is_uint(apikey_rolling_width(63, 65), 1, "as do 63 microseconds");
    is_uint(apikey_rolling_width(64, 65), 2, "the rest is rounded up");

    width = apikey_rolling_width(3600 * SECOND, 1000);
    is_uint(width, 57142858, "a 63rd of an hour");

    for (i = 0; i < 3600; i++) {
        apikey_rolling_pass(&r, 3600 * SECOND, T0 + i * SECOND);
        apikey_rolling_add(&r, width, T0 + i * SECOND, 7);
    }

    is_uint(r.sum, 7 * 3600, "all of it is there");
    ok(r.n <= 64 && r.n > 60, "in no more than 64 places");

    for (i = 0; i < 100; i++) {
        apikey_rolling_add(&r, 1, T0 + 3600 * SECOND + i, 1);
    }

    is_uint(r.n, 64, "too many: the last place takes them");
    is_uint(r.sum, 7 * 3600 + 100, "... all of them");
    is_uint(r.places[63].at, T0 + 3600 * SECOND + 99, "... as of the last");
}


static void
test_odd(void)
{
    apikey_rolling_t  r = { .n = 0 };

    apikey_rolling_add(&r, 1, T0, 0);
    is_uint(r.n, 0, "nothing has no place");

    apikey_rolling_add(&r, 1, T0, 5);
    apikey_rolling_add(&r, 1, T0 - 3, 2);
    is_uint(r.n, 1, "a clock that went back by little waits");
    is_uint(r.places[0].at, T0, "... at the last place");

    apikey_rolling_add(&r, 1, T0 + 10 * SECOND, 1);
    apikey_rolling_back(&r, T0 + 7);
    is_uint(r.places[0].at, T0, "by more: what was before");
    is_uint(r.places[1].at, T0 + 7, "... and what is now");

    apikey_rolling_add(&r, 1, T0 + 7, UINT64_MAX);
    is_uint(r.sum, APIKEY_BUCKET_MAX - 1, "never over what a double holds");

    apikey_rolling_set(&r, T0, 9);
    is_uint(r.n, 1, "set: one place");
    is_uint(r.sum, 9, "... with all of it");
}


static void
test_give(void)
{
    unsigned          i;
    apikey_rolling_t  r = { .n = 0 };

    for (i = 0; i < 5; i++) {
        apikey_rolling_add(&r, 1, T0 + i * 10, 100);
    }

    apikey_rolling_give(&r, T0 + 15, 150);
    is_uint(r.sum, 350, "given back");
    is_uint(r.n, 4, "an empty place goes");
    is_uint(r.places[0].count, 100, "what is older stays");
    is_uint(r.places[1].count, 100, "... that, too");
    is_uint(r.places[2].count, 50, "the rest is off the next one");

    apikey_rolling_give(&r, T0 + 40, 1000);
    is_uint(r.sum, 250, "no more than is there");

    apikey_rolling_give(&r, T0 + 41, 1000);
    is_uint(r.sum, 250, "nor of later ones");
}


/*
 * Random traffic at about the limit.  What is admitted must never exceed it
 * in the exact log; what is refused must exceed it in the window that is
 * longer by one piece.
 */

static void
random_run(unsigned seed)
{
    bool              good;
    uint64_t          now, cost, window, limit, width, over, under, refused;
    unsigned          i;
    apikey_rolling_t  r = { .n = 0 };

    static const uint64_t  limits[] = { 1, 2, 7, 63, 64, 65, 100, 1000,
                                        65537 };
    static const uint64_t  windows[] = { 1, 2, 63, 64, 65, 1000, 1000000,
                                         86400000000, 2678400000000 };

    srand(seed);

    limit = limits[rand() % 9];
    window = windows[rand() % 9];
    width = apikey_rolling_width(window, limit);

    now = T0 + rand();
    nevents = 0;
    over = under = refused = 0;

    for (i = 0; i < EVENTS; i++) {

        if (rand() % 3) {
            now += (uint64_t) (rand() % 1000) * window / 1000
                   / (rand() % 50 ? 1 + limit / (1 + i % 7) : 1)
                   + (window < 1000 ? rand() % 2 : 0);
        }

        cost = rand() % 4 ? 1 : 1 + rand() % (limit / 8 + 1);

        apikey_rolling_pass(&r, window, now);

        if (r.sum + cost > limit) {
            refused++;
            under += exact(window + (limit > 64 ? width - 1 : 0), now) + cost
                     <= limit;
            good = apikey_rolling_free(&r, window, limit - cost) > now;
            under += cost <= limit && !good;
            continue;
        }

        apikey_rolling_add(&r, width, now, cost);
        events[nevents++] = (event_t) { now, cost };

        over += exact(window, now) > limit;
        over += r.n > APIKEY_ROLLING_PLACES || r.sum > limit;
    }

    crowded += refused > 0 && nevents > 50;

    if (over || under) {
        printf("# seed %u: limit %" PRIu64 ", window %" PRIu64 ": over %"
               PRIu64 ", under %" PRIu64 ", refused %" PRIu64 " of %u\n",
               seed, limit, window, over, under, refused, EVENTS);
        ok(false, "random run");
    }
}


/*
 * Costs that are lowered later, several at a time: whatever window is looked
 * at, what it really took is within the limit.
 */

static void
random_give(unsigned seed)
{
    uint64_t          now, cost, window, limit, width, since, sum, over, back;
    unsigned          i, k, open;
    apikey_rolling_t  r = { .n = 0 };

    srand(seed);

    limit = rand() % 2 ? 1000 : 60;
    window = 1000000;
    width = apikey_rolling_width(window, limit);

    now = T0;
    nevents = 0;
    over = open = back = 0;

    for (i = 0; i < EVENTS; i++) {
        now += rand() % 5000;
        apikey_rolling_pass(&r, window, now);

        if (rand() % 20 == 0) {
            since = 0;
            sum = 0;

            for (k = open; k < nevents; k++) {

                if (events[k].at + window <= now || rand() % 4 == 0) {
                    continue;
                }

                since = since ? since : events[k].at;
                cost = rand() % (events[k].count + 1);
                events[k].count -= cost;
                sum += cost;
            }

            open = nevents;
            back += sum;
            apikey_rolling_give(&r, since, sum);
            over += since && exact(window, now) > r.sum;
        }

        cost = 1 + rand() % (limit / 20);

        if (r.sum + cost <= limit) {
            apikey_rolling_add(&r, width, now, cost);
            events[nevents++] = (event_t) { now, cost };
        }

        over += exact(window, now) > r.sum;
    }

    if (over || back == 0) {
        printf("# seed %u: over %" PRIu64 ", back %" PRIu64 "\n", seed, over,
               back);
        ok(false, "random costs that are lowered");
    }
}


int
main(int argc, char **argv)
{
    unsigned  i, seed;

    test_each_instant();
    test_places();
    test_odd();
    test_give();

    seed = argc > 1 ? (unsigned) strtoul(argv[1], NULL, 10) : 1;

    for (i = 0; i < 300; i++) {
        random_run(seed + i);
        random_give(seed + i);
    }

    ok(crowded > 100, "random runs that meet their limit");
    ok(unit_failures == 0, "300 random runs against a log without end");

    return unit_done();
}
