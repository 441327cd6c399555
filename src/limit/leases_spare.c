
/*
 * Whose place in a full table of leases somebody else may have.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "limit/leases.h"
#include "limit/level.h"


#define NGX_HTTP_APIKEY_LEASES_SCAN    64     /* entries looked at for one */
#define NGX_HTTP_APIKEY_LEASES_OLD     INT64_C(3600000000)


static ngx_uint_t ngx_http_apikey_leases_idle(
    ngx_http_apikey_leases_t *leases, ngx_http_apikey_lease_entry_t *entry,
    int64_t now);
static ngx_uint_t ngx_http_apikey_leases_rests(
    ngx_http_apikey_leases_t *leases, ngx_http_apikey_lease_entry_t *entry,
    int64_t now);
static ngx_uint_t ngx_http_apikey_leases_told_all(
    ngx_http_apikey_leases_t *leases, ngx_http_apikey_lease_entry_t *entry,
    int64_t now);
static uint64_t ngx_http_apikey_leases_used(
    const ngx_http_apikey_lease_entry_t *entry,
    const ngx_http_apikey_lease_limit_t *limit, int64_t now);


ngx_http_apikey_lease_entry_t *
ngx_http_apikey_leases_spare(ngx_http_apikey_leases_t *leases, int64_t now)
{
    ngx_uint_t                      i;
    ngx_http_apikey_lease_entry_t  *entry, *oldest;

    oldest = NULL;

    for (i = 0; i < NGX_HTTP_APIKEY_LEASES_SCAN && i < leases->n; i++) {

        if (leases->hand >= leases->n) {
            leases->hand = 0;
        }

        entry = &leases->entries[leases->hand++];

        if (ngx_http_apikey_leases_idle(leases, entry, now)) {
            return entry;
        }

        if (ngx_http_apikey_leases_told_all(leases, entry, now)
            && (oldest == NULL || entry->seen < oldest->seen))
        {
            oldest = entry;
        }
    }

    return oldest;
}


/* Whoever comes again to it finds its buckets full, or has long forgotten. */

static ngx_uint_t
ngx_http_apikey_leases_idle(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry, int64_t now)
{
    ngx_http_apikey_lease_limit_t  *l;

    if (!entry->linked) {
        return 1;
    }

    if (!ngx_http_apikey_leases_rests(leases, entry, now)) {
        return 0;
    }

    if (entry->seen == 0 || now - entry->seen > NGX_HTTP_APIKEY_LEASES_OLD) {
        return 1;
    }

    for (l = ngx_http_apikey_leases_limit(leases, entry->limits);
         l;
         l = ngx_http_apikey_leases_limit(leases, l->next))
    {
        if (ngx_http_apikey_leases_used(entry, l, now)) {
            return 0;
        }
    }

    return 1;
}


static ngx_uint_t
ngx_http_apikey_leases_rests(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry, int64_t now)
{
    apikey_lease_t  *lease;

    lease = &entry->lease;

    return entry->turn != leases->turn && !entry->queued && !lease->call
           && !lease->held && !lease->busy && !lease->back
           && (lease->left == 0 || now >= lease->deadline)
           && now - lease->demand_at >= leases->rest;
}


/*
 * Postgres is asked what is used of a quota that was never seen.  The level of
 * a bucket or a rolling window is known here alone when Redis goes away.
 */

static ngx_uint_t
ngx_http_apikey_leases_told_all(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry, int64_t now)
{
    ngx_http_apikey_lease_limit_t  *l;

    if (!ngx_http_apikey_leases_rests(leases, entry, now)
        || now - entry->seen < leases->rest)
    {
        return 0;
    }

    for (l = ngx_http_apikey_leases_limit(leases, entry->limits);
         l;
         l = ngx_http_apikey_leases_limit(leases, l->next))
    {
        if (l->back || l->more) {
            return 0;
        }

        if (!l->terms.quota && ngx_http_apikey_leases_used(entry, l, now)) {
            return 0;
        }
    }

    return 1;
}


static uint64_t
ngx_http_apikey_leases_used(const ngx_http_apikey_lease_entry_t *entry,
    const ngx_http_apikey_lease_limit_t *limit, int64_t now)
{
    apikey_bucket_t  b;

    b.used = limit->seen.used;
    b.at = entry->seen;

    return apikey_level_used(&b, &limit->terms.rate, now);
}
