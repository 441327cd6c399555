
/*
 * The worker's connection to Redis: commands of many requests on one socket,
 * replies matched in order.
 *
 * The struct, its ring of slots and its read buffer are the pool's; the write
 * buffer and hiredis' reader are malloc'ed and freed by close().  A slot
 * outlives its call: a call that timed out or was abandoned leaves a slot
 * without owner, so that the replies behind it stay in step.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/clock.h"
#include "wire/redis_private.h"


#define NGX_HTTP_APIKEY_REDIS_OUT_MAX   (16 * 1024 * 1024)


static void ngx_http_apikey_redis_posted_handler(ngx_event_t *ev);
static void ngx_http_apikey_redis_timer_handler(ngx_event_t *ev);
static void ngx_http_apikey_redis_set_timer(ngx_http_apikey_redis_t *redis,
    ngx_msec_t deadline);
static ngx_int_t ngx_http_apikey_redis_parse(ngx_http_apikey_redis_t *redis,
    size_t size);
static void ngx_http_apikey_redis_dispatch(ngx_http_apikey_redis_t *redis,
    struct redisReply *reply);
static ngx_int_t ngx_http_apikey_redis_fault(struct redisReply *reply);


ngx_http_apikey_redis_t *
ngx_http_apikey_redis_create(ngx_pool_t *pool,
    ngx_http_apikey_redis_conf_t *conf, apikey_stats_t *stats, ngx_log_t *log)
{
    ngx_http_apikey_redis_t  *redis;

    redis = ngx_pcalloc(pool, sizeof(ngx_http_apikey_redis_t));
    if (redis == NULL) {
        return NULL;
    }

    redis->slots = ngx_pcalloc(pool, NGX_HTTP_APIKEY_REDIS_SLOTS
                                     * sizeof(ngx_http_apikey_redis_slot_t));
    redis->in = ngx_pnalloc(pool, NGX_HTTP_APIKEY_REDIS_BUFFER);

    if (redis->slots == NULL || redis->in == NULL) {
        return NULL;
    }

    redis->conf = conf;
    redis->stats = stats;
    redis->log = log;
    redis->backoff = NGX_HTTP_APIKEY_REDIS_BACKOFF;

    /* the core logs each refused connect(), we say it once an outage */

    redis->quiet = *log;
    redis->quiet.log_level = NGX_LOG_ALERT;
    redis->quiet.next = NULL;

    redis->write.handler = ngx_http_apikey_redis_posted_handler;
    redis->write.data = redis;
    redis->write.log = log;

    redis->timer.handler = ngx_http_apikey_redis_timer_handler;
    redis->timer.data = redis;
    redis->timer.log = log;

    redis->retry.handler = ngx_http_apikey_redis_retry_handler;
    redis->retry.data = redis;
    redis->retry.log = log;
    redis->retry.cancelable = 1;

    ngx_http_apikey_redis_connect(redis);

    return redis;
}


void
ngx_http_apikey_redis_set_state_handler(ngx_http_apikey_redis_t *redis,
    void (*handler)(void *data, ngx_uint_t up), void *data)
{
    redis->state_handler = handler;
    redis->state_data = data;
}


ngx_uint_t
ngx_http_apikey_redis_ready(ngx_http_apikey_redis_t *redis)
{
    return redis->state == NGX_HTTP_APIKEY_REDIS_READY;
}


ngx_uint_t
ngx_http_apikey_redis_connecting(ngx_http_apikey_redis_t *redis)
{
    return redis->state == NGX_HTTP_APIKEY_REDIS_CONNECTING
           || redis->state == NGX_HTTP_APIKEY_REDIS_HANDSHAKE;
}


