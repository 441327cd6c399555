--
-- Closing billing periods and correcting usage (tables: 0019_periods.sql).
-- Both are an operator's, with apikeyctl; both run as who owns the tables.
-- With the setting close_days periods are closed by themselves, too.
--
-- A correction is a row, and its difference is in the sums at once, under a
-- node of its own: at the time of the request where its period is open, else
-- now.
--

SET LOCAL client_min_messages = warning;
SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION correction_sums()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET jit = off
AS $$
BEGIN
    INSERT INTO usage_node (node, name, as_of, seen_at)
    VALUES (correction_node(), 'correction', 'epoch', 'epoch')
    ON CONFLICT DO NOTHING;

    PERFORM usage_add(ARRAY(SELECT ROW(
        date_bin('15 minutes', r.at, timestamptz '1970-01-01 00:00:00+00'),
        correction_node(), r.key_id, r.owner, r.customer, r.service,
        r.endpoint, r.model, r.outcome, r.status_code, r.verdict,
        r.limit_name, r.requests, r.refused, r.errors, r.tokens_input,
        r.tokens_output, r.tokens_cached, r.tokens_reasoning, r.cost,
        r.unpriced, r.bytes_in, r.bytes_out, r.duration_us,
        r.units)::usage_quarter
    FROM new_rows r));

    -- usage_apply() has told keys of what came late

    INSERT INTO key_usage AS k (key_id, requests, refused, errors, tokens,
        cost)
    SELECT r.key_id, sum(r.requests), sum(r.refused), sum(r.errors),
        sum(r.tokens_input + r.tokens_output), sum(r.cost)
    FROM new_rows r
    WHERE r.kind = 'correction'
        AND r.key_id <> '00000000-0000-0000-0000-000000000000'
    GROUP BY r.key_id
    ORDER BY r.key_id
    ON CONFLICT (key_id) DO UPDATE
    SET requests = k.requests + excluded.requests,
        refused = k.refused + excluded.refused,
        errors = k.errors + excluded.errors,
        tokens = k.tokens + excluded.tokens,
        cost = k.cost + excluded.cost;

    RETURN NULL;
END
$$;

COMMENT ON FUNCTION correction_sums() IS
    'Trigger: adds corrections to the sums of usage';

CREATE OR REPLACE TRIGGER correction_sums
    AFTER INSERT ON usage_correction REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION correction_sums();

COMMENT ON TRIGGER correction_sums ON usage_correction IS
    'The sums of usage change with it';

GRANT EXECUTE ON FUNCTION correction_sums() TO apikey_gateway;


-- Owners by their ids, '' (usage of nobody) first; null behind the last one.
-- Imported usage may be of owners that never were.

CREATE OR REPLACE FUNCTION billing_next(after text)
RETURNS text
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN CASE WHEN after IS NULL THEN '' ELSE least(
    (SELECT o.external FROM owner o WHERE o.external > after
     ORDER BY o.external LIMIT 1),
    (SELECT q.owner FROM usage_quarter q WHERE q.owner > after
     ORDER BY q.owner LIMIT 1)) END;

COMMENT ON FUNCTION billing_next(text) IS
    'The owner behind this one; after null: the first';


CREATE OR REPLACE FUNCTION billing_close(a_owner text, until timestamptz)
RETURNS int
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET jit = off
AS $$
DECLARE
    o     record;
    p     record;
    at    timestamptz;
    made  int := 0;
BEGIN
    SELECT coalesce(min(x.time_zone), 'UTC') AS zone,
        coalesce(min(x.anchor_day), 1) AS anchor
    INTO o FROM owner x WHERE x.external = a_owner;

    at := (SELECT max(b."end") FROM billing_period b
           WHERE b.owner = a_owner);

    IF at IS NULL THEN
        at := coalesce((SELECT q.start FROM usage_quarter q
                        WHERE q.owner = a_owner ORDER BY q.start LIMIT 1),
            (period(o.zone, o.anchor, until)).start - interval '1 us');
        at := (period(o.zone, o.anchor, at)).start;
    END IF;

    LOOP
        p := period(o.zone, o.anchor, at);
        EXIT WHEN p."end" > until;

        INSERT INTO billing_period (owner, start, "end", actor, requests,
            refused, errors, tokens_input, tokens_output, tokens_cached,
            tokens_reasoning, cost, unpriced)
        SELECT a_owner, at, p."end", session_user,
            coalesce(sum(q.requests), 0), coalesce(sum(q.refused), 0),
            coalesce(sum(q.errors), 0), coalesce(sum(q.tokens_input), 0),
            coalesce(sum(q.tokens_output), 0),
            coalesce(sum(q.tokens_cached), 0),
            coalesce(sum(q.tokens_reasoning), 0), coalesce(sum(q.cost), 0),
            coalesce(sum(q.unpriced), 0)
        FROM usage_quarter q
        WHERE q.owner = a_owner AND q.start >= at AND q.start < p."end";

        at := p."end";
        made := made + 1;
    END LOOP;

    RETURN made;
