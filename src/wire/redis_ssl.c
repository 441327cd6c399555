
/*
 * TLS of a link: nginx's own, as proxy_ssl_* use it.
 *
 * The context is made in the master and lives as long as the configuration.
 * A session is kept by its link, for its next connection to the same server.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "wire/redis_private.h"


#if (NGX_SSL)


#define NGX_HTTP_APIKEY_SSL_DEPTH  5


static u_char *ngx_http_apikey_redis_ssl_log(ngx_log_t *log, u_char *buf,
    size_t len);
static void ngx_http_apikey_link_ssl_handler(ngx_connection_t *c);
static ngx_int_t ngx_http_apikey_link_ssl_name(ngx_http_apikey_link_t *link,
    ngx_connection_t *c);
static ngx_int_t ngx_http_apikey_link_ssl_verify(ngx_http_apikey_link_t *link,
    ngx_connection_t *c);
static ngx_uint_t ngx_http_apikey_link_ssl_check(ngx_connection_t *c,
    ngx_str_t *name);
static ngx_uint_t ngx_http_apikey_link_ssl_numeric(ngx_str_t *name);
static void ngx_http_apikey_link_ssl_save(ngx_connection_t *c);


ngx_int_t
ngx_http_apikey_redis_ssl_create(ngx_conf_t *cf,
    ngx_http_apikey_redis_conf_t *conf, ngx_str_t *ca, ngx_str_t *cert,
    ngx_str_t *key)
{
    ngx_log_t           *log;
    ngx_ssl_t           *ssl;
    ngx_pool_cleanup_t  *cln;

    ssl = ngx_pcalloc(cf->pool, sizeof(ngx_ssl_t));
    log = ngx_palloc(cf->pool, sizeof(ngx_log_t));

    if (ssl == NULL || log == NULL) {
        return NGX_ERROR;
    }

    *log = *cf->log;
    log->handler = ngx_http_apikey_redis_ssl_log;

    ssl->log = log;

    if (ngx_ssl_create(ssl, NGX_SSL_TLSv1_2|NGX_SSL_TLSv1_3, NULL) != NGX_OK) {
        return NGX_ERROR;
    }

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        ngx_ssl_cleanup_ctx(ssl);
        return NGX_ERROR;
    }

    cln->handler = ngx_ssl_cleanup_ctx;
    cln->data = ssl;

    if (cert->len && ngx_ssl_certificate(cf, ssl, cert, key, NULL) != NGX_OK) {
        return NGX_ERROR;
    }

    if (conf->verify
        && ngx_ssl_trusted_certificate(cf, ssl, ca, NGX_HTTP_APIKEY_SSL_DEPTH)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (conf->verify && ca->len == 0
        && SSL_CTX_set_default_verify_paths(ssl->ctx) == 0)
    {
        ngx_ssl_error(NGX_LOG_EMERG, log, 0,
                      "SSL_CTX_set_default_verify_paths() failed");
        return NGX_ERROR;
    }

    if (ngx_ssl_client_session_cache(cf, ssl, 1) != NGX_OK) {
        return NGX_ERROR;
    }

    /* what was not written is written again with more behind it, elsewhere */

    SSL_CTX_set_mode(ssl->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE
                               |SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);

    conf->ssl = ssl;

    return NGX_OK;
}


/* The core says what is wrong with a file, but not who wants it. */

static u_char *
ngx_http_apikey_redis_ssl_log(ngx_log_t *log, u_char *buf, size_t len)
{
    return ngx_snprintf(buf, len, " in \"apikey_redis\"");
}


ngx_int_t
ngx_http_apikey_link_ssl(ngx_http_apikey_link_t *link)
{
    ngx_int_t          rc;
    ngx_connection_t  *c;

    c = link->connection;

    link->state = NGX_HTTP_APIKEY_LINK_TLS;

    if (ngx_ssl_create_connection(link->conf->ssl, c, NGX_SSL_CLIENT)
        != NGX_OK
        || ngx_http_apikey_link_ssl_name(link, c) != NGX_OK
        || ngx_ssl_set_session(c, link->session) != NGX_OK)
    {
        return NGX_ERROR;
    }

    c->ssl->save_session = ngx_http_apikey_link_ssl_save;

    rc = ngx_ssl_handshake(c);

    if (rc == NGX_AGAIN) {
        c->ssl->handler = ngx_http_apikey_link_ssl_handler;
        return NGX_OK;
    }

    ngx_http_apikey_link_ssl_handler(c);

    return NGX_OK;
}


