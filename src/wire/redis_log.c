
/*
 * What a link says in the log: why there is no connection, a few times an
 * outage, and that there is one again.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "wire/redis_private.h"


#define NGX_HTTP_APIKEY_LINK_TEXT     200        /* of an error */
#define NGX_HTTP_APIKEY_LINK_REASONS  3          /* of one outage */


static void ngx_http_apikey_link_writer(ngx_log_t *log, ngx_uint_t level,
    u_char *buf, size_t len);


/*
 * The core logs each refused connect(), we say it once an outage; what it
 * knows about TLS is kept for that.
 */

void
ngx_http_apikey_link_quiet(ngx_http_apikey_link_t *link)
{
    link->quiet = *link->log;
    link->quiet.next = NULL;
    link->quiet.log_level = NGX_LOG_ALERT;

    if (link->conf->ssl) {
        link->quiet.log_level = NGX_LOG_INFO;
        link->quiet.writer = ngx_http_apikey_link_writer;
        link->quiet.wdata = link;
    }
}


static void
ngx_http_apikey_link_writer(ngx_log_t *log, ngx_uint_t level, u_char *buf,
    size_t len)
{
    u_char                  *p, *last;
    ngx_http_apikey_link_t  *link;

    link = log->wdata;

    /* DATE TIME [LEVEL] PID#TID: TEXT */

    last = buf + len;
    p = ngx_strlchr(buf, last, ']');
    p = p ? ngx_strlchr(p, last, ':') : NULL;

    buf = (p && last - p > 2) ? p + 2 : buf;

    while (last > buf && (last[-1] == LF || last[-1] == CR)) {
        last--;
    }

    if (level <= NGX_LOG_ALERT) {
        ngx_log_error(level, link->log, 0, "%*s", (size_t) (last - buf), buf);
        return;
    }

    /* the first one is the cause */

    if (link->why[0] == '\0') {
        len = ngx_min((size_t) (last - buf), NGX_HTTP_APIKEY_LINK_WHY - 1);
        ngx_memcpy(link->why, buf, len);
        link->why[len] = '\0';
    }
}


/* Once an outage, and for the first other reasons it has. */

void
ngx_http_apikey_link_complain(ngx_http_apikey_link_t *link, char *why,
    ngx_str_t *text)
{
    ngx_err_t   err;
    ngx_str_t  *name, more;

    if (link->complained == NGX_HTTP_APIKEY_LINK_REASONS
        || (link->complained && link->reason == why))
    {
        return;
    }

    link->complained++;
    link->reason = why;

    err = (link->state == NGX_HTTP_APIKEY_LINK_CONNECTING)
          ? ngx_socket_errno : 0;

    name = link->target.name.len ? &link->target.name : &link->conf->name;

    ngx_str_null(&more);

    if (text) {
        more = *text;
        more.len = ngx_min(more.len, NGX_HTTP_APIKEY_LINK_TEXT);
    }

    ngx_log_error(NGX_LOG_ERR, link->log, err,
                  "apikey_redis: no connection to %V: %s%V%s%s", name, why,
                  &more, link->why[0] ? ": " : "", link->why);
}


/* The outage is over: for one that only tells things when it has told them. */

void
ngx_http_apikey_link_good(ngx_http_apikey_link_t *link)
{
    if (link->control) {
        link->backoff = NGX_HTTP_APIKEY_LINK_BACKOFF;
    }

    if (link->complained) {
        link->complained = 0;
        ngx_log_error(NGX_LOG_NOTICE, link->log, 0,
                      "apikey_redis: connected to %V again",
                      &link->target.name);
    }
}
