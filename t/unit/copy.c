
/*
 * Raw events for COPY: texts go in as they are, but for what Postgres takes
 * in no text.
 */


#include "usage/batch_copy.c"

#include "unit.h"


#define LEN  21


const char *const  ngx_http_apikey_outcomes[] = { "a", "b", "c", "d" };


/* Only of whole rows. */

void *
ngx_http_apikey_text_add(ngx_http_apikey_text_t *t, size_t len)
{
    return NULL;
}


/* Is it copied, with its length before it, as the other one? */

static bool
test_copied(const char *text, const char *want, size_t len)
{
    u_char    out[4 + 64], *end;
    uint32_t  big;

    end = ngx_http_apikey_copy_text(out, text, len);
    memcpy(&big, out, sizeof(big));

    return end == out + 4 + len && ntohl(big) == len
           && memcmp(out + 4, want, len) == 0;
}


static void
test_bytes(void)
{
    bool      good;
    char      text[LEN], want[LEN];
    size_t    at, len;
    unsigned  byte;

    good = true;

    for (byte = 0; byte < 256; byte++) {
        for (len = 1; len <= LEN; len++) {
            for (at = 0; at < len; at++) {
                memcpy(text, "abcdefgh\x7f\x01 /~{}0123456", LEN);
                memcpy(want, text, LEN);
                text[at] = (char) byte;
                want[at] = byte == 0 || byte > 0x7f ? '?' : (char) byte;

                good = good && test_copied(text, want, len);
            }
        }
    }

    ok(good, "a byte that is no character becomes '?', wherever it stands");
}


static void
test_characters(void)
{
    bool         good;
    char         text[LEN];
    size_t       at, i, n;
    const char  *character[] = { "\xc3\xa9", "\xe2\x82\xac",
                                 "\xf0\x9f\x98\x80" };

    good = true;

    for (i = 0; i < 3; i++) {
        n = strlen(character[i]);

        for (at = 0; at + n <= LEN; at++) {
            memset(text, 'x', LEN);
            memcpy(text + at, character[i], n);

            good = good && test_copied(text, text, LEN);
        }
    }

    ok(good, "characters of more bytes stay whole");
}


int
main(void)
{
    test_bytes();
    test_characters();

    return unit_done();
}
