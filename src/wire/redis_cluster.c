
/*
 * A Cluster: one link to each primary, and when the map is read again.
 *
 * Each worker has a map of its own.  It is read over a link of its own to any
 * node: at start, every ten seconds, and soon after a sign that it is old.
 * MOVED corrects its slot at once, so nobody hurries: a refresh waits a
 * random while, and workers ask different nodes.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/slot.h"
#include "wire/redis_private.h"


#define NGX_HTTP_APIKEY_CLUSTER_SLOTS    2048    /* of a link */
#define NGX_HTTP_APIKEY_CLUSTER_CONTROL  4
#define NGX_HTTP_APIKEY_CLUSTER_NODES    1000
#define NGX_HTTP_APIKEY_CLUSTER_REFRESH  10000   /* ms */
#define NGX_HTTP_APIKEY_CLUSTER_SOON     100     /* ms, and up to twice */


static ngx_int_t ngx_http_apikey_cluster_locate(ngx_http_apikey_link_t *link);
static void ngx_http_apikey_cluster_state(ngx_http_apikey_link_t *link,
    ngx_uint_t up);
static ngx_int_t ngx_http_apikey_cluster_target(
    ngx_http_apikey_target_t *target, ngx_http_apikey_link_t *from,
    ngx_str_t *host, ngx_uint_t port);
static ngx_http_apikey_link_t *ngx_http_apikey_cluster_add(
    ngx_http_apikey_redis_t *redis, ngx_http_apikey_target_t *target);
static ngx_int_t ngx_http_apikey_cluster_node_locate(
    ngx_http_apikey_link_t *link);
static void ngx_http_apikey_cluster_node_state(ngx_http_apikey_link_t *link,
    ngx_uint_t up);
static void ngx_http_apikey_cluster_refresh_handler(ngx_event_t *ev);


ngx_int_t
ngx_http_apikey_cluster_create(ngx_http_apikey_redis_t *redis)
{
    ngx_http_apikey_link_t     *control;
    ngx_http_apikey_cluster_t  *cluster;

    cluster = ngx_pcalloc(redis->pool, sizeof(ngx_http_apikey_cluster_t));
    if (cluster == NULL) {
        return NGX_ERROR;
    }

    redis->cluster = cluster;

    ngx_queue_init(&cluster->links);

    cluster->call.handler = ngx_http_apikey_map_handler;
    cluster->call.data = redis;

    cluster->refresh.handler = ngx_http_apikey_cluster_refresh_handler;
    cluster->refresh.data = redis;
    cluster->refresh.log = redis->log;
    cluster->refresh.cancelable = 1;

    control = ngx_http_apikey_link_create(redis,
                                          NGX_HTTP_APIKEY_CLUSTER_CONTROL);
    if (control == NULL) {
        return NGX_ERROR;
    }

    redis->control = control;

    control->control = 1;
    control->locate = ngx_http_apikey_cluster_locate;
    control->state_handler = ngx_http_apikey_cluster_state;
    control->server = ngx_random();

    ngx_http_apikey_link_connect(control);

    return NGX_OK;
}


void
ngx_http_apikey_cluster_close(ngx_http_apikey_redis_t *redis)
{
    ngx_queue_t                *q;
    ngx_http_apikey_link_t     *link;
    ngx_http_apikey_cluster_t  *cluster;

    cluster = redis->cluster;

    while (!ngx_queue_empty(&cluster->links)) {
        q = ngx_queue_head(&cluster->links);
        ngx_queue_remove(q);

        link = ngx_queue_data(q, ngx_http_apikey_link_t, queue);
        ngx_http_apikey_link_destroy(link);
    }

    if (cluster->refresh.timer_set) {
        ngx_del_timer(&cluster->refresh);
    }
}


ngx_uint_t
ngx_http_apikey_cluster_ready(ngx_http_apikey_redis_t *redis)
{
    return ngx_http_apikey_cluster_link(redis, NULL) != NULL;
}


