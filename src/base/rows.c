
/*
 * The splitter behind rows.h: a state for each byte, so that a piece may end
 * anywhere.
 *
 * Of JSON it knows strings and nesting only.  An element of an array that is
 * not JSON may hide where it ends, so its caller has to stop there; a line
 * cannot.
 */


#include <string.h>

#include "base/rows.h"


typedef enum {
    APIKEY_ROWS_START = 0,       /* array: '[' is due; lines: a row */
    APIKEY_ROWS_FIRST,           /* array: an element or ']' */
    APIKEY_ROWS_VALUE,           /* array: an element */
    APIKEY_ROWS_IN,
    APIKEY_ROWS_AFTER,           /* array: ',' or ']' */
    APIKEY_ROWS_WRAP,            /* data: in the object before its array */
    APIKEY_ROWS_UNWRAP,          /* data: '}' is due */
    APIKEY_ROWS_DONE
} apikey_rows_state_e;


typedef enum {
    APIKEY_ROWS_SCALAR = 0,      /* array: ends at what cannot be part of it */
    APIKEY_ROWS_NEST,            /* array: in an object or array */
    APIKEY_ROWS_STRING,          /* array: in a string */
    APIKEY_ROWS_FIELD,           /* CSV: at the start of a field */
    APIKEY_ROWS_PLAIN,           /* CSV, lines */
    APIKEY_ROWS_QUOTED,          /* CSV */
    APIKEY_ROWS_QUOTE            /* CSV: behind a quote in a quoted field */
} apikey_rows_inside_e;


static apikey_rows_e apikey_rows_array(apikey_rows_t *rows, const char **pos,
    const char *end, const char **part, size_t *len);
static apikey_rows_e apikey_rows_between(apikey_rows_t *rows, char ch);
static apikey_rows_e apikey_rows_open(apikey_rows_t *rows, char ch);
static apikey_rows_e apikey_rows_wrap(apikey_rows_t *rows, char ch);
static void apikey_rows_begin(apikey_rows_t *rows, char ch);
static apikey_rows_e apikey_rows_element(apikey_rows_t *rows,
    const char **pos, const char *end);
static apikey_rows_e apikey_rows_line(apikey_rows_t *rows, const char **pos,
    const char *end, const char **part, size_t *len);
static void apikey_rows_csv(apikey_rows_t *rows, char ch);
static apikey_rows_e apikey_rows_wrong(apikey_rows_t *rows, const char *why);


static const unsigned char  apikey_bom[] = { 0xef, 0xbb, 0xbf };


/* The array has ended. */

static uint8_t
apikey_rows_closed(const apikey_rows_t *rows)
{
    return rows->wrapped ? APIKEY_ROWS_UNWRAP : APIKEY_ROWS_DONE;
}


static int
apikey_rows_blank(char ch)
{
    return ch == ' ' || ch == '\t' || ch == '\n' || ch == '\r';
}


void
apikey_rows_init(apikey_rows_t *rows, apikey_rows_form_e form)
{
    memset(rows, 0, sizeof(apikey_rows_t));
    rows->form = form;
}


apikey_rows_e
apikey_rows_next(apikey_rows_t *rows, const char **pos, const char *end,
    const char **part, size_t *len)
{
    *part = *pos;
    *len = 0;

    if (rows->why) {
        return APIKEY_ROWS_WRONG;
    }

    /* what spreadsheets put in front of UTF-8 */

    while (rows->bom < sizeof(apikey_bom) && *pos < end) {

        if ((unsigned char) **pos != apikey_bom[rows->bom]) {

            if (rows->bom) {
                return apikey_rows_wrong(rows, "the body is not UTF-8 text");
            }

            rows->bom = sizeof(apikey_bom);
            break;
        }

        rows->bom++;
        (*pos)++;
    }

    if (rows->form <= APIKEY_ROWS_DATA) {
        return apikey_rows_array(rows, pos, end, part, len);
    }

    return apikey_rows_line(rows, pos, end, part, len);
}


static apikey_rows_e
apikey_rows_array(apikey_rows_t *rows, const char **pos, const char *end,
    const char **part, size_t *len)
{
    apikey_rows_e  rc;

    while (rows->state != APIKEY_ROWS_IN) {

        if (*pos == end) {
            return APIKEY_ROWS_MORE;
        }

        rc = apikey_rows_between(rows, **pos);

        if (rc == APIKEY_ROWS_WRONG) {
            return rc;
        }

        if (rows->state != APIKEY_ROWS_IN) {
            (*pos)++;
        }
    }

    *part = *pos;
    rc = apikey_rows_element(rows, pos, end);
    *len = *pos - *part;

    return rc;
}


