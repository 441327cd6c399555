--
-- What alerts look at: the limits that usage tells of, credits, spend, expiry,
-- prices, journals.  One call of alert_turn() looks at who was used since the
-- last one, at some of all others in turn, and at what is firing, for about a
-- second at most.  Of limits that nobody but nodes and Redis counts it says who
-- is to be looked at, and alert_looked() is told what was found.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


-- Kept calendars are read; those that nobody has are computed.

CREATE OR REPLACE FUNCTION alert_period(a_zone text, a_anchor int,
    a_unit text, OUT since bigint, OUT until bigint)
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    list  bigint[];
    us    bigint := micros(now());
BEGIN
    IF a_unit = 'total' THEN
        since := 0;
        RETURN;
    END IF;

    SELECT c.bounds INTO list FROM calendar c
    WHERE c.id = calendar_id(a_zone, a_anchor, a_unit);

    list := coalesce(list, calendar_bounds(a_zone, CASE a_unit
        WHEN 'month' THEN a_anchor ELSE 1 END, a_unit, now()));

    SELECT max(b) FILTER (WHERE b <= us), min(b) FILTER (WHERE b > us)
    INTO since, until
    FROM unnest(list) AS b;
END
$$;

COMMENT ON FUNCTION alert_period(text, int, text) IS
    'The day, week or month that is now, or all time';


CREATE OR REPLACE FUNCTION alert_for(a alert, kind text, key key, own owner)
RETURNS boolean
LANGUAGE sql STABLE
RETURN a.kind = alert_for.kind
    AND (a.owner_id IS NULL OR a.owner_id = own.id)
    AND (a.match_key IS NULL OR a.match_key = key.id)
    AND (a.match_owner IS NULL OR a.match_owner = own.external);

COMMENT ON FUNCTION alert_for(alert, text, key, owner) IS
    'Whether a rule is of this kind and looks at this key, or owner';


CREATE OR REPLACE FUNCTION alert_covers(a alert, level text, name text)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN a.match_limit IS NULL OR pattern_covers(a.match_limit,
    CASE level WHEN 'owner' THEN 'owner:' ELSE '' END || name);

COMMENT ON FUNCTION alert_covers(alert, text, text) IS
    'Whether a rule looks at limits of this name';


-- One holder: its limits that usage tells of, what it has spent, its expiry.

CREATE OR REPLACE FUNCTION alert_holder(rules alert[], key_id uuid,
    owner_id uuid)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    k     key;
    o     owner;
    mine  alert[];
BEGIN
    IF alert_holder.key_id IS NOT NULL THEN
        SELECT * INTO k FROM key x WHERE x.id = alert_holder.key_id;
        SELECT * INTO o FROM owner x WHERE x.id = k.owner_id;

        IF k.id IS NULL OR key_status(k) IN ('revoked', 'expired') THEN
            RETURN;
        END IF;
    ELSE
        SELECT * INTO o FROM owner x
        WHERE x.id = alert_holder.owner_id AND x.deleted_at IS NULL;

        IF o.id IS NULL THEN
            RETURN;
        END IF;
    END IF;

    mine := ARRAY(SELECT a FROM unnest(rules) AS a
                  WHERE alert_for(a, 'limit', k, o));
    PERFORM alert_limits(mine, k, o);
    PERFORM alert_credits(mine, k, o);
    PERFORM alert_spend(ARRAY(SELECT a FROM unnest(rules) AS a
        WHERE alert_for(a, 'spend', k, o)
            AND a.per = CASE WHEN k.id IS NULL THEN 'owner' ELSE 'key' END),
        k, o);

    IF k.expires_at IS NOT NULL THEN
        PERFORM alert_expiry(ARRAY(SELECT a FROM unnest(rules) AS a
            WHERE alert_for(a, 'expiry', k, o)), k, o);
    END IF;

EXCEPTION WHEN OTHERS THEN
    -- as where its time zone is gone: all others are looked at
    RAISE WARNING 'apikey.alert_holder %: SQLSTATE %',
        coalesce(alert_holder.key_id, alert_holder.owner_id), SQLSTATE;

    -- nobody knows: what is firing stays so
    UPDATE alert_state s SET checked_at = now()
    WHERE s.firing AND NOT s.live
        AND s.holder = coalesce(alert_holder.key_id, alert_holder.owner_id);
END
$$;

COMMENT ON FUNCTION alert_holder(alert[], uuid, uuid) IS
    'Looks at a key, or at an owner, with all rules';


