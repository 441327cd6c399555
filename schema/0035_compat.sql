--
-- Older clients (apikey_admin compat).  Their words are translated into ours
-- before the functions of the API, and ours into theirs behind them; the
-- functions know nothing of it.  What is wrong with a translated member is
-- told by the name that the client wrote.  docs/compat.md is for users.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


-- A translation on its way: the body, what its parts were called (location to
-- location), and what is wrong already.

DO $$
BEGIN
    CREATE TYPE compat AS (body jsonb, names jsonb, errors jsonb);
EXCEPTION WHEN duplicate_object THEN
    NULL;
END
$$;

COMMENT ON TYPE compat IS 'An older client''s body on its way to ours';


CREATE OR REPLACE FUNCTION compat_rename(c compat, theirs text, ours text)
RETURNS compat
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    value jsonb := c.body -> theirs;
BEGIN
    IF value IS NULL THEN
        RETURN c;
    END IF;

    IF c.body ? ours AND c.body -> ours <> value THEN
        c.errors := c.errors || wrong('/' || theirs, 'duplicate', format(
            '"%s" says otherwise', coalesce(ltrim(c.names ->> ('/' || ours),
                '/'), ours)));
    END IF;

    IF NOT c.body ? ours THEN
        c.names := c.names || jsonb_build_object('/' || ours, '/' || theirs);
    END IF;

    c.body := (c.body || jsonb_build_object(ours, value)) - theirs;

    RETURN c;
END
$$;

COMMENT ON FUNCTION compat_rename(compat, text, text) IS
    'A member that only has another name';


-- One limit by a member of its own.  The others stay: those of the body, or
-- those that the key has.

CREATE OR REPLACE FUNCTION compat_limit(c compat, theirs text, unit text,
    length text, had jsonb)
RETURNS compat
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    value   jsonb := c.body -> theirs;
    limits  jsonb := c.body -> 'limits';
