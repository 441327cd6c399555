
/*
 * A link: what is to be written, once per turn of the event loop.
 *
 * The buffer is malloc'ed and freed by link_close().
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "wire/redis_private.h"


#define NGX_HTTP_APIKEY_LINK_OUT_MAX  (16 * 1024 * 1024)


ngx_int_t
ngx_http_apikey_link_append(ngx_http_apikey_link_t *link, ngx_uint_t argc,
    ngx_str_t *argv)
{
    size_t   need, size;
    u_char  *p;

    need = ngx_http_apikey_redis_format_size(argc, argv);

    if (link->out_size - link->out_last < need) {

        size = ngx_max(link->out_size, NGX_HTTP_APIKEY_LINK_BUFFER);

        while (size - link->out_last < need) {
            size *= 2;
        }

        if (size > NGX_HTTP_APIKEY_LINK_OUT_MAX) {
            return NGX_ERROR;
        }

        p = ngx_alloc(size, link->log);
        if (p == NULL) {
            return NGX_ERROR;
        }

        if (link->out) {
            ngx_memcpy(p, link->out, link->out_last);
            ngx_free(link->out);
        }

        link->out = p;
        link->out_size = size;
    }

    p = ngx_http_apikey_redis_format(link->out + link->out_last, argc, argv);

    link->out_last = p - link->out;

    ngx_post_event(&link->write, &ngx_posted_events);

    return NGX_OK;
}


void
ngx_http_apikey_link_flush(ngx_http_apikey_link_t *link)
{
    ssize_t            n;
    ngx_connection_t  *c;

    c = link->connection;

    if (c == NULL || link->state < NGX_HTTP_APIKEY_LINK_HANDSHAKE) {
        return;
    }

    while (link->out_pos < link->out_last) {

        n = c->send(c, link->out + link->out_pos,
                    link->out_last - link->out_pos);

        if (n == NGX_AGAIN) {
            break;
        }

        if (n == NGX_ERROR || n == 0) {
            ngx_http_apikey_link_closed(link);
            return;
        }

        link->out_pos += n;
    }

    if (link->out_pos == link->out_last) {
        link->out_pos = 0;
        link->out_last = 0;
    }

    if (ngx_handle_write_event(c->write, 0) != NGX_OK) {
        ngx_http_apikey_link_lost(link, "cannot watch the socket", NULL);
    }
}


void
ngx_http_apikey_link_write_handler(ngx_event_t *wev)
{
    ngx_connection_t        *c;
    ngx_http_apikey_link_t  *link;

    c = wev->data;
    link = c->data;

    if (link->state == NGX_HTTP_APIKEY_LINK_CONNECTING) {
        ngx_http_apikey_link_connected(link);
    }

    ngx_http_apikey_link_flush(link);
}


/*
 * Events posted before this one may send more: going to the end of the queue
 * once puts the commands of a whole turn into one write.
 */

void
ngx_http_apikey_link_posted_handler(ngx_event_t *ev)
{
    ngx_http_apikey_link_t  *link;

    link = ev->data;

    if (!link->deferred && !ngx_queue_empty(&ngx_posted_events)) {
        link->deferred = 1;
        ngx_post_event(ev, &ngx_posted_events);
        return;
    }

    link->deferred = 0;

    ngx_http_apikey_link_flush(link);
}
