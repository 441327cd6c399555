
/*
 * Files that the master reads at start and reload: MAC secrets, operator
 * tokens, the Redis password.  Workers only ever see what was read.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"


#define NGX_HTTP_APIKEY_FILE_MAX  (1024 * 1024)


static ngx_int_t ngx_http_apikey_conf_read_file(ngx_conf_t *cf,
    ngx_command_t *cmd, ngx_file_t *file, ngx_str_t *text);
static bool ngx_http_apikey_token_add(void *data,
    const apikey_token_t *token);


/* text is NUL-terminated and lives in the configuration's pool. */

ngx_int_t
ngx_http_apikey_conf_read(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_str_t *path, ngx_str_t *text)
{
    ngx_int_t   rc;
    ngx_file_t  file;

    ngx_memzero(&file, sizeof(ngx_file_t));

    file.name = *path;
    file.log = cf->log;

    if (ngx_conf_full_name(cf->cycle, &file.name, 1) != NGX_OK) {
        return NGX_ERROR;
    }

    file.fd = ngx_open_file(file.name.data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (file.fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "\"%V\": " ngx_open_file_n " \"%V\" failed",
                           &cmd->name, &file.name);
        return NGX_ERROR;
    }

    rc = ngx_http_apikey_conf_read_file(cf, cmd, &file, text);

    if (ngx_close_file(file.fd) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_ALERT, cf, ngx_errno,
                           ngx_close_file_n " \"%V\" failed", &file.name);
    }

    return rc;
}


static ngx_int_t
ngx_http_apikey_conf_read_file(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_file_t *file, ngx_str_t *text)
{
    if (ngx_fd_info(file->fd, &file->info) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "\"%V\": " ngx_fd_info_n " \"%V\" failed",
                           &cmd->name, &file->name);
        return NGX_ERROR;
    }

    if (!ngx_is_file(&file->info)
        || ngx_file_size(&file->info) > NGX_HTTP_APIKEY_FILE_MAX)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\": \"%V\" is not a file of at most 1 MiB",
                           &cmd->name, &file->name);
        return NGX_ERROR;
    }

    text->len = ngx_file_size(&file->info);

    text->data = ngx_pnalloc(cf->pool, text->len + 1);
    if (text->data == NULL) {
        return NGX_ERROR;
    }

    if (ngx_read_file(file, text->data, text->len, 0) != (ssize_t) text->len) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\": could not read \"%V\"", &cmd->name,
                           &file->name);
        return NGX_ERROR;
    }

    text->data[text->len] = '\0';

    return NGX_OK;
}


char *
ngx_http_apikey_conf_mac_secret(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_apikey_main_conf_t *amcf = conf;

    unsigned     line;
    ngx_str_t   *value, text;
    const char  *why;

    if (amcf->macs->n) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_http_apikey_conf_read(cf, cmd, &value[1], &text) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    line = apikey_macs_parse(amcf->macs, (const char *) text.data, text.len,
                             &why);

    ngx_explicit_memzero(text.data, text.len);

    if (line) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\": \"%V\", line %ui: "
                           "%s", &cmd->name, &value[1], (ngx_uint_t) line,
                           why);
        return NGX_CONF_ERROR;
    }

    if (amcf->macs->n == 0) {
        return ngx_http_apikey_conf_refuse(cf, cmd, "no secret in",
                                           &value[1]);
    }

    return NGX_CONF_OK;
}


char *
ngx_http_apikey_conf_admin_token(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_apikey_main_conf_t *amcf = conf;

    unsigned     line;
    ngx_str_t   *value, text;
    const char  *why;

    if (amcf->tokens) {
        return "is duplicate";
    }

    amcf->tokens = ngx_array_create(cf->pool, 4, sizeof(apikey_token_t));
    if (amcf->tokens == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    if (ngx_http_apikey_conf_read(cf, cmd, &value[1], &text) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    line = apikey_tokens_parse((const char *) text.data, text.len,
                               ngx_http_apikey_token_add, amcf->tokens, &why);

    if (line) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\": \"%V\", line %ui: "
                           "%s", &cmd->name, &value[1], (ngx_uint_t) line,
                           why);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static bool
ngx_http_apikey_token_add(void *data, const apikey_token_t *token)
{
    ngx_array_t *tokens = data;

    apikey_token_t  *t;

    t = ngx_array_push(tokens);
    if (t == NULL) {
        return false;
    }

    *t = *token;

    return true;
}
