
/*
 * The frames that are being shipped, and those that come behind them.  What
 * was written to the spool is shipped from memory; only what memory has no
 * room for is read again.
 *
 * Behind the frames stands what was gathered while Postgres has them, and
 * nothing else: the spool has been read to its end then.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "usage/ship.h"


static void ngx_http_apikey_ship_follow(ngx_http_apikey_ship_t *ship);


ngx_uint_t
ngx_http_apikey_ship_keep(ngx_http_apikey_ship_t *ship)
{
    if (ship->frames_len && !ship->held) {

        /* all of it is decoded at once, in the event loop */

        if (APIKEY_SPOOL_CHUNK - ship->later_len < ship->chunk_len) {
            return 0;
        }

        if (ship->later_len == 0) {
            ship->later_from = ship->chunk_at;
        }

        ngx_memcpy(ship->later + ship->later_len, ship->chunk,
                   ship->chunk_len);

        ship->later_len += ship->chunk_len;
        ship->later_as_of = ngx_max(ship->later_as_of, ship->chunk_as_of);
        ship->later_at = ship->chunk_at;
        ship->later_count += ship->chunk_count;

        return 1;
    }

    if (NGX_HTTP_APIKEY_FRAMES - ship->frames_len < ship->chunk_len) {
        ship->held = 0;
        return 0;
    }

    ngx_memcpy(ship->frames + ship->frames_len, ship->chunk, ship->chunk_len);

    ship->frames_len += ship->chunk_len;
    ship->frames_as_of = ngx_max(ship->frames_as_of, ship->chunk_as_of);
    ship->frames_at = ship->chunk_at;

    ngx_http_apikey_ship_hold(ship, ship->chunk_count);

    return 1;
}


void
ngx_http_apikey_ship_finished(ngx_http_apikey_ship_t *ship)
{
    if (ship->frames_as_of > ship->as_of) {
        ship->as_of = ship->frames_as_of;
    }

    if (ship->direct) {
        ngx_http_apikey_ship_synced(ship);

    } else if (ship->frames_at
               && (ngx_msec_int_t) (ship->frames_at - ship->unsafe_at) > 0)
    {
        ship->unsafe_at = ship->frames_at;
    }

    ship->direct = 0;
    ship->held = 0;
    ship->filled = 0;

    ngx_http_apikey_ship_follow(ship);
}


/*
 * The frames are those that came behind them, which have waited for others as
 * long as Postgres took for these.
 */

static void
ngx_http_apikey_ship_follow(ngx_http_apikey_ship_t *ship)
{
    u_char      *frames;
    ngx_msec_t   waited;
    ngx_uint_t   events;

    frames = ship->frames;

    ship->frames = ship->later;
    ship->frames_len = ship->later_len;
    ship->frames_as_of = ship->later_as_of;
    ship->frames_at = ship->later_at;

    events = ship->later_count;
    waited = ship->later_at - ship->later_from;

    ship->later = frames;
    ship->later_len = 0;
    ship->later_as_of = 0;
    ship->later_at = 0;
    ship->later_count = 0;

    if (ship->frames_len) {
        ngx_http_apikey_ship_hold(ship, events);
        ship->send_at -= waited;
    }
}


void
ngx_http_apikey_ship_forget(ngx_http_apikey_ship_t *ship)
{
    if (ship->direct) {
        ngx_http_apikey_ship_ungather(ship);
    }

    ship->direct = 0;
    ship->held = 0;
    ship->filled = 0;
    ship->frames_len = 0;
    ship->frames_as_of = 0;
    ship->frames_at = 0;
    ship->later_len = 0;
    ship->later_as_of = 0;
    ship->later_at = 0;
    ship->later_count = 0;
    ship->seek = 1;
}
