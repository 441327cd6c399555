--
-- Prices and models: the admin API's, and what brings prices to the nodes.
-- Which price is the most specific is said once, in the order of the view
-- keyring_prices; nodes take the first that covers a request.
--

SET LOCAL client_min_messages = warning;
SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


CREATE OR REPLACE FUNCTION prices_changed()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    UPDATE price_list SET version = version;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION prices_changed() IS
    'Trigger: the nodes are to load the prices again';

CREATE OR REPLACE TRIGGER keyring_version
    BEFORE UPDATE ON price_list
    FOR EACH ROW EXECUTE FUNCTION row_version();
CREATE OR REPLACE TRIGGER keyring_insert
    AFTER INSERT ON price_list REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION row_changed('prices');
CREATE OR REPLACE TRIGGER keyring_update
    AFTER UPDATE ON price_list
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION row_changed('prices');
CREATE OR REPLACE TRIGGER prices_changed
    AFTER INSERT OR UPDATE OR DELETE ON price
    FOR EACH STATEMENT EXECUTE FUNCTION prices_changed();

COMMENT ON TRIGGER keyring_version ON price_list IS
    'The version of the transaction';
COMMENT ON TRIGGER keyring_insert ON price_list IS 'Change log and NOTIFY';
COMMENT ON TRIGGER keyring_update ON price_list IS 'Change log and NOTIFY';
COMMENT ON TRIGGER prices_changed ON price IS
    'The price list changes with it';

INSERT INTO price_list (id) VALUES ('00000000-0000-8000-8000-707269636573')
ON CONFLICT DO NOTHING;


-- What a version was stays, whatever becomes of the price: records name it.

CREATE TABLE IF NOT EXISTS price_history (
    version        bigint       PRIMARY KEY,
    id             uuid         NOT NULL,
    service        text,
    model          text,
    plan           text,
    valid_from     timestamptz  NOT NULL,
    input_per_1m   bigint,
    output_per_1m  bigint,
    cached_per_1m  bigint,
    per_request    bigint       NOT NULL,
    created_at     timestamptz  NOT NULL,
    made_at        timestamptz  NOT NULL DEFAULT now()
);

COMMENT ON TABLE price_history IS
    'All that prices have ever been: usage records say which, as'
    ' price_version';
COMMENT ON COLUMN price_history.id IS 'Of the price';
COMMENT ON COLUMN price_history.input_per_1m IS
    'Nano-units for a million tokens, as in price';
COMMENT ON COLUMN price_history.created_at IS 'When the price was made';
COMMENT ON COLUMN price_history.made_at IS 'When it became so';

GRANT SELECT, INSERT ON price_history TO apikey_gateway;

CREATE OR REPLACE FUNCTION price_versioned()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    INSERT INTO price_history (version, id, service, model, plan, valid_from,
        input_per_1m, output_per_1m, cached_per_1m, per_request, created_at)
    VALUES (NEW.version, NEW.id, NEW.service, NEW.model, NEW.plan,
        NEW.valid_from, NEW.input_per_1m, NEW.output_per_1m,
        NEW.cached_per_1m, NEW.per_request, NEW.created_at)
    ON CONFLICT DO NOTHING;

    RETURN NULL;
END
$$;

COMMENT ON FUNCTION price_versioned() IS 'Trigger: keeps what a price is now';

CREATE OR REPLACE TRIGGER price_versioned
    AFTER INSERT OR UPDATE ON price
    FOR EACH ROW EXECUTE FUNCTION price_versioned();
CREATE OR REPLACE TRIGGER never_changed
    BEFORE UPDATE OR DELETE ON price_history
    FOR EACH ROW EXECUTE FUNCTION never_changed();

COMMENT ON TRIGGER price_versioned ON price IS
    'Each version stays in price_history';
COMMENT ON TRIGGER never_changed ON price_history IS 'Rows stay as they are';

INSERT INTO price_history (version, id, service, model, plan, valid_from,
    input_per_1m, output_per_1m, cached_per_1m, per_request, created_at)
SELECT version, id, service, model, plan, valid_from, input_per_1m,
    output_per_1m, cached_per_1m, per_request, created_at
FROM price
ON CONFLICT DO NOTHING;


CREATE OR REPLACE FUNCTION prices_json(p price)
RETURNS json
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN (SELECT row_to_json(x) FROM (SELECT currency() AS currency,
        money_text((p).input_per_1m) AS input_per_1m,
        money_text((p).output_per_1m) AS output_per_1m,
        money_text((p).cached_per_1m) AS cached_per_1m,
        money_text((p).per_request) AS per_request) AS x);

