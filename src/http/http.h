
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
#include "base/clock.h"
#include "base/json.h"
#include "base/key.h"
#include "base/price.h"
#include "base/stats.h"
#include "base/uuid.h"
#include "base/version.h"
#include "http/ahead.h"
#include "keyring/keyring.h"
#include "limit/bucket_set.h"
#include "limit/decide.h"
#include "usage/extract.h"
#include "usage/usage.h"


#define NGX_HTTP_APIKEY_VERSION  APIKEY_VERSION
#define NGX_HTTP_APIKEY_SCHEMA   APIKEY_SCHEMA    /* the oldest that serves */

#define NGX_HTTP_APIKEY_WEIGHT_MAX  9007199254740991LL      /* 2^53 - 1 */


typedef enum {
    NGX_HTTP_APIKEY_THROTTLE_CALLERS = 0,    /* of the admin API */
    NGX_HTTP_APIKEY_THROTTLE_FAILURES,       /* there, by address */
    NGX_HTTP_APIKEY_THROTTLE_LOOKUPS,        /* in Postgres, by address */
    NGX_HTTP_APIKEY_THROTTLES
} ngx_http_apikey_throttle_e;


/* The root of the zone; layout first, so that an older one is never read. */

typedef struct {
    uint64_t                      magic;
    uint64_t                      layout;
    apikey_stats_t                stats;
    ngx_http_apikey_keyring_sh_t *keyring;
    ngx_http_apikey_limit_sh_t   *limit;
    uint64_t                      id;            /* no other zone has it */
    apikey_bucket_set_t          *throttle[NGX_HTTP_APIKEY_THROTTLES];
} ngx_http_apikey_sh_t;


typedef enum {
    NGX_HTTP_APIKEY_SOURCE_HEADER = 0,
    NGX_HTTP_APIKEY_SOURCE_BEARER,
    NGX_HTTP_APIKEY_SOURCE_QUERY,
    NGX_HTTP_APIKEY_SOURCE_COOKIE
} ngx_http_apikey_source_e;


typedef struct {
    ngx_http_apikey_source_e  type;
    ngx_str_t                 name;          /* header: lower case; bearer:
                                                its header's */
} ngx_http_apikey_source_t;


/* One of the alternatives in a value of apikey_scope. */

typedef struct {
    ngx_http_complex_value_t  value;
    unsigned                  next:1;        /* the next one is another */
    unsigned                  list:1;        /* a variable alone, that may
                                                hold alternatives itself */
} ngx_http_apikey_scope_t;


/* apikey_reserve; NULL: not said. */

typedef struct {
    ngx_http_complex_value_t  *tokens;
    ngx_http_complex_value_t  *cost;
} ngx_http_apikey_reserve_t;


typedef enum {
    NGX_HTTP_APIKEY_USAGE_OFF = 0,
    NGX_HTTP_APIKEY_USAGE_HEADERS,
    NGX_HTTP_APIKEY_USAGE_OPENAI,
    NGX_HTTP_APIKEY_USAGE_ANTHROPIC
} ngx_http_apikey_usage_from_e;


/* apikey_usage stream=...: a stream that was not asked for its usage */

typedef enum {
    NGX_HTTP_APIKEY_STREAM_ESTIMATE = 0,
    NGX_HTTP_APIKEY_STREAM_REQUIRE,
    NGX_HTTP_APIKEY_STREAM_ADD
} ngx_http_apikey_stream_e;


/* apikey_request */

typedef enum {
    NGX_HTTP_APIKEY_API_OFF = 0,
    NGX_HTTP_APIKEY_API_OPENAI,
    NGX_HTTP_APIKEY_API_ANTHROPIC
} ngx_http_apikey_api_e;


typedef enum {
    NGX_HTTP_APIKEY_OFF = 0,
    NGX_HTTP_APIKEY_REQUIRED,
    NGX_HTTP_APIKEY_OPTIONAL
} ngx_http_apikey_mode_e;


