
/*
 * Rings: claiming, the life of a slot, and putting in order what a dead owner
 * left.
 *
 * Plain C.  The mapping belongs to the apikey_ring_t.
 */


#include <errno.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/fetch.h"
#include "base/verdict.h"
#include "usage/ring.h"


static apikey_slot_t *apikey_ring_slot(const apikey_ring_t *ring,
    uint32_t number);
static uint32_t apikey_ring_number(const apikey_ring_t *ring,
    const apikey_slot_t *slot);
static void apikey_ring_free(apikey_ring_t *ring, apikey_slot_t *slot);
static void apikey_ring_fetch(const apikey_ring_t *ring, uint32_t number);
static void apikey_ring_reclaim(apikey_ring_t *ring);
static void apikey_ring_order(apikey_ring_t *ring, int64_t now);
static void apikey_ring_lose(apikey_ring_t *ring, apikey_slot_t *slot);
static void apikey_ring_rescue(apikey_ring_t *ring, apikey_slot_t *slot);
static bool apikey_ring_sound(const apikey_slot_t *slot, uint32_t number);
static size_t apikey_ring_slot_size(uint32_t number);


apikey_ring_e
apikey_ring_claim(apikey_ring_t *ring, int64_t now)
{
    if (flock(ring->fd, LOCK_EX|LOCK_NB) == -1) {
        if (errno == EWOULDBLOCK) {
            return APIKEY_RING_BUSY;
        }

        ring->err = errno;
        ring->what = "flock()";

        return APIKEY_RING_FAILED;
    }

    apikey_ring_sign(ring);
    apikey_ring_order(ring, now);

    ring->file->pid = (uint32_t) getpid();
    ring->file->zone = ring->zone;
    __atomic_store_n(&ring->file->dirty, 1, __ATOMIC_RELEASE);

    return APIKEY_RING_OK;
}


void
apikey_ring_release(apikey_ring_t *ring, int64_t now)
{
    apikey_ring_order(ring, now);

    __atomic_store_n(&ring->file->dirty, 0, __ATOMIC_RELEASE);

    (void) flock(ring->fd, LOCK_UN);
}


/*
 * What an owner left, in whatever state; safe to be killed and run again.
 * At most one slot is closed but not published: it comes first, because the
 * number it already bears is the next one.
 */

static void
apikey_ring_order(apikey_ring_t *ring, int64_t now)
{
    uint32_t        i;
    uint64_t        tail;
    apikey_slot_t  *slot;

    tail = apikey_ring_tail(ring);

    ring->freed = tail;
    ring->open = 0;
    ring->free_small = APIKEY_RING_SLOTS;
    ring->free_large = APIKEY_RING_SLOTS;

    for (i = APIKEY_RING_SLOTS; i-- > 0; /* void */) {
        slot = apikey_ring_slot(ring, i);

        if (slot->state == APIKEY_SLOT_DONE
            && slot->number > ring->file->head)
        {
            apikey_ring_rescue(ring, slot);

        } else if (slot->state > APIKEY_SLOT_DONE
                   || slot->state == APIKEY_SLOT_FREE
                   || (slot->state == APIKEY_SLOT_DONE
                       && slot->number <= tail))
        {
            apikey_ring_free(ring, slot);
        }
    }

    for (i = 0; i < APIKEY_RING_SLOTS; i++) {
        slot = apikey_ring_slot(ring, i);

        if (slot->state == APIKEY_SLOT_OPEN) {
            apikey_ring_lose(ring, slot);

            slot->record.shape.end = APIKEY_END_WORKER_LOST;
            slot->record.count.duration = now > slot->record.count.time
                ? (uint64_t) (now - slot->record.count.time) : 0;
            apikey_ring_rescue(ring, slot);

        } else if (slot->state == APIKEY_SLOT_SUM) {
            apikey_ring_rescue(ring, slot);
        }
    }
}


/*
 * Whoever dies in here leaves it held: to be told twice would let more in
 * than there may be.
 */

static void
apikey_ring_lose(apikey_ring_t *ring, apikey_slot_t *slot)
{
    uint32_t        number;
    uint64_t        i, n;
    apikey_hold_t  *hold;

    n = slot->holds;
    __atomic_store_n(&slot->holds, 0, __ATOMIC_RELEASE);

    number = apikey_ring_number(ring, slot);

    if (ring->lost == NULL || ring->file->zone != ring->zone
        || n > APIKEY_HOLDS || !apikey_ring_sound(slot, number)
        || offsetof(apikey_slot_t, record)
           + apikey_ring_room(apikey_record_size(&slot->record.shape),
                              (unsigned) n)
           > apikey_ring_slot_size(number))
    {
        return;
    }

    hold = apikey_ring_holds(slot);

    for (i = 0; i < n; i++) {
        ring->lost(ring->data, &hold[i]);
    }
}


