
/*
 * What else the elected worker asks Postgres now and then: that this node is
 * alive and how many others are, and which schema stands there.
 */


#include "keyring/worker.h"


#define NGX_HTTP_APIKEY_BEAT          60000
#define NGX_HTTP_APIKEY_BEAT_TIMEOUT  10000


static void ngx_http_apikey_beat_nodes(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_beat_told(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static uint64_t ngx_http_apikey_beat_currency(PGresult *res);
static uint64_t ngx_http_apikey_beat_prefix(PGresult *res);
static void ngx_http_apikey_beat_version(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_beat_outdated(ngx_http_apikey_sync_t *s,
    ngx_int_t version);


static const char  ngx_http_apikey_beat_sql[] =
    "SELECT apikey.node_seen($1, $2, $3), apikey.currency(),"
    " (SELECT value FROM apikey.setting WHERE name = 'client_prefix')";

static const char  ngx_http_apikey_beat_alive_sql[] =
    "UPDATE apikey.node SET seen_at = now() WHERE id = $1::uuid"
    " RETURNING id";

static const char  ngx_http_apikey_beat_schema_sql[] =
    "SELECT apikey.schema_version()";


void
ngx_http_apikey_beat_node(ngx_http_apikey_sync_t *s)
{
    s->beat_at = ngx_current_msec + NGX_HTTP_APIKEY_BEAT;
    s->alive_at = ngx_current_msec + NGX_HTTP_APIKEY_BEAT_ALIVE;

    s->values[0] = s->node;
    s->values[1] = s->name;
    s->values[2] = s->kr->conf.version ? s->kr->conf.version : NGINX_VER;

    (void) ngx_http_apikey_sync_ask(s, s->pg, ngx_http_apikey_beat_sql, 3,
                                    NGX_HTTP_APIKEY_BEAT_TIMEOUT,
                                    ngx_http_apikey_beat_nodes);
}


static void
ngx_http_apikey_beat_nodes(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_int_t                        nodes;
    ngx_http_apikey_sync_t          *s = op->data;
    ngx_http_apikey_keyring_conf_t  *conf;

    conf = &s->kr->conf;

    if (ngx_http_apikey_sync_ok(s, res, "registering this node") != NGX_OK) {
        return;
    }

    nodes = ngx_atoi((u_char *) PQgetvalue(res, 0, 0),
                     PQgetlength(res, 0, 0));
    nodes = ngx_max(nodes, 1);

    apikey_stats_set(&conf->stats->nodes, (uint64_t) nodes);
    apikey_stats_set(&conf->stats->currency,
                     ngx_http_apikey_beat_currency(res));
    apikey_stats_set(&conf->stats->client_prefix,
                     ngx_http_apikey_beat_prefix(res));

    if (nodes > 1 && !conf->shared_limits && !s->alone) {
        s->alone = 1;
        ngx_log_error(NGX_LOG_WARN, conf->log, 0,
                      "apikey: %i nodes use this Postgres and there is no "
                      "\"apikey_redis\": each node keeps limits of its own",
                      nodes);
    }

    ngx_http_apikey_sync_next(s);
}


/* Else a node whose usage does not get in would be taken for dead. */

void
ngx_http_apikey_beat_alive(ngx_http_apikey_sync_t *s)
{
    s->alive_at = ngx_current_msec + NGX_HTTP_APIKEY_BEAT_ALIVE;
    s->values[0] = s->node;

    (void) ngx_http_apikey_sync_ask(s, s->pg, ngx_http_apikey_beat_alive_sql,
                                    1, NGX_HTTP_APIKEY_BEAT_TIMEOUT,
                                    ngx_http_apikey_beat_told);
}


static void
ngx_http_apikey_beat_told(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_http_apikey_sync_t *s = op->data;

    if (ngx_http_apikey_sync_ok(s, res, "a heartbeat of this node")
        == NGX_OK)
    {
        ngx_http_apikey_sync_next(s);
    }
}


static uint64_t
ngx_http_apikey_beat_currency(PGresult *res)
{
    u_char  *p;

    p = (u_char *) PQgetvalue(res, 0, 1);

    if (PQgetlength(res, 0, 1) != 3) {
        return 0;
    }

    return (uint64_t) p[0] | (uint64_t) p[1] << 8 | (uint64_t) p[2] << 16;
}


/* Such as "24,48"; without one the default holds. */

static uint64_t
ngx_http_apikey_beat_prefix(PGresult *res)
{
    u_char     *p, *comma, *last;
    ngx_int_t   v4, v6;

    p = (u_char *) PQgetvalue(res, 0, 2);
    last = p + PQgetlength(res, 0, 2);
    comma = ngx_strlchr(p, last, ',');

    if (comma == NULL) {
        return 0;
    }

    v4 = ngx_atoi(p, comma - p);
    v6 = ngx_atoi(comma + 1, last - comma - 1);

    if (v4 == NGX_ERROR || v4 > 32 || v6 == NGX_ERROR || v6 > 128) {
        return 0;
    }

    return APIKEY_CLIENT_PREFIX(v4, v6);
}


void
ngx_http_apikey_beat_schema(ngx_http_apikey_sync_t *s)
{
    s->schema = 0;

    (void) ngx_http_apikey_sync_ask(s, s->pg, ngx_http_apikey_beat_schema_sql,
                                    0, NGX_HTTP_APIKEY_BEAT_TIMEOUT,
                                    ngx_http_apikey_beat_version);
}


static void
ngx_http_apikey_beat_version(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_int_t                        version;
    ngx_http_apikey_sync_t          *s = op->data;
    ngx_http_apikey_keyring_conf_t  *conf;

    conf = &s->kr->conf;
    version = 0;

    if (ngx_http_apikey_sync_ok(s, res, "reading the schema's version")
        == NGX_OK)
    {
        version = ngx_atoi((u_char *) PQgetvalue(res, 0, 0),
                           PQgetlength(res, 0, 0));
        version = ngx_max(version, 0);

    } else if (res == NULL) {
        s->schema = 1;
        return;
    }

    ngx_http_apikey_beat_outdated(s, version);

    apikey_stats_set(&conf->stats->schema, (uint64_t) version);
    apikey_stats_set(&conf->stats->schema_ok,
                     (uint64_t) (version >= (ngx_int_t) conf->schema));

    ngx_http_apikey_sync_next(s);
}


/* Once, and once when it is over: whoever was told, that before a reload. */

static void
ngx_http_apikey_beat_outdated(ngx_http_apikey_sync_t *s, ngx_int_t version)
{
    ngx_int_t                        before, needs;
    ngx_http_apikey_keyring_conf_t  *conf;

    conf = &s->kr->conf;
    needs = (ngx_int_t) conf->schema;
    before = (ngx_int_t) apikey_stats_get(&conf->stats->schema);

    if (version < needs) {

        if (before != version || (version == 0 && !s->outdated)) {
            ngx_log_error(NGX_LOG_ERR, conf->log, 0,
                          "apikey: the database has schema %i, this module "
                          "needs %i: usage may wait in the journal until it "
                          "has, run \"apikeyctl schema apply\"",
                          version, needs);
        }

        s->outdated = 1;
        return;
    }

    if (s->outdated || (before && before < needs)) {
        ngx_log_error(NGX_LOG_NOTICE, conf->log, 0,
                      "apikey: the database has schema %i now, this module "
                      "needs %i", version, needs);
    }

    s->outdated = 0;
}
