
/*
 * Numbers that look random: a permutation of 62 bits under a key.
 *
 * The random half of a request's id is such a number.  Whoever has the key
 * sees the count behind it, and can pack ids close together; whoever has not
 * learns nothing of how many there were.  It keeps no secrets but that one.
 *
 * Plain C, no state.
 */


#ifndef APIKEY_SERIAL_H_INCLUDED
#define APIKEY_SERIAL_H_INCLUDED


#include <stdint.h>


#define APIKEY_SERIAL_BITS  62
#define APIKEY_SERIAL_MASK  ((UINT64_C(1) << APIKEY_SERIAL_BITS) - 1)


/* n and what is returned: at most SERIAL_MASK. */
uint64_t apikey_serial_hide(uint64_t key, uint64_t n);
uint64_t apikey_serial_show(uint64_t key, uint64_t hidden);


#endif /* APIKEY_SERIAL_H_INCLUDED */
