
/*
 * The judges of a run.  They are told what was admitted when, and what Redis
 * was told of settlements; they look at no protocol state.
 *
 * Buckets and quotas are replayed after the run, one for each limit, in 128
 * bits, rolling windows with a log of all there was; slots, and quotas of a
 * Redis that loses data, are counted as they come.
 */


#include "judge.h"


int
judge_compare(const void *one, const void *two)
{
    const entry_t  *a = one, *b = two;

    return a->t != b->t ? (a->t < b->t ? -1 : 1)
           : a->o != b->o ? (a->o < b->o ? -1 : 1) : 0;
}


/* An edit is in force when every node has learned and its leases ended. */

static int64_t
slack(const world_t *w, const acct_t *ac, unsigned v)
{
    uint64_t  time;

    time = ac->versions[v].time > ac->versions[v - 1].time
           ? ac->versions[v].time : ac->versions[v - 1].time;

    return w->cfg->learn + w->cfg->tau + (int64_t) (2 * time);
}


/* The most that any version allows that may still be in force. */

form_t
judge_form(const world_t *w, const acct_t *ac, unsigned i, int64_t t)
{
    bool            any = false;
    form_t          f = { 0, 0 };
    unsigned        v;
    const limit_t  *l;

    for (v = 0; v < ac->nversions; v++) {
        l = &ac->versions[v].limits[i];

        if (!l->there || (v && ac->versions[v].from > t)
            || (v + 1 < ac->nversions
                && ac->versions[v + 1].from + slack(w, ac, v + 1) < t))
        {
            continue;
        }

        f.n = l->n > f.n ? l->n : f.n;
        f.burst = l->burst > f.burst ? l->burst : f.burst;
        any = true;
    }

    /* while it is gone it refills as it last did */

    for (v = ac->nversions; !any && v > 0; v--) {
        l = &ac->versions[v - 1].limits[i];

        if (l->there && ac->versions[v - 1].from <= t) {
            f.n = l->n;
            f.burst = l->burst;
            any = true;
        }
    }

    return f;
}


const limit_t *
judge_first(const acct_t *ac, unsigned i)
{
    unsigned  v;

    for (v = 0; v < ac->nversions; v++) {

        if (ac->versions[v].limits[i].there) {
            return &ac->versions[v].limits[i];
        }
    }

    return NULL;
}


static int64_t
period(const limit_t *l, int64_t t)
{
    return (t - l->offset) / l->length;
}


/* What is used of a quota in the period of t; it begins with what was left. */

static int64_t *
period_sum(book_t *b, const limit_t *l, unsigned i, int64_t t)
{
    int64_t  k, rest, *sum = b->sum[i];

    k = l->kind == PERIOD ? period(l, t) - period(l, START) : 0;
    k = k < PERIODS ? k : PERIODS - 1;

    rest = (int64_t) (l->burst - l->fill);

    for ( ; b->period[i] < k; b->period[i]++) {
        sum[b->period[i] + 1] = sum[b->period[i]] < rest ? sum[b->period[i]]
                                                         : rest;
    }

    return &sum[k];
}


/* Redis may lose what it had acknowledged. */

static bool
loses(const world_t *w)
{
    int  k;

    for (k = 0; k < w->cfg->nfaults; k++) {

        if (w->cfg->faults[k].kind >= F_SNAPSHOT
            && w->cfg->faults[k].kind < F_MOVE)
        {
            return true;
        }
    }

    return false;
}


/* What has to be left before an admission. */

int64_t
judge_least(const limit_t *l, uint64_t cost)
{
    switch (l->mode) {
    case APIKEY_ACCOUNT_OBSERVE:
        return INT64_MIN;
    case APIKEY_ACCOUNT_TRIM:
        return 1;
    default:
        return (int64_t) cost;
    }
}


