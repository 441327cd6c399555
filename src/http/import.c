
/*
 * POST api-keys/import and import/usage: reads a batch, hands it to Postgres,
 * lets the keyring learn its keys, and so on to the end of the body.
 *
 * One call of SQL after another, over a connection of their own: no other
 * change waits for them.  A batch that is done stays done, whatever becomes
 * of the rest; the answer of a call that fails says how far it came.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include <openssl/crypto.h>

#include "base/jsonscan.h"
#include "http/import.h"


#define NGX_HTTP_APIKEY_IMPORT_MISMATCH  422


static ngx_int_t ngx_http_apikey_import_start(ngx_http_apikey_admin_t *a);
static void ngx_http_apikey_import_detach(ngx_http_apikey_admin_t *a);
static ngx_int_t ngx_http_apikey_import_next(ngx_http_apikey_import_t *im);
static ngx_int_t ngx_http_apikey_import_call(ngx_http_apikey_import_t *im);
static ngx_int_t ngx_http_apikey_import_called(ngx_http_apikey_import_t *im);
static ngx_int_t ngx_http_apikey_import_note(ngx_http_apikey_import_t *im);
static ngx_uint_t ngx_http_apikey_import_number(apikey_json_walk_t *w);
static ngx_int_t ngx_http_apikey_import_results(ngx_http_apikey_import_t *im,
    apikey_json_walk_t *w);
static ngx_int_t ngx_http_apikey_import_wrong(ngx_http_apikey_import_t *im);
static char *ngx_http_apikey_import_so_far(ngx_http_apikey_import_t *im,
    const char *what);
static ngx_int_t ngx_http_apikey_import_answer(ngx_http_apikey_import_t *im);


ngx_int_t
ngx_http_apikey_import(ngx_http_apikey_admin_t *a)
{
    ngx_int_t                  rc;
    ngx_http_apikey_import_t  *im;

    if (a->job == NULL) {
        rc = ngx_http_apikey_import_start(a);

        if (rc != NGX_OK) {
            return rc;
        }
    }

    im = a->job;

    do {
        rc = ngx_http_apikey_import_next(im);
    } while (rc == NGX_OK);

    if (rc == NGX_DONE) {
        return ngx_http_apikey_import_answer(im);
    }

    return rc;
}


static ngx_int_t
ngx_http_apikey_import_start(ngx_http_apikey_admin_t *a)
{
    ngx_str_t                  once;
    ngx_http_apikey_import_t  *im;

    if (a->caller != NGX_HTTP_APIKEY_CALLER_OPERATOR || a->read_only) {
        return ngx_http_apikey_admin_problem(a,
                                     NGX_HTTP_APIKEY_PROBLEM_FORBIDDEN,
                                     a->read_only
                                         ? "A token with role=read may only "
                                           "GET."
                                         : "Only an operator may do this.",
                                     NULL);
    }

    im = ngx_pcalloc(a->request->pool, sizeof(ngx_http_apikey_import_t));
    if (im == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    im->admin = a;
    im->usage = (ngx_strcmp(a->route->function, "usage_import") == 0);
    im->once = ngx_http_apikey_admin_header(a->request, "idempotency-key",
                                            &once)
               != 0;

    a->job = im;
    a->detach = ngx_http_apikey_import_detach;

    if (a->amcf->keyring) {
        a->pg = ngx_http_apikey_keyring_bulk(a->amcf->keyring);
    }

    return ngx_http_apikey_import_open(im);
}


static void
ngx_http_apikey_import_detach(ngx_http_apikey_admin_t *a)
{
    ngx_buf_t                 *b;
    ngx_chain_t               *cl;
    ngx_http_apikey_import_t  *im;

    im = a->job;

    /* what was not read to its end */

    cl = a->request->request_body ? a->request->request_body->bufs : NULL;

    for ( /* void */ ; cl; cl = cl->next) {
        b = cl->buf;

        if (ngx_buf_in_memory(b)) {
            OPENSSL_cleanse(b->pos, b->last - b->pos);
        }
    }

    ngx_http_apikey_import_wipe(&im->names);
    ngx_http_apikey_import_wipe(&im->row);
    ngx_http_apikey_import_wipe(&im->object);
    ngx_http_apikey_import_wipe(&im->scratch);
    ngx_http_apikey_import_wipe(&im->batch);
    ngx_http_apikey_import_wipe(&im->results);

    if (a->pool != a->request->pool) {
        ngx_destroy_pool(a->pool);
        a->pool = a->request->pool;
    }
}


