
/*
 * What the files of the admin API share: one request of it, its route, and
 * the stages it runs through.
 *
 * Everything lives in the request's pool.  A stage returns NGX_DECLINED (go
 * on with the next), NGX_AGAIN (suspended: an event calls admin_run() and the
 * same stage again), NGX_ABORT (answered: the request ends with a->rc), or a
 * status for nginx to answer with.  NGX_OK never ends a request, so that a
 * refusal cannot be taken for consent.
 */


#ifndef NGX_HTTP_APIKEY_ADMIN_H_INCLUDED
#define NGX_HTTP_APIKEY_ADMIN_H_INCLUDED


#include <libpq-fe.h>

#include "base/digest.h"
#include "base/json.h"
#include "base/key.h"
#include "base/rate.h"
#include "base/uuid.h"
#include "http/http.h"


#define NGX_HTTP_APIKEY_ADMIN_SEGMENTS  8
#define NGX_HTTP_APIKEY_ADMIN_PARAMS    2
#define NGX_HTTP_APIKEY_ADMIN_MAX_BODY  (1024 * 1024)
#define NGX_HTTP_APIKEY_ADMIN_MAX_IMPORT  (64 * 1024 * 1024)


/* What has to vouch for a variable that names the caller. */

typedef enum {
    NGX_HTTP_APIKEY_PROOF_ANY = 0,   /* its maker, and all it is made of */
    NGX_HTTP_APIKEY_PROOF_BASIC,     /* auth_basic */
    NGX_HTTP_APIKEY_PROOF_CERT       /* $ssl_client_verify */
} ngx_http_apikey_proof_e;


typedef struct {
    ngx_str_t                          name;     /* lower case, without $ */
    ngx_int_t                          index;
    ngx_http_apikey_proof_e            proof;
} ngx_http_apikey_admin_variable_t;


/* The arguments of apikey_admin. */

struct ngx_http_apikey_admin_conf_s {
    ngx_http_apikey_admin_variable_t  *identity;     /* NULL: none */
    ngx_http_apikey_admin_variable_t  *operator;
    apikey_rate_t                      rate;
    ngx_uint_t                         compat;

    ngx_module_t                      *basic;        /* NULL: not built in */
    ngx_uint_t                         realm;        /* offsets of what its */
    ngx_uint_t                         user_file;    /* directives set */
};


typedef struct ngx_http_apikey_admin_s  ngx_http_apikey_admin_t;

typedef ngx_int_t (*ngx_http_apikey_admin_stage_pt)(
    ngx_http_apikey_admin_t *a);


/* What a handler takes of a body. */

typedef enum {
    NGX_HTTP_APIKEY_BODY_NONE = 0,
    NGX_HTTP_APIKEY_BODY_JSON,
    NGX_HTTP_APIKEY_BODY_SECRET,     /* holds keys: no copy of it stays */
    NGX_HTTP_APIKEY_BODY_OLDER,      /* holds a password: it is taken out */
    NGX_HTTP_APIKEY_BODY_STREAM      /* the handler reads it itself */
} ngx_http_apikey_body_e;


/*
 * One line of the API.  The pattern's {name} takes one segment of the path
 * and hands it to the function as path.name.  GET serves HEAD, too.
 */

typedef struct {
    ngx_uint_t                      method;
    ngx_str_t                       pattern;
    const char                     *function;    /* apikey.api()'s $1 */
    ngx_http_apikey_admin_stage_pt  handler;     /* answered here instead */
    unsigned                        body:3;      /* ngx_http_apikey_body_e */
    unsigned                        open:1;      /* needs no credential */
    unsigned                        older:1;     /* only with compat */
    unsigned                        report:1;    /* over a connection that
                                                    holds up nobody else */
} ngx_http_apikey_admin_route_t;


typedef enum {
    NGX_HTTP_APIKEY_CALLER_NOBODY = 0,
    NGX_HTTP_APIKEY_CALLER_OPERATOR,
    NGX_HTTP_APIKEY_CALLER_OWNER,
    NGX_HTTP_APIKEY_CALLER_KEY
} ngx_http_apikey_caller_e;


