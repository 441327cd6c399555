
/*
 * Random accounts: limits of all kinds, edits, clocks that jump, settlements
 * out of order.  Included by one unit, after redis.h.
 */


#ifndef UNIT_ACCOUNT_RANDOM_H_INCLUDED
#define UNIT_ACCOUNT_RANDOM_H_INCLUDED


#include "limit/account.h"


#define ACCOUNTS  3
#define LIMITS    4
#define IDS       6
#define PEERS     5
#define CROWD     90          /* more than a value has places for */
#define CHARGES   2


typedef struct {
    uint64_t                number;
    int64_t                 sum, part;
    uint64_t                era;
} peer_t;


typedef struct {
    apikey_account_t        value;
    apikey_account_limit_t  limits[LIMITS];
    unsigned                nlimits;
    bool                    slots;
    uint64_t                lease;
    peer_t                  peers[CROWD];
    peer_t                  alone[CHARGES];
    uint64_t                cost;
} account_t;


static account_t  accounts[ACCOUNTS];
static uint64_t   now, epoch, since, moved;
static uint64_t   emptied, complete;
static uint64_t   made, marked;      /* as the caller has it, and Redis */
static bool       told;              /* ... which has lost something then */
static bool       quiet;         /* nothing is to be settled */
static bool       hoards;            /* little is given back */
static bool       crowd;
static unsigned   ids = IDS;
static unsigned   charges;           /* of what was admitted alone */


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
random_rolling(apikey_account_limit_t *l, uint64_t limit, uint64_t window)
{
    l->rate.token = 1;
    l->rate.refill = window;
    l->rate.capacity = limit;
    l->rate.tick = APIKEY_ACCOUNT_ROLLING;
}


/* What is given back to a rolling window, and what is charged to it. */

static void
random_settled(account_t *a, apikey_account_limit_t *l)
{
    const apikey_account_level_t  *level;

    level = apikey_account_level(&a->value, l->id);

    l->fill = rnd(hoards ? 100 : 4) ? 0 : rnd(rnd(2) ? 10 : 1000);
    l->next = now - rnd(rnd(2) ? 100000 : 2 * l->rate.refill);
    l->known = rnd(4) ? rnd(2) : APIKEY_ACCOUNT_UNKNOWN;

    if (rnd(2) && level && level->log.n
        && level->tick == APIKEY_ACCOUNT_ROLLING)
    {
        l->next = level->log.places[rnd(level->log.n)].at;
    }
}


static void
random_limit(apikey_account_limit_t *l, bool slots)
{
    uint64_t  limit, burst, length;

    static const uint64_t  limits[] = {
        0, 1, 2, 7, 10, 60, 97, 1000, 3600, 65537, 999983, 1000000, 1000000007
    };
    static const uint64_t  windows[] = {
        1000000, 2000000, 7000000, 60000000, 3600000000, 86400000000,
        2678400000000
    };

    memset(&l->rate, 0, sizeof(l->rate));
    l->end = l->next = l->fill = 0;
    l->quota = l->touched = false;
    l->known = APIKEY_ACCOUNT_UNKNOWN;
    l->made = rnd(3) ? 0 : now - rnd(100000000);
    l->mode = slots || rnd(4) ? APIKEY_ACCOUNT_STRICT : 1 + rnd(2);

    if (slots || rnd(3) == 0) {
        l->quota = !slots;
        l->rate.token = 1;
        l->rate.tick = 1;
        l->rate.capacity = rnd(10) ? rnd(2000) : rnd(APIKEY_ACCOUNT_MAX);

        if (slots) {
            return;
        }

        l->known = rnd(4) ? rnd(l->rate.capacity / 4 + 2)
                          : APIKEY_ACCOUNT_UNKNOWN;
        l->touched = rnd(3) == 0;

        if (rnd(3)) {
            length = windows[rnd(7)];
            l->end = now / length * length + length - rnd(length / 3);
            l->next = l->end + length;
            l->fill = rnd(3) ? l->rate.capacity
                             : rnd(l->rate.capacity + 2);
        }

        return;
    }

    if (rnd(3) == 0) {
        random_rolling(l, limits[rnd(13)], windows[rnd(7)]);
        return;
    }

    do {
        limit = limits[rnd(13)];
        burst = rnd(3) ? limit : rnd(2) ? rnd(limit + 10) : limit * rnd(4);
    } while (!apikey_rate_init(&l->rate, limit, windows[rnd(7)], burst));
}


