
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


#endif /* APIKEY_RECORD_FLAGS_H_INCLUDED */
