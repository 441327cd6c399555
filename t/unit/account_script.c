
/*
 * LEASE and TAKE in a real Redis against limit/account.c: random limits of
 * all kinds, edits, calendars, failovers, settlements out of order, clocks
 * that jump, values spoiled, lost or gone; each reply and each value written
 * must be what the C arithmetic says, to the byte.
 *
 * Starts a redis-server of its own on a socket in a private directory.  The
 * script's clock is replaced by an argument, all else is the text as shipped.
 */


#define _GNU_SOURCE

#include <time.h>

#include "redis.h"
#include "account_random.h"
#include "account_pack.h"
#include "account_load.h"


#define ROUNDS  12000
#define CALM    8000         /* more, undisturbed */


static unsigned  granted, taken, refused, lost, most, levels, gone;
static unsigned  calls[2], plain[2];         /* of calm(): TAKE, LEASE */


static long
evalsha(const char *sha, unsigned op, unsigned n, const unsigned *which,
    char arg[][1024], const size_t *size, char *reply)
{
    char         clock[32], head[56], keys[ACCOUNTS], count[] = { '0' + n, 0 };
    size_t       len[6 + 2 * ACCOUNTS] = { 7, 40, 1 };
    unsigned     i;
    const char  *argv[6 + 2 * ACCOUNTS] = { "EVALSHA", sha, count };

    put(put(put(put_epoch(head, op), emptied), complete), made);

    argv[3 + n] = head;
    len[3 + n] = sizeof(head);

    for (i = 0; i < n; i++) {
        keys[i] = 'a' + which[i];
        argv[3 + i] = &keys[i];
        len[3 + i] = 1;
        argv[4 + n + i] = arg[i];
        len[4 + n + i] = size[i];
    }

    argv[4 + 2 * n] = "marker";
    len[4 + 2 * n] = 6;
    argv[5 + 2 * n] = clock;
    len[5 + 2 * n] = sprintf(clock, "%llu", (unsigned long long) now);

    command(6 + 2 * n, argv, len);

    return answer(reply);
}


static void
check_levels(const char **p, const account_t *a, uint64_t need)
{
    unsigned                       i;
    const apikey_account_level_t  *l;

    for (i = 0; i < a->nlimits; i++) {
        l = apikey_account_level(&a->value, a->limits[i].id);

        same("used", get(p), l ? l->used : APIKEY_ACCOUNT_MAX);
        same("at", get(p), l ? apikey_account_when(&a->value, l,
                                                   &a->limits[i], need)
                             : now);
    }
}


static void
lease(const char *sha, unsigned which)
{
    char                     arg[1][1024], reply[1024];
    long                     n;
    size_t                   size[1];
    const char              *p;
    account_t               *a = &accounts[which];
    apikey_account_ask_t     ask;
    apikey_account_call_t    call;
    apikey_account_grant_t   g;

    random_call(a, &call);
    random_ask(a, &call, &ask);
    size[0] = pack_call(arg[0], a, &call, &ask);

    lost += a->value.epoch != epoch;
    apikey_account_lease(&a->value, &call, &ask, now, &g);
    a->value.dirty = false;
    granted += g.granted != 0;

    n = evalsha(sha, 1, 1, &which, arg, size, reply);
    p = reply;

    if (n < 16 + 72) {
        fail("reply of %ld bytes: %.*s", n, (int) (n < 200 ? n : 200), reply);
    }

    same("taken", get(&p), 1);
    same("now", get(&p), now);
    same("granted", get(&p), g.granted);
    same("generation", get(&p), g.generation);
    same("born", get(&p), g.born);
    same("era", get(&p), g.era);
    same("active", get(&p), g.active);
    same("hold", get(&p), g.hold);
    same("life", get(&p), g.life);
    same("kept", get(&p), g.kept);
    same_sum("out", &p, a->value.out[0], a->value.out[1]);
    check_levels(&p, a, 0);
    same("size of the reply", n, p - reply);

    check_value(which, true);
}


