
/*
 * Packed frames: what goes in comes out, small; a damaged frame takes no
 * other one with it.
 */


#include <stdlib.h>
#include <string.h>

#include "base/serial.h"
#include "base/uuid.h"
#include "usage/pack.h"
#include "usage/record_flags.h"

#include "unit.h"


#define BASE     INT64_C(1795256130123456)
#define IDS      UINT64_C(0x5bd1e995a7c15f39)
#define FRAMES   200
#define SOME     40
#define EVENTS   600


typedef union {
    apikey_record_t  record;
    char             bytes[APIKEY_RECORD_LARGE];
} test_record_t;


static apikey_encoder_t  test_encoder;
static uint64_t          test_seed = 7;
static uint64_t          test_serial;
static uint8_t          *test_frame[FRAMES];
static size_t            test_len[FRAMES];
static size_t            test_plain;


static uint64_t
test_random(uint64_t limit)
{
    test_seed ^= test_seed << 13;
    test_seed ^= test_seed >> 7;
    test_seed ^= test_seed << 17;

    return test_seed % limit;
}


/* Record i of a run of `keys` keys: a pure function of i. */

static void
test_make(unsigned i, unsigned keys, test_record_t *r)
{
    int               n;
    unsigned          key, j;
    uint64_t          serial;
    apikey_record_t  *record;

    test_seed = i * UINT64_C(0x9e3779b97f4a7c15) + 1;
    test_random(2);
    memset(r, 0, sizeof(test_record_t));

    record = &r->record;
    key = (unsigned) test_random(keys);

    record->count.time = BASE + i * 83 + (int64_t) test_random(400);
    record->count.count = 1;
    record->count.bytes_in = 250 + key % 50 + test_random(20);
    record->count.bytes_out = 500 + test_random(8000);
    record->count.duration = 1000 * (1 + test_random(60));
    record->count.upstream = record->count.duration
                             - 1000 * test_random(2);
    memset(record->count.client + 10, 0xff, 2);
    record->count.client[12] = 10;
    record->count.client[13] = (uint8_t) (key >> 8);
    record->count.client[14] = (uint8_t) (test_random(50) ? key : key + 1);

    serial = apikey_serial_hide(IDS, (test_serial + i + test_random(3))
                                     & APIKEY_SERIAL_MASK);

    for (j = 16; j-- > 8; serial >>= 8) {
        record->count.event[j] = (uint8_t) serial;
    }

    record->count.event[8] |= 0x80;
    apikey_uuid_stamp_put(record->count.event,
                         apikey_record_stamp(record->count.time)
                         + (test_random(20) == 0));

    record->shape.status = test_random(50) ? 200 : 404;
    record->shape.weight = 1;
    record->shape.method = 2;
    memset(record->shape.key, (int) (key >> 8) + 1, 16);
    record->shape.key[3] = (uint8_t) key;
    memset(record->shape.secret, (int) key, 16);

    n = sprintf(record->text, "owner_%u", key);
    record->shape.len[APIKEY_TEXT_OWNER] = (uint8_t) n;
    memcpy(record->text + n, "orders/items/", 13);
    record->shape.len[APIKEY_TEXT_SERVICE] = 6;
    record->shape.len[APIKEY_TEXT_ENDPOINT] = 7;
    n += 13;

    /* some are of a conversation and a model */

    if (key % 10 == 3) {
        record->shape.source = 1;
        record->count.tokens[0] = 100 + test_random(9000);
        record->count.tokens[1] = test_random(500);
        record->count.tokens[2] = test_random(100);
        record->count.cost = (int64_t) test_random(1000000);
        record->count.price = 17;
        memcpy(record->text + n, "gpt-4o", 6);
        record->shape.len[APIKEY_TEXT_MODEL] = 6;
        n = sprintf(record->text + n + 6, "s-%u", i / 7);
        record->shape.len[APIKEY_TEXT_SESSION] = (uint8_t) n;
    }
}


static bool
test_equal(const apikey_record_t *record, const apikey_event_t *event)
{
    unsigned     i;
    const char  *p;

    if (memcmp(&record->count, &event->count, sizeof(apikey_count_t)) != 0
        || memcmp(&record->shape, &event->shape, sizeof(apikey_shape_t)) != 0)
    {
        return false;
    }

    p = record->text;

    for (i = 0; i < APIKEY_TEXTS; i++) {
        if (memcmp(p, event->text[i], record->shape.len[i]) != 0) {
            return false;
        }

        p += record->shape.len[i];
    }

    return true;
}


/* A segment's frames of EVENTS events each. */

