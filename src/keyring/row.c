
/*
 * From a row of apikey.keyring_rows() to a record as the zone holds it.
 *
 * The record is made in this process's scratch memory, before any lock is
 * taken.  What cannot be read makes the key "broken", which is served as
 * unavailable: never as unlimited or as free of an address list.
 */


#include "keyring/store.h"

#include "base/uuid.h"


#define NGX_HTTP_APIKEY_TEXT_MAX  65535
#define NGX_HTTP_APIKEY_LONG_MAX  ((1 << 20) - 1)


typedef enum {
    NGX_HTTP_APIKEY_COL_KIND = 0,
    NGX_HTTP_APIKEY_COL_ID,
    NGX_HTTP_APIKEY_COL_VERSION,
    NGX_HTTP_APIKEY_COL_ENABLED,
    NGX_HTTP_APIKEY_COL_OWNER,
    NGX_HTTP_APIKEY_COL_NAME,
    NGX_HTTP_APIKEY_COL_PREFIX,
    NGX_HTTP_APIKEY_COL_CUSTOMER,
    NGX_HTTP_APIKEY_COL_PLAN,
    NGX_HTTP_APIKEY_COL_REVOKED,
    NGX_HTTP_APIKEY_COL_EXPIRES,
    NGX_HTTP_APIKEY_COL_SCOPES,
    NGX_HTTP_APIKEY_COL_IPS,
    NGX_HTTP_APIKEY_COL_METADATA,
    NGX_HTTP_APIKEY_COL_SECRETS,
    NGX_HTTP_APIKEY_COL_LIMITS,
    NGX_HTTP_APIKEY_COL_MODELS,  /* from here on a schema may lack them */
    NGX_HTTP_APIKEY_COL_TERMS,
    NGX_HTTP_APIKEY_COL_CALENDAR,
    NGX_HTTP_APIKEY_COLS
} ngx_http_apikey_col_e;


typedef struct {
    u_char      *pos;
    u_char      *end;
    ngx_uint_t   broken;
} ngx_http_apikey_pack_t;


static ngx_int_t ngx_http_apikey_row_key(PGresult *res, int n,
    ngx_http_apikey_row_t *row);
static ngx_int_t ngx_http_apikey_row_owner(PGresult *res, int n,
    ngx_http_apikey_row_t *row);
static ngx_int_t ngx_http_apikey_row_calendar(PGresult *res, int n,
    ngx_http_apikey_row_t *row);
static ngx_int_t ngx_http_apikey_row_table(PGresult *res, int n,
    ngx_http_apikey_row_t *row);
static uint8_t ngx_http_apikey_row_flags(PGresult *res, int n);
static ngx_str_t ngx_http_apikey_row_col(PGresult *res, int n, int col);
static ngx_str_t ngx_http_apikey_row_more(PGresult *res, int n, int col);
static int64_t ngx_http_apikey_row_number(ngx_str_t *text);
static uint8_t ngx_http_apikey_row_limits(ngx_http_apikey_pack_t *p,
    PGresult *res, int n, uint16_t *size);
static uint8_t ngx_http_apikey_row_secrets(ngx_http_apikey_pack_t *p,
    ngx_str_t text);
static ngx_int_t ngx_http_apikey_row_secret(ngx_str_t *line,
    ngx_http_apikey_secret_rec_t *secret);
static size_t ngx_http_apikey_row_text(ngx_http_apikey_pack_t *p,
    ngx_str_t text, size_t max);
static size_t ngx_http_apikey_row_models(ngx_http_apikey_pack_t *p,
    PGresult *res, int n);
static uint16_t ngx_http_apikey_row_ips(ngx_http_apikey_pack_t *p,
    ngx_str_t text);


/* NGX_ERROR: not a row of ours, or no memory. */

