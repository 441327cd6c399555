
/*
 * Tallies in a tmpfs file: what a node has settled, account by account, on
 * its way to Redis; and what it has admitted without Redis (limit/owed.h).
 *
 * The file outlives every process.  A master claims one of its own by flock
 * before it makes its zone and hands it to its workers, who go by the zone's
 * mutex; when all of them have gone the next master finds it, with sums that
 * no answer has acknowledged, and goes on; one that has a file already takes
 * what stands in those that nobody has.  A new file has a name that no file
 * had before: to Redis it is another node.
 *
 * Plain C.  The file is allocated whole, so that writing it never fails.  The
 * mapping is the process' that claimed it, and its children's.
 */


#ifndef APIKEY_TALLIES_H_INCLUDED
#define APIKEY_TALLIES_H_INCLUDED


#include <stdbool.h>
#include <stdint.h>

#include "limit/lease.h"
#include "limit/owed.h"


#define APIKEY_TALLIES_MAGIC   UINT64_C(0x594c4154594b5041)     /* APKYTALY */
#define APIKEY_TALLIES_LAYOUT  2
#define APIKEY_TALLIES_FILES   64            /* in a directory */
#define APIKEY_TALLIES_SIZE    8192          /* accounts */


/* An account; all of it is needed to ask Redis about it. */

typedef struct {
    uint8_t               root[16];
    uint8_t               holder[16];
    uint64_t              scope;
    uint8_t               level;
    uint8_t               unit;
    uint8_t               used;
    uint8_t               reserved[5];
    int64_t               at;                /* boottime, last used */
    apikey_tally_t        tally;
} apikey_tallies_entry_t;


typedef struct {
    uint64_t              magic;
    uint64_t              layout;
    uint64_t              size;
    uint64_t              node;              /* never 0 */
    uint64_t              names;             /* given to tallies */
    apikey_tally_t        none;              /* of accounts that do not
                                                settle */
    apikey_tallies_entry_t  entries[APIKEY_TALLIES_SIZE];
    apikey_owed_set_t     owed;              /* since layout 2 */
} apikey_tallies_file_t;


typedef struct {
    apikey_tallies_file_t  *file;            /* NULL: not claimed */
    int                     fd;
    int                     err;             /* errno of the last failure */
    const char             *what;            /* what failed; static */
    char                    dir[1000];
} apikey_tallies_t;


/* A file that nobody has. */

typedef struct {
    apikey_tallies_file_t  *file;            /* NULL: none is open */
    size_t                  size;
    int                     fd;
    unsigned                files;           /* have been looked at */
    unsigned                places;          /* ... in this one */
    unsigned                left;            /* ... that stay there */
} apikey_tallies_orphan_t;


/*
 * The first file of the directory that nobody has, made if need be.  name:
 * what a new one is called, any number that was never used.  uid, gid: -1 as
 * they are.
 */
bool apikey_tallies_claim(apikey_tallies_t *tallies, const char *dir,
    uint64_t name, int uid, int gid);

/* It is nobody's then; what stands in it is for the next one. */
void apikey_tallies_close(apikey_tallies_t *tallies);

/*
 * The next account, or limit, that stands in another file of its directory
 * that nobody has any more; all zeros: the first one.  False: there is none,
 * and nothing is open; a file of which nothing is left is empty then.  Wants
 * no mutex: nothing of ours is read.
 */
bool apikey_tallies_orphan(apikey_tallies_t *tallies,
    apikey_tallies_orphan_t *orphan);

/* It goes on here, under the name it has; false: later. */
bool apikey_tallies_adopt(apikey_tallies_t *tallies,
    apikey_tallies_orphan_t *orphan);

/* Any answer to a call about it that took these sums along, however late. */
void apikey_tallies_acked(apikey_tallies_t *tallies, const uint8_t holder[16],
    unsigned level, unsigned unit, uint64_t scope,
    const apikey_account_sums_t *sums, uint64_t era);

/* The tally of an account, made if need be; NULL: all are in use. */
apikey_tallies_entry_t *apikey_tallies_get(apikey_tallies_t *tallies,
    const uint8_t root[16], const uint8_t holder[16], unsigned level,
    unsigned unit, uint64_t scope, int64_t now);

/* A name that nothing of this file had before. */
uint64_t apikey_tallies_name(apikey_tallies_t *tallies);


#endif /* APIKEY_TALLIES_H_INCLUDED */
