
/*
 * One member of a JSON object, read out of its text.
 *
 * Strict: what is not JSON (RFC 8259) holds no member.  Of several members
 * of one name the last one counts, as in Postgres' jsonb.
 *
 * Plain C, no allocation.
 */


#ifndef APIKEY_JSONSCAN_H_INCLUDED
#define APIKEY_JSONSCAN_H_INCLUDED


#include <stddef.h>


#define APIKEY_JSON_NONE  ((size_t) -1)


/*
 * Writes the value as text to out, which has room for len bytes: a string
 * without quotes and escapes (UTF-8), a number or true or false as it stands.
 * Returns its length; APIKEY_JSON_NONE: no such member, null, or an array or
 * object.  Only names without escapes are found.
 */
size_t apikey_json_member(const char *json, size_t len, const char *name,
    size_t name_len, char *out);


#endif /* APIKEY_JSONSCAN_H_INCLUDED */
