--
-- What the nodes' keyrings live on: the change log with its triggers, the two
-- functions that hand keys to a node, and the nodes' heartbeat.
--
-- A transaction that changes a key or owner row, its secrets or its limits
-- gives the row a new version, a line in the change log and a NOTIFY, once.
-- A node refetches what it is notified of; the log, read in commit order,
-- finds what a lost notice would have missed, and tells a restored database
-- from the one the node knows.
--

SET LOCAL client_min_messages = warning;
SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE TABLE IF NOT EXISTS change (
    seq      bigint       GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid      xid8         NOT NULL DEFAULT pg_current_xact_id(),
    kind     text         NOT NULL CHECK (kind IN ('key', 'owner')),
    id       uuid         NOT NULL,
    version  bigint       NOT NULL,
    mark     uuid         NOT NULL DEFAULT gen_random_uuid(),
    at       timestamptz  NOT NULL DEFAULT now()
);

COMMENT ON TABLE change IS
    'Changes of keys and owners, for the nodes; kept for a day';
COMMENT ON COLUMN change.seq IS
    'Order of writing, which is not the order of committing';
COMMENT ON COLUMN change.xid IS
    'Writing transaction: all below a snapshot''s xmin have ended';
COMMENT ON COLUMN change.kind IS
    'Which row changed: key, owner, calendar or prices';
COMMENT ON COLUMN change.id IS 'The row''s id';
COMMENT ON COLUMN change.version IS
    'The row''s version at this change; a later one may already stand';
COMMENT ON COLUMN change.mark IS
    'Random: tells a restored database that took the same numbers again';
COMMENT ON COLUMN change.at IS 'Start of the transaction';

ALTER TABLE change DROP CONSTRAINT IF EXISTS change_kind_check;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_constraint
                   WHERE conrelid = 'change'::regclass
                       AND conname = 'change_kinds'
                       AND pg_get_constraintdef(oid) ~ 'prices')
    THEN
        ALTER TABLE change DROP CONSTRAINT IF EXISTS change_kinds,
            ADD CONSTRAINT change_kinds
            CHECK (kind IN ('key', 'owner', 'calendar', 'prices'));
    END IF;
END
$$;

CREATE INDEX IF NOT EXISTS change_xid ON change (xid);
CREATE INDEX IF NOT EXISTS change_at ON change (at);

GRANT SELECT, INSERT, DELETE ON change TO apikey_gateway;


CREATE TABLE IF NOT EXISTS node (
    id          uuid         PRIMARY KEY,
    name        text         NOT NULL,
    version     text         NOT NULL,
    started_at  timestamptz  NOT NULL DEFAULT now(),
    seen_at     timestamptz  NOT NULL DEFAULT now()
);

COMMENT ON TABLE node IS
    'nginx nodes that reached this database; a heartbeat every few seconds';
COMMENT ON COLUMN node.id IS 'From the file "node" in its journal directory';
COMMENT ON COLUMN node.name IS 'apikey_node, by default the host name';
COMMENT ON COLUMN node.version IS 'Of the module';
COMMENT ON COLUMN node.started_at IS 'First heartbeat ever';
COMMENT ON COLUMN node.seen_at IS 'Last heartbeat';

GRANT SELECT, INSERT, UPDATE ON node TO apikey_gateway;


-- Version, log and notice.  A transaction takes one number and gives it to
-- all that it writes, so that a row it writes again, with its secrets and its
-- limits, is one change: one version, one line, one notice.

CREATE OR REPLACE FUNCTION change_version()
RETURNS bigint
LANGUAGE sql STABLE
RETURN nullif(current_setting('apikey.version', true), '')::bigint;

COMMENT ON FUNCTION change_version() IS
    'The version this transaction gives to rows; null before the first one';


CREATE OR REPLACE FUNCTION row_version()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    NEW.version := nullif(current_setting('apikey.version', true), '')::bigint;

    -- somebody may have changed the row since this transaction took its
    -- number: versions of a row must rise

    IF NEW.version IS NULL OR TG_OP = 'UPDATE' AND OLD.version > NEW.version
    THEN
        NEW.version := nextval('apikey.version');
        PERFORM set_config('apikey.version', NEW.version::text, true);
    END IF;

    RETURN NEW;
END
$$;

COMMENT ON FUNCTION row_version() IS
    'Trigger: a key or owner row takes the version of the transaction that'
    ' writes it';


