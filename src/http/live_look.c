
/*
 * A look at limits as they are now: holders as SQL names them, or found by
 * what they have used, and their counts in this node's memory or in Redis, one
 * holder after another; of those in memory a few at a time, other events in
 * between.  What is found lives in the caller's pool, what belongs to one
 * holder in a pool of its own.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/live.h"


#define NGX_HTTP_APIKEY_LIVE_USED  64            /* in one go */


static ngx_int_t ngx_http_apikey_live_line(ngx_http_apikey_live_t *live,
    ngx_str_t *line);
static ngx_int_t ngx_http_apikey_live_local(ngx_http_apikey_live_t *live);
static ngx_int_t ngx_http_apikey_live_scan(ngx_http_apikey_live_t *live);
static void ngx_http_apikey_live_scanned(ngx_http_apikey_limit_scan_t *scan,
    const ngx_http_apikey_scanned_t *scanned, ngx_pool_t *pool);
static void ngx_http_apikey_live_scan_done(ngx_http_apikey_limit_scan_t *scan,
    ngx_int_t rc);
static ngx_int_t ngx_http_apikey_live_holder_add(
    ngx_http_apikey_live_t *live, const u_char *holder, const u_char *root,
    ngx_uint_t level);
static int ngx_libc_cdecl ngx_http_apikey_live_compare(const void *one,
    const void *two);
static ngx_int_t ngx_http_apikey_live_yield(ngx_http_apikey_live_t *live);
static void ngx_http_apikey_live_event(ngx_event_t *ev);
static ngx_int_t ngx_http_apikey_live_look(ngx_http_apikey_live_t *live);
static ngx_int_t ngx_http_apikey_live_looks(ngx_http_apikey_live_t *live);
static ngx_int_t ngx_http_apikey_live_ask(ngx_http_apikey_live_t *live);
static void ngx_http_apikey_live_decided(ngx_http_apikey_decision_t *d);


ngx_int_t
ngx_http_apikey_live_init(ngx_http_apikey_live_t *live,
    ngx_http_apikey_main_conf_t *amcf, ngx_pool_t *pool)
{
    ngx_memzero(live, sizeof(ngx_http_apikey_live_t));

    live->amcf = amcf;
    live->local = ngx_http_apikey_limiter_looks(amcf->limiter);
    live->most = NGX_HTTP_APIKEY_LIVE_MAX;
    live->text = ngx_array_create(pool, 1024, 1);
    live->holders = ngx_array_create(pool, 4,
                                     sizeof(ngx_http_apikey_live_holder_t));

    return live->text && live->holders ? NGX_OK : NGX_ERROR;
}


ngx_int_t
ngx_http_apikey_live_begin(ngx_http_apikey_live_t *live, ngx_str_t *lines)
{
    u_char     *p, *lf, *last;
    ngx_int_t   rc;
    ngx_str_t   line;

    live->now = apikey_clock_real();

    p = lines->data;
    last = p + lines->len;

    for ( /* void */ ; p < last; p = lf + 1) {
        lf = ngx_strlchr(p, last, '\n');

        if (lf == NULL) {
            lf = last;
        }

        line.data = p;
        line.len = lf - p;

        rc = ngx_http_apikey_live_line(live, &line);

        if (rc != NGX_OK) {
            return rc;
        }
    }

    return ngx_http_apikey_live_run(live);
}


ngx_int_t
ngx_http_apikey_live_run(ngx_http_apikey_live_t *live)
{
    ngx_int_t  rc;

    if (live->finding) {
        rc = ngx_http_apikey_live_local(live);

        if (rc != NGX_OK) {
            return rc;
        }
    }

    if (!live->sorted) {

        /* none of them twice */

        ngx_qsort(live->holders->elts, live->holders->nelts,
                  sizeof(ngx_http_apikey_live_holder_t),
                  ngx_http_apikey_live_compare);

        live->sorted = 1;
    }

    return ngx_http_apikey_live_looks(live);
}


/* "key UUID ROOT", "owner UUID ROOT", or "percent N" alone */

