
/*
 * Patterns and scopes against the plainest way to decide.
 *
 * Input: the pattern or the scopes held, NUL, the text or the scope wanted.
 */


#include "base/pattern.h"

#include "fuzz.h"


/* By the definition, a cell for each pair of ends. */

static bool
fuzz_pattern_match(const char *pattern, size_t len, const char *text,
    size_t text_len)
{
    bool    good, *row, *next, *swap;
    size_t  i, k;

    row = calloc(2 * (text_len + 1), sizeof(bool));

    if (row == NULL) {
        abort();
    }

    swap = row;
    next = row + text_len + 1;
    row[0] = true;

    for (i = 0; i < len; i++) {
        next[0] = row[0] && pattern[i] == '*';

        for (k = 1; k <= text_len; k++) {
            next[k] = pattern[i] == '*' ? row[k] || next[k - 1]
                                        : row[k - 1]
                                          && pattern[i] == text[k - 1];
        }

        memcpy(row, next, (text_len + 1) * sizeof(bool));
    }

    good = row[text_len];
    free(swap);

    return good;
}


static bool
fuzz_pattern_scope(const char *held, size_t len, const char *wanted,
    size_t wanted_len)
{
    size_t  i, n;

    for (i = 0; wanted_len && i < len; i += n + 1) {

        for (n = 0; i + n < len && held[i + n] != ' '; n++) { /* void */ }

        if (n == wanted_len && memcmp(held + i, wanted, n) == 0) {
            return true;
        }

        if (n == 1 && held[i] == '*') {
            return true;
        }

        if (n > 1 && held[i + n - 2] == ':' && held[i + n - 1] == '*'
            && wanted_len >= n - 1 && memcmp(held + i, wanted, n - 1) == 0)
        {
            return true;
        }
    }

    return false;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool         match;
    size_t       len, text_len;
    const char  *pattern, *text;

    pattern = (const char *) data;
    text = size ? memchr(pattern, '\0', size) : NULL;

    if (text == NULL) {
        return 0;
    }

    len = (size_t) (text++ - pattern);
    text_len = size - len - 1;

    match = apikey_pattern_match(pattern, len, text, text_len);

    fuzz_must(match == fuzz_pattern_match(pattern, len, text, text_len));
    fuzz_must(!match || len == 0 || memchr(pattern, '\n', len)
              || apikey_pattern_any(pattern, len, text, text_len));
    fuzz_must(apikey_scope_held(pattern, len, text, text_len)
              == fuzz_pattern_scope(pattern, len, text, text_len));

    return 0;
}
