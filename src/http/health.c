
/*
 * Health: apikey_health for load balancers (alive; "?ready" once the keyring
 * is complete), and the admin API's GET health, which says what is wrong in
 * sentences.
 *
 * Both only read shared memory: they answer with every store down.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/clock.h"
#include "http/admin.h"


#define NGX_HTTP_APIKEY_HEALTH_SIZE      4096
#define NGX_HTTP_APIKEY_HEALTH_WARNINGS  8


static ngx_int_t ngx_http_apikey_health_handler(ngx_http_request_t *r);
static ngx_uint_t ngx_http_apikey_health_asked(ngx_str_t *args);
static ngx_uint_t ngx_http_apikey_health_ready(
    ngx_http_apikey_main_conf_t *amcf, ngx_http_apikey_keyring_info_t *info);
static void ngx_http_apikey_health_members(apikey_json_t *j,
    ngx_http_apikey_admin_t *a, ngx_http_apikey_keyring_info_t *info);
static void ngx_http_apikey_health_number(apikey_json_t *j, const char *name,
    uint64_t n, ngx_uint_t known);
static ngx_uint_t ngx_http_apikey_health_warnings(const char **warnings,
    ngx_http_apikey_main_conf_t *amcf, ngx_http_apikey_keyring_info_t *info);


char *
ngx_http_apikey_health(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    return ngx_http_apikey_content_set(cf, cmd, conf,
                                       ngx_http_apikey_health_handler);
}


static ngx_int_t
ngx_http_apikey_health_handler(ngx_http_request_t *r)
{
    ngx_str_t                        body;
    ngx_http_apikey_main_conf_t     *amcf;
    ngx_http_apikey_keyring_info_t   info;

    if (ngx_http_apikey_health_asked(&r->args)) {
        amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

        ngx_http_apikey_keyring_info(amcf->sh->keyring, amcf->shpool, &info);

        if (!ngx_http_apikey_health_ready(amcf, &info)) {
            ngx_str_set(&body, "not ready\n");
            return ngx_http_apikey_content_send(r,
                                                NGX_HTTP_SERVICE_UNAVAILABLE,
                                                "text/plain", &body);
        }
    }

    ngx_str_set(&body, "ok\n");

    return ngx_http_apikey_content_send(r, NGX_HTTP_OK, "text/plain", &body);
}


/* "ready" or "ready=..." among the arguments */

static ngx_uint_t
ngx_http_apikey_health_asked(ngx_str_t *args)
{
    u_char  *p, *last, *next;
    size_t   len;

    len = sizeof("ready") - 1;
    p = args->data;
    last = p + args->len;

    while (p < last) {
        next = ngx_strlchr(p, last, '&');

        if (next == NULL) {
            next = last;
        }

        if ((size_t) (next - p) >= len && ngx_strncmp(p, "ready", len) == 0
            && (p + len == next || p[len] == '='))
        {
            return 1;
        }

        p = next + 1;
    }

    return 0;
}


/* It can tell of any key whether it is good. */

static ngx_uint_t
ngx_http_apikey_health_ready(ngx_http_apikey_main_conf_t *amcf,
    ngx_http_apikey_keyring_info_t *info)
{
    return info->complete
           && !ngx_http_apikey_stale(amcf, info->fresh, apikey_clock_real());
}


/* Whoever is no operator learns status and ready. */