static size_t
test_pack(apikey_packer_t *p, unsigned frames, unsigned keys)
{
    size_t          len, packed;
    unsigned        i, n;
    uint8_t        *buf;
    test_record_t   r;

    packed = 0;
    test_plain = 0;
    buf = malloc(sizeof(apikey_frame_t) + APIKEY_FRAME_MAX);

    for (i = 0; i < frames; i++) {
        apikey_frame_begin(&test_encoder, buf,
                           sizeof(apikey_frame_t) + APIKEY_FRAME_MAX, 3, 9,
                           1 + i * EVENTS);

        for (n = 0; n < EVENTS; n++) {
            test_make(i * EVENTS + n, keys, &r);
            (void) apikey_frame_add(&test_encoder, &r.record);
        }

        len = apikey_frame_end(&test_encoder);
        test_plain += len;

        test_frame[i] = realloc(test_frame[i], len);
        test_len[i] = apikey_pack(p, buf, IDS, test_frame[i]);
        packed += test_len[i];
    }

    free(buf);

    return packed;
}


/* Events of frame i that come out as they went in; *lost: others. */

static unsigned
test_frame_equal(apikey_unpacker_t *u, unsigned i, unsigned keys,
    unsigned *lost)
{
    int             rc;
    unsigned        n;
    test_record_t   r;
    apikey_event_t  event;

    if (apikey_unpack_open(u, test_frame[i]) != APIKEY_UNPACK_OK) {
        return 0;
    }

    n = 0;

    while ((rc = apikey_unpack_next(u, &event)) > 0) {
        test_make((unsigned) apikey_unpack_number(u) - 1, keys, &r);

        if (rc == 1 && test_equal(&r.record, &event)) {
            n++;

        } else {
            *lost += (rc == 2);
        }
    }

    return rc == 0 ? n : 0;
}


static void
test_round(unsigned keys, unsigned bytes)
{
    size_t              packed;
    unsigned            i, n, lost;
    apikey_packer_t    *p;
    apikey_unpacker_t  *u;

    p = apikey_packer_create();
    u = apikey_unpacker_create();

    packed = test_pack(p, FRAMES, keys);
    n = 0;
    lost = 0;

    for (i = 0; i < FRAMES; i++) {
        n += test_frame_equal(u, i, keys, &lost);
    }

    printf("# %u keys: %.1f bytes an event, %.1f unpacked\n", keys,
           (double) packed / (FRAMES * EVENTS),
           (double) test_plain / (FRAMES * EVENTS));

    is_uint(n, FRAMES * EVENTS, "every event comes out as it went in");
    ok(packed <= bytes * FRAMES * EVENTS, "in as little as is promised");

    /* as when reading begins anew in the middle of a frame */

    is_uint(test_frame_equal(u, 7, keys, &lost), EVENTS,
            "a frame may be read again");

    apikey_packer_reset(p);
    is_uint(test_pack(p, FRAMES, keys), packed,
            "a new segment is as the first one");
    ok(!apikey_packer_full(p), "its dictionary has room");

    apikey_packer_free(p);
    apikey_unpacker_free(u);
}


/* Each frame in turn is lost; then a row of them. */

static void
test_lost(void)
{
    unsigned            i, j, n, lost, worst;
    apikey_packer_t    *p;
    apikey_unpacker_t  *u;

    p = apikey_packer_create();
    u = apikey_unpacker_create();

    (void) test_pack(p, SOME, 1000);
    worst = SOME * EVENTS;
    lost = 0;

    for (i = 0; i < SOME; i++) {
        apikey_unpacker_reset(u);
        n = 0;

        for (j = 0; j < SOME; j++) {
            n += i == j ? 0 : test_frame_equal(u, j, 1000, &lost);
        }

        worst = n < worst ? n : worst;
    }

    is_uint(worst, (SOME - 1) * EVENTS,
            "a frame that is lost takes no other event with it");
    is_uint(lost, 0, "nor does it look so");

    apikey_packer_reset(p);
    apikey_unpacker_reset(u);
    (void) test_pack(p, FRAMES, 1000);
    n = 0;

    for (j = 10; j < FRAMES; j++) {
        n += test_frame_equal(u, j, 1000, &lost);
    }

    ok(n + lost == (FRAMES - 10) * EVENTS && n < (FRAMES - 10) * EVENTS,
       "after many lost ones, what is missing is told from what is not");

    lost = 0;
    is_uint(test_frame_equal(u, FRAMES - 1, 1000, &lost), EVENTS,
            "and does not last");

    apikey_packer_free(p);
    apikey_unpacker_free(u);
}


