
/*
 * What apikeyctl doctor looks at, and how it says what it found: a line for
 * each check, "ok", "warn" or "fail" in front.
 */


#ifndef APIKEY_CTL_DOCTOR_H_INCLUDED
#define APIKEY_CTL_DOCTOR_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ctl.h"


#define APIKEY_DOCTOR_CLOCK_WARN  1000000        /* us */
#define APIKEY_DOCTOR_CLOCK_FAIL  30000000


typedef enum {
    APIKEY_DOCTOR_OK = 0,
    APIKEY_DOCTOR_WARN,
    APIKEY_DOCTOR_FAIL
} apikey_doctor_level_e;


/* Texts are the doctor's own; NULL: not to be looked at. */

typedef struct {
    char        *postgres;
    char        *redis;
    char        *password_file;
    char        *journal;
    char        *ring;
    char        *tokens;
    char        *macs;
    uint64_t     size;           /* of the journal, bytes */

    const char  *dir;            /* of the schema's files */
    bool         failed;
} apikey_doctor_t;


/* doctor.c */
void apikey_doctor_say(apikey_doctor_t *d, apikey_doctor_level_e level,
    const char *what, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void apikey_doctor_clock(apikey_doctor_t *d, const char *what, int64_t theirs,
    int64_t before, int64_t after);

/* doctor_conf.c: fills what is not set yet from "nginx -T" */
void apikey_doctor_conf(apikey_doctor_t *d, const char *nginx,
    const char *file);

/* doctor_disk.c, doctor_pg.c, doctor_redis.c */
void apikey_doctor_disk(apikey_doctor_t *d);
void apikey_doctor_pg(apikey_doctor_t *d);
void apikey_doctor_redis(apikey_doctor_t *d);


#endif /* APIKEY_CTL_DOCTOR_H_INCLUDED */
