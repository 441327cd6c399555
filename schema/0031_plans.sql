--
-- Plans: templates of limits that owners and keys name.  What a plan's limits
-- do stands in limits_held() (0010_keyring.sql): its holders hold them
-- as if they were their own, under the same names and accounts, so a change
-- of plan refills nothing.
--
-- Whoever gives a plan to a holder holds a share of the plan's row until it
-- commits (check_plan), and whoever changes or deletes the plan locks it: so
-- that no holder is overlooked, and none is left with a plan that is gone.
--
-- All lock in one order: plans by name (share_plans), owners by id, keys by id,
-- then what belongs to those.
--

SET LOCAL client_min_messages = warning;
SET LOCAL ROLE apikey_owner;
SET LOCAL search_path = apikey, pg_temp;


-- A key and an owner see the plans they have.  A node may do what is due:
-- read owners, and give one its next plan.

ALTER TABLE plan ENABLE ROW LEVEL SECURITY;

DROP POLICY IF EXISTS operator_all ON plan;
DROP POLICY IF EXISTS operator_see ON plan;
DROP POLICY IF EXISTS own_see ON plan;
DROP POLICY IF EXISTS node_see ON plan;
DROP POLICY IF EXISTS node_share ON plan;
DROP POLICY IF EXISTS plan_see ON limit_rule;
DROP POLICY IF EXISTS node_see ON limit_rule;
DROP POLICY IF EXISTS node_see ON owner;
DROP POLICY IF EXISTS node_due ON owner;
DROP POLICY IF EXISTS node_add ON audit;

CREATE POLICY operator_all ON plan TO apikey_gateway
    USING ((SELECT caller()) = 'operator');
CREATE POLICY operator_see ON plan FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'operator_read');
CREATE POLICY own_see ON plan FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) IN ('key', 'owner')
        AND (external IN (SELECT o.plan FROM owner o
                          WHERE o.id = (SELECT caller_owner()))
             OR EXISTS (SELECT FROM key k
                        WHERE k.plan = external
                            AND (k.id = (SELECT caller_key())
                                 OR k.owner_id = (SELECT caller_owner())))));
CREATE POLICY node_see ON plan FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'node');
CREATE POLICY node_share ON plan FOR UPDATE TO apikey_gateway
    USING ((SELECT caller()) = 'node') WITH CHECK (false);

CREATE POLICY plan_see ON limit_rule FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) IN ('key', 'owner')
        AND plan_id IN (SELECT p.id FROM plan p));
CREATE POLICY node_see ON limit_rule FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'node');

CREATE POLICY node_see ON owner FOR SELECT TO apikey_gateway
    USING ((SELECT caller()) = 'node');
CREATE POLICY node_due ON owner FOR UPDATE TO apikey_gateway
    USING ((SELECT caller()) = 'node' AND plan_next_at <= now())
    WITH CHECK ((SELECT caller()) = 'node');
CREATE POLICY node_add ON audit FOR INSERT TO apikey_gateway
    WITH CHECK ((SELECT caller()) = 'node' AND actor_kind = 'node'
        AND object_kind = 'owner' AND action = 'update');

GRANT SELECT, INSERT, UPDATE, DELETE ON plan TO apikey_gateway;


-- A new version with every write of a plan; its holders change when its
-- limits do, once in a transaction.

CREATE OR REPLACE TRIGGER plan_version
    BEFORE INSERT OR UPDATE ON plan
    FOR EACH ROW EXECUTE FUNCTION row_version();

COMMENT ON TRIGGER plan_version ON plan IS 'A new version with every write';


CREATE OR REPLACE FUNCTION plan_limits_changed()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    changed  uuid := CASE TG_OP WHEN 'DELETE' THEN OLD.plan_id
                     ELSE NEW.plan_id END;
    told     text := coalesce(current_setting('apikey.plans', true), '');
    wanted   text;
