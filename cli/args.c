
/*
 * The command line: which command, its options and operands.
 *
 * Everything points into argv; the array of operands is the caller's to free.
 */


#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"


typedef struct {
    const char  *name;
    unsigned     option;
    size_t       offset;         /* of a text, or of a bool for a flag */
    bool         flag;
} apikey_ctl_option_t;


static bool apikey_ctl_args_operands(const apikey_ctl_command_t *command,
    const apikey_ctl_args_t *args);
static int apikey_ctl_args_option(const apikey_ctl_command_t *command,
    const char *word, const char *next, apikey_ctl_args_t *args);
static const apikey_ctl_option_t *apikey_ctl_args_find(
    const apikey_ctl_command_t *command, const char *word, size_t len);


#define apikey_ctl_option(name, bit, member)                                  \
    { name, bit, offsetof(apikey_ctl_args_t, member), false }

#define apikey_ctl_flag(name, bit, member)                                    \
    { name, bit, offsetof(apikey_ctl_args_t, member), true }


static const apikey_ctl_option_t  apikey_ctl_options[] = {
    apikey_ctl_option("--postgres", APIKEY_CTL_POSTGRES, postgres),
    apikey_ctl_option("--dir", APIKEY_CTL_DIR, dir),
    apikey_ctl_option("--role", APIKEY_CTL_ROLE, role),
    apikey_ctl_option("--format", APIKEY_CTL_FORMAT, format),
    apikey_ctl_option("--from", APIKEY_CTL_IMPORT, from),
    apikey_ctl_option("--to", APIKEY_CTL_IMPORT, to),
    apikey_ctl_option("--token-file", APIKEY_CTL_IMPORT, token_file),
    apikey_ctl_option("--ca", APIKEY_CTL_IMPORT, ca),
    apikey_ctl_option("--redis", APIKEY_CTL_DOCTOR, redis),
    apikey_ctl_option("--password-file", APIKEY_CTL_DOCTOR, password_file),
    apikey_ctl_option("--journal", APIKEY_CTL_DOCTOR, journal),
    apikey_ctl_option("--conf", APIKEY_CTL_DOCTOR, conf),
    apikey_ctl_option("--nginx", APIKEY_CTL_DOCTOR, nginx),
    apikey_ctl_option("--ring", APIKEY_CTL_RING, ring),
    apikey_ctl_option("--reason", APIKEY_CTL_REASON, reason),
    apikey_ctl_flag("--dry-run", APIKEY_CTL_IMPORT, dry_run),
    { NULL, 0, 0, false }
};


bool
apikey_ctl_args_parse(const apikey_ctl_command_t *command, int argc,
    char *const *argv, apikey_ctl_args_t *args)
{
    int  i, used;

    memset(args, 0, sizeof(apikey_ctl_args_t));

    args->operand = calloc((size_t) argc + 1, sizeof(char *));

    if (args->operand == NULL) {
        apikey_ctl_error("out of memory");
        return false;
    }

    for (i = 0; i < argc; i++) {
        if (strncmp(argv[i], "--", 2) != 0) {
            args->operand[args->n++] = argv[i];
            continue;
        }

        used = apikey_ctl_args_option(command, argv[i],
                                      i + 1 < argc ? argv[i + 1] : NULL, args);

        if (used == 0) {
            return false;
        }

        i += used - 1;
    }

    return apikey_ctl_args_operands(command, args);
}


static bool
apikey_ctl_args_operands(const apikey_ctl_command_t *command,
    const apikey_ctl_args_t *args)
{
    if (args->n < command->min) {
        apikey_ctl_error("%s: %s is missing", command->name,
                         command->operand);
        return false;
    }

    if (args->n > command->max) {
        apikey_ctl_error("%s: \"%s\" is too much", command->name,
                         args->operand[command->max]);
        return false;
    }

    return true;
}


/* --name VALUE, --name=VALUE, --flag; the words it took, 0 after an error. */

static int
apikey_ctl_args_option(const apikey_ctl_command_t *command, const char *word,
    const char *next, apikey_ctl_args_t *args)
{
    bool                       *flag;
    size_t                      len;
    const char                **value;
    const apikey_ctl_option_t  *option;

    len = strcspn(word, "=");
    option = apikey_ctl_args_find(command, word, len);

    if (option == NULL) {
        return 0;
    }

    if (option->flag) {
        if (word[len] == '=') {
            apikey_ctl_error("%s: \"%s\" takes no value", command->name,
                             option->name);
            return 0;
        }

        flag = (bool *) (void *) ((char *) args + option->offset);
        *flag = true;

        return 1;
    }

    if (word[len] != '=' && next == NULL) {
        apikey_ctl_error("%s: \"%s\" wants a value", command->name, word);
        return 0;
    }

    value = (const char **) (void *) ((char *) args + option->offset);

    if (*value) {
        apikey_ctl_error("%s: \"%s\" is given twice", command->name,
                         option->name);
        return 0;
    }

    *value = word[len] == '=' ? word + len + 1 : next;

    return word[len] == '=' ? 1 : 2;
}


static const apikey_ctl_option_t *
apikey_ctl_args_find(const apikey_ctl_command_t *command, const char *word,
    size_t len)
{
    const apikey_ctl_option_t  *option;

    for (option = apikey_ctl_options; option->name; option++) {
        if (strlen(option->name) == len
            && memcmp(option->name, word, len) == 0
            && (command->options & option->option))
        {
            return option;
        }
    }

    apikey_ctl_error("%s: no option \"%.*s\"", command->name, (int) len, word);

    return NULL;
}
