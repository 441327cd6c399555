
/*
 * Buckets under names: each has its own, places are taken over when all are
 * in use, and what was taken can be given back.
 */


#include "limit/bucket_set.h"

#include "unit.h"


#define ROW     (APIKEY_BUCKET_SET_WAYS * sizeof(apikey_bucket_slot_t))
#define SECOND  1000000


static uint64_t  memory[4096 / sizeof(uint64_t)];


static apikey_bucket_set_t *
test_set(size_t rows, bool inherit)
{
    memset(memory, 0, sizeof(memory));

    return apikey_bucket_set_init(memory,
                                  sizeof(apikey_bucket_set_t) + rows * ROW,
                                  12345, inherit);
}


/* One token of the bucket of this number. */

static bool
test_take(apikey_bucket_set_t *set, unsigned n, const apikey_rate_t *rate,
    uint64_t now)
{
    uint8_t  name[APIKEY_BUCKET_SET_NAME] = { 0 };

    memcpy(name, &n, sizeof(n));

    return apikey_bucket_take(apikey_bucket_set_get(set, name, rate, now),
                              rate, 1);
}


static unsigned
test_takes(apikey_bucket_set_t *set, unsigned n, const apikey_rate_t *rate,
    uint64_t now)
{
    unsigned  taken;

    for (taken = 0; taken < 1000; taken++) {
        if (!test_take(set, n, rate, now)) {
            break;
        }
    }

    return taken;
}


static void
test_names(void)
{
    unsigned              i, wrong;
    apikey_rate_t         rate;
    apikey_bucket_set_t  *set;

    ok(test_set(0, false) == NULL, "no row, no set");

    set = test_set(7, false);

    is_uint(set->rows, 7, "as many rows as fit");
    ok(apikey_rate_init(&rate, 10, SECOND, 10), "10 a second");

    is_uint(test_takes(set, 1, &rate, SECOND), 10, "a new one is full");
    is_uint(test_takes(set, 2, &rate, SECOND), 10, "each has its own");
    is_uint(test_takes(set, 1, &rate, SECOND), 0, "empty");
    is_uint(test_takes(set, 1, &rate, SECOND + SECOND / 2), 5, "refilled");

    wrong = 0;

    for (i = 0; i < 10000; i++) {
        wrong += !test_take(set, i, &rate, 10 * SECOND + i);
    }

    is_uint(wrong, 0, "any number of names");
}


static void
test_places(bool inherit)
{
    unsigned              i, taken;
    apikey_rate_t         rate;
    apikey_bucket_set_t  *set;

    set = test_set(1, inherit);

    ok(apikey_rate_init(&rate, 10, SECOND, 10), "10 a second");

    taken = 0;

    for (i = 0; i < 100; i++) {
        taken += test_takes(set, i, &rate, SECOND);
    }

    is_uint(taken, inherit ? 80 : 1000,
            inherit ? "100 names get what 8 places hold"
                    : "100 names get 100 buckets");

    /* one that is half full again is taken over first */

    set = test_set(1, inherit);

    for (i = 0; i < 8; i++) {
        (void) test_takes(set, i, &rate, i ? SECOND : SECOND / 2);
    }

    is_uint(test_takes(set, 8, &rate, SECOND), inherit ? 5 : 10,
            "the one that would be full first");
    is_uint(test_takes(set, 1, &rate, SECOND), 0, "the others stay");
}


static void
test_rates(void)
{
    apikey_rate_t         one, two;
    apikey_bucket_set_t  *set;

    set = test_set(1, false);

    ok(apikey_rate_init(&one, 10, SECOND, 10), "10 a second");
    ok(apikey_rate_init(&two, 40, 60 * SECOND, 40), "40 a minute");

    is_uint(test_takes(set, 1, &one, SECOND), 10, "at one rate");
    is_uint(test_takes(set, 1, &two, SECOND), 30, "what is used stays used");
}


static void
test_give(void)
{
    apikey_rate_t    rate;
    apikey_bucket_t  b;

    ok(apikey_rate_init(&rate, 10, SECOND, 10), "10 a second");

    apikey_bucket_init(&b, SECOND);
    ok(apikey_bucket_take(&b, &rate, 10), "all is taken");

    apikey_bucket_give(&b, &rate, 3);
    is_uint(apikey_bucket_remaining(&b, &rate), 3, "3 are given back");

    apikey_bucket_give(&b, &rate, 7);
    is_uint(b.used, 0, "all is given back");

    apikey_bucket_give(&b, &rate, 1);
    is_uint(b.used, 0, "no more than was taken");

    ok(apikey_bucket_take(&b, &rate, 2), "2 are taken");
    apikey_bucket_refill(&b, &rate, SECOND + 150000);
    apikey_bucket_give(&b, &rate, 1);
    is_uint(b.used, 0, "half a token is less than one");
}


int
main(void)
{
    test_names();
    test_places(false);
    test_places(true);
    test_rates();
    test_give();

    return unit_done();
}
