--
-- The door of the admin API: one statement of nginx, one call of api(), one
-- transaction.  Whatever goes wrong inside becomes a problem body (RFC 9457),
-- and nothing of the call stays.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION problem_title(code text)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE code
    WHEN 'invalid_request' THEN 'Invalid request'
    WHEN 'not_supported' THEN 'Not supported'
    WHEN 'invalid_credential' THEN 'Invalid credential'
    WHEN 'forbidden' THEN 'Forbidden'
    WHEN 'not_found' THEN 'Not found'
    WHEN 'conflict' THEN 'Conflict'
    WHEN 'revoked' THEN 'Key is revoked'
    WHEN 'precondition_failed' THEN 'Precondition failed'
    WHEN 'idempotency_mismatch' THEN 'Idempotency key used before'
    WHEN 'schema_outdated' THEN 'Schema outdated'
    ELSE 'Unavailable' END;

COMMENT ON FUNCTION problem_title(text) IS 'The title of a code, for ever';


CREATE OR REPLACE FUNCTION problem_json(status int, code text, detail text,
    request_id text, errors json)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN (SELECT CASE WHEN json_array_length(errors) = 0
        THEN head
        ELSE left(head, -1) || ',"errors":' || (
            SELECT array_to_json(array_agg(row_to_json(e) ORDER BY n))
            FROM json_array_elements(errors) WITH ORDINALITY AS x (v, n),
                LATERAL (SELECT v ->> 'location' AS location,
                    v ->> 'code' AS code, v ->> 'message' AS message) AS e)
            || '}' END
    FROM (SELECT row_to_json(p)::text AS head
        FROM (SELECT 'urn:apikey:' || code AS type,
            problem_title(code) AS title, status, code, detail,
            request_id) AS p) AS y);

COMMENT ON FUNCTION problem_json(int, text, text, text, json) IS
    'A problem body';


-- What an SQLSTATE means to the client.  Class 22 and 54 come from the
-- request's own values (NUL in a text, JSON nested too deep); a table,
-- column or function that is missing means an older schema.

CREATE OR REPLACE FUNCTION problem_of(state text, OUT status int,
    OUT code text, OUT detail text)
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT c.status, c.code, c.detail FROM (VALUES
        ('^(22|54|2350[23]|23514)', 400, 'invalid_request',
            'The request holds a value that cannot be stored.'),
        ('^23', 409, 'conflict', 'Somebody else did the same meanwhile.'),
        ('^42501', 403, 'forbidden', 'This is not allowed.'),
        ('^(42P01|42703|42883|3F)', 503, 'schema_outdated',
            'Run: apikeyctl schema apply'),
        ('^57014', 503, 'unavailable', 'This took too long. Ask for less: a'
            ' shorter range, one key or owner, fewer groups.'),
        ('^audit', 503, 'unavailable',
            'The audit entry cannot be written, so nothing was changed.'),
        ('', 503, 'unavailable',
            'The database cannot do this now. Try again.'))
        AS c (pattern, status, code, detail)
    WHERE state ~ c.pattern
    LIMIT 1;
END;

COMMENT ON FUNCTION problem_of(text) IS
    'Status, code and detail of an error that no function foresaw';


-- JSON keeps the last of two members of one name; a client that sends both
-- has made a mistake and is told.
--
-- jsonb has dropped one of the two, so its text has fewer members than the
-- body.  They are counted where a quote and a colon meet, which is exact in
-- what read_body() does not look at more closely anyway.

CREATE OR REPLACE FUNCTION json_colons(body text)
RETURNS int
LANGUAGE sql IMMUTABLE
RETURN (octet_length(body) - octet_length(replace(body, '":', ''))) / 2
    - (octet_length(body) - octet_length(replace(body, '\":', ''))) / 3;

COMMENT ON FUNCTION json_colons(text) IS
    'How often a quote without backslash stands before a colon';


CREATE OR REPLACE FUNCTION json_twice(body json)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN (WITH RECURSIVE node AS (
            SELECT '' AS at, '' AS inside, '' AS place, 0 AS depth, body AS v
            UNION ALL
            SELECT n.at || '/' || c.name, n.place, n.place || '/' || c.i,
                n.depth + 1, c.v
            FROM node n, LATERAL (
                SELECT pointer_text(m.key) AS name, m.i, m.value AS v
                FROM json_each(CASE json_typeof(n.v) WHEN 'object'
                    THEN n.v END) WITH ORDINALITY AS m (key, value, i)
                UNION ALL
                SELECT (e.i - 1)::text, e.i, e.value
                FROM json_array_elements(CASE json_typeof(n.v) WHEN 'array'
                    THEN n.v END) WITH ORDINALITY AS e (value, i)) AS c
            WHERE n.depth < 100)
        SELECT coalesce(jsonb_agg(e ORDER BY e ->> 'location'), '[]')
        FROM (SELECT wrong(n.at, 'duplicate', 'give it once') -> 0 AS e
            FROM node n
            GROUP BY n.inside, n.at
            HAVING count(*) > 1
            UNION ALL
            SELECT wrong('', 'out_of_range', 'the JSON nests too deep') -> 0
            FROM node n
            HAVING max(n.depth) = 100
            LIMIT 100) AS x);
