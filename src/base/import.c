
/*
 * The rows behind import.h.
 */


#include <string.h>

#include "base/csv.h"
#include "base/digest.h"
#include "base/import.h"
#include "base/jsonscan.h"
#include "base/key.h"


#define APIKEY_IMPORT_HINT       4       /* characters at either end */
#define APIKEY_IMPORT_HIDDEN     12      /* that are never shown */
#define APIKEY_IMPORT_PREFIX     20


typedef enum {
    APIKEY_IMPORT_TEXT = 0,
    APIKEY_IMPORT_LIST,          /* blank separated */
    APIKEY_IMPORT_JSON,          /* an array or object */
    APIKEY_IMPORT_BARE           /* true, false, a number */
} apikey_import_kind_e;


typedef enum {
    APIKEY_IMPORT_OBJECT = 0,
    APIKEY_IMPORT_TOLD,          /* what is wrong with it is written */
    APIKEY_IMPORT_NO_JSON
} apikey_import_is_e;


/* What is known of a row's "key" members, of which there may be several. */

typedef struct {
    const char  *code;           /* wrong: as in errors[] */
    const char  *message;
    const char  *text;
    size_t       len;
    bool         found;
} apikey_import_key_t;


static apikey_import_kind_e apikey_import_kind(const char *name, size_t len);
static bool apikey_import_bare(const char *text, size_t len);
static void apikey_import_list(apikey_json_t *j, const char *text,
    size_t len);
static size_t apikey_import_without(const char *row, size_t len, char *out,
    apikey_import_key_t *key, char *memory);
static void apikey_import_key(apikey_import_key_t *key,
    const apikey_json_walk_t *w, char *memory);
static bool apikey_import_mangled(const char *text, size_t len);
static void apikey_import_digest(apikey_json_t *j,
    const apikey_import_key_t *key);


static const struct {
    const char           *name;
    apikey_import_kind_e  kind;
} apikey_import_kinds[] = {
    { "scopes", APIKEY_IMPORT_LIST },
    { "allowed_models", APIKEY_IMPORT_LIST },
    { "allowed_ips", APIKEY_IMPORT_LIST },
    { "limits", APIKEY_IMPORT_JSON },
    { "credits", APIKEY_IMPORT_JSON },
    { "metadata", APIKEY_IMPORT_JSON },
    { "enabled", APIKEY_IMPORT_BARE },
    { "usage_count", APIKEY_IMPORT_BARE }
};


const char *
apikey_import_header(apikey_import_header_t *h, const char *record,
    size_t len, char *memory)
{
    char          *name;
    size_t         i, n;
    apikey_csv_t   csv;

    h->n = 0;

    if (!apikey_json_check(record, len)) {
        return "the header line is not UTF-8 text";
    }

    apikey_csv_init(&csv, record, len);

    while (apikey_csv_next(&csv, memory, &n)) {

        if (h->n == APIKEY_IMPORT_COLUMNS) {
            return "the header line has more than 64 columns";
        }

        name = memory;
        memory += n;

        while (n && *name == ' ') {
            name++;
            n--;
        }

        while (n && name[n - 1] == ' ') {
            n--;
        }

        if (n == 0) {
            return "the header line has a column without name";
        }

        for (i = 0; i < n; i++) {
            if (name[i] >= 'A' && name[i] <= 'Z') {
                name[i] |= 0x20;
            }
        }

        for (i = 0; i < h->n; i++) {
            if (h->len[i] == n && memcmp(h->name[i], name, n) == 0) {
                return "the header line names a column twice";
            }
        }

        h->name[h->n] = name;
        h->len[h->n++] = n;
    }

    return csv.wrong ? "the header line is not CSV" : NULL;
}


const char *
apikey_import_csv(const apikey_import_header_t *h, const char *record,
    size_t len, char *scratch, apikey_json_t *j)
{
    char                  name[64];
    size_t                n;
    unsigned              i;
    apikey_csv_t          csv;
    apikey_import_kind_e  kind;

    apikey_csv_init(&csv, record, len);
    apikey_json_object(j);

    for (i = 0; apikey_csv_next(&csv, scratch, &n); i++) {

        if (i == h->n) {
            return "the row has more fields than the header line";
        }

        if (n == 0) {
            continue;
        }

        if (h->len[i] >= sizeof(name)) {
            return "a column's name is too long";
        }

        memcpy(name, h->name[i], h->len[i]);
        name[h->len[i]] = '\0';

        apikey_json_name(j, name);
        kind = apikey_import_kind(h->name[i], h->len[i]);

        if (kind == APIKEY_IMPORT_LIST) {
            apikey_import_list(j, scratch, n);

        } else if (kind != APIKEY_IMPORT_TEXT
                   && apikey_import_bare(scratch, n))
        {
            apikey_json_raw(j, scratch, n);

        } else {
            apikey_json_string(j, scratch, n);
        }
    }

    apikey_json_object_end(j);

    if (csv.wrong) {
        return "the row is not CSV: a quote stands where none can";
    }

    return (i < h->n) ? "the row has fewer fields than the header line"
                      : NULL;
}


