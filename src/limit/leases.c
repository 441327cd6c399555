
/*
 * Leases in shared memory: chained hash over preallocated entries, and their
 * limits in a second array.
 *
 * A worker may die at any line here.  As in limit/table.c links are single
 * stores, an entry is filled before it is linked and unlinked before it is
 * filled anew; a torn change loses an entry or a lease and never makes one.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "base/clock.h"
#include "base/fetch.h"
#include "limit/leases.h"
#include "limit/level.h"


static uint32_t *ngx_http_apikey_leases_head(ngx_http_apikey_leases_t *leases,
    const u_char holder[16], uint64_t scope, ngx_uint_t level,
    ngx_uint_t unit);
static void ngx_http_apikey_leases_link(ngx_http_apikey_leases_t *leases);
static ngx_http_apikey_lease_entry_t *ngx_http_apikey_leases_take(
    ngx_http_apikey_leases_t *leases, int64_t now);
static void ngx_http_apikey_leases_unlink(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry);
static ngx_uint_t ngx_http_apikey_leases_ids(
    ngx_http_apikey_leases_t *leases, ngx_http_apikey_lease_entry_t *entry,
    ngx_http_apikey_account_t *account);
static ngx_uint_t ngx_http_apikey_leases_same(
    ngx_http_apikey_leases_t *leases, ngx_http_apikey_lease_entry_t *entry,
    ngx_http_apikey_account_t *account);
static ngx_int_t ngx_http_apikey_leases_resize(
    ngx_http_apikey_leases_t *leases, ngx_http_apikey_lease_entry_t *entry,
    ngx_uint_t n);


ngx_http_apikey_leases_t *
ngx_http_apikey_leases_init(ngx_slab_pool_t *shpool, size_t size)
{
    size_t                     n, one;
    ngx_http_apikey_leases_t  *leases;

    /* a limit and a half an account */

    one = sizeof(ngx_http_apikey_lease_entry_t) + sizeof(uint32_t)
          + sizeof(ngx_http_apikey_lease_limit_t) * 3 / 2;

    if (size < sizeof(ngx_http_apikey_leases_t) + 2 * one) {
        return NULL;
    }

    n = (size - sizeof(ngx_http_apikey_leases_t)) / one;
    n = ngx_min(n, NGX_MAX_UINT32_VALUE / 2);

    leases = ngx_slab_alloc(shpool, sizeof(ngx_http_apikey_leases_t)
                                    + n * one);
    if (leases == NULL) {
        return NULL;
    }

    ngx_memzero(leases, sizeof(ngx_http_apikey_leases_t));

    leases->n = n;
    leases->nlimits = n + n / 2;
    leases->trip = NGX_HTTP_APIKEY_LEASES_TRIP;
    leases->rest = 1000000;

    leases->entries = (ngx_http_apikey_lease_entry_t *) (leases + 1);
    leases->limits = (ngx_http_apikey_lease_limit_t *) (leases->entries + n);

    ngx_http_apikey_heads_init(&leases->heads,
                         (uint32_t *) (leases->limits + leases->nlimits), n);

    return leases;
}


void
ngx_http_apikey_leases_begin(ngx_http_apikey_leases_t *leases)
{
    leases->turn++;
}


ngx_http_apikey_lease_entry_t *
ngx_http_apikey_leases_find(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_account_t *account)
{
    uint32_t                        i;
    ngx_http_apikey_lease_entry_t  *entry;

    if (leases->heads.torn) {
        ngx_http_apikey_leases_link(leases);
    }

    i = *ngx_http_apikey_leases_head(leases, account->holder, account->scope,
                                     account->level, account->unit);

    for ( /* void */ ; i; i = entry->next) {
        entry = &leases->entries[i - 1];

        if (entry->scope == account->scope && entry->level == account->level
            && entry->unit == account->unit
            && ngx_memcmp(entry->holder, account->holder, 16) == 0)
        {
            entry->turn = leases->turn;
            return entry;
        }
    }

    return NULL;
}


ngx_http_apikey_lease_entry_t *
ngx_http_apikey_leases_get(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_account_t *account, int64_t now)
{
    uint32_t                       *head;
    ngx_http_apikey_lease_entry_t  *entry;

    entry = ngx_http_apikey_leases_find(leases, account);
    if (entry) {
        return entry;
    }

    entry = ngx_http_apikey_leases_take(leases, now);
    if (entry == NULL) {
        return NULL;
    }

    ngx_memcpy(entry->root, account->root, 16);
    ngx_memcpy(entry->holder, account->holder, 16);

    entry->scope = account->scope;
    entry->level = account->level;
    entry->unit = account->unit;
    entry->turn = leases->turn;
    entry->owes = 1;

    head = ngx_http_apikey_leases_head(leases, entry->holder, entry->scope,
                                       entry->level, entry->unit);
    entry->next = *head;

    ngx_memory_barrier();

    entry->linked = 1;

    ngx_memory_barrier();

    *head = ngx_http_apikey_leases_index(leases, entry) + 1;

    return entry;
}