CREATE OR REPLACE FUNCTION alert_limit_info(k key, o owner, name text,
    unit text, "window" text, "limit" bigint, used numeric, most bigint,
    until timestamptz)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN (SELECT to_jsonb(x) FROM (SELECT k.id AS key, o.external AS owner,
        CASE WHEN k.id IS NULL THEN 'owner:' ELSE '' END || name
            AS limit_name,
        CASE WHEN k.id IS NULL THEN 'owner' ELSE 'key' END AS level, unit,
        "window", amount_json("limit", unit) AS "limit",
        amount_json(used::bigint, unit) AS used,
        amount_json(greatest(most - used, 0)::bigint, unit) AS remaining,
        trunc(used * 100 / most, 1) AS percent,
        CASE unit WHEN 'cost' THEN currency() END AS currency,
        time_text(until) AS resets_at) AS x);

COMMENT ON FUNCTION alert_limit_info(key, owner, text, text, text, bigint,
    numeric, bigint, timestamptz) IS 'What is told of a limit';


-- A plan of limits_held() takes a hundred times as long to make as to run, and
-- would be made for each holder: one made for all is hardly slower.

CREATE OR REPLACE FUNCTION alert_held(k key, o owner)
RETURNS TABLE (name text, unit text, "limit" bigint, window_text text,
    window_us bigint, burst bigint, model text, service text, kind text,
    made bigint)
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY SELECT h.name, h.unit, h."limit", h.window_text, h.window_us,
        h.burst, h.model, h.service, h.kind, h.made
    FROM limits_held(k.id, CASE WHEN k.id IS NULL THEN o.id END,
        CASE WHEN k.id IS NULL THEN o.plan ELSE k.plan END) AS h;
END
$$;

COMMENT ON FUNCTION alert_held(key, owner) IS
    'All limits that a key holds, or an owner where there is no key';


CREATE OR REPLACE FUNCTION alert_limits(rules alert[], k key, o owner)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    l     record;
    p     record;
    a     alert;
    seen  alert_state;
    used  numeric;
BEGIN
    seen.level := CASE WHEN k.id IS NULL THEN 'owner' ELSE 'key' END;
    seen.holder := coalesce(k.id, o.id);
    seen.live := false;

    FOR l IN SELECT h.*
             FROM alert_held(k, o) AS h
             WHERE cardinality(rules) > 0
                 AND h.kind IN ('calendar', 'total')
                 AND h.unit <> 'concurrent' AND h."limit" > 0
                 AND EXISTS (SELECT FROM unnest(rules) AS r
                             WHERE alert_covers(r, seen.level, h.name))
    LOOP
        p := alert_period(coalesce(o.time_zone, 'UTC'),
            coalesce(o.anchor_day, 1), l.window_text);
        used := (SELECT q.used FROM quota_used(seen.holder, seen.level, l.unit,
            l.service, l.model, greatest(l.made, p.since)) AS q);

        seen.subject := concat_ws(' ', seen.level, seen.holder, l.name);
        seen.period := coalesce(p.since, 0);
        seen.again_at := coalesce(usage_time(p.until), 'infinity');
        seen.info := alert_limit_info(k, o, l.name, l.unit, l.window_text,
            l."limit", used, l."limit", usage_time(p.until));

        FOREACH a IN ARRAY rules
        LOOP
            CONTINUE WHEN NOT alert_covers(a, seen.level, l.name);

            PERFORM alert_observe(a, seen, trunc(used * 100 / l."limit", 1));
        END LOOP;
    END LOOP;
END
$$;

COMMENT ON FUNCTION alert_limits(alert[], key, owner) IS
    'Percent of the limits of a key or an owner that usage tells of';


-- Of what there was when they were last filled.  A refill that is due counts
-- before credits_due() has been there.

CREATE OR REPLACE FUNCTION alert_credits(rules alert[], k key, o owner)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    c     credit;
    a     alert;
    seen  alert_state;
    used  numeric;
BEGIN
    SELECT * INTO c FROM credit x
    WHERE cardinality(rules) > 0
        AND (x.key_id = k.id OR k.id IS NULL AND x.owner_id = o.id);

    IF NOT FOUND OR coalesce(c.filled, 0) = 0 OR c.refill_at <= now() THEN
        RETURN;
    END IF;

    used := c.filled - (c.total - c.used);

    seen.level := CASE WHEN k.id IS NULL THEN 'owner' ELSE 'key' END;
    seen.holder := coalesce(k.id, o.id);
    seen.subject := concat_ws(' ', 'credits', seen.level, seen.holder);
    seen.live := false;
    seen.period := micros(c.filled_at);
    seen.again_at := 'infinity';
    seen.info := alert_limit_info(k, o, 'credits', c.unit, NULL, c.filled,
        used, c.filled, c.refill_at);

    FOREACH a IN ARRAY rules
    LOOP
        CONTINUE WHEN NOT alert_covers(a, seen.level, 'credits');

        PERFORM alert_observe(a, seen, trunc(used * 100 / c.filled, 1));
    END LOOP;
