
/*
 * Where a connection string points: its hosts as numbers.
 *
 * resolve() may run in a thread: it touches nothing but the addresses.
 * Called by postgres_connect.c.
 */


#include "wire/postgres_conn.h"

#include <netdb.h>


static PQconninfoOption *ngx_http_apikey_pg_defaults(const char *service);
static ngx_int_t ngx_http_apikey_pg_rewrite(ngx_str_t *conninfo,
    PQconninfoOption *options, PQconninfoOption *defaults, ngx_pool_t *pool);
static const char *ngx_http_apikey_pg_place(PQconninfoOption *o,
    PQconninfoOption *defaults);
static void ngx_http_apikey_pg_resolve_name(ngx_http_apikey_pg_addrs_t *a,
    const char *name, const char *port);
static void ngx_http_apikey_pg_add(ngx_http_apikey_pg_addrs_t *a,
    const char *host, const char *addr, const char *port);


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


/* NGX_AGAIN: there are names among the hosts. */

ngx_int_t
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
        defaults = PQconndefaults();

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


const char *
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


ngx_int_t
ngx_http_apikey_pg_service(ngx_str_t *conninfo, ngx_pool_t *pool)
{
    ngx_int_t          rc;
    const char        *service;
    PQconninfoOption  *options, *defaults;

    options = PQconninfoParse((char *) conninfo->data, NULL);
    service = ngx_http_apikey_pg_option(options, "service");

    if (service == NULL || ngx_http_apikey_pg_option(options, "host")
        || ngx_http_apikey_pg_option(options, "hostaddr"))
    {
        PQconninfoFree(options);
        return NGX_OK;
    }

    defaults = ngx_http_apikey_pg_defaults(service);

    /* not there yet, or without a place: libpq looks for it at each connect */

    if (defaults
        && ngx_http_apikey_pg_option(defaults, "host") == NULL
        && ngx_http_apikey_pg_option(defaults, "hostaddr") == NULL)
    {
        PQconninfoFree(defaults);
        PQconninfoFree(options);
        return NGX_OK;
    }

    rc = defaults ? ngx_http_apikey_pg_rewrite(conninfo, options, defaults,
                                               pool)
                  : NGX_ERROR;

    PQconninfoFree(defaults);
    PQconninfoFree(options);

    return rc;
}


/* libpq reads the service that the environment names. */

static PQconninfoOption *
ngx_http_apikey_pg_defaults(const char *service)
{
    char              *was;
    PQconninfoOption  *defaults;

    was = getenv("PGSERVICE");

    if (was) {
        was = strdup(was);

        if (was == NULL) {
            return NULL;
        }
    }

    defaults = NULL;

    if (setenv("PGSERVICE", service, 1) == 0) {
        defaults = PQconndefaults();
    }

    if (was == NULL) {
        (void) unsetenv("PGSERVICE");

    } else {
        (void) setenv("PGSERVICE", was, 1);
        free(was);
    }

    return defaults;
}


/* The same options, and where they lead. */

static ngx_int_t
ngx_http_apikey_pg_rewrite(ngx_str_t *conninfo, PQconninfoOption *options,
    PQconninfoOption *defaults, ngx_pool_t *pool)
{
    size_t             len;
    u_char            *p;
    const char        *c, *val;
    PQconninfoOption  *o;

    len = 1;

    for (o = options; o->keyword; o++) {
        val = ngx_http_apikey_pg_place(o, defaults);
        len += val ? strlen(o->keyword) + 2 * strlen(val) + 4 : 0;
    }

    conninfo->data = ngx_pnalloc(pool, len);
    if (conninfo->data == NULL) {
        return NGX_ERROR;
    }

    p = conninfo->data;

    for (o = options; o->keyword; o++) {
        val = ngx_http_apikey_pg_place(o, defaults);

        if (val == NULL) {
            continue;
        }

        p = ngx_sprintf(p, "%s='", o->keyword);

        for (c = val; *c; c++) {

            if (*c == '\'' || *c == '\\') {
                *p++ = '\\';
            }

            *p++ = (u_char) *c;
        }

        p = ngx_cpymem(p, "' ", 2);
    }

    *p = '\0';
    conninfo->len = p - conninfo->data;

    return NGX_OK;
}


static const char *
ngx_http_apikey_pg_place(PQconninfoOption *o, PQconninfoOption *defaults)
{
    if (o->val || (strcmp(o->keyword, "host") != 0
                   && strcmp(o->keyword, "hostaddr") != 0
                   && strcmp(o->keyword, "port") != 0))
    {
        return o->val;
    }

    return ngx_http_apikey_pg_option(defaults, o->keyword);
}


/* In a thread: touches nothing but the addresses. */

void
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
