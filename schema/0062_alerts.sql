--
-- Alerts: rules, what of them is firing, and their evaluation.  alert_turn() is
-- called by every node and works in one of them at a time; what happened is
-- written to the log and handed to webhooks in the same transaction, so each
-- threshold is told once.
--
-- A rule is observed for a subject ("key UUID limit", "node UUID"): each of its
-- thresholds has a state of its own there.  It fires once in a period (a
-- calendar's, or its length of time) and is resolved when it is not so any
-- more, or when nobody has seen it for a while.
--

SET LOCAL client_min_messages = warning;
SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE TABLE IF NOT EXISTS alert (
    id           uuid         PRIMARY KEY DEFAULT uuid_v7(),
    owner_id     uuid         REFERENCES owner,
    name         text         NOT NULL
                              CHECK (char_length(name) BETWEEN 1 AND 255),
    kind         text         NOT NULL CHECK (kind IN ('limit', 'spend',
                              'expiry', 'unknown_price', 'journal_backlog')),
    thresholds   numeric[]    NOT NULL,
    match_key    uuid,
    match_owner  text,
    match_limit  text,
    per          text         CHECK (per IN ('key', 'owner', 'all')),
    window_text  text         CHECK (window_text IN ('day', 'week', 'month',
                              'total')),
    enabled      boolean      NOT NULL DEFAULT true,
    fired_at     timestamptz,
    created_at   timestamptz  NOT NULL DEFAULT now(),
    updated_at   timestamptz  NOT NULL DEFAULT now(),
    deleted_at   timestamptz,
    version      bigint       NOT NULL DEFAULT nextval('apikey.version')
);

COMMENT ON TABLE alert IS 'Rules: what is to be told when';
COMMENT ON COLUMN alert.owner_id IS
    'Whose rule it is: it sees what is this owner''s only, and its webhooks are'
    ' told; null: the operators''';
COMMENT ON COLUMN alert.thresholds IS
    'Rising: percent, nano-units, microseconds ahead or behind, requests';
COMMENT ON COLUMN alert.match_key IS 'Only this key; null: any';
COMMENT ON COLUMN alert.match_owner IS 'Only of this owner; null: any';
COMMENT ON COLUMN alert.match_limit IS
    'Pattern of limit names, owner:NAME for an owner''s; null: any';
COMMENT ON COLUMN alert.per IS 'spend: whose is summed';
COMMENT ON COLUMN alert.window_text IS 'spend: since when it is summed';
COMMENT ON COLUMN alert.fired_at IS 'When it last fired';
COMMENT ON COLUMN alert.version IS 'Number of its last change; the ETag';

CREATE INDEX IF NOT EXISTS alert_owner ON alert (owner_id, id);


CREATE TABLE IF NOT EXISTS alert_state (
    alert_id    uuid         NOT NULL REFERENCES alert,
    subject     text         NOT NULL,
    threshold   numeric      NOT NULL,
    level       text,
    holder      uuid,
    live        boolean      NOT NULL,
    firing      boolean      NOT NULL,
    period      text         NOT NULL,
    fired_at    timestamptz  NOT NULL,
    again_at    timestamptz  NOT NULL,
    checked_at  timestamptz  NOT NULL,
    info        jsonb        NOT NULL,
    PRIMARY KEY (alert_id, subject, threshold)
) WITH (fillfactor = 50);

COMMENT ON TABLE alert_state IS
    'What has fired: one row for each threshold of a rule and whatever it was'
    ' seen at';
COMMENT ON COLUMN alert_state.subject IS 'What it was seen at';
COMMENT ON COLUMN alert_state.level IS 'key or owner, where it is one''s';
COMMENT ON COLUMN alert_state.live IS
    'Only nodes and Redis count it: a length of time, slots';
COMMENT ON COLUMN alert_state.period IS
    'In which it has fired; another one may fire again';
COMMENT ON COLUMN alert_state.again_at IS
    'In the same period, once resolved, not before';
COMMENT ON COLUMN alert_state.checked_at IS 'When it was last seen';
COMMENT ON COLUMN alert_state.info IS 'What was told';

CREATE INDEX IF NOT EXISTS alert_state_firing ON alert_state (checked_at)
    WHERE firing;
CREATE INDEX IF NOT EXISTS alert_state_again ON alert_state (again_at)
    WHERE NOT firing;


CREATE TABLE IF NOT EXISTS alert_entry (
    id         uuid         PRIMARY KEY DEFAULT uuid_v7(),
    at         timestamptz  NOT NULL DEFAULT now(),
    alert_id   uuid         NOT NULL,
    owner_id   uuid,
    state      text         NOT NULL,
    event_id   uuid         NOT NULL,
    data       jsonb        NOT NULL
);

COMMENT ON TABLE alert_entry IS 'The log of alerts, for a year';
COMMENT ON COLUMN alert_entry.event_id IS 'webhook-id';

CREATE INDEX IF NOT EXISTS alert_entry_at ON alert_entry (at);


CREATE TABLE IF NOT EXISTS alert_progress (
    one         boolean      PRIMARY KEY DEFAULT true CHECK (one),
    turned_at   timestamptz  NOT NULL DEFAULT '-infinity',
    as_of       timestamptz  NOT NULL DEFAULT '-infinity',
    next_key    uuid         NOT NULL
                             DEFAULT '00000000-0000-0000-0000-000000000000',
    next_owner  uuid         NOT NULL
                             DEFAULT '00000000-0000-0000-0000-000000000000'
);

ALTER TABLE alert_progress
    ADD COLUMN IF NOT EXISTS asked_at timestamptz NOT NULL DEFAULT '-infinity',
    ADD COLUMN IF NOT EXISTS ask_since timestamptz
        NOT NULL DEFAULT '-infinity',
    ADD COLUMN IF NOT EXISTS ask_began timestamptz
        NOT NULL DEFAULT '-infinity',
    ADD COLUMN IF NOT EXISTS ask_next uuid NOT NULL
        DEFAULT '00000000-0000-0000-0000-000000000000',
    ADD COLUMN IF NOT EXISTS spent_at timestamptz
        NOT NULL DEFAULT '-infinity',
    ADD COLUMN IF NOT EXISTS spent_took interval NOT NULL DEFAULT '0';

COMMENT ON TABLE alert_progress IS 'How far the evaluation has come';
COMMENT ON COLUMN alert_progress.as_of IS
    'What was used before has been looked at';
COMMENT ON COLUMN alert_progress.next_key IS
    'All keys are looked at now and then, behind this one next';
COMMENT ON COLUMN alert_progress.spent_at IS
    'When what all have spent was summed up last';
COMMENT ON COLUMN alert_progress.spent_took IS 'How long that took';
COMMENT ON COLUMN alert_progress.asked_at IS
    'When a node was last asked for what stands in Redis';
COMMENT ON COLUMN alert_progress.ask_since IS
    'It is asked for the keys used since then, in their order';
COMMENT ON COLUMN alert_progress.ask_began IS
    'Since when it will be asked for in the next round';
COMMENT ON COLUMN alert_progress.ask_next IS
    'Of this round, those behind this one next';

INSERT INTO alert_progress DEFAULT VALUES ON CONFLICT DO NOTHING;


-- What an operator has to hear of without asking.  Deleted ones stay deleted.

INSERT INTO alert (id, name, kind, thresholds) VALUES
    ('00000000-0000-8000-8000-616c65727431', 'Unknown price', 'unknown_price',
        '{1}'),
    ('00000000-0000-8000-8000-616c65727432', 'Journal behind',
        'journal_backlog', '{300000000}')
ON CONFLICT DO NOTHING;

-- usage_quarter keeps its HOT updates: most rows never have any

CREATE INDEX IF NOT EXISTS usage_quarter_unpriced ON usage_quarter (start)
    WHERE unpriced > 0;


DO $$
DECLARE
    t  text;
BEGIN
    FOREACH t IN ARRAY ARRAY['alert', 'alert_state', 'alert_entry',
        'alert_progress']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('DROP POLICY IF EXISTS operator_all ON %I', t);
        EXECUTE format('DROP POLICY IF EXISTS operator_see ON %I', t);
        EXECUTE format('DROP POLICY IF EXISTS owner_all ON %I', t);
        EXECUTE format('CREATE POLICY operator_all ON %I TO apikey_gateway'
            ' USING ((SELECT caller()) IN (''operator'', ''node''))', t);
        EXECUTE format('CREATE POLICY operator_see ON %I FOR SELECT TO'
            ' apikey_gateway USING ((SELECT caller()) = ''operator_read'')',
            t);
    END LOOP;
END
$$;

CREATE POLICY owner_all ON alert TO apikey_gateway
    USING ((SELECT caller()) = 'owner' AND owner_id = (SELECT caller_owner()));
CREATE POLICY owner_all ON alert_state TO apikey_gateway
    USING ((SELECT caller()) = 'owner'
        AND (SELECT a.owner_id FROM apikey.alert a WHERE a.id = alert_id)
            = (SELECT caller_owner()));
CREATE POLICY owner_all ON alert_entry FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'owner' AND owner_id = (SELECT caller_owner()));

