
/*
 * The worker's part: a slot for each admitted request, and the tick that
 * elects the shipper and keeps a leaving worker until its records are safe.
 *
 * Memory: rings are mapped files; the rest lives in the pool of start().
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include <sys/file.h>

#include "base/clock.h"
#include "base/digest.h"
#include "base/serial.h"
#include "base/uuid.h"
#include "usage/ship.h"


static apikey_ring_e ngx_http_apikey_usage_claim(ngx_http_apikey_usage_t *u);
static apikey_slot_t *ngx_http_apikey_usage_get(ngx_http_apikey_usage_t *u,
    size_t size, apikey_ring_t **ring);
static void ngx_http_apikey_usage_head(apikey_record_t *record,
    ngx_http_apikey_usage_start_t *start, apikey_record_e kind,
    uint64_t prefix);
static void ngx_http_apikey_usage_tick(ngx_event_t *ev);
static void ngx_http_apikey_usage_elect(ngx_http_apikey_usage_t *u);
static ngx_uint_t ngx_http_apikey_usage_pending(ngx_http_apikey_usage_t *u);


ngx_http_apikey_usage_t *
ngx_http_apikey_usage_start(ngx_pool_t *pool,
    ngx_http_apikey_usage_conf_t *conf)
{
    u_char                   *p;
    ngx_http_apikey_usage_t  *u;

    u = ngx_pcalloc(pool, sizeof(ngx_http_apikey_usage_t));
    if (u == NULL) {
        return NULL;
    }

    u->conf = *conf;
    u->log = conf->log;
    u->lock = -1;

    p = ngx_pnalloc(pool, conf->node_name.len + 1);
    u->dir = ngx_http_apikey_ring_dir(pool, conf);

    if (p == NULL || u->dir == NULL
        || !apikey_random(&u->ids, sizeof(uint64_t))
        || !apikey_random(&u->serial, sizeof(uint64_t)))
    {
        return NULL;
    }

    ngx_cpystrn(p, conf->node_name.data, conf->node_name.len + 1);
    u->conf.node_name.data = p;

    if (ngx_http_apikey_usage_claim(u) != APIKEY_RING_OK) {
        ngx_log_error(NGX_LOG_ALERT, u->log, 0,
                      "apikey: no usage ring could be claimed in \"%s\"",
                      u->dir);
    }

    ngx_http_apikey_usage_details(u, pool);

    u->period = ngx_max(NGX_HTTP_APIKEY_TICK_MIN,
                        ngx_min(conf->sync, NGX_HTTP_APIKEY_TICK_MAX));
    u->tick.handler = ngx_http_apikey_usage_tick;
    u->tick.data = u;
    u->tick.log = u->log;
    u->tick.cancelable = 1;

    ngx_add_timer(&u->tick, 1);

    return u;
}


void
ngx_http_apikey_usage_stop(ngx_http_apikey_usage_t *u)
{
    ngx_uint_t  i, left;

    if (u->tick.timer_set) {
        ngx_del_timer(&u->tick);
    }

    /* requests that still run will not come to their log phase */

    left = 0;

    for (i = 0; i < u->nown; i++) {
        apikey_ring_release(&u->own[i], apikey_clock_real());
        left |= apikey_ring_head(&u->own[i]) > apikey_ring_tail(&u->own[i]);
        apikey_ring_close(&u->own[i]);
    }

    u->nown = 0;
    u->nsums = 0;
    u->stopping = 1;

    for (i = 0; left && u->ship == NULL && i < 20; i++) {
        ngx_http_apikey_usage_elect(u);

        if (u->ship == NULL) {
            ngx_msleep(5);
        }
    }

    if (u->ship) {
        ngx_http_apikey_ship_destroy(u->ship);
        u->ship = NULL;
    }

    if (u->lock != -1) {
        (void) close(u->lock);
        u->lock = -1;
    }
}


void
ngx_http_apikey_usage_id(ngx_http_apikey_usage_t *u, u_char id[16],
    int64_t time)
{
    u->serial = (u->serial + 1) & APIKEY_SERIAL_MASK;

    apikey_ring_ahead(&u->own[0]);       /* it will want a slot */

    apikey_uuid_number(id, time, apikey_serial_hide(u->ids, u->serial));
}


ngx_uint_t
ngx_http_apikey_usage_elected(ngx_http_apikey_usage_t *u)
{
    return u->ship != NULL;
}


