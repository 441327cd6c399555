
/*
 * A network of a key's allowed_ips, from text to the 18 bytes that the zone
 * holds: 4 or 6, the length of the prefix, the address.
 */


#include "keyring/store.h"


ngx_int_t
ngx_http_apikey_row_ip(ngx_str_t *word, u_char *entry)
{
    u_char      *addr;
    ngx_int_t    rc;
    ngx_uint_t   i, bits;
    ngx_cidr_t   cidr;

    rc = ngx_ptocidr(word, &cidr);

    if (rc != NGX_OK && rc != NGX_DONE) {
        return NGX_ERROR;
    }

    ngx_memzero(entry, 18);

    if (cidr.family == AF_INET) {
        entry[0] = 4;
        ngx_memcpy(entry + 2, &cidr.u.in.addr, 4);
        addr = (u_char *) &cidr.u.in.mask;
        bits = 32;

#if (NGX_HAVE_INET6)
    } else if (cidr.family == AF_INET6) {
        entry[0] = 6;
        ngx_memcpy(entry + 2, &cidr.u.in6.addr, 16);
        addr = (u_char *) &cidr.u.in6.mask;
        bits = 128;

        if (IN6_IS_ADDR_V4MAPPED(&cidr.u.in6.addr) && addr[11] == 0xff) {

            /* clients that come so are IPv4 to us, too */

            entry[0] = 4;
            ngx_memmove(entry + 2, entry + 14, 4);
            ngx_memzero(entry + 6, 12);
            addr += 12;
            bits = 32;
        }
#endif

    } else {
        return NGX_ERROR;
    }

    for (i = 0; i < bits; i++) {
        if ((addr[i / 8] & (0x80 >> (i % 8))) == 0) {
            break;
        }
    }

    entry[1] = (u_char) i;

    return NGX_OK;
}
