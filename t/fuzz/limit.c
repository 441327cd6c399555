
/*
 * Limits as Postgres hands them over, packed into a buffer of just that
 * size, and buckets that run on what was read.
 *
 * Input: the size of the buffer in units of 8 bytes, the lines, NUL, the lines
 * of their terms.
 */


#include "base/limit.h"
#include "limit/bucket.h"

#include "fuzz.h"


static void
fuzz_limit_bucket(const apikey_limit_t *limit)
{
    uint64_t         now, wait;
    apikey_bucket_t  b;

    now = UINT64_C(1795256130123456);
    apikey_bucket_init(&b, now);

    fuzz_must(apikey_bucket_remaining(&b, &limit->rate) == limit->burst);
    fuzz_must(apikey_bucket_take(&b, &limit->rate, limit->burst));
    fuzz_must(apikey_bucket_remaining(&b, &limit->rate) == 0);
    fuzz_must(!apikey_bucket_take(&b, &limit->rate, 1));

    wait = apikey_bucket_wait(&b, &limit->rate, 1, now);

    if (wait < APIKEY_BUCKET_MAX - now) {
        apikey_bucket_refill(&b, &limit->rate, now + wait - 1);
        fuzz_must(!apikey_bucket_take(&b, &limit->rate, 1));

        apikey_bucket_refill(&b, &limit->rate, now + wait);
        fuzz_must(apikey_bucket_take(&b, &limit->rate, 1));
    }
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char                  *buf;
    size_t                 room, used, walked;
    unsigned               count;
    const uint8_t         *nul;
    apikey_limit_text_t    text, terms;
    const apikey_limit_t  *limit;

    if (size == 0) {
        return 0;
    }

    room = (size_t) data[0] * 8;
    buf = malloc(room + 1);

    if (buf == NULL) {
        return 0;
    }

    text.text = (const char *) data + 1;
    text.len = size - 1;

    nul = memchr(data + 1, '\0', size - 1);
    terms.text = NULL;
    terms.len = 0;

    if (nul) {
        text.len = (size_t) (nul - data) - 1;
        terms.text = (const char *) nul + 1;
        terms.len = (size_t) (data + size - nul) - 1;
    }

    used = apikey_limit_parse(&text, &terms, buf, room, &count);

    if (used != (size_t) -1) {
        fuzz_must(used <= room);

        limit = (const apikey_limit_t *) buf;

        for (walked = 0; count; count--) {
            if (limit->kind == APIKEY_KIND_BUCKET) {
                fuzz_must(apikey_rate_check(&limit->rate, limit->limit,
                                            limit->window, limit->burst));
            }

            fuzz_must(limit->name_len + limit->service_len + limit->model_len
                      <= limit->size);

            fuzz_limit_bucket(limit);

            walked += limit->size;
            limit = apikey_limit_next(limit);
        }

        fuzz_must(walked == used);
    }

    free(buf);

    return 0;
}
