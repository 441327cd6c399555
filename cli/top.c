
/*
 * apikeyctl top: who uses most, out of the view for dashboards, so that the
 * rights of apikey_reader are enough.
 */


#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"


#define APIKEY_TOP_ROWS  20


static const char *apikey_top_column(const apikey_ctl_args_t *args);
static int apikey_top_show(PGconn *conn, const char *column, PGresult **last);
static void apikey_top_row(const PGresult *result, int row,
    const PGresult *last);
static double apikey_top_rate(const PGresult *result, int row,
    const PGresult *last);
static const char *apikey_top_money(char *text);
static const char *apikey_top_plain(char *text);


int
apikey_ctl_top(const apikey_ctl_args_t *args)
{
    int          rc;
    bool         live;
    PGconn      *conn;
    PGresult    *last;
    const char  *column;

    column = apikey_top_column(args);
    if (column == NULL) {
        return APIKEY_CTL_USAGE;
    }

    conn = apikey_ctl_connect(args);
    if (conn == NULL) {
        return APIKEY_CTL_FAILED;
    }

    live = isatty(STDOUT_FILENO);
    last = NULL;

    for ( ;; ) {
        if (live) {
            fputs("\033[H\033[2J", stdout);
        }

        rc = apikey_top_show(conn, column, &last);

        if (rc != APIKEY_CTL_OK || !live || fflush(stdout) == EOF) {
            break;
        }

        sleep(2);
    }

    PQclear(last);
    PQfinish(conn);

    return rc;
}


static const char *
apikey_top_column(const apikey_ctl_args_t *args)
{
    size_t                    i;
    static const char *const  columns[] = { "key", "owner", "service",
        "endpoint", "model", "verdict", "node" };

    for (i = 0; i < sizeof(columns) / sizeof(columns[0]); i++) {
        if (strcmp(args->n ? args->operand[0] : "key", columns[i]) == 0) {
            return columns[i];
        }
    }

    apikey_ctl_error("top: \"%s\" is none of key, owner, service, endpoint, "
                     "model, verdict, node", args->operand[0]);

    return NULL;
}


static int
apikey_top_show(PGconn *conn, const char *column, PGresult **last)
{
    int        i;
    char       sql[1024];
    PGresult  *result;

    snprintf(sql, sizeof(sql), "SELECT coalesce(%s::text, '-'), "
             "sum(requests), sum(refused), sum(errors), sum(tokens), "
             "sum(cost), extract(epoch FROM clock_timestamp()), "
             "to_char(apikey.usage_as_of() AT TIME ZONE 'UTC', "
             "'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), sum(sum(requests)) OVER (), "
             "sum(unpriced) "
             "FROM apikey.usage_hourly "
             "WHERE start >= date_trunc('hour', now(), 'UTC') "
             "- interval '1 hour' GROUP BY 1 "
             "ORDER BY sum(requests) + sum(refused) DESC, 1 LIMIT %d",
             column, APIKEY_TOP_ROWS);

    result = apikey_ctl_query(conn, sql, 0, NULL);
    if (result == NULL) {
        return APIKEY_CTL_FAILED;
    }

    if (PQntuples(result)) {
        printf("as of %s, %s requests in this hour and the last one\n",
               PQgetvalue(result, 0, 7), PQgetvalue(result, 0, 8));
    }

    printf("%9s %12s %10s %10s %14s %16s %10s  %s\n", *last ? "req/s" : "",
           "requests", "refused", "errors", "tokens", "cost", "unpriced",
           column);

    for (i = 0; i < PQntuples(result); i++) {
        apikey_top_row(result, i, *last);
    }

    PQclear(*last);
    *last = result;

    return APIKEY_CTL_OK;
}


static void
apikey_top_row(const PGresult *result, int row, const PGresult *last)
{
    if (last) {
        printf("%9.1f", apikey_top_rate(result, row, last));

    } else {
        printf("%9s", "");
    }

    printf(" %12s %10s %10s %14s %16s %10s  %s\n", PQgetvalue(result, row, 1),
           PQgetvalue(result, row, 2), PQgetvalue(result, row, 3),
           PQgetvalue(result, row, 4),
           apikey_top_money(PQgetvalue(result, row, 5)),
           PQgetvalue(result, row, 9),
           apikey_top_plain(PQgetvalue(result, row, 0)));
}


/* An amount as everywhere: of nine decimals two stay, and what is not 0. */

static const char *
apikey_top_money(char *text)
{
    char  *point, *end;

    point = strchr(text, '.');

    if (point) {
        for (end = text + strlen(text); end > point + 3; end--) {
            if (end[-1] != '0') {
                break;
            }
        }

        *end = '\0';
    }

    return text;
}


static double
apikey_top_rate(const PGresult *result, int row, const PGresult *last)
{
    int     i;
    double  time, n;

    time = strtod(PQgetvalue(result, row, 6), NULL);
    n = strtod(PQgetvalue(result, row, 1), NULL);

    for (i = 0; i < PQntuples(last); i++) {
        if (strcmp(PQgetvalue(last, i, 0), PQgetvalue(result, row, 0)) == 0) {
            time -= strtod(PQgetvalue(last, i, 6), NULL);
            n -= strtod(PQgetvalue(last, i, 1), NULL);

            return time > 0 && n > 0 ? n / time : 0;
        }
    }

    return 0;
}


/* What stands there is others' text, and this may be a terminal. */

static const char *
apikey_top_plain(char *text)
{
    char           *p;
    unsigned char   ch;

    for (p = text; *p; p++) {
        ch = (unsigned char) *p;

        if (ch < 0x20 || ch == 0x7f) {
            *p = '?';
        }
    }

    return text;
}
