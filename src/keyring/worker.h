
/*
 * What a worker has of the keyring: look-ups on a miss (find.c) and, in one
 * worker of the master, keeping the copy current (sync.c, load.c).  For the
 * files of keyring/ only.
 */


#ifndef NGX_HTTP_APIKEY_WORKER_H_INCLUDED
#define NGX_HTTP_APIKEY_WORKER_H_INCLUDED


#include "keyring/store.h"

#include <ngx_thread_pool.h>


#define NGX_HTTP_APIKEY_FINDS      256      /* hash chains */
#define NGX_HTTP_APIKEY_FINDS_MAX  4096     /* queries at once */
#define NGX_HTTP_APIKEY_NEGATIVES  1024
#define NGX_HTTP_APIKEY_IDS        NGX_HTTP_APIKEY_KEYRING_IDS
#define NGX_HTTP_APIKEY_IDS_MAX    100000   /* remembered from notices */
#define NGX_HTTP_APIKEY_PAGE       "1000"

#define NGX_HTTP_APIKEY_BEAT_ALIVE 3000     /* ms; Postgres waits for ten s */


typedef struct {
    u_char                        digest[32];
    ngx_msec_t                    until;
    uint64_t                      created;
} ngx_http_apikey_negative_t;


typedef struct {
    u_char                        id[16];
    ngx_uint_t                    owner;      /* or a calendar or the
                                                 prices, no key */
} ngx_http_apikey_id_t;


/* UUIDs as arrays of Postgres: "{...,...}". */

typedef struct {
    char                          keys[NGX_HTTP_APIKEY_IDS * 37 + 3];
    char                          owners[NGX_HTTP_APIKEY_IDS * 37 + 3];
    const char                   *values[2];
} ngx_http_apikey_ids_t;


typedef enum {
    NGX_HTTP_APIKEY_LOAD_NONE = 0,
    NGX_HTTP_APIKEY_LOAD_HEAD,       /* asks a replica where it stands */
    NGX_HTTP_APIKEY_LOAD_CALENDARS,
    NGX_HTTP_APIKEY_LOAD_OWNERS,
    NGX_HTTP_APIKEY_LOAD_KEYS,
    NGX_HTTP_APIKEY_LOAD_CATCH_UP,   /* changes since the load began */
    NGX_HTTP_APIKEY_LOAD_SWEEP
} ngx_http_apikey_load_e;


typedef struct {
    ngx_http_apikey_keyring_t    *kr;
    ngx_http_apikey_pg_t         *pg;         /* listens */
    ngx_http_apikey_pg_t         *read;       /* first load; NULL: pg */
    int                           lock;       /* fd; -1: not elected */

    ngx_event_t                   tick;
    ngx_event_t                   sweep;
    ngx_http_apikey_pg_op_t       op;         /* one at a time */
    ngx_http_apikey_before_t      before;     /* it was asked */
    int64_t                       at;         /* us: when it was */
    ngx_http_apikey_pg_t         *op_pg;

    ngx_array_t                   ids;        /* ngx_http_apikey_id_t */
    ngx_http_apikey_ids_t         fetch;
    ngx_uint_t                    fetching;   /* so many ids are in flight, */
    ngx_uint_t                    fetched;    /* from this one on */

    ngx_int_t                     known;      /* is what the head said;
                                                 NGX_AGAIN: not yet read */
    ngx_http_apikey_position_t    head;
    ngx_http_apikey_position_t    next;       /* once all of ids is applied */
    int64_t                       asked;      /* us: when it was read */
    int64_t                       version;    /* the highest held then */

    ngx_uint_t                    load;
    uint32_t                      swept;
    char                          after[40];
    char                          seq[24];
    char                          node[40];
    char                          name[256];
    const char                   *values[4];

    ngx_msec_t                    beat_at;
    ngx_msec_t                    alive_at;
    ngx_msec_t                    poll_at;
    ngx_msec_t                    save_at;
    uint64_t                      saved;      /* sh->changes then */
    ngx_int_t                     save_rc;    /* of the thread */
    ngx_thread_task_t            *task;

    unsigned                      elected:1;  /* is or was */
    unsigned                      up:1;
    unsigned                      busy:1;     /* op is queued or in flight */
    unsigned                      notice:1;   /* came, the log is to follow */
    unsigned                      changes:1;  /* due */
    unsigned                      schema:1;   /* due */
    unsigned                      outdated:1; /* the schema, that is logged */
    unsigned                      moved:1;    /* next is to be taken over */
    unsigned                      trouble:1;  /* logged already */
    unsigned                      alone:1;    /* a second node was told of */
    unsigned                      overflow:1; /* ids is full */
    unsigned                      no_read:1;  /* the replica failed */
} ngx_http_apikey_sync_t;