static apikey_rows_e
apikey_rows_between(apikey_rows_t *rows, char ch)
{
    if (rows->state == APIKEY_ROWS_WRAP) {
        return apikey_rows_wrap(rows, ch);
    }

    if (apikey_rows_blank(ch)) {
        return APIKEY_ROWS_MORE;
    }

    switch (rows->state) {

    case APIKEY_ROWS_START:

        return apikey_rows_open(rows, ch);

    case APIKEY_ROWS_AFTER:

        if (ch != ',' && ch != ']') {
            return apikey_rows_wrong(rows, "a comma or ] is needed here");
        }

        rows->state = (ch == ',') ? APIKEY_ROWS_VALUE
                                  : apikey_rows_closed(rows);
        break;

    case APIKEY_ROWS_UNWRAP:

        if (ch != '}') {
            return apikey_rows_wrong(rows, "\"data\" must be the last member");
        }

        rows->state = APIKEY_ROWS_DONE;
        break;

    case APIKEY_ROWS_DONE:
        return apikey_rows_wrong(rows, "there is text behind the array");

    default: /* APIKEY_ROWS_FIRST, APIKEY_ROWS_VALUE */

        if (ch == ']' && rows->state == APIKEY_ROWS_FIRST) {
            rows->state = apikey_rows_closed(rows);
            break;
        }

        if (strchr(",]}:", ch)) {
            return apikey_rows_wrong(rows, "a JSON object is needed here");
        }

        apikey_rows_begin(rows, ch);
    }

    return APIKEY_ROWS_MORE;
}


static apikey_rows_e
apikey_rows_open(apikey_rows_t *rows, char ch)
{
    if (ch == '[') {
        rows->state = APIKEY_ROWS_FIRST;
        return APIKEY_ROWS_MORE;
    }

    if (ch != '{' || rows->form != APIKEY_ROWS_DATA) {
        return apikey_rows_wrong(rows, "a JSON array is needed");
    }

    rows->state = APIKEY_ROWS_WRAP;
    rows->wrapped = 1;
    rows->depth = 1;
    rows->inside = APIKEY_ROWS_NEST;

    return APIKEY_ROWS_MORE;
}


/* The members before "data", of which only strings and nesting count. */

static apikey_rows_e
apikey_rows_wrap(apikey_rows_t *rows, char ch)
{
    static const char  data[] = "\"data\"";

    if (rows->inside == APIKEY_ROWS_STRING) {
        rows->name = (rows->name && data[rows->name] == ch) ? rows->name + 1
                                                            : 0;
        if (rows->escape) {
            rows->escape = 0;

        } else if (ch == '\\') {
            rows->escape = 1;

        } else if (ch == '"') {
            rows->inside = APIKEY_ROWS_NEST;
        }

        return APIKEY_ROWS_MORE;
    }

    if (ch == '"') {
        rows->inside = APIKEY_ROWS_STRING;
        rows->name = (rows->depth == 1);

    } else if (ch == '[' && rows->name == sizeof(data)) {
        rows->state = APIKEY_ROWS_FIRST;

    } else if (ch == ':' && rows->name == sizeof(data) - 1) {
        rows->name++;

    } else if (!apikey_rows_blank(ch)) {
        rows->name = 0;

        if (ch == '{' || ch == '[') {
            rows->depth++;

        } else if ((ch == '}' || ch == ']') && --rows->depth == 0) {
            return apikey_rows_wrong(rows, "there is no array \"data\"");
        }
    }

    return APIKEY_ROWS_MORE;
}


static void
apikey_rows_begin(apikey_rows_t *rows, char ch)
{
    rows->state = APIKEY_ROWS_IN;
    rows->depth = 0;
    rows->escape = 0;
    rows->inside = (ch == '{' || ch == '[' || ch == '"') ? APIKEY_ROWS_NEST
                                                         : APIKEY_ROWS_SCALAR;
}