typedef struct ngx_http_apikey_drift_s    ngx_http_apikey_drift_t;
typedef struct ngx_http_apikey_webhook_s  ngx_http_apikey_webhook_t;
typedef struct ngx_http_apikey_reports_s  ngx_http_apikey_reports_t;
typedef struct ngx_http_apikey_alert_s    ngx_http_apikey_alert_t;
typedef struct ngx_http_apikey_due_s      ngx_http_apikey_due_t;


typedef struct {
    ngx_cycle_t                    *cycle;       /* of this configuration */

    ngx_shm_zone_t                 *shm_zone;    /* NULL: apikey_zone absent */
    ngx_http_apikey_sh_t           *sh;
    ngx_slab_pool_t                *shpool;

    ngx_str_t                       conninfo;    /* apikey_postgres */
    ngx_str_t                       read_conninfo;
    ngx_msec_t                      poll;

    ngx_http_apikey_redis_conf_t   *redis;       /* NULL: absent */
    ngx_uint_t                      down;        /* ngx_http_apikey_down_e */
    ngx_uint_t                      down_nodes;
    ngx_uint_t                      limit_mode;  /* ..._limit_mode_e */
    apikey_tallies_t                tallies;     /* file NULL: without Redis */
    ngx_uint_t                     *tallies_holders;     /* configurations */

    ngx_http_apikey_usage_conf_t    usage;       /* apikey_journal */

    ngx_msec_t                      max_stale;   /* 0: off */
    ngx_str_t                       node_name;
    ngx_str_t                       key_prefix;
    apikey_macs_t                  *macs;        /* never NULL */
    ngx_array_t                    *tokens;      /* of apikey_token_t */

    ngx_uint_t                      used;        /* some location needs us */
    const char                     *used_by;     /* directive of the first */
    ngx_str_t                       used_file;
    ngx_uint_t                      used_line;

    /* this worker's, made in init_process; NULL in cache helpers */
    ngx_http_apikey_keyring_t      *keyring;
    ngx_http_apikey_limiter_t      *limiter;
    ngx_http_apikey_usage_t        *worker_usage;
    ngx_http_apikey_pg_t           *quota;       /* asks for lost counts */
    ngx_http_apikey_reports_t      *reports;
    ngx_uint_t                      asking;
    ngx_http_apikey_drift_t        *drift;
    ngx_http_apikey_webhook_t      *webhook;
    ngx_http_apikey_alert_t        *alert;
    ngx_http_apikey_due_t          *due;
} ngx_http_apikey_main_conf_t;


typedef struct ngx_http_apikey_admin_conf_s  ngx_http_apikey_admin_conf_t;


/* What the keyring says is too old to go by (microseconds). */
#define ngx_http_apikey_stale(amcf, fresh, now)                               \
    ((amcf)->max_stale                                                        \
     && (now) - (fresh) > (int64_t) (amcf)->max_stale * 1000)


typedef struct {
    ngx_uint_t                  mode;            /* ngx_http_apikey_mode_e */
    ngx_array_t                *sources;         /* ngx_http_apikey_source_t */
    ngx_array_t                *accept;          /* ngx_str_t */
    ngx_flag_t                  hide;
    ngx_str_t                   realm;
    ngx_array_t                *scopes;          /* ngx_http_apikey_scope_t */
    ngx_http_complex_value_t   *service;
    ngx_http_complex_value_t   *endpoint;
    ngx_http_complex_value_t   *model;
    ngx_http_complex_value_t   *session;
    ngx_http_complex_value_t   *weight;
    uint16_t                   *statuses;        /* of verdicts; NULL: as they
                                                    are */
    ngx_http_apikey_reserve_t  *reserve;         /* NULL: none */
    ngx_uint_t                  usage;           /* ..._usage_from_e */
    ngx_uint_t                  usage_stream;    /* ..._stream_e */
    ngx_uint_t                  request;         /* ..._api_e */
    off_t                       request_max;
    ngx_flag_t                  dry_run;
    ngx_flag_t                  limit_headers;
    ngx_uint_t                  preflight_pass;  /* OPTIONS without a key */

    unsigned                    bearer:1;        /* among sources */
    unsigned                    other:1;         /* a source but bearer */

    ngx_flag_t                  admin;           /* apikey_admin */
    ngx_http_apikey_admin_conf_t
                               *admin_conf;      /* its arguments */
    ngx_str_t                   admin_base;      /* the location's name */
    off_t                       admin_max_body;
    ngx_http_handler_pt         content;         /* of apikey_admin, _metrics,
                                                    _health; NULL: none */
} ngx_http_apikey_loc_conf_t;


