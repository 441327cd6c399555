
/*
 * Charges on their way to Redis: a place in one of a few behind the hash of
 * its limit, as tallies have it.
 */


#include <string.h>

#include "limit/owed.h"


#define APIKEY_OWED_WAYS  16
#define APIKEY_OWED_SKEW  1000000            /* us: of Redis' clock */


static uint64_t apikey_owed_hash(const apikey_owed_key_t *key);
static bool apikey_owed_free(const apikey_owed_t *owed, uint64_t real);
static void apikey_owed_begin(apikey_owed_t *owed, uint64_t name);


apikey_owed_t *
apikey_owed_find(apikey_owed_set_t *set, const apikey_owed_key_t *key)
{
    unsigned        i;
    uint64_t        h;
    apikey_owed_t  *owed;

    h = apikey_owed_hash(key);

    for (i = 0; i < APIKEY_OWED_WAYS; i++) {
        owed = &set->places[(h + i) % APIKEY_OWED_SIZE];

        if (owed->used && owed->id == key->id && owed->scope == key->scope
            && owed->level == key->level && owed->unit == key->unit
            && memcmp(owed->holder, key->holder, 16) == 0)
        {
            return owed;
        }
    }

    return NULL;
}


apikey_owed_t *
apikey_owed_get(apikey_owed_set_t *set, const apikey_owed_key_t *key,
    uint64_t name, int64_t now, uint64_t real)
{
    unsigned        i;
    uint64_t        h;
    apikey_owed_t  *owed, *found;

    found = apikey_owed_find(set, key);

    if (found) {

        if (found->number == found->acked_number) {
            found->at = now;
        }

        return found;
    }

    h = apikey_owed_hash(key);

    for (i = 0; i < APIKEY_OWED_WAYS; i++) {
        owed = &set->places[(h + i) % APIKEY_OWED_SIZE];

        if (!apikey_owed_free(owed, real)) {
            continue;
        }

        if (found == NULL || owed->used < found->used
            || (owed->used == found->used && owed->at < found->at))
        {
            found = owed;
        }
    }

    if (found == NULL) {
        set->missed++;
        return NULL;
    }

    /* a worker may die at any line here */

    found->used = 0;

    __atomic_thread_fence(__ATOMIC_SEQ_CST);

    memset(found, 0, sizeof(apikey_owed_t));
    memcpy(found->holder, key->holder, 16);

    found->scope = key->scope;
    found->id = key->id;
    found->level = (uint8_t) key->level;
    found->unit = (uint8_t) key->unit;
    found->at = now;
    found->share = 1;

    apikey_owed_begin(found, name);

    __atomic_store_n(&found->used, 1, __ATOMIC_RELEASE);

    return found;
}


static bool
apikey_owed_free(const apikey_owed_t *owed, uint64_t real)
{
    return !owed->used || apikey_owed_clean(owed, real);
}


/* To Redis it is another one from here on. */

static void
apikey_owed_begin(apikey_owed_t *owed, uint64_t name)
{
    owed->name = name | APIKEY_ACCOUNT_CHARGE;
    owed->number = 0;
    owed->acked_number = 0;
    owed->sum = 0;
    owed->acked = 0;
}


void
apikey_owed_add(apikey_owed_set_t *set, apikey_owed_t *owed, uint64_t tokens,
    uint64_t end, uint64_t name, uint64_t real)
{
    int64_t  most;

    /* of a period that is over nothing is owed; sums stay countable */

    if ((owed->end && owed->end != end && owed->end <= real)
        || (apikey_owed_clean(owed, real)
            && owed->sum < -(int64_t) (APIKEY_ACCOUNT_MAX / 2)))
    {
        apikey_owed_begin(owed, name);
    }

    if (apikey_owed_clean(owed, real)) {
        owed->era = set->contact ? set->contact : real;
    }

    owed->end = end;

    most = (int64_t) APIKEY_ACCOUNT_MAX + owed->sum;

    owed->sum -= tokens > (uint64_t) most ? most : (int64_t) tokens;

    set->alone = real;
}


void
apikey_owed_back(apikey_owed_t *owed, uint64_t tokens, uint64_t end)
{
    int64_t  most;

    if (!owed->sinks && owed->end != end) {
        return;
    }

    /* nothing comes back to what has rolled on */

    most = owed->sinks ? owed->acked : 0;

    if (owed->sum < most) {
        owed->sum = tokens > (uint64_t) (most - owed->sum)
                    ? most : owed->sum + (int64_t) tokens;
    }
}


void
apikey_owed_most(apikey_owed_t *owed, uint64_t tokens)
{
    if (owed->number == owed->acked_number && owed->sum < owed->acked
        && (uint64_t) (owed->acked - owed->sum) > tokens)
    {
        owed->sum = owed->acked - (int64_t) tokens;
    }
}


/* A sum that is again what was acknowledged may have been another between. */

bool
apikey_owed_clean(const apikey_owed_t *owed, uint64_t real)
{
    return (owed->sum == owed->acked && owed->number == owed->acked_number)
           || (owed->end && owed->end + APIKEY_OWED_SKEW <= real);
}


void
apikey_owed_send(apikey_owed_t *owed, unsigned index, uint64_t horizon,
    int64_t now, apikey_account_sums_t *sums)
{
    if (owed->number == owed->acked_number) {
        owed->at = now;
    }

    sums->node = owed->name;
    sums->number = ++owed->number;
    sums->sum = owed->sum;
    sums->acked = owed->acked;
    sums->era = owed->era;
    sums->part = index;
    sums->doubt = now - owed->at > (int64_t) (horizon / 2);
    sums->part_acked = owed->end && !owed->sinks ? (int64_t) owed->end : -1;
}


/* Of its name, and not of a call that a later one has overtaken. */

void
apikey_owed_acked(apikey_owed_t *owed, const apikey_account_sums_t *sums)
{
    if (owed->name == sums->node && sums->number > owed->acked_number) {
        owed->acked_number = sums->number;
        owed->acked = sums->sum;
    }
}


static uint64_t
apikey_owed_hash(const apikey_owed_key_t *key)
{
    uint64_t  h, part;

    memcpy(&h, key->holder, 8);
    memcpy(&part, key->holder + 8, 8);

    h = (h ^ part) * 0x9e3779b97f4a7c15ULL;
    h = (h ^ (h >> 32) ^ key->scope ^ key->id ^ (uint64_t) key->level << 8
         ^ key->unit)
        * 0x9e3779b97f4a7c15ULL;

    return h >> 32;
}
