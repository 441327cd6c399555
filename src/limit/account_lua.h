
/*
 * LEASE and TAKE: the Lua text.  It is limit/account.h's arithmetic, step by
 * step; t/unit/account_script.c holds both to each other, to the byte.
 *
 * One script does all three calls, by the first number of ARGV[1]: 0 TAKE,
 * 1 LEASE, 2 EPOCH.  docs/leases.md has keys, arguments, replies and the
 * layout of a value.  A value that is none of ours is unknown, never empty.
 * A refused TAKE writes nothing, but for what would be found again at each
 * call.  Numbers never become text by themselves: Lua would keep 14 digits.
 *
 * Plain C; included by what calls Redis, and by the test.
 */


#ifndef APIKEY_ACCOUNT_LUA_H_INCLUDED
#define APIKEY_ACCOUNT_LUA_H_INCLUDED


static const char  apikey_account_lua[] =

#include "limit/account_lua_plain.h"
#include "limit/account_lua_time.h"
#include "limit/account_lua_rare.h"
#include "limit/account_lua_call.h"

;


#endif /* APIKEY_ACCOUNT_LUA_H_INCLUDED */
