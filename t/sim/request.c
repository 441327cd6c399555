
/*
 * A request of a run: it comes, decides over its accounts, is stopped in
 * between, runs, and ends.
 */


#include "run.h"


void
finish(request_t *rq, uint64_t *count)
{
    rq->done = true;
    (*count)++;
}


void
put_back(run_t *r, request_t *rq)
{
    int  i;

    for (i = 0; i < rq->n; i++) {

        if (r->w.ab == AB_RELEASE_LATE
            && rq->claim[i].state == APIKEY_CLAIM_HELD
            && rq->claim[i].epoch != rq->claim[i].lease->epoch)
        {
            rq->claim[i].lease->left += rq->claim[i].cost;
        }
    }

    apikey_lease_release(rq->claim, rq->n);
}


void
leave(run_t *r, request_t *rq)
{
    int  i, a;

    if (!rq->running) {
        return;
    }

    rq->running = false;

    for (i = 0; i < rq->n; i++) {
        a = rq->acct[i];

        if (r->w.cfg->accts[a].slots && rq->claim[i].cost) {

            if (!rq->lapsed) {
                r->w.books[a].running--;
            }

            left(r, rq, i);
        }
    }
}


static void
admit(run_t *r, request_t *rq)
{
    int            i, n, a;
    node_t        *nd = &r->nodes[rq->node];
    side_t        *s;
    bool           settle;
    double         x;
    int64_t        T, t;
    admission_t   *adm;
    const acct_t  *ac;

    if (chance(&r->rng, r->w.cfg->die)) {

        for (i = 0; i < rq->n; i++) {

            if (rq->claim[i].cost == 0) {
                continue;
            }

            if (rq->paid[i]) {
                r->w.books[rq->acct[i]].tlost += rq->claim[i].cost;

            } else if (!r->w.cfg->accts[rq->acct[i]].slots) {
                r->w.books[rq->acct[i]].lost += rq->claim[i].cost;

            } else {
                left(r, rq, i);
            }
        }

        rq->done = true;
        killed(r, rq->node, rq->worker, false, false);
        return;
    }

    r->w.order++;
    r->w.st.admitted++;
    r->w.st.nowait += !rq->waited;
    rq->done = true;
    rq->ok = true;
    rq->admitted = r->w.now;
    settle = false;

    for (i = 0; i < rq->n; i++) {
        a = rq->acct[i];
        ac = &r->w.cfg->accts[a];
        adm = &rq->adm[i];
        s = &nd->side[a];

        if (rq->claim[i].cost == 0 && !rq->whole[i]) {
            continue;
        }

        adm->cost = rq->claim[i].cost;
        adm->version = rq->version[i];
        adm->t = adm->th = adm->tr = r->w.now;
        adm->o = adm->oh = adm->or = r->w.order;

        if (rq->taken) {
            adm->th = rq->th;
            adm->oh = rq->oh;
            adm->tr = rq->tr;
            adm->or = rq->or;
        }

        settle |= ac->settle || ac->slots;

        if (ac->slots) {
            rq->running = true;

            for (n = 0; n < r->w.cfg->nodes; n++) {
                lapse(r, n, a);
            }

            r->w.books[a].running++;
        }

        if (rq->paid[i]) {
            adm->t = adm->th = adm->tr;
            adm->o = adm->oh = adm->or;
            r->w.books[a].tspent += adm->cost;

        } else {
            T = s->conf[s->version].time;

            if (rq->claim[i].epoch == s->lease.epoch && !ac->slots
                && ac->nversions == 1 && s->lease.born
                && r->w.now / T >= (int64_t) s->lease.generation + 2)
            {
                r->w.st.late++;
            }

            r->w.books[a].spent += adm->cost;
        }

        judge_admitted(&r->w, a, adm);
    }

    if (settle) {
        T = nd->side[rq->acct[0]].conf[0].time;
        x = unit(&r->rng);
        t = (int64_t) (-log(1 - unit(&r->rng))
                       * (x < .4 ? .02 : x < .8 ? 1 : r->w.cfg->long_runs
                          ? 12 : 1) * (double) T) + 1;
        push(r, r->w.now + t, E_END, 0, 0, 0, rq);
    }

    for (i = 0; i < rq->n; i++) {

        if (apikey_lease_ahead(&rq->claim[i], local(nd, r->w.now))) {
            send_lease(r, rq->node, rq->acct[i], rq->worker, false);
        }
    }
}


