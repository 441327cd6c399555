
/*
 * apikey_budget_drift: what budgets count as used, held against what Postgres
 * knows, by one worker of a node now and then.
 *
 * Postgres is asked before and after the levels are looked at: a budget
 * whose use is the same in both was at rest meanwhile, but for requests that
 * ran all the time, and its level must be that use.
 *
 * A look has a pool of its own, which goes with it (rows: drift_rows.c).
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/drift.h"
#include "http/rooms.h"


#define NGX_HTTP_APIKEY_DRIFT_FIRST    3000      /* ms after the start */
#define NGX_HTTP_APIKEY_DRIFT_EVERY    300000
#define NGX_HTTP_APIKEY_DRIFT_WAIT     1000      /* for as_of */
#define NGX_HTTP_APIKEY_DRIFT_TRIES    20
#define NGX_HTTP_APIKEY_DRIFT_TIMEOUT  10000


static void ngx_http_apikey_drift_timer(ngx_event_t *ev);
static void ngx_http_apikey_drift_ask(ngx_http_apikey_drift_t *drift,
    const char *sql, ngx_uint_t nparams,
    ngx_http_apikey_pg_handler_pt handler);
static void ngx_http_apikey_drift_first(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_drift_look(ngx_http_apikey_drift_t *drift);
static void ngx_http_apikey_drift_decided(ngx_http_apikey_decision_t *d);
static void ngx_http_apikey_drift_level(ngx_http_apikey_drift_t *drift,
    ngx_http_apikey_drift_item_t *item);
static ngx_int_t ngx_http_apikey_drift_holders(
    ngx_http_apikey_drift_t *drift);
static void ngx_http_apikey_drift_second(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_drift_end(ngx_http_apikey_drift_t *drift);


static const char  ngx_http_apikey_drift_sql[] =
    "SELECT * FROM apikey.budgets_used(NULL, 20)";

static const char  ngx_http_apikey_drift_again_sql[] =
    "SELECT * FROM apikey.budgets_used($1, NULL)";


ngx_http_apikey_drift_t *
ngx_http_apikey_drift_start(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf)
{
    ngx_http_apikey_drift_t  *drift;

    drift = ngx_pcalloc(cycle->pool, sizeof(ngx_http_apikey_drift_t));
    if (drift == NULL) {
        return NULL;
    }

    drift->amcf = amcf;
    drift->log = cycle->log;

    drift->timer.handler = ngx_http_apikey_drift_timer;
    drift->timer.data = drift;
    drift->timer.log = cycle->log;
    drift->timer.cancelable = 1;

    ngx_add_timer(&drift->timer, NGX_HTTP_APIKEY_DRIFT_FIRST);

    return drift;
}


void
ngx_http_apikey_drift_stop(ngx_http_apikey_drift_t *drift)
{
    if (drift->timer.timer_set) {
        ngx_del_timer(&drift->timer);
    }

    if (drift->asking) {
        ngx_http_apikey_pg_abandon(
                         ngx_http_apikey_keyring_bulk(drift->amcf->keyring),
                         &drift->op);
    }

    if (drift->deciding) {
        ngx_http_apikey_decide_cancel(&drift->items[drift->next].decision);
    }

    if (drift->pool) {
        ngx_destroy_pool(drift->pool);
    }
}


static void
ngx_http_apikey_drift_timer(ngx_event_t *ev)
{
    ngx_http_apikey_drift_t  *drift;

    drift = ev->data;

    if (ngx_exiting) {
        return;
    }

    if (drift->pool) {
        ngx_http_apikey_drift_ask(drift, ngx_http_apikey_drift_again_sql, 1,
                                  ngx_http_apikey_drift_second);
        return;
    }

    if (!ngx_http_apikey_usage_elected(drift->amcf->worker_usage)
        || apikey_stats_get(&drift->amcf->sh->stats.schema_ok) == 0)
    {
        ngx_add_timer(ev, NGX_HTTP_APIKEY_DRIFT_FIRST);
        return;
    }

    drift->pool = ngx_create_pool(4096, drift->log);

    if (drift->pool == NULL) {
        ngx_http_apikey_drift_end(drift);
        return;
    }

    ngx_http_apikey_drift_ask(drift, ngx_http_apikey_drift_sql, 0,
                              ngx_http_apikey_drift_first);
}


static void
ngx_http_apikey_drift_ask(ngx_http_apikey_drift_t *drift, const char *sql,
    ngx_uint_t nparams, ngx_http_apikey_pg_handler_pt handler)
{
    ngx_memzero(&drift->op, sizeof(ngx_http_apikey_pg_op_t));

    drift->op.sql = sql;
    drift->op.nparams = nparams;
    drift->op.values = drift->values;
    drift->op.timeout = NGX_HTTP_APIKEY_DRIFT_TIMEOUT;
    drift->op.handler = handler;
    drift->op.data = drift;

    if (ngx_http_apikey_pg_query(
                         ngx_http_apikey_keyring_bulk(drift->amcf->keyring),
                         &drift->op)
        != NGX_OK)
    {
        ngx_http_apikey_drift_end(drift);
        return;
    }

    drift->asking = 1;
}


static void
ngx_http_apikey_drift_first(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    int                       i, n;
    ngx_int_t                 rc;
    ngx_http_apikey_drift_t  *drift;

    drift = op->data;
    drift->asking = 0;
    drift->nitems = 0;

    n = PQresultStatus(res) == PGRES_TUPLES_OK ? PQntuples(res) : 0;

    if (n == 0) {
        if (res && PQresultStatus(res) == PGRES_TUPLES_OK) {
            apikey_stats_set(&drift->amcf->sh->stats.drift, 0);
        }

        ngx_http_apikey_drift_end(drift);
        return;
    }

    drift->items = ngx_pcalloc(drift->pool,
                               n * sizeof(ngx_http_apikey_drift_item_t));
    if (drift->items == NULL) {
        ngx_http_apikey_drift_end(drift);
        return;
    }

    for (i = 0; i < n; i++) {
        rc = ngx_http_apikey_drift_item(drift, res, i,
                                        &drift->items[drift->nitems]);
        if (rc == NGX_ERROR) {
            ngx_http_apikey_drift_end(drift);
            return;
        }

        if (rc == NGX_OK) {
            drift->nitems++;
        }
    }

    if (ngx_http_apikey_drift_holders(drift) != NGX_OK) {
        ngx_http_apikey_drift_end(drift);
        return;
    }

    drift->next = 0;
    ngx_http_apikey_drift_look(drift);
}


static void
ngx_http_apikey_drift_look(ngx_http_apikey_drift_t *drift)
{
    ngx_int_t                      rc;
    ngx_http_apikey_drift_item_t  *item;

    while (drift->next < drift->nitems) {
        item = &drift->items[drift->next];

        item->decision.pool = drift->pool;
        item->decision.look = 1;
        item->decision.handler = ngx_http_apikey_drift_decided;
        item->decision.data = drift;
        item->decision.decided_at = apikey_clock_real();

        rc = ngx_http_apikey_decide(drift->amcf->limiter, &item->decision);

        if (rc == NGX_AGAIN) {
            drift->deciding = 1;
            return;
        }

        ngx_http_apikey_drift_level(drift, item);
        drift->next++;
    }

    drift->looked = apikey_clock_real();
    drift->tries = 0;

    ngx_add_timer(&drift->timer, NGX_HTTP_APIKEY_DRIFT_WAIT);
}


static void
ngx_http_apikey_drift_decided(ngx_http_apikey_decision_t *d)
{
    ngx_http_apikey_drift_t  *drift;

    drift = d->data;
    drift->deciding = 0;

    ngx_http_apikey_drift_level(drift, &drift->items[drift->next]);
    drift->next++;

    ngx_http_apikey_drift_look(drift);
}


/* What is leased may have been spent or not: it is not at rest. */

static void
ngx_http_apikey_drift_level(ngx_http_apikey_drift_t *drift,
    ngx_http_apikey_drift_item_t *item)
{
    ngx_uint_t                       i, known;
    ngx_http_apikey_drift_budget_t  *budget;

    known = item->decision.rc != NGX_ERROR && item->decision.known;

    for (i = 0; i < item->nbudgets; i++) {
        budget = &item->budgets[i];

        budget->level = known && !budget->bucket->unknown
                        && budget->account->out == 0
                        ? budget->bucket->used
                        : NGX_HTTP_APIKEY_DRIFT_NONE;
    }
}


/* The same holders are asked for again: {uuid,...} */

static ngx_int_t
ngx_http_apikey_drift_holders(ngx_http_apikey_drift_t *drift)
{
    char        *p;
    ngx_uint_t   i;

    p = ngx_pnalloc(drift->pool,
                    3 + drift->nitems * (APIKEY_UUID_TEXT_LEN + 1));
    if (p == NULL) {
        return NGX_ERROR;
    }

    drift->values[0] = p;
    *p++ = '{';

    for (i = 0; i < drift->nitems; i++) {

        if (i) {
            *p++ = ',';
        }

        apikey_uuid_format(p, drift->items[i].holder);
        p += APIKEY_UUID_TEXT_LEN;
    }

    *p++ = '}';
    *p = '\0';

    return NGX_OK;
}


static void
ngx_http_apikey_drift_second(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    int                       i, n;
    off_t                     as_of;
    uint64_t                  most, drifted;
    ngx_http_apikey_drift_t  *drift;

    drift = op->data;
    drift->asking = 0;

    n = PQresultStatus(res) == PGRES_TUPLES_OK ? PQntuples(res) : 0;

    if (n == 0) {
        ngx_http_apikey_drift_end(drift);
        return;
    }

    as_of = ngx_atoof((u_char *) PQgetvalue(res, 0,
                                            NGX_HTTP_APIKEY_DRIFT_AS_OF),
                      PQgetlength(res, 0, NGX_HTTP_APIKEY_DRIFT_AS_OF));

    if (as_of <= drift->looked) {

        if (drift->tries++ < NGX_HTTP_APIKEY_DRIFT_TRIES) {
            ngx_add_timer(&drift->timer, NGX_HTTP_APIKEY_DRIFT_WAIT);
            return;
        }

        ngx_http_apikey_drift_end(drift);
        return;
    }

    most = 0;

    for (i = 0; i < n; i++) {
        drifted = ngx_http_apikey_drift_compare(drift, res, i);
        most = ngx_max(most, drifted);
    }

    apikey_stats_set(&drift->amcf->sh->stats.drift, most);

    ngx_http_apikey_drift_end(drift);
}


static void
ngx_http_apikey_drift_end(ngx_http_apikey_drift_t *drift)
{
    if (drift->pool) {
        ngx_destroy_pool(drift->pool);
        drift->pool = NULL;
    }

    drift->nitems = 0;

    ngx_add_timer(&drift->timer, NGX_HTTP_APIKEY_DRIFT_EVERY);
}
