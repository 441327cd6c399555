
/*
 * The files of apikey_mac_secret and apikey_admin_token: what is read, and
 * that each wrong line is named.
 */


#include "base/key.h"

#include "unit.h"


#define SECRET  "0123456789abcdef"
#define DIGEST                                                                \
    "9e9b5d4755a9b91c8938cb807b9d962c57dde1399bd1976dcfe39c57e80958E2"


typedef struct {
    apikey_token_t  token[4];
    unsigned        n;
} test_tokens_t;


static bool
test_add(void *data, const apikey_token_t *token)
{
    test_tokens_t  *tokens = data;

    if (tokens->n == sizeof(tokens->token) / sizeof(tokens->token[0])) {
        return false;
    }

    tokens->token[tokens->n++] = *token;

    return true;
}


static void
test_macs(void)
{
    unsigned        i, line;
    const char     *why;
    apikey_macs_t   macs;

    static const char  text[] =
        "# rotated in November\n"
        "\n"
        "2 " SECRET "00  # signs\r\n"
        "\t1\t" SECRET "\tuntil=2026-11-21T10:15:30.000001+00:00";

    static const char *const  wrong[] = {
        "1",
        "1 " SECRET " until=2027-01-01 more",
        "0 " SECRET,
        "12 " SECRET,
        "- " SECRET,
        "1 0123456789abcde",
        "1 01234567\00189abcdef",
        "1 " SECRET " until=tomorrow",
        "1 " SECRET " till=2027-01-01",
        "1 " SECRET "\n1 " SECRET,
    };

    line = apikey_macs_parse(&macs, text, strlen(text), &why);

    is_uint(line, 0, "a file of secrets");
    is_uint(macs.n, 2, "holds two");
    ok(macs.mac[0].kid == '2' && macs.mac[0].len == 18
       && macs.mac[0].until == INT64_MAX, "the first");
    ok(macs.mac[1].kid == '1' && macs.mac[1].len == 16
       && macs.mac[1].until == 1795256130000001, "the second");

    is_uint(apikey_macs_parse(&macs, "", 0, &why), 0, "an empty file");
    is_uint(macs.n, 0, "holds none");

    for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        why = NULL;
        line = apikey_macs_parse(&macs, wrong[i], strlen(wrong[i]), &why);

        ok(line == (strchr(wrong[i], '\n') ? 2 : 1) && why,
           why ? why : wrong[i]);
    }
}


static void
test_macs_many(void)
{
    char            text[32 * (APIKEY_MACS_MAX + 1)];
    int             len;
    unsigned        i;
    const char     *why;
    apikey_macs_t   macs;

    len = 0;

    for (i = 0; i <= APIKEY_MACS_MAX; i++) {
        len += sprintf(text + len, "%c " SECRET "\n", 'A' + i);
    }

    is_uint(apikey_macs_parse(&macs, text, (size_t) len, &why),
            APIKEY_MACS_MAX + 1, "one secret too many is refused");
}


static void
test_tokens(void)
{
    unsigned       i, line;
    const char    *why;
    test_tokens_t  tokens;

    static const char  text[] =
        DIGEST " ci\n"
        "# readers\n"
        DIGEST " grafana until=2027-01-01 role=read\n"
        DIGEST " k\xc3\xa4the role=admin\n";

    static const char *const  wrong[] = {
        DIGEST,
        "9e9b ci",
        DIGEST "0 ci",
        "ge9b5d4755a9b91c8938cb807b9d962c57dde1399bd1976dcfe39c57e80958e2 ci",
        DIGEST " role=read",
        DIGEST " ci role=root",
        DIGEST " ci role=read role=admin",
        DIGEST " ci until=never",
        DIGEST " ci admin",
        DIGEST " ci role=read until=2027-01-01 more",
        DIGEST " 01234567890123456789012345678901234567890123456789012345678"
               "901234",
    };

    tokens.n = 0;
    line = apikey_tokens_parse(text, strlen(text), test_add, &tokens, &why);

    is_uint(line, 0, "a file of tokens");
    is_uint(tokens.n, 3, "holds three");
    is_text(tokens.token[0].name, tokens.token[0].name_len, "ci", "a name");
    ok(tokens.token[0].digest[0] == 0x9e && tokens.token[0].digest[31] == 0xe2,
       "its digest");
    ok(!tokens.token[0].read_only && tokens.token[0].until == INT64_MAX,
       "all may be left out");
    ok(tokens.token[1].read_only
       && tokens.token[1].until == 1798761600000000, "both options");
    is_text(tokens.token[2].name, tokens.token[2].name_len, "k\xc3\xa4the",
            "a name beyond ASCII");

    for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        why = NULL;
        tokens.n = 0;
        line = apikey_tokens_parse(wrong[i], strlen(wrong[i]), test_add,
                                   &tokens, &why);

        ok(line == 1 && tokens.n == 0 && why, why ? why : wrong[i]);
    }

    tokens.n = sizeof(tokens.token) / sizeof(tokens.token[0]);
    line = apikey_tokens_parse(text, strlen(text), test_add, &tokens, &why);

    is_uint(line, 1, "an add that fails ends it");
    is_text(why, strlen(why), "out of memory", "... and is said");
}


int
main(void)
{
    test_macs();
    test_macs_many();
    test_tokens();

    return unit_done();
}
