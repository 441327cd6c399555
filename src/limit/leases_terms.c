
/*
 * Limits in the words of limit/account.h and limit/lease.h: what is sent of
 * them, what their leases are like, and what has been seen of them.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "limit/leases.h"
#include "limit/level.h"


#define NGX_HTTP_APIKEY_LEASES_MINUTE  UINT64_C(60000000)
#define NGX_HTTP_APIKEY_LEASES_HOUR    UINT64_C(3600000000)
#define NGX_HTTP_APIKEY_LEASES_SLOTS   1000000          /* us, of a lease */

/* a burst of fewer tokens is not worth a lease, nor are fewer a second */
#define NGX_HTTP_APIKEY_LEASES_SMALL   16
#define NGX_HTTP_APIKEY_LEASES_DEMAND  3

/* what is out of a quota is missed where much is wanted at once */
#define NGX_HTTP_APIKEY_LEASES_QUOTA   16


static double ngx_http_apikey_leases_rate(const apikey_rate_t *form);
static uint64_t ngx_http_apikey_leases_lifetime(double rate,
    uint64_t window);
static ngx_uint_t ngx_http_apikey_leases_scarce(
    ngx_http_apikey_lease_entry_t *entry, ngx_http_apikey_lease_limit_t *l);
static uint64_t ngx_http_apikey_leases_full(
    ngx_http_apikey_lease_entry_t *entry, ngx_http_apikey_lease_limit_t *l);


void
ngx_http_apikey_leases_terms(apikey_account_limit_t *terms,
    const ngx_http_apikey_bucket_t *bucket)
{
    ngx_memzero(terms, sizeof(apikey_account_limit_t));

    terms->id = bucket->limit->id;
    terms->rate = bucket->limit->rate;
    terms->made = bucket->limit->made;
    terms->mode = bucket->limit->mode;
    terms->known = APIKEY_ACCOUNT_UNKNOWN;

    if (bucket->limit->kind == APIKEY_KIND_ROLLING) {
        terms->fill = bucket->back;
        terms->next = bucket->since;
        terms->known = bucket->more;
        return;
    }

    if (!apikey_limit_quota(bucket->limit)) {
        return;
    }

    terms->quota = true;
    terms->end = bucket->period.end;
    terms->next = bucket->period.next;
    terms->fill = bucket->limit->fill * bucket->limit->rate.token;

    if (bucket->asked) {
        terms->known = bucket->known;

        /* credits begin at their base, not at 0 */

        terms->touched = (bucket->known != bucket->limit->base);
    }
}


/* Nodes must agree about the lease time: it follows from the limits alone. */

void
ngx_http_apikey_leases_conf(apikey_lease_conf_t *conf,
    ngx_http_apikey_account_t *account)
{
    double                rate, r;
    uint64_t              tokens, window;
    ngx_uint_t            i, loose;
    const apikey_rate_t  *form;

    ngx_memzero(conf, sizeof(apikey_lease_conf_t));

    conf->burst = APIKEY_ACCOUNT_MAX;
    window = UINT64_MAX;
    loose = 0;
    rate = 0;

    for (i = 0; i < account->nbuckets; i++) {
        form = &account->buckets[i].limit->rate;
        tokens = form->capacity / form->token;

        /* what does not refuse for its size alone is TAKE's */

        if (account->buckets[i].limit->mode == APIKEY_STRICT) {
            conf->burst = ngx_min(conf->burst, tokens);

        } else {
            loose = 1;
        }

        conf->quota |= apikey_limit_quota(account->buckets[i].limit);

        if (form->tick == APIKEY_RATE_ROLLING) {
            loose = 1;
            continue;
        }

        if (form->refill) {
            r = ngx_http_apikey_leases_rate(form);
            rate = (rate == 0 || r < rate) ? r : rate;
            window = ngx_min(window, account->buckets[i].limit->window);
        }
    }

    conf->slots = (account->unit == APIKEY_UNIT_CONCURRENT);
    conf->time = conf->slots ? NGX_HTTP_APIKEY_LEASES_SLOTS
                             : ngx_http_apikey_leases_lifetime(rate, window);
    conf->rate = rate;
    conf->trip = NGX_HTTP_APIKEY_LEASES_TRIP;
    conf->horizon = NGX_HTTP_APIKEY_LEASES_HORIZON;
    conf->few = (conf->quota ? NGX_HTTP_APIKEY_LEASES_QUOTA
                             : NGX_HTTP_APIKEY_LEASES_DEMAND)
                * conf->time / 1000000;
    conf->direct = !conf->slots
                   && (loose || conf->burst < NGX_HTTP_APIKEY_LEASES_SMALL);
}


/* Tokens a second. */

static double
ngx_http_apikey_leases_rate(const apikey_rate_t *form)
{
    return (double) form->refill * 1000000
           / ((double) form->tick * (double) form->token);
}


/*
 * Time for some twenty tokens, and longer where the limit is: in few steps,
 * that edits change it seldom.
 */

