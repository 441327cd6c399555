
/*
 * Postgres: who we are there, the schema, durability, the clock.
 */


#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/version.h"

#include "doctor.h"
#include "migration.h"


#define APIKEY_DOCTOR_PG  "Postgres"


static PGconn *apikey_doctor_pg_connect(apikey_doctor_t *d);
static char *apikey_doctor_pg_ask(apikey_doctor_t *d, PGconn *conn,
    const char *sql);
static bool apikey_doctor_pg_roles(apikey_doctor_t *d, PGconn *conn);
static void apikey_doctor_pg_rights(apikey_doctor_t *d, PGconn *conn);
static void apikey_doctor_pg_schema(apikey_doctor_t *d, PGconn *conn);
static void apikey_doctor_pg_files(apikey_doctor_t *d, PGconn *conn,
    const char *version);
static void apikey_doctor_pg_safe(apikey_doctor_t *d, PGconn *conn);
static void apikey_doctor_pg_clock(apikey_doctor_t *d, PGconn *conn);


void
apikey_doctor_pg(apikey_doctor_t *d)
{
    PGconn  *conn;

    conn = apikey_doctor_pg_connect(d);

    if (conn == NULL) {
        return;
    }

    if (apikey_doctor_pg_roles(d, conn)) {
        apikey_doctor_pg_schema(d, conn);
    }

    apikey_doctor_pg_safe(d, conn);
    apikey_doctor_pg_clock(d, conn);

    PQfinish(conn);
}


static PGconn *
apikey_doctor_pg_connect(apikey_doctor_t *d)
{
    int          version;
    PGconn      *conn;
    const char  *why;
    const char  *names[] = { "dbname", "connect_timeout",
                             "fallback_application_name", NULL };
    const char  *values[] = { d->postgres, "10", "apikeyctl", NULL };

    conn = PQconnectdbParams(names, values, 1);

    if (PQstatus(conn) != CONNECTION_OK) {
        why = conn ? PQerrorMessage(conn) : "out of memory";

        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, APIKEY_DOCTOR_PG, "%.*s",
                          (int) strcspn(why, "\n"), why);
        PQfinish(conn);
        return NULL;
    }

    version = PQserverVersion(conn);

    apikey_doctor_say(d, version < 150000 ? APIKEY_DOCTOR_FAIL
                                          : APIKEY_DOCTOR_OK,
                      APIKEY_DOCTOR_PG, "version %d.%d as %s%s",
                      version / 10000, version % 100, PQuser(conn),
                      version < 150000 ? ": 15 or later is needed" : "");

    return conn;
}


/* The first field as text, for the caller to free; NULL after it was said. */

static char *
apikey_doctor_pg_ask(apikey_doctor_t *d, PGconn *conn, const char *sql)
{
    char        *value;
    PGresult    *result;
    const char  *why;

    result = PQexec(conn, sql);

    if (PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) != 1) {
        why = PQerrorMessage(conn);

        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, APIKEY_DOCTOR_PG, "%.*s",
                          (int) strcspn(why, "\n"), why);
        PQclear(result);
        return NULL;
    }

    value = strdup(PQgetvalue(result, 0, 0));
    PQclear(result);

    return value;
}


/* False: without them there is nothing to look at. */

static bool
apikey_doctor_pg_roles(apikey_doctor_t *d, PGconn *conn)
{
    bool   good;
    char  *missing;

    missing = apikey_doctor_pg_ask(d, conn,
        "SELECT coalesce(string_agg(r, ', '), '') FROM unnest(ARRAY["
        "'apikey_owner', 'apikey_gateway', 'apikey_reader']) AS r "
        "WHERE to_regrole(r) IS NULL");

    if (missing == NULL) {
        return false;
    }

    good = missing[0] == '\0';

    if (good) {
        apikey_doctor_say(d, APIKEY_DOCTOR_OK, "roles", "all three exist");
        apikey_doctor_pg_rights(d, conn);

    } else {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "roles", "there is no %s: "
                          "run \"apikeyctl schema apply\"", missing);
    }

    free(missing);

    return good;
}


/* nginx's role must be one that row-level security holds for. */

