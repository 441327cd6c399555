
/*
 * Rows of an import, member by member, and what is said of what is not moved.
 *
 * Plaintext keys are hashed here and go no further.
 */


#define _GNU_SOURCE

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/digest.h"
#include "base/import.h"
#include "base/key.h"
#include "base/number.h"

#include "move.h"


#define APIKEY_MOVE_NAME_MAX      255      /* characters */
#define APIKEY_MOVE_METADATA_MAX  8192     /* bytes */
#define APIKEY_MOVE_LIMIT_MAX     9007199254740991LL
#define APIKEY_MOVE_DAY           86400000LL
#define APIKEY_MOVE_SHORT         16
#define APIKEY_MOVE_START         4        /* shown of a key without prefix */
#define APIKEY_MOVE_TTL_MAX       100000000000LL       /* seconds */


static void apikey_move_say(const char *why, const char *what,
    const char *format, va_list list);
static bool apikey_move_until(apikey_move_t *m, json_t *row, const char *what,
    int64_t us);
static bool apikey_move_time(const json_t *at, int64_t *us);
static void apikey_move_set_time(json_t *row, const char *name, int64_t us);
static size_t apikey_move_hint(json_t *row, const char *key, size_t len);
static void apikey_move_window(char *out, size_t size, json_int_t window);


void
apikey_move_warn(apikey_move_t *m, const char *what, const char *format, ...)
{
    va_list  list;

    m->warnings++;

    va_start(list, format);
    apikey_move_say("", what, format, list);
    va_end(list);
}


void
apikey_move_leave(apikey_move_t *m, const char *what, const char *format, ...)
{
    va_list  list;

    m->left++;

    va_start(list, format);
    apikey_move_say("left out: ", what, format, list);
    va_end(list);
}


static void
apikey_move_say(const char *why, const char *what, const char *format,
    va_list list)
{
    char  *text;

    if (vasprintf(&text, format, list) != -1) {
        apikey_ctl_say("%s\"%s\": %s", why, what, text);
        free(text);
    }
}


const char *
apikey_move_text(const json_t *item, const char *name)
{
    const char  *text;

    text = json_string_value(json_object_get(item, name));

    return text && *text ? text : NULL;
}


bool
apikey_move_true(const json_t *item, const char *name, bool def)
{
    const char    *text;
    const json_t  *value;

    value = json_object_get(item, name);
    text = json_string_value(value);

    if (json_is_true(value) || (text && (strcasecmp(text, "true") == 0
                                         || strcmp(text, "1") == 0)))
    {
        return true;
    }

    if (json_is_false(value) || (text && (strcasecmp(text, "false") == 0
                                          || strcmp(text, "0") == 0)))
    {
        return false;
    }

    return json_is_integer(value) ? json_integer_value(value) != 0 : def;
}


/* Names are cut, and freed of what no name may hold. */

json_t *
apikey_move_row(apikey_move_t *m, const char *name)
{
    char    *p, *copy;
    size_t   n;
    json_t  *row;

    row = json_object();
    copy = strdup(name);

    if (row == NULL || copy == NULL) {
        apikey_ctl_error("out of memory");
        exit(APIKEY_CTL_FAILED);
    }

    for (n = 0, p = copy; *p; p++) {
        if ((*p & 0xc0) != 0x80 && n++ == APIKEY_MOVE_NAME_MAX) {
            apikey_move_warn(m, name, "the name is cut to %d characters",
                             APIKEY_MOVE_NAME_MAX);
            *p = '\0';
            break;
        }

        if ((unsigned char) *p < 0x20 || *p == 0x7f) {
            *p = ' ';
        }
    }

    apikey_move_set(row, "name", copy);
    free(copy);

    return row;
}


void
apikey_move_add(apikey_move_t *m, json_t *row)
{
    if (json_array_append_new(m->rows, row) != 0) {
        apikey_ctl_error("out of memory");
        exit(APIKEY_CTL_FAILED);
    }
}


void
apikey_move_set(json_t *row, const char *name, const char *text)
{
    if (text && *text) {
        (void) json_object_set_new(row, name, json_string(text));
    }
}


