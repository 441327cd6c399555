
/*
 * A fuzz target is one function, called with one input; a broken promise
 * ends the process.  libFuzzer calls it (make fuzz), and t/unit/fuzz.c with
 * inputs of its own.
 */


#ifndef APIKEY_FUZZ_H_INCLUDED
#define APIKEY_FUZZ_H_INCLUDED


#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


#define fuzz_must(good)                                                       \
    if (!(good)) {                                                            \
        fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #good);    \
        abort();                                                              \
    }


#endif /* APIKEY_FUZZ_H_INCLUDED */
