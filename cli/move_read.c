
/*
 * Files of an import: JSON documents one behind another, or CSV.
 */


#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/import.h"
#include "base/rows.h"

#include "move.h"


typedef struct {
    const char              *file;
    char                    *memory;     /* of header */
    char                    *scratch;
    char                    *json;
    size_t                   size;       /* of json */
    size_t                   line;       /* record, the header is 1 */
    apikey_import_header_t   header;
} apikey_move_csv_t;


static char *apikey_move_load(const char *file, size_t *len);
static char *apikey_move_slurp(FILE *f, size_t *len);
static bool apikey_move_json(apikey_move_t *m, const char *file,
    const char *text, size_t len);
static bool apikey_move_csv_read(apikey_move_t *m, const char *file,
    const char *text, size_t len);
static bool apikey_move_csv_rows(apikey_move_t *m, apikey_move_csv_t *csv,
    json_t *list, const char *text, size_t len);
static bool apikey_move_csv_row(apikey_move_t *m, apikey_move_csv_t *csv,
    json_t *list, const char *record, size_t len);
static bool apikey_move_csv_header(const apikey_move_t *m,
    apikey_move_csv_t *csv, const char *record, size_t len);


static const char *const  apikey_move_columns[] = {
    "name", "owner", "customer", "plan", "prefix", "scopes", "allowed_models",
    "allowed_ips", "limits", "credits", "metadata", "expires_at", "enabled",
    "hash", "alg", "key", "start", "last4", "created_at", "usage_count",
    "last_used_at", NULL
};


bool
apikey_move_read(apikey_move_t *m, const char *file)
{
    bool         good;
    char        *text, *pos;
    size_t       len, skip;

    text = apikey_move_load(file, &len);

    if (text == NULL) {
        return false;
    }

    pos = text;

    if (len >= 3 && memcmp(pos, "\xef\xbb\xbf", 3) == 0) {
        pos += 3;
    }

    skip = strspn(pos, " \t\r\n");

    if (pos[skip] == '{' || pos[skip] == '[') {
        good = apikey_move_json(m, file, pos, len - (size_t) (pos - text));

    } else {
        good = apikey_move_csv_read(m, file, pos,
                                    len - (size_t) (pos - text));
    }

    free(text);

    return good;
}


void
apikey_move_each(apikey_move_t *m, apikey_move_item_pt handler, void *data)
{
    size_t   d, i, l;
    json_t  *document, *list, *item;

    static const char *const  lists[] = { "data", "items", "keys", "result" };

    json_array_foreach(m->documents, d, document) {
        list = document;

        for (l = 0; l < sizeof(lists) / sizeof(lists[0]); l++) {
            item = json_object_get(document, lists[l]);

            if (json_is_array(item)) {
                list = item;
                break;
            }
        }

        if (!json_is_array(list)) {
            handler(m, list, data);
            continue;
        }

        json_array_foreach(list, i, item) {
            handler(m, item, data);
        }
    }
}


/* NUL-terminated, for the caller to free. */

static char *
apikey_move_load(const char *file, size_t *len)
{
    char  *text;
    FILE  *f;

    if (strcmp(file, "-") == 0) {
        text = apikey_move_slurp(stdin, len);

    } else {
        f = fopen(file, "r");

        if (f == NULL) {
            apikey_ctl_error("cannot open \"%s\": %s", file, strerror(errno));
            return NULL;
        }

        text = apikey_move_slurp(f, len);
        (void) fclose(f);
    }

    if (text == NULL) {
        apikey_ctl_error("cannot read \"%s\": %s", file, strerror(errno));
    }

    return text;
}


static char *
apikey_move_slurp(FILE *f, size_t *len)
{
    char    *text, *more;
    size_t   size;

    text = NULL;
    size = 0;
    *len = 0;

    do {
        if (size - *len < 2) {
            size = size ? 2 * size : 65536;
            more = realloc(text, size);

            if (more == NULL) {
                free(text);
                return NULL;
            }

            text = more;
        }

        *len += fread(text + *len, 1, size - *len - 1, f);

    } while (!feof(f) && !ferror(f));

    if (ferror(f)) {
        free(text);
        return NULL;
    }

    text[*len] = '\0';

    return text;
}