bool
apikey_move_key(apikey_move_t *m, json_t *row, const char *what,
    const char *key)
{
    char      hex[2 * APIKEY_DIGEST_LEN + 1];
    size_t    len;
    uint8_t   digest[APIKEY_DIGEST_LEN];

    len = key ? strlen(key) : 0;

    if (len < APIKEY_KEY_MIN || len > APIKEY_KEY_MAX) {
        apikey_move_leave(m, what, "a key has 8 to 512 bytes, this one %zu",
                          len);
        json_decref(row);
        return false;
    }

    if (!apikey_sha256(key, len, digest)) {
        apikey_ctl_error("OpenSSL has no SHA-256");
        exit(APIKEY_CTL_FAILED);
    }

    if (len < APIKEY_MOVE_SHORT) {
        apikey_move_warn(m, what, "a key of %zu characters can be guessed: "
                         "rotate it soon", len);
    }

    *apikey_hex_format(hex, digest, APIKEY_DIGEST_LEN) = '\0';

    apikey_move_set(row, "hash", hex);
    apikey_move_set(row, "alg", "sha256");

    /* what stands before a '_' may be half of the key */

    if (apikey_move_hint(row, key, len) > APIKEY_MOVE_START) {
        apikey_move_prefix(row, key);
    }

    return true;
}


/* How much of its start may be seen. */

static size_t
apikey_move_hint(json_t *row, const char *key, size_t len)
{
    size_t  n;

    n = apikey_import_hint(key, len);

    if (n) {
        (void) json_object_set_new(row, "start", json_stringn(key, n));
        (void) json_object_set_new(row, "last4", json_string(key + len - 4));
    }

    return n;
}


bool
apikey_move_hash(apikey_move_t *m, json_t *row, const char *what,
    const char *hash, const char *alg)
{
    if (hash == NULL) {
        apikey_move_leave(m, what, "there is neither its hash nor the key");
        json_decref(row);
        return false;
    }

    apikey_move_set(row, "hash", hash);
    apikey_move_set(row, "alg", alg);

    return true;
}


bool
apikey_move_expires(apikey_move_t *m, json_t *row, const char *what,
    const json_t *at)
{
    int64_t  us;

    if (at == NULL || json_is_null(at)) {
        return true;
    }

    if (!apikey_move_time(at, &us)) {
        apikey_move_leave(m, what, "its expiry is no time");
        json_decref(row);
        return false;
    }

    return apikey_move_until(m, row, what, us);
}


bool
apikey_move_ttl(apikey_move_t *m, json_t *row, const char *what,
    const json_t *ttl)
{
    json_int_t  seconds;

    if (!json_is_integer(ttl)) {
        return true;
    }

    seconds = json_integer_value(ttl);

    if (seconds < 0 || seconds > APIKEY_MOVE_TTL_MAX) {
        apikey_move_leave(m, what, "its expiry is no time");
        json_decref(row);
        return false;
    }

    return apikey_move_until(m, row, what,
                             apikey_clock_real() + seconds * 1000000);
}


static bool
apikey_move_until(apikey_move_t *m, json_t *row, const char *what, int64_t us)
{
    char  text[APIKEY_TIME_LEN + 1];

    if (us <= apikey_clock_real()) {
        apikey_time_format(text, us);
        text[APIKEY_TIME_LEN] = '\0';

        apikey_move_leave(m, what, "it expired at %s", text);
        json_decref(row);
        return false;
    }

    apikey_move_set_time(row, "expires_at", us);

    return true;
}


void
apikey_move_created(json_t *row, const json_t *at)
{
    int64_t  us;

    if (at && apikey_move_time(at, &us)) {
        apikey_move_set_time(row, "created_at", us);
    }
}


/* Numbers are seconds or milliseconds, by their size; texts without a zone
   are UTC, and may have a blank for the "T". */

static bool
apikey_move_time(const json_t *at, int64_t *us)
{
    char         buf[64];
    double       number;
    size_t       len;
    const char  *text;

    text = json_string_value(at);

    if (text == NULL) {
        number = json_number_value(at);

        if (number <= 0 || number > 1e14) {
            return false;
        }

        *us = (int64_t) (number > 1e11 ? number * 1e3 : number * 1e6);
        return true;
    }

    len = strlen(text);

    if (len < 10 || len + 2 > sizeof(buf)) {
        return false;
    }

    memcpy(buf, text, len + 1);

    if (len > 10 && buf[10] == ' ') {
        buf[10] = 'T';
    }

    if (len > 10 && strpbrk(buf + 11, "Zz+-") == NULL) {
        strcpy(buf + len, "Z");
    }

    return apikey_time_parse(us, buf, strlen(buf));
}


static void
apikey_move_set_time(json_t *row, const char *name, int64_t us)
{
    char  text[APIKEY_TIME_LEN];

    apikey_time_format(text, us);
    (void) json_object_set_new(row, name,
                               json_stringn(text, APIKEY_TIME_LEN));
}


