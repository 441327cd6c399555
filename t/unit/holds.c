
/*
 * What workers hold: who dies holding tokens has spent them, and slots in
 * which nothing runs any more are free; a seat is its owner's as long as it
 * lives.  Real processes, and a real file.
 */


#include <stdlib.h>
#include <sys/wait.h>

#include "limit/holds.c"

#include "unit.h"


#define HOLDS  20
#define ROOM   (sizeof(ngx_http_apikey_holds_t)                               \
                + HOLDS * sizeof(ngx_http_apikey_hold_t))


static ngx_http_apikey_leases_t       leases;
static ngx_http_apikey_lease_entry_t  entries[2];        /* tokens, slots */
static ngx_http_apikey_holds_t       *holds;
static uint64_t                       name;              /* the last one */
static int                            fd;


/* The zone, as far as this asks for it. */

void *
ngx_slab_alloc(ngx_slab_pool_t *pool, size_t size)
{
    return malloc(size);
}


static void
clean(void)
{
    memset(&leases, 0, sizeof(leases));
    memset(entries, 0, sizeof(entries));

    leases.entries = entries;
    leases.n = 2;
    leases.fresh = 2;

    entries[0].lease.epoch = 1;
    entries[0].lease.held = 30;
    entries[0].lease.left = 70;
    entries[1].lease.epoch = 1;
    entries[1].lease.busy = 5;
    entries[1].conf.slots = true;

    free(holds);
    holds = ngx_http_apikey_holds_init(NULL, ROOM);
}


/* A worker that nobody has seen before. */

static ngx_uint_t
enter(ngx_uint_t seat)
{
    name = ngx_http_apikey_holds_name(++leases.workers, (ngx_int_t) seat);

    return ngx_http_apikey_holds_enter(holds, &leases, seat, name);
}


static uint32_t
hold(ngx_uint_t seat, ngx_uint_t kind, uint64_t cost)
{
    apikey_claim_t  claim;

    memset(&claim, 0, sizeof(claim));

    claim.cost = cost;
    claim.epoch = 1;

    return ngx_http_apikey_holds_add(holds, seat, kind,
                                     kind == NGX_HTTP_APIKEY_HOLD_SLOTS,
                                     &claim);
}


static void
test_died(void)
{
    clean();
    (void) enter(3);
    (void) hold(3, NGX_HTTP_APIKEY_HOLD_TOKENS, 10);
    (void) hold(3, NGX_HTTP_APIKEY_HOLD_SLOTS, 2);
    (void) enter(4);
    (void) hold(4, NGX_HTTP_APIKEY_HOLD_TOKENS, 20);

    is_uint(enter(3), 1,
            "a seat that somebody has left without a word");
    is_uint(entries[0].lease.held, 20, "what it held is not held any more");
    is_uint(entries[0].lease.left, 70, "but spent");
    is_uint(entries[0].lease.spent, 10, "and told so");
    is_uint(entries[1].lease.busy, 3, "its slots are not busy");
    is_uint(entries[1].lease.left, 2, "but free");

    is_uint(enter(3), 1,
            "once more: it was taken");
    is_uint(entries[0].lease.spent, 10, "nothing is spent twice");
    is_uint(entries[1].lease.busy, 3, "nor freed twice");
}


static void
test_void(void)
{
    clean();
    (void) enter(0);
    (void) hold(0, NGX_HTTP_APIKEY_HOLD_TOKENS, 10);
    (void) hold(0, NGX_HTTP_APIKEY_HOLD_SLOTS, 2);

    /* the leases were voided, and others are there now */

    entries[0].lease.epoch = 2;
    entries[0].lease.held = 0;
    entries[1].lease.epoch = 2;

    (void) enter(0);
    is_uint(entries[0].lease.spent, 0, "of another lease: nothing is spent");
    is_uint(entries[0].lease.left, 70, "nor comes back");
    is_uint(entries[1].lease.busy, 3, "slots are not busy");
    is_uint(entries[1].lease.left, 0, "and not this lease's");
}


/* A request that waited for TAKE, and then runs in its slots. */

static void
test_turn(void)
{
    uint32_t  h;

    clean();
    (void) enter(0);
    entries[1].lease.held = 2;
    entries[1].lease.busy = 0;
    h = hold(0, NGX_HTTP_APIKEY_HOLD_SLOTS, 2);
    holds->holds[h - 1].kind = NGX_HTTP_APIKEY_HOLD_TOKENS;

    entries[1].lease.held = 0;
    entries[1].lease.busy = 2;
    ngx_http_apikey_holds_turn(holds, h);
    ngx_http_apikey_holds_turn(holds, 0);
    (void) enter(0);
    is_uint(entries[1].lease.busy, 0, "it ran, and its slots are free");
    is_uint(entries[1].lease.left, 2, "both");
}


/* At random, and torn as by a death in its midst. */

