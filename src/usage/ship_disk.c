
/*
 * The shipper's way to the spool and back into memory.  Every call of the
 * spool runs in a thread, one at a time.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/clock.h"
#include "usage/ship.h"
#include "wire/thread.h"


static void ngx_http_apikey_ship_tell(ngx_http_apikey_ship_t *ship);
static ngx_uint_t ngx_http_apikey_ship_write(ngx_http_apikey_ship_t *ship);
static ngx_msec_t ngx_http_apikey_ship_due(ngx_http_apikey_ship_t *ship);
static ngx_msec_t ngx_http_apikey_ship_pace(ngx_http_apikey_ship_t *ship);
static void ngx_http_apikey_ship_post(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_disk_e op);
static void ngx_http_apikey_ship_alone(ngx_http_apikey_ship_t *ship);
static void ngx_http_apikey_ship_thread(void *data, ngx_log_t *log);
static void ngx_http_apikey_ship_thread_done(ngx_event_t *ev);
static void ngx_http_apikey_ship_opened(ngx_http_apikey_ship_t *ship);
static void ngx_http_apikey_ship_appended(ngx_http_apikey_ship_t *ship);
static void ngx_http_apikey_ship_read(ngx_http_apikey_ship_t *ship);
static void ngx_http_apikey_ship_trouble(ngx_http_apikey_ship_t *ship);
static void ngx_http_apikey_ship_unread(ngx_http_apikey_ship_t *ship);


/* Starts the next thing the disk has to do, if it is idle. */

void
ngx_http_apikey_ship_disk(ngx_http_apikey_ship_t *ship)
{
    if (ship->busy) {
        return;
    }

    ngx_http_apikey_ship_tell(ship);

    if (!ship->opened) {
        if (ship->task
            && (ngx_msec_int_t) (ship->disk_retry - ngx_current_msec) <= 0)
        {
            ngx_http_apikey_ship_post(ship, NGX_HTTP_APIKEY_DISK_OPEN);
        }

        return;
    }

    if (ship->seek && ship->known) {
        apikey_spool_seek(&ship->spool, &ship->cursor, &ship->marks);
        ship->seek = 0;
    }

    if (!ship->direct
        && (!ship->bad
            || (ngx_msec_int_t) (ship->disk_retry - ngx_current_msec) <= 0)
        && ngx_http_apikey_ship_write(ship))
    {
        return;
    }

    if ((ship->frames_len == 0 || ship->held) && ship->known && !ship->seek
        && (ngx_msec_int_t) (ship->read_retry - ngx_current_msec) <= 0
        && !apikey_spool_at_end(&ship->spool, &ship->cursor))
    {
        ngx_http_apikey_ship_post(ship, NGX_HTTP_APIKEY_DISK_READ);
    }
}


/* What is left, on the disk and in the rings where that takes nothing. */

static void
ngx_http_apikey_ship_tell(ngx_http_apikey_ship_t *ship)
{
    uint64_t         left;
    apikey_stats_t  *stats;

    stats = ship->usage->conf.stats;

    if (stats == NULL) {
        return;
    }

    left = ship->frames_len + ship->later_len;

    if (ship->opened) {
        left += apikey_spool_left(&ship->spool, &ship->cursor);
    }

    apikey_stats_set(&stats->journal_bytes, left);

    /* what was recorded before as_of is shipped: none is older */

    apikey_stats_set(&stats->journal_oldest,
                     left || ngx_http_apikey_ship_waiting(ship)
                     ? (uint64_t) (ship->as_of ? ship->as_of : ship->since)
                     : 0);
}


/*
 * Writes what is new.  It is synced only where Postgres does not commit it
 * within "sync": a sync costs more than everything else that is done here.
 */

