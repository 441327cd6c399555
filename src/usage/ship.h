
/*
 * What the files of usage/ share: the worker's state, the elected shipper,
 * one batch for Postgres.  No other room includes this.
 */


#ifndef NGX_HTTP_APIKEY_SHIP_H_INCLUDED
#define NGX_HTTP_APIKEY_SHIP_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_thread_pool.h>

#include "usage/ring.h"
#include "usage/spool.h"
#include "usage/usage.h"
#include "wire/postgres.h"


_Static_assert(sizeof(apikey_slot_t) <= NGX_HTTP_APIKEY_USAGE_SLOT,
               "a slot is larger than usage.h says");


#define NGX_HTTP_APIKEY_RINGS      256   /* files in a directory */
#define NGX_HTTP_APIKEY_OWN_RINGS  8     /* of one worker */
#define NGX_HTTP_APIKEY_SUMS       256
#define NGX_HTTP_APIKEY_SLOTS      131072    /* of a batch's tables */

#define NGX_HTTP_APIKEY_FRAMES     (4 * 1024 * 1024)   /* of a batch */

/* bytes, and rows, from which on a batch takes no more events */
#define NGX_HTTP_APIKEY_COPY_MAX   (16 * 1024 * 1024 - 65536)
#define NGX_HTTP_APIKEY_ROWS_MAX   14336

#define NGX_HTTP_APIKEY_TICK_MIN   10    /* ms */
#define NGX_HTTP_APIKEY_TICK_MAX   100


/* Are raw events kept?  No more is sent that would be thrown away. */

#define NGX_HTTP_APIKEY_RAW_SQL                                               \
    "SELECT value FROM apikey.setting WHERE name = 'raw_days'"


/* Until when what runs is to be said. */

#define NGX_HTTP_APIKEY_WANT_SQL  "apikey.usage_want("


/* A growing buffer; failed: out of memory, and the content is a prefix. */

typedef struct {
    u_char                          *data;
    size_t                           len;
    size_t                           size;
    ngx_uint_t                       failed;
} ngx_http_apikey_text_t;


typedef struct {
    uint32_t                         stream;
    uint64_t                         epoch;
    uint64_t                         mark;       /* before this batch */
    uint64_t                         first;
    uint64_t                         last;
} ngx_http_apikey_batch_stream_t;


/*
 * A line of the cache for what every event changes, and one for what tells
 * rows apart: with many keys each row is far away in memory.
 */

typedef struct {
    int64_t                          start
        __attribute__((aligned(64)));
    int64_t                          last;
    uint64_t                         requests, in, out, duration;
    unsigned __int128                units;      /* beyond 64 bits: a batch
                                                    of the largest there are */

    u_char                           key[16];
    const char                      *text;       /* one after another */
    uint32_t                         hash;
    uint16_t                         status;
    u_char                           verdict;
    u_char                           outcome;
    u_char                           len[APIKEY_TEXT_SESSION];
    uint64_t                         refused, errors, unpriced;

    unsigned __int128                cost;       /* as units */
    uint64_t                         tokens[4];
} ngx_http_apikey_row_t;


typedef struct {
    u_char                           secret[16];
    int64_t                          last;
} ngx_http_apikey_used_t;


/* Of an entry of the dictionary being decoded; numbers from 1, 0: not yet */

typedef struct {
    uint32_t                         row;
    uint32_t                         used;
} ngx_http_apikey_entry_t;


/* An event that is decoded, but whose turn it is not yet */

#define NGX_HTTP_APIKEY_EVENTS_AHEAD  8          /* a power of two */

typedef struct {
    apikey_event_t                   event;
    uint64_t                         number;
    uint32_t                         hash;       /* of its row */
    uint32_t                         used;       /* hash of its secret */
    ngx_uint_t                       fresh;      /* these two are set: its
                                                    entry had no row yet */
} ngx_http_apikey_batch_ahead_t;


/* One transaction; everything is kept from batch to batch. */