/* Another ring for this worker: a free one, or a new one. */

static apikey_ring_e
ngx_http_apikey_usage_claim(ngx_http_apikey_usage_t *u)
{
    uint32_t        i;
    apikey_ring_e   rc;
    apikey_ring_t  *ring;

    if (u->nown == NGX_HTTP_APIKEY_OWN_RINGS) {
        return APIKEY_RING_BUSY;
    }

    ring = &u->own[u->nown];

    for (i = 0; i < NGX_HTTP_APIKEY_RINGS; i++) {
        rc = apikey_ring_open(ring, (char *) u->dir, i, u->conf.node);

        if (rc == APIKEY_RING_FAILED && ring->err == ENOENT) {
            rc = apikey_ring_create(ring, (char *) u->dir, i, u->conf.node,
                                    ngx_http_apikey_ring_epoch(), -1, -1);

            if (rc == APIKEY_RING_OK) {
                rc = apikey_ring_open(ring, (char *) u->dir, i, u->conf.node);
            }
        }

        if (rc == APIKEY_RING_FAILED) {
            ngx_log_error(NGX_LOG_ERR, u->log, ring->err,
                          "apikey: %s of \"%s/ring.%uD\" failed", ring->what,
                          u->dir, i);
            return rc;
        }

        if (rc != APIKEY_RING_OK) {
            continue;
        }

        if (ring->copied) {
            apikey_ring_close(ring);
            continue;
        }

        ngx_http_apikey_usage_heir(u, ring);

        rc = apikey_ring_claim(ring, apikey_clock_real());

        if (rc == APIKEY_RING_OK) {
            __atomic_store_n(&ring->file->ids, u->ids, __ATOMIC_RELAXED);
            u->nown++;
            return rc;
        }

        apikey_ring_close(ring);
    }

    return APIKEY_RING_BUSY;
}


void
ngx_http_apikey_usage_heir(ngx_http_apikey_usage_t *u, apikey_ring_t *ring)
{
    ring->zone = u->conf.zone;
    ring->lost = u->conf.lost;
    ring->data = u->conf.lost_data;
}


ngx_http_apikey_usage_slot_t *
ngx_http_apikey_usage_open(ngx_http_apikey_usage_t *u,
    ngx_http_apikey_usage_start_t *start)
{
    apikey_slot_t  *slot;
    apikey_ring_t  *ring;

    slot = ngx_http_apikey_usage_fill(u, start, APIKEY_RECORD_EVENT, &ring);

    if (slot == NULL) {
        if (!u->conf.refuse) {
            ngx_http_apikey_usage_dropped(u);
        }

        return NULL;
    }

    apikey_ring_opened(ring, slot, APIKEY_SLOT_OPEN, start->unknown);

    return (ngx_http_apikey_usage_slot_t *) slot;
}


void
ngx_http_apikey_usage_close(ngx_http_apikey_usage_t *u,
    ngx_http_apikey_usage_slot_t *s, ngx_http_apikey_usage_end_t *end)
{
    apikey_slot_t    *slot;
    apikey_count_t   *count;
    apikey_shape_t   *shape;

    slot = (apikey_slot_t *) s;
    count = &slot->record.count;
    shape = &slot->record.shape;

    count->bytes_in = end->bytes_in;
    count->bytes_out = end->bytes_out;
    count->duration = end->duration;
    count->upstream = end->upstream;
    count->tokens[0] = end->tokens_input;
    count->tokens[1] = end->tokens_output;
    count->tokens[2] = end->tokens_cached;
    count->tokens[3] = end->tokens_reasoning;
    count->cost = end->cost;
    count->price = end->price;
    shape->status = end->status;
    shape->source = end->source;
    shape->end = end->end;

    ngx_http_apikey_usage_publish(u, ngx_http_apikey_usage_ring(u, slot),
                                  slot);
}


void
ngx_http_apikey_usage_release(ngx_http_apikey_usage_slot_t *s)
{
    apikey_slot_t  *slot;

    slot = (apikey_slot_t *) s;

    slot->holds = 0;

    __atomic_thread_fence(__ATOMIC_RELEASE);   /* and only then given back */
}


void
ngx_http_apikey_usage_drop(ngx_http_apikey_usage_t *u,
    ngx_http_apikey_usage_slot_t *s)
{
    apikey_slot_t  *slot;

    slot = (apikey_slot_t *) s;

    apikey_ring_put(ngx_http_apikey_usage_ring(u, slot), slot);
}