static ngx_uint_t
ngx_http_apikey_ship_write(ngx_http_apikey_ship_t *ship)
{
    ngx_uint_t  unsafe;

    unsafe = ngx_http_apikey_ship_unsafe(ship);
    ship->chunk_len = 0;

    if (!ngx_http_apikey_ship_waiting(ship)) {
        ship->gathered_at = ngx_current_msec;

    } else if (ship->rest
               || (ngx_msec_int_t) (ship->gather_at - ngx_current_msec) <= 0
               || (unsafe && ngx_http_apikey_ship_due(ship) == 0))
    {
        if (!unsafe) {
            ship->unsafe_at = ship->gathered_at;
            unsafe = 1;
        }

        ship->chunk_len = ngx_http_apikey_ship_gather(ship, ship->chunk,
                                                      APIKEY_SPOOL_CHUNK,
                                                      &ship->chunk_as_of);
        ship->gather_at = ngx_current_msec + ngx_http_apikey_ship_pace(ship);

        if (!ship->rest) {
            ship->gathered_at = ngx_current_msec;
        }
    }

    ship->chunk_at = ship->gathered_at;
    ship->sync = ship->bad || (unsafe && ngx_http_apikey_ship_due(ship) == 0);

    if (ship->chunk_len) {
        ngx_http_apikey_ship_post(ship, NGX_HTTP_APIKEY_DISK_APPEND);
        return 1;
    }

    if (unsafe && ship->sync) {
        ngx_http_apikey_ship_post(ship, NGX_HTTP_APIKEY_DISK_SYNC);
        return 1;
    }

    return 0;
}


/* ms until the oldest of what is unsafe has to be synced */

static ngx_msec_t
ngx_http_apikey_ship_due(ngx_http_apikey_ship_t *ship)
{
    ngx_msec_t  age;

    age = ngx_current_msec - ship->unsafe_at;

    return age < ship->usage->conf.sync ? ship->usage->conf.sync - age : 0;
}


/*
 * ms between two looks into the rings: half of "sync", so that half is
 * Postgres's; all of it where a batch waits for more, and is synced here.
 */

static ngx_msec_t
ngx_http_apikey_ship_pace(ngx_http_apikey_ship_t *ship)
{
    ngx_msec_t  pace;

    pace = ship->held ? ship->usage->conf.sync : ship->usage->conf.sync / 2;

    return ngx_max(NGX_HTTP_APIKEY_TICK_MIN,
                   ngx_min(pace, NGX_HTTP_APIKEY_TICK_MAX));
}


ngx_msec_t
ngx_http_apikey_ship_wait(ngx_http_apikey_ship_t *ship)
{
    ngx_msec_t  wait, due;

    if (ship->bad || (!ship->busy && !ship->asking && !ship->held
                      && !ngx_http_apikey_ship_unsafe(ship)))
    {
        return ship->usage->period;
    }

    wait = ngx_http_apikey_ship_pace(ship);

    if (ship->held) {
        due = ship->send_at - ngx_current_msec;
        wait = ngx_max(1, ngx_min((ngx_msec_int_t) wait,
                                  (ngx_msec_int_t) due));
    }

    if (!ship->busy && ngx_http_apikey_ship_unsafe(ship)) {
        due = ngx_http_apikey_ship_due(ship);
        wait = ngx_max(1, ngx_min(wait, due));
    }

    return wait;
}


static void
ngx_http_apikey_ship_post(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_disk_e op)
{
    ngx_uint_t  i;

    ship->disk_op = op;
    ship->read_at = ship->frames_len;
    ship->shipped.n = 0;

    for (i = 0; ship->known && i < ship->marks.n; i++) {
        (void) apikey_marks_raise(&ship->shipped, ship->marks.mark[i].stream,
                                  ship->marks.mark[i].epoch,
                                  ship->marks.mark[i].number);
    }

    ship->task->handler = ngx_http_apikey_ship_thread;
    ship->task->event.handler = ngx_http_apikey_ship_thread_done;
    ship->task->event.data = ship;

    if (ngx_http_apikey_thread_post(ship->task) != NGX_OK) {
        ngx_http_apikey_ship_alone(ship);
        return;
    }

    ship->busy = 1;
}


/* No thread can be made: nothing has happened, and it is tried again. */

