
/*
 * Settling: a request has ended, and what it really was takes the place of
 * what it has paid, up or down, in the same accounts.
 *
 * Called from the log phase, once for a decision that took: cleanup handlers
 * run before it when a client goes away, and what a request has cost is not
 * known there.  And from decide_cancel() for one that never ran.  A worker
 * that dies settles nothing: what its requests have paid is what they cost;
 * but their slots are free.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "limit/alone.h"


/* us: what others miss is told at once, but not each piece of it */
#define NGX_HTTP_APIKEY_SETTLE_PACE  50000


static void ngx_http_apikey_settle_redis(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, ngx_uint_t i);
static void ngx_http_apikey_settle_queue(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_decision_t *d, ngx_uint_t i, int64_t now);
static ngx_uint_t ngx_http_apikey_settle_missed(
    ngx_http_apikey_leases_t *leases,
    const ngx_http_apikey_lease_entry_t *entry,
    const ngx_http_apikey_account_t *account, int64_t now);
static void ngx_http_apikey_settle_tell(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d);
static void ngx_http_apikey_settle_slot(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, ngx_uint_t i);
static void ngx_http_apikey_settle_local(ngx_http_apikey_table_t *table,
    ngx_http_apikey_decision_t *d);
static void ngx_http_apikey_settle_account(ngx_http_apikey_table_t *table,
    ngx_http_apikey_account_t *account, int64_t tokens);
static int64_t ngx_http_apikey_settle_tokens(
    ngx_http_apikey_account_t *account, ngx_uint_t share);


void
ngx_http_apikey_settle(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d)
{
    ngx_uint_t        i;
    ngx_slab_pool_t  *shpool;

    for (i = 0; i < d->naccounts; i++) {
        if (d->accounts[i].actual != d->accounts[i].cost) {
            break;
        }
    }

    if (i == d->naccounts) {
        return;
    }

    shpool = l->conf.shpool;

    switch (d->mode) {

    case APIKEY_MODE_LOCAL:
    case APIKEY_MODE_DOWN_LOCAL:
    case APIKEY_MODE_DOWN_ALLOW:

        ngx_shmtx_lock(&shpool->mutex);
        ngx_http_apikey_settle_local(l->conf.sh->table, d);
        ngx_http_apikey_alone_settled(l, d, apikey_clock_boot());
        ngx_shmtx_unlock(&shpool->mutex);

        break;

    case APIKEY_MODE_LEASED:
    case APIKEY_MODE_DIRECT:

        ngx_shmtx_lock(&shpool->mutex);

        for (i = 0; i < d->naccounts; i++) {
            ngx_http_apikey_settle_redis(l, d, i);
        }

        ngx_shmtx_unlock(&shpool->mutex);

        ngx_http_apikey_settle_tell(l, d);
        ngx_http_apikey_renew_arm(l);

        break;

    default:
        break;
    }
}


/*
 * A sum that travels with the next call about the account, whoever makes it;
 * where nobody does, the wheel.
 */

static void
ngx_http_apikey_settle_redis(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, ngx_uint_t i)
{
    int64_t                         now;
    uint64_t                        era;
    apikey_claim_t                 *claim;
    apikey_tallies_entry_t         *e;
    ngx_http_apikey_leases_t       *leases;
    ngx_http_apikey_account_t      *account;

    account = &d->accounts[i];
    claim = &d->claims[i];
    leases = l->conf.sh->leases;

    d->parts[i].yields = 0;

    if (account->actual == account->cost) {
        return;
    }

    now = apikey_clock_boot();

    if (account->unit == APIKEY_UNIT_CONCURRENT) {
        ngx_http_apikey_settle_slot(l, d, i);
        return;
    }

    if (account->unit != APIKEY_UNIT_TOKENS
        && account->unit != APIKEY_UNIT_COST)
    {
        return;
    }

    e = apikey_tallies_get(l->conf.tallies, account->root, account->holder,
                           account->level, account->unit, account->scope,
                           now);
    if (e == NULL) {
        return;
    }

    /* who has paid nothing has paid in no other era */

    era = (claim->state == APIKEY_CLAIM_NONE) ? e->tally.era : claim->era;

    apikey_tally_add(&e->tally,
                     (int64_t) account->cost - (int64_t) account->actual, era,
                     now - d->paid_at, NGX_HTTP_APIKEY_LEASES_HORIZON);

    ngx_http_apikey_settle_queue(leases, d, i, now);
}


