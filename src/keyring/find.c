
/*
 * Asking Postgres for one key on a miss, and for rows just changed here.
 *
 * Every worker has one connection for it, which the admin API shares.  Many
 * waiters for one digest share a query; "no such key" is remembered for a
 * moment, until a key is made.  Queries are malloc'd and free themselves;
 * waiters belong to their requests.
 */


#include "keyring/worker.h"

#include "base/digest.h"


#define NGX_HTTP_APIKEY_FIND_TIMEOUT      2000
#define NGX_HTTP_APIKEY_REFRESH_TIMEOUT   5000
#define NGX_HTTP_APIKEY_NEGATIVE_TIME     1000
#define NGX_HTTP_APIKEY_FIND_TRIES        5


typedef struct {
    ngx_queue_t                 queue;       /* in a chain, or refreshes */
    ngx_queue_t                 waits;
    ngx_http_apikey_keyring_t  *kr;
    ngx_http_apikey_pg_op_t     op;
    ngx_http_apikey_before_t    before;
    ngx_uint_t                  tries;
    u_char                      digest[32];
    u_char                      other[32];
    const char                 *values[1];
    int                         lengths[1];
    int                         formats[1];
    unsigned                    two:1;       /* other is to be asked for */
} ngx_http_apikey_query_t;


typedef struct {
    ngx_http_apikey_query_t     query;
    ngx_http_apikey_ids_t       ids;
} ngx_http_apikey_refresh_t;


static ngx_http_apikey_query_t *ngx_http_apikey_find_query(
    ngx_http_apikey_keyring_t *kr, const u_char *digest);
static ngx_http_apikey_query_t *ngx_http_apikey_find_ask(
    ngx_http_apikey_keyring_t *kr, const u_char *digest, const u_char *other);
static ngx_uint_t ngx_http_apikey_find_negative(ngx_http_apikey_keyring_t *kr,
    const u_char *digest);
static ngx_int_t ngx_http_apikey_find_send(ngx_http_apikey_query_t *query);
static void ngx_http_apikey_find_wait(ngx_http_apikey_query_t *query,
    ngx_http_apikey_keyring_wait_t *wait);
