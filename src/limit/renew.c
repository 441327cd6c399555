
/*
 * Leases in time: each is renewed at half of its time, what is not needed
 * goes back, and settlements that Redis has not acknowledged go along.
 *
 * Every worker looks at the wheel and takes what is due; so nothing is lost
 * when one of them stands still, leaves or dies.  A worker that is leaving
 * looks no more: there are others, or this nginx ends.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "limit/alone.h"


#define NGX_HTTP_APIKEY_RENEW_TICK   50      /* ms */
#define NGX_HTTP_APIKEY_RENEW_IDLE   500     /* ms, where nothing waits */
#define NGX_HTTP_APIKEY_RENEW_MORE   1       /* ms, where more is due */
#define NGX_HTTP_APIKEY_RENEW_BATCH  32      /* in one hold of the mutex */
#define NGX_HTTP_APIKEY_RENEW_LOOKS  256     /* ... for those */
#define NGX_HTTP_APIKEY_RENEW_HOLDS  8       /* in one turn */
#define NGX_HTTP_APIKEY_RENEW_SEATS  1000    /* ms between two looks */
#define NGX_HTTP_APIKEY_RENEW_ADOPT  INT64_C(60000000)      /* us */


static void ngx_http_apikey_renew_handler(ngx_event_t *ev);
static ngx_uint_t ngx_http_apikey_renew_piece(ngx_http_apikey_limiter_t *l);
static ngx_uint_t ngx_http_apikey_renew_due(ngx_http_apikey_limiter_t *l,
    uint32_t *due, ngx_uint_t *more);
static ngx_uint_t ngx_http_apikey_renew_one(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_lease_entry_t *entry, int64_t now);
static void ngx_http_apikey_renew_later(ngx_http_apikey_limiter_t *l,
    uint32_t index);
static void ngx_http_apikey_renew_seats(ngx_http_apikey_limiter_t *l);
static void ngx_http_apikey_renew_adopt(ngx_http_apikey_limiter_t *l);


void
ngx_http_apikey_renew_start(ngx_http_apikey_limiter_t *l)
{
    l->tick.handler = ngx_http_apikey_renew_handler;
    l->tick.data = l;
    l->tick.log = l->conf.log;
    l->tick.cancelable = 1;

    ngx_http_apikey_renew_arm(l);
}


void
ngx_http_apikey_renew_stop(ngx_http_apikey_limiter_t *l)
{
    if (l->tick.timer_set) {
        ngx_del_timer(&l->tick);
    }
}


void
ngx_http_apikey_renew_arm(ngx_http_apikey_limiter_t *l)
{
    ngx_uint_t  queued;

    queued = l->conf.sh->leases->queued;

    if (ngx_exiting || (l->tick.timer_set && (l->ticks || !queued))) {
        return;
    }

    if (l->tick.timer_set) {
        ngx_del_timer(&l->tick);
    }

    /* who puts something there may be leaving: somebody always looks */

    l->ticks = (queued != 0);

    ngx_add_timer(&l->tick, queued ? NGX_HTTP_APIKEY_RENEW_TICK
                                   : NGX_HTTP_APIKEY_RENEW_IDLE);
}


static void
ngx_http_apikey_renew_handler(ngx_event_t *ev)
{
    ngx_uint_t                  i, more;
    ngx_http_apikey_limiter_t  *l;

    l = ev->data;

    if (ngx_exiting) {
        return;
    }

    if (ngx_current_msec - l->ordered >= NGX_HTTP_APIKEY_RENEW_SEATS) {
        l->ordered = ngx_current_msec;
        ngx_http_apikey_renew_seats(l);
    }

    more = 1;

    for (i = 0; more && i < NGX_HTTP_APIKEY_RENEW_HOLDS; i++) {
        more = ngx_http_apikey_renew_piece(l);
    }

    if (more) {

        /* they may be a million: requests come in between */

        l->ticks = 1;
        ngx_add_timer(&l->tick, NGX_HTTP_APIKEY_RENEW_MORE);
        return;
    }

    ngx_http_apikey_renew_arm(l);
}


/* 1: more may be due. */

static ngx_uint_t
ngx_http_apikey_renew_piece(ngx_http_apikey_limiter_t *l)
{
    uint32_t          due[NGX_HTTP_APIKEY_RENEW_BATCH];
    ngx_uint_t        i, n, more;
    ngx_slab_pool_t  *shpool;

    shpool = l->conf.shpool;

    ngx_shmtx_lock(&shpool->mutex);
    n = ngx_http_apikey_renew_due(l, due, &more);
    ngx_shmtx_unlock(&shpool->mutex);

    for (i = 0; i < n; i++) {
        if (ngx_http_apikey_ask(l, due[i], 1) != NGX_OK) {
            ngx_http_apikey_renew_later(l, due[i]);
        }
    }

    return more;
}


