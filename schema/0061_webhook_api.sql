--
-- The admin API of webhooks.  An owner has its own; those without owner are the
-- operators'.  What is sent, and when, stands in 0060_webhooks.sql.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION webhook_json(w webhook, a_secret text DEFAULT NULL)
RETURNS json
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    object  json;
BEGIN
    object := (SELECT row_to_json(x) FROM (SELECT w.id,
        (SELECT o.external FROM owner o WHERE o.id = w.owner_id) AS owner,
        w.url, w.description, w.events, w.enabled,
        (SELECT coalesce(array_to_json(array_agg(row_to_json(y)
                ORDER BY y.expires_at DESC NULLS FIRST)), '[]')
         FROM (SELECT s.id, CASE WHEN s.expires_at IS NULL THEN 'current'
                       ELSE 'grace' END AS state,
                   time_text(s.created_at) AS created_at,
                   time_text(s.expires_at) AS expires_at
               FROM webhook_secret s
               WHERE s.webhook_id = w.id
                   AND coalesce(s.expires_at, 'infinity') > now()) AS y)
            AS secrets,
        w.failures, time_text(w.delivered_at) AS delivered_at,
        time_text(w.created_at) AS created_at,
        time_text(w.updated_at) AS updated_at) AS x);

    IF a_secret IS NULL THEN
        RETURN object;
    END IF;

    -- right after the id, as with keys

    RETURN overlay(object::text PLACING ',"secret":"' || a_secret || '"'
        FROM char_length('{"id":"01a1fd9a-9a4b-7a52-9d3b-5a0c4e1f2b60"') + 1
        FOR 0);
END
$$;

COMMENT ON FUNCTION webhook_json(webhook, text) IS
    'The webhook object; with its secret in the answers that make one';


-- 32 bytes out of 366 random bits: SQL has no other source of randomness that
-- is fit for secrets.

CREATE OR REPLACE FUNCTION webhook_secret_new(a_webhook uuid)
RETURNS text
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    made  text := 'whsec_' || encode(sha256(uuid_send(gen_random_uuid())
        || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())),
        'base64');
BEGIN
    INSERT INTO webhook_secret (webhook_id, secret) VALUES (a_webhook, made);

    RETURN made;
END
$$;

COMMENT ON FUNCTION webhook_secret_new(uuid) IS
    'Makes a secret for a webhook and returns it';


