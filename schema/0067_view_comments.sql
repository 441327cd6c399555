--
-- What the columns of the views for dashboards hold, where the view's own file
-- says nothing: a column of one name holds the same in all of them.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


DO $do$
DECLARE
    c  record;
    v  text;
BEGIN
    FOR c IN SELECT * FROM (VALUES
        ('usage_hourly usage_daily usage_monthly usage_corrections',
            'status_code', 'The answer''s'),
        ('usage_hourly usage_daily usage_monthly usage_corrections'
            ' billing_periods', 'tokens_input', 'With the cached ones'),
        ('usage_hourly usage_daily usage_monthly usage_corrections'
            ' billing_periods', 'tokens_output', 'With those for reasoning'),
        ('usage_hourly usage_daily usage_monthly usage_corrections',
            'bytes_in', 'Of requests, as nginx counts them'),
        ('usage_hourly usage_daily usage_monthly usage_corrections',
            'bytes_out', 'Of answers, as nginx counts them'),
        ('usage_corrections billing_periods', 'refused',
            'By the gateway; never part of requests'),
        ('usage_corrections billing_periods', 'errors',
            'Admitted, answered >= 400'),
        ('usage_corrections billing_periods', 'tokens', 'Input and output'),
        ('usage_corrections billing_periods', 'tokens_cached',
            'Part of tokens_input'),
        ('usage_corrections billing_periods', 'tokens_reasoning',
            'Part of tokens_output'),
        ('usage_corrections', 'cost',
            'In units of the currency, exact to nine decimals'),
        ('usage_corrections', 'unpriced',
            'Requests whose price is unknown; not in cost'),
        ('usage_corrections', 'duration_ms', 'Sum'),
        ('usage_corrections', 'id', 'Number of the correction'),
        ('usage_corrections', 'made_at', 'When it was booked'),
        ('usage_corrections', 'request_id',
            'The request that was corrected; null: sums that came late'),
        ('usage_corrections', 'owner',
            'The user''s own id of the owner; null: none'),
        ('usage_corrections', 'customer', 'The key''s customer; null: none'),
        ('usage_corrections', 'key', 'Null: anonymous, or unknown'),
        ('usage_corrections', 'service', 'apikey_service; empty: none'),
        ('usage_corrections', 'endpoint', 'apikey_endpoint; empty: none'),
        ('usage_corrections', 'model', 'apikey_model; null: none'),
        ('usage_corrections', 'outcome',
            'success (< 400), error, aborted, refused'),
        ('usage_corrections', 'verdict',
            'ok, anonymous, or why it was refused'),
        ('usage_corrections', 'limit_name',
            'The limit that refused it; null: none did'),
        ('usage_corrections', 'reason', 'What was said when it was made'),
        ('billing_periods', 'start', 'Where it begins, in the owner''s zone'),
        ('billing_periods', 'end', 'Where the next one begins'),
        ('billing_periods', 'closed_at',
            'What came after is a correction of a later period'),
        ('billing_periods', 'requests', 'Admitted'),
        ('billing_periods', 'corrections_cost',
            'Of those, in units of the currency'),
        ('key_summary leak_log', 'start', 'How the key begins'),
        ('key_summary leak_log', 'last4', 'How the key ends'),
        ('key_summary alert_log audit_log leak_log', 'id',
            'As in the admin API'),
        ('key_summary', 'name', 'As its maker called it'),
        ('key_summary', 'customer', 'Whom of the owner it is for'),
        ('key_summary', 'plan', 'Its own; null: that of the owner, if any'),
        ('key_summary', 'prefix', 'What stands before the first "_"'),
        ('key_summary', 'masked', 'start...last4'),
        ('key_summary', 'status', 'active, disabled, expired or revoked'),
        ('key_summary', 'enabled', 'False: refused until it is enabled again'),
        ('key_summary', 'scopes', 'What it may do; empty: no scope'),
        ('key_summary', 'allowed_models', 'Patterns; null: all'),
        ('key_summary', 'allowed_ips', 'Networks; null: all'),
        ('key_summary', 'currency', 'Of all money'),
        ('key_summary', 'metadata', 'As it was written'),
        ('key_summary', 'last_used_at', 'Last admitted request; null: none'),
        ('key_summary', 'created_at', 'When it was made'),
        ('key_summary', 'updated_at', 'Last change of the key'),
        ('key_summary', 'expires_at', 'Refused from then on; null: never'),
        ('key_summary', 'revoked_at', 'Null: it is not'),
        ('limit_status', 'name', 'Of the limit'),
        ('limit_status', 'unit', 'requests, tokens, cost or concurrent'),
        ('limit_status', 'remaining', 'Null where used is'),
        ('limit_status', 'window', 'As the limit has it; null: concurrent'),
        ('limit_status', 'resets_at', 'When the period ends; null: none does'),
        ('alert_log audit_log leak_log', 'time', 'When it happened'),
        ('alert_log audit_log leak_log', 'key', 'Whose id it is about'),
        ('alert_log', 'alert', 'Id of the rule'),
        ('alert_log', 'name', 'Of the rule'),
        ('alert_log', 'kind', 'What the rule looks at'),
        ('alert_log', 'state', 'firing or resolved'),
        ('alert_log', 'limit_name', 'The limit it is about; null: none'),
        ('alert_log', 'threshold', 'Which of the rule''s was passed'),
        ('alert_log', 'reason', 'Why it was resolved; null: it fired'),
        ('alert_log', 'data', 'As webhooks are told'),
        ('audit_log', 'actor_kind', 'As GET audit says it'),
        ('audit_log', 'address', 'From where; null: not over HTTP'),
        ('audit_log', 'object', 'Kind of what was changed'),
        ('audit_log leak_log', 'request_id',
            'X-Request-Id of the call; null: none'),
        ('leak_log', 'key_name', 'Its name'),
        ('leak_log', 'owner', 'The user''s own id of the owner; null: none'),
        ('leak_log', 'type', 'As the reporter calls the token'),
        ('leak_log', 'url', 'Where it was found; null: not said'),
        ('leak_log', 'source', 'In what it was found; null: not said'),
        ('leak_log', 'action', 'What was done: none, notify, disable, expire'))
        AS x (views, name, text)
    LOOP
        FOREACH v IN ARRAY string_to_array(c.views, ' ')
        LOOP
            EXECUTE format('COMMENT ON COLUMN %I.%I IS %L', v, c.name, c.text);
        END LOOP;
    END LOOP;
END
$do$;
