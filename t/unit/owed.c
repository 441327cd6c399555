
/*
 * What a node has admitted without Redis: told once, whatever is lost on the
 * way, and forgotten with its period.
 */


#include <stdlib.h>

#include "limit/owed.h"

#include "unit.h"


#define SECOND  INT64_C(1000000)
#define HORIZON  (600 * SECOND)
#define REAL    UINT64_C(1795217207537822)

#define is_sum(got, want, name)                                               \
    is_uint((uint64_t) (got), (uint64_t) (want), name)


static apikey_owed_set_t  *set;
static uint64_t            names;


static apikey_owed_t *
get(uint64_t limit, int64_t now)
{
    apikey_owed_key_t  key;

    static const uint8_t  holder[16] = { 1, 2, 3 };

    key.holder = holder;
    key.scope = 7;
    key.id = limit;
    key.level = 0;
    key.unit = 1;

    return apikey_owed_get(set, &key, ++names, now, REAL);
}


static void
add(apikey_owed_t *owed, uint64_t tokens, uint64_t end, uint64_t real)
{
    apikey_owed_add(set, owed, tokens, end, ++names, real);
}


static void
tell(apikey_owed_t *owed, unsigned index, apikey_account_sums_t *sums)
{
    apikey_owed_send(owed, index, HORIZON, SECOND, sums);
}


static void
test_told(void)
{
    apikey_owed_t          *owed;
    apikey_account_sums_t   one, two;

    owed = get(1, SECOND);
    ok(apikey_owed_clean(owed, REAL), "nothing is owed");

    add(owed, 5, 0, REAL);
    ok(!apikey_owed_clean(owed, REAL), "something is");
    is_uint(owed->era, REAL, "since now, where Redis never answered");
    is_uint(set->alone, REAL, "and when that was is known");

    tell(owed, 3, &one);
    ok(one.node & APIKEY_ACCOUNT_CHARGE, "its name says what it is");
    is_sum(one.sum, -5, "its sum");
    is_sum(one.acked, 0, "of which nothing is there");
    is_sum(one.part, 3, "its limit");

    add(owed, 2, 0, REAL);
    tell(owed, 3, &two);
    apikey_owed_acked(owed, &one);
    ok(!apikey_owed_clean(owed, REAL), "a part of it is there");
    apikey_owed_acked(owed, &two);
    ok(apikey_owed_clean(owed, REAL), "all of it");
    apikey_owed_acked(owed, &one);
    ok(apikey_owed_clean(owed, REAL), "an older answer says nothing new");

    apikey_owed_back(owed, 3, 0);
    ok(!apikey_owed_clean(owed, REAL), "what was not used comes back");
    tell(owed, 3, &one);
    is_sum(one.sum, -4, "in the same sum");
    add(owed, 3, 0, REAL);
    ok(!apikey_owed_clean(owed, REAL),
       "and is said again when it is used after all");
    tell(owed, 3, &two);
    apikey_owed_acked(owed, &two);

    one.node = owed->name + 1;
    one.number = 99;
    apikey_owed_acked(owed, &one);
    is_sum(owed->acked, -7, "an answer to another name is not its own");

    set->contact = REAL + 5;
    add(owed, 1, 0, REAL + 9);
    is_uint(owed->era, REAL + 5, "since the last answer of Redis");
    ok(get(1, 2 * SECOND) == owed, "it is found again");
}


static void
test_period(void)
{
    uint64_t                name;
    apikey_owed_t          *owed;
    apikey_account_sums_t   sums;

    owed = get(2, SECOND);
    name = owed->name;

    add(owed, 5, REAL + 10, REAL);
    add(owed, 5, REAL + 10, REAL + 9);
    tell(owed, 0, &sums);
    is_sum(sums.sum, -10, "of one period");
    is_sum(sums.part_acked, (int64_t) REAL + 10, "whose end is told");

    add(owed, 3, REAL + 99, REAL + 11);
    is_sum(owed->sum, -3, "another one begins with nothing");
    ok(owed->name != name, "under another name");

    apikey_owed_back(owed, 2, REAL + 10);
    is_sum(owed->sum, -3, "what was paid before stays there");
    apikey_owed_back(owed, 2, REAL + 99);
    is_sum(owed->sum, -1, "and here it comes back");

    ok(apikey_owed_clean(owed, REAL + 99 + SECOND),
       "when it is over nothing is owed");
}


