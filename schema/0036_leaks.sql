--
-- Reports of leaked keys: POST leaks in the form of GitHub's secret scanning.
-- nginx checks the signature with a key of the setting leak_keys and sends
-- digests; what is done about a key is the setting leak_action.
--

SET LOCAL client_min_messages = warning;
SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE TABLE IF NOT EXISTS leak (
    id          uuid         PRIMARY KEY DEFAULT uuid_v7(),
    at          timestamptz  NOT NULL DEFAULT now(),
    key_id      uuid         NOT NULL REFERENCES key,
    secret_id   uuid         NOT NULL REFERENCES secret,
    type        text,
    url         text,
    source      text,
    action      text         NOT NULL,
    request_id  uuid
);

COMMENT ON TABLE leak IS
    'Keys that were found where everybody can read them, as reported';
COMMENT ON COLUMN leak.secret_id IS 'Which of the key''s secrets';
COMMENT ON COLUMN leak.type IS 'What GitHub calls keys of this kind';
COMMENT ON COLUMN leak.url IS 'Where it was found';
COMMENT ON COLUMN leak.source IS 'In what it was found: content, commit, ...';
COMMENT ON COLUMN leak.action IS
    'What was done: notify, disable, expire, or none: it worked no more';

CREATE INDEX IF NOT EXISTS leak_at ON leak (at, id);
CREATE INDEX IF NOT EXISTS leak_key ON leak (key_id, at);

ALTER TABLE leak ENABLE ROW LEVEL SECURITY;

DROP POLICY IF EXISTS operator_add ON leak;
DROP POLICY IF EXISTS operator_see ON leak;

CREATE POLICY operator_add ON leak FOR INSERT TO apikey_gateway
    WITH CHECK ((SELECT caller()) = 'operator');
CREATE POLICY operator_see ON leak FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) IN ('operator', 'operator_read'));

GRANT SELECT, INSERT ON leak TO apikey_gateway;


CREATE OR REPLACE VIEW leak_log AS
SELECT l.id, l.at AS "time", l.key_id AS key, k.name AS key_name,
    o.external AS owner, s.start, s.last4, l.type, l.url, l.source, l.action,
    l.request_id
FROM leak l
    JOIN key k ON k.id = l.key_id
    JOIN secret s ON s.id = l.secret_id
    LEFT JOIN owner o ON o.id = k.owner_id;

COMMENT ON VIEW leak_log IS 'Reports of leaked keys';

GRANT SELECT ON leak_log TO apikey_reader;


CREATE OR REPLACE FUNCTION check_leak_keys(value text)
RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF value = '' OR jsonb_array_length(value::jsonb -> 'public_keys') > 0
        AND NOT EXISTS (SELECT
            FROM jsonb_array_elements(value::jsonb -> 'public_keys') AS k
            WHERE coalesce(k ->> 'key_identifier', '') = ''
                OR k ->> 'key' !~ '^-----BEGIN PUBLIC KEY-----\n'
                OR k ->> 'key' IS NULL)
    THEN
        RETURN NULL;
    END IF;

    RETURN 'a file as api.github.com/meta/public_keys/secret_scanning';

EXCEPTION WHEN data_exception THEN
    RETURN 'a file as api.github.com/meta/public_keys/secret_scanning';
END
$$;

COMMENT ON FUNCTION check_leak_keys(text) IS
    'What is wrong with the setting leak_keys, or null';


