
/*
 * Looking a key up in the copy by either of the two digests it may be known
 * by: of all of it, or of what stands behind its last '_'.
 *
 * Callers compute the second one only after a miss.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/http.h"


ngx_int_t
ngx_http_apikey_lookup(ngx_http_apikey_main_conf_t *amcf,
    const u_char *digest, const u_char *last, ngx_pool_t *pool,
    ngx_http_apikey_key_t *key)
{
    ngx_int_t  rc, other;

    rc = ngx_http_apikey_keyring_lookup(amcf->sh->keyring, amcf->shpool,
                                        digest, pool, key);

    if (last == NULL || (rc != NGX_DECLINED && rc != NGX_AGAIN)) {
        return rc;
    }

    other = ngx_http_apikey_keyring_lookup(amcf->sh->keyring, amcf->shpool,
                                           last, pool, key);

    return (other == NGX_DECLINED) ? rc : other;
}