-- EXCEPT is a join that no cached plan makes a nested loop.

CREATE OR REPLACE FUNCTION row_changed()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO change (kind, id, version)
        SELECT TG_ARGV[0], n.id, n.version FROM new_rows n;

        PERFORM pg_notify('apikey', TG_ARGV[0] || ' ' || n.id)
        FROM new_rows n;

    ELSE
        INSERT INTO change (kind, id, version)
        SELECT TG_ARGV[0], x.id, x.version
        FROM (SELECT n.id, n.version FROM new_rows n
              EXCEPT SELECT o.id, o.version FROM old_rows o) AS x;

        PERFORM pg_notify('apikey', TG_ARGV[0] || ' ' || x.id)
        FROM (SELECT n.id, n.version FROM new_rows n
              EXCEPT SELECT o.id, o.version FROM old_rows o) AS x;
    END IF;

    RETURN NULL;
END
$$;

COMMENT ON FUNCTION row_changed() IS
    'Trigger: logs the first change of each key or owner row in a transaction'
    ' and notifies the nodes';


DROP FUNCTION IF EXISTS touch(text, uuid);

CREATE OR REPLACE FUNCTION touch(kind text, holders uuid[])
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    wanted  uuid[] := ARRAY(SELECT DISTINCT h FROM unnest(holders) AS h
                            WHERE h IS NOT NULL);
    mine    bigint := coalesce(change_version(), -1);
    done    bigint;
    n       bigint;
BEGIN
    IF cardinality(wanted) = 0 THEN
        RETURN;
    END IF;

    -- what this transaction wrote has its version already, and nobody has
    -- seen it yet

    IF kind = 'key' THEN
        SELECT count(*) INTO done FROM key
        WHERE id = ANY (wanted) AND version = mine;

        IF done < cardinality(wanted) THEN
            UPDATE key SET version = version
            WHERE id = ANY (wanted) AND version <> mine;
            GET DIAGNOSTICS n = ROW_COUNT;
        END IF;

    ELSE
        SELECT count(*) INTO done FROM owner
        WHERE id = ANY (wanted) AND version = mine;

        IF done < cardinality(wanted) THEN
            UPDATE owner SET version = version
            WHERE id = ANY (wanted) AND version <> mine;
            GET DIAGNOSTICS n = ROW_COUNT;
        END IF;
    END IF;

    IF done + coalesce(n, 0) <> cardinality(wanted) THEN
        RAISE EXCEPTION '% of % % rows cannot be given a new version',
            cardinality(wanted) - done - coalesce(n, 0), cardinality(wanted),
            kind
            USING ERRCODE = '42501';
    END IF;
END
$$;

COMMENT ON FUNCTION touch(text, uuid[]) IS
    'Gives keys or owners a new version because what belongs to them changed';


CREATE OR REPLACE FUNCTION part_changed()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    keys    uuid[] := '{}';
    owners  uuid[] := '{}';
BEGIN
    IF TG_OP <> 'DELETE' THEN
        keys := ARRAY(SELECT n.key_id FROM new_rows n);

        IF TG_TABLE_NAME = 'limit_rule' THEN
            owners := ARRAY(SELECT n.owner_id FROM new_rows n
                            WHERE n.owner_id IS NOT NULL);
        END IF;
    END IF;

    IF TG_OP <> 'INSERT' THEN
        keys := keys || ARRAY(SELECT o.key_id FROM old_rows o);

        IF TG_TABLE_NAME = 'limit_rule' THEN
            owners := owners || ARRAY(SELECT o.owner_id FROM old_rows o
                                      WHERE o.owner_id IS NOT NULL);
        END IF;
    END IF;

    IF cardinality(keys) > 0 THEN
        PERFORM touch('key', keys);
    END IF;

    IF cardinality(owners) > 0 THEN
        PERFORM touch('owner', owners);
    END IF;

    RETURN NULL;
END
$$;

COMMENT ON FUNCTION part_changed() IS
    'Trigger: secrets or limits changed, so their keys and owners did';

GRANT EXECUTE ON FUNCTION change_version(), row_version(), row_changed(),
    touch(text, uuid[]), part_changed() TO apikey_gateway;


DROP TRIGGER IF EXISTS keyring_changed ON key;
DROP TRIGGER IF EXISTS keyring_changed ON owner;
DROP TRIGGER IF EXISTS keyring_changed ON secret;
DROP TRIGGER IF EXISTS keyring_changed ON limit_rule;

