
/*
 * A spool of which something cannot be read: for a while, or for ever.
 */


#include <errno.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "spool_make.h"


static off_t  test_broken;           /* 0: the disk is well */


static void
test_empty(void)
{
    char  command[128];

    snprintf(command, sizeof(command), "rm -f %s/spool.*", test_dir);

    ok(system(command) == 0, "an empty directory");
}


/* A disk that cannot read some bytes, for a while. */

ssize_t
pread(int fd, void *buf, size_t len, off_t offset)
{
    if (test_broken && offset <= test_broken
        && test_broken < offset + (off_t) len)
    {
        if (offset == test_broken) {
            errno = EIO;
            return -1;
        }

        len = (size_t) (test_broken - offset);
    }

    return syscall(SYS_pread64, fd, buf, len, offset);
}


/* Nothing is given up for what cannot be read today. */

static void
test_unread(void)
{
    int             fd;
    bool            rising;
    off_t           broken[3];
    uint64_t        n, end;
    unsigned        i;
    struct stat     st;
    apikey_spool_t  spool;

    test_empty();
    end = test_write();
    fd = test_file(1);

    ok(ftruncate(fd, (off_t) end + 65536) == 0, "room that is set aside");

    broken[0] = APIKEY_SPOOL_HEADER;
    broken[1] = (off_t) end / 2;
    broken[2] = (off_t) end + 4096;

    for (i = 0; i < 3; i++) {
        test_broken = broken[i];
        ok(apikey_spool_open(&spool, test_dir, test_node, 16 << 20)
           == APIKEY_SPOOL_OK, "the disk fails: all others go on");
        ok(spool.segment[0].unread, "and it is known");

        n = test_count(&spool, &test_none, &rising);
        ok(i == 0 ? n == 0 : i == 1 ? n > 300 && n < 600 : n == 1000,
           "what is before it is read");

        apikey_spool_prune(&spool, INT64_MAX, &spool.segment[0].marks);
        is_uint(spool.n, 1, "nothing is deleted");
        apikey_spool_close(&spool);

        ok(fstat(fd, &st) == 0 && st.st_nlink == 1
           && st.st_size == (off_t) end + 65536, "nothing is cut off");

        test_broken = 0;
    }

    (void) close(fd);

    (void) apikey_spool_open(&spool, test_dir, test_node, 16 << 20);
    is_uint(test_count(&spool, &test_none, &rising), 1000,
            "the disk is well: all of it is there");
    is_uint(spool.segment[0].bad, 0, "and nothing was bad");
    apikey_spool_close(&spool);
}


/* Frames that have become zeros, with sound ones behind them. */

static void
test_hole(void)
{
    int             fd;
    bool            rising;
    size_t          len;
    uint64_t        n;
    apikey_spool_t  spool;

    test_empty();
    len = (size_t) test_write() / 4;
    fd = test_file(1);

    memset(test_buf, 0, len);
    ok(pwrite(fd, test_buf, len, test_half) == (ssize_t) len, "make a hole");
    (void) close(fd);

    (void) apikey_spool_open(&spool, test_dir, test_node, 16 << 20);
    n = test_count(&spool, &test_none, &rising);
    ok(n > 500 && n < 1000 && n % 100 == 0, "frames behind it are found");
    ok(spool.segment[0].bad > 0, "and it is known that there was one");
    apikey_spool_close(&spool);
}


int
main(void)
{
    char  command[128];

    test_now = (int64_t) time(NULL) * 1000000;

    if (mkdtemp(test_dir) == NULL) {
        return 1;
    }

    test_unread();
    test_hole();

    snprintf(command, sizeof(command), "rm -rf %s", test_dir);

    return system(command) || unit_done();
}
