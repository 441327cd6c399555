
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
#define APIKEY_LIMIT_MAX          0x1fffffffffffffULL        /* 2^53 - 1 */

/* what no name can be: credits never share a bucket with a limit */

#define APIKEY_LIMIT_CREDITS      "\1credits"

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
    APIKEY_LIMIT_MODEL,
    APIKEY_LIMIT_FIELDS
} apikey_limit_field_e;


typedef enum {
    APIKEY_TERM_KIND = 0,
    APIKEY_TERM_MODE,
    APIKEY_TERM_PERIOD,
    APIKEY_TERM_MADE,
    APIKEY_TERM_FILL,
    APIKEY_TERM_BASE,
    APIKEY_LIMIT_TERMS
} apikey_limit_term_e;


typedef struct {
    const char  *start;
    size_t       len;
} apikey_limit_field_t;


static bool apikey_limit_split(apikey_limit_text_t *text,
    apikey_limit_field_t *fields, unsigned n);
static bool apikey_limit_read(apikey_limit_t *limit,
    const apikey_limit_field_t *fields, const apikey_limit_field_t *terms);
static bool apikey_limit_read_terms(apikey_limit_t *limit,
    const apikey_limit_field_t *terms);
static bool apikey_limit_read_amount(apikey_limit_t *limit,
    const apikey_limit_field_t *fields);
static bool apikey_limit_read_rate(apikey_limit_t *limit,
    const apikey_limit_field_t *fields);
static bool apikey_limit_check(const apikey_limit_t *limit);
static bool apikey_limit_word(const apikey_limit_field_t *field,
    const char *const *words, unsigned n, uint8_t *value);
static bool apikey_limit_number(const apikey_limit_field_t *field,
    uint64_t *n);
static bool apikey_limit_name_check(const apikey_limit_field_t *field);
static bool apikey_limit_known(const char *buf, unsigned count, uint64_t id);
static void apikey_limit_pack(char *out, const apikey_limit_t *limit,
    const apikey_limit_field_t *fields);
static uint64_t apikey_limit_hash(uint64_t hash, const char *text,
    size_t len);


static const char *const  apikey_limit_units[APIKEY_UNITS] = {
    "requests", "tokens", "cost", "concurrent"
};

static const char *const  apikey_limit_kinds[APIKEY_KINDS] = {
    "bucket", "rolling", "calendar", "total", "concurrent", "credits"
};

static const char *const  apikey_limit_modes[APIKEY_STRICTNESSES] = {
    "strict", "trim", "observe"
};

static const char *const  apikey_limit_periods[APIKEY_PERIODS] = {
    "", "day", "week", "month"
};


