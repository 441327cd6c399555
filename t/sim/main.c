
/*
 * sim check RUNS SIZE [JOBS [FIRST]]    RUNS of each family; TAP
 * sim ablations RUNS SIZE [JOBS]         each rule dropped must be caught; TAP
 * sim table RUNS SIZE [JOBS]             ... by which judges, in all families
 * sim figures                           what leases cost and save
 * sim run FAMILY SEED SIZE [ABLATION]   one run again
 *
 * SIZE: requests of a run, about.  All follows from the seeds.
 */


#include <sys/wait.h>
#include <unistd.h>

#include "sim.h"


typedef struct {
    uint64_t   runs, requests, admitted, calls, unquiet;
    uint64_t   bucket, quota, slots, late, conserve, ledger, order, twice;
    uint64_t   early;
    uint64_t   crashes, stops, held, old, epochs, moves, first;
    double     debt;
} total_t;


typedef struct {
    const char  *name;
    void       (*make)(cfg_t *c, uint64_t seed, int n);
} family_t;


static void
plain(cfg_t *c, uint64_t seed, int n)
{
    config_random(c, seed, n, false);
}


static void
stress(cfg_t *c, uint64_t seed, int n)
{
    config_random(c, seed, n, true);
}


static void
edge(cfg_t *c, uint64_t seed, int n)
{
    (void) n;

    config_edge(c, seed);
}


static void
late(cfg_t *c, uint64_t seed, int n)
{
    (void) n;

    config_late(c, seed);
}


static void
lost(cfg_t *c, uint64_t seed, int n)
{
    (void) n;

    config_lost(c, seed);
}


static const family_t  families[] = {
    { "random",   plain },
    { "stress",   stress },
    { "edge",     edge },
    { "late",     late },
    { "edits",    config_edits },
    { "periods",  config_periods },
    { "slots",    config_slots },
    { "failover", config_failover },
    { "lost",     lost },
    { "quotas",   config_quotas },
    { "modes",    config_modes },
    { "rolling",  config_rolling },
    { "budgets",  config_budgets },
    { "cluster",  config_cluster },
    { "alone",    config_alone },
};

#define FAMILIES  (sizeof(families) / sizeof(families[0]))


static const char  *ablations[ABLATIONS] = {
    "none",
    "no capacity rule",
    "expired tokens credited",
    "settled before the refill",
    "settlement by differences, resent",
    "settlement by differences, not resent",
    "TAKE resent",
    "hold put back into a later lease",
    "hold spent after its deadline",
    "holds not counted as kept",
    "no second look at the deadline",
    "TAKE refills to B, not to B - O",
    "write-off before the refill",
    "no number on the sums",
    "unknown entry counts as 0",
    "power loss keeps the node's name",
    "expiry at the time to full",
    "TAKE refunded for a void hold",
    "a dead worker's holds are forgotten",
    "a new limit starts full",
    "leases outlive a new limit",
    "deadlines not cut at the end of a period",
    "settlements of the last period credit this one",
    "failover not noticed",
    "failover: what is out is 0",
    "slots in use not told at renewal",
    "another lease time while tokens are out",
    "trim admits where nothing is left",
    "what comes back of what has left a rolling window",
    "what comes back said again",
    "what is out does not count in a rolling window",
    "a value made by who knew of no use is kept",
    "quotas are leased to their end",
    "what another primary wrote is never lost",
    "a slot moves on that nobody asked for since a failover",
    "charges do not count in a rolling window",
    "charges from before a loss are dropped",
    "each call of a charge has a name of its own",
    "a charge in doubt is charged as any other",
    "a value made when all went is as good as another",
};


static bool
caught(const total_t *t)
{
    return t->bucket || t->quota || t->slots || t->late || t->conserve
           || t->ledger || t->order || t->twice || t->early;
}


static void
sum(total_t *t, const stats_t *st, uint64_t seed)
{
    bool  clean;

    clean = !caught(t);

    t->runs++;
    t->requests += st->requests;
    t->admitted += st->admitted;
    t->calls += st->calls;
    t->unquiet += !st->quiet;
    t->bucket += st->over || st->over_hold || st->over_take;
    t->quota += st->quota != 0;
    t->slots += st->slots != 0;
    t->late += st->late != 0;
    t->conserve += st->conserve != 0;
    t->ledger += st->ledger != 0;
    t->order += st->order != 0;
    t->twice += st->twice != 0;
    t->early += st->early != 0;
    t->crashes += st->crashes;
    t->stops += st->stops;
    t->held += st->held_calls;
    t->old += st->old_holds;
    t->epochs += st->epochs;
    t->moves += st->moves;
    t->debt = st->debt > t->debt ? st->debt : t->debt;

    if (clean && caught(t)) {
        t->first = seed;
    }
}