ngx_int_t
ngx_http_apikey_row_pack(PGresult *res, int n, ngx_http_apikey_row_t *row)
{
    u_char     *scratch;
    ngx_str_t   id, kind;

    scratch = ngx_http_apikey_keyring_scratch();

    if (scratch == NULL || PQnfields(res) < NGX_HTTP_APIKEY_COL_MODELS) {
        return NGX_ERROR;
    }

    row->block = (ngx_http_apikey_block_t *) scratch;
    ngx_memzero(scratch, sizeof(ngx_http_apikey_key_rec_t));
    ngx_memzero(row->owner, 16);

    kind = ngx_http_apikey_row_col(res, n, NGX_HTTP_APIKEY_COL_KIND);
    id = ngx_http_apikey_row_col(res, n, NGX_HTTP_APIKEY_COL_ID);

    if (!apikey_uuid_parse(row->id, (char *) id.data, id.len)) {
        return NGX_ERROR;
    }

    switch (kind.len) {

    case sizeof("key") - 1:
        return ngx_http_apikey_row_key(res, n, row);

    case sizeof("owner") - 1:
        return ngx_http_apikey_row_owner(res, n, row);

    case sizeof("calendar") - 1:
        return ngx_http_apikey_row_calendar(res, n, row);

    case sizeof("prices") - 1:
        return ngx_http_apikey_row_table(res, n, row);

    default:
        return NGX_ERROR;
    }
}


