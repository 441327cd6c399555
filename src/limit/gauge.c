
/*
 * Gauges: buckets, and what is no bucket as one that never refills but by its
 * calendar.  Of a rolling window the log is what counts, used its sum.
 */


#include "limit/gauge.h"


/* nobody knows when a request ends: a client may well ask soon */

#define APIKEY_GAUGE_SOON  1000000


static void apikey_gauge_edit(apikey_gauge_t *g, const apikey_limit_t *limit,
    uint64_t now);
static void apikey_gauge_turn(apikey_gauge_t *g, const apikey_limit_t *limit,
    const apikey_period_t *period);
static uint64_t apikey_gauge_units(const apikey_gauge_t *g, uint64_t tokens);
static void apikey_gauge_roll(apikey_gauge_t *g, uint64_t now);


#define apikey_gauge_rolls(g)  ((g)->tick == APIKEY_RATE_ROLLING)

#define apikey_gauge_plain(limit)                                             \
    ((limit)->kind != APIKEY_KIND_BUCKET                                      \
     && (limit)->kind != APIKEY_KIND_ROLLING)


void
apikey_gauge_init(apikey_gauge_t *g, const apikey_limit_t *limit,
    const apikey_period_t *period, uint64_t now)
{
    g->bucket.used = limit->base * limit->rate.token;
    g->bucket.at = now;
    g->start = 0;
    g->token = limit->rate.token;
    g->refill = limit->rate.refill;
    g->tick = limit->rate.tick;
    g->capacity = limit->rate.capacity;

    if (apikey_gauge_plain(limit)) {
        g->refill = limit->kind;
        g->tick = 0;
        g->bucket.at = period->end;
        g->start = period->start;

    } else if (apikey_gauge_rolls(g)) {
        apikey_rolling_set(g->log, now, 0);
    }
}


void
apikey_gauge_open(apikey_gauge_t *g, const apikey_limit_t *limit,
    const apikey_period_t *period, uint64_t now)
{
    if (g->bucket.used != APIKEY_GAUGE_UNKNOWN) {
        apikey_gauge_edit(g, limit, now);

    } else if (!apikey_limit_quota(limit)) {
        apikey_gauge_init(g, limit, period, now);
    }

    if (apikey_gauge_plain(limit)) {
        apikey_gauge_turn(g, limit, period);
    }

    g->capacity = limit->rate.capacity;
}


/* The form of the limit has changed, perhaps its kind. */

static void
apikey_gauge_edit(apikey_gauge_t *g, const apikey_limit_t *limit,
    uint64_t now)
{
    apikey_rate_t  old, rate;

    rate = limit->rate;

    old.token = g->token;
    old.refill = g->refill;
    old.capacity = 0;
    old.tick = g->tick;

    if (apikey_gauge_rolls(g)) {
        apikey_gauge_roll(g, now);

        if (limit->kind == APIKEY_KIND_ROLLING) {
            g->refill = rate.refill;
            return;
        }
    }

    if (g->tick == 0 || apikey_gauge_rolls(g)) {

        if (g->tick == 0 && apikey_gauge_plain(limit)) {
            g->refill = limit->kind;
            return;
        }

        /* from here on it refills, if at all */

        old.refill = 0;
        old.tick = 1;
        g->bucket.at = now;
        g->start = 0;
    }

    if (limit->kind == APIKEY_KIND_ROLLING) {
        rate.refill = 0;
        rate.tick = 1;
    }

    apikey_bucket_rescale(&g->bucket, &old, &rate, now);

    if (limit->kind == APIKEY_KIND_ROLLING) {
        rate = limit->rate;
        apikey_rolling_set(g->log, now, g->bucket.used);
        g->bucket.at = now;
    }

    g->token = rate.token;
    g->refill = rate.refill;
    g->tick = rate.tick;

    if (apikey_gauge_plain(limit)) {
        g->refill = limit->kind;
        g->tick = 0;
        g->bucket.at = 0;
    }
}


static void
apikey_gauge_turn(apikey_gauge_t *g, const apikey_limit_t *limit,
    const apikey_period_t *period)
{
    uint64_t  most;

    if (period->end == 0) {
        g->bucket.at = 0;
        return;
    }

    /* the clock went back over the last boundary: that is not forgotten */

    if (g->bucket.at && period->end <= g->start) {
        return;
    }

    if (g->bucket.at && g->bucket.at <= period->start) {
        most = limit->rate.capacity - limit->fill * limit->rate.token;

        if (g->bucket.used == APIKEY_GAUGE_UNKNOWN
            && limit->kind == APIKEY_KIND_CALENDAR)
        {
            g->bucket.used = 0;
        }

        if (g->bucket.used != APIKEY_GAUGE_UNKNOWN && g->bucket.used > most) {
            g->bucket.used = most;
        }

        g->start = period->start;
    }

    g->bucket.at = period->end;
}


bool
apikey_gauge_idle(apikey_gauge_t *g, uint64_t now, uint64_t real)
{
    apikey_rate_t  rate;

    if (g->tick == 0) {
        return (g->refill == APIKEY_KIND_CONCURRENT && g->bucket.used == 0)
               || (g->refill == APIKEY_KIND_CALENDAR && g->bucket.at <= real);
    }

    if (apikey_gauge_rolls(g)) {
        apikey_gauge_roll(g, now);
        return g->bucket.used == 0;
    }

    rate.token = g->token;
    rate.refill = g->refill;
    rate.capacity = 0;
    rate.tick = g->tick;

    apikey_bucket_refill(&g->bucket, &rate, now);

    return g->bucket.used == 0;
}


