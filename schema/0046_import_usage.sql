--
-- POST import/usage: rows of export/usage, or of what writes the same columns,
-- become usage.  A row is counted once, however often it comes: one of a
-- request by its id, any other by all it says and how many the same stand
-- before it in its import.
--
-- Rows of corrections (node "correction", or less than nothing) are
-- corrections here, too.
--
-- A batch is read, checked and booked as a whole; what is slow is done for
-- rows that may be wrong.
--

SET LOCAL client_min_messages = warning;
SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE TABLE IF NOT EXISTS usage_import (
    id     uuid         PRIMARY KEY,
    n      int          NOT NULL DEFAULT 1,
    at     timestamptz  NOT NULL DEFAULT now()
);

COMMENT ON TABLE usage_import IS
    'Rows of usage that were imported; kept as long as the sums that they are'
    ' in, which is for ever: one that comes again would count again';
COMMENT ON COLUMN usage_import.id IS
    'The request''s id, or made of all that the row says';
COMMENT ON COLUMN usage_import.n IS 'How many the same';


CREATE TABLE IF NOT EXISTS usage_import_part (
    import  uuid         NOT NULL,
    id      uuid         NOT NULL,
    n       int          NOT NULL DEFAULT 1,
    at      timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (import, id)
);

COMMENT ON TABLE usage_import_part IS
    'How often an import that is under way has had a row; kept for a day';
COMMENT ON COLUMN usage_import_part.import IS 'The request_id of the call';

CREATE INDEX IF NOT EXISTS usage_import_part_at ON usage_import_part (at);

DO $$
DECLARE
    t  text;
BEGIN
    FOREACH t IN ARRAY ARRAY['usage_import', 'usage_import_part']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('DROP POLICY IF EXISTS node_all ON %I', t);
        EXECUTE format('CREATE POLICY node_all ON %I TO apikey_gateway'
            ' USING ((SELECT caller()) = ''node'')', t);
    END LOOP;
END
$$;

GRANT SELECT, INSERT, UPDATE ON usage_import TO apikey_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON usage_import_part TO apikey_gateway;


CREATE OR REPLACE FUNCTION csv_unguard(value text)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN value ~ '^''+[=+@\t\r\n-]' THEN substr(value, 2)
    ELSE value END;

COMMENT ON FUNCTION csv_unguard(text) IS 'The text behind csv_guard()';


-- What a member must be; any may be absent or null but the date.

DROP FUNCTION IF EXISTS check_usage_row(jsonb);
DROP FUNCTION IF EXISTS usage_members();

CREATE OR REPLACE FUNCTION usage_members(OUT name text, OUT kind text,
    OUT pattern text, OUT most int, OUT message text, OUT signed boolean)
RETURNS SETOF record
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT m.name, m.kind, k.pattern, k.most, k.message,
        m.name = 'cost' OR m.name ~ '^(requests|tokens)'
    FROM (VALUES ('date', 'time'), ('endpoint', 'long'),
        ('requests', 'count'), ('tokens', 'count'), ('cost', 'money'),
        ('model', 'text'), ('status', 'status'), ('request_id', 'id'),
        ('key', 'id'), ('owner', 'text'), ('customer', 'text'),
        ('service', 'text'), ('method', 'text'), ('status_code', 'code'),
        ('verdict', 'verdict'), ('limit_name', 'text'),
        ('tokens_input', 'count'), ('tokens_output', 'count'),
        ('tokens_cached', 'count'), ('tokens_reasoning', 'count'),
        ('usage_source', 'source'), ('price_version', 'count'),
        ('bytes_in', 'count'), ('bytes_out', 'count'),
        ('duration_ms', 'count'), ('session', 'text'), ('node', 'text'))
            AS m (name, kind)
        JOIN (SELECT 'verdict' AS kind, '^(' || d.known || ')$' AS pattern,
                64 AS most, 'a verdict' AS message
            FROM usage_dimensions() AS d WHERE d.name = 'verdict'
            UNION ALL
            VALUES
        ('time', '', 64, 'a time such as 2026-11-20T10:00:00Z'),
        ('text', '^[^\u0001-\u001f\u007f]*$', 255,
            'text of at most 255 characters'),
        ('long', '', 4096, 'text of at most 4096 characters'),
        ('count', '^(0|[1-9][0-9]{0,14})$', 15, 'a whole number up to 10^15'),
        ('money', '^(0|[1-9][0-9]{0,8})([.][0-9]{1,9})?$', 19,
            'money as text, such as "0.001"'),
        ('status', '^(success|error)$', 7, 'success or error'),
        ('id', '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$', 36, 'a UUID'),
        ('code', '^(0|[1-9][0-9]{2})$', 3, 'a status of HTTP'),
        ('source', '^(provider|header|estimate|none)$', 8,
            'provider, header, estimate or none'))
            AS k ON k.kind = m.kind;
END;

