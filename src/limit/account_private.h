
/*
 * What account.c (time, edits, loss) and account_lease.c (settling, granting,
 * taking) share.  Nobody else includes this.
 */


#ifndef APIKEY_ACCOUNT_PRIVATE_H_INCLUDED
#define APIKEY_ACCOUNT_PRIVATE_H_INCLUDED


#include <stddef.h>

#include "limit/account.h"


static inline uint64_t
apikey_account_out(const apikey_account_t *v)
{
    return v->out[0] + v->out[1];
}


static inline uint64_t
apikey_account_times(uint64_t a, uint64_t b)
{
    return a > APIKEY_ACCOUNT_MAX / b ? APIKEY_ACCOUNT_MAX : a * b;
}


static inline uint64_t
apikey_account_floor(const apikey_account_t *v,
    const apikey_account_level_t *level)
{
    return apikey_account_times(apikey_account_out(v), level->token);
}


static inline apikey_account_level_t *
apikey_account_find(apikey_account_t *v, uint64_t id)
{
    unsigned  i;

    for (i = 0; i < v->nlevels; i++) {

        if (v->levels[i].id == id) {
            return &v->levels[i];
        }
    }

    return NULL;
}


static inline const apikey_account_limit_t *
apikey_account_mine(const apikey_account_call_t *call, uint64_t id)
{
    unsigned  i;

    for (i = 0; i < call->nlimits; i++) {

        if (call->limits[i].id == id) {
            return &call->limits[i];
        }
    }

    return NULL;
}


/* The end of the period that holds now; not after now: the caller is stale. */

static inline uint64_t
apikey_account_end(const apikey_account_t *v,
    const apikey_account_limit_t *limit)
{
    return v->at < limit->end ? limit->end : limit->next;
}


/* account_lease.c */

/* Tokens that may be out at once. */
uint64_t apikey_account_ceiling(const apikey_account_call_t *call);

/* What slots have used is what is out. */
void apikey_account_slots(apikey_account_t *v,
    const apikey_account_call_t *call);


#endif /* APIKEY_ACCOUNT_PRIVATE_H_INCLUDED */