END
$$;

COMMENT ON FUNCTION alert_credits(alert[], key, owner) IS
    'Percent of the credits of a key or an owner';


CREATE OR REPLACE FUNCTION alert_spend(rules alert[], k key, o owner)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    a     alert;
    p     record;
    seen  alert_state;
    cost  numeric;
BEGIN
    FOREACH a IN ARRAY rules
    LOOP
        p := alert_period(coalesce(o.time_zone, 'UTC'),
            coalesce(o.anchor_day, 1), a.window_text);

        -- all time is kept by key; roll-ups of all years would take minutes

        cost := CASE
            WHEN k.id IS NOT NULL AND a.window_text = 'total' THEN (
                SELECT u.cost FROM key_usage u WHERE u.key_id = k.id)
            WHEN o.id IS NULL AND a.window_text = 'total' THEN (
                SELECT coalesce(sum(u.cost), 0) FROM key_usage u)
                + (SELECT coalesce(sum(q.cost), 0) FROM usage_quarter q
                   WHERE q.key_id = '00000000-0000-0000-0000-000000000000')
            WHEN k.id IS NOT NULL THEN (SELECT sum(q.cost)
                FROM usage_quarter q WHERE q.key_id = k.id
                    AND q.start >= usage_time(p.since))
            WHEN o.id IS NOT NULL THEN (SELECT sum(q.cost)
                FROM usage_quarter q WHERE q.owner = o.external
                    AND q.start >= usage_time(p.since))
            ELSE (SELECT sum(q.cost) FROM usage_quarter q
                WHERE q.start >= usage_time(p.since)) END;
        cost := coalesce(cost, 0);

        seen.level := CASE WHEN k.id IS NOT NULL THEN 'key'
            WHEN o.id IS NOT NULL THEN 'owner' END;
        seen.holder := coalesce(k.id, o.id);
        seen.subject := concat_ws(' ', coalesce(seen.level, 'all'),
            seen.holder);
        seen.live := false;
        seen.period := p.since;
        seen.again_at := coalesce(usage_time(p.until), 'infinity');
        seen.info := (SELECT to_jsonb(x) FROM (SELECT k.id AS key,
                o.external AS owner, a.per, a.window_text AS "window",
                money_text(cost) AS cost, currency() AS currency,
                CASE WHEN p.since > 0 THEN time_text(usage_time(p.since)) END
                    AS start,
                time_text(usage_time(p.until)) AS "end") AS x);

        PERFORM alert_observe(a, seen, cost);
    END LOOP;
END
$$;

COMMENT ON FUNCTION alert_spend(alert[], key, owner) IS
    'What a key, an owner, or all have spent';


-- All roll-ups of a day, week or month are summed up, which is no more than a
-- twentieth of the time; between that, what fires goes on.

CREATE OR REPLACE FUNCTION alert_spend_all(rules alert[], g alert_progress)
RETURNS alert_progress
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    began  timestamptz := clock_timestamp();
BEGIN
    IF cardinality(rules) = 0 THEN
        RETURN g;
    END IF;

    IF now() < g.spent_at + 20 * g.spent_took THEN
        UPDATE alert_state s SET checked_at = now()
        WHERE s.firing AND s.checked_at < now() - interval '10 s'
            AND s.alert_id = ANY (ARRAY(SELECT a.id FROM unnest(rules) AS a));
        RETURN g;
    END IF;

    PERFORM alert_spend(rules, NULL, NULL);

    g.spent_at := now();
    g.spent_took := clock_timestamp() - began;

    RETURN g;
END
$$;

COMMENT ON FUNCTION alert_spend_all(alert[], alert_progress) IS
    'What all have spent, now or a little later';


-- A key that was made to live for an hour need not be told of a day ahead.

CREATE OR REPLACE FUNCTION alert_expiry(rules alert[], k key, o owner)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    a     alert;
    seen  alert_state;
