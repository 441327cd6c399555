
/*
 * Asking for memory before it is needed: it comes while there is other work.
 *
 * A function that does nothing else is one without effect to GCC, which then
 * leaves out the calls of it.  The empty assembler text is an effect.
 */


#ifndef APIKEY_FETCH_H_INCLUDED
#define APIKEY_FETCH_H_INCLUDED


static inline void
apikey_fetch(const void *p)
{
    __builtin_prefetch(p, 1);
    __asm__ volatile ("");
}


#endif /* APIKEY_FETCH_H_INCLUDED */
