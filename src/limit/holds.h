
/*
 * Who holds what of which lease: so that what a worker held when it died does
 * not stay held for ever.
 *
 * A worker has a seat, which it locks by one byte of a file as long as it
 * lives; what it holds stands in the zone under that seat.  Whoever finds a
 * seat taken and not locked puts it in order: tokens held are spent, slots
 * of requests that ran are free.
 *
 * Every function but seat() wants the zone's mutex held by the caller.
 */


#ifndef NGX_HTTP_APIKEY_HOLDS_H_INCLUDED
#define NGX_HTTP_APIKEY_HOLDS_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>

#include "limit/leases.h"


#define NGX_HTTP_APIKEY_HOLDS_SEATS  256

/* A worker's name: there is no other one, and it says its seat, or none. */
#define ngx_http_apikey_holds_name(number, seat)                              \
    ((uint64_t) (number) * 2 * NGX_HTTP_APIKEY_HOLDS_SEATS                    \
     + ((seat) == NGX_ERROR ? NGX_HTTP_APIKEY_HOLDS_SEATS                     \
                            : (uint64_t) (seat)))


typedef enum {
    NGX_HTTP_APIKEY_HOLD_NONE = 0,
    NGX_HTTP_APIKEY_HOLD_TOKENS,     /* of a request that waits for TAKE */
    NGX_HTTP_APIKEY_HOLD_SLOTS       /* ... that runs */
} ngx_http_apikey_hold_e;


typedef struct {
    uint64_t                 epoch;      /* of the lease */
    uint64_t                 cost;
    uint32_t                 entry;
    uint32_t                 next;       /* free list: index + 1 */
    uint16_t                 seat;
    uint16_t                 kind;
} ngx_http_apikey_hold_t;


typedef struct {
    uint32_t                 n;
    uint32_t                 fresh;
    uint32_t                 free;
    uint64_t                 taken[NGX_HTTP_APIKEY_HOLDS_SEATS];  /* names */
    ngx_http_apikey_hold_t  *holds;
} ngx_http_apikey_holds_t;


ngx_http_apikey_holds_t *ngx_http_apikey_holds_init(ngx_slab_pool_t *shpool,
    size_t size);

/* A free seat for this process, locked; NGX_ERROR: there is none. */
ngx_int_t ngx_http_apikey_holds_seat(ngx_http_apikey_holds_t *holds, int fd);
/* The worker ends: what it still holds goes as if it had died. */
void ngx_http_apikey_holds_leave(ngx_http_apikey_holds_t *holds,
    ngx_http_apikey_leases_t *leases, int fd, ngx_uint_t seat);

/* 1: somebody had this seat and died; order() looks at all others. */
ngx_uint_t ngx_http_apikey_holds_enter(ngx_http_apikey_holds_t *holds,
    ngx_http_apikey_leases_t *leases, ngx_uint_t seat, uint64_t name);
ngx_uint_t ngx_http_apikey_holds_order(ngx_http_apikey_holds_t *holds,
    ngx_http_apikey_leases_t *leases, int fd, ngx_uint_t seat);

/* 1: this worker has left its seat, or was found dead. */
ngx_uint_t ngx_http_apikey_holds_gone(const ngx_http_apikey_holds_t *holds,
    uint64_t name);

/* 0: no memory; the lease then has lost it when this worker dies. */
uint32_t ngx_http_apikey_holds_add(ngx_http_apikey_holds_t *holds,
    ngx_uint_t seat, ngx_uint_t kind, uint32_t entry,
    const apikey_claim_t *claim);
/* A request that held has been admitted and runs. */
void ngx_http_apikey_holds_turn(ngx_http_apikey_holds_t *holds,
    uint32_t hold);
void ngx_http_apikey_holds_drop(ngx_http_apikey_holds_t *holds,
    uint32_t hold);


#endif /* NGX_HTTP_APIKEY_HOLDS_H_INCLUDED */
