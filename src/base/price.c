
/*
 * Prices: reading the list, finding one, and the arithmetic.
 */


#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/money.h"
#include "base/pattern.h"
#include "base/price.h"


#define APIKEY_PRICE_COLUMNS  9
#define APIKEY_PRICE_MILLION  1000000


typedef enum {
    APIKEY_PRICE_VERSION = 0,
    APIKEY_PRICE_FROM,
    APIKEY_PRICE_SERVICE,
    APIKEY_PRICE_MODEL,
    APIKEY_PRICE_PLAN,
    APIKEY_PRICE_INPUT,
    APIKEY_PRICE_OUTPUT,
    APIKEY_PRICE_CACHED,
    APIKEY_PRICE_REQUEST
} apikey_price_column_e;


static bool apikey_price_line(const char *p, const char *end,
    apikey_price_row_t *row);
static bool apikey_price_number(const apikey_price_text_t *text,
    uint64_t *n);
static bool apikey_price_covers(const apikey_price_text_t *pattern,
    const apikey_price_text_t *text);


size_t
apikey_price_parse(const char *text, size_t len, apikey_price_row_t *rows,
    size_t max)
{
    size_t       n;
    const char  *p, *lf, *end;

    end = text + len;
    n = 0;

    for (p = text; p < end; p = lf + 1) {
        lf = memchr(p, '\n', (size_t) (end - p));

        if (lf == NULL || n == max || !apikey_price_line(p, lf, &rows[n])) {
            return APIKEY_PRICE_BAD;
        }

        n++;
    }

    return n;
}


static bool
apikey_price_line(const char *p, const char *end, apikey_price_row_t *row)
{
    unsigned              i;
    uint64_t              from;
    const char           *tab;
    apikey_price_text_t   column[APIKEY_PRICE_COLUMNS];

    for (i = 0; i < APIKEY_PRICE_COLUMNS; i++) {
        tab = memchr(p, '\t', (size_t) (end - p));

        if ((tab == NULL) != (i == APIKEY_PRICE_COLUMNS - 1)) {
            return false;
        }

        column[i].text = p;
        column[i].len = (size_t) ((tab ? tab : end) - p);
        p += column[i].len + 1;
    }

    row->service = column[APIKEY_PRICE_SERVICE];
    row->model = column[APIKEY_PRICE_MODEL];
    row->plan = column[APIKEY_PRICE_PLAN];

    if (!apikey_price_number(&column[APIKEY_PRICE_FROM], &from)
        || from > INT64_MAX)
    {
        return false;
    }

    row->from = (int64_t) from;

    return apikey_price_number(&column[APIKEY_PRICE_VERSION],
                               &row->price.version)
           && apikey_price_number(&column[APIKEY_PRICE_INPUT],
                                  &row->price.input)
           && apikey_price_number(&column[APIKEY_PRICE_OUTPUT],
                                  &row->price.output)
           && apikey_price_number(&column[APIKEY_PRICE_CACHED],
                                  &row->price.cached)
           && apikey_price_number(&column[APIKEY_PRICE_REQUEST],
                                  &row->price.request);
}


static bool
apikey_price_number(const apikey_price_text_t *text, uint64_t *n)
{
    size_t  i;

    *n = APIKEY_PRICE_UNKNOWN;

    if (text->len == 0) {
        return true;
    }

    *n = 0;

    for (i = 0; i < text->len; i++) {

        if (text->text[i] < '0' || text->text[i] > '9'
            || *n > (INT64_MAX - 9) / 10)
        {
            return false;
        }

        *n = *n * 10 + (uint64_t) (text->text[i] - '0');
    }

    return true;
}


const apikey_price_row_t *
apikey_price_find(const apikey_price_row_t *rows, size_t n,
    const apikey_price_row_t *who, int64_t now)
{
    size_t                     i;
    const apikey_price_row_t  *row;

    for (i = 0; i < n; i++) {
        row = &rows[i];

        if (row->from <= now
            && (row->plan.len == 0
                || (row->plan.len == who->plan.len
                    && memcmp(row->plan.text, who->plan.text, row->plan.len)
                       == 0))
            && apikey_price_covers(&row->model, &who->model)
            && apikey_price_covers(&row->service, &who->service))
        {
            return row;
        }
    }

    return NULL;
}


/* What has no name is covered by nothing but what covers all. */

static bool
apikey_price_covers(const apikey_price_text_t *pattern,
    const apikey_price_text_t *text)
{
    return pattern->len == 0
           || (text->len
               && apikey_pattern_match(pattern->text, pattern->len,
                                       text->text, text->len));
}


bool
apikey_price_cost(const apikey_price_t *price, uint64_t input,
    uint64_t cached, uint64_t output, uint64_t *nano)
{
    uint64_t           each;
    unsigned           i;
    unsigned __int128  sum;

    const struct {
        uint64_t       tokens;
        uint64_t       price;
    } part[] = {
        { input - cached, price->input },
        { cached, price->cached == APIKEY_PRICE_UNKNOWN ? price->input
                                                        : price->cached },
        { output, price->output }
    };

    sum = 0;

    for (i = 0; i < sizeof(part) / sizeof(part[0]); i++) {

        if (part[i].tokens && part[i].price == APIKEY_PRICE_UNKNOWN) {
            return false;
        }

        if (part[i].tokens) {
            sum += (unsigned __int128) part[i].tokens * part[i].price;
        }
    }

    sum = (sum + APIKEY_PRICE_MILLION / 2) / APIKEY_PRICE_MILLION;

    each = price->request == APIKEY_PRICE_UNKNOWN ? 0 : price->request;

    if (sum + each > APIKEY_MONEY_MAX) {
        return false;
    }

    *nano = (uint64_t) sum + each;

    return true;
}
