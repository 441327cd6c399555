
/*
 * The reader behind jsonpick.h: names and texts, byte by byte where it has to
 * be.  Objects, and members that are whole in a piece, are
 * jsonpick_member.c's; what is skipped, numbers and words jsonpick_value.c's.
 */


#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "base/jsonpick.h"
#include "base/jsonpick_private.h"


typedef const char *(*apikey_jp_byte_pt)(apikey_jsonpick_t *j, const char *p);
typedef const char *(*apikey_jp_run_pt)(apikey_jsonpick_t *j, const char *p,
    const char *end);


static const char *apikey_jp_mark(apikey_jsonpick_t *j, const char *p);
static const char *apikey_jp_value(apikey_jsonpick_t *j, const char *p,
    const char *end);
static const char *apikey_jp_first(apikey_jsonpick_t *j, const char *p,
    const char *end);
static const char *apikey_jp_name(apikey_jsonpick_t *j, const char *p,
    const char *end);
static const char *apikey_jp_colon(apikey_jsonpick_t *j, const char *p,
    const char *end);
static const char *apikey_jp_next(apikey_jsonpick_t *j, const char *p,
    const char *end);
static const char *apikey_jp_after(apikey_jsonpick_t *j, const char *p,
    const char *end);
static const char *apikey_jp_text(apikey_jsonpick_t *j, const char *p,
    const char *end);
static const char *apikey_jp_escape(apikey_jsonpick_t *j, const char *p);
static const char *apikey_jp_hex(apikey_jsonpick_t *j, const char *p);
static const char *apikey_jp_end(apikey_jsonpick_t *j, const char *p);


/*
 * A state looks at one byte, or at all there are; the states of a member call
 * each other.
 */

static const apikey_jp_byte_pt  apikey_jp_bytes[APIKEY_JP_STATES] = {
    [APIKEY_JP_MARK]        = apikey_jp_mark,
    [APIKEY_JP_ESCAPE]      = apikey_jp_escape,
    [APIKEY_JP_HEX]         = apikey_jp_hex,
    [APIKEY_JP_END]         = apikey_jp_end,
};

static const apikey_jp_run_pt  apikey_jp_runs[APIKEY_JP_STATES] = {
    [APIKEY_JP_VALUE]       = apikey_jp_value,
    [APIKEY_JP_FIRST]       = apikey_jp_first,
    [APIKEY_JP_NAME]        = apikey_jp_name,
    [APIKEY_JP_COLON]       = apikey_jp_colon,
    [APIKEY_JP_NEXT]        = apikey_jp_next,
    [APIKEY_JP_AFTER]       = apikey_jp_after,
    [APIKEY_JP_SKIP]        = apikey_jp_skip,
    [APIKEY_JP_SKIP_STRING] = apikey_jp_string,
    [APIKEY_JP_STRING]      = apikey_jp_string,
    [APIKEY_JP_TEXT]        = apikey_jp_text,
    [APIKEY_JP_NUMBER]      = apikey_jp_number,
    [APIKEY_JP_WORD]        = apikey_jp_word,
    [APIKEY_JP_SCALAR]      = apikey_jp_scalar,
};


void
apikey_jsonpick_init(apikey_jsonpick_t *j, const apikey_pick_t *root,
    apikey_pick_pt found, char *text, size_t size)
{
    memset(j, 0, sizeof(apikey_jsonpick_t));

    j->object = root;
    j->found = found;
    j->text = text;
    j->size = size;
}


void
apikey_jsonpick_feed(apikey_jsonpick_t *j, const char *p, size_t len)
{
    const char  *end;

    end = p + len;
    j->piece = p;

    while (p < end && j->state != APIKEY_JP_BAD) {

        p = apikey_jp_members(j, p, end);

        if (p == end) {
            break;
        }

        if (apikey_jp_runs[j->state]) {
            p = apikey_jp_runs[j->state](j, p, end);

        } else {
            p = apikey_jp_bytes[j->state](j, p);
        }
    }

    j->base += len;
}


bool
apikey_jsonpick_whole(const apikey_jsonpick_t *j)
{
    return j->state == APIKEY_JP_END && j->rooted;
}


void
apikey_jp_done(apikey_jsonpick_t *j, const char *p, apikey_pick_e what)
{
    const apikey_pick_t  *pick;

    pick = j->pick;
    j->pick = NULL;
    j->state = j->rooted ? APIKEY_JP_AFTER : APIKEY_JP_END;

    if (pick) {
        j->stop = apikey_jp_offset(j, p);
        j->found(j, pick->id, what);
    }
}


