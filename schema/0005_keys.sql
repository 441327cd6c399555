--
-- The admin API's api-keys.  Every function api_NAME(who, req) answers
-- (status, headers, body, refresh) to apikey.api(): who is the caller, req
-- the request with its body parsed.  Nothing is changed before everything is
-- checked.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION check_key(body jsonb, creating boolean,
    metadata jsonb)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    known  text[] := ARRAY['name', 'customer', 'plan', 'scopes',
        'allowed_models', 'allowed_ips', 'limits', 'credits', 'metadata',
        'expires_at', 'enabled'];
    fixed  text[] := ARRAY['id', 'key', 'start', 'last4', 'masked', 'status',
        'currency', 'usage_count', 'last_used_at', 'created_at', 'updated_at',
        'revoked_at', 'secrets'];
BEGIN
    IF creating THEN
        known := known || ARRAY['owner', 'prefix'];
    ELSE
        fixed := fixed || ARRAY['owner', 'prefix'];
    END IF;

    RETURN check_members(body, '', known, fixed)
        || check_text(coalesce(body -> 'name',
                CASE WHEN creating THEN jsonb 'null' ELSE '"kept"' END),
            '/name', 255, 'give the key a name')
        || CASE WHEN creating
            THEN check_text(body -> 'owner', '/owner', 255, NULL)
                || check_prefix(body -> 'prefix')
            ELSE '[]' END
        || check_text(body -> 'customer', '/customer', 255, NULL)
        || check_plan(body -> 'plan', '/plan')
        || check_scopes(body -> 'scopes', '/scopes')
        || check_models(body -> 'allowed_models', '/allowed_models')
        || check_networks(body -> 'allowed_ips', '/allowed_ips')
        || check_limits(body -> 'limits', '/limits')
        || check_credits(body -> 'credits', '/credits')
        || check_metadata(body -> 'metadata', '/metadata', metadata)
        || check_future(body -> 'expires_at', '/expires_at')
        || check_boolean(body -> 'enabled', '/enabled');
END
$$;

COMMENT ON FUNCTION check_key(jsonb, boolean, jsonb) IS
    'The body of a create (creating) or of a change of a key with this'
    ' metadata';


-- A member that an owner may not write is forbidden, whatever stands in it.

CREATE OR REPLACE FUNCTION check_key_for(body jsonb, old key)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF caller() = 'owner' THEN
        RETURN check_key(body - owned_by_operator(body, old), old.id IS NULL,
                coalesce(old.metadata, '{}'))
            || check_owned(body, old);
    END IF;

    RETURN check_key(body, old.id IS NULL, coalesce(old.metadata, '{}'));
END
$$;

COMMENT ON FUNCTION check_key_for(jsonb, key) IS
    'The body of a change of this key by this caller; old without id: of a'
    ' create';


