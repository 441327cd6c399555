
/*
 * RESP: commands formatted, replies read.  The only file that calls hiredis
 * is redis_codec.c; nobody else sees its types.
 *
 * A reader belongs to one connection.  A reply belongs to whoever took it
 * with next() and is given back with reply_free(); its text is valid until
 * then.  Called by wire/redis.c; limit/ only looks into replies.
 */


#ifndef NGX_HTTP_APIKEY_REDIS_CODEC_H_INCLUDED
#define NGX_HTTP_APIKEY_REDIS_CODEC_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>


struct redisReader;
struct redisReply;


typedef enum {
    NGX_HTTP_APIKEY_REDIS_OTHER = 0,     /* arrays, nil, integers */
    NGX_HTTP_APIKEY_REDIS_STATUS,
    NGX_HTTP_APIKEY_REDIS_STRING,
    NGX_HTTP_APIKEY_REDIS_ERROR
} ngx_http_apikey_redis_kind_e;


size_t ngx_http_apikey_redis_format_size(ngx_uint_t argc, ngx_str_t *argv);
u_char *ngx_http_apikey_redis_format(u_char *p, ngx_uint_t argc,
    ngx_str_t *argv);

/* NULL: no memory. */
struct redisReader *ngx_http_apikey_redis_reader_create(void);
void ngx_http_apikey_redis_reader_free(struct redisReader *reader);

/*
 * The next reply in what was read; in is cut by what is consumed, and belongs
 * to the reply until this is given back.  NGX_OK with *reply set; NGX_AGAIN:
 * in is empty; NGX_ERROR: no memory, this is not RESP, or a reply that no
 * command here can have.
 *
 * Arrays, and strings over 64 K, only with large set.  The elements of an
 * array are the replies behind it.
 */
ngx_int_t ngx_http_apikey_redis_next(struct redisReader *reader,
    ngx_str_t *in, ngx_uint_t large, struct redisReply **reply);

void ngx_http_apikey_redis_reply_free(struct redisReply *reply);

ngx_http_apikey_redis_kind_e ngx_http_apikey_redis_reply(
    struct redisReply *reply, ngx_str_t *text);

/* Of an array; -1: it is none, or a null one. */
ngx_int_t ngx_http_apikey_redis_elements(struct redisReply *reply);


#endif /* NGX_HTTP_APIKEY_REDIS_CODEC_H_INCLUDED */
