
/*
 * What nodes say of the settlements of rolling windows, as limit/rolls.c does:
 * what comes back at most once, charges at least once.
 */


#include "run.h"


void
roll_settle(run_t *r, const request_t *rq, int i, int64_t tokens)
{
    int64_t             age, window;
    unsigned            k;
    side_t             *s = &r->nodes[rq->node].side[rq->acct[i]];
    const limit_t      *l;
    const admission_t  *adm = &rq->adm[i];

    window = INT64_MAX;
    l = r->w.cfg->accts[rq->acct[i]].versions[adm->version].limits;

    for (k = 0; k < LIMITS; k++) {

        if (l[k].there && l[k].kind == ROLLING && (int64_t) l[k].p < window) {
            window = l[k].p;
        }
    }

    if (window == INT64_MAX) {
        return;
    }

    if (tokens < 0) {
        s->roll.more -= tokens;
        judge_charged(&r->w, rq->acct[i], rq->node, -tokens);
        return;
    }

    age = r->w.now - adm->tr;

    if (age >= window - window / 8 && r->w.ab != AB_ROLL_LATE) {
        return;
    }

    if (s->roll.back == 0 || (uint64_t) adm->tr < s->roll.since) {
        s->roll.since = adm->tr;
    }

    s->roll.back += tokens;
}


void
roll_send(run_t *r, int n, int a, roll_t *out)
{
    side_t  *s = &r->nodes[n].side[a];

    *out = s->roll;

    if (out->more) {
        out->call = ++r->w.charges;
        judge_said(&r->w, a, n, 0, out->call);
    }

    memset(&s->roll, 0, sizeof(s->roll));
}


/* Nobody knows whether it arrived. */

void
roll_lost(run_t *r, int n, int a, const roll_t *in)
{
    side_t  *s = &r->nodes[n].side[a];

    s->roll.more += in->more;

    if (in->call) {
        judge_said(&r->w, a, n, in->call, 0);
    }

    if (r->w.ab == AB_ROLL_TWICE && in->back) {

        if (s->roll.back == 0 || in->since < s->roll.since) {
            s->roll.since = in->since;
        }

        s->roll.back += in->back;
    }
}
