
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

#include "base/json.h"
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
static ngx_uint_t ngx_http_apikey_known_alone(
    const ngx_http_apikey_decision_t *d);
static ngx_int_t ngx_http_apikey_known_ask(ngx_http_apikey_known_t *known);
static ngx_uint_t ngx_http_apikey_known_missing(
    ngx_http_apikey_decision_t *d);
static uint64_t ngx_http_apikey_known_after(
    const ngx_http_apikey_decision_t *d, int64_t us);
static uint64_t ngx_http_apikey_known_until(
    const ngx_http_apikey_decision_t *d);
static const char *ngx_http_apikey_known_request(
    ngx_http_apikey_known_t *known);
static size_t ngx_http_apikey_known_size(const ngx_http_apikey_decision_t *d);
static void ngx_http_apikey_known_head(apikey_json_t *j,
    ngx_http_apikey_main_conf_t *amcf, const ngx_http_apikey_decision_t *d);
static void ngx_http_apikey_known_limit(apikey_json_t *j,
    ngx_http_apikey_account_t *account, ngx_http_apikey_bucket_t *b);
static void ngx_http_apikey_known_answer(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_known_take(ngx_http_apikey_known_t *known,
    PGresult *res);
static void ngx_http_apikey_known_later(ngx_http_apikey_known_t *known);
static void ngx_http_apikey_known_timer(ngx_event_t *ev);
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
        known->asking = 0;
        known->amcf->asking--;
        ngx_http_apikey_pg_abandon(known->amcf->quota, &known->op);
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


/* By this node's own table. */

static ngx_uint_t
ngx_http_apikey_known_alone(const ngx_http_apikey_decision_t *d)
{
    return d->mode == APIKEY_MODE_LOCAL || d->mode == APIKEY_MODE_DOWN_LOCAL;
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


/*
 * All nodes must have shipped what they had until then: Redis believes no
 * answer that is complete for less than both, whichever is later.  One that
 * lies ahead yet cannot be asked for, but what is answered tells at least of
 * use; 0: nothing was ever lost.
 */

static uint64_t
ngx_http_apikey_known_after(const ngx_http_apikey_decision_t *d, int64_t us)
{
    uint64_t  after, now;

    if (ngx_http_apikey_known_alone(d)) {
        return 0;
    }

    now = d->decided_at + us;
    after = d->after <= now ? d->after : 0;

    return d->least <= now ? ngx_max(after, d->least) : after;
}


/*
 * A loss that this node knows of: what is asked for when that is over takes
 * other nodes a while.
 */

static uint64_t
ngx_http_apikey_known_until(const ngx_http_apikey_decision_t *d)
{
    return ngx_http_apikey_known_alone(d) ? 0 : d->least;
}


static const char *
ngx_http_apikey_known_request(ngx_http_apikey_known_t *known)
{
    size_t                       size;
    ngx_uint_t                   i, k;
    apikey_json_t                j;
    ngx_http_apikey_bucket_t    *b;
    ngx_http_apikey_account_t   *account;
    ngx_http_apikey_decision_t  *d;

    d = ngx_http_apikey_known_decision(known);
    size = ngx_http_apikey_known_size(d);

    if (known->text == NULL) {
        known->text = ngx_pnalloc(ngx_http_apikey_known_ctx(known)->pool,
                                  size);
        if (known->text == NULL) {
            return NULL;
        }
    }

    apikey_json_init(&j, known->text, size - 1);
    ngx_http_apikey_known_head(&j, known->amcf, d);

    for (i = 0; i < d->naccounts; i++) {
        account = &d->accounts[i];

        for (k = 0; k < account->nbuckets; k++) {
            b = &account->buckets[k];

            if (b->unknown) {
                ngx_http_apikey_known_limit(&j, account, b);
            }
        }
    }

    apikey_json_array_end(&j);
    apikey_json_object_end(&j);

    if (j.overflow) {
        return NULL;
    }

    known->text[apikey_json_len(&j)] = '\0';

    return known->text;
}


static size_t
ngx_http_apikey_known_size(const ngx_http_apikey_decision_t *d)
{
    size_t                      size;
    ngx_uint_t                  i, k;
    ngx_http_apikey_account_t  *account;

    size = 320;

    for (i = 0; i < d->naccounts; i++) {
        account = &d->accounts[i];

        for (k = 0; k < account->nbuckets; k++) {
            size += 256 + 6 * (account->buckets[k].limit->service_len
                               + account->buckets[k].limit->model_len);
        }
    }

    return size;
}


static void
ngx_http_apikey_known_head(apikey_json_t *j,
    ngx_http_apikey_main_conf_t *amcf, const ngx_http_apikey_decision_t *d)
{
    apikey_json_object(j);
    apikey_json_name(j, "node");
    apikey_json_uuid(j, amcf->usage.node);
    apikey_json_name(j, "born");
    apikey_json_uint(j, ngx_http_apikey_limiter_born(amcf->limiter,
                                                     d->mode));
    apikey_json_name(j, "after");
    apikey_json_uint(j, ngx_http_apikey_known_after(d, 0));
    apikey_json_name(j, "until");
    apikey_json_uint(j, ngx_http_apikey_known_until(d));
    apikey_json_name(j, "limits");
    apikey_json_array(j);
}


/* It has counted since its period began, or since it was made. */

static void
ngx_http_apikey_known_limit(apikey_json_t *j,
    ngx_http_apikey_account_t *account, ngx_http_apikey_bucket_t *b)
{
    uint64_t               since;
    const apikey_limit_t  *limit;

    limit = b->limit;
    since = limit->made;

    if (limit->kind == APIKEY_KIND_CALENDAR) {
        since = ngx_max(since, b->period.start);
    }

    apikey_json_object(j);
    apikey_json_name(j, "holder");
    apikey_json_uuid(j, account->holder);
    apikey_json_name(j, "level");
    apikey_json_text(j, apikey_level_name(account->level));
    apikey_json_name(j, "kind");
    apikey_json_text(j, limit->kind == APIKEY_KIND_CREDITS ? "credits" : "");
    apikey_json_name(j, "unit");
    apikey_json_text(j, apikey_unit_name(limit->unit));
    apikey_json_name(j, "service");
    apikey_json_string(j, apikey_limit_service(limit), limit->service_len);
    apikey_json_name(j, "model");
    apikey_json_string(j, apikey_limit_model(limit), limit->model_len);
    apikey_json_name(j, "since");
    apikey_json_uint(j, since);
    apikey_json_name(j, "strict");
    apikey_json_bool(j, limit->mode == APIKEY_STRICT);
    apikey_json_object_end(j);
}


static void
ngx_http_apikey_known_answer(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    int64_t                      us;
    ngx_http_apikey_known_t     *known = op->data;
    ngx_http_apikey_decision_t  *d;

    known->asking = 0;
    known->amcf->asking--;

    d = ngx_http_apikey_known_decision(known);
    us = apikey_clock_boot() - known->asked;

    /* what could be believed by now was not asked for */

    if (ngx_http_apikey_known_after(d, 0)
        != ngx_http_apikey_known_after(d, us))
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

    /* who passes anyway does not wait, nor long who finds no store at all */

    if (d->blind || (res == NULL && d->mode == APIKEY_MODE_DOWN_LOCAL)) {
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
    known->timer.handler = ngx_http_apikey_known_timer;
    known->timer.data = known;
    known->timer.log = ngx_cycle->log;

    ngx_add_timer(&known->timer, NGX_HTTP_APIKEY_KNOWN_AGAIN);
}


static void
ngx_http_apikey_known_timer(ngx_event_t *ev)
{
    ngx_http_apikey_known_again(ev->data);
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
