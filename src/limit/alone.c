
/*
 * Charges of what this node has admitted without Redis: who owes, and what
 * the next LEASE takes along.
 *
 * Nothing is taken from an account in Redis before what it owes is there; who
 * has nothing to do with it meanwhile is charged by the wheel.  What refills
 * or rolls has got some of it back by now: no more is owed than the node's own
 * gauge, which saw what Redis had before, still has in use.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "limit/alone.h"


static void ngx_http_apikey_alone_add(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, ngx_http_apikey_account_t *account,
    int64_t now);
static apikey_owed_t *ngx_http_apikey_alone_charge(
    ngx_http_apikey_limiter_t *l, ngx_http_apikey_decision_t *d,
    ngx_http_apikey_account_t *account, ngx_http_apikey_bucket_t *b,
    uint64_t tokens, int64_t now);
static uint64_t ngx_http_apikey_alone_end(const ngx_http_apikey_bucket_t *b,
    uint64_t real);
static void ngx_http_apikey_alone_settle(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, ngx_http_apikey_account_t *account,
    int64_t now);
static void ngx_http_apikey_alone_mark(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_account_t *account, int64_t now);
static void ngx_http_apikey_alone_sink(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_lease_entry_t *entry, const apikey_account_limit_t *limit,
    apikey_owed_t *owed);


#define ngx_http_apikey_alone_set(l)                                          \
    ((l)->conf.tallies->file ? &(l)->conf.tallies->file->owed : NULL)

#define ngx_http_apikey_alone_key(key, from, limit)                           \
    do {                                                                      \
        (key)->holder = (from)->holder;                                       \
        (key)->scope = (from)->scope;                                         \
        (key)->level = (from)->level;                                         \
        (key)->unit = (from)->unit;                                           \
        (key)->id = (limit);                                                  \
    } while (0)


void
ngx_http_apikey_alone_allow(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, int64_t now)
{
    ngx_uint_t                  i, k;
    ngx_http_apikey_table_t    *table;
    ngx_http_apikey_bucket_t   *b;
    ngx_http_apikey_account_t  *account;

    table = l->conf.sh->table;

    ngx_http_apikey_seed(l, d, now);

    for (i = 0; i < d->naccounts; i++) {
        account = &d->accounts[i];

        /* nobody counts what runs */

        if (account->unit == APIKEY_UNIT_CONCURRENT) {
            continue;
        }

        for (k = 0; k < account->nbuckets; k++) {
            b = &account->buckets[k];

            b->paid_in = 0;
            b->gauge = ngx_http_apikey_table_get(table, account, b, now);

            if (b->gauge && b->gauge->bucket.used != APIKEY_GAUGE_UNKNOWN) {
                b->paid_in = apikey_gauge_period(b->gauge);
                apikey_gauge_add(b->gauge, (int64_t) account->cost);
            }
        }
    }

    ngx_http_apikey_alone_paid(l, d, now);
}


void
ngx_http_apikey_alone_paid(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, int64_t now)
{
    ngx_uint_t                  i;
    ngx_http_apikey_account_t  *account;

    if (ngx_http_apikey_alone_set(l) == NULL) {
        return;
    }

    for (i = 0; i < d->naccounts; i++) {
        account = &d->accounts[i];

        if (account->cost && account->unit != APIKEY_UNIT_CONCURRENT) {
            ngx_http_apikey_alone_add(l, d, account, now);
            ngx_http_apikey_alone_mark(l, account, now);
        }
    }
}


static void
ngx_http_apikey_alone_add(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, ngx_http_apikey_account_t *account,
    int64_t now)
{
    ngx_uint_t                 k;
    apikey_gauge_t            *g;
    apikey_owed_t             *owed;
    ngx_http_apikey_bucket_t  *b;

    for (k = 0; k < account->nbuckets; k++) {
        b = &account->buckets[k];

        owed = ngx_http_apikey_alone_charge(l, d, account, b, account->cost,
                                            now);
        g = b->gauge;

        /* a refill may have made good what was used before it */

        if (owed && g && b->limit->kind == APIKEY_KIND_CREDITS
            && g->bucket.used != APIKEY_GAUGE_UNKNOWN)
        {
            apikey_owed_most(owed, g->bucket.used / b->limit->rate.token);
        }
    }
}