static void
test_odd(void)
{
    size_t              len;
    unsigned            i;
    uint8_t             frame[16384], out[16384];
    test_record_t       r;
    apikey_event_t      event;
    apikey_packer_t    *p;
    apikey_unpacker_t  *u;

    p = apikey_packer_create();
    u = apikey_unpacker_create();

    memset(&r, 0xff, sizeof(r));
    memset(r.record.count.event, 0, 16);
    r.record.shape.kind = APIKEY_RECORD_SUM;
    r.record.count.time = INT64_MIN;

    apikey_frame_begin(&test_encoder, frame, sizeof(frame), 0, 1, 1);
    (void) apikey_frame_add(&test_encoder, &r.record);
    r.record.count.time = INT64_MAX;
    r.record.count.upstream = 0;
    (void) apikey_frame_add(&test_encoder, &r.record);
    (void) apikey_frame_end(&test_encoder);

    len = apikey_pack(p, frame, 0, out);
    ok(len, "the largest numbers are packed");

    ok(apikey_unpack_open(u, out) == APIKEY_UNPACK_OK
       && apikey_unpack_next(u, &event) == 1
       && event.count.time == INT64_MIN, "the first one comes out");
    ok(apikey_unpack_next(u, &event) == 1 && test_equal(&r.record, &event),
       "the second one whole");

    /* ids under another key, and such as are of no version */

    memset(&r, 0, sizeof(r));
    apikey_frame_begin(&test_encoder, frame, sizeof(frame), 0, 1, 3);

    for (i = 0; i < 4; i++) {
        test_make(i, 1, &r);
        r.record.count.event[i % 2 ? 9 : 6] ^= (uint8_t) (0x70 * (i > 1));
        (void) apikey_frame_add(&test_encoder, &r.record);
    }

    (void) apikey_frame_end(&test_encoder);

    ok(apikey_pack(p, frame, 1, out) && apikey_unpack_open(u, out)
       == APIKEY_UNPACK_OK, "ids of any kind are packed");

    for (i = 0; i < 4; i++) {
        test_make(i, 1, &r);
        r.record.count.event[i % 2 ? 9 : 6] ^= (uint8_t) (0x70 * (i > 1));
        ok(apikey_unpack_next(u, &event) == 1
           && test_equal(&r.record, &event), "and come out");
    }

    apikey_packer_free(p);
    apikey_unpacker_free(u);
}


/* More strings than a dictionary takes. */

static void
test_full(void)
{
    bool                sound;
    int                 n;
    size_t              len;
    unsigned            i, j;
    uint8_t             frame[65536], out[65536];
    test_record_t       r;
    apikey_event_t      event;
    apikey_packer_t    *p;
    apikey_unpacker_t  *u;

    p = apikey_packer_create();
    u = apikey_unpacker_create();
    sound = true;

    for (i = 0; i < 400 && !apikey_packer_full(p); i++) {
        apikey_frame_begin(&test_encoder, frame, sizeof(frame), 0, 1,
                           1 + i * 100);

        for (j = 0; j < 100; j++) {
            test_make(7, 1000, &r);
            n = sprintf(r.bytes + apikey_record_size(&r.record.shape)
                        - r.record.shape.len[APIKEY_TEXT_SESSION],
                        "a conversation, number %u", i * 100 + j);
            r.record.shape.len[APIKEY_TEXT_SESSION] = (uint8_t) n;
            (void) apikey_frame_add(&test_encoder, &r.record);
        }

        (void) apikey_frame_end(&test_encoder);
        len = apikey_pack(p, frame, IDS, out);

        if (len == 0) {
            break;
        }

        sound = sound && apikey_unpack_open(u, out) == APIKEY_UNPACK_OK;

        for (j = 0; j < 100; j++) {
            sound = sound && apikey_unpack_next(u, &event) == 1;
        }
    }

    ok(i > 300 && i < 400, "a dictionary has an end");
    ok(apikey_packer_full(p), "which it says");
    ok(sound, "all before it comes out");

    apikey_packer_reset(p);
    ok(!apikey_packer_full(p) && apikey_pack(p, frame, IDS, out),
       "the next segment takes what was left");

    apikey_packer_free(p);
    apikey_unpacker_free(u);
}


static void
test_serials(void)
{
    bool      same;
    unsigned  i;
    uint64_t  n, key, hidden;

    same = true;

    for (i = 0; i < 100000; i++) {
        key = test_random(UINT64_MAX);
        n = (key * 31 + i) & APIKEY_SERIAL_MASK;
        hidden = apikey_serial_hide(key, n);
        same = same && hidden <= APIKEY_SERIAL_MASK
               && apikey_serial_show(key, hidden) == n;
    }

    ok(same, "a number in disguise is found again");
}


int
main(void)
{
    unsigned  i;

    test_serial = APIKEY_SERIAL_MASK - 100;      /* around its end */

    test_round(1, 14);
    test_round(1000, 16);
    test_lost();
    test_odd();
    test_full();
    test_serials();

    for (i = 0; i < FRAMES; i++) {
        free(test_frame[i]);
    }

    return unit_done();
}
