--
-- Reports of usage: GET usage, out of the roll-ups by 15 minutes.  Offsets of
-- time zones are multiples of that, so days of any zone add up exactly.
--
-- Hours, days, weeks and months are instants where they begin: the same ones
-- for rows, ranges and billing periods, also where clocks are put back.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION read_moment(value text, zone text)
RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    at timestamptz := read_time(value);
BEGIN
    RETURN CASE WHEN value ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$'
        THEN day_start(at AT TIME ZONE 'UTC', zone)
        ELSE at END;
END
$$;

COMMENT ON FUNCTION read_moment(text, text) IS
    'RFC 3339 with any offset, or a date (its midnight in the zone), or null';


CREATE OR REPLACE FUNCTION read_list(value text)
RETURNS text[]
LANGUAGE sql IMMUTABLE
RETURN coalesce(string_to_array(value, ','), '{}');

COMMENT ON FUNCTION read_list(text) IS 'The names between commas';


-- Where buckets begin, the first of them at or before "from".  One begins a
-- step earlier and is dropped again.  Where a clock repeats midnight a day
-- begins with the first, as billing periods do.

CREATE OR REPLACE FUNCTION usage_buckets(bucket text, zone text,
    from_ timestamptz, to_ timestamptz)
RETURNS timestamptz[]
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    step interval := '1 ' || nullif(bucket, 'total');
BEGIN
    IF bucket = 'total' THEN
        RETURN ARRAY[from_];
    ELSIF bucket = 'hour' THEN
        RETURN ARRAY(SELECT h
            FROM generate_series(date_trunc('hour', from_, zone),
                to_ - interval '15 minutes', interval '15 minutes') AS h
            WHERE h = date_trunc('hour', from_, zone)
                OR extract(minute FROM h AT TIME ZONE zone) = 0
                OR extract(hour FROM h AT TIME ZONE zone) <>
                    extract(hour FROM (h - interval '15 minutes')
                            AT TIME ZONE zone)
            ORDER BY h);
    END IF;

    RETURN ARRAY(SELECT b.at
        FROM (SELECT x.at, lead(x.at) OVER (ORDER BY x.at) AS next
            FROM (SELECT DISTINCT day_start(l, zone) AS at
                FROM generate_series(date_trunc(bucket,
                        from_ AT TIME ZONE zone) - step,
                    (to_ AT TIME ZONE zone) + step, step) AS l) AS x) AS b
        WHERE b.next > from_ AND b.at < to_
        ORDER BY b.at);
END
$$;

COMMENT ON FUNCTION usage_buckets(text, text, timestamptz, timestamptz) IS
    'When the hours, days, weeks or months of a range begin in a time zone';


-- What reports are grouped and filtered by: how a row has it ('' where the
-- answer has null), and how it is compared.

CREATE OR REPLACE FUNCTION usage_dimensions(OUT name text, OUT col text,
    OUT kind text, OUT known text)
RETURNS SETOF record
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT * FROM (VALUES
        ('service', 'q.service', 'pattern', NULL),
        ('endpoint', 'q.endpoint', 'pattern', NULL),
        ('model', 'q.model', 'pattern', NULL),
        ('key', 'q.key_id', 'key', NULL),
        ('owner', 'q.owner', 'text', NULL),
        ('customer', 'q.customer', 'text', NULL),
        ('outcome', 'q.outcome', 'text', 'success|error|aborted|refused'),
        ('status_code', 'q.status_code', 'status', NULL),
        ('verdict', 'q.verdict', 'text', 'ok|anonymous|missing_key'
            '|duplicate_key|invalid_key|revoked_key|expired_key|disabled_key'
            '|scope_denied|model_denied|ip_denied|rate_limited|quota_exceeded'
            '|credits_exhausted|budget_exceeded|unavailable|invalid_request'),
        ('limit_name', 'q.limit_name', 'text', NULL),
        ('node', 'coalesce(n.name, q.node::text)', 'text', NULL))
        AS d (name, col, kind, known);
END;

COMMENT ON FUNCTION usage_dimensions() IS
    'What usage is grouped and filtered by';


