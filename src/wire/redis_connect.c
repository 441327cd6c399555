
/*
 * Making and losing the connection: connect, AUTH, SELECT, PING, pauses.
 *
 * Ready means that Redis has answered PING: a port that only accepts, or a
 * server that is loading, is down.  What Redis says here is not logged, for
 * an unknown AUTH is answered with its arguments.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "wire/redis_private.h"


#define NGX_HTTP_APIKEY_REDIS_PAUSE     400          /* ms, the longest one */
#define NGX_HTTP_APIKEY_REDIS_STABLE    1000         /* ms */


static void ngx_http_apikey_redis_pause(ngx_http_apikey_redis_t *redis);
static ngx_int_t ngx_http_apikey_redis_open(ngx_http_apikey_redis_t *redis);
static ngx_int_t ngx_http_apikey_redis_test_connect(ngx_connection_t *c);
static ngx_int_t ngx_http_apikey_redis_handshake(
    ngx_http_apikey_redis_t *redis);


void
ngx_http_apikey_redis_connect(ngx_http_apikey_redis_t *redis)
{
    if (ngx_http_apikey_redis_open(redis) == NGX_OK) {

        /* this covers the handshake too */

        ngx_add_timer(&redis->retry, redis->conf->timeout * 2);
        return;
    }

    ngx_http_apikey_redis_disconnect(redis);
    ngx_http_apikey_redis_pause(redis);
}


static void
ngx_http_apikey_redis_pause(ngx_http_apikey_redis_t *redis)
{
    ngx_msec_t  pause;

    /* three to five quarters of it */

    pause = redis->backoff;
    pause = pause * 3 / 4 + (ngx_msec_t) ngx_random() % (pause / 2 + 1);

    redis->backoff = ngx_min(redis->backoff * 2, NGX_HTTP_APIKEY_REDIS_PAUSE);
    redis->addr = (redis->addr + 1) % redis->conf->naddrs;

    ngx_add_timer(&redis->retry, pause);
}


static ngx_int_t
ngx_http_apikey_redis_open(ngx_http_apikey_redis_t *redis)
{
    ngx_int_t               rc;
    ngx_addr_t             *addr;
    ngx_connection_t       *c;
    ngx_peer_connection_t  *peer;

    addr = &redis->conf->addrs[redis->addr];
    peer = &redis->peer;

    ngx_memzero(peer, sizeof(ngx_peer_connection_t));

    peer->sockaddr = addr->sockaddr;
    peer->socklen = addr->socklen;
    peer->name = &addr->name;
    peer->get = ngx_event_get_peer;
    peer->log = &redis->quiet;
    peer->log_error = NGX_ERROR_IGNORE_ECONNRESET;

    redis->reader = ngx_http_apikey_redis_reader_create();
    if (redis->reader == NULL) {
        return NGX_ERROR;
    }

    rc = ngx_event_connect_peer(peer);

    if (rc != NGX_OK && rc != NGX_AGAIN) {
        return NGX_ERROR;
    }

    c = peer->connection;

    redis->connection = c;

    c->data = redis;
    c->read->handler = ngx_http_apikey_redis_read_handler;
    c->write->handler = ngx_http_apikey_redis_write_handler;

    redis->state = NGX_HTTP_APIKEY_REDIS_CONNECTING;

    if (rc == NGX_OK) {
        return ngx_http_apikey_redis_handshake(redis);
    }

    return NGX_OK;
}


void
ngx_http_apikey_redis_connected(ngx_http_apikey_redis_t *redis)
{
    if (ngx_http_apikey_redis_test_connect(redis->connection) != NGX_OK
        || ngx_http_apikey_redis_handshake(redis) != NGX_OK)
    {
        ngx_http_apikey_redis_lost(redis, "cannot connect");
    }
}


