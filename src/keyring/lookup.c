
/*
 * Look-up: from a digest to the record of its key, its secret and its owner,
 * copied out of the zone into the caller's pool in one block.
 *
 * Called by http for each request.  Two cache misses, slot and record, which
 * its caller gives something to do meanwhile, and those of the owner's record;
 * a pool is never touched under the mutex.
 */


#include "keyring/store.h"

#include "base/digest.h"
#include "base/fetch.h"


#define NGX_HTTP_APIKEY_AHEAD   4     /* slots that are looked at */
#define NGX_HTTP_APIKEY_RECORD  384   /* bytes: with a limit of its own */


static ngx_int_t ngx_http_apikey_lookup_copy(ngx_http_apikey_keyring_sh_t *sh,
    uint32_t off, u_char *scratch, size_t *size, size_t *body_size,
    u_char *owner);
static uint32_t ngx_http_apikey_lookup_find(ngx_http_apikey_keyring_sh_t *sh,
    const u_char *digest, ngx_uint_t *secret);
static ngx_int_t ngx_http_apikey_lookup_fill(ngx_http_apikey_key_rec_t *rec,
    ngx_http_apikey_body_rec_t *body, ngx_uint_t n,
    ngx_http_apikey_key_t *key);
static void ngx_http_apikey_lookup_owner(ngx_http_apikey_body_rec_t *body,
    ngx_http_apikey_key_t *key);
static u_char *ngx_http_apikey_lookup_str(ngx_str_t *s, u_char *p,
    size_t len);


/* calendar_id('UTC', 1, 'month') of schema 0002: without an owner */

const u_char  ngx_http_apikey_calendar_utc[16] = {
    0x92, 0x34, 0x32, 0x4d, 0xdf, 0x6b, 0x41, 0x76,
    0xb5, 0x7d, 0x80, 0x3a, 0x92, 0x5b, 0x01, 0x03
};


ngx_int_t
ngx_http_apikey_keyring_lookup(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, const u_char digest[32], ngx_pool_t *pool,
    ngx_http_apikey_key_t *key)
{
    u_char     *scratch, *p;
    size_t      size, body_size;
    uint32_t    off;
    ngx_int_t   rc;
    ngx_uint_t  secret;

    scratch = ngx_http_apikey_keyring_scratch();
    if (scratch == NULL) {
        return NGX_ERROR;
    }

    size = 0;
    body_size = 0;
    secret = 0;

    ngx_shmtx_lock(&shpool->mutex);

    rc = (sh->complete && !sh->catching && !sh->writing) ? NGX_DECLINED
                                                         : NGX_AGAIN;

    key->fresh = sh->fresh;

    off = ngx_http_apikey_lookup_find(sh, digest, &secret);

    if (off) {

        if (ngx_http_apikey_block(sh, off)->next != sh->epoch) {
            key->fresh = sh->current;
        }

        rc = ngx_http_apikey_lookup_copy(sh, off, scratch, &size, &body_size,
                                         key->owner_uuid);
    }

    ngx_shmtx_unlock(&shpool->mutex);

    if (rc != NGX_OK) {
        return rc;
    }

    /* ngx_pmemalign() would call malloc() */

    p = ngx_palloc(pool, size + body_size + sizeof(int64_t));
    if (p == NULL) {
        return NGX_ERROR;
    }

    p = ngx_align_ptr(p, sizeof(int64_t));

    ngx_memcpy(p, scratch, size + body_size);

    return ngx_http_apikey_lookup_fill((ngx_http_apikey_key_rec_t *) p,
               body_size ? (ngx_http_apikey_body_rec_t *) (p + size) : NULL,
               secret, key);
}


/* The records as they are; NGX_AGAIN: the owner's has not come yet. */

