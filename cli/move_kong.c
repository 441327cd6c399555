
/*
 * apikeyctl import --from kong: decK's JSON, or pages of the Admin API
 * (consumers, key-auths, acls, plugins) in any order.
 *
 * A consumer becomes the owner, each of its keys a key.  Its limits are
 * shared by its keys: they go to the key where there is one, else to the
 * owner.
 */


#include <string.h>

#include "move.h"


typedef struct {
    json_t  *consumers;          /* id -> {consumer, keys, groups, plugins} */
    json_t  *names;              /* username -> id, for decK's references */
} apikey_move_kong_t;


static void apikey_move_kong_item(apikey_move_t *m, json_t *item, void *data);
static void apikey_move_kong_consumer(apikey_move_kong_t *k, json_t *item);
static void apikey_move_kong_parts(apikey_move_t *m, json_t *item,
    void *data);
static void apikey_move_kong_plugin(apikey_move_t *m, apikey_move_kong_t *k,
    json_t *item);
static json_t *apikey_move_kong_of(apikey_move_kong_t *k, const json_t *item);
static void apikey_move_kong_put(json_t *consumer, const char *list,
    const json_t *from);
static void apikey_move_kong_rows(apikey_move_t *m, const json_t *consumer);
static json_t *apikey_move_kong_row(apikey_move_t *m, const json_t *consumer,
    const json_t *key, const char *name);
static void apikey_move_kong_limits(apikey_move_t *m, const json_t *consumer,
    json_t *limits, const char *what, const char *by);
static void apikey_move_kong_limit(apikey_move_t *m, const json_t *config,
    json_t *limits, const char *what);


void
apikey_move_kong(apikey_move_t *m)
{
    json_t              *consumer;
    const char          *id;
    apikey_move_kong_t   k;

    k.consumers = json_object();
    k.names = json_object();

    apikey_move_each(m, apikey_move_kong_item, &k);
    apikey_move_each(m, apikey_move_kong_parts, &k);

    json_object_foreach(k.consumers, id, consumer) {
        apikey_move_kong_rows(m, consumer);
    }

    json_decref(k.consumers);
    json_decref(k.names);
}


/* First the consumers, then what belongs to them. */

static void
apikey_move_kong_item(apikey_move_t *m, json_t *item, void *data)
{
    apikey_move_kong_t  *k = data;

    size_t   i;
    json_t  *list, *consumer;

    (void) m;

    list = json_object_get(item, "consumers");

    if (json_is_array(list)) {
        json_array_foreach(list, i, consumer) {
            apikey_move_kong_consumer(k, consumer);
        }

    } else if (apikey_move_text(item, "username")
               || apikey_move_text(item, "custom_id"))
    {
        apikey_move_kong_consumer(k, item);
    }
}


static void
apikey_move_kong_consumer(apikey_move_kong_t *k, json_t *item)
{
    json_t      *consumer;
    const char  *id, *username;

    username = apikey_move_text(item, "username");

    if (username == NULL) {
        username = apikey_move_text(item, "custom_id");
    }

    id = apikey_move_text(item, "id");

    if (id == NULL) {
        id = username;
    }

    if (id == NULL) {
        return;
    }

    consumer = json_pack("{s:O, s:s, s:[], s:[], s:[]}", "consumer", item,
                         "name", username ? username : id,
                         "keys", "groups", "plugins");

    apikey_move_kong_put(consumer, "keys",
                         json_object_get(item, "keyauth_credentials"));
    apikey_move_kong_put(consumer, "groups", json_object_get(item, "acls"));
    apikey_move_kong_put(consumer, "plugins",
                         json_object_get(item, "plugins"));

    (void) json_object_set_new(k->consumers, id, consumer);

    if (username) {
        (void) json_object_set_new(k->names, username, json_string(id));
    }
}


