
/*
 * A usage record as a line of JSON, in the words of the contract: the columns
 * of export/usage with profile=full, and behind them what an export leaves
 * out.
 *
 * Plain C into a caller's buffer.
 */


#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/money.h"
#include "base/verdict.h"

#include "journal.h"


static void apikey_event_text(apikey_json_t *json, const char *name,
    const apikey_event_t *event, apikey_text_e text);
static void apikey_event_uuid(apikey_json_t *json, const char *name,
    const uint8_t uuid[16]);
static void apikey_event_count(apikey_json_t *json, const char *name,
    uint64_t n);
static void apikey_event_limit(apikey_json_t *json, const char *name,
    const apikey_event_t *event, uint64_t n);
static void apikey_event_cost(apikey_json_t *json, int64_t cost);
static void apikey_event_client(apikey_json_t *json,
    const uint8_t client[16]);
static void apikey_event_who(apikey_json_t *json,
    const apikey_event_t *event);
static void apikey_event_rest(apikey_json_t *json,
    const apikey_event_t *event);
static const char *apikey_event_outcome(const apikey_shape_t *shape);
static const char *apikey_event_method(uint32_t method);


static const uint8_t      apikey_event_zero[16];
static const char *const  apikey_event_sources[] = {
    "none", "provider", "header", "estimate"
};


size_t
apikey_event_json(char *buf, size_t size, const apikey_event_t *event,
    const char *node, bool usage)
{
    char                   date[APIKEY_TIME_LEN];
    apikey_json_t          json;
    const char            *outcome;
    const apikey_count_t  *count;

    count = &event->count;
    outcome = apikey_event_outcome(&event->shape);

    apikey_json_init(&json, buf, size);
    apikey_json_object(&json);

    /* whole seconds */

    apikey_time_format(date, count->time);
    date[19] = 'Z';
    apikey_json_name(&json, "date");
    apikey_json_string(&json, date, 20);

    apikey_event_text(&json, "endpoint", event, APIKEY_TEXT_ENDPOINT);
    apikey_event_count(&json, "requests",
                       event->shape.kind == APIKEY_RECORD_EVENT);
    apikey_event_count(&json, "tokens", count->tokens[0] + count->tokens[1]);
    apikey_event_cost(&json, count->cost);
    apikey_event_text(&json, "model", event, APIKEY_TEXT_MODEL);

    apikey_json_name(&json, "status");
    apikey_json_text(&json, strcmp(outcome, "success") == 0 ? "success"
                                                            : "error");

    apikey_event_who(&json, event);

    apikey_json_name(&json, "node");
    apikey_json_text(&json, node);

    if (!usage) {
        apikey_event_rest(&json, event);
    }

    apikey_json_object_end(&json);

    return json.overflow ? 0 : apikey_json_len(&json);
}


static void
apikey_event_who(apikey_json_t *json, const apikey_event_t *event)
{
    size_t                 i;
    const apikey_count_t  *count;
    const apikey_shape_t  *shape;
    static const char     *tokens[] = { "tokens_input", "tokens_output",
                                        "tokens_cached", "tokens_reasoning" };

    count = &event->count;
    shape = &event->shape;

    apikey_event_uuid(json, "request_id", count->event);
    apikey_event_uuid(json, "key", shape->key);
    apikey_event_text(json, "owner", event, APIKEY_TEXT_OWNER);
    apikey_event_text(json, "customer", event, APIKEY_TEXT_CUSTOMER);
    apikey_event_text(json, "service", event, APIKEY_TEXT_SERVICE);

    apikey_json_name(json, "method");
    apikey_json_text(json, apikey_event_method(shape->method));

    apikey_event_count(json, "status_code", shape->status);

    apikey_json_name(json, "verdict");
    apikey_json_text(json, apikey_verdict_name(shape->verdict));

    apikey_event_text(json, "limit_name", event, APIKEY_TEXT_LIMIT);

    for (i = 0; i < 4; i++) {
        apikey_event_count(json, tokens[i], count->tokens[i]);
    }

    apikey_json_name(json, "usage_source");
    apikey_json_text(json, apikey_event_sources[shape->source & 3]);

    apikey_json_name(json, "price_version");

    if (count->price) {
        apikey_json_uint(json, count->price);

    } else {
        apikey_json_null(json);
    }

    apikey_event_count(json, "bytes_in", count->bytes_in);
    apikey_event_count(json, "bytes_out", count->bytes_out);
    apikey_event_count(json, "duration_ms", (count->duration + 500) / 1000);
    apikey_event_text(json, "session", event, APIKEY_TEXT_SESSION);
}


/* What nobody has in an export: for people, and for a replay. */

