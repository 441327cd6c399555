
/*
 * Gauges in shared memory: chained hash over a preallocated array.
 *
 * A worker may die at any line here.  Links are single stores: an entry is
 * filled before it is linked and unlinked before it is filled anew, so a torn
 * change loses an entry for a while and never makes tokens.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "base/clock.h"
#include "base/fetch.h"
#include "limit/heads.h"
#include "limit/table.h"


#define NGX_HTTP_APIKEY_TABLE_SCAN  64       /* entries looked at for one */
#define NGX_HTTP_APIKEY_TABLE_PIECE  4096    /* ... under one lock */
#define NGX_HTTP_APIKEY_TABLE_LOGS   4       /* a part of the room */

/* as much younger than the table must a limit be, by other clocks, to be it */

#define NGX_HTTP_APIKEY_TABLE_SKEW  60000000


typedef struct {
    u_char            holder[16];
    uint64_t          scope;
    uint64_t          id;
    apikey_gauge_t    gauge;
    uint32_t          next;              /* index + 1; 0: none */
    uint32_t          turn;              /* of its last get() */
    uint32_t          age;               /* of the table, when it was seen */
    uint8_t           level;
    uint8_t           unit;
    uint8_t           linked;
} ngx_http_apikey_table_entry_t;


struct ngx_http_apikey_table_s {
    uint64_t                        born;        /* us since the epoch */
    uint32_t                        age;         /* it was born so often */
    uint32_t                        n;
    uint32_t                        fresh;       /* entries never used begin
                                                    here */
    uint32_t                        hand;
    uint32_t                        turn;
    ngx_http_apikey_table_entry_t  *entries;
    ngx_http_apikey_heads_t         heads;       /* n at most */
    apikey_rolling_t               *logs;        /* of rolling windows */
    uint32_t                        nlogs;
    uint32_t                        fresh_log;
    uint32_t                        log_hand;
    uint32_t                        free_log;    /* index + 1; 0: none */
};


/* Of a log that is free: the next one, index + 1. */

#define ngx_http_apikey_table_next(log)  ((log)->sum)

#define ngx_http_apikey_table_id(limit)                                       \
    ((limit)->kind == APIKEY_KIND_CONCURRENT ? 0 : (limit)->id)


static void ngx_http_apikey_table_grow(ngx_http_apikey_table_t *table,
    ngx_http_apikey_table_entry_t *entry);
static ngx_http_apikey_table_entry_t *ngx_http_apikey_table_lookup(
    ngx_http_apikey_table_t *table, ngx_http_apikey_account_t *account,
    const apikey_limit_t *limit);
static ngx_uint_t ngx_http_apikey_table_known(ngx_http_apikey_table_t *table,
    ngx_http_apikey_bucket_t *bucket);
static ngx_int_t ngx_http_apikey_table_log(ngx_http_apikey_table_t *table,
    ngx_http_apikey_table_entry_t *entry, const apikey_limit_t *limit,
    int64_t now);
static void ngx_http_apikey_table_unlog(ngx_http_apikey_table_t *table,
    ngx_http_apikey_table_entry_t *entry, const apikey_limit_t *limit);
static uint32_t *ngx_http_apikey_table_head(ngx_http_apikey_table_t *table,
    const u_char holder[16], uint64_t scope, uint64_t id);
static void ngx_http_apikey_table_link(ngx_http_apikey_table_t *table);
static ngx_http_apikey_table_entry_t *ngx_http_apikey_table_take(
    ngx_http_apikey_table_t *table, int64_t now);
static void ngx_http_apikey_table_unlink(ngx_http_apikey_table_t *table,
    ngx_http_apikey_table_entry_t *entry);