END
$$;

COMMENT ON FUNCTION billing_close(text, timestamptz) IS
    'Closes what periods of an owner have ended by then; under billing_lock()';


-- A call holds up who ships for as long as it takes, so it takes some owners
-- only; who calls goes on behind "next" until it is null.

CREATE OR REPLACE FUNCTION periods_close(before text, a_owner text,
    after text, most int, OUT next text, OUT closed int)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    until  timestamptz := coalesce(read_time(before), now());
BEGIN
    IF before IS NOT NULL AND read_time(before) IS NULL THEN
        RAISE EXCEPTION '"%": write a time such as 2026-11-01T00:00:00Z, or a'
            ' date', before USING ERRCODE = 'check_violation';
    ELSIF until > now() THEN
        RAISE EXCEPTION '% is still to come', time_text(until)
            USING ERRCODE = 'check_violation';
    ELSIF a_owner IS NOT NULL AND NOT EXISTS (SELECT FROM owner o
            WHERE o.external = a_owner) AND NOT EXISTS (
        SELECT FROM usage_quarter q WHERE q.owner = a_owner)
    THEN
        RAISE EXCEPTION 'there is no owner "%"', a_owner
            USING ERRCODE = 'check_violation';
    END IF;

    -- what a node is about to ship would all be late

    IF usage_as_of() < until - interval '1 minute' THEN
        RAISE EXCEPTION 'a node has shipped only what it recorded before %',
            time_text(usage_as_of())
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;

    until := least(until, usage_as_of());
    closed := 0;

    PERFORM pg_advisory_xact_lock(billing_lock());

    IF a_owner IS NOT NULL THEN
        closed := billing_close(a_owner, until);
        RETURN;
    END IF;

    next := billing_next(after);

    WHILE next IS NOT NULL AND most > 0
    LOOP
        closed := closed + billing_close(next, until);
        after := next;
        next := billing_next(after);
        most := most - 1;
    END LOOP;

    next := CASE WHEN next IS NOT NULL THEN after END;
END
$$;

COMMENT ON FUNCTION periods_close(text, text, text, int) IS
    'Closes the billing periods that have ended before a time (null: now), of'
    ' one owner or of some behind "after"';


-- Each day all owners once, some of them a call: a call looks for as long as
-- "most" and holds up who ships from the first period that it closes on.

CREATE TABLE IF NOT EXISTS billing_turn (
    one    boolean      PRIMARY KEY DEFAULT true CHECK (one),
    until  timestamptz  NOT NULL,
    after  text,
    done   boolean      NOT NULL
);

COMMENT ON TABLE billing_turn IS
    'How far the closing of billing periods by close_days has come';
COMMENT ON COLUMN billing_turn.until IS 'What has ended by then is closed';
COMMENT ON COLUMN billing_turn.after IS
    'Of owners up to this one; null: of none yet';
COMMENT ON COLUMN billing_turn.done IS 'Of all owners';


CREATE OR REPLACE FUNCTION billing_due(a_owner text, until timestamptz)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
AS $$
    SELECT NOT EXISTS (SELECT FROM billing_period b
        WHERE b.owner = a_owner AND b."end" >= (SELECT
            (period(coalesce(min(o.time_zone), 'UTC'),
                coalesce(min(o.anchor_day), 1), until)).start
            FROM owner o WHERE o.external = a_owner))
$$;

COMMENT ON FUNCTION billing_due(text, timestamptz) IS
    'Whether a period of an owner that has ended by then is still open';


-- As usage_keep(): a part of every heartbeat, one node at a time, as who owns
-- the tables.  What cannot be closed now is closed a minute later; an owner
-- whose time zone is gone, or whose periods take longer than a heartbeat may,
-- is left to who closes them by hand, lest no heart beats any more.

