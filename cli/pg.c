
/*
 * Postgres for apikeyctl: one connection, blocking.
 */


#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"


PGconn *
apikey_ctl_connect(const apikey_ctl_args_t *args)
{
    PGconn      *conn;
    PGresult    *result;
    const char  *conninfo;
    const char  *names[] = { "dbname", "fallback_application_name", NULL };
    const char  *values[] = { NULL, "apikeyctl", NULL };

    conninfo = args->postgres ? args->postgres : getenv("APIKEY_POSTGRES");

    /* an empty dbname is libpq's default, so PGDATABASE and its kin hold */

    values[0] = conninfo ? conninfo : "";

    conn = PQconnectdbParams(names, values, 1);

    if (conn == NULL) {
        apikey_ctl_error("out of memory");
        return NULL;
    }

    if (PQstatus(conn) != CONNECTION_OK) {
        apikey_ctl_pg_error("cannot connect to Postgres",
                            PQerrorMessage(conn));
        PQfinish(conn);
        return NULL;
    }

    result = apikey_ctl_query(conn, "SET client_min_messages = warning", 0,
                              NULL);

    if (result == NULL) {
        PQfinish(conn);
        return NULL;
    }

    PQclear(result);

    return conn;
}


PGresult *
apikey_ctl_query(PGconn *conn, const char *sql, int nparams,
    const char *const *params)
{
    PGresult        *result;
    ExecStatusType   status;

    result = PQexecParams(conn, sql, nparams, NULL, params, NULL, NULL, 0);
    status = PQresultStatus(result);

    if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK) {
        return result;
    }

    apikey_ctl_pg_failed(conn, result);
    PQclear(result);

    return NULL;
}


/* What was refused for want of a right says whose it is. */

void
apikey_ctl_pg_failed(PGconn *conn, const PGresult *result)
{
    const char  *state;

    apikey_ctl_pg_error("Postgres", PQerrorMessage(conn));

    state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

    if (state && strcmp(state, "42501") == 0) {
        apikey_ctl_error("%s has no right to this: connect as a superuser or "
                         "a member of apikey_owner", PQuser(conn));
    }
}


/* libpq's messages end with a line break. */

void
apikey_ctl_pg_error(const char *what, const char *message)
{
    size_t  len;

    len = strlen(message);

    while (len && message[len - 1] == '\n') {
        len--;
    }

    apikey_ctl_error("%s: %.*s", what, (int) len, message);
}
