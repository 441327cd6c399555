
/*
 * Configurations: random ones, and those that look for trouble where the
 * protocol is most likely to have it.
 */


#include "config.h"


limit_t
bucket(uint64_t n, uint64_t p, uint64_t burst)
{
    limit_t        l;
    apikey_rate_t  rate;

    if (!apikey_rate_init(&rate, n, p, burst) || rate.tick != 1) {
        n -= n % (p / 1000000);
    }

    memset(&l, 0, sizeof(l));
    l.kind = BUCKET;
    l.there = true;
    l.n = n;
    l.p = n ? p : 1;
    l.burst = burst;

    if (!apikey_rate_init(&l.rate, n, p, burst) || l.rate.tick != 1) {
        fprintf(stderr, "no exact rate: %llu in %llu, %llu\n",
                (unsigned long long) n, (unsigned long long) p,
                (unsigned long long) burst);
        exit(1);
    }

    return l;
}


limit_t
quota(kind_e kind, uint64_t burst, uint64_t fill, int64_t length,
    int64_t offset)
{
    limit_t  l;

    l = bucket(0, 1, burst);
    l.kind = kind;
    l.fill = fill;
    l.length = length;
    l.offset = offset;

    return l;
}


acct_t *
account(cfg_t *c, char mode, uint64_t lo, uint64_t hi, uint64_t time)
{
    acct_t  *ac;

    ac = &c->accts[c->naccts++];
    memset(ac, 0, sizeof(*ac));
    ac->nversions = 1;
    ac->versions[0].time = time;
    ac->mode = mode;
    ac->lo = lo;
    ac->hi = hi;

    return ac;
}


int
by_time(const void *one, const void *two)
{
    const arrival_t  *a = one, *b = two;

    return a->t < b->t ? -1 : a->t > b->t;
}


void
add(cfg_t *c, int64_t t, int node, int worker, int n, const int *accts)
{
    arrival_t  *a;

    if (c->narrivals % 1024 == 0) {
        c->arrivals = realloc(c->arrivals,
                              (c->narrivals + 1024) * sizeof(arrival_t));
    }

    a = &c->arrivals[c->narrivals++];
    a->t = START + t;
    a->node = node;
    a->worker = worker;
    a->naccts = n;
    memcpy(a->accts, accts, n * sizeof(int));
}


static int
weighted(uint64_t *s, const double *w, int n)
{
    int     i;
    double  sum, x;

    for (i = 0, sum = 0; i < n; i++) {
        sum += w[i];
    }

    x = unit(s) * sum;

    for (i = 0; i < n - 1 && x >= w[i]; i++) {
        x -= w[i];
    }

    return i;
}


void
poisson(cfg_t *c, uint64_t *s, double rate, int n, const key_list_t *keys,
    int nkeys, double skew, const pulse_t *pulse, bool one)
{
    int     i, k;
    double  t, l, w[NODES], kw[8];

    for (i = 0; i < c->nodes; i++) {
        w[i] = one ? i == 0 : pow(i + 1, -skew);
    }

    for (i = 0; i < nkeys; i++) {
        kw[i] = 1.0 / (i + 1);
    }

    for (i = 0, t = 0; i < n; i++) {
        l = rate;

        if (pulse->every) {
            l *= (int64_t) t % pulse->every < pulse->on ? pulse->high
                                                        : pulse->low;
        }

        t += -log(1 - unit(s)) / l * SECOND + 1;
        k = weighted(s, kw, nkeys);
        add(c, (int64_t) t, weighted(s, w, c->nodes), rnd(s, c->workers),
            keys[k].n, keys[k].accts);
    }
}


uint64_t
one_of(uint64_t *s, int n, const double *list)
{
    return (uint64_t) list[rnd(s, n)];
}


double
pick(uint64_t *s, size_t n, const double *list)
{
    return list[rnd(s, n)];
}


void
fault(cfg_t *c, int64_t t, fault_e kind, int node, int worker, int64_t span)
{
    if (c->nfaults < 1024) {
        c->faults[c->nfaults++] = (fault_t) { START + t, span, kind, node,
                                              worker };
    }
}