/* NGX_OK: the next step; NGX_DONE: that was all; else as a stage. */

static ngx_int_t
ngx_http_apikey_import_next(ngx_http_apikey_import_t *im)
{
    ngx_int_t                 rc;
    ngx_http_apikey_admin_t  *a;

    a = im->admin;

    switch (im->state) {

    case NGX_HTTP_APIKEY_IMPORT_READ:
        rc = ngx_http_apikey_import_read(im);

        if (rc == NGX_DECLINED) {
            return ngx_http_apikey_import_wrong(im);
        }

        if (rc != NGX_OK) {
            return rc;
        }

        /*
         * At least one call: what it says of the request itself.  Under an
         * Idempotency-Key one without rows is the last, so that a body with
         * more or fewer of them is another one.
         */

        if (im->nbatch == 0 && a->part && (!im->once || im->sealed)) {
            return NGX_DONE;
        }

        im->sealed = (im->nbatch == 0);

        return ngx_http_apikey_import_call(im);

    case NGX_HTTP_APIKEY_IMPORT_CALL:
        rc = ngx_http_apikey_import_called(im);

        if (rc != NGX_OK) {
            return rc;
        }

        im->state = NGX_HTTP_APIKEY_IMPORT_APPLY;

        return NGX_OK;

    default: /* NGX_HTTP_APIKEY_IMPORT_APPLY */

        if (ngx_http_apikey_admin_refresh(a) == NGX_AGAIN) {
            return NGX_AGAIN;
        }

        ngx_destroy_pool(a->pool);
        a->pool = a->request->pool;

        ngx_str_null(&a->refresh);
        ngx_str_null(&a->headers);
        ngx_str_null(&a->answer);

        im->state = NGX_HTTP_APIKEY_IMPORT_READ;

        return NGX_OK;
    }
}


