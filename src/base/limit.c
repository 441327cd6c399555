
/*
 * Limits out of their text form.
 *
 * Anything unexpected fails the whole text: a limit that cannot be read must
 * never be left out.  Memory is the caller's.
 */


#include <stdbool.h>
#include <string.h>

#include "base/limit.h"


#define APIKEY_LIMIT_NAME_MAX     64      /* characters */
#define APIKEY_LIMIT_PATTERN_MAX  1024    /* bytes of service and of model */
#define APIKEY_LIMIT_FIELDS       10

#define APIKEY_FNV_START          0xcbf29ce484222325ULL
#define APIKEY_FNV_PRIME          0x100000001b3ULL


typedef enum {
    APIKEY_LIMIT_NAME = 0,
    APIKEY_LIMIT_UNIT,
    APIKEY_LIMIT_LIMIT,
    APIKEY_LIMIT_WINDOW,
    APIKEY_LIMIT_BURST,
    APIKEY_LIMIT_TOKEN,
    APIKEY_LIMIT_REFILL,
    APIKEY_LIMIT_TICK,
    APIKEY_LIMIT_SERVICE,
    APIKEY_LIMIT_MODEL
} apikey_limit_field_e;


typedef struct {
    const char  *start;
    size_t       len;
} apikey_limit_field_t;


static const char *apikey_limit_split(const char *text, const char *end,
    apikey_limit_field_t *fields);
static bool apikey_limit_read(apikey_limit_t *limit,
    const apikey_limit_field_t *fields);
static bool apikey_limit_read_rate(apikey_limit_t *limit,
    const apikey_limit_field_t *fields);
static bool apikey_limit_number(const apikey_limit_field_t *field,
    uint64_t *n);
static bool apikey_limit_name_check(const apikey_limit_field_t *field);
static bool apikey_limit_known(const char *buf, unsigned count, uint64_t id);
static uint64_t apikey_limit_hash(uint64_t hash, const char *text,
    size_t len);


size_t
apikey_limit_parse(const char *text, size_t len, char *buf, size_t size,
    unsigned *count)
{
    char                  *pos, *out;
    const char            *end;
    apikey_limit_t         limit;
    apikey_limit_field_t   fields[APIKEY_LIMIT_FIELDS];

    pos = buf;
    end = text + len;
    *count = 0;

    while (text < end) {
        text = apikey_limit_split(text, end, fields);

        if (text == NULL
            || !apikey_limit_read(&limit, fields)
            || apikey_limit_known(buf, *count, limit.id)
            || limit.size > size - (size_t) (pos - buf))
        {
            return (size_t) -1;
        }

        memset(pos, 0, limit.size);
        memcpy(pos, &limit, sizeof(apikey_limit_t));

        out = pos + offsetof(apikey_limit_t, text);
        memcpy(out, fields[APIKEY_LIMIT_NAME].start, limit.name_len);

        out += limit.name_len;
        memcpy(out, fields[APIKEY_LIMIT_SERVICE].start, limit.service_len);

        out += limit.service_len;
        memcpy(out, fields[APIKEY_LIMIT_MODEL].start, limit.model_len);

        pos += limit.size;
        (*count)++;
    }

    return (size_t) (pos - buf);
}


uint64_t
apikey_limit_scope(const char *service, size_t service_len,
    const char *model, size_t model_len)
{
    uint64_t  hash;

    if (service_len == 0 && model_len == 0) {
        return 0;
    }

    hash = apikey_limit_hash(APIKEY_FNV_START, service, service_len);
    hash = apikey_limit_hash(hash, "", 1);

    return apikey_limit_hash(hash, model, model_len);
}


/* The text behind the line, or NULL. */

static const char *
apikey_limit_split(const char *text, const char *end,
    apikey_limit_field_t *fields)
{
    unsigned     i;
    const char  *line;

    line = memchr(text, '\n', (size_t) (end - text));

    if (line == NULL) {
        return NULL;
    }

    for (i = 0; i < APIKEY_LIMIT_FIELDS; i++) {
        end = memchr(text, '\t', (size_t) (line - text));

        /* the last field, and only the last, ends with the line */

        if ((end == NULL) != (i == APIKEY_LIMIT_FIELDS - 1)) {
            return NULL;
        }

        if (end == NULL) {
            end = line;
        }

        fields[i].start = text;
        fields[i].len = (size_t) (end - text);

        text = end + 1;
    }

    return line + 1;
}


