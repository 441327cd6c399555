--
-- The admin API of alerts: the rules.  What becomes of them stands in
-- 0062_alerts.sql and 0063_alert_turn.sql.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION alert_json(a alert)
RETURNS json
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN (SELECT row_to_json(x) FROM (SELECT a.id,
        (SELECT o.external FROM owner o WHERE o.id = a.owner_id) AS owner,
        a.name, a.kind, CASE WHEN a.kind <> 'unknown_price' THEN
            (SELECT jsonb_agg(threshold_json(a.kind, t) ORDER BY n)
             FROM unnest(a.thresholds) WITH ORDINALITY AS u (t, n)) END
            AS thresholds,
        (SELECT row_to_json(y) FROM (SELECT a.match_key AS key,
            a.match_owner AS owner, a.match_limit AS limit_name) AS y)
            AS match,
        a.per, a.window_text AS "window", CASE a.kind WHEN 'spend'
            THEN currency() END AS currency, a.enabled,
        (SELECT count(*) FROM alert_state s
         WHERE s.alert_id = a.id AND s.firing) AS firing,
        time_text(a.fired_at) AS fired_at,
        time_text(a.created_at) AS created_at,
        time_text(a.updated_at) AS updated_at) AS x);
END
$$;

COMMENT ON FUNCTION alert_json(alert) IS 'The alert object';


