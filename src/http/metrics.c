
/*
 * apikey_metrics: the counters of this nginx master as Prometheus text
 * (format 0.0.4).  No label names a key or an owner, so the number of series
 * is fixed, and so is the size of the answer.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/clock.h"
#include "base/money.h"
#include "http/admin.h"


/* about 110 lines of at most 120 bytes */
#define NGX_HTTP_APIKEY_METRICS_SIZE  (16 * 1024)


typedef struct {
    u_char  *pos;
    u_char  *end;
} ngx_http_apikey_metrics_t;


static ngx_int_t ngx_http_apikey_metrics_handler(ngx_http_request_t *r);
static void ngx_http_apikey_metrics_stats(ngx_http_apikey_metrics_t *m,
    ngx_http_apikey_main_conf_t *amcf);
static void ngx_http_apikey_metrics_redis(ngx_http_apikey_metrics_t *m,
    ngx_http_apikey_main_conf_t *amcf);
static void ngx_http_apikey_metrics_keyring(ngx_http_apikey_metrics_t *m,
    ngx_http_apikey_main_conf_t *amcf);
static void ngx_http_apikey_metrics_journal(ngx_http_apikey_metrics_t *m,
    apikey_stats_t *stats);
static void ngx_http_apikey_metrics_drift(ngx_http_apikey_metrics_t *m,
    apikey_stats_t *stats);
static void ngx_http_apikey_metrics_sums(apikey_stats_t *stats,
    ngx_uint_t first, uint64_t *sums, ngx_uint_t n);
static void ngx_http_apikey_metrics_labels(ngx_http_apikey_metrics_t *m,
    const char *name, const char *label, uint64_t *values, ngx_uint_t n,
    const char *(*text)(ngx_uint_t i));
static void ngx_http_apikey_metrics_histogram(ngx_http_apikey_metrics_t *m,
    const char *name, const char *help, apikey_histogram_t *h);
static void ngx_http_apikey_metrics_head(ngx_http_apikey_metrics_t *m,
    const char *name, const char *type, const char *help);
static void ngx_http_apikey_metrics_value(ngx_http_apikey_metrics_t *m,
    const char *name, uint64_t value);
static void ngx_http_apikey_metrics_seconds(ngx_http_apikey_metrics_t *m,
    const char *name, int64_t us);
static const char *ngx_http_apikey_metrics_verdict(ngx_uint_t i);
static const char *ngx_http_apikey_metrics_mode(ngx_uint_t i);
static const char *ngx_http_apikey_metrics_reason(ngx_uint_t i);
static const char *ngx_http_apikey_metrics_limited(ngx_uint_t i);


char *
ngx_http_apikey_metrics(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    return ngx_http_apikey_content_set(cf, cmd, conf,
                                       ngx_http_apikey_metrics_handler);
}


