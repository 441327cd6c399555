--
-- export/schedules of the admin API.  What becomes of them stands in
-- 0065_schedules.sql.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION schedule_json(s export_schedule)
RETURNS json
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN (SELECT row_to_json(x) FROM (SELECT s.id,
        (SELECT o.external FROM owner o WHERE o.id = s.owner_id) AS owner,
        s.name, s.every, s.time_zone, s.format, s.profile, s.enabled,
        time_text(s.next_at) AS next_at, s.file,
        time_text(s.exported_at) AS exported_at, s.failures, s.error,
        time_text(s.created_at) AS created_at,
        time_text(s.updated_at) AS updated_at) AS x);
END
$$;

COMMENT ON FUNCTION schedule_json(export_schedule) IS
    'The object of a scheduled export';


CREATE OR REPLACE FUNCTION check_schedule(body jsonb, make boolean)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN check_members(body, '', ARRAY['name', 'every', 'time_zone',
            'format', 'profile', 'enabled']
            || CASE WHEN make THEN ARRAY['owner'] ELSE '{}' END,
            ARRAY['id', 'owner', 'next_at', 'file', 'exported_at',
                'failures', 'error', 'created_at', 'updated_at'])
        || check_text(body -> 'name', '/name', 255,
            CASE WHEN make OR body ? 'name' THEN 'give the export a name' END)
        || CASE WHEN make AND coalesce(body -> 'every', 'null') = 'null'
            THEN wrong('/every', 'required', 'day, week or month')
            ELSE check_alert_choice(body -> 'every', '/every', 'day', 'week',
                'month') END
        || check_zone(body -> 'time_zone', '/time_zone')
        || check_alert_choice(body -> 'format', '/format', 'json', 'csv',
            'ndjson')
        || check_alert_choice(body -> 'profile', '/profile', 'basic', 'full')
        || check_boolean(body -> 'enabled', '/enabled')
        || CASE WHEN make THEN check_holder_owner(body) ELSE '[]' END;
END
$$;

COMMENT ON FUNCTION check_schedule(jsonb, boolean) IS
    'The body of a scheduled export, or of a change of one';


-- Another length or zone begins anew with what is going on now, and so does
-- what was off.

CREATE OR REPLACE FUNCTION merge_schedule(old export_schedule, body jsonb)
RETURNS export_schedule
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    s  export_schedule := old;
BEGIN
    s.name := coalesce(body ->> 'name', s.name);
    s.every := coalesce(body ->> 'every', s.every);
    s.time_zone := coalesce(body ->> 'time_zone', s.time_zone,
        (SELECT o.time_zone FROM owner o WHERE o.id = s.owner_id), 'UTC');
    s.format := coalesce(body ->> 'format', s.format, 'json');
    s.profile := coalesce(body ->> 'profile', s.profile, 'basic');
    s.enabled := coalesce((body ->> 'enabled')::boolean, s.enabled, true);

    IF old.id IS NULL OR (s.every, s.time_zone) IS DISTINCT FROM
            (old.every, old.time_zone) OR s.enabled AND NOT old.enabled
    THEN
        s.next_at := schedule_next(s.every, s.time_zone, now());
        s.retry_at := NULL;
        s.failures := 0;
        s.error := NULL;
    END IF;

    RETURN s;
END
$$;

COMMENT ON FUNCTION merge_schedule(export_schedule, jsonb) IS
    'The row after a checked change: absent keeps';


DROP FUNCTION IF EXISTS find_schedule(jsonb, boolean);


