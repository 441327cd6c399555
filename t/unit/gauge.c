
/*
 * Gauges: periods that begin, clocks that go back, limits that become others,
 * and what is settled late.
 */


#include "limit/gauge.h"

#include "unit.h"


#define DAY   UINT64_C(86400000000)
#define T0    (UINT64_C(20000) * DAY)        /* a midnight */
#define BOOT  UINT64_C(5000000)
#define BASE  UINT64_C(2251799813685248)


static const apikey_period_t  none;


static apikey_limit_t
test_limit(apikey_kind_e kind, uint64_t n)
{
    apikey_limit_t  limit;

    memset(&limit, 0, sizeof(apikey_limit_t));

    limit.kind = (uint8_t) kind;
    limit.limit = n;
    limit.burst = n;
    limit.rate.token = 1;
    limit.rate.capacity = n;
    limit.rate.tick = 1;

    switch (kind) {

    case APIKEY_KIND_BUCKET:
        limit.window = 1000000;
        (void) apikey_rate_init(&limit.rate, n, limit.window, n);
        break;

    case APIKEY_KIND_CALENDAR:
        limit.period = APIKEY_PERIOD_DAY;
        limit.fill = n;
        break;

    case APIKEY_KIND_CREDITS:
        limit.base = BASE;
        limit.limit = BASE + n;
        limit.rate.capacity = BASE + n;
        break;

    case APIKEY_KIND_CONCURRENT:
        limit.unit = APIKEY_UNIT_CONCURRENT;
        break;

    default:
        break;
    }

    return limit;
}


static apikey_period_t
test_day(unsigned n)
{
    apikey_period_t  period;

    period.start = T0 + n * DAY;
    period.end = period.start + DAY;
    period.next = period.end + DAY;

    return period;
}


static void
test_calendar(void)
{
    apikey_limit_t   limit;
    apikey_gauge_t   g;
    apikey_period_t  day, last;

    limit = test_limit(APIKEY_KIND_CALENDAR, 10);
    day = test_day(0);

    apikey_gauge_init(&g, &limit, &day, BOOT);
    is_uint(apikey_gauge_remaining(&g, &limit), 10, "all of a day");

    apikey_gauge_add(&g, 10);
    ok(!apikey_gauge_fits(&g, &limit, 1), "and no more");
    ok(apikey_gauge_fits(&g, &limit, 0), "what costs nothing fits");
    is_uint(apikey_gauge_wait(&g, &limit, &day, 1, BOOT, T0 + 5), DAY - 5,
            "until it ends");
    ok(apikey_gauge_wait(&g, &limit, &day, 11, BOOT, T0 + 5)
       == APIKEY_BUCKET_NEVER, "more than a day has never fits");
    is_uint(apikey_gauge_reset(&g, &limit, &day, BOOT, T0 + 5), DAY - 5,
            "full again then");

    apikey_gauge_open(&g, &limit, &day, BOOT + 100 * DAY);
    is_uint(apikey_gauge_remaining(&g, &limit), 0,
            "the other clock fills nothing");
    ok(!apikey_gauge_idle(&g, BOOT, T0 + DAY - 1), "it is in use");
    ok(apikey_gauge_idle(&g, BOOT, T0 + DAY), "until the period is over");

    last = day;
    day = test_day(1);
    apikey_gauge_open(&g, &limit, &day, BOOT);
    is_uint(apikey_gauge_remaining(&g, &limit), 10, "the next day");

    apikey_gauge_add(&g, 4);
    apikey_gauge_open(&g, &limit, &last, BOOT);
    is_uint(apikey_gauge_remaining(&g, &limit), 6, "the clock goes back");
    apikey_gauge_open(&g, &limit, &day, BOOT);
    is_uint(apikey_gauge_remaining(&g, &limit), 6, "... and forth");

    day = test_day(7);
    apikey_gauge_open(&g, &limit, &day, BOOT);
    is_uint(apikey_gauge_remaining(&g, &limit), 10, "days later");
}


static void
test_credits(void)
{
    apikey_limit_t   limit;
    apikey_gauge_t   g;
    apikey_period_t  day;

    limit = test_limit(APIKEY_KIND_CREDITS, 3);
    apikey_gauge_init(&g, &limit, &none, BOOT);

    is_uint(apikey_gauge_remaining(&g, &limit), 3, "credits");
    apikey_gauge_add(&g, 3);
    ok(apikey_gauge_wait(&g, &limit, &none, 1, BOOT, T0)
       == APIKEY_BUCKET_NEVER, "used up for good");

    limit = test_limit(APIKEY_KIND_CREDITS, 8);
    apikey_gauge_open(&g, &limit, &none, BOOT);
    is_uint(apikey_gauge_remaining(&g, &limit), 5, "five are added");

    limit.period = APIKEY_PERIOD_DAY;
    limit.fill = 20;
    day = test_day(0);
    apikey_gauge_open(&g, &limit, &day, BOOT);
    is_uint(apikey_gauge_remaining(&g, &limit), 5, "a refill is to come");
    is_uint(apikey_gauge_wait(&g, &limit, &day, 6, BOOT, T0 + 1), DAY - 1,
            "... tomorrow");
    ok(apikey_gauge_wait(&g, &limit, &day, 21, BOOT, T0 + 1)
       == APIKEY_BUCKET_NEVER, "... of twenty");

    day = test_day(1);
    apikey_gauge_open(&g, &limit, &day, BOOT);
    is_uint(apikey_gauge_remaining(&g, &limit), 20, "filled up");

    apikey_gauge_add(&g, -15);
    is_uint(apikey_gauge_remaining(&g, &limit), 35, "some come back");
    day = test_day(2);
    apikey_gauge_open(&g, &limit, &day, BOOT);
    is_uint(apikey_gauge_remaining(&g, &limit), 35,
            "what is more stays more");
}


