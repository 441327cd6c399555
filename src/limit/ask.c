
/*
 * LEASE: asking Redis for tokens.  One call an account is in flight on this
 * node, whichever worker has sent it.
 *
 * Asks are malloc'ed and kept for the next ones; stop() frees them.  A call
 * whose worker is gone is given up by whoever finds it: nobody will get its
 * answer.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/number.h"
#include "limit/alone.h"
#include "limit/script.h"


#define NGX_HTTP_APIKEY_ASK_LATE   100000    /* us behind the deadline */
#define NGX_HTTP_APIKEY_ASK_SLOTS  100000    /* us between two attempts */


struct ngx_http_apikey_ask_s {
    ngx_http_apikey_redis_call_t   call;
    ngx_http_apikey_limiter_t     *limiter;
    ngx_http_apikey_ask_t         *next;         /* free ones */
    uint64_t                       number;
    int64_t                        sent;
    uint32_t                       entry;
    unsigned                       resent:1;     /* after NOSCRIPT */

    ngx_http_apikey_account_t      account;      /* no buckets */
    apikey_account_ask_t           ask;
    apikey_account_call_t          terms;
    apikey_account_limit_t         limits[APIKEY_ACCOUNT_LEVELS];
};


static ngx_http_apikey_ask_t *ngx_http_apikey_ask_get(
    ngx_http_apikey_limiter_t *l);
static void ngx_http_apikey_ask_put(ngx_http_apikey_ask_t *ask);
static ngx_int_t ngx_http_apikey_ask_fill(ngx_http_apikey_ask_t *ask,
    ngx_uint_t back);
static ngx_uint_t ngx_http_apikey_ask_limits(ngx_http_apikey_ask_t *ask,
    ngx_http_apikey_leases_t *leases, ngx_http_apikey_lease_entry_t *entry,
    int64_t now);
static uint64_t ngx_http_apikey_ask_sums(ngx_http_apikey_ask_t *ask,
    ngx_http_apikey_lease_entry_t *entry, uint64_t need, uint64_t least,
    ngx_uint_t back);
static ngx_int_t ngx_http_apikey_ask_send(ngx_http_apikey_ask_t *ask);
static void ngx_http_apikey_ask_handler(ngx_http_apikey_redis_call_t *call,
    struct redisReply *reply);
static ngx_int_t ngx_http_apikey_ask_error(ngx_http_apikey_ask_t *ask,
    ngx_str_t *text);
static ngx_int_t ngx_http_apikey_ask_answer(ngx_http_apikey_ask_t *ask,
    ngx_str_t *text);
static void ngx_http_apikey_ask_acked(ngx_http_apikey_ask_t *ask,
    uint64_t era, int64_t redis);
static void ngx_http_apikey_ask_granted(ngx_http_apikey_ask_t *ask,
    const apikey_account_grant_t *grant, apikey_bucket_t *levels,
    int64_t now);
static void ngx_http_apikey_ask_failed(ngx_http_apikey_ask_t *ask);


void
ngx_http_apikey_ask_stop(ngx_http_apikey_limiter_t *l)
{
    ngx_http_apikey_ask_t  *ask;

    while (l->asks) {
        ask = l->asks;
        l->asks = ask->next;
        ngx_free(ask);
    }
}


void
ngx_http_apikey_ask_ahead(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d)
{
    ngx_uint_t  i;

    for (i = 0; i < d->naccounts; i++) {

        if (d->parts[i].ahead) {
            (void) ngx_http_apikey_ask(l, d->parts[i].entry, 0);
        }
    }
}


ngx_int_t
ngx_http_apikey_ask(ngx_http_apikey_limiter_t *l, uint32_t index,
    ngx_uint_t back)
{
    ngx_int_t               rc;
    ngx_slab_pool_t        *shpool;
    ngx_http_apikey_ask_t  *ask;

    if (!ngx_http_apikey_limiter_ready(l)) {
        return NGX_ERROR;
    }

    ask = ngx_http_apikey_ask_get(l);
    if (ask == NULL) {
        return NGX_ERROR;
    }

    ask->entry = index;

    shpool = l->conf.shpool;

    ngx_shmtx_lock(&shpool->mutex);
    rc = ngx_http_apikey_ask_fill(ask, back);
    ngx_shmtx_unlock(&shpool->mutex);

    if (rc != NGX_OK) {
        ngx_http_apikey_ask_put(ask);
        return rc;
    }

    if (ngx_http_apikey_ask_send(ask) == NGX_OK) {
        return NGX_OK;
    }

    ngx_shmtx_lock(&shpool->mutex);
    (void) apikey_lease_timeout(&l->conf.sh->leases->entries[index].lease,
                                ask->number);
    ngx_http_apikey_rolls_keep(l->conf.sh->leases, &ask->account, ask->limits,
                               ask->terms.nlimits);
    ngx_shmtx_unlock(&shpool->mutex);

    ngx_http_apikey_ask_put(ask);

    return NGX_ERROR;
}


