
/*
 * The worker's limiter: its part of the zone, its connection to Redis, who
 * waits for that, and the probes of an open breaker.
 *
 * The limiter is the pool's; its scratch buffer is malloc'ed and freed by
 * stop().  Timers are cancelable, but the one of waiting requests.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "limit/limiter.h"
#include "limit/script.h"


#define NGX_HTTP_APIKEY_LIMITER_QUEUE     8192
#define NGX_HTTP_APIKEY_LIMITER_WATCH     100    /* ms */
#define NGX_HTTP_APIKEY_LIMITER_COMPLAIN  10     /* s between two messages */


static ngx_int_t ngx_http_apikey_limiter_seat(ngx_http_apikey_limiter_t *l);
static void ngx_http_apikey_limiter_state_handler(void *data, ngx_uint_t up);
static void ngx_http_apikey_limiter_cluster(ngx_http_apikey_limiter_t *l,
    ngx_uint_t up);
static void ngx_http_apikey_limiter_resume(ngx_http_apikey_limiter_t *l);
static void ngx_http_apikey_limiter_timer_handler(ngx_event_t *ev);
static void ngx_http_apikey_limiter_watch_handler(ngx_event_t *ev);
static void ngx_http_apikey_limiter_probe(ngx_http_apikey_limiter_t *l);
static void ngx_http_apikey_limiter_probe_handler(
    ngx_http_apikey_redis_call_t *call, struct redisReply *reply);


ngx_http_apikey_limit_sh_t *
ngx_http_apikey_limit_init_zone(ngx_slab_pool_t *shpool, size_t size,
    ngx_log_t *log)
{
    size_t                       page, holds, leases;
    ngx_http_apikey_limit_sh_t  *sh;

    sh = ngx_slab_calloc(shpool, sizeof(ngx_http_apikey_limit_sh_t));

    /* the slab rounds each part up to whole pages */

    page = ngx_pagesize;
    holds = size / 16 / page * page;
    leases = size / 2 / page * page;

    if (sh == NULL || size < 4 * page || holds < page) {
        return NULL;
    }

    sh->holds = ngx_http_apikey_holds_init(shpool, holds);
    sh->leases = ngx_http_apikey_leases_init(shpool, leases);
    sh->table = ngx_http_apikey_table_init(shpool,
                                        size - holds - leases
                                        - sizeof(ngx_http_apikey_limit_sh_t));

    if (sh->holds == NULL || sh->leases == NULL || sh->table == NULL) {
        return NULL;
    }

    return sh;
}


ngx_http_apikey_limiter_t *
ngx_http_apikey_limiter_start(ngx_pool_t *pool,
    ngx_http_apikey_limit_conf_t *conf)
{
    ngx_http_apikey_limiter_t  *l;

    l = ngx_pcalloc(pool, sizeof(ngx_http_apikey_limiter_t));
    if (l == NULL) {
        return NULL;
    }

    l->conf = *conf;
    l->hope = 1;

    ngx_queue_init(&l->queue);

    l->timer.handler = ngx_http_apikey_limiter_timer_handler;
    l->timer.data = l;
    l->timer.log = conf->log;

    l->watch.handler = ngx_http_apikey_limiter_watch_handler;
    l->watch.data = l;
    l->watch.log = conf->log;
    l->watch.cancelable = 1;

    ngx_http_apikey_limiter_mode(l);

    if (conf->mode == NGX_HTTP_APIKEY_LIMIT_LOCAL) {
        return l;
    }

    ngx_http_apikey_script_sha(l->sha);

    if (ngx_http_apikey_limiter_seat(l) != NGX_OK) {
        return NULL;
    }

    ngx_http_apikey_wait_start(l);
    ngx_http_apikey_renew_start(l);

    l->probe.handler = ngx_http_apikey_limiter_probe_handler;
    l->probe.data = l;

    l->redis = ngx_http_apikey_redis_create(pool, conf->redis, conf->stats,
                                            conf->log);
    if (l->redis == NULL
        || ngx_http_apikey_redis_script(l->redis, &ngx_http_apikey_script)
           != NGX_OK)
    {
        return NULL;
    }

    ngx_http_apikey_redis_known(l->redis,
                                conf->tallies->file->owed.contact != 0);

    ngx_http_apikey_redis_set_state_handler(l->redis,
                                       ngx_http_apikey_limiter_state_handler,
                                       l);

    if (ngx_http_apikey_breaker_is_open(&conf->sh->breaker)) {
        ngx_http_apikey_limiter_watch(l);
    }

    return l;
}


