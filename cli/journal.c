
/*
 * apikeyctl journal show, verify, export: what lies in a node's journal, and
 * whether Postgres has it.
 */


#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#include "journal.h"


static bool apikey_journal_marks(apikey_journal_t *j,
    const apikey_ctl_args_t *args);
static void apikey_journal_show_segment(
    const apikey_journal_segment_t *segment);
static void apikey_journal_show_stream(apikey_journal_stream_t *stream);
static unsigned apikey_journal_verify_segment(
    const apikey_journal_segment_t *segment);
static unsigned apikey_journal_verify_stream(apikey_journal_stream_t *stream,
    bool postgres);
static unsigned apikey_journal_missing(const apikey_journal_stream_t *stream,
    uint64_t first, uint64_t last);
static bool apikey_journal_print(apikey_journal_t *j,
    const apikey_frame_t *frame, const apikey_event_t *event,
    uint64_t number);


int
apikey_ctl_journal_show(const apikey_ctl_args_t *args)
{
    int               rc;
    size_t            i;
    apikey_journal_t  j;

    rc = APIKEY_CTL_FAILED;

    if (apikey_journal_open(&j, args) && apikey_journal_marks(&j, args)
        && apikey_journal_read(&j))
    {
        rc = APIKEY_CTL_OK;

        printf("node %s\n", j.id);

        for (i = 0; i < j.nsegments; i++) {
            apikey_journal_show_segment(&j.segment[i]);
        }

        for (i = 0; i < j.nstreams; i++) {
            apikey_journal_show_stream(&j.stream[i]);
        }
    }

    apikey_journal_close(&j);

    return rc;
}


/* How far Postgres has come with each stream, also those it alone knows. */

static bool
apikey_journal_marks(apikey_journal_t *j, const apikey_ctl_args_t *args)
{
    int                       i;
    PGconn                   *conn;
    PGresult                 *result;
    const char               *node;
    apikey_journal_stream_t  *stream;

    if (args->postgres == NULL) {
        return true;
    }

    conn = apikey_ctl_connect(args);
    if (conn == NULL) {
        return false;
    }

    node = j->id;
    stream = NULL;
    result = apikey_ctl_query(conn, "SELECT stream, epoch, mark "
                              "FROM apikey.usage_stream WHERE node = $1 "
                              "ORDER BY epoch, stream", 1, &node);

    for (i = 0; result && i < PQntuples(result); i++) {
        stream = apikey_journal_stream(j,
                 (uint32_t) strtoul(PQgetvalue(result, i, 0), NULL, 10),
                 strtoull(PQgetvalue(result, i, 1), NULL, 10));

        if (stream == NULL) {
            break;
        }

        stream->mark = strtoull(PQgetvalue(result, i, 2), NULL, 10);
        stream->known = true;
    }

    i = result && (stream || PQntuples(result) == 0);

    PQclear(result);
    PQfinish(conn);

    return i;
}


static void
apikey_journal_show_segment(const apikey_journal_segment_t *segment)
{
    char  created[APIKEY_TIME_LEN + 1];

    if (segment->unreadable) {
        return;
    }

    printf("spool.%016llx", (unsigned long long) segment->seq);

    if (segment->foreign) {
        puts(": of another node or version");
        return;
    }

    apikey_time_format(created, segment->created);
    created[APIKEY_TIME_LEN] = '\0';

    printf(": %s, %llu of %llu bytes, %llu frames, %llu events\n", created,
           (unsigned long long) segment->used,
           (unsigned long long) segment->bytes,
           (unsigned long long) segment->frames,
           (unsigned long long) segment->events);
}


static void
apikey_journal_show_stream(apikey_journal_stream_t *stream)
{
    uint64_t  last;

    apikey_journal_join(stream);

    last = stream->n ? stream->range[stream->n - 1].last : 0;

    if (!stream->n && !stream->ring) {
        return;                  /* shipped and gone */
    }

    printf("stream %u epoch %llu:", (unsigned) stream->number,
           (unsigned long long) stream->epoch);

    if (stream->n) {
        printf(" spool %llu-%llu", (unsigned long long) stream->range[0].first,
               (unsigned long long) last);
    }

    if (stream->ring) {
        printf(" ring %llu-%llu", (unsigned long long) stream->tail + 1,
               (unsigned long long) stream->head);
    }

    if (stream->pid) {
        printf(" used by %u", (unsigned) stream->pid);
    }

    if (stream->head > last) {
        last = stream->head;
    }

    if (stream->known) {
        printf(" postgres %llu left %llu", (unsigned long long) stream->mark,
               (unsigned long long) (last > stream->mark
                                     ? last - stream->mark : 0));
    }

    putchar('\n');
}