BEGIN
    IF value IS NULL THEN
        RETURN c;
    END IF;

    c.body := c.body - theirs;

    IF limits IS NULL THEN
        limits := (SELECT coalesce(jsonb_agg(l ORDER BY n), '[]')
            FROM jsonb_array_elements(had) WITH ORDINALITY AS x (l, n)
            WHERE l ->> 'name' <> theirs);

    ELSIF jsonb_typeof(limits) = 'null' THEN
        limits := '[]';

    ELSIF jsonb_typeof(limits) <> 'array' THEN
        RETURN c;
    END IF;

    IF value <> 'null' THEN
        c.names := c.names || jsonb_build_object(
            '/limits/' || jsonb_array_length(limits), '/' || theirs);

        limits := limits || jsonb_build_object('name', theirs, 'unit', unit,
            'window', length, 'limit', CASE
                WHEN unit = 'cost' AND jsonb_typeof(value) = 'number'
                    THEN to_jsonb(value #>> '{}')
                ELSE value END);
    END IF;

    c.body := c.body || jsonb_build_object('limits', limits);

    RETURN c;
END
$$;

COMMENT ON FUNCTION compat_limit(compat, text, text, text, jsonb) IS
    'A member that is the limit of its name; had: the limits of the key';


-- workflow_id is the scope workflow:ID, without it workflow:*.  A key that is
-- made with scopes and no word of a workflow is no older client's.

CREATE OR REPLACE FUNCTION compat_workflow(c compat, creating boolean,
    had text[])
RETURNS compat
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    value  jsonb := c.body -> 'workflow_id';
    own    record := own_rights();
    held   jsonb := c.body -> 'scopes';
    wrong  jsonb := check_text(value, '/workflow_id', 119, NULL);
    scope  text;
BEGIN
    IF value IS NULL AND (NOT creating OR held IS NOT NULL
        OR NOT holds_scope(own.scopes, 'workflow:*'))
    THEN
        RETURN c;
    END IF;

    c.body := c.body - 'workflow_id';
    c.errors := c.errors || wrong;
    held := CASE WHEN held = 'null' THEN '[]' ELSE held END;

    IF wrong <> '[]' OR jsonb_typeof(held) <> 'array' THEN
        RETURN c;
    END IF;

    scope := 'workflow:' || coalesce(value #>> '{}', '*');

    IF held IS NULL THEN
        held := CASE WHEN creating
            THEN coalesce(plan_defaults(c.body) -> 'scopes', '[]')
            ELSE to_jsonb(had) END;
    END IF;

    held := (SELECT coalesce(jsonb_agg(s ORDER BY n), '[]')
        FROM jsonb_array_elements(held) WITH ORDINALITY AS x (s, n)
        WHERE NOT coalesce(s #>> '{}', '') ^@ 'workflow:');

    c.names := c.names || jsonb_build_object(
        '/scopes/' || jsonb_array_length(held), '/workflow_id');
    c.body := c.body || jsonb_build_object('scopes',
        held || to_jsonb(scope));

    RETURN c;
END
$$;

COMMENT ON FUNCTION compat_workflow(compat, boolean, text[]) IS
    'The scope that workflow_id is; had: the scopes of the key';


CREATE OR REPLACE FUNCTION compat_request(fn text, req jsonb)
RETURNS compat
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    c    compat := ROW(req -> 'body', '{}', '[]');
    k    key;
    had  jsonb := '[]';
BEGIN
    IF fn NOT IN ('key_create', 'key_update')
        OR jsonb_typeof(c.body) IS DISTINCT FROM 'object'
    THEN
        RETURN c;
    END IF;

    -- locked, for what is kept of it is written again

    IF fn = 'key_update' THEN
        k := find_key(req);
        PERFORM share_plans(c.body);
        SELECT * INTO k FROM key WHERE id = k.id FOR UPDATE;
        had := limits_json(k.id, NULL);
    END IF;

    c := compat_rename(c, 'active', 'enabled');
    c := compat_rename(c, 'is_active', 'enabled');
    c := compat_rename(c, 'user_id', 'owner');
    c := compat_rename(c, 'customer_id', 'customer');
    c := compat_limit(c, 'rate_limit', 'requests', '1h', had);
    c := compat_limit(c, 'cost_limit', 'cost', 'month', had);

    RETURN compat_workflow(c, fn = 'key_create', k.scopes);
END
$$;

COMMENT ON FUNCTION compat_request(text, jsonb) IS
    'The body of a request as our function takes it';


CREATE OR REPLACE FUNCTION compat_errors(errors jsonb, names jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN (SELECT coalesce(jsonb_agg(CASE WHEN n.theirs IS NULL THEN e
        ELSE e || jsonb_build_object('location', n.theirs) END ORDER BY i),
        '[]')
    FROM jsonb_array_elements(errors) WITH ORDINALITY AS x (e, i)
        LEFT JOIN LATERAL (SELECT t.value AS theirs
            FROM jsonb_each_text(names) AS t
            WHERE e ->> 'location' = t.key
                OR e ->> 'location' ^@ (t.key || '/')
            ORDER BY length(t.key) DESC LIMIT 1) AS n ON true);

COMMENT ON FUNCTION compat_errors(jsonb, jsonb) IS
    'What is wrong, by the names that the client wrote';


CREATE OR REPLACE FUNCTION compat_key(object json)
RETURNS json
LANGUAGE sql IMMUTABLE
RETURN (SELECT left(object::text, -1) || ',' || substr(row_to_json(x)::text, 2)
    FROM (SELECT object -> 'enabled' AS active,
        object -> 'enabled' AS is_active,
        (SELECT l -> 'limit' FROM json_array_elements(object -> 'limits') AS l
         WHERE l ->> 'name' = 'rate_limit' AND l ->> 'unit' = 'requests'
             AND l ->> 'window' = '1h') AS rate_limit,
        (SELECT l -> 'limit' FROM json_array_elements(object -> 'limits') AS l
         WHERE l ->> 'name' = 'cost_limit' AND l ->> 'unit' = 'cost'
             AND l ->> 'window' = 'month') AS cost_limit,
        (SELECT CASE WHEN count(*) = 1
                THEN nullif(min(substr(s, 10)), '*') END
         FROM json_array_elements_text(object -> 'scopes') AS s
         WHERE s ^@ 'workflow:') AS workflow_id,
        object -> 'owner' AS user_id,
        object -> 'customer' AS customer_id) AS x)::json;

COMMENT ON FUNCTION compat_key(json) IS
    'The key object with the older members behind';


CREATE OR REPLACE FUNCTION compat_answer(fn text, body text)
RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    page json;
BEGIN
    IF fn IN ('key_create', 'key_get', 'key_update', 'key_rotate') THEN
        RETURN compat_key(body::json);
    ELSIF fn <> 'key_list' THEN
        RETURN body;
    END IF;

    page := body::json;

    RETURN (SELECT row_to_json(x) FROM (SELECT
        (SELECT coalesce(array_to_json(array_agg(compat_key(k) ORDER BY n)),
                '[]')
         FROM json_array_elements(page -> 'data') WITH ORDINALITY AS d (k, n))
            AS data,
        page -> 'has_more' AS has_more,
        page -> 'next_cursor' AS next_cursor) AS x);
END
$$;

COMMENT ON FUNCTION compat_answer(text, text) IS
    'An answer of our function as an older client takes it';


CREATE OR REPLACE FUNCTION compat_call(fn text, who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    c        compat := compat_request(fn, req);
    message  text;
    errors   text;
    code     text;
BEGIN
    BEGIN
        EXECUTE format('SELECT * FROM %I($1, $2)', 'api_' || fn)
        INTO status, headers, body, refresh
        USING who, req || jsonb_build_object('body', c.body);

    EXCEPTION WHEN SQLSTATE 'AK400' OR SQLSTATE 'AK403' THEN
        GET STACKED DIAGNOSTICS message = MESSAGE_TEXT,
            errors = PG_EXCEPTION_DETAIL, code = PG_EXCEPTION_HINT;

        IF errors = '[]' THEN
            PERFORM fail(substr(SQLSTATE, 3)::int, code, message);
        END IF;

        PERFORM fail_if(c.errors || compat_errors(errors::jsonb, c.names));
    END;

    PERFORM fail_if(c.errors);

    IF status BETWEEN 200 AND 299 AND body <> '' THEN
        body := compat_answer(fn, body);
    END IF;
END
$$;

COMMENT ON FUNCTION compat_call(text, jsonb, jsonb) IS
    'Calls api_<fn> for an older client';


CREATE OR REPLACE FUNCTION compat_problem(code text, detail text, errors json)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN (SELECT row_to_json(x) FROM (SELECT false AS success, (
    SELECT row_to_json(y) FROM (SELECT code, coalesce((
            SELECT string_agg(concat_ws(': ', nullif(e ->> 'location', ''),
                e ->> 'message'), '; ')
            FROM json_array_elements(errors) AS e), detail) AS message) AS y)
        AS error) AS x);

COMMENT ON FUNCTION compat_problem(text, text, json) IS
    'A problem in the older shape';


-- POST keys/getApiKeys.  nginx has taken out email and password.

CREATE OR REPLACE FUNCTION compat_time(at timestamptz)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"');
END
$$;

COMMENT ON FUNCTION compat_time(timestamptz) IS
    'A time as older clients know it: whole seconds';


CREATE OR REPLACE FUNCTION compat_keys(wanted uuid)
RETURNS json
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN (SELECT coalesce(array_to_json(array_agg(row_to_json(x)
            ORDER BY k.created_at DESC, k.id DESC)), '[]')
        FROM key k
            LEFT JOIN key_usage u ON u.key_id = k.id
            LEFT JOIN LATERAL (SELECT s.start, s.last4 FROM secret s
                WHERE s.key_id = k.id
                ORDER BY s.created_at DESC, s.id DESC LIMIT 1) AS s ON true,
            LATERAL (SELECT k.id, masked_text(s.start, s.last4) AS key, k.name,
                compat_time(k.created_at) AS "createdAt",
                compat_time(k.updated_at) AS "updatedAt",
                compat_time(coalesce(u.last_used_at, k.created_at))
                    AS "lastUsedAt",
                coalesce(u.requests, 0) AS "usageCount",
                k.enabled AND coalesce(k.expires_at > now(), true)
                    AS "isActive") AS x
        WHERE k.revoked_at IS NULL AND (wanted IS NULL OR k.id = wanted)
            AND (caller() <> 'key' OR k.id = caller_key()));
END
$$;

COMMENT ON FUNCTION compat_keys(uuid) IS
    'The caller''s keys, or the only one asked for, in the older shape';


CREATE OR REPLACE FUNCTION compat_wanted(req jsonb)
RETURNS uuid
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    b     jsonb := coalesce(nullif(req -> 'body', 'null'), '{}');
    most  CONSTANT int := 10000;
    k     key;
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner', 'key');
    PERFORM check_body(jsonb_set(req, '{body}', b));
    PERFORM fail_if(check_request(req)
        || check_members(b, '', '{email,password,apiKeyId}', '{}')
        || check_text(b -> 'apiKeyId', '/apiKeyId', 255, NULL));

    IF b ->> 'apiKeyId' IS NOT NULL THEN
        k := find_key(jsonb_build_object('path', jsonb_build_object('id',
            b ->> 'apiKeyId')));

        IF k.revoked_at IS NOT NULL THEN
            PERFORM fail(404, 'not_found', 'There is no such key.');
        END IF;

        RETURN k.id;
    END IF;

    -- the older shapes have no pages, and a list that ends early would lie

    IF (SELECT count(*) FROM (SELECT FROM key WHERE revoked_at IS NULL
                              LIMIT most + 1) AS k) > most
    THEN
        PERFORM fail(400, 'invalid_request', format(
            'There are more than %s keys: use GET api-keys or GET analytics.',
            most));
    END IF;

    RETURN NULL;
END
$$;

COMMENT ON FUNCTION compat_wanted(jsonb) IS
    'Checks the request of an older client for its keys; the only one that it'
    ' asks for';


CREATE OR REPLACE FUNCTION api_keys_get(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    wanted  uuid := compat_wanted(req);
BEGIN
    status := 200;
    body := (SELECT row_to_json(x) FROM (SELECT true AS success, (
        SELECT row_to_json(y) FROM (SELECT compat_keys(wanted) AS "apiKeys")
            AS y) AS data) AS x);
END
$$;

COMMENT ON FUNCTION api_keys_get(jsonb, jsonb) IS 'POST keys/getApiKeys';

GRANT EXECUTE ON FUNCTION compat_rename(compat, text, text),
    compat_limit(compat, text, text, text, jsonb),
    compat_workflow(compat, boolean, text[]), compat_request(text, jsonb),
    compat_errors(jsonb, jsonb), compat_key(json), compat_answer(text, text),
    compat_call(text, jsonb, jsonb), compat_problem(text, text, json),
    compat_time(timestamptz), compat_keys(uuid), compat_wanted(jsonb),
    api_keys_get(jsonb, jsonb) TO apikey_gateway;
