
/*
 * Getting and losing a libpq connection without blocking the event loop.
 *
 * Names are resolved in nginx's thread pool and handed to libpq as numbers;
 * libpq opens and replaces the socket itself, nginx only watches it, level
 * triggered: libpq may leave bytes unread, which an edge would never tell.
 * Called by postgres.c only; memory is the connection's.
 */


#include "wire/postgres_conn.h"

#include <netdb.h>


static ngx_str_t  ngx_http_apikey_pg_pool_name = ngx_string("default");


static ngx_int_t ngx_http_apikey_pg_endpoints(ngx_http_apikey_pg_t *pg);
static const char *ngx_http_apikey_pg_option(PQconninfoOption *options,
    const char *name);
static PQconninfoOption *ngx_http_apikey_pg_defaults(const char *service);
static void ngx_http_apikey_pg_resolve(void *data, ngx_log_t *log);
static void ngx_http_apikey_pg_resolve_name(ngx_http_apikey_pg_addrs_t *a,
    const char *name, const char *port);
static void ngx_http_apikey_pg_add(ngx_http_apikey_pg_addrs_t *a,
    const char *host, const char *addr, const char *port);
static void ngx_http_apikey_pg_resolved(ngx_event_t *ev);
static void ngx_http_apikey_pg_open(ngx_http_apikey_pg_t *pg);
static ngx_int_t ngx_http_apikey_pg_attach(ngx_http_apikey_pg_t *pg);
static void ngx_http_apikey_pg_detach(ngx_http_apikey_pg_t *pg);
static void ngx_http_apikey_pg_notice(void *data, const char *message);


PQconninfoOption *
ngx_http_apikey_pg_parse(ngx_str_t *conninfo, ngx_log_t *log)
{
    char              *error;
    PQconninfoOption  *options;

    error = NULL;
    options = PQconninfoParse((char *) conninfo->data, &error);

    if (options == NULL) {

        /* libpq's text would quote a password */

        ngx_log_error(NGX_LOG_ERR, log, 0,
                      "apikey: the Postgres connection string is invalid");
    }

    if (error) {
        PQfreemem(error);
    }

    return options;
}


void
ngx_http_apikey_pg_connect(ngx_http_apikey_pg_t *pg)
{
    ngx_int_t           rc;
    ngx_thread_pool_t  *tp;

    pg->state = NGX_HTTP_APIKEY_PG_RESOLVING;
    pg->deadline = ngx_current_msec + pg->connect_timeout;

    ngx_http_apikey_pg_arm(pg);

    if (pg->task && pg->task->event.active) {
        return;                  /* its end goes on from here */
    }

    rc = ngx_http_apikey_pg_endpoints(pg);

    if (rc == NGX_ERROR) {
        ngx_http_apikey_pg_fail(pg, "the list of hosts is too long");
        return;
    }

    tp = (rc == NGX_AGAIN && pg->task)
         ? ngx_thread_pool_get((ngx_cycle_t *) ngx_cycle,
                               &ngx_http_apikey_pg_pool_name)
         : NULL;

    if (tp == NULL) {
        ngx_http_apikey_pg_resolve(&pg->addrs, pg->log);
        ngx_http_apikey_pg_open(pg);
        return;
    }

    pg->task->ctx = &pg->addrs;
    pg->task->handler = ngx_http_apikey_pg_resolve;
    pg->task->event.handler = ngx_http_apikey_pg_resolved;
    pg->task->event.data = pg;

    if (ngx_thread_task_post(tp, pg->task) != NGX_OK) {
        ngx_http_apikey_pg_fail(pg, "the thread pool is full");
    }
}


/* NGX_AGAIN: there are names among the hosts. */

static ngx_int_t
ngx_http_apikey_pg_endpoints(ngx_http_apikey_pg_t *pg)
{
    char              *p;
    u_char             addr[16];
    char               one[NGX_HTTP_APIKEY_PG_LIST];
    ngx_int_t          rc;
    ngx_uint_t         fixed;
    const char        *host, *port, *hostaddr;
    PQconninfoOption  *defaults;

    defaults = NULL;
    host = ngx_http_apikey_pg_option(pg->options, "host");
    hostaddr = ngx_http_apikey_pg_option(pg->options, "hostaddr");
    port = ngx_http_apikey_pg_option(pg->options, "port");

    if (host == NULL && hostaddr == NULL) {
        defaults = ngx_http_apikey_pg_defaults(
                       ngx_http_apikey_pg_option(pg->options, "service"));

        host = ngx_http_apikey_pg_option(defaults, "host");
        hostaddr = ngx_http_apikey_pg_option(defaults, "hostaddr");

        if (port == NULL) {
            port = ngx_http_apikey_pg_option(defaults, "port");
        }
    }

    fixed = (hostaddr != NULL);
    rc = NGX_OK;

    if ((host && ngx_strlen(host) >= NGX_HTTP_APIKEY_PG_LIST)
        || (port && ngx_strlen(port) >= NGX_HTTP_APIKEY_PG_LIST)
        || (fixed && ngx_strlen(hostaddr) >= NGX_HTTP_APIKEY_PG_LIST))
    {
        rc = NGX_ERROR;
        goto done;
    }

    ngx_cpystrn((u_char *) pg->addrs.names,
                (u_char *) (fixed ? hostaddr : host ? host : ""),
                NGX_HTTP_APIKEY_PG_LIST);
    ngx_cpystrn((u_char *) pg->addrs.numbers, (u_char *) (port ? port : ""),
                NGX_HTTP_APIKEY_PG_LIST);

    ngx_cpystrn((u_char *) one, (u_char *) pg->addrs.names, sizeof(one));

    for (p = strtok(one, ","); p; p = strtok(NULL, ",")) {
        if (*p != '/' && *p != '@'
            && inet_pton(AF_INET, p, addr) != 1
            && inet_pton(AF_INET6, p, addr) != 1)
        {
            rc = NGX_AGAIN;
        }
    }

done:

    if (defaults) {
        PQconninfoFree(defaults);
    }

    return rc;
}