BEGIN
    IF strpos(told, changed::text) > 0 THEN
        RETURN NULL;
    END IF;

    PERFORM set_config('apikey.plans', told || changed || ' ', true);

    UPDATE plan SET version = version WHERE id = changed
    RETURNING external INTO wanted;

    WITH holder AS MATERIALIZED (
        SELECT o.id FROM owner o
        WHERE o.plan = wanted AND o.deleted_at IS NULL
        ORDER BY o.id FOR NO KEY UPDATE)
    UPDATE owner o SET version = o.version FROM holder h WHERE o.id = h.id;

    WITH holder AS MATERIALIZED (
        SELECT k.id FROM key k
        WHERE k.plan = wanted AND k.revoked_at IS NULL
        ORDER BY k.id FOR NO KEY UPDATE)
    UPDATE key k SET version = k.version FROM holder h WHERE k.id = h.id;

    RETURN NULL;
END
$$;

COMMENT ON FUNCTION plan_limits_changed() IS
    'Trigger: a plan''s limits changed, so all that have it did';

CREATE OR REPLACE TRIGGER plan_holders
    AFTER INSERT OR UPDATE ON limit_rule
    FOR EACH ROW WHEN (NEW.plan_id IS NOT NULL)
    EXECUTE FUNCTION plan_limits_changed();

CREATE OR REPLACE TRIGGER plan_holders_left
    AFTER DELETE ON limit_rule
    FOR EACH ROW WHEN (OLD.plan_id IS NOT NULL)
    EXECUTE FUNCTION plan_limits_changed();

COMMENT ON TRIGGER plan_holders ON limit_rule IS
    'Who has the plan changes with its limits';
COMMENT ON TRIGGER plan_holders_left ON limit_rule IS
    'Who has the plan changes with its limits';


-- Before the row of who gets them is locked.

CREATE OR REPLACE FUNCTION share_plans(body jsonb)
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
BEGIN
    PERFORM 1 FROM plan
    WHERE external IN (body ->> 'plan', body ->> 'plan_next')
    ORDER BY external FOR SHARE;
END
$$;

COMMENT ON FUNCTION share_plans(jsonb) IS
    'Keeps the plans that a body names from being changed or deleted until the'
    ' transaction ends';


CREATE OR REPLACE FUNCTION check_plan(value jsonb, at text)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    t text := value #>> '{}';
BEGIN
    IF t IS NULL THEN
        RETURN '[]';
    ELSIF jsonb_typeof(value) <> 'string' THEN
        RETURN wrong(at, 'bad_type', 'a text is needed');
    END IF;

    PERFORM 1 FROM plan WHERE external = t FOR SHARE;

    RETURN CASE WHEN FOUND THEN jsonb '[]'
        ELSE wrong(at, 'not_found', 'there is no such plan') END;
END
$$;

COMMENT ON FUNCTION check_plan(jsonb, text) IS
    'A plan that is there, absent or null; an operator keeps it from being'
    ' changed or deleted until the transaction ends';


-- What a key that is made gets of its plan, else of its owner's, where nothing
-- is said; an owner hands on only what it has.

CREATE OR REPLACE FUNCTION plan_defaults(body jsonb)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    own  record := own_rights();
    p    plan;
BEGIN
    SELECT x.* INTO p FROM plan x
    WHERE x.external = coalesce(body ->> 'plan', (SELECT o.plan FROM owner o
        WHERE CASE WHEN caller() = 'owner' THEN o.id = caller_owner()
              ELSE o.external = body ->> 'owner' END));

    RETURN jsonb_strip_nulls(jsonb_build_object(
        'scopes', (SELECT jsonb_agg(s) FROM unnest(p.scopes) AS s
                   WHERE holds_scope(own.scopes, s)),
        'allowed_models', CASE WHEN own.models IS NULL
            THEN to_jsonb(p.allowed_models) END));
END
$$;

COMMENT ON FUNCTION plan_defaults(jsonb) IS
    'Members for the body of a new key that its plan gives';


-- What is due.  Called by every node's poll and before every call of the API,
-- so no job is needed.  It waits for nobody and never fails: whoever calls has
-- other things to do, and comes again.  Reports and exports, which may run
-- for an hour, are read-only: what they gave would be locked so long.

CREATE OR REPLACE FUNCTION plans_due()
RETURNS void
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    was     text := coalesce(current_setting('apikey.caller', true), '');
    o       owner;
    before  json;
