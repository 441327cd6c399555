
/*
 * The JSON writer.
 *
 * Every byte goes through put(), which is where overflow is found; after it
 * nothing more is written.
 */


#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/number.h"
#include "base/uuid.h"


static void apikey_json_put(apikey_json_t *j, const char *text, size_t len);
static void apikey_json_value(apikey_json_t *j);
static void apikey_json_open(apikey_json_t *j, const char *bracket);
static void apikey_json_close(apikey_json_t *j, const char *bracket);
static size_t apikey_json_char(char out[6], const unsigned char *p,
    size_t left, size_t *used);
static size_t apikey_json_utf8(const unsigned char *p, size_t left,
    bool *good);


void
apikey_json_init(apikey_json_t *j, char *buf, size_t size)
{
    memset(j, 0, sizeof(apikey_json_t));

    j->start = buf;
    j->pos = buf;
    j->end = buf + size;
}


size_t
apikey_json_len(const apikey_json_t *j)
{
    return (size_t) (j->pos - j->start);
}


void
apikey_json_object(apikey_json_t *j)
{
    apikey_json_open(j, "{");
}


void
apikey_json_object_end(apikey_json_t *j)
{
    apikey_json_close(j, "}");
}


void
apikey_json_array(apikey_json_t *j)
{
    apikey_json_open(j, "[");
}


void
apikey_json_array_end(apikey_json_t *j)
{
    apikey_json_close(j, "]");
}


void
apikey_json_name(apikey_json_t *j, const char *name)
{
    apikey_json_text(j, name);
    apikey_json_put(j, ":", 1);

    j->member = true;
}


void
apikey_json_string(apikey_json_t *j, const char *text, size_t len)
{
    size_t  room, need;

    apikey_json_value(j);
    apikey_json_put(j, "\"", 1);

    if (j->overflow) {
        return;
    }

    room = (size_t) (j->end - j->pos);
    need = apikey_json_escape(j->pos, room, text, len);

    if (need > room) {
        j->overflow = true;
        return;
    }

    j->pos += need;

    apikey_json_put(j, "\"", 1);
}


void
apikey_json_text(apikey_json_t *j, const char *text)
{
    apikey_json_string(j, text, strlen(text));
}


void
apikey_json_uint(apikey_json_t *j, uint64_t n)
{
    char  digits[APIKEY_UINT_TEXT_LEN];

    apikey_json_raw(j, digits, apikey_uint_format(digits, n) - digits);
}


void
apikey_json_int(apikey_json_t *j, int64_t n)
{
    char  digits[1 + APIKEY_UINT_TEXT_LEN], *end;

    if (n >= 0) {
        apikey_json_uint(j, (uint64_t) n);
        return;
    }

    digits[0] = '-';
    end = apikey_uint_format(digits + 1, 0 - (uint64_t) n);

    apikey_json_raw(j, digits, end - digits);
}


void
apikey_json_bool(apikey_json_t *j, bool b)
{
    apikey_json_raw(j, b ? "true" : "false", b ? 4 : 5);
}


void
apikey_json_null(apikey_json_t *j)
{
    apikey_json_raw(j, "null", 4);
}


void
apikey_json_time(apikey_json_t *j, int64_t us)
{
    char  text[APIKEY_TIME_LEN];

    apikey_time_format(text, us);
    apikey_json_string(j, text, APIKEY_TIME_LEN);
}


void
apikey_json_uuid(apikey_json_t *j, const uint8_t uuid[16])
{
    char  text[APIKEY_UUID_TEXT_LEN];

    apikey_uuid_format(text, uuid);
    apikey_json_string(j, text, APIKEY_UUID_TEXT_LEN);
}


void
apikey_json_raw(apikey_json_t *j, const char *json, size_t len)
{
    apikey_json_value(j);
    apikey_json_put(j, json, len);
}


