--
-- The admin API's list of keys: filters, order, and pages by (sort value, id),
-- so that a page stays stable while keys come and go.  Which keys are on a
-- page is key_page()'s part, in 0032_search.sql.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


DROP FUNCTION IF EXISTS check_key_query(jsonb);
DROP FUNCTION IF EXISTS key_order(text);
DROP FUNCTION IF EXISTS key_search(text);


CREATE OR REPLACE FUNCTION check_key_sort(req jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN coalesce(query_value(req, 'sort'), 'name') ~
        '^-?(created_at|name|last_used_at|usage_count|expires_at)$'
    THEN jsonb '[]'
    ELSE wrong('query:sort', 'bad_value', 'created_at, name, last_used_at,'
        ' usage_count or expires_at, "-" before it for descending') END;

COMMENT ON FUNCTION check_key_sort(jsonb) IS 'The order of a list of keys';


CREATE OR REPLACE FUNCTION check_key_query(req jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN check_request(req, 'owner', 'customer', 'status', 'q', 'sort', 'limit',
        'cursor')
    || check_limit_query(req)
    || CASE WHEN coalesce(query_value(req, 'status'), 'all') IN
            ('active', 'disabled', 'expired', 'revoked', 'all')
        THEN jsonb '[]'
        ELSE wrong('query:status', 'bad_value',
            'active, disabled, expired, revoked or all') END
    || check_key_sort(req) || check_cursor(req);

COMMENT ON FUNCTION check_key_query(jsonb) IS 'Query of GET api-keys';


CREATE OR REPLACE FUNCTION api_key_list(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    named  text := query_value(req, 'owner');
    holder uuid := CASE WHEN caller() = 'owner' THEN caller_owner() END;
    size   int;
    after  jsonb;
    ids    uuid[];
    sorts  text[];
    more   boolean;
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner');
    PERFORM fail_if(check_key_query(req));

    size := coalesce(query_value(req, 'limit'), '50')::int;

    IF query_value(req, 'cursor') IS NOT NULL THEN
        after := read_cursor(req);
    END IF;

    IF named IS NOT NULL THEN
        SELECT o.id INTO holder FROM owner o
        WHERE o.external = named AND o.id = coalesce(holder, o.id);
    END IF;

    -- none where an owner is named that is not there, or the caller is none

    IF holder IS NOT NULL OR named IS NULL AND caller() <> 'owner' THEN
        SELECT * INTO ids, sorts FROM key_page(holder,
            query_value(req, 'customer'), query_value(req, 'status'),
            lower(query_value(req, 'q')),
            coalesce(query_value(req, 'sort'), '-created_at'),
            after ->> 'k', (after ->> 'i')::uuid, size + 1);
    END IF;

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
RETURN CASE coalesce(status, '')
    WHEN '' THEN 'k.revoked_at IS NULL'
    WHEN 'all' THEN 'true'
    WHEN 'revoked' THEN 'k.revoked_at IS NOT NULL'
    WHEN 'disabled' THEN 'k.revoked_at IS NULL AND NOT k.enabled'
    WHEN 'expired' THEN 'k.revoked_at IS NULL AND k.enabled'
        ' AND coalesce(k.expires_at, ''infinity'') <= now()'
    WHEN 'active' THEN 'k.revoked_at IS NULL AND k.enabled'
        ' AND coalesce(k.expires_at, ''infinity'') > now()'
    ELSE 'false' END;

COMMENT ON FUNCTION key_where(text) IS
    'SQL condition for keys of this status; without one all but the revoked';

GRANT EXECUTE ON FUNCTION check_key_sort(jsonb), check_key_query(jsonb),
    key_where(text), api_key_list(jsonb, jsonb) TO apikey_gateway;
