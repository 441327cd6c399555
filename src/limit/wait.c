
/*
 * Requests that wait for leases.
 *
 * The worker that has asked for one wakes who waits in it when the answer
 * comes; who waits for the call of another worker looks every millisecond,
 * which happens when an account turns hot and hardly ever later.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "limit/limiter.h"


#define NGX_HTTP_APIKEY_WAIT_POLL  1         /* ms */


static void ngx_http_apikey_wait_handler(ngx_event_t *ev);
static ngx_uint_t ngx_http_apikey_wait_over(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, ngx_uint_t *foreign);


void
ngx_http_apikey_wait_start(ngx_http_apikey_limiter_t *l)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_APIKEY_LIMITER_WAITS; i++) {
        ngx_queue_init(&l->waits[i]);
    }

    ngx_queue_init(&l->waiting);

    l->poll.handler = ngx_http_apikey_wait_handler;
    l->poll.data = l;
    l->poll.log = l->conf.log;
}


void
ngx_http_apikey_wait_stop(ngx_http_apikey_limiter_t *l)
{
    if (l->poll.timer_set) {
        ngx_del_timer(&l->poll);
    }
}


ngx_int_t
ngx_http_apikey_wait(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d)
{
    ngx_int_t                       rc;
    ngx_uint_t                      i, k;
    ngx_http_apikey_part_t         *part;
    ngx_http_apikey_lease_entry_t  *entry;

    d->asking = 1;
    ngx_queue_insert_tail(&l->waiting, &d->queue);

    for (i = 0; i < d->naccounts; i++) {
        part = &d->parts[i];

        if (d->claims[i].state != APIKEY_CLAIM_MISSING) {
            continue;
        }

        k = part->entry % NGX_HTTP_APIKEY_LIMITER_WAITS;

        part->decision = d;
        part->waits = 1;
        part->foreign = 0;
        ngx_queue_insert_tail(&l->waits[k], &part->queue);
    }

    for (i = 0; i < d->naccounts; i++) {
        part = &d->parts[i];

        if (!part->waits) {
            continue;
        }

        rc = ngx_http_apikey_ask(l, part->entry, 0);

        if (rc == NGX_ERROR) {
            ngx_http_apikey_wait_cancel(d);
            return NGX_ERROR;
        }

        entry = &l->conf.sh->leases->entries[part->entry];

        part->call = rc == NGX_DECLINED ? 0 : entry->lease.call;
        part->foreign = (rc == NGX_DECLINED || entry->asker != l->id);
    }

    /* a timer that is there already may be far off */

    if (l->poll.timer_set) {
        ngx_del_timer(&l->poll);
    }

    ngx_add_timer(&l->poll, NGX_HTTP_APIKEY_WAIT_POLL);

    return NGX_OK;
}


void
ngx_http_apikey_wait_cancel(ngx_http_apikey_decision_t *d)
{
    ngx_uint_t               i;
    ngx_http_apikey_part_t  *part;

    if (!d->asking) {
        return;
    }

    d->asking = 0;
    ngx_queue_remove(&d->queue);

    for (i = 0; i < d->naccounts; i++) {
        part = &d->parts[i];

        if (part->waits) {
            part->waits = 0;
            ngx_queue_remove(&part->queue);
        }
    }
}


void
ngx_http_apikey_wait_need(ngx_http_apikey_limiter_t *l, uint32_t entry,
    uint64_t *need, uint64_t *least)
{
    uint64_t                     cost;
    ngx_queue_t                 *q, *queue;
    ngx_http_apikey_part_t      *part;
    ngx_http_apikey_decision_t  *d;

    *need = 0;
    *least = 1;

    queue = &l->waits[entry % NGX_HTTP_APIKEY_LIMITER_WAITS];

    for (q = ngx_queue_head(queue);
         q != ngx_queue_sentinel(queue);
         q = ngx_queue_next(q))
    {
        part = ngx_queue_data(q, ngx_http_apikey_part_t, queue);

        if (part->entry == entry) {
            d = part->decision;
            cost = d->claims[part - d->parts].cost;

            *need += cost;
            *least = ngx_max(*least, cost);
        }
    }
}


