
/*
 * Seats of workers, and what is held under them.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include <fcntl.h>

#include "base/clock.h"
#include "limit/holds.h"


static ngx_int_t ngx_http_apikey_holds_lock(int fd, ngx_uint_t seat,
    int type);
static void ngx_http_apikey_holds_reclaim(ngx_http_apikey_holds_t *holds,
    ngx_http_apikey_leases_t *leases, ngx_uint_t seat);


ngx_http_apikey_holds_t *
ngx_http_apikey_holds_init(ngx_slab_pool_t *shpool, size_t size)
{
    size_t                    n;
    ngx_http_apikey_holds_t  *holds;

    if (size < sizeof(ngx_http_apikey_holds_t)
               + sizeof(ngx_http_apikey_hold_t))
    {
        return NULL;
    }

    n = (size - sizeof(ngx_http_apikey_holds_t))
        / sizeof(ngx_http_apikey_hold_t);

    holds = ngx_slab_alloc(shpool, sizeof(ngx_http_apikey_holds_t)
                                   + n * sizeof(ngx_http_apikey_hold_t));
    if (holds == NULL) {
        return NULL;
    }

    ngx_memzero(holds, sizeof(ngx_http_apikey_holds_t));

    holds->n = ngx_min(n, NGX_MAX_UINT32_VALUE / 2);
    holds->holds = (ngx_http_apikey_hold_t *) (holds + 1);

    return holds;
}


ngx_int_t
ngx_http_apikey_holds_seat(ngx_http_apikey_holds_t *holds, int fd)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_APIKEY_HOLDS_SEATS; i++) {

        if (ngx_http_apikey_holds_lock(fd, i, F_WRLCK) == NGX_OK) {
            return (ngx_int_t) i;
        }
    }

    return NGX_ERROR;
}


/* By TERM a worker ends in order, but not its requests. */

void
ngx_http_apikey_holds_leave(ngx_http_apikey_holds_t *holds,
    ngx_http_apikey_leases_t *leases, int fd, ngx_uint_t seat)
{
    ngx_http_apikey_holds_reclaim(holds, leases, seat);

    holds->taken[seat] = 0;

    (void) ngx_http_apikey_holds_lock(fd, seat, F_UNLCK);
}


/* By process, not by descriptor: no child has the lock of its parent. */

static ngx_int_t
ngx_http_apikey_holds_lock(int fd, ngx_uint_t seat, int type)
{
    struct flock  lock;

    ngx_memzero(&lock, sizeof(struct flock));

    lock.l_type = (short) type;
    lock.l_whence = SEEK_SET;
    lock.l_start = (off_t) seat;
    lock.l_len = 1;

    return fcntl(fd, F_SETLK, &lock) == 0 ? NGX_OK : NGX_DECLINED;
}


ngx_uint_t
ngx_http_apikey_holds_order(ngx_http_apikey_holds_t *holds,
    ngx_http_apikey_leases_t *leases, int fd, ngx_uint_t seat)
{
    ngx_uint_t  i, dead;

    dead = 0;

    for (i = 0; i < NGX_HTTP_APIKEY_HOLDS_SEATS; i++) {

        if (i == seat || !holds->taken[i]
            || ngx_http_apikey_holds_lock(fd, i, F_WRLCK) != NGX_OK)
        {
            continue;
        }

        ngx_http_apikey_holds_reclaim(holds, leases, i);

        holds->taken[i] = 0;
        dead = 1;

        (void) ngx_http_apikey_holds_lock(fd, i, F_UNLCK);
    }

    return dead;
}


ngx_uint_t
ngx_http_apikey_holds_enter(ngx_http_apikey_holds_t *holds,
    ngx_http_apikey_leases_t *leases, ngx_uint_t seat, uint64_t name)
{
    ngx_uint_t  dead;

    dead = (holds->taken[seat] != 0);

    if (dead) {
        ngx_http_apikey_holds_reclaim(holds, leases, seat);
    }

    holds->taken[seat] = name;

    return dead;
}


ngx_uint_t
ngx_http_apikey_holds_gone(const ngx_http_apikey_holds_t *holds,
    uint64_t name)
{
    uint64_t  seat;

    seat = name % (2 * NGX_HTTP_APIKEY_HOLDS_SEATS);

    return seat < NGX_HTTP_APIKEY_HOLDS_SEATS && holds->taken[seat] != name;
}


static void
ngx_http_apikey_holds_reclaim(ngx_http_apikey_holds_t *holds,
    ngx_http_apikey_leases_t *leases, ngx_uint_t seat)
{
    uint32_t                        i;
    apikey_claim_t                  claim;
    ngx_http_apikey_hold_t         *hold;
    ngx_http_apikey_lease_entry_t  *entry;

    holds->free = 0;

    for (i = 0; i < holds->fresh; i++) {
        hold = &holds->holds[i];

        if (hold->kind != NGX_HTTP_APIKEY_HOLD_NONE && hold->seat == seat) {
            entry = &leases->entries[hold->entry];

            if (hold->kind == NGX_HTTP_APIKEY_HOLD_SLOTS) {
                (void) apikey_lease_leave(&entry->lease, &entry->conf,
                                          hold->cost, hold->epoch,
                                          apikey_clock_boot());

            } else {
                ngx_memzero(&claim, sizeof(apikey_claim_t));

                claim.lease = &entry->lease;
                claim.conf = &entry->conf;
                claim.cost = hold->cost;
                claim.epoch = hold->epoch;
                claim.state = APIKEY_CLAIM_HELD;

                apikey_lease_reclaim(&claim, 1);
            }

            hold->kind = NGX_HTTP_APIKEY_HOLD_NONE;
        }

        /* the list may be torn: it is made anew */

        if (hold->kind == NGX_HTTP_APIKEY_HOLD_NONE) {
            hold->next = holds->free;
            holds->free = i + 1;
        }
    }
}


uint32_t
ngx_http_apikey_holds_add(ngx_http_apikey_holds_t *holds, ngx_uint_t seat,
    ngx_uint_t kind, uint32_t entry, const apikey_claim_t *claim)
{
    uint32_t                 i;
    ngx_http_apikey_hold_t  *hold;

    if (holds->free) {
        i = holds->free;
        holds->free = holds->holds[i - 1].next;

    } else if (holds->fresh < holds->n) {
        i = holds->fresh + 1;
        holds->holds[i - 1].kind = NGX_HTTP_APIKEY_HOLD_NONE;
        holds->fresh++;

    } else {
        return 0;
    }

    hold = &holds->holds[i - 1];

    hold->epoch = claim->epoch;
    hold->cost = claim->cost;
    hold->entry = entry;
    hold->seat = (uint16_t) seat;

    ngx_memory_barrier();

    hold->kind = (uint16_t) kind;

    return i;
}


void
ngx_http_apikey_holds_turn(ngx_http_apikey_holds_t *holds, uint32_t hold)
{
    if (hold) {
        holds->holds[hold - 1].kind = NGX_HTTP_APIKEY_HOLD_SLOTS;
    }
}


void
ngx_http_apikey_holds_drop(ngx_http_apikey_holds_t *holds, uint32_t hold)
{
    if (hold == 0) {
        return;
    }

    holds->holds[hold - 1].kind = NGX_HTTP_APIKEY_HOLD_NONE;
    holds->holds[hold - 1].next = holds->free;
    holds->free = hold;
}
