--
-- Scheduled exports: whose usage is written where and when.  One worker of any
-- node claims what is due (schedule_claim), reads it through a cursor
-- (schedule_open), writes the file, and says what came of it.
--
-- A claim is a lease that its holder renews: what a node that died was writing
-- is due again when it is over.  The range follows from next_at, which moves
-- on only with the end of a turn, so that a second attempt writes the same.
--

SET LOCAL client_min_messages = warning;
SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE TABLE IF NOT EXISTS export_schedule (
    id             uuid         PRIMARY KEY DEFAULT uuid_v7(),
    owner_id       uuid         REFERENCES owner,
    name           text         NOT NULL CHECK (char_length(name)
                                                BETWEEN 1 AND 255),
    every          text         NOT NULL CHECK (every IN
                                ('day', 'week', 'month')),
    time_zone      text         NOT NULL,
    format         text         NOT NULL CHECK (format IN
                                ('json', 'csv', 'ndjson')),
    profile        text         NOT NULL CHECK (profile IN
                                ('basic', 'full')),
    enabled        boolean      NOT NULL DEFAULT true,
    next_at        timestamptz  NOT NULL,
    retry_at       timestamptz,
    failures       int          NOT NULL DEFAULT 0,
    claimed_until  timestamptz,
    claim          uuid,
    file           text,
    exported_at    timestamptz,
    error          text,
    created_at     timestamptz  NOT NULL DEFAULT now(),
    updated_at     timestamptz  NOT NULL DEFAULT now(),
    deleted_at     timestamptz,
    version        bigint       NOT NULL DEFAULT nextval('apikey.version')
) WITH (fillfactor = 50);

COMMENT ON TABLE export_schedule IS
    'Exports of usage that are written day by day, week by week or by month';
COMMENT ON COLUMN export_schedule.owner_id IS
    'Whose usage; null: all of it, for operators';
COMMENT ON COLUMN export_schedule.time_zone IS 'Where days begin';
COMMENT ON COLUMN export_schedule.next_at IS
    'The day, week or month that ended last before this is written then';
COMMENT ON COLUMN export_schedule.retry_at IS
    'After a failure: not before';
COMMENT ON COLUMN export_schedule.failures IS 'Failed attempts of this turn';
COMMENT ON COLUMN export_schedule.claimed_until IS
    'A node is writing; it is taken to be dead when this is over';
COMMENT ON COLUMN export_schedule.claim IS
    'The attempt that runs, or that ran into its end';
COMMENT ON COLUMN export_schedule.file IS 'Written last';
COMMENT ON COLUMN export_schedule.exported_at IS 'When that was';
COMMENT ON COLUMN export_schedule.error IS
    'Why the last attempt failed; null: it did not';
COMMENT ON COLUMN export_schedule.version IS
    'Number of the last change in the API; the ETag';

CREATE INDEX IF NOT EXISTS export_schedule_due
    ON export_schedule (next_at, id) WHERE enabled AND deleted_at IS NULL;
CREATE INDEX IF NOT EXISTS export_schedule_owner
    ON export_schedule (owner_id, id);


ALTER TABLE export_schedule ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS operator_all ON export_schedule;
DROP POLICY IF EXISTS operator_see ON export_schedule;
DROP POLICY IF EXISTS owner_all ON export_schedule;
CREATE POLICY operator_all ON export_schedule TO apikey_gateway
    USING ((SELECT caller()) IN ('operator', 'node'));
CREATE POLICY operator_see ON export_schedule FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'operator_read');
CREATE POLICY owner_all ON export_schedule TO apikey_gateway
    USING ((SELECT caller()) = 'owner'
        AND owner_id = (SELECT caller_owner()));

GRANT SELECT, INSERT, UPDATE ON export_schedule TO apikey_gateway;


-- Nodes ship within seconds; a quarter of an hour is what the next of them may
-- be late without anybody looking after it.

CREATE OR REPLACE FUNCTION schedule_next(every text, zone text,
    at timestamptz)
RETURNS timestamptz
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN day_start(date_trunc(every, at AT TIME ZONE zone)
    + ('1 ' || every)::interval, zone) + interval '15 min';

COMMENT ON FUNCTION schedule_next(text, text, timestamptz) IS
    'When what is going on at this time is written';