BEGIN
    IF current_setting('transaction_read_only') = 'on' THEN
        RETURN;
    END IF;

    PERFORM set_config('apikey.caller', 'node', true);

    FOR o IN SELECT * FROM owner
        WHERE plan_next_at <= now()
        ORDER BY plan_next_at LIMIT 250 FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM 1 FROM plan WHERE external = o.plan_next
        FOR SHARE SKIP LOCKED;

        CONTINUE WHEN NOT FOUND;

        -- one that fails keeps no other from its own

        BEGIN
            before := owner_json(o);

            UPDATE owner SET plan = plan_next, plan_next = NULL,
                plan_next_at = NULL, updated_at = now()
            WHERE id = o.id;

            SELECT * INTO o FROM owner WHERE id = o.id;
            PERFORM write_audit('{"kind": "node", "name": "plan_next"}', '{}',
                'update', 'owner', o.id, before, owner_json(o));

        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'apikey.plans_due %: SQLSTATE %', o.id, SQLSTATE;
        END;
    END LOOP;

    PERFORM credits_due();
    PERFORM set_config('apikey.caller', was, true);

EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'apikey.plans_due: SQLSTATE %', SQLSTATE;
END
$$;

COMMENT ON FUNCTION plans_due() IS
    'Gives up to 250 owners the plan_next whose time has come, and as many'
    ' credits their refill';


-- The admin API's plans.

CREATE OR REPLACE FUNCTION plan_json(p plan)
RETURNS json
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
BEGIN
    RETURN (SELECT row_to_json(x) FROM (SELECT (p).external AS id, (p).name,
            limits_json(NULL, NULL, (p).id) AS limits, (p).scopes,
            (p).allowed_models, money_text((p).monthly_price) AS monthly_price,
            currency() AS currency, (p).upgrade_url,
            (SELECT count(*) FROM owner o
             WHERE o.plan = (p).external AND o.deleted_at IS NULL) AS owners,
            time_text((p).created_at) AS created_at,
            time_text((p).updated_at) AS updated_at) AS x);
END
$$;

COMMENT ON FUNCTION plan_json(plan) IS 'The plan object';


