
/*
 * apikeyctl import --from unkey: what apis.listKeys answers, and rows of the
 * table "keys", which alone has the hashes.  Both may be given: what is said
 * of one key is put together by its id.
 */


#include <string.h>

#include "move.h"


static void apikey_move_unkey_item(apikey_move_t *m, json_t *item,
    void *data);
static void apikey_move_unkey_key(apikey_move_t *m, const json_t *key);
static const char *apikey_move_unkey_alg(const json_t *key);
static void apikey_move_unkey_rest(apikey_move_t *m, json_t *row,
    const json_t *key, const char *what);
static void apikey_move_unkey_credits(apikey_move_t *m, json_t *row,
    const json_t *key, const char *what);
static void apikey_move_unkey_owner(apikey_move_t *m, json_t *row,
    const json_t *key, const char *what);
static void apikey_move_unkey_limits(apikey_move_t *m, json_t *limits,
    const json_t *list, const char *what);
static const json_t *apikey_move_unkey_get(const json_t *key, const char *a,
    const char *b);


void
apikey_move_unkey(apikey_move_t *m)
{
    json_t      *keys, *key;
    const char  *id;

    keys = json_object();

    apikey_move_each(m, apikey_move_unkey_item, keys);

    json_object_foreach(keys, id, key) {
        apikey_move_unkey_key(m, key);
    }

    json_decref(keys);
}


static void
apikey_move_unkey_item(apikey_move_t *m, json_t *item, void *data)
{
    json_t  *keys = data;

    json_t      *known;
    const char  *id;

    id = apikey_move_text(item, "keyId");

    if (id == NULL) {
        id = apikey_move_text(item, "id");
    }

    if (id == NULL) {
        apikey_move_leave(m, "?", "an item without id or keyId is no key");
        return;
    }

    known = json_object_get(keys, id);

    if (known) {
        (void) json_object_update_missing(known, item);
        return;
    }

    known = json_copy(item);
    (void) json_object_set_new(known, "keyId", json_string(id));
    (void) json_object_set_new(keys, id, known);
}


static void
apikey_move_unkey_key(apikey_move_t *m, const json_t *key)
{
    bool           good;
    json_t        *row;
    const char    *what, *alg, *plain;
    const json_t  *gone;

    what = apikey_move_text(key, "name");

    if (what == NULL) {
        what = apikey_move_text(key, "keyId");
    }

    gone = apikey_move_unkey_get(key, "deleted_at_m", "deletedAt");

    if (json_number_value(gone) > 0) {
        apikey_move_leave(m, what, "it was deleted");
        return;
    }

    alg = apikey_move_unkey_alg(key);

    if (alg == NULL) {
        apikey_move_leave(m, what, "its hash is of an unknown kind, \"%s\"",
                          apikey_move_text(key, "algorithm"));
        return;
    }

    row = apikey_move_row(m, what);
    plain = apikey_move_text(key, "plaintext");

    if (plain) {
        good = apikey_move_key(m, row, what, plain);

    } else {
        apikey_move_set(row, "start", apikey_move_text(key, "start"));
        apikey_move_prefix(row, apikey_move_text(key, "start"));

        good = apikey_move_hash(m, row, what, apikey_move_text(key, "hash"),
                                alg);
    }

    if (good && apikey_move_expires(m, row, what,
                                    json_object_get(key, "expires")))
    {
        apikey_move_unkey_rest(m, row, key, what);
        apikey_move_add(m, row);
    }
}


/* Keys that Unkey itself moved in have the hash of where they came from,
   until they are used. */

static const char *
apikey_move_unkey_alg(const json_t *key)
{
    const char  *alg;

    alg = apikey_move_text(key, "algorithm");

    if (alg == NULL || strcmp(alg, "sha256") == 0) {
        return "sha256";
    }

    if (strcmp(alg, "github.com/seamapi/prefixed-api-key") == 0) {
        return "sha256-last-segment";
    }

    return NULL;
}


