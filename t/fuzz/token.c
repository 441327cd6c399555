
/*
 * The file of operator tokens.
 */


#include "base/key.h"

#include "fuzz.h"


static bool
fuzz_token_add(void *data, const apikey_token_t *token)
{
    unsigned  *n = data;

    fuzz_must(token->name_len >= 1);
    fuzz_must(token->name_len <= sizeof(token->name));
    fuzz_must(memchr(token->name, ' ', token->name_len) == NULL);

    return ++*n < 8;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned     line, n;
    const char  *why;

    n = 0;
    why = NULL;
    line = apikey_tokens_parse((const char *) data, size, fuzz_token_add, &n,
                               &why);

    fuzz_must(line <= size);
    fuzz_must(line == 0 || why != NULL);
    fuzz_must(n < 8 || line != 0);

    return 0;
}
