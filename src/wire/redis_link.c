
/*
 * A link: commands of many requests on one socket, replies matched in order.
 *
 * The struct, its ring of slots and the write buffer are malloc'ed; destroy()
 * frees them, close() but the buffer and hiredis' reader.  A slot outlives
 * its call: a call that timed out or was abandoned leaves a slot without
 * owner, so that the replies behind it stay in step.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/clock.h"
#include "wire/redis_private.h"


static void ngx_http_apikey_link_timer_handler(ngx_event_t *ev);
static ngx_msec_t ngx_http_apikey_link_expire(ngx_http_apikey_link_t *link,
    ngx_msec_t next);
static void ngx_http_apikey_link_set_timer(ngx_http_apikey_link_t *link,
    ngx_msec_t deadline);
static ngx_int_t ngx_http_apikey_link_parse(ngx_http_apikey_link_t *link,
    size_t size);
static ngx_int_t ngx_http_apikey_link_reply(ngx_http_apikey_link_t *link,
    struct redisReply *reply);
static void ngx_http_apikey_link_dispatch(ngx_http_apikey_link_t *link,
    struct redisReply *reply);
static ngx_int_t ngx_http_apikey_link_fault(struct redisReply *reply,
    ngx_str_t *text);


ngx_http_apikey_link_t *
ngx_http_apikey_link_create(ngx_http_apikey_redis_t *redis, ngx_uint_t nslots)
{
    ngx_log_t               *log;
    ngx_http_apikey_link_t  *link;

    log = redis->log;

    link = ngx_calloc(sizeof(ngx_http_apikey_link_t), log);
    if (link == NULL) {
        return NULL;
    }

    link->slots = ngx_calloc(nslots * sizeof(ngx_http_apikey_link_slot_t),
                             log);
    if (link->slots == NULL) {
        ngx_free(link);
        return NULL;
    }

    link->redis = redis;
    link->conf = redis->conf;
    link->log = log;
    link->nslots = nslots;
    link->backoff = NGX_HTTP_APIKEY_LINK_BACKOFF;
    link->hope = 1;
    link->tag = -1;
    link->asked = -1;
    link->used = ngx_current_msec;

    link->write.handler = ngx_http_apikey_link_posted_handler;
    link->write.data = link;
    link->write.log = log;

    link->timer.handler = ngx_http_apikey_link_timer_handler;
    link->timer.data = link;
    link->timer.log = log;

    link->retry.handler = ngx_http_apikey_link_retry_handler;
    link->retry.data = link;
    link->retry.log = log;
    link->retry.cancelable = 1;

    link->check.handler = ngx_http_apikey_link_check_handler;
    link->check.data = link;
    link->check.log = log;
    link->check.cancelable = 1;

    return link;
}


ngx_int_t
ngx_http_apikey_link_send(ngx_http_apikey_link_t *link,
    ngx_http_apikey_redis_call_t *call, ngx_uint_t argc, ngx_str_t *argv)
{
    ngx_http_apikey_link_slot_t  *slot;

    if (ngx_http_apikey_link_note(link, argc, argv) != NGX_OK) {
        return NGX_ERROR;
    }

    if (call->deadline == 0) {
        call->deadline = ngx_current_msec + link->conf->timeout;
    }

    call->link = link;
    call->slot = link->tail - 1;
    call->waiting = 1;

    slot = ngx_http_apikey_link_slot(link, call->slot);
    slot->call = call;

    link->live++;

    ngx_http_apikey_link_set_timer(link, call->deadline);

    return NGX_OK;
}


ngx_int_t
ngx_http_apikey_link_note(ngx_http_apikey_link_t *link, ngx_uint_t argc,
    ngx_str_t *argv)
{
    ngx_http_apikey_link_slot_t  *slot;

    if (link->state != NGX_HTTP_APIKEY_LINK_READY
        || link->tail - link->head >= link->nslots
        || ngx_http_apikey_link_append(link, argc, argv) != NGX_OK)
    {
        return NGX_ERROR;
    }

    slot = ngx_http_apikey_link_slot(link, link->tail);
    slot->call = NULL;
    slot->sent = ngx_current_msec;
    slot->start = apikey_clock_boot();

    link->tail++;

    return NGX_OK;
}


void
ngx_http_apikey_link_abandon(ngx_http_apikey_redis_call_t *call)
{
    ngx_http_apikey_link_t  *link;

    link = call->link;

    ngx_http_apikey_link_slot(link, call->slot)->call = NULL;

    link->live--;
    link->timer.cancelable = (link->live == 0);
}


void
ngx_http_apikey_link_close(ngx_http_apikey_link_t *link)
{
    ngx_http_apikey_link_slot_t  *slot;

    ngx_http_apikey_link_disconnect(link);

    for ( /* void */ ; link->head != link->tail; link->head++) {
        slot = ngx_http_apikey_link_slot(link, link->head);

        if (slot->call) {
            slot->call->waiting = 0;
            slot->call = NULL;
        }
    }

    link->live = 0;

    if (link->timer.timer_set) {
        ngx_del_timer(&link->timer);
    }

    if (link->out) {
        ngx_free(link->out);
        link->out = NULL;
        link->out_size = 0;
    }
}


