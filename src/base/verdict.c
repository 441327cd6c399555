
/*
 * The names of base/verdict.h, in the order of its enumerations.
 *
 * Static strings; a number that has no name (a journal of a newer version)
 * is "unknown".
 */


#include <string.h>

#include "base/verdict.h"


#define apikey_name(names, i)                                                 \
    ((size_t) (i) < sizeof(names) / sizeof(names[0]) ? names[i] : "unknown")


static const char *const  apikey_verdict_names[APIKEY_VERDICTS] = {
    "ok",
    "anonymous",
    "missing_key",
    "duplicate_key",
    "invalid_key",
    "revoked_key",
    "expired_key",
    "disabled_key",
    "scope_denied",
    "model_denied",
    "ip_denied",
    "rate_limited",
    "quota_exceeded",
    "credits_exhausted",
    "budget_exceeded",
    "unavailable",
    "invalid_request"
};


static const char *const  apikey_mode_names[APIKEY_MODES] = {
    "none",
    "leased",
    "direct",
    "local",
    "down_local",
    "down_allow",
    "down_deny"
};


static const char *const  apikey_end_names[APIKEY_ENDS] = {
    "",
    "client",
    "upstream",
    "timeout",
    "worker_lost"
};


static const char *const  apikey_level_names[APIKEY_LEVELS] = {
    "key",
    "owner"
};


static const char *const  apikey_unit_names[APIKEY_UNITS] = {
    "requests",
    "tokens",
    "cost",
    "concurrent"
};


const char *
apikey_verdict_name(apikey_verdict_e verdict)
{
    return apikey_name(apikey_verdict_names, verdict);
}


apikey_verdict_e
apikey_verdict_parse(const char *name, size_t len)
{
    unsigned  i;

    for (i = 0; i < APIKEY_VERDICTS; i++) {
        if (strlen(apikey_verdict_names[i]) == len
            && memcmp(apikey_verdict_names[i], name, len) == 0)
        {
            break;
        }
    }

    return (apikey_verdict_e) i;
}


const char *
apikey_mode_name(apikey_mode_e mode)
{
    return apikey_name(apikey_mode_names, mode);
}


const char *
apikey_end_name(apikey_end_e end)
{
    return apikey_name(apikey_end_names, end);
}


const char *
apikey_level_name(apikey_level_e level)
{
    return apikey_name(apikey_level_names, level);
}


const char *
apikey_unit_name(apikey_unit_e unit)
{
    return apikey_name(apikey_unit_names, unit);
}
