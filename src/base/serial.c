
/*
 * A Feistel network of two halves of 31 bits.
 *
 * Plain C, no state.
 */


#include "base/serial.h"


#define APIKEY_SERIAL_HALF    31
#define APIKEY_SERIAL_LOW     0x7fffffffu
#define APIKEY_SERIAL_ROUNDS  6


static uint32_t apikey_serial_round(uint64_t key, uint32_t half,
    unsigned round);


uint64_t
apikey_serial_hide(uint64_t key, uint64_t n)
{
    unsigned  i;
    uint32_t  left, right, next;

    left = (uint32_t) (n >> APIKEY_SERIAL_HALF) & APIKEY_SERIAL_LOW;
    right = (uint32_t) n & APIKEY_SERIAL_LOW;

    for (i = 0; i < APIKEY_SERIAL_ROUNDS; i++) {
        next = left ^ apikey_serial_round(key, right, i);
        left = right;
        right = next;
    }

    return (uint64_t) left << APIKEY_SERIAL_HALF | right;
}


uint64_t
apikey_serial_show(uint64_t key, uint64_t hidden)
{
    unsigned  i;
    uint32_t  left, right, next;

    left = (uint32_t) (hidden >> APIKEY_SERIAL_HALF) & APIKEY_SERIAL_LOW;
    right = (uint32_t) hidden & APIKEY_SERIAL_LOW;

    for (i = APIKEY_SERIAL_ROUNDS; i-- > 0; /* void */) {
        next = right ^ apikey_serial_round(key, left, i);
        right = left;
        left = next;
    }

    return (uint64_t) left << APIKEY_SERIAL_HALF | right;
}


/* The mixing step of splitmix64, at a place of its own for each round. */

static uint32_t
apikey_serial_round(uint64_t key, uint32_t half, unsigned round)
{
    uint64_t  z;

    z = key + ((uint64_t) half << 3 | round) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);

    return (uint32_t) (z >> 33);
}