static void
apikey_move_kong_parts(apikey_move_t *m, json_t *item, void *data)
{
    apikey_move_kong_t  *k = data;

    size_t   i;
    json_t  *list, *part;

    if (json_object_get(item, "_format_version")
        || json_object_get(item, "consumers"))
    {
        list = json_object_get(item, "plugins");

        json_array_foreach(list, i, part) {
            apikey_move_kong_plugin(m, k, part);
        }

        return;
    }

    if (json_is_object(json_object_get(item, "config"))) {
        apikey_move_kong_plugin(m, k, item);
        return;
    }

    if (apikey_move_text(item, "username")
        || apikey_move_text(item, "custom_id"))
    {
        return;
    }

    part = apikey_move_kong_of(k, item);

    if (apikey_move_text(item, "group")) {
        (void) json_array_append(json_object_get(part, "groups"), item);

    } else if (part) {
        (void) json_array_append(json_object_get(part, "keys"), item);

    } else {
        apikey_move_leave(m, apikey_move_text(item, "id")
                             ? apikey_move_text(item, "id") : "?",
                          "its consumer is in none of the files");
    }
}


/* A plugin of a consumer, or one that holds for all of them. */

static void
apikey_move_kong_plugin(apikey_move_t *m, apikey_move_kong_t *k, json_t *item)
{
    json_t      *consumer;
    const char  *name;

    name = apikey_move_text(item, "name");
    consumer = apikey_move_kong_of(k, item);

    if (name == NULL || !apikey_move_true(item, "enabled", true)) {
        return;
    }

    if (consumer) {
        (void) json_array_append(json_object_get(consumer, "plugins"), item);

    } else if (strncmp(name, "rate-limiting", strlen("rate-limiting")) == 0
               || strcmp(name, "response-ratelimiting") == 0)
    {
        apikey_move_warn(m, name, "a plugin of no consumer, which limits all "
                         "of them, is not moved: give keys or owners the "
                         "limit");
    }
}


/* "consumer": {"id": ID} in the Admin API, "consumer": NAME in decK. */

static json_t *
apikey_move_kong_of(apikey_move_kong_t *k, const json_t *item)
{
    const char    *id;
    const json_t  *of;

    of = json_object_get(item, "consumer");
    id = json_string_value(json_is_object(of) ? json_object_get(of, "id")
                                              : of);

    if (id && json_object_get(k->names, id)) {
        id = json_string_value(json_object_get(k->names, id));
    }

    return id ? json_object_get(k->consumers, id) : NULL;
}


static void
apikey_move_kong_put(json_t *consumer, const char *list, const json_t *from)
{
    size_t   i;
    json_t  *item;

    json_array_foreach(from, i, item) {
        (void) json_array_append(json_object_get(consumer, list), item);
    }
}


static void
apikey_move_kong_rows(apikey_move_t *m, const json_t *consumer)
{
    size_t       i, n;
    json_t      *keys, *key, *row;
    const char  *name, *owner;

    name = apikey_move_text(consumer, "name");
    owner = apikey_move_text(json_object_get(consumer, "consumer"),
                             "custom_id");
    keys = json_object_get(consumer, "keys");
    n = json_array_size(keys);

    if (owner == NULL) {
        owner = name;
    }

    json_array_foreach(keys, i, key) {
        row = apikey_move_kong_row(m, consumer, key, name);

        if (row == NULL) {
            continue;
        }

        apikey_move_set(row, "owner", owner);

        apikey_move_kong_limits(m, consumer, apikey_move_limits(row), name,
                                "credential");

        if (n == 1) {
            apikey_move_kong_limits(m, consumer, apikey_move_limits(row),
                                    name, "consumer");
        }

        apikey_move_add(m, row);
    }

    if (n > 1) {
        apikey_move_kong_limits(m, consumer, apikey_move_owner(m, owner),
                                name, "consumer");
    }
}


/* NULL: left out. */