typedef struct {
    ngx_http_apikey_text_t           sql;
    ngx_http_apikey_text_t           copy;

    ngx_http_apikey_batch_stream_t   stream[NGX_HTTP_APIKEY_RINGS];
    ngx_uint_t                       nstreams;

    ngx_http_apikey_text_t           rows;       /* of ..._row_t */
    ngx_http_apikey_text_t           used;       /* of ..._used_t */
    ngx_http_apikey_text_t           ran;        /* ids, each and a comma */
    uint32_t                        *table;      /* hash of rows, then used */
    uint32_t                         slots;      /* of each; a power of two */
    size_t                           taken;      /* bytes of the frames */
    uint32_t                         entries;    /* of entry[] in use */
    ngx_http_apikey_entry_t          entry[APIKEY_FRAME_TABLE];
    ngx_http_apikey_batch_ahead_t    ahead[NGX_HTTP_APIKEY_EVENTS_AHEAD];
    ngx_uint_t                       decoded;    /* events of the frame */
    uint64_t                         number;     /* of the event being taken */

    ngx_uint_t                       count;      /* events in it */
    uint64_t                         lost;       /* in gaps */
    ngx_uint_t                       wide;       /* batches yet to be wide */
    unsigned                         raw:1;      /* copy is not empty */
    unsigned                         more:1;     /* the buffer holds others */
    apikey_decoder_t                 decoder;
    apikey_encoder_t                 encoder;    /* quarantine */
} ngx_http_apikey_batch_t;


typedef struct {
    const u_char                    *node;
    ngx_str_t                       *name;
    int64_t                          as_of;      /* when nothing is left */
    int64_t                          before;     /* else */
    const apikey_marks_t            *marks;
    ngx_uint_t                       max;
    ngx_uint_t                       no_gap;     /* stop where one begins */
    ngx_uint_t                       no_raw;     /* roll-ups only */
    int64_t                          runs_to;    /* who was admitted before is
                                                    perhaps said to run */
    const char                      *poison;     /* SQLSTATE: quarantine it */
    const char                      *reason;
    uint64_t                         client;     /* APIKEY_CLIENT_PREFIX */
} ngx_http_apikey_batch_conf_t;


typedef struct {
    apikey_ring_t                    ring;
    uint64_t                         taken;      /* last one in the chunk */
    uint64_t                         target;     /* ship up to it, then exit */
    uint64_t                         ran;        /* ended when it was looked at
                                                    what runs */
    unsigned                         open:1;
    unsigned                         foreign:1;
} ngx_http_apikey_ship_ring_t;


typedef struct {
    char                             state[8];   /* SQLSTATE that is logged */
    unsigned                         told:1;
} ngx_http_apikey_ship_trouble_t;


typedef enum {
    NGX_HTTP_APIKEY_DISK_OPEN = 0,
    NGX_HTTP_APIKEY_DISK_APPEND,
    NGX_HTTP_APIKEY_DISK_SYNC,
    NGX_HTTP_APIKEY_DISK_READ
} ngx_http_apikey_disk_e;


