
/*
 * The Redis of a run: values that expire, its epoch, and the ablations that
 * are made there, each before or after a call of the real text.
 */


#include "sim.h"


#define SKEW  1000000        /* us: what clocks of primaries may differ by */


static void
redis_limits(world_t *w, int a, unsigned version, const roll_t *roll,
    apikey_account_limit_t *limits, apikey_account_call_t *call)
{
    bool                     late;
    int64_t                  t, k;
    unsigned                 i;
    const limit_t           *l;
    const version_t         *v;
    const primary_t         *p;
    apikey_account_limit_t  *out;

    v = &w->cfg->accts[a].versions[version];
    p = &w->primaries[w->redis[a].primary];

    memset(call, 0, sizeof(*call));
    call->limits = limits;
    call->slots = w->cfg->accts[a].slots;
    call->epoch = w->ab == AB_SAME_EPOCH ? 1 : p->epoch;
    call->since = w->ab == AB_SAME_EPOCH ? 0 : p->since;
    call->moved = w->cfg->primaries > 1 ? p->since + SKEW : 0;
    call->moved = w->ab == AB_MOVED ? 1 : call->moved;
    call->gone = w->ab == AB_UNTOUCHED || w->ab == AB_GONE ? 0 : w->gone;
    call->lease = v->time;
    call->horizon = w->cfg->horizon;

    /* what was used just before all was lost may not be shipped yet */

    late = w->gone && w->now < (int64_t) (w->gone + 2 * v->time)
           && w->now % 2 && w->ab != AB_UNTOUCHED;
    call->complete = late ? 0 : (uint64_t) w->now;

    for (i = 0; i < LIMITS; i++) {
        l = &v->limits[i];

        if (!l->there) {
            continue;
        }

        out = &limits[call->nlimits++];
        memset(out, 0, sizeof(*out));

        out->id = i + 1;
        out->rate = l->rate;
        out->made = l->made;
        out->mode = w->ab == AB_TRIM && l->mode ? APIKEY_ACCOUNT_OBSERVE
                                                : l->mode;
        out->known = APIKEY_ACCOUNT_UNKNOWN;
        out->quota = l->kind == PERIOD || l->kind == TOTAL;

        if (out->quota && (!w->cfg->late || w->books[a].missed)) {
            out->known = late ? 0 : judge_known(w, a, i, w->now);
            out->touched = !late && (w->books[a].nadm > 0 || out->known)
                           && (w->ab != AB_UNTOUCHED
                               || w->redis[a].value.state
                                  != APIKEY_ACCOUNT_PRESENT);
        }

        if (l->kind == ROLLING) {
            out->fill = roll->back;
            out->next = roll->since;
            out->known = w->ab == AB_ROLL_FREE ? 0 : roll->more;

            if (w->ab == AB_ROLL_LATE) {
                out->next = w->now - l->p + 1;
            }
        }

        if (l->kind == PERIOD) {

            /* a node may not have seen the last end yet */

            t = w->now - (int64_t) rnd(&w->rng, l->length / 2);
            k = (t - l->offset) / l->length + 1;
            out->end = l->offset + k * l->length;
            out->next = out->end + l->length;
            out->fill = l->fill * l->rate.token;
        }
    }
}


static void
redis_plain(apikey_account_t *v, int64_t now)
{
    unsigned                 i;
    apikey_rate_t            rate;
    apikey_bucket_t          b;
    apikey_account_level_t  *l;

    for (i = 0; i < v->nlevels; i++) {
        l = &v->levels[i];

        if (l->tick && l->tick != APIKEY_ACCOUNT_ROLLING) {
            rate = (apikey_rate_t) { l->token, l->refill, 0, l->tick };
            b.used = l->used;
            b.at = l->at;
            apikey_bucket_refill(&b, &rate, now);
            l->used = b.used;
            l->at = b.at;
        }
    }
}


/* Generations shifted without refilling to their ends. */