static bool
apikey_limit_read(apikey_limit_t *limit, const apikey_limit_field_t *fields)
{
    size_t                       size;
    const apikey_limit_field_t  *name, *unit, *service, *model;

    memset(limit, 0, sizeof(apikey_limit_t));

    name = &fields[APIKEY_LIMIT_NAME];
    unit = &fields[APIKEY_LIMIT_UNIT];
    service = &fields[APIKEY_LIMIT_SERVICE];
    model = &fields[APIKEY_LIMIT_MODEL];

    /* no other unit is enforced yet, so no other unit can be honoured */

    if (!apikey_limit_name_check(name)
        || unit->len != strlen("requests")
        || memcmp(unit->start, "requests", unit->len) != 0
        || service->len > APIKEY_LIMIT_PATTERN_MAX
        || model->len > APIKEY_LIMIT_PATTERN_MAX)
    {
        return false;
    }

    if (!apikey_limit_read_rate(limit, fields)) {
        return false;
    }

    size = offsetof(apikey_limit_t, text) + name->len + service->len
           + model->len;

    if (size < sizeof(apikey_limit_t)) {
        size = sizeof(apikey_limit_t);
    }

    limit->unit = APIKEY_UNIT_REQUESTS;
    limit->id = apikey_limit_hash(APIKEY_FNV_START, name->start, name->len);
    limit->scope = apikey_limit_scope(service->start, service->len,
                                      model->start, model->len);
    limit->name_len = (uint16_t) name->len;
    limit->service_len = (uint16_t) service->len;
    limit->model_len = (uint16_t) model->len;
    limit->size = (uint16_t) ((size + 7) & ~(size_t) 7);

    return true;
}


static bool
apikey_limit_read_rate(apikey_limit_t *limit,
    const apikey_limit_field_t *fields)
{
    if (!apikey_limit_number(&fields[APIKEY_LIMIT_LIMIT], &limit->limit)
        || !apikey_limit_number(&fields[APIKEY_LIMIT_WINDOW], &limit->window)
        || !apikey_limit_number(&fields[APIKEY_LIMIT_BURST], &limit->burst)
        || !apikey_limit_number(&fields[APIKEY_LIMIT_TOKEN],
                                &limit->rate.token)
        || !apikey_limit_number(&fields[APIKEY_LIMIT_REFILL],
                                &limit->rate.refill)
        || !apikey_limit_number(&fields[APIKEY_LIMIT_TICK],
                                &limit->rate.tick))
    {
        return false;
    }

    limit->rate.capacity = limit->burst * limit->rate.token;

    if (!apikey_rate_check(&limit->rate, limit->limit, limit->window,
                           limit->burst))
    {
        return false;
    }

    /* 0 means none, whatever is said of a burst */

    if (limit->limit == 0) {
        limit->burst = 0;
        limit->rate.capacity = 0;
    }

    return true;
}


static bool
apikey_limit_number(const apikey_limit_field_t *field, uint64_t *n)
{
    size_t    i;
    uint64_t  digit;

    if (field->len == 0) {
        return false;
    }

    *n = 0;

    for (i = 0; i < field->len; i++) {
        if (field->start[i] < '0' || field->start[i] > '9') {
            return false;
        }

        digit = (uint64_t) (field->start[i] - '0');

        if (*n > (UINT64_MAX - digit) / 10) {
            return false;
        }

        *n = *n * 10 + digit;
    }

    return true;
}


static bool
apikey_limit_name_check(const apikey_limit_field_t *field)
{
    size_t         i, n;
    unsigned char  c;

    n = 0;

    for (i = 0; i < field->len; i++) {
        c = (unsigned char) field->start[i];

        if (c < 0x20 || c == 0x7f) {
            return false;
        }

        n += (c & 0xc0) != 0x80;
    }

    return n >= 1 && n <= APIKEY_LIMIT_NAME_MAX
           && field->len <= 4 * APIKEY_LIMIT_NAME_MAX;
}


/* Two limits must never share a bucket. */

static bool
apikey_limit_known(const char *buf, unsigned count, uint64_t id)
{
    apikey_limit_t  limit;

    while (count--) {
        memcpy(&limit, buf, sizeof(apikey_limit_t));

        if (limit.id == id) {
            return true;
        }

        buf += limit.size;
    }

    return false;
}


static uint64_t
apikey_limit_hash(uint64_t hash, const char *text, size_t len)
{
    while (len--) {
        hash ^= (unsigned char) *text++;
        hash *= APIKEY_FNV_PRIME;
    }

    return hash;
}