typedef struct {
    ngx_http_apikey_usage_t         *usage;
    ngx_log_t                       *log;

    ngx_http_apikey_ship_ring_t      rings[NGX_HTTP_APIKEY_RINGS];
    ngx_uint_t                       nrings;
    ngx_msec_t                       scan_at;

    /* the disk; the thread has the spool while busy */
    apikey_spool_t                   spool;
    apikey_cursor_t                  cursor;
    apikey_marks_t                   shipped;    /* a copy for the thread */
    ngx_thread_task_t               *task;
    ngx_http_apikey_disk_e           disk_op;
    apikey_spool_e                   disk_rc;
    ngx_msec_t                       disk_retry;
    ngx_msec_t                       read_retry;
    u_char                          *chunk;      /* being written */
    size_t                           chunk_len;
    int64_t                          chunk_as_of;
    ngx_uint_t                       chunk_count;    /* events in it */
    ngx_msec_t                       chunk_at;   /* when it was gathered */
    ngx_msec_t                       gathered_at;    /* all up to then */
    ngx_msec_t                       gather_at;  /* the next time */
    ngx_msec_t                       unsafe_at;  /* not before it was recorded
                                                    what is in neither disk */

    /* Postgres */
    ngx_http_apikey_pg_t            *pg;
    ngx_http_apikey_pg_op_t          op;
    apikey_marks_t                   marks;      /* committed */
    ngx_http_apikey_batch_t         *batch;
    u_char                          *frames;     /* being shipped */
    size_t                           frames_len;
    size_t                           read_at;    /* the thread's, in frames */
    size_t                           read_len;
    int64_t                          frames_as_of;
    ngx_msec_t                       frames_at;  /* chunk_at; 0: unknown */

    /* what comes behind the frames, written while Postgres has those: CHUNK
       bytes at most, of as many as there is room for */
    u_char                          *later;
    size_t                           later_len;
    int64_t                          later_as_of;
    ngx_msec_t                       later_from; /* chunk_at of the first */
    ngx_msec_t                       later_at;   /* and of the last one */
    ngx_uint_t                       later_count;    /* events */

    ngx_msec_t                       send_at;    /* while held */
    int64_t                          as_of;      /* told to Postgres */
    int64_t                          since;      /* the oldest segment's
                                                    time, at the start */
    int64_t                          wanted;     /* what runs of those who
                                                    were admitted until then */
    int64_t                          runs_at;    /* it was said then */
    int64_t                          runs_seen;  /* and looked at then; 0: that
                                                    is said, or nothing is */
    int64_t                          runs_to;    /* no later one is said to */
    ngx_msec_t                       runs_next;
    ngx_http_apikey_text_t           runs;       /* SQL */
    ngx_msec_t                       beat_at;
    ngx_msec_t                       retry_at;
    ngx_msec_t                       backoff;
    size_t                           copied;     /* bytes, in the socket */
    ngx_uint_t                       max;        /* events a batch */
    char                             poison[8];
    char                             reason[256];    /* printable ASCII */
    ngx_http_apikey_ship_trouble_t   stuck;      /* of all usage */
    ngx_http_apikey_ship_trouble_t   deaf;       /* of what runs alone */
    const char                      *values[3];
    u_char                           text[64];
    apikey_encoder_t                 encoder;

    unsigned                         busy:1;     /* the disk */
    unsigned                         opened:1;   /* the spool */
    unsigned                         bad:1;      /* the disk: full or broken */
    unsigned                         asking:1;   /* Postgres */
    unsigned                         known:1;    /* marks */
    unsigned                         seek:1;     /* the cursor is due */
    unsigned                         held:1;     /* frames wait for others */
    unsigned                         filled:1;   /* the batch has taken them */
    unsigned                         direct:1;   /* frames come from rings */
    unsigned                         rest:1;     /* a gather left some */
    unsigned                         sync:1;     /* this call of the disk */
    unsigned                         closing:1;  /* targets are set */
    unsigned                         told:1;     /* trouble was logged */
    unsigned                         told_unread:1;  /* ... of reading */
    unsigned                         newer:1;    /* segments are a later
                                                    version's to ship */
    unsigned                         told_newer:1;
    unsigned                         no_raw:1;   /* raw_days is 0 */
} ngx_http_apikey_ship_t;


struct ngx_http_apikey_usage_s {
    ngx_http_apikey_usage_conf_t     conf;
    ngx_log_t                       *log;
    u_char                          *dir;        /* of the rings */

    apikey_ring_t                    own[NGX_HTTP_APIKEY_OWN_RINGS];
    ngx_uint_t                       nown;
    ngx_msec_t                       grow_at;
    uint64_t                         ids;        /* key of our requests' ids */
    uint64_t                         serial;     /* the last one */

    apikey_slot_t                   *sums[NGX_HTTP_APIKEY_SUMS];
    ngx_uint_t                       nsums;
    uint64_t                        *details;    /* shared: second << 8 | n */

    ngx_event_t                      tick;
    ngx_msec_t                       period;
    ngx_msec_t                       quit_at;
    int                              lock;       /* ship.lock; -1 */
    ngx_http_apikey_ship_t          *ship;       /* elected */
    unsigned                         quitting:1;
    unsigned                         drained:1;
    unsigned                         stopping:1;
};


