--
-- The audit as it is read: GET audit, the view audit_log, and its end.
-- Entries are written by write_audit() in 0004_objects.sql, in the transaction
-- of the change.
--

SET LOCAL client_min_messages = warning;
SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE INDEX IF NOT EXISTS audit_actor ON audit (actor, at, id);
CREATE INDEX IF NOT EXISTS audit_of ON audit (object_id, at, id);


CREATE OR REPLACE FUNCTION check_time_query(req jsonb, name text)
RETURNS jsonb
LANGUAGE sql STABLE
RETURN CASE
    WHEN query_value(req, name) IS NULL
        OR read_time(query_value(req, name)) IS NOT NULL THEN jsonb '[]'
    ELSE wrong('query:' || name, 'bad_value',
        'write a time such as 2026-11-21T10:00:00Z, or a date') END;

COMMENT ON FUNCTION check_time_query(jsonb, text) IS
    'A parameter that is a time';


CREATE OR REPLACE FUNCTION check_audit_query(req jsonb)
RETURNS jsonb
LANGUAGE sql STABLE
RETURN check_request(req, 'actor', 'action', 'object', 'key', 'owner', 'from',
        'to', 'sort', 'limit', 'cursor')
    || check_time_query(req, 'from') || check_time_query(req, 'to')
    || CASE WHEN coalesce(query_value(req, 'sort'), 'time') IN
            ('time', '-time')
        THEN jsonb '[]'
        ELSE wrong('query:sort', 'bad_value', 'time or -time') END
    || check_limit_query(req) || check_cursor(req);

COMMENT ON FUNCTION check_audit_query(jsonb) IS 'Query of GET audit';


-- What the API calls the object stands in the entry itself: the names of
-- owners and plans that are gone are found there, too.

CREATE OR REPLACE FUNCTION audit_json(a audit)
RETURNS json
LANGUAGE sql STABLE
RETURN (SELECT row_to_json(x) FROM (SELECT (a).id, time_text((a).at) AS time,
        (a).actor, (a).actor_kind, (a).address, (a).action,
        (a).object_kind AS object,
        coalesce((a).after ->> 'id', (a).before ->> 'id',
            (a).object_id::text) AS object_id,
        CASE (a).object_kind WHEN 'key' THEN (a).object_id END AS key,
        coalesce((a).after, (a).before) ->> CASE (a).object_kind
            WHEN 'owner' THEN 'id' WHEN 'key' THEN 'owner'
            WHEN 'alert' THEN 'owner' WHEN 'webhook' THEN 'owner'
            WHEN 'schedule' THEN 'owner' END AS owner,
        (a).before, (a).after, (a).request_id) AS x);

COMMENT ON FUNCTION audit_json(audit) IS 'An entry of the audit';


