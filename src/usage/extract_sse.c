
/*
 * Server-sent events, as the HTML standard's "Interpreting an event stream"
 * has them: lines end with LF, CR or CRLF, an empty one ends an event, the
 * lines of its data are put together with line feeds.
 *
 * Most events hold no usage.  Where whole ones stand in a piece, those that
 * cannot are left behind without being looked into (extract_find.c).
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
    const char  *to;

    lines = 0;
    to = border;
    *look = apikey_extract_find(p, border, &lines);

    if (*look != border) {
        to = apikey_sse_border(p, *look);
        lines -= apikey_bytes_count(to, *look, '\n');
    }

    x->lines += lines;

    return to;
}


/* Between two events, from where whole ones can be left behind. */

static bool
apikey_sse_between(const apikey_extract_t *x)
{
    return x->line == APIKEY_SSE_LINE && x->first && !x->data && !x->cr;
}


/* At the start of a line.  True, here and below: ch is eaten. */

static bool
apikey_sse_line(apikey_extract_t *x, char ch, uint64_t offset)
{
    bool  cr;

    cr = x->cr;
    x->cr = false;
    x->lines += (cr || ch == '\n');

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
                x->first_lines = x->lines + (ch == '\r');
            }
        }

        return true;
    }

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
        x->lines += (*q == '\n');
        x->line = APIKEY_SSE_LINE;
        q++;
    }

    return q;
}


/*
 * border: where the last event that is seen to end does; offset: of p in all
 * that was fed.  Ends at either.
 */

static const char *
apikey_sse_run(apikey_extract_t *x, const char *p, const char *end,
    const char *border, uint64_t offset)
{
    const char  *start, *look;

    start = p;
    look = p;

    while (p < end) {

        switch (x->line) {

        case APIKEY_SSE_MARK:
            p += apikey_sse_mark(x, *p);
            break;

        case APIKEY_SSE_LINE:
            if (p >= look && p < border && apikey_sse_between(x)) {
                p = apikey_sse_pass(x, p, border, &look);
            }

            if (p == border && border > start) {
                return p;
            }

            p += apikey_sse_line(x, *p, offset + (uint64_t) (p + 1 - start));
            break;

        case APIKEY_SSE_FIELD:
            p += apikey_sse_field(x, *p);
            break;

        default:
            p = apikey_sse_rest(x, p, end);
        }
    }

    return p;
}


/* Behind the first event that is seen to end behind at, or NULL. */

static const char *
apikey_sse_first(const char *at, const char *end)
{
    for ( /* void */ ; at < end; at++) {
        at = memchr(at, '\n', (size_t) (end - at));

        if (at == NULL) {
            return NULL;
        }

        if (end - at > 2 && at[1] == '\r' && at[2] == '\n') {
            return at + 3;
        }

        if (end - at > 1 && at[1] == '\n') {
            return at + 2;
        }
    }

    return NULL;
}


/*
 * What is held is the beginning of an event, and what comes goes on with it.
 * With its end it can be left behind as others are; how much went with it.
 */

static size_t
apikey_sse_held(apikey_extract_t *x, const char *p, size_t len)
{
    size_t       n, held;
    uint64_t     lines;
    const char  *border;

    held = x->held;
    n = sizeof(x->hold) - held;
    n = n < len ? n : len;

    memcpy(x->hold + held, p, n);

    border = apikey_sse_first(x->hold + held - (held > 2 ? 2 : held),
                              x->hold + held + n);

    if (border == NULL && n == len) {
        x->held = (uint16_t) (held + n);
        return n;
    }

    lines = 0;

    if (border == NULL || border <= x->hold + held
        || apikey_extract_find(x->hold, border, &lines) != border)
    {
        apikey_extract_release(x);
        return 0;
    }

    x->lines += lines;
    x->held = 0;

    return (size_t) (border - x->hold) - held;
}


void
apikey_extract_release(apikey_extract_t *x)
{
    size_t  held;

    held = x->held;
    x->held = 0;

    (void) apikey_sse_run(x, x->hold, x->hold + held, x->hold,
                          x->bytes - held);
}


void
apikey_extract_sse(apikey_extract_t *x, const char *p, size_t len)
{
    const char  *start, *end, *border;

    start = p;
    end = p + len;

    if (x->held && len) {
        p += apikey_sse_held(x, p, len);
    }

    if (p == end) {
        return;
    }

    border = apikey_sse_border(p, end);

    if (border > p || !apikey_sse_between(x)) {
        p = apikey_sse_run(x, p, end, border,
                           x->bytes + (uint64_t) (p - start));
    }

    /* at the border */

    if (apikey_sse_between(x) && (size_t) (end - p) <= sizeof(x->hold)) {
        x->held = (uint16_t) (end - p);
        memcpy(x->hold, p, x->held);
        return;
    }

    (void) apikey_sse_run(x, p, end, p, x->bytes + (uint64_t) (p - start));
}