/* What it holds is found under its seat if it dies. */

static ngx_int_t
ngx_http_apikey_limiter_seat(ngx_http_apikey_limiter_t *l)
{
    int                         fd;
    ngx_slab_pool_t            *shpool;
    ngx_http_apikey_leases_t   *leases;
    ngx_http_apikey_account_t   none;

    shpool = l->conf.shpool;
    leases = l->conf.sh->leases;
    fd = l->conf.tallies->fd;

    ngx_memzero(&none, sizeof(ngx_http_apikey_account_t));
    ngx_http_apikey_leases_conf(&l->none.conf, &none);
    l->none.conf.direct = 1;

    l->seat = ngx_http_apikey_holds_seat(l->conf.sh->holds, fd);

    if (l->seat == NGX_ERROR) {
        ngx_log_error(NGX_LOG_ALERT, l->conf.log, ngx_errno,
                      "apikey: no seat is free in the file of tallies");
    }

    ngx_shmtx_lock(&shpool->mutex);

    l->id = ngx_http_apikey_holds_name(++leases->workers, l->seat);

    leases->direct = (l->conf.mode == NGX_HTTP_APIKEY_LIMIT_DIRECT);
    leases->rest = ngx_max(1000000,
                           2000 * (int64_t) l->conf.redis->timeout);

    if (l->seat != NGX_ERROR
        && ngx_http_apikey_holds_enter(l->conf.sh->holds, leases, l->seat,
                                       l->id))
    {
        ngx_http_apikey_leases_rebuild(leases);
    }

    ngx_shmtx_unlock(&shpool->mutex);

    return NGX_OK;
}


void
ngx_http_apikey_limiter_stop(ngx_http_apikey_limiter_t *l)
{
    ngx_http_apikey_limit_sh_t  *sh;

    if (l->redis) {
        ngx_http_apikey_redis_close(l->redis);
        ngx_http_apikey_renew_stop(l);
        ngx_http_apikey_wait_stop(l);
        ngx_http_apikey_ask_stop(l);

        if (l->seat != NGX_ERROR) {
            sh = l->conf.sh;

            ngx_shmtx_lock(&l->conf.shpool->mutex);
            ngx_http_apikey_holds_leave(sh->holds, sh->leases,
                                        l->conf.tallies->fd, l->seat);
            ngx_shmtx_unlock(&l->conf.shpool->mutex);
        }
    }

    if (l->timer.timer_set) {
        ngx_del_timer(&l->timer);
    }

    if (l->watch.timer_set) {
        ngx_del_timer(&l->watch);
    }

    if (l->scratch) {
        ngx_free(l->scratch);
        l->scratch = NULL;
        l->scratch_size = 0;
    }
}


ngx_int_t
ngx_http_apikey_limiter_wait(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d)
{
    if (!l->hope || l->queued >= NGX_HTTP_APIKEY_LIMITER_QUEUE
        || !ngx_http_apikey_redis_connecting(l->redis))
    {
        return NGX_DECLINED;
    }

    ngx_queue_insert_tail(&l->queue, &d->queue);

    l->queued++;

    d->queued = 1;
    d->waiting = 1;

    if (!l->timer.timer_set) {
        ngx_add_timer(&l->timer, l->conf.redis->timeout);
    }

    return NGX_AGAIN;
}


void
ngx_http_apikey_limiter_failed(ngx_http_apikey_limiter_t *l)
{
    ngx_uint_t                   opened;
    ngx_slab_pool_t             *shpool;
    ngx_http_apikey_limit_sh_t  *sh;

    sh = l->conf.sh;
    shpool = l->conf.shpool;

    if (l->conf.redis->topology == NGX_HTTP_APIKEY_REDIS_CLUSTER) {
        return;
    }

    ngx_shmtx_lock(&shpool->mutex);

    opened = ngx_http_apikey_breaker_result(&sh->breaker, apikey_clock_boot(),
                                            0);
    if (opened) {
        apikey_stats_set(&l->conf.stats->redis_up, 0);
    }

    ngx_shmtx_unlock(&shpool->mutex);

    if (opened) {
        ngx_log_error(NGX_LOG_ERR, l->conf.log, 0,
                      "apikey_redis: %V is down, apikey_redis_down decides",
                      &l->conf.redis->name);
    }

    if (ngx_http_apikey_breaker_is_open(&sh->breaker)) {
        ngx_http_apikey_limiter_watch(l);
    }
}


