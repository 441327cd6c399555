
/*
 * The bytes of LEASE's and TAKE's arguments and of values, and their numbers
 * read again.  Included by one unit, after account_random.h.
 */


#ifndef UNIT_ACCOUNT_PACK_H_INCLUDED
#define UNIT_ACCOUNT_PACK_H_INCLUDED


#define RAW     131072       /* bytes of a value, at most */


static unsigned  logs, full;         /* of values packed */


static char *
put_double(char *p, double d)
{
    memcpy(p, &d, 8);

    return p + 8;
}


static char *
put(char *p, uint64_t n)
{
    return put_double(p, (double) n);
}


static char *
put_signed(char *p, int64_t n)
{
    return put_double(p, (double) n);
}


static char *
put_id(char *p, uint64_t n)
{
    memcpy(p, &n, 8);

    return p + 8;
}


static uint64_t
get(const char **p)
{
    double  d;

    memcpy(&d, *p, 8);
    *p += 8;

    if (!(d >= 0 && d <= 0x1p53) || d != (double) (uint64_t) d) {
        fail("%f is no integer", d);
    }

    return (uint64_t) d;
}


static void
same(const char *what, uint64_t is, uint64_t should)
{
    if (is != should) {
        fail("%s is %llu, not %llu", what, (unsigned long long) is,
             (unsigned long long) should);
    }
}


/* A sum that a script makes of two: a double, which may be above 2^53. */

static void
same_sum(const char *what, const char **p, uint64_t one, uint64_t two)
{
    double  d;

    memcpy(&d, *p, 8);
    *p += 8;

    if (d != (double) one + (double) two) {
        fail("%s is %f, not %f", what, d, (double) one + (double) two);
    }
}


static char *
put_epoch(char *p, unsigned op)
{
    return put(put(put(put(p, op), epoch), since), moved);
}


static size_t
pack_call(char *arg, const account_t *a, const apikey_account_call_t *c,
    const apikey_account_ask_t *ask)
{
    char                          *p;
    unsigned                       i;
    const apikey_account_limit_t  *l;
    const apikey_account_sums_t   *s = &c->sums;

    p = put(arg, c->slots + 2 * s->doubt);
    p = put(p, c->lease);
    p = put(p, c->horizon);
    p = put_id(p, s->node);
    p = put(p, s->number);
    p = put_signed(p, s->sum);
    p = put_signed(p, s->acked);
    p = put(p, s->era);
    p = put_signed(p, s->part);
    p = put_signed(p, s->part_acked);

    if (ask) {
        p = put(p, ask->born);
        p = put(p, ask->generation);
        p = put(p, ask->spent);
        p = put(p, ask->returned);
        p = put(p, ask->kept);
        p = put(p, ask->busy);
        p = put(p, ask->want);
        p = put(p, ask->least);

    } else {
        p = a->cost == APIKEY_ACCOUNT_WHOLE ? put_signed(p, -1)
                                            : put(p, a->cost);
    }

    for (i = 0; i < c->nlimits; i++) {
        l = &c->limits[i];
        p = put_id(p, l->id);
        p = put(p, l->rate.token);
        p = put(p, l->rate.refill);
        p = put(p, l->rate.capacity);
        p = put(p, l->rate.tick);
        p = put(p, l->end);
        p = put(p, l->next);
        p = put(p, l->fill);
        p = put(p, l->made);
        p = l->known == APIKEY_ACCOUNT_UNKNOWN ? put_signed(p, -1)
                                               : put(p, l->known);
        p = put(p, l->quota + (l->quota && l->touched) + 4 * l->mode);
    }

    return p - arg;
}


static char *
pack_log(char *p, const apikey_rolling_t *log)
{
    unsigned  i;

    logs += log->n > 5;
    full += log->n == APIKEY_ROLLING_PLACES;
    p = put(p, log->n);

    for (i = 0; i < log->n; i++) {
        p = put(p, log->places[i].at);
        p = put(p, log->places[i].count);
    }

    return p;
}


static size_t
pack_value(char *raw, const apikey_account_t *v)
{
    char      *p;
    unsigned   i;

    memcpy(raw, "apikey\2\0", 8);

    p = put(raw + 8, v->at);
    p = put(p, v->lease);
    p = put(p, v->out[0]);
    p = put(p, v->out[1]);
    p = put(p, v->born);
    p = put(p, v->era);
    p = put(p, v->epoch);
    p = put(p, v->lost);
    p = put(p, v->nlevels);
    p = put(p, v->nnodes);
    p = put(p, v->ncounters);

    for (i = 0; i < v->nlevels; i++) {
        p = put_id(p, v->levels[i].id);
        p = put(p, v->levels[i].used);
        p = put(p, v->levels[i].at);
        p = put(p, v->levels[i].token);
        p = put(p, v->levels[i].refill);
        p = put(p, v->levels[i].tick);
        p = put(p, v->levels[i].born);

        if (v->levels[i].tick == APIKEY_ACCOUNT_ROLLING) {
            p = pack_log(p, &v->levels[i].log);
        }
    }

    for (i = 0; i < v->nnodes; i++) {
        p = put_id(p, v->nodes[i].id);
        p = put(p, v->nodes[i].seen);
    }

    for (i = 0; i < v->ncounters; i++) {
        p = put_id(p, v->counters[i].id);
        p = put(p, v->counters[i].number);
        p = put_signed(p, v->counters[i].sum);
        p = put(p, v->counters[i].era);
        p = put_signed(p, v->counters[i].part);
        p = put(p, v->counters[i].at);
    }

    return p - raw;
}


static void
check_value(unsigned i, bool written)
{
    char               raw[RAW], should[RAW], out[64];
    char               key[2] = { 'a' + i };
    long               n;
    uint64_t           us;
    size_t             k, size;
    apikey_account_t  *v = &accounts[i].value;

    if (v->state != APIKEY_ACCOUNT_PRESENT) {
        return;
    }

    n = run(raw, 2, "GET", key);

    size = pack_value(should, v);

    for (k = 0; k < size && n == (long) size; k++) {

        if (raw[k] != should[k]) {
            fail("value of %s differs at byte %zu", key, k);
        }
    }

    same("size of the value", n, size);

    if (!written) {
        return;
    }

    us = apikey_account_expire(v, 60000000, now);
    n = run(out, 2, "PTTL", key);

    if (us == APIKEY_BUCKET_NEVER ? n != -1
        : n > (long) (us / 1000 + 1) || n < (long) (us / 1000) - 900)
    {
        fail("expiry of %s: %ld, not %llu", key, n,
             (unsigned long long) us / 1000 + 1);
    }

    /* time is made up here, it must not end in Redis */

    run(out, 2, "PERSIST", key);
}


#endif /* UNIT_ACCOUNT_PACK_H_INCLUDED */
