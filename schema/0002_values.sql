--
-- Values between Postgres and JSON: times, money, durations, networks, rates.
-- Readers return null for what they cannot read and never raise.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


-- PL/pgSQL, though one expression would do, for what cannot be inlined: an SQL
-- function is planned anew with every call from inside another function.

CREATE OR REPLACE FUNCTION time_text(at timestamptz)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
END
$$;

COMMENT ON FUNCTION time_text(timestamptz) IS
    'RFC 3339, UTC, three decimals';


-- Multiplied, not divided: numeric division rounds to a chosen scale.

CREATE OR REPLACE FUNCTION money_text(nano numeric)
RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN (SELECT CASE WHEN scale(m) < 2 THEN round(m, 2) ELSE m END::text
        FROM (SELECT trim_scale(nano * 0.000000001) AS m) x);
END
$$;

COMMENT ON FUNCTION money_text(numeric) IS
    'Nano-units as decimal text with at least two decimals';


CREATE OR REPLACE FUNCTION read_money(value text)
RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN value ~ '^(0|[1-9][0-9]{0,6})([.][0-9]{1,9})?$'
        AND value::numeric <= 9000000
    THEN (value::numeric * 1000000000)::bigint END;

COMMENT ON FUNCTION read_money(text) IS
    'Nano-units of decimal text up to 9,000,000, or null';


CREATE OR REPLACE FUNCTION currency()
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN coalesce((SELECT value FROM setting WHERE name = 'currency'),
                    'USD');
END
$$;

COMMENT ON FUNCTION currency() IS 'The installation''s currency (ISO 4217)';


CREATE OR REPLACE FUNCTION url_text(plain text)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN (SELECT coalesce(string_agg(
        CASE WHEN chr(b) ~ '[A-Za-z0-9._~-]' AND b < 128 THEN chr(b)
             ELSE '%' || upper(lpad(to_hex(b), 2, '0')) END,
        '' ORDER BY i), '')
    FROM (SELECT i, get_byte(convert_to(plain, 'UTF8'), i) AS b
          FROM generate_series(0, octet_length(convert_to(plain, 'UTF8')) - 1)
              AS i) x);

COMMENT ON FUNCTION url_text(text) IS
    'Percent-encoded for one segment of a path';


CREATE OR REPLACE FUNCTION pointer_text(member text)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN replace(replace(member, '~', '~0'), '/', '~1');

COMMENT ON FUNCTION pointer_text(text) IS
    'One reference token of a JSON pointer (RFC 6901)';


CREATE OR REPLACE FUNCTION read_uuid(value text)
RETURNS uuid
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN value ~*
    '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
    THEN value::uuid END;

COMMENT ON FUNCTION read_uuid(text) IS 'A UUID, or null';


CREATE OR REPLACE FUNCTION read_duration(value text)
RETURNS numeric
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN value ~ '^(0|[1-9][0-9]{0,11})(ms|s|m|h|d)$'
    THEN rtrim(value, 'mshd')::numeric * CASE ltrim(value, '0123456789')
        WHEN 'ms' THEN 1000
        WHEN 's' THEN 1000000
        WHEN 'm' THEN 60000000
        WHEN 'h' THEN 3600000000
        WHEN 'd' THEN 86400000000 END END;

COMMENT ON FUNCTION read_duration(text) IS
    'Microseconds of 250ms, 1s, 5m, 1h, 30d, or null';


CREATE OR REPLACE FUNCTION read_time(value text)
RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
AS $$
BEGIN
    IF value !~ ('^[0-9]{4}-[0-9]{2}-[0-9]{2}'
        '([Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,6})?)?'
        '([Zz]|[+-][0-9]{2}:[0-9]{2}))?$')
    THEN
        RETURN NULL;
    END IF;

    RETURN value::timestamptz;

EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION read_time(text) IS
    'RFC 3339 with any offset, or a date (its midnight in UTC), or null';


-- A day begins with its first midnight, where a clock that is put back has two,
-- and with its first minute, where one that is put forward has none.