static void
wait_for(side_t *s, request_t *rq)
{
    if (s->nwait == s->swait) {
        s->swait = s->swait ? 2 * s->swait : 64;
        s->wait = realloc(s->wait, s->swait * sizeof(rq));
    }

    s->wait[s->nwait++] = rq;
}


static void
decide_wait(run_t *r, request_t *rq)
{
    int      i;
    side_t  *s;

    rq->waited = true;

    for (i = 0; i < rq->n; i++) {
        s = &r->nodes[rq->node].side[rq->acct[i]];

        if (rq->claim[i].state == APIKEY_CLAIM_MISSING && !rq->waiting[i]) {
            rq->waiting[i] = true;
            wait_for(s, rq);
        }
    }

    for (i = 0; i < rq->n; i++) {
        s = &r->nodes[rq->node].side[rq->acct[i]];

        if (rq->claim[i].state == APIKEY_CLAIM_MISSING && s->lease.call == 0) {
            send_lease(r, rq->node, rq->acct[i], rq->worker, false);
        }
    }
}


static void
decide_stop(run_t *r, request_t *rq)
{
    int      i;
    int64_t  span, T;

    rq->first = false;
    rq->busy = true;
    rq->stopped = true;
    r->w.st.stops++;

    T = rq->claim[0].conf->time;
    span = (int64_t) ((double) T * (rnd(&r->rng, 3) == 0
                                    ? between(&r->rng, .05, 1)
                                    : rnd(&r->rng, 2)
                                    ? between(&r->rng, .8, 1.1)
                                    : between(&r->rng, 1, 3)));

    for (i = 0; i < r->w.cfg->workers; i++) {
        stop(r, rq->node, i, span);
    }

    push_at(r, r->w.now + span, 0, E_CONFIRM, 0, 0, 0, rq);
}


void
decide(run_t *r, request_t *rq)
{
    int      i;
    int64_t  t;

    if (rq->done || rq->busy) {
        return;
    }

    if (r->w.now >= rq->deadline) {
        finish(rq, &r->w.st.unavailable);
        return;
    }

    t = local(&r->nodes[rq->node], r->w.now);

    for (i = 0; i < rq->n; i++) {
        rq->version[i] = r->nodes[rq->node].side[rq->acct[i]].version;
        rq->claim[i].conf =
            &r->nodes[rq->node].side[rq->acct[i]].conf[rq->version[i]];

        if (rq->claim[i].cost > rq->claim[i].conf->burst) {
            r->w.st.nowait += !rq->waited;
            finish(rq, &r->w.st.denied);
            return;
        }
    }

    switch (apikey_lease_decide(rq->claim, rq->n, t)) {

    case APIKEY_LEASE_REFUSED:
        r->w.st.nowait += !rq->waited;
        refused(r, rq);
        return;

    case APIKEY_LEASE_WAIT:
        decide_wait(r, rq);
        return;

    case APIKEY_LEASE_TAKE:
        rq->waited = true;
        rq->busy = true;
        rq->th = r->w.now;
        rq->oh = ++r->w.order;

        for (i = 0; i < rq->n; i++) {
            rq->paid[i] = rq->claim[i].state == APIKEY_CLAIM_DIRECT;
        }

        send_take(r, rq);
        return;

    default:
        break;
    }

    if (rq->first && chance(&r->rng, r->w.cfg->stop)) {
        decide_stop(r, rq);
        return;
    }

    if (!apikey_lease_confirm(rq->claim, rq->n, t)) {
        fprintf(stderr, "a deadline passed in no time\n");
        exit(1);
    }

    admit(r, rq);
}


