
/*
 * The shipper's way from rings to the spool and back into memory.  Every
 * call of the spool runs in nginx's thread pool, one at a time.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/clock.h"
#include "usage/ship.h"


#define NGX_HTTP_APIKEY_SCAN   1000          /* ms between looks for rings */


static void ngx_http_apikey_ship_adopt(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_ship_ring_t *r);
static size_t ngx_http_apikey_ship_encode(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_ship_ring_t *r, uint64_t head, u_char *buf, size_t size);
static void ngx_http_apikey_ship_post(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_disk_e op);
static void ngx_http_apikey_ship_thread(void *data, ngx_log_t *log);
static void ngx_http_apikey_ship_thread_done(ngx_event_t *ev);
static void ngx_http_apikey_ship_opened(ngx_http_apikey_ship_t *ship);
static void ngx_http_apikey_ship_appended(ngx_http_apikey_ship_t *ship);
static void ngx_http_apikey_ship_trouble(ngx_http_apikey_ship_t *ship);


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

            r->open = 1;
            ngx_http_apikey_ship_found(ship, r);
        }

        if (i >= ship->nrings) {
            ship->nrings = i + 1;
        }

        ngx_http_apikey_ship_adopt(ship, r);
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

    for (i = 0; i < ship->nrings; i++) {
        r = &ship->rings[i];

        if (!r->open) {
            continue;
        }

        head = apikey_ring_head(&r->ring);
        r->taken = r->ring.read;

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
    }

    return len;
}


