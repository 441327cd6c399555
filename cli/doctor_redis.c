
/*
 * Redis: whether it keeps what limits need, and its clock.
 *
 * Everything but the time comes from INFO, which managed Redis answers where
 * it refuses CONFIG.
 */


#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include <curl/curl.h>
#include <hiredis/hiredis.h>

#include "base/clock.h"

#include "doctor.h"


#define APIKEY_DOCTOR_REDIS    "Redis"
#define APIKEY_DOCTOR_TIMEOUT  5               /* seconds */


typedef struct {
    char   *copy;                /* of the URL; the others point into it */
    char   *host;                /* or path */
    char   *user;
    char   *password;
    int     port;                /* 0: a path */
    int     db;
} apikey_doctor_url_t;


static bool apikey_doctor_redis_url(apikey_doctor_url_t *u, const char *url);
static void apikey_doctor_redis_user(apikey_doctor_url_t *u);
static bool apikey_doctor_redis_host(apikey_doctor_url_t *u);
static void apikey_doctor_redis_plain(char *text);
static bool apikey_doctor_redis_login(apikey_doctor_t *d, redisContext *redis,
    const apikey_doctor_url_t *u);
static char *apikey_doctor_redis_password(apikey_doctor_t *d,
    const char *file);
static bool apikey_doctor_redis_good(apikey_doctor_t *d, redisContext *redis,
    redisReply *reply, const char *what);
static void apikey_doctor_redis_info(apikey_doctor_t *d, const char *info);
static void apikey_doctor_redis_memory(apikey_doctor_t *d, const char *info);
static const char *apikey_doctor_redis_value(const char *info,
    const char *name, char *out, size_t size);
static void apikey_doctor_redis_clock(apikey_doctor_t *d,
    redisContext *redis);


void
apikey_doctor_redis(apikey_doctor_t *d)
{
    redisReply           *reply;
    redisContext         *redis;
    struct timeval        timeout = { APIKEY_DOCTOR_TIMEOUT, 0 };
    apikey_doctor_url_t   u;

    if (!apikey_doctor_redis_url(&u, d->redis)) {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, APIKEY_DOCTOR_REDIS,
                          "redis://[user[:password]@]host[:port][/db] or "
                          "unix:path[?db=db] is the form of its URL");
        free(u.copy);
        return;
    }

    redis = u.port ? redisConnectWithTimeout(u.host, u.port, timeout)
                   : redisConnectUnixWithTimeout(u.host, timeout);

    if (redis == NULL || redis->err) {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, APIKEY_DOCTOR_REDIS,
                          "%s: %s", u.host,
                          redis ? redis->errstr : "out of memory");

    } else {
        (void) redisSetTimeout(redis, timeout);

        if (apikey_doctor_redis_login(d, redis, &u)) {
            reply = redisCommand(redis, "INFO");

            if (apikey_doctor_redis_good(d, redis, reply, "INFO")) {
                apikey_doctor_redis_info(d, reply->str ? reply->str : "");
                apikey_doctor_redis_clock(d, redis);
            }

            freeReplyObject(reply);
        }
    }

    if (redis) {
        redisFree(redis);
    }

    free(u.copy);
}


