
/*
 * Marks: how far each stream has come.
 *
 * Plain C.  The list is malloc()ed and belongs to the apikey_marks_t.
 */


#include <stdlib.h>
#include <string.h>

#include "usage/spool.h"


uint64_t
apikey_marks_get(const apikey_marks_t *marks, uint32_t stream, uint64_t epoch)
{
    unsigned  i;

    for (i = 0; i < marks->n; i++) {
        if (marks->mark[i].stream == stream && marks->mark[i].epoch == epoch) {
            return marks->mark[i].number;
        }
    }

    return 0;
}


bool
apikey_marks_raise(apikey_marks_t *marks, uint32_t stream, uint64_t epoch,
    uint64_t number)
{
    unsigned        i, size;
    apikey_mark_t  *mark;

    for (i = 0; i < marks->n; i++) {
        mark = &marks->mark[i];

        if (mark->stream == stream && mark->epoch == epoch) {
            if (number > mark->number) {
                mark->number = number;
            }

            return true;
        }
    }

    if (marks->n == marks->size) {
        size = marks->size ? marks->size * 2 : 8;

        mark = realloc(marks->mark, size * sizeof(apikey_mark_t));
        if (mark == NULL) {
            return false;
        }

        marks->mark = mark;
        marks->size = size;
    }

    mark = &marks->mark[marks->n++];
    memset(mark, 0, sizeof(apikey_mark_t));
    mark->stream = stream;
    mark->epoch = epoch;
    mark->number = number;

    return true;
}


void
apikey_marks_free(apikey_marks_t *marks)
{
    free(marks->mark);
    memset(marks, 0, sizeof(apikey_marks_t));
}