/* usage.c */
apikey_ring_t *ngx_http_apikey_usage_ring(ngx_http_apikey_usage_t *u,
    apikey_slot_t *slot);

/* Before it is claimed: what its dead owner has held is told to us. */
void ngx_http_apikey_usage_heir(ngx_http_apikey_usage_t *u,
    apikey_ring_t *ring);
/* An APIKEY_CLIENT_PREFIX. */
uint64_t ngx_http_apikey_usage_prefix(ngx_http_apikey_usage_t *u);
apikey_slot_t *ngx_http_apikey_usage_fill(ngx_http_apikey_usage_t *u,
    ngx_http_apikey_usage_start_t *start, apikey_record_e kind,
    apikey_ring_t **ring);
void ngx_http_apikey_usage_publish(ngx_http_apikey_usage_t *u,
    apikey_ring_t *ring, apikey_slot_t *slot);
void ngx_http_apikey_usage_dropped(ngx_http_apikey_usage_t *u);

/* usage_sums.c */
void ngx_http_apikey_usage_details(ngx_http_apikey_usage_t *u,
    ngx_pool_t *pool);
void ngx_http_apikey_usage_flush(ngx_http_apikey_usage_t *u);

/* prepare.c: NUL-terminated, in the pool */
uint64_t ngx_http_apikey_ring_epoch(void);

/* ship.c */
ngx_http_apikey_ship_t *ngx_http_apikey_ship_create(
    ngx_http_apikey_usage_t *u);
void ngx_http_apikey_ship_run(ngx_http_apikey_ship_t *ship);
ngx_uint_t ngx_http_apikey_ship_pending(ngx_http_apikey_ship_t *ship);
void ngx_http_apikey_ship_disconnect(ngx_http_apikey_ship_t *ship);
/* exit_process: the rest of the rings goes to the disk, here and now */
void ngx_http_apikey_ship_destroy(ngx_http_apikey_ship_t *ship);

/* ship_rings.c */
void ngx_http_apikey_ship_scan(ngx_http_apikey_ship_t *ship);
void ngx_http_apikey_ship_found(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_ship_ring_t *r);
size_t ngx_http_apikey_ship_gather(ngx_http_apikey_ship_t *ship, u_char *buf,
    size_t size, int64_t *as_of);
ngx_uint_t ngx_http_apikey_ship_unsafe(ngx_http_apikey_ship_t *ship);
void ngx_http_apikey_ship_synced(ngx_http_apikey_ship_t *ship);
void ngx_http_apikey_ship_committed(ngx_http_apikey_ship_t *ship);
void ngx_http_apikey_ship_ungather(ngx_http_apikey_ship_t *ship);
void ngx_http_apikey_ship_regather(ngx_http_apikey_ship_t *ship);
ngx_uint_t ngx_http_apikey_ship_waiting(ngx_http_apikey_ship_t *ship);

/* ship_disk.c */
void ngx_http_apikey_ship_disk(ngx_http_apikey_ship_t *ship);
ngx_uint_t ngx_http_apikey_ship_settle(ngx_http_apikey_ship_t *ship);
/* ms until it should run again */
ngx_msec_t ngx_http_apikey_ship_wait(ngx_http_apikey_ship_t *ship);

/* ship_frames.c */
/* The chunk was written behind all that is in memory: 1: it is there, too. */
ngx_uint_t ngx_http_apikey_ship_keep(ngx_http_apikey_ship_t *ship);
/* All of the frames is in Postgres. */
void ngx_http_apikey_ship_finished(ngx_http_apikey_ship_t *ship);
/* What is in memory is read or gathered again. */
void ngx_http_apikey_ship_forget(ngx_http_apikey_ship_t *ship);

/* ship_pg.c */
void ngx_http_apikey_ship_pg(ngx_http_apikey_ship_t *ship);
/* So many events were added to the frames, which nobody ships yet. */
void ngx_http_apikey_ship_hold(ngx_http_apikey_ship_t *ship,
    ngx_uint_t events);

void ngx_http_apikey_ship_retry(ngx_http_apikey_ship_t *ship);
void ngx_http_apikey_ship_query(ngx_http_apikey_ship_t *ship);

