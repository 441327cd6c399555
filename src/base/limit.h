
/*
 * One limit of a key or an owner as the data plane knows it, and its text
 * form, in which Postgres hands limits over: two texts with a line for each
 * limit,
 *
 *     name TAB unit TAB limit TAB window_us TAB burst TAB token TAB refill
 *     TAB tick TAB service TAB model LF
 *     kind TAB mode TAB period TAB made TAB fill TAB base LF
 *
 * service and model empty: any.  What a kind does not have is empty; numbers
 * are decimal.  A name may hold any character but control characters, so no
 * escaping is needed.  An older schema hands over the first text only: its
 * limits are lengths of requests.  An older node reads the first text only,
 * and refuses what is no length.
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


typedef enum {
    APIKEY_KIND_BUCKET = 0,      /* a length: refills all the time */
    APIKEY_KIND_ROLLING,         /* a length: never more in any window */
    APIKEY_KIND_CALENDAR,        /* begins anew with each period */
    APIKEY_KIND_TOTAL,           /* never refills */
    APIKEY_KIND_CONCURRENT,      /* requests in flight */
    APIKEY_KIND_CREDITS,         /* a total that is added to, and may be
                                    filled up when a period begins */
    APIKEY_KINDS
} apikey_kind_e;


/* What a reserve that is larger than the rest does (tokens, cost). */

typedef enum {
    APIKEY_STRICT = 0,           /* is refused */
    APIKEY_TRIM,                 /* passes while there is any rest */
    APIKEY_OBSERVE,              /* passes */
    APIKEY_STRICTNESSES
} apikey_strictness_e;


typedef enum {
    APIKEY_PERIOD_NONE = 0,
    APIKEY_PERIOD_DAY,
    APIKEY_PERIOD_WEEK,
    APIKEY_PERIOD_MONTH,
    APIKEY_PERIODS
} apikey_period_e;


/* One period of a calendar: us since the epoch, UTC; zeros: there is none. */

typedef struct {
    uint64_t       start;
    uint64_t       end;
    uint64_t       next;         /* end of the one after it */
} apikey_period_t;


typedef struct {
    uint64_t       limit;        /* tokens: a window, in all, or at once */
    uint64_t       window;       /* us; of a length, else 0 */
    uint64_t       burst;        /* tokens held at most; no length: limit */
    apikey_rate_t  rate;         /* of what is no bucket: token 1, refill 0,
                                    but of what rolls */
    uint64_t       scope;        /* hash of (service, model); 0: neither */
    uint64_t       id;           /* hash of the name: the bucket's identity
                                    inside its account */
    uint64_t       made;         /* us: it exists since; 0: unknown */
    uint64_t       fill;         /* tokens that are left at least when a
                                    period begins */
    uint64_t       base;         /* tokens used when it was made: credits
                                    begin so far up that a refill never
                                    takes their use below 0 */
    uint16_t       size;         /* of the packed limit, a multiple of 8 */
    uint16_t       name_len;     /* bytes; contract: 1-64 characters */
    uint16_t       service_len;
    uint16_t       model_len;
    uint8_t        unit;         /* apikey_unit_e */
    uint8_t        kind;         /* apikey_kind_e */
    uint8_t        mode;         /* apikey_strictness_e */
    uint8_t        period;       /* apikey_period_e */
    uint8_t        reserved[4];
    char           text[];       /* name, service, model, one after another */
} apikey_limit_t;


#define apikey_limit_name(l)     ((l)->text)
#define apikey_limit_service(l)  ((l)->text + (l)->name_len)
#define apikey_limit_model(l)    ((l)->text + (l)->name_len + (l)->service_len)
#define apikey_limit_next(l)                                                  \
    ((const apikey_limit_t *) ((const char *) (l) + (l)->size))

/* What people call its limit. */
#define apikey_limit_shown(l)                                                 \
    ((l)->limit > (l)->base ? (l)->limit - (l)->base : 0)

/* Whatever its use was, it must not be forgotten: absent is unknown. */
#define apikey_limit_quota(l)                                                 \
    ((l)->kind == APIKEY_KIND_CALENDAR || (l)->kind == APIKEY_KIND_TOTAL      \
     || (l)->kind == APIKEY_KIND_CREDITS)


typedef struct {
    const char    *text;
    size_t         len;
} apikey_limit_text_t;


/*
 * Packs the lines of both texts into buf; terms may be empty.  Returns the
 * bytes used, with *count set; (size_t) -1: a line is wrong or does not fit,
 * and the holder of these limits must then be served as "unavailable", never
 * as unlimited.
 */
size_t apikey_limit_parse(const apikey_limit_text_t *limits,
    const apikey_limit_text_t *terms, char *buf, size_t size,
    unsigned *count);

/* FNV-1a, 64 bits, of a NUL-separated pair; 0 when both are empty. */
uint64_t apikey_limit_scope(const char *service, size_t service_len,
    const char *model, size_t model_len);


#endif /* APIKEY_LIMIT_H_INCLUDED */
