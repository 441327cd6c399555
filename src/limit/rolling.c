
/*
 * Rolling windows: the arithmetic that rolling.h describes, line by line.
 */


#include <string.h>

#include "limit/rolling.h"


static void apikey_rolling_drop(apikey_rolling_t *r, uint64_t first,
    uint64_t n);


uint64_t
apikey_rolling_width(uint64_t window, uint64_t limit)
{
    if (limit <= APIKEY_ROLLING_PLACES) {
        return 1;
    }

    return (window - 1) / (APIKEY_ROLLING_PLACES - 1) + 1;
}


void
apikey_rolling_pass(apikey_rolling_t *r, uint64_t window, uint64_t now)
{
    uint64_t  i;

    for (i = 0; i < r->n && r->places[i].at + window <= now; i++) {
        r->sum -= r->places[i].count;
    }

    apikey_rolling_drop(r, 0, i);
}


void
apikey_rolling_add(apikey_rolling_t *r, uint64_t width, uint64_t now,
    uint64_t count)
{
    uint64_t                 most;
    apikey_rolling_place_t  *last;

    most = APIKEY_BUCKET_MAX - 1 - r->sum;
    count = count < most ? count : most;

    if (count == 0) {
        return;
    }

    r->sum += count;

    if (r->n) {
        last = &r->places[r->n - 1];
        now = now > last->at ? now : last->at;

        if (now / width == last->at / width
            || r->n == APIKEY_ROLLING_PLACES)
        {
            last->at = now;
            last->count += count;
            return;
        }
    }

    r->places[r->n].at = now;
    r->places[r->n].count = count;
    r->n++;
}


void
apikey_rolling_set(apikey_rolling_t *r, uint64_t now, uint64_t count)
{
    r->sum = 0;
    r->n = 0;

    apikey_rolling_add(r, 1, now, count);
}


void
apikey_rolling_give(apikey_rolling_t *r, uint64_t since, uint64_t count)
{
    uint64_t                 i, n, first;
    apikey_rolling_place_t  *place;

    for (i = 0; i < r->n && r->places[i].at < since; i++) { /* void */ }

    first = i;

    for ( /* void */ ; i < r->n && count; i++) {
        place = &r->places[i];
        n = count < place->count ? count : place->count;

        place->count -= n;
        r->sum -= n;
        count -= n;

        if (place->count) {
            break;
        }
    }

    apikey_rolling_drop(r, first, i - first);
}


void
apikey_rolling_back(apikey_rolling_t *r, uint64_t now)
{
    uint64_t  i;

    for (i = 0; i < r->n; i++) {

        if (r->places[i].at > now) {
            r->places[i].at = now;
        }
    }
}


uint64_t
apikey_rolling_free(const apikey_rolling_t *r, uint64_t window, uint64_t room)
{
    uint64_t  i, sum, end;

    sum = r->sum;
    end = 0;

    for (i = 0; i < r->n && sum > room; i++) {
        sum -= r->places[i].count;
        end = r->places[i].at + window;
    }

    return end;
}


static void
apikey_rolling_drop(apikey_rolling_t *r, uint64_t first, uint64_t n)
{
    if (n == 0) {
        return;
    }

    r->n -= n;

    memmove(&r->places[first], &r->places[first + n],
            (r->n - first) * sizeof(apikey_rolling_place_t));
}
