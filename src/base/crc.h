
/*
 * CRC-32 (IEEE, for keys) and CRC-32C (Castagnoli, for files; SSE 4.2 or
 * ARMv8 instructions where the CPU has them, chosen at run time).
 *
 * Plain C.  Start with 0; feed the last value back in to go on.
 */


#ifndef APIKEY_CRC_H_INCLUDED
#define APIKEY_CRC_H_INCLUDED


#include <stddef.h>
#include <stdint.h>


uint32_t apikey_crc32(uint32_t crc, const void *data, size_t len);
uint32_t apikey_crc32c(uint32_t crc, const void *data, size_t len);


#endif /* APIKEY_CRC_H_INCLUDED */
