--
-- Limits now: GET limits, and usage pages.  A node asks whose limits it is to
-- look at, and calls again with what is counted there: req.live, an array of
-- {holder, level, name, used, remaining, reset, since, end}, the times in
-- microseconds; absent where Redis, which counts, does not answer.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION check_limits_query(req jsonb)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN check_request(req, 'key', 'owner', 'min_percent', 'limit', 'cursor')
    || check_limit_query(req)
    || CASE
        WHEN query_value(req, 'min_percent') IS NULL THEN jsonb '[]'
        WHEN query_value(req, 'min_percent') !~ '^[0-9]{1,9}$'
            THEN wrong('query:min_percent', 'bad_type',
                'a whole number is needed, 0 or more')
        ELSE '[]' END
    || CASE
        WHEN caller() IN ('operator', 'operator_read')
            AND num_nonnulls(query_value(req, 'key'),
                query_value(req, 'owner')) = 0 THEN jsonb '[]'
        ELSE check_subject(req) END;

COMMENT ON FUNCTION check_limits_query(jsonb) IS 'The query of GET limits, but for its cursor, which belongs to one'
    ' function';


-- A key is shown with its owner's limits; an owner alone with its own.

CREATE OR REPLACE FUNCTION limits_subject(req jsonb, OUT key_id uuid,
    OUT owner_id uuid)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    k key;
    o owner;
BEGIN
    IF query_value(req, 'owner') IS NOT NULL THEN
        o := find_owner(jsonb_build_object('path',
            jsonb_build_object('id', query_value(req, 'owner'))));
        owner_id := o.id;

    ELSIF caller() = 'owner' AND query_value(req, 'key') IS NULL THEN
        owner_id := caller_owner();

    ELSIF caller() = 'key' OR query_value(req, 'key') IS NOT NULL THEN
        k := find_key(jsonb_build_object('path', jsonb_build_object('id',
            coalesce(query_value(req, 'key'), caller_key()::text))));
        key_id := k.id;
        owner_id := k.owner_id;
    END IF;
END
$$;

COMMENT ON FUNCTION limits_subject(jsonb) IS
    'Whose limits are asked for; both null: everyone''s';