END
$$;

COMMENT ON FUNCTION json_twice(json) IS
    'Members that stand twice in an object, however deep; to a depth of 100';

CREATE OR REPLACE FUNCTION read_body(body text)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    parsed jsonb;
BEGIN
    IF body IS NULL OR body ~ '^[ \t\r\n]*$' THEN
        RETURN NULL;
    END IF;

    parsed := body::jsonb;

    IF json_colons(body) <> json_colons(parsed::text)
        OR body ~ '"\s+:|\\\\"|\\u003[Aa]'
    THEN
        PERFORM fail_if(json_twice(body::json));
    END IF;

    RETURN parsed;

EXCEPTION
    WHEN untranslatable_character OR program_limit_exceeded
        OR statement_too_complex OR numeric_value_out_of_range
    THEN
        PERFORM fail_if(wrong('', 'out_of_range',
            'the JSON nests too deep, or holds NUL or a number too great'));
    WHEN data_exception THEN
        PERFORM fail_if(wrong('', 'bad_value', 'the body is not JSON'));
END
$$;

COMMENT ON FUNCTION read_body(text) IS
    'The body as JSON; null when there is none';


-- What nginx says of a key comes out of its copy; what the key may do here is
-- read where it stands.

CREATE OR REPLACE FUNCTION enter(who jsonb)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    name  text := CASE
        WHEN who ->> 'kind' = 'operator' AND who ->> 'role' = 'admin'
            THEN 'operator'
        WHEN who ->> 'kind' = 'operator' THEN 'operator_read'
        WHEN who ->> 'kind' IN ('key', 'owner') AND who ->> 'key' IS NOT NULL
            THEN 'key'
        WHEN who ->> 'kind' = 'owner' THEN 'owner'
        ELSE '' END;
    id    uuid;
BEGIN
    PERFORM enter_as('', '', '', '', '');

    CASE name
        WHEN 'operator', 'operator_read' THEN
            PERFORM enter_as(name, '', '', '',
                concat_ws(' ', name, who ->> 'name'));

        WHEN 'key' THEN
            PERFORM enter_key(who);

        WHEN 'owner' THEN
            PERFORM enter_as(name, '', '', who ->> 'external', '');
            SELECT o.id INTO id FROM owner o
            WHERE o.external = who ->> 'external' AND o.deleted_at IS NULL;
            PERFORM enter_as(name, '', id::text, who ->> 'external',
                'identity ' || (who ->> 'external'));

        ELSE
            NULL;
    END CASE;
END
$$;

COMMENT ON FUNCTION enter(jsonb) IS
    'Tells row-level security who asks, until the end of the transaction';


CREATE OR REPLACE FUNCTION enter_as(caller text, key text, owner text,
    identity text, actor text)
RETURNS void
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT set_config('apikey.caller', caller, true),
        set_config('apikey.key', coalesce(key, ''), true),
        set_config('apikey.owner', coalesce(owner, ''), true),
        set_config('apikey.identity', coalesce(identity, ''), true),
        set_config('apikey.actor', coalesce(actor, ''), true);
END;

COMMENT ON FUNCTION enter_as(text, text, text, text, text) IS
    'Sets what the policies read, until the end of the transaction';


CREATE OR REPLACE FUNCTION enter_key(who jsonb)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    k     key;
    o     owner;
    kind  text := 'key';
BEGIN
    PERFORM enter_as('key', who ->> 'key', '', '', '');
    SELECT * INTO k FROM key WHERE id = caller_key();

    PERFORM enter_as('key', k.id::text, k.owner_id::text, '', '');
    SELECT * INTO o FROM owner WHERE id = k.owner_id;

    IF k.id IS NULL OR key_status(k) <> 'active' OR NOT o.enabled
        OR (who ->> 'secret' IS NOT NULL AND NOT EXISTS (SELECT FROM secret s
            WHERE s.id = read_uuid(who ->> 'secret') AND s.key_id = k.id
                AND s.ended_at IS NULL
                AND coalesce(s.expires_at, 'infinity') > now()))
    THEN
        PERFORM fail(401, 'invalid_credential',
            'The operator token or key is not valid.');
    END IF;

    IF who ->> 'kind' = 'owner' AND o.id IS NOT NULL
        AND holds_scope(k.scopes, 'apikey:manage')
    THEN
        kind := 'owner';
    END IF;

    PERFORM enter_as(kind, k.id::text, o.id::text, '',
        concat_ws(' ', kind, 'key', k.id));