/* A slot with everything that is known at the start; not yet opened. */

apikey_slot_t *
ngx_http_apikey_usage_fill(ngx_http_apikey_usage_t *u,
    ngx_http_apikey_usage_start_t *start, apikey_record_e kind,
    apikey_ring_t **ring)
{
    char             *p;
    size_t            size, len[APIKEY_TEXTS];
    ngx_str_t        *text[APIKEY_TEXTS];
    ngx_uint_t        i, holds;
    apikey_slot_t    *slot;

    text[APIKEY_TEXT_OWNER] = &start->owner;
    text[APIKEY_TEXT_CUSTOMER] = &start->customer;
    text[APIKEY_TEXT_SERVICE] = &start->service;
    text[APIKEY_TEXT_ENDPOINT] = &start->endpoint;
    text[APIKEY_TEXT_MODEL] = &start->model;
    text[APIKEY_TEXT_LIMIT] = &start->limit_name;
    text[APIKEY_TEXT_SESSION] = &start->session;

    size = sizeof(apikey_record_t);

    for (i = 0; i < APIKEY_TEXTS; i++) {
        len[i] = apikey_text_cut((char *) text[i]->data, text[i]->len,
                                 APIKEY_TEXT_MAX);
        size += len[i];
    }

    holds = ngx_min(start->nholds, APIKEY_HOLDS);

    if (holds) {
        size = apikey_ring_room(size, holds);
    }

    slot = ngx_http_apikey_usage_get(u, size, ring);
    if (slot == NULL) {
        return NULL;
    }

    ngx_http_apikey_usage_head(&slot->record, start, kind,
                               ngx_http_apikey_usage_prefix(u));

    p = slot->record.text;

    for (i = 0; i < APIKEY_TEXTS; i++) {
        slot->record.shape.len[i] = (uint8_t) len[i];

        if (len[i]) {
            p = (char *) ngx_cpymem(p, text[i]->data, len[i]);
        }
    }

    slot->holds = holds;

    if (holds) {
        ngx_memcpy(apikey_ring_holds(slot), start->holds,
                   holds * sizeof(apikey_hold_t));
    }

    return slot;
}


/* The setting client_prefix; until it was read its default holds. */

uint64_t
ngx_http_apikey_usage_prefix(ngx_http_apikey_usage_t *u)
{
    uint64_t  prefix;

    prefix = u->conf.stats ? apikey_stats_get(&u->conf.stats->client_prefix)
                           : 0;

    return prefix ? prefix : APIKEY_CLIENT_PREFIX(24, 48);
}


static void
ngx_http_apikey_usage_head(apikey_record_t *record,
    ngx_http_apikey_usage_start_t *start, apikey_record_e kind,
    uint64_t prefix)
{
    apikey_count_t  *count;
    apikey_shape_t  *shape;

    count = &record->count;
    shape = &record->shape;

    ngx_memzero(record, sizeof(apikey_record_t));

    ngx_memcpy(count->event, start->event, 16);
    ngx_memcpy(count->client, start->client, 16);
    (void) apikey_client_shorten(count->client, prefix & 0xff,
                                 prefix >> 8 & 0xff);
    count->time = start->time;
    count->count = 1;
    count->remaining = start->remaining;

    shape->kind = kind;

    if (kind == APIKEY_RECORD_EVENT) {
        count->tokens[1] = start->tokens;
        count->cost = start->cost;
        count->price = start->price;
        shape->source = (start->tokens || start->cost > 0)
                        ? NGX_HTTP_APIKEY_USAGE_ESTIMATE
                        : NGX_HTTP_APIKEY_USAGE_NONE;
    }

    shape->verdict = start->verdict;
    shape->mode = start->mode;
    shape->status = start->status;
    shape->method = start->method;
    shape->retry_after = start->retry_after;
    shape->weight = start->weight;
    shape->limit = start->limit;
    ngx_memcpy(shape->key, start->key, 16);
    ngx_memcpy(shape->secret, start->secret, 16);
}