typedef enum {
    NGX_HTTP_APIKEY_ST_START = 0,    /* or anonymous so far */
    NGX_HTTP_APIKEY_ST_LOOKUP,       /* waits for Postgres */
    NGX_HTTP_APIKEY_ST_BODY,         /* waits for the request's body */
    NGX_HTTP_APIKEY_ST_LIMITS,       /* waits for Redis */
    NGX_HTTP_APIKEY_ST_DONE          /* decided: verdict is set */
} ngx_http_apikey_state_e;


/* The worst case, before a request; zeroed: it costs neither. */

typedef struct {
    uint64_t                    tokens;
    uint64_t                    cost;            /* nano-units */
    uint64_t                    input;           /* of tokens */
    unsigned                    tokens_unknown:1;
    unsigned                    cost_unknown:1;
    unsigned                    split:1;         /* input is known */
    unsigned                    priced:1;        /* cost is by ctx->price */
    unsigned                    exact:1;         /* and what it will be */
} ngx_http_apikey_worst_t;


/* What the body of a request asks for; zeroed: it is not known. */

typedef struct {
    off_t                       len;             /* of the body */
    ngx_str_t                   model;
    uint64_t                    max_tokens;
    uint64_t                    choices;         /* answers, 1 or more */
    unsigned                    read:1;          /* it is a JSON object */
    unsigned                    has_max:1;       /* max_tokens is set */
    unsigned                    stream:1;
    unsigned                    silent:1;        /* of its usage */
} ngx_http_apikey_asked_t;


/* What the upstream says that a request has cost. */

typedef struct {
    uint64_t                    input;
    uint64_t                    output;
    uint64_t                    cost;            /* nano-units */
    unsigned                    tokens:1;        /* input, output are set */
    unsigned                    priced:1;        /* cost is set */
} ngx_http_apikey_reported_t;


/* What it comes to, for its record and its accounts. */

typedef struct {
    uint64_t                    input;
    uint64_t                    output;
    uint64_t                    cached;          /* of input */
    uint64_t                    reasoning;       /* of output */
    int64_t                     cost;            /* nano-units; < 0: nobody
                                                    knows */
    uint64_t                    price;           /* its version; 0: none */
    uint8_t                     source;          /* ..._usage_source_e */
    unsigned                    tokens_unknown:1;
} ngx_http_apikey_metered_t;


/* A decision that may have to ask Postgres for a count (known.c). */

typedef struct {
    ngx_http_apikey_main_conf_t *amcf;
    void                        *ctx;
    void                       (*handler)(ngx_http_apikey_decision_t *d);
    ngx_http_apikey_pg_op_t      op;
    const char                  *values[1];
    char                        *text;
    ngx_event_t                  timer;
    ngx_uint_t                   tries;
    int64_t                      asked;      /* boottime */
    unsigned                     asking:1;
} ngx_http_apikey_known_t;


/*
 * One for each client request; lives in the request's pool and is found again
 * after an internal redirect.
 */

