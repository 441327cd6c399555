
/*
 * apikeyctl: the table of commands and their options.
 */


#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/version.h"

#include "ctl.h"


#define APIKEY_CTL_POSTGRES  1
#define APIKEY_CTL_DIR       2
#define APIKEY_CTL_ROLE      4


typedef struct {
    const char  *name;
    const char  *verb;
    const char  *operand;        /* NULL: none */
    unsigned     options;
    int        (*run)(const apikey_ctl_args_t *args);
} apikey_ctl_command_t;


typedef struct {
    const char  *name;
    unsigned     option;
    size_t       offset;
} apikey_ctl_option_t;


static int apikey_ctl_usage(void);
static const apikey_ctl_command_t *apikey_ctl_find(const char *name,
    const char *verb);
static bool apikey_ctl_parse(const apikey_ctl_command_t *command, int argc,
    char *const *argv, apikey_ctl_args_t *args);
static int apikey_ctl_option(const apikey_ctl_command_t *command,
    const char *word, const char *next, apikey_ctl_args_t *args);


static const apikey_ctl_command_t  apikey_ctl_commands[] = {
    { "schema", "apply", NULL, APIKEY_CTL_POSTGRES|APIKEY_CTL_DIR,
      apikey_ctl_schema_apply },
    { "schema", "status", NULL, APIKEY_CTL_POSTGRES|APIKEY_CTL_DIR,
      apikey_ctl_schema_status },
    { "token", "new", "NAME", APIKEY_CTL_ROLE, apikey_ctl_token_new },
    { NULL, NULL, NULL, 0, NULL }
};


static const apikey_ctl_option_t  apikey_ctl_options[] = {
    { "--postgres", APIKEY_CTL_POSTGRES,
      offsetof(apikey_ctl_args_t, postgres) },
    { "--dir", APIKEY_CTL_DIR, offsetof(apikey_ctl_args_t, dir) },
    { "--role", APIKEY_CTL_ROLE, offsetof(apikey_ctl_args_t, role) },
    { NULL, 0, 0 }
};


static const char  apikey_ctl_help[] =
    "apikeyctl schema apply [--postgres CONNINFO] [--dir DIRECTORY]\n"
    "    runs the migrations that are missing, each in a transaction\n"
    "apikeyctl schema status [--postgres CONNINFO] [--dir DIRECTORY]\n"
    "    lists what is applied and what is pending\n"
    "apikeyctl token new NAME [--role admin|read]\n"
    "    prints a line for the file of apikey_admin_token, then the token\n"
    "apikeyctl --help | --version\n"
    "\n"
    "CONNINFO is a libpq connection string; without it APIKEY_POSTGRES is\n"
    "taken from the environment, else PGHOST, PGDATABASE and so on.\n"
    "DIRECTORY holds the migrations, NNNN_NAME.sql; without it APIKEY_SCHEMA\n"
    "is taken, else the one that came with this program.\n"
    "\n"
    "Exit codes: 0 done, 1 migrations are pending, 2 wrong arguments,\n"
    "3 it could not be done.\n";


int
main(int argc, char **argv)
{
    apikey_ctl_args_t            args;
    const apikey_ctl_command_t  *command;

    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        fputs(apikey_ctl_help, stdout);
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

    command = apikey_ctl_find(argv[1], argc > 2 ? argv[2] : "");

    if (command == NULL) {
        apikey_ctl_error("\"%s%s%s\" is not a command", argv[1],
                         argc > 2 ? " " : "", argc > 2 ? argv[2] : "");
        return apikey_ctl_usage();
    }

    if (!apikey_ctl_parse(command, argc - 3, argv + 3, &args)) {
        return apikey_ctl_usage();
    }

    return command->run(&args);
}


void
apikey_ctl_error(const char *format, ...)
{
    va_list  list;

    fputs("apikeyctl: ", stderr);

    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);

    fputc('\n', stderr);
}


static int
apikey_ctl_usage(void)
{
    fputs("apikeyctl --help lists the commands\n", stderr);

    return APIKEY_CTL_USAGE;
}


static const apikey_ctl_command_t *
apikey_ctl_find(const char *name, const char *verb)
{
    const apikey_ctl_command_t  *command;

    for (command = apikey_ctl_commands; command->name; command++) {
        if (strcmp(command->name, name) == 0
            && strcmp(command->verb, verb) == 0)
        {
            return command;
        }
    }

    return NULL;
}


static bool
apikey_ctl_parse(const apikey_ctl_command_t *command, int argc,
    char *const *argv, apikey_ctl_args_t *args)
{
    int  i, used;

    memset(args, 0, sizeof(apikey_ctl_args_t));

    for (i = 0; i < argc; i++) {
        if (strncmp(argv[i], "--", 2) == 0) {
            used = apikey_ctl_option(command, argv[i],
                                     i + 1 < argc ? argv[i + 1] : NULL, args);

            if (used == 0) {
                return false;
            }

            i += used - 1;
            continue;
        }

        if (command->operand == NULL || args->operand) {
            apikey_ctl_error("%s %s: \"%s\" is too much", command->name,
                             command->verb, argv[i]);
            return false;
        }

        args->operand = argv[i];
    }

    if (command->operand && args->operand == NULL) {
        apikey_ctl_error("%s %s: %s is missing", command->name,
                         command->verb, command->operand);
        return false;
    }

    return true;
}


/* --name VALUE or --name=VALUE; the words it took, 0 after an error. */

static int
apikey_ctl_option(const apikey_ctl_command_t *command, const char *word,
    const char *next, apikey_ctl_args_t *args)
{
    size_t                      len;
    const char                **value;
    const apikey_ctl_option_t  *option;

    len = strcspn(word, "=");

    for (option = apikey_ctl_options; option->name; option++) {
        if (strlen(option->name) == len
            && memcmp(option->name, word, len) == 0)
        {
            break;
        }
    }

    if (option->name == NULL || (command->options & option->option) == 0) {
        apikey_ctl_error("%s %s: no option \"%.*s\"", command->name,
                         command->verb, (int) len, word);
        return 0;
    }

    if (word[len] != '=' && next == NULL) {
        apikey_ctl_error("%s %s: \"%s\" wants a value", command->name,
                         command->verb, word);
        return 0;
    }

    value = (const char **) (void *) ((char *) args + option->offset);

    if (*value) {
        apikey_ctl_error("%s %s: \"%s\" is given twice", command->name,
                         command->verb, option->name);
        return 0;
    }

    *value = word[len] == '=' ? word + len + 1 : next;

    return word[len] == '=' ? 1 : 2;
}