CREATE OR REPLACE FUNCTION day_start(day timestamp, zone text)
RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    late timestamptz := day AT TIME ZONE zone;
BEGIN
    RETURN (SELECT min(late - d * interval '30 minutes')
        FROM generate_series(0, 4) AS d
        WHERE (late - d * interval '30 minutes') AT TIME ZONE zone
            = late AT TIME ZONE zone);
END
$$;

COMMENT ON FUNCTION day_start(timestamp, text) IS
    'When this day begins in a time zone';


-- Day 31 is the last day of a shorter month.

CREATE OR REPLACE FUNCTION period(zone text, anchor int, at timestamptz,
    OUT start timestamptz, OUT "end" timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    month   timestamp := date_trunc('month', at AT TIME ZONE zone);
    starts  timestamptz[];
BEGIN
    starts := ARRAY(SELECT day_start(least(m + (anchor - 1)
            * interval '1 day', m + interval '1 month' - interval '1 day'),
            zone)
        FROM generate_series(month - interval '1 month',
            month + interval '1 month', interval '1 month') AS m
        ORDER BY m);

    IF at < starts[2] THEN
        start := starts[1];
        "end" := starts[2];
    ELSE
        start := starts[2];
        "end" := starts[3];
    END IF;
END
$$;

COMMENT ON FUNCTION period(text, int, timestamptz) IS
    'The billing period at this moment, in a time zone with this anchor day';


-- A calendar is known by what it is.  Its last byte is its unit's, the one
-- before it the anchor day's, which only months have: so a node that has the
-- id of one unit has them all (src/keyring/row.c).

CREATE OR REPLACE FUNCTION calendar_id(zone text, anchor int, unit text)
RETURNS uuid
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN (left(md5(zone), 28)
        || lpad(to_hex(CASE unit WHEN 'month' THEN anchor ELSE 1 END), 2, '0')
        || CASE unit WHEN 'day' THEN '01' WHEN 'week' THEN '02' ELSE '03' END)
        ::uuid;
END
$$;

COMMENT ON FUNCTION calendar_id(text, int, text) IS
    'Id of the calendar of this time zone, anchor day and unit';


-- Two years ahead and two periods back: clocks differ.  Days that a zone has
-- left out are no periods.

CREATE OR REPLACE FUNCTION calendar_bounds(zone text, anchor int, unit text,
    at timestamptz)
RETURNS bigint[]
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    step   interval := ('1 ' || unit)::interval;
    first  timestamp := date_trunc(unit, at AT TIME ZONE zone) - 2 * step;
    n      int := CASE unit WHEN 'day' THEN 800 WHEN 'week' THEN 120
                  ELSE 36 END;
BEGIN
    RETURN ARRAY(SELECT DISTINCT extract(epoch FROM day_start(CASE unit
            WHEN 'month' THEN least(m + (anchor - 1) * interval '1 day',
                m + interval '1 month' - interval '1 day')
            ELSE m END, zone))::bigint * 1000000 AS b
        FROM generate_series(first, first + n * step, step) AS m
        ORDER BY b);
END
$$;

COMMENT ON FUNCTION calendar_bounds(text, int, text, timestamptz) IS
    'When days, weeks (from Monday) or months begin in a time zone, from'
    ' before this moment on';


-- Host bits are dropped, and an IPv4 network written inside IPv6 is IPv4:
-- the data plane compares network bits only, by family.

CREATE OR REPLACE FUNCTION read_network(value text)
RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    net inet;
BEGIN
    IF value !~ ('^((0|[1-9][0-9]{0,2})([.](0|[1-9][0-9]{0,2})){3}'
        '|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*)(/[0-9]{1,3})?$')
    THEN
        RETURN NULL;
    END IF;

    net := value::inet;

    IF net <<= inet '::ffff:0:0/96' THEN
        net := set_masklen(inet '0.0.0.0'
            + (set_masklen(net, 128) - inet '::ffff:0:0'), masklen(net) - 96);
    END IF;

    RETURN network(net)::text;

EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION read_network(text) IS
    'An address or network as canonical CIDR text, or null';


-- The one rule shared with src/base/rate.c: the smallest tick whose capacity
-- stays below 2^53.

CREATE OR REPLACE FUNCTION rate_form(tokens bigint, period_us bigint,
    burst bigint, OUT token bigint, OUT refill bigint, OUT capacity bigint,
    OUT tick bigint)
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    period  bigint;
    common  bigint;
    most    CONSTANT bigint := 9007199254740991;
BEGIN
    FOREACH tick IN ARRAY ARRAY[1, 1000, 1000000]::bigint[] LOOP
        CONTINUE WHEN period_us < 1 OR period_us % tick <> 0;

        period := period_us / tick;
        common := gcd(tokens, period);
        token := CASE WHEN tokens = 0 THEN 1 ELSE period / common END;
        refill := tokens / common;

        IF burst <= most / token AND refill <= most THEN
            capacity := burst * token;
            RETURN;
        END IF;
    END LOOP;

    token := NULL;
    refill := NULL;
    tick := NULL;
END
$$;

COMMENT ON FUNCTION rate_form(bigint, bigint, bigint) IS
    'Exact form of a rate (src/base/rate.h); all null: it has none';


CREATE OR REPLACE FUNCTION read_amount(value text, unit text)
RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN CASE unit WHEN 'cost' THEN read_money(value)
    ELSE value::numeric::bigint END;

COMMENT ON FUNCTION read_amount(text, text) IS
    'A checked amount in units, cost in nano-units';


CREATE OR REPLACE FUNCTION limit_kind(unit text, window_text text,
    rolling boolean)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN unit = 'concurrent' THEN 'concurrent'
    WHEN window_text IN ('day', 'week', 'month') THEN 'calendar'
    WHEN window_text = 'total' THEN 'total'
    WHEN rolling THEN 'rolling'
    ELSE 'bucket' END;

COMMENT ON FUNCTION limit_kind(text, text, boolean) IS
    'How a limit counts, in the words of src/base/limit.h';


-- A refill is no more than where credit.base lets the count begin.

CREATE OR REPLACE FUNCTION credit_base()
RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN 2251799813685248;

COMMENT ON FUNCTION credit_base() IS
    '2^51: what credit.used begins at, so that refills never take it below 0';


-- The two rules of src/base/pattern.h.

CREATE OR REPLACE FUNCTION pattern_covers(held text, wanted text)
RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN wanted LIKE replace(replace(replace(replace(held,
        '\', '\\'), '%', '\%'), '_', '\_'), '*', '%');

COMMENT ON FUNCTION pattern_covers(text, text) IS
    'Whether everything that pattern (or name) wanted covers is covered by'
    ' pattern held: * stands for any run of characters, wherever it stands';


CREATE OR REPLACE FUNCTION scope_covers(held text, wanted text)
RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN held <> '' AND wanted <> '' AND (held = wanted OR held = '*'
    OR (right(held, 2) = ':*' AND starts_with(wanted, left(held, -1))));

COMMENT ON FUNCTION scope_covers(text, text) IS
    'Whether a key that holds the one scope may do what needs the other:'
    ' * covers all, orders:* all that begins with orders:';

GRANT EXECUTE ON FUNCTION time_text(timestamptz), money_text(numeric),
    currency(), url_text(text), pointer_text(text), read_uuid(text),
    read_duration(text), read_time(text), read_network(text),
    rate_form(bigint, bigint, bigint), pattern_covers(text, text),
    scope_covers(text, text), read_money(text),
    period(text, int, timestamptz), calendar_id(text, int, text),
    calendar_bounds(text, int, text, timestamptz), day_start(timestamp, text),
    read_amount(text, text),
    limit_kind(text, text, boolean), credit_base() TO apikey_gateway;
GRANT EXECUTE ON FUNCTION time_text(timestamptz), money_text(numeric)
    TO apikey_reader;