static void
redis_shift(apikey_account_t *v, int64_t now)
{
    uint64_t  g;

    g = now / v->lease;

    if (g > v->generation) {
        v->out[1] = g == v->generation + 1 ? v->out[0] : 0;
        v->out[0] = 0;
        v->generation = g;
    }
}


static void
redis_expired(apikey_account_t *v, int64_t now)
{
    uint64_t                 g, lost, units;
    unsigned                 i;
    apikey_account_level_t  *l;

    g = now / v->lease;
    lost = g > v->generation + 1 ? v->out[0] + v->out[1]
           : g > v->generation ? v->out[1] : 0;

    if (now > (int64_t) v->at) {
        apikey_account_advance(v, now);
    }

    for (i = 0; lost && i < v->nlevels; i++) {
        l = &v->levels[i];

        if (l->tick == APIKEY_ACCOUNT_ROLLING) {
            continue;
        }

        units = lost * l->token;

        if (l->used > (v->out[0] + v->out[1]) * l->token) {
            l->used = l->used > units ? l->used - units : 0;

            if (l->used < (v->out[0] + v->out[1]) * l->token) {
                l->used = (v->out[0] + v->out[1]) * l->token;
            }
        }
    }
}


static void
redis_settle_first(apikey_account_t *v, apikey_account_ask_t *ask, int64_t now)
{
    uint64_t  end;

    end = (v->generation + 1) * v->lease;

    if (now > (int64_t) end) {
        apikey_account_advance(v, end);
        end += v->lease;

        if (now > (int64_t) end) {
            apikey_account_advance(v, end);
        }
    }

    redis_shift(v, now);

    if (ask->born == v->born && v->generation - ask->generation < 2
        && v->out[v->generation - ask->generation] >= ask->spent)
    {
        v->out[v->generation - ask->generation] -= ask->spent;
        ask->spent = 0;
    }
}


static apikey_account_counter_t *
redis_entry(apikey_account_t *v, uint64_t id)
{
    unsigned  i;

    for (i = 0; i < v->ncounters; i++) {

        if (v->counters[i].id == id) {
            return &v->counters[i];
        }
    }

    return NULL;
}


/* What every call meets; the value of a key that expired is absent. */

static apikey_account_t *
redis_get(world_t *w, int a)
{
    redis_t  *r = &w->redis[a];

    r->asked = true;

    if (r->expires && w->now >= r->expires) {
        memset(&r->value, 0, sizeof(r->value));
        r->expires = 0;
    }

    if (r->value.state == APIKEY_ACCOUNT_PRESENT) {

        switch (w->ab) {
        case AB_NOCAP:
            if (w->now > (int64_t) r->value.at) {
                redis_plain(&r->value, w->now);
            }
            break;
        case AB_NO_SPLIT:
            redis_shift(&r->value, w->now);
            break;
        case AB_EXPIRED:
            redis_expired(&r->value, w->now);
            break;
        default:
            break;
        }
    }

    return &r->value;
}


static void
redis_set(world_t *w, int a)
{
    uint64_t  us;
    redis_t  *r = &w->redis[a];

    us = apikey_account_expire(&r->value, w->cfg->horizon, w->now);

    if (us != APIKEY_BUCKET_NEVER && w->ab == AB_SHORT_PX) {
        r->value.lease *= 2;
        us = apikey_account_expire(&r->value, 0, w->now);
        us -= 2 * r->value.lease;
        r->value.lease /= 2;
    }

    r->expires = us == APIKEY_BUCKET_NEVER ? 0 : w->now + (int64_t) us + 1;
}


typedef struct {
    uint64_t  number;
    int64_t   sum;
    bool      there;
} before_t;


