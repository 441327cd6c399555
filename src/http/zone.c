
/*
 * apikey_zone: the one zone of shared memory, its root, and the rooms' parts
 * of it.  A reload with the same name and size keeps it; another size makes
 * a new one.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"


#define NGX_HTTP_APIKEY_MAGIC     0x3179656b69706100ULL
#define NGX_HTTP_APIKEY_LAYOUT    10
#define NGX_HTTP_APIKEY_ZONE_MIN  (1024 * 1024)


static ngx_int_t ngx_http_apikey_zone_init(ngx_shm_zone_t *shm_zone,
    void *data);
static ngx_int_t ngx_http_apikey_zone_attach(
    ngx_http_apikey_main_conf_t *amcf, ngx_http_apikey_sh_t *sh,
    ngx_log_t *log);
static ngx_int_t ngx_http_apikey_zone_make(ngx_http_apikey_main_conf_t *amcf,
    size_t zone, ngx_log_t *log);
static ngx_int_t ngx_http_apikey_journal_prepare(
    ngx_http_apikey_main_conf_t *amcf);
static ngx_int_t ngx_http_apikey_tallies_prepare(
    ngx_http_apikey_main_conf_t *amcf, ngx_http_apikey_main_conf_t *old);
static ngx_int_t ngx_http_apikey_tallies_hold(
    ngx_http_apikey_main_conf_t *amcf, ngx_uint_t *holders);
static void ngx_http_apikey_tallies_drop(void *data);


char *
ngx_http_apikey_conf_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_apikey_main_conf_t *amcf = conf;

    u_char     *colon;
    ssize_t     size;
    ngx_str_t  *value, name, text;

    if (amcf->shm_zone) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (!ngx_http_apikey_conf_param(&value[1], "zone", &name)) {
        return ngx_http_apikey_conf_refuse(cf, cmd, "unknown parameter",
                                           &value[1]);
    }

    colon = ngx_strlchr(name.data, name.data + name.len, ':');

    if (colon == NULL || colon == name.data) {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                                           "write zone=NAME:SIZE, not",
                                           &value[1]);
    }

    text.data = colon + 1;
    text.len = name.data + name.len - text.data;
    name.len = colon - name.data;

    size = ngx_parse_size(&text);

    if (size == NGX_ERROR) {
        return ngx_http_apikey_conf_refuse(cf, cmd, "invalid size", &text);
    }

    if (size < NGX_HTTP_APIKEY_ZONE_MIN) {
        return ngx_http_apikey_conf_refuse(cf, cmd,
                                           "at least 1m are needed, not",
                                           &text);
    }

    amcf->shm_zone = ngx_shared_memory_add(cf, &name, size,
                                           &ngx_http_apikey_module);
    if (amcf->shm_zone == NULL) {
        return NGX_CONF_ERROR;
    }

    amcf->shm_zone->init = ngx_http_apikey_zone_init;
    amcf->shm_zone->data = amcf;

    return NGX_CONF_OK;
}


/*
 * Runs in the master before a configuration is accepted: what fails here
 * leaves the old one at work.
 */

