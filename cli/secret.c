
/*
 * apikeyctl secret new: a line for the file of apikey_mac_secret.
 *
 * The line is read back by the parser that nginx uses.
 */


#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/digest.h"
#include "base/key.h"

#include "ctl.h"


#define APIKEY_CTL_SECRET_BYTES  32


int
apikey_ctl_secret_new(const apikey_ctl_args_t *args)
{
    char            line[2 * APIKEY_CTL_SECRET_BYTES + sizeof("K ")];
    size_t          i;
    uint8_t         secret[APIKEY_CTL_SECRET_BYTES];
    const char     *kid, *why;
    apikey_macs_t   macs;

    kid = args->n ? args->operand[0] : "1";

    if (!apikey_random(secret, sizeof(secret))) {
        apikey_ctl_error("OpenSSL has no random bytes");
        return APIKEY_CTL_FAILED;
    }

    (void) snprintf(line, sizeof(line), "%c ", kid[0]);

    for (i = 0; i < sizeof(secret); i++) {
        sprintf(line + 2 + 2 * i, "%02x", secret[i]);
    }

    if (strlen(kid) != 1
        || apikey_macs_parse(&macs, line, strlen(line), &why) != 0
        || macs.n != 1)
    {
        apikey_ctl_error("secret new: KID is one of 1-9, A-Z, a-z");
        return APIKEY_CTL_USAGE;
    }

    fputs("A line for the file of apikey_mac_secret: as its first line it "
          "signs the keys made\nfrom the next reload on; the lines behind it "
          "go on verifying theirs.\n", stderr);

    if (printf("%s\n", line) < 0 || fflush(stdout) != 0) {
        apikey_ctl_error("cannot write the secret");
        return APIKEY_CTL_FAILED;
    }

    return APIKEY_CTL_OK;
}
