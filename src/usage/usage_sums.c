
/*
 * Refusals: sums in a small table of slots, so that they survive as requests
 * do, and a few of them in detail.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include <sys/mman.h>

#include "base/crc.h"
#include "usage/ship.h"


#define NGX_HTTP_APIKEY_QUARTER  900000000LL
#define NGX_HTTP_APIKEY_DETAILS  10          /* a second and node */


static ngx_uint_t ngx_http_apikey_usage_detail(ngx_http_apikey_usage_t *u);
static ngx_uint_t ngx_http_apikey_usage_same(apikey_record_t *record,
    ngx_http_apikey_usage_start_t *start, int64_t quarter);
static ngx_uint_t ngx_http_apikey_usage_text(const char *p, size_t len,
    ngx_str_t *text);


/* The count of details is the node's, not the worker's: a word in a file. */

void
ngx_http_apikey_usage_details(ngx_http_apikey_usage_t *u, ngx_pool_t *pool)
{
    int      fd;
    void    *p;
    u_char  *name;

    name = ngx_pnalloc(pool, ngx_strlen(u->dir) + sizeof("/details"));
    if (name == NULL) {
        return;
    }

    ngx_sprintf(name, "%s/details%Z", u->dir);

    fd = open((char *) name, O_RDWR|O_CREAT|O_CLOEXEC, 0600);
    if (fd == -1) {
        return;
    }

    if (posix_fallocate(fd, 0, sizeof(uint64_t)) == 0) {
        p = mmap(NULL, sizeof(uint64_t), PROT_READ|PROT_WRITE, MAP_SHARED,
                 fd, 0);

        if (p != MAP_FAILED) {
            u->details = p;
        }
    }

    (void) close(fd);
}


/*
 * One sum for each place in a small table: another one that falls into the
 * same place sends the first one on its way.  So whatever is thrown at us,
 * the table stays as it is.
 */

void
ngx_http_apikey_usage_refused(ngx_http_apikey_usage_t *u,
    ngx_http_apikey_usage_start_t *start)
{
    int64_t                         quarter;
    uint32_t                        hash;
    apikey_ring_t                  *ring;
    apikey_slot_t                  *slot, **sum;
    ngx_http_apikey_usage_start_t   common;

    quarter = start->time - start->time % NGX_HTTP_APIKEY_QUARTER;

    hash = apikey_crc32c(start->verdict, start->key, 16);
    hash = apikey_crc32c(hash, start->service.data, start->service.len);
    hash = apikey_crc32c(hash, start->limit_name.data, start->limit_name.len);

    sum = &u->sums[hash % NGX_HTTP_APIKEY_SUMS];

    if (*sum
        && !ngx_http_apikey_usage_same(&(*sum)->record, start, quarter))
    {
        ngx_http_apikey_usage_publish(u, ngx_http_apikey_usage_ring(u, *sum),
                                      *sum);
        *sum = NULL;
        u->nsums--;
    }

    if (*sum == NULL) {
        ngx_memzero(&common, sizeof(ngx_http_apikey_usage_start_t));
        common.time = quarter;
        ngx_memcpy(common.key, start->key, 16);
        common.owner = start->owner;
        common.customer = start->customer;
        common.service = start->service;
        common.limit_name = start->limit_name;
        common.status = start->status;
        common.verdict = start->verdict;

        slot = ngx_http_apikey_usage_fill(u, &common, APIKEY_RECORD_SUM,
                                          &ring);
        if (slot == NULL) {
            ngx_http_apikey_usage_dropped(u);
            return;
        }

        slot->record.count.count = 1;
        apikey_ring_opened(ring, slot, APIKEY_SLOT_SUM, 0);
        *sum = slot;
        u->nsums++;

    } else {
        (*sum)->record.count.count++;
    }

    u->tick.cancelable = u->drained;

    if (ngx_http_apikey_usage_detail(u)) {
        slot = ngx_http_apikey_usage_fill(u, start, APIKEY_RECORD_DETAIL,
                                          &ring);
        if (slot) {
            apikey_ring_opened(ring, slot, APIKEY_SLOT_SUM, 0);
            ngx_http_apikey_usage_publish(u, ring, slot);
        }
    }
}


static ngx_uint_t
ngx_http_apikey_usage_detail(ngx_http_apikey_usage_t *u)
{
    uint64_t  now, old;

    if (u->details == NULL) {
        return 0;
    }

    now = (uint64_t) ngx_time() << 8;
    old = __atomic_load_n(u->details, __ATOMIC_RELAXED);

    do {
        if (old >= now && (old & 255) >= NGX_HTTP_APIKEY_DETAILS
            && old - now < 60 << 8)
        {
            return 0;
        }

    } while (!__atomic_compare_exchange_n(u->details, &old,
                                 (old >> 8 == now >> 8 ? old : now) + 1, 0,
                                 __ATOMIC_RELAXED, __ATOMIC_RELAXED));

    return 1;
}


static ngx_uint_t
ngx_http_apikey_usage_same(apikey_record_t *record,
    ngx_http_apikey_usage_start_t *start, int64_t quarter)
{
    char            *service, *limit;
    apikey_shape_t  *shape;

    shape = &record->shape;

    service = record->text + shape->len[APIKEY_TEXT_OWNER]
              + shape->len[APIKEY_TEXT_CUSTOMER];
    limit = service + shape->len[APIKEY_TEXT_SERVICE];

    return record->count.time == quarter
           && shape->verdict == start->verdict
           && shape->status == start->status
           && ngx_memcmp(shape->key, start->key, 16) == 0
           && ngx_http_apikey_usage_text(service,
                          shape->len[APIKEY_TEXT_SERVICE], &start->service)
           && ngx_http_apikey_usage_text(limit,
                          shape->len[APIKEY_TEXT_LIMIT], &start->limit_name);
}


static ngx_uint_t
ngx_http_apikey_usage_text(const char *p, size_t len, ngx_str_t *text)
{
    return len == ngx_min(text->len, APIKEY_TEXT_MAX)
           && (len == 0 || ngx_memcmp(p, text->data, len) == 0);
}


void
ngx_http_apikey_usage_flush(ngx_http_apikey_usage_t *u)
{
    ngx_uint_t      i;
    apikey_slot_t  *slot;

    for (i = 0; u->nsums && i < NGX_HTTP_APIKEY_SUMS; i++) {
        slot = u->sums[i];

        if (slot) {
            u->sums[i] = NULL;
            u->nsums--;
            ngx_http_apikey_usage_publish(u,
                                          ngx_http_apikey_usage_ring(u, slot),
                                          slot);
        }
    }
}
