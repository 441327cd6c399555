
/*
 * Rings under kill -9: a writer is killed at random, again and again; what
 * it admitted is found exactly once, and nothing else.
 */


#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/verdict.h"
#include "usage/ring.h"

#include "unit.h"


#define ROUNDS  150
#define MAX     (4 * 1024 * 1024)


static char      test_dir[] = "/dev/shm/apikey-ring-XXXXXX";
static uint8_t   test_node[16] = { 9 };


/* What the writer promised, in memory that outlives it. */

typedef struct {
    volatile uint64_t  next;     /* id of the next request */
    volatile uint8_t   state[MAX];   /* 1 being opened, 2 admitted, 3 closed,
                                        4 given up */
} test_promise_t;


static void
test_writer(test_promise_t *promise)
{
    unsigned         i, n;
    uint64_t         id, ids[64];
    apikey_ring_t    ring;
    apikey_slot_t   *slots[64];

    if (apikey_ring_open(&ring, test_dir, 0, test_node) != APIKEY_RING_OK
        || apikey_ring_claim(&ring, 1) != APIKEY_RING_OK)
    {
        _exit(1);
    }

    for (n = 0; ; n++) {
        i = n % 64;

        if (n >= 64 && slots[i]) {
            if (ids[i] % 17 == 0) {
                promise->state[ids[i]] = 4;
                apikey_ring_put(&ring, slots[i]);

            } else {
                slots[i]->record.shape.status = 200;
                promise->state[ids[i]] = 3;
                apikey_ring_publish(&ring, slots[i]);
            }
        }

        id = promise->next;

        if (id == MAX - 1) {
            pause();
        }

        slots[i] = apikey_ring_get(&ring, sizeof(apikey_record_t)
                                          + (id % 9 == 0 ? 600 : 0));
        ids[i] = id;

        if (slots[i] == NULL) {
            /* full: the other slots stay open until there is room */
            n--;
            continue;
        }

        promise->next = id + 1;
        memset(&slots[i]->record, 0, sizeof(apikey_record_t));
        memcpy(slots[i]->record.count.event, &id, sizeof(id));
        promise->state[id] = 1;
        apikey_ring_opened(&ring, slots[i], APIKEY_SLOT_OPEN, 0);
        promise->state[id] = 2;
    }
}


static uint64_t
test_ship(apikey_ring_t *ring, uint8_t *seen, unsigned *lost)
{
    uint64_t                n, id;
    const apikey_record_t  *record;

    for (n = ring->read; n < apikey_ring_head(ring); n++) {
        record = apikey_ring_record(ring, n + 1);
        memcpy(&id, record->count.event, sizeof(id));

        if (id < MAX) {
            seen[id]++;
        }

        if (record->shape.end == APIKEY_END_WORKER_LOST) {
            (*lost)++;
        }
    }

    apikey_ring_done(ring, n);

    return n;
}


/* Ships beside a writer for a random while. */

