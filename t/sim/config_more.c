
/*
 * Configurations of what the Python model leaves out: edits, calendars,
 * slots, a Redis that fails over or loses all.
 */


#include "config.h"


void
same_key(key_list_t *key, const cfg_t *c)
{
    key->n = 0;

    while (key->n < c->naccts) {
        key->accts[key->n] = key->n;
        key->n++;
    }
}


void
random_pulse(pulse_t *pulse, uint64_t *s)
{
    memset(pulse, 0, sizeof(*pulse));

    if (rnd(s, 2)) {
        pulse->every = (int64_t) OF(s, 4e5, 2e6, 5e6);
        pulse->high = OF(s, 4, 9);
        pulse->on = pulse->every / 10;
        pulse->low = (1 - pulse->high * .1) / .9;
        pulse->low = pulse->low < .02 ? .02 : pulse->low;
    }
}


void
some_faults(cfg_t *c, uint64_t *s)
{
    bool  faulty;

    faulty = chance(s, .7);
    finish_times(c, s);
    random_network(c, s, faulty, 1);

    if (faulty) {
        random_faults(c, s, c->arrivals[c->narrivals - 1].t - START, 1);
    }
}


acct_t *
some_account(cfg_t *c, uint64_t *s, const char *modes, double *mean)
{
    int64_t   time;
    uint64_t  lo, hi;
    acct_t   *ac;

    time = (int64_t) OF(s, 2e5, 4e5, 1e6, 1e6, 2e6);
    time = time < 4 * c->rtt ? 4 * c->rtt : time;
    lo = hi = 1;

    if (rnd(s, 2)) {
        lo = rnd(s, 10);
        hi = 10 + rnd(s, 90);
    }

    *mean = (double) (lo + hi) / 2;
    ac = account(c, modes[rnd(s, strlen(modes))], lo, hi, (uint64_t) time);
    ac->settle = hi > 1 && chance(s, .7);
    ac->above = chance(s, .5);

    return ac;
}


limit_t
some_bucket(uint64_t *s, double r, uint64_t hi, int64_t p)
{
    uint64_t  n, burst;

    n = (uint64_t) (r * (double) p / SECOND);
    burst = (uint64_t) (r * OF(s, .1, .3, 1, 3));

    return bucket(n ? n : 1, (uint64_t) p, burst > hi ? burst : hi);
}


static void
mutate(uint64_t *s, const acct_t *ac, version_t *v, const int64_t *p, double r)
{
    bool      there;
    unsigned  i, n;
    limit_t  *l;

    for (i = 0, n = 0; i < 3; i++) {
        l = &v->limits[i];
        there = l->there;

        if (l->p == 0 || rnd(s, 3) == 0) {
            *l = some_bucket(s, r * between(s, .3, 2), ac->hi, p[i]);
            l->there = there;
        }

        if (chance(s, .3)) {
            l->there = !there;
        }

        if (l->there && !there) {
            l->made = v->from;
        }

        n += l->there;
    }

    if (n == 0) {
        v->limits[0].there = true;
    }

    l = &v->limits[3];
    there = l->there;

    if (l->p && rnd(s, 2)) {
        r = (double) l->burst * between(s, .5, 2);
        *l = quota(l->kind, (uint64_t) r > ac->hi ? (uint64_t) r : ac->hi,
                   l->burst, l->length, l->offset);
        l->fill = l->burst;
        l->there = chance(s, .3) ? !there : there;
        l->made = l->there && !there ? v->from : 0;
    }

    if (rnd(s, 4) == 0) {
        v->time = (uint64_t) ((double) v->time * between(s, .5, 2));
    }
}


/* Rates, bursts, quotas, lease times change; limits come and go. */