static bool
apikey_doctor_redis_url(apikey_doctor_url_t *u, const char *url)
{
    char  *p;

    memset(u, 0, sizeof(apikey_doctor_url_t));

    u->copy = strdup(url);

    if (u->copy == NULL) {
        return false;
    }

    if (strncmp(u->copy, "unix:", 5) == 0) {
        u->host = u->copy + 5;
        p = strstr(u->host, "?db=");

        if (p) {
            *p = '\0';
            u->db = atoi(p + 4);
        }

        return u->host[0] != '\0';
    }

    if (strncmp(u->copy, "redis://", 8) != 0) {
        return false;
    }

    u->host = u->copy + 8;
    u->port = 6379;

    apikey_doctor_redis_user(u);

    return apikey_doctor_redis_host(u);
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


static bool
apikey_doctor_redis_host(apikey_doctor_url_t *u)
{
    char  *p, *end;

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

    return u->host[0] != '\0' && u->port > 0;
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


static bool
apikey_doctor_redis_login(apikey_doctor_t *d, redisContext *redis,
    const apikey_doctor_url_t *u)
{
    bool         good;
    char        *password;
    redisReply  *reply;

    password = d->password_file
               ? apikey_doctor_redis_password(d, d->password_file)
               : u->password ? strdup(u->password) : NULL;

    good = true;

    if (password) {
        reply = u->user && u->user[0]
                ? redisCommand(redis, "AUTH %s %s", u->user, password)
                : redisCommand(redis, "AUTH %s", password);

        good = apikey_doctor_redis_good(d, redis, reply, "AUTH");
        freeReplyObject(reply);
    }

    if (good && u->db) {
        reply = redisCommand(redis, "SELECT %d", u->db);
        good = apikey_doctor_redis_good(d, redis, reply, "SELECT");
        freeReplyObject(reply);
    }

    free(password);

    return good;
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


static bool
apikey_doctor_redis_good(apikey_doctor_t *d, redisContext *redis,
    redisReply *reply, const char *what)
{
    if (reply && reply->type != REDIS_REPLY_ERROR) {
        return true;
    }

    apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, APIKEY_DOCTOR_REDIS, "%s: %s",
                      what, reply ? reply->str : redis->errstr);

    return false;
}


static void
apikey_doctor_redis_info(apikey_doctor_t *d, const char *info)
{
    char         version[32], role[32], aof[8];
    bool         old;
    const char  *product;

    product = apikey_doctor_redis_value(info, "valkey_version", version,
                                        sizeof(version)) ? "Valkey" : "Redis";

    if (version[0] == '\0') {
        (void) apikey_doctor_redis_value(info, "redis_version", version,
                                         sizeof(version));
    }

    old = atoi(version) < 6;

    apikey_doctor_say(d, old ? APIKEY_DOCTOR_FAIL : APIKEY_DOCTOR_OK,
                      APIKEY_DOCTOR_REDIS, "%s %s%s", product, version,
                      old ? ": 6 or later is needed" : "");

    if (apikey_doctor_redis_value(info, "role", role, sizeof(role))
        && strcmp(role, "master") != 0)
    {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "role of Redis", "it is a "
                          "replica and takes no writes: name the master");
    }

    apikey_doctor_redis_memory(d, info);

    if (apikey_doctor_redis_value(info, "aof_enabled", aof, sizeof(aof))
        && strcmp(aof, "1") == 0)
    {
        apikey_doctor_say(d, APIKEY_DOCTOR_OK, "durability of Redis",
                          "appendonly is on");

    } else {
        apikey_doctor_say(d, APIKEY_DOCTOR_WARN, "durability of Redis",
                          "appendonly is off: after a restart each bucket "
                          "admits one burst again; set appendonly yes");
    }
}


/* Where Redis throws values away a limit starts anew. */

static void
apikey_doctor_redis_memory(apikey_doctor_t *d, const char *info)
{
    bool                    safe;
    char                    policy[32], evicted[32], most[32], used[32];
    unsigned long long      limit;
    apikey_doctor_level_e   level;

    (void) apikey_doctor_redis_value(info, "maxmemory_policy", policy,
                                     sizeof(policy));
    (void) apikey_doctor_redis_value(info, "maxmemory", most, sizeof(most));
    (void) apikey_doctor_redis_value(info, "used_memory", used, sizeof(used));
    (void) apikey_doctor_redis_value(info, "evicted_keys", evicted,
                                     sizeof(evicted));

    safe = strcmp(policy, "noeviction") == 0;
    limit = strtoull(most, NULL, 10);
    level = safe ? APIKEY_DOCTOR_OK
            : limit ? APIKEY_DOCTOR_FAIL : APIKEY_DOCTOR_WARN;

    apikey_doctor_say(d, level, "memory of Redis", "maxmemory-policy is %s%s",
                      policy[0] ? policy : "unknown",
                      safe ? "" : ": limits that are evicted start anew; set "
                                  "noeviction");

    if (strtoull(evicted, NULL, 10)) {
        apikey_doctor_say(d, APIKEY_DOCTOR_WARN, "memory of Redis", "%s "
                          "values were evicted since it started", evicted);
    }

    if (limit && strtoull(used, NULL, 10) > limit / 10 * 9) {
        apikey_doctor_say(d, APIKEY_DOCTOR_WARN, "memory of Redis", "over "
                          "nine tenths of maxmemory are used: a full Redis "
                          "counts as down");
    }
}


/* A line "name:value" of INFO; NULL, and an empty out, where there is none. */

static const char *
apikey_doctor_redis_value(const char *info, const char *name, char *out,
    size_t size)
{
    size_t       len, n;
    const char  *line;

    len = strlen(name);
    out[0] = '\0';

    for (line = info; line; line = strchr(line, '\n')) {
        line += *line == '\n';

        if (strncmp(line, name, len) == 0 && line[len] == ':') {
            line += len + 1;
            n = strcspn(line, "\r\n");

            if (n < size) {
                memcpy(out, line, n);
                out[n] = '\0';
                return out;
            }
        }
    }

    return NULL;
}


static void
apikey_doctor_redis_clock(apikey_doctor_t *d, redisContext *redis)
{
    int64_t      before, after;
    redisReply  *reply;

    before = apikey_clock_real();
    reply = redisCommand(redis, "TIME");
    after = apikey_clock_real();

    if (apikey_doctor_redis_good(d, redis, reply, "TIME")
        && reply->type == REDIS_REPLY_ARRAY && reply->elements == 2
        && reply->element[0]->str && reply->element[1]->str)
    {
        apikey_doctor_clock(d, "clock of Redis",
                            atoll(reply->element[0]->str) * 1000000
                            + atoll(reply->element[1]->str), before, after);
    }

    freeReplyObject(reply);
}
