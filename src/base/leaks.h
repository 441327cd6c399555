
/*
 * Reports of leaked keys in the form of GitHub's secret scanning: whose key
 * signed one, and whether it did.
 *
 * Plain C; OpenSSL's objects live no longer than a call.
 */


#ifndef APIKEY_LEAKS_H_INCLUDED
#define APIKEY_LEAKS_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>


/*
 * The PEM of the key that is called id, out of GitHub's list:
 *
 *     {"public_keys": [{"key_identifier": "...", "key": "-----BEGIN ..."}]}
 *
 * out has room for len bytes.  Its length; 0: there is none.
 */
size_t apikey_leaks_key(const char *list, size_t len, const char *id,
    size_t id_len, char *out);

/* An ECDSA signature (DER) on P-256 of the SHA-256 of text. */
bool apikey_leaks_signed(const char *pem, size_t pem_len,
    const uint8_t *signature, size_t signature_len, const void *text,
    size_t len);


#endif /* APIKEY_LEAKS_H_INCLUDED */
