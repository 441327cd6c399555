
/*
 * What nodes and Redis send each other, and what becomes of it: lost, late,
 * overtaken, answered to a worker that stands still or is gone.
 */


#include "run.h"


int64_t
local(const node_t *nd, int64_t t)
{
    return nd->offset + t + t / 1000 * nd->rate;
}


static int64_t
latency(run_t *r)
{
    double  x;

    x = (double) r->w.cfg->rtt * (0.4 + 0.35 * unit(&r->rng));

    if (chance(&r->rng, r->w.cfg->spike)) {
        x *= between(&r->rng, 4, 80);
    }

    return (int64_t) x + 1;
}


/* What the node's tally says, for one call; the ablations of settlement. */

static void
sums(run_t *r, side_t *s, int64_t t, apikey_account_sums_t *out, bool asked)
{
    int64_t  acked;

    if (r->w.ab == AB_DELTA || r->w.ab == AB_DELTA_RESEND) {
        out->node = ++r->names + FIRST_NAME;
        out->number = ++s->tally.number;
        out->sum = out->part = s->pending;
        out->acked = out->part_acked = 0;
        out->era = s->tally.era;
        s->pending = 0;

    } else if (!asked) {
        acked = s->tally.acked;
        apikey_tally_send(&s->tally, r->w.cfg->horizon, t, out);
        s->gave_up |= s->tally.acked != acked;
    }
}


static void
acked(run_t *r, side_t *s, const apikey_account_sums_t *in, uint64_t era)
{
    if (r->w.ab != AB_DELTA && r->w.ab != AB_DELTA_RESEND) {
        apikey_tally_acked(&s->tally, in, era);

    } else {
        s->tally.era = era;
    }
}


static void
lost(run_t *r, side_t *s, const apikey_account_sums_t *in)
{
    if (r->w.ab == AB_DELTA_RESEND) {
        s->pending += in->sum;
    }
}


void
send_lease(run_t *r, int n, int a, int worker, bool back)
{
    bool          late, gone;
    int64_t       t, t1, t2;
    size_t        i;
    double        x;
    node_t       *nd = &r->nodes[n];
    side_t       *s = &nd->side[a];
    int64_t       acked;
    uint64_t      need, least, cost, held;
    message_t    *m;
    request_t    *rq;
    int           k;

    t = local(nd, r->w.now);
    need = 0;
    least = 1;

    for (i = 0; i < s->nwait; i++) {
        rq = s->wait[i];

        if (rq->done || rq->busy) {
            continue;
        }

        for (k = 0; k < rq->n; k++) {
            cost = rq->claim[k].cost;

            if (rq->acct[k] == a) {
                need += cost;
                least = cost > least ? cost : least;
            }
        }
    }

    if (t >= s->lease.deadline) {
        r->w.books[a].lost += s->lease.held;

        if (!r->w.cfg->accts[a].slots) {
            r->w.books[a].lost += s->lease.left;
        }
    }

    held = s->lease.held;
    r->w.st.held_calls += held != 0;

    if (r->w.ab == AB_HOLD_NOT_KEPT && t < s->lease.deadline) {
        s->lease.held = 0;
    }

    m = message(r);
    m->node = n;
    m->acct = a;
    m->worker = worker;
    m->life = nd->life[worker];
    m->sent = t;
    m->t0 = r->w.now;
    m->version[0] = s->version;
    acked = s->tally.acked;
    m->call = apikey_lease_ask(&s->lease, &s->tally, &s->conf[s->version],
                               need, least, back, t, &m->ask, &m->sums[0]);

    if (r->w.ab == AB_HOLD_NOT_KEPT && s->lease.deadline != INT64_MIN) {
        s->lease.held = held;
    }

    if (r->w.ab == AB_BUSY) {
        m->ask.kept -= m->ask.busy;
        m->ask.busy = 0;
    }

    s->gave_up |= s->tally.acked != acked;
    m->names[0] = s->tally.node;
    m->settled[0] = judge_sent(&r->w, a, s->tally.node);

    sums(r, s, t, &m->sums[0], true);

    if (r->w.cfg->alone && alone_look(r, n, a, &m->sums[0],
                                      r->w.now >= nd->alone))
    {
        m->ask.want = 0;
    }

    roll_send(r, n, a, &m->roll[0]);

    s->worker = worker;
    s->sent = r->w.now;
    r->w.st.calls++;

    t1 = r->w.now + latency(r);
    t2 = t1 + latency(r);
    x = unit(&r->rng);
    gone = x < r->w.cfg->lossq || r->w.now < nd->alone;
    late = t2 >= r->w.now + r->w.cfg->tau
           || (!gone && x < r->w.cfg->lossq + r->w.cfg->lossr);

    m->back = late ? 0 : t2;

    if (gone) {
        r->w.books[a].lost += m->ask.returned;

    } else {
        push(r, t1, E_LEASE, 0, 0, 0, m);
    }

    if (gone || late) {
        push(r, r->w.now + r->w.cfg->tau, E_TIMEOUT, 0, 0, 0, m);
    }

    timer(r, n, a);
}


