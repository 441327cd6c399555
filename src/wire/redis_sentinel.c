
/*
 * Where Sentinels say that the primary is.
 *
 * One link goes to any Sentinel that answers and asks it for the primary by
 * its name: when the other link, to the primary, wants to connect, again when
 * it has, for one that hung may have been replaced meanwhile and not know it,
 * and once a second, for the same may happen to one that was cut off.
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
    ngx_http_apikey_name_t         name;         /* what was told */
    ngx_http_apikey_resolve_t      resolve;      /* ... if that is a name */
    ngx_uint_t                     field;        /* of an answer */
    unsigned                       confirm:1;    /* the link waits for that */
    unsigned                       fresh:1;      /* it was asked since */
};


static void ngx_http_apikey_sentinel_ask(ngx_http_apikey_redis_t *redis);
static void ngx_http_apikey_sentinel_ask_handler(ngx_event_t *ev);
static void ngx_http_apikey_sentinel_handler(
    ngx_http_apikey_redis_call_t *call, struct redisReply *reply);
static void ngx_http_apikey_sentinel_told(ngx_http_apikey_redis_t *redis,
    ngx_str_t *port);
static ngx_int_t ngx_http_apikey_sentinel_name(
    ngx_http_apikey_redis_t *redis);
static void ngx_http_apikey_sentinel_resolved(void *data);
static void ngx_http_apikey_sentinel_at(ngx_http_apikey_redis_t *redis);
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

    if (ngx_http_apikey_resolve_create(redis, &s->resolve, 1,
                                       ngx_http_apikey_sentinel_resolved,
                                       redis)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

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


void
ngx_http_apikey_sentinel_confirm(ngx_http_apikey_link_t *link)
{
    link->redis->sentinel->confirm = 1;
    link->redis->sentinel->fresh = 0;

    ngx_http_apikey_sentinel_ask(link->redis);
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
    s->fresh = s->confirm;
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
            *ngx_cpymem(s->name.host, text.data, text.len) = '\0';
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
    ngx_int_t                    n, rc;
    ngx_str_t                    host;
    ngx_http_apikey_sentinel_t  *s;

    s = redis->sentinel;

    host.data = s->name.host;
    host.len = ngx_strlen(s->name.host);

    n = ngx_atoi(port->data, port->len);
    rc = NGX_ERROR;

    if (n > 0 && n <= 65535) {
        s->name.port = n;
        rc = ngx_http_apikey_redis_target(&s->target, &host, n);
    }

    if (rc == NGX_DECLINED) {
        rc = ngx_http_apikey_sentinel_name(redis);
    }

    if (rc == NGX_ERROR) {
        ngx_http_apikey_link_lost(redis->control, "it says no address, but ",
                                  &host);
        return;
    }

    ngx_http_apikey_link_good(redis->control);

    if (rc == NGX_OK) {
        ngx_http_apikey_sentinel_at(redis);
    }
}


/* Known from a moment ago, or looked up: then it goes on later. */

static ngx_int_t
ngx_http_apikey_sentinel_name(ngx_http_apikey_redis_t *redis)
{
    ngx_http_apikey_name_t      *name;
    ngx_http_apikey_sentinel_t  *s;

    s = redis->sentinel;
    name = s->resolve.names;

    if (s->resolve.task->event.active) {
        return NGX_AGAIN;
    }

    if (ngx_strcmp(name->host, s->name.host) != 0
        || name->port != s->name.port)
    {
        *name = s->name;
        name->naddrs = 0;
    }

    if (ngx_http_apikey_resolve_start(&s->resolve) == NGX_OK) {
        return NGX_AGAIN;
    }

    if (name->naddrs) {
        ngx_http_apikey_sentinel_resolved(redis);
    }

    return NGX_AGAIN;
}


static void
ngx_http_apikey_sentinel_resolved(void *data)
{
    ngx_http_apikey_redis_t *redis = data;

    u_char                       text[NGX_SOCKADDR_STRLEN];
    ngx_str_t                    address;
    ngx_http_apikey_name_t      *name;
    ngx_http_apikey_target_t    *target;
    ngx_http_apikey_sentinel_t  *s;

    s = redis->sentinel;
    name = s->resolve.names;
    target = &s->target;

    /* it may have been told another one meanwhile */

    if (redis->link == NULL || name->naddrs == 0
        || ngx_strcmp(name->host, s->name.host) != 0
        || name->port != s->name.port)
    {
        return;
    }

    address.data = text;
    address.len = ngx_sock_ntop(&name->addrs[0].sockaddr, name->socklen[0],
                                text, NGX_SOCKADDR_STRLEN, 0);

    if (ngx_http_apikey_redis_target(target, &address, name->port) == NGX_OK) {

        /* its certificate has the name */

        if (ngx_strlen(name->host) < NGX_SOCKADDR_STRLEN) {
            target->host.len = ngx_cpystrn(target->address, name->host,
                                           NGX_SOCKADDR_STRLEN)
                               - target->address;
        }

        ngx_http_apikey_sentinel_at(redis);
    }
}


static void
ngx_http_apikey_sentinel_at(ngx_http_apikey_redis_t *redis)
{
    ngx_http_apikey_link_t      *link;
    ngx_http_apikey_sentinel_t  *s;

    s = redis->sentinel;
    link = redis->link;

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

        ngx_http_apikey_redis_retarget(&link->target, &s->target);

        ngx_http_apikey_link_ssl_forget(link);
    }

    if (link->state == NGX_HTTP_APIKEY_LINK_LOCATING) {

        if (ngx_http_apikey_link_open(link) != NGX_OK) {
            ngx_http_apikey_link_lost(link, "cannot connect", NULL);
        }

        return;
    }

    if (!s->confirm) {
        return;
    }

    if (!s->fresh) {
        ngx_http_apikey_sentinel_ask(redis);
        return;
    }

    s->confirm = 0;

    if (link->state == NGX_HTTP_APIKEY_LINK_HANDSHAKE
        && link->step == link->nsteps)
    {
        ngx_http_apikey_link_ready(link);
    }
}