static void
edits(cfg_t *c, uint64_t seed, int n, bool quotas)
{
    int         a, i;
    double      rate, mean, secs, r, t;
    int64_t     p[3], length;
    uint64_t    s, all;
    acct_t     *ac;
    version_t  *v;
    pulse_t     pulse;
    key_list_t  key;

    s = begin(c, seed + 3000000);
    random_shape(c, &s);
    rate = OF(&s, 60, 200, 600, 2000);
    secs = n / rate;
    c->learn = (int64_t) OF(&s, 0, 5 * (double) c->rtt, 3e5, 2e6);

    for (a = 1 + (int) rnd(&s, 3); a; a--) {
        ac = some_account(c, &s, "LLLDA", &mean);
        r = rate * mean * OF(&s, .3, .8, 1, 2);
        ac->nversions = 2 + rnd(&s, VERSIONS - 1);

        for (i = 0; i < 3; i++) {
            p[i] = (int64_t) OF(&s, 1e6, 1e6, 7e6, 60e6);
        }

        v = ac->versions;
        v->limits[0] = some_bucket(&s, r, ac->hi, p[0]);
        t = 0;

        if (quotas) {
            all = (uint64_t) (rate * mean * secs * between(&s, .1, 1));
            all = all < ac->hi ? ac->hi : all;
            length = (int64_t) (secs * SECOND * between(&s, .1, .6));
            v->limits[3] = quota(rnd(&s, 2) ? PERIOD : TOTAL, all, all,
                                 length, rnd(&s, length));
        }

        for (i = 1; i < (int) ac->nversions; i++) {
            v[i] = v[i - 1];
            t += between(&s, .3, 1.7) * secs / ac->nversions * SECOND;
            v[i].from = START + (int64_t) t;
            mutate(&s, ac, &v[i], p, r);
        }
    }

    same_key(&key, c);
    random_pulse(&pulse, &s);
    poisson(c, &s, rate, n, &key, 1, OF(&s, 0, 0, 1), &pulse, false);
    some_faults(c, &s);
}


void
config_edits(cfg_t *c, uint64_t seed, int n)
{
    edits(c, seed, n, false);
}


void
config_quotas(cfg_t *c, uint64_t seed, int n)
{
    edits(c, seed + 5000000, n, true);
}


void
random_quotas(cfg_t *c, uint64_t *s, double rate, double secs, bool pure)
{
    double    mean, need;
    int64_t   length;
    uint64_t  all, fill;
    acct_t   *ac;
    unsigned  n;

    ac = some_account(c, s, "LLLDA", &mean);
    need = rate * mean;
    n = 0;

    if (rnd(s, 4)) {
        length = (int64_t) (secs * SECOND * between(s, .03, .4));
        all = (uint64_t) (need * (double) length / SECOND
                          * OF(s, .2, .5, .9, 1.5));
        all = all < 2 * ac->hi ? 2 * ac->hi : all;
        fill = rnd(s, 3) ? all : 1 + rnd(s, all);
        ac->versions[0].limits[n++] = quota(PERIOD, all, fill, length,
                                            rnd(s, length));
    }

    if (n == 0 || rnd(s, 3) == 0) {
        all = (uint64_t) (need * secs * between(s, .2, 1.2));
        all = all < ac->hi ? ac->hi : all;
        ac->versions[0].limits[n++] = quota(TOTAL, all, all, 0, 0);
    }

    if (!pure && rnd(s, 2)) {
        ac->versions[0].limits[n] = some_bucket(s, need * OF(s, .5, 1, 2),
                                                ac->hi, 1000000);
    }
}


/* Tokens: reserves of many modes, or unknown; TAKE alone pays for them. */

void
config_modes(cfg_t *c, uint64_t seed, int n)
{
    int         i, a;
    double      rate, mean, secs;
    uint64_t    s;
    acct_t     *ac;
    pulse_t     pulse;
    key_list_t  key;

    s = begin(c, seed + 9000000);
    random_shape(c, &s);
    rate = OF(&s, 60, 200, 600);
    secs = n / rate;

    for (a = 1 + (int) rnd(&s, 2); a; a--) {
        random_quotas(c, &s, rate, secs, false);
        ac = &c->accts[c->naccts - 1];
        ac->mode = 'D';
        ac->lo = 1;
        ac->hi = 10 + rnd(&s, 40);
        ac->settle = true;
        ac->above = rnd(&s, 2);
        ac->whole = rnd(&s, 2);

        if (rnd(&s, 2)) {
            memset(&ac->versions[0].limits, 0, sizeof(ac->versions[0].limits));
            ac->versions[0].limits[0] = some_bucket(&s, rate * 20, ac->hi,
                                                    1000000);
            ac->versions[0].limits[1] = some_bucket(&s, rate * 10, ac->hi,
                                                    60000000);
        }

        for (i = 0; i < LIMITS; i++) {
            ac->versions[0].limits[i].mode = rnd(&s, 3);
        }
    }

    if (rnd(&s, 2)) {
        ac = some_account(c, &s, "LA", &mean);
        ac->versions[0].limits[0] = some_bucket(&s, rate * mean, ac->hi,
                                                1000000);
    }

    same_key(&key, c);
    random_pulse(&pulse, &s);
    poisson(c, &s, rate, n, &key, 1, OF(&s, 0, 0, 1), &pulse, false);
    some_faults(c, &s);
}


