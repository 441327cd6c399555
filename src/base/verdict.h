
/*
 * The words of the product as numbers: verdicts, decision modes, ends of a
 * request.  The names are the contract's; the numbers stand in the usage
 * journal and in shared memory, so a new one is added at the end only.
 *
 * Plain C.  The name functions return static strings and never NULL.
 */


#ifndef APIKEY_VERDICT_H_INCLUDED
#define APIKEY_VERDICT_H_INCLUDED


#include <stddef.h>


typedef enum {
    APIKEY_OK = 0,
    APIKEY_ANONYMOUS,
    APIKEY_MISSING_KEY,
    APIKEY_DUPLICATE_KEY,
    APIKEY_INVALID_KEY,
    APIKEY_REVOKED_KEY,          /* the client sees invalid_key */
    APIKEY_EXPIRED_KEY,
    APIKEY_DISABLED_KEY,
    APIKEY_SCOPE_DENIED,
    APIKEY_MODEL_DENIED,
    APIKEY_IP_DENIED,
    APIKEY_RATE_LIMITED,
    APIKEY_QUOTA_EXCEEDED,
    APIKEY_CREDITS_EXHAUSTED,
    APIKEY_BUDGET_EXCEEDED,
    APIKEY_UNAVAILABLE,
    APIKEY_INVALID_REQUEST,      /* apikey_usage stream=require */
    APIKEY_VERDICTS
} apikey_verdict_e;


typedef enum {
    APIKEY_MODE_NONE = 0,        /* no limit applies */
    APIKEY_MODE_LEASED,
    APIKEY_MODE_DIRECT,
    APIKEY_MODE_LOCAL,
    APIKEY_MODE_DOWN_LOCAL,
    APIKEY_MODE_DOWN_ALLOW,
    APIKEY_MODE_DOWN_DENY,
    APIKEY_MODES
} apikey_mode_e;


typedef enum {
    APIKEY_END_NORMAL = 0,       /* "aborted" is null */
    APIKEY_END_CLIENT,
    APIKEY_END_UPSTREAM,
    APIKEY_END_TIMEOUT,
    APIKEY_END_WORKER_LOST,
    APIKEY_ENDS
} apikey_end_e;


typedef enum {
    APIKEY_LEVEL_KEY = 0,
    APIKEY_LEVEL_OWNER,
    APIKEY_LEVELS
} apikey_level_e;


typedef enum {
    APIKEY_UNIT_REQUESTS = 0,
    APIKEY_UNIT_TOKENS,
    APIKEY_UNIT_COST,
    APIKEY_UNIT_CONCURRENT,
    APIKEY_UNITS
} apikey_unit_e;


const char *apikey_verdict_name(apikey_verdict_e verdict);

/* APIKEY_VERDICTS: it is none. */
apikey_verdict_e apikey_verdict_parse(const char *name, size_t len);

const char *apikey_mode_name(apikey_mode_e mode);
const char *apikey_end_name(apikey_end_e end);      /* NORMAL: "" */
const char *apikey_level_name(apikey_level_e level);
const char *apikey_unit_name(apikey_unit_e unit);


#endif /* APIKEY_VERDICT_H_INCLUDED */