COMMENT ON FUNCTION usage_members() IS
    'The members of a row of usage, as export/usage has them; signed: in a'
    ' correction it may be below 0';


-- Nothing that only a request has, and of "correction", or without a node.

CREATE OR REPLACE FUNCTION usage_corrects(v jsonb)
RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN coalesce(v ->> 'method', v ->> 'usage_source') IS NULL
    AND coalesce(v ->> 'node', v ->> 'request_id', 'correction')
        = 'correction';

COMMENT ON FUNCTION usage_corrects(jsonb) IS
    'Whether what a row of usage says may be a difference';


-- Rows that are not right for sure, by the same patterns, those of one kind
-- all at once: there are millions.  A comma too many is in a value; a text
-- that begins so may have been none.

DO $do$
BEGIN
    EXECUTE (SELECT format($q$
CREATE OR REPLACE FUNCTION usage_rows_odd(vs jsonb[])
RETURNS SETOF bigint
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
AS $$
    SELECT i.n
    FROM unnest(vs) WITH ORDINALITY AS i (v, n),
        jsonb_to_record(i.v) AS r (%s)
    WHERE r.date IS NULL OR jsonb_typeof(i.v -> 'cost') = 'number'
        OR i.v - %L::text[] <> '{}' OR %s
$$ $q$, string_agg(k.columns, ', '),
        (SELECT array_agg(m.name) FROM usage_members() AS m),
        string_agg(CASE WHEN k.kind IN ('text', 'long')
                THEN format('concat(%1$s) !~ %2$L OR %3$s OR concat_ws(chr(1),'
                    ' '''', %1$s) ~ %4$L', k.names, k.pattern, k.long,
                    '\u0001([{[]|true|false)')
            WHEN k.n = 1 THEN format('%s !~ %L', k.names, k.pattern)
            ELSE format('%s !~ %L OR length(%1$s) - length(replace(%1$s,'
                ' '','', '''')) > num_nonnulls(%3$s)',
                format('concat_ws('','', ''x'', %s)', k.names),
                '^x(,(' || btrim(k.pattern, '^$') || '))*$', k.names) END,
            ' OR '))
    FROM (SELECT m.kind, m.pattern, count(*) AS n,
            string_agg(format('%I text', m.name), ', ') AS columns,
            string_agg(format('r.%I', m.name), ', ') AS names,
            string_agg(format('octet_length(r.%I) > %s', m.name, m.most),
                ' OR ') AS long
        FROM usage_members() AS m
        GROUP BY m.kind, m.pattern) AS k);
END
$do$;

COMMENT ON FUNCTION usage_rows_odd(jsonb[]) IS
    'Which of the rows check_usage_rows() has to look at';


-- What is wrong with each member.