static ngx_int_t
ngx_http_apikey_live_line(ngx_http_apikey_live_t *live, ngx_str_t *line)
{
    char       *p;
    u_char     *blank, holder[16], root[16];
    ngx_int_t   n;

    blank = ngx_strlchr(line->data, line->data + line->len, ' ');

    if (blank == NULL) {
        return NGX_ERROR;
    }

    if (*line->data == 'p') {
        n = ngx_atoi(blank + 1, line->data + line->len - blank - 1);
        live->percent = (n == NGX_ERROR) ? 0 : (ngx_uint_t) n;

        if (live->local) {
            live->finding = 1;
            live->pos = live->from;
            return NGX_OK;
        }

        return ngx_http_apikey_live_scan(live);
    }

    p = (char *) blank + 1;

    if (line->data + line->len - (u_char *) p != 2 * APIKEY_UUID_TEXT_LEN + 1
        || !apikey_uuid_parse(holder, p, APIKEY_UUID_TEXT_LEN)
        || !apikey_uuid_parse(root, p + APIKEY_UUID_TEXT_LEN + 1,
                              APIKEY_UUID_TEXT_LEN))
    {
        return NGX_ERROR;
    }

    return ngx_http_apikey_live_holder_add(live, holder, root,
                                           *line->data == 'o'
                                           ? APIKEY_LEVEL_OWNER
                                           : APIKEY_LEVEL_KEY);
}


/* Everyone whom this node has counted so far, once around its memory. */

