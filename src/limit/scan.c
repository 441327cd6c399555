
/*
 * Who has used something, by all the values in Redis: SCAN in small slices,
 * in a Cluster of one primary after another.
 *
 * Levels are told as they stand there, not refilled to now.  Owned by its
 * caller, for a look of the admin API; a slice has a pool of its own.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "base/slot.h"
#include "base/uuid.h"
#include "limit/limiter.h"


/* prefix:{root}:k:holder:r:scope, without the prefix */
#define NGX_HTTP_APIKEY_SCAN_NAME   (sizeof(":{}:k::r:") - 1                  \
                                     + 2 * APIKEY_UUID_TEXT_LEN + 16)
#define NGX_HTTP_APIKEY_SCAN_LEVEL  16           /* bytes of one in a reply */


/*
 * KEYS[1] is where to look, in a Cluster; ARGV: cursor, prefix.  The reply:
 * the cursor, LF, and for each value "<HH" of bytes of its name without the
 * prefix and of levels; the name; the levels: id, tokens used.  What rolls
 * (tick 2) has its log behind its level.
 */

static ngx_str_t  ngx_http_apikey_scan_script = ngx_string(
    "local r = redis.call('SCAN', ARGV[1], 'COUNT', 64)\n"
    "local p, out, size = ARGV[2], { r[1], '\\n' }, 0\n"
    "for _, k in ipairs(r[2]) do\n"
    "  local v = string.sub(k, 1, #p) == p and redis.pcall('GET', k)\n"
    "  if type(v) == 'string' and #v >= 96\n"
    "     and string.sub(v, 1, 8) == 'apikey\\2\\0'\n"
    "  then\n"
    "    local n, pos, l = struct.unpack('<d', v, 73), 97, {}\n"
    "    for i = 1, n do\n"
    "      if pos + 55 > #v then break end\n"
    "      local id, used, at, token, refill, tick\n"
    "        = struct.unpack('<c8ddddd', v, pos)\n"
    "      l[i] = struct.pack('<c8d', id, used / token)\n"
    "      pos = pos + 56\n"
    "      if tick == 2 and pos + 7 <= #v then\n"
    "        pos = pos + 8 + 16 * struct.unpack('<d', v, pos)\n"
    "      end\n"
    "    end\n"
    "    k = string.sub(k, #p + 1)\n"
    "    l = struct.pack('<HH', #k, #l) .. k .. table.concat(l)\n"
    "    size = size + #l\n"
    "    if size > 65000 then\n"
    "      return redis.error_reply('ERR more than a slice')\n"
    "    end\n"
    "    out[#out + 1] = l\n"
    "  end\n"
    "end\n"
    "return table.concat(out)\n");


static ngx_int_t ngx_http_apikey_scan_send(
    ngx_http_apikey_limit_scan_t *scan);
static void ngx_http_apikey_scan_handler(ngx_http_apikey_redis_call_t *call,
    struct redisReply *reply);
static ngx_int_t ngx_http_apikey_scan_slice(
    ngx_http_apikey_limit_scan_t *scan, ngx_str_t *text);
static uint64_t ngx_http_apikey_scan_get(const u_char *p);
static ngx_int_t ngx_http_apikey_scan_name(ngx_http_apikey_scanned_t *scanned,
    u_char *p, size_t len);
static void ngx_http_apikey_scan_end(ngx_http_apikey_limit_scan_t *scan,
    ngx_int_t rc);
static void ngx_http_apikey_scan_event_handler(ngx_event_t *ev);