void
config_periods(cfg_t *c, uint64_t seed, int n)
{
    int         a;
    double      rate, secs;
    uint64_t    s;
    pulse_t     pulse;
    key_list_t  key;

    s = begin(c, seed + 4000000);
    random_shape(c, &s);
    rate = OF(&s, 60, 200, 600, 2000);
    secs = n / rate;

    for (a = 1 + (int) rnd(&s, 3); a; a--) {
        random_quotas(c, &s, rate, secs, false);
    }

    same_key(&key, c);
    random_pulse(&pulse, &s);
    poisson(c, &s, rate, n, &key, 1, OF(&s, 0, 0, 1), &pulse, false);
    some_faults(c, &s);
}


/*
 * Totals that are spent to the last token: leased while there is much, then
 * by TAKE.  Without faults nobody is refused before.
 */

void
config_budgets(cfg_t *c, uint64_t seed, int n)
{
    double      rate, mean, share, time;
    uint64_t    s, all;
    acct_t     *ac;
    pulse_t     pulse = { 0, 0, 0, 0 };
    key_list_t  key;

    s = begin(c, seed + 8000000);
    random_shape(c, &s);
    rate = OF(&s, 200, 600, 2000);
    c->exact = rnd(&s, 2);
    share = between(&s, .3, .7);
    time = OF(&s, 2e5, 4e5, 1e6);

    /* it lasts for some lease times, or all of it is an end */

    if (c->exact && time > share * n / rate * SECOND / 6) {
        time = share * n / rate * SECOND / 6;
    }

    c->rtt = (double) c->rtt > time / 20 ? (int64_t) time / 20 : c->rtt;
    c->tau = 20 * c->rtt;

    ac = some_account(c, &s, "A", &mean);
    ac->versions[0].time = (uint64_t) time;

    if (c->exact) {
        ac->lo = ac->hi;
        ac->settle = false;
        mean = (double) ac->hi;
    }

    all = (uint64_t) (share * n * mean) / ac->hi * ac->hi;
    ac->versions[0].limits[0] = quota(TOTAL, all, all, 0, 0);

    if (rnd(&s, 2)) {
        ac->versions[0].limits[1] = some_bucket(&s, 40 * rate * mean, ac->hi,
                                                1000000);
    }

    same_key(&key, c);

    if (!c->exact) {
        random_pulse(&pulse, &s);
    }

    poisson(c, &s, rate, n, &key, 1, OF(&s, 0, 0, 1), &pulse, false);

    if (c->exact) {
        finish_times(c, &s);

    } else {
        some_faults(c, &s);
    }
}


void
config_slots(cfg_t *c, uint64_t seed, int n)
{
    double      rate, mean;
    int64_t     time;
    uint64_t    s, slots;
    acct_t     *ac;
    pulse_t     pulse;
    key_list_t  key;

    s = begin(c, seed + 5000000);
    random_shape(c, &s);
    c->long_runs = rnd(&s, 2);
    rate = OF(&s, 20, 60, 200, 600);
    time = (int64_t) OF(&s, 2e5, 5e5, 1e6);
    time = time < 4 * c->rtt ? 4 * c->rtt : time;
    slots = (uint64_t) OF(&s, 1, 3, 8, 30, 100);

    ac = account(c, 'L', 1, 1, (uint64_t) time);
    ac->slots = true;
    ac->versions[0].limits[0] = bucket(0, 1, slots);
    ac->versions[0].limits[0].kind = SLOTS;

    if (rnd(&s, 2)) {
        ac = some_account(c, &s, "LDA", &mean);
        ac->versions[0].limits[0] = some_bucket(&s, rate * mean
                                                    * OF(&s, .5, 1, 2),
                                                ac->hi, 1000000);
    }

    same_key(&key, c);
    random_pulse(&pulse, &s);
    poisson(c, &s, rate, n, &key, 1, OF(&s, 0, 0, 1), &pulse, false);
    some_faults(c, &s);
}


/* A primary dies with what its replica has not heard of; until when. */

int64_t
failover(cfg_t *c, uint64_t *s, int64_t t, const pulse_t *pulse, int primary)
{
    int64_t  lag, gap;

    lag = (int64_t) OF(s, 0, 1e3, 5e4, 1e6);
    gap = (int64_t) OF(s, 1, 1e4, 5e5, 4e6);

    /* just before a pulse, when nodes hold much and spend little */

    if (pulse->every && rnd(s, 2)) {
        gap = (int64_t) OF(s, 1, 1e3);
        t += pulse->every - t % pulse->every - lag - gap
             - (int64_t) rnd(s, 300000);
        t = t < 0 ? 0 : t;
    }

    fault(c, t, F_SNAPSHOT, 0, primary, 0);
    fault(c, t + lag, F_DEAD, 0, primary, 0);
    fault(c, t + lag + gap, F_FAILOVER, 0, primary, 0);

    return t + lag + gap;
}