CREATE OR REPLACE FUNCTION check_dimensions(req jsonb)
RETURNS jsonb
LANGUAGE sql STABLE
RETURN (SELECT coalesce(jsonb_agg(e.error -> 0), '[]')
    FROM usage_dimensions() AS d, LATERAL (SELECT CASE
        WHEN d.known IS NOT NULL
            AND query_value(req, d.name) !~ ('^(' || d.known || ')$')
            THEN wrong('query:' || d.name, 'bad_value',
                'one of ' || replace(d.known, '|', ', '))
        WHEN d.kind = 'status' AND query_value(req, d.name) !~ '^[0-9]{3}$'
            THEN wrong('query:' || d.name, 'bad_type', 'a status of HTTP')
        WHEN d.name = 'owner' AND caller() = 'key'
            AND query_value(req, d.name) IS NOT NULL
            THEN wrong('query:owner', 'forbidden',
                'a key sees its own usage') END AS error) AS e
    WHERE e.error IS NOT NULL);

COMMENT ON FUNCTION check_dimensions(jsonb) IS
    'Filters of usage in a query string';


CREATE OR REPLACE FUNCTION usage_where(req jsonb)
RETURNS text
LANGUAGE sql STABLE
RETURN (SELECT concat_ws(' AND ',
        CASE WHEN caller() = 'key'
            THEN format('q.key_id = %L', caller_key()) END,
        CASE WHEN caller() = 'owner' THEN format('q.owner = %L',
            (SELECT o.external FROM owner o WHERE o.id = caller_owner())) END,
        string_agg(CASE
            WHEN d.kind = 'key' THEN format('%s = %L', d.col, read_uuid(v))
            WHEN d.kind = 'status' THEN format('%s = %s', d.col, v::int)
            WHEN d.kind = 'pattern' AND strpos(v, '*') > 0
                THEN format('pattern_covers(%L, %s)', v, d.col)
            ELSE format('%s = %L', d.col, v) END, ' AND '))
    FROM usage_dimensions() AS d,
        LATERAL (SELECT query_value(req, d.name) AS v) AS x
    WHERE v IS NOT NULL);

COMMENT ON FUNCTION usage_where(jsonb) IS
    'SQL condition of a checked query''s filters, empty where there are none';


-- A named key or owner is there and may be seen, or the call ends with 404.
-- Usage outlives an owner that was deleted.

CREATE OR REPLACE FUNCTION usage_subject(req jsonb)
RETURNS owner
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    named  text := query_value(req, 'owner');
    which  text := coalesce(query_value(req, 'key'),
        CASE WHEN caller() = 'key' THEN caller_key()::text END);
    k      key;
    o      owner;
BEGIN
    IF which IS NOT NULL THEN
        k := find_key(jsonb_build_object('path',
            jsonb_build_object('id', which)));
    END IF;

    IF named IS NOT NULL THEN
        SELECT * INTO o FROM owner x WHERE x.external = named;

        IF NOT FOUND THEN
            PERFORM fail(404, 'not_found', 'There is no such owner.');
        END IF;

    ELSE
        SELECT * INTO o FROM owner x
        WHERE x.id = CASE WHEN which IS NOT NULL THEN k.owner_id
            WHEN caller() = 'owner' THEN caller_owner() END;
    END IF;

    RETURN o;
END
$$;

COMMENT ON FUNCTION usage_subject(jsonb) IS
    'The owner whose usage is asked for, null for more than one''s';


CREATE OR REPLACE FUNCTION usage_numbers()
RETURNS text[]
LANGUAGE sql IMMUTABLE
RETURN '{requests,refused,errors,tokens,tokens_input,tokens_output,'
    'tokens_cached,tokens_reasoning,cost,unpriced,bytes_in,bytes_out,'
    'duration_ms}'::text[];

COMMENT ON FUNCTION usage_numbers() IS 'What reports show, in their order';


