
/*
 * The file of tallies: who has it, what stands in it after everybody has
 * died, and whose place is given to whom.
 */


#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "limit/tallies.h"

#include "unit.h"


#define SECOND   INT64_C(1000000)
#define HORIZON  (600 * SECOND)


static char     dir[] = "/tmp/apikey-tallies-XXXXXX";
static uint8_t  root[16];


static apikey_tally_t *
get(apikey_tallies_t *t, uint64_t account, int64_t now)
{
    uint8_t                  holder[16];
    apikey_tallies_entry_t  *e;

    memset(holder, 0, sizeof(holder));
    memcpy(holder, &account, sizeof(account));

    e = apikey_tallies_get(t, root, holder, 0, 1, 7, now);

    return e ? &e->tally : NULL;
}


static void
acked(apikey_tallies_t *t, uint64_t account, const apikey_account_sums_t *sums,
    uint64_t era)
{
    uint8_t  holder[16];

    memset(holder, 0, sizeof(holder));
    memcpy(holder, &account, sizeof(account));

    apikey_tallies_acked(t, holder, 0, 1, 7, sums, era);
}


/* A mapping has the file, too. */

static void
test_claim(apikey_tallies_t *first)
{
    char              name[64];
    uint64_t          node, file;
    apikey_tally_t   *tally;
    apikey_tallies_t  second, third;

    ok(apikey_tallies_claim(first, dir, 5, -1, -1), "a file is claimed");
    ok(apikey_tallies_claim(&second, dir, 6, -1, -1), "another one");
    ok(first->file->node != second.file->node, "of another name");
    file = second.file->node;

    tally = get(&second, 1, SECOND);
    apikey_tally_add(tally, 9, tally->era, 0, HORIZON);
    node = tally->node;

    /* its processes have gone */

    apikey_tallies_close(&second);

    ok(apikey_tallies_claim(&third, dir, 8, -1, -1), "who comes next");
    is_uint(third.file->node, file, "finds it");
    is_uint(get(&third, 1, SECOND)->node, node, "with its tallies");
    is_uint(get(&third, 1, SECOND)->sum, 9, "and their sums");

    apikey_tallies_close(&third);

    (void) snprintf(name, sizeof(name), "%s/tally.1", dir);
    (void) truncate(name, 10);

    ok(apikey_tallies_claim(&third, dir, 8, -1, -1), "who finds a torn one");
    is_uint(get(&third, 1, SECOND)->sum, 0, "another one is made");
    ok(get(&third, 1, SECOND)->node != node, "under another name");

    apikey_tallies_close(&third);
    (void) unlink(name);

    (void) snprintf(name, sizeof(name), "%s/tally.2", dir);
    (void) unlink(name);
}


static void
test_late(apikey_tallies_t *t)
{
    uint64_t               node;
    apikey_tally_t        *tally;
    apikey_account_sums_t  one, two;

    tally = get(t, 1, SECOND);
    apikey_tally_send(tally, HORIZON, SECOND, &one);
    acked(t, 1, &one, 3);
    is_uint(tally->era, 3, "an answer says which era it is");

    apikey_tally_add(tally, 5, 3, 0, HORIZON);
    apikey_tally_send(tally, HORIZON, 2 * SECOND, &one);
    apikey_tally_add(tally, 6, 3, 0, HORIZON);
    apikey_tally_send(tally, HORIZON, 3 * SECOND, &two);
    ok(!apikey_tally_clean(tally), "something is on its way");

    acked(t, 1, &two, 3);
    ok(apikey_tally_clean(tally), "and is there");

    acked(t, 1, &one, 2);
    ok(apikey_tally_clean(tally) && tally->era == 3,
       "an answer that was overtaken says nothing new");

    /* its place has gone to itself again: that is another tally */

    apikey_tally_add(tally, 4, 3, 0, HORIZON);
    apikey_tally_send(tally, HORIZON, 4 * SECOND, &one);
    node = one.node;
    one.node++;
    acked(t, 1, &one, 3);
    ok(!apikey_tally_clean(tally), "an answer to another one is not its own");

    one.node = node;
    acked(t, 2, &one, 3);
    ok(get(t, 2, SECOND)->acked == 0, "nor one about another account");

    acked(t, 1, &one, 3);
    ok(apikey_tally_clean(tally), "its own is, however late");
}


static apikey_owed_t *
owed(apikey_tallies_t *t, uint64_t account)
{
    uint8_t            holder[16];
    apikey_owed_key_t  key;

    memset(holder, 0, sizeof(holder));
    memcpy(holder, &account, sizeof(account));

    key.holder = holder;
    key.scope = 7;
    key.id = 5;
    key.level = 0;
    key.unit = 1;

    return apikey_owed_get(&t->file->owed, &key, apikey_tallies_name(t),
                           SECOND, SECOND);
}


/* A worker's seat is a lock on a byte of the file, as limit/holds.c has it. */

