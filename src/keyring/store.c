
/*
 * The copy of the keys in the zone: filling it row by row.
 *
 * All changes are made here, under the zone's mutex, which is held for one
 * row at a time.  Called by sync.c and find.c with rows from Postgres.
 */


#include "keyring/store.h"

#include "base/clock.h"


/* one of both indexes for so many bytes of zone: see store.h */

#define NGX_HTTP_APIKEY_SLOT_PER  112


static ngx_int_t ngx_http_apikey_store_key(ngx_http_apikey_keyring_sh_t *sh,
    ngx_http_apikey_row_t *row, ngx_http_apikey_before_t *before,
    ngx_uint_t how);
static ngx_int_t ngx_http_apikey_store_owner(ngx_http_apikey_keyring_sh_t *sh,
    ngx_http_apikey_row_t *row, ngx_http_apikey_before_t *before,
    ngx_uint_t how);
static ngx_int_t ngx_http_apikey_store_full(ngx_http_apikey_keyring_sh_t *sh,
    ngx_http_apikey_row_t *row, int64_t version);
static ngx_uint_t ngx_http_apikey_store_outdated(
    ngx_http_apikey_keyring_sh_t *sh, ngx_http_apikey_row_t *row,
    int64_t version, ngx_http_apikey_before_t *before);
static void ngx_http_apikey_store_removed(ngx_http_apikey_keyring_sh_t *sh,
    const u_char *id, int64_t version);
static void ngx_http_apikey_store_write(ngx_http_apikey_keyring_sh_t *sh,
    uint32_t off, ngx_http_apikey_row_t *row);
static uint32_t ngx_http_apikey_store_anchor(ngx_http_apikey_keyring_sh_t *sh,
    const u_char *id, ngx_uint_t how);
static uint32_t ngx_http_apikey_store_room(ngx_http_apikey_keyring_sh_t *sh,
    size_t size, ngx_uint_t nsecrets, ngx_uint_t how);


static u_char  *ngx_http_apikey_keyring_scratch_memory;


ngx_http_apikey_keyring_sh_t *
ngx_http_apikey_keyring_init_zone(ngx_slab_pool_t *shpool, size_t size,
    ngx_log_t *log)
{
    u_char                        *p;
    size_t                         slots;
    ngx_http_apikey_keyring_sh_t  *sh;

    size &= ~(size_t) (ngx_pagesize - 1);
    slots = size / NGX_HTTP_APIKEY_SLOT_PER;

    if (slots < 64 || slots > 0xffffffff) {
        ngx_log_error(NGX_LOG_EMERG, log, 0,
                      "apikey: the zone is too small for any key");
        return NULL;
    }

    p = ngx_slab_alloc(shpool, size);
    if (p == NULL) {
        return NULL;
    }

    /* the arena is not touched: memory that no key needs is never taken */

    ngx_memzero(p, sizeof(ngx_http_apikey_keyring_sh_t) + 2 * slots * 8);

    sh = (ngx_http_apikey_keyring_sh_t *) p;

    sh->digests.slots = (uint64_t *) (sh + 1);
    sh->digests.room = slots;
    sh->ids.slots = sh->digests.slots + slots;
    sh->ids.room = slots;

    ngx_http_apikey_index_reset(&sh->digests, 0);
    ngx_http_apikey_index_reset(&sh->ids, 0);

    sh->arena = ngx_align_ptr((u_char *) (sh->ids.slots + slots),
                              NGX_HTTP_APIKEY_UNIT);
    sh->size = ngx_min((size_t) (p + size - sh->arena) / NGX_HTTP_APIKEY_UNIT,
                       0xfffffff0);
    sh->used = 1;
    sh->hand = 1;
    sh->epoch = 1;
    sh->id = apikey_clock_real();

    return sh;
}


u_char *
ngx_http_apikey_keyring_scratch(void)
{
    if (ngx_http_apikey_keyring_scratch_memory == NULL) {
        ngx_http_apikey_keyring_scratch_memory =
            ngx_memalign(NGX_HTTP_APIKEY_UNIT,
                         2 * (NGX_HTTP_APIKEY_BLOCK_MAX + 16),
                         ngx_cycle->log);
    }

    return ngx_http_apikey_keyring_scratch_memory;
}


void
ngx_http_apikey_store_before(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, ngx_http_apikey_before_t *before)
{
    ngx_shmtx_lock(&shpool->mutex);

    before->epoch = sh->epoch;
    before->created = sh->created;
    before->removals = sh->removals;

    ngx_shmtx_unlock(&shpool->mutex);
}


