
/*
 * The leases of a request: its accounts looked up, and all of them paid from
 * what the node holds, or none.
 *
 * Everything here runs under the zone's mutex: no allocation, no log.  A
 * request that waited looks its entries up again; whoever it is that has them
 * then, epochs and numbers tell.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "limit/alone.h"


/* us: a slot is free when some request ends, and nobody knows when */
#define NGX_HTTP_APIKEY_CLAIMS_SLOT  1000000


/* get() has looked whether it is lost */
#define ngx_http_apikey_claims_known(l, d, i)                                 \
    ((d)->claims[i].conf != &(d)->parts[i].conf                               \
     && ngx_http_apikey_claims_entry(l, &(d)->parts[i])->seen != 0)


static apikey_lease_decision_e ngx_http_apikey_claims_pay(
    ngx_http_apikey_limiter_t *l, ngx_http_apikey_decision_t *d,
    int64_t *now);
static void ngx_http_apikey_claims_get(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, ngx_uint_t i, ngx_uint_t first,
    int64_t now);
static ngx_uint_t ngx_http_apikey_claims_lost(
    ngx_http_apikey_leases_t *leases, ngx_http_apikey_lease_entry_t *entry);
static ngx_uint_t ngx_http_apikey_claims_direct(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d);
static apikey_lease_decision_e ngx_http_apikey_claims_take(
    ngx_http_apikey_limiter_t *l, ngx_http_apikey_decision_t *d);
static void ngx_http_apikey_claims_hold(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d);
static void ngx_http_apikey_claims_outs(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, ngx_uint_t refused, int64_t now);
static void ngx_http_apikey_claims_refuse(ngx_http_apikey_account_t *account,
    apikey_claim_t *claim, ngx_http_apikey_lease_entry_t *entry, int64_t now);


apikey_lease_decision_e
ngx_http_apikey_claims_decide(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, ngx_uint_t first)
{
    int64_t                  now;
    ngx_uint_t               i, large, seen;
    apikey_lease_decision_e  rc;

    now = apikey_clock_boot();
    large = 0;
    seen = (l->conf.mode != NGX_HTTP_APIKEY_LIMIT_DIRECT);

    ngx_http_apikey_leases_begin(l->conf.sh->leases);

    for (i = 0; i < d->naccounts; i++) {
        ngx_http_apikey_claims_get(l, d, i, first, now);

        /* who runs in a slot that nobody counts would run beyond them all */

        if (d->parts[i].none && !d->look
            && d->accounts[i].unit == APIKEY_UNIT_CONCURRENT)
        {
            return APIKEY_LEASE_UNAVAILABLE;
        }

        /* never to be had, and nobody has to be asked why, nor what is left */

        large |= d->claims[i].cost > d->claims[i].conf->burst;
        seen &= ngx_http_apikey_claims_known(l, d, i);
    }

    if (ngx_http_apikey_known_blind(l, d, now)) {
        return APIKEY_LEASE_UNAVAILABLE;
    }

    rc = large && seen ? APIKEY_LEASE_REFUSED
               : ngx_http_apikey_claims_pay(l, d, &now);

    switch (rc) {

    case APIKEY_LEASE_ADMITTED:
        ngx_http_apikey_claims_hold(l, d);
        ngx_http_apikey_claims_outs(l, d, 0, now);

        for (i = 0; i < d->naccounts; i++) {
            d->parts[i].ahead = apikey_lease_ahead(&d->claims[i], now);
            d->ahead |= d->parts[i].ahead;
        }

        break;

    case APIKEY_LEASE_REFUSED:
        ngx_http_apikey_claims_outs(l, d, 1, now);
        break;

    case APIKEY_LEASE_TAKE:
        rc = ngx_http_apikey_claims_take(l, d);
        break;

    default: /* APIKEY_LEASE_WAIT */
        break;
    }

    return rc;
}


