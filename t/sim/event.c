
/*
 * One run: the queue of events in the order of their time, how it starts, and
 * the books that are compared when all is at rest.
 */


#include "run.h"


void
push_at(run_t *r, int64_t t, uint64_t seq, event_e kind, int a, int b,
    uint64_t n, void *p)
{
    size_t   i;
    event_t  e = { t, seq, kind, a, b, n, p };

    if (r->nheap == r->sheap) {
        r->sheap = r->sheap ? 2 * r->sheap : 4096;
        r->heap = realloc(r->heap, r->sheap * sizeof(event_t));
    }

    for (i = r->nheap++; i > 0; i = (i - 1) / 2) {
        event_t  *up = &r->heap[(i - 1) / 2];

        if (up->t < t || (up->t == t && up->seq < seq)) {
            break;
        }

        r->heap[i] = *up;
    }

    r->heap[i] = e;
}


void
push(run_t *r, int64_t t, event_e kind, int a, int b, uint64_t n, void *p)
{
    push_at(r, t, ++r->seq, kind, a, b, n, p);
}


static event_t
pop(run_t *r)
{
    size_t   i, k;
    event_t  top, e;

    top = r->heap[0];
    e = r->heap[--r->nheap];

    for (i = 0; (k = 2 * i + 1) < r->nheap; i = k) {

        if (k + 1 < r->nheap
            && (r->heap[k + 1].t < r->heap[k].t
                || (r->heap[k + 1].t == r->heap[k].t
                    && r->heap[k + 1].seq < r->heap[k].seq)))
        {
            k++;
        }

        if (e.t < r->heap[k].t
            || (e.t == r->heap[k].t && e.seq < r->heap[k].seq))
        {
            break;
        }

        r->heap[i] = r->heap[k];
    }

    r->heap[i] = e;

    return top;
}


message_t *
message(run_t *r)
{
    message_t  *m;

    m = calloc(1, sizeof(*m));

    if (r->nmessages == r->smessages) {
        r->smessages = r->smessages ? 2 * r->smessages : 1024;
        r->messages = realloc(r->messages, r->smessages * sizeof(m));
    }

    r->messages[r->nmessages++] = m;

    return m;
}


/*
 * Somebody was told that nothing is left.  What TAKE took for others who have
 * not heard it yet is gone.
 */

static void
judge_refused(world_t *w, int a, uint64_t cost)
{
    unsigned        i;
    uint64_t        gone;
    book_t         *b = &w->books[a];
    const limit_t  *l;

    for (i = 0; w->cfg->exact && i < LIMITS; i++) {
        l = &w->cfg->accts[a].versions[0].limits[i];
        gone = (uint64_t) b->sum[i][0] + b->taken - b->tspent - b->tlost;

        if (l->there && l->kind == TOTAL && gone + cost <= l->burst) {
            w->st.early++;
        }
    }
}


void
refused(run_t *r, request_t *rq)
{
    int  i;

    for (i = 0; i < rq->n; i++) {
        judge_refused(&r->w, rq->acct[i], rq->claim[i].cost);
    }

    finish(rq, &r->w.st.denied);
}


static bool
quotas(const version_t *v)
{
    unsigned  i;

    for (i = 0; i < LIMITS; i++) {

        if (v->limits[i].there && (v->limits[i].kind == PERIOD
                                   || v->limits[i].kind == TOTAL))
        {
            return true;
        }
    }

    return false;
}


static double
slowest(const version_t *v)
{
    double          rate, least;
    unsigned        i;
    const limit_t  *m;

    least = 0;

    for (i = 0; i < LIMITS; i++) {
        m = &v->limits[i];

        if (m->there && m->kind == BUCKET && m->n) {
            rate = (double) m->n * 1e6 / (double) m->p;
            least = least == 0 || rate < least ? rate : least;
        }
    }

    return least;
}


static void
setup(run_t *r)
{
    int             n, a;
    unsigned        v, k;
    uint64_t        burst;
    node_t         *nd;
    side_t         *s;
    const cfg_t    *c = r->w.cfg;
    const acct_t   *ac;
    const limit_t  *l;

    for (n = 0; n < c->nodes; n++) {
        nd = &r->nodes[n];
        nd->offset = rnd(&r->rng, 1000000000);

        if (c->drift) {
            nd->rate = (int64_t) rnd(&r->rng, 2 * APIKEY_LEASE_DRIFT + 1)
                       - APIKEY_LEASE_DRIFT;

            if (rnd(&r->rng, 2)) {
                nd->rate = ((int64_t) rnd(&r->rng, 3) - 1)
                           * APIKEY_LEASE_DRIFT;
            }
        }

        for (a = 0; a < c->naccts; a++) {
            ac = &c->accts[a];
            s = &nd->side[a];
            s->tally.node = n + 1;
            s->told = START;

            for (v = 0; v < ac->nversions; v++) {
                burst = UINT64_MAX;

                for (k = 0; k < LIMITS; k++) {
                    l = &ac->versions[v].limits[k];

                    if (l->there && l->burst < burst) {
                        burst = l->burst;
                    }
                }

                s->conf[v].burst = burst;
                s->conf[v].time = ac->versions[v].time;
                s->conf[v].trip = c->rtt;
                s->conf[v].horizon = c->horizon;
                s->conf[v].few = ac->mode == 'A' ? 2 : 0;
                s->conf[v].direct = ac->mode == 'D'
                                    || (ac->mode == 'M' && n % 2);
                s->conf[v].slots = ac->slots;
                s->conf[v].rate = ac->mode == 'A' ? slowest(&ac->versions[v])
                                                  : 0;
                s->conf[v].quota = quotas(&ac->versions[v])
                                   && ac->mode == 'A'
                                   && r->w.ab != AB_SCARCE;

                if (v) {
                    push(r, ac->versions[v].from
                            + (int64_t) rnd(&r->rng, c->learn + 1), E_EDIT, n,
                         a, v, NULL);
                }
            }
        }
    }

    /* in life a name is random, and none is a counter's of what a loss kept */

    r->names = 4 * NAMES + NODES;
}