ngx_uint_t
ngx_http_apikey_cluster_connecting(ngx_http_apikey_redis_t *redis)
{
    ngx_queue_t                *q;
    ngx_http_apikey_link_t     *link;
    ngx_http_apikey_cluster_t  *cluster;

    cluster = redis->cluster;

    if (!cluster->loaded) {
        return redis->control->hope;
    }

    for (q = ngx_queue_head(&cluster->links);
         q != ngx_queue_sentinel(&cluster->links);
         q = ngx_queue_next(q))
    {
        link = ngx_queue_data(q, ngx_http_apikey_link_t, queue);

        if (link->owner && link->hope) {
            return 1;
        }
    }

    return 0;
}


ngx_http_apikey_link_t *
ngx_http_apikey_cluster_link(ngx_http_apikey_redis_t *redis, ngx_str_t *key)
{
    ngx_queue_t                *q;
    ngx_http_apikey_link_t     *link;
    ngx_http_apikey_cluster_t  *cluster;

    cluster = redis->cluster;

    if (key) {
        return cluster->map[apikey_slot((char *) key->data, key->len)];
    }

    for (q = ngx_queue_head(&cluster->links);
         q != ngx_queue_sentinel(&cluster->links);
         q = ngx_queue_next(q))
    {
        link = ngx_queue_data(q, ngx_http_apikey_link_t, queue);

        if (link->owner && link->state == NGX_HTTP_APIKEY_LINK_READY) {
            return link;
        }
    }

    return NULL;
}


ngx_http_apikey_link_t *
ngx_http_apikey_cluster_find(ngx_http_apikey_redis_t *redis,
    ngx_http_apikey_link_t *from, ngx_str_t *host, ngx_uint_t port)
{
    ngx_int_t                   rc;
    ngx_uint_t                  same;
    ngx_queue_t                *q;
    ngx_http_apikey_link_t     *link;
    ngx_http_apikey_target_t    target;
    ngx_http_apikey_cluster_t  *cluster;

    cluster = redis->cluster;

    rc = ngx_http_apikey_cluster_target(&target, from, host, port);

    for (q = ngx_queue_head(&cluster->links);
         q != ngx_queue_sentinel(&cluster->links);
         q = ngx_queue_next(q))
    {
        link = ngx_queue_data(q, ngx_http_apikey_link_t, queue);

        if (rc == NGX_OK) {
            same = (ngx_cmp_sockaddr(&target.sockaddr.sockaddr, target.socklen,
                                     &link->target.sockaddr.sockaddr,
                                     link->target.socklen, 1)
                    == NGX_OK);

        } else {

            /* a name, which the map has told with an address */

            same = (ngx_inet_get_port(&link->target.sockaddr.sockaddr) == port
                    && link->target.host.len == host->len
                    && ngx_strncmp(link->target.host.data, host->data,
                                   host->len) == 0);
        }

        if (same) {
            return link;
        }
    }

    return rc == NGX_OK ? ngx_http_apikey_cluster_add(redis, &target) : NULL;
}


/* NGX_OK; not: the host is a name */

static ngx_int_t
ngx_http_apikey_cluster_target(ngx_http_apikey_target_t *target,
    ngx_http_apikey_link_t *from, ngx_str_t *host, ngx_uint_t port)
{
    /* a node that does not know its own address leaves that to us */

    if (host->len == 0 || (host->len == 1 && host->data[0] == '?')) {
        ngx_http_apikey_redis_retarget(target, &from->target);
        ngx_inet_set_port(&target->sockaddr.sockaddr, (in_port_t) port);

        target->name.data = target->text;
        target->name.len = ngx_sock_ntop(&target->sockaddr.sockaddr,
                                         target->socklen, target->text,
                                         NGX_SOCKADDR_STRLEN, 1);
        return NGX_OK;
    }

    return ngx_http_apikey_redis_target(target, host, port);
}


