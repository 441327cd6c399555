
/*
 * The store: which link has a command, and what its user hears of it.
 *
 * The struct and its read buffer are the pool's; links are malloc'ed, close()
 * frees them.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "wire/redis_private.h"


static ngx_int_t ngx_http_apikey_redis_single(ngx_http_apikey_redis_t *redis);
static ngx_int_t ngx_http_apikey_redis_locate(ngx_http_apikey_link_t *link);
static void ngx_http_apikey_redis_link_state(ngx_http_apikey_link_t *link,
    ngx_uint_t up);
static ngx_str_t *ngx_http_apikey_redis_key(ngx_uint_t argc, ngx_str_t *argv);


ngx_http_apikey_redis_t *
ngx_http_apikey_redis_create(ngx_pool_t *pool,
    ngx_http_apikey_redis_conf_t *conf, apikey_stats_t *stats, ngx_log_t *log)
{
    ngx_int_t                 rc;
    ngx_http_apikey_redis_t  *redis;

    redis = ngx_pcalloc(pool, sizeof(ngx_http_apikey_redis_t));
    if (redis == NULL) {
        return NULL;
    }

    redis->in = ngx_pnalloc(pool, NGX_HTTP_APIKEY_LINK_BUFFER);
    if (redis->in == NULL) {
        return NULL;
    }

    redis->conf = conf;
    redis->pool = pool;
    redis->stats = stats;
    redis->log = log;

    if (ngx_http_apikey_redis_servers(redis) != NGX_OK) {
        return NULL;
    }

    ngx_queue_init(&redis->waiting);

    redis->later.handler = ngx_http_apikey_redirect_timer_handler;
    redis->later.data = redis;
    redis->later.log = log;

    switch (conf->topology) {

    case NGX_HTTP_APIKEY_REDIS_CLUSTER:
        rc = ngx_http_apikey_cluster_create(redis);
        break;

    case NGX_HTTP_APIKEY_REDIS_SENTINEL:
        rc = ngx_http_apikey_sentinel_create(redis);
        break;

    default: /* NGX_HTTP_APIKEY_REDIS_SERVERS */
        rc = ngx_http_apikey_redis_single(redis);
    }

    return rc == NGX_OK ? redis : NULL;
}


static ngx_int_t
ngx_http_apikey_redis_single(ngx_http_apikey_redis_t *redis)
{
    ngx_http_apikey_link_t  *link;

    link = ngx_http_apikey_link_create(redis, NGX_HTTP_APIKEY_LINK_SLOTS);
    if (link == NULL) {
        return NGX_ERROR;
    }

    link->locate = ngx_http_apikey_redis_locate;
    link->state_handler = ngx_http_apikey_redis_link_state;

    redis->link = link;

    ngx_http_apikey_link_connect(link);

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_redis_locate(ngx_http_apikey_link_t *link)
{
    return ngx_http_apikey_redis_server(link->redis, link->server,
                                        &link->target);
}


static void
ngx_http_apikey_redis_link_state(ngx_http_apikey_link_t *link, ngx_uint_t up)
{
    ngx_http_apikey_redis_state(link->redis, up);
}


void
ngx_http_apikey_redis_state(ngx_http_apikey_redis_t *redis, ngx_uint_t up)
{
    if (redis->state_handler) {
        redis->state_handler(redis->state_data, up);
    }
}


ngx_int_t
ngx_http_apikey_redis_server(ngx_http_apikey_redis_t *redis, ngx_uint_t n,
    ngx_http_apikey_target_t *target)
{
    ngx_uint_t                     i, total;
    ngx_http_apikey_name_t        *name;
    ngx_http_apikey_redis_conf_t  *conf;

    conf = redis->conf;
    total = 0;

    for (i = 0; i < conf->nservers; i++) {
        total += redis->servers[i].naddrs;
    }

    if (total == 0) {
        return NGX_ERROR;
    }

    n %= total;

    for (i = 0; n >= redis->servers[i].naddrs; i++) {
        n -= redis->servers[i].naddrs;
    }

    name = &redis->servers[i];

    target->sockaddr = name->addrs[n];
    target->socklen = name->socklen[n];
    target->name = conf->servers[i].name;
    target->host = conf->servers[i].host;

    return NGX_OK;
}


ngx_int_t
ngx_http_apikey_redis_target(ngx_http_apikey_target_t *target, ngx_str_t *host,
    ngx_uint_t port)
{
    in_addr_t             addr;
    struct sockaddr_in   *sin;
#if (NGX_HAVE_INET6)
    struct sockaddr_in6  *sin6;
#endif

    if (host->len >= NGX_SOCKADDR_STRLEN - (sizeof("[]:65535") - 1)) {
        return NGX_ERROR;
    }

    ngx_memzero(&target->sockaddr, sizeof(ngx_sockaddr_t));

    addr = ngx_inet_addr(host->data, host->len);

    if (addr != INADDR_NONE) {
        sin = &target->sockaddr.sockaddr_in;
        sin->sin_family = AF_INET;
        sin->sin_addr.s_addr = addr;
        target->socklen = sizeof(struct sockaddr_in);

#if (NGX_HAVE_INET6)
    } else {
        sin6 = &target->sockaddr.sockaddr_in6;

        if (ngx_inet6_addr(host->data, host->len, sin6->sin6_addr.s6_addr)
            != NGX_OK)
        {
            return NGX_DECLINED;
        }

        sin6->sin6_family = AF_INET6;
        target->socklen = sizeof(struct sockaddr_in6);
    }
#else
    } else {
        return NGX_DECLINED;
    }
#endif

    ngx_inet_set_port(&target->sockaddr.sockaddr, (in_port_t) port);

    target->name.data = target->text;
    target->name.len = ngx_sprintf(target->text, ngx_strlchr(host->data,
                                       host->data + host->len, ':')
                                   ? "[%V]:%ui" : "%V:%ui", host, port)
                       - target->text;

    target->host.data = target->address;
    target->host.len = host->len;
    *ngx_cpymem(target->address, host->data, host->len) = '\0';

    return NGX_OK;
}


