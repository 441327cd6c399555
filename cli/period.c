
/*
 * apikeyctl period and correct: billing periods are closed and listed, usage
 * is corrected.  All rules stand in schema/0025_corrections.sql.
 */


#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"


/* shipping waits while a call closes the periods of so many owners */
#define APIKEY_PERIOD_OWNERS  "500"

#define APIKEY_CORRECT_MAX    16


static int apikey_period_close(PGconn *conn, const char *before,
    const char *owner, long *closed);
static int apikey_period_quarantine(PGconn *conn);
static bool apikey_correct_member(const char *operand, char *name,
    size_t size, const char **value);
static int apikey_correct_call(const apikey_ctl_args_t *args, PGconn *conn,
    PGresult **result);
static int apikey_period_query(PGconn *conn, const char *sql, int nparams,
    const char *const *params, PGresult **result);


/* What failed may have closed some: they stay closed, and are not again. */

int
apikey_ctl_period_close(const apikey_ctl_args_t *args)
{
    int      rc;
    long     closed;
    PGconn  *conn;

    conn = apikey_ctl_connect(args);
    if (conn == NULL) {
        return APIKEY_CTL_FAILED;
    }

    closed = 0;

    rc = apikey_period_close(conn, args->n ? args->operand[0] : NULL,
                             args->n > 1 ? args->operand[1] : NULL, &closed);

    if (rc == APIKEY_CTL_OK) {
        rc = apikey_period_quarantine(conn);
    }

    PQfinish(conn);

    if (rc == APIKEY_CTL_OK || closed) {
        printf("closed %ld period%s\n", closed, closed == 1 ? "" : "s");
    }

    return rc;
}


static int
apikey_period_close(PGconn *conn, const char *before, const char *owner,
    long *closed)
{
    int          rc;
    char        *after;
    PGresult    *result;
    const char  *values[4];

    after = NULL;

    do {
        values[0] = before;
        values[1] = owner;
        values[2] = after;
        values[3] = APIKEY_PERIOD_OWNERS;

        rc = apikey_period_query(conn, "SELECT next, closed "
                                 "FROM apikey.periods_close($1, $2, $3, "
                                 "$4::text::int)", 4, values, &result);
        free(after);

        if (rc != APIKEY_CTL_OK) {
            return rc;
        }

        *closed += strtol(PQgetvalue(result, 0, 1), NULL, 10);

        after = PQgetisnull(result, 0, 0)
                ? NULL : strdup(PQgetvalue(result, 0, 0));

        PQclear(result);

    } while (after);

    return APIKEY_CTL_OK;
}


static int
apikey_period_quarantine(PGconn *conn)
{
    PGresult    *result;
    const char  *n;

    result = apikey_ctl_query(conn, "SELECT count(*) "
                              "FROM apikey.usage_quarantine", 0, NULL);

    if (result == NULL) {
        return APIKEY_CTL_FAILED;
    }

    n = PQgetvalue(result, 0, 0);

    if (strcmp(n, "0") != 0) {
        apikey_ctl_say("%s in quarantine: replayed now, what is of a closed "
                       "period is booked as late", n);
    }

    PQclear(result);

    return APIKEY_CTL_OK;
}


int
apikey_ctl_period_show(const apikey_ctl_args_t *args)
{
    int          i;
    PGconn      *conn;
    PGresult    *result;
    const char  *owner;

    conn = apikey_ctl_connect(args);
    if (conn == NULL) {
        return APIKEY_CTL_FAILED;
    }

    owner = args->n ? args->operand[0] : NULL;

    result = apikey_ctl_query(conn, "SELECT coalesce(owner, '-'), "
        "to_char(start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI\"Z\"'), "
        "to_char(\"end\" AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI\"Z\"'), "
        "requests, trim_scale(cost), unpriced, corrections, "
        "trim_scale(corrections_cost) FROM apikey.billing_periods "
        "WHERE owner = $1 OR $1 IS NULL ORDER BY \"end\" DESC, owner",
        1, &owner);

    PQfinish(conn);

    if (result == NULL) {
        return APIKEY_CTL_FAILED;
    }

    for (i = 0; i < PQntuples(result); i++) {
        printf("%s  %s  %s  requests %s  cost %s  unpriced %s  "
               "corrections %s  cost %s\n",
               PQgetvalue(result, i, 1), PQgetvalue(result, i, 2),
               PQgetvalue(result, i, 0), PQgetvalue(result, i, 3),
               PQgetvalue(result, i, 4), PQgetvalue(result, i, 5),
               PQgetvalue(result, i, 6), PQgetvalue(result, i, 7));
    }

    PQclear(result);

    return APIKEY_CTL_OK;
}