static json_t *
apikey_move_kong_row(apikey_move_t *m, const json_t *consumer,
    const json_t *key, const char *name)
{
    size_t   i;
    json_t  *row, *groups, *group, *scopes;

    row = apikey_move_row(m, name);

    if (!apikey_move_key(m, row, name, apikey_move_text(key, "key"))
        || !apikey_move_ttl(m, row, name, json_object_get(key, "ttl")))
    {
        return NULL;
    }

    apikey_move_created(row, json_object_get(key, "created_at"));

    groups = json_object_get(consumer, "groups");
    scopes = json_array();

    json_array_foreach(groups, i, group) {
        (void) json_array_append(scopes, json_object_get(group, "group"));
    }

    if (json_array_size(scopes)) {
        (void) json_object_set(row, "scopes", scopes);
    }

    json_decref(scopes);

    if (json_array_size(json_object_get(key, "tags"))) {
        (void) json_object_set_new(row, "metadata",
                                   json_pack("{s:O}", "tags",
                                             json_object_get(key, "tags")));
    }

    return row;
}


/* by: consumer, which is the default, or credential */

static void
apikey_move_kong_limits(apikey_move_t *m, const json_t *consumer,
    json_t *limits, const char *what, const char *by)
{
    size_t         i;
    json_t        *plugins, *plugin;
    const char    *name, *is;
    const json_t  *config;

    plugins = json_object_get(consumer, "plugins");

    json_array_foreach(plugins, i, plugin) {
        name = apikey_move_text(plugin, "name");
        config = json_object_get(plugin, "config");
        is = apikey_move_text(config, "limit_by");

        if (name == NULL || !apikey_move_true(plugin, "enabled", true)) {
            continue;
        }

        if (strcmp(name, "rate-limiting") != 0) {
            if (strcmp(by, "consumer") == 0) {
                apikey_move_warn(m, what, "its plugin %s is not moved", name);
            }

        } else if (json_is_object(json_object_get(plugin, "service"))
                   || json_is_object(json_object_get(plugin, "route"))
                   || apikey_move_text(plugin, "service")
                   || apikey_move_text(plugin, "route"))
        {
            if (strcmp(by, "consumer") == 0) {
                apikey_move_warn(m, what, "its limit for one route or service "
                                 "is left out");
            }

        } else if (strcmp(is ? is : "consumer", by) == 0) {
            apikey_move_kong_limit(m, config, limits, what);

        } else if (strcmp(by, "consumer") == 0
                   && strcmp(is, "credential") != 0)
        {
            apikey_move_warn(m, what, "its limit by %s is left out", is);
        }
    }
}


/*
 * A calendar second, minute or hour becomes a bucket of that length, a day and
 * a month stay what they are.
 */

static void
apikey_move_kong_limit(apikey_move_t *m, const json_t *config,
    json_t *limits, const char *what)
{
    size_t         i;
    const json_t  *n;

    static const struct {
        const char  *name;
        json_int_t   window;     /* 0: of the calendar; < 0: there is none */
    } windows[] = {
        { "second", APIKEY_MOVE_SECOND },
        { "minute", APIKEY_MOVE_MINUTE },
        { "hour", APIKEY_MOVE_HOUR },
        { "day", 0 },
        { "month", 0 },
        { "year", -1 }
    };

    for (i = 0; i < sizeof(windows) / sizeof(windows[0]); i++) {
        n = json_object_get(config, windows[i].name);

        if (!json_is_integer(n)) {
            continue;
        }

        if (windows[i].window > 0) {
            apikey_move_limit(m, limits, what, windows[i].name,
                              json_integer_value(n), windows[i].window, 0);

        } else if (windows[i].window == 0) {
            (void) apikey_move_quota(m, limits, what, windows[i].name,
                                     "requests",
                                     json_integer(json_integer_value(n)),
                                     windows[i].name);

        } else {
            apikey_move_warn(m, what, "its limit of %lld a %s is left out: "
                             "there is no such window",
                             (long long) json_integer_value(n),
                             windows[i].name);
        }
    }
}
