
/*
 * TAKE: one script over those accounts of a request that no lease pays for.
 *
 * It is never sent again but after NOSCRIPT, which says that it has not run:
 * without an answer nobody knows whether it took, and the customer would pay
 * twice.  What other accounts hold meanwhile is put back if it says no.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/number.h"
#include "limit/limiter.h"
#include "limit/script.h"


static ngx_uint_t ngx_http_apikey_take_mark(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d);
static apikey_tally_t *ngx_http_apikey_take_tally(
    ngx_http_apikey_decision_t *d, ngx_uint_t i, int64_t now);
static void ngx_http_apikey_take_touched(ngx_http_apikey_leases_t *leases,
    const ngx_http_apikey_lease_entry_t *entry,
    ngx_http_apikey_account_t *account, int64_t now);
static u_char *ngx_http_apikey_take_block(u_char *p,
    ngx_http_apikey_decision_t *d, ngx_uint_t i);
static void ngx_http_apikey_take_handler(ngx_http_apikey_redis_call_t *call,
    struct redisReply *reply);
static ngx_int_t ngx_http_apikey_take_error(ngx_http_apikey_decision_t *d,
    ngx_str_t *text);
static ngx_int_t ngx_http_apikey_take_check(ngx_http_apikey_decision_t *d,
    ngx_str_t *text);
static ngx_int_t ngx_http_apikey_take_answer(ngx_http_apikey_decision_t *d,
    ngx_str_t *text);
static void ngx_http_apikey_take_others(ngx_http_apikey_decision_t *d,
    int64_t now);
static ngx_uint_t ngx_http_apikey_take_unknown(
    ngx_http_apikey_decision_t *d, uint64_t now);
static void ngx_http_apikey_take_account(ngx_http_apikey_decision_t *d,
    ngx_uint_t i, ngx_http_apikey_script_reply_t *reply, int64_t now);
static uint64_t ngx_http_apikey_take_level(ngx_http_apikey_decision_t *d,
    ngx_uint_t i, ngx_http_apikey_bucket_t *out,
    ngx_http_apikey_script_reply_t *reply, apikey_bucket_t *level);


ngx_int_t
ngx_http_apikey_take(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d)
{
    size_t       size;
    u_char      *p, number[APIKEY_UINT_TEXT_LEN];
    ngx_str_t   *argv, *prefix;
    ngx_uint_t   i, k, n;

    prefix = &l->conf.redis->prefix;

    n = ngx_http_apikey_take_mark(l, d);
    d->over = 0;

    size = (5 + 2 * n) * sizeof(ngx_str_t) + NGX_HTTP_APIKEY_SCRIPT_HEAD;

    for (i = 0; i < d->naccounts; i++) {
        size += ngx_http_apikey_script_size(prefix, d->accounts[i].nbuckets);
    }

    if (ngx_http_apikey_limiter_scratch(l, size) != NGX_OK) {
        return NGX_ERROR;
    }

    argv = (ngx_str_t *) l->scratch;
    p = (u_char *) (argv + 5 + 2 * n);

    argv[2].data = number;
    argv[2].len = (u_char *) apikey_uint_format((char *) number, n) - number;

    for (i = 0, k = 3; i < d->naccounts; i++) {

        if (!d->parts[i].taken) {
            continue;
        }

        argv[k].data = p;
        p = ngx_http_apikey_script_key(p, prefix, &d->accounts[i]);
        argv[k].len = p - argv[k].data;

        argv[k + n + 1].data = p;
        p = ngx_http_apikey_take_block(p, d, i);
        argv[k + n + 1].len = p - argv[k + n + 1].data;

        k++;
    }

    d->call.handler = ngx_http_apikey_take_handler;
    d->call.data = d;

    return ngx_http_apikey_limiter_send(l, &d->call, p,
                                        NGX_HTTP_APIKEY_SCRIPT_TAKE,
                                        d->complete, d->resent, 4 + 2 * n,
                                        argv);
}


/* Which accounts are asked about, and what settlements go along. */

static ngx_uint_t
ngx_http_apikey_take_mark(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_decision_t *d)
{
    int64_t                         now;
    ngx_uint_t                      i, n;
    ngx_http_apikey_part_t         *part;
    ngx_http_apikey_lease_entry_t  *entry;

    n = 0;

    ngx_shmtx_lock(&l->conf.shpool->mutex);

    now = apikey_clock_boot();

    for (i = 0; i < d->naccounts; i++) {
        part = &d->parts[i];

        part->taken = d->claims[i].state == APIKEY_CLAIM_DIRECT
                      || (d->claims[i].cost == 0 && !d->held);

        if (!part->taken) {
            continue;
        }

        entry = ngx_http_apikey_claims_entry(l, part);

        apikey_tally_send(ngx_http_apikey_take_tally(d, i, now),
                          NGX_HTTP_APIKEY_LEASES_HORIZON, now, &part->sums);
        ngx_http_apikey_rolls_take(l->conf.sh->leases, entry,
                                   &d->accounts[i]);
        ngx_http_apikey_take_touched(l->conf.sh->leases, entry,
                                     &d->accounts[i], now);
        n++;
    }

    ngx_shmtx_unlock(&l->conf.shpool->mutex);

    return n;
}


