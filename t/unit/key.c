
/*
 * The form of keys: the contract's vector, what is ours and what is not,
 * keys made here.
 */


#include "base/digest.h"
#include "base/key.h"

#include "unit.h"


#define KEY  "sk_0123456789ABCDEFGHIJKLMNOPQRSTUV1HrBjqG09a8iM"
#define NOW  1795256130000000


static void
test_macs(apikey_macs_t *macs, const char *text)
{
    const char  *why;

    why = NULL;

    is_uint(apikey_macs_parse(macs, text, strlen(text), &why), 0,
            "the secrets are read");
}


static apikey_key_e
test_check(const char *key, const apikey_macs_t *macs)
{
    return apikey_key_check(key, strlen(key), macs, NOW);
}


static void
test_vector(void)
{
    char           hex[65];
    size_t         i;
    uint8_t        digest[APIKEY_DIGEST_LEN];
    apikey_macs_t  macs;

    test_macs(&macs, "1 0123456789abcdef0123456789abcdef\n");

    is_uint(test_check(KEY, &macs), APIKEY_KEY_GOOD, "the vector is good");
    is_uint(test_check(KEY, NULL), APIKEY_KEY_GOOD, "without secrets too");

    ok(apikey_key_signed(KEY, strlen(KEY), &macs), "nobody guesses it");
    ok(!apikey_key_signed(KEY, strlen(KEY), NULL), "... without secrets");
    ok(!apikey_key_signed("sk_0123456789ABCDEFGHIJKLMNOPQRSTUV0HrBjqG09a8iM",
                          strlen(KEY), &macs), "... or with kid 0");

    ok(apikey_sha256(KEY, strlen(KEY), digest), "it is hashed");

    for (i = 0; i < APIKEY_DIGEST_LEN; i++) {
        sprintf(hex + 2 * i, "%02x", digest[i]);
    }

    is_text(hex, 64,
            "9e9b5d4755a9b91c8938cb807b9d962c57dde1399bd1976dcfe39c57e80958e2",
            "its SHA-256 is the contract's");
}


static void
test_wrong(void)
{
    char           key[sizeof(KEY)];
    size_t         i, caught;
    apikey_macs_t  macs, other, over;

    test_macs(&macs, "1 0123456789abcdef0123456789abcdef\n");
    test_macs(&other, "1 fedcba9876543210fedcba9876543210\n");
    test_macs(&over, "1 0123456789abcdef0123456789abcdef "
                     "until=2026-11-21T10:15:30Z\n");

    caught = 0;

    for (i = 3; i < strlen(KEY); i++) {
        memcpy(key, KEY, sizeof(KEY));
        key[i] = key[i] == 'x' ? 'y' : 'x';
        caught += test_check(key, &macs) == APIKEY_KEY_BAD_CRC;
    }

    is_uint(caught, strlen(KEY) - 3, "every changed character is caught");

    is_uint(test_check(KEY, &other), APIKEY_KEY_BAD_MAC, "another secret");
    is_uint(test_check(KEY, &over), APIKEY_KEY_BAD_MAC,
            "a secret that is over");
    is_uint(apikey_key_check(KEY, strlen(KEY), &over, NOW - 1),
            APIKEY_KEY_GOOD, "... one microsecond before");

    other.mac[0].kid = '2';

    is_uint(test_check(KEY, &other), APIKEY_KEY_BAD_MAC, "an unknown kid");
}


