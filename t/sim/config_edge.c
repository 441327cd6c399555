
/*
 * Configurations that look for trouble at the end of leases.
 */


#include "config.h"


/*
 * A pause or a loss of about one lease, late spending, then a drain by nodes
 * that are direct on the same account: late tokens show in the bucket.
 */

void
config_edge(cfg_t *c, uint64_t seed)
{
    int       i, j, node, worker, m, key;
    bool      own, tight;
    double    T, p;
    int64_t   t, at, d, span;
    uint64_t  s, r, B, hi;

    static const key_list_t  keys[] = {
        { 1, { 0 } }, { 2, { 0, 2 } }, { 2, { 2, 0 } }
    };

    s = begin(c, seed + 1000000);
    c->nodes = (int) OF(&s, 2, 2, 4);
    c->workers = (int) OF(&s, 1, 2);
    T = OF(&s, 2e5, 4e5, 1e6);
    c->rtt = (int64_t) (T * between(&s, .003, .04));
    c->tau = (int64_t) (T * OF(&s, .3, 1, 4));
    c->tau = c->tau < 3 * c->rtt ? 3 * c->rtt : c->tau;
    c->long_runs = true;
    c->drift = true;
    c->lossq = OF(&s, 0, .05, .25);
    c->lossr = OF(&s, 0, .05, .2);
    c->spike = OF(&s, 0, .03, .2);
    c->die = OF(&s, 0, .003);
    c->stop = OF(&s, 0, .02);
    c->horizon = 30 * (uint64_t) T;
    c->drain = 900 * (int64_t) T;

    B = one_of(&s, 3, (double[]) { 60, 120, 200 });
    r = (uint64_t) ((double) B * OF(&s, .15, .4, 1) * 1e6 / T);
    hi = one_of(&s, 3, (double[]) { 1, 1, 3 });
    own = chance(&s, .6);
    tight = rnd(&s, 2);

    account(c, 'M', 1, hi, T)->settle = own;
    c->accts[0].versions[0].limits[0] = bucket(r, 1000000, B);
    account(c, 'D', 1, hi, T);
    c->accts[1].versions[0].limits[0] = bucket(r, 1000000, 2 * B);
    account(c, 'D', 1, hi, T)->settle = own;
    c->accts[2].versions[0].limits[0] =
        bucket(tight ? r : 20 * r, 1000000, tight ? B / 3 : 20 * B);

    for (i = 0, t = 0; i < 25; i++) {
        node = 2 * (int) rnd(&s, c->nodes / 2);
        m = (int) OF(&s, 5, 20, 40);
        worker = rnd(&s, c->workers);
        key = rnd(&s, 3);

        for (j = 0; j < m; j++) {
            add(c, t + rnd(&s, T / 10), node, worker, keys[key].n,
                keys[key].accts);
        }

        span = (int64_t) (T * (rnd(&s, 3) == 0 ? between(&s, .4, .95)
                               : rnd(&s, 2) ? between(&s, .9, 1.1)
                               : between(&s, 1.1, 3.5)));
        p = unit(&s);
        at = t + (int64_t) T / 10 + rnd(&s, c->rtt * 6);

        if (p < .6) {
            fault(c, at, rnd(&s, 2) ? F_NODE_STOP : F_WORKER_STOP, node,
                  worker, span);
        }

        m = rnd(&s, 3) ? m : 0;

        for (j = 0; j < m; j++) {
            add(c, p > .6 ? t + (int64_t) (T * between(&s, .1, .9))
                          : at + (int64_t) rnd(&s, span), node,
                rnd(&s, c->workers), keys[key].n, keys[key].accts);
        }

        if (chance(&s, .3)) {
            fault(c, t + (int64_t) (T * between(&s, .2, 1.2)),
                  (fault_e[]) { F_WORKER_KILL, F_KILL, F_POWER }[rnd(&s, 3)],
                  node, worker, (int64_t) (.1 * T));
        }

        d = t + (int64_t) (T * between(&s, .5, 6));
        span = (int64_t) (T * OF(&s, .03, .2));
        m = (int) (1.5 * (double) B / ((1 + (double) hi) / 2));

        for (j = 0; j < m; j++) {
            add(c, d + rnd(&s, span), rnd(&s, c->nodes) | 1, 0, 1,
                keys[0].accts);
        }

        t += (int64_t) (T * between(&s, 6, 20));
    }

    qsort(c->arrivals, c->narrivals, sizeof(arrival_t), by_time);
}


/*
 * Large costs, slow refill: spent at the end of a pause, a kill, a drain at
 * the write-off and a trickle after it.
 */

