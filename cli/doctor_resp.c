
/*
 * A connection to Redis, with TLS or without: hiredis formats and parses, for
 * one of Debian 12 knows no TLS.
 */


#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <arpa/inet.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "doctor_redis.h"


#define APIKEY_DOCTOR_RESP_TIMEOUT  5            /* seconds */
#define APIKEY_DOCTOR_RESP_WORDS    8
#define APIKEY_DOCTOR_RESP_BUFFER   16384


struct apikey_doctor_resp_s {
    int           fd;
    SSL_CTX      *ctx;
    SSL          *ssl;
    redisReader  *reader;
    char          why[256];
};


static bool apikey_doctor_resp_path(apikey_doctor_resp_t *c,
    const char *path);
static bool apikey_doctor_resp_host(apikey_doctor_resp_t *c, const char *host,
    int port);
static bool apikey_doctor_resp_connect(apikey_doctor_resp_t *c, int family,
    const struct sockaddr *sa, socklen_t len);
static bool apikey_doctor_resp_tls(apikey_doctor_resp_t *c,
    const apikey_doctor_redis_conf_t *conf, const char *host);
static bool apikey_doctor_resp_trust(apikey_doctor_resp_t *c,
    const apikey_doctor_redis_conf_t *conf);
static bool apikey_doctor_resp_named(apikey_doctor_resp_t *c,
    const apikey_doctor_redis_conf_t *conf, const char *host);
static bool apikey_doctor_resp_is(X509 *cert, const char *host);
static bool apikey_doctor_resp_numeric(const char *host);
static bool apikey_doctor_resp_openssl(apikey_doctor_resp_t *c);
static bool apikey_doctor_resp_write(apikey_doctor_resp_t *c, const char *p,
    size_t len);
static redisReply *apikey_doctor_resp_read(apikey_doctor_resp_t *c);


apikey_doctor_resp_t *
apikey_doctor_resp_open(const apikey_doctor_redis_conf_t *conf,
    const char *host, int port)
{
    bool                   good;
    apikey_doctor_resp_t  *c;

    c = calloc(1, sizeof(apikey_doctor_resp_t));

    if (c == NULL) {
        return NULL;
    }

    c->fd = -1;

    good = port ? apikey_doctor_resp_host(c, host, port)
                : apikey_doctor_resp_path(c, host);

    if (good && (!conf->tls || apikey_doctor_resp_tls(c, conf, host))) {
        c->reader = redisReaderCreate();
    }

    return c;
}


void
apikey_doctor_resp_close(apikey_doctor_resp_t *c)
{
    if (c == NULL) {
        return;
    }

    if (c->reader) {
        redisReaderFree(c->reader);
    }

    SSL_free(c->ssl);
    SSL_CTX_free(c->ctx);

    if (c->fd != -1) {
        (void) close(c->fd);
    }

    free(c);
}


const char *
apikey_doctor_resp_why(const apikey_doctor_resp_t *c)
{
    return c && c->why[0] ? c->why : c && c->reader ? NULL : "out of memory";
}


static bool
apikey_doctor_resp_path(apikey_doctor_resp_t *c, const char *path)
{
    struct sockaddr_un  sun;

    memset(&sun, 0, sizeof(sun));
    sun.sun_family = AF_UNIX;

    if (strlen(path) >= sizeof(sun.sun_path)) {
        snprintf(c->why, sizeof(c->why), "its path is too long");
        return false;
    }

    memcpy(sun.sun_path, path, strlen(path));

    return apikey_doctor_resp_connect(c, AF_UNIX, (struct sockaddr *) &sun,
                                      sizeof(sun));
}


static bool
apikey_doctor_resp_host(apikey_doctor_resp_t *c, const char *host, int port)
{
    int               rc;
    bool              good;
    char              text[16];
    struct addrinfo   hints, *list, *ai;

    memset(&hints, 0, sizeof(hints));
    hints.ai_socktype = SOCK_STREAM;

    snprintf(text, sizeof(text), "%d", port);

    rc = getaddrinfo(host, text, &hints, &list);

    if (rc != 0) {
        snprintf(c->why, sizeof(c->why), "%s", gai_strerror(rc));
        return false;
    }

    good = false;

    for (ai = list; ai && !good; ai = ai->ai_next) {
        good = apikey_doctor_resp_connect(c, ai->ai_family, ai->ai_addr,
                                          ai->ai_addrlen);
    }

    freeaddrinfo(list);

    return good;
}


/* The timeout of writing is connect()'s, too. */

static bool
apikey_doctor_resp_connect(apikey_doctor_resp_t *c, int family,
    const struct sockaddr *sa, socklen_t len)
{
    struct timeval  timeout = { APIKEY_DOCTOR_RESP_TIMEOUT, 0 };

    c->fd = socket(family, SOCK_STREAM|SOCK_CLOEXEC, 0);

    if (c->fd != -1) {
        (void) setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout,
                          sizeof(timeout));
        (void) setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &timeout,
                          sizeof(timeout));

        if (connect(c->fd, sa, len) == 0) {
            c->why[0] = '\0';
            return true;
        }
    }

    snprintf(c->why, sizeof(c->why), "%s",
             errno == EINPROGRESS ? "it does not answer" : strerror(errno));

    if (c->fd != -1) {
        (void) close(c->fd);
        c->fd = -1;
    }

    return false;
}


