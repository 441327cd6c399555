
/*
 * What runs, said to Postgres when it is wanted: Redis has lost what is used
 * of some limit, and what runs is not recorded before it ends.
 *
 * The slots of all rings are looked at; who ends after that is taken off again
 * by the batch that ships it.  It is of use when all that had ended before is
 * in, so it is said twice: what runs, and then that this counts, and nothing
 * that was said before.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/clock.h"
#include "base/verdict.h"
#include "usage/ship.h"


#define NGX_HTTP_APIKEY_RUNS_PACE  500           /* ms */
#define NGX_HTTP_APIKEY_RUNS_SKEW  10000000      /* us: of a clock */


static ngx_uint_t ngx_http_apikey_runs_shipped(ngx_http_apikey_ship_t *ship);
static void ngx_http_apikey_runs_look(ngx_http_apikey_ship_t *ship);
static void ngx_http_apikey_runs_ring(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_ship_ring_t *r, ngx_uint_t *n);
static void ngx_http_apikey_runs_row(ngx_http_apikey_ship_t *ship,
    const apikey_record_t *record, uint32_t unknown);
static void ngx_http_apikey_runs_text(ngx_http_apikey_text_t *t,
    const apikey_record_t *record, ngx_uint_t text);
static void ngx_http_apikey_runs_begin(ngx_http_apikey_ship_t *ship);
static void ngx_http_apikey_runs_at(ngx_http_apikey_ship_t *ship);
static void ngx_http_apikey_runs_count(ngx_http_apikey_ship_t *ship);
static ngx_uint_t ngx_http_apikey_runs_send(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_pg_handler_pt handler);
static void ngx_http_apikey_runs_said(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_runs_done(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static ngx_uint_t ngx_http_apikey_runs_ok(ngx_http_apikey_ship_t *ship,
    PGresult *res);


ngx_uint_t
ngx_http_apikey_ship_runs(ngx_http_apikey_ship_t *ship)
{
    if (ship->runs_seen) {

        if (!ngx_http_apikey_runs_shipped(ship)) {
            return 0;
        }

        ngx_http_apikey_runs_count(ship);

        return ngx_http_apikey_runs_send(ship, ngx_http_apikey_runs_done);
    }

    /* again and again while that lies ahead: it is the latest that anybody
       waits for, others do so for an earlier one */

    if (ship->wanted <= ship->runs_at
        || (ngx_msec_int_t) (ship->runs_next - ngx_current_msec) > 0)
    {
        return 0;
    }

    ship->runs_next = ngx_current_msec + NGX_HTTP_APIKEY_RUNS_PACE;

    ngx_http_apikey_runs_look(ship);

    return ngx_http_apikey_runs_send(ship, ngx_http_apikey_runs_said);
}


/* All that had ended when it was looked at. */

static ngx_uint_t
ngx_http_apikey_runs_shipped(ngx_http_apikey_ship_t *ship)
{
    ngx_uint_t                    i;
    ngx_http_apikey_ship_ring_t  *r;

    for (i = 0; i < ship->nrings; i++) {
        r = &ship->rings[i];

        if (r->open
            && apikey_marks_get(&ship->marks, (uint32_t) i,
                                r->ring.file->epoch)
               < r->ran)
        {
            return 0;
        }
    }

    return 1;
}


static void
ngx_http_apikey_runs_look(ngx_http_apikey_ship_t *ship)
{
    u_char                  *p;
    ngx_uint_t               i, n;
    ngx_http_apikey_text_t  *t;

    /* who was admitted before has a slot by now, in a ring that is known */

    ship->runs_seen = apikey_clock_real()
                      - 2 * 1000 * (int64_t) ship->usage->period;
    ship->scan_at = ngx_current_msec;
    ngx_http_apikey_ship_scan(ship);

    ngx_http_apikey_runs_begin(ship);

    t = &ship->runs;

    ngx_http_apikey_text_put(t, "DELETE FROM apikey.usage_running WHERE node ="
                                " '");
    ngx_http_apikey_text_uuid(t, ship->usage->conf.node);
    ngx_http_apikey_text_put(t, "' AND at IS DISTINCT FROM (SELECT n.runs_at"
                                " FROM apikey.usage_node n WHERE n.node = '");
    ngx_http_apikey_text_uuid(t, ship->usage->conf.node);
    ngx_http_apikey_text_put(t, "');");

    for (i = 0, n = 0; i < ship->nrings; i++) {

        if (ship->rings[i].open && !ship->rings[i].ring.copied) {
            ngx_http_apikey_runs_ring(ship, &ship->rings[i], &n);
        }
    }

    ngx_http_apikey_text_put(t, n ? " ON CONFLICT DO NOTHING" : "");

    p = ngx_http_apikey_text_add(t, 1);

    if (p) {
        *p = '\0';
    }

    ship->runs_to = apikey_clock_real() + NGX_HTTP_APIKEY_RUNS_SKEW;
}


static void
ngx_http_apikey_runs_ring(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_ship_ring_t *r, ngx_uint_t *n)
{
    uint32_t          i, unknown;
    apikey_shape_t   *shape;
    static u_char     none[16];
    union {
        apikey_record_t  record;
        u_char           bytes[APIKEY_RECORD_LARGE];
    } copy;

    r->ran = apikey_ring_head(&r->ring);
    shape = &copy.record.shape;

    for (i = 0; i < APIKEY_RING_SLOTS; i++) {

        if (!apikey_ring_runs(&r->ring, i, r->ran, &copy.record,
                              &unknown)
            || shape->kind != APIKEY_RECORD_EVENT
            || shape->verdict != APIKEY_OK
            || ngx_memcmp(shape->key, none, 16) == 0)
        {
            continue;
        }

        ngx_http_apikey_text_put(&ship->runs, (*n)++ ? ","
                                 : "INSERT INTO apikey.usage_running VALUES ");
        ngx_http_apikey_runs_row(ship, &copy.record, unknown);
    }
}


static void
ngx_http_apikey_runs_row(ngx_http_apikey_ship_t *ship,
    const apikey_record_t *record, uint32_t unknown)
{
    const apikey_count_t    *c;
    ngx_http_apikey_text_t  *t;

    t = &ship->runs;
    c = &record->count;

    ngx_http_apikey_text_put(t, "('");
    ngx_http_apikey_text_uuid(t, ship->usage->conf.node);
    ngx_http_apikey_text_put(t, "',");
    ngx_http_apikey_runs_at(ship);
    ngx_http_apikey_text_put(t, ",'");
    ngx_http_apikey_text_uuid(t, c->event);
    ngx_http_apikey_text_put(t, "',apikey.usage_time(");
    ngx_http_apikey_text_int(t, c->time);
    ngx_http_apikey_text_put(t, "),'");
    ngx_http_apikey_text_uuid(t, record->shape.key);
    ngx_http_apikey_text_put(t, "',");
    ngx_http_apikey_runs_text(t, record, APIKEY_TEXT_OWNER);
    ngx_http_apikey_text_put(t, ",");
    ngx_http_apikey_runs_text(t, record, APIKEY_TEXT_SERVICE);
    ngx_http_apikey_text_put(t, ",");

    if (unknown & APIKEY_OPEN_MODEL) {
        ngx_http_apikey_text_put(t, "NULL");

    } else {
        ngx_http_apikey_runs_text(t, record, APIKEY_TEXT_MODEL);
    }

    ngx_http_apikey_text_put(t, ",");
    ngx_http_apikey_text_number(t, record->shape.weight);
    ngx_http_apikey_text_put(t, ",");

    if (unknown & APIKEY_OPEN_TOKENS) {
        ngx_http_apikey_text_put(t, "NULL");

    } else {
        ngx_http_apikey_text_number(t, (__int128) c->tokens[0]
                                       + c->tokens[1]);
    }

    ngx_http_apikey_text_put(t, ",");

    if (c->cost < 0) {
        ngx_http_apikey_text_put(t, "NULL)");

    } else {
        ngx_http_apikey_text_int(t, c->cost);
        ngx_http_apikey_text_put(t, ")");
    }
}


static void
ngx_http_apikey_runs_text(ngx_http_apikey_text_t *t,
    const apikey_record_t *record, ngx_uint_t text)
{
    size_t      at;
    ngx_uint_t  i;

    for (i = 0, at = 0; i < text; i++) {
        at += record->shape.len[i];
    }

    ngx_http_apikey_text_quoted(t, record->text + at, record->shape.len[text],
                                0);
}


static void
ngx_http_apikey_runs_begin(ngx_http_apikey_ship_t *ship)
{
    ship->runs.len = 0;
    ship->runs.failed = 0;

    ngx_http_apikey_text_put(&ship->runs, "SELECT set_config('apikey.caller',"
        " 'node', true), set_config('synchronous_commit', 'off', true);");
}


static void
ngx_http_apikey_runs_at(ngx_http_apikey_ship_t *ship)
{
    ngx_http_apikey_text_put(&ship->runs, "apikey.usage_time(");
    ngx_http_apikey_text_int(&ship->runs, ship->runs_seen);
    ngx_http_apikey_text_put(&ship->runs, ")");
}


static void
ngx_http_apikey_runs_count(ngx_http_apikey_ship_t *ship)
{
    u_char                  *p;
    ngx_http_apikey_text_t  *t;

    ngx_http_apikey_runs_begin(ship);

    t = &ship->runs;

    ngx_http_apikey_text_put(t, "UPDATE apikey.usage_node SET runs_at = ");
    ngx_http_apikey_runs_at(ship);
    ngx_http_apikey_text_put(t, " WHERE node = '");
    ngx_http_apikey_text_uuid(t, ship->usage->conf.node);
    ngx_http_apikey_text_put(t, "';DELETE FROM apikey.usage_running"
                                " WHERE node = '");
    ngx_http_apikey_text_uuid(t, ship->usage->conf.node);
    ngx_http_apikey_text_put(t, "' AND at <> ");
    ngx_http_apikey_runs_at(ship);

    p = ngx_http_apikey_text_add(t, 1);

    if (p) {
        *p = '\0';
    }
}


static ngx_uint_t
ngx_http_apikey_runs_send(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_pg_handler_pt handler)
{
    if (ship->runs.failed) {
        ngx_log_error(NGX_LOG_ALERT, ship->log, 0,
                      "apikey: no memory to say what runs");
        ship->runs_seen = 0;
        return 0;
    }

    ngx_memzero(&ship->op, sizeof(ngx_http_apikey_pg_op_t));

    ship->op.sql = (char *) ship->runs.data;
    ship->op.simple = 1;
    ship->op.handler = handler;

    ngx_http_apikey_ship_query(ship);

    return 1;
}


static void
ngx_http_apikey_runs_said(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_http_apikey_ship_t  *ship = op->data;

    /* of a worker that was busy while many ran */

    if (ship->runs.size > NGX_HTTP_APIKEY_FRAMES) {
        ngx_http_apikey_text_free(&ship->runs);
    }

    if (ngx_http_apikey_runs_ok(ship, res)) {
        ngx_http_apikey_ship_run(ship);
    }
}


static void
ngx_http_apikey_runs_done(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_http_apikey_ship_t  *ship = op->data;

    if (ngx_http_apikey_runs_ok(ship, res)) {
        ship->runs_at = ship->runs_seen;
        ship->runs_seen = 0;
        ngx_http_apikey_ship_hears(ship);

        ngx_http_apikey_ship_run(ship);
    }
}


/* Else nobody knows what Postgres has of it: it is read with the marks. */

static ngx_uint_t
ngx_http_apikey_runs_ok(ngx_http_apikey_ship_t *ship, PGresult *res)
{
    ship->asking = 0;

    if (res && (PQresultStatus(res) == PGRES_COMMAND_OK
                || PQresultStatus(res) == PGRES_TUPLES_OK))
    {
        return 1;
    }

    ngx_http_apikey_ship_deaf(ship, res);
    ship->known = 0;
    ngx_http_apikey_ship_retry(ship);

    return 0;
}
