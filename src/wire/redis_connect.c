
/*
 * Making and losing the connection of a link: connect, TLS, AUTH, SELECT,
 * PING, who it is, pauses.
 *
 * Ready means that Redis has answered PING, and, where values are kept, that
 * it is a primary: a port that only accepts, or a server that is loading, is
 * down.  What Redis says to AUTH is not logged, for an unknown AUTH is
 * answered with its arguments.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "wire/redis_private.h"


#define NGX_HTTP_APIKEY_LINK_PAUSE   400         /* ms, the longest one */
#define NGX_HTTP_APIKEY_LINK_STABLE  1000        /* ms */
#define NGX_HTTP_APIKEY_LINK_POOL    512


static void ngx_http_apikey_link_pause(ngx_http_apikey_link_t *link);
static ngx_int_t ngx_http_apikey_link_test_connect(ngx_connection_t *c);
static ngx_int_t ngx_http_apikey_link_start(ngx_http_apikey_link_t *link);
static ngx_int_t ngx_http_apikey_link_step(ngx_http_apikey_link_t *link,
    ngx_http_apikey_link_step_e step, ngx_uint_t argc, ngx_str_t *argv);


void
ngx_http_apikey_link_connect(ngx_http_apikey_link_t *link)
{
    ngx_int_t  rc;

    /* this covers the handshake, too */

    ngx_add_timer(&link->retry, link->conf->timeout * 2);

    link->state = NGX_HTTP_APIKEY_LINK_LOCATING;
    link->why[0] = '\0';

    rc = link->locate(link);

    if (rc == NGX_OK) {
        rc = ngx_http_apikey_link_open(link);
    }

    if (rc == NGX_ERROR) {
        ngx_http_apikey_link_complain(link, "cannot connect", NULL);
        ngx_http_apikey_link_disconnect(link);
        ngx_http_apikey_link_pause(link);
    }
}


static void
ngx_http_apikey_link_pause(ngx_http_apikey_link_t *link)
{
    ngx_msec_t  pause;

    link->hope = 0;
    link->server++;

    ngx_http_apikey_redis_resolve(link->redis);

    /* three to five quarters of it */

    pause = link->backoff;
    pause = pause * 3 / 4 + (ngx_msec_t) ngx_random() % (pause / 2 + 1);

    link->backoff = ngx_min(link->backoff * 2, NGX_HTTP_APIKEY_LINK_PAUSE);

    ngx_add_timer(&link->retry, pause);
}


ngx_int_t
ngx_http_apikey_link_open(ngx_http_apikey_link_t *link)
{
    ngx_int_t               rc;
    ngx_connection_t       *c;
    ngx_peer_connection_t  *peer;

    ngx_http_apikey_link_quiet(link);

    peer = &link->peer;

    ngx_memzero(peer, sizeof(ngx_peer_connection_t));

    peer->sockaddr = &link->target.sockaddr.sockaddr;
    peer->socklen = link->target.socklen;
    peer->name = &link->target.name;
    peer->get = ngx_event_get_peer;
    peer->log = &link->quiet;
    peer->log_error = NGX_ERROR_IGNORE_ECONNRESET;

    link->reader = ngx_http_apikey_redis_reader_create();
    if (link->reader == NULL) {
        return NGX_ERROR;
    }

    rc = ngx_event_connect_peer(peer);

    if (rc != NGX_OK && rc != NGX_AGAIN) {
        return NGX_ERROR;
    }

    c = peer->connection;

    link->connection = c;

    c->data = link;
    c->read->handler = ngx_http_apikey_link_read_handler;
    c->write->handler = ngx_http_apikey_link_write_handler;

    link->state = NGX_HTTP_APIKEY_LINK_CONNECTING;

    if (link->conf->ssl) {
        c->pool = ngx_create_pool(NGX_HTTP_APIKEY_LINK_POOL, link->log);

        if (c->pool == NULL) {
            return NGX_ERROR;
        }
    }

    if (rc == NGX_OK) {
        return ngx_http_apikey_link_start(link);
    }

    return NGX_OK;
}