static void
apikey_ring_rescue(apikey_ring_t *ring, apikey_slot_t *slot)
{
    if (!apikey_ring_sound(slot, apikey_ring_number(ring, slot))) {
        apikey_ring_free(ring, slot);
        return;
    }

    ring->open++;
    apikey_ring_publish(ring, slot);
}


static bool
apikey_ring_sound(const apikey_slot_t *slot, uint32_t number)
{
    return offsetof(apikey_slot_t, record)
           + apikey_record_size(&slot->record.shape)
           <= apikey_ring_slot_size(number);
}


static size_t
apikey_ring_slot_size(uint32_t number)
{
    return number < APIKEY_RING_SMALL ? APIKEY_RING_SMALL_SIZE
                                      : APIKEY_RING_LARGE_SIZE;
}


apikey_hold_t *
apikey_ring_holds(apikey_slot_t *slot)
{
    return (apikey_hold_t *) (void *)
           ((uint8_t *) &slot->record
            + apikey_ring_room(apikey_record_size(&slot->record.shape), 0));
}


size_t
apikey_ring_room(size_t record, unsigned holds)
{
    return ((record + 7) & ~(size_t) 7) + holds * sizeof(apikey_hold_t);
}


apikey_slot_t *
apikey_ring_get(apikey_ring_t *ring, size_t size)
{
    uint32_t       number;
    apikey_slot_t  *slot;

    size += offsetof(apikey_slot_t, record);

    apikey_ring_reclaim(ring);

    if (size <= APIKEY_RING_SMALL_SIZE
        && ring->free_small != APIKEY_RING_SLOTS)
    {
        number = ring->free_small;
        slot = apikey_ring_slot(ring, number);
        ring->free_small = slot->next;

        return slot;
    }

    if (size <= APIKEY_RING_LARGE_SIZE
        && ring->free_large != APIKEY_RING_SLOTS)
    {
        number = ring->free_large;
        slot = apikey_ring_slot(ring, number);
        ring->free_large = slot->next;

        return slot;
    }

    return NULL;
}


void
apikey_ring_ahead(const apikey_ring_t *ring)
{
    if (ring->file == NULL) {
        return;
    }

    apikey_ring_fetch(ring, ring->freed < apikey_ring_tail(ring)
                            ? ring->index[ring->freed % APIKEY_RING_INDEX]
                            : ring->free_small);
}


static void
apikey_ring_fetch(const apikey_ring_t *ring, uint32_t number)
{
    unsigned        i;
    const uint8_t  *p;

    if (number >= APIKEY_RING_SMALL) {
        return;
    }

    p = (const uint8_t *) apikey_ring_slot(ring, number);

    for (i = 0; i < APIKEY_RING_SMALL_SIZE; i += 64) {
        apikey_fetch(p + i);
    }
}


/*
 * As many as are wanted, and a few at most: opening a slot must not pay for a
 * whole batch.  The one that is taken next is the one just looked at.
 */

static void
apikey_ring_reclaim(apikey_ring_t *ring)
{
    unsigned        n;
    uint32_t        number;
    uint64_t        tail;
    apikey_slot_t  *slot;

    tail = apikey_ring_tail(ring);

    for (n = 0; n < 4 && ring->freed < tail; n++) {
        number = ring->index[ring->freed % APIKEY_RING_INDEX];
        ring->freed++;

        slot = apikey_ring_slot(ring, number % APIKEY_RING_SLOTS);

        if (slot->state == APIKEY_SLOT_DONE && slot->number == ring->freed) {
            apikey_ring_free(ring, slot);
        }

        if (ring->free_small != APIKEY_RING_SLOTS
            && ring->free_large != APIKEY_RING_SLOTS)
        {
            break;
        }
    }
}


void
apikey_ring_opened(apikey_ring_t *ring, apikey_slot_t *slot,
    apikey_slot_e state, uint32_t unknown)
{
    slot->next = APIKEY_OPEN_SAID | unknown;

    ring->open++;
    __atomic_store_n(&slot->state, (uint32_t) state, __ATOMIC_RELEASE);
}


void
apikey_ring_put(apikey_ring_t *ring, apikey_slot_t *slot)
{
    if (slot->state != APIKEY_SLOT_FREE) {
        ring->open--;
    }

    apikey_ring_free(ring, slot);
}


