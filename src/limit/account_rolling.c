
/*
 * The value of an account: its rolling windows.  limit/account.h says what
 * each step does.
 */


#include "limit/account_private.h"


void
apikey_account_roll(const apikey_account_t *v, apikey_account_level_t *level)
{
    uint64_t  out;

    out = apikey_account_out(v);

    level->used = out < APIKEY_ACCOUNT_MAX - 1 - level->log.sum
                  ? level->log.sum + out : APIKEY_ACCOUNT_MAX - 1;
}


void
apikey_account_roll_set(const apikey_account_t *v,
    apikey_account_level_t *level, uint64_t at, uint64_t units)
{
    apikey_rolling_set(&level->log, at, units);
    apikey_account_roll(v, level);
}


void
apikey_account_roll_settle(apikey_account_t *v, apikey_account_level_t *level,
    const apikey_account_limit_t *limit)
{
    if (limit->fill && limit->next + level->refill > v->at) {
        apikey_rolling_give(&level->log, limit->next, limit->fill);
        v->dirty = true;
    }

    if (limit->known && limit->known != APIKEY_ACCOUNT_UNKNOWN) {
        apikey_rolling_add(&level->log, level->at, v->at, limit->known);
        v->dirty = true;
    }
}


void
apikey_account_spent(apikey_account_t *v, uint64_t tokens, uint64_t at)
{
    unsigned                 i;
    apikey_account_level_t  *level;

    for (i = 0; tokens && i < v->nlevels; i++) {
        level = &v->levels[i];

        if (apikey_account_rolls(level->tick)) {
            apikey_rolling_add(&level->log, level->at, at, tokens);
        }
    }
}