static void
test_ship_some(apikey_ring_t *ring, uint8_t *seen, unsigned *lost)
{
    struct timespec  start, now;

    (void) clock_gettime(CLOCK_MONOTONIC, &start);

    do {
        (void) test_ship(ring, seen, lost);
        (void) clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((now.tv_sec - start.tv_sec) * 1000000
             + (now.tv_nsec - start.tv_nsec) / 1000
             < 300 + rand() % 3000);
}


static void
test_claim_busy(void)
{
    apikey_ring_t  other;

    (void) apikey_ring_open(&other, test_dir, 0, test_node);
    ok(apikey_ring_claim(&other, 1) == APIKEY_RING_BUSY,
       "a ring in use cannot be claimed");
    apikey_ring_close(&other);
}


static void
test_compare(test_promise_t *promise, uint8_t *seen)
{
    uint64_t  id, missing, twice, ghosts;

    missing = 0;
    twice = 0;
    ghosts = 0;

    for (id = 0; id < promise->next; id++) {
        missing += (promise->state[id] == 2 || promise->state[id] == 3)
                   && seen[id] == 0;
        twice += seen[id] > 1;
        ghosts += seen[id] && promise->state[id] == 0;
    }

    ok(promise->next > ROUNDS, "there was work");
    is_uint(missing, 0, "nothing admitted is missing");
    is_uint(twice, 0, "nothing is there twice");
    is_uint(ghosts, 0, "nothing is there that was not opened");
}


static void
test_kill(test_promise_t *promise)
{
    pid_t           pid;
    uint8_t        *seen;
    uint64_t        read;
    unsigned        round, lost;
    apikey_ring_t   ring;

    seen = calloc(MAX, 1);
    lost = 0;

    (void) apikey_ring_create(&ring, test_dir, 0, test_node, 77, -1, -1);
    ok(apikey_ring_open(&ring, test_dir, 0, test_node) == APIKEY_RING_OK,
       "a ring is made and found");

    for (round = 0; round < ROUNDS; round++) {
        pid = fork();

        if (pid == 0) {
            test_writer(promise);
        }

        test_ship_some(&ring, seen, &lost);

        if (round == 0) {
            /* from then on it always holds open slots */

            while (promise->next < 100) {
                continue;
            }

            test_claim_busy();
        }

        (void) kill(pid, SIGKILL);
        (void) waitpid(pid, NULL, 0);

        if (round % 3 == 0) {
            read = ring.read;
            (void) apikey_ring_claim(&ring, 2);
            apikey_ring_release(&ring, 2);
            ring.read = read;
        }
    }

    (void) apikey_ring_claim(&ring, 2);
    apikey_ring_release(&ring, 2);
    (void) test_ship(&ring, seen, &lost);

    test_compare(promise, seen);
    ok(lost > 0, "what ran in a killed writer is worker_lost");

    apikey_ring_close(&ring);
    free(seen);
}


/* What requests hold is told once, to whoever puts the ring in order. */

typedef struct {
    unsigned  n;
    uint64_t  scopes;
} test_told_t;


static void
test_lost(void *data, const apikey_hold_t *hold)
{
    test_told_t *told = data;

    told->n++;
    told->scopes += hold->scope;
}


static apikey_slot_t *
test_open(apikey_ring_t *ring, unsigned text, unsigned holds)
{
    size_t          size;
    unsigned        i;
    apikey_hold_t  *hold;
    apikey_slot_t  *slot;

    size = apikey_ring_room(sizeof(apikey_record_t) + text, holds);
    slot = apikey_ring_get(ring, size);

    memset(&slot->record, 0, size);
    slot->record.shape.len[APIKEY_TEXT_SERVICE] = (uint8_t) text;
    slot->holds = holds;
    hold = apikey_ring_holds(slot);

    for (i = 0; i < holds; i++) {
        hold[i].scope = (uint64_t) 10 << 4 * i;
    }

    apikey_ring_opened(ring, slot, APIKEY_SLOT_OPEN, 0);

    return slot;
}


static void
test_holds(uint64_t zone, unsigned want)
{
    test_told_t     told;
    apikey_slot_t  *slot;
    apikey_ring_t   ring;

    (void) apikey_ring_open(&ring, test_dir, 1, test_node);
    ring.zone = 5;
    (void) apikey_ring_claim(&ring, 1);

    (void) test_open(&ring, 0, 0);
    (void) test_open(&ring, 3, 2);
    (void) test_open(&ring, 255, APIKEY_HOLDS);
    apikey_ring_publish(&ring, test_open(&ring, 0, 1));
    apikey_ring_put(&ring, test_open(&ring, 0, 1));
    slot = test_open(&ring, 0, 1);
    slot->holds = 0;
    slot = test_open(&ring, 0, 1);
    slot->holds = APIKEY_HOLDS + 1;

    apikey_ring_close(&ring);

    memset(&told, 0, sizeof(test_told_t));

    (void) apikey_ring_open(&ring, test_dir, 1, test_node);
    ring.zone = zone;
    ring.lost = test_lost;
    ring.data = &told;
    (void) apikey_ring_claim(&ring, 1);

    is_uint(told.n, want, "what was held is told");
    is_uint(told.scopes, want ? 0xaa + 0xaaaaaaaa : 0, "as it was held");

    apikey_ring_close(&ring);

    (void) apikey_ring_open(&ring, test_dir, 1, test_node);
    ring.zone = zone;
    ring.lost = test_lost;
    ring.data = &told;
    (void) apikey_ring_claim(&ring, 1);
    apikey_ring_release(&ring, 1);

    is_uint(told.n, want, "and never again");

    apikey_ring_close(&ring);
}


static unsigned
test_runs_above(const apikey_ring_t *ring, uint64_t number)
{
    uint32_t  i, unknown;
    unsigned  n;
    union {
        apikey_record_t  record;
        uint8_t          bytes[APIKEY_RECORD_LARGE];
    } copy;

    for (i = 0, n = 0; i < APIKEY_RING_SLOTS; i++) {

        if (apikey_ring_runs(ring, i, number, &copy.record, &unknown)) {
            n += 1 + copy.record.shape.len[APIKEY_TEXT_SERVICE]
                 + 1000 * unknown;
        }
    }

    return n;
}


/* What runs, and what has ended since it was looked at what had. */

static void
test_runs(void)
{
    apikey_slot_t  *slot, *sum;
    apikey_ring_t   ring;

    (void) apikey_ring_create(&ring, test_dir, 3, test_node, 81, -1, -1);
    (void) apikey_ring_open(&ring, test_dir, 3, test_node);
    (void) apikey_ring_claim(&ring, 1);

    slot = test_open(&ring, 0, 0);
    (void) test_open(&ring, 99, 2);
    (void) test_open(&ring, 254, APIKEY_HOLDS);
    is_uint(test_runs_above(&ring, 0), 1 + 100 + 255, "what runs");

    apikey_ring_put(&ring, test_open(&ring, 7, 0));
    sum = test_open(&ring, 7, 0);
    sum->state = APIKEY_SLOT_SUM;
    is_uint(test_runs_above(&ring, 0), 356, "and nothing else");

    slot->next = APIKEY_OPEN_MODEL;
    is_uint(test_runs_above(&ring, 0), 356, "of what an older module opened "
                                            "nothing else is known");
    slot->next = APIKEY_OPEN_SAID | APIKEY_OPEN_MODEL;
    is_uint(test_runs_above(&ring, 0), 2356, "what nobody knows of it");

    apikey_ring_publish(&ring, slot);
    is_uint(test_runs_above(&ring, 0), 356, "what ended since");
    is_uint(test_runs_above(&ring, 1), 355, "and not what had");

    slot = test_open(&ring, 3, 0);
    slot->record.shape.len[APIKEY_TEXT_MODEL] = 255;
    slot->record.shape.len[APIKEY_TEXT_OWNER] = 255;
    is_uint(test_runs_above(&ring, 1), 355, "damaged memory is no request");

    apikey_ring_close(&ring);
}


/* A copy is read, but what is counted next goes into a file of its own. */

static void
test_copied(void)
{
    char           command[160];
    apikey_ring_t  ring;

    (void) apikey_ring_create(&ring, test_dir, 2, test_node, 79, -1, -1);
    (void) apikey_ring_open(&ring, test_dir, 2, test_node);
    ok(!ring.copied, "a new ring is no copy");

    /* as one that was made before rings knew it */

    memset(&ring.file->inode, 0, sizeof(uint64_t));
    ring.zone = 5;
    (void) apikey_ring_claim(&ring, 1);
    apikey_ring_publish(&ring, test_open(&ring, 0, 0));
    apikey_ring_publish(&ring, test_open(&ring, 0, 0));
    apikey_ring_close(&ring);

    (void) apikey_ring_open(&ring, test_dir, 2, test_node);
    ok(!ring.copied, "nor is an older one that was claimed");
    ok(ring.file->inode != 0, "which it says now");
    apikey_ring_close(&ring);

    snprintf(command, sizeof(command), "cp -a %s/ring.2 %s/copy && "
             "mv %s/copy %s/ring.2", test_dir, test_dir, test_dir, test_dir);
    ok(system(command) == 0, "copied");

    (void) apikey_ring_open(&ring, test_dir, 2, test_node);
    ok(ring.copied, "another file is a copy");
    (void) apikey_ring_claim(&ring, 1);
    apikey_ring_release(&ring, 1);
    ok(ring.file->epoch == 79 && apikey_ring_head(&ring) == 2
       && apikey_ring_record(&ring, 2) != NULL,
       "which is read as what it was");
    ok(apikey_ring_renew(&ring, test_dir, 80) == APIKEY_RING_BUSY,
       "and stays as long as there is something to read");

    apikey_ring_done(&ring, 2);
    ok(apikey_ring_renew(&ring, test_dir, 80) == APIKEY_RING_OK,
       "then it makes room");
    apikey_ring_close(&ring);

    ok(apikey_ring_open(&ring, test_dir, 2, test_node) == APIKEY_RING_OK
       && !ring.copied && ring.file->epoch == 80
       && apikey_ring_head(&ring) == 0, "for one that counts anew");

    ring.file->boot[0] ^= 1;
    apikey_ring_close(&ring);
    (void) apikey_ring_open(&ring, test_dir, 2, test_node);
    ok(ring.copied, "of another machine, or before it was started");
    apikey_ring_close(&ring);
}


int
main(void)
{
    char             command[128];
    apikey_ring_t    ring;
    test_promise_t  *promise;

    promise = mmap(NULL, sizeof(test_promise_t), PROT_READ|PROT_WRITE,
                   MAP_SHARED|MAP_ANONYMOUS, -1, 0);

    if (promise == MAP_FAILED || mkdtemp(test_dir) == NULL) {
        return 1;
    }

    test_kill(promise);

    (void) apikey_ring_create(&ring, test_dir, 1, test_node, 78, -1, -1);
    test_holds(5, 2 + APIKEY_HOLDS);
    test_holds(6, 0);
    test_copied();
    test_runs();

    snprintf(command, sizeof(command), "rm -rf %s", test_dir);

    return system(command) || unit_done();
}
