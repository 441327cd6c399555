--
-- What the admin functions share: the JSON of keys, owners and limits (member
-- order is the API's), failures, query strings, pages, audit.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


-- Failures.  SQLSTATE AKnnn is an answer with that status: MESSAGE is its
-- detail, HINT its code, DETAIL its errors.  api() makes the problem of it.

CREATE OR REPLACE FUNCTION fail(status int, code text, detail text,
    errors jsonb DEFAULT '[]')
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'AK' || status, MESSAGE = detail,
        HINT = code, DETAIL = errors::text;
END
$$;

COMMENT ON FUNCTION fail(int, text, text, jsonb) IS
    'Ends the call with a problem';


CREATE OR REPLACE FUNCTION fail_if(errors jsonb)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    n      int := jsonb_array_length(errors);
    codes  text[];
BEGIN
    IF n = 0 THEN
        RETURN;
    END IF;

    codes := ARRAY(SELECT DISTINCT e ->> 'code'
                   FROM jsonb_array_elements(errors) AS e);

    PERFORM fail(CASE WHEN codes = '{forbidden}' THEN 403 ELSE 400 END,
        CASE WHEN codes IN ('{forbidden}', '{not_supported}') THEN codes[1]
             ELSE 'invalid_request' END,
        CASE WHEN n = 1 THEN '1 member is wrong.'
             ELSE format('%s members are wrong.', n) END, errors);
END
$$;

COMMENT ON FUNCTION fail_if(jsonb) IS
    'Ends the call with 400 when the array of errors is not empty, with 403'
    ' when all that is wrong is forbidden to the caller';


CREATE OR REPLACE FUNCTION allow(VARIADIC callers text[])
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF caller() IS NULL OR caller() <> ALL (callers) THEN
        PERFORM fail(403, 'forbidden', CASE
            WHEN caller() = 'operator_read'
                THEN 'A token with role=read may only GET.'
            WHEN 'owner' = ANY (callers) THEN 'Only an operator or an owner'
                ' (a key with scope apikey:manage) may do this.'
            ELSE 'Only an operator may do this.' END);
    END IF;
END
$$;

COMMENT ON FUNCTION allow(text[]) IS
    'Ends the call with 403 unless apikey.caller is one of these';


CREATE OR REPLACE FUNCTION allow_change()
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    PERFORM allow('operator', 'owner');

    IF caller() = 'owner' AND NOT EXISTS (SELECT FROM owner
        WHERE id = caller_owner() AND enabled)
    THEN
        PERFORM fail(403, 'forbidden', CASE
            WHEN caller_owner() IS NULL
                THEN 'There is no such owner yet: an operator makes it.'
            ELSE 'This owner is disabled.' END);
    END IF;
END
$$;

COMMENT ON FUNCTION allow_change() IS
    'Ends the call with 403 unless an operator, or an owner that exists and is'
    ' enabled, calls';


CREATE OR REPLACE FUNCTION check_request(req jsonb,
    VARIADIC known text[] DEFAULT '{}')
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    errors jsonb := '[]';
BEGIN
    IF req -> 'query' <> '{}' AND req -> 'query' <> 'null' THEN
        errors := (SELECT coalesce(jsonb_agg(CASE WHEN q.key <> ALL (known)
                THEN wrong('query:' || q.key, 'unknown',
                    'there is no such parameter')
                ELSE wrong('query:' || q.key, 'duplicate', 'give it once')
                END -> 0 ORDER BY q.key), '[]')
            FROM jsonb_each(req -> 'query') AS q
            WHERE q.key <> ALL (known) OR jsonb_array_length(q.value) > 1);
    END IF;

    IF req ->> 'method' = 'POST'
        AND char_length(req ->> 'idempotency_key') NOT BETWEEN 1 AND 255
    THEN
        errors := errors || wrong('header:Idempotency-Key', 'bad_length',
            '1 to 255 characters');
    END IF;

    RETURN errors;
END
$$;

COMMENT ON FUNCTION check_request(jsonb, text[]) IS
    'What is wrong outside the body: query string and headers';


CREATE OR REPLACE FUNCTION query_value(req jsonb, name text)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN nullif(req #>> ARRAY['query', name, '0'], '');

COMMENT ON FUNCTION query_value(jsonb, text) IS
    'A parameter of the query string; an empty one is the same as none';


CREATE OR REPLACE FUNCTION check_limit_query(req jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN query_value(req, 'limit') IS NULL THEN jsonb '[]'
    WHEN query_value(req, 'limit') !~ '^-?[0-9]+$'
        THEN wrong('query:limit', 'bad_type', 'a whole number is needed')
    WHEN query_value(req, 'limit') !~ '^0*([1-9][0-9]?|100)$'
        THEN wrong('query:limit', 'out_of_range', '1 to 100')
    ELSE '[]' END;

COMMENT ON FUNCTION check_limit_query(jsonb) IS 'The size of a page';


CREATE OR REPLACE FUNCTION check_flag(req jsonb, name text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN coalesce(query_value(req, name), 'true') IN ('true', 'false')
    THEN jsonb '[]'
    ELSE wrong('query:' || name, 'bad_value', 'true or false') END;

COMMENT ON FUNCTION check_flag(jsonb, text) IS
    'A parameter of the query string that is true or false';


DROP FUNCTION IF EXISTS check_body(jsonb);

CREATE OR REPLACE FUNCTION check_body(req jsonb,
    VARIADIC known text[] DEFAULT '{}')
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF jsonb_typeof(req -> 'body') IS DISTINCT FROM 'object' THEN
        PERFORM fail_if(check_request(req, VARIADIC known) || wrong('', CASE
            WHEN req ->> 'body' IS NULL THEN 'required' ELSE 'bad_type' END,
            'the body must be a JSON object'));
    END IF;
END
$$;

COMMENT ON FUNCTION check_body(jsonb, text[]) IS
    'Ends the call with 400 unless the body is an object; known: parameters of'
    ' the query string';


-- If-Match: nginx's gzip filter makes our ETag weak, so W/ is read over.

CREATE OR REPLACE FUNCTION check_match(req jsonb, version bigint)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    want text := req ->> 'if_match';
BEGIN
    -- what is not there (-1) is not "*" either

    IF want IS NULL OR version >= 0
        AND (btrim(want, E' \t') = '*'
            OR want ~ ('^[ \t,]*(W/)?"[^"]*"'
                       '([ \t]*,([ \t,]*(W/)?"[^"]*")?)*[ \t]*$')
                AND EXISTS (SELECT
                    FROM regexp_matches(want, '"([^"]*)"', 'g') AS m
                    WHERE m[1] = version::text))
    THEN
        RETURN;
    END IF;

    PERFORM fail(412, 'precondition_failed',
        'It was changed meanwhile: read it again.');
END
$$;

COMMENT ON FUNCTION check_match(jsonb, bigint) IS
    'Ends the call with 412 when If-Match names another version';


CREATE OR REPLACE FUNCTION etag_line(version bigint)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN 'ETag: "' || version::text || E'"\n';

COMMENT ON FUNCTION etag_line(bigint) IS 'Header line of an ETag';


-- Pages.  A cursor holds the last row's sort value and id, and a hash of the
-- filters it is good for.

CREATE OR REPLACE FUNCTION filter_hash(req jsonb)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN left(md5(coalesce(req ->> 'fn', '')
    || coalesce((req -> 'query') - '{cursor,limit}'::text[], '{}')::text), 16);

COMMENT ON FUNCTION filter_hash(jsonb) IS
    'What a cursor is bound to: its list, and all of the query but cursor and'
    ' limit';


CREATE OR REPLACE FUNCTION write_cursor(req jsonb, sort_value text, id uuid)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN (SELECT translate(encode(convert_to(row_to_json(c)::text, 'UTF8'),
        'base64'), E'+/=\n', '-_')
    FROM (SELECT 1 AS v, sort_value AS k, id AS i,
              filter_hash(req) AS f) AS c);

COMMENT ON FUNCTION write_cursor(jsonb, text, uuid) IS
    'The cursor of the page after this row';


CREATE OR REPLACE FUNCTION read_cursor(req jsonb)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    t text := translate(query_value(req, 'cursor'), '-_', '+/');
    c jsonb;
BEGIN
    c := convert_from(decode(rpad(t, (char_length(t) + 3) / 4 * 4, '='),
                             'base64'), 'UTF8')::jsonb;

    IF c ->> 'v' = '1' AND c ->> 'f' = filter_hash(req)
        AND jsonb_typeof(c -> 'k') = 'string'
        AND read_uuid(c ->> 'i') IS NOT NULL
    THEN
        RETURN c;
    END IF;

    RETURN NULL;

EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION read_cursor(jsonb) IS
    'The query''s cursor, or null when it is none of these filters';


CREATE OR REPLACE FUNCTION check_cursor(req jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN query_value(req, 'cursor') IS NOT NULL AND read_cursor(req) IS NULL
        THEN wrong('query:cursor', 'bad_value',
            'not a cursor of this list with these filters')
    ELSE jsonb '[]' END;

COMMENT ON FUNCTION check_cursor(jsonb) IS 'The cursor of a page';


-- conds and expr speak of a row as x: what the caller made of checked values.

CREATE OR REPLACE FUNCTION list_page(req jsonb, source regclass, object text,
    conds text, sort text DEFAULT '', expr text DEFAULT NULL,
    kind text DEFAULT 'text')
RETURNS text
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    size   int := coalesce(query_value(req, 'limit'), '50')::int;
    falls  boolean := sort ^@ '-';
    after  jsonb := CASE WHEN query_value(req, 'cursor') IS NOT NULL
                    THEN read_cursor(req) END;
    ids    uuid[];
    sorts  text[];
    data   json;
    more   boolean;
BEGIN
    EXECUTE format('SELECT array_agg(p.id), array_agg(p.k) FROM (SELECT x.id,'
            ' %1$s AS k FROM %2$s AS x WHERE %3$s AND %4$s ORDER BY %5$s'
            ' LIMIT $3 + 1) AS p',
        coalesce('(' || expr || ')::text', quote_literal('')), source, conds,
        CASE WHEN after IS NULL THEN 'true'
            WHEN expr IS NULL THEN format('x.id %s $2',
                CASE WHEN falls THEN '<' ELSE '>' END)
            ELSE format('(%s, x.id) %s ($1::%s, $2)', expr,
                CASE WHEN falls THEN '<' ELSE '>' END, kind) END,
        concat_ws(', ', expr || CASE WHEN falls THEN ' DESC' ELSE ' ASC' END,
            'x.id' || CASE WHEN falls THEN ' DESC' ELSE ' ASC' END))
    INTO ids, sorts
    USING after ->> 'k', (after ->> 'i')::uuid, size;

    EXECUTE format('SELECT array_to_json(array_agg(%I(x) ORDER BY i.n))'
        ' FROM unnest($1) WITH ORDINALITY AS i (id, n)'
        ' JOIN %s AS x ON x.id = i.id', object, source)
    INTO data USING ids[:size];

    more := coalesce(cardinality(ids) > size, false);

    RETURN (SELECT row_to_json(y) FROM (SELECT coalesce(data, '[]') AS data,
        more AS has_more, CASE WHEN more
            THEN write_cursor(req, sorts[size], ids[size]) END
            AS next_cursor) AS y);
END
$$;

COMMENT ON FUNCTION list_page(jsonb, regclass, text, text, text, text, text) IS
    'A page of a list by checked limit and cursor: rows x of this table under'
    ' these conditions, as a function of theirs (object) shows them; sort falls'
    ' with "-", by id or by an expression of this type before it';


CREATE OR REPLACE FUNCTION find_row(req jsonb, kind anyelement, noun text,
    lock boolean)
RETURNS anyelement
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    EXECUTE format('SELECT x.* FROM %s AS x WHERE x.id = $1'
            ' AND x.deleted_at IS NULL%s', pg_typeof(kind),
        CASE WHEN lock THEN ' FOR NO KEY UPDATE' ELSE '' END)
    INTO kind USING read_uuid(req #>> '{path,id}');

    IF kind.id IS NULL THEN
        PERFORM fail(404, 'not_found', format('There is no such %s.', noun));
    END IF;

    IF lock THEN
        PERFORM check_match(req, kind.version);
    END IF;

    RETURN kind;
END
$$;

COMMENT ON FUNCTION find_row(jsonb, anyelement, text, boolean) IS
    'The row of the path, of the table that kind is a row of; lock: for a'
    ' change, after If-Match';


-- What owners have of their own, and operators without one: webhooks, alerts,
-- scheduled exports.

CREATE OR REPLACE FUNCTION owned_list(req jsonb, source regclass, object text,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner');
    PERFORM fail_if(check_request(req, 'owner', 'limit', 'cursor')
        || check_limit_query(req) || check_cursor(req));

    status := 200;
    body := list_page(req, source, object, concat_ws(' AND ',
        'x.deleted_at IS NULL',
        'x.owner_id = (SELECT o.id FROM owner o WHERE o.external = '
            || quote_literal(query_value(req, 'owner')) || ')'));
END
$$;

COMMENT ON FUNCTION owned_list(jsonb, regclass, text) IS
    'GET of a list of them, as this function of a row shows them';


CREATE OR REPLACE FUNCTION owned_get(req jsonb, kind anyelement, noun text,
    object text, OUT status int, OUT headers text, OUT body text,
    OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner');
    kind := find_row(req, kind, noun, false);
    PERFORM fail_if(check_request(req));

    status := 200;
    headers := etag_line(kind.version);
    EXECUTE format('SELECT %I($1)', object) INTO body USING kind;
END
$$;

COMMENT ON FUNCTION owned_get(jsonb, anyelement, text, text) IS
    'GET of one of them, as this function of a row shows it';


-- Objects.

-- signatures of older versions

DROP FUNCTION IF EXISTS owner_json(owner);
DROP FUNCTION IF EXISTS limits_json(uuid, uuid);
DROP FUNCTION IF EXISTS put_limits(uuid, uuid, jsonb);


CREATE OR REPLACE FUNCTION amount_json(n bigint, unit text)
RETURNS json
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN CASE unit WHEN 'cost' THEN to_json(money_text(n))
        ELSE to_json(n) END;
END
$$;

COMMENT ON FUNCTION amount_json(bigint, text) IS
    'An amount of a unit in the API: a number, cost as text';


-- One query for each kind of holder: for "this or that" the planner reads the
-- whole table while it knows little of it.

CREATE OR REPLACE FUNCTION limits_json(holder_key uuid, holder_owner uuid,
    holder_plan uuid DEFAULT NULL)
RETURNS json
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    rules limit_rule[];
BEGIN
    IF holder_key IS NOT NULL THEN
        rules := ARRAY(SELECT l FROM limit_rule l
                       WHERE l.key_id = holder_key);
    ELSIF holder_owner IS NOT NULL THEN
        rules := ARRAY(SELECT l FROM limit_rule l
                       WHERE l.owner_id = holder_owner);
    ELSE
        rules := ARRAY(SELECT l FROM limit_rule l
                       WHERE l.plan_id = holder_plan);
    END IF;

    IF cardinality(rules) = 0 THEN
        RETURN '[]';
    END IF;

    RETURN (SELECT array_to_json(array_agg(row_to_json(x)
            ORDER BY l.position))
        FROM unnest(rules) AS l,
            LATERAL (SELECT l.name, l.unit,
                  amount_json(l."limit", l.unit) AS "limit",
                  l.window_text AS "window",
                  amount_json(l.burst, l.unit) AS burst, l.rolling, l.model,
                  l.service, l.mode) AS x);
END
$$;

COMMENT ON FUNCTION limits_json(uuid, uuid, uuid) IS
    'A key''s, an owner''s or a plan''s own limits, as in the API';


CREATE OR REPLACE FUNCTION key_status(k key)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN CASE
        WHEN (k).revoked_at IS NOT NULL THEN 'revoked'
        WHEN NOT (k).enabled THEN 'disabled'
        WHEN (k).expires_at <= now() THEN 'expired'
        ELSE 'active' END;
END
$$;

COMMENT ON FUNCTION key_status(key) IS
    'active, disabled, expired or revoked, in the data plane''s order';


CREATE OR REPLACE FUNCTION secrets_json(holder uuid)
RETURNS json
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN (SELECT coalesce(array_to_json(array_agg(row_to_json(x)
            ORDER BY x_at DESC, x.id DESC)), '[]')
        FROM (SELECT s.created_at AS x_at, s.id, s.start, s.last4,
                  s.expires_at, s.ended_at, u.last_used_at
              FROM secret s LEFT JOIN secret_usage u ON u.secret_id = s.id
              WHERE s.key_id = holder) AS s,
            LATERAL (SELECT s.id, s.start, s.last4, CASE
                  WHEN s.ended_at IS NOT NULL OR s.expires_at <= now()
                      THEN 'ended'
                  WHEN s.expires_at IS NOT NULL THEN 'grace'
                  ELSE 'current' END AS state,
                  time_text(s.x_at) AS created_at,
                  time_text(s.expires_at) AS expires_at,
                  time_text(s.last_used_at) AS last_used_at) AS x);
END
$$;

COMMENT ON FUNCTION secrets_json(uuid) IS
    'Secrets of a key, newest first; nothing that opens a door';


CREATE OR REPLACE FUNCTION masked_text(start text, last4 text)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN coalesce(start, last4) IS NULL THEN 'imported'
    ELSE coalesce(start, '') || '...' || coalesce(last4, '') END;

COMMENT ON FUNCTION masked_text(text, text) IS
    'What people know a secret by; one imported without a hint is so called';


CREATE OR REPLACE FUNCTION key_json(k key)
RETURNS json
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    secrets json := secrets_json(k.id);
BEGIN
    RETURN (SELECT row_to_json(x) FROM (SELECT
            k.id, k.name,
            (SELECT o.external FROM owner o WHERE o.id = k.owner_id) AS owner,
            k.customer, k.plan, k.prefix,
            secrets #>> '{0,start}' AS start,
            secrets #>> '{0,last4}' AS last4,
            masked_text(secrets #>> '{0,start}', secrets #>> '{0,last4}')
                AS masked,
            key_status(k) AS status, k.enabled, k.scopes, k.allowed_models,
            k.allowed_ips, limits_json(k.id, NULL) AS limits,
            credits_json(k.id, NULL) AS credits, currency() AS currency,
            k.metadata,
            coalesce(u.requests, 0) AS usage_count,
            time_text(u.last_used_at) AS last_used_at,
            time_text(k.created_at) AS created_at,
            time_text(k.updated_at) AS updated_at,
            time_text(k.expires_at) AS expires_at,
            time_text(k.revoked_at) AS revoked_at,
            secrets
        FROM (VALUES (1)) AS one
            LEFT JOIN key_usage u ON u.key_id = k.id) AS x);
END
$$;

COMMENT ON FUNCTION key_json(key) IS 'The key object, without "key"';


-- C puts the key where the placeholder stands, right after the id.

CREATE OR REPLACE FUNCTION with_secret(object json)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN overlay(object::text PLACING ',"key":"@SECRET@"'
    FROM char_length('{"id":"01a1fd9a-9a4b-7a52-9d3b-5a0c4e1f2b60"') + 1
    FOR 0);

COMMENT ON FUNCTION with_secret(json) IS
    'The key object of create and rotate, with a place for the new key';


CREATE OR REPLACE FUNCTION owner_json(o owner)
RETURNS json
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN (SELECT row_to_json(x) FROM (SELECT (o).external AS id, (o).name,
            (o).enabled, (o).plan, (o).plan_next,
            limits_json(NULL, (o).id) AS limits,
            credits_json(NULL, (o).id) AS credits,
            (o).time_zone, (o).anchor_day, (o).metadata,
            time_text((o).created_at) AS created_at,
            time_text((o).updated_at) AS updated_at) AS x);
END
$$;

COMMENT ON FUNCTION owner_json(owner) IS 'The owner object';


-- Writes.

CREATE OR REPLACE FUNCTION read_limits(limits jsonb)
RETURNS TABLE ("position" bigint, name text, unit text, "limit" bigint,
    window_text text, window_us bigint, burst bigint, rolling boolean,
    model text, service text, mode text)
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT x.position, x.v ->> 'name', x.unit, x.amount, x.v ->> 'window',
        x.us, CASE x.kind WHEN 'bucket' THEN
            coalesce(read_amount(x.v ->> 'burst', x.unit), x.amount) END,
        CASE WHEN x.us IS NOT NULL THEN x.kind = 'rolling' END,
        x.v ->> 'model', x.v ->> 'service',
        CASE WHEN x.unit IN ('tokens', 'cost')
            THEN coalesce(x.v ->> 'mode', 'strict') END
    FROM (SELECT e.v, e.position, e.v ->> 'unit' AS unit,
              read_amount(e.v ->> 'limit', e.v ->> 'unit') AS amount,
              read_duration(e.v ->> 'window')::bigint AS us,
              limit_kind(e.v ->> 'unit', e.v ->> 'window',
                  coalesce((e.v ->> 'rolling')::boolean, false)) AS kind
          FROM jsonb_array_elements(CASE jsonb_typeof(limits)
              WHEN 'array' THEN limits ELSE '[]' END)
              WITH ORDINALITY AS e (v, position)) AS x;
END;

COMMENT ON FUNCTION read_limits(jsonb) IS
    'Checked limits as rows, with what was left out';


CREATE OR REPLACE FUNCTION put_limits(holder_key uuid, holder_owner uuid,
    limits jsonb, holder_plan uuid DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    old limit_rule[];
BEGIN
    IF holder_key IS NOT NULL THEN
        old := ARRAY(SELECT l FROM limit_rule l WHERE l.key_id = holder_key);

        IF old <> '{}' THEN          -- a new key has none
            DELETE FROM limit_rule l WHERE l.key_id = holder_key;
        END IF;
    ELSIF holder_owner IS NOT NULL THEN
        old := ARRAY(SELECT l FROM limit_rule l
                     WHERE l.owner_id = holder_owner);
        DELETE FROM limit_rule l WHERE l.owner_id = holder_owner;
    ELSE
        old := ARRAY(SELECT l FROM limit_rule l
                     WHERE l.plan_id = holder_plan);
        DELETE FROM limit_rule l WHERE l.plan_id = holder_plan;
    END IF;

    INSERT INTO limit_rule (key_id, owner_id, plan_id, position, name, unit,
        "limit", window_text, window_us, burst, rolling, model, service, mode,
        token, refill, capacity, tick, made)
    SELECT holder_key, holder_owner, holder_plan, n.position - 1, n.name,
        n.unit, n."limit", n.window_text, n.window_us, n.burst, n.rolling,
        n.model, n.service, n.mode, r.token, r.refill, r.capacity, r.tick,
        CASE WHEN o.name IS NULL THEN now() ELSE o.made END
    FROM read_limits(limits) AS n
        LEFT JOIN LATERAL rate_form(n."limit", n.window_us, n.burst) AS r
            ON n.burst IS NOT NULL
        LEFT JOIN unnest(old) AS o
            ON o.name = n.name AND o.unit = n.unit
                AND o.service IS NOT DISTINCT FROM n.service
                AND o.model IS NOT DISTINCT FROM n.model;
END
$$;

COMMENT ON FUNCTION put_limits(uuid, uuid, jsonb, uuid) IS
    'Replaces all limits of a key, an owner or a plan by these, checked'
    ' before';


CREATE OR REPLACE FUNCTION audit_owner(before json, after json)
RETURNS uuid
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN (SELECT o.id FROM owner o
    WHERE o.external = coalesce(after, before) ->> 'owner');

COMMENT ON FUNCTION audit_owner(json, json) IS
    'Whose an object is that says its owner';


-- api() knows an error in here by the function's name: no entry, no change.

CREATE OR REPLACE FUNCTION write_audit(who jsonb, req jsonb, action text,
    object_kind text, object_id uuid, before json, after json)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    INSERT INTO audit (actor, actor_kind, address, action, object_kind,
        object_id, owner_id, before, after, request_id)
    VALUES (coalesce(CASE WHEN who ->> 'kind' IN ('owner', 'key')
            THEN coalesce(who ->> 'key', who ->> 'external')
            ELSE who ->> 'name' END, ''),
        who ->> 'kind', who ->> 'address', action, object_kind, object_id,
        CASE object_kind WHEN 'owner' THEN object_id
            WHEN 'key' THEN (SELECT k.owner_id FROM key k
                             WHERE k.id = object_id)
            WHEN 'alert' THEN audit_owner(before, after)
            WHEN 'schedule' THEN audit_owner(before, after)
            WHEN 'webhook' THEN audit_owner(before, after) END,
        before::jsonb, after::jsonb, read_uuid(req ->> 'request_id'));
END
$$;

COMMENT ON FUNCTION write_audit(jsonb, jsonb, text, text, uuid, json, json) IS
    'The audit entry of a change';

GRANT EXECUTE ON FUNCTION fail(int, text, text, jsonb), fail_if(jsonb),
    allow(text[]), allow_change(), check_request(jsonb, text[]),
    query_value(jsonb, text), check_limit_query(jsonb),
    check_flag(jsonb, text), check_body(jsonb, text[]),
    check_match(jsonb, bigint), etag_line(bigint), filter_hash(jsonb), write_cursor(jsonb, text, uuid),
    read_cursor(jsonb), check_cursor(jsonb),
    list_page(jsonb, regclass, text, text, text, text, text),
    find_row(jsonb, anyelement, text, boolean),
    owned_list(jsonb, regclass, text),
    owned_get(jsonb, anyelement, text, text), limits_json(uuid, uuid, uuid),
    key_status(key), masked_text(text, text), secrets_json(uuid),
    key_json(key), with_secret(json),
    owner_json(owner), put_limits(uuid, uuid, jsonb, uuid),
    amount_json(bigint, text), read_limits(jsonb), audit_owner(json, json),
    write_audit(jsonb, jsonb, text, text, uuid, json, json)
    TO apikey_gateway;
