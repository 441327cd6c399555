
/*
 * Any body as rows: cut byte by byte or not at all, the rows are the same;
 * of a JSON array they are its elements; each becomes an item that is JSON.
 *
 * Input: the form, the body.
 */


#include "base/digest.h"
#include "base/import.h"
#include "base/jsonscan.h"
#include "base/rows.h"

#include "fuzz.h"


/* Writes the rows one after another, NUL behind each; returns how many. */

static size_t
fuzz_rows_split(uint8_t form, const char *body, size_t len, size_t piece,
    char *out, size_t *size)
{
    char           *start;
    size_t          n, rows;
    const char     *p, *end, *part;
    apikey_rows_e   rc;
    apikey_rows_t   state;

    apikey_rows_init(&state, form % 4);

    start = out;
    rows = 0;
    rc = APIKEY_ROWS_MORE;

    for (p = body; p < body + len && rc != APIKEY_ROWS_WRONG; /* void */ ) {
        end = (size_t) (body + len - p) > piece ? p + piece : body + len;

        do {
            rc = apikey_rows_next(&state, &p, end, &part, &n);

            fuzz_must(p <= end && n <= len);

            memcpy(out, part, n);
            out += n;

            if (rc == APIKEY_ROWS_ROW) {
                *out++ = '\0';
                rows++;
            }

        } while (rc == APIKEY_ROWS_ROW);

        fuzz_must(rc == APIKEY_ROWS_WRONG || p == end);
    }

    rc = apikey_rows_end(&state);

    if (rc == APIKEY_ROWS_ROW) {
        *out++ = '\0';
        rows++;
    }

    *size = out - start;

    return (rc == APIKEY_ROWS_WRONG) ? (size_t) -1 : rows;
}


static void
fuzz_rows_item(const char *row, size_t len, char *memory)
{
    char                    *scratch;
    apikey_json_t            j;
    apikey_json_walk_t       w;
    apikey_import_header_t   h;

    /* memory: 2 * len of scratch, then what is written */

    scratch = memory + 2 * len + 1;
    apikey_json_init(&j, scratch, 2 * len + 512);

    if (apikey_import_row(&j, 1, row, len, memory)) {
        fuzz_must(!j.overflow);
        fuzz_must(apikey_json_walk(&w, scratch, apikey_json_len(&j)));
    }

    /* the row as header and record of itself */

    if (apikey_import_header(&h, row, len, memory) == NULL) {
        apikey_json_init(&j, scratch, 16 * len + 512);

        if (apikey_import_csv(&h, row, len, memory + len, &j) == NULL) {
            fuzz_must(!j.overflow);
            fuzz_must(apikey_json_valid(scratch, apikey_json_len(&j)));
        }
    }
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char                *one, *other, *memory, *p;
    size_t               n, many, len, again;
    apikey_json_walk_t   w;

    if (size < 2) {
        return 0;
    }

    (void) apikey_digest_init();

    one = malloc(2 * size);
    other = malloc(2 * size);
    memory = malloc(18 * size + 1024);

    if (one == NULL || other == NULL || memory == NULL) {
        abort();
    }

    many = fuzz_rows_split(*data, (const char *) data + 1, size - 1, size,
                           one, &len);
    n = fuzz_rows_split(*data, (const char *) data + 1, size - 1, 1, other,
                        &again);

    fuzz_must(n == many && len == again && memcmp(one, other, len) == 0);

    p = one;

    if (*data % 4 == APIKEY_ROWS_ARRAY && data[1] == '['
        && apikey_json_walk(&w, (const char *) data + 1, size - 1))
    {
        for (n = 0; apikey_json_walk_next(&w); n++) {
            fuzz_must(n < many);
            fuzz_must(memcmp(p, w.value, w.value_len) == 0);
            fuzz_must(p[w.value_len] == '\0');
            p += w.value_len + 1;
        }

        fuzz_must(n == many);
    }

    fuzz_rows_item((const char *) data + 1, size - 1, memory);

    free(one);
    free(other);
    free(memory);

    return 0;
}
