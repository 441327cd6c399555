
/*
 * The admin API as a table: (method, path, function).  Everything a function
 * does is SQL; to add a route is to add a line, and the operation to
 * docs/openapi.json.
 *
 * Literal paths stand before those with {parameters} that would match them.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/admin.h"


static ngx_int_t ngx_http_apikey_admin_match(ngx_http_apikey_admin_t *a,
    const ngx_http_apikey_admin_route_t *route);
static ngx_int_t ngx_http_apikey_admin_other_method(
    ngx_http_apikey_admin_t *a, ngx_uint_t allowed);


#define ngx_http_apikey_sql(method, pattern, function)                        \
    { method, ngx_string(pattern), function, NULL, 0, 0, 0, 0 }
#define ngx_http_apikey_report(method, pattern, function)                     \
    { method, ngx_string(pattern), function, NULL, 0, 0, 0, 1 }
#define ngx_http_apikey_sql_body(method, pattern, function)                   \
    { method, ngx_string(pattern), function, NULL,                            \
      NGX_HTTP_APIKEY_BODY_JSON, 0, 0, 0 }


static const ngx_http_apikey_admin_route_t  ngx_http_apikey_admin_routes[] = {

    ngx_http_apikey_sql(NGX_HTTP_GET, "api-keys", "key_list"),
    ngx_http_apikey_sql_body(NGX_HTTP_POST, "api-keys", "key_create"),

    { NGX_HTTP_POST, ngx_string("api-keys/import"), "key_import",
      ngx_http_apikey_import, NGX_HTTP_APIKEY_BODY_STREAM, 0, 0, 0 },
    { NGX_HTTP_POST, ngx_string("api-keys/verify"), NULL,
      ngx_http_apikey_verify, NGX_HTTP_APIKEY_BODY_SECRET, 0, 0, 0 },

    ngx_http_apikey_sql(NGX_HTTP_GET, "api-keys/{id}", "key_get"),
    ngx_http_apikey_sql_body(NGX_HTTP_PATCH, "api-keys/{id}", "key_update"),
    ngx_http_apikey_sql_body(NGX_HTTP_PUT, "api-keys/{id}", "key_update"),
    ngx_http_apikey_sql(NGX_HTTP_DELETE, "api-keys/{id}", "key_revoke"),

    ngx_http_apikey_sql_body(NGX_HTTP_POST, "api-keys/{id}/rotate",
                             "key_rotate"),
    ngx_http_apikey_sql(NGX_HTTP_DELETE, "api-keys/{id}/secrets/{sid}",
                        "secret_end"),
    { NGX_HTTP_GET, ngx_string("api-keys/{id}/usage"), "key_usage",
      ngx_http_apikey_live, 0, 0, 0, 0 },
    ngx_http_apikey_sql_body(NGX_HTTP_POST, "api-keys/{id}/credits",
                             "key_credits"),

    ngx_http_apikey_sql(NGX_HTTP_GET, "owners", "owner_list"),
    ngx_http_apikey_sql_body(NGX_HTTP_PATCH, "owners", "owners_update"),
    ngx_http_apikey_sql(NGX_HTTP_GET, "owners/{id}", "owner_get"),
    ngx_http_apikey_sql_body(NGX_HTTP_PUT, "owners/{id}", "owner_put"),
    ngx_http_apikey_sql_body(NGX_HTTP_PATCH, "owners/{id}", "owner_update"),
    ngx_http_apikey_sql(NGX_HTTP_DELETE, "owners/{id}", "owner_delete"),
    ngx_http_apikey_sql_body(NGX_HTTP_POST, "owners/{id}/credits",
                             "owner_credits"),

    ngx_http_apikey_sql(NGX_HTTP_GET, "plans", "plan_list"),
    ngx_http_apikey_sql(NGX_HTTP_GET, "plans/{id}", "plan_get"),
    ngx_http_apikey_sql_body(NGX_HTTP_PUT, "plans/{id}", "plan_put"),
    ngx_http_apikey_sql_body(NGX_HTTP_PATCH, "plans/{id}", "plan_update"),
    ngx_http_apikey_sql(NGX_HTTP_DELETE, "plans/{id}", "plan_delete"),

    ngx_http_apikey_sql(NGX_HTTP_GET, "prices", "price_list"),
    ngx_http_apikey_sql_body(NGX_HTTP_POST, "prices", "price_create"),
    ngx_http_apikey_sql(NGX_HTTP_GET, "prices/{id}", "price_get"),
    ngx_http_apikey_sql_body(NGX_HTTP_PATCH, "prices/{id}", "price_update"),
    ngx_http_apikey_sql_body(NGX_HTTP_PUT, "prices/{id}", "price_update"),
    ngx_http_apikey_sql(NGX_HTTP_DELETE, "prices/{id}", "price_delete"),

    ngx_http_apikey_sql(NGX_HTTP_GET, "models", "model_list"),
    ngx_http_apikey_sql(NGX_HTTP_GET, "models/{id}", "model_get"),
    ngx_http_apikey_sql_body(NGX_HTTP_PUT, "models/{id}", "model_put"),
    ngx_http_apikey_sql_body(NGX_HTTP_PATCH, "models/{id}", "model_update"),
    ngx_http_apikey_sql(NGX_HTTP_DELETE, "models/{id}", "model_delete"),

    ngx_http_apikey_sql(NGX_HTTP_GET, "alerts", "alert_list"),
    ngx_http_apikey_sql_body(NGX_HTTP_POST, "alerts", "alert_create"),
    ngx_http_apikey_sql(NGX_HTTP_GET, "alerts/{id}", "alert_get"),
    ngx_http_apikey_sql_body(NGX_HTTP_PATCH, "alerts/{id}", "alert_update"),
    ngx_http_apikey_sql_body(NGX_HTTP_PUT, "alerts/{id}", "alert_update"),
    ngx_http_apikey_sql(NGX_HTTP_DELETE, "alerts/{id}", "alert_delete"),

    ngx_http_apikey_sql(NGX_HTTP_GET, "webhooks", "webhook_list"),
    ngx_http_apikey_sql_body(NGX_HTTP_POST, "webhooks", "webhook_create"),
    ngx_http_apikey_sql(NGX_HTTP_GET, "webhooks/{id}", "webhook_get"),
    ngx_http_apikey_sql_body(NGX_HTTP_PATCH, "webhooks/{id}",
                             "webhook_update"),
    ngx_http_apikey_sql_body(NGX_HTTP_PUT, "webhooks/{id}", "webhook_update"),
    ngx_http_apikey_sql(NGX_HTTP_DELETE, "webhooks/{id}", "webhook_delete"),
    ngx_http_apikey_sql_body(NGX_HTTP_POST, "webhooks/{id}/rotate",
                             "webhook_rotate"),
    ngx_http_apikey_sql_body(NGX_HTTP_POST, "webhooks/{id}/test",
                             "webhook_test"),
    ngx_http_apikey_sql(NGX_HTTP_GET, "webhooks/{id}/deliveries",
                        "webhook_deliveries"),

    ngx_http_apikey_report(NGX_HTTP_GET, "audit", "audit_list"),
    ngx_http_apikey_sql(NGX_HTTP_GET, "whoami", "whoami"),
    ngx_http_apikey_report(NGX_HTTP_GET, "usage", "usage"),
    { NGX_HTTP_GET, ngx_string("usage/summary"), "usage_summary",
      ngx_http_apikey_live, 0, 0, 0, 0 },
    ngx_http_apikey_report(NGX_HTTP_GET, "analytics", "analytics"),
    { NGX_HTTP_GET, ngx_string("limits"), "limits",
      ngx_http_apikey_live, 0, 0, 0, 0 },
    ngx_http_apikey_report(NGX_HTTP_GET, "requests", "request_list"),
    ngx_http_apikey_sql(NGX_HTTP_GET, "requests/{id}", "request_get"),

    { NGX_HTTP_POST, ngx_string("import/usage"), "usage_import",
      ngx_http_apikey_import, NGX_HTTP_APIKEY_BODY_STREAM, 0, 0, 0 },
    { NGX_HTTP_GET, ngx_string("export/usage"), "export_usage",
      ngx_http_apikey_export, 0, 0, 0, 1 },
    { NGX_HTTP_GET, ngx_string("export/conversations"), "export_conversations",
      ngx_http_apikey_export, 0, 0, 0, 1 },

    ngx_http_apikey_sql(NGX_HTTP_GET, "export/schedules", "schedule_list"),
    ngx_http_apikey_sql_body(NGX_HTTP_POST, "export/schedules",
                             "schedule_create"),
    ngx_http_apikey_sql(NGX_HTTP_GET, "export/schedules/{id}",
                        "schedule_get"),
    ngx_http_apikey_sql_body(NGX_HTTP_PATCH, "export/schedules/{id}",
                             "schedule_update"),
    ngx_http_apikey_sql_body(NGX_HTTP_PUT, "export/schedules/{id}",
                             "schedule_update"),
    ngx_http_apikey_sql(NGX_HTTP_DELETE, "export/schedules/{id}",
                        "schedule_delete"),

    { NGX_HTTP_POST, ngx_string("leaks"), "leak_report",
      ngx_http_apikey_leaks, NGX_HTTP_APIKEY_BODY_SECRET, 1, 0, 0 },

    { NGX_HTTP_GET, ngx_string("health"), NULL, ngx_http_apikey_health_json,
      0, 1, 0, 0 },
    { NGX_HTTP_GET, ngx_string("openapi.json"), NULL,
      ngx_http_apikey_openapi_json, 0, 1, 0, 0 },

    { NGX_HTTP_POST, ngx_string("keys/getApiKeys"), "keys_get", NULL,
      NGX_HTTP_APIKEY_BODY_OLDER, 0, 1, 0 },
    { NGX_HTTP_POST, ngx_string("keys/usageAnalytics"), "keys_analytics", NULL,
      NGX_HTTP_APIKEY_BODY_OLDER, 0, 1, 0 },

    { 0, ngx_null_string, NULL, NULL, 0, 0, 0, 0 }
};


static const struct {
    ngx_uint_t   method;
    const char  *name;
} ngx_http_apikey_admin_methods[] = {
    { NGX_HTTP_GET, "GET, HEAD" },
    { NGX_HTTP_POST, "POST" },
    { NGX_HTTP_PUT, "PUT" },
    { NGX_HTTP_PATCH, "PATCH" },
    { NGX_HTTP_DELETE, "DELETE" },
    { 0, NULL }
};


ngx_int_t
ngx_http_apikey_admin_route(ngx_http_apikey_admin_t *a)
{
    ngx_int_t                             rc;
    ngx_uint_t                            method, allowed;
    const ngx_http_apikey_admin_route_t  *route, *first;

    rc = ngx_http_apikey_admin_path(a);

    if (rc != NGX_OK) {
        return rc;
    }

    method = a->request->method;

    if (method == NGX_HTTP_HEAD) {
        method = NGX_HTTP_GET;
    }

    allowed = 0;
    first = NULL;

    for (route = ngx_http_apikey_admin_routes; route->method; route++) {

        if (ngx_http_apikey_admin_match(a, route) != NGX_OK
            || (route->older && !a->alcf->admin_conf->compat))
        {
            continue;
        }

        if (first == NULL) {
            first = route;
        }

        /* a literal path is no {id}, with whatever method */

        if (ngx_strcmp(route->pattern.data, first->pattern.data) != 0) {
            continue;
        }

        if (route->method == method) {
            a->route = route;
            return NGX_DECLINED;
        }

        allowed |= route->method;
    }

    if (allowed) {
        return ngx_http_apikey_admin_other_method(a, allowed);
    }

    return ngx_http_apikey_admin_problem(a, NGX_HTTP_APIKEY_PROBLEM_NOT_FOUND,
                                         "There is no such path.", NULL);
}


