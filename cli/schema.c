
/*
 * apikeyctl schema apply and status.
 *
 * Each file runs in a transaction of its own together with the row that
 * records it; an advisory lock lets two of us run after each other.
 */


#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"
#include "migration.h"


static int apikey_ctl_schema_with(const apikey_ctl_args_t *args,
    int (*work)(PGconn *conn, apikey_migrations_t *all));
static int apikey_ctl_schema_missing(PGconn *conn, apikey_migrations_t *all);
static int apikey_ctl_schema_list(PGconn *conn, apikey_migrations_t *all);
static bool apikey_ctl_schema_run(PGconn *conn, const char *sql);
static bool apikey_ctl_schema_applied(PGconn *conn, apikey_migrations_t *all);
static void apikey_ctl_schema_mark(apikey_migrations_t *all, int version,
    const char *name);
static bool apikey_ctl_schema_file(PGconn *conn,
    const apikey_migrations_t *all, const apikey_migration_t *m);
static bool apikey_ctl_schema_script(PGconn *conn, const char *file,
    const char *text);
static void apikey_ctl_schema_error(const PGresult *result, const char *file,
    const char *text, unsigned statement);
static bool apikey_ctl_schema_record(PGconn *conn,
    const apikey_migration_t *m);


int
apikey_ctl_schema_apply(const apikey_ctl_args_t *args)
{
    return apikey_ctl_schema_with(args, apikey_ctl_schema_missing);
}


int
apikey_ctl_schema_status(const apikey_ctl_args_t *args)
{
    return apikey_ctl_schema_with(args, apikey_ctl_schema_list);
}


static int
apikey_ctl_schema_with(const apikey_ctl_args_t *args,
    int (*work)(PGconn *conn, apikey_migrations_t *all))
{
    int                   rc;
    PGconn               *conn;
    apikey_migrations_t   all;

    rc = APIKEY_CTL_FAILED;

    if (apikey_migrations_read(&all, args->dir)) {
        conn = apikey_ctl_connect(args);

        if (conn) {
            rc = work(conn, &all);
            PQfinish(conn);
        }
    }

    apikey_migrations_free(&all);

    return rc;
}


static int
apikey_ctl_schema_missing(PGconn *conn, apikey_migrations_t *all)
{
    size_t    i;
    unsigned  n;

    /* "apikey" as a number; the end of the session gives it back */

    if (!apikey_ctl_schema_run(conn,
                               "SELECT pg_advisory_lock(107135432877433)")
        || !apikey_ctl_schema_applied(conn, all))
    {
        return APIKEY_CTL_FAILED;
    }

    n = 0;

    for (i = 0; i < all->n; i++) {
        if (all->migration[i].applied) {
            continue;
        }

        if (!apikey_ctl_schema_file(conn, all, &all->migration[i])) {
            return APIKEY_CTL_FAILED;
        }

        printf("applied %s\n", all->migration[i].file);
        fflush(stdout);
        n++;
    }

    if (n == 0) {
        puts("nothing to apply");
    }

    return APIKEY_CTL_OK;
}


static int
apikey_ctl_schema_list(PGconn *conn, apikey_migrations_t *all)
{
    int     rc;
    size_t  i;

    if (!apikey_ctl_schema_applied(conn, all)) {
        return APIKEY_CTL_FAILED;
    }

    rc = APIKEY_CTL_OK;

    for (i = 0; i < all->n; i++) {
        if (all->migration[i].applied) {
            printf("applied %s\n", all->migration[i].file);

        } else {
            printf("pending %s\n", all->migration[i].file);
            rc = APIKEY_CTL_PENDING;
        }
    }

    return rc;
}


static bool
apikey_ctl_schema_run(PGconn *conn, const char *sql)
{
    PGresult  *result;

    result = apikey_ctl_query(conn, sql, 0, NULL);
    PQclear(result);

    return result != NULL;
}


/* The first migration makes the table: without it none is applied. */

static bool
apikey_ctl_schema_applied(PGconn *conn, apikey_migrations_t *all)
{
    int        i;
    bool       none;
    PGresult  *result;

    result = apikey_ctl_query(conn,
                           "SELECT to_regclass('apikey.migration') IS NULL",
                           0, NULL);

    if (result == NULL) {
        return false;
    }

    none = PQgetvalue(result, 0, 0)[0] == 't';
    PQclear(result);

    if (none) {
        return true;
    }

    result = apikey_ctl_query(conn, "SELECT version, name "
                              "FROM apikey.migration ORDER BY version",
                              0, NULL);

    if (result == NULL) {
        return false;
    }

    for (i = 0; i < PQntuples(result); i++) {
        apikey_ctl_schema_mark(all, atoi(PQgetvalue(result, i, 0)),
                               PQgetvalue(result, i, 1));
    }

    PQclear(result);

    return true;
}


