
/*
 * Counts that a node has lost and Postgres knows: telling the table.
 *
 * Called by http with what it has asked for.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "limit/limiter.h"
#include "limit/script.h"


/* us between two who ask what nobody knows */
#define NGX_HTTP_APIKEY_KNOWN_BLIND  1000000


static ngx_uint_t ngx_http_apikey_known_strict(ngx_http_apikey_limiter_t *l,
    const ngx_http_apikey_account_t *account,
    const ngx_http_apikey_lease_entry_t *entry);
static ngx_uint_t ngx_http_apikey_known_nothing(
    const ngx_http_apikey_account_t *account);
static void ngx_http_apikey_known_epoch(ngx_http_apikey_decision_t *d,
    ngx_http_apikey_redis_epoch_t *epoch);


uint64_t
ngx_http_apikey_limiter_born(ngx_http_apikey_limiter_t *l,
    apikey_mode_e mode)
{
    uint64_t  born;

    born = ngx_http_apikey_table_born(l->conf.sh->table);

    /*
     * What passed without Redis is not known there either; while it is away
     * that never ends, and the table has it.
     */

    if (l->redis && mode != APIKEY_MODE_DOWN_LOCAL) {
        born = ngx_max(born, l->conf.tallies->file->owed.alone);
    }

    return born;
}


void
ngx_http_apikey_limiter_known(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_account_t *account, const apikey_limit_t *limit,
    uint64_t used)
{
    apikey_gauge_t   *g;
    ngx_slab_pool_t  *shpool;

    shpool = l->conf.shpool;

    ngx_shmtx_lock(&shpool->mutex);

    g = ngx_http_apikey_table_find(l->conf.sh->table, account, limit);

    if (g && g->bucket.used == APIKEY_GAUGE_UNKNOWN) {
        g->bucket.used = ngx_min(used, APIKEY_BUCKET_MAX);
    }

    ngx_shmtx_unlock(&shpool->mutex);
}


void
ngx_http_apikey_limiter_mode(ngx_http_apikey_limiter_t *l)
{
    ngx_slab_pool_t             *shpool;
    ngx_http_apikey_limit_sh_t  *sh;

    sh = l->conf.sh;
    shpool = l->conf.shpool;

    ngx_shmtx_lock(&shpool->mutex);

    if (l->conf.mode == NGX_HTTP_APIKEY_LIMIT_LOCAL
        && sh->mode != NGX_HTTP_APIKEY_LIMIT_LOCAL)
    {
        ngx_http_apikey_table_forget(sh->table);
    }

    sh->mode = l->conf.mode;

    ngx_shmtx_unlock(&shpool->mutex);
}


ngx_uint_t
ngx_http_apikey_known_blind(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, int64_t now)
{
    uint64_t                        then;
    ngx_uint_t                      i, k, nothing;
    ngx_http_apikey_bucket_t       *b;
    ngx_http_apikey_lease_entry_t  *entry;
    ngx_http_apikey_lease_limit_t  *limit;

    for (i = 0; !d->look && i < d->naccounts; i++) {
        entry = ngx_http_apikey_claims_entry(l, &d->parts[i]);
        nothing = ngx_http_apikey_known_nothing(&d->accounts[i]);

        if (d->anyway || (entry->seen && now < entry->blind)) {
            continue;
        }

        /* Redis may know what nothing is wanted of */

        if (nothing && entry->seen == 0) {
            continue;
        }

        /* TAKE will refuse, and all of them are asked for together */

        if (!nothing
            && ngx_http_apikey_known_strict(l, &d->accounts[i], entry))
        {
            continue;
        }

        limit = ngx_http_apikey_leases_limit(l->conf.sh->leases,
                                             entry->limits);

        for (k = 0; limit && k < d->accounts[i].nbuckets; k++) {
            b = &d->accounts[i].buckets[k];

            b->unknown = (nothing || b->limit->mode == APIKEY_OBSERVE)
                         && limit->terms.quota && !b->asked
                         && (entry->seen == 0
                             || limit->seen.used == APIKEY_ACCOUNT_MAX);
            d->blind |= b->unknown;

            if (b->unknown) {
                then = ngx_http_apikey_known_void(entry->lost,
                                                  entry->conf.time);
                d->after = ngx_max(d->after, then);

                ngx_http_apikey_known_gone(d, b, entry->conf.time);
            }

            limit = ngx_http_apikey_leases_limit(l->conf.sh->leases,
                                                 limit->next);
        }

        if (d->blind) {
            entry->blind = now + NGX_HTTP_APIKEY_KNOWN_BLIND;
        }
    }

    d->unknown = d->blind;

    return d->blind;
}