uint64_t
begin(cfg_t *c, uint64_t seed)
{
    uint64_t  s;

    memset(c, 0, sizeof(*c));
    c->seed = seed;
    s = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    rnd(&s, 1);
    rnd(&s, 1);

    return s;
}


void
config_free(cfg_t *c)
{
    free(c->arrivals);
}


uint64_t
longest(const cfg_t *c)
{
    int       a;
    unsigned  v;
    uint64_t  t;

    for (a = 0, t = 0; a < c->naccts; a++) {

        for (v = 0; v < c->accts[a].nversions; v++) {
            t = c->accts[a].versions[v].time > t ? c->accts[a].versions[v].time
                                                 : t;
        }
    }

    return t;
}


static void
random_account(cfg_t *c, uint64_t *s, double need, double secs, bool settle)
{
    int64_t   time;
    double    r, p, f;
    uint64_t  lo, hi, n, burst;
    acct_t   *ac;
    unsigned  kind, i;

    time = (int64_t) OF(s, 2e5, 2e5, 4e5, 1e6, 1e6, 2e6, 5e6);
    time = time < 4 * c->rtt ? 4 * c->rtt : time;
    time = (int64_t) ((double) time * between(s, .9, 1.1));
    kind = rnd(s, 5);
    lo = hi = 1;

    if (kind == 2) {
        lo = 0;
        hi = rnd(s, 2) ? 3 : 10;

    } else if (kind > 2) {
        lo = 5 + rnd(s, 36);
        hi = 40 + rnd(s, 261);
    }

    ac = account(c, "LLLDA"[rnd(s, 5)], lo, hi, time);
    ac->settle = settle && kind > 2;
    ac->above = chance(s, .6);

    need *= (double) (lo + hi) / 2;
    f = OF(s, .1, .3, .6, .8, .9, 1, 1.1, 1.5, 3);

    if (chance(s, .12)) {
        burst = (uint64_t) (need * secs * between(s, .2, 1.2));
        ac->versions[0].limits[0] = bucket(0, 1, burst > hi ? burst : hi);
        return;
    }

    /* a limit, or several that share what is out */

    for (i = 0; i < (rnd(s, 3) ? 1 : 3); i++) {
        p = OF(s, 1e6, 1e6, 60e6, 3600e6);
        r = need * f * (i ? between(s, .8, 1.5) : 1);
        n = (uint64_t) (r * p / SECOND);
        burst = (uint64_t) (r * OF(s, .05, .2, .5, 1, 2, 5));
        ac->versions[0].limits[i] = bucket(n ? n : 1, (uint64_t) p,
                                           burst > hi ? burst : hi);
    }
}


void
random_faults(cfg_t *c, uint64_t *s, int64_t end, int heavy)
{
    int      i, n;
    double   T, d;
    fault_e  kind;

    static const fault_e  kinds[] = {
        F_NODE_STOP, F_NODE_STOP, F_WORKER_STOP, F_WORKER_STOP, F_WORKER_KILL,
        F_WORKER_KILL, F_KILL, F_POWER
    };

    n = (int) rnd(s, 13) * heavy;

    for (i = 0; i < n; i++) {
        T = (double) c->accts[rnd(s, c->naccts)].versions[0].time;
        kind = kinds[rnd(s, 8)];
        d = T * (rnd(s, 3) == 0 ? between(s, .01, .3)
                 : rnd(s, 2) ? between(s, .5, 1.5) : between(s, 1.5, 4));

        if (kind == F_NODE_STOP && chance(s, .05)) {
            d = (double) c->horizon * between(s, .5, 2);
        }

        fault(c, (int64_t) rnd(s, end), kind, rnd(s, c->nodes),
              rnd(s, c->workers), (int64_t) d);
    }
}


void
random_network(cfg_t *c, uint64_t *s, bool faults, int heavy)
{
    c->drift = chance(s, .8);

    if (faults) {
        c->lossq = OF(s, 0, .005, .02) * heavy;
        c->lossr = OF(s, 0, .005, .02) * heavy;
        c->spike = OF(s, 0, .002, .02) * heavy;
        c->die = OF(s, 0, .0003) * heavy;
        c->stop = OF(s, 0, .0005) * heavy;
    }
}