static void
redis_before(world_t *w, apikey_account_t *v, apikey_account_sums_t *sums,
    before_t *b)
{
    apikey_account_counter_t  *e;

    if (w->ab == AB_NO_ACK) {
        sums->acked = 0;
        sums->part_acked = 0;
    }

    if (w->ab == AB_PART) {
        sums->part = sums->sum;
        sums->part_acked = sums->acked;
        sums->era = v->era;
    }

    e = redis_entry(v, sums->node);

    if (e && e->at + w->cfg->horizon < (uint64_t) w->now) {
        e = NULL;
    }

    memset(b, 0, sizeof(*b));

    if (e) {
        b->there = true;
        b->number = e->number;
        b->sum = e->sum;

        if (w->ab == AB_NO_NUMBER) {
            e->number = 0;

            if (sums->number < b->number) {
                w->st.order++;
            }
        }

        if (w->ab == AB_PART) {
            e->era = sums->era;
            e->part = e->sum;
        }

    } else {
        b->sum = sums->acked;
    }
}


static void
redis_after(world_t *w, int a, apikey_account_t *v,
    const apikey_account_sums_t *sums, const before_t *b)
{
    apikey_account_counter_t  *e;

    e = redis_entry(v, sums->node);

    if (e == NULL || e->number != sums->number
        || (b->there && b->number == sums->number))
    {
        return;
    }

    w->books[a].credited += sums->sum - b->sum;
}


static void
redis_ablate(world_t *w, apikey_account_t *v,
    const apikey_account_call_t *call, uint64_t born)
{
    unsigned  i;

    if (w->ab != AB_EPOCH_FORGETS && w->ab != AB_EDIT_REFILLS) {
        return;
    }

    apikey_account_open(v, call, w->now);

    if (w->ab == AB_EPOCH_FORGETS && v->lost && v->born != born) {
        v->out[0] = 0;
        v->out[1] = 0;
    }

    for (i = 0; w->ab == AB_EDIT_REFILLS && i < v->nlevels; i++) {

        if (v->levels[i].born == (uint64_t) w->now && v->levels[i].tick
            && born && v->levels[i].used == (v->out[0] + v->out[1])
                                            * v->levels[i].token)
        {
            v->levels[i].used = 0;
        }
    }
}


/* Who has got "unknown" asks Postgres, and tells it in calls to come. */

static void
redis_missed(world_t *w, int a)
{
    unsigned                       i;
    const apikey_account_level_t  *l;

    w->books[a].missed = false;

    for (i = 0; i < LIMITS; i++) {
        l = apikey_account_level(&w->redis[a].value, i + 1);
        w->books[a].missed |= l && l->used == APIKEY_ACCOUNT_MAX;
    }

    judge_kept(w, a);
}


/* What quotas have left beside what is out. */

/* us until the first bucket is full but for what is out; 0: there is none. */

static uint64_t
redis_full(world_t *w, int a, unsigned version)
{
    uint64_t                       us, soon, tokens;
    unsigned                       i;
    apikey_bucket_t                b;
    const limit_t                 *m;
    const apikey_account_t        *v;
    const apikey_account_level_t  *l;

    v = &w->redis[a].value;
    tokens = v->out[0] + v->out[1];
    soon = APIKEY_BUCKET_NEVER;

    for (i = 0; i < LIMITS; i++) {
        m = &w->cfg->accts[a].versions[version].limits[i];
        l = apikey_account_level(v, i + 1);

        if (!m->there || m->kind != BUCKET || m->rate.refill == 0 || !l) {
            continue;
        }

        b.used = l->used < tokens * l->token ? 0 : l->used - tokens * l->token;
        b.at = l->at;

        us = apikey_bucket_reset(&b, &m->rate, b.at);
        soon = us < soon ? us : soon;
    }

    return soon == APIKEY_BUCKET_NEVER ? 0 : soon;
}


