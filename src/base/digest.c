
/*
 * SHA-256, HMAC-SHA-256 and random bytes of OpenSSL 3.
 *
 * SHA-256 is called as it is: each request has one, and through EVP it takes
 * twice as long, half of that in malloc().  The MAC is fetched and its context
 * made once a process; whoever calls first makes them, and free() is the end
 * of them.  Not thread safe.
 */


#define OPENSSL_SUPPRESS_DEPRECATED


#include <pthread.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include "base/digest.h"


#define APIKEY_RANDOM_BLOCK  4096


static void apikey_random_forget(void);


static bool          apikey_digest_ready;
static EVP_MAC      *apikey_digest_hmac;
static EVP_MAC_CTX  *apikey_digest_hmac_ctx;

static uint8_t       apikey_random_block[APIKEY_RANDOM_BLOCK];
static size_t        apikey_random_left;


bool
apikey_digest_init(void)
{
    static bool  watched;

    if (apikey_digest_ready) {
        return true;
    }

    /* two processes must never draw from one block */

    if (!watched) {
        if (pthread_atfork(NULL, NULL, apikey_random_forget) != 0) {
            return false;
        }

        watched = true;
    }

    if (apikey_digest_hmac == NULL) {
        apikey_digest_hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    }

    if (apikey_digest_hmac == NULL) {
        return false;
    }

    if (apikey_digest_hmac_ctx == NULL) {
        apikey_digest_hmac_ctx = EVP_MAC_CTX_new(apikey_digest_hmac);
    }

    apikey_digest_ready = (apikey_digest_hmac_ctx != NULL);

    return apikey_digest_ready;
}


void
apikey_digest_free(void)
{
    EVP_MAC_CTX_free(apikey_digest_hmac_ctx);
    EVP_MAC_free(apikey_digest_hmac);

    apikey_digest_hmac_ctx = NULL;
    apikey_digest_hmac = NULL;
    apikey_digest_ready = false;

    apikey_random_forget();
}


bool
apikey_sha256(const void *data, size_t len, uint8_t out[APIKEY_DIGEST_LEN])
{
    SHA256_CTX  ctx;

    return SHA256_Init(&ctx) == 1
           && SHA256_Update(&ctx, data, len) == 1
           && SHA256_Final(out, &ctx) == 1;
}


bool
apikey_hmac_sha256(const void *secret, size_t secret_len, const void *data,
    size_t len, uint8_t out[APIKEY_DIGEST_LEN])
{
    char        name[] = "SHA256";
    size_t      n;
    OSSL_PARAM  params[2];

    if (!apikey_digest_init()) {
        return false;
    }

    params[0] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, name,
                                                 0);
    params[1] = OSSL_PARAM_construct_end();

    return EVP_MAC_init(apikey_digest_hmac_ctx, secret, secret_len, params)
           == 1
           && EVP_MAC_update(apikey_digest_hmac_ctx, data, len) == 1
           && EVP_MAC_final(apikey_digest_hmac_ctx, out, &n,
                            APIKEY_DIGEST_LEN) == 1
           && n == APIKEY_DIGEST_LEN;
}


bool
apikey_random(void *out, size_t len)
{
    uint8_t  *next;

    if (!apikey_digest_init()) {
        return false;
    }

    if (len > APIKEY_RANDOM_BLOCK / 2) {
        return len <= INT32_MAX && RAND_bytes(out, (int) len) == 1;
    }

    if (len > apikey_random_left) {
        apikey_random_left = 0;

        if (RAND_bytes(apikey_random_block, APIKEY_RANDOM_BLOCK) != 1) {
            return false;
        }

        apikey_random_left = APIKEY_RANDOM_BLOCK;
    }

    next = apikey_random_block + APIKEY_RANDOM_BLOCK - apikey_random_left;

    /* the block is read again: no compiler may leave this memset() out */

    memcpy(out, next, len);
    memset(next, 0, len);

    apikey_random_left -= len;

    return true;
}


static void
apikey_random_forget(void)
{
    OPENSSL_cleanse(apikey_random_block, APIKEY_RANDOM_BLOCK);
    apikey_random_left = 0;
}
