
/*
 * apikeyctl import --from aws: what get-api-keys, get-usage-plans and
 * get-usage-plan-keys print, in any order, or API Gateway's CSV of keys.
 */


#include <math.h>
#include <string.h>

#include "move.h"


typedef struct {
    json_t  *keys;               /* array */
    json_t  *plans;              /* id -> usage plan */
    json_t  *of;                 /* id of a key -> array of ids of plans */
} apikey_move_aws_t;


static void apikey_move_aws_members(apikey_move_aws_t *a,
    const json_t *document);
static void apikey_move_aws_item(apikey_move_t *m, json_t *item, void *data);
static void apikey_move_aws_key(apikey_move_t *m, const apikey_move_aws_t *a,
    const json_t *item);
static void apikey_move_aws_plans(apikey_move_t *m,
    const apikey_move_aws_t *a, json_t *row, const json_t *item,
    const char *what);
static json_t *apikey_move_aws_split(const char *ids);
static void apikey_move_aws_plan(apikey_move_t *m, json_t *row,
    const json_t *plan, const char *what);
static void apikey_move_aws_quota(apikey_move_t *m, json_t *row,
    const json_t *quota, const char *what);
static void apikey_move_aws_throttle(apikey_move_t *m, json_t *row,
    const json_t *throttle, const char *what);
static const char *apikey_move_aws_text(const json_t *item, const char *json,
    const char *csv);


void
apikey_move_aws(apikey_move_t *m)
{
    size_t              i;
    json_t             *document, *key;
    apikey_move_aws_t   a;

    a.keys = json_array();
    a.plans = json_object();
    a.of = json_object();

    json_array_foreach(m->documents, i, document) {
        apikey_move_aws_members(&a, document);
    }

    apikey_move_each(m, apikey_move_aws_item, &a);

    json_array_foreach(a.keys, i, key) {
        apikey_move_aws_key(m, &a, key);
    }

    json_decref(a.keys);
    json_decref(a.plans);
    json_decref(a.of);
}


/* get-usage-plan-keys does not say of which plan: its caller adds that. */

static void
apikey_move_aws_members(apikey_move_aws_t *a, const json_t *document)
{
    size_t       i;
    json_t      *items, *item, *plans;
    const char  *plan, *id;

    plan = apikey_move_text(document, "usagePlanId");
    items = json_object_get(document, "items");

    if (plan == NULL) {
        return;
    }

    json_array_foreach(items, i, item) {
        id = apikey_move_text(item, "id");

        if (id == NULL) {
            continue;
        }

        plans = json_object_get(a->of, id);

        if (plans == NULL) {
            plans = json_array();
            (void) json_object_set_new(a->of, id, plans);
        }

        (void) json_array_append_new(plans, json_string(plan));
    }

    (void) json_array_clear(items);
}


static void
apikey_move_aws_item(apikey_move_t *m, json_t *item, void *data)
{
    apikey_move_aws_t  *a = data;

    const char  *id;

    id = apikey_move_text(item, "id");

    if (json_object_get(item, "value") || json_object_get(item, "key")) {
        (void) json_array_append(a->keys, item);

    } else if (id && (json_object_get(item, "throttle")
                      || json_object_get(item, "quota")
                      || json_object_get(item, "apiStages")))
    {
        (void) json_object_set(a->plans, id, item);

    } else if (!json_object_get(item, "usagePlanId")) {
        id = apikey_move_aws_text(item, "name", "id");

        apikey_move_leave(m, id ? id : "?", "it has no value: get-api-keys "
                          "gives it with --include-values");
    }
}


static void
apikey_move_aws_key(apikey_move_t *m, const apikey_move_aws_t *a,
    const json_t *item)
{
    json_t      *row, *metadata;
    const char  *what, *text;

    what = apikey_move_aws_text(item, "name", "id");

    if (what == NULL) {
        what = "imported from AWS";
    }

    row = apikey_move_row(m, what);

    if (!apikey_move_key(m, row, what,
                         apikey_move_aws_text(item, "value", "key")))
    {
        return;
    }

    if (!apikey_move_true(item, "enabled", true)) {
        (void) json_object_set_new(row, "enabled", json_false());
    }

    apikey_move_created(row, json_object_get(item, "createdDate"));
    apikey_move_set(row, "customer", apikey_move_text(item, "customerId"));

    metadata = json_object();
    text = apikey_move_text(item, "description");

    if (text) {
        (void) json_object_set_new(metadata, "description",
                                   json_string(text));
    }

    if (json_object_size(json_object_get(item, "tags"))) {
        (void) json_object_set(metadata, "tags",
                               json_object_get(item, "tags"));
    }

    apikey_move_metadata(m, row, what, metadata);
    json_decref(metadata);

    apikey_move_aws_plans(m, a, row, item, what);

    apikey_move_add(m, row);
}


