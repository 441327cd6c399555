
/*
 * The migrations of a directory: NNNN_NAME.sql, sorted by their number, each
 * with its text and what identifies that.
 */


#ifndef APIKEY_CTL_MIGRATION_H_INCLUDED
#define APIKEY_CTL_MIGRATION_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>

#include <libpq-fe.h>

#include "base/digest.h"


#define APIKEY_MIGRATION_DIGEST  (2 * APIKEY_DIGEST_LEN)


typedef struct {
    int    version;
    char  *file;                 /* 0001_tables.sql */
    char  *name;                 /* tables */
    char  *text;
    char   digest[APIKEY_MIGRATION_DIGEST + 1];      /* SHA-256 of the text */
    bool   applied;
    bool   changed;              /* applied, but with another text */
} apikey_migration_t;


typedef struct {
    char                *dir;
    apikey_migration_t  *migration;
    size_t               n;
} apikey_migrations_t;


/*
 * The directory is dir, else $APIKEY_SCHEMA, else the one that belongs to
 * this program.  False after the reason was printed; none is a reason.
 */
bool apikey_migrations_read(apikey_migrations_t *all, const char *dir);

/* Also after read() failed. */
void apikey_migrations_free(apikey_migrations_t *all);

/*
 * schema.c: asks a database what of these is applied and what has changed.
 * newer: it belongs to a newer version, which was said.  False after the
 * reason was printed.
 */
bool apikey_migrations_state(PGconn *conn, apikey_migrations_t *all,
    bool *newer);


#endif /* APIKEY_CTL_MIGRATION_H_INCLUDED */
