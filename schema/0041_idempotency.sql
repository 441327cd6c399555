--
-- Idempotency-Key: the answer of a POST is kept for a day under who asked and
-- the key it sent, in the transaction of what it did.  The same request again
-- gets the answer again; another request under that key is a mistake.
--
-- api() does it for every function.  What has a path of its own (a stream)
-- calls the same three: idempotency_key(), idempotency_find() before it does
-- anything, idempotency_keep() in the transaction of its work.
--
-- A verify is decided and charged outside Postgres: api_verify_claim() before
-- it, api_verify_keep() after it.  A claim whose node died is over after half
-- a minute; nginx decides nothing for a claim of more than ten seconds, and
-- waits no longer than twenty to have the answer kept.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


-- One that is too long or empty is check_request()'s to tell.

CREATE OR REPLACE FUNCTION idempotency_key(req jsonb)
RETURNS text
LANGUAGE sql STABLE
RETURN CASE WHEN req ->> 'method' = 'POST' AND caller_actor() IS NOT NULL
        AND char_length(req ->> 'idempotency_key') BETWEEN 1 AND 255
    THEN req ->> 'idempotency_key' END;

COMMENT ON FUNCTION idempotency_key(jsonb) IS
    'The Idempotency-Key that this request is to be kept under, or null';


CREATE OR REPLACE FUNCTION idempotency_digest(fn text, req jsonb)
RETURNS bytea
LANGUAGE sql STABLE
RETURN sha256(convert_to(jsonb_build_array(fn, req -> 'path',
    req -> 'query', req -> 'body')::text, 'UTF8'));

COMMENT ON FUNCTION idempotency_digest(text, jsonb) IS
    'What makes two requests the same; JSON is compared by value';


-- The lock, held to the end of the transaction, makes the second of two wait.

CREATE OR REPLACE FUNCTION idempotency_find(once text, fn text, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    kept idempotency;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(caller_actor() || E'\n'
        || once, 0));

    SELECT * INTO kept FROM idempotency i
    WHERE i.actor = caller_actor() AND i.key = once
        AND i.at > now() - CASE WHEN i.claim IS NULL THEN interval '24 hours'
            ELSE interval '30 seconds' END;

    IF NOT FOUND THEN
        RETURN;
    END IF;

    IF kept.digest <> idempotency_digest(fn, req) THEN
        PERFORM fail(422, 'idempotency_mismatch', 'This Idempotency-Key was'
            ' sent with another request within the last 24 hours.');
    END IF;

    status := kept.status;
    headers := kept.headers || E'Idempotent-Replayed: true\n';
    body := kept.body;
    refresh := kept.refresh;
END
$$;

COMMENT ON FUNCTION idempotency_find(text, text, jsonb) IS
    'The answer kept under this key, status null when there is none, 0 while a'
    ' verify with it is under way; waits for other requests with it';


-- A new key's plaintext never came here: null stands in its place, and in that
-- of a webhook's secret.

CREATE OR REPLACE FUNCTION idempotency_keep(once text, fn text, req jsonb,
    status int, headers text, body text, refresh text)
RETURNS void
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    INSERT INTO idempotency (actor, key, digest, status, headers, body,
        refresh)
    VALUES (caller_actor(), once, idempotency_digest(fn, req),
        CASE status WHEN 201 THEN 200 ELSE status END, headers,
        regexp_replace(regexp_replace(body, '"key":"@SECRET@"',
            '"key":null'), '"secret":"whsec_[^"]*"', '"secret":null'),
        refresh)
    ON CONFLICT (actor, key) DO UPDATE SET digest = excluded.digest,
        status = excluded.status, headers = excluded.headers,
        body = excluded.body, refresh = excluded.refresh, at = now(),
        claim = NULL;
END;

COMMENT ON FUNCTION idempotency_keep(text, text, jsonb, int, text, text, text)
    IS 'Keeps an answer; one that is over makes room';


-- Its body is the verify as nginx read it, with the key's digest.

CREATE OR REPLACE FUNCTION api_verify_claim(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    once  text := idempotency_key(req);
    age   numeric;
BEGIN
    PERFORM allow('operator', 'owner');

    SELECT * INTO status, headers, body, refresh
    FROM idempotency_find(once, 'verify', req);

    IF status IS NULL THEN
        INSERT INTO idempotency (actor, key, digest, status, headers, body,
            refresh, at, claim)
        VALUES (caller_actor(), once, idempotency_digest('verify', req), 0,
            '', '', '', clock_timestamp(), read_uuid(req ->> 'request_id'))
        ON CONFLICT (actor, key) DO UPDATE SET digest = excluded.digest,
            status = 0, headers = '', body = '', refresh = '',
            at = excluded.at, claim = excluded.claim;

        status := 202;

    ELSIF status = 0 THEN
        SELECT extract(epoch FROM clock_timestamp() - i.at) INTO age
        FROM idempotency i
        WHERE i.actor = caller_actor() AND i.key = once;

        -- the first is about to be answered, or was cut off

        status := 409;
        headers := format(E'Retry-After: %s\n', CASE WHEN age < 5 THEN 1
            ELSE greatest(ceil(30 - age), 1) END);
        body := problem_json(409, 'conflict', 'A verify with this'
            ' Idempotency-Key has no answer yet. Retry-After says when to ask'
            ' again.', req ->> 'request_id', '[]');
    END IF;
END
$$;

COMMENT ON FUNCTION api_verify_claim(jsonb, jsonb) IS
    'Before a verify with an Idempotency-Key: its answer if there is one, else'
    ' 202: nginx decides it and calls verify_keep';


CREATE OR REPLACE FUNCTION api_verify_keep(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF req #>> '{body,answer}' IS NULL THEN
        DELETE FROM idempotency i
        WHERE i.actor = caller_actor() AND i.key = idempotency_key(req)
            AND i.claim = read_uuid(req ->> 'request_id');

    ELSE
        UPDATE idempotency i SET status = 200,
            body = req #>> '{body,answer}', at = now(), claim = NULL
        WHERE i.actor = caller_actor() AND i.key = idempotency_key(req)
            AND i.claim = read_uuid(req ->> 'request_id');
    END IF;

    status := 204;
END
$$;

COMMENT ON FUNCTION api_verify_keep(jsonb, jsonb) IS
    'Behind a verify: keeps its answer, or gives up its claim where it charged'
    ' nothing';


CREATE OR REPLACE FUNCTION idempotency_drop()
RETURNS int
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    was  text := coalesce(caller(), '');
    n    int;
BEGIN
    PERFORM set_config('apikey.caller', 'node', true);

    DELETE FROM idempotency i
    WHERE (i.actor, i.key) IN (SELECT o.actor, o.key FROM idempotency o
                               WHERE o.at <= now() - interval '24 hours'
                               ORDER BY o.at LIMIT 10000
                               FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS n = ROW_COUNT;

    PERFORM set_config('apikey.caller', was, true);

    RETURN n;
END
$$;

COMMENT ON FUNCTION idempotency_drop() IS
    'Removes answers that are over, at most 10000; every node calls it once a'
    ' minute, with its heartbeat';

GRANT EXECUTE ON FUNCTION idempotency_key(jsonb),
    idempotency_digest(text, jsonb), idempotency_find(text, text, jsonb),
    idempotency_keep(text, text, jsonb, int, text, text, text),
    api_verify_claim(jsonb, jsonb), api_verify_keep(jsonb, jsonb),
    idempotency_drop() TO apikey_gateway;