ngx_http_apikey_table_t *
ngx_http_apikey_table_init(ngx_slab_pool_t *shpool, size_t size)
{
    size_t                    n, one, logs;
    ngx_http_apikey_table_t  *table;

    one = sizeof(ngx_http_apikey_table_entry_t) + sizeof(uint32_t);

    if (size < sizeof(ngx_http_apikey_table_t) + one) {
        return NULL;
    }

    size -= sizeof(ngx_http_apikey_table_t);

    logs = size / NGX_HTTP_APIKEY_TABLE_LOGS / sizeof(apikey_rolling_t);
    logs = ngx_min(logs, NGX_MAX_UINT32_VALUE - 1);

    n = (size - logs * sizeof(apikey_rolling_t)) / one;
    n = ngx_min(n, NGX_MAX_UINT32_VALUE - 1);

    /* one piece: the slab rounds each up to whole pages */

    table = ngx_slab_alloc(shpool, sizeof(ngx_http_apikey_table_t)
                                   + logs * sizeof(apikey_rolling_t)
                                   + n * one);
    if (table == NULL) {
        return NULL;
    }

    table->born = apikey_clock_real();
    table->age = 0;
    table->n = n;
    table->fresh = 0;
    table->hand = 0;
    table->turn = 0;
    table->logs = (apikey_rolling_t *) (table + 1);
    table->nlogs = logs;
    table->fresh_log = 0;
    table->log_hand = 0;
    table->free_log = 0;
    table->entries = (ngx_http_apikey_table_entry_t *) (table->logs + logs);

    ngx_http_apikey_heads_init(&table->heads,
                               (uint32_t *) (table->entries + n), n);

    return table;
}


ngx_uint_t
ngx_http_apikey_table_used(ngx_http_apikey_table_t *table,
    ngx_uint_t percent, uint32_t *pos, ngx_http_apikey_limit_used_t *used,
    ngx_uint_t n)
{
    uint32_t                        end;
    ngx_uint_t                      i;
    ngx_http_apikey_table_entry_t  *entry;

    end = ngx_min((uint64_t) *pos + NGX_HTTP_APIKEY_TABLE_PIECE,
                  table->fresh);

    for (i = 0; i < n && *pos < end; (*pos)++) {
        entry = &table->entries[*pos];

        ngx_http_apikey_table_grow(table, entry);

        if (!entry->linked
            || !apikey_gauge_over(&entry->gauge, (unsigned) percent))
        {
            continue;
        }

        ngx_memcpy(used[i].holder, entry->holder, 16);
        used[i].scope = entry->scope;
        used[i].id = entry->id;
        used[i].level = entry->level;
        used[i].unit = entry->unit;
        i++;
    }

    if (*pos >= table->fresh) {
        *pos = 0;
    }

    return i;
}


uint64_t
ngx_http_apikey_table_born(ngx_http_apikey_table_t *table)
{
    return table->born;
}


void
ngx_http_apikey_table_forget(ngx_http_apikey_table_t *table)
{
    table->born = apikey_clock_real();
    table->age++;
}


/* What it said of a quota before the table forgot all is not known. */

static void
ngx_http_apikey_table_grow(ngx_http_apikey_table_t *table,
    ngx_http_apikey_table_entry_t *entry)
{
    apikey_gauge_t  *g;

    if (entry->age == table->age) {
        return;
    }

    g = &entry->gauge;

    if (g->tick == 0 && g->refill != APIKEY_KIND_CONCURRENT) {
        g->bucket.used = APIKEY_GAUGE_UNKNOWN;
    }

    entry->age = table->age;
}


void
ngx_http_apikey_table_begin(ngx_http_apikey_table_t *table)
{
    table->turn++;
}


apikey_gauge_t *
ngx_http_apikey_table_get(ngx_http_apikey_table_t *table,
    ngx_http_apikey_account_t *account, ngx_http_apikey_bucket_t *bucket,
    int64_t now)
{
    uint32_t                       *head;
    const apikey_limit_t           *limit;
    ngx_http_apikey_table_entry_t  *entry;

    limit = bucket->limit;
    entry = ngx_http_apikey_table_lookup(table, account, limit);

    if (entry) {
        entry->turn = table->turn;

        if (ngx_http_apikey_table_log(table, entry, limit, now) != NGX_OK) {
            return NULL;
        }

        apikey_gauge_open(&entry->gauge, limit, &bucket->period, now);
        ngx_http_apikey_table_unlog(table, entry, limit);

        return &entry->gauge;
    }

    entry = ngx_http_apikey_table_take(table, now);
    if (entry == NULL) {
        return NULL;
    }

    ngx_memcpy(entry->holder, account->holder, 16);
    entry->scope = account->scope;
    entry->id = ngx_http_apikey_table_id(limit);
    entry->level = account->level;
    entry->unit = account->unit;
    entry->turn = table->turn;
    entry->age = table->age;

    if (ngx_http_apikey_table_log(table, entry, limit, now) != NGX_OK) {
        return NULL;
    }

    apikey_gauge_init(&entry->gauge, limit, &bucket->period, now);

    if (!ngx_http_apikey_table_known(table, bucket)) {
        entry->gauge.bucket.used = APIKEY_GAUGE_UNKNOWN;
    }

    head = ngx_http_apikey_table_head(table, entry->holder, entry->scope,
                                      entry->id);

    entry->next = *head;

    ngx_memory_barrier();

    entry->linked = 1;

    ngx_memory_barrier();

    *head = entry - table->entries + 1;

    return &entry->gauge;
}


