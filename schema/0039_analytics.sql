--
-- GET analytics and, for older clients, POST keys/usageAnalytics: how much
-- keys were used since they exist.  Revoked keys count nowhere; their use
-- stays in the total when all is asked for.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


-- Row-level security says whose keys; "holder" and "wanted" are for indexes.

CREATE OR REPLACE FUNCTION analytics_sums(holder uuid, wanted uuid,
    revoked boolean, OUT total bigint, OUT active bigint, OUT used numeric,
    OUT used_all numeric, OUT highest bigint, OUT lowest bigint)
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    EXECUTE format($q$
        SELECT count(*) FILTER (WHERE k.revoked_at IS NULL),
            count(*) FILTER (WHERE k.revoked_at IS NULL AND k.enabled
                AND coalesce(k.expires_at, 'infinity') > now()),
            coalesce(sum(u.requests) FILTER (WHERE k.revoked_at IS NULL), 0),
            coalesce(sum(u.requests), 0),
            max(coalesce(u.requests, 0)) FILTER (WHERE k.revoked_at IS NULL),
            min(coalesce(u.requests, 0)) FILTER (WHERE k.revoked_at IS NULL)
        FROM key k LEFT JOIN key_usage u ON u.key_id = k.id
        WHERE %s
        $q$, analytics_where(holder, wanted, revoked))
    INTO total, active, used, used_all, highest, lowest
    USING holder, wanted;
END
$$;

COMMENT ON FUNCTION analytics_sums(uuid, uuid, boolean) IS
    'How many keys, how much all of them were used, how much one at most and'
    ' at least; used_all: with that of revoked keys, where those are wanted';


CREATE OR REPLACE FUNCTION analytics_where(holder uuid, wanted uuid,
    revoked boolean)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN concat_ws(' AND ', 'true',
    CASE WHEN holder IS NOT NULL THEN 'k.owner_id = $1' END,
    CASE WHEN wanted IS NOT NULL THEN 'k.id = $2' END,
    CASE WHEN NOT revoked THEN 'k.revoked_at IS NULL' END);

COMMENT ON FUNCTION analytics_where(uuid, uuid, boolean) IS
    'SQL condition for keys k of the owner $1, or the key $2';


-- A key that was never used has no row of use before it is first listed.

CREATE OR REPLACE FUNCTION analytics_key(holder uuid, wanted uuid,
    requests bigint)
RETURNS uuid
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    id uuid;
BEGIN
    IF requests IS NULL THEN
        RETURN NULL;
    END IF;

    EXECUTE format($q$
        SELECT k.id FROM key k LEFT JOIN key_usage u ON u.key_id = k.id
        WHERE %s AND coalesce(u.requests, 0) = $3
        ORDER BY k.created_at, k.id LIMIT 1
        $q$, analytics_where(holder, wanted, false))
    INTO id
    USING holder, wanted, requests;

    RETURN id;
END
$$;

COMMENT ON FUNCTION analytics_key(uuid, uuid, bigint) IS
    'The oldest of the keys that were used so much';


CREATE OR REPLACE FUNCTION analytics_json(which uuid)
RETURNS json
LANGUAGE sql STABLE
RETURN (SELECT row_to_json(x)
    FROM key k LEFT JOIN key_usage u ON u.key_id = k.id,
        LATERAL (SELECT k.id, k.name, coalesce(u.requests, 0) AS usage_count,
            time_text(u.last_used_at) AS last_used_at) AS x
    WHERE k.id = which);

COMMENT ON FUNCTION analytics_json(uuid) IS
    'The key that is most or least used';


CREATE OR REPLACE FUNCTION analytics_page(ids uuid[])
RETURNS json
LANGUAGE sql STABLE
RETURN (SELECT coalesce(array_to_json(array_agg(row_to_json(x)
        ORDER BY i.n)), '[]')
    FROM unnest(ids) WITH ORDINALITY AS i (id, n)
        JOIN key k ON k.id = i.id
        LEFT JOIN key_usage u ON u.key_id = k.id,
        LATERAL (SELECT k.id, k.name, coalesce(u.requests, 0) AS usage_count,
            time_text(u.last_used_at) AS last_used_at,
            key_status(k) AS status, k.enabled,
            time_text(k.created_at) AS created_at) AS x);

COMMENT ON FUNCTION analytics_page(uuid[]) IS 'Keys with their use, in order';


CREATE OR REPLACE FUNCTION check_analytics_query(req jsonb)
RETURNS jsonb
LANGUAGE sql STABLE
RETURN check_request(req, 'key', 'owner', 'status', 'sort', 'limit', 'cursor')
    || CASE WHEN coalesce(query_value(req, 'status'), 'all') = 'all'
        THEN jsonb '[]'
        ELSE wrong('query:status', 'bad_value', 'all: with what revoked keys'
            ' used') END
    || check_key_sort(req) || check_limit_query(req) || check_cursor(req);

COMMENT ON FUNCTION check_analytics_query(jsonb) IS 'Query of GET analytics';