static void
test_foreign(void)
{
    size_t             i;
    static const char  *const foreign[] = {
        "",
        "sk_",
        "nk_9e9b5d4755a9b91c8938cb807b9d962c57dde1399bd1976dcfe39c57e80958e2",
        "sk-0123456789ABCDEFGHIJKLMNOPQRSTUV1HrBjqG09a8iM",
        "_0123456789ABCDEFGHIJKLMNOPQRSTUV1HrBjqG09a8iM",
        "SK_0123456789ABCDEFGHIJKLMNOPQRSTUV1HrBjqG09a8iM",
        "sk_0123456789ABCDEFGHIJKLMNOPQRSTUV1HrBjqG09a8i",
        "sk_0123456789ABCDEFGHIJKLMNOPQRSTUV1HrBjqG09a8iM0",
        "sk_0123456789ABCDEFGHIJKLMNOPQRSTU-1HrBjqG09a8iM",
        "a_prefix_too_long_0123456789ABCDEFGHIJKLMNOPQRSTUV1HrBjqG09a8iM",
    };

    for (i = 0; i < sizeof(foreign) / sizeof(foreign[0]); i++) {
        ok(test_check(foreign[i], NULL) == APIKEY_KEY_FOREIGN, foreign[i]);
    }

    is_uint(apikey_key_check("sk_0123456789ABCDEFGHIJK\0MNOPQRSTUV1HrBjqG09a8"
                             "iM", strlen(KEY), NULL, NOW),
            APIKEY_KEY_FOREIGN, "a NUL inside");
}


static void
test_make(void)
{
    char           key[APIKEY_KEY_MADE_MAX], last[APIKEY_KEY_MADE_MAX];
    size_t         i, len, good, same;
    apikey_macs_t  macs;

    test_macs(&macs, "a 0123456789abcdef0123456789abcdef until=2020-01-01\n"
                     "b 0123456789abcdefghijklmnopqrstuv\n");

    good = 0;
    same = 0;
    memset(last, 0, sizeof(last));

    for (i = 0; i < 1000; i++) {
        len = apikey_key_make(key, "acme_live", 9, &macs, NOW);

        good += len == 55 && key[42] == 'b'
                && apikey_key_check(key, len, &macs, NOW) == APIKEY_KEY_GOOD;
        same += memcmp(key, last, sizeof(key)) == 0;

        memcpy(last, key, sizeof(key));
    }

    is_uint(good, 1000, "keys are signed by the first secret not over");
    is_uint(same, 0, "no key comes twice");

    len = apikey_key_make(key, "abcdefghijklmnop", 16, NULL, NOW);

    is_uint(len, APIKEY_KEY_MADE_MAX, "the longest prefix");
    ok(key[len - 13] == '0', "no secret: kid 0");
    is_uint(apikey_key_check(key, len, &macs, NOW), APIKEY_KEY_GOOD,
            "kid 0 is checked by its CRC alone");
}


static void
test_prefix(void)
{
    ok(apikey_prefix_check("sk", 2), "sk");
    ok(apikey_prefix_check("_", 1), "_");
    ok(apikey_prefix_check("abcdefghijklmnop", 16), "16 characters");
    ok(!apikey_prefix_check("abcdefghijklmnopq", 17), "17 characters");
    ok(!apikey_prefix_check("", 0), "none");
    ok(!apikey_prefix_check("sK", 2), "a capital");
    ok(!apikey_prefix_check("s-k", 3), "a hyphen");
}


/* SHA-256("last-segment:" + SHA-256("cret")) */

static void
test_last(void)
{
    char      hex[65], key[APIKEY_KEY_MADE_MAX];
    size_t    i, len;
    uint8_t   digest[32];

    ok(apikey_key_last_digest("seam_a_cret", 11, digest), "a last segment");

    for (i = 0; i < 32; i++) {
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    }

    is_text(hex, 64, "4e78695ac8f5a3470aa07a4f2acafa51"
            "b2535f3968a343981e28fe69463d8413", "its digest");

    ok(!apikey_key_last_digest("abcdefgh", 8, digest), "no segment");
    ok(!apikey_key_last_digest("abcdefg_", 8, digest), "an empty one");
    ok(!apikey_key_last_digest("", 0, digest), "nothing");

    len = apikey_key_make(key, "sk", 2, NULL, NOW);

    ok(!apikey_key_last_digest(key, len, digest), "a key made here");
}


int
main(void)
{
    test_vector();
    test_wrong();
    test_foreign();
    test_make();
    test_prefix();
    test_last();

    return unit_done();
}
