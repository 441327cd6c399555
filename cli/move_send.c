
/*
 * Rows of an import on their way to a gateway: POST api-keys/import, in
 * batches, and PUT owners/... for limits that several keys share.
 */


#define _GNU_SOURCE

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http.h"
#include "move.h"


#define APIKEY_MOVE_BATCH  5000


typedef struct {
    apikey_ctl_http_t    http;
    const char          *path;
    long long            created;
    long long            unchanged;
    long long            failed;
    bool                 answered;      /* one batch at least */
} apikey_move_send_t;


static bool apikey_move_send_rows(apikey_move_send_t *s, const json_t *rows,
    size_t first, size_t n);
static char *apikey_move_send_text(const json_t *rows, size_t first, size_t n,
    size_t *len);
static bool apikey_move_send_answer(apikey_move_send_t *s, const json_t *rows,
    size_t first);
static void apikey_move_send_failed(const json_t *result, const json_t *rows,
    size_t first);
static bool apikey_move_send_owner(apikey_move_t *m, apikey_move_send_t *s,
    const char *owner, const json_t *limits, bool dry_run);
static bool apikey_move_send_same(const json_t *old, const json_t *limits);
static bool apikey_move_send_refused(const apikey_move_send_t *s, long status,
    const char *what);


int
apikey_move_send(apikey_move_t *m, const apikey_ctl_args_t *args)
{
    bool                 good;
    size_t               i, n;
    json_t              *limits;
    const char          *owner;
    apikey_move_send_t   s;

    memset(&s, 0, sizeof(apikey_move_send_t));

    s.path = args->dry_run ? "api-keys/import?dry_run=true"
                           : "api-keys/import";

    good = apikey_ctl_http_open(&s.http, args);
    n = json_array_size(m->rows);

    json_object_foreach(m->owners, owner, limits) {
        good = good && (json_array_size(limits) == 0
                        || apikey_move_send_owner(m, &s, owner, limits,
                                                  args->dry_run));
    }

    for (i = 0; good && i < n; i += APIKEY_MOVE_BATCH) {
        good = apikey_move_send_rows(&s, m->rows, i,
                                     n - i < APIKEY_MOVE_BATCH
                                     ? n - i : APIKEY_MOVE_BATCH);
    }

    apikey_ctl_http_close(&s.http);

    if (s.answered) {
        printf("%s%lld created, %lld unchanged, %lld failed\n",
               args->dry_run ? "dry run: " : "", s.created, s.unchanged,
               s.failed);
    }

    if (!good) {
        return APIKEY_CTL_FAILED;
    }

    return s.failed ? APIKEY_CTL_PENDING : APIKEY_CTL_OK;
}


static bool
apikey_move_send_rows(apikey_move_send_t *s, const json_t *rows, size_t first,
    size_t n)
{
    char    *text;
    long     status;
    size_t   len;

    text = apikey_move_send_text(rows, first, n, &len);

    if (text == NULL) {
        apikey_ctl_error("out of memory");
        return false;
    }

    status = apikey_ctl_http_call(&s->http, "POST", s->path,
                                  "application/x-ndjson", text, len);
    free(text);

    if (status != 200) {
        return apikey_move_send_refused(s, status, s->path);
    }

    return apikey_move_send_answer(s, rows, first);
}


static char *
apikey_move_send_text(const json_t *rows, size_t first, size_t n, size_t *len)
{
    char    *text;
    FILE    *f;
    bool     good;
    size_t   i;

    text = NULL;
    f = open_memstream(&text, len);

    if (f == NULL) {
        return NULL;
    }

    good = true;

    for (i = first; i < first + n; i++) {
        good = good && json_dumpf(json_array_get(rows, i), f, JSON_COMPACT)
                       == 0
               && fputc('\n', f) != EOF;
    }

    if (fclose(f) != 0 || !good) {
        free(text);
        return NULL;
    }

    return text;
}


