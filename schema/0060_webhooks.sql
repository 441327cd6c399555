--
-- Webhooks: who is told of what, and the outbox.  event_emit() queues an event
-- in the transaction of what has happened; one worker of any node claims what
-- is due (webhook_claim), sends it, and says what came of it (webhook_done).
--
-- A claim is a lease: what a node that died was sending is due again when it is
-- over, so an event may arrive twice, always under the same id.  A webhook has
-- one delivery under way at a time: a receiver that hangs holds up itself only.
--

SET LOCAL client_min_messages = warning;
SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE TABLE IF NOT EXISTS webhook (
    id             uuid         PRIMARY KEY DEFAULT uuid_v7(),
    owner_id       uuid         REFERENCES owner,
    url            text         NOT NULL
                                CHECK (char_length(url) BETWEEN 8 AND 2048),
    description    text         CHECK (char_length(description)
                                       BETWEEN 1 AND 255),
    events         text[],
    enabled        boolean      NOT NULL DEFAULT true,
    failures       int          NOT NULL DEFAULT 0,
    not_before     timestamptz,
    claimed_until  timestamptz,
    claim          uuid,
    delivered_at   timestamptz,
    created_at     timestamptz  NOT NULL DEFAULT now(),
    updated_at     timestamptz  NOT NULL DEFAULT now(),
    deleted_at     timestamptz,
    version        bigint       NOT NULL DEFAULT nextval('apikey.version')
) WITH (fillfactor = 50);

COMMENT ON TABLE webhook IS 'Where events are sent to';
COMMENT ON COLUMN webhook.owner_id IS
    'Whose events it gets; null: those of the operators';
COMMENT ON COLUMN webhook.events IS
    'Types, or patterns of types as alert.*; null: all';
COMMENT ON COLUMN webhook.failures IS
    'Attempts that failed since the last that did not';
COMMENT ON COLUMN webhook.not_before IS
    'Nothing is sent before, because the last attempts failed';
COMMENT ON COLUMN webhook.claimed_until IS
    'A node is sending; it is taken to be dead when this is over';
COMMENT ON COLUMN webhook.claim IS 'The delivery that is being sent';
COMMENT ON COLUMN webhook.delivered_at IS 'When something last arrived';
COMMENT ON COLUMN webhook.version IS
    'Number of the last change in the API; the ETag';

CREATE INDEX IF NOT EXISTS webhook_owner ON webhook (owner_id, id);


CREATE TABLE IF NOT EXISTS webhook_secret (
    id          uuid         PRIMARY KEY DEFAULT uuid_v7(),
    webhook_id  uuid         NOT NULL REFERENCES webhook,
    secret      text         NOT NULL CHECK (secret ~ '^whsec_[A-Za-z0-9+/]+=*$'),
    created_at  timestamptz  NOT NULL DEFAULT now(),
    expires_at  timestamptz
);

COMMENT ON TABLE webhook_secret IS
    'What deliveries are signed with: each by all secrets that still hold';
COMMENT ON COLUMN webhook_secret.secret IS
    'As receivers know it; signing needs it as it is';
COMMENT ON COLUMN webhook_secret.expires_at IS
    'End of its grace after a rotation; null: the current one';

CREATE INDEX IF NOT EXISTS webhook_secret_of ON webhook_secret (webhook_id);


CREATE TABLE IF NOT EXISTS webhook_event (
    id        uuid         PRIMARY KEY DEFAULT uuid_v7(),
    type      text         NOT NULL CHECK (type ~ '^[a-z_]+([.][a-z_]+)+$'),
    owner_id  uuid,
    at        timestamptz  NOT NULL DEFAULT now(),
    data      jsonb        NOT NULL CHECK (jsonb_typeof(data) = 'object')
);

COMMENT ON TABLE webhook_event IS
    'What webhooks were told, for 30 days';
COMMENT ON COLUMN webhook_event.id IS
    'webhook-id: the same in every delivery and attempt';
COMMENT ON COLUMN webhook_event.owner_id IS 'Whose; null: the operators''';

CREATE INDEX IF NOT EXISTS webhook_event_at ON webhook_event (at);


CREATE TABLE IF NOT EXISTS webhook_delivery (
    id            uuid         PRIMARY KEY DEFAULT uuid_v7(),
    webhook_id    uuid         NOT NULL REFERENCES webhook,
    event_id      uuid         NOT NULL
                               REFERENCES webhook_event ON DELETE CASCADE,
    state         text         NOT NULL DEFAULT 'pending' CHECK (state IN
                               ('pending', 'delivered', 'failed')),
    attempt       int          NOT NULL DEFAULT 0,
    next_at       timestamptz  DEFAULT now(),
    delivered_at  timestamptz,
    created_at    timestamptz  NOT NULL DEFAULT now(),
    UNIQUE (event_id, webhook_id)
) WITH (fillfactor = 70);