CREATE OR REPLACE FUNCTION api_analytics(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    every   boolean := query_value(req, 'status') = 'all';
    size    int;
    holder  uuid;
    wanted  uuid;
    after   jsonb;
    s       record;
    ids     uuid[];
    sorts   text[];
    more    boolean;
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner');
    PERFORM fail_if(check_analytics_query(req));

    size := coalesce(query_value(req, 'limit'), '50')::int;
    holder := (usage_subject(jsonb_set(req, '{query}',
        (req -> 'query') - 'key'))).id;

    IF query_value(req, 'key') IS NOT NULL THEN
        wanted := (find_key(jsonb_build_object('path', jsonb_build_object(
            'id', query_value(req, 'key'))))).id;
    END IF;

    -- somebody logged in who has no record yet has no keys

    IF caller() = 'owner' AND holder IS NULL THEN
        wanted := '00000000-0000-0000-0000-000000000000';
    END IF;

    s := analytics_sums(holder, wanted, coalesce(every, false));

    IF query_value(req, 'cursor') IS NOT NULL THEN
        after := read_cursor(req);
    END IF;

    IF wanted IS NULL THEN
        SELECT * INTO ids, sorts FROM key_page(holder, NULL, NULL, NULL,
            coalesce(query_value(req, 'sort'), '-usage_count'),
            after ->> 'k', (after ->> 'i')::uuid, size + 1);
    ELSE
        ids := ARRAY(SELECT k.id FROM key k
                     WHERE k.id = wanted AND k.revoked_at IS NULL
                         AND k.owner_id IS NOT DISTINCT FROM
                             coalesce(holder, k.owner_id));
    END IF;

    more := coalesce(cardinality(ids) > size, false);

    status := 200;
    body := (SELECT row_to_json(x) FROM (SELECT s.total AS total_keys,
            s.active AS active_keys, s.total - s.active AS inactive_keys,
            s.used_all AS total_usage,
            analytics_average(s.used, s.total) AS average_usage_per_key,
            time_text(usage_as_of()) AS as_of,
            analytics_json(analytics_key(holder, wanted, s.highest))
                AS most_used_key,
            analytics_json(analytics_key(holder, wanted, s.lowest))
                AS least_used_key,
            analytics_page(ids[:size]) AS data, more AS has_more,
            CASE WHEN more THEN write_cursor(req, sorts[size], ids[size]) END
                AS next_cursor) AS x);
END
$$;

COMMENT ON FUNCTION api_analytics(jsonb, jsonb) IS 'GET analytics';


CREATE OR REPLACE FUNCTION analytics_average(used numeric, keys bigint)
RETURNS numeric
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN keys = 0 THEN 0 ELSE round(used / keys, 1) END;

COMMENT ON FUNCTION analytics_average(numeric, bigint) IS
    'Use of a key on average, with one decimal';


-- POST keys/usageAnalytics: the same for older clients.

CREATE OR REPLACE FUNCTION compat_use(which uuid)
RETURNS json
LANGUAGE sql STABLE
RETURN (SELECT row_to_json(x)
    FROM key k LEFT JOIN key_usage u ON u.key_id = k.id,
        LATERAL (SELECT k.id, k.name, coalesce(u.requests, 0) AS "usageCount",
            compat_time(coalesce(u.last_used_at, k.created_at))
                AS "lastUsedAt") AS x
    WHERE k.id = which);

COMMENT ON FUNCTION compat_use(uuid) IS
    'The key that is most or least used, in the older shape';


CREATE OR REPLACE FUNCTION compat_details(wanted uuid)
RETURNS json
LANGUAGE sql STABLE
RETURN (SELECT coalesce(array_to_json(array_agg(row_to_json(x)
        ORDER BY k.created_at DESC, k.id DESC)), '[]')
    FROM key k LEFT JOIN key_usage u ON u.key_id = k.id,
        LATERAL (SELECT k.id, k.name, coalesce(u.requests, 0) AS "usageCount",
            compat_time(coalesce(u.last_used_at, k.created_at))
                AS "lastUsedAt",
            k.enabled AND coalesce(k.expires_at > now(), true) AS "isActive",
            compat_time(k.created_at) AS "createdAt") AS x
    WHERE k.revoked_at IS NULL AND k.id = coalesce(wanted, k.id));

COMMENT ON FUNCTION compat_details(uuid) IS
    'The caller''s keys, or the only one asked for, with their use';


CREATE OR REPLACE FUNCTION api_keys_analytics(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    wanted  uuid := compat_wanted(req);
    holder  uuid := CASE WHEN caller() = 'owner' THEN caller_owner() END;
    s       record;
BEGIN
    wanted := coalesce(wanted, CASE caller() WHEN 'key' THEN caller_key() END,
        CASE WHEN caller() = 'owner' AND holder IS NULL
            THEN uuid '00000000-0000-0000-0000-000000000000' END);
    s := analytics_sums(holder, wanted, false);

    status := 200;
    body := (SELECT row_to_json(x) FROM (SELECT true AS success, (
        SELECT row_to_json(y) FROM (SELECT s.total AS "totalApiKeys",
            s.used AS "totalUsage", s.active AS "activeApiKeys",
            s.total - s.active AS "inactiveApiKeys",
            compat_use(analytics_key(holder, wanted, s.highest))
                AS "mostUsedApiKey",
            compat_use(analytics_key(holder, wanted, s.lowest))
                AS "leastUsedApiKey",
            analytics_average(s.used, s.total) AS "averageUsagePerKey",
            compat_details(wanted) AS "apiKeyDetails") AS y) AS data) AS x);
END
$$;

COMMENT ON FUNCTION api_keys_analytics(jsonb, jsonb) IS
    'POST keys/usageAnalytics';

GRANT EXECUTE ON FUNCTION analytics_sums(uuid, uuid, boolean),
    analytics_where(uuid, uuid, boolean), analytics_key(uuid, uuid, bigint),
    analytics_json(uuid), analytics_page(uuid[]),
    check_analytics_query(jsonb), api_analytics(jsonb, jsonb),
    analytics_average(numeric, bigint), compat_use(uuid),
    compat_details(uuid), api_keys_analytics(jsonb, jsonb) TO apikey_gateway;
