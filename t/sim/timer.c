
/*
 * What nodes do by themselves: they look at their leases now and then, and
 * renew what is to be renewed.
 */


#include "run.h"


void
timer(run_t *r, int n, int a)
{
    side_t  *s = &r->nodes[n].side[a];

    if (!s->timer) {
        s->timer = true;
        push(r, r->w.now + (int64_t) s->conf[s->version].time
                           / APIKEY_LEASE_LOOKS, E_TIMER, n, a, 0, NULL);
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
