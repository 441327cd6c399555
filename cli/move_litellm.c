
/*
 * apikeyctl import --from litellm: rows of "LiteLLM_VerificationToken", or
 * pages of /key/list with return_full_object=true.  The token is the SHA-256
 * of the key in hex.
 */


#include <string.h>

#include "move.h"


static void apikey_move_litellm_item(apikey_move_t *m, json_t *item,
    void *data);
static const char *apikey_move_litellm_hash(const char *token);
static void apikey_move_litellm_hint(json_t *row, const char *name);
static void apikey_move_litellm_owner(json_t *row, const json_t *item);
static void apikey_move_litellm_models(apikey_move_t *m, json_t *row,
    const json_t *item, const char *what);
static void apikey_move_litellm_limits(apikey_move_t *m, json_t *row,
    const json_t *item, const char *what);
static void apikey_move_litellm_budget(apikey_move_t *m, json_t *row,
    const json_t *item, const char *what);
static void apikey_move_litellm_left(apikey_move_t *m, const json_t *item,
    const char *what);


void
apikey_move_litellm(apikey_move_t *m)
{
    apikey_move_each(m, apikey_move_litellm_item, NULL);
}


static void
apikey_move_litellm_item(apikey_move_t *m, json_t *item, void *data)
{
    json_t      *row;
    const char  *what, *token, *name;

    (void) data;

    if (json_is_string(item)) {
        token = apikey_move_litellm_hash(json_string_value(item));
        apikey_move_leave(m, token, "a hash alone: ask /key/list with "
                          "return_full_object=true");
        return;
    }

    token = apikey_move_text(item, "token");
    name = apikey_move_text(item, "key_name");        /* sk-...wxyz */
    what = apikey_move_text(item, "key_alias");

    if (what == NULL) {
        what = name ? name : apikey_move_litellm_hash(token);
    }

    if (token && strlen(token) != 64) {
        apikey_move_leave(m, what, "its token is no SHA-256");
        return;
    }

    if (apikey_move_text(item, "team_id")
        && strcmp(apikey_move_text(item, "team_id"), "litellm-dashboard") == 0)
    {
        apikey_move_leave(m, what, "a login of LiteLLM's dashboard");
        return;
    }

    row = apikey_move_row(m, what);

    if (!apikey_move_hash(m, row, what, token, "sha256")
        || !apikey_move_expires(m, row, what,
                                json_object_get(item, "expires")))
    {
        return;
    }

    if (apikey_move_true(item, "blocked", false)) {
        (void) json_object_set_new(row, "enabled", json_false());
    }

    apikey_move_created(row, json_object_get(item, "created_at"));
    apikey_move_metadata(m, row, what, json_object_get(item, "metadata"));
    apikey_move_litellm_hint(row, name);
    apikey_move_litellm_owner(row, item);
    apikey_move_litellm_models(m, row, item, what);
    apikey_move_litellm_limits(m, row, item, what);
    apikey_move_litellm_left(m, item, what);

    apikey_move_add(m, row);
}


/* What is no hash may be the key itself, and is not shown. */

static const char *
apikey_move_litellm_hash(const char *token)
{
    return token && strlen(token) == 64 ? token : "?";
}


static void
apikey_move_litellm_hint(json_t *row, const char *name)
{
    size_t  len;

    len = name ? strlen(name) : 0;

    if (len > 4 && strncmp(name, "sk-...", 6) == 0) {
        apikey_move_set(row, "start", "sk-");
        apikey_move_set(row, "last4", name + len - 4);
    }
}


/* Keys of a team share the team's budget; who in it has the key is told
   besides. */

static void
apikey_move_litellm_owner(json_t *row, const json_t *item)
{
    const char  *team, *user;

    team = apikey_move_text(item, "team_id");
    user = apikey_move_text(item, "user_id");

    apikey_move_set(row, "owner", team ? team : user);

    if (team) {
        apikey_move_set(row, "customer", user);
    }
}


/* None listed means all; some names mean more than a model. */

