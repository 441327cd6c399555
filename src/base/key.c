
/*
 * The form of keys: making them, and checking what is presented.
 *
 * No memory of its own; a MAC is compared in constant time, the CRC is no
 * secret.
 */


#include <string.h>

#include <openssl/crypto.h>

#include "base/crc.h"
#include "base/digest.h"
#include "base/key.h"


#define APIKEY_KEY_BODY  32
#define APIKEY_KEY_CODE  6       /* base62 digits of the MAC, of the CRC */


static bool apikey_key_mac(char *out, const apikey_mac_t *mac,
    const char *prefix, size_t prefix_len, const char *body);
static bool apikey_key_random(char *out, size_t len);
static void apikey_key_code(char *out, uint64_t n);
static bool apikey_key_digits(const char *text, size_t len);


static const char  apikey_base62[] =
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";


bool
apikey_prefix_check(const char *prefix, size_t len)
{
    size_t  i;

    for (i = 0; i < len; i++) {
        if (!(prefix[i] >= 'a' && prefix[i] <= 'z')
            && !(prefix[i] >= '0' && prefix[i] <= '9')
            && prefix[i] != '_')
        {
            return false;
        }
    }

    return len >= 1 && len <= APIKEY_KEY_PREFIX_MAX;
}


apikey_key_e
apikey_key_check(const char *key, size_t len, const apikey_macs_t *macs,
    int64_t now)
{
    char         code[APIKEY_KEY_CODE], kid;
    size_t       prefix;
    unsigned     i;
    const char  *body;

    if (len < 1 + 1 + APIKEY_KEY_TAIL || len > APIKEY_KEY_MADE_MAX) {
        return APIKEY_KEY_FOREIGN;
    }

    prefix = len - APIKEY_KEY_TAIL - 1;
    body = key + prefix + 1;

    if (key[prefix] != '_'
        || !apikey_prefix_check(key, prefix)
        || !apikey_key_digits(body, APIKEY_KEY_TAIL))
    {
        return APIKEY_KEY_FOREIGN;
    }

    len -= APIKEY_KEY_CODE;

    apikey_key_code(code, apikey_crc32(0, key, len));

    if (memcmp(code, key + len, APIKEY_KEY_CODE) != 0) {
        return APIKEY_KEY_BAD_CRC;
    }

    kid = body[APIKEY_KEY_BODY];

    if (kid == '0' || macs == NULL || macs->n == 0) {
        return APIKEY_KEY_GOOD;
    }

    for (i = 0; i < macs->n; i++) {
        if (macs->mac[i].kid == kid && macs->mac[i].until > now) {
            break;
        }
    }

    if (i == macs->n) {
        return APIKEY_KEY_BAD_MAC;
    }

    /* the look-up decides about a key whose MAC cannot be computed */

    if (!apikey_key_mac(code, &macs->mac[i], key, prefix, body)) {
        return APIKEY_KEY_GOOD;
    }

    if (CRYPTO_memcmp(code, key + len - APIKEY_KEY_CODE, APIKEY_KEY_CODE)) {
        return APIKEY_KEY_BAD_MAC;
    }

    return APIKEY_KEY_GOOD;
}


bool
apikey_key_signed(const char *key, size_t len, const apikey_macs_t *macs)
{
    return macs && macs->n
           && key[len - APIKEY_KEY_TAIL + APIKEY_KEY_BODY] != '0';
}


bool
apikey_key_last_digest(const char *key, size_t len, uint8_t digest[32])
{
    char    text[sizeof("last-segment:") - 1 + APIKEY_DIGEST_LEN];
    size_t  start;

    for (start = len; start; start--) {
        if (key[start - 1] == '_') {
            break;
        }
    }

    if (start == 0 || start == len
        || apikey_key_check(key, len, NULL, 0) == APIKEY_KEY_GOOD)
    {
        return false;
    }

    memcpy(text, "last-segment:", sizeof("last-segment:") - 1);

    return apikey_sha256(key + start, len - start,
                         (uint8_t *) text + sizeof("last-segment:") - 1)
           && apikey_sha256(text, sizeof(text), digest);
}


size_t
apikey_key_make(char *out, const char *prefix, size_t prefix_len,
    const apikey_macs_t *macs, int64_t now)
{
    char      *body, *pos;
    bool       done;
    unsigned   i, n;

    memcpy(out, prefix, prefix_len);
    out[prefix_len] = '_';

    body = out + prefix_len + 1;
    pos = body + APIKEY_KEY_BODY;

    if (!apikey_key_random(body, APIKEY_KEY_BODY)) {
        return 0;
    }

    n = macs ? macs->n : 0;

    for (i = 0; i < n && macs->mac[i].until <= now; i++) { /* void */ }

    if (i < n) {
        *pos++ = macs->mac[i].kid;
        done = apikey_key_mac(pos, &macs->mac[i], prefix, prefix_len, body);

    } else {
        *pos++ = '0';
        done = apikey_key_random(pos, APIKEY_KEY_CODE);
    }

    if (!done) {
        return 0;
    }

    pos += APIKEY_KEY_CODE;

    apikey_key_code(pos, apikey_crc32(0, out, (size_t) (pos - out)));

    pos += APIKEY_KEY_CODE;

    return (size_t) (pos - out);
}


static bool
apikey_key_mac(char *out, const apikey_mac_t *mac, const char *prefix,
    size_t prefix_len, const char *body)
{
    char     text[3 + APIKEY_KEY_PREFIX_MAX + 1 + APIKEY_KEY_BODY], *pos;
    uint8_t  digest[APIKEY_DIGEST_LEN];

    pos = text;

    memcpy(pos, "v1|", 3);
    pos += 3;

    memcpy(pos, prefix, prefix_len);
    pos += prefix_len;

    *pos++ = '|';

    memcpy(pos, body, APIKEY_KEY_BODY);
    pos += APIKEY_KEY_BODY;

    if (!apikey_hmac_sha256(mac->secret, mac->len, text,
                            (size_t) (pos - text), digest))
    {
        return false;
    }

    /* the top 35 bits */

    apikey_key_code(out, (uint64_t) digest[0] << 27
                         | (uint64_t) digest[1] << 19
                         | (uint64_t) digest[2] << 11
                         | (uint64_t) digest[3] << 3
                         | (uint64_t) digest[4] >> 5);

    return true;
}


/* Bytes from 248 on are thrown away: below, each digit is equally likely. */

static bool
apikey_key_random(char *out, size_t len)
{
    size_t   i;
    uint8_t  bytes[APIKEY_KEY_BODY];

    while (len) {
        if (!apikey_random(bytes, len)) {
            return false;
        }

        for (i = len; i-- > 0; ) {
            if (bytes[i] < 248) {
                *out++ = apikey_base62[bytes[i] % 62];
                len--;
            }
        }
    }

    OPENSSL_cleanse(bytes, sizeof(bytes));

    return true;
}


static void
apikey_key_code(char *out, uint64_t n)
{
    int  i;

    for (i = APIKEY_KEY_CODE - 1; i >= 0; i--) {
        out[i] = apikey_base62[n % 62];
        n /= 62;
    }
}


static bool
apikey_key_digits(const char *text, size_t len)
{
    for ( /* void */ ; len; len--, text++) {
        if (!(*text >= '0' && *text <= '9')
            && !(*text >= 'A' && *text <= 'Z')
            && !(*text >= 'a' && *text <= 'z'))
        {
            return false;
        }
    }

    return true;
}
