
/*
 * How the keyring lies in the zone; for the files of keyring/ only.
 *
 * Two flat indexes (by digest, by id) of 8-byte slots, of which no more are
 * in use than few keys need, so that these stay near; and an arena of blocks
 * of 16-byte units that are never split or moved: keys with their secrets,
 * one anchor for each owner, and behind it a body that is replaced whole.
 * Keys point at the anchor, so a change of an owner is one write.  A calendar
 * is an anchor and a body, too, and so is a table: text for others (row.c).
 *
 * Offsets count units from the arena's start; unit 0 is never used.  A block
 * is written before it is linked and unlinked before it is freed; a worker
 * killed in between leaves "writing" set, and the next writer rebuilds the
 * indexes from the blocks.
 *
 * Zone for a key with one secret, an 11-byte name, an 11-byte scope, no own
 * limit: record 64 + 56 + 24 = 144 bytes, slots 23.8 bytes at the load they
 * reach when the arena is full: 168 bytes.  A limit of its own adds 128.
 */


#ifndef NGX_HTTP_APIKEY_STORE_H_INCLUDED
#define NGX_HTTP_APIKEY_STORE_H_INCLUDED


#include "keyring/keyring.h"


#define NGX_HTTP_APIKEY_UNIT       16
#define NGX_HTTP_APIKEY_UNITS_MAX  65535        /* of one block */
#define NGX_HTTP_APIKEY_BLOCK_MAX                                             \
    (NGX_HTTP_APIKEY_UNITS_MAX * NGX_HTTP_APIKEY_UNIT)
#define NGX_HTTP_APIKEY_CLASSES    (64 + 8 * 10)
#define NGX_HTTP_APIKEY_REMOVED    512


typedef enum {
    NGX_HTTP_APIKEY_BLOCK_FREE = 0,
    NGX_HTTP_APIKEY_BLOCK_KEY,
    NGX_HTTP_APIKEY_BLOCK_ANCHOR,
    NGX_HTTP_APIKEY_BLOCK_BODY
} ngx_http_apikey_block_e;


typedef struct {
    uint16_t   units;
    uint8_t    state;
    uint8_t    dead;             /* freed while the copy is being saved */
    uint32_t   next;             /* free: next free block; else the epoch in
                                    which Postgres had this row last */
} ngx_http_apikey_block_t;


#define NGX_HTTP_APIKEY_REC_ENABLED  1
#define NGX_HTTP_APIKEY_REC_REVOKED  2
#define NGX_HTTP_APIKEY_REC_ANY_IP   4
#define NGX_HTTP_APIKEY_REC_BROKEN   8


/*
 * Behind it: limits, secrets, name, prefix, customer, plan, scopes, models,
 * ips, metadata.  What may be long has the 20 bits that any block's size fits
 * into; "models" has a line feed behind each, so that none at all is a lone
 * one, and nothing is any.
 */

typedef struct {
    ngx_http_apikey_block_t  block;
    u_char                   id[16];
    int64_t                  version;
    int64_t                  expires;
    uint64_t                 scopes_len:20;
    uint64_t                 models_len:20;
    uint64_t                 metadata_len:20;
    uint64_t                 flags:4;
    uint32_t                 owner;           /* its anchor; 0 none */
    uint16_t                 name_len;
    uint16_t                 customer_len;
    uint16_t                 ips_len;
    uint16_t                 limits_size;
    uint8_t                  plan_len;
    uint8_t                  prefix_len;
    uint8_t                  nsecrets;
    uint8_t                  nlimits;
} ngx_http_apikey_key_rec_t;


typedef struct {
    u_char                   digest[32];
    u_char                   id[16];
    int64_t                  expires;         /* 0: ended */
} ngx_http_apikey_secret_rec_t;


typedef struct {
    ngx_http_apikey_block_t  block;
    u_char                   id[16];
    uint32_t                 body;            /* 0: not known yet */
    uint32_t                 reserved;
} ngx_http_apikey_anchor_rec_t;


/* Behind it: limits, external id, plan. */