/* correct REQUEST_ID void|NAME=VALUE..., correct - NAME=DIFFERENCE... */

int
apikey_ctl_correct(const apikey_ctl_args_t *args)
{
    int        rc;
    PGconn    *conn;
    PGresult  *result;

    if (args->n < 2) {
        apikey_ctl_error("correct: say what is to be corrected");
        return APIKEY_CTL_USAGE;
    }

    conn = apikey_ctl_connect(args);
    if (conn == NULL) {
        return APIKEY_CTL_FAILED;
    }

    rc = apikey_correct_call(args, conn, &result);

    PQfinish(conn);

    if (rc != APIKEY_CTL_OK) {
        return rc;
    }

    printf("%s  counts at %s  requests %s  tokens %s  cost %s\n",
           PQgetvalue(result, 0, 0), PQgetvalue(result, 0, 1),
           PQgetvalue(result, 0, 2), PQgetvalue(result, 0, 3),
           PQgetvalue(result, 0, 4));

    PQclear(result);

    return APIKEY_CTL_OK;
}


/* Names and values are parameters: $3, $4, and so on. */

static int
apikey_correct_call(const apikey_ctl_args_t *args, PGconn *conn,
    PGresult **result)
{
    int          n;
    bool         one;
    char         sql[1024], name[APIKEY_CORRECT_MAX][32];
    size_t       i, len;
    const char  *values[2 + 2 * APIKEY_CORRECT_MAX];

    one = strcmp(args->operand[0], "-") != 0;

    values[0] = args->operand[0];
    values[1] = args->reason;
    n = 2;

    len = (size_t) snprintf(sql, sizeof(sql), "SELECT id, "
              "to_char(at AT TIME ZONE 'UTC', "
              "'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), requests, "
              "tokens_input + tokens_output, apikey.money_text(cost), "
              "$1::text FROM apikey.%s(%sjsonb_object(ARRAY[",
              one ? "usage_correct" : "usage_adjust", one ? "$1, " : "");

    for (i = 1; i < args->n && i <= APIKEY_CORRECT_MAX; i++) {

        if (!apikey_correct_member(args->operand[i], name[i - 1],
                                   sizeof(name[0]), &values[n + 1]))
        {
            return APIKEY_CTL_USAGE;
        }

        values[n] = name[i - 1];
        n += 2;

        len += (size_t) snprintf(sql + len, sizeof(sql) - len, "%s$%d, $%d",
                                 i > 1 ? ", " : "", n - 1, n);
    }

    snprintf(sql + len, sizeof(sql) - len, "]::text[]), $2)");

    return apikey_period_query(conn, sql, n, values, result);
}


static bool
apikey_correct_member(const char *operand, char *name, size_t size,
    const char **value)
{
    size_t  len;

    if (strcmp(operand, "void") == 0) {
        memcpy(name, "void", sizeof("void"));
        *value = "true";
        return true;
    }

    len = strcspn(operand, "=");

    if (operand[len] != '=' || len == 0 || len >= size) {
        apikey_ctl_error("correct: \"%s\" is no NAME=VALUE", operand);
        return false;
    }

    memcpy(name, operand, len);
    name[len] = '\0';
    *value = operand + len + 1;

    return true;
}


/* check_violation and no_data_found: what the schema says of arguments. */

static int
apikey_period_query(PGconn *conn, const char *sql, int nparams,
    const char *const *params, PGresult **result)
{
    int          rc;
    const char  *state;

    *result = PQexecParams(conn, sql, nparams, NULL, params, NULL, NULL, 0);

    if (PQresultStatus(*result) == PGRES_TUPLES_OK) {
        return APIKEY_CTL_OK;
    }

    state = PQresultErrorField(*result, PG_DIAG_SQLSTATE);

    if (state && (strcmp(state, "23514") == 0 || strcmp(state, "P0002") == 0))
    {
        rc = APIKEY_CTL_USAGE;
        apikey_ctl_error("%s", PQresultErrorField(*result,
                                                  PG_DIAG_MESSAGE_PRIMARY));

    } else {
        rc = APIKEY_CTL_FAILED;
        apikey_ctl_pg_failed(conn, *result);
    }

    PQclear(*result);

    return rc;
}
