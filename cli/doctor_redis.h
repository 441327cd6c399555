
/*
 * What doctor_redis.c (what to look at), doctor_redis_conf.c (where that is)
 * and doctor_resp.c (a connection) share.
 *
 * A connection and a reply are their taker's to free; texts of a
 * configuration live as long as that.
 */


#ifndef APIKEY_CTL_DOCTOR_REDIS_H_INCLUDED
#define APIKEY_CTL_DOCTOR_REDIS_H_INCLUDED


#include <hiredis/hiredis.h>

#include "doctor.h"


#define APIKEY_DOCTOR_URLS  32


typedef struct {
    char   *host;                /* or path */
    char   *user;                /* NULL: none */
    char   *password;
    int     port;                /* 0: a path */
    int     db;
    bool    tls;
} apikey_doctor_url_t;


typedef struct {
    char                 *text;  /* the others point into it */
    apikey_doctor_url_t   urls[APIKEY_DOCTOR_URLS];
    int                   n;
    bool                  cluster;
    const char           *sentinel;
    const char           *ca;
    const char           *cert;
    const char           *cert_key;
    bool                  verify;

    char                 *user;
    char                 *password;      /* of a URL */
    char                 *secret;        /* that, or the file's: its own */
    int                   db;
    bool                  tls;
} apikey_doctor_redis_conf_t;


typedef struct apikey_doctor_resp_s  apikey_doctor_resp_t;


/* doctor_redis_conf.c: false: it is wrong, as has been said. */
bool apikey_doctor_redis_conf(apikey_doctor_t *d,
    apikey_doctor_redis_conf_t *conf);
void apikey_doctor_redis_conf_free(apikey_doctor_redis_conf_t *conf);


/* doctor_resp.c */

/* NULL: out of memory; one that failed says why(). */
apikey_doctor_resp_t *apikey_doctor_resp_open(
    const apikey_doctor_redis_conf_t *conf, const char *host, int port);
void apikey_doctor_resp_close(apikey_doctor_resp_t *c);
const char *apikey_doctor_resp_why(const apikey_doctor_resp_t *c);

/* Words up to NULL; no reply: why() says why. */
redisReply *apikey_doctor_resp_command(apikey_doctor_resp_t *c, ...);


#endif /* APIKEY_CTL_DOCTOR_REDIS_H_INCLUDED */
