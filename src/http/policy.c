
/*
 * What a key may do, besides its limits: prefixes, addresses, scopes, models.
 * Pure comparisons over what the caller holds.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/pattern.h"
#include "http/http.h"


#define NGX_HTTP_APIKEY_MODEL_MAX  255


/*
 * Of a key in our form the prefix is all in front of its last '_'; of any
 * other, what it starts with in front of some '_'.
 */

ngx_int_t
ngx_http_apikey_accepted(ngx_array_t *accept, ngx_str_t *key)
{
    size_t       tail;
    ngx_str_t   *prefix;
    ngx_uint_t   i;

    prefix = accept->elts;

    for (tail = 0; tail < key->len; tail++) {
        if (key->data[key->len - 1 - tail] == '_') {
            break;
        }
    }

    for (i = 0; i < accept->nelts; i++) {

        if (key->len <= prefix[i].len
            || key->data[prefix[i].len] != '_'
            || ngx_memcmp(key->data, prefix[i].data, prefix[i].len) != 0)
        {
            continue;
        }

        if (tail != APIKEY_KEY_TAIL || key->len == prefix[i].len + 1 + tail) {
            return 1;
        }
    }

    return 0;
}


/* IPv4 as an IPv4-mapped address; zero: neither IPv4 nor IPv6. */

void
ngx_http_apikey_client_address(ngx_http_request_t *r, u_char out[16])
{
    struct sockaddr      *sa;
    struct sockaddr_in   *sin;
#if (NGX_HAVE_INET6)
    struct sockaddr_in6  *sin6;
#endif

    ngx_memzero(out, 16);

    sa = r->connection->sockaddr;

    switch (sa->sa_family) {

    case AF_INET:
        sin = (struct sockaddr_in *) sa;
        out[10] = 0xff;
        out[11] = 0xff;
        ngx_memcpy(out + 12, &sin->sin_addr, 4);
        break;

#if (NGX_HAVE_INET6)
    case AF_INET6:
        sin6 = (struct sockaddr_in6 *) sa;
        ngx_memcpy(out, &sin6->sin6_addr, 16);
        break;
#endif
    }
}


ngx_int_t
ngx_http_apikey_ip_allowed(ngx_http_apikey_key_t *key,
    const u_char address[16])
{
    u_char         mask;
    size_t         len, n;
    const u_char  *p, *last, *ip;

    static const u_char  mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                        0xff, 0xff };
    static const u_char  none[16];

    if (key->any_ip) {
        return 1;
    }

    if (ngx_memcmp(address, none, 16) == 0) {
        return 0;                /* not even in ::/0 */
    }

    ip = address;
    len = 16;

    if (ngx_memcmp(address, mapped, 12) == 0) {
        ip = address + 12;
        len = 4;
    }

    last = key->ips.data + key->ips.len;

    for (p = key->ips.data; last - p >= 18; p += 18) {

        if ((p[0] == 4) != (len == 4) || p[1] > len * 8) {
            continue;
        }

        n = p[1] / 8;
        mask = (u_char) (0xff00 >> (p[1] % 8));

        if (ngx_memcmp(p + 2, ip, n) == 0
            && (n == len || ((p[2 + n] ^ ip[n]) & mask) == 0))
        {
            return 1;
        }
    }

    return 0;
}


/* list: "a|b" in it means either. */

ngx_int_t
ngx_http_apikey_scope_held(ngx_str_t *held, ngx_str_t *wanted,
    ngx_uint_t list)
{
    u_char  *p, *last, *bar;

    last = wanted->data + wanted->len;

    for (p = wanted->data; p < last; p = bar + 1) {

        bar = list ? ngx_strlchr(p, last, '|') : NULL;

        if (bar == NULL) {
            bar = last;
        }

        if (apikey_scope_held((char *) held->data, held->len, (char *) p,
                              bar - p))
        {
            return 1;
        }
    }

    return 0;
}


/* What has no name may be any model, and so has what is too long for one. */

ngx_int_t
ngx_http_apikey_model_allowed(ngx_str_t *models, ngx_str_t *model)
{
    return model->len && model->len <= NGX_HTTP_APIKEY_MODEL_MAX
           && apikey_pattern_any((char *) models->data, models->len,
                                 (char *) model->data, model->len);
}
