
/*
 * Token buckets: exactness against a model that counts in 128 bits, waits
 * that are neither early nor late, and edits that never refill.
 */


#include <stdlib.h>

#include "base/rate.h"
#include "limit/bucket.h"

#include "unit.h"


#define SECOND  UINT64_C(1000000)
#define HOUR    (3600 * SECOND)
#define DAY     (24 * HOUR)
#define NOW     UINT64_C(1795256130123456)


static uint64_t  test_seed = 42;


static uint64_t
test_random(uint64_t limit)
{
    test_seed ^= test_seed << 13;
    test_seed ^= test_seed >> 7;
    test_seed ^= test_seed << 17;

    return limit ? test_seed % limit : 0;
}


static apikey_rate_t
test_rate(uint64_t tokens, uint64_t period, uint64_t burst)
{
    apikey_rate_t  rate;

    if (!apikey_rate_init(&rate, tokens, period, burst)) {
        ok(false, "the rate has an exact form");
        exit(1);
    }

    return rate;
}


static void
test_burst(void)
{
    unsigned         n;
    apikey_rate_t    rate;
    apikey_bucket_t  b;

    rate = test_rate(50, SECOND, 100);
    apikey_bucket_init(&b, NOW);

    is_uint(apikey_bucket_remaining(&b, &rate), 100, "it starts full");
    is_uint(apikey_bucket_reset(&b, &rate, NOW), 0, "... at once");

    for (n = 0; apikey_bucket_take(&b, &rate, 1); n++) { /* void */ }

    is_uint(n, 100, "the burst passes, and no more");
    is_uint(apikey_bucket_remaining(&b, &rate), 0, "nothing is left");
    is_uint(apikey_bucket_wait(&b, &rate, 1, NOW), 20000, "one in 20 ms");
    is_uint(apikey_bucket_wait(&b, &rate, 100, NOW), 2000000, "all in 2 s");
    is_uint(apikey_bucket_reset(&b, &rate, NOW), 2000000, "full in 2 s");

    ok(apikey_bucket_take(&b, &rate, 0), "a cost of 0 always passes");
    is_uint(apikey_bucket_wait(&b, &rate, 0, NOW), 0, "... at once");
    is_uint(apikey_bucket_wait(&b, &rate, 101, NOW), APIKEY_BUCKET_NEVER,
            "more than the burst never fits");
    ok(!apikey_bucket_take(&b, &rate, 101), "... and is not taken");
    is_uint(apikey_bucket_wait(&b, &rate, UINT64_MAX, NOW),
            APIKEY_BUCKET_NEVER, "the largest cost neither");

    apikey_bucket_refill(&b, &rate, NOW + 19999);
    ok(!apikey_bucket_take(&b, &rate, 1), "one microsecond early");
    apikey_bucket_refill(&b, &rate, NOW + 20000);
    ok(apikey_bucket_take(&b, &rate, 1), "in time");

    apikey_bucket_refill(&b, &rate, NOW - HOUR);
    ok(!apikey_bucket_take(&b, &rate, 1), "a clock that went back");
    is_uint(b.at, NOW + 20000, "... leaves the stamp");
    is_uint(apikey_bucket_wait(&b, &rate, 1, NOW - HOUR), HOUR + 40000,
            "... and makes the wait longer");

    apikey_bucket_refill(&b, &rate, NOW + 400 * DAY);
    is_uint(b.used, 0, "a year fills it to the brim");
}


static void
test_none(void)
{
    apikey_rate_t    rate;
    apikey_bucket_t  b;

    rate = test_rate(0, HOUR, 0);
    apikey_bucket_init(&b, NOW);

    ok(!apikey_bucket_take(&b, &rate, 1), "limit 0 admits nothing");
    is_uint(apikey_bucket_wait(&b, &rate, 1, NOW), APIKEY_BUCKET_NEVER,
            "... ever");
    is_uint(apikey_bucket_remaining(&b, &rate), 0, "... has nothing left");

    rate = test_rate(0, HOUR, 5);

    ok(apikey_bucket_take(&b, &rate, 5), "without refill a burst is spent");
    apikey_bucket_refill(&b, &rate, NOW + DAY);
    is_uint(apikey_bucket_remaining(&b, &rate), 0, "... once");
    is_uint(apikey_bucket_wait(&b, &rate, 1, NOW), APIKEY_BUCKET_NEVER,
            "... and for all");
    is_uint(apikey_bucket_reset(&b, &rate, NOW), APIKEY_BUCKET_NEVER,
            "... it is never full again");
}