COMMENT ON TABLE webhook_delivery IS 'An event on its way to one webhook';
COMMENT ON COLUMN webhook_delivery.attempt IS 'Attempts begun';
COMMENT ON COLUMN webhook_delivery.next_at IS
    'The next attempt is not before; null: there is none';

CREATE INDEX IF NOT EXISTS webhook_delivery_due
    ON webhook_delivery (webhook_id, next_at, id) WHERE state = 'pending';
CREATE INDEX IF NOT EXISTS webhook_delivery_of
    ON webhook_delivery (webhook_id, id);


CREATE TABLE IF NOT EXISTS webhook_attempt (
    delivery_id  uuid         NOT NULL
                              REFERENCES webhook_delivery ON DELETE CASCADE,
    attempt      int          NOT NULL,
    at           timestamptz  NOT NULL DEFAULT clock_timestamp(),
    node         uuid         NOT NULL,
    ended_at     timestamptz,
    status_code  int,
    error        text,
    duration_ms  int,
    PRIMARY KEY (delivery_id, attempt)
);

COMMENT ON TABLE webhook_attempt IS 'The log of deliveries';
COMMENT ON COLUMN webhook_attempt.ended_at IS
    'null: it is under way, or its node died';
COMMENT ON COLUMN webhook_attempt.status_code IS 'null: there was no answer';
COMMENT ON COLUMN webhook_attempt.error IS 'Why it counts as failed';


-- Policies: an owner has webhooks of its own, a node sends for all.

DO $$
DECLARE
    t     text;
    mine  text;
BEGIN
    FOREACH t IN ARRAY ARRAY['webhook', 'webhook_secret', 'webhook_event',
        'webhook_delivery', 'webhook_attempt']
    LOOP
        mine := CASE
            WHEN t IN ('webhook', 'webhook_event')
                THEN 'owner_id = (SELECT caller_owner())'
            WHEN t = 'webhook_attempt' THEN '(SELECT d.webhook_id FROM'
                ' apikey.webhook_delivery d WHERE d.id = delivery_id)'
                ' IS NOT NULL'
            ELSE '(SELECT w.owner_id FROM apikey.webhook w'
                ' WHERE w.id = webhook_id) = (SELECT caller_owner())' END;

        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('DROP POLICY IF EXISTS operator_all ON %I', t);
        EXECUTE format('DROP POLICY IF EXISTS operator_see ON %I', t);
        EXECUTE format('DROP POLICY IF EXISTS owner_all ON %I', t);
        EXECUTE format('CREATE POLICY operator_all ON %I TO apikey_gateway'
            ' USING ((SELECT caller()) IN (''operator'', ''node''))', t);
        EXECUTE format('CREATE POLICY operator_see ON %I FOR SELECT TO'
            ' apikey_gateway USING ((SELECT caller()) = ''operator_read'')',
            t);
        EXECUTE format('CREATE POLICY owner_all ON %I TO apikey_gateway'
            ' USING ((SELECT caller()) = ''owner'' AND %s)', t, mine);
    END LOOP;
END
$$;

GRANT SELECT, INSERT, UPDATE ON webhook, webhook_delivery, webhook_attempt
    TO apikey_gateway;
GRANT SELECT, INSERT, DELETE ON webhook_event, webhook_secret
    TO apikey_gateway;
GRANT UPDATE (expires_at) ON webhook_secret TO apikey_gateway;


-- A new type is a line here and in docs/alerts.md.

CREATE OR REPLACE FUNCTION event_types()
RETURNS text[]
LANGUAGE sql IMMUTABLE
RETURN ARRAY['alert.firing', 'alert.resolved', 'export.completed',
    'export.failed', 'webhook.test'];

COMMENT ON FUNCTION event_types() IS 'What webhooks may be told';


CREATE OR REPLACE FUNCTION event_emit(a_type text, a_data jsonb,
    a_owner uuid DEFAULT NULL, a_webhook uuid DEFAULT NULL)