void
config_late(cfg_t *c, uint64_t seed)
{
    int       i, j, key, m;
    double    T;
    int64_t   t, t0, at, p, d;
    uint64_t  s, r, hi, B;

    static const int  both[] = { 0, 1 }, second[] = { 1 };

    s = begin(c, seed + 2000000);
    c->nodes = 2;
    c->workers = (int) OF(&s, 1, 2);
    T = 1e6;
    B = 200;
    c->rtt = (int64_t) (T * between(&s, .001, .01));
    c->tau = (int64_t) OF(&s, 20 * (double) c->rtt, T / 2, 4 * T);
    c->long_runs = true;
    c->drift = true;
    c->lossq = OF(&s, 0, .1, .3);
    c->lossr = OF(&s, 0, .1);
    c->stop = OF(&s, 0, .01);
    c->horizon = 60 * (uint64_t) T;
    c->drain = 200 * (int64_t) T;
    r = one_of(&s, 3, (double[]) { 8, 20, 60 });
    hi = one_of(&s, 3, (double[]) { 1, 20, 20 });

    account(c, 'M', hi, hi, T);
    c->accts[0].versions[0].limits[0] = bucket(r, 1000000, B);
    account(c, 'D', hi, hi, T)->settle = true;
    c->accts[1].versions[0].limits[0] = bucket(r, 1000000, B);

    for (i = 0, t = (int64_t) T; i < 25; i++) {
        key = rnd(&s, 3) ? 2 : 1;
        m = (int) (hi == 1 ? OF(&s, 3, 8, 20) : OF(&s, 1, 2, 4));
        t0 = t + rnd(&s, T);

        for (j = 0; j < m; j++) {
            add(c, t0 + rnd(&s, 5000), 0, 0, 1, both);
        }

        at = t0 + 5000 + 2 * c->rtt + rnd(&s, 4 * c->rtt);
        p = (int64_t) (T * (rnd(&s, 3) ? between(&s, .5, .96)
                                       : between(&s, 1, 3)));
        m = rnd(&s, 2) ? 1 : m;

        for (j = 0; j < m; j++) {
            add(c, rnd(&s, 2) ? at - (int64_t) rnd(&s, c->rtt)
                              : at + (int64_t) rnd(&s, p), 0, c->workers - 1,
                key, both);
        }

        fault(c, at, rnd(&s, 3) ? F_NODE_STOP : F_WORKER_STOP, 0,
              c->workers - 1, p);

        if (rnd(&s, 2)) {
            fault(c, at + p, rnd(&s, 2) ? F_KILL : F_WORKER_KILL, 0,
                  c->workers - 1, 1000);
        }

        switch (rnd(&s, 3)) {
        case 0:
            d = ((START + t0) / (int64_t) T + 2) * (int64_t) T - START
                + rnd(&s, 20000);
            break;
        case 1:
            d = at + p - (int64_t) rnd(&s, T / 4);
            break;
        default:
            d = at + p + (int64_t) rnd(&s, T);
        }

        m = (int) (1.3 * (double) B / (double) hi);

        for (j = 0; j < m; j++) {
            add(c, d + rnd(&s, 30000), 1, 0, 1, both);
            add(c, d + rnd(&s, 30000), 1, 0, 1, second);
        }

        for (j = 0; j < 60; j++) {
            add(c, d + 30000 + rnd(&s, 3 * T), 1, 0, 1,
                rnd(&s, 2) ? both : second);
        }

        for (j = 0; j < 4; j++) {
            add(c, d + 30000 + rnd(&s, T), 0, 0, 1, both);
        }

        t = d + (int64_t) (T * between(&s, 1.2, 1.6) * (double) (B / r));
    }

    qsort(c->arrivals, c->narrivals, sizeof(arrival_t), by_time);
}


/*
 * A primary dies while a node holds much and spends nothing; its bucket is
 * full again before that lease has ended or been renewed.  Then all comes at
 * once: what the node holds, and what direct nodes find in Redis.
 */

void
config_lost(cfg_t *c, uint64_t seed)
{
    int       i, j;
    double    T, fill;
    int64_t   t, at, d, span;
    uint64_t  s, r, B;

    static const int  one[] = { 0 };

    s = begin(c, seed + 7000000);
    c->nodes = (int) OF(&s, 2, 2, 4);
    c->workers = (int) OF(&s, 1, 2);
    T = OF(&s, 4e5, 1e6);
    c->rtt = (int64_t) (T * between(&s, .001, .01));
    c->tau = (int64_t) (T * OF(&s, .1, 1));
    c->long_runs = true;
    c->drift = rnd(&s, 2);
    c->horizon = 60 * (uint64_t) T;
    c->drain = 200 * (int64_t) T;
    B = one_of(&s, 3, (double[]) { 60, 120, 200 });
    fill = T * OF(&s, .05, .1, .2, .5);
    r = (uint64_t) ((double) B * SECOND / fill);

    account(c, 'M', 1, 1, T)->settle = rnd(&s, 2);
    c->accts[0].versions[0].limits[0] = bucket(r, 1000000, B);

    for (i = 0, t = 0; i < 20; i++) {

        for (j = 0; j < (int) B; j++) {
            add(c, t + rnd(&s, T / 2), 0, rnd(&s, c->workers), 1, one);
        }

        at = t + (int64_t) (T * between(&s, .5, .8));
        fault(c, at, F_SNAPSHOT, 0, 0, 0);
        at += (int64_t) OF(&s, 0, 1e3);
        fault(c, at, F_DEAD, 0, 0, 0);
        at += (int64_t) OF(&s, 1, 1e3, 1e4);
        fault(c, at, F_FAILOVER, 0, 0, 0);

        /* somebody comes first, and finds nothing */

        add(c, at + 2 * c->rtt, 1, 0, 1, one);

        d = at + 3 * c->rtt + (int64_t) (fill * between(&s, .8, 1.5));
        span = (int64_t) (T * OF(&s, .005, .02));

        for (j = 0; j < 2 * (int) B; j++) {
            add(c, d + rnd(&s, span), rnd(&s, c->nodes), 0, 1, one);
        }

        t += (int64_t) (T * between(&s, 6, 12));
    }

    qsort(c->arrivals, c->narrivals, sizeof(arrival_t), by_time);
}
