
/*
 * POST by libcurl, in a thread.
 *
 * The address is checked where the socket is made: whatever a name has
 * resolved to before, this is what would be connected to.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include <curl/curl.h>

#include "base/address.h"
#include "wire/post.h"
#include "wire/thread.h"


static void ngx_http_apikey_post_thread(void *data, ngx_log_t *log);
static void ngx_http_apikey_post_perform(ngx_http_apikey_post_t *post,
    CURL *curl);
static CURLcode ngx_http_apikey_post_options(ngx_http_apikey_post_t *post,
    CURL *curl, struct curl_slist *headers);
static void ngx_http_apikey_post_result(ngx_http_apikey_post_t *post,
    CURL *curl, CURLcode rc);
static curl_socket_t ngx_http_apikey_post_socket(void *data,
    curlsocktype purpose, struct curl_sockaddr *addr);
static size_t ngx_http_apikey_post_write(char *text, size_t size, size_t n,
    void *data);
static int ngx_http_apikey_post_progress(void *data, curl_off_t to_get,
    curl_off_t got, curl_off_t to_send, curl_off_t sent);
static void ngx_http_apikey_post_done(ngx_event_t *ev);


static ngx_uint_t  ngx_http_apikey_post_ready;


ngx_int_t
ngx_http_apikey_post_send(ngx_http_apikey_post_t *post, ngx_pool_t *pool)
{
    ngx_thread_task_t  *task;

    if (!ngx_http_apikey_post_ready) {

        if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
            return NGX_ERROR;
        }

        ngx_http_apikey_post_ready = 1;
    }

    task = ngx_thread_task_alloc(pool, sizeof(ngx_http_apikey_post_t *));

    if (task == NULL) {
        return NGX_ERROR;
    }

    *(ngx_http_apikey_post_t **) task->ctx = post;

    task->handler = ngx_http_apikey_post_thread;
    task->event.handler = ngx_http_apikey_post_done;
    task->event.data = post;

    return ngx_http_apikey_thread_post(task);
}


void
ngx_http_apikey_post_free(void)
{
    if (ngx_http_apikey_post_ready) {
        curl_global_cleanup();
        ngx_http_apikey_post_ready = 0;
    }
}


static void
ngx_http_apikey_post_thread(void *data, ngx_log_t *log)
{
    CURL                    *curl;
    ngx_http_apikey_post_t  *post;

    post = *(ngx_http_apikey_post_t **) data;

    post->status = 0;
    post->duration = 0;
    post->error[0] = '\0';
    post->got = 0;
    post->full = 0;
    post->refused = 0;

    curl = curl_easy_init();

    if (curl == NULL) {
        ngx_cpystrn((u_char *) post->error, (u_char *) "no memory",
                    NGX_HTTP_APIKEY_POST_ERROR);
        return;
    }

    ngx_http_apikey_post_perform(post, curl);

    curl_easy_cleanup(curl);
}


static void
ngx_http_apikey_post_perform(ngx_http_apikey_post_t *post, CURL *curl)
{
    CURLcode            rc;
    ngx_uint_t          i;
    struct curl_slist  *headers, *next;

    headers = NULL;

    for (i = 0; post->headers[i]; i++) {
        next = curl_slist_append(headers, post->headers[i]);

        if (next == NULL) {
            curl_slist_free_all(headers);
            ngx_cpystrn((u_char *) post->error, (u_char *) "no memory",
                        NGX_HTTP_APIKEY_POST_ERROR);
            return;
        }

        headers = next;
    }

    rc = ngx_http_apikey_post_options(post, curl, headers);

    if (rc == CURLE_OK) {
        rc = curl_easy_perform(curl);
    }

    ngx_http_apikey_post_result(post, curl, rc);

    curl_slist_free_all(headers);
}


#define ngx_http_apikey_post_set(option, value)                               \
    if (rc == CURLE_OK) {                                                     \
        rc = curl_easy_setopt(curl, option, value);                           \
    }


static CURLcode
ngx_http_apikey_post_options(ngx_http_apikey_post_t *post, CURL *curl,
    struct curl_slist *headers)
{
    CURLcode  rc;

    rc = CURLE_OK;

    ngx_http_apikey_post_set(CURLOPT_URL, post->url);
    ngx_http_apikey_post_set(CURLOPT_POST, 1L);
    ngx_http_apikey_post_set(CURLOPT_POSTFIELDS, post->body);
    ngx_http_apikey_post_set(CURLOPT_POSTFIELDSIZE_LARGE,
                             (curl_off_t) post->len);
    ngx_http_apikey_post_set(CURLOPT_HTTPHEADER, headers);
    ngx_http_apikey_post_set(CURLOPT_HTTP_VERSION,
                             (long) CURL_HTTP_VERSION_1_1);

    /* nothing that leads elsewhere, or says who we are */

