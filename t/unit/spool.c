
/*
 * The spool on a real disk: torn tails, flipped bits, a full disk, deletion.
 */


#include "spool_make.h"


static void
test_damage(uint64_t end)
{
    int             fd;
    bool            rising;
    uint8_t         byte;
    apikey_spool_t  spool;

    /* a tail torn in the middle of its frame */

    fd = test_file(1);
    ok(ftruncate(fd, (off_t) end - 50) == 0, "tear the tail off");
    (void) apikey_spool_open(&spool, test_dir, test_node, 16 << 20);
    is_uint(test_count(&spool, &test_none, &rising), 900,
            "only the torn frame is gone");
    ok(test_append(&spool, 901, 100), "it goes on in a new segment");
    is_uint(test_count(&spool, &test_none, &rising), 1000,
            "where the frame is written again");
    ok(rising, "in order still");
    apikey_spool_close(&spool);

    /* a bit in the middle */

    ok(pread(fd, &byte, 1, (off_t) end / 2) == 1, "read a byte");
    byte ^= 4;
    ok(pwrite(fd, &byte, 1, (off_t) end / 2) == 1, "flip a bit of it");
    (void) close(fd);

    (void) apikey_spool_open(&spool, test_dir, test_node, 16 << 20);
    is_uint(test_count(&spool, &test_none, &rising), 900,
            "one frame is passed over, those behind it are found");
    ok(spool.segment[0].bad > 0, "and it is known that there was one");
    apikey_spool_close(&spool);
}


static void
test_foreign(void)
{
    apikey_spool_t  spool;

    test_node[0]++;
    (void) apikey_spool_open(&spool, test_dir, test_node, 16 << 20);
    is_uint(spool.foreign, 2, "another node's segments are left alone");
    is_uint(spool.n, 0, "and not read");
    apikey_spool_close(&spool);
    test_node[0]--;
}


static void
test_full(void)
{
    bool             rising;
    size_t           len;
    uint64_t         n;
    apikey_marks_t   marks;
    apikey_spool_t   spool;
    apikey_spool_e   rc;

    memset(&marks, 0, sizeof(marks));

    (void) apikey_spool_open(&spool, test_dir, test_node, 3 << 20);

    for (n = 1001; ; n += 1000) {
        len = test_make(n, 1000);
        rc = apikey_spool_append(&spool, test_frame, len, test_now,
                                 &test_none);

        if (rc != APIKEY_SPOOL_OK || n > 10000000) {
            break;
        }
    }

    ok(rc == APIKEY_SPOOL_FULL, "it is full at its size");
    ok(spool.n >= 3, "in several segments");

    ok(apikey_marks_raise(&marks, 1, 5, n - 1), "all of it is shipped");
    is_uint(test_count(&spool, &marks, &rising), 0, "nothing is left");
    len = test_make(n, 1000);
    ok(apikey_spool_append(&spool, test_frame, len, test_now, &marks)
       == APIKEY_SPOOL_OK, "room is made of what was shipped");
    is_uint(test_count(&spool, &marks, &rising), 1000, "only the new is left");

    (void) apikey_marks_raise(&marks, 1, 5, n + 999);
    apikey_spool_prune(&spool, test_now, &marks);
    ok(spool.n > 1, "an hour of it is kept for a restored Postgres");
    apikey_spool_prune(&spool, test_now + 2 * APIKEY_SPOOL_KEEP, &marks);
    is_uint(spool.n, 1, "and no longer");

    apikey_spool_close(&spool);
    apikey_marks_free(&marks);
}


static void
test_sync(void)
{
    int              ends[2];
    bool             rising;
    uint64_t         had, first;
    apikey_spool_t   spool;

    (void) apikey_spool_open(&spool, test_dir, test_node, 16 << 20);
    had = test_count(&spool, &test_none, &rising);
    first = apikey_spool_last(&spool, 1, 5) + 1;

    ok(test_append(&spool, first, 100) && spool.dirty,
       "what was written is not synced yet");
    ok(apikey_spool_sync(&spool) == APIKEY_SPOOL_OK && !spool.dirty,
       "it is when that is asked for");

    /* a pipe cannot be synced */

    if (pipe(ends) == -1 || !test_append(&spool, first + 100, 100)
        || dup2(ends[1], spool.fd) == -1)
    {
        ok(false, "a disk that fails");
        return;
    }

    ok(apikey_spool_sync(&spool) == APIKEY_SPOOL_FAILED && spool.fd == -1,
       "after a failed sync the segment is left");
    ok(test_append(&spool, first + 100, 100)
       && apikey_spool_sync(&spool) == APIKEY_SPOOL_OK,
       "and what was not synced is written into another one");
    is_uint(test_count(&spool, &test_none, &rising), had + 200,
            "nothing is lost, nothing is there twice");

    apikey_spool_close(&spool);
    (void) close(ends[0]);
    (void) close(ends[1]);
}


/* A segment of the version before, whose frames are as they are in memory. */

static void
test_layout(void)
{
    int                    fd;
    bool                   rising;
    char                   name[128];
    size_t                 len;
    apikey_spool_t         spool;
    apikey_spool_header_t  header;

    snprintf(name, sizeof(name), "rm %s/spool.*", test_dir);
    ok(system(name) == 0, "an empty directory");

    memset(&header, 0, sizeof(header));
    header.magic = APIKEY_SPOOL_MAGIC;
    header.layout = 1;
    header.seq = 1;
    memcpy(header.node, test_node, 16);
    header.crc = apikey_spool_header_crc(header);

    snprintf(name, sizeof(name), "%s/spool.%016x", test_dir, 1);
    fd = open(name, O_RDWR|O_CREAT, 0600);
    len = test_make(1, 500);

    ok(pwrite(fd, &header, sizeof(header), 0) == (ssize_t) sizeof(header)
       && pwrite(fd, test_frame, len, sizeof(header)) == (ssize_t) len,
       "an older segment");
    (void) close(fd);

    (void) apikey_spool_open(&spool, test_dir, test_node, 16 << 20);
    is_uint(test_count(&spool, &test_none, &rising), 500,
            "its events are read");
    ok(test_append(&spool, 501, 100), "it goes on in a new one");
    is_uint(test_count(&spool, &test_none, &rising), 600,
            "with packed ones");
    ok(rising, "in order");
    apikey_spool_close(&spool);
}


