
/*
 * Connections for reports and exports: which of them is free, and whether the
 * replica is there.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "http/reports.h"


#define NGX_HTTP_APIKEY_REPORTS_EXPORTS  4
#define NGX_HTTP_APIKEY_REPORTS_AWAY     5000
#define NGX_HTTP_APIKEY_REPORTS_CONNECT  2000


typedef struct {
    ngx_http_apikey_pg_t           *report;
    ngx_http_apikey_pg_t           *exports[NGX_HTTP_APIKEY_REPORTS_EXPORTS];
} ngx_http_apikey_reports_server_t;


struct ngx_http_apikey_reports_s {
    ngx_http_apikey_reports_server_t   primary;
    ngx_http_apikey_reports_server_t   replica;      /* zeros: none */
    ngx_uint_t                         taken;        /* bit i: exports[i] of
                                                        either */
    ngx_msec_t                         back;         /* to the replica */
    unsigned                           away:1;
};


static ngx_int_t ngx_http_apikey_reports_open(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf, ngx_str_t *conninfo,
    ngx_http_apikey_reports_server_t *server);
static void ngx_http_apikey_reports_close(
    ngx_http_apikey_reports_server_t *server);
static ngx_http_apikey_reports_server_t *ngx_http_apikey_reports_server(
    ngx_http_apikey_reports_t *reports);


ngx_http_apikey_reports_t *
ngx_http_apikey_reports_start(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf)
{
    ngx_http_apikey_reports_t  *reports;

    reports = ngx_pcalloc(cycle->pool, sizeof(ngx_http_apikey_reports_t));
    if (reports == NULL) {
        return NULL;
    }

    if (ngx_http_apikey_reports_open(cycle, amcf, &amcf->conninfo,
                                     &reports->primary)
        != NGX_OK)
    {
        return NULL;
    }

    if (amcf->read_conninfo.len
        && ngx_http_apikey_reports_open(cycle, amcf, &amcf->read_conninfo,
                                        &reports->replica)
           != NGX_OK)
    {
        return NULL;
    }

    return reports;
}


static ngx_int_t
ngx_http_apikey_reports_open(ngx_cycle_t *cycle,
    ngx_http_apikey_main_conf_t *amcf, ngx_str_t *conninfo,
    ngx_http_apikey_reports_server_t *server)
{
    ngx_uint_t                 i;
    ngx_http_apikey_pg_conf_t  conf;

    ngx_memzero(&conf, sizeof(ngx_http_apikey_pg_conf_t));

    conf.conninfo = *conninfo;
    conf.connect_timeout = NGX_HTTP_APIKEY_REPORTS_CONNECT;
    conf.read_only = 1;
    conf.statement_timeout = NGX_HTTP_APIKEY_REPORT_STATEMENT;
    conf.name = "apikey report";

    server->report = ngx_http_apikey_pg_create(cycle->pool, &conf,
                                               &amcf->sh->stats, cycle->log);

    if (server->report == NULL) {
        return NGX_ERROR;
    }

    conf.statement_timeout = NGX_HTTP_APIKEY_EXPORT_STATEMENT;
    conf.name = "apikey export";

    for (i = 0; i < NGX_HTTP_APIKEY_REPORTS_EXPORTS; i++) {
        server->exports[i] = ngx_http_apikey_pg_create(cycle->pool, &conf,
                                                       NULL, cycle->log);

        if (server->exports[i] == NULL) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


void
ngx_http_apikey_reports_stop(ngx_http_apikey_reports_t *reports)
{
    ngx_http_apikey_reports_close(&reports->primary);

    if (reports->replica.report) {
        ngx_http_apikey_reports_close(&reports->replica);
    }
}


static void
ngx_http_apikey_reports_close(ngx_http_apikey_reports_server_t *server)
{
    ngx_uint_t  i;

    ngx_http_apikey_pg_close(server->report);

    for (i = 0; i < NGX_HTTP_APIKEY_REPORTS_EXPORTS; i++) {
        ngx_http_apikey_pg_close(server->exports[i]);
    }
}


static ngx_http_apikey_reports_server_t *
ngx_http_apikey_reports_server(ngx_http_apikey_reports_t *reports)
{
    if (reports->replica.report == NULL) {
        return &reports->primary;
    }

    if (reports->away
        && (ngx_msec_int_t) (reports->back - ngx_current_msec) > 0)
    {
        return &reports->primary;
    }

    reports->away = 0;

    return &reports->replica;
}


ngx_http_apikey_pg_t *
ngx_http_apikey_reports_pg(ngx_http_apikey_reports_t *reports)
{
    return ngx_http_apikey_reports_server(reports)->report;
}


ngx_uint_t
ngx_http_apikey_reports_lost(ngx_http_apikey_reports_t *reports,
    ngx_http_apikey_pg_t *pg)
{
    ngx_uint_t  i;

    if (reports->replica.report == NULL) {
        return 0;
    }

    if (pg != reports->replica.report) {

        for (i = 0; pg != reports->replica.exports[i]; i++) {
            if (i == NGX_HTTP_APIKEY_REPORTS_EXPORTS - 1) {
                return 0;
            }
        }
    }

    reports->away = 1;
    reports->back = ngx_current_msec + NGX_HTTP_APIKEY_REPORTS_AWAY;

    return 1;
}


ngx_http_apikey_pg_t *
ngx_http_apikey_reports_take(ngx_http_apikey_reports_t *reports)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_APIKEY_REPORTS_EXPORTS; i++) {

        if ((reports->taken & (1 << i)) == 0) {
            reports->taken |= 1 << i;
            return ngx_http_apikey_reports_server(reports)->exports[i];
        }
    }

    return NULL;
}


/* A session that nobody uses is closed: most workers never export. */

void
ngx_http_apikey_reports_give(ngx_http_apikey_reports_t *reports,
    ngx_http_apikey_pg_t *pg)
{
    ngx_uint_t  i;

    ngx_http_apikey_pg_drop(pg);

    for (i = 0; i < NGX_HTTP_APIKEY_REPORTS_EXPORTS; i++) {

        if (pg == reports->primary.exports[i]
            || pg == reports->replica.exports[i])
        {
            reports->taken &= ~((ngx_uint_t) 1 << i);
            return;
        }
    }
}
