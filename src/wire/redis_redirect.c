
/*
 * What a Cluster wants sent again, and who waits for that.
 *
 * MOVED, ASK and TRYAGAIN say that a command was not run.  Its caller makes
 * it anew, for what it says may depend on who runs it, and sends it from its
 * handler.  Who waits, for a link that is being made, or a while after
 * TRYAGAIN, stands in one queue, with one timer that is not cancelable; the
 * calls are their callers'.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/slot.h"
#include "wire/redis_private.h"


#define NGX_HTTP_APIKEY_REDIRECT_HOPS   5
#define NGX_HTTP_APIKEY_REDIRECT_PAUSE  10       /* ms, after TRYAGAIN */


static ngx_int_t ngx_http_apikey_redirect_follow(ngx_http_apikey_link_t *link,
    ngx_http_apikey_redis_call_t *call, apikey_slot_redirect_t *redirect);
static ngx_uint_t ngx_http_apikey_redirect_hope(ngx_http_apikey_link_t *link);
static void ngx_http_apikey_redirect_wait(ngx_http_apikey_link_t *link,
    ngx_http_apikey_redis_call_t *call, ngx_msec_t pause);
static void ngx_http_apikey_redirect_again(ngx_http_apikey_redis_t *redis,
    ngx_http_apikey_redis_call_t *call);
static ngx_uint_t ngx_http_apikey_redirect_is(ngx_str_t *text, char *error);


ngx_int_t
ngx_http_apikey_redirect_send(ngx_http_apikey_redis_t *redis,
    ngx_http_apikey_redis_call_t *call, ngx_str_t *key, ngx_uint_t argc,
    ngx_str_t *argv)
{
    ngx_str_t                asking;
    ngx_http_apikey_link_t  *link;

    if (redis->again == call) {
        link = call->link;

    } else {
        link = ngx_http_apikey_cluster_link(redis, key);
        call->asking = 0;
        call->hops = 0;
    }

    call->again = 0;

    if (link == NULL) {
        return NGX_ERROR;
    }

    if (link->state == NGX_HTTP_APIKEY_LINK_READY) {
        link->used = ngx_current_msec;

        if (call->asking) {
            ngx_str_set(&asking, "ASKING");

            if (ngx_http_apikey_link_note(link, 1, &asking) != NGX_OK) {
                return NGX_ERROR;
            }
        }

        return ngx_http_apikey_link_send(link, call, argc, argv);
    }

    if (!ngx_http_apikey_redirect_hope(link)) {
        return NGX_ERROR;
    }

    if (call->deadline == 0) {
        call->deadline = ngx_current_msec + redis->conf->timeout;
    }

    ngx_http_apikey_redirect_wait(link, call, 0);

    return NGX_OK;
}


ngx_int_t
ngx_http_apikey_redirect(ngx_http_apikey_link_t *link,
    ngx_http_apikey_redis_call_t *call, struct redisReply *reply)
{
    ngx_str_t               text;
    apikey_slot_redirect_t  redirect;

    if (link->redis->cluster == NULL || link->control
        || call == &link->identity
        || ngx_http_apikey_redis_reply(reply, &text)
           != NGX_HTTP_APIKEY_REDIS_ERROR)
    {
        return NGX_DECLINED;
    }

    if (ngx_http_apikey_redirect_is(&text, "TRYAGAIN")) {
        ngx_http_apikey_redirect_wait(link, call,
                                      NGX_HTTP_APIKEY_REDIRECT_PAUSE);
        return NGX_DONE;
    }

    if (ngx_http_apikey_redirect_is(&text, "CLUSTERDOWN")) {
        ngx_http_apikey_cluster_refresh(link->redis);
        return NGX_DECLINED;
    }

    if (!apikey_slot_redirect((char *) text.data, text.len, &redirect)) {
        return NGX_DECLINED;
    }

    return ngx_http_apikey_redirect_follow(link, call, &redirect);
}


static ngx_int_t
ngx_http_apikey_redirect_follow(ngx_http_apikey_link_t *link,
    ngx_http_apikey_redis_call_t *call, apikey_slot_redirect_t *redirect)
{
    ngx_str_t                 host;
    ngx_http_apikey_link_t   *next;
    ngx_http_apikey_redis_t  *redis;

    redis = link->redis;

    if (!redirect->ask) {
        ngx_http_apikey_cluster_refresh(redis);
    }

    if (call->hops == NGX_HTTP_APIKEY_REDIRECT_HOPS) {
        return NGX_DECLINED;
    }

    host.data = (u_char *) redirect->host;
    host.len = redirect->host_len;

    next = ngx_http_apikey_cluster_find(redis, link, &host, redirect->port);
    if (next == NULL) {
        return NGX_DECLINED;
    }

    if (!redirect->ask) {
        ngx_http_apikey_cluster_move(redis, redirect->slot, next);
    }

    if (next->state == NGX_HTTP_APIKEY_LINK_DOWN && !next->retry.timer_set) {
        ngx_http_apikey_link_connect(next);
    }

    call->hops++;
    call->asking = redirect->ask;

    if (next->state == NGX_HTTP_APIKEY_LINK_READY) {
        call->link = next;
        ngx_http_apikey_redirect_again(redis, call);
        return NGX_DONE;
    }

    if (!ngx_http_apikey_redirect_hope(next)) {
        return NGX_DECLINED;
    }

    ngx_http_apikey_redirect_wait(next, call, 0);

    return NGX_DONE;
}