BEGIN
    seen.level := 'key';
    seen.holder := k.id;
    seen.subject := 'key ' || k.id;
    seen.live := false;
    seen.period := micros(k.expires_at);
    seen.again_at := 'infinity';
    seen.info := (SELECT to_jsonb(x) FROM (SELECT k.id AS key,
            o.external AS owner, k.name AS key_name, k.customer,
            time_text(k.expires_at) AS expires_at) AS x);

    FOREACH a IN ARRAY rules
    LOOP
        PERFORM alert_observe(a, seen,
            micros(k.expires_at)::numeric - micros(now()),
            micros(k.expires_at)::numeric - micros(k.created_at));
    END LOOP;
END
$$;

COMMENT ON FUNCTION alert_expiry(alert[], key, owner) IS
    'When a key expires';


-- What came late, since a node had been away, fires all the same: it has not
-- fired since.

DROP FUNCTION IF EXISTS alert_prices(alert);

-- Clients choose the names of models, so that no more than so many are told
-- one by one, those first that are firing; the others come together.  What was
-- imported did not run here.

CREATE OR REPLACE FUNCTION alert_prices(a alert, most int DEFAULT 100)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    q     record;
    seen  alert_state;
BEGIN
    FOR q IN WITH used AS (
            SELECT u.service, u.model, sum(u.unpriced) AS n,
                max(u.start) AS last, 'price ' || jsonb_build_array(u.service,
                    u.model)::text AS subject
            FROM usage_quarter u
            WHERE u.unpriced > 0 AND u.start > now() - interval '1 day'
                AND u.node <> ALL (usage_imported())
            GROUP BY u.service, u.model),
        placed AS (
            SELECT u.*, s.fired_at, row_number() OVER (ORDER BY
                s.firing IS TRUE DESC, u.n DESC, u.service, u.model) AS place
            FROM used u LEFT JOIN alert_state s ON s.alert_id = a.id
                AND s.subject = u.subject
            WHERE u.last >= now() - interval '75 min'
                OR s.fired_at <= u.last OR s.fired_at IS NULL)
        SELECT p.subject, p.service, nullif(p.model, '') AS model,
            1 AS models, p.n, p.last, EXISTS (SELECT FROM price c
                WHERE c.deleted_at IS NULL AND c.valid_from <= now()
                    AND (c.service IS NULL
                        OR pattern_covers(c.service, p.service))
                    AND (c.model IS NULL
                        OR pattern_covers(c.model, p.model))) AS priced
        FROM placed p WHERE p.place <= most
        UNION ALL
        SELECT 'prices', NULL, NULL, count(*), sum(p.n), max(p.last), NULL
        FROM placed p WHERE p.place > most HAVING count(*) > 0
    LOOP
        seen.subject := q.subject;
        seen.live := false;
        seen.period := '';
        seen.again_at := now() + interval '1 hour';
        seen.info := (SELECT to_jsonb(x) FROM (SELECT q.service, q.model,
                q.models, q.n AS requests, q.priced,
                time_text(q.last) AS last_start) AS x);

        PERFORM alert_observe(a, seen, q.n);
    END LOOP;
END
$$;

COMMENT ON FUNCTION alert_prices(alert, int) IS
    'Requests whose price is unknown, of a day';


CREATE OR REPLACE FUNCTION alert_backlog(a alert)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    n     record;
    seen  alert_state;
BEGIN
    FOR n IN SELECT u.node, u.name, u.as_of,
                 greatest(micros(now()) - micros(u.as_of), 0) AS lag
             FROM usage_node u LEFT JOIN node x ON x.id = u.node
             WHERE greatest(u.seen_at, x.seen_at) > now() - interval '3 min'
    LOOP
        seen.subject := 'node ' || n.node;
        seen.live := false;
        seen.period := '';
        seen.again_at := now() + interval '10 min';
        seen.info := (SELECT to_jsonb(x) FROM (SELECT n.name AS node,
                time_text(n.as_of) AS as_of,
                ceil(n.lag / 1000000.0) AS lag_seconds) AS x);

        PERFORM alert_observe(a, seen, n.lag);
    END LOOP;
END
$$;

COMMENT ON FUNCTION alert_backlog(alert) IS
    'How far nodes that live are behind with what they have recorded';


-- Lengths of time, and slots.  What each node counts by itself (own) is over
-- when none of them sees it any more, not when one of them does not, and has
-- nothing to do with what stands in Redis.

CREATE OR REPLACE FUNCTION alert_live_subject(level text, holder uuid,
    name text, own boolean)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN concat_ws(' ', CASE WHEN own THEN 'local' END, level, holder, name);

COMMENT ON FUNCTION alert_live_subject(text, uuid, text, boolean) IS
    'What alert_state calls a limit that nodes or Redis count';


