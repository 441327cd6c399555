
/*
 * TAKE in a real Redis against limit/bucket.c: random limits, edits, limits
 * that go and come back, clocks that jump, spoiled values; each reply must be
 * what the C arithmetic says, to the unit.
 *
 * Starts a redis-server of its own on a socket in a private directory.  The
 * script's clock is replaced by an argument, all else is the text as shipped.
 */


#define _GNU_SOURCE

#include <time.h>

#include "limit/bucket.h"
#include "limit/script_lua.h"
#include "redis.h"


#define ACCOUNTS  3
#define IDS       5
#define ROUNDS    20000


typedef struct {
    uint64_t         id;
    apikey_bucket_t  bucket;
    apikey_rate_t    rate;
    bool             mine;
} entry_t;


typedef struct {
    bool             unknown;
    unsigned         n;
    entry_t          entry[IDS];
} value_t;


typedef struct {
    uint64_t         cost;
    unsigned         n;
    uint64_t         id[IDS];
    apikey_rate_t    rate[IDS];
} account_t;


typedef struct {
    char             key[ACCOUNTS][2];
    char             arg[ACCOUNTS][512];
    size_t           len[ACCOUNTS];
    bool             dirty[ACCOUNTS];
    entry_t         *seen[ACCOUNTS][IDS];
} call_t;


static uint64_t
rnd(uint64_t below)
{
    static uint64_t  state;

    if (state == 0) {
        state = seed * 2 + 1;
    }

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;

    return (state * 0x2545f4914f6cdd1dULL >> 11) % below;
}


static void
load(char *sha)
{
    static const char  clock[] =
        "local time = redis.call('TIME')\n"
        "local now = tonumber(time[1]) * 1000000 + tonumber(time[2])\n";

    char  text[16384], *p;

    strcpy(text, ngx_http_apikey_script_lua);

    p = strstr(text, clock);
    if (p == NULL) {
        fail("the script reads its clock in another way");
    }

    memset(p, ' ', sizeof(clock) - 1);
    memcpy(p, "local now = tonumber(ARGV[#ARGV])", 33);

    if (run(sha, 3, "SCRIPT", "LOAD", text) != 40) {
        fail("SCRIPT LOAD");
    }
}


static char *
put(char *p, uint64_t n)
{
    double  d = (double) n;

    memcpy(p, &d, 8);

    return p + 8;
}


static uint64_t
get(const char *p)
{
    double  d;

    memcpy(&d, p, 8);

    if (!(d >= 0 && d <= 0x1p53) || d != (double) (uint64_t) d) {
        fail("%f is no integer", d);
    }

    return (uint64_t) d;
}


static void
random_rate(apikey_rate_t *rate)
{
    static const uint64_t  limits[] = {
        0, 1, 2, 3, 7, 10, 60, 97, 1000, 3600, 65537, 999983, 1000000,
        9999991, 1000000007, 4294967296
    };
    static const uint64_t  windows[] = {
        1000000, 2000000, 7000000, 60000000, 3600000000, 86400000000,
        2678400000000
    };

    uint64_t  limit, burst;

    do {
        limit = limits[rnd(16)];
        burst = rnd(3) ? limit : rnd(2) ? rnd(limit + 10) : limit * rnd(4);
    } while (!apikey_rate_init(rate, limit, windows[rnd(7)], burst));
}


static uint64_t
random_cost(const account_t *a)
{
    uint64_t  room;

    switch (rnd(8)) {
    case 0:
        return 0;
    case 1:
        return 2;
    case 2:
        return rnd(3) ? rnd(1000) : APIKEY_BUCKET_MAX + 1;
    case 3:
    case 4:
        room = a->rate[0].capacity / a->rate[0].token;
        return room - rnd(room / 3 + 1) + (rnd(20) == 0);
    default:
        return 1;
    }
}


static uint64_t
random_step(uint64_t now)
{
    switch (rnd(10)) {
    case 0:
        return now;
    case 1:
        return now + rnd(10);
    case 2:
        return now + rnd(5000);
    case 3:
        return now + rnd(3600000000);
    case 4:
        return now + rnd(86400000000 * 40);
    case 5:
        return rnd(4) ? now - rnd(1000000) : now - rnd(10000000);
    default:
        return now + rnd(3000000);
    }
}


/* What the value becomes when its bucket's turn comes. */

