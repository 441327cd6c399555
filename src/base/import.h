
/*
 * A row of an import on its way to Postgres: the plaintext of a key is
 * replaced by its digest here and goes no further; a record of CSV becomes
 * the object that a row of JSON is.
 *
 * Plain C, no allocation.  Scratch memory holds plaintext afterwards: its
 * owner wipes it.
 */


#ifndef APIKEY_IMPORT_H_INCLUDED
#define APIKEY_IMPORT_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"


#define APIKEY_IMPORT_COLUMNS  64


typedef struct {
    const char  *name[APIKEY_IMPORT_COLUMNS];
    size_t       len[APIKEY_IMPORT_COLUMNS];
    unsigned     n;
} apikey_import_header_t;


/*
 * The header line: names in lower case, which stand in memory (len bytes)
 * from now on.  NULL, or why it is none.
 */
const char *apikey_import_header(apikey_import_header_t *h,
    const char *record, size_t len, char *memory);

/*
 * Writes a record as an object.  An empty field is an absent member; lists
 * are split at blanks.  scratch: len bytes.  NULL, or what is wrong with it;
 * what was written must not be used then.
 */
const char *apikey_import_csv(const apikey_import_header_t *h,
    const char *record, size_t len, char *scratch, apikey_json_t *j);

/*
 * Writes an item of the batch as schema/0034_import.sql knows it: the row's
 * number with its JSON, or with what is wrong with it already.  scratch:
 * 2 * len bytes.  False: the row is not JSON, and nothing is written.
 */
bool apikey_import_row(apikey_json_t *j, uint64_t number, const char *row,
    size_t len, char *scratch);

/* The same of a row without secrets, which goes on as it is. */
bool apikey_import_plain(apikey_json_t *j, uint64_t number, const char *row,
    size_t len);

/* The item of a row that cannot be read. */
void apikey_import_wrong(apikey_json_t *j, uint64_t number,
    const char *location, const char *code, const char *message);

/*
 * How much of a foreign key may be shown: the length of its start, with four
 * more characters at its end; 0: nothing, it is too short or not ASCII.
 */
size_t apikey_import_hint(const char *key, size_t len);


#endif /* APIKEY_IMPORT_H_INCLUDED */