void
ngx_http_apikey_link_destroy(ngx_http_apikey_link_t *link)
{
    ngx_http_apikey_link_close(link);
    ngx_http_apikey_link_ssl_forget(link);

    ngx_free(link->slots);
    ngx_free(link);
}


void
ngx_http_apikey_link_read_handler(ngx_event_t *rev)
{
    u_char                  *in;
    ssize_t                  n;
    ngx_uint_t               attempt;
    ngx_connection_t        *c;
    ngx_http_apikey_link_t  *link;

    c = rev->data;
    link = c->data;
    in = link->redis->in;
    attempt = link->attempt;

    if (link->state == NGX_HTTP_APIKEY_LINK_CONNECTING) {
        ngx_http_apikey_link_connected(link);

        if (link->attempt != attempt
            || link->state != NGX_HTTP_APIKEY_LINK_HANDSHAKE)
        {
            return;
        }
    }

    for ( ;; ) {
        n = c->recv(c, in, NGX_HTTP_APIKEY_LINK_BUFFER);

        if (n == NGX_AGAIN) {
            break;
        }

        if (n == NGX_ERROR || n == 0) {
            ngx_http_apikey_link_closed(link);
            return;
        }

        link->now = apikey_clock_boot();

        if (ngx_http_apikey_link_parse(link, n) != NGX_OK) {
            return;
        }
    }

    if (ngx_handle_read_event(rev, 0) != NGX_OK) {
        ngx_http_apikey_link_lost(link, "cannot watch the socket", NULL);
    }
}


static void
ngx_http_apikey_link_timer_handler(ngx_event_t *ev)
{
    ngx_msec_t                    now, next, since, silence;
    ngx_http_apikey_link_t       *link;
    ngx_http_apikey_link_slot_t  *slot;

    link = ev->data;

    if (link->head == link->tail) {
        return;
    }

    now = ngx_current_msec;
    silence = link->conf->timeout * 2;

    /* a peer that answers nothing for two deadlines will not answer */

    slot = ngx_http_apikey_link_slot(link, link->head);
    since = slot->sent;

    if ((ngx_msec_int_t) (link->progress - since) > 0) {
        since = link->progress;
    }

    next = ngx_http_apikey_link_expire(link, since + silence);

    if (now - since >= silence) {
        ngx_http_apikey_link_lost(link, "it does not answer", NULL);
        return;
    }

    ngx_http_apikey_link_set_timer(link, next);
}


/* Those whose deadline has passed; the next deadline, if it is before next. */

static ngx_msec_t
ngx_http_apikey_link_expire(ngx_http_apikey_link_t *link, ngx_msec_t next)
{
    ngx_uint_t                     i, tail;
    ngx_msec_t                     now;
    ngx_http_apikey_link_slot_t   *slot;
    ngx_http_apikey_redis_call_t  *call;

    now = ngx_current_msec;
    tail = link->tail;

    for (i = link->head; i != tail; i++) {
        slot = ngx_http_apikey_link_slot(link, i);
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
        link->live--;

        call->handler(call, NULL);
    }

    return next;
}


/*
 * One timer for all commands, not cancelable while anybody waits: nothing
 * else keeps a worker from leaving.  It is left to run out rather than moved.
 */