static apikey_import_kind_e
apikey_import_kind(const char *name, size_t len)
{
    size_t  i;

    for (i = 0;
         i < sizeof(apikey_import_kinds) / sizeof(apikey_import_kinds[0]);
         i++)
    {
        if (strlen(apikey_import_kinds[i].name) == len
            && memcmp(apikey_import_kinds[i].name, name, len) == 0)
        {
            return apikey_import_kinds[i].kind;
        }
    }

    return APIKEY_IMPORT_TEXT;
}


/* JSON that can stand for itself, but no string. */

static bool
apikey_import_bare(const char *text, size_t len)
{
    size_t              i;
    apikey_json_walk_t  w;

    if (apikey_json_walk(&w, text, len)) {
        return true;
    }

    if ((len == 4 && memcmp(text, "true", 4) == 0)
        || (len == 5 && memcmp(text, "false", 5) == 0))
    {
        return true;
    }

    for (i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return false;
        }
    }

    return len == 1 || text[0] != '0';
}


static void
apikey_import_list(apikey_json_t *j, const char *text, size_t len)
{
    size_t  i, start;

    apikey_json_array(j);

    for (i = 0; i < len; i++) {

        for (start = i; i < len && text[i] != ' '; i++) {
            /* void */
        }

        if (i > start) {
            apikey_json_string(j, text + start, i - start);
        }
    }

    apikey_json_array_end(j);
}


/* APIKEY_IMPORT_OBJECT, or it is told or not JSON. */

static apikey_import_is_e
apikey_import_is(apikey_json_t *j, uint64_t number, const char *row,
    size_t len)
{
    const char  *p;

    if (!apikey_json_check(row, len)) {
        apikey_import_wrong(j, number, "", "bad_value",
                            "this is not UTF-8 text");
        return APIKEY_IMPORT_TOLD;
    }

    if (!apikey_json_valid(row, len)) {
        return APIKEY_IMPORT_NO_JSON;
    }

    for (p = row; *p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'; p++) {
        /* void */
    }

    if (*p != '{') {
        apikey_import_wrong(j, number, "", "bad_type",
                            "the row must be a JSON object");
        return APIKEY_IMPORT_TOLD;
    }

    return APIKEY_IMPORT_OBJECT;
}


bool
apikey_import_plain(apikey_json_t *j, uint64_t number, const char *row,
    size_t len)
{
    apikey_import_is_e  is;

    is = apikey_import_is(j, number, row, len);

    if (is != APIKEY_IMPORT_OBJECT) {
        return is == APIKEY_IMPORT_TOLD;
    }

    apikey_json_object(j);
    apikey_json_name(j, "row");
    apikey_json_uint(j, number);
    apikey_json_name(j, "json");
    apikey_json_string(j, row, len);
    apikey_json_object_end(j);

    return true;
}


bool
apikey_import_row(apikey_json_t *j, uint64_t number, const char *row,
    size_t len, char *scratch)
{
    size_t               n;
    apikey_import_is_e   is;
    apikey_import_key_t  key;

    is = apikey_import_is(j, number, row, len);

    if (is != APIKEY_IMPORT_OBJECT) {
        return is == APIKEY_IMPORT_TOLD;
    }

    memset(&key, 0, sizeof(apikey_import_key_t));

    n = apikey_import_without(row, len, scratch, &key, scratch + len);

    if (key.code) {
        apikey_import_wrong(j, number, "/key", key.code, key.message);
        return true;
    }

    apikey_json_object(j);
    apikey_json_name(j, "row");
    apikey_json_uint(j, number);
    apikey_json_name(j, "json");
    apikey_json_string(j, scratch, n);

    if (key.found) {
        apikey_import_digest(j, &key);
    }

    apikey_json_object_end(j);

    return true;
}