/* Where there is no entry nobody else tells it; who looks begins none. */

static apikey_tally_t *
ngx_http_apikey_take_tally(ngx_http_apikey_decision_t *d, ngx_uint_t i,
    int64_t now)
{
    ngx_http_apikey_limiter_t  *l;

    l = d->limiter;

    return d->look && d->parts[i].none
           ? &l->conf.tallies->file->none
           : ngx_http_apikey_claims_tally(l, &d->accounts[i], now);
}


/* Of which quotas this node has seen any use: Postgres may not have it yet. */

static void
ngx_http_apikey_take_touched(ngx_http_apikey_leases_t *leases,
    const ngx_http_apikey_lease_entry_t *entry,
    ngx_http_apikey_account_t *account, int64_t now)
{
    int64_t                         redis;
    ngx_uint_t                      k;
    ngx_http_apikey_lease_limit_t  *limit;

    redis = ngx_http_apikey_leases_time(leases, now);
    limit = ngx_http_apikey_leases_limit(leases, entry->limits);

    for (k = 0; limit && k < account->nbuckets; k++) {
        account->buckets[k].touched
                           = limit->terms.id == account->buckets[k].limit->id
                             && ngx_http_apikey_leases_touched(limit, redis);

        limit = ngx_http_apikey_leases_limit(leases, limit->next);
    }
}


static u_char *
ngx_http_apikey_take_block(u_char *p, ngx_http_apikey_decision_t *d,
    ngx_uint_t i)
{
    ngx_uint_t                  k;
    apikey_lease_conf_t         conf;
    apikey_account_call_t       call;
    apikey_account_limit_t      limit;
    ngx_http_apikey_account_t  *account;

    account = &d->accounts[i];

    ngx_http_apikey_leases_conf(&conf, account);

    call.slots = conf.slots;
    call.lease = conf.time;
    call.horizon = conf.horizon;
    call.sums = d->parts[i].sums;

    p = ngx_http_apikey_script_call(p, &call);
    p = ngx_http_apikey_script_cost(p, account->whole ? APIKEY_ACCOUNT_WHOLE
                                                      : account->cost);

    for (k = 0; k < account->nbuckets; k++) {
        ngx_http_apikey_leases_terms(&limit, &account->buckets[k]);
        limit.touched |= account->buckets[k].touched;
        p = ngx_http_apikey_script_limit(p, &limit);
    }

    return p;
}


static void
ngx_http_apikey_take_handler(ngx_http_apikey_redis_call_t *call,
    struct redisReply *reply)
{
    ngx_int_t                      rc;
    ngx_str_t                      text;
    ngx_http_apikey_decision_t    *d;
    ngx_http_apikey_redis_kind_e   kind;

    d = call->data;

    rc = NGX_ERROR;

    if (call->again && ngx_http_apikey_take(d->limiter, d) == NGX_OK) {
        return;
    }

    if (reply) {
        kind = ngx_http_apikey_redis_reply(reply, &text);

        if (kind == NGX_HTTP_APIKEY_REDIS_STRING
            && ngx_http_apikey_take_check(d, &text) == NGX_OK)
        {
            rc = ngx_http_apikey_take_answer(d, &text);

            if (rc == NGX_AGAIN) {
                ngx_http_apikey_yield_again(d);
                return;
            }

            ngx_http_apikey_decide_taken(d, rc);
            return;
        }

        if (kind == NGX_HTTP_APIKEY_REDIS_ERROR) {
            rc = ngx_http_apikey_take_error(d, &text);
        }
    }

    if (rc != NGX_AGAIN) {
        ngx_http_apikey_limiter_failed(d->limiter);
        ngx_http_apikey_decide_failed(d);
    }
}


/* NGX_AGAIN: sent once more, which nothing but NOSCRIPT allows. */

static ngx_int_t
ngx_http_apikey_take_error(ngx_http_apikey_decision_t *d, ngx_str_t *text)
{
    ngx_http_apikey_limiter_t  *l;

    l = d->limiter;

    if (!d->resent && text->len >= sizeof("NOSCRIPT") - 1
        && ngx_strncmp(text->data, "NOSCRIPT", sizeof("NOSCRIPT") - 1) == 0)
    {
        d->resent = 1;

        if (ngx_http_apikey_take(l, d) == NGX_OK) {
            return NGX_AGAIN;
        }
    }

    ngx_http_apikey_limiter_complain(l, NGX_LOG_ERR,
                                     "apikey_redis: no decision: ", text);

    return NGX_ERROR;
}


