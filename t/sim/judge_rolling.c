
/*
 * The judge of rolling windows: a log of all there was, what has come back of
 * it, and charges, each from the moment on that Redis has got a call that says
 * it.
 */


#include "judge.h"


/* Of that admission; from now on, whatever becomes of the rest. */

void
judge_given(world_t *w, book_t *b, const admission_t *adm, int64_t tokens)
{
    if (b->ngiven == b->sgiven) {
        b->sgiven = b->sgiven ? 2 * b->sgiven : 1024;
        b->given = realloc(b->given, b->sgiven * sizeof(given_t));
    }

    b->given[b->ngiven++] = (given_t) { w->now, w->order, adm->t, adm->o,
                                        tokens };
}


/* An answer cost more than was reserved: so much of it is pending. */

void
judge_charged(world_t *w, int a, int node, int64_t tokens)
{
    book_t  *b = &w->books[a];

    if (b->ncharge == b->scharge) {
        b->scharge = b->scharge ? 2 * b->scharge : 64;
        b->charge = realloc(b->charge, b->scharge * sizeof(charge_t));
    }

    b->charge[b->ncharge++] = (charge_t) { node, 0, tokens, false };
}


/* A call takes them along; lost, they are pending again. */

void
judge_said(world_t *w, int a, int node, uint64_t was, uint64_t call)
{
    size_t   k;
    book_t  *b = &w->books[a];

    for (k = 0; k < b->ncharge; k++) {

        if (b->charge[k].node == node && b->charge[k].call == was) {
            b->charge[k].call = call;
        }
    }
}


/* Redis has got it: each of them counts once, as often as it is said. */

void
judge_rolled(world_t *w, int a, uint64_t call)
{
    size_t   k;
    int64_t  tokens;
    book_t  *b = &w->books[a];

    tokens = 0;

    for (k = 0; call && k < b->ncharge; k++) {

        if (b->charge[k].call == call && !b->charge[k].heard) {
            b->charge[k].heard = true;
            tokens += b->charge[k].tokens;
        }
    }

    if (tokens == 0) {
        return;
    }

    if (b->nheard == b->sheard) {
        b->sheard = b->sheard ? 2 * b->sheard : 64;
        b->heard = realloc(b->heard, b->sheard * sizeof(given_t));
    }

    b->heard[b->nheard++] = (given_t) { w->now, w->order, 0, 0, tokens };
}


/*
 * Admissions, and charges as Redis got them: of what only TAKE pays, for
 * tokens that are out before a charge are spent after it.
 */

static size_t
windows(const world_t *w, int a, unsigned i, entry_t *list)
{
    size_t              k, n;
    const book_t       *b = &w->books[a];
    const acct_t       *ac = &w->cfg->accts[a];
    const admission_t  *adm;

    n = 0;

    for (k = 0; k < b->nadm; k++) {
        adm = &b->adm[k];

        if (ac->versions[adm->version].limits[i].there) {
            list[n].t = adm->t;
            list[n].o = adm->o;
            list[n].tokens = (int64_t) adm->cost;
            list[n].least = judge_least(&ac->versions[adm->version].limits[i],
                                        adm->cost);
            list[n++].admitted = true;
        }
    }

    for (k = 0; k < b->nheard && ac->mode == 'D'; k++) {
        list[n++] = (entry_t) { b->heard[k].t, b->heard[k].o,
                                b->heard[k].tokens, INT64_MIN, false };
    }

    qsort(list, n, sizeof(entry_t), judge_compare);

    return n;
}


/*
 * A window that ends with an admission has no more than the limit: of reserves
 * less what has come back of them until then.
 */

void
judge_rolling(world_t *w, int a, unsigned i, entry_t *list)
{
    size_t         k, n, first_in, g;
    int64_t        t, sum;
    entry_t       *e;
    uint64_t       limit;
    const book_t  *b = &w->books[a];
    const acct_t  *ac = &w->cfg->accts[a];

    n = windows(w, a, i, list);

    sum = 0;
    first_in = 0;
    g = 0;

    for (k = 0; k < n; k++) {
        t = list[k].t;

        while (list[first_in].t + (int64_t) judge_first(ac, i)->p <= t) {
            sum -= list[first_in++].tokens;
        }

        for ( /* void */ ; g < b->ngiven
                           && (b->given[g].t < t
                               || (b->given[g].t == t
                                   && b->given[g].o < list[k].o)); g++)
        {
            e = bsearch(&(entry_t) { b->given[g].at, b->given[g].ao, 0, 0, 0 },
                        list, n, sizeof(entry_t), judge_compare);

            if (e) {
                sum -= (size_t) (e - list) >= first_in
                       && (size_t) (e - list) < k ? b->given[g].tokens : 0;
                e->tokens -= b->given[g].tokens;
            }
        }

        limit = judge_form(w, ac, i, t).burst;

        if (list[k].least >= 0 && sum + list[k].least > (int64_t) limit) {
            w->st.over++;
            w->st.debt = (double) (sum + list[k].least) - (double) limit;
        }

        sum += list[k].tokens;
    }
}