ngx_int_t
ngx_http_apikey_health_json(ngx_http_apikey_admin_t *a)
{
    ngx_int_t                        rc;
    ngx_str_t                        body;
    ngx_uint_t                       i, n;
    const char                      *warnings[NGX_HTTP_APIKEY_HEALTH_WARNINGS];
    const char                      *status;
    apikey_json_t                    j;
    ngx_http_apikey_keyring_info_t   info;

    rc = ngx_http_apikey_admin_no_query(a);

    if (rc != NGX_OK) {
        return rc;
    }

    body.data = ngx_pnalloc(a->request->pool, NGX_HTTP_APIKEY_HEALTH_SIZE);
    if (body.data == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_http_apikey_keyring_info(a->amcf->sh->keyring, a->amcf->shpool,
                                 &info);

    n = ngx_http_apikey_health_warnings(warnings, a->amcf, &info);

    status = n ? "degraded" : "ok";

    if (!ngx_http_apikey_health_ready(a->amcf, &info)
        && apikey_stats_get(&a->amcf->sh->stats.postgres_up) == 0)
    {
        status = "unavailable";
    }

    apikey_json_init(&j, (char *) body.data, NGX_HTTP_APIKEY_HEALTH_SIZE);
    apikey_json_object(&j);

    apikey_json_name(&j, "status");
    apikey_json_text(&j, status);
    apikey_json_name(&j, "ready");
    apikey_json_bool(&j, ngx_http_apikey_health_ready(a->amcf, &info));

    if (a->caller == NGX_HTTP_APIKEY_CALLER_OPERATOR) {
        ngx_http_apikey_health_members(&j, a, &info);

        apikey_json_name(&j, "warnings");
        apikey_json_array(&j);

        for (i = 0; i < n; i++) {
            apikey_json_text(&j, warnings[i]);
        }

        apikey_json_array_end(&j);
    }

    apikey_json_object_end(&j);

    body.len = apikey_json_len(&j);

    return ngx_http_apikey_admin_send(a, NGX_HTTP_OK, "application/json",
                                      &body);
}


static void
ngx_http_apikey_health_members(apikey_json_t *j, ngx_http_apikey_admin_t *a,
    ngx_http_apikey_keyring_info_t *info)
{
    int64_t          now;
    uint64_t         n;
    apikey_stats_t  *stats;

    stats = &a->amcf->sh->stats;
    now = apikey_clock_real();

    apikey_json_name(j, "node");
    apikey_json_string(j, (char *) a->amcf->node_name.data,
                       a->amcf->node_name.len);
    apikey_json_name(j, "version");
    apikey_json_text(j, NGX_HTTP_APIKEY_VERSION);

    n = apikey_stats_get(&stats->schema);
    ngx_http_apikey_health_number(j, "schema", n, n != 0);

    apikey_json_name(j, "keyring");
    apikey_json_object(j);
    apikey_json_name(j, "keys");
    apikey_json_uint(j, info->keys);
    apikey_json_name(j, "complete");
    apikey_json_bool(j, info->complete);
    ngx_http_apikey_health_number(j, "age_ms",
                                  ngx_max(now - info->current, 0) / 1000,
                                  info->current != 0);
    apikey_json_object_end(j);

    apikey_json_name(j, "redis");

    if (a->amcf->redis) {
        apikey_json_text(j, apikey_stats_get(&stats->redis_up) ? "up"
                                                               : "down");
    } else {
        apikey_json_null(j);
    }

    apikey_json_name(j, "postgres");
    apikey_json_text(j, apikey_stats_get(&stats->postgres_up) ? "up"
                                                              : "down");

    n = apikey_stats_get(&stats->journal_oldest);

    apikey_json_name(j, "journal");
    apikey_json_object(j);
    apikey_json_name(j, "bytes");
    apikey_json_uint(j, apikey_stats_get(&stats->journal_bytes));
    apikey_json_name(j, "lag_ms");
    apikey_json_int(j, n ? ngx_max(now - (int64_t) n, 0) / 1000 : 0);
    apikey_json_object_end(j);
}


static void
ngx_http_apikey_health_number(apikey_json_t *j, const char *name, uint64_t n,
    ngx_uint_t known)
{
    apikey_json_name(j, name);

    if (known) {
        apikey_json_uint(j, n);

    } else {
        apikey_json_null(j);
    }
}


static ngx_uint_t
ngx_http_apikey_health_warnings(const char **warnings,
    ngx_http_apikey_main_conf_t *amcf, ngx_http_apikey_keyring_info_t *info)
{
    ngx_uint_t       n;
    apikey_stats_t  *stats;

    n = 0;
    stats = &amcf->sh->stats;

    if (apikey_stats_get(&stats->postgres_up) == 0) {
        warnings[n++] = "Postgres is down: known keys pass, usage waits in "
                        "the journal, nothing can be changed.";
    }

    if (amcf->redis && apikey_stats_get(&stats->redis_up) == 0) {
        warnings[n++] = "Redis is down: apikey_redis_down decides about "
                        "limits.";
    }

    if (!info->complete) {
        warnings[n++] = "The keyring is not complete: it is loading, or "
                        "apikey_zone is too small for all keys.";
    }

    if (ngx_http_apikey_stale(amcf, info->fresh, apikey_clock_real())) {
        warnings[n++] = "The keyring is older than apikey_max_stale: requests "
                        "with a key are refused.";
    }

    if (amcf->redis == NULL && apikey_stats_get(&stats->nodes) > 1) {
        warnings[n++] = "Another node uses this database, but without "
                        "apikey_redis each node counts its limits alone.";
    }

    if (apikey_stats_get(&stats->schema)
        && apikey_stats_get(&stats->schema_ok) == 0)
    {
        warnings[n++] = "The database schema is older than this module "
                        "needs: run \"apikeyctl schema apply\".";
    }

    if (apikey_stats_get(&stats->dropped)) {
        warnings[n++] = "The journal was full and usage records were "
                        "dropped: see apikey_dropped_total.";
    }

    return n;
}