CREATE OR REPLACE FUNCTION alert_live(rules alert[], live jsonb, own boolean)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    least_    numeric := (SELECT min(a.thresholds[1]) FROM unnest(rules) AS a
                          WHERE a.kind = 'limit');
    deadline  timestamptz := clock_timestamp() + interval '700 ms';
    v         record;
    k         key;
    o         owner;
BEGIN
    -- remaining is what the burst has left: used is at least its percentage

    FOR v IN SELECT x.* FROM (SELECT y ->> 'level' AS level,
                 (y ->> 'holder')::uuid AS holder, y ->> 'name' AS name,
                 (y ->> 'used')::numeric AS used,
                 (y ->> 'remaining')::numeric AS remaining,
                 alert_live_subject(y ->> 'level', (y ->> 'holder')::uuid,
                     y ->> 'name', own)
                     IN (SELECT s.subject FROM alert_state s
                         WHERE s.live AND s.firing) AS told
                 FROM jsonb_array_elements(live) AS y
                 WHERE y ? 'used') AS x
             WHERE x.told OR x.remaining = 0
                 OR x.used * 100 >= (x.used + x.remaining) * least_
             ORDER BY random()
    LOOP
        EXIT WHEN clock_timestamp() > deadline;

        k := NULL;
        o := NULL;

        IF v.level = 'key' THEN
            SELECT * INTO k FROM key x WHERE x.id = v.holder;
            SELECT * INTO o FROM owner x WHERE x.id = k.owner_id;
        ELSE
            SELECT * INTO o FROM owner x WHERE x.id = v.holder;
        END IF;

        PERFORM alert_live_limit(ARRAY(SELECT a FROM unnest(rules) AS a
                WHERE alert_for(a, 'limit', k, o)), k, o, v.name, v.used, own);
    END LOOP;
END
$$;

COMMENT ON FUNCTION alert_live(alert[], jsonb, boolean) IS
    'Percent of the limits that nodes and Redis count; live as in'
    ' limits_now(), own: of one node''s own';


CREATE OR REPLACE FUNCTION alert_live_limit(rules alert[], k key, o owner,
    name text, used numeric, own boolean)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    l        record;
    a        alert;
    seen     alert_state;
    percent  numeric;
BEGIN
    SELECT h.*, coalesce(h.burst, h."limit") AS most INTO l
    FROM alert_held(k, o) AS h
    WHERE h.name = alert_live_limit.name
        AND h.kind NOT IN ('calendar', 'total', 'credits');

    IF NOT FOUND OR l.most = 0 THEN
        RETURN;
    END IF;

    percent := trunc(used * 100 / l.most, 1);

    seen.level := CASE WHEN k.id IS NULL THEN 'owner' ELSE 'key' END;
    seen.holder := coalesce(k.id, o.id);
    seen.subject := alert_live_subject(seen.level, seen.holder, l.name, own);
    seen.live := true;
    seen.period := '';
    seen.again_at := now() + coalesce(l.window_us, 60000000)
        * interval '1 microsecond';
    seen.info := alert_limit_info(k, o, l.name, l.unit, l.window_text,
        l."limit", used, l.most, NULL);

    FOREACH a IN ARRAY rules
    LOOP
        CONTINUE WHEN NOT alert_covers(a, seen.level, l.name);

        IF own THEN
            a.thresholds := ARRAY(SELECT t FROM unnest(a.thresholds) AS t
                                  WHERE t <= percent);
        END IF;

        PERFORM alert_observe(a, seen, percent);
    END LOOP;
END
$$;

COMMENT ON FUNCTION alert_live_limit(alert[], key, owner, text, numeric,
    boolean) IS 'What was seen of such a limit';


CREATE OR REPLACE FUNCTION alert_there(s alert_state)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN EXISTS (SELECT FROM key k, alert_held(k, NULL) AS h
        WHERE s.level = 'key' AND k.id = s.holder AND k.revoked_at IS NULL
            AND s.subject IN (alert_live_subject('key', k.id, h.name, true),
                alert_live_subject('key', k.id, h.name, false)))
    OR EXISTS (SELECT FROM owner o, alert_held(NULL, o) AS h
        WHERE s.level = 'owner' AND o.id = s.holder AND o.deleted_at IS NULL
            AND s.subject IN (alert_live_subject('owner', o.id, h.name, true),
                alert_live_subject('owner', o.id, h.name, false)));

COMMENT ON FUNCTION alert_there(alert_state) IS
    'Whether the limit that it is about still is there';


-- What was not seen for half a minute is looked at by itself, and is over if
-- it is not seen then.  What only nodes see they are given a minute to see.

