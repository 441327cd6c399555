
/*
 * The admin API's content handler: runs a request through its stages, parks
 * it while Postgres, the keyring or the client is waited for, and finalizes
 * it exactly once.
 *
 * One reference of r->main->count belongs to the stages from the first to
 * the last, so that it does not matter whether they ever suspend.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include <openssl/crypto.h>

#include "base/clock.h"
#include "http/admin.h"


static void ngx_http_apikey_admin_waits(ngx_http_apikey_admin_t *a,
    ngx_uint_t waiting);
static void ngx_http_apikey_admin_cleanup(void *data);


static const ngx_http_apikey_admin_stage_pt  ngx_http_apikey_admin_stages[] = {
    ngx_http_apikey_admin_route,
    ngx_http_apikey_admin_caller,
    ngx_http_apikey_admin_query,
    ngx_http_apikey_admin_body,
    ngx_http_apikey_admin_call,
    ngx_http_apikey_admin_refresh,
    ngx_http_apikey_admin_answer
};


ngx_int_t
ngx_http_apikey_admin_handler(ngx_http_request_t *r)
{
    ngx_http_cleanup_t       *cln;
    ngx_http_apikey_admin_t  *a;

    if (r != r->main) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "apikey_admin does not serve subrequests");
        return NGX_HTTP_FORBIDDEN;
    }

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    a = ngx_pcalloc(r->pool, sizeof(ngx_http_apikey_admin_t));
    if (a == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    a->request = r;
    a->pool = r->pool;
    a->amcf = ngx_http_get_module_main_conf(r, ngx_http_apikey_module);
    a->alcf = ngx_http_get_module_loc_conf(r, ngx_http_apikey_module);

    cln->handler = ngx_http_apikey_admin_cleanup;
    cln->data = a;

    if (!apikey_uuid_make(a->id, apikey_clock_real())) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* nginx would compare If-Match with the ETag after the change */

    r->disable_not_modified = 1;

    r->main->count++;

    ngx_http_apikey_admin_run(a);

    return NGX_DONE;
}


/* a may be gone when it returns. */

void
ngx_http_apikey_admin_run(ngx_http_apikey_admin_t *a)
{
    ngx_int_t            rc;
    ngx_http_request_t  *r;

    r = a->request;

    ngx_http_apikey_admin_waits(a, 0);

    for ( ;; ) {
        rc = ngx_http_apikey_admin_stages[a->stage](a);

        if (rc == NGX_AGAIN) {
            return;
        }

        if (rc != NGX_DECLINED) {
            break;
        }

        a->stage++;
    }

    ngx_http_finalize_request(r, rc == NGX_ABORT ? a->rc : rc);
}


/* From an event that is not the client's own. */

void
ngx_http_apikey_admin_resume(ngx_http_apikey_admin_t *a)
{
    ngx_connection_t    *c;
    ngx_http_request_t  *r;

    r = a->request;
    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    ngx_http_apikey_admin_run(a);

    /* the request may be gone; its connection is not before this returns */

    ngx_http_run_posted_requests(c);
}


/* Parks the request: a client that leaves meanwhile is noticed, or let go. */

void
ngx_http_apikey_admin_wait(ngx_http_apikey_admin_t *a)
{
    ngx_connection_t    *c;
    ngx_http_request_t  *r;

    r = a->request;
    c = r->connection;

    ngx_http_apikey_admin_waits(a, 1);

    r->write_event_handler = ngx_http_request_empty_handler;

    if (a->stay) {
        r->read_event_handler = ngx_http_block_reading;
        return;
    }

    r->read_event_handler = ngx_http_test_reading;

    if (c->read->ready) {
        ngx_post_event(c->read, &ngx_posted_events);

    } else if (ngx_handle_read_event(c->read, 0) != NGX_OK) {

        /* the wait ends by its own deadline */

        ngx_log_error(NGX_LOG_ALERT, c->log, 0,
                      "apikey_admin cannot watch its client");
    }
}


static void
ngx_http_apikey_admin_waits(ngx_http_apikey_admin_t *a, ngx_uint_t waiting)
{
    if (a->waiting == waiting) {
        return;
    }

    a->waiting = waiting;

    apikey_stats_add(&a->amcf->sh->stats.waiting[ngx_process_slot],
                     waiting ? 1 : (uint64_t) -1);
}


ngx_http_apikey_admin_t *
ngx_http_apikey_admin_get(ngx_http_request_t *r)
{
    ngx_http_cleanup_t  *cln;

    for (cln = r->main->cleanup; cln; cln = cln->next) {
        if (cln->handler == ngx_http_apikey_admin_cleanup) {
            return cln->data;
        }
    }

    return NULL;
}


static void
ngx_http_apikey_admin_cleanup(void *data)
{
    ngx_http_apikey_admin_t *a = data;

    ngx_http_apikey_admin_waits(a, 0);

    if (a->calling) {
        a->calling = 0;
        ngx_http_apikey_pg_abandon(a->pg, &a->op);
    }

    if (a->pause.timer_set) {
        ngx_del_timer(&a->pause);
    }

    if (a->finding) {
        a->finding = 0;
        ngx_http_apikey_keyring_abandon(&a->wait);
    }

    if (a->detach) {
        a->detach(a);
    }

    if (a->route && a->body.data
        && (a->route->body == NGX_HTTP_APIKEY_BODY_SECRET
            || a->route->body == NGX_HTTP_APIKEY_BODY_OLDER))
    {
        OPENSSL_cleanse(a->body.data, a->body.len);
    }

    OPENSSL_cleanse(a->secret, sizeof(a->secret));
}
