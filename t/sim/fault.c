
/*
 * Faults of a run, and edits as they reach a node.
 */


#include "run.h"


/*
 * A node that Redis has not heard of for a lease time: what runs there may
 * run on uncovered, and others in its place.
 */

void
lapse(run_t *r, int n, int a)
{
    size_t      i;
    side_t     *s = &r->nodes[n].side[a];
    request_t  *rq;

    if (!r->w.cfg->accts[a].slots
        || r->w.now - s->told < (int64_t) s->conf[s->version].time)
    {
        return;
    }

    for (i = 0; i < (size_t) r->w.cfg->narrivals; i++) {
        rq = &r->requests[i];

        if (rq->running && rq->node == n && !rq->lapsed) {
            rq->lapsed = true;
            r->w.books[a].running--;
            r->w.st.uncovered_runs++;
        }
    }
}


static void
kill_worker(run_t *r, int n, int worker)
{
    int         i, k;
    request_t  *rq;
    side_t     *s;

    r->nodes[n].life[worker]++;

    for (i = 0; i < r->w.cfg->narrivals; i++) {
        rq = &r->requests[i];

        if (rq->node != n || rq->worker != worker || rq->n == 0) {
            continue;
        }

        if (!rq->done && rq->busy && !rq->stopped) {

            for (k = 0; k < rq->n; k++) {
                s = &r->nodes[n].side[rq->acct[k]];

                if (rq->claim[k].state == APIKEY_CLAIM_HELD
                    && rq->claim[k].epoch == s->lease.epoch
                    && r->w.ab != AB_LEAK_DEAD
                    && !rq->claim[k].conf->slots)
                {
                    r->w.books[rq->acct[k]].lost += rq->claim[k].cost;
                }
            }

            if (r->w.ab != AB_LEAK_DEAD) {
                apikey_lease_reclaim(rq->claim, rq->n);
            }
        }

        leave(r, rq);
        rq->done = true;
    }
}


static void
wipe(run_t *r, int n, int a)
{
    side_t    *s = &r->nodes[n].side[a];
    uint64_t   epoch, calls;

    r->w.books[a].lost += s->lease.left + s->lease.back + s->lease.held;

    /* other memory: no number of a call that still flies comes again */

    epoch = s->lease.epoch + 1;
    calls = s->lease.calls;

    memset(&s->lease, 0, sizeof(s->lease));

    s->lease.epoch = epoch;
    s->lease.calls = calls;
    s->nwait = 0;
}


void
killed(run_t *r, int n, int worker, bool all, bool power)
{
    int      i, a;
    node_t  *nd = &r->nodes[n];
    side_t  *s;
    uint64_t node;

    r->w.st.crashes++;

    for (i = 0; i < r->w.cfg->workers; i++) {

        if (all || i == worker) {
            kill_worker(r, n, i);
        }
    }

    for (a = 0; a < r->w.cfg->naccts; a++) {
        s = &nd->side[a];

        if (!all) {

            if (s->lease.call && s->worker == worker) {
                message_t  *m = message(r);

                m->node = n;
                m->acct = a;
                m->call = s->lease.call;
                push(r, (s->sent + r->w.cfg->tau > r->w.now + 1
                         ? s->sent + r->w.cfg->tau : r->w.now + 1),
                     E_TIMEOUT, 0, 0, 0, m);
            }

            continue;
        }

        wipe(r, n, a);
        memset(&s->roll, 0, sizeof(s->roll));
        judge_said(&r->w, a, n, 0, UINT64_MAX);

        if (power) {
            node = r->w.ab == AB_SAME_ID ? s->tally.node : ++r->names;
            i = r->w.ab == AB_SAME_ID ? (int) s->tally.number : 0;
            memset(&s->tally, 0, sizeof(s->tally));
            s->tally.node = node;
            s->tally.number = i;
            s->settled = 0;
            s->pending = 0;
        }
    }
}