static int
seat(int fd, int command)
{
    struct flock  lock;

    memset(&lock, 0, sizeof(struct flock));
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_len = 1;

    return fcntl(fd, command, &lock) == 0
           && (command == F_SETLK || lock.l_type == F_UNLCK);
}


static int
seat_is_free(int fd)
{
    int    status;
    pid_t  pid;

    pid = fork();

    if (pid == 0) {
        _exit(seat(fd, F_GETLK));
    }

    return waitpid(pid, &status, 0) != pid || status != 0;
}


/* How much of other files goes on here. */

static unsigned
adopt(apikey_tallies_t *t)
{
    unsigned                 n;
    apikey_tallies_orphan_t  orphan;

    n = 0;
    memset(&orphan, 0, sizeof(orphan));

    while (apikey_tallies_orphan(t, &orphan)) {
        n += apikey_tallies_adopt(t, &orphan);
    }

    return n;
}


/* Files that nobody has any more. */

static void
test_adopt(apikey_tallies_t *t)
{
    char                   name[64];
    uint64_t               node, charge;
    struct stat            st;
    apikey_tallies_t       other;
    apikey_account_sums_t  sums;

    ok(apikey_tallies_claim(&other, dir, 6, -1, -1), "another master");

    apikey_tally_add(get(&other, 50, SECOND), 9, 0, 0, HORIZON);
    apikey_tally_add(get(&other, 51, SECOND), 3, 0, 0, HORIZON);
    apikey_tally_add(get(t, 51, SECOND), 1, 0, 0, HORIZON);
    apikey_owed_add(&other.file->owed, owed(&other, 52), 4, 0, 1, SECOND);
    node = get(&other, 50, SECOND)->node;
    charge = owed(&other, 52)->name;

    ok(seat(t->fd, F_SETLK), "a worker has a seat");
    is_uint(adopt(t), 0, "who is at work keeps what it has");
    ok(!seat_is_free(t->fd), "and its seat");

    apikey_tallies_close(&other);

    is_uint(adopt(t), 2, "who has gone leaves it");
    is_uint(get(t, 50, SECOND)->node, node, "a tally under its name");
    is_uint(get(t, 50, SECOND)->sum, 9, "with its sum");
    is_uint(owed(t, 52)->name, charge, "and what is owed");
    ok(!apikey_owed_clean(owed(t, 52), SECOND), "which it is still");
    is_uint(get(t, 51, SECOND)->sum, 1, "what we have is told first");

    apikey_tally_send(get(t, 51, SECOND), HORIZON, SECOND, &sums);
    acked(t, 51, &sums, 0);

    is_uint(adopt(t), 1, "then that of others");
    is_uint(get(t, 51, SECOND)->sum, 3, "another sum");
    is_uint(adopt(t), 0, "once");

    (void) snprintf(name, sizeof(name), "%s/tally.1", dir);
    ok(stat(name, &st) == 0 && st.st_size == 0, "its file is empty");
    ok(apikey_tallies_claim(&other, dir, 7, -1, -1)
       && get(&other, 50, SECOND)->sum == 0, "and may be another one's");

    apikey_tallies_close(&other);
    (void) unlink(name);
}


/* More accounts than there are places. */

static void
test_full(apikey_tallies_t *t)
{
    bool                   good, named;
    uint64_t               a, n, node;
    apikey_tally_t        *tally;

    good = true;
    named = true;

    for (a = 100; a < 100 + 2 * APIKEY_TALLIES_SIZE; a++) {
        tally = get(t, a, (int64_t) a * SECOND);
        good = good && tally != NULL;
    }

    ok(good, "what is acknowledged gives its place away");

    node = get(t, 100, 1)->node;

    for (a = 0, n = 0; a < APIKEY_TALLIES_SIZE; a++) {
        n += t->file->entries[a].used != 0;
    }

    ok(n > APIKEY_TALLIES_SIZE * 9 / 10, "most places are in use");

    for (a = 0; a < 4 * APIKEY_TALLIES_SIZE; a++) {
        tally = get(t, 1000000 + a, SECOND);

        if (tally) {
            named = named && tally->node != node;
            apikey_tally_add(tally, 1, 0, 0, HORIZON);
        }
    }

    ok(named, "no name is given twice");
    ok(get(t, 9000000, SECOND) == NULL || n < APIKEY_TALLIES_SIZE,
       "what is owed does not");

    for (a = 0, n = 0; a < APIKEY_TALLIES_SIZE; a++) {
        n += t->file->entries[a].used
             && !apikey_tally_clean(&t->file->entries[a].tally);
    }

    ok(n > APIKEY_TALLIES_SIZE * 9 / 10, "all of it still stands there");
}


int
main(void)
{
    char              name[64];
    apikey_tallies_t  tallies;

    if (mkdtemp(dir) == NULL) {
        return 1;
    }

    test_claim(&tallies);
    test_late(&tallies);
    test_adopt(&tallies);
    test_full(&tallies);

    (void) snprintf(name, sizeof(name), "%s/tally.0", dir);
    (void) unlink(name);
    (void) rmdir(dir);

    return unit_done();
}
