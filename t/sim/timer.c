
/*
 * What nodes do by themselves: they look at their leases now and then, renew
 * what is to be renewed, and give back what others may want.
 */


#include "run.h"


void
left(run_t *r, request_t *rq, int i)
{
    node_t  *nd = &r->nodes[rq->node];
    side_t  *s = &nd->side[rq->acct[i]];

    s->yields = apikey_lease_leave(&s->lease, &s->conf[s->version], 1,
                                   rq->claim[i].epoch, local(nd, r->w.now));
}


void
give_slots(run_t *r, request_t *rq)
{
    int      i;
    side_t  *s;

    for (i = 0; i < rq->n; i++) {
        s = &r->nodes[rq->node].side[rq->acct[i]];

        if (s->yields) {
            s->yields = false;
            send_lease(r, rq->node, rq->acct[i], rq->worker, true);
        }
    }
}


/* TAKE has refused: what this node holds itself must not be why. */

void
give_back(run_t *r, request_t *rq)
{
    int      i;
    bool     first;
    side_t  *s;

    first = !rq->again;

    for (i = 0; first && i < rq->n; i++) {
        s = &r->nodes[rq->node].side[rq->acct[i]];

        if (rq->paid[i] && !r->w.cfg->accts[rq->acct[i]].slots
            && apikey_lease_yield(&s->lease))
        {
            rq->again = true;
            send_lease(r, rq->node, rq->acct[i], rq->worker, true);
        }
    }

    if (first && rq->again) {
        memset(rq->paid, 0, sizeof(rq->paid));
        rq->busy = false;
        rq->tries &= 0xff;
        decide(r, rq);
        return;
    }

    refused(r, rq);
}


void
timer(run_t *r, int n, int a)
{
    side_t  *s = &r->nodes[n].side[a];

    if (!s->timer) {
        s->timer = true;
        push(r, r->w.now + apikey_lease_look(&s->lease, &s->conf[s->version],
                                             local(&r->nodes[n], r->w.now)),
             E_TIMER, n, a, 0, NULL);
    }
}


void
on_timer(run_t *r, event_t *e)
{
    int                  i, k;
    int64_t              t;
    node_t              *nd = &r->nodes[e->a];
    side_t              *s = &nd->side[e->b];
    apikey_lease_due_e   due;

    t = nd->stopped[0];

    for (i = 1; i < r->w.cfg->workers; i++) {
        t = nd->stopped[i] < t ? nd->stopped[i] : t;
    }

    t = t > nd->down ? t : nd->down;

    if (r->w.now < t) {
        push_at(r, t, e->seq, E_TIMER, e->a, e->b, 0, NULL);
        return;
    }

    s->timer = false;

    due = apikey_lease_due(&s->lease, &s->tally, &s->conf[s->version],
                           local(nd, r->w.now));

    if (due == APIKEY_LEASE_NEVER && s->lease.call == 0 && s->pending == 0) {
        return;
    }

    if (s->lease.call == 0
        && (due == APIKEY_LEASE_NOW || (s->pending && r->w.now - s->sent
                              >= (int64_t) s->conf[s->version].time / 2)))
    {
        k = rnd(&r->rng, r->w.cfg->workers);

        while (nd->stopped[k] > r->w.now) {
            k = (k + 1) % r->w.cfg->workers;
        }

        send_lease(r, e->a, e->b, k, true);
    }

    timer(r, e->a, e->b);
}