static void
apikey_move_unkey_rest(apikey_move_t *m, json_t *row, const json_t *key,
    const char *what)
{
    json_t        *one;
    const json_t  *n, *ms, *list;

    apikey_move_created(row, apikey_move_unkey_get(key, "createdAt",
                                                   "created_at_m"));
    apikey_move_metadata(m, row, what, json_object_get(key, "meta"));

    if (!apikey_move_true(key, "enabled", true)) {
        (void) json_object_set_new(row, "enabled", json_false());
    }

    list = json_object_get(key, "permissions");

    if (json_array_size(list)) {
        (void) json_object_set(row, "scopes", (json_t *) (uintptr_t) list);
    }

    if (json_array_size(json_object_get(key, "roles"))) {
        apikey_move_warn(m, what, "its roles are not moved: give it their "
                         "permissions as scopes");
    }

    apikey_move_unkey_credits(m, row, key, what);

    apikey_move_unkey_limits(m, apikey_move_limits(row),
                             json_object_get(key, "ratelimits"), what);

    /* keys of before there were several have one without a name */

    one = json_object_get(key, "ratelimit");
    n = one ? json_object_get(one, "limit")
            : json_object_get(key, "ratelimit_limit");
    ms = one ? apikey_move_unkey_get(one, "duration", "refillInterval")
             : json_object_get(key, "ratelimit_duration");

    if (json_is_integer(n) && json_is_integer(ms)) {
        apikey_move_limit(m, apikey_move_limits(row), what, "default",
                          json_integer_value(n), json_integer_value(ms), 0);
    }

    apikey_move_unkey_owner(m, row, key, what);
}


/* The table has a day of the month where the refill is monthly. */

static void
apikey_move_unkey_credits(apikey_move_t *m, json_t *row, const json_t *key,
    const char *what)
{
    json_t        *credits;
    const char    *every;
    const json_t  *n, *refill, *amount, *day;

    n = json_object_get(json_object_get(key, "credits"), "remaining");
    refill = json_object_get(json_object_get(key, "credits"), "refill");

    if (n == NULL) {
        n = apikey_move_unkey_get(key, "remaining", "remaining_requests");
    }

    if (!json_is_integer(n)) {
        return;
    }

    if (refill == NULL) {
        refill = json_object_get(key, "refill");
    }

    amount = refill ? json_object_get(refill, "amount")
                    : json_object_get(key, "refill_amount");
    day = refill ? json_object_get(refill, "refillDay")
                 : json_object_get(key, "refill_day");
    every = apikey_move_text(refill, "interval");

    if (every == NULL) {
        every = json_is_integer(day) ? "monthly" : "daily";
    }

    credits = json_pack("{s:s, s:I}", "unit", "requests", "remaining",
                        json_integer_value(n) < 0 ? (json_int_t) 0
                                                  : json_integer_value(n));

    if (json_is_integer(amount) && json_integer_value(amount) > 0) {
        (void) json_object_set_new(credits, "refill",
                   json_pack("{s:I, s:s}", "amount",
                             json_integer_value(amount), "every",
                             strcmp(every, "daily") == 0 ? "day" : "month"));

        if (json_is_integer(day) && json_integer_value(day) > 1) {
            apikey_move_warn(m, what, "its credits are refilled on day %lld: "
                             "here it is the anchor_day of its owner",
                             (long long) json_integer_value(day));
        }
    }

    (void) json_object_set_new(row, "credits", credits);
}


static void
apikey_move_unkey_owner(apikey_move_t *m, json_t *row, const json_t *key,
    const char *what)
{
    const char    *owner;
    const json_t  *identity, *list;

    identity = json_object_get(key, "identity");
    owner = apikey_move_text(identity, "externalId");

    if (owner == NULL) {
        owner = json_string_value(apikey_move_unkey_get(key, "externalId",
                                                        "external_id"));
    }

    if (owner == NULL) {
        owner = json_string_value(apikey_move_unkey_get(key, "ownerId",
                                                        "owner_id"));
    }

    apikey_move_set(row, "owner", owner);

    list = json_object_get(identity, "ratelimits");

    if (owner && json_array_size(list)
        && json_object_get(m->owners, owner) == NULL)
    {
        apikey_move_unkey_limits(m, apikey_move_owner(m, owner), list, what);
    }
}


static void
apikey_move_unkey_limits(apikey_move_t *m, json_t *limits,
    const json_t *list, const char *what)
{
    size_t       i;
    json_t      *item;
    const char  *name;

    json_array_foreach(list, i, item) {
        name = apikey_move_text(item, "name");

        if (name == NULL) {
            name = "default";
        }

        if (!apikey_move_true(item, "autoApply",
                              apikey_move_true(item, "auto_apply", false)))
        {
            apikey_move_warn(m, what, "its limit \"%s\" is left out: it holds "
                             "only where a request names it", name);
            continue;
        }

        apikey_move_limit(m, limits, what, name,
                   json_integer_value(json_object_get(item, "limit")),
                   json_integer_value(json_object_get(item, "duration")), 0);
    }
}


static const json_t *
apikey_move_unkey_get(const json_t *key, const char *a, const char *b)
{
    const json_t  *value;

    value = json_object_get(key, a);

    return value && !json_is_null(value) ? value : json_object_get(key, b);
}
