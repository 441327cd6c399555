--
-- POST import/usage: rows of export/usage, or of what writes the same columns,
-- become usage.  A row is counted once, however often it comes: one of a
-- request by its id, any other by all it says and how many the same stand
-- before it in its import.
--

SET LOCAL client_min_messages = warning;
SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE TABLE IF NOT EXISTS usage_import (
    id     uuid         PRIMARY KEY,
    n      int          NOT NULL DEFAULT 1,
    at     timestamptz  NOT NULL DEFAULT now()
);

COMMENT ON TABLE usage_import IS 'Rows of usage that were imported';
COMMENT ON COLUMN usage_import.id IS
    'The request''s id, or made of all that the row says';
COMMENT ON COLUMN usage_import.n IS 'How many the same';


CREATE TABLE IF NOT EXISTS usage_import_part (
    import  uuid         NOT NULL,
    id      uuid         NOT NULL,
    n       int          NOT NULL DEFAULT 1,
    at      timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (import, id)
);

COMMENT ON TABLE usage_import_part IS
    'How often an import that is under way has had a row; kept for a day';
COMMENT ON COLUMN usage_import_part.import IS 'The request_id of the call';

CREATE INDEX IF NOT EXISTS usage_import_part_at ON usage_import_part (at);

DO $$
DECLARE
    t  text;
BEGIN
    FOREACH t IN ARRAY ARRAY['usage_import', 'usage_import_part']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('DROP POLICY IF EXISTS node_all ON %I', t);
        EXECUTE format('CREATE POLICY node_all ON %I TO apikey_gateway'
            ' USING ((SELECT caller()) = ''node'')', t);
    END LOOP;
END
$$;

GRANT SELECT, INSERT, UPDATE ON usage_import TO apikey_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON usage_import_part TO apikey_gateway;


CREATE OR REPLACE FUNCTION csv_unguard(value text)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN value ~ '^''+[=+@\t\r\n-]' THEN substr(value, 2)
    ELSE value END;

COMMENT ON FUNCTION csv_unguard(text) IS 'The text behind csv_guard()';


-- What a member must be; any may be absent or null but the date.

CREATE OR REPLACE FUNCTION usage_members(OUT name text, OUT pattern text,
    OUT message text)
RETURNS SETOF record
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT m.name, k.pattern, k.message
    FROM (VALUES ('date', 'time'), ('endpoint', 'long'),
        ('requests', 'count'), ('tokens', 'count'), ('cost', 'money'),
        ('model', 'text'), ('status', 'status'), ('request_id', 'id'),
        ('key', 'id'), ('owner', 'text'), ('customer', 'text'),
        ('service', 'text'), ('method', 'text'), ('status_code', 'code'),
        ('verdict', 'verdict'), ('limit_name', 'text'),
        ('tokens_input', 'count'), ('tokens_output', 'count'),
        ('tokens_cached', 'count'), ('tokens_reasoning', 'count'),
        ('usage_source', 'source'), ('price_version', 'count'),
        ('bytes_in', 'count'), ('bytes_out', 'count'),
        ('duration_ms', 'count'), ('session', 'text'), ('node', 'text'))
            AS m (name, kind)
        JOIN (VALUES
        ('time', '', 'a time such as 2026-11-20T10:00:00Z'),
        ('text', '^[^\u0001-\u001f\u007f]{0,255}$',
            'text of at most 255 characters'),
        ('long', '', 'text of at most 4096 characters'),
        ('count', '^(0|[1-9][0-9]{0,14})$', 'a whole number up to 10^15'),
        ('money', '^(0|[1-9][0-9]{0,8})([.][0-9]{1,9})?$',
            'money as text, such as "0.001"'),
        ('status', '^(success|error)$', 'success or error'),
        ('id', '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$', 'a UUID'),
        ('code', '^(0|[1-9][0-9]{2})$', 'a status of HTTP'),
        ('verdict', '^[a-z_]{1,64}$', 'a verdict'),
        ('source', '^(provider|header|estimate|none)$',
            'provider, header, estimate or none'))
            AS k (kind, pattern, message) ON k.kind = m.kind;
END;

COMMENT ON FUNCTION usage_members() IS
    'The members of a row of usage, as export/usage has them';