/* ship_runs.c: 1: a statement was sent */
ngx_uint_t ngx_http_apikey_ship_runs(ngx_http_apikey_ship_t *ship);

/* ship_refused.c */
void ngx_http_apikey_ship_refused(ngx_http_apikey_ship_t *ship,
    PGresult *res);
/* It refuses what nothing is shipped without; it has taken something. */
void ngx_http_apikey_ship_stuck(ngx_http_apikey_ship_t *ship, PGresult *res,
    const char *what);
void ngx_http_apikey_ship_flows(ngx_http_apikey_ship_t *ship);
/* It refuses to hear what runs, which usage does not wait for; it has. */
void ngx_http_apikey_ship_deaf(ngx_http_apikey_ship_t *ship, PGresult *res);
void ngx_http_apikey_ship_hears(ngx_http_apikey_ship_t *ship);

/* batch.c */
ngx_http_apikey_batch_t *ngx_http_apikey_batch_create(void);
void ngx_http_apikey_batch_destroy(ngx_http_apikey_batch_t *batch);
ngx_uint_t ngx_http_apikey_batch_events(const u_char *frames, size_t len);

/* For so many events, NGX_HTTP_APIKEY_SLOTS at most. */
void ngx_http_apikey_batch_start(ngx_http_apikey_batch_t *batch,
    ngx_uint_t events);

/*
 * Takes what of the frames was not taken yet: they may grow at their end, but
 * not move.  more: others wait for the next batch.
 */
ngx_int_t ngx_http_apikey_batch_take(ngx_http_apikey_batch_t *batch,
    const u_char *frames, size_t len, ngx_http_apikey_batch_conf_t *conf);

/* count events (0: all were applied before). */
ngx_int_t ngx_http_apikey_batch_build(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_conf_t *conf);

/*
 * batch_row.c: the n-th event of the frame in the decoder, valid until the
 * next one is asked for; NULL: there is none.
 */
ngx_http_apikey_batch_ahead_t *ngx_http_apikey_batch_next(
    ngx_http_apikey_batch_t *batch, ngx_uint_t n);
ngx_int_t ngx_http_apikey_batch_roll(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_ahead_t *a);

/* batch_sql.c */
void ngx_http_apikey_batch_sql(ngx_http_apikey_batch_t *batch,
    ngx_http_apikey_batch_conf_t *conf);
void ngx_http_apikey_batch_poison(ngx_http_apikey_batch_t *batch,
    apikey_event_t *event, ngx_http_apikey_batch_conf_t *conf);
extern const char *const  ngx_http_apikey_outcomes[];

/* text.c; NULL: out of memory */
void *ngx_http_apikey_text_add(ngx_http_apikey_text_t *t, size_t len);
void ngx_http_apikey_text_free(ngx_http_apikey_text_t *t);
void ngx_http_apikey_text_put(ngx_http_apikey_text_t *t, const char *s);
void ngx_http_apikey_text_int(ngx_http_apikey_text_t *t, int64_t n);
void ngx_http_apikey_text_number(ngx_http_apikey_text_t *t, __int128 n);
void ngx_http_apikey_text_uuid(ngx_http_apikey_text_t *t, const u_char *uuid);
/* an SQL literal, or an element of an array inside of one */
void ngx_http_apikey_text_quoted(ngx_http_apikey_text_t *t, const char *s,
    size_t len, ngx_uint_t element);

/* batch_copy.c; NGX_DECLINED: the event needs wide rows */
ngx_int_t ngx_http_apikey_batch_copy(ngx_http_apikey_batch_t *batch,
    apikey_event_t *event, ngx_http_apikey_batch_conf_t *conf);
const char *ngx_http_apikey_batch_columns(ngx_http_apikey_batch_t *batch);
ngx_uint_t ngx_http_apikey_outcome(const apikey_shape_t *shape);
/* bytes of the character at s; 0: not UTF-8, or NUL */
size_t ngx_http_apikey_utf8(const char *s, size_t len);


#endif /* NGX_HTTP_APIKEY_SHIP_H_INCLUDED */
