--
-- What a limit and what credits may be, for every holder of them.  A limit's
-- kind follows from its unit and window (limit_kind()).
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION check_window(value jsonb, at text)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    t     text := value #>> '{}';
    us    numeric := read_duration(t);
    near  text[];
BEGIN
    IF t IS NULL THEN
        RETURN wrong(at, 'required',
            'write a length such as 1h, or day, week, month, total');
    ELSIF jsonb_typeof(value) <> 'string' THEN
        RETURN wrong(at, 'bad_type', 'a text such as 1h is needed');
    ELSIF t IN ('day', 'week', 'month', 'total') THEN
        RETURN '[]';
    ELSIF us IS NULL THEN
        near := regexp_match(t, '^\s*([1-9][0-9]{0,5})\s*'
            '(s|m|h|d|sec|second|min|minute|hour|day)s?\s*$', 'i');
        RETURN wrong(at, 'bad_value', format('"%s": write %s', left(t, 40),
            coalesce(near[1] || lower(left(near[2], 1)),
                     'a length such as 30s, 5m, 1h, 1d, or day, week, month,'
                     ' total')));
    ELSIF us NOT BETWEEN 1000000 AND 31 * 86400000000 THEN
        RETURN wrong(at, 'out_of_range', '1s to 31d');
    END IF;

    RETURN '[]';
END
$$;

COMMENT ON FUNCTION check_window(jsonb, text) IS
    'A length of time from 1s to 31d, a calendar window, or total';


-- An amount of a unit: money is text, all else a number.

