--
-- How long usage is kept: day partitions of usage_event are made ahead and
-- dropped when raw_days are over, by the heartbeat of whichever node comes
-- first.  Roll-ups stay for ever.
--
-- Ingest waits for none of it longer than lock_timeout: what does not get its
-- lock, or stands on a table that somebody else made, is left for the next
-- heartbeat, a minute later.
--

SET LOCAL client_min_messages = warning;
SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION raw_days()
RETURNS int
LANGUAGE sql STABLE
RETURN coalesce((SELECT s.value::int FROM setting s
                 WHERE s.name = 'raw_days'), 7);

COMMENT ON FUNCTION raw_days() IS 'How many days raw events are kept';


CREATE OR REPLACE FUNCTION usage_days(OUT day date, OUT part regclass)
RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
AS $$
    SELECT to_date(substring(c.relname FROM '^usage_event_([0-9]{8})$'),
               'YYYYMMDD'), c.oid::regclass
    FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c
        ON c.oid = i.inhrelid
    WHERE i.inhparent = 'apikey.usage_event'::regclass
        AND c.relname ~ '^usage_event_[0-9]{8}$'
$$;

COMMENT ON FUNCTION usage_days() IS 'The days that have a partition';


-- To attach a table locks the default partition, not what ingest writes to.
-- Rows of that day which came before it stand in the default partition; they
-- move where they are few, else that day stays there.

CREATE OR REPLACE FUNCTION usage_day_make(day date, most int DEFAULT 100000)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
SET lock_timeout = '100ms'
AS $$
DECLARE
    name  text := 'usage_event_' || to_char(day, 'YYYYMMDD');
    early int;
BEGIN
    early := (SELECT count(*) FROM (SELECT FROM usage_event_default e
              WHERE e.time >= day AND e.time < day + 1 LIMIT most + 1) AS x);

    IF early > most THEN
        RETURN false;
    END IF;

    EXECUTE format('CREATE TABLE %I (LIKE usage_event INCLUDING DEFAULTS'
        ' INCLUDING CONSTRAINTS INCLUDING STORAGE)', name);

    IF early > 0 THEN
        LOCK TABLE usage_event_default IN ACCESS EXCLUSIVE MODE;
        EXECUTE format('WITH moved AS (DELETE FROM usage_event_default e'
            ' WHERE e.time >= $1 AND e.time < $2 RETURNING *)'
            ' INSERT INTO %I SELECT * FROM moved', name)
        USING day::timestamptz, (day + 1)::timestamptz;
    END IF;

    EXECUTE format('ALTER TABLE usage_event ATTACH PARTITION %I'
        ' FOR VALUES FROM (%L) TO (%L)', name, day::timestamptz,
        (day + 1)::timestamptz);

    RETURN true;

EXCEPTION
    WHEN lock_not_available OR deadlock_detected OR check_violation
        OR insufficient_privilege
    THEN
        RETURN false;
END
$$;

COMMENT ON FUNCTION usage_day_make(date, int) IS
    'Makes the partition of a day that has none; false: not now';


CREATE OR REPLACE FUNCTION usage_day_drop(part regclass)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET lock_timeout = '100ms'
AS $$
BEGIN
    EXECUTE format('DROP TABLE %s', part);
    RETURN true;

EXCEPTION
    WHEN lock_not_available OR deadlock_detected OR insufficient_privilege
    THEN
    RETURN false;
END
$$;

COMMENT ON FUNCTION usage_day_drop(regclass) IS
    'Drops the partition of a day; false: not now';


-- raw_days 0: a trigger takes events out of what nodes send that have not heard
-- of it yet.

CREATE OR REPLACE FUNCTION usage_event_none()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION usage_event_none() IS
    'Stands on usage_event where raw_days is 0';


CREATE OR REPLACE FUNCTION usage_event_switch()
RETURNS boolean
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET lock_timeout = '100ms'
AS $$
DECLARE
    none   boolean := raw_days() = 0;
    stands boolean := EXISTS (SELECT FROM pg_catalog.pg_trigger g
        WHERE g.tgrelid = 'apikey.usage_event'::regclass
            AND g.tgname = 'none');
BEGIN
    IF none AND NOT stands THEN
        CREATE TRIGGER none BEFORE INSERT ON usage_event
            FOR EACH ROW EXECUTE FUNCTION usage_event_none();
        TRUNCATE usage_event;
    ELSIF stands AND NOT none THEN
        DROP TRIGGER none ON usage_event;
    END IF;

    RETURN true;

EXCEPTION
    WHEN lock_not_available OR deadlock_detected OR insufficient_privilege
    THEN
    RETURN false;
END
$$;

COMMENT ON FUNCTION usage_event_switch() IS
    'Stops or starts raw events, as raw_days says; false: not now';


-- The gateway may drop nothing.  This runs as the owner and drops only what
-- the setting has given up.  One node at a time.

CREATE OR REPLACE FUNCTION usage_keep(ahead int DEFAULT 7)
RETURNS int
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    today  date := now()::date;
    done   int := 0;
    d      record;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('apikey.usage_keep')) THEN
        RETURN 0;
    END IF;

    PERFORM usage_event_switch();

    FOR d IN SELECT today + i AS day FROM generate_series(0, ahead) AS i
             EXCEPT SELECT x.day FROM usage_days() AS x ORDER BY 1
    LOOP
        CONTINUE WHEN NOT usage_day_make(d.day);
        done := done + 1;
    END LOOP;

    FOR d IN SELECT x.part FROM usage_days() AS x
             WHERE x.day < today - raw_days() ORDER BY x.day LIMIT 10
    LOOP
        EXIT WHEN NOT usage_day_drop(d.part);
        done := done + 1;
    END LOOP;

    -- what came too late, or before its day was made

    DELETE FROM usage_event_default e
    WHERE e.ctid = ANY (ARRAY(SELECT o.ctid FROM usage_event_default o
        WHERE o.time < (today - raw_days())::timestamptz
        LIMIT 10000 FOR UPDATE SKIP LOCKED));

    DELETE FROM usage_batch b
    WHERE b.id IN (SELECT o.id FROM usage_batch o
                   WHERE o.applied_at < now() - interval '30 days'
                   ORDER BY o.applied_at LIMIT 10000 FOR UPDATE SKIP LOCKED);

    RETURN done;
END
$$;

COMMENT ON FUNCTION usage_keep(int) IS
    'Makes days of usage_event ahead and drops those that raw_days gave up;'
    ' a part of every heartbeat; returns how many it made and dropped';

GRANT EXECUTE ON FUNCTION usage_keep(int) TO apikey_gateway;