static const char *
apikey_jp_mark(apikey_jsonpick_t *j, const char *p)
{
    static const char  mark[] = "\xef\xbb\xbf";

    if (*p != mark[j->phase]) {
        j->state = j->phase ? APIKEY_JP_BAD : APIKEY_JP_VALUE;
        return p;
    }

    if (++j->phase == 3) {
        j->state = APIKEY_JP_VALUE;
    }

    return p + 1;
}


static const char *
apikey_jp_value(apikey_jsonpick_t *j, const char *p, const char *end)
{
    while (apikey_jp_blank(*p)) {
        if (++p == end) {
            return p;
        }
    }

    j->start = apikey_jp_offset(j, p);

    switch (*p) {

    case '{':
        if (!j->rooted
            || (j->pick && j->pick->kind == APIKEY_MEMBER_OBJECT
                && j->level < APIKEY_PICK_DEPTH))
        {
            apikey_jp_open(j);
            return p + 1;
        }

        /* fall through */

    case '[':
        j->depth = 1;
        j->state = APIKEY_JP_SKIP;
        return apikey_jp_skip(j, p + 1, end);

    case '"':
        j->phase = 0;
        j->lost = false;
        j->high = 0;
        j->len = 0;
        j->back = APIKEY_JP_TEXT;

        if (j->pick && j->pick->kind == APIKEY_MEMBER_TEXT) {
            j->state = APIKEY_JP_TEXT;
            return p + 1;
        }

        j->state = APIKEY_JP_STRING;
        return apikey_jp_string(j, p + 1, end);

    default:
        if (!apikey_jp_scalar_begin(j, *p)) {
            j->state = APIKEY_JP_BAD;
        }

        return p;
    }
}


static void
apikey_jp_name_begin(apikey_jsonpick_t *j)
{
    j->key_len = 0;
    j->lost = false;
    j->high = 0;
    j->back = APIKEY_JP_NAME;
    j->state = APIKEY_JP_NAME;
}


static const char *
apikey_jp_first(apikey_jsonpick_t *j, const char *p, const char *end)
{
    if (*p == '}') {
        j->empty = true;
        apikey_jp_close(j, p);
        return p + 1;
    }

    return apikey_jp_next(j, p, end);
}


/* FIRST stays what it is over blanks. */

static const char *
apikey_jp_next(apikey_jsonpick_t *j, const char *p, const char *end)
{
    if (*p == '"') {
        apikey_jp_name_begin(j);
        return ++p < end ? apikey_jp_name(j, p, end) : p;
    }

    if (!apikey_jp_blank(*p)) {
        j->state = APIKEY_JP_BAD;
    }

    return p + 1;
}


static const char *
apikey_jp_after(apikey_jsonpick_t *j, const char *p, const char *end)
{
    if (*p == ',') {
        j->state = APIKEY_JP_NEXT;
        return ++p < end ? apikey_jp_next(j, p, end) : p;
    }

    if (*p == '}') {
        j->empty = false;
        apikey_jp_close(j, p);

    } else if (!apikey_jp_blank(*p)) {
        j->state = APIKEY_JP_BAD;
    }

    return p + 1;
}


static const char *
apikey_jp_colon(apikey_jsonpick_t *j, const char *p, const char *end)
{
    if (*p == ':') {
        j->state = APIKEY_JP_VALUE;
        return ++p < end ? apikey_jp_value(j, p, end) : p;
    }

    if (!apikey_jp_blank(*p)) {
        j->state = APIKEY_JP_BAD;
    }

    return p + 1;
}


/* To the name or the text, whichever is being read. */

static void
apikey_jp_put(apikey_jsonpick_t *j, const char *p, size_t len)
{
    if (j->lost || len == 0) {
        return;
    }

    if (j->back == APIKEY_JP_NAME) {
        if (len > APIKEY_PICK_NAME - (size_t) j->key_len) {
            j->lost = true;
            return;
        }

        memcpy(j->key + j->key_len, p, len);
        j->key_len += (uint8_t) len;
        return;
    }

    if (len > j->size - j->len) {
        j->lost = true;
        return;
    }

    memcpy(j->text + j->len, p, len);
    j->len += len;
}