/* NULL: there is no place for it, or its period is over. */

static apikey_owed_t *
ngx_http_apikey_alone_charge(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, ngx_http_apikey_account_t *account,
    ngx_http_apikey_bucket_t *b, uint64_t tokens, int64_t now)
{
    uint64_t            end, real;
    apikey_owed_t      *owed;
    apikey_owed_key_t   key;
    apikey_owed_set_t  *set;

    set = ngx_http_apikey_alone_set(l);
    real = apikey_clock_real();
    end = ngx_http_apikey_alone_end(b, real);

    ngx_http_apikey_alone_key(&key, account, b->limit->id);

    owed = apikey_owed_get(set, &key, apikey_tallies_name(l->conf.tallies),
                           now, real);

    if (owed == NULL || (end && end <= real)) {
        return NULL;
    }

    /* what was admitted under a smaller share stands in the same gauge */

    if (apikey_owed_clean(owed, real) || d->share < owed->share) {
        owed->share = d->share;
    }

    owed->sinks = b->limit->kind == APIKEY_KIND_BUCKET
                  || b->limit->kind == APIKEY_KIND_ROLLING;

    apikey_owed_add(set, owed, tokens, end,
                    apikey_tallies_name(l->conf.tallies), real);

    return owed;
}


/* What ends with its period, or has come back; credits go on over refills. */

static uint64_t
ngx_http_apikey_alone_end(const ngx_http_apikey_bucket_t *b, uint64_t real)
{
    const apikey_rate_t  *rate;

    rate = &b->limit->rate;

    switch (b->limit->kind) {

    case APIKEY_KIND_CALENDAR:
        return b->period.end;

    case APIKEY_KIND_ROLLING:
        return real + rate->refill;

    case APIKEY_KIND_BUCKET:
        return rate->refill ? real + (rate->capacity / rate->refill + 1)
                                     * rate->tick
                            : 0;

    default:
        return 0;
    }
}


void
ngx_http_apikey_alone_settled(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, int64_t now)
{
    ngx_uint_t                  i;
    ngx_http_apikey_account_t  *account;

    if (ngx_http_apikey_alone_set(l) == NULL) {
        return;
    }

    for (i = 0; i < d->naccounts; i++) {
        account = &d->accounts[i];

        if (account->actual != account->cost
            && account->unit != APIKEY_UNIT_CONCURRENT)
        {
            ngx_http_apikey_alone_settle(l, d, account, now);
            ngx_http_apikey_alone_mark(l, account, now);
        }
    }
}


static void
ngx_http_apikey_alone_settle(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, ngx_http_apikey_account_t *account,
    int64_t now)
{
    ngx_uint_t                 k;
    apikey_owed_t             *owed;
    apikey_owed_key_t          key;
    ngx_http_apikey_bucket_t  *b;

    for (k = 0; k < account->nbuckets; k++) {
        b = &account->buckets[k];

        if (account->actual > account->cost) {
            (void) ngx_http_apikey_alone_charge(l, d, account, b,
                                            account->actual - account->cost,
                                            now);
            continue;
        }

        ngx_http_apikey_alone_key(&key, account, b->limit->id);

        owed = apikey_owed_find(ngx_http_apikey_alone_set(l), &key);

        if (owed) {
            apikey_owed_back(owed, account->cost - account->actual,
                             ngx_http_apikey_alone_end(b, 0));
        }
    }
}


/* It is told with the next LEASE, or by the wheel. */

static void
ngx_http_apikey_alone_mark(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_account_t *account, int64_t now)
{
    ngx_http_apikey_leases_t       *leases;
    ngx_http_apikey_lease_entry_t  *entry;

    leases = l->conf.sh->leases;

    if (leases->fresh == 0) {
        return;
    }

    entry = ngx_http_apikey_leases_find(leases, account);

    if (entry) {
        entry->owes = 1;
        ngx_http_apikey_leases_queue(leases, entry, now,
                                     now + NGX_HTTP_APIKEY_LEASES_OWES);
    }
}