static apikey_lease_decision_e
ngx_http_apikey_claims_pay(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, int64_t *now)
{
    apikey_lease_decision_e  rc;

    do {
        *now = apikey_clock_boot();
        rc = apikey_lease_decide(d->claims, d->naccounts, *now);

        if (rc == APIKEY_LEASE_ADMITTED && ngx_http_apikey_claims_direct(l, d))
        {
            return APIKEY_LEASE_TAKE;
        }

        if (rc != APIKEY_LEASE_ADMITTED) {
            break;
        }

        *now = apikey_clock_boot();

    } while (!apikey_lease_confirm(d->claims, d->naccounts, *now));

    if (rc == APIKEY_LEASE_TAKE && ngx_http_apikey_quiet(l, d, *now)) {
        apikey_lease_release(d->claims, d->naccounts);
        return APIKEY_LEASE_REFUSED;
    }

    return rc;
}


static void
ngx_http_apikey_claims_get(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, ngx_uint_t i, ngx_uint_t first,
    int64_t now)
{
    apikey_claim_t                 *claim;
    ngx_http_apikey_part_t         *part;
    ngx_http_apikey_leases_t       *leases;
    ngx_http_apikey_account_t      *account;
    ngx_http_apikey_lease_entry_t  *entry;

    leases = l->conf.sh->leases;
    account = &d->accounts[i];
    claim = &d->claims[i];
    part = &d->parts[i];

    entry = d->look ? ngx_http_apikey_leases_find(leases, account)
                    : ngx_http_apikey_leases_get(leases, account, now);

    /* who waited knows the limits of an earlier time */

    if (entry && (first || entry->nlimits == 0)
        && ngx_http_apikey_leases_learn(leases, entry, account) != NGX_OK)
    {
        entry = NULL;
    }

    part->none = (entry == NULL);

    if (entry == NULL) {
        entry = &l->none;

    } else {
        part->entry = ngx_http_apikey_leases_index(leases, entry);

        /* what no lease will pay for asks for no larger one */

        if (first && !account->whole
            && account->cost <= entry->conf.burst
                                / (4 * ngx_max(entry->lease.active, 1)))
        {
            apikey_lease_demand(&entry->lease, account->cost, now);
        }
    }

    claim->lease = &entry->lease;
    claim->conf = &entry->conf;

    if (ngx_http_apikey_claims_lost(leases, entry)) {
        part->conf = entry->conf;
        part->conf.direct = 1;
        claim->conf = &part->conf;
    }

    claim->cost = account->cost;

    /* more than any lease holds, and not more than there may be */

    if (account->whole) {
        claim->cost = ngx_max(entry->conf.burst, 1);
    }
}


/* Of some quota nobody here knows the use: TAKE has to say. */

static ngx_uint_t
ngx_http_apikey_claims_lost(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry)
{
    ngx_http_apikey_lease_limit_t  *limit;

    for (limit = ngx_http_apikey_leases_limit(leases, entry->limits);
         limit;
         limit = ngx_http_apikey_leases_limit(leases, limit->next))
    {
        if (limit->terms.quota
            && (entry->seen == 0 || limit->seen.used == APIKEY_ACCOUNT_MAX))
        {
            return 1;
        }
    }

    return 0;
}


/* Nothing is to be paid, and there is something to be looked at. */

static ngx_uint_t
ngx_http_apikey_claims_direct(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d)
{
    ngx_uint_t  i, look;

    look = d->look;

    for (i = 0; i < d->naccounts; i++) {

        if (d->claims[i].state != APIKEY_CLAIM_NONE) {
            return 0;
        }

        look |= d->parts[i].none
                || l->conf.mode == NGX_HTTP_APIKEY_LIMIT_DIRECT
                || ngx_http_apikey_claims_entry(l, &d->parts[i])->seen == 0
                || (!ngx_http_apikey_claims_known(l, d, i)
                    && ngx_http_apikey_known_told(&d->accounts[i]));
    }

    return look;
}


/* Not before what was admitted without Redis is charged there. */

