
/*
 * Any bytes as a JSON string: well-formed UTF-8, no quote that ends it early,
 * and never a byte beyond the buffer.
 *
 * Input: the size of the buffer, the text.
 */


#include "base/json.h"

#include "fuzz.h"


static void
fuzz_json_whole(const char *text, size_t len)
{
    char           *out;
    size_t          i, need;

    need = apikey_json_escape(NULL, 0, text, len);
    out = malloc(need + 1);

    if (out == NULL) {
        return;
    }

    fuzz_must(apikey_json_escape(out, need, text, len) == need);
    fuzz_must(apikey_json_check(out, need));

    for (i = 0; i < need; i++) {
        fuzz_must((unsigned char) out[i] >= 0x20 && out[i] != '"');

        if (out[i] == '\\') {
            i++;
            fuzz_must(i < need && strchr("\"\\bfnrtu", out[i]));
        }
    }

    if (apikey_json_check(text, len) && need == len) {
        fuzz_must(len == 0 || memcmp(out, text, len) == 0);
    }

    free(out);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char           *out;
    size_t          room, len;
    const char     *text;
    apikey_json_t   j;

    if (size == 0) {
        return 0;
    }

    room = data[0];
    text = (const char *) data + 1;
    len = size - 1;

    fuzz_json_whole(text, len);

    out = malloc(room + 1);

    if (out == NULL) {
        return 0;
    }

    out[room] = '#';

    apikey_json_init(&j, out, room);
    apikey_json_object(&j);
    apikey_json_name(&j, "text");
    apikey_json_string(&j, text, len);
    apikey_json_object_end(&j);

    fuzz_must(out[room] == '#');
    fuzz_must(apikey_json_len(&j) <= room);
    fuzz_must(j.overflow == (apikey_json_escape(NULL, 0, text, len)
                             + strlen("{\"text\":\"\"}") > room));

    free(out);

    return 0;
}
