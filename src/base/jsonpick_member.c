
/*
 * The reader behind jsonpick.h: objects, which of their members are picked,
 * and the short way for members that stand whole in a piece, written as most
 * are.  Where a member is not so plain, the states begin with it anew.
 */


#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "base/jsonpick.h"
#include "base/jsonpick_private.h"


/* a short string ends within so many bytes, with its quote */
#define APIKEY_JP_SHORT  32


void
apikey_jp_open(apikey_jsonpick_t *j)
{
    j->rooted = true;

    if (j->pick) {
        j->outer[j->level++] = j->object;
        j->object = j->pick;
        j->pick = NULL;
    }

    j->state = APIKEY_JP_FIRST;
    j->found(j, j->object->id, APIKEY_PICK_OPEN);
}


void
apikey_jp_close(apikey_jsonpick_t *j, const char *p)
{
    unsigned  id;

    id = j->object->id;
    j->stop = apikey_jp_offset(j, p + 1);

    if (j->level == 0) {
        j->state = APIKEY_JP_END;

    } else {
        j->object = j->outer[--j->level];
        j->state = APIKEY_JP_AFTER;
    }

    j->found(j, id, APIKEY_PICK_CLOSE);
}


const apikey_pick_t *
apikey_jp_picked(const apikey_jsonpick_t *j, const char *name, size_t len)
{
    const apikey_pick_t  *pick, *end;

    pick = j->object->members;
    end = pick + j->object->nmembers;

    for ( /* void */ ; pick < end; pick++) {

        if (pick->len == len && memcmp(pick->name, name, len) == 0) {
            return pick;
        }
    }

    return NULL;
}


static inline const char *
apikey_jp_over_blanks(const char *p, const char *end)
{
    while (p < end && (unsigned char) *p <= ' ' && apikey_jp_blank(*p)) {
        p++;
    }

    return p;
}


/* The closing quote of a short string without escapes, or NULL. */

static inline const char *
apikey_jp_short(const char *p, const char *end)
{
    unsigned     i;
    const char  *q;

    if (end - p < APIKEY_JP_SHORT) {
        q = apikey_bytes_either(p, end, '"', '\\');

        return q < end && *q == '"' ? q : NULL;
    }

    i = apikey_bytes_either32(p, '"', '\\');

    return i < APIKEY_JP_SHORT && p[i] == '"' ? p + i : NULL;
}


/* A value nobody looks at; NULL: it begins as none does. */

static const char *
apikey_jp_pass(apikey_jsonpick_t *j, const char *p, const char *end)
{
    const char  *q;

    switch (*p) {

    case '"':
        q = apikey_jp_short(p + 1, end);

        if (q) {
            j->state = APIKEY_JP_AFTER;
            return q + 1;
        }

        j->phase = 0;
        j->state = APIKEY_JP_STRING;
        return apikey_jp_string(j, p + 1, end);

    case '{':
    case '[':
        j->depth = 1;
        j->state = APIKEY_JP_SKIP;
        return apikey_jp_skip(j, p + 1, end);

    default:
        return apikey_jp_scalar_begin(j, *p) ? apikey_jp_scalar(j, p, end)
                                             : NULL;
    }
}


/* An object that is picked, or a count; NULL: anything else. */

static const char *
apikey_jp_take(apikey_jsonpick_t *j, const char *p, const char *end)
{
    j->start = apikey_jp_offset(j, p);

    if (*p == '{' && j->pick->kind == APIKEY_MEMBER_OBJECT
        && j->level < APIKEY_PICK_DEPTH)
    {
        apikey_jp_open(j);
        return p + 1;
    }

    return apikey_jp_number_plain(j, p, end);
}


/* NULL: the states are to read it. */

static const char *
apikey_jp_member(apikey_jsonpick_t *j, const char *p, const char *end)
{
    const char  *q;

    q = *p == '"' ? apikey_jp_short(p + 1, end) : NULL;

    if (q == NULL) {
        return NULL;
    }

    j->pick = apikey_jp_picked(j, p + 1, (size_t) (q - p - 1));

    q = apikey_jp_over_blanks(q + 1, end);

    if (q == end || *q != ':') {
        return NULL;
    }

    q = apikey_jp_over_blanks(q + 1, end);

    if (q == end) {
        return NULL;
    }

    return j->pick ? apikey_jp_take(j, q, end) : apikey_jp_pass(j, q, end);
}


/*
 * From behind a member or an opening brace on, as far as members are plain.
 * The state fits what is returned.
 */

const char *
apikey_jp_members(apikey_jsonpick_t *j, const char *p, const char *end)
{
    const char  *q;

    while (j->state == APIKEY_JP_AFTER || j->state == APIKEY_JP_FIRST) {

        p = apikey_jp_over_blanks(p, end);

        if (p == end) {
            break;
        }

        q = p;

        if (j->state == APIKEY_JP_AFTER) {

            if (*p == '}') {
                j->empty = false;
                apikey_jp_close(j, p++);
                continue;
            }

            q = *p == ',' ? apikey_jp_over_blanks(p + 1, end) : end;

            if (q == end) {
                break;
            }
        }

        q = apikey_jp_member(j, q, end);

        if (q == NULL) {
            break;
        }

        p = q;
    }

    return p;
}
