
/*
 * JSON read where it stands: one member of an object, or all members or
 * elements one after another.
 *
 * Strict: what is not JSON (RFC 8259) holds nothing.  Of several members of
 * one name apikey_json_member() takes the last one, as Postgres' jsonb does.
 *
 * Plain C, no allocation.
 */


#ifndef APIKEY_JSONSCAN_H_INCLUDED
#define APIKEY_JSONSCAN_H_INCLUDED


#include <stdbool.h>
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


/* One value of any kind, with blanks around it. */
bool apikey_json_valid(const char *json, size_t len);


/* Text as it stands: a name between its quotes, a value from its first to its
   last character. */

typedef struct {
    const char  *name;               /* NULL in an array */
    const char  *value;
    size_t       name_len;
    size_t       value_len;

    const char  *pos;                /* private */
    const char  *end;
} apikey_json_walk_t;

/* False: not JSON, or neither an object nor an array. */
bool apikey_json_walk(apikey_json_walk_t *w, const char *json, size_t len);

/* False: there is no other. */
bool apikey_json_walk_next(apikey_json_walk_t *w);

/* Whatever escapes the name is written with. */
bool apikey_json_walk_named(const apikey_json_walk_t *w, const char *name);

/*
 * A value that a walk has found: the string without quotes and escapes, in
 * UTF-8; out has room for len bytes.  APIKEY_JSON_NONE: it is no string.
 */
size_t apikey_json_decode(const char *value, size_t len, char *out);


#endif /* APIKEY_JSONSCAN_H_INCLUDED */