static void
apikey_ctl_schema_mark(apikey_migrations_t *all, int version,
    const char *name)
{
    size_t  i;

    for (i = 0; i < all->n; i++) {
        if (all->migration[i].version == version) {
            all->migration[i].applied = true;
            return;
        }
    }

    apikey_ctl_error("this database has %04d_%s, which is not in \"%s\": it "
                     "belongs to a newer version", version, name, all->dir);
}


static bool
apikey_ctl_schema_file(PGconn *conn, const apikey_migrations_t *all,
    const apikey_migration_t *m)
{
    bool                       done;
    char                      *text;
    PGTransactionStatusType    status;

    text = apikey_migration_text(all, m);

    if (text == NULL || !apikey_ctl_schema_run(conn, "BEGIN")) {
        free(text);
        return false;
    }

    done = apikey_ctl_schema_script(conn, m->file, text)
           && apikey_ctl_schema_record(conn, m)
           && apikey_ctl_schema_run(conn, "COMMIT");

    free(text);

    status = PQtransactionStatus(conn);

    if (!done && (status == PQTRANS_INTRANS || status == PQTRANS_INERROR)) {
        (void) apikey_ctl_schema_run(conn, "ROLLBACK");
    }

    return done;
}


static bool
apikey_ctl_schema_script(PGconn *conn, const char *file, const char *text)
{
    bool             good;
    unsigned         statement;
    PGresult        *result;
    ExecStatusType   status;

    if (PQsendQuery(conn, text) != 1) {
        apikey_ctl_error("%s: %s", file, PQerrorMessage(conn));
        return false;
    }

    good = true;
    statement = 0;

    while ((result = PQgetResult(conn)) != NULL) {
        status = PQresultStatus(result);
        statement++;

        if (status == PGRES_FATAL_ERROR) {
            apikey_ctl_schema_error(result, file, text, statement);
            good = false;

        } else if (status == PGRES_COPY_IN || status == PGRES_COPY_OUT) {
            apikey_ctl_error("%s: COPY is not for migrations", file);
            PQclear(result);
            return false;
        }

        PQclear(result);
    }

    if (good && PQtransactionStatus(conn) != PQTRANS_INTRANS) {
        apikey_ctl_error("%s: it ends the transaction it runs in", file);
        return false;
    }

    return good;
}


/* "file:line: message", or the number of the statement where no line is known;
   the position counts characters. */

static void
apikey_ctl_schema_error(const PGresult *result, const char *file,
    const char *text, unsigned statement)
{
    long         position;
    unsigned     line;
    const char  *message, *at, *detail;

    message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    at = PQresultErrorField(result, PG_DIAG_STATEMENT_POSITION);

    if (message == NULL) {
        message = PQresultErrorMessage(result);
    }

    if (at) {
        line = 1;

        for (position = atol(at) - 1; position > 0 && *text; text++) {
            line += *text == '\n';
            position -= (text[1] & 0xc0) != 0x80;
        }

        apikey_ctl_error("%s:%u: %s", file, line, message);

    } else {
        apikey_ctl_error("%s: statement %u: %s", file, statement, message);
    }

    detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);

    if (detail) {
        apikey_ctl_error("detail: %s", detail);
    }

    detail = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);

    if (detail) {
        apikey_ctl_error("hint: %s", detail);
    }

    detail = PQresultErrorField(result, PG_DIAG_CONTEXT);

    if (detail) {
        apikey_ctl_error("context: %s", detail);
    }
}


static bool
apikey_ctl_schema_record(PGconn *conn, const apikey_migration_t *m)
{
    char         version[16];
    PGresult    *result;
    const char  *params[2];

    (void) snprintf(version, sizeof(version), "%d", m->version);

    params[0] = version;
    params[1] = m->name;

    result = apikey_ctl_query(conn, "INSERT INTO apikey.migration "
                              "(version, name) VALUES ($1::int, $2)",
                              2, params);
    PQclear(result);

    return result != NULL;
}