static void
ngx_http_apikey_link_ssl_handler(ngx_connection_t *c)
{
    ngx_http_apikey_link_t  *link;

    link = c->data;

    if (!c->ssl->handshaked) {
        ngx_http_apikey_link_lost(link, "no TLS", NULL);
        return;
    }

    if (link->conf->verify
        && ngx_http_apikey_link_ssl_verify(link, c) != NGX_OK)
    {
        return;
    }

    c->read->handler = ngx_http_apikey_link_read_handler;
    c->write->handler = ngx_http_apikey_link_write_handler;

    if (ngx_http_apikey_link_handshake(link) != NGX_OK) {
        ngx_http_apikey_link_lost(link, "cannot write", NULL);
        return;
    }

    /* tickets may be here already */

    ngx_post_event(c->read, &ngx_posted_events);
}


/* SNI: names only, no addresses */

static ngx_int_t
ngx_http_apikey_link_ssl_name(ngx_http_apikey_link_t *link,
    ngx_connection_t *c)
{
    ngx_str_t  *host;

    host = &link->target.host;

    if (host->len == 0 || ngx_http_apikey_link_ssl_numeric(host)) {
        return NGX_OK;
    }

    if (SSL_set_tlsext_host_name(c->ssl->connection, (char *) host->data)
        == 0)
    {
        ngx_ssl_error(NGX_LOG_ERR, c->log, 0,
                      "SSL_set_tlsext_host_name(\"%V\") failed", host);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/*
 * What Sentinels and nodes of a Cluster tell is an address mostly, while
 * certificates have names: one that a URL names will do, too.
 */

static ngx_int_t
ngx_http_apikey_link_ssl_verify(ngx_http_apikey_link_t *link,
    ngx_connection_t *c)
{
    long        rc;
    ngx_str_t   why;
    ngx_uint_t  i;

    rc = SSL_get_verify_result(c->ssl->connection);

    if (rc != X509_V_OK) {
        why.data = (u_char *) X509_verify_cert_error_string(rc);
        why.len = ngx_strlen(why.data);

        ngx_http_apikey_link_lost(link, "its certificate is not trusted: ",
                                  &why);
        return NGX_ERROR;
    }

    if (ngx_http_apikey_link_ssl_check(c, &link->target.host)) {
        return NGX_OK;
    }

    for (i = 0; i < link->conf->nservers; i++) {

        if (ngx_http_apikey_link_ssl_check(c, &link->conf->servers[i].host)) {
            return NGX_OK;
        }
    }

    ngx_http_apikey_link_lost(link, "its certificate does not name ",
                              &link->target.host);

    return NGX_ERROR;
}


static ngx_uint_t
ngx_http_apikey_link_ssl_check(ngx_connection_t *c, ngx_str_t *name)
{
    int    rc;
    X509  *cert;

    if (name->len == 0) {
        return 0;
    }

    if (!ngx_http_apikey_link_ssl_numeric(name)) {
        return ngx_ssl_check_host(c, name) == NGX_OK;
    }

    cert = SSL_get_peer_certificate(c->ssl->connection);
    if (cert == NULL) {
        return 0;
    }

    rc = X509_check_ip_asc(cert, (char *) name->data, 0);

    X509_free(cert);

    return rc == 1;
}


static ngx_uint_t
ngx_http_apikey_link_ssl_numeric(ngx_str_t *name)
{
#if (NGX_HAVE_INET6)
    u_char  addr[16];

    if (ngx_inet6_addr(name->data, name->len, addr) == NGX_OK) {
        return 1;
    }
#endif

    return ngx_inet_addr(name->data, name->len) != INADDR_NONE;
}


static void
ngx_http_apikey_link_ssl_save(ngx_connection_t *c)
{
    ngx_http_apikey_link_t  *link;

    link = c->data;

    ngx_http_apikey_link_ssl_forget(link);

    link->session = ngx_ssl_get_session(c);
}


void
ngx_http_apikey_link_ssl_forget(ngx_http_apikey_link_t *link)
{
    if (link->session) {
        ngx_ssl_free_session(link->session);
        link->session = NULL;
    }
}


/* Without a word to the server: nobody waits for it to be written. */

void
ngx_http_apikey_link_ssl_close(ngx_connection_t *c)
{
    if (c->ssl) {
        c->ssl->no_wait_shutdown = 1;
        c->ssl->no_send_shutdown = 1;

        (void) ngx_ssl_shutdown(c);
    }
}


#else


ngx_int_t
ngx_http_apikey_redis_ssl_create(ngx_conf_t *cf,
    ngx_http_apikey_redis_conf_t *conf, ngx_str_t *ca, ngx_str_t *cert,
    ngx_str_t *key)
{
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "\"apikey_redis\": this nginx is built without TLS");
    return NGX_ERROR;
}


ngx_int_t
ngx_http_apikey_link_ssl(ngx_http_apikey_link_t *link)
{
    return NGX_ERROR;
}


void
ngx_http_apikey_link_ssl_forget(ngx_http_apikey_link_t *link)
{
}


void
ngx_http_apikey_link_ssl_close(ngx_connection_t *c)
{
}


#endif
