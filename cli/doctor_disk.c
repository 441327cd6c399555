
/*
 * The journal's directory and its disk, the ring's, and the files of secrets.
 */


#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

#include <linux/magic.h>

#include "base/clock.h"
#include "base/key.h"

#include "doctor.h"


#define APIKEY_DOCTOR_SOON  (14LL * 86400 * 1000000)   /* until= */


typedef struct {
    unsigned  n;
    unsigned  over;
    unsigned  soon;
} apikey_doctor_lines_t;


static void apikey_doctor_journal_dir(apikey_doctor_t *d);
static void apikey_doctor_journal_disk(apikey_doctor_t *d, long type);
static void apikey_doctor_ring_dir(apikey_doctor_t *d);
static char *apikey_doctor_secret(apikey_doctor_t *d, const char *what,
    const char *file);
static void apikey_doctor_tokens(apikey_doctor_t *d);
static bool apikey_doctor_token(void *data, const apikey_token_t *token);
static void apikey_doctor_macs(apikey_doctor_t *d);
static void apikey_doctor_until(apikey_doctor_lines_t *lines, int64_t until);
static void apikey_doctor_lines(apikey_doctor_t *d, const char *what,
    const apikey_doctor_lines_t *lines);


void
apikey_doctor_disk(apikey_doctor_t *d)
{
    if (d->journal) {
        apikey_doctor_journal_dir(d);
    }

    if (d->ring) {
        apikey_doctor_ring_dir(d);
    }

    if (d->tokens) {
        apikey_doctor_tokens(d);
    }

    if (d->macs) {
        apikey_doctor_macs(d);
    }

    if (d->password_file) {
        free(apikey_doctor_secret(d, "password of Redis", d->password_file));
    }
}


static void
apikey_doctor_journal_dir(apikey_doctor_t *d)
{
    struct stat    st;
    struct statfs  fs;

    if (stat(d->journal, &st) == -1 || statfs(d->journal, &fs) == -1) {
        apikey_doctor_say(d, errno == ENOENT ? APIKEY_DOCTOR_WARN
                                             : APIKEY_DOCTOR_FAIL,
                          "journal", "\"%s\": %s%s", d->journal,
                          strerror(errno), errno == ENOENT
                          ? ": nginx makes it when it starts" : "");
        return;
    }

    if (!S_ISDIR(st.st_mode)) {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "journal",
                          "\"%s\" is no directory", d->journal);
        return;
    }

    if (st.st_mode & 077) {
        apikey_doctor_say(d, APIKEY_DOCTOR_WARN, "journal", "\"%s\" is open "
                          "to others (%03o), and holds digests of keys: "
                          "chmod 700", d->journal, st.st_mode & 0777U);
    }

    apikey_doctor_journal_disk(d, (long) fs.f_type);
}


static void
apikey_doctor_journal_disk(apikey_doctor_t *d, long type)
{
    uint64_t         room;
    struct statvfs   vfs;

    if (type == TMPFS_MAGIC || type == RAMFS_MAGIC) {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "disk of the journal", "it "
                          "is memory: a power cut loses all usage that is not "
                          "in Postgres yet");
        return;
    }

    if (type == NFS_SUPER_MAGIC || type == SMB_SUPER_MAGIC) {
        apikey_doctor_say(d, APIKEY_DOCTOR_WARN, "disk of the journal", "it "
                          "is on the network, and its locks may not outlive a "
                          "fault: take a local disk");
    }

    if (statvfs(d->journal, &vfs) == -1) {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "disk of the journal", "%s",
                          strerror(errno));
        return;
    }

    room = (uint64_t) vfs.f_bavail * vfs.f_frsize;

    if (room < d->size) {
        apikey_doctor_say(d, APIKEY_DOCTOR_WARN, "disk of the journal",
                          "%llu MB are free, and it may grow to %llu MB while "
                          "Postgres is away: make room, or lower size=",
                          (unsigned long long) (room >> 20),
                          (unsigned long long) (d->size >> 20));

    } else {
        apikey_doctor_say(d, APIKEY_DOCTOR_OK, "disk of the journal",
                          "%llu MB are free",
                          (unsigned long long) (room >> 20));
    }
}