CREATE OR REPLACE FUNCTION api_leak_keys(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    status := 200;
    body := coalesce((SELECT s.value FROM setting s
                      WHERE s.name = 'leak_keys'), '');
END
$$;

COMMENT ON FUNCTION api_leak_keys(jsonb, jsonb) IS
    'The public keys that sign reports; nginx asks for them';


-- The current secret of a key stands for the key.  One in its grace is ended,
-- or ends sooner, alone: the key has been rotated already.

CREATE OR REPLACE FUNCTION leak_act(k key, secret uuid, current_ boolean,
    action text)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    until timestamptz := now() + coalesce(read_duration((SELECT s.value
        FROM setting s WHERE s.name = 'leak_expire')), 86400000000)::bigint
        * interval '1 microsecond';
BEGIN
    CASE
        WHEN action = 'disable' AND current_ THEN
            UPDATE key SET enabled = false, disabled_by_owner = false,
                updated_at = now()
            WHERE id = k.id;

        WHEN action = 'disable' THEN
            UPDATE apikey.secret s SET ended_at = now() WHERE s.id = secret;

        WHEN action = 'expire' AND current_ THEN
            UPDATE key SET expires_at = least(expires_at, until),
                updated_at = now()
            WHERE id = k.id;
            UPDATE apikey.secret s SET expires_at = least(s.expires_at, until)
            WHERE s.key_id = k.id AND s.ended_at IS NULL
                AND s.expires_at > until;

        WHEN action = 'expire' THEN
            UPDATE apikey.secret s SET expires_at = least(s.expires_at, until)
            WHERE s.id = secret;

        ELSE
            NULL;
    END CASE;
END
$$;

COMMENT ON FUNCTION leak_act(key, uuid, boolean, text) IS
    'Disables or expires what has leaked';


CREATE OR REPLACE FUNCTION leak_report(who jsonb, req jsonb, item jsonb)
RETURNS uuid
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    seen    record;
    k       key;
    before  json;
    action  text := coalesce((SELECT s.value FROM setting s
                              WHERE s.name = 'leak_action'), 'notify');
BEGIN
    SELECT f.* INTO seen
    FROM unnest(ARRAY[item ->> 'digest', item ->> 'last']) AS d,
        LATERAL import_find(decode(d, 'hex')) AS f
    WHERE d IS NOT NULL AND f.id IS NOT NULL
    LIMIT 1;

    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    SELECT * INTO k FROM key WHERE id = seen.id FOR UPDATE;

    IF seen.ended OR key_status(k) <> 'active' THEN
        action := 'none';
    END IF;

    IF action IN ('disable', 'expire') THEN
        before := key_json(k);
        PERFORM leak_act(k, seen.secret, seen.current_, action);
        SELECT * INTO k FROM key WHERE id = k.id;
        PERFORM write_audit(who, req, 'leak', 'key', k.id, before,
            key_json(k));
    END IF;

    INSERT INTO leak (key_id, secret_id, type, url, source, action,
        request_id)
    VALUES (k.id, seen.secret, item ->> 'type', item ->> 'url',
        item ->> 'source', action, read_uuid(req ->> 'request_id'));

    RETURN k.id;
END
$$;

COMMENT ON FUNCTION leak_report(jsonb, jsonb, jsonb) IS
    'One token of a report; the key it is of, or null';


CREATE OR REPLACE FUNCTION api_leak_report(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    item    jsonb;
    id      uuid;
    labels  text[] := '{}';
BEGIN
    PERFORM allow('operator');
    PERFORM fail_if(check_request(req));

    refresh := '';

    FOR item IN SELECT jsonb_array_elements(req -> 'body') LOOP
        id := leak_report(who, req, item);

        IF id IS NOT NULL THEN
            refresh := refresh || 'key ' || id || E'\n';
        END IF;

        labels := labels || (SELECT row_to_json(x)::text
            FROM (SELECT item ->> 'digest' AS token_hash,
                coalesce(item ->> 'type', '') AS token_type,
                CASE WHEN id IS NULL THEN 'false_positive'
                    ELSE 'true_positive' END AS label) AS x);
    END LOOP;

    status := 200;
    body := '[' || array_to_string(labels, ',') || ']';
END
$$;

COMMENT ON FUNCTION api_leak_report(jsonb, jsonb) IS
    'POST leaks: digests of the tokens, in the place of the tokens';

GRANT EXECUTE ON FUNCTION check_leak_keys(text), api_leak_keys(jsonb, jsonb),
    leak_act(key, uuid, boolean, text), leak_report(jsonb, jsonb, jsonb),
    api_leak_report(jsonb, jsonb) TO apikey_gateway;
