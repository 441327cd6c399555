
/*
 * The admin API for apikeyctl.
 */


#define _GNU_SOURCE

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/version.h"

#include "http.h"


#define APIKEY_CTL_HTTP_TOKEN    512
#define APIKEY_CTL_HTTP_CONNECT  10L       /* seconds */
#define APIKEY_CTL_HTTP_STALL    120L
#define APIKEY_CTL_HTTP_TRIES    20        /* of a limited caller */
#define APIKEY_CTL_HTTP_FAULTS   3         /* of a gateway at fault */
#define APIKEY_CTL_HTTP_PAUSE    30        /* at most */


static long apikey_ctl_http_perform(apikey_ctl_http_t *http,
    const char *method, const char *url);
static bool apikey_ctl_http_token(apikey_ctl_http_t *http,
    const apikey_ctl_args_t *args);
static bool apikey_ctl_http_file(const char *file, char *token, size_t size);
static bool apikey_ctl_http_header(struct curl_slist **list,
    const char *line);
static void apikey_ctl_http_clear(const char *url);
static size_t apikey_ctl_http_take(char *data, size_t one, size_t n,
    void *ctx);


bool
apikey_ctl_http_open(apikey_ctl_http_t *http, const apikey_ctl_args_t *args)
{
    memset(http, 0, sizeof(apikey_ctl_http_t));

    http->base = args->to;

    if (strncasecmp(args->to, "http://", 7) != 0
        && strncasecmp(args->to, "https://", 8) != 0)
    {
        apikey_ctl_error("--to is the URL of the location of apikey_admin, "
                         "like https://example.com/api/v1/");
        return false;
    }

    apikey_ctl_http_clear(args->to);

    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK
        || (http->curl = curl_easy_init()) == NULL)
    {
        apikey_ctl_error("libcurl does not start");
        return false;
    }

    curl_easy_setopt(http->curl, CURLOPT_USERAGENT,
                     "apikeyctl/" APIKEY_VERSION);
    curl_easy_setopt(http->curl, CURLOPT_WRITEFUNCTION, apikey_ctl_http_take);
    curl_easy_setopt(http->curl, CURLOPT_WRITEDATA, http);
    curl_easy_setopt(http->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(http->curl, CURLOPT_CONNECTTIMEOUT,
                     APIKEY_CTL_HTTP_CONNECT);
    curl_easy_setopt(http->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(http->curl, CURLOPT_LOW_SPEED_TIME,
                     APIKEY_CTL_HTTP_STALL);

    if (args->ca) {
        curl_easy_setopt(http->curl, CURLOPT_CAINFO, args->ca);
    }

    return apikey_ctl_http_token(http, args);
}


void
apikey_ctl_http_close(apikey_ctl_http_t *http)
{
    curl_slist_free_all(http->headers);
    curl_easy_cleanup(http->curl);
    curl_global_cleanup();
    free(http->body);
}


long
apikey_ctl_http_call(apikey_ctl_http_t *http, const char *method,
    const char *path, const char *type, const char *body, size_t len)
{
    char               *url, *line;
    long                status;
    struct curl_slist  *headers;

    url = NULL;
    line = NULL;
    headers = NULL;
    status = 0;

    if (asprintf(&url, "%s%s%s", http->base,
                 http->base[strlen(http->base) - 1] == '/' ? "" : "/", path)
        == -1
        || asprintf(&line, "Content-Type: %s", type ? type : "") == -1
        || !apikey_ctl_http_header(&headers, line)
        || !apikey_ctl_http_header(&headers, "Expect:")
        || !apikey_ctl_http_header(&headers, http->headers->data))
    {
        apikey_ctl_error("out of memory");
        goto done;
    }

    curl_easy_setopt(http->curl, CURLOPT_URL, url);
    curl_easy_setopt(http->curl, CURLOPT_HTTPHEADER, headers);

    if (body) {
        curl_easy_setopt(http->curl, CURLOPT_POSTFIELDS, body);
        curl_easy_setopt(http->curl, CURLOPT_POSTFIELDSIZE_LARGE,
                         (curl_off_t) len);

    } else {
        curl_easy_setopt(http->curl, CURLOPT_HTTPGET, 1L);
    }

    curl_easy_setopt(http->curl, CURLOPT_CUSTOMREQUEST, method);

    status = apikey_ctl_http_perform(http, method, url);

done:

    curl_slist_free_all(headers);
    free(line);
    free(url);

    return status;
}


/* Callers are limited, too: who is told to wait waits.  What is sent here may
   be sent again. */

static long
apikey_ctl_http_perform(apikey_ctl_http_t *http, const char *method,
    const char *url)
{
    long          status;
    unsigned      i;
    CURLcode      rc;
    curl_off_t    pause;

    for (i = 1; ; i++) {
        http->len = 0;

        rc = curl_easy_perform(http->curl);

        if (rc != CURLE_OK) {
            apikey_ctl_error("%s %s: %s", method, url, curl_easy_strerror(rc));
            return 0;
        }

        status = 0;
        pause = 0;

        curl_easy_getinfo(http->curl, CURLINFO_RESPONSE_CODE, &status);
        curl_easy_getinfo(http->curl, CURLINFO_RETRY_AFTER, &pause);

        if (i >= (status == 429 ? APIKEY_CTL_HTTP_TRIES
                  : status == 503 ? APIKEY_CTL_HTTP_FAULTS : 1)
            || pause <= 0 || pause > APIKEY_CTL_HTTP_PAUSE)
        {
            return status;
        }

        (void) sleep((unsigned) pause);
    }
}


static bool
apikey_ctl_http_token(apikey_ctl_http_t *http, const apikey_ctl_args_t *args)
{
    char         line[APIKEY_CTL_HTTP_TOKEN + 32];
    char         token[APIKEY_CTL_HTTP_TOKEN];
    bool         good;
    const char  *env;

    env = getenv("APIKEY_TOKEN");

    if (args->token_file) {
        if (!apikey_ctl_http_file(args->token_file, token, sizeof(token))) {
            return false;
        }

    } else if (env && strlen(env) < sizeof(token)) {
        strcpy(token, env);

    } else {
        apikey_ctl_error("an operator's token is needed: --token-file FILE, "
                         "or APIKEY_TOKEN in the environment");
        return false;
    }

    if (token[0] == '\0' || strpbrk(token, " \t\r\n")) {
        apikey_ctl_error("a token is one word");
        return false;
    }

    (void) snprintf(line, sizeof(line), "Authorization: Bearer %s", token);

    good = apikey_ctl_http_header(&http->headers, line);

    if (!good) {
        apikey_ctl_error("out of memory");
    }

    explicit_bzero(line, sizeof(line));
    explicit_bzero(token, sizeof(token));

    return good;
}


/* The last word of the file: what "token new" prints behind its line. */

static bool
apikey_ctl_http_file(const char *file, char *token, size_t size)
{
    char     text[4096];
    char    *word, *state;
    FILE    *f;
    size_t   n;

    f = fopen(file, "r");

    if (f == NULL) {
        apikey_ctl_error("cannot open \"%s\": %s", file, strerror(errno));
        return false;
    }

    n = fread(text, 1, sizeof(text) - 1, f);
    text[n] = '\0';
    (void) fclose(f);

    token[0] = '\0';

    for (word = strtok_r(text, " \t\r\n", &state);
         word;
         word = strtok_r(NULL, " \t\r\n", &state))
    {
        if (strlen(word) < size) {
            strcpy(token, word);
        }
    }

    explicit_bzero(text, sizeof(text));

    if (token[0] == '\0') {
        apikey_ctl_error("\"%s\" holds no token", file);
        return false;
    }

    return true;
}


static bool
apikey_ctl_http_header(struct curl_slist **list, const char *line)
{
    struct curl_slist  *longer;

    longer = curl_slist_append(*list, line);

    if (longer == NULL) {
        return false;
    }

    *list = longer;

    return true;
}


static void
apikey_ctl_http_clear(const char *url)
{
    if (strncasecmp(url, "http://", 7) == 0
        && strncmp(url + 7, "127.", 4) != 0
        && strncmp(url + 7, "[::1]", 5) != 0
        && strncmp(url + 7, "localhost", 9) != 0)
    {
        fputs("warning: the token goes over the network in the clear; use "
              "https\n", stderr);
    }
}


static size_t
apikey_ctl_http_take(char *data, size_t one, size_t n, void *ctx)
{
    apikey_ctl_http_t  *http = ctx;

    char    *body;
    size_t   size;

    n *= one;

    if (http->len + n + 1 > http->size) {
        size = 2 * (http->len + n + 1);
        body = realloc(http->body, size);

        if (body == NULL) {
            return 0;
        }

        http->body = body;
        http->size = size;
    }

    memcpy(http->body + http->len, data, n);
    http->len += n;
    http->body[http->len] = '\0';

    return n;
}