static ngx_int_t
ngx_http_apikey_redis_test_connect(ngx_connection_t *c)
{
    int        err;
    socklen_t  len;

    err = 0;
    len = sizeof(int);

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, (void *) &err, &len) == -1) {
        err = ngx_socket_errno;
    }

    if (err) {
        ngx_set_socket_errno(err);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_redis_handshake(ngx_http_apikey_redis_t *redis)
{
    u_char                         number[NGX_INT_T_LEN];
    ngx_str_t                      argv[3];
    ngx_uint_t                     argc;
    ngx_connection_t              *c;
    ngx_http_apikey_redis_conf_t  *conf;

    c = redis->connection;
    conf = redis->conf;

    if (c->tcp_nodelay != NGX_TCP_NODELAY_DISABLED
        && ngx_tcp_nodelay(c) != NGX_OK)
    {
        return NGX_ERROR;
    }

    redis->state = NGX_HTTP_APIKEY_REDIS_HANDSHAKE;
    redis->step = 0;

    if (conf->password.len) {
        argc = 1;
        ngx_str_set(&argv[0], "AUTH");

        if (conf->user.len) {
            argv[argc++] = conf->user;
        }

        argv[argc++] = conf->password;

        if (ngx_http_apikey_redis_append(redis, argc, argv) != NGX_OK) {
            return NGX_ERROR;
        }

        redis->step++;
    }

    if (conf->database) {
        ngx_str_set(&argv[0], "SELECT");
        argv[1].data = number;
        argv[1].len = ngx_sprintf(number, "%ui", conf->database) - number;

        if (ngx_http_apikey_redis_append(redis, 2, argv) != NGX_OK) {
            return NGX_ERROR;
        }

        redis->step++;
    }

    ngx_str_set(&argv[0], "PING");

    redis->step++;

    return ngx_http_apikey_redis_append(redis, 1, argv);
}


void
ngx_http_apikey_redis_handshake_reply(ngx_http_apikey_redis_t *redis,
    struct redisReply *reply)
{
    ngx_str_t                     text;
    ngx_http_apikey_redis_kind_e  kind;

    kind = ngx_http_apikey_redis_reply(reply, &text);

    if (kind != NGX_HTTP_APIKEY_REDIS_STATUS) {
        ngx_http_apikey_redis_lost(redis,
                                   "it refuses the password or database, or "
                                   "is not ready to serve");
        return;
    }

    if (--redis->step) {
        return;
    }

    redis->state = NGX_HTTP_APIKEY_REDIS_READY;
    redis->ready_at = ngx_current_msec;
    redis->progress = ngx_current_msec;

    ngx_del_timer(&redis->retry);

    if (redis->complained) {
        redis->complained = 0;
        ngx_log_error(NGX_LOG_NOTICE, redis->log, 0,
                      "apikey_redis: connected to %V again",
                      &redis->conf->name);
    }

    if (redis->state_handler) {
        redis->state_handler(redis->state_data, 1);
    }
}


void
ngx_http_apikey_redis_retry_handler(ngx_event_t *ev)
{
    ngx_http_apikey_redis_t  *redis;

    redis = ev->data;

    if (redis->connection) {
        ngx_http_apikey_redis_lost(redis, "connecting takes too long");
        return;
    }

    ngx_http_apikey_redis_connect(redis);

    if (redis->connection == NULL && redis->state_handler) {
        redis->state_handler(redis->state_data, 0);
    }
}


void
ngx_http_apikey_redis_lost(ngx_http_apikey_redis_t *redis, char *why)
{
    ngx_uint_t                     tail, was_ready;
    ngx_err_t                      err;
    ngx_http_apikey_redis_call_t  *call;
    ngx_http_apikey_redis_slot_t  *slot;

    err = (redis->state == NGX_HTTP_APIKEY_REDIS_CONNECTING)
          ? ngx_socket_errno : 0;

    if (!redis->complained) {
        redis->complained = 1;
        ngx_log_error(NGX_LOG_ERR, redis->log, err,
                      "apikey_redis: no connection to %V: %s",
                      &redis->conf->name, why);
    }

    was_ready = (redis->state == NGX_HTTP_APIKEY_REDIS_READY
                 && ngx_current_msec - redis->ready_at
                    >= NGX_HTTP_APIKEY_REDIS_STABLE);

    ngx_http_apikey_redis_disconnect(redis);

    tail = redis->tail;

    while (redis->head != tail) {
        slot = ngx_http_apikey_redis_slot(redis, redis->head++);
        call = slot->call;

        if (call == NULL) {
            continue;
        }

        slot->call = NULL;
        call->waiting = 0;
        redis->live--;

        call->handler(call, NULL);
    }

    redis->timer.cancelable = 1;

    if (was_ready) {
        ngx_http_apikey_redis_connect(redis);

    } else {
        ngx_http_apikey_redis_pause(redis);
    }

    if (redis->state_handler) {
        redis->state_handler(redis->state_data, 0);
    }
}


void
ngx_http_apikey_redis_disconnect(ngx_http_apikey_redis_t *redis)
{
    redis->state = NGX_HTTP_APIKEY_REDIS_DOWN;
    redis->out_pos = 0;
    redis->out_last = 0;

    if (redis->retry.timer_set) {
        ngx_del_timer(&redis->retry);
    }

    if (redis->write.posted) {
        ngx_delete_posted_event(&redis->write);
    }

    redis->deferred = 0;

    if (redis->reader) {
        ngx_http_apikey_redis_reader_free(redis->reader);
        redis->reader = NULL;
    }

    if (redis->connection) {
        ngx_close_connection(redis->connection);
        redis->connection = NULL;
    }
}
