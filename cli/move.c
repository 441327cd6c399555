
/*
 * apikeyctl import: reads the exports, prints rows or sends them.
 */


#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "move.h"


static const struct {
    const char   *name;
    void        (*read)(apikey_move_t *m);
} apikey_move_readers[] = {
    { "kong", apikey_move_kong },
    { "unkey", apikey_move_unkey },
    { "litellm", apikey_move_litellm },
    { "aws", apikey_move_aws },
    { "csv", apikey_move_csv },
    { NULL, NULL }
};


static int apikey_move_run(apikey_move_t *m, const apikey_ctl_args_t *args,
    void (*read)(apikey_move_t *m));
static int apikey_move_print(const apikey_move_t *m);


int
apikey_ctl_import(const apikey_ctl_args_t *args)
{
    int            rc;
    size_t         i;
    apikey_move_t  m;

    if (args->from == NULL) {
        apikey_ctl_error("import: --from kong|unkey|litellm|aws|csv is "
                         "missing");
        return APIKEY_CTL_USAGE;
    }

    if (args->to == NULL && (args->dry_run || args->token_file || args->ca)) {
        apikey_ctl_error("import: --dry-run, --token-file and --ca are for "
                         "--to URL");
        return APIKEY_CTL_USAGE;
    }

    for (i = 0; apikey_move_readers[i].name; i++) {
        if (strcmp(args->from, apikey_move_readers[i].name) == 0) {
            break;
        }
    }

    if (apikey_move_readers[i].name == NULL) {
        apikey_ctl_error("import: --from is kong, unkey, litellm, aws or csv");
        return APIKEY_CTL_USAGE;
    }

    memset(&m, 0, sizeof(apikey_move_t));

    m.documents = json_array();
    m.rows = json_array();
    m.owners = json_object();
    m.strict = strcmp(args->from, "csv") == 0;

    if (m.documents && m.rows && m.owners) {
        rc = apikey_move_run(&m, args, apikey_move_readers[i].read);

    } else {
        apikey_ctl_error("out of memory");
        rc = APIKEY_CTL_FAILED;
    }

    json_decref(m.documents);
    json_decref(m.rows);
    json_decref(m.owners);

    return rc;
}


static int
apikey_move_run(apikey_move_t *m, const apikey_ctl_args_t *args,
    void (*read)(apikey_move_t *m))
{
    int     rc;
    size_t  i;

    for (i = 0; i < args->n; i++) {
        if (!apikey_move_read(m, args->operand[i])) {
            return APIKEY_CTL_FAILED;
        }
    }

    read(m);

    fprintf(stderr, "%zu keys, %zu left out, %zu warnings\n",
            json_array_size(m->rows), m->left, m->warnings);

    if (json_array_size(m->rows) == 0) {
        apikey_ctl_error(m->left ? "nothing to import: every key was left out"
                                 : "nothing to import: the files hold no key");

        return m->left ? APIKEY_CTL_PENDING : APIKEY_CTL_FAILED;
    }

    rc = args->to ? apikey_move_send(m, args) : apikey_move_print(m);

    return rc == APIKEY_CTL_OK && m->left ? APIKEY_CTL_PENDING : rc;
}


static int
apikey_move_print(const apikey_move_t *m)
{
    char        *text;
    size_t       i;
    json_t      *row, *limits;
    const char  *owner;

    json_array_foreach(m->rows, i, row) {
        if (json_dumpf(row, stdout, JSON_COMPACT) != 0 || putchar('\n') == EOF)
        {
            break;
        }
    }

    if (i < json_array_size(m->rows) || fflush(stdout) != 0) {
        apikey_ctl_error("cannot write the rows");
        return APIKEY_CTL_FAILED;
    }

    json_object_foreach(m->owners, owner, limits) {
        if (json_array_size(limits) == 0) {
            continue;
        }

        text = json_dumps(limits, JSON_COMPACT);

        apikey_ctl_say("the keys of owner \"%s\" share limits, which are no "
                       "part of the rows: PUT owners/... {\"limits\":%s}",
                       owner, text ? text : "");

        free(text);
    }

    return APIKEY_CTL_OK;
}
