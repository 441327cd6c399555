
/*
 * Names of servers, looked up while nginx runs: a name may come to mean
 * another address, and a name server may have been down at the start.
 *
 * In a thread, for it may take long.  What the thread works on is
 * its own until the event that it is done; memory is the pool's.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include <netdb.h>

#include "wire/redis_private.h"
#include "wire/thread.h"


#define NGX_HTTP_APIKEY_RESOLVE_PAUSE  1000      /* ms */


static void ngx_http_apikey_redis_resolved(void *data);
static void ngx_http_apikey_resolve_thread(void *data, ngx_log_t *log);
static void ngx_http_apikey_resolve_name(ngx_http_apikey_name_t *name);
static void ngx_http_apikey_resolve_event_handler(ngx_event_t *ev);


/* At first as the master resolved them. */

ngx_int_t
ngx_http_apikey_redis_servers(ngx_http_apikey_redis_t *redis)
{
    ngx_uint_t                       i, k, n;
    ngx_http_apikey_name_t          *name;
    ngx_http_apikey_redis_conf_t    *conf;
    ngx_http_apikey_redis_server_t  *server;

    conf = redis->conf;

    redis->servers = ngx_pcalloc(redis->pool, conf->nservers
                                            * sizeof(ngx_http_apikey_name_t));

    if (redis->servers == NULL
        || ngx_http_apikey_resolve_create(redis, &redis->resolve,
                                          conf->nservers,
                                          ngx_http_apikey_redis_resolved,
                                          redis)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (i = 0; i < conf->nservers; i++) {
        server = &conf->servers[i];
        name = &redis->servers[i];

        /* numbers are what they are */

        if (server->port && server->host.len < NGX_HTTP_APIKEY_REDIS_HOST) {
            ngx_cpystrn(name->host, server->host.data, server->host.len + 1);
            name->port = server->port;
        }

        n = ngx_min(server->naddrs, NGX_HTTP_APIKEY_REDIS_ADDRS);

        for (k = 0; k < n; k++) {
            ngx_memcpy(&name->addrs[k], server->addrs[k].sockaddr,
                       server->addrs[k].socklen);
            name->socklen[k] = server->addrs[k].socklen;
        }

        name->naddrs = n;
    }

    return NGX_OK;
}


void
ngx_http_apikey_redis_resolve(ngx_http_apikey_redis_t *redis)
{
    ngx_uint_t                  i, names;
    ngx_http_apikey_resolve_t  *resolve;

    resolve = &redis->resolve;

    if (resolve->task == NULL || resolve->task->event.active) {
        return;
    }

    for (i = 0, names = 0; i < resolve->nnames; i++) {
        resolve->names[i] = redis->servers[i];
        names += (redis->servers[i].host[0] != '\0');
    }

    if (names) {
        (void) ngx_http_apikey_resolve_start(resolve);
    }
}


/* A name that nobody knows now is what it was. */

static void
ngx_http_apikey_redis_resolved(void *data)
{
    ngx_http_apikey_redis_t *redis = data;

    ngx_uint_t  i;

    for (i = 0; i < redis->resolve.nnames; i++) {

        if (redis->resolve.names[i].naddrs) {
            redis->servers[i] = redis->resolve.names[i];
        }
    }
}


ngx_int_t
ngx_http_apikey_resolve_create(ngx_http_apikey_redis_t *redis,
    ngx_http_apikey_resolve_t *resolve, ngx_uint_t nnames,
    void (*handler)(void *data), void *data)
{
    resolve->names = ngx_pcalloc(redis->pool,
                                 nnames * sizeof(ngx_http_apikey_name_t));
    resolve->task = ngx_thread_task_alloc(redis->pool, 0);

    if (resolve->names == NULL || resolve->task == NULL) {
        return NGX_ERROR;
    }

    resolve->nnames = nnames;
    resolve->last = ngx_current_msec - NGX_HTTP_APIKEY_RESOLVE_PAUSE;
    resolve->handler = handler;
    resolve->data = data;

    return NGX_OK;
}


ngx_int_t
ngx_http_apikey_resolve_start(ngx_http_apikey_resolve_t *resolve)
{
    if (resolve->task->event.active
        || ngx_current_msec - resolve->last < NGX_HTTP_APIKEY_RESOLVE_PAUSE)
    {
        return NGX_ERROR;
    }

    resolve->last = ngx_current_msec;

    resolve->task->ctx = resolve;
    resolve->task->handler = ngx_http_apikey_resolve_thread;
    resolve->task->event.handler = ngx_http_apikey_resolve_event_handler;
    resolve->task->event.data = resolve;

    return ngx_http_apikey_thread_post(resolve->task);
}


static void
ngx_http_apikey_resolve_thread(void *data, ngx_log_t *log)
{
    ngx_http_apikey_resolve_t *resolve = data;

    ngx_uint_t  i;

    for (i = 0; i < resolve->nnames; i++) {

        if (resolve->names[i].host[0]) {
            ngx_http_apikey_resolve_name(&resolve->names[i]);
        }
    }
}


static void
ngx_http_apikey_resolve_name(ngx_http_apikey_name_t *name)
{
    struct addrinfo  hints, *list, *ai;

    name->naddrs = 0;

    ngx_memzero(&hints, sizeof(struct addrinfo));
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_ADDRCONFIG;

    if (getaddrinfo((char *) name->host, NULL, &hints, &list) != 0) {
        return;
    }

    for (ai = list; ai && name->naddrs < NGX_HTTP_APIKEY_REDIS_ADDRS;
         ai = ai->ai_next)
    {
        if (ai->ai_family != AF_INET && ai->ai_family != AF_INET6) {
            continue;
        }

        ngx_memcpy(&name->addrs[name->naddrs], ai->ai_addr, ai->ai_addrlen);
        ngx_inet_set_port(&name->addrs[name->naddrs].sockaddr, name->port);
        name->socklen[name->naddrs++] = ai->ai_addrlen;
    }

    freeaddrinfo(list);
}


static void
ngx_http_apikey_resolve_event_handler(ngx_event_t *ev)
{
    ngx_http_apikey_resolve_t  *resolve;

    resolve = ev->data;

    resolve->handler(resolve->data);
}