/* It is being made, and the attempt before this one did not fail. */

static ngx_uint_t
ngx_http_apikey_redirect_hope(ngx_http_apikey_link_t *link)
{
    return link->hope && link->state != NGX_HTTP_APIKEY_LINK_DOWN;
}


static void
ngx_http_apikey_redirect_wait(ngx_http_apikey_link_t *link,
    ngx_http_apikey_redis_call_t *call, ngx_msec_t pause)
{
    ngx_http_apikey_redis_t  *redis;

    redis = link->redis;

    call->link = link;
    call->pause = pause ? ngx_current_msec + pause : 0;
    call->queued = 1;
    call->waiting = 1;

    link->used = ngx_current_msec;

    ngx_queue_insert_tail(&redis->waiting, &call->queue);

    if (!redis->later.timer_set) {
        ngx_add_timer(&redis->later, NGX_HTTP_APIKEY_REDIRECT_PAUSE);
    }
}


void
ngx_http_apikey_redirect_leave(ngx_http_apikey_redis_call_t *call)
{
    ngx_queue_remove(&call->queue);

    call->queued = 0;
}


void
ngx_http_apikey_redirect_state(ngx_http_apikey_link_t *link, ngx_uint_t up)
{
    ngx_queue_t                   *q, *next, mine;
    ngx_http_apikey_redis_t       *redis;
    ngx_http_apikey_redis_call_t  *call;

    redis = link->redis;

    if (!up && ngx_http_apikey_redirect_hope(link)) {
        return;
    }

    /* a handler may queue its call once more */

    ngx_queue_init(&mine);

    for (q = ngx_queue_head(&redis->waiting);
         q != ngx_queue_sentinel(&redis->waiting);
         q = next)
    {
        next = ngx_queue_next(q);
        call = ngx_queue_data(q, ngx_http_apikey_redis_call_t, queue);

        if (call->link == link && (!up || call->pause == 0)) {
            ngx_queue_remove(q);
            ngx_queue_insert_tail(&mine, q);
        }
    }

    while (!ngx_queue_empty(&mine)) {
        q = ngx_queue_head(&mine);
        call = ngx_queue_data(q, ngx_http_apikey_redis_call_t, queue);

        ngx_http_apikey_redirect_leave(call);
        call->waiting = 0;

        if (up) {
            ngx_http_apikey_redirect_again(redis, call);

        } else {
            call->handler(call, NULL);
        }
    }
}


/* Every few milliseconds while anybody waits, which is not for long. */

void
ngx_http_apikey_redirect_timer_handler(ngx_event_t *ev)
{
    ngx_msec_t                     now;
    ngx_queue_t                   *q, *next, due;
    ngx_http_apikey_redis_t       *redis;
    ngx_http_apikey_redis_call_t  *call;

    redis = ev->data;
    now = ngx_current_msec;

    ngx_queue_init(&due);

    for (q = ngx_queue_head(&redis->waiting);
         q != ngx_queue_sentinel(&redis->waiting);
         q = next)
    {
        next = ngx_queue_next(q);
        call = ngx_queue_data(q, ngx_http_apikey_redis_call_t, queue);

        if ((ngx_msec_int_t) (call->deadline - now) <= 0
            || (call->pause && (ngx_msec_int_t) (call->pause - now) <= 0))
        {
            ngx_queue_remove(q);
            ngx_queue_insert_tail(&due, q);
        }
    }

    while (!ngx_queue_empty(&due)) {
        q = ngx_queue_head(&due);
        call = ngx_queue_data(q, ngx_http_apikey_redis_call_t, queue);

        ngx_http_apikey_redirect_leave(call);
        call->waiting = 0;

        if ((ngx_msec_int_t) (call->deadline - now) <= 0) {
            call->handler(call, NULL);

        } else {
            ngx_http_apikey_redirect_again(redis, call);
        }
    }

    if (!ngx_queue_empty(&redis->waiting) && !ev->timer_set) {
        ngx_add_timer(ev, NGX_HTTP_APIKEY_REDIRECT_PAUSE);
    }
}


static void
ngx_http_apikey_redirect_again(ngx_http_apikey_redis_t *redis,
    ngx_http_apikey_redis_call_t *call)
{
    call->again = 1;
    redis->again = call;

    call->handler(call, NULL);

    redis->again = NULL;
}


static ngx_uint_t
ngx_http_apikey_redirect_is(ngx_str_t *text, char *error)
{
    size_t  len;

    len = ngx_strlen(error);

    return text->len >= len && ngx_strncmp(text->data, error, len) == 0;
}