COMMENT ON FUNCTION prices_json(price) IS 'The amounts of a price';


CREATE OR REPLACE FUNCTION price_json(p price)
RETURNS json
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN (SELECT row_to_json(x) FROM (SELECT (p).id, (p).service, (p).model,
        (p).plan, time_text((p).valid_from) AS valid_from,
        currency() AS currency,
        money_text((p).input_per_1m) AS input_per_1m,
        money_text((p).output_per_1m) AS output_per_1m,
        money_text((p).cached_per_1m) AS cached_per_1m,
        money_text((p).per_request) AS per_request,
        time_text((p).created_at) AS created_at) AS x);

COMMENT ON FUNCTION price_json(price) IS 'The price object';


CREATE OR REPLACE FUNCTION check_price_body(body jsonb)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN check_members(body, '', ARRAY['service', 'model', 'plan',
        'valid_from', 'input_per_1m', 'output_per_1m', 'cached_per_1m',
        'per_request'], ARRAY['id', 'currency', 'created_at'])
    || check_text(body -> 'service', '/service', 255, NULL)
    || check_text(body -> 'model', '/model', 255, NULL)
    || check_plan(body -> 'plan', '/plan')
    || CASE
        WHEN body -> 'valid_from' IS NULL OR body -> 'valid_from' = 'null'
            THEN jsonb '[]'
        WHEN jsonb_typeof(body -> 'valid_from') <> 'string'
            THEN wrong('/valid_from', 'bad_type', 'a time is needed')
        WHEN read_time(body ->> 'valid_from') IS NULL
            THEN wrong('/valid_from', 'bad_value',
                'write a time such as 2026-11-01T00:00:00Z')
        ELSE '[]' END
    || check_money(body -> 'input_per_1m', '/input_per_1m')
    || check_money(body -> 'output_per_1m', '/output_per_1m')
    || check_money(body -> 'cached_per_1m', '/cached_per_1m')
    || check_money(body -> 'per_request', '/per_request');

COMMENT ON FUNCTION check_price_body(jsonb) IS
    'The body of a price, or of a change of one';