typedef struct {
    ngx_http_apikey_block_t  block;
    int64_t                  version;
    uint32_t                 anchor;
    uint16_t                 external_len;
    uint16_t                 plan_len;
    uint16_t                 limits_size;
    uint8_t                  nlimits;
    uint8_t                  flags;
    uint32_t                 table_len;       /* of a table */
    u_char                   calendar[16];    /* id of the owner's months */
} ngx_http_apikey_body_rec_t;


#define ngx_http_apikey_rec_limits(r)   ((u_char *) ((r) + 1))
#define ngx_http_apikey_rec_secrets(r)                                        \
    ((ngx_http_apikey_secret_rec_t *)                                         \
         ((u_char *) ((r) + 1) + (r)->limits_size))
#define ngx_http_apikey_rec_text(r)                                           \
    ((u_char *) (ngx_http_apikey_rec_secrets(r) + (r)->nsecrets))


/* Where in the life of a database the copy stands (schema 0010). */

typedef struct {
    char       origin[96];       /* system, timeline, database */
    char       horizon[24];
    char       mark[40];
    int64_t    seq;
} ngx_http_apikey_position_t;


typedef struct {
    uint64_t  *slots;            /* fingerprint << 32 | offset; 0 empty */
    uint64_t   room;             /* so many at most: no other is ever set */
    uint64_t   size;
    uint64_t   used;
} ngx_http_apikey_index_t;


/*
 * What was taken out for want of room, one of each hash: an answer of
 * Postgres that is older than this must not bring an older row back.
 */

typedef struct {
    u_char                       id[16];
    int64_t                      version;
    uint64_t                     number;      /* of removals, from 1 */
} ngx_http_apikey_removed_t;


struct ngx_http_apikey_keyring_sh_s {
    ngx_http_apikey_index_t      digests;
    ngx_http_apikey_index_t      ids;

    u_char                      *arena;
    uint32_t                     size;        /* units */
    uint32_t                     used;        /* first unit never used */
    uint32_t                     hand;        /* eviction */
    uint32_t                     limbo;       /* freed while being saved */
    uint64_t                     nfree;       /* units in free lists */
    uint32_t                     free[NGX_HTTP_APIKEY_CLASSES];

    uint64_t                     keys;
    uint64_t                     changes;     /* rows applied or removed */
    uint64_t                     created;     /* by a notice, not a load */
    uint64_t                     removals;
    ngx_http_apikey_removed_t    removed[NGX_HTTP_APIKEY_REMOVED];
    uint32_t                     epoch;       /* +1 with every full load */
    uint32_t                     saving;      /* number of the save, 0 none */
    uint32_t                     saves;

    int64_t                      id;          /* of the zone */
    int64_t                      current;
    int64_t                      fresh;       /* us: rows of this epoch are
                                                 as Postgres had them then */
    int64_t                      version;     /* the highest one held */
    ngx_http_apikey_position_t   position;

    uint8_t                      complete;
    uint8_t                      catching;    /* Postgres is there, and what
                                                 was missed is not read yet */
    uint8_t                      full;
    uint8_t                      writing;
};


/* A row ready to be stored, in this process's scratch memory. */

typedef struct {
    ngx_http_apikey_block_t     *block;       /* KEY or BODY */
    size_t                       size;        /* bytes */
    u_char                       id[16];
    u_char                       owner[16];   /* of a key; zero: none */
} ngx_http_apikey_row_t;


typedef enum {
    NGX_HTTP_APIKEY_APPLY_LOAD = 0,
    NGX_HTTP_APIKEY_APPLY_NOTICE,    /* ends negative answers */
    NGX_HTTP_APIKEY_APPLY_FIND       /* may evict others */
} ngx_http_apikey_apply_e;


#define ngx_http_apikey_block(sh, off)                                        \
    ((ngx_http_apikey_block_t *)                                              \
         ((sh)->arena + (size_t) (off) * NGX_HTTP_APIKEY_UNIT))


/* Two blocks' worth of memory, this process's; NULL: no memory. */
u_char *ngx_http_apikey_keyring_scratch(void);

/* The copy before a query, to judge by what the answer is worth. */

