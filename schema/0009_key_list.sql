--
-- The admin API's list of keys: filters, order, and pages by (sort value, id),
-- so that a page stays stable while keys come and go.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION key_order(sort text, OUT expr text, OUT kind text)
LANGUAGE sql IMMUTABLE
SET search_path = apikey, pg_temp
BEGIN ATOMIC
    SELECT c.expr, c.kind FROM (VALUES
        ('created_at', 'k.created_at', 'timestamptz'),
        ('name', 'k.name', 'text'),
        ('last_used_at', 'coalesce(u.last_used_at, ''-infinity'')',
            'timestamptz'),
        ('usage_count', 'coalesce(u.requests, 0)', 'bigint'),
        ('expires_at', 'coalesce(k.expires_at, ''infinity'')', 'timestamptz'))
        AS c (name, expr, kind)
    WHERE c.name = ltrim(sort, '-') AND sort !~ '^--';
END;

COMMENT ON FUNCTION key_order(text) IS
    'SQL of what a list of keys is sorted by, and its type; null: unknown';


CREATE OR REPLACE FUNCTION check_key_query(req jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = apikey, pg_temp
RETURN check_request(req, 'owner', 'status', 'q', 'sort', 'limit', 'cursor')
    || check_limit_query(req)
    || CASE WHEN coalesce(query_value(req, 'status'), 'all') IN
            ('active', 'disabled', 'expired', 'revoked', 'all')
        THEN jsonb '[]'
        ELSE wrong('query:status', 'bad_value',
            'active, disabled, expired, revoked or all') END
    || CASE WHEN (key_order(coalesce(query_value(req, 'sort'), 'name'))).expr
            IS NOT NULL
        THEN jsonb '[]'
        ELSE wrong('query:sort', 'bad_value', 'created_at, name, last_used_at,'
            ' usage_count or expires_at, "-" before it for descending') END
    || check_cursor(req);

COMMENT ON FUNCTION check_key_query(jsonb) IS 'Query of GET api-keys';


CREATE OR REPLACE FUNCTION api_key_list(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    sort    text := coalesce(query_value(req, 'sort'), '-created_at');
    size    int;
    after   jsonb;
    ids     uuid[];
    sorts   text[];
    ord     record;
    more    boolean;
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner');
    PERFORM fail_if(check_key_query(req));

    size := coalesce(query_value(req, 'limit'), '50')::int;
    ord := key_order(sort);

    IF query_value(req, 'cursor') IS NOT NULL THEN
        after := read_cursor(req);
    END IF;

    EXECUTE format($q$
        SELECT array_agg(id), array_agg(sort_value) FROM (
            SELECT k.id, (%1$s)::text AS sort_value
            FROM key k
                LEFT JOIN owner o ON o.id = k.owner_id
                LEFT JOIN key_usage u ON u.key_id = k.id
            WHERE %3$s AND %4$s AND %5$s AND %6$s
            ORDER BY %1$s %2$s, k.id %2$s
            LIMIT $4 + 1) AS page
        $q$,
        ord.expr,
        CASE WHEN sort ^@ '-' THEN 'DESC' ELSE 'ASC' END,
        key_where(query_value(req, 'status')),
        CASE WHEN query_value(req, 'owner') IS NULL THEN 'true'
            ELSE 'o.external = $1' END,
        key_search(query_value(req, 'q')),
        CASE WHEN after IS NULL THEN 'true'
            ELSE format('(%s, k.id) %s ($3::%s, $5)', ord.expr,
                CASE WHEN sort ^@ '-' THEN '<' ELSE '>' END, ord.kind) END)
    INTO ids, sorts
    USING query_value(req, 'owner'), lower(query_value(req, 'q')),
        after ->> 'k', size, (after ->> 'i')::uuid;

    more := cardinality(ids) > size;

    status := 200;
    headers := '';
    body := (SELECT row_to_json(x) FROM (SELECT
            coalesce((SELECT array_to_json(array_agg(key_json(k)
                    ORDER BY i.n))
                FROM unnest(ids[:size]) WITH ORDINALITY AS i (id, n)
                    JOIN key k ON k.id = i.id), '[]') AS data,
            coalesce(more, false) AS has_more,
            CASE WHEN more THEN write_cursor(req, sorts[size], ids[size]) END
                AS next_cursor) AS x);
END
$$;

COMMENT ON FUNCTION api_key_list(jsonb, jsonb) IS 'GET api-keys';


CREATE OR REPLACE FUNCTION key_where(status text)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = apikey, pg_temp
RETURN CASE coalesce(status, '')
    WHEN '' THEN 'k.revoked_at IS NULL'
    WHEN 'all' THEN 'true'
    WHEN 'revoked' THEN 'k.revoked_at IS NOT NULL'
    WHEN 'disabled' THEN 'k.revoked_at IS NULL AND NOT k.enabled'
    WHEN 'expired' THEN 'k.revoked_at IS NULL AND k.enabled'
        ' AND k.expires_at <= now()'
    WHEN 'active' THEN 'k.revoked_at IS NULL AND k.enabled'
        ' AND coalesce(k.expires_at > now(), true)'
    ELSE 'false' END;

COMMENT ON FUNCTION key_where(text) IS
    'SQL condition for keys of this status; without one all but the revoked';


CREATE OR REPLACE FUNCTION key_search(q text)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = apikey, pg_temp
RETURN CASE WHEN q IS NULL THEN 'true' ELSE $$(
    strpos(lower(k.name), $2) > 0
    OR strpos(lower(k.customer), $2) > 0
    OR strpos(lower(o.external), $2) > 0
    OR k.id IN (SELECT s.key_id FROM secret s
                WHERE strpos(lower(s.start || '...' || s.last4), $2) > 0))
    $$ END;

COMMENT ON FUNCTION key_search(text) IS
    'SQL condition for keys that hold $2 (lower case) in what people see';

GRANT EXECUTE ON FUNCTION key_order(text), check_key_query(jsonb),
    key_where(text), key_search(text), api_key_list(jsonb, jsonb)
    TO apikey_gateway;