static void
test_modes(void)
{
    apikey_limit_t  limit;
    apikey_gauge_t  g;

    limit = test_limit(APIKEY_KIND_TOTAL, 10);
    limit.unit = APIKEY_UNIT_COST;
    apikey_gauge_init(&g, &limit, &none, BOOT);
    apikey_gauge_add(&g, 8);

    ok(apikey_gauge_fits(&g, &limit, 2) && !apikey_gauge_fits(&g, &limit, 3),
       "strict");

    limit.mode = APIKEY_TRIM;
    ok(apikey_gauge_fits(&g, &limit, 300), "trim, with two left");
    apikey_gauge_add(&g, 300);
    ok(!apikey_gauge_fits(&g, &limit, 1), "... and then with none");

    limit.mode = APIKEY_OBSERVE;
    ok(apikey_gauge_fits(&g, &limit, 300), "observe");
    apikey_gauge_add(&g, INT64_MAX);
    is_uint(g.bucket.used, APIKEY_BUCKET_MAX, "... counts to the end");
    is_uint(apikey_gauge_remaining(&g, &limit), 0, "... none is left");
}


static void
test_edits(void)
{
    apikey_limit_t   bucket, day, total;
    apikey_gauge_t   g;
    apikey_period_t  period;

    bucket = test_limit(APIKEY_KIND_BUCKET, 10);
    day = test_limit(APIKEY_KIND_CALENDAR, 10);
    total = test_limit(APIKEY_KIND_TOTAL, 10);
    period = test_day(0);

    apikey_gauge_init(&g, &bucket, &none, BOOT);
    apikey_gauge_add(&g, 7);

    apikey_gauge_open(&g, &day, &period, BOOT);
    is_uint(apikey_gauge_remaining(&g, &day), 3, "a second becomes a day");
    apikey_gauge_open(&g, &day, &period, BOOT + 1000000);
    is_uint(apikey_gauge_remaining(&g, &day), 3, "... and does not refill");

    apikey_gauge_open(&g, &total, &none, BOOT + 1000000);
    is_uint(apikey_gauge_remaining(&g, &total), 3, "a day becomes all time");

    apikey_gauge_open(&g, &bucket, &none, BOOT + 9000000);
    is_uint(apikey_gauge_remaining(&g, &bucket), 3,
            "... a second again, from now on");
    apikey_gauge_open(&g, &bucket, &none, BOOT + 9500000);
    is_uint(apikey_gauge_remaining(&g, &bucket), 8, "... and refills");
    ok(apikey_gauge_idle(&g, BOOT + 10000000, T0), "... until it is full");
}


static void
test_settle(void)
{
    uint64_t         paid;
    apikey_limit_t   limit;
    apikey_gauge_t   g;
    apikey_period_t  day;

    limit = test_limit(APIKEY_KIND_CALENDAR, 10);
    day = test_day(0);
    apikey_gauge_init(&g, &limit, &day, BOOT);

    apikey_gauge_add(&g, 6);
    paid = apikey_gauge_period(&g);
    is_uint(paid, day.end, "paid in this period");

    apikey_gauge_settle(&g, -2, paid);
    is_uint(apikey_gauge_remaining(&g, &limit), 6, "it has cost less");
    apikey_gauge_settle(&g, 9, paid);
    is_uint(apikey_gauge_remaining(&g, &limit), 0, "it has cost more");

    day = test_day(1);
    apikey_gauge_open(&g, &limit, &day, BOOT);
    apikey_gauge_add(&g, 5);
    apikey_gauge_settle(&g, -3, paid);
    apikey_gauge_settle(&g, 4, paid);
    is_uint(apikey_gauge_remaining(&g, &limit), 5,
            "too late for this period");
}