CREATE OR REPLACE FUNCTION check_usage_rows(vs jsonb[], ats timestamptz[])
RETURNS TABLE (n bigint, errors jsonb)
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
AS $$
    SELECT e.n, jsonb_agg(e.error -> 0)
    FROM (SELECT i.n, CASE
            WHEN m.name IS NULL THEN wrong('/' || pointer_text(x.key),
                'unknown', 'a row of usage has no such member')
            WHEN jsonb_typeof(x.value) NOT IN ('string', 'number')
                OR m.name = 'cost' AND jsonb_typeof(x.value) = 'number'
                THEN wrong('/' || m.name, 'bad_type', m.message)
            WHEN t.value !~ m.pattern OR m.name = 'date' AND i.at IS NULL
                THEN wrong('/' || m.name, 'bad_value', m.message)
            WHEN char_length(t.value) > m.most
                THEN wrong('/' || m.name, 'bad_length', m.message)
            WHEN m.name = 'date' AND i.at > now() + interval '1 hour'
                THEN wrong('/date', 'out_of_range', 'this is still to come')
            END AS error
        FROM (SELECT i.n, i.v, i.at
              FROM unnest(vs, ats) WITH ORDINALITY AS i (v, at, n)
              WHERE i.n IN (SELECT usage_rows_odd(vs)) OR i.at IS NULL
                  OR i.at > now() + interval '1 hour') AS i,
            jsonb_each(i.v) AS x
            LEFT JOIN usage_members() AS m ON m.name = x.key,
            LATERAL (SELECT CASE WHEN m.signed AND usage_corrects(i.v)
                THEN regexp_replace(x.value #>> '{}', '^-', '')
                ELSE x.value #>> '{}' END AS value) AS t
        WHERE x.value <> 'null'
        UNION ALL
        SELECT i.n, wrong('/date', 'required', 'say when it was')
        FROM unnest(vs) WITH ORDINALITY AS i (v, n)
        WHERE i.v ->> 'date' IS NULL AND i.v IS NOT NULL) AS e
    WHERE e.error IS NOT NULL
    GROUP BY e.n
$$;

COMMENT ON FUNCTION check_usage_rows(jsonb[], timestamptz[]) IS
    'What is wrong with rows, of which it is wrong';


CREATE OR REPLACE FUNCTION raw_begin()
RETURNS timestamptz
LANGUAGE sql STABLE
RETURN date_trunc('day', now(), 'UTC') - raw_days() * interval '1 day';

COMMENT ON FUNCTION raw_begin() IS 'Raw events are kept from then on';


-- Rows as JSON: null where one has NUL in a text, or a number without end,
-- and all of them have to be looked at alone.

DROP FUNCTION IF EXISTS usage_import_json(text, boolean);

CREATE OR REPLACE FUNCTION usage_import_one(value text)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    v  jsonb;
BEGIN
    v := value;
    RETURN v;

EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION usage_import_one(text) IS
    'What a row says, or null where Postgres cannot hold it';


CREATE OR REPLACE FUNCTION usage_import_json(rows text[], csv boolean)
RETURNS jsonb[]
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    vs  jsonb[];
BEGIN
    BEGIN
        vs := rows::jsonb[];

    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
        vs := ARRAY(SELECT usage_import_one(x.row)
            FROM unnest(rows) WITH ORDINALITY AS x (row, n) ORDER BY x.n);
    END;

    IF csv AND EXISTS (SELECT FROM unnest(rows) AS row
                       WHERE strpos(row, '"''') > 0)
    THEN
        vs := ARRAY(SELECT CASE WHEN strpos(x.row, '"''') > 0
                THEN (SELECT jsonb_object_agg(m.key, csv_unguard(m.value))
                      FROM jsonb_each_text(x.v) AS m)
                ELSE x.v END
            FROM unnest(rows, vs) WITH ORDINALITY AS x (row, v, n)
            ORDER BY x.n);
    END IF;

    RETURN vs;
END
$$;

COMMENT ON FUNCTION usage_import_json(text[], boolean) IS
    'What rows say; null: Postgres cannot hold it';


-- As read_time() does it: a call for each takes longer than to read it.

CREATE OR REPLACE FUNCTION usage_import_times(vs jsonb[])
RETURNS timestamptz[]
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
AS $$
DECLARE
    dates  text[] := ARRAY(SELECT x.v ->> 'date'
        FROM unnest(vs) WITH ORDINALITY AS x (v, n) ORDER BY x.n);
BEGIN
    IF NOT EXISTS (SELECT FROM unnest(dates) AS d
        WHERE d !~ ('^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}'
            ':[0-9]{2}Z$'))
    THEN
        RETURN dates::timestamptz[];
    END IF;

    RAISE data_exception;

EXCEPTION WHEN data_exception THEN
    RETURN ARRAY(SELECT read_time(x.d)
        FROM unnest(dates) WITH ORDINALITY AS x (d, n) ORDER BY x.n);
END
$$;

COMMENT ON FUNCTION usage_import_times(jsonb[]) IS
    'When rows were; null: it says no time';


DROP TYPE IF EXISTS usage_import_row CASCADE;

CREATE TYPE usage_import_row AS (n bigint, errors jsonb, id uuid,
    single boolean, at timestamptz, node uuid, name text, key_id uuid,
    owner text, customer text, session text, service text, endpoint text,
    model text, method text, status_code int, outcome text, verdict text,
    limit_name text, requests bigint, tokens_input bigint,
    tokens_output bigint, tokens_cached bigint, tokens_reasoning bigint,
    usage_source text, cost bigint, price_version bigint, bytes_in bigint,
    bytes_out bigint, duration_us bigint, request_id uuid, corrects boolean);

COMMENT ON TYPE usage_import_row IS
    'A row of an import: where it stands there, what is wrong, its id as in'
    ' usage_import, whether that is a request''s, as usage_event, and whether'
    ' it is a correction (of a request)';


-- Rows whose members are right, as they are counted, and what of them does
-- not fit together.  Whose a row is that does not say: the query's, then its
-- key's owner.  Imported usage stands under nodes of its own, which have the
-- names of those that it came from.  What stays of a correction of refused
-- requests, or of what has a price now, is nothing.

CREATE OR REPLACE FUNCTION usage_import_read(vs jsonb[], ats timestamptz[],
    bad jsonb[], whose jsonb)
RETURNS usage_import_row[]
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
AS $$
    SELECT array_agg(ROW(i.n,
        CASE WHEN d.single AND c.requests > 1
            THEN wrong('/requests', 'bad_value', 'request_id is of one')
            ELSE '[]' END
        || CASE WHEN c.requests = 0 AND c.verdict IN ('ok', 'anonymous')
                AND NOT d.corrects
            THEN wrong('/verdict', 'bad_value', 'no request was let pass')
            ELSE '[]' END
        || CASE WHEN r.tokens <> c.input + c.output
                OR least(c.input, c.output) < 0 AND NOT d.corrects
            THEN wrong('/tokens', 'bad_value',
                'these are not tokens_input and tokens_output')
            ELSE '[]' END
        || CASE WHEN r.tokens_cached > greatest(c.input, 0)
                AND NOT d.corrects
            THEN wrong('/tokens_cached', 'bad_value',
                'these are a part of tokens_input')
            ELSE '[]' END
        || CASE WHEN r.tokens_reasoning > greatest(c.output, 0)
                AND NOT d.corrects
            THEN wrong('/tokens_reasoning', 'bad_value',
                'these are a part of tokens_output')
            ELSE '[]' END
        || CASE WHEN nullif(r.owner, '') <> c.theirs
            THEN wrong('/owner', 'bad_value', 'the key is not this owner''s')
            ELSE '[]' END,
        CASE WHEN d.single THEN r.request_id
            ELSE md5(ROW(micros(i.at), c.requests, c.input, c.output,
                coalesce(r.tokens_cached, 0), coalesce(r.tokens_reasoning, 0),
                c.cost, r.request_id, r.key, c.state, c.verdict,
                r.price_version, coalesce(r.bytes_in, 0),
                coalesce(r.bytes_out, 0), coalesce(r.duration_ms, 0),
                concat_ws(chr(1), '', coalesce(r.status, 'success'),
                    coalesce(r.usage_source, 'none'),
                    coalesce(r.service, ''), coalesce(r.endpoint, ''),
                    coalesce(r.model, ''), coalesce(r.owner, ''),
                    coalesce(r.customer, ''), coalesce(r.limit_name, ''),
                    coalesce(r.method, ''), coalesce(r.session, ''),
                    coalesce(r.node, '')))::text)::uuid END,
        d.single, i.at, md5('apikey import ' || CASE WHEN d.corrects
            THEN 'correction' ELSE coalesce(r.node, '') END)::uuid, r.node,
        r.key, coalesce(nullif(r.owner, ''), nullif(c.theirs, '')), r.customer,
        r.session, coalesce(r.service, ''), coalesce(r.endpoint, ''), r.model,
        coalesce(r.method, ''), c.state,
        CASE WHEN c.requests = 0 AND NOT d.corrects THEN 'refused'
            WHEN coalesce(r.status, 'success') = 'success' THEN 'success'
            WHEN c.state BETWEEN 1 AND 399 OR c.state = 499 THEN 'aborted'
            ELSE 'error' END,
        c.verdict, r.limit_name, c.requests, c.input, c.output,
        coalesce(r.tokens_cached, 0), coalesce(r.tokens_reasoning, 0),
        coalesce(r.usage_source, 'none'), c.cost, r.price_version,
        coalesce(r.bytes_in, 0), coalesce(r.bytes_out, 0),
        coalesce(r.duration_ms, 0) * 1000, r.request_id,
        d.corrects)::usage_import_row ORDER BY i.n)
    FROM unnest(vs, ats, bad) WITH ORDINALITY AS i (v, at, error, n),
        LATERAL (SELECT CASE whose WHEN '{}' THEN i.v
            ELSE whose || jsonb_strip_nulls(i.v) END) AS w (v),
        LATERAL jsonb_to_record(w.v) AS r (endpoint text, requests bigint,
            tokens bigint, cost numeric, model text, status text,
            request_id uuid, key uuid, owner text, customer text,
            service text, method text, status_code int, verdict text,
            limit_name text, tokens_input bigint, tokens_output bigint,
            tokens_cached bigint, tokens_reasoning bigint, usage_source text,
            price_version bigint, bytes_in bigint, bytes_out bigint,
            duration_ms bigint, session text, node text),
        LATERAL (SELECT coalesce(r.requests, 1) AS requests,
            coalesce(r.status_code, 0) AS state,
            coalesce(r.verdict, 'ok') AS verdict,
            (r.cost * 1000000000)::bigint AS cost,
            coalesce(r.tokens_input, r.tokens - coalesce(r.tokens_output, 0),
                0) AS input,
            coalesce(r.tokens_output, r.tokens - r.tokens_input, 0) AS output,
            (SELECT coalesce(o.external, '') FROM key k
                LEFT JOIN owner o ON o.id = k.owner_id
             WHERE k.id = r.key) AS theirs OFFSET 0) AS c,
        LATERAL (SELECT usage_corrects(w.v) AND (coalesce(r.node, '') <> ''
                OR least(c.requests, r.tokens, r.tokens_input, c.cost,
                    r.tokens_output, r.tokens_cached, r.tokens_reasoning) < 0
                OR c.requests = 0 AND greatest(0, r.tokens, c.cost,
                    r.tokens_input, r.tokens_output, r.tokens_cached,
                    r.tokens_reasoning) > 0) AS corrects,
            r.request_id IS NOT NULL AND NOT usage_corrects(w.v) AS single)
            AS d
    WHERE i.error IS NULL
$$;

COMMENT ON FUNCTION usage_import_read(jsonb[], timestamptz[], jsonb[], jsonb)
    IS 'Checked members as rows; those that are wrong are left out';


-- Counted here already.  A request has its event, while events are kept; then,
-- and of sums always, a quarter of an hour that a node of that name shipped
-- holds all that it counted of this kind.  An id begins with the time of its
-- request, which is when the event is.

DROP FUNCTION IF EXISTS usage_known(jsonb, timestamptz, uuid);

-- A correction is one that was made here, or what some have come to, of the
-- quarter of an hour, at the time of the export.

CREATE OR REPLACE FUNCTION usage_corrected(r usage_import_row)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
AS $$
    WITH made AS (
        SELECT c.* FROM usage_correction c
        WHERE c.at >= r.at AND c.at < r.at + interval '15 minutes'
            AND c.node IS DISTINCT FROM r.node
            AND c.key_id = coalesce(r.key_id,
                '00000000-0000-0000-0000-000000000000')
            AND c.owner = coalesce(r.owner, '')
            AND c.customer = coalesce(r.customer, '')
            AND c.service = r.service AND c.endpoint = r.endpoint
            AND c.model = coalesce(r.model, '')
            AND c.status_code = r.status_code AND c.verdict = r.verdict
            AND c.limit_name = coalesce(r.limit_name, '')
            AND (c.outcome = 'success') = (r.outcome = 'success')),
    told (request_id, requests, input, output, cached, reasoning, cost) AS (
        SELECT m.request_id, m.requests, m.tokens_input, m.tokens_output,
            m.tokens_cached, m.tokens_reasoning, m.cost
        FROM made AS m WHERE m.at < r.at + interval '1 second'
        UNION ALL
        SELECT NULL, sum(m.requests) OVER w, sum(m.tokens_input) OVER w,
            sum(m.tokens_output) OVER w, sum(m.tokens_cached) OVER w,
            sum(m.tokens_reasoning) OVER w, sum(m.cost) OVER w
        FROM made AS m WINDOW w AS (ORDER BY m.made_at, m.id))
    SELECT EXISTS (SELECT FROM told AS t
        WHERE t.request_id IS NOT DISTINCT FROM r.request_id
            AND (t.requests, t.input, t.output, t.cached, t.reasoning, t.cost)
                = (r.requests, r.tokens_input, r.tokens_output,
                    r.tokens_cached, r.tokens_reasoning, coalesce(r.cost, 0)))
$$;

COMMENT ON FUNCTION usage_corrected(usage_import_row) IS
    'Whether the correction was made here';


CREATE OR REPLACE FUNCTION usage_id_time(id text)
RETURNS timestamptz
LANGUAGE sql IMMUTABLE
RETURN usage_time(('x' || lpad(left(id, 8) || substr(id, 10, 4), 16, '0'))
    ::bit(64)::bigint * 1000);

COMMENT ON FUNCTION usage_id_time(text) IS
    'When a UUID of version 7 was made';


CREATE OR REPLACE FUNCTION usage_import_unknown(rows usage_import_row[])
RETURNS usage_import_row[]
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    raw    timestamptz := raw_begin();
    ids    uuid[];
    first  timestamptz;
    last   timestamptz;
    seen   uuid[];
BEGIN
    SELECT array_agg(r.id), least(min(r.at), usage_id_time(min(x.id))),
        greatest(max(r.at), usage_id_time(max(x.id)))
    INTO ids, first, last
    FROM unnest(rows) AS r, LATERAL (SELECT CASE substr(r.id::text, 15, 1)
        WHEN '7' THEN r.id::text END) AS x (id)
    WHERE r.single;

    first := first - interval '1 hour';
    last := last + interval '1 hour';
    seen := ARRAY(SELECT e.event FROM usage_request e
        WHERE e.event = ANY (ids) AND e.time >= first AND e.time < last);

    RETURN ARRAY(SELECT r
        FROM unnest(rows) AS r
            LEFT JOIN (SELECT DISTINCT unnest(seen) AS id) AS s
                ON s.id = r.id AND r.single
        WHERE s.id IS NULL
            AND CASE WHEN r.name IS NULL OR r.single AND r.at >= raw THEN true
                WHEN r.corrects THEN NOT usage_corrected(r)
                ELSE NOT EXISTS (SELECT FROM usage_node n
                    JOIN usage_quarter q ON q.node = n.node
                WHERE n.name = r.name AND n.node <> r.node
                    AND q.start = date_bin('15 minutes', r.at,
                        timestamptz '1970-01-01 00:00:00+00')
                    AND q.key_id = coalesce(r.key_id,
                        '00000000-0000-0000-0000-000000000000')
                    AND q.service = r.service AND q.endpoint = r.endpoint
                    AND q.model = coalesce(r.model, '')
                    AND q.status_code = r.status_code
                    AND q.verdict = r.verdict) END
        ORDER BY r.n);
END
$$;

COMMENT ON FUNCTION usage_import_unknown(usage_import_row[]) IS
    'Rows that no node has counted here';


-- From now on they are known.

DROP FUNCTION IF EXISTS usage_import_new(jsonb, timestamptz, uuid, uuid);

CREATE OR REPLACE FUNCTION usage_import_new(rows usage_import_row[],
    a_import uuid)
RETURNS usage_import_row[]
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    fresh  uuid[];
    news   bigint[];
BEGIN
    WITH made AS (
        INSERT INTO usage_import (id)
        SELECT DISTINCT r.id FROM unnest(rows) AS r WHERE r.single ORDER BY 1
        ON CONFLICT DO NOTHING
        RETURNING id)
    SELECT array_agg(m.id) INTO fresh FROM made AS m;

    news := ARRAY(SELECT min(r.n)
        FROM unnest(rows) AS r JOIN unnest(fresh) AS f ON f = r.id
        WHERE r.single GROUP BY r.id);

    -- of rows that are the same the first so many are known

    INSERT INTO usage_import (id, n)
    SELECT DISTINCT r.id, 0 FROM unnest(rows) AS r WHERE NOT r.single
    ORDER BY 1
    ON CONFLICT DO NOTHING;

    WITH come AS (
        INSERT INTO usage_import_part AS p (import, id, n)
        SELECT a_import, r.id, count(*) FROM unnest(rows) AS r
        WHERE NOT r.single GROUP BY r.id ORDER BY r.id
        ON CONFLICT (import, id) DO UPDATE SET n = p.n + excluded.n
        RETURNING id, n),
    held AS MATERIALIZED (
        SELECT i.id, i.n FROM usage_import i
        WHERE i.id IN (SELECT r.id FROM unnest(rows) AS r WHERE NOT r.single)
        ORDER BY i.id FOR UPDATE),
    told AS (
        UPDATE usage_import i SET n = c.n
        FROM come AS c JOIN held AS h ON h.id = c.id
        WHERE i.id = c.id AND h.n < c.n)
    SELECT news || array_agg(x.n) INTO news
    FROM (SELECT r.n, r.id, c.n - row_number() OVER (PARTITION BY r.id
              ORDER BY r.n DESC) + 1 AS place
          FROM unnest(rows) AS r JOIN come AS c ON c.id = r.id
          WHERE NOT r.single) AS x
        JOIN held AS h ON h.id = x.id
    WHERE x.place > h.n;

    RETURN ARRAY(SELECT r FROM unnest(rows) AS r JOIN unnest(news) AS f
        ON f = r.n);
END
$$;

COMMENT ON FUNCTION usage_import_new(usage_import_row[], uuid) IS
    'Rows that no import had; notes that this one has';


CREATE OR REPLACE FUNCTION usage_failed(r usage_import_row)
RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN (r).status_code >= 400
        OR (r).status_code = 0 AND (r).outcome = 'error'
    THEN (r).requests ELSE 0 END;

COMMENT ON FUNCTION usage_failed(usage_import_row) IS
    'Its requests that are errors';


-- As usage_apply() would have.

DROP FUNCTION IF EXISTS usage_import_put(jsonb, timestamptz, uuid);
DROP FUNCTION IF EXISTS usage_import_row(jsonb, jsonb);

CREATE OR REPLACE FUNCTION usage_import_put(rows usage_import_row[])
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET jit = off
AS $$
DECLARE
    raw  timestamptz := raw_begin();
BEGIN
    INSERT INTO usage_node (node, name, as_of, seen_at)
    SELECT DISTINCT r.node, CASE WHEN r.corrects THEN 'correction'
            ELSE coalesce(r.name, 'import') END,
        timestamptz 'epoch', timestamptz 'epoch'
    FROM unnest(rows) AS r ORDER BY 1
    ON CONFLICT DO NOTHING;

    PERFORM usage_book(ARRAY(SELECT ROW(x.start, r.node,
            coalesce(r.key_id, '00000000-0000-0000-0000-000000000000'),
            coalesce(r.owner, ''), coalesce(r.customer, ''), r.service,
            r.endpoint, coalesce(r.model, ''), r.outcome, r.status_code,
            r.verdict, coalesce(r.limit_name, ''), sum(r.requests),
            sum((r.requests = 0)::int), sum(usage_failed(r)),
            sum(r.tokens_input), sum(r.tokens_output), sum(r.tokens_cached),
            sum(r.tokens_reasoning), coalesce(sum(r.cost), 0),
            coalesce(sum(r.requests) FILTER (WHERE r.cost IS NULL), 0),
            sum(r.bytes_in), sum(r.bytes_out), sum(r.duration_us),
            sum(r.requests))::usage_quarter
        FROM unnest(rows) AS r, LATERAL (SELECT date_bin('15 minutes', r.at,
            timestamptz '1970-01-01 00:00:00+00') AS start) AS x
        WHERE NOT r.corrects
        GROUP BY x.start, r.node, r.key_id, r.owner, r.customer, r.service,
            r.endpoint, r.model, r.outcome, r.status_code, r.verdict,
            r.limit_name));

    INSERT INTO key_usage AS k (key_id, requests, refused, errors, tokens,
        cost, last_used_at)
    SELECT r.key_id, sum(r.requests), count(*) FILTER (WHERE r.requests = 0),
        sum(usage_failed(r)), sum(r.tokens_input + r.tokens_output),
        coalesce(sum(r.cost), 0), max(r.at) FILTER (WHERE r.requests > 0)
    FROM unnest(rows) AS r
    WHERE r.key_id IS NOT NULL AND NOT r.corrects
    GROUP BY 1 ORDER BY 1
    ON CONFLICT (key_id) DO UPDATE
    SET requests = k.requests + excluded.requests,
        refused = k.refused + excluded.refused,
        errors = k.errors + excluded.errors,
        tokens = k.tokens + excluded.tokens,
        cost = k.cost + excluded.cost,
        last_used_at = greatest(k.last_used_at, excluded.last_used_at);

    INSERT INTO usage_event (time, event, node, key_id, owner, customer,
        session, service, endpoint, method, status_code, outcome, verdict,
        mode, limit_name, model, tokens_input, tokens_output, tokens_cached,
        tokens_reasoning, usage_source, cost, price_version, bytes_in,
        bytes_out, duration_us, upstream_us)
    SELECT r.at, r.id, r.node, r.key_id, r.owner, r.customer, r.session,
        r.service, r.endpoint, r.method, r.status_code, r.outcome, r.verdict,
        'none', r.limit_name, r.model, r.tokens_input, r.tokens_output,
        r.tokens_cached, r.tokens_reasoning, r.usage_source, r.cost,
        r.price_version, r.bytes_in, r.bytes_out, r.duration_us, 0
    FROM unnest(rows) AS r
    WHERE r.single AND r.at >= raw;
END
$$;

COMMENT ON FUNCTION usage_import_put(usage_import_row[]) IS
    'Counts rows that are new, but for corrections';


-- Behind usage_import_put(), which holds billing_lock().  Their ids are in
-- the order of the rows, which is that of the export they come from.

CREATE OR REPLACE FUNCTION usage_import_correct(rows usage_import_row[])
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    late  boolean[] := usage_late(ARRAY(SELECT micros(r.at)
            FROM unnest(rows) AS r ORDER BY r.n),
        ARRAY(SELECT coalesce(r.owner, '')
            FROM unnest(rows) AS r ORDER BY r.n));
BEGIN
    INSERT INTO usage_correction (id, kind, at, service_at, request_id, node,
        key_id, owner, customer, service, endpoint, model, outcome,
        status_code, verdict, limit_name, requests, refused, errors,
        tokens_input, tokens_output, tokens_cached, tokens_reasoning, cost,
        unpriced, bytes_in, bytes_out, duration_us, units, reason, actor)
    SELECT (left(x.id, 24) || lpad(to_hex(r.n), 12, '0'))::uuid, 'correction',
        CASE WHEN late[r.i] THEN now() ELSE r.at END, r.at, r.request_id,
        r.node, coalesce(r.key_id, '00000000-0000-0000-0000-000000000000'),
        coalesce(r.owner, ''), coalesce(r.customer, ''), r.service,
        r.endpoint, coalesce(r.model, ''), r.outcome, r.status_code,
        r.verdict, coalesce(r.limit_name, ''), r.requests, 0,
        r.failed, r.tokens_input, r.tokens_output,
        r.tokens_cached, r.tokens_reasoning, coalesce(r.cost, 0),
        CASE WHEN r.cost IS NULL THEN greatest(r.requests, 0) ELSE 0 END,
        r.bytes_in, r.bytes_out, r.duration_us, 0, 'imported', session_user
    FROM (SELECT uuid_v7()::text AS id) AS x,
        (SELECT r.*, usage_failed(r) AS failed,
            row_number() OVER (ORDER BY r.n) AS i
         FROM unnest(rows) AS r) AS r
    WHERE (r.requests, r.tokens_input, r.tokens_output, r.tokens_cached,
            r.tokens_reasoning, coalesce(r.cost, 0)) IS DISTINCT FROM
        (0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint);
END
$$;

COMMENT ON FUNCTION usage_import_correct(usage_import_row[]) IS
    'Books imported corrections';


-- Only rows that failed stand in results.

CREATE OR REPLACE FUNCTION usage_import_rows(req jsonb, OUT body text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    was      text := current_setting('apikey.caller');
    numbers  jsonb[];
    texts    text[];
    vs       jsonb[];
    ats      timestamptz[];
    bad      jsonb[];
    rows     usage_import_row[];
    results  text;
    total    int;
    failed   int;
    created  int;
BEGIN
    SELECT array_agg(i.x -> 'row' ORDER BY i.n),
        array_agg(i.x ->> 'json' ORDER BY i.n),
        array_agg(i.x -> 'error' ORDER BY i.n)
    INTO numbers, texts, bad
    FROM jsonb_array_elements(req -> 'body') WITH ORDINALITY AS i (x, n);

    vs := usage_import_json(texts, req ->> 'content_type' ~* '^text/csv');
    ats := usage_import_times(vs);

    SELECT array_agg(CASE WHEN i.error IS NOT NULL
            THEN jsonb_build_array(i.error)
            WHEN i.v IS NULL THEN wrong('', 'bad_value', 'the row holds NUL,'
                ' or a number that has no end')
            ELSE c.errors END ORDER BY i.n)
    INTO bad
    FROM unnest(bad, vs) WITH ORDINALITY AS i (error, v, n)
        LEFT JOIN check_usage_rows(vs, ats) AS c ON c.n = i.n;

    rows := usage_import_read(vs, ats, bad, jsonb_strip_nulls(
        jsonb_build_object('key', query_value(req, 'key'),
            'owner', query_value(req, 'owner'))));

    SELECT count(*), count(x.errors), string_agg(format('{"row":%s,"result":'
        '"failed","id":null,"errors":%s}', x.row, (SELECT array_to_json(
            array_agg(row_to_json(e) ORDER BY o))
        FROM jsonb_array_elements(x.errors) WITH ORDINALITY AS y (v, o),
            LATERAL (SELECT v ->> 'location' AS location,
                v ->> 'code' AS code, v ->> 'message' AS message) AS e)), ','
        ORDER BY x.n) FILTER (WHERE x.errors IS NOT NULL)
    INTO total, failed, results
    FROM (SELECT i.row, i.n, coalesce(i.error, nullif(r.errors, '[]'))
              AS errors
          FROM unnest(numbers, bad) WITH ORDINALITY AS i (row, error, n)
              LEFT JOIN unnest(rows) AS r ON r.n = i.n) AS x;

    PERFORM set_config('apikey.caller', 'node', true);

    DELETE FROM usage_import_part p WHERE p.at < now() - interval '1 day';

    -- how many were refused stands in no sum

    rows := usage_import_new(usage_import_unknown(ARRAY(
        SELECT r FROM unnest(rows) AS r
        WHERE r.errors = '[]'
            AND (r.requests > 0 OR r.single OR r.corrects))),
        (req ->> 'request_id')::uuid);
    created := coalesce(cardinality(rows), 0);

    IF created > 0 THEN
        PERFORM usage_import_put(rows);
    END IF;

    IF EXISTS (SELECT FROM unnest(rows) AS r WHERE r.corrects) THEN
        PERFORM usage_import_correct(ARRAY(SELECT r FROM unnest(rows) AS r
            WHERE r.corrects));
    END IF;

    PERFORM set_config('apikey.caller', was, true);

    body := format('{"dry_run":%s,"created":%s,"unchanged":%s,"failed":%s,'
        '"results":[%s]}', to_json(query_value(req, 'dry_run')
            IS NOT DISTINCT FROM 'true'), created, total - failed - created,
        failed, results);
END
$$;

COMMENT ON FUNCTION usage_import_rows(jsonb) IS 'The rows of a batch';


CREATE OR REPLACE FUNCTION api_usage_import(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    PERFORM allow('operator');
    PERFORM fail_if(check_request(req, 'dry_run', 'key', 'owner')
        || check_flag(req, 'dry_run'));
    PERFORM usage_subject(req);

    IF jsonb_typeof(req -> 'body') IS DISTINCT FROM 'array' THEN
        PERFORM fail_if(wrong('', 'bad_type', 'the body must be an array'));
    END IF;

    BEGIN
        body := usage_import_rows(req);

        IF query_value(req, 'dry_run') = 'true' THEN
            RAISE EXCEPTION USING ERRCODE = 'AKDRY';
        END IF;

    EXCEPTION WHEN SQLSTATE 'AKDRY' THEN
        NULL;
    END;

    status := 200;
END
$$;

COMMENT ON FUNCTION api_usage_import(jsonb, jsonb) IS
    'POST import/usage, one batch of its rows';

GRANT EXECUTE ON FUNCTION csv_unguard(text), usage_members(), raw_days(),
    raw_begin(), usage_corrects(jsonb), usage_rows_odd(jsonb[]),
    check_usage_rows(jsonb[], timestamptz[]), usage_import_one(text),
    usage_import_json(text[], boolean), usage_import_times(jsonb[]),
    usage_import_read(jsonb[], timestamptz[], jsonb[], jsonb),
    usage_corrected(usage_import_row), usage_id_time(text),
    usage_import_unknown(usage_import_row[]),
    usage_import_new(usage_import_row[], uuid),
    usage_failed(usage_import_row), usage_import_put(usage_import_row[]),
    usage_import_correct(usage_import_row[]),
    usage_import_rows(jsonb), api_usage_import(jsonb, jsonb)
    TO apikey_gateway;
