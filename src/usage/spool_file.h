
/*
 * What spool.c and spool_read.c share.  Nobody else includes this.
 */


#ifndef APIKEY_SPOOL_FILE_H_INCLUDED
#define APIKEY_SPOOL_FILE_H_INCLUDED


#include "usage/spool.h"


typedef struct {
    uint64_t   magic;
    uint32_t   layout;
    uint32_t   crc;              /* of the header with crc 0 */
    uint64_t   seq;
    int64_t    created;
    uint8_t    node[16];
    uint8_t    reserved[16];
} apikey_spool_header_t;


apikey_spool_e apikey_spool_fail(apikey_spool_t *spool,
    const char *what);
int apikey_spool_file(apikey_spool_t *spool, uint64_t seq, int flags);
apikey_spool_e apikey_spool_scan(apikey_spool_t *spool,
    apikey_segment_t *segment, uint8_t *buf);
bool apikey_spool_shipped(const apikey_segment_t *segment,
    const apikey_marks_t *shipped);
bool apikey_spool_count(apikey_segment_t *segment, const uint8_t *data,
    size_t len);
uint32_t apikey_spool_header_crc(apikey_spool_header_t header);


#endif /* APIKEY_SPOOL_FILE_H_INCLUDED */