CREATE OR REPLACE FUNCTION alert_stale(rules alert[])
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    s  alert_state;
    n  alert_state;
BEGIN
    FOR s IN SELECT x.* FROM alert_state x
             WHERE x.firing AND x.checked_at < now() - CASE
                 WHEN x.live THEN interval '1 min' ELSE interval '30 s' END
             ORDER BY x.checked_at LIMIT 100
    LOOP
        IF s.holder IS NOT NULL AND NOT s.live THEN
            PERFORM alert_holder(rules,
                CASE s.level WHEN 'key' THEN s.holder END,
                CASE s.level WHEN 'owner' THEN s.holder END);
        END IF;

        SELECT * INTO n FROM alert_state x
        WHERE (x.alert_id, x.subject, x.threshold)
            = (s.alert_id, s.subject, s.threshold);

        IF n.firing AND n.checked_at = s.checked_at THEN
            PERFORM alert_resolve(n, CASE
                WHEN s.live AND alert_there(s) OR s.holder IS NULL
                THEN 'below' ELSE 'gone' END);
        END IF;
    END LOOP;

    -- states that say nothing any more

    DELETE FROM alert_state x
    WHERE NOT x.firing AND x.again_at < now() - interval '1 day';
    DELETE FROM alert_entry e
    WHERE e.at < now() - interval '1 year';
END
$$;

COMMENT ON FUNCTION alert_stale(alert[]) IS
    'Resolves what is not seen any more';


-- Who was used since the last turn comes first, in an order that gives everyone
-- a chance where there is no time for all.

CREATE OR REPLACE FUNCTION alert_used(rules alert[], since timestamptz,
    deadline timestamptz)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    u  record;
BEGIN
    FOR u IN SELECT x.key_id, x.owner_id
             FROM (SELECT y.key_id, NULL::uuid AS owner_id
                   FROM key_usage y WHERE y.last_slot >= since
                   UNION ALL
                   SELECT DISTINCT NULL::uuid, y.owner_id
                   FROM key_usage y
                   WHERE y.last_slot >= since AND y.owner_id IS NOT NULL) AS x
             ORDER BY random() LIMIT 2000
    LOOP
        EXIT WHEN clock_timestamp() > deadline;

        PERFORM alert_holder(rules, u.key_id, u.owner_id);
    END LOOP;
END
$$;

COMMENT ON FUNCTION alert_used(alert[], timestamptz, timestamptz) IS
    'Looks at the keys used since then, and at their owners';


-- What was not used may have been edited, and what came late was used long ago.

CREATE OR REPLACE FUNCTION alert_sweep(rules alert[], g alert_progress,
    deadline timestamptz)
RETURNS alert_progress
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    first  CONSTANT uuid := '00000000-0000-0000-0000-000000000000';
    piece  CONSTANT interval := '100 ms';
    u      record;
    n      int := 0;
BEGIN
    -- one of each at least, however little time there is

    FOR u IN SELECT o.id FROM owner o WHERE o.id > g.next_owner
             ORDER BY o.id LIMIT 50
    LOOP
        n := n + 1;
        PERFORM alert_holder(rules, NULL, u.id);
        g.next_owner := u.id;

        EXIT WHEN clock_timestamp() > deadline - piece;
    END LOOP;

    IF n = 0 THEN
        g.next_owner := first;
    END IF;

    n := 0;

    FOR u IN SELECT k.id FROM key k WHERE k.id > g.next_key
             ORDER BY k.id LIMIT 50
    LOOP
        n := n + 1;
        PERFORM alert_holder(rules, u.id, NULL);
        g.next_key := u.id;

        EXIT WHEN clock_timestamp() > deadline;
    END LOOP;

    IF n = 0 THEN
        g.next_key := first;
    END IF;

    RETURN g;
END
$$;

COMMENT ON FUNCTION alert_sweep(alert[], alert_progress, timestamptz) IS
    'Looks at some of all owners and keys, behind the last ones';


-- Keys whose expiry has come within a threshold since the last turn.

CREATE OR REPLACE FUNCTION alert_expiring(rules alert[], since timestamptz)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    t  numeric;
    u  record;
BEGIN
    FOR t IN SELECT DISTINCT x FROM unnest(rules) AS a,
                 unnest(a.thresholds) AS x WHERE a.kind = 'expiry'
    LOOP
        FOR u IN SELECT k.id FROM key k
                 WHERE coalesce(k.expires_at, 'infinity')
                         > since + t * interval '1 microsecond'
                     AND coalesce(k.expires_at, 'infinity')
                         <= now() + t * interval '1 microsecond'
                     AND k.revoked_at IS NULL
                 LIMIT 1000
        LOOP
            PERFORM alert_holder(ARRAY(SELECT a FROM unnest(rules) AS a
                WHERE a.kind = 'expiry'), u.id, NULL);
        END LOOP;
    END LOOP;
