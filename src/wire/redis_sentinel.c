
/*
 * Where Sentinels say that the primary is.
 *
 * One link goes to any Sentinel that answers and asks it for the primary by
 * its name: when the other link, to the primary, wants to connect, and once a
 * second, for an old primary that was cut off does not know that it is one.
 * What a Sentinel says is checked by the other link: a replica is refused.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "wire/redis_private.h"


#define NGX_HTTP_APIKEY_SENTINEL_ASK    1000     /* ms */
#define NGX_HTTP_APIKEY_SENTINEL_SLOTS  16


struct ngx_http_apikey_sentinel_s {
    ngx_http_apikey_redis_call_t   call;
    ngx_event_t                    ask;          /* once a second */
    ngx_http_apikey_target_t       target;
    u_char                         host[NGX_HTTP_APIKEY_REDIS_HOST];
    size_t                         host_len;
    ngx_uint_t                     field;        /* of an answer */
};


static void ngx_http_apikey_sentinel_ask(ngx_http_apikey_redis_t *redis);
static void ngx_http_apikey_sentinel_ask_handler(ngx_event_t *ev);
static void ngx_http_apikey_sentinel_handler(
    ngx_http_apikey_redis_call_t *call, struct redisReply *reply);
static void ngx_http_apikey_sentinel_told(ngx_http_apikey_redis_t *redis,
    ngx_str_t *port);
static ngx_int_t ngx_http_apikey_sentinel_locate(ngx_http_apikey_link_t *link);
static void ngx_http_apikey_sentinel_state(ngx_http_apikey_link_t *link,
    ngx_uint_t up);
static ngx_int_t ngx_http_apikey_sentinel_master_locate(
    ngx_http_apikey_link_t *link);
static void ngx_http_apikey_sentinel_master_state(
    ngx_http_apikey_link_t *link, ngx_uint_t up);


ngx_int_t
ngx_http_apikey_sentinel_create(ngx_http_apikey_redis_t *redis)
{
    ngx_http_apikey_link_t      *control, *link;
    ngx_http_apikey_sentinel_t  *s;

    s = ngx_pcalloc(redis->pool, sizeof(ngx_http_apikey_sentinel_t));
    if (s == NULL) {
        return NGX_ERROR;
    }

    redis->sentinel = s;

    s->call.handler = ngx_http_apikey_sentinel_handler;
    s->call.data = redis;

    s->ask.handler = ngx_http_apikey_sentinel_ask_handler;
    s->ask.data = redis;
    s->ask.log = redis->log;
    s->ask.cancelable = 1;

    control = ngx_http_apikey_link_create(redis,
                                          NGX_HTTP_APIKEY_SENTINEL_SLOTS);
    if (control == NULL) {
        return NGX_ERROR;
    }

    redis->control = control;

    control->control = 1;
    control->locate = ngx_http_apikey_sentinel_locate;
    control->state_handler = ngx_http_apikey_sentinel_state;

    /* not all workers of all nodes at the first one */

    control->server = ngx_random();

    link = ngx_http_apikey_link_create(redis, NGX_HTTP_APIKEY_LINK_SLOTS);
    if (link == NULL) {
        return NGX_ERROR;
    }

    redis->link = link;

    link->locate = ngx_http_apikey_sentinel_master_locate;
    link->state_handler = ngx_http_apikey_sentinel_master_state;

    ngx_http_apikey_link_connect(control);
    ngx_http_apikey_link_connect(link);

    return NGX_OK;
}


void
ngx_http_apikey_sentinel_close(ngx_http_apikey_redis_t *redis)
{
    if (redis->sentinel->ask.timer_set) {
        ngx_del_timer(&redis->sentinel->ask);
    }
}


static ngx_int_t
ngx_http_apikey_sentinel_locate(ngx_http_apikey_link_t *link)
{
    return ngx_http_apikey_redis_server(link->redis, link->server,
                                        &link->target);
}


static void
ngx_http_apikey_sentinel_state(ngx_http_apikey_link_t *link, ngx_uint_t up)
{
    if (up) {
        ngx_http_apikey_sentinel_ask(link->redis);
    }
}


static ngx_int_t
ngx_http_apikey_sentinel_master_locate(ngx_http_apikey_link_t *link)
{
    ngx_http_apikey_sentinel_ask(link->redis);

    return NGX_AGAIN;
}


static void
ngx_http_apikey_sentinel_master_state(ngx_http_apikey_link_t *link,
    ngx_uint_t up)
{
    ngx_http_apikey_redis_state(link->redis, up);
}