ngx_int_t
ngx_http_apikey_store_apply(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, ngx_http_apikey_row_t *row,
    ngx_http_apikey_before_t *before, ngx_uint_t how)
{
    ngx_int_t  rc;

    ngx_shmtx_lock(&shpool->mutex);

    if (ngx_http_apikey_index_crowded(&sh->digests)
        || ngx_http_apikey_index_crowded(&sh->ids))
    {
        sh->writing = 1;
        ngx_memory_barrier();
    }

    if (sh->writing) {
        ngx_http_apikey_store_rebuild(sh, 0);
    }

    if (sh->epoch != before->epoch) {
        ngx_shmtx_unlock(&shpool->mutex);
        return NGX_AGAIN;
    }

    sh->writing = 1;
    ngx_memory_barrier();

    rc = (row->block->state == NGX_HTTP_APIKEY_BLOCK_KEY)
         ? ngx_http_apikey_store_key(sh, row, before, how)
         : ngx_http_apikey_store_owner(sh, row, before, how);

    if (how == NGX_HTTP_APIKEY_APPLY_NOTICE && rc != NGX_DECLINED) {
        sh->created++;
    }

    if (rc == NGX_OK) {
        sh->changes++;

    } else if (rc == NGX_ABORT) {
        sh->full = 1;
        sh->complete = 0;
    }

    ngx_memory_barrier();
    sh->writing = 0;

    ngx_shmtx_unlock(&shpool->mutex);

    return rc;
}


uint32_t
ngx_http_apikey_store_by_id(ngx_http_apikey_keyring_sh_t *sh,
    const u_char *id, ngx_uint_t state)
{
    uint32_t                    off, hash;
    uint64_t                    i;
    ngx_http_apikey_key_rec_t  *rec;

    hash = ngx_http_apikey_index_hash(id);

    for (i = ngx_http_apikey_index_home(&sh->ids, hash);
         sh->ids.slots[i];
         i = (i + 1 == sh->ids.size) ? 0 : i + 1)
    {
        if (sh->ids.slots[i] >> 32 != hash) {
            continue;
        }

        off = (uint32_t) sh->ids.slots[i];
        rec = (ngx_http_apikey_key_rec_t *) ngx_http_apikey_block(sh, off);

        /* the id stands at the same place in keys and anchors */

        if (rec->block.state == state && ngx_memcmp(rec->id, id, 16) == 0) {
            return off;
        }
    }

    return 0;
}


static ngx_int_t
ngx_http_apikey_store_key(ngx_http_apikey_keyring_sh_t *sh,
    ngx_http_apikey_row_t *row, ngx_http_apikey_before_t *before,
    ngx_uint_t how)
{
    uint32_t                    off, old, anchor;
    ngx_http_apikey_key_rec_t  *rec, *new;

    static u_char  none[16];

    new = (ngx_http_apikey_key_rec_t *) row->block;
    old = ngx_http_apikey_store_by_id(sh, row->id, NGX_HTTP_APIKEY_BLOCK_KEY);

    if (old) {
        rec = (ngx_http_apikey_key_rec_t *) ngx_http_apikey_block(sh, old);

        if (rec->block.next == sh->epoch && rec->version >= new->version) {
            return NGX_DECLINED;
        }

    } else if (ngx_http_apikey_store_outdated(sh, row, new->version, before)) {
        return NGX_AGAIN;
    }

    anchor = 0;

    if (ngx_memcmp(row->owner, none, 16) != 0) {
        anchor = ngx_http_apikey_store_anchor(sh, row->owner, how);

        if (anchor == 0) {
            return ngx_http_apikey_store_full(sh, row, new->version);
        }
    }

    off = ngx_http_apikey_store_room(sh, row->size, new->nsecrets, how);

    if (off == 0) {
        return ngx_http_apikey_store_full(sh, row, new->version);
    }

    /* making room may have taken the old one */

    old = ngx_http_apikey_store_by_id(sh, row->id, NGX_HTTP_APIKEY_BLOCK_KEY);

    new->owner = anchor;
    sh->version = ngx_max(sh->version, new->version);

    ngx_http_apikey_store_write(sh, off, row);
    ngx_http_apikey_store_link(sh, off);

    if (old) {
        ngx_http_apikey_store_unlink(sh, old);
        ngx_http_apikey_blocks_free(sh, old);
    }

    return NGX_OK;
}


/* What is known to be outdated must not be served. */