static apikey_lease_decision_e
ngx_http_apikey_claims_take(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d)
{
    ngx_uint_t                      i, owe;
    ngx_http_apikey_lease_entry_t  *entry;

    owe = 0;

    for (i = 0; i < d->naccounts; i++) {
        entry = ngx_http_apikey_claims_entry(l, &d->parts[i]);

        owe |= d->claims[i].state != APIKEY_CLAIM_HELD && !d->parts[i].none
               && ngx_http_apikey_alone_owes(l, entry);
    }

    if (!owe) {
        ngx_http_apikey_claims_hold(l, d);
        return APIKEY_LEASE_TAKE;
    }

    apikey_lease_release(d->claims, d->naccounts);

    for (i = 0; i < d->naccounts; i++) {
        entry = ngx_http_apikey_claims_entry(l, &d->parts[i]);

        if (!d->parts[i].none && ngx_http_apikey_alone_owes(l, entry)) {
            d->claims[i].state = APIKEY_CLAIM_MISSING;
        }
    }

    return APIKEY_LEASE_WAIT;
}


/* What would be lost if this worker died is written down. */

static void
ngx_http_apikey_claims_hold(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d)
{
    ngx_uint_t               i, kind;
    ngx_http_apikey_part_t  *part;

    for (i = 0; i < d->naccounts; i++) {
        part = &d->parts[i];

        if (d->claims[i].state == APIKEY_CLAIM_HELD) {
            kind = NGX_HTTP_APIKEY_HOLD_TOKENS;
            d->held = 1;

        } else if (d->claims[i].state == APIKEY_CLAIM_LEASED
                   && d->claims[i].conf->slots)
        {
            kind = NGX_HTTP_APIKEY_HOLD_SLOTS;

        } else {
            continue;
        }

        if (l->seat != NGX_ERROR && part->hold == 0) {
            part->hold = ngx_http_apikey_holds_add(l->conf.sh->holds, l->seat,
                                                   kind, part->entry,
                                                   &d->claims[i]);
        }
    }
}


void
ngx_http_apikey_claims_release(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d)
{
    ngx_uint_t  i;

    d->held = 0;

    apikey_lease_release(d->claims, d->naccounts);

    for (i = 0; i < d->naccounts; i++) {
        ngx_http_apikey_holds_drop(l->conf.sh->holds, d->parts[i].hold);
        d->parts[i].hold = 0;
    }
}


void
ngx_http_apikey_claims_settled(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, ngx_uint_t admitted)
{
    ngx_uint_t                i;
    ngx_http_apikey_part_t   *part;
    ngx_http_apikey_holds_t  *holds;

    holds = l->conf.sh->holds;

    d->held = 0;

    for (i = 0; i < d->naccounts; i++) {
        part = &d->parts[i];

        if (admitted && d->claims[i].conf->slots) {
            ngx_http_apikey_holds_turn(holds, part->hold);
            continue;
        }

        ngx_http_apikey_holds_drop(holds, part->hold);
        part->hold = 0;
    }
}


ngx_http_apikey_lease_entry_t *
ngx_http_apikey_claims_entry(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_part_t *part)
{
    return part->none ? &l->none : &l->conf.sh->leases->entries[part->entry];
}


apikey_tally_t *
ngx_http_apikey_claims_tally_get(ngx_http_apikey_limiter_t *l,
    const u_char root[16], const u_char holder[16], ngx_uint_t level,
    ngx_uint_t unit, uint64_t scope, int64_t now)
{
    apikey_tallies_entry_t  *e;

    if (unit == APIKEY_UNIT_TOKENS || unit == APIKEY_UNIT_COST) {
        e = apikey_tallies_get(l->conf.tallies, root, holder, level, unit,
                               scope, now);
        if (e) {
            return &e->tally;
        }
    }

    return &l->conf.tallies->file->none;
}


static void
ngx_http_apikey_claims_outs(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, ngx_uint_t refused, int64_t now)
{
    int64_t                         redis;
    ngx_uint_t                      i;
    ngx_http_apikey_lease_entry_t  *entry;

    d->known = 1;

    redis = ngx_http_apikey_leases_time(l->conf.sh->leases, now);

    if (redis) {
        d->decided_at = redis;
    }

    for (i = 0; i < d->naccounts; i++) {
        entry = ngx_http_apikey_claims_entry(l, &d->parts[i]);

        ngx_http_apikey_claims_seen(d, i, entry);
        ngx_http_apikey_claims_out(l, &d->accounts[i], entry, now);

        if (refused) {
            ngx_http_apikey_claims_refuse(&d->accounts[i], &d->claims[i],
                                          entry, now);
        }
    }
}


