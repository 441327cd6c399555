
/*
 * Redis: whether it keeps what limits need, and its clock; each URL, what
 * Sentinels name, each primary of a Cluster.
 *
 * Everything but the time comes from INFO, which managed Redis answers where
 * it refuses CONFIG.
 */


#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/slot.h"

#include "doctor_redis.h"


#define APIKEY_DOCTOR_REDIS  "Redis"
#define APIKEY_DOCTOR_NAME   512


typedef enum {
    APIKEY_DOCTOR_PRIMARY = 0,
    APIKEY_DOCTOR_REPLICA,
    APIKEY_DOCTOR_GONE           /* as has been said */
} apikey_doctor_role_e;


static void apikey_doctor_redis_servers(apikey_doctor_t *d,
    const apikey_doctor_redis_conf_t *conf);
static void apikey_doctor_redis_sentinels(apikey_doctor_t *d,
    const apikey_doctor_redis_conf_t *conf);
static bool apikey_doctor_redis_sentinel(apikey_doctor_t *d,
    const apikey_doctor_redis_conf_t *conf, const apikey_doctor_url_t *u,
    char *host, int *port);
static void apikey_doctor_redis_cluster(apikey_doctor_t *d,
    const apikey_doctor_redis_conf_t *conf);
static void apikey_doctor_redis_nodes(apikey_doctor_t *d,
    const apikey_doctor_redis_conf_t *conf, const apikey_doctor_url_t *u,
    const char *text);
static apikey_doctor_role_e apikey_doctor_redis_look(apikey_doctor_t *d,
    const apikey_doctor_redis_conf_t *conf, const char *name,
    const char *host, int port, apikey_doctor_level_e level);
static apikey_doctor_resp_t *apikey_doctor_redis_login(apikey_doctor_t *d,
    const apikey_doctor_redis_conf_t *conf, const char *name,
    const char *host, int port, apikey_doctor_level_e level);
static bool apikey_doctor_redis_good(apikey_doctor_t *d,
    apikey_doctor_level_e level, const char *name, apikey_doctor_resp_t *c,
    redisReply *reply, const char *what);
static void apikey_doctor_redis_info(apikey_doctor_t *d, const char *name,
    const char *info);
static void apikey_doctor_redis_memory(apikey_doctor_t *d, const char *name,
    const char *info);
static void apikey_doctor_redis_replicas(apikey_doctor_t *d,
    const char *name, const char *info);
static const char *apikey_doctor_redis_value(const char *info,
    const char *name, char *out, size_t size);
static void apikey_doctor_redis_clock(apikey_doctor_t *d, const char *name,
    apikey_doctor_resp_t *c);


void
apikey_doctor_redis(apikey_doctor_t *d)
{
    apikey_doctor_redis_conf_t  conf;

    if (apikey_doctor_redis_conf(d, &conf)) {

        if (conf.sentinel) {
            apikey_doctor_redis_sentinels(d, &conf);

        } else if (conf.cluster) {
            apikey_doctor_redis_cluster(d, &conf);

        } else {
            apikey_doctor_redis_servers(d, &conf);
        }
    }

    apikey_doctor_redis_conf_free(&conf);
}


/* One of several has to take writes; one alone has to, and to be there. */

static void
apikey_doctor_redis_servers(apikey_doctor_t *d,
    const apikey_doctor_redis_conf_t *conf)
{
    int                         i, primaries;
    char                        name[APIKEY_DOCTOR_NAME];
    const apikey_doctor_url_t  *u;

    u = &conf->urls[0];

    if (conf->n == 1) {

        if (apikey_doctor_redis_look(d, conf, APIKEY_DOCTOR_REDIS, u->host,
                                     u->port, APIKEY_DOCTOR_FAIL)
            == APIKEY_DOCTOR_REPLICA)
        {
            apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "role of Redis", "it is "
                              "a replica and takes no writes: name the "
                              "master");
        }

        return;
    }

    primaries = 0;

    for (i = 0; i < conf->n; i++) {
        u = &conf->urls[i];
        snprintf(name, sizeof(name), "Redis at %s:%d", u->host, u->port);

        primaries += apikey_doctor_redis_look(d, conf, name, u->host, u->port,
                                              APIKEY_DOCTOR_WARN)
                     == APIKEY_DOCTOR_PRIMARY;
    }

    if (primaries != 1) {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, APIKEY_DOCTOR_REDIS,
                          "%d of %d URLs take writes, one should", primaries,
                          conf->n);
    }
}