void
config_failover(cfg_t *c, uint64_t seed, int n)
{
    int         a, i;
    bool        flush;
    double      rate, mean, secs;
    uint64_t    s;
    acct_t     *ac;
    pulse_t     pulse;
    key_list_t  key;

    s = begin(c, seed + 6000000);
    random_shape(c, &s);
    rate = OF(&s, 60, 200, 600, 2000);
    secs = n / rate;

    /* what a flush takes away admits one burst of each bucket again */

    flush = rnd(&s, 3) == 0;

    for (a = 1 + (int) rnd(&s, 3); a; a--) {

        if (flush || rnd(&s, 2)) {
            random_quotas(c, &s, rate, secs, flush);
            continue;
        }

        ac = some_account(c, &s, "LLLDA", &mean);
        ac->versions[0].limits[0] =
            some_bucket(&s, rate * mean * OF(&s, .3, .8, 1, 2), ac->hi,
                        (int64_t) OF(&s, 1e6, 60e6));
    }

    same_key(&key, c);
    random_pulse(&pulse, &s);
    poisson(c, &s, rate, n, &key, 1, OF(&s, 0, 0, 1), &pulse, false);
    some_faults(c, &s);

    for (i = 1 + (int) rnd(&s, 3); i; i--) {

        if (flush && rnd(&s, 2)) {
            c->late = true;
            fault(c, (int64_t) (between(&s, .2, 1) * secs * SECOND), F_FLUSH,
                  0, 0, 0);

        } else {
            (void) failover(c, &s,
                            (int64_t) ((i + unit(&s)) / 4 * secs * SECOND),
                            &pulse, 0);
        }
    }
}


static limit_t
some_window(uint64_t *s, double r, uint64_t hi)
{
    int64_t  p;
    limit_t  l;
    uint64_t n;

    p = (int64_t) OF(s, 2e5, 1e6, 1e6, 7e6, 60e6);
    n = (uint64_t) (r * (double) p / SECOND);
    l = bucket(0, 1, n > hi ? n : hi);

    l.kind = ROLLING;
    l.p = (uint64_t) p;
    l.rate = (apikey_rate_t) { 1, l.p, l.burst, APIKEY_RATE_ROLLING };

    return l;
}


/* Windows that roll: by TAKE, as nodes do, and by leases, which need not. */

void
config_rolling(cfg_t *c, uint64_t seed, int n)
{
    int         a, i;
    double      rate, mean, secs;
    uint64_t    s;
    acct_t     *ac;
    limit_t    *l;
    pulse_t     pulse;
    key_list_t  key;

    s = begin(c, seed + 11000000);
    random_shape(c, &s);
    rate = OF(&s, 60, 200, 600, 2000);
    secs = n / rate;
    c->learn = (int64_t) OF(&s, 0, 5 * (double) c->rtt, 3e5);

    for (a = 1 + (int) rnd(&s, 3); a; a--) {
        ac = some_account(c, &s, "DDDLAM", &mean);
        l = ac->versions[0].limits;
        l[0] = some_window(&s, rate * mean * OF(&s, .2, .5, .9, 1.5), ac->hi);

        if (rnd(&s, 2)) {
            l[1] = some_window(&s, rate * mean * OF(&s, .3, .8, 2), ac->hi);
        }

        if (rnd(&s, 3) == 0) {
            l[2] = some_bucket(&s, rate * mean * OF(&s, .5, 1, 2), ac->hi,
                               1000000);
        }

        if (ac->mode == 'D') {
            ac->whole = rnd(&s, 4) == 0;
            l[1].mode = l[1].there ? rnd(&s, 3) : 0;
        }

        /* raised, lowered: the log is as it was */

        if (rnd(&s, 3) == 0) {
            ac->nversions = 2;
            ac->versions[1] = ac->versions[0];
            ac->versions[1].from = START + (int64_t) (secs * SECOND
                                                      * between(&s, .2, .8));
            l = ac->versions[1].limits;
            l->burst = (uint64_t) ((double) l->burst * between(&s, .4, 2));
            l->burst = l->burst < ac->hi ? ac->hi : l->burst;
            l->rate.capacity = l->burst;
        }
    }

    same_key(&key, c);
    random_pulse(&pulse, &s);
    poisson(c, &s, rate, n, &key, 1, OF(&s, 0, 0, 1), &pulse, false);
    some_faults(c, &s);

    for (i = (int) rnd(&s, 3); i; i--) {
        (void) failover(c, &s, (int64_t) ((i + unit(&s)) / 4 * secs * SECOND),
                        &pulse, 0);
    }
}