static void
ledger(run_t *r)
{
    int                        n, a;
    bool                       gave_up;
    unsigned                   i;
    uint64_t                   left;
    const side_t              *s;
    const apikey_account_t    *v;
    book_t                    *b;

    for (a = 0; a < r->w.cfg->naccts; a++) {
        b = &r->w.books[a];
        v = &r->w.redis[a].value;
        left = 0;
        gave_up = false;

        for (n = 0; n < r->w.cfg->nodes; n++) {
            s = &r->nodes[n].side[a];
            gave_up |= s->gave_up;
            left += s->lease.left + s->lease.back + s->lease.held;

            if (!r->w.cfg->accts[a].settle || r->w.st.epochs) {
                continue;
            }

            /* where the entry still stands it says what the node settled */

            for (i = 0; i < v->ncounters; i++) {

                if (v->counters[i].id == s->tally.node && !s->gave_up
                    && v->counters[i].sum != s->settled)
                {
                    r->w.st.ledger++;
                }
            }

            if ((!apikey_tally_clean(&s->tally)
                 || s->tally.sum != s->settled) && !r->differences)
            {
                r->w.st.ledger++;
            }
        }

        /* what a power loss takes away nobody can credit */

        if (r->w.cfg->accts[a].settle && !r->power && r->w.st.epochs == 0
            && !r->flushed && !gave_up && b->settled != b->credited)
        {
            r->w.st.ledger++;
        }

        if (!r->w.cfg->accts[a].slots
            && b->granted - b->returned != b->spent + b->lost + left)
        {
            r->w.st.conserve++;
        }

        if (b->taken != b->tspent + b->tlost) {
            r->w.st.conserve++;
        }

        if (r->w.cfg->alone) {
            judge_rest(&r->w, a, left);
        }
    }
}


static void
step(run_t *r, event_t *e)
{
    request_t  *rq;

    switch (e->kind) {
    case E_ARRIVAL:
        on_arrival(r, e);
        break;
    case E_LEASE:
        on_lease(r, e->p);
        break;
    case E_ANSWER:
        on_answer(r, e);
        break;
    case E_TIMEOUT:
        on_timeout(r, e);
        break;
    case E_TAKE:
        on_take(r, e->p);
        break;
    case E_TAKEN:
        on_taken(r, e);
        break;
    case E_TAKE_TIMEOUT:
        on_take_timeout(r, e);
        break;
    case E_TIMER:
        on_timer(r, e);
        break;
    case E_END:
        on_end(r, e);
        break;
    case E_FAULT:
        on_fault(r, &r->w.cfg->faults[e->n]);
        break;
    case E_ALONE:
        on_alone(r, e);
        break;
    case E_EDIT:
        on_edit(r, e);
        break;
    case E_CONFIRM:
        confirm(r, e->p);
        break;
    case E_DECIDE:
        rq = e->p;
        if (!rq->done && r->nodes[rq->node].life[rq->worker] == rq->life) {
            decide(r, rq);
        }
        break;
    default:
        break;
    }
}


void
world_run(world_t *w, const cfg_t *c, ablation_e ab)
{
    int      i, n, a;
    int64_t  end;
    size_t   k;
    run_t   *r;
    event_t  e;

    r = calloc(1, sizeof(run_t));
    r->w.cfg = c;
    r->w.ab = ab;
    r->rng = c->seed * 7919 + 1;
    r->w.rng = c->seed * 104729 + 3;
    r->requests = calloc(c->narrivals, sizeof(request_t));
    r->w.now = START;
    r->differences = ab == AB_DELTA || ab == AB_DELTA_RESEND;

    redis_start(&r->w);
    setup(r);

    for (i = 0; i < c->narrivals; i++) {
        push(r, c->arrivals[i].t, E_ARRIVAL, 0, 0, i, NULL);
    }

    for (i = 0; i < c->nfaults; i++) {
        push(r, c->faults[i].t, E_FAULT, 0, 0, i, NULL);
    }

    end = c->arrivals[c->narrivals - 1].t + c->drain;

    while (r->nheap) {
        e = pop(r);

        if (e.t > end) {
            break;
        }

        r->w.now = e.t;
        step(r, &e);
    }

    r->w.st.quiet = r->nheap == 0 && e.t <= end;

    for (i = 0; i < c->narrivals; i++) {
        r->w.st.twice += r->requests[i].ok && r->requests[i].taken > 1;
    }

    if (r->w.st.quiet) {
        ledger(r);
    }

    judge_end(&r->w);
    *w = r->w;

    for (n = 0; n < c->nodes; n++) {
        free(r->nodes[n].owed);

        for (a = 0; a < c->naccts; a++) {
            free(r->nodes[n].side[a].wait);
        }
    }

    for (k = 0; k < r->nmessages; k++) {
        free(r->messages[k]);
    }

    free(r->messages);
    free(r->requests);
    free(r->heap);
    free(r);
}