static apikey_rows_e
apikey_rows_element(apikey_rows_t *rows, const char **pos, const char *end)
{
    char         ch;
    const char  *p;

    for (p = *pos; p < end; p++) {
        ch = *p;

        if (rows->inside == APIKEY_ROWS_STRING) {

            if (rows->escape) {
                rows->escape = 0;

            } else if (ch == '\\') {
                rows->escape = 1;

            } else if (ch == '"') {
                rows->inside = APIKEY_ROWS_NEST;

                if (rows->depth == 0) {
                    break;
                }
            }

        } else if (rows->inside == APIKEY_ROWS_SCALAR) {

            if (apikey_rows_blank(ch) || ch == ',' || ch == ']') {
                rows->state = APIKEY_ROWS_AFTER;
                *pos = p;
                return APIKEY_ROWS_ROW;
            }

        } else if (ch == '"') {
            rows->inside = APIKEY_ROWS_STRING;

        } else if (ch == '{' || ch == '[') {
            rows->depth++;

        } else if ((ch == '}' || ch == ']') && --rows->depth == 0) {
            break;
        }
    }

    if (p == end) {
        *pos = end;
        return APIKEY_ROWS_MORE;
    }

    rows->state = APIKEY_ROWS_AFTER;
    *pos = p + 1;

    return APIKEY_ROWS_ROW;
}


static apikey_rows_e
apikey_rows_line(apikey_rows_t *rows, const char **pos, const char *end,
    const char **part, size_t *len)
{
    char         ch;
    const char  *p;

    p = *pos;

    while (rows->state != APIKEY_ROWS_IN && p < end) {
        ch = *p;

        if (ch == '\n' || ch == '\r'
            || (rows->form == APIKEY_ROWS_LINES && apikey_rows_blank(ch)))
        {
            p++;
            continue;
        }

        rows->state = APIKEY_ROWS_IN;
        rows->inside = (rows->form == APIKEY_ROWS_CSV) ? APIKEY_ROWS_FIELD
                                                       : APIKEY_ROWS_PLAIN;
    }

    *part = p;

    for ( /* void */ ; p < end; p++) {

        if (*p == '\n' && rows->inside != APIKEY_ROWS_QUOTED) {
            *len = p - *part;
            *pos = p + 1;
            rows->state = APIKEY_ROWS_START;

            return APIKEY_ROWS_ROW;
        }

        if (rows->form == APIKEY_ROWS_CSV) {
            apikey_rows_csv(rows, *p);
        }
    }

    *len = p - *part;
    *pos = p;

    return APIKEY_ROWS_MORE;
}


/* A quote inside a plain field is wrong and opens nothing. */

static void
apikey_rows_csv(apikey_rows_t *rows, char ch)
{
    switch (rows->inside) {

    case APIKEY_ROWS_QUOTED:

        if (ch == '"') {
            rows->inside = APIKEY_ROWS_QUOTE;
        }

        break;

    case APIKEY_ROWS_PLAIN:

        if (ch == ',') {
            rows->inside = APIKEY_ROWS_FIELD;
        }

        break;

    default: /* APIKEY_ROWS_FIELD, APIKEY_ROWS_QUOTE */

        if (ch == '"') {
            rows->inside = APIKEY_ROWS_QUOTED;

        } else {
            rows->inside = (ch == ',') ? APIKEY_ROWS_FIELD
                                       : APIKEY_ROWS_PLAIN;
        }
    }
}


apikey_rows_e
apikey_rows_end(apikey_rows_t *rows)
{
    if (rows->why) {
        return APIKEY_ROWS_WRONG;
    }

    if (rows->form <= APIKEY_ROWS_DATA) {

        if (rows->state == APIKEY_ROWS_DONE) {
            return APIKEY_ROWS_MORE;
        }

        return apikey_rows_wrong(rows, (rows->state == APIKEY_ROWS_START)
                                       ? "a JSON array is needed"
                                       : "the array does not end");
    }

    if (rows->state != APIKEY_ROWS_IN) {
        return APIKEY_ROWS_MORE;
    }

    if (rows->inside == APIKEY_ROWS_QUOTED) {
        return apikey_rows_wrong(rows, "a quoted field does not end");
    }

    rows->state = APIKEY_ROWS_START;

    return APIKEY_ROWS_ROW;
}


static apikey_rows_e
apikey_rows_wrong(apikey_rows_t *rows, const char *why)
{
    rows->why = why;

    return APIKEY_ROWS_WRONG;
}
