
/*
 * apikeyctl set: what is set per installation.  Which names there are and
 * what they take is known to Postgres (schema/0037_settings.sql).
 */


#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "ctl.h"


static int apikey_ctl_set_show(PGconn *conn, const char *name);
static const char *apikey_ctl_set_short(const char *value);
static bool apikey_ctl_set_file(const char **value, char *text, size_t size);
static int apikey_ctl_set_write(PGconn *conn, const char *const *operand);


int
apikey_ctl_set(const apikey_ctl_args_t *args)
{
    int      rc;
    PGconn  *conn;

    conn = apikey_ctl_connect(args);

    if (conn == NULL) {
        return APIKEY_CTL_FAILED;
    }

    if (args->n < 2) {
        rc = apikey_ctl_set_show(conn, args->n ? args->operand[0] : NULL);

    } else {
        rc = apikey_ctl_set_write(conn, args->operand);
    }

    PQfinish(conn);

    return rc;
}


/* One value alone, or all with what they mean. */

static int
apikey_ctl_set_show(PGconn *conn, const char *name)
{
    int         i, n;
    PGresult   *result;

    result = apikey_ctl_query(conn, "SELECT name, value, meaning "
                              "FROM apikey.setting_list() "
                              "WHERE name = $1 OR $1 IS NULL", 1, &name);

    if (result == NULL) {
        return APIKEY_CTL_FAILED;
    }

    n = PQntuples(result);

    if (name && n) {
        puts(PQgetvalue(result, 0, 1));

    } else if (name) {
        apikey_ctl_error("%s: there is no such setting", name);

    } else {
        for (i = 0; i < n; i++) {
            printf("%-14s %-14s %s\n", PQgetvalue(result, i, 0),
                   apikey_ctl_set_short(PQgetvalue(result, i, 1)),
                   PQgetvalue(result, i, 2));
        }
    }

    PQclear(result);

    return n ? APIKEY_CTL_OK : APIKEY_CTL_USAGE;
}


/* What came out of a file is no word in a table. */

static const char *
apikey_ctl_set_short(const char *value)
{
    if (*value == '\0') {
        return "-";
    }

    return strchr(value, '\n') || *value == '{' ? "(set)" : value;
}


/* leak_keys takes the file that GitHub serves; all nodes read it here. */

static bool
apikey_ctl_set_file(const char **value, char *text, size_t size)
{
    FILE    *f;
    size_t   n;

    f = fopen(*value, "r");
    n = f ? fread(text, 1, size - 1, f) : 0;

    if (f == NULL || ferror(f) || n == 0 || n == size - 1) {
        apikey_ctl_error("cannot read \"%s\": %s", *value,
                         f == NULL || ferror(f) ? strerror(errno)
                         : n ? "it is too long" : "it is empty");
        if (f) {
            fclose(f);
        }

        return false;
    }

    fclose(f);

    text[n] = '\0';
    *value = text;

    return true;
}


static int
apikey_ctl_set_write(PGconn *conn, const char *const *operand)
{
    int               rc;
    char              text[65536];
    PGresult         *result;
    const char       *state, *values[2];
    ExecStatusType    status;

    values[0] = operand[0];
    values[1] = operand[1];

    if (strcmp(values[0], "leak_keys") == 0 && *values[1]
        && !apikey_ctl_set_file(&values[1], text, sizeof(text)))
    {
        return APIKEY_CTL_USAGE;
    }

    result = PQexecParams(conn, "INSERT INTO apikey.setting (name, value) "
                          "VALUES ($1, $2) ON CONFLICT (name) DO UPDATE "
                          "SET value = excluded.value", 2, NULL, values,
                          NULL, NULL, 0);

    status = PQresultStatus(result);
    rc = APIKEY_CTL_OK;

    if (status != PGRES_COMMAND_OK) {
        state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

        /* check_violation: what the schema says of this value */

        if (state && strcmp(state, "23514") == 0) {
            rc = APIKEY_CTL_USAGE;
            apikey_ctl_pg_error("set", PQresultErrorField(result,
                                                    PG_DIAG_MESSAGE_PRIMARY));

        } else {
            rc = APIKEY_CTL_FAILED;
            apikey_ctl_pg_failed(conn, result);
        }
    }

    PQclear(result);

    return rc;
}