void
apikey_move_metadata(apikey_move_t *m, json_t *row, const char *what,
    const json_t *metadata)
{
    char        *text;
    json_t      *own;

    own = json_is_string(metadata)
          ? json_loads(json_string_value(metadata), 0, NULL)
          : json_deep_copy(metadata);

    if (!json_is_object(own)) {
        if (json_string_length(metadata) || json_is_array(metadata)) {
            apikey_move_warn(m, what, "its metadata is no object, and is left "
                             "out");
        }

        json_decref(own);
        return;
    }

    text = json_dumps(own, JSON_COMPACT);

    if (text == NULL || strlen(text) > APIKEY_MOVE_METADATA_MAX) {
        apikey_move_warn(m, what, "its metadata has over 8 KiB, and is left "
                         "out");

    } else if (json_object_size(own)) {
        (void) json_object_set(row, "metadata", own);
    }

    free(text);
    json_decref(own);
}


void
apikey_move_prefix(json_t *row, const char *start)
{
    const char  *end;

    end = start ? strrchr(start, '_') : NULL;

    if (end && apikey_prefix_check(start, (size_t) (end - start))) {
        (void) json_object_set_new(row, "prefix",
                                   json_stringn(start,
                                                (size_t) (end - start)));
    }
}


json_t *
apikey_move_limits(json_t *row)
{
    json_t  *limits;

    limits = json_object_get(row, "limits");

    if (limits == NULL) {
        limits = json_array();
        (void) json_object_set_new(row, "limits", limits);
    }

    return limits;
}


json_t *
apikey_move_owner(apikey_move_t *m, const char *owner)
{
    json_t  *limits;

    limits = json_object_get(m->owners, owner);

    if (limits == NULL) {
        limits = json_array();
        (void) json_object_set_new(m->owners, owner, limits);
    }

    return limits;
}


void
apikey_move_limit(apikey_move_t *m, json_t *limits, const char *what,
    const char *name, json_int_t limit, json_int_t window, json_int_t burst)
{
    char     text[32];
    json_t  *item;

    if (limit < 0 || limit > APIKEY_MOVE_LIMIT_MAX || burst < 0
        || burst > APIKEY_MOVE_LIMIT_MAX
        || window < APIKEY_MOVE_SECOND || window > 31 * APIKEY_MOVE_DAY)
    {
        apikey_move_warn(m, what, "limit \"%s\", %lld in %lld ms, is left "
                         "out: windows are 1s to 31d", name,
                         (long long) limit, (long long) window);
        return;
    }

    apikey_move_window(text, sizeof(text), window);

    item = apikey_move_quota(m, limits, what, name, "requests",
                             json_integer(limit), text);

    if (item && burst && burst != limit) {
        (void) json_object_set_new(item, "burst", json_integer(burst));
    }
}


json_t *
apikey_move_quota(apikey_move_t *m, json_t *limits, const char *what,
    const char *name, const char *unit, json_t *limit, const char *window)
{
    size_t   i;
    json_t  *item;

    if (json_is_integer(limit) && (json_integer_value(limit) < 0
        || json_integer_value(limit) > APIKEY_MOVE_LIMIT_MAX))
    {
        apikey_move_warn(m, what, "limit \"%s\" of %lld is left out: limits "
                         "are 0 to %lld", name,
                         (long long) json_integer_value(limit),
                         (long long) APIKEY_MOVE_LIMIT_MAX);
        json_decref(limit);
        return NULL;
    }

    json_array_foreach(limits, i, item) {
        if (strcmp(apikey_move_text(item, "name"), name) == 0) {
            apikey_move_warn(m, what, "a second limit \"%s\" is left out",
                             name);
            json_decref(limit);
            return NULL;
        }
    }

    item = json_pack("{s:s, s:s, s:o}", "name", name, "unit", unit, "limit",
                     limit);

    if (window) {
        apikey_move_set(item, "window", window);
    }

    (void) json_array_append_new(limits, item);

    return item;
}


static void
apikey_move_window(char *out, size_t size, json_int_t window)
{
    size_t  i;

    static const struct {
        json_int_t   ms;
        const char  *name;
    } units[] = {
        { APIKEY_MOVE_DAY, "d" },
        { APIKEY_MOVE_HOUR, "h" },
        { APIKEY_MOVE_MINUTE, "m" },
        { APIKEY_MOVE_SECOND, "s" },
        { 1, "ms" }
    };

    for (i = 0; window % units[i].ms != 0; i++) {
        /* void */
    }

    (void) snprintf(out, size, "%lld%s", (long long) (window / units[i].ms),
                    units[i].name);
}
