
/*
 * The files of apikey_mac_secret and apikey_admin_token, line by line.
 *
 * The text and what becomes of it are the caller's.  Reasons are static
 * strings and never quote the line: it may hold a secret.
 */


#include <string.h>

#include "base/clock.h"
#include "base/key.h"


#define APIKEY_MAC_SECRET_MIN  16
#define APIKEY_LINE_WORDS      5     /* one more than a line may have */


typedef struct {
    const char  *start;
    size_t       len;
} apikey_word_t;


typedef struct {
    const char     *pos;
    const char     *end;
    unsigned        number;
    apikey_word_t   word[APIKEY_LINE_WORDS];
    unsigned        n;
} apikey_lines_t;


static bool apikey_line_next(apikey_lines_t *lines);
static bool apikey_mac_read(apikey_macs_t *macs, const apikey_lines_t *lines,
    const char **why);
static bool apikey_token_read(apikey_token_t *token,
    const apikey_lines_t *lines, const char **why);
static const char *apikey_token_option(apikey_token_t *token,
    const apikey_word_t *word, unsigned *seen);
static bool apikey_word_starts(const apikey_word_t *word, const char *text);
static bool apikey_word_is(const apikey_word_t *word, const char *text);
static bool apikey_word_until(const apikey_word_t *word, int64_t *until);
static bool apikey_word_digest(const apikey_word_t *word, uint8_t *out);
static bool apikey_word_plain(const apikey_word_t *word);


unsigned
apikey_macs_parse(apikey_macs_t *macs, const char *text, size_t len,
    const char **why)
{
    apikey_lines_t  lines;

    memset(macs, 0, sizeof(apikey_macs_t));
    memset(&lines, 0, sizeof(apikey_lines_t));

    lines.pos = text;
    lines.end = text + len;

    while (apikey_line_next(&lines)) {
        if (!apikey_mac_read(macs, &lines, why)) {
            return lines.number;
        }
    }

    return 0;
}


unsigned
apikey_tokens_parse(const char *text, size_t len,
    bool (*add)(void *data, const apikey_token_t *token), void *data,
    const char **why)
{
    apikey_lines_t  lines;
    apikey_token_t  token;

    memset(&lines, 0, sizeof(apikey_lines_t));

    lines.pos = text;
    lines.end = text + len;

    while (apikey_line_next(&lines)) {
        if (!apikey_token_read(&token, &lines, why)) {
            return lines.number;
        }

        if (!add(data, &token)) {
            *why = "out of memory";
            return lines.number;
        }
    }

    return 0;
}


/* The next line that says something, cut into words; '#' opens a comment. */

static bool
apikey_line_next(apikey_lines_t *lines)
{
    const char  *pos, *end;

    for (lines->n = 0; lines->n == 0; /* void */ ) {
        if (lines->pos == lines->end) {
            return false;
        }

        pos = lines->pos;
        end = memchr(pos, '\n', (size_t) (lines->end - pos));

        lines->pos = end ? end + 1 : lines->end;
        lines->number++;

        if (end == NULL) {
            end = lines->end;
        }

        while (lines->n < APIKEY_LINE_WORDS) {
            while (pos < end
                   && (*pos == ' ' || *pos == '\t' || *pos == '\r'))
            {
                pos++;
            }

            if (pos == end || *pos == '#') {
                break;
            }

            lines->word[lines->n].start = pos;

            while (pos < end && *pos != ' ' && *pos != '\t' && *pos != '\r') {
                pos++;
            }

            lines->word[lines->n].len =
                               (size_t) (pos - lines->word[lines->n].start);
            lines->n++;
        }
    }

    return true;
}