static apikey_slot_t *
ngx_http_apikey_usage_get(ngx_http_apikey_usage_t *u, size_t size,
    apikey_ring_t **ring)
{
    ngx_uint_t      i;
    apikey_slot_t  *slot;

    for (i = 0; i < u->nown; i++) {
        slot = apikey_ring_get(&u->own[i], size);

        if (slot) {
            *ring = &u->own[i];
            return slot;
        }
    }

    /* the disk is slow, or there are very many requests at once */

    if ((ngx_msec_int_t) (u->grow_at - ngx_current_msec) > 0) {
        return NULL;
    }

    if (ngx_http_apikey_usage_claim(u) != APIKEY_RING_OK) {
        u->grow_at = ngx_current_msec + 1000;
        return NULL;
    }

    *ring = &u->own[u->nown - 1];

    return apikey_ring_get(*ring, size);
}


apikey_ring_t *
ngx_http_apikey_usage_ring(ngx_http_apikey_usage_t *u, apikey_slot_t *slot)
{
    u_char      *p, *start;
    ngx_uint_t   i;

    p = (u_char *) slot;

    for (i = 1; i < u->nown; i++) {
        start = (u_char *) u->own[i].file;

        if (p >= start && p < start + apikey_ring_size()) {
            return &u->own[i];
        }
    }

    return &u->own[0];
}


void
ngx_http_apikey_usage_publish(ngx_http_apikey_usage_t *u, apikey_ring_t *ring,
    apikey_slot_t *slot)
{
    apikey_ring_publish(ring, slot);

    /* a worker that is leaving stays until this is safe */

    u->tick.cancelable = u->drained;
}


void
ngx_http_apikey_usage_dropped(ngx_http_apikey_usage_t *u)
{
    static ngx_msec_t  last;

    if (u->conf.stats) {
        apikey_stats_add(&u->conf.stats->dropped, 1);
    }

    if ((ngx_msec_int_t) (ngx_current_msec - last) >= 1000) {
        last = ngx_current_msec;
        ngx_log_error(NGX_LOG_ALERT, u->log, 0,
                      "apikey: usage records are dropped: no room in \"%s\"",
                      u->dir);
    }
}


static void
ngx_http_apikey_usage_tick(ngx_event_t *ev)
{
    ngx_http_apikey_usage_t  *u;

    u = ev->data;

    if (ngx_exiting && !u->quitting) {
        u->quitting = 1;
        u->quit_at = ngx_current_msec + u->conf.drain;
    }

    ngx_http_apikey_usage_flush(u);

    if (u->ship == NULL && !u->drained) {
        ngx_http_apikey_usage_elect(u);
    }

    if (u->ship) {
        ngx_http_apikey_ship_run(u->ship);
    }

    if (u->quitting && !u->drained
        && (ngx_msec_int_t) (ngx_current_msec - u->quit_at) >= 0)
    {
        u->drained = 1;

        if (u->ship) {
            ngx_http_apikey_ship_disconnect(u->ship);
        }
    }

    /* one long request must not keep the next shipper from its work */

    if (u->drained && u->ship && !u->ship->busy) {
        ngx_http_apikey_ship_destroy(u->ship);
        u->ship = NULL;

        (void) close(u->lock);
        u->lock = -1;
    }

    ev->cancelable = u->drained || !ngx_http_apikey_usage_pending(u);

    ngx_add_timer(ev, u->ship ? ngx_http_apikey_ship_wait(u->ship)
                              : u->period);
}


static void
ngx_http_apikey_usage_elect(ngx_http_apikey_usage_t *u)
{
    u_char  name[NGX_MAX_PATH];

    if (u->lock == -1) {
        if (ngx_snprintf(name, sizeof(name), "%V/ship.lock%Z",
                         &u->conf.directory)
            == name + sizeof(name))
        {
            return;
        }

        u->lock = open((char *) name, O_RDWR|O_CREAT|O_CLOEXEC, 0600);

        if (u->lock == -1) {
            return;
        }
    }

    if (flock(u->lock, LOCK_EX|LOCK_NB) == -1) {
        return;
    }

    u->ship = ngx_http_apikey_ship_create(u);

    if (u->ship == NULL) {
        (void) flock(u->lock, LOCK_UN);
    }
}


static ngx_uint_t
ngx_http_apikey_usage_pending(ngx_http_apikey_usage_t *u)
{
    ngx_uint_t  i;

    if (u->nsums) {
        return 1;
    }

    if (u->ship) {
        return ngx_http_apikey_ship_pending(u->ship);
    }

    for (i = 0; i < u->nown; i++) {
        if (apikey_ring_head(&u->own[i]) > apikey_ring_tail(&u->own[i])) {
            return 1;
        }
    }

    return 0;
}