static void
apikey_event_rest(apikey_json_t *json, const apikey_event_t *event)
{
    const char            *end;
    const apikey_count_t  *count;
    const apikey_shape_t  *shape;
    static const char     *kinds[] = { "event", "detail", "sum" };

    count = &event->count;
    shape = &event->shape;

    apikey_json_name(json, "kind");
    apikey_json_text(json, shape->kind < APIKEY_RECORDS ? kinds[shape->kind]
                                                        : "unknown");
    apikey_json_name(json, "time_us");
    apikey_json_int(json, count->time);

    apikey_event_uuid(json, "secret", shape->secret);
    apikey_event_client(json, count->client);

    apikey_json_name(json, "outcome");
    apikey_json_text(json, apikey_event_outcome(shape));
    apikey_json_name(json, "decision_mode");
    apikey_json_text(json, apikey_mode_name(shape->mode));

    apikey_event_count(json, "refused", shape->kind == APIKEY_RECORD_SUM
                                        ? count->count : 0);
    apikey_event_count(json, "weight", shape->weight);
    apikey_event_limit(json, "limit", event, shape->limit);
    apikey_event_limit(json, "remaining", event, count->remaining);
    apikey_event_limit(json, "retry_after", event, shape->retry_after);

    apikey_json_name(json, "cost_nano");

    if (count->cost < 0) {
        apikey_json_null(json);

    } else {
        apikey_json_int(json, count->cost);
    }

    apikey_event_count(json, "duration_us", count->duration);
    apikey_event_count(json, "upstream_us", count->upstream);

    end = apikey_end_name(shape->end);
    apikey_json_name(json, "aborted");

    if (*end) {
        apikey_json_text(json, end);

    } else {
        apikey_json_null(json);
    }
}


static void
apikey_event_text(apikey_json_t *json, const char *name,
    const apikey_event_t *event, apikey_text_e text)
{
    apikey_json_name(json, name);

    if (event->shape.len[text]) {
        apikey_json_string(json, event->text[text], event->shape.len[text]);

    } else if (text == APIKEY_TEXT_SERVICE || text == APIKEY_TEXT_ENDPOINT) {
        apikey_json_text(json, "");

    } else {
        apikey_json_null(json);
    }
}


static void
apikey_event_uuid(apikey_json_t *json, const char *name,
    const uint8_t uuid[16])
{
    apikey_json_name(json, name);

    if (memcmp(uuid, apikey_event_zero, 16) == 0) {
        apikey_json_null(json);

    } else {
        apikey_json_uuid(json, uuid);
    }
}


/* What does not fit Postgres' bigint was never counted as more, either. */

static void
apikey_event_count(apikey_json_t *json, const char *name, uint64_t n)
{
    apikey_json_name(json, name);
    apikey_json_uint(json, n > INT64_MAX ? INT64_MAX : n);
}


/* Of the limit that refused: where none did, there is no number. */

static void
apikey_event_limit(apikey_json_t *json, const char *name,
    const apikey_event_t *event, uint64_t n)
{
    if (event->shape.len[APIKEY_TEXT_LIMIT]) {
        apikey_event_count(json, name, n);
        return;
    }

    apikey_json_name(json, name);
    apikey_json_null(json);
}


static void
apikey_event_cost(apikey_json_t *json, int64_t cost)
{
    char  text[APIKEY_MONEY_TEXT_LEN + 8];

    apikey_json_name(json, "cost");

    if (cost < 0) {
        apikey_json_null(json);
        return;
    }

    apikey_json_string(json, text,
            (size_t) (apikey_money_format(text, (uint64_t) cost) - text));
}


static void
apikey_event_client(apikey_json_t *json, const uint8_t client[16])
{
    char                  text[INET6_ADDRSTRLEN];
    static const uint8_t  mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff,
                                         0xff };

    apikey_json_name(json, "client");

    if (memcmp(client, apikey_event_zero, 16) == 0) {
        apikey_json_null(json);
        return;
    }

    if (memcmp(client, mapped, 12) == 0) {
        inet_ntop(AF_INET, client + 12, text, sizeof(text));

    } else {
        inet_ntop(AF_INET6, client, text, sizeof(text));
    }

    apikey_json_text(json, text);
}


static const char *
apikey_event_outcome(const apikey_shape_t *shape)
{
    if (shape->kind != APIKEY_RECORD_EVENT) {
        return "refused";
    }

    if (shape->end != APIKEY_END_NORMAL) {
        return "aborted";
    }

    return shape->status >= 400 ? "error" : "success";
}


/* By the bit that ngx_http_request.h gives a method. */

static const char *
apikey_event_method(uint32_t method)
{
    size_t              i;
    static const char  *names[] = {
        "OTHER", "GET", "HEAD", "POST", "PUT", "DELETE", "MKCOL", "COPY",
        "MOVE", "OPTIONS", "PROPFIND", "PROPPATCH", "LOCK", "UNLOCK", "PATCH",
        "TRACE", "CONNECT"
    };

    for (i = 1; i < sizeof(names) / sizeof(names[0]); i++) {
        if (method == (uint32_t) 1 << i) {
            return names[i];
        }
    }

    return names[0];
}
