
/*
 * Getting and losing a libpq connection without blocking the event loop.
 *
 * Names are resolved in a thread and handed to libpq as numbers;
 * libpq opens and replaces the socket itself, nginx only watches it, level
 * triggered: libpq may leave bytes unread, which an edge would never tell.
 * Called by postgres.c only; memory is the connection's.
 */


#include "wire/postgres_conn.h"
#include "wire/thread.h"


#define NGX_HTTP_APIKEY_PG_PARAMS  64     /* libpq has some 40 */


static void ngx_http_apikey_pg_resolved(ngx_event_t *ev);
static void ngx_http_apikey_pg_params(ngx_http_apikey_pg_t *pg,
    const char **keys, const char **values);
static void ngx_http_apikey_pg_open(ngx_http_apikey_pg_t *pg);
static ngx_int_t ngx_http_apikey_pg_attach(ngx_http_apikey_pg_t *pg);
static void ngx_http_apikey_pg_detach(ngx_http_apikey_pg_t *pg);
static void ngx_http_apikey_pg_notice(void *data, const char *message);


void
ngx_http_apikey_pg_connect(ngx_http_apikey_pg_t *pg)
{
    ngx_int_t  rc;

    pg->state = NGX_HTTP_APIKEY_PG_RESOLVING;
    pg->deadline = ngx_current_msec + pg->connect_timeout;

    ngx_http_apikey_pg_arm(pg);

    if (pg->task->event.active) {
        return;                  /* its end goes on from here */
    }

    rc = ngx_http_apikey_pg_endpoints(pg);

    if (rc == NGX_ERROR) {
        ngx_http_apikey_pg_fail(pg, "the list of hosts is too long");
        return;
    }

    if (rc != NGX_AGAIN) {
        ngx_http_apikey_pg_resolve(&pg->addrs, pg->log);
        ngx_http_apikey_pg_open(pg);
        return;
    }

    pg->task->ctx = &pg->addrs;
    pg->task->handler = ngx_http_apikey_pg_resolve;
    pg->task->event.handler = ngx_http_apikey_pg_resolved;
    pg->task->event.data = pg;

    if (ngx_http_apikey_thread_post(pg->task) != NGX_OK) {
        ngx_http_apikey_pg_fail(pg, "no thread can be made");
    }
}


static void
ngx_http_apikey_pg_resolved(ngx_event_t *ev)
{
    ngx_http_apikey_pg_t *pg = ev->data;

    if (pg->state == NGX_HTTP_APIKEY_PG_RESOLVING) {
        ngx_http_apikey_pg_open(pg);
    }
}


static void
ngx_http_apikey_pg_params(ngx_http_apikey_pg_t *pg, const char **keys,
    const char **values)
{
    ngx_uint_t         n;
    PQconninfoOption  *o;

    n = 0;

    for (o = pg->options;
         o->keyword && n < NGX_HTTP_APIKEY_PG_PARAMS - 7;
         o++)
    {
        if (o->val == NULL
            || ngx_strcmp(o->keyword, "hostaddr") == 0
            || ngx_strcmp(o->keyword, "port") == 0
            || ngx_strcmp(o->keyword, "gssencmode") == 0
            || ngx_strcmp(o->keyword, "client_encoding") == 0)
        {
            continue;
        }

        if (ngx_strcmp(o->keyword, "host") == 0
            && ngx_http_apikey_pg_option(pg->options, "hostaddr") == NULL)
        {
            continue;
        }

        keys[n] = o->keyword;
        values[n++] = o->val;
    }

    if (ngx_http_apikey_pg_option(pg->options, "hostaddr") == NULL) {
        keys[n] = "host";
        values[n++] = pg->addrs.host;
    }

    keys[n] = "hostaddr";
    values[n++] = pg->addrs.hostaddr;
    keys[n] = "port";
    values[n++] = pg->addrs.port;

    /* negotiating GSS encryption blocks */

    keys[n] = "gssencmode";
    values[n++] = "disable";
    keys[n] = "client_encoding";
    values[n++] = "UTF8";
    keys[n] = "fallback_application_name";
    values[n++] = pg->name;
    keys[n] = NULL;
    values[n] = NULL;
}


static void
ngx_http_apikey_pg_open(ngx_http_apikey_pg_t *pg)
{
    const char  *keys[NGX_HTTP_APIKEY_PG_PARAMS];
    const char  *values[NGX_HTTP_APIKEY_PG_PARAMS];

    if (pg->addrs.found == 0) {
        ngx_http_apikey_pg_fail(pg, "the host's name could not be resolved");
        return;
    }

    ngx_http_apikey_pg_params(pg, keys, values);

    pg->conn = PQconnectStartParams(keys, values, 0);

    if (pg->conn == NULL || PQstatus(pg->conn) == CONNECTION_BAD) {
        ngx_http_apikey_pg_fail(pg, "cannot connect");
        return;
    }

    (void) PQsetNoticeProcessor(pg->conn, ngx_http_apikey_pg_notice, pg);

    pg->state = NGX_HTTP_APIKEY_PG_CONNECTING;

    if (ngx_http_apikey_pg_attach(pg) != NGX_OK
        || ngx_http_apikey_pg_want(pg, 0, 1) != NGX_OK)
    {
        ngx_http_apikey_pg_fail(pg, "no connection of nginx is free");
    }
}