static uint64_t
ngx_http_apikey_leases_lifetime(double rate, uint64_t window)
{
    if (rate == 0) {
        return 5000000;
    }

    if (window >= NGX_HTTP_APIKEY_LEASES_HOUR) {
        return 20000000;
    }

    if (window >= NGX_HTTP_APIKEY_LEASES_MINUTE || rate < 2) {
        return rate < 2 ? 10000000 : 5000000;
    }

    return rate >= 20 ? 1000000 : rate >= 10 ? 2000000 : 5000000;
}


void
ngx_http_apikey_leases_told(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry, int64_t now)
{
    uint64_t                        room, left, full;
    ngx_http_apikey_lease_limit_t  *l;

    entry->seen = now;

    room = APIKEY_ACCOUNT_MAX;
    full = APIKEY_BUCKET_NEVER;

    for (l = ngx_http_apikey_leases_limit(leases, entry->limits);
         l;
         l = ngx_http_apikey_leases_limit(leases, l->next))
    {
        if (ngx_http_apikey_leases_scarce(entry, l)) {
            left = apikey_bucket_remaining(&l->seen, &l->terms.rate);
            room = ngx_min(room, left);
        }

        left = ngx_http_apikey_leases_full(entry, l);
        full = ngx_min(full, left);
    }

    apikey_lease_room(&entry->lease, &entry->conf, room,
                      full == APIKEY_BUCKET_NEVER ? 0 : full, now);
}


/* What others hold of it would be missed. */

static ngx_uint_t
ngx_http_apikey_leases_scarce(ngx_http_apikey_lease_entry_t *entry,
    ngx_http_apikey_lease_limit_t *l)
{
    double  rate;

    if (l->terms.quota || entry->conf.slots) {
        return 1;
    }

    if (l->terms.rate.tick == APIKEY_RATE_ROLLING) {
        return 0;
    }

    rate = ngx_http_apikey_leases_rate(&l->terms.rate);

    return apikey_lease_slow(&entry->lease, rate);
}


/* us after it was seen: it is full but for what is out. */

static uint64_t
ngx_http_apikey_leases_full(ngx_http_apikey_lease_entry_t *entry,
    ngx_http_apikey_lease_limit_t *l)
{
    apikey_bucket_t       b;
    const apikey_rate_t  *rate;

    rate = &l->terms.rate;

    if (rate->refill == 0 || rate->tick == APIKEY_RATE_ROLLING) {
        return APIKEY_BUCKET_NEVER;
    }

    b = l->seen;

    ngx_http_apikey_leases_less(&b, rate, entry->out);

    return apikey_bucket_reset(&b, rate, b.at);
}


uint64_t
ngx_http_apikey_leases_wait(const apikey_lease_conf_t *conf,
    const ngx_http_apikey_bucket_t *out, const apikey_bucket_t *level,
    uint64_t leased, uint64_t tokens, uint64_t now)
{
    uint64_t  back;

    if (out->wait == 0 || leased == 0
        || !ngx_http_apikey_leases_fits(out, level, leased, tokens, now))
    {
        return out->wait;
    }

    back = apikey_lease_return(conf);

    return ngx_min(out->wait, back);
}


ngx_uint_t
ngx_http_apikey_leases_fits(const ngx_http_apikey_bucket_t *out,
    const apikey_bucket_t *level, uint64_t leased, uint64_t tokens,
    uint64_t now)
{
    apikey_bucket_t       b;
    const apikey_rate_t  *rate;

    rate = &out->limit->rate;

    if (rate->tick == APIKEY_RATE_ROLLING) {
        return apikey_level_wait(level, rate, tokens, now) == 0;
    }

    b = *level;
    apikey_bucket_refill(&b, rate, now);
    ngx_http_apikey_leases_less(&b, rate, leased);

    return apikey_bucket_wait(&b, rate, tokens, now) == 0;
}


void
ngx_http_apikey_leases_less(apikey_bucket_t *b, const apikey_rate_t *rate,
    uint64_t tokens)
{
    uint64_t  units;

    units = tokens > APIKEY_BUCKET_MAX / rate->token ? APIKEY_BUCKET_MAX
                                                     : tokens * rate->token;
    b->used -= ngx_min(b->used, units);
}


ngx_uint_t
ngx_http_apikey_leases_touched(const ngx_http_apikey_lease_limit_t *limit,
    int64_t redis)
{
    return limit->terms.quota && limit->seen.used
           && limit->seen.used != APIKEY_ACCOUNT_MAX
           && (limit->terms.end == 0 || (int64_t) limit->seen.at > redis);
}


apikey_bucket_t
ngx_http_apikey_leases_seen(const ngx_http_apikey_lease_limit_t *limit,
    const ngx_http_apikey_bucket_t *out, int64_t redis)
{
    uint64_t         fill, full;
    apikey_bucket_t  b;

    b.used = 0;
    b.at = redis;

    if (limit && limit->terms.id == out->limit->id) {
        b = limit->seen;
    }

    /* the period that it was seen in may be over, or end at another time */

    if (out->period.end > b.at && b.at <= (uint64_t) redis) {
        full = out->limit->rate.capacity;
        fill = out->limit->fill * out->limit->rate.token;

        b.used = ngx_min(b.used, full - ngx_min(fill, full));
    }

    return b;
}
