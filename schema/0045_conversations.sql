--
-- GET export/conversations: raw events by session, with what came of it.  As
-- export/usage: a cursor whose rows are lines.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


-- Conversations: events by session.  Sessions of different owners are
-- different ones, whatever they call them; so are those of keys without an
-- owner.

CREATE OR REPLACE FUNCTION conversation_columns(OUT name text, OUT expr text,
    OUT free boolean)
RETURNS SETOF record
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT c.name, coalesce(c.expr, 'x.' || c.name), c.free
    FROM (VALUES
        (1, 'session', NULL, true),
        (2, 'owner', NULL, true),
        (3, 'customers', NULL, true),
        (4, 'keys', NULL, false),
        (5, 'start', 'export_time(x.started)', false),
        (6, 'end', 'export_time(x.ended)', false),
        (7, 'requests', NULL, false),
        (8, 'refused', NULL, false),
        (9, 'errors', NULL, false),
        (10, 'tokens', NULL, false),
        (11, 'tokens_input', NULL, false),
        (12, 'tokens_output', NULL, false),
        (13, 'tokens_cached', NULL, false),
        (14, 'tokens_reasoning', NULL, false),
        (15, 'cost', 'export_money(x.cost)', false),
        (16, 'unpriced', NULL, false),
        (17, 'bytes_in', NULL, false),
        (18, 'bytes_out', NULL, false),
        (19, 'duration_ms', NULL, false),
        (20, 'services', NULL, true),
        (21, 'endpoints', NULL, true),
        (22, 'models', NULL, true)) AS c (n, name, expr, free)
    ORDER BY c.n;
END;

COMMENT ON FUNCTION conversation_columns() IS
    'The columns of export/conversations; free: their text is somebody else''s';


CREATE OR REPLACE FUNCTION conversation_lists(format text)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN (SELECT string_agg(format(CASE format
            WHEN 'csv' THEN ', string_agg(DISTINCT %s::text COLLATE "C", '' '''
                ' ORDER BY %1$s::text COLLATE "C") AS %I'
            ELSE ', coalesce(array_agg(DISTINCT %s::text COLLATE "C" ORDER BY'
                ' %1$s::text COLLATE "C") FILTER (WHERE %1$s IS NOT NULL),'
                ' ''{}'') AS %I' END, c.col, c.name), '' ORDER BY c.name)
    FROM (VALUES ('customers', 'q.customer'), ('keys', 'q.key_id'),
        ('services', 'q.service'), ('endpoints', 'q.endpoint'),
        ('models', 'q.model')) AS c (name, col));

COMMENT ON FUNCTION conversation_lists(text) IS
    'SQL of what a session used: arrays, in CSV texts split by blanks';


CREATE OR REPLACE FUNCTION conversation_source(req jsonb, o owner)
RETURNS text
LANGUAGE sql STABLE
RETURN format($q$
    SELECT q.session, q.owner, min(q.time) AS started, max(q.time
            + q.duration_us * interval '1 us') AS ended,
        count(*) FILTER (WHERE q.outcome <> 'refused') AS requests,
        count(*) FILTER (WHERE q.outcome = 'refused') AS refused,
        count(*) FILTER (WHERE q.outcome <> 'refused'
            AND q.status_code >= 400) AS errors,
        sum(q.tokens_input + q.tokens_output)::bigint AS tokens,
        sum(q.tokens_input)::bigint AS tokens_input,
        sum(q.tokens_output)::bigint AS tokens_output,
        sum(q.tokens_cached)::bigint AS tokens_cached,
        sum(q.tokens_reasoning)::bigint AS tokens_reasoning,
        coalesce(sum(q.cost), 0) AS cost,
        count(*) FILTER (WHERE q.cost IS NULL) AS unpriced,
        sum(q.bytes_in)::bigint AS bytes_in,
        sum(q.bytes_out)::bigint AS bytes_out,
        round(sum(q.duration_us) / 1000)::bigint AS duration_ms %s
    FROM usage_event q LEFT JOIN usage_node n ON n.node = q.node
    WHERE q.session IS NOT NULL AND %s
    GROUP BY q.session, q.owner, CASE WHEN q.owner IS NULL THEN q.key_id END
    $q$, conversation_lists(coalesce(query_value(req, 'format'), 'json')),
    export_where(req, o, 'events'));

COMMENT ON FUNCTION conversation_source(jsonb, owner) IS
    'SQL of sessions as "x" of conversation_columns()';


CREATE OR REPLACE FUNCTION conversations_open(req jsonb, o owner,
    "from" timestamptz, "to" timestamptz)
RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
SET work_mem = '32MB'
SET jit = off
SET max_parallel_workers_per_gather = 0
AS $$
DECLARE
    complete  jsonb := jsonb_set(req, '{query,profile}', '["full"]');
    form      text := coalesce(query_value(req, 'format'), 'json');
    source    text;
    counter   text;
    total     bigint;
    export    refcursor := 'export';
BEGIN
    IF NOT coalesce(caller() IN ('operator', 'operator_read', 'owner'), false)
    THEN
        RAISE insufficient_privilege;
    END IF;

    SELECT format('SELECT z.line FROM (%s)'
            ' AS x, LATERAL (%s) AS z (line) ORDER BY x.started,'
            ' x.session COLLATE "C", x.owner COLLATE "C", x.keys::text'
            ' COLLATE "C"', conversation_source(complete, o),
            export_line(array_agg(c.name), array_agg(c.expr),
                array_agg(c.free), form))
    INTO source
    FROM conversation_columns() AS c;

    IF form = 'json' THEN
        counter := format('(SELECT count(*) FROM (%s) AS x)',
            conversation_source(complete, o));

        IF export_late() THEN
            source := export_counted(counter, source);
        ELSE
            EXECUTE 'SELECT ' || counter INTO total
            USING NULL::timestamptz, NULL::timestamptz, NULL::int, "from",
                "to";
        END IF;
    END IF;

    OPEN export NO SCROLL FOR EXECUTE source
    USING NULL::timestamptz, NULL::timestamptz, NULL::int, "from", "to";

    RETURN total;
END
$$;

COMMENT ON FUNCTION conversations_open(jsonb, owner, timestamptz,
    timestamptz) IS
    'Opens the cursor "export" over the sessions that the caller of this'
    ' transaction may see; how many there are, for JSON, unless export_late()';


CREATE OR REPLACE FUNCTION api_export_conversations(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    o      owner;
    zone   text;
    r      record;
    total  bigint;
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner');
    PERFORM fail_if(check_export_query(req));

    o := usage_subject(req);
    zone := coalesce(query_value(req, 'tz'), o.time_zone, 'UTC');
    r := export_range(req, o, zone);
    total := conversations_open(req, o, r."from", r."to");

    SELECT * INTO status, headers, body, refresh
    FROM export_answer(req, 'conversations', zone, r."from", r."to", total,
        ARRAY(SELECT c.name FROM conversation_columns() AS c));
END
$$;

COMMENT ON FUNCTION api_export_conversations(jsonb, jsonb) IS
    'GET export/conversations';

GRANT EXECUTE ON FUNCTION conversation_columns(), conversation_lists(text),
    conversation_source(jsonb, owner),
    conversations_open(jsonb, owner, timestamptz, timestamptz),
    api_export_conversations(jsonb, jsonb) TO apikey_gateway;
