
/*
 * Deciding where a count was lost: of a quota that is nowhere in memory what
 * was used is asked for in Postgres, and then it is decided.
 *
 * A start loses the counts of local mode.  Whatever this node had recorded
 * until then must have reached Postgres first, which it says by its heartbeat:
 * so the answer may be "not yet", and the request waits and asks again, for
 * a while.  Where Redis has lost them that holds for all nodes, and who runs
 * with all that is left of a strict limit has to end first.  A node that goes
 * on without Redis asks what it has never seen.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"
#include "http/limits.h"


#define NGX_HTTP_APIKEY_KNOWN_TIMEOUT  2000
#define NGX_HTTP_APIKEY_KNOWN_AGAIN    200
#define NGX_HTTP_APIKEY_KNOWN_TRIES    15
#define NGX_HTTP_APIKEY_KNOWN_START    3000000   /* us */
#define NGX_HTTP_APIKEY_KNOWN_ASKING   16       /* at once, of a worker */


#define ngx_http_apikey_known_ctx(known)                                      \
    ((ngx_http_apikey_ctx_t *) (known)->ctx)
#define ngx_http_apikey_known_decision(known)                                 \
    (&ngx_http_apikey_known_ctx(known)->decision)


static void ngx_http_apikey_known_decided(ngx_http_apikey_decision_t *d);
static ngx_int_t ngx_http_apikey_known_anyway(
    ngx_http_apikey_known_t *known);
static ngx_int_t ngx_http_apikey_known_ask(ngx_http_apikey_known_t *known);
static ngx_int_t ngx_http_apikey_known_query(
    ngx_http_apikey_known_t *known);
static ngx_uint_t ngx_http_apikey_known_missing(
    ngx_http_apikey_decision_t *d);
