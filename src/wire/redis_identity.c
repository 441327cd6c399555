
/*
 * Which primary a link talks to, and since when it is that.
 *
 * Its id is made of the run id, new after each restart, and the offset where
 * it left its last primary's history, which is another one after each
 * promotion.  When it began is kept in Redis itself, for all nodes to agree
 * on, and belongs to that id alone.  Asked when a link is made and once a
 * second: a primary may become a replica, or be promoted twice, under a
 * connection that stays.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/number.h"
#include "base/slot.h"
#include "wire/redis_private.h"


#define NGX_HTTP_APIKEY_IDENTITY_CHECK  1000     /* ms */
#define NGX_HTTP_APIKEY_IDENTITY_KEY    128
#define NGX_HTTP_APIKEY_IDENTITY_MASK   UINT64_C(0xfffffffffffff)


static void ngx_http_apikey_link_identity_handler(
    ngx_http_apikey_redis_call_t *call, struct redisReply *reply);
static ngx_uint_t ngx_http_apikey_link_identity_argv(
    ngx_http_apikey_link_t *link, u_char *p, ngx_str_t *argv);
static ngx_int_t ngx_http_apikey_link_identity_read(
    ngx_http_apikey_redis_epoch_t *epoch, ngx_str_t *text);
static ngx_int_t ngx_http_apikey_link_identity_moved(
    ngx_http_apikey_link_t *link, ngx_str_t *text);


/*
 * KEYS[1], not in a node without slots: "RUN_ID OFFSET SINCE", SINCE 0 where
 * nobody was here before.  In a Cluster its node's id stands behind it, for
 * it moves with its slot: it is a predecessor's if this one was promoted, or
 * its own.  SINCE < 0: promoted before anybody came; what is there since
 * -SINCE is its own, but nothing is known to be missing.  ARGV[1]: the same as
 * this worker knows it, or "".
 */

static ngx_str_t  ngx_http_apikey_identity_script = ngx_string(
    "local s = redis.call('INFO', 'server')\n"
    "local r = redis.call('INFO', 'replication')\n"
    "local role = string.match(r, 'role:(%a+)') or '?'\n"
    "local at = string.match(r, 'second_repl_offset:(-?%d+)') or '?'\n"
    "local id = (string.match(s, 'run_id:(%w+)') or '?') .. ' ' .. at .. ' '\n"
    "local t = redis.call('TIME')\n"
    "local now = string.format('%d%06d', t[1], t[2])\n"
    "local cluster = string.find(s, '_mode:cluster')\n"
    "local promoted = cluster and at ~= '-1'\n"
    "local since\n"
    "if string.sub(ARGV[1], 1, #id) == id then\n"
    "    since = string.sub(ARGV[1], #id + 1)\n"
    "end\n"
    "if role ~= 'master' or not KEYS[1] then\n"
    "    return role .. ' ' .. id .. (since or promoted and now or '0')\n"
    "end\n"
    "local v = redis.call('GET', KEYS[1])\n"
    "if v and string.sub(v, 1, #id) == id then\n"
    "    return 'master ' .. (string.match(v, '%S+ %S+ %S+'))\n"
    "end\n"
    "local me = ''\n"
    "if cluster then\n"
    "    me = redis.pcall('CLUSTER', 'MYID')\n"
    "    me = ' ' .. (type(me) == 'string' and me or '?')\n"
    "end\n"
    "if not since and v then\n"
    "    since = (not cluster or promoted or string.sub(v, -#me) == me)\n"
    "            and now or '0'\n"
    "end\n"
    "since = since or promoted and '-' .. now or '0'\n"
    "redis.call('SET', KEYS[1], id .. since .. me)\n"
    "return 'master ' .. id .. since\n");


ngx_int_t
ngx_http_apikey_link_identify(ngx_http_apikey_link_t *link)
{
    u_char     text[NGX_HTTP_APIKEY_IDENTITY_KEY];
    ngx_str_t  argv[5];

    return ngx_http_apikey_link_append(link,
               ngx_http_apikey_link_identity_argv(link, text, argv), argv);
}


/* Once a second, not all workers at once. */

void
ngx_http_apikey_link_check(ngx_http_apikey_link_t *link)
{
    ngx_add_timer(&link->check, NGX_HTTP_APIKEY_IDENTITY_CHECK * 3 / 4
                                + ngx_random()
                                  % (NGX_HTTP_APIKEY_IDENTITY_CHECK / 2));
}


void
ngx_http_apikey_link_check_handler(ngx_event_t *ev)
{
    u_char                   text[NGX_HTTP_APIKEY_IDENTITY_KEY];
    ngx_str_t                argv[5];
    ngx_uint_t               argc;
    ngx_http_apikey_link_t  *link;

    link = ev->data;

    if (!link->identity.waiting) {
        link->identity.handler = ngx_http_apikey_link_identity_handler;
        link->identity.data = link;
        link->identity.deadline = 0;

        argc = ngx_http_apikey_link_identity_argv(link, text, argv);

        (void) ngx_http_apikey_link_send(link, &link->identity, argc, argv);
    }

    ngx_http_apikey_link_check(link);
}