void
send_take(run_t *r, request_t *rq)
{
    int         i;
    bool        gone, late;
    double      x;
    int64_t     t, t1, t2;
    side_t     *s;
    message_t  *m;

    m = message(r);
    m->rq = rq;
    m->t0 = r->w.now;
    t = local(&r->nodes[rq->node], r->w.now);

    for (i = 0; i < rq->n; i++) {

        if (!rq->paid[i]) {
            continue;
        }

        s = &r->nodes[rq->node].side[rq->acct[i]];

        m->accts[m->n] = rq->acct[i];
        m->version[m->n] = rq->version[i];
        m->costs[m->n] = rq->whole[i] ? APIKEY_ACCOUNT_WHOLE
                                      : rq->claim[i].cost;
        m->names[m->n] = s->tally.node;
        m->settled[m->n] = judge_sent(&r->w, rq->acct[i], s->tally.node);
        sums(r, s, t, &m->sums[m->n], false);
        roll_send(r, rq->node, rq->acct[i], &m->roll[m->n++]);

        if (r->w.cfg->accts[rq->acct[i]].settle) {
            timer(r, rq->node, rq->acct[i]);
        }
    }

    r->w.st.calls++;
    r->w.st.takes++;

    t1 = r->w.now + latency(r);
    t2 = t1 + latency(r);
    x = unit(&r->rng);
    gone = x < r->w.cfg->lossq || r->w.now < r->nodes[rq->node].alone;
    late = t2 >= r->w.now + r->w.cfg->tau
           || (!gone && x < r->w.cfg->lossq + r->w.cfg->lossr);

    m->back = late ? 0 : t2;

    if (!gone) {
        push(r, t1, E_TAKE, 0, 0, 0, m);
    }

    if (gone || late) {
        push(r, r->w.now + r->w.cfg->tau, E_TAKE_TIMEOUT, 0, 0, 0, m);
    }
}


static void
lose_take(run_t *r, const message_t *m)
{
    int  i;

    for (i = 0; i < m->n; i++) {
        r->w.books[m->accts[i]].tlost += m->costs[i];
    }
}


void
on_lease(run_t *r, message_t *m)
{
    book_t  *b = &r->w.books[m->acct];

    if (!redis_reach(&r->w, 1, &m->acct)) {
        b->lost += m->ask.returned;

        if (m->back) {
            push(r, m->t0 + r->w.cfg->tau, E_TIMEOUT, 0, 0, 0, m);
        }

        return;
    }

    r->w.order++;

    m->redis = r->w.now;

    if (m->sums[0].node & APIKEY_ACCOUNT_CHARGE) {
        alone_heard(r, m);
    }

    judge_heard(&r->w, m->acct, m->names[0], m->settled[0]);
    judge_rolled(&r->w, m->acct, m->roll[0].call);
    lapse(r, m->node, m->acct);
    r->nodes[m->node].side[m->acct].told = r->w.now;

    redis_lease(&r->w, m->acct, m->version[0], &m->ask, &m->sums[0],
                &m->roll[0], &m->grant);
    m->rooms[0] = redis_room(&r->w, m->acct, m->version[0],
                             &r->nodes[m->node].side[m->acct].lease,
                             &m->fulls[0]);

    if (!m->grant.kept) {
        b->lost += m->ask.returned;
    }

    if (m->back) {
        push(r, m->back, E_ANSWER, 0, 0, 0, m);

    } else {
        b->lost += m->grant.granted;
    }
}


