
/*
 * Moving in: exports of other products become rows of api-keys/import.
 *
 * A reader (move_kong.c and its kin) is given all documents of all files and
 * adds rows; what it cannot move it says, key by key.  JSON is jansson's: the
 * values of a document live as long as it, rows belong to the move.
 */


#ifndef APIKEY_CTL_MOVE_H_INCLUDED
#define APIKEY_CTL_MOVE_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "ctl.h"


#define APIKEY_MOVE_MINUTE  60000          /* windows are milliseconds */
#define APIKEY_MOVE_SECOND  1000
#define APIKEY_MOVE_HOUR    3600000


typedef struct {
    json_t      *documents;      /* array; a CSV file is an array of objects */
    json_t      *rows;           /* array of create objects with "hash" */
    json_t      *owners;         /* "owner" -> array of limits */
    size_t       warnings;
    size_t       left;           /* keys that are left out */
    bool         strict;         /* columns of CSV must be ours */
} apikey_move_t;


typedef void (*apikey_move_item_pt)(apikey_move_t *m, json_t *item,
    void *data);


/* move_read.c: "-" is stdin.  False after the reason was printed. */
bool apikey_move_read(apikey_move_t *m, const char *file);

/*
 * Calls for each item of each document: the elements of an array, of its
 * "data", "items", "keys" or "result", or the document itself.
 */
void apikey_move_each(apikey_move_t *m, apikey_move_item_pt handler,
    void *data);


/* move_row.c: what is not moved of a key, and keys that are not moved. */
void apikey_move_warn(apikey_move_t *m, const char *what, const char *format,
    ...) __attribute__((format(printf, 3, 4)));
void apikey_move_leave(apikey_move_t *m, const char *what,
    const char *format, ...) __attribute__((format(printf, 3, 4)));

/* A member's text, or NULL: absent, null, empty, no text. */
const char *apikey_move_text(const json_t *item, const char *name);

/* True for true, 1, "1", "true", "TRUE"; def where there is none of these. */
bool apikey_move_true(const json_t *item, const char *name, bool def);

/* A new row, not yet one of the move's: add() makes it one. */
json_t *apikey_move_row(apikey_move_t *m, const char *name);
void apikey_move_add(apikey_move_t *m, json_t *row);

void apikey_move_set(json_t *row, const char *name, const char *text);

/* False: the key was left out, and the row is gone. */
bool apikey_move_key(apikey_move_t *m, json_t *row, const char *what,
    const char *key);
bool apikey_move_hash(apikey_move_t *m, json_t *row, const char *what,
    const char *hash, const char *alg);

/* Seconds, milliseconds or a text; false: expired, left out, the row is gone.
   ttl: the same for a number of seconds from now on. */
bool apikey_move_expires(apikey_move_t *m, json_t *row, const char *what,
    const json_t *at);
bool apikey_move_ttl(apikey_move_t *m, json_t *row, const char *what,
    const json_t *ttl);
void apikey_move_created(json_t *row, const json_t *at);

void apikey_move_metadata(apikey_move_t *m, json_t *row, const char *what,
    const json_t *metadata);

/* The text before the last '_', where it can be a prefix of ours. */
void apikey_move_prefix(json_t *row, const char *start);

/* limits: of a row, or of an owner.  burst 0: the limit, of requests. */
json_t *apikey_move_limits(json_t *row);
json_t *apikey_move_owner(apikey_move_t *m, const char *owner);
void apikey_move_limit(apikey_move_t *m, json_t *limits, const char *what,
    const char *name, json_int_t limit, json_int_t window, json_int_t burst);

/* Any other one; takes limit over.  window: as the limit has it, or NULL.
   The limit, or NULL: it is left out. */
json_t *apikey_move_quota(apikey_move_t *m, json_t *limits, const char *what,
    const char *name, const char *unit, json_t *limit, const char *window);


/* the readers */
void apikey_move_aws(apikey_move_t *m);
void apikey_move_csv(apikey_move_t *m);
void apikey_move_kong(apikey_move_t *m);
void apikey_move_litellm(apikey_move_t *m);
void apikey_move_unkey(apikey_move_t *m);


/* move_send.c: the exit code */
int apikey_move_send(apikey_move_t *m, const apikey_ctl_args_t *args);


#endif /* APIKEY_CTL_MOVE_H_INCLUDED */
