
/*
 * What protects the stores from those who ask: callers of the admin API at
 * the rate of its location, wrong credentials and look-ups of unknown keys by
 * the address that sends them.
 *
 * A right credential is never refused for what others behind its address do:
 * only what has failed, or cannot be told from a guess, is limited.  All
 * state is in the zone, under its mutex; times are CLOCK_BOOTTIME.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/clock.h"
#include "http/http.h"
#include "limit/bucket_set.h"


/*
 * The share of the zone each set gets, and its bounds: places for 120 names in
 * the smallest zone, for 4088 in one of 64m.
 */

#define NGX_HTTP_APIKEY_THROTTLE_SHARE  256
#define NGX_HTTP_APIKEY_THROTTLE_MIN    (8 * 1024)
#define NGX_HTTP_APIKEY_THROTTLE_MAX    (256 * 1024)


static ngx_uint_t ngx_http_apikey_throttle_take(
    ngx_http_apikey_main_conf_t *amcf, ngx_uint_t set, const u_char name[16],
    const apikey_rate_t *rate, uint64_t *wait);
static void ngx_http_apikey_throttle_address(ngx_http_request_t *r,
    u_char name[16]);


/* 120 at once and two a second: a person who mistypes never meets it. */

static const apikey_rate_t  ngx_http_apikey_failures = {
    500000, 1, 120 * 500000ULL, 1
};

/*
 * Those that find a key are given back, so this bounds what is in flight and
 * what is guessed, 500 at once and ten a second.
 */

static const apikey_rate_t  ngx_http_apikey_lookups = {
    100000, 1, 500 * 100000ULL, 1
};


ngx_int_t
ngx_http_apikey_throttle_init(ngx_slab_pool_t *shpool, size_t zone,
    apikey_bucket_set_t **sets)
{
    void        *p;
    size_t       size;
    uint64_t     seed;
    ngx_uint_t   i;

    size = zone / NGX_HTTP_APIKEY_THROTTLE_SHARE;
    size = ngx_max(size, NGX_HTTP_APIKEY_THROTTLE_MIN);
    size = ngx_min(size, NGX_HTTP_APIKEY_THROTTLE_MAX);

    for (i = 0; i < NGX_HTTP_APIKEY_THROTTLES; i++) {

        p = ngx_slab_calloc(shpool, size);

        if (p == NULL || !apikey_random(&seed, sizeof(uint64_t))) {
            return NGX_ERROR;
        }

        /* many addresses are cheap, many callers are not */

        sets[i] = apikey_bucket_set_init(p, size, seed,
                                      i != NGX_HTTP_APIKEY_THROTTLE_CALLERS);
        if (sets[i] == NULL) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_apikey_throttle_caller(ngx_http_request_t *r, const u_char id[16],
    const apikey_rate_t *rate, uint64_t *wait)
{
    u_char                        name[16];
    uint64_t                      part;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    /* locations with different rates have buckets of their own */

    ngx_memcpy(name, id, 16);
    ngx_memcpy(&part, name + 8, 8);

    part ^= (rate->capacity ^ rate->refill << 32) * 0x9e3779b97f4a7c15ULL;

    ngx_memcpy(name + 8, &part, 8);

    if (ngx_http_apikey_throttle_take(amcf, NGX_HTTP_APIKEY_THROTTLE_CALLERS,
                                      name, rate, wait))
    {
        return NGX_OK;
    }

    apikey_stats_add(&amcf->sh->stats.limited[APIKEY_LIMITED_CALLER], 1);

    return NGX_DECLINED;
}


ngx_int_t
ngx_http_apikey_throttle_failure(ngx_http_request_t *r, uint64_t *wait)
{
    u_char                        name[16];
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    ngx_http_apikey_throttle_address(r, name);

    if (ngx_http_apikey_throttle_take(amcf, NGX_HTTP_APIKEY_THROTTLE_FAILURES,
                                      name, &ngx_http_apikey_failures, wait))
    {
        return NGX_OK;
    }

    apikey_stats_add(&amcf->sh->stats.limited[APIKEY_LIMITED_FAILURE], 1);

    return NGX_DECLINED;
}


ngx_int_t
ngx_http_apikey_throttle_lookup(ngx_http_request_t *r, ngx_str_t *key,
    apikey_key_e form, const u_char digest[32], uint64_t *wait)
{
    u_char                        name[16];
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    if ((form == APIKEY_KEY_GOOD
         && apikey_key_signed((char *) key->data, key->len, amcf->macs))
        || ngx_http_apikey_keyring_asked(amcf->keyring, digest))
    {
        return NGX_DONE;
    }

    ngx_http_apikey_throttle_address(r, name);

    if (ngx_http_apikey_throttle_take(amcf, NGX_HTTP_APIKEY_THROTTLE_LOOKUPS,
                                      name, &ngx_http_apikey_lookups, wait))
    {
        return NGX_OK;
    }

    apikey_stats_add(&amcf->sh->stats.limited[APIKEY_LIMITED_LOOKUP], 1);

    return NGX_DECLINED;
}


void
ngx_http_apikey_throttle_found(ngx_http_request_t *r)
{
    u_char                        name[16];
    apikey_bucket_t              *bucket;
    apikey_bucket_set_t          *set;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);

    set = amcf->sh->throttle[NGX_HTTP_APIKEY_THROTTLE_LOOKUPS];

    ngx_http_apikey_throttle_address(r, name);

    ngx_shmtx_lock(&amcf->shpool->mutex);

    bucket = apikey_bucket_set_get(set, name, &ngx_http_apikey_lookups,
                                   apikey_clock_boot());

    apikey_bucket_give(bucket, &ngx_http_apikey_lookups, 1);

    ngx_shmtx_unlock(&amcf->shpool->mutex);
}


/* 1: taken; 0: not now, but in *wait microseconds. */

static ngx_uint_t
ngx_http_apikey_throttle_take(ngx_http_apikey_main_conf_t *amcf,
    ngx_uint_t set, const u_char name[16], const apikey_rate_t *rate,
    uint64_t *wait)
{
    bool              taken;
    uint64_t          now;
    apikey_bucket_t  *bucket;

    now = apikey_clock_boot();

    ngx_shmtx_lock(&amcf->shpool->mutex);

    bucket = apikey_bucket_set_get(amcf->sh->throttle[set], name, rate, now);
    taken = apikey_bucket_take(bucket, rate, 1);
    *wait = taken ? 0 : apikey_bucket_wait(bucket, rate, 1, now);

    ngx_shmtx_unlock(&amcf->shpool->mutex);

    return taken;
}


/* An IPv4 address, or the /64 of an IPv6 address: that is one customer's. */

static void
ngx_http_apikey_throttle_address(ngx_http_request_t *r, u_char name[16])
{
    static const u_char  mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                        0xff, 0xff };

    ngx_http_apikey_client_address(r, name);

    if (ngx_memcmp(name, mapped, 12) != 0) {
        ngx_memzero(name + 8, 8);
    }
}