void
ngx_http_apikey_limiter_watch(ngx_http_apikey_limiter_t *l)
{
    if (!l->watch.timer_set) {
        ngx_add_timer(&l->watch, NGX_HTTP_APIKEY_LIMITER_WATCH
                      + ngx_random() % NGX_HTTP_APIKEY_LIMITER_WATCH);
    }
}


void
ngx_http_apikey_limiter_complain(ngx_http_apikey_limiter_t *l,
    ngx_uint_t level, char *what, ngx_str_t *text)
{
    time_t  now;

    now = ngx_time();

    if (l->complained
        && now - l->complained < NGX_HTTP_APIKEY_LIMITER_COMPLAIN)
    {
        return;
    }

    l->complained = now;

    ngx_log_error(level, l->conf.log, 0, "%s%V", what, text);
}


static void
ngx_http_apikey_limiter_state_handler(void *data, ngx_uint_t up)
{
    ngx_http_apikey_limiter_t *l = data;

    ngx_uint_t                   open;
    ngx_slab_pool_t             *shpool;
    ngx_http_apikey_breaker_t   *breaker;

    breaker = &l->conf.sh->breaker;
    shpool = l->conf.shpool;

    if (l->conf.redis->topology == NGX_HTTP_APIKEY_REDIS_CLUSTER) {
        ngx_http_apikey_limiter_cluster(l, up);
        return;
    }

    if (!up) {

        /* one that was lost is being made anew: nobody says yet it is gone */

        l->hope = l->up && ngx_http_apikey_redis_connecting(l->redis);
        l->up = 0;

        ngx_http_apikey_limiter_failed(l);

        if (!l->hope || ngx_http_apikey_breaker_is_open(breaker)) {
            ngx_http_apikey_limiter_resume(l);
        }

        return;
    }

    l->up = 1;
    l->hope = 1;

    ngx_shmtx_lock(&shpool->mutex);

    open = ngx_http_apikey_breaker_is_open(breaker);

    if (!open) {
        apikey_stats_set(&l->conf.stats->redis_up, 1);
    }

    ngx_shmtx_unlock(&shpool->mutex);

    if (open) {
        ngx_http_apikey_limiter_probe(l);
        ngx_http_apikey_limiter_watch(l);
    }

    ngx_http_apikey_limiter_resume(l);
}


/*
 * A Cluster has no breaker: where one primary is gone the others go on, and
 * nobody waits for that one, for send() fails at once.
 */

static void
ngx_http_apikey_limiter_cluster(ngx_http_apikey_limiter_t *l, ngx_uint_t up)
{
    l->up = up;
    l->hope = up || ngx_http_apikey_redis_connecting(l->redis);

    apikey_stats_set(&l->conf.stats->redis_up, up);

    if (ngx_http_apikey_redis_ready(l->redis) || !l->hope) {
        ngx_http_apikey_limiter_resume(l);
    }
}


ngx_int_t
ngx_http_apikey_limiter_scratch(ngx_http_apikey_limiter_t *l, size_t size)
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


