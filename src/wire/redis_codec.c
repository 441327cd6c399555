
/*
 * RESP with hiredis' reader (0.14 to 1.x: only what both have).
 *
 * Commands are formatted here, straight into the connection's buffer: the
 * format is three lines and hiredis allocates for each.  Replies are hiredis'
 * default objects.  Memory is bounded against a peer that lies: no aggregate
 * is accepted, for no command sent here has one, nor an endless string.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include <hiredis/hiredis.h>

#include "wire/redis_codec.h"


#define NGX_HTTP_APIKEY_REDIS_REPLY_MAX  65536


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

    p = ngx_sprintf(p, "*%ui" CRLF, argc);

    for (i = 0; i < argc; i++) {
        p = ngx_sprintf(p, "$%uz" CRLF, argv[i].len);
        p = ngx_cpymem(p, argv[i].data, argv[i].len);
        *p++ = CR;
        *p++ = LF;
    }

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
ngx_http_apikey_redis_feed(struct redisReader *reader, u_char *buf,
    size_t size)
{
    if (reader->len - reader->pos > NGX_HTTP_APIKEY_REDIS_REPLY_MAX) {
        return NGX_ERROR;
    }

    if (redisReaderFeed(reader, (char *) buf, size) != REDIS_OK) {
        return NGX_ERROR;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_apikey_redis_next(struct redisReader *reader,
    struct redisReply **reply)
{
    void  *p;

    if (reader->ridx == -1) {

        /* between two replies; asked now, it would wait inside of one */

        if (reader->pos == reader->len) {
            return NGX_AGAIN;
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


void
ngx_http_apikey_redis_reply_free(struct redisReply *reply)
{
    freeReplyObject(reply);
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