CREATE OR REPLACE TRIGGER keyring_version
    BEFORE INSERT OR UPDATE ON key
    FOR EACH ROW EXECUTE FUNCTION row_version();

CREATE OR REPLACE TRIGGER keyring_version
    BEFORE INSERT OR UPDATE ON owner
    FOR EACH ROW EXECUTE FUNCTION row_version();

COMMENT ON TRIGGER keyring_version ON key IS
    'The version of the transaction';
COMMENT ON TRIGGER keyring_version ON owner IS
    'The version of the transaction';

DO $$
DECLARE
    x record;
BEGIN
    FOR x IN SELECT * FROM (VALUES
            ('key', 'row_changed(''key'')', 'Change log and NOTIFY'),
            ('owner', 'row_changed(''owner'')', 'Change log and NOTIFY'),
            ('secret', 'part_changed()', 'Its key changes with it'),
            ('limit_rule', 'part_changed()',
                'Its key or owner changes with it')) AS t (name, call, job),
        (VALUES ('insert', 'NEW TABLE AS new_rows'),
            ('update', 'OLD TABLE AS old_rows NEW TABLE AS new_rows'),
            ('delete', 'OLD TABLE AS old_rows')) AS e (event, tables)
        WHERE e.event <> 'delete' OR t.call = 'part_changed()'
    LOOP
        EXECUTE format('CREATE OR REPLACE TRIGGER keyring_%s AFTER %1$s ON %I'
            ' REFERENCING %s FOR EACH STATEMENT EXECUTE FUNCTION %s',
            x.event, x.name, x.tables, x.call);
        EXECUTE format('COMMENT ON TRIGGER keyring_%s ON %I IS %L',
            x.event, x.name, x.job);
    END LOOP;
END
$$;


-- Rows as a node reads them.  Nobody but the two functions below sees these
-- views: they hold digests.

CREATE OR REPLACE FUNCTION micros(at timestamptz)
RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN at < '9999-01-01+00'
    THEN greatest((extract(epoch FROM
        greatest(at, '1970-01-01 00:00:00.000001+00')) * 1000000)::bigint, 1)
    END;

COMMENT ON FUNCTION micros(timestamptz) IS
    'Microseconds since 1970, at least 1; null for what is never reached';

-- Without SET, so that it is inlined into the views: a body of this kind is
-- bound to its tables when it is made, whatever the search_path.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_proc
                   WHERE oid = to_regprocedure(
                           'apikey.limits_held(uuid, uuid, text)')
                       AND 'base' = ANY (proargnames))
    THEN
        DROP VIEW IF EXISTS keyring_owner, keyring_key;
        DROP FUNCTION IF EXISTS limits_held(uuid, uuid, text);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION limits_held(holder_key uuid, holder_owner uuid,
    holder_plan text)
