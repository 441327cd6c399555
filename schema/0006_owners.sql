--
-- The admin API's owners.  An owner is named by the user's own id.  Its row
-- is never deleted: a deleted one is hidden, and taken up again when an owner
-- of that name is made again, so that neither its usage nor its use of limits
-- starts anew.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION check_owner(body jsonb, metadata jsonb)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN check_members(body, '', ARRAY['name', 'enabled', 'plan',
            'plan_next', 'limits', 'credits', 'time_zone', 'anchor_day',
            'metadata'], ARRAY['id', 'created_at', 'updated_at'])
        || check_text(body -> 'name', '/name', 255, NULL)
        || check_boolean(body -> 'enabled', '/enabled')
        || check_plan(body -> 'plan', '/plan')
        || check_plan(body -> 'plan_next', '/plan_next')
        || check_limits(body -> 'limits', '/limits')
        || check_credits(body -> 'credits', '/credits')
        || check_zone(body -> 'time_zone', '/time_zone')
        || check_anchor(body -> 'anchor_day', '/anchor_day')
        || check_metadata(body -> 'metadata', '/metadata', metadata);
END
$$;

COMMENT ON FUNCTION check_owner(jsonb, jsonb) IS
    'The body of a change of an owner with this metadata';


-- A plan_next waits for the period that is next when it is said, or when what
-- the period depends on is changed.

CREATE OR REPLACE FUNCTION merge_owner(old owner, body jsonb)
RETURNS owner
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    o owner := old;
BEGIN
    IF body ? 'name' THEN
        o.name := body ->> 'name';
    END IF;

    o.enabled := coalesce((body -> 'enabled')::boolean, old.enabled);

    IF body ? 'plan' THEN
        o.plan := body ->> 'plan';
    END IF;

    IF body ? 'plan_next' THEN
        o.plan_next := body ->> 'plan_next';
    END IF;

    IF body ? 'time_zone' THEN
        o.time_zone := coalesce(body ->> 'time_zone', 'UTC');
    END IF;

    IF body ? 'anchor_day' THEN
        o.anchor_day := coalesce((body ->> 'anchor_day')::numeric, 1);
    END IF;

    IF body ?| '{plan_next,time_zone,anchor_day}' THEN
        o.plan_next_at := CASE WHEN o.plan_next IS NOT NULL
            THEN (period(o.time_zone, o.anchor_day, now()))."end" END;
    END IF;

    o.metadata := merge_metadata(old.metadata, body -> 'metadata');

    RETURN o;
END
$$;

COMMENT ON FUNCTION merge_owner(owner, jsonb) IS
    'The row after a checked change: absent keeps, null clears';


CREATE OR REPLACE FUNCTION find_owner(req jsonb)
RETURNS owner
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    o owner;
BEGIN
    SELECT * INTO o FROM owner
    WHERE external = req #>> '{path,id}' AND deleted_at IS NULL;

    IF NOT FOUND THEN
        PERFORM fail(404, 'not_found', 'There is no such owner.');
    END IF;

    RETURN o;
END
$$;

COMMENT ON FUNCTION find_owner(jsonb) IS
    'The owner of the path; 404 also for one that the caller may not see';


-- Made anew, or taken up again.  Its keys are revoked by then, but for one
-- that was being made while the owner was deleted.

CREATE OR REPLACE FUNCTION make_owner(who jsonb, req jsonb, external_id text,
    OUT id uuid, OUT made boolean)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    INSERT INTO owner AS o (external) VALUES (external_id)
    ON CONFLICT (external) DO NOTHING
    RETURNING o.id INTO id;

    made := FOUND;

    IF NOT made THEN
        UPDATE owner o SET deleted_at = NULL, enabled = true,
            created_at = now(), updated_at = now()
        WHERE o.external = external_id AND o.deleted_at IS NOT NULL
        RETURNING o.id INTO id;

        made := FOUND;

        IF made THEN
            PERFORM revoke_keys(who, req, lock_keys(id));
        END IF;
    END IF;

    IF NOT made THEN
        SELECT o.id INTO STRICT id FROM owner o
        WHERE o.external = external_id;
    END IF;
END
$$;