struct ngx_http_apikey_keyring_s {
    ngx_http_apikey_keyring_conf_t  conf;
    ngx_pool_t                   *pool;
    char                          directory[NGX_MAX_PATH];

    ngx_http_apikey_pg_t         *pg;         /* look-ups */
    ngx_http_apikey_pg_t         *admin;
    ngx_http_apikey_pg_t         *bulk;
    ngx_queue_t                   finds[NGX_HTTP_APIKEY_FINDS];
    ngx_queue_t                   refreshes;
    ngx_uint_t                    nfinds;
    ngx_queue_t                   done;       /* waiters: answered already */
    ngx_event_t                   wake;
    ngx_uint_t                    negative;   /* next to be written */
    ngx_http_apikey_negative_t    negatives[NGX_HTTP_APIKEY_NEGATIVES];

    ngx_http_apikey_sync_t        sync;
};


/* find.c */
ngx_int_t ngx_http_apikey_find_start(ngx_http_apikey_keyring_t *kr);
void ngx_http_apikey_find_stop(ngx_http_apikey_keyring_t *kr);
ngx_int_t ngx_http_apikey_keyring_apply(ngx_http_apikey_keyring_t *kr,
    PGresult *res, ngx_http_apikey_before_t *before, ngx_uint_t how);

/* sync.c */
ngx_int_t ngx_http_apikey_sync_start(ngx_http_apikey_keyring_t *kr);
void ngx_http_apikey_sync_stop(ngx_http_apikey_keyring_t *kr);
void ngx_http_apikey_sync_next(ngx_http_apikey_sync_t *s);
ngx_int_t ngx_http_apikey_sync_ask(ngx_http_apikey_sync_t *s,
    ngx_http_apikey_pg_t *pg, const char *sql, int n, ngx_msec_t timeout,
    ngx_http_apikey_pg_handler_pt handler);

/* row: as ngx_http_apikey_pg_op_t has it */
ngx_int_t ngx_http_apikey_sync_ask_rows(ngx_http_apikey_sync_t *s,
    ngx_http_apikey_pg_t *pg, const char *sql, int n, ngx_msec_t timeout,
    ngx_http_apikey_pg_handler_pt row, ngx_http_apikey_pg_handler_pt handler);

ngx_int_t ngx_http_apikey_sync_ok(ngx_http_apikey_sync_t *s, PGresult *res,
    const char *what);
void ngx_http_apikey_sync_current(ngx_http_apikey_sync_t *s);

/* load.c */
void ngx_http_apikey_load_begin(ngx_http_apikey_sync_t *s);
void ngx_http_apikey_load_next(ngx_http_apikey_sync_t *s);
void ngx_http_apikey_load_abort(ngx_http_apikey_sync_t *s);
void ngx_http_apikey_load_caught_up(ngx_http_apikey_sync_t *s);

/* changes.c */
void ngx_http_apikey_changes_ask(ngx_http_apikey_sync_t *s);
void ngx_http_apikey_changes_fetch(ngx_http_apikey_sync_t *s);
void ngx_http_apikey_changes_notify(void *data, const char *payload);
ngx_int_t ngx_http_apikey_changes_head(PGresult *res,
    ngx_http_apikey_position_t *position);

/* From lines of "key UUID" and "owner UUID". */
ngx_int_t ngx_http_apikey_changes_ids(ngx_http_apikey_ids_t *list,
    ngx_str_t *ids);

/* beat.c */
void ngx_http_apikey_beat_node(ngx_http_apikey_sync_t *s);
void ngx_http_apikey_beat_alive(ngx_http_apikey_sync_t *s);
void ngx_http_apikey_beat_schema(ngx_http_apikey_sync_t *s);


#endif /* NGX_HTTP_APIKEY_WORKER_H_INCLUDED */
