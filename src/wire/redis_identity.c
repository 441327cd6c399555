
/*
 * Which primary a link talks to, and since when it is that.
 *
 * Its id is made of the run id, new after each restart, and the offset where
 * it left its last primary's history, which is another one after each
 * promotion.  When it began is kept in Redis itself, for all nodes to agree
 * on, and belongs to that id alone; and with it since when its data are there,
 * for they may go though it stays (FLUSHALL).  Asked when a link is made and
 * once a second: a primary may become a replica, or be promoted twice, under
 * a connection that stays.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/number.h"
#include "base/slot.h"
#include "wire/redis_private.h"


#define NGX_HTTP_APIKEY_IDENTITY_CHECK  1000     /* ms */
#define NGX_HTTP_APIKEY_IDENTITY_MASK   UINT64_C(0xfffffffffffff)


static void ngx_http_apikey_link_identity_handler(
    ngx_http_apikey_redis_call_t *call, struct redisReply *reply);
static ngx_uint_t ngx_http_apikey_link_identity_argv(
    ngx_http_apikey_link_t *link, ngx_str_t *argv);
static ngx_int_t ngx_http_apikey_link_identity_read(
    ngx_http_apikey_redis_epoch_t *epoch, ngx_str_t *text);
static ngx_int_t ngx_http_apikey_link_identity_moved(
    ngx_http_apikey_link_t *link, ngx_str_t *text);


/*
 * KEYS[1], not in a node without slots: "RUN_ID OFFSET SINCE MADE", SINCE 0
 * where nobody was here before.  In a Cluster its node's id stands behind it,
 * for it moves with its slot: it is a predecessor's if this one was promoted,
 * or its own.  SINCE < 0: promoted before anybody came; what is there since
 * -SINCE is its own, but nothing is known to be missing.  MADE is when this
 * key was first made, with an M in front of it, or an L where somebody knows
 * that there was another one before: all the data went with that.
 *
 * ARGV[1]: the same as this worker knows it, or ""; ARGV[2]: "moved" if that
 * was of another slot, "known" if its node has been here before, or "".
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
    "local was = string.match(ARGV[1], ' ([ML][1-9]%d*)')\n"
    "local since\n"
    "if cluster and string.sub(ARGV[1], 1, #id) == id then\n"
    "    since = string.match(ARGV[1], '(%S+)', #id + 1)\n"
    "end\n"
    "if role ~= 'master' or not KEYS[1] then\n"
    "    return role .. ' ' .. id .. (since or promoted and now or '0')\n"
    "           .. ' ' .. (was or 'M0')\n"
    "end\n"
    "local v = redis.call('GET', KEYS[1])\n"
    "local me = ''\n"
    "if cluster then\n"
    "    me = redis.pcall('CLUSTER', 'MYID')\n"
    "    me = ' ' .. (type(me) == 'string' and me or '?')\n"
    "end\n"
    "local own = v and (not cluster or promoted\n"
    "                   or string.sub(v, -#me) == me)\n"
    "local made = own and string.match(v, ' ([ML][1-9]%d*)')\n"
    "if was and (ARGV[2] == 'moved' or v and not own) then\n"
    "    made = was\n"
    "elseif was and not made\n"
    "       or was and was ~= made and string.sub(made, 1, 1) == 'M'\n"
    "       or not v and ARGV[2] == 'known' then\n"
    "    made = 'L' .. now\n"
    "end\n"
    "made = made or 'M' .. now\n"
    "if v and string.sub(v, 1, #id) == id then\n"
    "    since = string.match(v, '%S+ %S+ (%S+)')\n"
    "else\n"
    "    if not since and v then\n"
    "        since = own and now or '0'\n"
    "    end\n"
    "    since = since or promoted and '-' .. now or '0'\n"
    "end\n"
    "local text = id .. since .. ' ' .. made\n"
    "if v ~= text .. me then\n"
    "    redis.call('SET', KEYS[1], text .. me)\n"
    "end\n"
    "return 'master ' .. text\n");


ngx_int_t
ngx_http_apikey_link_identify(ngx_http_apikey_link_t *link)
{
    ngx_str_t  argv[6];

    return ngx_http_apikey_link_append(link,
                     ngx_http_apikey_link_identity_argv(link, argv), argv);
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
    ngx_str_t                argv[6];
    ngx_uint_t               argc;
    ngx_http_apikey_link_t  *link;

    link = ev->data;

    if (!link->identity.waiting) {
        link->identity.handler = ngx_http_apikey_link_identity_handler;
        link->identity.data = link;
        link->identity.deadline = 0;

        argc = ngx_http_apikey_link_identity_argv(link, argv);

        (void) ngx_http_apikey_link_send(link, &link->identity, argc, argv);
    }

    ngx_http_apikey_link_check(link);
}


static ngx_uint_t
ngx_http_apikey_link_identity_argv(ngx_http_apikey_link_t *link,
    ngx_str_t *argv)
{
    u_char      *p, *last;
    ngx_uint_t   n;

    p = link->marker;
    last = p + sizeof(link->marker);

    ngx_str_set(&argv[0], "EVAL");
    argv[1] = ngx_http_apikey_identity_script;
    n = 3;

    if (link->redis->cluster == NULL || link->tag >= 0) {
        p = ngx_slprintf(p, last, "%V:since", &link->conf->prefix);

        if (link->redis->cluster) {
            p = ngx_cpymem(p, ":{", 2);
            p += apikey_slot_tag(link->tag, (char *) p);
            *p++ = '}';
        }

        link->nmarker = p - link->marker;

        argv[n].data = link->marker;
        argv[n].len = link->nmarker;
        n++;
    }

    argv[2].data = (u_char *) (n == 3 ? "0" : "1");
    argv[2].len = 1;

    argv[n].data = link->identified;
    argv[n].len = link->nidentified;
    n++;

    ngx_str_set(&argv[n], "");

    /* a slot that moves takes its key along */

    if (link->tag != link->asked) {
        ngx_str_set(&argv[n], "moved");

    } else if (link->redis->known && link->redis->cluster == NULL) {
        ngx_str_set(&argv[n], "known");
    }

    link->asking = link->tag;

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

    ngx_memzero(&epoch, sizeof(ngx_http_apikey_redis_epoch_t));

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
    link->asked = link->asking;

    text.data += sizeof("master ") - 1;
    text.len -= sizeof("master ") - 1;

    link->nidentified = ngx_min(text.len, sizeof(link->identified));
    ngx_memcpy(link->identified, text.data, link->nidentified);

    return NGX_OK;
}


/* master RUN_ID OFFSET SINCE MADE; NGX_DECLINED: no master. */

static ngx_int_t
ngx_http_apikey_link_identity_read(ngx_http_apikey_redis_epoch_t *epoch,
    ngx_str_t *text)
{
    u_char      *p, *last, *since;
    uint64_t     hash;
    ngx_int_t    n, made;
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

    p = since ? ngx_strlchr(since, last, ' ') : NULL;

    if (p == NULL || last - p < 3) {
        return NGX_ERROR;
    }

    n = ngx_atoi(since, p - since);
    made = ngx_atoi(p + 2, last - p - 2);

    if (n == NGX_ERROR || made == NGX_ERROR) {
        return NGX_ERROR;
    }

    hash = (hash ^ hash >> 52) & NGX_HTTP_APIKEY_IDENTITY_MASK;

    epoch->id = hash ? hash : 1;
    epoch->since = alone ? 0 : n;
    epoch->own = n;
    epoch->made = made;
    epoch->gone = p[1] == 'L' ? made : 0;

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