uint64_t
redis_room(world_t *w, int a, unsigned version, const apikey_lease_t *lease,
    uint64_t *soon)
{
    uint64_t                       least, room, full;
    unsigned                       i;
    const limit_t                 *m;
    const apikey_account_level_t  *l;

    least = APIKEY_ACCOUNT_MAX;
    *soon = redis_full(w, a, version);

    for (i = 0; i < LIMITS; i++) {
        m = &w->cfg->accts[a].versions[version].limits[i];

        if (!m->there || m->kind == ROLLING
            || (m->kind == BUCKET && !w->cfg->accts[a].slots
                && (m->n == 0
                    || !apikey_lease_slow(lease, (double) m->n * 1e6
                                                 / (double) m->p))))
        {
            continue;
        }

        l = apikey_account_level(&w->redis[a].value, i + 1);
        full = m->rate.capacity;
        room = l && l->used < full ? (full - l->used) / m->rate.token : 0;
        least = room < least ? room : least;
    }

    return least;
}


void
redis_lease(world_t *w, int a, unsigned version, apikey_account_ask_t *ask,
    apikey_account_sums_t *sums, const roll_t *roll,
    apikey_account_grant_t *grant)
{
    uint64_t                born, returned;
    before_t                before;
    apikey_account_t       *v;
    apikey_account_call_t   call;
    apikey_account_limit_t  limits[LIMITS];

    v = redis_get(w, a);
    born = v->born;
    judge_paid(w, a);

    redis_limits(w, a, version, roll, limits, &call);
    redis_before(w, v, sums, &before);
    call.sums = *sums;
    returned = ask->returned;

    if (w->ab == AB_SETTLE_FIRST && v->state == APIKEY_ACCOUNT_PRESENT
        && call.epoch == v->epoch)
    {
        redis_settle_first(v, ask, w->now);
    }

    if (w->ab == AB_TIME && v->state == APIKEY_ACCOUNT_PRESENT
        && v->lease != call.lease)
    {
        v->out[0] = v->out[1] = 0;
    }

    redis_ablate(w, v, &call, born);

    if (w->ab == AB_MISSED && (sums->node & APIKEY_ACCOUNT_CHARGE)
        && sums->era < v->lost)
    {
        call.sums.number = 0;
    }

    apikey_account_lease(v, &call, ask, w->now, grant);

    if (w->ab == AB_ROLL_OUT) {
        v->out[0] -= grant->granted;
    }

    if (w->ab == AB_STRADDLE) {
        grant->life = v->lease;
    }

    redis_after(w, a, v, sums, &before);
    redis_set(w, a);

    redis_missed(w, a);

    w->books[a].granted += grant->granted;
    w->books[a].returned += grant->kept ? returned : 0;
}


bool
redis_take(world_t *w, int n, const int *accts, const unsigned *versions,
    uint64_t *costs, apikey_account_sums_t *sums, const roll_t *rolls,
    uint64_t *eras)
{
    int                     i;
    bool                    good;
    before_t                before;
    apikey_account_t       *v;
    apikey_account_call_t   call[ITEMS];
    apikey_account_limit_t  limits[ITEMS][LIMITS];

    good = true;

    for (i = 0; i < n; i++) {
        v = redis_get(w, accts[i]);
        judge_paid(w, accts[i]);

        redis_limits(w, accts[i], versions[i], &rolls[i], limits[i],
                     &call[i]);
        redis_before(w, v, &sums[i], &before);
        call[i].sums = sums[i];

        if (w->ab == AB_TAKE_FULL && v->state == APIKEY_ACCOUNT_PRESENT
            && w->now > (int64_t) v->at)
        {
            redis_plain(v, w->now);
        }

        redis_ablate(w, v, &call[i], v->born);

        if (!apikey_account_fits(v, &call[i], &costs[i], w->now)) {
            good = false;
        }

        redis_after(w, accts[i], v, &sums[i], &before);
        eras[i] = v->era;
    }

    for (i = 0; i < n; i++) {

        if (good) {
            judge_taken(w, accts[i], costs[i]);
            apikey_account_pay(&w->redis[accts[i]].value, &call[i], costs[i]);
            w->books[accts[i]].taken += costs[i];
        }

        redis_missed(w, accts[i]);
        redis_set(w, accts[i]);
    }

    return good;
}
