--
-- GET requests and requests/{request_id}: why was this refused, what did that
-- cost.  Out of the raw events, as long as they are kept: every admitted
-- request, and of refusals those of which a node kept the details.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION check_requests_query(req jsonb)
RETURNS jsonb
LANGUAGE sql STABLE
RETURN check_request(req, VARIADIC '{from,to,tz,sort,limit,cursor,session,'
        'method,service,endpoint,model,key,owner,customer,outcome,'
        'status_code,verdict,limit_name,node}'::text[])
    || check_time_query(req, 'from') || check_time_query(req, 'to')
    || check_zone(to_jsonb(query_value(req, 'tz')), 'query:tz')
    || CASE WHEN coalesce(query_value(req, 'sort'), 'time') IN
            ('time', '-time')
        THEN jsonb '[]'
        ELSE wrong('query:sort', 'bad_value', 'time or -time') END
    || check_dimensions(req) || check_limit_query(req) || check_cursor(req);

COMMENT ON FUNCTION check_requests_query(jsonb) IS 'Query of GET requests';


CREATE OR REPLACE FUNCTION request_json(e usage_request)
RETURNS json
LANGUAGE sql STABLE
RETURN (SELECT row_to_json(x) FROM (SELECT (e).event AS request_id,
        time_text((e).time) AS time, (e).node_name AS node, (e).key_id AS key,
        (e).secret_id AS secret, (e).owner, host((e).client) AS client,
        (e).method, (e).service, (e).endpoint, (e).model, (e).session,
        (e).status_code, (e).verdict, (e).limit_name,
        CASE (e).verdict WHEN 'budget_exceeded'
            THEN to_json(money_text((e)."limit"))
            ELSE to_json((e)."limit") END AS "limit",
        CASE (e).verdict WHEN 'budget_exceeded'
            THEN to_json(money_text((e).remaining))
            ELSE to_json((e).remaining) END AS remaining,
        (e).retry_after, (e).mode AS decision_mode,
        CASE (e).outcome WHEN 'refused' THEN 0 ELSE 1 END AS requests,
        (e).tokens_input + (e).tokens_output AS tokens,
        money_text((e).cost) AS cost, currency() AS currency,
        round((e).duration_us / 1000.0)::bigint AS duration_ms,
        (e).usage_source, (e).aborted) AS x);

COMMENT ON FUNCTION request_json(usage_request) IS
    'A request as the admin API shows it';


-- Ids begin with the time: they are in its order, and have an index.  Of one
-- key there is an index by time; an owner's newest are among the newest of
-- each of its keys, and of what was imported with an owner alone.

CREATE OR REPLACE FUNCTION requests_sql(of text, conds text, dir text,
    after boolean)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN (SELECT CASE of
        WHEN 'owner' THEN format('SELECT q.* FROM (SELECT q.* FROM key k'
            ' CROSS JOIN LATERAL (%s) AS q WHERE k.owner_id = $6'
            ' UNION ALL (%s)) AS q ORDER BY %s LIMIT $5',
            format(one, 'q.key_id = k.id AND '), format(one,
            'q.key_id IS NULL AND q.owner IS NOT NULL AND '), sorted)
        ELSE format(one, '') END
    FROM (SELECT CASE of WHEN 'all' THEN 'q.event ' || dir
              ELSE format('q.time %s, q.event %1$s', dir) END AS sorted,
              CASE WHEN after THEN format(CASE of
                  WHEN 'all' THEN ' AND q.event %s $4'
                  ELSE ' AND (q.time, q.event) %s ($3, $4)' END,
                  CASE dir WHEN 'DESC' THEN '<' ELSE '>' END)
              ELSE '' END AS behind) AS x,
        LATERAL (SELECT format('SELECT q.* FROM usage_row q'
            ' LEFT JOIN usage_node n ON n.node = q.node WHERE %%s%s%s'
            ' ORDER BY %s LIMIT $5', replace(conds, '%', '%%'), behind, sorted)
            AS one) AS y);

COMMENT ON FUNCTION requests_sql(text, text, text, boolean) IS
    'SQL of a page: $1 and $2 the range, $3 and $4 what it begins behind, $5'
    ' its size, $6 the owner; of: key, owner, all';


