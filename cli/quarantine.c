
/*
 * apikeyctl quarantine: events that Postgres refused, looked at and applied
 * again (schema/0023_quarantine.sql).
 *
 * A record is a spool frame of one; it belongs to the PGresult it came in.
 */


#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "journal.h"


static int apikey_quarantine_list(PGconn *conn);
static int apikey_quarantine_one(PGconn *conn, const char *id);
static bool apikey_quarantine_ids(const apikey_ctl_args_t *args,
    PGconn *conn, PGresult **result);
static int apikey_quarantine_replay(PGconn *conn, const char *id);
static size_t apikey_quarantine_json(const PGresult *result, char *buf,
    size_t size);
static PGresult *apikey_quarantine_get(PGconn *conn, const char *id);
static bool apikey_quarantine_number(const char *id);


int
apikey_ctl_quarantine_show(const apikey_ctl_args_t *args)
{
    int      rc;
    PGconn  *conn;

    if (args->n && !apikey_quarantine_number(args->operand[0])) {
        return APIKEY_CTL_USAGE;
    }

    conn = apikey_ctl_connect(args);
    if (conn == NULL) {
        return APIKEY_CTL_FAILED;
    }

    rc = args->n ? apikey_quarantine_one(conn, args->operand[0])
                 : apikey_quarantine_list(conn);

    PQfinish(conn);

    return rc;
}


static bool
apikey_quarantine_number(const char *id)
{
    if (*id && strlen(id) < 19 && strspn(id, "0123456789") == strlen(id)) {
        return true;
    }

    apikey_ctl_error("quarantine: \"%s\" is no NUMBER", id);

    return false;
}


static int
apikey_quarantine_list(PGconn *conn)
{
    int        i;
    PGresult  *result;

    result = apikey_ctl_query(conn, "SELECT q.id, to_char(q.added_at "
        "AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), q.state, "
        "coalesce(n.name, q.node::text), q.stream, q.number, "
        "q.reason FROM apikey.usage_quarantine q "
        "LEFT JOIN apikey.usage_node n USING (node) ORDER BY q.id", 0, NULL);

    if (result == NULL) {
        return APIKEY_CTL_FAILED;
    }

    for (i = 0; i < PQntuples(result); i++) {
        printf("%s  %s  SQLSTATE %s  node %s stream %s event %s: %s\n",
               PQgetvalue(result, i, 0), PQgetvalue(result, i, 1),
               PQgetvalue(result, i, 2), PQgetvalue(result, i, 3),
               PQgetvalue(result, i, 4), PQgetvalue(result, i, 5),
               PQgetvalue(result, i, 6));
    }

    PQclear(result);

    return APIKEY_CTL_OK;
}


/* In binary, which is what a bytea is. */

static PGresult *
apikey_quarantine_get(PGconn *conn, const char *id)
{
    PGresult  *result;

    result = PQexecParams(conn, "SELECT record, node::text "
                          "FROM apikey.usage_quarantine "
                          "WHERE id = $1::text::bigint", 1, NULL, &id, NULL,
                          NULL, 1);

    if (PQresultStatus(result) != PGRES_TUPLES_OK) {
        apikey_ctl_pg_failed(conn, result);
        PQclear(result);
        return NULL;
    }

    if (PQntuples(result) == 0) {
        apikey_ctl_error("quarantine: there is no event %s", id);
        PQclear(result);
        return NULL;
    }

    return result;
}


static size_t
apikey_quarantine_json(const PGresult *result, char *buf, size_t size)
{
    size_t             len;
    uint8_t           *frame;
    apikey_frame_t     head;
    apikey_event_t     event;
    apikey_decoder_t  *decoder;

    len = (size_t) PQgetlength(result, 0, 0);
    frame = (uint8_t *) PQgetvalue(result, 0, 0);

    if (apikey_frame_check(frame, len, &head, true) != APIKEY_FRAME_OK
        || head.magic != APIKEY_FRAME_MAGIC)
    {
        return 0;
    }

    decoder = malloc(sizeof(apikey_decoder_t));
    if (decoder == NULL) {
        return 0;
    }

    apikey_frame_open(decoder, frame);

    len = apikey_frame_next(decoder, &event) == 1
          ? apikey_event_json(buf, size - 1, &event,
                              PQgetvalue(result, 0, 1), false)
          : 0;

    free(decoder);
    buf[len] = '\0';

    return len;
}


static int
apikey_quarantine_one(PGconn *conn, const char *id)
{
    char       buf[32 * 1024];
    size_t     len;
    PGresult  *result;

    result = apikey_quarantine_get(conn, id);
    if (result == NULL) {
        return APIKEY_CTL_FAILED;
    }

    len = apikey_quarantine_json(result, buf, sizeof(buf));
    PQclear(result);

    if (len == 0) {
        apikey_ctl_error("quarantine: the record of event %s is damaged", id);
        return APIKEY_CTL_FAILED;
    }

    puts(buf);

    return APIKEY_CTL_OK;
}


int
apikey_ctl_quarantine_replay(const apikey_ctl_args_t *args)
{
    int        rc, one;
    size_t     i, n;
    PGconn    *conn;
    PGresult  *all;

    conn = apikey_ctl_connect(args);
    if (conn == NULL) {
        return APIKEY_CTL_FAILED;
    }

    if (!apikey_quarantine_ids(args, conn, &all)) {
        PQfinish(conn);
        return APIKEY_CTL_USAGE;
    }

    rc = APIKEY_CTL_OK;
    n = all ? (size_t) PQntuples(all) : args->n;

    for (i = 0; i < n; i++) {
        one = apikey_quarantine_replay(conn, all ? PQgetvalue(all, (int) i, 0)
                                                 : args->operand[i]);
        if (one > rc) {
            rc = one;
        }
    }

    PQclear(all);
    PQfinish(conn);

    return rc;
}


/* "all", which stands alone, or numbers: then *result is NULL. */

static bool
apikey_quarantine_ids(const apikey_ctl_args_t *args, PGconn *conn,
    PGresult **result)
{
    size_t  i;

    *result = NULL;

    if (args->n == 1 && strcmp(args->operand[0], "all") == 0) {
        *result = apikey_ctl_query(conn, "SELECT id "
                                   "FROM apikey.usage_quarantine ORDER BY id",
                                   0, NULL);
        return *result != NULL;
    }

    for (i = 0; i < args->n; i++) {
        if (!apikey_quarantine_number(args->operand[i])) {
            return false;
        }
    }

    return true;
}


/* One transaction: it is applied and gone from quarantine, or neither. */

static int
apikey_quarantine_replay(PGconn *conn, const char *id)
{
    char         buf[32 * 1024];
    size_t       len;
    PGresult    *result;
    const char  *params[2];

    result = apikey_quarantine_get(conn, id);
    if (result == NULL) {
        return APIKEY_CTL_FAILED;
    }

    len = apikey_quarantine_json(result, buf, sizeof(buf));
    PQclear(result);

    if (len == 0) {
        apikey_ctl_error("quarantine: the record of event %s is damaged", id);
        return APIKEY_CTL_PENDING;
    }

    params[0] = id;
    params[1] = buf;

    result = apikey_ctl_query(conn, "SELECT apikey.usage_replay($1, $2)", 2,
                              params);
    if (result == NULL) {
        return APIKEY_CTL_PENDING;
    }

    PQclear(result);
    printf("%s replayed\n", id);

    return APIKEY_CTL_OK;
}
