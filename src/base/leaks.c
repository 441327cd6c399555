
/*
 * The checks behind leaks.h.
 */


#include <string.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include "base/jsonscan.h"
#include "base/leaks.h"


static int apikey_leaks_password(char *buf, int size, int writing,
    void *data);
static bool apikey_leaks_p256(EVP_PKEY *key);


size_t
apikey_leaks_key(const char *list, size_t len, const char *id, size_t id_len,
    char *out)
{
    bool                 found;
    size_t               n, pem;
    apikey_json_walk_t   w, keys, key;

    if (!apikey_json_walk(&w, list, len)) {
        return 0;
    }

    while (apikey_json_walk_next(&w)) {

        if (!apikey_json_walk_named(&w, "public_keys")
            || !apikey_json_walk(&keys, w.value, w.value_len))
        {
            continue;
        }

        while (apikey_json_walk_next(&keys)) {

            if (!apikey_json_walk(&key, keys.value, keys.value_len)) {
                continue;
            }

            found = false;
            pem = 0;

            while (apikey_json_walk_next(&key)) {

                if (apikey_json_walk_named(&key, "key_identifier")) {
                    n = apikey_json_decode(key.value, key.value_len, out);
                    found = (n == id_len && memcmp(out, id, n) == 0);

                } else if (apikey_json_walk_named(&key, "key")) {
                    w.value = key.value;
                    pem = key.value_len;
                }
            }

            if (found && pem) {
                n = apikey_json_decode(w.value, pem, out);
                return (n == APIKEY_JSON_NONE) ? 0 : n;
            }
        }
    }

    return 0;
}


bool
apikey_leaks_signed(const char *pem, size_t pem_len,
    const uint8_t *signature, size_t signature_len, const void *text,
    size_t len)
{
    BIO         *bio;
    bool         good;
    EVP_PKEY    *key;
    EVP_MD_CTX  *ctx;

    good = false;
    key = NULL;
    ctx = NULL;

    bio = BIO_new_mem_buf(pem, (int) pem_len);

    if (bio) {
        key = PEM_read_bio_PUBKEY(bio, NULL, apikey_leaks_password, NULL);
        ctx = EVP_MD_CTX_new();
    }

    if (key && ctx && apikey_leaks_p256(key)
        && EVP_DigestVerifyInit(ctx, NULL, EVP_sha256(), NULL, key) == 1)
    {
        good = (EVP_DigestVerify(ctx, signature, signature_len, text, len)
                == 1);
    }

    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(key);
    BIO_free(bio);

    /* nginx logs what it finds in the queue as its own */

    ERR_clear_error();

    return good;
}


/* Without this one OpenSSL asks the terminal, and waits for it. */

static int
apikey_leaks_password(char *buf, int size, int writing, void *data)
{
    (void) buf;
    (void) size;
    (void) writing;
    (void) data;

    return -1;
}


static bool
apikey_leaks_p256(EVP_PKEY *key)
{
    char    name[64];
    size_t  len;

    return EVP_PKEY_get_group_name(key, name, sizeof(name), &len) == 1
           && (strcmp(name, "prime256v1") == 0 || strcmp(name, "P-256") == 0);
}