void
apikey_import_wrong(apikey_json_t *j, uint64_t number, const char *location,
    const char *code, const char *message)
{
    apikey_json_object(j);
    apikey_json_name(j, "row");
    apikey_json_uint(j, number);
    apikey_json_name(j, "error");

    apikey_json_object(j);
    apikey_json_name(j, "location");
    apikey_json_text(j, location);
    apikey_json_name(j, "code");
    apikey_json_text(j, code);
    apikey_json_name(j, "message");
    apikey_json_text(j, message);
    apikey_json_object_end(j);

    apikey_json_object_end(j);
}


/* The object without its members "key"; memory: for the last one's text. */

static size_t
apikey_import_without(const char *row, size_t len, char *out,
    apikey_import_key_t *key, char *memory)
{
    char                *p;
    apikey_json_walk_t   w;

    (void) apikey_json_walk(&w, row, len);

    p = out;
    *p++ = '{';

    while (apikey_json_walk_next(&w)) {

        if (apikey_json_walk_named(&w, "key")) {
            apikey_import_key(key, &w, memory);
            continue;
        }

        if (p[-1] != '{') {
            *p++ = ',';
        }

        *p++ = '"';
        memcpy(p, w.name, w.name_len);
        p += w.name_len;

        *p++ = '"';
        *p++ = ':';
        memcpy(p, w.value, w.value_len);
        p += w.value_len;
    }

    *p++ = '}';

    return p - out;
}


static void
apikey_import_key(apikey_import_key_t *key, const apikey_json_walk_t *w,
    char *memory)
{
    if (w->value_len == 4 && memcmp(w->value, "null", 4) == 0) {
        return;
    }

    if (key->found) {
        key->code = "duplicate";
        key->message = "give it once";
        return;
    }

    key->found = true;
    key->text = memory;
    key->len = apikey_json_decode(w->value, w->value_len, memory);

    if (key->len == APIKEY_JSON_NONE) {
        key->code = "bad_type";
        key->message = "a text is needed";

    } else if (key->len < APIKEY_KEY_MIN || key->len > APIKEY_KEY_MAX) {
        key->code = "bad_length";
        key->message = "a key has 8 to 512 bytes";

    } else if (apikey_import_mangled(memory, key->len)) {
        key->code = "bad_value";
        key->message = "NUL and U+FFFD are not of any key: its text was lost "
                       "on the way";
    }
}


/* No client can send NUL; U+FFFD stands for what could not be read. */

static bool
apikey_import_mangled(const char *text, size_t len)
{
    size_t  i;

    static const char  lost[] = "\xef\xbf\xbd";

    for (i = 0; i < len; i++) {

        if (text[i] == '\0'
            || (len - i >= sizeof(lost) - 1
                && memcmp(text + i, lost, sizeof(lost) - 1) == 0))
        {
            return true;
        }
    }

    return false;
}


static void
apikey_import_digest(apikey_json_t *j, const apikey_import_key_t *key)
{
    char      hex[2 * APIKEY_DIGEST_LEN];
    size_t    i, hint;
    uint8_t   digest[APIKEY_DIGEST_LEN];

    static const char  digits[] = "0123456789abcdef";

    apikey_json_name(j, "digest");

    if (!apikey_sha256(key->text, key->len, digest)) {
        apikey_json_null(j);
        return;
    }

    for (i = 0; i < APIKEY_DIGEST_LEN; i++) {
        hex[2 * i] = digits[digest[i] >> 4];
        hex[2 * i + 1] = digits[digest[i] & 15];
    }

    apikey_json_string(j, hex, sizeof(hex));

    hint = apikey_import_hint(key->text, key->len);

    if (hint == 0) {
        return;
    }

    apikey_json_name(j, "start");
    apikey_json_string(j, key->text, hint);
    apikey_json_name(j, "last4");
    apikey_json_string(j, key->text + key->len - APIKEY_IMPORT_HINT,
                       APIKEY_IMPORT_HINT);
}


size_t
apikey_import_hint(const char *key, size_t len)
{
    size_t  i, prefix;

    prefix = 0;

    for (i = 0; i < len; i++) {

        if (key[i] < 0x21 || key[i] > 0x7e) {
            return 0;
        }

        if (key[i] == '_') {
            prefix = i + 1;
        }
    }

    if (prefix > APIKEY_IMPORT_PREFIX
        || len - prefix < APIKEY_IMPORT_HIDDEN + 2 * APIKEY_IMPORT_HINT)
    {
        prefix = 0;
    }

    if (len < APIKEY_IMPORT_HIDDEN + 2 * APIKEY_IMPORT_HINT) {
        return 0;
    }

    return prefix + APIKEY_IMPORT_HINT;
}