static void
test_unknown(void)
{
    apikey_limit_t   limit, bucket;
    apikey_gauge_t   g;
    apikey_period_t  day;

    limit = test_limit(APIKEY_KIND_CALENDAR, 10);
    bucket = test_limit(APIKEY_KIND_BUCKET, 10);
    day = test_day(0);

    apikey_gauge_init(&g, &limit, &day, BOOT);
    g.bucket.used = APIKEY_GAUGE_UNKNOWN;

    apikey_gauge_open(&g, &limit, &day, BOOT);
    apikey_gauge_settle(&g, -3, day.end);
    ok(g.bucket.used == APIKEY_GAUGE_UNKNOWN, "unknown stays unknown");

    day = test_day(1);
    apikey_gauge_open(&g, &limit, &day, BOOT);
    is_uint(apikey_gauge_remaining(&g, &limit), 10,
            "until a period begins with nothing");

    g.bucket.used = APIKEY_GAUGE_UNKNOWN;
    apikey_gauge_open(&g, &bucket, &none, BOOT);
    is_uint(apikey_gauge_remaining(&g, &bucket), 10, "a bucket is full");
}


static void
test_slots(void)
{
    apikey_limit_t  limit;
    apikey_gauge_t  g;

    limit = test_limit(APIKEY_KIND_CONCURRENT, 2);
    apikey_gauge_init(&g, &limit, &none, BOOT);

    apikey_gauge_add(&g, 2);
    ok(!apikey_gauge_fits(&g, &limit, 1), "both slots are taken");
    is_uint(apikey_gauge_wait(&g, &limit, &none, 1, BOOT, T0), 1000000,
            "one may be free soon");
    ok(apikey_gauge_wait(&g, &limit, &none, 3, BOOT, T0)
       == APIKEY_BUCKET_NEVER, "there are not three");
    ok(!apikey_gauge_idle(&g, BOOT, T0), "in use");

    apikey_gauge_add(&g, -2);
    ok(apikey_gauge_idle(&g, BOOT, T0), "given back");
}


/* A log of the caller's; the clock is that which never steps. */

static void
test_rolling(void)
{
    apikey_limit_t    limit, other;
    apikey_gauge_t    g;
    apikey_rolling_t  log;

    limit = test_limit(APIKEY_KIND_ROLLING, 10);
    limit.window = 1000000;
    limit.rate.refill = limit.window;
    limit.rate.tick = APIKEY_RATE_ROLLING;

    memset(&g, 0, sizeof(g));
    g.log = &log;

    apikey_gauge_init(&g, &limit, &none, BOOT);
    ok(apikey_gauge_idle(&g, BOOT, T0), "nothing is used");

    apikey_gauge_add(&g, 6);
    is_uint(apikey_gauge_period(&g), BOOT, "paid at that time");

    apikey_gauge_open(&g, &limit, &none, BOOT + 400000);
    apikey_gauge_add(&g, 4);
    ok(!apikey_gauge_fits(&g, &limit, 1), "all is used");
    is_uint(apikey_gauge_wait(&g, &limit, &none, 1, BOOT + 400000, T0),
            600000, "until the first has left the window");
    is_uint(apikey_gauge_wait(&g, &limit, &none, 7, BOOT + 400000, T0),
            1000000, "more needs more of them");
    ok(apikey_gauge_wait(&g, &limit, &none, 11, BOOT, T0)
       == APIKEY_BUCKET_NEVER, "more than there is, never");

    apikey_gauge_settle(&g, -3, BOOT);
    is_uint(apikey_gauge_remaining(&g, &limit), 3, "comes back");

    apikey_gauge_open(&g, &limit, &none, BOOT + 1000000);
    is_uint(apikey_gauge_remaining(&g, &limit), 6, "has left the window");

    apikey_gauge_settle(&g, -3, BOOT);
    is_uint(apikey_gauge_remaining(&g, &limit), 6, "and gives nothing back");

    apikey_gauge_settle(&g, 2, BOOT);
    is_uint(apikey_gauge_remaining(&g, &limit), 4, "but owes what was more");

    apikey_gauge_raise(&g, 8, BOOT + 900000, BOOT + 1000000);
    is_uint(apikey_gauge_remaining(&g, &limit), 2, "others have used more");

    other = test_limit(APIKEY_KIND_BUCKET, 10);
    apikey_gauge_open(&g, &other, &none, BOOT + 1000000);
    is_uint(apikey_gauge_remaining(&g, &other), 2, "a bucket");

    apikey_gauge_open(&g, &limit, &none, BOOT + 1000000);
    is_uint(apikey_gauge_remaining(&g, &limit), 2, "rolls again");
    is_uint(apikey_gauge_reset(&g, &limit, &none, BOOT + 1000000, T0),
            1000000, "as of now");

    other = test_limit(APIKEY_KIND_TOTAL, 10);
    apikey_gauge_open(&g, &other, &none, BOOT + 3000000);
    is_uint(apikey_gauge_remaining(&g, &other), 10, "a total, of nothing");
    is_uint(apikey_gauge_reset(&g, &other, &none, BOOT + 3000000, T0),
            APIKEY_BUCKET_NEVER, "which has nothing to wait for");
}


int
main(void)
{
    test_calendar();
    test_credits();
    test_modes();
    test_edits();
    test_settle();
    test_unknown();
    test_slots();
    test_rolling();

    return unit_done();
}