CREATE OR REPLACE FUNCTION check_prefix(value jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN coalesce(jsonb_typeof(value), 'null') = 'null' THEN jsonb '[]'
    WHEN jsonb_typeof(value) <> 'string'
        THEN wrong('/prefix', 'bad_type', 'a text is needed')
    WHEN char_length(value #>> '{}') NOT BETWEEN 1 AND 16
        THEN wrong('/prefix', 'bad_length', '1 to 16 characters')
    WHEN value #>> '{}' !~ '^[a-z0-9_]+$'
        THEN wrong('/prefix', 'bad_value', 'only a-z, 0-9 and _')
    ELSE '[]' END;

COMMENT ON FUNCTION check_prefix(jsonb) IS 'The prefix of a new key';


CREATE OR REPLACE FUNCTION merge_key(old key, body jsonb)
RETURNS key
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    k key := old;
BEGIN
    IF body ? 'name' THEN
        k.name := body ->> 'name';
    END IF;

    IF body ? 'customer' THEN
        k.customer := body ->> 'customer';
    END IF;

    IF body ? 'plan' THEN
        k.plan := body ->> 'plan';
    END IF;

    IF body ? 'scopes' THEN
        k.scopes := ARRAY(SELECT jsonb_array_elements_text(
            coalesce(nullif(body -> 'scopes', 'null'), '[]')));
    END IF;

    IF body ? 'allowed_models' THEN
        k.allowed_models := CASE WHEN body -> 'allowed_models' <> 'null' THEN
            ARRAY(SELECT jsonb_array_elements_text(body -> 'allowed_models'))
            END;
    END IF;

    IF body ? 'allowed_ips' THEN
        k.allowed_ips := CASE WHEN body -> 'allowed_ips' <> 'null' THEN
            ARRAY(SELECT read_network(v) FROM
                jsonb_array_elements_text(body -> 'allowed_ips') AS v) END;
    END IF;

    k.metadata := merge_metadata(old.metadata, body -> 'metadata');

    IF body ? 'expires_at' THEN
        k.expires_at := read_time(body ->> 'expires_at');
    END IF;

    IF body ? 'enabled' THEN
        k.enabled := (body -> 'enabled')::boolean;
        k.disabled_by_owner := caller() = 'owner' AND NOT k.enabled
            AND (old.enabled OR old.disabled_by_owner);
    END IF;

    RETURN k;
END
$$;

COMMENT ON FUNCTION merge_key(key, jsonb) IS
    'The row after a checked change: absent keeps, null clears';


CREATE OR REPLACE FUNCTION find_key(req jsonb)
RETURNS key
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    k key;
BEGIN
    SELECT * INTO k FROM key WHERE id = read_uuid(req #>> '{path,id}');

    IF NOT FOUND THEN
        PERFORM fail(404, 'not_found', 'There is no such key.');
    END IF;

    RETURN k;
END
$$;

COMMENT ON FUNCTION find_key(jsonb) IS
    'The key of the path; 404 also for one that the caller may not see';


CREATE OR REPLACE FUNCTION lock_key(req jsonb)
RETURNS key
LANGUAGE plpgsql VOLATILE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    k key := find_key(req);
BEGIN
    PERFORM share_plans(req -> 'body');
    SELECT * INTO k FROM key WHERE id = k.id FOR UPDATE;
    PERFORM check_match(req, k.version);

    RETURN k;
END
$$;

COMMENT ON FUNCTION lock_key(jsonb) IS
    'The key of the path for a change, after If-Match';


CREATE OR REPLACE FUNCTION check_revoked(k key)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF k.revoked_at IS NOT NULL THEN
        PERFORM fail(409, 'revoked', 'A revoked key cannot be changed.');
    END IF;
END
$$;

COMMENT ON FUNCTION check_revoked(key) IS
    'Ends the call with 409 when the key is revoked';


-- The newest is the current one, also where its transaction is the older one
-- and has waited.

CREATE OR REPLACE FUNCTION add_secret(k key, made jsonb)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    INSERT INTO secret (id, key_id, digest, start, last4, created_at)
    VALUES ((made ->> 'id')::uuid, k.id, decode(made ->> 'digest', 'hex'),
        made ->> 'start', made ->> 'last4',
        coalesce(read_time(made ->> 'created_at'), greatest(now(),
            (SELECT max(s.created_at) + interval '1 microsecond'
             FROM secret s WHERE s.key_id = k.id))));
END
$$;

COMMENT ON FUNCTION add_secret(key, jsonb) IS
    'A new secret, of which C made the plaintext';


-- An owner that does not exist yet is made by an operator.

CREATE OR REPLACE FUNCTION need_owner(who jsonb, req jsonb, external_id text,
    OUT id uuid, OUT made boolean)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    o owner;
BEGIN
    made := false;

    IF caller() = 'owner' THEN
        id := caller_owner();
        RETURN;
    END IF;

    IF external_id IS NULL THEN
        RETURN;
    END IF;

    SELECT x.id INTO id FROM owner x
    WHERE x.external = external_id AND x.deleted_at IS NULL
    FOR KEY SHARE;

    IF FOUND THEN
        RETURN;
    END IF;

    SELECT * INTO id, made FROM make_owner(who, req, external_id);
    SELECT * INTO STRICT o FROM owner x WHERE x.id = need_owner.id;

    IF made THEN
        PERFORM write_audit(who, req, 'create', 'owner', o.id, NULL,
            owner_json(o));
    END IF;
END
$$;

COMMENT ON FUNCTION need_owner(jsonb, jsonb, text) IS
    'The owner of a new key: who calls, or the one of this name, made if it is'
    ' new';


CREATE OR REPLACE FUNCTION api_key_create(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    b       jsonb := req -> 'body';
    k       key;
    holder  record;
    object  json;
BEGIN
    PERFORM allow_change();
    PERFORM check_body(req);
    PERFORM fail_if(check_request(req) || check_key_for(b, k));

    IF coalesce(req -> 'secret', 'null') = 'null' THEN
        status := 100;
        headers := coalesce(b ->> 'prefix', req ->> 'key_prefix');
        RETURN;
    END IF;

    k := merge_key(new_key(), plan_defaults(b) || b);
    k.id := uuid_v7();
    k.prefix := coalesce(b ->> 'prefix', req ->> 'key_prefix');

    holder := need_owner(who, req, b ->> 'owner');

    INSERT INTO key (id, owner_id, name, customer, plan, prefix, scopes,
        allowed_models, allowed_ips, metadata, enabled, disabled_by_owner,
        expires_at, made_by, created_at)
    VALUES (k.id, holder.id, k.name, k.customer, k.plan, k.prefix, k.scopes,
        k.allowed_models, k.allowed_ips, k.metadata, k.enabled,
        k.disabled_by_owner, k.expires_at, k.made_by,
        coalesce(read_time(req #>> '{import,created_at}'), now()));

    PERFORM add_secret(k, req -> 'secret');
    PERFORM import_use(k, req -> 'import');
    PERFORM put_limits(k.id, NULL, b -> 'limits');
    PERFORM put_credits(k.id, NULL, b -> 'credits');

    SELECT * INTO k FROM key WHERE id = k.id;
    object := key_json(k);
    PERFORM write_audit(who, req, 'create', 'key', k.id, NULL, object);

    status := 201;
    headers := 'Location: ' || (req ->> 'base') || 'api-keys/' || k.id
        || E'\n' || etag_line(k.version);
    body := with_secret(object);
    refresh := CASE WHEN holder.made
            THEN 'owner ' || holder.id || E'\n' ELSE '' END
        || 'key ' || k.id || E'\n';
END
$$;

COMMENT ON FUNCTION api_key_create(jsonb, jsonb) IS 'POST api-keys';


CREATE OR REPLACE FUNCTION api_key_get(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    k key;
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner', 'key');
    k := find_key(req);
    PERFORM fail_if(check_request(req));

    status := 200;
    headers := etag_line(k.version);
    body := key_json(k);
END
$$;

COMMENT ON FUNCTION api_key_get(jsonb, jsonb) IS 'GET api-keys/{id}';


CREATE OR REPLACE FUNCTION api_key_update(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    b       jsonb := req -> 'body';
    old     key;
    k       key;
    before  json;
BEGIN
    PERFORM allow_change();
    old := lock_key(req);
    PERFORM check_body(req);
    PERFORM fail_if(check_request(req) || check_key_for(b, old));
    PERFORM check_revoked(old);

    k := merge_key(old, b);

    IF caller() = 'owner' THEN
        PERFORM fail_if(check_widened(b, old, k));
    END IF;

    before := key_json(old);
    status := 200;

    IF b <> '{}' THEN
        UPDATE key SET name = k.name, customer = k.customer, plan = k.plan,
            scopes = k.scopes, allowed_models = k.allowed_models,
            allowed_ips = k.allowed_ips, metadata = k.metadata,
            expires_at = k.expires_at, enabled = k.enabled,
            disabled_by_owner = k.disabled_by_owner, updated_at = now()
        WHERE id = k.id;

        -- a grace never outlives its key

        UPDATE secret s SET expires_at = k.expires_at
        WHERE s.key_id = k.id AND s.ended_at IS NULL
            AND s.expires_at > k.expires_at;

        IF b ? 'limits' THEN
            PERFORM put_limits(k.id, NULL, b -> 'limits');
        END IF;

        IF b ? 'credits' THEN
            PERFORM put_credits(k.id, NULL, b -> 'credits');
        END IF;

        SELECT * INTO k FROM key WHERE id = k.id;
        PERFORM write_audit(who, req, 'update', 'key', k.id, before,
            key_json(k));

        refresh := 'key ' || k.id || E'\n';
    END IF;

    headers := etag_line(k.version);
    body := key_json(k);
END
$$;

COMMENT ON FUNCTION api_key_update(jsonb, jsonb) IS
    'PATCH and PUT api-keys/{id}';


DROP FUNCTION IF EXISTS revoke_key(jsonb, jsonb, key);

-- One statement for each step, however many they are.

CREATE OR REPLACE FUNCTION revoke_keys(who jsonb, req jsonb, ids uuid[])
RETURNS text
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    before json[] := ARRAY(SELECT key_json(k)
        FROM unnest(ids) WITH ORDINALITY AS i (id, n)
            JOIN key k ON k.id = i.id
        ORDER BY i.n);
BEGIN
    UPDATE key SET revoked_at = now(), updated_at = now()
    WHERE id = ANY (ids);

    UPDATE secret SET ended_at = now()
    WHERE key_id = ANY (ids) AND ended_at IS NULL;

    PERFORM write_audit(who, req, 'revoke', 'key', k.id, i.before,
        key_json(k))
    FROM unnest(ids, before) AS i (id, before) JOIN key k ON k.id = i.id;

    RETURN (SELECT string_agg('key ' || i || E'\n', '') FROM unnest(ids) AS i);
END
$$;

COMMENT ON FUNCTION revoke_keys(jsonb, jsonb, uuid[]) IS
    'Revokes these keys, which are locked, and all their secrets; returns what'
    ' is to be refreshed';


CREATE OR REPLACE FUNCTION api_key_revoke(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    k key;
BEGIN
    PERFORM allow_change();
    PERFORM fail_if(check_request(req));

    status := 204;
    headers := '';
    k := find_key(req);

    IF k.revoked_at IS NOT NULL THEN
        RETURN;
    END IF;

    k := lock_key(req);

    IF k.revoked_at IS NOT NULL THEN
        RETURN;                  -- while this waited
    END IF;

    refresh := revoke_keys(who, req, ARRAY[k.id]);
END
$$;

COMMENT ON FUNCTION api_key_revoke(jsonb, jsonb) IS 'DELETE api-keys/{id}';


CREATE OR REPLACE FUNCTION check_grace(value jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN coalesce(jsonb_typeof(value), 'null') = 'null' THEN jsonb '[]'
    WHEN jsonb_typeof(value) <> 'string'
        THEN wrong('/grace', 'bad_type', 'a text such as 1h is needed')
    WHEN read_duration(value #>> '{}') IS NULL
        THEN wrong('/grace', 'bad_value', 'write a length such as 1h')
    WHEN read_duration(value #>> '{}') > 366 * 86400000000
        THEN wrong('/grace', 'out_of_range', '0s to 366d')
    ELSE '[]' END;

COMMENT ON FUNCTION check_grace(jsonb) IS
    'How long older secrets still work after a rotation';


CREATE OR REPLACE FUNCTION api_key_rotate(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    b       jsonb := coalesce(nullif(req -> 'body', 'null'), '{}');
    k       key;
    before  json;
    object  json;
    until   timestamptz;
BEGIN
    PERFORM allow_change();
    k := lock_key(req);
    PERFORM check_body(jsonb_set(req, '{body}', b));
    PERFORM fail_if(check_request(req)
        || check_members(b, '', '{grace}', '{}')
        || check_grace(b -> 'grace'));
    PERFORM check_revoked(k);

    IF NOT key_within(k) THEN
        PERFORM fail(403, 'forbidden', 'This key has more scopes, models or'
            ' time than you: ask an operator to rotate it.');
    END IF;

    IF coalesce(req -> 'secret', 'null') = 'null' THEN
        status := 100;
        headers := k.prefix;
        RETURN;
    END IF;

    before := key_json(k);
    until := least(k.expires_at, now() + coalesce(
        read_duration(b ->> 'grace'), 0)::bigint * interval '1 microsecond');

    -- an older grace keeps its end, or ends with this one

    UPDATE secret s SET
        expires_at = CASE WHEN until > now()
            THEN least(s.expires_at, until) ELSE s.expires_at END,
        ended_at = CASE WHEN until <= now() THEN now() END
    WHERE s.key_id = k.id AND s.ended_at IS NULL;

    PERFORM add_secret(k, req -> 'secret');
    UPDATE key SET updated_at = now() WHERE id = k.id;

    SELECT * INTO k FROM key WHERE id = k.id;
    object := key_json(k);
    PERFORM write_audit(who, req, 'rotate', 'key', k.id, before, object);

    status := 200;
    headers := etag_line(k.version);
    body := with_secret(object);
    refresh := 'key ' || k.id || E'\n';
END
$$;

COMMENT ON FUNCTION api_key_rotate(jsonb, jsonb) IS
    'POST api-keys/{id}/rotate';


CREATE OR REPLACE FUNCTION api_secret_end(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    k       key;
    s       record;
    before  json;
BEGIN
    PERFORM allow_change();
    k := lock_key(req);
    PERFORM fail_if(check_request(req));

    SELECT x.id, x.expires_at, x.ended_at INTO s
    FROM secret x
    WHERE x.key_id = k.id AND x.id = read_uuid(req #>> '{path,sid}');

    IF NOT FOUND THEN
        PERFORM fail(404, 'not_found', 'There is no such secret.');
    END IF;

    status := 204;

    IF s.ended_at IS NOT NULL OR s.expires_at <= now() THEN
        RETURN;
    END IF;

    IF s.expires_at IS NULL THEN
        PERFORM fail(409, 'conflict',
            'This is the current secret: rotate the key instead.');
    END IF;

    before := key_json(k);

    UPDATE secret SET ended_at = now() WHERE id = s.id;
    UPDATE key SET updated_at = now() WHERE id = k.id;

    SELECT * INTO k FROM key WHERE id = k.id;
    PERFORM write_audit(who, req, 'end_secret', 'key', k.id, before,
        key_json(k));

    refresh := 'key ' || k.id || E'\n';
END
$$;

COMMENT ON FUNCTION api_secret_end(jsonb, jsonb) IS
    'DELETE api-keys/{id}/secrets/{sid}';


GRANT EXECUTE ON FUNCTION check_key(jsonb, boolean, jsonb),
    check_key_for(jsonb, key), api_secret_end(jsonb, jsonb),
    check_prefix(jsonb), merge_key(key, jsonb), find_key(jsonb),
    lock_key(jsonb), check_revoked(key), add_secret(key, jsonb),
    need_owner(jsonb, jsonb, text), check_grace(jsonb),
    revoke_keys(jsonb, jsonb, uuid[]),
    api_key_create(jsonb, jsonb), api_key_get(jsonb, jsonb),
    api_key_update(jsonb, jsonb), api_key_revoke(jsonb, jsonb),
    api_key_rotate(jsonb, jsonb) TO apikey_gateway;
