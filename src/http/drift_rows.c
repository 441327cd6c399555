
/*
 * Rows of budgets_used(): limits of a holder as the accounts of a decision,
 * and what Postgres knows to be used of each budget among them.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "base/number.h"
#include "http/drift.h"


#define NGX_HTTP_APIKEY_DRIFT_LIMITS  16384      /* bytes, packed */


#define ngx_http_apikey_drift_uuid(out, column)                               \
    apikey_uuid_parse(out, PQgetvalue(res, row, column),                      \
                      PQgetlength(res, row, column))


static ngx_int_t ngx_http_apikey_drift_limits(ngx_http_apikey_drift_t *drift,
    ngx_http_apikey_drift_item_t *item, const apikey_limit_t *limits,
    ngx_uint_t n, const char *used);
static ngx_http_apikey_account_t *ngx_http_apikey_drift_account(
    ngx_http_apikey_drift_item_t *item, const apikey_limit_t *limit);
static uint64_t ngx_http_apikey_drift_word(const char *used, ngx_uint_t line);


ngx_int_t
ngx_http_apikey_drift_item(ngx_http_apikey_drift_t *drift, PGresult *res,
    int row, ngx_http_apikey_drift_item_t *item)
{
    char                 *limits;
    size_t                used;
    unsigned              n;
    apikey_limit_text_t   text, terms;

    ngx_memzero(item, sizeof(ngx_http_apikey_drift_item_t));

    item->level = PQgetvalue(res, row, NGX_HTTP_APIKEY_DRIFT_LEVEL)[0] == 'k'
                  ? APIKEY_LEVEL_KEY : APIKEY_LEVEL_OWNER;

    if (!ngx_http_apikey_drift_uuid(item->holder,
                                    NGX_HTTP_APIKEY_DRIFT_HOLDER)
        || !ngx_http_apikey_drift_uuid(item->root, NGX_HTTP_APIKEY_DRIFT_ROOT)
        || !ngx_http_apikey_drift_uuid(item->calendar,
                                       NGX_HTTP_APIKEY_DRIFT_CALENDAR))
    {
        return NGX_DECLINED;
    }

    limits = ngx_palloc(drift->pool, NGX_HTTP_APIKEY_DRIFT_LIMITS);
    if (limits == NULL) {
        return NGX_ERROR;
    }

    text.text = PQgetvalue(res, row, NGX_HTTP_APIKEY_DRIFT_TEXT);
    text.len = PQgetlength(res, row, NGX_HTTP_APIKEY_DRIFT_TEXT);
    terms.text = PQgetvalue(res, row, NGX_HTTP_APIKEY_DRIFT_TERMS);
    terms.len = PQgetlength(res, row, NGX_HTTP_APIKEY_DRIFT_TERMS);

    used = apikey_limit_parse(&text, &terms, limits,
                              NGX_HTTP_APIKEY_DRIFT_LIMITS, &n);

    if (used == (size_t) -1 || n == 0) {
        return NGX_DECLINED;
    }

    return ngx_http_apikey_drift_limits(drift, item,
                            (const apikey_limit_t *) (void *) limits, n,
                            PQgetvalue(res, row, NGX_HTTP_APIKEY_DRIFT_USED));
}


/* Accounts of money with all their limits, as every caller knows them. */

