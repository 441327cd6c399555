
/*
 * The admin API for apikeyctl: libcurl, one connection, blocking.
 */


#ifndef APIKEY_CTL_HTTP_H_INCLUDED
#define APIKEY_CTL_HTTP_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>

#include <curl/curl.h>

#include "ctl.h"


typedef struct {
    CURL               *curl;
    struct curl_slist  *headers;
    const char         *base;    /* of the location, with or without '/' */
    char               *body;    /* of the last answer, NUL-terminated */
    size_t              len;
    size_t              size;
} apikey_ctl_http_t;


/*
 * Takes --to, --ca and the token, which stands in --token-file, else in
 * APIKEY_TOKEN.  False after the reason was printed; close() also then.
 */
bool apikey_ctl_http_open(apikey_ctl_http_t *http,
    const apikey_ctl_args_t *args);
void apikey_ctl_http_close(apikey_ctl_http_t *http);

/* The status; 0 after the reason was printed.  body may be NULL. */
long apikey_ctl_http_call(apikey_ctl_http_t *http, const char *method,
    const char *path, const char *type, const char *body, size_t len);


#endif /* APIKEY_CTL_HTTP_H_INCLUDED */