CREATE OR REPLACE FUNCTION check_usage_query(req jsonb)
RETURNS jsonb
LANGUAGE sql STABLE
RETURN check_request(req, VARIADIC '{from,to,bucket,group_by,tz,sort,fill,'
        'limit,cursor,service,endpoint,model,key,owner,customer,outcome,'
        'status_code,verdict,limit_name,node}'::text[])
    || check_time_query(req, 'from') || check_time_query(req, 'to')
    || CASE WHEN coalesce(query_value(req, 'bucket'), 'day') ~
            '^(hour|day|week|month|total)$' THEN jsonb '[]'
        ELSE wrong('query:bucket', 'bad_value',
            'hour, day, week, month or total') END
    || (SELECT coalesce(jsonb_agg(CASE WHEN x.known
                THEN wrong('query:group_by', 'duplicate', 'give ' || x.name
                    || ' once')
                ELSE wrong('query:group_by', 'bad_value', x.all_) END -> 0),
            '[]')
        FROM (SELECT g.name, count(*) AS n, bool_or(d.name IS NOT NULL)
                AS known, (SELECT string_agg(a.name, ', ')
                           FROM usage_dimensions() AS a) AS all_
              FROM unnest(read_list(query_value(req, 'group_by')))
                  AS g (name)
                  LEFT JOIN usage_dimensions() AS d ON d.name = g.name
              GROUP BY g.name) AS x
        WHERE x.n > 1 OR NOT x.known)
    || check_zone(to_jsonb(query_value(req, 'tz')), 'query:tz')
    || CASE WHEN ltrim(coalesce(query_value(req, 'sort'), 'start'), '-')
            = ANY ('start'::text || usage_numbers()) THEN jsonb '[]'
        ELSE wrong('query:sort', 'bad_value',
            'start or a number of the report, "-" before it for descending')
        END
    || check_flag(req, 'fill') || check_dimensions(req)
    || check_limit_query(req) || check_cursor(req);

COMMENT ON FUNCTION check_usage_query(jsonb) IS 'Query of GET usage';


CREATE OR REPLACE FUNCTION check_range(req jsonb, "from" timestamptz,
    "to" timestamptz)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = apikey, pg_temp
RETURN CASE WHEN "from" >= "to"
    THEN wrong(CASE WHEN query_value(req, 'to') IS NULL
        THEN 'query:from' ELSE 'query:to' END, 'out_of_range',
        '"from" must be before "to"')
    ELSE jsonb '[]' END;

COMMENT ON FUNCTION check_range(jsonb, timestamptz, timestamptz) IS
    'That a range ends after it begins';


-- Outward to quarters of an hour, which is what the roll-ups hold; the answer
-- says the range it is of.