CREATE OR REPLACE FUNCTION periods_due(most interval DEFAULT '500 ms')
RETURNS int
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
SET lock_timeout = '1s'
AS $$
DECLARE
    days   int := (SELECT nullif(s.value, '')::int FROM setting s
                   WHERE s.name = 'close_days');
    day    timestamptz := date_trunc('day', now()) - days * interval '1 day';
    began  timestamptz := clock_timestamp();
    turn   billing_turn;
    next   text;
    made   int := 0;
BEGIN
    IF days IS NULL OR usage_as_of() < day
        OR NOT pg_try_advisory_xact_lock(hashtext('apikey.periods_due'))
    THEN
        RETURN 0;
    END IF;

    SELECT * INTO turn FROM billing_turn x WHERE x.until = day;

    IF turn.done THEN
        RETURN 0;
    END IF;

    next := billing_next(turn.after);

    WHILE next IS NOT NULL AND clock_timestamp() < began + most
    LOOP
        BEGIN
            IF billing_due(next, day) THEN
                PERFORM pg_advisory_xact_lock(billing_lock());
                made := made + billing_close(next, day);
            END IF;

        EXCEPTION
            WHEN lock_not_available OR deadlock_detected THEN
                EXIT;
            WHEN data_exception OR query_canceled THEN
                NULL;
        END;

        turn.after := next;
        next := billing_next(next);
    END LOOP;

    INSERT INTO billing_turn (until, after, done)
    VALUES (day, turn.after, next IS NULL)
    ON CONFLICT (one) DO UPDATE
    SET until = excluded.until, after = excluded.after, done = excluded.done;

    RETURN made;
END
$$;

COMMENT ON FUNCTION periods_due(interval) IS
    'Closes billing periods that are over for close_days; how many';

GRANT EXECUTE ON FUNCTION periods_due(interval) TO apikey_gateway;


-- What a correction may say, and of what kind it is.

CREATE OR REPLACE FUNCTION correction_members(OUT name text, OUT kind text)
RETURNS SETOF record
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT * FROM (VALUES ('cost', 'money'), ('requests', 'count'),
        ('tokens_input', 'count'), ('tokens_output', 'count'),
        ('tokens_cached', 'count'), ('tokens_reasoning', 'count'),
        ('key', 'id'), ('owner', 'text'), ('date', 'time'),
        ('customer', 'text'), ('service', 'text'), ('endpoint', 'text'),
        ('model', 'text')) AS m (name, kind);
END;

COMMENT ON FUNCTION correction_members() IS
    'The members of a correction: numbers, and whose they are';


-- "signed": differences; else what it should have been.

CREATE OR REPLACE FUNCTION check_correction(v jsonb, reason text,
    signed boolean)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    why  text;
BEGIN
    why := CASE
        WHEN coalesce(btrim(reason), '') = '' THEN 'say the reason'
        WHEN char_length(reason) > 1000 THEN 'the reason is too long'
        WHEN v = '{}' THEN 'say what is to be corrected' END;

    why := coalesce(why, (SELECT min(format(CASE
            WHEN m.name IS NULL THEN '"%s": there is no such name'
            WHEN NOT signed AND m.kind NOT IN ('money', 'count')
                THEN '"%s" cannot be corrected'
            WHEN m.kind = 'money' THEN '"%s" must be an amount such as 0.50'
            WHEN m.kind = 'count' THEN '"%s" must be a whole number'
            WHEN m.kind = 'id' THEN '"%s" must be the id of a key'
            WHEN m.kind = 'time'
                THEN '"%s" must be a time such as 2026-11-01T10:00:00Z'
            ELSE '"%s" must be text of at most 255 characters' END, x.key))
        FROM jsonb_each_text(v) AS x
            LEFT JOIN correction_members() AS m ON m.name = x.key
        WHERE m.name IS NULL
            OR NOT signed AND m.kind NOT IN ('money', 'count')
            OR NOT coalesce(CASE m.kind
                WHEN 'money' THEN read_money(CASE WHEN signed
                    THEN ltrim(x.value, '-') ELSE x.value END) IS NOT NULL
                    AND x.value !~ '^--'
                WHEN 'count' THEN x.value ~ CASE WHEN signed
                    THEN '^-?(0|[1-9][0-9]{0,14})$'
                    ELSE '^(0|[1-9][0-9]{0,14})$' END
                WHEN 'id' THEN read_uuid(x.value) IS NOT NULL
                WHEN 'time' THEN read_time(x.value) IS NOT NULL
                ELSE char_length(x.value) <= 255
                    AND x.value !~ '[\u0001-\u001f\u007f]' END, false)));

    IF why IS NOT NULL THEN
        RAISE EXCEPTION '%', why USING ERRCODE = 'check_violation';
    END IF;