int
apikey_ctl_journal_verify(const apikey_ctl_args_t *args)
{
    size_t            i;
    unsigned          bad;
    apikey_journal_t  j;

    if (!apikey_journal_open(&j, args) || !apikey_journal_marks(&j, args)
        || !apikey_journal_read(&j))
    {
        apikey_journal_close(&j);
        return APIKEY_CTL_FAILED;
    }

    bad = 0;

    for (i = 0; i < j.nsegments; i++) {
        bad += apikey_journal_verify_segment(&j.segment[i]);
    }

    for (i = 0; i < j.nstreams; i++) {
        bad += apikey_journal_verify_stream(&j.stream[i],
                                            args->postgres != NULL);
    }

    apikey_journal_close(&j);

    return bad ? APIKEY_CTL_PENDING : APIKEY_CTL_OK;
}


/* A frame cut off at the end is what a kill leaves: its records come again. */

static unsigned
apikey_journal_verify_segment(const apikey_journal_segment_t *segment)
{
    unsigned long long  seq;

    seq = segment->seq;

    if (segment->unreadable) {
        printf("fail  spool.%016llx: cannot be read\n", seq);
        return 1;
    }

    if (segment->foreign) {
        printf("fail  spool.%016llx: of another node or version; nobody ships"
               " it\n", seq);
        return 1;
    }

    if (segment->bad || segment->nonsense || segment->missing) {
        printf("fail  spool.%016llx: %llu bytes and %llu frames are damaged\n",
               seq, (unsigned long long) segment->bad,
               (unsigned long long) segment->nonsense);
        return 1;
    }

    if (segment->tail) {
        printf("warn  spool.%016llx: %llu events, and %llu bytes behind them "
               "that are no frame\n", seq,
               (unsigned long long) segment->events,
               (unsigned long long) segment->tail);
        return 0;
    }

    printf("ok    spool.%016llx: %llu events in %llu frames\n", seq,
           (unsigned long long) segment->events,
           (unsigned long long) segment->frames);

    return 0;
}


static unsigned
apikey_journal_verify_stream(apikey_journal_stream_t *stream, bool postgres)
{
    size_t    i;
    unsigned  bad;
    uint64_t  next;

    apikey_journal_join(stream);

    bad = 0;
    next = postgres ? stream->mark + 1
           : stream->n ? stream->range[0].first : stream->tail + 1;

    for (i = 0; i < stream->n; i++) {
        if (stream->range[i].first > next) {
            bad += apikey_journal_missing(stream, next,
                                          stream->range[i].first - 1);
        }

        if (stream->range[i].last >= next) {
            next = stream->range[i].last + 1;
        }
    }

    /* memory goes on where the spool ends */

    if (stream->ring && stream->head >= next && stream->tail + 1 > next) {
        bad += apikey_journal_missing(stream, next, stream->tail);
    }

    return bad;
}


static unsigned
apikey_journal_missing(const apikey_journal_stream_t *stream, uint64_t first,
    uint64_t last)
{
    printf("fail  stream %u epoch %llu: events %llu to %llu are missing\n",
           (unsigned) stream->number, (unsigned long long) stream->epoch,
           (unsigned long long) first, (unsigned long long) last);

    return 1;
}


int
apikey_ctl_journal_export(const apikey_ctl_args_t *args)
{
    int               rc;
    apikey_journal_t  j;

    if (args->format && strcmp(args->format, "full") != 0
        && strcmp(args->format, "usage") != 0)
    {
        apikey_ctl_error("journal export: --format is full or usage");
        return APIKEY_CTL_USAGE;
    }

    rc = APIKEY_CTL_FAILED;

    if (apikey_journal_open(&j, args) && apikey_journal_marks(&j, args)) {
        j.event = apikey_journal_print;
        j.usage = args->format && strcmp(args->format, "usage") == 0;

        if (apikey_journal_read(&j)) {
            rc = APIKEY_CTL_OK;
        }
    }

    if (rc == APIKEY_CTL_OK && fflush(stdout) == EOF) {
        apikey_ctl_error("cannot write the records");
        rc = APIKEY_CTL_FAILED;
    }

    if (j.left_out) {
        apikey_ctl_say("left out: %llu sums of refusals, which are no rows",
                       (unsigned long long) j.left_out);
    }

    apikey_journal_close(&j);

    return rc;
}


static bool
apikey_journal_print(apikey_journal_t *j, const apikey_frame_t *frame,
    const apikey_event_t *event, uint64_t number)
{
    char                            buf[32 * 1024];
    size_t                          len;
    const apikey_journal_stream_t  *stream;

    stream = apikey_journal_stream(j, frame->stream, frame->epoch);

    if (stream == NULL) {
        return false;
    }

    if (number <= stream->mark) {
        return true;
    }

    if (j->usage && event->shape.kind == APIKEY_RECORD_SUM) {
        j->left_out++;
        return true;
    }

    len = apikey_event_json(buf, sizeof(buf) - 1, event, j->name, j->usage);
    buf[len++] = '\n';

    if (fwrite(buf, 1, len, stdout) != len) {
        apikey_ctl_error("cannot write the records");
        return false;
    }

    return true;
}