static void
test_sinks(void)
{
    apikey_owed_t          *owed;
    apikey_account_sums_t   sums;

    owed = get(3, SECOND);
    owed->sinks = 1;

    add(owed, 50, 0, REAL);
    apikey_owed_most(owed, 60);
    is_sum(owed->sum, -50, "less than there is in use");
    apikey_owed_most(owed, 20);
    is_sum(owed->sum, -20, "no more than is");

    tell(owed, 0, &sums);
    apikey_owed_most(owed, 10);
    is_sum(owed->sum, -20, "what is on its way stays as it is");
    apikey_owed_acked(owed, &sums);

    apikey_owed_back(owed, 5, 0);
    is_sum(owed->sum, -20, "nothing comes back to what has refilled");
    add(owed, 4, 0, REAL);
    apikey_owed_back(owed, 5, 99);
    is_sum(owed->sum, -20, "but what has not been told");

    add(owed, 4, REAL + 9, REAL);
    tell(owed, 0, &sums);
    is_sum(sums.part_acked, -1, "it has no period");
    apikey_owed_acked(owed, &sums);
    add(owed, 4, REAL + 20, REAL + 1);
    ok(!apikey_owed_clean(owed, REAL + 20), "it is owed");
    ok(apikey_owed_clean(owed, REAL + 20 + SECOND),
       "until all of it has come back");
}


static void
test_much(void)
{
    uint64_t                name;
    apikey_owed_t          *owed;
    apikey_account_sums_t   sums;

    owed = get(4, SECOND);
    name = owed->name;

    add(owed, APIKEY_ACCOUNT_MAX - 1, 0, REAL);
    add(owed, APIKEY_ACCOUNT_MAX - 1, 0, REAL);
    is_sum(owed->sum, -(int64_t) APIKEY_ACCOUNT_MAX,
           "sums are what Redis can count");
    tell(owed, 0, &sums);
    apikey_owed_acked(owed, &sums);
    add(owed, 1, 0, REAL);
    is_sum(owed->sum, -1, "and begin anew when they are large");
    ok(owed->name != name, "under another name");
}


/* Redis forgets what it got; who heard nothing of it does not know. */

static void
test_doubt(void)
{
    apikey_owed_t          *owed;
    apikey_account_sums_t   sums;

    owed = get(5, SECOND);
    add(owed, 5, 0, REAL);

    apikey_owed_send(owed, 0, HORIZON, HORIZON, &sums);
    ok(!sums.doubt, "a first call");

    add(get(5, HORIZON + HORIZON / 2), 1, 0, REAL);
    apikey_owed_send(owed, 0, HORIZON, HORIZON + HORIZON / 2, &sums);
    ok(!sums.doubt, "while what was not answered is not forgotten");

    apikey_owed_send(owed, 0, HORIZON, HORIZON + HORIZON / 2 + 1, &sums);
    ok(sums.doubt, "in doubt, when it may be");
    apikey_owed_acked(owed, &sums);

    add(get(5, 9 * HORIZON), 1, 0, REAL);
    apikey_owed_send(owed, 0, HORIZON, 9 * HORIZON, &sums);
    ok(!sums.doubt, "no more once there was an answer");
}


/* More limits than there are places. */

static void
test_full(void)
{
    bool                    good;
    uint64_t                i, n;
    apikey_owed_t          *owed;
    apikey_account_sums_t   sums;

    good = true;

    for (i = 100; i < 100 + 2 * APIKEY_OWED_SIZE; i++) {
        owed = get(i, (int64_t) i * SECOND);
        good = good && owed != NULL;

        if (owed) {
            add(owed, 1, 0, REAL);
            tell(owed, 0, &sums);
            apikey_owed_acked(owed, &sums);
        }
    }

    ok(good, "what is told gives its place away");
    is_uint(set->missed, 0, "and nothing was missed");

    for (i = 0, n = 0; i < 4 * APIKEY_OWED_SIZE; i++) {
        owed = get(1000000 + i, SECOND);

        if (owed) {
            add(owed, 1, 0, REAL);
            n++;
        }
    }

    ok(n > APIKEY_OWED_SIZE * 9 / 10 && n <= APIKEY_OWED_SIZE,
       "what is owed does not");
    is_uint(set->missed, 4 * APIKEY_OWED_SIZE - n,
            "what is missed is counted");
}


int
main(void)
{
    set = calloc(1, sizeof(apikey_owed_set_t));

    if (set == NULL) {
        return 1;
    }

    test_told();
    test_period();
    test_sinks();
    test_much();
    test_doubt();
    test_full();

    free(set);

    return unit_done();
}
