
/*
 * Asking for memory before it is needed: it comes while there is other work.
 *
 * A function that does nothing else is one without effect to GCC, which then
 * leaves out the calls of it.  The empty assembler text is an effect.
 */


#ifndef APIKEY_FETCH_H_INCLUDED
#define APIKEY_FETCH_H_INCLUDED


#include <stddef.h>


#define APIKEY_FETCH_LINE  64


static inline void
apikey_fetch(const void *p)
{
    __builtin_prefetch(p, 1);
    __asm__ volatile ("");
}


/* Each line of size bytes, 1 at least. */

static inline void
apikey_fetch_all(const void *p, size_t size)
{
    const char  *line, *last;

    last = (const char *) p + size - 1;

    for (line = p; line < last; line += APIKEY_FETCH_LINE) {
        apikey_fetch(line);
    }

    apikey_fetch(last);
}


#endif /* APIKEY_FETCH_H_INCLUDED */
