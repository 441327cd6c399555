--
-- Usage: how far each node's streams have come, roll-ups by a quarter of an
-- hour, raw events, what keys and secrets were last used.
--
-- A batch is one transaction: usage_apply() moves the marks of its streams by
-- compare-and-set, adds the roll-ups, and the raw events follow by COPY.  The
-- marks make it exactly once: a batch that was applied cannot be again.
--
-- Nothing here refers to the rows of keys or owners: usage outlives them.
-- usage_event has no row-level security, because COPY does not work with it;
-- the gateway may only insert there and reads through usage_request.
--

SET LOCAL client_min_messages = warning;
SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE TABLE IF NOT EXISTS usage_node (
    node     uuid         PRIMARY KEY,
    name     text         NOT NULL,
    as_of    timestamptz  NOT NULL,
    seen_at  timestamptz  NOT NULL
) WITH (fillfactor = 50);

COMMENT ON TABLE usage_node IS
    'Nodes that ship usage, and up to when theirs is complete';
COMMENT ON COLUMN usage_node.name IS 'apikey_node';
COMMENT ON COLUMN usage_node.as_of IS
    'Everything this node recorded before is in; its own clock';
COMMENT ON COLUMN usage_node.seen_at IS 'Last batch or heartbeat';

ALTER TABLE usage_node ADD COLUMN IF NOT EXISTS runs_at timestamptz;

COMMENT ON COLUMN usage_node.runs_at IS
    'Everything this node admitted before is in, or in usage_running; null: it'
    ' is of a version that does not say';

ALTER TABLE usage_node ADD COLUMN IF NOT EXISTS asked_at timestamptz NOT NULL
    DEFAULT now();

COMMENT ON COLUMN usage_node.asked_at IS
    'Its batch or heartbeat of then asked whether that is wanted; noted every'
    ' five seconds';


CREATE TABLE IF NOT EXISTS usage_stream (
    node        uuid         NOT NULL,
    stream      int          NOT NULL,
    epoch       bigint       NOT NULL,
    mark        bigint       NOT NULL CHECK (mark >= 0),
    lost        bigint       NOT NULL DEFAULT 0,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    updated_at  timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (node, stream, epoch)
) WITH (fillfactor = 50);

COMMENT ON TABLE usage_stream IS
    'The exactly-once marks: one row for each ring a node ever had';
COMMENT ON COLUMN usage_stream.stream IS 'Number of the ring';
COMMENT ON COLUMN usage_stream.epoch IS 'Which file under that number';
COMMENT ON COLUMN usage_stream.mark IS
    'Number of the last event applied; they count from 1 without a gap';
COMMENT ON COLUMN usage_stream.lost IS
    'Events below the mark that never came (damaged disk)';


CREATE TABLE IF NOT EXISTS usage_batch (
    id          bigint       GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node        uuid         NOT NULL,
    stream      int          NOT NULL,
    epoch       bigint       NOT NULL,
    first       bigint       NOT NULL,
    last        bigint       NOT NULL,
    lost        bigint       NOT NULL,
    applied_at  timestamptz  NOT NULL DEFAULT now()
);

COMMENT ON TABLE usage_batch IS
    'Ledger of what was applied when; may be pruned at will';
COMMENT ON COLUMN usage_batch.lost IS
    'Events missing right before first';

CREATE INDEX IF NOT EXISTS usage_batch_applied ON usage_batch (applied_at);


CREATE TABLE IF NOT EXISTS usage_quarter (
    start             timestamptz  NOT NULL,
    node              uuid         NOT NULL,
    key_id            uuid         NOT NULL,
    owner             text         NOT NULL,
    customer          text         NOT NULL,
    service           text         NOT NULL,
    endpoint          text         NOT NULL,
    model             text         NOT NULL,
    outcome           text         NOT NULL,
    status_code       int          NOT NULL,
    verdict           text         NOT NULL,
    limit_name        text         NOT NULL,
    requests          bigint       NOT NULL DEFAULT 0,
    refused           bigint       NOT NULL DEFAULT 0,
    errors            bigint       NOT NULL DEFAULT 0,
    tokens_input      bigint       NOT NULL DEFAULT 0,
    tokens_output     bigint       NOT NULL DEFAULT 0,
    tokens_cached     bigint       NOT NULL DEFAULT 0,
    tokens_reasoning  bigint       NOT NULL DEFAULT 0,
    cost              numeric      NOT NULL DEFAULT 0,
    unpriced          bigint       NOT NULL DEFAULT 0,
    bytes_in          bigint       NOT NULL DEFAULT 0,
    bytes_out         bigint       NOT NULL DEFAULT 0,
    duration_us       numeric      NOT NULL DEFAULT 0,
    PRIMARY KEY (start, node, key_id, owner, customer, service, endpoint,
                 model, outcome, status_code, verdict, limit_name)
) WITH (fillfactor = 50);

COMMENT ON TABLE usage_quarter IS
    'Usage by 15 minutes; dashboards read usage_hourly, usage_daily and'
    ' usage_monthly';
COMMENT ON COLUMN usage_quarter.start IS 'UTC, a multiple of 15 minutes';
COMMENT ON COLUMN usage_quarter.key_id IS
    'Zero: anonymous, or refused with no or an unknown key';
