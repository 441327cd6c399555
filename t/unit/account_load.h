
/*
 * The script as Redis gets it in a test: its clock is an argument, and what
 * goes on to its functions is counted.  Included by one unit, after redis.h
 * and account_random.h.
 */


#ifndef UNIT_ACCOUNT_LOAD_H_INCLUDED
#define UNIT_ACCOUNT_LOAD_H_INCLUDED


#include "limit/account_lua.h"


static void
load(char *sha)
{
    static const char  clock[] =
        "local time = call('TIME')\n"
        "local now = time[1] * 1000000 + time[2]\n";
    static const char  general[] = "local SKEW";
    static const char  count[] = "call('INCR', 'general' .. op)\n";

    char  text[65536], *p;

    strcpy(text, apikey_account_lua);

    p = strstr(text, clock);
    if (p == NULL) {
        fail("the script reads its clock in another way");
    }

    memset(p, ' ', sizeof(clock) - 1);
    memcpy(p, "local now = tonumber(ARGV[#ARGV])", 33);

    /* what is not plain, and goes on to the functions, is counted */

    p = strstr(text, general);
    if (p == NULL) {
        fail("where do the script's functions begin?");
    }

    memmove(p + sizeof(count) - 1, p, strlen(p) + 1);
    memcpy(p, count, sizeof(count) - 1);

    if (run(sha, 3, "SCRIPT", "LOAD", text) != 40) {
        fail("SCRIPT LOAD: %s", sha);
    }
}


/* An account that nobody has used. */

static void
anew(unsigned i)
{
    char  key[2] = { 'a' + i, 0 }, text[64];

    run(text, 2, "DEL", key);
    memset(&accounts[i].value, 0, sizeof(accounts[i].value));
}


#endif /* UNIT_ACCOUNT_LOAD_H_INCLUDED */
