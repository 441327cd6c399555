
/*
 * One member out of any text, and out of an object that the writer made.
 *
 * Input: the name, NUL, the text.
 */


#include "base/json.h"
#include "base/jsonscan.h"

#include "fuzz.h"


static void
fuzz_scan_back(const char *text, size_t len)
{
    char           *json, *out;
    size_t          room;
    apikey_json_t   j;

    room = 6 * len + 64;
    json = malloc(2 * room);

    if (json == NULL) {
        return;
    }

    out = json + room;

    apikey_json_init(&j, json, room);
    apikey_json_object(&j);
    apikey_json_name(&j, "a");
    apikey_json_null(&j);
    apikey_json_name(&j, "text");
    apikey_json_string(&j, text, len);
    apikey_json_object_end(&j);

    fuzz_must(!j.overflow);
    fuzz_must(apikey_json_member(json, apikey_json_len(&j), "a", 1, out)
              == APIKEY_JSON_NONE);
    fuzz_must(apikey_json_member(json, apikey_json_len(&j), "text", 4, out)
              == len);
    fuzz_must(memcmp(text, out, len) == 0);

    free(json);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char        *out;
    size_t       len, n;
    const char  *name, *text;

    name = (const char *) data;
    text = size ? memchr(name, '\0', size) : NULL;

    if (text == NULL) {
        return 0;
    }

    text++;
    len = size - (size_t) (text - name);
    out = malloc(len + !len);

    if (out == NULL) {
        return 0;
    }

    n = apikey_json_member(text, len, name, (size_t) (text - 1 - name), out);

    fuzz_must(n == APIKEY_JSON_NONE || n <= len);

    free(out);

    if (len && apikey_json_check(text, len)) {
        fuzz_scan_back(text, len);
    }

    return 0;
}