COMMENT ON COLUMN usage_quarter.owner IS
    'The user''s own id at the time of the request; empty: none';
COMMENT ON COLUMN usage_quarter.outcome IS
    'success (< 400), error, aborted, refused';
COMMENT ON COLUMN usage_quarter.requests IS 'Admitted';
COMMENT ON COLUMN usage_quarter.refused IS 'By us; never part of requests';
COMMENT ON COLUMN usage_quarter.errors IS 'Admitted, answered >= 400';
COMMENT ON COLUMN usage_quarter.cost IS 'Nano-units of the currency';
COMMENT ON COLUMN usage_quarter.unpriced IS
    'Requests whose price is unknown; not in cost';

ALTER TABLE usage_quarter
    ADD COLUMN IF NOT EXISTS units numeric NOT NULL DEFAULT 0;

COMMENT ON COLUMN usage_quarter.units IS
    'Request units: what requests have cost limits of requests (their weights)';

CREATE INDEX IF NOT EXISTS usage_quarter_key ON usage_quarter (key_id, start);
CREATE INDEX IF NOT EXISTS usage_quarter_owner
    ON usage_quarter (owner, start);

-- For a range of "start" in usage_hourly, usage_daily and usage_monthly, which
-- have the same expressions; rows lie in the order of time.