-- whose limits are looked at, and whose expiry

DROP POLICY IF EXISTS node_see ON key;
CREATE POLICY node_see ON key FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'node');

GRANT SELECT, INSERT, UPDATE ON alert TO apikey_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON alert_state TO apikey_gateway;
GRANT SELECT, INSERT, DELETE ON alert_entry TO apikey_gateway;
GRANT SELECT, UPDATE ON alert_progress TO apikey_gateway;


CREATE OR REPLACE FUNCTION duration_text(us numeric)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN us % 86400000000 = 0 AND us > 0
        THEN trunc(us / 86400000000)::text || 'd'
    WHEN us % 3600000000 = 0 AND us > 0
        THEN trunc(us / 3600000000)::text || 'h'
    WHEN us % 60000000 = 0 AND us > 0 THEN trunc(us / 60000000)::text || 'm'
    WHEN us % 1000000 = 0 THEN trunc(us / 1000000)::text || 's'
    ELSE trunc(us / 1000)::text || 'ms' END;

COMMENT ON FUNCTION duration_text(numeric) IS
    'Microseconds as read_duration() reads them';


CREATE OR REPLACE FUNCTION threshold_json(kind text, value numeric)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = apikey, pg_temp
RETURN CASE kind
    WHEN 'limit' THEN to_jsonb(trim_scale(value))
    WHEN 'spend' THEN to_jsonb(money_text(value))
    WHEN 'expiry' THEN to_jsonb(duration_text(value))
    WHEN 'journal_backlog' THEN to_jsonb(duration_text(value))
    ELSE to_jsonb(trim_scale(value)) END;