typedef enum {
    NGX_HTTP_APIKEY_PROBLEM_INVALID_REQUEST = 0,
    NGX_HTTP_APIKEY_PROBLEM_MISSING_CREDENTIAL,
    NGX_HTTP_APIKEY_PROBLEM_INVALID_CREDENTIAL,
    NGX_HTTP_APIKEY_PROBLEM_FORBIDDEN,
    NGX_HTTP_APIKEY_PROBLEM_NOT_FOUND,
    NGX_HTTP_APIKEY_PROBLEM_METHOD,
    NGX_HTTP_APIKEY_PROBLEM_TOO_LARGE,
    NGX_HTTP_APIKEY_PROBLEM_MEDIA_TYPE,
    NGX_HTTP_APIKEY_PROBLEM_RATE_LIMITED,
    NGX_HTTP_APIKEY_PROBLEM_INTERNAL,
    NGX_HTTP_APIKEY_PROBLEM_UNAVAILABLE,
    NGX_HTTP_APIKEY_PROBLEM_SCHEMA
} ngx_http_apikey_problem_e;


/* One of a problem's errors. */

typedef struct {
    ngx_str_t    location;
    const char  *code;
    const char  *message;
} ngx_http_apikey_admin_error_t;


struct ngx_http_apikey_admin_s {
    ngx_http_request_t                   *request;
    ngx_http_apikey_main_conf_t          *amcf;
    ngx_http_apikey_loc_conf_t           *alcf;
    ngx_uint_t                            stage;
    ngx_int_t                             rc;        /* of an answer sent */
    u_char                                id[APIKEY_UUID_LEN];

    const ngx_http_apikey_admin_route_t  *route;
    ngx_str_t                             segments[
                                             NGX_HTTP_APIKEY_ADMIN_SEGMENTS];
    ngx_uint_t                            nsegments;
    char                                  param_name[
                                            NGX_HTTP_APIKEY_ADMIN_PARAMS][16];
    ngx_str_t                             param[NGX_HTTP_APIKEY_ADMIN_PARAMS];
    ngx_uint_t                            nparams;

    ngx_http_apikey_caller_e              caller;
    ngx_str_t                             name;      /* operator, or named */
    ngx_http_apikey_key_t                 key;       /* owner, key */
    uint8_t                               digest[APIKEY_DIGEST_LEN];
    uint8_t                               last[APIKEY_DIGEST_LEN];
    ngx_int_t                             find_rc;

    ngx_array_t                          *query;     /* ngx_keyval_t */
    ngx_str_t                             body;      /* data NULL: none */
    size_t                                body_size; /* of body.data */

    ngx_pool_t                           *pool;      /* of a call */
    ngx_http_apikey_pg_t                 *pg;        /* NULL: the worker's */
    const char                           *function;  /* NULL: the route's */
    ngx_uint_t                            part;      /* of several calls */

    void                                 *job;       /* of route->handler */
    void                                (*detach)(   /* by cleanup, or NULL */
                                            ngx_http_apikey_admin_t *a);

    ngx_http_apikey_pg_op_t               op;
    const char                           *values[3];
    ngx_uint_t                            tries;
    ngx_event_t                           pause;     /* before another one */
    ngx_msec_t                            until;     /* of pauses; 0: none */
    ngx_http_apikey_problem_e             problem;   /* of a failed call */
    const char                           *refusal;   /* of who is refused;
                                                        NULL: as usual */

    /* a key made here: wiped when the request goes */
    u_char                                secret[APIKEY_KEY_MADE_MAX];
    size_t                                secret_len;
    u_char                                secret_id[APIKEY_UUID_LEN];

    ngx_uint_t                            status;
    ngx_str_t                             headers;   /* "Name: value" lines */
    ngx_str_t                             live;      /* JSON: what nobody
                                                           else can know */
    ngx_str_t                             answer;
    ngx_str_t                             refresh;

    ngx_http_apikey_keyring_wait_t        wait;

    uint64_t                              retry_after;  /* us, of a 429 */