static ngx_http_apikey_ask_t *
ngx_http_apikey_ask_get(ngx_http_apikey_limiter_t *l)
{
    ngx_http_apikey_ask_t  *ask;

    ask = l->asks;

    if (ask) {
        l->asks = ask->next;

    } else {
        ask = ngx_alloc(sizeof(ngx_http_apikey_ask_t), l->conf.log);
        if (ask == NULL) {
            return NULL;
        }
    }

    ngx_memzero(ask, offsetof(ngx_http_apikey_ask_t, limits));

    ask->limiter = l;
    ask->call.handler = ngx_http_apikey_ask_handler;
    ask->call.data = ask;

    return ask;
}


static void
ngx_http_apikey_ask_put(ngx_http_apikey_ask_t *ask)
{
    ask->next = ask->limiter->asks;
    ask->limiter->asks = ask;
}


/* Under the zone's mutex: all that is sent is copied out. */

static ngx_int_t
ngx_http_apikey_ask_fill(ngx_http_apikey_ask_t *ask, ngx_uint_t back)
{
    int64_t                         now;
    uint64_t                        need, least;
    apikey_account_call_t          *terms;
    ngx_http_apikey_leases_t       *leases;
    ngx_http_apikey_limiter_t      *l;
    ngx_http_apikey_lease_entry_t  *entry;

    l = ask->limiter;
    leases = l->conf.sh->leases;
    entry = &leases->entries[ask->entry];

    now = apikey_clock_boot();

    /* a call that names no limit would say that all of them are gone */

    if (!entry->linked || entry->nlimits == 0) {
        return NGX_DECLINED;
    }

    if (entry->lease.call && !ngx_http_apikey_ask_stale(l, entry, now)) {
        return NGX_BUSY;
    }

    ngx_memcpy(ask->account.root, entry->root, 16);
    ngx_memcpy(ask->account.holder, entry->holder, 16);
    ask->account.level = entry->level;
    ask->account.unit = entry->unit;
    ask->account.scope = entry->scope;

    terms = &ask->terms;

    terms->limits = ask->limits;
    terms->nlimits = ngx_http_apikey_ask_limits(ask, leases, entry, now);
    terms->slots = entry->conf.slots;
    terms->lease = entry->conf.time;
    terms->horizon = entry->conf.horizon;

    ngx_http_apikey_wait_need(l, ask->entry, &need, &least);

    ask->sent = now;
    ask->number = ngx_http_apikey_ask_sums(ask, entry, need, least, back);

    entry->asked = now;
    entry->asker = l->id;

    return NGX_OK;
}


/* What is settled goes along, or what this node owes: then nothing comes. */

static uint64_t
ngx_http_apikey_ask_sums(ngx_http_apikey_ask_t *ask,
    ngx_http_apikey_lease_entry_t *entry, uint64_t need, uint64_t least,
    ngx_uint_t back)
{
    uint64_t                    number;
    apikey_tally_t             *tally, none;
    apikey_account_sums_t       owed;
    ngx_http_apikey_limiter_t  *l;

    l = ask->limiter;

    if (!ngx_http_apikey_alone_sums(l, entry, ask->limits, ask->terms.nlimits,
                                    &owed))
    {
        tally = ngx_http_apikey_claims_tally(l, entry, ask->sent);

        return apikey_lease_ask(&entry->lease, tally, &entry->conf, need,
                                least, back, ask->sent, &ask->ask,
                                &ask->terms.sums);
    }

    ngx_memzero(&none, sizeof(apikey_tally_t));

    number = apikey_lease_ask(&entry->lease, &none, &entry->conf, 0, least,
                              back, ask->sent, &ask->ask, &ask->terms.sums);

    ask->ask.want = 0;
    ask->terms.sums = owed;

    return number;
}


static ngx_uint_t
ngx_http_apikey_ask_limits(ngx_http_apikey_ask_t *ask,
    ngx_http_apikey_leases_t *leases, ngx_http_apikey_lease_entry_t *entry,
    int64_t now)
{
    int64_t                         redis;
    ngx_uint_t                      n;
    ngx_http_apikey_lease_limit_t  *limit;

    redis = ngx_http_apikey_leases_time(leases, now);
    n = 0;

    for (limit = ngx_http_apikey_leases_limit(leases, entry->limits);
         limit && n < APIKEY_ACCOUNT_LEVELS;
         limit = ngx_http_apikey_leases_limit(leases, limit->next))
    {
        ask->limits[n] = limit->terms;
        ask->limits[n].touched = ngx_http_apikey_leases_touched(limit, redis);
        ngx_http_apikey_rolls_lease(limit, &ask->limits[n++]);
    }

    return n;
}


