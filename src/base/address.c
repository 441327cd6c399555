
/*
 * Private addresses, and networks as text.
 */


#include "base/address.h"

#include <string.h>
#include <arpa/inet.h>


#define APIKEY_ADDRESS_TEXT  64      /* a network's, with its length */


typedef struct {
    uint8_t   byte[APIKEY_ADDRESS_LEN];
    unsigned  bits;
} apikey_network_t;


static bool apikey_network_parse(apikey_network_t *net, const char *text,
    size_t len);
static bool apikey_network_holds(const apikey_network_t *net,
    const apikey_address_t *a);
static bool apikey_address_v4_private(const uint8_t byte[4]);


#define V4  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff


/* IANA's special-purpose registry, what is not globally reachable. */

static const apikey_network_t  apikey_private_v4[] = {
    { { V4, 0 }, 96 + 8 },                        /* this network */
    { { V4, 10 }, 96 + 8 },
    { { V4, 100, 64 }, 96 + 10 },                 /* carriers' NAT */
    { { V4, 127 }, 96 + 8 },
    { { V4, 169, 254 }, 96 + 16 },                /* link-local, metadata */
    { { V4, 172, 16 }, 96 + 12 },
    { { V4, 192, 0, 0 }, 96 + 24 },
    { { V4, 192, 0, 2 }, 96 + 24 },               /* documentation */
    { { V4, 192, 88, 99 }, 96 + 24 },             /* 6to4 relays */
    { { V4, 192, 168 }, 96 + 16 },
    { { V4, 198, 18 }, 96 + 15 },                 /* benchmarks */
    { { V4, 198, 51, 100 }, 96 + 24 },
    { { V4, 203, 0, 113 }, 96 + 24 },
    { { V4, 224 }, 96 + 3 },                      /* multicast, reserved */
    { { 0 }, 0 }
};


/* IPv6 that is public stands in 2000::/3, but for these. */

static const apikey_network_t  apikey_private_v6[] = {
    { { 0x20, 0x01, 0x00 }, 23 },                 /* protocols, Teredo */
    { { 0x20, 0x01, 0x0d, 0xb8 }, 32 },           /* documentation */
    { { 0x3f, 0xff, 0x00 }, 20 },                 /* documentation */
    { { 0 }, 0 }
};

static const apikey_network_t  apikey_public_v6 = { { 0x20 }, 3 };

/* They carry an IPv4 address from this byte on. */

static const struct {
    apikey_network_t  net;
    unsigned          at;
} apikey_carriers[] = {
    { { { V4 }, 96 }, 12 },                       /* mapped, and IPv4 itself */
    { { { 0x00, 0x64, 0xff, 0x9b }, 96 }, 12 },   /* NAT64 */
    { { { 0x20, 0x02 }, 16 }, 2 },                /* 6to4 */
    { { { 0 }, 0 }, 0 }
};


void
apikey_address_v4(apikey_address_t *a, const uint8_t byte[4])
{
    static const uint8_t  mapped[] = { V4 };

    memcpy(a->byte, mapped, sizeof(mapped));
    memcpy(a->byte + sizeof(mapped), byte, 4);
}


void
apikey_address_v6(apikey_address_t *a, const uint8_t byte[16])
{
    memcpy(a->byte, byte, APIKEY_ADDRESS_LEN);
}


bool
apikey_address_private(const apikey_address_t *a)
{
    unsigned                 i;
    const apikey_network_t  *net;

    for (i = 0; apikey_carriers[i].net.bits; i++) {
        if (apikey_network_holds(&apikey_carriers[i].net, a)) {
            return apikey_address_v4_private(a->byte + apikey_carriers[i].at);
        }
    }

    if (!apikey_network_holds(&apikey_public_v6, a)) {
        return true;
    }

    for (net = apikey_private_v6; net->bits; net++) {
        if (apikey_network_holds(net, a)) {
            return true;
        }
    }

    return false;
}


static bool
apikey_address_v4_private(const uint8_t byte[4])
{
    apikey_address_t         a;
    const apikey_network_t  *net;

    apikey_address_v4(&a, byte);

    for (net = apikey_private_v4; net->bits; net++) {
        if (apikey_network_holds(net, &a)) {
            return true;
        }
    }

    return false;
}


bool
apikey_address_in(const apikey_address_t *a, const char *networks)
{
    size_t            len;
    const char       *p;
    apikey_network_t  net;

    for (p = networks; *p; p += len) {
        p += strspn(p, " ,");
        len = strcspn(p, " ,");

        if (len && apikey_network_parse(&net, p, len)
            && apikey_network_holds(&net, a))
        {
            return true;
        }
    }

    return false;
}


static bool
apikey_network_parse(apikey_network_t *net, const char *text, size_t len)
{
    char        buf[APIKEY_ADDRESS_TEXT], *slash, *p;
    uint8_t     v4[4];
    unsigned    bits;

    if (len >= sizeof(buf)) {
        return false;
    }

    memcpy(buf, text, len);
    buf[len] = '\0';

    slash = strchr(buf, '/');

    if (slash) {
        *slash = '\0';
    }

    if (inet_pton(AF_INET, buf, v4) == 1) {
        apikey_address_v4((apikey_address_t *) net->byte, v4);
        net->bits = 32;

    } else if (inet_pton(AF_INET6, buf, net->byte) == 1) {
        net->bits = 128;

    } else {
        return false;
    }

    if (slash) {
        bits = 0;

        for (p = slash + 1; *p >= '0' && *p <= '9' && bits < 1000; p++) {
            bits = bits * 10 + (unsigned) (*p - '0');
        }

        if (p == slash + 1 || *p || bits > net->bits) {
            return false;
        }

        bits += 128 - net->bits;
        net->bits = bits;

    } else {
        net->bits = 128;
    }

    return true;
}


static bool
apikey_network_holds(const apikey_network_t *net, const apikey_address_t *a)
{
    uint8_t   mask;
    unsigned  whole;

    whole = net->bits / 8;

    if (memcmp(net->byte, a->byte, whole) != 0) {
        return false;
    }

    if (net->bits % 8 == 0) {
        return true;
    }

    mask = (uint8_t) (0xff << (8 - net->bits % 8));

    return ((net->byte[whole] ^ a->byte[whole]) & mask) == 0;
}
