
/*
 * Prices: which one holds, and what it makes of tokens, to the nano-unit.
 */


#include "base/price.h"

#include "unit.h"


#define U  APIKEY_PRICE_UNKNOWN


static void
test_cost(void)
{
    bool      known;
    size_t    i;
    uint64_t  nano;
    char      name[200];

    static const struct {
        apikey_price_t  price;      /* version input output cached request */
        uint64_t        input;
        uint64_t        cached;
        uint64_t        output;
        uint64_t        want;       /* U: unknown */
    } tests[] = {
        { { 1, 2500000000, 15000000000, 250000000, U }, 6074, 3456, 285,
          11684000 },
        { { 1, 2500000000, 15000000000, U, U }, 6074, 3456, 285, 19460000 },
        { { 1, 150000000, 600000000, 75000000, 0 }, 1, 0, 0, 150 },
        { { 1, 1, 1, 1, 0 }, 499999, 0, 0, 0 },
        { { 1, 1, 1, 1, 0 }, 500000, 0, 0, 1 },
        { { 1, 1, 1, 1, 0 }, 250000, 0, 250000, 1 },
        { { 1, 1, 1, 1, 0 }, 1499999, 0, 0, 1 },
        { { 1, 0, 0, 0, 0 }, 1000, 10, 1000, 0 },
        { { 1, U, U, U, 5 }, 0, 0, 0, 5 },
        { { 1, U, 1, 1, 5 }, 1, 0, 0, U },
        { { 1, 1, U, 1, 5 }, 1, 0, 1, U },
        { { 1, U, 1, 1000000, 5 }, 1, 1, 0, 6 },
        { { 1, 9007199254740991, 0, 0, 0 }, 1000000, 0, 0,
          9007199254740991 },
        { { 1, 9007199254740991, 0, 0, 0 }, 1000001, 0, 0, U },
        { { 1, 9007199254740991, 9007199254740991, 0, 0 }, 9007199254740991,
          0, 9007199254740991, U },
        { { 1, 0, 0, 0, 9007199254740991 }, 1, 0, 1, 9007199254740991 },
    };

    for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        known = apikey_price_cost(&tests[i].price, tests[i].input,
                                  tests[i].cached, tests[i].output, &nano);
        snprintf(name, sizeof(name), "cost %zu", i);
        is_uint(known ? nano : U, tests[i].want, name);
    }
}


static uint64_t
test_version(const apikey_price_row_t *rows, size_t n, const char *service,
    const char *model, const char *plan, int64_t now)
{
    apikey_price_row_t         who;
    const apikey_price_row_t  *row;

    who.service.text = service;
    who.service.len = strlen(service);
    who.model.text = model;
    who.model.len = strlen(model);
    who.plan.text = plan;
    who.plan.len = strlen(plan);

    row = apikey_price_find(rows, n, &who, now);

    return row ? row->price.version : 0;
}


static void
test_find(void)
{
    size_t              n;
    apikey_price_row_t  rows[8];

    static const char  list[] =
        "7\t0\t\tgpt-4o\tpro\t1\t2\t3\t4\n"
        "6\t200\t\tgpt-4o\t\t1\t2\t\t\n"
        "5\t100\t\tgpt-4o\t\t1\t2\t\t\n"
        "4\t0\tchat*\tgpt-*\t\t1\t2\t\t\n"
        "3\t0\t\tgpt-*\t\t1\t2\t\t\n"
        "2\t0\torders\t\t\t\t\t\t1000\n";

    n = apikey_price_parse(list, sizeof(list) - 1, rows, 8);
    is_uint(n, 6, "six rows");
    is_uint(rows[0].price.cached, 3, "a number");
    is_uint(rows[1].price.cached, U, "an unknown one");
    is_uint(rows[5].price.request, 1000, "the last column");

#define at(service, model, plan, now)                                         \
    test_version(rows, n, service, model, plan, now)

    is_uint(at("x", "gpt-4o", "pro", 300), 7, "of a plan");
    is_uint(at("x", "gpt-4o", "free", 300), 6, "of none");
    is_uint(at("x", "gpt-4o", "pr", 200), 6, "valid from then on");
    is_uint(at("x", "gpt-4o", "", 199), 5, "until then the one before");
    is_uint(at("x", "gpt-4o", "", 99), 3, "and none of it before that");
    is_uint(at("chat-eu", "gpt-5", "", 300), 4, "of a service");
    is_uint(at("x", "gpt-5", "", 300), 3, "of any");
    is_uint(at("orders", "", "", 300), 2, "without a model");
    is_uint(at("orders", "o1", "", 300), 2, "of any model");
    is_uint(at("x", "", "pro", 300), 0, "none");
    is_uint(at("x", "o1", "pro", 300), 0, "none, either");
}


static void
test_bad(void)
{
    size_t              i;
    apikey_price_row_t  rows[2];

    static const char *const  lists[] = {
        "1\t0\t\t\t\t1\t2\t3\t4", "\n", "1\t0\t\t\t\t1\t2\t3\n",
        "1\t0\t\t\t\t1\t2\t3\t4\t5\n", "x\t0\t\t\t\t1\t2\t3\t4\n",
        "1\t-1\t\t\t\t1\t2\t3\t4\n", "1\t\t\t\t\t1\t2\t3\t4\n",
        "1\t0\t\t\t\t1\t2\t3\t99999999999999999999\n",
        ("1\t0\t\t\t\t1\t2\t3\t4\n1\t0\t\t\t\t1\t2\t3\t4\n"
         "1\t0\t\t\t\t1\t2\t3\t4\n")
    };

    is_uint(apikey_price_parse("", 0, rows, 2), 0, "none");

    for (i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        ok(apikey_price_parse(lists[i], strlen(lists[i]), rows, 2)
           == APIKEY_PRICE_BAD, "no list");
    }
}


int
main(void)
{
    test_cost();
    test_find();
    test_bad();

    return unit_done();
}