static ngx_int_t
ngx_http_apikey_lookup_copy(ngx_http_apikey_keyring_sh_t *sh, uint32_t off,
    u_char *scratch, size_t *size, size_t *body_size, u_char *owner)
{
    ngx_http_apikey_block_t       *b;
    ngx_http_apikey_key_rec_t     *rec;
    ngx_http_apikey_anchor_rec_t  *a;

    rec = (ngx_http_apikey_key_rec_t *) ngx_http_apikey_block(sh, off);

    *size = (size_t) rec->block.units * NGX_HTTP_APIKEY_UNIT;
    ngx_memcpy(scratch, rec, *size);
    ngx_memzero(owner, 16);

    if (rec->owner == 0) {
        return NGX_OK;
    }

    a = (ngx_http_apikey_anchor_rec_t *) ngx_http_apikey_block(sh, rec->owner);

    if (a->body == 0) {
        return NGX_AGAIN;
    }

    b = ngx_http_apikey_block(sh, a->body);

    *body_size = (size_t) b->units * NGX_HTTP_APIKEY_UNIT;
    ngx_memcpy(scratch + *size, b, *body_size);
    ngx_memcpy(owner, a->id, 16);

    return NGX_OK;
}


static uint32_t
ngx_http_apikey_lookup_find(ngx_http_apikey_keyring_sh_t *sh,
    const u_char *digest, ngx_uint_t *secret)
{
    uint32_t                       off, hash;
    uint64_t                       i;
    ngx_uint_t                     n;
    ngx_http_apikey_key_rec_t     *rec;
    ngx_http_apikey_secret_rec_t  *s;

    hash = ngx_http_apikey_index_digest(digest);

    for (i = ngx_http_apikey_index_home(&sh->digests, hash);
         sh->digests.slots[i];
         i = (i + 1 == sh->digests.size) ? 0 : i + 1)
    {
        if (sh->digests.slots[i] >> 32 != hash) {
            continue;
        }

        off = (uint32_t) sh->digests.slots[i];
        rec = (ngx_http_apikey_key_rec_t *) ngx_http_apikey_block(sh, off);

        if (rec->block.state != NGX_HTTP_APIKEY_BLOCK_KEY
            || rec->block.dead)
        {
            continue;
        }

        s = ngx_http_apikey_rec_secrets(rec);

        for (n = 0; n < rec->nsecrets; n++) {
            if (apikey_digest_equal(s[n].digest, digest)) {
                *secret = n;
                return off;
            }
        }
    }

    return 0;
}


void
ngx_http_apikey_keyring_ahead(ngx_http_apikey_keyring_sh_t *sh,
    const u_char digest[32])
{
    apikey_fetch(&sh->digests.slots[
             ngx_http_apikey_index_home(&sh->digests,
                                    ngx_http_apikey_index_digest(digest))]);
}


const void *
ngx_http_apikey_keyring_ahead_record(ngx_http_apikey_keyring_sh_t *sh,
    const u_char digest[32])
{
    u_char      *p;
    uint32_t     hash;
    uint64_t     i, value;
    ngx_uint_t   n;

    hash = ngx_http_apikey_index_digest(digest);
    i = ngx_http_apikey_index_home(&sh->digests, hash);

    for (n = 0; n < NGX_HTTP_APIKEY_AHEAD; n++) {

        value = *(volatile uint64_t *) &sh->digests.slots[i];

        if (value >> 32 == hash) {
            p = (u_char *) ngx_http_apikey_block(sh, (uint32_t) value);

            apikey_fetch_all(p, NGX_HTTP_APIKEY_RECORD);

            return p;
        }

        i = (i + 1 >= sh->digests.size) ? 0 : i + 1;
    }

    return NULL;
}