void
ngx_http_apikey_leases_ahead(ngx_http_apikey_leases_t *leases,
    const ngx_http_apikey_account_t *account, ngx_http_apikey_limit_at_t *at)
{
    uint32_t  i, *head;

    head = ngx_http_apikey_leases_head(leases, account->holder, account->scope,
                                       account->level, account->unit);
    at->link = head;
    at->entry = NULL;

    i = *(volatile uint32_t *) head;

    if (i == 0 || i > leases->n) {
        return;
    }

    at->entry = &leases->entries[i - 1];

    apikey_fetch_all(at->entry, sizeof(ngx_http_apikey_lease_entry_t));
}


static uint32_t *
ngx_http_apikey_leases_head(ngx_http_apikey_leases_t *leases,
    const u_char holder[16], uint64_t scope, ngx_uint_t level, ngx_uint_t unit)
{
    uint64_t  h, part;

    ngx_memcpy(&h, holder, 8);
    ngx_memcpy(&part, holder + 8, 8);

    h = (h ^ part) * 0x9e3779b97f4a7c15ULL;
    h = (h ^ (h >> 32) ^ scope ^ level << 8 ^ unit) * 0x9e3779b97f4a7c15ULL;

    return ngx_http_apikey_heads_at(&leases->heads, h);
}


static void
ngx_http_apikey_leases_link(ngx_http_apikey_leases_t *leases)
{
    uint32_t                        i, *head;
    ngx_http_apikey_lease_entry_t  *entry;

    ngx_http_apikey_heads_begin(&leases->heads, leases->fresh);

    for (i = 0; i < leases->fresh; i++) {
        entry = &leases->entries[i];

        if (entry->linked) {
            head = ngx_http_apikey_leases_head(leases, entry->holder,
                                               entry->scope, entry->level,
                                               entry->unit);
            entry->next = *head;
            *head = i + 1;
        }
    }

    ngx_http_apikey_heads_end(&leases->heads);
}


/* An entry of nobody, unlinked; what has to outlive it is kept. */

static ngx_http_apikey_lease_entry_t *
ngx_http_apikey_leases_take(ngx_http_apikey_leases_t *leases, int64_t now)
{
    uint64_t                        epoch, calls;
    ngx_http_apikey_lease_entry_t  *entry;

    if (leases->fresh < leases->n) {

        if (ngx_http_apikey_heads_few(&leases->heads, leases->fresh)) {
            ngx_http_apikey_leases_link(leases);
        }

        entry = &leases->entries[leases->fresh];
        ngx_memzero(entry, sizeof(ngx_http_apikey_lease_entry_t));
        leases->fresh++;
        return entry;
    }

    entry = ngx_http_apikey_leases_spare(leases, now);
    if (entry == NULL) {
        return NULL;
    }

    if (entry->linked) {
        ngx_http_apikey_leases_unlink(leases, entry);
        entry->linked = 0;
    }

    (void) ngx_http_apikey_leases_resize(leases, entry, 0);

    epoch = entry->lease.epoch + 1;
    calls = entry->lease.calls;

    ngx_memzero(entry, sizeof(ngx_http_apikey_lease_entry_t));

    entry->lease.epoch = epoch;
    entry->lease.calls = calls;

    return entry;
}


static void
ngx_http_apikey_leases_unlink(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry)
{
    uint32_t  *link, i;

    i = ngx_http_apikey_leases_index(leases, entry) + 1;

    link = ngx_http_apikey_leases_head(leases, entry->holder, entry->scope,
                                       entry->level, entry->unit);

    while (*link && *link != i) {
        link = &leases->entries[*link - 1].next;
    }

    if (*link) {
        *link = entry->next;
    }

    ngx_memory_barrier();
}


