
/*
 * Reports of leaked keys: the key out of GitHub's list, and signatures.
 */


#include <unistd.h>

#include <openssl/evp.h>
#include <openssl/pem.h>

#include "base/leaks.h"

#include "unit.h"


typedef struct {
    char     pem[512];
    size_t   len;
    uint8_t  signature[128];
    size_t   signed_len;
} test_signed_t;


/* Makes a key on a curve, and signs text with it. */

static bool
test_sign(test_signed_t *s, const char *curve, const char *text)
{
    BIO         *bio;
    bool         good;
    char        *data;
    EVP_PKEY    *key;
    EVP_MD_CTX  *ctx;

    key = EVP_EC_gen(curve);
    ctx = EVP_MD_CTX_new();
    bio = BIO_new(BIO_s_mem());

    good = key && ctx && bio && PEM_write_bio_PUBKEY(bio, key) == 1;

    if (good) {
        s->len = (size_t) BIO_get_mem_data(bio, &data);
        memcpy(s->pem, data, s->len);

        s->signed_len = sizeof(s->signature);

        good = EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) == 1
               && EVP_DigestSign(ctx, s->signature, &s->signed_len,
                                 (const uint8_t *) text, strlen(text)) == 1;
    }

    BIO_free(bio);
    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(key);

    return good;
}


static bool
test_check(test_signed_t *s, const char *text)
{
    return apikey_leaks_signed(s->pem, s->len, s->signature, s->signed_len,
                               text, strlen(text));
}


/* PEM may say that it is encrypted, whatever it holds. */

static void
test_password(void)
{
    int          in, pipes[2];
    char         left[16];
    const char  *pem;

    pem = "-----BEGIN PUBLIC KEY-----\n"
          "Proc-Type: 4,ENCRYPTED\n"
          "DEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF\n\n"
          "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE9MJJHnMfn2+H4xL4YaPDA4Rp\n"
          "-----END PUBLIC KEY-----\n";

    in = dup(0);

    if (in == -1 || pipe(pipes) == -1 || dup2(pipes[0], 0) == -1
        || write(pipes[1], "password\n", 9) != 9)
    {
        ok(false, "a pipe for stdin");
        return;
    }

    ok(!apikey_leaks_signed(pem, strlen(pem), (const uint8_t *) "x", 1, "y",
                            1), "an encrypted key");
    (void) close(pipes[1]);

    is_uint((uint64_t) read(0, left, sizeof(left)), 9,
            "nobody is asked for its password");

    (void) dup2(in, 0);
    (void) close(in);
    (void) close(pipes[0]);
}


static void
test_signature(void)
{
    test_signed_t  s, other;

    ok(test_sign(&s, "P-256", "[1]"), "signed");
    ok(test_check(&s, "[1]"), "the signature is right");
    ok(!test_check(&s, "[2]"), "not of another text");
    ok(!test_check(&s, ""), "not of none");

    s.signature[10] ^= 1;
    ok(!test_check(&s, "[1]"), "not when a bit is wrong");
    s.signature[10] ^= 1;

    ok(test_sign(&other, "P-256", "[1]"), "signed by another");
    ok(!apikey_leaks_signed(s.pem, s.len, other.signature, other.signed_len,
                            "[1]", 3), "is not ours");
    ok(!apikey_leaks_signed(s.pem, s.len, s.signature, 0, "[1]", 3),
       "no signature");
    ok(!apikey_leaks_signed("x", 1, s.signature, s.signed_len, "[1]", 3),
       "no key");

    ok(test_sign(&s, "P-384", "[1]"), "signed on another curve");
    ok(!test_check(&s, "[1]"), "is not taken");
}


static void
test_list(void)
{
    char         out[512];
    size_t       i, n;
    const char  *list;

    static const struct {
        const char  *id;
        const char  *want;
    } tests[] = {
        { "one", "a\nb" }, { "two", "c" }, { "three", "" }, { "on", "" },
        { "", "" },
    };

    list = "{\"x\":[1],\"public_keys\":[5,{\"key\":\"a\\nb\","
           "\"key_identifier\":\"one\",\"is_current\":true},"
           "{\"key_identifier\":\"two\",\"key\":\"c\"},"
           "{\"key_identifier\":\"three\"}]}";

    for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        n = apikey_leaks_key(list, strlen(list), tests[i].id,
                             strlen(tests[i].id), out);
        is_text(out, n, tests[i].want, "a key of the list");
    }

    is_uint(apikey_leaks_key("", 0, "one", 3, out), 0, "no list");
    is_uint(apikey_leaks_key("[]", 2, "one", 3, out), 0, "another list");
}


int
main(void)
{
    test_password();
    test_signature();
    test_list();

    return unit_done();
}