static ngx_int_t
ngx_http_apikey_zone_init(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_http_apikey_main_conf_t *old = data;

    ngx_log_t                    *log;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = shm_zone->data;
    log = shm_zone->shm.log;

    amcf->shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    if (amcf->used
        && (ngx_http_apikey_journal_prepare(amcf) != NGX_OK
            || ngx_http_apikey_tallies_prepare(amcf, old) != NGX_OK))
    {
        return NGX_ERROR;
    }

    if (old) {
        return ngx_http_apikey_zone_attach(amcf, old->sh, log);
    }

    if (shm_zone->shm.exists) {
        return ngx_http_apikey_zone_attach(amcf, amcf->shpool->data, log);
    }

    if (ngx_http_apikey_zone_make(amcf, shm_zone->shm.size, log) != NGX_OK) {
        ngx_log_error(NGX_LOG_EMERG, log, 0,
                      "\"apikey_zone\" %V is too small", &shm_zone->shm.name);
        return NGX_ERROR;
    }

    if (amcf->used && !ngx_test_config) {
        ngx_http_apikey_keyring_load(amcf->sh->keyring, amcf->shpool,
                                     &amcf->usage.directory, log);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_zone_attach(ngx_http_apikey_main_conf_t *amcf,
    ngx_http_apikey_sh_t *sh, ngx_log_t *log)
{
    if (sh == NULL || sh->magic != NGX_HTTP_APIKEY_MAGIC
        || sh->layout != NGX_HTTP_APIKEY_LAYOUT)
    {
        ngx_log_error(NGX_LOG_EMERG, log, 0,
                      "\"apikey_zone\" is of another version of the module: "
                      "restart nginx");
        return NGX_ERROR;
    }

    amcf->sh = sh;

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_zone_make(ngx_http_apikey_main_conf_t *amcf, size_t zone,
    ngx_log_t *log)
{
    size_t                 size, limit;
    ngx_http_apikey_sh_t  *sh;

    sh = ngx_slab_calloc(amcf->shpool, sizeof(ngx_http_apikey_sh_t));
    if (sh == NULL) {
        return NGX_ERROR;
    }

    if (ngx_http_apikey_throttle_init(amcf->shpool, zone, sh->throttle)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    /*
     * A key takes up to 192 bytes in the keyring, an account that is used
     * some 100 in the limiter, and not all keys are used at once.  A page a
     * room is left for what the slab allocator rounds up.
     */

    size = (amcf->shpool->pfree - 4) * ngx_pagesize;
    limit = size / 4 / ngx_pagesize * ngx_pagesize;

    sh->keyring = ngx_http_apikey_keyring_init_zone(amcf->shpool,
                                                    size - limit, log);
    if (sh->keyring == NULL) {
        return NGX_ERROR;
    }

    sh->limit = ngx_http_apikey_limit_init_zone(amcf->shpool, limit, log);
    if (sh->limit == NULL) {
        return NGX_ERROR;
    }

    if (!apikey_random(&sh->id, sizeof(uint64_t))) {
        return NGX_ERROR;
    }

    sh->stats.nodes = 1;
    sh->layout = NGX_HTTP_APIKEY_LAYOUT;
    sh->magic = NGX_HTTP_APIKEY_MAGIC;

    amcf->sh = sh;
    amcf->shpool->data = sh;
    amcf->shpool->log_nomem = 0;

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_journal_prepare(ngx_http_apikey_main_conf_t *amcf)
{
    ngx_core_conf_t  *ccf;

    ccf = (ngx_core_conf_t *) ngx_get_conf(amcf->cycle->conf_ctx,
                                           ngx_core_module);

    amcf->usage.conninfo = amcf->conninfo;
    amcf->usage.node_name = amcf->node_name;
    amcf->usage.workers = ccf->worker_processes;
    amcf->usage.log = amcf->cycle->log;

    return ngx_http_apikey_usage_prepare(amcf->cycle, &amcf->usage);
}


/* A master has one of its own, as long as it has this zone. */

static ngx_int_t
ngx_http_apikey_tallies_prepare(ngx_http_apikey_main_conf_t *amcf,
    ngx_http_apikey_main_conf_t *old)
{
    u_char                   *dir;
    uint64_t                  name;
    ngx_core_conf_t          *ccf;
    apikey_tallies_orphan_t   orphan;

    if (old && old->tallies.file) {
        amcf->tallies = old->tallies;
        return ngx_http_apikey_tallies_hold(amcf, old->tallies_holders);
    }

    if (amcf->redis == NULL || ngx_test_config) {
        return NGX_OK;
    }

    ccf = (ngx_core_conf_t *) ngx_get_conf(amcf->cycle->conf_ctx,
                                           ngx_core_module);

    dir = ngx_http_apikey_ring_dir(amcf->cycle->pool, &amcf->usage);

    if (dir == NULL || !apikey_random(&name, sizeof(name))) {
        return NGX_ERROR;
    }

    if (!apikey_tallies_claim(&amcf->tallies, (char *) dir, name,
                              geteuid() == 0 ? (int) ccf->user : -1,
                              geteuid() == 0 ? (int) ccf->group : -1))
    {
        ngx_log_error(NGX_LOG_EMERG, amcf->cycle->log, amcf->tallies.err,
                      "apikey: %s for a file of tallies in \"%s\" failed",
                      amcf->tallies.what, dir);
        return NGX_ERROR;
    }

    /* its workers look for others now and then */

    ngx_memzero(&orphan, sizeof(apikey_tallies_orphan_t));

    while (apikey_tallies_orphan(&amcf->tallies, &orphan)) {
        (void) apikey_tallies_adopt(&amcf->tallies, &orphan);
    }

    return ngx_http_apikey_tallies_hold(amcf, NULL);
}


/*
 * Configurations one after another have it; the last one gives it up, be it
 * one that was refused or one after which the zone is another one.
 */

static ngx_int_t
ngx_http_apikey_tallies_hold(ngx_http_apikey_main_conf_t *amcf,
    ngx_uint_t *holders)
{
    ngx_pool_cleanup_t  *cln;

    cln = ngx_pool_cleanup_add(amcf->cycle->pool, 0);

    if (cln && holders == NULL) {
        holders = ngx_calloc(sizeof(ngx_uint_t), amcf->cycle->log);
    }

    if (cln == NULL || holders == NULL) {
        return NGX_ERROR;
    }

    ++*holders;

    amcf->tallies_holders = holders;

    cln->handler = ngx_http_apikey_tallies_drop;
    cln->data = amcf;

    return NGX_OK;
}


static void
ngx_http_apikey_tallies_drop(void *data)
{
    ngx_http_apikey_main_conf_t *amcf = data;

    if (--*amcf->tallies_holders == 0) {
        apikey_tallies_close(&amcf->tallies);
        ngx_free(amcf->tallies_holders);
    }
}
