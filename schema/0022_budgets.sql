--
-- Budgets by what Postgres knows of them, for nodes that hold what they count
-- against it (apikey_budget_drift).
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


-- Without holders: some of those that were used of late, and are not just now.
-- Only what has a boundary in time, or none at all, can be held against
-- roll-ups: calendar windows and totals.  "used" has a word for each line of
-- "limits", whose form is that of src/base/limit.h.

CREATE OR REPLACE FUNCTION budgets_used(a_holders uuid[], a_most int)
RETURNS TABLE (level text, holder uuid, root uuid, calendar uuid,
    limits text, terms text, used text, as_of bigint)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    holders   uuid[] := a_holders;
    complete  bigint;
BEGIN
    PERFORM set_config('apikey.caller', 'node', true);

    complete := micros(usage_as_of());

    IF holders IS NULL THEN
        holders := ARRAY(SELECT x.id
            FROM (SELECT DISTINCT h.id
                  FROM (SELECT u.key_id, u.owner_id FROM key_usage u
                        WHERE u.last_slot > now() - interval '1 hour'
                            AND u.last_used_at < now() - interval '2 s'
                        ORDER BY u.last_slot DESC LIMIT 500) AS r,
                      LATERAL (VALUES (r.key_id), (r.owner_id)) AS h (id)
                  WHERE h.id IS NOT NULL) AS x
            ORDER BY random() LIMIT 5 * a_most);
    END IF;

    RETURN QUERY
    SELECT r.kind, r.id, coalesce(r.owner_id, r.id),
        calendar_id(coalesce(o.time_zone, 'UTC'), coalesce(o.anchor_day, 1),
            'month'),
        r.limits, r.terms, u.used, complete
    FROM keyring_rows(holders, holders, NULL, NULL, 0) AS r
        LEFT JOIN owner o ON o.id = CASE r.kind WHEN 'owner' THEN r.id
            ELSE r.owner_id END,
        LATERAL (SELECT bool_or(b.budget) AS budget,
                string_agg(CASE WHEN b.budget THEN (SELECT q.used::text
                    FROM quota_used(r.id, r.kind, 'cost', b.f[9], b.f[10],
                        CASE b.t[1] WHEN 'total' THEN b.t[4]::bigint
                            ELSE (SELECT greatest(max(x), b.t[4]::bigint)
                                FROM unnest(calendar_bounds(
                                    coalesce(o.time_zone, 'UTC'),
                                    coalesce(o.anchor_day, 1), b.t[3], now()))
                                AS x WHERE x <= micros(now())) END) AS q)
                    ELSE '-' END, ' ' ORDER BY b.n) AS used
            FROM (SELECT l.n, l.f, t.t, l.f[2] = 'cost'
                      AND t.t[1] IN ('calendar', 'total') AS budget
                  FROM (SELECT x.n, string_to_array(x.line, E'\t') AS f
                        FROM string_to_table(r.limits, E'\n')
                            WITH ORDINALITY AS x (line, n)
                        WHERE x.line <> '') AS l
                      JOIN (SELECT x.n, string_to_array(x.line, E'\t') AS t
                            FROM string_to_table(r.terms, E'\n')
                                WITH ORDINALITY AS x (line, n)) AS t
                          ON t.n = l.n) AS b) AS u
    WHERE r.kind IN ('key', 'owner') AND r.id = ANY (holders) AND u.budget
    LIMIT CASE WHEN a_holders IS NULL THEN a_most END;
END
$$;

COMMENT ON FUNCTION budgets_used(uuid[], int) IS
    'Limits of these keys and owners, or of at most so many that were used of'
    ' late, and what Postgres knows to be used of their budgets';

GRANT EXECUTE ON FUNCTION budgets_used(uuid[], int) TO apikey_gateway;
