
/*
 * The decision over all limits of a request: who decides it, and what happens
 * when Redis does not.
 *
 * A request waits at most once: for its TAKE, or for the connection that a
 * worker makes when it starts or has just lost, and then for TAKE, with one
 * deadline for both.  It never waits while the breaker is open or after an
 * attempt to connect failed.
 * A decision is its caller's; only while it waits is it known here.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/number.h"
#include "limit/limiter.h"
#include "limit/local.h"
#include "limit/script.h"


static ngx_int_t ngx_http_apikey_decide_take(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d);
static ngx_int_t ngx_http_apikey_decide_scratch(ngx_http_apikey_limiter_t *l,
    size_t size);
static void ngx_http_apikey_decide_reply(ngx_http_apikey_redis_call_t *call,
    struct redisReply *reply);
static ngx_int_t ngx_http_apikey_decide_error(ngx_http_apikey_decision_t *d,
    ngx_str_t *text);
static ngx_int_t ngx_http_apikey_decide_read(ngx_http_apikey_decision_t *d,
    ngx_str_t *text);
static void ngx_http_apikey_decide_note(ngx_http_apikey_decision_t *d,
    ngx_str_t *text);
static ngx_int_t ngx_http_apikey_decide_down(ngx_http_apikey_decision_t *d);
static ngx_int_t ngx_http_apikey_decide_local(ngx_http_apikey_decision_t *d,
    ngx_uint_t nodes, apikey_mode_e mode);
static ngx_int_t ngx_http_apikey_decide_done(ngx_http_apikey_decision_t *d,
    ngx_int_t rc, apikey_mode_e mode);
static void ngx_http_apikey_decide_event_handler(ngx_event_t *ev);
static ngx_uint_t ngx_http_apikey_decide_nbuckets(
    ngx_http_apikey_decision_t *d);


ngx_int_t
ngx_http_apikey_decide(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d)
{
    d->limiter = l;
    d->known = 0;
    d->unknown = 0;
    d->waiting = 0;
    d->queued = 0;
    d->resent = 0;

    if (l->conf.mode == NGX_HTTP_APIKEY_LIMIT_LOCAL) {
        return ngx_http_apikey_decide_local(d, 0, APIKEY_MODE_LOCAL);
    }

    ngx_memzero(&d->call, sizeof(ngx_http_apikey_redis_call_t));
    ngx_memzero(&d->event, sizeof(ngx_event_t));

    d->call.handler = ngx_http_apikey_decide_reply;
    d->call.data = d;
    d->call.deadline = ngx_current_msec + l->conf.redis->timeout;

    d->event.handler = ngx_http_apikey_decide_event_handler;
    d->event.data = d;
    d->event.log = l->conf.log;

    if (ngx_http_apikey_breaker_is_open(&l->conf.sh->breaker)) {
        ngx_http_apikey_limiter_watch(l);
        return ngx_http_apikey_decide_down(d);
    }

    if (ngx_http_apikey_redis_ready(l->redis)) {

        if (ngx_http_apikey_decide_take(l, d) == NGX_OK) {
            d->waiting = 1;
            return NGX_AGAIN;
        }

    } else if (ngx_http_apikey_limiter_wait(l, d) == NGX_AGAIN) {
        return NGX_AGAIN;
    }

    return ngx_http_apikey_decide_down(d);
}


ngx_uint_t
ngx_http_apikey_decide_counts(ngx_http_apikey_limiter_t *l,
    const apikey_limit_t *limit)
{
    if (l->conf.mode == NGX_HTTP_APIKEY_LIMIT_LOCAL) {
        return limit->kind != APIKEY_KIND_ROLLING;
    }

    return limit->kind == APIKEY_KIND_BUCKET
           && limit->unit == APIKEY_UNIT_REQUESTS;
}


void
ngx_http_apikey_decide_cancel(ngx_http_apikey_decision_t *d)
{
    if (!d->waiting) {
        return;
    }

    d->waiting = 0;

    if (d->queued) {
        d->queued = 0;
        d->limiter->queued--;
        ngx_queue_remove(&d->queue);
    }

    ngx_http_apikey_redis_abandon(&d->call);

    if (d->event.posted) {
        ngx_delete_posted_event(&d->event);
    }
}


void
ngx_http_apikey_decide_resume(ngx_http_apikey_decision_t *d)
{
    ngx_http_apikey_limiter_t  *l;

    l = d->limiter;

    if (!ngx_http_apikey_breaker_is_open(&l->conf.sh->breaker)
        && ngx_http_apikey_decide_take(l, d) == NGX_OK)
    {
        return;
    }

    (void) ngx_http_apikey_decide_down(d);

    ngx_post_event(&d->event, &ngx_posted_events);
}


/* NGX_ERROR: not sent. */

