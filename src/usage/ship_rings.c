
/*
 * The shipper's side of the rings: which there are, frames of what is new in
 * them, and how much of that is safe elsewhere.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/clock.h"
#include "usage/ship.h"


#define NGX_HTTP_APIKEY_SCAN           1000  /* ms between looks for rings */

/* on their way to the cache: records, and what the encoder wants for one; a
   power of two */
#define NGX_HTTP_APIKEY_RECORDS_AHEAD  4
#define NGX_HTTP_APIKEY_ENTRIES_AHEAD  4


typedef struct {
    const apikey_record_t  *record;      /* NULL: damaged memory */
    apikey_record_hash_t    hash;
} ngx_http_apikey_ahead_t;


static void ngx_http_apikey_ship_adopt(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_ship_ring_t *r);
static void ngx_http_apikey_ship_renew(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_ship_ring_t *r);
static size_t ngx_http_apikey_ship_encode(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_ship_ring_t *r, uint64_t head, u_char *buf, size_t size);
static void ngx_http_apikey_ship_ahead(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_ship_ring_t *r, uint64_t number,
    ngx_http_apikey_ahead_t *a);


/* Finds new rings, and takes over what dead workers left in theirs. */

void
ngx_http_apikey_ship_scan(ngx_http_apikey_ship_t *ship)
{
    ngx_uint_t                    i;
    apikey_ring_e                 rc;
    ngx_http_apikey_usage_t      *u;
    ngx_http_apikey_ship_ring_t  *r;

    if ((ngx_msec_int_t) (ship->scan_at - ngx_current_msec) > 0) {
        return;
    }

    ship->scan_at = ngx_current_msec + NGX_HTTP_APIKEY_SCAN;
    u = ship->usage;

    for (i = 0; i < NGX_HTTP_APIKEY_RINGS; i++) {
        r = &ship->rings[i];

        if (r->foreign) {
            continue;
        }

        if (!r->open) {
            rc = apikey_ring_open(&r->ring, (char *) u->dir, (uint32_t) i,
                                  u->conf.node);

            if (rc == APIKEY_RING_FAILED) {
                if (r->ring.err == ENOENT) {
                    break;               /* they are made in order */
                }

                ngx_log_error(NGX_LOG_ERR, ship->log, r->ring.err,
                              "apikey: %s of \"%s/ring.%ui\" failed",
                              r->ring.what, u->dir, i);
                continue;
            }

            if (rc == APIKEY_RING_FOREIGN) {
                ngx_log_error(NGX_LOG_WARN, ship->log, 0,
                              "apikey: \"%s/ring.%ui\" is of another version "
                              "or node and left alone", u->dir, i);
                r->foreign = 1;
                continue;
            }

            ngx_http_apikey_usage_heir(u, &r->ring);

            r->open = 1;
            r->ran = 0;
            ngx_http_apikey_ship_found(ship, r);
        }

        if (i >= ship->nrings) {
            ship->nrings = i + 1;
        }

        ngx_http_apikey_ship_adopt(ship, r);

        if (r->ring.copied) {
            ngx_http_apikey_ship_renew(ship, r);
        }
    }
}


/* Synced by a shipper that died before it moved the tail? */

void
ngx_http_apikey_ship_found(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_ship_ring_t *r)
{
    uint64_t             last;
    apikey_ring_file_t  *file;

    if (r->open && ship->opened && !ship->busy) {
        file = r->ring.file;
        last = apikey_spool_last(&ship->spool, file->stream, file->epoch);

        apikey_ring_done(&r->ring, ngx_min(apikey_ring_head(&r->ring), last));
    }

    r->taken = r->ring.read;
}


static void
ngx_http_apikey_ship_adopt(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_ship_ring_t *r)
{
    uint64_t  read;

    if (!__atomic_load_n(&r->ring.file->dirty, __ATOMIC_ACQUIRE)) {
        return;
    }

    /* another open file than the owner's: its lock holds against this one */

    read = r->ring.read;

    if (apikey_ring_claim(&r->ring, apikey_clock_real()) != APIKEY_RING_OK) {
        return;
    }

    ngx_log_error(NGX_LOG_NOTICE, ship->log, 0,
                  "apikey: took over usage ring %uD of a worker that is gone",
                  r->ring.file->stream);

    apikey_ring_release(&r->ring, apikey_clock_real());
    r->ring.read = read;
}


/* A copy is of use again when all of it is safe; it is found anew then. */

static void
ngx_http_apikey_ship_renew(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_ship_ring_t *r)
{
    uint64_t                  head;
    apikey_ring_e             rc;
    ngx_http_apikey_usage_t  *u;

    u = ship->usage;
    head = apikey_ring_head(&r->ring);

    if (ship->busy || ship->direct || ship->closing
        || r->ring.read != head || r->taken != head)
    {
        return;
    }

    rc = apikey_ring_renew(&r->ring, (char *) u->dir,
                           ngx_http_apikey_ring_epoch());

    if (rc == APIKEY_RING_BUSY) {
        return;
    }

    if (rc != APIKEY_RING_OK) {
        ngx_log_error(NGX_LOG_ERR, ship->log, r->ring.err,
                      "apikey: %s of a new \"%s/ring.%uD\" failed",
                      r->ring.what, u->dir, r->ring.file->stream);
        return;
    }

    ngx_log_error(NGX_LOG_NOTICE, ship->log, 0,
                  "apikey: usage ring %uD was a copy, made anew",
                  r->ring.file->stream);

    apikey_ring_close(&r->ring);
    r->open = 0;
}


