
/*
 * Server-sent events, as the HTML standard's "Interpreting an event stream"
 * has them: lines end with LF, CR or CRLF, an empty one ends an event, the
 * lines of its data are put together with line feeds.
 *
 * Most events hold no usage.  Where whole ones stand in a piece, those that
 * cannot are left behind without being looked into: such a one has no name
 * "usage" with a value but null, and nothing that may be that name escaped.
 */


#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "base/jsonpick.h"
#include "usage/extract.h"


typedef enum {
    APIKEY_SSE_MARK = 0,     /* at the very start: the byte order mark */
    APIKEY_SSE_LINE,         /* at the start of one */
    APIKEY_SSE_FIELD,        /* so far it is "data" */
    APIKEY_SSE_BLANK,        /* behind the colon */
    APIKEY_SSE_DATA,
    APIKEY_SSE_OTHER         /* to the end of the line */
} apikey_sse_e;


static const char  apikey_sse_name[] = "usage\"";


static bool
apikey_sse_blank(char ch)
{
    return ch == ' ' || ch == '\t';
}


/* At p is what the fast way must not pass by. */

static bool
apikey_sse_suspect(const char *p, const char *end)
{
    size_t  len;

    /* escaped, it is \u00 and two digits */

    if (*p == '\\') {
        return end - p < 4 || (p[1] == 'u' && p[2] == '0' && p[3] == '0');
    }

    len = sizeof(apikey_sse_name) - 1;

    if ((size_t) (end - p) < len || memcmp(p, apikey_sse_name, len) != 0) {
        return false;
    }

    p += len;

    while (p < end && apikey_sse_blank(*p)) {
        p++;
    }

    if (p < end && *p == ':') {
        p++;
    }

    while (p < end && apikey_sse_blank(*p)) {
        p++;
    }

    return end - p < 4 || memcmp(p, "null", 4) != 0;
}


/*
 * The first such thing, or end.  Adds to lines how many begin with a d, from
 * behind p up to there.
 */

static const char *
apikey_sse_find(const char *p, const char *end, uint64_t *lines)
{
    const char      *q;
    apikey_bytes_t   v, next, third;

    while (p < end) {

        if (end - p >= APIKEY_BYTES + 3) {
            v = apikey_bytes_load(p);
            next = apikey_bytes_load(p + 1);
            third = apikey_bytes_load(p + 3);

            q = p + apikey_bytes_first((apikey_bytes_t)
                            (((next == 's') & (v == 'u') & (third == 'g'))
                             | ((next == 'u') & (v == '\\'))
                             | ((next == 'd') & (v == '\n'))));

            if (q == p + APIKEY_BYTES) {
                p = q;
                continue;
            }

            p = q;
        }

        if (*p == '\n') {
            *lines += (end - p > 1 && p[1] == 'd');

        } else if ((*p == 'u' || *p == '\\') && apikey_sse_suspect(p, end)) {
            break;
        }

        p++;
    }

    return p;
}


/* Behind the last whole event that is seen to end in a piece, or p. */

static const char *
apikey_sse_border(const char *p, const char *end)
{
    for ( ;; ) {
        end = apikey_bytes_behind(p, end, '\n');

        if (end - p < 2) {
            return p;
        }

        if (end[-2] == '\n'
            || (end[-2] == '\r' && end - p >= 3 && end[-3] == '\n'))
        {
            return end;
        }

        end--;
    }
}


/*
 * From the start of an event to that of the first one which has to be looked
 * into, or to border.  From *look on another try is worth it.
 */

static const char *
apikey_sse_pass(apikey_extract_t *x, const char *p, const char *border,
    const char **look)
{
    uint64_t     lines;
    const char  *q, *to;

    lines = (*p == 'd');
    q = apikey_sse_find(p, border, &lines);

    *look = q;

    if (q == border) {
        x->events += lines;
        return border;
    }

    to = apikey_sse_border(p, q);

    if (to == p) {
        return p;
    }

    /* lines of that event are counted when they are read */

    for ( /* void */ ; q >= to; q--) {
        lines -= (*q == 'd' && q[-1] == '\n');
    }

    x->events += lines;

    return to;
}


/* At the start of a line.  True, here and below: ch is eaten. */

static bool
apikey_sse_line(apikey_extract_t *x, char ch, uint64_t offset)
{
    bool  cr;

    cr = x->cr;
    x->cr = false;

    if (ch == '\n' && cr) {
        return true;
    }

    if (ch == '\n' || ch == '\r') {
        x->cr = (ch == '\r');

        if (x->data) {
            x->data = false;
            apikey_extract_document(x);

            if (x->first == 0) {
                x->first = offset;
            }
        }

        return true;
    }

    x->events += (ch == 'd');
    x->matched = 0;
    x->line = APIKEY_SSE_FIELD;

    return false;
}


static bool
apikey_sse_field(apikey_extract_t *x, char ch)
{
    static const char  data[] = "data";

    if (x->matched < 4) {

        if (ch == data[x->matched]) {
            x->matched++;
            return true;
        }

        x->line = APIKEY_SSE_OTHER;
        return false;
    }

    /* the field may have no colon: then its value is empty */

    x->line = APIKEY_SSE_OTHER;

    if (ch != ':' && ch != '\r' && ch != '\n') {
        return true;
    }

    if (x->data) {
        apikey_jsonpick_feed(&x->json, "\n", 1);
    }

    x->data = true;

    if (ch != ':') {
        return false;
    }

    x->line = APIKEY_SSE_BLANK;

    return true;
}


static bool
apikey_sse_mark(apikey_extract_t *x, char ch)
{
    static const char  mark[] = "\xef\xbb\xbf";

    if (ch != mark[x->matched]) {
        x->line = x->matched ? APIKEY_SSE_OTHER : APIKEY_SSE_LINE;
        return false;
    }

    if (++x->matched == 3) {
        x->line = APIKEY_SSE_LINE;
    }

    return true;
}


/* To the end of the line, or of the piece. */

static const char *
apikey_sse_rest(apikey_extract_t *x, const char *p, const char *end)
{
    const char  *q;

    if (x->line == APIKEY_SSE_BLANK) {
        x->line = APIKEY_SSE_DATA;

        if (*p == ' ') {
            p++;
        }
    }

    q = apikey_bytes_either(p, end, '\r', '\n');

    if (x->line == APIKEY_SSE_DATA) {
        apikey_jsonpick_feed(&x->json, p, (size_t) (q - p));
    }

    if (q < end) {
        x->cr = (*q == '\r');
        x->line = APIKEY_SSE_LINE;
        q++;
    }

    return q;
}


void
apikey_extract_sse(apikey_extract_t *x, const char *p, size_t len)
{
    const char  *start, *end, *border, *look;

    start = p;
    end = p + len;
    look = p;
    border = apikey_sse_border(p, end);

    while (p < end) {

        switch (x->line) {

        case APIKEY_SSE_MARK:
            p += apikey_sse_mark(x, *p);
            break;

        case APIKEY_SSE_LINE:
            if (p >= look && p < border && x->first && !x->data && !x->cr) {
                p = apikey_sse_pass(x, p, border, &look);

                if (p == border) {
                    break;
                }
            }

            p += apikey_sse_line(x, *p,
                                 x->bytes + (uint64_t) (p + 1 - start));
            break;

        case APIKEY_SSE_FIELD:
            p += apikey_sse_field(x, *p);
            break;

        default:
            p = apikey_sse_rest(x, p, end);
        }
    }
}