void
apikey_ring_publish(apikey_ring_t *ring, apikey_slot_t *slot)
{
    apikey_ring_file_t  *file;

    file = ring->file;

    slot->number = file->head + 1;
    __atomic_store_n(&slot->state, (uint32_t) APIKEY_SLOT_DONE,
                     __ATOMIC_RELEASE);

    ring->index[file->head % APIKEY_RING_INDEX] = apikey_ring_number(ring,
                                                                     slot);
    __atomic_store_n(&file->head, file->head + 1, __ATOMIC_RELEASE);

    ring->open--;
}


uint64_t
apikey_ring_head(const apikey_ring_t *ring)
{
    return __atomic_load_n(&ring->file->head, __ATOMIC_ACQUIRE);
}


uint64_t
apikey_ring_tail(const apikey_ring_t *ring)
{
    return __atomic_load_n(&ring->file->tail, __ATOMIC_ACQUIRE);
}


const apikey_record_t *
apikey_ring_record(const apikey_ring_t *ring, uint64_t number)
{
    uint32_t              slot;
    const apikey_slot_t  *s;

    slot = ring->index[(number - 1) % APIKEY_RING_INDEX] % APIKEY_RING_SLOTS;
    s = apikey_ring_slot(ring, slot);

    return apikey_ring_sound(s, slot) ? &s->record : NULL;
}


void
apikey_ring_record_ahead(const apikey_ring_t *ring, uint64_t number)
{
    apikey_ring_fetch(ring, ring->index[(number - 1) % APIKEY_RING_INDEX]);
}


void
apikey_ring_done(apikey_ring_t *ring, uint64_t number)
{
    if (number > apikey_ring_tail(ring)) {
        __atomic_store_n(&ring->file->tail, number, __ATOMIC_RELEASE);
    }

    if (number > ring->read) {
        ring->read = number;
    }
}


/* Its owner may take it back meanwhile for another one, which is newer. */

bool
apikey_ring_runs(const apikey_ring_t *ring, uint32_t i, uint64_t number,
    apikey_record_t *copy, uint32_t *unknown)
{
    size_t          size;
    uint32_t        state, open;
    apikey_slot_t  *slot;

    slot = apikey_ring_slot(ring, i);
    state = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE);

    if (state != APIKEY_SLOT_OPEN
        && (state != APIKEY_SLOT_DONE || slot->number <= number))
    {
        return false;
    }

    open = slot->next;
    *unknown = state == APIKEY_SLOT_OPEN && (open & APIKEY_OPEN_SAID)
               ? open & ~APIKEY_OPEN_SAID : 0;

    memcpy(copy, &slot->record, sizeof(apikey_record_t));

    size = apikey_record_size(&copy->shape);

    if (size > APIKEY_RECORD_LARGE
        || offsetof(apikey_slot_t, record) + size > apikey_ring_slot_size(i))
    {
        return false;
    }

    memcpy(copy->text, slot->record.text, size - sizeof(apikey_record_t));

    __atomic_thread_fence(__ATOMIC_ACQUIRE);

    state = __atomic_load_n(&slot->state, __ATOMIC_RELAXED);

    return (state == APIKEY_SLOT_OPEN || state == APIKEY_SLOT_DONE)
           && memcmp(copy->count.event, slot->record.count.event, 16) == 0;
}


static void
apikey_ring_free(apikey_ring_t *ring, apikey_slot_t *slot)
{
    uint32_t  number;

    number = apikey_ring_number(ring, slot);

    slot->holds = 0;
    __atomic_store_n(&slot->state, (uint32_t) APIKEY_SLOT_FREE,
                     __ATOMIC_RELEASE);

    if (number < APIKEY_RING_SMALL) {
        slot->next = ring->free_small;
        ring->free_small = number;

    } else {
        slot->next = ring->free_large;
        ring->free_large = number;
    }
}


static apikey_slot_t *
apikey_ring_slot(const apikey_ring_t *ring, uint32_t number)
{
    if (number < APIKEY_RING_SMALL) {
        return (apikey_slot_t *) (void *)
               (ring->small + (size_t) number * APIKEY_RING_SMALL_SIZE);
    }

    number -= APIKEY_RING_SMALL;

    return (apikey_slot_t *) (void *)
           (ring->large + (size_t) number * APIKEY_RING_LARGE_SIZE);
}


static uint32_t
apikey_ring_number(const apikey_ring_t *ring, const apikey_slot_t *slot)
{
    const uint8_t  *p;

    p = (const uint8_t *) slot;

    if (p < ring->large) {
        return (uint32_t) ((size_t) (p - ring->small)
                           / APIKEY_RING_SMALL_SIZE);
    }

    return APIKEY_RING_SMALL
           + (uint32_t) ((size_t) (p - ring->large) / APIKEY_RING_LARGE_SIZE);
}