static void
apikey_doctor_redis_sentinels(apikey_doctor_t *d,
    const apikey_doctor_redis_conf_t *conf)
{
    int   i, port, told, others;
    char  host[APIKEY_DOCTOR_NAME], first[APIKEY_DOCTOR_NAME];
    int   first_port;

    told = 0;
    others = 0;
    first_port = 0;

    for (i = 0; i < conf->n; i++) {

        if (!apikey_doctor_redis_sentinel(d, conf, &conf->urls[i], host,
                                          &port))
        {
            continue;
        }

        if (told++ == 0) {
            memcpy(first, host, sizeof(first));
            first_port = port;
        }

        others += strcmp(first, host) != 0 || first_port != port;
    }

    if (told == 0) {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "Sentinels", "none says "
                          "where \"%s\" is", conf->sentinel);
        return;
    }

    if (others) {
        apikey_doctor_say(d, APIKEY_DOCTOR_WARN, "Sentinels", "they do not "
                          "agree where \"%s\" is", conf->sentinel);
    }

    if (apikey_doctor_redis_look(d, conf, APIKEY_DOCTOR_REDIS, first,
                                 first_port, APIKEY_DOCTOR_FAIL)
        == APIKEY_DOCTOR_REPLICA)
    {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "role of Redis",
                          "%s:%d is a replica, and the Sentinels say it is "
                          "the master", first, first_port);
    }
}


static bool
apikey_doctor_redis_sentinel(apikey_doctor_t *d,
    const apikey_doctor_redis_conf_t *conf, const apikey_doctor_url_t *u,
    char *host, int *port)
{
    bool                   good;
    char                   name[APIKEY_DOCTOR_NAME];
    redisReply            *reply;
    apikey_doctor_resp_t  *c;

    snprintf(name, sizeof(name), "Sentinel at %s:%d", u->host, u->port);

    c = apikey_doctor_redis_login(d, conf, name, u->host, u->port,
                                  APIKEY_DOCTOR_WARN);
    if (c == NULL) {
        return false;
    }

    reply = apikey_doctor_resp_command(c, "SENTINEL",
                                       "get-master-addr-by-name",
                                       conf->sentinel, NULL);

    good = apikey_doctor_redis_good(d, APIKEY_DOCTOR_WARN, name, c, reply,
                                    "SENTINEL");

    if (good) {
        good = reply->type == REDIS_REPLY_ARRAY && reply->elements == 2;

        if (good) {
            snprintf(host, APIKEY_DOCTOR_NAME, "%s", reply->element[0]->str);
            *port = atoi(reply->element[1]->str);
        }

        apikey_doctor_say(d, good ? APIKEY_DOCTOR_OK : APIKEY_DOCTOR_WARN,
                          name, good ? "\"%s\" is at %s:%d"
                                     : "it does not know \"%s\"",
                          conf->sentinel, host, good ? *port : 0);
    }

    freeReplyObject(reply);
    apikey_doctor_resp_close(c);

    return good;
}


static void
apikey_doctor_redis_cluster(apikey_doctor_t *d,
    const apikey_doctor_redis_conf_t *conf)
{
    int                         i;
    char                        name[APIKEY_DOCTOR_NAME];
    bool                        good;
    redisReply                 *reply;
    apikey_doctor_resp_t       *c;
    const apikey_doctor_url_t  *u;

    good = false;

    for (i = 0; i < conf->n && !good; i++) {
        u = &conf->urls[i];
        snprintf(name, sizeof(name), "Redis at %s:%d", u->host, u->port);

        c = apikey_doctor_redis_login(d, conf, name, u->host, u->port,
                                      APIKEY_DOCTOR_WARN);
        if (c == NULL) {
            continue;
        }

        reply = apikey_doctor_resp_command(c, "CLUSTER", "NODES", NULL);

        good = apikey_doctor_redis_good(d, APIKEY_DOCTOR_WARN, name, c, reply,
                                        "CLUSTER NODES")
               && reply->type == REDIS_REPLY_STRING;

        if (good) {
            apikey_doctor_redis_nodes(d, conf, u, reply->str);
        }

        freeReplyObject(reply);
        apikey_doctor_resp_close(c);
    }

    if (!good) {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "Cluster",
                          "no URL shows its nodes");
    }
}


