
/*
 * The form of keys made here:
 *
 *     <prefix>_<32 body><kid><6 MAC><6 CRC>
 *
 * base62 0-9A-Za-z; CRC-32 (IEEE) of all before it; MAC the top 35 bits of
 * HMAC-SHA-256(secret, "v1|prefix|body"), kid '0' = six random characters.
 * The contract's section 4 holds the vector that t/unit/key.c checks.
 *
 * Plain C, no allocation; secrets belong to the caller.
 */


#ifndef APIKEY_KEY_H_INCLUDED
#define APIKEY_KEY_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>


#define APIKEY_KEY_MIN         8     /* bytes a presented key may have */
#define APIKEY_KEY_MAX         512
#define APIKEY_KEY_TAIL        45    /* behind the last '_' */
#define APIKEY_KEY_PREFIX_MAX  16
#define APIKEY_KEY_MADE_MAX    (APIKEY_KEY_PREFIX_MAX + 1 + APIKEY_KEY_TAIL)
#define APIKEY_MACS_MAX        16


typedef struct {
    char      kid;                   /* base62, not '0' */
    uint8_t   secret[128];
    size_t    len;
    int64_t   until;                 /* us since the epoch; INT64_MAX none */
} apikey_mac_t;


typedef struct {
    apikey_mac_t  mac[APIKEY_MACS_MAX];
    unsigned      n;                 /* the first one signs */
} apikey_macs_t;


typedef enum {
    APIKEY_KEY_GOOD = 0,             /* our form, CRC and MAC are right */
    APIKEY_KEY_FOREIGN,              /* not our form: may be an import */
    APIKEY_KEY_BAD_CRC,
    APIKEY_KEY_BAD_MAC               /* wrong, or its kid is unknown or over */
} apikey_key_e;


/* 1-16 of [a-z0-9_]. */
bool apikey_prefix_check(const char *prefix, size_t len);

/* Offline: no look-up.  kid '0', or no secrets configured: CRC only. */
apikey_key_e apikey_key_check(const char *key, size_t len,
    const apikey_macs_t *macs, int64_t now);

/* Of one that is GOOD: a MAC was checked, so that nobody can have guessed. */
bool apikey_key_signed(const char *key, size_t len,
    const apikey_macs_t *macs);

/*
 * Writes a new key (not NUL-terminated, at most APIKEY_KEY_MADE_MAX) and
 * returns its length; 0: no randomness.  macs may be NULL or empty: kid '0'.
 */
size_t apikey_key_make(char *out, const char *prefix, size_t prefix_len,
    const apikey_macs_t *macs, int64_t now);

/*
 * A key that was imported with the hash of what stands behind its last '_' is
 * known by the SHA-256 of "last-segment:" and that hash, so that no other key
 * is taken for it, nor that part alone.  False: the key has no such part, or
 * is of our own form.
 */
bool apikey_key_last_digest(const char *key, size_t len, uint8_t digest[32]);

/*
 * The file of apikey_mac_secret: lines "KID SECRET [until=TIME]", '#'
 * comments.  0, or the number of the first wrong line with *why set.
 */
unsigned apikey_macs_parse(apikey_macs_t *macs, const char *text, size_t len,
    const char **why);


/*
 * The file of apikey_admin_token: lines "SHA256HEX NAME [role=admin|read]
 * [until=TIME]".
 */

typedef struct {
    uint8_t   digest[32];
    int64_t   until;                 /* INT64_MAX none */
    bool      read_only;
    uint8_t   name_len;
    char      name[64];
} apikey_token_t;

/*
 * Calls add for each line.  0, or the number of the first wrong line with
 * *why set ("out of memory" when add returned false).
 */
unsigned apikey_tokens_parse(const char *text, size_t len,
    bool (*add)(void *data, const apikey_token_t *token), void *data,
    const char **why);


#endif /* APIKEY_KEY_H_INCLUDED */