CREATE OR REPLACE FUNCTION api_schedule_create(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    s  export_schedule;
BEGIN
    PERFORM allow_change();
    PERFORM check_body(req);
    PERFORM fail_if(check_request(req) || check_schedule(req -> 'body', true));

    IF NOT EXISTS (SELECT FROM setting x
        WHERE x.name = 'export_dir' AND x.value <> '')
    THEN
        PERFORM fail(409, 'conflict', 'There is no directory to write to: the'
            ' operator names it with apikeyctl set export_dir.');
    END IF;

    s.owner_id := read_holder_owner(req -> 'body');
    s := merge_schedule(s, req -> 'body');

    IF (SELECT count(*) >= 50 FROM export_schedule x
        WHERE x.owner_id IS NOT DISTINCT FROM s.owner_id
            AND x.deleted_at IS NULL)
    THEN
        PERFORM fail(409, 'conflict', 'There are 50 scheduled exports: delete'
            ' one first.');
    END IF;

    INSERT INTO export_schedule (owner_id, name, every, time_zone, format,
        profile, enabled, next_at)
    VALUES (s.owner_id, s.name, s.every, s.time_zone, s.format, s.profile,
        s.enabled, s.next_at)
    RETURNING * INTO s;

    PERFORM write_audit(who, req, 'create', 'schedule', s.id, NULL,
        schedule_json(s));

    status := 201;
    headers := 'Location: ' || (req ->> 'base') || 'export/schedules/' || s.id
        || E'\n' || etag_line(s.version);
    body := schedule_json(s);
END
$$;

COMMENT ON FUNCTION api_schedule_create(jsonb, jsonb) IS
    'POST export/schedules';


CREATE OR REPLACE FUNCTION api_schedule_get(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE sql
SET search_path = apikey, pg_temp
BEGIN ATOMIC
    SELECT * FROM owned_get(req, NULL::export_schedule, 'scheduled export',
        'schedule_json');
END;

COMMENT ON FUNCTION api_schedule_get(jsonb, jsonb) IS
    'GET export/schedules/{id}';


-- An attempt under way was of what it was before: it ends without a word.

CREATE OR REPLACE FUNCTION api_schedule_update(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    s       export_schedule;
    before  json;
BEGIN
    PERFORM allow_change();
    s := find_row(req, s, 'scheduled export', true);
    PERFORM check_body(req);
    PERFORM fail_if(check_request(req)
        || check_schedule(req -> 'body', false));

    IF req -> 'body' <> '{}' THEN
        before := schedule_json(s);
        s := merge_schedule(s, req -> 'body');

        UPDATE export_schedule x
        SET name = s.name, every = s.every, time_zone = s.time_zone,
            format = s.format, profile = s.profile, enabled = s.enabled,
            next_at = s.next_at, retry_at = s.retry_at,
            failures = s.failures, error = s.error, claim = NULL,
            claimed_until = NULL, updated_at = now(),
            version = nextval('apikey.version')
        WHERE x.id = s.id
        RETURNING * INTO s;

        PERFORM write_audit(who, req, 'update', 'schedule', s.id, before,
            schedule_json(s));
    END IF;

    status := 200;
    headers := etag_line(s.version);
    body := schedule_json(s);
END
$$;

COMMENT ON FUNCTION api_schedule_update(jsonb, jsonb) IS
    'PATCH export/schedules/{id}';


CREATE OR REPLACE FUNCTION end_schedule(who jsonb, req jsonb,
    s export_schedule)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    PERFORM write_audit(who, req, 'delete', 'schedule', s.id,
        schedule_json(s), NULL);

    UPDATE export_schedule x SET deleted_at = now() WHERE x.id = s.id;
END
$$;

COMMENT ON FUNCTION end_schedule(jsonb, jsonb, export_schedule) IS
    'Deletes this scheduled export';


CREATE OR REPLACE FUNCTION api_schedule_delete(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    s  export_schedule;
BEGIN
    PERFORM allow_change();
    s := find_row(req, s, 'scheduled export', true);
    PERFORM fail_if(check_request(req));
    PERFORM end_schedule(who, req, s);

    status := 204;
END
$$;

COMMENT ON FUNCTION api_schedule_delete(jsonb, jsonb) IS
    'DELETE export/schedules/{id}';


CREATE OR REPLACE FUNCTION api_schedule_list(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE sql
SET search_path = apikey, pg_temp
BEGIN ATOMIC
    SELECT * FROM owned_list(req, 'export_schedule', 'schedule_json');
END;

COMMENT ON FUNCTION api_schedule_list(jsonb, jsonb) IS 'GET export/schedules';

GRANT EXECUTE ON FUNCTION schedule_json(export_schedule),
    check_schedule(jsonb, boolean), merge_schedule(export_schedule, jsonb),
    end_schedule(jsonb, jsonb, export_schedule),
    api_schedule_create(jsonb, jsonb),
    api_schedule_get(jsonb, jsonb), api_schedule_update(jsonb, jsonb),
    api_schedule_delete(jsonb, jsonb), api_schedule_list(jsonb, jsonb)
    TO apikey_gateway;