static void ngx_http_apikey_find_done(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_find_forget(ngx_http_apikey_query_t *query);
static void ngx_http_apikey_find_answer(ngx_http_apikey_query_t *query,
    ngx_int_t rc);
static void ngx_http_apikey_find_wake(ngx_event_t *ev);
static void ngx_http_apikey_refresh_done(ngx_http_apikey_pg_op_t *op,
    PGresult *res);


static const char  ngx_http_apikey_find_sql[] =
    "SELECT * FROM apikey.keyring_find($1)";

static const char  ngx_http_apikey_refresh_sql[] =
    "SELECT * FROM apikey.keyring_rows($1, $2, NULL, NULL, 0)";


ngx_int_t
ngx_http_apikey_find_start(ngx_http_apikey_keyring_t *kr)
{
    ngx_uint_t                 i;
    ngx_http_apikey_pg_conf_t  conf;

    for (i = 0; i < NGX_HTTP_APIKEY_FINDS; i++) {
        ngx_queue_init(&kr->finds[i]);
    }

    ngx_queue_init(&kr->refreshes);
    ngx_queue_init(&kr->done);

    kr->wake.handler = ngx_http_apikey_find_wake;
    kr->wake.data = kr;
    kr->wake.log = kr->conf.log;

    ngx_memzero(&conf, sizeof(ngx_http_apikey_pg_conf_t));
    conf.conninfo = kr->conf.conninfo;
    conf.connect_timeout = NGX_HTTP_APIKEY_FIND_TIMEOUT;
    conf.name = "apikey lookup";

    kr->pg = ngx_http_apikey_pg_create(kr->pool, &conf, kr->conf.stats,
                                       kr->conf.log);

    if (kr->pg == NULL) {
        return NGX_ERROR;
    }

    /* a call that waits for a lock must not hold up a look-up */

    conf.name = "apikey admin";

    kr->admin = ngx_http_apikey_pg_create(kr->pool, &conf, kr->conf.stats,
                                          kr->conf.log);

    if (kr->admin == NULL) {
        return NGX_ERROR;
    }

    /* connects when it is used */

    conf.name = "apikey import";

    kr->bulk = ngx_http_apikey_pg_create(kr->pool, &conf, kr->conf.stats,
                                         kr->conf.log);

    return kr->bulk ? NGX_OK : NGX_ERROR;
}


void
ngx_http_apikey_find_stop(ngx_http_apikey_keyring_t *kr)
{
    ngx_uint_t   i;
    ngx_queue_t  *q;

    if (kr->wake.posted) {
        ngx_delete_posted_event(&kr->wake);
    }

    ngx_http_apikey_pg_close(kr->pg);
    ngx_http_apikey_pg_close(kr->admin);
    ngx_http_apikey_pg_close(kr->bulk);

    for (i = 0; i <= NGX_HTTP_APIKEY_FINDS; i++) {
        q = (i < NGX_HTTP_APIKEY_FINDS) ? &kr->finds[i] : &kr->refreshes;

        while (!ngx_queue_empty(q)) {
            ngx_http_apikey_find_forget(ngx_queue_data(ngx_queue_head(q),
                                             ngx_http_apikey_query_t, queue));
        }
    }
}


ngx_http_apikey_pg_t *
ngx_http_apikey_keyring_pg(ngx_http_apikey_keyring_t *kr)
{
    return kr->admin;
}


ngx_http_apikey_pg_t *
ngx_http_apikey_keyring_bulk(ngx_http_apikey_keyring_t *kr)
{
    return kr->bulk;
}


ngx_int_t
ngx_http_apikey_keyring_find(ngx_http_apikey_keyring_t *kr,
    const u_char digest[32], const u_char other[32],
    ngx_http_apikey_keyring_wait_t *wait)
{
    ngx_http_apikey_query_t  *query;

    if (ngx_http_apikey_find_negative(kr, digest)) {
        wait->query = NULL;
        wait->waiting = 1;

        ngx_queue_insert_tail(&kr->done, &wait->queue);
        ngx_post_event(&kr->wake, &ngx_posted_events);

        return NGX_OK;
    }

    query = ngx_http_apikey_find_query(kr, digest);

    if (query) {
        ngx_http_apikey_find_wait(query, wait);
        return NGX_OK;
    }

    query = ngx_http_apikey_find_ask(kr, digest, other);

    if (query == NULL) {
        return NGX_ERROR;
    }

    ngx_http_apikey_find_wait(query, wait);

    return NGX_OK;
}


/* NULL: it cannot be asked for. */

static ngx_http_apikey_query_t *
ngx_http_apikey_find_ask(ngx_http_apikey_keyring_t *kr, const u_char *digest,
    const u_char *other)
{
    ngx_http_apikey_query_t  *query;

    if (kr->nfinds >= NGX_HTTP_APIKEY_FINDS_MAX) {
        return NULL;
    }

    query = ngx_calloc(sizeof(ngx_http_apikey_query_t), kr->conf.log);
    if (query == NULL) {
        return NULL;
    }

    query->kr = kr;
    ngx_queue_init(&query->waits);
    ngx_memcpy(query->digest, digest, 32);

    if (other) {
        query->two = 1;
        ngx_memcpy(query->other, other, 32);
    }

    query->values[0] = (char *) query->digest;
    query->lengths[0] = 32;
    query->formats[0] = 1;

    query->op.sql = ngx_http_apikey_find_sql;
    query->op.nparams = 1;
    query->op.values = query->values;
    query->op.lengths = query->lengths;
    query->op.formats = query->formats;
    query->op.timeout = NGX_HTTP_APIKEY_FIND_TIMEOUT;
    query->op.handler = ngx_http_apikey_find_done;
    query->op.data = query;

    if (ngx_http_apikey_find_send(query) != NGX_OK) {
        ngx_free(query);
        return NULL;
    }

    ngx_queue_insert_tail(&kr->finds[digest[0]], &query->queue);
    kr->nfinds++;

    return query;
}


ngx_uint_t
ngx_http_apikey_keyring_asked(ngx_http_apikey_keyring_t *kr,
    const u_char digest[32])
{
    return ngx_http_apikey_find_negative(kr, digest)
           || ngx_http_apikey_find_query(kr, digest) != NULL;
}


void
ngx_http_apikey_keyring_abandon(ngx_http_apikey_keyring_wait_t *wait)
{
    if (!wait->waiting) {
        return;
    }

    wait->waiting = 0;
    ngx_queue_remove(&wait->queue);

    /* the query goes on: its answer serves those who come next */
}


static ngx_http_apikey_query_t *
ngx_http_apikey_find_query(ngx_http_apikey_keyring_t *kr, const u_char *digest)
{
    ngx_queue_t              *q, *chain;
    ngx_http_apikey_query_t  *query;

    chain = &kr->finds[digest[0]];

    for (q = ngx_queue_head(chain);
         q != ngx_queue_sentinel(chain);
         q = ngx_queue_next(q))
    {
        query = ngx_queue_data(q, ngx_http_apikey_query_t, queue);

        if (apikey_digest_equal(query->digest, digest)) {
            return query;
        }
    }

    return NULL;
}


static ngx_uint_t
ngx_http_apikey_find_negative(ngx_http_apikey_keyring_t *kr,
    const u_char *digest)
{
    ngx_uint_t                   i;
    ngx_http_apikey_negative_t  *n;

    /* two places for each digest */

    for (i = 0; i < 2; i++) {
        n = &kr->negatives[(digest[1] << 2 | digest[2] >> 6)
                           % NGX_HTTP_APIKEY_NEGATIVES ^ i];

        if (apikey_digest_equal(n->digest, digest)) {
            return n->created == kr->conf.sh->created
                   && (ngx_msec_int_t) (n->until - ngx_current_msec) > 0;
        }
    }

    return 0;
}


/* An answer is worth nothing if the copy has gone on since it was asked. */

static ngx_int_t
ngx_http_apikey_find_send(ngx_http_apikey_query_t *query)
{
    ngx_http_apikey_keyring_t  *kr;

    kr = query->kr;

    if (query->tries++ == NGX_HTTP_APIKEY_FIND_TRIES) {
        return NGX_ERROR;
    }

    ngx_http_apikey_store_before(kr->conf.sh, kr->conf.shpool,
                                 &query->before);

    return ngx_http_apikey_pg_query(kr->pg, &query->op);
}


static void
ngx_http_apikey_find_wait(ngx_http_apikey_query_t *query,
    ngx_http_apikey_keyring_wait_t *wait)
{
    wait->query = query;
    wait->waiting = 1;

    ngx_queue_insert_tail(&query->waits, &wait->queue);
}


static void
ngx_http_apikey_find_done(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_int_t                    rc;
    ngx_http_apikey_query_t     *query = op->data;
    ngx_http_apikey_negative_t  *n;
    ngx_http_apikey_keyring_t   *kr;

    kr = query->kr;

    if (res == NULL) {
        rc = NGX_ERROR;

    } else if (PQresultStatus(res) != PGRES_TUPLES_OK) {
        ngx_log_error(NGX_LOG_ERR, kr->conf.log, 0,
                      "apikey: looking up a key: %s",
                      PQresultErrorMessage(res));
        rc = NGX_ERROR;

    } else if (PQntuples(res) == 0 && query->two) {
        query->two = 0;
        query->values[0] = (char *) query->other;

        if (ngx_http_apikey_pg_query(kr->pg, op) == NGX_OK) {
            return;
        }

        rc = NGX_ERROR;

    } else if (PQntuples(res) == 0) {
        rc = NGX_DECLINED;

        n = &kr->negatives[(query->digest[1] << 2 | query->digest[2] >> 6)
                           % NGX_HTTP_APIKEY_NEGATIVES
                           ^ (kr->negative++ & 1)];

        ngx_memcpy(n->digest, query->digest, 32);
        n->until = ngx_current_msec + NGX_HTTP_APIKEY_NEGATIVE_TIME;
        n->created = query->before.created;

    } else {
        rc = ngx_http_apikey_keyring_apply(kr, res, &query->before,
                                           NGX_HTTP_APIKEY_APPLY_FIND);
    }

    if (rc == NGX_AGAIN) {

        if (ngx_http_apikey_find_send(query) == NGX_OK) {
            return;
        }

        rc = NGX_ERROR;
    }

    kr->nfinds--;

    ngx_http_apikey_find_answer(query, rc);
}


/*
 * NGX_OK also when the copy had it or a newer row; NGX_AGAIN when nobody can
 * tell whether there was a newer one; NGX_ERROR when a row could not be kept.
 */

ngx_int_t
ngx_http_apikey_keyring_apply(ngx_http_apikey_keyring_t *kr, PGresult *res,
    ngx_http_apikey_before_t *before, ngx_uint_t how)
{
    int                    i;
    ngx_int_t              rc, kept;
    ngx_http_apikey_row_t  row;

    rc = NGX_OK;

    for (i = 0; i < PQntuples(res); i++) {

        if (ngx_http_apikey_row_pack(res, i, &row) != NGX_OK) {
            ngx_log_error(NGX_LOG_ERR, kr->conf.log, 0,
                          "apikey: a row of the keyring cannot be read");
            rc = NGX_ERROR;
            continue;
        }

        kept = ngx_http_apikey_store_apply(kr->conf.sh, kr->conf.shpool, &row,
                                           before, how);
        if (kept == NGX_ABORT) {
            rc = NGX_ERROR;

        } else if (kept == NGX_AGAIN && rc == NGX_OK) {
            rc = NGX_AGAIN;
        }
    }

    return rc;
}


static void
ngx_http_apikey_find_forget(ngx_http_apikey_query_t *query)
{
    ngx_queue_remove(&query->queue);
    ngx_free(query);
}


/* A handler may call anything here but runs once. */

static void
ngx_http_apikey_find_answer(ngx_http_apikey_query_t *query, ngx_int_t rc)
{
    ngx_queue_t                     *q;
    ngx_http_apikey_keyring_wait_t  *wait;

    /* off the chain first: who asks from a handler starts a new query */

    ngx_queue_remove(&query->queue);
    ngx_queue_init(&query->queue);

    while (!ngx_queue_empty(&query->waits)) {
        q = ngx_queue_head(&query->waits);
        wait = ngx_queue_data(q, ngx_http_apikey_keyring_wait_t, queue);

        ngx_queue_remove(q);
        wait->waiting = 0;
        wait->query = NULL;

        wait->handler(wait, rc);
    }

    ngx_http_apikey_find_forget(query);
}


static void
ngx_http_apikey_find_wake(ngx_event_t *ev)
{
    ngx_queue_t                     *q;
    ngx_http_apikey_keyring_t       *kr = ev->data;
    ngx_http_apikey_keyring_wait_t  *wait;

    while (!ngx_queue_empty(&kr->done)) {
        q = ngx_queue_head(&kr->done);
        wait = ngx_queue_data(q, ngx_http_apikey_keyring_wait_t, queue);

        ngx_queue_remove(q);
        wait->waiting = 0;

        wait->handler(wait, NGX_DECLINED);
    }
}


ngx_int_t
ngx_http_apikey_keyring_refresh(ngx_http_apikey_keyring_t *kr, ngx_str_t *ids,
    ngx_http_apikey_keyring_wait_t *wait)
{
    ngx_http_apikey_query_t    *query;
    ngx_http_apikey_refresh_t  *refresh;

    refresh = ngx_calloc(sizeof(ngx_http_apikey_refresh_t), kr->conf.log);
    if (refresh == NULL) {
        return NGX_ERROR;
    }

    query = &refresh->query;
    query->kr = kr;
    ngx_queue_init(&query->waits);

    if (ngx_http_apikey_changes_ids(&refresh->ids, ids) != NGX_OK) {
        ngx_free(refresh);
        return NGX_ERROR;
    }

    query->op.sql = ngx_http_apikey_refresh_sql;
    query->op.nparams = 2;
    query->op.values = refresh->ids.values;
    query->op.timeout = NGX_HTTP_APIKEY_REFRESH_TIMEOUT;
    query->op.handler = ngx_http_apikey_refresh_done;
    query->op.data = query;

    if (ngx_http_apikey_find_send(query) != NGX_OK) {
        ngx_free(refresh);
        return NGX_ERROR;
    }

    ngx_queue_insert_tail(&kr->refreshes, &query->queue);
    ngx_http_apikey_find_wait(query, wait);

    return NGX_OK;
}


static void
ngx_http_apikey_refresh_done(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_int_t                 rc;
    ngx_http_apikey_query_t  *query = op->data;

    rc = NGX_ERROR;

    if (res && PQresultStatus(res) == PGRES_TUPLES_OK) {

        /* a zone that is too small forgets the row: a miss finds it */

        rc = ngx_http_apikey_keyring_apply(query->kr, res, &query->before,
                                           NGX_HTTP_APIKEY_APPLY_NOTICE);

        if (rc == NGX_AGAIN && ngx_http_apikey_find_send(query) == NGX_OK) {
            return;
        }

        rc = NGX_OK;

    } else if (res) {
        ngx_log_error(NGX_LOG_ERR, query->kr->conf.log, 0,
                      "apikey: reading a change back: %s",
                      PQresultErrorMessage(res));
    }

    ngx_http_apikey_find_answer(query, rc);
}
