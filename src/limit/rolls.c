
/*
 * What settlements give back to rolling windows and charge them, on its way to
 * Redis: a part of the next call about the account, TAKE or LEASE.
 *
 * It is counted once at most what is given back, and once at least what is
 * charged: a call that may not have arrived loses the one, and the other is
 * said again.  Everything here wants the zone's mutex held by the caller.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "limit/limiter.h"


static ngx_http_apikey_lease_limit_t *ngx_http_apikey_rolls_limit(
    ngx_http_apikey_leases_t *leases, ngx_http_apikey_lease_entry_t *entry,
    uint64_t id);


void
ngx_http_apikey_rolls_settle(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry, ngx_http_apikey_decision_t *d,
    ngx_http_apikey_account_t *account, int64_t now)
{
    uint64_t                        window;
    ngx_uint_t                      k;
    ngx_http_apikey_lease_limit_t  *limit;

    for (k = 0; k < account->nbuckets; k++) {

        if (account->buckets[k].limit->kind != APIKEY_KIND_ROLLING) {
            continue;
        }

        limit = ngx_http_apikey_rolls_limit(leases, entry,
                                            account->buckets[k].limit->id);
        if (limit == NULL) {
            continue;
        }

        if (account->actual > account->cost) {
            limit->more += account->actual - account->cost;
            continue;
        }

        /* soon out of the window, with all that is said together with it */

        window = account->buckets[k].limit->window;

        if (now - d->paid_at >= (int64_t) (window - window / 8)) {
            continue;
        }

        if (limit->back == 0 || (uint64_t) d->decided_at < limit->since) {
            limit->since = d->decided_at;
        }

        limit->back += account->cost - account->actual;
    }
}


void
ngx_http_apikey_rolls_lease(ngx_http_apikey_lease_limit_t *limit,
    apikey_account_limit_t *terms)
{
    if (terms->rate.tick != APIKEY_RATE_ROLLING) {
        return;
    }

    terms->fill = limit->back;
    terms->next = limit->since;
    terms->known = limit->more;

    limit->back = 0;
    limit->more = 0;
}


void
ngx_http_apikey_rolls_take(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry, ngx_http_apikey_account_t *account)
{
    ngx_uint_t                      k;
    ngx_http_apikey_bucket_t       *b;
    ngx_http_apikey_lease_limit_t  *limit;

    for (k = 0; k < account->nbuckets; k++) {
        b = &account->buckets[k];

        if (b->limit->kind != APIKEY_KIND_ROLLING) {
            continue;
        }

        limit = ngx_http_apikey_rolls_limit(leases, entry, b->limit->id);
        if (limit == NULL) {
            continue;
        }

        if (limit->back) {
            b->since = b->back ? ngx_min(b->since, limit->since)
                               : limit->since;
            b->back += limit->back;
            limit->back = 0;
        }

        b->more += limit->more;
        limit->more = 0;
    }
}


void
ngx_http_apikey_rolls_keep(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_account_t *account, const apikey_account_limit_t *terms,
    ngx_uint_t n)
{
    uint64_t                        id, more;
    ngx_uint_t                      k;
    ngx_http_apikey_bucket_t       *b;
    ngx_http_apikey_lease_entry_t  *entry;
    ngx_http_apikey_lease_limit_t  *limit;

    for (k = 0; k < (terms ? n : account->nbuckets); k++) {

        if (terms) {

            if (terms[k].rate.tick != APIKEY_RATE_ROLLING) {
                continue;
            }

            id = terms[k].id;
            more = terms[k].known;

        } else {
            b = &account->buckets[k];
            id = b->limit->id;
            more = b->more;

            b->back = 0;
            b->more = 0;
        }

        if (more == 0) {
            continue;
        }

        entry = ngx_http_apikey_leases_find(leases, account);
        limit = entry ? ngx_http_apikey_rolls_limit(leases, entry, id) : NULL;

        if (limit) {
            limit->more += more;
        }
    }
}


static ngx_http_apikey_lease_limit_t *
ngx_http_apikey_rolls_limit(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry, uint64_t id)
{
    ngx_http_apikey_lease_limit_t  *limit;

    limit = ngx_http_apikey_leases_limit(leases, entry->limits);

    while (limit && (limit->terms.id != id
                     || limit->terms.rate.tick != APIKEY_RATE_ROLLING))
    {
        limit = ngx_http_apikey_leases_limit(leases, limit->next);
    }

    return limit;
}
