
/*
 * What changed in Postgres: notices, the change log, and fetching the rows.
 *
 * Ids are collected and fetched many at a time, the latest first: a single
 * change does not wait for the thousands of an import before it.  The position
 * in the log is taken over only when every row it covers has been applied.
 */


#include "keyring/worker.h"

#include "base/clock.h"
#include "base/uuid.h"


#define NGX_HTTP_APIKEY_CHANGES_TIMEOUT  10000


typedef enum {
    NGX_HTTP_APIKEY_CHANGE_KIND = 0,
    NGX_HTTP_APIKEY_CHANGE_ID,
    NGX_HTTP_APIKEY_CHANGE_VERSION,
    NGX_HTTP_APIKEY_CHANGE_SEQ,
    NGX_HTTP_APIKEY_CHANGE_MARK,
    NGX_HTTP_APIKEY_CHANGE_ORIGIN,
    NGX_HTTP_APIKEY_CHANGE_HORIZON,
    NGX_HTTP_APIKEY_CHANGE_KNOWN,
    NGX_HTTP_APIKEY_CHANGE_COLS
} ngx_http_apikey_change_e;


static void ngx_http_apikey_changes_row(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static ngx_int_t ngx_http_apikey_changes_known(ngx_http_apikey_sync_t *s,
    PGresult *res);
static void ngx_http_apikey_changes_answer(ngx_http_apikey_pg_op_t *op,
    PGresult *res);
static int64_t ngx_http_apikey_changes_version(PGresult *res);
static void ngx_http_apikey_changes_add(ngx_http_apikey_sync_t *s,
    const char *uuid, ngx_uint_t owner, int64_t version);
static void ngx_http_apikey_changes_rows(ngx_http_apikey_pg_op_t *op,
    PGresult *res);


static const char  ngx_http_apikey_changes_sql[] =
    "SELECT * FROM apikey.keyring_changes($1, $2, $3)";

static const char  ngx_http_apikey_changes_fetch_sql[] =
    "SELECT * FROM apikey.keyring_rows($1, $2, NULL, NULL, 0)";


/* "key UUID", "owner UUID", "calendar UUID" or "prices UUID" */

void
ngx_http_apikey_changes_notify(void *data, const char *payload)
{
    ngx_http_apikey_sync_t *s = data;

    if (ngx_strncmp(payload, "key ", 4) == 0) {
        ngx_http_apikey_changes_add(s, payload + 4, 0, 0);

    } else if (ngx_strncmp(payload, "owner ", 6) == 0) {
        ngx_http_apikey_changes_add(s, payload + 6, 1, 0);

    } else if (ngx_strncmp(payload, "calendar ", 9) == 0) {
        ngx_http_apikey_changes_add(s, payload + 9, 1, 0);

    } else if (ngx_strncmp(payload, "prices ", 7) == 0) {
        ngx_http_apikey_changes_add(s, payload + 7, 1, 0);
    }

    s->notice = 1;

    /* many notices come together: one query for all of them */

    ngx_http_apikey_sync_next(s);
}


void
ngx_http_apikey_changes_ask(ngx_http_apikey_sync_t *s)
{
    ngx_http_apikey_position_t  *position;

    position = (s->load == NGX_HTTP_APIKEY_LOAD_CATCH_UP)
               ? &s->next : &s->kr->conf.sh->position;

    *ngx_sprintf((u_char *) s->seq, "%L", position->seq) = '\0';

    s->values[0] = position->horizon;
    s->values[1] = s->seq;
    s->values[2] = position->mark[0] ? position->mark : NULL;

    s->changes = 0;
    s->known = NGX_AGAIN;
    s->version = s->kr->conf.sh->version;
    s->asked = apikey_clock_real();

    (void) ngx_http_apikey_sync_ask_rows(s, s->pg,
                                         ngx_http_apikey_changes_sql, 3,
                                         NGX_HTTP_APIKEY_CHANGES_TIMEOUT,
                                         ngx_http_apikey_changes_row,
                                         ngx_http_apikey_changes_answer);
}


/*
 * Row by row: after an outage, or an edit of a plan that many have, they may
 * be a million, and each turn of the event loop takes what has come by then.
 */

static void
ngx_http_apikey_changes_row(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_http_apikey_sync_t *s = op->data;

    if (s->known == NGX_AGAIN) {
        s->known = ngx_http_apikey_changes_known(s, res);
        return;
    }

    if (s->known != NGX_OK) {
        return;
    }

    ngx_http_apikey_changes_add(s,
                       PQgetvalue(res, 0, NGX_HTTP_APIKEY_CHANGE_ID),
                       *PQgetvalue(res, 0, NGX_HTTP_APIKEY_CHANGE_KIND)
                       != 'k',
                       ngx_http_apikey_changes_version(res));
}


/* Of the head, which comes first: NGX_DECLINED: all is to be loaded. */

static ngx_int_t
ngx_http_apikey_changes_known(ngx_http_apikey_sync_t *s, PGresult *res)
{
    ngx_int_t                      known;
    ngx_http_apikey_keyring_sh_t  *sh;

    sh = s->kr->conf.sh;

    known = ngx_http_apikey_changes_head(res, &s->head);

    if (known == NGX_ERROR || s->load != NGX_HTTP_APIKEY_LOAD_NONE) {
        return known;
    }

    if (ngx_strcmp(s->head.origin, sh->position.origin) != 0
        || ngx_http_apikey_changes_version(res) < s->version)
    {
        known = NGX_DECLINED;
    }

    if (known == NGX_DECLINED && sh->position.origin[0]) {
        ngx_log_error(NGX_LOG_WARN, s->kr->conf.log, 0,
                      "apikey: Postgres is not the one it was (restored "
                      "or failed over): loading all keys again");
    }

    if (!sh->complete && !sh->full) {
        known = NGX_DECLINED;
    }

    return known;
}


static void
ngx_http_apikey_changes_answer(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_http_apikey_sync_t *s = op->data;

    if (ngx_http_apikey_sync_ok(s, res, "reading the change log") != NGX_OK) {
        return;
    }

    s->trouble = 0;

    if (s->known != NGX_OK && s->known != NGX_DECLINED) {
        return;
    }

    s->next = s->head;

    if (s->known == NGX_DECLINED) {
        ngx_http_apikey_load_begin(s);

    } else {
        s->moved = 1;
    }

    ngx_http_apikey_sync_next(s);
}


/* NGX_DECLINED: it does not know the position it was asked about. */

ngx_int_t
ngx_http_apikey_changes_head(PGresult *res,
    ngx_http_apikey_position_t *position)
{
    if (PQnfields(res) != NGX_HTTP_APIKEY_CHANGE_COLS || PQntuples(res) < 1) {
        return NGX_ERROR;
    }

    ngx_memzero(position, sizeof(ngx_http_apikey_position_t));

    ngx_cpystrn((u_char *) position->origin,
                (u_char *) PQgetvalue(res, 0, NGX_HTTP_APIKEY_CHANGE_ORIGIN),
                sizeof(position->origin));
    ngx_cpystrn((u_char *) position->horizon,
                (u_char *) PQgetvalue(res, 0, NGX_HTTP_APIKEY_CHANGE_HORIZON),
                sizeof(position->horizon));
    ngx_cpystrn((u_char *) position->mark,
                (u_char *) PQgetvalue(res, 0, NGX_HTTP_APIKEY_CHANGE_MARK),
                sizeof(position->mark));

    position->seq = ngx_atoof(
                   (u_char *) PQgetvalue(res, 0, NGX_HTTP_APIKEY_CHANGE_SEQ),
                   PQgetlength(res, 0, NGX_HTTP_APIKEY_CHANGE_SEQ));

    return (*PQgetvalue(res, 0, NGX_HTTP_APIKEY_CHANGE_KNOWN) == 't')
           ? NGX_OK : NGX_DECLINED;
}


static int64_t
ngx_http_apikey_changes_version(PGresult *res)
{
    return ngx_atoof(
               (u_char *) PQgetvalue(res, 0, NGX_HTTP_APIKEY_CHANGE_VERSION),
               PQgetlength(res, 0, NGX_HTTP_APIKEY_CHANGE_VERSION));
}


/* version 0: unknown, the row is fetched in any case. */

static void
ngx_http_apikey_changes_add(ngx_http_apikey_sync_t *s, const char *uuid,
    ngx_uint_t owner, int64_t version)
{
    u_char                           id[16];
    ngx_http_apikey_id_t            *add;
    ngx_http_apikey_keyring_conf_t  *conf;

    conf = &s->kr->conf;

    if (!apikey_uuid_parse(id, uuid, ngx_strlen(uuid))) {
        return;
    }

    if (version > 0
        && ngx_http_apikey_store_has(conf->sh, conf->shpool, id, version)
           == NGX_OK)
    {
        return;
    }

    if (s->ids.nelts >= NGX_HTTP_APIKEY_IDS_MAX) {
        s->overflow = 1;
        return;
    }

    add = ngx_array_push(&s->ids);
    if (add == NULL) {
        s->overflow = 1;
        return;
    }

    ngx_memcpy(add->id, id, 16);
    add->owner = owner;
}


void
ngx_http_apikey_changes_fetch(ngx_http_apikey_sync_t *s)
{
    char                  *keys, *owners, **to;
    ngx_uint_t             i;
    ngx_http_apikey_id_t  *id;

    keys = s->fetch.keys;
    owners = s->fetch.owners;
    *keys++ = '{';
    *owners++ = '{';

    s->fetching = ngx_min(s->ids.nelts, NGX_HTTP_APIKEY_IDS);
    s->fetched = s->ids.nelts - s->fetching;
    id = (ngx_http_apikey_id_t *) s->ids.elts + s->fetched;

    for (i = 0; i < s->fetching; i++) {
        to = id[i].owner ? &owners : &keys;

        if ((*to)[-1] != '{') {
            *(*to)++ = ',';
        }

        apikey_uuid_format(*to, id[i].id);
        *to += APIKEY_UUID_TEXT_LEN;
    }

    *keys++ = '}';
    *owners++ = '}';
    *keys = '\0';
    *owners = '\0';

    s->values[0] = s->fetch.keys;
    s->values[1] = s->fetch.owners;

    (void) ngx_http_apikey_sync_ask(s, s->pg,
                                    ngx_http_apikey_changes_fetch_sql, 2,
                                    NGX_HTTP_APIKEY_CHANGES_TIMEOUT,
                                    ngx_http_apikey_changes_rows);
}


static void
ngx_http_apikey_changes_rows(ngx_http_apikey_pg_op_t *op, PGresult *res)
{
    ngx_http_apikey_id_t    *id;
    ngx_http_apikey_sync_t  *s = op->data;

    if (ngx_http_apikey_sync_ok(s, res, "fetching keys") != NGX_OK) {
        return;
    }

    (void) ngx_http_apikey_keyring_apply(s->kr, res, &s->before,
                                         NGX_HTTP_APIKEY_APPLY_NOTICE);

    id = (ngx_http_apikey_id_t *) s->ids.elts + s->fetched;

    /*
     * The position must not stay behind what is held: a Postgres restored to
     * a moment between the two would look like the one that is known.
     */

    s->changes |= s->notice;
    s->notice = 0;

    /* those behind have come meanwhile */

    s->ids.nelts -= s->fetching;
    ngx_memmove(id, id + s->fetching,
                (s->ids.nelts - s->fetched) * sizeof(ngx_http_apikey_id_t));

    ngx_http_apikey_sync_next(s);
}


/* NGX_ERROR: they are more than NGX_HTTP_APIKEY_IDS, or no ids. */

ngx_int_t
ngx_http_apikey_changes_ids(ngx_http_apikey_ids_t *list, ngx_str_t *ids)
{
    u_char      *p, *end, *lf;
    u_char       uuid[16];
    char        *keys, *owners, **to;
    ngx_uint_t   n;

    keys = list->keys;
    owners = list->owners;
    *keys++ = '{';
    *owners++ = '{';

    end = ids->data + ids->len;
    n = 0;

    for (p = ids->data; p < end; p = lf + 1) {
        lf = ngx_strlchr(p, end, '\n');

        if (lf == NULL) {
            lf = end;
        }

        to = (*p == 'k') ? &keys : &owners;
        p += (*p == 'k') ? sizeof("key ") - 1 : sizeof("owner ") - 1;

        if (lf < p || !apikey_uuid_parse(uuid, (char *) p, lf - p)
            || n++ == NGX_HTTP_APIKEY_IDS)
        {
            return NGX_ERROR;
        }

        if ((*to)[-1] != '{') {
            *(*to)++ = ',';
        }

        apikey_uuid_format(*to, uuid);
        *to += APIKEY_UUID_TEXT_LEN;
    }

    *keys++ = '}';
    *owners++ = '}';
    *keys = '\0';
    *owners = '\0';

    list->values[0] = list->keys;
    list->values[1] = list->owners;

    return NGX_OK;
}
