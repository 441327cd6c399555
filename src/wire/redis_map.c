
/*
 * The map of a Cluster: which link has a slot, as CLUSTER NODES says it.
 *
 * A link that has no slots and is not used any more is destroyed, here only:
 * no handler of it is running then.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/slot.h"
#include "wire/redis_private.h"


#define NGX_HTTP_APIKEY_MAP_IDLE  30000          /* ms */


static void ngx_http_apikey_map_read(ngx_http_apikey_redis_t *redis,
    ngx_str_t *text);
static ngx_uint_t ngx_http_apikey_map_node(ngx_http_apikey_redis_t *redis,
    apikey_slot_node_t *node);
static void ngx_http_apikey_map_name(ngx_http_apikey_link_t *link,
    apikey_slot_node_t *node);
static void ngx_http_apikey_map_owners(ngx_http_apikey_redis_t *redis);
static void ngx_http_apikey_map_tag(ngx_http_apikey_link_t *link,
    ngx_int_t slot);
static void ngx_http_apikey_map_clean(ngx_http_apikey_redis_t *redis);


void
ngx_http_apikey_map_handler(ngx_http_apikey_redis_call_t *call,
    struct redisReply *reply)
{
    ngx_http_apikey_redis_t *redis = call->data;

    ngx_str_t                     text;
    ngx_http_apikey_redis_kind_e  kind;

    if (reply == NULL) {
        return;
    }

    kind = ngx_http_apikey_redis_reply(reply, &text);

    if (kind != NGX_HTTP_APIKEY_REDIS_STRING) {
        ngx_http_apikey_link_lost(redis->control,
                                  "it does not show the cluster: ", &text);
        return;
    }

    ngx_http_apikey_map_read(redis, &text);
}


/* A slot nobody has keeps the link it had: that one may come back. */

static void
ngx_http_apikey_map_read(ngx_http_apikey_redis_t *redis, ngx_str_t *text)
{
    size_t                      len;
    ngx_uint_t                  covered;
    const char                 *p;
    apikey_slot_node_t          node;
    ngx_http_apikey_cluster_t  *cluster;

    cluster = redis->cluster;

    p = (const char *) text->data;
    len = text->len;
    covered = 0;

    while (apikey_slot_node(&p, &len, &node)) {

        if (node.primary) {
            covered += ngx_http_apikey_map_node(redis, &node);
        }
    }

    if (covered == 0) {
        ngx_http_apikey_link_lost(redis->control,
                                  "it knows no node with slots", NULL);
        return;
    }

    ngx_http_apikey_link_good(redis->control);

    cluster->loaded = 1;
    cluster->covered = (covered >= APIKEY_SLOTS);

    if (!cluster->covered) {
        ngx_http_apikey_cluster_refresh(redis);
    }

    ngx_http_apikey_map_owners(redis);
    ngx_http_apikey_map_clean(redis);
    ngx_http_apikey_map_tell(redis);
}


static ngx_uint_t
ngx_http_apikey_map_node(ngx_http_apikey_redis_t *redis,
    apikey_slot_node_t *node)
{
    uint16_t                 first, last;
    ngx_str_t                host;
    ngx_uint_t               i, n;
    ngx_http_apikey_link_t  *link;

    link = NULL;
    n = 0;

    while (apikey_slot_range(node, &first, &last)) {

        if (link == NULL) {
            host.data = (u_char *) node->host;
            host.len = node->host_len;

            link = ngx_http_apikey_cluster_find(redis, redis->control, &host,
                                                node->port);
            if (link == NULL) {
                return 0;
            }

            ngx_http_apikey_map_name(link, node);
        }

        for (i = first; i <= last; i++) {
            redis->cluster->map[i] = link;
            n++;
        }
    }

    return n;
}


/* What its certificate says, and MOVED may say. */

static void
ngx_http_apikey_map_name(ngx_http_apikey_link_t *link,
    apikey_slot_node_t *node)
{
    u_char  *p;

    if (node->name_len == 0 || node->name_len >= NGX_SOCKADDR_STRLEN) {
        return;
    }

    p = ngx_cpymem(link->target.address, node->name, node->name_len);
    *p = '\0';

    link->target.host.data = link->target.address;
    link->target.host.len = node->name_len;
}


