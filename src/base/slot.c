
/*
 * Redis Cluster's slots and texts.
 */


#include <string.h>

#include "base/number.h"
#include "base/slot.h"


#define APIKEY_SLOT_FIELDS  8    /* of a line, in front of its ranges */


static uint16_t apikey_slot_crc16(const char *p, size_t len);
static bool apikey_slot_line(const char *line, size_t len,
    apikey_slot_node_t *node);
static bool apikey_slot_address(const char *text, size_t len,
    const char **host, size_t *host_len, uint16_t *port);
static bool apikey_slot_flag(const char *flags, size_t len, const char *flag);
static const char *apikey_slot_number(const char *p, const char *end,
    uint32_t most, uint16_t *n);


/* What stands between the first { and the } behind it, if anything does. */

uint16_t
apikey_slot(const char *key, size_t len)
{
    const char  *open, *close;

    open = memchr(key, '{', len);

    if (open) {
        open++;
        close = memchr(open, '}', (size_t) (key + len - open));

        if (close && close != open) {
            key = open;
            len = (size_t) (close - open);
        }
    }

    return apikey_slot_crc16(key, len) % APIKEY_SLOTS;
}


/* XMODEM, a bit at a time: a key's tag is a UUID */

static uint16_t
apikey_slot_crc16(const char *p, size_t len)
{
    int       bit;
    uint16_t  crc;

    for (crc = 0; len; p++, len--) {
        crc ^= (uint16_t) ((uint8_t) *p << 8);

        for (bit = 0; bit < 8; bit++) {
            crc = (uint16_t) (crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1);
        }
    }

    return crc;
}


size_t
apikey_slot_tag(uint16_t slot, char out[APIKEY_SLOT_TAG_LEN])
{
    char      text[APIKEY_UINT_TEXT_LEN];
    size_t    len;
    uint32_t  n;

    for (n = 0; /* void */ ; n++) {
        len = (size_t) (apikey_uint_format(text, n) - text);

        if (apikey_slot_crc16(text, len) % APIKEY_SLOTS
            == slot % APIKEY_SLOTS)
        {
            memcpy(out, text, len);
            return len;
        }
    }
}


bool
apikey_slot_node(const char **text, size_t *len, apikey_slot_node_t *node)
{
    size_t       n;
    const char  *line, *end;

    while (*len) {
        line = *text;
        end = memchr(line, '\n', *len);
        n = end ? (size_t) (end - line) : *len;

        *text += end ? n + 1 : n;
        *len -= end ? n + 1 : n;

        if (apikey_slot_line(line, n, node)) {
            return true;
        }
    }

    return false;
}


/*
 * id host:port@bus[,name[,...]] flags primary ping pong epoch state range ...
 */

static bool
apikey_slot_line(const char *line, size_t len, apikey_slot_node_t *node)
{
    size_t       size[APIKEY_SLOT_FIELDS];
    unsigned     i;
    const char  *p, *end, *space, *at, *field[APIKEY_SLOT_FIELDS];

    end = line + len;

    if (len && end[-1] == '\r') {
        end--;
    }

    for (i = 0, p = line; i < APIKEY_SLOT_FIELDS; i++) {
        space = memchr(p, ' ', (size_t) (end - p));
        space = space ? space : end;

        field[i] = p;
        size[i] = (size_t) (space - p);

        if (size[i] == 0) {
            return false;
        }

        p = space < end ? space + 1 : end;
    }

    memset(node, 0, sizeof(apikey_slot_node_t));

    node->ranges = p;
    node->ranges_len = (size_t) (end - p);

    node->primary = apikey_slot_flag(field[2], size[2], "master")
                    && !apikey_slot_flag(field[2], size[2], "fail")
                    && !apikey_slot_flag(field[2], size[2], "noaddr")
                    && !apikey_slot_flag(field[2], size[2], "handshake");

    p = field[1];
    end = p + size[1];

    at = memchr(p, ',', size[1]);

    if (at) {
        node->name = at + 1;
        space = memchr(node->name, ',', (size_t) (end - node->name));
        node->name_len = (size_t) ((space ? space : end) - node->name);
        end = at;
    }

    at = memchr(p, '@', (size_t) (end - p));
    end = at ? at : end;

    return apikey_slot_address(p, (size_t) (end - p), &node->host,
                               &node->host_len, &node->port);
}


/* host:port; the host may be an IPv6 address, with no brackets */

static bool
apikey_slot_address(const char *text, size_t len, const char **host,
    size_t *host_len, uint16_t *port)
{
    const char  *p, *end;

    end = text + len;

    for (p = end; p > text && p[-1] != ':'; p--) { /* void */ }

    if (p == text || apikey_slot_number(p, end, 65535, port) != end
        || *port == 0)
    {
        return false;
    }

    *host = text;
    *host_len = (size_t) (p - 1 - text);

    return true;
}


static bool
apikey_slot_flag(const char *flags, size_t len, const char *flag)
{
    size_t       n, want;
    const char  *comma;

    want = strlen(flag);

    while (len) {
        comma = memchr(flags, ',', len);
        n = comma ? (size_t) (comma - flags) : len;

        if (n == want && memcmp(flags, flag, n) == 0) {
            return true;
        }

        n += comma ? 1 : 0;
        flags += n;
        len -= n;
    }

    return false;
}


bool
apikey_slot_range(apikey_slot_node_t *node, uint16_t *first, uint16_t *last)
{
    size_t       n;
    const char  *p, *end, *space;

    while (node->ranges_len) {
        p = node->ranges;
        space = memchr(p, ' ', node->ranges_len);
        end = space ? space : p + node->ranges_len;

        n = (size_t) (end - p) + (space ? 1 : 0);
        node->ranges += n;
        node->ranges_len -= n;

        p = apikey_slot_number(p, end, APIKEY_SLOTS - 1, first);

        if (p == end) {
            *last = *first;
            return true;
        }

        if (p && *p == '-'
            && apikey_slot_number(p + 1, end, APIKEY_SLOTS - 1, last) == end
            && *last >= *first)
        {
            return true;
        }
    }

    return false;
}


bool
apikey_slot_redirect(const char *text, size_t len,
    apikey_slot_redirect_t *redirect)
{
    size_t       i;
    uint16_t     slot;
    const char  *p, *end;

    static const char  *words[] = { "MOVED ", "ASK " };

    end = text + len;

    for (i = 0; i < 2; i++) {

        if (len < strlen(words[i])
            || memcmp(text, words[i], strlen(words[i])) != 0)
        {
            continue;
        }

        p = apikey_slot_number(text + strlen(words[i]), end, APIKEY_SLOTS - 1,
                               &slot);

        if (p == NULL || p == end || *p++ != ' ') {
            return false;
        }

        redirect->ask = i == 1;
        redirect->slot = slot;

        return apikey_slot_address(p, (size_t) (end - p), &redirect->host,
                                   &redirect->host_len, &redirect->port);
    }

    return false;
}


/* Behind the digits; NULL: none, or too many. */

static const char *
apikey_slot_number(const char *p, const char *end, uint32_t most, uint16_t *n)
{
    uint32_t     sum;
    const char  *start;

    start = p;

    for (sum = 0; p < end && *p >= '0' && *p <= '9'; p++) {
        sum = sum * 10 + (uint32_t) (*p - '0');

        if (sum > most) {
            return NULL;
        }
    }

    *n = (uint16_t) sum;

    return p == start ? NULL : p;
}