CREATE OR REPLACE FUNCTION api_audit_list(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    falling  boolean := coalesce(query_value(req, 'sort'), '-time') = '-time';
    size     int;
    after    jsonb;
    page     audit[];
    more     boolean;
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner');
    PERFORM fail_if(check_audit_query(req));
    PERFORM fail_if(check_range(req, read_time(query_value(req, 'from')),
        read_time(query_value(req, 'to'))));

    size := coalesce(query_value(req, 'limit'), '50')::int;

    IF query_value(req, 'cursor') IS NOT NULL THEN
        after := read_cursor(req);
    END IF;

    EXECUTE format($q$
        SELECT array_agg(x.a) FROM (
            SELECT a FROM audit a WHERE %s
            ORDER BY a.at %2$s, a.id %2$s LIMIT $9) AS x
        $q$,
        concat_ws(' AND ', 'true',
            CASE WHEN query_value(req, 'actor') IS NOT NULL
                THEN 'a.actor = $1' END,
            CASE WHEN query_value(req, 'action') IS NOT NULL
                THEN 'a.action = $2' END,
            CASE WHEN query_value(req, 'object') IS NOT NULL
                THEN 'a.object_kind = $3' END,
            CASE WHEN query_value(req, 'key') IS NOT NULL
                THEN 'a.object_id = $4 AND a.object_kind = ''key''' END,
            CASE WHEN query_value(req, 'owner') IS NOT NULL
                THEN 'a.owner_id = (SELECT o.id FROM owner o'
                    ' WHERE o.external = $5)' END,
            CASE WHEN query_value(req, 'from') IS NOT NULL
                THEN 'a.at >= $6' END,
            CASE WHEN query_value(req, 'to') IS NOT NULL
                THEN 'a.at < $7' END,
            CASE WHEN after IS NOT NULL THEN format('(a.at, a.id) %s'
                ' (($8 ->> ''k'')::timestamptz, ($8 ->> ''i'')::uuid)',
                CASE WHEN falling THEN '<' ELSE '>' END) END),
        CASE WHEN falling THEN 'DESC' ELSE 'ASC' END)
    INTO page
    USING query_value(req, 'actor'), query_value(req, 'action'),
        query_value(req, 'object'), read_uuid(query_value(req, 'key')),
        query_value(req, 'owner'), read_time(query_value(req, 'from')),
        read_time(query_value(req, 'to')), after, size + 1;

    more := coalesce(cardinality(page) > size, false);

    status := 200;
    body := (SELECT row_to_json(x) FROM (SELECT
            coalesce((SELECT array_to_json(array_agg(audit_json(page[n])
                    ORDER BY n))
                FROM generate_subscripts(page[:size], 1) AS n), '[]') AS data,
            more AS has_more,
            CASE WHEN more THEN write_cursor(req, page[size].at::text,
                page[size].id) END AS next_cursor) AS x);
END
$$;

COMMENT ON FUNCTION api_audit_list(jsonb, jsonb) IS 'GET audit';


CREATE OR REPLACE VIEW audit_log AS
SELECT a.id, a.at AS "time", a.actor, a.actor_kind, a.address, a.action,
    a.object_kind AS object,
    coalesce(a.after ->> 'id', a.before ->> 'id', a.object_id::text)
        AS object_id,
    CASE a.object_kind WHEN 'key' THEN a.object_id END AS key,
    coalesce(a.after, a.before) ->> CASE a.object_kind WHEN 'owner' THEN 'id'
        WHEN 'key' THEN 'owner' WHEN 'alert' THEN 'owner'
        WHEN 'webhook' THEN 'owner' WHEN 'schedule' THEN 'owner' END AS owner,
    a.before, a.after, a.request_id
FROM audit a;

COMMENT ON VIEW audit_log IS 'Who changed what: the audit of the admin API';
COMMENT ON COLUMN audit_log.actor IS 'Who did it; actor_kind says what that is';
COMMENT ON COLUMN audit_log.action IS 'What was done, as GET audit says it';
COMMENT ON COLUMN audit_log.before IS 'The object; null: it was made';
COMMENT ON COLUMN audit_log.after IS 'The object; null: it was deleted';
COMMENT ON COLUMN audit_log.object_id IS 'As the admin API names the object';
COMMENT ON COLUMN audit_log.owner IS 'The user''s own id of whose it is';

GRANT SELECT ON audit_log TO apikey_reader;


-- The gateway may delete no entry.  This runs as the owner and deletes only
-- what the setting has given up, which the gateway cannot set.

CREATE OR REPLACE FUNCTION audit_drop()
RETURNS int
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = apikey, pg_temp
AS $$
DECLARE
    days  int := (SELECT s.value FROM setting s WHERE s.name = 'audit_days');
    n     int;
BEGIN
    IF coalesce(days, 0) = 0 THEN
        RETURN 0;
    END IF;

    DELETE FROM audit a
    WHERE a.id IN (SELECT o.id FROM audit o
                   WHERE o.at < now() - days * interval '1 day'
                   ORDER BY o.at LIMIT 10000
                   FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS n = ROW_COUNT;

    RETURN n;
END
$$;

COMMENT ON FUNCTION audit_drop() IS
    'Deletes entries older than audit_days, some at a time; a part of every'
    ' heartbeat';

GRANT EXECUTE ON FUNCTION check_time_query(jsonb, text),
    check_audit_query(jsonb), audit_json(audit),
    api_audit_list(jsonb, jsonb), audit_drop() TO apikey_gateway;
