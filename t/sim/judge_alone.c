
/*
 * The judge of what was admitted without Redis: from the moment on that Redis
 * has first got a call that says it, it counts for all; and at rest a total
 * has been charged with all there was, once.
 */


#include "judge.h"


void
judge_alone(world_t *w, int a, uint64_t cost)
{
    unsigned        i;
    book_t         *b = &w->books[a];
    const limit_t  *l = w->cfg->accts[a].versions[0].limits;

    for (i = 0; i < LIMITS; i++) {

        if (l[i].there && l[i].kind == TOTAL) {
            b->sum[i][0] += (int64_t) cost;
            b->alone[i] += (int64_t) cost;
        }
    }
}


void
judge_told(world_t *w, int a, unsigned i, int node, int64_t sum)
{
    book_t  *b = &w->books[a];

    if (-sum > b->told[i][node]) {
        b->heard_alone[i] += -sum - b->told[i][node];
        b->told[i][node] = -sum;
    }
}


/* Redis says yes; tokens that are out may be spent after a charge. */

void
judge_taken(world_t *w, int a, uint64_t cost)
{
    unsigned        i;
    book_t         *b = &w->books[a];
    const acct_t   *ac = &w->cfg->accts[a];
    const limit_t  *l = ac->versions[0].limits;

    for (i = 0; w->cfg->alone && ac->mode == 'D' && i < LIMITS; i++) {
        w->st.quota += l[i].there && l[i].kind == TOTAL && cost
                       && b->sum[i][0] - b->alone[i] + b->heard_alone[i]
                          + (int64_t) cost > (int64_t) l[i].burst;
    }
}


/*
 * What was leased, or is still to come back, when a quota was known last: a
 * loss keeps it as used.
 */

void
judge_paid(world_t *w, int a)
{
    unsigned                       i;
    book_t                        *b = &w->books[a];
    const limit_t                 *l = w->cfg->accts[a].versions[0].limits;
    const apikey_account_level_t  *level;

    b->lost_at = w->redis[a].value.lost;

    for (i = 0; i < LIMITS; i++) {
        level = apikey_account_level(&w->redis[a].value, i + 1);

        if (l[i].there && l[i].kind == TOTAL && level
            && level->used != APIKEY_ACCOUNT_MAX)
        {
            b->paid[i] = (int64_t) (level->used / l[i].rate.token)
                         - b->sum[i][0];
        }
    }
}


void
judge_kept(world_t *w, int a)
{
    unsigned                       i;
    book_t                        *b = &w->books[a];
    const apikey_account_level_t  *level;

    for (i = 0; i < LIMITS; i++) {
        level = apikey_account_level(&w->redis[a].value, i + 1);

        if (level && b->paid[i] > b->kept[i]
            && (level->used == APIKEY_ACCOUNT_MAX
                || w->redis[a].value.lost != b->lost_at))
        {
            b->kept[i] = b->paid[i];
        }
    }
}


/*
 * What Redis says at last, when it has asked for what it did not know: neither
 * less than what passed, nor more than that and what is lost, or out, or was
 * out when the count was lost.
 */

void
judge_rest(world_t *w, int a, uint64_t left)
{
    int64_t                        used;
    unsigned                       i;
    uint64_t                       cost, era;
    roll_t                         none;
    const book_t                  *b = &w->books[a];
    const acct_t                  *ac = &w->cfg->accts[a];
    const limit_t                 *l = ac->versions[0].limits;
    apikey_account_sums_t          sums;
    const apikey_account_level_t  *level;

    memset(&none, 0, sizeof(none));
    memset(&sums, 0, sizeof(sums));

    for (i = 0; i < 2; i++) {
        cost = 0;
        w->now += (int64_t) (4 * ac->versions[0].time);
        (void) redis_take(w, 1, &a, &(unsigned) { 0 }, &cost, &sums, &none,
                          &era);
    }

    for (i = 0; i < LIMITS; i++) {
        level = apikey_account_level(&w->redis[a].value, i + 1);

        if (!l[i].there || l[i].kind != TOTAL || level == NULL
            || level->used == APIKEY_ACCOUNT_MAX)
        {
            continue;
        }

        used = (int64_t) (level->used / l[i].rate.token);

        w->st.ledger += used < b->sum[i][0]
                        || used > b->sum[i][0]
                                  + (int64_t) (b->lost + b->tlost + left)
                                  + b->kept[i];
    }
}