typedef struct {
    ngx_http_request_t              *request;
    ngx_pool_t                      *pool;       /* r->pool, which is NULL in
                                                    its cleanup handlers */
    ngx_uint_t                       state;
    ngx_uint_t                       changes;    /* r->uri_changes of the
                                                    location it is in */
    apikey_verdict_e                 verdict;

    u_char                           event[16];  /* request id */
    u_char                           id[APIKEY_UUID_TEXT_LEN];
    int64_t                          time;       /* us, at the start */
    int64_t                          now;        /* us, after the last wait */

    ngx_int_t                        wait_rc;
    ngx_http_apikey_ahead_t         *ahead;      /* NULL: no key was seen */
    ngx_http_apikey_usage_slot_t    *slot;
    ngx_http_apikey_usage_start_t    start;

    ngx_http_apikey_bucket_t        *tightest;   /* for variables */
    ngx_http_apikey_bucket_t        *shown;      /* for X-RateLimit-*: the
                                                    tightest of requests */
    ngx_http_apikey_bucket_t        *binding;    /* the one that refused */
    uint8_t                          tightest_level;
    uint8_t                          binding_level;
    uint64_t                         weight;
    ngx_http_apikey_worst_t          reserve;
    ngx_http_apikey_reported_t       reported;
    apikey_price_t                   price;      /* where priced is set */
    ngx_http_apikey_asked_t         *asked;      /* NULL: not looked at */
    apikey_extract_t                *extract;    /* NULL: no such answer */
    ngx_uint_t                       api;        /* of the answer: a
                                                    ..._usage_from_e, or 0 */

    unsigned                         decided:1;  /* by the limiter */
    unsigned                         found:1;    /* key is filled */
    unsigned                         admitted:1; /* at some time */
    unsigned                         waiting:1;  /* suspended */
    unsigned                         pending:1;  /* a room will call back */
    unsigned                         logged:1;
    unsigned                         refused:1;  /* by us */
    unsigned                         answered:1; /* headers of a refusal */
    unsigned                         named:1;    /* event, id are set */
    unsigned                         charged:1;  /* for a look-up */
    unsigned                         has_last:1; /* last is set */
    unsigned                         taken:1;    /* from its accounts */
    unsigned                         dry:1;      /* would have been refused */
    unsigned                         metered:1;  /* apikey_usage headers */
    unsigned                         priced:1;
    unsigned                         any_model:1;    /* nobody knows which */
    unsigned                         foreseen:1; /* by what ahead names */
    unsigned                         momentary:1;    /* takes no slot */

    ngx_http_apikey_decision_t       decision;

    /* not zeroed: only read where what is above says that they are set */

    uint8_t                          digest[APIKEY_DIGEST_LEN];
    uint8_t                          last[APIKEY_DIGEST_LEN];
    ngx_http_apikey_key_t            key;
    ngx_http_apikey_keyring_wait_t   wait;
    ngx_http_apikey_known_t          known;
    ngx_event_t                      resume;     /* where waiting is set */
} ngx_http_apikey_ctx_t;


#define NGX_HTTP_APIKEY_CTX_ZEROED                                            \
    offsetof(ngx_http_apikey_ctx_t, decision)                                 \
    + offsetof(ngx_http_apikey_decision_t, call)


extern ngx_module_t  ngx_http_apikey_module;