ngx_int_t
ngx_http_apikey_limiter_scan(ngx_http_apikey_limiter_t *l,
    ngx_http_apikey_limit_scan_t *scan)
{
    scan->limiter = l;
    scan->tag = 0;
    scan->cursor[0] = '0';
    scan->ncursor = 1;

    ngx_memzero(&scan->event, sizeof(ngx_event_t));

    scan->event.handler = ngx_http_apikey_scan_event_handler;
    scan->event.data = scan;
    scan->event.log = l->conf.log;

    if (!ngx_http_apikey_limiter_ready(l)) {
        return NGX_ERROR;
    }

    scan->ntags = ngx_http_apikey_redis_primaries(l->redis, scan->tags,
                                          NGX_HTTP_APIKEY_SCAN_PRIMARIES);

    return ngx_http_apikey_scan_send(scan);
}


void
ngx_http_apikey_limiter_scan_cancel(ngx_http_apikey_limit_scan_t *scan)
{
    ngx_http_apikey_redis_abandon(&scan->call);

    if (scan->event.posted) {
        ngx_delete_posted_event(&scan->event);
    }
}


static ngx_int_t
ngx_http_apikey_scan_send(ngx_http_apikey_limit_scan_t *scan)
{
    u_char                     *p, *last, key[256];
    ngx_str_t                   argv[6], *prefix;
    ngx_http_apikey_limiter_t  *l;

    l = scan->limiter;
    prefix = &l->conf.redis->prefix;
    last = key + sizeof(key);

    p = ngx_slprintf(key, last - APIKEY_SLOT_TAG_LEN - sizeof(":{}"),
                     "%V:scan", prefix);

    if (scan->ntags) {
        p = ngx_cpymem(p, ":{", 2);
        p += apikey_slot_tag(scan->tags[scan->tag], (char *) p);
        *p++ = '}';
    }

    ngx_str_set(&argv[0], "EVAL");
    argv[1] = ngx_http_apikey_scan_script;
    ngx_str_set(&argv[2], "1");
    argv[3].data = key;
    argv[3].len = p - key;
    argv[4].data = scan->cursor;
    argv[4].len = scan->ncursor;
    argv[5] = *prefix;

    ngx_memzero(&scan->call, sizeof(ngx_http_apikey_redis_call_t));

    scan->call.handler = ngx_http_apikey_scan_handler;
    scan->call.data = scan;

    return ngx_http_apikey_redis_send(l->redis, &scan->call, 6, argv);
}


static void
ngx_http_apikey_scan_handler(ngx_http_apikey_redis_call_t *call,
    struct redisReply *reply)
{
    ngx_int_t                      rc;
    ngx_str_t                      text;
    ngx_http_apikey_redis_kind_e   kind;
    ngx_http_apikey_limit_scan_t  *scan;

    scan = call->data;
    rc = NGX_ERROR;

    if (reply) {
        kind = ngx_http_apikey_redis_reply(reply, &text);

        if (kind == NGX_HTTP_APIKEY_REDIS_STRING) {
            rc = ngx_http_apikey_scan_slice(scan, &text);

        } else if (kind == NGX_HTTP_APIKEY_REDIS_ERROR) {
            ngx_http_apikey_limiter_complain(scan->limiter, NGX_LOG_ERR,
                                             "apikey_redis: no scan: ",
                                             &text);
        }

    } else if (call->again) {
        rc = NGX_AGAIN;
    }

    if (rc == NGX_AGAIN) {
        rc = ngx_http_apikey_scan_send(scan);

        if (rc == NGX_OK) {
            return;
        }
    }

    ngx_http_apikey_scan_end(scan, rc);
}


/* NGX_AGAIN: there is more. */