static bool
apikey_move_send_answer(apikey_move_send_t *s, const json_t *rows,
    size_t first)
{
    size_t   i;
    json_t  *answer, *result, *results;

    answer = json_loadb(s->http.body ? s->http.body : "", s->http.len, 0,
                        NULL);
    results = json_object_get(answer, "results");

    if (!json_is_array(results)) {
        apikey_ctl_error("the gateway's answer is not one of an import");
        json_decref(answer);
        return false;
    }

    s->answered = true;
    s->created += json_integer_value(json_object_get(answer, "created"));
    s->unchanged += json_integer_value(json_object_get(answer, "unchanged"));
    s->failed += json_integer_value(json_object_get(answer, "failed"));

    json_array_foreach(results, i, result) {
        if (strcmp(json_string_value(json_object_get(result, "result"))
                   ? json_string_value(json_object_get(result, "result")) : "",
                   "failed") == 0)
        {
            apikey_move_send_failed(result, rows, first);
        }
    }

    json_decref(answer);

    return true;
}


static void
apikey_move_send_failed(const json_t *result, const json_t *rows,
    size_t first)
{
    size_t         i;
    json_t        *error, *errors;
    const char    *name, *location, *message;
    const json_t  *row;

    row = json_array_get(rows, first + (size_t) json_integer_value(
                                   json_object_get(result, "row")) - 1);
    name = apikey_move_text(row, "name");
    errors = json_object_get(result, "errors");

    json_array_foreach(errors, i, error) {
        location = apikey_move_text(error, "location");
        message = apikey_move_text(error, "message");

        apikey_ctl_say("failed: \"%s\": %s%s%s", name ? name : "?",
                       location ? location : "", location ? ": " : "",
                       message ? message : "?");
    }
}


/* An owner's limits are replaced whole, so others are left alone. */

static bool
apikey_move_send_owner(apikey_move_t *m, apikey_move_send_t *s,
    const char *owner, const json_t *limits, bool dry_run)
{
    char    *path, *escaped, *text;
    long     status;
    json_t  *old, *body;

    escaped = curl_easy_escape(s->http.curl, owner, 0);
    body = json_pack("{s:O}", "limits", limits);
    text = json_dumps(body, JSON_COMPACT);
    path = NULL;
    old = NULL;
    status = 0;

    if (escaped && text && asprintf(&path, "owners/%s", escaped) != -1) {
        status = apikey_ctl_http_call(&s->http, "GET", path, NULL, NULL, 0);
    }

    if (status == 200) {
        old = json_loadb(s->http.body, s->http.len, 0, NULL);
    }

    if (json_array_size(json_object_get(old, "limits"))) {
        if (!apikey_move_send_same(json_object_get(old, "limits"), limits)) {
            apikey_move_warn(m, owner, "this owner has limits already, which "
                             "stay: %s is left out", text);
        }

    } else if ((status == 200 || status == 404) && !dry_run) {
        status = apikey_ctl_http_call(&s->http, "PUT", path,
                                      "application/json", text, strlen(text));
    }

    if (status == 404 && dry_run) {
        status = 200;
    }

    curl_free(escaped);
    free(path);
    free(text);
    json_decref(body);
    json_decref(old);

    return status == 200 || status == 201
           || apikey_move_send_refused(s, status, owner);
}


/* What was put there by an earlier run. */

static bool
apikey_move_send_same(const json_t *old, const json_t *limits)
{
    size_t   i;
    json_t  *a, *b;

    if (json_array_size(old) != json_array_size(limits)) {
        return false;
    }

    json_array_foreach(limits, i, a) {
        b = json_array_get(old, i);

        if (!json_equal(json_object_get(a, "name"), json_object_get(b, "name"))
            || !json_equal(json_object_get(a, "limit"),
                           json_object_get(b, "limit"))
            || !json_equal(json_object_get(a, "window"),
                           json_object_get(b, "window")))
        {
            return false;
        }
    }

    return true;
}


/* False, after the problem was printed; 0: it has been. */

static bool
apikey_move_send_refused(const apikey_move_send_t *s, long status,
    const char *what)
{
    json_t      *problem;
    const char  *detail;

    if (status) {
        problem = json_loadb(s->http.body ? s->http.body : "", s->http.len, 0,
                             NULL);
        detail = apikey_move_text(problem, "detail");

        apikey_ctl_error("%s: the gateway answers %ld%s%s", what, status,
                         detail ? ": " : "", detail ? detail : "");
        json_decref(problem);
    }

    return false;
}
