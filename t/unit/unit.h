
/*
 * TAP for the unit tests: one test file, one program, a line a check.
 *
 * No state but the two counters; a failed check does not end the program,
 * and the exit status tells whether one failed.
 */


#ifndef APIKEY_UNIT_H_INCLUDED
#define APIKEY_UNIT_H_INCLUDED


#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>


static unsigned  unit_checks, unit_failures;


static inline bool
unit_ok(bool good, const char *file, int line, const char *name)
{
    unit_checks++;

    printf("%sok %u - %s\n", good ? "" : "not ", unit_checks, name);

    if (!good) {
        unit_failures++;
        printf("# %s:%d\n", file, line);
    }

    return good;
}


static inline void
unit_uint(uint64_t got, uint64_t want, const char *file, int line,
    const char *name)
{
    if (!unit_ok(got == want, file, line, name)) {
        printf("# got %" PRIu64 ", want %" PRIu64 "\n", got, want);
    }
}


static inline void
unit_text(const char *got, size_t len, const char *want, const char *file,
    int line, const char *name)
{
    if (!unit_ok(len == strlen(want) && memcmp(got, want, len) == 0,
                 file, line, name))
    {
        printf("# got \"%.*s\", want \"%s\"\n", (int) len, got, want);
    }
}


/* For main() to return. */

static inline int
unit_done(void)
{
    printf("1..%u\n", unit_checks);

    return unit_failures != 0;
}


#define ok(good, name)  unit_ok(good, __FILE__, __LINE__, name)

#define is_uint(got, want, name)                                              \
    unit_uint((uint64_t) (got), (uint64_t) (want), __FILE__, __LINE__, name)

#define is_text(got, len, want, name)                                         \
    unit_text(got, len, want, __FILE__, __LINE__, name)


#endif /* APIKEY_UNIT_H_INCLUDED */
