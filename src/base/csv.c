
/*
 * The reader behind csv.h.
 */


#include <string.h>

#include "base/csv.h"


static bool apikey_csv_quoted(apikey_csv_t *csv, char *out, size_t *len);


void
apikey_csv_init(apikey_csv_t *csv, const char *record, size_t len)
{
    if (len && record[len - 1] == '\r') {
        len--;
    }

    csv->pos = record;
    csv->end = record + len;
    csv->more = true;
    csv->wrong = false;
}


bool
apikey_csv_next(apikey_csv_t *csv, char *out, size_t *len)
{
    const char  *start;

    if (!csv->more) {
        return false;
    }

    csv->more = false;

    if (csv->pos < csv->end && *csv->pos == '"') {

        if (!apikey_csv_quoted(csv, out, len)) {
            csv->wrong = true;
            return false;
        }

    } else {
        start = csv->pos;

        while (csv->pos < csv->end && *csv->pos != ',') {

            if (*csv->pos == '"') {
                csv->wrong = true;
                return false;
            }

            csv->pos++;
        }

        *len = csv->pos - start;

        if (*len) {
            memcpy(out, start, *len);
        }
    }

    if (csv->pos < csv->end) {
        csv->pos++;
        csv->more = true;
    }

    return true;
}


/* To the comma behind the closing quote, or the end. */

static bool
apikey_csv_quoted(apikey_csv_t *csv, char *out, size_t *len)
{
    size_t  n;

    n = 0;

    for (csv->pos++; csv->pos < csv->end; csv->pos++) {

        if (*csv->pos != '"') {
            out[n++] = *csv->pos;
            continue;
        }

        csv->pos++;

        if (csv->pos == csv->end || *csv->pos == ',') {
            *len = n;
            return true;
        }

        if (*csv->pos != '"') {
            return false;
        }

        out[n++] = '"';
    }

    return false;
}
