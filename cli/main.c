
/*
 * apikeyctl: the table of commands and what --help says of them.
 */


#define _GNU_SOURCE

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/version.h"

#include "ctl.h"


static bool apikey_ctl_asks_help(int argc, char *const *argv);
static void apikey_ctl_line(const char *start, const char *format,
    va_list list);
static int apikey_ctl_usage(void);
static int apikey_ctl_run(int argc, char *const *argv);
static const apikey_ctl_command_t *apikey_ctl_find(int argc,
    char *const *argv, int *words);


static const apikey_ctl_command_t  apikey_ctl_commands[] = {
    { "schema apply", NULL, 0, 0, APIKEY_CTL_POSTGRES|APIKEY_CTL_DIR,
      apikey_ctl_schema_apply },
    { "schema status", NULL, 0, 0, APIKEY_CTL_POSTGRES|APIKEY_CTL_DIR,
      apikey_ctl_schema_status },
    { "set", "NAME", 0, 2, APIKEY_CTL_POSTGRES, apikey_ctl_set },
    { "doctor", NULL, 0, 0,
      APIKEY_CTL_DOCTOR|APIKEY_CTL_POSTGRES|APIKEY_CTL_DIR,
      apikey_ctl_doctor },
    { "token new", "NAME", 1, 1, APIKEY_CTL_ROLE, apikey_ctl_token_new },
    { "secret new", "KID", 0, 1, 0, apikey_ctl_secret_new },
    { "scan-rules", "PREFIX", 1, SIZE_MAX, APIKEY_CTL_FORMAT,
      apikey_ctl_scan_rules },
    { "import", "FILE", 1, SIZE_MAX, APIKEY_CTL_IMPORT, apikey_ctl_import },
    { "journal show", "DIRECTORY", 1, 1, APIKEY_CTL_RING|APIKEY_CTL_POSTGRES,
      apikey_ctl_journal_show },
    { "journal verify", "DIRECTORY", 1, 1,
      APIKEY_CTL_RING|APIKEY_CTL_POSTGRES, apikey_ctl_journal_verify },
    { "journal export", "DIRECTORY", 1, 1,
      APIKEY_CTL_RING|APIKEY_CTL_POSTGRES|APIKEY_CTL_FORMAT,
      apikey_ctl_journal_export },
    { "quarantine show", "NUMBER", 0, 1, APIKEY_CTL_POSTGRES,
      apikey_ctl_quarantine_show },
    { "quarantine replay", "NUMBER", 1, SIZE_MAX, APIKEY_CTL_POSTGRES,
      apikey_ctl_quarantine_replay },
    { "period close", "BEFORE", 0, 2, APIKEY_CTL_POSTGRES,
      apikey_ctl_period_close },
    { "period show", "OWNER", 0, 1, APIKEY_CTL_POSTGRES,
      apikey_ctl_period_show },
    { "correct", "REQUEST_ID", 1, 17, APIKEY_CTL_POSTGRES|APIKEY_CTL_REASON,
      apikey_ctl_correct },
    { "top", "WHAT", 0, 1, APIKEY_CTL_POSTGRES, apikey_ctl_top },
    { NULL, NULL, 0, 0, 0, NULL }
};


static const char *const  apikey_ctl_help[] = {
    "apikeyctl schema apply [--postgres CONNINFO] [--dir DIRECTORY]",
    "    runs every file from the first new or changed one on, each in a",
    "    transaction",
    "apikeyctl schema status [--postgres CONNINFO] [--dir DIRECTORY]",
    "    lists what is applied, changed since, and pending",
    "apikeyctl set [NAME [VALUE]] [--postgres CONNINFO]",
    "    lists what is set per installation, shows one value, or sets it",
    "apikeyctl doctor [--conf FILE] [--nginx BINARY] [--postgres CONNINFO]",
    "        [--redis URL [--password-file FILE]] [--journal DIRECTORY]",
    "    looks at an installation: what nginx -T names, or what is given;",
    "    URL may be all that apikey_redis takes, in one argument",
    "apikeyctl token new NAME [--role admin|read]",
    "    prints a line for the file of apikey_admin_token, then the token",
    "apikeyctl secret new [KID]",
    "    prints a line for the file of apikey_mac_secret; KID is 1-9, A-Z or",
    "    a-z, by default 1",
    "apikeyctl scan-rules PREFIX... [--format regex|gitleaks|github]",
    "    prints how scanners find keys with these prefixes",
    "apikeyctl import --from kong|unkey|litellm|aws|csv FILE...",
    "        [--to URL [--token-file FILE] [--ca FILE] [--dry-run]]",
    "    makes rows of others' exports and prints them as lines of JSON, or",
    "    sends them to the admin API at URL; says what is not moved",
    "apikeyctl journal show|verify DIRECTORY [--ring DIRECTORY]",
    "        [--postgres CONNINFO]",
    "    lists a node's journal; verify looks for what is damaged or missing.",
    "    DIRECTORY and --ring are apikey_journal's; with --postgres it says",
    "    what is not shipped yet",
    "apikeyctl journal export DIRECTORY [--ring DIRECTORY]",
    "        [--postgres CONNINFO] [--format full|usage]",
    "    prints the records as lines of JSON, with --postgres those that are",
    "    not shipped; usage: as rows of import/usage",
    "apikeyctl quarantine show [NUMBER] [--postgres CONNINFO]",
    "    lists events that Postgres refused, or shows one as JSON",
    "apikeyctl quarantine replay NUMBER...|all [--postgres CONNINFO]",
    "    applies them again; what is still refused stays",
    "apikeyctl period close [BEFORE [OWNER]] [--postgres CONNINFO]",
    "    closes billing periods that have ended, by now or by that time: sums",
    "    stay as they are, and what comes late is booked when it comes",
    "apikeyctl period show [OWNER] [--postgres CONNINFO]",
    "    lists closed periods, and what was booked of them later",
    "apikeyctl correct REQUEST_ID void|NAME=VALUE... --reason TEXT",
    "        [--postgres CONNINFO]",
    "    says what a request should have been: cost, tokens_input, ...",
    "apikeyctl correct - key=ID|owner=ID date=TIME NAME=DIFFERENCE...",
    "        --reason TEXT [--postgres CONNINFO]",
    "    adds to what a key or an owner has used, or takes from it",
    "apikeyctl top [key|owner|service|endpoint|model|verdict|node]",
    "        [--postgres CONNINFO]",
    "    who uses most in this hour and the last one; on a terminal again",
    "    every two seconds, with requests a second",
    "apikeyctl help | --version",
    "",
    "CONNINFO is a libpq connection string; without it APIKEY_POSTGRES is",
    "taken from the environment, else PGHOST, PGDATABASE and so on.",
    "DIRECTORY holds the migrations, NNNN_NAME.sql; without it APIKEY_SCHEMA",
    "is taken, else the one that came with this program.",
    "",
    "An operator's token stands in the --token-file, else in APIKEY_TOKEN.",
    "",
    "Exit codes: 0 done, 1 something is left to do (schema status: run apply;",
    "doctor: a check failed; import: keys were left out or failed; journal",
    "verify: it is damaged; quarantine replay: some are refused again), 2",
    "wrong arguments, 3 it could not be done.",
    NULL
};