static void
edit(account_t *a)
{
    unsigned  i, first;

    a->nlimits = 1 + rnd(LIMITS);
    a->lease = rnd(2) ? 1000000 : 200000 + rnd(5000000);
    first = rnd(ids);

    for (i = 0; i < a->nlimits; i++) {
        a->limits[i].id = 0xfff0000000000000ULL + (first + i) % ids;
        random_limit(&a->limits[i], a->slots);
    }
}


/* Plain limits, that seldom change, and nothing to be settled. */

static void
plain_limits(account_t *a)
{
    unsigned  i;

    edit(a);

    a->slots = false;

    for (i = 0; i < a->nlimits; i++) {

        do {
            random_limit(&a->limits[i], false);
        } while (a->limits[i].rate.tick == APIKEY_ACCOUNT_ROLLING
                 || a->limits[i].rate.capacity < 100);

        a->limits[i].mode = rnd(20) ? APIKEY_ACCOUNT_STRICT : rnd(3);
        a->limits[i].known = rnd(10) ? 0 : APIKEY_ACCOUNT_UNKNOWN;
    }
}


/* Tokens enough for everybody. */

static void
large_limit(account_t *a)
{
    apikey_account_limit_t  *l;

    a->nlimits = 1;
    a->slots = false;
    a->lease = 2000000;

    l = &a->limits[0];

    memset(l, 0, sizeof(*l));
    l->id = 1;
    l->known = APIKEY_ACCOUNT_UNKNOWN;
    (void) apikey_rate_init(&l->rate, 1000000, 1000000, 1000000);
}


static void
step(void)
{
    switch (rnd(12)) {
    case 0:
        break;
    case 1:
        now += rnd(10);
        break;
    case 2:
        now += rnd(3600000000);
        break;
    case 3:
        now += rnd(5) ? rnd(100000000) : rnd(86400000000 * 40);
        break;
    case 4:
        now -= rnd(4) ? rnd(1000000) : rnd(10000000);
        break;
    case 5:
    case 6:
        now += rnd(3000000);
        break;
    default:
        now += rnd(50000);
    }
}


/* A limit that was spent alone: cumulative, as settlements are. */

static void
random_charge(account_t *a, apikey_account_sums_t *s)
{
    unsigned   k;
    int64_t    d;
    peer_t    *p;

    k = rnd(CHARGES);
    p = &a->alone[k];
    s->node = APIKEY_ACCOUNT_CHARGE | (0x00ff00ff00ff00ffULL + k);

    d = rnd(3) ? (int64_t) rnd(100) - 90 : 0;
    p->sum += d;

    if (rnd(4) == 0) {
        p->era = rnd(2) ? a->value.lost : now - rnd(100000000);
    }

    s->number = rnd(5) ? ++p->number : 1 + rnd(p->number + 1);
    s->sum = p->sum;
    s->acked = rnd(3) ? p->sum + (int64_t) rnd(50) : p->sum;
    s->era = p->era;
    s->part = (int64_t) rnd(rnd(20) ? a->nlimits : LIMITS + 1);
    s->part_acked = -1;
    s->doubt = rnd(3) == 0;

    if (s->part < a->nlimits && a->limits[s->part].end && rnd(4)) {
        s->part_acked = (int64_t) a->limits[s->part].end;
    }

    charges++;
}


