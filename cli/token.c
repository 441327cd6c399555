
/*
 * apikeyctl token new: an operator's token in the form of our keys.
 *
 * The line is read back by the parser that nginx uses, so that what this
 * prints is what nginx takes.
 */


#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/digest.h"
#include "base/key.h"

#include "ctl.h"


static bool apikey_ctl_token_taken(void *data, const apikey_token_t *token);


int
apikey_ctl_token_new(const apikey_ctl_args_t *args)
{
    int          len;
    char         key[APIKEY_KEY_MADE_MAX], line[256];
    size_t       i, key_len;
    uint8_t      digest[APIKEY_DIGEST_LEN];
    unsigned     taken;
    const char  *role, *why;

    key_len = apikey_key_make(key, "op", 2, NULL, apikey_clock_real());

    if (key_len == 0 || !apikey_sha256(key, key_len, digest)) {
        apikey_ctl_error("OpenSSL has no random bytes or no SHA-256");
        return APIKEY_CTL_FAILED;
    }

    for (i = 0; i < APIKEY_DIGEST_LEN; i++) {
        sprintf(line + 2 * i, "%02x", digest[i]);
    }

    role = args->role ? args->role : "admin";

    len = snprintf(line + 64, sizeof(line) - 64, " %s role=%s",
                   args->operand[0], role);

    taken = 0;
    why = "NAME or role is too long";

    if (len >= (int) sizeof(line) - 64
        || apikey_tokens_parse(line, 64 + (size_t) len,
                               apikey_ctl_token_taken, &taken, &why) != 0)
    {
        apikey_ctl_error("token new: %s", why);
        return APIKEY_CTL_USAGE;
    }

    /* "#" ends a line early, and a line break makes it two */

    if (taken != 1 || strpbrk(args->operand[0], " \t\r\n#")
        || strpbrk(role, " \t\r\n#"))
    {
        apikey_ctl_error("token new: NAME and role are one word each, "
                         "without \"#\"");
        return APIKEY_CTL_USAGE;
    }

    fputs("The first line is for the file of apikey_admin_token; the second "
          "is the token,\nshown this once.\n", stderr);

    if (printf("%s\n%.*s\n", line, (int) key_len, key) < 0
        || fflush(stdout) != 0)
    {
        apikey_ctl_error("cannot write the token");
        return APIKEY_CTL_FAILED;
    }

    return APIKEY_CTL_OK;
}


static bool
apikey_ctl_token_taken(void *data, const apikey_token_t *token)
{
    unsigned  *taken = data;

    (void) token;

    (*taken)++;

    return true;
}