/* Room for the log of what rolls; without any it is like a full table. */

static ngx_int_t
ngx_http_apikey_table_log(ngx_http_apikey_table_t *table,
    ngx_http_apikey_table_entry_t *entry, const apikey_limit_t *limit,
    int64_t now)
{
    ngx_uint_t                      i;
    apikey_rolling_t               *log;
    ngx_http_apikey_table_entry_t  *other;

    if (limit->kind != APIKEY_KIND_ROLLING || entry->gauge.log) {
        return NGX_OK;
    }

    for (i = 0;
         table->free_log == 0 && table->fresh_log == table->nlogs
         && i < NGX_HTTP_APIKEY_TABLE_SCAN;
         i++)
    {
        if (table->log_hand >= table->fresh) {
            table->log_hand = 0;
        }

        other = &table->entries[table->log_hand++];

        if (other->linked && other->gauge.log && other->turn != table->turn
            && apikey_gauge_idle(&other->gauge, now, apikey_clock_real()))
        {
            ngx_http_apikey_table_unlink(table, other);
            ngx_http_apikey_table_unlog(table, other, NULL);
            other->linked = 0;
        }
    }

    if (table->free_log) {
        log = &table->logs[table->free_log - 1];
        table->free_log = ngx_http_apikey_table_next(log);

    } else if (table->fresh_log < table->nlogs) {
        log = &table->logs[table->fresh_log++];

    } else {
        return NGX_DECLINED;
    }

    log->sum = 0;
    log->n = 0;

    entry->gauge.log = log;

    return NGX_OK;
}


/* A log that nobody needs any more. */

static void
ngx_http_apikey_table_unlog(ngx_http_apikey_table_t *table,
    ngx_http_apikey_table_entry_t *entry, const apikey_limit_t *limit)
{
    apikey_rolling_t  *log;

    log = entry->gauge.log;

    if (log == NULL || (limit && limit->kind == APIKEY_KIND_ROLLING)) {
        return;
    }

    entry->gauge.log = NULL;

    ngx_http_apikey_table_next(log) = table->free_log;
    log->n = 0;

    table->free_log = log - table->logs + 1;
}


apikey_gauge_t *
ngx_http_apikey_table_find(ngx_http_apikey_table_t *table,
    ngx_http_apikey_account_t *account, const apikey_limit_t *limit)
{
    ngx_http_apikey_table_entry_t  *entry;

    entry = ngx_http_apikey_table_lookup(table, account, limit);

    return entry ? &entry->gauge : NULL;
}


static ngx_http_apikey_table_entry_t *
ngx_http_apikey_table_lookup(ngx_http_apikey_table_t *table,
    ngx_http_apikey_account_t *account, const apikey_limit_t *limit)
{
    uint32_t                        i;
    uint64_t                        id;
    ngx_http_apikey_table_entry_t  *entry;

    if (table->heads.torn) {
        ngx_http_apikey_table_link(table);
    }

    id = ngx_http_apikey_table_id(limit);

    for (i = *ngx_http_apikey_table_head(table, account->holder,
                                         account->scope, id);
         i;
         i = entry->next)
    {
        entry = &table->entries[i - 1];

        if (entry->id == id && entry->scope == account->scope
            && entry->level == account->level && entry->unit == account->unit
            && ngx_memcmp(entry->holder, account->holder, 16) == 0)
        {
            ngx_http_apikey_table_grow(table, entry);
            return entry;
        }
    }

    return NULL;
}


