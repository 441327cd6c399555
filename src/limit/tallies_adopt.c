
/*
 * Files of tallies that nobody has: of a master that was replaced by another
 * one while it still had something to tell, or that never came back.
 *
 * Each place goes over as it is, under its name, so that what Redis has got
 * of it is not charged again: after a crash in between it stands in both, and
 * whoever tells it says the same.
 */


#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "limit/tallies.h"


static bool apikey_tallies_orphan_open(apikey_tallies_t *tallies,
    apikey_tallies_orphan_t *orphan);
static bool apikey_tallies_orphan_ours(apikey_tallies_t *tallies,
    const char *name);
static bool apikey_tallies_orphan_map(apikey_tallies_orphan_t *orphan);
static bool apikey_tallies_orphan_next(apikey_tallies_orphan_t *orphan);
static void apikey_tallies_orphan_close(apikey_tallies_orphan_t *orphan);
static bool apikey_tallies_adopt_tally(apikey_tallies_t *tallies,
    const apikey_tallies_entry_t *from);
static bool apikey_tallies_adopt_owed(apikey_tallies_t *tallies,
    const apikey_owed_t *from);


bool
apikey_tallies_orphan(apikey_tallies_t *tallies,
    apikey_tallies_orphan_t *orphan)
{
    for ( ;; ) {

        if (orphan->file == NULL
            && !apikey_tallies_orphan_open(tallies, orphan))
        {
            return false;
        }

        if (apikey_tallies_orphan_next(orphan)) {
            return true;
        }

        apikey_tallies_orphan_close(orphan);
    }
}


static bool
apikey_tallies_orphan_open(apikey_tallies_t *tallies,
    apikey_tallies_orphan_t *orphan)
{
    char  name[1024];

    while (orphan->files < APIKEY_TALLIES_FILES) {
        (void) snprintf(name, sizeof(name), "%s/tally.%u", tallies->dir,
                        orphan->files++);

        if (apikey_tallies_orphan_ours(tallies, name)) {
            continue;
        }

        orphan->fd = open(name, O_RDWR|O_CLOEXEC|O_NOFOLLOW);

        if (orphan->fd == -1) {
            continue;
        }

        if (flock(orphan->fd, LOCK_EX|LOCK_NB) == 0
            && apikey_tallies_orphan_map(orphan))
        {
            return true;
        }

        (void) close(orphan->fd);
    }

    return false;
}


/*
 * A process that closes any descriptor of a file gives up all its POSIX locks
 * of that file, see fcntl(2): our own must not even be opened, for workers
 * lock their seats in it (limit/holds.h).
 */

static bool
apikey_tallies_orphan_ours(apikey_tallies_t *tallies, const char *name)
{
    struct stat  st, ours;

    return fstat(tallies->fd, &ours) == 0
           && stat(name, &st) == 0
           && st.st_dev == ours.st_dev
           && st.st_ino == ours.st_ino;
}


static bool
apikey_tallies_orphan_map(apikey_tallies_orphan_t *orphan)
{
    void                   *p;
    size_t                  size;
    struct stat             st;
    apikey_tallies_file_t  *file;

    if (fstat(orphan->fd, &st) == -1
        || st.st_size < (off_t) offsetof(apikey_tallies_file_t, owed)
        || st.st_size > (off_t) sizeof(apikey_tallies_file_t))
    {
        return false;
    }

    size = (size_t) st.st_size;

    p = mmap(NULL, size, PROT_READ|PROT_WRITE, MAP_SHARED, orphan->fd, 0);

    if (p == MAP_FAILED) {
        return false;
    }

    file = p;

    if (file->magic != APIKEY_TALLIES_MAGIC
        || file->layout > APIKEY_TALLIES_LAYOUT
        || file->size != APIKEY_TALLIES_SIZE)
    {
        (void) munmap(p, size);
        return false;
    }

    orphan->file = file;
    orphan->size = size;
    orphan->places = 0;
    orphan->left = 0;

    return true;
}


/* Tallies first, then what is owed, which the first layout had not. */

static bool
apikey_tallies_orphan_next(apikey_tallies_orphan_t *orphan)
{
    unsigned                 i, n;
    apikey_owed_t           *owed;
    apikey_tallies_file_t   *file;
    apikey_tallies_entry_t  *e;

    file = orphan->file;
    n = APIKEY_TALLIES_SIZE;

    if (file->layout > 1 && orphan->size == sizeof(apikey_tallies_file_t)) {
        n += APIKEY_OWED_SIZE;
    }

    while (orphan->places < n) {
        i = orphan->places++;

        if (i < APIKEY_TALLIES_SIZE) {
            e = &file->entries[i];

            if (e->used && !apikey_tally_clean(&e->tally)) {
                return true;
            }

            continue;
        }

        owed = &file->owed.places[i - APIKEY_TALLIES_SIZE];

        if (owed->used && !apikey_owed_clean(owed, 0)) {
            return true;
        }
    }

    return false;
}


static void
apikey_tallies_orphan_close(apikey_tallies_orphan_t *orphan)
{
    (void) munmap(orphan->file, orphan->size);

    orphan->file = NULL;

    /* who opens it next makes it anew */

    if (orphan->left == 0) {
        (void) !ftruncate(orphan->fd, 0);
    }

    (void) close(orphan->fd);
}


bool
apikey_tallies_adopt(apikey_tallies_t *tallies,
    apikey_tallies_orphan_t *orphan)
{
    unsigned                 i;
    apikey_owed_t           *owed;
    apikey_tallies_entry_t  *e;

    i = orphan->places - 1;

    if (i < APIKEY_TALLIES_SIZE) {
        e = &orphan->file->entries[i];

        if (apikey_tallies_adopt_tally(tallies, e)) {
            e->used = 0;
            return true;
        }

    } else {
        owed = &orphan->file->owed.places[i - APIKEY_TALLIES_SIZE];

        if (apikey_tallies_adopt_owed(tallies, owed)) {
            owed->used = 0;
            return true;
        }
    }

    /* a place of ours that is not told yet has its name */

    orphan->left++;

    return false;
}


static bool
apikey_tallies_adopt_tally(apikey_tallies_t *tallies,
    const apikey_tallies_entry_t *from)
{
    apikey_tallies_entry_t  *e;

    e = apikey_tallies_get(tallies, from->root, from->holder, from->level,
                           from->unit, from->scope, from->at);

    if (e == NULL || !apikey_tally_clean(&e->tally)) {
        return false;
    }

    e->tally = from->tally;

    return true;
}


static bool
apikey_tallies_adopt_owed(apikey_tallies_t *tallies,
    const apikey_owed_t *from)
{
    apikey_owed_t      *owed;
    apikey_owed_key_t   key;

    key.holder = from->holder;
    key.scope = from->scope;
    key.id = from->id;
    key.level = from->level;
    key.unit = from->unit;

    owed = apikey_owed_get(&tallies->file->owed, &key, 0, from->at, 0);

    if (owed == NULL) {
        return false;
    }

    /* who took it over before died before it was struck out there */

    if (owed->name == from->name && owed->number >= from->number) {
        return true;
    }

    if (!apikey_owed_clean(owed, 0)) {
        return false;
    }

    owed->used = 0;

    __atomic_thread_fence(__ATOMIC_SEQ_CST);

    *owed = *from;

    return true;
}