static void
random_sums(account_t *a, apikey_account_sums_t *s)
{
    unsigned   k;
    int64_t    d;
    peer_t    *p;

    memset(s, 0, sizeof(*s));

    if (!quiet && rnd(6) == 0) {
        random_charge(a, s);
        return;
    }

    k = rnd(crowd ? CROWD : PEERS);
    p = &a->peers[k];
    s->node = 0x7f00ff00ff00ff00ULL + k;

    if (rnd(4) == 0) {
        return;
    }

    /* as a node says it at each call: all is acknowledged */

    if (quiet && rnd(2000)) {
        s->number = ++p->number;
        s->sum = s->acked = p->sum;
        s->era = p->era;
        s->part = s->part_acked = p->part;
        return;
    }

    d = rnd(3) ? (int64_t) rnd(100) - 30 : 0;
    p->sum += d;

    if (rnd(8) == 0 && a->value.state == APIKEY_ACCOUNT_PRESENT) {
        p->era = a->value.era;
        p->part = 0;
    }

    p->part += rnd(3) ? d : 0;
    s->number = rnd(5) ? ++p->number : 1 + rnd(p->number + 1);
    s->sum = p->sum;
    s->acked = rnd(3) ? p->sum - (int64_t) rnd(50) : p->sum;
    s->era = p->era;
    s->part = p->part;
    s->doubt = rnd(3) == 0;
    s->part_acked = s->acked == s->sum ? p->part : p->part - (int64_t) rnd(20);
}


/* When all values went, and the key that says since when they are there. */

static void
mark(void)
{
    char  text[64], reply[64];

    emptied = rnd(2) ? 0 : now - rnd(rnd(2) ? 1000000 : 50000000);
    complete = rnd(3) ? now - rnd(rnd(2) ? 1000000 : 50000000) : 0;
    made = rnd(4) ? now - rnd(1000000000) : 0;
    marked = rnd(4) ? made : 0;

    if (marked == 0) {
        run(reply, 2, "DEL", "marker");
        return;
    }

    marked += rnd(4) == 0;
    told = rnd(2);

    sprintf(text, "run 0 0 %c%llu me", told ? 'L' : 'M',
            (unsigned long long) marked);
    run(reply, 3, "SET", "marker", text);
}


static void
random_call(account_t *a, apikey_account_call_t *c)
{
    unsigned  i;

    memset(c, 0, sizeof(*c));

    for (i = 0; i < a->nlimits; i++) {

        if (a->limits[i].rate.tick == APIKEY_ACCOUNT_ROLLING) {
            random_settled(a, &a->limits[i]);
        }
    }

    c->limits = a->limits;
    c->nlimits = a->nlimits;
    c->slots = a->slots;
    c->epoch = epoch;
    c->since = since;
    c->moved = moved;
    c->gone = made == 0 || made == marked ? emptied
              : marked && told ? marked : now;
    c->complete = complete;
    c->lease = a->lease;
    c->horizon = 60000000;
    random_sums(a, &c->sums);
}


static void
random_ask(const account_t *a, const apikey_account_call_t *c,
    apikey_account_ask_t *ask)
{
    uint64_t                 n, most;
    const apikey_account_t  *v = &a->value;

    memset(ask, 0, sizeof(*ask));
    ask->node = c->sums.node;
    ask->want = rnd(4) ? rnd(300) : rnd(2) ? 0 : rnd(APIKEY_ACCOUNT_MAX);
    ask->least = rnd(3) ? 1 : rnd(100);

    if (quiet && rnd(8)) {
        ask->want = rnd(rnd(2) ? 3 : 60);
        ask->least = rnd(2);
    }

    if (v->state != APIKEY_ACCOUNT_PRESENT || rnd(8) == 0) {
        ask->busy = a->slots ? rnd(4) : 0;
        return;
    }

    ask->born = rnd(20) ? v->born : rnd(now);
    n = rnd(2);
    ask->generation = v->generation - n;
    most = v->out[n] + (rnd(20) == 0);
    ask->spent = rnd(most + 1);
    ask->returned = rnd(most - ask->spent + 1);
    ask->kept = rnd(most - ask->spent - ask->returned + 1);

    if (a->slots) {
        ask->spent = 0;
        ask->busy = rnd(ask->kept + 1);
    }
}


#endif /* UNIT_ACCOUNT_RANDOM_H_INCLUDED */