void
finish_times(cfg_t *c, uint64_t *s)
{
    uint64_t  T;

    T = longest(c);
    c->horizon = (uint64_t) OF(s, 40, 200) * T;

    if (c->horizon < 200 * (uint64_t) c->rtt) {
        c->horizon = 200 * c->rtt;
    }

    c->drain = 400 * T;
    c->drain = c->drain > 3 * (int64_t) c->horizon ? c->drain
                                                   : 3 * (int64_t) c->horizon;
    c->drain = c->drain > 80000000 ? c->drain : 80000000;
}


void
random_shape(cfg_t *c, uint64_t *s)
{
    c->nodes = (int) OF(s, 2, 2, 3, 4, 6, 8, 12, 16);
    c->workers = (int) OF(s, 1, 2, 4);
    c->rtt = (int64_t) (200 * pow(250, unit(s)));
    c->tau = (int64_t) ((double) c->rtt * OF(s, 3, 5, 10, 20));
    c->long_runs = true;
}


void
config_random(cfg_t *c, uint64_t seed, int n, bool stress)
{
    int         i, k, m, nkeys, size, own, heavy;
    bool        settle;
    double      rate, secs;
    uint64_t    s;
    pulse_t     pulse = { 0, 0, 0, 0 };
    key_list_t  keys[8];

    s = begin(c, seed);
    heavy = stress ? 3 : 1;
    random_shape(c, &s);

    rate = OF(&s, 20, 60, 200, 600, 2000, 5000);
    settle = chance(&s, .65) || stress;
    n = (int) ((double) n * between(&s, .6, 1.4));
    secs = n / rate;
    nkeys = 1 + (int) rnd(&s, 5);
    size = 2 + (int) rnd(&s, 5);
    own = 1 + (int) rnd(&s, size - 1 < 2 ? 1 : 2);

    for (i = 0; i < own; i++) {
        random_account(c, &s, rate, secs, settle);
    }

    for (k = 0; k < nkeys; k++) {
        keys[k].n = own;
        m = rnd(&s, 2) ? size - own : 1 + (int) rnd(&s, size - own);

        for (i = 0; i < own; i++) {
            keys[k].accts[i] = i;
        }

        for (i = 0; i < m && c->naccts < ACCOUNTS; i++) {
            keys[k].accts[keys[k].n++] = c->naccts;
            random_account(c, &s, rate / nkeys, secs, settle);
        }
    }

    if (rnd(&s, 2) || stress) {
        pulse.every = (int64_t) OF(&s, 4e5, 2e6, 5e6);
        pulse.high = OF(&s, 4, 9);
        pulse.on = pulse.every / 10;
        pulse.low = (1 - pulse.high * .1) / .9;
        pulse.low = pulse.low < .02 ? .02 : pulse.low;
    }

    poisson(c, &s, rate, n, keys, nkeys, OF(&s, 0, 0, .7, 1.2), &pulse,
            chance(&s, .08));
    finish_times(c, &s);

    m = chance(&s, .8) || stress;
    random_network(c, &s, m, heavy);

    if (m) {
        random_faults(c, &s, c->arrivals[c->narrivals - 1].t - START, heavy);
    }
}


void
config_clean(cfg_t *c, const clean_t *k)
{
    int         i;
    uint64_t    s, r;
    pulse_t     pulse = { 0, 0, 0, 0 };
    key_list_t  key;

    static const double  other[] = { 1, 1.3, 2, 1.1, 5, 1.05 };

    s = begin(c, 1);
    c->nodes = k->nodes;
    c->workers = 2;
    c->rtt = k->rtt;
    c->tau = 20 * k->rtt;
    c->lossr = k->loss ? .02 : 0;
    c->horizon = 1000000000;
    c->drain = 100000000;
    c->ref = true;
    key.n = k->naccts;

    for (i = 0; i < k->naccts; i++) {
        r = k->other ? (uint64_t) (k->rate * other[i]) : (uint64_t) k->rate;
        account(c, k->modes[i], 1, 1, k->time)->versions[0].limits[0] =
            bucket(r, 1000000, k->burst ? k->burst : r);
        key.accts[i] = i;
    }

    if (k->pulses) {
        pulse = (pulse_t) { 2000000, 200000, 8, .2 };
    }

    poisson(c, &s, k->rate * k->load, k->n, &key, 1, k->skew, &pulse, false);
}