CREATE OR REPLACE FUNCTION api_limit_holders(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    s record;
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner', 'key');
    PERFORM fail_if(check_limits_query(req));
    s := limits_subject(req);

    status := 200;
    body := CASE WHEN num_nonnulls(s.key_id, s.owner_id) = 0
        THEN 'percent ' || coalesce(query_value(req, 'min_percent'), '100')
        ELSE limit_holders(s.key_id, s.owner_id) END;
END
$$;

COMMENT ON FUNCTION api_limit_holders(jsonb, jsonb) IS
    'What a node is to look at for GET limits: lines of limit_holders(), or'
    ' "percent N"';


CREATE OR REPLACE FUNCTION limit_holders(key_id uuid, owner_id uuid)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN concat_ws(E'\n', 'key ' || key_id || ' ' || coalesce(owner_id, key_id),
    'owner ' || owner_id || ' ' || owner_id);

COMMENT ON FUNCTION limit_holders(uuid, uuid) IS
    'A key with its owner, or one of them: lines of "key UUID ROOT" and "owner'
    ' UUID ROOT", ROOT being the tag of their keys in Redis';


CREATE OR REPLACE FUNCTION api_usage_holders(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    s record;
BEGIN
    s := glance_subject(req);

    status := 200;
    body := limit_holders((s.k).id, (s.o).id);
END
$$;

COMMENT ON FUNCTION api_usage_holders(jsonb, jsonb) IS
    'What a node is to look at for a usage page: lines of limit_holders()';


-- A key is told what its owner has used, of which it sees its own part alone.

CREATE OR REPLACE FUNCTION quota_known(holder uuid, level text, unit text,
    service text, model text, since bigint)
RETURNS numeric
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    who   text := current_setting('apikey.caller', true);
    known numeric;
BEGIN
    PERFORM set_config('apikey.caller', 'node', true);

    known := (quota_used(holder, level, unit, service, model, since)).used;

    PERFORM set_config('apikey.caller', who, true);

    RETURN known;
END
$$;

COMMENT ON FUNCTION quota_known(uuid, text, text, text, text, bigint) IS
    'quota_used() of a limit that the caller may see';


-- What nobody counts, but usage tells, is told by usage.  live null: what
-- usage does not tell, nobody knows, and it is left out.

CREATE OR REPLACE FUNCTION limits_now(key_id uuid, owner_id uuid, live jsonb)
RETURNS TABLE (key uuid, owner text, name text, level text, unit text,
    "limit" bigint, used numeric, remaining numeric, percent numeric,
    "window" text, reset bigint, resets_at timestamptz, "position" int)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH l AS (
        SELECT v ->> 'level' AS level, (v ->> 'holder')::uuid AS holder,
            v ->> 'name' AS name, (v ->> 'used')::numeric AS used,
            (v ->> 'remaining')::numeric AS remaining,
            (v ->> 'reset')::bigint AS reset, v ? 'used' AS known,
            (v ->> 'since')::bigint AS since, (v ->> 'end')::bigint AS "end"
        FROM jsonb_array_elements(coalesce(live, '[]')) AS v),
    -- a limit of nothing is used up, and nobody counts anything of it
    zero AS (
        SELECT r.key_id, r.owner_id, p.external AS plan
        FROM limit_rule r LEFT JOIN plan p ON p.id = r.plan_id
        WHERE r."limit" = 0 AND num_nonnulls(limits_now.key_id,
            limits_now.owner_id) = 0 AND live IS NOT NULL),
    held AS (
        SELECT 'key' AS level, k.id AS holder, k.id AS key, k.owner_id, h.*
        FROM key k, LATERAL limits_held(k.id, NULL, k.plan) AS h
        WHERE k.id = limits_now.key_id
            OR limits_now.key_id IS NULL AND limits_now.owner_id IS NULL
                AND (k.id IN (SELECT l.holder FROM l WHERE l.level = 'key')
                    OR k.revoked_at IS NULL
                    AND (k.id IN (SELECT n.key_id FROM zero n)
                        OR k.plan IN (SELECT n.plan FROM zero n)))
        UNION ALL
        SELECT 'owner', o.id, NULL, o.id, h.*
        FROM owner o, LATERAL limits_held(NULL, o.id, o.plan) AS h
        WHERE o.id = limits_now.owner_id
            OR limits_now.key_id IS NULL AND limits_now.owner_id IS NULL
                AND (o.id IN (SELECT l.holder FROM l WHERE l.level = 'owner')
                    OR o.id IN (SELECT n.owner_id FROM zero n)
                    OR o.plan IN (SELECT n.plan FROM zero n))),
    now_ AS (
        SELECT h.*, l.reset, p."end", l.holder IS NOT NULL AS told,
            coalesce(h.burst, h."limit") AS most,
            CASE WHEN l.known THEN l.used
                WHEN h.kind IN ('calendar', 'total')
                THEN quota_known(h.holder, h.level, h.unit, h.service,
                    h.model, greatest(h.made, p.start))
                WHEN live IS NOT NULL THEN 0 END AS used, l.remaining
        FROM held h LEFT JOIN l ON l.level = h.level
                AND l.holder = h.holder AND l.name = h.name
            LEFT JOIN owner o ON o.id = h.owner_id
            LEFT JOIN LATERAL (
                SELECT max(b) FILTER (WHERE b <= micros(now())) AS start,
                    min(b) FILTER (WHERE b > micros(now())) AS "end"
                FROM unnest(CASE WHEN l."end" IS NULL
                    AND h.period IS NOT NULL
                    THEN calendar_bounds(coalesce(o.time_zone, 'UTC'),
                        coalesce(o.anchor_day, 1), h.period, now()) END) AS b
            ) AS c ON true,
            LATERAL (SELECT coalesce(l.since, c.start) AS start,
                         coalesce(l."end", c."end") AS "end") AS p
        WHERE h.kind <> 'credits')
    SELECT n.key, (SELECT o.external FROM owner o WHERE o.id = n.owner_id),
        n.name, n.level, n.unit, n."limit", n.used,
        coalesce(n.remaining, greatest(n.most - n.used, 0)),
        CASE WHEN n.most = 0 THEN 100.0
            ELSE trunc(n.used * 100 / n.most, 1) END,
        n.window_text,
        CASE WHEN n.kind = 'total' THEN NULL
            WHEN n."end" IS NOT NULL THEN greatest(ceil((n."end"
                - micros(now())) / 1000000.0), 0)::bigint
            ELSE coalesce(n.reset, 0) END,
        CASE WHEN n."end" IS NOT NULL THEN usage_time(n."end") END,
        n.position
    FROM now_ n
    WHERE (num_nonnulls(limits_now.key_id, limits_now.owner_id) > 0 OR n.told
            OR n.most = 0)
        AND n.used IS NOT NULL;
END
$$;

COMMENT ON FUNCTION limits_now(uuid, uuid, jsonb) IS
    'What is left of the limits of a key and an owner, or of everyone told of'
    ' in live';


CREATE OR REPLACE FUNCTION api_limits(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    s      record;
    size   int;
    least_ numeric;
    after  jsonb;
    page   jsonb;
    more   boolean;
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner', 'key');
    PERFORM fail_if(check_limits_query(req) || check_cursor(req));
    s := limits_subject(req);

    size := coalesce(query_value(req, 'limit'), '50')::int;
    least_ := coalesce(query_value(req, 'min_percent')::numeric,
        CASE WHEN num_nonnulls(s.key_id, s.owner_id) = 0 THEN 100
            ELSE 0 END);

    IF query_value(req, 'cursor') IS NOT NULL THEN
        after := read_cursor(req);
    END IF;

    -- counts change all the time: a page goes on by place, not by value

    SELECT coalesce(jsonb_agg(to_jsonb(x) ORDER BY x.place), '[]')
    INTO page
    FROM (SELECT l.*, row_number() OVER (ORDER BY
                  CASE WHEN num_nonnulls(s.key_id, s.owner_id) = 0
                      THEN -l.percent ELSE 0 END, l.level, l."position",
                  l.owner, l.key, l.name) AS place
          FROM limits_now(s.key_id, s.owner_id, coalesce(req -> 'live', '[]'))
              AS l
          WHERE l.percent >= least_) AS x
    WHERE after IS NULL OR x.place > (after ->> 'k')::bigint;

    more := jsonb_array_length(page) > size;

    status := 200;
    body := (SELECT row_to_json(y) FROM (SELECT time_text(now()) AS as_of,
        currency() AS currency,
        coalesce((SELECT array_to_json(array_agg(row_to_json(z) ORDER BY p.n))
            FROM jsonb_array_elements(page) WITH ORDINALITY AS p (v, n),
                LATERAL (SELECT v ->> 'key' AS key, v ->> 'owner' AS owner,
                    v ->> 'name' AS name, v ->> 'level' AS level,
                    v ->> 'unit' AS unit,
                    amount_json((v ->> 'limit')::bigint, v ->> 'unit')
                        AS "limit",
                    amount_json((v ->> 'used')::numeric::bigint,
                        v ->> 'unit') AS used,
                    amount_json((v ->> 'remaining')::numeric::bigint,
                        v ->> 'unit') AS remaining,
                    (v ->> 'percent')::numeric AS percent,
                    v ->> 'window' AS "window",
                    (v ->> 'reset')::bigint AS reset,
                    time_text((v ->> 'resets_at')::timestamptz)
                        AS resets_at) AS z
            WHERE p.n <= size), '[]') AS data,
        more AS has_more,
        CASE WHEN more THEN write_cursor(req, page -> (size - 1) ->> 'place',
            '00000000-0000-0000-0000-000000000000') END AS next_cursor) AS y);
END
$$;

COMMENT ON FUNCTION api_limits(jsonb, jsonb) IS 'GET limits';


CREATE OR REPLACE FUNCTION usage_limits(key_id uuid, owner_id uuid,
    live jsonb)
RETURNS json
LANGUAGE sql
SET search_path = apikey, pg_temp
RETURN (SELECT coalesce(array_to_json(array_agg(row_to_json(x))), '[]')
    FROM (SELECT l.name, l.level, l.unit,
              amount_json(l."limit", l.unit) AS "limit",
              amount_json(l.used::bigint, l.unit) AS used,
              amount_json(l.remaining::bigint, l.unit) AS remaining,
              l.percent, l."window", l.reset,
              time_text(l.resets_at) AS resets_at
          FROM limits_now(usage_limits.key_id, usage_limits.owner_id, live)
              AS l
          WHERE num_nonnulls(usage_limits.key_id, usage_limits.owner_id) > 0
          ORDER BY l.level, l."position", l.name) AS x);

COMMENT ON FUNCTION usage_limits(uuid, uuid, jsonb) IS
    'The limits of a usage page; live as in limits_now()';

GRANT EXECUTE ON FUNCTION check_limits_query(jsonb), limits_subject(jsonb),
    limit_holders(uuid, uuid), api_limit_holders(jsonb, jsonb),
    api_usage_holders(jsonb, jsonb), limits_now(uuid, uuid, jsonb),
    quota_known(uuid, text, text, text, text, bigint),
    api_limits(jsonb, jsonb), usage_limits(uuid, uuid, jsonb)
    TO apikey_gateway;


-- For dashboards: what usage tells, by quarters of an hour.  What refills all
-- the time, and slots, only who counts knows: GET limits.

CREATE OR REPLACE VIEW usage_paid AS
SELECT start AS at, key_id, owner, service, model, verdict, units,
    tokens_input, tokens_output, cost, unpriced
FROM usage_quarter
WHERE node <> '00000000-0000-8000-8000-636f72726563'
    AND node <> ALL ((SELECT usage_imported())::uuid[])
UNION ALL
SELECT service_at, key_id, owner, service, model, verdict, units,
    tokens_input, tokens_output, cost, unpriced
FROM usage_correction
WHERE kind = 'late'
    AND (node = ANY ((SELECT usage_imported())::uuid[])) IS NOT TRUE;

COMMENT ON VIEW usage_paid IS
    'Roll-ups that limits were paid for, when the service was used: without'
    ' corrections and imports';

REVOKE ALL ON usage_paid FROM PUBLIC, apikey_gateway, apikey_reader;


-- A key's limits look at rows of that key only: "or its owner's" would read
-- those for each of its keys.

CREATE OR REPLACE VIEW limit_status AS
WITH held AS (
    SELECT 'key'::text AS level, k.id AS key, k.owner_id AS whose, l.*
    FROM key k JOIN limit_rule l ON l.key_id = k.id
    WHERE k.revoked_at IS NULL
    UNION ALL
    SELECT 'key', k.id, k.owner_id, l.*
    FROM key k JOIN plan p ON p.external = k.plan
        JOIN limit_rule l ON l.plan_id = p.id
    WHERE k.revoked_at IS NULL
        AND NOT EXISTS (SELECT FROM limit_rule x
                        WHERE x.key_id = k.id AND x.name = l.name)
    UNION ALL
    SELECT 'owner', NULL, o.id, l.*
    FROM owner o JOIN limit_rule l ON l.owner_id = o.id
    WHERE o.deleted_at IS NULL
    UNION ALL
    SELECT 'owner', NULL, o.id, l.*
    FROM owner o JOIN plan p ON p.external = o.plan
        JOIN limit_rule l ON l.plan_id = p.id
    WHERE o.deleted_at IS NULL
        AND NOT EXISTS (SELECT FROM limit_rule x
                        WHERE x.owner_id = o.id AND x.name = l.name)),
placed AS (
    SELECT h.*, o.external AS owner, to_timestamp(p.start / 1000000) AS start,
        to_timestamp(p."end" / 1000000) AS "end",
        h.unit <> 'concurrent'
            AND h.window_text IN ('day', 'week', 'month', 'total') AS told,
        CASE h.unit WHEN 'cost' THEN 1000000000 ELSE 1 END AS scale
    FROM held h LEFT JOIN owner o ON o.id = h.whose
        LEFT JOIN calendar c ON c.unit = h.window_text
            AND c.zone = coalesce(o.time_zone, 'UTC')
            AND c.anchor_day = CASE h.window_text
                WHEN 'month' THEN coalesce(o.anchor_day, 1) ELSE 1 END
        LEFT JOIN LATERAL (
            SELECT max(b) FILTER (WHERE b <= n.us) AS start,
                min(b) FILTER (WHERE b > n.us) AS "end"
            FROM unnest(c.bounds) AS b,
                (SELECT (extract(epoch FROM now()) * 1000000)::bigint AS us)
                    AS n) AS p ON true),
counted AS (
    SELECT l.*, u.known, u.unpriced,
        coalesce(l.mode, 'strict') = 'strict' AND l.unit = 'cost'
            AND l.service IS NULL AND l.model IS NULL AS takes
    FROM placed l
        LEFT JOIN LATERAL (
            SELECT coalesce(sum(CASE l.unit WHEN 'requests' THEN q.units
                WHEN 'tokens' THEN q.tokens_input + q.tokens_output
                ELSE q.cost END), 0) AS known, sum(q.unpriced) AS unpriced
            FROM (SELECT * FROM usage_paid WHERE key_id = l.key
                UNION ALL
                SELECT * FROM usage_paid
                WHERE owner = CASE l.level WHEN 'owner' THEN l.owner END) AS q
            WHERE q.verdict = 'ok'
                AND q.at >= greatest(l.start, date_bin('15 minutes',
                    l.made, '2000-01-01 00:00:00+00'), '-infinity')
                AND (l.service IS NULL OR pattern_covers(l.service, q.service))
                AND (l.model IS NULL OR pattern_covers(l.model, q.model))
        ) AS u ON l.told),
took AS (
    SELECT l.*, CASE WHEN l.told THEN l.known + CASE
            WHEN l.unit = 'cost' AND l.unpriced > 0
            THEN coalesce(min(CASE WHEN NOT l.takes THEN NULL
                    WHEN l.told THEN greatest(l."limit" - l.known, 0)
                    ELSE coalesce(l.burst, l."limit") END)
                OVER (PARTITION BY l.level, l.key, l.owner), 0)
            ELSE 0 END END AS used
    FROM counted l)
SELECT l.key, l.owner, l.name, l.level, l.unit,
    (l."limit"::numeric / l.scale)::numeric(38, 9) AS "limit",
    (l.used / l.scale)::numeric(38, 9) AS used,
    CASE WHEN l.told THEN (greatest(l."limit" - l.used, 0) / l.scale)
        ::numeric(38, 9) END AS remaining,
    CASE WHEN NOT l.told THEN NULL WHEN l."limit" = 0 THEN 100.0
        ELSE trunc(l.used * 100 / l."limit", 1) END AS percent,
    l.window_text AS "window",
    ceil(extract(epoch FROM l."end" - now()))::bigint AS reset,
    l."end" AS resets_at
FROM took l;

COMMENT ON VIEW limit_status IS
    'What is left of the limits of all keys and owners by the usage in'
    ' Postgres; used is null for lengths of time and concurrent, which only'
    ' GET limits knows';
COMMENT ON COLUMN limit_status.key IS 'Whose it is; null: the owner''s own';
COMMENT ON COLUMN limit_status.owner IS 'The user''s own id of the owner';
COMMENT ON COLUMN limit_status.level IS 'key or owner';
COMMENT ON COLUMN limit_status."limit" IS
    'Money in units of the currency, as used and remaining';
COMMENT ON COLUMN limit_status.used IS
    'In this period, since the limit was made; a request of unknown cost has'
    ' taken what was left of the tightest strict budget';
COMMENT ON COLUMN limit_status.percent IS 'How much of it is used';
COMMENT ON COLUMN limit_status.reset IS
    'Seconds until the period ends; null: it has none';

GRANT SELECT ON limit_status TO apikey_reader;
GRANT EXECUTE ON FUNCTION pattern_covers(text, text) TO apikey_reader;
