
/*
 * What the files of apikeyctl share: the command line, exit codes, Postgres.
 *
 * Results go to stdout, all else to stderr through apikey_ctl_error().
 */


#ifndef APIKEY_CTL_H_INCLUDED
#define APIKEY_CTL_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>

#include <libpq-fe.h>


#define APIKEY_CTL_OK       0
#define APIKEY_CTL_PENDING  1    /* there is something left to do */
#define APIKEY_CTL_USAGE    2
#define APIKEY_CTL_FAILED   3


/* which options a command takes */
#define APIKEY_CTL_POSTGRES  0x1
#define APIKEY_CTL_DIR       0x2
#define APIKEY_CTL_ROLE      0x4
#define APIKEY_CTL_FORMAT    0x8
#define APIKEY_CTL_IMPORT    0x10
#define APIKEY_CTL_DOCTOR    0x20
#define APIKEY_CTL_RING      0x40
#define APIKEY_CTL_REASON    0x80


typedef struct {
    const char    *postgres;     /* options; NULL: not given */
    const char    *dir;
    const char    *role;
    const char    *format;
    const char    *from;
    const char    *to;
    const char    *token_file;
    const char    *ca;
    bool           dry_run;
    const char    *redis;
    const char    *password_file;
    const char    *journal;
    const char    *conf;
    const char    *nginx;
    const char    *ring;
    const char    *reason;

    const char   **operand;
    size_t         n;
} apikey_ctl_args_t;


typedef struct {
    const char    *name;         /* one or two words */
    const char    *operand;      /* what the first one is called */
    size_t         min;          /* operands */
    size_t         max;
    unsigned       options;
    int          (*run)(const apikey_ctl_args_t *args);
} apikey_ctl_command_t;


/*
 * main.c: one line for stderr, in which no text of others commands the
 * terminal; error: "apikeyctl: ..."
 */
void apikey_ctl_say(const char *format, ...)
    __attribute__((format(printf, 1, 2)));
void apikey_ctl_error(const char *format, ...)
    __attribute__((format(printf, 1, 2)));

/* args.c: false after the reason was printed; operand is to be freed */
bool apikey_ctl_args_parse(const apikey_ctl_command_t *command, int argc,
    char *const *argv, apikey_ctl_args_t *args);

/* pg.c: NULL, or false, after the reason was printed */
PGconn *apikey_ctl_connect(const apikey_ctl_args_t *args);
PGresult *apikey_ctl_query(PGconn *conn, const char *sql, int nparams,
    const char *const *params);
void apikey_ctl_pg_error(const char *what, const char *message);
void apikey_ctl_pg_failed(PGconn *conn, const PGresult *result);

/* the commands: they return the exit code */
int apikey_ctl_correct(const apikey_ctl_args_t *args);
int apikey_ctl_doctor(const apikey_ctl_args_t *args);
int apikey_ctl_import(const apikey_ctl_args_t *args);
int apikey_ctl_journal_export(const apikey_ctl_args_t *args);
int apikey_ctl_journal_show(const apikey_ctl_args_t *args);
int apikey_ctl_journal_verify(const apikey_ctl_args_t *args);
int apikey_ctl_period_close(const apikey_ctl_args_t *args);
int apikey_ctl_period_show(const apikey_ctl_args_t *args);
int apikey_ctl_quarantine_replay(const apikey_ctl_args_t *args);
int apikey_ctl_quarantine_show(const apikey_ctl_args_t *args);
int apikey_ctl_schema_apply(const apikey_ctl_args_t *args);
int apikey_ctl_schema_status(const apikey_ctl_args_t *args);
int apikey_ctl_scan_rules(const apikey_ctl_args_t *args);
int apikey_ctl_secret_new(const apikey_ctl_args_t *args);
int apikey_ctl_set(const apikey_ctl_args_t *args);
int apikey_ctl_token_new(const apikey_ctl_args_t *args);
int apikey_ctl_top(const apikey_ctl_args_t *args);


#endif /* APIKEY_CTL_H_INCLUDED */