ngx_int_t
ngx_http_apikey_leases_learn(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry, ngx_http_apikey_account_t *account)
{
    ngx_uint_t                      i;
    ngx_http_apikey_lease_limit_t  *l;

    if (ngx_http_apikey_leases_same(leases, entry, account)) {
        l = ngx_http_apikey_leases_limit(leases, entry->limits);

        for (i = 0; l && i < account->nbuckets; i++) {
            l->terms.end = account->buckets[i].period.end;
            l->terms.next = account->buckets[i].period.next;

            l = ngx_http_apikey_leases_limit(leases, l->next);
        }

        return NGX_OK;
    }

    if (ngx_http_apikey_leases_ids(leases, entry, account)) {
        apikey_lease_retire(&entry->lease, apikey_clock_boot());

    } else {
        apikey_lease_void(&entry->lease);
    }

    entry->lease.hold = 0;
    entry->quiet = 0;
    entry->refused = 0;
    entry->seen = 0;
    entry->blind = 0;
    entry->out = 0;

    if (ngx_http_apikey_leases_resize(leases, entry, account->nbuckets)
        != NGX_OK)
    {
        return NGX_DECLINED;
    }

    l = ngx_http_apikey_leases_limit(leases, entry->limits);

    for (i = 0; l && i < account->nbuckets; i++) {
        ngx_http_apikey_leases_terms(&l->terms, &account->buckets[i]);
        l->terms.known = APIKEY_ACCOUNT_UNKNOWN;
        l->seen.used = 0;
        l->seen.at = 0;
        l->back = 0;
        l->more = 0;

        l = ngx_http_apikey_leases_limit(leases, l->next);
    }

    ngx_http_apikey_leases_conf(&entry->conf, account);

    entry->conf.trip = leases->trip;
    entry->conf.direct |= leases->direct && !entry->conf.slots;

    entry->owes = 1;                     /* other limits than before may */

    return NGX_OK;
}


/*
 * The same limits, though changed: they were charged with what is left, and
 * it may go back to them.
 */

static ngx_uint_t
ngx_http_apikey_leases_ids(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry, ngx_http_apikey_account_t *account)
{
    ngx_uint_t                      i;
    ngx_http_apikey_lease_limit_t  *l;

    if (entry->nlimits != account->nbuckets) {
        return 0;
    }

    l = ngx_http_apikey_leases_limit(leases, entry->limits);

    for (i = 0; l && i < account->nbuckets; i++) {

        if (l->terms.id != account->buckets[i].limit->id) {
            return 0;
        }

        l = ngx_http_apikey_leases_limit(leases, l->next);
    }

    return i == account->nbuckets;
}


static ngx_uint_t
ngx_http_apikey_leases_same(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry, ngx_http_apikey_account_t *account)
{
    ngx_uint_t                      i;
    const apikey_limit_t           *limit;
    ngx_http_apikey_lease_limit_t  *l;

    if (entry->nlimits != account->nbuckets) {
        return 0;
    }

    l = ngx_http_apikey_leases_limit(leases, entry->limits);

    for (i = 0; l && i < account->nbuckets; i++) {
        limit = account->buckets[i].limit;

        if (l->terms.id != limit->id
            || l->terms.rate.token != limit->rate.token
            || l->terms.rate.refill != limit->rate.refill
            || l->terms.rate.capacity != limit->rate.capacity
            || l->terms.rate.tick != limit->rate.tick
            || l->terms.mode != limit->mode
            || l->terms.quota != apikey_limit_quota(limit)
            || (l->terms.quota
                && l->terms.fill != limit->fill * limit->rate.token))
        {
            return 0;
        }

        l = ngx_http_apikey_leases_limit(leases, l->next);
    }

    return i == account->nbuckets;
}


/* Gives the entry's limits back and takes n others. */

static ngx_int_t
ngx_http_apikey_leases_resize(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry, ngx_uint_t n)
{
    uint32_t                        i, next;
    ngx_http_apikey_lease_limit_t  *l;

    next = entry->limits;

    entry->nlimits = 0;
    entry->limits = 0;

    for (i = next; i; i = next) {
        l = &leases->limits[i - 1];
        next = l->next;

        l->next = leases->free_limit;
        leases->free_limit = i;
    }

    if (n > APIKEY_ACCOUNT_LEVELS) {
        return NGX_DECLINED;
    }

    while (entry->nlimits < n) {

        if (leases->free_limit) {
            i = leases->free_limit;
            leases->free_limit = leases->limits[i - 1].next;

        } else if (leases->fresh_limit < leases->nlimits) {
            i = ++leases->fresh_limit;

        } else {
            (void) ngx_http_apikey_leases_resize(leases, entry, 0);
            return NGX_DECLINED;
        }

        leases->limits[i - 1].next = entry->limits;
        entry->limits = i;
        entry->nlimits++;
    }

    return NGX_OK;
}
