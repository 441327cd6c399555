
/*
 * Server-sent events, as the HTML standard's "Interpreting an event stream"
 * has them: lines end with LF, CR or CRLF, an empty one ends an event, the
 * lines of its data are put together with line feeds.
 *
 * Most events hold no usage.  Where whole ones stand in a piece, those that
 * cannot are left behind without being looked into: such a one has no name
 * "usage" with a value but null, and no escaped letter that may be of it.
 */


#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

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

    /* escaped, these letters are \u0061 to \u0075, and all odd */

    if (*p == '\\') {
        return end - p < 6
               || (p[1] == 'u' && p[2] == '0' && p[3] == '0'
                   && (p[4] == '6' || p[4] == '7') && (p[5] & 1));
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
 * Where it may be: what has the first and the fourth byte of either.  An
 * answer comes as fast as it can be copied, so this has the widest registers
 * there are.
 */

#ifdef __x86_64__

typedef uint8_t  apikey_sse_wide_t __attribute__((vector_size(32)));


__attribute__((target("avx2")))
static const char *
apikey_sse_wide(const char *p, const char *end)
{
    unsigned           mask;
    apikey_sse_wide_t  v, fourth, match;

    while (end - p >= 32 + 3) {
        memcpy(&v, p, sizeof(v));
        memcpy(&fourth, p + 3, sizeof(fourth));

        match = (apikey_sse_wide_t) (((v == 'u') & (fourth == 'g'))
                                     | ((v == '\\') & (fourth == '0')));
        mask = (unsigned) _mm256_movemask_epi8((__m256i) match);

        if (mask) {
            return p + __builtin_ctz(mask);
        }

        p += 32;
    }

    return p;
}

#endif


static const char *
apikey_sse_candidate(const char *p, const char *end)
{
    unsigned        i;
    apikey_bytes_t  v, fourth;

#ifdef __x86_64__

    if (__builtin_cpu_supports("avx2")) {
        p = apikey_sse_wide(p, end);
    }

#endif

    while (end - p >= APIKEY_BYTES + 3) {
        v = apikey_bytes_load(p);
        fourth = apikey_bytes_load(p + 3);

        i = apikey_bytes_first((apikey_bytes_t)
                               (((v == 'u') & (fourth == 'g'))
                                | ((v == '\\') & (fourth == '0'))));
        p += i;

        if (i < APIKEY_BYTES) {
            return p;
        }
    }

    while (p < end && *p != 'u' && *p != '\\') {
        p++;
    }

    return p;
}


/* The first such thing, or end. */

static const char *
apikey_sse_find(const char *p, const char *end)
{
    for ( ;; ) {
        p = apikey_sse_candidate(p, end);

        if (p == end || apikey_sse_suspect(p, end)) {
            return p;
        }

        p++;
    }
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
    const char  *to;

    *look = apikey_sse_find(p, border);

    to = *look == border ? border : apikey_sse_border(p, *look);

    x->lines += apikey_bytes_count(p, to, '\n');

    return to;
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
            if (p >= look && p < border && x->first && !x->data && !x->cr) {
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


/*
 * What is held is the beginning of an event.  With its end from the next
 * piece it can be left behind as others are; how much of that went with it.
 */

static size_t
apikey_sse_held(apikey_extract_t *x, const char *p, size_t len)
{
    size_t       n, held;
    const char  *at, *end, *border;

    held = x->held;
    n = sizeof(x->hold) - held;
    n = n < len ? n : len;

    memcpy(x->hold + held, p, n);

    border = NULL;
    end = x->hold + held + n;

    for (at = x->hold + held - (held > 2 ? 2 : held); at < end; at++) {
        at = memchr(at, '\n', (size_t) (end - at));

        if (at == NULL) {
            break;
        }

        if (end - at > 2 && at[1] == '\r' && at[2] == '\n') {
            border = at + 3;
            break;
        }

        if (end - at > 1 && at[1] == '\n') {
            border = at + 2;
            break;
        }
    }

    if (border == NULL || border <= x->hold + held
        || apikey_sse_find(x->hold, border) != border)
    {
        apikey_extract_release(x);
        return 0;
    }

    x->lines += apikey_bytes_count(x->hold, border, '\n');
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
    const char  *start, *end;

    start = p;
    end = p + len;

    if (x->held && len) {
        p += apikey_sse_held(x, p, len);
    }

    p = apikey_sse_run(x, p, end, apikey_sse_border(p, end),
                       x->bytes + (uint64_t) (p - start));

    if (p == end) {
        return;
    }

    /* at the border */

    if (x->first && (size_t) (end - p) <= sizeof(x->hold)) {
        x->held = (uint16_t) (end - p);
        memcpy(x->hold, p, x->held);
        return;
    }

    (void) apikey_sse_run(x, p, end, p, x->bytes + (uint64_t) (p - start));
}