static void
take(const char *sha, unsigned count)
{
    char                    arg[ACCOUNTS][1024], reply[2048];
    bool                    yes, write[ACCOUNTS], whole[ACCOUNTS];
    long                    n;
    size_t                  size[ACCOUNTS];
    unsigned                i, which[ACCOUNTS];
    const char             *p;
    apikey_account_t        before[ACCOUNTS], *v;
    apikey_account_call_t   call[ACCOUNTS];

    yes = true;

    for (i = 0; i < count; i++) {
        which[i] = i;
        v = &accounts[i].value;
        before[i] = *v;
        accounts[i].cost = rnd(4) ? rnd(6) : rnd(2000);

        if (rnd(6) == 0) {
            accounts[i].cost = rnd(3) ? APIKEY_ACCOUNT_WHOLE
                                      : APIKEY_ACCOUNT_MAX;
        }

        if (quiet && rnd(20)) {
            accounts[i].cost = 1 + rnd(3);
        }

        whole[i] = accounts[i].cost == APIKEY_ACCOUNT_WHOLE;

        random_call(&accounts[i], &call[i]);
        size[i] = pack_call(arg[i], &accounts[i], &call[i], NULL);

        yes &= apikey_account_fits(v, &call[i], &accounts[i].cost, now);
    }

    taken += yes;
    refused += !yes;

    n = evalsha(sha, 0, count, which, arg, size, reply);
    p = reply;

    if (n < 16) {
        fail("reply of %ld bytes: %.*s", n, (int) (n > 0 ? n : 0), reply);
    }

    same("taken", get(&p), yes);
    same("now", get(&p), now);

    for (i = 0; i < count; i++) {
        v = &accounts[i].value;

        if (yes) {
            apikey_account_pay(v, &call[i], accounts[i].cost);
        }

        same("era", get(&p), v->era);
        same_sum("out", &p, v->out[0], v->out[1]);
        same("cost", get(&p), accounts[i].cost);
        check_levels(&p, &accounts[i], whole[i] && accounts[i].cost == 0
                                       ? 1 : accounts[i].cost);

        write[i] = v->dirty || (yes && accounts[i].cost);
        v->dirty = false;

        if (!write[i]) {
            *v = before[i];
        }

        check_value(i, write[i]);
    }

    same("size of the reply", n, p - reply);
}


/* Another value, or none; what is no value of ours is unknown. */

static void
spoil(unsigned i)
{
    char               raw[RAW], key[2] = { 'a' + i, 0 };
    long               n;
    size_t             k, len[3] = { 3, 1 };
    const char        *argv[3] = { "SET", key, raw };
    apikey_account_t  *v = &accounts[i].value;

    n = v->state == APIKEY_ACCOUNT_PRESENT ? run(raw, 2, "GET", key) : 0;

    if (rnd(3) == 0 || n < 96) {
        run(raw, 2, "DEL", key);
        memset(v, 0, sizeof(*v));
        return;
    }

    if (v->nlevels && v->levels[0].tick == APIKEY_ACCOUNT_ROLLING
        && rnd(2))
    {
        /* its log: how many, when, how much */

        k = v->levels[0].log.n ? rnd(3) : 0;
        memset(raw + 96 + 56 + 8 * k, rnd(2) ? 0xff : 0x01, 8);
        goto spoilt;
    }

    switch (rnd(6)) {
    case 0:
        run(raw, 2, "DEL", key);
        run(raw, 3, "LPUSH", key, "x");
        goto unreadable;
    case 1:
        n = rnd(100);
        memset(raw, 'x', 100);
        break;
    case 2:
        raw[rnd(8)] ^= 1 + rnd(255);
        break;
    case 3:
        n -= 1 + rnd(90);
        break;
    case 4:
        raw[8 + 7 + 8 * rnd(11)] = (char) 0xff;
        break;
    default:
        memset(raw + 8 + 8 * rnd(11), 0xff, 8);
    }

spoilt:

    len[2] = n;
    command(3, argv, len);
    answer(raw);

unreadable:

    memset(v, 0, sizeof(*v));
    v->state = APIKEY_ACCOUNT_UNREADABLE;
}


