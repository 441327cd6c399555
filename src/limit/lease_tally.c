
/*
 * Sums of settlements on their way to Redis: cumulative, so that a call that
 * is lost, late or overtaken is made good by the next one.
 */


#include "limit/lease.h"


void
apikey_tally_send(apikey_tally_t *tally, uint64_t horizon, int64_t now,
    apikey_account_sums_t *sums)
{
    bool  doubt;

    doubt = true;

    if (apikey_tally_clean(tally)) {
        tally->waiting = 0;
        doubt = false;

    } else if (tally->waiting == 0) {
        tally->waiting = now;

    } else if (now - tally->waiting > (int64_t) (horizon / 2)) {

        /* before Redis forgets the entry it goes by */

        tally->acked = tally->sent;
        tally->part_acked = tally->part_sent;
        tally->waiting = 0;
    }

    tally->last = now;
    tally->sent = tally->sum;
    tally->part_sent = tally->part;

    sums->node = tally->node;
    sums->number = ++tally->number;
    tally->doubt = doubt ? tally->number : tally->doubt;
    sums->sum = tally->sum;
    sums->acked = tally->acked;
    sums->era = tally->era;
    sums->part = tally->part;
    sums->part_acked = tally->part_acked;
    sums->doubt = doubt;
}


/* A sum that is again what was acknowledged may have been another between. */

bool
apikey_tally_clean(const apikey_tally_t *tally)
{
    return tally->sum == tally->acked && tally->part == tally->part_acked
           && tally->doubt <= tally->acked_number;
}


void
apikey_tally_acked(apikey_tally_t *tally, const apikey_account_sums_t *sums,
    uint64_t era)
{
    if (sums->number <= tally->acked_number) {
        return;
    }

    tally->acked_number = sums->number;
    tally->acked = sums->sum;

    if (sums->era == tally->era) {
        tally->part_acked = sums->part;
    }

    if (era != tally->era) {
        tally->era = era;
        tally->part = 0;
        tally->part_sent = 0;
        tally->part_acked = 0;
    }

    /* what was sent after that call still waits, may be for a stopped node */

    tally->waiting = apikey_tally_clean(tally) ? 0 : tally->last;
}


void
apikey_tally_add(apikey_tally_t *tally, int64_t tokens, uint64_t era,
    int64_t age, uint64_t horizon)
{
    if (tokens > 0 && age > (int64_t) (horizon / 2)) {
        return;
    }

    tally->sum += tokens;

    if (era == tally->era) {
        tally->part += tokens;
    }
}