CREATE OR REPLACE FUNCTION check_amount(value jsonb, at text, unit text,
    message text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN unit IS DISTINCT FROM 'cost' THEN check_count(value, at, message)
    WHEN coalesce(jsonb_typeof(value), 'null') = 'null'
        THEN CASE WHEN message IS NULL THEN jsonb '[]'
            ELSE wrong(at, 'required', message) END
    ELSE check_money(value, at) END;

COMMENT ON FUNCTION check_amount(jsonb, text, text, text) IS
    'A whole number, or money where the unit is cost; absent or null is wrong'
    ' only with a message to say then';


-- The whole of one limit.

CREATE OR REPLACE FUNCTION check_limit(value jsonb, at text)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    errors  jsonb;
    unit    text := value ->> 'unit';
BEGIN
    IF jsonb_typeof(value) <> 'object' THEN
        RETURN wrong(at, 'bad_type', 'an object is needed');
    END IF;

    errors := check_members(value, at, ARRAY['name', 'unit', 'limit', 'window',
            'burst', 'rolling', 'model', 'service', 'mode'], '{}')
        || check_text(value -> 'name', at || '/name', 64,
            'give the limit a name');

    errors := errors || CASE
            WHEN unit IS NULL THEN wrong(at || '/unit', 'required',
                'requests, tokens, cost or concurrent')
            WHEN jsonb_typeof(value -> 'unit') <> 'string'
                THEN wrong(at || '/unit', 'bad_type', 'a text is needed')
            WHEN unit NOT IN ('requests', 'tokens', 'cost', 'concurrent')
                THEN wrong(at || '/unit', 'bad_value',
                    'requests, tokens, cost or concurrent')
            ELSE jsonb '[]' END
        || check_amount(value -> 'limit', at || '/limit', unit,
            CASE WHEN unit IN ('tokens', 'cost')
                THEN 'say how much' ELSE 'say how many requests' END)
        || check_text(value -> 'model', at || '/model', 255, NULL)
        || check_text(value -> 'service', at || '/service', 255, NULL)
        || check_window_of(value, at, unit)
        || check_mode(value -> 'mode', at || '/mode', unit);

    IF errors <> '[]' THEN
        RETURN errors;
    END IF;

    IF limit_kind(unit, value ->> 'window',
        coalesce((value ->> 'rolling')::boolean, false)) = 'bucket'
    THEN
        errors := check_rate(read_amount(value ->> 'limit', unit),
            read_duration(value ->> 'window')::bigint,
            read_amount(value ->> 'burst', unit), at);
    END IF;

    RETURN errors;
END
$$;

COMMENT ON FUNCTION check_limit(jsonb, text) IS 'One limit of a holder';


-- What only some windows have: none of them at all is for "concurrent".

CREATE OR REPLACE FUNCTION check_window_of(value jsonb, at text, unit text)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    length  boolean := read_duration(value ->> 'window') IS NOT NULL;
    errors  jsonb := '[]';
BEGIN
    IF unit = 'concurrent' THEN
        IF coalesce(value -> 'window', 'null') <> 'null' THEN
            errors := wrong(at || '/window', 'bad_value',
                'concurrent has no window');
        END IF;
    ELSE
        errors := check_window(value -> 'window', at || '/window');
    END IF;

    IF coalesce(value -> 'rolling', 'null') NOT IN ('null', 'true', 'false')
    THEN
        errors := errors || wrong(at || '/rolling', 'bad_type',
            'true or false is needed');
    ELSIF value -> 'rolling' = 'true' AND (unit = 'concurrent'
        OR value ->> 'window' IN ('day', 'week', 'month', 'total'))
    THEN
        errors := errors || wrong(at || '/rolling', 'bad_value',
            'only a length of time rolls');
    END IF;

    IF coalesce(value -> 'burst', 'null') = 'null' THEN
        RETURN errors;
    ELSIF value -> 'rolling' = 'true' OR unit = 'concurrent'
        OR value ->> 'window' IN ('day', 'week', 'month', 'total')
    THEN
        RETURN errors || wrong(at || '/burst', 'bad_value',
            'only a length of time that does not roll has a burst');
    END IF;

    RETURN errors || check_amount(value -> 'burst', at || '/burst', unit,
        NULL);
END
$$;

COMMENT ON FUNCTION check_window_of(jsonb, text, text) IS
    'window, rolling and burst of a limit of this unit';


CREATE OR REPLACE FUNCTION check_mode(value jsonb, at text, unit text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN coalesce(value, 'null') = 'null' THEN jsonb '[]'
    WHEN unit IN ('requests', 'concurrent')
        THEN wrong(at, 'bad_value', 'always null for ' || unit)
    WHEN jsonb_typeof(value) <> 'string'
        THEN wrong(at, 'bad_type', 'a text is needed')
    WHEN value #>> '{}' NOT IN ('strict', 'trim', 'observe')
        THEN wrong(at, 'bad_value', 'strict, trim or observe')
    ELSE '[]' END;

COMMENT ON FUNCTION check_mode(jsonb, text, text) IS
    'What a limit of tokens or cost does, absent or null';


CREATE OR REPLACE FUNCTION check_credits(value jsonb, at text)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    unit    text := value ->> 'unit';
    refill  jsonb := value -> 'refill';
    errors  jsonb;
BEGIN
    IF coalesce(value, 'null') = 'null' THEN
        RETURN '[]';
    ELSIF jsonb_typeof(value) <> 'object' THEN
        RETURN wrong(at, 'bad_type', 'an object is needed');
    END IF;

    errors := check_members(value, at, ARRAY['unit', 'remaining', 'refill'],
            '{}')
        || CASE
            WHEN unit IS NULL THEN wrong(at || '/unit', 'required',
                'requests, tokens or cost')
            WHEN jsonb_typeof(value -> 'unit') <> 'string'
                THEN wrong(at || '/unit', 'bad_type', 'a text is needed')
            WHEN unit NOT IN ('requests', 'tokens', 'cost')
                THEN wrong(at || '/unit', 'bad_value',
                    'requests, tokens or cost')
            ELSE jsonb '[]' END
        || check_credit(value -> 'remaining', at || '/remaining', unit,
            'say how much there is');

    IF coalesce(refill, 'null') = 'null' THEN
        RETURN errors;
    ELSIF jsonb_typeof(refill) <> 'object' THEN
        RETURN errors || wrong(at || '/refill', 'bad_type',
            'an object is needed');
    END IF;

    RETURN errors
        || check_members(refill, at || '/refill', ARRAY['amount', 'every'],
            '{}')
        || check_credit(refill -> 'amount', at || '/refill/amount', unit,
            'say how much')
        || CASE WHEN refill ->> 'amount' ~ '^0+(\.0*)?$'
            THEN wrong(at || '/refill/amount', 'out_of_range', 'more than 0')
            ELSE jsonb '[]' END
        || CASE
            WHEN coalesce(refill -> 'every', 'null') = 'null'
                THEN wrong(at || '/refill/every', 'required',
                    'day, week or month')
            WHEN refill -> 'every' NOT IN ('"day"', '"week"', '"month"')
                THEN wrong(at || '/refill/every', 'bad_value',
                    'day, week or month')
            ELSE jsonb '[]' END;
END
$$;

COMMENT ON FUNCTION check_credits(jsonb, text) IS
    'Credits of a holder, absent or null';


-- Twice as much at most is ever held by one: the count has 2^53.

CREATE OR REPLACE FUNCTION check_credit(value jsonb, at text, unit text,
    message text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = apikey, pg_temp
RETURN CASE
    WHEN check_amount(value, at, unit, message) <> '[]'
        THEN check_amount(value, at, unit, message)
    WHEN value <> 'null' AND read_amount(value #>> '{}', unit) > credit_base()
        THEN wrong(at, 'out_of_range', CASE unit
            WHEN 'cost' THEN '0.00 to ' || money_text(credit_base())
            ELSE '0 to ' || credit_base() END)
    ELSE '[]' END;

COMMENT ON FUNCTION check_credit(jsonb, text, text, text) IS
    'An amount of credits, up to 2^51 units';


CREATE OR REPLACE FUNCTION check_rate(tokens bigint, period_us bigint,
    burst bigint, at text)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF tokens = 0 AND burst > 0 THEN
        RETURN wrong(at || '/burst', 'out_of_range',
            'limit 0 means none: burst must be 0');
    ELSIF tokens > 0 AND burst = 0 THEN
        RETURN wrong(at || '/burst', 'out_of_range', '1 or more');
    ELSIF (rate_form(tokens, period_us, coalesce(burst, tokens))).token
        IS NULL
    THEN
        RETURN wrong(at
            || CASE WHEN burst > tokens THEN '/burst' ELSE '/limit' END,
            'out_of_range',
            'no exact rate in this window: take a smaller or rounder number');
    END IF;

    RETURN '[]';
END
$$;

COMMENT ON FUNCTION check_rate(bigint, bigint, bigint, text) IS
    'A rate that has an exact form; burst null: the limit';


CREATE OR REPLACE FUNCTION check_limits(value jsonb, at text)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    errors  jsonb := '[]';
    item    jsonb;
    i       int := 0;
    names   text[] := '{}';
BEGIN
    IF value IS NULL OR jsonb_typeof(value) = 'null' THEN
        RETURN '[]';
    ELSIF jsonb_typeof(value) <> 'array' THEN
        RETURN wrong(at, 'bad_type', 'an array of limits is needed');
    ELSIF jsonb_array_length(value) > 50 THEN
        RETURN wrong(at, 'too_many', 'at most 50 limits');
    END IF;

    FOR item IN SELECT jsonb_array_elements(value) LOOP
        errors := errors || check_limit(item, at || '/' || i);

        IF item ->> 'name' = ANY (names) THEN
            errors := errors || wrong(at || '/' || i || '/name', 'duplicate',
                'another limit has this name');
        END IF;

        names := names || (item ->> 'name');
        i := i + 1;
    END LOOP;

    RETURN errors;
END
$$;

COMMENT ON FUNCTION check_limits(jsonb, text) IS
    'At most 50 limits with unique names; null is none';


-- What is used is known by holder and name, so a limit that is taken away and
-- made again, or replaces its plan's, begins when the first of them did.

CREATE OR REPLACE FUNCTION limit_left()
RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = apikey, pg_temp
AS $$
BEGIN
    INSERT INTO limit_past AS p
    VALUES (coalesce(OLD.key_id, OLD.owner_id, OLD.plan_id), OLD.name,
        OLD.unit, coalesce(OLD.service, ''), coalesce(OLD.model, ''), OLD.made)
    ON CONFLICT (holder, name, unit, service, model)
    DO UPDATE SET made = CASE WHEN p.made IS NOT NULL
        AND excluded.made IS NOT NULL THEN least(p.made, excluded.made) END;

    RETURN NULL;
END
$$;

COMMENT ON FUNCTION limit_left() IS
    'Trigger: notes since when there was a limit that is taken away';


CREATE OR REPLACE FUNCTION limit_again()
RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = apikey, pg_temp
AS $$
DECLARE
    was    timestamptz;
BEGIN
    DELETE FROM limit_past p
    WHERE p.holder = coalesce(NEW.key_id, NEW.owner_id, NEW.plan_id)
        AND p.name = NEW.name AND p.unit = NEW.unit
        AND p.service = coalesce(NEW.service, '')
        AND p.model = coalesce(NEW.model, '')
    RETURNING coalesce(p.made, '-infinity') INTO was;

    NEW.made := nullif(least(coalesce(NEW.made, '-infinity'), was,
        CASE WHEN NEW.plan_id IS NULL THEN (
            SELECT coalesce(l.made, '-infinity')
            FROM plan p JOIN limit_rule l ON l.plan_id = p.id
            WHERE p.external = CASE WHEN NEW.key_id IS NOT NULL
                    THEN (SELECT k.plan FROM key k WHERE k.id = NEW.key_id)
                    ELSE (SELECT o.plan FROM owner o
                          WHERE o.id = NEW.owner_id) END
                AND l.name = NEW.name AND l.unit = NEW.unit
                AND l.service IS NOT DISTINCT FROM NEW.service
                AND l.model IS NOT DISTINCT FROM NEW.model) END),
        '-infinity');

    RETURN NEW;
END
$$;

COMMENT ON FUNCTION limit_again() IS
    'Trigger: a limit is as old as what it takes the place of';

CREATE OR REPLACE TRIGGER limit_left
    AFTER DELETE ON limit_rule FOR EACH ROW EXECUTE FUNCTION limit_left();
CREATE OR REPLACE TRIGGER limit_again
    BEFORE INSERT ON limit_rule FOR EACH ROW EXECUTE FUNCTION limit_again();

COMMENT ON TRIGGER limit_left ON limit_rule IS
    'What has used it is not forgotten with it';
COMMENT ON TRIGGER limit_again ON limit_rule IS
    'It is as old as what it takes the place of';

-- Nor does it begin anew for who moves to a plan that is younger.

CREATE OR REPLACE FUNCTION plan_left()
RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = apikey, pg_temp
AS $$
BEGIN
    INSERT INTO limit_past AS p
    SELECT NEW.id, l.name, l.unit, coalesce(l.service, ''),
        coalesce(l.model, ''), l.made
    FROM plan x JOIN limit_rule l ON l.plan_id = x.id
    WHERE x.external = OLD.plan
    ON CONFLICT (holder, name, unit, service, model)
    DO UPDATE SET made = CASE WHEN p.made IS NOT NULL
        AND excluded.made IS NOT NULL THEN least(p.made, excluded.made) END;

    RETURN NULL;
END
$$;

COMMENT ON FUNCTION plan_left() IS
    'Trigger: notes since when a key or an owner had limits of a plan that it'
    ' leaves';

CREATE OR REPLACE TRIGGER plan_left AFTER UPDATE OF plan ON key FOR EACH ROW
    WHEN (OLD.plan IS DISTINCT FROM NEW.plan) EXECUTE FUNCTION plan_left();
CREATE OR REPLACE TRIGGER plan_left AFTER UPDATE OF plan ON owner FOR EACH ROW
    WHEN (OLD.plan IS DISTINCT FROM NEW.plan) EXECUTE FUNCTION plan_left();

COMMENT ON TRIGGER plan_left ON key IS 'What has used it is not forgotten';
COMMENT ON TRIGGER plan_left ON owner IS 'What has used it is not forgotten';

GRANT EXECUTE ON FUNCTION limit_left(), limit_again(), plan_left()
    TO apikey_gateway;
GRANT EXECUTE ON FUNCTION check_window(jsonb, text),
    check_amount(jsonb, text, text, text),
    check_limit(jsonb, text), check_window_of(jsonb, text, text),
    check_mode(jsonb, text, text), check_rate(bigint, bigint, bigint, text),
    check_limits(jsonb, text), check_credits(jsonb, text),
    check_credit(jsonb, text, text, text) TO apikey_gateway;