/* It goes along with the next call about the account. */

static void
ngx_http_apikey_settle_queue(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_decision_t *d, ngx_uint_t i, int64_t now)
{
    ngx_http_apikey_account_t      *account;
    ngx_http_apikey_lease_entry_t  *entry;

    account = &d->accounts[i];

    ngx_http_apikey_leases_begin(leases);

    entry = ngx_http_apikey_leases_get(leases, account, now);

    if (entry
        && (entry->nlimits
            || ngx_http_apikey_leases_learn(leases, entry, account)
               == NGX_OK))
    {
        ngx_http_apikey_rolls_settle(leases, entry, d, account, now);
        ngx_http_apikey_leases_queue(leases, entry, now,
                                   now + (int64_t) (entry->conf.time / 2));

        /* there may be room now */

        if (account->actual < account->cost) {
            entry->quiet = 0;
            d->parts[i].entry = ngx_http_apikey_leases_index(leases, entry);
            d->parts[i].yields = ngx_http_apikey_settle_missed(leases, entry,
                                                               account, now);
        }
    }
}


/*
 * Beside this reserve another one like it did not fit: other nodes refuse, and
 * know of no room, until they can see what comes back.
 */

static ngx_uint_t
ngx_http_apikey_settle_missed(ngx_http_apikey_leases_t *leases,
    const ngx_http_apikey_lease_entry_t *entry,
    const ngx_http_apikey_account_t *account, int64_t now)
{
    ngx_uint_t                      k;
    apikey_bucket_t                 level;
    ngx_http_apikey_lease_limit_t  *limit;

    if (now - entry->asked < NGX_HTTP_APIKEY_SETTLE_PACE) {
        return 0;
    }

    limit = ngx_http_apikey_leases_limit(leases, entry->limits);

    for (k = 0; limit && k < account->nbuckets; k++) {
        level = limit->seen;

        if (limit->terms.mode == APIKEY_ACCOUNT_STRICT
            && limit->terms.id == account->buckets[k].limit->id
            && level.used != APIKEY_ACCOUNT_MAX
            && apikey_bucket_remaining(&level, &limit->terms.rate)
               < account->cost)
        {
            return 1;
        }

        limit = ngx_http_apikey_leases_limit(leases, limit->next);
    }

    return 0;
}


static void
ngx_http_apikey_settle_slot(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, ngx_uint_t i)
{
    int64_t                         now;
    ngx_http_apikey_part_t         *part;
    ngx_http_apikey_leases_t       *leases;
    ngx_http_apikey_account_t      *account;
    ngx_http_apikey_lease_entry_t  *entry;

    account = &d->accounts[i];
    part = &d->parts[i];
    leases = l->conf.sh->leases;
    now = apikey_clock_boot();

    entry = ngx_http_apikey_leases_find(leases, account);

    if (entry) {
        part->entry = ngx_http_apikey_leases_index(leases, entry);
        part->yields = apikey_lease_leave(&entry->lease, &entry->conf,
                                          account->cost, d->claims[i].epoch,
                                          now);
        ngx_http_apikey_leases_queue(leases, entry, now,
                  now + (int64_t) (entry->conf.time / APIKEY_LEASE_LOOKS));
    }

    ngx_http_apikey_holds_drop(l->conf.sh->holds, part->hold);
    part->hold = 0;
}


/* What nobody here waits for, slots and what others miss, is free at once. */