size_t
apikey_limit_parse(const apikey_limit_text_t *limits,
    const apikey_limit_text_t *terms, char *buf, size_t size,
    unsigned *count)
{
    char                  *pos;
    apikey_limit_t         limit;
    apikey_limit_text_t    text, more;
    apikey_limit_field_t   fields[APIKEY_LIMIT_FIELDS];
    apikey_limit_field_t   kinds[APIKEY_LIMIT_TERMS];

    pos = buf;
    text = *limits;
    more = *terms;
    *count = 0;

    while (text.len) {

        if (!apikey_limit_split(&text, fields, APIKEY_LIMIT_FIELDS)
            || (terms->len
                && !apikey_limit_split(&more, kinds, APIKEY_LIMIT_TERMS))
            || !apikey_limit_read(&limit, fields, terms->len ? kinds : NULL)
            || apikey_limit_known(buf, *count, limit.id)
            || limit.size > size - (size_t) (pos - buf))
        {
            return (size_t) -1;
        }

        apikey_limit_pack(pos, &limit, fields);

        pos += limit.size;
        (*count)++;
    }

    return more.len ? (size_t) -1 : (size_t) (pos - buf);
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


/* Takes the first line off the text. */

static bool
apikey_limit_split(apikey_limit_text_t *text, apikey_limit_field_t *fields,
    unsigned n)
{
    unsigned     i;
    const char  *p, *end, *line;

    p = text->text;
    line = text->len ? memchr(p, '\n', text->len) : NULL;

    if (line == NULL) {
        return false;
    }

    text->len -= (size_t) (line + 1 - p);
    text->text = line + 1;

    for (i = 0; i < n; i++) {
        end = memchr(p, '\t', (size_t) (line - p));

        /* the last field, and only the last, ends with the line */

        if ((end == NULL) != (i == n - 1)) {
            return false;
        }

        if (end == NULL) {
            end = line;
        }

        fields[i].start = p;
        fields[i].len = (size_t) (end - p);

        p = end + 1;
    }

    return true;
}


/* terms NULL: an older schema, that knows lengths of requests only. */

static bool
apikey_limit_read(apikey_limit_t *limit, const apikey_limit_field_t *fields,
    const apikey_limit_field_t *terms)
{
    size_t                       size;
    const apikey_limit_field_t  *name, *service, *model;

    memset(limit, 0, sizeof(apikey_limit_t));

    name = &fields[APIKEY_LIMIT_NAME];
    service = &fields[APIKEY_LIMIT_SERVICE];
    model = &fields[APIKEY_LIMIT_MODEL];

    if (!apikey_limit_name_check(name)
        || !apikey_limit_word(&fields[APIKEY_LIMIT_UNIT], apikey_limit_units,
                              APIKEY_UNITS, &limit->unit)
        || service->len > APIKEY_LIMIT_PATTERN_MAX
        || model->len > APIKEY_LIMIT_PATTERN_MAX)
    {
        return false;
    }

    if (terms ? !apikey_limit_read_terms(limit, terms)
              : limit->unit != APIKEY_UNIT_REQUESTS)
    {
        return false;
    }

    if (!apikey_limit_read_amount(limit, fields)
        || !apikey_limit_check(limit))
    {
        return false;
    }

    size = offsetof(apikey_limit_t, text) + name->len + service->len
           + model->len;

    if (size < sizeof(apikey_limit_t)) {
        size = sizeof(apikey_limit_t);
    }

    limit->id = limit->kind == APIKEY_KIND_CREDITS
                ? apikey_limit_hash(APIKEY_FNV_START, APIKEY_LIMIT_CREDITS,
                                    strlen(APIKEY_LIMIT_CREDITS))
                : apikey_limit_hash(APIKEY_FNV_START, name->start, name->len);
    limit->scope = apikey_limit_scope(service->start, service->len,
                                      model->start, model->len);
    limit->name_len = (uint16_t) name->len;
    limit->service_len = (uint16_t) service->len;
    limit->model_len = (uint16_t) model->len;
    limit->size = (uint16_t) ((size + 7) & ~(size_t) 7);

    return true;
}


static bool
apikey_limit_read_terms(apikey_limit_t *limit,
    const apikey_limit_field_t *terms)
{
    if (!apikey_limit_word(&terms[APIKEY_TERM_KIND], apikey_limit_kinds,
                           APIKEY_KINDS, &limit->kind)
        || !apikey_limit_word(&terms[APIKEY_TERM_PERIOD],
                              apikey_limit_periods, APIKEY_PERIODS,
                              &limit->period)
        || !apikey_limit_number(&terms[APIKEY_TERM_MADE], &limit->made))
    {
        return false;
    }

    if (terms[APIKEY_TERM_MODE].len
        && !apikey_limit_word(&terms[APIKEY_TERM_MODE], apikey_limit_modes,
                              APIKEY_STRICTNESSES, &limit->mode))
    {
        return false;
    }

    if (terms[APIKEY_TERM_FILL].len
        && !apikey_limit_number(&terms[APIKEY_TERM_FILL], &limit->fill))
    {
        return false;
    }

    return terms[APIKEY_TERM_BASE].len == 0
           || apikey_limit_number(&terms[APIKEY_TERM_BASE], &limit->base);
}


static bool
apikey_limit_read_amount(apikey_limit_t *limit,
    const apikey_limit_field_t *fields)
{
    unsigned  i;

    if (!apikey_limit_number(&fields[APIKEY_LIMIT_LIMIT], &limit->limit)) {
        return false;
    }

    if (limit->kind == APIKEY_KIND_BUCKET) {
        return apikey_limit_read_rate(limit, fields);
    }

    if (limit->kind == APIKEY_KIND_ROLLING
        && (!apikey_limit_number(&fields[APIKEY_LIMIT_WINDOW],
                                 &limit->window)
            || limit->window == 0))
    {
        return false;
    }

    for (i = APIKEY_LIMIT_WINDOW; i <= APIKEY_LIMIT_TICK; i++) {
        if (fields[i].len
            && (i != APIKEY_LIMIT_WINDOW
                || limit->kind != APIKEY_KIND_ROLLING))
        {
            return false;
        }
    }

    if (limit->kind == APIKEY_KIND_CALENDAR) {
        limit->fill = limit->limit;
    }

    /* a use of MAX says unknown in Redis, so that none may fill it */

    limit->burst = limit->limit < APIKEY_LIMIT_MAX ? limit->limit
                                                   : APIKEY_LIMIT_MAX - 1;
    limit->rate.token = 1;
    limit->rate.capacity = limit->burst;
    limit->rate.tick = 1;

    if (limit->kind == APIKEY_KIND_ROLLING) {
        limit->rate.refill = limit->window;
        limit->rate.tick = APIKEY_RATE_ROLLING;
    }

    return limit->limit <= APIKEY_LIMIT_MAX;
}


static bool
apikey_limit_read_rate(apikey_limit_t *limit,
    const apikey_limit_field_t *fields)
{
    if (!apikey_limit_number(&fields[APIKEY_LIMIT_WINDOW], &limit->window)
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


/* What does not go together is none of ours. */

static bool
apikey_limit_check(const apikey_limit_t *limit)
{
    if ((limit->kind == APIKEY_KIND_CONCURRENT)
        != (limit->unit == APIKEY_UNIT_CONCURRENT))
    {
        return false;
    }

    if (limit->mode != APIKEY_STRICT && limit->unit != APIKEY_UNIT_TOKENS
        && limit->unit != APIKEY_UNIT_COST)
    {
        return false;
    }

    switch (limit->kind) {

    case APIKEY_KIND_CALENDAR:
        return limit->period != APIKEY_PERIOD_NONE && limit->base == 0;

    case APIKEY_KIND_CREDITS:
        return (limit->period != APIKEY_PERIOD_NONE) == (limit->fill != 0)
               && limit->fill <= limit->base
               && limit->fill <= limit->limit;

    default:
        return limit->period == APIKEY_PERIOD_NONE && limit->fill == 0
               && limit->base == 0;
    }
}


static bool
apikey_limit_word(const apikey_limit_field_t *field,
    const char *const *words, unsigned n, uint8_t *value)
{
    unsigned  i;

    for (i = 0; i < n; i++) {
        if (strlen(words[i]) == field->len
            && memcmp(words[i], field->start, field->len) == 0)
        {
            *value = (uint8_t) i;
            return true;
        }
    }

    return false;
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


static void
apikey_limit_pack(char *out, const apikey_limit_t *limit,
    const apikey_limit_field_t *fields)
{
    memset(out, 0, limit->size);
    memcpy(out, limit, sizeof(apikey_limit_t));

    out += offsetof(apikey_limit_t, text);
    memcpy(out, fields[APIKEY_LIMIT_NAME].start, limit->name_len);

    out += limit->name_len;
    memcpy(out, fields[APIKEY_LIMIT_SERVICE].start, limit->service_len);

    out += limit->service_len;
    memcpy(out, fields[APIKEY_LIMIT_MODEL].start, limit->model_len);
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
