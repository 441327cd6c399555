
/*
 * The decision over all limits of a request: who decides it, and what happens
 * when Redis does not.
 *
 * A request waits at most once: for leases, for its TAKE, or for the
 * connection that a worker makes when it starts or has just lost, and has one
 * deadline for all of that.  It never waits while the breaker is open or after
 * an attempt to connect failed; nor who has waited for Postgres meanwhile.
 * A decision is its caller's; only while it waits is it known here.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "limit/alone.h"
#include "limit/local.h"


static ngx_int_t ngx_http_apikey_decide_start(ngx_http_apikey_decision_t *d);
static ngx_int_t ngx_http_apikey_decide_run(ngx_http_apikey_decision_t *d,
    ngx_uint_t first);
static ngx_int_t ngx_http_apikey_decide_wait(ngx_http_apikey_decision_t *d,
    apikey_lease_decision_e rc);
static void ngx_http_apikey_decide_room(ngx_http_apikey_decision_t *d);
static void ngx_http_apikey_decide_release(ngx_http_apikey_decision_t *d);
static void ngx_http_apikey_decide_keep(ngx_http_apikey_decision_t *d);
static void ngx_http_apikey_decide_refund(ngx_http_apikey_decision_t *d);
static ngx_int_t ngx_http_apikey_decide_down(ngx_http_apikey_decision_t *d);
static ngx_int_t ngx_http_apikey_decide_allow(ngx_http_apikey_decision_t *d);
static ngx_int_t ngx_http_apikey_decide_local(ngx_http_apikey_decision_t *d,
    ngx_uint_t nodes, apikey_mode_e mode);
static void ngx_http_apikey_decide_missed(ngx_http_apikey_limiter_t *l);
static ngx_int_t ngx_http_apikey_decide_done(ngx_http_apikey_decision_t *d,
    ngx_int_t rc, apikey_mode_e mode);
static void ngx_http_apikey_decide_event_handler(ngx_event_t *ev);


ngx_int_t
ngx_http_apikey_decide(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d)
{
    d->limiter = l;
    d->known = 0;
    d->unknown = 0;
    d->blind = 0;
    d->wait = 0;
    d->after = 0;
    d->least = 0;
    d->share = 1;
    d->waiting = 0;
    d->queued = 0;
    d->asking = 0;
    d->resent = 0;
    d->held = 0;
    d->ahead = 0;
    d->again = 0;

    if (l->conf.mode == NGX_HTTP_APIKEY_LIMIT_LOCAL) {
        return ngx_http_apikey_decide_local(d, 0, APIKEY_MODE_LOCAL);
    }

    if (ngx_http_apikey_decide_start(d) != NGX_OK) {
        return ngx_http_apikey_decide_down(d);
    }

    return ngx_http_apikey_decide_run(d, 1);
}


void
ngx_http_apikey_decide_level(ngx_http_apikey_bucket_t *out,
    const ngx_http_apikey_account_t *account, const apikey_bucket_t *level,
    uint64_t now)
{
    const apikey_rate_t  *rate;

    rate = &out->limit->rate;

    out->unknown = (apikey_limit_quota(out->limit)
                    && level->used == APIKEY_ACCOUNT_MAX);
    out->used = level->used / rate->token;
    out->remaining = apikey_bucket_remaining(level, rate);
    out->reset = apikey_level_reset(level, rate, now);
    out->wait = apikey_level_wait(level, rate,
                             ngx_http_apikey_decide_need(out->limit, account),
                             now);

    ngx_http_apikey_decide_period(out, account, now);
}


void
ngx_http_apikey_decide_period(ngx_http_apikey_bucket_t *out,
    const ngx_http_apikey_account_t *account, uint64_t now)
{
    if (out->period.end == 0) {

        if (apikey_limit_quota(out->limit)) {
            out->reset = APIKEY_BUCKET_NEVER;
        }

        return;
    }

    out->reset = out->period.end > now ? out->period.end - now : 0;

    if (out->wait
        && ngx_http_apikey_decide_need(out->limit, account)
           <= out->limit->fill)
    {
        out->wait = ngx_max(out->reset, 1);
    }
}


uint64_t
ngx_http_apikey_decide_need(const apikey_limit_t *limit,
    const ngx_http_apikey_account_t *account)
{
    uint64_t  cost;

    cost = account->whole ? ngx_max(account->cost, 1) : account->cost;

    switch (limit->mode) {

    case APIKEY_TRIM:
        return ngx_min(cost, 1);

    case APIKEY_OBSERVE:
        return 0;

    default: /* APIKEY_STRICT */
        return cost;
    }
}