ngx_int_t
ngx_http_apikey_limiter_send(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_redis_call_t *call, u_char *p, ngx_uint_t op,
    uint64_t complete, ngx_uint_t text, ngx_uint_t argc, ngx_str_t *argv)
{
    ngx_str_t                      *head;
    ngx_http_apikey_redis_epoch_t   epoch;

    ngx_memzero(&epoch, sizeof(ngx_http_apikey_redis_epoch_t));

    if (ngx_http_apikey_redis_epoch(l->redis, call, &argv[3], &epoch)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (text) {
        ngx_str_set(&argv[0], "EVAL");
        argv[1] = ngx_http_apikey_script;

    } else {
        ngx_str_set(&argv[0], "EVALSHA");
        argv[1].data = l->sha;
        argv[1].len = sizeof(l->sha);
    }

    /* as many blocks as keys, and the head between them */

    head = &argv[3 + (argc - 4) / 2];

    head->data = p;
    head->len = ngx_http_apikey_script_head(p, op, &epoch,
                         l->conf.redis->topology
                         == NGX_HTTP_APIKEY_REDIS_CLUSTER, complete)
                - p;

    if (epoch.marker.len) {
        argv[argc++] = epoch.marker;
    }

    return ngx_http_apikey_redis_send(l->redis, call, argc, argv);
}


ngx_uint_t
ngx_http_apikey_limiter_ready(ngx_http_apikey_limiter_t *l)
{
    return ngx_http_apikey_redis_ready(l->redis)
           && !ngx_http_apikey_breaker_is_open(&l->conf.sh->breaker);
}


/* All who wait for the connection go on, with it or without. */

static void
ngx_http_apikey_limiter_resume(ngx_http_apikey_limiter_t *l)
{
    ngx_queue_t                 *q;
    ngx_http_apikey_decision_t  *d;

    while (!ngx_queue_empty(&l->queue)) {
        q = ngx_queue_head(&l->queue);
        ngx_queue_remove(q);

        l->queued--;

        d = ngx_queue_data(q, ngx_http_apikey_decision_t, queue);
        d->queued = 0;

        ngx_http_apikey_decide_resume(d);
    }

    if (l->timer.timer_set) {
        ngx_del_timer(&l->timer);
    }
}


static void
ngx_http_apikey_limiter_timer_handler(ngx_event_t *ev)
{
    ngx_http_apikey_limiter_t  *l;

    l = ev->data;
    l->hope = 0;

    ngx_http_apikey_limiter_resume(l);
}


static void
ngx_http_apikey_limiter_watch_handler(ngx_event_t *ev)
{
    ngx_uint_t                   mine;
    ngx_slab_pool_t             *shpool;
    ngx_http_apikey_breaker_t   *breaker;
    ngx_http_apikey_limiter_t   *l;

    l = ev->data;
    breaker = &l->conf.sh->breaker;
    shpool = l->conf.shpool;

    if (!ngx_http_apikey_breaker_is_open(breaker)) {
        return;
    }

    if (ngx_http_apikey_redis_ready(l->redis) && !l->probe.waiting) {

        ngx_shmtx_lock(&shpool->mutex);
        mine = ngx_http_apikey_breaker_probe(breaker, apikey_clock_boot());
        ngx_shmtx_unlock(&shpool->mutex);

        if (mine) {
            ngx_http_apikey_limiter_probe(l);
        }
    }

    ngx_http_apikey_limiter_watch(l);
}


/* A write: a replica or a full Redis answers PING as if all were well. */

static void
ngx_http_apikey_limiter_probe(ngx_http_apikey_limiter_t *l)
{
    u_char     *p, key[NGX_HTTP_APIKEY_LIMITER_KEY];
    ngx_str_t   argv[5];

    if (l->probe.waiting) {
        return;
    }

    /* a longer prefix is cut: the probe is still a write */

    p = ngx_snprintf(key, sizeof(key), "%V:probe", &l->conf.redis->prefix);

    ngx_str_set(&argv[0], "SET");
    argv[1].data = key;
    argv[1].len = p - key;
    ngx_str_set(&argv[2], "1");
    ngx_str_set(&argv[3], "PX");
    ngx_str_set(&argv[4], "1000");

    l->probe.deadline = 0;

    (void) ngx_http_apikey_redis_send(l->redis, &l->probe, 5, argv);
}


static void
ngx_http_apikey_limiter_probe_handler(ngx_http_apikey_redis_call_t *call,
    struct redisReply *reply)
{
    ngx_http_apikey_limiter_t *l = call->data;

    ngx_str_t                    text;
    ngx_uint_t                   closed;
    ngx_slab_pool_t             *shpool;
    ngx_http_apikey_breaker_t   *breaker;

    if (reply == NULL
        || ngx_http_apikey_redis_reply(reply, &text)
           != NGX_HTTP_APIKEY_REDIS_STATUS)
    {
        return;
    }

    breaker = &l->conf.sh->breaker;
    shpool = l->conf.shpool;

    ngx_shmtx_lock(&shpool->mutex);

    closed = ngx_http_apikey_breaker_is_open(breaker);

    ngx_http_apikey_breaker_close(breaker);
    apikey_stats_set(&l->conf.stats->redis_up, 1);

    ngx_shmtx_unlock(&shpool->mutex);

    if (closed) {
        ngx_log_error(NGX_LOG_NOTICE, l->conf.log, 0,
                      "apikey_redis: %V is up again", &l->conf.redis->name);
    }
}