/* op 2: since when a primary is the one that nodes speak with. */

static void
epochs(const char *sha)
{
    char         reply[64], head[56] = "", clock[32];
    size_t       len[6] = { 7, 40, 1, 1, sizeof(head), 0 };
    unsigned     i;
    uint64_t     should;
    const char  *p, *argv[6] = { "EVALSHA", sha, "1", "e", head, clock };

    static const uint64_t  ids[] = { 77, 77, 88, 88, 77 };

    for (i = 0, should = 0; i < 5; i++) {
        should = i && ids[i] != ids[i - 1] ? now + i : should;

        put(put(put(put(head, 2), ids[i]), 0), 0);
        len[5] = sprintf(clock, "%llu", (unsigned long long) now + i);

        command(6, argv, len);
        same("size", answer(reply), 8);

        p = reply;
        same("since", get(&p), should);
    }
}


/* Undisturbed, until the log of a rolling window has no place left. */

static void
rolling(const char *sha)
{
    unsigned  i, k, round;

    hoards = true;

    for (i = 0; i < 2; i++) {
        edit(&accounts[i]);
        accounts[i].nlimits = 2;

        for (k = 0; k < 2; k++) {
            memset(&accounts[i].limits[k], 0, sizeof(accounts[i].limits[k]));
            accounts[i].limits[k].id = i + 7 * k + rnd(1000);
            random_rolling(&accounts[i].limits[k], k ? 65537 : 60,
                           rnd(2) ? 3600000000 : 60000000);
        }
    }

    for (round = 0; round < 300; round++) {
        now += rnd(rnd(5) ? 1000000 : 50000000);

        if (rnd(4)) {
            take(sha, ACCOUNTS);

        } else {
            lease(sha, rnd(2));
        }
    }
}


/* What went on to the functions. */

static void
count_plain(void)
{
    char      key[] = "general0", text[64];
    long      n;
    unsigned  op;

    for (op = 0; op < 2; op++) {
        key[7] = '0' + op;
        n = run(text, 2, "GET", key);
        text[n > 0 ? n : 0] = '\0';
        plain[op] = calls[op] - atoi(text);
    }
}


static void
calm(const char *sha)
{
    unsigned  i, op, round;

    quiet = true;
    emptied = made = 0;
    complete = APIKEY_ACCOUNT_MAX;

    for (round = 0; round < CALM; round++) {
        now += rnd(rnd(3) ? 50000 : rnd(10) ? 5000000 : 100000000);
        now += rnd(100) ? 0 : rnd(86400000000);
        now -= rnd(50) ? 0 : rnd(3000000);

        if (rnd(300) == 0) {
            epoch--;
            since = now - rnd(rnd(2) ? 100 : 20000000);
            moved = rnd(3) ? 0 : since + 1000000;
        }

        for (i = 0; i < ACCOUNTS; i++) {

            if (round == 0 || rnd(400) == 0) {
                plain_limits(&accounts[i]);
            }

            if (round == 0 || rnd(1000) == 0) {
                spoil(i);
            }
        }

        op = rnd(2);
        calls[op]++;

        if (op) {
            lease(sha, rnd(ACCOUNTS));

        } else {
            take(sha, 1 + rnd(rnd(2) ? ACCOUNTS : 1));
        }
    }

    quiet = false;

    count_plain();
}


/* As many slots as there may be, and requests that still run in more. */

static void
brim(const char *sha)
{
    unsigned  round;

    account_t  *a = &accounts[2];

    anew(2);
    edit(a);

    a->nlimits = 1;
    a->limits[0].rate.token = 1;
    a->limits[0].rate.capacity = APIKEY_ACCOUNT_MAX;

    for (round = 0; round < 200; round++) {
        now += rnd(1000000);

        if (rnd(20) == 0) {
            epoch--;
            since = now - rnd(100);
        }

        lease(sha, 2);
    }

    anew(2);
    edit(a);
}


/* More nodes in one lease time than there are places for. */

