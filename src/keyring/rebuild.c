
/*
 * Passes over all blocks of the keyring: removing what Postgres no longer
 * has, and making the indexes anew from the blocks alone.
 *
 * Called by sync.c, persist.c, and by a writer that finds a torn write.
 */


#include "keyring/store.h"

#include "base/fetch.h"


#define NGX_HTTP_APIKEY_AHEAD  160      /* units: some 16 keys */


static uint32_t ngx_http_apikey_store_ahead(ngx_http_apikey_keyring_sh_t *sh,
    uint32_t off);
static ngx_uint_t ngx_http_apikey_store_later(
    ngx_http_apikey_keyring_sh_t *sh, ngx_http_apikey_block_t *b,
    ngx_http_apikey_block_t *o);
static void ngx_http_apikey_store_empty(ngx_http_apikey_keyring_sh_t *sh);
static void ngx_http_apikey_store_relink(ngx_http_apikey_keyring_sh_t *sh,
    uint32_t off, ngx_uint_t revive);


ngx_int_t
ngx_http_apikey_store_sweep(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, uint32_t *pos, ngx_uint_t n)
{
    ngx_int_t                      rc;
    ngx_http_apikey_block_t       *b;
    ngx_http_apikey_anchor_rec_t  *a;

    ngx_shmtx_lock(&shpool->mutex);

    if (sh->writing) {
        ngx_http_apikey_store_rebuild(sh, 0);
    }

    sh->writing = 1;
    ngx_memory_barrier();

    while (n-- && *pos < sh->used) {
        b = ngx_http_apikey_block(sh, *pos);

        if (b->dead || b->next == sh->epoch) {
            /* void */

        } else if (b->state == NGX_HTTP_APIKEY_BLOCK_KEY) {
            ngx_http_apikey_store_unlink(sh, *pos);
            ngx_http_apikey_blocks_free(sh, *pos);
            sh->changes++;

        } else if (b->state == NGX_HTTP_APIKEY_BLOCK_BODY) {
            a = (ngx_http_apikey_anchor_rec_t *) ngx_http_apikey_block(sh,
                                   ((ngx_http_apikey_body_rec_t *) b)->anchor);
            a->body = 0;
            ngx_http_apikey_blocks_free(sh, *pos);
            sh->changes++;
        }

        *pos += b->units;
    }

    rc = (*pos < sh->used) ? NGX_OK : NGX_DONE;

    ngx_memory_barrier();
    sh->writing = 0;

    ngx_shmtx_unlock(&shpool->mutex);

    return rc;
}


/* The save is over, or was given up: what it held back is free now. */

void
ngx_http_apikey_store_release(ngx_http_apikey_keyring_sh_t *sh)
{
    uint32_t  off;

    sh->saving = 0;

    while (sh->limbo) {
        off = sh->limbo;
        sh->limbo = ngx_http_apikey_block(sh, off)->next;
        ngx_http_apikey_blocks_chain(sh, off);
    }
}


/*
 * After a saved copy was read, when a worker was killed while it wrote, or
 * when the indexes are to grow.
 * Of two blocks for one row the later one stays.  revive: a block that was
 * freed while the copy was saved counts, its successor may not be in it.
 */

void
ngx_http_apikey_store_rebuild(ngx_http_apikey_keyring_sh_t *sh,
    ngx_uint_t revive)
{
    uint32_t                  off, ahead;
    ngx_http_apikey_block_t  *b;

    ngx_http_apikey_store_empty(sh);

    /* anchors first: keys and bodies point at them */

    for (off = 1; off < sh->used; off += b->units) {
        b = ngx_http_apikey_block(sh, off);

        if (b->state == NGX_HTTP_APIKEY_BLOCK_ANCHOR) {
            ((ngx_http_apikey_anchor_rec_t *) b)->body = 0;

            ngx_http_apikey_index_insert(&sh->ids,
                ngx_http_apikey_index_hash(
                    ((ngx_http_apikey_anchor_rec_t *) b)->id), off);
        }
    }

    ahead = 1;

    for (off = 1; off < sh->used; off += b->units) {
        b = ngx_http_apikey_block(sh, off);

        /* the slots of a block some way ahead are on their way meanwhile */

        while (ahead < sh->used && ahead - off < NGX_HTTP_APIKEY_AHEAD) {
            ahead = ngx_http_apikey_store_ahead(sh, ahead);
        }

        if (b->state == NGX_HTTP_APIKEY_BLOCK_FREE) {
            ngx_http_apikey_blocks_chain(sh, off);

        } else if (b->state != NGX_HTTP_APIKEY_BLOCK_ANCHOR) {
            ngx_http_apikey_store_relink(sh, off, revive);
        }
    }

    sh->writing = 0;
}