COMMENT ON FUNCTION threshold_json(text, numeric) IS
    'A threshold of a kind of rule, as the API has it';


-- The log and the event, in the transaction of the state.

CREATE OR REPLACE FUNCTION alert_tell(a alert, s alert_state, state text,
    reason text)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    told  jsonb;
BEGIN
    told := (SELECT to_jsonb(x) FROM (SELECT a.id AS alert, a.name, a.kind,
            alert_tell.state AS state,
            CASE WHEN a.kind <> 'unknown_price'
                THEN threshold_json(a.kind, s.threshold) END AS threshold,
            time_text(s.fired_at) AS fired_at,
            alert_tell.reason AS reason) AS x) || s.info;

    INSERT INTO alert_entry (alert_id, owner_id, state, event_id, data)
    VALUES (a.id, a.owner_id, state,
        event_emit('alert.' || state, told, a.owner_id), told);

    IF state = 'firing' THEN
        UPDATE alert SET fired_at = now() WHERE id = a.id;
    END IF;
END
$$;

COMMENT ON FUNCTION alert_tell(alert, alert_state, text, text) IS
    'Writes to the log and tells the webhooks that a rule is firing or'
    ' resolved (reason: below, period, gone)';


CREATE OR REPLACE FUNCTION alert_resolve(s alert_state, reason text)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    a alert;
BEGIN
    UPDATE alert_state x SET firing = false, checked_at = now(), info = s.info
    WHERE (x.alert_id, x.subject, x.threshold)
            = (s.alert_id, s.subject, s.threshold) AND x.firing;

    IF FOUND THEN
        SELECT * INTO a FROM alert x WHERE x.id = s.alert_id;
        PERFORM alert_tell(a, s, 'resolved', reason);
    END IF;
