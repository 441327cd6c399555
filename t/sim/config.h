
/*
 * What configurations are made of.
 */


#ifndef CONFIG_H_INCLUDED
#define CONFIG_H_INCLUDED


#include "sim.h"


#define SECOND  1000000.0

#define OF(s, ...)                                                            \
    pick(s, sizeof((double[]) { __VA_ARGS__ }) / sizeof(double),              \
         (double[]) { __VA_ARGS__ })


typedef struct {
    int64_t  every, on;
    double   high, low;
} pulse_t;


typedef struct {
    int  n, accts[ITEMS];
} key_list_t;


limit_t bucket(uint64_t n, uint64_t p, uint64_t burst);
limit_t quota(kind_e kind, uint64_t burst, uint64_t fill, int64_t length,
    int64_t offset);
acct_t *account(cfg_t *c, char mode, uint64_t lo, uint64_t hi, uint64_t time);
int by_time(const void *one, const void *two);
void add(cfg_t *c, int64_t t, int node, int worker, int n, const int *accts);
void poisson(cfg_t *c, uint64_t *s, double rate, int n, const key_list_t
    *keys, int nkeys, double skew, const pulse_t *pulse, bool one);
uint64_t one_of(uint64_t *s, int n, const double *list);
void fault(cfg_t *c, int64_t t, fault_e kind, int node, int worker, int64_t
    span);
uint64_t begin(cfg_t *c, uint64_t seed);
void random_faults(cfg_t *c, uint64_t *s, int64_t end, int heavy);
void random_network(cfg_t *c, uint64_t *s, bool faults, int heavy);
uint64_t longest(const cfg_t *c);
void finish_times(cfg_t *c, uint64_t *s);
void random_shape(cfg_t *c, uint64_t *s);
double pick(uint64_t *s, size_t n, const double *list);

/* config_more.c */
void same_key(key_list_t *key, const cfg_t *c);
void random_pulse(pulse_t *pulse, uint64_t *s);
void some_faults(cfg_t *c, uint64_t *s);
acct_t *some_account(cfg_t *c, uint64_t *s, const char *modes, double *mean);
limit_t some_bucket(uint64_t *s, double r, uint64_t hi, int64_t p);
void random_quotas(cfg_t *c, uint64_t *s, double rate, double secs, bool pure);
int64_t failover(cfg_t *c, uint64_t *s, int64_t t, const pulse_t *pulse,
    int primary);


#endif /* CONFIG_H_INCLUDED */