void
ngx_http_apikey_pg_poll(ngx_http_apikey_pg_t *pg)
{
    ngx_int_t                  rc;
    PostgresPollingStatusType  status;

    status = PQconnectPoll(pg->conn);

    if (status == PGRES_POLLING_FAILED) {
        ngx_http_apikey_pg_fail(pg, "cannot connect");
        return;
    }

    /* libpq may have gone on to another socket, even of the same number */

    if (ngx_http_apikey_pg_attach(pg) != NGX_OK) {
        ngx_http_apikey_pg_fail(pg, "no connection of nginx is free");
        return;
    }

    if (status == PGRES_POLLING_OK) {
        if (PQsetnonblocking(pg->conn, 1) != 0
            || ngx_http_apikey_pg_want(pg, 1, 0) != NGX_OK)
        {
            ngx_http_apikey_pg_fail(pg, "cannot connect");
            return;
        }

        ngx_http_apikey_pg_setup(pg);
        return;
    }

    rc = ngx_http_apikey_pg_want(pg, status == PGRES_POLLING_READING,
                                 status == PGRES_POLLING_WRITING);
    if (rc != NGX_OK) {
        ngx_http_apikey_pg_fail(pg, "cannot wait for the connection");
    }
}


/* cut: the server may be stuck, nothing may be said to it any more. */

void
ngx_http_apikey_pg_finish(ngx_http_apikey_pg_t *pg, ngx_uint_t cut)
{
    int  fd;

    ngx_http_apikey_pg_detach(pg);

    if (pg->result) {
        PQclear(pg->result);
        pg->result = NULL;
    }

    if (pg->conn == NULL) {
        return;
    }

    fd = PQsocket(pg->conn);

    if (cut && fd >= 0) {
        (void) shutdown(fd, SHUT_RDWR);
    }

    PQfinish(pg->conn);
    pg->conn = NULL;
    pg->copying = 0;
    pg->epoch++;
}


static ngx_int_t
ngx_http_apikey_pg_attach(ngx_http_apikey_pg_t *pg)
{
    int                fd;
    struct stat        st;
    ngx_connection_t  *c;

    fd = PQsocket(pg->conn);

    if (fd < 0 || fstat(fd, &st) == -1) {
        return NGX_ERROR;
    }

    if (pg->c && pg->c->fd == fd && pg->ino == st.st_ino) {
        return NGX_OK;
    }

    ngx_http_apikey_pg_detach(pg);

    c = ngx_get_connection(fd, pg->log);
    if (c == NULL) {
        return NGX_ERROR;
    }

    c->data = pg;
    c->log = pg->log;
    c->read->log = pg->log;
    c->write->log = pg->log;
    c->read->handler = ngx_http_apikey_pg_read_handler;
    c->write->handler = ngx_http_apikey_pg_write_handler;

    /* a worker that goes gives up listening at once */

    c->idle = pg->listening;

    pg->c = c;
    pg->ino = st.st_ino;

    return NGX_OK;
}


/* The socket is libpq's: nginx only forgets it. */

static void
ngx_http_apikey_pg_detach(ngx_http_apikey_pg_t *pg)
{
    struct stat        st;
    ngx_uint_t         flags;
    ngx_connection_t  *c;

    c = pg->c;

    if (c == NULL) {
        return;
    }

    /* the kernel has dropped a closed socket; its number may be in use */

    flags = (fstat(c->fd, &st) == 0 && st.st_ino == pg->ino)
            ? 0 : NGX_CLOSE_EVENT;

    if (c->read->active) {
        (void) ngx_del_event(c->read, NGX_READ_EVENT, flags);
    }

    if (c->write->active) {
        (void) ngx_del_event(c->write, NGX_WRITE_EVENT, flags);
    }

    if (c->read->posted) {
        ngx_delete_posted_event(c->read);
    }

    if (c->write->posted) {
        ngx_delete_posted_event(c->write);
    }

    c->idle = 0;
    c->read->closed = 1;
    c->write->closed = 1;

    ngx_free_connection(c);

    c->fd = (ngx_socket_t) -1;
    pg->c = NULL;
}


ngx_int_t
ngx_http_apikey_pg_want(ngx_http_apikey_pg_t *pg, ngx_uint_t rd,
    ngx_uint_t wr)
{
    ngx_event_t  *rev, *wev;

    rev = pg->c->read;
    wev = pg->c->write;

    if (rd && !rev->active) {
        if (ngx_add_event(rev, NGX_READ_EVENT, NGX_LEVEL_EVENT) != NGX_OK) {
            return NGX_ERROR;
        }

    } else if (!rd && rev->active) {
        if (ngx_del_event(rev, NGX_READ_EVENT, 0) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (wr && !wev->active) {
        if (ngx_add_event(wev, NGX_WRITE_EVENT, NGX_LEVEL_EVENT) != NGX_OK) {
            return NGX_ERROR;
        }

    } else if (!wr && wev->active) {
        if (ngx_del_event(wev, NGX_WRITE_EVENT, 0) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static void
ngx_http_apikey_pg_notice(void *data, const char *message)
{
    ngx_http_apikey_pg_t *pg = data;

    ngx_log_error(NGX_LOG_INFO, pg->log, 0, "%s: Postgres says: %s",
                  pg->name, message);
}