size_t
apikey_json_escape(char *out, size_t size, const char *text, size_t len)
{
    char                  code[6];
    size_t                need, n, used;
    const unsigned char  *p;

    p = (const unsigned char *) text;
    need = 0;

    while (len) {
        n = apikey_json_char(code, p, len, &used);

        /* whole characters only: the prefix of a name is still text */

        if (need <= size && n <= size - need) {
            memcpy(out + need, code, n);

        } else {
            size = need < size ? need : size;
        }

        need += n;
        p += used;
        len -= used;
    }

    return need;
}


bool
apikey_json_check(const char *text, size_t len)
{
    bool                  good;
    size_t                used;
    const unsigned char  *p;

    p = (const unsigned char *) text;

    while (len) {
        good = (*p != 0);
        used = 1;

        if (*p >= 0x80) {
            used = apikey_json_utf8(p, len, &good);
        }

        if (!good) {
            return false;
        }

        p += used;
        len -= used;
    }

    return true;
}


static void
apikey_json_put(apikey_json_t *j, const char *text, size_t len)
{
    if (j->overflow || len > (size_t) (j->end - j->pos)) {
        j->overflow = true;
        return;
    }

    memcpy(j->pos, text, len);
    j->pos += len;
}


static void
apikey_json_value(apikey_json_t *j)
{
    if (j->member) {
        j->member = false;
        return;
    }

    if (j->comma[j->depth]) {
        apikey_json_put(j, ",", 1);
    }

    j->comma[j->depth] = true;
}


static void
apikey_json_open(apikey_json_t *j, const char *bracket)
{
    apikey_json_raw(j, bracket, 1);

    if (j->depth == APIKEY_JSON_DEPTH - 1) {
        j->overflow = true;
        return;
    }

    j->comma[++j->depth] = false;
}


static void
apikey_json_close(apikey_json_t *j, const char *bracket)
{
    if (j->depth) {
        j->depth--;
    }

    apikey_json_put(j, bracket, 1);
}


/* One character of the text as it is written; used: the bytes it took. */

static size_t
apikey_json_char(char out[6], const unsigned char *p, size_t left,
    size_t *used)
{
    bool                good;
    const char         *at;
    static const char   hex[] = "0123456789abcdef";
    static const char   plain[] = "\"\\\b\f\n\r\t";
    static const char   letters[] = "\"\\bfnrt";

    if (*p >= 0x80) {
        *used = apikey_json_utf8(p, left, &good);

        if (good) {
            memcpy(out, p, *used);
            return *used;
        }

        memcpy(out, "\xef\xbf\xbd", 3);

        return 3;
    }

    *used = 1;

    at = memchr(plain, *p, sizeof(plain) - 1);

    if (at) {
        out[0] = '\\';
        out[1] = letters[at - plain];
        return 2;
    }

    if (*p >= 0x20 && *p != 0x7f) {
        out[0] = (char) *p;
        return 1;
    }

    memcpy(out, "\\u00", 4);
    out[4] = hex[*p >> 4];
    out[5] = hex[*p & 15];

    return 6;
}


/*
 * The bytes of one well-formed character (Unicode, table 3-7), or those of
 * the longest start of one, at least 1, with good false.
 */

static size_t
apikey_json_utf8(const unsigned char *p, size_t left, bool *good)
{
    size_t         i, n;
    unsigned char  low, high;

    *good = false;

    low = 0x80;
    high = 0xbf;

    if (p[0] >= 0xc2 && p[0] <= 0xdf) {
        n = 2;

    } else if (p[0] >= 0xe0 && p[0] <= 0xef) {
        n = 3;
        low = p[0] == 0xe0 ? 0xa0 : low;
        high = p[0] == 0xed ? 0x9f : high;

    } else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
        n = 4;
        low = p[0] == 0xf0 ? 0x90 : low;
        high = p[0] == 0xf4 ? 0x8f : high;

    } else {
        return 1;
    }

    for (i = 1; i < n; i++) {
        if (i == left || p[i] < low || p[i] > high) {
            return i;
        }

        low = 0x80;
        high = 0xbf;
    }

    *good = true;

    return n;
}