RETURNS TABLE (inherited boolean, "position" int, name text, unit text,
    "limit" bigint, window_text text, window_us bigint, burst bigint,
    rolling boolean, model text, service text, mode text, token bigint,
    refill bigint, capacity bigint, tick bigint, kind text, period text,
    made bigint, fill bigint, base bigint)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT false, l.position, l.name, l.unit, l."limit", l.window_text,
        l.window_us, l.burst, l.rolling, l.model, l.service, l.mode, l.token,
        l.refill, l.capacity, l.tick,
        limit_kind(l.unit, l.window_text, l.rolling),
        CASE WHEN l.window_text IN ('day', 'week', 'month')
            THEN l.window_text END,
        coalesce(micros(l.made), 0), NULL::bigint, NULL::bigint
    FROM limit_rule l
    WHERE l.key_id = holder_key
    UNION ALL
    SELECT false, l.position, l.name, l.unit, l."limit", l.window_text,
        l.window_us, l.burst, l.rolling, l.model, l.service, l.mode, l.token,
        l.refill, l.capacity, l.tick,
        limit_kind(l.unit, l.window_text, l.rolling),
        CASE WHEN l.window_text IN ('day', 'week', 'month')
            THEN l.window_text END,
        coalesce(micros(l.made), 0), NULL::bigint, NULL::bigint
    FROM limit_rule l
    WHERE l.owner_id = holder_owner
    UNION ALL
    SELECT true, l.position, l.name, l.unit, l."limit", l.window_text,
        l.window_us, l.burst, l.rolling, l.model, l.service, l.mode, l.token,
        l.refill, l.capacity, l.tick,
        limit_kind(l.unit, l.window_text, l.rolling),
        CASE WHEN l.window_text IN ('day', 'week', 'month')
            THEN l.window_text END,
        coalesce(micros(nullif(least(coalesce(l.made, '-infinity'), (
            SELECT coalesce(w.made, '-infinity')
            FROM limit_past w
            WHERE w.holder = coalesce(holder_key, holder_owner)
                AND w.name = l.name AND w.unit = l.unit
                AND w.service = coalesce(l.service, '')
                AND w.model = coalesce(l.model, ''))), '-infinity')), 0),
        NULL::bigint, NULL::bigint
    FROM plan p JOIN limit_rule l ON l.plan_id = p.id
    WHERE p.external = holder_plan
        AND NOT EXISTS (SELECT FROM limit_rule o
                        WHERE o.key_id = holder_key AND o.name = l.name)
        AND NOT EXISTS (SELECT FROM limit_rule o
                        WHERE o.owner_id = holder_owner AND o.name = l.name)
    UNION ALL
    SELECT false, 2147483647, 'credits', c.unit, c.total, NULL, NULL, NULL,
        NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'credits', c.every,
        micros(c.made), c.refill, c.base
    FROM credit c
    WHERE c.key_id = holder_key
    UNION ALL
    SELECT false, 2147483647, 'credits', c.unit, c.total, NULL, NULL, NULL,
        NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'credits', c.every,
        micros(c.made), c.refill, c.base
    FROM credit c
    WHERE c.owner_id = holder_owner;
END;

COMMENT ON FUNCTION limits_held(uuid, uuid, text) IS
    'All limits that a key or an owner holds: its own, those of its plan'
    ' (inherited) that it has none of the same name for, and its credits';

GRANT EXECUTE ON FUNCTION limits_held(uuid, uuid, text) TO apikey_gateway;


-- Of a length that rolls an older node is told less than it needs, so that it
-- refuses.

CREATE OR REPLACE VIEW keyring_owner AS
SELECT 'owner'::text AS kind, o.id, o.version, o.enabled,
    NULL::uuid AS owner_id, o.external AS name, NULL::text AS prefix,
    NULL::text AS customer, o.plan, false AS revoked, NULL::bigint AS expires,
    NULL::text AS scopes, NULL::text AS ips, NULL::text AS metadata,
    NULL::text AS secrets, h.limits, NULL::text AS models, h.terms,
    calendar_id(o.time_zone, o.anchor_day, 'month')::text AS calendar
FROM owner o, LATERAL (SELECT string_agg(concat_ws(E'\t', l.name, l.unit, l."limit"::text,
            coalesce(l.window_us::text, ''), coalesce(l.burst::text, ''),
            coalesce(l.token::text, ''), coalesce(l.refill::text, ''),
            coalesce(l.tick::text, ''), coalesce(l.service, ''),
            coalesce(l.model, '')) || E'\n', ''
            ORDER BY l.inherited, l.position, l.name) AS limits,
        string_agg(concat_ws(E'\t', l.kind, coalesce(l.mode, ''),
            coalesce(l.period, ''), l.made::text,
            coalesce(l.fill::text, ''), coalesce(l.base::text, ''))
            || E'\n', ''
            ORDER BY l.inherited, l.position, l.name) AS terms
        FROM limits_held(NULL, o.id, o.plan) AS l) AS h;

COMMENT ON VIEW keyring_owner IS
    'Owners as nodes read them (src/base/limit.h has the form of limits)';

CREATE OR REPLACE VIEW keyring_key AS
SELECT 'key'::text AS kind, k.id, k.version, k.enabled,
    k.owner_id, k.name, k.prefix,
    k.customer, k.plan, k.revoked_at IS NOT NULL AS revoked,
    micros(k.expires_at) AS expires,
    array_to_string(k.scopes, ' ') AS scopes,
    array_to_string(k.allowed_ips, ' ') AS ips,
    nullif(k.metadata, '{}')::text AS metadata,
    (SELECT string_agg(concat_ws(E'\t', s.id::text, encode(s.digest, 'hex'),
            coalesce(micros(s.expires_at)::text, ''),
            CASE WHEN s.ended_at IS NULL THEN '0' ELSE '1' END) || E'\n', '')
        FROM (SELECT * FROM secret x WHERE x.key_id = k.id
              ORDER BY x.ended_at DESC NULLS FIRST, x.created_at DESC
              LIMIT 200) s) AS secrets,
    h.limits, array_to_string(k.allowed_models, E'\n') AS models, h.terms,
    NULL::text AS calendar