/* Who has slots, and one of them each, for the key of its identity. */

static void
ngx_http_apikey_map_owners(ngx_http_apikey_redis_t *redis)
{
    ngx_uint_t                  i;
    ngx_queue_t                *q;
    ngx_http_apikey_link_t     *link;
    ngx_http_apikey_cluster_t  *cluster;

    cluster = redis->cluster;

    for (q = ngx_queue_head(&cluster->links);
         q != ngx_queue_sentinel(&cluster->links);
         q = ngx_queue_next(q))
    {
        link = ngx_queue_data(q, ngx_http_apikey_link_t, queue);

        link->owner = 0;
    }

    for (i = 0; i < APIKEY_SLOTS; i++) {
        link = cluster->map[i];

        if (link == NULL) {
            continue;
        }

        if (!link->owner) {
            ngx_http_apikey_map_tag(link, i);
        }

        link->owner = 1;
        link->used = ngx_current_msec;
    }

    for (q = ngx_queue_head(&cluster->links);
         q != ngx_queue_sentinel(&cluster->links);
         q = ngx_queue_next(q))
    {
        link = ngx_queue_data(q, ngx_http_apikey_link_t, queue);

        if (!link->owner) {
            link->tag = -1;

        } else if (link->state == NGX_HTTP_APIKEY_LINK_DOWN
                   && !link->retry.timer_set)
        {
            ngx_http_apikey_link_connect(link);
        }
    }
}


/* The first slot, so that all workers ask for the same key. */

static void
ngx_http_apikey_map_tag(ngx_http_apikey_link_t *link, ngx_int_t slot)
{
    if (link->tag == slot) {
        return;
    }

    link->tag = slot;

    if (link->check.timer_set) {
        ngx_add_timer(&link->check, 1);
    }
}


static void
ngx_http_apikey_map_clean(ngx_http_apikey_redis_t *redis)
{
    ngx_queue_t                *q, *next;
    ngx_http_apikey_link_t     *link;
    ngx_http_apikey_cluster_t  *cluster;

    cluster = redis->cluster;

    for (q = ngx_queue_head(&cluster->links);
         q != ngx_queue_sentinel(&cluster->links);
         q = next)
    {
        next = ngx_queue_next(q);
        link = ngx_queue_data(q, ngx_http_apikey_link_t, queue);

        if (link->owner || link->live
            || ngx_current_msec - link->used < NGX_HTTP_APIKEY_MAP_IDLE)
        {
            continue;
        }

        ngx_queue_remove(q);
        cluster->nlinks--;

        link->hope = 0;

        ngx_http_apikey_redirect_state(link, 0);
        ngx_http_apikey_link_destroy(link);
    }
}


void
ngx_http_apikey_map_tell(ngx_http_apikey_redis_t *redis)
{
    ngx_uint_t                  up;
    ngx_queue_t                *q;
    ngx_http_apikey_link_t     *link;
    ngx_http_apikey_cluster_t  *cluster;

    cluster = redis->cluster;
    up = cluster->loaded && cluster->covered;

    for (q = ngx_queue_head(&cluster->links);
         q != ngx_queue_sentinel(&cluster->links);
         q = ngx_queue_next(q))
    {
        link = ngx_queue_data(q, ngx_http_apikey_link_t, queue);

        if (link->owner && link->state != NGX_HTTP_APIKEY_LINK_READY) {
            up = 0;
        }
    }

    ngx_http_apikey_redis_state(redis, up);
}


ngx_uint_t
ngx_http_apikey_redis_primaries(ngx_http_apikey_redis_t *redis,
    uint16_t *slots, ngx_uint_t n)
{
    ngx_uint_t                  i;
    ngx_queue_t                *q;
    ngx_http_apikey_link_t     *link;
    ngx_http_apikey_cluster_t  *cluster;

    i = 0;
    cluster = redis->cluster;

    if (cluster == NULL) {
        return 0;
    }

    for (q = ngx_queue_head(&cluster->links);
         q != ngx_queue_sentinel(&cluster->links) && i < n;
         q = ngx_queue_next(q))
    {
        link = ngx_queue_data(q, ngx_http_apikey_link_t, queue);

        if (link->owner && link->tag >= 0) {
            slots[i++] = link->tag;
        }
    }

    return i;
}