/* What a request costs nothing of may be unknown, but not who looks. */

void
ngx_http_apikey_claims_seen(ngx_http_apikey_decision_t *d, ngx_uint_t i,
    const ngx_http_apikey_lease_entry_t *entry)
{
    ngx_http_apikey_account_t  *account;

    account = &d->accounts[i];
    account->unseen = (entry->seen == 0);

    if (account->unseen && (account->cost || d->look)) {
        d->known = 0;
    }
}


void
ngx_http_apikey_claims_out(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_account_t *account, ngx_http_apikey_lease_entry_t *entry,
    int64_t now)
{
    int64_t                         redis;
    uint64_t                        left, need;
    ngx_uint_t                      k;
    apikey_bucket_t                 b, seen;
    const apikey_rate_t            *rate;
    ngx_http_apikey_bucket_t       *out;
    ngx_http_apikey_leases_t       *leases;
    ngx_http_apikey_lease_limit_t  *limit;

    leases = l->conf.sh->leases;
    redis = ngx_http_apikey_leases_time(leases, now);
    left = now < entry->lease.deadline ? entry->lease.left : 0;
    limit = ngx_http_apikey_leases_limit(leases, entry->limits);

    for (k = 0; k < account->nbuckets; k++) {
        out = &account->buckets[k];
        rate = &out->limit->rate;

        seen = ngx_http_apikey_leases_seen(limit, out, redis);
        need = ngx_http_apikey_decide_need(out->limit, account);
        b = seen;

        out->refused = 0;
        out->unknown = (seen.used == APIKEY_ACCOUNT_MAX
                        && apikey_limit_quota(out->limit));
        out->used = b.used / rate->token;

        /* what Redis had left, and what is ours: others may have taken */

        out->remaining = apikey_bucket_remaining(&b, rate) + left;
        out->remaining = ngx_min(out->remaining, rate->capacity / rate->token);

        out->wait = apikey_level_wait(&b, rate, need, redis);

        if (out->limit->kind == APIKEY_KIND_CONCURRENT
            && out->wait && account->cost <= out->limit->limit)
        {
            out->wait = NGX_HTTP_APIKEY_CLAIMS_SLOT;
        }

        if (rate->tick != APIKEY_RATE_ROLLING) {
            apikey_bucket_refill(&b, rate, redis);
        }

        ngx_http_apikey_leases_less(&b, rate, left);

        out->reset = apikey_level_reset(&b, rate, redis);

        ngx_http_apikey_decide_period(out, account, redis);

        out->wait = ngx_http_apikey_leases_wait(&entry->conf, out, &seen,
                                                entry->out, need, redis);

        limit = limit ? ngx_http_apikey_leases_limit(leases, limit->next)
                      : NULL;
    }
}


/* Which limits of an account have refused, and until when. */

static void
ngx_http_apikey_claims_refuse(ngx_http_apikey_account_t *account,
    apikey_claim_t *claim, ngx_http_apikey_lease_entry_t *entry, int64_t now)
{
    int64_t                    until;
    uint64_t                   hold;
    ngx_uint_t                 k, some;
    apikey_lease_t            *lease;
    ngx_http_apikey_bucket_t  *out, *least;

    lease = &entry->lease;
    least = NULL;
    some = 0;

    until = lease->hold;

    if (now < entry->quiet && claim->cost >= entry->quiet_cost) {
        until = ngx_max(until, entry->quiet);
    }

    hold = until > now ? (uint64_t) (until - now) : 0;

    if (claim->cost == 0
        || (claim->cost <= claim->conf->burst
            && ((lease->left >= claim->cost && now < lease->deadline)
                || hold == 0)))
    {
        return;
    }

    for (k = 0; k < account->nbuckets; k++) {
        out = &account->buckets[k];

        if (out->wait) {
            out->refused = 1;
            out->wait = ngx_max(out->wait, hold);
            some = 1;
        }

        if (least == NULL || out->remaining < least->remaining) {
            least = out;
        }
    }

    if (!some && least) {
        least->refused = 1;
        least->wait = ngx_max(hold, 1);
    }
}