CREATE OR REPLACE FUNCTION check_usage_row(v jsonb)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN (SELECT coalesce(jsonb_agg(e.error -> 0), '[]')
    FROM (SELECT CASE
            WHEN m.name IS NULL THEN wrong('/' || pointer_text(x.key),
                'unknown', 'a row of usage has no such member')
            WHEN jsonb_typeof(x.value) NOT IN ('string', 'number')
                THEN wrong('/' || m.name, 'bad_type', m.message)
            WHEN m.name = 'cost' AND jsonb_typeof(x.value) = 'number'
                THEN wrong('/cost', 'bad_type', m.message)
            WHEN m.name = 'date' AND read_time(x.value #>> '{}') IS NULL
                OR x.value #>> '{}' !~ m.pattern
                THEN wrong('/' || m.name, 'bad_value', m.message)
            WHEN char_length(x.value #>> '{}') > 4096
                THEN wrong('/' || m.name, 'bad_length', m.message)
            WHEN m.name = 'date'
                AND read_time(x.value #>> '{}') > now() + interval '1 hour'
                THEN wrong('/date', 'out_of_range', 'this is still to come')
            END AS error
        FROM jsonb_each(v) AS x LEFT JOIN usage_members() AS m
            ON m.name = x.key
        WHERE x.value <> 'null'
        UNION ALL
        SELECT wrong('/date', 'required', 'say when it was')
        WHERE v ->> 'date' IS NULL) AS e
    WHERE e.error IS NOT NULL);
END
$$;

COMMENT ON FUNCTION check_usage_row(jsonb) IS 'What is wrong with a row';


CREATE OR REPLACE FUNCTION raw_begin()
RETURNS timestamptz
LANGUAGE sql STABLE
RETURN date_trunc('day', now(), 'UTC') - raw_days() * interval '1 day';

COMMENT ON FUNCTION raw_begin() IS 'Raw events are kept from then on';


-- Counted here already.  A request has its event, while events are kept; then,
-- and of sums always, a quarter of an hour that a node of that name has shipped
-- holds all that it counted of this kind.

CREATE OR REPLACE FUNCTION usage_known(v jsonb, at timestamptz, from_ uuid)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    one  uuid := (v ->> 'request_id')::uuid;
BEGIN
    IF one IS NOT NULL AND EXISTS (SELECT FROM usage_request e
        WHERE e.event = one)
    THEN
        RETURN true;
    END IF;

    RETURN v ->> 'node' IS NOT NULL AND (one IS NULL OR at < raw_begin())
        AND EXISTS (SELECT FROM usage_node n
            JOIN usage_quarter q ON q.node = n.node
        WHERE n.name = v ->> 'node' AND n.node <> from_
            AND q.start = date_bin('15 minutes', at,
                timestamptz '1970-01-01 00:00:00+00')
            AND q.key_id = coalesce((v ->> 'key')::uuid,
                '00000000-0000-0000-0000-000000000000')
            AND q.service = coalesce(v ->> 'service', '')
            AND q.endpoint = coalesce(v ->> 'endpoint', '')
            AND q.model = coalesce(v ->> 'model', '')
            AND q.status_code = coalesce((v ->> 'status_code')::int, 0)
            AND q.verdict = coalesce(v ->> 'verdict', 'ok'));
END
$$;

COMMENT ON FUNCTION usage_known(jsonb, timestamptz, uuid) IS
    'Whether this row of a request or a node is counted already';


-- True: it is new, and from now on it is known.

CREATE OR REPLACE FUNCTION usage_import_new(v jsonb, at timestamptz,
    a_import uuid, from_ uuid)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    one   uuid := (v ->> 'request_id')::uuid;
    same  int;
BEGIN
    IF usage_known(v, at, from_) THEN
        RETURN false;
    END IF;

    IF one IS NOT NULL THEN
        INSERT INTO usage_import (id) VALUES (one) ON CONFLICT DO NOTHING;
        RETURN FOUND;
    END IF;

    one := md5(jsonb_strip_nulls(v)::text)::uuid;

    INSERT INTO usage_import_part AS p (import, id) VALUES (a_import, one)
    ON CONFLICT (import, id) DO UPDATE SET n = p.n + 1
    RETURNING n INTO same;

    INSERT INTO usage_import AS i (id, n) VALUES (one, same)
    ON CONFLICT (id) DO UPDATE SET n = excluded.n WHERE i.n < excluded.n;

    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION usage_import_new(jsonb, timestamptz, uuid, uuid) IS
    'Whether a row counts; notes that it does';


-- As usage_apply() would have.  Imported usage stands under nodes of its own,
-- which have the names of those that it came from.

CREATE OR REPLACE FUNCTION usage_import_put(v jsonb, at timestamptz,
    from_ uuid)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    n        bigint := coalesce((v ->> 'requests')::bigint, 1);
    state    int := coalesce((v ->> 'status_code')::int, 0);
    came     text := CASE WHEN n = 0 THEN 'refused'
        WHEN coalesce(v ->> 'status', 'success') = 'success' THEN 'success'
        WHEN state BETWEEN 1 AND 399 OR state = 499 THEN 'aborted'
        ELSE 'error' END;
    said     text := coalesce(v ->> 'verdict', 'ok');
    t_in     bigint := coalesce((v ->> 'tokens_input')::bigint,
        (v ->> 'tokens')::bigint - coalesce((v ->> 'tokens_output')::bigint,
            0), 0);
    t_out    bigint := coalesce((v ->> 'tokens_output')::bigint, 0);
    cached   bigint := coalesce((v ->> 'tokens_cached')::bigint, 0);
    thought  bigint := coalesce((v ->> 'tokens_reasoning')::bigint, 0);
    nano     bigint := (v ->> 'cost')::numeric * 1000000000;
    b_in     bigint := coalesce((v ->> 'bytes_in')::bigint, 0);
    b_out    bigint := coalesce((v ->> 'bytes_out')::bigint, 0);
    us       bigint := coalesce((v ->> 'duration_ms')::bigint, 0) * 1000;
    failed   bigint := CASE WHEN n > 0 AND (state >= 400
            OR state = 0 AND came = 'error') THEN n ELSE 0 END;
BEGIN
    INSERT INTO usage_quarter AS q VALUES (date_bin('15 minutes', at,
            timestamptz '1970-01-01 00:00:00+00'), from_,
        coalesce((v ->> 'key')::uuid, '00000000-0000-0000-0000-000000000000'),
        coalesce(v ->> 'owner', ''), coalesce(v ->> 'customer', ''),
        coalesce(v ->> 'service', ''), coalesce(v ->> 'endpoint', ''),
        coalesce(v ->> 'model', ''), came, state, said,
        coalesce(v ->> 'limit_name', ''), n, (n = 0)::int, failed, t_in,
        t_out, cached, thought, coalesce(nano, 0),
        CASE WHEN nano IS NULL THEN n ELSE 0 END, b_in, b_out, us, n)
    ON CONFLICT (start, node, key_id, owner, customer, service, endpoint,
        model, outcome, status_code, verdict, limit_name) DO UPDATE
    SET requests = q.requests + excluded.requests,
        refused = q.refused + excluded.refused,
        errors = q.errors + excluded.errors,
        tokens_input = q.tokens_input + excluded.tokens_input,
        tokens_output = q.tokens_output + excluded.tokens_output,
        tokens_cached = q.tokens_cached + excluded.tokens_cached,
        tokens_reasoning = q.tokens_reasoning + excluded.tokens_reasoning,
        cost = q.cost + excluded.cost,
        unpriced = q.unpriced + excluded.unpriced,
        bytes_in = q.bytes_in + excluded.bytes_in,
        bytes_out = q.bytes_out + excluded.bytes_out,
        duration_us = q.duration_us + excluded.duration_us,
        units = q.units + excluded.units;

    IF v ->> 'key' IS NOT NULL THEN
        INSERT INTO key_usage AS k VALUES ((v ->> 'key')::uuid, n,
            (n = 0)::int, failed, t_in + t_out, coalesce(nano, 0),
            CASE WHEN n > 0 THEN at END)
        ON CONFLICT (key_id) DO UPDATE
        SET requests = k.requests + excluded.requests,
            refused = k.refused + excluded.refused,
            errors = k.errors + excluded.errors,
            tokens = k.tokens + excluded.tokens,
            cost = k.cost + excluded.cost,
            last_used_at = greatest(k.last_used_at, excluded.last_used_at);
    END IF;

    IF v ->> 'request_id' IS NOT NULL AND n <= 1 AND at >= raw_begin() THEN
        INSERT INTO usage_event (time, event, node, key_id, owner, customer,
            session, service, endpoint, method, status_code, outcome, verdict,
            mode, limit_name, model, tokens_input, tokens_output,
            tokens_cached, tokens_reasoning, usage_source, cost,
            price_version, bytes_in, bytes_out, duration_us, upstream_us)
        VALUES (at, (v ->> 'request_id')::uuid, from_, (v ->> 'key')::uuid,
            v ->> 'owner', v ->> 'customer', v ->> 'session',
            coalesce(v ->> 'service', ''), coalesce(v ->> 'endpoint', ''),
            coalesce(v ->> 'method', ''), state, came, said, 'none',
            v ->> 'limit_name', v ->> 'model', t_in, t_out, cached, thought,
            coalesce(v ->> 'usage_source', 'none'), nano,
            (v ->> 'price_version')::bigint, b_in, b_out, us, 0);
    END IF;
END
$$;

COMMENT ON FUNCTION usage_import_put(jsonb, timestamptz, uuid) IS
    'Counts a checked row';


CREATE OR REPLACE FUNCTION usage_import_row(req jsonb, item jsonb,
    OUT result text, OUT errors jsonb)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    v     jsonb;
    at    timestamptz;
    from_ uuid;
BEGIN
    result := 'failed';
    errors := item -> 'error';

    IF errors IS NOT NULL THEN
        errors := jsonb_build_array(errors);
        RETURN;
    END IF;

    v := (item ->> 'json')::jsonb;

    IF req ->> 'content_type' ~* '^text/csv' THEN
        v := (SELECT jsonb_object_agg(x.key, csv_unguard(x.value))
              FROM jsonb_each_text(v) AS x);
    END IF;

    errors := check_usage_row(v);

    IF errors <> '[]' THEN
        RETURN;
    END IF;

    -- whose it is, where the rows do not say

    v := jsonb_strip_nulls(jsonb_build_object('key', query_value(req, 'key'),
        'owner', query_value(req, 'owner'))) || jsonb_strip_nulls(v);
    at := read_time(v ->> 'date');
    from_ := md5('apikey import ' || coalesce(v ->> 'node', ''))::uuid;

    -- how many were refused stands in no sum

    IF v ->> 'requests' = '0' AND v ->> 'request_id' IS NULL
        OR NOT usage_import_new(v, at, (req ->> 'request_id')::uuid, from_)
    THEN
        result := 'unchanged';
        RETURN;
    END IF;

    INSERT INTO usage_node (node, name, as_of, seen_at)
    VALUES (from_, coalesce(v ->> 'node', 'import'), 'epoch', 'epoch')
    ON CONFLICT DO NOTHING;

    PERFORM usage_import_put(v, at, from_);
    result := 'created';

EXCEPTION
    WHEN untranslatable_character THEN
        result := 'failed';
        errors := wrong('', 'bad_value', 'the row holds NUL');
END
$$;

COMMENT ON FUNCTION usage_import_row(jsonb, jsonb) IS
    'One row and what became of it';


-- Only rows that failed stand in results.

CREATE OR REPLACE FUNCTION usage_import_rows(req jsonb, OUT body text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    was        text := current_setting('apikey.caller');
    item       jsonb;
    one        record;
    results    text[] := '{}';
    created    int := 0;
    unchanged  int := 0;
    failed     int := 0;
BEGIN
    PERFORM set_config('apikey.caller', 'node', true);

    DELETE FROM usage_import_part p WHERE p.at < now() - interval '1 day';

    FOR item IN SELECT jsonb_array_elements(req -> 'body')
    LOOP
        one := usage_import_row(req, item);

        created := created + (one.result = 'created')::int;
        unchanged := unchanged + (one.result = 'unchanged')::int;
        failed := failed + (one.result = 'failed')::int;

        CONTINUE WHEN one.result <> 'failed';

        results := results || format('{"row":%s,"result":"failed","id":null,'
            '"errors":%s}', item -> 'row', (SELECT array_to_json(array_agg(
                row_to_json(e) ORDER BY n))
            FROM jsonb_array_elements(one.errors) WITH ORDINALITY AS y (x, n),
                LATERAL (SELECT x ->> 'location' AS location,
                    x ->> 'code' AS code, x ->> 'message' AS message) AS e));
    END LOOP;

    PERFORM set_config('apikey.caller', was, true);

    body := format('{"dry_run":%s,"created":%s,"unchanged":%s,"failed":%s,'
        '"results":[%s]}', to_json(query_value(req, 'dry_run')
            IS NOT DISTINCT FROM 'true'), created, unchanged, failed,
        array_to_string(results, ','));
END
$$;

COMMENT ON FUNCTION usage_import_rows(jsonb) IS 'The rows of a batch';


CREATE OR REPLACE FUNCTION api_usage_import(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    PERFORM allow('operator');
    PERFORM fail_if(check_request(req, 'dry_run', 'key', 'owner')
        || check_flag(req, 'dry_run'));
    PERFORM usage_subject(req);

    IF jsonb_typeof(req -> 'body') IS DISTINCT FROM 'array' THEN
        PERFORM fail_if(wrong('', 'bad_type', 'the body must be an array'));
    END IF;

    BEGIN
        body := usage_import_rows(req);

        IF query_value(req, 'dry_run') = 'true' THEN
            RAISE EXCEPTION USING ERRCODE = 'AKDRY';
        END IF;

    EXCEPTION WHEN SQLSTATE 'AKDRY' THEN
        NULL;
    END;

    status := 200;
END
$$;

COMMENT ON FUNCTION api_usage_import(jsonb, jsonb) IS
    'POST import/usage, one batch of its rows';

GRANT EXECUTE ON FUNCTION csv_unguard(text), usage_members(), raw_days(),
    raw_begin(),
    check_usage_row(jsonb), usage_known(jsonb, timestamptz, uuid),
    usage_import_new(jsonb, timestamptz, uuid, uuid),
    usage_import_put(jsonb, timestamptz, uuid),
    usage_import_row(jsonb, jsonb), usage_import_rows(jsonb),
    api_usage_import(jsonb, jsonb) TO apikey_gateway;