static void
apikey_jp_put_code(apikey_jsonpick_t *j, uint32_t c)
{
    char    utf8[4];
    size_t  n;

    n = 0;

    if (c < 0x80) {
        utf8[n++] = (char) c;

    } else if (c < 0x800) {
        utf8[n++] = (char) (0xc0 | c >> 6);

    } else if (c < 0x10000) {
        utf8[n++] = (char) (0xe0 | c >> 12);
        utf8[n++] = (char) (0x80 | (c >> 6 & 0x3f));

    } else {
        utf8[n++] = (char) (0xf0 | c >> 18);
        utf8[n++] = (char) (0x80 | (c >> 12 & 0x3f));
        utf8[n++] = (char) (0x80 | (c >> 6 & 0x3f));
    }

    if (c >= 0x80) {
        utf8[n++] = (char) (0x80 | (c & 0x3f));
    }

    apikey_jp_put(j, utf8, n);
}


/* Half of a surrogate pair is no character. */

static void
apikey_jp_put_half(apikey_jsonpick_t *j)
{
    if (j->high) {
        j->high = 0;
        apikey_jp_put_code(j, 0xfffd);
    }
}


static const char *
apikey_jp_name(apikey_jsonpick_t *j, const char *p, const char *end)
{
    const char  *q;

    q = apikey_bytes_either(p, end, '"', '\\');

    if (q < end && *q == '"' && j->key_len == 0 && !j->lost && !j->high) {
        j->pick = apikey_jp_picked(j, p, (size_t) (q - p));
        j->state = APIKEY_JP_COLON;
        return ++q < end ? apikey_jp_colon(j, q, end) : q;
    }

    if (q > p) {
        apikey_jp_put_half(j);
        apikey_jp_put(j, p, (size_t) (q - p));
    }

    if (q == end) {
        return q;
    }

    if (*q == '\\') {
        j->state = APIKEY_JP_ESCAPE;
        return q + 1;
    }

    apikey_jp_put_half(j);

    j->pick = j->lost ? NULL : apikey_jp_picked(j, j->key, j->key_len);
    j->state = APIKEY_JP_COLON;

    return q + 1;
}


static const char *
apikey_jp_text(apikey_jsonpick_t *j, const char *p, const char *end)
{
    const char  *q;

    q = apikey_bytes_either(p, end, '"', '\\');

    if (q > p) {
        apikey_jp_put_half(j);
        apikey_jp_put(j, p, (size_t) (q - p));
    }

    if (q == end) {
        return q;
    }

    if (*q == '\\') {
        j->state = APIKEY_JP_ESCAPE;
        return q + 1;
    }

    apikey_jp_put_half(j);
    apikey_jp_done(j, q + 1, j->lost ? APIKEY_PICK_OTHER : APIKEY_PICK_TEXT);

    return q + 1;
}


static const char *
apikey_jp_escape(apikey_jsonpick_t *j, const char *p)
{
    const char  *known;

    static const char  from[] = "bfnrt\"\\/", to[] = "\b\f\n\r\t\"\\/";

    if (*p == 'u') {
        j->code = 0;
        j->digits = 0;
        j->state = APIKEY_JP_HEX;
        return p + 1;
    }

    known = *p ? strchr(from, *p) : NULL;

    if (known == NULL) {
        j->state = APIKEY_JP_BAD;
        return p;
    }

    apikey_jp_put_half(j);
    apikey_jp_put(j, &to[known - from], 1);
    j->state = j->back;

    return p + 1;
}


static void
apikey_jp_unit(apikey_jsonpick_t *j, uint32_t code)
{
    uint32_t  high;

    high = j->high;

    if (high && code >= 0xdc00 && code < 0xe000) {
        j->high = 0;
        apikey_jp_put_code(j, 0x10000 + ((high - 0xd800) << 10)
                              + (code - 0xdc00));
        return;
    }

    apikey_jp_put_half(j);

    if (code >= 0xd800 && code < 0xdc00) {
        j->high = code;
        return;
    }

    apikey_jp_put_code(j, code >= 0xdc00 && code < 0xe000 ? 0xfffd : code);
}


static const char *
apikey_jp_hex(apikey_jsonpick_t *j, const char *p)
{
    uint32_t  ch, low;

    ch = (unsigned char) *p;
    low = ch | 0x20;

    if (ch >= '0' && ch <= '9') {
        j->code = j->code * 16 + ch - '0';

    } else if (low >= 'a' && low <= 'f') {
        j->code = j->code * 16 + low - 'a' + 10;

    } else {
        j->state = APIKEY_JP_BAD;
        return p;
    }

    if (++j->digits == 4) {
        j->state = j->back;
        apikey_jp_unit(j, j->code);
    }

    return p + 1;
}


static const char *
apikey_jp_end(apikey_jsonpick_t *j, const char *p)
{
    if (!apikey_jp_blank(*p)) {
        j->state = APIKEY_JP_BAD;
    }

    return p + 1;
}
