
/*
 * What this node has leased itself must not be why TAKE refuses: it goes back,
 * and TAKE is asked once more.  Nor are slots kept that were left while a call
 * was on its way, which could not take them along.
 *
 * Called by take.c; the tokens are put aside under the same hold of the zone's
 * mutex in which the refusal was seen.  And by ask.c.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "limit/limiter.h"


ngx_uint_t
ngx_http_apikey_yield(ngx_http_apikey_decision_t *d)
{
    ngx_uint_t                      i, some;
    ngx_http_apikey_lease_entry_t  *entry;

    if (d->again || d->over) {
        return 0;
    }

    some = 0;

    for (i = 0; i < d->naccounts; i++) {
        d->parts[i].yields = 0;

        if (!d->parts[i].taken || !d->parts[i].refused) {
            continue;
        }

        entry = ngx_http_apikey_claims_entry(d->limiter, &d->parts[i]);

        if (apikey_lease_yield(&entry->lease)) {
            d->parts[i].yields = 1;
            entry->quiet = 0;
            some = 1;
        }
    }

    d->again = some;

    return some;
}


void
ngx_http_apikey_yield_again(ngx_http_apikey_decision_t *d)
{
    ngx_uint_t  i;

    for (i = 0; i < d->naccounts; i++) {

        if (d->parts[i].yields) {
            (void) ngx_http_apikey_ask(d->limiter, d->parts[i].entry, 1);
        }
    }

    ngx_http_apikey_decide_resume(d);
}


void
ngx_http_apikey_yield_freed(ngx_http_apikey_limiter_t *l, uint32_t index)
{
    ngx_uint_t                      freed;
    ngx_slab_pool_t                *shpool;
    ngx_http_apikey_lease_entry_t  *entry;

    shpool = l->conf.shpool;
    entry = &l->conf.sh->leases->entries[index];

    ngx_shmtx_lock(&shpool->mutex);
    freed = apikey_lease_freed(&entry->lease, &entry->conf,
                               apikey_clock_boot());
    ngx_shmtx_unlock(&shpool->mutex);

    if (freed) {
        (void) ngx_http_apikey_ask(l, index, 1);
    }
}
