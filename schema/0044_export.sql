--
-- GET export/usage and export/conversations.  A call checks the query, opens
-- a cursor named "export", each of whose rows is a line ready to be sent, and
-- says what stands before them; nginx fetches as fast as its client reads.
--
-- Everything of one export is read in one snapshot, and comes in an order
-- that nothing but the rows themselves decides: a closed range is the same
-- export, byte for byte, whenever it is asked for.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


-- These four are inlined into the cursor's query: a call for each value of a
-- million rows would cost more than to read them.

CREATE OR REPLACE FUNCTION export_time(at timestamptz)
RETURNS text
LANGUAGE sql STABLE
RETURN to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"');

COMMENT ON FUNCTION export_time(timestamptz) IS 'RFC 3339 in whole seconds';

CREATE OR REPLACE FUNCTION export_money(nano numeric)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN nano % 10000000 = 0 THEN round(nano * 0.000000001, 2)
    ELSE trim_scale(nano * 0.000000001) END::text;

COMMENT ON FUNCTION export_money(numeric) IS 'As money_text()';

-- A spreadsheet takes what begins with = + - @ for a formula: an apostrophe
-- before it makes it text.  One more where there is one already, so that an
-- import knows which to take off.

CREATE OR REPLACE FUNCTION csv_guard(value text)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN value ~ '^''*[=+@\t\r\n-]' THEN '''' || value
    ELSE value END;

COMMENT ON FUNCTION csv_guard(text) IS
    'A text that no spreadsheet takes for a formula';

CREATE OR REPLACE FUNCTION csv_text(value text)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN value ~ '[",\r\n]'
    THEN '"' || replace(csv_guard(value), '"', '""') || '"'
    ELSE csv_guard(value) END;

COMMENT ON FUNCTION csv_text(text) IS 'A text as a field of CSV';


-- What the rows of an export hold, in their order, out of "x" of
-- export_events() or export_sums().

CREATE OR REPLACE FUNCTION export_columns(OUT name text, OUT expr text,
    OUT free boolean, OUT basic boolean)
RETURNS SETOF record
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT c.name, coalesce(c.expr, 'x.' || c.name), c.free, c.n <= 7
    FROM (VALUES
        (1, 'date', 'export_time(x.at)', false),
        (2, 'endpoint', NULL, true),
        (3, 'requests', NULL, false),
        (4, 'tokens', NULL, false),
        (5, 'cost', 'export_money(x.cost)', false),
        (6, 'model', NULL, true),
        (7, 'status', NULL, false),
        (8, 'request_id', NULL, false),
        (9, 'key', NULL, false),
        (10, 'owner', NULL, true),
        (11, 'customer', NULL, true),
        (12, 'service', NULL, true),
        (13, 'method', NULL, true),
        (14, 'status_code', NULL, false),
        (15, 'verdict', NULL, false),
        (16, 'limit_name', NULL, true),
        (17, 'tokens_input', NULL, false),
        (18, 'tokens_output', NULL, false),
        (19, 'tokens_cached', NULL, false),
        (20, 'tokens_reasoning', NULL, false),
        (21, 'usage_source', NULL, false),
        (22, 'price_version', NULL, false),
        (23, 'bytes_in', NULL, false),
        (24, 'bytes_out', NULL, false),
        (25, 'duration_ms', NULL, false),
        (26, 'session', NULL, true),
        (27, 'node', NULL, true)) AS c (n, name, expr, free)
    ORDER BY c.n;
END;

COMMENT ON FUNCTION export_columns() IS
    'The columns of export/usage; free: their text is somebody else''s';


CREATE OR REPLACE FUNCTION export_line(names text[], exprs text[],
    free boolean[], format text)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN (SELECT CASE format
        WHEN 'csv' THEN 'SELECT ' || string_agg(format('coalesce(%s, '''')',
            CASE WHEN c.free THEN format('csv_text(%s)', c.expr)
            ELSE format('(%s)::text', c.expr) END), ' || '','' || '
            ORDER BY i)
        ELSE format('SELECT row_to_json(y)::text FROM (SELECT %s) AS y',
            string_agg(format('%s AS %I', c.expr, c.name), ', ' ORDER BY i))
        END
    FROM unnest(names, exprs, free) WITH ORDINALITY
        AS c (name, expr, free, i));

