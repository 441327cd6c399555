
/*
 * The scanner behind jsonscan.h: one pass over the text, no tree.
 */


#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/jsonscan.h"


#define APIKEY_JSONSCAN_DEPTH  64


typedef struct {
    const char  *p;
    const char  *end;
} apikey_jsonscan_t;


static bool apikey_scan_members(apikey_jsonscan_t *s, const char *name,
    size_t len, const char **value, const char **last);
static bool apikey_scan_value(apikey_jsonscan_t *s, unsigned depth);
static bool apikey_scan_list(apikey_jsonscan_t *s, char close,
    unsigned depth);
static bool apikey_scan_string(apikey_jsonscan_t *s);
static bool apikey_scan_escape(apikey_jsonscan_t *s);
static bool apikey_scan_number(apikey_jsonscan_t *s);
static bool apikey_scan_digits(apikey_jsonscan_t *s);
static bool apikey_scan_word(apikey_jsonscan_t *s, const char *word);
static size_t apikey_scan_text(const char *p, const char *end, char *out);
static uint32_t apikey_scan_hex(const char *p);
static size_t apikey_scan_utf8(uint32_t c, char *out);


static void
apikey_scan_blank(apikey_jsonscan_t *s)
{
    while (s->p < s->end
           && (*s->p == ' ' || *s->p == '\t' || *s->p == '\n'
               || *s->p == '\r'))
    {
        s->p++;
    }
}


static bool
apikey_scan_char(apikey_jsonscan_t *s, char ch)
{
    apikey_scan_blank(s);

    if (s->p == s->end || *s->p != ch) {
        return false;
    }

    s->p++;

    return true;
}


size_t
apikey_json_member(const char *json, size_t len, const char *name,
    size_t name_len, char *out)
{
    const char         *value, *last;
    apikey_jsonscan_t   s;

    s.p = json;
    s.end = json + len;

    value = NULL;
    last = NULL;

    if (!apikey_scan_char(&s, '{')) {
        return APIKEY_JSON_NONE;
    }

    if (!apikey_scan_members(&s, name, name_len, &value, &last)) {
        return APIKEY_JSON_NONE;
    }

    apikey_scan_blank(&s);

    if (s.p != s.end || value == NULL || *value == '{' || *value == '['
        || *value == 'n')
    {
        return APIKEY_JSON_NONE;
    }

    if (*value == '"') {
        return apikey_scan_text(value + 1, last - 1, out);
    }

    memcpy(out, value, last - value);

    return last - value;
}


bool
apikey_json_valid(const char *json, size_t len)
{
    apikey_jsonscan_t  s;

    s.p = json;
    s.end = json + len;

    if (!apikey_scan_value(&s, 0)) {
        return false;
    }

    apikey_scan_blank(&s);

    return s.p == s.end;
}


bool
apikey_json_walk(apikey_json_walk_t *w, const char *json, size_t len)
{
    apikey_jsonscan_t  s;

    s.p = json;
    s.end = json + len;

    apikey_scan_blank(&s);

    if (s.p == s.end || (*s.p != '{' && *s.p != '[')
        || !apikey_json_valid(json, len))
    {
        return false;
    }

    w->pos = s.p;

    (void) apikey_scan_value(&s, 0);

    w->end = s.p;

    return true;
}


/* The text is sound: pos is at what opens it, or behind a value. */

bool
apikey_json_walk_next(apikey_json_walk_t *w)
{
    bool               object;
    apikey_jsonscan_t  s;

    s.p = w->pos;
    s.end = w->end;

    object = (w->end[-1] == '}');

    apikey_scan_blank(&s);
    s.p++;
    apikey_scan_blank(&s);

    if (s.p >= w->end - 1) {
        return false;
    }

    w->name = NULL;
    w->name_len = 0;

    if (object) {
        w->name = s.p + 1;
        (void) apikey_scan_string(&s);
        w->name_len = s.p - 1 - w->name;
        (void) apikey_scan_char(&s, ':');
        apikey_scan_blank(&s);
    }

    w->value = s.p;
    (void) apikey_scan_value(&s, 1);
    w->value_len = s.p - w->value;

    apikey_scan_blank(&s);
    w->pos = s.p;

    return true;
}


