
/*
 * Any text as money: what is read is within its bounds, comes back from its
 * own text, and is the same with a zero behind its fraction.
 */


#include "base/money.h"

#include "fuzz.h"


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char      *longer, text[APIKEY_MONEY_TEXT_LEN], *end;
    uint64_t   nano, again;

    if (!apikey_money_parse(&nano, (const char *) data, size)) {
        return 0;
    }

    fuzz_must(nano <= APIKEY_MONEY_MAX);

    end = apikey_money_format(text, nano);

    fuzz_must(end <= text + sizeof(text));
    fuzz_must(apikey_money_parse(&again, text, (size_t) (end - text)));
    fuzz_must(again == nano);

    if (memchr(data, '.', size) == NULL || memchr(data, 'e', size)
        || memchr(data, 'E', size))
    {
        return 0;
    }

    longer = malloc(size + 1);

    if (longer == NULL) {
        abort();
    }

    memcpy(longer, data, size);
    longer[size] = '0';

    fuzz_must(apikey_money_parse(&again, longer, size + 1));
    fuzz_must(again == nano);

    free(longer);

    return 0;
}
