
/*
 * The arena: blocks in size classes with free lists, and the flat indexes.
 *
 * Classes are exact up to 64 units and eight to a power of two above, so that
 * a record of common size wastes at most 15 bytes.  Blocks are never split:
 * the whole arena can be walked from block to block at any time.  Called with
 * the zone's mutex held.
 */


#include "keyring/store.h"


#define NGX_HTTP_APIKEY_SLOTS_MIN  4096
#define NGX_HTTP_APIKEY_SLOTS_FEW  32768     /* beyond these: all there are */


static ngx_uint_t ngx_http_apikey_blocks_class(uint32_t *units);


/* Rounds units up to its class. */

static ngx_uint_t
ngx_http_apikey_blocks_class(uint32_t *units)
{
    uint32_t    step;
    ngx_uint_t  power;

    if (*units <= 64) {
        return *units - 1;
    }

    for (power = 6; *units > (2u << power); power++) { /* void */ }

    step = (1u << power) / 8;
    *units = (*units + step - 1) / step * step;

    return 64 + (power - 6) * 8 + (*units - (1u << power)) / step - 1;
}


uint32_t
ngx_http_apikey_blocks_alloc(ngx_http_apikey_keyring_sh_t *sh, size_t size)
{
    uint32_t                  off, units;
    ngx_uint_t                n, last;
    ngx_http_apikey_block_t  *b;

    units = (size + NGX_HTTP_APIKEY_UNIT - 1) / NGX_HTTP_APIKEY_UNIT;

    n = ngx_http_apikey_blocks_class(&units);
    units = ngx_min(units, NGX_HTTP_APIKEY_UNITS_MAX);

    if (sh->free[n] == 0 && sh->size - sh->used >= units) {
        off = sh->used;

        b = ngx_http_apikey_block(sh, off);
        b->units = units;
        b->state = NGX_HTTP_APIKEY_BLOCK_FREE;
        b->dead = 0;
        b->next = 0;

        ngx_memory_barrier();

        sh->used = off + units;

        return off;
    }

    /* a block up to half as large again is better than none */

    last = ngx_min(n + 4, NGX_HTTP_APIKEY_CLASSES - 1);

    for ( /* void */ ; n <= last; n++) {
        off = sh->free[n];

        if (off) {
            b = ngx_http_apikey_block(sh, off);
            sh->free[n] = b->next;
            sh->nfree -= b->units;

            return off;
        }
    }

    return 0;
}


/* A save in progress still has to see the block: it waits in limbo. */

void
ngx_http_apikey_blocks_free(ngx_http_apikey_keyring_sh_t *sh, uint32_t off)
{
    ngx_http_apikey_block_t  *b;

    b = ngx_http_apikey_block(sh, off);

    if (sh->saving) {
        b->dead = 1;
        b->next = sh->limbo;
        sh->limbo = off;
        return;
    }

    ngx_http_apikey_blocks_chain(sh, off);
}


void
ngx_http_apikey_blocks_chain(ngx_http_apikey_keyring_sh_t *sh, uint32_t off)
{
    uint32_t                  units;
    ngx_uint_t                n;
    ngx_http_apikey_block_t  *b;

    b = ngx_http_apikey_block(sh, off);

    b->state = NGX_HTTP_APIKEY_BLOCK_FREE;
    b->dead = 0;

    units = b->units;
    n = ngx_http_apikey_blocks_class(&units);

    b->next = sh->free[n];
    sh->free[n] = off;
    sh->nfree += b->units;
}


/*
 * Twice as many slots with each step, all of them after the last: to fill
 * these takes the mutex for a millisecond or two, once in a zone's life.
 */

void
ngx_http_apikey_index_reset(ngx_http_apikey_index_t *index, uint64_t n)
{
    uint64_t  size;

    ngx_memzero(index->slots, index->size * sizeof(uint64_t));

    for (size = NGX_HTTP_APIKEY_SLOTS_MIN; n > size / 2; size *= 2) {
        if (size == NGX_HTTP_APIKEY_SLOTS_FEW) {
            size = index->room;
            break;
        }
    }

    index->size = ngx_min(size, index->room);
    index->used = 0;
}


uint32_t
ngx_http_apikey_index_hash(const u_char *id)
{
    uint64_t  a, b;

    ngx_memcpy(&a, id, 8);
    ngx_memcpy(&b, id + 8, 8);

    a = (a ^ (a >> 32)) * 0x9e3779b97f4a7c15ULL;
    b = (b ^ a ^ (a >> 29)) * 0xbf58476d1ce4e5b9ULL;

    return (uint32_t) (b >> 32);
}


/* The slot that holds (hash, off); NULL: none. */

uint64_t *
ngx_http_apikey_index_find(ngx_http_apikey_index_t *index, uint32_t hash,
    uint32_t off)
{
    uint64_t  i, value;

    value = (uint64_t) hash << 32 | off;

    for (i = ngx_http_apikey_index_home(index, hash);
         index->slots[i];
         i = (i + 1 == index->size) ? 0 : i + 1)
    {
        if (index->slots[i] == value) {
            return &index->slots[i];
        }
    }

    return NULL;
}


/* The caller has seen that there is room. */

void
ngx_http_apikey_index_insert(ngx_http_apikey_index_t *index, uint32_t hash,
    uint32_t off)
{
    uint64_t  i;

    i = ngx_http_apikey_index_home(index, hash);

    while (index->slots[i]) {
        i = (i + 1 == index->size) ? 0 : i + 1;
    }

    index->slots[i] = (uint64_t) hash << 32 | off;
    index->used++;
}


/* Closes the gap, so that no search ever meets a grave. */

void
ngx_http_apikey_index_remove(ngx_http_apikey_index_t *index, uint32_t hash,
    uint32_t off)
{
    uint64_t   i, j, home, *slot;

    slot = ngx_http_apikey_index_find(index, hash, off);
    if (slot == NULL) {
        return;
    }

    i = slot - index->slots;
    j = i;

    for ( ;; ) {
        j = (j + 1 == index->size) ? 0 : j + 1;

        if (index->slots[j] == 0) {
            break;
        }

        home = ngx_http_apikey_index_home(index, index->slots[j] >> 32);

        /* stays: its home lies behind the gap */

        if (i <= j ? (i < home && home <= j) : (i < home || home <= j)) {
            continue;
        }

        index->slots[i] = index->slots[j];
        i = j;
    }

    index->slots[i] = 0;
    index->used--;
}
