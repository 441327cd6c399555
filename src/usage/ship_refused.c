
/*
 * What Postgres refuses: the marks are read again, or the batch is sent
 * again, or, where an event is at fault, it is found by halving and put into
 * quarantine.  Keeps nothing but what the shipper has.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "usage/ship.h"


static void ngx_http_apikey_ship_over(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_ship_trouble_t *trouble, const char *what);
static void ngx_http_apikey_ship_trouble(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_ship_trouble_t *trouble, PGresult *res, const char *what,
    const char *so);
static ngx_uint_t ngx_http_apikey_ship_poison(const char *state);
static const char *ngx_http_apikey_ship_state(PGresult *res);
static void ngx_http_apikey_ship_reason(PGresult *res, char *buf,
    size_t size);


void
ngx_http_apikey_ship_refused(ngx_http_apikey_ship_t *ship, PGresult *res)
{
    const char  *state;

    state = ngx_http_apikey_ship_state(res);

    if (ngx_strcmp(state, "AK409") == 0) {
        ngx_log_error(NGX_LOG_WARN, ship->log, 0,
                      "apikey: usage was applied by somebody else, or "
                      "Postgres was restored: reading its marks");
        ship->known = 0;
        ngx_http_apikey_ship_retry(ship);
        return;
    }

    if (!ngx_http_apikey_ship_poison(state) || ship->poison[0]) {
        ngx_http_apikey_ship_stuck(ship, res, "a batch of usage");
        ship->known = 0;
        ngx_http_apikey_ship_retry(ship);
        return;
    }

    ngx_http_apikey_ship_reason(res, ship->reason, sizeof(ship->reason));

    /* an event is at fault: halve until it stands alone, in a batch of one,
       which no schema is applied beside */

    if (ship->max > 1) {
        ship->max = ngx_max(ship->batch->count / 2, 1);

    } else {
        ngx_log_error(NGX_LOG_ALERT, ship->log, 0,
                      "apikey: Postgres refused a usage record (%s: %s), it "
                      "is put into apikey.usage_quarantine", state,
                      ship->reason);
        ngx_cpystrn((u_char *) ship->poison, (u_char *) state,
                    sizeof(ship->poison));
    }

    ngx_http_apikey_ship_run(ship);
}


void
ngx_http_apikey_ship_stuck(ngx_http_apikey_ship_t *ship, PGresult *res,
    const char *what)
{
    ngx_http_apikey_ship_trouble(ship, &ship->stuck, res, what,
                                 "no usage is shipped");
}


void
ngx_http_apikey_ship_flows(ngx_http_apikey_ship_t *ship)
{
    ngx_http_apikey_ship_over(ship, &ship->stuck, "takes usage again");
}


void
ngx_http_apikey_ship_deaf(ngx_http_apikey_ship_t *ship, PGresult *res)
{
    ngx_http_apikey_ship_trouble(ship, &ship->deaf, res, "to hear what runs",
                                 "quotas that Redis has lost are unavailable");
}


void
ngx_http_apikey_ship_hears(ngx_http_apikey_ship_t *ship)
{
    ngx_http_apikey_ship_over(ship, &ship->deaf, "hears what runs again");
}


static void
ngx_http_apikey_ship_over(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_ship_trouble_t *trouble, const char *what)
{
    if (trouble->told) {
        trouble->told = 0;
        ngx_log_error(NGX_LOG_NOTICE, ship->log, 0, "apikey: Postgres %s",
                      what);
    }
}


/* Once for each kind of trouble, however often it is tried again. */

static void
ngx_http_apikey_ship_trouble(ngx_http_apikey_ship_t *ship,
    ngx_http_apikey_ship_trouble_t *trouble, PGresult *res, const char *what,
    const char *so)
{
    char         reason[256];
    const char  *state;

    if (res == NULL) {
        return;                          /* who connects says so */
    }

    state = ngx_http_apikey_ship_state(res);

    if (trouble->told && ngx_strcmp(trouble->state, state) == 0) {
        return;
    }

    trouble->told = 1;
    ngx_cpystrn((u_char *) trouble->state, (u_char *) state,
                sizeof(trouble->state));

    ngx_http_apikey_ship_reason(res, reason, sizeof(reason));

    ngx_log_error(NGX_LOG_ERR, ship->log, 0,
                  "apikey: Postgres refused %s (%s: %s): it is tried again, "
                  "and %s meanwhile%s", what, state, reason, so,
                  ngx_strncmp(state, "42", 2) == 0
                  || ngx_strcmp(state, "3F000") == 0
                  ? " (is the schema applied? apikeyctl schema apply)" : "");
}


/* Data, not the schema's or the role's fault, which would hit every event. */

static ngx_uint_t
ngx_http_apikey_ship_poison(const char *state)
{
    ngx_uint_t          i;
    static const char  *others[] = { "42501", "42P01", "42883", "42703",
                                     "42P10", "42704" };

    for (i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        if (ngx_strcmp(state, others[i]) == 0) {
            return 0;
        }
    }

    return ngx_strncmp(state, "21", 2) == 0
           || ngx_strncmp(state, "22", 2) == 0
           || ngx_strncmp(state, "23", 2) == 0
           || ngx_strncmp(state, "42", 2) == 0;
}


static const char *
ngx_http_apikey_ship_state(PGresult *res)
{
    const char  *state;

    state = PQresultErrorField(res, PG_DIAG_SQLSTATE);

    return state ? state : "";
}


/* It may quote anything, in any encoding, and is sent back as SQL. */

static void
ngx_http_apikey_ship_reason(PGresult *res, char *buf, size_t size)
{
    u_char      *p;
    const char  *text;

    text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);

    (void) ngx_cpystrn((u_char *) buf, (u_char *) (text ? text : "no message"),
                       size);

    for (p = (u_char *) buf; *p; p++) {
        if (*p < 0x20 || *p > 0x7e) {
            *p = '?';
        }
    }
}
