
/*
 * What the files of http/ share: configuration, the worker's runtime, the
 * context of a request.  No other room includes this.
 */


#ifndef NGX_HTTP_APIKEY_HTTP_H_INCLUDED
#define NGX_HTTP_APIKEY_HTTP_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/compat.h"
#include "base/digest.h"
#include "base/key.h"
#include "base/stats.h"
#include "keyring/keyring.h"
#include "limit/decide.h"
#include "usage/usage.h"


#define NGX_HTTP_APIKEY_VERSION  "0.1.0"
#define NGX_HTTP_APIKEY_SCHEMA   1       /* the oldest schema that serves */


/* The root of the zone; layout first, so that an older one is never read. */

typedef struct {
    uint64_t                      magic;
    uint64_t                      layout;
    apikey_stats_t                stats;
    ngx_http_apikey_keyring_sh_t *keyring;
    ngx_http_apikey_limit_sh_t   *limit;
} ngx_http_apikey_sh_t;


typedef enum {
    NGX_HTTP_APIKEY_SOURCE_HEADER = 0,
    NGX_HTTP_APIKEY_SOURCE_BEARER,
    NGX_HTTP_APIKEY_SOURCE_QUERY,
    NGX_HTTP_APIKEY_SOURCE_COOKIE
} ngx_http_apikey_source_e;


typedef struct {
    ngx_http_apikey_source_e  type;
    ngx_str_t                 name;          /* header: lower case */
} ngx_http_apikey_source_t;


typedef enum {
    NGX_HTTP_APIKEY_OFF = 0,
    NGX_HTTP_APIKEY_REQUIRED,
    NGX_HTTP_APIKEY_OPTIONAL
} ngx_http_apikey_mode_e;


typedef struct {
    ngx_shm_zone_t                 *shm_zone;    /* NULL: apikey_zone absent */
    ngx_http_apikey_sh_t           *sh;
    ngx_slab_pool_t                *shpool;

    ngx_str_t                       conninfo;    /* apikey_postgres */
    ngx_str_t                       read_conninfo;
    ngx_msec_t                      poll;

    ngx_http_apikey_redis_conf_t   *redis;       /* NULL: absent */
    ngx_http_apikey_down_e          down;
    ngx_uint_t                      down_nodes;
    ngx_http_apikey_limit_mode_e    limit_mode;

    ngx_http_apikey_usage_conf_t    usage;       /* apikey_journal */

    ngx_str_t                       node_name;
    ngx_str_t                       key_prefix;
    apikey_macs_t                  *macs;        /* never NULL */
    ngx_array_t                    *tokens;      /* of apikey_token_t */

    ngx_uint_t                      used;        /* some location needs us */

    /* this worker's, made in init_process; NULL in cache helpers */
    ngx_http_apikey_keyring_t      *keyring;
    ngx_http_apikey_limiter_t      *limiter;
    ngx_http_apikey_usage_t        *worker_usage;
} ngx_http_apikey_main_conf_t;


typedef struct {
    ngx_uint_t                  mode;            /* ngx_http_apikey_mode_e */
    ngx_array_t                *sources;         /* ngx_http_apikey_source_t */
    ngx_array_t                *accept;          /* ngx_str_t */
    ngx_flag_t                  hide;
    ngx_str_t                   realm;
    ngx_array_t                *scopes;          /* ngx_http_complex_value_t */
    ngx_http_complex_value_t   *service;
    ngx_http_complex_value_t   *endpoint;
    ngx_http_complex_value_t   *weight;
    ngx_flag_t                  limit_headers;
    ngx_flag_t                  preflight_pass;
    ngx_str_t                   location;        /* as written */
    ngx_str_t                   server_name;

    ngx_flag_t                  admin;           /* apikey_admin */
    ngx_str_t                   admin_base;      /* the location's name */
    off_t                       admin_max_body;
    ngx_http_handler_pt         content;         /* of apikey_admin, _metrics,
                                                    _health; NULL: none */
} ngx_http_apikey_loc_conf_t;


typedef enum {
    NGX_HTTP_APIKEY_ST_START = 0,
    NGX_HTTP_APIKEY_ST_LOOKUP,       /* waits for Postgres */
    NGX_HTTP_APIKEY_ST_LIMITS,       /* waits for Redis */
    NGX_HTTP_APIKEY_ST_DONE          /* decided: verdict is set */
} ngx_http_apikey_state_e;


/*
 * One for each client request; lives in the request's pool and is found
 * again after an internal redirect through the pool's cleanup chain.
 */

typedef struct {
    ngx_http_request_t              *request;
    ngx_uint_t                       state;
    apikey_verdict_e                 verdict;

    u_char                           event[16];  /* request id */
    int64_t                          time;       /* us, at the start */
    uint8_t                          digest[APIKEY_DIGEST_LEN];

    ngx_http_apikey_key_t            key;        /* valid when found */
    ngx_http_apikey_decision_t       decision;
    ngx_http_apikey_keyring_wait_t   wait;
    ngx_event_t                      resume;
    ngx_http_apikey_usage_slot_t    *slot;
    ngx_http_apikey_usage_start_t    start;

    ngx_http_apikey_bucket_t        *tightest;   /* for X-RateLimit-*, names */
    ngx_http_apikey_bucket_t        *binding;    /* the one that refused */
    uint8_t                          binding_level;
    uint64_t                         weight;

    unsigned                         found:1;    /* key is filled */
    unsigned                         charged:1;  /* decided and admitted */
    unsigned                         waiting:1;
    unsigned                         logged:1;
    unsigned                         refused:1;  /* by us */
    unsigned                         again:1;    /* looked up a second time */
} ngx_http_apikey_ctx_t;


extern ngx_module_t  ngx_http_apikey_module;


/* access.c */
ngx_int_t ngx_http_apikey_access_handler(ngx_http_request_t *r);
ngx_http_apikey_ctx_t *ngx_http_apikey_get_ctx(ngx_http_request_t *r);

/* credential.c: NGX_OK value set, NGX_DECLINED none, NGX_ABORT duplicate */
ngx_int_t ngx_http_apikey_credential(ngx_http_request_t *r,
    ngx_array_t *sources, ngx_str_t *value);
ngx_int_t ngx_http_apikey_credential_hide(ngx_http_request_t *r,
    ngx_array_t *sources);

/* problem.c: RFC 9457 bodies */
ngx_int_t ngx_http_apikey_problem(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);

/* headers.c */
ngx_int_t ngx_http_apikey_headers_init(ngx_conf_t *cf);

/* variables.c */
ngx_int_t ngx_http_apikey_add_variables(ngx_conf_t *cf);

/* log.c */
ngx_int_t ngx_http_apikey_log_handler(ngx_http_request_t *r);

/* admin.c, metrics.c, health.c: directive setters install their handlers */
char *ngx_http_apikey_admin(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_apikey_metrics(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_apikey_health(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

/*
 * merge_loc_conf calls it before it merges mode: our content handlers imply
 * "apikey off" and hold inside limit_except; NGX_CONF_ERROR is logged.
 */
char *ngx_http_apikey_content_merge(ngx_conf_t *cf,
    ngx_http_apikey_loc_conf_t *prev, ngx_http_apikey_loc_conf_t *conf);


#endif /* NGX_HTTP_APIKEY_HTTP_H_INCLUDED */
