
/*
 * Rows out of a body that arrives in pieces: the elements of a JSON array,
 * which may be the last member, "data", of an object; lines of JSON; records
 * of CSV (RFC 4180).
 *
 * Finds where a row begins and ends, wherever the pieces are cut, and keeps
 * none of them: the caller puts the parts of a row together.  What stands in
 * a row is for others to judge.
 *
 * Plain C, no allocation.
 */


#ifndef APIKEY_ROWS_H_INCLUDED
#define APIKEY_ROWS_H_INCLUDED


#include <stddef.h>
#include <stdint.h>


typedef enum {
    APIKEY_ROWS_ARRAY = 0,
    APIKEY_ROWS_DATA,            /* an array, or {..., "data": [...]} */
    APIKEY_ROWS_LINES,
    APIKEY_ROWS_CSV
} apikey_rows_form_e;


typedef enum {
    APIKEY_ROWS_MORE = 0,        /* all of the piece is read */
    APIKEY_ROWS_ROW,             /* a row is complete */
    APIKEY_ROWS_WRONG            /* see why; there are no more rows */
} apikey_rows_e;


typedef struct {
    const char  *why;            /* static text */

    uint8_t      form;           /* private */
    uint8_t      state;
    uint8_t      bom;
    uint8_t      inside;
    uint8_t      escape;
    uint8_t      wrapped;        /* in an object */
    uint8_t      name;           /* how much of "data" it is; else 0 */
    size_t       depth;
} apikey_rows_t;


void apikey_rows_init(apikey_rows_t *rows, apikey_rows_form_e form);

/*
 * Reads from *pos on.  part of len bytes belongs to the row that is being
 * read, which it completes if the answer is ROW; len may be 0.  Blank lines
 * are no rows; a CR in front of the line's end may stay at the row's.
 */
apikey_rows_e apikey_rows_next(apikey_rows_t *rows, const char **pos,
    const char *end, const char **part, size_t *len);

/* The body is over.  ROW: its last row is complete; MORE: there is none. */
apikey_rows_e apikey_rows_end(apikey_rows_t *rows);


#endif /* APIKEY_ROWS_H_INCLUDED */