static ngx_int_t
ngx_http_apikey_decide_take(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d)
{
    size_t       size;
    u_char      *p, number[APIKEY_UINT_TEXT_LEN];
    ngx_str_t   *argv, *prefix;
    ngx_uint_t   i, n, argc;

    n = d->naccounts;
    argc = 3 + 2 * n;
    prefix = &l->conf.redis->prefix;

    size = argc * sizeof(ngx_str_t);

    for (i = 0; i < n; i++) {
        size += ngx_http_apikey_script_size(prefix, &d->accounts[i]);
    }

    if (ngx_http_apikey_decide_scratch(l, size) != NGX_OK) {
        return NGX_ERROR;
    }

    argv = (ngx_str_t *) l->scratch;
    p = (u_char *) (argv + argc);

    if (d->resent) {
        ngx_str_set(&argv[0], "EVAL");
        argv[1] = ngx_http_apikey_script;

    } else {
        ngx_str_set(&argv[0], "EVALSHA");
        argv[1].data = l->sha;
        argv[1].len = sizeof(l->sha);
    }

    argv[2].data = number;
    argv[2].len = (u_char *) apikey_uint_format((char *) number, n) - number;

    for (i = 0; i < n; i++) {
        argv[3 + i].data = p;
        p = ngx_http_apikey_script_key(p, prefix, &d->accounts[i]);
        argv[3 + i].len = p - argv[3 + i].data;

        argv[3 + n + i].data = p;
        p = ngx_http_apikey_script_arg(p, &d->accounts[i]);
        argv[3 + n + i].len = p - argv[3 + n + i].data;
    }

    return ngx_http_apikey_redis_send(l->redis, &d->call, argc, argv);
}


static ngx_int_t
ngx_http_apikey_decide_scratch(ngx_http_apikey_limiter_t *l, size_t size)
{
    if (size <= l->scratch_size) {
        return NGX_OK;
    }

    if (l->scratch) {
        ngx_free(l->scratch);
    }

    l->scratch_size = 0;

    l->scratch = ngx_alloc(2 * size, l->conf.log);
    if (l->scratch == NULL) {
        return NGX_ERROR;
    }

    l->scratch_size = 2 * size;

    return NGX_OK;
}


static void
ngx_http_apikey_decide_reply(ngx_http_apikey_redis_call_t *call,
    struct redisReply *reply)
{
    ngx_int_t                      rc;
    ngx_str_t                      text;
    ngx_http_apikey_decision_t    *d;
    ngx_http_apikey_redis_kind_e   kind;

    d = call->data;

    rc = NGX_ERROR;

    if (call->again && ngx_http_apikey_decide_take(d->limiter, d) == NGX_OK) {
        return;
    }

    if (reply) {
        kind = ngx_http_apikey_redis_reply(reply, &text);

        if (kind == NGX_HTTP_APIKEY_REDIS_STRING) {
            rc = ngx_http_apikey_decide_read(d, &text);

        } else if (kind == NGX_HTTP_APIKEY_REDIS_ERROR) {
            rc = ngx_http_apikey_decide_error(d, &text);
        }
    }

    if (rc == NGX_AGAIN) {
        return;
    }

    if (rc == NGX_ERROR) {
        ngx_http_apikey_limiter_failed(d->limiter);
        (void) ngx_http_apikey_decide_down(d);

    } else {
        d->known = 1;
        (void) ngx_http_apikey_decide_done(d, rc, APIKEY_MODE_DIRECT);
    }

    ngx_post_event(&d->event, &ngx_posted_events);
}


/* NGX_AGAIN: sent once more, which nothing but NOSCRIPT allows. */

static ngx_int_t
ngx_http_apikey_decide_error(ngx_http_apikey_decision_t *d, ngx_str_t *text)
{
    ngx_http_apikey_limiter_t  *l;

    l = d->limiter;

    if (!d->resent && text->len >= sizeof("NOSCRIPT") - 1
        && ngx_strncmp(text->data, "NOSCRIPT", sizeof("NOSCRIPT") - 1) == 0)
    {
        d->resent = 1;

        if (ngx_http_apikey_decide_take(l, d) == NGX_OK) {
            return NGX_AGAIN;
        }
    }

    ngx_http_apikey_limiter_complain(l, NGX_LOG_ERR,
                                     "apikey_redis: no decision: ", text);

    return NGX_ERROR;
}


/* NGX_OK admitted, NGX_DECLINED refused, NGX_ERROR: not what TAKE answers. */