END
$$;

COMMENT ON FUNCTION enter_key(jsonb) IS
    'A key calls: for its owner where it may, or for itself';


CREATE OR REPLACE FUNCTION dispatch(fn text, who jsonb, raw json,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    req   jsonb;
    once  text;
BEGIN
    IF fn !~ '^[a-z_]+$'
        OR to_regprocedure(format('apikey.api_%s(jsonb, jsonb)', fn)) IS NULL
    THEN
        RAISE undefined_function;
    END IF;

    PERFORM plans_due();

    -- rows of an import, which nginx has put together, are read one by one

    req := raw::jsonb || jsonb_build_object('fn', fn, 'body',
        CASE WHEN fn IN ('key_import', 'usage_import')
            THEN (raw ->> 'body')::jsonb
            ELSE read_body(raw ->> 'body') END);

    -- these two keep what is decided between them

    IF fn NOT IN ('verify_claim', 'verify_keep') THEN
        once := idempotency_key(req);
    END IF;

    IF once IS NOT NULL THEN
        SELECT * INTO status, headers, body, refresh
        FROM idempotency_find(once, fn, req);

        IF status IS NOT NULL THEN
            RETURN;
        END IF;
    END IF;

    IF req -> 'compat' = 'true' THEN
        SELECT * INTO status, headers, body, refresh
        FROM compat_call(fn, who, req);

    ELSE
        EXECUTE format('SELECT * FROM %I($1, $2)', 'api_' || fn)
        INTO status, headers, body, refresh
        USING who, req;
    END IF;

    headers := coalesce(headers, '');
    body := coalesce(body, '');
    refresh := coalesce(refresh, '');

    IF once IS NOT NULL AND status BETWEEN 200 AND 299 THEN
        PERFORM idempotency_keep(once, fn, req, status, headers, body,
            refresh);
    END IF;
END
$$;

COMMENT ON FUNCTION dispatch(text, jsonb, json) IS
    'Calls api_<fn> with the request''s body parsed, once for each'
    ' Idempotency-Key';


CREATE OR REPLACE FUNCTION api(fn text, caller text, req text,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET jit = off
SET lock_timeout = '3s'
AS $$
DECLARE
    state    text;
    message  text;
    errors   text;
    code     text;
    place    text;
BEGIN
    PERFORM enter(caller::jsonb);

    SELECT * INTO status, headers, body, refresh
    FROM dispatch(fn, caller::jsonb, req::json);

EXCEPTION
    WHEN serialization_failure OR deadlock_detected THEN
        RAISE;                   -- nginx calls again

    WHEN query_canceled OR OTHERS THEN
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE,
            message = MESSAGE_TEXT, errors = PG_EXCEPTION_DETAIL,
            code = PG_EXCEPTION_HINT, place = PG_EXCEPTION_CONTEXT;

        -- the lock of "apikeyctl schema apply", between whose files functions
        -- may not fit together: nginx calls again when it is free; of a replica
        -- only the primary knows it

        IF state ~ '^(42|0A|XX)' AND (pg_is_in_recovery()
            OR NOT pg_try_advisory_xact_lock_shared(107135432877433))
        THEN
            RAISE;
        END IF;

        IF state ^@ 'AK' THEN
            status := substr(state, 3)::int;

        ELSE
            -- its message may quote the request: only its place is logged

            RAISE WARNING 'apikey.api %: SQLSTATE % %', fn, state,
                substring(place FROM 'PL/pgSQL function [^\n]*');

            IF place ~ 'function (apikey\.)?write_audit\(' THEN
                state := 'audit';
            END IF;

            errors := '[]';
            SELECT p.status, p.code, p.detail INTO status, code, message
            FROM problem_of(state) AS p;
        END IF;

        headers := '';           -- nginx knows the challenge of a 401
        refresh := '';

        -- not by ->>, which fails for a NUL anywhere in it

        body := CASE WHEN fn ^@ 'keys_'
            THEN compat_problem(code, message, errors::json)
            ELSE problem_json(status, code, message, substring(req
                FROM '"request_id" *: *"([0-9a-f-]{36})"'), errors::json) END;
END
$$;

COMMENT ON FUNCTION api(text, text, text) IS
    'Calls api_<fn> as this caller; status 100: make a key with the prefix in'
    ' headers and call again with secret';

GRANT EXECUTE ON FUNCTION problem_title(text),
    problem_json(int, text, text, text, json), problem_of(text),
    json_colons(text), json_twice(json), read_body(text), enter(jsonb), enter_key(jsonb),
    enter_as(text, text, text, text, text), dispatch(text, jsonb, json),
    api(text, text, text) TO apikey_gateway;
