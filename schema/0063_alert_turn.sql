--
-- What alerts look at: the limits that usage tells of, spend, expiry, prices,
-- journals; and what nodes say of limits that only they count.  One call of
-- alert_turn() looks at who was used since the last one, at some of all others
-- in turn, and at what is firing, for about a second at most.
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


-- One holder: its limits that usage tells of, what it has spent, its expiry.

CREATE OR REPLACE FUNCTION alert_holder(rules alert[], key_id uuid,
    owner_id uuid)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    k  key;
    o  owner;
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

    PERFORM alert_limits(ARRAY(SELECT a FROM unnest(rules) AS a
        WHERE alert_for(a, 'limit', k, o)), k, o);
    PERFORM alert_spend(ARRAY(SELECT a FROM unnest(rules) AS a
        WHERE alert_for(a, 'spend', k, o)
            AND a.per = CASE WHEN k.id IS NULL THEN 'owner' ELSE 'key' END),
        k, o);

    IF k.expires_at IS NOT NULL THEN
        PERFORM alert_expiry(ARRAY(SELECT a FROM unnest(rules) AS a
            WHERE alert_for(a, 'expiry', k, o)), k, o);
    END IF;
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


CREATE OR REPLACE FUNCTION alert_limits(rules alert[], k key, o owner)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    l     record;
    p     record;
    a     alert;
    mine  alert[];
    seen  alert_state;
    used  numeric;
BEGIN
    IF cardinality(rules) = 0 THEN
        RETURN;
    END IF;

    FOR l IN SELECT h.*, CASE WHEN k.id IS NULL THEN 'owner:' ELSE '' END
                 || h.name AS called
             FROM limits_held(k.id, CASE WHEN k.id IS NULL THEN o.id END,
                 CASE WHEN k.id IS NULL THEN o.plan ELSE k.plan END) AS h
             WHERE h.kind IN ('calendar', 'total')
                 AND h.unit <> 'concurrent' AND h."limit" > 0
    LOOP
        mine := ARRAY(SELECT r FROM unnest(rules) AS r
            WHERE r.match_limit IS NULL
                OR pattern_covers(r.match_limit, l.called));
        CONTINUE WHEN cardinality(mine) = 0;

        p := alert_period(coalesce(o.time_zone, 'UTC'),
            coalesce(o.anchor_day, 1), l.window_text);
        used := (SELECT q.used FROM quota_used(coalesce(k.id, o.id),
            CASE WHEN k.id IS NULL THEN 'owner' ELSE 'key' END, l.unit,
            l.service, l.model, greatest(l.made, p.since)) AS q);

        seen.level := CASE WHEN k.id IS NULL THEN 'owner' ELSE 'key' END;
        seen.holder := coalesce(k.id, o.id);
        seen.subject := concat_ws(' ', seen.level, seen.holder, l.name);
        seen.live := false;
        seen.period := coalesce(p.since, 0);
        seen.again_at := coalesce(usage_time(p.until), 'infinity');
        seen.info := alert_limit_info(k, o, l.name, l.unit, l.window_text,
            l."limit", used, l."limit", usage_time(p.until));

        FOREACH a IN ARRAY mine
        LOOP
            PERFORM alert_observe(a, seen, trunc(used * 100 / l."limit", 1));
        END LOOP;
    END LOOP;
END
$$;

COMMENT ON FUNCTION alert_limits(alert[], key, owner) IS
    'Percent of the limits of a key or an owner that usage tells of';


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

        cost := CASE
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

CREATE OR REPLACE FUNCTION alert_prices(a alert)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    q     record;
    seen  alert_state;
BEGIN
    FOR q IN SELECT u.service, u.model, sum(u.unpriced) AS n,
                 max(u.start) AS last
             FROM usage_quarter u
             WHERE u.unpriced > 0 AND u.start > now() - interval '1 day'
             GROUP BY u.service, u.model
             ORDER BY u.service, u.model LIMIT 1000
    LOOP
        seen.subject := 'price '
            || jsonb_build_array(q.service, q.model)::text;

        CONTINUE WHEN q.last < now() - interval '75 min'
            AND EXISTS (SELECT FROM alert_state s
                WHERE s.alert_id = a.id AND s.subject = seen.subject
                    AND s.fired_at > q.last);

        seen.live := false;
        seen.period := '';
        seen.again_at := now() + interval '1 hour';
        seen.info := (SELECT to_jsonb(x) FROM (SELECT q.service,
                nullif(q.model, '') AS model, q.n AS requests,
                time_text(q.last) AS last_start) AS x);

        PERFORM alert_observe(a, seen, q.n);
    END LOOP;
END
$$;

COMMENT ON FUNCTION alert_prices(alert) IS
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


-- Lengths of time, and slots.  Every node says what it counts itself.

CREATE OR REPLACE FUNCTION alert_live(rules alert[], live jsonb)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    v     jsonb;
    k     key;
    o     owner;
    l     record;
    a     alert;
    seen  alert_state;
    used  numeric;
