
/*
 * Clocks and times.  All times of the project are int64 microseconds since
 * the Unix epoch, all spans are microseconds.
 *
 * Plain C.  Both clocks are vDSO reads, no syscall.
 */


#ifndef APIKEY_CLOCK_H_INCLUDED
#define APIKEY_CLOCK_H_INCLUDED


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>


#define APIKEY_TIME_LEN  24      /* 2026-11-21T10:15:30.123Z */


int64_t apikey_clock_real(void);         /* CLOCK_REALTIME */
int64_t apikey_clock_boot(void);         /* CLOCK_BOOTTIME: counts suspend */

/* Writes APIKEY_TIME_LEN bytes, milliseconds cut; no NUL. */
void apikey_time_format(char *out, int64_t us);

/* Writes 10 bytes, YYYY-MM-DD in UTC; no NUL. */
void apikey_date_format(char *out, int64_t us);

/*
 * RFC 3339 with any offset, digits below a microsecond cut; a date alone is
 * its midnight in UTC.  False: not a time.
 */
bool apikey_time_parse(int64_t *us, const char *text, size_t len);


#endif /* APIKEY_CLOCK_H_INCLUDED */
