
/*
 * One record of CSV (RFC 4180), field by field.
 *
 * A field that begins with a quote ends with one, and holds quotes doubled;
 * any other is taken as it stands.  What breaks these rules is wrong, not
 * guessed at.
 *
 * Plain C, no allocation.
 */


#ifndef APIKEY_CSV_H_INCLUDED
#define APIKEY_CSV_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>


typedef struct {
    const char  *pos;
    const char  *end;
    bool         more;           /* a field is due */
    bool         wrong;
} apikey_csv_t;


/* The record without its line's end, but for a CR. */
void apikey_csv_init(apikey_csv_t *csv, const char *record, size_t len);

/*
 * Writes the next field to out, which has room for what the record has left.
 * False: there is none, or wrong is set.
 */
bool apikey_csv_next(apikey_csv_t *csv, char *out, size_t *len);


#endif /* APIKEY_CSV_H_INCLUDED */