END
$$;

COMMENT ON FUNCTION check_correction(jsonb, text, boolean) IS
    'Refuses a correction that is wrong';


-- Takes differences; fills in when they count, who says so, and writes the
-- audit.

CREATE OR REPLACE FUNCTION correction_put(c usage_correction)
RETURNS usage_correction
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF c.service_at > now() THEN
        RAISE EXCEPTION '% is still to come', time_text(c.service_at)
            USING ERRCODE = 'check_violation';
    END IF;

    PERFORM pg_advisory_xact_lock_shared(billing_lock());

    c.id := uuid_v7();
    c.made_at := now();
    c.kind := 'correction';
    c.actor := session_user;
    c.at := CASE WHEN usage_late(ARRAY[micros(c.service_at)],
            ARRAY[c.owner]) IS NULL
        THEN c.service_at ELSE now() END;

    INSERT INTO usage_correction SELECT (c).*;

    INSERT INTO audit (actor, actor_kind, action, object_kind, object_id,
        owner_id, after)
    SELECT c.actor, 'operator', 'correct', 'usage',
        coalesce(c.request_id, c.id),
        (SELECT o.id FROM owner o WHERE o.external = c.owner), to_jsonb(x)
    FROM (SELECT c.id, c.request_id, nullif(c.key_id,
            '00000000-0000-0000-0000-000000000000') AS key,
            nullif(c.owner, '') AS owner, time_text(c.at) AS at,
            time_text(c.service_at) AS service_at, c.requests,
            c.tokens_input, c.tokens_output, c.tokens_cached,
            c.tokens_reasoning, money_text(c.cost) AS cost,
            currency() AS currency, c.reason) AS x;

    RETURN c;
END
$$;

COMMENT ON FUNCTION correction_put(usage_correction) IS
    'Books a correction';


-- The request's own record stays as it was; what earlier corrections have made
-- of it counts.

CREATE OR REPLACE FUNCTION usage_correct(request text, said jsonb,
    a_reason text)
RETURNS usage_correction
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    e  usage_event;
    d  record;
    c  usage_correction;
    v  jsonb := CASE WHEN said = '{"void": "true"}'
        THEN '{"requests": "0", "cost": "0"}'::jsonb
        || '{"tokens_input": "0", "tokens_output": "0"}'
        || '{"tokens_cached": "0", "tokens_reasoning": "0"}'
        ELSE said END;
