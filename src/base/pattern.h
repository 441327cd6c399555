
/*
 * What covers what: patterns of models and services, and scopes.
 *
 * In a pattern '*' stands for any run of bytes, also none, wherever it stands
 * and however often; every other byte stands for itself.  Since only a '*'
 * takes a '*', a pattern covers another one, that is, everything the other
 * covers, just when it matches the other's text.
 *
 * A scope is equal to the one wanted, or is "*", or ends with ":*" and what
 * is wanted begins with what stands in front of the '*'.  A '*' anywhere else
 * is a character.  schema/0002_values.sql has the same two rules.
 *
 * Plain C, no allocation.
 */


#ifndef APIKEY_PATTERN_H_INCLUDED
#define APIKEY_PATTERN_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>


bool apikey_pattern_match(const char *pattern, size_t len, const char *text,
    size_t text_len);

/* list: patterns, each with a line feed behind it. */
bool apikey_pattern_any(const char *list, size_t len, const char *text,
    size_t text_len);

/* held: scopes with single blanks between them. */
bool apikey_scope_held(const char *held, size_t len, const char *wanted,
    size_t wanted_len);


#endif /* APIKEY_PATTERN_H_INCLUDED */