static ngx_int_t
ngx_http_apikey_row_key(PGresult *res, int n, ngx_http_apikey_row_t *row)
{
    ngx_str_t                   text;
    ngx_http_apikey_pack_t      p;
    ngx_http_apikey_key_rec_t  *rec;

#define ngx_http_apikey_col(name)                                             \
    ngx_http_apikey_row_col(res, n, NGX_HTTP_APIKEY_COL_##name)

    rec = (ngx_http_apikey_key_rec_t *) row->block;

    p.pos = (u_char *) (rec + 1);
    p.end = (u_char *) rec + NGX_HTTP_APIKEY_BLOCK_MAX;
    p.broken = 0;

    rec->block.state = NGX_HTTP_APIKEY_BLOCK_KEY;
    ngx_memcpy(rec->id, row->id, 16);

    text = ngx_http_apikey_col(OWNER);

    if (text.len
        && !apikey_uuid_parse(row->owner, (char *) text.data, text.len))
    {
        return NGX_ERROR;
    }

    text = ngx_http_apikey_col(VERSION);
    rec->version = ngx_http_apikey_row_number(&text);

    text = ngx_http_apikey_col(EXPIRES);
    rec->expires = text.len ? ngx_http_apikey_row_number(&text)
                            : NGX_HTTP_APIKEY_NEVER;

    rec->nlimits = ngx_http_apikey_row_limits(&p, res, n, &rec->limits_size);
    rec->nsecrets = ngx_http_apikey_row_secrets(&p,
                                                ngx_http_apikey_col(SECRETS));

    rec->name_len = ngx_http_apikey_row_text(&p, ngx_http_apikey_col(NAME),
                                             NGX_HTTP_APIKEY_TEXT_MAX);
    rec->prefix_len = ngx_http_apikey_row_text(&p,
                                            ngx_http_apikey_col(PREFIX), 255);
    rec->customer_len = ngx_http_apikey_row_text(&p,
                      ngx_http_apikey_col(CUSTOMER), NGX_HTTP_APIKEY_TEXT_MAX);
    rec->plan_len = ngx_http_apikey_row_text(&p, ngx_http_apikey_col(PLAN),
                                             255);
    rec->scopes_len = ngx_http_apikey_row_text(&p,
                        ngx_http_apikey_col(SCOPES), NGX_HTTP_APIKEY_LONG_MAX);
    rec->models_len = ngx_http_apikey_row_models(&p, res, n);
    rec->ips_len = ngx_http_apikey_row_ips(&p, ngx_http_apikey_col(IPS));
    rec->metadata_len = ngx_http_apikey_row_text(&p,
                      ngx_http_apikey_col(METADATA), NGX_HTTP_APIKEY_LONG_MAX);

    rec->flags = ngx_http_apikey_row_flags(res, n);

    if (p.broken || rec->version <= 0 || rec->expires < 0) {
        rec->flags |= NGX_HTTP_APIKEY_REC_BROKEN;
    }

    row->size = p.pos - (u_char *) rec;

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_row_owner(PGresult *res, int n, ngx_http_apikey_row_t *row)
{
    ngx_str_t                    text;
    ngx_http_apikey_pack_t       p;
    ngx_http_apikey_body_rec_t  *rec;

    rec = (ngx_http_apikey_body_rec_t *) row->block;
    ngx_memzero(rec, sizeof(ngx_http_apikey_body_rec_t));

    p.pos = (u_char *) (rec + 1);
    p.end = (u_char *) rec + NGX_HTTP_APIKEY_BLOCK_MAX;
    p.broken = 0;

    rec->block.state = NGX_HTTP_APIKEY_BLOCK_BODY;

    text = ngx_http_apikey_col(VERSION);
    rec->version = ngx_http_apikey_row_number(&text);

    rec->nlimits = ngx_http_apikey_row_limits(&p, res, n, &rec->limits_size);

    text = ngx_http_apikey_row_more(res, n, NGX_HTTP_APIKEY_COL_CALENDAR);

    if (text.len
        && !apikey_uuid_parse(rec->calendar, (char *) text.data, text.len))
    {
        return NGX_ERROR;
    }

    rec->external_len = ngx_http_apikey_row_text(&p,
                          ngx_http_apikey_col(NAME), NGX_HTTP_APIKEY_TEXT_MAX);
    rec->plan_len = ngx_http_apikey_row_text(&p, ngx_http_apikey_col(PLAN),
                                             NGX_HTTP_APIKEY_TEXT_MAX);

    rec->flags = ngx_http_apikey_row_flags(res, n);

    if (p.broken || rec->version <= 0) {
        rec->flags |= NGX_HTTP_APIKEY_REC_BROKEN;
    }

    row->size = p.pos - (u_char *) rec;

    return NGX_OK;
}


/*
 * A calendar lies in the zone as an owner does: an anchor by its id, and a
 * body that is replaced whole, with boundaries where its own id would be.
 */

static ngx_int_t
ngx_http_apikey_row_calendar(PGresult *res, int n, ngx_http_apikey_row_t *row)
{
    u_char                      *blank, *last;
    int64_t                     *bound, *end, before;
    ngx_str_t                    text, word;
    ngx_http_apikey_body_rec_t  *rec;

    rec = (ngx_http_apikey_body_rec_t *) row->block;
    ngx_memzero(rec, sizeof(ngx_http_apikey_body_rec_t));

    rec->block.state = NGX_HTTP_APIKEY_BLOCK_BODY;

    text = ngx_http_apikey_col(VERSION);
    rec->version = ngx_http_apikey_row_number(&text);

    bound = (int64_t *) ngx_http_apikey_rec_limits(rec);
    end = bound + NGX_HTTP_APIKEY_TEXT_MAX / sizeof(int64_t);
    before = 0;

    text = ngx_http_apikey_col(LIMITS);
    last = text.data + text.len;

    while (text.data < last && bound < end) {
        blank = ngx_strlchr(text.data, last, ' ');

        word.data = text.data;
        word.len = (blank ? blank : last) - text.data;

        *bound = ngx_http_apikey_row_number(&word);

        /* a calendar that is not understood is none */

        if (*bound <= before) {
            bound = (int64_t *) ngx_http_apikey_rec_limits(rec);
            break;
        }

        before = *bound++;
        text.data += word.len + 1;
    }

    rec->external_len = (u_char *) bound - ngx_http_apikey_rec_limits(rec);

    row->size = (u_char *) bound - (u_char *) rec;

    return NGX_OK;
}


/* What is too long is none: whoever goes by it then knows nothing. */

static ngx_int_t
ngx_http_apikey_row_table(PGresult *res, int n, ngx_http_apikey_row_t *row)
{
    ngx_str_t                    text;
    ngx_http_apikey_pack_t       p;
    ngx_http_apikey_body_rec_t  *rec;

    rec = (ngx_http_apikey_body_rec_t *) row->block;
    ngx_memzero(rec, sizeof(ngx_http_apikey_body_rec_t));

    p.pos = (u_char *) (rec + 1);
    p.end = (u_char *) rec + NGX_HTTP_APIKEY_BLOCK_MAX;
    p.broken = 0;

    rec->block.state = NGX_HTTP_APIKEY_BLOCK_BODY;

    text = ngx_http_apikey_col(VERSION);
    rec->version = ngx_http_apikey_row_number(&text);

    rec->table_len = ngx_http_apikey_row_text(&p, ngx_http_apikey_col(LIMITS),
                                              NGX_HTTP_APIKEY_LONG_MAX);

    row->size = p.pos - (u_char *) rec;

    return NGX_OK;
}


static uint8_t
ngx_http_apikey_row_flags(PGresult *res, int n)
{
    uint8_t  flags;

    flags = 0;

    if (*PQgetvalue(res, n, NGX_HTTP_APIKEY_COL_ENABLED) == 't') {
        flags |= NGX_HTTP_APIKEY_REC_ENABLED;
    }

    if (*PQgetvalue(res, n, NGX_HTTP_APIKEY_COL_REVOKED) == 't') {
        flags |= NGX_HTTP_APIKEY_REC_REVOKED;
    }

    if (PQgetisnull(res, n, NGX_HTTP_APIKEY_COL_IPS)) {
        flags |= NGX_HTTP_APIKEY_REC_ANY_IP;
    }

    return flags;
}


static ngx_str_t
ngx_http_apikey_row_col(PGresult *res, int n, int col)
{
    ngx_str_t  text;

    text.data = (u_char *) PQgetvalue(res, n, col);
    text.len = PQgetlength(res, n, col);

    return text;
}


/* Of a column that an older schema lacks. */

static ngx_str_t
ngx_http_apikey_row_more(PGresult *res, int n, int col)
{
    ngx_str_t  none;

    ngx_str_null(&none);

    return (col < PQnfields(res)) ? ngx_http_apikey_row_col(res, n, col)
                                  : none;
}


static int64_t
ngx_http_apikey_row_number(ngx_str_t *text)
{
    off_t  n;

    n = ngx_atoof(text->data, text->len);

    return (n == (off_t) NGX_ERROR) ? -1 : (int64_t) n;
}


static uint8_t
ngx_http_apikey_row_limits(ngx_http_apikey_pack_t *p, PGresult *res, int n,
    uint16_t *size)
{
    size_t               used;
    unsigned             count;
    ngx_str_t            text, more;
    apikey_limit_text_t  limits, terms;

    text = ngx_http_apikey_col(LIMITS);
    more = ngx_http_apikey_row_more(res, n, NGX_HTTP_APIKEY_COL_TERMS);

    limits.text = (char *) text.data;
    limits.len = text.len;
    terms.text = (char *) more.data;
    terms.len = more.len;

    count = 0;

    used = apikey_limit_parse(&limits, &terms, (char *) p->pos,
                              ngx_min(p->end - p->pos, 65528), &count);

    if (used == (size_t) -1 || count > 255) {
        p->broken = 1;
        return 0;
    }

    *size = used;
    p->pos += used;

    return count;
}


/* Lines of id TAB digest in hex TAB end of grace TAB whether it ended. */

static uint8_t
ngx_http_apikey_row_secrets(ngx_http_apikey_pack_t *p, ngx_str_t text)
{
    u_char                        *lf;
    uint8_t                        n;
    ngx_str_t                      line;
    ngx_http_apikey_secret_rec_t  *secret;

    for (n = 0; text.len && n < 255; n++) {
        lf = ngx_strlchr(text.data, text.data + text.len, '\n');

        line.data = text.data;
        line.len = lf ? (size_t) (lf - text.data) : text.len;

        secret = (ngx_http_apikey_secret_rec_t *) p->pos;

        if (ngx_http_apikey_row_secret(&line, secret) != NGX_OK) {
            p->broken = 1;
            break;
        }

        p->pos = (u_char *) (secret + 1);

        text.data += ngx_min(line.len + 1, text.len);
        text.len -= ngx_min(line.len + 1, text.len);
    }

    return n;
}


static ngx_int_t
ngx_http_apikey_row_secret(ngx_str_t *line,
    ngx_http_apikey_secret_rec_t *secret)
{
    u_char     *p, *tab;
    ngx_int_t   byte;
    ngx_str_t   grace;
    ngx_uint_t  i;

    p = line->data;

    if (line->len < 36 + 1 + 64 + 1 + 0 + 1 + 1
        || !apikey_uuid_parse(secret->id, (char *) p, 36))
    {
        return NGX_ERROR;
    }

    p += 37;

    for (i = 0; i < 32; i++) {
        byte = ngx_hextoi(p + 2 * i, 2);

        if (byte == NGX_ERROR) {
            return NGX_ERROR;
        }

        secret->digest[i] = (u_char) byte;
    }

    p += 65;
    tab = ngx_strlchr(p, line->data + line->len, '\t');

    if (tab == NULL) {
        return NGX_ERROR;
    }

    grace.data = p;
    grace.len = tab - p;

    secret->expires = grace.len ? ngx_http_apikey_row_number(&grace)
                                : NGX_HTTP_APIKEY_NEVER;

    if (secret->expires < 0) {
        return NGX_ERROR;
    }

    if (tab[1] != '0') {
        secret->expires = 0;
    }

    return NGX_OK;
}


static size_t
ngx_http_apikey_row_text(ngx_http_apikey_pack_t *p, ngx_str_t text, size_t max)
{
    if (text.len > max || text.len > (size_t) (p->end - p->pos)) {
        p->broken = 1;
        return 0;
    }

    p->pos = ngx_cpymem(p->pos, text.data, text.len);

    return text.len;
}


/* Null: any, and nothing is stored. */

static size_t
ngx_http_apikey_row_models(ngx_http_apikey_pack_t *p, PGresult *res, int n)
{
    size_t     len;
    ngx_str_t  lf;

    if (PQnfields(res) <= NGX_HTTP_APIKEY_COL_MODELS
        || PQgetisnull(res, n, NGX_HTTP_APIKEY_COL_MODELS))
    {
        return 0;
    }

    ngx_str_set(&lf, "\n");

    len = ngx_http_apikey_row_text(p, ngx_http_apikey_col(MODELS),
                                   NGX_HTTP_APIKEY_LONG_MAX - 1);

    return len + ngx_http_apikey_row_text(p, lf, 1);
}


static uint16_t
ngx_http_apikey_row_ips(ngx_http_apikey_pack_t *p, ngx_str_t text)
{
    u_char     *blank, *last, *start;
    ngx_str_t   word;

    start = p->pos;
    last = text.data + text.len;

    while (text.data < last) {
        blank = ngx_strlchr(text.data, last, ' ');

        word.data = text.data;
        word.len = (blank ? blank : last) - text.data;

        if (p->pos - start + 18 > NGX_HTTP_APIKEY_TEXT_MAX
            || p->end - p->pos < 18
            || ngx_http_apikey_row_ip(&word, p->pos) != NGX_OK)
        {
            p->broken = 1;
            break;
        }

        p->pos += 18;
        text.data += word.len + 1;
    }

    return p->pos - start;
}