static void
apikey_move_litellm_models(apikey_move_t *m, json_t *row, const json_t *item,
    const char *what)
{
    size_t       i;
    bool         all;
    json_t      *models, *model, *list;
    const char  *name;

    models = json_object_get(item, "models");

    if (json_array_size(models) == 0) {
        return;
    }

    all = false;
    list = json_array();

    json_array_foreach(models, i, model) {
        name = json_string_value(model);

        if (name == NULL || strcmp(name, "no-default-models") == 0) {
            continue;
        }

        if (strcmp(name, "all-proxy-models") == 0) {
            all = true;

        } else if (strcmp(name, "all-team-models") == 0) {
            apikey_move_warn(m, what, "all-team-models is not moved: list the "
                             "models in allowed_models");

        } else {
            (void) json_array_append(list, model);
        }
    }

    if (!all) {
        (void) json_object_set(row, "allowed_models", list);
    }

    json_decref(list);
}


static void
apikey_move_litellm_limits(apikey_move_t *m, json_t *row, const json_t *item,
    const char *what)
{
    size_t         i;
    const json_t  *n;

    static const struct {
        const char  *name;
        const char  *is;
        const char  *unit;
        const char  *window;
    } limits[] = {
        { "rpm_limit", "rpm", "requests", "1m" },
        { "tpm_limit", "tpm", "tokens", "1m" },
        { "max_parallel_requests", "parallel", "concurrent", NULL }
    };

    for (i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        n = json_object_get(item, limits[i].name);

        if (json_is_integer(n)) {
            (void) apikey_move_quota(m, apikey_move_limits(row), what,
                                     limits[i].is, limits[i].unit,
                                     json_integer(json_integer_value(n)),
                                     limits[i].window);
        }
    }

    apikey_move_litellm_budget(m, row, item, what);
}


/* LiteLLM begins anew at midnight, on Mondays and on the first, in UTC. */

static void
apikey_move_litellm_budget(apikey_move_t *m, json_t *row, const json_t *item,
    const char *what)
{
    char           money[32];
    size_t         i, len;
    double         most;
    const char    *lasts, *window;
    const json_t  *n;

    static const char *const  windows[][2] = {
        { "1d", "day" }, { "24h", "day" }, { "7d", "week" },
        { "30d", "month" }, { "1mo", "month" }
    };

    n = json_object_get(item, "max_budget");
    lasts = apikey_move_text(item, "budget_duration");

    if (!json_is_number(n)) {
        return;
    }

    most = json_number_value(n);
    window = lasts ? NULL : "total";

    for (i = 0; lasts && i < sizeof(windows) / sizeof(windows[0]); i++) {
        if (strcmp(lasts, windows[i][0]) == 0) {
            window = windows[i][1];
        }
    }

    if (window == NULL || !(most >= 0 && most <= 9000000)) {
        apikey_move_warn(m, what, "its max_budget of %.15g is left out: it is "
                         "of %s", most, lasts ? lasts : "more than 9,000,000");
        return;
    }

    len = (size_t) snprintf(money, sizeof(money), "%.9f", most);

    while (len > 3 && money[len - 1] == '0' && money[len - 3] != '.') {
        money[--len] = '\0';
    }

    (void) apikey_move_quota(m, apikey_move_limits(row), what, "budget",
                             "cost", json_string(money), window);
}


static void
apikey_move_litellm_left(apikey_move_t *m, const json_t *item,
    const char *what)
{
    size_t         i;
    const json_t  *value;

    static const char *const  members[] = {
        "aliases", "config", "permissions", "allowed_routes",
        "model_max_budget", "budget_limits", "allowed_cache_controls",
        "object_permission_id", "budget_id", "organization_id", "project_id",
        "access_group_ids", "policies", "router_settings"
    };

    for (i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        value = json_object_get(item, members[i]);

        if (json_array_size(value) || json_object_size(value)
            || json_string_length(value))
        {
            apikey_move_warn(m, what, "its %s is left out", members[i]);
        }
    }

    value = json_object_get(item, "metadata");

    if (json_object_get(value, "model_rpm_limit")
        || json_object_get(value, "model_tpm_limit"))
    {
        apikey_move_warn(m, what, "its limits by model stay in its metadata "
                         "alone: give it limits with that model");
    }
}
