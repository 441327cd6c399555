
/*
 * apikeyctl doctor: looks at an installation from outside, changes nothing.
 */


#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "doctor.h"


#define APIKEY_DOCTOR_JOURNAL  (1024ULL * 1024 * 1024)   /* size=1g */


static char *apikey_doctor_copy(const char *text);


int
apikey_ctl_doctor(const apikey_ctl_args_t *args)
{
    apikey_doctor_t  d;

    memset(&d, 0, sizeof(apikey_doctor_t));

    d.postgres = apikey_doctor_copy(args->postgres);
    d.redis = apikey_doctor_copy(args->redis);
    d.password_file = apikey_doctor_copy(args->password_file);
    d.journal = apikey_doctor_copy(args->journal);
    d.dir = args->dir;

    if (args->conf || args->nginx
        || (d.postgres == NULL && d.redis == NULL && d.journal == NULL))
    {
        apikey_doctor_conf(&d, args->nginx ? args->nginx : "nginx",
                           args->conf);
    }

    if (d.size == 0) {
        d.size = APIKEY_DOCTOR_JOURNAL;
    }

    if (d.postgres) {
        apikey_doctor_pg(&d);
    }

    if (d.redis) {
        apikey_doctor_redis(&d);
    }

    apikey_doctor_disk(&d);

    free(d.postgres);
    free(d.redis);
    free(d.password_file);
    free(d.journal);
    free(d.ring);
    free(d.tokens);
    free(d.macs);

    return d.failed ? APIKEY_CTL_PENDING : APIKEY_CTL_OK;
}


void
apikey_doctor_say(apikey_doctor_t *d, apikey_doctor_level_e level,
    const char *what, const char *format, ...)
{
    va_list  list;

    static const char *const  levels[] = { "ok  ", "warn", "fail" };

    printf("%s  %s: ", levels[level], what);

    va_start(list, format);
    vprintf(format, list);
    va_end(list);

    putchar('\n');

    if (level == APIKEY_DOCTOR_FAIL) {
        d->failed = true;
    }
}


/* theirs was read between before and after. */

void
apikey_doctor_clock(apikey_doctor_t *d, const char *what, int64_t theirs,
    int64_t before, int64_t after)
{
    int64_t                  off;
    apikey_doctor_level_e    level;

    off = 0;

    if (theirs < before) {
        off = theirs - before;

    } else if (theirs > after) {
        off = theirs - after;
    }

    if (off > -APIKEY_DOCTOR_CLOCK_WARN && off < APIKEY_DOCTOR_CLOCK_WARN) {
        apikey_doctor_say(d, APIKEY_DOCTOR_OK, what,
                          "its clock is within %.3f s of ours",
                          (double) (after - before
                                    + (off < 0 ? -off : off)) / 1e6);
        return;
    }

    level = off > -APIKEY_DOCTOR_CLOCK_FAIL && off < APIKEY_DOCTOR_CLOCK_FAIL
            ? APIKEY_DOCTOR_WARN : APIKEY_DOCTOR_FAIL;

    apikey_doctor_say(d, level, what, "its clock is %.3f s %s ours: keys "
                      "expire and limits open by them; run chrony or ntpd on "
                      "both", (double) (off < 0 ? -off : off) / 1e6,
                      off < 0 ? "behind" : "ahead of");
}


static char *
apikey_doctor_copy(const char *text)
{
    return text ? strdup(text) : NULL;
}