bool
apikey_json_walk_named(const apikey_json_walk_t *w, const char *name)
{
    char    text[6 * 64];
    size_t  len;

    len = w->name_len;

    if (w->name == NULL || len > sizeof(text)) {
        return false;
    }

    len = apikey_scan_text(w->name, w->name + len, text);

    return len == strlen(name) && memcmp(text, name, len) == 0;
}


size_t
apikey_json_decode(const char *value, size_t len, char *out)
{
    if (len < 2 || *value != '"') {
        return APIKEY_JSON_NONE;
    }

    return apikey_scan_text(value + 1, value + len - 1, out);
}


/* Behind the opening brace, to the end of the object. */

static bool
apikey_scan_members(apikey_jsonscan_t *s, const char *name, size_t len,
    const char **value, const char **last)
{
    bool         found;
    const char  *start;

    if (apikey_scan_char(s, '}')) {
        return true;
    }

    do {
        apikey_scan_blank(s);
        start = s->p;

        if (!apikey_scan_string(s)) {
            return false;
        }

        found = (size_t) (s->p - start) == len + 2
                && memcmp(start + 1, name, len) == 0;

        if (!apikey_scan_char(s, ':')) {
            return false;
        }

        apikey_scan_blank(s);
        start = s->p;

        if (!apikey_scan_value(s, 1)) {
            return false;
        }

        if (found) {
            *value = start;
            *last = s->p;
        }

    } while (apikey_scan_char(s, ','));

    return apikey_scan_char(s, '}');
}


static bool
apikey_scan_value(apikey_jsonscan_t *s, unsigned depth)
{
    apikey_scan_blank(s);

    if (s->p == s->end || depth > APIKEY_JSONSCAN_DEPTH) {
        return false;
    }

    switch (*s->p) {

    case '"':
        return apikey_scan_string(s);

    case '{':
        s->p++;
        return apikey_scan_list(s, '}', depth);

    case '[':
        s->p++;
        return apikey_scan_list(s, ']', depth);

    case 't':
        return apikey_scan_word(s, "true");

    case 'f':
        return apikey_scan_word(s, "false");

    case 'n':
        return apikey_scan_word(s, "null");

    default:
        return apikey_scan_number(s);
    }
}


/* Behind the opening brace or bracket. */

static bool
apikey_scan_list(apikey_jsonscan_t *s, char close, unsigned depth)
{
    if (apikey_scan_char(s, close)) {
        return true;
    }

    do {
        apikey_scan_blank(s);

        if (close == '}'
            && (!apikey_scan_string(s) || !apikey_scan_char(s, ':')))
        {
            return false;
        }

        if (!apikey_scan_value(s, depth + 1)) {
            return false;
        }

    } while (apikey_scan_char(s, ','));

    return apikey_scan_char(s, close);
}


static bool
apikey_scan_string(apikey_jsonscan_t *s)
{
    unsigned char  ch;

    if (s->p == s->end || *s->p != '"') {
        return false;
    }

    for (s->p++; s->p < s->end; /* void */ ) {

        ch = (unsigned char) *s->p++;

        if (ch == '"') {
            return true;
        }

        if (ch < 0x20 || (ch == '\\' && !apikey_scan_escape(s))) {
            return false;
        }
    }

    return false;
}


