
/*
 * Tallies in a tmpfs file: claiming it, and finding an account in it.
 *
 * An account stands in one of a few places behind its hash, so that no list
 * can be torn.  Its place is given to another one when all it has settled is
 * acknowledged.
 */


#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "limit/tallies.h"


#define APIKEY_TALLIES_WAYS  16

#define APIKEY_TALLIES_BYTES  sizeof(apikey_tallies_file_t)


static bool apikey_tallies_fail(apikey_tallies_t *tallies, const char *what);
static bool apikey_tallies_open(apikey_tallies_t *tallies, const char *name,
    uint64_t node, int uid, int gid);
static bool apikey_tallies_map(apikey_tallies_t *tallies, uint64_t node);
static uint64_t apikey_tallies_hash(const uint8_t holder[16], unsigned level,
    unsigned unit, uint64_t scope);


bool
apikey_tallies_claim(apikey_tallies_t *tallies, const char *dir,
    uint64_t node, int uid, int gid)
{
    char      name[1024];
    unsigned  i;

    memset(tallies, 0, sizeof(apikey_tallies_t));
    tallies->fd = -1;

    if (strlen(dir) >= sizeof(tallies->dir)) {
        errno = ENAMETOOLONG;
        return apikey_tallies_fail(tallies, "directory");
    }

    strcpy(tallies->dir, dir);

    for (i = 0; i < APIKEY_TALLIES_FILES; i++) {
        (void) snprintf(name, sizeof(name), "%s/tally.%u", dir, i);

        if (apikey_tallies_open(tallies, name, node, uid, gid)) {
            return true;
        }

        if (tallies->err != EWOULDBLOCK && tallies->err != EPROTO) {
            return false;
        }
    }

    return false;
}


static bool
apikey_tallies_fail(apikey_tallies_t *tallies, const char *what)
{
    tallies->err = errno;
    tallies->what = what;

    if (tallies->fd != -1) {
        (void) close(tallies->fd);
        tallies->fd = -1;
    }

    return false;
}


static bool
apikey_tallies_open(apikey_tallies_t *tallies, const char *name,
    uint64_t node, int uid, int gid)
{
    int          err;
    struct stat  st;

    tallies->fd = open(name, O_RDWR|O_CREAT|O_CLOEXEC|O_NOFOLLOW, 0600);

    if (tallies->fd == -1) {
        return apikey_tallies_fail(tallies, "open()");
    }

    /* whoever has it is at work; what is written follows the lock */

    if (flock(tallies->fd, LOCK_EX|LOCK_NB) == -1) {
        return apikey_tallies_fail(tallies, "flock()");
    }

    if (fstat(tallies->fd, &st) == -1) {
        return apikey_tallies_fail(tallies, "fstat()");
    }

    if (st.st_size > (off_t) APIKEY_TALLIES_BYTES) {
        errno = EPROTO;
        return apikey_tallies_fail(tallies, "another layout");
    }

    err = posix_fallocate(tallies->fd, 0, (off_t) APIKEY_TALLIES_BYTES);

    if (err) {
        errno = err;
        return apikey_tallies_fail(tallies, "posix_fallocate()");
    }

    if (uid != -1 && fchown(tallies->fd, (uid_t) uid, (gid_t) gid) == -1) {
        return apikey_tallies_fail(tallies, "fchown()");
    }

    return apikey_tallies_map(tallies, node);
}


static bool
apikey_tallies_map(apikey_tallies_t *tallies, uint64_t node)
{
    void                   *p;
    apikey_tallies_file_t  *file;

    p = mmap(NULL, APIKEY_TALLIES_BYTES, PROT_READ|PROT_WRITE, MAP_SHARED,
             tallies->fd, 0);

    if (p == MAP_FAILED) {
        return apikey_tallies_fail(tallies, "mmap()");
    }

    file = p;

    /* the magic is the last thing written: a file without it was not begun */

    if (file->magic == 0) {
        memset(file, 0, APIKEY_TALLIES_BYTES);

        file->layout = APIKEY_TALLIES_LAYOUT;
        file->size = APIKEY_TALLIES_SIZE;
        file->node = (node & INT64_MAX) | 1;
        file->none.node = file->node;

        __atomic_store_n(&file->magic, APIKEY_TALLIES_MAGIC, __ATOMIC_RELEASE);
    }

    /* the first layout had no more than tallies: what follows is zeros */

    if (file->layout == 1) {
        file->layout = APIKEY_TALLIES_LAYOUT;
    }

    if (file->magic != APIKEY_TALLIES_MAGIC
        || file->layout != APIKEY_TALLIES_LAYOUT
        || file->size != APIKEY_TALLIES_SIZE)
    {
        (void) munmap(p, APIKEY_TALLIES_BYTES);
        errno = EPROTO;
        return apikey_tallies_fail(tallies, "another layout");
    }

    tallies->file = file;

    return true;
}


