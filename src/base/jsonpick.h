
/*
 * Members picked out of JSON that comes in pieces, split at any byte.
 *
 * Tables name what is wanted, one for each object; all else is skipped as fast
 * as quotes and brackets are found, however deep it nests and however long its
 * strings are.  Names count however they are escaped; what stands inside a
 * string is never a name.  Of several members of one name each is told, in
 * their order: the caller lets the last one win.
 *
 * JSON is read exactly.  What is none is told up to where it is seen to be
 * none, and what stands in skipped values is not looked at for that.
 *
 * Plain C, no allocation; the caller owns everything.
 */


#ifndef APIKEY_JSONPICK_H_INCLUDED
#define APIKEY_JSONPICK_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>


#define APIKEY_PICK_NAME   32                    /* longer than all names */
#define APIKEY_PICK_DEPTH  4                     /* picked objects inside each
                                                    other, without the root */
#define APIKEY_PICK_MAX    9007199254740991ULL   /* 2^53 - 1 */


typedef enum {
    APIKEY_PICK_OTHER = 0,   /* an array, a number that is no count, a text
                                that has no room, an object not picked */
    APIKEY_PICK_NULL,
    APIKEY_PICK_COUNT,       /* a whole number, 0 to APIKEY_PICK_MAX, however
                                it is written: number */
    APIKEY_PICK_FALSE,
    APIKEY_PICK_TRUE,
    APIKEY_PICK_TEXT,        /* in text, len bytes, decoded to UTF-8 */
    APIKEY_PICK_OPEN,        /* an object that is picked begins */
    APIKEY_PICK_CLOSE        /* and ends */
} apikey_pick_e;


typedef enum {
    APIKEY_MEMBER_SCALAR = 0,    /* COUNT, FALSE, TRUE, NULL, else OTHER */
    APIKEY_MEMBER_TEXT,
    APIKEY_MEMBER_OBJECT
} apikey_member_e;


/* An id is 1 to 255; 0 is the outermost object, which has no name. */

typedef struct apikey_pick_s  apikey_pick_t;

struct apikey_pick_s {
    const char                *name;
    const apikey_pick_t       *members;  /* of an object */
    uint8_t                    nmembers;
    uint8_t                    len;
    uint8_t                    id;
    uint8_t                    kind;     /* apikey_member_e */
};

#define APIKEY_PICK(name, id, kind)                                           \
    { name, NULL, 0, sizeof(name) - 1, id, APIKEY_MEMBER_##kind }

#define APIKEY_PICK_OBJECT(name, id, members)                                 \
    { name, members, sizeof(members) / sizeof((members)[0]),                  \
      sizeof(name) - 1, id, APIKEY_MEMBER_OBJECT }


typedef struct apikey_jsonpick_s  apikey_jsonpick_t;

/* j stands first in what its owner keeps, and is found by its address. */
typedef void (*apikey_pick_pt)(apikey_jsonpick_t *j, unsigned id,
    apikey_pick_e what);


struct apikey_jsonpick_s {
    apikey_pick_pt             found;

    char                      *text;
    size_t                     size;
    size_t                     len;

    uint64_t                   number;
    uint64_t                   start;    /* offsets in all that was fed: of */
    uint64_t                   stop;     /* the value, and behind it */
    bool                       empty;    /* CLOSE: it has no member */

    /* private */
    const char                *piece;    /* of this feed, at offset base */
    uint64_t                   base;
    uint64_t                   depth;    /* of brackets that are skipped */
    const apikey_pick_t       *pick;     /* of the value, or NULL */
    const apikey_pick_t       *object;   /* the innermost one that is picked */
    const apikey_pick_t       *outer[APIKEY_PICK_DEPTH];

    uint64_t                   mantissa;
    int64_t                    zeros;    /* behind the mantissa */
    int64_t                    fraction;     /* digits behind the point */
    int64_t                    exponent;

    uint8_t                    state;
    uint8_t                    level;    /* of outer[]; 0: root or none */
    uint8_t                    phase;    /* of a number, a word, the mark */
    uint8_t                    back;     /* the state behind an escape */
    uint8_t                    digits;   /* of \u */
    uint8_t                    key_len;
    bool                       rooted;   /* the root is an object */
    bool                       minus;
    bool                       low;      /* the exponent's sign */
    bool                       big;
    bool                       lost;     /* text without room, name no name */
    uint32_t                   code;
    uint32_t                   high;     /* of a surrogate pair, or 0 */
    char                       key[APIKEY_PICK_NAME];
};


/* text: room for the members that are wanted as text, one at a time. */
void apikey_jsonpick_init(apikey_jsonpick_t *j, const apikey_pick_t *root,
    apikey_pick_pt found, char *text, size_t size);

void apikey_jsonpick_feed(apikey_jsonpick_t *j, const char *p, size_t len);

/* An object, ended, and nothing but blanks behind it. */
bool apikey_jsonpick_whole(const apikey_jsonpick_t *j);


#endif /* APIKEY_JSONPICK_H_INCLUDED */
