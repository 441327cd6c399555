
/*
 * The admin API's side of Postgres: one statement for each request, and the
 * keyring brought up to date before the answer.
 *
 *     SELECT status, headers, body, refresh FROM apikey.api($1, $2, $3)
 *
 * Status 100 asks for a key: it is made here for the prefix in headers, and
 * the statement runs again with its digest.  The plaintext stays here.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/clock.h"
#include "http/admin.h"
#include "http/reports.h"


#define NGX_HTTP_APIKEY_ADMIN_TRIES     5
#define NGX_HTTP_APIKEY_ADMIN_TIMEOUT   20000
#define NGX_HTTP_APIKEY_ADMIN_DOWN      2000


static void ngx_http_apikey_admin_query_done(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static ngx_int_t ngx_http_apikey_admin_query_row(ngx_http_apikey_admin_t *a,
    PGresult *res);
static ngx_int_t ngx_http_apikey_admin_column(ngx_http_apikey_admin_t *a,
    PGresult *res, int column, ngx_str_t *value);
static void ngx_http_apikey_admin_query_failed(ngx_http_apikey_admin_t *a,
    PGresult *res);
static void ngx_http_apikey_admin_log_error(ngx_http_apikey_admin_t *a,
    PGresult *res, const char *state);
static ngx_int_t ngx_http_apikey_admin_make(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_admin_call_failed(
    ngx_http_apikey_admin_t *a);
static void ngx_http_apikey_admin_refresh_next(ngx_http_apikey_admin_t *a,
    ngx_str_t *ids);
static void ngx_http_apikey_admin_refresh_done(
    ngx_http_apikey_keyring_wait_t *wait, ngx_int_t rc);


/* What an error in SQL means; SQLSTATE or its class. */

static const struct {
    const char                 *state;
    ngx_http_apikey_problem_e   problem;
    ngx_uint_t                  again;       /* had no effect: try again */
} ngx_http_apikey_admin_states[] = {
    { "40001", NGX_HTTP_APIKEY_PROBLEM_UNAVAILABLE, 1 },  /* serialization */
    { "40P01", NGX_HTTP_APIKEY_PROBLEM_UNAVAILABLE, 1 },  /* deadlock */
    { "3F000", NGX_HTTP_APIKEY_PROBLEM_SCHEMA, 0 },       /* no schema */
    { "42883", NGX_HTTP_APIKEY_PROBLEM_SCHEMA, 0 },       /* no function */
    { "42P01", NGX_HTTP_APIKEY_PROBLEM_SCHEMA, 0 },       /* no table */
    { "42703", NGX_HTTP_APIKEY_PROBLEM_SCHEMA, 0 },       /* no column */
    { "25006", NGX_HTTP_APIKEY_PROBLEM_UNAVAILABLE, 0 },  /* read only */
    { "55P03", NGX_HTTP_APIKEY_PROBLEM_UNAVAILABLE, 0 },  /* lock timeout */
    { "08", NGX_HTTP_APIKEY_PROBLEM_UNAVAILABLE, 0 },     /* connection */
    { "53", NGX_HTTP_APIKEY_PROBLEM_UNAVAILABLE, 0 },     /* resources */
    { "57", NGX_HTTP_APIKEY_PROBLEM_UNAVAILABLE, 0 },     /* shutdown */
    { "58", NGX_HTTP_APIKEY_PROBLEM_UNAVAILABLE, 0 },     /* system */
    { NULL, NGX_HTTP_APIKEY_PROBLEM_INTERNAL, 0 }
};


ngx_int_t
ngx_http_apikey_admin_call(ngx_http_apikey_admin_t *a)
{
    if (a->route->handler) {
        return a->route->handler(a);
    }

    return a->called ? ngx_http_apikey_admin_call_finish(a)
                     : ngx_http_apikey_admin_call_start(a);
}


ngx_int_t
ngx_http_apikey_admin_call_finish(ngx_http_apikey_admin_t *a)
{
    return a->failed ? ngx_http_apikey_admin_call_failed(a) : NGX_DECLINED;
}


ngx_int_t
ngx_http_apikey_admin_call_start(ngx_http_apikey_admin_t *a)
{
    ngx_int_t  rc;

    rc = ngx_http_apikey_admin_call_try(a);

    return (rc == NGX_DECLINED) ? ngx_http_apikey_admin_call_failed(a) : rc;
}


ngx_int_t
ngx_http_apikey_admin_call_try(ngx_http_apikey_admin_t *a)
{
    apikey_stats_t  *stats;

    a->called = 0;
    a->failed = 0;
    a->tries = 0;
    a->again = 0;

    if (!a->within) {
        a->until = 0;
    }

    stats = &a->amcf->sh->stats;

    if (apikey_stats_get(&stats->schema)
        && apikey_stats_get(&stats->schema_ok) == 0)
    {
        a->failed = 1;
        a->problem = NGX_HTTP_APIKEY_PROBLEM_SCHEMA;

        return NGX_DECLINED;
    }

    if (ngx_http_apikey_admin_request(a) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ngx_http_apikey_admin_call_send(a) != NGX_OK) {
        a->failed = 1;
        a->problem = NGX_HTTP_APIKEY_PROBLEM_UNAVAILABLE;

        return NGX_DECLINED;
    }

    ngx_http_apikey_admin_wait(a);

    return NGX_AGAIN;
}