RETURNS uuid
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    new_id  uuid := uuid_v7();
BEGIN
    INSERT INTO webhook_event (id, type, owner_id, data)
    VALUES (new_id, a_type, a_owner, a_data);

    INSERT INTO webhook_delivery (webhook_id, event_id)
    SELECT w.id, new_id
    FROM webhook w
    WHERE w.owner_id IS NOT DISTINCT FROM a_owner AND w.deleted_at IS NULL
        AND w.enabled AND (a_webhook IS NULL AND (w.events IS NULL
                OR EXISTS (SELECT FROM unnest(w.events) AS e
                           WHERE pattern_covers(e, a_type)))
            OR w.id = a_webhook);

    RETURN new_id;
END
$$;

COMMENT ON FUNCTION event_emit(text, jsonb, uuid, uuid) IS
    'Queues an event for the webhooks of an owner (null: the operators'') that'
    ' want its type, or for this one alone; returns its id';


-- What is sent: the same bytes in every attempt, since all of them are signed
-- under one id.

CREATE OR REPLACE FUNCTION event_body(e webhook_event)
RETURNS text
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN (SELECT row_to_json(x)::text FROM (SELECT (e).type,
    time_text((e).at) AS "timestamp", (e).data) AS x);

COMMENT ON FUNCTION event_body(webhook_event) IS 'The body of a delivery';


-- The schedule of the Standard Webhooks specification: ten attempts in some
-- three days.  A tenth more or less, or all that failed together come together.

CREATE OR REPLACE FUNCTION webhook_backoff(attempt int)
RETURNS interval
LANGUAGE sql VOLATILE
RETURN (ARRAY['5 s', '5 min', '30 min', '2 h', '5 h', '10 h', '14 h', '20 h',
    '24 h']::interval[])[attempt] * (1 + random() / 10);

COMMENT ON FUNCTION webhook_backoff(int) IS
    'Until the next attempt after this one; null: that was the last';


-- A skip scan: as many index look-ups as there are webhooks with something to
-- send, however much waits for one that fails.

