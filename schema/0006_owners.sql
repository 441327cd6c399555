--
-- The admin API's owners.  An owner is named by the user's own id; its rows
-- are never deleted.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION check_owner(body jsonb, metadata jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = apikey, pg_temp
RETURN check_members(body, '', ARRAY['name', 'enabled', 'plan', 'plan_next',
        'limits', 'credits', 'time_zone', 'anchor_day', 'metadata'],
        ARRAY['id', 'created_at', 'updated_at'])
    || check_text(body -> 'name', '/name', 255, NULL)
    || check_boolean(body -> 'enabled', '/enabled')
    || check_absent(body -> 'plan', '/plan', 'null', 'plan')
    || check_absent(body -> 'plan_next', '/plan_next', 'null', 'plan_next')
    || check_limits(body -> 'limits', '/limits')
    || check_absent(body -> 'credits', '/credits', 'null', 'credits')
    || check_absent(body -> 'time_zone', '/time_zone', '"UTC"', 'time_zone')
    || check_absent(body -> 'anchor_day', '/anchor_day', '1', 'anchor_day')
    || check_metadata(body -> 'metadata', '/metadata', metadata);

COMMENT ON FUNCTION check_owner(jsonb, jsonb) IS
    'The body of a change of an owner with this metadata';


CREATE OR REPLACE FUNCTION find_owner(req jsonb)
RETURNS owner
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    o owner;
BEGIN
    SELECT * INTO o FROM owner WHERE external = req #>> '{path,id}';

    IF NOT FOUND THEN
        PERFORM fail(404, 'not_found', 'There is no such owner.');
    END IF;

    RETURN o;
END
$$;

COMMENT ON FUNCTION find_owner(jsonb) IS
    'The owner of the path; 404 also for one that the caller may not see';


CREATE OR REPLACE FUNCTION api_owner_get(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    o owner;
BEGIN
    PERFORM allow('operator', 'operator_read');
    o := find_owner(req);
    PERFORM fail_if(check_request(req));

    status := 200;
    headers := etag_line(o.version);
    body := owner_json(o);
END
$$;

COMMENT ON FUNCTION api_owner_get(jsonb, jsonb) IS 'GET owners/{id}';


-- The row stands and is locked; made: by this call, so that there is no
-- "before" and even an empty body is a change.

CREATE OR REPLACE FUNCTION write_owner(who jsonb, req jsonb, old owner,
    made boolean, OUT status int, OUT headers text, OUT body text,
    OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    b       jsonb := req -> 'body';
    o       owner := old;
    before  json;
BEGIN
    IF NOT made THEN
        before := owner_json(o);
    END IF;

    IF b <> '{}' THEN
        UPDATE owner SET
            name = CASE WHEN b ? 'name' THEN b ->> 'name' ELSE o.name END,
            enabled = coalesce((b -> 'enabled')::boolean, o.enabled),
            metadata = merge_metadata(o.metadata, b -> 'metadata'),
            updated_at = now()
        WHERE id = o.id;

        IF b ? 'limits' THEN
            PERFORM put_limits(NULL, o.id, b -> 'limits');
        END IF;

        SELECT * INTO o FROM owner WHERE id = o.id;
    END IF;

    IF made OR b <> '{}' THEN
        PERFORM write_audit(who, req,
            CASE WHEN made THEN 'create' ELSE 'update' END, 'owner', o.id,
            before, owner_json(o));
        refresh := 'owner ' || o.id || E'\n';
    END IF;

    status := CASE WHEN made THEN 201 ELSE 200 END;
    headers := CASE WHEN made THEN 'Location: ' || (req ->> 'base')
            || 'owners/' || url_text(o.external) || E'\n' ELSE '' END
        || etag_line(o.version);
    body := owner_json(o);
END
$$;

COMMENT ON FUNCTION write_owner(jsonb, jsonb, owner, boolean) IS
    'Writes a checked body into an owner and answers with it';


CREATE OR REPLACE FUNCTION api_owner_update(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    o owner;
BEGIN
    PERFORM allow('operator');
    o := find_owner(req);
    SELECT * INTO o FROM owner WHERE id = o.id FOR UPDATE;
    PERFORM check_match(req, o.version);
    PERFORM check_body(req);
    PERFORM fail_if(check_request(req)
        || check_owner(req -> 'body', o.metadata));

    SELECT * INTO status, headers, body, refresh
    FROM write_owner(who, req, o, false);
END
$$;

COMMENT ON FUNCTION api_owner_update(jsonb, jsonb) IS 'PATCH owners/{id}';


CREATE OR REPLACE FUNCTION api_owner_put(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    o     owner;
    made  boolean := false;
BEGIN
    PERFORM allow('operator');

    SELECT * INTO o FROM owner WHERE external = req #>> '{path,id}'
    FOR UPDATE;

    PERFORM check_body(req);
    PERFORM fail_if(check_text(req #> '{path,id}', '/id', 255, NULL)
        || check_request(req)
        || check_owner(req -> 'body', coalesce(o.metadata, '{}')));

    IF o.id IS NULL AND req ->> 'if_match' IS NULL THEN
        INSERT INTO owner (external) VALUES (req #>> '{path,id}')
        ON CONFLICT (external) DO NOTHING;

        made := FOUND;

        SELECT * INTO STRICT o FROM owner WHERE external = req #>> '{path,id}'
        FOR UPDATE;
    END IF;

    PERFORM check_match(req, coalesce(o.version, -1));

    SELECT * INTO status, headers, body, refresh
    FROM write_owner(who, req, o, made);
END
$$;

COMMENT ON FUNCTION api_owner_put(jsonb, jsonb) IS 'PUT owners/{id}';


CREATE OR REPLACE FUNCTION api_owner_list(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    q      text := lower(query_value(req, 'q'));
    size   int;
    after  jsonb;
    page   owner[];
    more   boolean;
BEGIN
    PERFORM allow('operator', 'operator_read');
    PERFORM fail_if(check_request(req, 'q', 'limit', 'cursor')
        || check_limit_query(req) || check_cursor(req));

    size := coalesce(query_value(req, 'limit'), '50')::int;

    IF query_value(req, 'cursor') IS NOT NULL THEN
        after := read_cursor(req);
    END IF;

    SELECT array_agg(o ORDER BY o.created_at DESC, o.id DESC) INTO page
    FROM (SELECT * FROM owner o
          WHERE (q IS NULL OR strpos(lower(o.external), q) > 0
                 OR strpos(lower(o.name), q) > 0)
              AND (after IS NULL OR (o.created_at, o.id)
                   < ((after ->> 'k')::timestamptz, (after ->> 'i')::uuid))
          ORDER BY o.created_at DESC, o.id DESC
          LIMIT size + 1) AS o;

    more := coalesce(cardinality(page) > size, false);

    status := 200;
    headers := '';
    body := (SELECT row_to_json(x) FROM (SELECT
            coalesce((SELECT array_to_json(array_agg(
                    owner_json(ROW(o.*)::owner)
                    ORDER BY o.created_at DESC, o.id DESC))
                FROM unnest(page[:size]) AS o), '[]') AS data,
            more AS has_more,
            CASE WHEN more THEN write_cursor(req,
                page[size].created_at::text, page[size].id) END
                AS next_cursor) AS x);
END
$$;

COMMENT ON FUNCTION api_owner_list(jsonb, jsonb) IS 'GET owners';

GRANT EXECUTE ON FUNCTION check_owner(jsonb, jsonb), find_owner(jsonb),
    write_owner(jsonb, jsonb, owner, boolean), api_owner_get(jsonb, jsonb),
    api_owner_update(jsonb, jsonb), api_owner_put(jsonb, jsonb),
    api_owner_list(jsonb, jsonb) TO apikey_gateway;
