
/*
 * The primaries of a run: which of them has which account, what their replicas
 * have heard, and what is lost when they die.  Without a Cluster there is one.
 */


#include "sim.h"


void
redis_start(world_t *w)
{
    int  p;

    for (p = 0; p < PRIMARIES; p++) {
        w->primaries[p].epoch = ++w->epochs;
    }
}


/* Slots that are on their way one by one: TRYAGAIN, until it is too late. */

bool
redis_reach(const world_t *w, int n, const int *accts)
{
    int  i, p;

    for (i = 0; i < n; i++) {
        p = w->redis[accts[i]].primary;

        if (w->primaries[p].dead || p != w->redis[accts[0]].primary) {
            return false;
        }
    }

    return true;
}


void
redis_copy(world_t *w, int p)
{
    int  a;

    for (a = 0; a < w->cfg->naccts; a++) {

        if (w->redis[a].primary == p) {
            w->redis[a].copy = w->redis[a].value;
            w->redis[a].copy_expires = w->redis[a].expires;
        }
    }
}


void
redis_failover(world_t *w, int p)
{
    int  a;

    for (a = 0; a < w->cfg->naccts; a++) {

        if (w->redis[a].primary == p) {
            w->redis[a].value = w->redis[a].copy;
            w->redis[a].expires = w->redis[a].copy_expires;
            w->redis[a].asked = false;
        }
    }

    w->primaries[p] = (primary_t) { ++w->epochs, w->now, false };
    w->st.epochs++;
}


/*
 * A slot moves with its value; the replica of who has it then hears of it
 * later.  Where nobody has asked since a failover nobody knows that something
 * was lost: docs/redis.md says what that may admit twice.
 */

void
redis_move(world_t *w, int a, int p)
{
    redis_t  *r = &w->redis[a];

    if (r->primary == p || w->primaries[p].dead
        || w->primaries[r->primary].dead
        || (!r->asked && w->primaries[r->primary].since
            && w->ab != AB_UNASKED))
    {
        return;
    }

    r->primary = p;
    r->asked = true;
    memset(&r->copy, 0, sizeof(r->copy));
    r->copy_expires = 0;
    w->st.moves++;
}


void
redis_flush(world_t *w)
{
    int  a;

    w->gone = (uint64_t) w->now;

    for (a = 0; a < w->cfg->naccts; a++) {
        memset(&w->redis[a].value, 0, sizeof(w->redis[a].value));
        w->redis[a].expires = 0;
    }
}