static bool
apikey_doctor_resp_tls(apikey_doctor_resp_t *c,
    const apikey_doctor_redis_conf_t *conf, const char *host)
{
    c->ctx = SSL_CTX_new(TLS_client_method());

    if (c->ctx == NULL || !apikey_doctor_resp_trust(c, conf)) {
        return apikey_doctor_resp_openssl(c);
    }

    c->ssl = SSL_new(c->ctx);

    if (c->ssl == NULL || SSL_set_fd(c->ssl, c->fd) != 1) {
        return apikey_doctor_resp_openssl(c);
    }

    if (!apikey_doctor_resp_numeric(host)) {
        (void) SSL_set_tlsext_host_name(c->ssl, host);
    }

    if (SSL_connect(c->ssl) != 1) {
        return apikey_doctor_resp_openssl(c);
    }

    return !conf->verify || apikey_doctor_resp_named(c, conf, host);
}


static bool
apikey_doctor_resp_trust(apikey_doctor_resp_t *c,
    const apikey_doctor_redis_conf_t *conf)
{
    if (conf->cert
        && (SSL_CTX_use_certificate_chain_file(c->ctx, conf->cert) != 1
            || SSL_CTX_use_PrivateKey_file(c->ctx, conf->cert_key,
                                           SSL_FILETYPE_PEM) != 1))
    {
        return false;
    }

    return conf->ca
           ? SSL_CTX_load_verify_locations(c->ctx, conf->ca, NULL) == 1
           : SSL_CTX_set_default_verify_paths(c->ctx) == 1;
}


/* Its own name or address, or the host of any URL. */

static bool
apikey_doctor_resp_named(apikey_doctor_resp_t *c,
    const apikey_doctor_redis_conf_t *conf, const char *host)
{
    int    i;
    bool   good;
    long   rc;
    X509  *cert;

    rc = SSL_get_verify_result(c->ssl);

    if (rc != X509_V_OK) {
        snprintf(c->why, sizeof(c->why), "its certificate is not trusted: %s",
                 X509_verify_cert_error_string(rc));
        return false;
    }

    cert = SSL_get1_peer_certificate(c->ssl);
    good = cert && apikey_doctor_resp_is(cert, host);

    for (i = 0; cert && !good && i < conf->n; i++) {
        good = apikey_doctor_resp_is(cert, conf->urls[i].host);
    }

    X509_free(cert);

    if (!good) {
        snprintf(c->why, sizeof(c->why), "its certificate does not name %s",
                 host);
    }

    return good;
}


static bool
apikey_doctor_resp_is(X509 *cert, const char *host)
{
    return apikey_doctor_resp_numeric(host)
           ? X509_check_ip_asc(cert, host, 0) == 1
           : X509_check_host(cert, host, 0, 0, NULL) == 1;
}


static bool
apikey_doctor_resp_numeric(const char *host)
{
    unsigned char  addr[16];

    return inet_pton(AF_INET, host, addr) == 1
           || inet_pton(AF_INET6, host, addr) == 1;
}


static bool
apikey_doctor_resp_openssl(apikey_doctor_resp_t *c)
{
    unsigned long  error;

    error = ERR_get_error();

    snprintf(c->why, sizeof(c->why), "no TLS: %s",
             error ? ERR_reason_error_string(error) : "it does not answer");

    ERR_clear_error();

    return false;
}


redisReply *
apikey_doctor_resp_command(apikey_doctor_resp_t *c, ...)
{
    int          n;
    char        *text;
    bool         good;
    size_t       len;
    va_list      list;
    long long    size;
    const char  *words[APIKEY_DOCTOR_RESP_WORDS];
    size_t       lens[APIKEY_DOCTOR_RESP_WORDS];

    va_start(list, c);

    for (n = 0; n < APIKEY_DOCTOR_RESP_WORDS; n++) {
        words[n] = va_arg(list, const char *);

        if (words[n] == NULL) {
            break;
        }

        lens[n] = strlen(words[n]);
    }

    va_end(list);

    text = NULL;
    size = redisFormatCommandArgv(&text, n, words, lens);
    len = size > 0 ? (size_t) size : 0;

    good = len && apikey_doctor_resp_write(c, text, len);

    redisFreeCommand(text);

    return good ? apikey_doctor_resp_read(c) : NULL;
}


static bool
apikey_doctor_resp_write(apikey_doctor_resp_t *c, const char *p, size_t len)
{
    ssize_t  n;

    while (len) {
        n = c->ssl ? SSL_write(c->ssl, p, (int) len)
                   : send(c->fd, p, len, MSG_NOSIGNAL);

        if (n <= 0) {
            snprintf(c->why, sizeof(c->why), "it closed the connection");
            return false;
        }

        p += n;
        len -= (size_t) n;
    }

    return true;
}


static redisReply *
apikey_doctor_resp_read(apikey_doctor_resp_t *c)
{
    char     buffer[APIKEY_DOCTOR_RESP_BUFFER];
    void    *reply;
    ssize_t  n;

    for ( ;; ) {
        reply = NULL;

        if (redisReaderGetReply(c->reader, &reply) != REDIS_OK) {
            snprintf(c->why, sizeof(c->why), "it does not speak RESP");
            return NULL;
        }

        if (reply) {
            return reply;
        }

        n = c->ssl ? SSL_read(c->ssl, buffer, sizeof(buffer))
                   : recv(c->fd, buffer, sizeof(buffer), 0);

        if (n <= 0) {
            if (c->ssl && ERR_peek_error()) {
                (void) apikey_doctor_resp_openssl(c);

            } else {
                snprintf(c->why, sizeof(c->why), "%s",
                         n == -1 ? "it does not answer"
                                 : "it closed the connection");
            }

            return NULL;
        }

        (void) redisReaderFeed(c->reader, buffer, (size_t) n);
    }
}
