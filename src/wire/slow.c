
/*
 * The thread pool "apikey".
 *
 * nginx gives threads to a pool in one way only, which is its directive.
 */


#include "wire/slow.h"


extern ngx_module_t  ngx_thread_pool_module;


static ngx_str_t  ngx_http_apikey_slow_name = ngx_string("apikey");


char *
ngx_http_apikey_slow_add(ngx_conf_t *cf)
{
    ngx_str_t      *value;
    ngx_conf_t      pool;
    ngx_command_t  *cmd;

    if (ngx_thread_pool_get(cf->cycle, &ngx_http_apikey_slow_name)) {
        return NGX_CONF_OK;
    }

    pool = *cf;
    pool.args = ngx_array_create(cf->temp_pool, 3, sizeof(ngx_str_t));

    if (pool.args == NULL) {
        return NGX_CONF_ERROR;
    }

    value = ngx_array_push_n(pool.args, 3);

    ngx_str_set(&value[0], "thread_pool");
    value[1] = ngx_http_apikey_slow_name;
    ngx_str_set(&value[2], "threads=16");

    for (cmd = ngx_thread_pool_module.commands; cmd->name.len; cmd++) {

        if (cmd->name.len == value[0].len
            && ngx_strncmp(cmd->name.data, value[0].data, value[0].len) == 0)
        {
            return cmd->set(&pool, cmd, NULL);
        }
    }

    return "has no thread pools";
}


ngx_thread_pool_t *
ngx_http_apikey_slow_get(void)
{
    return ngx_thread_pool_get((ngx_cycle_t *) ngx_cycle,
                               &ngx_http_apikey_slow_name);
}
