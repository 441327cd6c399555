
/*
 * Configuration of http{}: create, init, and the directives with parameters.
 * Whatever is wrong is said with the directive's name and ends nginx -t.
 *
 * Everything lives in the configuration's pool.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"


static char *ngx_http_apikey_conf_needs(ngx_conf_t *cf,
    ngx_http_apikey_main_conf_t *amcf);
static char *ngx_http_apikey_conf_conninfo(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_str_t *value);
static char *ngx_http_apikey_conf_msec(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_str_t *value, ngx_msec_t *msec);
static char *ngx_http_apikey_conf_journal_param(ngx_conf_t *cf,
    ngx_command_t *cmd, ngx_http_apikey_main_conf_t *amcf, ngx_str_t *value);


void *
ngx_http_apikey_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_apikey_main_conf_t));
    if (amcf == NULL) {
        return NULL;
    }

    amcf->macs = ngx_pcalloc(cf->pool, sizeof(apikey_macs_t));
    if (amcf->macs == NULL) {
        return NULL;
    }

    amcf->cycle = cf->cycle;

    amcf->poll = NGX_CONF_UNSET_MSEC;
    amcf->max_stale = NGX_CONF_UNSET_MSEC;
    amcf->down = NGX_CONF_UNSET_UINT;
    amcf->down_nodes = NGX_CONF_UNSET_UINT;
    amcf->limit_mode = NGX_CONF_UNSET_UINT;
    amcf->usage.size = NGX_CONF_UNSET;
    amcf->usage.sync = NGX_CONF_UNSET_MSEC;
    amcf->usage.drain = NGX_CONF_UNSET_MSEC;
    amcf->usage.refuse = NGX_CONF_UNSET;

    return amcf;
}


char *
ngx_http_apikey_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_http_apikey_main_conf_t *amcf = conf;

    ngx_conf_init_msec_value(amcf->poll, 1000);
    ngx_conf_init_msec_value(amcf->max_stale, 0);
    ngx_conf_init_uint_value(amcf->down, NGX_HTTP_APIKEY_DOWN_LOCAL);
    ngx_conf_init_uint_value(amcf->down_nodes, 0);
    ngx_conf_init_value(amcf->usage.size, 1024 * 1024 * 1024);
    ngx_conf_init_msec_value(amcf->usage.sync, 100);
    ngx_conf_init_msec_value(amcf->usage.drain, 10000);
    ngx_conf_init_value(amcf->usage.refuse, 0);

    if (amcf->redis == NULL && amcf->limit_mode != NGX_CONF_UNSET_UINT
        && amcf->limit_mode != NGX_HTTP_APIKEY_LIMIT_LOCAL)
    {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"apikey_limit_mode %s\" needs \"apikey_redis\"",
                      amcf->limit_mode == NGX_HTTP_APIKEY_LIMIT_DIRECT
                      ? "direct" : "leased");
        return NGX_CONF_ERROR;
    }

    ngx_conf_init_uint_value(amcf->limit_mode,
                             amcf->redis ? NGX_HTTP_APIKEY_LIMIT_LEASED
                                         : NGX_HTTP_APIKEY_LIMIT_LOCAL);

    if (amcf->node_name.len == 0) {
        amcf->node_name = cf->cycle->hostname;
    }

    if (amcf->key_prefix.len == 0) {
        ngx_str_set(&amcf->key_prefix, "sk");
    }

    if (amcf->used) {
        return ngx_http_apikey_conf_needs(cf, amcf);
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_apikey_conf_needs(ngx_conf_t *cf, ngx_http_apikey_main_conf_t *amcf)
{
    const char  *missing;

    if (amcf->shm_zone == NULL) {
        missing = "apikey_zone";

    } else if (amcf->conninfo.len == 0) {
        missing = "apikey_postgres";

    } else if (amcf->usage.directory.len == 0) {
        missing = "apikey_journal";

    } else {
        return NGX_CONF_OK;
    }

    ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                  "\"%s\" is missing in http: \"%s\" in %V:%ui needs it",
                  missing, amcf->used_by, &amcf->used_file, amcf->used_line);

    return NGX_CONF_ERROR;
}


void
ngx_http_apikey_conf_use(ngx_conf_t *cf, const char *directive)
{
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_apikey_module);

    if (amcf->used) {
        return;
    }

    amcf->used = 1;
    amcf->used_by = directive;

    if (cf->conf_file) {
        amcf->used_file = cf->conf_file->file.name;
        amcf->used_line = cf->conf_file->line;
    }
}


char *
ngx_http_apikey_conf_refuse(ngx_conf_t *cf, ngx_command_t *cmd,
    const char *why, ngx_str_t *value)
{
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\": %s \"%V\"",
                       &cmd->name, why, value);
    return NGX_CONF_ERROR;
}


ngx_int_t
ngx_http_apikey_conf_param(ngx_str_t *value, const char *name,
    ngx_str_t *rest)
{
    size_t  len;

    len = ngx_strlen(name);

    if (value->len <= len
        || ngx_strncmp(value->data, name, len) != 0
        || value->data[len] != '=')
    {
        return 0;
    }

    rest->data = value->data + len + 1;
    rest->len = value->len - len - 1;

    return 1;
}


static char *
ngx_http_apikey_conf_msec(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_str_t *value, ngx_msec_t *msec)
{
    if (*msec != NGX_CONF_UNSET_MSEC) {
        return ngx_http_apikey_conf_refuse(cf, cmd, "duplicate time", value);
    }

    *msec = ngx_parse_time(value, 0);

    if (*msec == (ngx_msec_t) NGX_ERROR || *msec == 0) {
        return ngx_http_apikey_conf_refuse(cf, cmd, "invalid time", value);
    }

    return NGX_CONF_OK;
}


char *
ngx_http_apikey_conf_postgres(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_apikey_main_conf_t *amcf = conf;

    char        *rv;
    ngx_str_t   *value, rest;
    ngx_uint_t   i;

    if (amcf->conninfo.data) {
        return "is duplicate";
    }

    value = cf->args->elts;

    rv = ngx_http_apikey_conf_conninfo(cf, cmd, &value[1]);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    amcf->conninfo = value[1];

    if (ngx_http_apikey_pg_service(&amcf->conninfo, cf->pool) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_http_apikey_conf_param(&value[i], "read", &rest)) {

            if (amcf->read_conninfo.data) {
                return "has a duplicate \"read\"";
            }

            amcf->read_conninfo = rest;
            rv = ngx_http_apikey_conf_conninfo(cf, cmd, &rest);

            if (rv == NGX_CONF_OK
                && ngx_http_apikey_pg_service(&amcf->read_conninfo, cf->pool)
                   != NGX_OK)
            {
                rv = NGX_CONF_ERROR;
            }

        } else if (ngx_http_apikey_conf_param(&value[i], "poll", &rest)) {
            rv = ngx_http_apikey_conf_msec(cf, cmd, &rest, &amcf->poll);

        } else {
            rv = ngx_http_apikey_conf_refuse(cf, cmd, "unknown parameter",
                                             &value[i]);
        }

        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    return NGX_CONF_OK;
}


/* A conninfo may hold a password: it is not repeated in the message. */