static void
ngx_http_apikey_settle_tell(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d)
{
    ngx_uint_t  i;

    for (i = 0; i < d->naccounts; i++) {

        if (d->parts[i].yields) {
            d->parts[i].yields = 0;
            (void) ngx_http_apikey_ask(l, d->parts[i].entry, 1);
        }
    }
}


static void
ngx_http_apikey_settle_local(ngx_http_apikey_table_t *table,
    ngx_http_apikey_decision_t *d)
{
    int64_t                     tokens;
    ngx_uint_t                  i;
    ngx_http_apikey_account_t  *account;

    for (i = 0; i < d->naccounts; i++) {
        account = &d->accounts[i];
        tokens = ngx_http_apikey_settle_tokens(account, d->share);

        /* where all is allowed nobody has counted what runs */

        if (account->unit == APIKEY_UNIT_CONCURRENT
            && d->mode == APIKEY_MODE_DOWN_ALLOW)
        {
            continue;
        }

        if (tokens) {
            ngx_http_apikey_settle_account(table, account, tokens);
        }
    }
}


/*
 * What was paid in a period that is over, it keeps.  Credits go on over their
 * refills, so that they bear what more a request has cost.
 */

static void
ngx_http_apikey_settle_account(ngx_http_apikey_table_t *table,
    ngx_http_apikey_account_t *account, int64_t tokens)
{
    ngx_uint_t                 k;
    apikey_gauge_t            *gauge;
    ngx_http_apikey_bucket_t  *b;

    for (k = 0; k < account->nbuckets; k++) {
        b = &account->buckets[k];

        gauge = ngx_http_apikey_table_find(table, account, b->limit);

        /* one that was unused meanwhile has given its place away */

        if (gauge == NULL && tokens > 0 && !apikey_limit_quota(b->limit)) {
            gauge = ngx_http_apikey_table_get(table, account, b,
                                              apikey_clock_boot());
        }

        if (gauge) {
            apikey_gauge_settle(gauge, tokens,
                                tokens > 0
                                && b->limit->kind == APIKEY_KIND_CREDITS
                                ? 0 : b->paid_in);
        }

        /* limits of slots share their count */

        if (account->unit == APIKEY_UNIT_CONCURRENT) {
            break;
        }
    }
}


/* What is still to be paid; < 0: comes back. */

static int64_t
ngx_http_apikey_settle_tokens(ngx_http_apikey_account_t *account,
    ngx_uint_t share)
{
    uint64_t  n;

    n = (account->actual < account->cost) ? account->cost - account->actual
                                          : account->actual - account->cost;

    n = (n > APIKEY_BUCKET_MAX / share) ? APIKEY_BUCKET_MAX : n * share;

    return (account->actual < account->cost) ? -(int64_t) n : (int64_t) n;
}


void
ngx_http_apikey_settle_lost(ngx_http_apikey_limiter_t *l,
    const u_char holder[16], ngx_uint_t level, uint64_t scope,
    uint64_t slots)
{
    apikey_limit_t              limit;
    apikey_gauge_t             *gauge;
    ngx_slab_pool_t            *shpool;
    ngx_http_apikey_account_t   account;

    ngx_memzero(&limit, sizeof(apikey_limit_t));
    ngx_memzero(&account, sizeof(ngx_http_apikey_account_t));

    limit.kind = APIKEY_KIND_CONCURRENT;

    ngx_memcpy(account.holder, holder, 16);
    account.level = level;
    account.unit = APIKEY_UNIT_CONCURRENT;
    account.scope = scope;

    shpool = l->conf.shpool;

    ngx_shmtx_lock(&shpool->mutex);

    gauge = ngx_http_apikey_table_find(l->conf.sh->table, &account, &limit);

    if (gauge) {
        apikey_gauge_settle(gauge, -(int64_t) slots, 0);
    }

    ngx_shmtx_unlock(&shpool->mutex);
}