static ngx_int_t
ngx_http_apikey_decide_start(ngx_http_apikey_decision_t *d)
{
    u_char      *p;
    ngx_uint_t   n;

    n = d->naccounts;

    p = ngx_palloc(d->pool, n * (sizeof(ngx_http_apikey_part_t)
                                 + sizeof(apikey_claim_t)));
    if (p == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(p, n * (sizeof(ngx_http_apikey_part_t)
                        + sizeof(apikey_claim_t)));

    d->parts = (ngx_http_apikey_part_t *) p;
    d->claims = (apikey_claim_t *) (d->parts + n);

    ngx_memzero(&d->call, sizeof(ngx_http_apikey_redis_call_t));
    ngx_memzero(&d->event, sizeof(ngx_event_t));

    d->call.deadline = ngx_current_msec + d->limiter->conf.redis->timeout;

    d->event.handler = ngx_http_apikey_decide_event_handler;
    d->event.data = d;
    d->event.log = d->limiter->conf.log;

    return NGX_OK;
}


/* NGX_AGAIN: it waits; else it is decided. */

static ngx_int_t
ngx_http_apikey_decide_run(ngx_http_apikey_decision_t *d, ngx_uint_t first)
{
    ngx_slab_pool_t            *shpool;
    apikey_lease_decision_e     rc;
    ngx_http_apikey_limiter_t  *l;

    l = d->limiter;
    shpool = l->conf.shpool;

    ngx_shmtx_lock(&shpool->mutex);
    rc = ngx_http_apikey_claims_decide(l, d, first);
    ngx_shmtx_unlock(&shpool->mutex);

    switch (rc) {

    case APIKEY_LEASE_ADMITTED:

        if (d->ahead) {
            ngx_http_apikey_ask_ahead(l, d);
        }

        return ngx_http_apikey_decide_done(d, NGX_OK, APIKEY_MODE_LEASED);

    case APIKEY_LEASE_REFUSED:
        return ngx_http_apikey_decide_done(d, NGX_DECLINED,
                                           APIKEY_MODE_LEASED);

    case APIKEY_LEASE_UNAVAILABLE:
        ngx_http_apikey_decide_room(d);
        return ngx_http_apikey_decide_done(d, NGX_ERROR, APIKEY_MODE_LEASED);

    default: /* APIKEY_LEASE_TAKE, APIKEY_LEASE_WAIT */
        return ngx_http_apikey_decide_wait(d, rc);
    }
}


static ngx_int_t
ngx_http_apikey_decide_wait(ngx_http_apikey_decision_t *d,
    apikey_lease_decision_e rc)
{
    ngx_int_t                   sent;
    ngx_http_apikey_limiter_t  *l;

    l = d->limiter;

    ngx_http_apikey_decide_room(d);

    if (ngx_http_apikey_breaker_is_open(&l->conf.sh->breaker)) {
        ngx_http_apikey_limiter_watch(l);

    } else if (d->waited) {
        /* Redis is back: for those who come now */

    } else if (ngx_http_apikey_limiter_ready(l)) {

        sent = (rc == APIKEY_LEASE_TAKE) ? ngx_http_apikey_take(l, d)
                                         : ngx_http_apikey_wait(l, d);
        if (sent == NGX_OK) {
            apikey_stats_add(&l->conf.stats->waits, !d->look);
            d->waiting = 1;
            return NGX_AGAIN;
        }

    } else {
        ngx_http_apikey_decide_release(d);

        if (ngx_http_apikey_limiter_wait(l, d) == NGX_AGAIN) {
            return NGX_AGAIN;
        }
    }

    return ngx_http_apikey_decide_down(d);
}


/* The table of leases is full: it is exact all the same, but slow. */

static void
ngx_http_apikey_decide_room(ngx_http_apikey_decision_t *d)
{
    ngx_str_t   none;
    ngx_uint_t  i, some;

    for (i = 0, some = 0; !d->look && i < d->naccounts; i++) {
        some |= d->parts[i].none;
    }

    if (some) {
        ngx_str_null(&none);
        ngx_http_apikey_limiter_complain(d->limiter, NGX_LOG_ERR,
                                         "apikey_zone: no room for another "
                                         "lease, each request asks Redis, and "
                                         "where those in flight are limited "
                                         "it is refused", &none);
    }
}


static void
ngx_http_apikey_decide_release(ngx_http_apikey_decision_t *d)
{
    ngx_slab_pool_t  *shpool;

    if (!d->held) {
        return;
    }

    shpool = d->limiter->conf.shpool;

    ngx_shmtx_lock(&shpool->mutex);
    ngx_http_apikey_claims_release(d->limiter, d);
    ngx_shmtx_unlock(&shpool->mutex);
}


/* Its TAKE has no answer: what went along with it. */

static void
ngx_http_apikey_decide_keep(ngx_http_apikey_decision_t *d)
{
    ngx_uint_t        i;
    ngx_slab_pool_t  *shpool;

    shpool = d->limiter->conf.shpool;

    ngx_shmtx_lock(&shpool->mutex);

    for (i = 0; i < d->naccounts; i++) {
        ngx_http_apikey_rolls_keep(d->limiter->conf.sh->leases,
                                   &d->accounts[i], NULL, 0);
    }

    ngx_shmtx_unlock(&shpool->mutex);
}


/* It was admitted, but its caller left before hearing of it. */

static void
ngx_http_apikey_decide_refund(ngx_http_apikey_decision_t *d)
{
    ngx_uint_t  i;

    if (d->rc != NGX_OK || d->look) {
        return;
    }

    for (i = 0; i < d->naccounts; i++) {
        d->accounts[i].actual = 0;
    }

    ngx_http_apikey_settle(d->limiter, d);
}


void
ngx_http_apikey_decide_cancel(ngx_http_apikey_decision_t *d)
{
    if (!d->waiting) {
        return;
    }

    d->waiting = 0;

    if (d->queued) {
        d->queued = 0;
        d->limiter->queued--;
        ngx_queue_remove(&d->queue);
    }

    ngx_http_apikey_wait_cancel(d);
    ngx_http_apikey_redis_abandon(&d->call);
    ngx_http_apikey_decide_release(d);
    ngx_http_apikey_decide_keep(d);

    if (d->event.posted) {
        ngx_delete_posted_event(&d->event);
        ngx_http_apikey_decide_refund(d);
    }
}


void
ngx_http_apikey_decide_resume(ngx_http_apikey_decision_t *d)
{
    if (ngx_http_apikey_decide_run(d, 0) != NGX_AGAIN) {
        ngx_post_event(&d->event, &ngx_posted_events);
    }
}


void
ngx_http_apikey_decide_failed(ngx_http_apikey_decision_t *d)
{
    (void) ngx_http_apikey_decide_down(d);

    ngx_post_event(&d->event, &ngx_posted_events);
}


void
ngx_http_apikey_decide_taken(ngx_http_apikey_decision_t *d, ngx_int_t rc)
{
    (void) ngx_http_apikey_decide_done(d, rc, APIKEY_MODE_DIRECT);

    ngx_post_event(&d->event, &ngx_posted_events);
}


static ngx_int_t
ngx_http_apikey_decide_down(ngx_http_apikey_decision_t *d)
{
    ngx_uint_t                     nodes;
    ngx_http_apikey_limit_conf_t  *conf;

    conf = &d->limiter->conf;

    ngx_http_apikey_decide_release(d);
    ngx_http_apikey_decide_keep(d);

    d->known = 0;
    d->decided_at = apikey_clock_real();

    if (d->look) {
        return ngx_http_apikey_decide_done(d, NGX_ERROR,
                                           APIKEY_MODE_DOWN_DENY);
    }

    switch (conf->down) {

    case NGX_HTTP_APIKEY_DOWN_ALLOW:
        return ngx_http_apikey_decide_allow(d);

    case NGX_HTTP_APIKEY_DOWN_DENY:
        return ngx_http_apikey_decide_done(d, NGX_ERROR,
                                           APIKEY_MODE_DOWN_DENY);

    default: /* NGX_HTTP_APIKEY_DOWN_LOCAL */

        nodes = conf->nodes;

        if (nodes == 0) {
            nodes = apikey_stats_get(&conf->stats->nodes);
        }

        return ngx_http_apikey_decide_local(d, ngx_max(nodes, 1),
                                            APIKEY_MODE_DOWN_LOCAL);
    }
}


static ngx_int_t
ngx_http_apikey_decide_allow(ngx_http_apikey_decision_t *d)
{
    ngx_http_apikey_limit_conf_t  *conf;

    conf = &d->limiter->conf;

    ngx_shmtx_lock(&conf->shpool->mutex);
    ngx_http_apikey_alone_allow(d->limiter, d, apikey_clock_boot());
    ngx_shmtx_unlock(&conf->shpool->mutex);

    ngx_http_apikey_decide_missed(d->limiter);

    return ngx_http_apikey_decide_done(d, NGX_OK, APIKEY_MODE_DOWN_ALLOW);
}


static ngx_int_t
ngx_http_apikey_decide_local(ngx_http_apikey_decision_t *d, ngx_uint_t nodes,
    apikey_mode_e mode)
{
    int64_t                        now;
    ngx_int_t                      rc;
    ngx_str_t                      none;
    ngx_http_apikey_limit_conf_t  *conf;

    conf = &d->limiter->conf;

    ngx_shmtx_lock(&conf->shpool->mutex);

    d->share = ngx_max(nodes, 1);

    now = apikey_clock_boot();

    ngx_http_apikey_seed(d->limiter, d, now);

    rc = ngx_http_apikey_local_take(conf->sh->table, d, nodes, now);

    if (rc == NGX_OK) {
        ngx_http_apikey_alone_paid(d->limiter, d, now);
    }

    ngx_shmtx_unlock(&conf->shpool->mutex);

    ngx_http_apikey_decide_missed(d->limiter);

    if (rc == NGX_ABORT) {
        ngx_str_null(&none);
        ngx_http_apikey_limiter_complain(d->limiter, NGX_LOG_CRIT,
                                         "apikey_zone: no room for another "
                                         "bucket, requests are refused",
                                         &none);
        rc = NGX_ERROR;
    }

    d->known = (rc != NGX_ERROR && mode == APIKEY_MODE_LOCAL);

    /* it will be decided again */

    if (d->unknown) {
        d->rc = rc;
        d->mode = mode;
        return rc;
    }

    return ngx_http_apikey_decide_done(d, rc, mode);
}


/* What could not be noted under the mutex, where nothing is logged. */

static void
ngx_http_apikey_decide_missed(ngx_http_apikey_limiter_t *l)
{
    uint64_t   missed;
    ngx_str_t  none;

    missed = l->conf.tallies->file ? l->conf.tallies->file->owed.missed : 0;

    if (missed != l->missed) {
        l->missed = missed;

        ngx_str_null(&none);
        ngx_http_apikey_limiter_complain(l, NGX_LOG_CRIT,
                                         "apikey: no room to note what passes "
                                         "without Redis, it will not be "
                                         "charged there", &none);
    }
}


static ngx_int_t
ngx_http_apikey_decide_done(ngx_http_apikey_decision_t *d, ngx_int_t rc,
    apikey_mode_e mode)
{
    d->rc = rc;
    d->mode = mode;

    if (rc == NGX_OK
        && (mode == APIKEY_MODE_LEASED || mode == APIKEY_MODE_DIRECT))
    {
        d->paid_at = apikey_clock_boot();
    }

    if (!d->look) {
        apikey_stats_count(d->limiter->conf.stats, ngx_process_slot,
                           APIKEY_STATS_DECISIONS(mode));
    }

    return rc;
}


static void
ngx_http_apikey_decide_event_handler(ngx_event_t *ev)
{
    ngx_http_apikey_decision_t  *d;

    d = ev->data;
    d->waiting = 0;

    d->handler(d);
}
