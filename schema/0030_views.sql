--
-- Views over keys for dashboards and other readers, stable in name and
-- columns.  They run as their owner, so they show every tenant's rows: only
-- apikey_reader is given them.  A function in a view would read tables as the
-- reader, who has none; so what limits_json(), credits_json() and
-- secrets_json() do for the admin API is written out here.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE VIEW key_summary AS
SELECT k.id, k.name, o.external AS owner, k.customer, k.plan, k.prefix,
    s.start, s.last4, CASE WHEN coalesce(s.start, s.last4) IS NULL
        THEN 'imported' ELSE concat(s.start, '...', s.last4) END AS masked,
    CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked'
         WHEN NOT k.enabled THEN 'disabled'
         WHEN k.expires_at <= now() THEN 'expired'
         ELSE 'active' END AS status,
    k.enabled, k.scopes, k.allowed_models, k.allowed_ips,
    (SELECT coalesce(array_to_json(array_agg(row_to_json(x)
            ORDER BY l.position)), '[]')
        FROM limit_rule l,
            LATERAL (SELECT l.name, l.unit,
                CASE l.unit WHEN 'cost'
                    THEN to_json(money_text(l."limit"))
                    ELSE to_json(l."limit") END AS "limit",
                l.window_text AS "window",
                CASE l.unit WHEN 'cost' THEN to_json(money_text(l.burst))
                    ELSE to_json(l.burst) END AS burst, l.rolling, l.model,
                l.service, l.mode) AS x
        WHERE l.key_id = k.id) AS limits,
    (SELECT row_to_json(x)
        FROM credit c, LATERAL (SELECT greatest(c.total - c.used,
                CASE WHEN c.refill_at <= now() THEN c.refill ELSE 0 END) AS n)
                AS left_,
            LATERAL (SELECT c.unit,
                CASE c.unit WHEN 'cost' THEN to_json(money_text(left_.n))
                    ELSE to_json(left_.n) END AS remaining,
                CASE WHEN c.refill IS NOT NULL THEN (SELECT row_to_json(y)
                    FROM (SELECT CASE c.unit
                              WHEN 'cost' THEN to_json(money_text(c.refill))
                              ELSE to_json(c.refill) END AS amount,
                          c.every) AS y) END AS refill) AS x
        WHERE c.key_id = k.id) AS credits,
    coalesce((SELECT c.value FROM setting c WHERE c.name = 'currency'), 'USD')
        AS currency,
    k.metadata,
    coalesce(u.requests, 0)::bigint AS usage_count, u.last_used_at,
    k.created_at, k.updated_at, k.expires_at, k.revoked_at,
    (SELECT coalesce(array_to_json(array_agg(row_to_json(x)
            ORDER BY y.created_at DESC, y.id DESC)), '[]')
        FROM secret y LEFT JOIN secret_usage z ON z.secret_id = y.id,
            LATERAL (SELECT y.id, y.start, y.last4, CASE
                WHEN y.ended_at IS NOT NULL OR y.expires_at <= now()
                    THEN 'ended'
                WHEN y.expires_at IS NOT NULL THEN 'grace'
                ELSE 'current' END AS state,
                time_text(y.created_at) AS created_at,
                time_text(y.expires_at) AS expires_at,
                time_text(z.last_used_at) AS last_used_at) AS x
        WHERE y.key_id = k.id) AS secrets
FROM key k
    LEFT JOIN owner o ON o.id = k.owner_id
    LEFT JOIN key_usage u ON u.key_id = k.id
    LEFT JOIN LATERAL (SELECT x.start, x.last4 FROM secret x
                       WHERE x.key_id = k.id
                       ORDER BY x.created_at DESC, x.id DESC LIMIT 1) AS s
        ON true;

COMMENT ON VIEW key_summary IS 'The key object of the admin API, flat';
COMMENT ON COLUMN key_summary.owner IS 'The user''s own id of the owner';
COMMENT ON COLUMN key_summary.limits IS 'JSON array, as in the admin API';
COMMENT ON COLUMN key_summary.credits IS
    'JSON object, as in the admin API; null: it has none';
COMMENT ON COLUMN key_summary.secrets IS
    'JSON array, newest first, as in the admin API';
COMMENT ON COLUMN key_summary.usage_count IS 'Admitted requests';

GRANT SELECT ON key_summary TO apikey_reader;