static char *
ngx_http_apikey_conf_conninfo(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_str_t *value)
{
    char              *err;
    ngx_str_t          text;
    PQconninfoOption  *options;

    if (value->len == 0) {
        return ngx_http_apikey_conf_refuse(cf, cmd, "empty connection string",
                                           value);
    }

    /* arguments of a directive are NUL-terminated */

    options = PQconninfoParse((const char *) value->data, &err);

    if (options == NULL) {
        text.data = (u_char *) (err ? err : "no memory");
        text.len = strcspn((char *) text.data, "\n");

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\": invalid connection string: %V",
                           &cmd->name, &text);
        PQfreemem(err);
        return NGX_CONF_ERROR;
    }

    PQconninfoFree(options);

    return NGX_CONF_OK;
}


char *
ngx_http_apikey_conf_redis_down(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_apikey_main_conf_t *amcf = conf;

    ngx_int_t   n;
    ngx_str_t  *value, rest;

    if (amcf->down != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "local") == 0) {
        amcf->down = NGX_HTTP_APIKEY_DOWN_LOCAL;

    } else if (ngx_strcmp(value[1].data, "deny") == 0) {
        amcf->down = NGX_HTTP_APIKEY_DOWN_DENY;

    } else if (ngx_strcmp(value[1].data, "allow") == 0) {
        amcf->down = NGX_HTTP_APIKEY_DOWN_ALLOW;

    } else {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                                      "local, deny or allow is needed, not",
                                      &value[1]);
    }

    if (cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    if (amcf->down != NGX_HTTP_APIKEY_DOWN_LOCAL
        || !ngx_http_apikey_conf_param(&value[2], "nodes", &rest))
    {
        return ngx_http_apikey_conf_refuse(cf, cmd, "unknown parameter",
                                           &value[2]);
    }

    n = ngx_atoi(rest.data, rest.len);

    if (n < 1 || n > 100000) {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                                           "invalid number of nodes", &rest);
    }

    amcf->down_nodes = n;

    return NGX_CONF_OK;
}


char *
ngx_http_apikey_conf_limit_mode(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_apikey_main_conf_t *amcf = conf;

    ngx_str_t  *value;

    if (amcf->limit_mode != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "leased") == 0) {
        amcf->limit_mode = NGX_HTTP_APIKEY_LIMIT_LEASED;

    } else if (ngx_strcmp(value[1].data, "direct") == 0) {
        amcf->limit_mode = NGX_HTTP_APIKEY_LIMIT_DIRECT;

    } else if (ngx_strcmp(value[1].data, "local") == 0) {
        amcf->limit_mode = NGX_HTTP_APIKEY_LIMIT_LOCAL;

    } else {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                                      "leased, direct or local is needed, not",
                                      &value[1]);
    }

    return NGX_CONF_OK;
}