COMMENT ON FUNCTION export_line(text[], text[], boolean[], text) IS
    'SQL of one line made of "x"';


CREATE OR REPLACE FUNCTION check_export_query(req jsonb,
    VARIADIC more text[] DEFAULT '{}')
RETURNS jsonb
LANGUAGE sql STABLE
RETURN check_request(req, VARIADIC '{format,startDate,endDate,from,to,tz,'
        'service,endpoint,model,key,owner,customer,outcome,'
        'status_code,verdict,limit_name,node,session,method}'::text[] || more)
    || (SELECT coalesce(jsonb_agg(CASE
            WHEN query_value(req, n.name) IS NOT NULL
                AND query_value(req, n.other) IS NOT NULL
                THEN wrong('query:' || n.name, 'duplicate',
                    'give this or ' || n.other) -> 0
            ELSE check_time_query(req, n.name) -> 0 END), '[]')
        FROM (VALUES ('startDate', 'from'), ('endDate', 'to'),
            ('from', NULL), ('to', NULL)) AS n (name, other)
        WHERE (query_value(req, n.name) IS NOT NULL
                AND query_value(req, n.other) IS NOT NULL)
            OR check_time_query(req, n.name) <> '[]')
    || CASE WHEN coalesce(query_value(req, 'format'), 'json') ~
            '^(json|csv|ndjson)$' THEN jsonb '[]'
        ELSE wrong('query:format', 'bad_value', 'json, csv or ndjson') END
    || CASE WHEN coalesce(query_value(req, 'profile'), 'basic') ~
            '^(basic|full)$' THEN jsonb '[]'
        ELSE wrong('query:profile', 'bad_value', 'basic or full') END
    || check_zone(to_jsonb(query_value(req, 'tz')), 'query:tz')
    || check_dimensions(req);

COMMENT ON FUNCTION check_export_query(jsonb, text[]) IS
    'Query of exports';


CREATE OR REPLACE FUNCTION check_export_usage(req jsonb)
RETURNS jsonb
LANGUAGE sql STABLE
RETURN check_export_query(req, 'granularity', 'profile')
    || CASE WHEN coalesce(query_value(req, 'granularity'), 'event') ~
            '^(event|15m|hour|day|month)$' THEN jsonb '[]'
        ELSE wrong('query:granularity', 'bad_value',
            'event, 15m, hour, day or month') END
    || (SELECT coalesce(jsonb_agg(wrong('query:' || n, 'bad_value',
            'only with granularity=event') -> 0), '[]')
        FROM unnest('{session,method}'::text[]) AS n
        WHERE query_value(req, n) IS NOT NULL
            AND coalesce(query_value(req, 'granularity'), '') <> 'event');

COMMENT ON FUNCTION check_export_usage(jsonb) IS 'Query of GET export/usage';


-- A date at the end is a day that is in.

