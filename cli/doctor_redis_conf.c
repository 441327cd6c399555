
/*
 * The words of apikey_redis, from nginx's configuration or as they are given
 * to --redis: nginx -t has checked the former, so little is said here.
 */


#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

#include "doctor_redis.h"


static bool apikey_doctor_redis_word(apikey_doctor_redis_conf_t *conf,
    char *word);
static bool apikey_doctor_redis_url(apikey_doctor_redis_conf_t *conf,
    apikey_doctor_url_t *u, char *url);
static void apikey_doctor_redis_user(apikey_doctor_url_t *u);
static bool apikey_doctor_redis_host(apikey_doctor_url_t *u);
static void apikey_doctor_redis_plain(char *text);
static char *apikey_doctor_redis_password(apikey_doctor_t *d,
    const char *file);


bool
apikey_doctor_redis_conf(apikey_doctor_t *d, apikey_doctor_redis_conf_t *conf)
{
    int    i;
    char  *word, *rest;
    bool   good;

    memset(conf, 0, sizeof(apikey_doctor_redis_conf_t));

    conf->text = strdup(d->redis);
    conf->verify = true;
    good = conf->text != NULL;

    for (word = good ? strtok_r(conf->text, " \n", &rest) : NULL;
         word && good;
         word = strtok_r(NULL, " \n", &rest))
    {
        good = apikey_doctor_redis_word(conf, word);
    }

    if (!good || conf->n == 0) {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "Redis",
                          "redis://[user[:password]@]host[:port][/db], the "
                          "same with rediss://, or unix:path[?db=db] is the "
                          "form of its URL, and what else apikey_redis takes "
                          "may follow");
        return false;
    }

    for (i = 0; i < conf->n; i++) {

        if (conf->urls[i].port < 0) {
            conf->urls[i].port = conf->sentinel ? 26379 : 6379;
        }
    }

    conf->secret = d->password_file
                   ? apikey_doctor_redis_password(d, d->password_file)
                   : conf->password ? strdup(conf->password) : NULL;

    return true;
}


void
apikey_doctor_redis_conf_free(apikey_doctor_redis_conf_t *conf)
{
    free(conf->secret);
    free(conf->text);
}


static bool
apikey_doctor_redis_word(apikey_doctor_redis_conf_t *conf, char *word)
{
    size_t  i, len;

    const struct {
        const char   *name;
        const char  **value;
    } params[] = {
        { "sentinel=", &conf->sentinel },
        { "ca=", &conf->ca },
        { "cert=", &conf->cert },
        { "cert_key=", &conf->cert_key },
    };

    if (strcmp(word, "cluster") == 0) {
        conf->cluster = true;
        return true;
    }

    if (strcmp(word, "verify=off") == 0) {
        conf->verify = false;
        return true;
    }

    for (i = 0; i < sizeof(params) / sizeof(params[0]); i++) {
        len = strlen(params[i].name);

        if (strncmp(word, params[i].name, len) == 0) {
            *params[i].value = word + len;
            return true;
        }
    }

    if (conf->n && strchr(word, '=') && strncmp(word, "unix:", 5) != 0
        && strncmp(word, "redis", 5) != 0)
    {
        return true;             /* timeout, prefix: of no use here */
    }

    return conf->n < APIKEY_DOCTOR_URLS
           && apikey_doctor_redis_url(conf, &conf->urls[conf->n], word);
}


static bool
apikey_doctor_redis_url(apikey_doctor_redis_conf_t *conf,
    apikey_doctor_url_t *u, char *url)
{
    char  *p;

    if (strncmp(url, "unix:", 5) == 0) {
        u->host = url + 5;
        p = strstr(u->host, "?db=");

        if (p) {
            *p = '\0';
            conf->db = atoi(p + 4);
        }

        conf->n++;

        return u->host[0] != '\0';
    }

    u->tls = strncmp(url, "rediss://", 9) == 0;

    if (!u->tls && strncmp(url, "redis://", 8) != 0) {
        return false;
    }

    u->host = url + (u->tls ? 9 : 8);

    apikey_doctor_redis_user(u);

    if (!apikey_doctor_redis_host(u)) {
        return false;
    }

    conf->n++;
    conf->tls |= u->tls;
    conf->user = u->user && u->user[0] ? u->user : conf->user;
    conf->password = u->password ? u->password : conf->password;
    conf->db = u->db ? u->db : conf->db;

    return true;
}


static void
apikey_doctor_redis_user(apikey_doctor_url_t *u)
{
    char  *p;

    p = strrchr(u->host, '@');

    if (p == NULL) {
        return;
    }

    *p = '\0';
    u->user = u->host;
    u->host = p + 1;
    u->password = strchr(u->user, ':');

    if (u->password) {
        *u->password++ = '\0';
        apikey_doctor_redis_plain(u->password);
    }

    apikey_doctor_redis_plain(u->user);
}


/* port -1: none was given */

static bool
apikey_doctor_redis_host(apikey_doctor_url_t *u)
{
    char  *p, *end;

    u->port = -1;

    p = strchr(u->host, '/');

    if (p) {
        *p = '\0';
        u->db = atoi(p + 1);
    }

    end = u->host[0] == '[' ? strchr(u->host, ']') : u->host;

    if (end == NULL) {
        return false;
    }

    p = strchr(end, ':');

    if (p) {
        *p = '\0';
        u->port = atoi(p + 1);
    }

    if (u->host[0] == '[') {
        u->host++;
        *end = '\0';
    }

    return u->host[0] != '\0' && u->port != 0;
}


static void
apikey_doctor_redis_plain(char *text)
{
    int    len;
    char  *plain;

    plain = curl_easy_unescape(NULL, text, 0, &len);

    if (plain) {
        memcpy(text, plain, (size_t) len);
        text[len] = '\0';
    }

    curl_free(plain);
}


static char *
apikey_doctor_redis_password(apikey_doctor_t *d, const char *file)
{
    char     text[1024];
    FILE    *f;
    size_t   n;

    f = fopen(file, "r");

    if (f == NULL) {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "password of Redis",
                          "cannot open \"%s\"", file);
        return NULL;
    }

    n = fread(text, 1, sizeof(text) - 1, f);
    (void) fclose(f);

    while (n && (text[n - 1] == '\n' || text[n - 1] == '\r')) {
        n--;
    }

    return strndup(text, n);
}