static void
test_list(void)
{
    unsigned  i, n, round, wrong;
    uint32_t  h, have[HOLDS];

    clean();
    (void) enter(1);
    is_uint(holds->n, HOLDS, "as many as there is room for");

    n = 0;
    wrong = 0;

    for (round = 0; round < 10000; round++) {

        if (rand() % 2 || n == 0) {
            h = hold(1, NGX_HTTP_APIKEY_HOLD_TOKENS, 0);

            if ((h == 0) != (n == HOLDS)) {
                wrong++;
            }

            for (i = 0; h && i < n; i++) {
                wrong += have[i] == h;
            }

            if (h && n < HOLDS) {
                have[n++] = h;
            }

        } else {
            i = rand() % n;
            ngx_http_apikey_holds_drop(holds, have[i]);
            have[i] = have[--n];
        }
    }

    is_uint(wrong, 0, "a place is one's own, until it is given back");
    ngx_http_apikey_holds_drop(holds, 0);

    /* said to be free, and not in the list; the list is a loop */

    holds->free = 3;
    holds->holds[2].kind = NGX_HTTP_APIKEY_HOLD_NONE;
    holds->holds[2].next = 3;
    (void) enter(1);

    for (n = 0; n <= HOLDS; n++) {

        if (hold(1, NGX_HTTP_APIKEY_HOLD_TOKENS, 0) == 0) {
            break;
        }
    }

    is_uint(n, HOLDS, "torn: each place is there, and once");
}


/* Another process, that sits down, holds something, and is killed. */

static void
test_processes(void)
{
    int         status, said[2];
    char        c;
    pid_t       pid;
    ngx_int_t   seat;

    clean();
    seat = ngx_http_apikey_holds_seat(holds, fd);
    is_uint(seat, 0, "the first seat");
    (void) enter(0);

    if (pipe(said) != 0) {
        exit(1);
    }

    pid = fork();

    if (pid == 0) {
        c = (char) ngx_http_apikey_holds_seat(holds, fd);
        (void) !write(said[1], &c, 1);
        pause();
        _exit(0);
    }

    if (pid == -1 || read(said[0], &c, 1) != 1) {
        exit(1);
    }

    is_uint(c, 1, "another process has another one");

    /* what it would have written into the zone */

    (void) enter(1);
    (void) hold(1, NGX_HTTP_APIKEY_HOLD_TOKENS, 30);

    is_uint(ngx_http_apikey_holds_order(holds, &leases, fd, 0), 0,
            "nobody has died");
    is_uint(entries[0].lease.held, 30, "it holds what it holds");

    kill(pid, SIGKILL);
    (void) waitpid(pid, &status, 0);

    is_uint(ngx_http_apikey_holds_order(holds, &leases, fd, 0), 1,
            "somebody has");
    is_uint(entries[0].lease.held, 0, "and holds no more");
    is_uint(entries[0].lease.spent, 30, "which is spent");
    is_uint(ngx_http_apikey_holds_order(holds, &leases, fd, 0), 0,
            "which is put in order once");

    (void) hold(0, NGX_HTTP_APIKEY_HOLD_SLOTS, 5);
    ngx_http_apikey_holds_leave(holds, &leases, fd, 0);
    is_uint(entries[1].lease.busy, 0, "who leaves in order holds no more");
    is_uint(enter(0), 0,
            "and has left its seat");

    close(said[0]);
    close(said[1]);
}


/* What it has asked for it will not be told. */

static void
test_gone(void)
{
    uint64_t  first, none;

    clean();
    (void) enter(5);
    first = name;
    none = ngx_http_apikey_holds_name(++leases.workers, NGX_ERROR);

    ok(!ngx_http_apikey_holds_gone(holds, first), "it is there");
    ok(!ngx_http_apikey_holds_gone(holds, none),
       "of one without a seat nobody knows");

    (void) enter(255);
    ok(!ngx_http_apikey_holds_gone(holds, first), "others do not matter");
    ok(!ngx_http_apikey_holds_gone(holds, name), "and are there");

    (void) enter(5);
    ok(ngx_http_apikey_holds_gone(holds, first), "somebody else in its seat");
    ok(!ngx_http_apikey_holds_gone(holds, name), "who is there");

    ngx_http_apikey_holds_leave(holds, &leases, fd, 5);
    ok(ngx_http_apikey_holds_gone(holds, name), "who leaves is not");
}


static void
test_room(void)
{
    ok(ngx_http_apikey_holds_init(NULL, sizeof(ngx_http_apikey_holds_t))
       == NULL, "no room for a single one");

    clean();
    memset(holds->taken, 1, sizeof(holds->taken));
    is_uint(ngx_http_apikey_holds_order(holds, &leases, fd, 0), 1,
            "nobody lives of all");
    is_uint(holds->taken[255], 0, "of the last one, too");
}


int
main(void)
{
    FILE  *file;

    srand(4);

    file = tmpfile();

    if (file == NULL) {
        return 1;
    }

    fd = fileno(file);

    test_died();
    test_void();
    test_turn();
    test_list();
    test_processes();
    test_gone();
    test_room();

    free(holds);
    fclose(file);

    return unit_done();
}