void
ngx_http_apikey_wait_wake(ngx_http_apikey_limiter_t *l, uint32_t entry,
    ngx_uint_t ok)
{
    ngx_queue_t                  woken, *q, *next, *queue;
    ngx_http_apikey_part_t      *part;
    ngx_http_apikey_decision_t  *d;

    ngx_queue_init(&woken);

    queue = &l->waits[entry % NGX_HTTP_APIKEY_LIMITER_WAITS];

    for (q = ngx_queue_head(queue); q != ngx_queue_sentinel(queue); q = next) {
        next = ngx_queue_next(q);

        part = ngx_queue_data(q, ngx_http_apikey_part_t, queue);

        if (part->entry == entry) {
            part->waits = 0;
            ngx_queue_remove(q);
            ngx_queue_insert_tail(&woken, q);
        }
    }

    while (!ngx_queue_empty(&woken)) {
        q = ngx_queue_head(&woken);
        ngx_queue_remove(q);

        part = ngx_queue_data(q, ngx_http_apikey_part_t, queue);
        d = part->decision;

        ngx_http_apikey_wait_cancel(d);

        if (ok) {
            ngx_http_apikey_decide_resume(d);

        } else {
            ngx_http_apikey_decide_failed(d);
        }
    }
}


static void
ngx_http_apikey_wait_handler(ngx_event_t *ev)
{
    ngx_msec_t                   wait;
    ngx_uint_t                   foreign;
    ngx_queue_t                 *q, over;
    ngx_msec_int_t               rest;
    ngx_slab_pool_t             *shpool;
    ngx_http_apikey_limiter_t   *l;
    ngx_http_apikey_decision_t  *d;

    l = ev->data;
    shpool = l->conf.shpool;
    foreign = 0;

    ngx_queue_init(&over);

    ngx_shmtx_lock(&shpool->mutex);

    q = ngx_queue_head(&l->waiting);

    while (q != ngx_queue_sentinel(&l->waiting)) {
        d = ngx_queue_data(q, ngx_http_apikey_decision_t, queue);
        q = ngx_queue_next(q);

        if (ngx_http_apikey_wait_over(l, d, &foreign)) {
            ngx_http_apikey_wait_cancel(d);
            ngx_queue_insert_tail(&over, &d->queue);
        }
    }

    ngx_shmtx_unlock(&shpool->mutex);

    while (!ngx_queue_empty(&over)) {
        q = ngx_queue_head(&over);
        ngx_queue_remove(q);

        d = ngx_queue_data(q, ngx_http_apikey_decision_t, queue);

        if ((ngx_msec_int_t) (d->call.deadline - ngx_current_msec) > 0) {
            ngx_http_apikey_decide_resume(d);

        } else {
            ngx_http_apikey_decide_failed(d);
        }
    }

    if (ngx_queue_empty(&l->waiting) || l->poll.timer_set) {
        return;
    }

    q = ngx_queue_head(&l->waiting);
    d = ngx_queue_data(q, ngx_http_apikey_decision_t, queue);

    rest = (ngx_msec_int_t) (d->call.deadline - ngx_current_msec);
    wait = foreign ? NGX_HTTP_APIKEY_WAIT_POLL : (ngx_msec_t) ngx_max(rest, 1);

    ngx_add_timer(&l->poll, wait);
}


/* Its time is over, or the call of another worker is. */

static ngx_uint_t
ngx_http_apikey_wait_over(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, ngx_uint_t *foreign)
{
    ngx_uint_t                      i;
    ngx_http_apikey_part_t         *part;
    ngx_http_apikey_lease_entry_t  *entry;

    if ((ngx_msec_int_t) (d->call.deadline - ngx_current_msec) <= 0) {
        return 1;
    }

    for (i = 0; i < d->naccounts; i++) {
        part = &d->parts[i];

        if (!part->waits || !part->foreign) {
            continue;
        }

        *foreign = 1;

        entry = &l->conf.sh->leases->entries[part->entry];

        (void) ngx_http_apikey_ask_stale(l, entry, apikey_clock_boot());

        if (part->call == 0 || entry->lease.call != part->call) {
            return 1;
        }
    }

    return 0;
}
