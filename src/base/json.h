
/*
 * JSON writer into a caller's buffer.
 *
 * Commas and nesting are kept here; what does not fit sets overflow and the
 * buffer then holds a prefix that must not be sent.  Text is taken as UTF-8;
 * bytes that are not are written as U+FFFD, control characters escaped.
 *
 * Plain C, no allocation.
 */


#ifndef APIKEY_JSON_H_INCLUDED
#define APIKEY_JSON_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>


#define APIKEY_JSON_DEPTH  16


typedef struct {
    char      *start;
    char      *pos;
    char      *end;
    unsigned   depth;
    bool       comma[APIKEY_JSON_DEPTH];
    bool       member;               /* a name was written, its value is due */
    bool       overflow;
} apikey_json_t;


void apikey_json_init(apikey_json_t *j, char *buf, size_t size);
size_t apikey_json_len(const apikey_json_t *j);

void apikey_json_object(apikey_json_t *j);
void apikey_json_object_end(apikey_json_t *j);
void apikey_json_array(apikey_json_t *j);
void apikey_json_array_end(apikey_json_t *j);
void apikey_json_name(apikey_json_t *j, const char *name);      /* C string */

void apikey_json_string(apikey_json_t *j, const char *text, size_t len);
void apikey_json_text(apikey_json_t *j, const char *text);      /* C string */
void apikey_json_uint(apikey_json_t *j, uint64_t n);
void apikey_json_int(apikey_json_t *j, int64_t n);
void apikey_json_bool(apikey_json_t *j, bool b);
void apikey_json_null(apikey_json_t *j);
void apikey_json_time(apikey_json_t *j, int64_t us);            /* RFC 3339 */
void apikey_json_uuid(apikey_json_t *j, const uint8_t uuid[16]);

/* Finished JSON, taken as it is. */
void apikey_json_raw(apikey_json_t *j, const char *json, size_t len);

/*
 * Only the escaping: the bytes of a string value without quotes.  Returns
 * what it needs; writes no more than size.
 */
size_t apikey_json_escape(char *out, size_t size, const char *text,
    size_t len);

/* True: well-formed UTF-8 without NUL, so nothing would be replaced. */
bool apikey_json_check(const char *text, size_t len);


#endif /* APIKEY_JSON_H_INCLUDED */
