
/*
 * Redis Cluster: the slot of a key, the lines of CLUSTER NODES, and where
 * MOVED and ASK point.
 *
 * Plain C, no allocation: what is found points into the text that was given.
 */


#ifndef APIKEY_SLOT_H_INCLUDED
#define APIKEY_SLOT_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>


#define APIKEY_SLOTS         16384
#define APIKEY_SLOT_TAG_LEN  10


typedef struct {
    const char  *host;           /* an address; empty: the one asked */
    size_t       host_len;
    const char  *name;           /* may be empty */
    size_t       name_len;
    uint16_t     port;
    bool         primary;        /* and neither failed nor unknown */
    const char  *ranges;
    size_t       ranges_len;
} apikey_slot_node_t;


typedef struct {
    bool         ask;
    uint16_t     slot;
    const char  *host;           /* empty: the one asked */
    size_t       host_len;
    uint16_t     port;
} apikey_slot_redirect_t;


uint16_t apikey_slot(const char *key, size_t len);

/* Digits that hash to the slot, no NUL; returns how many. */
size_t apikey_slot_tag(uint16_t slot, char out[APIKEY_SLOT_TAG_LEN]);

/* The next line that is one, cut off the text; false: there is none. */
bool apikey_slot_node(const char **text, size_t *len,
    apikey_slot_node_t *node);

/* The next range, cut off node->ranges; slots on their way are none. */
bool apikey_slot_range(apikey_slot_node_t *node, uint16_t *first,
    uint16_t *last);

/* An error reply; false: it is neither MOVED nor ASK. */
bool apikey_slot_redirect(const char *text, size_t len,
    apikey_slot_redirect_t *redirect);


#endif /* APIKEY_SLOT_H_INCLUDED */