ngx_uint_t
ngx_http_apikey_alone_owes(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_lease_entry_t *entry)
{
    uint64_t                        real;
    apikey_owed_t                  *owed;
    apikey_owed_key_t               key;
    ngx_http_apikey_leases_t       *leases;
    ngx_http_apikey_lease_limit_t  *limit;

    if (!entry->owes) {
        return 0;
    }

    leases = l->conf.sh->leases;
    real = apikey_clock_real();

    for (limit = ngx_http_apikey_leases_limit(leases, entry->limits);
         limit;
         limit = ngx_http_apikey_leases_limit(leases, limit->next))
    {
        ngx_http_apikey_alone_key(&key, entry, limit->terms.id);

        owed = apikey_owed_find(ngx_http_apikey_alone_set(l), &key);

        if (owed && !apikey_owed_clean(owed, real)) {
            return 1;
        }
    }

    entry->owes = (entry->nlimits == 0);

    return 0;
}


ngx_uint_t
ngx_http_apikey_alone_sums(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_lease_entry_t *entry, const apikey_account_limit_t *limits,
    ngx_uint_t n, apikey_account_sums_t *sums)
{
    uint64_t            real;
    ngx_uint_t          k;
    apikey_owed_t      *owed;
    apikey_owed_key_t   key;

    if (!entry->owes) {
        return 0;
    }

    real = apikey_clock_real();

    for (k = 0; k < n; k++) {
        ngx_http_apikey_alone_key(&key, entry, limits[k].id);

        owed = apikey_owed_find(ngx_http_apikey_alone_set(l), &key);

        if (owed == NULL) {
            continue;
        }

        if (owed->sinks) {
            ngx_http_apikey_alone_sink(l, entry, &limits[k], owed);
        }

        if (!apikey_owed_clean(owed, real)) {
            apikey_owed_send(owed, (unsigned) k, entry->conf.horizon,
                             apikey_clock_boot(), sums);
            return 1;
        }
    }

    entry->owes = 0;

    return 0;
}


static void
ngx_http_apikey_alone_sink(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_lease_entry_t *entry, const apikey_account_limit_t *terms,
    apikey_owed_t *owed)
{
    uint64_t                    tokens;
    apikey_limit_t              limit;
    apikey_gauge_t             *g;
    ngx_http_apikey_account_t   account;

    ngx_memzero(&limit, sizeof(apikey_limit_t));
    ngx_memzero(&account, sizeof(ngx_http_apikey_account_t));

    limit.kind = APIKEY_KIND_BUCKET;
    limit.id = terms->id;

    ngx_memcpy(account.holder, entry->holder, 16);
    account.level = entry->level;
    account.unit = entry->unit;
    account.scope = entry->scope;

    /* it can be no emptier than empty: that is no debt */

    apikey_owed_most(owed, terms->rate.capacity / terms->rate.token);

    g = ngx_http_apikey_table_find(l->conf.sh->table, &account, &limit);

    if (g == NULL || g->bucket.used == APIKEY_GAUGE_UNKNOWN || g->tick == 0) {
        return;
    }

    (void) apikey_gauge_idle(g, apikey_clock_boot(), apikey_clock_real());

    tokens = g->bucket.used / g->token + (g->bucket.used % g->token != 0);

    apikey_owed_most(owed, tokens / owed->share
                           + (tokens % owed->share != 0));
}


void
ngx_http_apikey_alone_acked(ngx_http_apikey_limiter_t *l,
    const ngx_http_apikey_account_t *account,
    const apikey_account_limit_t *limits, const apikey_account_sums_t *sums)
{
    apikey_owed_t      *owed;
    apikey_owed_key_t   key;

    ngx_http_apikey_alone_key(&key, account, limits[sums->part].id);

    owed = apikey_owed_find(ngx_http_apikey_alone_set(l), &key);

    if (owed) {
        apikey_owed_acked(owed, sums);
    }
}