    unsigned                              named:1;      /* by a variable */
    unsigned                              read_only:1;  /* operator */
    unsigned                              charged:1;    /* for a look-up */
    unsigned                              reading:1;    /* the body */
    unsigned                              finding:1;    /* wait is in use */
    unsigned                              found:1;      /* find_rc is set */
    unsigned                              calling:1;    /* op is in use */
    unsigned                              called:1;     /* problem or status
                                                           is set */
    unsigned                              failed:1;     /* see problem */
    unsigned                              waiting:1;    /* is counted so */
    unsigned                              has_last:1;   /* last is set */
    unsigned                              stay:1;       /* goes on when the
                                                           client leaves */
    unsigned                              within:1;     /* a transaction: a
                                                           call that failed is
                                                           not tried again */
    unsigned                              again:1;      /* but as a whole */
};


/* admin.c */
ngx_int_t ngx_http_apikey_admin_handler(ngx_http_request_t *r);
void ngx_http_apikey_admin_run(ngx_http_apikey_admin_t *a);
void ngx_http_apikey_admin_resume(ngx_http_apikey_admin_t *a);
ngx_http_apikey_admin_t *ngx_http_apikey_admin_get(ngx_http_request_t *r);
void ngx_http_apikey_admin_wait(ngx_http_apikey_admin_t *a);

/* admin_routes.c */
ngx_int_t ngx_http_apikey_admin_route(ngx_http_apikey_admin_t *a);

/* admin_caller.c: who calls */
ngx_int_t ngx_http_apikey_admin_caller(ngx_http_apikey_admin_t *a);
ngx_int_t ngx_http_apikey_admin_challenge(ngx_http_apikey_admin_t *a);
ngx_uint_t ngx_http_apikey_admin_header(ngx_http_request_t *r,
    const char *name, ngx_str_t *value);

/* A wrong credential: counts against the address. */
ngx_int_t ngx_http_apikey_admin_refuse(ngx_http_apikey_admin_t *a,
    apikey_fail_e reason);

/* admin_identity.c: callers named by variables */
ngx_int_t ngx_http_apikey_admin_identity(ngx_http_apikey_admin_t *a);

/* admin_known.c: a->caller is set */
ngx_int_t ngx_http_apikey_admin_known(ngx_http_apikey_admin_t *a);

/* admin_path.c */
ngx_int_t ngx_http_apikey_admin_path(ngx_http_apikey_admin_t *a);
ngx_int_t ngx_http_apikey_admin_unescape(u_char **p, u_char *last, u_char *c);

/* admin_request.c: what is asked */
ngx_int_t ngx_http_apikey_admin_query(ngx_http_apikey_admin_t *a);
ngx_int_t ngx_http_apikey_admin_no_query(ngx_http_apikey_admin_t *a);
ngx_int_t ngx_http_apikey_admin_request(ngx_http_apikey_admin_t *a);

/* admin_body.c */
ngx_int_t ngx_http_apikey_admin_body(ngx_http_apikey_admin_t *a);

/*
 * For who reads a body in pieces.  start: NGX_OK or the end of the request.
 * next: NGX_OK: r->request_body->bufs holds some, and what is left of it stays
 * there; NGX_DONE: that was all; NGX_AGAIN: suspended; else the end.
 */
ngx_int_t ngx_http_apikey_admin_body_start(ngx_http_apikey_admin_t *a,
    off_t max);
ngx_int_t ngx_http_apikey_admin_body_next(ngx_http_apikey_admin_t *a);
ngx_int_t ngx_http_apikey_admin_too_large(ngx_http_apikey_admin_t *a);

/* admin_older.c: paths below keys/, with compat */
ngx_uint_t ngx_http_apikey_admin_older(ngx_http_apikey_admin_t *a);
void ngx_http_apikey_admin_older_forget(ngx_http_apikey_admin_t *a);
ngx_int_t ngx_http_apikey_admin_older_problem(ngx_http_apikey_admin_t *a,
    ngx_uint_t status, const char *code, const char *detail);