static void ngx_http_apikey_known_answer(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_known_take(ngx_http_apikey_known_t *known,
    PGresult *res);
static void ngx_http_apikey_known_later(ngx_http_apikey_known_t *known);
static void ngx_http_apikey_known_wait(ngx_http_apikey_known_t *known,
    ngx_msec_t ms);
static void ngx_http_apikey_known_timer(ngx_event_t *ev);
static void ngx_http_apikey_known_abandon(ngx_http_apikey_known_t *known);
static void ngx_http_apikey_known_again(ngx_http_apikey_known_t *known);


static const char  ngx_http_apikey_known_sql[] =
    "SELECT used FROM apikey.limits_known($1)";


ngx_int_t
ngx_http_apikey_known_decide(ngx_http_apikey_main_conf_t *amcf,
    ngx_http_apikey_ctx_t *ctx)
{
    ngx_int_t                    rc;
    ngx_http_apikey_known_t     *known;
    ngx_http_apikey_decision_t  *d;

    d = &ctx->decision;
    known = &ctx->known;

    known->amcf = amcf;
    known->ctx = ctx;
    known->handler = d->handler;
    known->tries = 0;
    known->asking = 0;
    known->text = NULL;
    d->complete = 0;
    ngx_memzero(&known->timer, sizeof(ngx_event_t));

    d->handler = ngx_http_apikey_known_decided;

    d->waited = 0;

    rc = ngx_http_apikey_decide(amcf->limiter, d);

    if (rc == NGX_ERROR && d->unknown) {
        rc = ngx_http_apikey_known_ask(known);

        if (rc == NGX_ERROR) {
            return ngx_http_apikey_known_anyway(known);
        }
    }

    return rc;
}


void
ngx_http_apikey_known_cancel(ngx_http_apikey_ctx_t *ctx)
{
    ngx_http_apikey_known_t  *known;

    known = &ctx->known;

    if (known->asking) {
        ngx_http_apikey_known_abandon(known);
    }

    if (known->timer.timer_set) {
        ngx_del_timer(&known->timer);
    }

    ngx_http_apikey_decide_cancel(&ctx->decision);
}


static void
ngx_http_apikey_known_decided(ngx_http_apikey_decision_t *d)
{
    ngx_http_apikey_ctx_t    *ctx;
    ngx_http_apikey_known_t  *known;

    ctx = (ngx_http_apikey_ctx_t *)
              ((u_char *) d - offsetof(ngx_http_apikey_ctx_t, decision));
    known = &ctx->known;

    if (d->rc == NGX_ERROR && d->unknown) {

        if (ngx_http_apikey_known_ask(known) == NGX_AGAIN
            || ngx_http_apikey_known_anyway(known) == NGX_AGAIN)
        {
            return;
        }
    }

    known->handler(d);
}


/* What nobody knows passes where it only observes, else it is refused. */

static ngx_int_t
ngx_http_apikey_known_anyway(ngx_http_apikey_known_t *known)
{
    ngx_http_apikey_decision_t  *d;

    d = ngx_http_apikey_known_decision(known);

    if (!d->blind && !ngx_http_apikey_known_alone(d)) {
        return NGX_ERROR;
    }

    d->anyway = 1;

    return ngx_http_apikey_decide(known->amcf->limiter, d);
}


/* NGX_ERROR: there is nobody to ask, or nothing to be asked. */

static ngx_int_t
ngx_http_apikey_known_ask(ngx_http_apikey_known_t *known)
{
    ngx_uint_t                    up;
    ngx_http_apikey_decision_t   *d;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = known->amcf;
    d = ngx_http_apikey_known_decision(known);

    if (amcf->quota == NULL || !ngx_http_apikey_known_missing(d)
        || known->tries++ >= NGX_HTTP_APIKEY_KNOWN_TRIES)
    {
        return NGX_ERROR;
    }

    up = apikey_stats_get(&amcf->sh->stats.postgres_up);

    /* at a start it may not be connected yet: that is not down */

    if (!up && apikey_clock_real()
               - (int64_t) ngx_http_apikey_limiter_born(amcf->limiter, d->mode)
               > NGX_HTTP_APIKEY_KNOWN_START)
    {
        return NGX_ERROR;
    }

    /* many wait for one count: the answer to some is the answer to all */

    if (!up || amcf->asking == NGX_HTTP_APIKEY_KNOWN_ASKING) {

        if (d->blind) {
            return NGX_ERROR;
        }

        ngx_http_apikey_known_later(known);
        return NGX_AGAIN;
    }

    return ngx_http_apikey_known_query(known);
}


static ngx_int_t
ngx_http_apikey_known_query(ngx_http_apikey_known_t *known)
{
    ngx_http_apikey_decision_t   *d;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = known->amcf;
    d = ngx_http_apikey_known_decision(known);

    known->values[0] = ngx_http_apikey_known_request(known);

    if (known->values[0] == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(&known->op, sizeof(ngx_http_apikey_pg_op_t));

    known->op.sql = ngx_http_apikey_known_sql;
    known->op.nparams = 1;
    known->op.values = known->values;
    known->op.timeout = NGX_HTTP_APIKEY_KNOWN_TIMEOUT;
    known->op.handler = ngx_http_apikey_known_answer;
    known->op.data = known;

    if (ngx_http_apikey_pg_query(amcf->quota, &known->op) != NGX_OK) {
        return NGX_ERROR;
    }

    known->asked = apikey_clock_boot();
    known->asking = 1;
    amcf->asking++;

    /* what refuses nothing waits no longer than for Redis */

    if (d->blind) {
        ngx_http_apikey_known_wait(known, amcf->redis->timeout);
    }

    return NGX_AGAIN;
}


/* Redis may not believe it yet, for a while after it has lost its data. */

static ngx_uint_t
ngx_http_apikey_known_missing(ngx_http_apikey_decision_t *d)
{
    ngx_uint_t  i, k;

    if (ngx_http_apikey_known_alone(d)) {
        return 1;
    }

    for (i = 0; i < d->naccounts; i++) {

        for (k = 0; k < d->accounts[i].nbuckets; k++) {

            if (d->accounts[i].buckets[k].unknown
                && !d->accounts[i].buckets[k].asked)
            {
                return 1;
            }
        }
    }

    return 0;
}


static void
ngx_http_apikey_known_answer(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    int64_t                      us;
    ngx_http_apikey_known_t     *known = op->data;
    ngx_http_apikey_decision_t  *d;

    known->asking = 0;
    known->amcf->asking--;

    if (known->timer.timer_set) {
        ngx_del_timer(&known->timer);
    }

    d = ngx_http_apikey_known_decision(known);
    us = apikey_clock_boot() - known->asked;

    /* what could be believed by now was not asked for */

    if (ngx_http_apikey_known_after(d, 0)
        != ngx_http_apikey_known_after(d, us)
        && !d->blind)
    {
        ngx_http_apikey_known_later(known);
        return;
    }

    if (res && PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res)) {
        d->complete = ngx_http_apikey_known_after(d, 0);
        ngx_http_apikey_known_take(known, res);
        ngx_http_apikey_known_again(known);
        return;
    }

    if (res && PQresultStatus(res) != PGRES_TUPLES_OK) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "apikey: asking what is used of a limit: %s",
                      PQresultErrorMessage(res));
    }

    /* who passes anyway does not wait, nor again who has waited so long */

    if (d->blind
        || (res == NULL && (d->mode == APIKEY_MODE_DOWN_LOCAL
                            || us >= 1000 * NGX_HTTP_APIKEY_KNOWN_TIMEOUT)))
    {
        known->tries = NGX_HTTP_APIKEY_KNOWN_TRIES;
    }

    if (d->blind) {
        ngx_http_apikey_known_again(known);
        return;
    }

    ngx_http_apikey_known_later(known);
}


