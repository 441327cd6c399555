--
-- Calendars: when the days, weeks and months of each time zone and anchor day
-- begin, which nodes load like owners.  A calendar is made with the first
-- owner that lives by it, and looked after by the heartbeats of the nodes: so
-- it never runs out, and new time zone data reaches it.
--

SET LOCAL client_min_messages = warning;
SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION calendar_next(zone text, anchor int, unit text,
    at timestamptz)
RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN (SELECT to_timestamp(min(b) / 1000000)
        FROM unnest(calendar_bounds(zone, anchor, unit, at)) AS b
        WHERE b > micros(at));
END
$$;

COMMENT ON FUNCTION calendar_next(text, int, text, timestamptz) IS
    'When the next period begins after this moment; null unit: never';


CREATE OR REPLACE FUNCTION calendars_make(zones text[], anchors int[])
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    INSERT INTO calendar (id, zone, anchor_day, unit, bounds)
    SELECT DISTINCT ON (x.id) x.id, x.zone, x.anchor, x.unit,
        calendar_bounds(x.zone, x.anchor, x.unit, now())
    FROM (SELECT DISTINCT calendar_id(z.zone, z.anchor, u.unit) AS id,
              z.zone, CASE u.unit WHEN 'month' THEN z.anchor ELSE 1 END
                  AS anchor, u.unit
          FROM unnest(zones, anchors) AS z (zone, anchor),
              (VALUES ('day'), ('week'), ('month')) AS u (unit)) AS x
    WHERE NOT EXISTS (SELECT FROM calendar c WHERE c.id = x.id)
    ORDER BY x.id
    ON CONFLICT DO NOTHING;
END
$$;

COMMENT ON FUNCTION calendars_make(text[], int[]) IS
    'Makes the calendars of these time zones and anchor days that are missing';


CREATE OR REPLACE FUNCTION owner_calendars()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    PERFORM calendars_make(array_agg(x.time_zone), array_agg(x.anchor_day))
    FROM (SELECT DISTINCT n.time_zone, n.anchor_day FROM new_rows n) AS x;

    IF TG_OP = 'UPDATE' THEN
        UPDATE credit c SET refill_at = calendar_next(n.time_zone,
            n.anchor_day, c.every, now())
        FROM new_rows n JOIN old_rows o ON o.id = n.id
        WHERE c.place = n.id AND c.every IS NOT NULL
            AND (n.time_zone, n.anchor_day)
                IS DISTINCT FROM (o.time_zone, o.anchor_day);
    END IF;

    RETURN NULL;
END
$$;

COMMENT ON FUNCTION owner_calendars() IS
    'Trigger: an owner''s calendars are there, and its credits go by them';


-- A few with every heartbeat.  What stands there stays while it covers the
-- next years and the time zone data has not changed, or has its zone no more:
-- that stops nothing else.

CREATE OR REPLACE FUNCTION calendars_due()
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    c      calendar;
    fresh  bigint[];
BEGIN
    FOR c IN SELECT * FROM calendar
        WHERE checked_at < now() - interval '1 hour'
        ORDER BY checked_at LIMIT 20 FOR UPDATE SKIP LOCKED
    LOOP
        BEGIN
            fresh := calendar_bounds(c.zone, c.anchor_day, c.unit, now());

        EXCEPTION WHEN invalid_parameter_value THEN
            RAISE WARNING 'apikey.calendars_due: Postgres has no time zone %',
                c.zone;
            fresh := c.bounds;
        END;

        UPDATE calendar SET checked_at = now(), bounds = CASE
                WHEN bounds @> fresh[:cardinality(fresh) * 3 / 4] THEN bounds
                ELSE fresh END
        WHERE id = c.id;
    END LOOP;
END
$$;

COMMENT ON FUNCTION calendars_due() IS
    'Holds the calendars that were longest not looked at against the time'
    ' zone data';


CREATE OR REPLACE TRIGGER owner_calendars_insert
    AFTER INSERT ON owner REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION owner_calendars();
CREATE OR REPLACE TRIGGER owner_calendars_update
    AFTER UPDATE ON owner
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION owner_calendars();

CREATE OR REPLACE TRIGGER keyring_version_insert
    BEFORE INSERT ON calendar
    FOR EACH ROW EXECUTE FUNCTION row_version();
CREATE OR REPLACE TRIGGER keyring_version
    BEFORE UPDATE ON calendar
    FOR EACH ROW WHEN (OLD.bounds IS DISTINCT FROM NEW.bounds)
    EXECUTE FUNCTION row_version();
CREATE OR REPLACE TRIGGER keyring_insert
    AFTER INSERT ON calendar REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION row_changed('calendar');
CREATE OR REPLACE TRIGGER keyring_update
    AFTER UPDATE ON calendar
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION row_changed('calendar');

COMMENT ON TRIGGER owner_calendars_insert ON owner IS
    'Its calendars are there';
COMMENT ON TRIGGER owner_calendars_update ON owner IS
    'Its calendars are there';
COMMENT ON TRIGGER keyring_version_insert ON calendar IS
    'The version of the transaction';
COMMENT ON TRIGGER keyring_version ON calendar IS
    'The version of the transaction';
COMMENT ON TRIGGER keyring_insert ON calendar IS 'Change log and NOTIFY';
COMMENT ON TRIGGER keyring_update ON calendar IS 'Change log and NOTIFY';

GRANT EXECUTE ON FUNCTION calendar_next(text, int, text, timestamptz),
    calendars_make(text[], int[]), owner_calendars(), calendars_due()
    TO apikey_gateway;

-- keys without an owner, and owners that were there before calendars

DO $$
BEGIN
    PERFORM apikey.calendars_make(array_agg(x.zone), array_agg(x.anchor))
    FROM (SELECT 'UTC' AS zone, 1 AS anchor
          UNION SELECT o.time_zone, o.anchor_day FROM apikey.owner o) AS x;
END
$$;
