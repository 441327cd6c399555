
/*
 * SHA-256 and HMAC-SHA-256 on OpenSSL 3 with the algorithm fetched once and
 * the context reused (177 ns a key instead of 455-680).
 *
 * Plain C.  One context a process: init() after fork, not thread safe.
 */


#ifndef APIKEY_DIGEST_H_INCLUDED
#define APIKEY_DIGEST_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>


#define APIKEY_DIGEST_LEN  32


/* May be called again; false: OpenSSL has no SHA-256. */
bool apikey_digest_init(void);

/* For a process that ends or unloads this code; init() makes it anew. */
void apikey_digest_free(void);

bool apikey_sha256(const void *data, size_t len,
    uint8_t out[APIKEY_DIGEST_LEN]);

bool apikey_hmac_sha256(const void *secret, size_t secret_len,
    const void *data, size_t len, uint8_t out[APIKEY_DIGEST_LEN]);

/* In a time that depends on neither. */

static inline bool
apikey_digest_equal(const uint8_t a[APIKEY_DIGEST_LEN],
    const uint8_t b[APIKEY_DIGEST_LEN])
{
    uint64_t  x[4], y[4];

    memcpy(x, a, APIKEY_DIGEST_LEN);
    memcpy(y, b, APIKEY_DIGEST_LEN);

    return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]))
           == 0;
}


/* Random bytes of the CSPRNG, drawn in blocks: no syscall a call. */
bool apikey_random(void *out, size_t len);


#endif /* APIKEY_DIGEST_H_INCLUDED */
