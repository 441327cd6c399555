
/*
 * apikeyctl schema apply and status.
 *
 * Each file runs in a transaction of its own together with the row that
 * records it and its text's SHA-256.  From the first new or changed file on
 * all of them run again, since one builds on another; the record of a file
 * takes back that of those behind it, so that a run that was cut off goes on.
 * An advisory lock lets two of us run after each other.
 */


#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unistd.h>

#include "base/version.h"

#include "ctl.h"
#include "migration.h"


/*
 * Who waits for a lock on a table holds up all who come after: waits are
 * short, and traffic runs between the attempts.
 */
#define APIKEY_CTL_LOCK_TIMEOUT  "500ms"
#define APIKEY_CTL_LOCK_PAUSE    200000
#define APIKEY_CTL_LOCK_TRIES    60


typedef enum {
    APIKEY_CTL_DONE = 0,
    APIKEY_CTL_LOCKED,           /* somebody else holds what it needs */
    APIKEY_CTL_BROKEN            /* after the reason was printed */
} apikey_ctl_ran_e;


static int apikey_ctl_schema_with(const apikey_ctl_args_t *args,
    int (*work)(PGconn *conn, apikey_migrations_t *all));
static int apikey_ctl_schema_missing(PGconn *conn, apikey_migrations_t *all);
static int apikey_ctl_schema_list(PGconn *conn, apikey_migrations_t *all);
static bool apikey_ctl_schema_run(PGconn *conn, const char *sql);
static bool apikey_ctl_schema_mark(apikey_migrations_t *all, int version,
    const char *name, const char *digest);
static bool apikey_ctl_schema_version(PGconn *conn, bool *newer);
static bool apikey_ctl_schema_file(PGconn *conn, const apikey_migration_t *m);
static apikey_ctl_ran_e apikey_ctl_schema_try(PGconn *conn,
    const apikey_migration_t *m, bool last);
static apikey_ctl_ran_e apikey_ctl_schema_script(PGconn *conn,
    const char *file, const char *text, bool last);
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
    bool                 newer, again;
    size_t               i;
    apikey_migration_t  *m;

    /* the end of the session gives it back */

    if (!apikey_ctl_schema_run(conn, "SELECT pg_advisory_lock("
                                     APIKEY_SCHEMA_LOCK ")")
        || !apikey_migrations_state(conn, all, &newer)
        || newer)
    {
        return APIKEY_CTL_FAILED;
    }

    again = false;

    for (i = 0; i < all->n; i++) {
        m = &all->migration[i];

        if (m->applied && !m->changed && !again) {
            continue;
        }

        again = true;

        if (!apikey_ctl_schema_file(conn, m)) {
            return APIKEY_CTL_FAILED;
        }

        printf("applied %s\n", m->file);
        fflush(stdout);
    }

    if (!again) {
        puts("nothing to apply");
    }

    return APIKEY_CTL_OK;
}


