
/*
 * What leases cost and save, without faults: admissions against one exact
 * bucket for all nodes, requests decided without waiting, calls.
 */


#include "sim.h"


static void
line(const char *name, clean_t k)
{
    cfg_t    *c;
    world_t  *w;
    stats_t  *st;

    c = malloc(sizeof(cfg_t));
    w = calloc(1, sizeof(world_t));

    k.nodes = k.nodes ? k.nodes : 8;
    k.n = k.n ? k.n : 40000;
    k.rtt = k.rtt ? k.rtt : 500;
    k.time = k.time ? k.time : 1000000;
    k.load = k.load > 0 ? k.load : .9;
    k.modes = k.modes ? k.modes : "LLLLLL";

    config_clean(c, &k);
    world_run(w, c, AB_NONE);
    st = &w->st;

    printf("| %s, %d account%s | %+.2f %% | %.2f %% | %.0f |%s\n", name,
           k.naccts, k.naccts == 1 ? "" : "s",
           100 * ((double) st->admitted - (double) st->ref)
           / (double) (st->ref ? st->ref : 1),
           100 * (double) st->nowait / (double) st->requests,
           1000 * (double) st->calls / (double) st->requests,
           st->over ? " EXCESS" : "");

    fflush(stdout);
    judge_free(w);
    config_free(c);
    free(w);
    free(c);
}


#define CLEAN(...)  (clean_t) { __VA_ARGS__ }


void
figures(void)
{
    int   i, r, n;
    char  name[64];

    static const int  accts[] = { 1, 3, 6 }, rates[] = { 100, 1000, 10000 };

    printf("| run | admitted | no wait | calls/1000 |\n|---|---|---|---|\n");

    for (i = 0; i < 9; i++) {
        r = rates[i / 3];
        n = r * 40 > 60000 ? 60000 : r * 40;
        snprintf(name, sizeof(name), "%d/s", r);
        line(name, CLEAN(.rate = r, .naccts = accts[i % 3], .n = n));
    }

    for (i = 0; i < 2; i++) {
        n = accts[i];

        line("1000/s, RTT 10 ms", CLEAN(.rate = 1000, .naccts = n,
                                        .rtt = 10000));
        line("1000/s, 2 % of replies lost", CLEAN(.rate = 1000, .naccts = n,
                                                  .loss = true));
        line("1000/s, burst 200", CLEAN(.rate = 1000, .naccts = n,
                                        .burst = 200));
        line("1000/s, 3 x overload", CLEAN(.rate = 1000, .naccts = n,
                                           .load = 3));
        line("1000/s, pulses of 8 x", CLEAN(.rate = 1000, .naccts = n,
                                            .load = 1, .pulses = true));
        line("1000/s, pulses, lease 0.2 s", CLEAN(.rate = 1000, .naccts = n,
                                                  .load = 1, .pulses = true,
                                                  .time = 200000));
    }

    line("1000/s, 2 leased, 1 direct", CLEAN(.rate = 1000, .naccts = 3,
                                             .modes = "LLD"));
    line("1000/s, 3 direct", CLEAN(.rate = 1000, .naccts = 3,
                                   .modes = "DDD"));
}
