
/*
 * What account.c (time), account_loss.c, account_counter.c (what is settled
 * and charged) and account_lease.c (granting, taking) share.  Nobody else
 * includes this.
 */


#ifndef APIKEY_ACCOUNT_PRIVATE_H_INCLUDED
#define APIKEY_ACCOUNT_PRIVATE_H_INCLUDED


#include <stddef.h>

#include "limit/account.h"


#define apikey_account_charges(call)                                          \
    (((call)->sums.node & APIKEY_ACCOUNT_CHARGE) != 0)


/* The name of a counter that says what a quota had used when it was lost. */

#define APIKEY_ACCOUNT_KEPT(id)  (((id) ^ 0x5a) | APIKEY_ACCOUNT_CHARGE)


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


static inline bool
apikey_account_rolls(uint64_t tick)
{
    return tick == APIKEY_ACCOUNT_ROLLING;
}


/* account.c: NULL: the value is full of other limits; who calls is refused. */
apikey_account_level_t *apikey_account_add(apikey_account_t *v,
    const apikey_account_call_t *call, const apikey_account_limit_t *limit);


/* account_loss.c */

/* A limit was there before the primary was. */
bool apikey_account_older(const apikey_account_call_t *call);

/*
 * Somebody took this value away, and what had been used was in it: it is not
 * there, or who came first did not know and made it anew.
 */
bool apikey_account_touched(const apikey_account_t *v,
    const apikey_account_call_t *call);

/*
 * Full, for nobody knows of any use; where the values have just gone somebody
 * may, who has not come yet, and what is leased may still be spent.
 */
void apikey_account_begin(apikey_account_t *v,
    const apikey_account_call_t *call, uint64_t now);

/* Somebody has used quotas who was not heard of when they became known. */
void apikey_account_forget(apikey_account_t *v,
    const apikey_account_call_t *call);

/* Another primary, or a value that cannot be read. */
void apikey_account_lost(apikey_account_t *v,
    const apikey_account_call_t *call, uint64_t now);

/* Units that a quota had used at least when it was lost, once; 0: none. */
uint64_t apikey_account_kept(apikey_account_t *v,
    const apikey_account_level_t *level);

/*
 * By when all is void that was leased before something was lost of it: what is
 * known has to be complete until then.  0: nothing was lost.
 */
uint64_t apikey_account_until(const apikey_account_t *v,
    const apikey_account_call_t *call, const apikey_account_limit_t *limit);


/* account_counter.c */

/* For another counter; if need be, of the one that is missed least. */
apikey_account_counter_t *apikey_account_place(apikey_account_t *v);


/* What the call's sums say, once. */
void apikey_account_counter(apikey_account_t *v,
    const apikey_account_call_t *call);

/* A charge of a quota that Postgres was asked for before it was all there. */
bool apikey_account_missed(apikey_account_t *v,
    const apikey_account_call_t *call, uint64_t now);

/* tokens < 0: settled above the reserve, a charge. */
void apikey_account_credit(apikey_account_t *v, apikey_account_level_t *level,
    int64_t tokens);


/* account_edit.c */

void apikey_account_edit(apikey_account_t *v, apikey_account_level_t *level,
    const apikey_account_limit_t *limit);


/* account_rolling.c: of a rolling level */

/* After its log or O has changed. */
void apikey_account_roll(const apikey_account_t *v,
    apikey_account_level_t *level);

/* Its log is: so much of units, as of at. */
void apikey_account_roll_set(const apikey_account_t *v,
    apikey_account_level_t *level, uint64_t at, uint64_t units);

/* What requests have really cost. */
void apikey_account_roll_settle(apikey_account_t *v,
    apikey_account_level_t *level, const apikey_account_limit_t *limit);

/* All of them: tokens leave O as spent, at that time. */
void apikey_account_spent(apikey_account_t *v, uint64_t tokens, uint64_t at);


/* account_lease.c */

/* Whole tokens a level has left; none where nothing is known. */
uint64_t apikey_account_avail(apikey_account_t *v,
    const apikey_account_limit_t *limit);

/* Tokens that may be out at once. */
uint64_t apikey_account_ceiling(const apikey_account_call_t *call);

/* What slots have used is what is out; what a rolling window, too. */
void apikey_account_slots(apikey_account_t *v,
    const apikey_account_call_t *call);

/* account_edit.c: a level more has room. */
bool apikey_account_room(apikey_account_t *v);


#endif /* APIKEY_ACCOUNT_PRIVATE_H_INCLUDED */