int
main(int argc, char **argv)
{
    const char *const  *line;

    if (apikey_ctl_asks_help(argc, argv)) {
        for (line = apikey_ctl_help; *line; line++) {
            puts(*line);
        }

        return APIKEY_CTL_OK;
    }

    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        puts("apikeyctl " APIKEY_VERSION);
        return APIKEY_CTL_OK;
    }

    if (argc < 2) {
        apikey_ctl_error("no command");
        return apikey_ctl_usage();
    }

    return apikey_ctl_run(argc - 1, argv + 1);
}


void
apikey_ctl_say(const char *format, ...)
{
    va_list  list;

    va_start(list, format);
    apikey_ctl_line("", format, list);
    va_end(list);
}


void
apikey_ctl_error(const char *format, ...)
{
    va_list  list;

    va_start(list, format);
    apikey_ctl_line("apikeyctl: ", format, list);
    va_end(list);
}


/* Of UTF-8's controls those above ASCII begin with 0xc2. */

static void
apikey_ctl_line(const char *start, const char *format, va_list list)
{
    char           *text, *p;
    unsigned char   ch;

    if (vasprintf(&text, format, list) == -1) {
        fputs("apikeyctl: out of memory\n", stderr);
        return;
    }

    for (p = text; *p; p++) {
        ch = (unsigned char) *p;

        if (ch < 0x20 || ch == 0x7f) {
            *p = '?';

        } else if (ch == 0xc2 && ((unsigned char) p[1] & 0xe0) == 0x80) {
            *p++ = '?';
            *p = '?';
        }
    }

    fprintf(stderr, "%s%s\n", start, text);
    free(text);
}


/* "help" in front, or --help wherever it stands. */

static bool
apikey_ctl_asks_help(int argc, char *const *argv)
{
    int  i;

    if (argc > 1 && strcmp(argv[1], "help") == 0) {
        return true;
    }

    for (i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            return true;
        }
    }

    return false;
}


static int
apikey_ctl_usage(void)
{
    fputs("apikeyctl help lists the commands\n", stderr);

    return APIKEY_CTL_USAGE;
}


static int
apikey_ctl_run(int argc, char *const *argv)
{
    int                          rc, words;
    apikey_ctl_args_t            args;
    const apikey_ctl_command_t  *command;

    command = apikey_ctl_find(argc, argv, &words);

    if (command == NULL) {
        apikey_ctl_error("\"%s%s%s\" is not a command", argv[0],
                         argc > 1 ? " " : "", argc > 1 ? argv[1] : "");
        return apikey_ctl_usage();
    }

    if (apikey_ctl_args_parse(command, argc - words, argv + words, &args)) {
        rc = command->run(&args);

    } else {
        rc = apikey_ctl_usage();
    }

    free(args.operand);

    return rc;
}


/* words: how many of argv the command's name took. */

static const apikey_ctl_command_t *
apikey_ctl_find(int argc, char *const *argv, int *words)
{
    size_t                       len;
    const apikey_ctl_command_t  *command;

    for (command = apikey_ctl_commands; command->name; command++) {
        len = strcspn(command->name, " ");

        if (strlen(argv[0]) != len
            || memcmp(argv[0], command->name, len) != 0)
        {
            continue;
        }

        if (command->name[len] == '\0') {
            *words = 1;
            return command;
        }

        if (argc > 1 && strcmp(argv[1], command->name + len + 1) == 0) {
            *words = 2;
            return command;
        }
    }

    return NULL;
}