static ngx_uint_t
ngx_http_apikey_link_identity_argv(ngx_http_apikey_link_t *link, u_char *p,
    ngx_str_t *argv)
{
    u_char      *last;
    ngx_uint_t   n;

    last = p + NGX_HTTP_APIKEY_IDENTITY_KEY;

    ngx_str_set(&argv[0], "EVAL");
    argv[1] = ngx_http_apikey_identity_script;
    n = 3;

    if (link->redis->cluster == NULL || link->tag >= 0) {
        argv[n].data = p;
        p = ngx_slprintf(p, last, "%V:since", &link->conf->prefix);

        if (link->redis->cluster) {
            p = ngx_cpymem(p, ":{", 2);
            p += apikey_slot_tag(link->tag, (char *) p);
            *p++ = '}';
        }

        argv[n].len = p - argv[n].data;
        n++;
    }

    argv[2].data = (u_char *) (n == 3 ? "0" : "1");
    argv[2].len = 1;

    /* a slot that moves takes its key along */

    argv[n].data = link->identified;
    argv[n].len = link->redis->cluster ? link->nidentified : 0;

    return n + 1;
}


static void
ngx_http_apikey_link_identity_handler(ngx_http_apikey_redis_call_t *call,
    struct redisReply *reply)
{
    ngx_http_apikey_link_t *link = call->data;

    if (reply) {
        (void) ngx_http_apikey_link_identified(link, reply);
    }
}


ngx_int_t
ngx_http_apikey_link_identified(ngx_http_apikey_link_t *link,
    struct redisReply *reply)
{
    ngx_str_t                       text;
    ngx_http_apikey_redis_kind_e    kind;
    ngx_http_apikey_redis_epoch_t   epoch;

    kind = ngx_http_apikey_redis_reply(reply, &text);

    if (kind == NGX_HTTP_APIKEY_REDIS_ERROR) {

        if (ngx_http_apikey_link_identity_moved(link, &text) == NGX_DONE) {
            return NGX_DONE;
        }

        ngx_http_apikey_link_lost(link, "it does not say who it is: ", &text);
        return NGX_DONE;
    }

    switch (ngx_http_apikey_link_identity_read(&epoch, &text)) {

    case NGX_OK:
        break;

    case NGX_DECLINED:
        ngx_http_apikey_link_lost(link, "it is a replica", NULL);
        return NGX_DONE;

    default: /* NGX_ERROR */
        ngx_http_apikey_link_lost(link, "it does not say who it is", NULL);
        return NGX_DONE;
    }

    if (link->epoch.id && link->epoch.id != epoch.id) {
        ngx_log_error(NGX_LOG_NOTICE, link->log, 0,
                      "apikey_redis: %V is another primary than before",
                      &link->target.name);
    }

    link->epoch = epoch;

    text.data += sizeof("master ") - 1;
    text.len -= sizeof("master ") - 1;

    link->nidentified = ngx_min(text.len, sizeof(link->identified));
    ngx_memcpy(link->identified, text.data, link->nidentified);

    return NGX_OK;
}


/* master RUN_ID OFFSET SINCE; NGX_DECLINED: no master. */

static ngx_int_t
ngx_http_apikey_link_identity_read(ngx_http_apikey_redis_epoch_t *epoch,
    ngx_str_t *text)
{
    u_char      *p, *last, *since;
    uint64_t     hash;
    ngx_int_t    n;
    ngx_uint_t   blanks, alone;

    last = text->data + text->len;
    p = ngx_strlchr(text->data, last, ' ');

    if (p == NULL) {
        return NGX_ERROR;
    }

    if (p - text->data != sizeof("master") - 1
        || ngx_strncmp(text->data, "master", sizeof("master") - 1) != 0)
    {
        return NGX_DECLINED;
    }

    /* FNV-1a of both parts */

    hash = UINT64_C(0xcbf29ce484222325);
    since = NULL;

    for (blanks = 0, p++; p < last; p++) {

        if (*p == ' ' && ++blanks == 2) {
            since = p + 1;
            break;
        }

        hash = (hash ^ *p) * UINT64_C(0x100000001b3);
    }

    alone = since && since < last && *since == '-';
    since += alone;

    n = since ? ngx_atoi(since, last - since) : NGX_ERROR;

    if (n == NGX_ERROR) {
        return NGX_ERROR;
    }

    hash = (hash ^ hash >> 52) & NGX_HTTP_APIKEY_IDENTITY_MASK;

    epoch->id = hash ? hash : 1;
    epoch->since = alone ? 0 : n;
    epoch->own = n;

    return NGX_OK;
}


/* In a Cluster: the slot of our key is not here any more. */

static ngx_int_t
ngx_http_apikey_link_identity_moved(ngx_http_apikey_link_t *link,
    ngx_str_t *text)
{
    apikey_slot_redirect_t  redirect;

    if (link->redis->cluster == NULL || link->tag < 0
        || !apikey_slot_redirect((char *) text->data, text->len, &redirect))
    {
        return NGX_DECLINED;
    }

    link->tag = -1;

    ngx_http_apikey_cluster_refresh(link->redis);

    /* when it is asked next it is asked without, or with another one */

    if (link->state == NGX_HTTP_APIKEY_LINK_HANDSHAKE
        && ngx_http_apikey_link_identify(link) != NGX_OK)
    {
        ngx_http_apikey_link_lost(link, "cannot write", NULL);
    }

    return NGX_DONE;
}