static void
one(total_t *t, const family_t *f, uint64_t seed, int size, ablation_e ab)
{
    cfg_t    *c;
    world_t  *w;

    c = malloc(sizeof(cfg_t));
    w = calloc(1, sizeof(world_t));

    f->make(c, seed, size);
    world_run(w, c, ab);
    sum(t, &w->st, seed);

    judge_free(w);
    config_free(c);
    free(w);
    free(c);
}


static void
add_total(total_t *t, const total_t *u)
{
    size_t     i;
    uint64_t  *to = &t->runs;

    for (i = 0; i < offsetof(total_t, first) / 8; i++) {
        to[i] += (&u->runs)[i];
    }

    if (u->first && (t->first == 0 || u->first < t->first)) {
        t->first = u->first;
    }

    t->debt = u->debt > t->debt ? u->debt : t->debt;
}


/* Seeds first ... first + runs - 1, by jobs processes. */

static void
batch(total_t *t, const family_t *f, uint64_t first, unsigned runs, int size,
    int jobs, ablation_e ab)
{
    int       i, fd[2], rc;
    total_t   part;
    unsigned  k;

    memset(t, 0, sizeof(*t));

    if (pipe(fd) == -1) {
        exit(2);
    }

    fflush(stdout);

    for (i = 0; i < jobs; i++) {

        if (fork() == 0) {
            memset(&part, 0, sizeof(part));

            for (k = i; k < runs; k += jobs) {
                one(&part, f, first + k, size, ab);
            }

            exit(write(fd[1], &part, sizeof(part)) != sizeof(part));
        }
    }

    for (i = 0; i < jobs; i++) {

        if (wait(&rc) == -1 || rc != 0) {
            printf("Bail out! a run died in %s\n", f->name);
            exit(2);
        }

        if (read(fd[0], &part, sizeof(part)) != sizeof(part)) {
            exit(2);
        }

        add_total(t, &part);
    }

    close(fd[0]);
    close(fd[1]);
}


static void
say(const total_t *t)
{
    printf("# runs %llu, requests %llu, admitted %llu, crashes %llu, stops"
           " %llu, calls with holds %llu, old holds %llu, failovers %llu,"
           " moves %llu, not at rest %llu\n",
           (unsigned long long) t->runs, (unsigned long long) t->requests,
           (unsigned long long) t->admitted, (unsigned long long) t->crashes,
           (unsigned long long) t->stops, (unsigned long long) t->held,
           (unsigned long long) t->old, (unsigned long long) t->epochs,
           (unsigned long long) t->moves, (unsigned long long) t->unquiet);
}


static void
say_caught(const total_t *t)
{
    size_t           i;
    const uint64_t  *n = &t->bucket;

    static const char  *judges[] = {
        "bucket", "quota", "slots", "write-off", "double entry", "ledger",
        "order", "TAKE twice", "refused early"
    };

    printf("#   ");

    for (i = 0; i < 9; i++) {

        if (n[i]) {
            printf(" %s %llu", judges[i], (unsigned long long) n[i]);
        }
    }

    printf(" (at most %.1f tokens; first seed %llu)\n", t->debt,
           (unsigned long long) t->first);
}


static int
check(unsigned runs, int size, int jobs, uint64_t first)
{
    int       failed;
    size_t    i;
    total_t   t;

    failed = 0;

    for (i = 0; i < FAMILIES; i++) {
        batch(&t, &families[i], first, runs, size, jobs, AB_NONE);

        printf("%sok %zu - %s: %llu requests in %llu runs, excess 0\n",
               caught(&t) ? "not " : "", i + 1, families[i].name,
               (unsigned long long) t.requests, (unsigned long long) t.runs);
        say(&t);

        if (caught(&t)) {
            say_caught(&t);
            failed = 1;
        }
    }

    printf("1..%zu\n", FAMILIES);

    return failed;
}


/* The family that shows it soonest; FAMILIES: none is expected to. */

