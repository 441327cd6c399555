
/*
 * Keeping the copy current, in one worker of a zone.
 *
 * The worker that holds a lock on the zone's own byte of the file "sync.lock"
 * is elected (during a binary upgrade, or a reload to another size, there are
 * two zones, and each has to know what was revoked).  It listens to Postgres,
 * applies what it is notified of at once, reads the change log every "poll"
 * as a net, and saves the copy.  One statement is under way at a time, chosen
 * by sync_next().  All of it lives in the worker's pool.
 */


#include "keyring/worker.h"

#include "base/clock.h"
#include "base/uuid.h"
#include "wire/thread.h"


#define NGX_HTTP_APIKEY_SYNC_ELECT  100
#define NGX_HTTP_APIKEY_SYNC_SAVE   2000
#define NGX_HTTP_APIKEY_SYNC_QUICK  (32 * 1024 * 1024)   /* saved at exit */


static void ngx_http_apikey_sync_tick(ngx_event_t *ev);
static ngx_int_t ngx_http_apikey_sync_elect(ngx_http_apikey_sync_t *s);
static ngx_int_t ngx_http_apikey_sync_lock(ngx_http_apikey_sync_t *s);
static ngx_int_t ngx_http_apikey_sync_connect(ngx_http_apikey_sync_t *s);
static void ngx_http_apikey_sync_resign(ngx_http_apikey_sync_t *s);
static void ngx_http_apikey_sync_connected(void *data);
static void ngx_http_apikey_sync_lost(void *data);
static void ngx_http_apikey_sync_catching(ngx_http_apikey_sync_t *s,
    ngx_uint_t on);
static void ngx_http_apikey_sync_save(ngx_http_apikey_sync_t *s);
static void ngx_http_apikey_sync_save_thread(void *data, ngx_log_t *log);
static void ngx_http_apikey_sync_saved(ngx_event_t *ev);


ngx_http_apikey_keyring_t *
ngx_http_apikey_keyring_start(ngx_pool_t *pool,
    ngx_http_apikey_keyring_conf_t *conf)
{
    ngx_http_apikey_keyring_t  *kr;

    kr = ngx_pcalloc(pool, sizeof(ngx_http_apikey_keyring_t));
    if (kr == NULL) {
        return NULL;
    }

    kr->conf = *conf;
    kr->pool = pool;

    (void) ngx_snprintf((u_char *) kr->directory, NGX_MAX_PATH, "%V%Z",
                        &conf->directory);

    if (ngx_http_apikey_keyring_scratch() == NULL
        || ngx_http_apikey_find_start(kr) != NGX_OK
        || ngx_http_apikey_sync_start(kr) != NGX_OK)
    {
        return NULL;
    }

    return kr;
}


void
ngx_http_apikey_keyring_stop(ngx_http_apikey_keyring_t *kr)
{
    ngx_http_apikey_sync_stop(kr);
    ngx_http_apikey_find_stop(kr);
}