FROM key k, LATERAL (SELECT string_agg(concat_ws(E'\t', l.name, l.unit, l."limit"::text,
            coalesce(l.window_us::text, ''), coalesce(l.burst::text, ''),
            coalesce(l.token::text, ''), coalesce(l.refill::text, ''),
            coalesce(l.tick::text, ''), coalesce(l.service, ''),
            coalesce(l.model, '')) || E'\n', ''
            ORDER BY l.inherited, l.position, l.name) AS limits,
        string_agg(concat_ws(E'\t', l.kind, coalesce(l.mode, ''),
            coalesce(l.period, ''), l.made::text,
            coalesce(l.fill::text, ''), coalesce(l.base::text, ''))
            || E'\n', ''
            ORDER BY l.inherited, l.position, l.name) AS terms
        FROM limits_held(k.id, NULL, k.plan) AS l) AS h;

COMMENT ON VIEW keyring_key IS
    'Keys as nodes read them, with all secrets that work and the last ended';

CREATE OR REPLACE VIEW keyring_calendar AS
SELECT 'calendar'::text AS kind, c.id, c.version, true AS enabled,
    NULL::uuid AS owner_id, c.zone AS name, c.unit AS prefix,
    NULL::text AS customer, NULL::text AS plan, false AS revoked,
    NULL::bigint AS expires, NULL::text AS scopes, NULL::text AS ips,
    NULL::text AS metadata, NULL::text AS secrets,
    array_to_string(c.bounds, ' ') AS limits, NULL::text AS models,
    NULL::text AS terms, NULL::text AS calendar
FROM calendar c;

COMMENT ON VIEW keyring_calendar IS
    'Calendars as nodes read them: limits are when periods begin';

-- Prices are one row of text, in the order in which they are looked through
-- (src/base/price.h): of the plan before those of any plan, then by how much
-- a model and a service are said, then the latest.

CREATE OR REPLACE FUNCTION pattern_rank(pattern text)
RETURNS int
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN pattern IS NULL THEN -1
    WHEN strpos(pattern, '*') = 0 THEN 1000
    ELSE char_length(replace(pattern, '*', '')) END;

COMMENT ON FUNCTION pattern_rank(text) IS
    'How specific a pattern is: a name, then by what is no *, then any';

CREATE OR REPLACE VIEW keyring_prices AS
SELECT 'prices'::text AS kind, l.id, l.version, true AS enabled,
    NULL::uuid AS owner_id, NULL::text AS name, NULL::text AS prefix,
    NULL::text AS customer, NULL::text AS plan, false AS revoked,
    NULL::bigint AS expires, NULL::text AS scopes, NULL::text AS ips,
    NULL::text AS metadata, NULL::text AS secrets,
    (SELECT string_agg(concat_ws(E'\t', p.version::text,
            coalesce(micros(p.valid_from), 253402300800000000)::text,
            coalesce(p.service, ''), coalesce(p.model, ''),
            coalesce(p.plan, ''), coalesce(p.input_per_1m::text, ''),
            coalesce(p.output_per_1m::text, ''),
            coalesce(p.cached_per_1m::text, ''), p.per_request::text)
            || E'\n', ''
            ORDER BY p.plan IS NULL, pattern_rank(p.model) DESC,
                pattern_rank(p.service) DESC, p.valid_from DESC, p.id DESC)
        FROM (SELECT x.*, min(x.valid_from) OVER (
                  PARTITION BY x.service, x.model, x.plan ORDER BY x.valid_from
                  GROUPS BETWEEN 1 FOLLOWING AND 1 FOLLOWING) AS until
              FROM price x WHERE x.deleted_at IS NULL) AS p
        WHERE p.until IS NULL OR p.until >= now() - interval '1 day')
        AS limits,
    NULL::text AS models, NULL::text AS terms, NULL::text AS calendar
FROM price_list l;

COMMENT ON VIEW keyring_prices IS
    'Prices as nodes read them: one row, limits are its lines';

REVOKE ALL ON keyring_owner, keyring_key, keyring_calendar, keyring_prices
    FROM PUBLIC, apikey_gateway, apikey_reader;