/* No index and no list, but room in the indexes for what the blocks hold. */

static void
ngx_http_apikey_store_empty(ngx_http_apikey_keyring_sh_t *sh)
{
    uint32_t                    off;
    uint64_t                    ids, digests;
    ngx_http_apikey_key_rec_t  *rec;

    ids = 0;
    digests = 0;

    for (off = 1; off < sh->used; off += rec->block.units) {
        rec = (ngx_http_apikey_key_rec_t *) ngx_http_apikey_block(sh, off);

        if (rec->block.state == NGX_HTTP_APIKEY_BLOCK_KEY) {
            ids++;
            digests += rec->nsecrets;

        } else if (rec->block.state == NGX_HTTP_APIKEY_BLOCK_ANCHOR) {
            ids++;
        }
    }

    ngx_http_apikey_index_reset(&sh->digests, digests);
    ngx_http_apikey_index_reset(&sh->ids, ids);
    ngx_memzero(sh->free, sizeof(sh->free));

    sh->nfree = 0;
    sh->keys = 0;
    sh->limbo = 0;
    sh->saving = 0;
    sh->hand = 1;
}


/* Returns the next block. */

static uint32_t
ngx_http_apikey_store_ahead(ngx_http_apikey_keyring_sh_t *sh, uint32_t off)
{
    uint32_t                       hash;
    ngx_http_apikey_key_rec_t     *rec;
    ngx_http_apikey_secret_rec_t  *secret;

    rec = (ngx_http_apikey_key_rec_t *) ngx_http_apikey_block(sh, off);

    if (rec->block.state == NGX_HTTP_APIKEY_BLOCK_KEY) {
        hash = ngx_http_apikey_index_hash(rec->id);
        apikey_fetch(&sh->ids.slots[
                               ngx_http_apikey_index_home(&sh->ids, hash)]);

        if (rec->nsecrets) {
            secret = ngx_http_apikey_rec_secrets(rec);
            hash = ngx_http_apikey_index_digest(secret->digest);
            apikey_fetch(&sh->digests.slots[
                              ngx_http_apikey_index_home(&sh->digests, hash)]);
        }
    }

    return off + rec->block.units;
}


static void
ngx_http_apikey_store_relink(ngx_http_apikey_keyring_sh_t *sh, uint32_t off,
    ngx_uint_t revive)
{
    uint32_t                       old;
    ngx_uint_t                     later;
    ngx_http_apikey_block_t       *b;
    ngx_http_apikey_key_rec_t     *rec;
    ngx_http_apikey_body_rec_t    *body;
    ngx_http_apikey_anchor_rec_t  *a;

    b = ngx_http_apikey_block(sh, off);
    rec = (ngx_http_apikey_key_rec_t *) b;
    body = (ngx_http_apikey_body_rec_t *) b;
    a = NULL;

    if (b->state == NGX_HTTP_APIKEY_BLOCK_BODY) {
        a = (ngx_http_apikey_anchor_rec_t *)
                ngx_http_apikey_block(sh, body->anchor);
        old = a->body;

    } else {
        old = ngx_http_apikey_store_by_id(sh, rec->id,
                                          NGX_HTTP_APIKEY_BLOCK_KEY);
    }

    later = (!b->dead || revive)
            && (old == 0 || ngx_http_apikey_store_later(sh, b,
                                           ngx_http_apikey_block(sh, old)));

    if (later && a == NULL
        && !(ngx_http_apikey_index_room(&sh->ids, 1)
             && ngx_http_apikey_index_room(&sh->digests, rec->nsecrets)))
    {
        sh->full = 1;
        sh->complete = 0;
        later = 0;
    }

    if (!later) {
        ngx_http_apikey_blocks_chain(sh, off);
        return;
    }

    b->dead = 0;

    if (a) {
        a->body = off;

    } else {
        if (old) {
            ngx_http_apikey_store_unlink(sh, old);
        }

        ngx_http_apikey_store_link(sh, off);
    }

    if (old) {
        ngx_http_apikey_blocks_chain(sh, old);
    }
}


static ngx_uint_t
ngx_http_apikey_store_later(ngx_http_apikey_keyring_sh_t *sh,
    ngx_http_apikey_block_t *b, ngx_http_apikey_block_t *o)
{
    if (b->next != o->next) {
        return b->next == sh->epoch;
    }

    if (b->state == NGX_HTTP_APIKEY_BLOCK_BODY) {
        return ((ngx_http_apikey_body_rec_t *) b)->version
               > ((ngx_http_apikey_body_rec_t *) o)->version;
    }

    return ((ngx_http_apikey_key_rec_t *) b)->version
           > ((ngx_http_apikey_key_rec_t *) o)->version;
}