static ngx_int_t
ngx_http_apikey_store_full(ngx_http_apikey_keyring_sh_t *sh,
    ngx_http_apikey_row_t *row, int64_t version)
{
    uint32_t  old;

    ngx_http_apikey_store_removed(sh, row->id, version);

    old = ngx_http_apikey_store_by_id(sh, row->id, NGX_HTTP_APIKEY_BLOCK_KEY);

    if (old) {
        ngx_http_apikey_store_unlink(sh, old);
        ngx_http_apikey_blocks_free(sh, old);
    }

    return NGX_ABORT;
}


static ngx_int_t
ngx_http_apikey_store_owner(ngx_http_apikey_keyring_sh_t *sh,
    ngx_http_apikey_row_t *row, ngx_http_apikey_before_t *before,
    ngx_uint_t how)
{
    uint32_t                       off, old, anchor;
    ngx_http_apikey_body_rec_t    *rec, *new;
    ngx_http_apikey_anchor_rec_t  *a;

    anchor = ngx_http_apikey_store_anchor(sh, row->id, how);
    if (anchor == 0) {
        return NGX_ABORT;
    }

    a = (ngx_http_apikey_anchor_rec_t *) ngx_http_apikey_block(sh, anchor);
    new = (ngx_http_apikey_body_rec_t *) row->block;

    sh->version = ngx_max(sh->version, new->version);
    old = a->body;

    if (old) {
        rec = (ngx_http_apikey_body_rec_t *) ngx_http_apikey_block(sh, old);

        if (rec->block.next == sh->epoch && rec->version >= new->version) {
            return NGX_DECLINED;
        }

    } else if (ngx_http_apikey_store_outdated(sh, row, new->version, before)) {
        return NGX_AGAIN;
    }

    off = ngx_http_apikey_store_room(sh, row->size, 0, how);

    if (off) {
        new->anchor = anchor;
        ngx_http_apikey_store_write(sh, off, row);

    } else {
        ngx_http_apikey_store_removed(sh, row->id, new->version);
    }

    a->body = off;

    if (old) {
        ngx_http_apikey_blocks_free(sh, old);
    }

    return off ? NGX_OK : NGX_ABORT;
}


/*
 * Of a row that is not held.  Where another one's removal has taken the place
 * since the query, nobody can tell.
 */

static ngx_uint_t
ngx_http_apikey_store_outdated(ngx_http_apikey_keyring_sh_t *sh,
    ngx_http_apikey_row_t *row, int64_t version,
    ngx_http_apikey_before_t *before)
{
    ngx_http_apikey_removed_t  *removed;

    removed = &sh->removed[ngx_http_apikey_index_hash(row->id)
                           % NGX_HTTP_APIKEY_REMOVED];

    if (removed->number <= before->removals) {
        return 0;
    }

    return removed->version > version
           || ngx_memcmp(removed->id, row->id, 16) != 0;
}


static void
ngx_http_apikey_store_removed(ngx_http_apikey_keyring_sh_t *sh,
    const u_char *id, int64_t version)
{
    ngx_http_apikey_removed_t  *removed;

    removed = &sh->removed[ngx_http_apikey_index_hash(id)
                           % NGX_HTTP_APIKEY_REMOVED];

    ngx_memcpy(removed->id, id, 16);
    removed->version = version;
    removed->number = ++sh->removals;
}


/* The block keeps its size; its state comes last. */

static void
ngx_http_apikey_store_write(ngx_http_apikey_keyring_sh_t *sh, uint32_t off,
    ngx_http_apikey_row_t *row)
{
    ngx_http_apikey_block_t  *b;

    b = ngx_http_apikey_block(sh, off);

    ngx_memcpy(b + 1, row->block + 1,
               row->size - sizeof(ngx_http_apikey_block_t));
    b->next = sh->epoch;

    ngx_memory_barrier();
    b->state = row->block->state;
    ngx_memory_barrier();
}


static uint32_t
ngx_http_apikey_store_anchor(ngx_http_apikey_keyring_sh_t *sh,
    const u_char *id, ngx_uint_t how)
{
    uint32_t                       off;
    ngx_http_apikey_anchor_rec_t  *a;

    off = ngx_http_apikey_store_by_id(sh, id, NGX_HTTP_APIKEY_BLOCK_ANCHOR);
    if (off) {
        return off;
    }

    off = ngx_http_apikey_store_room(sh, sizeof(ngx_http_apikey_anchor_rec_t),
                                     0, how);
    if (off == 0) {
        return 0;
    }

    a = (ngx_http_apikey_anchor_rec_t *) ngx_http_apikey_block(sh, off);

    ngx_memcpy(a->id, id, 16);
    a->body = 0;
    a->reserved = 0;
    a->block.next = sh->epoch;

    ngx_memory_barrier();
    a->block.state = NGX_HTTP_APIKEY_BLOCK_ANCHOR;

    ngx_http_apikey_index_insert(&sh->ids, ngx_http_apikey_index_hash(id),
                                 off);

    return off;
}