ngx_int_t
ngx_http_apikey_redis_send(ngx_http_apikey_redis_t *redis,
    ngx_http_apikey_redis_call_t *call, ngx_uint_t argc, ngx_str_t *argv)
{
    ngx_http_apikey_redis_slot_t  *slot;

    if (redis->state != NGX_HTTP_APIKEY_REDIS_READY
        || redis->tail - redis->head >= NGX_HTTP_APIKEY_REDIS_SLOTS)
    {
        return NGX_ERROR;
    }

    if (ngx_http_apikey_redis_append(redis, argc, argv) != NGX_OK) {
        return NGX_ERROR;
    }

    if (call->deadline == 0) {
        call->deadline = ngx_current_msec + redis->conf->timeout;
    }

    call->redis = redis;
    call->slot = redis->tail;
    call->waiting = 1;

    slot = ngx_http_apikey_redis_slot(redis, redis->tail);
    slot->call = call;
    slot->sent = ngx_current_msec;
    slot->start = apikey_clock_boot();

    redis->tail++;
    redis->live++;

    ngx_http_apikey_redis_set_timer(redis, call->deadline);

    return NGX_OK;
}


void
ngx_http_apikey_redis_abandon(ngx_http_apikey_redis_call_t *call)
{
    ngx_http_apikey_redis_t  *redis;

    if (!call->waiting) {
        return;
    }

    call->waiting = 0;

    redis = call->redis;

    ngx_http_apikey_redis_slot(redis, call->slot)->call = NULL;

    redis->live--;
    redis->timer.cancelable = (redis->live == 0);
}


void
ngx_http_apikey_redis_flush(ngx_http_apikey_redis_t *redis)
{
    ssize_t            n;
    ngx_connection_t  *c;

    c = redis->connection;

    if (c == NULL || redis->state == NGX_HTTP_APIKEY_REDIS_CONNECTING) {
        return;
    }

    while (redis->out_pos < redis->out_last) {

        n = c->send(c, redis->out + redis->out_pos,
                    redis->out_last - redis->out_pos);

        if (n == NGX_AGAIN) {
            break;
        }

        if (n == NGX_ERROR || n == 0) {
            ngx_http_apikey_redis_lost(redis, "cannot write");
            return;
        }

        redis->out_pos += n;
    }

    if (redis->out_pos == redis->out_last) {
        redis->out_pos = 0;
        redis->out_last = 0;
    }

    if (ngx_handle_write_event(c->write, 0) != NGX_OK) {
        ngx_http_apikey_redis_lost(redis, "cannot watch the socket");
    }
}


void
ngx_http_apikey_redis_close(ngx_http_apikey_redis_t *redis)
{
    ngx_http_apikey_redis_slot_t  *slot;

    redis->state_handler = NULL;

    ngx_http_apikey_redis_disconnect(redis);

    for ( /* void */ ; redis->head != redis->tail; redis->head++) {
        slot = ngx_http_apikey_redis_slot(redis, redis->head);

        if (slot->call) {
            slot->call->waiting = 0;
            slot->call = NULL;
        }
    }

    redis->live = 0;

    if (redis->timer.timer_set) {
        ngx_del_timer(&redis->timer);
    }

    if (redis->retry.timer_set) {
        ngx_del_timer(&redis->retry);
    }

    if (redis->out) {
        ngx_free(redis->out);
        redis->out = NULL;
        redis->out_size = 0;
    }
}


void
ngx_http_apikey_redis_read_handler(ngx_event_t *rev)
{
    ssize_t                   n;
    ngx_connection_t         *c;
    ngx_http_apikey_redis_t  *redis;

    c = rev->data;
    redis = c->data;

    if (redis->state == NGX_HTTP_APIKEY_REDIS_CONNECTING) {
        ngx_http_apikey_redis_connected(redis);

        if (redis->connection != c) {
            return;
        }
    }

    for ( ;; ) {
        n = c->recv(c, redis->in, NGX_HTTP_APIKEY_REDIS_BUFFER);

        if (n == NGX_AGAIN) {
            break;
        }

        if (n == NGX_ERROR || n == 0) {
            ngx_http_apikey_redis_lost(redis, "it closed the connection");
            return;
        }

        redis->now = apikey_clock_boot();

        if (ngx_http_apikey_redis_parse(redis, n) != NGX_OK) {
            return;
        }
    }

    if (ngx_handle_read_event(rev, 0) != NGX_OK) {
        ngx_http_apikey_redis_lost(redis, "cannot watch the socket");
    }
}