void
ngx_http_apikey_table_ahead(ngx_http_apikey_table_t *table,
    const ngx_http_apikey_account_t *account, const apikey_limit_t *limit,
    ngx_http_apikey_limit_at_t *at)
{
    uint32_t  i, *head;

    head = ngx_http_apikey_table_head(table, account->holder, account->scope,
                                      ngx_http_apikey_table_id(limit));
    at->link = head;
    at->entry = NULL;

    i = *(volatile uint32_t *) head;

    if (i == 0 || i > table->n) {
        return;
    }

    at->entry = &table->entries[i - 1];

    apikey_fetch_all(at->entry, sizeof(ngx_http_apikey_table_entry_t));
}


size_t
ngx_http_apikey_table_entry_size(void)
{
    return sizeof(ngx_http_apikey_table_entry_t);
}


/* Of a quota that nobody has counted but this table. */

static ngx_uint_t
ngx_http_apikey_table_known(ngx_http_apikey_table_t *table,
    ngx_http_apikey_bucket_t *bucket)
{
    const apikey_limit_t  *limit;

    limit = bucket->limit;

    return !apikey_limit_quota(limit)
           || limit->made > table->born + NGX_HTTP_APIKEY_TABLE_SKEW
           || (limit->kind == APIKEY_KIND_CALENDAR
               && bucket->period.start >= table->born);
}


static uint32_t *
ngx_http_apikey_table_head(ngx_http_apikey_table_t *table,
    const u_char holder[16], uint64_t scope, uint64_t id)
{
    uint64_t  h, part;

    ngx_memcpy(&h, holder, 8);
    ngx_memcpy(&part, holder + 8, 8);

    h = (h ^ part) * 0x9e3779b97f4a7c15ULL;
    h = (h ^ (h >> 32) ^ scope ^ id) * 0x9e3779b97f4a7c15ULL;

    return ngx_http_apikey_heads_at(&table->heads, h);
}


static void
ngx_http_apikey_table_link(ngx_http_apikey_table_t *table)
{
    uint32_t                        i, *head;
    ngx_http_apikey_table_entry_t  *entry;

    ngx_http_apikey_heads_begin(&table->heads, table->fresh);

    for (i = 0; i < table->fresh; i++) {
        entry = &table->entries[i];

        if (entry->linked) {
            head = ngx_http_apikey_table_head(table, entry->holder,
                                              entry->scope, entry->id);
            entry->next = *head;
            *head = i + 1;
        }
    }

    ngx_http_apikey_heads_end(&table->heads);
}


/* An entry that is used by nobody, unlinked. */

static ngx_http_apikey_table_entry_t *
ngx_http_apikey_table_take(ngx_http_apikey_table_t *table, int64_t now)
{
    ngx_uint_t                      i;
    ngx_http_apikey_table_entry_t  *entry;

    if (table->fresh < table->n) {

        if (ngx_http_apikey_heads_few(&table->heads, table->fresh)) {
            ngx_http_apikey_table_link(table);
        }

        entry = &table->entries[table->fresh];
        ngx_memzero(entry, sizeof(ngx_http_apikey_table_entry_t));
        table->fresh++;
        return entry;
    }

    for (i = 0; i < NGX_HTTP_APIKEY_TABLE_SCAN && i < table->n; i++) {

        if (table->hand >= table->n) {
            table->hand = 0;
        }

        entry = &table->entries[table->hand++];

        if (entry->linked) {

            if (entry->turn == table->turn) {
                continue;
            }

            if (!apikey_gauge_idle(&entry->gauge, now, apikey_clock_real())) {
                continue;
            }

            ngx_http_apikey_table_unlink(table, entry);
            ngx_http_apikey_table_unlog(table, entry, NULL);
            entry->linked = 0;
        }

        return entry;
    }

    return NULL;
}


static void
ngx_http_apikey_table_unlink(ngx_http_apikey_table_t *table,
    ngx_http_apikey_table_entry_t *entry)
{
    uint32_t  *link, i;

    i = entry - table->entries + 1;

    link = ngx_http_apikey_table_head(table, entry->holder, entry->scope,
                                      entry->id);

    while (*link && *link != i) {
        link = &table->entries[*link - 1].next;
    }

    if (*link) {
        *link = entry->next;
    }

    ngx_memory_barrier();
}