void
apikey_tallies_close(apikey_tallies_t *tallies)
{
    (void) munmap(tallies->file, APIKEY_TALLIES_BYTES);
    (void) close(tallies->fd);

    tallies->file = NULL;
    tallies->fd = -1;
}


apikey_tallies_entry_t *
apikey_tallies_get(apikey_tallies_t *tallies, const uint8_t root[16],
    const uint8_t holder[16], unsigned level, unsigned unit, uint64_t scope,
    int64_t now)
{
    unsigned                 i;
    uint64_t                 h;
    apikey_tallies_entry_t  *e, *found;

    h = apikey_tallies_hash(holder, level, unit, scope);
    found = NULL;

    for (i = 0; i < APIKEY_TALLIES_WAYS; i++) {
        e = &tallies->file->entries[(h + i) % APIKEY_TALLIES_SIZE];

        if (e->used && e->scope == scope && e->level == level
            && e->unit == unit && memcmp(e->holder, holder, 16) == 0)
        {
            e->at = now;
            return e;
        }

        if (!e->used) {
            found = found && !found->used ? found : e;

        } else if (apikey_tally_clean(&e->tally)
                   && (found == NULL || (found->used && e->at < found->at)))
        {
            found = e;
        }
    }

    e = found;

    if (e == NULL) {
        return NULL;
    }

    e->used = 0;

    __atomic_thread_fence(__ATOMIC_SEQ_CST);

    memcpy(e->root, root, 16);
    memcpy(e->holder, holder, 16);
    e->scope = scope;
    e->level = (uint8_t) level;
    e->unit = (uint8_t) unit;
    e->at = now;

    /*
     * Redis may still know an earlier tally of this account: each has a name
     * of its own.
     */

    memset(&e->tally, 0, sizeof(apikey_tally_t));
    e->tally.node = apikey_tallies_name(tallies);

    __atomic_store_n(&e->used, 1, __ATOMIC_RELEASE);

    return e;
}


void
apikey_tallies_acked(apikey_tallies_t *tallies, const uint8_t holder[16],
    unsigned level, unsigned unit, uint64_t scope,
    const apikey_account_sums_t *sums, uint64_t era)
{
    unsigned                 i;
    uint64_t                 h;
    apikey_tallies_entry_t  *e;

    h = apikey_tallies_hash(holder, level, unit, scope);

    for (i = 0; i < APIKEY_TALLIES_WAYS; i++) {
        e = &tallies->file->entries[(h + i) % APIKEY_TALLIES_SIZE];

        /* a name is given once: it is the account's, too */

        if (e->used && e->tally.node == sums->node) {
            apikey_tally_acked(&e->tally, sums, era);
        }
    }
}


static uint64_t
apikey_tallies_hash(const uint8_t holder[16], unsigned level, unsigned unit,
    uint64_t scope)
{
    uint64_t  h, part;

    memcpy(&h, holder, 8);
    memcpy(&part, holder + 8, 8);

    h = (h ^ part) * 0x9e3779b97f4a7c15ULL;
    h = (h ^ (h >> 32) ^ scope ^ (uint64_t) level << 8 ^ unit)
        * 0x9e3779b97f4a7c15ULL;

    return h >> 32;
}


uint64_t
apikey_tallies_name(apikey_tallies_t *tallies)
{
    uint64_t                name;
    apikey_tallies_file_t  *file;

    file = tallies->file;
    name = file->node + ++file->names * 0x9e3779b97f4a7c15ULL;

    return (name & INT64_MAX) | 1;
}