typedef struct {
    uint32_t                     epoch;
    uint64_t                     created;
    uint64_t                     removals;
} ngx_http_apikey_before_t;


/*
 * Each takes the mutex itself.  apply: NGX_OK; NGX_DECLINED: the copy has it
 * or a newer one; NGX_AGAIN: a newer one may have come and gone since before;
 * NGX_ABORT: the zone is full, and an older row of this id is gone from the
 * copy.
 */
void ngx_http_apikey_store_before(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, ngx_http_apikey_before_t *before);
ngx_int_t ngx_http_apikey_store_apply(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, ngx_http_apikey_row_t *row,
    ngx_http_apikey_before_t *before, ngx_uint_t how);
ngx_int_t ngx_http_apikey_store_has(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, const u_char *id, int64_t version);

/* rebuild.c: removes what was not seen in this epoch among n blocks from *pos
   on; NGX_DONE: none left. */
ngx_int_t ngx_http_apikey_store_sweep(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, uint32_t *pos, ngx_uint_t n);

/* With the mutex held; 0: there is none of this id and state. */
uint32_t ngx_http_apikey_store_by_id(ngx_http_apikey_keyring_sh_t *sh,
    const u_char *id, ngx_uint_t state);
void ngx_http_apikey_store_link(ngx_http_apikey_keyring_sh_t *sh,
    uint32_t off);
void ngx_http_apikey_store_unlink(ngx_http_apikey_keyring_sh_t *sh,
    uint32_t off);

/* rebuild.c: with the mutex held */
void ngx_http_apikey_store_rebuild(ngx_http_apikey_keyring_sh_t *sh,
    ngx_uint_t revive);
void ngx_http_apikey_store_release(ngx_http_apikey_keyring_sh_t *sh);

/* blocks.c: with the mutex held; empty, and of a size for so many */
void ngx_http_apikey_index_reset(ngx_http_apikey_index_t *index, uint64_t n);
uint32_t ngx_http_apikey_index_hash(const u_char *id);
uint64_t *ngx_http_apikey_index_find(ngx_http_apikey_index_t *index,
    uint32_t hash, uint32_t off);
void ngx_http_apikey_index_insert(ngx_http_apikey_index_t *index,
    uint32_t hash, uint32_t off);
void ngx_http_apikey_index_remove(ngx_http_apikey_index_t *index,
    uint32_t hash, uint32_t off);

#define ngx_http_apikey_index_home(index, hash)                               \
    ((uint64_t) (hash) * (index)->size >> 32)
#define ngx_http_apikey_index_digest(digest)                                  \
    ((uint32_t) (digest)[0] << 24 | (uint32_t) (digest)[1] << 16             \
     | (uint32_t) (digest)[2] << 8 | (digest)[3])
#define ngx_http_apikey_index_room(index, n)                                  \
    ((index)->used + (n) <= (index)->size - (index)->size / 8)
#define ngx_http_apikey_index_crowded(index)                                  \
    ((index)->used > (index)->size / 2 && (index)->size < (index)->room)

/* 0: no room */
uint32_t ngx_http_apikey_blocks_alloc(ngx_http_apikey_keyring_sh_t *sh,
    size_t size);
void ngx_http_apikey_blocks_free(ngx_http_apikey_keyring_sh_t *sh,
    uint32_t off);
void ngx_http_apikey_blocks_chain(ngx_http_apikey_keyring_sh_t *sh,
    uint32_t off);

/* lookup.c: the calendar of a key without owner */
extern const u_char  ngx_http_apikey_calendar_utc[16];

/* row.c: from a result of keyring_rows() or keyring_find() */
ngx_int_t ngx_http_apikey_row_pack(PGresult *res, int n,
    ngx_http_apikey_row_t *row);

/* row_ip.c: 18 bytes at entry; NGX_ERROR: it is no network */
ngx_int_t ngx_http_apikey_row_ip(ngx_str_t *word, u_char *entry);

/* persist.c */
ngx_int_t ngx_http_apikey_keyring_save(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, const char *directory, ngx_log_t *log);


#endif /* NGX_HTTP_APIKEY_STORE_H_INCLUDED */