static size_t
ngx_http_apikey_ship_encode(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_ship_ring_t *r, uint64_t head, u_char *buf, size_t size)
{
    const apikey_record_t  *record;

    if (size < 4096) {
        return 0;
    }

    apikey_frame_begin(&ship->encoder, buf, size, r->ring.file->stream,
                       r->ring.file->epoch, r->taken + 1);

    while (r->taken < head) {
        record = apikey_ring_record(&r->ring, r->taken + 1);

        if (record == NULL) {

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

        if (!apikey_frame_add(&ship->encoder, record)) {
            break;
        }

        r->taken++;
    }

    return apikey_frame_end(&ship->encoder);
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


void
ngx_http_apikey_ship_ungather(ngx_http_apikey_ship_t *ship)
{
    ngx_uint_t  i;

    for (i = 0; i < ship->nrings; i++) {
        ship->rings[i].taken = ship->rings[i].ring.read;
    }
}


/* Starts the next thing the disk has to do, if it is idle. */

void
ngx_http_apikey_ship_disk(ngx_http_apikey_ship_t *ship)
{
    uint64_t         left;
    apikey_stats_t  *stats;

    if (ship->busy) {
        return;
    }

    stats = ship->usage->conf.stats;

    if (!ship->opened) {
        if (ship->tp && (ngx_msec_int_t) (ship->disk_retry - ngx_current_msec)
                        <= 0)
        {
            ngx_http_apikey_ship_post(ship, NGX_HTTP_APIKEY_DISK_OPEN);
        }

        return;
    }

    if (stats) {
        left = apikey_spool_left(&ship->spool, &ship->cursor)
               + ship->frames_len;
        apikey_stats_set(&stats->journal_bytes, left);

        /* what was recorded before as_of is shipped: none is older */

        apikey_stats_set(&stats->journal_oldest,
                         left ? (uint64_t) (ship->as_of ? ship->as_of
                                            : ship->since) : 0);
    }

    if (ship->seek && ship->known) {
        apikey_spool_seek(&ship->spool, &ship->cursor, &ship->marks);
        ship->seek = 0;
    }

    if (!ship->direct
        && ngx_http_apikey_ship_waiting(ship)
        && (!ship->bad
            || (ngx_msec_int_t) (ship->disk_retry - ngx_current_msec) <= 0))
    {
        ship->chunk_len = ngx_http_apikey_ship_gather(ship, ship->chunk,
                                                      APIKEY_SPOOL_CHUNK,
                                                      &ship->chunk_as_of);
        if (ship->chunk_len) {
            ngx_http_apikey_ship_post(ship, NGX_HTTP_APIKEY_DISK_APPEND);
            return;
        }
    }

    if (ship->frames_len == 0 && ship->known && !ship->seek
        && !apikey_spool_at_end(&ship->spool, &ship->cursor))
    {
        ngx_http_apikey_ship_post(ship, NGX_HTTP_APIKEY_DISK_READ);
    }
}


static void
ngx_http_apikey_ship_post(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_disk_e op)
{
    ngx_uint_t  i;

    ship->disk_op = op;
    ship->shipped.n = 0;

    for (i = 0; ship->known && i < ship->marks.n; i++) {
        (void) apikey_marks_raise(&ship->shipped, ship->marks.mark[i].stream,
                                  ship->marks.mark[i].epoch,
                                  ship->marks.mark[i].number);
    }

    ship->task->handler = ngx_http_apikey_ship_thread;
    ship->task->event.handler = ngx_http_apikey_ship_thread_done;
    ship->task->event.data = ship;

    if (ngx_thread_task_post(ship->tp, ship->task) != NGX_OK) {
        ship->disk_retry = ngx_current_msec + 1000;
        ngx_http_apikey_ship_ungather(ship);
        ship->chunk_len = 0;
        return;
    }

    ship->busy = 1;
}


static void
ngx_http_apikey_ship_thread(void *data, ngx_log_t *log)
{
    int64_t                  now;
    ngx_http_apikey_ship_t  *ship;

    ship = *(ngx_http_apikey_ship_t **) data;
    now = apikey_clock_real();

    switch (ship->disk_op) {

    case NGX_HTTP_APIKEY_DISK_OPEN:
        ship->disk_rc = apikey_spool_open(&ship->spool,
                             (char *) ship->usage->conf.directory.data,
                             ship->usage->conf.node,
                             (uint64_t) ship->usage->conf.size);
        break;

    case NGX_HTTP_APIKEY_DISK_APPEND:
        apikey_spool_prune(&ship->spool, now, &ship->shipped);
        ship->disk_rc = apikey_spool_append(&ship->spool, ship->chunk,
                                            ship->chunk_len, now,
                                            &ship->shipped);
        break;

    default:
        ship->disk_rc = apikey_spool_read(&ship->spool, &ship->cursor,
                                          ship->frames, APIKEY_SPOOL_CHUNK,
                                          &ship->read_len);
    }
}


static void
ngx_http_apikey_ship_thread_done(ngx_event_t *ev)
{
    ngx_http_apikey_ship_t  *ship;

    ship = ev->data;
    ship->busy = 0;

    switch (ship->disk_op) {

    case NGX_HTTP_APIKEY_DISK_OPEN:
        ngx_http_apikey_ship_opened(ship);
        break;

    case NGX_HTTP_APIKEY_DISK_APPEND:
        ngx_http_apikey_ship_appended(ship);
        break;

    default:
        if (ship->disk_rc != APIKEY_SPOOL_OK) {
            ngx_http_apikey_ship_trouble(ship);
            ship->seek = 1;

        } else if (!ship->seek) {        /* else the marks changed meanwhile */
            ship->frames_len = ship->read_len;
            ship->frames_as_of = 0;
        }
    }

    ngx_http_apikey_ship_run(ship);
}


static void
ngx_http_apikey_ship_opened(ngx_http_apikey_ship_t *ship)
{
    ngx_uint_t  i;

    if (ship->disk_rc != APIKEY_SPOOL_OK) {
        ngx_http_apikey_ship_trouble(ship);
        apikey_spool_close(&ship->spool);
        return;
    }

    if (ship->spool.foreign) {
        ngx_log_error(NGX_LOG_WARN, ship->log, 0,
                      "apikey: %ud segments in \"%V\" are of another version "
                      "or node and left alone", ship->spool.foreign,
                      &ship->usage->conf.directory);
    }

    for (i = 0; i < ship->spool.n; i++) {
        if (ship->spool.segment[i].bad) {
            ngx_log_error(NGX_LOG_WARN, ship->log, 0,
                          "apikey: passed over %uL unreadable bytes of "
                          "\"%V/spool.%016xL\"", ship->spool.segment[i].bad,
                          &ship->usage->conf.directory,
                          ship->spool.segment[i].seq);
        }
    }

    ship->opened = 1;
    ship->seek = 1;
    ship->bad = 0;
    ship->since = ship->spool.n ? ship->spool.segment[0].created
                                : apikey_clock_real();
    ship->told = 0;

    for (i = 0; i < ship->nrings; i++) {
        ngx_http_apikey_ship_found(ship, &ship->rings[i]);
    }
}


static void
ngx_http_apikey_ship_appended(ngx_http_apikey_ship_t *ship)
{
    u_char    *buf;
    uint64_t   left;

    if (ship->disk_rc != APIKEY_SPOOL_OK) {
        ngx_http_apikey_ship_trouble(ship);
        ngx_http_apikey_ship_ungather(ship);
        ship->chunk_len = 0;
        return;
    }

    if (ship->bad) {
        ngx_log_error(NGX_LOG_NOTICE, ship->log, 0,
                      "apikey: the journal \"%V\" is written again",
                      &ship->usage->conf.directory);
        ship->bad = 0;
        ship->told = 0;
    }

    ngx_http_apikey_ship_synced(ship);

    /* the usual case: what was written is all that is left to ship */

    left = apikey_spool_left(&ship->spool, &ship->cursor);

    if (ship->known && !ship->seek && ship->frames_len == 0
        && left == ship->chunk_len)
    {
        buf = ship->frames;
        ship->frames = ship->chunk;
        ship->chunk = buf;

        ship->frames_len = ship->chunk_len;
        ship->frames_as_of = ship->chunk_as_of;

        ship->cursor.seq = ship->spool.segment[ship->spool.n - 1].seq;
        ship->cursor.offset = ship->spool.segment[ship->spool.n - 1].end;
    }

    ship->chunk_len = 0;
}


static void
ngx_http_apikey_ship_trouble(ngx_http_apikey_ship_t *ship)
{
    ship->disk_retry = ngx_current_msec + 1000;
    ship->bad = 1;

    if (ship->told) {
        return;
    }

    ship->told = 1;

    if (ship->disk_rc == APIKEY_SPOOL_FULL) {
        ngx_log_error(NGX_LOG_ALERT, ship->log, 0,
                      "apikey: the journal \"%V\" is full (size=%O): raise "
                      "size or mend Postgres", &ship->usage->conf.directory,
                      ship->usage->conf.size);
        return;
    }

    ngx_log_error(NGX_LOG_ALERT, ship->log, ship->spool.err,
                  "apikey: %s in the journal \"%V\" failed, usage is shipped "
                  "from memory", ship->spool.what,
                  &ship->usage->conf.directory);
}