BEGIN
    PERFORM check_correction(v, a_reason, false);

    SELECT * INTO e FROM usage_event x WHERE x.event = read_uuid(request);

    IF NOT FOUND OR e.outcome = 'refused' THEN
        RAISE EXCEPTION 'there is no admitted request "%", or its record is'
            ' no longer kept', request USING ERRCODE = 'no_data_found';
    END IF;

    -- one at a time

    PERFORM pg_advisory_xact_lock(hashtextextended(e.event::text, 0));

    SELECT coalesce(sum(x.requests), 0) AS requests,
        coalesce(sum(x.tokens_input), 0) AS input,
        coalesce(sum(x.tokens_output), 0) AS output,
        coalesce(sum(x.tokens_cached), 0) AS cached,
        coalesce(sum(x.tokens_reasoning), 0) AS reasoning,
        coalesce(sum(x.cost), 0) AS cost,
        coalesce(sum(x.unpriced), 0) AS unpriced,
        coalesce(sum(x.errors), 0) AS errors
    INTO d FROM usage_correction x WHERE x.request_id = e.event;

    c.service_at := e.time;
    c.request_id := e.event;
    c.node := e.node;
    c.key_id := coalesce(e.key_id, '00000000-0000-0000-0000-000000000000');
    c.owner := coalesce(e.owner, '');
    c.customer := coalesce(e.customer, '');
    c.service := e.service;
    c.endpoint := e.endpoint;
    c.model := coalesce(e.model, '');
    c.outcome := e.outcome;
    c.status_code := e.status_code;
    c.verdict := e.verdict;
    c.limit_name := coalesce(e.limit_name, '');
    c.reason := a_reason;

    c.requests := coalesce((v ->> 'requests')::bigint - 1 - d.requests, 0);
    c.refused := 0;
    c.errors := CASE WHEN e.status_code >= 400 THEN c.requests ELSE 0 END;
    c.tokens_input := coalesce((v ->> 'tokens_input')::bigint
        - e.tokens_input - d.input, 0);
    c.tokens_output := coalesce((v ->> 'tokens_output')::bigint
        - e.tokens_output - d.output, 0);
    c.tokens_cached := coalesce((v ->> 'tokens_cached')::bigint
        - e.tokens_cached - d.cached, 0);
    c.tokens_reasoning := coalesce((v ->> 'tokens_reasoning')::bigint
        - e.tokens_reasoning - d.reasoning, 0);
    c.cost := coalesce(read_money(v ->> 'cost') - coalesce(e.cost, 0)
        - d.cost, 0);
    c.unpriced := CASE WHEN v ? 'cost'
        THEN -((e.cost IS NULL)::int + d.unpriced) ELSE 0 END;
    c.bytes_in := 0;
    c.bytes_out := 0;
    c.duration_us := 0;
    c.units := 0;

    IF v ->> 'requests' NOT IN ('0', '1') THEN
        RAISE EXCEPTION 'a request counts 1 or 0'
            USING ERRCODE = 'check_violation';
    ELSIF c.tokens_cached + d.cached + e.tokens_cached
            > c.tokens_input + d.input + e.tokens_input
        OR c.tokens_reasoning + d.reasoning + e.tokens_reasoning
            > c.tokens_output + d.output + e.tokens_output
    THEN
        RAISE EXCEPTION 'cached tokens are a part of input, those of'
            ' reasoning a part of output' USING ERRCODE = 'check_violation';
    ELSIF (c.requests, c.tokens_input, c.tokens_output, c.tokens_cached,
            c.tokens_reasoning, c.cost, c.unpriced)
        = (0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::numeric,
           0::bigint)
    THEN
        RAISE EXCEPTION 'this is what it says already'
            USING ERRCODE = 'check_violation';
    END IF;

    RETURN correction_put(c);
END
$$;

COMMENT ON FUNCTION usage_correct(text, jsonb, text) IS
    'What a request should have cost and used; {"void": "true"}: nothing';


CREATE OR REPLACE FUNCTION usage_adjust(v jsonb, a_reason text)
RETURNS usage_correction
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    k  key;
    c  usage_correction;
BEGIN
    PERFORM check_correction(v, a_reason, true);

    IF v ? 'key' THEN
        SELECT * INTO k FROM key x WHERE x.id = read_uuid(v ->> 'key');

        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no key "%"', v ->> 'key'
                USING ERRCODE = 'no_data_found';
        END IF;
    END IF;

    c.owner := coalesce(v ->> 'owner', (SELECT o.external FROM owner o
        WHERE o.id = k.owner_id), '');

    IF (v ? 'key' AND v ? 'owner') OR NOT (v ? 'key' OR v ? 'owner')
        OR NOT v ? 'date'
    THEN
        RAISE EXCEPTION 'give date= and either key= or owner='
            USING ERRCODE = 'check_violation';
    ELSIF v ? 'owner' AND NOT EXISTS (SELECT FROM owner o
        WHERE o.external = c.owner)
    THEN
        RAISE EXCEPTION 'there is no owner "%"', c.owner
            USING ERRCODE = 'no_data_found';
    ELSIF NOT EXISTS (SELECT FROM jsonb_each_text(v) AS x
            JOIN correction_members() AS m ON m.name = x.key
        WHERE m.kind IN ('money', 'count') AND x.value ~ '[1-9]')
    THEN
        RAISE EXCEPTION 'say what is to be added'
            USING ERRCODE = 'check_violation';
    END IF;

    c.service_at := read_time(v ->> 'date');
    c.key_id := coalesce(k.id, '00000000-0000-0000-0000-000000000000');
    c.customer := coalesce(v ->> 'customer', k.customer, '');
    c.service := coalesce(v ->> 'service', '');
    c.endpoint := coalesce(v ->> 'endpoint', '');
    c.model := coalesce(v ->> 'model', '');
    c.outcome := 'success';
    c.status_code := 200;
    c.verdict := 'ok';
    c.limit_name := '';
    c.reason := a_reason;

    c.requests := coalesce((v ->> 'requests')::bigint, 0);
    c.refused := 0;
    c.errors := 0;
    c.tokens_input := coalesce((v ->> 'tokens_input')::bigint, 0);
    c.tokens_output := coalesce((v ->> 'tokens_output')::bigint, 0);
    c.tokens_cached := coalesce((v ->> 'tokens_cached')::bigint, 0);
    c.tokens_reasoning := coalesce((v ->> 'tokens_reasoning')::bigint, 0);
    c.cost := coalesce(read_money(ltrim(v ->> 'cost', '-'))
        * CASE WHEN v ->> 'cost' ^@ '-' THEN -1 ELSE 1 END, 0);
    c.unpriced := 0;
    c.bytes_in := 0;
    c.bytes_out := 0;
    c.duration_us := 0;
    c.units := 0;

    RETURN correction_put(c);