COMMENT ON FUNCTION make_owner(jsonb, jsonb, text) IS
    'The owner of this name; made says whether there was none before';


CREATE OR REPLACE FUNCTION api_owner_get(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    o owner;
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner');
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
        PERFORM put_owner(o, b);
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


CREATE OR REPLACE FUNCTION put_owner(old owner, body jsonb)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    o owner := merge_owner(old, body);
BEGIN
    UPDATE owner SET name = o.name, enabled = o.enabled, plan = o.plan,
        plan_next = o.plan_next, plan_next_at = o.plan_next_at,
        time_zone = o.time_zone, anchor_day = o.anchor_day,
        metadata = o.metadata, updated_at = now()
    WHERE id = o.id;

    IF body ? 'limits' THEN
        PERFORM put_limits(NULL, o.id, body -> 'limits');
    END IF;

    IF body ? 'credits' THEN
        PERFORM put_credits(NULL, o.id, body -> 'credits');
    END IF;
END
$$;

COMMENT ON FUNCTION put_owner(owner, jsonb) IS
    'Writes a checked body into this owner';


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
    PERFORM share_plans(req -> 'body');
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
    mine  record;
BEGIN
    PERFORM allow('operator');
    PERFORM share_plans(req -> 'body');

    SELECT * INTO o FROM owner
    WHERE external = req #>> '{path,id}' AND deleted_at IS NULL
    FOR UPDATE;

    PERFORM check_body(req);
    PERFORM fail_if(check_text(req #> '{path,id}', '/id', 255, NULL)
        || check_request(req)
        || check_owner(req -> 'body', coalesce(o.metadata, '{}')));

    IF o.id IS NULL AND req ->> 'if_match' IS NULL THEN
        mine := make_owner(who, req, req #>> '{path,id}');
        SELECT * INTO STRICT o FROM owner WHERE id = mine.id FOR UPDATE;

        SELECT * INTO status, headers, body, refresh
        FROM write_owner(who, req, o, mine.made);
        RETURN;
    END IF;

    PERFORM check_match(req, coalesce(o.version, -1));

    SELECT * INTO status, headers, body, refresh
    FROM write_owner(who, req, o, false);
END
$$;

COMMENT ON FUNCTION api_owner_put(jsonb, jsonb) IS 'PUT owners/{id}';


DROP FUNCTION IF EXISTS revoke_keys(jsonb, jsonb, uuid);

CREATE OR REPLACE FUNCTION lock_keys(holder uuid)
RETURNS uuid[]
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN ARRAY(SELECT id FROM key
        WHERE owner_id = holder AND revoked_at IS NULL
        ORDER BY id FOR UPDATE);
END
$$;

COMMENT ON FUNCTION lock_keys(uuid) IS
    'An owner''s keys that are not revoked, for a change';


CREATE OR REPLACE FUNCTION api_owner_delete(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    o       owner;
    keys    uuid[];
    n       int;
    before  json;
BEGIN
    PERFORM allow('operator');
    PERFORM fail_if(check_request(req, 'revoke_keys')
        || check_flag(req, 'revoke_keys'));

    SELECT * INTO o FROM owner WHERE external = req #>> '{path,id}'
    FOR UPDATE;

    IF o.deleted_at IS NOT NULL THEN
        status := 204;
        RETURN;
    END IF;

    o := find_owner(req);
    PERFORM check_match(req, o.version);

    keys := lock_keys(o.id);
    n := cardinality(keys);

    IF n > 0 AND query_value(req, 'revoke_keys') IS DISTINCT FROM 'true' THEN
        PERFORM fail(409, 'conflict', CASE n
            WHEN 1 THEN 'It has a key: revoke_keys=true revokes that, too.'
            ELSE format('It has %s keys: revoke_keys=true revokes them, too.',
                        n) END);
    END IF;

    before := owner_json(o);
    refresh := concat(revoke_keys(who, req, keys), 'owner ', o.id, E'\n');

    UPDATE owner SET deleted_at = now(), updated_at = now(), enabled = false,
        name = DEFAULT, plan = DEFAULT, plan_next = DEFAULT,
        plan_next_at = DEFAULT, time_zone = DEFAULT, anchor_day = DEFAULT,
        metadata = DEFAULT
    WHERE id = o.id;

    PERFORM put_limits(NULL, o.id, NULL);
    PERFORM put_credits(NULL, o.id, NULL);

    -- whoever has the name next is told of to nobody

    PERFORM end_webhook(who, req, w) FROM webhook w
    WHERE w.owner_id = o.id AND w.deleted_at IS NULL;
    PERFORM end_alert(who, req, a) FROM alert a
    WHERE a.owner_id = o.id AND a.deleted_at IS NULL;
    PERFORM end_schedule(who, req, s) FROM export_schedule s
    WHERE s.owner_id = o.id AND s.deleted_at IS NULL;

    PERFORM write_audit(who, req, 'delete', 'owner', o.id, before, NULL);

    status := 204;
END
$$;

COMMENT ON FUNCTION api_owner_delete(jsonb, jsonb) IS 'DELETE owners/{id}';


-- Lists, and many at once.  "plan=" with nothing behind it: without a plan.

CREATE OR REPLACE FUNCTION owner_where(req jsonb)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN concat_ws(' AND ', 'x.deleted_at IS NULL',
    CASE WHEN req -> 'query' ? 'plan' THEN
        coalesce('x.plan = ' || quote_literal(query_value(req, 'plan')),
                 'x.plan IS NULL') END,
    'x.enabled = ' || quote_literal(query_value(req, 'enabled')),
    CASE WHEN query_value(req, 'q') IS NOT NULL THEN
        format('(strpos(lower(x.external), %1$L) > 0'
               ' OR strpos(lower(x.name), %1$L) > 0)',
               lower(query_value(req, 'q'))) END);

COMMENT ON FUNCTION owner_where(jsonb) IS
    'SQL condition for the owners that a query string asks for';


CREATE OR REPLACE FUNCTION owner_order(sort text, OUT expr text, OUT kind text)
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT c.expr, c.kind FROM (VALUES
        ('created_at', 'x.created_at', 'timestamptz'),
        ('updated_at', 'x.updated_at', 'timestamptz'),
        ('id', 'x.external', 'text'),
        ('name', 'coalesce(x.name, '''')', 'text'))
        AS c (name, expr, kind)
    WHERE c.name = ltrim(sort, '-') AND sort !~ '^--';
END;

COMMENT ON FUNCTION owner_order(text) IS
    'SQL of what a list of owners is sorted by, and its type; null: unknown';


CREATE OR REPLACE FUNCTION api_owner_list(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    sort  text := coalesce(query_value(req, 'sort'), '-created_at');
    ord   record;
BEGIN
    PERFORM allow('operator', 'operator_read');
    PERFORM fail_if(check_request(req, 'q', 'plan', 'enabled', 'sort',
            'limit', 'cursor')
        || check_flag(req, 'enabled') || check_limit_query(req)
        || check_cursor(req)
        || CASE WHEN (owner_order(sort)).expr IS NULL
            THEN wrong('query:sort', 'bad_value',
                'created_at, updated_at, id or name, "-" before it for'
                ' descending') ELSE '[]' END);

    ord := owner_order(sort);

    status := 200;
    body := list_page(req, 'owner', 'owner_json', owner_where(req), sort,
        ord.expr, ord.kind);
END
$$;

COMMENT ON FUNCTION api_owner_list(jsonb, jsonb) IS 'GET owners';


CREATE OR REPLACE FUNCTION check_owners(req jsonb)
RETURNS jsonb
LANGUAGE sql
SET search_path = apikey, pg_temp
RETURN check_request(req, 'q', 'plan', 'enabled', 'dry_run')
    || check_flag(req, 'enabled') || check_flag(req, 'dry_run')
    || CASE WHEN req -> 'query' ? 'plan' OR query_value(req, 'q') IS NOT NULL
            OR query_value(req, 'enabled') IS NOT NULL THEN jsonb '[]'
        ELSE wrong('query:plan', 'required',
            'say which owners: plan, enabled or q') END
    || CASE WHEN req ->> 'if_match' IS NULL THEN jsonb '[]'
        ELSE wrong('header:If-Match', 'not_supported',
            'many owners have no ETag') END
    || CASE WHEN req -> 'body' ? 'name' THEN wrong('/name', 'read_only',
        'many owners have no one name') ELSE '[]' END
    || CASE WHEN req -> 'body' ? 'limits' THEN wrong('/limits', 'read_only',
        'give many owners limits by a plan') ELSE '[]' END
    || CASE WHEN req -> 'body' ? 'credits' THEN wrong('/credits', 'read_only',
        'give credits to each owner') ELSE '[]' END
    || check_owner((req -> 'body') - '{name,limits,credits}'::text[], '{}');

COMMENT ON FUNCTION check_owners(jsonb) IS
    'A change of many owners at once';


-- One statement for each step, however many they are.

CREATE OR REPLACE FUNCTION put_owners(who jsonb, req jsonb, ids uuid[])
RETURNS uuid[]
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    changed  uuid[];
    rows     owner[];
    before   json[];
    big      text;
BEGIN
    SELECT coalesce(array_agg(x.id), '{}'), array_agg(x.n),
        array_agg(owner_json(x.o)),
        min(x.external) FILTER (WHERE NOT metadata_fits(x.metadata))
    INTO changed, rows, before, big
    FROM (SELECT o, n, (n).id, (n).external, (n).metadata
          FROM owner o, merge_owner(o, req -> 'body') AS n
          WHERE o.id = ANY (ids) AND n IS DISTINCT FROM o) AS x;

    IF big IS NOT NULL THEN
        PERFORM fail_if(wrong('/metadata', 'bad_length', format(
            'at most 8 KiB of JSON, and owner "%s" has some', big)));
    END IF;

    UPDATE owner o SET enabled = n.enabled, plan = n.plan,
        plan_next = n.plan_next, plan_next_at = n.plan_next_at,
        time_zone = n.time_zone, anchor_day = n.anchor_day,
        metadata = n.metadata, updated_at = now()
    FROM unnest(rows) AS n
    WHERE o.id = n.id;

    PERFORM write_audit(who, req, 'update', 'owner', o.id, x.before,
        owner_json(o))
    FROM unnest(changed, before) AS x (id, before)
        JOIN owner o ON o.id = x.id;

    RETURN changed;
END
$$;

COMMENT ON FUNCTION put_owners(jsonb, jsonb, uuid[]) IS
    'Writes a checked body into these owners; returns those it changes';


CREATE OR REPLACE FUNCTION api_owners_update(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    dry      boolean;
    matched  uuid[];
    changed  uuid[] := '{}';
BEGIN
    PERFORM allow('operator');
    PERFORM check_body(req, 'q', 'plan', 'enabled', 'dry_run');
    PERFORM fail_if(check_owners(req));

    dry := coalesce(query_value(req, 'dry_run') = 'true', false);

    EXECUTE format('SELECT coalesce(array_agg(x.id), ''{}'') FROM (SELECT x.id'
        ' FROM owner x WHERE %s ORDER BY x.id%s) AS x',
        owner_where(req), CASE WHEN dry THEN '' ELSE ' FOR UPDATE' END)
    INTO matched;

    IF NOT dry THEN
        changed := put_owners(who, req, matched);
    END IF;

    status := 200;
    body := (SELECT row_to_json(x) FROM (SELECT
        cardinality(matched) AS matched, cardinality(changed) AS changed,
        dry AS dry_run) AS x);
    refresh := (SELECT string_agg('owner ' || c || E'\n', '')
                FROM unnest(changed) AS c);
END
$$;

COMMENT ON FUNCTION api_owners_update(jsonb, jsonb) IS
    'PATCH owners?plan=: many at once';

GRANT EXECUTE ON FUNCTION check_owner(jsonb, jsonb), merge_owner(owner, jsonb),
    find_owner(jsonb), make_owner(jsonb, jsonb, text),
    write_owner(jsonb, jsonb, owner, boolean), put_owner(owner, jsonb),
    lock_keys(uuid), owner_where(jsonb), owner_order(text),
    check_owners(jsonb), put_owners(jsonb, jsonb, uuid[]),
    api_owner_get(jsonb, jsonb), api_owner_update(jsonb, jsonb),
    api_owner_put(jsonb, jsonb), api_owner_delete(jsonb, jsonb),
    api_owner_list(jsonb, jsonb), api_owners_update(jsonb, jsonb)
    TO apikey_gateway;
