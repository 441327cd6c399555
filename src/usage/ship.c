
/*
 * The shipper: what one elected worker does besides its requests.  It runs
 * from the worker's tick and from the ends of its own I/O, and starts at most
 * one call of the disk and one statement at a time.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/clock.h"
#include "usage/ship.h"


static ngx_int_t ngx_http_apikey_ship_alloc(ngx_http_apikey_ship_t *ship);
static ngx_int_t ngx_http_apikey_ship_connect(ngx_http_apikey_ship_t *ship);
static void ngx_http_apikey_ship_flush(ngx_http_apikey_ship_t *ship);
static void ngx_http_apikey_ship_free(ngx_http_apikey_ship_t *ship);


ngx_http_apikey_ship_t *
ngx_http_apikey_ship_create(ngx_http_apikey_usage_t *u)
{
    ngx_http_apikey_ship_t  *ship;

    ship = calloc(1, sizeof(ngx_http_apikey_ship_t));
    if (ship == NULL) {
        return NULL;
    }

    ship->usage = u;
    ship->log = u->log;
    ship->spool.fd = -1;
    ship->max = 1 << 24;
    ship->scan_at = ngx_current_msec;
    ship->disk_retry = ngx_current_msec;
    ship->read_retry = ngx_current_msec;
    ship->retry_at = ngx_current_msec;
    ship->beat_at = ngx_current_msec;
    ship->since = apikey_clock_real();

    if (ngx_http_apikey_ship_alloc(ship) != NGX_OK) {
        goto failed;
    }

    /* a worker that is leaving has no threads any more */

    if (u->stopping) {
        ship->bad = 1;

    } else {
        ship->task = ngx_thread_task_alloc(ngx_cycle->pool,
                                           sizeof(ngx_http_apikey_ship_t *));
        if (ship->task == NULL) {
            goto failed;
        }

        *(ngx_http_apikey_ship_t **) ship->task->ctx = ship;
    }

    if (ngx_http_apikey_ship_connect(ship) != NGX_OK) {
        goto failed;
    }

    return ship;

failed:

    ngx_http_apikey_ship_free(ship);

    return NULL;
}