#if (LIBCURL_VERSION_NUM >= 0x075500)
    ngx_http_apikey_post_set(CURLOPT_PROTOCOLS_STR, "http,https");
#else
    ngx_http_apikey_post_set(CURLOPT_PROTOCOLS,
                             (long) (CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
    ngx_http_apikey_post_set(CURLOPT_FOLLOWLOCATION, 0L);
    ngx_http_apikey_post_set(CURLOPT_PROXY, "");
    ngx_http_apikey_post_set(CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);

    ngx_http_apikey_post_set(CURLOPT_NOSIGNAL, 1L);
    ngx_http_apikey_post_set(CURLOPT_TIMEOUT_MS,
                             (long) NGX_HTTP_APIKEY_POST_TIMEOUT);
    ngx_http_apikey_post_set(CURLOPT_CONNECTTIMEOUT_MS,
                             (long) NGX_HTTP_APIKEY_POST_CONNECT);

    ngx_http_apikey_post_set(CURLOPT_ERRORBUFFER, post->error);
    ngx_http_apikey_post_set(CURLOPT_OPENSOCKETFUNCTION,
                             ngx_http_apikey_post_socket);
    ngx_http_apikey_post_set(CURLOPT_OPENSOCKETDATA, post);
    ngx_http_apikey_post_set(CURLOPT_WRITEFUNCTION,
                             ngx_http_apikey_post_write);
    ngx_http_apikey_post_set(CURLOPT_WRITEDATA, post);
    ngx_http_apikey_post_set(CURLOPT_XFERINFOFUNCTION,
                             ngx_http_apikey_post_progress);
    ngx_http_apikey_post_set(CURLOPT_XFERINFODATA, post);
    ngx_http_apikey_post_set(CURLOPT_NOPROGRESS, 0L);

    return rc;
}


#undef ngx_http_apikey_post_set


/* What the answer says counts, also where not all of its body was read. */

static void
ngx_http_apikey_post_result(ngx_http_apikey_post_t *post, CURL *curl,
    CURLcode rc)
{
    long        status;
    curl_off_t  took;

    status = 0;
    took = 0;

    (void) curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    (void) curl_easy_getinfo(curl, CURLINFO_TOTAL_TIME_T, &took);

    post->status = (ngx_uint_t) status;
    post->duration = (ngx_msec_t) (took / 1000);

    if (rc == CURLE_OK || post->full) {
        post->error[0] = '\0';

    } else if (rc == CURLE_COULDNT_CONNECT && post->refused) {
        ngx_cpystrn((u_char *) post->error, (u_char *)
                    "a private address: the setting webhook_allow names the"
                    " networks that may be reached",
                    NGX_HTTP_APIKEY_POST_ERROR);

    } else if (post->error[0] == '\0') {
        ngx_cpystrn((u_char *) post->error, (u_char *) curl_easy_strerror(rc),
                    NGX_HTTP_APIKEY_POST_ERROR);
    }
}


static curl_socket_t
ngx_http_apikey_post_socket(void *data, curlsocktype purpose,
    struct curl_sockaddr *addr)
{
    ngx_http_apikey_post_t *post = data;

    struct sockaddr_in   *sin;
    struct sockaddr_in6  *sin6;
    apikey_address_t      address;

    switch (addr->family) {

    case AF_INET:
        sin = (struct sockaddr_in *) &addr->addr;
        apikey_address_v4(&address, (uint8_t *) &sin->sin_addr);
        break;

    case AF_INET6:
        sin6 = (struct sockaddr_in6 *) &addr->addr;
        apikey_address_v6(&address, sin6->sin6_addr.s6_addr);
        break;

    default:
        return CURL_SOCKET_BAD;
    }

    if (apikey_address_private(&address)
        && !apikey_address_in(&address, post->allowed))
    {
        post->refused = 1;
        return CURL_SOCKET_BAD;
    }

    return socket(addr->family, addr->socktype | SOCK_CLOEXEC,
                  addr->protocol);
}


static size_t
ngx_http_apikey_post_write(char *text, size_t size, size_t n, void *data)
{
    ngx_http_apikey_post_t *post = data;

    post->got += size * n;

    if (post->got > NGX_HTTP_APIKEY_POST_BODY) {
        post->full = 1;
        return 0;
    }

    return size * n;
}


/* Called about once a second at least: a worker that ends waits for nobody. */

static int
ngx_http_apikey_post_progress(void *data, curl_off_t to_get, curl_off_t got,
    curl_off_t to_send, curl_off_t sent)
{
    return ngx_terminate ? 1 : 0;
}


static void
ngx_http_apikey_post_done(ngx_event_t *ev)
{
    ngx_http_apikey_post_t  *post;

    post = ev->data;

    post->handler(post);
}