void
judge_admitted(world_t *w, int a, const admission_t *adm)
{
    int64_t        *sum;
    unsigned        i;
    book_t         *b = &w->books[a];
    const acct_t   *ac = &w->cfg->accts[a];
    const limit_t  *l;

    if (b->nadm == b->sadm) {
        b->sadm = b->sadm ? 2 * b->sadm : 1024;
        b->adm = realloc(b->adm, b->sadm * sizeof(admission_t));
    }

    b->adm[b->nadm++] = *adm;

    for (i = 0; i < LIMITS; i++) {
        l = &ac->versions[adm->version].limits[i];

        if (!l->there) {
            continue;
        }

        if (l->kind == SLOTS && b->running > (int64_t) l->burst) {
            w->st.slots++;
        }

        if (l->kind != PERIOD && l->kind != TOTAL) {
            continue;
        }

        sum = period_sum(b, l, i, adm->t);
        *sum += (int64_t) adm->cost;

        /* what Postgres knows comes back in no order; the last sum is of all
           periods that are left */

        w->st.quota += loses(w) && !w->cfg->alone
                       && b->period[i] < PERIODS - 1
                       && *sum > (int64_t) judge_form(w, ac, i,
                                                      adm->t).burst;
    }
}


/*
 * No charge is lost but where the account began anew: at an edit, at the end
 * of a period, with Redis.
 */

static bool
charges(const world_t *w, const acct_t *ac)
{
    unsigned  i;

    for (i = 0; i < LIMITS; i++) {

        if (ac->versions[0].limits[i].kind == PERIOD) {
            return false;
        }
    }

    return ac->nversions == 1 && !loses(w);
}


void
judge_settled(world_t *w, int a, uint64_t node, const admission_t *adm,
    int64_t tokens)
{
    unsigned        i;
    book_t         *b = &w->books[a];
    settled_t      *own = &b->own[node % NAMES];
    const limit_t  *l;

    b->settled += tokens;

    if (own->n == own->size) {
        own->size = own->size ? 2 * own->size : 64;
        own->adm = realloc(own->adm, own->size * sizeof(admission_t));
        own->tokens = realloc(own->tokens, own->size * sizeof(int64_t));
    }

    own->adm[own->n] = *adm;
    own->tokens[own->n++] = tokens;

    for (i = 0; i < LIMITS; i++) {
        l = &w->cfg->accts[a].versions[adm->version].limits[i];

        if (l->there && (l->kind == PERIOD || l->kind == TOTAL)
            && tokens > 0)
        {
            *period_sum(b, l, i, adm->t) -= tokens;
        }
    }
}


/* A call says of its node's settlements all there are when it is sent. */

size_t
judge_sent(const world_t *w, int a, uint64_t node)
{
    return w->books[a].own[node % NAMES].n;
}


/* Redis has got a call that knows of n of them. */

void
judge_heard(world_t *w, int a, uint64_t node, size_t n)
{
    bool            charge;
    int64_t         tokens;
    unsigned        i;
    book_t         *b = &w->books[a];
    credit_t       *c;
    settled_t      *own = &b->own[node % NAMES];
    const acct_t   *ac = &w->cfg->accts[a];
    const limit_t  *l;

    if (n <= own->heard) {
        return;
    }

    if (b->ncred == b->scred) {
        b->scred = b->scred ? 2 * b->scred : 1024;
        b->cred = realloc(b->cred, b->scred * sizeof(credit_t));
    }

    c = &b->cred[b->ncred++];
    memset(c, 0, sizeof(*c));
    c->t = w->now;
    c->o = w->order;

    charge = charges(w, ac);

    for ( ; own->heard < n; own->heard++) {
        l = ac->versions[own->adm[own->heard].version].limits;
        tokens = own->tokens[own->heard];

        if (tokens > 0) {
            judge_given(w, b, &own->adm[own->heard], tokens);
        }

        for (i = 0; i < LIMITS; i++) {

            if (!l[i].there || l[i].kind == ROLLING
                || (tokens < 0 && !charge))
            {
                continue;
            }

            if (l[i].kind == PERIOD && period(&l[i], w->now)
                                       != period(&l[i],
                                                 own->adm[own->heard].t))
            {
                continue;
            }

            c->tokens[i] += tokens;
        }
    }
}


/* What Postgres would say of a quota. */

uint64_t
judge_known(world_t *w, int a, unsigned i, int64_t now)
{
    int64_t  sum;

    sum = *period_sum(&w->books[a], judge_first(&w->cfg->accts[a], i), i,
                      now);

    return sum < 0 ? 0 : (uint64_t) sum;
}


/* used, refilled from one time to another through all edits */