void
confirm(run_t *r, request_t *rq)
{
    int      i;
    int64_t  t;

    if (r->nodes[rq->node].life[rq->worker] != rq->life) {

        for (i = 0; i < rq->n; i++) {

            if (rq->claim[i].state != APIKEY_CLAIM_LEASED) {
                continue;
            }

            r->w.books[rq->acct[i]].lost += rq->claim[i].cost;

            if (rq->claim[i].conf->slots
                && rq->claim[i].epoch == rq->claim[i].lease->epoch)
            {
                left(r, rq, i);
            }
        }

        return;
    }

    rq->busy = false;
    rq->stopped = false;
    t = local(&r->nodes[rq->node], r->w.now);

    if (r->w.ab == AB_NO_CONFIRM
        || apikey_lease_confirm(rq->claim, rq->n, t))
    {
        admit(r, rq);
        return;
    }

    decide(r, rq);
}


void
taken(run_t *r, request_t *rq, const message_t *m)
{
    int                      i, k;
    bool                     late;
    int64_t                  t;
    side_t                  *s;
    apikey_lease_decision_e  rc;

    t = local(&r->nodes[rq->node], r->w.now);
    late = false;

    for (i = 0, k = 0; i < rq->n; i++) {

        if (rq->claim[i].state == APIKEY_CLAIM_HELD
            && rq->claim[i].epoch != rq->claim[i].lease->epoch)
        {
            late = true;
            r->w.st.old_holds++;
        }

        if (rq->paid[i]) {
            rq->claim[i].cost = m->good ? m->costs[k] : rq->claim[i].cost;
            rq->claim[i].era = m->eras[k++];
        }
    }

    if (r->w.ab == AB_HOLD_LATE) {
        for (i = 0; i < rq->n; i++) {
            if (rq->claim[i].state == APIKEY_CLAIM_HELD) {
                t = rq->claim[i].deadline - 1 < t ? rq->claim[i].deadline - 1
                                                  : t;
            }
        }
    }

    for (i = 0; late && i < rq->n; i++) {

        /* the book of a void lease has this as lost */

        if (rq->claim[i].state == APIKEY_CLAIM_HELD
            && rq->claim[i].epoch != rq->claim[i].lease->epoch)
        {
            rq->tries |= 1u << (8 + i);
        }
    }

    rc = apikey_lease_taken(rq->claim, rq->n, t, m->good);

    if (rc == APIKEY_LEASE_ADMITTED) {

        for (i = 0; i < rq->n; i++) {

            if (rq->tries & 1u << (8 + i)) {
                r->w.books[rq->acct[i]].lost -= rq->claim[i].cost;
            }
        }

        admit(r, rq);
        return;
    }

    if (rc == APIKEY_LEASE_REFUSED) {
        give_back(r, rq);
        return;
    }

    r->w.st.void_holds++;

    for (i = 0; i < rq->n; i++) {

        if (!rq->paid[i]) {
            continue;
        }

        r->w.books[rq->acct[i]].tlost += rq->claim[i].cost;

        if (r->w.ab == AB_TAKE_REFUND
            && r->w.cfg->accts[rq->acct[i]].settle)
        {
            s = &r->nodes[rq->node].side[rq->acct[i]];
            apikey_tally_add(&s->tally, rq->claim[i].cost, rq->claim[i].era,
                             0, r->w.cfg->horizon);
            s->settled += rq->claim[i].cost;
            timer(r, rq->node, rq->acct[i]);
        }
    }

    finish(rq, &r->w.st.unavailable);
}