ngx_uint_t
ngx_http_apikey_ship_waiting(ngx_http_apikey_ship_t *ship)
{
    ngx_uint_t  i;

    for (i = 0; i < ship->nrings; i++) {
        if (ship->rings[i].open
            && apikey_ring_head(&ship->rings[i].ring)
               > ship->rings[i].ring.read)
        {
            return 1;
        }
    }

    return 0;
}


/*
 * Frames of what is new in the rings.  *as_of: everything recorded before it
 * is in these frames or went before; 0: the buffer is too small for all.
 */

size_t
ngx_http_apikey_ship_gather(ngx_http_apikey_ship_t *ship, u_char *buf,
    size_t size, int64_t *as_of)
{
    size_t                        len, n;
    uint64_t                      head;
    ngx_uint_t                    i;
    ngx_http_apikey_ship_ring_t  *r;

    *as_of = apikey_clock_real()
             - 2 * 1000 * (int64_t) ship->usage->period;
    len = 0;
    ship->rest = 0;
    ship->chunk_count = 0;

    for (i = 0; i < ship->nrings; i++) {
        r = &ship->rings[i];

        if (!r->open) {
            continue;
        }

        head = apikey_ring_head(&r->ring);
        r->taken = r->ring.read;
        ship->spool.ids[i] = __atomic_load_n(&r->ring.file->ids,
                                             __ATOMIC_RELAXED);

        while (r->taken < head) {
            n = ngx_http_apikey_ship_encode(ship, r, head, buf + len,
                                            size - len);
            if (n == 0) {
                ship->rest = 1;
                *as_of = 0;
                break;
            }

            len += n;
        }

        ship->chunk_count += r->taken - r->ring.read;
    }

    return len;
}


static size_t
ngx_http_apikey_ship_encode(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_ship_ring_t *r, uint64_t head, u_char *buf, size_t size)
{
    uint64_t                  seen;
    ngx_http_apikey_ahead_t  *a, ahead[NGX_HTTP_APIKEY_ENTRIES_AHEAD];

    if (size < 4096) {
        return 0;
    }

    seen = r->taken;

    apikey_frame_begin(&ship->encoder, buf, size, r->ring.file->stream,
                       r->ring.file->epoch, r->taken + 1);

    while (r->taken < head) {

        while (seen < head
               && seen - r->taken < NGX_HTTP_APIKEY_ENTRIES_AHEAD)
        {
            a = &ahead[seen++ % NGX_HTTP_APIKEY_ENTRIES_AHEAD];
            ngx_http_apikey_ship_ahead(ship, r, seen, a);
        }

        a = &ahead[r->taken % NGX_HTTP_APIKEY_ENTRIES_AHEAD];

        if (a->record == NULL) {

            /* damaged memory: the gap in the numbers will tell */

            if (apikey_frame_end(&ship->encoder)) {
                break;
            }

            r->taken++;
            apikey_frame_begin(&ship->encoder, buf, size,
                               r->ring.file->stream, r->ring.file->epoch,
                               r->taken + 1);
            continue;
        }

        if (!apikey_frame_put(&ship->encoder, a->record, &a->hash)) {
            break;
        }

        r->taken++;
    }

    return apikey_frame_end(&ship->encoder);
}


static void
ngx_http_apikey_ship_ahead(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_ship_ring_t *r, uint64_t number,
    ngx_http_apikey_ahead_t *a)
{
    apikey_ring_record_ahead(&r->ring,
                             number + NGX_HTTP_APIKEY_RECORDS_AHEAD);

    a->record = apikey_ring_record(&r->ring, number);

    if (a->record) {
        apikey_frame_ahead(&ship->encoder, a->record, &a->hash);
    }
}


/* What is written, but neither synced nor committed. */

ngx_uint_t
ngx_http_apikey_ship_unsafe(ngx_http_apikey_ship_t *ship)
{
    ngx_uint_t  i;

    for (i = 0; i < ship->nrings; i++) {
        if (ship->rings[i].open
            && ship->rings[i].ring.read
               > apikey_ring_tail(&ship->rings[i].ring))
        {
            return 1;
        }
    }

    return 0;
}


/* What was gathered is safe elsewhere. */

void
ngx_http_apikey_ship_synced(ngx_http_apikey_ship_t *ship)
{
    ngx_uint_t  i;

    for (i = 0; i < ship->nrings; i++) {
        if (ship->rings[i].open) {
            apikey_ring_done(&ship->rings[i].ring, ship->rings[i].taken);
        }
    }
}


/* So is what Postgres has. */

void
ngx_http_apikey_ship_committed(ngx_http_apikey_ship_t *ship)
{
    uint64_t              mark;
    ngx_uint_t            i;
    apikey_ring_t        *ring;

    for (i = 0; i < ship->nrings; i++) {
        if (ship->rings[i].open) {
            ring = &ship->rings[i].ring;
            mark = apikey_marks_get(&ship->marks, (uint32_t) i,
                                    ring->file->epoch);
            apikey_ring_done(ring, ngx_min(apikey_ring_head(ring), mark));
        }
    }
}


void
ngx_http_apikey_ship_ungather(ngx_http_apikey_ship_t *ship)
{
    ngx_uint_t  i;

    for (i = 0; i < ship->nrings; i++) {
        ship->rings[i].taken = ship->rings[i].ring.read;
    }
}


/* A failed sync loses earlier writes, too: back to each ring's tail. */

void
ngx_http_apikey_ship_regather(ngx_http_apikey_ship_t *ship)
{
    ngx_uint_t  i;

    for (i = 0; i < ship->nrings; i++) {
        if (ship->rings[i].open) {
            ship->rings[i].ring.read
                                = apikey_ring_tail(&ship->rings[i].ring);
        }
    }

    ngx_http_apikey_ship_ungather(ship);
}