END
$$;

COMMENT ON FUNCTION usage_adjust(jsonb, text) IS
    'Adds differences to what a key or an owner has used, of no request in'
    ' particular';


-- For dashboards, and apikeyctl period show.

CREATE OR REPLACE VIEW billing_periods AS
SELECT nullif(b.owner, '') AS owner, b.start, b."end", b.closed_at,
    b.actor AS closed_by, b.requests, b.refused, b.errors,
    b.tokens_input + b.tokens_output AS tokens, b.tokens_input,
    b.tokens_output, b.tokens_cached, b.tokens_reasoning,
    (b.cost / 1000000000)::numeric(38, 9) AS cost, b.unpriced,
    coalesce(c.n, 0)::bigint AS corrections,
    (coalesce(c.cost, 0) / 1000000000)::numeric(38, 9) AS corrections_cost
FROM billing_period b LEFT JOIN LATERAL (
    SELECT count(*) AS n, sum(x.cost) AS cost FROM usage_correction x
    WHERE x.owner = b.owner AND x.service_at >= b.start
        AND x.service_at < b."end" AND x.at >= b."end") AS c ON true;

COMMENT ON VIEW billing_periods IS
    'Closed billing periods: what they came to, which stays, and what was'
    ' booked later';
COMMENT ON COLUMN billing_periods.owner IS 'Null: usage of nobody';
COMMENT ON COLUMN billing_periods.closed_by IS 'A role of Postgres';
COMMENT ON COLUMN billing_periods.cost IS
    'In units of the currency, exact to nine decimals';
COMMENT ON COLUMN billing_periods.unpriced IS
    'Requests whose price was unknown; not in cost';
COMMENT ON COLUMN billing_periods.corrections IS
    'Of its services, in later periods: usage_corrections has them';


CREATE OR REPLACE VIEW usage_corrections AS
SELECT c.id, c.made_at, c.kind, c.at, c.service_at, c.request_id,
    nullif(c.owner, '') AS owner, nullif(c.customer, '') AS customer,
    nullif(c.key_id, '00000000-0000-0000-0000-000000000000') AS key,
    c.service, c.endpoint, nullif(c.model, '') AS model, c.outcome,
    c.status_code, c.verdict, nullif(c.limit_name, '') AS limit_name,
    coalesce(n.name, c.node::text) AS node, c.requests, c.refused, c.errors,
    c.tokens_input + c.tokens_output AS tokens, c.tokens_input,
    c.tokens_output, c.tokens_cached, c.tokens_reasoning,
    (c.cost / 1000000000)::numeric(38, 9) AS cost, c.unpriced, c.bytes_in,
    c.bytes_out, round(c.duration_us / 1000)::bigint AS duration_ms,
    c.reason, c.actor
FROM usage_correction c LEFT JOIN usage_node n ON n.node = c.node;

COMMENT ON VIEW usage_corrections IS
    'What was added to usage afterwards; usage_hourly and the like have it'
    ' under node "correction"';
COMMENT ON COLUMN usage_corrections.kind IS
    'late: came after its billing period was closed; correction: somebody''s';
COMMENT ON COLUMN usage_corrections.at IS 'When it counts';
COMMENT ON COLUMN usage_corrections.service_at IS
    'When the service was used; late: the quarter of an hour';
COMMENT ON COLUMN usage_corrections.node IS
    'Which counted the request; null: none did';
COMMENT ON COLUMN usage_corrections.requests IS
    'As all numbers here the difference: below 0 where it was too much';
COMMENT ON COLUMN usage_corrections.actor IS
    'A role of Postgres; null: it came late';

GRANT SELECT ON billing_periods, usage_corrections TO apikey_reader;
