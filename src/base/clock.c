
/*
 * Clocks, and times as text: the proleptic Gregorian calendar in UTC.
 *
 * No state, no locale, no time zone but offsets written out.
 */


#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <time.h>

#include "base/clock.h"


#define APIKEY_DAY        (86400 * INT64_C(1000000))
#define APIKEY_TIME_MIN   (-719528 * APIKEY_DAY)      /* 0000-01-01 */
#define APIKEY_TIME_MAX   (2932897 * APIKEY_DAY - 1)  /* 9999-12-31 */


static int64_t apikey_clock_read(clockid_t id);
static char *apikey_digits(char *out, int64_t n, unsigned width);
static const char *apikey_number(const char *text, const char *end,
    unsigned width, int *n);
static const char *apikey_date_parse(const char *text, const char *end,
    int64_t *days);
static const char *apikey_day_parse(const char *text, const char *end,
    int64_t *us);
static const char *apikey_offset_parse(const char *text, const char *end,
    int64_t *us);
static int64_t apikey_days(int year, int month, int day);


int64_t
apikey_clock_real(void)
{
    return apikey_clock_read(CLOCK_REALTIME);
}


int64_t
apikey_clock_boot(void)
{
    return apikey_clock_read(CLOCK_BOOTTIME);
}


void
apikey_date_format(char *out, int64_t us)
{
    int64_t  days, era, year, month;

    /* years have four digits: what lies outside is shown as the last one */

    us = us < APIKEY_TIME_MIN ? APIKEY_TIME_MIN
         : us > APIKEY_TIME_MAX ? APIKEY_TIME_MAX : us;

    /* days since 0000-03-01: leap days come last in their year of March */

    days = (us - APIKEY_TIME_MIN) / APIKEY_DAY - 60;
    era = days < 0 ? -1 : days / 146097;
    days -= era * 146097;

    year = (days - days / 1460 + days / 36524 - days / 146096) / 365;
    days -= 365 * year + year / 4 - year / 100;
    month = (5 * days + 2) / 153;
    days -= (153 * month + 2) / 5;

    year += era * 400 + (month > 9);
    month += month > 9 ? -9 : 3;

    out = apikey_digits(out, year, 4);
    *out++ = '-';
    out = apikey_digits(out, month, 2);
    *out++ = '-';
    (void) apikey_digits(out, days + 1, 2);
}


void
apikey_time_format(char *out, int64_t us)
{
    int64_t  ms;

    us = us < APIKEY_TIME_MIN ? APIKEY_TIME_MIN
         : us > APIKEY_TIME_MAX ? APIKEY_TIME_MAX : us;

    apikey_date_format(out, us);

    ms = (us - APIKEY_TIME_MIN) % APIKEY_DAY / 1000;

    out += 10;
    *out++ = 'T';
    out = apikey_digits(out, ms / 3600000, 2);
    *out++ = ':';
    out = apikey_digits(out, ms / 60000 % 60, 2);
    *out++ = ':';
    out = apikey_digits(out, ms / 1000 % 60, 2);
    *out++ = '.';
    out = apikey_digits(out, ms % 1000, 3);
    *out = 'Z';
}


bool
apikey_time_parse(int64_t *us, const char *text, size_t len)
{
    int64_t      days, part, offset;
    const char  *end;

    end = text + len;
    text = apikey_date_parse(text, end, &days);

    if (text == NULL) {
        return false;
    }

    if (text == end) {
        *us = days * APIKEY_DAY;
        return true;
    }

    if (*text != 'T' && *text != 't' && *text != ' ') {
        return false;
    }

    text = apikey_day_parse(text + 1, end, &part);

    if (text == NULL) {
        return false;
    }

    text = apikey_offset_parse(text, end, &offset);

    if (text == NULL || text != end) {
        return false;
    }

    *us = days * APIKEY_DAY + part - offset;

    return true;
}