static void
apikey_doctor_redis_nodes(apikey_doctor_t *d,
    const apikey_doctor_redis_conf_t *conf, const apikey_doctor_url_t *u,
    const char *text)
{
    char                host[APIKEY_DOCTOR_NAME / 2], name[APIKEY_DOCTOR_NAME];
    size_t              len;
    uint16_t            first, last;
    unsigned            slots, mine;
    apikey_slot_node_t  node;

    len = strlen(text);
    slots = 0;

    while (apikey_slot_node(&text, &len, &node)) {
        mine = 0;

        while (node.primary && apikey_slot_range(&node, &first, &last)) {
            mine += last - first + 1u;
        }

        if (mine == 0) {
            continue;
        }

        slots += mine;

        snprintf(host, sizeof(host), "%.*s",
                 (int) (node.host_len ? node.host_len : strlen(u->host)),
                 node.host_len ? node.host : u->host);
        snprintf(name, sizeof(name), "Redis at %s:%d", host, node.port);

        (void) apikey_doctor_redis_look(d, conf, name, host, node.port,
                                        APIKEY_DOCTOR_FAIL);
    }

    apikey_doctor_say(d, slots == APIKEY_SLOTS ? APIKEY_DOCTOR_OK
                                               : APIKEY_DOCTOR_FAIL,
                      "Cluster", "%u of %u slots have a primary", slots,
                      APIKEY_SLOTS);
}


static apikey_doctor_role_e
apikey_doctor_redis_look(apikey_doctor_t *d,
    const apikey_doctor_redis_conf_t *conf, const char *name,
    const char *host, int port, apikey_doctor_level_e level)
{
    char                   db[16], role[32];
    bool                   good;
    redisReply            *reply;
    apikey_doctor_role_e   is;
    apikey_doctor_resp_t  *c;

    c = apikey_doctor_redis_login(d, conf, name, host, port, level);

    if (c == NULL) {
        return APIKEY_DOCTOR_GONE;
    }

    snprintf(db, sizeof(db), "%d", conf->db);

    reply = conf->db ? apikey_doctor_resp_command(c, "SELECT", db, NULL)
                     : NULL;
    good = conf->db == 0
           || apikey_doctor_redis_good(d, level, name, c, reply, "SELECT");
    freeReplyObject(reply);

    reply = good ? apikey_doctor_resp_command(c, "INFO", NULL) : NULL;
    is = APIKEY_DOCTOR_GONE;

    if (good && apikey_doctor_redis_good(d, level, name, c, reply, "INFO")
        && reply->str)
    {
        is = apikey_doctor_redis_value(reply->str, "role", role, sizeof(role))
             && strcmp(role, "master") != 0
             ? APIKEY_DOCTOR_REPLICA : APIKEY_DOCTOR_PRIMARY;

        if (is == APIKEY_DOCTOR_PRIMARY) {
            apikey_doctor_redis_info(d, name, reply->str);
            apikey_doctor_redis_clock(d, name, c);

        } else if (level == APIKEY_DOCTOR_WARN) {
            apikey_doctor_say(d, APIKEY_DOCTOR_OK, name, "it is a replica");
        }
    }

    freeReplyObject(reply);
    apikey_doctor_resp_close(c);

    return is;
}


/* A Sentinel may have no password; one that has says so to what follows. */

static apikey_doctor_resp_t *
apikey_doctor_redis_login(apikey_doctor_t *d,
    const apikey_doctor_redis_conf_t *conf, const char *name,
    const char *host, int port, apikey_doctor_level_e level)
{
    bool                   good;
    redisReply            *reply;
    apikey_doctor_resp_t  *c;

    c = apikey_doctor_resp_open(conf, host, port);

    if (apikey_doctor_resp_why(c)) {
        apikey_doctor_say(d, level, name, "%s: %s", host,
                          apikey_doctor_resp_why(c));
        apikey_doctor_resp_close(c);
        return NULL;
    }

    if (conf->secret == NULL) {
        return c;
    }

    reply = conf->user
            ? apikey_doctor_resp_command(c, "AUTH", conf->user, conf->secret,
                                         NULL)
            : apikey_doctor_resp_command(c, "AUTH", conf->secret, NULL);

    good = (reply && conf->sentinel)
           || apikey_doctor_redis_good(d, level, name, c, reply, "AUTH");

    freeReplyObject(reply);

    if (!good) {
        apikey_doctor_resp_close(c);
        return NULL;
    }

    return c;
}


