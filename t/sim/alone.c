
/*
 * A node that goes on without Redis, over limit/owed.h: what it admits then
 * is noted limit by limit, and told when there is a Redis again, before it
 * takes anything more of that account.
 *
 * Totals alone are charged here.  Nobody bounds what passes: allow.
 */


#include "run.h"


static apikey_owed_t *
place(run_t *r, int n, int a, unsigned i, bool make)
{
    node_t             *nd = &r->nodes[n];
    apikey_owed_key_t   key = { (const uint8_t *) "sixteen bytes, no",
                                (uint64_t) a, i + 1, 0, 0 };

    if (nd->owed == NULL) {

        if (!make) {
            return NULL;
        }

        nd->owed = calloc(1, sizeof(apikey_owed_set_t));
    }

    return make ? apikey_owed_get(nd->owed, &key, ++r->names, r->w.now,
                                  r->w.now)
                : apikey_owed_find(nd->owed, &key);
}


/* The limit of which this is the k-th of a call; LIMITS: none. */

static unsigned
nth(const version_t *v, int64_t k)
{
    unsigned  i;

    for (i = 0; i < LIMITS; i++) {

        if (v->limits[i].there && k-- == 0) {
            return i;
        }
    }

    return LIMITS;
}


static void
admit(run_t *r, request_t *rq)
{
    int              i, a;
    unsigned         k;
    apikey_owed_t   *owed;
    const version_t *v;

    for (i = 0; i < rq->n; i++) {
        a = rq->acct[i];
        v = &r->w.cfg->accts[a].versions[0];

        for (k = 0; k < LIMITS; k++) {

            if (v->limits[k].there && v->limits[k].kind == TOTAL) {
                owed = place(r, rq->node, a, k, true);
                apikey_owed_add(r->nodes[rq->node].owed, owed,
                                rq->claim[i].cost, 0, ++r->names, r->w.now);
            }
        }

        judge_alone(&r->w, a, rq->claim[i].cost);
    }

    rq->ok = true;
    r->w.st.alone++;
    finish(rq, &r->w.st.admitted);
}


bool
alone_look(run_t *r, int n, int a, apikey_account_sums_t *sums, bool send)
{
    unsigned          i, k;
    apikey_owed_t    *owed;
    const version_t  *v = &r->w.cfg->accts[a].versions[0];

    for (i = 0, k = 0; i < LIMITS; i++) {
        owed = v->limits[i].there ? place(r, n, a, i, false) : NULL;

        if (owed && !apikey_owed_clean(owed, r->w.now)) {

            if (send) {
                apikey_owed_send(owed, k, r->w.cfg->horizon,
                                 local(&r->nodes[n], r->w.now), sums);
            }

            if (send && r->w.ab == AB_DOUBT) {
                sums->doubt = false;
            }

            if (send && r->w.ab == AB_CHARGE_NAME) {
                sums->node = APIKEY_ACCOUNT_CHARGE | ++r->names;
            }

            return true;
        }

        k += v->limits[i].there;
    }

    return false;
}


static bool
owes(run_t *r, int n, int a)
{
    apikey_account_sums_t  sums;

    return alone_look(r, n, a, &sums, false);
}


/* true: there is nothing left to decide. */

bool
alone_arrival(run_t *r, request_t *rq)
{
    int  i;

    if (r->w.now < r->nodes[rq->node].alone) {
        admit(r, rq);
        return true;
    }

    for (i = 0; i < rq->n; i++) {

        if (owes(r, rq->node, rq->acct[i])) {
            finish(rq, &r->w.st.unavailable);
            return true;
        }
    }

    return false;
}


/* Redis has got it. */

void
alone_heard(run_t *r, const message_t *m)
{
    unsigned  i;

    i = nth(&r->w.cfg->accts[m->acct].versions[0], m->sums[0].part);

    if (i < LIMITS) {
        judge_told(&r->w, m->acct, i, m->node, m->sums[0].sum);
    }
}


void
alone_acked(run_t *r, const message_t *m)
{
    unsigned                i;
    apikey_owed_t          *owed;
    apikey_account_sums_t   sums = m->sums[0];

    i = nth(&r->w.cfg->accts[m->acct].versions[0], sums.part);
    owed = i < LIMITS ? place(r, m->node, m->acct, i, false) : NULL;

    if (owed) {
        sums.node = r->w.ab == AB_CHARGE_NAME ? owed->name : sums.node;
        apikey_owed_acked(owed, &sums);
    }
}


/* An answer of Redis, by its time. */

void
alone_contact(run_t *r, int n, int64_t redis)
{
    if (r->nodes[n].owed == NULL) {
        r->nodes[n].owed = calloc(1, sizeof(apikey_owed_set_t));
    }

    r->nodes[n].owed->contact = (uint64_t) redis;
}


/* It tells by itself, until nothing is owed. */

void
on_alone(run_t *r, event_t *e)
{
    int      a;
    bool     more;
    node_t  *nd = &r->nodes[e->a];

    more = r->w.now < nd->alone;

    for (a = 0; a < r->w.cfg->naccts; a++) {

        if (!owes(r, e->a, a)) {
            continue;
        }

        more = true;

        if (r->w.now >= nd->alone && r->w.now >= nd->down
            && r->w.now >= nd->stopped[0] && nd->side[a].lease.call == 0)
        {
            send_lease(r, e->a, a, 0, false);
        }
    }

    if (more) {
        push(r, r->w.now + r->w.cfg->tau, E_ALONE, e->a, 0, 0, NULL);
    }
}