void
ngx_http_apikey_redis_retarget(ngx_http_apikey_target_t *to,
    ngx_http_apikey_target_t *from)
{
    *to = *from;

    if (from->name.data == from->text) {
        to->name.data = to->text;
    }

    if (from->host.data == from->address) {
        to->host.data = to->address;
    }
}


void
ngx_http_apikey_redis_set_state_handler(ngx_http_apikey_redis_t *redis,
    void (*handler)(void *data, ngx_uint_t up), void *data)
{
    redis->state_handler = handler;
    redis->state_data = data;
}


ngx_int_t
ngx_http_apikey_redis_script(ngx_http_apikey_redis_t *redis, ngx_str_t *text)
{
    if (redis->nscripts == NGX_HTTP_APIKEY_REDIS_SCRIPTS) {
        return NGX_ERROR;
    }

    redis->scripts[redis->nscripts++] = text;

    return NGX_OK;
}


void
ngx_http_apikey_redis_known(ngx_http_apikey_redis_t *redis,
    ngx_uint_t known)
{
    redis->known = known;
}


ngx_uint_t
ngx_http_apikey_redis_ready(ngx_http_apikey_redis_t *redis)
{
    return redis->cluster ? ngx_http_apikey_cluster_ready(redis)
                          : redis->link->state == NGX_HTTP_APIKEY_LINK_READY;
}


ngx_uint_t
ngx_http_apikey_redis_connecting(ngx_http_apikey_redis_t *redis)
{
    if (redis->cluster) {
        return ngx_http_apikey_cluster_connecting(redis);
    }

    return redis->link->state != NGX_HTTP_APIKEY_LINK_READY
           && redis->link->state != NGX_HTTP_APIKEY_LINK_DOWN;
}


ngx_int_t
ngx_http_apikey_redis_epoch(ngx_http_apikey_redis_t *redis,
    ngx_http_apikey_redis_call_t *call, ngx_str_t *key,
    ngx_http_apikey_redis_epoch_t *epoch)
{
    ngx_http_apikey_link_t  *link;

    link = redis->again == call ? call->link
           : redis->cluster ? ngx_http_apikey_cluster_link(redis, key)
           : redis->link;

    if (link == NULL) {
        return NGX_ERROR;
    }

    /*
     * A call to a primary of a Cluster that is being connected waits, and is
     * made anew then: what it carries now is never sent.
     */

    if (link->state != NGX_HTTP_APIKEY_LINK_READY && redis->cluster == NULL) {
        return NGX_ERROR;
    }

    *epoch = link->epoch;

    if (redis->cluster == NULL || link->tag >= 0) {
        epoch->marker.data = link->marker;
        epoch->marker.len = link->nmarker;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_apikey_redis_send(ngx_http_apikey_redis_t *redis,
    ngx_http_apikey_redis_call_t *call, ngx_uint_t argc, ngx_str_t *argv)
{
    if (redis->cluster) {
        return ngx_http_apikey_redirect_send(redis, call,
                                      ngx_http_apikey_redis_key(argc, argv),
                                      argc, argv);
    }

    call->again = 0;

    return ngx_http_apikey_link_send(redis->link, call, argc, argv);
}


/* The first key of a command; NULL: it has none. */

static ngx_str_t *
ngx_http_apikey_redis_key(ngx_uint_t argc, ngx_str_t *argv)
{
    if (argv[0].len >= 4 && ngx_strncmp(argv[0].data, "EVAL", 4) == 0) {
        return (argc > 3 && argv[2].data[0] != '0') ? &argv[3] : NULL;
    }

    return argc > 1 ? &argv[1] : NULL;
}


void
ngx_http_apikey_redis_abandon(ngx_http_apikey_redis_call_t *call)
{
    if (!call->waiting) {
        return;
    }

    call->waiting = 0;

    if (call->queued) {
        ngx_http_apikey_redirect_leave(call);
        return;
    }

    ngx_http_apikey_link_abandon(call);
}


void
ngx_http_apikey_redis_close(ngx_http_apikey_redis_t *redis)
{
    redis->state_handler = NULL;

    if (redis->cluster) {
        ngx_http_apikey_cluster_close(redis);
    }

    if (redis->sentinel) {
        ngx_http_apikey_sentinel_close(redis);
    }

    if (redis->control) {
        ngx_http_apikey_link_destroy(redis->control);
        redis->control = NULL;
    }

    if (redis->link) {
        ngx_http_apikey_link_destroy(redis->link);
        redis->link = NULL;
    }

    if (redis->later.timer_set) {
        ngx_del_timer(&redis->later);
    }
}
