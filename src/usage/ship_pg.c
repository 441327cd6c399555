
/*
 * The shipper's conversation with Postgres: one statement at a time.
 *
 * Read the marks; then each batch is one simple query, one transaction.
 * After any loss of the connection the marks are read again and decide what
 * had come through.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/clock.h"
#include "base/uuid.h"
#include "usage/ship.h"


#define NGX_HTTP_APIKEY_BEAT     500         /* ms */
#define NGX_HTTP_APIKEY_BACKOFF  2000        /* ms at most */
#define NGX_HTTP_APIKEY_TIMEOUT  30000       /* ms, of one batch */

/* events from which on a batch waits for others; ms it waits at most */
#define NGX_HTTP_APIKEY_HOLD_MIN    64
#define NGX_HTTP_APIKEY_HOLD_MAX    400
#define NGX_HTTP_APIKEY_HOLD_TIMES  12       /* of its first events */

#define NGX_HTTP_APIKEY_COPY_PART   65536


static ngx_uint_t ngx_http_apikey_ship_holds(ngx_http_apikey_ship_t *ship);
static void ngx_http_apikey_ship_ask(ngx_http_apikey_ship_t *ship);
static void ngx_http_apikey_ship_marks(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_ship_conf(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_batch_conf_t *conf);
static void ngx_http_apikey_ship_send(ngx_http_apikey_ship_t *ship);
static ngx_int_t ngx_http_apikey_ship_copy(ngx_http_apikey_pg_op_t *op,
    PGconn *conn);
static void ngx_http_apikey_ship_sent(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_ship_told(ngx_http_apikey_ship_t *ship,
    PGresult *res, int column);
static void ngx_http_apikey_ship_applied(ngx_http_apikey_ship_t *ship);
static void ngx_http_apikey_ship_beat(ngx_http_apikey_ship_t *ship);
static void ngx_http_apikey_ship_beaten(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_ship_behind(ngx_http_apikey_ship_t *ship);


/* Starts the next thing to say, if nothing is being said. */

void
ngx_http_apikey_ship_pg(ngx_http_apikey_ship_t *ship)
{
    if (ship->asking || ship->pg == NULL
        || (ngx_msec_int_t) (ship->retry_at - ngx_current_msec) > 0)
    {
        return;
    }

    if (!ship->known) {
        ngx_http_apikey_ship_ask(ship);
        return;
    }

    if (ngx_http_apikey_ship_runs(ship)) {
        return;
    }

    /* a broken disk must not stop what Postgres could take */

    if (ship->frames_len == 0 && !ship->busy && ship->bad
        && (!ship->opened
            || (!ship->seek
                && apikey_spool_at_end(&ship->spool, &ship->cursor)))
        && ngx_http_apikey_ship_waiting(ship))
    {
        ship->frames_len = ngx_http_apikey_ship_gather(ship, ship->frames,
                                                       APIKEY_SPOOL_CHUNK,
                                                       &ship->frames_as_of);
        ship->direct = ship->frames_len != 0;
    }

    if (ship->held && ngx_http_apikey_ship_holds(ship)) {
        return;
    }

    ship->held = 0;

    if (ship->frames_len) {
        ngx_http_apikey_ship_send(ship);
        return;
    }

    if (!ngx_exiting
        && (ngx_msec_int_t) (ship->beat_at - ngx_current_msec) <= 0)
    {
        ngx_http_apikey_ship_beat(ship);
    }
}


/* The disk may just be reading what comes behind the frames. */

static ngx_uint_t
ngx_http_apikey_ship_holds(ngx_http_apikey_ship_t *ship)
{
    if (ship->busy && ship->disk_op == NGX_HTTP_APIKEY_DISK_READ) {
        return 1;
    }

    return !ngx_exiting && !ship->bad
           && (ngx_msec_int_t) (ship->send_at - ngx_current_msec) > 0;
}


static void
ngx_http_apikey_ship_ask(ngx_http_apikey_ship_t *ship)
{
    ngx_memzero(&ship->op, sizeof(ngx_http_apikey_pg_op_t));

    apikey_uuid_format((char *) ship->text, ship->usage->conf.node);
    ship->text[APIKEY_UUID_TEXT_LEN] = '\0';
    ship->values[0] = (char *) ship->text;

    ship->op.sql = "SELECT s.stream, s.epoch, s.mark, r.until"
                   " FROM (SELECT apikey.usage_runs_to($1::uuid)) AS r (until)"
                   " LEFT JOIN apikey.usage_stream s ON s.node = $1::uuid";
    ship->op.nparams = 1;
    ship->op.values = ship->values;
    ship->op.handler = ngx_http_apikey_ship_marks;

    ngx_http_apikey_ship_query(ship);
}


static void
ngx_http_apikey_ship_marks(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    int                      i;
    ngx_http_apikey_ship_t  *ship;

    ship = op->data;
    ship->asking = 0;

    if (res == NULL || PQresultStatus(res) != PGRES_TUPLES_OK) {
        ngx_http_apikey_ship_stuck(ship, res, "to say which usage it has");
        ngx_http_apikey_ship_retry(ship);
        return;
    }

    ship->marks.n = 0;

    for (i = 0; i < PQntuples(res); i++) {

        if (PQgetisnull(res, i, 0)) {
            break;                       /* it has shipped nothing yet */
        }

        if (!apikey_marks_raise(&ship->marks,
                      (uint32_t) strtoul(PQgetvalue(res, i, 0), NULL, 10),
                      (uint64_t) strtoull(PQgetvalue(res, i, 1), NULL, 10),
                      (uint64_t) strtoull(PQgetvalue(res, i, 2), NULL, 10)))
        {
            ngx_http_apikey_ship_retry(ship);
            return;
        }
    }

    if (PQntuples(res)) {
        ship->runs_to = strtoll(PQgetvalue(res, 0, 3), NULL, 10) + 1;
    }

    ship->runs_seen = 0;
    ship->known = 1;
    ship->seek = 1;
    ship->backoff = 0;
    ngx_http_apikey_ship_forget(ship);
    ngx_http_apikey_ship_committed(ship);

    ngx_http_apikey_ship_run(ship);
}


static void
ngx_http_apikey_ship_conf(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_batch_conf_t *conf)
{
    ngx_memzero(conf, sizeof(ngx_http_apikey_batch_conf_t));

    conf->node = ship->usage->conf.node;
    conf->name = &ship->usage->conf.node_name;
    conf->before = ship->as_of;
    conf->as_of = ship->frames_as_of ? ship->frames_as_of : ship->as_of;
    conf->marks = &ship->marks;
    conf->max = ship->max;
    conf->no_gap = ship->direct || ship->newer;
    conf->no_raw = ship->no_raw;
    conf->runs_to = ship->runs_to;
    conf->poison = ship->poison[0] ? ship->poison : NULL;
    conf->reason = ship->reason;
    conf->client = ngx_http_apikey_usage_prefix(ship->usage);
}


/*
 * A batch has a row of roll-ups for a key, not for an event, and costs
 * Postgres mostly those: where many events come, it waits until it has more
 * of them.  It is filled as they come, which leaves no long work for its end.
 */

void
ngx_http_apikey_ship_hold(ngx_http_apikey_ship_t *ship, ngx_uint_t events)
{
    ngx_http_apikey_batch_conf_t  conf;

    if (!ship->held) {

        if (events < NGX_HTTP_APIKEY_HOLD_MIN || ngx_exiting || ship->asking
            || ship->poison[0] || ship->max < NGX_HTTP_APIKEY_SLOTS)
        {
            return;
        }

        ship->held = 1;
        ship->filled = 1;
        ship->send_at = (ship->frames_at ? ship->frames_at : ngx_current_msec)
                        + ngx_min(events, NGX_HTTP_APIKEY_HOLD_MAX);

        ngx_http_apikey_batch_start(ship->batch,
                                    events * NGX_HTTP_APIKEY_HOLD_TIMES);
    }

    ngx_http_apikey_ship_conf(ship, &conf);

    if (ngx_http_apikey_batch_take(ship->batch, ship->frames,
                                   ship->frames_len, &conf)
        != NGX_OK)
    {
        ship->filled = 0;
        ship->held = 0;
        return;
    }

    /* nor without room for what would be read behind the frames */

    if (ship->batch->more
        || 2 * (ship->batch->count + events) > ship->batch->slots
        || NGX_HTTP_APIKEY_FRAMES - ship->frames_len < APIKEY_SPOOL_CHUNK)
    {
        ship->held = 0;
    }
}


static void
ngx_http_apikey_ship_send(ngx_http_apikey_ship_t *ship)
{
    ngx_int_t                     rc;
    ngx_http_apikey_batch_conf_t  conf;

    ngx_http_apikey_ship_conf(ship, &conf);

    rc = NGX_OK;

    if (!ship->filled) {
        ngx_http_apikey_batch_start(ship->batch,
                   ngx_http_apikey_batch_events(ship->frames,
                                                ship->frames_len));

        rc = ngx_http_apikey_batch_take(ship->batch, ship->frames,
                                        ship->frames_len, &conf);
    }

    ship->filled = 0;

    if (rc == NGX_OK) {
        rc = ngx_http_apikey_batch_build(ship->batch, &conf);
    }

    if (rc != NGX_OK) {
        ngx_log_error(NGX_LOG_ALERT, ship->log, 0,
                      "apikey: no memory for a batch of usage");
        ngx_http_apikey_ship_retry(ship);
        return;
    }

    if (ship->batch->count == 0) {

        if (ship->batch->more) {

            /* what comes before is on the disk and cannot be read now */

            ngx_http_apikey_ship_behind(ship);
            ngx_http_apikey_ship_forget(ship);
            ngx_http_apikey_ship_retry(ship);
            return;
        }

        ngx_http_apikey_ship_finished(ship);
        return;
    }

    ngx_memzero(&ship->op, sizeof(ngx_http_apikey_pg_op_t));

    ship->op.sql = (char *) ship->batch->sql.data;
    ship->op.simple = 1;
    ship->op.timeout = NGX_HTTP_APIKEY_TIMEOUT;
    ship->copied = 0;
    ship->op.copy = ship->batch->raw ? ngx_http_apikey_ship_copy : NULL;
    ship->op.handler = ngx_http_apikey_ship_sent;

    ngx_http_apikey_ship_query(ship);
}


/* A mark that passes over what a later version has written would lose it. */

static void
ngx_http_apikey_ship_behind(ngx_http_apikey_ship_t *ship)
{
    if (!ship->newer || ship->told_newer) {
        return;
    }

    ship->told_newer = 1;

    ngx_log_error(NGX_LOG_ERR, ship->log, 0,
                  "apikey: what follows segments of a later version in \"%V\""
                  " is shipped when these are: start that version again, or "
                  "take them away and reload", &ship->usage->conf.directory);
}


static ngx_int_t
ngx_http_apikey_ship_copy(ngx_http_apikey_pg_op_t *op, PGconn *conn)
{
    size_t                   n;
    ngx_http_apikey_ship_t  *ship;
    ngx_http_apikey_text_t  *copy;

    ship = op->data;
    copy = &ship->batch->copy;
    n = ngx_min(copy->len - ship->copied, NGX_HTTP_APIKEY_COPY_PART);

    if (n == 0) {
        return NGX_OK;
    }

    if (ngx_http_apikey_pg_copy(conn, copy->data + ship->copied, n)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ship->copied += n;

    return NGX_AGAIN;
}


static void
ngx_http_apikey_ship_sent(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ExecStatusType           status;
    ngx_http_apikey_ship_t  *ship;

    ship = op->data;
    ship->asking = 0;

    if (res == NULL) {

        /* lost, perhaps at COMMIT: the marks will tell */

        ship->known = 0;
        ngx_http_apikey_ship_retry(ship);
        return;
    }

    status = PQresultStatus(res);

    if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK) {
        ngx_http_apikey_ship_flows(ship);
        ngx_http_apikey_ship_told(ship, res, 0);
        ngx_http_apikey_ship_applied(ship);
        ngx_http_apikey_ship_run(ship);
        return;
    }

    ngx_http_apikey_ship_refused(ship, res);
}


/* In each answer: are raw events kept, and what runs is wanted until when. */

static void
ngx_http_apikey_ship_told(ngx_http_apikey_ship_t *ship, PGresult *res,
    int column)
{
    if (PQntuples(res) != 1 || PQnfields(res) != column + 2) {
        return;
    }

    ship->no_raw = ngx_strcmp(PQgetvalue(res, 0, column), "0") == 0;
    ship->wanted = strtoll(PQgetvalue(res, 0, column + 1), NULL, 10);
}


static void
ngx_http_apikey_ship_applied(ngx_http_apikey_ship_t *ship)
{
    ngx_uint_t                       i;
    ngx_http_apikey_batch_t         *batch;
    ngx_http_apikey_batch_stream_t  *s;

    batch = ship->batch;

    for (i = 0; i < batch->nstreams; i++) {
        s = &batch->stream[i];

        if (s->first
            && !apikey_marks_raise(&ship->marks, s->stream, s->epoch, s->last))
        {
            ship->known = 0;
        }
    }

    if (batch->lost) {
        ngx_log_error(NGX_LOG_ALERT, ship->log, 0,
                      "apikey: %uL usage records were lost on a damaged disk",
                      batch->lost);

        if (ship->usage->conf.stats) {
            apikey_stats_add(&ship->usage->conf.stats->dropped, batch->lost);
        }
    }

    ship->backoff = 0;
    ship->poison[0] = '\0';
    ship->max = ngx_min(ship->max * 2, (ngx_uint_t) NGX_MAX_INT32_VALUE / 4);
    ship->beat_at = ngx_current_msec + NGX_HTTP_APIKEY_BEAT;
    ngx_http_apikey_ship_committed(ship);

    if (!batch->more) {
        ngx_http_apikey_ship_finished(ship);
    }
}


/* Nothing is new: say up to when that is so. */

static void
ngx_http_apikey_ship_beat(ngx_http_apikey_ship_t *ship)
{
    int64_t   as_of;
    u_char   *p;

    if (ship->busy || !ship->opened || ship->seek
        || !apikey_spool_at_end(&ship->spool, &ship->cursor))
    {
        return;
    }

    as_of = apikey_clock_real() - 2 * 1000 * (int64_t) ship->usage->period;

    if (ngx_http_apikey_ship_waiting(ship)) {
        return;
    }

    ship->beat_at = ngx_current_msec + NGX_HTTP_APIKEY_BEAT;
    ship->as_of = as_of;

    ngx_memzero(&ship->op, sizeof(ngx_http_apikey_pg_op_t));
    ship->batch->sql.len = 0;

    p = ngx_http_apikey_text_add(&ship->batch->sql, 512);
    if (p == NULL) {
        return;
    }

    apikey_uuid_format((char *) ship->text, ship->usage->conf.node);
    ship->text[APIKEY_UUID_TEXT_LEN] = '\0';
    *ngx_sprintf(p, "%L", as_of) = '\0';

    ship->values[0] = (char *) ship->text;
    ship->values[1] = (char *) ship->usage->conf.node_name.data;
    ship->values[2] = (char *) p;

    ship->op.sql = "SELECT set_config('synchronous_commit', 'off', true),"
                   " apikey.usage_heartbeat($1::uuid, $2, $3::bigint),"
                   " (" NGX_HTTP_APIKEY_RAW_SQL "), "
                   NGX_HTTP_APIKEY_WANT_SQL "$1::uuid)";
    ship->op.nparams = 3;
    ship->op.values = ship->values;
    ship->op.handler = ngx_http_apikey_ship_beaten;

    ngx_http_apikey_ship_query(ship);
}


static void
ngx_http_apikey_ship_beaten(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_http_apikey_ship_t  *ship;

    ship = op->data;
    ship->asking = 0;

    if (res == NULL || PQresultStatus(res) != PGRES_TUPLES_OK) {
        ngx_http_apikey_ship_stuck(ship, res, "a heartbeat");
        ship->known = 0;
        ngx_http_apikey_ship_retry(ship);
        return;
    }

    ngx_http_apikey_ship_flows(ship);
    ngx_http_apikey_ship_told(ship, res, 2);
    ngx_http_apikey_ship_run(ship);
}


void
ngx_http_apikey_ship_retry(ngx_http_apikey_ship_t *ship)
{
    /* Postgres has not taken what the disk did not: the disk may again */

    if (ship->direct) {
        ngx_http_apikey_ship_forget(ship);
    }

    ship->backoff = ship->backoff ? ngx_min(ship->backoff * 2,
                                            NGX_HTTP_APIKEY_BACKOFF) : 50;
    ship->retry_at = ngx_current_msec + ship->backoff / 2
                     + (ngx_msec_t) ngx_random() % (ship->backoff / 2 + 1);
}


void
ngx_http_apikey_ship_query(ngx_http_apikey_ship_t *ship)
{
    ship->op.data = ship;

    if (ngx_http_apikey_pg_query(ship->pg, &ship->op) != NGX_OK) {
        ngx_http_apikey_ship_retry(ship);
        return;
    }

    ship->asking = 1;
}