/* A refused cost fits after the wait it was told, and not before. */

static bool
test_wait(const apikey_bucket_t *b, const apikey_rate_t *rate, uint64_t cost,
    uint64_t now, uint64_t wait)
{
    bool             early;
    apikey_bucket_t  then;

    then = *b;
    apikey_bucket_refill(&then, rate, now + wait - 1);
    early = apikey_bucket_take(&then, rate, cost);

    then = *b;
    apikey_bucket_refill(&then, rate, now + wait);

    return !early && apikey_bucket_take(&then, rate, cost);
}


/*
 * Random calls at random times.  What was admitted must be what a bucket of
 * unbounded precision, refilled tick by tick of the clock, would admit.
 */

static bool
test_exact(uint64_t tokens, uint64_t period, uint64_t burst, uint64_t step)
{
    bool               fits, taken;
    uint64_t           now, cost, ticks, wait;
    unsigned           i;
    apikey_rate_t      rate;
    apikey_bucket_t    b;
    unsigned __int128  level, full, last;

    rate = test_rate(tokens, period, burst);
    now = NOW + test_random(SECOND);
    apikey_bucket_init(&b, now);

    full = (unsigned __int128) burst * rate.token;
    level = full;
    last = now / rate.tick;

    for (i = 0; i < 20000; i++) {
        now += test_random(step);

        ticks = now / rate.tick - (uint64_t) last;
        last += ticks;
        level += (unsigned __int128) ticks * rate.refill;
        level = level > full ? full : level;

        cost = test_random(8) ? 1 : test_random(burst + 2);
        fits = level >= (unsigned __int128) cost * rate.token;

        apikey_bucket_refill(&b, &rate, now);

        wait = apikey_bucket_wait(&b, &rate, cost, now);
        taken = apikey_bucket_take(&b, &rate, cost);

        if (taken != fits || taken != (wait == 0)) {
            return false;
        }

        if (taken) {
            level -= (unsigned __int128) cost * rate.token;
        }

        if (b.used != full - level
            || apikey_bucket_remaining(&b, &rate) != level / rate.token)
        {
            return false;
        }

        if (!taken && wait != APIKEY_BUCKET_NEVER
            && !test_wait(&b, &rate, cost, now, wait))
        {
            return false;
        }
    }

    return true;
}


static void
test_edit(void)
{
    apikey_rate_t    a, b, c;
    apikey_bucket_t  t;

    a = test_rate(1000, HOUR, 1000);
    b = test_rate(2000, HOUR, 2000);
    c = test_rate(100, HOUR, 100);

    apikey_bucket_init(&t, NOW);
    (void) apikey_bucket_take(&t, &a, 600);

    apikey_bucket_rescale(&t, &a, &b, NOW);
    is_uint(apikey_bucket_remaining(&t, &b), 1400,
            "a raised limit counts at once, what is used stays used");

    apikey_bucket_rescale(&t, &b, &c, NOW);
    is_uint(apikey_bucket_remaining(&t, &c), 0, "lowered below the use");
    ok(!apikey_bucket_take(&t, &c, 1), "... it refuses");
    is_uint(apikey_bucket_wait(&t, &c, 1, NOW) / SECOND, 501 * 36,
            "... until the debt is refilled");
    ok(apikey_bucket_take(&t, &c, 0), "... a cost of 0 passes");

    apikey_bucket_rescale(&t, &c, &a, NOW);
    is_uint(apikey_bucket_remaining(&t, &a), 400, "back: as it was");

    a.capacity /= 2;
    apikey_bucket_rescale(&t, &a, &a, NOW);
    is_uint(apikey_bucket_remaining(&t, &a), 0, "a lowered burst");

    a = test_rate(3, 31 * DAY, 3);
    b = test_rate(0, DAY, 0);

    apikey_bucket_init(&t, NOW);
    (void) apikey_bucket_take(&t, &a, 2);

    apikey_bucket_rescale(&t, &a, &b, NOW + DAY);
    is_uint(t.used, 2, "a part of a token is rounded up");
    apikey_bucket_rescale(&t, &b, &a, NOW + DAY);
    is_uint(apikey_bucket_remaining(&t, &a), 1, "... and stays used");

    a = test_rate(1000000000, SECOND, 1000000000);
    b = test_rate(1, 31 * DAY, 1);

    apikey_bucket_init(&t, NOW);
    (void) apikey_bucket_take(&t, &a, 1000000000);

    apikey_bucket_rescale(&t, &a, &b, NOW);
    is_uint(t.used, APIKEY_BUCKET_MAX, "a debt ends below 2^53");
    is_uint(apikey_bucket_wait(&t, &b, 1, NOW), APIKEY_BUCKET_MAX - NOW,
            "... and so does a wait");
}