static bool
apikey_doctor_redis_good(apikey_doctor_t *d, apikey_doctor_level_e level,
    const char *name, apikey_doctor_resp_t *c, redisReply *reply,
    const char *what)
{
    if (reply && reply->type != REDIS_REPLY_ERROR) {
        return true;
    }

    apikey_doctor_say(d, level, name, "%s: %s", what,
                      reply ? reply->str : apikey_doctor_resp_why(c));

    return false;
}


static void
apikey_doctor_redis_info(apikey_doctor_t *d, const char *name,
    const char *info)
{
    char         version[32], aof[8], what[APIKEY_DOCTOR_NAME];
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
                      name, "%s %s%s", product, version,
                      old ? ": 6 or later is needed" : "");

    apikey_doctor_redis_memory(d, name, info);
    apikey_doctor_redis_replicas(d, name, info);

    snprintf(what, sizeof(what), "durability of %s", name);

    if (apikey_doctor_redis_value(info, "aof_enabled", aof, sizeof(aof))
        && strcmp(aof, "1") == 0)
    {
        apikey_doctor_say(d, APIKEY_DOCTOR_OK, what,
                          "appendonly is on");

    } else {
        apikey_doctor_say(d, APIKEY_DOCTOR_WARN, what,
                          "appendonly is off: after a restart each bucket "
                          "admits one burst again; set appendonly yes");
    }
}


/* Where Redis throws values away a limit starts anew. */

static void
apikey_doctor_redis_memory(apikey_doctor_t *d, const char *name,
    const char *info)
{
    bool                    safe;
    char                    what[APIKEY_DOCTOR_NAME];
    char                    policy[32], evicted[32], most[32], used[32];
    unsigned long long      limit;
    apikey_doctor_level_e   level;

    snprintf(what, sizeof(what), "memory of %s", name);

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

    apikey_doctor_say(d, level, what, "maxmemory-policy is %s%s",
                      policy[0] ? policy : "unknown",
                      safe ? "" : ": limits that are evicted start anew; set "
                                  "noeviction");

    if (strtoull(evicted, NULL, 10)) {
        apikey_doctor_say(d, APIKEY_DOCTOR_WARN, what, "%s "
                          "values were evicted since it started", evicted);
    }

    if (limit && strtoull(used, NULL, 10) > limit / 10 * 9) {
        apikey_doctor_say(d, APIKEY_DOCTOR_WARN, what, "over "
                          "nine tenths of maxmemory are used: a full Redis "
                          "counts as down");
    }
}


/* A primary that was cut off must not go on alone. */

static void
apikey_doctor_redis_replicas(apikey_doctor_t *d, const char *name,
    const char *info)
{
    char  n[16], good[16], what[APIKEY_DOCTOR_NAME];

    if (apikey_doctor_redis_value(info, "connected_slaves", n, sizeof(n))
        == NULL || atoi(n) == 0)
    {
        return;
    }

    snprintf(what, sizeof(what), "replicas of %s", name);

    if (apikey_doctor_redis_value(info, "min_slaves_good_slaves", good,
                                  sizeof(good)))
    {
        apikey_doctor_say(d, APIKEY_DOCTOR_OK, what, "%s, of which %s are in "
                          "step", n, good);
        return;
    }

    apikey_doctor_say(d, APIKEY_DOCTOR_WARN, what, "%s, but a primary that is "
                      "cut off from them goes on admitting: set "
                      "min-replicas-to-write 1 and min-replicas-max-lag 1", n);
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
apikey_doctor_redis_clock(apikey_doctor_t *d, const char *name,
    apikey_doctor_resp_t *c)
{
    char         what[APIKEY_DOCTOR_NAME];
    int64_t      before, after;
    redisReply  *reply;

    before = apikey_clock_real();
    reply = apikey_doctor_resp_command(c, "TIME", NULL);
    after = apikey_clock_real();

    snprintf(what, sizeof(what), "clock of %s", name);

    if (apikey_doctor_redis_good(d, APIKEY_DOCTOR_FAIL, name, c, reply, "TIME")
        && reply->type == REDIS_REPLY_ARRAY && reply->elements == 2)
    {
        apikey_doctor_clock(d, what, atoll(reply->element[0]->str) * 1000000
                                     + atoll(reply->element[1]->str),
                            before, after);
    }

    freeReplyObject(reply);
}