CREATE OR REPLACE FUNCTION export_range(req jsonb, o owner, zone text,
    OUT "from" timestamptz, OUT "to" timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    last     text := query_value(req, 'endDate');
    billing  text := coalesce(o.time_zone, zone);
    anchor   int := coalesce(o.anchor_day, 1);
BEGIN
    "to" := coalesce(
        CASE WHEN last ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$'
            THEN day_start((read_time(last) AT TIME ZONE 'UTC')
                + interval '1 day', zone)
            ELSE read_moment(last, zone) END,
        read_moment(query_value(req, 'to'), zone),
        (period(billing, anchor, now()))."end");
    "from" := coalesce(read_moment(query_value(req, 'startDate'), zone),
        read_moment(query_value(req, 'from'), zone),
        (period(billing, anchor, "to" - interval '1 us')).start);

    IF "from" >= "to" THEN
        PERFORM fail_if(wrong(CASE
            WHEN last IS NOT NULL THEN 'query:endDate'
            WHEN query_value(req, 'to') IS NOT NULL THEN 'query:to'
            WHEN query_value(req, 'startDate') IS NOT NULL
                THEN 'query:startDate'
            ELSE 'query:from' END, 'out_of_range',
            'the range must end after it begins'));
    END IF;
END
$$;

COMMENT ON FUNCTION export_range(jsonb, owner, text) IS
    'From when to when; this billing period unless the query says';


-- What events, corrections and sums are filtered by.  $1 and $2: the range of
-- sums, $4 and $5: that of the others.

-- What was built on it comes again below, and in 0045.

DROP FUNCTION IF EXISTS export_where(jsonb, owner, boolean) CASCADE;

CREATE OR REPLACE FUNCTION export_where(req jsonb, o owner, source text)
RETURNS text
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
AS $$
    SELECT concat_ws(' AND ',
        CASE source WHEN 'events' THEN 'q.time >= $4 AND q.time < $5'
            WHEN 'corrections' THEN 'q.at >= $4 AND q.at < $5'
            ELSE 'q.start >= $1 AND q.start < $2' END,
        nullif(usage_where(req), ''),

        -- events have an index by key; imported ones, which may have an owner
        -- alone, by that

        CASE WHEN source = 'events' AND o.id IS NOT NULL AND caller() <> 'key'
                AND query_value(req, 'key') IS NULL
            THEN format('(q.key_id = ANY (%L) OR q.key_id IS NULL'
                ' AND q.owner IS NOT NULL)',
                ARRAY(SELECT k.id FROM key k WHERE k.owner_id = o.id)) END,
        CASE WHEN query_value(req, 'session') IS NOT NULL
            THEN format('q.session = %L', query_value(req, 'session')) END,
        CASE WHEN query_value(req, 'method') IS NOT NULL
            THEN format('q.method = %L', query_value(req, 'method')) END,
        CASE WHEN coalesce(query_value(req, 'profile'), 'basic') = 'basic'
            THEN 'q.outcome <> ''refused''' END)
$$;

COMMENT ON FUNCTION export_where(jsonb, owner, text) IS
    'SQL condition of an export''s rows; source: events, corrections, sums';


-- What came after its period was closed is there as a correction.  To ask of
-- each event costs; of most nothing has come late.

CREATE OR REPLACE FUNCTION export_timely()
RETURNS text
LANGUAGE sql STABLE
RETURN CASE WHEN EXISTS (SELECT FROM usage_correction c
        WHERE c.kind = 'late' AND c.service_at >= now()
            - (raw_days() + 2) * interval '1 day')
    THEN ' AND NOT EXISTS (SELECT FROM billing_period p'
        ' WHERE p.owner = coalesce(q.owner, '''') AND p."end" > q.time'
        ' AND p.closed_at < q.ingested_at)'
    ELSE '' END;

COMMENT ON FUNCTION export_timely() IS
    'SQL condition of events that were in before their period was closed';


CREATE OR REPLACE FUNCTION export_events(conds text)
RETURNS text
LANGUAGE sql STABLE
RETURN 'SELECT q.time AS at, q.endpoint, CASE q.outcome WHEN ''refused'''
    ' THEN 0 ELSE 1 END AS requests, q.tokens_input + q.tokens_output'
    ' AS tokens, q.cost::numeric AS cost, q.model, CASE q.outcome'
    ' WHEN ''success'' THEN ''success'' ELSE ''error'' END AS status,'
    ' q.event AS request_id, q.key_id AS key, q.owner, q.customer, q.service,'
    ' q.method, q.status_code, q.verdict, q.limit_name, q.tokens_input,'
    ' q.tokens_output, q.tokens_cached, q.tokens_reasoning, q.usage_source,'
    ' q.price_version, q.bytes_in, q.bytes_out,'
    ' round(q.duration_us / 1000.0)::bigint AS duration_ms, q.session,'
    ' coalesce(n.name, q.node::text) AS node'
    ' FROM usage_event q LEFT JOIN usage_node n ON n.node = q.node'
    ' WHERE ' || conds || export_timely();

COMMENT ON FUNCTION export_events(text) IS
    'SQL of raw events as "x" of export_columns()';


CREATE OR REPLACE FUNCTION export_corrections(conds text)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN 'SELECT q.at, q.endpoint, q.requests, q.tokens_input + q.tokens_output'
    ' AS tokens, CASE WHEN q.unpriced < greatest(q.requests, 1) THEN q.cost'
    ' END AS cost, nullif(q.model, '''') AS model, CASE q.outcome'
    ' WHEN ''success'' THEN ''success'' ELSE ''error'' END AS status,'
    ' q.request_id, nullif(q.key_id, ''00000000-0000-0000-0000-000000000000'')'
    ' AS key, nullif(q.owner, '''') AS owner, nullif(q.customer, '''')'
    ' AS customer, q.service, NULL::text AS method, q.status_code, q.verdict,'
    ' nullif(q.limit_name, '''') AS limit_name, q.tokens_input,'
    ' q.tokens_output, q.tokens_cached, q.tokens_reasoning, NULL::text'
    ' AS usage_source, NULL::bigint AS price_version, q.bytes_in, q.bytes_out,'
    ' round(q.duration_us / 1000)::bigint AS duration_ms, NULL::text'
    ' AS session, n.name AS node, q.id FROM usage_correction q'
    ' LEFT JOIN usage_node n ON n.node = correction_node() WHERE ' || conds;

COMMENT ON FUNCTION export_corrections(text) IS
    'SQL of corrections as "x" of export_columns()';


-- $3: where the buckets begin, null for quarters of an hour.  What a row of
-- sums cannot say is null.

CREATE OR REPLACE FUNCTION export_sums(conds text, fine boolean,
    complete boolean)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN (SELECT format($q$
    SELECT g.*, nullif(g.model_, '') AS model, %3$s
        CASE WHEN unpriced < greatest(requests, 1) THEN nano END AS cost,
        NULL::uuid AS request_id, NULL::text AS method,
        NULL::text AS usage_source, NULL::bigint AS price_version,
        NULL::text AS session
    FROM (SELECT %1$s AS at, q.endpoint COLLATE "C" AS endpoint,
            q.model COLLATE "C" AS model_, CASE q.outcome
                WHEN 'success' THEN 'success' ELSE 'error' END COLLATE "C"
                AS status %2$s,
            sum(q.requests)::bigint AS requests,
            sum(q.tokens_input + q.tokens_output)::bigint AS tokens,
            sum(q.cost) AS nano, sum(q.unpriced) AS unpriced,
            sum(q.tokens_input)::bigint AS tokens_input,
            sum(q.tokens_output)::bigint AS tokens_output,
            sum(q.tokens_cached)::bigint AS tokens_cached,
            sum(q.tokens_reasoning)::bigint AS tokens_reasoning,
            sum(q.bytes_in)::bigint AS bytes_in,
            sum(q.bytes_out)::bigint AS bytes_out,
            round(sum(q.duration_us) / 1000)::bigint AS duration_ms
        FROM usage_quarter q
            LEFT JOIN usage_node n ON n.node = q.node
        WHERE %4$s
        GROUP BY %5$s) AS g
    $q$,
    CASE WHEN fine THEN 'q.start'
        ELSE '($3)[width_bucket(q.start, $3)]' END,
    CASE WHEN complete THEN ', q.key_id,'
        ' q.owner COLLATE "C" AS owner_, q.customer COLLATE "C" AS customer_,'
        ' q.service COLLATE "C" AS service, q.status_code,'
        ' q.verdict COLLATE "C" AS verdict, q.limit_name COLLATE "C"'
        ' AS limit_, coalesce(n.name, q.node::text) COLLATE "C" AS node' END,
    CASE WHEN complete THEN 'nullif(g.key_id,'
        ' ''00000000-0000-0000-0000-000000000000'') AS key,'
        ' nullif(g.owner_, '''') AS owner,'
        ' nullif(g.customer_, '''') AS customer,'
        ' nullif(g.limit_, '''') AS limit_name,' END,
    conds, '1, 2, 3, 4' || CASE WHEN complete
        THEN ', 5, 6, 7, 8, 9, 10, 11, 12' ELSE '' END));

COMMENT ON FUNCTION export_sums(text, boolean, boolean) IS
    'SQL of roll-ups as "x" of export_columns()';


-- Rows of events are exact where every admitted request of a day still has
-- its event; the last day where one has not is told by its sums, and so are
-- those before it.  Corrections are told by their sums, too, or by rows.

CREATE OR REPLACE FUNCTION export_cut(req jsonb, o owner, "from" timestamptz,
    "to" timestamptz, OUT cut timestamptz, OUT lines bigint)
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
SET enable_hashagg = on
AS $$
DECLARE
    day    CONSTANT interval := '1 day';
    epoch  CONSTANT timestamptz := '1970-01-01 00:00:00+00';
    all_   jsonb := jsonb_set(req, '{query,profile}', '["full"]');
    first  timestamptz := date_bin(day, "from", epoch);
    last   timestamptz := date_bin(day, "to" - interval '1 us', epoch) + day;
BEGIN
    EXECUTE format($q$
        WITH d AS (SELECT day, coalesce(s.n, 0) <> coalesce(e.n, 0) AS gone,
                e.lines
            FROM (SELECT date_bin('1 day', q.start, $3) AS day,
                    sum(q.requests) AS n
                FROM usage_quarter q
                    LEFT JOIN usage_node n ON n.node = q.node
                WHERE %1$s AND q.node <> correction_node()
                GROUP BY 1) AS s
            FULL JOIN (SELECT date_bin('1 day', q.time, $3) AS day,
                    count(*) FILTER (WHERE q.outcome <> 'refused') AS n,
                    count(*) FILTER (WHERE q.time >= $6 AND q.time < $7
                        AND (%3$L::boolean
                            OR q.outcome <> 'refused')) AS lines
                FROM usage_event q
                    LEFT JOIN usage_node n ON n.node = q.node
                WHERE %2$s %4$s GROUP BY 1) AS e USING (day))
        SELECT max(day) + interval '1 day', (SELECT sum(x.lines) FROM d AS x
            WHERE x.day > ALL (SELECT y.day FROM d AS y WHERE y.gone))
        FROM d WHERE gone
        $q$, export_where(all_, o, 'sums'), export_where(all_, o, 'events'),
        query_value(req, 'profile') IS NOT DISTINCT FROM 'full',
        export_timely())
    INTO cut, lines
    USING first, last, epoch, first, last, "from", "to";

    cut := coalesce(cut, first);
    lines := coalesce(lines, 0);
END
$$;

COMMENT ON FUNCTION export_cut(jsonb, owner, timestamptz, timestamptz) IS
    'From when on the raw events of an export are all kept, and how many of'
    ' them it has from then on';


CREATE OR REPLACE FUNCTION export_source(req jsonb, o owner, source text,
    fine boolean, complete boolean)
RETURNS text
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN (SELECT CASE source WHEN 'events' THEN export_events(conds)
        WHEN 'corrections' THEN export_corrections(conds)
        ELSE export_sums(conds, fine, complete) END
    FROM (SELECT export_where(req, o, source) AS conds) AS x);

COMMENT ON FUNCTION export_source(jsonb, owner, text, boolean, boolean) IS
    'SQL of rows as "x" of export_columns(): events, corrections, sums';


-- SQL of an export's lines.

CREATE OR REPLACE FUNCTION export_sql(req jsonb, o owner, source text,
    fine boolean)
RETURNS text
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
AS $$
    SELECT format('SELECT z.line FROM (%s) AS x, LATERAL (%s) AS z (line)'
            ' ORDER BY %s',
        export_source(req, o, source, fine, complete),
        export_line(array_agg(c.name), array_agg(c.expr), array_agg(c.free),
            form),

        -- ids begin with the time, and have an index; one key's events have
        -- one by time

        CASE WHEN source = 'sums' THEN 'x.at, x.endpoint, x.model_, x.status'
                || CASE WHEN complete THEN ', x.key_id, x.owner_,'
                    ' x.customer_, x.service, x.status_code, x.verdict,'
                    ' x.limit_, x.node' ELSE '' END
            WHEN source = 'corrections' THEN 'x.at, x.id'
            WHEN o.id IS NOT NULL OR query_value(req, 'key') IS NOT NULL
                OR caller() = 'key' THEN 'x.at, x.request_id'
            ELSE 'x.request_id' END)
    FROM export_columns() AS c,
        (SELECT coalesce(query_value(req, 'profile'), 'basic') = 'full'
                AS complete, coalesce(query_value(req, 'format'), 'json')
                AS form) AS p
    WHERE p.complete OR c.basic
    GROUP BY p.complete, p.form
$$;

COMMENT ON FUNCTION export_sql(jsonb, owner, text, boolean) IS
    'SQL of an export''s lines; source as in export_source()';


CREATE OR REPLACE FUNCTION export_count(req jsonb, o owner, source text,
    fine boolean)
RETURNS text
LANGUAGE sql STABLE
RETURN format('SELECT count(*) FROM (%s) AS x', export_source(req, o, source,
    fine, query_value(req, 'profile') IS NOT DISTINCT FROM 'full'));

COMMENT ON FUNCTION export_count(jsonb, owner, text, boolean) IS
    'SQL of how many lines export_sql() has';


-- To count a million rows takes a while, and a client is to hear of its export
-- at once: the cursor's first line goes on with what stands before them.  Files
-- are counted first, and so is what nodes of older versions send.

CREATE OR REPLACE FUNCTION export_late()
RETURNS boolean
LANGUAGE sql STABLE
RETURN coalesce(current_setting('apikey.export_late', true) = 'on', false);

COMMENT ON FUNCTION export_late() IS
    'Are an export''s lines counted when the first ones are fetched?';

CREATE OR REPLACE FUNCTION export_total(total bigint)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN '"recordCount":' || total || ',"data":[';

COMMENT ON FUNCTION export_total(bigint) IS 'How JSON goes on to its rows';

CREATE OR REPLACE FUNCTION export_counted(counter text, source text)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN format('SELECT export_total((%s)::bigint) UNION ALL (%s)', counter,
    source);

COMMENT ON FUNCTION export_counted(text, text) IS
    'SQL of lines, behind how many there are; counter: SQL of that';


-- STABLE: all its queries see one snapshot, the cursor too.  As
-- requests_page() it runs as the owner of the tables, and takes a caller from
-- apikey.caller alone.  An Append runs one part after the other where no
-- worker helps.

CREATE OR REPLACE FUNCTION export_open(req jsonb, o owner, zone text,
    "from" timestamptz, "to" timestamptz)
RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
SET work_mem = '32MB'
SET jit = off
SET enable_hashagg = off
SET max_parallel_workers_per_gather = 0
AS $$
DECLARE
    quarter  CONSTANT interval := '15 minutes';
    epoch    CONSTANT timestamptz := '1970-01-01 00:00:00+00';
    by_      text := query_value(req, 'granularity');
    first    timestamptz := date_bin(quarter, "from", epoch);
    last     timestamptz := date_bin(quarter, "to" + quarter
                 - interval '1 us', epoch);
    fine     boolean := coalesce(by_, '15m') = '15m';
    cut      timestamptz;
    lines    bigint;
    starts   timestamptz[];
    parts    text[];
    source   text;
    counter  text;
    total    bigint;
    export   refcursor := 'export';
BEGIN
    IF NOT coalesce(caller() IN ('operator', 'operator_read', 'owner', 'key'),
        false)
    THEN
        RAISE insufficient_privilege;
    END IF;

    IF by_ IS NULL THEN
        SELECT c.cut, c.lines INTO cut, lines
        FROM export_cut(req, o, "from", "to") AS c;
    ELSE
        cut := CASE by_ WHEN 'event' THEN "from" ELSE last END;
    END IF;

    last := least(last, cut);

    IF NOT fine AND by_ <> 'event' THEN
        starts := usage_buckets(by_, zone, first, last);
    END IF;

    parts := CASE WHEN cut > first AND by_ IS DISTINCT FROM 'event'
            THEN '{sums}'::text[] ELSE '{}' END
        || CASE WHEN (by_ IS NULL AND cut < "to" OR by_ = 'event')
                AND query_value(req, 'session') IS NULL
                AND query_value(req, 'method') IS NULL
                AND EXISTS (SELECT FROM usage_correction c
                    WHERE c.at >= greatest("from", cut) AND c.at < "to")
            THEN '{corrections}'::text[] ELSE '{}' END
        || CASE WHEN by_ IS NULL AND cut < "to" OR by_ = 'event'
            THEN '{events}'::text[] ELSE '{}' END;

    source := CASE cardinality(parts)
        WHEN 1 THEN export_sql(req, o, parts[1], fine)
        ELSE (SELECT string_agg(format('(%s)', export_sql(req, o, p, fine)),
                  ' UNION ALL ' ORDER BY i)
              FROM unnest(parts) WITH ORDINALITY AS x (p, i)) END;

    IF coalesce(query_value(req, 'format'), 'json') = 'json' THEN
        SELECT string_agg(CASE WHEN p = 'events' AND lines IS NOT NULL
                THEN lines::text
                ELSE format('(%s)', export_count(req, o, p, fine)) END,
            ' + ' ORDER BY i)
        INTO counter
        FROM unnest(parts) WITH ORDINALITY AS x (p, i);

        IF export_late() THEN
            source := export_counted(counter, source);
        ELSE
            EXECUTE 'SELECT ' || counter INTO total
            USING first, last, starts, greatest("from", cut), "to";
        END IF;
    END IF;

    OPEN export NO SCROLL FOR EXECUTE source
    USING first, last, starts, greatest("from", cut), "to";

    RETURN total;
END
$$;

COMMENT ON FUNCTION export_open(jsonb, owner, text, timestamptz,
    timestamptz) IS
    'Opens the cursor "export" over the lines of usage that the caller of this'
    ' transaction may see; how many there are, for JSON, unless export_late()';


-- What stands before the lines; without a total, before the first one.

CREATE OR REPLACE FUNCTION export_head(form text, at timestamptz,
    total bigint, names text[])
RETURNS text
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN CASE form
    WHEN 'csv' THEN array_to_string(names, ',') || E'\n'
    WHEN 'ndjson' THEN ''
    ELSE format('{"success":true,"exportDate":"%s","format":"json",',
        export_time(at)) || coalesce(export_total(total), '') END;

COMMENT ON FUNCTION export_head(text, timestamptz, bigint, text[]) IS
    'How an export begins';


-- What nginx sends before the rows is in refresh: there is no key to be told
-- of, and an older client's body would be looked into.

CREATE OR REPLACE FUNCTION export_answer(req jsonb, name text, zone text,
    "from" timestamptz, "to" timestamptz, total bigint, names text[],
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    form text := coalesce(query_value(req, 'format'), 'json');
BEGIN
    status := 200;
    headers := format(E'Content-Type: %s\nContent-Disposition: attachment;'
        ' filename="%s-%s-%s.%s"\n',
        CASE form WHEN 'csv' THEN 'text/csv; charset=utf-8'
            WHEN 'ndjson' THEN 'application/x-ndjson'
            ELSE 'application/json' END,
        name, to_char("from" AT TIME ZONE zone, 'YYYY-MM-DD'),
        to_char(("to" - interval '1 us') AT TIME ZONE zone, 'YYYY-MM-DD'),
        form);
    body := '';
    refresh := export_head(form, now(), total, names);
END
$$;

COMMENT ON FUNCTION export_answer(jsonb, text, text, timestamptz, timestamptz,
    bigint, text[]) IS
    'The answer that says how an export begins; it stands in refresh';


CREATE OR REPLACE FUNCTION api_export_usage(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    by_    text := query_value(req, 'granularity');
    o      owner;
    zone   text;
    r      record;
    total  bigint;
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner', 'key');
    PERFORM fail_if(check_export_usage(req));

    o := usage_subject(req);
    zone := coalesce(query_value(req, 'tz'), o.time_zone, 'UTC');
    r := export_range(req, o, zone);

    IF by_ IN ('hour', 'day', 'month') THEN
        PERFORM fail_if(replace(check_buckets(by_, r."to" - r."from")::text,
            'query:bucket', 'query:granularity')::jsonb);
    END IF;

    total := export_open(req, o, zone, r."from", r."to");

    SELECT * INTO status, headers, body, refresh
    FROM export_answer(req, 'usage', zone, r."from", r."to", total,
        ARRAY(SELECT c.name FROM export_columns() AS c
              WHERE c.basic OR query_value(req, 'profile') = 'full'));
END
$$;

COMMENT ON FUNCTION api_export_usage(jsonb, jsonb) IS 'GET export/usage';

GRANT EXECUTE ON FUNCTION export_time(timestamptz), export_money(numeric),
    csv_guard(text), csv_text(text), export_columns(),
    export_line(text[], text[], boolean[], text),
    check_export_query(jsonb, text[]), check_export_usage(jsonb),
    export_range(jsonb, owner, text), export_where(jsonb, owner, text),
    export_timely(), export_events(text), export_corrections(text),
    export_sums(text, boolean, boolean),
    export_source(jsonb, owner, text, boolean, boolean),
    export_cut(jsonb, owner, timestamptz, timestamptz),
    export_sql(jsonb, owner, text, boolean),
    export_count(jsonb, owner, text, boolean), export_late(),
    export_total(bigint), export_counted(text, text),
    export_open(jsonb, owner, text, timestamptz, timestamptz),
    export_head(text, timestamptz, bigint, text[]),
    export_answer(jsonb, text, text, timestamptz, timestamptz, bigint, text[]),
    api_export_usage(jsonb, jsonb) TO apikey_gateway;
