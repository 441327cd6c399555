
/*
 * Matching patterns of models and services, and scopes: see pattern.h.
 *
 * No state; text is read where it stands.  Called for each request of a key
 * that has a list, so nothing here takes longer than length by length.
 */


#include <string.h>

#include "base/pattern.h"


static bool apikey_scope_one(const char *held, size_t len, const char *wanted,
    size_t wanted_len);


/* Goes back to the last '*' only: what matched in front of it stays. */

bool
apikey_pattern_match(const char *pattern, size_t len, const char *text,
    size_t text_len)
{
    const char  *p, *last, *end, *star, *mark;

    p = pattern;
    last = pattern + len;
    end = text + text_len;
    star = NULL;
    mark = NULL;

    while (text < end) {

        if (p < last && *p == '*') {
            star = ++p;
            mark = text;
            continue;
        }

        if (p < last && *p == *text) {
            p++;
            text++;
            continue;
        }

        if (star == NULL) {
            return false;
        }

        p = star;
        text = ++mark;
    }

    while (p < last && *p == '*') {
        p++;
    }

    return p == last;
}


bool
apikey_pattern_any(const char *list, size_t len, const char *text,
    size_t text_len)
{
    const char  *p, *last, *lf;

    last = list + len;

    for (p = list; p < last; p = lf + 1) {
        lf = memchr(p, '\n', (size_t) (last - p));

        if (lf == NULL) {
            lf = last;
        }

        if (apikey_pattern_match(p, (size_t) (lf - p), text, text_len)) {
            return true;
        }
    }

    return false;
}


bool
apikey_scope_held(const char *held, size_t len, const char *wanted,
    size_t wanted_len)
{
    const char  *p, *last, *blank;

    last = held + len;

    for (p = held; p < last; p = blank + 1) {
        blank = memchr(p, ' ', (size_t) (last - p));

        if (blank == NULL) {
            blank = last;
        }

        if (apikey_scope_one(p, (size_t) (blank - p), wanted, wanted_len)) {
            return true;
        }
    }

    return false;
}


static bool
apikey_scope_one(const char *held, size_t len, const char *wanted,
    size_t wanted_len)
{
    if (len == 0 || wanted_len == 0) {
        return false;
    }

    if (held[len - 1] == '*' && (len == 1 || held[len - 2] == ':')) {
        len--;

        return wanted_len >= len && memcmp(held, wanted, len) == 0;
    }

    return wanted_len == len && memcmp(held, wanted, len) == 0;
}