ngx_int_t
ngx_http_apikey_admin_call_send(ngx_http_apikey_admin_t *a)
{
    if (a->amcf->keyring == NULL) {
        return NGX_ERROR;
    }

    if (a->pg == NULL) {
        a->pg = a->route->report
                ? ngx_http_apikey_reports_pg(a->amcf->reports)
                : ngx_http_apikey_keyring_pg(a->amcf->keyring);
    }

    ngx_memzero(&a->op, sizeof(ngx_http_apikey_pg_op_t));

    a->values[0] = a->function ? a->function : a->route->function;

    a->op.sql = "SELECT status, headers, body, refresh"
                " FROM apikey.api($1::text, $2::text, $3::text)";
    a->op.nparams = 3;
    a->op.values = a->values;
    a->op.timeout = apikey_stats_get(&a->amcf->sh->stats.postgres_up)
                    ? NGX_HTTP_APIKEY_ADMIN_TIMEOUT
                    : NGX_HTTP_APIKEY_ADMIN_DOWN;
    a->op.handler = ngx_http_apikey_admin_query_done;
    a->op.data = a;

    if (ngx_http_apikey_pg_query(a->pg, &a->op) != NGX_OK) {
        return NGX_ERROR;
    }

    a->calling = 1;

    return NGX_OK;
}


static void
ngx_http_apikey_admin_query_done(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_http_apikey_admin_t *a = op->data;

    a->calling = 0;

    if (res && PQresultStatus(res) == PGRES_TUPLES_OK) {
        a->failed = (ngx_http_apikey_admin_query_row(a, res) != NGX_OK);

    } else {
        ngx_http_apikey_admin_query_failed(a, res);
    }

    if (!a->calling) {
        ngx_http_apikey_admin_call_done(a);
    }
}


void
ngx_http_apikey_admin_call_done(ngx_http_apikey_admin_t *a)
{
    a->called = 1;

    ngx_http_apikey_admin_resume(a);
}


