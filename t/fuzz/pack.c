
/*
 * A packed frame's payload: whatever it is, reading it ends, inside of it;
 * and what comes out packs again.
 */


#include "usage/pack.h"

#include "fuzz.h"


#define FUZZ_FRAME  8192


static void
fuzz_pack_again(apikey_event_t *event)
{
    unsigned                 i;
    char                    *p;
    static uint8_t           frame[FUZZ_FRAME], out[FUZZ_FRAME];
    apikey_packer_t         *packer;
    apikey_unpacker_t       *unpacker;
    static apikey_encoder_t  encoder;
    apikey_event_t           other;
    union {
        apikey_record_t      record;
        char                 bytes[APIKEY_RECORD_LARGE];
    } r;

    r.record.count = event->count;
    r.record.shape = event->shape;
    p = r.record.text;

    for (i = 0; i < APIKEY_TEXTS; i++) {
        memcpy(p, event->text[i], event->shape.len[i]);
        p += event->shape.len[i];
    }

    apikey_frame_begin(&encoder, frame, sizeof(frame), 1, 1, 1);
    fuzz_must(apikey_frame_add(&encoder, &r.record));
    fuzz_must(apikey_frame_end(&encoder));

    packer = apikey_packer_create();
    unpacker = apikey_unpacker_create();
    fuzz_must(packer && unpacker);

    if (apikey_pack(packer, frame, 1, out)) {
        fuzz_must(apikey_unpack_open(unpacker, out) == APIKEY_UNPACK_OK);
        fuzz_must(apikey_unpack_next(unpacker, &other) == 1);
        fuzz_must(memcmp(&other.count, &event->count, sizeof(other.count))
                  == 0);
        fuzz_must(memcmp(&other.shape, &event->shape, sizeof(other.shape))
                  == 0);
    }

    apikey_packer_free(packer);
    apikey_unpacker_free(unpacker);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int                 rc, again;
    uint8_t            *frame;
    apikey_frame_t      head;
    apikey_event_t      event;
    apikey_unpacker_t  *u;

    memset(&head, 0, sizeof(head));
    head.magic = APIKEY_FRAME_PACKED;
    head.size = (uint32_t) size;
    head.count = 100;
    head.first = 1;

    frame = malloc(sizeof(head) + size);
    u = apikey_unpacker_create();

    if (frame == NULL || u == NULL) {
        free(frame);
        apikey_unpacker_free(u);
        return 0;
    }

    memcpy(frame, &head, sizeof(head));

    if (size) {
        memcpy(frame + sizeof(head), data, size);
    }

    again = 0;

    if (apikey_unpack_open(u, frame) == APIKEY_UNPACK_OK) {
        while ((rc = apikey_unpack_next(u, &event)) > 0) {
            if (rc == 1 && again++ == 0) {
                fuzz_pack_again(&event);
            }
        }
    }

    free(frame);
    apikey_unpacker_free(u);

    return 0;
}