CREATE OR REPLACE FUNCTION schedule_range(s export_schedule,
    OUT "from" timestamptz, OUT "to" timestamptz, OUT file text)
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
AS $$
    SELECT day_start(t - ('1 ' || s.every)::interval, s.time_zone),
        day_start(t, s.time_zone),
        format('usage-%s-%s-%s.%s', to_char(t - ('1 ' || s.every)::interval,
            'YYYY-MM-DD'), to_char(t - interval '1 day', 'YYYY-MM-DD'),
            s.id, s.format)
    FROM date_trunc(s.every, s.next_at AT TIME ZONE s.time_zone) AS x (t)
$$;

COMMENT ON FUNCTION schedule_range(export_schedule) IS
    'What is to be written next, into which file';


-- What a living node has not shipped yet is waited for, though not for ever.

CREATE OR REPLACE FUNCTION schedule_claim(a_node uuid)
RETURNS TABLE (schedule uuid, claim uuid, directory text, file text,
    temp text, stale text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    dir  text := (SELECT x.value FROM setting x WHERE x.name = 'export_dir');
    new  uuid := uuid_v7();
    s    export_schedule;
BEGIN
    IF coalesce(dir, '') = '' THEN
        RETURN;
    END IF;

    PERFORM set_config('apikey.caller', 'node', true);

    SELECT x.* INTO s FROM export_schedule x
    WHERE x.enabled AND x.deleted_at IS NULL AND x.next_at <= now()
        AND coalesce(x.retry_at, '-infinity') <= now()
        AND coalesce(x.claimed_until, '-infinity') <= now()
        AND (x.owner_id IS NULL OR EXISTS (SELECT FROM owner o
            WHERE o.id = x.owner_id AND o.deleted_at IS NULL))
        AND (x.next_at <= now() - interval '6 hours'
            OR NOT EXISTS (SELECT FROM usage_node u
                WHERE u.seen_at > now() - interval '1 day'
                    AND u.as_of < (schedule_range(x))."to"))
    ORDER BY x.next_at, x.id
    LIMIT 1
    FOR NO KEY UPDATE OF x SKIP LOCKED;

    IF NOT FOUND THEN
        RETURN;
    END IF;

    UPDATE export_schedule x
    SET claim = new, claimed_until = now() + interval '60 s'
    WHERE x.id = s.id;

    RETURN QUERY SELECT s.id, new, dir, r.file, format('.%s.%s', r.file, new),
        CASE WHEN s.claim IS NULL THEN ''
            ELSE format('.%s.%s', r.file, s.claim) END
    FROM schedule_range(s) AS r;
END
$$;

COMMENT ON FUNCTION schedule_claim(uuid) IS
    'The export that this node is to write now, and what an attempt before it'
    ' has left behind';


CREATE OR REPLACE FUNCTION schedule_held(a_schedule uuid, a_claim uuid)
RETURNS export_schedule
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    s  export_schedule;
BEGIN
    PERFORM set_config('apikey.caller', 'node', true);

    SELECT x.* INTO s FROM export_schedule x
    WHERE x.id = a_schedule AND x.claim = a_claim AND x.enabled
        AND x.deleted_at IS NULL
    FOR NO KEY UPDATE;

    RETURN s;
END
$$;

COMMENT ON FUNCTION schedule_held(uuid, uuid) IS
    'The schedule, where this attempt still holds it';


CREATE OR REPLACE FUNCTION schedule_renew(a_schedule uuid, a_claim uuid)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    s  export_schedule := schedule_held(a_schedule, a_claim);
BEGIN
    UPDATE export_schedule x
    SET claimed_until = now() + interval '60 s'
    WHERE x.id = s.id;

    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION schedule_renew(uuid, uuid) IS
    'Still writing; false: it is another one''s turn';


-- As its owner, or as an operator, would see it.  No lock: the transaction is
-- as long as the export.

CREATE OR REPLACE FUNCTION schedule_open(a_schedule uuid, a_claim uuid)
RETURNS text
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    s      export_schedule;
    r      record;
    req    jsonb;
    o      owner;
    total  bigint;
BEGIN
    PERFORM set_config('apikey.caller', 'node', true);

    SELECT x.* INTO STRICT s FROM export_schedule x
    WHERE x.id = a_schedule AND x.claim = a_claim;

    PERFORM enter_as(CASE WHEN s.owner_id IS NULL THEN 'operator_read'
        ELSE 'owner' END, '', s.owner_id::text, '', '');

    req := jsonb_build_object('query', jsonb_build_object(
        'format', jsonb_build_array(s.format),
        'profile', jsonb_build_array(s.profile)));
    o := usage_subject(req);
    r := schedule_range(s);
    total := export_open(req, o, s.time_zone, r."from", r."to");

    RETURN export_head(s.format, s.next_at, total,
        ARRAY(SELECT c.name FROM export_columns() AS c
              WHERE c.basic OR s.profile = 'full'));
END
$$;

COMMENT ON FUNCTION schedule_open(uuid, uuid) IS
    'Opens the cursor "export"; returns what stands before its lines';


CREATE OR REPLACE FUNCTION schedule_done(a_schedule uuid, a_claim uuid,
    a_rows bigint, a_bytes bigint, a_sha256 text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    s  export_schedule := schedule_held(a_schedule, a_claim);
    r  record;
BEGIN
    IF s.id IS NULL THEN
        RETURN false;
    END IF;

    r := schedule_range(s);

    UPDATE export_schedule x
    SET next_at = schedule_next(s.every, s.time_zone, s.next_at),
        retry_at = NULL, failures = 0, claim = NULL, claimed_until = NULL,
        file = r.file, exported_at = now(), error = NULL
    WHERE x.id = s.id;

    PERFORM event_emit('export.completed', jsonb_build_object(
        'schedule', s.id, 'name', s.name, 'from', time_text(r."from"),
        'to', time_text(r."to"), 'file', r.file, 'format', s.format,
        'profile', s.profile, 'rows', a_rows, 'bytes', a_bytes,
        'sha256', a_sha256), s.owner_id);

    RETURN true;
END
$$;

COMMENT ON FUNCTION schedule_done(uuid, uuid, bigint, bigint, text) IS
    'The file stands: told, and the next one planned';


CREATE OR REPLACE FUNCTION schedule_failed(a_schedule uuid, a_claim uuid,
    a_error text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    s     export_schedule := schedule_held(a_schedule, a_claim);
    r     record;
    wait  interval;
BEGIN
    IF s.id IS NULL THEN
        RETURN false;
    END IF;

    r := schedule_range(s);
    wait := (ARRAY['1 min', '5 min', '30 min', '2 h', '6 h']::interval[])
        [s.failures + 1];

    UPDATE export_schedule x
    SET next_at = CASE WHEN wait IS NULL
            THEN schedule_next(s.every, s.time_zone, s.next_at)
            ELSE s.next_at END,
        retry_at = now() + wait,
        failures = CASE WHEN wait IS NULL THEN 0 ELSE s.failures + 1 END,
        claim = NULL, claimed_until = NULL, error = a_error
    WHERE x.id = s.id;

    PERFORM event_emit('export.failed', jsonb_build_object(
        'schedule', s.id, 'name', s.name, 'from', time_text(r."from"),
        'to', time_text(r."to"), 'file', r.file, 'format', s.format,
        'profile', s.profile, 'error', a_error, 'attempts', s.failures + 1,
        'next_attempt_at', time_text(now() + wait)), s.owner_id);

    RETURN true;
END
$$;

COMMENT ON FUNCTION schedule_failed(uuid, uuid, text) IS
    'It could not be written: told, and tried again later, or given up';


CREATE OR REPLACE FUNCTION schedule_release(a_schedule uuid, a_claim uuid)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    s  export_schedule := schedule_held(a_schedule, a_claim);
BEGIN
    UPDATE export_schedule x SET claim = NULL, claimed_until = NULL
    WHERE x.id = s.id;

    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION schedule_release(uuid, uuid) IS
    'A worker that ends leaves its turn to the next one';

GRANT EXECUTE ON FUNCTION schedule_next(text, text, timestamptz),
    schedule_range(export_schedule), schedule_claim(uuid),
    schedule_held(uuid, uuid), schedule_renew(uuid, uuid),
    schedule_open(uuid, uuid),
    schedule_done(uuid, uuid, bigint, bigint, text),
    schedule_failed(uuid, uuid, text), schedule_release(uuid, uuid)
    TO apikey_gateway;
