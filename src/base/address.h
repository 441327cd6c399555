
/*
 * Addresses that only mean something inside of a network: who calls a URL
 * that somebody else has written must not be led to them.
 *
 * Plain C, no allocation, no state: any thread may call.
 */


#ifndef APIKEY_ADDRESS_H_INCLUDED
#define APIKEY_ADDRESS_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>


#define APIKEY_ADDRESS_LEN  16


/*
 * IPv4 stands in the last four bytes, behind ::ffff:0:0/96, as IPv6 writes it.
 * So that is what an IPv4 address written as IPv6 becomes by itself.
 */

typedef struct {
    uint8_t   byte[APIKEY_ADDRESS_LEN];
} apikey_address_t;


void apikey_address_v4(apikey_address_t *a, const uint8_t byte[4]);
void apikey_address_v6(apikey_address_t *a, const uint8_t byte[16]);

/*
 * Not an address of the public Internet: private, local, link-local,
 * multicast, reserved, for documentation, or one that carries such an IPv4
 * address in it (mapped, compatible, NAT64, 6to4).
 */
bool apikey_address_private(const apikey_address_t *a);

/*
 * In one of the networks of a text such as "10.0.0.0/8, fd00::/8 ::1", blanks
 * or commas between them.  What is no network there covers nothing.
 */
bool apikey_address_in(const apikey_address_t *a, const char *networks);


#endif /* APIKEY_ADDRESS_H_INCLUDED */