bool
apikey_gauge_over(const apikey_gauge_t *g, unsigned percent)
{
    /* a token that has come back in part is not left */

    return ((unsigned __int128) g->bucket.used + g->token - 1) * 100
           >= (unsigned __int128) g->capacity * percent;
}


bool
apikey_gauge_fits(const apikey_gauge_t *g, const apikey_limit_t *limit,
    uint64_t cost)
{
    if (cost == 0 || limit->mode == APIKEY_OBSERVE) {
        return true;
    }

    if (limit->mode == APIKEY_TRIM) {
        cost = 1;
    }

    return cost <= limit->rate.capacity / limit->rate.token
           && g->bucket.used <= limit->rate.capacity
                                - cost * limit->rate.token;
}


void
apikey_gauge_add(apikey_gauge_t *g, int64_t tokens)
{
    uint64_t  units;

    if (tokens < 0) {
        units = apikey_gauge_units(g, (uint64_t) -tokens);
        g->bucket.used = g->bucket.used > units ? g->bucket.used - units : 0;
        return;
    }

    units = apikey_gauge_units(g, (uint64_t) tokens);

    if (apikey_gauge_rolls(g)) {
        apikey_rolling_add(g->log, apikey_rolling_width(g->refill,
                                                        g->capacity),
                           g->bucket.at, units);
        g->bucket.used = g->log->sum;
        return;
    }

    g->bucket.used = units > APIKEY_BUCKET_MAX - g->bucket.used
                     ? APIKEY_BUCKET_MAX : g->bucket.used + units;
}


/* What was spent alone meanwhile is not forgotten. */

void
apikey_gauge_raise(apikey_gauge_t *g, uint64_t used, uint64_t since,
    uint64_t now)
{
    if (g->bucket.used >= used) {
        return;
    }

    if (apikey_gauge_rolls(g)) {
        apikey_rolling_add(g->log, 1, since, used - g->bucket.used);
        g->bucket.used = g->log->sum;
        return;
    }

    g->bucket.used = used;
    g->bucket.at = now;
}


uint64_t
apikey_gauge_period(const apikey_gauge_t *g)
{
    return g->tick == 0 || apikey_gauge_rolls(g) ? g->bucket.at : 0;
}


void
apikey_gauge_settle(apikey_gauge_t *g, int64_t tokens, uint64_t paid_in)
{
    if (g->bucket.used == APIKEY_GAUGE_UNKNOWN
        || (paid_in && g->tick == 0 && paid_in <= g->start))
    {
        return;
    }

    if (apikey_gauge_rolls(g) && tokens < 0) {

        if (paid_in && paid_in + g->refill > g->bucket.at) {
            apikey_rolling_give(g->log, paid_in, (uint64_t) -tokens);
            g->bucket.used = g->log->sum;
        }

        return;
    }

    apikey_gauge_add(g, tokens);
}


/* now may go back: nothing of the log is later than the last time */

static void
apikey_gauge_roll(apikey_gauge_t *g, uint64_t now)
{
    if (now > g->bucket.at) {
        g->bucket.at = now;
    }

    apikey_rolling_pass(g->log, g->refill, g->bucket.at);
    g->bucket.used = g->log->sum;
}


static uint64_t
apikey_gauge_units(const apikey_gauge_t *g, uint64_t tokens)
{
    return tokens > APIKEY_BUCKET_MAX / g->token ? APIKEY_BUCKET_MAX
                                                 : tokens * g->token;
}


uint64_t
apikey_gauge_wait(const apikey_gauge_t *g, const apikey_limit_t *limit,
    const apikey_period_t *period, uint64_t cost, uint64_t now, uint64_t real)
{
    uint64_t  end;

    if (apikey_gauge_fits(g, limit, cost)) {
        return 0;
    }

    if (limit->mode == APIKEY_TRIM) {
        cost = 1;
    }

    if (limit->kind == APIKEY_KIND_BUCKET) {
        return apikey_bucket_wait(&g->bucket, &limit->rate, cost, now);
    }

    if (apikey_gauge_rolls(g)) {

        if (cost > limit->rate.capacity) {
            return APIKEY_BUCKET_NEVER;
        }

        end = apikey_rolling_free(g->log, g->refill,
                                  limit->rate.capacity - cost);

        return end > now ? end - now : 1;
    }

    if (limit->kind == APIKEY_KIND_CONCURRENT) {
        return cost > limit->limit ? APIKEY_BUCKET_NEVER : APIKEY_GAUGE_SOON;
    }

    if (period->end == 0 || cost > limit->fill) {
        return APIKEY_BUCKET_NEVER;
    }

    return period->end > real ? period->end - real : 1;
}


uint64_t
apikey_gauge_reset(const apikey_gauge_t *g, const apikey_limit_t *limit,
    const apikey_period_t *period, uint64_t now, uint64_t real)
{
    uint64_t  end;

    if (limit->kind == APIKEY_KIND_BUCKET) {
        return apikey_bucket_reset(&g->bucket, &limit->rate, now);
    }

    if (apikey_gauge_rolls(g)) {
        end = apikey_rolling_free(g->log, g->refill, 0);
        return end > now ? end - now : 0;
    }

    if (limit->kind == APIKEY_KIND_CONCURRENT) {
        return g->bucket.used ? APIKEY_GAUGE_SOON : 0;
    }

    if (period->end == 0) {
        return APIKEY_BUCKET_NEVER;
    }

    return period->end > real ? period->end - real : 0;
}


uint64_t
apikey_gauge_remaining(const apikey_gauge_t *g, const apikey_limit_t *limit)
{
    return apikey_bucket_remaining(&g->bucket, &limit->rate);
}