static ngx_uint_t
ngx_http_apikey_renew_due(ngx_http_apikey_limiter_t *l, uint32_t *due,
    ngx_uint_t *more)
{
    int64_t                         now;
    ngx_uint_t                      i, n;
    ngx_http_apikey_leases_t       *leases;
    ngx_http_apikey_lease_entry_t  *entry;

    leases = l->conf.sh->leases;
    now = apikey_clock_boot();
    n = 0;

    *more = ngx_http_apikey_leases_walk(leases, now);

    for (i = 0; i < NGX_HTTP_APIKEY_RENEW_LOOKS; i++) {

        entry = ngx_http_apikey_leases_due(leases, now);
        if (entry == NULL) {
            return n;
        }

        if (ngx_http_apikey_renew_one(l, entry, now)) {
            due[n++] = ngx_http_apikey_leases_index(leases, entry);
        }

        if (n == NGX_HTTP_APIKEY_RENEW_BATCH) {
            break;
        }
    }

    *more = 1;

    return n;
}


/* 1: ask for it now; else it waits in the wheel, or it needs nothing. */

static ngx_uint_t
ngx_http_apikey_renew_one(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_lease_entry_t *entry, int64_t now)
{
    int64_t                    half;
    apikey_tally_t            *tally;
    ngx_http_apikey_leases_t  *leases;

    leases = l->conf.sh->leases;
    half = (int64_t) (entry->conf.time / 2);

    if (!entry->linked) {
        return 0;
    }

    tally = ngx_http_apikey_claims_tally(l, entry, now);

    (void) ngx_http_apikey_ask_stale(l, entry, now);

    if (ngx_http_apikey_alone_owes(l, entry)) {

        if (entry->lease.call == 0 && ngx_http_apikey_limiter_ready(l)) {
            return 1;
        }

        /* not all at once when Redis is back */

        ngx_http_apikey_leases_queue(leases, entry, now,
                                     now + NGX_HTTP_APIKEY_LEASES_OWES
                                     + ngx_random()
                                       % NGX_HTTP_APIKEY_LEASES_OWES);
        return 0;
    }

    switch (apikey_lease_due(&entry->lease, tally, &entry->conf, now)) {

    case APIKEY_LEASE_NEVER:
        return 0;

    case APIKEY_LEASE_LATER:
        ngx_http_apikey_leases_queue(leases, entry, now,
                  now + apikey_lease_look(&entry->lease, &entry->conf, now));
        return 0;

    default: /* APIKEY_LEASE_NOW */
        break;
    }

    if (ngx_http_apikey_limiter_ready(l)) {
        return 1;
    }

    /* what is void by now is given up; what runs or is owed is not */

    if (now < entry->lease.deadline || entry->lease.busy
        || !apikey_tally_clean(tally))
    {
        ngx_http_apikey_leases_queue(leases, entry, now, now + half);
    }

    return 0;
}


/* Somebody has asked, or Redis could not be. */

static void
ngx_http_apikey_renew_later(ngx_http_apikey_limiter_t *l, uint32_t index)
{
    int64_t                         now;
    ngx_slab_pool_t                *shpool;
    ngx_http_apikey_leases_t       *leases;
    ngx_http_apikey_lease_entry_t  *entry;

    shpool = l->conf.shpool;
    leases = l->conf.sh->leases;
    entry = &leases->entries[index];

    ngx_shmtx_lock(&shpool->mutex);

    if (entry->linked && entry->nlimits) {
        now = apikey_clock_boot();
        ngx_http_apikey_leases_queue(leases, entry, now,
                                     now + (int64_t) (entry->conf.time / 2));
    }

    ngx_shmtx_unlock(&shpool->mutex);
}


/* What dead workers held, and what an nginx that has ended has left. */

static void
ngx_http_apikey_renew_seats(ngx_http_apikey_limiter_t *l)
{
    int64_t                      now;
    ngx_uint_t                   adopt;
    ngx_slab_pool_t             *shpool;
    ngx_http_apikey_limit_sh_t  *sh;

    if (l->seat == NGX_ERROR) {
        return;
    }

    sh = l->conf.sh;
    shpool = l->conf.shpool;

    ngx_shmtx_lock(&shpool->mutex);

    now = apikey_clock_boot();

    if (ngx_http_apikey_holds_order(sh->holds, sh->leases, l->conf.tallies->fd,
                                    l->seat))
    {
        ngx_http_apikey_leases_rebuild(sh->leases);
    }

    /* one worker for all */

    adopt = (now - sh->leases->adopted >= NGX_HTTP_APIKEY_RENEW_ADOPT);

    if (adopt) {
        sh->leases->adopted = now;
    }

    ngx_shmtx_unlock(&shpool->mutex);

    if (adopt) {
        ngx_http_apikey_renew_adopt(l);
    }
}


/* Nobody has these files: they are read without the mutex. */

static void
ngx_http_apikey_renew_adopt(ngx_http_apikey_limiter_t *l)
{
    ngx_uint_t                n;
    ngx_slab_pool_t          *shpool;
    apikey_tallies_orphan_t   orphan;

    shpool = l->conf.shpool;
    n = 0;

    ngx_memzero(&orphan, sizeof(apikey_tallies_orphan_t));

    while (apikey_tallies_orphan(l->conf.tallies, &orphan)) {
        ngx_shmtx_lock(&shpool->mutex);

        if (apikey_tallies_adopt(l->conf.tallies, &orphan)) {
            ngx_http_apikey_leases_owe(l->conf.sh->leases);
            n++;
        }

        ngx_shmtx_unlock(&shpool->mutex);
    }

    if (n) {
        ngx_log_error(NGX_LOG_NOTICE, l->conf.log, 0,
                      "apikey: %ui accounts or limits of an nginx that has "
                      "ended are told by this one", n);
    }
}