static bool
apikey_mac_read(apikey_macs_t *macs, const apikey_lines_t *lines,
    const char **why)
{
    char                  kid;
    unsigned              i;
    apikey_mac_t         *mac;
    const apikey_word_t  *word;

    word = lines->word;

    if (lines->n < 2 || lines->n > 3) {
        *why = "write KID SECRET [until=TIME]";
        return false;
    }

    kid = word[0].start[0];

    if (word[0].len != 1
        || !((kid >= '1' && kid <= '9')
             || (kid >= 'A' && kid <= 'Z')
             || (kid >= 'a' && kid <= 'z')))
    {
        *why = "KID is one of 1-9, A-Z, a-z";
        return false;
    }

    for (i = 0; i < macs->n; i++) {
        if (macs->mac[i].kid == kid) {
            *why = "KID stands twice";
            return false;
        }
    }

    if (macs->n == APIKEY_MACS_MAX) {
        *why = "more than 16 secrets";
        return false;
    }

    mac = &macs->mac[macs->n];

    if (word[1].len < APIKEY_MAC_SECRET_MIN
        || word[1].len > sizeof(mac->secret)
        || !apikey_word_plain(&word[1]))
    {
        *why = "SECRET is 16 to 128 bytes without control characters";
        return false;
    }

    mac->until = INT64_MAX;

    if (lines->n == 3 && !apikey_word_until(&word[2], &mac->until)) {
        *why = "write until=TIME, like until=2027-01-31T00:00:00Z";
        return false;
    }

    mac->kid = kid;
    mac->len = word[1].len;
    memcpy(mac->secret, word[1].start, word[1].len);

    macs->n++;

    return true;
}


static bool
apikey_token_read(apikey_token_t *token, const apikey_lines_t *lines,
    const char **why)
{
    unsigned              i, seen;
    const apikey_word_t  *word;

    word = lines->word;

    memset(token, 0, sizeof(apikey_token_t));
    token->until = INT64_MAX;

    if (lines->n < 2 || lines->n > 4) {
        *why = "write SHA256HEX NAME [role=admin|read] [until=TIME]";
        return false;
    }

    if (!apikey_word_digest(&word[0], token->digest)) {
        *why = "SHA256HEX is 64 hex digits";
        return false;
    }

    /* a name like an option is an option whose name was forgotten */

    if (word[1].len > sizeof(token->name)
        || !apikey_word_plain(&word[1])
        || memchr(word[1].start, '=', word[1].len))
    {
        *why = "NAME is 1 to 64 bytes without \"=\" and control characters";
        return false;
    }

    token->name_len = (uint8_t) word[1].len;
    memcpy(token->name, word[1].start, word[1].len);

    seen = 0;

    for (i = 2; i < lines->n; i++) {
        *why = apikey_token_option(token, &word[i], &seen);

        if (*why) {
            return false;
        }
    }

    return true;
}


/* NULL, or what is wrong. */

static const char *
apikey_token_option(apikey_token_t *token, const apikey_word_t *word,
    unsigned *seen)
{
    unsigned  option;

    option = apikey_word_starts(word, "role=") ? 1 : 2;

    if (*seen & option) {
        return "an option stands twice";
    }

    *seen |= option;

    if (option == 1) {
        token->read_only = apikey_word_is(word, "role=read");

        if (!token->read_only && !apikey_word_is(word, "role=admin")) {
            return "write role=admin or role=read";
        }

        return NULL;
    }

    if (!apikey_word_starts(word, "until=")) {
        return "options are role=admin|read and until=TIME";
    }

    if (!apikey_word_until(word, &token->until)) {
        return "write until=TIME, like until=2027-01-31T00:00:00Z";
    }

    return NULL;
}


static bool
apikey_word_starts(const apikey_word_t *word, const char *text)
{
    return word->len >= strlen(text)
           && memcmp(word->start, text, strlen(text)) == 0;
}


static bool
apikey_word_is(const apikey_word_t *word, const char *text)
{
    return word->len == strlen(text) && apikey_word_starts(word, text);
}


static bool
apikey_word_until(const apikey_word_t *word, int64_t *until)
{
    size_t  skip;

    skip = strlen("until=");

    return apikey_word_starts(word, "until=")
           && apikey_time_parse(until, word->start + skip, word->len - skip);
}


static bool
apikey_word_digest(const apikey_word_t *word, uint8_t *out)
{
    char    c;
    size_t  i;

    if (word->len != 64) {
        return false;
    }

    memset(out, 0, 32);

    for (i = 0; i < 64; i++) {
        c = word->start[i];

        if (c >= '0' && c <= '9') {
            c -= '0';

        } else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')) {
            c = (char) ((c | 0x20) - 'a' + 10);

        } else {
            return false;
        }

        out[i / 2] = (uint8_t) (out[i / 2] << 4 | c);
    }

    return true;
}


static bool
apikey_word_plain(const apikey_word_t *word)
{
    size_t         i;
    unsigned char  c;

    for (i = 0; i < word->len; i++) {
        c = (unsigned char) word->start[i];

        if (c < 0x20 || c == 0x7f) {
            return false;
        }
    }

    return true;
}