static void
ngx_http_apikey_link_set_timer(ngx_http_apikey_link_t *link,
    ngx_msec_t deadline)
{
    ngx_msec_int_t  rest;

    link->timer.cancelable = (link->live == 0);

    if (link->timer.timer_set) {

        if ((ngx_msec_int_t) (deadline - link->timer.timer.key) >= 0) {
            return;
        }

        ngx_del_timer(&link->timer);
    }

    rest = (ngx_msec_int_t) (deadline - ngx_current_msec);

    ngx_add_timer(&link->timer, (ngx_msec_t) ngx_max(rest, 1));
}


/* What was read; NGX_ABORT: the connection is gone. */

static ngx_int_t
ngx_http_apikey_link_parse(ngx_http_apikey_link_t *link, size_t size)
{
    ngx_str_t           in;
    ngx_int_t           rc;
    struct redisReply  *reply;

    in.data = link->redis->in;
    in.len = size;

    for ( ;; ) {
        rc = ngx_http_apikey_redis_next(link->reader, &in, link->control,
                                        &reply);

        if (rc == NGX_AGAIN) {
            return NGX_OK;
        }

        if (rc != NGX_OK) {
            ngx_http_apikey_link_lost(link, "it does not speak RESP", NULL);
            return NGX_ABORT;
        }

        rc = ngx_http_apikey_link_reply(link, reply);

        ngx_http_apikey_redis_reply_free(reply);

        if (rc != NGX_OK) {
            return NGX_ABORT;
        }
    }
}


static ngx_int_t
ngx_http_apikey_link_reply(ngx_http_apikey_link_t *link,
    struct redisReply *reply)
{
    ngx_int_t   fault;
    ngx_str_t   text;
    ngx_uint_t  attempt;

    attempt = link->attempt;
    fault = NGX_OK;

    if (link->state == NGX_HTTP_APIKEY_LINK_HANDSHAKE) {
        ngx_http_apikey_link_handshake_reply(link, reply);

    } else if (link->head == link->tail) {
        ngx_http_apikey_link_lost(link, "it answers unasked", NULL);

    } else {
        fault = ngx_http_apikey_link_fault(reply, &text);
        ngx_http_apikey_link_dispatch(link, reply);
    }

    if (link->attempt != attempt) {
        return NGX_ABORT;
    }

    if (fault != NGX_OK) {
        ngx_http_apikey_link_lost(link, "it does not take writes: ", &text);
        return NGX_ABORT;
    }

    return NGX_OK;
}


static void
ngx_http_apikey_link_dispatch(ngx_http_apikey_link_t *link,
    struct redisReply *reply)
{
    ngx_int_t                      n;
    ngx_http_apikey_link_slot_t   *slot;
    ngx_http_apikey_redis_call_t  *call;

    slot = ngx_http_apikey_link_slot(link, link->head);
    call = slot->call;

    link->progress = ngx_current_msec;

    if (!link->control) {
        link->backoff = NGX_HTTP_APIKEY_LINK_BACKOFF;
    }

    /* an array's elements are replies of their own, to the same call */

    if (link->elements) {
        link->elements--;

    } else {
        n = ngx_http_apikey_redis_elements(reply);
        link->elements = ngx_max(n, 0);
    }

    if (link->elements && call) {
        call->handler(call, reply);
        return;
    }

    if (link->elements) {
        return;
    }

    link->head++;

    if (!link->control) {
        apikey_histogram_add(&link->redis->stats->redis,
                             ngx_max(link->now - slot->start, 0));
    }

    if (call == NULL) {
        return;
    }

    slot->call = NULL;
    call->waiting = 0;

    link->live--;
    link->timer.cancelable = (link->live == 0);

    if (ngx_http_apikey_redirect(link, call, reply) == NGX_DECLINED) {
        call->handler(call, reply);
    }
}


/* A server that is no primary, or not yet: another connection may find it. */

static ngx_int_t
ngx_http_apikey_link_fault(struct redisReply *reply, ngx_str_t *text)
{
    ngx_uint_t   i;

    static ngx_str_t  faults[] = {
        ngx_string("READONLY"),
        ngx_string("LOADING"),
        ngx_string("MASTERDOWN"),
        ngx_string("NOAUTH")
    };

    if (ngx_http_apikey_redis_reply(reply, text)
        != NGX_HTTP_APIKEY_REDIS_ERROR)
    {
        return NGX_OK;
    }

    for (i = 0; i < sizeof(faults) / sizeof(ngx_str_t); i++) {

        if (text->len >= faults[i].len
            && ngx_strncmp(text->data, faults[i].data, faults[i].len) == 0)
        {
            *text = faults[i];
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}
