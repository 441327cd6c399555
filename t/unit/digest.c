
/*
 * SHA-256 and HMAC-SHA-256 (FIPS 180-4, RFC 4231), CRC check values, and
 * that no two processes draw the same random bytes.
 */


#define _POSIX_C_SOURCE  200809L

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/crc.h"
#include "base/digest.h"

#include "unit.h"


static void
test_hex(const uint8_t *digest, const char *want, const char *name)
{
    char    hex[2 * APIKEY_DIGEST_LEN + 1];
    size_t  i;

    for (i = 0; i < APIKEY_DIGEST_LEN; i++) {
        sprintf(hex + 2 * i, "%02x", digest[i]);
    }

    is_text(hex, 64, want, name);
}


static void
test_sha256(void)
{
    char      million[1000000];
    uint8_t   digest[APIKEY_DIGEST_LEN];
    unsigned  i;

    for (i = 0; i < 2; i++) {
        ok(apikey_sha256("", 0, digest), "nothing is hashed");
        test_hex(digest, "e3b0c44298fc1c149afbf4c8996fb924"
                         "27ae41e4649b934ca495991b7852b855", "SHA-256: none");

        ok(apikey_sha256("abc", 3, digest), "abc is hashed");
        test_hex(digest, "ba7816bf8f01cfea414140de5dae2223"
                         "b00361a396177a9cb410ff61f20015ad", "SHA-256 of abc");
    }

    memset(million, 'a', sizeof(million));

    ok(apikey_sha256(million, sizeof(million), digest), "a million");
    test_hex(digest, "cdc76e5c9914fb9281a1c7e284d73e67"
                     "f1809a48a497200e046d39ccc7112cd0", "SHA-256 of many");
}


static void
test_hmac(void)
{
    char     key[131];
    uint8_t  digest[APIKEY_DIGEST_LEN];

    memset(key, 0x0b, 20);
    ok(apikey_hmac_sha256(key, 20, "Hi There", 8, digest), "RFC 4231, 1");
    test_hex(digest, "b0344c61d8db38535ca8afceaf0bf12b"
                     "881dc200c9833da726e9376c2e32cff7", "RFC 4231, case 1");

    ok(apikey_hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28,
                          digest), "RFC 4231, 2");
    test_hex(digest, "5bdcc146bf60754e6a042426089575c7"
                     "5a003f089d2739839dec58b964ec3843", "RFC 4231, case 2");

    memset(key, 0xaa, 131);
    ok(apikey_hmac_sha256(key, 131, "Test Using Larger Than Block-Size Key - "
                          "Hash Key First", 54, digest), "RFC 4231, 6");
    test_hex(digest, "60e431591ee0b67f0d8a26aacbf5b77f"
                     "8e0bc6213728c5140546040f0ee37f54", "RFC 4231, case 6");
}


static void
test_crc(void)
{
    char    zero[32];
    size_t  i;

    is_uint(apikey_crc32(0, "123456789", 9), 0xcbf43926, "CRC-32");
    is_uint(apikey_crc32c(0, "123456789", 9), 0xe3069283, "CRC-32C");

    memset(zero, 0, sizeof(zero));
    is_uint(apikey_crc32c(0, zero, 32), 0x8a9136aa, "CRC-32C of 32 zeroes");

    for (i = 0; i <= 9; i++) {
        is_uint(apikey_crc32(apikey_crc32(0, "123456789", i),
                             &"123456789"[i], 9 - i), 0xcbf43926,
                "CRC-32 in two pieces");
        is_uint(apikey_crc32c(apikey_crc32c(0, "123456789", i),
                              &"123456789"[i], 9 - i), 0xe3069283,
                "CRC-32C in two pieces");
    }
}


static void
test_random(void)
{
    int      fd[2], status;
    char     ours[64], theirs[64];
    pid_t    pid;
    uint8_t  large[5000];

    memset(large, 0, sizeof(large));

    ok(apikey_random(large, sizeof(large)), "more than a block");
    ok(large[0] | large[1] | large[2] | large[3], "... is filled");
    ok(large[4996] | large[4997] | large[4998] | large[4999],
       "... to its end");

    ok(apikey_random(ours, 1), "a block is drawn");

    if (pipe(fd) == -1 || (pid = fork()) == -1) {
        ok(false, "fork");
        return;
    }

    if (pid == 0) {
        _exit(!apikey_random(theirs, sizeof(theirs))
              || write(fd[1], theirs, sizeof(theirs)) != sizeof(theirs));
    }

    ok(apikey_random(ours, sizeof(ours)), "the parent draws on");
    ok(read(fd[0], theirs, sizeof(theirs)) == sizeof(theirs),
       "the child draws");
    ok(waitpid(pid, &status, 0) == pid && status == 0, "the child ends well");
    ok(memcmp(ours, theirs, sizeof(ours)) != 0,
       "after fork() the two draw different bytes");
}


int
main(void)
{
    ok(apikey_digest_init(), "init");
    ok(apikey_digest_init(), "init again");

    test_sha256();
    test_hmac();
    test_crc();
    test_random();

    apikey_digest_free();
    test_sha256();
    test_hmac();
    apikey_digest_free();
    apikey_digest_free();

    return unit_done();
}