static ngx_int_t
ngx_http_apikey_ship_alloc(ngx_http_apikey_ship_t *ship)
{
    ship->chunk = malloc(APIKEY_SPOOL_CHUNK);
    ship->frames = malloc(NGX_HTTP_APIKEY_FRAMES);
    ship->later = malloc(NGX_HTTP_APIKEY_FRAMES);
    ship->batch = ngx_http_apikey_batch_create();

    if (ship->chunk == NULL || ship->frames == NULL || ship->later == NULL
        || ship->batch == NULL)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_ship_connect(ngx_http_apikey_ship_t *ship)
{
    ngx_http_apikey_pg_conf_t  conf;

    ngx_memzero(&conf, sizeof(ngx_http_apikey_pg_conf_t));

    conf.conninfo = ship->usage->conf.conninfo;
    conf.connect_timeout = 5000;
    conf.name = "apikey ship";

    ship->pg = ngx_http_apikey_pg_create(ngx_cycle->pool, &conf,
                                         ship->usage->conf.stats, ship->log);

    return ship->pg ? NGX_OK : NGX_ERROR;
}


void
ngx_http_apikey_ship_run(ngx_http_apikey_ship_t *ship)
{
    ngx_http_apikey_ship_scan(ship);
    ngx_http_apikey_ship_disk(ship);
    ngx_http_apikey_ship_pg(ship);
    ngx_http_apikey_ship_disk(ship);
}


/*
 * May this worker go?  What was recorded until it was asked to is what it
 * ships; the next generation ships what comes later.
 */

ngx_uint_t
ngx_http_apikey_ship_pending(ngx_http_apikey_ship_t *ship)
{
    ngx_uint_t                    i;
    ngx_http_apikey_ship_ring_t  *r;

    if (ship->busy) {
        return 1;
    }

    if (ngx_exiting && !ship->closing) {
        ship->closing = 1;

        for (i = 0; i < ship->nrings; i++) {
            r = &ship->rings[i];
            r->target = r->open ? apikey_ring_head(&r->ring) : 0;
        }
    }

    if (ship->pg == NULL) {
        return 0;
    }

    if (!ship->known || (!ship->opened && !ship->bad)) {
        return 1;
    }

    for (i = 0; i < ship->nrings; i++) {
        r = &ship->rings[i];

        if (r->open
            && apikey_marks_get(&ship->marks, (uint32_t) i,
                                r->ring.file->epoch)
               < (ship->closing ? r->target : apikey_ring_head(&r->ring)))
        {
            return 1;
        }
    }

    return 0;
}


void
ngx_http_apikey_ship_disconnect(ngx_http_apikey_ship_t *ship)
{
    if (ship->pg) {
        ngx_http_apikey_pg_close(ship->pg);
        ship->pg = NULL;
        ship->asking = 0;
    }
}


void
ngx_http_apikey_ship_destroy(ngx_http_apikey_ship_t *ship)
{
    ngx_http_apikey_ship_disconnect(ship);

    /* the threads have ended by now: a call under way has come to its end */

    if (ship->busy) {
        ship->busy = 0;

        if (ship->disk_op == NGX_HTTP_APIKEY_DISK_OPEN) {
            ship->opened = ship->disk_rc == APIKEY_SPOOL_OK;

        } else if (ship->disk_op != NGX_HTTP_APIKEY_DISK_READ) {
            (void) ngx_http_apikey_ship_settle(ship);
        }

    } else if (ship->direct) {
        ngx_http_apikey_ship_ungather(ship);
    }

    ngx_http_apikey_ship_flush(ship);
    ngx_http_apikey_ship_free(ship);
}


/* tmpfs does not outlive the machine: the last one out writes the rest. */

static void
ngx_http_apikey_ship_flush(ngx_http_apikey_ship_t *ship)
{
    int64_t                   as_of;
    ngx_uint_t                i;
    ngx_http_apikey_usage_t  *u;

    u = ship->usage;
    ship->scan_at = ngx_current_msec;
    ngx_http_apikey_ship_scan(ship);

    if (!ngx_http_apikey_ship_waiting(ship)
        && !ngx_http_apikey_ship_unsafe(ship))
    {
        return;
    }

    if (!ship->opened) {
        if (apikey_spool_open(&ship->spool, (char *) u->conf.directory.data,
                              u->conf.node, (uint64_t) u->conf.size)
            != APIKEY_SPOOL_OK)
        {
            return;
        }

        ship->opened = 1;

        for (i = 0; i < ship->nrings; i++) {
            ngx_http_apikey_ship_found(ship, &ship->rings[i]);
        }
    }

    /* no end without end: other workers may go on writing */

    for (i = 0; i < 256; i++) {
        ship->chunk_len = ngx_http_apikey_ship_gather(ship, ship->chunk,
                                                      APIKEY_SPOOL_CHUNK,
                                                      &as_of);

        ship->sync = ship->chunk_len == 0;
        ship->disk_rc = ship->sync ? apikey_spool_sync(&ship->spool)
                        : apikey_spool_append(&ship->spool, ship->chunk,
                                              ship->chunk_len,
                                              apikey_clock_real(),
                                              &ship->marks);

        if (!ngx_http_apikey_ship_settle(ship) || ship->sync) {
            return;
        }
    }
}


static void
ngx_http_apikey_ship_free(ngx_http_apikey_ship_t *ship)
{
    ngx_uint_t  i;

    ngx_http_apikey_ship_disconnect(ship);

    for (i = 0; i < ship->nrings; i++) {
        if (ship->rings[i].open) {
            apikey_ring_close(&ship->rings[i].ring);
        }
    }

    apikey_spool_close(&ship->spool);
    apikey_marks_free(&ship->marks);
    apikey_marks_free(&ship->shipped);

    if (ship->batch) {
        ngx_http_apikey_batch_destroy(ship->batch);
    }

    ngx_http_apikey_text_free(&ship->runs);
    free(ship->chunk);
    free(ship->frames);
    free(ship->later);
    free(ship);
}
