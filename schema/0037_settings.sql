--
-- What is set per installation: the names there are, their values where none
-- is set, and what may be set.  A trigger checks every write of the table, so
-- that it does not matter who writes; apikeyctl set does.
--

SET LOCAL client_min_messages = warning;
SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION setting_list()
RETURNS TABLE (name text, value text, standard text, meaning text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT k.name, coalesce(s.value, k.standard), k.standard, k.meaning
    FROM (VALUES
        (1, 'currency', 'USD', 'ISO 4217; fixed once money is stored'),
        (2, 'raw_days', '7', 'days that raw events are kept; 0 keeps none'),
        (3, 'client_prefix', '24,48',
            'bits of a client''s IPv4 and IPv6 address that are recorded'),
        (4, 'audit_days', '0', 'days that the audit is kept; 0 for ever'),
        (5, 'leak_keys', '',
            'public keys that sign reports of leaks, out of a file'),
        (6, 'leak_action', 'notify',
            'what a reported key meets: notify, disable or expire'),
        (7, 'webhook_allow', '',
            'networks that webhooks may reach although they are private'),
        (8, 'export_dir', '', 'directory of scheduled exports'),
        (9, 'leak_expire', '24h',
            'how long a leaked key still works under leak_action expire'),
        (10, 'close_days', '',
            'days after its end that a billing period is closed; empty: not'
            ' by itself'))
        AS k (position, name, standard, meaning)
        LEFT JOIN setting s ON s.name = k.name
    ORDER BY k.position;
END;

COMMENT ON FUNCTION setting_list() IS
    'Every setting with its value, the value where none is set, and what it'
    ' means';


CREATE OR REPLACE FUNCTION check_setting(a_name text, a_value text)
RETURNS text
LANGUAGE sql STABLE
RETURN CASE a_name
    WHEN 'currency' THEN CASE WHEN a_value !~ '^[A-Z]{3}$'
        THEN 'three capital letters of ISO 4217, such as EUR' END
    WHEN 'raw_days' THEN CASE WHEN a_value !~ '^(0|[1-9][0-9]{0,3})$'
        THEN 'a number of days, 0 to 9999' END
    WHEN 'client_prefix' THEN CASE WHEN a_value !~
            ('^(3[0-2]|[12]?[0-9]),'
             '(12[0-8]|1[01][0-9]|[1-9]?[0-9])$')
        THEN 'bits of IPv4 (0 to 32) and of IPv6 (0 to 128), such as 24,48'
        END
    WHEN 'audit_days' THEN CASE WHEN a_value !~ '^(0|[1-9][0-9]{0,4})$'
        THEN 'a number of days, 0 (for ever) to 99999' END
    WHEN 'close_days' THEN CASE WHEN a_value !~ '^(0|[1-9][0-9]{0,2})?$'
        THEN 'a number of days, 0 to 999, or empty' END
    WHEN 'leak_action' THEN CASE WHEN a_value NOT IN
            ('notify', 'disable', 'expire')
        THEN 'notify, disable or expire' END
    WHEN 'webhook_allow' THEN (
        SELECT format('"%s" is no address or network such as 10.0.0.0/8',
            min(n))
        FROM regexp_split_to_table(btrim(a_value), '[ ,]+') AS n
        WHERE n <> '' AND read_network(n) IS NULL
        HAVING count(*) > 0)
    WHEN 'leak_keys' THEN check_leak_keys(a_value)
    WHEN 'leak_expire' THEN CASE WHEN coalesce(read_duration(a_value), -1)
            NOT BETWEEN 0 AND 366 * 86400000000
        THEN 'a length of time up to 366d, such as 24h' END
    WHEN 'export_dir' THEN CASE WHEN a_value !~ '^(/[^\u0001-\u001f]*)?$'
        THEN 'the full path of a directory, or empty for none' END
    ELSE 'there is no such setting' END;

COMMENT ON FUNCTION check_setting(text, text) IS
    'What is wrong with a value, or null';


CREATE OR REPLACE FUNCTION money_stored()
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN EXISTS (SELECT FROM limit_rule WHERE unit = 'cost')
        OR EXISTS (SELECT FROM credit WHERE unit = 'cost')
        OR EXISTS (SELECT FROM plan WHERE monthly_price IS NOT NULL)
        OR EXISTS (SELECT FROM price)
        OR EXISTS (SELECT FROM alert
                   WHERE kind = 'spend' AND deleted_at IS NULL)
        OR EXISTS (SELECT FROM key_usage WHERE cost <> 0)
        OR EXISTS (SELECT FROM usage_quarter WHERE cost <> 0)
        OR EXISTS (SELECT FROM usage_correction WHERE cost <> 0)
        OR EXISTS (SELECT FROM billing_period WHERE cost <> 0);
END
$$;

COMMENT ON FUNCTION money_stored() IS
    'Whether any amount stands here, which another currency would change';


-- AFTER: what ON CONFLICT DO NOTHING leaves alone is no change.

CREATE OR REPLACE FUNCTION setting_changed()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    was  text;
    now_ text;
    why  text;
BEGIN
    IF TG_OP <> 'DELETE' THEN
        why := check_setting(NEW.name, NEW.value);
    END IF;

    IF why IS NOT NULL THEN
        RAISE EXCEPTION '%: %', NEW.name, why
            USING ERRCODE = 'check_violation';
    END IF;

    was := CASE WHEN TG_OP <> 'INSERT' AND OLD.name = 'currency'
        THEN OLD.value ELSE 'USD' END;
    now_ := CASE WHEN TG_OP <> 'DELETE' AND NEW.name = 'currency'
        THEN NEW.value ELSE 'USD' END;

    IF was <> now_ AND money_stored() THEN
        RAISE EXCEPTION 'currency: amounts in % are stored already', was
            USING ERRCODE = 'check_violation';
    END IF;

    RETURN NULL;
END
$$;

COMMENT ON FUNCTION setting_changed() IS
    'Trigger: refuses what cannot be set';

CREATE OR REPLACE TRIGGER setting_changed
    AFTER INSERT OR UPDATE OR DELETE ON setting
    FOR EACH ROW EXECUTE FUNCTION setting_changed();

COMMENT ON TRIGGER setting_changed ON setting IS 'Refuses what cannot be set';