/* 250 events in conversations: unpacked, each frame has all their names. */

static bool
test_append_talk(apikey_spool_t *spool, uint64_t first)
{
    size_t    len;
    unsigned  i;
    union {
        apikey_record_t  record;
        char             bytes[APIKEY_RECORD_LARGE];
    } r;

    memset(&r, 0, sizeof(r));
    r.record.count.count = 1;
    apikey_frame_begin(&test_encoder, test_frame, sizeof(test_frame), 1, 5,
                       first);

    for (i = 0; i < 250; i++) {
        r.record.count.time = test_now + i;
        r.record.shape.len[APIKEY_TEXT_SESSION] = 200;
        memset(r.record.text, 'a' + (int) i % 20, 200);
        r.record.text[0] = (char) ('a' + i / 20);
        (void) apikey_frame_add(&test_encoder, &r.record);
    }

    len = apikey_frame_end(&test_encoder);

    return apikey_spool_append(spool, test_frame, len, test_now, &test_none)
           == APIKEY_SPOOL_OK && spool->wrote < len;
}


/* Much more comes out than is read at once. */

static void
test_parts(void)
{
    bool            rising, good;
    unsigned        i;
    uint64_t        had, first;
    apikey_spool_t  spool;

    (void) apikey_spool_open(&spool, test_dir, test_node, 16 << 20);
    had = test_count(&spool, &test_none, &rising);
    first = apikey_spool_last(&spool, 1, 5) + 1;
    good = true;

    for (i = 0; i < 100; i++) {
        good = good && test_append_talk(&spool, first + i * 250);
    }

    ok(good, "frames are written smaller than they are");
    is_uint(test_count(&spool, &test_none, &rising), had + 25000,
            "all of them are read, in parts");
    ok(rising, "in order");
    is_uint(test_count(&spool, &test_none, &rising), had + 25000,
            "and from the start again");
    apikey_spool_close(&spool);

    (void) apikey_spool_open(&spool, test_dir, test_node, 16 << 20);
    is_uint(test_count(&spool, &test_none, &rising), had + 25000,
            "by whoever opens it next, too");
    apikey_spool_close(&spool);
}


/*
 * Damaged frames take the dictionary's entries with them that sound ones
 * refer to: the events of those never come, and nobody shall wait for them.
 */

static void
test_flip(int fd, uint64_t offset)
{
    uint8_t  byte;

    ok(pread(fd, &byte, 1, (off_t) offset) == 1, "read a byte");
    byte ^= 4;
    ok(pwrite(fd, &byte, 1, (off_t) offset) == 1, "flip a bit of it");
}


static void
test_entries(bool running)
{
    bool            rising;
    uint64_t        end[2];
    apikey_marks_t  marks;
    apikey_spool_t  spool;

    memset(&marks, 0, sizeof(marks));
    test_node[0]++;
    test_status = 200;

    (void) apikey_spool_open(&spool, test_dir, test_node, 16 << 20);
    ok(test_append(&spool, 1, 100), "a frame that brings an entry");
    end[0] = spool.segment[0].end;
    ok(test_append(&spool, 101, 100), "and another one");
    end[1] = spool.segment[0].end;
    test_stream = 2;
    ok(test_append(&spool, 1, 100), "one of another stream that uses it");
    test_stream = 3;
    test_status = 404;
    ok(test_append(&spool, 1, 100), "one with an entry of its own");
    is_uint(test_count(&spool, &test_none, &rising), 400, "all are there");

    test_flip(spool.fd, end[0] - 9);
    test_flip(spool.fd, end[1] - 9);

    if (!running) {
        apikey_spool_close(&spool);
        (void) apikey_spool_open(&spool, test_dir, test_node, 16 << 20);
        is_uint(spool.n, 1, "opened again");
    }

    is_uint(test_count(&spool, &test_none, &rising), 100,
            "what needs no other frame is read");
    is_uint(apikey_spool_last(&spool, 2, 5), 0, "no event is awaited in vain");
    is_uint(apikey_spool_last(&spool, 3, 5), 100, "of those that are there");

    (void) apikey_marks_raise(&marks, 3, 5, 99);
    ok(!apikey_spool_shipped(&spool.segment[0], &marks),
       "the segment is needed for one event");
    (void) apikey_marks_raise(&marks, 3, 5, 100);
    ok(apikey_spool_shipped(&spool.segment[0], &marks),
       "and no more when that is shipped");

    apikey_spool_close(&spool);
    apikey_marks_free(&marks);
    test_stream = 1;
    test_status = 0;
}


int
main(void)
{
    char  command[128];

    test_now = (int64_t) time(NULL) * 1000000;

    if (mkdtemp(test_dir) == NULL) {
        return 1;
    }

    test_damage(test_write());
    test_foreign();
    test_full();
    test_sync();
    test_layout();
    test_parts();
    test_entries(false);
    test_entries(true);

    snprintf(command, sizeof(command), "rm -rf %s", test_dir);

    return system(command) || unit_done();
}