static ngx_int_t
ngx_http_apikey_import_call(ngx_http_apikey_import_t *im)
{
    ngx_pool_t               *pool;
    ngx_connection_t         *c;
    ngx_http_apikey_admin_t  *a;

    a = im->admin;
    c = a->request->connection;

    pool = ngx_create_pool(NGX_DEFAULT_POOL_SIZE, c->log);
    if (pool == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    a->pool = pool;
    a->part++;

    if (im->nbatch) {
        apikey_json_array_end(&im->json);
        a->body.data = im->batch.data;
        a->body.len = apikey_json_len(&im->json);

        if (im->json.overflow) {
            ngx_log_error(NGX_LOG_ALERT, c->log, 0,
                          "apikey_admin import does not fit its buffer");
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

    } else {
        ngx_str_set(&a->body, "[]");
    }

    im->state = NGX_HTTP_APIKEY_IMPORT_CALL;

    /* the client waits for us now */

    if (c->read->timer_set) {
        ngx_del_timer(c->read);
    }

    return ngx_http_apikey_admin_call_start(a);
}


/* NGX_OK: the batch is done; NGX_DECLINED: a problem to be answered. */

static ngx_int_t
ngx_http_apikey_import_called(ngx_http_apikey_import_t *im)
{
    char                     *detail;
    ngx_http_apikey_admin_t  *a;

    a = im->admin;

    if (!a->failed && a->status == NGX_HTTP_OK) {
        return ngx_http_apikey_import_note(im);
    }

    /* another body under an Idempotency-Key: rows before were replays */

    if (im->ndone == 0
        || (!a->failed && a->status == NGX_HTTP_APIKEY_IMPORT_MISMATCH))
    {
        return ngx_http_apikey_admin_call_finish(a);
    }

    detail = ngx_http_apikey_import_so_far(im, "The rest could not be "
                                               "written.");
    if (detail == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_apikey_admin_problem(a,
                                     NGX_HTTP_APIKEY_PROBLEM_UNAVAILABLE,
                                     detail, NULL);
}


/* {"dry_run":...,"created":...,"unchanged":...,"failed":...,"results":[]} */

static ngx_int_t
ngx_http_apikey_import_note(ngx_http_apikey_import_t *im)
{
    ngx_http_apikey_admin_t  *a;
    apikey_json_walk_t        w;

    a = im->admin;

    if (!apikey_json_walk(&w, (char *) a->answer.data, a->answer.len)) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* whether it was a replay */

    if (a->part == 1 && a->headers.len) {
        im->headers.len = a->headers.len;
        im->headers.data = ngx_pstrdup(a->request->pool, &a->headers);

        if (im->headers.data == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    while (apikey_json_walk_next(&w)) {

        if (apikey_json_walk_named(&w, "dry_run")) {
            im->dry_run = (*w.value == 't');

        } else if (apikey_json_walk_named(&w, "created")) {
            im->created += ngx_http_apikey_import_number(&w);

        } else if (apikey_json_walk_named(&w, "unchanged")) {
            im->unchanged += ngx_http_apikey_import_number(&w);

        } else if (apikey_json_walk_named(&w, "failed")) {
            im->failed += ngx_http_apikey_import_number(&w);

        } else if (ngx_http_apikey_import_results(im, &w) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    im->ndone += im->nbatch;
    im->nbatch = 0;

    return NGX_OK;
}


static ngx_uint_t
ngx_http_apikey_import_number(apikey_json_walk_t *w)
{
    ngx_int_t  n;

    n = ngx_atoi((u_char *) w->value, w->value_len);

    return (n == NGX_ERROR) ? 0 : (ngx_uint_t) n;
}


/* What stands between the brackets. */

static ngx_int_t
ngx_http_apikey_import_results(ngx_http_apikey_import_t *im,
    apikey_json_walk_t *w)
{
    size_t                         len;
    ngx_log_t                     *log;
    ngx_http_apikey_import_buf_t  *results;

    log = im->admin->request->connection->log;
    results = &im->results;

    len = w->value_len - 2;

    if (len == 0
        || (im->usage && results->len > NGX_HTTP_APIKEY_IMPORT_FAILS))
    {
        return NGX_OK;
    }

    if (ngx_http_apikey_import_room(results, results->len + len + 1, log)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (results->len) {
        results->data[results->len++] = ',';
    }

    ngx_memcpy(results->data + results->len, w->value + 1, len);
    results->len += len;

    return NGX_OK;
}


/* The body cannot be read any further. */

static ngx_int_t
ngx_http_apikey_import_wrong(ngx_http_apikey_import_t *im)
{
    u_char                          at[1 + NGX_INT_T_LEN];
    char                           *detail;
    ngx_http_apikey_admin_t        *a;
    ngx_http_apikey_admin_error_t   error;

    a = im->admin;

    detail = ngx_http_apikey_import_so_far(im, "The body cannot be read.");
    if (detail == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    error.location.data = at;
    error.location.len = ngx_sprintf(at, "/%ui", im->nrows) - at;
    error.code = im->code;
    error.message = im->why;

    return ngx_http_apikey_admin_problem(a,
                                     NGX_HTTP_APIKEY_PROBLEM_INVALID_REQUEST,
                                     detail, &error);
}


static char *
ngx_http_apikey_import_so_far(ngx_http_apikey_import_t *im, const char *what)
{
    u_char  *detail;

    detail = ngx_pnalloc(im->admin->request->pool, 256);
    if (detail == NULL) {
        return NULL;
    }

    if (im->ndone && !im->dry_run) {
        ngx_sprintf(detail, "%s %ui rows before were imported: to send them "
                    "again is safe.%Z", what, im->ndone);

    } else {
        ngx_sprintf(detail, "%s Nothing was imported.%Z", what);
    }

    return (char *) detail;
}


static ngx_int_t
ngx_http_apikey_import_answer(ngx_http_apikey_import_t *im)
{
    size_t                         head;
    u_char                        *p;
    ngx_log_t                     *log;
    ngx_http_apikey_admin_t       *a;
    ngx_http_apikey_import_buf_t  *results;

    a = im->admin;
    log = a->request->connection->log;
    results = &im->results;

    head = sizeof("{\"dry_run\":false,\"total\":,\"created\":,"
                  "\"unchanged\":,\"failed\":,\"results\":[]}")
           + 4 * NGX_INT_T_LEN;

    if (ngx_http_apikey_import_room(results, head + results->len, log)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* in front of what is there */

    ngx_memmove(results->data + head, results->data, results->len);

    p = ngx_sprintf(results->data, "{\"dry_run\":%s,\"total\":%ui,"
                    "\"created\":%ui,\"unchanged\":%ui,\"failed\":%ui,"
                    "\"results\":[", im->dry_run ? "true" : "false",
                    im->ndone, im->created, im->unchanged, im->failed);

    ngx_memmove(p, results->data + head, results->len);
    p += results->len;

    *p++ = ']';
    *p++ = '}';

    a->answer.data = results->data;
    a->answer.len = p - results->data;

    a->status = NGX_HTTP_OK;
    a->headers = im->headers;

    return NGX_DECLINED;
}