static void
ngx_http_apikey_ship_alone(ngx_http_apikey_ship_t *ship)
{
    ship->disk_retry = ngx_current_msec + 1000;

    if (ship->disk_op == NGX_HTTP_APIKEY_DISK_READ) {
        ship->read_retry = ship->disk_retry;
        return;
    }

    ngx_http_apikey_ship_ungather(ship);
    ship->chunk_len = 0;

    if (!ship->bad) {
        ngx_log_error(NGX_LOG_ALERT, ship->log, 0,
                      "apikey: no thread for the journal \"%V\", usage is "
                      "shipped from memory", &ship->usage->conf.directory);
        ship->bad = 1;
    }
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

        if (ship->disk_rc != APIKEY_SPOOL_OK || !ship->sync) {
            break;
        }

        /* fall through */

    case NGX_HTTP_APIKEY_DISK_SYNC:
        ship->disk_rc = apikey_spool_sync(&ship->spool);
        break;

    default:
        ship->disk_rc = apikey_spool_read(&ship->spool, &ship->cursor,
                                          ship->frames + ship->read_at,
                                          APIKEY_SPOOL_CHUNK,
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
    case NGX_HTTP_APIKEY_DISK_SYNC:
        ngx_http_apikey_ship_appended(ship);
        break;

    default:
        if (ship->disk_rc != APIKEY_SPOOL_OK) {
            ngx_http_apikey_ship_unread(ship);
            break;
        }

        ship->told_unread = 0;

        if (!ship->seek) {               /* else the marks changed meanwhile */
            ngx_http_apikey_ship_read(ship);
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

    ship->newer = (ship->spool.newer != 0);

    for (i = 0; i < ship->spool.n; i++) {
        if (ship->spool.segment[i].bad) {
            ngx_log_error(NGX_LOG_WARN, ship->log, 0,
                          "apikey: passed over %uL unreadable bytes of "
                          "\"%V/spool.%016xL\"", ship->spool.segment[i].bad,
                          &ship->usage->conf.directory,
                          ship->spool.segment[i].seq);
        }

        if (ship->spool.segment[i].unread) {
            ngx_log_error(NGX_LOG_ALERT, ship->log, 0,
                          "apikey: \"%V/spool.%016xL\" cannot be read to its "
                          "end: it is kept, and tried again at the next start",
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


/* What an append or a sync that ended means for the rings; 0: it failed. */

ngx_uint_t
ngx_http_apikey_ship_settle(ngx_http_apikey_ship_t *ship)
{
    ngx_uint_t                    i;
    ngx_http_apikey_ship_ring_t  *r;

    if (ship->disk_rc == APIKEY_SPOOL_FAILED) {
        ngx_http_apikey_ship_regather(ship);
        return 0;
    }

    if (ship->disk_rc == APIKEY_SPOOL_FULL) {
        ngx_http_apikey_ship_ungather(ship);
        ngx_http_apikey_ship_synced(ship);
        return 0;
    }

    if (ship->sync) {
        ngx_http_apikey_ship_synced(ship);
        ship->unsafe_at = ship->chunk_at;
        return 1;
    }

    for (i = 0; i < ship->nrings; i++) {
        r = &ship->rings[i];

        if (r->open && r->taken > r->ring.read) {
            r->ring.read = r->taken;
        }
    }

    return 1;
}


static void
ngx_http_apikey_ship_appended(ngx_http_apikey_ship_t *ship)
{
    uint64_t  left;

    if (!ngx_http_apikey_ship_settle(ship)) {
        ngx_http_apikey_ship_trouble(ship);
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

    /* the usual case: what was written is all that is left to ship */

    left = apikey_spool_left(&ship->spool, &ship->cursor);

    if (ship->chunk_len && ship->known && !ship->seek
        && left == ship->spool.wrote && ngx_http_apikey_ship_keep(ship))
    {
        ship->cursor.seq = ship->spool.segment[ship->spool.n - 1].seq;
        ship->cursor.offset = ship->spool.segment[ship->spool.n - 1].end;
        ship->cursor.events = 0;
    }

    ship->chunk_len = 0;
}


/* Of a backlog, too, a batch is made of as much as there is room for. */

static void
ngx_http_apikey_ship_read(ngx_http_apikey_ship_t *ship)
{
    ngx_uint_t  events;

    events = ngx_http_apikey_batch_events(ship->frames + ship->frames_len,
                                          ship->read_len);
    ship->frames_len += ship->read_len;

    ngx_http_apikey_ship_hold(ship, events);

    if (ship->read_len == 0
        || apikey_spool_at_end(&ship->spool, &ship->cursor))
    {
        ship->held = 0;
    }
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


/* What cannot be read now is tried again; writing goes on meanwhile. */

static void
ngx_http_apikey_ship_unread(ngx_http_apikey_ship_t *ship)
{
    ship->read_retry = ngx_current_msec + 1000;
    ship->seek = 1;

    if (ship->told_unread) {
        return;
    }

    ship->told_unread = 1;

    ngx_log_error(NGX_LOG_ALERT, ship->log, ship->spool.err,
                  "apikey: %s in the journal \"%V\" failed, what is in it "
                  "cannot be shipped", ship->spool.what,
                  &ship->usage->conf.directory);
}