void
ngx_http_apikey_redis_write_handler(ngx_event_t *wev)
{
    ngx_connection_t         *c;
    ngx_http_apikey_redis_t  *redis;

    c = wev->data;
    redis = c->data;

    if (redis->state == NGX_HTTP_APIKEY_REDIS_CONNECTING) {
        ngx_http_apikey_redis_connected(redis);
    }

    ngx_http_apikey_redis_flush(redis);
}


/*
 * Events posted before this one may send more: going to the end of the queue
 * once puts the commands of a whole turn into one write.
 */

static void
ngx_http_apikey_redis_posted_handler(ngx_event_t *ev)
{
    ngx_http_apikey_redis_t  *redis;

    redis = ev->data;

    if (!redis->deferred && !ngx_queue_empty(&ngx_posted_events)) {
        redis->deferred = 1;
        ngx_post_event(ev, &ngx_posted_events);
        return;
    }

    redis->deferred = 0;

    ngx_http_apikey_redis_flush(redis);
}


static void
ngx_http_apikey_redis_timer_handler(ngx_event_t *ev)
{
    ngx_uint_t                     i, tail;
    ngx_msec_t                     now, next, since, silence;
    ngx_http_apikey_redis_t       *redis;
    ngx_http_apikey_redis_call_t  *call;
    ngx_http_apikey_redis_slot_t  *slot;

    redis = ev->data;

    if (redis->head == redis->tail) {
        return;
    }

    now = ngx_current_msec;
    silence = redis->conf->timeout * 2;
    tail = redis->tail;

    /* a peer that answers nothing for two deadlines will not answer */

    slot = ngx_http_apikey_redis_slot(redis, redis->head);
    since = slot->sent;

    if ((ngx_msec_int_t) (redis->progress - since) > 0) {
        since = redis->progress;
    }

    next = since + silence;

    for (i = redis->head; i != tail; i++) {
        slot = ngx_http_apikey_redis_slot(redis, i);
        call = slot->call;

        if (call == NULL) {
            continue;
        }

        if ((ngx_msec_int_t) (call->deadline - now) > 0) {
            if ((ngx_msec_int_t) (call->deadline - next) < 0) {
                next = call->deadline;
            }

            continue;
        }

        slot->call = NULL;
        call->waiting = 0;
        redis->live--;

        call->handler(call, NULL);
    }

    if (now - since >= silence) {
        ngx_http_apikey_redis_lost(redis, "it does not answer");
        return;
    }

    ngx_http_apikey_redis_set_timer(redis, next);
}


/*
 * One timer for all commands, not cancelable while anybody waits: nothing
 * else keeps a worker from leaving.  It is left to run out rather than moved.
 */

static void
ngx_http_apikey_redis_set_timer(ngx_http_apikey_redis_t *redis,
    ngx_msec_t deadline)
{
    ngx_msec_int_t  rest;

    redis->timer.cancelable = (redis->live == 0);

    if (redis->timer.timer_set) {

        if ((ngx_msec_int_t) (deadline - redis->timer.timer.key) >= 0) {
            return;
        }

        ngx_del_timer(&redis->timer);
    }

    rest = (ngx_msec_int_t) (deadline - ngx_current_msec);

    ngx_add_timer(&redis->timer, (ngx_msec_t) ngx_max(rest, 1));
}


/* What was read; NGX_ABORT: the connection is gone. */