CREATE OR REPLACE FUNCTION check_events(value jsonb)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF value IS NULL OR value = 'null' THEN
        RETURN '[]';
    ELSIF jsonb_typeof(value) <> 'array' THEN
        RETURN wrong('/events', 'bad_type', 'an array of text is needed');
    ELSIF jsonb_array_length(value) = 0 THEN
        RETURN wrong('/events', 'bad_length',
            'name at least one, or null for all');
    ELSIF jsonb_array_length(value) > 100 THEN
        RETURN wrong('/events', 'too_many', 'at most 100');
    END IF;

    RETURN (SELECT coalesce(jsonb_agg(wrong('/events/' || (i - 1),
            CASE jsonb_typeof(v) WHEN 'string' THEN 'bad_value'
                ELSE 'bad_type' END,
            'one of ' || array_to_string(event_types(), ', ')
            || ', or a pattern such as alert.*') -> 0 ORDER BY i), '[]')
        FROM jsonb_array_elements(value) WITH ORDINALITY AS e (v, i)
        WHERE jsonb_typeof(v) <> 'string'
            OR NOT EXISTS (SELECT FROM unnest(event_types()) AS t
                           WHERE pattern_covers(v #>> '{}', t)));
END
$$;

COMMENT ON FUNCTION check_events(jsonb) IS
    'Types of events or patterns of them, or null';


-- Who it is that answers there is checked when it is connected to: a name may
-- lead elsewhere by then.

CREATE OR REPLACE FUNCTION check_webhook_url(value jsonb, at text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = apikey, pg_temp
RETURN CASE
    WHEN check_url(value, at) <> '[]' THEN check_url(value, at)
    WHEN value #>> '{}' ~ '^https?://[^/?#]*@'
        THEN wrong(at, 'bad_value', 'no user name or password: deliveries are'
            ' signed')
    WHEN value #>> '{}' ~ '#'
        THEN wrong(at, 'bad_value', 'no fragment: it is never sent')
    WHEN value #>> '{}' ~ '[^!-~]'
        THEN wrong(at, 'bad_value', 'percent-encode what is not ASCII')
    ELSE '[]' END;

COMMENT ON FUNCTION check_webhook_url(jsonb, text) IS
    'An http or https URL without credentials, absent or null';


CREATE OR REPLACE FUNCTION check_webhook(body jsonb, make boolean)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN check_members(body, '', ARRAY['url', 'description', 'events',
            'enabled'] || CASE WHEN make THEN ARRAY['owner'] ELSE '{}' END,
            ARRAY['id', 'owner', 'secret', 'secrets', 'failures',
                'delivered_at', 'created_at', 'updated_at'])
        || CASE
            WHEN body -> 'url' = 'null' OR make AND NOT body ? 'url'
                THEN wrong('/url', 'required', 'say where events are sent to')
            ELSE check_webhook_url(body -> 'url', '/url') END
        || check_text(body -> 'description', '/description', 255, NULL)
        || check_events(body -> 'events')
        || check_boolean(body -> 'enabled', '/enabled')
        || CASE WHEN make THEN check_holder_owner(body) ELSE '[]' END;
END
$$;

COMMENT ON FUNCTION check_webhook(jsonb, boolean) IS
    'The body of a webhook, or of a change of one';


-- Of a new webhook or alert: an operator may say whose it is.

CREATE OR REPLACE FUNCTION check_holder_owner(body jsonb)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF coalesce(body -> 'owner', 'null') = 'null' THEN
        RETURN '[]';
    ELSIF check_text(body -> 'owner', '/owner', 255, NULL) <> '[]' THEN
        RETURN check_text(body -> 'owner', '/owner', 255, NULL);
    ELSIF caller() <> 'operator' THEN
        RETURN wrong('/owner', 'forbidden', 'only an operator sets this');
    ELSIF NOT EXISTS (SELECT FROM owner o
        WHERE o.external = body ->> 'owner' AND o.deleted_at IS NULL)
    THEN
        RETURN wrong('/owner', 'not_found', 'there is no such owner');
    END IF;

    RETURN '[]';
END
$$;

COMMENT ON FUNCTION check_holder_owner(jsonb) IS
    'The owner in the body of a new webhook or alert';


CREATE OR REPLACE FUNCTION read_holder_owner(body jsonb)
RETURNS uuid
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN CASE caller() WHEN 'owner' THEN caller_owner()
    ELSE (SELECT o.id FROM owner o WHERE o.external = body ->> 'owner') END;

COMMENT ON FUNCTION read_holder_owner(jsonb) IS
    'Whose a new webhook or alert is; null: the operators''';


DROP FUNCTION IF EXISTS find_webhook(jsonb, boolean);


CREATE OR REPLACE FUNCTION api_webhook_create(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    b     jsonb := req -> 'body';
    mine  uuid;
    w     webhook;
    made  text;
BEGIN
    PERFORM allow_change();
    PERFORM check_body(req);
    PERFORM fail_if(check_request(req) || check_webhook(b, true));

    mine := read_holder_owner(b);

    IF (SELECT count(*) >= 20 FROM webhook x
        WHERE x.owner_id IS NOT DISTINCT FROM mine AND x.deleted_at IS NULL)
    THEN
        PERFORM fail(409, 'conflict',
            'There are 20 webhooks: delete one first.');
    END IF;

    INSERT INTO webhook (owner_id, url, description, events, enabled)
    VALUES (mine, b ->> 'url', b ->> 'description', CASE
            WHEN coalesce(b -> 'events', 'null') <> 'null'
            THEN ARRAY(SELECT jsonb_array_elements_text(b -> 'events')) END,
        coalesce((b ->> 'enabled')::boolean, true))
    RETURNING * INTO w;

    made := webhook_secret_new(w.id);

    PERFORM write_audit(who, req, 'create', 'webhook', w.id, NULL,
        webhook_json(w));

    status := 201;
    headers := 'Location: ' || (req ->> 'base') || 'webhooks/' || w.id
        || E'\n' || etag_line(w.version);
    body := webhook_json(w, made);
END
$$;

COMMENT ON FUNCTION api_webhook_create(jsonb, jsonb) IS 'POST webhooks';


CREATE OR REPLACE FUNCTION api_webhook_get(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE sql
SET search_path = apikey, pg_temp
BEGIN ATOMIC
    SELECT * FROM owned_get(req, NULL::webhook, 'webhook',
        'webhook_json');
END;

COMMENT ON FUNCTION api_webhook_get(jsonb, jsonb) IS 'GET webhooks/{id}';


-- Who enables it anew, or moves it, means that it is well now.

CREATE OR REPLACE FUNCTION api_webhook_update(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    b       jsonb := req -> 'body';
    w       webhook;
    before  json;
BEGIN
    PERFORM allow_change();
    w := find_row(req, w, 'webhook', true);
    PERFORM check_body(req);
    PERFORM fail_if(check_request(req) || check_webhook(b, false));

    IF b <> '{}' THEN
        before := webhook_json(w);

        UPDATE webhook x
        SET url = coalesce(b ->> 'url', x.url),
            description = CASE WHEN b ? 'description'
                THEN b ->> 'description' ELSE x.description END,
            events = CASE WHEN NOT b ? 'events' THEN x.events
                WHEN b -> 'events' <> 'null'
                THEN ARRAY(SELECT jsonb_array_elements_text(b -> 'events'))
                END,
            enabled = coalesce((b ->> 'enabled')::boolean, x.enabled),
            not_before = CASE WHEN b ?| '{url,enabled}' THEN NULL
                ELSE x.not_before END,
            failures = CASE WHEN b ?| '{url,enabled}' THEN 0
                ELSE x.failures END,
            updated_at = now(), version = nextval('apikey.version')
        WHERE x.id = w.id
        RETURNING * INTO w;

        PERFORM write_audit(who, req, 'update', 'webhook', w.id, before,
            webhook_json(w));
    END IF;

    status := 200;
    headers := etag_line(w.version);
    body := webhook_json(w);
END
$$;

COMMENT ON FUNCTION api_webhook_update(jsonb, jsonb) IS
    'PATCH webhooks/{id}';


CREATE OR REPLACE FUNCTION end_webhook(who jsonb, req jsonb, w webhook)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    UPDATE webhook x SET deleted_at = now() WHERE x.id = w.id;
    UPDATE webhook_delivery d SET state = 'failed', next_at = NULL
    WHERE d.webhook_id = w.id AND d.state = 'pending';
    DELETE FROM webhook_secret s WHERE s.webhook_id = w.id;

    PERFORM write_audit(who, req, 'delete', 'webhook', w.id, webhook_json(w),
        NULL);
END
$$;

COMMENT ON FUNCTION end_webhook(jsonb, jsonb, webhook) IS
    'Deletes this webhook: nothing more is sent to it';


CREATE OR REPLACE FUNCTION api_webhook_delete(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    w webhook;
BEGIN
    PERFORM allow_change();
    w := find_row(req, w, 'webhook', true);
    PERFORM fail_if(check_request(req));
    PERFORM end_webhook(who, req, w);

    status := 204;
END
$$;

COMMENT ON FUNCTION api_webhook_delete(jsonb, jsonb) IS
    'DELETE webhooks/{id}';


CREATE OR REPLACE FUNCTION api_webhook_rotate(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    b       jsonb := coalesce(nullif(req -> 'body', 'null'), '{}');
    w       webhook;
    before  json;
    made    text;
    until   timestamptz;
BEGIN
    PERFORM allow_change();
    w := find_row(req, w, 'webhook', true);

    IF jsonb_typeof(b) <> 'object' THEN
        PERFORM check_body(req);
    END IF;

    PERFORM fail_if(check_request(req)
        || check_members(b, '', ARRAY['grace'], '{}')
        || CASE
            WHEN coalesce(b -> 'grace', 'null') = 'null' THEN jsonb '[]'
            WHEN jsonb_typeof(b -> 'grace') <> 'string'
                THEN wrong('/grace', 'bad_type', 'a text such as 1h is needed')
            WHEN read_duration(b ->> 'grace') IS NULL
                THEN wrong('/grace', 'bad_value',
                    'write a length such as 1h or 7d')
            WHEN read_duration(b ->> 'grace') > 31 * 86400000000
                THEN wrong('/grace', 'out_of_range', '0s to 31d')
            ELSE '[]' END);

    until := now() + coalesce(read_duration(b ->> 'grace'), 86400000000)
        * interval '1 microsecond';
    before := webhook_json(w);

    UPDATE webhook_secret s SET expires_at = least(s.expires_at, until)
    WHERE s.webhook_id = w.id;

    made := webhook_secret_new(w.id);

    UPDATE webhook x
    SET updated_at = now(), version = nextval('apikey.version')
    WHERE x.id = w.id
    RETURNING * INTO w;

    PERFORM write_audit(who, req, 'rotate', 'webhook', w.id, before,
        webhook_json(w));

    status := 200;
    headers := etag_line(w.version);
    body := webhook_json(w, made);
END
$$;

COMMENT ON FUNCTION api_webhook_rotate(jsonb, jsonb) IS
    'POST webhooks/{id}/rotate: the old secret signs, too, for grace (a day)';


CREATE OR REPLACE FUNCTION api_webhook_list(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE sql
SET search_path = apikey, pg_temp
BEGIN ATOMIC
    SELECT * FROM owned_list(req, 'webhook', 'webhook_json');
END;

COMMENT ON FUNCTION api_webhook_list(jsonb, jsonb) IS 'GET webhooks';


CREATE OR REPLACE FUNCTION delivery_json(d webhook_delivery)
RETURNS json
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN (SELECT row_to_json(x) FROM (SELECT d.id, d.webhook_id AS webhook,
            d.event_id AS event, e.type, d.state,
            (SELECT coalesce(array_to_json(array_agg(row_to_json(y)
                    ORDER BY n)), '[]')
             FROM (SELECT t.attempt AS n, time_text(t.at) AS "time",
                       coalesce(u.name, t.node::text) AS node, t.status_code,
                       CASE WHEN t.ended_at IS NULL
                               AND t.at < now() - interval '60 s'
                           THEN 'the node did not say' ELSE t.error END
                           AS error, t.duration_ms
                   FROM webhook_attempt t LEFT JOIN node u ON u.id = t.node
                   WHERE t.delivery_id = d.id) AS z,
                 LATERAL (SELECT z."time", z.node, z.status_code, z.error,
                     z.duration_ms) AS y) AS attempts,
            time_text(d.next_at) AS next_attempt_at,
            time_text(d.delivered_at) AS delivered_at,
            time_text(d.created_at) AS created_at, e.data
        FROM webhook_event e WHERE e.id = d.event_id) AS x);
END
$$;

COMMENT ON FUNCTION delivery_json(webhook_delivery) IS
    'A delivery with its attempts';


CREATE OR REPLACE FUNCTION api_webhook_deliveries(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    w  webhook;
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner');
    w := find_row(req, w, 'webhook', false);
    PERFORM fail_if(check_request(req, 'state', 'event', 'limit', 'cursor')
        || check_limit_query(req) || check_cursor(req)
        || CASE WHEN coalesce(query_value(req, 'state'), 'pending')
                IN ('pending', 'delivered', 'failed') THEN jsonb '[]'
            ELSE wrong('query:state', 'bad_value',
                'pending, delivered or failed') END);

    status := 200;
    body := list_page(req, 'webhook_delivery', 'delivery_json',
        concat_ws(' AND ', format('x.webhook_id = %L', w.id),
            'x.state = ' || quote_literal(query_value(req, 'state')),
            CASE WHEN query_value(req, 'event') IS NOT NULL
                THEN format('x.event_id = %L',
                    read_uuid(query_value(req, 'event'))) END), '-');
END
$$;

COMMENT ON FUNCTION api_webhook_deliveries(jsonb, jsonb) IS
    'GET webhooks/{id}/deliveries: the latest first';


CREATE OR REPLACE FUNCTION api_webhook_test(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    w     webhook;
    e     uuid;
    sent  webhook_delivery;
BEGIN
    PERFORM allow_change();
    w := find_row(req, w, 'webhook', true);
    PERFORM fail_if(check_request(req)
        || CASE WHEN coalesce(nullif(req -> 'body', 'null'), '{}') = '{}'
            THEN jsonb '[]' ELSE wrong('', 'unknown', 'no body') END);

    IF NOT w.enabled THEN
        PERFORM fail(409, 'conflict', 'This webhook is disabled.');
    END IF;

    e := event_emit('webhook.test', jsonb_build_object('webhook', w.id),
        w.owner_id, w.id);

    -- whoever asks wants to see it now

    UPDATE webhook x SET not_before = NULL WHERE x.id = w.id;
    UPDATE webhook_delivery d SET next_at = '-infinity' WHERE d.event_id = e
    RETURNING * INTO sent;

    status := 202;
    headers := 'Location: ' || (req ->> 'base') || 'webhooks/' || w.id
        || '/deliveries?event=' || e || E'\n';
    sent.next_at := sent.created_at;
    body := delivery_json(sent);
END
$$;

COMMENT ON FUNCTION api_webhook_test(jsonb, jsonb) IS
    'POST webhooks/{id}/test: sends webhook.test, once, before all else';

GRANT EXECUTE ON FUNCTION webhook_json(webhook, text),
    webhook_secret_new(uuid), check_events(jsonb),
    check_webhook_url(jsonb, text), check_webhook(jsonb, boolean),
    check_holder_owner(jsonb), read_holder_owner(jsonb),
    api_webhook_create(jsonb, jsonb),
    api_webhook_get(jsonb, jsonb), api_webhook_update(jsonb, jsonb),
    end_webhook(jsonb, jsonb, webhook),
    api_webhook_delete(jsonb, jsonb), api_webhook_rotate(jsonb, jsonb),
    api_webhook_list(jsonb, jsonb), delivery_json(webhook_delivery),
    api_webhook_deliveries(jsonb, jsonb), api_webhook_test(jsonb, jsonb)
    TO apikey_gateway;