CREATE OR REPLACE FUNCTION read_threshold(kind text, value jsonb)
RETURNS numeric
LANGUAGE sql IMMUTABLE
SET search_path = apikey, pg_temp
RETURN CASE
    WHEN kind = 'limit' AND jsonb_typeof(value) = 'number'
        THEN CASE WHEN (value #>> '{}')::numeric BETWEEN 0.1 AND 10000
                AND (value #>> '{}')::numeric % 0.1 = 0
            THEN (value #>> '{}')::numeric END
    WHEN kind = 'limit' OR jsonb_typeof(value) <> 'string' THEN NULL
    WHEN kind = 'spend' THEN nullif(read_money(value #>> '{}'), 0)
    WHEN read_duration(value #>> '{}') BETWEEN 1000000
            AND 3660 * 86400000000
        THEN read_duration(value #>> '{}') END;

COMMENT ON FUNCTION read_threshold(text, jsonb) IS
    'A threshold of a kind of rule, or null';


CREATE OR REPLACE FUNCTION check_thresholds(kind text, value jsonb)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF kind = 'unknown_price' THEN
        RETURN CASE WHEN coalesce(value, 'null') = 'null' THEN jsonb '[]'
            ELSE wrong('/thresholds', 'bad_value',
                'an unknown price has no threshold') END;
    ELSIF coalesce(value, 'null') = 'null' THEN
        RETURN CASE WHEN kind IS NULL THEN jsonb '[]'
            ELSE wrong('/thresholds', 'required', 'say when it is to fire')
            END;
    ELSIF jsonb_typeof(value) <> 'array' THEN
        RETURN wrong('/thresholds', 'bad_type', 'an array is needed');
    ELSIF jsonb_array_length(value) NOT BETWEEN 1 AND 20 THEN
        RETURN wrong('/thresholds', 'bad_length', '1 to 20');
    ELSIF kind IS NULL THEN
        RETURN '[]';
    END IF;

    RETURN (SELECT coalesce(jsonb_agg(wrong('/thresholds/' || (i - 1),
            CASE WHEN read_threshold(kind, v) IS NULL THEN 'bad_value'
                ELSE 'duplicate' END, CASE
                WHEN read_threshold(kind, v) IS NOT NULL THEN 'give it once'
                WHEN kind = 'limit' THEN 'a percentage such as 80, from 0.1'
                    ' to 10000 with one decimal'
                WHEN kind = 'spend' THEN 'money as text, such as "50.00"'
                ELSE 'a length of time such as "7d" or "30m", from 1s' END)
            -> 0 ORDER BY i), '[]')
        FROM jsonb_array_elements(value) WITH ORDINALITY AS e (v, i)
        WHERE read_threshold(kind, v) IS NULL
            OR EXISTS (SELECT
                FROM jsonb_array_elements(value) WITH ORDINALITY AS f (w, j)
                WHERE j < i AND read_threshold(kind, w)
                    = read_threshold(kind, v)));
END
$$;

COMMENT ON FUNCTION check_thresholds(text, jsonb) IS
    'Thresholds of a kind of rule';


-- value: a whole match, a: the rule as it would be.

CREATE OR REPLACE FUNCTION check_alert_match(value jsonb, a alert)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    errors  jsonb;
    wanted  uuid := read_uuid(value ->> 'key');
BEGIN
    IF coalesce(value, 'null') = 'null' THEN
        RETURN '[]';
    ELSIF jsonb_typeof(value) <> 'object' THEN
        RETURN wrong('/match', 'bad_type', 'an object is needed');
    END IF;

    errors := check_members(value, '/match', ARRAY['key', 'owner',
            'limit_name'], '{}')
        || check_text(value -> 'owner', '/match/owner', 255, NULL)
        || check_text(value -> 'limit_name', '/match/limit_name', 255, NULL);

    IF coalesce(value -> 'key', 'null') <> 'null' THEN
        errors := errors || CASE
            WHEN wanted IS NULL OR NOT EXISTS (SELECT FROM key k WHERE k.id = wanted
                    AND (a.owner_id IS NULL OR k.owner_id = a.owner_id))
                THEN wrong('/match/key', 'not_found', 'there is no such key')
            WHEN a.kind IN ('unknown_price', 'journal_backlog')
                OR a.kind = 'spend' AND a.per IN ('owner', 'all')
                THEN wrong('/match/key', 'bad_value',
                    'this kind does not look at single keys')
            ELSE '[]' END;
    END IF;

    IF coalesce(value -> 'owner', 'null') <> 'null' THEN
        errors := errors || CASE
            WHEN caller() <> 'operator'
                THEN wrong('/match/owner', 'forbidden',
                    'only an operator sets this')
            WHEN a.kind IN ('unknown_price', 'journal_backlog')
                OR a.kind = 'spend' AND a.per = 'all'
                THEN wrong('/match/owner', 'bad_value',
                    'this kind does not look at single owners')
            ELSE '[]' END;
    END IF;

    IF a.kind <> 'limit' AND coalesce(value -> 'limit_name', 'null') <> 'null'
    THEN
        errors := errors || wrong('/match/limit_name', 'bad_value',
            'only for kind limit');
    END IF;

    RETURN errors;
END
$$;

COMMENT ON FUNCTION check_alert_match(jsonb, alert) IS
    'Whose a rule looks at';


CREATE OR REPLACE FUNCTION check_alert_choice(value jsonb, at text,
    VARIADIC known text[])
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = apikey, pg_temp
RETURN CASE
    WHEN coalesce(value, 'null') = 'null' THEN jsonb '[]'
    WHEN jsonb_typeof(value) <> 'string'
        THEN wrong(at, 'bad_type', 'a text is needed')
    WHEN value #>> '{}' <> ALL (known)
        THEN wrong(at, 'bad_value', array_to_string(known, ', '))
    ELSE '[]' END;

COMMENT ON FUNCTION check_alert_choice(jsonb, text, text[]) IS
    'One of these texts, absent or null';


-- a: the rule as it would be.

CREATE OR REPLACE FUNCTION check_alert_spend(body jsonb, a alert)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = apikey, pg_temp
RETURN CASE
        WHEN a.kind <> 'spend' AND coalesce(body -> 'per', 'null') <> 'null'
            THEN wrong('/per', 'bad_value', 'only for kind spend')
        WHEN a.kind = 'spend' AND a.owner_id IS NOT NULL
            AND body ->> 'per' = 'all'
            THEN wrong('/per', 'bad_value',
                'an owner''s alert looks at that owner: key or owner')
        ELSE check_alert_choice(body -> 'per', '/per', 'key', 'owner', 'all')
        END
    || CASE
        WHEN a.kind <> 'spend' AND coalesce(body -> 'window', 'null') <> 'null'
            THEN wrong('/window', 'bad_value', 'only for kind spend')
        ELSE check_alert_choice(body -> 'window', '/window', 'day', 'week',
            'month', 'total') END;

COMMENT ON FUNCTION check_alert_spend(jsonb, alert) IS
    'What only alerts of kind spend have';


CREATE OR REPLACE FUNCTION merge_alert(old alert, body jsonb)
RETURNS alert
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    a  alert := old;
BEGIN
    a.name := coalesce(body ->> 'name', a.name);
    a.kind := coalesce(a.kind, body ->> 'kind');
    a.enabled := coalesce((body ->> 'enabled')::boolean, a.enabled, true);

    IF a.kind = 'spend' THEN
        a.per := coalesce(body ->> 'per', a.per, 'owner');
        a.window_text := coalesce(body ->> 'window', a.window_text, 'month');
    END IF;

    IF a.kind = 'unknown_price' THEN
        a.thresholds := '{1}';
    ELSIF body ? 'thresholds' THEN
        a.thresholds := ARRAY(SELECT read_threshold(a.kind, v)
            FROM jsonb_array_elements(body -> 'thresholds') AS v ORDER BY 1);
    END IF;

    IF body ? 'match' THEN
        a.match_key := read_uuid(body #>> '{match,key}');
        a.match_owner := body #>> '{match,owner}';
        a.match_limit := body #>> '{match,limit_name}';
    END IF;

    RETURN a;
END
$$;

COMMENT ON FUNCTION merge_alert(alert, jsonb) IS
    'The row after a checked change: absent keeps';


CREATE OR REPLACE FUNCTION check_alert(body jsonb, old alert)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    make    boolean := old.id IS NULL;
    errors  jsonb;
    a       alert := old;
BEGIN
    errors := check_members(body, '', ARRAY['name', 'thresholds', 'match',
            'per', 'window', 'enabled']
            || CASE WHEN make THEN ARRAY['kind', 'owner'] ELSE '{}' END,
            ARRAY['id', 'kind', 'owner', 'currency', 'firing', 'fired_at',
                'created_at', 'updated_at'])
        || check_text(body -> 'name', '/name', 255,
            CASE WHEN make OR body ? 'name' THEN 'give the alert a name' END)
        || check_boolean(body -> 'enabled', '/enabled')
        || CASE WHEN make THEN check_holder_owner(body)
                || check_alert_choice(body -> 'kind', '/kind', 'limit',
                    'spend', 'expiry', 'unknown_price', 'journal_backlog')
            ELSE '[]' END;

    -- what depends on the kind is checked where there is one

    a.kind := coalesce(a.kind, CASE WHEN body ->> 'kind' IN ('limit', 'spend',
        'expiry', 'unknown_price', 'journal_backlog') THEN body ->> 'kind'
        END);

    IF make THEN
        a.owner_id := read_holder_owner(body);
    END IF;

    IF a.kind = 'spend' THEN
        a.per := coalesce(body ->> 'per', a.per, 'owner');
    END IF;

    IF make AND coalesce(body -> 'kind', 'null') = 'null' THEN
        errors := errors || wrong('/kind', 'required', 'limit, spend, expiry,'
            ' unknown_price or journal_backlog');
    ELSIF a.owner_id IS NOT NULL
        AND a.kind IN ('unknown_price', 'journal_backlog')
    THEN
        errors := errors || wrong('/kind', 'forbidden',
            'only operators have alerts of this kind');
    END IF;

    RETURN errors || check_alert_spend(body, a)
        || CASE WHEN make OR body ? 'thresholds'
            THEN check_thresholds(a.kind, body -> 'thresholds')
            ELSE '[]' END
        || CASE WHEN body ? 'match' THEN check_alert_match(body -> 'match', a)
            ELSE check_alert_match(jsonb_build_object('key', a.match_key,
                'owner', CASE caller() WHEN 'operator' THEN a.match_owner END,
                'limit_name', a.match_limit), a) END;
END
$$;

COMMENT ON FUNCTION check_alert(jsonb, alert) IS
    'The body of an alert (old without id), or of a change of one';


DROP FUNCTION IF EXISTS find_alert(jsonb, boolean);


CREATE OR REPLACE FUNCTION api_alert_create(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    a  alert;
BEGIN
    PERFORM allow_change();
    PERFORM check_body(req);
    PERFORM fail_if(check_request(req) || check_alert(req -> 'body', a));

    a := merge_alert(a, req -> 'body');
    a.owner_id := read_holder_owner(req -> 'body');

    IF (SELECT count(*) >= 50 FROM alert x
        WHERE x.owner_id IS NOT DISTINCT FROM a.owner_id
            AND x.deleted_at IS NULL)
    THEN
        PERFORM fail(409, 'conflict', 'There are 50 alerts: delete one first.');
    END IF;

    INSERT INTO alert (owner_id, name, kind, thresholds, match_key,
        match_owner, match_limit, per, window_text, enabled)
    VALUES (a.owner_id, a.name, a.kind, a.thresholds, a.match_key,
        a.match_owner, a.match_limit, a.per, a.window_text, a.enabled)
    RETURNING * INTO a;

    PERFORM write_audit(who, req, 'create', 'alert', a.id, NULL,
        alert_json(a));

    status := 201;
    headers := 'Location: ' || (req ->> 'base') || 'alerts/' || a.id || E'\n'
        || etag_line(a.version);
    body := alert_json(a);
END
$$;

COMMENT ON FUNCTION api_alert_create(jsonb, jsonb) IS 'POST alerts';


CREATE OR REPLACE FUNCTION api_alert_get(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE sql
SET search_path = apikey, pg_temp
BEGIN ATOMIC
    SELECT * FROM owned_get(req, NULL::alert, 'alert',
        'alert_json');
END;

COMMENT ON FUNCTION api_alert_get(jsonb, jsonb) IS 'GET alerts/{id}';


-- What a rule no longer looks for is forgotten without a word: nothing has
-- become better.

CREATE OR REPLACE FUNCTION api_alert_update(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    a       alert;
    was     alert;
    before  json;
BEGIN
    PERFORM allow_change();
    a := find_row(req, a, 'alert', true);
    PERFORM check_body(req);
    PERFORM fail_if(check_request(req) || check_alert(req -> 'body', a));

    IF req -> 'body' <> '{}' THEN
        before := alert_json(a);
        was := a;
        a := merge_alert(a, req -> 'body');

        UPDATE alert x
        SET name = a.name, thresholds = a.thresholds,
            match_key = a.match_key, match_owner = a.match_owner,
            match_limit = a.match_limit, per = a.per,
            window_text = a.window_text, enabled = a.enabled,
            updated_at = now(), version = nextval('apikey.version')
        WHERE x.id = a.id
        RETURNING * INTO a;

        DELETE FROM alert_state s
        WHERE s.alert_id = a.id
            AND (NOT a.enabled OR s.threshold <> ALL (a.thresholds)
                 OR (a.match_key, a.match_owner, a.match_limit, a.per,
                     a.window_text) IS DISTINCT FROM (was.match_key,
                     was.match_owner, was.match_limit, was.per,
                     was.window_text));

        PERFORM write_audit(who, req, 'update', 'alert', a.id, before,
            alert_json(a));
    END IF;

    status := 200;
    headers := etag_line(a.version);
    body := alert_json(a);
END
$$;

COMMENT ON FUNCTION api_alert_update(jsonb, jsonb) IS 'PATCH alerts/{id}';


CREATE OR REPLACE FUNCTION end_alert(who jsonb, req jsonb, a alert)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    PERFORM write_audit(who, req, 'delete', 'alert', a.id, alert_json(a),
        NULL);

    UPDATE alert x SET deleted_at = now() WHERE x.id = a.id;
    DELETE FROM alert_state s WHERE s.alert_id = a.id;
END
$$;

COMMENT ON FUNCTION end_alert(jsonb, jsonb, alert) IS
    'Deletes this rule, with what it has fired';


CREATE OR REPLACE FUNCTION api_alert_delete(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    a alert;
BEGIN
    PERFORM allow_change();
    a := find_row(req, a, 'alert', true);
    PERFORM fail_if(check_request(req));
    PERFORM end_alert(who, req, a);

    status := 204;
END
$$;

COMMENT ON FUNCTION api_alert_delete(jsonb, jsonb) IS 'DELETE alerts/{id}';


CREATE OR REPLACE FUNCTION api_alert_list(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE sql
SET search_path = apikey, pg_temp
BEGIN ATOMIC
    SELECT * FROM owned_list(req, 'alert', 'alert_json');
END;

COMMENT ON FUNCTION api_alert_list(jsonb, jsonb) IS 'GET alerts';

GRANT EXECUTE ON FUNCTION alert_json(alert), read_threshold(text, jsonb),
    check_thresholds(text, jsonb), check_alert_match(jsonb, alert),
    check_alert_choice(jsonb, text, text[]),
    check_alert_spend(jsonb, alert), merge_alert(alert, jsonb),
    check_alert(jsonb, alert), end_alert(jsonb, jsonb, alert),
    api_alert_create(jsonb, jsonb), api_alert_get(jsonb, jsonb),
    api_alert_update(jsonb, jsonb), api_alert_delete(jsonb, jsonb),
    api_alert_list(jsonb, jsonb) TO apikey_gateway;
