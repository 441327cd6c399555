
/*
 * Configurations of nodes that go on without Redis for a while, of totals; and
 * of a Redis that loses all, or a part, meanwhile.
 */


#include "config.h"


/*
 * What TAKE has paid for when Redis loses its data is known to nobody until
 * it runs: no node stands still for so long that Postgres is asked meanwhile.
 */

static void
short_stops(cfg_t *c)
{
    int      i;
    int64_t  most;

    most = (int64_t) c->accts[0].versions[0].time;

    for (i = 1; i < c->naccts; i++) {
        most = most < (int64_t) c->accts[i].versions[0].time
               ? most : (int64_t) c->accts[i].versions[0].time;
    }

    c->stop = 0;

    for (i = 0; i < c->nfaults; i++) {

        if (c->faults[i].kind <= F_WORKER_STOP
            && c->faults[i].span > most / 4)
        {
            c->faults[i].span = most / 4;
        }
    }
}


/* Away again before it is answered, until Redis has forgotten what it got. */

static void
long_absences(cfg_t *c, uint64_t *s, double secs)
{
    int      i, node;
    int64_t  t, span;

    c->lossr = .3;
    c->horizon = 8 * longest(c);

    for (i = 1 + (int) rnd(s, 3); i; i--) {
        node = (int) rnd(s, c->nodes);
        t = (int64_t) (unit(s) * .6 * secs * SECOND);
        span = (int64_t) (between(s, .01, .2) * secs * SECOND);

        fault(c, t, F_ALONE, node, 0, span);
        fault(c, t + span + (int64_t) (between(s, .5, 2) * (double) c->tau),
              F_ALONE, node, 0,
              (int64_t) (between(s, 1.1, 3) * (double) c->horizon));
    }
}


void
config_alone(cfg_t *c, uint64_t seed, int n)
{
    int         a, i;
    double      rate, mean, secs;
    uint64_t    s, all;
    acct_t     *ac;
    pulse_t     pulse;
    key_list_t  key;

    s = begin(c, seed + 14000000);
    random_shape(c, &s);
    c->alone = true;
    rate = OF(&s, 60, 200, 600);
    secs = n / rate;

    for (a = 1 + (int) rnd(&s, 2); a; a--) {
        ac = some_account(c, &s, "DDLA", &mean);
        ac->settle = false;

        for (i = 0; i < 1 + (int) rnd(&s, 2); i++) {
            all = (uint64_t) (rate * mean * secs * between(&s, .3, 1.2));
            all = all < ac->hi ? ac->hi : all;
            ac->versions[0].limits[i] = quota(TOTAL, all, all, 0, 0);
        }

        if (rnd(&s, 3) == 0) {
            ac->versions[0].limits[i] = some_bucket(&s, rate * mean, ac->hi,
                                                    1000000);
        }
    }

    same_key(&key, c);
    random_pulse(&pulse, &s);
    poisson(c, &s, rate, n, &key, 1, OF(&s, 0, 0, 1), &pulse, false);
    some_faults(c, &s);

    for (i = 1 + (int) rnd(&s, 5); i; i--) {
        fault(c, (int64_t) (unit(&s) * .8 * secs * SECOND), F_ALONE,
              (int) rnd(&s, c->nodes), 0,
              (int64_t) (between(&s, .01, .3) * secs * SECOND));
    }

    i = (int) rnd(&s, 3);

    if (i) {
        short_stops(c);
    }

    for ( ; i; i--) {

        if (rnd(&s, 2)) {
            c->late = true;
            fault(c, (int64_t) (between(&s, .2, .9) * secs * SECOND), F_FLUSH,
                  0, 0, 0);

        } else {
            (void) failover(c, &s,
                            (int64_t) ((i + unit(&s)) / 4 * secs * SECOND),
                            &pulse, 0);
        }
    }

    if (rnd(&s, 4) == 0) {
        long_absences(c, &s, secs);
    }
}