CREATE OR REPLACE FUNCTION check_plan_body(body jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN check_members(body, '', ARRAY['name', 'limits', 'scopes',
        'allowed_models', 'monthly_price', 'upgrade_url'],
        ARRAY['id', 'currency', 'owners', 'created_at', 'updated_at'])
    || check_text(body -> 'name', '/name', 255, NULL)
    || check_limits(body -> 'limits', '/limits')
    || check_scopes(body -> 'scopes', '/scopes')
    || check_models(body -> 'allowed_models', '/allowed_models')
    || check_money(body -> 'monthly_price', '/monthly_price')
    || check_url(body -> 'upgrade_url', '/upgrade_url');

COMMENT ON FUNCTION check_plan_body(jsonb) IS 'The body of a change of a plan';


CREATE OR REPLACE FUNCTION find_plan(req jsonb)
RETURNS plan
LANGUAGE plpgsql STABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    p plan;
BEGIN
    SELECT * INTO p FROM plan WHERE external = req #>> '{path,id}';

    IF NOT FOUND THEN
        PERFORM fail(404, 'not_found', 'There is no such plan.');
    END IF;

    RETURN p;
END
$$;

COMMENT ON FUNCTION find_plan(jsonb) IS
    'The plan of the path; 404 also for one that the caller may not see';


CREATE OR REPLACE FUNCTION api_plan_get(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    p plan;
BEGIN
    PERFORM allow('operator', 'operator_read', 'owner');
    p := find_plan(req);
    PERFORM fail_if(check_request(req));

    status := 200;
    headers := etag_line(p.version);
    body := plan_json(p);
END
$$;

COMMENT ON FUNCTION api_plan_get(jsonb, jsonb) IS 'GET plans/{id}';


CREATE OR REPLACE FUNCTION merge_plan(old plan, body jsonb)
RETURNS plan
LANGUAGE plpgsql IMMUTABLE
SET search_path = apikey, pg_temp
AS $$
DECLARE
    p plan := old;
BEGIN
    IF body ? 'name' THEN
        p.name := coalesce(body ->> 'name', p.external);
    END IF;

    IF body ? 'scopes' THEN
        p.scopes := ARRAY(SELECT jsonb_array_elements_text(
            coalesce(nullif(body -> 'scopes', 'null'), '[]')));
    END IF;

    IF body ? 'allowed_models' THEN
        p.allowed_models := CASE WHEN body -> 'allowed_models' <> 'null' THEN
            ARRAY(SELECT jsonb_array_elements_text(body -> 'allowed_models'))
            END;
    END IF;

    IF body ? 'monthly_price' THEN
        p.monthly_price := read_money(body ->> 'monthly_price');
    END IF;

    IF body ? 'upgrade_url' THEN
        p.upgrade_url := body ->> 'upgrade_url';
    END IF;

    RETURN p;
END
$$;

COMMENT ON FUNCTION merge_plan(plan, jsonb) IS
    'The row after a checked change: absent keeps, null clears';


-- The row stands and is locked; made: by this call.

CREATE OR REPLACE FUNCTION write_plan(who jsonb, req jsonb, old plan,
    made boolean, OUT status int, OUT headers text, OUT body text,
    OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    b       jsonb := req -> 'body';
    p       plan := merge_plan(old, b);
    before  json;
BEGIN
    IF NOT made THEN
        before := plan_json(old);
    END IF;

    IF b <> '{}' THEN
        UPDATE plan SET name = p.name, scopes = p.scopes,
            allowed_models = p.allowed_models,
            monthly_price = p.monthly_price, upgrade_url = p.upgrade_url,
            updated_at = now()
        WHERE id = p.id;

        IF b ? 'limits' THEN
            PERFORM put_limits(NULL, NULL, b -> 'limits', p.id);
            refresh := plan_refresh(p.external);
        END IF;
    END IF;

    SELECT * INTO p FROM plan WHERE id = p.id;

    IF made OR b <> '{}' THEN
        PERFORM write_audit(who, req,
            CASE WHEN made THEN 'create' ELSE 'update' END, 'plan', p.id,
            before, plan_json(p));
    END IF;

    status := CASE WHEN made THEN 201 ELSE 200 END;
    headers := CASE WHEN made THEN 'Location: ' || (req ->> 'base')
            || 'plans/' || p.external || E'\n' ELSE '' END
        || etag_line(p.version);
    body := plan_json(p);
END
$$;

COMMENT ON FUNCTION write_plan(jsonb, jsonb, plan, boolean) IS
    'Writes a checked body into a plan and answers with it';


CREATE OR REPLACE FUNCTION plan_refresh(wanted text)
RETURNS text
LANGUAGE sql STABLE
RETURN (SELECT string_agg(kind || ' ' || id || E'\n', '')
    FROM (SELECT 'owner' AS kind, id FROM owner
          WHERE plan = wanted AND deleted_at IS NULL
          UNION ALL
          SELECT 'key', id FROM key
          WHERE plan = wanted AND revoked_at IS NULL) AS h);

COMMENT ON FUNCTION plan_refresh(text) IS
    'What is to be refreshed when a plan''s limits have changed';


CREATE OR REPLACE FUNCTION api_plan_put(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    wanted  text := req #>> '{path,id}';
    p       plan;
    made    boolean := false;
BEGIN
    PERFORM allow('operator');

    SELECT * INTO p FROM plan WHERE external = wanted FOR UPDATE;

    PERFORM check_body(req);
    PERFORM fail_if(check_request(req) || check_plan_body(req -> 'body')
        || CASE WHEN wanted ~ '^[a-z0-9_-]{1,64}$' THEN jsonb '[]'
            ELSE wrong('/id', 'bad_value',
                '1 to 64 of a-z, 0-9, "_" and "-"') END);

    IF p.id IS NULL AND req ->> 'if_match' IS NULL THEN
        INSERT INTO plan (external, name) VALUES (wanted, wanted)
        ON CONFLICT (external) DO NOTHING;

        made := FOUND;

        SELECT * INTO p FROM plan WHERE external = wanted FOR UPDATE;

        IF NOT FOUND THEN
            RAISE serialization_failure;     -- deleted meanwhile: again
        END IF;
    END IF;

    PERFORM check_match(req, coalesce(p.version, -1));

    SELECT * INTO status, headers, body, refresh
    FROM write_plan(who, req, p, made);
END
$$;

COMMENT ON FUNCTION api_plan_put(jsonb, jsonb) IS 'PUT plans/{id}';


CREATE OR REPLACE FUNCTION lock_plan(req jsonb)
RETURNS plan
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    p plan := find_plan(req);
BEGIN
    SELECT * INTO p FROM plan WHERE id = p.id FOR UPDATE;
    p := coalesce(p, find_plan(req));
    PERFORM check_match(req, p.version);

    RETURN p;
END
$$;

COMMENT ON FUNCTION lock_plan(jsonb) IS
    'The plan of the path for a change, after If-Match';


CREATE OR REPLACE FUNCTION api_plan_update(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    p plan;
BEGIN
    PERFORM allow('operator');
    p := lock_plan(req);
    PERFORM check_body(req);
    PERFORM fail_if(check_request(req) || check_plan_body(req -> 'body'));

    SELECT * INTO status, headers, body, refresh
    FROM write_plan(who, req, p, false);
END
$$;

COMMENT ON FUNCTION api_plan_update(jsonb, jsonb) IS 'PATCH plans/{id}';


CREATE OR REPLACE FUNCTION api_plan_delete(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
AS $$
DECLARE
    p       plan;
    owners  bigint;
    keys    bigint;
BEGIN
    PERFORM allow('operator');
    p := lock_plan(req);
    PERFORM fail_if(check_request(req));

    SELECT count(*) INTO owners FROM owner
    WHERE p.external IN (plan, plan_next) AND deleted_at IS NULL;

    SELECT count(*) INTO keys FROM key
    WHERE plan = p.external AND revoked_at IS NULL;

    IF owners + keys > 0 THEN
        PERFORM fail(409, 'conflict', format('It is the plan of %s.',
            concat_ws(' and ',
                CASE owners WHEN 0 THEN NULL WHEN 1 THEN '1 owner'
                    ELSE owners || ' owners' END,
                CASE keys WHEN 0 THEN NULL WHEN 1 THEN '1 key'
                    ELSE keys || ' keys' END)));
    END IF;

    PERFORM write_audit(who, req, 'delete', 'plan', p.id, plan_json(p), NULL);

    DELETE FROM limit_rule WHERE plan_id = p.id;
    DELETE FROM plan WHERE id = p.id;

    status := 204;
END
$$;

COMMENT ON FUNCTION api_plan_delete(jsonb, jsonb) IS 'DELETE plans/{id}';


CREATE OR REPLACE FUNCTION api_plan_list(who jsonb, req jsonb,
    OUT status int, OUT headers text, OUT body text, OUT refresh text)
LANGUAGE plpgsql
SET search_path = apikey, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    sort  text := coalesce(query_value(req, 'sort'), 'id');
    q     text := quote_literal(lower(query_value(req, 'q')));
BEGIN
    PERFORM allow('operator', 'operator_read');
    PERFORM fail_if(check_request(req, 'q', 'sort', 'limit', 'cursor')
        || check_limit_query(req) || check_cursor(req)
        || CASE WHEN sort ~ '^-?(id|name|created_at)$' THEN jsonb '[]'
            ELSE wrong('query:sort', 'bad_value', 'id, name or created_at,'
                ' "-" before it for descending') END);

    status := 200;
    body := list_page(req, 'plan', 'plan_json',
        CASE WHEN q IS NULL THEN 'true'
            ELSE format('(strpos(x.external, %1$s) > 0'
                ' OR strpos(lower(x.name), %1$s) > 0)', q) END, sort,
        CASE ltrim(sort, '-') WHEN 'id' THEN 'x.external'
            ELSE 'x.' || ltrim(sort, '-') END,
        CASE ltrim(sort, '-') WHEN 'created_at' THEN 'timestamptz'
            ELSE 'text' END);
END
$$;

COMMENT ON FUNCTION api_plan_list(jsonb, jsonb) IS 'GET plans';

GRANT EXECUTE ON FUNCTION plan_limits_changed(), share_plans(jsonb),
    check_plan(jsonb, text),
    plan_defaults(jsonb), plans_due(), plan_json(plan), check_plan_body(jsonb), find_plan(jsonb),
    merge_plan(plan, jsonb), write_plan(jsonb, jsonb, plan, boolean),
    plan_refresh(text), lock_plan(jsonb), api_plan_get(jsonb, jsonb),
    api_plan_put(jsonb, jsonb), api_plan_update(jsonb, jsonb),
    api_plan_delete(jsonb, jsonb), api_plan_list(jsonb, jsonb)
    TO apikey_gateway;