CREATE OR REPLACE FUNCTION requests_where(req jsonb)
RETURNS text
LANGUAGE sql STABLE
RETURN concat_ws(' AND ', nullif(usage_where(req), ''),
    CASE WHEN query_value(req, 'session') IS NOT NULL
        THEN format('q.session = %L', query_value(req, 'session')) END,
    CASE WHEN query_value(req, 'method') IS NOT NULL
        THEN format('q.method = %L', query_value(req, 'method')) END,
    CASE WHEN query_value(req, 'from') IS NOT NULL
        THEN 'q.time >= $1' END,
    CASE WHEN query_value(req, 'to') IS NOT NULL THEN 'q.time < $2' END,
    'true');

COMMENT ON FUNCTION requests_where(jsonb) IS
    'SQL condition of a checked query''s filters';


-- Behind a view that is a security barrier no index gives an order, so this
-- runs as the owner of the table.  It takes a caller from apikey.caller alone
-- and its SQL from values; usage_where() holds an owner to its own.

CREATE OR REPLACE FUNCTION requests_page(req jsonb, "from" timestamptz,
    "to" timestamptz, after_time timestamptz, after_id uuid, size int,
    owner uuid)
RETURNS SETOF usage_request
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = apikey, pg_temp
SET enable_seqscan = off
SET jit = off
SET max_parallel_workers_per_gather = 0
AS $$
BEGIN
    IF NOT coalesce(caller() IN ('operator', 'operator_read', 'owner'), false)
    THEN
        RAISE insufficient_privilege;
    END IF;

    RETURN QUERY EXECUTE requests_sql(
        CASE WHEN query_value(req, 'key') IS NOT NULL THEN 'key'
            WHEN owner IS NOT NULL OR caller() = 'owner' THEN 'owner'
            ELSE 'all' END,
        requests_where(req), CASE coalesce(query_value(req, 'sort'), '-time')
            WHEN 'time' THEN 'ASC' ELSE 'DESC' END, after_id IS NOT NULL)
    USING "from", "to", after_time, after_id, size, owner;
END
$$;

COMMENT ON FUNCTION requests_page(jsonb, timestamptz, timestamptz,
    timestamptz, uuid, int, uuid) IS
    'A page of the raw events that the caller of this transaction may see';


CREATE OR REPLACE FUNCTION api_request_list(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    zone   text;
    size   int;
    after  jsonb;
    o      owner;
    begin_ timestamptz;
    end_   timestamptz;
    page   usage_request[];
    more   boolean;
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner');
    PERFORM fail_if(check_requests_query(req));

    size := coalesce(query_value(req, 'limit'), '50')::int;
    o := usage_subject(req);
    zone := coalesce(query_value(req, 'tz'), o.time_zone, 'UTC');

    begin_ := read_moment(query_value(req, 'from'), zone);
    end_ := read_moment(query_value(req, 'to'), zone);
    PERFORM fail_if(check_range(req, begin_, end_));

    IF query_value(req, 'cursor') IS NOT NULL THEN
        after := read_cursor(req);
    END IF;

    page := ARRAY(SELECT p FROM requests_page(req, begin_, end_,
        (after ->> 'k')::timestamptz, (after ->> 'i')::uuid, size + 1, o.id)
        AS p);

    more := coalesce(cardinality(page) > size, false);

    status := 200;
    body := (SELECT row_to_json(x) FROM (SELECT
            coalesce((SELECT array_to_json(array_agg(request_json(page[n])
                    ORDER BY n))
                FROM generate_subscripts(page[:size], 1) AS n), '[]') AS data,
            more AS has_more,
            CASE WHEN more THEN write_cursor(req, page[size].time::text,
                page[size].event) END AS next_cursor) AS x);
END
$$;

COMMENT ON FUNCTION api_request_list(jsonb, jsonb) IS 'GET requests';


CREATE OR REPLACE FUNCTION api_request_get(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner');
    PERFORM fail_if(check_request(req));

    status := 200;
    body := (SELECT request_json(e) FROM usage_request e
             WHERE e.event = read_uuid(req #>> '{path,id}') LIMIT 1);

    IF body IS NULL THEN
        PERFORM fail(404, 'not_found', 'There is no such request, or its'
            ' record is no longer kept.');
    END IF;
END
$$;

COMMENT ON FUNCTION api_request_get(jsonb, jsonb) IS
    'GET requests/{request_id}';

GRANT EXECUTE ON FUNCTION check_requests_query(jsonb),
    request_json(usage_request), requests_sql(text, text, text, boolean),
    requests_where(jsonb), requests_page(jsonb, timestamptz, timestamptz,
    timestamptz, uuid, int, uuid), api_request_list(jsonb, jsonb),
    api_request_get(jsonb, jsonb) TO apikey_gateway;