static entry_t *
see(value_t *v, uint64_t id, const apikey_rate_t *rate, uint64_t now,
    bool *dirty)
{
    entry_t        *e;
    apikey_rate_t  *old;

    for (e = v->entry; e < v->entry + v->n; e++) {
        if (e->id != id) {
            continue;
        }

        if (e->bucket.at > now + 1000000) {
            e->bucket.at = now;
            *dirty = true;
        }

        old = &e->rate;

        if (old->token != rate->token || old->refill != rate->refill
            || old->tick != rate->tick)
        {
            *dirty = true;
        }

        apikey_bucket_rescale(&e->bucket, old, rate, now);
        e->rate = *rate;
        e->mine = true;

        return e;
    }

    e = &v->entry[v->n++];
    e->id = id;
    e->rate = *rate;
    e->mine = true;

    apikey_bucket_init(&e->bucket, now);

    if (v->unknown) {
        e->bucket.used = rate->capacity;
        *dirty = true;
    }

    return e;
}


/* What is written: entries not full; -1 never expires, -2 nothing is left. */

static int64_t
keep(value_t *v, const account_t *a, uint64_t now)
{
    int64_t   last;
    unsigned  i, k;
    uint64_t  us;
    value_t   out;
    entry_t  *e;

    memset(&out, 0, sizeof(out));
    last = 0;

    for (k = 0; k < a->n + v->n; k++) {
        e = NULL;

        for (i = 0; i < v->n; i++) {
            if (k < a->n ? v->entry[i].id == a->id[k]
                         : i == k - a->n && !v->entry[i].mine)
            {
                e = &v->entry[i];
            }
        }

        if (e == NULL) {
            continue;
        }

        us = apikey_bucket_reset(&e->bucket, &e->rate, now);

        /* the script asks for no expiry where C says the end of time */

        if (us == 0) {
            continue;
        }

        if (us == APIKEY_BUCKET_NEVER || us + now >= APIKEY_BUCKET_MAX) {
            last = -1;

        } else if (last >= 0 && (int64_t) us > last) {
            last = us;
        }

        out.entry[out.n++] = *e;
    }

    for (i = 0; i < out.n; i++) {
        out.entry[i].mine = false;
    }

    *v = out;

    return out.n ? (last < 0 ? -1 : last / 1000 + 1000) : -2;
}


static void
spoil(unsigned i, value_t *v)
{
    char         raw[512], key[2] = { 'a' + i, 0 };
    long         n;
    size_t       len[3];
    const char  *argv[3] = { "SET", key, raw };

    n = run(raw, 2, "GET", key);

    switch (rnd(6)) {
    case 0:
        run(raw, 2, "DEL", key);
        run(raw, 3, "LPUSH", key, "x");
        v->unknown = true;
        v->n = 0;
        return;
    case 1:
        n = rnd(70);
        memset(raw, 'x', 70);
        break;
    case 2:
        if (n < 8) {
            return;
        }
        raw[rnd(8)] ^= 1 + rnd(255);
        break;
    case 3:
        if (n < 56) {
            return;
        }
        n -= 1 + rnd(47);
        break;
    case 4:
        if (n < 56) {
            return;
        }
        raw[8 + 8 + 7 + 8 * rnd(5)] = (char) 0xff;
        break;
    default:
        if (n < 56) {
            return;
        }
        memset(raw + 8 + 8 + 8 * rnd(5), 0xff, 8);
    }

    len[0] = 3;
    len[1] = 1;
    len[2] = n;
    command(3, argv, len);
    answer(raw);

    v->unknown = true;
    v->n = 0;
}


static void
check_px(unsigned i, int64_t px)
{
    char  out[64], key[2] = { 'a' + i, 0 };
    long  n;

    n = run(out, 2, "PTTL", key);

    if (px < 0 ? n != px : n > px || n < px - 900) {
        fail("expiry of %s: %ld, not %lld", key, n, (long long) px);
    }

    /* time is made up here, it must not end in Redis */

    run(out, 2, "PERSIST", key);
}


/* Packs the call; what C makes of it: seen entries, dirty values, taken. */

static bool
expect(value_t *values, account_t *accounts, uint64_t now, call_t *call)
{
    char         *p;
    bool          taken;
    entry_t      *e;
    account_t    *a;
    unsigned      i, k;

    taken = true;

    for (i = 0; i < ACCOUNTS; i++) {
        a = &accounts[i];
        p = put(call->arg[i], a->cost);
        call->dirty[i] = false;

        for (k = 0; k < a->n; k++) {
            memcpy(p, &a->id[k], 8);
            p = put(p + 8, a->rate[k].token);
            p = put(p, a->rate[k].refill);
            p = put(p, a->rate[k].capacity);
            p = put(p, a->rate[k].tick);

            e = see(&values[i], a->id[k], &a->rate[k], now, &call->dirty[i]);
            call->seen[i][k] = e;

            if (apikey_bucket_wait(&e->bucket, &a->rate[k], a->cost, now)) {
                taken = false;
            }
        }

        call->key[i][0] = 'a' + i;
        call->key[i][1] = '\0';
        call->len[i] = p - call->arg[i];
    }

    return taken;
}


