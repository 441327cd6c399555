
/*
 * Leases in time: the wheel of those that are to be renewed, and what is
 * known of Redis' clock.
 *
 * A place of the wheel is a list that is pushed and popped at its head.  An
 * entry is unlinked before it says so: a worker that dies in between leaves
 * one that no place holds, never one that two do; rebuild() finds it.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "limit/leases.h"


#define NGX_HTTP_APIKEY_LEASES_DRIFT  1000       /* one in so many */
#define NGX_HTTP_APIKEY_LEASES_STEP   10000000   /* us */
#define NGX_HTTP_APIKEY_LEASES_LOOK   1000000    /* us */
#define NGX_HTTP_APIKEY_LEASES_PIECE  1024       /* entries */


/* An entry says which wheel it is in; those before this one are no more. */

#define ngx_http_apikey_leases_wheel(leases)                                  \
    ((uint8_t) ((leases)->wheels % 255 + 1))


void
ngx_http_apikey_leases_queue(ngx_http_apikey_leases_t *leases,
    ngx_http_apikey_lease_entry_t *entry, int64_t now, int64_t when)
{
    int64_t    ticks, most;
    uint32_t  *place;

    if (entry->queued == ngx_http_apikey_leases_wheel(leases)) {
        return;
    }

    if (leases->wheel_at == 0 || leases->queued == 0) {
        leases->wheel_at = now / NGX_HTTP_APIKEY_LEASES_TICK;
    }

    /* looked at once a second: there may be something to settle */

    when = ngx_min(when, now + NGX_HTTP_APIKEY_LEASES_LOOK);
    ticks = when / NGX_HTTP_APIKEY_LEASES_TICK + 1;
    most = leases->wheel_at + NGX_HTTP_APIKEY_LEASES_WHEEL - 1;

    ticks = ngx_max(ticks, leases->wheel_at + 1);
    ticks = ngx_min(ticks, most);

    place = &leases->wheel[ticks % NGX_HTTP_APIKEY_LEASES_WHEEL];

    entry->queued = ngx_http_apikey_leases_wheel(leases);
    entry->wheel = *place;

    ngx_memory_barrier();

    *place = ngx_http_apikey_leases_index(leases, entry) + 1;
    leases->queued++;
}


ngx_http_apikey_lease_entry_t *
ngx_http_apikey_leases_due(ngx_http_apikey_leases_t *leases, int64_t now)
{
    int64_t                         tick;
    uint32_t                       *place;
    ngx_http_apikey_lease_entry_t  *entry;

    tick = now / NGX_HTTP_APIKEY_LEASES_TICK;

    if (leases->queued == 0) {
        leases->wheel_at = tick;
        return NULL;
    }

    /* once around is all */

    if (tick - leases->wheel_at > NGX_HTTP_APIKEY_LEASES_WHEEL) {
        leases->wheel_at = tick - NGX_HTTP_APIKEY_LEASES_WHEEL;
    }

    while (leases->wheel_at <= tick) {
        place = &leases->wheel[leases->wheel_at
                               % NGX_HTTP_APIKEY_LEASES_WHEEL];

        if (*place) {
            entry = &leases->entries[*place - 1];

            *place = entry->wheel;

            ngx_memory_barrier();

            entry->queued = 0;
            leases->queued--;

            return entry;
        }

        leases->wheel_at++;
    }

    leases->wheel_at = tick;

    return NULL;
}


void
ngx_http_apikey_leases_owe(ngx_http_apikey_leases_t *leases)
{
    leases->owe = 1;
    leases->walk = 0;
    leases->walking = 1;
}


void
ngx_http_apikey_leases_rebuild(ngx_http_apikey_leases_t *leases)
{
    ngx_memzero(leases->wheel, sizeof(leases->wheel));

    leases->wheels++;
    leases->queued = 0;
    leases->walk = 0;
    leases->walking = 1;
}


/* They may be a million, and are not all looked at in the same moment. */

ngx_uint_t
ngx_http_apikey_leases_walk(ngx_http_apikey_leases_t *leases, int64_t now)
{
    int64_t                         span;
    uint32_t                        i, end;
    ngx_http_apikey_lease_entry_t  *entry;

    if (!leases->walking) {
        return 0;
    }

    end = ngx_min((uint64_t) leases->walk + NGX_HTTP_APIKEY_LEASES_PIECE,
                  leases->fresh);

    for (i = leases->walk; i < end; i++) {
        entry = &leases->entries[i];

        if (!entry->linked) {
            entry->queued = 0;
            continue;
        }

        entry->owes |= leases->owe;

        span = ngx_min((int64_t) (entry->conf.time / 2),
                       NGX_HTTP_APIKEY_LEASES_LOOK);
        span = ngx_max(span, NGX_HTTP_APIKEY_LEASES_TICK);

        ngx_http_apikey_leases_queue(leases, entry, now,
                                     now + ngx_random() % span);
    }

    leases->walk = end;

    if (end < leases->fresh) {
        return 1;
    }

    leases->walking = 0;
    leases->owe = 0;

    return 0;
}


/*
 * An answer is on its way after Redis has read its clock: what the clock says
 * less the time of arrival is too low, and the highest of many the best.  It
 * sinks by what clocks may drift.
 */

void
ngx_http_apikey_leases_clock(ngx_http_apikey_leases_t *leases, int64_t now,
    int64_t redis)
{
    int64_t  known;

    known = ngx_http_apikey_leases_time(leases, now);

    /* another Redis, or its clock was set back */

    if (redis >= known || known - redis > NGX_HTTP_APIKEY_LEASES_STEP) {
        leases->offset = redis - now;
        leases->offset_at = now;
    }
}


int64_t
ngx_http_apikey_leases_time(ngx_http_apikey_leases_t *leases, int64_t now)
{
    if (leases->offset_at == 0) {
        return 0;
    }

    return now + leases->offset
           - (now - leases->offset_at) / NGX_HTTP_APIKEY_LEASES_DRIFT;
}
