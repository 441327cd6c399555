
/*
 * What a node has admitted without Redis, limit by limit, on its way there:
 * in local mode, or while Redis was down.
 *
 * One place a limit in the file of tallies, which outlives every process;
 * who calls holds the zone's mutex.  Sums are cumulative under a name that
 * Redis tells from a node's, as limit/account.h says: a call that is lost,
 * late or overtaken is made good by the next one.
 *
 * Plain C.  Nothing here is told twice, and nothing is forgotten but what
 * Redis forgets, too.
 */


#ifndef APIKEY_OWED_H_INCLUDED
#define APIKEY_OWED_H_INCLUDED


#include <stdbool.h>
#include <stdint.h>

#include "limit/account.h"


#define APIKEY_OWED_SIZE  32768              /* limits */


typedef struct {
    uint8_t   holder[16];
    uint64_t  scope;
    uint64_t  id;                /* of the limit */
    uint64_t  name;              /* to Redis */
    uint64_t  number;            /* of the last call that took it along */
    uint64_t  acked_number;
    int64_t   sum;               /* tokens; < 0: admitted */
    int64_t   acked;
    uint64_t  era;               /* us: Redis had answered last, before that
                                    was admitted */
    uint64_t  end;               /* us: of the period, or when all of it has
                                    come back; 0: never */
    int64_t   at;                /* boottime: last used; sent, since when no
                                    call was answered */
    uint32_t  share;             /* it was admitted by so many nodes'th */
    uint8_t   level;
    uint8_t   unit;
    uint8_t   used;
    uint8_t   sinks;             /* it refills, or rolls */
} apikey_owed_t;


typedef struct {
    const uint8_t  *holder;
    uint64_t        scope;
    uint64_t        id;
    unsigned        level;
    unsigned        unit;
} apikey_owed_key_t;


/* The head of all places. */

typedef struct {
    uint64_t       contact;      /* us: Redis has answered last, by its clock;
                                    0: never */
    uint64_t       alone;        /* us: something was admitted last */
    uint64_t       missed;       /* limits for which there was no place */
    apikey_owed_t  places[APIKEY_OWED_SIZE];
} apikey_owed_set_t;


/* NULL: nothing was ever admitted of it. */
apikey_owed_t *apikey_owed_find(apikey_owed_set_t *set,
    const apikey_owed_key_t *key);

/*
 * Its place, made if need be, with a name that was never used; NULL: all are
 * in use.  real: us since the epoch.
 */
apikey_owed_t *apikey_owed_get(apikey_owed_set_t *set,
    const apikey_owed_key_t *key, uint64_t name, int64_t now, uint64_t real);

/*
 * So many tokens were admitted of it in the period that ends then (0: it has
 * none), or that will have come back by then (it sinks).  name: for what was
 * told before, if another period has begun.
 */
void apikey_owed_add(apikey_owed_set_t *set, apikey_owed_t *owed,
    uint64_t tokens, uint64_t end, uint64_t name, uint64_t real);

/* So much less was used: of what was admitted in that period. */
void apikey_owed_back(apikey_owed_t *owed, uint64_t tokens, uint64_t end);

/* No more than so much is owed by now, unless it is on its way. */
void apikey_owed_most(apikey_owed_t *owed, uint64_t tokens);

/* All of it is there, or in a period that is over. */
bool apikey_owed_clean(const apikey_owed_t *owed, uint64_t real);

/*
 * It goes along with a LEASE whose index-th limit it is of.  In doubt, where
 * Redis may have got a call that was not answered, and have forgotten it.
 */
void apikey_owed_send(apikey_owed_t *owed, unsigned index, uint64_t horizon,
    int64_t now, apikey_account_sums_t *sums);
void apikey_owed_acked(apikey_owed_t *owed,
    const apikey_account_sums_t *sums);


#endif /* APIKEY_OWED_H_INCLUDED */