/*
 * Only a row that a request waits for may push others out: the zone is too
 * small then, and it works as a cache.
 */

static uint32_t
ngx_http_apikey_store_room(ngx_http_apikey_keyring_sh_t *sh, size_t size,
    ngx_uint_t nsecrets, ngx_uint_t how)
{
    uint32_t                    off, hand;
    ngx_uint_t                  tries;
    ngx_http_apikey_block_t    *b;
    ngx_http_apikey_key_rec_t  *rec;

    for (tries = 0; tries < 512; tries++) {

        if (ngx_http_apikey_index_room(&sh->digests, nsecrets)
            && ngx_http_apikey_index_room(&sh->ids, 1))
        {
            off = ngx_http_apikey_blocks_alloc(sh, size);
            if (off) {
                return off;
            }
        }

        if (how != NGX_HTTP_APIKEY_APPLY_FIND) {
            return 0;
        }

        if (sh->hand >= sh->used) {
            sh->hand = 1;
        }

        hand = sh->hand;
        b = ngx_http_apikey_block(sh, hand);
        sh->hand += b->units;

        if (b->state == NGX_HTTP_APIKEY_BLOCK_KEY && !b->dead) {
            sh->full = 1;
            sh->complete = 0;

            rec = (ngx_http_apikey_key_rec_t *) b;

            ngx_http_apikey_store_removed(sh, rec->id, rec->version);
            ngx_http_apikey_store_unlink(sh, hand);
            ngx_http_apikey_blocks_free(sh, hand);
        }
    }

    return 0;
}


void
ngx_http_apikey_store_link(ngx_http_apikey_keyring_sh_t *sh, uint32_t off)
{
    ngx_uint_t                     i;
    ngx_http_apikey_key_rec_t     *rec;
    ngx_http_apikey_secret_rec_t  *secret;

    rec = (ngx_http_apikey_key_rec_t *) ngx_http_apikey_block(sh, off);
    secret = ngx_http_apikey_rec_secrets(rec);

    ngx_http_apikey_index_insert(&sh->ids,
                                 ngx_http_apikey_index_hash(rec->id), off);

    for (i = 0; i < rec->nsecrets; i++) {
        ngx_http_apikey_index_insert(&sh->digests,
                        ngx_http_apikey_index_digest(secret[i].digest), off);
    }

    sh->keys++;
}


void
ngx_http_apikey_store_unlink(ngx_http_apikey_keyring_sh_t *sh, uint32_t off)
{
    ngx_uint_t                     i;
    ngx_http_apikey_key_rec_t     *rec;
    ngx_http_apikey_secret_rec_t  *secret;

    rec = (ngx_http_apikey_key_rec_t *) ngx_http_apikey_block(sh, off);
    secret = ngx_http_apikey_rec_secrets(rec);

    ngx_http_apikey_index_remove(&sh->ids,
                                 ngx_http_apikey_index_hash(rec->id), off);

    for (i = 0; i < rec->nsecrets; i++) {
        ngx_http_apikey_index_remove(&sh->digests,
                        ngx_http_apikey_index_digest(secret[i].digest), off);
    }

    sh->keys--;
}


ngx_int_t
ngx_http_apikey_store_has(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, const u_char *id, int64_t version)
{
    uint32_t                       off;
    ngx_int_t                      rc;
    ngx_http_apikey_key_rec_t     *rec;
    ngx_http_apikey_body_rec_t    *body;
    ngx_http_apikey_anchor_rec_t  *a;

    rc = NGX_DECLINED;

    ngx_shmtx_lock(&shpool->mutex);

    off = ngx_http_apikey_store_by_id(sh, id, NGX_HTTP_APIKEY_BLOCK_KEY);

    if (off) {
        rec = (ngx_http_apikey_key_rec_t *) ngx_http_apikey_block(sh, off);
        rc = (rec->version >= version) ? NGX_OK : NGX_DECLINED;
        goto done;
    }

    off = ngx_http_apikey_store_by_id(sh, id, NGX_HTTP_APIKEY_BLOCK_ANCHOR);

    if (off) {
        a = (ngx_http_apikey_anchor_rec_t *) ngx_http_apikey_block(sh, off);

        if (a->body) {
            body = (ngx_http_apikey_body_rec_t *)
                       ngx_http_apikey_block(sh, a->body);
            rc = (body->version >= version) ? NGX_OK : NGX_DECLINED;
        }
    }

done:

    ngx_shmtx_unlock(&shpool->mutex);

    return rc;
}
