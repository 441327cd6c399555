
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


static bool apikey_tallies_adopt_ours(apikey_tallies_t *tallies,
    const char *name);
static unsigned apikey_tallies_adopt_file(apikey_tallies_t *tallies, int fd);
static unsigned apikey_tallies_adopt_all(apikey_tallies_t *tallies,
    apikey_tallies_file_t *file, size_t size, bool *left);
static bool apikey_tallies_adopt_tally(apikey_tallies_t *tallies,
    const apikey_tallies_entry_t *from);
static bool apikey_tallies_adopt_owed(apikey_tallies_t *tallies,
    const apikey_owed_t *from);


unsigned
apikey_tallies_adopt(apikey_tallies_t *tallies)
{
    int       fd;
    char      name[1024];
    unsigned  i, n;

    n = 0;

    for (i = 0; i < APIKEY_TALLIES_FILES; i++) {
        (void) snprintf(name, sizeof(name), "%s/tally.%u", tallies->dir, i);

        if (apikey_tallies_adopt_ours(tallies, name)) {
            continue;
        }

        fd = open(name, O_RDWR|O_CLOEXEC|O_NOFOLLOW);

        if (fd == -1) {
            continue;
        }

        if (flock(fd, LOCK_EX|LOCK_NB) == 0) {
            n += apikey_tallies_adopt_file(tallies, fd);
        }

        (void) close(fd);
    }

    return n;
}


/*
 * A process that closes any descriptor of a file gives up all its POSIX locks
 * of that file, see fcntl(2): our own must not even be opened, for workers
 * lock their seats in it (limit/holds.h).
 */

static bool
apikey_tallies_adopt_ours(apikey_tallies_t *tallies, const char *name)
{
    struct stat  st, ours;

    return fstat(tallies->fd, &ours) == 0
           && stat(name, &st) == 0
           && st.st_dev == ours.st_dev
           && st.st_ino == ours.st_ino;
}


static unsigned
apikey_tallies_adopt_file(apikey_tallies_t *tallies, int fd)
{
    bool                    left;
    void                   *p;
    size_t                  size;
    unsigned                n;
    struct stat             st;
    apikey_tallies_file_t  *file;

    if (fstat(fd, &st) == -1
        || st.st_size < (off_t) offsetof(apikey_tallies_file_t, owed)
        || st.st_size > (off_t) sizeof(apikey_tallies_file_t))
    {
        return 0;
    }

    size = (size_t) st.st_size;

    p = mmap(NULL, size, PROT_READ|PROT_WRITE, MAP_SHARED, fd, 0);

    if (p == MAP_FAILED) {
        return 0;
    }

    file = p;
    left = true;
    n = 0;

    if (file->magic == APIKEY_TALLIES_MAGIC
        && file->layout <= APIKEY_TALLIES_LAYOUT
        && file->size == APIKEY_TALLIES_SIZE)
    {
        n = apikey_tallies_adopt_all(tallies, file, size, &left);
    }

    (void) munmap(p, size);

    /* who opens it next makes it anew */

    if (!left) {
        (void) !ftruncate(fd, 0);
    }

    return n;
}


/* left: somebody has a place of ours for it, and it is not told yet. */

static unsigned
apikey_tallies_adopt_all(apikey_tallies_t *tallies,
    apikey_tallies_file_t *file, size_t size, bool *left)
{
    unsigned                 i, n;
    apikey_owed_t           *owed;
    apikey_tallies_entry_t  *e;

    *left = false;
    n = 0;

    for (i = 0; i < APIKEY_TALLIES_SIZE; i++) {
        e = &file->entries[i];

        if (!e->used || apikey_tally_clean(&e->tally)) {
            continue;
        }

        if (apikey_tallies_adopt_tally(tallies, e)) {
            e->used = 0;
            n++;

        } else {
            *left = true;
        }
    }

    if (file->layout < 2 || size < sizeof(apikey_tallies_file_t)) {
        return n;
    }

    for (i = 0; i < APIKEY_OWED_SIZE; i++) {
        owed = &file->owed.places[i];

        if (!owed->used || apikey_owed_clean(owed, 0)) {
            continue;
        }

        if (apikey_tallies_adopt_owed(tallies, owed)) {
            owed->used = 0;
            n++;

        } else {
            *left = true;
        }
    }

    return n;
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