void
wake(run_t *r, int n, int a)
{
    size_t       i, k, nwait;
    request_t   *rq, **list;
    side_t      *s = &r->nodes[n].side[a];

    list = s->wait;
    nwait = s->nwait;
    s->wait = NULL;
    s->nwait = s->swait = 0;

    for (i = 0; i < nwait; i++) {

        for (k = 0; k < (size_t) list[i]->n; k++) {

            if (list[i]->acct[k] == a) {
                list[i]->waiting[k] = false;
            }
        }
    }

    for (i = 0; i < nwait; i++) {
        rq = list[i];

        if (rq->done) {
            continue;
        }

        if (r->w.now < r->nodes[n].stopped[rq->worker]) {
            push(r, r->nodes[n].stopped[rq->worker], E_DECIDE, 0, 0, 0, rq);

        } else {
            decide(r, rq);
        }
    }

    free(list);
}


void
on_answer(run_t *r, event_t *e)
{
    message_t  *m = e->p;
    node_t     *nd = &r->nodes[m->node];
    side_t     *s = &nd->side[m->acct];
    book_t     *b = &r->w.books[m->acct];

    if (nd->life[m->worker] != m->life) {
        b->lost += m->grant.granted;
        return;
    }

    if (r->w.now < nd->stopped[m->worker]) {

        if (nd->stopped[m->worker] > m->t0 + r->w.cfg->tau
            && rnd(&r->rng, 2))
        {
            b->lost += m->grant.granted;
            push_at(r, nd->stopped[m->worker], e->seq, E_TIMEOUT, 0, 0, 0, m);

        } else {
            push_at(r, nd->stopped[m->worker], e->seq, E_ANSWER, 0, 0, 0, m);
        }

        return;
    }

    if (r->w.cfg->alone) {
        alone_contact(r, m->node, m->redis);
    }

    if (m->sums[0].node & APIKEY_ACCOUNT_CHARGE) {
        alone_acked(r, m);

    } else {
        acked(r, s, &m->sums[0], m->grant.era);
    }

    if (s->lease.call == m->call && m->ask.kept && !m->grant.kept) {
        b->lost += s->lease.left + s->lease.held;
    }

    if (!apikey_lease_answer(&s->lease, m->call, &m->ask, &m->grant, m->sent,
                             local(nd, r->w.now), rnd(&r->rng, 1024)))
    {
        b->lost += m->grant.granted;
        return;
    }

    apikey_lease_room(&s->lease, &s->conf[s->version], m->rooms[0],
                      m->fulls[0], local(nd, r->w.now));

    wake(r, m->node, m->acct);

    if (apikey_lease_freed(&s->lease, &s->conf[s->version],
                           local(nd, r->w.now)))
    {
        send_lease(r, m->node, m->acct, m->worker, true);
    }
}


void
on_timeout(run_t *r, event_t *e)
{
    int         i;
    size_t      k;
    int64_t     t;
    uint64_t    kept;
    node_t     *nd;
    side_t     *s;
    message_t  *m = e->p;

    nd = &r->nodes[m->node];
    s = &nd->side[m->acct];
    t = nd->stopped[0];

    for (i = 1; i < r->w.cfg->workers; i++) {
        t = nd->stopped[i] < t ? nd->stopped[i] : t;
    }

    if (r->w.now < t) {
        push_at(r, t, e->seq, E_TIMEOUT, 0, 0, 0, m);
        return;
    }

    kept = s->lease.left + s->lease.held;

    if (!apikey_lease_timeout(&s->lease, m->call)) {
        return;
    }

    r->w.books[m->acct].lost += kept;

    lost(r, s, &m->sums[0]);
    roll_lost(r, m->node, m->acct, &m->roll[0]);

    for (k = 0; k < s->nwait; k++) {

        if (!s->wait[k]->done && !s->wait[k]->busy) {
            finish(s->wait[k], &r->w.st.unavailable);
        }
    }

    s->nwait = 0;
}