ngx_int_t
ngx_http_apikey_sync_start(ngx_http_apikey_keyring_t *kr)
{
    ngx_str_t               name;
    ngx_http_apikey_sync_t  *s;

    s = &kr->sync;

    s->kr = kr;
    s->lock = -1;
    s->saved = (uint64_t) -1;

    apikey_uuid_format(s->node, kr->conf.node);

    name = kr->conf.node_name;
    name.len = ngx_min(name.len, sizeof(s->name) - 1);
    ngx_memcpy(s->name, name.data, name.len);

    if (ngx_array_init(&s->ids, kr->pool, 64, sizeof(ngx_http_apikey_id_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    s->task = ngx_thread_task_alloc(kr->pool, 0);
    if (s->task == NULL) {
        return NGX_ERROR;
    }

    s->tick.handler = ngx_http_apikey_sync_tick;
    s->tick.data = s;
    s->tick.log = kr->conf.log;
    s->tick.cancelable = 1;

    s->sweep.data = s;
    s->sweep.log = kr->conf.log;
    s->sweep.cancelable = 1;

    ngx_add_timer(&s->tick, 1);

    return NGX_OK;
}


void
ngx_http_apikey_sync_stop(ngx_http_apikey_keyring_t *kr)
{
    ngx_http_apikey_sync_t        *s;
    ngx_http_apikey_keyring_sh_t  *sh;

    s = &kr->sync;
    sh = kr->conf.sh;

    if (s->tick.timer_set) {
        ngx_del_timer(&s->tick);
    }

    /*
     * Not when the lock was given up: the worker still had requests.  Where
     * another one of this zone holds it by now, that one goes on and saves.
     */

    if (s->elected && sh->changes != s->saved
        && (s->lock != -1 || ngx_http_apikey_sync_lock(s) == NGX_OK)
        && (size_t) sh->used * NGX_HTTP_APIKEY_UNIT
           < NGX_HTTP_APIKEY_SYNC_QUICK)
    {
        (void) ngx_http_apikey_keyring_save(sh, kr->conf.shpool,
                                            kr->directory, kr->conf.log);
    }

    ngx_http_apikey_sync_resign(s);
}


static void
ngx_http_apikey_sync_tick(ngx_event_t *ev)
{
    ngx_http_apikey_sync_t *s = ev->data;

    if (ngx_exiting) {
        ngx_http_apikey_sync_resign(s);
        return;
    }

    if (s->lock == -1) {
        if (ngx_http_apikey_sync_elect(s) != NGX_OK) {
            ngx_add_timer(ev, NGX_HTTP_APIKEY_SYNC_ELECT);
            return;
        }

    } else {

        if ((ngx_msec_int_t) (s->poll_at - ngx_current_msec) <= 0) {
            s->poll_at = ngx_current_msec + s->kr->conf.poll;
            s->changes = 1;

            if (apikey_stats_get(&s->kr->conf.stats->schema_ok) == 0) {
                s->schema = 1;
            }
        }

        ngx_http_apikey_sync_next(s);
        ngx_http_apikey_sync_save(s);
    }

    /* heartbeats do not wait for a long poll */

    ngx_add_timer(ev, ngx_max(ngx_min(s->kr->conf.poll,
                                      NGX_HTTP_APIKEY_BEAT_ALIVE), 10));
}


/* NGX_DECLINED: another worker is. */

static ngx_int_t
ngx_http_apikey_sync_elect(ngx_http_apikey_sync_t *s)
{
    ngx_http_apikey_keyring_conf_t  *conf;

    conf = &s->kr->conf;

    if (ngx_http_apikey_sync_lock(s) != NGX_OK) {
        return NGX_DECLINED;
    }

    s->elected = 1;

    /* what a worker before us left when it was killed */

    ngx_shmtx_lock(&conf->shpool->mutex);

    conf->sh->catching = 0;

    if (conf->sh->writing) {
        ngx_http_apikey_store_rebuild(conf->sh, 0);

    } else {
        ngx_http_apikey_store_release(conf->sh);
    }

    ngx_shmtx_unlock(&conf->shpool->mutex);

    apikey_stats_set(&conf->stats->postgres_up, 0);

    s->save_at = ngx_current_msec + NGX_HTTP_APIKEY_SYNC_SAVE;

    return ngx_http_apikey_sync_connect(s);
}


/* NGX_DECLINED: another worker of this zone holds it. */

static ngx_int_t
ngx_http_apikey_sync_lock(ngx_http_apikey_sync_t *s)
{
    int                              fd;
    char                             name[NGX_MAX_PATH];
    struct flock                     lock;
    ngx_http_apikey_keyring_conf_t  *conf;

    conf = &s->kr->conf;

    (void) ngx_snprintf((u_char *) name, NGX_MAX_PATH, "%s/sync.lock%Z",
                        s->kr->directory);

    fd = open(name, O_RDWR|O_CREAT|O_CLOEXEC, 0600);

    if (fd == -1) {
        if (!s->trouble) {
            s->trouble = 1;
            ngx_log_error(NGX_LOG_ERR, conf->log, ngx_errno,
                          "apikey: cannot open \"%s\"", name);
        }

        return NGX_DECLINED;
    }

    ngx_memzero(&lock, sizeof(struct flock));
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = (off_t) conf->sh->id;
    lock.l_len = 1;

    if (fcntl(fd, F_SETLK, &lock) == -1) {
        (void) close(fd);
        return NGX_DECLINED;
    }

    s->trouble = 0;
    s->lock = fd;

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_sync_connect(ngx_http_apikey_sync_t *s)
{
    ngx_http_apikey_pg_conf_t        pgc;
    ngx_http_apikey_pg_listen_t      listen;
    ngx_http_apikey_keyring_conf_t  *conf;

    conf = &s->kr->conf;

    ngx_memzero(&pgc, sizeof(ngx_http_apikey_pg_conf_t));
    pgc.name = "apikey keyring";
    pgc.conninfo = conf->conninfo;

    s->pg = ngx_http_apikey_pg_create(s->kr->pool, &pgc, conf->stats,
                                      conf->log);
    if (s->pg == NULL) {
        ngx_http_apikey_sync_resign(s);
        return NGX_ERROR;
    }

    if (conf->read_conninfo.len) {
        pgc.name = "apikey load";
        pgc.conninfo = conf->read_conninfo;
        s->read = ngx_http_apikey_pg_create(s->kr->pool, &pgc, conf->stats,
                                            conf->log);
    }

    listen.channel = "apikey";
    listen.connected = ngx_http_apikey_sync_connected;
    listen.notify = ngx_http_apikey_changes_notify;
    listen.lost = ngx_http_apikey_sync_lost;
    listen.data = s;

    return ngx_http_apikey_pg_listen(s->pg, &listen);
}


static void
ngx_http_apikey_sync_resign(ngx_http_apikey_sync_t *s)
{
    ngx_http_apikey_load_abort(s);

    s->up = 0;
    s->busy = 0;

    if (s->pg) {
        ngx_http_apikey_pg_close(s->pg);
        s->pg = NULL;
    }

    if (s->read) {
        ngx_http_apikey_pg_close(s->read);
        s->read = NULL;
    }

    if (s->lock != -1) {
        ngx_http_apikey_sync_catching(s, 0);

        (void) close(s->lock);
        s->lock = -1;
    }
}


static void
ngx_http_apikey_sync_connected(void *data)
{
    ngx_http_apikey_sync_t *s = data;

    apikey_stats_set(&s->kr->conf.stats->postgres_up, 1);

    /* a miss asks Postgres until what was missed is read */

    ngx_http_apikey_sync_catching(s, 1);

    s->up = 1;
    s->changes = 1;
    s->schema = 1;
    s->no_read = 0;
    s->beat_at = ngx_current_msec;
    s->alive_at = ngx_current_msec + NGX_HTTP_APIKEY_BEAT_ALIVE;

    ngx_http_apikey_sync_next(s);
}


static void
ngx_http_apikey_sync_lost(void *data)
{
    ngx_http_apikey_sync_t *s = data;

    apikey_stats_set(&s->kr->conf.stats->postgres_up, 0);

    s->up = 0;

    ngx_http_apikey_load_abort(s);
    ngx_http_apikey_sync_catching(s, 0);

    if (ngx_exiting) {
        ngx_http_apikey_sync_resign(s);
    }
}


static void
ngx_http_apikey_sync_catching(ngx_http_apikey_sync_t *s, ngx_uint_t on)
{
    ngx_http_apikey_keyring_conf_t  *conf;

    conf = &s->kr->conf;

    ngx_shmtx_lock(&conf->shpool->mutex);
    conf->sh->catching = on;
    ngx_shmtx_unlock(&conf->shpool->mutex);
}


/* Notices and heartbeats do not wait for all to be loaded. */

void
ngx_http_apikey_sync_next(ngx_http_apikey_sync_t *s)
{
    if (!s->up || s->busy) {
        return;
    }

    if (s->ids.nelts) {
        ngx_http_apikey_changes_fetch(s);
        return;
    }

    if (s->overflow) {
        s->overflow = 0;
        s->moved = 0;
        s->changes = 1;
    }

    if (s->moved) {
        s->moved = 0;
        ngx_http_apikey_sync_current(s);
    }

    if (s->schema) {
        ngx_http_apikey_beat_schema(s);

    } else if ((ngx_msec_int_t) (s->alive_at - ngx_current_msec) <= 0) {
        ngx_http_apikey_beat_alive(s);

    } else if (s->load >= NGX_HTTP_APIKEY_LOAD_HEAD
               && s->load <= NGX_HTTP_APIKEY_LOAD_KEYS)
    {
        ngx_http_apikey_load_next(s);

    } else if (s->changes && s->load != NGX_HTTP_APIKEY_LOAD_SWEEP) {
        ngx_http_apikey_changes_ask(s);

    } else if ((ngx_msec_int_t) (s->beat_at - ngx_current_msec) <= 0) {
        ngx_http_apikey_beat_node(s);
    }
}


/* All that was read is applied: the copy stands where Postgres stood then. */

void
ngx_http_apikey_sync_current(ngx_http_apikey_sync_t *s)
{
    ngx_http_apikey_keyring_conf_t  *conf;

    conf = &s->kr->conf;

    ngx_shmtx_lock(&conf->shpool->mutex);

    conf->sh->position = s->next;
    conf->sh->fresh = s->asked;

    if (conf->sh->complete) {
        conf->sh->current = s->asked;
        conf->sh->catching = 0;
    }

    ngx_shmtx_unlock(&conf->shpool->mutex);

    if (s->load == NGX_HTTP_APIKEY_LOAD_CATCH_UP) {
        ngx_http_apikey_load_caught_up(s);
    }
}


ngx_int_t
ngx_http_apikey_sync_ask(ngx_http_apikey_sync_t *s, ngx_http_apikey_pg_t *pg,
    const char *sql, int n, ngx_msec_t timeout,
    ngx_http_apikey_pg_handler_pt handler)
{
    return ngx_http_apikey_sync_ask_rows(s, pg, sql, n, timeout, NULL,
                                         handler);
}


ngx_int_t
ngx_http_apikey_sync_ask_rows(ngx_http_apikey_sync_t *s,
    ngx_http_apikey_pg_t *pg, const char *sql, int n, ngx_msec_t timeout,
    ngx_http_apikey_pg_handler_pt row, ngx_http_apikey_pg_handler_pt handler)
{
    ngx_memzero(&s->op, sizeof(ngx_http_apikey_pg_op_t));

    ngx_http_apikey_store_before(s->kr->conf.sh, s->kr->conf.shpool,
                                 &s->before);
    s->at = apikey_clock_real();

    s->op.sql = sql;
    s->op.nparams = n;
    s->op.values = s->values;
    s->op.timeout = timeout;
    s->op.row = row;
    s->op.handler = handler;
    s->op.data = s;

    if (ngx_http_apikey_pg_query(pg, &s->op) != NGX_OK) {
        return NGX_ERROR;
    }

    s->busy = 1;

    return NGX_OK;
}


/* What failed is tried again with the next tick; it is logged once. */

ngx_int_t
ngx_http_apikey_sync_ok(ngx_http_apikey_sync_t *s, PGresult *res,
    const char *what)
{
    s->busy = 0;

    if (res == NULL) {
        return NGX_ERROR;
    }

    if (PQresultStatus(res) == PGRES_TUPLES_OK) {
        return NGX_OK;
    }

    if (!s->trouble) {
        s->trouble = 1;
        ngx_log_error(NGX_LOG_ERR, s->kr->conf.log, 0,
                      "apikey: %s: %s (is the schema applied? "
                      "apikeyctl schema apply)",
                      what, PQresultErrorMessage(res));
    }

    return NGX_ERROR;
}


static void
ngx_http_apikey_sync_save(ngx_http_apikey_sync_t *s)
{
    ngx_http_apikey_keyring_sh_t  *sh;

    sh = s->kr->conf.sh;

    if (!sh->complete || sh->changes == s->saved || s->task->event.active
        || (ngx_msec_int_t) (s->save_at - ngx_current_msec) > 0)
    {
        return;
    }

    s->saved = sh->changes;
    s->save_at = ngx_current_msec;

    s->task->ctx = s->kr;
    s->task->handler = ngx_http_apikey_sync_save_thread;
    s->task->event.handler = ngx_http_apikey_sync_saved;
    s->task->event.data = s;

    if (ngx_http_apikey_thread_post(s->task) != NGX_OK) {
        s->saved = (uint64_t) -1;
        s->save_at = ngx_current_msec + NGX_HTTP_APIKEY_SYNC_SAVE;
    }
}


static void
ngx_http_apikey_sync_save_thread(void *data, ngx_log_t *log)
{
    ngx_http_apikey_keyring_t *kr = data;

    kr->sync.save_rc = ngx_http_apikey_keyring_save(kr->conf.sh,
                                                    kr->conf.shpool,
                                                    kr->directory, log);
}


/* A large copy that changes all the time must not keep the disk busy. */

static void
ngx_http_apikey_sync_saved(ngx_event_t *ev)
{
    ngx_http_apikey_sync_t *s = ev->data;

    if (s->save_rc == NGX_DECLINED) {
        s->saved = (uint64_t) -1;
    }

    s->save_at = ngx_current_msec + NGX_HTTP_APIKEY_SYNC_SAVE
                 + 20 * (ngx_current_msec - s->save_at);
}