BEGIN
    FOR v IN SELECT x FROM jsonb_array_elements(live) AS x
             WHERE x ? 'used'
             ORDER BY x ->> 'holder', x ->> 'name' LIMIT 1000
    LOOP
        k := NULL;
        o := NULL;

        IF v ->> 'level' = 'key' THEN
            SELECT * INTO k FROM key x WHERE x.id = (v ->> 'holder')::uuid;
            SELECT * INTO o FROM owner x WHERE x.id = k.owner_id;
        ELSE
            SELECT * INTO o FROM owner x WHERE x.id = (v ->> 'holder')::uuid;
        END IF;

        SELECT h.*, coalesce(h.burst, h."limit") AS most INTO l
        FROM limits_held(k.id, CASE WHEN k.id IS NULL THEN o.id END,
            CASE WHEN k.id IS NULL THEN o.plan ELSE k.plan END) AS h
        WHERE h.name = v ->> 'name'
            AND h.kind NOT IN ('calendar', 'total', 'credits');

        CONTINUE WHEN NOT FOUND OR l.most = 0;

        used := (v ->> 'used')::numeric;
        seen.level := v ->> 'level';
        seen.holder := coalesce(k.id, o.id);
        seen.subject := concat_ws(' ', seen.level, seen.holder, l.name);
        seen.live := true;
        seen.period := '';
        seen.again_at := now() + coalesce(l.window_us, 60000000)
            * interval '1 microsecond';
        seen.info := alert_limit_info(k, o, l.name, l.unit, l.window_text,
            l."limit", used, l.most, NULL);

        FOREACH a IN ARRAY rules
        LOOP
            CONTINUE WHEN NOT alert_for(a, 'limit', k, o)
                OR NOT pattern_covers(coalesce(a.match_limit, '*'),
                    CASE WHEN k.id IS NULL THEN 'owner:' ELSE '' END
                    || l.name);

            PERFORM alert_observe(a, seen, trunc(used * 100 / l.most, 1));
        END LOOP;
    END LOOP;
END
$$;

COMMENT ON FUNCTION alert_live(alert[], jsonb) IS
    'Percent of the limits that a node counts';


-- What was not seen for half a minute is looked at by itself, and is over if
-- it is not seen then.

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
             WHERE x.firing AND x.checked_at < now() - interval '30 s'
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
                WHEN s.live OR s.holder IS NULL THEN 'below' ELSE 'gone' END);
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
    u      record;
    n      int := 0;
BEGIN
    FOR u IN SELECT o.id FROM owner o WHERE o.id > g.next_owner
             ORDER BY o.id LIMIT 50
    LOOP
        EXIT WHEN clock_timestamp() > deadline;

        PERFORM alert_holder(rules, NULL, u.id);
        g.next_owner := u.id;
        n := n + 1;
    END LOOP;

    IF n = 0 THEN
        g.next_owner := first;
    END IF;

    n := 0;

    FOR u IN SELECT k.id FROM key k WHERE k.id > g.next_key
             ORDER BY k.id LIMIT 50
    LOOP
        EXIT WHEN clock_timestamp() > deadline;

        PERFORM alert_holder(rules, u.id, NULL);
        g.next_key := u.id;
        n := n + 1;
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


CREATE OR REPLACE FUNCTION alert_all(rules alert[], live jsonb)
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
    PERFORM alert_live(rules, live);

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
            WHEN 'spend' THEN
                IF a.per = 'all' THEN
                    PERFORM alert_spend(ARRAY[a], NULL, NULL);
                END IF;
            ELSE
                NULL;
        END CASE;
    END LOOP;

    IF cardinality(hold) > 0 THEN
        PERFORM alert_expiring(hold, g.turned_at);
        PERFORM alert_used(hold, least(g.as_of, known) - interval '10 s',
            clock_timestamp() + interval '700 ms');
        g := alert_sweep(hold, g, clock_timestamp() + interval '100 ms');
    END IF;

    PERFORM alert_stale(rules);

    UPDATE alert_progress SET turned_at = now(), as_of = known,
        next_key = g.next_key, next_owner = g.next_owner;
END
$$;

COMMENT ON FUNCTION alert_all(alert[], jsonb) IS
    'Everything there is to look at now';


CREATE OR REPLACE FUNCTION alert_turn(live jsonb)
RETURNS int
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET jit = off
AS $$
DECLARE
    rules  alert[];
BEGIN
    PERFORM set_config('apikey.caller', 'node', true);

    rules := ARRAY(SELECT a FROM alert a
                   WHERE a.enabled AND a.deleted_at IS NULL ORDER BY a.id);

    -- one node at a time: what two saw at once is told once

    IF cardinality(rules) > 0
        AND pg_try_advisory_xact_lock(hashtext('apikey.alert_turn'))
    THEN
        PERFORM alert_all(rules, coalesce(live, '[]'));
    END IF;

    RETURN (SELECT floor(min(a.thresholds[1]))
            FROM unnest(rules) AS a WHERE a.kind = 'limit');
END
$$;

COMMENT ON FUNCTION alert_turn(jsonb) IS
    'Looks at what alerts are about, with what this node counts itself (as'
    ' req.live of GET limits); returns from which percent on it is to say so'
    ' next time, or null';

GRANT EXECUTE ON FUNCTION alert_period(text, int, text),
    alert_for(alert, text, key, owner), alert_holder(alert[], uuid, uuid),
    alert_limit_info(key, owner, text, text, text, bigint, numeric, bigint,
        timestamptz),
    alert_limits(alert[], key, owner), alert_spend(alert[], key, owner),
    alert_expiry(alert[], key, owner), alert_prices(alert),
    alert_backlog(alert), alert_live(alert[], jsonb), alert_stale(alert[]),
    alert_used(alert[], timestamptz, timestamptz),
    alert_sweep(alert[], alert_progress, timestamptz),
    alert_expiring(alert[], timestamptz), alert_all(alert[], jsonb),
    alert_turn(jsonb) TO apikey_gateway;