/* Segment by segment; notes the parameters of the last pattern tried. */

static ngx_int_t
ngx_http_apikey_admin_match(ngx_http_apikey_admin_t *a,
    const ngx_http_apikey_admin_route_t *route)
{
    u_char      *p, *next, *last;
    size_t       len;
    ngx_uint_t   i;

    a->nparams = 0;

    p = route->pattern.data;
    last = p + route->pattern.len;

    for (i = 0; i < a->nsegments; i++) {

        if (p > last) {
            return NGX_DECLINED;
        }

        next = ngx_strlchr(p, last, '/');

        if (next == NULL) {
            next = last;
        }

        len = next - p;

        if (*p == '{') {
            ngx_cpystrn((u_char *) a->param_name[a->nparams], p + 1, len - 1);
            a->param[a->nparams++] = a->segments[i];

        } else if (a->segments[i].len != len
                   || ngx_memcmp(a->segments[i].data, p, len) != 0)
        {
            return NGX_DECLINED;
        }

        p = next + 1;
    }

    return (p == last + 1) ? NGX_OK : NGX_DECLINED;
}


static ngx_int_t
ngx_http_apikey_admin_other_method(ngx_http_apikey_admin_t *a,
    ngx_uint_t allowed)
{
    u_char      *p;
    ngx_str_t    allow;
    ngx_uint_t   i;

    allow.data = ngx_pnalloc(a->request->pool,
                             sizeof("GET, HEAD, POST, PUT, PATCH, DELETE, "
                                    "OPTIONS"));
    if (allow.data == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    p = allow.data;

    for (i = 0; ngx_http_apikey_admin_methods[i].name; i++) {
        if (allowed & ngx_http_apikey_admin_methods[i].method) {
            p = ngx_sprintf(p, "%s, ", ngx_http_apikey_admin_methods[i].name);
        }
    }

    p = ngx_cpymem(p, "OPTIONS", sizeof("OPTIONS") - 1);
    allow.len = p - allow.data;

    if (ngx_http_apikey_admin_add_header(a->request, "Allow", &allow)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (a->request->method == NGX_HTTP_OPTIONS) {
        return ngx_http_apikey_admin_send(a, NGX_HTTP_NO_CONTENT, NULL, NULL);
    }

    return ngx_http_apikey_admin_problem(a, NGX_HTTP_APIKEY_PROBLEM_METHOD,
                                "The header Allow lists the methods of this "
                                "path.", NULL);
}