static ngx_int_t
ngx_http_apikey_scan_slice(ngx_http_apikey_limit_scan_t *scan,
    ngx_str_t *text)
{
    u_char                     *p, *lf, *last, *bytes;
    size_t                      len;
    uint64_t                    used;
    ngx_uint_t                  i, n;
    ngx_pool_t                 *pool;
    ngx_http_apikey_scanned_t   scanned;

    p = text->data;
    last = p + text->len;
    lf = ngx_strlchr(p, last, '\n');

    if (lf == NULL || lf == p || (size_t) (lf - p) > sizeof(scan->cursor)) {
        return NGX_ERROR;
    }

    scan->ncursor = lf - p;
    ngx_memcpy(scan->cursor, p, scan->ncursor);

    pool = ngx_create_pool(4096, scan->limiter->conf.log);
    if (pool == NULL) {
        return NGX_ERROR;
    }

    for (p = lf + 1; last - p >= 4; /* void */ ) {
        len = p[0] | (size_t) p[1] << 8;
        n = p[2] | (ngx_uint_t) p[3] << 8;
        p += 4;

        if ((size_t) (last - p) < len + n * NGX_HTTP_APIKEY_SCAN_LEVEL) {
            break;
        }

        scanned.nlevels = ngx_min(n, APIKEY_ACCOUNT_LEVELS);

        for (i = 0; i < scanned.nlevels; i++) {
            bytes = p + len + i * NGX_HTTP_APIKEY_SCAN_LEVEL;

            scanned.levels[i].id = ngx_http_apikey_scan_get(bytes);
            used = ngx_http_apikey_scan_get(bytes + 8);
            ngx_memcpy(&scanned.levels[i].used, &used, 8);
        }

        if (ngx_http_apikey_scan_name(&scanned, p, len) == NGX_OK) {
            scan->account(scan, &scanned, pool);
        }

        p += len + n * NGX_HTTP_APIKEY_SCAN_LEVEL;
    }

    ngx_destroy_pool(pool);

    if (scan->ncursor == 1 && scan->cursor[0] == '0') {
        scan->tag++;
        return scan->tag < scan->ntags ? NGX_AGAIN : NGX_OK;
    }

    return NGX_AGAIN;
}


static uint64_t
ngx_http_apikey_scan_get(const u_char *p)
{
    uint64_t    n;
    ngx_uint_t  i;

    n = 0;

    for (i = 8; i > 0; i--) {
        n = n << 8 | p[i - 1];
    }

    return n;
}


/* :{root}:k:holder:r:scope */

static ngx_int_t
ngx_http_apikey_scan_name(ngx_http_apikey_scanned_t *scanned, u_char *p,
    size_t len)
{
    u_char      *unit;
    ngx_int_t    high, low;

    static u_char  units[] = "rtcn";

    if (len != NGX_HTTP_APIKEY_SCAN_NAME
        || !apikey_uuid_parse(scanned->root, (char *) p + 2,
                              APIKEY_UUID_TEXT_LEN))
    {
        return NGX_DECLINED;
    }

    p += 2 + APIKEY_UUID_TEXT_LEN + 2;

    scanned->level = (*p == 'o') ? APIKEY_LEVEL_OWNER : APIKEY_LEVEL_KEY;

    if (!apikey_uuid_parse(scanned->holder, (char *) p + 2,
                           APIKEY_UUID_TEXT_LEN))
    {
        return NGX_DECLINED;
    }

    p += 2 + APIKEY_UUID_TEXT_LEN + 1;

    unit = ngx_strlchr(units, units + APIKEY_UNITS, *p);
    high = ngx_hextoi(p + 2, 8);
    low = ngx_hextoi(p + 10, 8);

    if (unit == NULL || high == NGX_ERROR || low == NGX_ERROR) {
        return NGX_DECLINED;
    }

    scanned->unit = unit - units;
    scanned->scope = (uint64_t) high << 32 | (uint64_t) low;

    return NGX_OK;
}


/* Redis' handler runs in the middle of other replies. */

static void
ngx_http_apikey_scan_end(ngx_http_apikey_limit_scan_t *scan, ngx_int_t rc)
{
    scan->rc = rc;

    ngx_post_event(&scan->event, &ngx_posted_events);
}


static void
ngx_http_apikey_scan_event_handler(ngx_event_t *ev)
{
    ngx_http_apikey_limit_scan_t *scan = ev->data;

    scan->done(scan, scan->rc);
}