static ngx_int_t
ngx_http_apikey_decide_read(ngx_http_apikey_decision_t *d, ngx_str_t *text)
{
    ngx_uint_t                       i, k, refused;
    apikey_bucket_t                  b;
    const apikey_rate_t             *rate;
    ngx_http_apikey_bucket_t        *out;
    ngx_http_apikey_account_t       *account;
    ngx_http_apikey_script_reply_t   reply;

    if (ngx_http_apikey_script_reply(&reply, text,
                                     ngx_http_apikey_decide_nbuckets(d))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    refused = 0;

    for (i = 0; i < d->naccounts; i++) {
        account = &d->accounts[i];

        for (k = 0; k < account->nbuckets; k++) {

            if (ngx_http_apikey_script_next(&reply, &b) != NGX_OK) {
                return NGX_ERROR;
            }

            out = &account->buckets[k];
            rate = &out->limit->rate;

            out->remaining = apikey_bucket_remaining(&b, rate);
            out->reset = apikey_bucket_reset(&b, rate, reply.now);
            out->wait = apikey_bucket_wait(&b, rate, account->cost, reply.now);
            out->refused = (!reply.taken && out->wait != 0);

            refused |= out->refused;
        }
    }

    if (!reply.taken && !refused) {
        return NGX_ERROR;
    }

    d->decided_at = reply.now;

    ngx_http_apikey_decide_note(d, text);

    return reply.taken ? NGX_OK : NGX_DECLINED;
}


/* The levels seen: from these a node goes on alone. */

static void
ngx_http_apikey_decide_note(ngx_http_apikey_decision_t *d, ngx_str_t *text)
{
    int64_t                          now;
    ngx_uint_t                       i, k;
    apikey_gauge_t                  *g;
    apikey_bucket_t                  seen;
    ngx_slab_pool_t                 *shpool;
    ngx_http_apikey_account_t       *account;
    ngx_http_apikey_limit_sh_t      *sh;
    ngx_http_apikey_script_reply_t   reply;

    sh = d->limiter->conf.sh;
    shpool = d->limiter->conf.shpool;

    now = apikey_clock_boot();

    (void) ngx_http_apikey_script_reply(&reply, text,
                                        ngx_http_apikey_decide_nbuckets(d));

    ngx_shmtx_lock(&shpool->mutex);

    (void) ngx_http_apikey_breaker_result(&sh->breaker, now, 1);

    ngx_http_apikey_table_begin(sh->table);

    for (i = 0; i < d->naccounts; i++) {
        account = &d->accounts[i];

        for (k = 0; k < account->nbuckets; k++) {
            (void) ngx_http_apikey_script_next(&reply, &seen);

            g = ngx_http_apikey_table_get(sh->table, account,
                                          &account->buckets[k], now);

            /* what was spent alone while Redis was down is not forgotten */

            if (g && g->bucket.used < seen.used) {
                g->bucket.used = seen.used;
                g->bucket.at = now;
            }
        }
    }

    ngx_shmtx_unlock(&shpool->mutex);
}


static ngx_int_t
ngx_http_apikey_decide_down(ngx_http_apikey_decision_t *d)
{
    ngx_uint_t                     nodes;
    ngx_http_apikey_limit_conf_t  *conf;

    conf = &d->limiter->conf;

    d->decided_at = apikey_clock_real();

    switch (conf->down) {

    case NGX_HTTP_APIKEY_DOWN_ALLOW:
        return ngx_http_apikey_decide_done(d, NGX_OK, APIKEY_MODE_DOWN_ALLOW);

    case NGX_HTTP_APIKEY_DOWN_DENY:
        return ngx_http_apikey_decide_done(d, NGX_ERROR,
                                           APIKEY_MODE_DOWN_DENY);

    default: /* NGX_HTTP_APIKEY_DOWN_LOCAL */

        nodes = conf->nodes;

        if (nodes == 0) {
            nodes = apikey_stats_get(&conf->stats->nodes);
        }

        return ngx_http_apikey_decide_local(d, ngx_max(nodes, 1),
                                            APIKEY_MODE_DOWN_LOCAL);
    }
}


static ngx_int_t
ngx_http_apikey_decide_local(ngx_http_apikey_decision_t *d, ngx_uint_t nodes,
    apikey_mode_e mode)
{
    ngx_int_t                      rc;
    ngx_str_t                      none;
    ngx_http_apikey_limit_conf_t  *conf;

    conf = &d->limiter->conf;

    ngx_shmtx_lock(&conf->shpool->mutex);

    d->share = ngx_max(nodes, 1);

    rc = ngx_http_apikey_local_take(conf->sh->table, d, nodes,
                                    apikey_clock_boot());

    ngx_shmtx_unlock(&conf->shpool->mutex);

    if (rc == NGX_ABORT) {
        ngx_str_null(&none);
        ngx_http_apikey_limiter_complain(d->limiter, NGX_LOG_CRIT,
                                         "apikey_zone: no room for another "
                                         "bucket, requests are refused",
                                         &none);
        rc = NGX_ERROR;
    }

    d->known = (rc != NGX_ERROR && mode == APIKEY_MODE_LOCAL);

    /* it will be decided again */

    if (d->unknown) {
        d->rc = rc;
        d->mode = mode;
        return rc;
    }

    return ngx_http_apikey_decide_done(d, rc, mode);
}


static ngx_int_t
ngx_http_apikey_decide_done(ngx_http_apikey_decision_t *d, ngx_int_t rc,
    apikey_mode_e mode)
{
    d->rc = rc;
    d->mode = mode;

    apikey_stats_add(&d->limiter->conf.stats->decisions[mode], 1);

    return rc;
}


static void
ngx_http_apikey_decide_event_handler(ngx_event_t *ev)
{
    ngx_http_apikey_decision_t  *d;

    d = ev->data;
    d->waiting = 0;

    d->handler(d);
}


static ngx_uint_t
ngx_http_apikey_decide_nbuckets(ngx_http_apikey_decision_t *d)
{
    ngx_uint_t  i, n;

    n = 0;

    for (i = 0; i < d->naccounts; i++) {
        n += d->accounts[i].nbuckets;
    }

    return n;
}