ngx_uint_t
ngx_http_apikey_ask_stale(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_lease_entry_t *entry, int64_t now)
{
    if (entry->lease.call == 0
        || (now - entry->asked < (int64_t) l->conf.redis->timeout * 1000
                                 + NGX_HTTP_APIKEY_ASK_LATE
            && !ngx_http_apikey_holds_gone(l->conf.sh->holds, entry->asker)))
    {
        return 0;
    }

    return apikey_lease_timeout(&entry->lease, entry->lease.call);
}


static ngx_int_t
ngx_http_apikey_ask_send(ngx_http_apikey_ask_t *ask)
{
    u_char                     *p;
    ngx_str_t                   argv[7], *prefix;
    ngx_uint_t                  i;
    ngx_http_apikey_limiter_t  *l;

    l = ask->limiter;
    prefix = &l->conf.redis->prefix;

    if (ngx_http_apikey_limiter_scratch(l,
               ngx_http_apikey_script_size(prefix, ask->terms.nlimits)
               + NGX_HTTP_APIKEY_SCRIPT_HEAD)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_str_set(&argv[2], "1");

    argv[3].data = l->scratch;
    p = ngx_http_apikey_script_key(l->scratch, prefix, &ask->account);
    argv[3].len = p - argv[3].data;

    argv[5].data = p;
    p = ngx_http_apikey_script_call(p, &ask->terms);
    p = ngx_http_apikey_script_ask(p, &ask->ask);

    for (i = 0; i < ask->terms.nlimits; i++) {
        p = ngx_http_apikey_script_limit(p, &ask->limits[i]);
    }

    argv[5].len = p - argv[5].data;

    apikey_stats_add(&l->conf.stats->leases, 1);

    return ngx_http_apikey_limiter_send(l, &ask->call, p,
                                        NGX_HTTP_APIKEY_SCRIPT_LEASE, 0,
                                        ask->resent, 6, argv);
}


static void
ngx_http_apikey_ask_handler(ngx_http_apikey_redis_call_t *call,
    struct redisReply *reply)
{
    ngx_int_t                      rc;
    ngx_str_t                      text;
    ngx_http_apikey_ask_t         *ask;
    ngx_http_apikey_redis_kind_e   kind;

    ask = call->data;

    rc = NGX_ERROR;

    if (call->again && ngx_http_apikey_ask_send(ask) == NGX_OK) {
        return;
    }

    if (reply) {
        kind = ngx_http_apikey_redis_reply(reply, &text);

        if (kind == NGX_HTTP_APIKEY_REDIS_STRING) {
            rc = ngx_http_apikey_ask_answer(ask, &text);

        } else if (kind == NGX_HTTP_APIKEY_REDIS_ERROR) {
            rc = ngx_http_apikey_ask_error(ask, &text);
        }
    }

    if (rc == NGX_AGAIN) {
        return;
    }

    if (rc == NGX_ERROR) {
        ngx_http_apikey_ask_failed(ask);

    } else {
        ngx_http_apikey_wait_wake(ask->limiter, ask->entry, 1);

        if (ask->terms.slots) {
            ngx_http_apikey_yield_freed(ask->limiter, ask->entry);
        }
    }

    ngx_http_apikey_ask_put(ask);
}


/* NGX_AGAIN: sent once more, which nothing but NOSCRIPT allows. */

static ngx_int_t
ngx_http_apikey_ask_error(ngx_http_apikey_ask_t *ask, ngx_str_t *text)
{
    if (!ask->resent && text->len >= sizeof("NOSCRIPT") - 1
        && ngx_strncmp(text->data, "NOSCRIPT", sizeof("NOSCRIPT") - 1) == 0)
    {
        ask->resent = 1;

        if (ngx_http_apikey_ask_send(ask) == NGX_OK) {
            return NGX_AGAIN;
        }
    }

    ngx_http_apikey_limiter_complain(ask->limiter, NGX_LOG_ERR,
                                     "apikey_redis: no lease: ", text);

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_apikey_ask_answer(ngx_http_apikey_ask_t *ask, ngx_str_t *text)
{
    int64_t                          now;
    ngx_uint_t                       i;
    ngx_slab_pool_t                 *shpool;
    apikey_bucket_t                  levels[APIKEY_ACCOUNT_LEVELS];
    apikey_account_grant_t           grant;
    ngx_http_apikey_limiter_t       *l;
    ngx_http_apikey_limit_sh_t      *sh;
    ngx_http_apikey_lease_entry_t   *entry;
    ngx_http_apikey_script_reply_t   reply;

    if (ngx_http_apikey_script_reply(&reply, text) != NGX_OK
        || ngx_http_apikey_script_grant(&reply, &grant) != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (i = 0; i < ask->terms.nlimits; i++) {
        if (ngx_http_apikey_script_level(&reply, &levels[i]) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (ngx_http_apikey_script_end(&reply) != NGX_OK) {
        return NGX_ERROR;
    }

    l = ask->limiter;
    sh = l->conf.sh;
    shpool = l->conf.shpool;
    entry = &sh->leases->entries[ask->entry];

    ngx_shmtx_lock(&shpool->mutex);

    now = apikey_clock_boot();

    (void) ngx_http_apikey_breaker_result(&sh->breaker, now, 1);

    ngx_http_apikey_leases_clock(sh->leases, now, reply.now);

    ngx_http_apikey_ask_acked(ask, grant.era, reply.now);

    if (apikey_lease_answer(&entry->lease, ask->number, &ask->ask, &grant,
                            ask->sent, now, (uint64_t) ngx_random()))
    {
        ngx_http_apikey_ask_granted(ask, &grant, levels, now);

    } else {
        ngx_http_apikey_leases_queue(sh->leases, entry, now, now);
    }

    ngx_shmtx_unlock(&shpool->mutex);

    ngx_http_apikey_renew_arm(l);

    return NGX_OK;
}


/* The lease may be void, and its entry another account's: all the same. */

static void
ngx_http_apikey_ask_acked(ngx_http_apikey_ask_t *ask, uint64_t era,
    int64_t redis)
{
    apikey_account_sums_t      *sums;
    ngx_http_apikey_limiter_t  *l;

    l = ask->limiter;
    sums = &ask->terms.sums;

    l->conf.tallies->file->owed.contact = redis;

    if (sums->node & APIKEY_ACCOUNT_CHARGE) {
        ngx_http_apikey_alone_acked(l, &ask->account, ask->limits, sums);
        return;
    }

    apikey_tallies_acked(l->conf.tallies, ask->account.holder,
                         ask->account.level, ask->account.unit,
                         ask->account.scope, sums, era);
}


static void
ngx_http_apikey_ask_granted(ngx_http_apikey_ask_t *ask,
    const apikey_account_grant_t *grant, apikey_bucket_t *levels,
    int64_t now)
{
    ngx_uint_t                      i;
    ngx_http_apikey_leases_t       *leases;
    ngx_http_apikey_lease_entry_t  *entry;
    ngx_http_apikey_lease_limit_t  *limit;

    leases = ask->limiter->conf.sh->leases;
    entry = &leases->entries[ask->entry];

    leases->trip = (7 * leases->trip + (uint64_t) (now - ask->sent)) / 8;

    entry->conf.trip = leases->trip;

    /* a period that ends gives anew */

    if (grant->life < entry->conf.time) {
        entry->lease.hold = ngx_min(entry->lease.hold,
                                    now + (int64_t) grant->life);
    }

    /* a slot does not refill with time: it is free when some request ends */

    if (entry->conf.slots) {
        entry->lease.hold = ngx_min(entry->lease.hold,
                                    now + NGX_HTTP_APIKEY_ASK_SLOTS);
    }

    limit = ngx_http_apikey_leases_limit(leases, entry->limits);

    for (i = 0; limit && i < ask->terms.nlimits; i++) {
        limit->seen = levels[i];
        limit = ngx_http_apikey_leases_limit(leases, limit->next);
    }

    entry->out = grant->out;

    ngx_http_apikey_leases_told(leases, entry, now);

    ngx_http_apikey_leases_queue(leases, entry, now,
                  now + apikey_lease_look(&entry->lease, &entry->conf, now));
}


static void
ngx_http_apikey_ask_failed(ngx_http_apikey_ask_t *ask)
{
    int64_t                         now;
    ngx_slab_pool_t                *shpool;
    ngx_http_apikey_limiter_t      *l;
    ngx_http_apikey_lease_entry_t  *entry;

    l = ask->limiter;
    shpool = l->conf.shpool;
    entry = &l->conf.sh->leases->entries[ask->entry];

    ngx_shmtx_lock(&shpool->mutex);

    now = apikey_clock_boot();

    (void) apikey_lease_timeout(&entry->lease, ask->number);

    ngx_http_apikey_rolls_keep(l->conf.sh->leases, &ask->account, ask->limits,
                               ask->terms.nlimits);

    /* what is owed is said again */

    if (entry->linked) {
        ngx_http_apikey_leases_queue(l->conf.sh->leases, entry, now,
                                     now + (int64_t) (entry->conf.time / 2));
    }

    ngx_shmtx_unlock(&shpool->mutex);

    ngx_http_apikey_limiter_failed(l);

    ngx_http_apikey_wait_wake(l, ask->entry, 0);
}