static ngx_http_apikey_link_t *
ngx_http_apikey_cluster_add(ngx_http_apikey_redis_t *redis,
    ngx_http_apikey_target_t *target)
{
    ngx_http_apikey_link_t     *link;
    ngx_http_apikey_cluster_t  *cluster;

    cluster = redis->cluster;

    if (cluster->nlinks == NGX_HTTP_APIKEY_CLUSTER_NODES) {
        return NULL;
    }

    link = ngx_http_apikey_link_create(redis, NGX_HTTP_APIKEY_CLUSTER_SLOTS);
    if (link == NULL) {
        return NULL;
    }

    ngx_http_apikey_redis_retarget(&link->target, target);

    link->locate = ngx_http_apikey_cluster_node_locate;
    link->state_handler = ngx_http_apikey_cluster_node_state;

    ngx_queue_insert_tail(&cluster->links, &link->queue);
    cluster->nlinks++;

    return link;
}


static ngx_int_t
ngx_http_apikey_cluster_node_locate(ngx_http_apikey_link_t *link)
{
    return NGX_OK;
}


static void
ngx_http_apikey_cluster_node_state(ngx_http_apikey_link_t *link,
    ngx_uint_t up)
{
    ngx_http_apikey_redirect_state(link, up);

    if (!up) {
        ngx_http_apikey_cluster_refresh(link->redis);
    }

    ngx_http_apikey_map_tell(link->redis);
}


void
ngx_http_apikey_cluster_move(ngx_http_apikey_redis_t *redis, ngx_uint_t slot,
    ngx_http_apikey_link_t *link)
{
    redis->cluster->map[slot] = link;

    link->owner = 1;
}


/* The link for the map: to a node that is known to work, or of the URLs. */

static ngx_int_t
ngx_http_apikey_cluster_locate(ngx_http_apikey_link_t *link)
{
    ngx_uint_t                  n;
    ngx_queue_t                *q;
    ngx_http_apikey_link_t     *node;
    ngx_http_apikey_cluster_t  *cluster;

    cluster = link->redis->cluster;

    if (cluster->nlinks && link->server % 2) {
        n = (link->server / 2) % cluster->nlinks;

        for (q = ngx_queue_head(&cluster->links); n; n--) {
            q = ngx_queue_next(q);
        }

        node = ngx_queue_data(q, ngx_http_apikey_link_t, queue);
        ngx_http_apikey_redis_retarget(&link->target, &node->target);

        return NGX_OK;
    }

    return ngx_http_apikey_redis_server(link->redis, link->server / 2,
                                        &link->target);
}


static void
ngx_http_apikey_cluster_state(ngx_http_apikey_link_t *link, ngx_uint_t up)
{
    ngx_http_apikey_redis_t    *redis;
    ngx_http_apikey_cluster_t  *cluster;

    redis = link->redis;
    cluster = redis->cluster;

    if (up) {
        ngx_http_apikey_cluster_refresh_handler(&cluster->refresh);
        return;
    }

    if (!cluster->loaded) {
        ngx_http_apikey_map_tell(redis);
    }
}


void
ngx_http_apikey_cluster_refresh(ngx_http_apikey_redis_t *redis)
{
    ngx_msec_t                  pause;
    ngx_http_apikey_cluster_t  *cluster;

    cluster = redis->cluster;

    if (cluster->soon) {
        return;
    }

    cluster->soon = 1;

    pause = NGX_HTTP_APIKEY_CLUSTER_SOON;

    ngx_add_timer(&cluster->refresh, pause + ngx_random() % pause);
}


static void
ngx_http_apikey_cluster_refresh_handler(ngx_event_t *ev)
{
    ngx_str_t                   argv[2];
    ngx_msec_t                  pause;
    ngx_http_apikey_link_t     *control;
    ngx_http_apikey_redis_t    *redis;
    ngx_http_apikey_cluster_t  *cluster;

    redis = ev->data;
    cluster = redis->cluster;
    control = redis->control;

    cluster->soon = 0;

    if (!cluster->call.waiting
        && control->state == NGX_HTTP_APIKEY_LINK_READY)
    {
        ngx_str_set(&argv[0], "CLUSTER");
        ngx_str_set(&argv[1], "NODES");

        cluster->call.deadline = 0;

        (void) ngx_http_apikey_link_send(control, &cluster->call, 2, argv);
    }

    pause = NGX_HTTP_APIKEY_CLUSTER_REFRESH;

    ngx_add_timer(&cluster->refresh, pause * 3 / 4
                                     + ngx_random() % (pause / 2));
}
