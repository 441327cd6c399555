
/*
 * An attack is no work for Redis: an account that TAKE has refused refuses by
 * itself for a while, then one request looks, and as many as Redis had tokens
 * left for follow it.
 *
 * Called by claims.c and take.c, with the zone's mutex held.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "limit/limiter.h"


/* us: what somebody else has paid for a request in flight may come back */
#define NGX_HTTP_APIKEY_QUIET_MOST   1000000

/* us: who refuses looks so rarely, if nothing flows over meanwhile */
#define NGX_HTTP_APIKEY_QUIET_PACE   50000

/* us: who looks again right after a refusal looks for all */
#define NGX_HTTP_APIKEY_QUIET_LOOK   20000

/* us: more is wanted than there is, until nobody was refused for so long */
#define NGX_HTTP_APIKEY_QUIET_SHORT  1000000


static void ngx_http_apikey_quiet_admitted(
    ngx_http_apikey_lease_entry_t *entry, ngx_http_apikey_account_t *account,
    int64_t now);


ngx_uint_t
ngx_http_apikey_quiet(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, int64_t now)
{
    uint64_t                        cost;
    ngx_uint_t                      i;
    ngx_http_apikey_lease_entry_t  *entry;

    if (l->conf.mode == NGX_HTTP_APIKEY_LIMIT_DIRECT) {
        return 0;
    }

    for (i = 0; i < d->naccounts; i++) {
        entry = ngx_http_apikey_claims_entry(l, &d->parts[i]);
        cost = d->claims[i].cost;

        if (d->claims[i].state == APIKEY_CLAIM_DIRECT && now < entry->quiet
            && !d->accounts[i].whole && cost >= entry->quiet_cost
            && cost > entry->quiet_left)
        {
            entry->refused = now;
            return 1;
        }
    }

    for (i = 0; i < d->naccounts; i++) {
        entry = ngx_http_apikey_claims_entry(l, &d->parts[i]);
        cost = d->claims[i].cost;

        if (d->claims[i].state != APIKEY_CLAIM_DIRECT) {
            continue;
        }

        if (now < entry->quiet) {
            entry->quiet_left -= ngx_min(cost, entry->quiet_left);

        } else if (now < entry->quiet + NGX_HTTP_APIKEY_QUIET_LOOK) {
            entry->quiet = now + NGX_HTTP_APIKEY_QUIET_LOOK;
            entry->quiet_left = 0;
        }
    }

    return 0;
}


void
ngx_http_apikey_quiet_told(ngx_http_apikey_lease_entry_t *entry,
    ngx_http_apikey_account_t *account, ngx_uint_t taken, uint64_t us,
    int64_t now)
{
    entry->quiet = 0;

    if (taken) {
        ngx_http_apikey_quiet_admitted(entry, account, now);

    } else if (us) {
        us = ngx_min(us, NGX_HTTP_APIKEY_QUIET_MOST);

        entry->quiet = now + (int64_t) us;
        entry->quiet_cost = account->cost;
        entry->quiet_left = 0;
        entry->refused = now;
    }
}


/*
 * Others wait for the same tokens, of which Redis has just said how many
 * there are: who comes after those would ask in vain.
 */

static void
ngx_http_apikey_quiet_admitted(ngx_http_apikey_lease_entry_t *entry,
    ngx_http_apikey_account_t *account, int64_t now)
{
    uint64_t               us, pace, left;
    ngx_uint_t             i;
    const apikey_limit_t  *limit;

    if (now - entry->refused >= NGX_HTTP_APIKEY_QUIET_SHORT) {
        return;
    }

    us = 0;
    left = APIKEY_ACCOUNT_MAX;

    for (i = 0; i < account->nbuckets; i++) {
        limit = account->buckets[i].limit;
        pace = ngx_http_apikey_quiet_pace(limit);

        if (pace && limit->mode == APIKEY_STRICT
            && account->buckets[i].remaining
               < limit->rate.capacity / limit->rate.token / 2)
        {
            us = us ? ngx_min(us, pace) : pace;
            left = ngx_min(left, account->buckets[i].remaining);
        }
    }

    if (us) {
        entry->quiet = now + (int64_t) us;
        entry->quiet_cost = 1;
        entry->quiet_left = left;
    }
}


/*
 * An attack would ask on every node for each token that comes.  They wait in
 * the bucket: as long as it is not half full none is lost.
 */

uint64_t
ngx_http_apikey_quiet_pace(const apikey_limit_t *limit)
{
    double                half;
    const apikey_rate_t  *rate;

    rate = &limit->rate;

    if (rate->refill == 0 || rate->tick == APIKEY_RATE_ROLLING) {
        return 0;
    }

    half = (double) rate->capacity / (double) rate->refill
           * (double) rate->tick / 2;

    return half < NGX_HTTP_APIKEY_QUIET_PACE ? (uint64_t) half
                                             : NGX_HTTP_APIKEY_QUIET_PACE;
}
