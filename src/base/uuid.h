
/*
 * UUIDs as 16 bytes and as text; version 7 (RFC 9562) for what is made here.
 *
 * Plain C.  Ids of one process are strictly increasing: a counter in the
 * sub-millisecond bits carries on when the clock stands or steps back.
 */


#ifndef APIKEY_UUID_H_INCLUDED
#define APIKEY_UUID_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>


#define APIKEY_UUID_LEN       16
#define APIKEY_UUID_TEXT_LEN  36


bool apikey_uuid_make(uint8_t out[APIKEY_UUID_LEN], int64_t now_us);

/* With these 62 bits where make() has random ones. */
void apikey_uuid_number(uint8_t out[APIKEY_UUID_LEN], int64_t now_us,
    uint64_t n);
void apikey_uuid_format(char *out, const uint8_t uuid[APIKEY_UUID_LEN]);
bool apikey_uuid_parse(uint8_t out[APIKEY_UUID_LEN], const char *text,
    size_t len);
int64_t apikey_uuid_time(const uint8_t uuid[APIKEY_UUID_LEN]);   /* us */


/* Of version 7: milliseconds and 12 bits of their fraction, 60 in all. */

static inline uint64_t
apikey_uuid_stamp_get(const uint8_t uuid[APIKEY_UUID_LEN])
{
    uint64_t  n;

    memcpy(&n, uuid, sizeof(n));
    n = __builtin_bswap64(n);

    return (n >> 16) << 12 | (n & 0x0fff);
}


static inline void
apikey_uuid_stamp_put(uint8_t uuid[APIKEY_UUID_LEN], uint64_t stamp)
{
    uint64_t  n;

    n = __builtin_bswap64((stamp >> 12) << 16 | 0x7000 | (stamp & 0x0fff));
    memcpy(uuid, &n, sizeof(n));
}


#endif /* APIKEY_UUID_H_INCLUDED */