static ngx_int_t
ngx_http_apikey_lookup_fill(ngx_http_apikey_key_rec_t *rec,
    ngx_http_apikey_body_rec_t *body, ngx_uint_t n, ngx_http_apikey_key_t *key)
{
    u_char                        *p;
    ngx_http_apikey_secret_rec_t  *secret;

    secret = ngx_http_apikey_rec_secrets(rec) + n;

    ngx_memcpy(key->id, rec->id, 16);
    ngx_memcpy(key->secret, secret->id, 16);

    key->expires = rec->expires;
    key->secret_expires = secret->expires ? secret->expires
                                          : NGX_HTTP_APIKEY_NEVER;

    p = ngx_http_apikey_rec_text(rec);
    p = ngx_http_apikey_lookup_str(&key->name, p, rec->name_len);
    p = ngx_http_apikey_lookup_str(&key->prefix, p, rec->prefix_len);
    p = ngx_http_apikey_lookup_str(&key->customer, p, rec->customer_len);
    p = ngx_http_apikey_lookup_str(&key->plan, p, rec->plan_len);
    p = ngx_http_apikey_lookup_str(&key->scopes, p, rec->scopes_len);
    p = ngx_http_apikey_lookup_str(&key->models, p, rec->models_len);
    p = ngx_http_apikey_lookup_str(&key->ips, p, rec->ips_len);
    (void) ngx_http_apikey_lookup_str(&key->metadata, p, rec->metadata_len);

    if (key->metadata.len == 0) {
        ngx_str_set(&key->metadata, "{}");
    }

    key->key_limits = (apikey_limit_t *) ngx_http_apikey_rec_limits(rec);
    key->nkey_limits = rec->nlimits;

    key->enabled = (rec->flags & NGX_HTTP_APIKEY_REC_ENABLED) != 0;
    key->any_ip = (rec->flags & NGX_HTTP_APIKEY_REC_ANY_IP) != 0;
    key->broken = (rec->flags & NGX_HTTP_APIKEY_REC_BROKEN) != 0;
    key->revoked = (rec->flags & NGX_HTTP_APIKEY_REC_REVOKED) != 0
                   || secret->expires == 0;

    ngx_http_apikey_lookup_owner(body, key);

    return NGX_OK;
}


static void
ngx_http_apikey_lookup_owner(ngx_http_apikey_body_rec_t *body,
    ngx_http_apikey_key_t *key)
{
    u_char  *p;

    if (body == NULL) {
        ngx_memcpy(key->calendar, ngx_http_apikey_calendar_utc, 16);

        key->owner_limits = NULL;
        key->nowner_limits = 0;
        key->owner_enabled = 1;
        ngx_str_null(&key->owner);

        return;
    }

    ngx_memcpy(key->calendar, body->calendar, 16);

    p = ngx_http_apikey_rec_limits(body) + body->limits_size;
    p = ngx_http_apikey_lookup_str(&key->owner, p, body->external_len);

    if (key->plan.len == 0) {
        (void) ngx_http_apikey_lookup_str(&key->plan, p, body->plan_len);
    }

    key->owner_limits = (apikey_limit_t *) ngx_http_apikey_rec_limits(body);
    key->nowner_limits = body->nlimits;
    key->owner_enabled = (body->flags & NGX_HTTP_APIKEY_REC_ENABLED) != 0;

    if (body->flags & NGX_HTTP_APIKEY_REC_BROKEN) {
        key->broken = 1;
    }
}


static u_char *
ngx_http_apikey_lookup_str(ngx_str_t *s, u_char *p, size_t len)
{
    s->data = p;
    s->len = len;

    return p + len;
}


/* One id gives those of all units: the last byte is the unit's. */

