
/*
 * A presented key, and the file of MAC secrets it is checked with.
 *
 * Input: a file of secrets, NUL, a key.
 */


#include "base/key.h"

#include "fuzz.h"


static void
fuzz_key_macs(apikey_macs_t *macs, const char *text, size_t len)
{
    unsigned     i, line;
    const char  *why;

    why = NULL;
    line = apikey_macs_parse(macs, text, len, &why);

    fuzz_must((line == 0) == (why == NULL));
    fuzz_must(macs->n <= APIKEY_MACS_MAX);

    for (i = 0; i < macs->n; i++) {
        fuzz_must(macs->mac[i].kid != '0');
        fuzz_must(macs->mac[i].len >= 16);
        fuzz_must(macs->mac[i].len <= sizeof(macs->mac[i].secret));
    }
}


static void
fuzz_key_make(const char *prefix, size_t len, const apikey_macs_t *macs)
{
    char  key[APIKEY_KEY_MADE_MAX];

    if (!apikey_prefix_check(prefix, len)) {
        return;
    }

    len = apikey_key_make(key, prefix, len, macs, 0);

    fuzz_must(len > APIKEY_KEY_TAIL);
    fuzz_must(apikey_key_check(key, len, macs, 0) == APIKEY_KEY_GOOD);
    fuzz_must(apikey_key_check(key, len, NULL, 0) == APIKEY_KEY_GOOD);

    key[len - 1] = key[len - 1] == 'x' ? 'y' : 'x';

    fuzz_must(apikey_key_check(key, len, macs, 0) == APIKEY_KEY_BAD_CRC);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t          len;
    const char     *text, *key;
    apikey_key_e    crc, mac;
    apikey_macs_t   macs;

    text = (const char *) data;
    key = size ? memchr(text, '\0', size) : NULL;

    len = key ? (size_t) (key - text) : size;
    fuzz_key_macs(&macs, text, len);

    key = key ? key + 1 : text;
    len = size - (size_t) (key - text);

    crc = apikey_key_check(key, len, NULL, 0);
    mac = apikey_key_check(key, len, &macs, 0);

    fuzz_must(crc != APIKEY_KEY_BAD_MAC);
    fuzz_must(crc == mac || (crc == APIKEY_KEY_GOOD
                             && mac == APIKEY_KEY_BAD_MAC && macs.n));

    fuzz_key_make(key, len, &macs);

    return 0;
}