END
$$;

COMMENT ON FUNCTION alert_expiring(alert[], timestamptz) IS
    'Looks at keys that expire a threshold from now';


CREATE OR REPLACE FUNCTION alert_all(rules alert[])
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    g      alert_progress;
    known  timestamptz := usage_as_of();
    a      alert;
    hold   alert[] := ARRAY(SELECT r FROM unnest(rules) AS r
                            WHERE r.kind IN ('limit', 'spend', 'expiry'));
BEGIN
    SELECT * INTO g FROM alert_progress FOR NO KEY UPDATE;

    IF g.turned_at > now() - interval '2 s' THEN
        RETURN;                  -- another node has just done all else
    END IF;

    FOREACH a IN ARRAY rules
    LOOP
        CASE a.kind
            WHEN 'unknown_price' THEN
                PERFORM alert_prices(a);
            WHEN 'journal_backlog' THEN
                PERFORM alert_backlog(a);
            ELSE
                NULL;
        END CASE;
    END LOOP;

    g := alert_spend_all(ARRAY(SELECT r FROM unnest(rules) AS r
        WHERE r.kind = 'spend' AND r.per = 'all'), g);

    IF cardinality(hold) > 0 THEN
        PERFORM alert_expiring(hold, g.turned_at);
        PERFORM alert_used(hold, least(g.as_of, known) - interval '10 s',
            clock_timestamp() + interval '700 ms');
        g := alert_sweep(hold, g, clock_timestamp() + interval '200 ms');
    END IF;

    PERFORM alert_stale(rules);

    UPDATE alert_progress SET turned_at = now(), as_of = known,
        next_key = g.next_key, next_owner = g.next_owner,
        spent_at = g.spent_at, spent_took = g.spent_took;
END
$$;

COMMENT ON FUNCTION alert_all(alert[]) IS
    'Everything there is to look at now';


-- In Redis those are looked at who were used since the round before, in the
-- order of their ids, by one node at a time; and all that is firing.

CREATE OR REPLACE FUNCTION alert_ask(rules alert[])
RETURNS text
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    most   CONSTANT int := 500;
    g      alert_progress;
    known  timestamptz := least(usage_as_of(), now()) - interval '10 s';
    used   uuid[];
BEGIN
    SELECT * INTO g FROM alert_progress x
    WHERE x.asked_at < now() - interval '2 s' FOR NO KEY UPDATE SKIP LOCKED;

    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    used := ARRAY(SELECT u.key_id FROM key_usage u
                  WHERE u.last_slot >= g.ask_since AND u.key_id > g.ask_next
                  ORDER BY u.key_id LIMIT most);

    IF cardinality(used) = most THEN
        g.ask_next := used[most];
    ELSE
        g.ask_next := '00000000-0000-0000-0000-000000000000';
        g.ask_since := g.ask_began;
        g.ask_began := known;
    END IF;

    UPDATE alert_progress SET asked_at = now(), ask_next = g.ask_next,
        ask_since = g.ask_since, ask_began = g.ask_began;

    RETURN alert_ask_lines(rules, used);
END
$$;

COMMENT ON FUNCTION alert_ask(alert[]) IS
    'Whose limits a node is to look at in Redis, as limit_holders() has it;'
    ' null: no one''s';


CREATE OR REPLACE FUNCTION alert_ask_lines(rules alert[], used uuid[])
RETURNS text
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN (WITH told AS (
        SELECT s.level, s.holder FROM alert_state s
        WHERE s.live AND s.firing
        ORDER BY s.checked_at LIMIT 500)
    SELECT string_agg(x.line, E'\n') FROM (
        SELECT concat_ws(' ', 'key', k.id, coalesce(k.owner_id, k.id)) AS line
        FROM key k LEFT JOIN owner o ON o.id = k.owner_id
        WHERE k.id IN (SELECT unnest(used) UNION ALL
                       SELECT t.holder FROM told t WHERE t.level = 'key')
            AND k.revoked_at IS NULL
            AND EXISTS (SELECT FROM limits_held(k.id, NULL, k.plan) AS h,
                    unnest(rules) AS a
                WHERE h.kind NOT IN ('calendar', 'total', 'credits')
                    AND alert_for(a, 'limit', k, o)
                    AND alert_covers(a, 'key', h.name))
        UNION ALL
        SELECT concat_ws(' ', 'owner', o.id, o.id)
        FROM owner o
        WHERE o.id IN (SELECT u.owner_id FROM key_usage u
                       WHERE u.key_id = ANY (used) UNION ALL
                       SELECT t.holder FROM told t WHERE t.level = 'owner')
            AND o.deleted_at IS NULL
            AND EXISTS (SELECT FROM limits_held(NULL, o.id, o.plan) AS h,
                    unnest(rules) AS a
                WHERE h.kind NOT IN ('calendar', 'total', 'credits')
                    AND alert_for(a, 'limit', NULL, o)
                    AND alert_covers(a, 'owner', h.name))) AS x);

