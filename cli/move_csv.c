
/*
 * apikeyctl import --from csv: our own columns, those of api-keys/import.
 * A row is taken as it stands, but for the plaintext of a key, which is
 * hashed here; the gateway says what is wrong with it.
 */


#include <stdio.h>

#include "move.h"


static void apikey_move_csv_item(apikey_move_t *m, json_t *item, void *data);


void
apikey_move_csv(apikey_move_t *m)
{
    size_t  n;

    n = 0;
    apikey_move_each(m, apikey_move_csv_item, &n);
}


static void
apikey_move_csv_item(apikey_move_t *m, json_t *item, void *data)
{
    char         at[sizeof("row ") + 20];
    json_t      *row, *prefix;
    size_t      *n = data;
    const char  *what, *key;

    (*n)++;

    what = apikey_move_text(item, "name");
    key = apikey_move_text(item, "key");

    if (what == NULL) {
        (void) snprintf(at, sizeof(at), "row %zu", *n);
        apikey_move_leave(m, at, "it has no name");
        return;
    }

    row = json_copy(item);

    if (key) {
        prefix = json_incref(json_object_get(row, "prefix"));

        if (!apikey_move_key(m, row, what, key)) {
            json_decref(prefix);
            return;
        }

        if (prefix) {
            (void) json_object_set_new(row, "prefix", prefix);
        }

        (void) json_object_del(row, "key");

    } else if (!apikey_move_text(item, "hash")) {
        apikey_move_leave(m, what, "it has neither a hash nor a key");
        json_decref(row);
        return;
    }

    apikey_move_add(m, row);
}