static void
crowded(const char *sha)
{
    unsigned  n, round;

    crowd = true;
    quiet = true;

    anew(0);
    large_limit(&accounts[0]);

    for (round = 0;
         round < 400 || (most < APIKEY_ACCOUNT_NODES && round < 8000);
         round++)
    {
        now += rnd(rnd(50) ? 10000 : 3000000);

        lease(sha, 0);

        n = accounts[0].value.nnodes;
        most = n > most ? n : most;
    }

    crowd = false;
    quiet = false;
}


/* More limits, one after another, than there are places for. */

static void
renamed(const char *sha)
{
    unsigned                 i, n, round;
    const apikey_account_t  *v;

    ids = 10 * APIKEY_ACCOUNT_LEVELS;

    for (round = 0; round < 1500; round++) {
        now += rnd(rnd(5) ? 3000000 : 500000000);

        for (i = 0; i < ACCOUNTS; i++) {
            edit(&accounts[i]);
        }

        v = &accounts[round % ACCOUNTS].value;
        n = v->nlevels;

        if (rnd(3)) {
            lease(sha, round % ACCOUNTS);

        } else {
            take(sha, ACCOUNTS);
        }

        gone += v->nlevels < n;
        levels = n > levels ? n : levels;
    }

    ids = IDS;

    /* what comes after begins anew */

    for (i = 0; i < ACCOUNTS; i++) {
        anew(i);
        edit(&accounts[i]);
    }
}


int
main(int argc, char **argv)
{
    char      sha[256], text[64];
    unsigned  i, round;

    seed = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t) time(NULL);

    start();
    load(sha);

    now = 1795217207537822;
    epoch = 0xfffffffffffff;
    since = 0;

    epochs(sha);

    for (i = 0; i < ACCOUNTS; i++) {
        accounts[i].slots = i == 2;
        edit(&accounts[i]);
    }

    for (round = 0; round < ROUNDS; round++) {
        step();

        if (rnd(2000) == 0) {
            run(sha, 2, "SCRIPT", "FLUSH");
            load(sha);
        }

        if (rnd(300) == 0) {
            epoch--;
            since = now - rnd(rnd(2) ? 100 : 20000000);
            moved = rnd(3) ? 0 : since + 1000000;
        }

        if (rnd(30) == 0) {
            mark();
        }

        for (i = 0; i < ACCOUNTS; i++) {

            if (rnd(60) == 0) {
                edit(&accounts[i]);
            }

            if (rnd(20) == 0) {
                random_limit(&accounts[i].limits[rnd(accounts[i].nlimits)],
                             accounts[i].slots);
            }

            if (rnd(200) == 0) {
                spoil(i);
            }
        }

        if (rnd(3)) {
            lease(sha, rnd(ACCOUNTS));

        } else {
            take(sha, ACCOUNTS);
        }
    }

    brim(sha);

    run(text, 3, "DEL", "general0", "general1");

    for (i = 0; i < 1 || (i < 5 && (plain[0] < 50 || plain[1] < 50)); i++) {
        calm(sha);
    }

    crowded(sha);
    renamed(sha);

    for (i = 0; i < 5 || (full < 20 && i < 50); i++) {
        rolling(sha);
    }

    if (granted < 400 || taken < 200 || refused < 200 || lost < 10
        || logs < 400 || full < 20 || plain[0] < 50 || plain[1] < 50
        || most < APIKEY_ACCOUNT_NODES || charges < 100
        || levels < APIKEY_ACCOUNT_LEVELS || gone < 10)
    {
        fail("granted %u, taken %u, refused %u, lost %u, logs %u, full %u, "
             "plain %u and %u, nodes %u, charges %u, levels %u, gone %u",
             granted, taken, refused, lost, logs, full, plain[0], plain[1],
             most, charges, levels, gone);
    }

    printf("%u rounds; plain: %u of %u TAKE, %u of %u LEASE; seed %llu\n",
           round, plain[0], calls[0], plain[1], calls[1],
           (unsigned long long) seed);

    return 0;
}