void
ngx_http_apikey_link_connected(ngx_http_apikey_link_t *link)
{
    if (ngx_http_apikey_link_test_connect(link->connection) != NGX_OK
        || ngx_http_apikey_link_start(link) != NGX_OK)
    {
        ngx_http_apikey_link_lost(link, "cannot connect", NULL);
    }
}


static ngx_int_t
ngx_http_apikey_link_test_connect(ngx_connection_t *c)
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
ngx_http_apikey_link_start(ngx_http_apikey_link_t *link)
{
    ngx_connection_t  *c;

    c = link->connection;

    if (c->tcp_nodelay != NGX_TCP_NODELAY_DISABLED
        && ngx_tcp_nodelay(c) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return link->conf->ssl ? ngx_http_apikey_link_ssl(link)
                           : ngx_http_apikey_link_handshake(link);
}


ngx_int_t
ngx_http_apikey_link_handshake(ngx_http_apikey_link_t *link)
{
    u_char                         number[NGX_INT_T_LEN];
    ngx_str_t                      argv[3];
    ngx_uint_t                     argc;
    ngx_http_apikey_redis_conf_t  *conf;

    conf = link->conf;

    link->state = NGX_HTTP_APIKEY_LINK_HANDSHAKE;
    link->step = 0;
    link->nsteps = 0;

    if (conf->password.len) {
        argc = 1;
        ngx_str_set(&argv[0], "AUTH");

        if (conf->user.len) {
            argv[argc++] = conf->user;
        }

        argv[argc++] = conf->password;

        if (ngx_http_apikey_link_step(link, NGX_HTTP_APIKEY_LINK_AUTH, argc,
                                      argv)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    if (conf->database && !link->control) {
        ngx_str_set(&argv[0], "SELECT");
        argv[1].data = number;
        argv[1].len = ngx_sprintf(number, "%ui", conf->database) - number;

        if (ngx_http_apikey_link_step(link, NGX_HTTP_APIKEY_LINK_SELECT, 2,
                                      argv)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    ngx_str_set(&argv[0], "PING");

    if (ngx_http_apikey_link_step(link, NGX_HTTP_APIKEY_LINK_PING, 1, argv)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (link->control) {
        return NGX_OK;
    }

    link->steps[link->nsteps++] = NGX_HTTP_APIKEY_LINK_IDENTITY;

    return ngx_http_apikey_link_identify(link);
}


static ngx_int_t
ngx_http_apikey_link_step(ngx_http_apikey_link_t *link,
    ngx_http_apikey_link_step_e step, ngx_uint_t argc, ngx_str_t *argv)
{
    link->steps[link->nsteps++] = step;

    return ngx_http_apikey_link_append(link, argc, argv);
}


void
ngx_http_apikey_link_handshake_reply(ngx_http_apikey_link_t *link,
    struct redisReply *reply)
{
    ngx_str_t                     text;
    ngx_uint_t                    step, ok;
    ngx_http_apikey_redis_kind_e  kind;

    static char  *refused[] = {
        "it refuses the user or the password",
        "it refuses the database: ",
        "it is not ready to serve: "
    };

    if (link->step == link->nsteps) {
        ngx_http_apikey_link_lost(link, "it answers unasked", NULL);
        return;
    }

    kind = ngx_http_apikey_redis_reply(reply, &text);
    step = link->steps[link->step];

    if (step == NGX_HTTP_APIKEY_LINK_IDENTITY) {

        if (ngx_http_apikey_link_identified(link, reply) != NGX_OK) {
            return;
        }

    } else {
        ok = (kind == NGX_HTTP_APIKEY_REDIS_STATUS);

        /* a Sentinel may have no password; one that has says so to PING */

        if (step == NGX_HTTP_APIKEY_LINK_AUTH && link->redis->sentinel
            && link->control)
        {
            ok = 1;
        }

        if (!ok) {
            ngx_http_apikey_link_lost(link, refused[step],
                                      step == NGX_HTTP_APIKEY_LINK_AUTH
                                      ? NULL : &text);
            return;
        }
    }

    if (++link->step < link->nsteps) {
        return;
    }

    if (link->redis->sentinel && !link->control) {
        ngx_http_apikey_sentinel_confirm(link);
        return;
    }

    ngx_http_apikey_link_ready(link);
}


void
ngx_http_apikey_link_ready(ngx_http_apikey_link_t *link)
{
    ngx_str_t   argv[3];
    ngx_uint_t  i;

    link->state = NGX_HTTP_APIKEY_LINK_READY;
    link->ready_at = ngx_current_msec;
    link->progress = ngx_current_msec;
    link->elements = 0;
    link->hope = 1;

    ngx_del_timer(&link->retry);

    if (!link->control) {
        ngx_http_apikey_link_good(link);
        ngx_http_apikey_link_check(link);

        ngx_str_set(&argv[0], "SCRIPT");
        ngx_str_set(&argv[1], "LOAD");

        /* without it the first call learns NOSCRIPT and brings the text */

        for (i = 0; i < link->redis->nscripts; i++) {
            argv[2] = *link->redis->scripts[i];
            (void) ngx_http_apikey_link_note(link, 3, argv);
        }
    }

    link->state_handler(link, 1);
}


void
ngx_http_apikey_link_retry_handler(ngx_event_t *ev)
{
    ngx_http_apikey_link_t  *link;

    link = ev->data;

    if (link->state == NGX_HTTP_APIKEY_LINK_LOCATING) {
        ngx_http_apikey_link_lost(link, "nobody says where it is", NULL);
        return;
    }

    if (link->connection) {
        ngx_http_apikey_link_lost(link,
                                  link->state == NGX_HTTP_APIKEY_LINK_TLS
                                  ? "no TLS: it does not answer"
                                  : "connecting takes too long", NULL);
        return;
    }

    ngx_http_apikey_link_connect(link);

    if (link->state == NGX_HTTP_APIKEY_LINK_DOWN) {
        link->state_handler(link, 0);
    }
}


void
ngx_http_apikey_link_lost(ngx_http_apikey_link_t *link, char *why,
    ngx_str_t *text)
{
    ngx_uint_t                     tail, was_ready;
    ngx_http_apikey_link_slot_t   *slot;
    ngx_http_apikey_redis_call_t  *call;

    ngx_http_apikey_link_complain(link, why, text);

    was_ready = (link->state == NGX_HTTP_APIKEY_LINK_READY
                 && ngx_current_msec - link->ready_at
                    >= NGX_HTTP_APIKEY_LINK_STABLE);

    ngx_http_apikey_link_disconnect(link);

    tail = link->tail;

    while (link->head != tail) {
        slot = ngx_http_apikey_link_slot(link, link->head++);
        call = slot->call;

        if (call == NULL) {
            continue;
        }

        slot->call = NULL;
        call->waiting = 0;
        link->live--;

        call->handler(call, NULL);
    }

    link->timer.cancelable = 1;

    if (was_ready) {
        ngx_http_apikey_link_connect(link);

    } else {
        ngx_http_apikey_link_pause(link);
    }

    link->state_handler(link, 0);
}


/* Who misses a certificate says so by an alert, which may be lost. */

void
ngx_http_apikey_link_closed(ngx_http_apikey_link_t *link)
{
    ngx_http_apikey_link_lost(link, link->conf->ssl
                       && link->state == NGX_HTTP_APIKEY_LINK_HANDSHAKE
                       ? "it closed the connection right after TLS, it may "
                         "want a client's certificate"
                       : "it closed the connection", NULL);
}


void
ngx_http_apikey_link_disconnect(ngx_http_apikey_link_t *link)
{
    ngx_pool_t        *pool;
    ngx_connection_t  *c;

    link->state = NGX_HTTP_APIKEY_LINK_DOWN;
    link->attempt++;
    link->out_pos = 0;
    link->out_last = 0;
    link->elements = 0;

    if (link->retry.timer_set) {
        ngx_del_timer(&link->retry);
    }

    if (link->check.timer_set) {
        ngx_del_timer(&link->check);
    }

    if (link->write.posted) {
        ngx_delete_posted_event(&link->write);
    }

    link->deferred = 0;

    if (link->reader) {
        ngx_http_apikey_redis_reader_free(link->reader);
        link->reader = NULL;
    }

    c = link->connection;

    if (c == NULL) {
        return;
    }

    link->connection = NULL;

    ngx_http_apikey_link_ssl_close(c);

    pool = c->pool;
    ngx_close_connection(c);

    if (pool) {
        ngx_destroy_pool(pool);
    }
}