COMMENT ON FUNCTION alert_ask_lines(alert[], uuid[]) IS
    'Of these keys, their owners and whatever is firing, those with limits'
    ' that only Redis counts and rules look at';


CREATE OR REPLACE FUNCTION alert_rules()
RETURNS alert[]
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    PERFORM set_config('apikey.caller', 'node', true);

    RETURN ARRAY(SELECT a FROM alert a
                 WHERE a.enabled AND a.deleted_at IS NULL ORDER BY a.id);
END
$$;

COMMENT ON FUNCTION alert_rules() IS
    'For a node: the rules that hold';


DROP FUNCTION IF EXISTS alert_turn(jsonb);
DROP FUNCTION IF EXISTS alert_all(alert[], jsonb);
DROP FUNCTION IF EXISTS alert_live(alert[], jsonb);

CREATE OR REPLACE FUNCTION alert_turn(own boolean)
RETURNS text
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET jit = off
AS $$
DECLARE
    rules  alert[] := alert_rules();
    least_ int := (SELECT floor(min(a.thresholds[1]))
                   FROM unnest(rules) AS a WHERE a.kind = 'limit');
BEGIN
    -- one node at a time: what two saw at once is told once

    IF cardinality(rules) > 0
        AND pg_try_advisory_xact_lock(hashtext('apikey.alert_turn'))
    THEN
        PERFORM alert_all(rules);
    END IF;

    RETURN CASE WHEN own THEN 'percent ' || least_
        WHEN NOT own AND least_ IS NOT NULL THEN alert_ask(rules) END;
END
$$;

COMMENT ON FUNCTION alert_turn(boolean) IS
    'Looks at what alerts are about; returns what the node is to look at by'
    ' itself, as limit_holders() has it or "percent N", or null.  own: it'
    ' counts by itself, without Redis';


CREATE OR REPLACE FUNCTION alert_looked(live jsonb, own boolean)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET jit = off
SET lock_timeout = '10s'
AS $$
DECLARE
    rules  alert[] := alert_rules();
BEGIN
    IF cardinality(rules) = 0 THEN
        RETURN;
    END IF;

    -- what was looked at is not thrown away because another node has its turn

    PERFORM pg_advisory_xact_lock(hashtext('apikey.alert_turn'));

    IF live = 'null' THEN
        UPDATE alert_state s SET checked_at = now()
        WHERE s.live AND s.firing;
        RETURN;
    END IF;

    PERFORM alert_live(rules, live, own);
END
$$;

COMMENT ON FUNCTION alert_looked(jsonb, boolean) IS
    'What the node has found; null: Redis does not answer, and what is firing'
    ' stays so';

GRANT EXECUTE ON FUNCTION alert_period(text, int, text),
    alert_for(alert, text, key, owner), alert_covers(alert, text, text),
    alert_holder(alert[], uuid, uuid),
    alert_limit_info(key, owner, text, text, text, bigint, numeric, bigint,
        timestamptz),
    alert_held(key, owner), alert_limits(alert[], key, owner),
    alert_credits(alert[], key, owner),
    alert_spend(alert[], key, owner),
    alert_spend_all(alert[], alert_progress),
    alert_expiry(alert[], key, owner), alert_prices(alert, int),
    alert_backlog(alert), alert_live(alert[], jsonb, boolean),
    alert_live_limit(alert[], key, owner, text, numeric, boolean),
    alert_live_subject(text, uuid, text, boolean),
    alert_there(alert_state), alert_stale(alert[]),
    alert_used(alert[], timestamptz, timestamptz),
    alert_sweep(alert[], alert_progress, timestamptz),
    alert_expiring(alert[], timestamptz), alert_all(alert[]),
    alert_ask(alert[]), alert_ask_lines(alert[], uuid[]), alert_rules(),
    alert_turn(boolean), alert_looked(jsonb, boolean) TO apikey_gateway;