static int
apikey_ctl_schema_list(PGconn *conn, apikey_migrations_t *all)
{
    int                  rc;
    bool                 newer;
    size_t               i;
    apikey_migration_t  *m;

    if (!apikey_migrations_state(conn, all, &newer)) {
        return APIKEY_CTL_FAILED;
    }

    rc = APIKEY_CTL_OK;

    for (i = 0; i < all->n; i++) {
        m = &all->migration[i];

        printf("%s %s\n", !m->applied ? "pending"
                          : m->changed ? "changed" : "applied", m->file);

        if (!m->applied || m->changed) {
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

bool
apikey_migrations_state(PGconn *conn, apikey_migrations_t *all, bool *newer)
{
    int        i;
    bool       none;
    PGresult  *result;

    *newer = false;

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

    /* the column of the digest is younger than the table */

    result = apikey_ctl_query(conn, "SELECT version, name, "
                              "to_jsonb(m) ->> 'digest' "
                              "FROM apikey.migration AS m ORDER BY version",
                              0, NULL);

    if (result == NULL) {
        return false;
    }

    for (i = 0; i < PQntuples(result); i++) {
        if (!apikey_ctl_schema_mark(all, atoi(PQgetvalue(result, i, 0)),
                                    PQgetvalue(result, i, 1),
                                    PQgetvalue(result, i, 2)))
        {
            *newer = true;
        }
    }

    PQclear(result);

    return apikey_ctl_schema_version(conn, newer);
}


/* False, after it was said: this file is not known here. */

static bool
apikey_ctl_schema_mark(apikey_migrations_t *all, int version,
    const char *name, const char *digest)
{
    size_t               i;
    apikey_migration_t  *m;

    for (i = 0; i < all->n; i++) {
        m = &all->migration[i];

        if (m->version == version) {
            m->applied = true;
            m->changed = strcmp(m->digest, digest) != 0;
            return true;
        }
    }

    apikey_ctl_error("this database has %04d_%s, which is not in \"%s\": it "
                     "belongs to a newer version", version, name, all->dir);

    return false;
}


/* Files of the same names, but of a newer version. */

static bool
apikey_ctl_schema_version(PGconn *conn, bool *newer)
{
    int        version;
    bool       none;
    PGresult  *result;

    result = apikey_ctl_query(conn, "SELECT to_regprocedure("
                              "'apikey.schema_version()') IS NULL", 0, NULL);

    if (result == NULL) {
        return false;
    }

    none = PQgetvalue(result, 0, 0)[0] == 't';
    PQclear(result);

    if (none) {
        return true;
    }

    result = apikey_ctl_query(conn, "SELECT apikey.schema_version()", 0,
                              NULL);

    if (result == NULL) {
        return false;
    }

    version = atoi(PQgetvalue(result, 0, 0));
    PQclear(result);

    if (version > APIKEY_SCHEMA) {
        apikey_ctl_error("this database has schema %d, this apikeyctl knows "
                         "%d: use the newer one", version, APIKEY_SCHEMA);
        *newer = true;
    }

    return true;
}


static bool
apikey_ctl_schema_file(PGconn *conn, const apikey_migration_t *m)
{
    unsigned          i;
    apikey_ctl_ran_e  ran;

    for (i = 1; i <= APIKEY_CTL_LOCK_TRIES; i++) {
        ran = apikey_ctl_schema_try(conn, m, i == APIKEY_CTL_LOCK_TRIES);

        if (ran != APIKEY_CTL_LOCKED) {
            return ran == APIKEY_CTL_DONE;
        }

        (void) usleep(APIKEY_CTL_LOCK_PAUSE);
    }

    return false;
}


static apikey_ctl_ran_e
apikey_ctl_schema_try(PGconn *conn, const apikey_migration_t *m, bool last)
{
    apikey_ctl_ran_e           ran;
    PGTransactionStatusType    status;

    if (!apikey_ctl_schema_run(conn, "BEGIN")
        || !apikey_ctl_schema_run(conn, "SET LOCAL lock_timeout = '"
                                        APIKEY_CTL_LOCK_TIMEOUT "'"))
    {
        return APIKEY_CTL_BROKEN;
    }

    ran = apikey_ctl_schema_script(conn, m->file, m->text, last);

    if (ran == APIKEY_CTL_DONE
        && (!apikey_ctl_schema_record(conn, m)
            || !apikey_ctl_schema_run(conn, "COMMIT")))
    {
        ran = APIKEY_CTL_BROKEN;
    }

    status = PQtransactionStatus(conn);

    if ((status == PQTRANS_INTRANS || status == PQTRANS_INERROR)
        && !apikey_ctl_schema_run(conn, "ROLLBACK"))
    {
        return APIKEY_CTL_BROKEN;
    }

    return ran;
}


/* last: a lock that is not got is an error. */

static apikey_ctl_ran_e
apikey_ctl_schema_script(PGconn *conn, const char *file, const char *text,
    bool last)
{
    unsigned          statement;
    PGresult         *result;
    const char       *state;
    ExecStatusType    status;
    apikey_ctl_ran_e  ran;

    if (PQsendQuery(conn, text) != 1) {
        apikey_ctl_error("%s: %s", file, PQerrorMessage(conn));
        return APIKEY_CTL_BROKEN;
    }

    ran = APIKEY_CTL_DONE;
    statement = 0;

    while ((result = PQgetResult(conn)) != NULL) {
        status = PQresultStatus(result);
        statement++;

        if (status == PGRES_FATAL_ERROR) {
            state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

            /* lock_not_available, deadlock_detected */

            if (!last && state
                && (strcmp(state, "55P03") == 0
                    || strcmp(state, "40P01") == 0))
            {
                ran = APIKEY_CTL_LOCKED;

            } else {
                apikey_ctl_schema_error(result, file, text, statement);
                ran = APIKEY_CTL_BROKEN;
            }

        } else if (status == PGRES_COPY_IN || status == PGRES_COPY_OUT) {
            apikey_ctl_error("%s: COPY is not for migrations", file);
            PQclear(result);
            return APIKEY_CTL_BROKEN;
        }

        PQclear(result);
    }

    if (ran == APIKEY_CTL_DONE && PQtransactionStatus(conn) != PQTRANS_INTRANS)
    {
        apikey_ctl_error("%s: it ends the transaction it runs in", file);
        return APIKEY_CTL_BROKEN;
    }

    return ran;
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
    const char  *params[3];

    (void) snprintf(version, sizeof(version), "%d", m->version);

    params[0] = version;
    params[1] = m->name;
    params[2] = m->digest;

    result = apikey_ctl_query(conn, "WITH behind AS (UPDATE apikey.migration "
                              "SET digest = NULL WHERE version > $1::int) "
                              "INSERT INTO apikey.migration "
                              "(version, name, digest) "
                              "VALUES ($1::int, $2, $3) "
                              "ON CONFLICT (version) DO UPDATE "
                              "SET name = excluded.name, applied_at = now(), "
                              "digest = excluded.digest",
                              3, params);
    PQclear(result);

    return result != NULL;
}
