
/*
 * What nodes of a Redis Cluster say: whatever it is, it stays inside of the
 * text, and slots and ports inside of their ranges.
 */


#include "base/slot.h"

#include "fuzz.h"


static void
fuzz_slot_inside(const char *p, size_t n, const char *text, size_t len)
{
    fuzz_must(n == 0 || (p >= text && p + n <= text + len));
}


static void
fuzz_slot_nodes(const char *text, size_t size)
{
    size_t              len;
    uint16_t            first, last;
    const char         *p;
    apikey_slot_node_t  node;

    p = text;
    len = size;

    while (apikey_slot_node(&p, &len, &node)) {
        fuzz_slot_inside(node.host, node.host_len, text, size);
        fuzz_slot_inside(node.name, node.name_len, text, size);
        fuzz_must(node.port);

        while (apikey_slot_range(&node, &first, &last)) {
            fuzz_must(first <= last && last < APIKEY_SLOTS);
        }
    }

    fuzz_must(len == 0 && p == text + size);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char              *text;
    apikey_slot_redirect_t   r;

    text = (const char *) data;

    fuzz_slot_nodes(text, size);

    if (apikey_slot_redirect(text, size, &r)) {
        fuzz_slot_inside(r.host, r.host_len, text, size);
        fuzz_must(r.port && r.slot < APIKEY_SLOTS);
    }

    fuzz_must(apikey_slot(text, size) < APIKEY_SLOTS);

    return 0;
}
