
/*
 * GET limits: what is left of limits now, which nobody knows but who counts.
 *
 * SQL says whose limits are asked for (limit_holders), the counts are looked
 * at here, and SQL makes the answer of both (limits).  Everything lives in the
 * request's pool.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/clock.h"
#include "base/json.h"
#include "http/admin.h"
#include "http/limits.h"


#define NGX_HTTP_APIKEY_LIVE_USED  64        /* looked up at once */
#define NGX_HTTP_APIKEY_LIVE_MAX   10000     /* limits of an answer */


typedef struct {
    ngx_http_apikey_admin_t  *admin;
    ngx_array_t              *text;          /* u_char: the JSON so far */
    int64_t                   now;
    ngx_uint_t                percent;
    ngx_uint_t                n;
    ngx_uint_t                asked;
} ngx_http_apikey_live_t;


static ngx_int_t ngx_http_apikey_live_start(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_live_collect(ngx_http_apikey_live_t *live);
static ngx_int_t ngx_http_apikey_live_line(ngx_http_apikey_live_t *live,
    ngx_str_t *line);
static ngx_int_t ngx_http_apikey_live_holder(ngx_http_apikey_live_t *live,
    const u_char *holder, ngx_uint_t level,
    ngx_http_apikey_limit_used_t *only);
static ngx_int_t ngx_http_apikey_live_all(ngx_http_apikey_live_t *live);
static ngx_int_t ngx_http_apikey_live_limit(ngx_http_apikey_live_t *live,
    ngx_http_apikey_account_t *account, ngx_http_apikey_bucket_t *b);
static ngx_int_t ngx_http_apikey_live_add(ngx_http_apikey_live_t *live,
    const char *text, size_t len);


ngx_int_t
ngx_http_apikey_live(ngx_http_apikey_admin_t *a)
{
    ngx_http_apikey_live_t  *live;

    live = a->job;

    if (live == NULL) {
        return ngx_http_apikey_live_start(a);
    }

    if (live->asked || a->failed || a->status != NGX_HTTP_OK) {
        return ngx_http_apikey_admin_call_finish(a);
    }

    live->asked = 1;

    if (ngx_http_apikey_live_collect(live) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    a->live.data = live->text->elts;
    a->live.len = live->text->nelts;
    a->function = NULL;

    return ngx_http_apikey_admin_call_start(a);
}


static ngx_int_t
ngx_http_apikey_live_start(ngx_http_apikey_admin_t *a)
{
    ngx_http_apikey_live_t  *live;

    if (!ngx_http_apikey_limiter_looks(a->amcf->limiter)) {
        return ngx_http_apikey_admin_problem(a,
                                     NGX_HTTP_APIKEY_PROBLEM_NOT_SUPPORTED,
                                     "Limits cannot be looked at in this "
                                     "apikey_limit_mode yet.", NULL);
    }

    live = ngx_pcalloc(a->pool, sizeof(ngx_http_apikey_live_t));
    if (live == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    live->text = ngx_array_create(a->pool, 1024, 1);
    if (live->text == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    live->admin = a;
    a->job = live;
    a->function = "limit_holders";

    return ngx_http_apikey_admin_call_start(a);
}


static ngx_int_t
ngx_http_apikey_live_collect(ngx_http_apikey_live_t *live)
{
    u_char     *p, *lf, *last;
    ngx_str_t   line;

    live->now = apikey_clock_real();

    if (ngx_http_apikey_live_add(live, "[", 1) != NGX_OK) {
        return NGX_ERROR;
    }

    p = live->admin->answer.data;
    last = p + live->admin->answer.len;

    for ( /* void */ ; p < last; p = lf + 1) {
        lf = ngx_strlchr(p, last, '\n');

        if (lf == NULL) {
            lf = last;
        }

        line.data = p;
        line.len = lf - p;

        if (ngx_http_apikey_live_line(live, &line) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return ngx_http_apikey_live_add(live, "]", 1);
}


/* "key UUID", "owner UUID", or "percent N" */

static ngx_int_t
ngx_http_apikey_live_line(ngx_http_apikey_live_t *live, ngx_str_t *line)
{
    u_char      *blank, holder[16];
    size_t       len;
    ngx_int_t    n;
    ngx_uint_t   level;

    blank = ngx_strlchr(line->data, line->data + line->len, ' ');

    if (blank == NULL) {
        return NGX_ERROR;
    }

    blank++;
    len = line->data + line->len - blank;

    if (*line->data == 'p') {
        n = ngx_atoi(blank, len);
        live->percent = (n == NGX_ERROR) ? 0 : (ngx_uint_t) n;

        return ngx_http_apikey_live_all(live);
    }

    if (!apikey_uuid_parse(holder, (char *) blank, len)) {
        return NGX_ERROR;
    }

    level = (*line->data == 'o') ? APIKEY_LEVEL_OWNER : APIKEY_LEVEL_KEY;

    return ngx_http_apikey_live_holder(live, holder, level, NULL);
}


static ngx_int_t
ngx_http_apikey_live_all(ngx_http_apikey_live_t *live)
{
    uint32_t                       pos;
    ngx_uint_t                     i, n;
    ngx_http_apikey_limit_used_t   used[NGX_HTTP_APIKEY_LIVE_USED];

    pos = 0;

    do {
        n = ngx_http_apikey_limiter_used(live->admin->amcf->limiter,
                                         live->percent, &pos, used,
                                         NGX_HTTP_APIKEY_LIVE_USED);

        for (i = 0; i < n && live->n < NGX_HTTP_APIKEY_LIVE_MAX; i++) {
            if (ngx_http_apikey_live_holder(live, used[i].holder,
                                            used[i].level, &used[i])
                != NGX_OK)
            {
                return NGX_ERROR;
            }
        }

    } while (pos && live->n < NGX_HTTP_APIKEY_LIVE_MAX);

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_live_holder(ngx_http_apikey_live_t *live,
    const u_char *holder, ngx_uint_t level,
    ngx_http_apikey_limit_used_t *only)
{
    ngx_int_t                     rc;
    ngx_uint_t                    i;
    const apikey_limit_t         *limit;
    ngx_http_apikey_key_t         key;
    ngx_http_apikey_bucket_t      b;
    ngx_http_apikey_account_t     account;
    ngx_http_apikey_main_conf_t  *amcf;

    amcf = live->admin->amcf;

    rc = ngx_http_apikey_keyring_limits(amcf->sh->keyring, amcf->shpool,
                                        holder, level, live->admin->pool,
                                        &key);
    if (rc != NGX_OK) {
        return rc == NGX_DECLINED ? NGX_OK : NGX_ERROR;
    }

    limit = key.key_limits;

    for (i = 0; i < key.nkey_limits; i++, limit = apikey_limit_next(limit)) {

        if (limit->kind == APIKEY_KIND_CREDITS
            || (only && (only->unit != limit->unit
                         || only->scope != limit->scope
                         || (only->id && only->id != limit->id))))
        {
            continue;
        }

        ngx_memzero(&b, sizeof(ngx_http_apikey_bucket_t));
        ngx_memzero(&account, sizeof(ngx_http_apikey_account_t));

        ngx_memcpy(account.holder, holder, 16);
        account.level = level;
        account.unit = limit->unit;
        account.scope = limit->scope;
        b.limit = limit;

        if (limit->period != APIKEY_PERIOD_NONE
            && ngx_http_apikey_keyring_period(amcf->sh->keyring,
                                              amcf->shpool, key.calendar,
                                              limit->period, live->now,
                                              &b.period)
               != NGX_OK)
        {
            continue;
        }

        if (ngx_http_apikey_live_limit(live, &account, &b) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* Of a limit that is not in use nothing is said. */

static ngx_int_t
ngx_http_apikey_live_limit(ngx_http_apikey_live_t *live,
    ngx_http_apikey_account_t *account, ngx_http_apikey_bucket_t *b)
{
    char           buf[2048];
    uint64_t       used;
    ngx_int_t      rc;
    apikey_json_t  j;

    rc = ngx_http_apikey_limiter_look(live->admin->amcf->limiter, account, b,
                                      live->now);

    if (rc != NGX_OK && b->period.end == 0) {
        return NGX_OK;
    }

    used = b->limit->burst - ngx_min(b->remaining, b->limit->burst);

    apikey_json_init(&j, buf, sizeof(buf));
    apikey_json_object(&j);
    apikey_json_name(&j, "holder");
    apikey_json_uuid(&j, account->holder);
    apikey_json_name(&j, "level");
    apikey_json_text(&j, apikey_level_name(account->level));
    apikey_json_name(&j, "name");
    apikey_json_string(&j, apikey_limit_name(b->limit), b->limit->name_len);

    if (rc == NGX_OK && !b->unknown) {
        apikey_json_name(&j, "used");
        apikey_json_uint(&j, used);
        apikey_json_name(&j, "remaining");
        apikey_json_uint(&j, b->remaining);
        apikey_json_name(&j, "reset");

        if (b->reset == UINT64_MAX) {
            apikey_json_null(&j);

        } else {
            apikey_json_uint(&j, ngx_http_apikey_seconds(b->reset));
        }
    }

    if (b->period.end) {
        apikey_json_name(&j, "since");
        apikey_json_uint(&j, b->period.start);
        apikey_json_name(&j, "end");
        apikey_json_uint(&j, b->period.end);
    }

    apikey_json_object_end(&j);

    if (j.overflow
        || (live->n++ && ngx_http_apikey_live_add(live, ",", 1) != NGX_OK))
    {
        return NGX_ERROR;
    }

    return ngx_http_apikey_live_add(live, buf, apikey_json_len(&j));
}


static ngx_int_t
ngx_http_apikey_live_add(ngx_http_apikey_live_t *live, const char *text,
    size_t len)
{
    u_char  *p;

    p = ngx_array_push_n(live->text, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(p, text, len);

    return NGX_OK;
}
