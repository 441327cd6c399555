
/*
 * UUIDs: form, order, time.
 */


#include <stdlib.h>

#include "base/uuid.h"

#include "unit.h"


#define NOW   INT64_C(1795256130123456)
#define MANY  20000


static void
test_make(void)
{
    int64_t  now;
    uint8_t  last[APIKEY_UUID_LEN], uuid[APIKEY_UUID_LEN];
    unsigned i, rising, form, near;

    memset(last, 0, sizeof(last));

    rising = 0;
    form = 0;
    near = 0;

    /* the clock stands, goes, steps back an hour, and comes back */

    for (i = 0; i < MANY; i++) {
        now = i < MANY / 4 ? NOW
              : i < MANY / 2 ? NOW + i
              : i < MANY / 4 * 3 ? NOW - 3600000000 : NOW + 10000000;

        if (!apikey_uuid_make(uuid, now)) {
            break;
        }

        rising += memcmp(last, uuid, sizeof(uuid)) < 0;
        form += (uuid[6] >> 4) == 7 && (uuid[8] >> 6) == 2;
        near += apikey_uuid_time(uuid) - NOW >= 0
                && apikey_uuid_time(uuid) - NOW <= 10000000 + MANY;

        memcpy(last, uuid, sizeof(uuid));
    }

    is_uint(rising, MANY, "each is greater than the one before");
    is_uint(form, MANY, "version 7, variant 2");
    is_uint(near, MANY, "their time is the clock's");
}


static void
test_time(void)
{
    int      i;
    uint8_t  uuid[APIKEY_UUID_LEN];
    bool     good;

    good = true;

    for (i = 1; i <= 2000; i++) {
        good = good && apikey_uuid_make(uuid, NOW + 20000000 + i)
               && apikey_uuid_time(uuid) == NOW + 20000000 + i;
    }

    ok(good, "time comes back to the microsecond");
}


static void
test_text(void)
{
    char           text[APIKEY_UUID_TEXT_LEN];
    size_t         i;
    uint8_t        uuid[APIKEY_UUID_LEN];
    static const char  good[] = "01a1fd9a-9a4b-7a52-9d3b-5a0c4e1f2b60";

    static const char *const  wrong[] = {
        "",
        "01a1fd9a9a4b7a529d3b5a0c4e1f2b60",
        "01a1fd9a-9a4b-7a52-9d3b-5a0c4e1f2b6",
        "01a1fd9a-9a4b-7a52-9d3b-5a0c4e1f2b600",
        "01a1fd9a-9a4b-7a52-9d3b_5a0c4e1f2b60",
        "01a1fd9a-9a4b-7a52-9d3b-5a0c4e1f2b6g",
        "01a1fd9-a9a4b-7a52-9d3b-5a0c4e1f2b60",
        "01a1fd9a-9a4b-7a52-9d3b-5a0c4e1f2b\0200",
    };

    ok(apikey_uuid_parse(uuid, good, strlen(good)), good);
    apikey_uuid_format(text, uuid);
    is_text(text, sizeof(text), good, "there and back");

    ok(apikey_uuid_parse(uuid, "01A1FD9A-9A4B-7A52-9D3B-5A0C4E1F2B60", 36),
       "capitals are read");
    apikey_uuid_format(text, uuid);
    is_text(text, sizeof(text), good, "... and not written");

    for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        ok(!apikey_uuid_parse(uuid, wrong[i], strlen(wrong[i])),
           "not a UUID");
    }
}


static void
test_number(void)
{
    uint8_t  one[APIKEY_UUID_LEN], two[APIKEY_UUID_LEN];

    apikey_uuid_number(one, NOW + 30000000, UINT64_C(0x3edcba9876543210));
    apikey_uuid_number(two, NOW + 30000000, 0);

    ok(memcmp(one + 8, "\xbe\xdc\xba\x98\x76\x54\x32\x10", 8) == 0
       && memcmp(two + 8, "\x80\0\0\0\0\0\0\0", 8) == 0,
       "the number stands where others have random bits");
    ok((one[6] & 0xf0) == 0x70 && (two[6] & 0xf0) == 0x70, "version 7");
    ok(memcmp(one, two, 8) < 0, "in order, in one microsecond too");
}


int
main(void)
{
    test_make();
    test_time();
    test_text();
    test_number();

    return unit_done();
}
