
/*
 * Finding and reading migrations.
 */


#define _GNU_SOURCE

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"
#include "migration.h"


#ifndef APIKEY_SCHEMA_DIR
#define APIKEY_SCHEMA_DIR  "/usr/share/apikey/schema"
#endif


static bool apikey_migrations_scan(apikey_migrations_t *all, const char *dir);
static bool apikey_migrations_own(apikey_migrations_t *all);
static bool apikey_migration_set(apikey_migration_t *m, const char *file);
static bool apikey_migration_load(const apikey_migrations_t *all,
    apikey_migration_t *m);
static char *apikey_migration_text(const char *path);
static int apikey_migration_filter(const struct dirent *entry);


bool
apikey_migrations_read(apikey_migrations_t *all, const char *dir)
{
    size_t  i;

    memset(all, 0, sizeof(apikey_migrations_t));

    if (dir == NULL) {
        dir = getenv("APIKEY_SCHEMA");
    }

    if (dir == NULL) {
        if (!apikey_migrations_own(all)) {
            apikey_ctl_error("no migrations found; say where they are with "
                             "--dir DIRECTORY");
            return false;
        }

    } else if (!apikey_migrations_scan(all, dir)) {
        apikey_ctl_error("cannot read directory \"%s\": %s", dir,
                         strerror(errno));
        return false;

    } else if (all->n == 0) {
        apikey_ctl_error("no migrations NNNN_NAME.sql in \"%s\"", dir);
        return false;
    }

    for (i = 1; i < all->n; i++) {
        if (all->migration[i].version == all->migration[i - 1].version) {
            apikey_ctl_error("%s and %s have the same number",
                             all->migration[i - 1].file,
                             all->migration[i].file);
            return false;
        }
    }

    for (i = 0; i < all->n; i++) {
        if (!apikey_migration_load(all, &all->migration[i])) {
            return false;
        }
    }

    return true;
}


void
apikey_migrations_free(apikey_migrations_t *all)
{
    size_t  i;

    for (i = 0; i < all->n; i++) {
        free(all->migration[i].file);
        free(all->migration[i].name);
        free(all->migration[i].text);
    }

    free(all->migration);
    free(all->dir);

    memset(all, 0, sizeof(apikey_migrations_t));
}


/* False: errno says why. */

static bool
apikey_migrations_scan(apikey_migrations_t *all, const char *dir)
{
    int              i, n;
    bool             good;
    struct dirent  **entries;

    n = scandir(dir, &entries, apikey_migration_filter, alphasort);

    if (n == -1) {
        return false;
    }

    all->dir = strdup(dir);
    all->migration = calloc((size_t) n + 1, sizeof(apikey_migration_t));

    good = all->dir && all->migration;

    for (i = 0; i < n; i++) {
        if (good) {
            good = apikey_migration_set(&all->migration[i],
                                        entries[i]->d_name);
            all->n++;
        }

        free(entries[i]);
    }

    free(entries);

    return good;
}


/* A source tree has them above the build, a package below share/. */

static bool
apikey_migrations_own(apikey_migrations_t *all)
{
    char     exe[PATH_MAX], dir[PATH_MAX + 32];
    size_t   i;
    ssize_t  len;

    static const char *const  places[] = {
        "../schema",
        "../../schema",
        "../share/apikey/schema",
    };

    len = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

    if (len > 0) {
        exe[len] = '\0';
        *strrchr(exe, '/') = '\0';

        for (i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
            (void) snprintf(dir, sizeof(dir), "%s/%s", exe, places[i]);

            if (apikey_migrations_scan(all, dir) && all->n) {
                return true;
            }

            apikey_migrations_free(all);
        }
    }

    return apikey_migrations_scan(all, APIKEY_SCHEMA_DIR) && all->n;
}


static bool
apikey_migration_set(apikey_migration_t *m, const char *file)
{
    m->version = atoi(file);
    m->file = strdup(file);
    m->name = strndup(file + 5, strlen(file) - 5 - strlen(".sql"));

    return m->file && m->name;
}


static bool
apikey_migration_load(const apikey_migrations_t *all, apikey_migration_t *m)
{
    char     *path;
    size_t    i;
    uint8_t   digest[APIKEY_DIGEST_LEN];

    if (asprintf(&path, "%s/%s", all->dir, m->file) == -1) {
        apikey_ctl_error("out of memory");
        return false;
    }

    m->text = apikey_migration_text(path);
    free(path);

    if (m->text == NULL) {
        return false;
    }

    if (!apikey_sha256(m->text, strlen(m->text), digest)) {
        apikey_ctl_error("OpenSSL has no SHA-256");
        return false;
    }

    for (i = 0; i < APIKEY_DIGEST_LEN; i++) {
        sprintf(m->digest + 2 * i, "%02x", digest[i]);
    }

    return true;
}


/* For the caller to free; NULL after the reason was printed. */

static char *
apikey_migration_text(const char *path)
{
    char   *text;
    FILE   *file;
    size_t  size;

    file = fopen(path, "r");

    if (file == NULL) {
        apikey_ctl_error("cannot open \"%s\": %s", path, strerror(errno));
        return NULL;
    }

    /* no file holds a NUL, so the delimiter is its end */

    text = NULL;
    size = 0;

    if (getdelim(&text, &size, '\0', file) == -1) {
        apikey_ctl_error("cannot read \"%s\": %s", path,
                         ferror(file) ? strerror(errno) : "it is empty");
        free(text);
        text = NULL;
    }

    (void) fclose(file);

    return text;
}


static int
apikey_migration_filter(const struct dirent *entry)
{
    size_t       len;
    const char  *name;

    name = entry->d_name;
    len = strlen(name);

    return len > strlen("NNNN_.sql")
           && strspn(name, "0123456789") == 4
           && name[4] == '_'
           && strcmp(name + len - 4, ".sql") == 0;
}
