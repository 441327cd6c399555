
/*
 * Buckets by name in rows of eight places, as a cache of a processor has
 * them: nothing is linked, so nothing can be torn.
 */


#include <string.h>

#include "limit/bucket_set.h"


static uint64_t apikey_bucket_set_row(const apikey_bucket_set_t *set,
    const uint8_t *name);
static apikey_bucket_slot_t *apikey_bucket_set_find(
    apikey_bucket_slot_t *row, const uint8_t *name);
static apikey_bucket_slot_t *apikey_bucket_set_place(
    apikey_bucket_slot_t *row, uint64_t now);


apikey_bucket_set_t *
apikey_bucket_set_init(void *memory, size_t size, uint64_t seed, bool inherit)
{
    size_t                row;
    apikey_bucket_set_t  *set = memory;

    row = APIKEY_BUCKET_SET_WAYS * sizeof(apikey_bucket_slot_t);

    if (size < sizeof(apikey_bucket_set_t) + row) {
        return NULL;
    }

    set->seed = seed;
    set->rows = (size - sizeof(apikey_bucket_set_t)) / row;
    set->inherit = inherit;

    return set;
}


apikey_bucket_t *
apikey_bucket_set_get(apikey_bucket_set_t *set,
    const uint8_t name[APIKEY_BUCKET_SET_NAME], const apikey_rate_t *rate,
    uint64_t now)
{
    apikey_bucket_slot_t  *row, *slot;

    row = set->slots + apikey_bucket_set_row(set, name)
                       * APIKEY_BUCKET_SET_WAYS;

    slot = apikey_bucket_set_find(row, name);

    if (slot == NULL) {
        slot = apikey_bucket_set_place(row, now);

        memcpy(slot->name, name, APIKEY_BUCKET_SET_NAME);

        if (slot->rate.token == 0 || !set->inherit) {
            slot->rate = *rate;
            apikey_bucket_init(&slot->bucket, now);
        }
    }

    apikey_bucket_rescale(&slot->bucket, &slot->rate, rate, now);
    slot->rate = *rate;

    return &slot->bucket;
}


/* The seed keeps those who choose names from choosing rows. */

static uint64_t
apikey_bucket_set_row(const apikey_bucket_set_t *set, const uint8_t *name)
{
    uint64_t  h, part;

    memcpy(&h, name, 8);
    memcpy(&part, name + 8, 8);

    h = (h ^ set->seed) * 0x9e3779b97f4a7c15ULL;
    h = (h ^ (h >> 32) ^ part) * 0x9e3779b97f4a7c15ULL;
    h = (h ^ (h >> 29) ^ set->seed) * 0xbf58476d1ce4e5b9ULL;

    return (h >> 16) % set->rows;
}


static apikey_bucket_slot_t *
apikey_bucket_set_find(apikey_bucket_slot_t *row, const uint8_t *name)
{
    unsigned  i;

    for (i = 0; i < APIKEY_BUCKET_SET_WAYS; i++) {

        if (row[i].rate.token
            && memcmp(row[i].name, name, APIKEY_BUCKET_SET_NAME) == 0)
        {
            return &row[i];
        }
    }

    return NULL;
}


static apikey_bucket_slot_t *
apikey_bucket_set_place(apikey_bucket_slot_t *row, uint64_t now)
{
    unsigned               i;
    uint64_t               least, reset;
    apikey_bucket_slot_t  *slot, *best;

    best = row;
    least = UINT64_MAX;

    for (i = 0; i < APIKEY_BUCKET_SET_WAYS; i++) {
        slot = &row[i];

        if (slot->rate.token == 0) {
            return slot;
        }

        apikey_bucket_refill(&slot->bucket, &slot->rate, now);
        reset = apikey_bucket_reset(&slot->bucket, &slot->rate, now);

        if (reset < least) {
            least = reset;
            best = slot;
        }
    }

    return best;
}
