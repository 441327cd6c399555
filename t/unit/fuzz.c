
/*
 * The fuzz targets without a fuzzer: their seeds, changed at random in a way
 * that is the same in every run.
 *
 * Run from the top of the tree, where t/fuzz is.
 */


#define _POSIX_C_SOURCE  200809L

#include <dirent.h>
#include <stdlib.h>

#include "unit.h"


#define LLVMFuzzerTestOneInput  fuzz_target_key
#include "../fuzz/key.c"
#undef LLVMFuzzerTestOneInput

#define LLVMFuzzerTestOneInput  fuzz_target_token
#undef APIKEY_FUZZ_H_INCLUDED
#include "../fuzz/token.c"
#undef LLVMFuzzerTestOneInput

#define LLVMFuzzerTestOneInput  fuzz_target_limit
#undef APIKEY_FUZZ_H_INCLUDED
#include "../fuzz/limit.c"
#undef LLVMFuzzerTestOneInput

#define LLVMFuzzerTestOneInput  fuzz_target_json
#undef APIKEY_FUZZ_H_INCLUDED
#include "../fuzz/json.c"
#undef LLVMFuzzerTestOneInput

#define LLVMFuzzerTestOneInput  fuzz_target_scan
#undef APIKEY_FUZZ_H_INCLUDED
#include "../fuzz/scan.c"
#undef LLVMFuzzerTestOneInput

#define LLVMFuzzerTestOneInput  fuzz_target_uuid
#undef APIKEY_FUZZ_H_INCLUDED
#include "../fuzz/uuid.c"
#undef LLVMFuzzerTestOneInput

#define LLVMFuzzerTestOneInput  fuzz_target_pattern
#undef APIKEY_FUZZ_H_INCLUDED
#include "../fuzz/pattern.c"
#undef LLVMFuzzerTestOneInput

#define LLVMFuzzerTestOneInput  fuzz_target_money
#undef APIKEY_FUZZ_H_INCLUDED
#include "../fuzz/money.c"
#undef LLVMFuzzerTestOneInput

#define LLVMFuzzerTestOneInput  fuzz_target_rows
#undef APIKEY_FUZZ_H_INCLUDED
#include "../fuzz/rows.c"
#undef LLVMFuzzerTestOneInput

#define LLVMFuzzerTestOneInput  fuzz_target_slot
#undef APIKEY_FUZZ_H_INCLUDED
#include "../fuzz/slot.c"
#undef LLVMFuzzerTestOneInput

#define LLVMFuzzerTestOneInput  fuzz_target_extract
#undef APIKEY_FUZZ_H_INCLUDED
#include "../fuzz/extract.c"
#undef LLVMFuzzerTestOneInput

#define LLVMFuzzerTestOneInput  fuzz_target_request
#undef APIKEY_FUZZ_H_INCLUDED
#include "../fuzz/request.c"
#undef LLVMFuzzerTestOneInput

#define LLVMFuzzerTestOneInput  fuzz_target_pack
#undef APIKEY_FUZZ_H_INCLUDED
#include "../fuzz/pack.c"
#undef LLVMFuzzerTestOneInput


#define TEST_ROUNDS  20000
#define TEST_SEEDS   8
#define TEST_MAX     512


typedef struct {
    uint8_t  data[TEST_MAX];
    size_t   len;
} test_input_t;


static uint64_t  test_seed = 42;


static size_t
test_random(size_t limit)
{
    test_seed ^= test_seed << 13;
    test_seed ^= test_seed >> 7;
    test_seed ^= test_seed << 17;

    return test_seed % limit;
}


static int
test_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}


static size_t
test_read(const char *dir, test_input_t *seeds)
{
    int              i, found;
    char             path[512];
    FILE            *f;
    size_t           n;
    struct dirent  **entries;

    n = 0;
    found = scandir(dir, &entries, test_visible, alphasort);

    for (i = 0; i < found; i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, entries[i]->d_name);
        free(entries[i]);

        f = n < TEST_SEEDS ? fopen(path, "r") : NULL;

        if (f) {
            seeds[n].len = fread(seeds[n].data, 1, TEST_MAX, f);
            fclose(f);
            n++;
        }
    }

    if (found >= 0) {
        free(entries);
    }

    return n;
}


/* One to four changes: a byte replaced, taken out, put in, a piece doubled. */

static void
test_change(test_input_t *in)
{
    size_t              at, len, times;
    static const char   bytes[] = "\0\t\n\r #=_-.:|\"\\0129AZaz\x7f\x80\xff";

    for (times = 1 + test_random(4); times; times--) {
        at = test_random(in->len + 1);

        switch (test_random(4)) {

        case 0:
            if (at < in->len) {
                in->data[at] = (uint8_t) test_random(256);
            }

            break;

        case 1:
            if (at < in->len) {
                memmove(in->data + at, in->data + at + 1, in->len - at - 1);
                in->len--;
            }

            break;

        case 2:
            if (in->len < TEST_MAX) {
                memmove(in->data + at + 1, in->data + at, in->len - at);
                in->data[at] =
                            (uint8_t) bytes[test_random(sizeof(bytes) - 1)];
                in->len++;
            }

            break;

        default:
            len = test_random(in->len - at + 1);

            if (in->len + len <= TEST_MAX) {
                memmove(in->data + at + len, in->data + at, in->len - at);
                in->len += len;
            }
        }
    }
}


static void
test_target(const char *name, int (*target)(const uint8_t *data, size_t size))
{
    char           dir[64];
    size_t         i, n;
    uint8_t       *data;
    test_input_t   in, seeds[TEST_SEEDS];

    snprintf(dir, sizeof(dir), "t/fuzz/%s.seeds", name);
    n = test_read(dir, seeds);

    if (!ok(n > 0, dir)) {
        return;
    }

    for (i = 0; i < TEST_ROUNDS; i++) {
        in = seeds[i % n];

        if (i >= n) {
            test_change(&in);
        }

        /* a copy of just that size, so that a read beyond it is noticed */

        data = malloc(in.len + !in.len);

        if (data == NULL) {
            break;
        }

        memcpy(data, in.data, in.len);
        (void) target(data, in.len);
        free(data);
    }

    is_uint(i, TEST_ROUNDS, name);
}


int
main(void)
{
    test_target("key", fuzz_target_key);
    test_target("token", fuzz_target_token);
    test_target("limit", fuzz_target_limit);
    test_target("json", fuzz_target_json);
    test_target("scan", fuzz_target_scan);
    test_target("uuid", fuzz_target_uuid);
    test_target("pattern", fuzz_target_pattern);
    test_target("money", fuzz_target_money);
    test_target("rows", fuzz_target_rows);
    test_target("slot", fuzz_target_slot);
    test_target("extract", fuzz_target_extract);
    test_target("request", fuzz_target_request);
    test_target("pack", fuzz_target_pack);

    return unit_done();
}