static void
apikey_doctor_ring_dir(apikey_doctor_t *d)
{
    struct statfs  fs;

    if (statfs(d->ring, &fs) == -1) {
        apikey_doctor_say(d, APIKEY_DOCTOR_WARN, "ring", "\"%s\": %s",
                          d->ring, strerror(errno));

    } else if ((long) fs.f_type != TMPFS_MAGIC
               && (long) fs.f_type != RAMFS_MAGIC)
    {
        apikey_doctor_say(d, APIKEY_DOCTOR_WARN, "ring", "\"%s\" is on a "
                          "disk, which requests then wait for: take a tmpfs, "
                          "such as below /run", d->ring);

    } else {
        apikey_doctor_say(d, APIKEY_DOCTOR_OK, "ring", "\"%s\" is memory",
                          d->ring);
    }
}


/* Its text, for the caller to free; NULL after it was said. */

static char *
apikey_doctor_secret(apikey_doctor_t *d, const char *what, const char *file)
{
    char         *text;
    FILE         *f;
    size_t        size;
    struct stat   st;

    f = fopen(file, "r");

    if (f == NULL || fstat(fileno(f), &st) == -1) {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, what, "\"%s\": %s", file,
                          strerror(errno));

        if (f) {
            (void) fclose(f);
        }

        return NULL;
    }

    if (st.st_mode & 077) {
        apikey_doctor_say(d, APIKEY_DOCTOR_WARN, what, "\"%s\" is open to "
                          "others (%03o), and only nginx's master reads it: "
                          "chmod 600", file, st.st_mode & 0777U);

    } else {
        apikey_doctor_say(d, APIKEY_DOCTOR_OK, what, "\"%s\" is its owner's "
                          "alone", file);
    }

    text = NULL;
    size = 0;

    if (getdelim(&text, &size, '\0', f) == -1) {
        free(text);
        text = strdup("");
    }

    (void) fclose(f);

    return text;
}


static void
apikey_doctor_tokens(apikey_doctor_t *d)
{
    char                   *text;
    unsigned                line;
    const char             *why;
    apikey_doctor_lines_t   lines;

    text = apikey_doctor_secret(d, "operators' tokens", d->tokens);

    if (text == NULL) {
        return;
    }

    memset(&lines, 0, sizeof(apikey_doctor_lines_t));

    line = apikey_tokens_parse(text, strlen(text), apikey_doctor_token,
                               &lines, &why);

    if (line) {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "operators' tokens",
                          "line %u: %s", line, why);

    } else {
        apikey_doctor_lines(d, "operators' tokens", &lines);
    }

    free(text);
}


static bool
apikey_doctor_token(void *data, const apikey_token_t *token)
{
    apikey_doctor_until(data, token->until);

    return true;
}


static void
apikey_doctor_macs(apikey_doctor_t *d)
{
    char                   *text;
    unsigned                i, line;
    const char             *why;
    apikey_macs_t           macs;
    apikey_doctor_lines_t   lines;

    text = apikey_doctor_secret(d, "MAC secrets", d->macs);

    if (text == NULL) {
        return;
    }

    memset(&lines, 0, sizeof(apikey_doctor_lines_t));

    line = apikey_macs_parse(&macs, text, strlen(text), &why);

    if (line) {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "MAC secrets", "line %u: %s",
                          line, why);

    } else {
        for (i = 0; i < macs.n; i++) {
            apikey_doctor_until(&lines, macs.mac[i].until);
        }

        apikey_doctor_lines(d, "MAC secrets", &lines);
    }

    explicit_bzero(&macs, sizeof(apikey_macs_t));
    explicit_bzero(text, strlen(text));
    free(text);
}


static void
apikey_doctor_until(apikey_doctor_lines_t *lines, int64_t until)
{
    int64_t  now;

    now = apikey_clock_real();

    lines->n++;
    lines->over += until <= now;
    lines->soon += until > now && until < now + APIKEY_DOCTOR_SOON;
}


static void
apikey_doctor_lines(apikey_doctor_t *d, const char *what,
    const apikey_doctor_lines_t *lines)
{
    if (lines->n == lines->over) {
        apikey_doctor_say(d, APIKEY_DOCTOR_WARN, what, "none of %u is good",
                          lines->n);

    } else if (lines->soon) {
        apikey_doctor_say(d, APIKEY_DOCTOR_WARN, what, "%u of %u end within "
                          "two weeks", lines->soon, lines->n - lines->over);
    }
}
