
/*
 * Which addresses are private, however they are written, and which networks
 * hold them.
 */


#include "base/address.h"

#include <arpa/inet.h>

#include "unit.h"


static apikey_address_t
address(const char *text)
{
    uint8_t           byte[16];
    apikey_address_t  a;

    if (inet_pton(AF_INET, text, byte) == 1) {
        apikey_address_v4(&a, byte);

    } else if (inet_pton(AF_INET6, text, byte) == 1) {
        apikey_address_v6(&a, byte);

    } else {
        printf("# %s is no address\n", text);
        memset(&a, 0, sizeof(a));
    }

    return a;
}


static void
test_private(void)
{
    unsigned          i;
    apikey_address_t  a;

    static const char  *inside[] = {
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1",
        "100.127.255.255", "127.0.0.1", "127.255.255.254", "169.254.169.254",
        "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1",
        "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255",
        "198.51.100.7", "203.0.113.9", "224.0.0.1", "240.0.0.1",
        "255.255.255.255",
        "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1",
        "::ffff:10.1.2.3", "::ffff:169.254.169.254", "::ffff:0:7f00:1",
        "64:ff9b::a00:1", "64:ff9b::7f00:1", "64:ff9b:1::808:808",
        "2002:a00:1::1", "2002:7f00:1::", "2002:c0a8:101::5",
        "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:10::1",
        "2001:db8::1", "3fff::1", "100::1", "fc00::1", "fd12:3456::1",
        "fe80::1", "febf::1", "fec0::1", "ff02::1", "ff05::2", "5f00::1",
        "4000::1"
    };

    static const char  *outside[] = {
        "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255",
        "100.128.0.0", "126.255.255.255", "128.0.0.1", "169.253.255.255",
        "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.1",
        "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0",
        "223.255.255.255",
        "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1",
        "2001:4860:4860::8888", "2606:4700::1111", "2a00::1", "3ffe::1"
    };

    for (i = 0; i < sizeof(inside) / sizeof(inside[0]); i++) {
        a = address(inside[i]);
        ok(apikey_address_private(&a), inside[i]);
    }

    for (i = 0; i < sizeof(outside) / sizeof(outside[0]); i++) {
        a = address(outside[i]);
        ok(!apikey_address_private(&a), outside[i]);
    }
}


static bool
in(const char *text, const char *networks)
{
    apikey_address_t  a;

    a = address(text);

    return apikey_address_in(&a, networks);
}


static void
test_networks(void)
{
    ok(!in("10.1.2.3", ""), "nothing holds nothing");
    ok(!in("10.1.2.3", " , "), "nor do blanks");
    ok(in("10.1.2.3", "10.0.0.0/8"), "a network");
    ok(in("10.1.2.3", "10.1.2.3"), "an address");
    ok(!in("10.1.2.4", "10.1.2.3"), "and no other one");
    ok(in("10.1.2.3", "fd00::/8, 192.168.0.0/16,10.1.0.0/16"), "in a list");
    ok(in("192.168.3.3", "fd00::/8  192.168.0.0/16"), "between blanks");
    ok(!in("192.169.3.3", "fd00::/8 192.168.0.0/16"), "the one beside it");
    ok(in("172.31.0.1", "172.16.0.0/12"), "bits within a byte");
    ok(!in("172.32.0.1", "172.16.0.0/12"), "and those behind them");
    ok(in("fd12::1", "fd00::/8"), "IPv6");
    ok(!in("fc12::1", "fd00::/8"), "the one beside it");
    ok(in("::1", "::1/128"), "all bits");
    ok(in("8.8.8.8", "0.0.0.0/0"), "all of IPv4");
    ok(!in("2a00::1", "0.0.0.0/0"), "is not all of IPv6");
    ok(in("2a00::1", "::/0"), "all of IPv6");
    ok(in("::ffff:10.0.0.1", "10.0.0.0/8"), "IPv4 written as IPv6");
    ok(!in("10.0.0.1", "10.0.0.0/33"), "no such length");
    ok(!in("10.0.0.1", "10.0.0.0/"), "no length");
    ok(!in("10.0.0.1", "10.0.0.0/8x"), "more than a length");
    ok(!in("10.0.0.1", "10.0.0/8"), "no network");
    ok(!in("10.0.0.1", "10.0.0.0/99999999999999999999"), "a long length");
    ok(in("10.0.0.1", "nonsense 10.0.0.0/8"), "what is none is passed over");
    ok(!in("10.0.0.1", "0000000000000000000000000000000000000000000000000000"
           "000000000000000000000000000000000000000000000000000"),
       "a long text");
}


int
main(void)
{
    test_private();
    test_networks();

    return unit_done();
}
