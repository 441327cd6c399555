
/*
 * The migrations of a directory: NNNN_NAME.sql, sorted by their number.
 */


#ifndef APIKEY_CTL_MIGRATION_H_INCLUDED
#define APIKEY_CTL_MIGRATION_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>


typedef struct {
    int    version;
    char  *file;                 /* 0001_tables.sql */
    char  *name;                 /* tables */
    bool   applied;
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
 * The text of a file, NUL-terminated, for the caller to free; NULL after the
 * reason was printed.
 */
char *apikey_migration_text(const apikey_migrations_t *all,
    const apikey_migration_t *m);


#endif /* APIKEY_CTL_MIGRATION_H_INCLUDED */
