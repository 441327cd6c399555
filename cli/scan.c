
/*
 * apikeyctl scan-rules: how scanners find keys of these prefixes.
 *
 * The form is that of src/base/key.h: 45 base62 characters behind the prefix
 * and its '_', and nothing of a word before or behind.
 */


#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/key.h"

#include "ctl.h"


typedef bool (*apikey_ctl_scan_pt)(const char *prefix);


typedef struct {
    const char          *name;
    const char          *title;
    apikey_ctl_scan_pt   print;
} apikey_ctl_scan_t;


static bool apikey_ctl_scan_regex(const char *prefix);
static bool apikey_ctl_scan_gitleaks(const char *prefix);
static bool apikey_ctl_scan_github(const char *prefix);


#define APIKEY_CTL_SCAN_REGEX  "\\b%s_[0-9A-Za-z]{%d}\\b"


static const apikey_ctl_scan_t  apikey_ctl_scans[] = {
    { "regex", "a regular expression (RE2, PCRE, GitHub custom patterns)",
      apikey_ctl_scan_regex },
    { "gitleaks", "for .gitleaks.toml", apikey_ctl_scan_gitleaks },
    { "github", "for GitHub's secret scanning partner program",
      apikey_ctl_scan_github },
    { NULL, NULL, NULL }
};


int
apikey_ctl_scan_rules(const apikey_ctl_args_t *args)
{
    bool                      good, known;
    size_t                    i;
    const apikey_ctl_scan_t  *scan;

    for (i = 0; i < args->n; i++) {
        if (!apikey_prefix_check(args->operand[i], strlen(args->operand[i]))) {
            apikey_ctl_error("scan-rules: \"%s\": a prefix is 1 to 16 of a-z, "
                             "0-9 and _", args->operand[i]);
            return APIKEY_CTL_USAGE;
        }
    }

    good = true;
    known = false;

    for (scan = apikey_ctl_scans; scan->name; scan++) {
        if (args->format && strcmp(args->format, scan->name) != 0) {
            continue;
        }

        known = true;

        if (args->format == NULL) {
            printf("# %s\n\n", scan->title);
        }

        for (i = 0; good && i < args->n; i++) {
            good = scan->print(args->operand[i]);
        }

        if (args->format == NULL && scan[1].name) {
            putchar('\n');
        }
    }

    if (!known) {
        apikey_ctl_error("scan-rules: --format is regex, gitleaks or github");
        return APIKEY_CTL_USAGE;
    }

    if (!good || fflush(stdout) != 0) {
        apikey_ctl_error("cannot write the rules");
        return APIKEY_CTL_FAILED;
    }

    return APIKEY_CTL_OK;
}


static bool
apikey_ctl_scan_regex(const char *prefix)
{
    return printf(APIKEY_CTL_SCAN_REGEX "\n", prefix, APIKEY_KEY_TAIL) > 0;
}


/* gitleaks looks for a keyword, in lower case, before it tries the regex. */

static bool
apikey_ctl_scan_gitleaks(const char *prefix)
{
    return printf("[[rules]]\n"
                  "id = \"apikey-%s\"\n"
                  "description = \"API key with prefix %s_\"\n"
                  "regex = '''" APIKEY_CTL_SCAN_REGEX "'''\n"
                  "entropy = 3.5\n"
                  "keywords = [\"%s_\"]\n\n",
                  prefix, prefix, prefix, APIKEY_KEY_TAIL, prefix) > 0;
}


/* What GitHub asks partners for; the sample has never opened anything. */

static bool
apikey_ctl_scan_github(const char *prefix)
{
    char    key[APIKEY_KEY_MADE_MAX];
    size_t  len;

    len = apikey_key_make(key, prefix, strlen(prefix), NULL,
                          apikey_clock_real());

    return len
           && printf("Secret type: API key, prefix %s_\n"
                     "Regular expression: " APIKEY_CTL_SCAN_REGEX "\n"
                     "Offline check: the last 6 characters are the CRC-32 "
                     "(IEEE) of all before\n"
                     "    them, in base62 (0-9A-Za-z), padded with 0 on the "
                     "left\n"
                     "Sample, never issued: %.*s\n"
                     "Alert endpoint: POST https://YOUR-HOST/LOCATION-OF-"
                     "apikey_admin/leaks\n"
                     "    takes [{\"token\", \"type\", \"url\", \"source\"}], "
                     "verifies Github-Public-Key-Signature\n\n",
                     prefix, prefix, APIKEY_KEY_TAIL, (int) len, key) > 0;
}
