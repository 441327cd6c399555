--
-- The admin API about its caller: whoami, and usage at a glance of a key or an
-- owner.  Sums come from the quarter-hour roll-ups of 0020_usage.sql.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION api_whoami(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    k key;
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner', 'key');
    PERFORM fail_if(check_request(req));

    IF caller() = 'key' THEN
        SELECT * INTO k FROM key WHERE id = caller_key();
    END IF;

    status := 200;
    body := (SELECT row_to_json(x) FROM (SELECT
            CASE caller() WHEN 'operator_read' THEN 'operator'
                ELSE caller() END AS caller,
            CASE WHEN caller() IN ('operator', 'operator_read')
                THEN who ->> 'name' END AS operator,
            coalesce((SELECT o.external FROM owner o
                      WHERE o.id = caller_owner()), who ->> 'external')
                AS owner,
            CASE WHEN caller() = 'key' THEN k.scopes
                ELSE (own_rights()).scopes END AS scopes,
            CASE WHEN k.id IS NOT NULL THEN key_json(k) END AS key) AS x);
END
$$;

COMMENT ON FUNCTION api_whoami(jsonb, jsonb) IS 'GET whoami';


CREATE OR REPLACE FUNCTION check_days(req jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN query_value(req, 'days') IS NULL THEN jsonb '[]'
    WHEN query_value(req, 'days') !~ '^-?[0-9]+$'
        THEN wrong('query:days', 'bad_type', 'a whole number is needed')
    WHEN query_value(req, 'days')::numeric NOT BETWEEN 1 AND 400
        THEN wrong('query:days', 'out_of_range', '1 to 400')
    ELSE '[]' END;

COMMENT ON FUNCTION check_days(jsonb) IS 'How many days of history';


-- One pass over the roll-ups of one holder; each part of the answer takes its
-- share of it.  Days and periods are those of the owner's time zone.

DROP FUNCTION IF EXISTS usage_parts(uuid, text, text, int);

CREATE OR REPLACE FUNCTION usage_parts(key_id uuid, owner text, zone text,
    anchor int, days int, OUT today json, OUT period json, OUT daily json,
    OUT services json)
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    day    timestamp := date_trunc('day', now() AT TIME ZONE zone);
    now_   record := period(zone, anchor, now());
    first  timestamp := date_trunc('day', now_.start AT TIME ZONE zone);
BEGIN
    EXECUTE format($q$
        WITH q AS MATERIALIZED (
            SELECT date_trunc('day', q.start AT TIME ZONE $2) AS day,
                nullif(q.service, '') AS service,
                sum(q.requests) AS requests,
                sum(q.refused) AS refused, sum(q.errors) AS errors,
                sum(q.tokens_input + q.tokens_output) AS tokens,
                sum(q.cost) AS cost, sum(q.duration_us) AS duration
            FROM usage_quarter q
            WHERE %s AND q.start >= day_start(least($3, $4), $2)
            GROUP BY 1, 2)
        SELECT
            (SELECT row_to_json(usage_sums(sum(requests), sum(refused),
                    sum(errors), sum(tokens), sum(cost)))
                FROM q WHERE day = $5),
            (SELECT row_to_json(x) FROM (SELECT
                    time_text($6) AS start, time_text($7) AS "end", s.*
                FROM (SELECT sum(requests) AS a, sum(refused) AS b,
                        sum(errors) AS c, sum(tokens) AS d, sum(cost) AS e
                      FROM q WHERE day >= $4) AS t,
                    LATERAL usage_sums(a, b, c, d, e) AS s) AS x),
            (SELECT array_to_json(array_agg(row_to_json(x) ORDER BY x.date))
                FROM (SELECT t.day::date AS date, s.*,
                          round(t.f / 1000)::bigint AS duration_ms
                      FROM (SELECT day, sum(requests) AS a, sum(refused) AS b,
                              sum(errors) AS c, sum(tokens) AS d,
                              sum(cost) AS e, sum(duration) AS f
                            FROM q WHERE day >= $3 GROUP BY day) AS t,
                          LATERAL usage_sums(a, b, c, d, e) AS s) AS x),
            (SELECT array_to_json(array_agg(row_to_json(x)
                    ORDER BY x.requests DESC, x.service))
                FROM (SELECT t.service, s.*,
                          round(t.f / 1000)::bigint AS duration_ms
                      FROM (SELECT service, sum(requests) AS a,
                              sum(refused) AS b, sum(errors) AS c,
                              sum(tokens) AS d, sum(cost) AS e,
                              sum(duration) AS f
                            FROM q WHERE day >= $4 GROUP BY service) AS t,
                          LATERAL usage_sums(a, b, c, d, e) AS s) AS x)
        $q$,
        CASE WHEN key_id IS NULL THEN 'q.owner = $1'
            ELSE 'q.key_id = $1::uuid' END)
    INTO today, period, daily, services
    USING coalesce(key_id::text, owner), zone, day - (days - 1)
        * interval '1 day', first, day, now_.start, now_."end";
END
$$;

COMMENT ON FUNCTION usage_parts(uuid, text, text, int, int) IS
    'Today, this period, the last days and this period''s services of a key,'
    ' or of an owner where key_id is null';


CREATE OR REPLACE FUNCTION usage_sums(INOUT requests numeric,
    INOUT refused numeric, INOUT errors numeric, INOUT tokens numeric,
    cost_nano numeric, OUT cost text)
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT coalesce(requests, 0), coalesce(refused, 0), coalesce(errors, 0),
        coalesce(tokens, 0), money_text(coalesce(cost_nano, 0));
END;

COMMENT ON FUNCTION usage_sums(numeric, numeric, numeric, numeric, numeric) IS
    'The sums that every part of a usage page shows';


DROP FUNCTION IF EXISTS usage_json(key, owner, int);

CREATE OR REPLACE FUNCTION usage_json(k key, o owner, days int, live jsonb)
RETURNS json
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    zone   text := coalesce(o.time_zone, 'UTC');
    as_of  timestamptz := usage_as_of();
    total  record;
    parts  record;
BEGIN
    SELECT sum(u.requests) AS requests, sum(u.refused) AS refused,
        sum(u.errors) AS errors, sum(u.tokens) AS tokens, sum(u.cost) AS cost,
        max(u.last_used_at) AS last_used_at
    INTO total
    FROM key_usage u
    WHERE u.key_id = k.id
        OR u.key_id = ANY (ARRAY(SELECT x.id FROM key x
            WHERE k.id IS NULL AND x.owner_id = o.id));

    parts := usage_parts(k.id, o.external, zone, coalesce(o.anchor_day, 1),
        days);

    RETURN (SELECT row_to_json(x) FROM (SELECT k.id AS key,
            o.external AS owner, currency() AS currency, zone AS time_zone,
            time_text(as_of) AS as_of,
            time_text(total.last_used_at) AS last_used_at,
            row_to_json(usage_sums(total.requests, total.refused,
                total.errors, total.tokens, total.cost)) AS all_time,
            parts.today, parts.period, usage_limits(k.id, o.id, live) AS limits,
            (SELECT row_to_json(y) FROM (SELECT p.external AS id, p.name,
                    money_text(p.monthly_price) AS monthly_price,
                    p.upgrade_url
                FROM plan p
                WHERE p.external = coalesce(k.plan, o.plan)) AS y) AS plan,
            coalesce(parts.daily, '[]') AS daily,
            coalesce(parts.services, '[]') AS services) AS x);
END
$$;

COMMENT ON FUNCTION usage_json(key, owner, int, jsonb) IS
    'Usage at a glance of a key, or of an owner where the key is null; live as'
    ' in limits_now()';


-- An operator names a key or an owner, an owner may name a key of its own, a
-- key is itself.

CREATE OR REPLACE FUNCTION check_subject(req jsonb)
RETURNS jsonb
LANGUAGE sql STABLE
RETURN CASE
    WHEN caller() = 'key' AND query_value(req, 'owner') IS NOT NULL
        THEN wrong('query:owner', 'forbidden', 'only an operator names one')
    WHEN caller() = 'key'
        OR caller() = 'owner' AND num_nulls(query_value(req, 'key'),
            query_value(req, 'owner')) = 2
        OR num_nonnulls(query_value(req, 'key'), query_value(req, 'owner')) = 1
        THEN jsonb '[]'
    WHEN query_value(req, 'key') IS NULL
        THEN wrong('query:key', 'required', 'name a key or an owner')
    ELSE wrong('query:owner', 'bad_value', 'name a key or an owner, not both')
    END;

COMMENT ON FUNCTION check_subject(jsonb) IS 'Whose usage is asked for';


-- api-keys/{id}/usage is of that key; both are checked here, also for the node
-- that first asks whose limits it is to look at.

CREATE OR REPLACE FUNCTION glance_subject(req jsonb, OUT k key, OUT o owner)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner', 'key');

    IF req #>> '{path,id}' IS NOT NULL THEN
        k := find_key(req);
        PERFORM fail_if(check_request(req, 'days') || check_days(req));

    ELSE
        PERFORM fail_if(check_request(req, 'key', 'owner', 'days')
            || check_days(req) || check_subject(req));
    END IF;

    IF query_value(req, 'owner') IS NOT NULL THEN
        o := find_owner(jsonb_build_object('path',
            jsonb_build_object('id', query_value(req, 'owner'))));
        RETURN;

    ELSIF caller() = 'owner' AND k.id IS NULL
        AND query_value(req, 'key') IS NULL
    THEN
        SELECT * INTO o FROM owner WHERE id = caller_owner();

        IF NOT FOUND THEN
            PERFORM fail(404, 'not_found', 'There is no such owner.');
        END IF;

        RETURN;
    END IF;

    IF k.id IS NULL THEN
        k := find_key(jsonb_build_object('path', jsonb_build_object('id',
            coalesce(query_value(req, 'key'), caller_key()::text))));
    END IF;

    SELECT * INTO o FROM owner WHERE id = k.owner_id;
END
$$;

COMMENT ON FUNCTION glance_subject(jsonb) IS
    'The key of a usage page with its owner, or an owner';


CREATE OR REPLACE FUNCTION api_key_usage(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    s record := glance_subject(req);
BEGIN
    status := 200;
    body := usage_json(s.k, s.o,
        coalesce(query_value(req, 'days'), '30')::int, req -> 'live');
END
$$;

COMMENT ON FUNCTION api_key_usage(jsonb, jsonb) IS 'GET api-keys/{id}/usage';


CREATE OR REPLACE FUNCTION api_usage_summary(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    SELECT x.status, x.headers, x.body, x.refresh
    INTO status, headers, body, refresh
    FROM api_key_usage(who, req) AS x;
END
$$;

COMMENT ON FUNCTION api_usage_summary(jsonb, jsonb) IS 'GET usage/summary';

GRANT EXECUTE ON FUNCTION api_whoami(jsonb, jsonb), check_days(jsonb),
    usage_parts(uuid, text, text, int, int),
    usage_sums(numeric, numeric, numeric, numeric, numeric),
    usage_json(key, owner, int, jsonb), glance_subject(jsonb),
    api_key_usage(jsonb, jsonb), check_subject(jsonb), api_usage_summary(jsonb, jsonb) TO apikey_gateway;