END
$$;

COMMENT ON FUNCTION alert_resolve(alert_state, text) IS
    'It is not so any more';


-- seen: subject, level, holder, live, period, again_at (in the same period) of
-- a state; most: thresholds above it do not count.

CREATE OR REPLACE FUNCTION alert_observe(a alert, seen alert_state,
    value numeric, most numeric DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    s    alert_state;
    t    numeric;
    hit  boolean;
BEGIN
    FOREACH t IN ARRAY a.thresholds
    LOOP
        CONTINUE WHEN t > most;

        hit := CASE a.kind WHEN 'expiry' THEN value <= t ELSE value >= t END;

        SELECT * INTO s FROM alert_state x
        WHERE (x.alert_id, x.subject, x.threshold) = (a.id, seen.subject, t)
        FOR UPDATE;

        IF s.firing AND (NOT hit OR s.period <> seen.period) THEN
            s.info := seen.info;
            PERFORM alert_resolve(s, CASE WHEN s.period = seen.period
                THEN 'below' ELSE 'period' END);
        END IF;

        CONTINUE WHEN NOT hit;

        IF s.alert_id IS NULL OR s.period <> seen.period
            OR NOT s.firing AND s.again_at <= now()
        THEN
            s := seen;
            s.alert_id := a.id;
            s.threshold := t;
            s.firing := true;
            s.fired_at := now();
            s.checked_at := now();

            INSERT INTO alert_state AS x VALUES (s.*)
            ON CONFLICT (alert_id, subject, threshold) DO UPDATE
            SET firing = true, period = excluded.period, live = excluded.live,
                fired_at = excluded.fired_at, again_at = excluded.again_at,
                checked_at = excluded.checked_at, info = excluded.info;

            PERFORM alert_tell(a, s, 'firing', NULL);

        ELSIF s.firing AND s.checked_at < now() - interval '10 s' THEN
            UPDATE alert_state x SET checked_at = now(), info = seen.info
            WHERE (x.alert_id, x.subject, x.threshold)
                = (a.id, seen.subject, t);
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION alert_observe(alert, alert_state, numeric, numeric) IS
    'What a rule sees somewhere: fires and resolves its thresholds there';


GRANT EXECUTE ON FUNCTION duration_text(numeric),
    threshold_json(text, numeric),
    alert_tell(alert, alert_state, text, text),
    alert_resolve(alert_state, text),
    alert_observe(alert, alert_state, numeric, numeric) TO apikey_gateway;


CREATE OR REPLACE VIEW alert_log AS
SELECT e.id, e.at AS "time", e.alert_id AS alert, e.data ->> 'name' AS name,
    e.data ->> 'kind' AS kind, e.state,
    (SELECT o.external FROM owner o WHERE o.id = e.owner_id) AS rule_owner,
    (e.data ->> 'key')::uuid AS key, e.data ->> 'owner' AS owner,
    e.data ->> 'limit_name' AS limit_name, e.data ->> 'threshold' AS threshold,
    e.data ->> 'reason' AS reason, e.event_id AS event, e.data
FROM alert_entry e;

COMMENT ON VIEW alert_log IS 'What alerts fired and were resolved, for a year';
COMMENT ON COLUMN alert_log.rule_owner IS
    'Whose rule it is; null: the operators''';
COMMENT ON COLUMN alert_log.owner IS 'Whose key or limit it is about';
COMMENT ON COLUMN alert_log.event IS 'webhook-id of what webhooks were told';

GRANT SELECT ON alert_log TO apikey_reader;