void
stop(run_t *r, int n, int worker, int64_t span)
{
    int         a;
    node_t     *nd = &r->nodes[n];
    side_t     *s;
    message_t  *m;

    if (nd->stopped[worker] < r->w.now + span) {
        nd->stopped[worker] = r->w.now + span;
    }

    for (a = 0; a < r->w.cfg->naccts; a++) {
        s = &nd->side[a];

        if (s->lease.call && s->worker == worker) {
            m = message(r);
            m->node = n;
            m->acct = a;
            m->call = s->lease.call;
            push(r, (s->sent + r->w.cfg->tau > r->w.now + 1
                     ? s->sent + r->w.cfg->tau : r->w.now + 1),
                 E_TIMEOUT, 0, 0, 0, m);
        }
    }
}


/* Another apikey_limit_mode; what is leased goes back when it is looked at. */

static void
turn(run_t *r, int n)
{
    int       a;
    unsigned  v;

    for (a = 0; a < r->w.cfg->naccts; a++) {

        for (v = 0; v < r->w.cfg->accts[a].nversions; v++) {
            r->nodes[n].side[a].conf[v].direct ^=
                !r->w.cfg->accts[a].slots;
        }
    }
}


void
on_fault(run_t *r, const fault_t *f)
{
    int      i;
    node_t  *nd = &r->nodes[f->node];

    if ((f->kind < F_SNAPSHOT || f->kind >= F_MODE) && r->w.now < nd->down) {
        return;
    }

    switch (f->kind) {
    case F_NODE_STOP:
        for (i = 0; i < r->w.cfg->workers; i++) {
            stop(r, f->node, i, f->span);
        }
        r->w.st.stops++;
        break;
    case F_WORKER_STOP:
        stop(r, f->node, f->worker, f->span);
        r->w.st.stops++;
        break;
    case F_WORKER_KILL:
        killed(r, f->node, f->worker, r->w.cfg->workers == 1, false);
        break;
    case F_KILL:
    case F_POWER:
        killed(r, f->node, 0, true, f->kind == F_POWER);
        r->power |= f->kind == F_POWER;
        nd->down = r->w.now + f->span;
        for (i = 0; i < r->w.cfg->workers; i++) {
            nd->stopped[i] = 0;
        }
        break;
    case F_SNAPSHOT:
        redis_copy(&r->w, f->worker);
        break;
    case F_DEAD:
        r->w.primaries[f->worker].dead = true;
        break;
    case F_FAILOVER:
        redis_failover(&r->w, f->worker);
        break;
    case F_FLUSH:
        redis_flush(&r->w);
        r->flushed = true;
        break;
    case F_MOVE:
        redis_move(&r->w, f->node, f->worker);
        break;
    case F_ALONE:
        nd->alone = r->w.now + f->span;
        push(r, nd->alone, E_ALONE, f->node, 0, 0, NULL);
        break;
    case F_MODE:
        turn(r, f->node);
    }
}


static bool
lowered(const limit_t *a, const limit_t *b)
{
    return b->burst < a->burst || b->fill < a->fill
           || (double) b->n * (double) a->p < (double) a->n * (double) b->p;
}


/*
 * A node learns of an edit: leases of other limits are of no use, and those
 * of higher ones would be renewed for as long as there is demand.
 */

void
on_edit(run_t *r, event_t *e)
{
    side_t         *s = &r->nodes[e->a].side[e->b];
    unsigned        i;
    bool            others, less;
    uint64_t        held, kept;
    const acct_t   *ac = &r->w.cfg->accts[e->b];

    if (e->n <= s->version) {
        return;
    }

    others = false;
    less = false;

    for (i = 0; i < LIMITS; i++) {
        const limit_t  *a = &ac->versions[s->version].limits[i];
        const limit_t  *b = &ac->versions[e->n].limits[i];

        others |= a->there != b->there;
        less |= a->there && (a->kind != b->kind || lowered(a, b));
    }

    s->version = e->n;
    s->lease.hold = 0;
    held = s->lease.held;

    if ((others || less) && r->w.ab != AB_EDIT_KEEPS) {
        kept = s->lease.left + s->lease.back;

        if (others) {
            apikey_lease_void(&s->lease);

        } else {
            apikey_lease_retire(&s->lease,
                                local(&r->nodes[e->a], r->w.now));
        }

        r->w.books[e->b].lost += held + kept - s->lease.back;
        wake(r, e->a, e->b);
    }
}