CREATE OR REPLACE FUNCTION webhook_claim(a_node uuid, a_most int)
RETURNS TABLE (delivery uuid, attempt int, event uuid, url text, body text,
    secrets text, allowed text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    w  webhook;
    d  webhook_delivery;
BEGIN
    PERFORM set_config('apikey.caller', 'node', true);

    FOR w IN
        WITH RECURSIVE p (webhook_id) AS (
            (SELECT d.webhook_id FROM webhook_delivery d
             WHERE d.state = 'pending' ORDER BY d.webhook_id LIMIT 1)
            UNION ALL
            SELECT (SELECT d.webhook_id FROM webhook_delivery d
                    WHERE d.state = 'pending' AND d.webhook_id > p.webhook_id
                    ORDER BY d.webhook_id LIMIT 1)
            FROM p WHERE p.webhook_id IS NOT NULL)
        SELECT x.* FROM webhook x
        WHERE x.id IN (SELECT p.webhook_id FROM p)
            AND x.enabled AND x.deleted_at IS NULL
            AND coalesce(x.not_before, '-infinity') <= now()
            AND coalesce(x.claimed_until, '-infinity') <= now()
            AND EXISTS (SELECT FROM webhook_delivery d
                        WHERE d.webhook_id = x.id AND d.state = 'pending'
                            AND d.next_at <= now())
        ORDER BY x.delivered_at NULLS FIRST, x.id
        LIMIT a_most
        FOR NO KEY UPDATE OF x SKIP LOCKED
    LOOP
        UPDATE webhook_delivery u SET attempt = u.attempt + 1
        WHERE u.id = (SELECT o.id FROM webhook_delivery o
                      WHERE o.webhook_id = w.id AND o.state = 'pending'
                          AND o.next_at <= now()
                      ORDER BY o.next_at, o.id LIMIT 1)
        RETURNING * INTO d;

        CONTINUE WHEN d.id IS NULL;

        INSERT INTO webhook_attempt (delivery_id, attempt, node)
        VALUES (d.id, d.attempt, a_node);

        UPDATE webhook u
        SET claimed_until = now() + interval '60 s', claim = d.id
        WHERE u.id = w.id;

        RETURN QUERY SELECT d.id, d.attempt, e.id, w.url, event_body(e),
            (SELECT string_agg(s.secret, ' ' ORDER BY s.created_at DESC)
             FROM webhook_secret s
             WHERE s.webhook_id = w.id
                 AND coalesce(s.expires_at, 'infinity') > now()),
            coalesce((SELECT s.value FROM setting s
                      WHERE s.name = 'webhook_allow'), '')
        FROM webhook_event e WHERE e.id = d.event_id;
    END LOOP;
END
$$;

COMMENT ON FUNCTION webhook_claim(uuid, int) IS
    'What this node is to send now, one delivery a webhook, with the secrets'
    ' to sign it by and the private networks it may reach';


-- Who comes late, because another node took over meanwhile, says only what it
-- saw: that it was delivered ends the delivery all the same.

CREATE OR REPLACE FUNCTION webhook_done(a_delivery uuid, a_attempt int,
    a_status int, a_error text, a_ms int)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    ok    boolean := coalesce(a_status BETWEEN 200 AND 299, false)
                     AND a_error IS NULL;
    w     webhook;
    d     webhook_delivery;
    next  interval := webhook_backoff(a_attempt);
BEGIN
    PERFORM set_config('apikey.caller', 'node', true);

    -- in the order of webhook_claim()

    SELECT x.* INTO w FROM webhook x
    WHERE x.id = (SELECT y.webhook_id FROM webhook_delivery y
                  WHERE y.id = a_delivery)
    FOR NO KEY UPDATE;
    SELECT * INTO d FROM webhook_delivery y WHERE y.id = a_delivery
    FOR NO KEY UPDATE;

    UPDATE webhook_attempt t
    SET ended_at = clock_timestamp(), status_code = a_status,
        error = CASE WHEN NOT ok THEN coalesce(a_error,
            'the answer was ' || a_status) END, duration_ms = a_ms
    WHERE t.delivery_id = a_delivery AND t.attempt = a_attempt;

    IF NOT FOUND THEN
        RETURN false;
    END IF;

    UPDATE webhook SET claimed_until = NULL, claim = NULL
    WHERE id = w.id AND claim = d.id AND d.attempt = a_attempt;

    IF d.state = 'delivered' THEN
        RETURN false;
    END IF;

    IF (SELECT e.type FROM webhook_event e WHERE e.id = d.event_id)
        = 'webhook.test'
    THEN
        next := NULL;
    END IF;

    IF ok THEN
        UPDATE webhook_delivery SET state = 'delivered', next_at = NULL,
            delivered_at = now() WHERE id = d.id;
        UPDATE webhook SET failures = 0, not_before = NULL,
            delivered_at = now() WHERE id = w.id;

    ELSIF d.attempt = a_attempt AND d.state = 'pending' THEN
        UPDATE webhook_delivery
        SET state = CASE WHEN next IS NULL OR a_status = 410 THEN 'failed'
                ELSE 'pending' END,
            next_at = CASE WHEN a_status IS DISTINCT FROM 410
                THEN now() + next END
        WHERE id = d.id;

        UPDATE webhook SET failures = w.failures + 1,
            not_before = now() + least(interval '5 min',
                interval '5 s' * power(2, least(w.failures, 10))),
            enabled = w.enabled AND a_status IS DISTINCT FROM 410,
            version = CASE a_status WHEN 410 THEN nextval('apikey.version')
                ELSE w.version END
        WHERE id = w.id;

        -- as of one that is deleted: nobody wants the others either

        IF a_status = 410 THEN
            UPDATE webhook_delivery SET state = 'failed', next_at = NULL
            WHERE webhook_id = w.id AND state = 'pending';
        END IF;
    END IF;

    RETURN ok;
END
$$;

COMMENT ON FUNCTION webhook_done(uuid, int, int, text, int) IS
    'What came of an attempt: delivered, to be tried again, or given up; 410'
    ' disables the webhook';


CREATE OR REPLACE FUNCTION webhook_drop()
RETURNS int
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    was  text := coalesce(caller(), '');
    n    int;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('apikey.webhook_drop')) THEN
        RETURN 0;
    END IF;

    PERFORM set_config('apikey.caller', 'node', true);

    DELETE FROM webhook_event e
    WHERE e.id IN (SELECT o.id FROM webhook_event o
                   WHERE o.at < now() - interval '30 days'
                   ORDER BY o.at LIMIT 10000);
    GET DIAGNOSTICS n = ROW_COUNT;

    DELETE FROM webhook_secret s WHERE s.expires_at <= now();

    PERFORM set_config('apikey.caller', was, true);

    RETURN n;
END
$$;

COMMENT ON FUNCTION webhook_drop() IS
    'Forgets events of 30 days ago with their deliveries, and secrets that are'
    ' over; a part of every heartbeat';

GRANT EXECUTE ON FUNCTION event_types(), event_emit(text, jsonb, uuid, uuid),
    event_body(webhook_event), webhook_backoff(int),
    webhook_claim(uuid, int),
    webhook_done(uuid, int, int, text, int), webhook_drop()
    TO apikey_gateway;
