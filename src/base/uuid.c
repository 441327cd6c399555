
/*
 * UUIDs: version 7 with the microseconds as far as they go.
 *
 * 48 bits of milliseconds, 12 bits of their fraction (RFC 9562, method 3),
 * 62 random bits.  The last stamp of the process is the only state.
 */


#include <string.h>

#include "base/digest.h"
#include "base/number.h"
#include "base/uuid.h"


static void apikey_uuid_stamp(uint8_t out[APIKEY_UUID_LEN], int64_t now_us);
static int apikey_uuid_hex(char c);


bool
apikey_uuid_make(uint8_t out[APIKEY_UUID_LEN], int64_t now_us)
{
    if (!apikey_random(out + 8, 8)) {
        return false;
    }

    apikey_uuid_stamp(out, now_us);

    return true;
}


void
apikey_uuid_number(uint8_t out[APIKEY_UUID_LEN], int64_t now_us, uint64_t n)
{
    n = __builtin_bswap64(n);
    memcpy(out + 8, &n, sizeof(n));

    apikey_uuid_stamp(out, now_us);
}


static void
apikey_uuid_stamp(uint8_t out[APIKEY_UUID_LEN], int64_t now_us)
{
    uint64_t         now, stamp;
    static uint64_t  last;

    now = now_us > 0 ? (uint64_t) now_us : 0;
    stamp = (now / 1000) << 12 | (now % 1000) * 4096 / 1000;

    if (stamp <= last) {
        stamp = last + 1;
    }

    last = stamp;

    apikey_uuid_stamp_put(out, stamp);

    out[8] = 0x80 | (out[8] & 0x3f);
}


void
apikey_uuid_format(char *out, const uint8_t uuid[APIKEY_UUID_LEN])
{
    char  hex[2 * APIKEY_UUID_LEN];

    (void) apikey_hex_format(hex, uuid, APIKEY_UUID_LEN);

    memcpy(out, hex, 8);
    out[8] = '-';
    memcpy(out + 9, hex + 8, 4);
    out[13] = '-';
    memcpy(out + 14, hex + 12, 4);
    out[18] = '-';
    memcpy(out + 19, hex + 16, 4);
    out[23] = '-';
    memcpy(out + 24, hex + 20, 12);
}


bool
apikey_uuid_parse(uint8_t out[APIKEY_UUID_LEN], const char *text, size_t len)
{
    int     i, high, low;
    size_t  at;

    if (len != APIKEY_UUID_TEXT_LEN) {
        return false;
    }

    at = 0;

    for (i = 0; i < APIKEY_UUID_LEN; i++) {
        if ((i == 4 || i == 6 || i == 8 || i == 10) && text[at++] != '-') {
            return false;
        }

        high = apikey_uuid_hex(text[at++]);
        low = apikey_uuid_hex(text[at++]);

        if (high < 0 || low < 0) {
            return false;
        }

        out[i] = (uint8_t) (high << 4 | low);
    }

    return true;
}


int64_t
apikey_uuid_time(const uint8_t uuid[APIKEY_UUID_LEN])
{
    int      i;
    int64_t  ms, part;

    ms = 0;

    for (i = 0; i < 6; i++) {
        ms = ms << 8 | uuid[i];
    }

    part = (uuid[6] & 0x0f) << 8 | uuid[7];

    /* rounded up: make() cut it */

    return ms * 1000 + (part * 1000 + 4095) / 4096;
}


static int
apikey_uuid_hex(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }

    c |= 0x20;

    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}