ngx_int_t
ngx_http_apikey_keyring_period(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, const u_char calendar[16], ngx_uint_t unit,
    int64_t now, apikey_period_t *period)
{
    u_char                         id[16];
    int64_t                       *bounds;
    uint32_t                       off;
    ngx_uint_t                     n, low, high, middle;
    ngx_http_apikey_body_rec_t    *body;
    ngx_http_apikey_anchor_rec_t  *a;

    ngx_memcpy(id, calendar, 16);
    id[15] = (u_char) unit;

    if (unit != APIKEY_PERIOD_MONTH) {
        id[14] = 1;
    }

    low = 0;
    high = 0;
    n = 0;

    ngx_shmtx_lock(&shpool->mutex);

    off = ngx_http_apikey_store_by_id(sh, id, NGX_HTTP_APIKEY_BLOCK_ANCHOR);
    a = (ngx_http_apikey_anchor_rec_t *) ngx_http_apikey_block(sh, off);

    if (off && a->body) {
        body = (ngx_http_apikey_body_rec_t *)
                   ngx_http_apikey_block(sh, a->body);
        bounds = (int64_t *) ngx_http_apikey_rec_limits(body);
        n = body->external_len / sizeof(int64_t);

        /* the last one that is not later than now */

        for (high = n; high - low > 1; /* void */ ) {
            middle = (low + high) / 2;

            if (bounds[middle] <= now) {
                low = middle;

            } else {
                high = middle;
            }
        }

        if (n > low + 2 && bounds[low] <= now) {
            period->start = bounds[low];
            period->end = bounds[low + 1];
            period->next = bounds[low + 2];

        } else {
            n = 0;
        }
    }

    ngx_shmtx_unlock(&shpool->mutex);

    return n ? NGX_OK : NGX_DECLINED;
}


void
ngx_http_apikey_keyring_info(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, ngx_http_apikey_keyring_info_t *info)
{
    ngx_shmtx_lock(&shpool->mutex);

    info->keys = sh->keys;
    info->complete = sh->complete;
    info->current = sh->current;
    info->fresh = sh->fresh;
    info->free = ((size_t) (sh->size - sh->used) + sh->nfree)
                 * NGX_HTTP_APIKEY_UNIT;

    ngx_shmtx_unlock(&shpool->mutex);
}


/* With the mutex held; NULL: there is none. */

static ngx_http_apikey_body_rec_t *
ngx_http_apikey_table_body(ngx_http_apikey_keyring_sh_t *sh,
    const u_char id[16])
{
    uint32_t                       off;
    ngx_http_apikey_anchor_rec_t  *a;

    off = ngx_http_apikey_store_by_id(sh, id, NGX_HTTP_APIKEY_BLOCK_ANCHOR);
    a = (ngx_http_apikey_anchor_rec_t *) ngx_http_apikey_block(sh, off);

    return (off && a->body) ? (ngx_http_apikey_body_rec_t *)
                                  ngx_http_apikey_block(sh, a->body)
                            : NULL;
}


/* Memory is not asked for under the mutex: the size may change meanwhile. */

ngx_int_t
ngx_http_apikey_keyring_table(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, const u_char id[16], int64_t *version,
    ngx_str_t *text, ngx_log_t *log)
{
    size_t                       room;
    int64_t                      known;
    ngx_http_apikey_body_rec_t  *body;

    known = *version;
    room = 0;
    text->data = NULL;
    text->len = 0;

    for ( ;; ) {

        ngx_shmtx_lock(&shpool->mutex);

        body = ngx_http_apikey_table_body(sh, id);
        *version = body ? body->version : 0;

        if (*version != known && body) {
            text->len = ngx_min(body->table_len,
                                (size_t) body->block.units
                                * NGX_HTTP_APIKEY_UNIT
                                - sizeof(ngx_http_apikey_body_rec_t));

            if (text->data && text->len <= room) {
                ngx_memcpy(text->data, body + 1, text->len);
                ngx_shmtx_unlock(&shpool->mutex);
                return NGX_OK;
            }
        }

        ngx_shmtx_unlock(&shpool->mutex);

        if (text->data) {
            ngx_free(text->data);
            text->data = NULL;
        }

        if (*version == known || body == NULL) {
            return NGX_DECLINED;
        }

        room = text->len;
        text->data = ngx_alloc(room + 1, log);

        if (text->data == NULL) {
            *version = known;
            return NGX_ERROR;
        }
    }
}


uint64_t
ngx_http_apikey_keyring_changes(ngx_http_apikey_keyring_sh_t *sh)
{
    return *(volatile uint64_t *) &sh->changes;
}
