
/*
 * The limits of one holder, by its UUID: for the admin API, which looks at
 * them without a request.
 */


#include "keyring/store.h"


static size_t ngx_http_apikey_holder_copy(ngx_http_apikey_keyring_sh_t *sh,
    const u_char *holder, ngx_uint_t level, u_char *scratch,
    ngx_http_apikey_key_t *key);
static ngx_http_apikey_body_rec_t *ngx_http_apikey_holder_body(
    ngx_http_apikey_keyring_sh_t *sh, uint32_t anchor);


/* key: only limits, their number and calendar are set. */

ngx_int_t
ngx_http_apikey_keyring_limits(ngx_http_apikey_keyring_sh_t *sh,
    ngx_slab_pool_t *shpool, const u_char holder[16], ngx_uint_t level,
    ngx_pool_t *pool, ngx_http_apikey_key_t *key)
{
    u_char  *scratch, *p;
    size_t   size;

    scratch = ngx_http_apikey_keyring_scratch();
    if (scratch == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(key->calendar, 16);
    key->nkey_limits = 0;

    ngx_shmtx_lock(&shpool->mutex);
    size = ngx_http_apikey_holder_copy(sh, holder, level, scratch, key);
    ngx_shmtx_unlock(&shpool->mutex);

    if (key->nkey_limits == 0) {
        return NGX_DECLINED;
    }

    p = ngx_palloc(pool, size + sizeof(int64_t));
    if (p == NULL) {
        return NGX_ERROR;
    }

    p = ngx_align_ptr(p, sizeof(int64_t));
    ngx_memcpy(p, scratch, size);

    key->key_limits = (const apikey_limit_t *) p;

    return NGX_OK;
}


static size_t
ngx_http_apikey_holder_copy(ngx_http_apikey_keyring_sh_t *sh,
    const u_char *holder, ngx_uint_t level, u_char *scratch,
    ngx_http_apikey_key_t *key)
{
    uint32_t                     off;
    ngx_http_apikey_key_rec_t   *rec;
    ngx_http_apikey_body_rec_t  *body;

    if (level == APIKEY_LEVEL_OWNER) {
        body = ngx_http_apikey_holder_body(sh,
                   ngx_http_apikey_store_by_id(sh, holder,
                                               NGX_HTTP_APIKEY_BLOCK_ANCHOR));
        if (body == NULL) {
            return 0;
        }

        ngx_memcpy(key->calendar, body->calendar, 16);
        ngx_memcpy(scratch, ngx_http_apikey_rec_limits(body),
                   body->limits_size);
        key->nkey_limits = body->nlimits;

        return body->limits_size;
    }

    off = ngx_http_apikey_store_by_id(sh, holder, NGX_HTTP_APIKEY_BLOCK_KEY);

    if (off == 0) {
        return 0;
    }

    rec = (ngx_http_apikey_key_rec_t *) ngx_http_apikey_block(sh, off);
    body = ngx_http_apikey_holder_body(sh, rec->owner);

    ngx_memcpy(key->calendar, body ? body->calendar
                                   : ngx_http_apikey_calendar_utc, 16);
    ngx_memcpy(scratch, ngx_http_apikey_rec_limits(rec), rec->limits_size);
    key->nkey_limits = rec->nlimits;

    return rec->limits_size;
}


static ngx_http_apikey_body_rec_t *
ngx_http_apikey_holder_body(ngx_http_apikey_keyring_sh_t *sh, uint32_t anchor)
{
    ngx_http_apikey_anchor_rec_t  *a;

    if (anchor == 0) {
        return NULL;
    }

    a = (ngx_http_apikey_anchor_rec_t *) ngx_http_apikey_block(sh, anchor);

    return a->body ? (ngx_http_apikey_body_rec_t *)
                         ngx_http_apikey_block(sh, a->body)
                   : NULL;
}
