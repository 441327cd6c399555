
/*
 * Patterns and scopes: what covers what, and that a pattern covers another
 * one just when it covers all that the other does.
 */


#include "base/pattern.h"

#include "unit.h"


static bool
test_match(const char *pattern, const char *text)
{
    return apikey_pattern_match(pattern, strlen(pattern), text, strlen(text));
}


static bool
test_scope(const char *held, const char *wanted)
{
    return apikey_scope_held(held, strlen(held), wanted, strlen(wanted));
}


static void
test_patterns(void)
{
    size_t  i;
    char    name[128];

    static const struct {
        const char  *pattern;
        const char  *text;
        bool         want;
    } cases[] = {
        { "gpt-4o", "gpt-4o", true },
        { "gpt-4o", "gpt-4o-mini", false },
        { "gpt-4o", "gpt-4", false },
        { "gpt-4o", "GPT-4o", false },
        { "gpt-4o*", "gpt-4o", true },
        { "gpt-4o*", "gpt-4o-mini", true },
        { "gpt-4o*", "gpt-4", false },
        { "gpt-4o*", "a gpt-4o", false },
        { "*mini", "gpt-4o-mini", true },
        { "*mini", "mini", true },
        { "*mini", "minimal", false },
        { "gpt-*-mini", "gpt-4o-mini", true },
        { "gpt-*-mini", "gpt--mini", true },
        { "gpt-*-mini", "gpt-mini", false },
        { "*a*b", "xaxbxab", true },
        { "*a*b", "xaxbxabx", false },
        { "a*a", "a", false },
        { "a*a", "aa", true },
        { "**", "", true },
        { "**a**", "bab", true },
        { "*", "", true },
        { "*", "anything / at all", true },
        { "", "", true },
        { "", "a", false },
        { "a", "", false },
        { "a.c", "abc", false },
        { "a?c", "abc", false },
        { "a%c", "abc", false },
        { "a_c", "abc", false },
        { "[a]", "a", false },
        { "a\\*", "a\\b", true },
        { "a\\*", "a*", false },
        { "*\xc3\xa4*", "x\xc3\xa4y", true },

        /* the text is a pattern: covered when all of it is */

        { "gpt-*", "gpt-4*", true },
        { "gpt-4*", "gpt-*", false },
        { "gpt-*", "gpt-*", true },
        { "*", "*", true },
        { "*", "a*b", true },
        { "a*", "*", false },
        { "a", "a*", false },
        { "a*", "a", true },
        { "a*b*", "a*b", true },
        { "a*b", "a*b*", false },
        { "*a*", "a*a", true },
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        snprintf(name, sizeof(name), "\"%s\" %s \"%s\"", cases[i].pattern,
                 cases[i].want ? "covers" : "does not cover", cases[i].text);

        ok(test_match(cases[i].pattern, cases[i].text) == cases[i].want,
           name);
    }
}


/* Up to five letters. */

static void
test_letters(char *text, unsigned n)
{
    unsigned  i;

    for (i = 0; i < 5; i++, n /= 4) {
        if (n % 4) {
            *text++ = "abc"[n % 4 - 1];
        }
    }

    *text = '\0';
}


/* All texts and patterns of a few letters. */

static void
test_cover(void)
{
    char      held[8], wanted[8], text[8];
    bool      good;
    unsigned  h, w, t, covers, n;

    static const char  letters[] = "*ab";

    good = true;
    n = 0;

    for (h = 0; h < 81; h++) {
        snprintf(held, sizeof(held), "%c%c%c%c", letters[h % 3],
                 letters[h / 3 % 3], letters[h / 9 % 3], letters[h / 27]);

        for (w = 0; w < 27; w++) {
            snprintf(wanted, sizeof(wanted), "%c%c%c", letters[w % 3],
                     letters[w / 3 % 3], letters[w / 9]);

            covers = true;

            /* 'c' stands for all that no pattern here names */

            for (t = 0; t < 1024; t++) {
                test_letters(text, t);

                if (test_match(wanted, text) && !test_match(held, text)) {
                    covers = false;
                    break;
                }
            }

            n += covers;
            good = good && covers == test_match(held, wanted);
        }
    }

    ok(n > 100, "some cover some");
    ok(good, "a pattern covers what its text matches, and no other");
}


static void
test_list(void)
{
    static const char  list[] = "gpt-4o*\nclaude\n";

    ok(apikey_pattern_any(list, 15, "gpt-4o", 6), "the first");
    ok(apikey_pattern_any(list, 15, "claude", 6), "the second");
    ok(!apikey_pattern_any(list, 15, "claude-3", 8), "neither");
    ok(!apikey_pattern_any(list, 15, "", 0), "nothing is in no list");
    ok(!apikey_pattern_any("\n", 1, "a", 1), "a list of none");
    ok(!apikey_pattern_any("", 0, "a", 1), "no list");
    ok(!apikey_pattern_any("\n", 1, "\n", 1), "a line feed is no pattern");
}


static void
test_scopes(void)
{
    size_t  i;
    char    name[128];

    static const struct {
        const char  *held;
        const char  *wanted;
        bool         want;
    } cases[] = {
        { "orders:read", "orders:read", true },
        { "orders:read", "orders:write", false },
        { "orders:read", "orders:rea", false },
        { "orders:read", "orders:reads", false },
        { "orders:read", "Orders:read", false },
        { "orders:*", "orders:read", true },
        { "orders:*", "orders:read:all", true },
        { "orders:*", "orders:", true },
        { "orders:*", "orders", false },
        { "orders:*", "ordersx:read", false },
        { "orders:*", "orders:*", true },
        { "orders:a:*", "orders:a:b", true },
        { "orders:a:*", "orders:b", false },
        { "orders:a:*", "orders:*", false },
        { "orders:read", "orders:*", false },
        { "*", "orders:read", true },
        { "*", "orders:*", true },
        { "*", "*", true },
        { "a", "*", false },
        { "a:*", "*", false },
        { ":*", ":a", true },
        { ":*", "a", false },
        { "or*", "orders", false },
        { "or*", "or*", true },
        { "*:read", "orders:read", false },
        { "*:read", "*:read", true },
        { "orders.*", "orders.read", false },
        { "a b c", "b", true },
        { "a b c", "a b", false },
        { "a b c", "d", false },
        { "a b:* c", "b:x", true },
        { "a b:* c", "b:x c", true },
        { "  a  b ", "b", true },
        { "  a  b ", "", false },
        { "", "a", false },
        { "", "", false },
        { "*", "", false },
        { "a:*", "", false },
        { "a", "a ", false },
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        snprintf(name, sizeof(name), "\"%s\" %s \"%s\"", cases[i].held,
                 cases[i].want ? "covers" : "does not cover",
                 cases[i].wanted);

        ok(test_scope(cases[i].held, cases[i].wanted) == cases[i].want, name);
    }
}


int
main(void)
{
    test_patterns();
    test_cover();
    test_list();
    test_scopes();

    return unit_done();
}