static bool
apikey_move_json(apikey_move_t *m, const char *file, const char *text,
    size_t len)
{
    size_t         pos, i;
    unsigned       line;
    json_t        *document;
    json_error_t   error;

    for (pos = 0; ; pos += (size_t) error.position) {
        pos += strspn(text + pos, " \t\r\n");

        if (pos == len) {
            return true;
        }

        document = json_loadb(text + pos, len - pos, JSON_DISABLE_EOF_CHECK,
                              &error);

        if (document == NULL) {
            line = (unsigned) error.line;

            for (i = 0; i < pos; i++) {
                line += text[i] == '\n';
            }

            apikey_ctl_error("%s:%u: %s", file, line, error.text);
            return false;
        }

        if (json_array_append_new(m->documents, document) != 0) {
            apikey_ctl_error("out of memory");
            return false;
        }
    }
}


static bool
apikey_move_csv_read(apikey_move_t *m, const char *file, const char *text,
    size_t len)
{
    bool                good;
    json_t             *list;
    apikey_move_csv_t   csv;

    memset(&csv, 0, sizeof(apikey_move_csv_t));

    /* a byte becomes six at most, and each row repeats the header's names */

    csv.file = file;
    csv.size = 12 * len + 1024;
    csv.memory = malloc(len + 1);
    csv.scratch = malloc(len + 1);
    csv.json = malloc(csv.size);
    list = json_array();

    if (csv.memory == NULL || csv.scratch == NULL || csv.json == NULL
        || list == NULL)
    {
        apikey_ctl_error("out of memory");
        good = false;

    } else {
        good = apikey_move_csv_rows(m, &csv, list, text, len);
    }

    if (good && json_array_append(m->documents, list) != 0) {
        apikey_ctl_error("out of memory");
        good = false;
    }

    json_decref(list);
    free(csv.memory);
    free(csv.scratch);
    free(csv.json);

    return good;
}


/* The text is one piece, so that a row is one part. */

static bool
apikey_move_csv_rows(apikey_move_t *m, apikey_move_csv_t *csv, json_t *list,
    const char *text, size_t len)
{
    size_t           n;
    const char      *part, *end;
    apikey_rows_t    rows;
    apikey_rows_e    rc;

    end = text + len;
    apikey_rows_init(&rows, APIKEY_ROWS_CSV);

    do {
        rc = apikey_rows_next(&rows, &text, end, &part, &n);

        if (rc == APIKEY_ROWS_MORE) {
            rc = apikey_rows_end(&rows);

            if (rc == APIKEY_ROWS_MORE) {
                break;
            }

            text = end;
        }

        if (rc == APIKEY_ROWS_WRONG) {
            apikey_ctl_error("%s: %s", csv->file, rows.why);
            return false;
        }

        while (n && part[n - 1] == '\r') {
            n--;
        }

        if (!apikey_move_csv_row(m, csv, list, part, n)) {
            return false;
        }

    } while (text < end);

    if (csv->line == 0) {
        apikey_ctl_error("%s: this is neither JSON nor CSV with a header line",
                         csv->file);
        return false;
    }

    return true;
}


static bool
apikey_move_csv_row(apikey_move_t *m, apikey_move_csv_t *csv, json_t *list,
    const char *record, size_t len)
{
    json_t         *item;
    const char     *why;
    json_error_t    error;
    apikey_json_t   j;

    if (csv->line++ == 0) {
        return apikey_move_csv_header(m, csv, record, len);
    }

    apikey_json_init(&j, csv->json, csv->size);

    /* the writer would put U+FFFD in its place, also into a key */

    why = apikey_json_check(record, len)
          ? apikey_import_csv(&csv->header, record, len, csv->scratch, &j)
          : "this is not UTF-8 text";

    item = why ? NULL : json_loadb(csv->json, apikey_json_len(&j), 0, &error);

    if (item == NULL) {
        apikey_ctl_error("%s: record %zu: %s", csv->file, csv->line,
                         why ? why : error.text);
        return false;
    }

    if (json_array_append_new(list, item) != 0) {
        apikey_ctl_error("out of memory");
        return false;
    }

    return true;
}


static bool
apikey_move_csv_header(const apikey_move_t *m, apikey_move_csv_t *csv,
    const char *record, size_t len)
{
    unsigned            i;
    const char         *why;
    const char *const  *name;

    why = apikey_import_header(&csv->header, record, len, csv->memory);

    if (why) {
        apikey_ctl_error("%s: %s", csv->file, why);
        return false;
    }

    for (i = 0; m->strict && i < csv->header.n; i++) {
        for (name = apikey_move_columns; *name; name++) {
            if (strlen(*name) == csv->header.len[i]
                && memcmp(*name, csv->header.name[i], csv->header.len[i]) == 0)
            {
                break;
            }
        }

        if (*name == NULL) {
            apikey_ctl_error("%s: there is no column \"%.*s\"", csv->file,
                             (int) csv->header.len[i], csv->header.name[i]);
            return false;
        }
    }

    return true;
}