static ngx_int_t
ngx_http_apikey_redis_parse(ngx_http_apikey_redis_t *redis, size_t size)
{
    ngx_str_t           in;
    ngx_int_t           rc, fault;
    ngx_connection_t   *c;
    struct redisReply  *reply;

    c = redis->connection;

    in.data = redis->in;
    in.len = size;

    for ( ;; ) {
        rc = ngx_http_apikey_redis_next(redis->reader, &in, &reply);

        if (rc == NGX_AGAIN) {
            return NGX_OK;
        }

        if (rc != NGX_OK) {
            ngx_http_apikey_redis_lost(redis, "it does not speak RESP");
            return NGX_ABORT;
        }

        fault = NGX_OK;

        if (redis->state == NGX_HTTP_APIKEY_REDIS_HANDSHAKE) {
            ngx_http_apikey_redis_handshake_reply(redis, reply);

        } else if (redis->head == redis->tail) {
            ngx_http_apikey_redis_lost(redis, "it answers unasked");

        } else {
            fault = ngx_http_apikey_redis_fault(reply);
            ngx_http_apikey_redis_dispatch(redis, reply);
        }

        ngx_http_apikey_redis_reply_free(reply);

        if (redis->connection != c) {
            return NGX_ABORT;
        }

        if (fault != NGX_OK) {
            ngx_http_apikey_redis_lost(redis, "it does not take writes");
            return NGX_ABORT;
        }
    }
}


static void
ngx_http_apikey_redis_dispatch(ngx_http_apikey_redis_t *redis,
    struct redisReply *reply)
{
    ngx_http_apikey_redis_call_t  *call;
    ngx_http_apikey_redis_slot_t  *slot;

    slot = ngx_http_apikey_redis_slot(redis, redis->head);
    call = slot->call;

    redis->head++;
    redis->progress = ngx_current_msec;
    redis->backoff = NGX_HTTP_APIKEY_REDIS_BACKOFF;

    apikey_histogram_add(&redis->stats->redis,
                         ngx_max(redis->now - slot->start, 0));

    if (call == NULL) {
        return;
    }

    slot->call = NULL;
    call->waiting = 0;

    redis->live--;
    redis->timer.cancelable = (redis->live == 0);

    call->handler(call, reply);
}


/* A server that is no primary, or not yet: another connection may find it. */

static ngx_int_t
ngx_http_apikey_redis_fault(struct redisReply *reply)
{
    ngx_str_t    text;
    ngx_uint_t   i;

    static ngx_str_t  faults[] = {
        ngx_string("READONLY"),
        ngx_string("LOADING"),
        ngx_string("MASTERDOWN"),
        ngx_string("NOAUTH")
    };

    if (ngx_http_apikey_redis_reply(reply, &text)
        != NGX_HTTP_APIKEY_REDIS_ERROR)
    {
        return NGX_OK;
    }

    for (i = 0; i < sizeof(faults) / sizeof(ngx_str_t); i++) {

        if (text.len >= faults[i].len
            && ngx_strncmp(text.data, faults[i].data, faults[i].len) == 0)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_apikey_redis_append(ngx_http_apikey_redis_t *redis, ngx_uint_t argc,
    ngx_str_t *argv)
{
    size_t   need, size;
    u_char  *p;

    need = ngx_http_apikey_redis_format_size(argc, argv);

    if (redis->out_size - redis->out_last < need) {

        size = ngx_max(redis->out_size, NGX_HTTP_APIKEY_REDIS_BUFFER);

        while (size - redis->out_last < need) {
            size *= 2;
        }

        if (size > NGX_HTTP_APIKEY_REDIS_OUT_MAX) {
            return NGX_ERROR;
        }

        p = ngx_alloc(size, redis->log);
        if (p == NULL) {
            return NGX_ERROR;
        }

        if (redis->out) {
            ngx_memcpy(p, redis->out, redis->out_last);
            ngx_free(redis->out);
        }

        redis->out = p;
        redis->out_size = size;
    }

    p = ngx_http_apikey_redis_format(redis->out + redis->out_last, argc, argv);

    redis->out_last = p - redis->out;

    ngx_post_event(&redis->write, &ngx_posted_events);

    return NGX_OK;
}