static const char *
ngx_http_apikey_pg_option(PQconninfoOption *options, const char *name)
{
    PQconninfoOption  *o;

    if (options == NULL) {
        return NULL;
    }

    for (o = options; o->keyword; o++) {
        if (ngx_strcmp(o->keyword, name) == 0) {
            return (o->val && o->val[0]) ? o->val : NULL;
        }
    }

    return NULL;
}


/*
 * What the environment and a service file say: libpq reads the file of a
 * "service" only while connecting, when it is too late to resolve names.
 */

static PQconninfoOption *
ngx_http_apikey_pg_defaults(const char *service)
{
    PQconninfoOption  *options;

    if (service == NULL || getenv("PGSERVICE")) {
        return PQconndefaults();
    }

    if (setenv("PGSERVICE", service, 1) != 0) {
        return NULL;
    }

    options = PQconndefaults();

    (void) unsetenv("PGSERVICE");

    return options;
}


/* In a thread: touches nothing but the addresses. */

static void
ngx_http_apikey_pg_resolve(void *data, ngx_log_t *log)
{
    ngx_http_apikey_pg_addrs_t *a = data;

    char   *name, *port, *next_name, *next_port;
    char    names[NGX_HTTP_APIKEY_PG_LIST], ports[NGX_HTTP_APIKEY_PG_LIST];

    a->found = 0;
    a->host[0] = '\0';
    a->hostaddr[0] = '\0';
    a->port[0] = '\0';

    ngx_cpystrn((u_char *) names, (u_char *) a->names, sizeof(names));
    ngx_cpystrn((u_char *) ports, (u_char *) a->numbers, sizeof(ports));

    name = names;
    port = ports;

    for ( ;; ) {
        next_name = strchr(name, ',');
        next_port = strchr(port, ',');

        if (next_name) {
            *next_name++ = '\0';
        }

        if (next_port) {
            *next_port++ = '\0';
        }

        ngx_http_apikey_pg_resolve_name(a, name, port);

        if (next_name == NULL) {
            return;
        }

        name = next_name;

        if (next_port) {
            port = next_port;    /* a single port is that of all hosts */
        }
    }
}


static void
ngx_http_apikey_pg_resolve_name(ngx_http_apikey_pg_addrs_t *a,
    const char *name, const char *port)
{
    char              text[INET6_ADDRSTRLEN];
    u_char            addr[16];
    struct addrinfo   hints, *list, *ai;

    if (*name == '\0' || *name == '/' || *name == '@') {
        ngx_http_apikey_pg_add(a, name, "", port);
        return;
    }

    if (inet_pton(AF_INET, name, addr) == 1
        || inet_pton(AF_INET6, name, addr) == 1)
    {
        ngx_http_apikey_pg_add(a, name, name, port);
        return;
    }

    ngx_memzero(&hints, sizeof(struct addrinfo));
    hints.ai_socktype = SOCK_STREAM;

    if (getaddrinfo(name, NULL, &hints, &list) != 0) {
        return;
    }

    for (ai = list; ai; ai = ai->ai_next) {
        if (getnameinfo(ai->ai_addr, ai->ai_addrlen, text, sizeof(text),
                        NULL, 0, NI_NUMERICHOST)
            == 0)
        {
            ngx_http_apikey_pg_add(a, name, text, port);
        }
    }

    freeaddrinfo(list);
}


static void
ngx_http_apikey_pg_add(ngx_http_apikey_pg_addrs_t *a, const char *host,
    const char *addr, const char *port)
{
    const char  *comma;

    if (strlen(a->host) + strlen(host) + 2 > NGX_HTTP_APIKEY_PG_LIST
        || strlen(a->hostaddr) + strlen(addr) + 2 > NGX_HTTP_APIKEY_PG_LIST
        || strlen(a->port) + strlen(port) + 2 > NGX_HTTP_APIKEY_PG_LIST)
    {
        return;
    }

    comma = a->found++ ? "," : "";

    strcat(strcat(a->host, comma), host);
    strcat(strcat(a->hostaddr, comma), addr);
    strcat(strcat(a->port, comma), port);
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
ngx_http_apikey_pg_open(ngx_http_apikey_pg_t *pg)
{
    ngx_uint_t         n;
    const char        *keys[64], *values[64];
    PQconninfoOption  *o;

    if (pg->addrs.found == 0) {
        ngx_http_apikey_pg_fail(pg, "the host's name could not be resolved");
        return;
    }

    n = 0;

    for (o = pg->options; o->keyword && n < 56; o++) {
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