static void
apikey_doctor_pg_rights(apikey_doctor_t *d, PGconn *conn)
{
    char  *what;

    what = apikey_doctor_pg_ask(d, conn,
        "SELECT CASE WHEN rolsuper THEN 'a superuser'"
        " WHEN rolbypassrls THEN 'a role with BYPASSRLS'"
        " WHEN pg_has_role('apikey_owner', 'MEMBER') THEN 'the owner'"
        " WHEN NOT pg_has_role('apikey_gateway', 'USAGE') THEN 'none'"
        " ELSE '' END FROM pg_roles WHERE rolname = current_user");

    if (what == NULL) {
        return;
    }

    if (strcmp(what, "none") == 0) {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "rights", "%s is not "
                          "apikey_gateway, nor a member of it", PQuser(conn));

    } else if (what[0]) {
        apikey_doctor_say(d, APIKEY_DOCTOR_WARN, "rights", "%s is %s, whom "
                          "row-level security does not hold: nginx should "
                          "connect as apikey_gateway", PQuser(conn), what);

    } else {
        apikey_doctor_say(d, APIKEY_DOCTOR_OK, "rights", "%s has "
                          "apikey_gateway's and no more", PQuser(conn));
    }

    free(what);
}


static void
apikey_doctor_pg_schema(apikey_doctor_t *d, PGconn *conn)
{
    char  *version;

    version = apikey_doctor_pg_ask(d, conn,
        "SELECT to_regprocedure('apikey.schema_version()') IS NOT NULL");

    if (version && version[0] == 'f') {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "schema", "it is not there: "
                          "run \"apikeyctl schema apply\"");

    } else if (version) {
        free(version);
        version = apikey_doctor_pg_ask(d, conn,
                                       "SELECT apikey.schema_version()");
        apikey_doctor_pg_files(d, conn, version ? version : "0");
    }

    free(version);
}


static void
apikey_doctor_pg_files(apikey_doctor_t *d, PGconn *conn, const char *version)
{
    bool                  newer;
    size_t                i, n;
    apikey_migrations_t   all;

    if (atoi(version) < APIKEY_SCHEMA) {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "schema", "its version is "
                          "%s, and %d is needed: run \"apikeyctl schema "
                          "apply\"", version, APIKEY_SCHEMA);
        return;
    }

    n = 0;

    if (apikey_migrations_read(&all, d->dir)
        && apikey_migrations_state(conn, &all, &newer) && !newer)
    {
        for (i = 0; i < all.n; i++) {
            n += !all.migration[i].applied || all.migration[i].changed;
        }
    }

    if (n) {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "schema", "%zu files are new "
                          "or have changed: run \"apikeyctl schema apply\"",
                          n);

    } else {
        apikey_doctor_say(d, APIKEY_DOCTOR_OK, "schema", "version %s",
                          version);
    }

    apikey_migrations_free(&all);
}


static void
apikey_doctor_pg_safe(apikey_doctor_t *d, PGconn *conn)
{
    char  *off;

    off = apikey_doctor_pg_ask(d, conn,
        "SELECT concat_ws(' and ', CASE current_setting('fsync')"
        " WHEN 'off' THEN 'fsync' END,"
        " CASE current_setting('full_page_writes')"
        " WHEN 'off' THEN 'full_page_writes' END)");

    if (off && off[0]) {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "durability", "%s off: a "
                          "power cut loses keys and usage; set it on", off);

    } else if (off) {
        apikey_doctor_say(d, APIKEY_DOCTOR_OK, "durability", "fsync is on");
    }

    free(off);
}


static void
apikey_doctor_pg_clock(apikey_doctor_t *d, PGconn *conn)
{
    char     *theirs;
    int64_t   before, after;

    before = apikey_clock_real();
    theirs = apikey_doctor_pg_ask(d, conn, "SELECT (extract(epoch FROM "
                                  "clock_timestamp()) * 1000000)::bigint");
    after = apikey_clock_real();

    if (theirs) {
        apikey_doctor_clock(d, "clock of Postgres", atoll(theirs), before,
                            after);
    }

    free(theirs);
}
