
/*
 * Where a connection string points: its hosts as numbers.
 *
 * resolve() may run in a thread: it touches nothing but the addresses.
 * Called by postgres_connect.c.
 */


#include "wire/postgres_conn.h"

#include <netdb.h>


static PQconninfoOption *ngx_http_apikey_pg_defaults(const char *service);
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
