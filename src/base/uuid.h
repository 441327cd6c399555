
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


#endif /* APIKEY_UUID_H_INCLUDED */
