
/*
 * What those who write and who read frames agree on about a record.
 */


#ifndef APIKEY_RECORD_FLAGS_H_INCLUDED
#define APIKEY_RECORD_FLAGS_H_INCLUDED


#include <stdint.h>


#define APIKEY_FLAG_ID       0x01    /* a version 7 id: its stamp is a delta */
#define APIKEY_FLAG_RAW_ID   0x02
#define APIKEY_FLAG_TOKENS   0x04
#define APIKEY_FLAG_COST     0x08
#define APIKEY_FLAG_SESSION  0x10
#define APIKEY_FLAG_COUNT    0x20
#define APIKEY_FLAG_REMAIN   0x40
#define APIKEY_FLAG_PRICE    0x80


/* Milliseconds and 12 bits of their fraction, as base/uuid.h has them. */

static inline uint64_t
apikey_record_stamp(int64_t us)
{
    uint64_t  n;

    n = us > 0 ? (uint64_t) us : 0;

    return (n / 1000) << 12 | (n % 1000) * 4096 / 1000;
}


static inline uint64_t
apikey_record_id_stamp(const uint8_t id[16])
{
    unsigned  i;
    uint64_t  n;

    n = 0;

    for (i = 0; i < 6; i++) {
        n = n << 8 | id[i];
    }

    return n << 12 | (uint64_t) (id[6] & 0x0f) << 8 | id[7];
}


static inline void
apikey_record_id_put(uint8_t id[16], uint64_t stamp)
{
    unsigned  i;

    for (i = 0; i < 6; i++) {
        id[i] = (uint8_t) (stamp >> (52 - 8 * i));
    }

    id[6] = (uint8_t) (0x70 | (stamp >> 8 & 0x0f));
    id[7] = (uint8_t) stamp;
}


#endif /* APIKEY_RECORD_FLAGS_H_INCLUDED */