CREATE INDEX IF NOT EXISTS usage_quarter_starts ON usage_quarter USING brin (
    (date_trunc('hour', start AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'),
    (date_trunc('day', start AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'),
    (date_trunc('month', start AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'))
    WITH (pages_per_range = 32, autosummarize = on);


CREATE TABLE IF NOT EXISTS usage_event (
    time              timestamptz  NOT NULL,
    event             uuid         NOT NULL,
    node              uuid         NOT NULL,
    key_id            uuid,
    secret_id         uuid,
    owner             text,
    customer          text,
    client            inet,
    session           text,
    service           text         NOT NULL,
    endpoint          text         NOT NULL,
    method            text         NOT NULL,
    status_code       int          NOT NULL,
    outcome           text         NOT NULL,
    verdict           text         NOT NULL,
    mode              text         NOT NULL,
    limit_name        text,
    "limit"           bigint,
    remaining         bigint,
    retry_after       int,
    model             text,
    weight            bigint       NOT NULL,
    tokens_input      bigint       NOT NULL,
    tokens_output     bigint       NOT NULL,
    tokens_cached     bigint       NOT NULL,
    tokens_reasoning  bigint       NOT NULL,
    usage_source      text         NOT NULL,
    cost              bigint,
    price_version     bigint,
    bytes_in          bigint       NOT NULL,
    bytes_out         bigint       NOT NULL,
    duration_us       bigint       NOT NULL,
    upstream_us       bigint       NOT NULL,
    aborted           text
) PARTITION BY RANGE (time);

-- Columns that hold these in all events of a batch are left out of it.

ALTER TABLE usage_event
    ALTER weight SET DEFAULT 1,
    ALTER tokens_input SET DEFAULT 0,
    ALTER tokens_output SET DEFAULT 0,
    ALTER tokens_cached SET DEFAULT 0,
    ALTER tokens_reasoning SET DEFAULT 0,
    ALTER usage_source SET DEFAULT 'none',
    ALTER cost SET DEFAULT 0;

CREATE TABLE IF NOT EXISTS usage_event_default
    PARTITION OF usage_event DEFAULT;

CREATE INDEX IF NOT EXISTS usage_event_id ON usage_event (event);
CREATE INDEX IF NOT EXISTS usage_event_key ON usage_event (key_id, time);

-- of imports: events of an owner that stand with none of its keys

CREATE INDEX IF NOT EXISTS usage_event_owner ON usage_event (owner, time)
    WHERE key_id IS NULL AND owner IS NOT NULL;

ALTER TABLE usage_event
    ADD COLUMN IF NOT EXISTS ingested_at timestamptz NOT NULL DEFAULT now();

COMMENT ON TABLE usage_event IS
    'One row for each admitted request and each refusal kept as detail';
COMMENT ON COLUMN usage_event.event IS
    'request_id = X-Request-Id; unique by the way it is written';
COMMENT ON COLUMN usage_event.client IS 'Network of the client''s address';
COMMENT ON COLUMN usage_event.mode IS
    'leased, direct, local, down_local, down_allow, down_deny, none';
COMMENT ON COLUMN usage_event.cost IS
    'Nano-units of the currency; null: unknown price';
COMMENT ON COLUMN usage_event.aborted IS
    'client, upstream, timeout, worker_lost; else null';
COMMENT ON COLUMN usage_event.ingested_at IS
    'When its batch came: late where its billing period was closed by then';


CREATE OR REPLACE FUNCTION usage_partitions(first date, days int)
RETURNS int
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    day   date;
    name  text;
    made  int := 0;
BEGIN
    FOR day IN SELECT first + i FROM generate_series(0, days - 1) AS i
    LOOP
        name := 'usage_event_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass('apikey.' || name) IS NOT NULL;

        EXECUTE format('CREATE TABLE apikey.%I PARTITION OF apikey.usage_event'
            ' FOR VALUES FROM (%L) TO (%L)', name,
            day::timestamp AT TIME ZONE 'UTC',
            (day + 1)::timestamp AT TIME ZONE 'UTC');

        made := made + 1;
    END LOOP;

    RETURN made;
END
$$;

COMMENT ON FUNCTION usage_partitions(date, int) IS
    'Makes the day partitions of usage_event that are missing; returns how'
    ' many';

-- Not on a second run: the default partition may hold those days by then.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM apikey.usage_event) THEN
        PERFORM apikey.usage_partitions((now() AT TIME ZONE 'UTC')::date, 31);
    END IF;
END
$$;


CREATE TABLE IF NOT EXISTS usage_quarantine (
    node      uuid         NOT NULL,
    stream    int          NOT NULL,
    epoch     bigint       NOT NULL,
    number    bigint       NOT NULL,
    state     text         NOT NULL,
    reason    text         NOT NULL,
    record    bytea        NOT NULL,
    added_at  timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (node, stream, epoch, number)
);

ALTER TABLE usage_quarantine
    ADD COLUMN IF NOT EXISTS id bigint GENERATED ALWAYS AS IDENTITY;

COMMENT ON COLUMN usage_quarantine.id IS 'NUMBER of apikeyctl quarantine';
COMMENT ON TABLE usage_quarantine IS
    'Events that Postgres refused; apikeyctl quarantine replays them';
COMMENT ON COLUMN usage_quarantine.state IS 'SQLSTATE of the refusal';
COMMENT ON COLUMN usage_quarantine.reason IS
    'What Postgres said, up to 255 characters of ASCII';
COMMENT ON COLUMN usage_quarantine.record IS
    'The event as a spool frame of one';


CREATE TABLE IF NOT EXISTS key_usage (
    key_id        uuid         PRIMARY KEY,
    requests      bigint       NOT NULL DEFAULT 0,
    refused       bigint       NOT NULL DEFAULT 0,
    errors        bigint       NOT NULL DEFAULT 0,
    tokens        bigint       NOT NULL DEFAULT 0,
    cost          numeric      NOT NULL DEFAULT 0,
    last_used_at  timestamptz
) WITH (fillfactor = 50);

COMMENT ON TABLE key_usage IS 'All use of a key since it exists';
COMMENT ON COLUMN key_usage.requests IS 'Admitted: usage_count';
COMMENT ON COLUMN key_usage.cost IS 'Nano-units of the currency';
COMMENT ON COLUMN key_usage.last_used_at IS 'Last admitted request';


-- What lists are sorted by.  Both stay the same over most updates.

CREATE OR REPLACE FUNCTION usage_slot(at timestamptz)
RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN date_bin('2 s', at, timestamptz '2000-01-01 00:00:00+00');

CREATE OR REPLACE FUNCTION usage_size(n bigint)
RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN trunc(n::numeric, 2 - length(n::text))::bigint;

COMMENT ON FUNCTION usage_slot(timestamptz) IS 'The two seconds it is in';
COMMENT ON FUNCTION usage_size(bigint) IS
    'A count with its first two digits, the others 0';

ALTER TABLE key_usage
    ADD COLUMN IF NOT EXISTS owner_id uuid,
    ADD COLUMN IF NOT EXISTS last_slot timestamptz
        GENERATED ALWAYS AS (usage_slot(last_used_at)) STORED,
    ADD COLUMN IF NOT EXISTS size bigint
        GENERATED ALWAYS AS (usage_size(requests)) STORED;

COMMENT ON COLUMN key_usage.owner_id IS 'As in key, for the lists of owners';
COMMENT ON COLUMN key_usage.last_slot IS
    'last_used_at to two seconds, which is what its index holds';
COMMENT ON COLUMN key_usage.size IS
    'requests to two digits, which is what its index holds';


CREATE TABLE IF NOT EXISTS secret_usage (
    secret_id     uuid         PRIMARY KEY,
    last_used_at  timestamptz  NOT NULL
) WITH (fillfactor = 50);

COMMENT ON TABLE secret_usage IS 'When a secret was last used';


-- From microseconds since the epoch, which is what a node sends.

CREATE OR REPLACE FUNCTION usage_time(us bigint)
RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN timestamptz '1970-01-01 00:00:00+00' + us * interval '1 microsecond';

COMMENT ON FUNCTION usage_time(bigint) IS
    'Time of that many microseconds since the epoch';


CREATE OR REPLACE FUNCTION usage_heartbeat(a_node uuid, a_name text,
    a_as_of bigint)
RETURNS void
LANGUAGE sql
SET search_path = apikey, pg_temp
AS $$
    INSERT INTO usage_node AS n (node, name, as_of, seen_at)
    VALUES (a_node, a_name, usage_time(a_as_of), clock_timestamp())
    ON CONFLICT (node) DO UPDATE
        SET name = excluded.name, seen_at = excluded.seen_at,
            as_of = greatest(n.as_of, excluded.as_of)
$$;

COMMENT ON FUNCTION usage_heartbeat(uuid, text, bigint) IS
    'A node has shipped everything recorded before this time';


CREATE OR REPLACE FUNCTION usage_as_of()
RETURNS timestamptz
LANGUAGE sql STABLE
RETURN (SELECT least(now(), coalesce(min(u.as_of), now())) FROM usage_node u
        WHERE greatest(u.seen_at, (SELECT n.seen_at FROM node n
                                   WHERE n.id = u.node))
            > now() - interval '10 seconds');

COMMENT ON FUNCTION usage_as_of() IS
    'Everything that ended before it, on any node alive, is in.  A request'
    ' is recorded when it ends, so one still running is not in yet; a node'
    ' not heard of for ten seconds, by what it ships or by its heartbeat, is'
    ' not waited for';


CREATE OR REPLACE FUNCTION usage_add(rows usage_quarter[])
RETURNS void
LANGUAGE sql
SET search_path = apikey, pg_temp
SET jit = off
AS $$
    INSERT INTO usage_quarter AS q
    SELECT r.start, r.node, r.key_id, r.owner, r.customer, r.service,
        r.endpoint, r.model, r.outcome, r.status_code, r.verdict,
        r.limit_name, sum(r.requests), sum(r.refused), sum(r.errors),
        sum(r.tokens_input), sum(r.tokens_output), sum(r.tokens_cached),
        sum(r.tokens_reasoning), sum(r.cost), sum(r.unpriced),
        sum(r.bytes_in), sum(r.bytes_out), sum(r.duration_us), sum(r.units)
    FROM unnest(rows) AS r
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
    ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
    ON CONFLICT (start, node, key_id, owner, customer, service, endpoint,
        model, outcome, status_code, verdict, limit_name) DO UPDATE
    SET requests = q.requests + excluded.requests,
        refused = q.refused + excluded.refused,
        errors = q.errors + excluded.errors,
        tokens_input = q.tokens_input + excluded.tokens_input,
        tokens_output = q.tokens_output + excluded.tokens_output,
        tokens_cached = q.tokens_cached + excluded.tokens_cached,
        tokens_reasoning = q.tokens_reasoning + excluded.tokens_reasoning,
        cost = q.cost + excluded.cost,
        unpriced = q.unpriced + excluded.unpriced,
        bytes_in = q.bytes_in + excluded.bytes_in,
        bytes_out = q.bytes_out + excluded.bytes_out,
        duration_us = q.duration_us + excluded.duration_us,
        units = q.units + excluded.units
$$;

COMMENT ON FUNCTION usage_add(usage_quarter[]) IS
    'Adds rows to the roll-ups, of which some may be for the same one; in'
    ' batches of nodes usage_apply() does it, from arrays';


CREATE OR REPLACE FUNCTION usage_book(rows usage_quarter[])
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET jit = off
AS $$
DECLARE
    late  boolean[];
BEGIN
    PERFORM pg_advisory_xact_lock_shared(billing_lock());

    late := usage_late(ARRAY(SELECT micros(r.start) FROM unnest(rows)
            WITH ORDINALITY AS r ORDER BY r.ordinality),
        ARRAY(SELECT r.owner FROM unnest(rows)
            WITH ORDINALITY AS r ORDER BY r.ordinality));

    IF late IS NULL THEN
        PERFORM usage_add(rows);
        RETURN;
    END IF;

    PERFORM usage_add(ARRAY(SELECT rows[i]
        FROM generate_subscripts(rows, 1) AS i WHERE NOT late[i]));

    INSERT INTO usage_correction (kind, at, service_at, node, key_id, owner,
        customer, service, endpoint, model, outcome, status_code, verdict,
        limit_name, requests, refused, errors, tokens_input, tokens_output,
        tokens_cached, tokens_reasoning, cost, unpriced, bytes_in, bytes_out,
        duration_us, units)
    SELECT 'late', now(), r.*
    FROM generate_subscripts(rows, 1) AS i, LATERAL (SELECT (rows[i]).*) AS r
    WHERE late[i];
END
$$;

COMMENT ON FUNCTION usage_book(usage_quarter[]) IS
    'usage_add(), where some may come late';


-- One batch.  "streams": parallel arrays, how far each stream moves and from
-- where; "rows": parallel arrays of roll-ups; then keys, secrets, poison.
-- AK409: a mark is not where the caller believes; nothing was applied.  A
-- node of an older version says no units: each of its requests is one.  What
-- comes late is a correction, and stands in the sums as such; keys and credits
-- do not tell it from the rest.  Without as_of it is no sign of life of the
-- node.

DROP FUNCTION IF EXISTS usage_apply(uuid, text, bigint, int[], bigint[],
    bigint[], bigint[], bigint[], bigint[], uuid[], text[], text[], text[],
    text[], text[], text[], int[], text[], text[], bigint[], bigint[],
    bigint[], bigint[], bigint[], bigint[], bigint[], bigint[], bigint[],
    bigint[], bigint[], bigint[], bigint[], uuid[], bigint[]);

CREATE OR REPLACE FUNCTION usage_apply(a_node uuid, a_name text,
    a_as_of bigint,
    s_stream int[], s_epoch bigint[], s_mark bigint[], s_first bigint[],
    s_last bigint[],
    r_start bigint[], r_key uuid[], r_owner text[], r_customer text[],
    r_service text[], r_endpoint text[], r_model text[], r_outcome text[],
    r_status int[], r_verdict text[], r_limit text[],
    r_requests bigint[], r_refused bigint[], r_errors bigint[],
    r_input bigint[], r_output bigint[], r_cached bigint[],
    r_reasoning bigint[], r_cost numeric[], r_unpriced bigint[],
    r_in bigint[], r_out bigint[], r_duration bigint[], r_last bigint[],
    x_secret uuid[], x_last bigint[], r_units numeric[] DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET jit = off
AS $$
DECLARE
    i     int;
    late  boolean[];
BEGIN
    PERFORM pg_advisory_xact_lock_shared(billing_lock());

    late := usage_late(r_start, r_owner);

    FOR i IN 1 .. cardinality(s_stream)
    LOOP
        INSERT INTO usage_stream (node, stream, epoch, mark)
        SELECT a_node, s_stream[i], s_epoch[i], 0 WHERE s_mark[i] = 0
        ON CONFLICT DO NOTHING;

        UPDATE usage_stream
        SET mark = s_last[i], lost = lost + s_first[i] - s_mark[i] - 1,
            updated_at = now()
        WHERE node = a_node AND stream = s_stream[i] AND epoch = s_epoch[i]
            AND mark = s_mark[i];

        IF NOT FOUND THEN
            RAISE EXCEPTION 'stream % is not at event %', s_stream[i],
                s_mark[i] USING ERRCODE = 'AK409';
        END IF;
    END LOOP;

    INSERT INTO usage_batch (node, stream, epoch, first, last, lost)
    SELECT a_node, stream, epoch, first, last, first - mark - 1
    FROM unnest(s_stream, s_epoch, s_mark, s_first, s_last)
        AS s (stream, epoch, mark, first, last);

    INSERT INTO usage_quarter AS q
    SELECT usage_time(start), a_node, key, owner, customer, service,
        endpoint, model, outcome, status, verdict, limit_name, requests,
        refused, errors, input, output, cached, reasoning, cost, unpriced,
        b_in, b_out, duration, coalesce(units, requests)
    FROM unnest(r_start, r_key, r_owner, r_customer, r_service, r_endpoint,
            r_model, r_outcome, r_status, r_verdict, r_limit, r_requests,
            r_refused, r_errors, r_input, r_output, r_cached, r_reasoning,
            r_cost, r_unpriced, r_in, r_out, r_duration, r_units, late)
        AS r (start, key, owner, customer, service, endpoint, model, outcome,
            status, verdict, limit_name, requests, refused, errors, input,
            output, cached, reasoning, cost, unpriced, b_in, b_out, duration,
            units, late)
    WHERE r.late IS NOT TRUE
    ON CONFLICT (start, node, key_id, owner, customer, service, endpoint,
        model, outcome, status_code, verdict, limit_name) DO UPDATE
    SET requests = q.requests + excluded.requests,
        refused = q.refused + excluded.refused,
        errors = q.errors + excluded.errors,
        tokens_input = q.tokens_input + excluded.tokens_input,
        tokens_output = q.tokens_output + excluded.tokens_output,
        tokens_cached = q.tokens_cached + excluded.tokens_cached,
        tokens_reasoning = q.tokens_reasoning + excluded.tokens_reasoning,
        cost = q.cost + excluded.cost,
        unpriced = q.unpriced + excluded.unpriced,
        bytes_in = q.bytes_in + excluded.bytes_in,
        bytes_out = q.bytes_out + excluded.bytes_out,
        duration_us = q.duration_us + excluded.duration_us,
        units = q.units + excluded.units;

    IF late IS NOT NULL THEN
        INSERT INTO usage_correction (kind, at, service_at, node, key_id,
            owner, customer, service, endpoint, model, outcome, status_code,
            verdict, limit_name, requests, refused, errors, tokens_input,
            tokens_output, tokens_cached, tokens_reasoning, cost, unpriced,
            bytes_in, bytes_out, duration_us, units)
        SELECT 'late', now(), usage_time(start), a_node, key, owner, customer,
            service, endpoint, model, outcome, status, verdict, limit_name,
            requests, refused, errors, input, output, cached, reasoning, cost,
            unpriced, b_in, b_out, duration, coalesce(units, requests)
        FROM unnest(r_start, r_key, r_owner, r_customer, r_service,
                r_endpoint, r_model, r_outcome, r_status, r_verdict, r_limit,
                r_requests, r_refused, r_errors, r_input, r_output, r_cached,
                r_reasoning, r_cost, r_unpriced, r_in, r_out, r_duration,
                r_units, late)
            AS r (start, key, owner, customer, service, endpoint, model,
                outcome, status, verdict, limit_name, requests, refused,
                errors, input, output, cached, reasoning, cost, unpriced,
                b_in, b_out, duration, units, late)
        WHERE r.late;
    END IF;

    -- sorted: nodes that share keys lock them in one order

    INSERT INTO key_usage AS k
    SELECT key, sum(requests), sum(refused), sum(errors),
        sum(input + output), sum(cost), usage_time(nullif(max(used), 0))
    FROM unnest(r_key, r_requests, r_refused, r_errors, r_input, r_output,
            r_cost, r_last)
        AS r (key, requests, refused, errors, input, output, cost, used)
    WHERE key <> '00000000-0000-0000-0000-000000000000'
    GROUP BY key
    ORDER BY key
    ON CONFLICT (key_id) DO UPDATE
    SET requests = k.requests + excluded.requests,
        refused = k.refused + excluded.refused,
        errors = k.errors + excluded.errors,
        tokens = k.tokens + excluded.tokens,
        cost = k.cost + excluded.cost,
        last_used_at = greatest(k.last_used_at, excluded.last_used_at);

    INSERT INTO secret_usage AS s
    SELECT secret, usage_time(max(used))
    FROM unnest(x_secret, x_last) AS x (secret, used)
    GROUP BY secret
    ORDER BY secret
    ON CONFLICT (secret_id) DO UPDATE
    SET last_used_at = greatest(s.last_used_at, excluded.last_used_at);

    PERFORM credits_used(r_key, r_owner, r_verdict, coalesce(r_units,
        r_requests::numeric[]), r_input, r_output, r_cost);

    IF a_as_of IS NOT NULL THEN
        PERFORM usage_heartbeat(a_node, a_name, a_as_of);
    END IF;
END
$$;

COMMENT ON FUNCTION usage_apply IS
    'Applies one batch of a node: marks, ledger, roll-ups, keys, secrets';


-- What limits of one holder, unit and scope were paid, by what is shipped: a
-- node asks where nobody knows any more what was used.  Roll-ups are by the
-- quarter of an hour; what came before "since" in its quarter is taken off
-- where its raw events are kept, else it counts.  Limits were paid when the
-- service was used, whenever it was booked; a correction pays none back, and
-- what was imported has paid none here.
--
-- a_whole: a request whose cost nobody knows has taken what was left of the
-- strict budgets, as budget_left() tells.

CREATE OR REPLACE FUNCTION usage_imported()
RETURNS uuid[]
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN ARRAY(SELECT n.node FROM usage_node n WHERE n.seen_at = 'epoch');

COMMENT ON FUNCTION usage_imported() IS
    'Nodes that imports stand under: none of them was ever alive';

DROP FUNCTION IF EXISTS quota_used(uuid, text, text, text, text, bigint);

CREATE OR REPLACE FUNCTION quota_used(a_holder uuid, a_level text,
    a_unit text, a_service text, a_model text, a_since bigint,
    a_whole boolean DEFAULT true, OUT used numeric, OUT as_of bigint)
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
SET jit = off
AS $$
DECLARE
    since    timestamptz := usage_time(a_since);
    quarter  timestamptz := usage_time(a_since - a_since % 900000000);
    name     text := (SELECT o.external FROM owner o WHERE o.id = a_holder);
    imports  uuid[] := usage_imported();
    early    record;
    late     record;
    unknown  bigint;
    keys     uuid[] := CASE a_level WHEN 'key' THEN ARRAY[a_holder]
        ELSE ARRAY(SELECT k.id FROM key k WHERE k.owner_id = a_holder) END;
BEGIN
    as_of := extract(epoch FROM usage_as_of()) * 1000000;

    SELECT coalesce(sum(CASE a_unit WHEN 'requests' THEN q.units
            WHEN 'tokens' THEN q.tokens_input + q.tokens_output
            ELSE q.cost END), 0), coalesce(sum(q.unpriced), 0)
    INTO used, unknown
    FROM usage_quarter q
    WHERE (a_level = 'key' AND q.key_id = a_holder
            OR a_level = 'owner' AND q.owner = name)
        AND q.start >= quarter AND q.verdict = 'ok'
        AND q.node <> correction_node() AND q.node <> ALL (imports)
        AND (coalesce(a_service, '') = ''
            OR pattern_covers(a_service, q.service))
        AND (coalesce(a_model, '') = '' OR pattern_covers(a_model, q.model));

    SELECT coalesce(sum(CASE a_unit WHEN 'requests' THEN c.units
            WHEN 'tokens' THEN c.tokens_input + c.tokens_output
            ELSE c.cost END), 0) AS used, coalesce(sum(c.unpriced), 0) AS n
    INTO late
    FROM usage_correction c
    WHERE c.kind = 'late'
        AND (a_level = 'key' AND c.key_id = a_holder
            OR a_level = 'owner' AND c.owner = name)
        AND c.service_at >= quarter AND c.verdict = 'ok'
        AND (c.node = ANY (imports)) IS NOT TRUE
        AND (coalesce(a_service, '') = ''
            OR pattern_covers(a_service, c.service))
        AND (coalesce(a_model, '') = '' OR pattern_covers(a_model, c.model));

    used := used + late.used;
    unknown := unknown + late.n;

    IF quarter < since THEN
        SELECT coalesce(sum(CASE a_unit WHEN 'requests' THEN e.weight
                WHEN 'tokens' THEN e.tokens_input + e.tokens_output
                ELSE coalesce(e.cost, 0) END), 0) AS used,
            count(*) FILTER (WHERE e.cost IS NULL) AS n
        INTO early
        FROM usage_request e
        WHERE e.key_id = ANY (keys)          -- there is no index by owner
            AND (a_level = 'key' OR e.owner = name)
            AND e.time >= quarter AND e.time < since AND e.verdict = 'ok'
            AND e.node <> ALL (imports)
            AND (coalesce(a_service, '') = ''
                OR pattern_covers(a_service, e.service))
            AND (coalesce(a_model, '') = ''
                OR pattern_covers(a_model, coalesce(e.model, '')));

        used := used - early.used;
        unknown := unknown - early.n;
    END IF;

    IF a_whole AND a_unit = 'cost' AND unknown > 0 THEN
        used := used + coalesce(budget_left(a_holder, a_level), 0);
    END IF;
END
$$;

COMMENT ON FUNCTION quota_used(uuid, text, text, text, text, bigint, boolean)
    IS
    'What a holder has used of a unit (cost: nano-units) in a scope since that'
    ' microsecond, complete up to as_of; requests that a dry run let pass do'
    ' not count';


-- What a request takes whose cost nobody knows: as much as the strict budgets
-- it counts for all have, by costs that are known.  A length may have had less
-- than it holds.

CREATE OR REPLACE FUNCTION budget_left(a_holder uuid, a_level text)
RETURNS numeric
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
AS $$
    SELECT min(CASE WHEN h.kind IN ('calendar', 'total')
        THEN greatest(h."limit" - (quota_used(a_holder, a_level, 'cost',
            h.service, h.model, greatest(h.made, (
                SELECT max(b) FROM unnest(CASE WHEN h.period IS NOT NULL
                    THEN calendar_bounds(coalesce(o.time_zone, 'UTC'),
                        coalesce(o.anchor_day, 1), h.period, now()) END) AS b
                WHERE b <= micros(now()))), false)).used, 0)
        ELSE coalesce(h.burst, h."limit") END)
    FROM (SELECT k.id AS key_id, k.owner_id, k.plan FROM key k
          WHERE a_level = 'key' AND k.id = a_holder
          UNION ALL
          SELECT NULL, o.id, o.plan FROM owner o
          WHERE a_level = 'owner' AND o.id = a_holder) AS w
        LEFT JOIN owner o ON o.id = w.owner_id,
        LATERAL limits_held(w.key_id, CASE WHEN w.key_id IS NULL
            THEN w.owner_id END, w.plan) AS h
    WHERE h.unit = 'cost' AND coalesce(h.mode, 'strict') = 'strict'
        AND h.kind <> 'credits' AND h.service IS NULL AND h.model IS NULL
$$;

COMMENT ON FUNCTION budget_left(uuid, text) IS
    'What is left of the tightest strict budget of a holder that all requests'
    ' count for; null: it has none';


-- Policies.  Every caller sees its own rows; a node reads and writes all.

DO $$
DECLARE
    t  text;
BEGIN
    FOREACH t IN ARRAY ARRAY['usage_quarter', 'key_usage', 'secret_usage']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('DROP POLICY IF EXISTS node_all ON %I', t);
        EXECUTE format('DROP POLICY IF EXISTS operator_see ON %I', t);
        EXECUTE format('DROP POLICY IF EXISTS own_see ON %I', t);
        EXECUTE format('CREATE POLICY node_all ON %I TO apikey_gateway'
            ' USING ((SELECT caller()) = ''node'')', t);
        EXECUTE format('CREATE POLICY operator_see ON %I FOR SELECT TO'
            ' apikey_gateway USING ((SELECT caller()) IN (''operator'','
            ' ''operator_read''))', t);
    END LOOP;
END
$$;

CREATE POLICY own_see ON usage_quarter FOR SELECT TO apikey_gateway
    USING (((SELECT caller()) = 'key' AND key_id = (SELECT caller_key()))
        OR ((SELECT caller()) = 'owner' AND owner <> ''
            AND owner = (SELECT o.external FROM apikey.owner o
                         WHERE o.id = (SELECT caller_owner()))));

CREATE POLICY own_see ON key_usage FOR SELECT TO apikey_gateway
    USING (((SELECT caller()) = 'key' AND key_id = (SELECT caller_key()))
        OR ((SELECT caller()) = 'owner'
            AND owner_id = (SELECT caller_owner())));

CREATE POLICY own_see ON secret_usage FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) IN ('key', 'owner')
        AND (SELECT s.id FROM apikey.secret s WHERE s.id = secret_id)
            IS NOT NULL);


-- The columns that usage_event had from the start: what takes a row of it
-- stays as it is when there are more.

CREATE OR REPLACE VIEW usage_row AS
SELECT e.time, e.event, e.node, e.key_id, e.secret_id, e.owner, e.customer,
    e.client, e.session, e.service, e.endpoint, e.method, e.status_code,
    e.outcome, e.verdict, e.mode, e.limit_name, e."limit", e.remaining,
    e.retry_after, e.model, e.weight, e.tokens_input, e.tokens_output,
    e.tokens_cached, e.tokens_reasoning, e.usage_source, e.cost,
    e.price_version, e.bytes_in, e.bytes_out, e.duration_us, e.upstream_us,
    e.aborted, coalesce(n.name, e.node::text) AS node_name
FROM usage_event e
LEFT JOIN usage_node n ON n.node = e.node;

COMMENT ON VIEW usage_row IS 'Raw events with their node''s name, everyone''s';

CREATE OR REPLACE VIEW usage_request WITH (security_barrier) AS
SELECT e.* FROM usage_row e
WHERE caller() IN ('operator', 'operator_read', 'node')
    OR (caller() = 'key' AND e.key_id = caller_key())
    OR (caller() = 'owner' AND e.owner = (SELECT o.external FROM owner o
                                          WHERE o.id = caller_owner()));

COMMENT ON VIEW usage_request IS
    'Raw events that the caller of this transaction may see';


-- tokens_cached and tokens_reasoning are parts of input and output.  A view
-- over another one would group twice.

DO $do$
DECLARE
    v  record;
BEGIN
    FOR v IN SELECT * FROM (VALUES ('hourly', 'hour'), ('daily', 'day'),
                 ('monthly', 'month')) AS x (name, unit)
    LOOP
        EXECUTE format($q$
CREATE OR REPLACE VIEW usage_%s AS
SELECT date_trunc(%L, q.start AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS start,
    nullif(q.owner, '') AS owner, nullif(q.customer, '') AS customer,
    nullif(q.key_id, '00000000-0000-0000-0000-000000000000') AS key,
    q.service, q.endpoint, nullif(q.model, '') AS model, q.outcome,
    q.status_code, q.verdict, nullif(q.limit_name, '') AS limit_name,
    coalesce(n.name, q.node::text) AS node,
    sum(q.requests)::bigint AS requests, sum(q.refused)::bigint AS refused,
    sum(q.errors)::bigint AS errors,
    sum(q.tokens_input + q.tokens_output)::bigint AS tokens,
    sum(q.tokens_input)::bigint AS tokens_input,
    sum(q.tokens_output)::bigint AS tokens_output,
    sum(q.tokens_cached)::bigint AS tokens_cached,
    sum(q.tokens_reasoning)::bigint AS tokens_reasoning,
    (sum(q.cost) / 1000000000)::numeric(38, 9) AS cost,
    sum(q.unpriced)::bigint AS unpriced,
    sum(q.bytes_in)::bigint AS bytes_in, sum(q.bytes_out)::bigint AS bytes_out,
    round(sum(q.duration_us) / 1000)::bigint AS duration_ms
FROM usage_quarter q
LEFT JOIN usage_node n ON n.node = q.node
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
            $q$, v.name, v.unit);
    END LOOP;
END
$do$;

COMMENT ON VIEW usage_hourly IS 'Usage by UTC hour';
COMMENT ON VIEW usage_daily IS 'Usage by UTC day';
COMMENT ON VIEW usage_monthly IS 'Usage by UTC month';

DO $do$
DECLARE
    v  text;
    c  record;
BEGIN
    FOREACH v IN ARRAY ARRAY['hourly', 'daily', 'monthly']
    LOOP
        FOR c IN SELECT * FROM (VALUES
            ('start', 'Begin of the hour, day or month, in UTC'),
            ('owner', 'The user''s own id of the owner at the time of the'
                ' request; null: none'),
            ('customer', 'The key''s customer; null: none'),
            ('key', 'Null: anonymous, or refused with no or an unknown key'),
            ('service', 'apikey_service; empty: none'),
            ('endpoint', 'apikey_endpoint; empty: none'),
            ('model', 'apikey_model; null: none'),
            ('outcome', 'success (< 400), error, aborted, refused'),
            ('verdict', 'ok, anonymous, or why it was refused'),
            ('limit_name', 'The limit that refused it; null: none did'),
            ('node', 'apikey_node, or the node''s id'),
            ('requests', 'Admitted'),
            ('refused', 'By the gateway; never part of requests'),
            ('errors', 'Admitted, answered >= 400'),
            ('tokens', 'Input and output'),
            ('tokens_cached', 'Part of tokens_input'),
            ('tokens_reasoning', 'Part of tokens_output'),
            ('cost', 'In units of the currency, exact to nine decimals'),
            ('unpriced', 'Requests whose price is unknown; not in cost'),
            ('duration_ms', 'Sum; divide by requests + refused'))
            AS x (name, text)
        LOOP
            EXECUTE format('COMMENT ON COLUMN usage_%s.%I IS %L', v, c.name,
                c.text);
        END LOOP;
    END LOOP;
END
$do$;


GRANT SELECT, INSERT, UPDATE ON usage_node, usage_stream, usage_quarter,
    key_usage, secret_usage TO apikey_gateway;
GRANT INSERT ON usage_batch, usage_event, usage_quarantine TO apikey_gateway;
GRANT SELECT ON usage_request TO apikey_gateway;
GRANT EXECUTE ON FUNCTION usage_time(bigint), usage_slot(timestamptz),
    usage_size(bigint),
    usage_add(usage_quarter[]), usage_book(usage_quarter[]),
    usage_heartbeat(uuid, text, bigint), usage_as_of(), usage_imported(),
    usage_apply,
    quota_used(uuid, text, text, text, text, bigint, boolean),
    budget_left(uuid, text) TO apikey_gateway;
GRANT SELECT ON usage_node, usage_hourly, usage_daily, usage_monthly
    TO apikey_reader;
GRANT SELECT (id, seen_at) ON node TO apikey_reader;
GRANT EXECUTE ON FUNCTION usage_as_of(), usage_imported() TO apikey_reader;