CREATE OR REPLACE FUNCTION check_price_new(body jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = apikey, pg_temp
RETURN CASE WHEN EXISTS (SELECT FROM unnest('{input_per_1m,output_per_1m,'
            'cached_per_1m,per_request}'::text[]) AS m
        WHERE coalesce(body -> m, 'null') <> 'null')
    THEN jsonb '[]'
    ELSE wrong('/input_per_1m', 'required', 'say what something costs: this,'
        ' output_per_1m, cached_per_1m or per_request') END;

COMMENT ON FUNCTION check_price_new(jsonb) IS 'A price of nothing is none';


CREATE OR REPLACE FUNCTION merge_price(old price, body jsonb)
RETURNS price
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    p price := old;
BEGIN
    IF body ? 'service' THEN
        p.service := body ->> 'service';
    END IF;

    IF body ? 'model' THEN
        p.model := body ->> 'model';
    END IF;

    IF body ? 'plan' THEN
        p.plan := body ->> 'plan';
    END IF;

    IF body ? 'valid_from' THEN
        p.valid_from := coalesce(read_time(body ->> 'valid_from'), now());
    END IF;

    IF body ? 'input_per_1m' THEN
        p.input_per_1m := read_money(body ->> 'input_per_1m');
    END IF;

    IF body ? 'output_per_1m' THEN
        p.output_per_1m := read_money(body ->> 'output_per_1m');
    END IF;

    IF body ? 'cached_per_1m' THEN
        p.cached_per_1m := read_money(body ->> 'cached_per_1m');
    END IF;

    IF body ? 'per_request' THEN
        p.per_request := coalesce(read_money(body ->> 'per_request'), 0);
    END IF;

    RETURN p;
END
$$;

COMMENT ON FUNCTION merge_price(price, jsonb) IS
    'The row after a checked change: absent keeps, null clears';


CREATE OR REPLACE FUNCTION find_price(req jsonb, lock boolean)
RETURNS price
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    p price;
BEGIN
    SELECT * INTO p FROM price
    WHERE id = read_uuid(req #>> '{path,id}') AND deleted_at IS NULL;

    IF FOUND AND lock THEN
        SELECT * INTO p FROM price
        WHERE id = p.id AND deleted_at IS NULL FOR UPDATE;
    END IF;

    IF NOT FOUND THEN
        PERFORM fail(404, 'not_found', 'There is no such price.');
    END IF;

    IF lock THEN
        PERFORM check_match(req, p.version);
    END IF;

    RETURN p;
END
$$;

COMMENT ON FUNCTION find_price(jsonb, boolean) IS
    'The price of the path; lock: for a change, after If-Match';


CREATE OR REPLACE FUNCTION price_refresh()
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN E'owner 00000000-0000-8000-8000-707269636573\n';

COMMENT ON FUNCTION price_refresh() IS
    'What is to be refreshed when a price has changed; a node asks for'
    ' owners and prices alike';


CREATE OR REPLACE FUNCTION api_price_create(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    p price;
BEGIN
    PERFORM allow('operator');
    PERFORM check_body(req);
    PERFORM fail_if(check_request(req) || check_price_body(req -> 'body')
        || check_price_new(req -> 'body'));

    IF (SELECT count(*) >= 5000 FROM price WHERE deleted_at IS NULL) THEN
        PERFORM fail(409, 'conflict', 'There are 5000 prices: delete some.');
    END IF;

    p.valid_from := now();
    p.per_request := 0;
    p := merge_price(p, req -> 'body');

    INSERT INTO price (service, model, plan, valid_from, input_per_1m,
        output_per_1m, cached_per_1m, per_request)
    VALUES (p.service, p.model, p.plan, p.valid_from, p.input_per_1m,
        p.output_per_1m, p.cached_per_1m, p.per_request)
    RETURNING * INTO p;

    PERFORM write_audit(who, req, 'create', 'price', p.id, NULL,
        price_json(p));

    status := 201;
    headers := 'Location: ' || (req ->> 'base') || 'prices/' || p.id || E'\n'
        || etag_line(p.version);
    body := price_json(p);
    refresh := price_refresh();
END
$$;

COMMENT ON FUNCTION api_price_create(jsonb, jsonb) IS 'POST prices';


CREATE OR REPLACE FUNCTION api_price_get(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    p price;
BEGIN
    PERFORM allow('operator', 'operator_read');
    p := find_price(req, false);
    PERFORM fail_if(check_request(req));

    status := 200;
    headers := etag_line(p.version);
    body := price_json(p);
END
$$;

COMMENT ON FUNCTION api_price_get(jsonb, jsonb) IS 'GET prices/{id}';


CREATE OR REPLACE FUNCTION api_price_update(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    p       price;
    before  json;
BEGIN
    PERFORM allow('operator');
    p := find_price(req, true);
    PERFORM check_body(req);
    PERFORM fail_if(check_request(req) || check_price_body(req -> 'body'));

    IF req -> 'body' <> '{}' THEN
        before := price_json(p);
        p := merge_price(p, req -> 'body');

        -- per_request is 0 where nobody said so, too

        PERFORM fail_if(check_price_new(to_jsonb(p) || jsonb_build_object(
                'per_request', coalesce(nullif(req #> '{body,per_request}',
                    'null'), to_jsonb(nullif(p.per_request, 0))))))
        WHERE EXISTS (SELECT FROM jsonb_each(req -> 'body') AS m
            WHERE m.key ~ '_per_1m$|^per_request$' AND m.value = 'null');

        UPDATE price SET service = p.service, model = p.model, plan = p.plan,
            valid_from = p.valid_from, input_per_1m = p.input_per_1m,
            output_per_1m = p.output_per_1m, cached_per_1m = p.cached_per_1m,
            per_request = p.per_request, version = nextval('apikey.version')
        WHERE id = p.id
        RETURNING * INTO p;

        PERFORM write_audit(who, req, 'update', 'price', p.id, before,
            price_json(p));
        refresh := price_refresh();
    END IF;

    status := 200;
    headers := etag_line(p.version);
    body := price_json(p);
END
$$;

COMMENT ON FUNCTION api_price_update(jsonb, jsonb) IS
    'PATCH prices/{id}: requests from now on; records keep what they cost';


CREATE OR REPLACE FUNCTION api_price_delete(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    p price;
BEGIN
    PERFORM allow('operator');
    p := find_price(req, true);
    PERFORM fail_if(check_request(req));

    UPDATE price SET deleted_at = now() WHERE id = p.id;

    PERFORM write_audit(who, req, 'delete', 'price', p.id, price_json(p),
        NULL);

    status := 204;
    refresh := price_refresh();
END
$$;

COMMENT ON FUNCTION api_price_delete(jsonb, jsonb) IS 'DELETE prices/{id}';


-- With "version": the price as it was then, also one that was deleted.

CREATE OR REPLACE FUNCTION api_price_list(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    size   int;
    after  uuid := '00000000-0000-0000-0000-000000000000';
    which  text := query_value(req, 'version');
    page   price[];
    more   boolean;
BEGIN
    PERFORM allow('operator', 'operator_read');
    PERFORM fail_if(check_request(req, 'service', 'model', 'plan', 'version',
            'limit', 'cursor')
        || CASE WHEN which !~ '^(0|[1-9][0-9]{0,17})$'
            THEN wrong('query:version', 'bad_type',
                'a whole number is needed')
            ELSE '[]' END
        || check_limit_query(req) || check_cursor(req));

    size := coalesce(query_value(req, 'limit'), '50')::int;

    IF query_value(req, 'cursor') IS NOT NULL THEN
        after := (read_cursor(req) ->> 'i')::uuid;
    END IF;

    SELECT array_agg(x.p ORDER BY (x.p).id) INTO page
    FROM (SELECT z.p
          FROM (SELECT p FROM price p
                WHERE which IS NULL AND p.deleted_at IS NULL
                UNION ALL
                SELECT jsonb_populate_record(NULL::price, to_jsonb(v))
                FROM price_history v WHERE v.version = which::bigint)
                    AS z (p)
          WHERE (z.p).id > after
              AND (query_value(req, 'service') IS NULL
                   OR (z.p).service = query_value(req, 'service'))
              AND (query_value(req, 'model') IS NULL
                   OR (z.p).model = query_value(req, 'model'))
              AND (query_value(req, 'plan') IS NULL
                   OR (z.p).plan = query_value(req, 'plan'))
          ORDER BY (z.p).id LIMIT size + 1) AS x;

    more := coalesce(cardinality(page) > size, false);

    status := 200;
    body := (SELECT row_to_json(x) FROM (SELECT
            coalesce((SELECT array_to_json(array_agg(price_json(page[n])
                    ORDER BY n))
                FROM generate_subscripts(page[:size], 1) AS n), '[]') AS data,
            more AS has_more,
            CASE WHEN more THEN write_cursor(req, '', page[size].id) END
                AS next_cursor) AS x);
END
$$;

COMMENT ON FUNCTION api_price_list(jsonb, jsonb) IS
    'GET prices; version=: what one was';


-- Models.  Their prices are those of any service, on the caller's plan.

CREATE OR REPLACE FUNCTION price_of(model text, plan text)
RETURNS price
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN (SELECT p FROM price p
    WHERE p.deleted_at IS NULL AND p.valid_from <= now()
        AND p.service IS NULL
        AND (p.plan IS NULL OR p.plan = price_of.plan)
        AND (p.model IS NULL OR pattern_covers(p.model, price_of.model))
    ORDER BY p.plan IS NULL, pattern_rank(p.model) DESC, p.valid_from DESC,
        p.id DESC
    LIMIT 1);

COMMENT ON FUNCTION price_of(text, text) IS
    'The price of a model in a service without prices of its own, now';


CREATE OR REPLACE FUNCTION caller_plan()
RETURNS text
LANGUAGE sql STABLE
SET search_path = apikey, pg_temp
RETURN coalesce((SELECT k.plan FROM key k WHERE k.id = caller_key()),
    (SELECT o.plan FROM owner o WHERE o.id = caller_owner()));

COMMENT ON FUNCTION caller_plan() IS
    'The plan of the calling key, or of its owner';


CREATE OR REPLACE FUNCTION model_json(m model)
RETURNS json
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    p price := price_of((m).external, caller_plan());
BEGIN
    RETURN (SELECT row_to_json(x) FROM (SELECT (m).external AS id, (m).name,
            (m).capabilities, (m).context_length,
            CASE WHEN p.id IS NOT NULL THEN prices_json(p) END AS pricing)
        AS x);
END
$$;

COMMENT ON FUNCTION model_json(model) IS 'The model object';


CREATE OR REPLACE FUNCTION check_capabilities(value jsonb)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    IF value IS NULL OR jsonb_typeof(value) = 'null' THEN
        RETURN '[]';
    ELSIF jsonb_typeof(value) <> 'array' THEN
        RETURN wrong('/capabilities', 'bad_type',
            'an array of text is needed');
    ELSIF jsonb_array_length(value) > 100 THEN
        RETURN wrong('/capabilities', 'too_many', 'at most 100');
    END IF;

    RETURN (SELECT coalesce(jsonb_agg(e -> 0 ORDER BY i), '[]')
        FROM (SELECT i, check_text(v, '/capabilities/' || (i - 1), 64,
                  'a text is needed') AS e
              FROM jsonb_array_elements(value) WITH ORDINALITY AS x (v, i)) y
        WHERE e <> '[]');
END
$$;

COMMENT ON FUNCTION check_capabilities(jsonb) IS
    'An array of short texts, or null';


CREATE OR REPLACE FUNCTION check_model_body(body jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = apikey, pg_temp
RETURN check_members(body, '', ARRAY['name', 'capabilities',
        'context_length'], ARRAY['id', 'pricing', 'created_at', 'updated_at'])
    || check_text(body -> 'name', '/name', 255, NULL)
    || check_capabilities(body -> 'capabilities')
    || CASE
        WHEN body -> 'context_length' IS NULL
            OR body -> 'context_length' = 'null' THEN jsonb '[]'
        WHEN jsonb_typeof(body -> 'context_length') <> 'number'
            THEN wrong('/context_length', 'bad_type', 'a number is needed')
        WHEN (body ->> 'context_length')::numeric NOT BETWEEN 0 AND 1e12
            OR (body ->> 'context_length')::numeric % 1 <> 0
            THEN wrong('/context_length', 'out_of_range',
                'a whole number from 0 on')
        ELSE '[]' END;

COMMENT ON FUNCTION check_model_body(jsonb) IS
    'The body of a change of a model';


CREATE OR REPLACE FUNCTION find_model(req jsonb, lock boolean)
RETURNS model
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    m model;
BEGIN
    SELECT * INTO m FROM model WHERE external = req #>> '{path,id}';

    IF FOUND AND lock THEN
        SELECT * INTO m FROM model WHERE id = m.id FOR UPDATE;
    END IF;

    IF NOT FOUND THEN
        PERFORM fail(404, 'not_found', 'There is no such model.');
    END IF;

    IF lock THEN
        PERFORM check_match(req, m.version);
    END IF;

    RETURN m;
END
$$;

COMMENT ON FUNCTION find_model(jsonb, boolean) IS
    'The model of the path; lock: for a change, after If-Match';


CREATE OR REPLACE FUNCTION write_model(who jsonb, req jsonb, old model,
    made boolean, OUT status int, OUT headers text, OUT body text,
    OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    b       jsonb := req -> 'body';
    m       model := old;
    before  json := CASE WHEN NOT made THEN model_json(old) END;
BEGIN
    IF b <> '{}' THEN
        UPDATE model SET
            name = CASE WHEN b ? 'name' THEN coalesce(b ->> 'name', external)
                ELSE name END,
            capabilities = CASE WHEN b ? 'capabilities'
                THEN ARRAY(SELECT jsonb_array_elements_text(coalesce(
                    nullif(b -> 'capabilities', 'null'), '[]')))
                ELSE capabilities END,
            context_length = CASE WHEN b ? 'context_length'
                THEN (b ->> 'context_length')::numeric::bigint
                ELSE context_length END,
            updated_at = now(), version = nextval('apikey.version')
        WHERE id = old.id
        RETURNING * INTO m;
    END IF;

    IF made OR b <> '{}' THEN
        PERFORM write_audit(who, req,
            CASE WHEN made THEN 'create' ELSE 'update' END, 'model', m.id,
            before, model_json(m));
    END IF;

    status := CASE WHEN made THEN 201 ELSE 200 END;
    headers := CASE WHEN made THEN 'Location: ' || (req ->> 'base')
            || 'models/' || url_text(m.external) || E'\n' ELSE '' END
        || etag_line(m.version);
    body := model_json(m);
END
$$;

COMMENT ON FUNCTION write_model(jsonb, jsonb, model, boolean) IS
    'Writes a checked body into a model and answers with it';


CREATE OR REPLACE FUNCTION api_model_get(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    m model;
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner', 'key');
    m := find_model(req, false);
    PERFORM fail_if(check_request(req));

    status := 200;
    headers := etag_line(m.version);
    body := model_json(m);
END
$$;

COMMENT ON FUNCTION api_model_get(jsonb, jsonb) IS 'GET models/{id}';


CREATE OR REPLACE FUNCTION api_model_put(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    wanted  text := req #>> '{path,id}';
    m       model;
    made    boolean := false;
BEGIN
    PERFORM allow('operator');

    SELECT * INTO m FROM model WHERE external = wanted FOR UPDATE;

    PERFORM check_body(req);
    PERFORM fail_if(check_request(req) || check_model_body(req -> 'body')
        || check_text(to_jsonb(wanted), '/id', 255, 'a name is needed'));

    IF m.id IS NULL AND req ->> 'if_match' IS NULL THEN
        INSERT INTO model (external, name) VALUES (wanted, wanted)
        ON CONFLICT (external) DO NOTHING;

        made := FOUND;

        SELECT * INTO m FROM model WHERE external = wanted FOR UPDATE;

        IF NOT FOUND THEN
            RAISE serialization_failure;     -- deleted meanwhile: again
        END IF;
    END IF;

    PERFORM check_match(req, coalesce(m.version, -1));

    SELECT * INTO status, headers, body, refresh
    FROM write_model(who, req, m, made);
END
$$;

COMMENT ON FUNCTION api_model_put(jsonb, jsonb) IS 'PUT models/{id}';


CREATE OR REPLACE FUNCTION api_model_update(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    m model;
BEGIN
    PERFORM allow('operator');
    m := find_model(req, true);
    PERFORM check_body(req);
    PERFORM fail_if(check_request(req) || check_model_body(req -> 'body'));

    SELECT * INTO status, headers, body, refresh
    FROM write_model(who, req, m, false);
END
$$;

COMMENT ON FUNCTION api_model_update(jsonb, jsonb) IS 'PATCH models/{id}';


CREATE OR REPLACE FUNCTION api_model_delete(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    m model;
BEGIN
    PERFORM allow('operator');
    m := find_model(req, true);
    PERFORM fail_if(check_request(req));

    PERFORM write_audit(who, req, 'delete', 'model', m.id, model_json(m),
        NULL);

    DELETE FROM model WHERE id = m.id;

    status := 204;
END
$$;

COMMENT ON FUNCTION api_model_delete(jsonb, jsonb) IS 'DELETE models/{id}';


CREATE OR REPLACE FUNCTION api_model_list(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    size   int;
    after  text := '';
    page   model[];
    more   boolean;
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner', 'key');
    PERFORM fail_if(check_request(req, 'limit', 'cursor')
        || check_limit_query(req) || check_cursor(req));

    size := coalesce(query_value(req, 'limit'), '50')::int;

    IF query_value(req, 'cursor') IS NOT NULL THEN
        after := read_cursor(req) ->> 'k';
    END IF;

    SELECT array_agg(x.m ORDER BY (x.m).external) INTO page
    FROM (SELECT m FROM model m WHERE m.external > after
          ORDER BY m.external LIMIT size + 1) AS x;

    more := coalesce(cardinality(page) > size, false);

    status := 200;
    body := (SELECT row_to_json(x) FROM (SELECT
            coalesce((SELECT array_to_json(array_agg(model_json(page[n])
                    ORDER BY n))
                FROM generate_subscripts(page[:size], 1) AS n), '[]') AS data,
            more AS has_more,
            CASE WHEN more THEN write_cursor(req, page[size].external,
                page[size].id) END AS next_cursor) AS x);
END
$$;

COMMENT ON FUNCTION api_model_list(jsonb, jsonb) IS 'GET models';

GRANT EXECUTE ON FUNCTION prices_changed(), prices_json(price),
    price_json(price), price_versioned(), check_price_body(jsonb),
    check_price_new(jsonb), merge_price(price, jsonb),
    find_price(jsonb, boolean), price_refresh(),
    api_price_create(jsonb, jsonb), api_price_get(jsonb, jsonb),
    api_price_update(jsonb, jsonb), api_price_delete(jsonb, jsonb),
    api_price_list(jsonb, jsonb), price_of(text, text), caller_plan(),
    model_json(model), check_capabilities(jsonb), check_model_body(jsonb),
    find_model(jsonb, boolean), write_model(jsonb, jsonb, model, boolean),
    api_model_get(jsonb, jsonb), api_model_put(jsonb, jsonb),
    api_model_update(jsonb, jsonb), api_model_delete(jsonb, jsonb),
    api_model_list(jsonb, jsonb) TO apikey_gateway;
