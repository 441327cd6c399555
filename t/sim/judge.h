
/*
 * What the judges share.
 */


#ifndef JUDGE_H_INCLUDED
#define JUDGE_H_INCLUDED


#include "sim.h"


typedef struct {
    int64_t   t;
    uint64_t  o;
    int64_t   tokens;        /* > 0: used */
    int64_t   least;         /* that had to be left before */
    bool      admitted;
} entry_t;


typedef struct {
    uint64_t  n, burst;
} form_t;


/* judge.c */
int judge_compare(const void *one, const void *two);
form_t judge_form(const world_t *w, const acct_t *ac, unsigned i, int64_t t);
const limit_t *judge_first(const acct_t *ac, unsigned i);
int64_t judge_least(const limit_t *l, uint64_t cost);

/* judge_rolling.c */
void judge_given(world_t *w, book_t *b, const admission_t *adm,
    int64_t tokens);
void judge_rolling(world_t *w, int a, unsigned i, entry_t *list);


#endif /* JUDGE_H_INCLUDED */