/* admin_call.c: Postgres and the keyring */
ngx_int_t ngx_http_apikey_admin_call(ngx_http_apikey_admin_t *a);
ngx_int_t ngx_http_apikey_admin_refresh(ngx_http_apikey_admin_t *a);

/*
 * For handlers: makes the request, sends it and suspends.  The handler is
 * called again with a->called set, and calls finish() or reads the answer.
 * try() says NGX_DECLINED, with a->failed set, where start() answers.
 */
ngx_int_t ngx_http_apikey_admin_call_start(ngx_http_apikey_admin_t *a);
ngx_int_t ngx_http_apikey_admin_call_try(ngx_http_apikey_admin_t *a);
ngx_int_t ngx_http_apikey_admin_call_finish(ngx_http_apikey_admin_t *a);

ngx_int_t ngx_http_apikey_admin_call_send(ngx_http_apikey_admin_t *a);
void ngx_http_apikey_admin_call_done(ngx_http_apikey_admin_t *a);

/* admin_schema.c: after an error of that SQLSTATE; NGX_OK: it is tried again,
   NGX_DECLINED: the error stands */
ngx_int_t ngx_http_apikey_admin_schema(ngx_http_apikey_admin_t *a,
    const char *state);
/* Within a transaction a->again is set, and whoever began that waits. */
ngx_int_t ngx_http_apikey_admin_schema_wait(ngx_http_apikey_admin_t *a);

/* admin_answer.c: problem(), wrong() and send() return NGX_ABORT or a status;
   wrong() is a 400 with one member of errors[] */
ngx_int_t ngx_http_apikey_admin_answer(ngx_http_apikey_admin_t *a);
ngx_int_t ngx_http_apikey_admin_problem(ngx_http_apikey_admin_t *a,
    ngx_http_apikey_problem_e problem, const char *detail,
    ngx_http_apikey_admin_error_t *error);
ngx_int_t ngx_http_apikey_admin_problems(ngx_http_apikey_admin_t *a,
    ngx_http_apikey_problem_e problem, const char *detail,
    ngx_http_apikey_admin_error_t *error, ngx_uint_t n);
ngx_int_t ngx_http_apikey_admin_wrong(ngx_http_apikey_admin_t *a,
    const char *detail, const char *location, const char *code,
    const char *message);
ngx_int_t ngx_http_apikey_admin_add_header(ngx_http_request_t *r,
    const char *name, ngx_str_t *value);
ngx_int_t ngx_http_apikey_admin_send(ngx_http_apikey_admin_t *a,
    ngx_uint_t status, const char *type, ngx_str_t *body);

/* The head of a 200 whose body the caller sends: says NGX_OK, or the end. */
ngx_int_t ngx_http_apikey_admin_head(ngx_http_apikey_admin_t *a);

/* content.c: shared by apikey_admin, apikey_metrics, apikey_health */
char *ngx_http_apikey_content_set(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_http_apikey_loc_conf_t *alcf, ngx_http_handler_pt handler);
ngx_int_t ngx_http_apikey_content_send(ngx_http_request_t *r,
    ngx_uint_t status, const char *type, ngx_str_t *body);

/* import.c: POST api-keys/import */
ngx_int_t ngx_http_apikey_import(ngx_http_apikey_admin_t *a);

/* export.c: GET export/... */
ngx_int_t ngx_http_apikey_export(ngx_http_apikey_admin_t *a);

/* leaks.c: POST leaks */
ngx_int_t ngx_http_apikey_leaks(ngx_http_apikey_admin_t *a);

/* verify.c: POST api-keys/verify */
ngx_int_t ngx_http_apikey_verify(ngx_http_apikey_admin_t *a);

/* live.c: GET limits */
ngx_int_t ngx_http_apikey_live(ngx_http_apikey_admin_t *a);

/* health.c */
ngx_int_t ngx_http_apikey_health_json(ngx_http_apikey_admin_t *a);

/* openapi.c */
ngx_int_t ngx_http_apikey_openapi_json(ngx_http_apikey_admin_t *a);


#endif /* NGX_HTTP_APIKEY_ADMIN_H_INCLUDED */
