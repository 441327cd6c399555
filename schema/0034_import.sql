--
-- POST api-keys/import.  nginx reads the body in pieces and calls
-- api_key_import() once for each batch of rows, one after another: a row that
-- is wrong fails alone, a batch is one transaction.  Plaintext keys have
-- become digests before they come here.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


-- Hex, base64 and base64url tell themselves apart by length and alphabet.

CREATE OR REPLACE FUNCTION read_hash(hash text)
RETURNS bytea
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN hash ~ '^[0-9a-fA-F]{64}$' THEN decode(hash, 'hex')
    WHEN hash ~ '^[0-9A-Za-z+/_-]{43}=?$'
        THEN decode(translate(left(hash, 43), '-_', '+/') || '=', 'base64')
    END;

COMMENT ON FUNCTION read_hash(text) IS
    'The 32 bytes of a SHA-256 in hex, base64 or base64url, or null';


-- A key known by the hash of its last segment: src/base/key.h has the same.

CREATE OR REPLACE FUNCTION last_segment(digest bytea)
RETURNS bytea
LANGUAGE sql IMMUTABLE
RETURN sha256('last-segment:'::bytea || digest);

COMMENT ON FUNCTION last_segment(bytea) IS
    'What stands in secret.digest for the SHA-256 of what is behind the last'
    ' "_" of a key';


CREATE OR REPLACE FUNCTION check_hash(b jsonb, plain boolean)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    hash    text := b ->> 'hash';
    alg     text := b ->> 'alg';
    errors  jsonb := '[]';
BEGIN
    CASE
        WHEN plain AND hash IS NOT NULL THEN
            errors := wrong('/hash', 'duplicate', 'give hash or key');
        WHEN plain THEN
            NULL;
        WHEN hash IS NULL THEN
            errors := wrong('/hash', 'required',
                'give the key''s hash, or the key');
        WHEN jsonb_typeof(b -> 'hash') <> 'string' THEN
            errors := wrong('/hash', 'bad_type', 'a text is needed');
        WHEN read_hash(hash) IS NOT NULL THEN
            NULL;
        WHEN char_length(hash) IN (43, 44, 64) THEN
            errors := wrong('/hash', 'bad_value',
                'neither hex, base64 nor base64url');
        ELSE
            errors := wrong('/hash', 'bad_length',
                'a SHA-256 is 64 hex digits');
    END CASE;

    IF alg IS NULL OR NOT plain AND alg = ANY (ARRAY['sha256',
        'sha256-last-segment']) AND jsonb_typeof(b -> 'alg') = 'string'
    THEN
        RETURN errors;
    END IF;

    RETURN errors || CASE WHEN plain
        THEN wrong('/alg', 'bad_value', 'alg belongs to hash')
        ELSE wrong('/alg', 'bad_value', 'sha256 or sha256-last-segment') END;
END
$$;

COMMENT ON FUNCTION check_hash(jsonb, boolean) IS
    'hash and alg of a row; plain: it had the key in plaintext instead';