static ngx_int_t
ngx_http_apikey_metrics_handler(ngx_http_request_t *r)
{
    ngx_str_t                     body;
    ngx_http_apikey_metrics_t     m;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    body.data = ngx_pnalloc(r->pool, NGX_HTTP_APIKEY_METRICS_SIZE);
    if (body.data == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    m.pos = body.data;
    m.end = body.data + NGX_HTTP_APIKEY_METRICS_SIZE;

    ngx_http_apikey_metrics_stats(&m, amcf);
    ngx_http_apikey_metrics_keyring(&m, amcf);
    ngx_http_apikey_metrics_journal(&m, &amcf->sh->stats);
    ngx_http_apikey_metrics_drift(&m, &amcf->sh->stats);

    body.len = m.pos - body.data;

    return ngx_http_apikey_content_send(r, NGX_HTTP_OK,
                                    "text/plain; version=0.0.4; charset=utf-8",
                                    &body);
}


static void
ngx_http_apikey_metrics_stats(ngx_http_apikey_metrics_t *m,
    ngx_http_apikey_main_conf_t *amcf)
{
    uint64_t         sums[APIKEY_STATS_OWN];
    apikey_stats_t  *stats;

    stats = &amcf->sh->stats;

    ngx_http_apikey_metrics_head(m, "apikey_requests_total", "counter",
                                 "Requests by verdict.");
    ngx_http_apikey_metrics_sums(stats, APIKEY_STATS_REQUESTS(0), sums,
                                 APIKEY_VERDICTS);
    ngx_http_apikey_metrics_labels(m, "apikey_requests_total", "verdict",
                                   sums, APIKEY_VERDICTS,
                                   ngx_http_apikey_metrics_verdict);

    ngx_http_apikey_metrics_head(m, "apikey_decisions_total", "counter",
                                 "Decisions about limits by mode.");
    ngx_http_apikey_metrics_sums(stats, APIKEY_STATS_DECISIONS(0), sums,
                                 APIKEY_MODES);
    ngx_http_apikey_metrics_labels(m, "apikey_decisions_total", "mode",
                                   sums, APIKEY_MODES,
                                   ngx_http_apikey_metrics_mode);

    ngx_http_apikey_metrics_head(m, "apikey_credential_failures_total",
                                 "counter",
                                 "Credentials that were refused, by reason.");
    ngx_http_apikey_metrics_labels(m, "apikey_credential_failures_total",
                                   "reason", stats->failures, APIKEY_FAILS,
                                   ngx_http_apikey_metrics_reason);

    ngx_http_apikey_metrics_head(m, "apikey_limited_total", "counter",
                                 "What protects the admin API and Postgres "
                                 "has turned away.");
    ngx_http_apikey_metrics_labels(m, "apikey_limited_total", "what",
                                   stats->limited, APIKEY_LIMITEDS,
                                   ngx_http_apikey_metrics_limited);

    ngx_http_apikey_metrics_histogram(m, "apikey_redis_seconds",
                                      "Time to an answer of Redis.",
                                      &stats->redis);
    ngx_http_apikey_metrics_histogram(m, "apikey_postgres_seconds",
                                      "Time to an answer of Postgres.",
                                      &stats->postgres);

    ngx_http_apikey_metrics_redis(m, amcf);

    ngx_http_apikey_metrics_head(m, "apikey_nodes", "gauge",
                                 "Nodes seen in Postgres in the last hour.");
    ngx_http_apikey_metrics_value(m, "apikey_nodes",
                                  apikey_stats_get(&stats->nodes));
}


static void
ngx_http_apikey_metrics_redis(ngx_http_apikey_metrics_t *m,
    ngx_http_apikey_main_conf_t *amcf)
{
    uint64_t         waiting;
    ngx_uint_t       i;
    apikey_stats_t  *stats;

    stats = &amcf->sh->stats;
    waiting = 0;

    for (i = 0; i < APIKEY_STATS_WORKERS; i++) {
        waiting += apikey_stats_get(&stats->waiting[i]);
    }

    ngx_http_apikey_metrics_head(m, "apikey_redis_up", "gauge",
                                 "Whether Redis answers; no value without "
                                 "apikey_redis.");
    if (amcf->redis) {
        ngx_http_apikey_metrics_value(m, "apikey_redis_up",
                                      apikey_stats_get(&stats->redis_up));
    }

    ngx_http_apikey_metrics_head(m, "apikey_waiting", "gauge",
                                 "Requests that wait for Redis or Postgres.");
    ngx_http_apikey_metrics_value(m, "apikey_waiting", waiting);

    ngx_http_apikey_metrics_head(m, "apikey_decisions_waited_total",
                                 "counter",
                                 "Decisions about limits that waited for "
                                 "Redis.");
    ngx_http_apikey_metrics_value(m, "apikey_decisions_waited_total",
                                  apikey_stats_get(&stats->waits));

    ngx_http_apikey_metrics_head(m, "apikey_lease_calls_total", "counter",
                                 "Calls of Redis for leases.");
    ngx_http_apikey_metrics_value(m, "apikey_lease_calls_total",
                                  apikey_stats_get(&stats->leases));
}


static void
ngx_http_apikey_metrics_keyring(ngx_http_apikey_metrics_t *m,
    ngx_http_apikey_main_conf_t *amcf)
{
    uint64_t                         bytes;
    ngx_http_apikey_keyring_info_t   info;

    ngx_http_apikey_keyring_info(amcf->sh->keyring, amcf->shpool, &info);

    ngx_http_apikey_metrics_head(m, "apikey_keyring_keys", "gauge",
                                 "Keys in shared memory.");
    ngx_http_apikey_metrics_value(m, "apikey_keyring_keys", info.keys);

    ngx_http_apikey_metrics_head(m, "apikey_keyring_age_seconds", "gauge",
                                 "Time since the keyring was known to be "
                                 "equal to Postgres.");
    if (info.current) {
        ngx_http_apikey_metrics_seconds(m, "apikey_keyring_age_seconds",
                                        apikey_clock_real() - info.current);
    } else {
        m->pos = ngx_slprintf(m->pos, m->end,
                              "apikey_keyring_age_seconds +Inf\n");
    }

    bytes = info.free + (uint64_t) amcf->shpool->pfree * ngx_pagesize;

    ngx_http_apikey_metrics_head(m, "apikey_shm_free_bytes", "gauge",
                                 "Free memory in apikey_zone.");
    ngx_http_apikey_metrics_value(m, "apikey_shm_free_bytes", bytes);
}


static void
ngx_http_apikey_metrics_journal(ngx_http_apikey_metrics_t *m,
    apikey_stats_t *stats)
{
    int64_t  oldest;

    ngx_http_apikey_metrics_head(m, "apikey_journal_bytes", "gauge",
                                 "Usage on disk that is not yet in Postgres.");
    ngx_http_apikey_metrics_value(m, "apikey_journal_bytes",
                                  apikey_stats_get(&stats->journal_bytes));

    oldest = (int64_t) apikey_stats_get(&stats->journal_oldest);

    ngx_http_apikey_metrics_head(m, "apikey_journal_lag_seconds", "gauge",
                                 "Age of the oldest usage that is not yet in "
                                 "Postgres.");
    ngx_http_apikey_metrics_seconds(m, "apikey_journal_lag_seconds",
                                    oldest ? apikey_clock_real() - oldest
                                           : 0);

    ngx_http_apikey_metrics_head(m, "apikey_dropped_total", "counter",
                                 "Usage records lost to a full journal.");
    ngx_http_apikey_metrics_value(m, "apikey_dropped_total",
                                  apikey_stats_get(&stats->dropped));
}


static void
ngx_http_apikey_metrics_drift(ngx_http_apikey_metrics_t *m,
    apikey_stats_t *stats)
{
    u_char  *last, text[APIKEY_MONEY_TEXT_LEN];

    last = (u_char *) apikey_money_format((char *) text,
                                          apikey_stats_get(&stats->drift));

    ngx_http_apikey_metrics_head(m, "apikey_budget_drift", "gauge",
                                 "The largest difference between what a "
                                 "budget counts as used and what Postgres "
                                 "knows, in the currency.");

    m->pos = ngx_slprintf(m->pos, m->end, "apikey_budget_drift %*s\n",
                          (size_t) (last - text), text);
}


static void
ngx_http_apikey_metrics_sums(apikey_stats_t *stats, ngx_uint_t first,
    uint64_t *sums, ngx_uint_t n)
{
    ngx_uint_t  i;

    for (i = 0; i < n; i++) {
        sums[i] = apikey_stats_sum(stats, first + i);
    }
}


static void
ngx_http_apikey_metrics_labels(ngx_http_apikey_metrics_t *m, const char *name,
    const char *label, uint64_t *values, ngx_uint_t n,
    const char *(*text)(ngx_uint_t i))
{
    ngx_uint_t  i;

    for (i = 0; i < n; i++) {
        m->pos = ngx_slprintf(m->pos, m->end, "%s{%s=\"%s\"} %uL\n", name,
                              label, text(i), apikey_stats_get(&values[i]));
    }
}


/* Read bucket by bucket, so the count is made of what was read. */

static void
ngx_http_apikey_metrics_histogram(ngx_http_apikey_metrics_t *m,
    const char *name, const char *help, apikey_histogram_t *h)
{
    uint64_t    count, sum;
    ngx_uint_t  i;

    ngx_http_apikey_metrics_head(m, name, "histogram", help);

    sum = apikey_stats_get(&h->sum);
    count = 0;

    for (i = 0; i < APIKEY_STATS_BUCKETS; i++) {
        count += apikey_stats_get(&h->bucket[i]);

        m->pos = ngx_slprintf(m->pos, m->end,
                              "%s_bucket{le=\"%uL.%06uL\"} %uL\n", name,
                              apikey_stats_bounds[i] / 1000000,
                              apikey_stats_bounds[i] % 1000000, count);
    }

    count += apikey_stats_get(&h->bucket[i]);

    m->pos = ngx_slprintf(m->pos, m->end,
                          "%s_bucket{le=\"+Inf\"} %uL\n"
                          "%s_sum %uL.%06uL\n"
                          "%s_count %uL\n",
                          name, count, name, sum / 1000000, sum % 1000000,
                          name, count);
}


static void
ngx_http_apikey_metrics_head(ngx_http_apikey_metrics_t *m, const char *name,
    const char *type, const char *help)
{
    m->pos = ngx_slprintf(m->pos, m->end, "# HELP %s %s\n# TYPE %s %s\n",
                          name, help, name, type);
}


static void
ngx_http_apikey_metrics_value(ngx_http_apikey_metrics_t *m, const char *name,
    uint64_t value)
{
    m->pos = ngx_slprintf(m->pos, m->end, "%s %uL\n", name, value);
}


static void
ngx_http_apikey_metrics_seconds(ngx_http_apikey_metrics_t *m,
    const char *name, int64_t us)
{
    uint64_t  n;

    n = us > 0 ? (uint64_t) us : 0;

    m->pos = ngx_slprintf(m->pos, m->end, "%s %uL.%06uL\n", name,
                          n / 1000000, n % 1000000);
}


static const char *
ngx_http_apikey_metrics_verdict(ngx_uint_t i)
{
    return apikey_verdict_name(i);
}


static const char *
ngx_http_apikey_metrics_mode(ngx_uint_t i)
{
    return apikey_mode_name(i);
}


static const char *
ngx_http_apikey_metrics_reason(ngx_uint_t i)
{
    return apikey_fail_name(i);
}


static const char *
ngx_http_apikey_metrics_limited(ngx_uint_t i)
{
    return apikey_limited_name(i);
}