static long
evalsha(const char *sha, const call_t *call, uint64_t now, char *reply)
{
    char         clock[32];
    size_t       len[4 + 2 * ACCOUNTS] = { 7, 40, 1 };
    unsigned     i;
    const char  *argv[4 + 2 * ACCOUNTS] = { "EVALSHA", sha, "3" };

    for (i = 0; i < ACCOUNTS; i++) {
        argv[3 + i] = call->key[i];
        len[3 + i] = 1;
        argv[3 + ACCOUNTS + i] = call->arg[i];
        len[3 + ACCOUNTS + i] = call->len[i];
    }

    argv[3 + 2 * ACCOUNTS] = clock;
    len[3 + 2 * ACCOUNTS] = sprintf(clock, "%llu", (unsigned long long) now);

    command(4 + 2 * ACCOUNTS, argv, len);

    return answer(reply);
}


static void
check_bucket(const char *reply, const apikey_bucket_t *b)
{
    if (get(reply) != b->used || get(reply + 8) != b->at) {
        fail("used %llu at %llu, not %llu at %llu",
             (unsigned long long) get(reply),
             (unsigned long long) get(reply + 8),
             (unsigned long long) b->used, (unsigned long long) b->at);
    }
}


static void
take(const char *sha, value_t *values, account_t *accounts, uint64_t now)
{
    bool        taken;
    char        reply[1024], *p;
    long        n;
    call_t      call;
    value_t     before[ACCOUNTS];
    entry_t    *e;
    account_t  *a;
    unsigned    i, k;

    memcpy(before, values, sizeof(before));

    taken = expect(values, accounts, now, &call);
    n = evalsha(sha, &call, now, reply);

    if (get(reply) != taken || get(reply + 8) != now) {
        fail("taken %d, not %d", (int) get(reply), taken);
    }

    p = reply + 16;

    for (i = 0; i < ACCOUNTS; i++) {
        a = &accounts[i];

        for (k = 0; k < a->n; k++) {
            e = call.seen[i][k];

            if (taken && !apikey_bucket_take(&e->bucket, &a->rate[k], a->cost))
            {
                fail("C refuses what it said would fit");
            }

            check_bucket(p, &e->bucket);
            p += 16;
        }

        if (call.dirty[i] || (taken && a->cost)) {
            values[i].unknown = false;
            check_px(i, keep(&values[i], a, now));

        } else {
            values[i] = before[i];
        }
    }

    if (n != p - reply) {
        fail("reply of %ld bytes, not %ld", n, (long) (p - reply));
    }
}


static void
edit(account_t *a)
{
    unsigned  i;
    uint64_t  first;

    a->n = 1 + rnd(IDS);
    first = rnd(IDS);

    for (i = 0; i < a->n; i++) {
        a->id[i] = 0xfff0000000000000ULL + (first + i) % IDS;
        random_rate(&a->rate[i]);
    }
}


int
main(int argc, char **argv)
{
    char       sha[64];
    value_t    values[ACCOUNTS];
    account_t  accounts[ACCOUNTS];
    uint64_t   now;
    unsigned   i, k, round;

    seed = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t) time(NULL);

    start();
    load(sha);

    memset(values, 0, sizeof(values));
    now = 1795217207537822;

    for (i = 0; i < ACCOUNTS; i++) {
        edit(&accounts[i]);
    }

    for (round = 0; round < ROUNDS; round++) {
        now = random_step(now);

        for (i = 0; i < ACCOUNTS; i++) {

            if (rnd(50) == 0) {
                edit(&accounts[i]);
            }

            if (rnd(20) == 0) {
                k = rnd(accounts[i].n);
                random_rate(&accounts[i].rate[k]);
            }

            if (rnd(200) == 0) {
                spoil(i, &values[i]);
            }

            accounts[i].cost = random_cost(&accounts[i]);
        }

        take(sha, values, accounts, now);
    }

    printf("%u rounds, seed %llu\n", round, (unsigned long long) seed);

    return 0;
}