void
on_take(run_t *r, message_t *m)
{
    int         i;
    request_t  *rq = m->rq;

    if (!redis_reach(&r->w, m->n, m->accts)) {

        if (m->back) {
            push(r, m->t0 + r->w.cfg->tau, E_TAKE_TIMEOUT, 0, 0, 0, m);
        }

        return;
    }

    r->w.order++;

    for (i = 0; i < m->n; i++) {
        judge_heard(&r->w, m->accts[i], m->names[i], m->settled[i]);
        judge_rolled(&r->w, m->accts[i], m->roll[i].call);
    }

    m->redis = r->w.now;
    m->good = redis_take(&r->w, m->n, m->accts, m->version, m->costs, m->sums,
                         m->roll, m->eras);
    r->w.order++;

    for (i = 0; i < m->n; i++) {
        m->rooms[i] = redis_room(&r->w, m->accts[i], m->version[i],
                                 rq->claim[i].lease, &m->fulls[i]);
    }

    if (m->good) {
        rq->taken++;
        rq->tr = r->w.now;
        rq->or = r->w.order;

        if (rq->taken > 1) {
            lose_take(r, m);
        }
    }

    if (m->back) {
        push(r, m->back, E_TAKEN, 0, 0, 0, m);

    } else if (m->good && rq->taken == 1 && r->w.ab != AB_TAKE_RESEND) {
        lose_take(r, m);
    }
}


void
on_taken(run_t *r, event_t *e)
{
    int         i;
    int64_t     t;
    side_t     *s;
    message_t  *m = e->p;
    request_t  *rq = m->rq;
    node_t     *nd = &r->nodes[rq->node];

    if (nd->life[rq->worker] != rq->life || rq->done) {

        if (m->good) {
            lose_take(r, m);
        }

        return;
    }

    t = nd->stopped[rq->worker];

    if (r->w.now < t) {

        if (t > m->t0 + r->w.cfg->tau && rnd(&r->rng, 2)) {

            if (m->good) {
                lose_take(r, m);
            }

            push_at(r, t, e->seq, E_TAKE_TIMEOUT, 0, 0, 1, m);

        } else {
            push_at(r, t, e->seq, E_TAKEN, 0, 0, 0, m);
        }

        return;
    }

    if (r->w.cfg->alone) {
        alone_contact(r, rq->node, m->redis);
    }

    for (i = 0; i < m->n; i++) {
        acked(r, &nd->side[m->accts[i]], &m->sums[i], m->eras[i]);
        s = &nd->side[m->accts[i]];
        apikey_lease_room(&s->lease, &s->conf[s->version], m->rooms[i],
                          m->fulls[i], local(nd, r->w.now));
    }

    taken(r, rq, m);
}


void
on_take_timeout(run_t *r, event_t *e)
{
    int         i;
    message_t  *m = e->p;
    request_t  *rq = m->rq;
    node_t     *nd = &r->nodes[rq->node];

    if (nd->life[rq->worker] != rq->life || rq->done) {
        return;
    }

    if (r->w.now < nd->stopped[rq->worker]) {
        push_at(r, nd->stopped[rq->worker], e->seq, E_TAKE_TIMEOUT, 0, 0, 0,
                m);
        return;
    }

    for (i = 0; i < m->n; i++) {
        lost(r, &nd->side[m->accts[i]], &m->sums[i]);
        roll_lost(r, rq->node, m->accts[i], &m->roll[i]);
    }

    if (r->w.ab == AB_TAKE_RESEND && (rq->tries & 0xff) < 2) {
        rq->tries++;
        send_take(r, rq);
        return;
    }

    put_back(r, rq);
    finish(rq, &r->w.st.unavailable);
}
