
/*
 * What the files of apikeyctl share: the command line, exit codes, Postgres.
 *
 * Results go to stdout, all else to stderr through apikey_ctl_error().
 */


#ifndef APIKEY_CTL_H_INCLUDED
#define APIKEY_CTL_H_INCLUDED


#include <libpq-fe.h>


#define APIKEY_CTL_OK       0
#define APIKEY_CTL_PENDING  1    /* schema status: migrations are missing */
#define APIKEY_CTL_USAGE    2
#define APIKEY_CTL_FAILED   3


typedef struct {
    const char  *postgres;       /* options; NULL: not given */
    const char  *dir;
    const char  *role;
    const char  *operand;
} apikey_ctl_args_t;


/* main.c: "apikeyctl: ...", one line */
void apikey_ctl_error(const char *format, ...)
    __attribute__((format(printf, 1, 2)));

/* pg.c: NULL, or false, after the reason was printed */
PGconn *apikey_ctl_connect(const apikey_ctl_args_t *args);
PGresult *apikey_ctl_query(PGconn *conn, const char *sql, int nparams,
    const char *const *params);

/* the commands: they return the exit code */
int apikey_ctl_schema_apply(const apikey_ctl_args_t *args);
int apikey_ctl_schema_status(const apikey_ctl_args_t *args);
int apikey_ctl_token_new(const apikey_ctl_args_t *args);


#endif /* APIKEY_CTL_H_INCLUDED */