static ngx_int_t
ngx_http_apikey_admin_query_row(ngx_http_apikey_admin_t *a, PGresult *res)
{
    ngx_str_t  status;

    a->problem = NGX_HTTP_APIKEY_PROBLEM_INTERNAL;

    if (PQntuples(res) != 1 || PQnfields(res) != 4
        || ngx_http_apikey_admin_column(a, res, 0, &status) != NGX_OK
        || ngx_http_apikey_admin_column(a, res, 1, &a->headers) != NGX_OK
        || ngx_http_apikey_admin_column(a, res, 2, &a->answer) != NGX_OK
        || ngx_http_apikey_admin_column(a, res, 3, &a->refresh) != NGX_OK)
    {
        return NGX_ERROR;
    }

    a->status = (ngx_uint_t) ngx_atoi(status.data, status.len);

    if (a->status == NGX_HTTP_CONTINUE) {
        return ngx_http_apikey_admin_make(a);
    }

    if (a->status < NGX_HTTP_OK || a->status > 599) {
        ngx_log_error(NGX_LOG_ERR, a->request->connection->log, 0,
                      "apikey.api('%s') returned no status",
                      a->values[0]);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_admin_column(ngx_http_apikey_admin_t *a, PGresult *res,
    int column, ngx_str_t *value)
{
    ngx_str_null(value);

    if (PQgetisnull(res, 0, column)) {
        return NGX_OK;
    }

    value->len = PQgetlength(res, 0, column);

    value->data = ngx_pnalloc(a->pool, value->len + 1);
    if (value->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(value->data, PQgetvalue(res, 0, column), value->len);
    value->data[value->len] = '\0';

    return NGX_OK;
}


/* Makes a key of the prefix that SQL found right, and calls again. */

static ngx_int_t
ngx_http_apikey_admin_make(ngx_http_apikey_admin_t *a)
{
    int64_t  now;

    if (a->secret_len
        || !apikey_prefix_check((char *) a->headers.data, a->headers.len))
    {
        ngx_log_error(NGX_LOG_ERR, a->request->connection->log, 0,
                      "apikey.api('%s') asked for an impossible key",
                      a->values[0]);
        return NGX_ERROR;
    }

    now = apikey_clock_real();

    a->secret_len = apikey_key_make((char *) a->secret,
                                    (char *) a->headers.data, a->headers.len,
                                    a->amcf->macs, now);

    if (a->secret_len == 0 || !apikey_uuid_make(a->secret_id, now)) {
        ngx_log_error(NGX_LOG_ERR, a->request->connection->log, 0,
                      "OpenSSL has no randomness for a key");
        return NGX_ERROR;
    }

    if (ngx_http_apikey_admin_request(a) != NGX_OK) {
        return NGX_ERROR;
    }

    a->tries = 0;

    return ngx_http_apikey_admin_call_send(a);
}


/* Either it is tried again, or a->problem is set. */

static void
ngx_http_apikey_admin_query_failed(ngx_http_apikey_admin_t *a, PGresult *res)
{
    ngx_uint_t   i;
    const char  *state;

    a->failed = 1;
    a->problem = NGX_HTTP_APIKEY_PROBLEM_UNAVAILABLE;

    if (res == NULL) {
        ngx_log_error(NGX_LOG_WARN, a->request->connection->log, 0,
                      "apikey.api('%s') got no answer: %s",
                      a->values[0],
                      a->op.error ? a->op.error : "connection lost");

        if (a->route->report && !a->within
            && ngx_http_apikey_reports_lost(a->amcf->reports, a->pg))
        {
            a->pg = NULL;
            a->failed = (ngx_http_apikey_admin_call_send(a) != NGX_OK);
        }

        return;
    }

    state = PQresultErrorField(res, PG_DIAG_SQLSTATE);

    if (state == NULL) {
        state = "08000";
    }

    for (i = 0; ngx_http_apikey_admin_states[i].state; i++) {
        if (ngx_strncmp(state, ngx_http_apikey_admin_states[i].state,
                        ngx_strlen(ngx_http_apikey_admin_states[i].state))
            == 0)
        {
            break;
        }
    }

    a->problem = ngx_http_apikey_admin_states[i].problem;

    if (ngx_http_apikey_admin_states[i].again && !a->within
        && ++a->tries < NGX_HTTP_APIKEY_ADMIN_TRIES
        && ngx_http_apikey_admin_call_send(a) == NGX_OK)
    {
        a->failed = 0;
        return;
    }

    if (ngx_http_apikey_admin_schema(a, state) == NGX_OK) {
        a->failed = 0;
        return;
    }

    ngx_http_apikey_admin_log_error(a, res, state);
}


/* Messages may quote what the client sent: only where it happened is told. */

static void
ngx_http_apikey_admin_log_error(ngx_http_apikey_admin_t *a, PGresult *res,
    const char *state)
{
    char        *where;
    size_t       len;

    where = PQresultErrorField(res, PG_DIAG_CONTEXT);

    if (where) {
        where = strstr(where, "PL/pgSQL function ");
    }

    if (where == NULL) {
        where = "";
    }

    len = strcspn(where, "\n");

    ngx_log_error(NGX_LOG_ERR, a->request->connection->log, 0,
                  "apikey.api('%s') failed with SQLSTATE %s %*s",
                  a->values[0], state, len, where);
}


static ngx_int_t
ngx_http_apikey_admin_call_failed(ngx_http_apikey_admin_t *a)
{
    const char  *detail;

    switch (a->problem) {

    case NGX_HTTP_APIKEY_PROBLEM_SCHEMA:
        detail = "The database schema is older than this module needs: run "
                 "\"apikeyctl schema apply\".";
        break;

    case NGX_HTTP_APIKEY_PROBLEM_UNAVAILABLE:
        detail = (a->request->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))
                 ? "Postgres did not answer."
                 : "Postgres did not answer. A change that was asked for may "
                   "have been made.";
        break;

    default:
        detail = "The error log says more.";
    }

    return ngx_http_apikey_admin_problem(a, a->problem, detail, NULL);
}


/*
 * A change is in force on this node before it is confirmed.  When that cannot
 * be known any more, it is still made, and the keyring's poll will bring it.
 */

ngx_int_t
ngx_http_apikey_admin_refresh(ngx_http_apikey_admin_t *a)
{
    ngx_str_t  ids;

    if (a->refresh.len == 0 || a->status >= 400) {
        return NGX_DECLINED;
    }

    ngx_http_apikey_admin_refresh_next(a, &ids);

    ngx_memzero(&a->wait, sizeof(ngx_http_apikey_keyring_wait_t));

    a->wait.handler = ngx_http_apikey_admin_refresh_done;
    a->wait.data = a;

    if (ngx_http_apikey_keyring_refresh(a->amcf->keyring, &ids, &a->wait)
        != NGX_OK)
    {
        return NGX_DECLINED;
    }

    a->finding = 1;
    ngx_http_apikey_admin_wait(a);

    return NGX_AGAIN;
}


/* As many lines as the keyring takes at once; the rest stays. */

static void
ngx_http_apikey_admin_refresh_next(ngx_http_apikey_admin_t *a, ngx_str_t *ids)
{
    u_char      *p, *last;
    ngx_uint_t   n;

    p = a->refresh.data;
    last = p + a->refresh.len;

    for (n = 0; p < last && n < NGX_HTTP_APIKEY_KEYRING_IDS; p++) {
        n += (*p == '\n');
    }

    ids->data = a->refresh.data;
    ids->len = p - ids->data;

    a->refresh.data = p;
    a->refresh.len = last - p;
}


static void
ngx_http_apikey_admin_refresh_done(ngx_http_apikey_keyring_wait_t *wait,
    ngx_int_t rc)
{
    ngx_http_apikey_admin_t *a = wait->data;

    a->finding = 0;

    ngx_http_apikey_admin_resume(a);
}
