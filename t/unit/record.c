
/*
 * Frames: what goes in comes out, at a price; damage is noticed.
 */


#include <stdlib.h>
#include <string.h>

#include "base/crc.h"
#include "base/uuid.h"
#include "usage/record.h"

#include "unit.h"


#define BASE  INT64_C(1795256130123456)


static apikey_encoder_t  test_encoder;
static apikey_decoder_t  test_decoder;
static uint8_t           test_buf[sizeof(apikey_frame_t) + APIKEY_FRAME_MAX];
static uint64_t          test_seed = 7;


static uint64_t
test_random(uint64_t limit)
{
    test_seed ^= test_seed << 13;
    test_seed ^= test_seed >> 7;
    test_seed ^= test_seed << 17;

    return test_seed % limit;
}


/* Record i of a run: a pure function of i. */

static void
test_make(unsigned i, apikey_record_t *record, char *text)
{
    int  n;

    test_seed = i * UINT64_C(0x9e3779b97f4a7c15) + 1;
    test_random(2);
    memset(record, 0, sizeof(apikey_record_t));

    record->count.time = BASE + i * 700 + (int64_t) test_random(900);
    record->count.count = 1;
    record->count.bytes_in = 200 + test_random(300);
    record->count.bytes_out = 500 + test_random(8000);
    record->count.duration = 900 + test_random(60000);
    record->count.upstream = record->count.duration - 1 - test_random(100);
    memset(record->count.client, 10, 7);
    record->count.client[0] = (uint8_t) test_random(40);
    (void) apikey_uuid_make(record->count.event, record->count.time - 20);

    record->shape.status = 200;
    record->shape.weight = 1;
    record->shape.method = 2;
    memset(record->shape.key, 1 + (int) test_random(50), 16);
    memset(record->shape.secret, record->shape.key[0], 16);

    n = sprintf(text, "owner_%u", record->shape.key[0]);
    record->shape.len[APIKEY_TEXT_OWNER] = (uint8_t) n;
    memcpy(text + n, "orders/items/", 13);
    record->shape.len[APIKEY_TEXT_SERVICE] = 6;
    record->shape.len[APIKEY_TEXT_ENDPOINT] = 7;
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


typedef union {
    apikey_record_t  record;
    char             bytes[APIKEY_RECORD_LARGE];
} test_record_t;


static void
test_round(void)
{
    bool            same;
    size_t          size;
    unsigned        i, n;
    test_record_t  *r;
    apikey_event_t  event;
    apikey_frame_t  frame;

    r = calloc(APIKEY_FRAME_EVENTS, sizeof(test_record_t));

    apikey_frame_begin(&test_encoder, test_buf, sizeof(test_buf), 3,
                       UINT64_C(99), 1001);

    for (i = 0; i < APIKEY_FRAME_EVENTS; i++) {
        test_make(i, &r[i].record, r[i].record.text);

        if (!apikey_frame_add(&test_encoder, &r[i].record)) {
            break;
        }
    }

    n = i;
    size = apikey_frame_end(&test_encoder);

    is_uint(n, APIKEY_FRAME_EVENTS, "a frame takes 5000 events");
    ok(!apikey_frame_add(&test_encoder, &r[0].record), "and no more");
    ok(size / n <= 24, "a typical event takes at most 24 bytes");

    ok(apikey_frame_check(test_buf, size, &frame, true) == APIKEY_FRAME_OK,
       "the frame is sound");
    is_uint(frame.first, 1001, "it knows its first event");

    apikey_frame_open(&test_decoder, test_buf);

    same = true;

    for (i = 0; i < n; i++) {
        same = same && apikey_frame_next(&test_decoder, &event) == 1
               && test_equal(&r[i].record, &event);
    }

    ok(same, "every record comes out as it went in");
    ok(apikey_frame_next(&test_decoder, &event) == 0, "and then no more");
    is_uint(test_decoder.number, 1001 + n - 1, "the numbers go along");

    free(r);
}


/* A few records are looked at before each one is put, some of a frame ago. */

static void
test_ahead(void)
{
    bool                   same;
    size_t                 size;
    unsigned               i, frame;
    test_record_t         *r;
    static uint8_t         plain[sizeof(test_buf)];
    apikey_record_hash_t   hash[60];

    r = calloc(60, sizeof(test_record_t));
    same = true;

    for (i = 0; i < 60; i++) {
        test_make(i, &r[i].record, r[i].record.text);

        if (i % 3 == 0) {
            memcpy(r[i].record.text + strlen(r[i].record.text), "talk_7", 6);
            r[i].record.shape.len[APIKEY_TEXT_SESSION] = i % 2 ? 6 : 5;
        }
    }

    for (frame = 0; frame < 2; frame++) {
        apikey_frame_begin(&test_encoder, plain, sizeof(plain), 3, 9, 1);

        for (i = frame * 30; i < frame * 30 + 30; i++) {
            same = same && apikey_frame_add(&test_encoder, &r[i].record);
        }

        size = apikey_frame_end(&test_encoder);

        apikey_frame_begin(&test_encoder, test_buf, sizeof(test_buf), 3, 9,
                           1);

        for (i = 0; frame == 0 && i < 4; i++) {
            apikey_frame_ahead(&test_encoder, &r[i].record, &hash[i]);
        }

        for (i = frame * 30; i < frame * 30 + 30; i++) {
            if (i + 4 < 60) {
                apikey_frame_ahead(&test_encoder, &r[i + 4].record,
                                   &hash[i + 4]);
            }

            same = same && apikey_frame_put(&test_encoder, &r[i].record,
                                            &hash[i]);
        }

        same = same && apikey_frame_end(&test_encoder) == size
               && memcmp(test_buf, plain, size) == 0;
    }

    ok(same, "looked at ahead they come to the same frames");

    free(r);
}


/* Of either kind, as many bits as are to stay, and no others. */

static void
test_shorten(void)
{
    bool      good, set;
    uint8_t   client[16];
    unsigned  bits, i, rest;

    good = true;

    for (bits = 0; bits <= 160; bits++) {
        memset(client, 0xff, 16);

        if (bits <= 128) {
            rest = bits;
            good = good && apikey_client_shorten(client, 24, bits) == bits;

        } else {
            rest = bits - 32;
            memset(client, 0, 10);
            good = good
                   && apikey_client_shorten(client, bits - 128, 48)
                      == bits - 128;
        }

        for (i = bits <= 128 ? 0 : 80; i < 128; i++) {
            set = client[i / 8] & 0x80 >> i % 8;
            good = good && set == (i < rest);
        }
    }

    ok(good, "any number of bits may stay");
}


static void
test_odd(void)
{
    int             i;
    size_t          size;
    test_record_t   r;
    apikey_event_t  event;

    memset(&r, 0xff, sizeof(r));
    memset(r.record.count.event, 0, 16);
    r.record.shape.kind = APIKEY_RECORD_SUM;
    r.record.count.time = INT64_MIN;

    apikey_frame_begin(&test_encoder, test_buf, sizeof(test_buf), 0, 1, 1);
    ok(apikey_frame_add(&test_encoder, &r.record), "the largest record fits");
    r.record.count.time = INT64_MAX;
    ok(apikey_frame_add(&test_encoder, &r.record), "and far away in time");
    size = apikey_frame_end(&test_encoder);
    ok(size < 5000, "their texts are kept once");

    apikey_frame_open(&test_decoder, test_buf);
    ok(apikey_frame_next(&test_decoder, &event) == 1, "the first comes out");
    ok(event.count.time == INT64_MIN, "with its time");
    ok(apikey_frame_next(&test_decoder, &event) == 1
       && test_equal(&r.record, &event), "the second comes out whole");

    memset(event.count.client, 0, 16);
    memset(event.count.client + 10, 0xff, 6);
    apikey_client_shorten(event.count.client, 24, 48);
    is_uint(event.count.client[14], 0xff, "24 bits of an IPv4 address stay");
    is_uint(event.count.client[15], 0, "the others do not");

    test_shorten();

    i = (int) apikey_text_cut("a\xc3\xa9", 3, 2);
    ok(i == 1, "a text is cut at a character's border");
}


static void
test_flips(void)
{
    bool             noticed;
    size_t           size, i;
    unsigned         n;
    test_record_t    r;
    apikey_event_t   event;
    apikey_frame_t   frame;
    apikey_frame_e   rc;

    apikey_frame_begin(&test_encoder, test_buf, sizeof(test_buf), 0, 1, 1);

    for (n = 0; n < 20; n++) {
        test_make(n, &r.record, r.record.text);
        (void) apikey_frame_add(&test_encoder, &r.record);
    }

    size = apikey_frame_end(&test_encoder);
    noticed = true;

    for (i = 0; i < size * 8; i++) {
        test_buf[i / 8] ^= (uint8_t) (1 << i % 8);
        rc = apikey_frame_check(test_buf, size, &frame, true);
        noticed = noticed && rc != APIKEY_FRAME_OK;

        /* a decoder fed with it all the same must end, inside the buffer */

        memcpy(&frame, test_buf, sizeof(frame));

        if (frame.size == size - sizeof(frame)) {
            apikey_frame_open(&test_decoder, test_buf);

            while (apikey_frame_next(&test_decoder, &event) == 1) {
                continue;
            }
        }

        test_buf[i / 8] ^= (uint8_t) (1 << i % 8);
    }

    ok(noticed, "every flipped bit is noticed");

    ok(apikey_frame_check(test_buf, size - 1, &frame, true)
       == APIKEY_FRAME_SHORT, "a torn tail is noticed");
    ok(apikey_frame_check(test_buf, 10, &frame, true) == APIKEY_FRAME_NONE,
       "less than a header is the end");
    memset(test_buf, 0, sizeof(frame));
    ok(apikey_frame_check(test_buf, size, &frame, true) == APIKEY_FRAME_NONE,
       "zeros are the clean end");
}


int
main(void)
{
    test_round();
    test_ahead();
    test_odd();
    test_flips();

    return unit_done();
}
