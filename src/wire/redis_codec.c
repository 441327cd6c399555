
/*
 * RESP with hiredis' reader (0.14 to 1.x: only what both have).
 *
 * Commands are formatted here, straight into the connection's buffer: the
 * format is three lines and hiredis allocates for each.  A whole string, the
 * reply to nearly all of them, is read where it stands; all else goes through
 * hiredis and is its default object.  Memory is bounded against a peer that
 * lies: an endless string is not accepted, and of an array only its head is
 * read, here.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include <hiredis/hiredis.h>

#include "base/number.h"
#include "wire/redis_codec.h"


#define NGX_HTTP_APIKEY_REDIS_REPLY_MAX  65536
#define NGX_HTTP_APIKEY_REDIS_LARGE_MAX  (4 * 1024 * 1024)
#define NGX_HTTP_APIKEY_REDIS_ARRAY_MAX  65536


static u_char *ngx_http_apikey_redis_format_head(u_char *p, u_char type,
    uint64_t n);
static ngx_int_t ngx_http_apikey_redis_bulk(ngx_str_t *in);
static ngx_int_t ngx_http_apikey_redis_array(struct redisReader *reader);


/* the string that stands in a read buffer, the head of an array */

static redisReply  ngx_http_apikey_redis_string;
static redisReply  ngx_http_apikey_redis_head;


size_t
ngx_http_apikey_redis_format_size(ngx_uint_t argc, ngx_str_t *argv)
{
    size_t      size;
    ngx_uint_t  i;

    size = sizeof("*" CRLF) - 1 + NGX_INT_T_LEN;

    for (i = 0; i < argc; i++) {
        size += sizeof("$" CRLF CRLF) - 1 + NGX_SIZE_T_LEN + argv[i].len;
    }

    return size;
}


u_char *
ngx_http_apikey_redis_format(u_char *p, ngx_uint_t argc, ngx_str_t *argv)
{
    ngx_uint_t  i;

    p = ngx_http_apikey_redis_format_head(p, '*', argc);

    for (i = 0; i < argc; i++) {
        p = ngx_http_apikey_redis_format_head(p, '$', argv[i].len);
        p = ngx_cpymem(p, argv[i].data, argv[i].len);
        *p++ = CR;
        *p++ = LF;
    }

    return p;
}


static u_char *
ngx_http_apikey_redis_format_head(u_char *p, u_char type, uint64_t n)
{
    *p++ = type;
    p = (u_char *) apikey_uint_format((char *) p, n);
    *p++ = CR;
    *p++ = LF;

    return p;
}


struct redisReader *
ngx_http_apikey_redis_reader_create(void)
{
    return redisReaderCreate();
}


void
ngx_http_apikey_redis_reader_free(struct redisReader *reader)
{
    redisReaderFree(reader);
}


ngx_int_t
ngx_http_apikey_redis_next(struct redisReader *reader, ngx_str_t *in,
    ngx_uint_t large, struct redisReply **reply)
{
    void    *p;
    size_t   max;

    max = large ? NGX_HTTP_APIKEY_REDIS_LARGE_MAX
                : NGX_HTTP_APIKEY_REDIS_REPLY_MAX;

    if (in->len) {

        if (reader->ridx == -1 && reader->pos == reader->len
            && ngx_http_apikey_redis_bulk(in) == NGX_OK)
        {
            *reply = &ngx_http_apikey_redis_string;
            return NGX_OK;
        }

        if (reader->len - reader->pos > max
            || redisReaderFeed(reader, (char *) in->data, in->len) != REDIS_OK)
        {
            return NGX_ERROR;
        }

        in->len = 0;
    }

    if (reader->ridx == -1) {

        /* between two replies; asked now, it would wait inside of one */

        if (reader->pos == reader->len) {
            return NGX_AGAIN;
        }

        if (large && reader->buf[reader->pos] == '*') {
            *reply = &ngx_http_apikey_redis_head;
            return ngx_http_apikey_redis_array(reader);
        }

        if (ngx_strchr("+-:$", reader->buf[reader->pos]) == NULL) {
            return NGX_ERROR;
        }
    }

    p = NULL;

    if (redisReaderGetReply(reader, &p) != REDIS_OK) {
        return NGX_ERROR;
    }

    if (p == NULL) {
        return NGX_AGAIN;
    }

    *reply = p;

    return NGX_OK;
}


