
/*
 * The growing buffers of a batch, and what is written into its SQL.
 *
 * Plain memory would keep the holes that a large one leaves behind while it
 * grows: these are mapped, and pages that were never written cost nothing.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include <sys/mman.h>

#include "base/uuid.h"
#include "usage/ship.h"


#define NGX_HTTP_APIKEY_TEXT_MIN  65536


void *
ngx_http_apikey_text_add(ngx_http_apikey_text_t *t, size_t len)
{
    void    *data;
    size_t   size;

    if (t->failed) {
        return NULL;
    }

    if (t->size - t->len < len) {
        size = t->size ? t->size * 2 : NGX_HTTP_APIKEY_TEXT_MIN;

        while (size - t->len < len) {
            size *= 2;
        }

        data = t->size ? mremap(t->data, t->size, size, MREMAP_MAYMOVE)
                       : mmap(NULL, size, PROT_READ|PROT_WRITE,
                              MAP_PRIVATE|MAP_ANONYMOUS, -1, 0);

        if (data == MAP_FAILED) {
            t->failed = 1;
            return NULL;
        }

        t->data = data;
        t->size = size;
    }

    data = t->data + t->len;
    t->len += len;

    return data;
}


void
ngx_http_apikey_text_free(ngx_http_apikey_text_t *t)
{
    if (t->size) {
        (void) munmap(t->data, t->size);
    }

    ngx_memzero(t, sizeof(ngx_http_apikey_text_t));
}


void
ngx_http_apikey_text_put(ngx_http_apikey_text_t *t, const char *s)
{
    size_t   len;
    u_char  *p;

    len = ngx_strlen(s);
    p = ngx_http_apikey_text_add(t, len);

    if (p) {
        ngx_memcpy(p, s, len);
    }
}


void
ngx_http_apikey_text_int(ngx_http_apikey_text_t *t, int64_t n)
{
    u_char    *p, *end, buf[NGX_INT64_LEN];
    uint64_t   u;

    end = buf + NGX_INT64_LEN;
    p = end;
    u = n < 0 ? 0 - (uint64_t) n : (uint64_t) n;

    do {
        *--p = (u_char) ('0' + u % 10);
        u /= 10;
    } while (u);

    if (n < 0) {
        *--p = '-';
    }

    u = (uint64_t) (end - p);
    end = ngx_http_apikey_text_add(t, u);

    if (end) {
        ngx_memcpy(end, p, u);
    }
}


void
ngx_http_apikey_text_number(ngx_http_apikey_text_t *t, __int128 n)
{
    u_char  *p, text[NGX_INT64_LEN];

    if (n <= INT64_MAX) {
        ngx_http_apikey_text_int(t, (int64_t) n);
        return;
    }

    ngx_http_apikey_text_int(t, (int64_t) (n / 1000000000000000000LL));

    (void) ngx_sprintf(text, "%018uL",
                       (uint64_t) (n % 1000000000000000000LL));

    p = ngx_http_apikey_text_add(t, 18);

    if (p) {
        ngx_memcpy(p, text, 18);
    }
}


void
ngx_http_apikey_text_uuid(ngx_http_apikey_text_t *t, const u_char *uuid)
{
    u_char  *p;

    p = ngx_http_apikey_text_add(t, APIKEY_UUID_TEXT_LEN);

    if (p) {
        apikey_uuid_format((char *) p, uuid);
    }
}


void
ngx_http_apikey_text_quoted(ngx_http_apikey_text_t *t, const char *s,
    size_t len, ngx_uint_t element)
{
    size_t   n, i;
    u_char  *p, *start;

    start = ngx_http_apikey_text_add(t, 2 * len + 2);
    if (start == NULL) {
        return;
    }

    p = start;
    *p++ = element ? '"' : '\'';

    for (i = 0; i < len; i += n ? n : 1) {
        n = ngx_http_apikey_utf8(s + i, len - i);

        if (n == 0) {
            *p++ = '?';
            continue;
        }

        if (s[i] == '\'' || (element && (s[i] == '"' || s[i] == '\\'))) {
            *p++ = s[i] == '\'' ? '\'' : '\\';
        }

        p = ngx_cpymem(p, s + i, n);
    }

    *p++ = element ? '"' : '\'';
    t->len -= start + 2 * len + 2 - p;
}