-- Columns are only ever added, at the end: a node of another version of the
-- module reads those that it knows.  Nodes call these all the time, so they
-- are not dropped but once.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_proc
                   WHERE oid = to_regprocedure('apikey.keyring_find(bytea)')
                       AND 'calendar' = ANY (proargnames))
    THEN
        DROP FUNCTION IF EXISTS keyring_rows(uuid[], uuid[], text, uuid, int);
        DROP FUNCTION IF EXISTS keyring_find(bytea);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION keyring_rows(keys uuid[], owners uuid[],
    page text, after uuid, n int)
RETURNS TABLE (kind text, id uuid, version bigint, enabled boolean,
    owner_id uuid, name text, prefix text, customer text, plan text,
    revoked boolean, expires bigint, scopes text, ips text, metadata text,
    secrets text, limits text, models text, terms text, calendar text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = apikey, pg_temp
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    IF page = 'calendar' THEN
        RETURN QUERY SELECT c.* FROM (SELECT * FROM keyring_calendar
                UNION ALL SELECT * FROM keyring_prices) AS c
            WHERE c.id > coalesce(after,
                '00000000-0000-0000-0000-000000000000')
            ORDER BY c.id LIMIT n;
        RETURN;

    ELSIF page = 'owner' THEN
        RETURN QUERY SELECT o.* FROM keyring_owner o
            WHERE o.id > coalesce(after,
                '00000000-0000-0000-0000-000000000000')
            ORDER BY o.id LIMIT n;
        RETURN;

    ELSIF page = 'key' THEN
        RETURN QUERY SELECT k.* FROM keyring_key k
            WHERE k.id > coalesce(after,
                '00000000-0000-0000-0000-000000000000')
            ORDER BY k.id LIMIT n;
        RETURN;
    END IF;

    -- an owner stands before its keys; who asks for owners means calendars
    -- and prices, too

    RETURN QUERY SELECT c.* FROM keyring_calendar c
        WHERE c.id = ANY (owners);

    IF '00000000-0000-8000-8000-707269636573' = ANY (owners) THEN
        RETURN QUERY SELECT p.* FROM keyring_prices p;
    END IF;

    RETURN QUERY SELECT o.* FROM keyring_owner o
        WHERE o.id = ANY (owners || ARRAY(
            SELECT DISTINCT k.owner_id FROM key k
            WHERE k.id = ANY (keys) AND k.owner_id IS NOT NULL));

    RETURN QUERY SELECT k.* FROM keyring_key k WHERE k.id = ANY (keys);
END
$$;

COMMENT ON FUNCTION keyring_rows(uuid[], uuid[], text, uuid, int) IS
    'Rows for a node''s keyring, with digests: these keys (and their owners),'
    ' owners, calendars and prices, or n rows of page key, owner or calendar'
    ' (with prices) with ids after the given one';


CREATE OR REPLACE FUNCTION limit_calendars(holder_key uuid, holder_owner uuid)
RETURNS uuid[]
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    o owner;
BEGIN
    SELECT * INTO o FROM owner x WHERE x.id = holder_owner;

    RETURN ARRAY(SELECT DISTINCT calendar_id(coalesce(o.time_zone, 'UTC'),
            coalesce(o.anchor_day, 1), l.period)
        FROM (SELECT h.period FROM key k,
                  LATERAL limits_held(k.id, NULL, k.plan) AS h
              WHERE k.id = holder_key
              UNION ALL
              SELECT h.period FROM limits_held(NULL, o.id, o.plan) AS h) AS l
        WHERE l.period IS NOT NULL);
END
$$;

COMMENT ON FUNCTION limit_calendars(uuid, uuid) IS
    'Calendars that the limits of a key and its owner go by';


CREATE OR REPLACE FUNCTION keyring_find(digest bytea)
RETURNS TABLE (kind text, id uuid, version bigint, enabled boolean,
    owner_id uuid, name text, prefix text, customer text, plan text,
    revoked boolean, expires bigint, scopes text, ips text, metadata text,
    secrets text, limits text, models text, terms text, calendar text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = apikey, pg_temp
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    found_key   uuid;
    found_owner uuid;
BEGIN
    SELECT k.id, k.owner_id INTO found_key, found_owner
    FROM secret s JOIN key k ON k.id = s.key_id
    WHERE s.digest = keyring_find.digest;

    IF found_key IS NULL THEN
        RETURN;
    END IF;

    RETURN QUERY SELECT c.* FROM keyring_calendar c
        WHERE c.id = ANY (limit_calendars(found_key, found_owner));
    RETURN QUERY SELECT o.* FROM keyring_owner o WHERE o.id = found_owner;
    RETURN QUERY SELECT k.* FROM keyring_key k WHERE k.id = found_key;
END
$$;

COMMENT ON FUNCTION keyring_find(bytea) IS
    'The key, and before it its owner and the calendars they go by, that has a'
    ' secret of this digest';

REVOKE ALL ON FUNCTION keyring_rows(uuid[], uuid[], text, uuid, int),
    keyring_find(bytea) FROM PUBLIC, apikey_reader;
GRANT EXECUTE ON FUNCTION keyring_rows(uuid[], uuid[], text, uuid, int),
    keyring_find(bytea) TO apikey_gateway;


-- The net under NOTIFY.  The first row is of kind "head": where this database
-- stands, the last version given out, and whether it is what the node knows.
-- Transactions below the horizon have ended; those above are given again.

CREATE OR REPLACE FUNCTION keyring_changes(since text, last_seq bigint,
    last_mark uuid)
RETURNS TABLE (kind text, id uuid, version bigint, seq bigint, mark uuid,
    origin text, horizon text, known boolean)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    now_  pg_snapshot := pg_current_snapshot();
    low   xid8 := nullif(since, '')::xid8;
    same  boolean;
BEGIN
    same := low IS NOT NULL AND low <= pg_snapshot_xmax(now_)
        AND CASE WHEN last_seq = 0
            THEN coalesce((SELECT min(c.seq) FROM change c), 1) = 1
            ELSE EXISTS (SELECT FROM change c
                         WHERE c.seq = last_seq AND c.mark = last_mark)
            END;

    RETURN QUERY SELECT 'head'::text, NULL::uuid, v.last_value,
        coalesce(c.seq, 0), c.mark,
        concat_ws('/', s.system_identifier, p.timeline_id, d.oid),
        pg_snapshot_xmin(now_)::text, same
    FROM pg_control_system() s, pg_control_checkpoint() p,
        version v, pg_database d
        LEFT JOIN LATERAL (SELECT c.seq, c.mark FROM change c
                           ORDER BY c.seq DESC LIMIT 1) c ON true
    WHERE d.datname = current_database();

    IF same THEN
        RETURN QUERY SELECT c.kind, c.id, max(c.version), max(c.seq),
            NULL::uuid, NULL::text, NULL::text, NULL::boolean
        FROM change c
        WHERE c.xid >= low
        GROUP BY c.kind, c.id;
    END IF;

    -- last: what it changes comes back as notices once it is committed

    PERFORM plans_due();
END
$$;

COMMENT ON FUNCTION keyring_changes(text, bigint, uuid) IS
    'Changes since a node''s last horizon, after a head row; none when the'
    ' node''s last change is unknown here, and the node then loads all again';


CREATE OR REPLACE FUNCTION node_seen(node uuid, name text, version text)
RETURNS int
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    seen  int;
BEGIN
    INSERT INTO node AS n (id, name, version)
    VALUES ($1, $2, $3)
    ON CONFLICT (id) DO UPDATE
    SET name = excluded.name, version = excluded.version, seen_at = now();

    -- the last line stays: it is what nodes know this database by

    DELETE FROM change c
    WHERE c.seq IN (SELECT o.seq FROM change o
                    WHERE o.at < now() - interval '1 day'
                    ORDER BY o.at LIMIT 10000)
        AND c.seq < (SELECT max(l.seq) FROM change l);

    PERFORM idempotency_drop();
    PERFORM audit_drop();
    PERFORM webhook_drop();
    PERFORM calendars_due();

    seen := (SELECT count(*) FROM node n
             WHERE n.seen_at > now() - interval '1 hour');

    -- last: their locks are held until the end

    PERFORM periods_due();
    PERFORM usage_keep();

    RETURN seen;
END
$$;

COMMENT ON FUNCTION node_seen(uuid, text, text) IS
    'A node''s heartbeat; returns how many were seen in the last hour';

GRANT SELECT ON SEQUENCE version TO apikey_gateway;
GRANT EXECUTE ON FUNCTION micros(timestamptz), pattern_rank(text),
    keyring_changes(text, bigint, uuid), node_seen(uuid, text, text)
    TO apikey_gateway;