/* It is what TAKE answers to this call. */

static ngx_int_t
ngx_http_apikey_take_check(ngx_http_apikey_decision_t *d, ngx_str_t *text)
{
    uint64_t                         era, leased, cost;
    ngx_uint_t                       i, k, refused;
    apikey_bucket_t                  level;
    ngx_http_apikey_bucket_t        *out;
    ngx_http_apikey_account_t       *account;
    ngx_http_apikey_script_reply_t   reply;

    if (ngx_http_apikey_script_reply(&reply, text) != NGX_OK) {
        return NGX_ERROR;
    }

    refused = 0;

    for (i = 0; i < d->naccounts; i++) {
        account = &d->accounts[i];

        if (!d->parts[i].taken) {
            continue;
        }

        if (ngx_http_apikey_script_account(&reply, &era, &leased, &cost)
            != NGX_OK) {
            return NGX_ERROR;
        }

        for (k = 0; k < account->nbuckets; k++) {
            out = &account->buckets[k];

            if (ngx_http_apikey_script_level(&reply, &level) != NGX_OK) {
                return NGX_ERROR;
            }

            refused |= apikey_level_wait(&level, &out->limit->rate,
                             ngx_http_apikey_decide_need(out->limit, account),
                             reply.now)
                       != 0;
        }
    }

    if (!reply.taken && !refused) {
        return NGX_ERROR;
    }

    return ngx_http_apikey_script_end(&reply);
}


/*
 * NGX_OK admitted, NGX_DECLINED refused, NGX_ERROR: yes, but too late,
 * NGX_AGAIN: once more, when what this node holds has gone back, or when it is
 * known what is left.
 */

static ngx_int_t
ngx_http_apikey_take_answer(ngx_http_apikey_decision_t *d, ngx_str_t *text)
{
    int64_t                          now;
    ngx_uint_t                       i, again;
    ngx_slab_pool_t                 *shpool;
    apikey_lease_decision_e          rc;
    ngx_http_apikey_limiter_t       *l;
    ngx_http_apikey_limit_sh_t      *sh;
    ngx_http_apikey_script_reply_t   reply;

    l = d->limiter;
    sh = l->conf.sh;
    shpool = l->conf.shpool;

    (void) ngx_http_apikey_script_reply(&reply, text);

    d->known = 1;
    d->decided_at = reply.now;

    ngx_shmtx_lock(&shpool->mutex);

    now = apikey_clock_boot();

    (void) ngx_http_apikey_breaker_result(&sh->breaker, now, 1);

    ngx_http_apikey_leases_clock(sh->leases, now, reply.now);

    l->conf.tallies->file->owed.contact = reply.now;

    for (i = 0; i < d->naccounts; i++) {
        if (d->parts[i].taken) {
            ngx_http_apikey_take_account(d, i, &reply, now);
        }
    }

    rc = apikey_lease_taken(d->claims, d->naccounts, apikey_clock_boot(),
                            reply.taken);

    ngx_http_apikey_claims_settled(l, d, rc == APIKEY_LEASE_ADMITTED);

    ngx_http_apikey_take_others(d, now);

    again = (rc == APIKEY_LEASE_REFUSED && ngx_http_apikey_yield(d))
            || (rc == APIKEY_LEASE_ADMITTED
                && ngx_http_apikey_known_unpaid(l, d, now));

    ngx_shmtx_unlock(&shpool->mutex);

    if (again || rc == APIKEY_LEASE_ADMITTED) {
        return again ? NGX_AGAIN : NGX_OK;
    }

    d->unknown = rc != APIKEY_LEASE_UNAVAILABLE
                 && ngx_http_apikey_take_unknown(d, reply.now);

    if (d->unknown || rc == APIKEY_LEASE_UNAVAILABLE) {
        d->known = 0;
        return NGX_ERROR;
    }

    return NGX_DECLINED;
}


/* What TAKE was not asked about, with what has been put back. */

static void
ngx_http_apikey_take_others(ngx_http_apikey_decision_t *d, int64_t now)
{
    ngx_uint_t                      i;
    ngx_http_apikey_lease_entry_t  *entry;

    for (i = 0; i < d->naccounts; i++) {

        if (d->parts[i].taken) {
            continue;
        }

        entry = ngx_http_apikey_claims_entry(d->limiter, &d->parts[i]);

        ngx_http_apikey_claims_seen(d, i, entry);
        ngx_http_apikey_claims_out(d->limiter, &d->accounts[i], entry, now);
    }
}