/* If there is no Sentinel yet it is done when there is. */

static void
ngx_http_apikey_sentinel_ask(ngx_http_apikey_redis_t *redis)
{
    ngx_str_t                    argv[3];
    ngx_http_apikey_sentinel_t  *s;

    s = redis->sentinel;

    if (s->call.waiting
        || redis->control->state != NGX_HTTP_APIKEY_LINK_READY)
    {
        return;
    }

    ngx_str_set(&argv[0], "SENTINEL");
    ngx_str_set(&argv[1], "get-master-addr-by-name");
    argv[2] = redis->conf->master;

    s->field = 0;
    s->call.deadline = 0;

    (void) ngx_http_apikey_link_send(redis->control, &s->call, 3, argv);

    if (!s->ask.timer_set) {
        ngx_add_timer(&s->ask, NGX_HTTP_APIKEY_SENTINEL_ASK * 3 / 4
                               + ngx_random()
                                 % (NGX_HTTP_APIKEY_SENTINEL_ASK / 2));
    }
}


static void
ngx_http_apikey_sentinel_ask_handler(ngx_event_t *ev)
{
    ngx_http_apikey_sentinel_ask(ev->data);
}


/* An array of two: its head, the host, the port. */

static void
ngx_http_apikey_sentinel_handler(ngx_http_apikey_redis_call_t *call,
    struct redisReply *reply)
{
    ngx_http_apikey_redis_t *redis = call->data;

    ngx_str_t                     text;
    ngx_http_apikey_sentinel_t   *s;
    ngx_http_apikey_redis_kind_e  kind;

    s = redis->sentinel;

    if (reply == NULL) {
        return;
    }

    kind = ngx_http_apikey_redis_reply(reply, &text);

    switch (s->field++) {

    case 0:
        if (ngx_http_apikey_redis_elements(reply) == 2) {
            return;
        }

        break;

    case 1:
        if (kind == NGX_HTTP_APIKEY_REDIS_STRING
            && text.len < NGX_HTTP_APIKEY_REDIS_HOST)
        {
            ngx_memcpy(s->host, text.data, text.len);
            s->host_len = text.len;
            return;
        }

        break;

    case 2:
        if (kind == NGX_HTTP_APIKEY_REDIS_STRING) {
            ngx_http_apikey_sentinel_told(redis, &text);
            return;
        }

        break;
    }

    if (kind == NGX_HTTP_APIKEY_REDIS_ERROR) {
        ngx_http_apikey_link_lost(redis->control,
                                  "it does not say where the master is: ",
                                  &text);
        return;
    }

    ngx_http_apikey_link_lost(redis->control, "it does not know the master ",
                              &redis->conf->master);
}


static void
ngx_http_apikey_sentinel_told(ngx_http_apikey_redis_t *redis, ngx_str_t *port)
{
    ngx_int_t                    n;
    ngx_str_t                    host;
    ngx_http_apikey_link_t      *link;
    ngx_http_apikey_sentinel_t  *s;

    s = redis->sentinel;
    link = redis->link;

    host.data = s->host;
    host.len = s->host_len;

    n = ngx_atoi(port->data, port->len);

    if (n < 1 || n > 65535
        || ngx_http_apikey_redis_target(&s->target, &host, n) != NGX_OK)
    {
        ngx_http_apikey_link_lost(redis->control, "it says no address, but ",
                                  &host);
        return;
    }

    if (link->target.socklen == 0
        || ngx_cmp_sockaddr(&s->target.sockaddr.sockaddr, s->target.socklen,
                            &link->target.sockaddr.sockaddr,
                            link->target.socklen, 1)
           != NGX_OK)
    {
        if (link->target.socklen) {
            ngx_log_error(NGX_LOG_NOTICE, redis->log, 0,
                          "apikey_redis: the master \"%V\" is at %V now",
                          &redis->conf->master, &s->target.name);
        }

        /* one that is ready, or on its way, asks again when it is lost */

        if (link->state > NGX_HTTP_APIKEY_LINK_LOCATING) {
            ngx_http_apikey_link_lost(link, "it is not the master now", NULL);
            return;
        }

        (void) ngx_http_apikey_redis_target(&link->target, &host, n);

        ngx_http_apikey_link_ssl_forget(link);
    }

    if (link->state == NGX_HTTP_APIKEY_LINK_LOCATING
        && ngx_http_apikey_link_open(link) != NGX_OK)
    {
        ngx_http_apikey_link_lost(link, "cannot connect", NULL);
    }
}