CREATE OR REPLACE FUNCTION usage_range(req jsonb, o owner, zone text,
    OUT "from" timestamptz, OUT "to" timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    quarter  CONSTANT interval := '15 minutes';
    epoch    CONSTANT timestamptz := '1970-01-01 00:00:00+00';
    billing  text := coalesce(o.time_zone, zone);
    anchor   int := coalesce(o.anchor_day, 1);
BEGIN
    "to" := coalesce(read_moment(query_value(req, 'to'), zone),
        (period(billing, anchor, now()))."end");
    "from" := coalesce(read_moment(query_value(req, 'from'), zone),
        (period(billing, anchor, "to" - interval '1 us')).start);

    PERFORM fail_if(check_range(req, "from", "to"));

    "from" := date_bin(quarter, "from", epoch);
    "to" := date_bin(quarter, "to" + quarter - interval '1 us', epoch);
END
$$;

COMMENT ON FUNCTION usage_range(jsonb, owner, text) IS
    'From when to when; this billing period unless the query says';


CREATE OR REPLACE FUNCTION check_buckets(bucket text, range interval)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN bucket = 'total' OR extract(epoch FROM range)
        <= 20000 * extract(epoch FROM ('1 ' || bucket)::interval)
    THEN jsonb '[]'
    ELSE wrong('query:bucket', 'out_of_range', 'there are more than 20000 in'
        ' this range: ask for a shorter one, or for longer buckets') END;

COMMENT ON FUNCTION check_buckets(text, interval) IS
    'How many buckets a report may have';


CREATE OR REPLACE FUNCTION usage_rows(n int, filled boolean)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN NOT coalesce(filled, false) THEN 'g' ELSE (
    SELECT format('(SELECT b.n %1$s %2$s FROM generate_series(1,'
            ' cardinality($1)) AS b (n) CROSS JOIN (SELECT DISTINCT %3$s'
            ' FROM %6$s) AS d LEFT JOIN g ON g.n = b.n %4$s) AS %5$s',
        string_agg(', d.g' || i, '' ORDER BY i),
        (SELECT string_agg(format(', coalesce(g.%1$s, 0) AS %1$s', s), '')
         FROM unnest(usage_numbers() || 'duration_us'::text) AS s
         WHERE s <> 'duration_ms'),
        coalesce(string_agg('g' || i, ', ' ORDER BY i), 'true'),
        string_agg(format(' AND g.g%1$s = d.g%1$s', i), ''), 'f',
        CASE WHEN n = 0 THEN '(SELECT) AS none' ELSE 'g' END)
    FROM generate_series(1, n) AS i) END;

COMMENT ON FUNCTION usage_rows(int, boolean) IS
    'SQL of a report''s rows, with empty buckets for each group where filled';


-- SQL of a report.  $1 where buckets begin, $2 and $3 the range, $4 the
-- cursor's value, start and groups, $5 rows wanted.  Rows come in the order
-- of (v, start, groups), so that the cursor is one comparison.

CREATE OR REPLACE FUNCTION usage_sql(groups text[], conds text, sort text,
    filled boolean, after boolean)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    n        int := cardinality(groups);
    cols     text := (SELECT string_agg(format(', %s AS g%s', d.col, i), ''
                          ORDER BY i)
                      FROM unnest(groups) WITH ORDINALITY AS x (g, i)
                          JOIN usage_dimensions() AS d ON d.name = g);
    texts    text := (SELECT string_agg(format(', nullif(%s::text, %L)'
                              ' COLLATE "C" AS g%s', 'g' || i, CASE g
                              WHEN 'key' THEN '00000000-0000-0000-0000-000000000000' ELSE '' END,
                              i), '' ORDER BY i)
                      FROM unnest(groups) WITH ORDINALITY AS x (g, i));
    members  text := (SELECT string_agg(format(', p.g%s%s AS %I', i,
                              CASE g WHEN 'status_code' THEN '::int'
                              ELSE '' END, g), '' ORDER BY i)
                      FROM unnest(groups) WITH ORDINALITY AS x (g, i));
    list     text := (SELECT string_agg(', g' || i, '' ORDER BY i)
                      FROM generate_series(1, n) AS i);
    keys     text := (SELECT string_agg(format(', coalesce(p.g%s, %L)', i,
                              ''), '' ORDER BY i)
                      FROM generate_series(1, n) AS i);
    behind   text := (SELECT string_agg(format(', $4 ->> %s', i + 1), ''
                          ORDER BY i)
                      FROM generate_series(1, n) AS i);
    sums     text := (SELECT string_agg(', coalesce(sum(' || s || '), 0)'
                          || ' AS ' || s, '' ORDER BY i)
                      FROM unnest(usage_numbers()) WITH ORDINALITY AS x (s, i)
                      WHERE s NOT IN ('duration_ms', 'tokens'));
    shown    text := (SELECT string_agg(format(CASE s
                          WHEN 'cost' THEN ', money_text(p.cost) AS cost'
                          ELSE ', p.%1$s' END, s), '' ORDER BY i)
                      FROM unnest(usage_numbers()) WITH ORDINALITY
                          AS x (s, i));
    value    text := ltrim(sort, '-');
BEGIN
    RETURN format($q$
        WITH g AS MATERIALIZED (
            SELECT width_bucket(q.start, $1) AS n %1$s %2$s,
                sum(tokens_input + tokens_output) AS tokens,
                sum(duration_us) AS duration_us
            FROM usage_quarter q
                LEFT JOIN usage_node n ON n.node = q.node
            WHERE q.start >= $2 AND q.start < $3 %3$s
            GROUP BY 1 %4$s),
        r AS (SELECT *, round(duration_us / 1000) AS duration_ms FROM %5$s),
        t AS (SELECT ($1)[r.n] AS start %6$s %7$s FROM r),
        k AS (SELECT p.*, %8$s AS v FROM t AS p),
        page AS MATERIALIZED (
            SELECT p.*, row_number() OVER (ORDER BY v, start %9$s) AS i
            FROM k AS p %10$s
            ORDER BY v, start %9$s LIMIT $5 + 1)
        SELECT
            (SELECT row_to_json(x) FROM (SELECT %11$s
                FROM (SELECT coalesce(sum(tokens), 0) AS tokens, coalesce(
                          round(sum(duration_us) / 1000), 0) AS duration_ms
                          %12$s FROM g) AS p) AS x),
            (SELECT coalesce(array_to_json(array_agg(row_to_json(x)
                    ORDER BY i)), '[]')
                FROM page AS p, LATERAL (SELECT time_text(p.start) AS start
                    %13$s %14$s) AS x
                WHERE i <= $5),
            (SELECT count(*) > $5 FROM page),
            (SELECT json_build_array(p.v::text, p.start %9$s)::text
                FROM page AS p WHERE i = $5)
        $q$,
        cols, replace(sums, 'sum(', 'sum(q.'),
        CASE WHEN conds <> '' THEN 'AND ' || conds END, list,
        usage_rows(n, filled), texts,
        (SELECT string_agg(', r.' || s, '')
            FROM unnest(usage_numbers()) AS s),
        CASE WHEN sort ^@ '-' THEN '-' ELSE '' END || CASE value
            WHEN 'start' THEN 'extract(epoch FROM start)'
            ELSE value || '::numeric' END,
        keys,
        CASE WHEN after THEN format('WHERE (v, start %s) >'
            ' (($4 ->> 0)::numeric, ($4 ->> 1)::timestamptz %s)', keys,
            behind) END,
        substr(shown, 2), sums, members, shown);
END
$$;

COMMENT ON FUNCTION usage_sql(text[], text, text, boolean, boolean) IS
    'SQL of a report: total, rows, whether there are more, and the last row';


CREATE OR REPLACE FUNCTION api_usage(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
SET work_mem = '32MB'
AS $$
DECLARE
    bucket  text := coalesce(query_value(req, 'bucket'), 'day');
    groups  text[] := read_list(query_value(req, 'group_by'));
    size    int;
    after   jsonb;
    o       owner;
    zone    text;
    r       record;
    starts  timestamptz[];
    total   json;
    rows    json;
    more    boolean;
    last    text;
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner', 'key');
    PERFORM fail_if(check_usage_query(req));

    size := coalesce(query_value(req, 'limit'), '50')::int;
    o := usage_subject(req);
    zone := coalesce(query_value(req, 'tz'), o.time_zone, 'UTC');
    r := usage_range(req, o, zone);
    PERFORM fail_if(check_buckets(bucket, r."to" - r."from"));
    starts := usage_buckets(bucket, zone, r."from", r."to");

    IF query_value(req, 'cursor') IS NOT NULL THEN
        after := (read_cursor(req) ->> 'k')::jsonb;
    END IF;

    EXECUTE usage_sql(groups, usage_where(req),
        coalesce(query_value(req, 'sort'), 'start'),
        query_value(req, 'fill') = 'true', after IS NOT NULL)
    INTO total, rows, more, last
    USING starts, r."from", r."to", after, size;

    status := 200;
    body := (SELECT row_to_json(x) FROM (SELECT time_text(r."from") AS "from",
            time_text(r."to") AS "to", bucket, zone AS time_zone,
            to_json(groups) AS group_by, currency() AS currency,
            time_text(usage_as_of()) AS as_of, total, rows AS data,
            more AS has_more, CASE WHEN more THEN write_cursor(req, last,
                '00000000-0000-0000-0000-000000000000') END AS next_cursor)
            AS x);
END
$$;

COMMENT ON FUNCTION api_usage(jsonb, jsonb) IS 'GET usage';

GRANT EXECUTE ON FUNCTION read_moment(text, text), read_list(text),
    usage_buckets(text, text, timestamptz, timestamptz), usage_dimensions(),
    check_dimensions(jsonb), usage_where(jsonb), usage_subject(jsonb),
    usage_numbers(), check_usage_query(jsonb),
    check_range(jsonb, timestamptz, timestamptz),
    usage_range(jsonb, owner, text), check_buckets(text, interval),
    usage_rows(int, boolean),
    usage_sql(text[], text, text, boolean, boolean), api_usage(jsonb, jsonb)
    TO apikey_gateway;
