
/*
 * CRC-32 (IEEE) and CRC-32C (Castagnoli), both reflected.
 *
 * In software four bits a step, out of sixteen words: keys are short, and
 * for files the processor's instruction is used where there is one.
 */


#include <stdbool.h>

#include "base/crc.h"

#if defined(__x86_64__)
#include <string.h>
#include <nmmintrin.h>
#define APIKEY_CRC_TARGET  __attribute__((target("sse4.2")))

#elif defined(__aarch64__) && defined(__linux__)
#include <string.h>
#include <sys/auxv.h>
#include <asm/hwcap.h>
#include <arm_acle.h>
#ifdef __clang__
#define APIKEY_CRC_TARGET  __attribute__((target("crc")))
#else
#define APIKEY_CRC_TARGET  __attribute__((target("+crc")))
#endif
#endif


static uint32_t apikey_crc_table(const uint32_t table[16], uint32_t crc,
    const uint8_t *p, size_t len);


static const uint32_t  apikey_crc_ieee[16] = {
    0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac,
    0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
    0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
    0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c
};


static const uint32_t  apikey_crc_castagnoli[16] = {
    0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1,
    0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
    0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
    0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75
};


#ifdef APIKEY_CRC_TARGET

static bool
apikey_crc_native(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("sse4.2");
#else
    return getauxval(AT_HWCAP) & HWCAP_CRC32;
#endif
}


APIKEY_CRC_TARGET static uint32_t
apikey_crc32c_native(uint32_t crc, const uint8_t *p, size_t len)
{
    uint64_t  word;

    for ( /* void */ ; len >= sizeof(word); len -= sizeof(word)) {
        memcpy(&word, p, sizeof(word));
        p += sizeof(word);

#if defined(__x86_64__)
        crc = (uint32_t) _mm_crc32_u64(crc, word);
#else
        crc = __crc32cd(crc, word);
#endif
    }

    while (len--) {
#if defined(__x86_64__)
        crc = _mm_crc32_u8(crc, *p++);
#else
        crc = __crc32cb(crc, *p++);
#endif
    }

    return crc;
}

#endif


uint32_t
apikey_crc32(uint32_t crc, const void *data, size_t len)
{
    return ~apikey_crc_table(apikey_crc_ieee, ~crc, data, len);
}


uint32_t
apikey_crc32c(uint32_t crc, const void *data, size_t len)
{
#ifdef APIKEY_CRC_TARGET
    if (apikey_crc_native()) {
        return ~apikey_crc32c_native(~crc, data, len);
    }
#endif

    return ~apikey_crc_table(apikey_crc_castagnoli, ~crc, data, len);
}


static uint32_t
apikey_crc_table(const uint32_t table[16], uint32_t crc, const uint8_t *p,
    size_t len)
{
    while (len--) {
        crc ^= *p++;
        crc = table[crc & 15] ^ (crc >> 4);
        crc = table[crc & 15] ^ (crc >> 4);
    }

    return crc;
}