static int64_t
apikey_clock_read(clockid_t id)
{
    struct timespec  ts;

    (void) clock_gettime(id, &ts);

    return (int64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}


static char *
apikey_digits(char *out, int64_t n, unsigned width)
{
    unsigned  i;

    for (i = width; i-- > 0; n /= 10) {
        out[i] = (char) ('0' + n % 10);
    }

    return out + width;
}


/* Exactly width digits; NULL: they are not there. */

static const char *
apikey_number(const char *text, const char *end, unsigned width, int *n)
{
    if (end - text < (ptrdiff_t) width) {
        return NULL;
    }

    for (*n = 0; width; width--, text++) {
        if (*text < '0' || *text > '9') {
            return NULL;
        }

        *n = *n * 10 + (*text - '0');
    }

    return text;
}


static const char *
apikey_date_parse(const char *text, const char *end, int64_t *days)
{
    int               year, month, day, last;
    static const int  lengths[] = { 31, 28, 31, 30, 31, 30,
                                    31, 31, 30, 31, 30, 31 };

    text = apikey_number(text, end, 4, &year);

    if (text == NULL || text == end || *text != '-') {
        return NULL;
    }

    text = apikey_number(text + 1, end, 2, &month);

    if (text == NULL || text == end || *text != '-') {
        return NULL;
    }

    text = apikey_number(text + 1, end, 2, &day);

    if (text == NULL || month < 1 || month > 12 || day < 1) {
        return NULL;
    }

    last = lengths[month - 1];

    if (month == 2 && year % 4 == 0 && (year % 100 || year % 400 == 0)) {
        last = 29;
    }

    if (day > last) {
        return NULL;
    }

    *days = apikey_days(year, month, day);

    return text;
}


/* hh:mm:ss and a fraction; a leap second is the first of the next minute. */

static const char *
apikey_day_parse(const char *text, const char *end, int64_t *us)
{
    int      hour, minute, second;
    int64_t  unit;

    text = apikey_number(text, end, 2, &hour);

    if (text == NULL || text == end || *text != ':') {
        return NULL;
    }

    text = apikey_number(text + 1, end, 2, &minute);

    if (text == NULL || text == end || *text != ':') {
        return NULL;
    }

    text = apikey_number(text + 1, end, 2, &second);

    if (text == NULL || hour > 23 || minute > 59 || second > 60) {
        return NULL;
    }

    *us = ((hour * 60 + minute) * 60 + second) * INT64_C(1000000);

    if (text == end || *text != '.') {
        return text;
    }

    if (++text == end || *text < '0' || *text > '9') {
        return NULL;
    }

    for (unit = 100000; text < end && *text >= '0' && *text <= '9'; text++) {
        *us += (*text - '0') * unit;
        unit /= 10;
    }

    return text;
}


static const char *
apikey_offset_parse(const char *text, const char *end, int64_t *us)
{
    int   hour, minute;
    char  sign;

    if (text == end) {
        return NULL;
    }

    sign = *text++;

    if (sign == 'Z' || sign == 'z') {
        *us = 0;
        return text;
    }

    if (sign != '+' && sign != '-') {
        return NULL;
    }

    text = apikey_number(text, end, 2, &hour);

    if (text == NULL || text == end || *text != ':') {
        return NULL;
    }

    text = apikey_number(text + 1, end, 2, &minute);

    if (text == NULL || hour > 23 || minute > 59) {
        return NULL;
    }

    *us = (hour * 60 + minute) * INT64_C(60000000);

    if (sign == '-') {
        *us = -*us;
    }

    return text;
}


/* Days since the epoch. */

static int64_t
apikey_days(int year, int month, int day)
{
    if (month < 3) {
        year--;
        month += 12;
    }

    /* a year of March; the first years are moved up by one era of 400 */

    year += 400;

    return 365 * (int64_t) year + year / 4 - year / 100 + year / 400
           + (153 * (month - 3) + 2) / 5 + day - 1 - 719468 - 146097;
}