/* A short string that is here as a whole, where it stands: most are. */

static ngx_int_t
ngx_http_apikey_redis_bulk(ngx_str_t *in)
{
    size_t   len;
    u_char  *p, *last;

    p = in->data;
    last = p + in->len;

    if (*p++ != '$') {
        return NGX_DECLINED;
    }

    for (len = 0; p < last && *p >= '0' && *p <= '9'; p++) {
        len = len * 10 + (*p - '0');

        if (len > NGX_HTTP_APIKEY_REDIS_REPLY_MAX) {
            return NGX_DECLINED;
        }
    }

    if (p == in->data + 1 || (size_t) (last - p) < len + 4
        || p[0] != CR || p[1] != LF || p[len + 2] != CR || p[len + 3] != LF)
    {
        return NGX_DECLINED;
    }

    ngx_http_apikey_redis_string.type = REDIS_REPLY_STRING;
    ngx_http_apikey_redis_string.str = (char *) p + 2;
    ngx_http_apikey_redis_string.len = len;

    p += len + 4;

    in->data = p;
    in->len = last - p;

    return NGX_OK;
}


/* Its first line, once it is here as a whole. */

static ngx_int_t
ngx_http_apikey_redis_array(struct redisReader *reader)
{
    char       *p, *last;
    ngx_int_t   n;

    p = reader->buf + reader->pos;
    last = (char *) ngx_strlchr((u_char *) p,
                                (u_char *) reader->buf + reader->len, LF);

    if (last == NULL) {
        return (reader->len - reader->pos > NGX_INT_T_LEN + 3) ? NGX_ERROR
                                                               : NGX_AGAIN;
    }

    if (last - p < 3 || last[-1] != CR) {
        return NGX_ERROR;
    }

    n = ngx_atoi((u_char *) p + 1, last - p - 2);

    if (n == NGX_ERROR || n > NGX_HTTP_APIKEY_REDIS_ARRAY_MAX) {

        if (last - p != 4 || p[1] != '-' || p[2] != '1') {
            return NGX_ERROR;
        }

        n = -1;
    }

    ngx_http_apikey_redis_head.type = n < 0 ? REDIS_REPLY_NIL
                                            : REDIS_REPLY_ARRAY;
    ngx_http_apikey_redis_head.elements = ngx_max(n, 0);

    reader->pos += last + 1 - p;

    return NGX_OK;
}


void
ngx_http_apikey_redis_reply_free(struct redisReply *reply)
{
    if (reply != &ngx_http_apikey_redis_string
        && reply != &ngx_http_apikey_redis_head)
    {
        freeReplyObject(reply);
    }
}


ngx_http_apikey_redis_kind_e
ngx_http_apikey_redis_reply(struct redisReply *reply, ngx_str_t *text)
{
    text->data = (u_char *) reply->str;
    text->len = reply->len;

    switch (reply->type) {

    case REDIS_REPLY_STATUS:
        return NGX_HTTP_APIKEY_REDIS_STATUS;

    case REDIS_REPLY_STRING:
        return NGX_HTTP_APIKEY_REDIS_STRING;

    case REDIS_REPLY_ERROR:
        return NGX_HTTP_APIKEY_REDIS_ERROR;

    default:
        ngx_str_null(text);
        return NGX_HTTP_APIKEY_REDIS_OTHER;
    }
}


ngx_int_t
ngx_http_apikey_redis_elements(struct redisReply *reply)
{
    return reply->type == REDIS_REPLY_ARRAY ? (ngx_int_t) reply->elements : -1;
}
