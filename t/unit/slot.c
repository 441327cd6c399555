
/*
 * Redis Cluster: slots as Redis computes them, CLUSTER NODES, redirects.
 */


#include "base/slot.h"

#include "unit.h"


static void
test_slots(void)
{
    char      tag[APIKEY_SLOT_TAG_LEN];
    size_t    i, len;
    unsigned  slot, wrong;

    static const struct {
        const char  *key;
        uint16_t     slot;
    } cases[] = {                            /* by CLUSTER KEYSLOT */
        { "", 0 },
        { "123456789", 12739 },
        { "foo", 12182 },
        { "{foo}bar", 12182 },
        { "bar{foo}", 12182 },
        { "foo{}{bar}", 8363 },
        { "foo{{bar}}zap", 4015 },
        { "foo{bar}{zap}", 5061 },
        { "{user1000}.following", 3443 },
        { "foo{bar", 15278 },
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        is_uint(apikey_slot(cases[i].key, strlen(cases[i].key)),
                cases[i].slot, "the slot Redis says");
    }

    wrong = 0;

    for (slot = 0; slot < APIKEY_SLOTS; slot += 61) {
        len = apikey_slot_tag((uint16_t) slot, tag);
        wrong += len > APIKEY_SLOT_TAG_LEN || apikey_slot(tag, len) != slot;
    }

    is_uint(wrong, 0, "a tag for each slot");
}


static void
test_nodes(void)
{
    size_t              len;
    uint16_t            first, last;
    const char         *p;
    apikey_slot_node_t  node;

    static const char  text[] =
        "07c37df 127.0.0.1:30004@31004 slave e7d1eec 0 1426 4 connected\n"
        "67ed2db 127.0.0.1:30002@31002,node-2.test master - 0 1426 2 connected"
        " 5461-10922 12000 [93-<-292f8b3]\n"
        "292f8b3 :30003 myself,master - 0 0 3 connected 10923-11999\r\n"
        "6ec2392 ::1:30005@31005,host,shard-id=x master 3c3a0c7 0 1 5 link\n"
        "824fe11 10.0.0.9:7000@17000 master,fail - 1 2 5 disconnected 1-2\n"
        "824fe12 :0@0 master,noaddr - 1 2 5 disconnected\n"
        "824fe13 10.0.0.9:70000@1 master - 1 2 5 connected 1\n"
        "\n"
        "vars currentEpoch 6\n"
        "last 127.0.0.1:1 master - 0 0 1 connected 7-5 x 16384 9";

    p = text;
    len = strlen(text);

    ok(apikey_slot_node(&p, &len, &node), "a replica");
    ok(!node.primary && node.port == 30004, "is no primary");
    is_text(node.host, node.host_len, "127.0.0.1", "its host");
    ok(!apikey_slot_range(&node, &first, &last), "and has no slots");

    ok(apikey_slot_node(&p, &len, &node), "a primary");
    ok(node.primary && node.port == 30002, "is one");
    is_text(node.name, node.name_len, "node-2.test", "its name");
    ok(apikey_slot_range(&node, &first, &last) && first == 5461
       && last == 10922, "a range");
    ok(apikey_slot_range(&node, &first, &last) && first == 12000
       && last == 12000, "one slot");
    ok(!apikey_slot_range(&node, &first, &last), "no slot on its way");

    ok(apikey_slot_node(&p, &len, &node) && node.primary
       && node.host_len == 0 && node.port == 30003, "one without address");
    ok(apikey_slot_range(&node, &first, &last) && last == 11999,
       "a line that ends in CR");

    ok(apikey_slot_node(&p, &len, &node) && node.primary, "IPv6");
    is_text(node.host, node.host_len, "::1", "its host");
    is_text(node.name, node.name_len, "host", "its name");

    ok(apikey_slot_node(&p, &len, &node) && !node.primary, "a failed one");

    ok(apikey_slot_node(&p, &len, &node) && node.primary
       && node.port == 1, "lines that are none are left out");
    ok(apikey_slot_range(&node, &first, &last) && first == 9,
       "ranges that are none, too");
    ok(!apikey_slot_node(&p, &len, &node), "the end");
}


static void
test_redirects(void)
{
    size_t                  i;
    apikey_slot_redirect_t  r;

    static const char *const  wrong[] = {
        "", "MOVED", "MOVED ", "MOVED 1", "MOVED 1 ", "MOVED 1 host",
        "MOVED 1 host:", "MOVED 1 host:0", "MOVED 1 host:65536",
        "MOVED 16384 h:1", "MOVED x h:1", "MOVED 1  h:1x", "ASKING 1 h:1",
        "ERR MOVED 1 h:1", "TRYAGAIN",
    };

    static const char  moved[] = "MOVED 3999 127.0.0.1:6381";
    static const char  ask[] = "ASK 16383 ::1:7000";
    static const char  same[] = "MOVED 0 :7001";

    ok(apikey_slot_redirect(moved, strlen(moved), &r), moved);
    ok(!r.ask && r.slot == 3999 && r.port == 6381, "slot and port");
    is_text(r.host, r.host_len, "127.0.0.1", "host");

    ok(apikey_slot_redirect(ask, strlen(ask), &r), ask);
    ok(r.ask && r.slot == 16383 && r.port == 7000, "slot and port");
    is_text(r.host, r.host_len, "::1", "host");

    ok(apikey_slot_redirect(same, strlen(same), &r) && r.host_len == 0,
       same);

    for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        ok(!apikey_slot_redirect(wrong[i], strlen(wrong[i]), &r), wrong[i]);
    }
}


int
main(void)
{
    test_slots();
    test_nodes();
    test_redirects();

    return unit_done();
}