/*
 * Null: there are no such credits, or who runs has all that is left of it,
 * perhaps for long.  Nobody waits for that.
 */

static void
ngx_http_apikey_known_take(ngx_http_apikey_known_t *known, PGresult *res)
{
    int                          n;
    ngx_int_t                    used;
    ngx_uint_t                   i, k;
    ngx_http_apikey_bucket_t    *b;
    ngx_http_apikey_account_t   *account;
    ngx_http_apikey_decision_t  *d;

    d = ngx_http_apikey_known_decision(known);
    n = 0;

    for (i = 0; i < d->naccounts; i++) {
        account = &d->accounts[i];

        for (k = 0; k < account->nbuckets; k++) {
            b = &account->buckets[k];

            if (!b->unknown || n == PQntuples(res)) {
                continue;
            }

            used = ngx_atoi((u_char *) PQgetvalue(res, n, 0),
                            PQgetlength(res, n, 0));
            n++;

            if (used == NGX_ERROR) {

                /* else more than counts */

                if (PQgetisnull(res, n - 1, 0)) {
                    known->tries = NGX_HTTP_APIKEY_KNOWN_TRIES;
                    continue;
                }

                used = APIKEY_BUCKET_MAX;
            }

            b->known = (uint64_t) used;
            b->asked = 1;

            ngx_http_apikey_limiter_known(known->amcf->limiter, account,
                                          b->limit, (uint64_t) used);
        }
    }
}


static void
ngx_http_apikey_known_later(ngx_http_apikey_known_t *known)
{
    ngx_http_apikey_known_wait(known, NGX_HTTP_APIKEY_KNOWN_AGAIN);
}


static void
ngx_http_apikey_known_wait(ngx_http_apikey_known_t *known, ngx_msec_t ms)
{
    known->timer.handler = ngx_http_apikey_known_timer;
    known->timer.data = known;
    known->timer.log = ngx_cycle->log;

    ngx_add_timer(&known->timer, ms);
}


static void
ngx_http_apikey_known_timer(ngx_event_t *ev)
{
    ngx_http_apikey_known_t *known = ev->data;

    if (known->asking) {
        ngx_http_apikey_known_abandon(known);
        known->tries = NGX_HTTP_APIKEY_KNOWN_TRIES;
    }

    ngx_http_apikey_known_again(known);
}


static void
ngx_http_apikey_known_abandon(ngx_http_apikey_known_t *known)
{
    known->asking = 0;
    known->amcf->asking--;

    ngx_http_apikey_pg_abandon(known->amcf->quota, &known->op);
}


/* From an event: whatever comes of it, the handler is told. */

static void
ngx_http_apikey_known_again(ngx_http_apikey_known_t *known)
{
    ngx_int_t                    rc;
    ngx_http_apikey_decision_t  *d;

    d = ngx_http_apikey_known_decision(known);

    if (d->mode == APIKEY_MODE_DOWN_LOCAL) {
        d->waited = 1;
    }

    rc = ngx_http_apikey_decide(known->amcf->limiter, d);

    if (rc == NGX_AGAIN) {
        return;
    }

    ngx_http_apikey_known_decided(d);
}
