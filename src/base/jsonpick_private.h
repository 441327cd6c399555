
/*
 * What jsonpick.c and jsonpick_value.c share: the states of the reader, one
 * function each.  A step eats at least one byte or changes the state.
 */


#ifndef APIKEY_JSONPICK_PRIVATE_H_INCLUDED
#define APIKEY_JSONPICK_PRIVATE_H_INCLUDED


#include "base/jsonpick.h"


typedef enum {
    APIKEY_JP_MARK = 0,      /* at the very start: UTF-8's byte order mark */
    APIKEY_JP_VALUE,
    APIKEY_JP_FIRST,         /* behind { */
    APIKEY_JP_NAME,
    APIKEY_JP_COLON,
    APIKEY_JP_NEXT,          /* behind a comma */
    APIKEY_JP_AFTER,         /* a member's value */
    APIKEY_JP_SKIP,          /* in brackets nobody looks into */
    APIKEY_JP_SKIP_STRING,
    APIKEY_JP_STRING,        /* a value nobody looks at */
    APIKEY_JP_TEXT,
    APIKEY_JP_ESCAPE,        /* of a name or a text */
    APIKEY_JP_HEX,
    APIKEY_JP_NUMBER,
    APIKEY_JP_WORD,
    APIKEY_JP_SCALAR,        /* a number or word nobody looks at */
    APIKEY_JP_END,
    APIKEY_JP_BAD,
    APIKEY_JP_STATES
} apikey_jsonpick_state_e;


#define apikey_jp_blank(ch)                                                   \
    ((ch) == ' ' || (ch) == '\n' || (ch) == '\r' || (ch) == '\t')

#define apikey_jp_offset(j, p)  ((j)->base + (uint64_t) ((p) - (j)->piece))


/* The value ends in front of p. */
void apikey_jp_done(apikey_jsonpick_t *j, const char *p, apikey_pick_e what);

/* jsonpick_member.c */
void apikey_jp_open(apikey_jsonpick_t *j);
void apikey_jp_close(apikey_jsonpick_t *j, const char *p);
const apikey_pick_t *apikey_jp_picked(const apikey_jsonpick_t *j,
    const char *name, size_t len);
const char *apikey_jp_members(apikey_jsonpick_t *j, const char *p,
    const char *end);

/* jsonpick_value.c; false: no value begins so. */
bool apikey_jp_scalar_begin(apikey_jsonpick_t *j, char ch);

const char *apikey_jp_skip(apikey_jsonpick_t *j, const char *p,
    const char *end);
const char *apikey_jp_string(apikey_jsonpick_t *j, const char *p,
    const char *end);
const char *apikey_jp_number_plain(apikey_jsonpick_t *j, const char *p,
    const char *end);
const char *apikey_jp_number(apikey_jsonpick_t *j, const char *p,
    const char *end);
const char *apikey_jp_word(apikey_jsonpick_t *j, const char *p,
    const char *end);
const char *apikey_jp_scalar(apikey_jsonpick_t *j, const char *p,
    const char *end);


#endif /* APIKEY_JSONPICK_PRIVATE_H_INCLUDED */