ngx_uint_t
ngx_http_apikey_known_unpaid(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d, int64_t now)
{
    ngx_uint_t                  i, k, some;
    ngx_http_apikey_account_t  *account;

    some = 0;

    for (i = 0; i < d->naccounts; i++) {
        account = &d->accounts[i];

        if (d->look || d->anyway || !ngx_http_apikey_known_nothing(account)) {
            return 0;
        }

        if (d->parts[i].none
            || now < ngx_http_apikey_claims_entry(l, &d->parts[i])->blind)
        {
            continue;
        }

        for (k = 0; k < account->nbuckets; k++) {
            some |= account->buckets[k].unknown && !account->buckets[k].asked;
        }
    }

    return some;
}


ngx_uint_t
ngx_http_apikey_known_told(const ngx_http_apikey_account_t *account)
{
    ngx_uint_t  k;

    for (k = 0; k < account->nbuckets; k++) {

        if (account->buckets[k].asked) {
            return 1;
        }
    }

    return 0;
}


/* It is only to be told what is left. */

static ngx_uint_t
ngx_http_apikey_known_nothing(const ngx_http_apikey_account_t *account)
{
    return account->cost == 0 && !account->whole;
}


uint64_t
ngx_http_apikey_known_void(uint64_t lost, uint64_t time)
{
    return lost && time ? (lost / time + 2) * time : 0;
}


void
ngx_http_apikey_known_gone(ngx_http_apikey_decision_t *d,
    const ngx_http_apikey_bucket_t *b, uint64_t time)
{
    uint64_t                       from, made, then;
    ngx_http_apikey_redis_epoch_t  epoch;

    ngx_http_apikey_known_epoch(d, &epoch);

    made = b->limit->made;
    from = made < epoch.since ? epoch.since : 0;

    if (made < epoch.gone) {
        from = ngx_max(from, epoch.gone);
    }

    then = ngx_http_apikey_known_void(from, time);

    d->least = ngx_max(d->least, then);
}


/*
 * Of who will be asked next: in a Cluster others have lost what they had at
 * other times.  All accounts of a request stand in one slot.
 */

static void
ngx_http_apikey_known_epoch(ngx_http_apikey_decision_t *d,
    ngx_http_apikey_redis_epoch_t *epoch)
{
    u_char                      text[NGX_HTTP_APIKEY_LIMITER_KEY];
    ngx_str_t                   key;
    ngx_http_apikey_limiter_t  *l;

    l = d->limiter;

    ngx_memzero(epoch, sizeof(ngx_http_apikey_redis_epoch_t));

    key.data = text;
    key.len = ngx_http_apikey_script_key(text, &l->conf.redis->prefix,
                                         &d->accounts[0])
              - text;

    (void) ngx_http_apikey_redis_epoch(l->redis, &d->call, &key, epoch);
}


/* A quota of which nobody knows the use refuses. */

static ngx_uint_t
ngx_http_apikey_known_strict(ngx_http_apikey_limiter_t *l,
    const ngx_http_apikey_account_t *account,
    const ngx_http_apikey_lease_entry_t *entry)
{
    ngx_uint_t                      k;
    ngx_http_apikey_lease_limit_t  *limit;

    limit = ngx_http_apikey_leases_limit(l->conf.sh->leases, entry->limits);

    for (k = 0; limit && k < account->nbuckets; k++) {

        if (account->buckets[k].limit->mode != APIKEY_OBSERVE
            && limit->terms.quota
            && limit->seen.used == APIKEY_ACCOUNT_MAX)
        {
            return 1;
        }

        limit = ngx_http_apikey_leases_limit(l->conf.sh->leases, limit->next);
    }

    return 0;
}