static bool
apikey_scan_escape(apikey_jsonscan_t *s)
{
    unsigned  i;

    if (s->p == s->end) {
        return false;
    }

    if (*s->p != 'u') {
        return *s->p != '\0' && strchr("\"\\/bfnrt", *s->p++) != NULL;
    }

    s->p++;

    if (s->end - s->p < 4) {
        return false;
    }

    for (i = 0; i < 4; i++, s->p++) {
        if (*s->p == '\0' || !strchr("0123456789abcdefABCDEF", *s->p)) {
            return false;
        }
    }

    return true;
}


static bool
apikey_scan_number(apikey_jsonscan_t *s)
{
    if (s->p < s->end && *s->p == '-') {
        s->p++;
    }

    if (s->p < s->end && *s->p == '0') {
        s->p++;

    } else if (!apikey_scan_digits(s)) {
        return false;
    }

    if (s->p < s->end && *s->p == '.') {
        s->p++;

        if (!apikey_scan_digits(s)) {
            return false;
        }
    }

    if (s->p < s->end && (*s->p == 'e' || *s->p == 'E')) {
        s->p++;

        if (s->p < s->end && (*s->p == '+' || *s->p == '-')) {
            s->p++;
        }

        return apikey_scan_digits(s);
    }

    return true;
}


static bool
apikey_scan_digits(apikey_jsonscan_t *s)
{
    const char  *start;

    start = s->p;

    while (s->p < s->end && *s->p >= '0' && *s->p <= '9') {
        s->p++;
    }

    return s->p > start;
}


static bool
apikey_scan_word(apikey_jsonscan_t *s, const char *word)
{
    size_t  len;

    len = strlen(word);

    if ((size_t) (s->end - s->p) < len || memcmp(s->p, word, len) != 0) {
        return false;
    }

    s->p += len;

    return true;
}


/* The inside of a string that is known to be sound; never gets longer. */

static size_t
apikey_scan_text(const char *p, const char *end, char *out)
{
    char      *dst;
    uint32_t   c, low;

    static const char  from[] = "bfnrt", to[] = "\b\f\n\r\t";

    dst = out;

    while (p < end) {

        if (*p != '\\') {
            *dst++ = *p++;
            continue;
        }

        p++;

        if (*p != 'u') {
            *dst++ = strchr(from, *p) ? to[strchr(from, *p) - from] : *p;
            p++;
            continue;
        }

        c = apikey_scan_hex(p + 1);
        p += 5;

        if (c >= 0xd800 && c < 0xdc00 && end - p >= 6 && p[0] == '\\'
            && p[1] == 'u')
        {
            low = apikey_scan_hex(p + 2);

            if (low >= 0xdc00 && low < 0xe000) {
                c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
                p += 6;
            }
        }

        dst += apikey_scan_utf8(c, dst);
    }

    return dst - out;
}


static uint32_t
apikey_scan_hex(const char *p)
{
    unsigned  i, ch;
    uint32_t  c;

    c = 0;

    for (i = 0; i < 4; i++) {
        ch = (unsigned char) p[i];
        c = c * 16 + (ch <= '9' ? ch - '0' : (ch | 0x20) - 'a' + 10);
    }

    return c;
}


static size_t
apikey_scan_utf8(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char) c;
        return 1;
    }

    if (c < 0x800) {
        out[0] = (char) (0xc0 | c >> 6);
        out[1] = (char) (0x80 | (c & 0x3f));
        return 2;
    }

    /* half of a surrogate pair is no character */

    if (c >= 0xd800 && c < 0xe000) {
        c = 0xfffd;
    }

    if (c < 0x10000) {
        out[0] = (char) (0xe0 | c >> 12);
        out[1] = (char) (0x80 | (c >> 6 & 0x3f));
        out[2] = (char) (0x80 | (c & 0x3f));
        return 3;
    }

    out[0] = (char) (0xf0 | c >> 18);
    out[1] = (char) (0x80 | (c >> 12 & 0x3f));
    out[2] = (char) (0x80 | (c >> 6 & 0x3f));
    out[3] = (char) (0x80 | (c & 0x3f));

    return 4;
}
