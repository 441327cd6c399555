
/*
 * A Cluster: slots that move, primaries that die, and nodes that change their
 * mode meanwhile.
 */


#include "config.h"


/* One account after the other, as keys of a slot are. */

static void
move(cfg_t *c, uint64_t *s, int64_t t)
{
    int      a, to;
    int64_t  gap;

    to = (int) rnd(s, c->primaries);
    gap = (int64_t) OF(s, 0, 1e3, 5e4);

    for (a = 0; a < c->naccts; a++) {
        fault(c, t + a * gap, F_MOVE, a, to, 0);
    }
}


void
config_cluster(cfg_t *c, uint64_t seed, int n)
{
    int         a, i;
    double      rate, mean, secs;
    int64_t     t;
    uint64_t    s;
    acct_t     *ac;
    pulse_t     pulse;
    key_list_t  key;

    s = begin(c, seed + 12000000);
    random_shape(c, &s);
    c->primaries = 2 + (int) rnd(&s, PRIMARIES - 1);
    rate = OF(&s, 60, 200, 600, 2000);
    secs = n / rate;

    for (a = 1 + (int) rnd(&s, 3); a; a--) {

        if (rnd(&s, 3) == 0) {
            random_quotas(c, &s, rate, secs, false);
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

    for (i = (int) rnd(&s, 4); i; i--) {
        t = (int64_t) ((i + unit(&s)) / 4 * secs * SECOND);
        t = failover(c, &s, t, &pulse, (int) rnd(&s, c->primaries));

        /* what the promoted one has is not its own */

        move(c, &s, t + (int64_t) OF(&s, 1, 1e3, 1e4, 1e6, 2e6));
    }

    for (i = (int) rnd(&s, 6); i; i--) {
        move(c, &s, (int64_t) (unit(&s) * secs * SECOND));
    }

    for (i = (int) rnd(&s, 4); i; i--) {
        fault(c, (int64_t) (unit(&s) * secs * SECOND), F_MODE,
              (int) rnd(&s, c->nodes), 0, 0);
    }
}