static ngx_int_t
ngx_http_apikey_drift_limits(ngx_http_apikey_drift_t *drift,
    ngx_http_apikey_drift_item_t *item, const apikey_limit_t *limits,
    ngx_uint_t n, const char *used)
{
    ngx_uint_t                       i;
    const apikey_limit_t            *limit;
    ngx_http_apikey_bucket_t        *b;
    ngx_http_apikey_account_t       *account;
    ngx_http_apikey_main_conf_t     *amcf;
    ngx_http_apikey_drift_budget_t  *budget;

    amcf = drift->amcf;

    item->budgets = ngx_pcalloc(drift->pool,
                                n * sizeof(ngx_http_apikey_drift_budget_t));
    item->decision.accounts = ngx_pcalloc(drift->pool,
                                n * sizeof(ngx_http_apikey_account_t));

    if (item->budgets == NULL || item->decision.accounts == NULL) {
        return NGX_ERROR;
    }

    for (i = 0, limit = limits; i < n; i++, limit = apikey_limit_next(limit)) {

        if (limit->unit != APIKEY_UNIT_COST) {
            continue;
        }

        account = ngx_http_apikey_drift_account(item, limit);

        if (account->buckets == NULL) {
            account->buckets = ngx_pcalloc(drift->pool,
                                       n * sizeof(ngx_http_apikey_bucket_t));
            if (account->buckets == NULL) {
                return NGX_ERROR;
            }
        }

        b = &account->buckets[account->nbuckets++];
        b->limit = limit;

        if (limit->period != APIKEY_PERIOD_NONE
            && ngx_http_apikey_keyring_period(amcf->sh->keyring,
                                        amcf->shpool, item->calendar,
                                        limit->period, apikey_clock_real(),
                                        &b->period)
               != NGX_OK)
        {
            return NGX_DECLINED;
        }

        budget = &item->budgets[item->nbudgets];
        budget->used = ngx_http_apikey_drift_word(used, i);

        if (budget->used != NGX_HTTP_APIKEY_DRIFT_NONE) {
            budget->account = account;
            budget->bucket = b;
            budget->line = i;
            item->nbudgets++;
        }
    }

    return item->nbudgets ? NGX_OK : NGX_DECLINED;
}


static ngx_http_apikey_account_t *
ngx_http_apikey_drift_account(ngx_http_apikey_drift_item_t *item,
    const apikey_limit_t *limit)
{
    ngx_uint_t                  i;
    ngx_http_apikey_account_t  *account;

    for (i = 0; i < item->decision.naccounts; i++) {

        if (item->decision.accounts[i].scope == limit->scope) {
            return &item->decision.accounts[i];
        }
    }

    account = &item->decision.accounts[item->decision.naccounts++];

    ngx_memcpy(account->root, item->root, 16);
    ngx_memcpy(account->holder, item->holder, 16);
    account->level = item->level;
    account->unit = APIKEY_UNIT_COST;
    account->scope = limit->scope;

    return account;
}


static uint64_t
ngx_http_apikey_drift_word(const char *used, ngx_uint_t line)
{
    uint64_t     n;
    const char  *end;

    for ( ;; ) {
        end = strchr(used, ' ');

        if (line-- == 0) {
            break;
        }

        if (end == NULL) {
            return NGX_HTTP_APIKEY_DRIFT_NONE;
        }

        used = end + 1;
    }

    if (!apikey_uint_parse(&n, used, end ? (size_t) (end - used)
                                         : ngx_strlen(used),
                           NGX_HTTP_APIKEY_WEIGHT_MAX))
    {
        return NGX_HTTP_APIKEY_DRIFT_NONE;
    }

    return n;
}


uint64_t
ngx_http_apikey_drift_compare(ngx_http_apikey_drift_t *drift, PGresult *res,
    int row)
{
    u_char                           holder[16];
    uint64_t                         most, n;
    ngx_uint_t                       i, k;
    ngx_http_apikey_drift_item_t    *item;
    ngx_http_apikey_drift_budget_t  *budget;

    most = 0;

    if (!ngx_http_apikey_drift_uuid(holder, NGX_HTTP_APIKEY_DRIFT_HOLDER)) {
        return 0;
    }

    for (i = 0; i < drift->nitems; i++) {
        item = &drift->items[i];

        if (ngx_memcmp(item->holder, holder, 16) != 0) {
            continue;
        }

        for (k = 0; k < item->nbudgets; k++) {
            budget = &item->budgets[k];

            n = ngx_http_apikey_drift_word(PQgetvalue(res, row,
                                                NGX_HTTP_APIKEY_DRIFT_USED),
                                           budget->line);

            if (n != budget->used || budget->level
                                     == NGX_HTTP_APIKEY_DRIFT_NONE)
            {
                continue;
            }

            n = budget->level > n ? budget->level - n : n - budget->level;
            most = ngx_max(most, n);
        }
    }

    return most;
}