char *
ngx_http_apikey_conf_journal(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_apikey_main_conf_t *amcf = conf;

    char        *rv;
    ngx_str_t   *value;
    ngx_uint_t   i;

    if (amcf->usage.directory.data) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (value[1].len == 0) {
        return ngx_http_apikey_conf_refuse(cf, cmd, "empty path", &value[1]);
    }

    amcf->usage.directory = value[1];

    if (ngx_conf_full_name(cf->cycle, &amcf->usage.directory, 0) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    for (i = 2; i < cf->args->nelts; i++) {
        rv = ngx_http_apikey_conf_journal_param(cf, cmd, amcf, &value[i]);
        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_apikey_conf_journal_param(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_http_apikey_main_conf_t *amcf, ngx_str_t *value)
{
    ngx_str_t  rest;

    if (ngx_http_apikey_conf_param(value, "sync", &rest)) {
        return ngx_http_apikey_conf_msec(cf, cmd, &rest, &amcf->usage.sync);
    }

    if (ngx_http_apikey_conf_param(value, "drain", &rest)) {
        return ngx_http_apikey_conf_msec(cf, cmd, &rest, &amcf->usage.drain);
    }

    if (ngx_http_apikey_conf_param(value, "ring", &rest)) {

        if (amcf->usage.ring.data || rest.len == 0) {
            return ngx_http_apikey_conf_refuse(cf, cmd,
                                         "duplicate or empty directory",
                                         value);
        }

        amcf->usage.ring = rest;

        return ngx_conf_full_name(cf->cycle, &amcf->usage.ring, 0) == NGX_OK
               ? NGX_CONF_OK : NGX_CONF_ERROR;
    }

    if (ngx_http_apikey_conf_param(value, "size", &rest)) {

        if (amcf->usage.size != NGX_CONF_UNSET) {
            return "has a duplicate \"size\"";
        }

        amcf->usage.size = ngx_parse_offset(&rest);

        if (amcf->usage.size == NGX_ERROR || amcf->usage.size < 1024 * 1024) {
            return ngx_http_apikey_conf_refuse(cf, cmd,
                                     "invalid size (1m is the least)", &rest);
        }

        return NGX_CONF_OK;
    }

    if (ngx_http_apikey_conf_param(value, "full", &rest)) {

        if (amcf->usage.refuse != NGX_CONF_UNSET) {
            return "has a duplicate \"full\"";
        }

        amcf->usage.refuse = (ngx_strcmp(rest.data, "refuse") == 0);

        if (!amcf->usage.refuse && ngx_strcmp(rest.data, "drop") != 0) {
            return ngx_http_apikey_conf_refuse(cf, cmd,
                                       "full=drop or full=refuse, not", value);
        }

        return NGX_CONF_OK;
    }

    return ngx_http_apikey_conf_refuse(cf, cmd, "unknown parameter", value);
}


char *
ngx_http_apikey_conf_max_stale(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_apikey_main_conf_t *amcf = conf;

    char       *rv;
    ngx_str_t  *value;

    if (amcf->max_stale != NGX_CONF_UNSET_MSEC) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        amcf->max_stale = 0;
        return NGX_CONF_OK;
    }

    rv = ngx_http_apikey_conf_msec(cf, cmd, &value[1], &amcf->max_stale);

    /* the log has to be read, too */

    if (rv == NGX_CONF_OK && amcf->max_stale < 100) {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                                           "at least 100ms are needed, not",
                                           &value[1]);
    }

    return rv;
}


char *
ngx_http_apikey_conf_node(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_apikey_main_conf_t *amcf = conf;

    size_t      i;
    ngx_str_t  *value;

    if (amcf->node_name.data) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (value[1].len == 0 || value[1].len > 255) {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                                      "1 to 255 characters are needed, not",
                                      &value[1]);
    }

    for (i = 0; i < value[1].len; i++) {
        if (value[1].data[i] < 0x20 || value[1].data[i] == 0x7f) {
            return ngx_http_apikey_conf_refuse(cf, cmd,
                                               "control character in",
                                               &value[1]);
        }
    }

    amcf->node_name = value[1];

    return NGX_CONF_OK;
}


char *
ngx_http_apikey_conf_key_prefix(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_apikey_main_conf_t *amcf = conf;

    ngx_str_t  *value;

    if (amcf->key_prefix.data) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (!apikey_prefix_check((const char *) value[1].data, value[1].len)) {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                                        "1 to 16 of [a-z0-9_] are needed, not",
                                        &value[1]);
    }

    amcf->key_prefix = value[1];

    return NGX_CONF_OK;
}
