
/*
 * UUIDs and times as text: what is read is written back the same.
 */


#include "base/clock.h"
#include "base/uuid.h"

#include "fuzz.h"


static void
fuzz_uuid(const char *text, size_t len)
{
    char     back[APIKEY_UUID_TEXT_LEN];
    size_t   i;
    uint8_t  uuid[APIKEY_UUID_LEN], again[APIKEY_UUID_LEN];

    if (!apikey_uuid_parse(uuid, text, len)) {
        return;
    }

    apikey_uuid_format(back, uuid);

    for (i = 0; i < len; i++) {
        fuzz_must(back[i] == text[i] || back[i] == (text[i] | 0x20));
    }

    fuzz_must(apikey_uuid_parse(again, back, sizeof(back)));
    fuzz_must(memcmp(uuid, again, sizeof(uuid)) == 0);
    fuzz_must(apikey_uuid_time(uuid) >= 0);
}


static void
fuzz_time(const char *text, size_t len)
{
    char     back[APIKEY_TIME_LEN];
    int64_t  us, again;

    if (!apikey_time_parse(&us, text, len)) {
        return;
    }

    apikey_time_format(back, us);

    fuzz_must(apikey_time_parse(&again, back, sizeof(back)));

    /* an offset may carry the first and the last day out of four digits */

    if (memcmp(back, "0000-01-01", 10) && memcmp(back, "9999-12-31", 10)) {
        fuzz_must(again <= us && us - again < 1000);
    }
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_uuid((const char *) data, size);
    fuzz_time((const char *) data, size);

    return 0;
}