static void
refill(const world_t *w, const acct_t *ac, unsigned i, __int128 *used,
    int64_t from, int64_t to)
{
    int64_t         then, at;
    __int128        rest;
    unsigned        v, k;
    form_t          f;
    const limit_t  *l;

    l = judge_first(ac, i);
    rest = (__int128) (l->burst - l->fill);

    if (l->kind == PERIOD && period(l, from) < period(l, to)) {
        *used = *used < rest ? *used : rest;
    }

    while (from < to) {
        then = to;

        for (v = 1; v < ac->nversions; v++) {

            for (k = 0; k < 2; k++) {
                at = ac->versions[v].from + (k ? slack(w, ac, v) + 1 : 0);
                then = at > from && at < then ? at : then;
            }
        }

        f = judge_form(w, ac, i, from);
        *used -= (__int128) f.n * (then - from);
        *used = *used < 0 ? 0 : *used;
        from = then;
    }
}


static void
replay(world_t *w, int a, unsigned i, int view, entry_t *list)
{
    size_t              k, n;
    int64_t             t;
    __int128            used, full, over;
    const book_t       *b = &w->books[a];
    const acct_t       *ac = &w->cfg->accts[a];
    const limit_t      *l;
    const admission_t  *adm;

    l = judge_first(ac, i);
    n = 0;

    for (k = 0; k < b->nadm; k++) {
        adm = &b->adm[k];

        if (ac->versions[adm->version].limits[i].there) {
            list[n].t = view == 0 ? adm->t : view == 1 ? adm->th : adm->tr;
            list[n].o = view == 0 ? adm->o : view == 1 ? adm->oh : adm->or;
            list[n].tokens = (int64_t) adm->cost;
            list[n].least = judge_least(&ac->versions[adm->version].limits[i],
                                        adm->cost);
            list[n++].admitted = true;
        }
    }

    for (k = 0; k < b->ncred; k++) {
        t = b->cred[k].tokens[i];

        /* tokens that were out before a charge are spent after it */

        if (t > 0 || (t < 0 && ac->mode == 'D')) {
            list[n++] = (entry_t) { b->cred[k].t, b->cred[k].o, -t, 0, 0 };
        }
    }

    qsort(list, n, sizeof(entry_t), judge_compare);

    used = 0;
    t = START;

    for (k = 0; k < n; k++) {
        refill(w, ac, i, &used, t, list[k].t);
        t = list[k].t;
        full = (__int128) judge_form(w, ac, i, t).burst * l->p;
        over = used + (__int128) list[k].least * l->p - full;

        if (list[k].admitted && list[k].least >= 0 && over > 0) {
            w->st.quota += l->kind != BUCKET;
            w->st.over += l->kind == BUCKET && view == 0;
            w->st.over_hold += view == 1;
            w->st.over_take += view == 2;

            if ((double) over / (double) l->p > w->st.debt) {
                w->st.debt = (double) over / (double) l->p;
            }
        }

        used += (__int128) list[k].tokens * l->p;
        used = used < 0 ? 0 : used;
    }
}


void
judge_end(world_t *w)
{
    int             a, view;
    unsigned        i;
    entry_t        *list;
    const limit_t  *l;

    for (a = 0; a < w->cfg->naccts; a++) {
        list = malloc((w->books[a].nadm + w->books[a].ncred
                       + w->books[a].nheard + 1)
                      * sizeof(entry_t));

        for (i = 0; i < LIMITS; i++) {
            l = judge_first(&w->cfg->accts[a], i);

            if (l && l->kind == ROLLING) {
                judge_rolling(w, a, i, list);
            }

            for (view = 0; l && l->kind == BUCKET && view < 3; view++) {
                replay(w, a, i, view, list);
            }

            if (l && (l->kind == TOTAL || l->kind == PERIOD) && !loses(w)) {
                replay(w, a, i, 0, list);
            }
        }

        free(list);
    }
}


void
judge_free(world_t *w)
{
    int  a, i;

    for (a = 0; a < w->cfg->naccts; a++) {
        free(w->books[a].adm);
        free(w->books[a].cred);
        free(w->books[a].given);
        free(w->books[a].charge);
        free(w->books[a].heard);

        for (i = 0; i < NAMES; i++) {
            free(w->books[a].own[i].adm);
            free(w->books[a].own[i].tokens);
        }
    }
}