/*
 * Redis knows no use of some quota: Postgres may.  Where it has said, Redis
 * waits until all that was leased before the loss is void: two generations
 * from era on, or, if this was none, from the last one that it may have gone
 * with.
 */

static ngx_uint_t
ngx_http_apikey_take_unknown(ngx_http_apikey_decision_t *d, uint64_t now)
{
    uint64_t                        time, then;
    ngx_uint_t                      i, k, unknown;
    ngx_http_apikey_bucket_t       *b;

    unknown = 0;

    for (i = 0; i < d->naccounts; i++) {

        for (k = 0; k < d->accounts[i].nbuckets; k++) {
            b = &d->accounts[i].buckets[k];

            if (!b->unknown) {
                continue;
            }

            unknown = 1;

            time = d->claims[i].conf->time;
            then = ngx_http_apikey_known_void(d->claims[i].era, time);

            d->after = ngx_max(d->after, then);

            ngx_http_apikey_known_gone(d, b, time);

            if (b->asked && then > now) {
                d->wait = ngx_max(d->wait, ngx_min(then - now, 2 * time));
            }
        }
    }

    return unknown;
}


static void
ngx_http_apikey_take_account(ngx_http_apikey_decision_t *d, ngx_uint_t i,
    ngx_http_apikey_script_reply_t *reply, int64_t now)
{
    uint64_t                        us, wait;
    ngx_uint_t                      k, unknown;
    apikey_bucket_t                 level;
    ngx_http_apikey_limiter_t      *l;
    ngx_http_apikey_leases_t       *leases;
    ngx_http_apikey_account_t      *account;
    ngx_http_apikey_lease_entry_t  *entry;
    ngx_http_apikey_lease_limit_t  *limit;

    l = d->limiter;
    leases = l->conf.sh->leases;
    account = &d->accounts[i];
    us = 0;
    unknown = 0;

    (void) ngx_http_apikey_script_account(reply, &d->claims[i].era,
                                          &account->out, &account->cost);
    account->unseen = 0;
    entry = d->parts[i].none ? NULL
                             : ngx_http_apikey_leases_find(leases, account);

    /* another account may have the one there was */

    d->parts[i].none = (entry == NULL);

    if (entry) {
        d->parts[i].entry = ngx_http_apikey_leases_index(leases, entry);
    }

    limit = entry ? ngx_http_apikey_leases_limit(leases, entry->limits) : NULL;

    for (k = 0; k < account->nbuckets; k++) {
        wait = ngx_http_apikey_take_level(d, i, &account->buckets[k], reply,
                                          &level);
        us = ngx_max(us, wait);
        unknown |= account->buckets[k].unknown;

        account->buckets[k].back = 0;
        account->buckets[k].more = 0;

        if (limit && limit->terms.id == account->buckets[k].limit->id) {
            limit->seen = level;
        }

        limit = limit ? ngx_http_apikey_leases_limit(leases, limit->next)
                      : NULL;
    }

    d->parts[i].refused = (us != 0);

    if (entry) {
        entry->out = account->out;
        entry->lost = unknown ? d->claims[i].era : 0;
        ngx_http_apikey_leases_told(leases, entry, now);
        ngx_http_apikey_quiet_told(entry, account, reply->taken,
                                   unknown ? 0 : us, now);
    }

    apikey_tally_acked(ngx_http_apikey_take_tally(d, i, now),
                       &d->parts[i].sums, d->claims[i].era);
}


/* The next level of the reply; us until it has room, if it refused. */

static uint64_t
ngx_http_apikey_take_level(ngx_http_apikey_decision_t *d, ngx_uint_t i,
    ngx_http_apikey_bucket_t *out, ngx_http_apikey_script_reply_t *reply,
    apikey_bucket_t *level)
{
    uint64_t                        need, own;
    ngx_http_apikey_account_t      *account;
    ngx_http_apikey_lease_entry_t  *entry;

    account = &d->accounts[i];
    entry = ngx_http_apikey_claims_entry(d->limiter, &d->parts[i]);

    (void) ngx_http_apikey_script_level(reply, level);

    ngx_http_apikey_decide_level(out, account, level, reply->now);

    out->refused = (!reply->taken && out->wait != 0);

    if (!out->refused) {
        return 0;
    }

    need = ngx_http_apikey_decide_need(out->limit, account);
    own = entry->lease.left + entry->lease.back;

    if (!ngx_http_apikey_leases_fits(out, level, own, need, reply->now)) {
        d->over = 1;
    }

    out->wait = ngx_http_apikey_leases_wait(d->claims[i].conf, out, level,
                                            account->out, need, reply->now);

    return ngx_max(out->wait, ngx_http_apikey_quiet_pace(out->limit));
}