static void
apikey_move_aws_plans(apikey_move_t *m, const apikey_move_aws_t *a,
    json_t *row, const json_t *item, const char *what)
{
    json_t        *of;
    const char    *ids, *id;
    const json_t  *plan;

    ids = apikey_move_text(item, "usageplanids");
    id = apikey_move_text(item, "id");

    of = ids ? apikey_move_aws_split(ids)
             : json_incref(id ? json_object_get(a->of, id) : NULL);

    if (json_array_size(of) > 1) {
        apikey_move_warn(m, what, "its %zu usage plans are left out: each "
                         "holds for APIs of its own", json_array_size(of));

    } else if (json_array_size(of) == 1) {
        id = json_string_value(json_array_get(of, 0));
        plan = json_object_get(a->plans, id);

        if (plan) {
            apikey_move_aws_plan(m, row, plan, what);

        } else {
            apikey_move_warn(m, what, "its usage plan %s is in none of the "
                             "files", id);
        }
    }

    json_decref(of);
}


static json_t *
apikey_move_aws_split(const char *ids)
{
    size_t   len;
    json_t  *of;

    of = json_array();

    for (ids += strspn(ids, ", "); *ids; ids += len + strspn(ids + len, ", "))
    {
        len = strcspn(ids, ", ");
        (void) json_array_append_new(of, json_stringn(ids, len));
    }

    return of;
}


static void
apikey_move_aws_plan(apikey_move_t *m, json_t *row, const json_t *plan,
    const char *what)
{
    size_t         i;
    json_t        *stage;
    const json_t  *stages;

    apikey_move_aws_throttle(m, row, json_object_get(plan, "throttle"), what);
    apikey_move_aws_quota(m, row, json_object_get(plan, "quota"), what);

    stages = json_object_get(plan, "apiStages");

    json_array_foreach(stages, i, stage) {
        if (json_object_size(json_object_get(stage, "throttle"))) {
            apikey_move_warn(m, what, "its limits for single methods are left "
                             "out");
            break;
        }
    }
}


static void
apikey_move_aws_quota(apikey_move_t *m, json_t *row, const json_t *quota,
    const char *what)
{
    size_t         i;
    const char    *period;
    const json_t  *limit;

    static const char *const  periods[][2] = {
        { "DAY", "day" }, { "WEEK", "week" }, { "MONTH", "month" }
    };

    limit = json_object_get(quota, "limit");
    period = apikey_move_text(quota, "period");

    if (!json_is_integer(limit)) {
        return;
    }

    for (i = 0; i < sizeof(periods) / sizeof(periods[0]); i++) {

        if (period && strcmp(period, periods[i][0]) == 0) {
            (void) apikey_move_quota(m, apikey_move_limits(row), what, "quota",
                                     "requests",
                                     json_integer(json_integer_value(limit)),
                                     periods[i][1]);
            return;
        }
    }

    apikey_move_warn(m, what, "its quota of %lld a %s is left out: a quota is "
                     "of a DAY, WEEK or MONTH",
                     (long long) json_integer_value(limit),
                     period ? period : "?");
}


/* rateLimit a second, which may be a fraction, and a bucket of burstLimit. */

static void
apikey_move_aws_throttle(apikey_move_t *m, json_t *row,
    const json_t *throttle, const char *what)
{
    size_t         i;
    double         rate, most, n;
    json_int_t     burst;
    const json_t  *number;

    static const json_int_t  windows[] = {
        APIKEY_MOVE_SECOND, 10 * APIKEY_MOVE_SECOND, APIKEY_MOVE_MINUTE,
        100 * APIKEY_MOVE_SECOND, 1000 * APIKEY_MOVE_SECOND, APIKEY_MOVE_HOUR
    };

    number = json_object_get(throttle, "rateLimit");

    if (!json_is_number(number)) {
        return;
    }

    rate = json_number_value(number);
    most = json_number_value(json_object_get(throttle, "burstLimit"));
    burst = (most >= 0 && most < 1e15) ? (json_int_t) most : -1;

    for (i = 0; i < sizeof(windows) / sizeof(windows[0]); i++) {
        n = rate * (double) windows[i] / APIKEY_MOVE_SECOND;

        if (n < 1e15 && fabs(n - round(n)) < 1e-9 * (n + 1)) {
            apikey_move_limit(m, apikey_move_limits(row), what, "throttle",
                              (json_int_t) round(n), windows[i], burst);
            return;
        }
    }

    apikey_move_warn(m, what, "its rate of %.15g a second is left out: there "
                     "is no window in which it is a whole number", rate);
}


static const char *
apikey_move_aws_text(const json_t *item, const char *json, const char *csv)
{
    const char  *text;

    text = apikey_move_text(item, json);

    return text ? text : apikey_move_text(item, csv);
}
