
/*
 * Loading all keys: pages of rows by id, from a replica where there is one,
 * then the changes since the load began, then removing what is gone.
 *
 * The position is read before the first page, rows carry versions, and
 * notices are applied meanwhile: nothing is missed and nothing goes back.
 * Requests are served all the time from what there is.
 */


#include "keyring/worker.h"


#define NGX_HTTP_APIKEY_LOAD_TIMEOUT  30000
#define NGX_HTTP_APIKEY_LOAD_SWEEP_N  4000


static void ngx_http_apikey_load_head(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_load_page(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static void ngx_http_apikey_load_sweep(ngx_event_t *ev);
static void ngx_http_apikey_load_end(ngx_http_apikey_sync_t *s);


static const char  ngx_http_apikey_load_head_sql[] =
    "SELECT * FROM apikey.keyring_changes('', 0, NULL)";

static const char  ngx_http_apikey_load_page_sql[] =
    "SELECT * FROM apikey.keyring_rows(NULL, NULL, $1, $2, "
    NGX_HTTP_APIKEY_PAGE ")";

static const char *const  ngx_http_apikey_load_pages[] = {
    "calendar", "owner", "key"
};


/* s->next is where Postgres stands. */

void
ngx_http_apikey_load_begin(ngx_http_apikey_sync_t *s)
{
    ngx_http_apikey_keyring_conf_t  *conf;

    conf = &s->kr->conf;

    ngx_shmtx_lock(&conf->shpool->mutex);

    conf->sh->epoch++;
    conf->sh->fresh = s->asked;
    conf->sh->complete = 0;
    conf->sh->full = 0;
    conf->sh->version = 0;

    ngx_shmtx_unlock(&conf->shpool->mutex);

    s->moved = 0;
    s->after[0] = '\0';
    s->load = (s->read && !s->no_read) ? NGX_HTTP_APIKEY_LOAD_HEAD
                                       : NGX_HTTP_APIKEY_LOAD_CALENDARS;
}


void
ngx_http_apikey_load_next(ngx_http_apikey_sync_t *s)
{
    ngx_http_apikey_pg_t  *pg;

    pg = (s->read && !s->no_read) ? s->read : s->pg;

    if (s->load == NGX_HTTP_APIKEY_LOAD_HEAD) {
        (void) ngx_http_apikey_sync_ask(s, pg, ngx_http_apikey_load_head_sql,
                                        0, NGX_HTTP_APIKEY_LOAD_TIMEOUT,
                                        ngx_http_apikey_load_head);
        return;
    }

    s->values[0] = ngx_http_apikey_load_pages[s->load
                                             - NGX_HTTP_APIKEY_LOAD_CALENDARS];
    s->values[1] = s->after[0] ? s->after : NULL;

    (void) ngx_http_apikey_sync_ask(s, pg, ngx_http_apikey_load_page_sql, 2,
                                    NGX_HTTP_APIKEY_LOAD_TIMEOUT,
                                    ngx_http_apikey_load_page);
}


/* A replica may be behind: the changes are read from where it stands. */

static void
ngx_http_apikey_load_head(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    u_char                      *slash;
    size_t                       len;
    ngx_http_apikey_sync_t      *s = op->data;
    ngx_http_apikey_position_t   head;

    if (s->load != NGX_HTTP_APIKEY_LOAD_HEAD) {
        s->busy = 0;
        return;
    }

    slash = (u_char *) ngx_strchr(s->next.origin, '/');
    len = slash ? slash - (u_char *) s->next.origin + 1 : 0;

    if (ngx_http_apikey_sync_ok(s, res, "asking the replica") != NGX_OK
        || ngx_http_apikey_changes_head(res, &head) == NGX_ERROR
        || ngx_strncmp(head.origin, s->next.origin, len) != 0)
    {
        ngx_log_error(NGX_LOG_WARN, s->kr->conf.log, 0,
                      "apikey: the replica cannot be used to load keys");
        s->no_read = 1;

    } else {
        ngx_memcpy(s->next.horizon, head.horizon, sizeof(head.horizon));
    }

    s->load = NGX_HTTP_APIKEY_LOAD_CALENDARS;

    ngx_http_apikey_sync_next(s);
}


static void
ngx_http_apikey_load_page(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    int                            n;
    ngx_http_apikey_sync_t        *s = op->data;
    ngx_http_apikey_keyring_sh_t  *sh;

    sh = s->kr->conf.sh;

    if (s->load < NGX_HTTP_APIKEY_LOAD_CALENDARS
        || s->load > NGX_HTTP_APIKEY_LOAD_KEYS)
    {
        s->busy = 0;             /* given up meanwhile */
        return;
    }

    if (ngx_http_apikey_sync_ok(s, res, "loading keys") != NGX_OK) {

        if (s->read && !s->no_read) {
            s->no_read = 1;
            s->load = NGX_HTTP_APIKEY_LOAD_NONE;
            s->changes = 1;
        }

        return;
    }

    (void) ngx_http_apikey_keyring_apply(s->kr, res, &s->before,
                                         NGX_HTTP_APIKEY_APPLY_LOAD);
    n = PQntuples(res);

    /* notices go before pages: what Postgres had told by then is applied */

    if (s->read == NULL || s->no_read) {
        ngx_shmtx_lock(&s->kr->conf.shpool->mutex);
        sh->fresh = s->at;
        ngx_shmtx_unlock(&s->kr->conf.shpool->mutex);
    }

    if (n && !sh->full) {
        ngx_cpystrn((u_char *) s->after,
                    (u_char *) PQgetvalue(res, n - 1, 1), sizeof(s->after));
    }

    if (n < ngx_atoi((u_char *) NGX_HTTP_APIKEY_PAGE,
                     sizeof(NGX_HTTP_APIKEY_PAGE) - 1)
        || sh->full)
    {
        s->after[0] = '\0';

        if (s->load < NGX_HTTP_APIKEY_LOAD_KEYS && !sh->full) {
            s->load++;

        } else {
            s->load = NGX_HTTP_APIKEY_LOAD_CATCH_UP;
            s->changes = 1;
        }
    }

    ngx_http_apikey_sync_next(s);
}


void
ngx_http_apikey_load_caught_up(ngx_http_apikey_sync_t *s)
{
    s->load = NGX_HTTP_APIKEY_LOAD_SWEEP;
    s->swept = 1;
    s->sweep.handler = ngx_http_apikey_load_sweep;

    ngx_http_apikey_load_sweep(&s->sweep);
}


static void
ngx_http_apikey_load_sweep(ngx_event_t *ev)
{
    ngx_int_t                        rc;
    ngx_http_apikey_sync_t          *s = ev->data;
    ngx_http_apikey_keyring_conf_t  *conf;

    conf = &s->kr->conf;

    rc = ngx_http_apikey_store_sweep(conf->sh, conf->shpool, &s->swept,
                                     NGX_HTTP_APIKEY_LOAD_SWEEP_N);

    if (rc == NGX_DONE) {
        ngx_http_apikey_load_end(s);
        return;
    }

    ngx_add_timer(ev, 1);
}


static void
ngx_http_apikey_load_end(ngx_http_apikey_sync_t *s)
{
    uint64_t                         keys;
    ngx_uint_t                       full;
    ngx_http_apikey_keyring_conf_t  *conf;

    conf = &s->kr->conf;

    ngx_shmtx_lock(&conf->shpool->mutex);

    full = conf->sh->full;
    keys = conf->sh->keys;

    conf->sh->catching = 0;

    if (!full) {
        conf->sh->complete = 1;
        conf->sh->current = s->asked;
    }

    ngx_shmtx_unlock(&conf->shpool->mutex);

    s->load = NGX_HTTP_APIKEY_LOAD_NONE;

    if (full) {
        ngx_log_error(NGX_LOG_WARN, conf->log, 0,
                      "apikey: the zone is too small for all keys, %uL fit: "
                      "others are looked up in Postgres; enlarge "
                      "\"apikey_zone\"", keys);
        return;
    }

    ngx_log_error(NGX_LOG_NOTICE, conf->log, 0,
                  "apikey: %uL keys loaded from Postgres", keys);
}


/* The connection is lost: the next one starts anew. */

void
ngx_http_apikey_load_abort(ngx_http_apikey_sync_t *s)
{
    s->load = NGX_HTTP_APIKEY_LOAD_NONE;
    s->moved = 0;
    s->ids.nelts = 0;
    s->fetching = 0;

    if (s->sweep.timer_set) {
        ngx_del_timer(&s->sweep);
    }

    if (s->busy && s->read && s->op.sql && !s->no_read) {
        ngx_http_apikey_pg_reset(s->read);
    }
}