/* An edit between ticks must not pay the running tick twice. */

static void
test_edit_tick(void)
{
    unsigned         i;
    uint64_t         now, got;
    apikey_rate_t    us, s;
    apikey_bucket_t  t;

    us = test_rate(1000, SECOND, 9999991);
    s = test_rate(9999991, 31 * DAY, 9999991);

    is_uint(us.tick, 1, "a limit of microseconds");
    is_uint(s.tick, 1000000, "and one of seconds");

    apikey_bucket_init(&t, NOW);
    (void) apikey_bucket_take(&t, &us, 9999991);

    now = NOW - NOW % SECOND;

    for (i = 0; i < 1000; i++) {
        now += SECOND - 1;
        apikey_bucket_rescale(&t, &us, &s, now);
        now += 1;
        apikey_bucket_rescale(&t, &s, &us, now);
    }

    got = apikey_bucket_remaining(&t, &us);

    ok(got <= 1000000, "a thousand edits give no tick twice");
    ok(got >= 1000000 - 1000, "... nor take one away");
}


/* ceil(used * new / old) in 128 bits, whatever the rates. */

static void
test_edit_exact(void)
{
    unsigned           i, good;
    uint64_t           before;
    apikey_rate_t      a, b;
    apikey_bucket_t    t;
    unsigned __int128  want;

    good = 0;

    for (i = 0; i < 100000; i++) {
        a.tick = b.tick = 1;
        a.refill = b.refill = 0;
        a.token = 1 + (test_random(UINT64_MAX) >> (11 + test_random(53)));
        b.token = 1 + (test_random(UINT64_MAX) >> (11 + test_random(53)));
        a.token -= a.token > APIKEY_BUCKET_MAX;
        b.token -= b.token > APIKEY_BUCKET_MAX;
        a.capacity = b.capacity = 0;

        before = test_random(UINT64_MAX) >> (11 + test_random(53));

        t.used = before;
        t.at = NOW;

        apikey_bucket_rescale(&t, &a, &b, NOW);

        want = ((unsigned __int128) before * b.token + a.token - 1) / a.token;
        want = want > APIKEY_BUCKET_MAX ? APIKEY_BUCKET_MAX : want;

        good += t.used == want;
    }

    is_uint(good, 100000, "edits round up by less than one unit");
}


int
main(void)
{
    test_burst();
    test_none();

    ok(test_exact(50, SECOND, 100, 40000), "50 a second is exact");
    ok(test_exact(1, SECOND, 1, 3 * SECOND), "1 a second is exact");
    ok(test_exact(1000, HOUR, 1000, 8 * SECOND), "1000 an hour is exact");
    ok(test_exact(999983, SECOND, 20, 10), "a prime a second is exact");
    ok(test_exact(9999991, HOUR, 9999991, 1000), "in ms it is exact");
    ok(test_exact(9999991, 31 * DAY, 9999991, SECOND), "in s it is exact");
    ok(test_exact(7, 31 * DAY, 7, 9 * DAY), "7 in 31 days is exact");
    ok(test_exact(3, SECOND, 3, SECOND), "3 a second is exact");

    test_edit();
    test_edit_tick();
    test_edit_exact();

    return unit_done();
}
