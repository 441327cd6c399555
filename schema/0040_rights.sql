--
-- What an owner may do to its keys: never more than it could do itself.
--
-- An owner is a key with scope apikey:manage, or somebody whom nginx has
-- logged in.  What it has bounds what it gives: scopes, models, and how long.
-- It may narrow any of its keys; what widens one (a secret, enabling, a later
-- end, other networks or limits) needs that the key has no more than the caller, since
-- a stronger key is not the caller's to hand out.  docs/callers.md says it to
-- users.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION holds_scope(held text[], wanted text)
RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN EXISTS (SELECT FROM unnest(held) AS h WHERE scope_covers(h, wanted));

COMMENT ON FUNCTION holds_scope(text[], text) IS
    'Whether one of these scopes covers this one';


CREATE OR REPLACE FUNCTION holds_model(held text[], wanted text)
RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN EXISTS (SELECT FROM unnest(held) AS h WHERE pattern_covers(h, wanted));

COMMENT ON FUNCTION holds_model(text[], text) IS
    'Whether one of these patterns of models covers this one';


-- Without a key the owner has what its plan gives.

CREATE OR REPLACE FUNCTION own_rights(OUT scopes text[], OUT models text[],
    OUT until timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF caller() = 'owner' AND caller_key() IS NOT NULL THEN
        SELECT k.scopes, k.allowed_models, coalesce(k.expires_at, 'infinity')
        INTO scopes, models, until
        FROM key k WHERE k.id = caller_key();

    ELSIF caller() IN ('operator', 'operator_read') THEN
        scopes := '{*}';
        until := 'infinity';

    ELSE
        SELECT p.scopes, p.allowed_models
        INTO scopes, models
        FROM owner o LEFT JOIN plan p ON p.external = o.plan
        WHERE o.id = caller_owner();

        scopes := coalesce(scopes, '{}');
        until := 'infinity';
    END IF;
END
$$;

COMMENT ON FUNCTION own_rights() IS
    'What the caller has and may give: scopes, models (null: any), until when';


CREATE OR REPLACE FUNCTION key_within(k key)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    own record := own_rights();
BEGIN
    RETURN NOT EXISTS (SELECT FROM unnest(k.scopes) AS s
                       WHERE NOT holds_scope(own.scopes, s))
        AND (own.models IS NULL OR (k.allowed_models IS NOT NULL
             AND NOT EXISTS (SELECT FROM unnest(k.allowed_models) AS m
                             WHERE NOT holds_model(own.models, m))))
        AND coalesce(k.expires_at, 'infinity') <= own.until;
END
$$;

COMMENT ON FUNCTION key_within(key) IS
    'Whether a key has no more than the caller';


-- What an owner does not say is as much as it has itself.

CREATE OR REPLACE FUNCTION new_key()
RETURNS key
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    own  record := own_rights();
    k    key;
BEGIN
    k.made_by := 'operator';
    k.enabled := true;
    k.disabled_by_owner := false;
    k.scopes := '{}';
    k.metadata := '{}';

    IF caller() = 'owner' THEN
        k.made_by := 'owner';
        k.allowed_models := own.models;
        k.expires_at := nullif(own.until, 'infinity');
    END IF;

    RETURN k;
END
$$;

COMMENT ON FUNCTION new_key() IS
    'A key of which nothing was said yet, as this caller makes it';


CREATE OR REPLACE FUNCTION check_given(body jsonb, name text, held text[])
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN (SELECT coalesce(jsonb_agg(wrong('/' || name || '/' || (i - 1),
        'forbidden', 'you do not have this yourself') -> 0 ORDER BY i), '[]')
    FROM jsonb_array_elements(CASE jsonb_typeof(body -> name)
            WHEN 'array' THEN body -> name ELSE '[]' END)
        WITH ORDINALITY AS e (v, i)
    WHERE jsonb_typeof(v) = 'string'
        AND NOT CASE name WHEN 'scopes' THEN holds_scope(held, v #>> '{}')
                ELSE holds_model(held, v #>> '{}') END);

COMMENT ON FUNCTION check_given(jsonb, text, text[]) IS
    'Scopes or models in a body that the held ones do not cover';


-- What is no owner's to write, and what it does not have itself.

CREATE OR REPLACE FUNCTION check_owned(body jsonb, old key)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    own  record := own_rights();
    at   timestamptz := coalesce(read_time(body ->> 'expires_at'), 'infinity');
BEGIN
    RETURN (SELECT coalesce(jsonb_agg(wrong('/' || m, 'forbidden',
                'only an operator sets this') -> 0 ORDER BY m), '[]')
            FROM unnest(owned_by_operator(body, old)) AS m)
        || check_given(body, 'scopes', own.scopes)
        || CASE
            WHEN own.models IS NULL THEN jsonb '[]'
            WHEN body -> 'allowed_models' = 'null'
                THEN wrong('/allowed_models', 'forbidden',
                    'you do not have all models yourself')
            ELSE check_given(body, 'allowed_models', own.models) END
        || CASE WHEN body ? 'expires_at' AND at > own.until
                AND (isfinite(at) OR body -> 'expires_at' = 'null')
            THEN wrong('/expires_at', 'forbidden',
                'not after your own end, ' || time_text(own.until))
            ELSE '[]' END;
END
$$;

COMMENT ON FUNCTION check_owned(jsonb, key) IS
    'What an owner may not give or write in a body; old without id: a create';


CREATE OR REPLACE FUNCTION owned_by_operator(body jsonb, old key)
RETURNS text[]
LANGUAGE sql STABLE
RETURN ARRAY(
    SELECT m FROM unnest(CASE
            WHEN (old).id IS NULL THEN ARRAY['owner', 'plan', 'credits']
            WHEN (old).made_by = 'owner' THEN ARRAY['plan', 'credits']
            ELSE ARRAY['plan', 'credits', 'limits'] END) AS m
    WHERE body ? m AND ((old).id IS NOT NULL OR body -> m <> 'null'));

COMMENT ON FUNCTION owned_by_operator(jsonb, key) IS
    'Members of a body that no owner may write';


-- Members of a change that give the key something it did not have.

CREATE OR REPLACE FUNCTION key_widened(body jsonb, old key, new key)
RETURNS text[]
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN array_remove(ARRAY[
        CASE WHEN EXISTS (SELECT FROM unnest(new.scopes) AS s
                          WHERE NOT holds_scope(old.scopes, s))
            THEN 'scopes' END,
        CASE WHEN old.allowed_models IS NOT NULL
                AND (new.allowed_models IS NULL
                     OR EXISTS (SELECT FROM unnest(new.allowed_models) AS m
                                WHERE NOT holds_model(old.allowed_models, m)))
            THEN 'allowed_models' END,
        CASE WHEN new.allowed_ips IS DISTINCT FROM old.allowed_ips
            THEN 'allowed_ips' END,
        CASE WHEN body ? 'limits' THEN 'limits' END,
        CASE WHEN coalesce(new.expires_at, 'infinity')
                  > coalesce(old.expires_at, 'infinity')
            THEN 'expires_at' END,
        CASE WHEN new.enabled AND NOT old.enabled THEN 'enabled' END], NULL);
END
$$;

COMMENT ON FUNCTION key_widened(jsonb, key, key) IS
    'What of a change may make a key stronger';


CREATE OR REPLACE FUNCTION check_widened(body jsonb, old key, new key)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    more boolean := NOT key_within(new);
BEGIN
    RETURN (SELECT coalesce(jsonb_agg(wrong('/' || m, 'forbidden', CASE
                WHEN more THEN 'this key has more than you'
                WHEN m = 'enabled'
                    THEN 'you did not disable this key: ask an operator'
                ELSE 'an operator made this key: it can only end sooner' END)
                -> 0), '[]')
        FROM unnest(key_widened(body, old, new)) AS m
        WHERE more
            OR (m = 'enabled' AND old.disabled_by_owner IS NOT TRUE)
            OR (m = 'expires_at' AND old.made_by IS DISTINCT FROM 'owner'));
END
$$;

COMMENT ON FUNCTION check_widened(jsonb, key, key) IS
    'What an owner may not change because it would make a key stronger';

GRANT EXECUTE ON FUNCTION holds_scope(text[], text),
    holds_model(text[], text), own_rights(), key_within(key), new_key(),
    check_given(jsonb, text, text[]), check_owned(jsonb, key),
    owned_by_operator(jsonb, key), key_widened(jsonb, key, key),
    check_widened(jsonb, key, key)
    TO apikey_gateway;