CREATE OR REPLACE FUNCTION check_past(value jsonb, at text)
RETURNS jsonb
LANGUAGE sql STABLE
RETURN CASE
    WHEN coalesce(jsonb_typeof(value), 'null') = 'null' THEN jsonb '[]'
    WHEN jsonb_typeof(value) <> 'string'
        THEN wrong(at, 'bad_type', 'a time as text is needed')
    WHEN read_time(value #>> '{}') IS NULL
        THEN wrong(at, 'bad_value',
            'write a time such as 2027-01-01T00:00:00Z')
    WHEN read_time(value #>> '{}') > now()
        THEN wrong(at, 'out_of_range', 'this time is still to come')
    ELSE '[]' END;

COMMENT ON FUNCTION check_past(jsonb, text) IS 'A time that is over, or null';


CREATE OR REPLACE FUNCTION check_import(b jsonb, plain boolean)
RETURNS jsonb
LANGUAGE sql STABLE
RETURN check_hash(b, plain)
    || check_text(b -> 'start', '/start', 32, NULL)
    || check_text(b -> 'last4', '/last4', 4, NULL)
    || check_past(b -> 'created_at', '/created_at')
    || check_count(b -> 'usage_count', '/usage_count', NULL)
    || check_past(b -> 'last_used_at', '/last_used_at');

COMMENT ON FUNCTION check_import(jsonb, boolean) IS
    'What a row of an import has besides the members of a create';


-- Which key has this digest, and how its secret stands.

DROP FUNCTION IF EXISTS import_find(bytea);

CREATE FUNCTION import_find(digest bytea, OUT id uuid, OUT secret uuid,
    OUT ended boolean, OUT current_ boolean)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = apikey, pg_temp
AS $$
    SELECT s.key_id, s.id, s.ended_at IS NOT NULL
            OR coalesce(s.expires_at <= now(), false), s.expires_at IS NULL
    FROM apikey.secret s WHERE s.digest = $1
$$;

COMMENT ON FUNCTION import_find(bytea) IS
    'The key that has a secret of this digest, and how that stands; runs as'
    ' the owner, who may read digests';

REVOKE ALL ON FUNCTION import_find(bytea) FROM PUBLIC, apikey_reader;


CREATE OR REPLACE FUNCTION import_differs(k key, b jsonb)
RETURNS text[]
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    was     jsonb := key_json(k);
    new_    key := merge_key(k, b);
    limits  jsonb := coalesce(nullif(b -> 'limits', 'null'), '[]');
BEGIN
    RETURN array_remove(ARRAY[
        CASE WHEN new_.name <> k.name THEN 'name' END,
        CASE WHEN b ? 'owner' AND b ->> 'owner' IS DISTINCT FROM
            was ->> 'owner' THEN 'owner' END,
        CASE WHEN new_.customer IS DISTINCT FROM k.customer
            THEN 'customer' END,
        CASE WHEN new_.plan IS DISTINCT FROM k.plan THEN 'plan' END,
        CASE WHEN b ->> 'prefix' <> k.prefix THEN 'prefix' END,
        CASE WHEN new_.scopes <> k.scopes THEN 'scopes' END,
        CASE WHEN new_.allowed_models IS DISTINCT FROM k.allowed_models
            THEN 'allowed_models' END,
        CASE WHEN new_.allowed_ips IS DISTINCT FROM k.allowed_ips
            THEN 'allowed_ips' END,
        CASE WHEN b ? 'limits'
            AND ARRAY(SELECT l FROM read_limits(limits) AS l)
                <> ARRAY(SELECT l FROM read_limits(was -> 'limits') AS l)
            THEN 'limits' END,
        CASE WHEN new_.metadata <> k.metadata THEN 'metadata' END,
        CASE WHEN new_.expires_at IS DISTINCT FROM k.expires_at
            THEN 'expires_at' END,
        CASE WHEN new_.enabled <> k.enabled THEN 'enabled' END,
        CASE WHEN read_time(b ->> 'created_at') <> k.created_at
            THEN 'created_at' END], NULL);
END
$$;

COMMENT ON FUNCTION import_differs(key, jsonb) IS
    'Members of a row that the key with its hash has otherwise; what the row'
    ' does not say, and counts that go on, are not compared';


CREATE OR REPLACE FUNCTION import_again(k key, ended boolean, b jsonb)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF k.revoked_at IS NOT NULL THEN
        RETURN wrong('/hash', 'duplicate',
            format('the revoked key %s has this hash', k.id));
    ELSIF ended THEN
        RETURN wrong('/hash', 'duplicate',
            format('an ended secret of key %s has this hash', k.id));
    END IF;

    RETURN (SELECT coalesce(jsonb_agg(wrong('/' || m, 'duplicate', format(
            'key %s has this hash and another %s: PATCH it', k.id, m)) -> 0),
            '[]')
        FROM unnest(import_differs(k, b)) AS m);
END
$$;

COMMENT ON FUNCTION import_again(key, boolean, jsonb) IS
    'What is wrong with a row whose hash is known; nothing: it is unchanged';


-- A starting value: what nodes count comes on top of it.

CREATE OR REPLACE FUNCTION import_use(k key, b jsonb)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    was   text := caller();
    uses  bigint := coalesce((b ->> 'usage_count')::numeric::bigint, 0);
    last  timestamptz := read_time(b ->> 'last_used_at');
BEGIN
    IF uses = 0 AND last IS NULL THEN
        RETURN;
    END IF;

    PERFORM set_config('apikey.caller', 'node', true);

    INSERT INTO key_usage AS u (key_id, requests, last_used_at)
    VALUES (k.id, uses, last)
    ON CONFLICT (key_id) DO UPDATE
        SET requests = u.requests + excluded.requests,
            last_used_at = greatest(u.last_used_at, excluded.last_used_at);

    PERFORM set_config('apikey.caller', was, true);
END
$$;

COMMENT ON FUNCTION import_use(key, jsonb) IS
    'usage_count and last_used_at of a key that was used elsewhere before';


-- As POST api-keys does it, with a secret that is there already.

CREATE OR REPLACE FUNCTION import_create(who jsonb, req jsonb, item jsonb,
    b jsonb, digest bytea, OUT id uuid, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    made  record;
BEGIN
    SELECT * INTO made FROM api_key_create(who, req || jsonb_build_object(
        'query', jsonb '{}', 'idempotency_key', NULL,
        'body', b - '{hash,alg,start,last4,created_at,usage_count,'
            'last_used_at}'::text[],
        'import', b,
        'secret', jsonb_build_object('id', uuid_v7(),
            'digest', encode(digest, 'hex'),
            'created_at', b ->> 'created_at',
            'start', coalesce(b ->> 'start', item ->> 'start'),
            'last4', coalesce(b ->> 'last4', item ->> 'last4'))));

    id := (made.body::json ->> 'id')::uuid;
    refresh := made.refresh;
END
$$;

COMMENT ON FUNCTION import_create(jsonb, jsonb, jsonb, jsonb, bytea) IS
    'Makes the key of a row';


CREATE OR REPLACE FUNCTION import_put(who jsonb, req jsonb, item jsonb,
    OUT result text, OUT id uuid, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    b       jsonb;
    plain   boolean := item ? 'digest';
    digest  bytea;
    known   uuid;
    ended   boolean;
    k       key;
    errors  jsonb;
BEGIN
    PERFORM fail_if(CASE WHEN item ? 'error'
        THEN jsonb_build_array(item -> 'error') ELSE '[]' END);

    b := read_body(item ->> 'json');
    errors := check_import(b, plain);

    IF errors = '[]' THEN
        digest := CASE WHEN plain THEN decode(item ->> 'digest', 'hex')
            WHEN b ->> 'alg' = 'sha256-last-segment'
                THEN last_segment(read_hash(b ->> 'hash'))
            ELSE read_hash(b ->> 'hash') END;

        SELECT f.id, f.ended INTO known, ended FROM import_find(digest) AS f;

        IF known IS NULL THEN
            SELECT * INTO id, refresh
            FROM import_create(who, req, item, b, digest);
            result := 'created';
            RETURN;
        END IF;
    END IF;

    -- a time that was still to come then may be over now

    errors := errors || (SELECT coalesce(jsonb_agg(e), '[]')
        FROM jsonb_array_elements(check_key(b - '{hash,alg,start,last4,'
            'created_at,usage_count,last_used_at}'::text[], true, '{}')) AS e
        WHERE known IS NULL OR e ->> 'location' <> '/expires_at'
            OR e ->> 'code' <> 'out_of_range');

    IF errors = '[]' THEN
        SELECT * INTO k FROM key x WHERE x.id = known;
        errors := import_again(k, ended, b);
    END IF;

    PERFORM fail_if(errors);
    result := 'unchanged';
    id := known;
END
$$;

COMMENT ON FUNCTION import_put(jsonb, jsonb, jsonb) IS
    'One row, which may fail';


-- What is wrong with the row fails the row; whatever else goes wrong fails
-- the batch.  Two imports of one hash at a time: the second finds the first's.

CREATE OR REPLACE FUNCTION import_row(who jsonb, req jsonb, item jsonb,
    OUT result text, OUT id uuid, OUT errors jsonb, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    state   text;
    detail  text;
    message text;
    code    text;
BEGIN
    errors := '[]';

    FOR i IN 1 .. 2 LOOP
        BEGIN
            SELECT * INTO result, id, refresh
            FROM import_put(who, req, item);
            RETURN;

        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE,
                detail = PG_EXCEPTION_DETAIL, message = MESSAGE_TEXT,
                code = PG_EXCEPTION_HINT;

            IF state = '23505' AND i = 1 THEN
                CONTINUE;
            ELSIF state !~ '^(AK4|22|23|54)' THEN
                RAISE;
            END IF;

            EXIT;
        END;
    END LOOP;

    result := 'failed';
    id := NULL;
    refresh := NULL;
    errors := CASE
        WHEN state !~ '^AK4'
            THEN wrong('', 'bad_value', 'it holds what cannot be stored')
        WHEN detail::jsonb = '[]' THEN wrong('', code, message)
        ELSE (SELECT jsonb_agg(e ORDER BY n)
              FROM jsonb_array_elements(detail::jsonb)
                  WITH ORDINALITY AS x (e, n)
              WHERE n <= 20) END;
END
$$;

COMMENT ON FUNCTION import_row(jsonb, jsonb, jsonb) IS
    'One row and what became of it; at most 20 errors';


CREATE OR REPLACE FUNCTION import_rows(who jsonb, req jsonb,
    OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    item       jsonb;
    one        record;
    results    text[] := '{}';
    created    int := 0;
    unchanged  int := 0;
    failed     int := 0;
    dry        boolean := query_value(req, 'dry_run') = 'true';
BEGIN
    refresh := '';

    FOR item IN SELECT jsonb_array_elements(req -> 'body') LOOP
        one := import_row(who, req, item);

        created := created + (one.result = 'created')::int;
        unchanged := unchanged + (one.result = 'unchanged')::int;
        failed := failed + (one.result = 'failed')::int;
        refresh := refresh || coalesce(one.refresh, '');

        results := results || (SELECT row_to_json(x)::text
            FROM (SELECT item -> 'row' AS row, one.result,
                one.id,
                (SELECT coalesce(array_to_json(array_agg(row_to_json(e)
                        ORDER BY n)), '[]')
                 FROM jsonb_array_elements(one.errors)
                     WITH ORDINALITY AS y (v, n),
                     LATERAL (SELECT v ->> 'location' AS location,
                         v ->> 'code' AS code, v ->> 'message' AS message)
                     AS e) AS errors) AS x);
    END LOOP;

    body := format('{"dry_run":%s,"created":%s,"unchanged":%s,"failed":%s,'
        '"results":[%s]}', to_json(coalesce(dry, false)), created, unchanged,
        failed, array_to_string(results, ','));
END
$$;

COMMENT ON FUNCTION import_rows(jsonb, jsonb) IS 'The rows of a batch';


-- A dry run does everything and then undoes it: what it finds is what would
-- be, but for rows of other batches.

CREATE OR REPLACE FUNCTION api_key_import(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    PERFORM allow('operator');
    PERFORM fail_if(check_request(req, 'dry_run')
        || check_flag(req, 'dry_run'));

    IF jsonb_typeof(req -> 'body') IS DISTINCT FROM 'array' THEN
        PERFORM fail_if(wrong('', 'bad_type', 'the body must be an array'));
    END IF;

    BEGIN
        SELECT * INTO body, refresh FROM import_rows(who, req);

        IF query_value(req, 'dry_run') = 'true' THEN
            RAISE EXCEPTION USING ERRCODE = 'AKDRY';
        END IF;

    EXCEPTION WHEN SQLSTATE 'AKDRY' THEN
        refresh := '';
    END;

    status := 200;
END
$$;

COMMENT ON FUNCTION api_key_import(jsonb, jsonb) IS
    'POST api-keys/import, one batch of its rows';

GRANT EXECUTE ON FUNCTION read_hash(text), last_segment(bytea),
    check_hash(jsonb, boolean), check_past(jsonb, text),
    check_import(jsonb, boolean), import_find(bytea),
    import_differs(key, jsonb), import_again(key, boolean, jsonb),
    import_use(key, jsonb),
    import_create(jsonb, jsonb, jsonb, jsonb, bytea),
    import_put(jsonb, jsonb, jsonb), import_row(jsonb, jsonb, jsonb),
    import_rows(jsonb, jsonb), api_key_import(jsonb, jsonb)
    TO apikey_gateway;