/* conf.c */
void *ngx_http_apikey_create_main_conf(ngx_conf_t *cf);
char *ngx_http_apikey_init_main_conf(ngx_conf_t *cf, void *conf);
void *ngx_http_apikey_create_loc_conf(ngx_conf_t *cf);
char *ngx_http_apikey_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
char *ngx_http_apikey_conf_postgres(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_apikey_conf_redis_down(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_apikey_conf_limit_mode(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_apikey_conf_journal(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_apikey_conf_max_stale(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_apikey_conf_node(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_apikey_conf_key_prefix(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* Notes that this directive needs zone, Postgres and journal. */
void ngx_http_apikey_conf_use(ngx_conf_t *cf, const char *directive);

/* "DIRECTIVE": why "VALUE" */
char *ngx_http_apikey_conf_refuse(ngx_conf_t *cf, ngx_command_t *cmd,
    const char *why, ngx_str_t *value);

/* value starts with "name=": rest is what stands behind it. */
ngx_int_t ngx_http_apikey_conf_param(ngx_str_t *value, const char *name,
    ngx_str_t *rest);

/* conf_loc.c: what stands in http, server and location */
char *ngx_http_apikey_conf_mode(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_apikey_conf_source(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_apikey_conf_accept(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_apikey_conf_preflight(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_apikey_conf_realm(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_apikey_conf_weight(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* conf_meter.c: what a request costs */
char *ngx_http_apikey_conf_reserve(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_apikey_conf_usage(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_apikey_conf_request(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_apikey_conf_meter_merge(ngx_conf_t *cf,
    ngx_http_apikey_loc_conf_t *conf, ngx_http_apikey_loc_conf_t *prev);

/* conf_policy.c: what a key needs here, and what it hears otherwise */
char *ngx_http_apikey_conf_scope(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_apikey_conf_status(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
void ngx_http_apikey_conf_value_merge(ngx_http_complex_value_t **conf,
    ngx_http_complex_value_t *prev);

/* conf_redis.c */
char *ngx_http_apikey_conf_redis(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* conf_file.c: files the master reads */
ngx_int_t ngx_http_apikey_conf_read(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_str_t *path, ngx_str_t *text);
char *ngx_http_apikey_conf_mac_secret(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_apikey_conf_admin_token(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* zone.c */
char *ngx_http_apikey_conf_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* throttle.c: NGX_ERROR: no memory in the zone */
ngx_int_t ngx_http_apikey_throttle_init(ngx_slab_pool_t *shpool, size_t zone,
    apikey_bucket_set_t **sets);

/* NGX_OK: go on; NGX_DECLINED: too many, *wait us until there is room. */
ngx_int_t ngx_http_apikey_throttle_caller(ngx_http_request_t *r,
    const u_char id[16], const apikey_rate_t *rate, uint64_t *wait);
ngx_int_t ngx_http_apikey_throttle_failure(ngx_http_request_t *r,
    uint64_t *wait);

/* NGX_DONE: go on, too; it costs nothing, or nobody can have guessed it. */
ngx_int_t ngx_http_apikey_throttle_lookup(ngx_http_request_t *r,
    ngx_str_t *key, apikey_key_e form, const u_char digest[32],
    uint64_t *wait);

/* Gives NGX_OK of throttle_lookup() back: it was no guess, or no answer. */
void ngx_http_apikey_throttle_found(ngx_http_request_t *r);

/* worker.c */
ngx_int_t ngx_http_apikey_worker_start(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf);
void ngx_http_apikey_worker_stop(ngx_http_apikey_main_conf_t *amcf);

/* access.c */
ngx_int_t ngx_http_apikey_access_handler(ngx_http_request_t *r);

/* context.c; NULL: this request has none. */
ngx_http_apikey_ctx_t *ngx_http_apikey_get_ctx(ngx_http_request_t *r);

/* credential.c: NGX_OK value set, NGX_DECLINED none, NGX_ABORT duplicate */
ngx_int_t ngx_http_apikey_credential(ngx_http_request_t *r,
    ngx_array_t *sources, ngx_str_t *value);

/*
 * lookup.c: as ngx_http_apikey_keyring_lookup(); last: what a key imported by
 * the hash of its last segment is known by, NULL none.
 */
ngx_int_t ngx_http_apikey_lookup(ngx_http_apikey_main_conf_t *amcf,
    const u_char *digest, const u_char *last, ngx_pool_t *pool,
    ngx_http_apikey_key_t *key);

/* hide.c */
ngx_int_t ngx_http_apikey_credential_hide(ngx_http_request_t *r,
    ngx_array_t *sources);
ngx_int_t ngx_http_apikey_request_id_set(ngx_http_request_t *r,
    ngx_str_t *id);

/* policy.c */
ngx_int_t ngx_http_apikey_accepted(ngx_array_t *accept, ngx_str_t *key);
ngx_int_t ngx_http_apikey_ip_allowed(ngx_http_apikey_key_t *key,
    const u_char address[16]);
ngx_int_t ngx_http_apikey_scope_held(ngx_str_t *held, ngx_str_t *wanted,
    ngx_uint_t list);
ngx_int_t ngx_http_apikey_model_allowed(ngx_str_t *models, ngx_str_t *model);
void ngx_http_apikey_client_address(ngx_http_request_t *r, u_char out[16]);

/* problem.c: RFC 9457 bodies */
ngx_uint_t ngx_http_apikey_verdict_status(apikey_verdict_e verdict);

/* Why, not how: stays refused wherever the request goes from here. */
#define ngx_http_apikey_verdict_final(verdict)                                \
    ((verdict) <= APIKEY_IP_DENIED)

/*
 * Answers a refused request: a status that nginx shall answer with, or
 * NGX_DONE: the answer is sent and the request finalized.
 */
ngx_int_t ngx_http_apikey_problem(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);

/* price.c: 0: there is none for what ctx->start says */
ngx_uint_t ngx_http_apikey_price_find(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, apikey_price_t *price);

/*
 * request.c: NGX_OK: the body is read, as far as it is to be; else what the
 * access phase is to return, which then is entered again.
 */
ngx_int_t ngx_http_apikey_request_read(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);

/* 0: a stream of whose usage nothing would be known, where it has to be. */
ngx_uint_t ngx_http_apikey_request_tells(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);

/* NGX_DECLINED: there are no models here. */
ngx_int_t ngx_http_apikey_request_model(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_str_t *model);

/* extract.c: what an answer says that it has cost */
ngx_int_t ngx_http_apikey_extract_init(ngx_conf_t *cf);
ngx_int_t ngx_http_apikey_extract_ask(ngx_http_request_t *r);
ngx_int_t ngx_http_apikey_extract_begin(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);

/* A ..._usage_source_e; NONE leaves t undefined. */
ngx_uint_t ngx_http_apikey_extract_end(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_uint_t guess, apikey_tokens_t *t);

/* headers.c */
ngx_int_t ngx_http_apikey_headers_init(ngx_conf_t *cf);
ngx_int_t ngx_http_apikey_header_add(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value);

/* variables.c */
ngx_int_t ngx_http_apikey_add_variables(ngx_conf_t *cf);

/* log.c */
ngx_int_t ngx_http_apikey_log_handler(ngx_http_request_t *r);

/* As $status has it; 0: there is no answer yet. */
ngx_uint_t ngx_http_apikey_status(ngx_http_request_t *r);

/* meter.c: what a request may cost, says it has cost, and has cost */
void ngx_http_apikey_meter_reserve(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);

/* The header filter: reads what is reported and hides it from the client. */
void ngx_http_apikey_meter_read(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx);

/* 0: there is no answer yet. */
ngx_uint_t ngx_http_apikey_meter_end(ngx_http_request_t *r,
    ngx_http_apikey_ctx_t *ctx, ngx_http_apikey_metered_t *m);


/*
 * merge_loc_conf calls it before it merges mode: our content handlers imply
 * "apikey off" and hold inside limit_except; NGX_CONF_ERROR is logged.
 */
char *ngx_http_apikey_content_merge(ngx_conf_t *cf,
    ngx_http_apikey_loc_conf_t *prev, ngx_http_apikey_loc_conf_t *conf);

/* conf_admin.c, metrics.c, health.c: directive setters install handlers */
char *ngx_http_apikey_admin(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_apikey_metrics(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_apikey_health(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);


#endif /* NGX_HTTP_APIKEY_HTTP_H_INCLUDED */