static ngx_int_t
ngx_http_apikey_live_local(ngx_http_apikey_live_t *live)
{
    ngx_uint_t                     i, n;
    ngx_http_apikey_limit_used_t   used[NGX_HTTP_APIKEY_LIVE_USED];

    n = ngx_http_apikey_limiter_used(live->amcf->limiter, live->percent,
                                     &live->pos, used,
                                     NGX_HTTP_APIKEY_LIVE_USED);

    for (i = 0; i < n; i++) {
        if (ngx_http_apikey_live_holder_add(live, used[i].holder,
                                            used[i].holder, used[i].level)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    if (live->pos == 0) {
        live->wrapped++;
    }

    if (live->wrapped == 2 || (live->wrapped && live->pos >= live->from)
        || live->holders->nelts >= live->most)
    {
        live->finding = 0;
        return NGX_OK;
    }

    return ngx_http_apikey_live_yield(live);
}


/* Requests do not wait for all of it. */

static ngx_int_t
ngx_http_apikey_live_yield(ngx_http_apikey_live_t *live)
{
    live->event.handler = ngx_http_apikey_live_event;
    live->event.data = live;
    live->event.log = ngx_cycle->log;

    ngx_post_event(&live->event, &ngx_posted_next_events);

    return NGX_AGAIN;
}


static void
ngx_http_apikey_live_event(ngx_event_t *ev)
{
    ngx_http_apikey_live_t *live = ev->data;

    live->handler(live);
}


static ngx_int_t
ngx_http_apikey_live_scan(ngx_http_apikey_live_t *live)
{
    live->scan.account = ngx_http_apikey_live_scanned;
    live->scan.done = ngx_http_apikey_live_scan_done;
    live->scan.data = live;

    if (ngx_http_apikey_limiter_scan(live->amcf->limiter, &live->scan)
        != NGX_OK)
    {
        live->down = 1;
        return NGX_OK;
    }

    live->scanning = 1;

    return NGX_AGAIN;
}


static void
ngx_http_apikey_live_scanned(ngx_http_apikey_limit_scan_t *scan,
    const ngx_http_apikey_scanned_t *scanned, ngx_pool_t *pool)
{
    ngx_http_apikey_live_t *live = scan->data;

    if (live->holders->nelts < NGX_HTTP_APIKEY_LIVE_MAX
        && ngx_http_apikey_live_over(live, scanned, pool)
        && ngx_http_apikey_live_holder_add(live, scanned->holder,
                                           scanned->root, scanned->level)
           != NGX_OK)
    {
        live->down = 1;
    }
}


static void
ngx_http_apikey_live_scan_done(ngx_http_apikey_limit_scan_t *scan,
    ngx_int_t rc)
{
    ngx_http_apikey_live_t *live = scan->data;

    live->scanning = 0;

    if (rc != NGX_OK) {
        live->down = 1;
    }

    live->handler(live);
}


static ngx_int_t
ngx_http_apikey_live_holder_add(ngx_http_apikey_live_t *live,
    const u_char *holder, const u_char *root, ngx_uint_t level)
{
    ngx_http_apikey_live_holder_t  *h;

    h = ngx_array_push(live->holders);
    if (h == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(h->holder, holder, 16);
    ngx_memcpy(h->root, root, 16);
    h->level = level;

    return NGX_OK;
}


static int ngx_libc_cdecl
ngx_http_apikey_live_compare(const void *one, const void *two)
{
    const ngx_http_apikey_live_holder_t *a = one, *b = two;

    return a->level != b->level ? (int) a->level - (int) b->level
                                : ngx_memcmp(a->holder, b->holder, 16);
}


/* Of all holders that are left; NGX_AGAIN: Redis is asked about one, or there
   are more of them than fit in one go. */

static ngx_int_t
ngx_http_apikey_live_looks(ngx_http_apikey_live_t *live)
{
    ngx_int_t                       rc;
    ngx_uint_t                      n;
    ngx_http_apikey_live_holder_t  *h;

    h = live->holders->elts;
    n = 0;

    while (live->next < live->holders->nelts && !live->down
           && live->n < NGX_HTTP_APIKEY_LIVE_MAX)
    {
        if (live->pool == NULL) {
            if (live->next
                && ngx_http_apikey_live_compare(&h[live->next],
                                                &h[live->next - 1])
                   == 0)
            {
                live->next++;
                continue;
            }

            if (live->local && n++ == NGX_HTTP_APIKEY_LIVE_USED) {
                return ngx_http_apikey_live_yield(live);
            }

            live->pool = ngx_create_pool(4096, ngx_cycle->log);

            if (live->pool == NULL) {
                return NGX_ERROR;
            }

            rc = ngx_http_apikey_live_build(live, &h[live->next]);

            if (rc == NGX_OK) {
                rc = ngx_http_apikey_live_look(live);
            }

            if (rc == NGX_AGAIN || rc == NGX_ERROR) {
                return rc;
            }
        }

        live->next++;
        ngx_destroy_pool(live->pool);
        live->pool = NULL;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_live_look(ngx_http_apikey_live_t *live)
{
    ngx_uint_t                   i, k;
    ngx_http_apikey_account_t   *account;
    ngx_http_apikey_decision_t  *d;

    d = &live->decision;

    if (!live->local) {
        return ngx_http_apikey_live_ask(live);
    }

    for (i = 0; i < d->naccounts; i++) {
        account = &d->accounts[i];

        for (k = 0; k < account->nbuckets; k++) {

            /* of one that is not in use nothing is said */

            if (ngx_http_apikey_limiter_look(live->amcf->limiter,
                                             account, &account->buckets[k],
                                             live->now)
                != NGX_OK)
            {
                account->buckets[k].unknown = 1;
            }
        }
    }

    return ngx_http_apikey_live_tell(live);
}


static ngx_int_t
ngx_http_apikey_live_ask(ngx_http_apikey_live_t *live)
{
    ngx_int_t  rc;

    live->decision.handler = ngx_http_apikey_live_decided;
    live->decision.data = live;

    rc = ngx_http_apikey_decide(live->amcf->limiter, &live->decision);

    if (rc == NGX_AGAIN) {
        live->deciding = 1;
        return NGX_AGAIN;
    }

    if (rc == NGX_ERROR || !live->decision.known) {
        live->down = 1;
        return NGX_OK;
    }

    return ngx_http_apikey_live_tell(live);
}


static void
ngx_http_apikey_live_decided(ngx_http_apikey_decision_t *d)
{
    ngx_http_apikey_live_t *live = d->data;

    live->deciding = 0;

    if (d->rc == NGX_ERROR || !d->known
        || ngx_http_apikey_live_tell(live) != NGX_OK)
    {
        live->down = 1;
    }

    live->handler(live);
}


ngx_int_t
ngx_http_apikey_live_end(ngx_http_apikey_live_t *live, ngx_str_t *text)
{
    if ((live->text->nelts == 0
         && ngx_http_apikey_live_add(live, "[", 1) != NGX_OK)
        || ngx_http_apikey_live_add(live, "]", 2) != NGX_OK)
    {
        return NGX_ERROR;
    }

    text->data = live->text->elts;
    text->len = live->text->nelts - 1;

    return NGX_OK;
}


void
ngx_http_apikey_live_cancel(ngx_http_apikey_live_t *live)
{
    if (live->event.posted) {
        ngx_delete_posted_event(&live->event);
    }

    if (live->scanning) {
        live->scanning = 0;
        ngx_http_apikey_limiter_scan_cancel(&live->scan);
    }

    if (live->deciding) {
        live->deciding = 0;
        ngx_http_apikey_decide_cancel(&live->decision);
    }

    if (live->pool) {
        ngx_destroy_pool(live->pool);
        live->pool = NULL;
    }
}