void
on_arrival(run_t *r, event_t *e)
{
    int               i, k, a;
    bool              good;
    node_t           *nd;
    limit_t           *l;
    request_t        *rq;
    const acct_t     *ac;
    const arrival_t  *ar;

    ar = &r->w.cfg->arrivals[e->n];
    nd = &r->nodes[ar->node];

    if (r->w.now < nd->down) {
        return;
    }

    if (r->w.now < nd->stopped[ar->worker]) {
        push_at(r, nd->stopped[ar->worker], e->seq, E_ARRIVAL, 0, 0, e->n,
                NULL);
        return;
    }

    rq = &r->requests[e->n];
    rq->node = ar->node;
    rq->worker = ar->worker;
    rq->life = nd->life[ar->worker];
    rq->first = true;
    rq->n = ar->naccts;
    rq->born = r->w.now;
    rq->deadline = r->w.now + (2 * r->w.cfg->tau > 6 * r->w.cfg->rtt
                               ? 2 * r->w.cfg->tau : 6 * r->w.cfg->rtt);
    r->w.st.requests++;

    for (i = 0; i < rq->n; i++) {
        a = ar->accts[i];
        ac = &r->w.cfg->accts[a];
        rq->acct[i] = a;
        rq->claim[i].lease = &nd->side[a].lease;
        rq->claim[i].cost = ac->lo == ac->hi ? ac->lo
                            : ac->lo + rnd(&r->rng, ac->hi - ac->lo + 1);

        if (ac->whole && rnd(&r->rng, 3) == 0) {
            rq->whole[i] = true;
            rq->claim[i].cost = 1;
        }

        apikey_lease_demand(&nd->side[a].lease, rq->claim[i].cost,
                            local(nd, r->w.now));
    }

    if (r->w.cfg->ref) {
        good = true;

        for (k = 0; k < 2; k++) {

            for (i = 0; i < rq->n; i++) {
                a = rq->acct[i];
                l = (limit_t *) &r->w.cfg->accts[a].versions[0].limits[0];
                apikey_bucket_refill(&r->ref[a], &l->rate, r->w.now);

                if (k == 0) {
                    good &= apikey_bucket_wait(&r->ref[a], &l->rate,
                                               rq->claim[i].cost, r->w.now)
                            == 0;

                } else if (good) {
                    apikey_bucket_take(&r->ref[a], &l->rate,
                                       rq->claim[i].cost);
                }
            }
        }

        r->w.st.ref += good;
    }

    if (!r->w.cfg->alone || !alone_arrival(r, rq)) {
        decide(r, rq);
    }
}


void
on_end(run_t *r, event_t *e)
{
    int            i, a;
    double         x;
    int64_t        used, cost, age;
    request_t     *rq = e->p;
    node_t        *nd = &r->nodes[rq->node];
    side_t        *s;
    const acct_t  *ac;

    if (nd->life[rq->worker] != rq->life) {
        return;
    }

    if (r->w.now < nd->stopped[rq->worker]) {
        push_at(r, nd->stopped[rq->worker], e->seq, E_END, 0, 0, 0, rq);
        return;
    }

    leave(r, rq);
    give_slots(r, rq);

    for (i = 0; i < rq->n; i++) {
        a = rq->acct[i];
        ac = &r->w.cfg->accts[a];
        cost = rq->claim[i].cost;

        if (!ac->settle || (cost == 0 && !rq->whole[i])) {
            continue;
        }

        x = unit(&r->rng);
        used = (int64_t) ((double) cost * unit(&r->rng) * unit(&r->rng));

        if (x < .15) {
            used = cost;

        } else if (rq->whole[i]) {
            used = (int64_t) rnd(&r->rng, ac->hi + 1);

        } else if (x < .3 && ac->above) {
            used = (int64_t) ((double) cost * between(&r->rng, 1, 2)) + 1;
        }

        s = &nd->side[a];

        if (r->w.ab == AB_PART) {
            s->tally.part = s->tally.sum;
        }

        age = r->w.now - rq->admitted;

        if (cost > used && age > (int64_t) r->w.cfg->horizon / 2) {
            continue;
        }

        apikey_tally_add(&s->tally, cost - used, rq->claim[i].era, age,
                         r->w.cfg->horizon);
        s->settled += cost - used;
        s->pending += r->w.ab == AB_DELTA || r->w.ab == AB_DELTA_RESEND
                      ? cost - used : 0;
        roll_settle(r, rq, i, cost - used);
        judge_settled(&r->w, a, s->tally.node, &rq->adm[i], cost - used);
        timer(r, rq->node, a);
    }
}
