--
-- What a request may say: every check returns a JSON array of
-- {location, code, message}, empty when nothing is wrong, so that a caller is
-- told all wrong fields at once.  A value that is absent is SQL null, JSON
-- null is 'null'.
--

SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION wrong(location text, code text, message text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN jsonb_build_array(jsonb_build_object('location', location,
    'code', code, 'message', message));

COMMENT ON FUNCTION wrong(text, text, text) IS
    'One wrong field, as an array of one';


CREATE OR REPLACE FUNCTION check_members(body jsonb, at text, known text[],
    fixed text[])
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF body - known = '{}' THEN
        RETURN '[]';
    END IF;

    RETURN (SELECT jsonb_agg(wrong(at || '/' || pointer_text(m),
            CASE WHEN m = ANY (fixed) THEN 'read_only' ELSE 'unknown' END,
            CASE WHEN m = ANY (fixed) THEN 'this member cannot be set here'
                 ELSE 'there is no such member' END) -> 0 ORDER BY m)
        FROM jsonb_object_keys(body - known) AS m);
END
$$;

COMMENT ON FUNCTION check_members(jsonb, text, text[], text[]) IS
    'Members of an object that are not known; fixed: known, but not writable';


CREATE OR REPLACE FUNCTION check_text(value jsonb, at text, most int,
    message text)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    t text := value #>> '{}';
BEGIN
    CASE
        WHEN t IS NULL THEN
            RETURN CASE WHEN message IS NULL THEN jsonb '[]'
                ELSE wrong(at, 'required', message) END;
        WHEN jsonb_typeof(value) <> 'string' THEN
            RETURN wrong(at, 'bad_type', 'a text is needed');
        WHEN char_length(t) NOT BETWEEN 1 AND most THEN
            RETURN wrong(at, 'bad_length', format('1 to %s characters', most));
        WHEN t ~ '[\u0001-\u001f\u007f-\u009f]' THEN
            RETURN wrong(at, 'bad_value', 'no control characters');
        ELSE
            RETURN '[]';
    END CASE;
END
$$;

COMMENT ON FUNCTION check_text(jsonb, text, int, text) IS
    'A text of 1 to most characters; absent or null is wrong only with a'
    ' message to say then';


CREATE OR REPLACE FUNCTION check_boolean(value jsonb, at text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN value IS NULL OR jsonb_typeof(value) = 'boolean' THEN '[]'
    ELSE wrong(at, 'bad_type', 'true or false is needed') END;

COMMENT ON FUNCTION check_boolean(jsonb, text) IS
    'true, false, or absent; null is wrong';


CREATE OR REPLACE FUNCTION check_count(value jsonb, at text, message text)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    n numeric;
BEGIN
    IF value IS NULL OR jsonb_typeof(value) = 'null' THEN
        RETURN CASE WHEN message IS NULL THEN jsonb '[]'
            ELSE wrong(at, 'required', message) END;
    END IF;

    IF jsonb_typeof(value) <> 'number' THEN
        RETURN wrong(at, 'bad_type', 'a number is needed');
    END IF;

    n := value::numeric;

    IF n < 0 OR n > 9007199254740991 THEN
        RETURN wrong(at, 'out_of_range', '0 to 9007199254740991');
    ELSIF n <> trunc(n) THEN
        RETURN wrong(at, 'bad_value', 'a whole number is needed');
    END IF;

    RETURN '[]';
END
$$;

COMMENT ON FUNCTION check_count(jsonb, text, text) IS
    'A whole number from 0 to 2^53 - 1; absent or null is wrong only with a'
    ' message to say then';


CREATE OR REPLACE FUNCTION check_money(value jsonb, at text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN value IS NULL OR jsonb_typeof(value) = 'null' THEN jsonb '[]'
    WHEN jsonb_typeof(value) <> 'string'
        THEN wrong(at, 'bad_type', 'money is text such as "49.00"')
    WHEN value #>> '{}' ~ '^-?[0-9]{1,50}([.][0-9]{1,9})?$'
        AND (value #>> '{}')::numeric NOT BETWEEN 0 AND 9000000
        THEN wrong(at, 'out_of_range', '0.00 to 9000000.00')
    WHEN read_money(value #>> '{}') IS NULL
        THEN wrong(at, 'bad_value',
            'write digits and at most nine decimals, such as 49.00')
    ELSE '[]' END;

COMMENT ON FUNCTION check_money(jsonb, text) IS
    'Money as decimal text, absent or null';


CREATE OR REPLACE FUNCTION check_url(value jsonb, at text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN check_text(value, at, 2048, NULL) <> '[]'
        THEN check_text(value, at, 2048, NULL)
    WHEN value #>> '{}' !~ ('^https?://([^\s/?#@]*@)?'
            '(\[[^][\s/?#@]+\]|[^][\s/?#@:]+)(:[0-9]*)?([/?#]\S*)?$')
        THEN wrong(at, 'bad_value', 'write a URL such as https://example.com/')
    WHEN substring(value #>> '{}' FROM '^https?://[^/?#]*:([0-9]+)([/?#]|$)')
            ::numeric NOT BETWEEN 1 AND 65535
        THEN wrong(at, 'bad_value', 'its port must be 1 to 65535')
    ELSE '[]' END;

COMMENT ON FUNCTION check_url(jsonb, text) IS
    'An http or https URL, absent or null';


CREATE OR REPLACE FUNCTION check_zone(value jsonb, at text)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    t     text := value #>> '{}';
    near  text;
BEGIN
    IF t IS NULL OR t = 'UTC' THEN
        RETURN '[]';
    ELSIF jsonb_typeof(value) <> 'string' THEN
        RETURN wrong(at, 'bad_type', 'a text is needed');
    END IF;

    SELECT z.name INTO near FROM pg_timezone_names AS z
    WHERE lower(z.name) = lower(t) AND z.name !~ '^(posix|right)/|^posixrules$'
    ORDER BY z.name <> t LIMIT 1;

    RETURN CASE WHEN near = t THEN jsonb '[]'
        ELSE wrong(at, 'bad_value', coalesce('write ' || near,
            'write a name of the IANA time zone database such as'
            ' Europe/Berlin')) END;
END
$$;

COMMENT ON FUNCTION check_zone(jsonb, text) IS
    'A time zone of the IANA database, absent or null';


CREATE OR REPLACE FUNCTION check_anchor(value jsonb, at text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN check_count(value, at, NULL) <> '[]'
        THEN check_count(value, at, NULL)
    WHEN value <> 'null' AND value::numeric NOT BETWEEN 1 AND 31
        THEN wrong(at, 'out_of_range', '1 to 31')
    ELSE '[]' END;

COMMENT ON FUNCTION check_anchor(jsonb, text) IS
    'A day of the month, absent or null';


CREATE OR REPLACE FUNCTION check_scopes(value jsonb, at text)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF value IS NULL OR jsonb_typeof(value) = 'null' THEN
        RETURN '[]';
    ELSIF jsonb_typeof(value) <> 'array' THEN
        RETURN wrong(at, 'bad_type', 'an array of text is needed');
    ELSIF jsonb_array_length(value) > 1000 THEN
        RETURN wrong(at, 'too_many', 'at most 1000 scopes');
    END IF;

    RETURN (SELECT coalesce(jsonb_agg(CASE
            WHEN jsonb_typeof(v) <> 'string'
                THEN wrong(p, 'bad_type', 'a text is needed')
            WHEN char_length(t) NOT BETWEEN 1 AND 128
                THEN wrong(p, 'bad_length', '1 to 128 characters')
            ELSE wrong(p, 'bad_value', 'no blanks or control characters')
            END -> 0 ORDER BY i), '[]')
        FROM (SELECT v, v #>> '{}' AS t, i,
                  at || '/' || (i - 1) AS p
              FROM jsonb_array_elements(value) WITH ORDINALITY AS e (v, i)) x
        WHERE jsonb_typeof(v) <> 'string'
            OR char_length(t) NOT BETWEEN 1 AND 128
            OR t ~ '[\s\u0001-\u0020\u007f-\u009f]');
END
$$;

COMMENT ON FUNCTION check_scopes(jsonb, text) IS
    'An array of at most 1000 texts of 1 to 128 characters without blanks';


CREATE OR REPLACE FUNCTION check_models(value jsonb, at text)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF value IS NULL OR jsonb_typeof(value) = 'null' THEN
        RETURN '[]';
    ELSIF jsonb_typeof(value) <> 'array' THEN
        RETURN wrong(at, 'bad_type', 'an array of text is needed');
    ELSIF jsonb_array_length(value) > 1000 THEN
        RETURN wrong(at, 'too_many', 'at most 1000 models');
    END IF;

    RETURN (SELECT coalesce(jsonb_agg(e -> 0 ORDER BY i), '[]')
        FROM (SELECT i, check_text(v, at || '/' || (i - 1), 255,
                  'a text is needed') AS e
              FROM jsonb_array_elements(value) WITH ORDINALITY AS x (v, i)) y
        WHERE e <> '[]');
END
$$;

COMMENT ON FUNCTION check_models(jsonb, text) IS
    'An array of at most 1000 patterns of models, or null';


CREATE OR REPLACE FUNCTION check_networks(value jsonb, at text)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF value IS NULL OR jsonb_typeof(value) = 'null' THEN
        RETURN '[]';
    ELSIF jsonb_typeof(value) <> 'array' THEN
        RETURN wrong(at, 'bad_type', 'an array of text is needed');
    ELSIF jsonb_array_length(value) > 1000 THEN
        RETURN wrong(at, 'too_many', 'at most 1000 networks');
    END IF;

    RETURN (SELECT coalesce(jsonb_agg(CASE
            WHEN jsonb_typeof(v) <> 'string'
                THEN wrong(p, 'bad_type', 'a text is needed')
            ELSE wrong(p, 'bad_value', format(
                '"%s" is no address or network such as 203.0.113.0/24',
                left(v #>> '{}', 50)))
            END -> 0 ORDER BY i), '[]')
        FROM (SELECT v, i, at || '/' || (i - 1) AS p
              FROM jsonb_array_elements(value) WITH ORDINALITY AS e (v, i)) x
        WHERE jsonb_typeof(v) <> 'string' OR read_network(v #>> '{}') IS NULL);
END
$$;

COMMENT ON FUNCTION check_networks(jsonb, text) IS
    'An array of at most 1000 addresses or networks, or null';


CREATE OR REPLACE FUNCTION merge_metadata(old jsonb, new jsonb)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF new IS NULL THEN
        RETURN old;
    ELSIF jsonb_typeof(new) = 'null' THEN
        RETURN '{}';
    END IF;

    RETURN (old || new) - ARRAY(SELECT m.key FROM jsonb_each(new) AS m
                                WHERE m.value = 'null');
END
$$;

COMMENT ON FUNCTION merge_metadata(jsonb, jsonb) IS
    'old after a change: absent keeps, null clears, members are merged';


-- What a client counts is JSON without blanks; ours has one behind each colon
-- and comma, at most half as many as there are other characters.

CREATE OR REPLACE FUNCTION metadata_fits(value jsonb)
RETURNS boolean
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    t text := value::text;
BEGIN
    RETURN octet_length(t) <= 8192 OR octet_length(t) <= 12288
        AND octet_length(regexp_replace(t, '("(?:[^"\\]|\\.)*")|\s', '\1',
            'g')) <= 8192;
END
$$;

COMMENT ON FUNCTION metadata_fits(jsonb) IS
    'Whether it has at most 8 KiB as compact JSON';


CREATE OR REPLACE FUNCTION check_metadata(value jsonb, at text, old jsonb)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF value IS NULL OR jsonb_typeof(value) = 'null' THEN
        RETURN '[]';
    ELSIF jsonb_typeof(value) <> 'object' THEN
        RETURN wrong(at, 'bad_type', 'an object is needed');
    ELSIF NOT metadata_fits(merge_metadata(old, value)) THEN
        RETURN wrong(at, 'bad_length', 'at most 8 KiB of JSON');
    END IF;

    RETURN '[]';
END
$$;

COMMENT ON FUNCTION check_metadata(jsonb, text, jsonb) IS
    'An object that keeps the holder''s metadata within 8 KiB';


CREATE OR REPLACE FUNCTION check_future(value jsonb, at text)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    t timestamptz := read_time(value #>> '{}');
BEGIN
    IF value IS NULL OR jsonb_typeof(value) = 'null' THEN
        RETURN '[]';
    ELSIF jsonb_typeof(value) <> 'string' THEN
        RETURN wrong(at, 'bad_type', 'a time as text is needed');
    ELSIF t IS NULL THEN
        RETURN wrong(at, 'bad_value',
            'write a time such as 2027-01-01T00:00:00Z');
    ELSIF t <= now() THEN
        RETURN wrong(at, 'out_of_range', 'this time is over');
    END IF;

    RETURN '[]';
END
$$;

COMMENT ON FUNCTION check_future(jsonb, text) IS
    'A time to come, or null';


GRANT EXECUTE ON FUNCTION wrong(text, text, text),
    check_members(jsonb, text, text[], text[]),
    check_text(jsonb, text, int, text), check_boolean(jsonb, text),
    check_count(jsonb, text, text),
    check_scopes(jsonb, text), check_networks(jsonb, text),
    merge_metadata(jsonb, jsonb), metadata_fits(jsonb), check_metadata(jsonb, text, jsonb),
    check_future(jsonb, text), check_models(jsonb, text),
    check_money(jsonb, text),
    check_url(jsonb, text), check_zone(jsonb, text),
    check_anchor(jsonb, text) TO apikey_gateway;