static const unsigned char  shown[ABLATIONS] = {
    [AB_NOCAP] = 0, [AB_EXPIRED] = 3, [AB_SETTLE_FIRST] = 2,
    [AB_DELTA_RESEND] = 7, [AB_DELTA] = 7, [AB_TAKE_RESEND] = 2,
    [AB_RELEASE_LATE] = 2, [AB_HOLD_LATE] = 2, [AB_HOLD_NOT_KEPT] = 6,
    [AB_NO_CONFIRM] = 2, [AB_TAKE_FULL] = 0, [AB_NO_SPLIT] = 3,
    [AB_NO_NUMBER] = 3, [AB_NO_ACK] = 3, [AB_SAME_ID] = 2,
    [AB_SHORT_PX] = 3, [AB_TAKE_REFUND] = 3, [AB_LEAK_DEAD] = FAMILIES,
    [AB_EDIT_REFILLS] = 4, [AB_EDIT_KEEPS] = 4, [AB_STRADDLE] = 5,
    [AB_PART] = 5, [AB_SAME_EPOCH] = 7, [AB_EPOCH_FORGETS] = 8,
    [AB_BUSY] = 6, [AB_TIME] = 9, [AB_TRIM] = 10,
    [AB_ROLL_LATE] = 11, [AB_ROLL_TWICE] = 11, [AB_ROLL_OUT] = 11,
    [AB_UNTOUCHED] = 7, [AB_SCARCE] = 12, [AB_MOVED] = 13,
    [AB_UNASKED] = 13, [AB_ROLL_FREE] = 11,
    [AB_MISSED] = 14, [AB_CHARGE_NAME] = 14,
    [AB_DOUBT] = 14,
    [AB_GONE] = 7,
};


static int
ablate(unsigned runs, int size, int jobs)
{
    int       failed, ab;
    total_t   t;
    uint64_t  seed;

    failed = 0;

    for (ab = 1; ab < ABLATIONS; ab++) {

        if (shown[ab] == FAMILIES) {
            printf("ok %d - not expected to show: %s\n", ab, ablations[ab]);
            continue;
        }

        memset(&t, 0, sizeof(t));

        for (seed = 1; seed <= runs && !caught(&t); seed += 20) {
            batch(&t, &families[shown[ab]], seed, 20, size, jobs, ab);
        }

        printf("%sok %d - caught: %s\n", caught(&t) ? "" : "not ", ab,
               ablations[ab]);
        say_caught(&t);

        failed |= !caught(&t);
    }

    printf("1..%d\n", ABLATIONS - 1);

    return failed;
}


/* All of them in all families: the table of docs/leases.md. */

static void
table(unsigned runs, int size, int jobs)
{
    int      ab;
    size_t   i;
    total_t  t;

    for (ab = 1; ab < ABLATIONS; ab++) {
        printf("%s\n", ablations[ab]);

        for (i = 0; i < FAMILIES; i++) {
            batch(&t, &families[i], 1, runs, size, jobs, ab);

            if (caught(&t)) {
                printf("    %s\n", families[i].name);
                say_caught(&t);
            }
        }
    }
}


int
main(int argc, char **argv)
{
    int          size, jobs;
    size_t       i;
    unsigned     runs;
    total_t      t;
    const char  *m;

    m = argc > 1 ? argv[1] : "check";

    if (strcmp(m, "figures") == 0) {
        figures();
        return 0;
    }

    if (strcmp(m, "run") == 0 && argc > 4) {

        for (i = 0; i < FAMILIES; i++) {

            if (strcmp(families[i].name, argv[2]) == 0) {
                memset(&t, 0, sizeof(t));
                one(&t, &families[i], strtoull(argv[3], NULL, 10),
                    atoi(argv[4]), argc > 5 ? atoi(argv[5]) : AB_NONE);
                say(&t);
                say_caught(&t);
                return caught(&t);
            }
        }

        return 2;
    }

    runs = argc > 2 ? atoi(argv[2]) : 400;
    size = argc > 3 ? atoi(argv[3]) : 2000;
    jobs = argc > 4 ? atoi(argv[4]) : 2;

    if (strcmp(m, "ablations") == 0) {
        return ablate(runs, size, jobs);
    }

    if (strcmp(m, "table") == 0) {
        table(runs, size, jobs);
        return 0;
    }

    return check(runs, size, jobs, argc > 5 ? strtoull(argv[5], NULL, 10)
                                            : 1);
}
