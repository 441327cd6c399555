
/*
 * One limit of a key or an owner as the data plane knows it, and its text
 * form, in which Postgres hands limits over: one line a limit,
 *
 *     name TAB unit TAB limit TAB window_us TAB burst TAB token TAB refill
 *     TAB tick TAB service TAB model LF
 *
 * service and model empty: any.  A name may hold any character but control
 * characters, so no escaping is needed.  Numbers are decimal.
 *
 * Plain C.  A packed limit is position independent: it is copied between
 * the zone, the saved copy and pools as bytes.
 */


#ifndef APIKEY_LIMIT_H_INCLUDED
#define APIKEY_LIMIT_H_INCLUDED


#include <stddef.h>
#include <stdint.h>

#include "base/rate.h"
#include "base/verdict.h"


typedef struct {
    uint64_t       limit;        /* tokens a window */
    uint64_t       window;       /* us */
    uint64_t       burst;        /* tokens */
    apikey_rate_t  rate;
    uint64_t       scope;        /* hash of (service, model); 0: neither */
    uint64_t       id;           /* hash of the name: the bucket's identity
                                    inside its account */
    uint16_t       size;         /* of the packed limit, a multiple of 8 */
    uint16_t       name_len;     /* bytes; contract: 1-64 characters */
    uint16_t       service_len;
    uint16_t       model_len;
    uint8_t        unit;         /* apikey_unit_e */
    uint8_t        reserved[7];
    char           text[];       /* name, service, model, one after another */
} apikey_limit_t;


#define apikey_limit_name(l)     ((l)->text)
#define apikey_limit_service(l)  ((l)->text + (l)->name_len)
#define apikey_limit_model(l)    ((l)->text + (l)->name_len + (l)->service_len)
#define apikey_limit_next(l)                                                  \
    ((const apikey_limit_t *) ((const char *) (l) + (l)->size))


/*
 * Packs n lines of text into buf.  Returns the bytes used, with *count set;
 * (size_t) -1: a line is wrong or does not fit, and the holder of these
 * limits must then be served as "unavailable", never as unlimited.
 */
size_t apikey_limit_parse(const char *text, size_t len, char *buf,
    size_t size, unsigned *count);

/* FNV-1a, 64 bits, of a NUL-separated pair; 0 when both are empty. */
uint64_t apikey_limit_scope(const char *service, size_t service_len,
    const char *model, size_t model_len);


#endif /* APIKEY_LIMIT_H_INCLUDED */
